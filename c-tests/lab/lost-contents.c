/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The host resets a device whose guest is stopped, or whose state came with a load and has not run:
 * error recovery, a bus reset. The kernel says nothing; the device is in RUNNING, in its power-on
 * state. Whoever notices, the guest must not silently go on with it.
 */
#include "lab.h"

enum found { BY_THE_CALL, BY_ITS_STATE, TOLD, FOUNDS };

static const char *const found_names[FOUNDS] = { "by-the-call", "by-its-state", "told" };

/* Where the guest's state is. */
enum held { STOPPED, STOPPED_DATA, ENDED, RELEASED, PAUSED, LOADED, HELDS };

static const char *const held_names[HELDS] = {
    "stopped", "stopped-data", "ended", "released", "paused", "loaded",
};

struct variety {
    enum found found;
    enum held held;
    enum lab_how how;
};

static void expect_lost(struct vfiomig_device *device, int ret)
{
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;

    EXPECT(ret, -EIO);
    OK(vfiomig_device_get_failure(device, &failure));
    EXPECT(failure.outcome, VFIOMIG_OUTCOME_RESET);
}

static void the_guest_does_not_go_on_with_an_empty_device(void)
{
    const struct variety *v = lab_arg();
    static const uint32_t keeps[] = { VFIOMIG_ENDING_KEEP, VFIOMIG_ENDING_KEEP_QUIESCED, VFIOMIG_ENDING_KEEP_STOPPED };

    for (size_t i = 0; i < (v->held <= ENDED ? 3 : 1); i++) {
        struct lab_device machine;
        struct vfiomig_device *device = lab_new(&machine, 2, v->how);
        struct lab_bytes stream = { 0 };
        struct vfiomig_save *save = NULL;
        uint32_t state, fixups = 0;

        lab_fill(&machine, 10);
        switch (v->held) {
        case STOPPED:
        case STOPPED_DATA:
            OK(vfiomig_save_begin(device, NULL, &save));
            CALL(lab_pump(save, &stream, 4096), VFIOMIG_NEXT_DRAINED);
            OK(vfiomig_save_stop(save));
            if (v->held == STOPPED_DATA) {
                unsigned char piece[4096];
                size_t len;
                CALL(vfiomig_save_next(save, piece, sizeof(piece), &len), VFIOMIG_NEXT_MORE);
            }
            break;
        case ENDED:
            save = lab_save_begin_to_end(device, 0, 4096, &stream);
            break;
        case RELEASED:
            save = lab_save_begin_to_end(device, 0, 4096, &stream);
            OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
            vfiomig_save_free(save);
            save = NULL;
            break;
        case PAUSED:
            OK(vfiomig_device_set_state(device, VFIOMIG_STATE_STOP));
            break;
        case LOADED:
        case HELDS:
            stream = lab_save(device, 0, 4096, VFIOMIG_ENDING_KEEP);
            OK(lab_load(device, NULL, stream.data, stream.len, 0, NULL));
            break;
        }
        OK(lab_raw_reset(machine.fd));
        if (v->found == BY_ITS_STATE) {
            OK(vfiomig_device_get_state(device, &state));
            EXPECT(state, VFIOMIG_STATE_RUNNING);
        }
        if (v->found == TOLD)
            OK(vfiomig_device_notify_reset(device));
        if (save)
            expect_lost(device, vfiomig_save_finish(save, keeps[i]));
        vfiomig_save_free(save);
        for (int n = 0; n < 2; n++) {
            expect_lost(device, vfiomig_device_run(device));
            expect_lost(device, vfiomig_save_begin(device, NULL, &save));
        }
        OK(vfiomig_device_get_fixups(device, &fixups));
        EXPECT(fixups, VFIOMIG_FIXUP_PCI_COMMAND | VFIOMIG_FIXUP_INTERRUPTS);
        /* In its power-on state, because the VMM says so; the guest's driver sets it up. */
        OK(i % 2 ? vfiomig_device_reset(device) : vfiomig_device_accept_reset(device));
        OK(vfiomig_device_run(device));
        lab_fill(&machine, 20);
        lab_free(&stream);
        stream = lab_save(device, 0, 4096, VFIOMIG_ENDING_KEEP);
        lab_expect_contents(&machine, 20);
        lab_free(&stream);
        vfiomig_device_free(device);
        lab_remove(&machine);
    }
}

/* A VMM that died has left its device in STOP: the next one is told, and can choose. */
static void a_device_that_is_found_stopped_has_a_reason(void)
{
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
    struct lab_device machine;
    struct vfiomig_device *device = lab_new(&machine, 2, LAB_GROUP);
    int told = 0;

    lab_fill(&machine, 30);
    OK(vfiomig_device_set_state(device, VFIOMIG_STATE_STOP));
    vfiomig_device_free(device);
    EXPECT(lab_raw_state(machine.fd), VFIOMIG_STATE_STOP);
    device = lab_handle(&machine);
    OK(vfiomig_device_get_caps(device, &caps));
    EXPECT(caps.initial_state, VFIOMIG_STATE_STOP);
    for (uint32_t i = 0; i < caps.num_reasons; i++) {
        OK(vfiomig_device_get_reason(device, i, &reason));
        told |= reason.code == VFIOMIG_REASON_STALE_STATE;
    }
    CHECK(told, "no reason says that the device was left in STOP");
    OK(vfiomig_device_run(device));
    lab_expect_state(&machine, device, VFIOMIG_STATE_RUNNING);
    lab_expect_contents(&machine, 30);
    vfiomig_device_free(device);
    lab_remove(&machine);
}

int main(void)
{
    static struct variety v;

    if (lab_boot() != 1)
        return 77;
    for (v.held = STOPPED; v.held < HELDS; v.held++)
        for (v.found = BY_THE_CALL; v.found < FOUNDS; v.found++) {
            v.how = LAB_GROUP;
            lab_run_arg(the_guest_does_not_go_on_with_an_empty_device, &v, "lost-%s-%s",
                        held_names[v.held], found_names[v.found]);
        }
    lab_run("found-stopped", a_device_that_is_found_stopped_has_a_reason);
    return lab_status();
}
