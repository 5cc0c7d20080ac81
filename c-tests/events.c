/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What a device reports to the VMM, in order, on the calling thread. */
#include <pthread.h>
#include <time.h>

#include "rig.h"

struct seen {
    int count, releases, bad_size, other_thread;
    struct vfiomig_event events[256];
    pthread_t thread;
    struct vfiomig_device *reenter;
    int reenter_result;
};

static void take(void *opaque, const struct vfiomig_event *event)
{
    struct seen *seen = opaque;
    seen->bad_size += event->struct_size != sizeof *event;
    seen->other_thread += !pthread_equal(seen->thread, pthread_self());
    if (seen->reenter) {
        uint32_t state;
        seen->reenter_result = vfiomig_device_get_state(seen->reenter, &state);
    }
    if (seen->count < 256)
        seen->events[seen->count++] = *event;
}

static void release(void *opaque)
{
    ((struct seen *)opaque)->releases++;
}

static struct rig watched(const struct vfiomig_sim_options *o, struct seen *seen)
{
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    *seen = (struct seen){ .thread = pthread_self() };
    options.event = take;
    options.event_opaque = seen;
    options.event_release = release;
    return rig_new(o, &options);
}

static void every_change_of_a_save_is_told_in_order(void)
{
    static const uint32_t path[] = {
        VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_PRE_COPY, VFIOMIG_STATE_PRE_COPY_P2P,
        VFIOMIG_STATE_STOP_COPY, VFIOMIG_STATE_STOP,
    };
    struct seen seen;
    struct rig rig = watched(NULL, &seen);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save = save_all(rig.dev, NULL, 8192, &stream);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
    vfiomig_save_free(save);
    EQ(seen.count, 4);
    for (int i = 0; i < 4; i++) {
        EQ(seen.events[i].kind, VFIOMIG_EVENT_STATE_CHANGED);
        EQ(seen.events[i].from, path[i]);
        EQ(seen.events[i].to, path[i + 1]);
        EQ(seen.events[i].outcome, VFIOMIG_OUTCOME_KEPT);
    }
    EQ(seen.bad_size, 0);
    EQ(seen.other_thread, 0);
    EQ(seen.releases, 0);
    rig_free(&rig);
    EQ(seen.releases, 1);
    bytes_free(&stream);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void how_long_a_change_took(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct seen seen;
    o.transition_us[VFIOMIG_STATE_STOP] = 3000;
    o.migration_flags = 1;
    struct rig rig = watched(&o, &seen);
    uint64_t before = now_ns();
    OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
    uint64_t passed = now_ns() - before;
    EQ(seen.count, 1);
    CHECK(seen.events[0].duration_ns >= 3000000);
    CHECK(seen.events[0].duration_ns <= passed);
    rig_free(&rig);
}

static int count_of(const struct seen *seen, uint32_t kind)
{
    int n = 0;
    for (int i = 0; i < seen->count; i++)
        n += seen->events[i].kind == kind;
    return n;
}

static const struct vfiomig_event *last_of(const struct seen *seen, uint32_t kind)
{
    for (int i = seen->count; i-- > 0;)
        if (seen->events[i].kind == kind)
            return &seen->events[i];
    FAIL("there was no event of kind %u", kind);
    return NULL;
}

/* A queue says the same of the next event of this kind as the callback did. */
static void queued_as_called(struct vfiomig_device *dev, const struct vfiomig_event *called)
{
    struct vfiomig_event queued = VFIOMIG_EVENT_INIT;
    do
        OK(vfiomig_device_next_event(dev, &queued));
    while (queued.kind != called->kind);
    EQ(queued.from, called->from);
    EQ(queued.to, called->to);
    EQ(queued.outcome, called->outcome);
    EQ(queued.fixups, called->fixups);
}

static void a_reset_and_a_restarted_save(void)
{
    struct seen seen;
    struct rig rig = watched(NULL, &seen);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    CHECK(vfiomig_device_get_event_fd(rig.dev) >= 0);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_device_reset(rig.dev));
    EQ(count_of(&seen, VFIOMIG_EVENT_RESET), 1);
    EQ(last_of(&seen, VFIOMIG_EVENT_RESET)->to, VFIOMIG_STATE_RUNNING);
    EQ(last_of(&seen, VFIOMIG_EVENT_RESET)->fixups,
       VFIOMIG_FIXUP_PCI_COMMAND | VFIOMIG_FIXUP_INTERRUPTS);
    EQ(count_of(&seen, VFIOMIG_EVENT_SAVE_RESTARTED), 0);
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    EQ(count_of(&seen, VFIOMIG_EVENT_SAVE_RESTARTED), 1);
    EQ(last_of(&seen, VFIOMIG_EVENT_SAVE_RESTARTED)->outcome, VFIOMIG_OUTCOME_RESET);
    queued_as_called(rig.dev, last_of(&seen, VFIOMIG_EVENT_RESET));
    queued_as_called(rig.dev, last_of(&seen, VFIOMIG_EVENT_SAVE_RESTARTED));
    vfiomig_save_free(save);
    rig_free(&rig);
    bytes_free(&stream);
}

static void a_load_tells_of_restarts_and_fixups(void)
{
    struct seen seen;
    struct rig from = rig_new(NULL, NULL), to = watched(NULL, &seen);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    OK(vfiomig_save_begin(from.dev, NULL, &save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    vfiomig_sim_guest_reset(from.sim);
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_stop(save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    CHECK(push_all(load, &stream, SIZE_MAX) & VFIOMIG_PUSH_RESTARTED);
    EQ(count_of(&seen, VFIOMIG_EVENT_LOAD_RESTARTED), 1);
    OK(vfiomig_load_commit(load));
    EQ(last_of(&seen, VFIOMIG_EVENT_FIXUPS_NEEDED)->fixups,
       VFIOMIG_FIXUP_PCI_COMMAND | VFIOMIG_FIXUP_INTERRUPTS);
    vfiomig_load_free(load);
    vfiomig_save_free(save);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void recovery_says_what_it_left_behind(void)
{
    struct seen seen;
    struct rig rig = watched(NULL, &seen);
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_ERROR), 0);
    EQ(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP), -EIO);
    EQ(last_of(&seen, VFIOMIG_EVENT_RECOVERED)->outcome, VFIOMIG_OUTCOME_RESET);
    EQ(last_of(&seen, VFIOMIG_EVENT_RECOVERED)->to, VFIOMIG_STATE_RUNNING);
    rig_free(&rig);
}

static void calling_back_into_the_same_device_is_busy_not_a_deadlock(void)
{
    struct seen seen;
    struct rig rig = watched(NULL, &seen);
    seen.reenter = rig.dev;
    OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
    EQ(seen.count, 1);
    EQ(seen.reenter_result, -EBUSY);
    seen.reenter = NULL;
    rig_free(&rig);
}

static void without_a_function_the_opaque_is_released_all_the_same(void)
{
    struct seen seen = { .count = 0 };
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    options.event_opaque = &seen;
    options.event_release = release;
    struct rig rig = rig_new(NULL, &options);
    rig_free(&rig);
    EQ(seen.releases, 1);
}

int main(void)
{
    RUN(every_change_of_a_save_is_told_in_order);
    RUN(how_long_a_change_took);
    RUN(a_reset_and_a_restarted_save);
    RUN(a_load_tells_of_restarts_and_fixups);
    RUN(recovery_says_what_it_left_behind);
    RUN(calling_back_into_the_same_device_is_busy_not_a_deadlock);
    RUN(without_a_function_the_opaque_is_released_all_the_same);
    return DONE();
}
