/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * vfiomig_dirty_unmap(): what was dirty in a range that is unmapped is not lost. That takes an
 * order. The VMM's trackers are read before the range is gone, because they may forget it then;
 * they and the devices' logs are read after it too, because devices may write until then.
 */
#include "track.h"

#define BASE ((uint64_t)3 << 30)

static char trace[64];

static void note(char what)
{
    size_t len = strlen(trace);
    if (len + 1 < sizeof trace)
        trace[len] = what;
}

/* The reports that the log is asked for are noted. */
static int seen_feature(void *sim, uint32_t flags, void *data, size_t len)
{
    if (flags == (1u << 16 | 8))
        note('R');
    return vfiomig_sim_ops(sim)->feature(sim, flags, data, len);
}

static void note_sync(void *opaque)
{
    (void)opaque;
    note('S');
}

static void note_given(void *opaque)
{
    (void)opaque;
    note('D');
}

struct unmapping {
    /* Both write once more at the last moment. */
    struct vfiomig_sim *sim;
    struct tracker *tracker;
    uint64_t write, track;
    int fail, calls;
    uint64_t iova, size;
};

static int unmap(void *opaque, uint64_t iova, uint64_t size)
{
    struct unmapping *u = opaque;
    note('U');
    u->calls++;
    u->iova = iova;
    u->size = size;
    if (u->sim && vfiomig_sim_dma_write(u->sim, u->write, 1) != 0)
        note('!');
    if (u->tracker)
        touch(u->tracker, u->track, 1);
    return -u->fail;
}

static void trackers_are_read_before_and_after_and_logs_after(void)
{
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *dirty = tracking_new(&m, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 64);
    struct unmapping u = { 0 };
    struct rig rig;
    struct vfiomig_device_ops ops = rig_table(&rig, NULL);
    ops.feature = seen_feature;
    rig_open(&rig, &ops, NULL);
    add_writer(dirty, NULL, rig.dev, VFIOMIG_WRITER_DEVICE_LOG);
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, 64 * PAGE, 1, 0);
    OK(vfiomig_dirty_start(dirty));
    EQ(writer_of(dirty, 0).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
    EQ(writer_of(dirty, 1).tracker, VFIOMIG_TRACKER_CUSTOM);
    t.hook = note_sync;
    m.hook = note_given;
    memset(trace, 0, sizeof trace);
    touch(&t, BASE + 2 * PAGE, 1);
    EQ(vfiomig_sim_dma_write(rig.sim, BASE + 3 * PAGE, 1), 0);
    u.sim = rig.sim;
    u.write = BASE + 5 * PAGE;
    u.tracker = &t;
    u.track = BASE + 6 * PAGE;
    OK(vfiomig_dirty_unmap(dirty, BASE, 16 * PAGE, 0, NULL, 0, unmap, &u));
    if (strcmp(trace, "SURSD") != 0)
        FAIL("the order was %s", trace);
    EQ(u.iova, BASE);
    EQ(u.size, 16 * PAGE);
    EQ(m.num, 4);
    for (uint64_t page = 2; page <= 6; page++)
        EQ(times_given(&m, 1, page * PAGE), page != 4);
    EQ(stats_of(dirty).mapped_bytes, 48 * PAGE);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
    memory_free(&m);
    rig_free(&rig);
}

static void a_bitmap_gets_what_set_dirty_would(void)
{
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *dirty = tracking_new(&m, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 200);
    struct unmapping u = { 0 };
    uint64_t bitmap[8] = { 0 };
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, 200 * PAGE, 1, 0);
    OK(vfiomig_dirty_start(dirty));
    touch(&t, BASE + 10 * PAGE, 1);
    touch(&t, BASE + 99 * PAGE, 1);
    touch(&t, BASE + 100 * PAGE, 1); /* stays mapped */
    OK(vfiomig_dirty_mark(dirty, BASE + 20 * PAGE, 1));
    bitmap[1] = (uint64_t)1 << 63;
    OK(vfiomig_dirty_unmap(dirty, BASE, 100 * PAGE, PAGE, bitmap, 2, unmap, &u));
    CHECK(bitmap[0] == (1 << 10 | 1 << 20));
    CHECK(bitmap[1] == ((uint64_t)1 << 63 | (uint64_t)1 << 35));
    EQ(m.calls, 0);
    /* In pages of another size. */
    memset(bitmap, 0, sizeof bitmap);
    OK(vfiomig_dirty_unmap(dirty, BASE + 100 * PAGE, 60 * PAGE, 512, bitmap, 8, unmap, &u));
    CHECK(bitmap[0] == 0xff);
    EQ(count_bits(bitmap, 8), 8);
    OK(vfiomig_dirty_collect(dirty));
    EQ(m.calls, 0);
    EQ(stats_of(dirty).mapped_bytes, 40 * PAGE);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
    memory_free(&m);
}

/* Nothing is mapped there now, but the pages still belong to the VMM. */
static void what_set_dirty_refuses_comes_later(void)
{
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *dirty = tracking_new(&m, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 64);
    struct unmapping u = { 0 };
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, 64 * PAGE, 1, 0);
    OK(vfiomig_dirty_start(dirty));
    touch(&t, BASE + 7 * PAGE, 2 * PAGE);
    m.refused = (struct given){ 1, 7 * PAGE };
    m.refuse = ENOMEM;
    EQ(vfiomig_dirty_unmap(dirty, BASE, 64 * PAGE, 0, NULL, 0, unmap, &u), VFIOMIG_DIRTY_ERRORS);
    EQ(u.calls, 1);
    EQ(stats_of(dirty).mapped_bytes, 0);
    EQ(error_of(dirty, 0).code, -ENOMEM);
    EQ(m.num, 0);
    m.refuse = 0;
    /* Something else is there now. */
    map(dirty, BASE, 64 * PAGE, 2, 0);
    touch(&t, BASE + 8 * PAGE, 1);
    OK(vfiomig_dirty_collect(dirty));
    EQ(m.num, 3);
    EQ(times_given(&m, 1, 7 * PAGE), 1);
    EQ(times_given(&m, 1, 8 * PAGE), 1);
    EQ(times_given(&m, 2, 8 * PAGE), 1);
    OK(vfiomig_dirty_collect(dirty));
    EQ(m.num, 3);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
    memory_free(&m);
}

/* Perhaps of more than the range: what is left of its mapping may now have a hole. */
static void an_unmapping_that_fails_leaves_the_range_dirty(void)
{
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *dirty = tracking_new(&m, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 128);
    struct unmapping u = { .fail = ENODEV };
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, 64 * PAGE, 1, 0);
    map(dirty, BASE + 64 * PAGE, 64 * PAGE, 2, 0);
    OK(vfiomig_dirty_start(dirty));
    EQ(vfiomig_dirty_unmap(dirty, BASE + 8 * PAGE, 4 * PAGE, 0, NULL, 0, unmap, &u), -ENODEV);
    EQ(stats_of(dirty).mapped_bytes, 128 * PAGE);
    struct vfiomig_dirty_error error = error_of(dirty, 0);
    EQ(error.writer, VFIOMIG_NO_WRITER);
    EQ(error.code, -ENODEV);
    CHECK(error.first <= BASE + 8 * PAGE && error.first >= BASE);
    CHECK(error.last >= BASE + 12 * PAGE - 1 && error.last < BASE + 64 * PAGE);
    EQ(m.calls, 0);
    /* Every time, and nothing of another mapping. */
    for (int round = 0; round < 3; round++) {
        forget(&m);
        EQ(vfiomig_dirty_collect(dirty), VFIOMIG_DIRTY_UNWATCHED);
        for (uint64_t page = 0; page < 64; page++) {
            CHECK(page < 8 || page >= 12 || times_given(&m, 1, page * PAGE) == 1);
            EQ(times_given(&m, 2, page * PAGE), 0);
        }
    }
    uint64_t bitmap = 0;
    OK(vfiomig_dirty_sync(dirty, BASE + 64 * PAGE, 64 * PAGE, PAGE, &bitmap, 1));
    EQ(bitmap, 0);
    /* An errno outside the library's set. */
    u.fail = ENOTCONN;
    EQ(vfiomig_dirty_unmap(dirty, BASE + 8 * PAGE, 4 * PAGE, 0, NULL, 0, unmap, &u), -EIO);
    /* At last. */
    u.fail = 0;
    forget(&m);
    EQ(vfiomig_dirty_unmap(dirty, BASE + 8 * PAGE, 4 * PAGE, 0, NULL, 0, unmap, &u),
       VFIOMIG_DIRTY_UNWATCHED);
    EQ(m.num, 4);
    forget(&m);
    CHECK(vfiomig_dirty_collect(dirty) >= 0);
    for (uint64_t page = 8; page < 12; page++)
        EQ(times_given(&m, 1, page * PAGE), 0);
    EQ(stats_of(dirty).mapped_bytes, 124 * PAGE);
    /* The doubt goes with the rest of its mapping. */
    OK(vfiomig_dirty_unmap(dirty, BASE + 12 * PAGE, 52 * PAGE, PAGE, &bitmap, 1, unmap, &u) & ~3);
    OK(vfiomig_dirty_unmap(dirty, BASE, 8 * PAGE, PAGE, &bitmap, 1, unmap, &u) & ~3);
    forget(&m);
    OK(vfiomig_dirty_collect(dirty));
    EQ(m.num, 0);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
    memory_free(&m);
}

static void mappings_are_cut_and_what_is_left_keeps_its_place(void)
{
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *dirty = tracking_new(&m, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 200);
    struct unmapping u = { 0 };
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, 50 * PAGE, 1, 1000 * PAGE);
    map(dirty, BASE + 60 * PAGE, 40 * PAGE, 2, 0);
    map(dirty, BASE + 100 * PAGE, 50 * PAGE, 3, 0);
    OK(vfiomig_dirty_start(dirty));
    /* The middle of one. */
    OK(vfiomig_dirty_unmap(dirty, BASE + 10 * PAGE, 5 * PAGE, 0, NULL, 0, unmap, &u));
    /* The end of one, a hole, a whole one, and the beginning of one. */
    touch(&t, BASE, 200 * PAGE);
    OK(vfiomig_dirty_unmap(dirty, BASE + 45 * PAGE, 60 * PAGE, 0, NULL, 0, unmap, &u));
    EQ(u.size, 60 * PAGE);
    EQ(m.num, 5 + 40 + 5);
    for (uint64_t page = 0; page < 5; page++) {
        EQ(times_given(&m, 1, (1045 + page) * PAGE), 1);
        EQ(times_given(&m, 3, page * PAGE), 1);
    }
    EQ(stats_of(dirty).mapped_bytes, (45 - 5 + 45) * PAGE);
    forget(&m);
    OK(vfiomig_dirty_collect(dirty));
    EQ(m.num, 45 - 5 + 45);
    EQ(times_given(&m, 1, 1009 * PAGE), 1);
    EQ(times_given(&m, 1, 1015 * PAGE), 1);
    EQ(times_given(&m, 3, 5 * PAGE), 1);
    EQ(times_given(&m, 3, 49 * PAGE), 1);
    EQ(times_given(&m, 1, 1010 * PAGE), 0);
    /* There is room again. */
    map(dirty, BASE + 10 * PAGE, 5 * PAGE, 4, 0);
    EQ(try_map(dirty, BASE + 14 * PAGE, PAGE, 5, 0, 0), -EINVAL);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
    memory_free(&m);
}

static void what_is_wrong_is_refused_before_anything_happens(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 128);
    struct unmapping u = { 0 };
    uint64_t bitmap[2] = { 0 };
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, 128 * PAGE, 1, 0);
    OK(vfiomig_dirty_start(dirty));
    touch(&t, BASE, 128 * PAGE);
    /* Neither a bitmap nor set_dirty. */
    EQ(vfiomig_dirty_unmap(dirty, BASE, 128 * PAGE, 0, NULL, 0, unmap, &u), -EINVAL);
    EQ(vfiomig_dirty_unmap(dirty, BASE, 128 * PAGE, PAGE, bitmap, 1, unmap, &u), -ENOSPC);
    EQ(vfiomig_dirty_unmap(dirty, BASE + 512, 64 * PAGE, PAGE, bitmap, 2, unmap, &u), -EINVAL);
    EQ(vfiomig_dirty_unmap(dirty, BASE, 128 * PAGE, PAGE, bitmap, 2, NULL, &u), -EFAULT);
    EQ(u.calls, 0);
    EQ(t.syncs, 0);
    EQ(count_bits(bitmap, 2), 0);
    OK(vfiomig_dirty_unmap(dirty, BASE, 128 * PAGE, PAGE, bitmap, 2, unmap, &u));
    EQ(count_bits(bitmap, 2), 128);
    EQ(u.calls, 1);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

static void while_tracking_is_off_mappings_go_the_same_way(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 128);
    struct unmapping u = { .fail = ENOMEM };
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, 128 * PAGE, 1, 0);
    EQ(vfiomig_dirty_unmap(dirty, BASE, 64 * PAGE, 0, NULL, 0, unmap, &u), -ENOMEM);
    EQ(stats_of(dirty).mapped_bytes, 128 * PAGE);
    u.fail = 0;
    OK(vfiomig_dirty_unmap(dirty, BASE, 64 * PAGE, 0, NULL, 0, unmap, &u));
    EQ(u.calls, 2);
    EQ(stats_of(dirty).mapped_bytes, 64 * PAGE);
    OK(vfiomig_dirty_unmap(dirty, BASE + 64 * PAGE, 64 * PAGE, 0, NULL, 0, unmap, &u));
    EQ(u.calls, 3);
    EQ(t.syncs, 0);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

/* A VMM may unmap what it never announced: a window, for example, or a mapping that was refused. */
static void where_nothing_is_mapped_unmap_is_called_all_the_same(void)
{
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *dirty = tracking_new(&m, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 128);
    struct unmapping u = { 0 };
    uint64_t bitmap[2] = { 0 };
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, 32 * PAGE, 1, 0);
    for (int tracking = 0; tracking < 2; tracking++) {
        u = (struct unmapping){ 0 };
        touch(&t, BASE, 128 * PAGE);
        OK(vfiomig_dirty_unmap(dirty, BASE + 64 * PAGE, 64 * PAGE, 0, NULL, 0, unmap, &u));
        OK(vfiomig_dirty_unmap(dirty, BASE + 32 * PAGE, 96 * PAGE, PAGE, bitmap, 2, unmap, &u));
        EQ(u.calls, 2);
        EQ(u.iova, BASE + 32 * PAGE);
        EQ(u.size, 96 * PAGE);
        EQ(count_bits(bitmap, 2), 0);
        EQ(m.calls, 0);
        EQ(stats_of(dirty).mapped_bytes, 32 * PAGE);
        u.fail = ENOMEM;
        EQ(vfiomig_dirty_unmap(dirty, BASE + 64 * PAGE, PAGE, PAGE, bitmap, 2, unmap, &u), -ENOMEM);
        if (!tracking)
            OK(vfiomig_dirty_start(dirty));
    }
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
    memory_free(&m);
}

/* It cannot be asked again, because the range is gone. */
static void a_tracker_that_fails_makes_the_range_dirty(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 128);
    struct unmapping u = { 0 };
    uint64_t bitmap[1] = { 0 };
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, 128 * PAGE, 1, 0);
    OK(vfiomig_dirty_start(dirty));
    t.fail_sync = EIO;
    t.fail_nth = 1;
    EQ(vfiomig_dirty_unmap(dirty, BASE + PAGE, 10 * PAGE, PAGE, bitmap, 1, unmap, &u),
       VFIOMIG_DIRTY_ERRORS);
    EQ(bitmap[0], 0x3ff);
    EQ(u.calls, 1);
    EQ(stats_of(dirty).mapped_bytes, 118 * PAGE);
    bitmap[0] = 0;
    OK(vfiomig_dirty_sync(dirty, BASE, 64 * PAGE, PAGE, bitmap, 1));
    EQ(bitmap[0], 0);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

int main(void)
{
    RUN(trackers_are_read_before_and_after_and_logs_after);
    RUN(a_bitmap_gets_what_set_dirty_would);
    RUN(what_set_dirty_refuses_comes_later);
    RUN(an_unmapping_that_fails_leaves_the_range_dirty);
    RUN(mappings_are_cut_and_what_is_left_keeps_its_place);
    RUN(what_is_wrong_is_refused_before_anything_happens);
    RUN(while_tracking_is_off_mappings_go_the_same_way);
    RUN(where_nothing_is_mapped_unmap_is_called_all_the_same);
    RUN(a_tracker_that_fails_makes_the_range_dirty);
    return DONE();
}
