/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Which tracker a writer gets: the first one it was given that works, and the reason for it. If
 * none works, every page is always dirty, or tracking does not start.
 */
#include <fcntl.h>
#include <unistd.h>

#include "logger.h"
#include "track.h"

#define BASE ((uint64_t)1 << 35)
#define NUM 32 /* pages */

static uint64_t dirty_pages(struct vfiomig_dirty *dirty, int returned)
{
    uint64_t bitmap = 0;
    EQ(vfiomig_dirty_sync(dirty, BASE, NUM * PAGE, PAGE, &bitmap, 1), returned);
    return bitmap;
}

#define ALL 0xffffffffu

static void without_a_tracker_everything_is_dirty_at_every_time(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    uint32_t number = add_writer(dirty, NULL, NULL, 0);
    map(dirty, BASE, NUM * PAGE, 0, 0);
    EQ(writer_of(dirty, number).tracker, VFIOMIG_TRACKER_NONE);
    EQ(vfiomig_dirty_start(dirty), VFIOMIG_DIRTY_UNWATCHED);
    EQ(writer_of(dirty, number).tracker, VFIOMIG_TRACKER_ALL_DIRTY);
    for (int i = 0; i < 3; i++)
        CHECK(dirty_pages(dirty, VFIOMIG_DIRTY_UNWATCHED) == ALL);
    EQ(writer_of(dirty, number).assumed_bytes, 3 * NUM * PAGE);
    EQ(writer_of(dirty, number).dirty_bytes, 0);
    vfiomig_dirty_free(dirty);
}

static void without_a_writer_nothing_is_dirty(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    map(dirty, BASE, NUM * PAGE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    EQ(dirty_pages(dirty, 0), 0);
    EQ(stats_of(dirty).num_writers, 0);
    vfiomig_dirty_free(dirty);
}

/* A device whose log has every quirk, followed by a tracker of the VMM's. */
static void one_choice(uint64_t quirks, uint32_t fault_op, int fault, uint32_t tracker, const char *note)
{
    struct vfiomig_sim_options o = rig_options();
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, NUM);
    o.quirks = quirks;
    struct rig rig = rig_new(&o, NULL);
    uint32_t number = add_writer(dirty, &t, rig.dev,
                                 VFIOMIG_WRITER_DEVICE_LOG | VFIOMIG_WRITER_REQUIRED);
    map(dirty, BASE, NUM * PAGE, 0, 0);
    if (fault_op)
        EQ(vfiomig_sim_inject(rig.sim, fault_op, 1, fault, VFIOMIG_SIM_FAULT_STICKY), 0);
    OK(vfiomig_dirty_start(dirty));
    struct vfiomig_dirty_writer_stats stats = writer_of(dirty, number);
    EQ(stats.tracker, tracker);
    EQ(stats.page_size, PAGE);
    if (note)
        HAS(stats.note, note);
    else
        EQ(strlen(stats.note), 0);
    int by_log = tracker == VFIOMIG_TRACKER_DEVICE_LOG;
    EQ(t.starts, !by_log);
    EQ(vfiomig_sim_dma_write(rig.sim, BASE + 3 * PAGE, 1), 0);
    touch(&t, BASE + 5 * PAGE, 1);
    EQ(dirty_pages(dirty, 0), by_log ? 1 << 3 : 1 << 5);
    vfiomig_sim_clear_faults(rig.sim);
    OK(vfiomig_dirty_stop(dirty));
    EQ(t.stops, !by_log);
    EQ(writer_of(dirty, number).tracker, VFIOMIG_TRACKER_NONE);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
    rig_free(&rig);
}

static void the_first_that_works_is_taken_and_the_reason_told(void)
{
    const uint32_t log = VFIOMIG_TRACKER_DEVICE_LOG, own = VFIOMIG_TRACKER_CUSTOM;
    one_choice(0, 0, 0, log, NULL);
    one_choice(VFIOMIG_SIM_NO_LOGGING, 0, 0, own, "does not log");
    one_choice(VFIOMIG_SIM_REPORT_EOPNOTSUPP, 0, 0, own, "CONFIG_IOMMUFD");
    one_choice(0, VFIOMIG_SIM_OP_LOG_START, ENOMEM, own, "device DMA logging: the device refuses to log");
    one_choice(0, VFIOMIG_SIM_OP_LOG_START, EOPNOTSUPP, own, "refuses to log");
    one_choice(0, VFIOMIG_SIM_OP_LOG_START, ENODEV, own, "refuses to log");
    one_choice(0, VFIOMIG_SIM_OP_LOG_REPORT, EOPNOTSUPP, own, "CONFIG_IOMMUFD");
    one_choice(0, VFIOMIG_SIM_OP_LOG_REPORT, EIO, own, "does not report");
}

/* fds that are not containers or page tables. */
static void trackers_of_the_kernel_that_are_not_there(void)
{
    struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    uint32_t number;
    CHECK(null >= 0);
    writer.flags = VFIOMIG_WRITER_TYPE1 | VFIOMIG_WRITER_HWPT;
    writer.name = "nobody's";
    writer.iommufd = writer.container_fd = null;
    writer.hwpt_id = 1;
    writer.ioas_id = 1;
    OK(vfiomig_dirty_add_writer(dirty, &writer, &number));
    map(dirty, BASE, NUM * PAGE, 0, 0);
    EQ(vfiomig_dirty_start(dirty), VFIOMIG_DIRTY_UNWATCHED);
    struct vfiomig_dirty_writer_stats stats = writer_of(dirty, number);
    EQ(stats.tracker, VFIOMIG_TRACKER_ALL_DIRTY);
    const char *hwpt = strstr(stats.note, "iommufd page table: ");
    const char *type1 = strstr(stats.note, "type1 container: ");
    CHECK(hwpt && type1 && hwpt < type1);
    OK(vfiomig_dirty_stop(dirty));
    OK(vfiomig_dirty_remove_writer(dirty, number));
    writer.flags |= VFIOMIG_WRITER_REQUIRED;
    OK(vfiomig_dirty_add_writer(dirty, &writer, &number));
    EQ(vfiomig_dirty_start(dirty), -EOPNOTSUPP);
    HAS(vfiomig_error_message(), "nobody's");
    HAS(vfiomig_error_message(), "iommufd page table: ");
    HAS(vfiomig_error_message(), "type1 container: ");
    vfiomig_dirty_free(dirty);
    CHECK(fcntl(null, F_GETFD) >= 0); /* only borrowed */
    close(null);
}

static void what_is_required_and_missing_stops_the_start(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    struct tracker good = tracker_new(BASE, PAGE, NUM), bad = tracker_new(BASE, PAGE, NUM);
    uint64_t bitmap = 0;
    uint32_t first = add_writer(dirty, &good, NULL, VFIOMIG_WRITER_REQUIRED), number = 77;
    uint32_t second = add_writer(dirty, &bad, NULL, VFIOMIG_WRITER_REQUIRED);
    map(dirty, BASE, NUM * PAGE, 0, 0);
    bad.fail_start = ENOMEM;
    EQ(vfiomig_dirty_start(dirty), -EOPNOTSUPP);
    HAS(vfiomig_error_message(), "must be tracked");
    EQ(vfiomig_dirty_sync(dirty, BASE, NUM * PAGE, PAGE, &bitmap, 1), -EINVAL);
    EQ(writer_of(dirty, first).tracker, VFIOMIG_TRACKER_NONE);
    EQ(writer_of(dirty, second).tracker, VFIOMIG_TRACKER_NONE);
    EQ(good.starts, 1);
    EQ(good.stops, 1);
    OK(vfiomig_dirty_remove_writer(dirty, second));
    OK(vfiomig_dirty_start(dirty));
    /* Nor is it added while tracking is on. */
    EQ(try_add_writer(dirty, NULL, NULL, VFIOMIG_WRITER_REQUIRED, &number), -EOPNOTSUPP);
    EQ(number, 77);
    EQ(dirty_pages(dirty, 0), 0);
    /* Without the requirement it is added, and its pages are dirty. */
    OK(try_add_writer(dirty, NULL, NULL, 0, &number));
    CHECK(dirty_pages(dirty, VFIOMIG_DIRTY_UNWATCHED) == ALL);
    OK(vfiomig_dirty_remove_writer(dirty, number));
    CHECK(dirty_pages(dirty, VFIOMIG_DIRTY_UNWATCHED) == ALL);
    EQ(dirty_pages(dirty, 0), 0);
    vfiomig_dirty_free(dirty);
    tracker_free(&good);
    tracker_free(&bad);
}

/* A log that fails once is restarted; one that keeps failing is given up for the next tracker. */
static void a_log_that_fails_is_started_anew_and_then_given_up(void)
{
    static const uint32_t effects[] = { VFIOMIG_SIM_FAULT_ONCE, VFIOMIG_SIM_FAULT_HALF };
    for (int e = 0; e < 2; e++) {
        struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
        struct tracker t = tracker_new(BASE, PAGE, NUM);
        struct rig rig = rig_new(NULL, NULL);
        uint32_t number = add_writer(dirty, &t, rig.dev, VFIOMIG_WRITER_DEVICE_LOG);
        map(dirty, BASE, NUM * PAGE, 0, 0);
        OK(vfiomig_dirty_start(dirty));
        EQ(vfiomig_sim_dma_write(rig.sim, BASE, 1), 0);
        EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_LOG_REPORT, 1, EIO, effects[e]), 0);
        CHECK(dirty_pages(dirty, VFIOMIG_DIRTY_ERRORS) == ALL);
        EQ(writer_of(dirty, number).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
        EQ(writer_of(dirty, number).restarts, 1);
        EQ(error_of(dirty, 0).code, -EIO);
        EQ(error_of(dirty, 0).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
        EQ(vfiomig_sim_dma_write(rig.sim, BASE + PAGE, 1), 0);
        EQ(dirty_pages(dirty, 0), 2);
        /* Forever. */
        EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_LOG_REPORT, 1, EIO, VFIOMIG_SIM_FAULT_STICKY), 0);
        CHECK(dirty_pages(dirty, VFIOMIG_DIRTY_ERRORS) == ALL);
        struct vfiomig_dirty_writer_stats stats = writer_of(dirty, number);
        EQ(stats.tracker, VFIOMIG_TRACKER_CUSTOM);
        HAS(stats.note, "device DMA logging: ");
        EQ(t.starts, 1);
        touch(&t, BASE + 9 * PAGE, 1);
        EQ(dirty_pages(dirty, 0), 1 << 9);
        vfiomig_sim_clear_faults(rig.sim);
        vfiomig_dirty_free(dirty);
        tracker_free(&t);
        rig_free(&rig);
    }
}

/* What the simulator does not do. */

/* Starts with one mapping at BASE and one far away; returns what tracks the device then. */
static struct vfiomig_dirty_writer_stats logger_run(struct logger *d, struct vfiomig_dirty **dirty)
{
    struct vfiomig_device *dev = logger_open(d, NULL);
    *dirty = tracking_new(NULL, PAGE, 0);
    uint32_t number = add_writer(*dirty, NULL, dev, VFIOMIG_WRITER_DEVICE_LOG);
    vfiomig_device_free(dev);
    map(*dirty, BASE, NUM * PAGE, 0, 0);
    map(*dirty, BASE + ((uint64_t)1 << 33), NUM * PAGE, 0, 0);
    CHECK(vfiomig_dirty_start(*dirty) >= 0);
    return writer_of(*dirty, number);
}

static void a_log_that_an_earlier_owner_left_on_is_stopped_first(void)
{
    struct logger d = { .left_on = 1 };
    struct vfiomig_dirty *dirty;
    EQ(logger_run(&d, &dirty).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
    CHECK(d.stops > 0);
    EQ(d.num, 2); /* as they are mapped */
    logger_write(&d, BASE + 7 * PAGE);
    EQ(dirty_pages(dirty, 0), 1 << 7);
    vfiomig_dirty_free(dirty);
    EQ(d.logging, 0);
}

static void a_log_in_pages_that_cannot_be_is_not_used(void)
{
    static const uint64_t sizes[] = { 3, 5000, UINT64_MAX };
    for (int i = 0; i < 3; i++) {
        struct logger d = { .page_size = sizes[i] };
        struct vfiomig_dirty *dirty;
        struct vfiomig_dirty_writer_stats stats = logger_run(&d, &dirty);
        EQ(stats.tracker, VFIOMIG_TRACKER_ALL_DIRTY);
        HAS(stats.note, "which is impossible");
        EQ(d.logging, 0);
        vfiomig_dirty_free(dirty);
    }
}

/* The very first page is asked for at the start; what the log says then is not lost. */
static void what_is_dirty_from_the_first_moment_on_is_told(void)
{
    struct logger d = { .dirty = { BASE }, .num_dirty = 1 };
    struct vfiomig_dirty *dirty;
    EQ(logger_run(&d, &dirty).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
    EQ(dirty_pages(dirty, 0), 1);
    EQ(dirty_pages(dirty, 0), 0);
    vfiomig_dirty_free(dirty);
}

/* Two writers that are one device share one log. */
static void a_device_that_is_two_writers_is_logged_once(void)
{
    struct logger d = { 0 };
    struct vfiomig_device *dev = logger_open(&d, NULL);
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    uint32_t first = add_writer(dirty, NULL, dev, VFIOMIG_WRITER_DEVICE_LOG);
    uint32_t second = add_writer(dirty, NULL, dev, VFIOMIG_WRITER_DEVICE_LOG);
    map(dirty, BASE, NUM * PAGE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    int starts = d.starts;
    logger_write(&d, BASE + 2 * PAGE);
    EQ(dirty_pages(dirty, 0), 4);
    EQ(writer_of(dirty, first).dirty_bytes, PAGE);
    EQ(writer_of(dirty, second).dirty_bytes, PAGE);
    OK(vfiomig_dirty_remove_writer(dirty, first));
    EQ(d.logging, 1);
    EQ(d.starts, starts);
    logger_write(&d, BASE + 3 * PAGE);
    EQ(dirty_pages(dirty, 0), 8);
    OK(vfiomig_dirty_remove_writer(dirty, second));
    EQ(d.logging, 0);
    vfiomig_dirty_free(dirty);
    vfiomig_device_free(dev);
}

static void a_tracker_that_does_not_stop_is_asked_again(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    struct tracker good = tracker_new(BASE, PAGE, NUM), bad = tracker_new(BASE, PAGE, NUM);
    add_writer(dirty, &bad, NULL, 0);
    add_writer(dirty, &good, NULL, 0);
    map(dirty, BASE, NUM * PAGE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    bad.fail_stop = ENOTCONN;
    EQ(vfiomig_dirty_stop(dirty), -EIO);
    EQ(bad.stops, 1);
    EQ(good.stops, 1);
    EQ(vfiomig_dirty_stop(dirty), -EIO);
    EQ(bad.stops, 2);
    bad.fail_stop = 0;
    OK(vfiomig_dirty_stop(dirty));
    OK(vfiomig_dirty_stop(dirty));
    EQ(bad.stops, 3);
    EQ(good.stops, 1);
    vfiomig_dirty_free(dirty);
    tracker_free(&good);
    tracker_free(&bad);
}

int main(void)
{
    RUN(without_a_tracker_everything_is_dirty_at_every_time);
    RUN(without_a_writer_nothing_is_dirty);
    RUN(the_first_that_works_is_taken_and_the_reason_told);
    RUN(trackers_of_the_kernel_that_are_not_there);
    RUN(what_is_required_and_missing_stops_the_start);
    RUN(a_log_that_fails_is_started_anew_and_then_given_up);
    RUN(a_log_that_an_earlier_owner_left_on_is_stopped_first);
    RUN(a_log_in_pages_that_cannot_be_is_not_used);
    RUN(what_is_dirty_from_the_first_moment_on_is_told);
    RUN(a_device_that_is_two_writers_is_logged_once);
    RUN(a_tracker_that_does_not_stop_is_asked_again);
    return DONE();
}
