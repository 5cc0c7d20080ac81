/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Dirty tracking as a VMM uses it, for kmod-dirty.c and dirty-iommu.c: a guest with a memory map,
 * the pages that the library has reported, and those that it should have. They are compared page by
 * page, and a page that is reported where there is no memory ends the case.
 */
#ifndef DIRTY_H
#define DIRTY_H

#include "kmod.h"

#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define TIB (1ull << 40)
#define PAGE 4096ull

#define ERRORS VFIOMIG_DIRTY_ERRORS
#define UNWATCHED VFIOMIG_DIRTY_UNWATCHED

#define MAX_AREAS 1024u

/* A mapping, with a bit for each PAGE. Cookie and offset have nothing to do with the address. */
struct area {
	uint64_t iova, size, cookie, offset;
	uint32_t flags;
	void *host;
	uint64_t *got, *want;
	uint64_t *may; /* may be, but need not: written to at that very moment */
	int mapped;
};

struct guest {
	struct vfiomig_dirty *dirty;
	struct area areas[MAX_AREAS];
	unsigned num;
	/* Pages that are dirty together: the largest of the tracking object's and the trackers'. */
	uint64_t grain;
	/* set_dirty returns this, if it is not 0. */
	int refuse;
	unsigned deliveries;
};

static inline uint64_t area_last(const struct area *area)
{
	return area->iova + (area->size - 1);
}

static inline int bit(const uint64_t *bitmap, uint64_t i)
{
	return (int)(bitmap[i / 64] >> i % 64 & 1);
}

static inline void set_bits(uint64_t *bitmap, uint64_t first, uint64_t num)
{
	for (uint64_t i = first; i < first + num;) {
		if (i % 64 == 0 && i + 64 <= first + num) {
			bitmap[i / 64] = UINT64_MAX;
			i += 64;
		} else {
			bitmap[i / 64] |= 1ull << i % 64;
			i++;
		}
	}
}

static inline uint64_t words_of(uint64_t bits)
{
	return (bits + 63) / 64;
}

static inline uint64_t *new_bitmap(uint64_t bits)
{
	uint64_t *bitmap = calloc(words_of(bits) + 1, 8);

	CHECK(bitmap, "out of memory");
	return bitmap;
}

static uint64_t random_state = 88172645463325252ull;

static inline uint64_t random_below(uint64_t limit)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state % limit;
}

/* --- what the library calls -------------------------------------------------------------------- */

static inline struct vfiomig_mapping mapping_of(const struct area *area)
{
	struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;

	mapping.flags = area->flags;
	mapping.iova = area->iova;
	mapping.size = area->size;
	mapping.cookie = area->cookie;
	mapping.offset = area->offset;
	mapping.host = area->host;
	return mapping;
}

static inline int guest_enumerate(void *opaque, vfiomig_mapping_fn add, void *context)
{
	struct guest *guest = opaque;

	for (unsigned i = 0; i < guest->num; i++) {
		struct vfiomig_mapping mapping = mapping_of(&guest->areas[i]);
		int ret = guest->areas[i].mapped ? add(context, &mapping) : 0;

		if (ret < 0)
			return ret;
	}
	return 0;
}

static inline int guest_set_dirty(void *opaque, uint64_t cookie, uint64_t offset, uint64_t page_size,
				  const uint64_t *bitmap, uint64_t num_bits)
{
	struct guest *guest = opaque;
	struct area *area = NULL;

	if (guest->refuse)
		return guest->refuse;
	for (unsigned i = 0; i < guest->num && !area; i++)
		if (guest->areas[i].cookie == cookie)
			area = &guest->areas[i];
	CHECK(area, "dirty pages of cookie %#llx, which nobody has", (unsigned long long)cookie);
	CHECK(offset >= area->offset && num_bits <= area->size / page_size &&
		      offset - area->offset <= area->size - num_bits * page_size,
	      "%llu pages of %#llx bytes at offset %#llx, but the area at %#llx has offsets %#llx to %#llx",
	      (unsigned long long)num_bits, (unsigned long long)page_size, (unsigned long long)offset,
	      (unsigned long long)area->iova, (unsigned long long)area->offset,
	      (unsigned long long)(area->offset + area->size));
	guest->deliveries++;
	for (uint64_t i = 0; i < num_bits; i++) {
		if (i % 64 == 0 && !bitmap[i / 64])
			i += 63;
		else if (bit(bitmap, i))
			set_bits(area->got, (offset - area->offset + i * page_size) / PAGE, page_size / PAGE);
	}
	return 0;
}

/* --- the guest --------------------------------------------------------------------------------- */

/* With this page size and buffer; 0 for the defaults. */
static inline void guest_new(struct guest *guest, uint64_t page_size, uint32_t buffer)
{
	struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
	struct vfiomig_dirty_options options = VFIOMIG_DIRTY_OPTIONS_INIT;

	memset(guest, 0, sizeof(*guest));
	guest->grain = page_size ? page_size : PAGE;
	ops.enumerate = guest_enumerate;
	ops.set_dirty = guest_set_dirty;
	options.page_size = page_size;
	options.buffer_bytes = buffer;
	OK(vfiomig_dirty_new(&ops, guest, &options, &guest->dirty));
}

/* Memory that is there when tracking starts. */
static inline struct area *guest_area(struct guest *guest, uint64_t iova, uint64_t size, uint32_t flags)
{
	struct area *area = &guest->areas[guest->num];

	CHECK(guest->num < MAX_AREAS, "too many areas");
	*area = (struct area){
		.iova = iova,
		.size = size,
		.cookie = 1000 + 7 * (uint64_t)guest->num,
		.offset = 3 * GIB * (guest->num % 5),
		.flags = flags,
		.got = new_bitmap(size / PAGE),
		.want = new_bitmap(size / PAGE),
		.may = new_bitmap(size / PAGE),
		.mapped = 1,
	};
	guest->num++;
	return area;
}

/* Memory that comes later. */
static inline struct area *guest_map(struct guest *guest, uint64_t iova, uint64_t size, uint32_t flags)
{
	struct area *area = guest_area(guest, iova, size, flags);
	struct vfiomig_mapping mapping = mapping_of(area);

	OK(vfiomig_dirty_map(guest->dirty, &mapping));
	return area;
}

/* Unmapping when only the tracking object has the range. */
static inline int nothing_to_unmap(void *opaque, uint64_t iova, uint64_t size)
{
	(void)opaque;
	(void)iova;
	(void)size;
	return 0;
}

/* A writer with a device's log and nothing else. */
static inline uint32_t guest_log(struct guest *guest, struct vfiomig_device *device)
{
	struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
	uint32_t number = 77;

	writer.flags = VFIOMIG_WRITER_DEVICE_LOG;
	writer.device = device;
	OK(vfiomig_dirty_add_writer(guest->dirty, &writer, &number));
	return number;
}

static inline void guest_free(struct guest *guest)
{
	vfiomig_dirty_free(guest->dirty);
	for (unsigned i = 0; i < guest->num; i++) {
		free(guest->areas[i].got);
		free(guest->areas[i].want);
		free(guest->areas[i].may);
	}
}

/* These pages, as they are, should be reported where there is memory; or may be. */
static inline void guest_add(struct guest *guest, uint64_t first, uint64_t last, int may)
{
	for (unsigned i = 0; i < guest->num; i++) {
		struct area *area = &guest->areas[i];
		uint64_t from = first > area->iova ? first : area->iova;
		uint64_t to = last < area_last(area) ? last : area_last(area);

		if (!area->mapped || area->flags & (VFIOMIG_MAPPING_READ_ONLY | VFIOMIG_MAPPING_WINDOW) || from > to)
			continue;
		from = (from - area->iova) / PAGE;
		to = (to - area->iova) / PAGE;
		set_bits(may ? area->may : area->want, from, to - from + 1);
	}
}

static inline void guest_want(struct guest *guest, uint64_t first, uint64_t last)
{
	guest_add(guest, first, last, 0);
}

static inline void guest_want_all(struct guest *guest)
{
	guest_want(guest, 0, UINT64_MAX);
}

/* A device wrote to the page at iova: everything mapped of its grain is dirty with it. */
static inline void guest_want_write(struct guest *guest, uint64_t iova)
{
	guest_want(guest, iova & ~(guest->grain - 1), iova | (guest->grain - 1));
}

/* A device with a log writes to this range. */
static inline void mark(struct guest *guest, const struct lab_device *device, uint64_t iova, uint64_t length)
{
	kmod_set(device, "log_mark", "%llu %llu", (unsigned long long)iova, (unsigned long long)length);
	for (uint64_t at = iova & ~(PAGE - 1);; at += PAGE) {
		guest_want_write(guest, at);
		if (iova + (length - 1) - at < PAGE)
			break;
	}
}

/* --- comparing --------------------------------------------------------------------------------- */

static inline uint64_t area_compare(struct area *area, int no_more)
{
	uint64_t found = 0;

	for (uint64_t i = 0; i < words_of(area->size / PAGE); i++) {
		uint64_t got = area->got[i], want = area->want[i], may = area->may[i], wrong;

		if (!(got | want | may))
			continue;
		wrong = want & ~got;
		if (no_more)
			wrong |= got & ~want & ~may;
		if (wrong) {
			unsigned at = (unsigned)__builtin_ctzll(wrong);

			FAIL("page %#llx is reported as %s", (unsigned long long)(area->iova + (i * 64 + at) * PAGE),
			     got >> at & 1 ? "dirty" : "clean");
		}
		found += (uint64_t)__builtin_popcountll(got);
		area->got[i] = area->want[i] = area->may[i] = 0;
	}
	return found;
}

/* Exactly what should be was reported; returns how many pages that were, and forgets them. */
static inline uint64_t guest_compare(struct guest *guest)
{
	uint64_t found = 0;

	for (unsigned i = 0; i < guest->num; i++)
		found += area_compare(&guest->areas[i], 1);
	return found;
}

/* All of that was reported, and perhaps more. */
static inline uint64_t guest_compare_least(struct guest *guest)
{
	uint64_t found = 0;

	for (unsigned i = 0; i < guest->num; i++)
		found += area_compare(&guest->areas[i], 0);
	return found;
}

/* Collects; flags is what that must return. */
static inline uint64_t collect(struct guest *guest, int flags)
{
	CALL(vfiomig_dirty_collect(guest->dirty), flags);
	return guest_compare(guest);
}

/*
 * Syncs a range into a bitmap in pages of this size and compares it with what should be there,
 * which is then settled.
 */
static inline uint64_t sync_range(struct guest *guest, uint64_t iova, uint64_t length, uint64_t page_size, int flags)
{
	uint64_t bits = length / page_size, *bitmap = new_bitmap(bits), *want = new_bitmap(bits), found = 0;

	CALL(vfiomig_dirty_sync(guest->dirty, iova, length, page_size, bitmap, words_of(bits)), flags);
	for (unsigned i = 0; i < guest->num; i++) {
		struct area *area = &guest->areas[i];
		uint64_t from = iova > area->iova ? iova : area->iova;
		uint64_t to = iova + (length - 1) < area_last(area) ? iova + (length - 1) : area_last(area);

		if (!area->mapped || from > to)
			continue;
		for (uint64_t at = from & ~(PAGE - 1);; at += PAGE) {
			uint64_t page = (at - area->iova) / PAGE;

			if (bit(area->want, page)) {
				uint64_t first = ((at > iova ? at : iova) - iova) / page_size;
				uint64_t end = (at - iova + (PAGE - 1)) / page_size;

				set_bits(want, first, (end < bits ? end : bits - 1) - first + 1);
				area->want[page / 64] &= ~(1ull << page % 64);
			}
			if (to - at < PAGE)
				break;
		}
	}
	for (uint64_t i = 0; i < bits; i++) {
		CHECK(bit(bitmap, i) == bit(want, i), "page %#llx, of %#llx bytes, is synced as %s",
		      (unsigned long long)(iova + i * page_size), (unsigned long long)page_size,
		      bit(bitmap, i) ? "dirty" : "clean");
		found += (uint64_t)bit(bitmap, i);
	}
	CHECK(!bitmap[words_of(bits)], "it wrote behind the bitmap");
	free(bitmap);
	free(want);
	return found;
}

/* --- numbers ----------------------------------------------------------------------------------- */

static inline struct vfiomig_dirty_writer_stats writer_of(const struct guest *guest, uint32_t number)
{
	struct vfiomig_dirty_writer_stats stats = VFIOMIG_DIRTY_WRITER_STATS_INIT;

	OK(vfiomig_dirty_get_writer_stats(guest->dirty, number, &stats));
	return stats;
}

static inline void expect_tracker(const struct guest *guest, uint32_t number, uint32_t tracker, const char *note)
{
	struct vfiomig_dirty_writer_stats stats = writer_of(guest, number);

	CHECK(stats.tracker == tracker, "writer %u is tracked by %u, expected %u; note: %s", number, stats.tracker,
	      tracker, stats.note);
	if (*note)
		CHECK(strstr(stats.note, note), "the note of writer %u does not say \"%s\": %s", number, note, stats.note);
	else
		CHECK(!*stats.note, "writer %u has a note: %s", number, stats.note);
}

static inline struct vfiomig_dirty_stats stats_of(const struct guest *guest)
{
	struct vfiomig_dirty_stats stats = VFIOMIG_DIRTY_STATS_INIT;

	OK(vfiomig_dirty_get_stats(guest->dirty, &stats));
	return stats;
}

static inline struct vfiomig_dirty_error error_of(const struct guest *guest, uint32_t index)
{
	struct vfiomig_dirty_error error = VFIOMIG_DIRTY_ERROR_INIT;

	OK(vfiomig_dirty_get_error(guest->dirty, index, &error));
	return error;
}

/* Tracking has started, with the devices' logs, and there is nothing to complain about. */
static inline void guest_start(struct guest *guest)
{
	OK(vfiomig_dirty_start(guest->dirty));
}

#endif
