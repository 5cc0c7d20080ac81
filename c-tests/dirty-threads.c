/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Many threads map, unmap, mark, write, collect and sync at once. The model is that of a migration:
 * each page has a version that increases with every write, and a copy that is taken whenever the
 * page is reported as dirty. In the end, when nobody writes now and the last reading is done, every
 * copy has the last version: nothing was lost, whoever was told.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "track.h"

#define BASE ((uint64_t)1 << 39)
enum { REGIONS = 4, PAGES = 200, ALL_PAGES = REGIONS * PAGES };

struct model {
    struct vfiomig_dirty *tracking;
    struct vfiomig_sim *sim;
    atomic_uint version[ALL_PAGES], copy[ALL_PAGES];
    /* The VMM's tracker: a device that the simulator does not provide. */
    atomic_uchar dirty[ALL_PAGES];
    atomic_int stop, refusals, told, made_up, wrong;
    atomic_uint rounds[8];
    unsigned enough;
    char why[256];
    atomic_int has_why;
};

#define MUST(m, condition)                                                               \
    do {                                                                                 \
        if (!(condition) && !atomic_exchange(&(m)->has_why, 1))                          \
            snprintf((m)->why, sizeof (m)->why, "line %d: %s: %s", __LINE__, #condition, \
                     vfiomig_error_message());                                           \
    } while (0)

/* The page is sent as it is now. */
static void take(struct model *m, uint64_t page)
{
    if (page >= ALL_PAGES) {
        atomic_fetch_add(&m->wrong, 1);
        return;
    }
    unsigned now = atomic_load(&m->version[page]);
    if (atomic_exchange(&m->copy[page], now) == now)
        atomic_fetch_add(&m->made_up, 1);
    atomic_fetch_add(&m->told, 1);
}

static int set_dirty(void *opaque, uint64_t cookie, uint64_t offset, uint64_t page_size,
                     const uint64_t *bitmap, uint64_t num_bits)
{
    struct model *m = opaque;
    if (cookie >= REGIONS || page_size != PAGE || offset / PAGE + num_bits > PAGES) {
        atomic_fetch_add(&m->wrong, 1);
        return -EINVAL;
    }
    /* Now and then there is no room. */
    if (atomic_fetch_add(&m->refusals, 1) % 7 == 3)
        return -ENOMEM;
    for (uint64_t i = 0; i < num_bits; i++)
        if (bit(bitmap, i))
            take(m, cookie * PAGES + offset / PAGE + i);
    return 0;
}

static int sync_model(void *opaque, uint64_t iova, uint64_t length, uint64_t page_size,
                      uint64_t *bitmap, size_t num_words)
{
    struct model *m = opaque;
    (void)num_words;
    if (page_size != PAGE)
        atomic_fetch_add(&m->wrong, 1);
    for (uint64_t i = 0; i < length / PAGE; i++) {
        uint64_t page = (iova - BASE) / PAGE + i;
        if (page < ALL_PAGES && atomic_exchange(&m->dirty[page], 0))
            bitmap[i / 64] |= (uint64_t)1 << i % 64;
    }
    return 0;
}

struct worker {
    struct model *m;
    int number;
    pthread_t thread;
};

/* A thread that has had enough turns makes way: locks need not be fair. */
static void end_turn(struct worker *w)
{
    if (atomic_fetch_add(&w->m->rounds[w->number], 1) >= w->m->enough)
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

static int region_map(struct model *m, int region)
{
    struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
    mapping.iova = BASE + (uint64_t)region * PAGES * PAGE;
    mapping.size = PAGES * PAGE;
    mapping.cookie = (uint64_t)region;
    return vfiomig_dirty_map(m->tracking, &mapping);
}

static int unmapped(void *opaque, uint64_t iova, uint64_t size)
{
    atomic_fetch_add((atomic_int *)opaque, iova >= BASE && size == PAGES * PAGE ? 1 : 1000);
    return 0;
}

static void take_bitmap(struct model *m, uint64_t first, const uint64_t *bitmap, uint64_t num)
{
    for (uint64_t i = 0; i < num; i++)
        if (bit(bitmap, i))
            take(m, first + i);
}

/* Has a region to itself: a device, a tracker and this thread write to it, then it is unmapped
 * and mapped. */
static void *owner(void *opaque)
{
    struct worker *w = opaque;
    struct model *m = w->m;
    uint64_t seed = (uint64_t)w->number + 1, first = (uint64_t)w->number * PAGES;
    atomic_int calls = 0;
    int expected = 0;
    while (!atomic_load(&m->stop)) {
        for (int i = 0; i < 40; i++) {
            uint64_t page = first + random_(&seed) % PAGES;
            atomic_fetch_add(&m->version[page], 1);
            switch (random_(&seed) % 3) {
            case 0:
                atomic_store(&m->dirty[page], 1);
                break;
            case 1:
                MUST(m, vfiomig_sim_dma_write(m->sim, BASE + page * PAGE, 1) == 0);
                break;
            default:
                MUST(m, vfiomig_dirty_mark(m->tracking, BASE + page * PAGE, 1) == 0);
            }
        }
        uint64_t bitmap[PAGES / 64 + 1] = { 0 }, iova = BASE + first * PAGE;
        int r, with_bitmap = random_(&seed) % 2 == 0;
        if (with_bitmap)
            r = vfiomig_dirty_unmap(m->tracking, iova, PAGES * PAGE, PAGE, bitmap, PAGES / 64 + 1,
                                    unmapped, &calls);
        else
            r = vfiomig_dirty_unmap(m->tracking, iova, PAGES * PAGE, 0, NULL, 0, unmapped, &calls);
        MUST(m, r >= 0);
        take_bitmap(m, first, bitmap, PAGES);
        MUST(m, atomic_load(&calls) == ++expected);
        MUST(m, vfiomig_dirty_mark(m->tracking, iova, 1) == -ENODATA);
        MUST(m, region_map(m, w->number) == 0);
        end_turn(w);
    }
    return NULL;
}

static void *collector(void *opaque)
{
    struct worker *w = opaque;
    while (!atomic_load(&w->m->stop)) {
        int r = vfiomig_dirty_collect(w->m->tracking);
        MUST(w->m, r >= 0 || r == -ENOMEM);
        end_turn(w);
    }
    return NULL;
}

static void *syncer(void *opaque)
{
    struct worker *w = opaque;
    struct model *m = w->m;
    uint64_t seed = 99;
    while (!atomic_load(&m->stop)) {
        uint64_t bitmap[ALL_PAGES / 64 + 1] = { 0 };
        uint64_t first = random_(&seed) % ALL_PAGES, num = 1 + random_(&seed) % (ALL_PAGES - first);
        int r = vfiomig_dirty_sync(m->tracking, BASE + first * PAGE, num * PAGE, PAGE, bitmap,
                                   ALL_PAGES / 64 + 1);
        MUST(m, r >= 0);
        take_bitmap(m, first, bitmap, num);
        end_turn(w);
    }
    return NULL;
}

/* Writers come and go, logs are restarted, statistics are read. */
static void *meddler(void *opaque)
{
    struct worker *w = opaque;
    struct model *m = w->m;
    while (!atomic_load(&m->stop)) {
        struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
        struct vfiomig_tracker_ops ops = VFIOMIG_TRACKER_OPS_INIT;
        struct vfiomig_dirty_stats stats = VFIOMIG_DIRTY_STATS_INIT;
        uint32_t number;
        ops.page_size = PAGE;
        ops.sync = sync_model;
        writer.flags = VFIOMIG_WRITER_CUSTOM;
        writer.tracker = &ops;
        writer.tracker_opaque = m;
        if (atomic_load(&m->rounds[w->number]) < 500) {
            MUST(m, vfiomig_dirty_add_writer(m->tracking, &writer, &number) == 0);
            MUST(m, vfiomig_dirty_get_stats(m->tracking, &stats) == 0);
            MUST(m, stats.num_writers == number + 1);
            MUST(m, vfiomig_dirty_remove_writer(m->tracking, number) == 0);
        }
        MUST(m, vfiomig_dirty_rearm(m->tracking) >= 0);
        atomic_fetch_add(&m->rounds[w->number], 1);
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    }
    return NULL;
}

/* Until everyone has had enough turns, however slow the machine is. The limit is there to say who
 * hangs, before whoever runs this test ends it. Returns the turns of who had the fewest. */
static unsigned wait_for_turns(struct model *m, int num, int limit)
{
    unsigned least = 0;
    for (int i = 0; i < limit; i++) {
        least = UINT32_MAX;
        for (int k = 0; k < num; k++)
            if (atomic_load(&m->rounds[k]) < least)
                least = atomic_load(&m->rounds[k]);
        if (least >= m->enough || atomic_load(&m->has_why))
            break;
        nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    }
    return least;
}

static void nothing_is_lost_whoever_reads(void)
{
    static struct model m;
    struct rig rig = rig_new(NULL, NULL);
    struct worker workers[8];
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_tracker_ops tracker = VFIOMIG_TRACKER_OPS_INIT;
    struct vfiomig_dirty_options options = VFIOMIG_DIRTY_OPTIONS_INIT;
    struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
    void *(*const what[])(void *) = { owner, owner, owner, owner, collector, syncer, meddler };
    uint32_t number;
    int num = sizeof what / sizeof *what, r, slow = getenv("VFIOMIG_TEST_SLOW") != NULL;
    m.enough = slow ? 5 : 300;
    ops.set_dirty = set_dirty;
    options.page_size = PAGE;
    OK(vfiomig_dirty_new(&ops, &m, &options, &m.tracking));
    m.sim = rig.sim;
    tracker.page_size = PAGE;
    tracker.sync = sync_model;
    writer.flags = VFIOMIG_WRITER_CUSTOM;
    writer.tracker = &tracker;
    writer.tracker_opaque = &m;
    OK(vfiomig_dirty_add_writer(m.tracking, &writer, &number));
    add_writer(m.tracking, NULL, rig.dev, VFIOMIG_WRITER_DEVICE_LOG);
    OK(try_map(m.tracking, BASE, ALL_PAGES * PAGE, 0, 0, VFIOMIG_MAPPING_WINDOW));
    for (int i = 0; i < REGIONS; i++)
        OK(region_map(&m, i));
    OK(vfiomig_dirty_start(m.tracking));
    for (int i = 0; i < num; i++) {
        workers[i] = (struct worker){ .m = &m, .number = i };
        EQ(pthread_create(&workers[i].thread, NULL, what[i], &workers[i]), 0);
    }
    unsigned least = wait_for_turns(&m, num, slow ? 25000 : 5000);
    atomic_store(&m.stop, 1);
    for (int i = 0; i < num; i++)
        pthread_join(workers[i].thread, NULL);
    if (m.why[0])
        FAIL("%s", m.why);
    if (least < m.enough)
        FAIL("somebody had %u turns only", least);
    /* The last reading; it may have to be tried more than once. */
    do
        r = vfiomig_dirty_collect(m.tracking);
    while (r == -ENOMEM);
    CHECK(r >= 0);
    EQ(m.wrong, 0);
    for (int page = 0; page < ALL_PAGES; page++)
        if (m.copy[page] != m.version[page])
            FAIL("page %d was written %u times, and its copy is of version %u", page,
                 m.version[page], m.copy[page]);
    CHECK(m.told > 1000);
    vfiomig_dirty_free(m.tracking);
    rig_free(&rig);
}

/* Starting, stopping and cancelling from everywhere: nothing hangs, and what is returned makes sense. */
static void *starter(void *opaque)
{
    struct worker *w = opaque;
    struct model *m = w->m;
    for (int i = 0; i < 300; i++) {
        uint64_t bitmap[4];
        int r;
        switch ((i + w->number) % 5) {
        case 0:
            r = vfiomig_dirty_start(m->tracking);
            MUST(m, r == 0 || r == -EINVAL);
            break;
        case 1:
            MUST(m, vfiomig_dirty_stop(m->tracking) == 0);
            break;
        case 2:
            r = vfiomig_dirty_collect(m->tracking);
            MUST(m, r == 0 || r == -EINVAL || r == -ECANCELED || r == -ENOMEM);
            break;
        case 3:
            r = vfiomig_dirty_sync(m->tracking, BASE, PAGES * PAGE, PAGE, bitmap, 4);
            MUST(m, r == 0 || r == -EINVAL || r == -ECANCELED);
            break;
        default:
            MUST(m, vfiomig_dirty_cancel(m->tracking) == 0);
        }
    }
    return NULL;
}

static void starting_and_stopping_from_everywhere(void)
{
    static struct model m;
    struct worker workers[5];
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty_options options = VFIOMIG_DIRTY_OPTIONS_INIT;
    ops.set_dirty = set_dirty;
    options.page_size = PAGE;
    options.buffer_bytes = 4096;
    OK(vfiomig_dirty_new(&ops, &m, &options, &m.tracking));
    OK(region_map(&m, 0));
    for (int i = 0; i < 5; i++) {
        workers[i] = (struct worker){ .m = &m, .number = i };
        EQ(pthread_create(&workers[i].thread, NULL, starter, &workers[i]), 0);
    }
    for (int i = 0; i < 5; i++)
        pthread_join(workers[i].thread, NULL);
    if (m.why[0])
        FAIL("%s", m.why);
    OK(vfiomig_dirty_stop(m.tracking));
    OK(vfiomig_dirty_start(m.tracking));
    OK(vfiomig_dirty_mark(m.tracking, BASE + 3 * PAGE, 1));
    uint64_t bitmap[4] = { 0 };
    OK(vfiomig_dirty_sync(m.tracking, BASE, PAGES * PAGE, PAGE, bitmap, 4));
    EQ(bitmap[0], 8);
    vfiomig_dirty_free(m.tracking);
}

int main(void)
{
    RUN(nothing_is_lost_whoever_reads);
    RUN(starting_and_stopping_from_everywhere);
    return DONE();
}
