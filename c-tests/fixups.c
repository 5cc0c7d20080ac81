/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A load and a reset report what the VMM must redo before a device runs. */
#include "rig.h"

#define BOTH (VFIOMIG_FIXUP_PCI_COMMAND | VFIOMIG_FIXUP_INTERRUPTS)

static void expect(struct vfiomig_device *dev, uint32_t want)
{
    uint32_t fixups = 99;
    OK(vfiomig_device_get_fixups(dev, &fixups));
    EQ(fixups, want);
}

static void after_a_load_until_it_runs(void)
{
    struct rig from = rig_new(NULL, NULL), to = rig_target(NULL);
    struct bytes stream = stream_of(from.dev);
    struct vfiomig_load *load;
    expect(from.dev, 0); /* saving and keeping loses nothing */
    expect(to.dev, 0);
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    CHECK(push_all(load, &stream, SIZE_MAX) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    expect(to.dev, BOTH);
    OK(vfiomig_device_run(to.dev));
    expect(to.dev, 0);
    vfiomig_load_free(load);
    rig_free(&from);
    rig_free(&to);
    bytes_free(&stream);
}

static void after_a_reset_of_either_kind(void)
{
    struct rig rig = rig_new(NULL, NULL);
    OK(vfiomig_device_reset(rig.dev));
    expect(rig.dev, BOTH);
    OK(vfiomig_device_run(rig.dev));
    expect(rig.dev, 0);
    vfiomig_sim_guest_reset(rig.sim);
    OK(vfiomig_device_notify_reset(rig.dev));
    expect(rig.dev, BOTH);
    rig_free(&rig);
}

static void after_a_load_that_was_given_up(void)
{
    struct rig to = rig_target(NULL);
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(to.dev, NULL, &load));
    vfiomig_load_free(load);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    expect(to.dev, BOTH);
    rig_free(&to);
}

/* They say what to redo, not that anything is lost: the guest may go on, and knows what it did. */
static void after_a_guests_own_reset_although_nothing_is_lost(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(read_until(save, &stream, 1 << 17, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    vfiomig_sim_guest_reset(rig.sim);
    OK(vfiomig_device_notify_reset(rig.dev));
    EQ(read_until(save, &stream, 1 << 17, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_stop(save));
    expect(rig.dev, BOTH);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    expect(rig.dev, BOTH);
    OK(vfiomig_device_run(rig.dev)); /* which runs already */
    expect(rig.dev, 0);
    vfiomig_save_free(save);
    rig_free(&rig);
    bytes_free(&stream);
}

int main(void)
{
    RUN(after_a_load_until_it_runs);
    RUN(after_a_reset_of_either_kind);
    RUN(after_a_load_that_was_given_up);
    RUN(after_a_guests_own_reset_although_nothing_is_lost);
    return DONE();
}
