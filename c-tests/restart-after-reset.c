/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A guest that resets its device in the middle of a save: the stream starts again by itself, and
 * the target ends up with what the device holds at the end. A load cannot survive it.
 */
#include "rig.h"

/* When the device is reset. */
enum when { AFTER_BEGIN, HALF_WAY, WHEN_DRAINED };
/* Whether the VMM noticed, and said so. */
enum told { SILENTLY, TOLD, ASKED };

static void reset(struct rig *rig, enum told told)
{
    uint32_t state;
    vfiomig_sim_guest_reset(rig->sim);
    if (told == TOLD)
        OK(vfiomig_device_notify_reset(rig->dev));
    if (told == ASKED) {
        OK(vfiomig_device_get_state(rig->dev, &state));
        EQ(state, VFIOMIG_STATE_RUNNING);
    }
}

static void reset_during_save(enum when when, enum told told, uint32_t migration_flags)
{
    struct vfiomig_sim_options o = rig_options();
    o.migration_flags = migration_flags;
    struct rig from = rig_new(&o, NULL), to = rig_target(&o);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    /* A guest that has changed something, which the reset undoes. */
    EQ(vfiomig_sim_guest_write(from.sim, 0, 150000, 5), 0);
    uint64_t changed = vfiomig_sim_digest(from.sim);

    OK(vfiomig_save_begin(from.dev, NULL, &save));
    if (when == AFTER_BEGIN)
        reset(&from, told);
    if (when == HALF_WAY) {
        uint8_t buf[8192];
        size_t len;
        for (int i = 0; i < 5; i++) {
            EQ(vfiomig_save_next(save, buf, sizeof buf, &len), VFIOMIG_NEXT_MORE);
            bytes_add(&stream, buf, len);
        }
        reset(&from, told);
    }
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    if (when == WHEN_DRAINED)
        reset(&from, told);
    /* Reported once if an acknowledgement of the target has become void at the last moment. */
    if (migration_flags & 4 && when >= WHEN_DRAINED)
        EQ(vfiomig_save_stop(save), -EAGAIN);
    OK(vfiomig_save_stop(save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    uint64_t last = vfiomig_sim_digest(from.sim);
    CHECK(last != changed);

    struct vfiomig_save_stats saved = VFIOMIG_SAVE_STATS_INIT;
    OK(vfiomig_save_get_stats(save, &saved));
    EQ(saved.restarts, 1);
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    CHECK(push_all(load, &stream, 8192) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    CHECK(vfiomig_sim_digest(to.sim) == last);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
    vfiomig_save_free(save);
    vfiomig_load_free(load);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void at_every_step_silently(void)
{
    for (int when = AFTER_BEGIN; when <= WHEN_DRAINED; when++) {
        reset_during_save((enum when)when, SILENTLY, 7);
        reset_during_save((enum when)when, SILENTLY, 5);
    }
}

static void at_every_step_told(void)
{
    for (int when = AFTER_BEGIN; when <= WHEN_DRAINED; when++)
        reset_during_save((enum when)when, TOLD, 7);
}

static void at_every_step_noticed_by_asking(void)
{
    for (int when = AFTER_BEGIN; when <= WHEN_DRAINED; when++)
        reset_during_save((enum when)when, ASKED, 7);
}

/* The target's side of it. */
static void the_target_is_told_that_what_it_has_is_void(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
    OK(vfiomig_save_begin(from.dev, NULL, &save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    EQ(push_all(load, &stream, 1000), VFIOMIG_PUSH_INITIAL_LOADED);
    OK(vfiomig_load_get_stats(load, &stats));
    uint64_t first = stats.initial_generation;
    CHECK(first > 0);

    vfiomig_sim_guest_reset(from.sim);
    stream.len = 0;
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    EQ(push_all(load, &stream, 1000), VFIOMIG_PUSH_RESTARTED | VFIOMIG_PUSH_INITIAL_LOADED);
    OK(vfiomig_load_get_stats(load, &stats));
    EQ(stats.restarts, 1);
    /* An acknowledgement from before must not be taken for one from after. */
    CHECK(stats.initial_generation > first);
    struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
    OK(vfiomig_save_get_pending(save, &pending));
    EQ(pending.initial_generation, stats.initial_generation);

    OK(vfiomig_save_stop(save));
    stream.len = 0;
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    CHECK(push_all(load, &stream, 1000) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    CHECK(vfiomig_sim_digest(to.sim) == vfiomig_sim_digest(from.sim));
    vfiomig_save_free(save);
    vfiomig_load_free(load);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void a_reset_of_the_stopped_device_ends_the_save(void)
{
    struct rig from = rig_new(NULL, NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(from.dev, NULL, &save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_stop(save));
    vfiomig_sim_guest_reset(from.sim);
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), -ENODEV);
    EQ(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE), -EINVAL);
    EQ(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP), -EIO);
    EQ(vfiomig_sim_state(from.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_save_free(save);
    rig_free(&from);
    bytes_free(&stream);
}

static void restarts_have_a_limit(void)
{
    struct rig from = rig_new(NULL, NULL);
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    options.max_restarts = 3;
    OK(vfiomig_save_begin(from.dev, &options, &save));
    for (int i = 0; i < 3; i++) {
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
        vfiomig_sim_guest_reset(from.sim);
    }
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    vfiomig_sim_guest_reset(from.sim);
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), -ENODEV);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    rig_free(&from);
    bytes_free(&stream);
}

static void a_load_fails(enum told told, int at_commit)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_load *load;
    uint64_t power_on = vfiomig_sim_digest(to.sim);
    int r = 0;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    if (at_commit)
        CHECK(push_all(load, &stream, SIZE_MAX) & VFIOMIG_PUSH_END);
    reset(&to, told);
    if (!at_commit)
        r = push_all(load, &stream, 10000);
    if (r >= 0)
        r = vfiomig_load_commit(load);
    EQ(r, -ENODEV);
    EQ(vfiomig_load_commit(load), -EINVAL);
    vfiomig_load_free(load);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    CHECK(vfiomig_sim_digest(to.sim) == power_on);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void a_load_fails_however_it_learns(void)
{
    for (int told = SILENTLY; told <= ASKED; told++) {
        a_load_fails((enum told)told, 0);
        a_load_fails((enum told)told, 1);
    }
}

int main(void)
{
    RUN(at_every_step_silently);
    RUN(at_every_step_told);
    RUN(at_every_step_noticed_by_asking);
    RUN(the_target_is_told_that_what_it_has_is_void);
    RUN(a_reset_of_the_stopped_device_ends_the_save);
    RUN(restarts_have_a_limit);
    RUN(a_load_fails_however_it_learns);
    return DONE();
}
