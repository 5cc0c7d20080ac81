/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The library's dirty tracking, with devices that log their own writes: exactly the pages that were
 * written to are reported, whatever the map is like, while mappings come and go, logs are restarted
 * under load, and devices are saved, reset, plugged in, and fail.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "dirty.h"
#include "iommu.h"

static struct guest guest;

static enum lab_how how(void)
{
	return *(const enum lab_how *)lab_arg();
}

/* Skips if the kernel cannot report what devices log; stock_* are the cases for that. */
static void need_reports(void)
{
	if (lab_kernel_is("debian-6.12"))
		lab_skip("this kernel is built without iommufd, and so without reports of logged pages");
}

static struct vfiomig_device *new_device(struct lab_device *device)
{
	need_reports();
	return kmod_new(device, 7, MIB, 1, how());
}

static unsigned long long log_of(const struct lab_device *device, const char *name)
{
	return kmod_count(device, "log", name);
}

/* How most cases end: everything stops, and no device goes on logging. */
static void end(struct lab_device *device, struct vfiomig_device *handle)
{
	OK(vfiomig_dirty_stop(guest.dirty));
	EXPECT(log_of(device, "active"), 0);
	EXPECT(stats_of(&guest).errors, 0);
	guest_free(&guest);
	kmod_end(device, handle);
}

/* --- exact -------------------------------------------------------------------------------------- */

/* Random maps, writes and readings. */
static void at_random(void)
{
	static const uint64_t bases[] = { 0, 4 * GIB - 8 * MIB, 3 * TIB, 1ull << 52 };
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);
	uint64_t reported = 0, synced = 0;

	for (unsigned run = 0; run < 24; run++) {
		uint64_t base = bases[run % 4], at = base + random_below(8) * PAGE, pages;
		unsigned num = 1 + (unsigned)random_below(24);

		guest_new(&guest, 0, run % 3 ? 4096 : 0);
		for (unsigned i = 0; i < num; i++) {
			uint64_t size = 1 + random_below(random_below(3) ? 40 : random_below(4) ? 3000 : 60000);

			guest_area(&guest, at, size * PAGE, random_below(6) ? 0 : VFIOMIG_MAPPING_READ_ONLY);
			at += (size + random_below(3) * random_below(50)) * PAGE;
		}
		pages = (at - base) / PAGE;
		guest_log(&guest, handle);
		/* Before: must not be reported. */
		kmod_set(&device, "log_mark", "%llu 0x10000", (unsigned long long)base);
		/* In a map without anything writable, nothing is logged. */
		guest_start(&guest);
		for (unsigned step = 0; step < 25; step++) {
			uint64_t first = random_below(pages), len = 1 + random_below(random_below(4) ? 5 : 700);

			len = first + len > pages ? pages - first : len;
			if (random_below(3)) {
				uint64_t low = random_below(PAGE), bytes = (len - 1) * PAGE + random_below(PAGE) + 1;

				/* From within the first page to within the last one. */
				low = bytes > low ? low : 0;
				mark(&guest, &device, base + first * PAGE + low, bytes - low);
			} else if (random_below(3)) {
				synced += sync_range(&guest, base + first * PAGE, len * PAGE, PAGE, 0);
			} else {
				reported += collect(&guest, 0);
			}
		}
		reported += collect(&guest, 0);
		collect(&guest, 0);
		OK(vfiomig_dirty_stop(guest.dirty));
		EXPECT(log_of(&device, "active"), 0);
		EXPECT(stats_of(&guest).errors, 0);
		guest_free(&guest);
	}
	CHECK(reported > 2000 && synced > 300, "only %llu pages were collected and %llu synced",
	      (unsigned long long)reported, (unsigned long long)synced);
	kmod_end(&device, handle);
}

/* The device's, the tracking object's, and those of the caller's bitmap: all different. */
static void page_sizes(void)
{
	static const uint64_t of_device[] = { PAGE, 32 * KIB, 2 * MIB }, of_run[] = { PAGE, 64 * KIB };
	static const uint64_t of_bitmap[] = { 512, PAGE, 16 * KIB, 64 * KIB, 2 * MIB };
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);

	for (unsigned d = 0; d < 3; d++)
		for (unsigned r = 0; r < 2; r++) {
			uint64_t page = of_run[r];

			kmod_set(&device, "log_page_size", "%llu", (unsigned long long)of_device[d]);
			guest_new(&guest, page, 0);
			guest.grain = page > of_device[d] ? page : of_device[d];
			/* They begin and end inside a page of the device; two touch, and one is next to a
			 * gap. */
			guest_area(&guest, GIB + page, 5 * MIB + page, 0);
			guest_area(&guest, GIB + 5 * MIB + 2 * page, MIB, 0);
			guest_area(&guest, GIB + 6 * MIB + 3 * page, 8 * MIB, 0);
			guest_area(&guest, GIB + 14 * MIB + 3 * page, MIB, VFIOMIG_MAPPING_READ_ONLY);
			guest_log(&guest, handle);
			guest_start(&guest);
			EXPECT(log_of(&device, "page_size"), guest.grain);
			/* The gap is a part of one page of a device with larger ones. */
			EXPECT(log_of(&device, "ranges"), of_device[d] > page ? 1 : 2);
			for (unsigned s = 0; s < 6; s++) {
				uint64_t before = GIB + page - 1;

				/* Next to the map, in the same pages of the device; at its ends; anywhere. */
				mark(&guest, &device, before, 1);
				mark(&guest, &device, GIB + 6 * MIB + 2 * page, 1);
				if (s % 2)
					mark(&guest, &device, GIB + page, 1);
				else
					mark(&guest, &device, GIB + 14 * MIB + 3 * page - 1, 1);
				mark(&guest, &device, GIB + 5 * MIB + random_below(MIB), 1);
				mark(&guest, &device, GIB + random_below(16 * MIB), 1 + random_below(20000));
				if (s < 5)
					CHECK(sync_range(&guest, GIB, 16 * MIB, of_bitmap[s], 0), "nothing");
				else
					CHECK(collect(&guest, 0), "nothing");
			}
			EXPECT(collect(&guest, 0), 0);
			OK(vfiomig_dirty_stop(guest.dirty));
			guest_free(&guest);
		}
	kmod_end(&device, handle);
}

/* If a caller's range has part of a page, the page is reported there, and again when the rest is
 * read. */
static void part_of_a_page(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);
	uint64_t at = GIB + 3 * 64 * KIB, bitmap[2];

	guest_new(&guest, 64 * KIB, 0);
	guest_area(&guest, GIB, MIB, 0);
	guest_log(&guest, handle);
	guest_start(&guest);
	for (unsigned i = 0; i < 3; i++) {
		kmod_set(&device, "log_mark", "%llu 1", (unsigned long long)at + 0x2345);
		/* 4 KiB in the middle; then its other end, with a page beside; at last the rest. */
		memset(bitmap, 0, sizeof(bitmap));
		OK(vfiomig_dirty_sync(guest.dirty, at + 16 * KIB, PAGE, PAGE, bitmap, 1));
		EXPECT(bitmap[0], 1);
		OK(vfiomig_dirty_sync(guest.dirty, at + 60 * KIB, 8 * KIB, 4 * KIB, bitmap + 1, 1));
		EXPECT(bitmap[1], 1);
		guest_want(&guest, at, at + 64 * KIB - 1);
		EXPECT(collect(&guest, 0), 16);
		EXPECT(collect(&guest, 0), 0);
	}
	end(&device, handle);
}

static void wide_spans(void)
{
	static const uint64_t places[] = { 0, 4 * GIB, TIB - GIB, 1ull << 52, (1ull << 63) - GIB };
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);

	/* Some, far apart. */
	guest_new(&guest, 0, 0);
	for (unsigned i = 0; i < 5; i++)
		guest_area(&guest, places[i], GIB, 0);
	guest_log(&guest, handle);
	guest_start(&guest);
	for (unsigned round = 0; round < 2; round++) {
		/* A page every 12 MiB, of the whole span. */
		kmod_set(&device, "log_mark", "%llu 0x10000000000 0xc00000", round * 5 * PAGE);
		for (uint64_t at = round * 5 * PAGE; at < TIB; at += 12 * MIB)
			guest_want(&guest, at, at);
		for (unsigned i = 3; i < 5; i++) {
			mark(&guest, &device, places[i] - 1, 2);
			mark(&guest, &device, places[i] + GIB - 1, 2);
		}
		CHECK(collect(&guest, 0) > 200, "too few pages");
	}
	OK(vfiomig_dirty_stop(guest.dirty));
	guest_free(&guest);
	/* One of 4 GiB, one of a TiB. */
	for (uint64_t size = 4 * GIB; size <= TIB; size *= 256) {
		uint64_t step = size / 512 + 3 * PAGE;

		guest_new(&guest, 0, MIB);
		guest_area(&guest, 512 * MIB, size, 0);
		guest_log(&guest, handle);
		guest_start(&guest);
		kmod_set(&device, "log_mark", "0 %llu %llu", (unsigned long long)(size + GIB), (unsigned long long)step);
		for (uint64_t at = 0; at < size + GIB; at += step)
			guest_want(&guest, at, at);
		mark(&guest, &device, 512 * MIB, 1);
		mark(&guest, &device, 512 * MIB + size - 1, 1);
		CHECK(collect(&guest, 0) > 400, "too few pages");
		EXPECT(log_of(&device, "pages"), 0);
		EXPECT(stats_of(&guest).mapped_bytes, size);
		OK(vfiomig_dirty_stop(guest.dirty));
		guest_free(&guest);
	}
	kmod_end(&device, handle);
}

/* No range can end at 2^64: what lies there is always dirty, and the rest is exact. */
static void the_last_page(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);
	uint64_t first = 0 - 64 * KIB, number;

	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, 16 * MIB, 0);
	guest_area(&guest, first, 64 * KIB, 0);
	number = guest_log(&guest, handle);
	CALL(vfiomig_dirty_start(guest.dirty), UNWATCHED);
	for (unsigned round = 0; round < 12; round++) {
		guest_want(&guest, 0 - PAGE, UINT64_MAX);
		if (round % 3 == 1) {
			mark(&guest, &device, first + round * PAGE, PAGE + 1);
			EXPECT(collect(&guest, UNWATCHED), 3);
		} else if (round % 3 == 2) {
			mark(&guest, &device, first + 14 * PAGE, 1);
			EXPECT(sync_range(&guest, first, 64 * KIB, PAGE, UNWATCHED), 2);
			EXPECT(sync_range(&guest, GIB, 16 * MIB, PAGE, 0), 0);
		} else {
			EXPECT(collect(&guest, UNWATCHED), 1);
		}
	}
	EXPECT(writer_of(&guest, (uint32_t)number).assumed_bytes, 12 * PAGE);
	end(&device, handle);
}

/* What the device refused has been tried once; it is not tried again and again. */
static void the_last_page_of_a_small_map(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);

	guest_new(&guest, 0, 0);
	guest_area(&guest, 0 - 8 * PAGE, 8 * PAGE, 0);
	guest_log(&guest, handle);
	CALL(vfiomig_dirty_start(guest.dirty), UNWATCHED);
	for (unsigned round = 0; round < 30; round++) {
		guest_want(&guest, 0 - PAGE, UINT64_MAX);
		mark(&guest, &device, 0 - (2 + round % 6) * PAGE, 1);
		EXPECT(collect(&guest, UNWATCHED), 2);
	}
	EXPECT(writer_of(&guest, 0).restarts, 0);
	end(&device, handle);
}

/* --- too many ranges ---------------------------------------------------------------------------- */

/*
 * Mappings of 1 to 5 pages with gaps between them that all differ; gap[i] comes after the i-th.
 * Returns the device's log after START, with this many ranges.
 */
static void map_with_gaps(unsigned num, uint64_t *gap)
{
	uint64_t at = 16 * GIB;

	for (unsigned i = 0; i < num; i++) {
		uint64_t size = (1 + i % 5) * PAGE;

		/* A permutation of 2 to num + 1: 389 has no factor in common with the numbers used. */
		gap[i] = (2 + (uint64_t)i * 389 % num) * PAGE;
		guest_area(&guest, at, size, 0);
		at += size + gap[i];
	}
}

struct limit {
	unsigned mappings;
	unsigned device_max; /* log_limit_ranges */
	unsigned ranges;     /* what it should be in the end */
	enum lab_how how;
};

static void range_limits(void)
{
	const struct limit *limit = lab_arg();
	unsigned num = limit->mappings, closed = num - limit->ranges;
	uint64_t gap[MAX_AREAS], in_gaps = 0;
	struct lab_device device;
	struct vfiomig_device *handle;

	need_reports();
	handle = kmod_new(&device, 7, MIB, 1, limit->how);
	kmod_set(&device, "log_limit_ranges", "%u", limit->device_max);
	guest_new(&guest, 0, 0);
	map_with_gaps(num, gap);
	guest_log(&guest, handle);
	guest_start(&guest);
	EXPECT(log_of(&device, "ranges"), limit->ranges);
	expect_tracker(&guest, 0, VFIOMIG_TRACKER_DEVICE_LOG, "");
	/* A write into each gap: those into the smallest ones are logged. */
	for (unsigned i = 0; i + 1 < num; i++) {
		uint64_t at = guest.areas[i].iova + guest.areas[i].size + PAGE;
		/* The last gap lies between no mappings. */
		uint64_t last = gap[num - 1], smaller = (gap[i] - 2 * PAGE) / PAGE - (last < gap[i]);
		unsigned long long before = log_of(&device, "pages");

		/* Reading the knob every time would take a long time, so only where it changes, and a few others. */
		kmod_set(&device, "log_mark", "%llu 1", (unsigned long long)at);
		in_gaps += smaller < closed;
		if (i % 16 == 0 || smaller + 2 > closed)
			EXPECT(log_of(&device, "pages"), before + (smaller < closed));
	}
	EXPECT(in_gaps, closed);
	EXPECT(log_of(&device, "pages"), closed);
	/* And across gap and mapping, in some places. */
	for (unsigned i = 0; i < 40; i++) {
		const struct area *area = &guest.areas[random_below(num)];

		mark(&guest, &device, area->iova + random_below(area->size + 2 * PAGE), 1 + random_below(3 * PAGE));
	}
	CHECK(collect(&guest, 0) > 20, "too few pages");
	EXPECT(sync_range(&guest, 16 * GIB, area_last(&guest.areas[num - 1]) + 1 - 16 * GIB, PAGE, 0), 0);
	end(&device, handle);
}

/* --- refusals ----------------------------------------------------------------------------------- */

struct refusal {
	const char *knob, *value;
	const char *says;    /* in the note */
	unsigned dirty;	     /* pages, always; 0: nothing is logged */
	uint64_t first, last; /* addresses that are not logged */
};

/* What can be logged is logged; what cannot is reported with its reason, and is always dirty. */
static void refusals(void)
{
	static const struct refusal refusals[] = {
		{ "log_refuse", "0x40200000 0x1000", "0x40200000 (0x3000 bytes)", 3, 0x40200000, 0x40202fff },
		{ "log_refuse", "0x40000000 0x1000 95", "0x40000000 (0x100000 bytes)", 256, 0x40000000, 0x400fffff },
		{ "log_refuse", "0x60000000 0x1000", "0x60000000 (0x1000 bytes)", 1, 0x60000000, 0x60000fff },
		{ "log_limit_bytes", "0x200000", "0x50000000 (0x400000 bytes)", 1024, 0x50000000, 0x503fffff },
		{ "log_limit_bytes", "0x500000", "0x40000000 (0x100000 bytes)", 256, 0x40000000, 0x400fffff },
		/* A device in trouble, whatever it is asked for. */
		{ "log_refuse", "0x40000000 0x1000 5", "the device refuses to log", 0, 0, 0 },
		{ "fail_log_start", "1 5 0", "the device refuses to log", 0, 0, 0 },
		{ "fail_log_start", "1 110 0", "the device refuses to log", 0, 0, 0 },
	};
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);

	for (unsigned i = 0; i < sizeof(refusals) / sizeof(*refusals); i++)
		for (unsigned required = 0; required < 2; required++) {
			const struct refusal *refusal = &refusals[i];
			struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
			uint32_t number;

			guest_new(&guest, 0, 0);
			guest_area(&guest, 0x40000000, MIB, 0);
			guest_area(&guest, 0x40200000, 3 * PAGE, 0);
			guest_area(&guest, 0x50000000, 4 * MIB, 0);
			guest_area(&guest, 0x60000000, PAGE, 0);
			writer.flags = VFIOMIG_WRITER_DEVICE_LOG | (required ? VFIOMIG_WRITER_REQUIRED : 0);
			writer.device = handle;
			writer.name = "the network card";
			OK(vfiomig_dirty_add_writer(guest.dirty, &writer, &number));
			kmod_set(&device, refusal->knob, "%s", refusal->value);
			if (required && !refusal->dirty) {
				CALL(vfiomig_dirty_start(guest.dirty), -EOPNOTSUPP);
				CHECK(strstr(vfiomig_error_message(), refusal->says) &&
					      strstr(vfiomig_error_message(), writer.name),
				      "the message does not say \"%s\" of %s: %s", refusal->says, writer.name,
				      vfiomig_error_message());
				CALL(vfiomig_dirty_collect(guest.dirty), -EINVAL);
			} else if (!refusal->dirty) {
				CALL(vfiomig_dirty_start(guest.dirty), UNWATCHED);
				expect_tracker(&guest, number, VFIOMIG_TRACKER_ALL_DIRTY, refusal->says);
				for (unsigned round = 0; round < 3; round++) {
					guest_want_all(&guest);
					collect(&guest, UNWATCHED);
				}
				OK(vfiomig_dirty_stop(guest.dirty));
			} else {
				CALL(vfiomig_dirty_start(guest.dirty), UNWATCHED);
				expect_tracker(&guest, number, VFIOMIG_TRACKER_DEVICE_LOG, "does not log all");
				expect_tracker(&guest, number, VFIOMIG_TRACKER_DEVICE_LOG, refusal->says);
				for (unsigned round = 0; round < 3; round++) {
					/* One that is logged, and one that is not. */
					unsigned logged = refusal->first != 0x40000000;

					mark(&guest, &device, logged ? 0x40003000 : 0x50003000, 1);
					mark(&guest, &device, refusal->first, 1);
					guest_want(&guest, refusal->first, refusal->last);
					EXPECT(collect(&guest, UNWATCHED), refusal->dirty + 1);
					EXPECT(writer_of(&guest, number).assumed_bytes,
					       (round + 1) * refusal->dirty * (uint64_t)PAGE);
				}
				OK(vfiomig_dirty_stop(guest.dirty));
			}
			EXPECT(log_of(&device, "active"), 0);
			/* Nothing of that stays. */
			kmod_set(&device, refusal->knob, "0");
			guest_start(&guest);
			expect_tracker(&guest, number, VFIOMIG_TRACKER_DEVICE_LOG, "");
			mark(&guest, &device, 0x40200800, PAGE);
			EXPECT(collect(&guest, 0), 2);
			OK(vfiomig_dirty_stop(guest.dirty));
			guest_free(&guest);
		}
	kmod_end(&device, handle);
}

/* A report that is not available now, and one that fails at some addresses every time. */
static void reports_that_are_busy(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);

	guest_new(&guest, 0, 0);
	guest_area(&guest, 0x40000000, MIB, 0);
	guest_area(&guest, 0x50000000, 4 * MIB, 0);
	guest_log(&guest, handle);
	guest_start(&guest);
	for (unsigned round = 0; round < 3; round++) {
		kmod_set(&device, "fail_log_report", "1 %d 1", EBUSY);
		mark(&guest, &device, 0x50000000, 1);
		guest_want(&guest, 0x40000000, 0x400fffff);
		EXPECT(collect(&guest, ERRORS), 256 + 1);
		mark(&guest, &device, 0x40001000, 1);
		EXPECT(collect(&guest, 0), 1);
	}
	kmod_set(&device, "fail_log_report_at", "0x50000000 0x1000 %d", EAGAIN);
	for (unsigned round = 0; round < 10; round++) {
		mark(&guest, &device, 0x40002000, 1);
		guest_want(&guest, 0x50000000, 0x503fffff);
		EXPECT(collect(&guest, ERRORS), 1024 + 1);
	}
	kmod_set(&device, "fail_log_report_at", "0");
	mark(&guest, &device, 0x40003000, 1);
	EXPECT(collect(&guest, 0), 1);
	EXPECT(writer_of(&guest, 0).restarts, 0);
	EXPECT(writer_of(&guest, 0).assumed_bytes, 3 * MIB + 10 * 4 * MIB);
	/* Nor can it be started now. */
	OK(vfiomig_dirty_stop(guest.dirty));
	kmod_set(&device, "fail_log_start", "1 %d 2", EBUSY);
	CALL(vfiomig_dirty_start(guest.dirty), UNWATCHED);
	expect_tracker(&guest, 0, VFIOMIG_TRACKER_DEVICE_LOG, "does not log now");
	for (unsigned round = 0; round < 2; round++) {
		guest_want_all(&guest);
		collect(&guest, UNWATCHED);
	}
	mark(&guest, &device, 0x40004000, 1);
	EXPECT(collect(&guest, 0), 1);
	end(&device, handle);
}

/* A refusal outside the map does no harm: it is not asked for, or not again. */
static void refusals_beside_the_map(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);

	kmod_set(&device, "log_refuse", "0x40100000 0x1000");
	for (unsigned window = 0; window < 2; window++) {
		guest_new(&guest, 0, 0);
		guest_area(&guest, 0x40000000, MIB, 0);
		guest_area(&guest, 0x40101000, MIB, 0);
		if (window)
			guest_area(&guest, 0x40000000, 16 * MIB, VFIOMIG_MAPPING_WINDOW);
		guest_log(&guest, handle);
		guest_start(&guest);
		EXPECT(log_of(&device, "ranges"), 2);
		expect_tracker(&guest, 0, VFIOMIG_TRACKER_DEVICE_LOG, "");
		mark(&guest, &device, 0x400ff000, 0x4000);
		EXPECT(collect(&guest, 0), 3);
		OK(vfiomig_dirty_stop(guest.dirty));
		guest_free(&guest);
	}
	kmod_end(&device, handle);
}

/* VFIO_DEVICE_FEATURE_DMA_LOGGING_START, past the library. */
static void raw_start(const struct lab_device *device, uint64_t iova, uint64_t length)
{
	uint64_t range[2] = { iova, length };
	struct {
		uint32_t argsz, flags;
		uint64_t page_size;
		uint32_t num, reserved;
		uint64_t ranges;
	} arg = { sizeof(arg), LAB_FEATURE_SET | 6, PAGE, 1, 0, (uintptr_t)range };

	CHECK(!ioctl(device->fd, LAB_DEVICE_FEATURE, &arg), "START: %s", strerror(errno));
}

/* An earlier owner of the device has crashed. */
static void logging_that_was_left_on(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);

	raw_start(&device, 0, MIB);
	kmod_set(&device, "log_mark", "0 0x8000");
	guest_new(&guest, 0, 0);
	guest_area(&guest, 0, 2 * MIB, 0);
	guest_area(&guest, 4 * MIB, 2 * MIB, 0);
	guest_log(&guest, handle);
	guest_start(&guest);
	EXPECT(log_of(&device, "ranges"), 2);
	mark(&guest, &device, 2 * MIB - 1, 2 * MIB + 2);
	EXPECT(collect(&guest, 0), 2);
	end(&device, handle);
}

/* --- unmapping ---------------------------------------------------------------------------------- */

struct last_moment {
	const struct lab_device *device;
	uint64_t iova, length; /* written to while it is being unmapped */
	unsigned calls;
	int ret;
};

static int write_until_unmapped(void *opaque, uint64_t iova, uint64_t size)
{
	struct last_moment *moment = opaque;

	(void)iova;
	(void)size;
	moment->calls++;
	if (moment->length)
		mark(&guest, moment->device, moment->iova, moment->length);
	CALL(vfiomig_dirty_collect(guest.dirty), -EBUSY);
	return moment->ret;
}

static void unmapping(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);
	struct last_moment moment = { .device = &device };
	uint64_t *bitmap = new_bitmap(1024);
	struct area *area;

	guest_new(&guest, 0, 0);
	for (unsigned i = 0; i < 4; i++)
		guest_area(&guest, GIB + i * 8 * MIB, 4 * MIB, 0);
	/* Two that touch. */
	guest_area(&guest, 2 * GIB, MIB, 0);
	guest_area(&guest, 2 * GIB + MIB, MIB, 0);
	guest_log(&guest, handle);
	guest_start(&guest);

	/* With a bitmap, to which is added. */
	area = &guest.areas[1];
	mark(&guest, &device, area->iova + 4 * PAGE, 2 * PAGE);
	moment.iova = area->iova + 5 * PAGE;
	moment.length = 9 * PAGE;
	bitmap[15] = 1ull << 63;
	mark(&guest, &device, guest.areas[2].iova, 1);
	CALL(vfiomig_dirty_unmap(guest.dirty, area->iova, area->size, PAGE, bitmap, 16, write_until_unmapped, &moment), 0);
	EXPECT(moment.calls, 1);
	for (unsigned i = 0; i < 1024; i++)
		CHECK(bit(bitmap, i) == ((i >= 4 && i < 14) || i == 1023), "page %u of what was unmapped is %s", i,
		      bit(bitmap, i) ? "dirty" : "clean");
	memset(area->want, 0, 1024 / 8);
	area->mapped = 0;
	EXPECT(collect(&guest, 0), 1);
	kmod_set(&device, "log_mark", "%llu 0x400000", (unsigned long long)area->iova);
	EXPECT(collect(&guest, 0), 0);

	/* To set_dirty. The rest is for the next collection. */
	area = &guest.areas[2];
	mark(&guest, &device, area->iova + 7 * PAGE, 1);
	moment.iova = area->iova + 1023 * PAGE;
	moment.length = PAGE;
	OK(vfiomig_dirty_unmap(guest.dirty, area->iova, area->size, 0, NULL, 0, write_until_unmapped, &moment));
	EXPECT(guest_compare(&guest), 2);
	area->mapped = 0;
	mark(&guest, &device, area->iova, area->size);
	EXPECT(collect(&guest, 0), 0);

	/* To set_dirty, which cannot take it now. */
	area = &guest.areas[3];
	moment.iova = area->iova + 512 * PAGE;
	guest.refuse = -EAGAIN;
	CALL(vfiomig_dirty_unmap(guest.dirty, area->iova, area->size, 0, NULL, 0, write_until_unmapped, &moment), ERRORS);
	area->mapped = 0;
	guest.refuse = 0;
	EXPECT(collect(&guest, 0), 1);
	EXPECT(error_of(&guest, 0).first, area->iova);
	EXPECT(error_of(&guest, 0).last, area_last(area));

	/* The middle of two mappings: both are cut. */
	moment.iova = 2 * GIB + 512 * KIB - PAGE;
	moment.length = MIB + 2 * PAGE;
	OK(vfiomig_dirty_unmap(guest.dirty, 2 * GIB + 512 * KIB, MIB, 0, NULL, 0, write_until_unmapped, &moment));
	/* The page before it, and the one behind, are still to come. */
	for (unsigned i = 4; i < 6; i++) {
		area = &guest.areas[i];
		EXPECT(bit(area->got, i == 4 ? 127 : 128), 0);
	}
	EXPECT(collect(&guest, 0), 258);
	moment.length = 0;
	mark(&guest, &device, 2 * GIB + 512 * KIB - PAGE, 1);
	mark(&guest, &device, 2 * GIB + MIB + 512 * KIB, 1);
	kmod_set(&device, "log_mark", "%llu 0x100000", 2 * GIB + 512 * KIB);
	EXPECT(collect(&guest, 0), 2);

	/* Unmapping fails: from then on it is always dirty, until it succeeds. */
	area = &guest.areas[0];
	moment.ret = -EBUSY;
	CALL(vfiomig_dirty_unmap(guest.dirty, area->iova, area->size, 0, NULL, 0, write_until_unmapped, &moment), -EIO);
	for (unsigned round = 0; round < 3; round++) {
		guest_want(&guest, area->iova, area_last(area));
		EXPECT(collect(&guest, UNWATCHED), 1024);
	}
	EXPECT(error_of(&guest, 1).first, area->iova);
	EXPECT(error_of(&guest, 1).last, area_last(area));
	EXPECT(error_of(&guest, 1).code, -EIO);
	moment.ret = 0;
	guest_want(&guest, area->iova, area_last(area));
	CALL(vfiomig_dirty_unmap(guest.dirty, area->iova, area->size, 0, NULL, 0, write_until_unmapped, &moment), UNWATCHED);
	EXPECT(guest_compare(&guest), 1024);
	area->mapped = 0;
	EXPECT(collect(&guest, 0), 0);
	EXPECT(moment.calls, 6);
	OK(vfiomig_dirty_stop(guest.dirty));
	EXPECT(log_of(&device, "active"), 0);
	guest_free(&guest);
	kmod_end(&device, handle);
	free(bitmap);
}

/* --- mappings that come later ------------------------------------------------------------------- */

static void later_mappings(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);
	struct area *later;

	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, 64 * MIB, 0);
	guest_log(&guest, handle);
	guest_start(&guest);
	later = guest_map(&guest, 3 * GIB, 2 * MIB, 0);
	guest_map(&guest, 4 * GIB, 2 * MIB, VFIOMIG_MAPPING_READ_ONLY);
	for (unsigned round = 0; round < 3; round++) {
		mark(&guest, &device, GIB + round * PAGE, 1);
		mark(&guest, &device, 3 * GIB, 1);
		guest_want(&guest, later->iova, area_last(later));
		EXPECT(collect(&guest, UNWATCHED), 1 + 512);
	}
	EXPECT(sync_range(&guest, GIB, 64 * MIB, PAGE, 0), 0);
	EXPECT(writer_of(&guest, 0).assumed_bytes, 3 * 2 * MIB);
	/* The device runs, and nothing watches in the meantime: everything is dirty once. */
	OK(vfiomig_dirty_rearm(guest.dirty));
	EXPECT(log_of(&device, "ranges"), 2);
	guest_want_all(&guest);
	EXPECT(collect(&guest, UNWATCHED), 16384 + 512);
	mark(&guest, &device, 3 * GIB + 5 * PAGE, 1);
	EXPECT(collect(&guest, 0), 1);
	/* Without a need it is the same. */
	OK(vfiomig_dirty_rearm(guest.dirty));
	guest_want_all(&guest);
	collect(&guest, UNWATCHED);
	EXPECT(writer_of(&guest, 0).restarts, 2);
	EXPECT(collect(&guest, 0), 0);
	end(&device, handle);
}

/* A mapping that comes where others were: what of it is logged is exact. */
static void later_over_old_ranges(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);

	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, 4 * MIB + 3 * PAGE, 0);
	guest_area(&guest, GIB + 5 * MIB + PAGE, 4 * MIB, 0);
	guest_log(&guest, handle);
	guest_start(&guest);
	for (unsigned i = 0; i < 2; i++) {
		OK(vfiomig_dirty_unmap(guest.dirty, guest.areas[i].iova, guest.areas[i].size, 0, NULL, 0, nothing_to_unmap, NULL));
		guest.areas[i].mapped = 0;
	}
	guest_map(&guest, GIB - PAGE, 10 * MIB, 0);
	for (unsigned round = 0; round < 3; round++) {
		guest_want(&guest, GIB - PAGE, GIB - 1);
		guest_want(&guest, GIB + 4 * MIB + 3 * PAGE, GIB + 5 * MIB + PAGE - 1);
		guest_want(&guest, GIB + 9 * MIB + PAGE, GIB + 10 * MIB - PAGE - 1);
		mark(&guest, &device, GIB + round * PAGE, 1);
		mark(&guest, &device, GIB + 5 * MIB + PAGE, 1);
		mark(&guest, &device, GIB + 7 * MIB + round * PAGE, 1);
		mark(&guest, &device, GIB + 9 * MIB, 1);
		CHECK(collect(&guest, UNWATCHED) > 500, "too few pages");
	}
	OK(vfiomig_dirty_rearm(guest.dirty));
	guest_want_all(&guest);
	EXPECT(collect(&guest, UNWATCHED), 2560);
	mark(&guest, &device, GIB - PAGE, 2 * PAGE);
	EXPECT(collect(&guest, 0), 2);
	end(&device, handle);
}

/* The library restarts the log by itself if that costs nothing: when the device is stopped. */
static void rearmed_by_itself(void)
{
	struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
	struct vfiomig_save *save = NULL;
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);
	struct area *later;

	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, 8 * MIB, 0);
	guest_log(&guest, handle);
	guest_start(&guest);
	later = guest_map(&guest, 3 * GIB, 3 * MIB, 0);
	for (unsigned round = 0; round < 6; round++) {
		mark(&guest, &device, GIB + round * PAGE, 1);
		guest_want(&guest, later->iova, area_last(later));
		EXPECT(collect(&guest, UNWATCHED), 1 + 768);
		EXPECT(writer_of(&guest, 0).restarts, 0);
	}
	options.flags = VFIOMIG_SAVE_NO_PRE_COPY;
	OK(vfiomig_save_begin(handle, &options, &save));
	mark(&guest, &device, GIB + 7 * PAGE, 1);
	OK(vfiomig_save_stop(save));
	/* For the last time. */
	guest_want(&guest, later->iova, area_last(later));
	EXPECT(collect(&guest, UNWATCHED), 1 + 768);
	EXPECT(writer_of(&guest, 0).restarts, 1);
	EXPECT(log_of(&device, "ranges"), 2);
	EXPECT(collect(&guest, 0), 0);
	OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
	vfiomig_save_free(save);
	for (unsigned round = 0; round < 5; round++) {
		mark(&guest, &device, 3 * GIB + round * PAGE, 1);
		EXPECT(collect(&guest, 0), 1);
	}
	EXPECT(writer_of(&guest, 0).restarts, 1);
	end(&device, handle);
}

/* The device does not accept what came later; it goes on logging what it has logged until now. */
static void rearm_that_is_refused(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);
	struct area *later;

	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, 8 * MIB, 0);
	guest_area(&guest, GIB + 16 * MIB, 8 * MIB, 0);
	guest_log(&guest, handle);
	guest_start(&guest);
	later = guest_map(&guest, 3 * GIB, 3 * MIB, 0);
	kmod_set(&device, "log_refuse", "%llu 0x1000", 3 * GIB);
	for (unsigned round = 0; round < 3; round++) {
		mark(&guest, &device, GIB + PAGE, 1);
		CALL(vfiomig_dirty_rearm(guest.dirty), UNWATCHED);
		guest_want_all(&guest);
		collect(&guest, UNWATCHED);
		EXPECT(log_of(&device, "ranges"), 2);
		mark(&guest, &device, GIB + 16 * MIB, 1);
		guest_want(&guest, later->iova, area_last(later));
		EXPECT(collect(&guest, UNWATCHED), 1 + 768);
	}
	kmod_set(&device, "log_refuse", "0");
	OK(vfiomig_dirty_rearm(guest.dirty));
	guest_want_all(&guest);
	collect(&guest, UNWATCHED);
	mark(&guest, &device, 3 * GIB, 1);
	EXPECT(collect(&guest, 0), 1);
	end(&device, handle);
}

/* In a window they are watched from the start. */
static void mappings_in_a_window(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);
	struct area *area;

	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, 8 * MIB, 0);
	guest_area(&guest, 4 * GIB, TIB, VFIOMIG_MAPPING_WINDOW);
	guest_log(&guest, handle);
	guest_start(&guest);
	EXPECT(log_of(&device, "ranges"), 2);
	for (unsigned round = 0; round < 6; round++) {
		uint64_t at = 5 * GIB + round * 100 * GIB;

		area = guest_map(&guest, at, MIB, 0);
		mark(&guest, &device, at - PAGE, 2 * PAGE);
		mark(&guest, &device, at + MIB - 1, 2);
		EXPECT(collect(&guest, 0), 2);
		mark(&guest, &device, at + 3 * PAGE, PAGE);
		OK(vfiomig_dirty_unmap(guest.dirty, at, MIB, 0, NULL, 0, nothing_to_unmap, NULL));
		EXPECT(guest_compare(&guest), 1);
		area->mapped = 0;
	}
	EXPECT(writer_of(&guest, 0).restarts, 0);
	end(&device, handle);
}

/* --- restarting under load
 * ---------------------------------------------------------------------- */

#define LOAD_AT (4 * GIB)
#define LOAD_PAGES 65536ull
#define LOAD_SEED 4711ull

/* The generator of lab/kmod/README.md. */
static uint64_t nth_page(uint64_t seed, uint64_t n, uint64_t pages)
{
	uint64_t x = seed + n * 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return (x ^ x >> 31) % pages;
}

/* A tracker of the VMM's own that knows what the device's load writes, for the time in between. */
struct bridge {
	const struct lab_device *device;
	unsigned long long from;
	unsigned starts, syncs;
	int on, broken;
};

static int bridge_start(void *opaque)
{
	struct bridge *bridge = opaque;

	if (bridge->broken)
		return -EIO;
	CHECK(!bridge->on, "the bridge is started twice");
	bridge->on = 1;
	bridge->starts++;
	bridge->from = kmod_load_writes(bridge->device);
	return 0;
}

static int bridge_stop(void *opaque)
{
	struct bridge *bridge = opaque;

	bridge->on = 0;
	return 0;
}

static int bridge_sync(void *opaque, uint64_t iova, uint64_t length, uint64_t page_size, uint64_t *bitmap,
		       size_t num_words)
{
	struct bridge *bridge = opaque;
	/* One more than are counted may be there. */
	unsigned long long to = kmod_load_writes(bridge->device) + 1;

	CHECK(bridge->on, "the bridge is read, but was not started");
	EXPECT(page_size, PAGE);
	CHECK(num_words * 64 >= length / PAGE, "%zu words for %llu bytes", num_words, (unsigned long long)length);
	bridge->syncs++;
	for (unsigned long long n = bridge->from; n < to; n++) {
		uint64_t at = LOAD_AT + nth_page(LOAD_SEED, n, LOAD_PAGES) * PAGE;

		if (at >= iova && at - iova < length)
			set_bits(bitmap, (at - iova) / PAGE, 1);
	}
	return 0;
}

/* A writer with a log and a bridge; returns its number. */
static uint32_t add_with_bridge(struct vfiomig_device *handle, struct bridge *bridge)
{
	struct vfiomig_tracker_ops ops = VFIOMIG_TRACKER_OPS_INIT;
	struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
	uint32_t number;

	ops.page_size = PAGE;
	ops.start = bridge_start;
	ops.stop = bridge_stop;
	ops.sync = bridge_sync;
	writer.flags = VFIOMIG_WRITER_DEVICE_LOG | VFIOMIG_WRITER_CUSTOM;
	writer.device = handle;
	writer.tracker = &ops;
	writer.tracker_opaque = bridge;
	OK(vfiomig_dirty_add_writer(guest.dirty, &writer, &number));
	return number;
}

static void start_load(const struct lab_device *device)
{
	kmod_set(device, "log_load", "%llu %llu 20000 %llu", LOAD_AT, LOAD_PAGES * PAGE, LOAD_SEED);
}

static void want_writes(unsigned long long from, unsigned long long to, int may)
{
	for (unsigned long long n = from; n < to; n++) {
		uint64_t at = LOAD_AT + nth_page(LOAD_SEED, n, LOAD_PAGES) * PAGE;

		guest_add(&guest, at, at, may);
	}
}

/* How many writes there were before the last reading, and after it. */
static unsigned long long before, behind;

/*
 * Every write since the last reading is in this one, and none from before that. A write during a
 * reading may be in it or in the next one.
 */
static void collect_under_load(const struct lab_device *device, int flags)
{
	unsigned long long from = before, surely = behind;

	before = kmod_load_writes(device);
	CALL(vfiomig_dirty_collect(guest.dirty), flags);
	/* One more may have been made than is counted. */
	behind = kmod_load_writes(device) + 1;
	want_writes(surely, before, 0);
	want_writes(from, behind, 1);
	guest_compare(&guest);
}

static void load_areas(void)
{
	guest_new(&guest, 0, 4096);
	guest_area(&guest, LOAD_AT - MIB, 64 * MIB, 0);
	guest_area(&guest, LOAD_AT + 80 * MIB, 60 * MIB, 0);
	guest_area(&guest, LOAD_AT + 200 * MIB, 100 * MIB, 0);
	before = behind = 0;
}

/* What these tests take for written is what the device has on record. */
static void expect_truth(const struct lab_device *device)
{
	uint64_t *truth = new_bitmap(LOAD_PAGES), *want = new_bitmap(LOAD_PAGES);
	unsigned long long writes = kmod_load_writes(device);

	for (unsigned long long n = 0; n < writes; n++)
		set_bits(want, nth_page(LOAD_SEED, n, LOAD_PAGES), 1);
	kmod_read_truth(device, truth, LOAD_PAGES);
	for (uint64_t i = 0; i < LOAD_PAGES / 64; i++)
		CHECK(truth[i] == want[i], "of %llu writes, word %llu is %llx and not %llx", writes, (unsigned long long)i,
		      (unsigned long long)truth[i], (unsigned long long)want[i]);
	CHECK(writes > 3000, "only %llu writes", writes);
	free(truth);
	free(want);
}

/* Everything written while it was mapped has been reported; nothing is left in the device. */
static void end_of_load(struct lab_device *device, struct vfiomig_device *handle)
{
	struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
	struct vfiomig_save *save = NULL;

	/* It stops for real. */
	options.flags = VFIOMIG_SAVE_NO_PRE_COPY;
	OK(vfiomig_save_begin(handle, &options, &save));
	OK(vfiomig_save_stop(save));
	collect_under_load(device, 0);
	EXPECT(kmod_load_writes(device), before);
	EXPECT(collect(&guest, 0), 0);
	expect_truth(device);
	kmod_set(device, "log_load", "0");
	OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
	vfiomig_save_free(save);
	end(device, handle);
}

static void rearm_under_load_with_a_bridge(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);
	struct bridge bridge = { .device = &device };
	uint32_t number;

	load_areas();
	number = add_with_bridge(handle, &bridge);
	guest_start(&guest);
	start_load(&device);
	for (unsigned round = 0; round < 24; round++) {
		kmod_wait_for_writes(&device, 100);
		if (round % 6 == 5) {
			/* A mapping that the log does not have: it is restarted by itself, because that
			 * costs nothing. */
			struct area *area = guest_map(&guest, LOAD_AT + 146 * MIB + round * MIB, MIB, 0);

			kmod_wait_for_writes(&device, 50);
			guest_want(&guest, area->iova, area_last(area));
			collect_under_load(&device, UNWATCHED);
			kmod_wait_for_writes(&device, 50);
			OK(vfiomig_dirty_rearm(guest.dirty));
			kmod_wait_for_writes(&device, 50);
		} else {
			OK(vfiomig_dirty_rearm(guest.dirty));
			if (round % 3 == 0)
				OK(vfiomig_dirty_rearm(guest.dirty));
			kmod_wait_for_writes(&device, 100);
		}
		EXPECT(bridge.on, 0);
		collect_under_load(&device, 0);
	}
	EXPECT(bridge.starts, 36);
	EXPECT(writer_of(&guest, number).restarts, 36);
	expect_tracker(&guest, number, VFIOMIG_TRACKER_DEVICE_LOG, "");
	end_of_load(&device, handle);
}

static void rearm_under_load_without_a_bridge(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);

	load_areas();
	guest_log(&guest, handle);
	guest_start(&guest);
	start_load(&device);
	for (unsigned round = 0; round < 20; round++) {
		kmod_wait_for_writes(&device, 200);
		if (round % 4) {
			OK(vfiomig_dirty_rearm(guest.dirty));
			kmod_wait_for_writes(&device, 100);
			guest_want_all(&guest);
			collect_under_load(&device, UNWATCHED);
		}
		/* Once. */
		kmod_wait_for_writes(&device, 100);
		collect_under_load(&device, 0);
	}
	EXPECT(writer_of(&guest, 0).restarts, 15);
	end_of_load(&device, handle);
}

/* A tracker of the VMM's own that is told of each write, and moments at which the device writes. */
static struct {
	const struct lab_device *device;
	uint64_t pages[16];
	unsigned num, unlogged;
	int on, armed;
} watch;

static void write_now(unsigned page)
{
	uint64_t at = GIB + page * PAGE;

	if (!watch.armed)
		return;
	mark(&guest, watch.device, at, 1);
	if (watch.on)
		watch.pages[watch.num++] = at;
}

static int watch_start(void *opaque)
{
	(void)opaque;
	watch.on = 1;
	watch.num = 0;
	write_now(1);
	return 0;
}

static int watch_stop(void *opaque)
{
	(void)opaque;
	watch.on = 0;
	write_now(4);
	return 0;
}

static int watch_sync(void *opaque, uint64_t iova, uint64_t length, uint64_t page_size, uint64_t *bitmap,
		      size_t num_words)
{
	(void)opaque;
	write_now(3);
	CHECK(watch.on && page_size == PAGE && num_words >= words_of(length / PAGE), "it is asked for %llu bytes",
	      (unsigned long long)length);
	for (unsigned i = 0; i < watch.num; i++)
		if (watch.pages[i] >= iova && watch.pages[i] - iova < length)
			set_bits(bitmap, (watch.pages[i] - iova) / PAGE, 1);
	return 0;
}

/* Reported while the log is off: a larger range was tried, and the one that will be accepted has
 * not been tried yet. */
static void watch_message(void *opaque, uint32_t level, const char *target, const char *text)
{
	(void)opaque;
	(void)level;
	(void)target;
	if (!watch.armed || !strstr(text, "does not log windows"))
		return;
	EXPECT(log_of(watch.device, "active"), 0);
	watch.unlogged++;
	write_now(2);
}

/* Before the old log is read, while there is none, and when there is the new one. */
static void rearm_moment_by_moment(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);
	struct vfiomig_tracker_ops ops = VFIOMIG_TRACKER_OPS_INIT;
	struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
	uint32_t number;

	watch.device = &device;
	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, MIB, 0);
	guest_area(&guest, 16 * GIB, GIB, VFIOMIG_MAPPING_WINDOW);
	kmod_set(&device, "log_refuse", "%llu 0x1000 %d", 16 * GIB, EOPNOTSUPP);
	ops.page_size = PAGE;
	ops.start = watch_start;
	ops.stop = watch_stop;
	ops.sync = watch_sync;
	writer.flags = VFIOMIG_WRITER_DEVICE_LOG | VFIOMIG_WRITER_CUSTOM;
	writer.device = handle;
	writer.tracker = &ops;
	OK(vfiomig_dirty_add_writer(guest.dirty, &writer, &number));
	OK(vfiomig_log_set(watch_message, NULL, NULL, VFIOMIG_LOG_INFO));
	guest_start(&guest);
	for (unsigned round = 1; round <= 3; round++) {
		mark(&guest, &device, GIB, 1);
		watch.armed = 1;
		OK(vfiomig_dirty_rearm(guest.dirty));
		watch.armed = 0;
		EXPECT(watch.unlogged, round);
		EXPECT(collect(&guest, 0), 5);
		EXPECT(collect(&guest, 0), 0);
		EXPECT(writer_of(&guest, number).restarts, round);
	}
	OK(vfiomig_log_set(NULL, NULL, NULL, VFIOMIG_LOG_OFF));
	end(&device, handle);
}

static unsigned long long at_unmap;

static int note_writes(void *opaque, uint64_t iova, uint64_t size)
{
	(void)iova;
	(void)size;
	kmod_wait_for_writes(opaque, 200);
	at_unmap = kmod_load_writes(opaque);
	return 0;
}

/* What was written until the memory was gone is reported, and what was reported is not reported
 * again. */
static void unmap_under_load(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);

	load_areas();
	guest_log(&guest, handle);
	guest_start(&guest);
	start_load(&device);
	for (unsigned round = 0; round < 16; round++) {
		struct area *area = &guest.areas[2];
		uint64_t at = area->iova + round * 6 * MIB, *bitmap = new_bitmap(1536), *want = new_bitmap(1536);
		uint64_t *may = new_bitmap(1536);
		unsigned long long first = before, surely = behind, last;

		kmod_wait_for_writes(&device, 300);
		if (round % 2) {
			OK(vfiomig_dirty_unmap(guest.dirty, at, 6 * MIB, PAGE, bitmap, 24, note_writes, &device));
		} else {
			OK(vfiomig_dirty_unmap(guest.dirty, at, 6 * MIB, 0, NULL, 0, note_writes, &device));
			for (unsigned i = 0; i < 24; i++) {
				bitmap[i] = area->got[round * 24 + i];
				area->got[round * 24 + i] = 0;
			}
		}
		last = kmod_load_writes(&device) + 1;
		for (unsigned long long n = first; n < last; n++) {
			uint64_t page = LOAD_AT + nth_page(LOAD_SEED, n, LOAD_PAGES) * PAGE;

			if (page >= at && page - at < 6 * MIB) {
				if (n >= surely && n < at_unmap)
					set_bits(want, (page - at) / PAGE, 1);
				set_bits(may, (page - at) / PAGE, 1);
			}
		}
		for (unsigned i = 0; i < 24; i++)
			CHECK(!(want[i] & ~bitmap[i]) && !(bitmap[i] & ~may[i]), "round %u: word %u is %llx, of %llx to %llx",
			      round, i, (unsigned long long)bitmap[i], (unsigned long long)want[i],
			      (unsigned long long)may[i]);
		/* What the guest has left, exactly. */
		before = kmod_load_writes(&device);
		CALL(vfiomig_dirty_collect(guest.dirty), 0);
		behind = kmod_load_writes(&device) + 1;
		want_writes(surely, before, 0);
		want_writes(first, behind, 1);
		for (unsigned i = 0; i <= (round + 1) * 24 - 1; i++) {
			EXPECT(area->got[i], 0);
			area->want[i] = area->may[i] = 0;
		}
		guest_compare(&guest);
		free(bitmap);
		free(want);
		free(may);
	}
	kmod_set(&device, "log_load", "0");
	end(&device, handle);
}

/* --- while the device is saved ------------------------------------------------------------------ */

struct pumping {
	struct vfiomig_save *save;
	struct vfiomig_load *load;
	struct kmod_way way;
	struct kmod_result result;
	atomic_int done;
	int ret;
};

static void *pump(void *arg)
{
	struct pumping *pumping = arg;

	pumping->ret = kmod_pass(pumping->save, pumping->load, &pumping->way, &pumping->result);
	atomic_store(&pumping->done, 1);
	return NULL;
}

/*
 * Passes the stream on in a thread, while this one reads dirty pages. Returns how often. The device
 * is slow until that has been done ten times.
 */
static unsigned pass_and_collect(struct pumping *pumping, const struct lab_device *device)
{
	unsigned rounds = 0;
	pthread_t thread;

	kmod_set(device, "read_rate", "%llu", 64 * KIB);
	atomic_store(&pumping->done, 0);
	CHECK(!pthread_create(&thread, NULL, pump, pumping), "no thread");
	do {
		collect_under_load(device, 0);
		if (++rounds == 10)
			kmod_set(device, "read_rate", "0");
		usleep(5000);
	} while (!atomic_load(&pumping->done));
	CHECK(!pthread_join(thread, NULL), "no end of the thread");
	CHECK(!pumping->result.step, "%s: %d", pumping->result.step, pumping->result.error);
	return rounds;
}

static void while_it_is_saved(void)
{
	struct lab_device device, target;
	struct vfiomig_device *handle = new_device(&device), *to = kmod_new(&target, 7, 4 * MIB, 2, how());
	struct pumping pumping = { 0 };
	unsigned pre_copy, stopped;
	struct area *area;

	kmod_set(&device, "state_size", "%llu", 4 * MIB);
	kmod_set(&device, "initial_size", "%llu", 2 * MIB);
	load_areas();
	guest_log(&guest, handle);
	guest_start(&guest);
	start_load(&device);
	OK(vfiomig_save_begin(handle, NULL, &pumping.save));
	OK(vfiomig_load_begin(to, NULL, &pumping.load));
	pre_copy = pass_and_collect(&pumping, &device);
	EXPECT(pumping.ret, VFIOMIG_NEXT_DRAINED);
	kmod_wait_for_writes(&device, 200);
	OK(vfiomig_save_quiesce(pumping.save));
	kmod_wait_for_writes(&device, 200);
	collect_under_load(&device, 0);
	kmod_wait_for_writes(&device, 200);
	OK(vfiomig_save_stop(pumping.save));
	/* It is stopped: whatever is restarted, nothing is lost and nothing is added. */
	area = guest_map(&guest, LOAD_AT + 160 * MIB, MIB, 0);
	OK(vfiomig_dirty_rearm(guest.dirty));
	EXPECT(writer_of(&guest, 0).restarts, 1);
	guest_want(&guest, area->iova, area_last(area));
	collect_under_load(&device, UNWATCHED);
	stopped = pass_and_collect(&pumping, &device);
	EXPECT(pumping.ret, VFIOMIG_NEXT_END);
	mark(&guest, &device, LOAD_AT + 100 * MIB, 5 * PAGE);
	mark(&guest, &device, area->iova + 9 * PAGE, 1);
	OK(vfiomig_dirty_rearm(guest.dirty));
	EXPECT(writer_of(&guest, 0).restarts, 2);
	EXPECT(collect(&guest, 0), 6);
	EXPECT(collect(&guest, 0), 0);
	CHECK(pre_copy >= 10 && stopped >= 10, "%u readings in pre-copy, %u when stopped", pre_copy, stopped);
	OK(vfiomig_load_commit(pumping.load));
	OK(vfiomig_save_finish(pumping.save, VFIOMIG_ENDING_RELEASE));
	vfiomig_save_free(pumping.save);
	vfiomig_load_free(pumping.load);
	EXPECT(kmod_digest(&target), kmod_digest(&device));
	kmod_end(&target, to);
	end(&device, handle);
}

/* --- faults ------------------------------------------------------------------------------------- */

struct fault {
	const char *op;
	int error;
	unsigned times; /* 0: forever */
	enum lab_how how;
};

/* More than necessary is dirty only if flags, or a restart, say so. */
static unsigned excused, num_errors;

static void expect_at_least(int flags, int restarted)
{
	struct vfiomig_dirty_stats stats = stats_of(&guest);
	uint64_t found = 0, wanted = 0;

	CHECK(flags >= 0, "a reading fails: %d (%s)", flags, vfiomig_error_message());
	CHECK(!(flags & ERRORS) || stats.num_errors, "ERRORS, but there is none");
	/* The same again is not kept twice, and is the last. */
	for (unsigned i = flags & ERRORS ? stats.num_errors - 1 : num_errors; i < stats.num_errors; i++) {
		struct vfiomig_dirty_error error = error_of(&guest, i);

		CHECK(error.first <= error.last && error.code < 0 && *error.text && error.tracker, "error %u is empty", i);
		EXPECT(error.writer, 0);
		/* All of the map: what one error of a log makes doubtful. */
		CHECK(error.first == 0 && error.last == UINT64_MAX, "error %u is about %#llx to %#llx", i,
		      (unsigned long long)error.first, (unsigned long long)error.last);
	}
	num_errors = stats.num_errors;
	if (flags & ERRORS)
		excused = 1;
	for (unsigned i = 0; i < guest.num; i++)
		for (uint64_t j = 0; j < words_of(guest.areas[i].size / PAGE); j++) {
			found += (uint64_t)__builtin_popcountll(guest.areas[i].got[j]);
			wanted += (uint64_t)__builtin_popcountll(guest.areas[i].want[j] | guest.areas[i].got[j]);
		}
	EXPECT(wanted, found);
	if (excused || restarted || flags & UNWATCHED)
		guest_compare_least(&guest);
	else
		guest_compare(&guest);
	excused = 0;
}

/* A bit of everything. */
static void a_bit_of_everything(const struct lab_device *device, struct vfiomig_device *handle)
{
	struct vfiomig_dirty_writer_stats stats;
	int ret;

	excused = num_errors = 0;
	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, 4 * MIB, 0);
	guest_area(&guest, GIB + 8 * MIB, 4 * MIB, 0);
	guest_area(&guest, GIB + 32 * MIB, 4 * MIB, 0);
	guest_log(&guest, handle);
	ret = vfiomig_dirty_start(guest.dirty);
	CHECK(ret == 0 || ret == UNWATCHED, "start: %d (%s)", ret, vfiomig_error_message());
	mark(&guest, device, GIB + 5 * PAGE, PAGE);
	expect_at_least(vfiomig_dirty_collect(guest.dirty), 0);
	mark(&guest, device, GIB + 6 * PAGE, PAGE);
	mark(&guest, device, GIB + 32 * MIB, PAGE);
	expect_at_least(vfiomig_dirty_collect(guest.dirty), 0);
	guest_map(&guest, GIB + 64 * MIB, MIB, 0);
	mark(&guest, device, GIB + 64 * MIB, 2 * PAGE);
	mark(&guest, device, GIB + 8 * MIB, 2 * PAGE);
	/* Lost in a restart, it would be. */
	ret = vfiomig_dirty_rearm(guest.dirty);
	CHECK(ret >= 0, "rearm: %d (%s)", ret, vfiomig_error_message());
	mark(&guest, device, GIB + 64 * MIB + 5 * PAGE, 2 * PAGE);
	expect_at_least(vfiomig_dirty_collect(guest.dirty) | ret, 1);
	mark(&guest, device, GIB + 8 * MIB + 3 * PAGE, PAGE);
	ret = vfiomig_dirty_unmap(guest.dirty, GIB + 8 * MIB, 4 * MIB, 0, NULL, 0, nothing_to_unmap, NULL);
	/* Only what was unmapped has been delivered now. */
	for (unsigned i = 0; i < guest.num; i++)
		if (i != 1)
			memset(guest.areas[i].want, 0, words_of(guest.areas[i].size / PAGE) * 8);
	expect_at_least(ret, 0);
	if (ret & ERRORS)
		excused = 1;
	guest.areas[1].mapped = 0;
	mark(&guest, device, GIB + 64 * MIB, 2 * PAGE);
	mark(&guest, device, GIB, PAGE);
	expect_at_least(vfiomig_dirty_collect(guest.dirty), 0);
	mark(&guest, device, GIB + 32 * MIB + 7 * PAGE, PAGE);
	expect_at_least(vfiomig_dirty_collect(guest.dirty), 0);
	stats = writer_of(&guest, 0);
	CHECK(stats.tracker == VFIOMIG_TRACKER_DEVICE_LOG || stats.tracker == VFIOMIG_TRACKER_ALL_DIRTY,
	      "it is tracked by %u", stats.tracker);
	/* A log says what it has not watched: before it was restarted, or since a START was refused. */
	CHECK(*stats.note ? stats.tracker == VFIOMIG_TRACKER_ALL_DIRTY || strstr(stats.note, "was restarted") ||
				    strstr(stats.note, "does not log all of the memory")
			  : stats.tracker == VFIOMIG_TRACKER_DEVICE_LOG,
	      "tracker %u, note: %s", stats.tracker, stats.note);
}

static void faults(void)
{
	const struct fault *fault = lab_arg();
	struct lab_device device;
	struct vfiomig_device *handle;
	char knob[32];
	unsigned nth;

	need_reports();
	handle = kmod_new(&device, 7, MIB, 1, fault->how);
	snprintf(knob, sizeof(knob), "fail_%s", fault->op);
	for (nth = 1;; nth++) {
		unsigned long long given = kmod_count(&device, "counters", "faults");
		int ret;

		kmod_set(&device, knob, "%u %d %u", nth, fault->error, fault->times);
		a_bit_of_everything(&device, handle);
		ret = vfiomig_dirty_stop(guest.dirty);
		/* Only a log that does not stop is an error now, and can be stopped once more. */
		CHECK(ret == 0 || !strcmp(fault->op, "log_stop"), "stop: %d (%s)", ret, vfiomig_error_message());
		given = kmod_count(&device, "counters", "faults") - given;
		kmod_set(&device, knob, "0");
		if (ret)
			OK(vfiomig_dirty_stop(guest.dirty));
		if (strcmp(fault->op, "log_stop"))
			EXPECT(log_of(&device, "active"), 0);
		/* Whatever it was, it is exact when started again. */
		guest_start(&guest);
		expect_tracker(&guest, 0, VFIOMIG_TRACKER_DEVICE_LOG, "");
		mark(&guest, &device, GIB + PAGE - 1, 2);
		EXPECT(collect(&guest, 0), 2);
		OK(vfiomig_dirty_stop(guest.dirty));
		EXPECT(log_of(&device, "active"), 0);
		guest_free(&guest);
		if (!given)
			break;
	}
	CHECK(nth > (strcmp(fault->op, "log_report") ? 2 : 10), "there were only %u calls to fail", nth - 1);
	kmod_end(&device, handle);
}

/* A report that fails midway has reported, and forgotten, some of the pages. */
static void a_report_fails_midway(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);
	struct vfiomig_dirty_error error;

	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, 4 * MIB, 0);
	guest_area(&guest, 3 * GIB, 4 * MIB, 0);
	guest_log(&guest, handle);
	guest_start(&guest);
	mark(&guest, &device, GIB, 1);
	mark(&guest, &device, 3 * GIB + 8 * PAGE, 1);
	kmod_set(&device, "fail_log_report_at", "%llu 0x1000 %d", GIB + MIB, ENXIO);
	/* It is tried again and again, and finally given up: three restarts, in vain. */
	guest_want_all(&guest);
	CALL(vfiomig_dirty_collect(guest.dirty), ERRORS);
	guest_compare(&guest);
	error = error_of(&guest, 0);
	EXPECT(error.writer, 0);
	EXPECT(error.tracker, VFIOMIG_TRACKER_DEVICE_LOG);
	EXPECT(error.first, 0);
	EXPECT(error.last, UINT64_MAX);
	CHECK(strstr(error.text, "0x40000000, 0x400000 bytes"), "it does not say where: %s", error.text);
	kmod_set(&device, "fail_log_report_at", "0");
	/* And once more, for what was written between the failure and the restart. */
	EXPECT(writer_of(&guest, 0).restarts, 1);
	mark(&guest, &device, 3 * GIB, 1);
	EXPECT(collect(&guest, 0), 1);
	OK(vfiomig_dirty_stop(guest.dirty));
	guest_free(&guest);
	kmod_end(&device, handle);
}

/* Given up for the next tracker of the writer. */
static void a_log_is_replaced(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);
	struct bridge bridge = { .device = &device };
	uint32_t number;

	load_areas();
	number = add_with_bridge(handle, &bridge);
	guest_start(&guest);
	start_load(&device);
	kmod_wait_for_writes(&device, 100);
	collect_under_load(&device, 0);
	kmod_wait_for_writes(&device, 100);
	kmod_set(&device, "fail_log_report", "1 5 0");
	guest_want_all(&guest);
	collect_under_load(&device, ERRORS);
	expect_tracker(&guest, number, VFIOMIG_TRACKER_CUSTOM, "device DMA logging: ");
	EXPECT(bridge.on, 1);
	EXPECT(log_of(&device, "active"), 0);
	/* This tracker forgets nothing in this test. */
	kmod_set(&device, "log_load", "0");
	guest_want_all(&guest);
	CALL(vfiomig_dirty_collect(guest.dirty), 0);
	for (unsigned i = 0; i < guest.num; i++)
		memset(guest.areas[i].want, 0, words_of(guest.areas[i].size / PAGE) * 8);
	want_writes(bridge.from, kmod_load_writes(&device), 0);
	want_writes(bridge.from, kmod_load_writes(&device) + 1, 1);
	guest_compare(&guest);
	OK(vfiomig_dirty_stop(guest.dirty));
	EXPECT(bridge.on, 0);
	guest_free(&guest);
	kmod_end(&device, handle);
}

/* Only the driver knows whether the log survives a reset, so everything is dirty once. */
static void a_reset(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);

	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, 4 * MIB, 0);
	guest_area(&guest, 3 * GIB, 4 * MIB, 0);
	guest_log(&guest, handle);
	guest_start(&guest);
	for (unsigned round = 0; round < 4; round++) {
		mark(&guest, &device, GIB, PAGE);
		EXPECT(collect(&guest, 0), 1);
		mark(&guest, &device, 3 * GIB, PAGE);
		OK(vfiomig_device_reset(handle));
		mark(&guest, &device, 3 * GIB + MIB, PAGE);
		if (round == 3)
			break;
		guest_want_all(&guest);
		if (round % 2)
			CHECK(sync_range(&guest, GIB, 3 * GIB, PAGE, ERRORS), "nothing");
		else
			collect(&guest, ERRORS);
		EXPECT(writer_of(&guest, 0).restarts, round + 1);
		/* The same each time, and kept once. */
		CHECK(strstr(error_of(&guest, 0).text, "reset"), "%s", error_of(&guest, 0).text);
		EXPECT(error_of(&guest, 0).first, 0);
		EXPECT(error_of(&guest, 0).last, UINT64_MAX);
		EXPECT(stats_of(&guest).num_errors, 1);
		mark(&guest, &device, 3 * GIB + MIB, PAGE);
		EXPECT(collect(&guest, 0), 1);
	}
	/* Noticed at unmapping as well. */
	guest_want_all(&guest);
	CALL(vfiomig_dirty_unmap(guest.dirty, 3 * GIB, 4 * MIB, 0, NULL, 0, nothing_to_unmap, NULL), ERRORS);
	collect(&guest, 0);
	OK(vfiomig_dirty_stop(guest.dirty));
	guest_free(&guest);
	kmod_end(&device, handle);
}

/* set_dirty refuses, or the reading is cancelled: nothing is lost. */
static void what_is_not_taken(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_device(&device);

	guest_new(&guest, 0, 4096);
	for (unsigned i = 0; i < 5; i++)
		guest_area(&guest, i * GIB, 300 * MIB, 0);
	guest_log(&guest, handle);
	guest_start(&guest);
	for (unsigned i = 0; i < 5; i++) {
		mark(&guest, &device, i * GIB, 1);
		mark(&guest, &device, i * GIB + 299 * MIB, 1);
	}
	for (unsigned i = 0; i < 3; i++) {
		guest.refuse = -EAGAIN;
		CALL(vfiomig_dirty_collect(guest.dirty), -EIO);
		guest.refuse = 0;
		mark(&guest, &device, i * GIB + 200 * MIB, 1);
	}
	EXPECT(collect(&guest, 0), 13);
	EXPECT(collect(&guest, 0), 0);
	OK(vfiomig_dirty_cancel(guest.dirty));
	CALL(vfiomig_dirty_collect(guest.dirty), -ECANCELED);
	EXPECT(guest_compare(&guest), 0);
	OK(vfiomig_dirty_stop(guest.dirty));
	guest_start(&guest);
	mark(&guest, &device, 4 * GIB, 1);
	EXPECT(collect(&guest, 0), 1);
	end(&device, handle);
}

/* --- several devices ---------------------------------------------------------------------------- */

struct devices {
	unsigned num;
	enum lab_how how;
};

static void several_devices(void)
{
	const struct devices *devices = lab_arg();
	struct lab_device device[8];
	struct vfiomig_device *handle[8];
	uint64_t found = 0, reported = 0;

	need_reports();
	guest_new(&guest, 0, 4096);
	guest_area(&guest, 0, 200 * MIB, 0);
	guest_area(&guest, 4 * GIB, 32 * MIB, 0);
	guest_area(&guest, 4 * GIB + 48 * MIB, 32 * MIB, 0);
	for (unsigned i = 0; i < devices->num; i++) {
		handle[i] = kmod_new(&device[i], 7, MIB, i, devices->how);
		EXPECT(guest_log(&guest, handle[i]), i);
	}
	guest_start(&guest);
	for (unsigned round = 0; round < 12; round++) {
		for (unsigned i = 0; i < devices->num; i++) {
			if (random_below(4) == 0)
				continue;
			/* Pages that are another one's as well, and its own. */
			mark(&guest, &device[i], 4 * GIB + 3 * PAGE, 1);
			mark(&guest, &device[i], 4 * GIB + random_below(80 * MIB), 1 + random_below(5 * PAGE));
			mark(&guest, &device[i], random_below(200 * MIB), 1);
		}
		found += round % 3 ? collect(&guest, 0) : sync_range(&guest, 0, 5 * GIB, PAGE, 0);
	}
	for (unsigned i = 0; i < devices->num; i++) {
		struct vfiomig_dirty_writer_stats stats = writer_of(&guest, i);

		EXPECT(stats.tracker, VFIOMIG_TRACKER_DEVICE_LOG);
		EXPECT(stats.dirty_bytes, kmod_count(&device[i], "counters", "log_reported") * PAGE);
		reported += stats.dirty_bytes;
	}
	CHECK(found > 12 && reported > found * PAGE, "%llu pages, %llu bytes", (unsigned long long)found,
	      (unsigned long long)reported);
	EXPECT(stats_of(&guest).errors, 0);
	OK(vfiomig_dirty_stop(guest.dirty));
	for (unsigned i = 0; i < devices->num; i++) {
		EXPECT(log_of(&device[i], "active"), 0);
		kmod_end(&device[i], handle[i]);
	}
	guest_free(&guest);
}

/* Devices are plugged and unplugged. */
static void writers_come_and_go(void)
{
	struct lab_device device[3];
	struct vfiomig_device *handle[3];

	handle[0] = new_device(&device[0]);
	handle[1] = kmod_new(&device[1], 7, MIB, 1, how());
	handle[2] = kmod_new(&device[2], 7, MIB, 2, how());
	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, 4 * MIB, 0);
	guest_area(&guest, 3 * GIB, 4 * MIB, 0);
	EXPECT(guest_log(&guest, handle[0]), 0);
	EXPECT(guest_log(&guest, handle[1]), 1);
	guest_start(&guest);
	mark(&guest, &device[0], GIB, PAGE);
	mark(&guest, &device[1], 3 * GIB, PAGE);
	/* What it has written to does not go with it. */
	OK(vfiomig_dirty_remove_writer(guest.dirty, 1));
	EXPECT(log_of(&device[1], "active"), 0);
	CALL(vfiomig_dirty_remove_writer(guest.dirty, 1), -ENODATA);
	kmod_set(&device[1], "log_mark", "%llu 0x1000", GIB + MIB);
	EXPECT(collect(&guest, 0), 2);
	/* Another one; what it wrote before is old news. */
	kmod_set(&device[2], "log_mark", "%llu 0x1000", GIB + 2 * MIB);
	EXPECT(guest_log(&guest, handle[2]), 2);
	EXPECT(log_of(&device[2], "ranges"), 2);
	mark(&guest, &device[2], GIB + 3 * MIB, PAGE);
	mark(&guest, &device[0], 3 * GIB, PAGE);
	EXPECT(collect(&guest, 0), 2);
	/* The same device twice is logged once, until nobody has it. */
	EXPECT(guest_log(&guest, handle[2]), 3);
	mark(&guest, &device[2], 3 * GIB + MIB, PAGE);
	OK(vfiomig_dirty_remove_writer(guest.dirty, 2));
	EXPECT(log_of(&device[2], "active"), 1);
	EXPECT(collect(&guest, 0), 1);
	mark(&guest, &device[2], 3 * GIB + 2 * MIB, PAGE);
	OK(vfiomig_dirty_remove_writer(guest.dirty, 3));
	EXPECT(log_of(&device[2], "active"), 0);
	EXPECT(collect(&guest, 0), 1);
	/* One that is gone without a word: its log cannot be read. */
	EXPECT(guest_log(&guest, handle[1]), 4);
	for (unsigned i = 1; i < 3; i++)
		kmod_end(&device[i], handle[i]);
	guest_want_all(&guest);
	CALL(vfiomig_dirty_collect(guest.dirty), ERRORS | UNWATCHED);
	guest_compare(&guest);
	EXPECT(error_of(&guest, 0).writer, 4);
	OK(vfiomig_dirty_remove_writer(guest.dirty, 4));
	guest_want_all(&guest);
	collect(&guest, UNWATCHED);
	mark(&guest, &device[0], GIB, PAGE);
	EXPECT(collect(&guest, 0), 1);
	OK(vfiomig_dirty_stop(guest.dirty));
	guest_free(&guest);
	kmod_end(&device[0], handle[0]);
}

/* --- a migration -------------------------------------------------------------------------------- */

#define RAM (64 * MIB)
#define RAM_AT (4 * GIB)

static unsigned char *ram, *copy;
static atomic_int running;
static atomic_uint pause_us;
static atomic_ulong written;

struct writer {
	const struct lab_device *device;
	int by_kernel; /* with dma_write, or written here and said to the device */
	uint64_t seed;
};

/* What the devices do: two of them, over all of the memory and over each other's. */
static void *write_memory(void *arg)
{
	struct writer *writer = arg;
	uint64_t x = writer->seed, stamp = 0;

	while (atomic_load(&running)) {
		char text[2048];
		size_t len = 0;

		for (unsigned i = 0; i < 32; i++) {
			uint64_t at, bytes;

			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			bytes = 1 + x / 7 % 256;
			at = x / 4096 % (RAM - bytes);
			for (uint64_t j = 0; j < bytes && !writer->by_kernel; j++)
				ram[at + j] = (unsigned char)(stamp + j);
			stamp += 7;
			len += (size_t)snprintf(text + len, sizeof(text) - len, "%#llx %llu\n",
						(unsigned long long)(RAM_AT + at), (unsigned long long)bytes);
		}
		kmod_set(writer->device, writer->by_kernel ? "dma_write" : "log_mark", "%s", text);
		atomic_fetch_add(&written, 32);
		usleep(atomic_load(&pause_us));
	}
	return NULL;
}

/* Sends what is dirty; returns how many bytes that were. */
static uint64_t send_dirty(void)
{
	struct area *area = &guest.areas[0];
	uint64_t sent = 0;

	for (uint64_t i = 0; i < RAM / PAGE; i++)
		if (bit(area->got, i)) {
			memcpy(copy + i * PAGE, ram + i * PAGE, PAGE);
			sent += PAGE;
		}
	memset(area->got, 0, RAM / PAGE / 8);
	return sent;
}

/* What the decision was based on: the numbers of all rounds agree with each other. */
static void check_rounds(uint64_t rounds, uint64_t sent)
{
	struct vfiomig_dirty_stats stats = stats_of(&guest);
	uint64_t at = 0, sum = 0, busy = 0, rate = 0, average = 0;

	EXPECT(stats.rounds, rounds);
	EXPECT(stats.dirty_bytes, sent);
	EXPECT(stats.mapped_bytes, RAM);
	EXPECT(stats.num_rounds, rounds);
	for (uint32_t i = 0; i < stats.num_rounds; i++) {
		struct vfiomig_dirty_round round = VFIOMIG_DIRTY_ROUND_INIT;

		OK(vfiomig_dirty_get_round(guest.dirty, i, &round));
		EXPECT(round.at_ns - at, round.interval_ns);
		CHECK(round.sync_ns > 0 && round.sync_ns <= round.interval_ns, "%llu ns of %llu",
		      (unsigned long long)round.sync_ns, (unsigned long long)round.interval_ns);
		at = round.at_ns;
		sum += round.dirty_bytes;
		busy += round.sync_ns;
		rate = round.dirty_bytes * 1000000000 / round.interval_ns;
		average = i ? (3 * average + rate) / 4 : rate;
		if (i + 1 == stats.num_rounds) {
			EXPECT(stats.last_dirty_bytes, round.dirty_bytes);
			EXPECT(stats.last_sync_ns, round.sync_ns);
		}
	}
	EXPECT(sum, sent);
	EXPECT(stats.sync_ns, busy);
	EXPECT(stats.rate, rate);
	EXPECT(stats.average_rate, average);
}

/* Two devices in one container, or page table, and what they write to. */
static void make_devices(struct lab_device *device)
{
	ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	copy = calloc(1, RAM);
	CHECK(ram != MAP_FAILED && copy, "out of memory");
	for (uint64_t i = 0; i < RAM / 8; i++)
		((uint64_t *)(void *)ram)[i] = i * 0x9e3779b97f4a7c15ull;
	kmod_create(&device[0], 7);
	kmod_set(&device[0], "seed", "1");
	lab_open(&device[0], how());
	kmod_create(&device[1], 7);
	kmod_set(&device[1], "seed", "2");
	lab_open_beside(&device[1], &device[0]);
	if (how() == LAB_GROUP) {
		OK(lab_dma_map(device[0].container, RAM_AT, RAM, ram));
	} else {
		uint32_t ioas = lab_ioas(device[0].iommufd), pt = ioas;

		OK(lab_attach(&device[0], &pt));
		OK(lab_ioas_map(device[0].iommufd, ioas, RAM_AT, RAM, ram));
	}
}

/* Until what is left takes 50 ms at 8 MiB/s; slower after each round that does not get there. Returns
 * how many there were. */
static uint64_t pre_copy(struct pumping *pumping, uint64_t *sent)
{
	uint64_t rounds = 0;

	for (;;) {
		struct vfiomig_dirty_stats stats;

		OK(vfiomig_dirty_collect(guest.dirty));
		rounds++;
		*sent += send_dirty();
		stats = stats_of(&guest);
		for (unsigned i = 0; i < 2; i++)
			EXPECT(kmod_pass(pumping[i].save, pumping[i].load, &pumping[i].way, &pumping[i].result),
			       VFIOMIG_NEXT_DRAINED);
		if (rounds > 3 && stats.last_dirty_bytes <= 8 * MIB / 20)
			return rounds;
		CHECK(rounds < 60, "it does not converge: %llu bytes/s in the last round, %llu on average",
		      (unsigned long long)stats.rate, (unsigned long long)stats.average_rate);
		atomic_store(&pause_us, atomic_load(&pause_us) * 3 / 2);
		usleep(20000);
	}
}

static void a_whole_migration(void)
{
	struct lab_device device[2], target[2];
	struct vfiomig_device *from[2], *to[2];
	struct writer writers[2] = { { &device[0], 1, 88172645463325252ull }, { &device[1], 0, 1181783497276652981ull } };
	struct pumping pumping[2] = { 0 };
	uint64_t sent = 0, rounds;
	pthread_t threads[2];

	need_reports();
	make_devices(device);
	guest_new(&guest, 0, 0);
	guest_area(&guest, RAM_AT, RAM, 0);
	for (unsigned i = 0; i < 2; i++) {
		from[i] = lab_handle(&device[i]);
		to[i] = kmod_new(&target[i], 7, MIB, 10 + i, how());
		guest_log(&guest, from[i]);
		kmod_set(&device[i], "dirty_rate", "%llu", MIB);
	}
	atomic_store(&running, 1);
	atomic_store(&pause_us, 500);
	for (unsigned i = 0; i < 2; i++)
		CHECK(!pthread_create(&threads[i], NULL, write_memory, &writers[i]), "no thread");
	guest_start(&guest);
	memcpy(copy, ram, RAM);
	for (unsigned i = 0; i < 2; i++) {
		OK(vfiomig_save_begin(from[i], NULL, &pumping[i].save));
		OK(vfiomig_load_begin(to[i], NULL, &pumping[i].load));
	}
	rounds = pre_copy(pumping, &sent);
	/* Something is left for the last round. */
	for (unsigned long some = atomic_load(&written) + 128; atomic_load(&written) < some;)
		usleep(5000);
	/* The devices stop, and with them their writes. */
	atomic_store(&running, 0);
	for (unsigned i = 0; i < 2; i++)
		CHECK(!pthread_join(threads[i], NULL), "no end of the thread");
	for (unsigned i = 0; i < 2; i++)
		OK(vfiomig_save_quiesce(pumping[i].save));
	for (unsigned i = 0; i < 2; i++)
		OK(vfiomig_save_stop(pumping[i].save));
	CHECK(memcmp(ram, copy, RAM), "all has arrived before the last round");
	OK(vfiomig_dirty_collect(guest.dirty));
	rounds++;
	sent += send_dirty();
	for (unsigned i = 0; i < 2; i++) {
		EXPECT(kmod_pass(pumping[i].save, pumping[i].load, &pumping[i].way, &pumping[i].result), VFIOMIG_NEXT_END);
		OK(vfiomig_load_commit(pumping[i].load));
		OK(vfiomig_save_finish(pumping[i].save, VFIOMIG_ENDING_RELEASE));
		vfiomig_save_free(pumping[i].save);
		vfiomig_load_free(pumping[i].load);
		EXPECT(kmod_digest(&target[i]), kmod_digest(&device[i]));
	}
	for (uint64_t i = 0; i < RAM / PAGE; i++)
		CHECK(!memcmp(ram + i * PAGE, copy + i * PAGE, PAGE), "page %llu is not what it was",
		      (unsigned long long)i);
	CHECK(atomic_load(&written) > 500, "only %lu writes", atomic_load(&written));
	check_rounds(rounds, sent);
	EXPECT(stats_of(&guest).errors, 0);
	OK(vfiomig_dirty_collect(guest.dirty));
	EXPECT(send_dirty(), 0);
	OK(vfiomig_dirty_stop(guest.dirty));
	guest_free(&guest);
	for (unsigned i = 0; i < 2; i++) {
		vfiomig_device_free(from[i]);
		kmod_end(&target[i], to[i]);
	}
	lab_remove(&device[1]);
	lab_remove(&device[0]);
}

/* --- a kernel that cannot report ---------------------------------------------------------------- */

struct tracked {
	int container; /* is given */
	int required;
};

/* On other kernels the same writer is tracked by its log, with nothing to say. */
static void without_reports(void)
{
	const struct tracked *tracked = lab_arg();
	struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
	struct lab_device device;
	struct vfiomig_device *handle;
	int stock = lab_kernel_is("debian-6.12");
	unsigned char *memory;
	uint32_t number;

	handle = kmod_new(&device, 7, MIB, 1, LAB_GROUP);
	memory = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED, "no memory");
	OK(lab_dma_map(device.container, GIB, MIB, memory));
	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, MIB, 0);
	writer.flags = VFIOMIG_WRITER_DEVICE_LOG | (tracked->container ? VFIOMIG_WRITER_TYPE1 : 0) |
		       (tracked->required ? VFIOMIG_WRITER_REQUIRED : 0);
	writer.device = handle;
	writer.container_fd = device.container;
	OK(vfiomig_dirty_add_writer(guest.dirty, &writer, &number));
	if (stock && !tracked->container && tracked->required) {
		CALL(vfiomig_dirty_start(guest.dirty), -EOPNOTSUPP);
		CHECK(strstr(vfiomig_error_message(), "CONFIG_IOMMUFD"), "no reason: %s", vfiomig_error_message());
	} else {
		CALL(vfiomig_dirty_start(guest.dirty), stock && !tracked->container ? UNWATCHED : 0);
		expect_tracker(&guest, number,
			       !stock		    ? VFIOMIG_TRACKER_DEVICE_LOG
			       : tracked->container ? VFIOMIG_TRACKER_TYPE1
						    : VFIOMIG_TRACKER_ALL_DIRTY,
			       stock ? "CONFIG_IOMMUFD" : "");
		for (unsigned round = 0; round < 3; round++) {
			/* Real writes: known to the container and to the log. */
			kmod_set(&device, "dma_write", "%llu 1\n%llu 2\n", GIB + round * PAGE, GIB + 9 * PAGE - 1);
			if (stock && !tracked->container) {
				guest_want_all(&guest);
				EXPECT(collect(&guest, UNWATCHED), 256);
			} else {
				guest_want(&guest, GIB + round * PAGE, GIB + round * PAGE);
				guest_want(&guest, GIB + 8 * PAGE, GIB + 10 * PAGE - 1);
				EXPECT(collect(&guest, 0), 3);
			}
		}
		EXPECT(memory[PAGE], 0xd5);
		EXPECT(memory[9 * PAGE - 1], 0xd5);
	}
	end(&device, handle);
}

int main(void)
{
	static const struct { const char *name; void (*test)(void); } cases[] = {
		{ "random", at_random },
		{ "page-sizes", page_sizes },
		{ "part-of-a-page", part_of_a_page },
		{ "wide", wide_spans },
		{ "last-page", the_last_page },
		{ "last-page-small", the_last_page_of_a_small_map },
		{ "refused", refusals },
		{ "refused-beside", refusals_beside_the_map },
		{ "busy", reports_that_are_busy },
		{ "left-on", logging_that_was_left_on },
		{ "unmap", unmapping },
		{ "unmap-load", unmap_under_load },
		{ "later", later_mappings },
		{ "later-over-old", later_over_old_ranges },
		{ "later-by-itself", rearmed_by_itself },
		{ "later-refused", rearm_that_is_refused },
		{ "window", mappings_in_a_window },
		{ "rearm-bridge", rearm_under_load_with_a_bridge },
		{ "rearm-no-bridge", rearm_under_load_without_a_bridge },
		{ "rearm-moments", rearm_moment_by_moment },
		{ "save", while_it_is_saved },
		{ "midway", a_report_fails_midway },
		{ "replaced", a_log_is_replaced },
		{ "reset", a_reset },
		{ "not-taken", what_is_not_taken },
		{ "plug", writers_come_and_go },
		{ "migration", a_whole_migration },
	};
	static const char *const ops[] = { "log_start", "log_report", "log_stop" };
	static const struct limit limits[] = {
		{ 255, 0, 255, 0 }, { 256, 0, 256, 0 }, { 257, 0, 256, 0 }, { 1000, 0, 256, 0 },
		/* A quarter of them, until that is accepted. */
		{ 256, 100, 64, 0 }, { 1000, 255, 64, 0 }, { 300, 1, 1, 0 }, { 40, 3, 2, 0 },
	};

	if (lab_boot() != 1)
		return 77;
	for (enum lab_how by = LAB_GROUP; by <= LAB_CDEV; by++) {
		for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
			lab_run_arg(cases[i].test, &by, "kmod-dirty-%s-%s", lab_how_name(by), cases[i].name);
		for (size_t i = 0; i < sizeof(limits) / sizeof(*limits); i++) {
			struct limit limit = limits[i];

			limit.how = by;
			if (by == LAB_CDEV && i != 2)
				continue;
			lab_run_arg(range_limits, &limit, "kmod-dirty-%s-%u-mappings-%u-ranges", lab_how_name(by), limit.mappings,
				    limit.ranges);
		}
		for (size_t i = 0; i < 3; i++)
			for (unsigned times = 0; times < 2; times++) {
				struct fault fault = { ops[i], i == 0 && times ? EINVAL : EIO, times, by };

				lab_run_arg(faults, &fault, "kmod-dirty-%s-fail-%s-%s", lab_how_name(by), ops[i],
					    times ? "once" : "for-ever");
			}
		for (unsigned num = 2; num <= 8; num += 6) {
			struct devices devices = { num, by };

			lab_run_arg(several_devices, &devices, "kmod-dirty-%s-%u-devices", lab_how_name(by), num);
		}
	}
	for (unsigned i = 0; i < 4; i++) {
		struct tracked tracked = { i & 1, i >> 1 };

		lab_run_arg(without_reports, &tracked, "kmod-dirty-stock-%s%s", tracked.container ? "container" : "alone",
			    tracked.required ? "-required" : "");
	}
	return lab_status();
}
