/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What a stream may ask for is limited by the side that loads it, and checked before it counts. */
#include <unistd.h>

#include "rig.h"

static struct bytes some_stream(const struct vfiomig_save_options *options, int blobs,
                                size_t blob_len, int restarts)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    uint8_t *blob = calloc(1, blob_len + 1);
    CHECK(blob);
    OK(vfiomig_save_begin(rig.dev, options, &save));
    for (int i = 0; i < restarts; i++) {
        EQ(read_until(save, &stream, 1 << 18, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
        OK(vfiomig_device_reset(rig.dev));
    }
    EQ(read_until(save, &stream, 1 << 18, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    for (int i = 0; i < blobs; i++) {
        OK(vfiomig_save_add_blob(save, 1, blob, blob_len));
        EQ(read_until(save, &stream, 1 << 21, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    }
    OK(vfiomig_save_stop(save));
    EQ(read_until(save, &stream, 1 << 18, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    vfiomig_save_free(save);
    rig_free(&rig);
    free(blob);
    return stream;
}

static int load(const struct bytes *stream, struct vfiomig_load_options options)
{
    struct rig to = rig_target(NULL);
    struct vfiomig_load *load;
    options.blob = take_any_blob;
    OK(vfiomig_load_begin(to.dev, &options, &load));
    int r = push_all(load, stream, 3000);
    if (r > 0)
        r = vfiomig_load_commit(load);
    if (r < 0)
        EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_load_free(load);
    rig_free(&to);
    return r;
}

static struct vfiomig_load_options with(void)
{
    struct vfiomig_load_options o = VFIOMIG_LOAD_OPTIONS_INIT;
    return o;
}

static void length_of_a_frame(void)
{
    struct vfiomig_save_options save = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_load_options options = with();
    save.max_frame = 10000;
    struct bytes stream = some_stream(&save, 0, 0, 0);
    options.max_frame = 9999;
    EQ(load(&stream, options), -EMSGSIZE);
    options.max_frame = 10000;
    EQ(load(&stream, options), 0);
    bytes_free(&stream);
}

static size_t resident(void)
{
    unsigned long all = 0, pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file && fscanf(file, "%lu %lu", &all, &pages) == 2);
    fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* The next bytes of the stream, through the library's memory if that is asked for. */
static size_t take_some(struct vfiomig_load *load, const struct bytes *in, size_t at, size_t most,
                        int in_space)
{
    size_t len = in->len - at < most ? in->len - at : most;
    void *space;
    size_t room;
    if (!in_space) {
        CHECK(vfiomig_load_push(load, in->data + at, len) >= 0);
        return len;
    }
    OK(vfiomig_load_get_space(load, &space, &room));
    len = len < room ? len : room;
    memcpy(space, in->data + at, len);
    CHECK(vfiomig_load_push_received(load, len) >= 0);
    return len;
}

/* A frame of 96 MiB, of which little has come, takes little memory; then it is accepted as a
 * whole. */
static void a_frame_takes_memory_as_it_comes(void)
{
    enum { STATE = 96 << 20, LITTLE = 300000, ENOUGH = 24 << 20 };
    struct vfiomig_sim_options sim = rig_options();
    struct vfiomig_save_options save_options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_load_options options = with();
    struct bytes stream = { NULL, 0, 0 };
    sim.state_size = STATE;
    save_options.max_frame = options.max_frame = 1 << 30;
    struct rig from = rig_new(&sim, NULL);
    struct vfiomig_save *save = save_all(from.dev, &save_options, STATE + (1 << 20), &stream);
    vfiomig_save_free(save);
    for (int in_space = 0; in_space < 2; in_space++) {
        struct rig to = rig_target(&sim);
        struct vfiomig_load *load;
        size_t before = resident(), at = 0;
        OK(vfiomig_load_begin(to.dev, &options, &load));
        while (at < LITTLE)
            at += take_some(load, &stream, at, 1000, in_space);
#ifndef __SANITIZE_ADDRESS__ /* which keeps what is freed */
        CHECK(resident() < before + ENOUGH);
#else
        CHECK(before > 0);
#endif
        while (at < stream.len)
            at += take_some(load, &stream, at, 1 << 20, in_space);
        OK(vfiomig_load_commit(load));
        vfiomig_load_free(load);
        rig_free(&to);
    }
    bytes_free(&stream);
    rig_free(&from);
}

static void length_of_a_blob(void)
{
    struct bytes stream = some_stream(NULL, 1, 5000, 0);
    struct vfiomig_load_options options = with();
    options.max_blob = 4999;
    EQ(load(&stream, options), -EMSGSIZE);
    options.max_blob = 5000;
    EQ(load(&stream, options), 0);
    bytes_free(&stream);
}

static void number_of_blobs(void)
{
    struct bytes stream = some_stream(NULL, 4, 10, 0);
    struct vfiomig_load_options options = with();
    options.max_blobs = 3;
    EQ(load(&stream, options), -EMSGSIZE);
    options.max_blobs = 4;
    EQ(load(&stream, options), 0);
    bytes_free(&stream);
}

static void number_of_restarts(void)
{
    struct bytes stream = some_stream(NULL, 0, 0, 3);
    struct vfiomig_load_options options = with();
    options.max_restarts = 2;
    EQ(load(&stream, options), -EMSGSIZE);
    options.max_restarts = 3;
    EQ(load(&stream, options), 0);
    bytes_free(&stream);
}

static void data_in_all(void)
{
    struct bytes stream = some_stream(NULL, 0, 0, 0);
    struct vfiomig_load_options options = with();
    options.max_total = SOME_SIZE - 1;
    EQ(load(&stream, options), -EMSGSIZE);
    options.max_total = stream.len;
    EQ(load(&stream, options), 0);
    bytes_free(&stream);
}

/* The same limits in the structure that all sessions share; what the options set themselves wins. */
static void one_structure_for_all_sessions(void)
{
    struct vfiomig_save_options save = VFIOMIG_SAVE_OPTIONS_INIT;
    save.max_frame = 10000;
    struct bytes blobs = some_stream(&save, 4, 5000, 0), again = some_stream(NULL, 0, 0, 3);
    for (int i = 0; i < 10; i++) {
        struct vfiomig_limits limits = VFIOMIG_LIMITS_INIT;
        struct vfiomig_load_options options = with();
        const struct bytes *stream = &blobs;
        int wanted = i % 2 ? 0 : -EMSGSIZE;
        options.limits = &limits;
        EQ(load(stream, options), 0);
        switch (i / 2) {
        case 0: limits.max_frame = 9999; options.max_frame = i % 2 ? 10000 : 0; break;
        case 1: limits.max_blob = 4999; options.max_blob = i % 2 ? 5000 : 0; break;
        case 2: limits.max_blobs = 3; options.max_blobs = i % 2 ? 4 : 0; break;
        case 3: limits.max_total = SOME_SIZE - 1; options.max_total = i % 2 ? 1 << 20 : 0; break;
        case 4:
            stream = &again;
            limits.max_restarts = 2;
            options.max_restarts = i % 2 ? 3 : 0;
            break;
        }
        EQ(load(stream, options), wanted);
    }
    /* What only the structure has. The identity, four blobs, a mark and the end are no data. */
    struct vfiomig_limits limits = VFIOMIG_LIMITS_INIT;
    struct vfiomig_load_options options = with();
    options.limits = &limits;
    limits.max_other_frames = 4;
    EQ(load(&blobs, options), -EMSGSIZE);
    limits.max_other_frames = 7;
    EQ(load(&blobs, options), 0);
    bytes_free(&blobs);
    bytes_free(&again);
}

static void limits_that_cannot_be(void)
{
    struct rig rig = rig_new(NULL, NULL);
    for (int i = 0; i < 6; i++) {
        struct vfiomig_limits limits = VFIOMIG_LIMITS_INIT;
        struct vfiomig_load_options loading = with();
        struct vfiomig_save_options saving = VFIOMIG_SAVE_OPTIONS_INIT;
        struct vfiomig_load *load;
        struct vfiomig_save *save;
        loading.limits = saving.limits = &limits;
        switch (i) {
        case 0: limits.struct_size = 3; break;
        case 1: limits.reserved = 1; break;
        case 2: limits.max_memory = (4 << 20) - 1; break;
        case 3: limits.max_memory = 1; break;
        case 4: limits.max_blob = UINT32_MAX; break;
        case 5: limits.max_frame = (1u << 30) + 1; break;
        }
        EQ(vfiomig_load_begin(rig.dev, &loading, &load), -EINVAL);
        if (i < 4)
            EQ(vfiomig_save_begin(rig.dev, &saving, &save), -EINVAL);
    }
    rig_free(&rig);
}

/* A save makes frames that its target takes, and refuses what its target would. */
static void a_save_stays_within_the_limits(void)
{
    struct vfiomig_limits limits = VFIOMIG_LIMITS_INIT;
    struct vfiomig_save_options saving = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_load_options loading = with();
    static const uint8_t blob[3000];
    saving.limits = loading.limits = &limits;
    limits.max_frame = 5000;
    struct bytes stream = some_stream(&saving, 0, 0, 0);
    EQ(load(&stream, loading), 0);
    loading.max_frame = 4999;
    EQ(load(&stream, loading), -EMSGSIZE);
    bytes_free(&stream);

    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_save *save;
    limits.max_blob = 2999;
    limits.max_blobs = 1;
    limits.max_total = 100000;
    OK(vfiomig_save_begin(rig.dev, &saving, &save));
    EQ(vfiomig_save_add_blob(save, 1, blob, 3000), -EMSGSIZE);
    OK(vfiomig_save_add_blob(save, 1, blob, 2999));
    EQ(vfiomig_save_add_blob(save, 1, blob, 1), -EMSGSIZE);
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_stop(save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), -EMSGSIZE);
    OK(vfiomig_save_get_failure(save, &failure));
    EQ(failure.code, -EMSGSIZE);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_save_free(save);
    bytes_free(&stream);
    rig_free(&rig);
}

/* A source that sends a byte now and then; that the driver is slow is not its fault. */
static void a_source_that_trickles_ends_the_load(void)
{
    struct vfiomig_limits limits = VFIOMIG_LIMITS_INIT;
    struct vfiomig_load_options options = with();
    struct bytes stream = some_stream(NULL, 0, 0, 0);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct rig to = rig_target(NULL);
    struct vfiomig_load *load;
    int ms = 0, r = 0, calls = 0;
    options.limits = &limits;
    limits.progress_timeout_ms = 200;
    limits.progress_bytes = 1000;
    OK(vfiomig_load_begin(to.dev, &options, &load));
    EQ(vfiomig_load_get_deadline(load, NULL), -EFAULT);
    OK(vfiomig_load_get_deadline(load, &ms));
    CHECK(ms > 0 && ms <= 200);
    while (r >= 0 && calls < 1000) {
        usleep(2000);
        r = vfiomig_load_push(load, stream.data + calls++, 1);
    }
    EQ(r, -ETIMEDOUT);
    OK(vfiomig_load_get_failure(load, &failure));
    EQ(failure.operation, VFIOMIG_OP_STREAM);
    EQ(failure.outcome, VFIOMIG_OUTCOME_RESET);
    OK(vfiomig_load_get_deadline(load, &ms));
    EQ(ms, -1);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_load_free(load);
    rig_free(&to);
    bytes_free(&stream);
}

static void another_device_of_the_same_vm(void)
{
    struct vfiomig_save_options save = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_load_options options = with();
    save.device_index = 3;
    struct bytes stream = some_stream(&save, 0, 0, 0);
    EQ(load(&stream, options), 0); /* only where it is asked for */
    options.flags = VFIOMIG_LOAD_CHECK_DEVICE_INDEX;
    options.device_index = 2;
    EQ(load(&stream, options), -EXDEV);
    options.device_index = 3;
    EQ(load(&stream, options), 0);
    bytes_free(&stream);
}

static void another_session(void)
{
    struct vfiomig_save_options save = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_load_options options = with();
    memset(save.migration_id, 7, sizeof save.migration_id);
    struct bytes stream = some_stream(&save, 0, 0, 0);
    memset(options.migration_id, 8, sizeof options.migration_id);
    EQ(load(&stream, options), 0);
    options.flags = VFIOMIG_LOAD_CHECK_MIGRATION_ID;
    EQ(load(&stream, options), -EXDEV);
    memset(options.migration_id, 7, sizeof options.migration_id);
    EQ(load(&stream, options), 0);
    bytes_free(&stream);
}

/* A session that the caller does not name gets a name of its own. */
static void sessions_have_different_names(void)
{
    struct bytes a = some_stream(NULL, 0, 0, 0), b = some_stream(NULL, 0, 0, 0);
    CHECK(a.len == b.len && memcmp(a.data, b.data, a.len) != 0);
    bytes_free(&a);
    bytes_free(&b);
}

static void a_cut_stream_is_not_committed(void)
{
    struct bytes stream = some_stream(NULL, 0, 0, 0);
    struct bytes cut = stream;
    static const size_t missing[] = { 1, 20, 100, 5000 };
    for (int i = 0; i < 4; i++) {
        struct rig to = rig_target(NULL);
        struct vfiomig_load *load;
        cut.len = stream.len - missing[i];
        OK(vfiomig_load_begin(to.dev, NULL, &load));
        CHECK(push_all(load, &cut, SIZE_MAX) >= 0);
        EQ(vfiomig_load_commit(load), -ENODATA);
        EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
        vfiomig_load_free(load);
        rig_free(&to);
    }
    bytes_free(&stream);
}

static void bytes_after_the_end_are_refused(void)
{
    struct bytes stream = some_stream(NULL, 0, 0, 0);
    bytes_add(&stream, "x", 1);
    EQ(load(&stream, with()), -EPROTO);
    bytes_free(&stream);
}

/* Every byte counts: no single flipped bit goes unnoticed, and none reaches a commit. */
static void any_flipped_bit_is_found(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.state_size = 3000;
    struct rig from = rig_new(&o, NULL);
    struct bytes stream = stream_of(from.dev);
    size_t step = getenv("VFIOMIG_TEST_SLOW") ? 37 : 1;
    for (size_t at = 0; at < stream.len; at += step) {
        struct rig to = rig_target(&o);
        struct vfiomig_load *load;
        stream.data[at] ^= (uint8_t)(1u << at % 8);
        OK(vfiomig_load_begin(to.dev, NULL, &load));
        int r = push_all(load, &stream, SIZE_MAX);
        if (r >= 0)
            r = vfiomig_load_commit(load);
        if (r >= 0)
            FAIL("a flipped bit in byte %zu went unnoticed", at);
        vfiomig_load_free(load);
        rig_free(&to);
        stream.data[at] ^= (uint8_t)(1u << at % 8);
    }
    rig_free(&from);
    bytes_free(&stream);
}

int main(void)
{
    RUN(length_of_a_frame);
    RUN(a_frame_takes_memory_as_it_comes);
    RUN(length_of_a_blob);
    RUN(number_of_blobs);
    RUN(number_of_restarts);
    RUN(data_in_all);
    RUN(one_structure_for_all_sessions);
    RUN(limits_that_cannot_be);
    RUN(a_save_stays_within_the_limits);
    RUN(a_source_that_trickles_ends_the_load);
    RUN(another_device_of_the_same_vm);
    RUN(another_session);
    RUN(sessions_have_different_names);
    RUN(a_cut_stream_is_not_committed);
    RUN(bytes_after_the_end_are_refused);
    RUN(any_flipped_bit_is_found);
    return DONE();
}
