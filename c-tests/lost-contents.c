/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A device that is reset behind the library's back (error recovery on the host, a bus reset) while
 * it holds the state of a guest that is stopped, or that came with a load. Whoever notices, and at
 * whatever step: it is an error with outcome RESET, and the device is neither run nor saved until
 * the VMM loads it again or says that it wants an empty one.
 */
#include "rig.h"

/* How the reset is noticed. */
enum found { BY_THE_CALL, BY_A_READ, BY_ITS_STATE, TOLD, FOUNDS };

static const uint32_t keeps[] = { VFIOMIG_ENDING_KEEP, VFIOMIG_ENDING_KEEP_QUIESCED, VFIOMIG_ENDING_KEEP_STOPPED };

static void lost(struct rig *rig, int result)
{
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    EQ(result, -EIO);
    OK(vfiomig_device_get_failure(rig->dev, &failure));
    EQ(failure.outcome, VFIOMIG_OUTCOME_RESET);
    EQ(failure.code, -EIO);
    CHECK(failure.fixups != 0);
}

/* Neither run nor saved, however often it is asked; but it may be stopped. */
static void stays_lost(struct rig *rig)
{
    struct vfiomig_save *save;
    for (int i = 0; i < 2; i++) {
        lost(rig, vfiomig_device_run(rig->dev));
        lost(rig, vfiomig_device_set_state(rig->dev, VFIOMIG_STATE_RUNNING_P2P));
        lost(rig, vfiomig_save_begin(rig->dev, NULL, &save));
        OK(vfiomig_device_set_state(rig->dev, VFIOMIG_STATE_STOP));
        /* Being told once more does not mean that the reset was wanted. */
        OK(vfiomig_device_notify_reset(rig->dev));
    }
}

static void find(struct rig *rig, enum found found)
{
    uint32_t state;
    if (found == BY_ITS_STATE) {
        OK(vfiomig_device_get_state(rig->dev, &state));
        EQ(state, VFIOMIG_STATE_RUNNING);
    }
    if (found == TOLD)
        OK(vfiomig_device_notify_reset(rig->dev));
}

/* A stopped device, or one whose stream has ended, and a guest that is to go on here. */
static void a_save(enum found found, int ended, uint32_t keep, uint32_t migration_flags)
{
    struct vfiomig_sim_options o = rig_options();
    o.migration_flags = migration_flags;
    struct rig rig = rig_new(&o, NULL);
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    uint32_t fixups = 0;

    EQ(vfiomig_sim_guest_write(rig.sim, 0, 1000, 99), 0);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_stop(save));
    if (ended)
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    vfiomig_sim_guest_reset(rig.sim);
    find(&rig, found);
    if (found == BY_A_READ)
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), -ENODEV);
    else if (found != BY_THE_CALL && !ended)
        lost(&rig, read_until(save, &stream, 8192, VFIOMIG_NEXT_END));

    lost(&rig, vfiomig_save_finish(save, keep));
    OK(vfiomig_save_get_failure(save, &failure));
    EQ(failure.outcome, VFIOMIG_OUTCOME_RESET);
    EQ(failure.state_before, VFIOMIG_STATE_STOP_COPY);
    OK(vfiomig_device_get_fixups(rig.dev, &fixups));
    EQ(fixups, VFIOMIG_FIXUP_PCI_COMMAND | VFIOMIG_FIXUP_INTERRUPTS);
    if (keep == VFIOMIG_ENDING_KEEP_STOPPED)
        EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_STOP);
    vfiomig_save_free(save);
    if (migration_flags == 7)
        stays_lost(&rig);
    /* Until an empty device is what is wanted. */
    OK(vfiomig_device_reset(rig.dev));
    OK(vfiomig_device_run(rig.dev));
    bytes_free(&stream);
    stream = stream_of(rig.dev);
    bytes_free(&stream);
    rig_free(&rig);
}

static void a_stopped_device_is_not_kept_however_its_reset_was_found(void)
{
    for (int found = 0; found < FOUNDS; found++)
        for (size_t i = 0; i < sizeof keeps / sizeof *keeps; i++)
            for (uint32_t flags = 1; flags <= 7; flags += 2)
                a_save((enum found)found, 0, keeps[i], flags);
}

static void nor_is_one_whose_stream_has_ended(void)
{
    for (int found = 0; found < FOUNDS; found++)
        for (size_t i = 0; i < sizeof keeps / sizeof *keeps; i++)
            if (found != BY_A_READ) /* there is nothing left to read */
                a_save((enum found)found, 1, keeps[i], 7);
}

static void a_released_device_is_not_taken_back(void)
{
    for (int found = 0; found < FOUNDS; found++)
        for (int before = 0; before < 2; before++) {
            struct rig rig = rig_new(NULL, NULL);
            struct bytes stream = { NULL, 0, 0 };
            struct vfiomig_save *save = save_all(rig.dev, NULL, 8192, &stream);
            if (before) {
                vfiomig_sim_guest_reset(rig.sim);
                find(&rig, (enum found)found);
            }
            /* The guest is elsewhere: nothing of it is needed here. */
            OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
            EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_STOP);
            if (!before) {
                vfiomig_sim_guest_reset(rig.sim);
                find(&rig, (enum found)found);
            }
            vfiomig_save_free(save);
            lost(&rig, vfiomig_device_run(rig.dev));
            stays_lost(&rig);
            bytes_free(&stream);
            rig_free(&rig);
        }
}

static void the_device_of_a_paused_guest_is_neither_run_nor_saved(void)
{
    for (int found = 0; found < FOUNDS; found++)
        for (int way = 0; way < 4; way++) {
            struct rig rig = rig_new(NULL, NULL);
            struct vfiomig_save *save = NULL;
            OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
            if (way == 2) /* begun before the reset, stopped after it */
                OK(vfiomig_save_begin(rig.dev, NULL, &save));
            vfiomig_sim_guest_reset(rig.sim);
            find(&rig, (enum found)found);
            switch (way) {
            case 0: lost(&rig, vfiomig_device_run(rig.dev)); break;
            case 1: lost(&rig, vfiomig_save_begin(rig.dev, NULL, &save)); break;
            case 2: lost(&rig, vfiomig_save_stop(save)); break;
            default: lost(&rig, vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_RUNNING_P2P));
            }
            vfiomig_save_free(save);
            stays_lost(&rig);
            OK(vfiomig_device_accept_reset(rig.dev));
            OK(vfiomig_device_run(rig.dev));
            rig_free(&rig);
        }
}

static void load_into(struct rig *to)
{
    struct rig from = rig_new(NULL, NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(to->dev, NULL, &load));
    CHECK(push_all(load, &stream, 8192) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    vfiomig_load_free(load);
    bytes_free(&stream);
    rig_free(&from);
}

/* Following the documentation and saying so must not be worse than keeping silent. */
static void what_was_loaded_is_not_run_whoever_knew(void)
{
    for (int found = 0; found < FOUNDS; found++)
        for (int p2p = 0; p2p < 2; p2p++) {
            struct rig to = rig_target(NULL);
            load_into(&to);
            if (p2p)
                OK(vfiomig_device_set_state(to.dev, VFIOMIG_STATE_RUNNING_P2P));
            vfiomig_sim_guest_reset(to.sim);
            find(&to, (enum found)found);
            lost(&to, vfiomig_device_run(to.dev));
            stays_lost(&to);
            /* A new load lifts it. */
            load_into(&to);
            OK(vfiomig_device_run(to.dev));
            EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
            rig_free(&to);
        }
}

/* Between the last check and the change: the change itself shows it. */
static void a_reset_just_before_a_change_is_recognised(void)
{
    for (int stop = 0; stop < 2; stop++) {
        struct rig rig = rig_new(NULL, NULL);
        struct bytes stream = { NULL, 0, 0 };
        struct vfiomig_save *save;
        uint32_t fixups = 0;
        OK(vfiomig_save_begin(rig.dev, NULL, &save));
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
        if (stop)
            OK(vfiomig_save_quiesce(save));
        EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_RESET), 0);
        /* The vCPUs are stopped, so it was not the guest. */
        lost(&rig, stop ? vfiomig_save_stop(save) : vfiomig_save_quiesce(save));
        lost(&rig, vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
        OK(vfiomig_device_get_fixups(rig.dev, &fixups));
        EQ(fixups, VFIOMIG_FIXUP_PCI_COMMAND | VFIOMIG_FIXUP_INTERRUPTS);
        vfiomig_save_free(save);
        bytes_free(&stream);
        rig_free(&rig);
    }
}

/* The vCPUs are stopped before devices are quiesced; from there on it is the same. */
static void a_quiesced_device_is_not_saved_after_a_reset(void)
{
    for (int found = 0; found < FOUNDS; found++)
        for (uint32_t flags = 3; flags <= 7; flags += 4) {
            struct vfiomig_sim_options o = rig_options();
            struct bytes stream = { NULL, 0, 0 };
            struct vfiomig_save *save;
            o.migration_flags = flags;
            struct rig rig = rig_new(&o, NULL);
            OK(vfiomig_save_begin(rig.dev, NULL, &save));
            EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
            OK(vfiomig_save_quiesce(save));
            vfiomig_sim_guest_reset(rig.sim);
            find(&rig, (enum found)found);
            if (found == BY_A_READ && flags == 7)
                EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), -EIO);
            else
                lost(&rig, vfiomig_save_stop(save));
            lost(&rig, vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
            vfiomig_save_free(save);
            stays_lost(&rig);
            bytes_free(&stream);
            rig_free(&rig);
        }
}

/* A device that waits in RUNNING_P2P for its guest, and is saved again in the meantime. */
static void a_save_of_a_device_that_waits_does_not_start_again(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save = save_all(rig.dev, NULL, 8192, &stream);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP_QUIESCED));
    vfiomig_save_free(save);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    vfiomig_sim_guest_reset(rig.sim);
    lost(&rig, read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED));
    lost(&rig, vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    stays_lost(&rig);
    bytes_free(&stream);
    rig_free(&rig);
}

/* What the library has to reset is lost in the same way. */
static void a_stop_that_ends_in_a_reset_is_remembered(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_ERROR), 0);
    EQ(vfiomig_save_stop(save), -EIO);
    lost(&rig, vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    stays_lost(&rig);
    bytes_free(&stream);
    rig_free(&rig);
}

/* A device whose next change does something other than it says, and which may not tell its
 * state. */
static struct wrapped {
    const struct vfiomig_device_ops *ops;
    struct vfiomig_sim *sim;
    enum { AS_IT_IS, RESET_AND_FAIL, DONE_AND_FAIL, IGNORED } next;
    int unreadable; /* this many questions for the state fail */
} wrapped;

static int wrapped_feature(void *sim, uint32_t flags, void *data, size_t len)
{
    int next = wrapped.next, r;
    if (flags == (1u << 16 | 2) && wrapped.unreadable > 0) {
        wrapped.unreadable--;
        return -EIO;
    }
    if (flags != (1u << 17 | 2) || next == AS_IT_IS)
        return wrapped.ops->feature(sim, flags, data, len);
    wrapped.next = AS_IT_IS;
    if (next == IGNORED)
        return 0;
    if (next == RESET_AND_FAIL) {
        vfiomig_sim_guest_reset(wrapped.sim);
        return -EIO;
    }
    r = wrapped.ops->feature(sim, flags, data, len);
    return r < 0 ? r : -EIO;
}

static struct rig wrapped_new(uint32_t initial_state)
{
    struct vfiomig_sim_options o = rig_options();
    struct rig rig;
    o.initial_state = initial_state;
    struct vfiomig_device_ops ops = rig_table(&rig, &o);
    wrapped = (struct wrapped){ vfiomig_sim_ops(rig.sim), rig.sim, AS_IT_IS, 0 };
    ops.feature = wrapped_feature;
    rig_open(&rig, &ops, NULL);
    return rig;
}

/* Error recovery on the host: the change fails, and the device has been reset. */
static void a_change_that_fails_because_of_a_reset_says_so(void)
{
    for (int way = 0; way < 3; way++) {
        struct rig rig = wrapped_new(VFIOMIG_STATE_RUNNING);
        struct bytes stream = { NULL, 0, 0 };
        struct vfiomig_save *save = NULL;
        if (way == 0) {
            save = save_all(rig.dev, NULL, 8192, &stream);
            wrapped.next = RESET_AND_FAIL;
            lost(&rig, vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
        } else {
            if (way == 1)
                OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
            else
                load_into(&rig);
            wrapped.next = RESET_AND_FAIL;
            lost(&rig, vfiomig_device_run(rig.dev));
        }
        vfiomig_save_free(save);
        stays_lost(&rig);
        bytes_free(&stream);
        rig_free(&rig);
    }
}

/* If a guest's state depends on it, the state must be known: no answer is not a good answer. */
static void a_device_that_does_not_tell_its_state_is_asked_again_and_not_believed(void)
{
    for (int way = 0; way < 4; way++) {
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        struct rig rig = wrapped_new(VFIOMIG_STATE_RUNNING);
        struct vfiomig_save *save = NULL;
        OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
        if (way >= 2)
            OK(vfiomig_save_begin(rig.dev, NULL, &save));
        vfiomig_sim_guest_reset(rig.sim);
        wrapped.unreadable = way % 2 ? 1 : 1000;
        int r = way < 2 ? vfiomig_device_run(rig.dev) : vfiomig_save_stop(save);
        if (way % 2) {
            lost(&rig, r);
        } else {
            EQ(r, -EIO);
            OK(vfiomig_device_get_failure(rig.dev, &failure));
            EQ(failure.outcome, VFIOMIG_OUTCOME_KEPT);
            wrapped.unreadable = 0;
            lost(&rig, way < 2 ? vfiomig_device_run(rig.dev) : vfiomig_save_stop(save));
        }
        vfiomig_save_free(save);
        stays_lost(&rig);
        rig_free(&rig);
    }
}

/* It was to run, did not, and was then reset. */
static void a_device_that_did_not_go_is_still_its_guests(void)
{
    struct rig rig = wrapped_new(VFIOMIG_STATE_RUNNING);
    OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
    wrapped.next = IGNORED;
    EQ(vfiomig_device_run(rig.dev), -EIO);
    vfiomig_sim_guest_reset(rig.sim);
    lost(&rig, vfiomig_device_run(rig.dev));
    stays_lost(&rig);
    rig_free(&rig);

    /* A device that was to stop, and did not, is its guest's to reset. */
    rig = wrapped_new(VFIOMIG_STATE_RUNNING);
    wrapped.next = IGNORED;
    EQ(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP), -EIO);
    vfiomig_sim_guest_reset(rig.sim);
    OK(vfiomig_device_notify_reset(rig.dev));
    struct bytes stream = stream_of(rig.dev);
    bytes_free(&stream);
    rig_free(&rig);
}

/* It went to STOP and said that it failed; or it was found there. */
static void a_device_that_is_in_stop_is_held_however_it_came_there(void)
{
    for (int found_there = 0; found_there < 2; found_there++)
        for (int way = 0; way < 3; way++) {
            struct rig rig = wrapped_new(found_there ? VFIOMIG_STATE_STOP : VFIOMIG_STATE_RUNNING);
            struct vfiomig_save *save;
            if (!found_there) {
                wrapped.next = DONE_AND_FAIL;
                EQ(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP), -EIO);
            }
            EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_STOP);
            vfiomig_sim_guest_reset(rig.sim);
            if (way == 0) {
                lost(&rig, vfiomig_device_run(rig.dev));
            } else if (way == 1) {
                lost(&rig, vfiomig_save_begin(rig.dev, NULL, &save));
            } else {
                OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
                EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_STOP);
            }
            stays_lost(&rig);
            /* Reset once more, it is stopped once more. */
            OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
            vfiomig_sim_guest_reset(rig.sim);
            OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
            EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_STOP);
            rig_free(&rig);
        }
}

/* A caller that begins a load has given up what the device held, even if the load does not
 * begin. */
static void a_load_that_fails_loses_nothing_more(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct vfiomig_load *load;
    o.migration_flags = 1; /* halfway to RESUMING is STOP */
    struct rig rig = rig_new(&o, NULL);
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_HALF), 0);
    EQ(vfiomig_load_begin(rig.dev, NULL, &load), -EIO);
    OK(vfiomig_device_run(rig.dev));
    struct bytes stream = stream_of(rig.dev);
    bytes_free(&stream);
    rig_free(&rig);
}

/* Only what brings new contents, or the VMM's word, lifts it. */
static void what_fails_does_not_lift_it(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_load *load;
    OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
    vfiomig_sim_guest_reset(rig.sim);
    lost(&rig, vfiomig_device_run(rig.dev));
    OK(vfiomig_load_begin(rig.dev, NULL, &load));
    EQ(vfiomig_load_commit(load), -ENODATA);
    vfiomig_load_free(load);
    lost(&rig, vfiomig_device_run(rig.dev));
    OK(vfiomig_load_begin(rig.dev, NULL, &load));
    vfiomig_load_free(load);
    lost(&rig, vfiomig_device_run(rig.dev));
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_RESET, 1, EIO, VFIOMIG_SIM_FAULT_ONCE), 0);
    EQ(vfiomig_device_reset(rig.dev), -EIO);
    vfiomig_sim_guest_reset(rig.sim);
    OK(vfiomig_device_notify_reset(rig.dev));
    lost(&rig, vfiomig_device_run(rig.dev));
    OK(vfiomig_device_reset(rig.dev));
    OK(vfiomig_device_run(rig.dev));
    rig_free(&rig);
}

/* A paused guest's device that had to be reset does not run next to it. */
static void the_device_of_a_paused_guest_is_left_stopped(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
    save = save_all(rig.dev, NULL, 8192, &stream);
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_ERROR), 0);
    lost(&rig, vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP) < 0 ? -EIO : 0);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_STOP);
    vfiomig_save_free(save);
    stays_lost(&rig);
    bytes_free(&stream);
    rig_free(&rig);
}

/* A running guest resets its own device, and that is its business. */
static void a_running_guest_loses_nothing(void)
{
    struct rig rig = rig_new(NULL, NULL);
    for (int told = 0; told < 2; told++) {
        vfiomig_sim_guest_reset(rig.sim);
        if (told)
            OK(vfiomig_device_notify_reset(rig.dev));
        OK(vfiomig_device_run(rig.dev));
        struct bytes stream = stream_of(rig.dev);
        bytes_free(&stream);
    }
    /* And there is nothing to accept. */
    OK(vfiomig_device_accept_reset(rig.dev));
    rig_free(&rig);
}

/* The VMM resets the stopped device on purpose: its save goes on with the empty device. */
static void a_reset_that_is_wanted_starts_the_save_again(void)
{
    for (int other_means = 0; other_means < 2; other_means++) {
        struct rig rig = rig_new(NULL, NULL);
        struct bytes stream = { NULL, 0, 0 };
        struct vfiomig_save *save;
        uint64_t empty = vfiomig_sim_digest(rig.sim);
        EQ(vfiomig_sim_guest_write(rig.sim, 0, 1000, 99), 0);
        OK(vfiomig_save_begin(rig.dev, NULL, &save));
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
        OK(vfiomig_save_stop(save));
        if (other_means) {
            vfiomig_sim_guest_reset(rig.sim);
            OK(vfiomig_device_notify_reset(rig.dev));
            OK(vfiomig_device_accept_reset(rig.dev));
        } else {
            OK(vfiomig_device_reset(rig.dev));
        }
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
        OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
        EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
        CHECK(vfiomig_sim_digest(rig.sim) == empty);
        vfiomig_save_free(save);
        bytes_free(&stream);
        rig_free(&rig);
    }
}

int main(void)
{
    RUN(a_stopped_device_is_not_kept_however_its_reset_was_found);
    RUN(nor_is_one_whose_stream_has_ended);
    RUN(a_released_device_is_not_taken_back);
    RUN(the_device_of_a_paused_guest_is_neither_run_nor_saved);
    RUN(what_was_loaded_is_not_run_whoever_knew);
    RUN(a_reset_just_before_a_change_is_recognised);
    RUN(a_quiesced_device_is_not_saved_after_a_reset);
    RUN(a_save_of_a_device_that_waits_does_not_start_again);
    RUN(a_stop_that_ends_in_a_reset_is_remembered);
    RUN(a_change_that_fails_because_of_a_reset_says_so);
    RUN(a_device_that_does_not_tell_its_state_is_asked_again_and_not_believed);
    RUN(a_device_that_did_not_go_is_still_its_guests);
    RUN(a_device_that_is_in_stop_is_held_however_it_came_there);
    RUN(a_load_that_fails_loses_nothing_more);
    RUN(what_fails_does_not_lift_it);
    RUN(the_device_of_a_paused_guest_is_left_stopped);
    RUN(a_running_guest_loses_nothing);
    RUN(a_reset_that_is_wanted_starts_the_save_again);
    return DONE();
}
