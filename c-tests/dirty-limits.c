/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Logs that do not accept, or do not report, everything: what can be logged is logged, the rest
 * counts as dirty and is named, and none is given up for something that passes.
 */
#include "logger.h"
#include "track.h"

#define GIB ((uint64_t)1 << 30)
#define TIB ((uint64_t)1 << 40)

static uint64_t logged_bytes(const struct logger *d)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; d->logging && i < d->num; i++)
        bytes += d->ranges[i][1];
    return bytes;
}

struct bytes_given {
    uint64_t bytes;
    int released;
};

static int add_bytes(void *opaque, uint64_t cookie, uint64_t offset, uint64_t page_size,
                     const uint64_t *bitmap, uint64_t num_bits)
{
    struct bytes_given *given = opaque;
    (void)cookie;
    (void)offset;
    for (uint64_t i = 0; i < (num_bits + 63) / 64; i++)
        given->bytes += (uint64_t)__builtin_popcountll(bitmap[i]) * page_size;
    return 0;
}

static struct vfiomig_dirty *counting_tracking(struct bytes_given *given, uint64_t page_size)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty_options options = VFIOMIG_DIRTY_OPTIONS_INIT;
    struct vfiomig_dirty *dirty;
    *given = (struct bytes_given){ 0 };
    ops.set_dirty = add_bytes;
    options.page_size = page_size;
    OK(vfiomig_dirty_new(&ops, given, &options, &dirty));
    return dirty;
}

/* What a round delivers, in bytes. */
static uint64_t round_of(struct vfiomig_dirty *dirty, struct bytes_given *given, int returned)
{
    given->bytes = 0;
    EQ(vfiomig_dirty_collect(dirty), returned);
    return given->bytes;
}

struct at {
    uint64_t iova, size;
};

/* Starts a log over these; what is blind then, in bytes, is dirty in each round and reported
 * each time. */
static void some_is_logged(struct logger *d, const struct at *at, int num, uint64_t page_size,
                           uint64_t most_blind, int most_tries, const char *named)
{
    struct bytes_given given;
    struct vfiomig_dirty *dirty = counting_tracking(&given, page_size);
    struct vfiomig_device *dev = logger_open(d, NULL);
    uint32_t number = add_writer(dirty, NULL, dev,
                                 VFIOMIG_WRITER_DEVICE_LOG | VFIOMIG_WRITER_REQUIRED);
    uint64_t all = 0, blind;
    for (int i = 0; i < num; i++) {
        map(dirty, at[i].iova, at[i].size, (uint64_t)i, 0);
        all += at[i].size;
    }
    EQ(vfiomig_dirty_start(dirty), VFIOMIG_DIRTY_UNWATCHED);
    struct vfiomig_dirty_writer_stats stats = writer_of(dirty, number);
    EQ(stats.tracker, VFIOMIG_TRACKER_DEVICE_LOG);
    HAS(stats.note, "does not log all of the memory");
    HAS(stats.note, named);
    CHECK(d->starts <= most_tries);
    blind = round_of(dirty, &given, VFIOMIG_DIRTY_UNWATCHED);
    CHECK(blind > 0 && blind <= most_blind && blind >= all - logged_bytes(d));
    EQ(writer_of(dirty, number).assumed_bytes, blind);
    int starts = d->starts;
    EQ(round_of(dirty, &given, VFIOMIG_DIRTY_UNWATCHED), blind);
    EQ(writer_of(dirty, number).assumed_bytes, 2 * blind);
    /* What is logged is reported as exactly as ever. */
    logger_write(d, at[0].iova + 5 * page_size);
    EQ(d->num_dirty, 1);
    EQ(round_of(dirty, &given, VFIOMIG_DIRTY_UNWATCHED), blind + page_size);
    EQ(d->starts, starts);
    vfiomig_dirty_free(dirty);
    EQ(d->logging, 0);
    vfiomig_device_free(dev);
}

static void ranges_out_of_reach_are_dirty_and_the_rest_is_logged(void)
{
    static const struct at guest[] = {
        { 0, 2 * GIB }, { 4 * GIB, 14 * GIB }, { 56 * TIB, 32 << 20 }, { 100 * TIB, 32 << 20 },
    };
    some_is_logged(&(struct logger){ .end = 16 * TIB }, guest, 3, PAGE, 32 << 20, 3,
                   "0x380000000000 (0x2000000 bytes)");
    some_is_logged(&(struct logger){ .end = 16 * TIB }, guest, 4, PAGE, 64 << 20, 8,
                   "0x380000000000 (0x2000000 bytes), 0x640000000000 (0x2000000 bytes)");
    some_is_logged(&(struct logger){ .bad = { 56 * TIB, 0 } }, guest, 4, PAGE, 32 << 20, 8,
                   "0x380000000000 (0x2000000 bytes)");
    /* In the middle of memory. */
    static const struct at pieces[] = {
        { 0, 4 * GIB }, { 5 * GIB, GIB }, { 8 * GIB, 4 * GIB }, { 20 * GIB, GIB },
    };
    some_is_logged(&(struct logger){ .bad = { 5 * GIB, 20 * GIB } }, pieces, 4, PAGE, 2 * GIB, 8,
                   "0x140000000 (0x40000000 bytes)");
}

static void more_than_a_device_can_log_is_logged_up_to_its_limit(void)
{
    static const struct at two[] = { { 0, 6 * TIB }, { 8 * TIB, 6 * TIB } };
    static const struct at one[] = { { 0, 12 * TIB } };
    some_is_logged(&(struct logger){ .most_bytes = 8 * TIB - 1 }, two, 2, GIB, 6 * TIB, 8, "0x");
    /* One mapping is cut. */
    some_is_logged(&(struct logger){ .most_bytes = 8 * TIB - 1 }, one, 1, GIB, 6 * TIB, 8, "0x");
    /* Reach and size at once. */
    static const struct at both[] = { { 0, 6 * TIB }, { 8 * TIB, 6 * TIB }, { 200 * TIB, GIB } };
    some_is_logged(&(struct logger){ .most_bytes = 8 * TIB - 1, .end = 100 * TIB }, both, 3, GIB,
                   6 * TIB + GIB, 8, "0x");
}

static void too_many_ranges_are_joined_before_anything_is_left_out(void)
{
    struct logger d = { .most_ranges = 5 };
    struct bytes_given given;
    struct vfiomig_dirty *dirty = counting_tracking(&given, PAGE);
    struct vfiomig_device *dev = logger_open(&d, NULL);
    add_writer(dirty, NULL, dev, VFIOMIG_WRITER_DEVICE_LOG);
    for (uint64_t i = 0; i < 300; i++)
        map(dirty, i * GIB, PAGE, i, 0);
    OK(vfiomig_dirty_start(dirty));
    EQ(d.num, 4);
    CHECK(d.starts <= 4);
    for (uint64_t i = 0; i < 300; i++)
        CHECK(is_logged(&d, i * GIB));
    EQ(round_of(dirty, &given, 0), 0);
    vfiomig_dirty_free(dirty);
    vfiomig_device_free(dev);
}

/* If another tracker reports everything, it is better than a log that reports a part. */
static void a_tracker_that_tells_everything_is_better_than_a_part_of_a_log(void)
{
    struct logger d = { .end = TIB };
    struct tracker t = tracker_new(0, PAGE, 64);
    struct bytes_given given;
    struct vfiomig_dirty *dirty = counting_tracking(&given, PAGE);
    struct vfiomig_device *dev = logger_open(&d, NULL);
    uint32_t number = add_writer(dirty, &t, dev, VFIOMIG_WRITER_DEVICE_LOG);
    map(dirty, 0, 64 * PAGE, 0, 0);
    map(dirty, 2 * TIB, 64 * PAGE, 1, 0);
    OK(vfiomig_dirty_start(dirty));
    EQ(writer_of(dirty, number).tracker, VFIOMIG_TRACKER_CUSTOM);
    HAS(writer_of(dirty, number).note, "device DMA logging: the device does not log all");
    HAS(writer_of(dirty, number).note, "0x20000000000 (0x40000 bytes)");
    EQ(d.logging, 0);
    touch(&t, 3 * PAGE, 1);
    EQ(round_of(dirty, &given, 0), PAGE);
    EQ(writer_of(dirty, number).assumed_bytes, 0);
    vfiomig_dirty_free(dirty);
    vfiomig_device_free(dev);
    tracker_free(&t);
}

static void a_mapping_that_a_full_log_does_not_take_is_dirty_and_nothing_else(void)
{
    struct logger d = { .most_bytes = 8 * GIB };
    struct bytes_given given;
    struct vfiomig_dirty *dirty = counting_tracking(&given, PAGE);
    struct vfiomig_device *dev = logger_open(&d, NULL);
    uint32_t number = add_writer(dirty, NULL, dev, VFIOMIG_WRITER_DEVICE_LOG);
    map(dirty, 0, 7 * GIB, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    EQ(round_of(dirty, &given, 0), 0);
    map(dirty, 8 * GIB, 2 * GIB, 1, 0);
    map(dirty, 16 * GIB, GIB / 2, 2, 0);
    int starts = d.starts;
    /* The device is stopped: the log is restarted, over as much as it accepts. */
    OK(vfiomig_device_set_state(dev, VFIOMIG_STATE_STOP));
    EQ(round_of(dirty, &given, VFIOMIG_DIRTY_UNWATCHED), 2 * GIB + GIB / 2);
    CHECK(d.starts - starts <= 4);
    EQ(is_logged(&d, 0), 1);
    CHECK(is_logged(&d, 16 * GIB) || is_logged(&d, 8 * GIB));
    starts = d.starts;
    OK(vfiomig_device_run(dev));
    uint64_t blind = round_of(dirty, &given, VFIOMIG_DIRTY_UNWATCHED);
    CHECK(blind > 0 && blind <= 2 * GIB);
    EQ(d.starts, starts);
    HAS(writer_of(dirty, number).note, "does not log all of the memory");
    EQ(writer_of(dirty, number).assumed_bytes, 2 * GIB + GIB / 2 + blind);
    logger_write(&d, 6 * GIB);
    EQ(round_of(dirty, &given, VFIOMIG_DIRTY_UNWATCHED), blind + PAGE);
    vfiomig_dirty_free(dirty);
    vfiomig_device_free(dev);
}

static void a_window_that_is_too_large_leaves_the_mappings_logged(void)
{
    struct logger d = { .most_bytes = 8 * TIB - 1 };
    struct bytes_given given;
    struct vfiomig_dirty *dirty = counting_tracking(&given, PAGE);
    struct vfiomig_device *dev = logger_open(&d, NULL);
    add_writer(dirty, NULL, dev, VFIOMIG_WRITER_DEVICE_LOG);
    OK(try_map(dirty, 0, (uint64_t)1 << 48, 0, 0, VFIOMIG_MAPPING_WINDOW));
    for (uint64_t i = 0; i < 200; i++)
        map(dirty, i << 30, 64 << 20, i, 0);
    OK(vfiomig_dirty_start(dirty));
    EQ(d.starts, 2);
    EQ(d.num, 200);
    EQ(round_of(dirty, &given, 0), 0);
    vfiomig_dirty_free(dirty);
    /* Nothing is mapped yet, and the window alone is too much: later mappings are logged. */
    dirty = counting_tracking(&given, PAGE);
    uint32_t number = add_writer(dirty, NULL, dev, VFIOMIG_WRITER_DEVICE_LOG);
    OK(try_map(dirty, 0, (uint64_t)1 << 48, 0, 0, VFIOMIG_MAPPING_WINDOW));
    OK(vfiomig_dirty_start(dirty));
    EQ(writer_of(dirty, number).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
    EQ(d.logging, 0);
    map(dirty, GIB, 4 * PAGE, 0, 0);
    EQ(round_of(dirty, &given, VFIOMIG_DIRTY_UNWATCHED), 4 * PAGE);
    OK(vfiomig_device_set_state(dev, VFIOMIG_STATE_STOP));
    EQ(round_of(dirty, &given, VFIOMIG_DIRTY_UNWATCHED), 4 * PAGE);
    EQ(is_logged(&d, GIB), 1);
    EQ(round_of(dirty, &given, 0), 0);
    vfiomig_dirty_free(dirty);
    vfiomig_device_free(dev);
}

/* A device's command may take a minute to fail, so it is not repeated again and again. */
static void a_log_that_times_out_is_asked_twice_and_then_the_next_tracker(void)
{
    static const int errnos[] = { ETIMEDOUT, EIO, ENOTTY };
    for (int i = 0; i < 3; i++)
        for (int windows = 0; windows < 2; windows++) {
            struct logger d = { .fail_start = errnos[i], .fail_starts = -1 };
            struct tracker t = tracker_new(0, PAGE, 64);
            struct bytes_given given;
            struct vfiomig_dirty *dirty = counting_tracking(&given, PAGE);
            struct vfiomig_device *dev = logger_open(&d, NULL);
            uint32_t number = add_writer(dirty, &t, dev, VFIOMIG_WRITER_DEVICE_LOG);
            if (windows)
                OK(try_map(dirty, 0, TIB, 0, 0, VFIOMIG_MAPPING_WINDOW));
            for (uint64_t n = 0; n < 40; n++)
                map(dirty, n * GIB, PAGE, n, 0);
            OK(vfiomig_dirty_start(dirty));
            EQ(writer_of(dirty, number).tracker, VFIOMIG_TRACKER_CUSTOM);
            EQ(d.starts, errnos[i] == ENOTTY ? 1 : 2);
            vfiomig_dirty_free(dirty);
            vfiomig_device_free(dev);
            tracker_free(&t);
        }
}

static void a_log_that_is_busy_is_kept_and_its_range_is_dirty_once(void)
{
    static const int errnos[] = { EBUSY, EAGAIN };
    for (int i = 0; i < 2; i++) {
        struct logger d = { .fail_report = errnos[i] };
        struct bytes_given given;
        struct vfiomig_dirty *dirty = counting_tracking(&given, PAGE);
        struct vfiomig_device *dev = logger_open(&d, NULL);
        uint32_t number = add_writer(dirty, NULL, dev, VFIOMIG_WRITER_DEVICE_LOG);
        map(dirty, 0, 64 * PAGE, 0, 0);
        map(dirty, GIB, 8 * PAGE, 1, 0);
        d.fail_reports = 1; /* already when it is tried out */
        OK(vfiomig_dirty_start(dirty));
        EQ(writer_of(dirty, number).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
        int starts = d.starts, stops = d.stops;
        logger_write(&d, GIB);
        d.fail_reports = 1;
        /* The first range; the second is told as ever. */
        EQ(round_of(dirty, &given, VFIOMIG_DIRTY_ERRORS), 64 * PAGE + PAGE);
        struct vfiomig_dirty_error error = error_of(dirty, 0);
        EQ(error.writer, number);
        EQ(error.first, 0);
        EQ(error.last, 64 * PAGE - 1);
        EQ(writer_of(dirty, number).assumed_bytes, 64 * PAGE);
        logger_write(&d, 9 * PAGE);
        EQ(round_of(dirty, &given, 0), PAGE);
        EQ(d.starts, starts);
        EQ(d.stops, stops);
        EQ(writer_of(dirty, number).restarts, 0);
        vfiomig_dirty_free(dirty);
        vfiomig_device_free(dev);
    }
}

/* START says that it cannot now: everything is dirty until it can. */
static void a_log_that_cannot_start_now_is_tried_again_in_the_next_round(void)
{
    struct logger d = { .fail_start = EBUSY, .fail_starts = 3 };
    struct bytes_given given;
    struct vfiomig_dirty *dirty = counting_tracking(&given, PAGE);
    struct vfiomig_device *dev = logger_open(&d, NULL);
    uint32_t number = add_writer(dirty, NULL, dev, VFIOMIG_WRITER_DEVICE_LOG);
    map(dirty, 0, 64 * PAGE, 0, 0);
    EQ(vfiomig_dirty_start(dirty), VFIOMIG_DIRTY_UNWATCHED);
    EQ(writer_of(dirty, number).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
    HAS(writer_of(dirty, number).note, "does not log now");
    EQ(d.starts, 1);
    for (int round = 0; round < 3; round++)
        EQ(round_of(dirty, &given, VFIOMIG_DIRTY_UNWATCHED), 64 * PAGE);
    EQ(d.logging, 1);
    EQ(writer_of(dirty, number).assumed_bytes, 3 * 64 * PAGE);
    logger_write(&d, PAGE);
    EQ(round_of(dirty, &given, 0), PAGE);
    /* The same when it is restarted. */
    d.fail_starts = 1;
    d.fail_report = EIO;
    d.fail_reports = 1;
    EQ(round_of(dirty, &given, VFIOMIG_DIRTY_ERRORS | VFIOMIG_DIRTY_UNWATCHED), 64 * PAGE);
    EQ(round_of(dirty, &given, VFIOMIG_DIRTY_UNWATCHED), 64 * PAGE);
    EQ(d.logging, 1);
    EQ(round_of(dirty, &given, 0), 0);
    OK(vfiomig_dirty_stop(dirty));
    /* A writer that must be tracked is not, at the moment. */
    OK(vfiomig_dirty_remove_writer(dirty, number));
    add_writer(dirty, NULL, dev, VFIOMIG_WRITER_DEVICE_LOG | VFIOMIG_WRITER_REQUIRED);
    d.fail_starts = 1;
    EQ(vfiomig_dirty_start(dirty), -EOPNOTSUPP);
    OK(vfiomig_dirty_start(dirty));
    vfiomig_dirty_free(dirty);
    vfiomig_device_free(dev);
}

/* Eight rounds in a row, if there is something better; otherwise it may still come back. */
static void a_log_that_stays_busy_is_given_up_for_a_better_tracker(void)
{
    for (int better = 0; better < 2; better++) {
        struct logger d = { .fail_report = EBUSY };
        struct tracker t = tracker_new(0, PAGE, 64);
        struct bytes_given given;
        struct vfiomig_dirty *dirty = counting_tracking(&given, PAGE);
        struct vfiomig_device *dev = logger_open(&d, NULL);
        uint32_t number = add_writer(dirty, better ? &t : NULL, dev, VFIOMIG_WRITER_DEVICE_LOG);
        map(dirty, 0, 64 * PAGE, 0, 0);
        OK(vfiomig_dirty_start(dirty));
        /* Not in a row. */
        for (int round = 0; round < 20; round++) {
            d.fail_reports = round % 7 != 0;
            EQ(round_of(dirty, &given, round % 7 ? VFIOMIG_DIRTY_ERRORS : 0),
               round % 7 ? 64 * PAGE : 0);
        }
        EQ(round_of(dirty, &given, 0), 0);
        d.fail_reports = -1;
        for (int round = 0; round < 12; round++) {
            uint32_t tracker = writer_of(dirty, number).tracker;
            EQ(tracker, better && round >= 8 ? VFIOMIG_TRACKER_CUSTOM : VFIOMIG_TRACKER_DEVICE_LOG);
            CHECK(vfiomig_dirty_collect(dirty) >= 0);
        }
        if (better)
            HAS(writer_of(dirty, number).note, "8 rounds in a row");
        d.fail_reports = 0;
        EQ(round_of(dirty, &given, 0), 0);
        vfiomig_dirty_free(dirty);
        vfiomig_device_free(dev);
        if (better)
            tracker_free(&t);
        else
            free(t.dirty);
    }
}

/* Like a vfio-user server, whose regions are what was mapped. */
static void a_log_that_reports_whole_mappings_only_is_asked_for_them(void)
{
    for (int exactly = 0; exactly < 2; exactly++)
        for (uint64_t gib = 16; gib <= 64; gib += 48) {
            struct logger d = { .whole = 1, .exactly = exactly, .base = 4 * GIB, .length = gib * GIB };
            struct bytes_given given;
            struct vfiomig_dirty *dirty = counting_tracking(&given, PAGE);
            struct vfiomig_device *dev = logger_open(&d, NULL);
            uint32_t number = add_writer(dirty, NULL, dev, VFIOMIG_WRITER_DEVICE_LOG);
            static uint64_t bitmap[(GIB / PAGE) / 64];
            map(dirty, d.base, d.length, 0, 0);
            OK(vfiomig_dirty_start(dirty));
            EQ(writer_of(dirty, number).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
            logger_write(&d, d.base + d.length - PAGE);
            logger_write(&d, d.base);
            EQ(round_of(dirty, &given, 0), 2 * PAGE);
            /* A part in the middle; what lies next to it is not lost. */
            logger_write(&d, d.base + 8 * GIB + 5 * PAGE);
            logger_write(&d, d.base + PAGE);
            logger_write(&d, d.base + d.length - 2 * PAGE);
            memset(bitmap, 0, sizeof bitmap);
            OK(vfiomig_dirty_sync(dirty, d.base + 8 * GIB, GIB, PAGE, bitmap, sizeof bitmap / 8));
            EQ(count_bits(bitmap, sizeof bitmap / 8), 1);
            EQ(bit(bitmap, 5), 1);
            EQ(round_of(dirty, &given, 0), 2 * PAGE);
            EQ(writer_of(dirty, number).assumed_bytes, 0);
            EQ(stats_of(dirty).num_errors, 0);
            HAS(writer_of(dirty, number).note, "whole mappings only");
            vfiomig_dirty_free(dirty);
            vfiomig_device_free(dev);
        }
}

/* It is not mistaken for one that cannot report at all, nor the other way round. */
static void a_log_that_reports_nothing_is_still_found_out(void)
{
    struct logger d = { .fail_report = EOPNOTSUPP, .fail_reports = -1 };
    struct bytes_given given;
    struct vfiomig_dirty *dirty = counting_tracking(&given, PAGE);
    struct vfiomig_device *dev = logger_open(&d, NULL);
    uint32_t number = add_writer(dirty, NULL, dev, VFIOMIG_WRITER_DEVICE_LOG);
    map(dirty, 0, 64 * PAGE, 0, 0);
    EQ(vfiomig_dirty_start(dirty), VFIOMIG_DIRTY_UNWATCHED);
    EQ(writer_of(dirty, number).tracker, VFIOMIG_TRACKER_ALL_DIRTY);
    HAS(writer_of(dirty, number).note, "CONFIG_IOMMUFD");
    EQ(d.logging, 0);
    vfiomig_dirty_free(dirty);
    vfiomig_device_free(dev);
}

struct reader {
    struct vfiomig_dirty *dirty;
    int result, events;
};

static void read_in_event(void *opaque, const struct vfiomig_event *event)
{
    struct reader *reader = opaque;
    (void)event;
    if (reader->dirty) {
        reader->result = vfiomig_dirty_collect(reader->dirty);
        reader->events++;
    }
}

/* The device is busy with what it reports. Its log is not lost because of that. */
static void a_reading_inside_an_event_of_the_device_keeps_the_log(void)
{
    struct logger d = { 0 };
    struct bytes_given given;
    struct reader reader = { 0 };
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    options.event = read_in_event;
    options.event_opaque = &reader;
    struct vfiomig_dirty *dirty = counting_tracking(&given, PAGE);
    struct vfiomig_device *dev = logger_open(&d, &options);
    uint32_t number = add_writer(dirty, NULL, dev, VFIOMIG_WRITER_DEVICE_LOG);
    map(dirty, 0, 64 * PAGE, 0, 0);
    OK(vfiomig_dirty_start(dirty));
    int starts = d.starts;
    logger_write(&d, 3 * PAGE);
    reader.dirty = dirty;
    OK(vfiomig_device_set_state(dev, VFIOMIG_STATE_STOP));
    reader.dirty = NULL;
    CHECK(reader.events > 0);
    EQ(reader.result, VFIOMIG_DIRTY_ERRORS);
    EQ(given.bytes, 64 * PAGE);
    EQ(writer_of(dirty, number).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
    EQ(d.logging, 1);
    EQ(d.starts, starts);
    EQ(round_of(dirty, &given, 0), PAGE); /* what it had logged */
    logger_write(&d, 4 * PAGE);
    EQ(round_of(dirty, &given, 0), PAGE);
    vfiomig_dirty_free(dirty);
    vfiomig_device_free(dev);
}

/* The most that may be mapped is 2^48 bytes in all. */
static void the_most_that_is_mapped_is_2_to_the_48(void)
{
    struct bytes_given given;
    struct vfiomig_dirty *dirty = counting_tracking(&given, GIB);
    add_writer(dirty, NULL, NULL, 0);
    map(dirty, 0, (uint64_t)1 << 47, 0, 0);
    map(dirty, (uint64_t)1 << 50, (uint64_t)1 << 47, 1, 0);
    EQ(stats_of(dirty).mapped_bytes, 1ull << 48);
    EQ(try_map(dirty, (uint64_t)1 << 51, GIB, 2, 0, 0), -EINVAL);
    HAS(vfiomig_error_message(), "0x1000000000000");
    EQ(vfiomig_dirty_start(dirty), VFIOMIG_DIRTY_UNWATCHED);
    EQ(round_of(dirty, &given, VFIOMIG_DIRTY_UNWATCHED), 1ull << 48);
    vfiomig_dirty_free(dirty);
    dirty = counting_tracking(&given, GIB);
    add_writer(dirty, NULL, NULL, 0);
    map(dirty, 0, (uint64_t)1 << 48, 0, 0);
    EQ(vfiomig_dirty_start(dirty), VFIOMIG_DIRTY_UNWATCHED);
    static uint64_t bitmap[((uint64_t)1 << 48) / GIB / 64];
    EQ(vfiomig_dirty_sync(dirty, 0, (uint64_t)1 << 48, GIB, bitmap, sizeof bitmap / 8),
       VFIOMIG_DIRTY_UNWATCHED);
    EQ(count_bits(bitmap, sizeof bitmap / 8), (1ull << 48) / GIB);
    vfiomig_dirty_free(dirty);
}

int main(void)
{
    RUN(ranges_out_of_reach_are_dirty_and_the_rest_is_logged);
    RUN(more_than_a_device_can_log_is_logged_up_to_its_limit);
    RUN(too_many_ranges_are_joined_before_anything_is_left_out);
    RUN(a_tracker_that_tells_everything_is_better_than_a_part_of_a_log);
    RUN(a_mapping_that_a_full_log_does_not_take_is_dirty_and_nothing_else);
    RUN(a_window_that_is_too_large_leaves_the_mappings_logged);
    RUN(a_log_that_times_out_is_asked_twice_and_then_the_next_tracker);
    RUN(a_log_that_is_busy_is_kept_and_its_range_is_dirty_once);
    RUN(a_log_that_cannot_start_now_is_tried_again_in_the_next_round);
    RUN(a_log_that_stays_busy_is_given_up_for_a_better_tracker);
    RUN(a_log_that_reports_whole_mappings_only_is_asked_for_them);
    RUN(a_log_that_reports_nothing_is_still_found_out);
    RUN(a_reading_inside_an_event_of_the_device_keeps_the_log);
    RUN(the_most_that_is_mapped_is_2_to_the_48);
    return DONE();
}
