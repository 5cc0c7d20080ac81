/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A complete stream whose source is kept is a checkpoint: the device can be brought back to it. */
#include "rig.h"

static void keep_after_the_end_and_load_into_the_same_device(void)
{
    struct rig rig = rig_new(NULL, NULL);
    uint64_t then = vfiomig_sim_digest(rig.sim);
    struct bytes stream = stream_of(rig.dev);
    struct vfiomig_load *load;
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    EQ(vfiomig_sim_guest_write(rig.sim, 0, 200000, 9), 0);
    CHECK(vfiomig_sim_digest(rig.sim) != then);

    OK(vfiomig_load_begin(rig.dev, NULL, &load));
    CHECK(push_all(load, &stream, 6000) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    vfiomig_load_free(load);
    OK(vfiomig_device_run(rig.dev));
    CHECK(vfiomig_sim_digest(rig.sim) == then);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    rig_free(&rig);
    bytes_free(&stream);
}

static void one_checkpoint_is_loaded_many_times(void)
{
    struct rig rig = rig_new(NULL, NULL);
    uint64_t then = vfiomig_sim_digest(rig.sim);
    struct bytes stream = stream_of(rig.dev);
    for (int i = 0; i < 5; i++) {
        struct rig other = rig_target(NULL);
        struct vfiomig_load *load;
        OK(vfiomig_load_begin(other.dev, NULL, &load));
        CHECK(push_all(load, &stream, SIZE_MAX) & VFIOMIG_PUSH_END);
        OK(vfiomig_load_commit(load));
        vfiomig_load_free(load);
        CHECK(vfiomig_sim_digest(other.sim) == then);
        rig_free(&other);
    }
    rig_free(&rig);
    bytes_free(&stream);
}

static void a_stopped_device_is_saved_and_stays_stopped(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = { NULL, 0, 0 };
    OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
    struct vfiomig_save *save = save_all(rig.dev, NULL, 8192, &stream);
    struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
    OK(vfiomig_save_get_stats(save, &stats));
    EQ(stats.precopy_bytes, 0);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_STOP);
    vfiomig_save_free(save);
    rig_free(&rig);
    bytes_free(&stream);
}

static void keeping_is_possible_at_any_time(void)
{
    for (int step = 0; step < 5; step++) {
        struct rig rig = rig_new(NULL, NULL);
        uint64_t then = vfiomig_sim_digest(rig.sim);
        struct bytes stream = { NULL, 0, 0 };
        struct vfiomig_save *save;
        OK(vfiomig_save_begin(rig.dev, NULL, &save));
        if (step >= 1)
            EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
        if (step >= 2)
            OK(vfiomig_save_quiesce(save));
        if (step >= 3)
            OK(vfiomig_save_stop(save));
        if (step >= 4)
            EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
        if (step < 4)
            EQ(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE), -EINVAL); /* nothing happens */
        OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
        EQ(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP), -EINVAL);
        EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
        CHECK(vfiomig_sim_digest(rig.sim) == then);
        vfiomig_save_free(save);
        rig_free(&rig);
        bytes_free(&stream);
    }
}

/* After it was released, the source is a device for the next guest. */
static void a_released_device_is_used_again(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save = save_all(rig.dev, NULL, 8192, &stream);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
    vfiomig_save_free(save);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_STOP);
    OK(vfiomig_device_reset(rig.dev));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    stream.len = 0;
    save = save_all(rig.dev, NULL, 8192, &stream);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    rig_free(&rig);
    bytes_free(&stream);
}

int main(void)
{
    RUN(keep_after_the_end_and_load_into_the_same_device);
    RUN(one_checkpoint_is_loaded_many_times);
    RUN(a_stopped_device_is_saved_and_stays_stopped);
    RUN(keeping_is_possible_at_any_time);
    RUN(a_released_device_is_used_again);
    return DONE();
}
