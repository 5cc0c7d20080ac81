/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Drivers and callbacks that deliver or take nothing, or that signals interrupt: the library waits
 * for them as long as the options allow and nobody cancels, and in the end says what was wrong.
 */
#include <poll.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "rig.h"

/* A simulated device whose next calls of one kind fail. */
enum call { FEATURE, READ, WRITE, INFO, RESET };
static struct {
    const struct vfiomig_device_ops *ops;
    enum call call;
    int errnum;
    long left; /* calls that fail; LONG_MAX: all */
    long failed;
    int pipe[2]; /* never readable */
} bad;

#define FOR_EVER 2000000000L

static int fails(enum call call)
{
    if (call != bad.call || bad.left == 0)
        return 0;
    bad.left--;
    bad.failed++;
    return -bad.errnum;
}

static int bad_feature(void *opaque, uint32_t flags, void *data, size_t len)
{
    int r = fails(FEATURE);
    return r ? r : bad.ops->feature(opaque, flags, data, len);
}

static int64_t bad_read(void *opaque, int fd, void *buf, size_t len)
{
    int r = fails(READ);
    return r ? r : bad.ops->data_read(opaque, fd, buf, len);
}

static int64_t bad_write(void *opaque, int fd, const void *buf, size_t len)
{
    int r = fails(WRITE);
    return r ? r : bad.ops->data_write(opaque, fd, buf, len);
}

static int bad_info(void *opaque, int fd, struct vfiomig_precopy_info *info)
{
    int r = fails(INFO);
    return r ? r : bad.ops->data_precopy_info(opaque, fd, info);
}

static int bad_reset(void *opaque)
{
    int r = fails(RESET);
    return r ? r : bad.ops->reset(opaque);
}

static int bad_poll_fd(void *opaque, int fd)
{
    (void)opaque;
    (void)fd;
    return bad.pipe[0];
}

static struct rig bad_new(uint32_t migration_flags, uint64_t seed)
{
    struct rig rig;
    struct vfiomig_sim_options o = rig_options();
    o.migration_flags = migration_flags;
    o.seed = seed;
    struct vfiomig_device_ops ops = rig_table(&rig, &o);
    bad.ops = vfiomig_sim_ops(rig.sim);
    bad.left = bad.failed = 0;
    ops.feature = bad_feature;
    ops.data_read = bad_read;
    ops.data_write = bad_write;
    ops.data_precopy_info = bad_info;
    ops.reset = bad_reset;
    ops.data_poll_fd = bad_poll_fd;
    rig_open(&rig, &ops, NULL);
    return rig;
}

static void go_bad(enum call call, int errnum, long calls)
{
    bad.call = call;
    bad.errnum = errnum;
    bad.left = calls;
    bad.failed = 0;
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* More often than a fixed number of attempts would forgive. */
static void many_interruptions_change_nothing(void)
{
    for (int call = FEATURE; call <= RESET; call++) {
        struct rig from = bad_new(7, 1), to;
        struct bytes stream = { NULL, 0, 0 };
        struct vfiomig_save *save;
        struct vfiomig_load *load;
        if (call != WRITE && call != RESET)
            go_bad((enum call)call, EINTR, 5000);
        OK(vfiomig_save_begin(from.dev, NULL, &save));
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
        OK(vfiomig_save_stop(save));
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
        EQ(bad.left, 0);
        uint64_t digest = vfiomig_sim_digest(from.sim);
        OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
        vfiomig_save_free(save);
        rig_free(&from);

        to = bad_new(7, 2);
        if (call == WRITE || call == RESET)
            go_bad((enum call)call, EINTR, 5000);
        OK(vfiomig_device_reset(to.dev));
        OK(vfiomig_load_begin(to.dev, NULL, &load));
        CHECK(push_all(load, &stream, 10000) & VFIOMIG_PUSH_END);
        OK(vfiomig_load_commit(load));
        OK(vfiomig_device_run(to.dev));
        EQ(bad.left, 0);
        CHECK(vfiomig_sim_digest(to.sim) == digest);
        vfiomig_load_free(load);
        rig_free(&to);
        bytes_free(&stream);
    }
}

static void a_driver_that_gives_nothing_is_given_up_in_time(void)
{
    static const int errnums[] = { EINTR, EAGAIN };
    for (size_t e = 0; e < 2; e++)
        for (int stopped = 0; stopped < 2; stopped++) {
            struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
            struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
            struct rig rig = bad_new(7, 1);
            struct bytes stream = { NULL, 0, 0 };
            struct vfiomig_save *save;
            options.read_timeout_ms = 120;
            OK(vfiomig_save_begin(rig.dev, &options, &save));
            if (stopped)
                OK(vfiomig_save_stop(save));
            go_bad(READ, errnums[e], FOR_EVER);
            double begun = now_ms();
            EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), -ETIMEDOUT);
            CHECK(now_ms() - begun >= 119 && now_ms() - begun < 30000);
            HAS(vfiomig_error_message(), "120 ms");
            /* It waited with poll, and did not keep asking. */
            if (errnums[e] == EAGAIN)
                CHECK(bad.failed < 20);
            OK(vfiomig_save_get_failure(save, &failure));
            EQ(failure.os_errno, errnums[e]);
            EQ(failure.operation, VFIOMIG_OP_DATA_READ);
            bad.left = 0;
            OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
            EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
            vfiomig_save_free(save);
            rig_free(&rig);
            bytes_free(&stream);
        }
}

static void a_driver_that_takes_nothing_is_given_up_in_time(void)
{
    static const int errnums[] = { EINTR, EAGAIN };
    struct rig from = rig_new(NULL, NULL);
    struct bytes stream = stream_of(from.dev);
    for (size_t e = 0; e < 2; e++) {
        struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        struct rig to = bad_new(7, 2);
        struct vfiomig_load *load;
        options.write_timeout_ms = 120;
        OK(vfiomig_load_begin(to.dev, &options, &load));
        go_bad(WRITE, errnums[e], FOR_EVER);
        double begun = now_ms();
        EQ(push_all(load, &stream, SIZE_MAX), -ETIMEDOUT);
        CHECK(now_ms() - begun >= 119 && now_ms() - begun < 30000);
        HAS(vfiomig_error_message(), "120 ms");
        OK(vfiomig_load_get_failure(load, &failure));
        EQ(failure.os_errno, errnums[e]);
        EQ(failure.outcome, VFIOMIG_OUTCOME_RESET);
        vfiomig_load_free(load);
        rig_free(&to);
    }
    rig_free(&from);
    bytes_free(&stream);
}

static void a_change_that_is_interrupted_without_end_is_given_up(void)
{
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct rig rig = bad_new(7, 1);
    go_bad(FEATURE, EINTR, FOR_EVER);
    double begun = now_ms();
    EQ(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP), -ETIMEDOUT);
    CHECK(now_ms() - begun < 60000);
    OK(vfiomig_device_get_failure(rig.dev, &failure));
    EQ(failure.os_errno, EINTR);
    bad.left = 0;
    OK(vfiomig_device_reset(rig.dev));
    rig_free(&rig);
}

/* Only a caller that asks for -EAGAIN gets it. */
static void a_blocking_save_waits(void)
{
    struct rig from = bad_new(7, 1), to = rig_target(NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    OK(vfiomig_save_begin(from.dev, NULL, &save));
    go_bad(READ, EAGAIN, 3);
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    EQ(bad.failed, 3);
    OK(vfiomig_save_stop(save));
    go_bad(READ, EAGAIN, 3);
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    EQ(bad.failed, 3);
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    arrives(&from, &to, save, load, &stream);
}

static void *cancel_soon(void *save)
{
    nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
    return (void *)(intptr_t)vfiomig_save_cancel(save);
}

/* By default it waits for a minute, but not for a caller that has given up. */
static void waiting_can_be_cancelled(void)
{
    static const int errnums[] = { EINTR, EAGAIN };
    for (size_t e = 0; e < 2; e++) {
        struct rig rig = bad_new(7, 1);
        struct bytes stream = { NULL, 0, 0 };
        struct vfiomig_save *save;
        pthread_t thread;
        void *result;
        OK(vfiomig_save_begin(rig.dev, NULL, &save));
        go_bad(READ, errnums[e], FOR_EVER);
        EQ(pthread_create(&thread, NULL, cancel_soon, save), 0);
        double begun = now_ms();
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), -ECANCELED);
        CHECK(now_ms() - begun < 30000);
        pthread_join(thread, &result);
        EQ((intptr_t)result, 0);
        bad.left = 0;
        OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
        vfiomig_save_free(save);
        rig_free(&rig);
        bytes_free(&stream);
    }
}

int main(void)
{
    if (pipe(bad.pipe))
        return 1;
    RUN(many_interruptions_change_nothing);
    RUN(a_driver_that_gives_nothing_is_given_up_in_time);
    RUN(a_driver_that_takes_nothing_is_given_up_in_time);
    RUN(a_change_that_is_interrupted_without_end_is_given_up);
    RUN(a_blocking_save_waits);
    RUN(waiting_can_be_cancelled);
    return DONE();
}
