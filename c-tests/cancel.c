/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Cancelling from another thread during a call: the call ends soon, and in a known state. */
#include <pthread.h>

#include "slow.h"

/* Both once the driver has begun. */
static void *cancel_save(void *save)
{
    until_saving(save);
    return (void *)(intptr_t)vfiomig_save_cancel(save);
}

static void *cancel_load(void *load)
{
    until_loading(load);
    return (void *)(intptr_t)vfiomig_load_cancel(load);
}

static void a_save_on_a_slow_device(void)
{
    struct vfiomig_sim_options o = slow_to_read();
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    pthread_t thread;
    void *result;
    struct rig rig = rig_new(&o, NULL);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(pthread_create(&thread, NULL, cancel_save, save), 0);
    EQ(read_until(save, &stream, 65536, VFIOMIG_NEXT_DRAINED), -ECANCELED);
    CHECK(stream.len < o.state_size / 2);
    pthread_join(thread, &result);
    EQ((intptr_t)result, 0);
    /* Every later call returns the same, and there is only one way out. */
    EQ(read_until(save, &stream, 65536, VFIOMIG_NEXT_DRAINED), -ECANCELED);
    EQ(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE), -ECANCELED);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_save_free(save);
    rig_free(&rig);
    bytes_free(&stream);
}

static void a_save_between_calls(void)
{
    static const char *const steps[] = { "next", "quiesce", "stop" };
    for (int step = 0; step < 3; step++) {
        struct rig rig = rig_new(NULL, NULL);
        struct bytes stream = { NULL, 0, 0 };
        struct vfiomig_save *save;
        OK(vfiomig_save_begin(rig.dev, NULL, &save));
        OK(vfiomig_save_cancel(save));
        OK(vfiomig_save_cancel(save));
        int r = step == 0   ? read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED)
                : step == 1 ? vfiomig_save_quiesce(save)
                            : vfiomig_save_stop(save);
        if (r != -ECANCELED)
            FAIL("%s returned %d", steps[step], r);
        vfiomig_save_free(save); /* as with KEEP */
        EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
        rig_free(&rig);
        bytes_free(&stream);
    }
}

static void a_save_that_has_stopped_the_device(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    uint64_t digest = vfiomig_sim_digest(rig.sim);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    OK(vfiomig_save_stop(save));
    OK(vfiomig_save_cancel(save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), -ECANCELED);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    CHECK(vfiomig_sim_digest(rig.sim) == digest);
    vfiomig_save_free(save);
    rig_free(&rig);
    bytes_free(&stream);
}

/* The driver takes nothing for as long as the load waits: half a minute here. */
static void a_load_into_a_stuck_device(void)
{
    struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
    struct vfiomig_sim_options o = rig_options();
    o.state_size = 4 << 20;
    struct rig from = rig_new(&o, NULL);
    o = slow_to_write(o);
    struct rig to = rig_target(&o);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_load *load;
    pthread_t thread;
    void *result;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    EQ(pthread_create(&thread, NULL, cancel_load, load), 0);
    EQ(push_all(load, &stream, SIZE_MAX), -ECANCELED);
    CHECK(!strstr(vfiomig_error_message(), "refuse")); /* it is not the driver that ended it */
    HAS(vfiomig_error_message(), "cancelled");
    OK(vfiomig_load_get_stats(load, &stats));
    CHECK(stats.data_bytes > 0 && stats.data_bytes < o.state_size / 2);
    pthread_join(thread, &result);
    EQ((intptr_t)result, 0);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    EQ(vfiomig_load_commit(load), -ECANCELED);
    vfiomig_load_free(load);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void a_load_before_its_commit(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    CHECK(push_all(load, &stream, SIZE_MAX) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_cancel(load));
    EQ(vfiomig_load_commit(load), -ECANCELED);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_load_free(load);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

/* Everything that can be asked of a save except its end, twice. */
static void every_call_is_cancelled(struct vfiomig_save *save)
{
    struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
    struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    uint8_t buf[8192];
    size_t len;
    for (int i = 0; i < 2; i++) {
        EQ(vfiomig_save_get_pending(save, &pending), -ECANCELED);
        EQ(vfiomig_save_add_blob(save, 1, "x", 1), -ECANCELED);
        EQ(vfiomig_save_get_poll_fd(save), -ECANCELED);
        EQ(vfiomig_save_next(save, buf, sizeof buf, &len), -ECANCELED);
        EQ(vfiomig_save_quiesce(save), -ECANCELED);
        EQ(vfiomig_save_stop(save), -ECANCELED);
        HAS(vfiomig_error_message(), "cancelled");
        OK(vfiomig_save_get_stats(save, &stats));
        OK(vfiomig_save_get_failure(save, &failure));
    }
}

static void each_later_call_of_a_save_says_so(void)
{
    for (int when = 0; when < 4; when++) { /* pre-copy, quiesced, stop-copy, at the end */
        struct rig rig = rig_new(NULL, NULL);
        struct bytes stream = { NULL, 0, 0 };
        struct vfiomig_save *save;
        uint8_t buf[8192];
        size_t len;
        OK(vfiomig_save_begin(rig.dev, NULL, &save));
        if (when >= 1)
            OK(vfiomig_save_quiesce(save));
        if (when >= 2)
            OK(vfiomig_save_stop(save));
        if (when >= 3)
            EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
        OK(vfiomig_save_cancel(save));
        every_call_is_cancelled(save);
        EQ(vfiomig_save_finish(save, 99), -EINVAL);
        if (when == 3) { /* too late: the target may have everything */
            OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
            EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_STOP);
        } else {
            EQ(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE), -ECANCELED);
            OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
            EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
        }
        /* What is finished is finished, however that happened. */
        EQ(vfiomig_save_next(save, buf, sizeof buf, &len), -EINVAL);
        EQ(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP), -EINVAL);
        vfiomig_save_free(save);
        rig_free(&rig);
        bytes_free(&stream);
    }
}

static void each_later_call_of_a_load_says_so(void)
{
    struct rig from = rig_new(NULL, NULL);
    struct bytes stream = stream_of(from.dev);
    for (int format = VFIOMIG_FORMAT_NATIVE; format <= VFIOMIG_FORMAT_QEMU; format++)
        for (int first = 0; first < 4; first++) { /* whichever call meets it */
            struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
            struct rig to = rig_target(NULL);
            struct vfiomig_load *load;
            void *space;
            size_t room;
            options.format = (uint32_t)format;
            OK(vfiomig_load_begin(to.dev, &options, &load));
            if (format == VFIOMIG_FORMAT_NATIVE)
                EQ(vfiomig_load_push(load, stream.data, 9000), VFIOMIG_PUSH_MORE);
            OK(vfiomig_load_cancel(load));
            for (int i = first; i < first + 8; i++)
                EQ(i % 4 == 0   ? vfiomig_load_push(load, stream.data, 1)
                   : i % 4 == 1 ? vfiomig_load_get_space(load, &space, &room)
                   : i % 4 == 2 ? vfiomig_load_push_received(load, 0)
                                : vfiomig_load_commit(load),
                   -ECANCELED);
            HAS(vfiomig_error_message(), "cancelled");
            EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING); /* reset by the first of them */
            vfiomig_load_free(load);
            rig_free(&to);
        }
    rig_free(&from);
    bytes_free(&stream);
}

static void a_load_that_was_committed_is_not_cancelled(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    CHECK(push_all(load, &stream, SIZE_MAX) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    OK(vfiomig_load_cancel(load));
    EQ(vfiomig_load_commit(load), -EINVAL);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_STOP);
    OK(vfiomig_device_run(to.dev));
    CHECK(vfiomig_sim_digest(to.sim) == vfiomig_sim_digest(from.sim));
    vfiomig_load_free(load);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

int main(void)
{
    RUN(each_later_call_of_a_save_says_so);
    RUN(each_later_call_of_a_load_says_so);
    RUN(a_load_that_was_committed_is_not_cancelled);
    RUN(a_save_on_a_slow_device);
    RUN(a_save_between_calls);
    RUN(a_save_that_has_stopped_the_device);
    RUN(a_load_into_a_stuck_device);
    RUN(a_load_before_its_commit);
    return DONE();
}
