/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Guards: what a VMM knows of a driver's own format is asked before the driver gets a byte, in every
 * format of stream, and a driver that the library knows has a guard by itself.
 */
#include <limits.h>
#include <pthread.h>

#include "packets.h"

struct watcher {
    struct bytes seen;          /* since the last restart */
    int begins, restarts, ends, releases;
    uint64_t len;               /* as end was told */
    int gaps;                   /* offsets that do not follow */
    int refuse_begin, refuse_restart, refuse_end;
    size_t refuse_at;           /* refuses the piece with this byte in it... */
    int with;                   /* ...with this; 0: refuses nothing */
    struct vfiomig_device *dev; /* asked in a callback, if it is there */
    int busy;
};

static int begin(void *opaque)
{
    struct watcher *w = opaque;
    w->begins++;
    return w->refuse_begin;
}

static int see(void *opaque, const void *data, size_t len, uint64_t offset)
{
    struct watcher *w = opaque;
    w->gaps += offset != w->seen.len;
    if (w->with && w->seen.len + len > w->refuse_at)
        return w->with;
    bytes_add(&w->seen, data, len);
    if (w->dev)
        w->busy += vfiomig_device_reset(w->dev) == -EBUSY;
    return 0;
}

static int restart(void *opaque)
{
    struct watcher *w = opaque;
    w->restarts++;
    w->seen.len = 0;
    return w->refuse_restart;
}

static int end(void *opaque, uint64_t len)
{
    struct watcher *w = opaque;
    w->ends++;
    w->len = len;
    return w->refuse_end;
}

static void release(void *opaque)
{
    struct watcher *w = opaque;
    w->releases++;
}

static struct vfiomig_guard_ops ops(void)
{
    struct vfiomig_guard_ops o = VFIOMIG_GUARD_OPS_INIT;
    o.begin = begin;
    o.data = see;
    o.restart = restart;
    o.end = end;
    o.release = release;
    return o;
}

static struct vfiomig_load_options with(const struct vfiomig_guard_ops *guard, void *opaque)
{
    struct vfiomig_load_options o = VFIOMIG_LOAD_OPTIONS_INIT;
    o.guard = guard;
    o.guard_opaque = opaque;
    return o;
}

/* Loads it all and commits; what went wrong, if anything did. */
static int load_all(struct rig *to, const struct vfiomig_load_options *options,
                    const struct bytes *stream, size_t piece, struct vfiomig_failure *failure)
{
    struct vfiomig_failure none = VFIOMIG_FAILURE_INIT;
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(to->dev, options, &load));
    int r = push_all(load, stream, piece);
    if (r >= 0)
        r = vfiomig_load_commit(load);
    *failure = none;
    OK(vfiomig_load_get_failure(load, failure));
    vfiomig_load_free(load);
    return r;
}

static void it_sees_all_that_the_driver_gets(void)
{
    static const size_t pieces[] = { 7, 5000, SIZE_MAX };
    for (int i = 0; i < 3; i++) {
        struct vfiomig_guard_ops guard = ops();
        struct watcher w = { .refuse_at = 0 };
        struct vfiomig_load_options options = with(&guard, &w);
        struct vfiomig_failure failure;
        struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
        uint64_t digest = vfiomig_sim_digest(from.sim);
        struct bytes stream = stream_of(from.dev);
        w.dev = to.dev;
        OK(load_all(&to, &options, &stream, pieces[i], &failure));
        CHECK(vfiomig_sim_digest(to.sim) == digest);
        /* The simulator's own framing is part of the data. */
        CHECK(w.len > SOME_SIZE);
        EQ(w.seen.len, w.len);
        EQ(w.gaps, 0);
        EQ(w.begins, 1);
        EQ(w.restarts, 0);
        EQ(w.ends, 1);
        EQ(w.releases, 1);
        CHECK(w.busy > 0);
        OK(vfiomig_device_run(to.dev));
        bytes_free(&w.seen);
        bytes_free(&stream);
        rig_free(&from);
        rig_free(&to);
    }
}

/* What a guard returns, and what the load then returns. */
static const struct {
    int says, means;
} answers[] = {
    { -EPERM, -EPERM },   { -EPROTO, -EPROTO }, { -EINVAL, -EINVAL }, { -EMSGSIZE, -EMSGSIZE },
    { -EAGAIN, -EIO },    { -EXDEV, -EXDEV },   { -EBADF, -EIO },     { -ECANCELED, -ECANCELED },
    { -INT_MAX, -EIO },   { INT_MIN, -EIO },
};

static void what_it_refuses_does_not_reach_the_driver(void)
{
    struct rig from = rig_new(NULL, NULL);
    struct bytes stream = stream_of(from.dev);
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        struct vfiomig_guard_ops guard = ops();
        struct watcher w = { .refuse_at = 200000, .with = answers[i].says };
        struct vfiomig_load_options options = with(&guard, &w);
        struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        struct rig to = rig_target(NULL);
        struct vfiomig_load *load;
        OK(vfiomig_load_begin(to.dev, &options, &load));
        EQ(push_all(load, &stream, 3000), answers[i].means);
        OK(vfiomig_load_get_stats(load, &stats));
        /* Whole frames were passed on before. */
        CHECK(stats.data_bytes == w.seen.len && w.seen.len > 0 && w.seen.len <= 200000);
        OK(vfiomig_load_get_failure(load, &failure));
        EQ(failure.code, answers[i].means);
        EQ(failure.operation, VFIOMIG_OP_STREAM);
        EQ(failure.outcome, VFIOMIG_OUTCOME_RESET);
        EQ(failure.os_errno, answers[i].says == INT_MIN ? INT_MAX : -answers[i].says);
        CHECK(failure.offset > w.seen.len && failure.offset <= stream.len);
        EQ(w.releases, 0);
        vfiomig_load_free(load);
        EQ(w.releases, 1);
        EQ(w.ends, 0);
        EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
        bytes_free(&w.seen);
        rig_free(&to);
    }
    /* The source goes on. */
    EQ(vfiomig_sim_state(from.sim), VFIOMIG_STATE_RUNNING);
    bytes_free(&stream);
    rig_free(&from);
}

static void it_may_refuse_before_anything_happens_and_at_the_end(void)
{
    struct vfiomig_guard_ops guard = ops();
    struct watcher w = { .refuse_begin = -EPERM };
    struct vfiomig_load_options options = with(&guard, &w);
    struct vfiomig_failure failure;
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_load *load = NULL;
    unsigned changes = vfiomig_sim_count(to.sim, VFIOMIG_SIM_OP_SET_STATE);
    EQ(vfiomig_load_begin(to.dev, &options, &load), -EPERM);
    CHECK(load == NULL);
    EQ(w.releases, 1);
    EQ(vfiomig_sim_count(to.sim, VFIOMIG_SIM_OP_SET_STATE), changes);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);

    w = (struct watcher){ .refuse_end = -EPROTO };
    EQ(load_all(&to, &options, &stream, SIZE_MAX, &failure), -EPROTO);
    EQ(failure.operation, VFIOMIG_OP_STREAM);
    CHECK(w.len > SOME_SIZE && w.len == w.seen.len);
    EQ(w.releases, 1);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    bytes_free(&w.seen);
    bytes_free(&stream);
    rig_free(&from);
    rig_free(&to);
}

static void a_restart_begins_anew(void)
{
    for (int refuse = 0; refuse < 2; refuse++) {
        struct vfiomig_guard_ops guard = ops();
        struct watcher w = { .refuse_restart = refuse ? -EPERM : 0 };
        struct vfiomig_load_options options = with(&guard, &w);
        struct vfiomig_failure failure;
        struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
        struct bytes stream = { NULL, 0, 0 };
        struct vfiomig_save *save;
        OK(vfiomig_save_begin(from.dev, NULL, &save));
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
        vfiomig_sim_guest_reset(from.sim);
        OK(vfiomig_device_notify_reset(from.dev));
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
        OK(vfiomig_save_stop(save));
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
        vfiomig_save_free(save);
        EQ(load_all(&to, &options, &stream, 1000, &failure), refuse ? -EPERM : 0);
        EQ(w.restarts, 1);
        EQ(w.gaps, 0);
        CHECK(refuse ? w.ends == 0 : w.len > SOME_SIZE && w.len == w.seen.len);
        EQ(w.releases, 1);
        if (!refuse)
            OK(vfiomig_device_run(to.dev));
        bytes_free(&w.seen);
        bytes_free(&stream);
        rig_free(&from);
        rig_free(&to);
    }
}

static void *write_packets(void *load)
{
    return (void *)(intptr_t)vfiomig_load_write_packets(load);
}

/* QEMU's format: pre-copy on the main channel, the rest in packets, which come backwards. */
static void it_sees_packets_in_their_order(void)
{
    for (int refuse = 0; refuse < 2; refuse++) {
        struct vfiomig_save_options saving = VFIOMIG_SAVE_OPTIONS_INIT;
        struct vfiomig_guard_ops guard = ops();
        struct watcher w = { .refuse_at = 250000, .with = refuse ? -EPROTO : 0 };
        struct vfiomig_load_options options = with(&guard, &w);
        struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
        uint64_t digest = vfiomig_sim_digest(from.sim);
        struct bytes stream = { NULL, 0, 0 };
        struct vfiomig_save *save;
        struct vfiomig_load *load;
        pthread_t thread;
        void *r;
        saving.format = options.format = VFIOMIG_FORMAT_QEMU;
        saving.flags = VFIOMIG_SAVE_PACKETS;
        options.flags = VFIOMIG_LOAD_PACKETS;
        options.blob = take_any_blob;
        saving.max_frame = 10000;
        OK(vfiomig_save_begin(from.dev, &saving, &save));
        EQ(read_until(save, &stream, VFIOMIG_QEMU_BUFFER, VFIOMIG_NEXT_DRAINED),
           VFIOMIG_NEXT_DRAINED);
        OK(vfiomig_save_stop(save));
        take_packets(save, "config", 6);
        vfiomig_save_free(save);
        OK(vfiomig_load_begin(to.dev, &options, &load));
        CHECK(push_all(load, &stream, 700) >= 0);
        CHECK(num_packets > 3);
        EQ(pthread_create(&thread, NULL, write_packets, load), 0);
        for (int i = num_packets; i-- > 0;) {
            int pushed = vfiomig_load_push_packet(load, packets[i].data, packets[i].len);
            CHECK(pushed == 0 || (refuse && pushed == -EPROTO));
        }
        EQ(pthread_join(thread, &r), 0);
        EQ((intptr_t)r, refuse ? -EPROTO : 0);
        if (!refuse) {
            OK(vfiomig_load_commit(load));
            CHECK(vfiomig_sim_digest(to.sim) == digest);
            CHECK(w.len > SOME_SIZE);
            OK(vfiomig_device_run(to.dev));
        }
        CHECK(refuse ? w.seen.len <= 250000 : w.seen.len == w.len);
        EQ(w.gaps, 0);
        EQ(w.ends, !refuse);
        vfiomig_load_free(load);
        EQ(w.releases, 1);
        EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
        bytes_free(&w.seen);
        bytes_free(&stream);
        packets_free();
        rig_free(&from);
        rig_free(&to);
    }
}

/* A guard that could judge nothing, and every other table that cannot be. */
static void tables_that_cannot_be_are_refused_and_released(void)
{
    struct rig to = rig_target(NULL);
    struct vfiomig_load *load;
    static const uint64_t tags[65];
    for (int i = 0; i < 16; i++) {
        struct vfiomig_guard_ops guard = ops();
        struct vfiomig_guard_records records = VFIOMIG_GUARD_RECORDS_INIT;
        struct watcher w = { .refuse_at = 0 };
        struct vfiomig_load_options options = with(&guard, &w);
        int wanted = -EINVAL;
        guard.records = &records;
        records.header_len = 16;
        records.size_width = records.tag_width = 8;
        records.tags = tags;
        switch (i) {
        case 0: guard.records = NULL; guard.data = NULL; break;
        case 1: guard.reserved = 1; break;
        case 2: records.header_len = 0; break;
        case 3: records.header_len = 65; break;
        case 4: records.size_width = 0; break;
        case 5: records.size_width = 3; break;
        case 6: records.size_offset = 9; break;
        case 7: records.size_offset = UINT32_MAX; break;
        case 8: records.tag_offset = 16; break;
        case 9: records.tag_count = 65; break;
        case 10: records.tag_count = 1; records.tags = NULL; wanted = -EFAULT; break;
        case 11: records.tag_count = 1; records.tag_width = 0; break;
        case 12: records.flags = 1u << 31; break;
        case 13: records.optional_mask = 1; break;
        case 14: records.struct_size = 3; break;
        case 15: options.flags = 1u << 31; break;
        }
        EQ(vfiomig_load_begin(to.dev, &options, &load), wanted);
        EQ(w.begins, 0);
        EQ(w.releases, 1);
    }
    /* It cannot be read, so there is nothing to release. */
    struct vfiomig_guard_ops guard = ops();
    struct watcher w = { .refuse_at = 0 };
    struct vfiomig_load_options options = with(&guard, &w);
    guard.struct_size = 3;
    EQ(vfiomig_load_begin(to.dev, &options, &load), -EINVAL);
    EQ(w.releases, 0);
    rig_free(&to);
}

/* Device data of these records, each of its size, tag, and as many bytes as it has. */
static struct bytes data_of(const uint64_t (*records)[2], int count)
{
    struct bytes data = { NULL, 0, 0 };
    for (int i = 0; i < count; i++) {
        bytes_add(&data, records[i], 16);
        for (uint64_t n = 0; n < records[i][0] && n < 5000; n++)
            bytes_add(&data, "r", 1);
    }
    return data;
}

/* A description is enough: no callbacks. In QEMU's format, in which data goes on as it comes. What
 * passes reaches the driver, which is the simulator's and has no such records. */
static void records_are_judged_by_their_description(void)
{
    static const uint64_t tags[] = { 0, 7 };
    static const uint64_t good[][2] = { { 5000, 0 }, { 0, 7 }, { 4999, 7 } },
                          too_long[][2] = { { 5001, 0 } }, huge[][2] = { { UINT64_MAX, 7 } },
                          unknown[][2] = { { 1, 8 } };
    static const struct {
        const uint64_t (*records)[2];
        int count, result;
    } cases[] = {
        { good, 3, -EINVAL },
        { too_long, 1, -EMSGSIZE },
        { huge, 1, -EMSGSIZE },
        { unknown, 1, -EPROTO },
    };
    /* SETUP_STATE, END_OF_STATE, DATA_STATE. */
    static const uint8_t head[24] = { 0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0, 3,
                                      0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0, 1,
                                      0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0, 4 };
    for (size_t i = 0; i < 2 * sizeof cases / sizeof *cases; i++) {
        struct vfiomig_guard_records records = VFIOMIG_GUARD_RECORDS_INIT;
        struct vfiomig_guard_ops guard = VFIOMIG_GUARD_OPS_INIT;
        struct vfiomig_load_options options = with(&guard, NULL);
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        struct vfiomig_load *load;
        struct bytes data = data_of(cases[i / 2].records, cases[i / 2].count);
        struct bytes stream = { NULL, 0, 0 };
        struct rig to = rig_target(NULL);
        uint8_t len[8] = { [6] = (uint8_t)(data.len >> 8), [7] = (uint8_t)data.len };
        bytes_add(&stream, head, sizeof head);
        bytes_add(&stream, len, sizeof len);
        bytes_add(&stream, data.data, data.len);
        guard.records = &records;
        /* data_of() writes numbers as this machine has them. */
        records.flags = *(const uint8_t *)&tags[1] == 0 ? VFIOMIG_RECORDS_BIG_ENDIAN : 0;
        records.header_len = 16;
        records.size_width = records.tag_width = records.tag_offset = 8;
        records.tags = tags;
        records.tag_count = 2;
        records.max_record = 5000;
        options.format = VFIOMIG_FORMAT_QEMU;
        OK(vfiomig_load_begin(to.dev, &options, &load));
        EQ(push_all(load, &stream, i % 2 ? 9 : SIZE_MAX), cases[i / 2].result);
        OK(vfiomig_load_get_failure(load, &failure));
        EQ(failure.operation,
           cases[i / 2].records == good ? VFIOMIG_OP_DATA_WRITE : VFIOMIG_OP_STREAM);
        vfiomig_load_free(load);
        bytes_free(&data);
        bytes_free(&stream);
        rig_free(&to);
    }
}

/* The target's driver is one that the library knows, and the state is not that driver's. */
static void a_known_driver_has_a_guard_that_can_be_left_out(void)
{
    static const char *const drivers[] = { "mtty", "mlx5_vfio_pci" };
    for (int i = 0; i < 4; i++) {
        struct vfiomig_sim_options sim = rig_options();
        struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
        struct vfiomig_failure failure;
        strcpy(sim.driver, drivers[i / 2]);
        struct rig from = rig_new(&sim, NULL), to = rig_target(&sim);
        struct bytes stream = stream_of(from.dev);
        options.flags = i % 2 ? VFIOMIG_LOAD_NO_GUARD : 0;
        int r = load_all(&to, &options, &stream, 9000, &failure);
        if (i % 2) {
            EQ(r, 0);
            OK(vfiomig_device_run(to.dev));
        } else {
            EQ(r, i < 2 ? -EPROTO : -EMSGSIZE);
            EQ(failure.operation, VFIOMIG_OP_STREAM);
            CHECK(strstr(vfiomig_error_message(), i < 2 ? "mtty" : "record"));
        }
        EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
        bytes_free(&stream);
        rig_free(&from);
        rig_free(&to);
    }
}

int main(void)
{
    RUN(it_sees_all_that_the_driver_gets);
    RUN(what_it_refuses_does_not_reach_the_driver);
    RUN(it_may_refuse_before_anything_happens_and_at_the_end);
    RUN(a_restart_begins_anew);
    RUN(it_sees_packets_in_their_order);
    RUN(tables_that_cannot_be_are_refused_and_released);
    RUN(records_are_judged_by_their_description);
    RUN(a_known_driver_has_a_guard_that_can_be_left_out);
    return DONE();
}
