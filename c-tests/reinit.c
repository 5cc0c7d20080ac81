/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Initial data: both sides are told when all of it was sent and loaded, and told again when the
 * device starts it anew; an acknowledgement of before does not count for after.
 */
#include "rig.h"

static struct vfiomig_pending pending_of(struct vfiomig_save *save)
{
    struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
    OK(vfiomig_save_get_pending(save, &pending));
    return pending;
}

static uint64_t loaded_generation(struct vfiomig_load *load)
{
    struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
    OK(vfiomig_load_get_stats(load, &stats));
    return stats.initial_generation;
}

static void both_sides_learn_of_a_new_beginning(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.quirks = VFIOMIG_SIM_PRECOPY_INFO_V2;
    struct rig from = rig_new(&o, NULL), to = rig_target(&o);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    OK(vfiomig_save_begin(from.dev, NULL, &save));
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    struct vfiomig_pending pending = pending_of(save);
    CHECK(pending.flags & VFIOMIG_PENDING_PRE_COPY_KNOWN);
    CHECK(!(pending.flags & VFIOMIG_PENDING_INITIAL_SENT));
    CHECK(pending.initial_bytes > 0);
    EQ(loaded_generation(load), 0);

    EQ(read_until(save, &stream, 8192, VFIOMIG_DRAINED), VFIOMIG_DRAINED);
    pending = pending_of(save);
    CHECK(pending.flags & VFIOMIG_PENDING_INITIAL_SENT);
    EQ(pending.initial_bytes, 0);
    EQ(push_all(load, &stream, 1000), VFIOMIG_INITIAL_LOADED);
    EQ(loaded_generation(load), pending.initial_generation);

    vfiomig_sim_reinit(from.sim);
    struct vfiomig_pending again = pending_of(save);
    CHECK(again.initial_generation > pending.initial_generation);
    CHECK(!(again.flags & VFIOMIG_PENDING_INITIAL_SENT));
    CHECK(loaded_generation(load) != again.initial_generation);
    stream.len = 0;
    EQ(read_until(save, &stream, 8192, VFIOMIG_DRAINED), VFIOMIG_DRAINED);
    EQ(push_all(load, &stream, 1000), VFIOMIG_INITIAL_LOADED);
    again = pending_of(save);
    EQ(loaded_generation(load), again.initial_generation);

    /* Also where nobody asks: reading finds out. */
    vfiomig_sim_reinit(from.sim);
    stream.len = 0;
    EQ(read_until(save, &stream, 8192, VFIOMIG_DRAINED), VFIOMIG_DRAINED);
    EQ(push_all(load, &stream, 1000), VFIOMIG_INITIAL_LOADED);
    CHECK(loaded_generation(load) > again.initial_generation);
    EQ(loaded_generation(load), pending_of(save).initial_generation);

    OK(vfiomig_save_stop(save));
    stream.len = 0;
    EQ(read_until(save, &stream, 8192, VFIOMIG_END), VFIOMIG_END);
    CHECK(push_all(load, &stream, SIZE_MAX) & VFIOMIG_END);
    OK(vfiomig_load_commit(load));
    CHECK(vfiomig_sim_digest(to.sim) == vfiomig_sim_digest(from.sim));
    vfiomig_load_free(load);
    vfiomig_save_free(save);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

/* Flags that mean nothing, because the kernel has no version 2, are not looked at. */
static void rubbish_of_older_kernels_is_ignored(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.quirks = VFIOMIG_SIM_FLAGS_ECHO;
    struct rig rig = rig_new(&o, NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_DRAINED), VFIOMIG_DRAINED);
    uint32_t generation = pending_of(save).initial_generation;
    for (int i = 0; i < 5; i++)
        EQ(pending_of(save).initial_generation, generation);
    vfiomig_save_free(save);
    rig_free(&rig);
    bytes_free(&stream);
}

static void what_the_guest_changes_is_pending(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_DRAINED), VFIOMIG_DRAINED);
    EQ(pending_of(save).dirty_bytes, 0);
    EQ(vfiomig_sim_guest_write(rig.sim, 0, 50000, 4), 0);
    struct vfiomig_pending pending = pending_of(save);
    CHECK(pending.dirty_bytes >= 50000);
    CHECK(pending.flags & VFIOMIG_PENDING_STOP_COPY_KNOWN);
    EQ(read_until(save, &stream, 8192, VFIOMIG_DRAINED), VFIOMIG_DRAINED);
    EQ(pending_of(save).dirty_bytes, 0);
    vfiomig_save_free(save);
    rig_free(&rig);
    bytes_free(&stream);
}

int main(void)
{
    RUN(both_sides_learn_of_a_new_beginning);
    RUN(rubbish_of_older_kernels_is_ignored);
    RUN(what_the_guest_changes_is_pending);
    return DONE();
}
