/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * DMA logging of the test device, by the kernel's own interface: exactly the pages that were
 * written to are reported, once. The tests of dirty tracking build on this.
 */
#include "kmod.h"

#define FEATURE_START 6u
#define FEATURE_STOP 7u
#define FEATURE_REPORT 8u
#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define TIB (1ull << 40)

struct range {
	uint64_t iova, length;
};

static int feature(const struct lab_device *device, uint32_t flags, void *payload, size_t len)
{
	struct { uint32_t argsz, flags; unsigned char data[32]; } arg = { .argsz = (uint32_t)(8 + len), .flags = flags };
	int ret;

	memcpy(arg.data, payload, len);
	ret = ioctl(device->fd, LAB_DEVICE_FEATURE, &arg) ? -errno : 0;
	memcpy(payload, arg.data, len);
	return ret;
}

static int start(const struct lab_device *device, uint64_t *page_size, const struct range *ranges, uint32_t num)
{
	struct { uint64_t page_size; uint32_t num, reserved; uint64_t ranges; } control = {
		*page_size, num, 0, (uintptr_t)ranges,
	};
	int ret = feature(device, LAB_FEATURE_SET | FEATURE_START, &control, sizeof(control));

	*page_size = control.page_size;
	return ret;
}

static int stop(const struct lab_device *device)
{
	return feature(device, LAB_FEATURE_SET | FEATURE_STOP, NULL, 0);
}

static int report(const struct lab_device *device, uint64_t iova, uint64_t length, uint64_t page_size, void *bitmap)
{
	struct { uint64_t iova, length, page_size, bitmap; } arg = { iova, length, page_size, (uintptr_t)bitmap };

	return feature(device, LAB_FEATURE_GET | FEATURE_REPORT, &arg, sizeof(arg));
}

static int bit(const uint64_t *bitmap, uint64_t i)
{
	return (int)(bitmap[i / 64] >> i % 64 & 1);
}

static uint64_t *new_bitmap(uint64_t bits)
{
	uint64_t *bitmap = calloc((bits + 63) / 64, 8);

	CHECK(bitmap, "out of memory");
	return bitmap;
}

static void new_device(struct lab_device *device)
{
	kmod_create(device, 7);
	lab_open(device, LAB_GROUP);
}

/* Skips where the kernel cannot report at all. */
static void need_report(const struct lab_device *device)
{
	struct range range = { 0, MIB };
	uint64_t page_size = 4096, bitmap[4] = { 0 };
	int ret;

	OK(start(device, &page_size, &range, 1));
	ret = report(device, 0, MIB, 4096, bitmap);
	if (ret == -EOPNOTSUPP && lab_kernel_is("debian-6.12"))
		lab_skip("this kernel is built without iommufd, and so without reports of logged pages");
	EXPECT(ret, 0);
	OK(stop(device));
}

static uint64_t random_state = 88172645463325252ull;

static uint64_t random_below(uint64_t limit)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state % limit;
}

/* --- cases -------------------------------------------------------------------------------------- */

static void it_is_there(void)
{
	struct lab_device device;

	new_device(&device);
	EXPECT(feature(&device, LAB_FEATURE_PROBE | LAB_FEATURE_SET | FEATURE_START, NULL, 0), 0);
	EXPECT(feature(&device, LAB_FEATURE_PROBE | LAB_FEATURE_SET | FEATURE_STOP, NULL, 0), 0);
	EXPECT(feature(&device, LAB_FEATURE_PROBE | LAB_FEATURE_GET | FEATURE_REPORT, NULL, 0), 0);
	lab_remove(&device);
}

static void what_it_refuses(void)
{
	struct range range = { 0, MIB }, many[257], two[2] = { { 0, MIB }, { MIB - 4096, MIB } };
	uint64_t page_size = 4096, bitmap[4] = { 0 };
	struct lab_device device;

	new_device(&device);
	need_report(&device);
	EXPECT(report(&device, 0, MIB, 4096, bitmap), -EINVAL); /* not started */
	OK(stop(&device));                                       /* nor is this an error */
	EXPECT(start(&device, &page_size, &range, 0), -EINVAL);
	EXPECT(start(&device, &page_size, two, 2), -EINVAL);
	page_size = 0;
	EXPECT(start(&device, &page_size, &range, 1), -EINVAL);
	for (unsigned i = 0; i < 257; i++)
		many[i] = (struct range){ i * MIB, 64 * KIB };
	page_size = 4096;
	EXPECT(start(&device, &page_size, many, 257), -E2BIG);
	OK(start(&device, &page_size, many, 256));
	EXPECT(kmod_count(&device, "log", "ranges"), 256);
	EXPECT(start(&device, &page_size, many, 1), -EINVAL); /* twice */
	EXPECT(kmod_count(&device, "log", "ranges"), 256);
	EXPECT(report(&device, 0, MIB, 2048, bitmap), -EINVAL);
	OK(stop(&device));
	EXPECT(kmod_count(&device, "log", "active"), 0);
	/* A device that closes stops logging. */
	OK(start(&device, &page_size, &range, 1));
	lab_close(&device);
	EXPECT(kmod_count(&device, "log", "active"), 0);
	/* Nonsense in its knobs. */
	EXPECT(kmod_try_set(&device, "log_mark", "1"), -EINVAL);
	EXPECT(kmod_try_set(&device, "log_mark", "0 0"), -EINVAL);
	EXPECT(kmod_try_set(&device, "log_mark", "0xfffffffffffff000 0x2000"), -EINVAL);
	EXPECT(kmod_try_set(&device, "log_mark", "0 0x10000000000 0x1000"), -EINVAL);
	EXPECT(kmod_try_set(&device, "log_page_size", "6144"), -EINVAL);
	EXPECT(kmod_try_set(&device, "dma_write", "0 4096"), -ENODEV);
	lab_remove(&device);
}

/* Ranges that were not asked for are not logged, and what was reported is not reported again. */
static void only_ranges_and_only_once(void)
{
	static const struct range ranges[] = { { 64 * KIB, 64 * KIB }, { 256 * KIB, 4096 } };
	uint64_t page_size = 4096, *bitmap = new_bitmap(128);
	struct lab_device device;

	new_device(&device);
	need_report(&device);
	kmod_set(&device, "log_mark", "0x11000 1"); /* before: not logged */
	OK(start(&device, &page_size, ranges, 2));
	EXPECT(page_size, 4096);
	/* One byte; two pages; across both edges of the first range; all around the second. */
	kmod_set(&device, "log_mark", "0x10fff 1\n0x12fff 2\n0xffff 2\n0x1f000 0x5000\n0x30000 0x20000\n");
	for (unsigned round = 0; round < 2; round++) {
		memset(bitmap, 0, 16);
		OK(report(&device, 0, 512 * KIB, 4096, bitmap));
		for (unsigned page = 0; page < 128; page++) {
			int want = page == 0x10 || page == 0x12 || page == 0x13 || page == 0x1f || page == 0x40;

			CHECK(bit(bitmap, page) == (round == 0 && want), "round %u: page %#x is %s", round, page,
			      bit(bitmap, page) ? "dirty" : "clean");
		}
	}
	EXPECT(kmod_count(&device, "log", "pages"), 0);
	OK(stop(&device));
	lab_remove(&device);
	free(bitmap);
}

/* A device that logs in larger pages than it was asked to, and reports in all sizes. */
static void page_sizes(void)
{
	struct range range;
	struct lab_device device;

	new_device(&device);
	need_report(&device);
	for (uint64_t device_size = 4096; device_size <= 2 * MIB; device_size *= 8) {
		for (uint64_t asked = 4096; asked <= 64 * KIB; asked *= 4) {
			uint64_t page_size = asked, used = asked > device_size ? asked : device_size;

			/* It begins and ends within a page of the device. */
			range = (struct range){ GIB + asked, 16 * MIB + asked };
			kmod_set(&device, "log_page_size", "%llu", (unsigned long long)device_size);
			OK(start(&device, &page_size, &range, 1));
			EXPECT(page_size, used);
			for (uint64_t step = 4096; step <= 64 * KIB; step *= 2) {
				uint64_t at = range.iova + random_below(range.length), bits = 17 * MIB / step;
				uint64_t *bitmap = new_bitmap(bits);
				uint64_t from, to;

				/* Both ends for certain, and anything else. */
				if (step == 4096)
					at = range.iova;
				else if (step == 8192)
					at = range.iova + range.length - 1;
				from = at & ~(used - 1);
				to = from + used;

				if (from < range.iova)
					from = range.iova;
				if (to > range.iova + range.length)
					to = range.iova + range.length;
				kmod_set(&device, "log_mark", "%llu 1", (unsigned long long)at);
				/* Next to the range, in the same page of the device. */
				kmod_set(&device, "log_mark", "%llu 1\n%llu 1", (unsigned long long)range.iova - 1,
					 (unsigned long long)(range.iova + range.length));
				OK(report(&device, GIB, 17 * MIB, step, bitmap));
				for (uint64_t i = 0; i < bits; i++) {
					uint64_t first = GIB + i * step;

					CHECK(bit(bitmap, i) == (first < to && first + step > from),
					      "device page %llu, asked %llu, report %llu: bit %llu is %d",
					      (unsigned long long)device_size, (unsigned long long)asked,
					      (unsigned long long)step, (unsigned long long)i, bit(bitmap, i));
				}
				free(bitmap);
			}
			OK(stop(&device));
		}
	}
	lab_remove(&device);
}

/* Far apart, and many. */
static void wide_spans(void)
{
	static const struct range ranges[] = { { 0, GIB }, { 4 * GIB, GIB }, { TIB - GIB, GIB },
					       { 1ull << 52, GIB } };
	uint64_t page_size = 4096, *bitmap = new_bitmap(GIB / 4096);
	struct range whole = { 0, TIB };
	struct lab_device device;
	uint64_t found = 0;

	new_device(&device);
	need_report(&device);
	OK(start(&device, &page_size, ranges, 4));
	/* A page every 12 MiB, of the whole span: what is not in a range is not kept. */
	kmod_set(&device, "log_mark", "0 0x10000000000 0xc00000\n0x10000000000000 0x40000000 0x10000\n");
	for (unsigned r = 0; r < 4; r++) {
		memset(bitmap, 0, GIB / 4096 / 8);
		OK(report(&device, ranges[r].iova, GIB, 4096, bitmap));
		for (uint64_t i = 0; i < GIB / 4096; i++) {
			uint64_t iova = ranges[r].iova + i * 4096;
			int want = r == 3 ? i % 16 == 0 : iova % 0xc00000 == 0;

			CHECK(bit(bitmap, i) == want, "page %#llx is %s", (unsigned long long)iova,
			      want ? "clean" : "dirty");
		}
	}
	EXPECT(kmod_count(&device, "log", "pages"), 0);
	OK(stop(&device));
	free(bitmap);
	/* One range of a TiB, reported in pages of 2 MiB. */
	bitmap = new_bitmap(TIB / (2 * MIB));
	OK(start(&device, &page_size, &whole, 1));
	kmod_set(&device, "log_mark", "0x1000 0x10000000000 0x40000000");
	OK(report(&device, 0, TIB, 2 * MIB, bitmap));
	for (uint64_t i = 0; i < TIB / (2 * MIB); i++)
		found += (uint64_t)bit(bitmap, i);
	EXPECT(found, 1024);
	OK(stop(&device));
	lab_remove(&device);
	free(bitmap);
}

/* Random ranges, writes and reports against a model with a byte for each page. */
static void at_random(void)
{
	enum { PAGES = 4096 };
	static unsigned char logged[PAGES], dirty[PAGES];
	struct lab_device device;
	unsigned reported = 0;

	new_device(&device);
	need_report(&device);
	for (unsigned run = 0; run < 60; run++) {
		struct range ranges[32];
		uint64_t page_size = 4096, at = random_below(64), base = random_below(2) ? 0 : 3 * TIB;
		uint32_t num = 0;

		memset(logged, 0, sizeof(logged));
		memset(dirty, 0, sizeof(dirty));
		while (num < 32 && at < PAGES) {
			uint64_t len = 1 + random_below(200);

			len = at + len > PAGES ? PAGES - at : len;
			ranges[num++] = (struct range){ base + at * 4096, len * 4096 };
			memset(logged + at, 1, len);
			at += len + random_below(3) * random_below(50);
		}
		OK(start(&device, &page_size, ranges, num));
		for (unsigned step = 0; step < 30; step++) {
			uint64_t first = random_below(PAGES), len = 1 + random_below(random_below(4) ? 5 : 700);

			len = first + len > PAGES ? PAGES - first : len;
			if (random_below(3)) {
				uint64_t low = random_below(4096), high = random_below(4096);
				uint64_t bytes = (len - 1) * 4096 + high + 1;

				/* From within the first page to within the last one. */
				low = bytes > low ? low : 0;
				kmod_set(&device, "log_mark", "%llu %llu",
					 (unsigned long long)(base + first * 4096 + low),
					 (unsigned long long)(bytes - low));
				for (uint64_t i = first; i < first + len; i++)
					dirty[i] |= logged[i];
			} else {
				uint64_t size = 1ull << random_below(4), bits = (len + size - 1) / size;
				uint64_t *bitmap = new_bitmap(bits);

				/* Whole bits only: otherwise the rest of the last one would be reported beyond
				 * the range. */
				len = len / size * size;
				if (len) {
					OK(report(&device, base + first * 4096, len * 4096, size * 4096, bitmap));
					for (uint64_t i = 0; i < len / size; i++) {
						int want = 0;

						for (uint64_t j = 0; j < size; j++)
							want |= dirty[first + i * size + j];
						CHECK(bit(bitmap, i) == want, "run %u step %u: bit %llu of %llu is %d", run,
						      step, (unsigned long long)i, (unsigned long long)len / size,
						      bit(bitmap, i));
						reported += (unsigned)want;
					}
					memset(dirty + first, 0, len);
				}
				free(bitmap);
			}
		}
		OK(stop(&device));
	}
	CHECK(reported > 500, "only %u pages were ever dirty", reported);
	lab_remove(&device);
}

static void faults(void)
{
	struct range range = { 0, MIB };
	uint64_t page_size = 4096, bitmap[4] = { 0 };
	struct lab_device device;

	new_device(&device);
	need_report(&device);
	kmod_set(&device, "fail_log_start", "1 %d", ENOMEM);
	EXPECT(start(&device, &page_size, &range, 1), -ENOMEM);
	OK(start(&device, &page_size, &range, 1));
	kmod_set(&device, "log_mark", "0 1");
	kmod_set(&device, "fail_log_report", "1 %d", EIO);
	EXPECT(report(&device, 0, MIB, 4096, bitmap), -EIO);
	EXPECT(bitmap[0], 0);
	OK(report(&device, 0, MIB, 4096, bitmap));
	EXPECT(bitmap[0], 1);
	kmod_set(&device, "fail_log_stop", "1 %d", EIO);
	EXPECT(stop(&device), -EIO);
	EXPECT(kmod_count(&device, "log", "active"), 1);
	OK(stop(&device));
	lab_remove(&device);
}

/* --- what a device may refuse ------------------------------------------------------------------- */

static int try_start(const struct lab_device *device, const struct range *ranges, uint32_t num)
{
	uint64_t page_size = 4096;
	int ret = start(device, &page_size, ranges, num);

	EXPECT(kmod_count(device, "log", "active"), ret == 0);
	EXPECT(kmod_count(device, "log", "ranges"), ret == 0 ? num : 0);
	if (!ret)
		OK(stop(device));
	return ret;
}

static void counts_and_sizes_that_are_refused(void)
{
	struct range ranges[8];
	struct lab_device device;
	uint64_t page_size = 4096;

	new_device(&device);
	for (unsigned i = 0; i < 8; i++)
		ranges[i] = (struct range){ i * GIB, (i + 1) * MIB };
	kmod_set(&device, "log_limit_ranges", "7");
	EXPECT(try_start(&device, ranges, 8), -E2BIG);
	EXPECT(try_start(&device, ranges, 7), 0);
	/* It is not made to fit, even by a device that could merge. */
	kmod_set(&device, "log_max_ranges", "2");
	EXPECT(try_start(&device, ranges, 8), -E2BIG);
	kmod_set(&device, "log_limit_ranges", "8");
	OK(start(&device, &page_size, ranges, 8));
	EXPECT(kmod_count(&device, "log", "ranges"), 2);
	OK(stop(&device));
	kmod_set(&device, "log_max_ranges", "0");
	kmod_set(&device, "log_limit_ranges", "0");
	/* 1 + 2 + ... + 8. */
	kmod_set(&device, "log_limit_bytes", "%llu", 36 * MIB - 1);
	EXPECT(try_start(&device, ranges, 8), -ENOMEM);
	EXPECT(try_start(&device, ranges, 7), 0);
	kmod_set(&device, "log_limit_bytes", "%llu", 36 * MIB);
	EXPECT(try_start(&device, ranges, 8), 0);
	EXPECT(kmod_count(&device, "counters", "faults"), 3);
	lab_remove(&device);
}

static void ranges_that_are_refused(void)
{
	static const struct { struct range range; int refused; } tries[] = {
		{ { 0, MIB }, 0 },                   { { MIB + 64 * KIB, MIB }, 0 },   { { 0, MIB + 4096 }, 1 },
		{ { MIB + 60 * KIB, MIB }, 1 },      { { MIB + 8 * KIB, 4096 }, 1 },   { { 0, GIB }, 1 },
		{ { MIB, 64 * KIB }, 1 },            { { MIB - 4096, 4096 }, 0 },
	};
	static const char *const bad[] = { "1", "0 0", "0xfffffffffffff000 0x2000", "0 4096 0", "0 4096 200", "x" };
	struct range two[2] = { { 16 * MIB, MIB }, { MIB, MIB } };
	struct lab_device device;

	new_device(&device);
	for (unsigned round = 0; round < 2; round++) {
		int error = round ? EOPNOTSUPP : EINVAL;

		if (round)
			kmod_set(&device, "log_refuse", "0x100000 0x10000 %d", error);
		else
			kmod_set(&device, "log_refuse", "0x100000 0x10000");
		for (size_t i = 0; i < sizeof(tries) / sizeof(*tries); i++)
			EXPECT(try_start(&device, &tries[i].range, 1), tries[i].refused ? -error : 0);
		EXPECT(try_start(&device, two, 2), -error);
		EXPECT(try_start(&device, two, 1), 0);
	}
	CHECK(!strcmp(kmod_get(&device, "log_refuse"), "0x100000 0x10000 95\n"), "it reads %s",
	      kmod_get(&device, "log_refuse"));
	/* The count first, then the place, then the size. */
	kmod_set(&device, "log_limit_ranges", "1");
	kmod_set(&device, "log_limit_bytes", "4096");
	EXPECT(try_start(&device, two, 2), -E2BIG);
	EXPECT(try_start(&device, two + 1, 1), -EOPNOTSUPP);
	EXPECT(try_start(&device, two, 1), -ENOMEM);
	kmod_set(&device, "log_refuse", "0");
	EXPECT(try_start(&device, two + 1, 1), -ENOMEM);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		EXPECT(kmod_try_set(&device, "log_refuse", bad[i]), -EINVAL);
		EXPECT(kmod_try_set(&device, "fail_log_report_at", bad[i]), -EINVAL);
	}
	lab_remove(&device);
}

static void reports_that_fail_midway(void)
{
	struct range range = { 0, 2 * MIB };
	uint64_t page_size = 4096, *bitmap = new_bitmap(512);
	struct lab_device device;

	new_device(&device);
	need_report(&device);
	OK(start(&device, &page_size, &range, 1));
	kmod_set(&device, "log_mark", "0 0x200000 0x40000"); /* pages 0, 64, ..., 448 */
	kmod_set(&device, "fail_log_report_at", "0x80000 0x40000 %d", ENXIO); /* pages 128 to 191 */
	EXPECT(report(&device, 0, 2 * MIB, 4096, bitmap), -ENXIO);
	/* Reported and forgotten: what came before. */
	for (unsigned i = 0; i < 512; i++)
		EXPECT(bit(bitmap, i), i == 0 || i == 64);
	EXPECT(kmod_count(&device, "log", "pages"), 6);
	memset(bitmap, 0, 64);
	EXPECT(report(&device, 768 * KIB - 4096, 4096, 4096, bitmap), -ENXIO);
	EXPECT(report(&device, 512 * KIB, 4096, 4096, bitmap), -ENXIO);
	EXPECT(bitmap[0], 0);
	EXPECT(kmod_count(&device, "log", "pages"), 6);
	/* Next to it there is no fault. */
	OK(report(&device, 768 * KIB, 256 * KIB, 4096, bitmap));
	EXPECT(bitmap[0], 1);
	OK(report(&device, 0, 512 * KIB, 4096, bitmap + 2));
	EXPECT(bitmap[2] | bitmap[3], 0);
	kmod_set(&device, "fail_log_report_at", "0");
	memset(bitmap, 0, 64);
	OK(report(&device, 0, 2 * MIB, 4096, bitmap));
	for (unsigned i = 0; i < 512; i++)
		EXPECT(bit(bitmap, i), i % 64 == 0 && i != 0 && i != 64 && i != 192);
	OK(stop(&device));
	lab_remove(&device);
	free(bitmap);
}

/* The reports do not show it; only the counters know. */
static void a_device_that_lies(void)
{
	struct range range = { 0, MIB };
	uint64_t page_size = 4096, bitmap[4] = { 0 };
	struct lab_device device;

	new_device(&device);
	need_report(&device);
	OK(start(&device, &page_size, &range, 1));
	kmod_set(&device, "log_mark", "0 0x3000");
	kmod_set(&device, "log_lie", "1");
	OK(report(&device, 0, MIB, 4096, bitmap));
	EXPECT(bitmap[0], 0);
	EXPECT(kmod_count(&device, "counters", "log_reported"), 3);
	kmod_set(&device, "log_lie", "0");
	OK(report(&device, 0, MIB, 4096, bitmap));
	EXPECT(bitmap[0], 0);
	kmod_set(&device, "log_mark", "0 0x1000");
	OK(report(&device, 0, MIB, 4096, bitmap));
	EXPECT(bitmap[0], 1);
	OK(stop(&device));
	lab_remove(&device);
}

/* --- the load ----------------------------------------------------------------------------------- */

/* The generator of lab/kmod/README.md, written a second time. */
static uint64_t nth_page(uint64_t seed, uint64_t n, uint64_t pages)
{
	uint64_t x = seed + n * 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return (x ^ x >> 31) % pages;
}

static uint64_t weight(const uint64_t *bitmap, uint64_t bits)
{
	uint64_t found = 0;

	for (uint64_t i = 0; i < (bits + 63) / 64; i++)
		found += (uint64_t)__builtin_popcountll(bitmap[i]);
	return found;
}

static void what_the_load_refuses(void)
{
	static const char *const bad[] = {
		"", "1", "0 4096", "0 4096 1", "0 0 1 1", "1 4096 1 1", "0 4097 1 1", "0 0x400001000 1 1",
		"0xfffffffffffff000 0x2000 1 1", "0 4096 16777217 1", "x",
	};
	uint64_t nothing[1];
	struct lab_device device;

	kmod_create(&device, 7);
	EXPECT(kmod_try_set(&device, "log_load", "0 4096 1 1"), -ENODEV);
	OK(kmod_try_set(&device, "log_load", "0"));
	OK(kmod_try_set(&device, "log_truth", "0"));
	kmod_read_truth(&device, nothing, 0);
	lab_open(&device, LAB_GROUP);
	for (size_t i = 1; i < sizeof(bad) / sizeof(*bad); i++)
		EXPECT(kmod_try_set(&device, "log_load", bad[i]), -EINVAL);
	EXPECT(kmod_try_set(&device, "log_truth", "1"), -EINVAL);
	EXPECT(kmod_try_set(&device, "log_lie", "2"), -EINVAL);
	CHECK(!strcmp(kmod_get(&device, "log_load"), "0\n"), "it reads %s", kmod_get(&device, "log_load"));
	kmod_set(&device, "log_load", "0x400000000 0x400000000 16777216 77");
	CHECK(!strcmp(kmod_get(&device, "log_load"), "0x400000000 0x400000000 16777216 77\n"), "it reads %s",
	      kmod_get(&device, "log_load"));
	/* Removed with the load still running. */
	lab_remove(&device);
}

/* Without a load: what log_mark says is in the truth, wherever it is logged. */
static void the_truth_of_marks(void)
{
	enum { PAGES = 1003 };
	uint64_t *truth = new_bitmap(PAGES), page_size = 4096;
	struct range range = { GIB, MIB };
	struct lab_device device;

	new_device(&device);
	kmod_set(&device, "log_page_size", "65536");
	kmod_set(&device, "log_load", "0x40000000 %u 0 0", PAGES * 4096);
	kmod_read_truth(&device, truth, PAGES);
	EXPECT(weight(truth, PAGES), 0);
	kmod_set(&device, "log_mark", "0x40001fff 2"); /* pages 1 and 2, not logged */
	OK(start(&device, &page_size, &range, 1));
	kmod_set(&device, "log_mark", "0x40004000 1\n0x40200000 0x10000 0x4000\n");
	OK(stop(&device));
	/* Around both ends, and beyond all of it. */
	kmod_set(&device, "log_mark", "0x3ffff000 0x2000\n%llu 0x2000\n0x3fff0000 0x10000\n%llu 0x100000",
		 GIB + (PAGES - 1) * 4096ull, GIB + PAGES * 4096ull);
	kmod_read_truth(&device, truth, PAGES);
	for (unsigned i = 0; i < PAGES; i++) {
		/* 4 KiB each, although it logs in 64 KiB. */
		int want = i <= 2 || i == 4 || i == PAGES - 1 || (i >= 512 && i < 528 && i % 4 == 0);

		CHECK(bit(truth, i) == want, "page %u is %s", i, want ? "missing" : "there");
	}
	EXPECT(kmod_count(&device, "log", "truth_pages"), weight(truth, PAGES));
	kmod_set(&device, "log_mark", "0 0x10000000000");
	EXPECT(kmod_count(&device, "log", "truth_pages"), PAGES);
	kmod_set(&device, "log_truth", "0\n");
	EXPECT(kmod_count(&device, "log", "truth_pages"), 0);
	kmod_set(&device, "log_mark", "0x40005000 1");
	kmod_set(&device, "log_load", "0");
	lab_close(&device);
	kmod_read_truth(&device, truth, PAGES);
	EXPECT(weight(truth, PAGES), 1);
	EXPECT(bit(truth, 5), 1);
	EXPECT(kmod_load_writes(&device), 0);
	/* Another load has a truth of its own. */
	lab_open(&device, LAB_GROUP);
	kmod_set(&device, "log_load", "0x40000000 4096 0 0");
	kmod_read_truth(&device, truth, 1);
	EXPECT(truth[0] & 0xff, 0);
	lab_remove(&device);
	free(truth);
}

/* Every write that was counted is in the truth, and nothing else is. */
static void expect_generated(const struct lab_device *device, uint64_t seed, uint64_t pages)
{
	uint64_t *truth = new_bitmap(pages + 64), *want = new_bitmap(pages + 64), writes = kmod_load_writes(device);

	for (uint64_t n = 0; n < writes; n++) {
		uint64_t page = nth_page(seed, n, pages);

		want[page / 64] |= 1ull << page % 64;
	}
	kmod_read_truth(device, truth, pages);
	for (uint64_t i = 0; i < pages; i++)
		CHECK(bit(truth, i) == bit(want, i), "after %llu writes page %llu is %s", (unsigned long long)writes,
		      (unsigned long long)i, bit(want, i) ? "missing" : "there");
	free(truth);
	free(want);
}

static void the_truth_of_loads(void)
{
	struct lab_device device;
	unsigned long long writes;
	uint64_t began;

	new_device(&device);
	for (unsigned seed = 1; seed <= 3; seed++) {
		kmod_set(&device, "log_load", "0x100000000 %llu 50000 %u", seed * 4096ull * 7919, seed);
		kmod_wait_for_writes(&device, 3000);
		kmod_set(&device, "log_load", "0");
		expect_generated(&device, seed, seed * 7919);
	}
	EXPECT(kmod_count(&device, "counters", "log_marked"), 0);
	CHECK(kmod_count(&device, "counters", "log_outside") >= 9000, "not all were outside");
	/* The largest, slowly: never more than was asked for. */
	began = kmod_now_ms();
	kmod_set(&device, "log_load", "0 0x400000000 500 9");
	kmod_wait_for_writes(&device, 200);
	writes = kmod_load_writes(&device);
	CHECK(writes <= (kmod_now_ms() - began + 1) / 2 + 1, "%llu writes in %llu ms", writes,
	      (unsigned long long)(kmod_now_ms() - began));
	kmod_set(&device, "log_load", "0");
	expect_generated(&device, 9, 4ull << 20);
	lab_remove(&device);
}

/* It writes while the device runs, and not one page afterwards. */
static void the_load_stops_with_the_device(void)
{
	static const uint32_t running[] = { VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_RUNNING_P2P, VFIOMIG_STATE_PRE_COPY_P2P,
					    VFIOMIG_STATE_PRE_COPY };
	static const uint32_t stopped[] = { VFIOMIG_STATE_STOP, VFIOMIG_STATE_STOP_COPY, VFIOMIG_STATE_RESUMING };
	struct lab_device device;
	unsigned long long writes;
	int fd = -1;

	new_device(&device);
	kmod_set(&device, "log_load", "0 0x10000000 1000000 5");
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < 4; i++) {
			OK(lab_raw_set_state(device.fd, running[i], &fd));
			kmod_wait_for_writes(&device, round ? 1 : 2000);
			if (fd >= 0)
				close(fd);
		}
		/* PRE_COPY to STOP_COPY in one step, or by RUNNING to STOP, and so on. */
		for (unsigned i = round % 2; i < 3; i++) {
			OK(lab_raw_set_state(device.fd, stopped[i], &fd));
			writes = kmod_load_writes(&device);
			usleep(round ? 5000 : 100000);
			EXPECT(kmod_load_writes(&device), writes);
			if (fd >= 0)
				close(fd);
		}
		OK(lab_raw_reset(device.fd));
		kmod_wait_for_writes(&device, 1);
	}
	kmod_set(&device, "fail_to_error", "1");
	kmod_set(&device, "fail_set_state", "1 5");
	EXPECT(lab_raw_set_state(device.fd, VFIOMIG_STATE_STOP, &fd), -EIO);
	writes = kmod_load_writes(&device);
	usleep(100000);
	EXPECT(kmod_load_writes(&device), writes);
	OK(lab_raw_reset(device.fd));
	kmod_wait_for_writes(&device, 1);
	/* By hand, and by closing, even if it is opened again. */
	for (unsigned round = 0; round < 20; round++) {
		if (round % 2)
			lab_close(&device);
		else
			kmod_set(&device, "log_load", "0");
		writes = kmod_load_writes(&device);
		CHECK(!strcmp(kmod_get(&device, "log_load"), "0\n"), "it reads %s", kmod_get(&device, "log_load"));
		if (round % 2)
			lab_open(&device, LAB_GROUP);
		usleep(round < 2 ? 100000 : 5000);
		EXPECT(kmod_load_writes(&device), writes);
		expect_generated(&device, 5 + round, 65536);
		kmod_set(&device, "log_load", "0 0x10000000 1000000 %u", 6 + round);
		kmod_wait_for_writes(&device, 500);
	}
	lab_remove(&device);
}

/* Reports under load: in the end everything that was logged has been reported, and nothing else. */
static void reports_under_load(void)
{
	enum { PAGES = 65536 };
	static const struct range ranges[] = { { 4 * GIB + 16 * MIB, 32 * MIB }, { 4 * GIB + 100 * MIB, 60 * MIB } };
	uint64_t page_size = 4096, *all = new_bitmap(PAGES), *truth = new_bitmap(PAGES), logged = 0;
	unsigned reports = 0;
	struct lab_device device;

	new_device(&device);
	need_report(&device);
	OK(start(&device, &page_size, ranges, 2));
	kmod_set(&device, "log_load", "0x100000000 %u 100000 42", PAGES * 4096);
	while (kmod_load_writes(&device) < 40000 || reports < 50) {
		uint64_t *some = new_bitmap(PAGES), first = random_below(PAGES / 64) * 64;
		uint64_t len = 64 + random_below(PAGES - first - 63);

		OK(report(&device, 4 * GIB + first * 4096, len * 4096, 4096, some));
		/* Never more than has been written. */
		kmod_read_truth(&device, truth, PAGES);
		for (uint64_t i = 0; i < PAGES / 64; i++) {
			if (i + first / 64 < PAGES / 64) {
				CHECK(!(some[i] & ~truth[i + first / 64]), "page %llu was not written",
				      (unsigned long long)(first + i * 64));
				all[i + first / 64] |= some[i];
			}
		}
		free(some);
		CHECK(++reports < 5000, "too few writes");
	}
	kmod_set(&device, "log_load", "0");
	OK(report(&device, 4 * GIB, PAGES * 4096ull, 4096, all));
	kmod_read_truth(&device, truth, PAGES);
	for (uint64_t i = 0; i < PAGES; i++) {
		uint64_t iova = 4 * GIB + i * 4096;
		int in = (iova >= ranges[0].iova && iova < ranges[0].iova + ranges[0].length) ||
			 (iova >= ranges[1].iova && iova < ranges[1].iova + ranges[1].length);

		CHECK(bit(all, i) == (in && bit(truth, i)), "page %llu was %s", (unsigned long long)i,
		      bit(all, i) ? "reported" : "not reported");
		logged += (uint64_t)bit(all, i);
	}
	expect_generated(&device, 42, PAGES);
	CHECK(logged > 1000, "only %llu pages", (unsigned long long)logged);
	CHECK(kmod_count(&device, "counters", "log_outside") > 1000, "too few outside");
	EXPECT(kmod_count(&device, "log", "pages"), 0);
	EXPECT(kmod_count(&device, "log", "lost"), 0);
	OK(stop(&device));
	lab_remove(&device);
	free(all);
	free(truth);
}

/* What the truth is for: logging that is carelessly restarted loses pages, and it shows. */
static void a_careless_rearm_shows(void)
{
	enum { PAGES = 65536 };
	struct range range = { 0, PAGES * 4096ull };
	uint64_t page_size = 4096, *all = new_bitmap(PAGES), *truth = new_bitmap(PAGES), missing = 0;
	struct lab_device device;

	new_device(&device);
	need_report(&device);
	OK(start(&device, &page_size, &range, 1));
	kmod_set(&device, "log_load", "0 %u 100000 3", PAGES * 4096);
	kmod_wait_for_writes(&device, 5000);
	OK(stop(&device));
	kmod_wait_for_writes(&device, 100);
	OK(start(&device, &page_size, &range, 1));
	kmod_wait_for_writes(&device, 100);
	kmod_set(&device, "log_load", "0");
	OK(report(&device, 0, range.length, 4096, all));
	kmod_read_truth(&device, truth, PAGES);
	for (uint64_t i = 0; i < PAGES; i++) {
		CHECK(!bit(all, i) || bit(truth, i), "page %llu was not written", (unsigned long long)i);
		missing += (uint64_t)(bit(truth, i) && !bit(all, i));
	}
	CHECK(missing > 1000, "only %llu pages were lost", (unsigned long long)missing);
	CHECK(weight(all, PAGES) > 50, "nothing was logged afterwards");
	OK(stop(&device));
	lab_remove(&device);
	free(all);
	free(truth);
}

/* A write that the device has no room for must not be forgotten: it stops reporting. */
static void a_lost_write_fails_the_reports(void)
{
	/* The most that it keeps is 4 TiB with one page in each 128 MiB. */
	struct range range = { 0, 5 * TIB };
	uint64_t page_size = 4096, bitmap[4] = { 0 };
	struct lab_device device;

	new_device(&device);
	need_report(&device);
	OK(start(&device, &page_size, &range, 1));
	kmod_set(&device, "log_mark", "0 0x40000000000 0x8000000");
	EXPECT(kmod_count(&device, "log", "pages"), 32768);
	EXPECT(kmod_try_set(&device, "log_mark", "0x40000000000 1"), -ENOSPC);
	/* Whoever marked it was told; the load has nobody to tell. */
	OK(report(&device, 0, MIB, 4096, bitmap));
	EXPECT(bitmap[0], 1);
	kmod_set(&device, "log_load", "0x40000000000 0x100000 1000 1");
	kmod_wait_for_writes(&device, 1);
	kmod_set(&device, "log_load", "0");
	EXPECT(kmod_count(&device, "log", "lost"), ENOSPC);
	EXPECT(report(&device, 0, MIB, 4096, bitmap), -ENOSPC);
	EXPECT(report(&device, TIB, MIB, 4096, bitmap), -ENOSPC);
	CHECK(kmod_count(&device, "log", "truth_pages") > 0, "it is not in the truth either");
	OK(stop(&device));
	OK(start(&device, &page_size, &range, 1));
	EXPECT(kmod_count(&device, "log", "lost"), 0);
	OK(report(&device, TIB, MIB, 4096, bitmap));
	OK(stop(&device));
	lab_remove(&device);
}

int main(void)
{
	if (lab_boot() != 1)
		return 77;
	lab_run("kmod-logging-probe", it_is_there);
	lab_run("kmod-logging-refused", what_it_refuses);
	lab_run("kmod-logging-ranges", only_ranges_and_only_once);
	lab_run("kmod-logging-page-sizes", page_sizes);
	lab_run("kmod-logging-wide", wide_spans);
	lab_run("kmod-logging-random", at_random);
	lab_run("kmod-logging-faults", faults);
	lab_run("kmod-logging-limits", counts_and_sizes_that_are_refused);
	lab_run("kmod-logging-refused-ranges", ranges_that_are_refused);
	lab_run("kmod-logging-midway", reports_that_fail_midway);
	lab_run("kmod-logging-lie", a_device_that_lies);
	lab_run("kmod-logging-load-refused", what_the_load_refuses);
	lab_run("kmod-logging-truth-of-marks", the_truth_of_marks);
	lab_run("kmod-logging-truth-of-loads", the_truth_of_loads);
	lab_run("kmod-logging-load-stops", the_load_stops_with_the_device);
	lab_run("kmod-logging-load-reports", reports_under_load);
	lab_run("kmod-logging-load-rearm", a_careless_rearm_shows);
	lab_run("kmod-logging-load-lost", a_lost_write_fails_the_reports);
	return lab_status();
}
