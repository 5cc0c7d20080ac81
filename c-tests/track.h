/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What the tests of dirty tracking share: a tracker of the VMM's own, which knows exactly what was
 * written to, and a memory that records which pages it was given. Both notice what the library must
 * not do, and say so at the end.
 */
#ifndef TRACK_H
#define TRACK_H

#include "rig.h"

#define PAGE 4096u

/* A page for each byte of `dirty`, from `base` on. */
struct tracker {
    uint64_t base, page_size;
    size_t pages;
    uint8_t *dirty;
    int starts, stops, syncs, released;
    /* errnos that start, stop and sync fail with; sync on its nth call from now on, and once. */
    int fail_start, fail_stop, fail_sync, fail_nth;
    /* Sets every bit there is room for after those that it was asked for. */
    int sloppy;
    /* Called in each sync, before it looks. */
    void (*hook)(void *);
    void *hook_opaque;
    char wrong[160];
};

#define WRONG(to, ...)                                       \
    do {                                                     \
        if (!(to)->wrong[0])                                 \
            snprintf((to)->wrong, sizeof (to)->wrong, __VA_ARGS__); \
    } while (0)

static inline int track_start_(void *opaque)
{
    struct tracker *t = opaque;
    t->starts++;
    return -t->fail_start;
}

static inline int track_stop_(void *opaque)
{
    struct tracker *t = opaque;
    t->stops++;
    return -t->fail_stop;
}

static inline int track_sync_(void *opaque, uint64_t iova, uint64_t length, uint64_t page_size,
                              uint64_t *bitmap, size_t num_words)
{
    struct tracker *t = opaque;
    uint64_t n = length / t->page_size;
    t->syncs++;
    if (t->hook)
        t->hook(t->hook_opaque);
    if (page_size != t->page_size || iova % page_size || length % page_size || length == 0)
        WRONG(t, "sync of %#llx, %#llx bytes, in pages of %#llx", (unsigned long long)iova,
              (unsigned long long)length, (unsigned long long)page_size);
    if (num_words < (n + 63) / 64)
        WRONG(t, "%zu words for %llu pages", num_words, (unsigned long long)n);
    for (size_t i = 0; i < num_words; i++)
        if (bitmap[i])
            WRONG(t, "the bitmap is not zeroed");
    if (t->wrong[0])
        return -EINVAL;
    if (t->fail_sync && --t->fail_nth <= 0) {
        int r = -t->fail_sync;
        t->fail_sync = 0;
        return r;
    }
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = (iova - t->base) / page_size + i;
        if (iova + i * page_size >= t->base && at < t->pages && t->dirty[at]) {
            t->dirty[at] = 0;
            bitmap[i / 64] |= (uint64_t)1 << i % 64;
        }
    }
    for (uint64_t i = n; t->sloppy && i < num_words * 64; i++)
        bitmap[i / 64] |= (uint64_t)1 << i % 64;
    return 0;
}

static inline void track_release_(void *opaque)
{
    ((struct tracker *)opaque)->released++;
}

static inline struct tracker tracker_new(uint64_t base, uint64_t page_size, size_t pages)
{
    struct tracker t = { .base = base, .page_size = page_size, .pages = pages };
    t.dirty = calloc(pages, 1);
    CHECK(t.dirty);
    return t;
}

/* After its writer was removed or its tracking object was freed. */
static inline void tracker_free(struct tracker *t)
{
    if (t->wrong[0])
        FAIL("what the tracker was asked: %s", t->wrong);
    EQ(t->released, 1);
    free(t->dirty);
    t->dirty = NULL;
}

/* The device behind it writes. */
static inline void touch(struct tracker *t, uint64_t iova, uint64_t len)
{
    for (uint64_t page = (iova - t->base) / t->page_size;
         page <= (iova + len - 1 - t->base) / t->page_size && page < t->pages; page++)
        t->dirty[page] = 1;
}

static inline struct vfiomig_tracker_ops tracker_ops_(const struct tracker *t)
{
    struct vfiomig_tracker_ops ops = VFIOMIG_TRACKER_OPS_INIT;
    ops.page_size = t->page_size;
    ops.start = track_start_;
    ops.stop = track_stop_;
    ops.sync = track_sync_;
    ops.release = track_release_;
    return ops;
}

/* A writer with these flags; tracker and device may be NULL. Returns what adding it returned. */
static inline int try_add_writer(struct vfiomig_dirty *dirty, struct tracker *t,
                                 struct vfiomig_device *device, uint32_t flags, uint32_t *number)
{
    struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
    struct vfiomig_tracker_ops ops;
    writer.flags = flags;
    writer.device = device;
    if (t) {
        ops = tracker_ops_(t);
        writer.flags |= VFIOMIG_WRITER_CUSTOM;
        writer.tracker = &ops;
        writer.tracker_opaque = t;
    }
    return vfiomig_dirty_add_writer(dirty, &writer, number);
}

static inline uint32_t add_writer(struct vfiomig_dirty *dirty, struct tracker *t,
                                  struct vfiomig_device *device, uint32_t flags)
{
    uint32_t number = VFIOMIG_NO_WRITER;
    OK(try_add_writer(dirty, t, device, flags, &number));
    return number;
}

/* Pages that were delivered, in their order. */
enum { MAX_GIVEN = 70000 };

struct given {
    uint64_t cookie, offset;
};

struct memory {
    uint64_t page_size;
    struct given *given;
    size_t num;
    int calls, released;
    /* set_dirty refuses what has this page in it, with this errno; 0: nothing. */
    struct given refused;
    int refuse;
    void (*hook)(void *);
    void *hook_opaque;
    char wrong[160];
};

static inline int give_(void *opaque, uint64_t cookie, uint64_t offset, uint64_t page_size,
                        const uint64_t *bitmap, uint64_t num_bits)
{
    struct memory *m = opaque;
    int any = 0;
    m->calls++;
    if (m->hook)
        m->hook(m->hook_opaque);
    if (page_size != m->page_size || offset % page_size || num_bits == 0)
        WRONG(m, "set_dirty at %#llx, %llu pages of %#llx", (unsigned long long)offset,
              (unsigned long long)num_bits, (unsigned long long)page_size);
    for (uint64_t i = 0; i < num_bits; i++)
        any |= bitmap[i / 64] >> i % 64 & 1;
    if (!any)
        WRONG(m, "set_dirty without a dirty page");
    if (m->refuse && cookie == m->refused.cookie && offset <= m->refused.offset &&
        m->refused.offset < offset + num_bits * page_size)
        return -m->refuse;
    for (uint64_t i = 0; i < num_bits; i++) {
        if (!(bitmap[i / 64] >> i % 64 & 1))
            continue;
        if (m->num < MAX_GIVEN)
            m->given[m->num++] = (struct given){ cookie, offset + i * page_size };
        else
            WRONG(m, "more pages than this test has");
    }
    return 0;
}

static inline void memory_release_(void *opaque)
{
    ((struct memory *)opaque)->released++;
}

static inline struct memory memory_new(uint64_t page_size)
{
    struct memory m = { .page_size = page_size };
    m.given = calloc(MAX_GIVEN, sizeof *m.given);
    CHECK(m.given);
    return m;
}

/* After the tracking object was freed. */
static inline void memory_free(struct memory *m)
{
    if (m->wrong[0])
        FAIL("what the memory was given: %s", m->wrong);
    EQ(m->released, 1);
    free(m->given);
    m->given = NULL;
}

/* How often a page was delivered. */
static inline int times_given(const struct memory *m, uint64_t cookie, uint64_t offset)
{
    int times = 0;
    for (size_t i = 0; i < m->num; i++)
        times += m->given[i].cookie == cookie && m->given[i].offset == offset;
    return times;
}

static inline void forget(struct memory *m)
{
    m->num = 0;
    m->calls = 0;
}

/* A tracking object that gives its pages to a memory; without one, to bitmaps only. */
static inline struct vfiomig_dirty *tracking_new(struct memory *m, uint64_t page_size,
                                            uint32_t buffer_bytes)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty_options options = VFIOMIG_DIRTY_OPTIONS_INIT;
    struct vfiomig_dirty *dirty;
    options.page_size = page_size;
    options.buffer_bytes = buffer_bytes;
    if (m) {
        ops.set_dirty = give_;
        ops.release = memory_release_;
    }
    OK(vfiomig_dirty_new(&ops, m, &options, &dirty));
    return dirty;
}

static inline int try_map(struct vfiomig_dirty *dirty, uint64_t iova, uint64_t size,
                          uint64_t cookie, uint64_t offset, uint32_t flags)
{
    struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
    mapping.iova = iova;
    mapping.size = size;
    mapping.cookie = cookie;
    mapping.offset = offset;
    mapping.flags = flags;
    return vfiomig_dirty_map(dirty, &mapping);
}

static inline void map(struct vfiomig_dirty *dirty, uint64_t iova, uint64_t size, uint64_t cookie,
                       uint64_t offset)
{
    OK(try_map(dirty, iova, size, cookie, offset, 0));
}

/* An unmapping that has nothing to do. */
static inline int unmapped_(void *opaque, uint64_t iova, uint64_t size)
{
    (void)opaque;
    (void)iova;
    (void)size;
    return 0;
}

static inline struct vfiomig_dirty_stats stats_of(struct vfiomig_dirty *dirty)
{
    struct vfiomig_dirty_stats stats = VFIOMIG_DIRTY_STATS_INIT;
    OK(vfiomig_dirty_get_stats(dirty, &stats));
    return stats;
}

static inline struct vfiomig_dirty_writer_stats writer_of(struct vfiomig_dirty *dirty,
                                                          uint32_t number)
{
    struct vfiomig_dirty_writer_stats stats = VFIOMIG_DIRTY_WRITER_STATS_INIT;
    OK(vfiomig_dirty_get_writer_stats(dirty, number, &stats));
    return stats;
}

static inline struct vfiomig_dirty_error error_of(struct vfiomig_dirty *dirty, uint32_t index)
{
    struct vfiomig_dirty_error error = VFIOMIG_DIRTY_ERROR_INIT;
    OK(vfiomig_dirty_get_error(dirty, index, &error));
    return error;
}

static inline int bit(const uint64_t *bitmap, uint64_t i)
{
    return (int)(bitmap[i / 64] >> i % 64 & 1);
}

static inline uint64_t count_bits(const uint64_t *bitmap, size_t words)
{
    uint64_t n = 0;
    for (size_t i = 0; i < words * 64; i++)
        n += (uint64_t)bit(bitmap, i);
    return n;
}

/* The same numbers each time. */
static inline uint64_t random_(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

#endif
