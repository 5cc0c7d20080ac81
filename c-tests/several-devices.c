/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The devices of one VM may write to each other's memory: none is stopped before all are quiesced,
 * and none runs before all have left the stopped states.
 */
#include "rig.h"

enum { DEVICES = 3 };

static void expect_all(const struct rig *rigs, uint32_t state)
{
    for (int i = 0; i < DEVICES; i++)
        EQ(vfiomig_sim_state(rigs[i].sim), state);
}

static void stop_all(struct rig *rigs, struct vfiomig_save **saves, struct bytes *streams)
{
    for (int i = 0; i < DEVICES; i++) {
        struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
        rigs[i] = rig_new(NULL, NULL);
        options.device_index = (uint32_t)i;
        OK(vfiomig_save_begin(rigs[i].dev, &options, &saves[i]));
        EQ(read_until(saves[i], &streams[i], 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    }
    expect_all(rigs, VFIOMIG_STATE_PRE_COPY);
    for (int i = 0; i < DEVICES; i++)
        OK(vfiomig_save_quiesce(saves[i]));
    expect_all(rigs, VFIOMIG_STATE_PRE_COPY_P2P);
    for (int i = 0; i < DEVICES; i++)
        OK(vfiomig_save_stop(saves[i]));
    expect_all(rigs, VFIOMIG_STATE_STOP_COPY);
}

static void kept_together(void)
{
    struct rig rigs[DEVICES];
    struct vfiomig_save *saves[DEVICES];
    struct bytes streams[DEVICES];
    memset(streams, 0, sizeof streams);
    stop_all(rigs, saves, streams);
    for (int i = 0; i < DEVICES; i++)
        OK(vfiomig_save_finish(saves[i], VFIOMIG_ENDING_KEEP_QUIESCED));
    expect_all(rigs, VFIOMIG_STATE_RUNNING_P2P);
    for (int i = 0; i < DEVICES; i++)
        OK(vfiomig_device_run(rigs[i].dev));
    expect_all(rigs, VFIOMIG_STATE_RUNNING);
    for (int i = 0; i < DEVICES; i++) {
        vfiomig_save_free(saves[i]);
        rig_free(&rigs[i]);
        bytes_free(&streams[i]);
    }
}

static void moved_together(void)
{
    struct rig rigs[DEVICES], targets[DEVICES];
    struct vfiomig_save *saves[DEVICES];
    struct bytes streams[DEVICES];
    memset(streams, 0, sizeof streams);
    stop_all(rigs, saves, streams);
    for (int i = 0; i < DEVICES; i++) {
        struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
        struct vfiomig_load *load;
        EQ(read_until(saves[i], &streams[i], 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
        targets[i] = rig_target(NULL);
        options.flags = VFIOMIG_LOAD_CHECK_DEVICE_INDEX;
        options.device_index = (uint32_t)i;
        OK(vfiomig_load_begin(targets[i].dev, &options, &load));
        CHECK(push_all(load, &streams[i], SIZE_MAX) & VFIOMIG_PUSH_END);
        OK(vfiomig_load_commit(load));
        vfiomig_load_free(load);
    }
    expect_all(targets, VFIOMIG_STATE_STOP);
    for (int i = 0; i < DEVICES; i++)
        OK(vfiomig_save_finish(saves[i], VFIOMIG_ENDING_RELEASE));
    expect_all(rigs, VFIOMIG_STATE_STOP);
    for (int i = 0; i < DEVICES; i++)
        OK(vfiomig_device_set_state(targets[i].dev, VFIOMIG_STATE_RUNNING_P2P));
    expect_all(targets, VFIOMIG_STATE_RUNNING_P2P);
    for (int i = 0; i < DEVICES; i++)
        OK(vfiomig_device_run(targets[i].dev));
    expect_all(targets, VFIOMIG_STATE_RUNNING);
    for (int i = 0; i < DEVICES; i++) {
        CHECK(vfiomig_sim_digest(targets[i].sim) == vfiomig_sim_digest(rigs[i].sim));
        vfiomig_save_free(saves[i]);
        rig_free(&rigs[i]);
        rig_free(&targets[i]);
        bytes_free(&streams[i]);
    }
}

/* Where device 1 has been, as its events say. */
static struct {
    uint32_t kinds[32], states[32];
    int count;
} path;

static void note_event(void *opaque, const struct vfiomig_event *event)
{
    (void)opaque;
    if (path.count < 32) {
        path.kinds[path.count] = event->kind;
        path.states[path.count++] = event->to;
    }
}

/* Device 0 is stopped, device 1 fails to: it does not run before the VMM says so. */
static void one_that_fails_waits_for_the_others(void)
{
    static const uint32_t faults[] = { VFIOMIG_SIM_FAULT_ONCE, VFIOMIG_SIM_FAULT_ERROR };
    static const uint32_t endings[] = { VFIOMIG_ENDING_KEEP_QUIESCED, VFIOMIG_ENDING_KEEP };
    for (int f = 0; f < 2; f++)
        for (int e = 0; e < 2; e++) {
            int reset = faults[f] == VFIOMIG_SIM_FAULT_ERROR;
            uint32_t outcome = reset ? VFIOMIG_OUTCOME_RESET : VFIOMIG_OUTCOME_RECOVERED;
            struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
            struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
            struct vfiomig_save *saves[2];
            struct rig rigs[2];
            options.event = note_event;
            for (int i = 0; i < 2; i++) {
                rigs[i] = rig_new(NULL, i == 1 ? &options : NULL);
                OK(vfiomig_save_begin(rigs[i].dev, NULL, &saves[i]));
            }
            for (int i = 0; i < 2; i++)
                OK(vfiomig_save_quiesce(saves[i]));
            OK(vfiomig_save_stop(saves[0]));
            path.count = 0;
            OK(vfiomig_sim_inject(rigs[1].sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, faults[f]));
            EQ(vfiomig_save_stop(saves[1]), -EIO);
            OK(vfiomig_save_get_failure(saves[1], &failure));
            EQ(failure.outcome, outcome);
            EQ(failure.state_after, VFIOMIG_STATE_RUNNING_P2P);
            EQ(vfiomig_sim_state(rigs[1].sim), VFIOMIG_STATE_RUNNING_P2P);
            CHECK(path.count > 0);
            for (int i = 0; i < path.count; i++)
                if (!reset)
                    EQ(path.states[i], VFIOMIG_STATE_RUNNING_P2P);
            EQ(path.states[path.count - 1], VFIOMIG_STATE_RUNNING_P2P);
            /* Not run by anyone while its save is open. */
            EQ(vfiomig_device_run(rigs[1].dev), -EBUSY);
            /* The one that failed first, while the other is still stopped. */
            EQ(vfiomig_save_finish(saves[1], endings[e]), reset ? -EIO : 0);
            EQ(vfiomig_sim_state(rigs[1].sim), e == 0 ? VFIOMIG_STATE_RUNNING_P2P : VFIOMIG_STATE_RUNNING);
            EQ(vfiomig_sim_state(rigs[0].sim), VFIOMIG_STATE_STOP_COPY);
            OK(vfiomig_save_finish(saves[0], VFIOMIG_ENDING_KEEP_QUIESCED));
            OK(vfiomig_device_run(rigs[0].dev));
            EQ(vfiomig_device_run(rigs[1].dev), reset ? -EIO : 0);
            for (int i = 0; i < 2; i++) {
                vfiomig_save_free(saves[i]);
                rig_free(&rigs[i]);
            }
        }
}

/* The first step of one device ends in a reset. After that nobody may run it, in any way. */
static void one_that_lost_its_contents_is_not_run(void)
{
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct rig source = rig_new(NULL, NULL), target = rig_target(NULL);
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    struct bytes stream = { 0 };
    OK(vfiomig_save_begin(source.dev, NULL, &save));
    OK(vfiomig_save_stop(save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    OK(vfiomig_load_begin(target.dev, NULL, &load));
    CHECK(push_all(load, &stream, SIZE_MAX) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    vfiomig_load_free(load);

    OK(vfiomig_sim_inject(target.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_ERROR));
    EQ(vfiomig_device_set_state(target.dev, VFIOMIG_STATE_RUNNING_P2P), -EIO);
    for (int i = 0; i < 2; i++) {
        EQ(vfiomig_device_run(target.dev), -EIO);
        OK(vfiomig_device_get_failure(target.dev, &failure));
        EQ(failure.outcome, VFIOMIG_OUTCOME_RESET);
    }
    OK(vfiomig_device_set_state(target.dev, VFIOMIG_STATE_STOP));
    EQ(vfiomig_device_run(target.dev), -EIO);
    EQ(vfiomig_sim_state(target.sim), VFIOMIG_STATE_STOP);
    /* The source still has it. */
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    EQ(vfiomig_sim_state(source.sim), VFIOMIG_STATE_RUNNING);
    /* An empty device, because the VMM wants one. */
    OK(vfiomig_device_reset(target.dev));
    OK(vfiomig_device_run(target.dev));

    vfiomig_save_free(save);
    rig_free(&source);
    rig_free(&target);
    bytes_free(&stream);
}

/* Devices that cannot quiesce skip it; they are "as though fully running". */
static void a_device_without_peer_to_peer_states_stays_as_it_is(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct vfiomig_save *save;
    o.migration_flags = 5;
    struct rig rig = rig_new(&o, NULL);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    OK(vfiomig_save_quiesce(save));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_PRE_COPY);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP_QUIESCED));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    EQ(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_RUNNING_P2P), -EINVAL);
    vfiomig_save_free(save);
    rig_free(&rig);
}

int main(void)
{
    RUN(kept_together);
    RUN(moved_together);
    RUN(one_that_fails_waits_for_the_others);
    RUN(one_that_lost_its_contents_is_not_run);
    RUN(a_device_without_peer_to_peer_states_stays_as_it_is);
    return DONE();
}
