/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The memory map: an invalid mapping is refused and changes nothing, what enumerate adds replaces
 * what was there, and mappings that are added while tracking is on are not forgotten.
 */
#include "kernel-structs.h"
#include "track.h"

#define BASE ((uint64_t)1 << 33)

/* What the device's log was asked. */
static struct {
    uint32_t starts, num_ranges;
    uint64_t ranges[256][2];
} logged;

static int logged_feature(void *sim, uint32_t flags, void *data, size_t len)
{
    if (flags == (1u << 17 | 6) && len >= 24) {
        struct log_control control;
        memcpy(&control, data, sizeof control);
        logged.starts++;
        logged.num_ranges = control.num_ranges;
        if (logged.num_ranges <= 256)
            memcpy(logged.ranges, (void *)(uintptr_t)control.ranges,
                   logged.num_ranges * sizeof *logged.ranges);
    }
    return vfiomig_sim_ops(sim)->feature(sim, flags, data, len);
}

static struct rig logged_new(const struct vfiomig_sim_options *options)
{
    struct rig rig;
    struct vfiomig_device_ops ops = rig_table(&rig, options);
    memset(&logged, 0, sizeof logged);
    ops.feature = logged_feature;
    rig_open(&rig, &ops, NULL);
    return rig;
}

static int is_logged(uint64_t iova)
{
    for (uint32_t i = 0; i < logged.num_ranges; i++)
        if (iova >= logged.ranges[i][0] && iova - logged.ranges[i][0] < logged.ranges[i][1])
            return 1;
    return 0;
}

static void mappings_that_are_none_change_nothing(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, 2 * PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 64);
    uint64_t end = 0 - (uint64_t)2 * PAGE;
    struct {
        uint64_t iova, size, offset;
        uint32_t flags;
    } wrong[] = {
        { BASE + 64 * PAGE, 0, 0, 0 },
        { BASE + 64 * PAGE, PAGE, 0, 0 },              /* half a page of the tracking object */
        { BASE + 65 * PAGE, 2 * PAGE, 0, 0 },
        { BASE + 64 * PAGE, 2 * PAGE, PAGE, 0 },       /* the offset */
        { BASE + 64 * PAGE, 2 * PAGE, 0, 8 },
        { BASE + 64 * PAGE, 2 * PAGE, 0, 1u << 31 },
        { BASE + 64 * PAGE, 4 * PAGE, end, 0 },        /* the offset wraps */
        { end, 4 * PAGE, 0, 0 },                       /* the address wraps */
        { BASE, 2 * PAGE, 0, 0 },                      /* there is one already */
        { BASE + 62 * PAGE, 4 * PAGE, 0, 0 },
        { BASE - 2 * PAGE, 4 * PAGE, 0, 0 },
        { 0, (uint64_t)1 << 60, 0, 0 },
        { BASE + 64 * PAGE, (uint64_t)1 << 49, 0, 0 }, /* too much */
    };
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, 64 * PAGE, 0, 0);
    for (int tracking = 0; tracking < 2; tracking++) {
        uint64_t bitmap = 0;
        for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
            EQ(try_map(dirty, wrong[i].iova, wrong[i].size, 1, wrong[i].offset, wrong[i].flags),
               -EINVAL);
            EQ(stats_of(dirty).mapped_bytes, 64 * PAGE);
        }
        if (!tracking)
            OK(vfiomig_dirty_start(dirty));
        touch(&t, BASE + PAGE, 1);
        OK(vfiomig_dirty_sync(dirty, BASE, 64 * PAGE, PAGE, &bitmap, 1));
        EQ(bitmap, 3);
    }
    /* Next to it there is room, up to the end. */
    map(dirty, BASE + 64 * PAGE, 2 * PAGE, 1, 0);
    map(dirty, end, 2 * PAGE, 1, end);
    EQ(try_map(dirty, BASE + 64 * PAGE, 2 * PAGE, 2, 0, 0), -EINVAL);
    HAS(vfiomig_error_message(), "overlaps");
    /* What is already there, exactly like this, is there. */
    EQ(stats_of(dirty).mapped_bytes, 68 * PAGE);
    map(dirty, BASE + 64 * PAGE, 2 * PAGE, 1, 0);
    EQ(stats_of(dirty).mapped_bytes, 68 * PAGE);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

/* enumerate. */

struct vmm {
    struct vfiomig_mapping mappings[8];
    int num, fail_after, fail, swallow, calls;
};

static int enumerate(void *opaque, vfiomig_mapping_fn add, void *add_opaque)
{
    struct vmm *vmm = opaque;
    vmm->calls++;
    for (int i = 0; i < vmm->num; i++) {
        if (vmm->fail && i == vmm->fail_after)
            return -vmm->fail;
        int r = add(add_opaque, &vmm->mappings[i]);
        if (r < 0 && !vmm->swallow)
            return r;
    }
    return 0;
}

static void vmm_map(struct vmm *vmm, uint64_t iova, uint64_t size)
{
    struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
    mapping.iova = iova;
    mapping.size = size;
    vmm->mappings[vmm->num++] = mapping;
}

static struct vfiomig_dirty *vmm_run(struct vmm *vmm)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty_options options = VFIOMIG_DIRTY_OPTIONS_INIT;
    struct vfiomig_dirty *dirty;
    ops.enumerate = enumerate;
    options.page_size = PAGE;
    OK(vfiomig_dirty_new(&ops, vmm, &options, &dirty));
    return dirty;
}

static void what_enumerate_gives_replaces_what_was_mapped(void)
{
    struct vmm vmm = { .num = 0 };
    struct vfiomig_dirty *dirty = vmm_run(&vmm);
    struct tracker t = tracker_new(BASE, PAGE, 64);
    uint64_t bitmap = 0;
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, 8 * PAGE, 0, 0);
    EQ(vmm.calls, 0);
    vmm_map(&vmm, BASE + 4 * PAGE, 8 * PAGE);
    vmm_map(&vmm, BASE + 32 * PAGE, 2 * PAGE);
    OK(vfiomig_dirty_start(dirty));
    EQ(vmm.calls, 1);
    EQ(stats_of(dirty).mapped_bytes, 10 * PAGE);
    touch(&t, BASE, 64 * PAGE);
    OK(vfiomig_dirty_sync(dirty, BASE, 64 * PAGE, PAGE, &bitmap, 1));
    CHECK(bitmap == (0xff0 | (uint64_t)3 << 32));
    /* Afterwards mappings are added; the next start asks again. */
    map(dirty, BASE, PAGE, 0, 0);
    OK(vfiomig_dirty_stop(dirty));
    EQ(stats_of(dirty).mapped_bytes, 11 * PAGE);
    OK(vfiomig_dirty_start(dirty));
    EQ(stats_of(dirty).mapped_bytes, 10 * PAGE);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

static void an_enumeration_that_fails_changes_nothing(void)
{
    struct vmm vmm = { .num = 0 };
    struct vfiomig_dirty *dirty = vmm_run(&vmm);
    struct tracker t = tracker_new(BASE, PAGE, 64);
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, 8 * PAGE, 0, 0);
    vmm_map(&vmm, BASE + 16 * PAGE, PAGE);
    vmm_map(&vmm, BASE + 18 * PAGE, PAGE);
    vmm_map(&vmm, BASE + 20 * PAGE, PAGE);
    static const struct { int fail, code; } errors[] = { { ENOMEM, ENOMEM }, { ENOENT, EIO }, { EIO, EIO } };
    for (int e = 0; e < 3; e++)
        for (vmm.fail_after = 0; vmm.fail_after < 3; vmm.fail_after++) {
            vmm.fail = errors[e].fail;
            EQ(vfiomig_dirty_start(dirty), -errors[e].code);
            EQ(stats_of(dirty).mapped_bytes, 8 * PAGE);
            EQ(t.starts, 0);
        }
    /* One that is wrong, whether or not enumerate says so. */
    vmm.fail = 0;
    vmm.mappings[1].iova = BASE + 16 * PAGE;
    vmm.mappings[1].cookie = 1;
    for (vmm.swallow = 0; vmm.swallow < 2; vmm.swallow++) {
        EQ(vfiomig_dirty_start(dirty), -EINVAL);
        HAS(vfiomig_error_message(), "overlaps");
        EQ(stats_of(dirty).mapped_bytes, 8 * PAGE);
        EQ(t.starts, 0);
    }
    /* Still idle. */
    uint64_t bitmap = 0;
    EQ(vfiomig_dirty_sync(dirty, BASE, PAGE, PAGE, &bitmap, 1), -EINVAL);
    vmm.mappings[1].iova = BASE + 18 * PAGE;
    OK(vfiomig_dirty_start(dirty));
    EQ(t.starts, 1);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

/* Also if it is a tracker that fails, after enumerate. */
static void a_start_that_fails_leaves_the_map_as_it_was(void)
{
    struct vmm vmm = { .num = 0 };
    struct vfiomig_dirty *dirty = vmm_run(&vmm);
    struct tracker good = tracker_new(BASE, PAGE, 64), bad = tracker_new(BASE, PAGE, 64);
    add_writer(dirty, &good, NULL, 0);
    add_writer(dirty, &bad, NULL, VFIOMIG_WRITER_REQUIRED);
    map(dirty, BASE, 8 * PAGE, 0, 0);
    vmm_map(&vmm, BASE + 16 * PAGE, PAGE);
    bad.fail_start = EIO;
    EQ(vfiomig_dirty_start(dirty), -EOPNOTSUPP);
    EQ(stats_of(dirty).mapped_bytes, 8 * PAGE);
    EQ(good.starts, 1);
    EQ(good.stops, 1);
    EQ(writer_of(dirty, 0).tracker, VFIOMIG_TRACKER_NONE);
    bad.fail_start = 0;
    OK(vfiomig_dirty_start(dirty));
    EQ(stats_of(dirty).mapped_bytes, PAGE);
    vfiomig_dirty_free(dirty);
    tracker_free(&good);
    tracker_free(&bad);
}

static void a_mapping_that_comes_later_is_tracked_at_once(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 64);
    uint64_t bitmap = 0;
    add_writer(dirty, &t, NULL, 0);
    OK(vfiomig_dirty_start(dirty)); /* with an empty map */
    map(dirty, BASE + 8 * PAGE, 8 * PAGE, 0, 0);
    touch(&t, BASE + 9 * PAGE, 1);
    touch(&t, BASE + 20 * PAGE, 1);
    OK(vfiomig_dirty_sync(dirty, BASE, 64 * PAGE, PAGE, &bitmap, 1));
    EQ(bitmap, 1 << 9);
    map(dirty, BASE + 16 * PAGE, 8 * PAGE, 0, 0);
    touch(&t, BASE + 20 * PAGE, 1);
    bitmap = 0;
    OK(vfiomig_dirty_sync(dirty, BASE, 64 * PAGE, PAGE, &bitmap, 1));
    EQ(bitmap, 1 << 20);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

/* A device's log accepts no more ranges once it is on. */
static void what_a_log_does_not_watch_is_dirty_until_it_is_rearmed(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    uint64_t bitmap = 0;
    struct rig rig = logged_new(NULL);
    uint32_t number = add_writer(dirty, NULL, rig.dev, VFIOMIG_WRITER_DEVICE_LOG);
    map(dirty, BASE, 32 * PAGE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    EQ(logged.starts, 1);
    map(dirty, BASE + 40 * PAGE, 4 * PAGE, 0, 0);
    for (int round = 0; round < 3; round++) {
        EQ(vfiomig_sim_dma_write(rig.sim, BASE + 5 * PAGE, 1), 0);
        bitmap = 0;
        EQ(vfiomig_dirty_sync(dirty, BASE, 64 * PAGE, PAGE, &bitmap, 1), VFIOMIG_DIRTY_UNWATCHED);
        CHECK(bitmap == (1 << 5 | (uint64_t)15 << 40));
    }
    EQ(writer_of(dirty, number).assumed_bytes, 3 * 4 * PAGE);
    /* Only a reading that touches it says so. */
    EQ(vfiomig_dirty_sync(dirty, BASE, 32 * PAGE, PAGE, &bitmap, 1), 0);
    /* The device is stopped: nothing can be lost. */
    OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
    EQ(vfiomig_dirty_rearm(dirty), 0);
    EQ(logged.starts, 2);
    EQ(is_logged(BASE + 41 * PAGE), 1);
    OK(vfiomig_device_run(rig.dev));
    bitmap = 0;
    OK(vfiomig_dirty_sync(dirty, BASE, 40 * PAGE, PAGE, &bitmap, 1));
    EQ(bitmap, 0);
    /* What was not watched until then is dirty for the last time. */
    EQ(vfiomig_dirty_sync(dirty, BASE + 40 * PAGE, 4 * PAGE, PAGE, &bitmap, 1),
       VFIOMIG_DIRTY_UNWATCHED);
    EQ(writer_of(dirty, number).assumed_bytes, 4 * 4 * PAGE);
    HAS(writer_of(dirty, number).note, "not logged until the log was restarted");
    HAS(writer_of(dirty, number).note, "0x200028000 (0x4000 bytes)");
    bitmap = 0;
    EQ(vfiomig_sim_dma_write(rig.sim, BASE + 41 * PAGE, 1), 0);
    OK(vfiomig_dirty_sync(dirty, BASE, 64 * PAGE, PAGE, &bitmap, 1));
    CHECK(bitmap == (uint64_t)1 << 41);
    /* While it runs: what is written between stop and start cannot be known, so everything is
     * dirty once. */
    map(dirty, BASE + 50 * PAGE, PAGE, 0, 0);
    EQ(vfiomig_dirty_rearm(dirty), 0);
    EQ(logged.starts, 3);
    bitmap = 0;
    EQ(vfiomig_dirty_sync(dirty, BASE, 64 * PAGE, PAGE, &bitmap, 1), VFIOMIG_DIRTY_UNWATCHED);
    CHECK(bitmap == (0xffffffff | (uint64_t)15 << 40 | (uint64_t)1 << 50));
    bitmap = 0;
    OK(vfiomig_dirty_sync(dirty, BASE, 64 * PAGE, PAGE, &bitmap, 1));
    EQ(bitmap, 0);
    vfiomig_dirty_free(dirty);
    rig_free(&rig);
}

/* By itself only if nothing has to be dirty for it: here, when the device is stopped. */
static void a_log_is_rearmed_by_itself_where_that_costs_nothing(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    uint64_t bitmap = 0;
    struct rig rig = logged_new(NULL);
    add_writer(dirty, NULL, rig.dev, VFIOMIG_WRITER_DEVICE_LOG);
    map(dirty, BASE, 32 * PAGE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    map(dirty, BASE + 32 * PAGE, 8 * PAGE, 0, 0);
    for (int round = 0; round < 20; round++) {
        bitmap = 0;
        EQ(vfiomig_dirty_sync(dirty, BASE, 64 * PAGE, PAGE, &bitmap, 1), VFIOMIG_DIRTY_UNWATCHED);
        CHECK(bitmap == (uint64_t)0xff << 32);
    }
    EQ(logged.starts, 1);
    EQ(vfiomig_sim_dma_write(rig.sim, BASE + 3 * PAGE, 1), 0);
    OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
    bitmap = 0;
    EQ(vfiomig_dirty_sync(dirty, BASE, 64 * PAGE, PAGE, &bitmap, 1), VFIOMIG_DIRTY_UNWATCHED);
    CHECK(bitmap == ((uint64_t)0xff << 32 | 8));
    EQ(logged.starts, 2);
    OK(vfiomig_device_run(rig.dev));
    bitmap = 0;
    EQ(vfiomig_sim_dma_write(rig.sim, BASE + 39 * PAGE, 1), 0);
    OK(vfiomig_dirty_sync(dirty, BASE, 64 * PAGE, PAGE, &bitmap, 1));
    CHECK(bitmap == (uint64_t)1 << 39);
    EQ(logged.starts, 2);
    vfiomig_dirty_free(dirty);
    rig_free(&rig);
}

/* If there is another tracker, it watches in between. */
static void rearming_with_another_tracker_makes_nothing_dirty(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 64);
    uint64_t bitmap = 0;
    struct rig rig = logged_new(NULL);
    uint32_t number = add_writer(dirty, &t, rig.dev, VFIOMIG_WRITER_DEVICE_LOG);
    map(dirty, BASE, 32 * PAGE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    EQ(t.starts, 0);
    map(dirty, BASE + 40 * PAGE, PAGE, 0, 0);
    EQ(vfiomig_sim_dma_write(rig.sim, BASE + PAGE, 1), 0); /* in the old log */
    touch(&t, BASE + 3 * PAGE, 1);                        /* as if in between */
    EQ(vfiomig_dirty_rearm(dirty), 0);
    EQ(t.starts, 1);
    EQ(t.stops, 1);
    EQ(logged.starts, 2);
    EQ(writer_of(dirty, number).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
    /* 40 was not watched until now, and this is reported. */
    EQ(vfiomig_dirty_sync(dirty, BASE, 64 * PAGE, PAGE, &bitmap, 1), VFIOMIG_DIRTY_UNWATCHED);
    CHECK(bitmap == (1 << 1 | 1 << 3 | (uint64_t)1 << 40));
    EQ(writer_of(dirty, number).assumed_bytes, PAGE);
    HAS(writer_of(dirty, number).note, "0x200028000 (0x1000 bytes)");
    bitmap = 0;
    OK(vfiomig_dirty_sync(dirty, BASE, 64 * PAGE, PAGE, &bitmap, 1));
    EQ(bitmap, 0);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
    rig_free(&rig);
}

static void windows_are_watched_from_the_beginning(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    uint64_t bitmap = 0;
    struct rig rig = logged_new(NULL);
    add_writer(dirty, NULL, rig.dev, VFIOMIG_WRITER_DEVICE_LOG);
    OK(try_map(dirty, BASE, 64 * PAGE, 0, 0, VFIOMIG_MAPPING_WINDOW));
    EQ(stats_of(dirty).mapped_bytes, 0);
    OK(vfiomig_dirty_start(dirty));
    EQ(is_logged(BASE), 1);
    EQ(is_logged(BASE + 63 * PAGE), 1);
    EQ(is_logged(BASE + 64 * PAGE), 0);
    map(dirty, BASE + 10 * PAGE, 10 * PAGE, 0, 0);
    EQ(vfiomig_sim_dma_write(rig.sim, BASE + 12 * PAGE, 1), 0);
    EQ(vfiomig_sim_dma_write(rig.sim, BASE + 30 * PAGE, 1), 0);
    OK(vfiomig_dirty_sync(dirty, BASE, 64 * PAGE, PAGE, &bitmap, 1));
    EQ(bitmap, 1 << 12);
    /* Beyond it is another matter. */
    map(dirty, BASE + 64 * PAGE, PAGE, 0, 0);
    EQ(vfiomig_dirty_sync(dirty, BASE + 64 * PAGE, PAGE, PAGE, &bitmap, 1),
       VFIOMIG_DIRTY_UNWATCHED);
    EQ(logged.starts, 1);
    vfiomig_dirty_free(dirty);
    rig_free(&rig);
}

static void a_device_that_cannot_log_windows_logs_mappings(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    struct vfiomig_sim_options o = rig_options();
    uint64_t bitmap = 0;
    struct rig rig = logged_new(&o);
    uint32_t number = add_writer(dirty, NULL, rig.dev, VFIOMIG_WRITER_DEVICE_LOG);
    OK(try_map(dirty, BASE, 64 * PAGE, 0, 0, VFIOMIG_MAPPING_WINDOW));
    map(dirty, BASE, 8 * PAGE, 0, 0);
    /* Whatever it tries with the window, it then accepts the rest. */
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_LOG_START, 1, ENOMEM, VFIOMIG_SIM_FAULT_ONCE), 0);
    OK(vfiomig_dirty_start(dirty));
    EQ(writer_of(dirty, number).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
    EQ(is_logged(BASE), 1);
    EQ(is_logged(BASE + 8 * PAGE), 0);
    OK(vfiomig_dirty_sync(dirty, BASE, 8 * PAGE, PAGE, &bitmap, 1));
    EQ(bitmap, 0);
    map(dirty, BASE + 8 * PAGE, PAGE, 0, 0);
    EQ(vfiomig_dirty_sync(dirty, BASE, 9 * PAGE, PAGE, &bitmap, 1), VFIOMIG_DIRTY_UNWATCHED);
    EQ(bitmap, 1 << 8);
    vfiomig_dirty_free(dirty);
    rig_free(&rig);
}

static void read_only_mappings_are_dirty_only_where_the_vmm_says_so(void)
{
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *dirty = tracking_new(&m, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 64);
    uint64_t bitmap = 0;
    struct rig rig = logged_new(NULL);
    add_writer(dirty, NULL, rig.dev, VFIOMIG_WRITER_DEVICE_LOG);
    add_writer(dirty, &t, NULL, 0);
    add_writer(dirty, NULL, NULL, 0); /* everything is dirty */
    map(dirty, BASE, PAGE, 0, 0);
    OK(try_map(dirty, BASE + PAGE, 10 * PAGE, 1, 0, VFIOMIG_MAPPING_READ_ONLY));
    EQ(vfiomig_dirty_start(dirty), VFIOMIG_DIRTY_UNWATCHED);
    EQ(is_logged(BASE), 1);
    EQ(is_logged(BASE + PAGE), 0);
    touch(&t, BASE, 64 * PAGE);
    EQ(vfiomig_dirty_sync(dirty, BASE, 64 * PAGE, PAGE, &bitmap, 1), VFIOMIG_DIRTY_UNWATCHED);
    EQ(bitmap, 1);
    EQ(vfiomig_dirty_collect(dirty), VFIOMIG_DIRTY_UNWATCHED);
    EQ(m.num, 1);
    /* The VMM can still write there. */
    forget(&m);
    OK(vfiomig_dirty_mark(dirty, BASE + 5 * PAGE, 1));
    EQ(vfiomig_dirty_collect(dirty), VFIOMIG_DIRTY_UNWATCHED);
    EQ(m.num, 2);
    EQ(times_given(&m, 1, 4 * PAGE), 1);
    bitmap = 0;
    EQ(vfiomig_dirty_unmap(dirty, BASE + PAGE, 10 * PAGE, PAGE, &bitmap, 1, unmapped_, NULL), 0);
    EQ(bitmap, 0);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
    memory_free(&m);
    rig_free(&rig);
}

/* More mappings than a log has ranges: neighbours are joined, and nothing is made up. */
static void more_mappings_than_a_log_takes(void)
{
    static const uint32_t most[] = { 0, 8, 1 };
    for (int k = 0; k < 3; k++) {
        enum { NUM = 600 };
        struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
        struct vfiomig_sim_options o = rig_options();
        uint64_t bitmap[NUM * 3 / 64 + 1] = { 0 };
        o.log_max_ranges = most[k];
        struct rig rig = logged_new(&o);
        uint32_t number = add_writer(dirty, NULL, rig.dev,
                                     VFIOMIG_WRITER_DEVICE_LOG | VFIOMIG_WRITER_REQUIRED);
        for (uint64_t i = 0; i < NUM; i++)
            map(dirty, BASE + i * 3 * PAGE, PAGE, i, 0);
        OK(vfiomig_dirty_start(dirty));
        EQ(writer_of(dirty, number).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
        CHECK(logged.num_ranges <= (most[k] ? most[k] : 256));
        for (uint64_t i = 0; i < NUM; i++)
            EQ(is_logged(BASE + i * 3 * PAGE), 1);
        EQ(vfiomig_sim_dma_write(rig.sim, BASE + 300 * PAGE, 7 * PAGE), 0);
        EQ(vfiomig_sim_dma_write(rig.sim, BASE + (NUM - 1) * 3 * PAGE, 1), 0);
        OK(vfiomig_dirty_sync(dirty, BASE, NUM * 3 * PAGE, PAGE, bitmap, NUM * 3 / 64 + 1));
        EQ(count_bits(bitmap, NUM * 3 / 64 + 1), 4);
        EQ(bit(bitmap, 300), 1);
        EQ(bit(bitmap, 303), 1);
        EQ(bit(bitmap, 306), 1);
        EQ(bit(bitmap, (NUM - 1) * 3), 1);
        vfiomig_dirty_free(dirty);
        rig_free(&rig);
    }
}

int main(void)
{
    RUN(mappings_that_are_none_change_nothing);
    RUN(what_enumerate_gives_replaces_what_was_mapped);
    RUN(an_enumeration_that_fails_changes_nothing);
    RUN(a_start_that_fails_leaves_the_map_as_it_was);
    RUN(a_mapping_that_comes_later_is_tracked_at_once);
    RUN(what_a_log_does_not_watch_is_dirty_until_it_is_rearmed);
    RUN(a_log_is_rearmed_by_itself_where_that_costs_nothing);
    RUN(rearming_with_another_tracker_makes_nothing_dirty);
    RUN(windows_are_watched_from_the_beginning);
    RUN(a_device_that_cannot_log_windows_logs_mappings);
    RUN(read_only_mappings_are_dirty_only_where_the_vmm_says_so);
    RUN(more_mappings_than_a_log_takes);
    return DONE();
}
