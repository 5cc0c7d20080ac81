/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A device that is reset may forget what it has logged. Everything counts as dirty once, the log is
 * restarted, and from then on it is exact again, whoever resets the device and whenever.
 */
#include "track.h"

#define BASE ((uint64_t)1 << 38)
#define NUM 64 /* pages */
#define ALL UINT64_MAX

struct tracked {
    struct rig rig;
    struct memory m;
    struct vfiomig_dirty *dirty;
    uint32_t number;
};

static struct tracked tracked_new(void)
{
    struct tracked d = { .rig = rig_new(NULL, NULL) };
    d.dirty = tracking_new(NULL, PAGE, 0);
    d.number = add_writer(d.dirty, NULL, d.rig.dev, VFIOMIG_WRITER_DEVICE_LOG);
    map(d.dirty, BASE, NUM * PAGE, 0, 0);
    OK(vfiomig_dirty_start(d.dirty));
    EQ(writer_of(d.dirty, d.number).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
    return d;
}

static void tracked_free(struct tracked *d)
{
    vfiomig_dirty_free(d->dirty);
    rig_free(&d->rig);
}

static uint64_t read_all(struct tracked *d, int returned)
{
    uint64_t bitmap = 0;
    EQ(vfiomig_dirty_sync(d->dirty, BASE, NUM * PAGE, PAGE, &bitmap, 1), returned);
    return bitmap;
}

static void write_page(struct tracked *d, uint64_t page)
{
    EQ(vfiomig_sim_dma_write(d->rig.sim, BASE + page * PAGE, 1), 0);
}

/* After a reset of any kind: everything once, then what was written, and no more. */
static void all_once_and_then_exact(struct tracked *d, uint32_t restarts)
{
    CHECK(read_all(d, VFIOMIG_DIRTY_ERRORS) == ALL);
    EQ(writer_of(d->dirty, d->number).restarts, restarts);
    EQ(writer_of(d->dirty, d->number).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
    EQ(error_of(d->dirty, 0).writer, d->number);
    EQ(error_of(d->dirty, 0).code, -EIO);
    CHECK(error_of(d->dirty, 0).first <= BASE);
    CHECK(error_of(d->dirty, 0).last >= BASE + NUM * PAGE - 1);
    EQ(read_all(d, 0), 0);
    write_page(d, 17);
    write_page(d, 63);
    CHECK(read_all(d, 0) == ((uint64_t)1 << 17 | (uint64_t)1 << 63));
    EQ(read_all(d, 0), 0);
}

static void a_reset_through_the_library(void)
{
    struct tracked d = tracked_new();
    for (uint32_t i = 1; i <= 3; i++) {
        write_page(&d, 5);
        OK(vfiomig_device_reset(d.rig.dev));
        write_page(&d, 6); /* nobody logs it */
        all_once_and_then_exact(&d, i);
        HAS(error_of(d.dirty, 0).text, "reset");
    }
    tracked_free(&d);
}

static void a_reset_that_the_vmm_tells_of(void)
{
    struct tracked d = tracked_new();
    write_page(&d, 5);
    vfiomig_sim_guest_reset(d.rig.sim);
    OK(vfiomig_device_notify_reset(d.rig.dev));
    write_page(&d, 6);
    all_once_and_then_exact(&d, 1);
    tracked_free(&d);
}

/* The device does not answer, and its log does not exist. */
static void a_reset_that_nobody_tells_of(void)
{
    struct tracked d = tracked_new();
    write_page(&d, 5);
    vfiomig_sim_guest_reset(d.rig.sim);
    CHECK(read_all(&d, VFIOMIG_DIRTY_ERRORS) == ALL);
    EQ(writer_of(d.dirty, d.number).restarts, 1);
    write_page(&d, 7);
    EQ(read_all(&d, 0), 1 << 7);
    tracked_free(&d);
}

static void a_reset_in_the_middle_of_a_reading(void)
{
    struct tracked d = tracked_new();
    write_page(&d, 5);
    EQ(vfiomig_sim_inject(d.rig.sim, VFIOMIG_SIM_OP_LOG_REPORT, 1, EIO, VFIOMIG_SIM_FAULT_RESET), 0);
    CHECK(read_all(&d, VFIOMIG_DIRTY_ERRORS) == ALL);
    write_page(&d, 7);
    EQ(read_all(&d, 0), 1 << 7);
    tracked_free(&d);
}

/* A load that is abandoned resets its device. */
static void a_reset_by_a_load(void)
{
    struct tracked d = tracked_new();
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(d.rig.dev, NULL, &load));
    vfiomig_load_free(load);
    EQ(vfiomig_sim_count(d.rig.sim, VFIOMIG_SIM_OP_RESET), 1);
    all_once_and_then_exact(&d, 1);
    tracked_free(&d);
}

static void a_reset_before_the_start_means_nothing(void)
{
    struct tracked d = tracked_new();
    OK(vfiomig_dirty_stop(d.dirty));
    OK(vfiomig_device_reset(d.rig.dev));
    OK(vfiomig_dirty_start(d.dirty));
    EQ(read_all(&d, 0), 0);
    write_page(&d, 1);
    EQ(read_all(&d, 0), 2);
    EQ(stats_of(d.dirty).errors, 0);
    tracked_free(&d);
}

static void what_is_unmapped_after_a_reset_is_dirty(void)
{
    struct tracked d = tracked_new();
    uint64_t bitmap = 0;
    write_page(&d, 5);
    OK(vfiomig_device_reset(d.rig.dev));
    EQ(vfiomig_dirty_unmap(d.dirty, BASE, 32 * PAGE, PAGE, &bitmap, 1, unmapped_, NULL),
       VFIOMIG_DIRTY_ERRORS);
    CHECK(bitmap == UINT32_MAX);
    CHECK(read_all(&d, 0) == ALL << 32);
    EQ(read_all(&d, 0), 0);
    tracked_free(&d);
}

/* A device that was removed cannot be asked later. */
static void a_writer_that_is_removed_after_a_reset_leaves_everything_dirty(void)
{
    struct tracked d = tracked_new();
    write_page(&d, 5);
    OK(vfiomig_device_reset(d.rig.dev));
    OK(vfiomig_dirty_remove_writer(d.dirty, d.number));
    CHECK(read_all(&d, VFIOMIG_DIRTY_ERRORS) == ALL);
    EQ(read_all(&d, 0), 0);
    tracked_free(&d);
}

static void a_log_that_does_not_start_again_is_given_up(void)
{
    struct tracked d = { .rig = rig_new(NULL, NULL) };
    struct tracker t = tracker_new(BASE, PAGE, NUM);
    d.dirty = tracking_new(NULL, PAGE, 0);
    d.number = add_writer(d.dirty, &t, d.rig.dev, VFIOMIG_WRITER_DEVICE_LOG);
    map(d.dirty, BASE, NUM * PAGE, 0, 0);
    OK(vfiomig_dirty_start(d.dirty));
    OK(vfiomig_device_reset(d.rig.dev));
    EQ(vfiomig_sim_inject(d.rig.sim, VFIOMIG_SIM_OP_LOG_START, 1, EIO, VFIOMIG_SIM_FAULT_STICKY), 0);
    CHECK(read_all(&d, VFIOMIG_DIRTY_ERRORS) == ALL);
    EQ(writer_of(d.dirty, d.number).tracker, VFIOMIG_TRACKER_CUSTOM);
    touch(&t, BASE + 3 * PAGE, 1);
    EQ(read_all(&d, 0), 1 << 3);
    vfiomig_sim_clear_faults(d.rig.sim);
    tracked_free(&d);
    tracker_free(&t);
}

/* What the VMM tracks itself is not forgotten. */
static void a_reset_is_nothing_to_the_vmms_own_tracker(void)
{
    struct tracked d = { .rig = rig_new(NULL, NULL) };
    struct tracker t = tracker_new(BASE, PAGE, NUM);
    d.dirty = tracking_new(NULL, PAGE, 0);
    d.number = add_writer(d.dirty, &t, d.rig.dev, 0);
    map(d.dirty, BASE, NUM * PAGE, 0, 0);
    OK(vfiomig_dirty_start(d.dirty));
    touch(&t, BASE + 3 * PAGE, 1);
    OK(vfiomig_device_reset(d.rig.dev));
    EQ(read_all(&d, 0), 1 << 3);
    EQ(stats_of(d.dirty).errors, 0);
    tracked_free(&d);
    tracker_free(&t);
}

/* Without a reset nothing is assumed: the whole life of a device that is saved while it is
 * tracked. */
static void saving_and_tracking_go_on_side_by_side(void)
{
    struct tracked d = tracked_new();
    struct vfiomig_save *save;
    struct bytes stream = { NULL, 0, 0 };
    OK(vfiomig_save_begin(d.rig.dev, NULL, &save));
    for (uint64_t page = 0; page < 10; page++) {
        write_page(&d, page);
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
        CHECK(read_all(&d, 0) == (uint64_t)1 << page);
    }
    write_page(&d, 20);
    OK(vfiomig_save_stop(save));
    EQ(vfiomig_sim_dma_write(d.rig.sim, BASE, 1), -EPERM);
    CHECK(read_all(&d, 0) == (uint64_t)1 << 20);
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    EQ(read_all(&d, 0), 0);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    EQ(read_all(&d, 0), 0);
    write_page(&d, 21);
    CHECK(read_all(&d, 0) == (uint64_t)1 << 21);
    EQ(stats_of(d.dirty).errors, 0);
    EQ(writer_of(d.dirty, d.number).restarts, 0);
    bytes_free(&stream);
    tracked_free(&d);
}

int main(void)
{
    RUN(a_reset_through_the_library);
    RUN(a_reset_that_the_vmm_tells_of);
    RUN(a_reset_that_nobody_tells_of);
    RUN(a_reset_in_the_middle_of_a_reading);
    RUN(a_reset_by_a_load);
    RUN(a_reset_before_the_start_means_nothing);
    RUN(what_is_unmapped_after_a_reset_is_dirty);
    RUN(a_writer_that_is_removed_after_a_reset_leaves_everything_dirty);
    RUN(a_log_that_does_not_start_again_is_given_up);
    RUN(a_reset_is_nothing_to_the_vmms_own_tracker);
    RUN(saving_and_tracking_go_on_side_by_side);
    return DONE();
}
