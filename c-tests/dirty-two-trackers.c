/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Two devices in one address space, of which one has a log and no other tracker, and the other has
 * a tracker and no log. A VMM that chooses one kind of tracker for both misses the pages of one of
 * them. So the choice is made per writer, and what is dirty for any of them is dirty.
 */
#include "track.h"

#define BASE ((uint64_t)1 << 36)
#define NUM 4096 /* pages */
#define WORDS (NUM / 64)

struct two {
    struct vfiomig_dirty *dirty;
    struct memory m;
    struct rig a, b;
    struct tracker t; /* of b */
    uint32_t number[2];
};

/* In either order: none of them is the one that counts. */
static void two_new(struct two *two, int b_first)
{
    struct vfiomig_sim_options o = rig_options();
    memset(two, 0, sizeof *two);
    two->m = memory_new(PAGE);
    two->dirty = tracking_new(&two->m, PAGE, 4096);
    two->a = rig_new(NULL, NULL);
    o.quirks = VFIOMIG_SIM_NO_LOGGING;
    two->b = rig_new(&o, NULL);
    two->t = tracker_new(BASE, PAGE, NUM);
    for (int i = 0; i < 2; i++) {
        const uint32_t both = VFIOMIG_WRITER_DEVICE_LOG | VFIOMIG_WRITER_REQUIRED;
        if (i == b_first)
            two->number[0] = add_writer(two->dirty, NULL, two->a.dev, both);
        else
            two->number[1] = add_writer(two->dirty, &two->t, two->b.dev, both);
    }
    map(two->dirty, BASE, NUM * PAGE, 0, 0);
    OK(vfiomig_dirty_start(two->dirty));
    EQ(writer_of(two->dirty, two->number[0]).tracker, VFIOMIG_TRACKER_DEVICE_LOG);
    EQ(writer_of(two->dirty, two->number[1]).tracker, VFIOMIG_TRACKER_CUSTOM);
}

static void two_free(struct two *two)
{
    vfiomig_dirty_free(two->dirty);
    tracker_free(&two->t);
    memory_free(&two->m);
    rig_free(&two->a);
    rig_free(&two->b);
}

/* Device A writes into its log; device B writes where only its tracker sees it. */
static void write_a(struct two *two, uint64_t page)
{
    EQ(vfiomig_sim_dma_write(two->a.sim, BASE + page * PAGE + page % PAGE, 1), 0);
}

static void write_b(struct two *two, uint64_t page)
{
    EQ(vfiomig_sim_dma_write(two->b.sim, BASE + page * PAGE, 1), 0);
    touch(&two->t, BASE + page * PAGE, 1);
}

static void what_either_device_wrote_is_dirty(void)
{
    for (int b_first = 0; b_first < 2; b_first++) {
        struct two two;
        uint64_t seed = 11, reported[2] = { 0, 0 };
        two_new(&two, b_first);
        for (int round = 0; round < 20; round++) {
            static uint8_t written[2][NUM];
            static uint64_t bitmap[WORDS];
            memset(written, 0, sizeof written);
            memset(bitmap, 0, sizeof bitmap);
            for (int i = 0; i < 50; i++) {
                uint64_t a = random_(&seed) % NUM, b = random_(&seed) % NUM;
                write_a(&two, a);
                write_b(&two, b);
                written[0][a] = written[1][b] = 1;
            }
            OK(vfiomig_dirty_sync(two.dirty, BASE, NUM * PAGE, PAGE, bitmap, WORDS));
            for (size_t i = 0; i < NUM; i++)
                EQ(bit(bitmap, i), written[0][i] | written[1][i]);
            for (int k = 0; k < 2; k++) {
                for (size_t i = 0; i < NUM; i++)
                    reported[k] += written[k][i] * PAGE;
                EQ(writer_of(two.dirty, two.number[k]).dirty_bytes, reported[k]);
            }
        }
        two_free(&two);
    }
}

/* A page that both wrote to is one page. */
static void what_both_wrote_is_told_once(void)
{
    struct two two;
    two_new(&two, 0);
    write_a(&two, 5);
    write_b(&two, 5);
    write_a(&two, 6);
    write_b(&two, 7);
    OK(vfiomig_dirty_collect(two.dirty));
    EQ(two.m.num, 3);
    EQ(times_given(&two.m, 0, 5 * PAGE), 1);
    OK(vfiomig_dirty_collect(two.dirty));
    EQ(two.m.num, 3);
    two_free(&two);
}

/* The errors of one are not those of the other. */
static void one_that_fails_does_not_hide_the_other(void)
{
    struct two two;
    static uint64_t bitmap[WORDS];
    two_new(&two, 0);
    write_a(&two, 9);
    two.t.fail_sync = EIO;
    two.t.fail_nth = 1;
    EQ(vfiomig_dirty_sync(two.dirty, BASE, NUM * PAGE, PAGE, bitmap, WORDS), VFIOMIG_DIRTY_ERRORS);
    EQ(count_bits(bitmap, WORDS), NUM);
    EQ(writer_of(two.dirty, two.number[0]).errors, 0);
    EQ(writer_of(two.dirty, two.number[1]).errors, 1);
    EQ(error_of(two.dirty, 0).writer, two.number[1]);
    memset(bitmap, 0, sizeof bitmap);
    write_a(&two, 100);
    write_b(&two, 200);
    OK(vfiomig_dirty_sync(two.dirty, BASE, NUM * PAGE, PAGE, bitmap, WORDS));
    EQ(count_bits(bitmap, WORDS), 2);
    /* And the other way round. */
    EQ(vfiomig_sim_inject(two.a.sim, VFIOMIG_SIM_OP_LOG_REPORT, 1, EIO, VFIOMIG_SIM_FAULT_HALF), 0);
    write_b(&two, 300);
    EQ(vfiomig_dirty_sync(two.dirty, BASE, NUM * PAGE, PAGE, bitmap, WORDS), VFIOMIG_DIRTY_ERRORS);
    EQ(count_bits(bitmap, WORDS), NUM);
    EQ(writer_of(two.dirty, two.number[0]).errors, 1);
    EQ(writer_of(two.dirty, two.number[1]).errors, 1);
    two_free(&two);
}

static void either_may_go(void)
{
    for (int goes = 0; goes < 2; goes++) {
        struct two two;
        static uint64_t bitmap[WORDS];
        two_new(&two, 0);
        memset(bitmap, 0, sizeof bitmap);
        write_a(&two, 1);
        write_b(&two, 2);
        OK(vfiomig_dirty_remove_writer(two.dirty, two.number[goes]));
        write_a(&two, 3);
        write_b(&two, 4);
        OK(vfiomig_dirty_sync(two.dirty, BASE, NUM * PAGE, PAGE, bitmap, WORDS));
        EQ(bitmap[0], goes == 0 ? (2 | 4 | 16) : (2 | 4 | 8));
        two_free(&two);
    }
}

int main(void)
{
    RUN(what_either_device_wrote_is_dirty);
    RUN(what_both_wrote_is_told_once);
    RUN(one_that_fails_does_not_hide_the_other);
    RUN(either_may_go);
    return DONE();
}
