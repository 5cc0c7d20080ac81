/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "tracking.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "memory.h"

#define RAM_BLOCK 1 /* the only one */

static bool is_dirty(const struct tracking *t, uint64_t page)
{
    return page < t->memory->pages && t->dirty[page / 64] >> page % 64 & 1;
}

/* Called from inside vfiomig_dirty_start(). */
static int enumerate(void *opaque, vfiomig_mapping_fn add, void *add_opaque)
{
    struct tracking *t = opaque;
    struct vfiomig_mapping ram = VFIOMIG_MAPPING_INIT;
    ram.iova = MEMORY_IOVA;
    ram.size = t->memory->size;
    ram.cookie = RAM_BLOCK;
    return add(add_opaque, &ram);
}

/* Called from inside vfiomig_dirty_collect(). What is refused here is kept, and comes again. */
static int set_dirty(void *opaque, uint64_t cookie, uint64_t offset, uint64_t page_size,
                     const uint64_t *bitmap, uint64_t num_bits)
{
    struct tracking *t = opaque;
    uint64_t unit = t->memory->page_size;
    if (t->refuse)
        return -t->refuse;
    if (cookie != RAM_BLOCK || offset > t->memory->size ||
        num_bits > (t->memory->size - offset + page_size - 1) / page_size)
        return -EINVAL;
    for (uint64_t i = 0; i < num_bits; i++) {
        if (!(bitmap[i / 64] >> i % 64 & 1))
            continue;
        /* The pages are this memory's by default; nothing here depends on it. */
        uint64_t first = offset + i * page_size, last = first + page_size - 1;
        for (uint64_t page = first / unit; page <= last / unit && page < t->memory->pages; page++)
            t->dirty[page / 64] |= (uint64_t)1 << page % 64;
    }
    return 0;
}

static int add_writer(struct tracking *t, struct device *device)
{
    /* With an IOMMU that tracks, its page table or its container would be named as well: the
     * best that works is taken. */
    struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
    writer.flags = VFIOMIG_WRITER_DEVICE_LOG;
    writer.device = device->mig;
    t->devices[t->num_writers] = (struct vfiomig_dirty_writer_stats)VFIOMIG_DIRTY_WRITER_STATS_INIT;
    int r = vfiomig_dirty_add_writer(t->mig, &writer, &t->writers[t->num_writers]);
    t->num_writers += r == 0;
    return r;
}

static int look_at_writers(struct tracking *t)
{
    int r = 0;
    for (uint32_t i = 0; i < t->num_writers && r == 0; i++)
        r = vfiomig_dirty_get_writer_stats(t->mig, t->writers[i], &t->devices[i]);
    return r;
}

int tracking_start(struct tracking *t, struct memory *memory, struct device *devices,
                   uint32_t num_devices)
{
    *t = (struct tracking){ .memory = memory, .stats = VFIOMIG_DIRTY_STATS_INIT };
    t->dirty = calloc(memory->words, sizeof *t->dirty);
    if (!t->dirty)
        return -ENOMEM;

    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    ops.enumerate = enumerate;
    ops.set_dirty = set_dirty;
    int r = vfiomig_dirty_new(&ops, t, NULL, &t->mig);
    for (uint32_t i = 0; i < num_devices && r == 0; i++)
        r = add_writer(t, &devices[i]);
    /* Before anything is sent: earlier writes are not reported. */
    if (r == 0)
        r = vfiomig_dirty_start(t->mig);
    if (r < 0)
        return r;
    if ((r = look_at_writers(t)) < 0)
        return r;
    for (uint32_t i = 0; i < num_devices; i++)
        if (t->devices[i].note[0])
            printf("source: dirty tracking: device %u: %s\n", i, t->devices[i].note);

    memory_take_vcpu_log(memory, t->dirty); /* the first sending covers all of it */
    for (uint64_t page = 0; page < memory->pages; page++)
        t->dirty[page / 64] |= (uint64_t)1 << page % 64;
    return 0;
}

/* What failed has become a range that counts as dirty: expensive, but nothing is missing. */
static void show_errors(struct tracking *t)
{
    struct vfiomig_dirty_error error = VFIOMIG_DIRTY_ERROR_INIT;
    if (t->stats.errors > t->errors_shown && t->stats.num_errors > 0 &&
        vfiomig_dirty_get_error(t->mig, t->stats.num_errors - 1, &error) == 0)
        printf("source: %#llx to %#llx count as dirty: %s\n", (unsigned long long)error.first,
               (unsigned long long)error.last, error.text);
    t->errors_shown = t->stats.errors;
}

int tracking_collect(struct tracking *t, bool without_devices)
{
    if (!t->mig)
        return 0;
    memory_take_vcpu_log(t->memory, t->dirty);
    if (without_devices)
        return 0;
    int r = vfiomig_dirty_collect(t->mig);
    if (r < 0)
        return r;
    t->unwatched = r & VFIOMIG_DIRTY_UNWATCHED;
    int told = vfiomig_dirty_get_stats(t->mig, &t->stats);
    if (told == 0)
        told = look_at_writers(t);
    if (told == 0 && r & VFIOMIG_DIRTY_ERRORS)
        show_errors(t);
    return told;
}

uint64_t tracking_left(const struct tracking *t)
{
    uint64_t pages = 0;
    if (!t->dirty)
        return 0;
    for (uint64_t i = 0; i < t->memory->words; i++)
        pages += (uint64_t)__builtin_popcountll(t->dirty[i]);
    return pages * t->memory->page_size;
}

uint64_t tracking_take(struct tracking *t, uint64_t max, uint64_t *offset)
{
    uint64_t unit = t->memory->page_size, word = 0, first, end;
    while (word < t->memory->words && t->dirty[word] == 0)
        word++;
    if (word == t->memory->words)
        return 0;
    first = end = word * 64 + (uint64_t)__builtin_ctzll(t->dirty[word]);
    /* Before the page is read: what is written to it from now on makes it dirty again. */
    for (; is_dirty(t, end) && (end + 1 - first) * unit <= max; end++)
        t->dirty[end / 64] &= ~((uint64_t)1 << end % 64);
    *offset = first * unit;
    return (end - first) * unit;
}

void tracking_stop(struct tracking *t)
{
    if (t->mig && vfiomig_dirty_stop(t->mig) < 0)
        printf("source: dirty tracking does not end: %s\n", vfiomig_error_message());
    vfiomig_dirty_free(t->mig);
    free(t->dirty);
    t->mig = NULL;
    t->dirty = NULL;
}
