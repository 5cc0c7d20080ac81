/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What is saved from one device is what another one holds after the load. */
#include "rig.h"

/* From a device with these options to another of its kind, in pieces of these sizes. */
static void move(const struct vfiomig_sim_options *options, size_t buffer, size_t piece)
{
    struct rig from = rig_new(options, NULL), to = rig_target(options);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_load *load;
    uint64_t before = vfiomig_sim_digest(from.sim);
    CHECK(vfiomig_sim_digest(to.sim) != before);

    struct vfiomig_save *save = save_all(from.dev, NULL, buffer, &stream);
    EQ(vfiomig_sim_state(from.sim), VFIOMIG_STATE_STOP_COPY);
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RESUMING);
    CHECK(push_all(load, &stream, piece) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_STOP);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
    EQ(vfiomig_sim_state(from.sim), VFIOMIG_STATE_STOP);
    OK(vfiomig_device_run(to.dev));
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    CHECK(vfiomig_sim_digest(to.sim) == before);
    CHECK(vfiomig_sim_digest(from.sim) == before);

    struct vfiomig_save_stats saved = VFIOMIG_SAVE_STATS_INIT;
    struct vfiomig_load_stats loaded = VFIOMIG_LOAD_STATS_INIT;
    OK(vfiomig_save_get_stats(save, &saved));
    OK(vfiomig_load_get_stats(load, &loaded));
    EQ(saved.stream_bytes, stream.len);
    EQ(loaded.stream_bytes, stream.len);
    EQ(loaded.data_bytes, saved.data_bytes);
    EQ(loaded.frames, saved.frames);
    EQ(saved.data_bytes, vfiomig_sim_bytes_read(from.sim));
    EQ(loaded.data_bytes, vfiomig_sim_bytes_written(to.sim));
    vfiomig_save_free(save);
    vfiomig_load_free(load);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void whole_frames(void)
{
    move(NULL, VFIOMIG_GOOD_BUFFER, SIZE_MAX);
}

static void smallest_buffer(void)
{
    move(NULL, VFIOMIG_MIN_BUFFER, SIZE_MAX);
}

static void pushed_byte_by_byte(void)
{
    move(NULL, 10000, 1);
}

static void pushed_in_odd_pieces(void)
{
    move(NULL, 65536, 31);
    move(NULL, 65536, 4099);
}

static void every_kind_of_device(void)
{
    static const uint32_t flags[] = { 1, 3, 5, 7 };
    for (int i = 0; i < 4; i++) {
        struct vfiomig_sim_options o = rig_options();
        o.migration_flags = flags[i];
        move(&o, 50000, 50000);
    }
}

static void every_size(void)
{
    static const uint64_t sizes[] = { 1, 2, 255, 4096, 65537, 9u << 20 };
    for (int i = 0; i < 6; i++) {
        struct vfiomig_sim_options o = rig_options();
        o.state_size = sizes[i];
        move(&o, 1 << 20, 77777);
    }
}

static void short_reads_and_writes_and_interruptions(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.max_read = 700;
    o.max_write = 900;
    o.eintr_every = 3;
    move(&o, 20000, 20000);
}

static void drivers_that_deviate(void)
{
    static const uint64_t quirks[] = {
        VFIOMIG_SIM_DRAINED_ZERO, VFIOMIG_SIM_SIZE_UNDER, VFIOMIG_SIM_SIZE_OVER,
        VFIOMIG_SIM_SIZE_NEGATIVE, VFIOMIG_SIM_SIZE_ENOTTY, VFIOMIG_SIM_FALSE_END,
        VFIOMIG_SIM_P2P_INFO_EINVAL, VFIOMIG_SIM_FLAGS_ECHO, VFIOMIG_SIM_WRITE_EAGAIN,
        VFIOMIG_SIM_PRECOPY_INFO_V2, VFIOMIG_SIM_FUTURE, VFIOMIG_SIM_STOP_ACCEPTS_ALL,
        VFIOMIG_SIM_ILLEGAL_IS_FATAL, VFIOMIG_SIM_NO_RESET,
    };
    for (size_t i = 0; i < sizeof quirks / sizeof *quirks; i++) {
        struct vfiomig_sim_options o = rig_options();
        o.quirks = quirks[i];
        move(&o, 30000, 30000);
    }
}

/* The state that arrives is the final one, not the one that pre-copy saw. */
static void what_changes_during_pre_copy_arrives(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    uint64_t before = vfiomig_sim_digest(from.sim);
    OK(vfiomig_save_begin(from.dev, NULL, &save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    EQ(vfiomig_sim_guest_write(from.sim, 1000, 100000, 77), 0);
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    EQ(vfiomig_sim_guest_write(from.sim, 0, 5000, 78), 0);
    OK(vfiomig_save_stop(save));
    uint64_t last = vfiomig_sim_digest(from.sim);
    CHECK(last != before);
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    CHECK(push_all(load, &stream, 5000) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    CHECK(vfiomig_sim_digest(to.sim) == last);
    vfiomig_save_free(save);
    vfiomig_load_free(load);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void received_into_the_librarys_memory(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_load *load;
    int r = 0;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    for (size_t at = 0, turn = 0; at < stream.len && !(r & VFIOMIG_PUSH_END); turn++) {
        void *space = NULL;
        size_t room = 0, len = stream.len - at;
        OK(vfiomig_load_get_space(load, &space, &room));
        CHECK(space && room > 0);
        if (turn % 3 == 1) /* a socket delivers what it has */
            len = len < 1000 ? len : 1000;
        len = len < room ? len : room;
        memcpy(space, stream.data + at, len);
        at += len;
        r = vfiomig_load_push_received(load, len);
        CHECK(r >= 0);
    }
    CHECK(r & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    CHECK(vfiomig_sim_digest(to.sim) == vfiomig_sim_digest(from.sim));
    vfiomig_load_free(load);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void more_than_there_was_room_for_is_refused(void)
{
    struct rig to = rig_target(NULL);
    struct vfiomig_load *load;
    void *space;
    size_t room;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    OK(vfiomig_load_get_space(load, &space, &room));
    EQ(vfiomig_load_push_received(load, room + 1), -EINVAL);
    vfiomig_load_free(load);
    rig_free(&to);
}

static void without_pre_copy_although_the_device_has_it(void)
{
    struct rig from = rig_new(NULL, NULL);
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct bytes stream = { NULL, 0, 0 };
    options.flags = VFIOMIG_SAVE_NO_PRE_COPY;
    struct vfiomig_save *save = save_all(from.dev, &options, 8192, &stream);
    struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
    OK(vfiomig_save_get_stats(save, &stats));
    EQ(stats.precopy_bytes, 0);
    CHECK(stats.data_bytes >= SOME_SIZE);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    EQ(vfiomig_sim_state(from.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_save_free(save);
    rig_free(&from);
    bytes_free(&stream);
}

/* Even beyond what the library says it wrote, nothing but the caller's buffer is touched. */
static void nothing_is_written_beyond_the_buffer(void)
{
    struct rig from = rig_new(NULL, NULL);
    struct vfiomig_save *save;
    enum { CAP = 5000, GUARD = 64 };
    static uint8_t buf[CAP + GUARD];
    int r;
    OK(vfiomig_save_begin(from.dev, NULL, &save));
    do {
        size_t len;
        memset(buf + CAP, 0xa5, GUARD);
        r = vfiomig_save_next(save, buf, CAP, &len);
        CHECK(r >= 0 && len <= CAP);
        for (int i = 0; i < GUARD; i++)
            EQ(buf[CAP + i], 0xa5);
        if (r == VFIOMIG_NEXT_DRAINED)
            OK(vfiomig_save_stop(save));
    } while (r != VFIOMIG_NEXT_END);
    vfiomig_save_free(save);
    rig_free(&from);
}

static void there_and_back_again_ten_times(void)
{
    struct rig rigs[2] = { rig_new(NULL, NULL), rig_target(NULL) };
    uint64_t digest = vfiomig_sim_digest(rigs[0].sim);
    for (int turn = 0; turn < 10; turn++) {
        struct rig *from = &rigs[turn % 2], *to = &rigs[(turn + 1) % 2];
        struct bytes stream = { NULL, 0, 0 };
        struct vfiomig_load *load;
        struct vfiomig_save *save = save_all(from->dev, NULL, 20000, &stream);
        OK(vfiomig_load_begin(to->dev, NULL, &load));
        CHECK(push_all(load, &stream, 20000) & VFIOMIG_PUSH_END);
        OK(vfiomig_load_commit(load));
        OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
        OK(vfiomig_device_run(to->dev));
        CHECK(vfiomig_sim_digest(to->sim) == digest);
        vfiomig_save_free(save);
        vfiomig_load_free(load);
        bytes_free(&stream);
    }
    rig_free(&rigs[0]);
    rig_free(&rigs[1]);
}

/* There is nothing to receive after the end, and asking for space does no harm. */
static void behind_the_end_there_is_no_space(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_load *load;
    void *space = NULL;
    size_t room = 0;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    EQ(vfiomig_load_push(load, stream.data, stream.len - 1), VFIOMIG_PUSH_MORE | VFIOMIG_PUSH_INITIAL_LOADED);
    OK(vfiomig_load_get_space(load, &space, &room));
    CHECK(space && room >= 1);
    *(uint8_t *)space = stream.data[stream.len - 1];
    EQ(vfiomig_load_push_received(load, 1), VFIOMIG_PUSH_END);
    space = NULL;
    room = 12345;
    EQ(vfiomig_load_get_space(load, &space, &room), -EINVAL);
    HAS(vfiomig_error_message(), "ended");
    CHECK(!space && room == 12345);
    EQ(vfiomig_load_push_received(load, 0), VFIOMIG_PUSH_MORE);
    OK(vfiomig_load_commit(load));
    CHECK(vfiomig_sim_digest(to.sim) == vfiomig_sim_digest(from.sim));
    vfiomig_load_free(load);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

/* No bytes need no memory. */
static void nothing_at_all_can_be_pushed(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    EQ(vfiomig_load_push(load, NULL, 0), VFIOMIG_PUSH_MORE);
    EQ(vfiomig_load_push(load, NULL, 1), -EFAULT);
    CHECK(push_all(load, &stream, 5000) & VFIOMIG_PUSH_END);
    EQ(vfiomig_load_push(load, NULL, 0), VFIOMIG_PUSH_MORE);
    OK(vfiomig_load_commit(load));
    vfiomig_load_free(load);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

int main(void)
{
    RUN(whole_frames);
    RUN(smallest_buffer);
    RUN(pushed_byte_by_byte);
    RUN(pushed_in_odd_pieces);
    RUN(every_kind_of_device);
    RUN(every_size);
    RUN(short_reads_and_writes_and_interruptions);
    RUN(drivers_that_deviate);
    RUN(what_changes_during_pre_copy_arrives);
    RUN(received_into_the_librarys_memory);
    RUN(more_than_there_was_room_for_is_refused);
    RUN(without_pre_copy_although_the_device_has_it);
    RUN(nothing_is_written_beyond_the_buffer);
    RUN(there_and_back_again_ten_times);
    RUN(behind_the_end_there_is_no_space);
    RUN(nothing_at_all_can_be_pushed);
    return DONE();
}
