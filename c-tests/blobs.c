/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The VMM's own data travels with the stream: in order, whole, and only if it is wanted. */
#include "rig.h"

struct seen {
    int count;
    uint32_t kinds[600];
    size_t lens[600];
    uint64_t sums[600];
    uint64_t written[600]; /* what the driver had been given by then */
    struct vfiomig_sim *sim;
    int refuse_at, refuse_with;
};

static uint64_t sum_of(const void *data, size_t len)
{
    uint64_t sum = 5381;
    for (size_t i = 0; i < len; i++)
        sum = sum * 33 + ((const uint8_t *)data)[i];
    return sum;
}

static int take(void *opaque, uint32_t kind, const void *data, size_t len)
{
    struct seen *seen = opaque;
    int i = seen->count++;
    if (i < 600) {
        seen->kinds[i] = kind;
        seen->lens[i] = len;
        seen->sums[i] = sum_of(data, len);
        seen->written[i] = vfiomig_sim_bytes_written(seen->sim);
    }
    return seen->count == seen->refuse_at ? seen->refuse_with : 0;
}

/* A load that gives its blobs to take(). */
static struct vfiomig_load *load_seen(struct seen *seen, struct rig *to)
{
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_load *load;
    seen->sim = to->sim;
    options.blob = take;
    options.blob_opaque = seen;
    OK(vfiomig_load_begin(to->dev, &options, &load));
    return load;
}

static uint8_t pattern[(1 << 20) + 1];

/* Two blobs while the guest runs, three when it has stopped. */
static struct bytes stream_with_blobs(struct vfiomig_device *dev, size_t cap)
{
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(dev, NULL, &save));
    OK(vfiomig_save_add_blob(save, 7, pattern, 10));
    EQ(read_until(save, &stream, cap, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_add_blob(save, 8, NULL, 0));
    OK(vfiomig_save_stop(save));
    OK(vfiomig_save_add_blob(save, 7, pattern + 3, 256));
    OK(vfiomig_save_add_blob(save, UINT32_MAX, pattern, 4000));
    OK(vfiomig_save_add_blob(save, 0, pattern + 9, 1));
    EQ(read_until(save, &stream, cap, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    vfiomig_save_free(save);
    return stream;
}

static void they_arrive_in_order_with_kind_and_contents(void)
{
    static const struct { uint32_t kind; size_t at, len; } want[] = {
        { 7, 0, 10 }, { 8, 0, 0 }, { 7, 3, 256 }, { UINT32_MAX, 0, 4000 }, { 0, 9, 1 },
    };
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    static const size_t pieces[] = { 1, 777, SIZE_MAX };
    for (int p = 0; p < 3; p++) {
        struct bytes stream = stream_with_blobs(from.dev, VFIOMIG_MIN_BUFFER << p);
        struct seen seen = { 0 };
        struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
        struct vfiomig_load *load = load_seen(&seen, &to);
        CHECK(push_all(load, &stream, pieces[p]) & VFIOMIG_PUSH_END);
        EQ(seen.count, 5);
        for (int i = 0; i < 5; i++) {
            EQ(seen.kinds[i], want[i].kind);
            EQ(seen.lens[i], want[i].len);
            CHECK(seen.sums[i] == sum_of(pattern + want[i].at, want[i].len));
        }
        OK(vfiomig_load_get_stats(load, &stats));
        EQ(stats.blobs, 5);
        OK(vfiomig_load_commit(load));
        vfiomig_load_free(load);
        bytes_free(&stream);
    }
    rig_free(&from);
    rig_free(&to);
}

static void a_blob_comes_behind_all_data_that_was_returned_before_it(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct seen seen = { 0 };
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    uint64_t written = vfiomig_sim_bytes_written(to.sim);
    OK(vfiomig_save_begin(from.dev, NULL, &save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    uint64_t read = vfiomig_sim_bytes_read(from.sim);
    CHECK(read > 0);
    OK(vfiomig_save_add_blob(save, 1, pattern, 100));
    OK(vfiomig_save_stop(save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    struct vfiomig_load *load = load_seen(&seen, &to);
    CHECK(push_all(load, &stream, 100) & VFIOMIG_PUSH_END);
    EQ(seen.count, 1);
    EQ(seen.written[0] - written, read);
    vfiomig_load_free(load);
    vfiomig_save_free(save);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void without_a_callback_the_stream_is_refused(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_with_blobs(from.dev, 8192);
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    EQ(push_all(load, &stream, 1000), -EOPNOTSUPP);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_load_free(load);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void a_callback_can_refuse_with_its_own_code(void)
{
    static const struct { int says, becomes; } cases[] = {
        { -EPERM, -EPERM }, { -EPROTO, -EPROTO }, { -EDOM, -EIO }, { INT32_MIN, -EIO },
        { -EAGAIN, -EIO }, { -EBUSY, -EIO }, { -ENOTRECOVERABLE, -EIO },
    };
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_with_blobs(from.dev, 8192);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct seen seen = { .refuse_at = 2, .refuse_with = cases[i].says };
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        struct vfiomig_load *load = load_seen(&seen, &to);
        EQ(push_all(load, &stream, 1000), cases[i].becomes);
        EQ(seen.count, 2); /* and none after it */
        OK(vfiomig_load_get_failure(load, &failure));
        EQ(failure.operation, VFIOMIG_OP_CALLBACK);
        EQ(failure.code, cases[i].becomes);
        EQ(failure.outcome, VFIOMIG_OUTCOME_RESET);
        vfiomig_load_free(load);
    }
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void a_large_blob_asks_for_a_large_buffer_and_nothing_is_lost(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct seen seen = { 0 };
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(from.dev, NULL, &save));
    EQ(read_until(save, &stream, VFIOMIG_MIN_BUFFER, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_add_blob(save, 1, pattern, 1 << 20));
    EQ(read_until(save, &stream, VFIOMIG_MIN_BUFFER, VFIOMIG_NEXT_DRAINED), -ENOSPC);
    EQ(read_until(save, &stream, (1 << 20) + 39, VFIOMIG_NEXT_DRAINED), -ENOSPC);
    EQ(read_until(save, &stream, (1 << 20) + 40, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    EQ(vfiomig_save_add_blob(save, 1, pattern, (1 << 20) + 1), -EMSGSIZE);
    EQ(vfiomig_save_add_blob(save, 1, NULL, 1), -EFAULT);
    OK(vfiomig_save_stop(save));
    EQ(read_until(save, &stream, VFIOMIG_MIN_BUFFER, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    EQ(vfiomig_save_add_blob(save, 1, pattern, 1), -EINVAL);
    struct vfiomig_load *load = load_seen(&seen, &to);
    CHECK(push_all(load, &stream, 60000) & VFIOMIG_PUSH_END);
    EQ(seen.count, 1);
    EQ(seen.lens[0], 1 << 20);
    CHECK(seen.sums[0] == sum_of(pattern, 1 << 20));
    vfiomig_load_free(load);
    vfiomig_save_free(save);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

/* The caller may change or free its copy at once. */
static void the_data_is_copied(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct seen seen = { 0 };
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    uint8_t *mine = malloc(100);
    CHECK(mine);
    memset(mine, 1, 100);
    uint64_t sum = sum_of(mine, 100);
    OK(vfiomig_save_begin(from.dev, NULL, &save));
    OK(vfiomig_save_add_blob(save, 1, mine, 100));
    memset(mine, 2, 100);
    free(mine);
    OK(vfiomig_save_stop(save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    struct vfiomig_load *load = load_seen(&seen, &to);
    CHECK(push_all(load, &stream, SIZE_MAX) & VFIOMIG_PUSH_END);
    EQ(seen.count, 1);
    CHECK(seen.sums[0] == sum);
    vfiomig_load_free(load);
    vfiomig_save_free(save);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

/* It described the device before the reset, like those that had been sent. */
static void a_blob_that_was_not_sent_before_a_reset_is_dropped(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct seen seen = { 0 };
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(from.dev, NULL, &save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_add_blob(save, 1, pattern, 100));
    OK(vfiomig_device_reset(from.dev));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_add_blob(save, 2, pattern, 200));
    OK(vfiomig_save_stop(save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    struct vfiomig_load *load = load_seen(&seen, &to);
    CHECK(push_all(load, &stream, SIZE_MAX) & VFIOMIG_PUSH_END);
    EQ(seen.count, 1);
    EQ(seen.kinds[0], 2);
    vfiomig_load_free(load);
    vfiomig_save_free(save);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

int main(void)
{
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (uint8_t)(i * 7 + (i >> 8));
    RUN(they_arrive_in_order_with_kind_and_contents);
    RUN(a_blob_comes_behind_all_data_that_was_returned_before_it);
    RUN(without_a_callback_the_stream_is_refused);
    RUN(a_callback_can_refuse_with_its_own_code);
    RUN(a_large_blob_asks_for_a_large_buffer_and_nothing_is_lost);
    RUN(the_data_is_copied);
    RUN(a_blob_that_was_not_sent_before_a_reset_is_dropped);
    return DONE();
}
