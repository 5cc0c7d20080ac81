/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The same two devices migrate a guest back and forth, and a source is given to another guest after
 * its own has left.
 */
#include "lab.h"

#define ROUND_TRIPS 10

/* One migration: what `from` holds goes to `to`, which then runs. */
static void migrate(struct vfiomig_device *from, struct vfiomig_device *to, uint32_t flags)
{
    struct lab_bytes stream = { 0 };
    struct vfiomig_save *save = lab_save_begin_to_end(from, flags, 4096, &stream);

    OK(lab_load(to, NULL, stream.data, stream.len, 50, NULL));
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
    vfiomig_save_free(save);
    OK(vfiomig_device_run(to));
    lab_free(&stream);
}

static void ten_times_there_and_back(void)
{
    const enum lab_how *how = lab_arg();
    struct lab_device devices[2];
    struct vfiomig_device *handles[2];

    for (int i = 0; i < 2; i++)
        handles[i] = lab_new(&devices[i], 2, *how);
    lab_fill(&devices[0], 1000);
    for (unsigned trip = 0; trip < 2 * ROUND_TRIPS; trip++) {
        unsigned from = trip % 2, to = 1 - from;

        migrate(handles[from], handles[to], trip / 2 % 2 ? VFIOMIG_SAVE_NO_PRE_COPY : 0);
        lab_expect_state(&devices[from], handles[from], VFIOMIG_STATE_STOP);
        lab_expect_state(&devices[to], handles[to], VFIOMIG_STATE_RUNNING);
        lab_expect_contents(&devices[to], 1000 + trip);
        /* The guest works on. */
        lab_fill(&devices[to], 1000 + trip + 1);
    }
    for (int i = 0; i < 2; i++) {
        vfiomig_device_free(handles[i]);
        lab_close(&devices[i]);
    }
}

static void a_source_is_used_again(void)
{
    const enum lab_how *how = lab_arg();
    struct lab_device source, first, second;
    struct vfiomig_device *from = lab_new(&source, 2, *how), *one = lab_new(&first, 2, *how),
                          *two = lab_new(&second, 2, *how);
    uint32_t fixups;

    lab_fill(&source, 1);
    migrate(from, one, 0);
    /* The guest has left; the next one gets a device that was reset. */
    lab_expect_state(&source, from, VFIOMIG_STATE_STOP);
    OK(vfiomig_device_reset(from));
    lab_expect_state(&source, from, VFIOMIG_STATE_RUNNING);
    OK(vfiomig_device_get_fixups(from, &fixups));
    EXPECT(fixups, VFIOMIG_FIXUP_PCI_COMMAND | VFIOMIG_FIXUP_INTERRUPTS);
    OK(vfiomig_device_run(from));
    OK(vfiomig_device_get_fixups(from, &fixups));
    EXPECT(fixups, 0);
    lab_fill(&source, 2);
    migrate(from, two, 0);
    lab_expect_contents(&first, 1);
    lab_expect_contents(&second, 2);

    /* As far as the device can tell, by another process: closed in STOP and opened again. */
    vfiomig_device_free(from);
    lab_close(&source);
    lab_open(&source, *how);
    from = lab_handle(&source);
    lab_expect_state(&source, from, VFIOMIG_STATE_STOP);
    OK(vfiomig_device_run(from));
    lab_fill(&source, 3);
    migrate(from, one, VFIOMIG_SAVE_NO_PRE_COPY);
    lab_expect_contents(&first, 3);
    /* A former source holds what it now loads. */
    lab_fill(&second, 4);
    migrate(two, from, 0);
    lab_expect_contents(&source, 4);

    vfiomig_device_free(from);
    vfiomig_device_free(one);
    vfiomig_device_free(two);
    lab_close(&source);
    lab_close(&first);
    lab_close(&second);
}

int main(void)
{
    static const enum lab_how hows[] = { LAB_GROUP, LAB_CDEV };

    if (lab_boot() != 1)
        return 77;
    for (size_t i = 0; i < 2; i++) {
        lab_run_arg(ten_times_there_and_back, &hows[i], "there-and-back-%s", lab_how_name(hows[i]));
        lab_run_arg(a_source_is_used_again, &hows[i], "there-and-back-reuse-%s",
                    lab_how_name(hows[i]));
    }
    return lab_status();
}
