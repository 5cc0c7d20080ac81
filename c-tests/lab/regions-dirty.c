/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Dirty pages of devices of every protocol, through the library: the RFC's own bitmap, the container
 * (type1) for v1, and the log of v2. The same test for all; a device really writes to memory.
 */
#include "dirty.h"
#include "iommu.h"
#include "kinds.h"

#define SIZE (40 * MIB)

static struct guest guest;
static unsigned char *memory;

static const struct kind_test *it(void)
{
	return lab_arg();
}

static int has_own_log(void)
{
	return it()->kind != &kinds[V1];
}

/* A device whose memory is in its container, and tracked as well as its protocol can. */
static struct vfiomig_device *new_tracked(struct lab_device *device, const struct variety *v)
{
	struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
	struct vfiomig_device *handle;
	uint32_t number;

	if (it()->kind == &kinds[V2] && lab_kernel_is("debian-6.12"))
		lab_skip("this kernel is built without iommufd, and so without reports of logged pages");
	handle = kind_new(device, it()->kind, v, 1);
	memory = lab_memory(SIZE);
	OK(lab_dma_map(device->container, GIB, SIZE, memory));
	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, SIZE, 0);
	writer.flags = VFIOMIG_WRITER_DEVICE_LOG | VFIOMIG_WRITER_TYPE1 | VFIOMIG_WRITER_REQUIRED;
	writer.device = handle;
	writer.container_fd = device->container;
	OK(vfiomig_dirty_add_writer(guest.dirty, &writer, &number));
	guest_start(&guest);
	EXPECT(writer_of(&guest, number).tracker, has_own_log() ? VFIOMIG_TRACKER_DEVICE_LOG : VFIOMIG_TRACKER_TYPE1);
	return handle;
}

static void end(struct lab_device *device, struct vfiomig_device *handle)
{
	OK(vfiomig_dirty_stop(guest.dirty));
	EXPECT(kmod_count(device, "log", "active"), 0);
	guest_free(&guest);
	kmod_end(device, handle);
}

/* The device writes to memory. */
static void dma(const struct lab_device *device, uint64_t page, uint64_t pages)
{
	kmod_set(device, "dma_write", "%llu %llu", GIB + (unsigned long long)page * PAGE + 5,
		 (unsigned long long)((pages - 1) * PAGE + 1));
	for (uint64_t i = page; i < page + pages; i++)
		guest_want_write(&guest, GIB + i * PAGE);
	EXPECT(memory[page * PAGE + 5], 0xd5);
}

static void read_on(struct vfiomig_save *save, struct lab_bytes *stream, int until)
{
	EXPECT(lab_pump(save, stream, VFIOMIG_GOOD_BUFFER), until);
}

/* All that a VMM does, from the first pass over memory to the last. */
static void pages_are_exact(void)
{
	struct lab_device device, target;
	struct vfiomig_device *handle = new_tracked(&device, it()->v), *to = kind_new(&target, it()->kind, it()->v, 2);
	struct lab_bytes stream = { 0 };
	struct vfiomig_save *save;

	collect(&guest, 0);
	dma(&device, 0, 3);
	dma(&device, SIZE / PAGE - 1, 1);
	EXPECT(collect(&guest, 0), 4);
	OK(vfiomig_save_begin(handle, NULL, &save));
	for (unsigned round = 0; round < 3; round++) {
		/* More than a region's bitmap has room for lies between them. */
		dma(&device, round, 2);
		dma(&device, 9000 - round, 1);
		kmod_set(&device, "touch", "%u 1", 5000 * round);
		read_on(save, &stream, VFIOMIG_NEXT_DRAINED);
		EXPECT(collect(&guest, 0), 3);
	}
	dma(&device, 77, 1);
	OK(lab_insist(vfiomig_save_stop, save));
	EXPECT(collect(&guest, 0), 1);
	read_on(save, &stream, VFIOMIG_NEXT_END);
	EXPECT(collect(&guest, 0), 0);
	OK(lab_load(to, NULL, stream.data, stream.len, 0, NULL));
	CHECK(kmod_digest(&target) == kmod_digest(&device), "other contents arrived");
	OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
	vfiomig_save_free(save);
	EXPECT(stats_of(&guest).errors, 0);
	lab_free(&stream);
	kmod_end(&target, to);
	end(&device, handle);
}

/* While the device keeps writing, as fast as it can: what it wrote is what is reported. */
static void under_load(void)
{
	uint64_t pages = SIZE / PAGE, *truth, seen = 0;
	struct lab_device device;
	struct vfiomig_device *handle = new_tracked(&device, &plain);
	struct lab_bytes stream = { 0 };
	struct vfiomig_save *save;

	collect(&guest, 0);
	kmod_set(&device, "log_load", "%llu %llu 20000 7", GIB, SIZE);
	OK(vfiomig_save_begin(handle, NULL, &save));
	for (unsigned round = 0; round < 5; round++) {
		kmod_wait_for_writes(&device, 300);
		read_on(save, &stream, VFIOMIG_NEXT_DRAINED);
		CALL(vfiomig_dirty_collect(guest.dirty), 0);
	}
	OK(lab_insist(vfiomig_save_stop, save));
	CALL(vfiomig_dirty_collect(guest.dirty), 0);
	truth = new_bitmap(pages);
	kmod_read_truth(&device, truth, pages);
	for (uint64_t i = 0; i < words_of(pages); i++) {
		guest.areas[0].want[i] = truth[i];
		seen += (uint64_t)__builtin_popcountll(truth[i]);
	}
	CHECK(seen > 1000, "only %llu pages were written to", (unsigned long long)seen);
	EXPECT(guest_compare(&guest), seen);
	free(truth);
	OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
	vfiomig_save_free(save);
	lab_free(&stream);
	end(&device, handle);
}

/* v1's container: what is pinned may be written to at any time. */
static void pinned_pages_are_dirty_each_time(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_tracked(&device, &plain);

	kmod_set(&device, "pin", "%llu %llu", GIB + 4 * PAGE, 2 * PAGE);
	for (unsigned round = 0; round < 3; round++) {
		guest_want(&guest, GIB + 4 * PAGE, GIB + 6 * PAGE - 1);
		dma(&device, 100 + round, 1);
		EXPECT(collect(&guest, 0), 3);
	}
	kmod_set(&device, "unpin", "0");
	/* The last time, because it was pinned until now. */
	guest_want(&guest, GIB + 4 * PAGE, GIB + 6 * PAGE - 1);
	EXPECT(collect(&guest, 0), 2);
	EXPECT(collect(&guest, 0), 0);
	end(&device, handle);
}

/* Something went wrong. What could not be reported may come once more. */
static void expect_everything(void)
{
	guest_want_all(&guest);
	EXPECT(collect(&guest, ERRORS), SIZE / PAGE);
	CALL(vfiomig_dirty_collect(guest.dirty), 0);
	guest_compare_least(&guest);
}

/* The RFC's: after a save that was given up, LOGGING is set again, which forgets pages. */
static void everything_is_dirty_where_something_may_be_lost(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = new_tracked(&device, &plain);
	struct lab_bytes stream = { 0 };
	struct vfiomig_save *save;

	collect(&guest, 0);
	for (unsigned round = 0; round < 2; round++) {
		OK(vfiomig_save_begin(handle, NULL, &save));
		read_on(save, &stream, VFIOMIG_NEXT_DRAINED);
		dma(&device, 3, 1);
		if (round)
			expect_everything();
		else
			EXPECT(collect(&guest, 0), 1);
		dma(&device, 4, 1);
		EXPECT(collect(&guest, 0), 1);
		OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
		vfiomig_save_free(save);
	}
	/* A query that fails, and a reset. */
	for (unsigned round = 0; round < 2; round++) {
		dma(&device, 5, 1);
		kmod_set(&device, "fail_log_report", "1 %d", round ? EINVAL : EBUSY);
		expect_everything();
		dma(&device, 6, 1);
		EXPECT(collect(&guest, 0), 1);
	}
	OK(vfiomig_device_reset(handle));
	expect_everything();
	dma(&device, 6, 1);
	EXPECT(collect(&guest, 0), 1);
	lab_free(&stream);
	end(&device, handle);
}

int main(void)
{
	/* Room for 64 pages, for somewhat more, and for more than there are. */
	static const struct variety varieties[] = {
		{ .name = "small", .size = 300 * KIB, .window = 10000, .bitmap = 8 },
		{ .name = "odd", .size = 300 * KIB, .window = 10000, .bitmap = 133 },
		{ .name = "mapped", .size = 300 * KIB, .window = 64 * KIB, .layout = DATA, .bitmap = 64 * KIB },
		{ .name = "holes", .size = 300 * KIB, .window = 64 * KIB, .layout = TWO, .bitmap = 8 * KIB },
	};

	for (unsigned k = 0; k < NUM_KINDS; k++) {
		struct kind_test test = { &kinds[k], &plain, NULL };

		lab_run_arg(pages_are_exact, &test, "regions-dirty-%s", kinds[k].name);
		for (size_t i = 0; k == RFC && i < sizeof(varieties) / sizeof(varieties[0]); i++) {
			test.v = &varieties[i];
			lab_run_arg(pages_are_exact, &test, "regions-dirty-%s-%s", kinds[k].name, varieties[i].name);
		}
		test.v = &plain;
		if (k != V1)
			lab_run_arg(under_load, &test, "regions-dirty-%s-load", kinds[k].name);
		else
			lab_run_arg(pinned_pages_are_dirty_each_time, &test, "regions-dirty-%s-pinned", kinds[k].name);
		if (k == RFC)
			lab_run_arg(everything_is_dirty_where_something_may_be_lost, &test, "regions-dirty-%s-lost",
				    kinds[k].name);
	}
	return lab_status();
}
