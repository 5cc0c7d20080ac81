/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * DMA logging of the test device by the kernel's own interface: exactly the pages that were written
 * to are reported, once. What the tests of dirty tracking build on.
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

				/* Both ends for certain, and whatever else comes. */
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
				/* Beside the range, in the same page of the device. */
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

				/* Whole bits only: the rest of the last one would be reported beyond the range. */
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
	return lab_status();
}
