/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Resets that do not go as the kernel's should: delayed by whoever holds the device's lock, or made
 * by a server that leaves the device in its migration state. And changes that a driver only claims
 * to have made.
 */
#include "rig.h"

static const char garbage[64] = "no stream at all";

static void spoil(struct vfiomig_load *load)
{
    EQ(vfiomig_load_push(load, garbage, sizeof garbage), -EPROTO);
}

static void a_reset_that_is_held_up_is_tried_again(void)
{
    static const int errnos[] = { EAGAIN, EBUSY, EINTR };
    for (size_t i = 0; i < sizeof errnos / sizeof *errnos; i++) {
        struct rig rig = rig_new(NULL, NULL);
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        struct vfiomig_load *load;
        OK(vfiomig_load_begin(rig.dev, NULL, &load));
        for (unsigned nth = 1; nth <= 3; nth++)
            EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_RESET, nth, errnos[i],
                                  VFIOMIG_SIM_FAULT_ONCE), 0);
        spoil(load);
        OK(vfiomig_load_get_failure(load, &failure));
        EQ(failure.outcome, VFIOMIG_OUTCOME_RESET);
        vfiomig_load_free(load);
        EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
        OK(vfiomig_load_begin(rig.dev, NULL, &load));
        vfiomig_load_free(load);
        rig_free(&rig);
    }
}

/* Bounded: the device is lost for now, and reset when it is let go. */
static void one_that_stays_held_up_is_made_good_when_the_device_is_freed(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(rig.dev, NULL, &load));
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_RESET, 1, EAGAIN, VFIOMIG_SIM_FAULT_STICKY), 0);
    spoil(load);
    OK(vfiomig_load_get_failure(load, &failure));
    EQ(failure.outcome, VFIOMIG_OUTCOME_LOST);
    vfiomig_load_free(load);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RESUMING);
    /* Nothing is believed of a lost device, not even that it is not where it is. */
    EQ(vfiomig_save_begin(rig.dev, NULL, &(struct vfiomig_save *){ NULL }), -EIO);
    vfiomig_sim_clear_faults(rig.sim);
    vfiomig_device_free(rig.dev);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    EQ(vfiomig_sim_open_streams(rig.sim), 0);
    vfiomig_sim_free(rig.sim);
}

/* Saying that the device was reset does not make it so: it is still in RESUMING. */
static void nor_is_it_forgotten_because_of_a_mere_word(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(rig.dev, NULL, &load));
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_RESET, 1, EAGAIN, VFIOMIG_SIM_FAULT_STICKY), 0);
    spoil(load);
    vfiomig_load_free(load);
    OK(vfiomig_device_notify_reset(rig.dev));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RESUMING);
    vfiomig_sim_clear_faults(rig.sim);
    vfiomig_device_free(rig.dev);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_sim_free(rig.sim);
}

static struct rig keeps_its_state(uint64_t quirks)
{
    struct vfiomig_sim_options o = rig_options();
    o.quirks = VFIOMIG_SIM_RESET_KEEPS_STATE | quirks;
    return rig_new(&o, NULL);
}

/* The guest resets its device during pre-copy, and the VMM traps that. */
static void a_reset_that_keeps_the_state_starts_the_save_again(void)
{
    for (int drained = 0; drained < 2; drained++) {
        struct rig rig = keeps_its_state(0), to = rig_target(NULL);
        struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
        struct bytes stream = { NULL, 0, 0 };
        struct vfiomig_save *save;
        struct vfiomig_load *load;
        EQ(vfiomig_sim_guest_write(rig.sim, 0, 1000, 99), 0);
        OK(vfiomig_save_begin(rig.dev, NULL, &save));
        if (drained)
            EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
        vfiomig_sim_guest_reset(rig.sim);
        OK(vfiomig_device_notify_reset(rig.dev));
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
        OK(vfiomig_save_stop(save));
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
        OK(vfiomig_save_get_stats(save, &stats));
        EQ(stats.restarts, 1);
        OK(vfiomig_load_begin(to.dev, NULL, &load));
        CHECK(push_all(load, &stream, 8192) & VFIOMIG_PUSH_END);
        OK(vfiomig_load_commit(load));
        CHECK(vfiomig_sim_digest(to.sim) == vfiomig_sim_digest(rig.sim));
        OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
        EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
        vfiomig_load_free(load);
        vfiomig_save_free(save);
        bytes_free(&stream);
        rig_free(&rig);
        rig_free(&to);
    }
}

static void after_a_failed_load_the_device_is_as_good_as_new(void)
{
    struct rig from = rig_new(NULL, NULL), rig = keeps_its_state(0);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_load *load;
    uint64_t empty = vfiomig_sim_digest(rig.sim);
    OK(vfiomig_load_begin(rig.dev, NULL, &load));
    CHECK(vfiomig_load_push(load, stream.data, stream.len / 2) >= 0);
    EQ(vfiomig_load_commit(load), -ENODATA);
    OK(vfiomig_load_get_failure(load, &failure));
    EQ(failure.outcome, VFIOMIG_OUTCOME_RESET);
    vfiomig_load_free(load);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    CHECK(vfiomig_sim_digest(rig.sim) == empty);
    OK(vfiomig_load_begin(rig.dev, NULL, &load));
    CHECK(push_all(load, &stream, 8192) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    vfiomig_load_free(load);
    OK(vfiomig_device_run(rig.dev));
    CHECK(vfiomig_sim_digest(rig.sim) == vfiomig_sim_digest(from.sim));
    bytes_free(&stream);
    rig_free(&from);
    rig_free(&rig);
}

/* Refused because the device is stopped: it is taken to RUNNING and reset there. */
static void a_stopped_device_whose_server_refuses_resets_is_reset(void)
{
    struct rig rig = keeps_its_state(0);
    uint64_t empty = vfiomig_sim_digest(rig.sim);
    EQ(vfiomig_sim_guest_write(rig.sim, 0, 1000, 99), 0);
    OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
    OK(vfiomig_device_reset(rig.dev));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    CHECK(vfiomig_sim_digest(rig.sim) == empty);
    rig_free(&rig);
}

/* The driver answers 0 and does nothing. `nth` is the change that it only claims, from 1. */
static void made_up(uint32_t nth, int expect_target)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct vfiomig_sim *liar = expect_target ? to.sim : from.sim;
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    struct vfiomig_load *load = NULL;
    int r, at = 0;
    uint64_t mine = vfiomig_sim_digest(from.sim);

    EQ(vfiomig_sim_inject(liar, VFIOMIG_SIM_OP_SET_STATE, nth, EIO, VFIOMIG_SIM_FAULT_IGNORED), 0);
    if ((r = vfiomig_save_begin(from.dev, NULL, &save)) < 0)
        goto source;
    at = 1;
    if ((r = vfiomig_load_begin(to.dev, NULL, &load)) < 0)
        goto target;
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    if ((r = vfiomig_save_quiesce(save)) < 0 || (r = vfiomig_save_stop(save)) < 0)
        goto source;
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    CHECK(push_all(load, &stream, 8192) & VFIOMIG_PUSH_END);
    if ((r = vfiomig_load_commit(load)) < 0)
        goto target;
    r = vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE);
    /* A lie cannot prevent RELEASE: the device does not run next to its twin. */
    EQ(vfiomig_sim_state(from.sim), VFIOMIG_STATE_STOP);
    at = 2;
    r = vfiomig_device_run(to.dev);
    if (r == 0)
        EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    goto out;
source:
    CHECK(!expect_target);
    EQ(r, -EIO);
    if (at == 1)
        OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    EQ(vfiomig_sim_state(from.sim), VFIOMIG_STATE_RUNNING);
    CHECK(vfiomig_sim_digest(from.sim) == mine);
    goto out;
target:
    CHECK(expect_target);
    EQ(r, -EIO);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
out:
    CHECK(r == -EIO || at == 2);
    if (at)
        vfiomig_save_free(save);
    vfiomig_load_free(load);
    bytes_free(&stream);
    rig_free(&from);
    rig_free(&to);
}

static void a_change_that_a_driver_makes_up_is_no_change(void)
{
    /* The source begins, quiesces, stops, is released; the target resumes, commits, runs. */
    for (uint32_t nth = 1; nth <= 4; nth++)
        made_up(nth, 0);
    for (uint32_t nth = 1; nth <= 3; nth++)
        made_up(nth, 1);
}

static void a_commit_that_a_driver_makes_up_fails_while_the_source_can_go_on(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    CHECK(push_all(load, &stream, 8192) & VFIOMIG_PUSH_END);
    EQ(vfiomig_sim_inject(to.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_IGNORED), 0);
    EQ(vfiomig_load_commit(load), -EIO);
    OK(vfiomig_load_get_failure(load, &failure));
    EQ(failure.outcome, VFIOMIG_OUTCOME_RESET);
    vfiomig_load_free(load);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    bytes_free(&stream);
    rig_free(&from);
    rig_free(&to);
}

static void a_commit_after_which_the_state_cannot_be_read_fails_too(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    CHECK(push_all(load, &stream, 8192) & VFIOMIG_PUSH_END);
    /* The first check is the one before the change. */
    EQ(vfiomig_sim_inject(to.sim, VFIOMIG_SIM_OP_GET_STATE, 2, EIO, VFIOMIG_SIM_FAULT_ONCE), 0);
    EQ(vfiomig_load_commit(load), -EIO);
    vfiomig_load_free(load);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    bytes_free(&stream);
    rig_free(&from);
    rig_free(&to);
}

static void stale(uint32_t state, int expected)
{
    struct vfiomig_sim_options o = rig_options();
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
    int told = 0;
    o.initial_state = state;
    struct rig rig = rig_new(&o, NULL);
    OK(vfiomig_device_get_caps(rig.dev, &caps));
    EQ(caps.initial_state, state);
    for (uint32_t i = 0; i < caps.num_reasons; i++) {
        OK(vfiomig_device_get_reason(rig.dev, i, &reason));
        told |= reason.code == VFIOMIG_REASON_STALE_STATE;
    }
    EQ(told, expected);
    /* Once run, it no longer belongs to anyone. */
    OK(vfiomig_device_run(rig.dev));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    OK(vfiomig_device_get_caps(rig.dev, &caps));
    for (uint32_t i = 0; i < caps.num_reasons; i++) {
        OK(vfiomig_device_get_reason(rig.dev, i, &reason));
        CHECK(reason.code != VFIOMIG_REASON_STALE_STATE);
    }
    rig_free(&rig);
}

static void a_device_that_is_found_elsewhere_than_in_running_has_a_reason(void)
{
    static const uint32_t states[] = { VFIOMIG_STATE_STOP, VFIOMIG_STATE_RUNNING_P2P,
                                       VFIOMIG_STATE_STOP_COPY, VFIOMIG_STATE_RESUMING,
                                       VFIOMIG_STATE_PRE_COPY, VFIOMIG_STATE_PRE_COPY_P2P };
    stale(VFIOMIG_STATE_RUNNING, 0);
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        stale(states[i], 1);
}

static void a_device_that_was_found_stopped_is_saved_as_it_is(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.initial_state = VFIOMIG_STATE_STOP;
    struct rig rig = rig_new(&o, NULL), to = rig_target(NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save = save_all(rig.dev, NULL, 8192, &stream);
    struct vfiomig_load *load;
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_STOP);
    vfiomig_save_free(save);
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    CHECK(push_all(load, &stream, 8192) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    CHECK(vfiomig_sim_digest(to.sim) == vfiomig_sim_digest(rig.sim));
    vfiomig_load_free(load);
    bytes_free(&stream);
    rig_free(&rig);
    rig_free(&to);
}

int main(void)
{
    RUN(a_reset_that_is_held_up_is_tried_again);
    RUN(one_that_stays_held_up_is_made_good_when_the_device_is_freed);
    RUN(nor_is_it_forgotten_because_of_a_mere_word);
    RUN(a_reset_that_keeps_the_state_starts_the_save_again);
    RUN(after_a_failed_load_the_device_is_as_good_as_new);
    RUN(a_stopped_device_whose_server_refuses_resets_is_reset);
    RUN(a_change_that_a_driver_makes_up_is_no_change);
    RUN(a_commit_that_a_driver_makes_up_fails_while_the_source_can_go_on);
    RUN(a_commit_after_which_the_state_cannot_be_read_fails_too);
    RUN(a_device_that_is_found_elsewhere_than_in_running_has_a_reason);
    RUN(a_device_that_was_found_stopped_is_saved_as_it_is);
    return DONE();
}
