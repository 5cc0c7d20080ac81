/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * dirty-sync-lab: reading the dirty pages of all memory from a device's log, in a machine of the
 * lab, per GiB that is mapped. The baseline is the least that must be done: a bitmap for each
 * mapping that is zeroed and reported into, by one ioctl each.
 *
 * Both sides read the same number of pages, written again before each reading, and must find all of
 * them. Under emulation a loop over words costs far more than memset() does: if nothing is dirty,
 * the library's look at each word is all there is.
 */
#include "kmod.h"

#include "bench.h"

#define PAGE 4096ull
#define MIB (1ull << 20)
#define GIB (1ull << 30)
/* The machine's clock is coarse, and its time is uneven. */
#define RUNS 9

struct variant {
	const char *name;
	uint64_t gib;
	unsigned mappings;
	uint64_t stride; /* a dirty page each; 0: none */
};

static struct lab_device device;
static struct vfiomig_device *handle;
static uint64_t *bitmap;

static uint64_t mark(const struct variant *variant, unsigned round)
{
	uint64_t length = variant->gib * GIB, first = round * PAGE;

	if (!variant->stride)
		return 0;
	/* Not the same ones each time. */
	if (first >= variant->stride)
		first %= variant->stride;
	kmod_set(&device, "log_mark", "%llu %llu %llu", (unsigned long long)first, (unsigned long long)(length - first),
		 (unsigned long long)variant->stride);
	return (length - first + variant->stride - 1) / variant->stride;
}

static void report(uint64_t iova, uint64_t length, uint64_t *into)
{
	struct {
		uint32_t argsz, flags;
		uint64_t iova, length, page_size, bitmap;
	} arg = { sizeof(arg), LAB_FEATURE_GET | 8, iova, length, PAGE, (uintptr_t)into };

	CHECK(!ioctl(device.fd, LAB_DEVICE_FEATURE, &arg), "REPORT: %s", strerror(errno));
}

static void expect(const struct variant *variant, uint64_t want)
{
	uint64_t found = 0;

	for (uint64_t i = 0; i < variant->gib * GIB / PAGE / 64; i++)
		found += (uint64_t)__builtin_popcountll(bitmap[i]);
	EXPECT(found, want);
	memset(bitmap, 0, variant->gib * GIB / PAGE / 8);
}

static uint64_t calls(struct vfiomig_dirty *dirty)
{
	struct vfiomig_dirty_writer_stats stats = VFIOMIG_DIRTY_WRITER_STATS_INIT;

	OK(vfiomig_dirty_get_writer_stats(dirty, 0, &stats));
	EXPECT(stats.tracker, VFIOMIG_TRACKER_DEVICE_LOG);
	return stats.calls;
}

static void measure(void)
{
	const struct variant *variant = lab_arg();
	const uint64_t size = variant->gib * GIB / variant->mappings, words = variant->gib * GIB / PAGE / 64;
	struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
	struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
	struct vfiomig_dirty *dirty;
	double ours[RUNS], baseline[RUNS], our_calls = 0, bare_calls = variant->mappings;
	uint32_t number;
	char name[80];

	handle = kmod_new(&device, 7, MIB, 1, LAB_GROUP);
	bitmap = calloc(words, 8);
	CHECK(bitmap, "out of memory");
	OK(vfiomig_dirty_new(&ops, NULL, NULL, &dirty));
	for (unsigned i = 0; i < variant->mappings; i++) {
		struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;

		mapping.iova = mapping.offset = i * size;
		mapping.size = size;
		mapping.cookie = i;
		OK(vfiomig_dirty_map(dirty, &mapping));
	}
	writer.flags = VFIOMIG_WRITER_DEVICE_LOG;
	writer.device = handle;
	OK(vfiomig_dirty_add_writer(dirty, &writer, &number));
	OK(vfiomig_dirty_start(dirty));
	memset(bitmap, 1, words * 8);
	memset(bitmap, 0, words * 8);
	for (int i = -1; i < RUNS; i++) {
		/* Once for nothing. Alternately, because the second one finds warmer caches. */
		for (int which = 0; which < 2; which++) {
			uint64_t want = mark(variant, (unsigned)(i + 1) * 2 + (unsigned)which), before = calls(dirty);
			double began = bench_now(), took;

			if ((which ^ i) & 1) {
				OK(vfiomig_dirty_sync(dirty, 0, variant->gib * GIB, PAGE, bitmap, words));
				took = bench_now() - began;
				if (i >= 0)
					ours[i] = took * 1e6 / (double)variant->gib;
				our_calls = (double)(calls(dirty) - before);
			} else {
				for (unsigned j = 0; j < variant->mappings; j++) {
					uint64_t *at = bitmap + j * size / PAGE / 64;

					memset(at, 0, size / PAGE / 8);
					report(j * size, size, at);
				}
				took = bench_now() - began;
				if (i >= 0)
					baseline[i] = took * 1e6 / (double)variant->gib;
			}
			expect(variant, want);
		}
	}
	OK(vfiomig_dirty_stop(dirty));
	vfiomig_dirty_free(dirty);
	printf("| ");
	snprintf(name, sizeof(name), "dirty-sync-lab/%s", variant->name);
	bench_report(name, "us/GiB", ours, baseline, RUNS);
	printf("| ");
	snprintf(name, sizeof(name), "dirty-sync-lab-ioctls/%s", variant->name);
	bench_report(name, "", &our_calls, &bare_calls, 1);
	kmod_end(&device, handle);
}

int main(void)
{
	static const struct variant variants[] = {
		{ "1GiB-clean", 1, 1, 0 },
		{ "1GiB-0.1%", 1, 1, 1024 * PAGE },
		{ "1GiB-1%", 1, 1, 100 * PAGE },
		{ "1GiB-50%", 1, 1, 2 * PAGE },
		{ "16GiB-clean", 16, 1, 0 },
		{ "16GiB-0.1%", 16, 1, 1024 * PAGE },
		{ "16GiB-1%", 16, 1, 100 * PAGE },
		{ "16GiB-50%", 16, 1, 2 * PAGE },
		{ "16GiB-in-64-1%", 16, 64, 100 * PAGE },
	};

	for (size_t i = 0; i < sizeof(variants) / sizeof(*variants); i++)
		lab_run_arg(measure, &variants[i], "bench-dirty-sync-%s", variants[i].name);
	return lab_status();
}
