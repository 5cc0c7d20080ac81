/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * vfiomig_dirty_sync(): the bits are those of the pages that were written to, and of no others,
 * whatever page sizes the tracker, the tracking object and the bitmap have, and wherever the range
 * begins and ends.
 */
#include "track.h"

#define BASE ((uint64_t)5 << 32)

static void exactly_the_pages_that_were_written_to(void)
{
    enum { PAGES = 1000, WORDS = 17 };
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, PAGES);
    uint64_t seed = 1;
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, PAGES * PAGE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    EQ(t.starts, 1);
    for (int round = 0; round < 20; round++) {
        uint64_t bitmap[WORDS] = { 0 };
        uint8_t written[PAGES] = { 0 };
        for (int i = 0; i < 30; i++) {
            size_t page = random_(&seed) % PAGES;
            written[page] = 1;
            touch(&t, BASE + page * PAGE + random_(&seed) % PAGE, 1);
        }
        OK(vfiomig_dirty_sync(dirty, BASE, PAGES * PAGE, PAGE, bitmap, WORDS));
        for (size_t i = 0; i < WORDS * 64; i++)
            EQ(bit(bitmap, i), i < PAGES && written[i]);
        memset(bitmap, 0, sizeof bitmap);
        OK(vfiomig_dirty_sync(dirty, BASE, PAGES * PAGE, PAGE, bitmap, WORDS));
        EQ(count_bits(bitmap, WORDS), 0);
    }
    OK(vfiomig_dirty_stop(dirty));
    EQ(t.stops, 1);
    vfiomig_dirty_free(dirty);
    EQ(t.stops, 1);
    tracker_free(&t);
}

static void bits_that_are_set_already_stay_and_those_beyond_the_range_too(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 256);
    uint64_t bitmap[4] = { 0x8000000000000001, 0x5555555555555555, 0xffffffff00000000, 0xa5a5 };
    uint64_t before[4];
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, 256 * PAGE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    memcpy(before, bitmap, sizeof bitmap);
    touch(&t, BASE + 7 * PAGE, PAGE);
    touch(&t, BASE + 65 * PAGE, PAGE);
    touch(&t, BASE + 133 * PAGE, PAGE);
    touch(&t, BASE + 140 * PAGE, PAGE); /* not asked for */
    t.sloppy = 1;
    OK(vfiomig_dirty_sync(dirty, BASE, 140 * PAGE, PAGE, bitmap, 4));
    t.sloppy = 0;
    CHECK(bitmap[0] == (before[0] | 1 << 7));
    CHECK(bitmap[1] == (before[1] | 1 << 1));
    CHECK(bitmap[2] == (before[2] | 1 << 5));
    CHECK(bitmap[3] == before[3]);
    OK(vfiomig_dirty_sync(dirty, BASE + 128 * PAGE, 64 * PAGE, PAGE, bitmap, 1));
    CHECK(bitmap[0] == (before[0] | 1 << 7 | 1 << 12));
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

/*
 * What must come out: the tracker's dirty pages, rounded to mapped pages of the tracking object,
 * rounded to pages of the bitmap.
 */
static void one_combination(uint64_t tracker_page, uint64_t tracking_page, uint64_t bitmap_page)
{
    enum { SIZE = 8 << 20, WORDS = SIZE / 512 / 64 };
    static uint64_t bitmap[WORDS];
    static uint8_t want[SIZE / 512];
    struct vfiomig_dirty *dirty = tracking_new(NULL, tracking_page, 4096);
    struct tracker t = tracker_new(BASE, tracker_page, SIZE / tracker_page);
    uint64_t seed = tracker_page + tracking_page + bitmap_page;
    uint64_t hole = 4 << 20; /* the largest page there is; nothing is mapped from here to there */
    uint64_t hole_end = hole + tracking_page;
    char what[96];
    snprintf(what, sizeof what, "tracker %llu, tracking %llu, bitmap %llu", (unsigned long long)tracker_page,
             (unsigned long long)tracking_page, (unsigned long long)bitmap_page);
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, hole, 0, 0);
    map(dirty, BASE + hole_end, SIZE - hole_end, 0, hole_end);
    OK(vfiomig_dirty_start(dirty));
    memset(want, 0, sizeof want);
    memset(bitmap, 0, sizeof bitmap);
    for (int i = 0; i < 12; i++) {
        uint64_t at = random_(&seed) % SIZE;
        touch(&t, BASE + at, 1);
        uint64_t first = at / tracker_page * tracker_page, end = first + tracker_page;
        first = first / tracking_page * tracking_page;
        end = (end + tracking_page - 1) / tracking_page * tracking_page;
        for (; first < end; first += tracking_page)
            if (first < hole || first >= hole_end)
                for (uint64_t byte = first; byte < first + tracking_page; byte += 512)
                    want[byte / bitmap_page] = 1;
    }
    OK(vfiomig_dirty_sync(dirty, BASE, SIZE, bitmap_page, bitmap, WORDS));
    for (size_t i = 0; i < SIZE / bitmap_page; i++)
        if (bit(bitmap, i) != want[i])
            FAIL("%s: page %zu is %d", what, i, bit(bitmap, i));
    for (size_t i = SIZE / bitmap_page; i < WORDS * 64; i++)
        if (bit(bitmap, i))
            FAIL("%s: a bit after the end", what);
    memset(bitmap, 0, sizeof bitmap);
    OK(vfiomig_dirty_sync(dirty, BASE, SIZE, bitmap_page, bitmap, WORDS));
    if (count_bits(bitmap, WORDS) != 0)
        FAIL("%s: pages are dirty twice", what);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

static void pages_of_every_size(void)
{
    static const uint64_t trackers[] = { 512, 1024, 4096, 16384, 1 << 20, 4 << 20 };
    static const uint64_t trackings[] = { 4096, 65536, 1 << 20 };
    static const uint64_t bitmaps[] = { 512, 2048, 4096, 65536, 2 << 20 };
    for (int i = 0; i < 6; i++)
        for (int k = 0; k < 3; k++)
            for (int n = 0; n < 5; n++)
                one_combination(trackers[i], trackings[k], bitmaps[n]);
}

/* Read in pieces that begin and end inside pages of the tracking object. */
static void a_page_that_a_range_cuts_is_dirty_on_both_sides(void)
{
    enum { RUN_PAGE = 65536, STEP = 512 };
    struct vfiomig_dirty *dirty = tracking_new(NULL, RUN_PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 4 * RUN_PAGE / PAGE);
    uint64_t low[8] = { 0 }, high[8] = { 0 };
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, 4 * RUN_PAGE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    touch(&t, BASE + RUN_PAGE + 5 * PAGE, 1);
    /* Up to the middle of the dirty page. */
    OK(vfiomig_dirty_sync(dirty, BASE, RUN_PAGE + 40 * STEP, STEP, low, 8));
    for (size_t i = 0; i < 8 * 64; i++)
        EQ(bit(low, i), i >= RUN_PAGE / STEP && i < RUN_PAGE / STEP + 40);
    /* From there on. */
    OK(vfiomig_dirty_sync(dirty, BASE + RUN_PAGE + 40 * STEP, RUN_PAGE, STEP, high, 8));
    for (size_t i = 0; i < 8 * 64; i++)
        EQ(bit(high, i), i < RUN_PAGE / STEP - 40);
    /* Until it was read as a whole it may come again; then it does not. */
    memset(low, 0, sizeof low);
    OK(vfiomig_dirty_sync(dirty, BASE, 4 * RUN_PAGE, RUN_PAGE, low, 8));
    CHECK((low[0] & ~(uint64_t)2) == 0);
    memset(low, 0, sizeof low);
    OK(vfiomig_dirty_sync(dirty, BASE, 4 * RUN_PAGE, RUN_PAGE, low, 8));
    EQ(count_bits(low, 8), 0);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

/*
 * In pieces of any length, from one end to the other: nothing is missing, and nothing is made up.
 * If pieces cut a page of the tracking object, it may come again.
 */
static void read_in_pieces(uint64_t step, int down)
{
    enum { RUN_PAGE = 16384, SIZE = 100 * RUN_PAGE, BITS = SIZE / 512 };
    static uint8_t got[BITS], want[BITS], again[BITS];
    struct vfiomig_dirty *dirty = tracking_new(NULL, RUN_PAGE, 0);
    struct tracker t = tracker_new(BASE, 65536, SIZE / 65536);
    uint64_t seed = 77 + step;
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, SIZE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    memset(again, 0, sizeof again);
    for (int round = 0; round < 50; round++) {
        memset(got, 0, sizeof got);
        memset(want, 0, sizeof want);
        for (int i = 0; i < 4; i++) {
            uint64_t at = random_(&seed) % SIZE, first = at / 65536 * 65536;
            touch(&t, BASE + at, 1);
            memset(want + first / 512, 1, 65536 / 512);
        }
        for (uint64_t done = 0; done < SIZE;) {
            uint64_t bitmap[64] = { 0 };
            uint64_t length = (1 + random_(&seed) % (64 * 64 / (step / 512))) * step;
            if (length > SIZE - done)
                length = SIZE - done;
            done += length;
            uint64_t at = down ? SIZE - done : done - length, edge = down ? at : done;
            OK(vfiomig_dirty_sync(dirty, BASE + at, length, 512, bitmap, 64));
            for (uint64_t i = 0; i < 64 * 64; i++) {
                if (i < length / 512)
                    got[at / 512 + i] |= (uint8_t)bit(bitmap, i);
                else
                    EQ(bit(bitmap, i), 0);
            }
            if (edge % RUN_PAGE)
                memset(again + edge / RUN_PAGE * (RUN_PAGE / 512), 1, RUN_PAGE / 512);
        }
        for (size_t i = 0; i < BITS; i++)
            if (want[i] ? !got[i] : got[i] && !again[i])
                FAIL("round %d: %zu is %d, not %d", round, i, got[i], want[i]);
    }
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

static void reading_in_pieces_loses_nothing(void)
{
    for (int down = 0; down < 2; down++) {
        read_in_pieces(512, down);
        read_in_pieces(4096, down);
        read_in_pieces(16384, down);
    }
}

static void ranges_up_to_the_last_address(void)
{
    uint64_t base = 0 - (uint64_t)100 * PAGE;
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    struct tracker t = tracker_new(base, PAGE, 100);
    uint64_t bitmap[2] = { 0 };
    add_writer(dirty, &t, NULL, 0);
    map(dirty, base, 100 * PAGE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    t.dirty[0] = t.dirty[63] = t.dirty[99] = 1;
    OK(vfiomig_dirty_sync(dirty, base, 100 * PAGE, PAGE, bitmap, 2));
    CHECK(bitmap[0] == (1 | (uint64_t)1 << 63));
    CHECK(bitmap[1] == (uint64_t)1 << 35);
    t.dirty[99] = 1;
    bitmap[0] = 0;
    OK(vfiomig_dirty_sync(dirty, 0 - (uint64_t)PAGE, PAGE, PAGE, bitmap, 1));
    CHECK(bitmap[0] == 1);
    bitmap[0] = 0;
    OK(vfiomig_dirty_mark(dirty, UINT64_MAX, 1));
    OK(vfiomig_dirty_sync(dirty, 0 - (uint64_t)2 * PAGE, 2 * PAGE, 512, bitmap, 1));
    CHECK(bitmap[0] == 0xff00);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

/* A tracker may say anything about addresses that are not mapped. */
static void pages_that_nothing_is_mapped_at_stay_clean(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    struct tracker t = tracker_new(BASE, 16 * PAGE, 16);
    uint64_t bitmap[4] = { 0 };
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE + 3 * PAGE, PAGE, 0, 0);
    map(dirty, BASE + 20 * PAGE, 40 * PAGE, 0, 0);
    OK(try_map(dirty, BASE + 100 * PAGE, 10 * PAGE, 0, 0, VFIOMIG_MAPPING_READ_ONLY));
    OK(try_map(dirty, BASE + 200 * PAGE, 10 * PAGE, 0, 0, VFIOMIG_MAPPING_WINDOW));
    OK(vfiomig_dirty_start(dirty));
    touch(&t, BASE, 256 * PAGE);
    OK(vfiomig_dirty_sync(dirty, BASE, 256 * PAGE, PAGE, bitmap, 4));
    CHECK(bitmap[0] == (1 << 3 | (((uint64_t)1 << 40) - 1) << 20));
    CHECK(bitmap[1] == 0 && bitmap[2] == 0 && bitmap[3] == 0);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

/* More than fits into the buffer: it is read in parts, whose edges are not special. */
static void memory_that_is_larger_than_the_buffer(void)
{
    enum { PER_BUFFER = 4096 * 8, PAGES = 3 * PER_BUFFER + 100, WORDS = PAGES / 64 + 1 };
    static uint64_t bitmap[WORDS];
    static const size_t edges[] = { 0, 1, PER_BUFFER - 1, PER_BUFFER, PER_BUFFER + 1,
                                    2 * PER_BUFFER - 1, 2 * PER_BUFFER, 3 * PER_BUFFER + 99 };
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 4096);
    struct tracker t = tracker_new(BASE, PAGE, PAGES);
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, (uint64_t)PAGES * PAGE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    for (size_t i = 0; i < 8; i++)
        t.dirty[edges[i]] = 1;
    OK(vfiomig_dirty_sync(dirty, BASE, (uint64_t)PAGES * PAGE, PAGE, bitmap, WORDS));
    EQ(count_bits(bitmap, WORDS), 8);
    for (size_t i = 0; i < 8; i++)
        EQ(bit(bitmap, edges[i]), 1);
    EQ(t.syncs, 4);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

/* What a tracker cannot say is dirty, and only that. */
static void a_tracker_that_fails(void)
{
    enum { PER_BUFFER = 4096 * 8, PAGES = 3 * PER_BUFFER, WORDS = PAGES / 64 };
    static uint64_t bitmap[WORDS];
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 4096);
    struct tracker t = tracker_new(BASE, PAGE, PAGES);
    uint32_t number = add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, (uint64_t)PAGES * PAGE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    t.dirty[5] = 1;
    t.fail_sync = ENOTCONN;
    t.fail_nth = 2;
    EQ(vfiomig_dirty_sync(dirty, BASE, (uint64_t)PAGES * PAGE, PAGE, bitmap, WORDS),
       VFIOMIG_DIRTY_ERRORS);
    EQ(count_bits(bitmap, WORDS), PER_BUFFER + 1);
    EQ(bit(bitmap, 5), 1);
    EQ(bit(bitmap, PER_BUFFER), 1);
    EQ(bit(bitmap, 2 * PER_BUFFER - 1), 1);
    struct vfiomig_dirty_error error = error_of(dirty, 0);
    EQ(error.writer, number);
    EQ(error.tracker, VFIOMIG_TRACKER_CUSTOM);
    EQ(error.code, -EIO);
    CHECK(error.first == BASE + (uint64_t)PER_BUFFER * PAGE);
    CHECK(error.last == BASE + (uint64_t)2 * PER_BUFFER * PAGE - 1);
    HAS(error.text, "tracker does not read");
    EQ(vfiomig_dirty_get_error(dirty, 1, &error), -ENODATA);
    struct vfiomig_dirty_writer_stats stats = writer_of(dirty, number);
    EQ(stats.errors, 1);
    EQ(stats.assumed_bytes, (uint64_t)PER_BUFFER * PAGE);
    /* And that was everything. */
    memset(bitmap, 0, sizeof bitmap);
    OK(vfiomig_dirty_sync(dirty, BASE, (uint64_t)PAGES * PAGE, PAGE, bitmap, WORDS));
    EQ(count_bits(bitmap, WORDS), 0);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

static void a_bitmap_that_is_too_small_loses_nothing(void)
{
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 65);
    uint64_t bitmap[2] = { 0 };
    add_writer(dirty, &t, NULL, 0);
    map(dirty, BASE, 65 * PAGE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    touch(&t, BASE, 65 * PAGE);
    EQ(vfiomig_dirty_sync(dirty, BASE, 65 * PAGE, PAGE, bitmap, 1), -ENOSPC);
    EQ(vfiomig_dirty_sync(dirty, BASE + 1, 64 * PAGE, PAGE, bitmap, 2), -EINVAL);
    EQ(t.syncs, 0);
    EQ(count_bits(bitmap, 2), 0);
    OK(vfiomig_dirty_sync(dirty, BASE, 65 * PAGE, PAGE, bitmap, 2));
    EQ(count_bits(bitmap, 2), 65);
    vfiomig_dirty_free(dirty);
    tracker_free(&t);
}

/* A device that logs in larger pages: all of such a page, wherever a range cuts it. */
static void a_log_in_larger_pages(void)
{
    enum { LOG_PAGE = 65536, SIZE = 100 * PAGE };
    struct vfiomig_sim_options o = rig_options();
    struct vfiomig_dirty *dirty = tracking_new(NULL, PAGE, 0);
    uint64_t base = BASE + 3 * PAGE, bitmap[2] = { 0 };
    o.log_page_size = LOG_PAGE;
    struct rig rig = rig_new(&o, NULL);
    uint32_t number = add_writer(dirty, NULL, rig.dev,
                                 VFIOMIG_WRITER_DEVICE_LOG | VFIOMIG_WRITER_REQUIRED);
    /* From 3 on: its first and its last page are parts of the log's. */
    map(dirty, base, SIZE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    EQ(writer_of(dirty, number).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
    EQ(vfiomig_sim_dma_write(rig.sim, base, 1), 0);
    EQ(vfiomig_sim_dma_write(rig.sim, BASE + 40 * PAGE, 1), 0);
    EQ(vfiomig_sim_dma_write(rig.sim, base + SIZE - 1, 1), 0);
    for (uint64_t at = 0; at < SIZE; at += 7 * PAGE) {
        uint64_t part = 0, num = SIZE - at < 7 * PAGE ? (SIZE - at) / PAGE : 7;
        OK(vfiomig_dirty_sync(dirty, base + at, num * PAGE, PAGE, &part, 1));
        for (uint64_t i = 0; i < num; i++)
            bitmap[(at / PAGE + i) / 64] |= (uint64_t)bit(&part, i) << (at / PAGE + i) % 64;
    }
    for (uint64_t i = 0; i < 128; i++) {
        uint64_t page = i + 3;
        EQ(bit(bitmap, i), page < 16 || (page >= 32 && page < 48) || (page >= 96 && page < 103));
    }
    memset(bitmap, 0, sizeof bitmap);
    OK(vfiomig_dirty_sync(dirty, base, SIZE, PAGE, bitmap, 2));
    EQ(count_bits(bitmap, 2), 0);
    vfiomig_dirty_free(dirty);
    rig_free(&rig);
}

int main(void)
{
    RUN(exactly_the_pages_that_were_written_to);
    RUN(bits_that_are_set_already_stay_and_those_beyond_the_range_too);
    RUN(pages_of_every_size);
    RUN(a_page_that_a_range_cuts_is_dirty_on_both_sides);
    RUN(reading_in_pieces_loses_nothing);
    RUN(ranges_up_to_the_last_address);
    RUN(pages_that_nothing_is_mapped_at_stay_clean);
    RUN(memory_that_is_larger_than_the_buffer);
    RUN(a_tracker_that_fails);
    RUN(a_bitmap_that_is_too_small_loses_nothing);
    RUN(a_log_in_larger_pages);
    return DONE();
}
