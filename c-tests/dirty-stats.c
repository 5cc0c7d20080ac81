/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The numbers of a tracking object, of its rounds and of its writers, and the list of its errors:
 * exact if the test knows what they must be, and consistent with each other if only the clock does.
 */
#include <time.h>

#include "track.h"

#define BASE ((uint64_t)1 << 37)
#define NUM 128 /* pages */

static struct vfiomig_dirty_round round_of(struct vfiomig_dirty *tracking, uint32_t index)
{
    struct vfiomig_dirty_round round = VFIOMIG_DIRTY_ROUND_INIT;
    OK(vfiomig_dirty_get_round(tracking, index, &round));
    return round;
}

static uint64_t per_second(uint64_t bytes, uint64_t ns)
{
    CHECK(ns > 0 && bytes < UINT64_MAX / 1000000000);
    return bytes * 1000000000 / ns;
}

static void nap(void *opaque)
{
    (void)opaque;
    nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
}

static void rounds_add_up(void)
{
    enum { ROUNDS = 10 };
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *tracking = tracking_new(&m, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, NUM);
    uint64_t dirty = 0, busy = 0, at = 0, average = 0;
    add_writer(tracking, &t, NULL, 0);
    map(tracking, BASE, NUM * PAGE, 0, 0);
    EQ(stats_of(tracking).num_rounds, 0);
    OK(vfiomig_dirty_start(tracking));
    t.hook = nap;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        touch(&t, BASE, (i + 1) * PAGE);
        OK(vfiomig_dirty_collect(tracking));
        struct vfiomig_dirty_round round = round_of(tracking, (uint32_t)i);
        struct vfiomig_dirty_stats stats = stats_of(tracking);
        EQ(round.dirty_bytes, (i + 1) * PAGE);
        EQ(round.at_ns, at + round.interval_ns);
        CHECK(round.sync_ns >= 2000000 && round.sync_ns <= round.interval_ns);
        at = round.at_ns;
        dirty += round.dirty_bytes;
        busy += round.sync_ns;
        EQ(stats.rounds, i + 1);
        EQ(stats.num_rounds, i + 1);
        EQ(stats.dirty_bytes, dirty);
        EQ(stats.last_dirty_bytes, round.dirty_bytes);
        EQ(stats.sync_ns, busy);
        EQ(stats.last_sync_ns, round.sync_ns);
        EQ(stats.rate, per_second(round.dirty_bytes, round.interval_ns));
        average = i == 0 ? stats.rate : (3 * average + stats.rate) / 4;
        EQ(stats.average_rate, average);
        EQ(stats.mapped_bytes, NUM * PAGE);
        EQ(stats.num_writers, 1);
        EQ(stats.errors, 0);
    }
    vfiomig_dirty_free(tracking);
    tracker_free(&t);
    memory_free(&m);
}

/* What counts is not the number of calls, but how often an address was read. */
static void a_round_of_syncs_ends_where_an_address_comes_again(void)
{
    struct vfiomig_dirty *tracking = tracking_new(NULL, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, NUM);
    uint64_t bitmap[2];
    add_writer(tracking, &t, NULL, 0);
    map(tracking, BASE, NUM * PAGE, 0, 0);
    OK(vfiomig_dirty_start(tracking));
    for (uint32_t round = 0; round < 5; round++) {
        touch(&t, BASE + 10 * PAGE, 1);
        touch(&t, BASE + 100 * PAGE, (round + 1) * PAGE);
        /* The second half first. */
        for (int part = 3; part >= 0; part--) {
            OK(vfiomig_dirty_sync(tracking, BASE + (uint64_t)part * 32 * PAGE, 32 * PAGE, PAGE,
                                  bitmap, 2));
            EQ(stats_of(tracking).rounds, round);
        }
        EQ(stats_of(tracking).dirty_bytes, (round + 1 + (round + 1) * (round + 2) / 2) * PAGE);
        if (round > 0)
            EQ(round_of(tracking, round - 1).dirty_bytes, (round + 1) * PAGE);
    }
    vfiomig_dirty_free(tracking);
    tracker_free(&t);
}

static void the_last_64_rounds_are_kept(void)
{
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *tracking = tracking_new(&m, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, NUM);
    struct vfiomig_dirty_round none = VFIOMIG_DIRTY_ROUND_INIT;
    add_writer(tracking, &t, NULL, 0);
    map(tracking, BASE, NUM * PAGE, 0, 0);
    OK(vfiomig_dirty_start(tracking));
    for (uint64_t i = 0; i < 100; i++) {
        touch(&t, BASE, (i + 1) * PAGE);
        OK(vfiomig_dirty_collect(tracking));
    }
    EQ(stats_of(tracking).rounds, 100);
    EQ(stats_of(tracking).num_rounds, 64);
    EQ(round_of(tracking, 0).dirty_bytes, 37 * PAGE);
    EQ(round_of(tracking, 63).dirty_bytes, 100 * PAGE);
    EQ(vfiomig_dirty_get_round(tracking, 64, &none), -ENODATA);
    vfiomig_dirty_free(tracking);
    tracker_free(&t);
    memory_free(&m);
}

static void a_writer_has_its_own_numbers(void)
{
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *tracking = tracking_new(&m, PAGE, 0);
    struct tracker t[2] = { tracker_new(BASE, PAGE, NUM), tracker_new(BASE, 4 * PAGE, NUM / 4) };
    struct rig rig = rig_new(NULL, NULL);
    uint64_t calls[3] = { 0 };
    uint32_t number[3];
    for (int i = 0; i < 2; i++)
        number[i] = add_writer(tracking, &t[i], NULL, 0);
    number[2] = add_writer(tracking, NULL, rig.dev, VFIOMIG_WRITER_DEVICE_LOG);
    map(tracking, BASE, NUM * PAGE, 0, 0);
    OK(vfiomig_dirty_start(tracking));
    t[1].hook = nap;
    t[1].sloppy = 1; /* bits that nobody asked for do not count */
    for (int round = 1; round <= 3; round++) {
        touch(&t[0], BASE, 3 * PAGE);
        touch(&t[1], BASE + 8 * PAGE, 1);
        EQ(vfiomig_sim_dma_write(rig.sim, BASE + PAGE, 1), 0);
        OK(vfiomig_dirty_collect(tracking));
        static const uint64_t bytes[] = { 3 * PAGE, 4 * PAGE, PAGE }, page[] = { PAGE, 4 * PAGE, PAGE };
        struct vfiomig_dirty_round all = round_of(tracking, (uint32_t)round - 1);
        EQ(all.dirty_bytes, 7 * PAGE);
        for (int i = 0; i < 3; i++) {
            struct vfiomig_dirty_writer_stats stats = writer_of(tracking, number[i]);
            EQ(stats.page_size, page[i]);
            EQ(stats.dirty_bytes, (uint64_t)round * bytes[i]);
            EQ(stats.last_dirty_bytes, bytes[i]);
            EQ(stats.assumed_bytes, 0);
            EQ(stats.errors, 0);
            EQ(stats.restarts, 0);
            /* Starting it takes one or more; then it is one for each reading. */
            CHECK(stats.calls > (uint64_t)round);
            if (round > 1)
                EQ(stats.calls, calls[i] + 1);
            calls[i] = stats.calls;
            CHECK(stats.rate > 0);
            CHECK(stats.last_sync_ns <= all.sync_ns && stats.last_sync_ns <= stats.sync_ns);
            if (i == 1)
                CHECK(stats.last_sync_ns >= 2000000 && stats.sync_ns >= (uint64_t)round * 2000000);
        }
    }
    EQ(vfiomig_sim_count(rig.sim, VFIOMIG_SIM_OP_LOG_START), 1);
    vfiomig_dirty_free(tracking);
    for (int i = 0; i < 2; i++)
        tracker_free(&t[i]);
    memory_free(&m);
    rig_free(&rig);
}

/* After 64 the last one grows: what counted as dirty because of an error is always in the list. */
static void errors_are_kept_with_their_addresses(void)
{
    enum { ERRORS = 100 };
    struct vfiomig_dirty *tracking = tracking_new(NULL, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, 2 * ERRORS);
    uint32_t number = add_writer(tracking, &t, NULL, 0);
    uint64_t bitmap = 0;
    map(tracking, BASE, 2 * ERRORS * PAGE, 0, 0);
    OK(vfiomig_dirty_start(tracking));
    /* All over the place, and apart from each other: 37 and 100 have no common divisor. */
    for (uint64_t k = 0; k < ERRORS; k++) {
        uint64_t i = (k * 37 + 50) % ERRORS;
        t.fail_sync = EIO;
        EQ(vfiomig_dirty_sync(tracking, BASE + 2 * i * PAGE, PAGE, PAGE, &bitmap, 1),
           VFIOMIG_DIRTY_ERRORS);
    }
    EQ(stats_of(tracking).errors, ERRORS);
    EQ(stats_of(tracking).num_errors, 64);
    EQ(writer_of(tracking, number).errors, ERRORS);
    EQ(writer_of(tracking, number).assumed_bytes, ERRORS * PAGE);
    EQ(error_of(tracking, 0).first, BASE + 2 * 50 * PAGE);
    EQ(error_of(tracking, 0).last, BASE + 2 * 50 * PAGE + PAGE - 1);
    for (uint64_t i = 0; i < ERRORS; i++) {
        int covered = 0;
        for (uint32_t k = 0; k < 64; k++) {
            struct vfiomig_dirty_error error = error_of(tracking, k);
            EQ(error.writer, number);
            EQ(error.code, -EIO);
            covered |= error.first <= BASE + 2 * i * PAGE && BASE + 2 * i * PAGE + PAGE - 1 <= error.last;
        }
        EQ(covered, 1);
    }
    vfiomig_dirty_free(tracking);
    tracker_free(&t);
}

static void errors_beside_each_other_are_one(void)
{
    enum { PER_BUFFER = 4096 * 8, PAGES = 4 * PER_BUFFER, WORDS = PAGES / 64 };
    static uint64_t bitmap[WORDS];
    struct vfiomig_dirty *tracking = tracking_new(NULL, PAGE, 4096);
    struct tracker t = tracker_new(BASE, PAGE, PAGES);
    add_writer(tracking, NULL, NULL, 0);
    add_writer(tracking, &t, NULL, 0);
    map(tracking, BASE, (uint64_t)PAGES * PAGE, 0, 0);
    EQ(vfiomig_dirty_start(tracking), VFIOMIG_DIRTY_UNWATCHED);
    for (uint64_t i = 0; i < 4; i++) {
        t.fail_sync = EIO;
        EQ(vfiomig_dirty_sync(tracking, BASE + i * PER_BUFFER * PAGE, (uint64_t)PER_BUFFER * PAGE,
                              PAGE, bitmap, WORDS),
           VFIOMIG_DIRTY_ERRORS | VFIOMIG_DIRTY_UNWATCHED);
    }
    EQ(stats_of(tracking).errors, 4);
    EQ(stats_of(tracking).num_errors, 1);
    EQ(error_of(tracking, 0).writer, 1);
    EQ(error_of(tracking, 0).first, BASE);
    EQ(error_of(tracking, 0).last, BASE + (uint64_t)PAGES * PAGE - 1);
    vfiomig_dirty_free(tracking);
    tracker_free(&t);
}

static void numbers_stay_after_the_stop_and_begin_anew_with_a_start(void)
{
    struct memory m = memory_new(PAGE);
    struct vfiomig_dirty *tracking = tracking_new(&m, PAGE, 0);
    struct tracker t = tracker_new(BASE, PAGE, NUM);
    struct vfiomig_dirty_error none = VFIOMIG_DIRTY_ERROR_INIT;
    uint32_t number = add_writer(tracking, &t, NULL, 0);
    map(tracking, BASE, NUM * PAGE, 0, 0);
    OK(vfiomig_dirty_start(tracking));
    touch(&t, BASE, 5 * PAGE);
    OK(vfiomig_dirty_collect(tracking));
    t.fail_sync = EIO;
    EQ(vfiomig_dirty_collect(tracking), VFIOMIG_DIRTY_ERRORS);
    struct vfiomig_dirty_stats before = stats_of(tracking);
    OK(vfiomig_dirty_stop(tracking));
    struct vfiomig_dirty_stats after = stats_of(tracking);
    EQ(after.dirty_bytes, before.dirty_bytes);
    CHECK(after.dirty_bytes >= (5 + NUM) * PAGE);
    EQ(after.rounds, 2);
    EQ(after.errors, 1);
    EQ(after.sync_ns, before.sync_ns);
    EQ(round_of(tracking, 0).dirty_bytes, 5 * PAGE);
    EQ(error_of(tracking, 0).code, -EIO);
    EQ(writer_of(tracking, number).dirty_bytes, 5 * PAGE);
    EQ(writer_of(tracking, number).errors, 1);
    EQ(writer_of(tracking, number).tracker, VFIOMIG_TRACKER_NONE);
    OK(vfiomig_dirty_start(tracking));
    after = stats_of(tracking);
    EQ(after.dirty_bytes, 0);
    EQ(after.rounds, 0);
    EQ(after.num_rounds, 0);
    EQ(after.errors, 0);
    EQ(after.num_errors, 0);
    EQ(after.sync_ns, 0);
    EQ(after.rate, 0);
    EQ(after.average_rate, 0);
    EQ(writer_of(tracking, number).dirty_bytes, 0);
    EQ(writer_of(tracking, number).errors, 0);
    EQ(vfiomig_dirty_get_error(tracking, 0, &none), -ENODATA);
    vfiomig_dirty_free(tracking);
    tracker_free(&t);
    memory_free(&m);
}

/* The memory that tracking takes does not depend on how much memory there is. */
static void a_large_memory_takes_no_more_than_a_small_one(void)
{
    uint64_t taken[2];
    for (int large = 0; large < 2; large++) {
        struct vfiomig_dirty *tracking = tracking_new(NULL, PAGE, 1 << 18);
        uint64_t size = large ? (uint64_t)1 << 46 : 1 << 20, bitmap[4] = { 0 };
        add_writer(tracking, NULL, NULL, 0);
        map(tracking, 0, size, 0, 0);
        EQ(vfiomig_dirty_start(tracking), VFIOMIG_DIRTY_UNWATCHED);
        /* All of it, in one go. */
        OK(vfiomig_dirty_mark(tracking, 0, size));
        EQ(vfiomig_dirty_sync(tracking, 0, 256 * PAGE, PAGE, bitmap, 4), VFIOMIG_DIRTY_UNWATCHED);
        EQ(count_bits(bitmap, 4), 256);
        taken[large] = stats_of(tracking).memory_bytes;
        OK(vfiomig_dirty_stop(tracking));
        CHECK(stats_of(tracking).memory_bytes < 65536);
        vfiomig_dirty_free(tracking);
    }
    CHECK(taken[0] >= 1 << 18);
    CHECK(taken[1] <= taken[0] + 65536);
}

int main(void)
{
    RUN(rounds_add_up);
    RUN(a_round_of_syncs_ends_where_an_address_comes_again);
    RUN(the_last_64_rounds_are_kept);
    RUN(a_writer_has_its_own_numbers);
    RUN(errors_are_kept_with_their_addresses);
    RUN(errors_beside_each_other_are_one);
    RUN(numbers_stay_after_the_stop_and_begin_anew_with_a_start);
    RUN(a_large_memory_takes_no_more_than_a_small_one);
    return DONE();
}
