/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The library's dirty tracking when the kernel's IOMMU side does it: page tables of an iommufd (its
 * mock domains), type1 containers with mediated devices and with a real PCI device, and all kinds
 * of trackers together. Where the kernel would say "clean" without meaning anything by it, pages
 * are dirty, and there is a reason.
 */
#include <fcntl.h>
#include <sys/mman.h>

#include "dirty.h"
#include "iommu.h"

static struct guest guest;

static void end(void)
{
	OK(vfiomig_dirty_stop(guest.dirty));
	EXPECT(stats_of(&guest).errors, 0);
	guest_free(&guest);
}

/* --- page tables -------------------------------------------------------------------------------- */

#define BASE (LAB_MOCK_FIRST + 16 * MIB)

static int try_add_hwpt(const struct lab_mock *mock, uint32_t hwpt, uint32_t ioas, uint64_t page_size, uint32_t flags,
			uint32_t *number)
{
	struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;

	writer.flags = VFIOMIG_WRITER_HWPT | flags;
	writer.name = "the mock";
	writer.iommufd = mock->iommufd;
	writer.hwpt_id = hwpt;
	writer.ioas_id = ioas;
	writer.hwpt_page_size = page_size;
	return vfiomig_dirty_add_writer(guest.dirty, &writer, number);
}

static uint32_t add_hwpt(const struct lab_mock *mock)
{
	uint32_t number = 0;

	OK(try_add_hwpt(mock, mock->hwpt, mock->ioas, 0, 0, &number));
	return number;
}

static void ioas_map(const struct lab_mock *mock, uint64_t iova, uint64_t size)
{
	OK(lab_ioas_map(mock->iommufd, mock->ioas, iova, size, lab_mock_memory(size)));
}

/* A page is written to by the mock device. */
static void mock_write(const struct lab_mock *mock, uint64_t iova)
{
	lab_mock_dirty(mock, iova);
	guest_want(&guest, iova & ~(guest.grain - 1), iova | (guest.grain - 1));
}

static void hwpt_exact(void)
{
	const uint64_t page = *(const uint64_t *)lab_arg();
	struct lab_mock mock;
	uint64_t found = 0;

	lab_mock_open(&mock, 0);
	guest_new(&guest, page, 4096);
	/* Two that touch, and two with holes around. */
	for (unsigned i = 0; i < 4; i++) {
		static const struct { uint64_t at, size; } places[] = {
			{ 0, 2 * MIB }, { 2 * MIB, MIB }, { 4 * MIB, 64 * KIB }, { 64 * MIB, 8 * MIB },
		};

		ioas_map(&mock, BASE + places[i].at, places[i].size);
		guest_area(&guest, BASE + places[i].at, places[i].size, 0);
	}
	add_hwpt(&mock);
	guest_start(&guest);
	expect_tracker(&guest, 0, VFIOMIG_TRACKER_HWPT, "");
	EXPECT(writer_of(&guest, 0).page_size, page);
	for (unsigned round = 0; round < 30; round++) {
		const struct area *area = &guest.areas[random_below(4)];
		uint64_t first = random_below(area->size / page), len = 1 + random_below(area->size / page - first);

		for (unsigned i = 0; i < 12; i++) {
			const struct area *at = &guest.areas[random_below(4)];

			mock_write(&mock, at->iova + random_below(at->size / PAGE) * PAGE);
		}
		/* Both ends of everything. */
		mock_write(&mock, BASE);
		mock_write(&mock, BASE + 72 * MIB - PAGE);
		if (round % 3 == 0)
			found += collect(&guest, 0);
		else if (round % 3 == 1)
			found += sync_range(&guest, area->iova + first * page, len * page, page, 0);
		else
			found += sync_range(&guest, BASE - MIB, 80 * MIB, page << random_below(4), 0);
	}
	found += collect(&guest, 0);
	EXPECT(collect(&guest, 0), 0);
	CHECK(found > 150, "only %llu pages", (unsigned long long)found);
	end();
	lab_mock_close(&mock);
}

/* Tracking starts and stops it; what came before does not count. */
static void hwpt_is_switched(void)
{
	struct lab_mock mock;
	uint64_t bits = 1;

	lab_mock_open(&mock, 0);
	ioas_map(&mock, BASE, MIB);
	guest_new(&guest, 0, 0);
	guest_area(&guest, BASE, MIB, 0);
	add_hwpt(&mock);
	EXPECT(lab_mock_dirty_bits(&mock, BASE, PAGE, &bits), -EINVAL); /* off */
	guest_start(&guest);
	mock_write(&mock, BASE + 7 * PAGE);
	EXPECT(collect(&guest, 0), 1);
	mock_write(&mock, BASE + 9 * PAGE);
	OK(vfiomig_dirty_stop(guest.dirty));
	EXPECT(lab_mock_dirty_bits(&mock, BASE, PAGE, &bits), -EINVAL);
	/* What was not read before is forgotten. */
	memset(guest.areas[0].want, 0, 32);
	guest_start(&guest);
	mock_write(&mock, BASE + 11 * PAGE);
	EXPECT(collect(&guest, 0), 1);
	end();
	lab_mock_close(&mock);
}

static void hwpt_starts_clean(void)
{
	struct lab_mock mock;
	uint64_t bits = 1;

	lab_mock_open(&mock, 0);
	ioas_map(&mock, BASE, MIB);
	guest_new(&guest, 0, 0);
	guest_area(&guest, BASE, MIB, 0);
	add_hwpt(&mock);
	/* The VMM had it on before. */
	OK(lab_hwpt_set_tracking(mock.iommufd, mock.hwpt, 1));
	OK(lab_mock_dirty_bits(&mock, BASE, PAGE, &bits));
	guest_start(&guest);
	EXPECT(collect(&guest, 0), 0);
	/* Two writers that share it: it goes on until both are gone. */
	EXPECT(add_hwpt(&mock), 1);
	mock_write(&mock, BASE + PAGE);
	OK(vfiomig_dirty_remove_writer(guest.dirty, 0));
	mock_write(&mock, BASE + 2 * PAGE);
	EXPECT(collect(&guest, 0), 2);
	mock_write(&mock, BASE + 3 * PAGE);
	OK(vfiomig_dirty_remove_writer(guest.dirty, 1));
	EXPECT(collect(&guest, 0), 1);
	EXPECT(lab_mock_dirty_bits(&mock, BASE, PAGE, &bits), -EINVAL);
	end();
	lab_mock_close(&mock);
}

struct unmapping {
	const struct lab_mock *mock;
	uint64_t dirty; /* how many pages there the page table still knew */
	unsigned calls;
	int ret;
};

static int unmap_ioas(void *opaque, uint64_t iova, uint64_t size)
{
	struct unmapping *unmapping = opaque;
	uint64_t *bitmap = new_bitmap(size / PAGE);

	unmapping->calls++;
	/* NO_CLEAR: it was read, and not cleared. */
	OK(lab_hwpt_get_bitmap(unmapping->mock->iommufd, unmapping->mock->hwpt, 1, iova, size, PAGE, bitmap));
	unmapping->dirty = lab_bits(bitmap, 0, size / PAGE);
	free(bitmap);
	if (unmapping->ret)
		return unmapping->ret;
	return lab_ioas_unmap(unmapping->mock->iommufd, unmapping->mock->ioas, iova, size);
}

static void hwpt_unmap(void)
{
	struct lab_mock mock;
	struct unmapping unmapping = { .mock = &mock };
	uint64_t bitmap[4] = { 0 };
	struct area *area;

	lab_mock_open(&mock, 0);
	guest_new(&guest, 0, 0);
	for (unsigned i = 0; i < 4; i++) {
		ioas_map(&mock, BASE + i * MIB, MIB);
		guest_area(&guest, BASE + i * MIB, MIB, 0);
	}
	add_hwpt(&mock);
	guest_start(&guest);
	/* With a bitmap. */
	area = &guest.areas[1];
	lab_mock_dirty(&mock, area->iova + 5 * PAGE);
	lab_mock_dirty(&mock, area->iova + 255 * PAGE);
	mock_write(&mock, area->iova - PAGE);
	OK(vfiomig_dirty_unmap(guest.dirty, area->iova, MIB, PAGE, bitmap, 4, unmap_ioas, &unmapping));
	EXPECT(unmapping.calls, 1);
	EXPECT(unmapping.dirty, 2);
	EXPECT(bitmap[0], 1 << 5);
	EXPECT(bitmap[1] | bitmap[2], 0);
	CHECK(bitmap[3] == 1ull << 63, "the last page is missing");
	area->mapped = 0;
	EXPECT(collect(&guest, 0), 1);
	/* To set_dirty. */
	area = &guest.areas[2];
	mock_write(&mock, area->iova);
	mock_write(&mock, area->iova + MIB);
	OK(vfiomig_dirty_unmap(guest.dirty, area->iova, MIB, 0, NULL, 0, unmap_ioas, &unmapping));
	EXPECT(unmapping.dirty, 1);
	EXPECT(bit(area->got, 0), 1);
	area->want[0] = area->got[0] = 0;
	EXPECT(collect(&guest, 0), 1);
	area->mapped = 0;
	/* Another one comes to the same place; and what is unmapped clean is clean. */
	ioas_map(&mock, area->iova, MIB);
	guest_map(&guest, BASE + 2 * MIB, MIB, 0);
	mock_write(&mock, BASE + 2 * MIB + 3 * PAGE);
	EXPECT(collect(&guest, 0), 1);
	memset(bitmap, 0, sizeof(bitmap));
	OK(vfiomig_dirty_unmap(guest.dirty, BASE + 2 * MIB, MIB, PAGE, bitmap, 4, unmap_ioas, &unmapping));
	guest.areas[4].mapped = 0;
	EXPECT(bitmap[0] | bitmap[1] | bitmap[2] | bitmap[3], 0);
	EXPECT(unmapping.dirty, 0);
	end();
	lab_mock_close(&mock);
}

/* If memory is missing in the IOAS, everything after it is "clean": found with ioas_id, and
 * dirty. */
static void hwpt_hole(void)
{
	struct lab_mock mock;
	struct vfiomig_dirty_error error;
	struct area *area;

	lab_mock_open(&mock, 0);
	guest_new(&guest, 0, 0);
	ioas_map(&mock, BASE, MIB);
	/* Its second half is not there; of the third, the middle. */
	ioas_map(&mock, BASE + 2 * MIB, 512 * KIB);
	ioas_map(&mock, BASE + 4 * MIB, 256 * KIB);
	ioas_map(&mock, BASE + 4 * MIB + 264 * KIB, 760 * KIB);
	for (unsigned i = 0; i < 3; i++)
		guest_area(&guest, BASE + i * 2 * MIB, MIB, 0);
	add_hwpt(&mock);
	CALL(vfiomig_dirty_start(guest.dirty), ERRORS | UNWATCHED);
	EXPECT(stats_of(&guest).num_errors, 2);
	for (unsigned i = 0; i < 2; i++) {
		error = error_of(&guest, i);
		EXPECT(error.writer, 0);
		EXPECT(error.tracker, VFIOMIG_TRACKER_HWPT);
		EXPECT(error.code, -EINVAL);
		EXPECT(error.first, BASE + (i + 1) * 2 * MIB);
		EXPECT(error.last, BASE + (i + 1) * 2 * MIB + MIB - 1);
		CHECK(strstr(error.text, "not mapped completely"), "%s", error.text);
	}
	for (unsigned round = 0; round < 3; round++) {
		mock_write(&mock, BASE + round * PAGE);
		lab_mock_dirty(&mock, BASE + 5 * MIB - PAGE); /* behind the hole */
		guest_want(&guest, BASE + 2 * MIB, BASE + 3 * MIB - 1);
		guest_want(&guest, BASE + 4 * MIB, BASE + 5 * MIB - 1);
		EXPECT(collect(&guest, UNWATCHED), 1 + 2 * 256);
	}
	/* The same later; elsewhere it stays exact. */
	ioas_map(&mock, BASE + 8 * MIB, 512 * KIB);
	area = guest_map(&guest, BASE + 8 * MIB, MIB, 0);
	EXPECT(error_of(&guest, 2).first, area->iova);
	EXPECT(error_of(&guest, 2).last, area_last(area));
	guest_want(&guest, area->iova, area_last(area));
	EXPECT(sync_range(&guest, BASE + 8 * MIB, MIB, PAGE, ERRORS | UNWATCHED), 256);
	mock_write(&mock, BASE + 30 * PAGE);
	EXPECT(sync_range(&guest, BASE, MIB, PAGE, 0), 1);
	/* It goes away, and the reason with it. */
	guest_want(&guest, area->iova, area_last(area));
	CALL(vfiomig_dirty_unmap(guest.dirty, area->iova, MIB, 0, NULL, 0, nothing_to_unmap, NULL), UNWATCHED);
	EXPECT(guest_compare(&guest), 256);
	area->mapped = 0;
	for (unsigned i = 1; i < 3; i++) {
		CALL(vfiomig_dirty_unmap(guest.dirty, BASE + i * 2 * MIB, MIB, 0, NULL, 0, nothing_to_unmap, NULL), UNWATCHED);
		guest_want(&guest, BASE + i * 2 * MIB, BASE + i * 2 * MIB + MIB - 1);
		EXPECT(guest_compare(&guest), 256);
		guest.areas[i].mapped = 0;
	}
	mock_write(&mock, BASE);
	EXPECT(collect(&guest, 0), 1);
	OK(vfiomig_dirty_stop(guest.dirty));
	guest_free(&guest);
	lab_mock_close(&mock);
}

/* Page tables that cannot track, of four kinds: another tracker, and the reason. */
static void hwpt_without_tracking(void)
{
	struct lab_mock mock, other, plain;
	uint32_t second;

	lab_mock_open(&mock, 0);
	ioas_map(&mock, BASE, MIB);
	lab_mock_add(&other, mock.iommufd, mock.ioas, 0);
	lab_mock_add(&plain, mock.iommufd, mock.ioas, LAB_MOCK_NO_DIRTY);
	OK(lab_hwpt_alloc(mock.iommufd, 0, plain.devid, mock.ioas, &second));
	for (unsigned i = 0; i < 4; i++) {
		/* Made by the kernel; the same, of a device that cannot; made without the flag;
		 * nonexistent. */
		uint32_t hwpt = i == 0 ? other.first_hwpt : i == 1 ? plain.first_hwpt : i == 2 ? second : 0x7777;
		const char *says = i == 3 ? "No such file" : "IOMMU_HWPT_ALLOC_DIRTY_TRACKING";
		uint32_t number;

		guest_new(&guest, 0, 0);
		guest_area(&guest, BASE, MIB, 0);
		OK(try_add_hwpt(&mock, hwpt, mock.ioas, 0, 0, &number));
		CALL(vfiomig_dirty_start(guest.dirty), UNWATCHED);
		expect_tracker(&guest, number, VFIOMIG_TRACKER_ALL_DIRTY, says);
		guest_want_all(&guest);
		EXPECT(collect(&guest, UNWATCHED), 256);
		end();
		guest_new(&guest, 0, 0);
		guest_area(&guest, BASE, MIB, 0);
		OK(try_add_hwpt(&mock, hwpt, mock.ioas, 0, VFIOMIG_WRITER_REQUIRED, &number));
		CALL(vfiomig_dirty_start(guest.dirty), -EOPNOTSUPP);
		CHECK(strstr(vfiomig_error_message(), says) && strstr(vfiomig_error_message(), "the mock"), "%s",
		      vfiomig_error_message());
		end();
	}
	lab_mock_close(&mock);
}

/* Pages of 6144 bytes: the kernel would answer that nothing is dirty, and forget. */
static void hwpt_no_power_of_two(void)
{
	struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
	struct vfiomig_dirty_options options = VFIOMIG_DIRTY_OPTIONS_INIT;
	struct vfiomig_dirty *dirty;
	struct lab_mock mock;
	uint64_t bitmap[8] = { 0 };
	uint32_t number;

	lab_mock_open(&mock, 0);
	ioas_map(&mock, BASE, MIB);
	options.page_size = 6144;
	CALL(vfiomig_dirty_new(&ops, NULL, &options, &dirty), -EINVAL);
	guest_new(&guest, 0, 0);
	guest_area(&guest, BASE, MIB, 0);
	CALL(try_add_hwpt(&mock, mock.hwpt, mock.ioas, 6144, 0, &number), -EINVAL);
	add_hwpt(&mock);
	guest_start(&guest);
	mock_write(&mock, BASE + PAGE);
	CALL(vfiomig_dirty_sync(guest.dirty, BASE, 96 * KIB, 6144, bitmap, 8), -EINVAL);
	CALL(vfiomig_dirty_sync(guest.dirty, BASE, 96 * KIB, 0, bitmap, 8), -EINVAL);
	CALL(vfiomig_dirty_sync(guest.dirty, BASE, 0, PAGE, bitmap, 8), -EINVAL);
	CALL(vfiomig_dirty_sync(guest.dirty, BASE, MIB, PAGE, bitmap, 3), -ENOSPC);
	CALL(vfiomig_dirty_sync(guest.dirty, 0 - PAGE, 2 * PAGE, PAGE, bitmap, 8), -EINVAL);
	EXPECT(bitmap[0], 0);
	EXPECT(collect(&guest, 0), 1);
	/* Nothing of it is mapped: clean, and nothing is said. */
	EXPECT(sync_range(&guest, BASE + 16 * MIB, MIB, PAGE, 0), 0);
	end();
	lab_mock_close(&mock);
}

/* What is asked for cuts large entries of the page table. */
static void hwpt_large_entries(void)
{
	struct lab_mock mock;

	lab_mock_open(&mock, LAB_MOCK_HUGE);
	OK(lab_ioas_map(mock.iommufd, mock.ioas, BASE, 8 * MIB, lab_huge_memory(8 * MIB)));
	guest_new(&guest, 0, 4096);
	guest_area(&guest, BASE, 8 * MIB, 0);
	add_hwpt(&mock);
	guest_start(&guest);
	for (unsigned round = 0; round < 24; round++) {
		uint64_t page = random_below(2048), cut = 1 + random_below(2047), *bitmap = new_bitmap(2048);
		uint64_t first_dirty, num;

		lab_mock_dirty(&mock, BASE + page * PAGE);
		/* In two pieces, the second one first or last. */
		for (unsigned i = 0; i < 2; i++) {
			uint64_t first = (i ^ round) & 1 ? cut : 0, last = first ? 2048 : cut;
			uint64_t *part = new_bitmap(last - first);

			OK(vfiomig_dirty_sync(guest.dirty, BASE + first * PAGE, (last - first) * PAGE, PAGE, part,
					      words_of(last - first)));
			for (uint64_t j = first; j < last; j++)
				if (bit(part, j - first))
					set_bits(bitmap, j, 1);
			free(part);
		}
		/* All of an entry, of whatever size it is on this kernel, and nothing else. */
		first_dirty = 0;
		while (first_dirty < 2048 && !bit(bitmap, first_dirty))
			first_dirty++;
		num = lab_bits(bitmap, 0, 2048);
		CHECK(bit(bitmap, page) && !(num & (num - 1)) && first_dirty % num == 0 &&
			      lab_bits(bitmap, first_dirty, first_dirty + num) == num,
		      "round %u, cut at %llu: page %llu was written to, and %llu pages from %llu on are dirty", round,
		      (unsigned long long)cut, (unsigned long long)page, (unsigned long long)num,
		      (unsigned long long)first_dirty);
		free(bitmap);
	}
	EXPECT(collect(&guest, 0), 0);
	end();
	lab_mock_close(&mock);
}

/* --- type1 -------------------------------------------------------------------------------------- */

/* In the container of the first one, if there is one. */
static void new_mdev(struct lab_device *device, const struct lab_device *first)
{
	kmod_create(device, 7);
	if (first)
		lab_open_beside(device, first);
	else
		lab_open(device, LAB_GROUP);
}

static uint32_t add_container(int container)
{
	struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
	uint32_t number = 0;

	writer.flags = VFIOMIG_WRITER_TYPE1;
	writer.name = "the container";
	writer.container_fd = container;
	OK(vfiomig_dirty_add_writer(guest.dirty, &writer, &number));
	return number;
}

/* The kernel writes for the device, and knows. */
static void dma_write(const struct lab_device *device, uint64_t iova, uint64_t length)
{
	kmod_set(device, "dma_write", "%llu %llu", (unsigned long long)iova, (unsigned long long)length);
	guest_want(&guest, iova & ~(guest.grain - 1), (iova + length - 1) | (guest.grain - 1));
}

static void map_container(int container, uint64_t iova, uint64_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	CHECK(memory != MAP_FAILED, "%llu bytes of memory: %s", (unsigned long long)size, strerror(errno));
	OK(lab_dma_map(container, iova, size, memory));
}

static void type1_exact(void)
{
	const uint64_t page = *(const uint64_t *)lab_arg();
	struct lab_device device[2];

	new_mdev(&device[0], NULL);
	new_mdev(&device[1], &device[0]);
	guest_new(&guest, page, 4096);
	for (unsigned i = 0; i < 3; i++) {
		map_container(device[0].container, GIB + i * 4 * MIB, 4 * MIB - (i == 2) * page);
		guest_area(&guest, GIB + i * 4 * MIB, 4 * MIB - (i == 2) * page, 0);
	}
	/* 64 GiB, of which little is there. */
	map_container(device[0].container, TIB, 64 * GIB);
	guest_area(&guest, TIB, 64 * GIB, 0);
	add_container(device[0].container);
	guest_start(&guest);
	expect_tracker(&guest, 0, VFIOMIG_TRACKER_TYPE1, "");
	EXPECT(collect(&guest, 0), 0);
	for (unsigned round = 0; round < 12; round++) {
		dma_write(&device[round % 2], GIB + random_below(8 * MIB), 1 + random_below(3 * PAGE));
		dma_write(&device[0], GIB + 4 * MIB - 1, 2);
		dma_write(&device[1], GIB + 12 * MIB - page - 1, 1);
		dma_write(&device[1], TIB + random_below(63 * GIB), 2 * PAGE);
		if (round % 3 == 0) {
			CHECK(collect(&guest, 0) >= 5, "too few");
		} else if (round % 3 == 1) {
			/* A part of a mapping: the rest stays for later. */
			sync_range(&guest, GIB + MIB, 4 * MIB, page, 0);
			CHECK(sync_range(&guest, TIB, 64 * GIB, 2 * MIB, 0) >= 1, "too few");
		} else {
			CHECK(sync_range(&guest, GIB, TIB, GIB, 0) >= 1, "too few");
		}
	}
	collect(&guest, 0);
	EXPECT(collect(&guest, 0), 0);
	end();
	lab_remove(&device[1]);
	lab_remove(&device[0]);
}

/* Pages that a device has pinned are always dirty, and only those. */
static void type1_pinned(void)
{
	struct lab_device device;

	new_mdev(&device, NULL);
	map_container(device.container, GIB, 4 * MIB);
	map_container(device.container, 3 * GIB, 4 * MIB);
	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, 4 * MIB, 0);
	guest_area(&guest, 3 * GIB, 4 * MIB, 0);
	add_container(device.container);
	/* Before tracking is on, and while it is. */
	kmod_set(&device, "pin", "%llu 0x3000", GIB + 5 * PAGE);
	guest_start(&guest);
	for (unsigned round = 0; round < 4; round++) {
		guest_want(&guest, GIB + 5 * PAGE, GIB + 8 * PAGE - 1);
		if (round == 2)
			kmod_set(&device, "pin", "%llu 0x400000 0x10000", 3 * GIB);
		for (unsigned i = 0; i < 64 && round >= 2; i++)
			guest_want(&guest, 3 * GIB + i * 16 * PAGE, 3 * GIB + i * 16 * PAGE);
		EXPECT(collect(&guest, 0), round < 2 ? 3 : 67);
		expect_tracker(&guest, 0, VFIOMIG_TRACKER_TYPE1, "");
	}
	/* Once more after they are not. */
	kmod_set(&device, "unpin", "%llu 0x400000", 3 * GIB);
	for (unsigned i = 0; i < 64; i++)
		guest_want(&guest, 3 * GIB + i * 16 * PAGE, 3 * GIB + i * 16 * PAGE);
	guest_want(&guest, GIB + 5 * PAGE, GIB + 8 * PAGE - 1);
	EXPECT(collect(&guest, 0), 67);
	guest_want(&guest, GIB + 5 * PAGE, GIB + 8 * PAGE - 1);
	EXPECT(collect(&guest, 0), 3);
	kmod_set(&device, "unpin", "0");
	end();
	lab_remove(&device);
}

/* One real device, and everything that is mapped is always dirty. */
static void type1_pci(void)
{
	struct lab_device mdev;
	struct lab_edu edu;
	unsigned char *memory = lab_memory(4 * MIB);
	uint64_t bitmap[16] = { 0 };

	new_mdev(&mdev, NULL);
	OK(lab_dma_map(mdev.container, GIB, 2 * MIB, memory));
	OK(lab_dma_map(mdev.container, 3 * GIB, 2 * MIB, memory + 2 * MIB));
	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, 2 * MIB, 0);
	guest_area(&guest, 3 * GIB, 2 * MIB, 0);
	add_container(mdev.container);
	guest_start(&guest);
	dma_write(&mdev, GIB, 1);
	EXPECT(collect(&guest, 0), 1);
	lab_edu_open_beside(&edu, &mdev);
	for (unsigned round = 0; round < 3; round++) {
		lab_edu_store(&edu, GIB + round * PAGE, 64);
		guest_want_all(&guest);
		/* The kernel says so; it is nobody's error. */
		EXPECT(collect(&guest, 0), 1024);
	}
	expect_tracker(&guest, 0, VFIOMIG_TRACKER_TYPE1, "every mapped page is always dirty");
	lab_edu_store(&edu, 3 * GIB + PAGE, 64);
	OK(vfiomig_dirty_unmap(guest.dirty, 3 * GIB, 2 * MIB, PAGE, bitmap, 8, nothing_to_unmap, NULL));
	EXPECT(lab_bits(bitmap, 0, 1024), 512);
	guest.areas[1].mapped = 0;
	lab_edu_close(&edu);
	/* Once more, for what it may have done before it left. */
	guest_want_all(&guest);
	EXPECT(collect(&guest, 0), 512);
	EXPECT(collect(&guest, 0), 0);
	end();
	lab_remove(&mdev);
}

struct done_by_the_library {
	int container;
	unsigned calls;
	uint64_t done; /* by us */
};

static int unmap_what_is_left(void *opaque, uint64_t iova, uint64_t size)
{
	struct done_by_the_library *by = opaque;

	by->calls++;
	return lab_dma_unmap(by->container, iova, size, &by->done);
}

static void type1_unmap(void)
{
	struct lab_device device;
	struct done_by_the_library by = { 0 };
	uint64_t bitmap[4] = { 0 };
	struct area *area;

	new_mdev(&device, NULL);
	by.container = device.container;
	guest_new(&guest, 0, 0);
	for (unsigned i = 0; i < 4; i++) {
		map_container(device.container, GIB + i * MIB, MIB);
		guest_area(&guest, GIB + i * MIB, MIB, 0);
	}
	add_container(device.container);
	guest_start(&guest);
	/* With a bitmap; in one step with the unmapping. */
	area = &guest.areas[1];
	dma_write(&device, area->iova - 1, 2);
	dma_write(&device, area_last(area), 2);
	OK(vfiomig_dirty_unmap(guest.dirty, area->iova, MIB, PAGE, bitmap, 4, unmap_what_is_left, &by));
	EXPECT(by.calls, 1);
	EXPECT(by.done, 0);
	EXPECT(bitmap[0], 1);
	EXPECT(bitmap[1] | bitmap[2], 0);
	CHECK(bitmap[3] == 1ull << 63, "the last page is missing");
	memset(area->want, 0, 32);
	area->mapped = 0;
	EXPECT(collect(&guest, 0), 2);
	CHECK(kmod_try_set(&device, "dma_write", "0x40100000 1") < 0, "it is still mapped");
	/* To set_dirty; two mappings at once, with pages that are pinned. */
	dma_write(&device, GIB + 2 * MIB + 3 * PAGE, 1);
	kmod_set(&device, "pin", "%llu 0x2000", GIB + 3 * MIB + 9 * PAGE);
	guest_want(&guest, GIB + 3 * MIB + 9 * PAGE, GIB + 3 * MIB + 10 * PAGE);
	OK(vfiomig_dirty_unmap(guest.dirty, GIB + 2 * MIB, 2 * MIB, 0, NULL, 0, unmap_what_is_left, &by));
	EXPECT(by.done, 0);
	EXPECT(guest_compare(&guest), 3);
	guest.areas[2].mapped = guest.areas[3].mapped = 0;
	/* And again at the same place. */
	map_container(device.container, GIB + 2 * MIB, 2 * MIB);
	guest_map(&guest, GIB + 2 * MIB, 2 * MIB, 0);
	dma_write(&device, GIB + 3 * MIB - 1, 2);
	EXPECT(collect(&guest, 0), 2);
	end();
	lab_remove(&device);
}

/* The VMM and the container disagree about what a mapping is. */
static void type1_cut(void)
{
	struct lab_device device;
	struct done_by_the_library by = { 0 };
	struct vfiomig_dirty_error error;
	uint64_t bitmap[4] = { 0 };

	new_mdev(&device, NULL);
	by.container = device.container;
	map_container(device.container, GIB, 2 * MIB);
	map_container(device.container, 3 * GIB, MIB);
	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, MIB, 0);
	guest_area(&guest, GIB + MIB, MIB, 0);
	guest_area(&guest, 3 * GIB, MIB, 0);
	add_container(device.container);
	guest_start(&guest);
	for (unsigned round = 0; round < 3; round++) {
		dma_write(&device, 3 * GIB + round * PAGE, 1);
		guest_want(&guest, GIB, GIB + 2 * MIB - 1);
		EXPECT(collect(&guest, ERRORS), 512 + 1);
	}
	error = error_of(&guest, 0);
	EXPECT(error.code, -EINVAL);
	EXPECT(error.tracker, VFIOMIG_TRACKER_TYPE1);
	EXPECT(error.first, GIB);
	CHECK(strstr(error.text, "mapped exactly like this"), "no hint: %s", error.text);
	/* Half of each: the container refuses, and the VMM has to unmap it. */
	CALL(vfiomig_dirty_unmap(guest.dirty, GIB, 2 * MIB, 0, NULL, 0, unmap_what_is_left, &by), ERRORS);
	EXPECT(by.done, 2 * MIB);
	guest_want(&guest, GIB, GIB + 2 * MIB - 1);
	EXPECT(guest_compare(&guest), 512);
	guest.areas[0].mapped = guest.areas[1].mapped = 0;
	EXPECT(collect(&guest, 0), 0);
	/* One that is not there at all: 0 bytes are unmapped, which is too few. */
	guest_map(&guest, 5 * GIB, MIB, 0);
	EXPECT(collect(&guest, 0), 0);
	CALL(vfiomig_dirty_unmap(guest.dirty, 5 * GIB, MIB, PAGE, bitmap, 4, unmap_what_is_left, &by), ERRORS);
	EXPECT(lab_bits(bitmap, 0, 256), 256);
	guest.areas[3].mapped = 0;
	dma_write(&device, 3 * GIB, 1);
	EXPECT(collect(&guest, 0), 1);
	OK(vfiomig_dirty_stop(guest.dirty));
	guest_free(&guest);
	lab_remove(&device);
}

/* More than the kernel's bitmap takes. */
static void type1_too_large(void)
{
	struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
	struct vfiomig_dirty_options options = VFIOMIG_DIRTY_OPTIONS_INIT;
	struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
	struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
	struct vfiomig_dirty_error error = VFIOMIG_DIRTY_ERROR_INIT;
	uint64_t bitmap[160] = { 0 };
	struct vfiomig_dirty *dirty;
	struct lab_device device;
	uint32_t number;

	new_mdev(&device, NULL);
	map_container(device.container, 16 * TIB, GIB);
	options.page_size = GIB;
	OK(vfiomig_dirty_new(&ops, NULL, &options, &dirty));
	mapping.size = 9 * TIB;
	OK(vfiomig_dirty_map(dirty, &mapping));
	mapping.iova = 16 * TIB;
	mapping.size = GIB;
	OK(vfiomig_dirty_map(dirty, &mapping));
	writer.flags = VFIOMIG_WRITER_TYPE1;
	writer.container_fd = device.container;
	OK(vfiomig_dirty_add_writer(dirty, &writer, &number));
	OK(vfiomig_dirty_start(dirty));
	CALL(vfiomig_dirty_sync(dirty, 0, 10 * TIB, GIB, bitmap, 160), ERRORS);
	EXPECT(lab_bits(bitmap, 0, 9 * 1024), 9 * 1024);
	EXPECT(lab_bits(bitmap, 9 * 1024, 10 * 1024), 0);
	OK(vfiomig_dirty_get_error(dirty, 0, &error));
	EXPECT(error.first, 0);
	EXPECT(error.last, 9 * TIB - 1);
	CHECK(strstr(error.text, "too large") && strstr(error.text, "in pieces"), "%s", error.text);
	/* The other one is as it should be. */
	OK(vfiomig_dirty_sync(dirty, 16 * TIB, GIB, GIB, bitmap + 159, 1));
	EXPECT(bitmap[159], 0);
	kmod_set(&device, "dma_write", "%llu 1", 16 * TIB + 5 * MIB);
	OK(vfiomig_dirty_sync(dirty, 16 * TIB, GIB, GIB, bitmap + 159, 1));
	EXPECT(bitmap[159], 1);
	OK(vfiomig_dirty_stop(dirty));
	vfiomig_dirty_free(dirty);
	lab_remove(&device);
}

/* Up to the very end of the address space: if a kernel cannot say, that is no reason to be
 * clean. */
static void type1_last_page(void)
{
	const int old = !lab_kernel_is("7.3");
	struct lab_device device;

	new_mdev(&device, NULL);
	map_container(device.container, 0 - 64 * KIB, 64 * KIB);
	map_container(device.container, GIB, MIB);
	guest_new(&guest, 0, 0);
	guest_area(&guest, 0 - 64 * KIB, 64 * KIB, 0);
	guest_area(&guest, GIB, MIB, 0);
	add_container(device.container);
	guest_start(&guest);
	for (unsigned round = 0; round < 3; round++) {
		dma_write(&device, GIB + PAGE, 1);
		/* Nor can the old ones be told to write there. */
		if (!old)
			kmod_set(&device, "dma_write", "%llu 1", (unsigned long long)(0 - 3 * PAGE));
		guest_want(&guest, 0 - (old ? 64 * KIB : 3 * PAGE), old ? UINT64_MAX : 0 - 3 * PAGE);
		EXPECT(collect(&guest, old ? ERRORS : 0), old ? 17 : 2);
	}
	OK(vfiomig_dirty_stop(guest.dirty));
	guest_free(&guest);
	lab_remove(&device);
}

static void type1_no_container(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	guest_new(&guest, 0, 0);
	guest_area(&guest, GIB, MIB, 0);
	add_container(fd);
	CALL(vfiomig_dirty_start(guest.dirty), UNWATCHED);
	expect_tracker(&guest, 0, VFIOMIG_TRACKER_ALL_DIRTY, "type1 container: ");
	guest_want_all(&guest);
	EXPECT(collect(&guest, UNWATCHED), 256);
	end();
	close(fd);
}

/* --- several kinds together
 * ---------------------------------------------------------------------- */

/* A tracker of the VMM's own: a list of pages. */
struct own {
	uint64_t pages[64];
	unsigned num;
	int on;
};

static int own_start(void *opaque)
{
	struct own *own = opaque;

	own->on = 1;
	own->num = 0;
	return 0;
}

static int own_stop(void *opaque)
{
	((struct own *)opaque)->on = 0;
	return 0;
}

static int own_sync(void *opaque, uint64_t iova, uint64_t length, uint64_t page_size, uint64_t *bitmap, size_t num_words)
{
	struct own *own = opaque;
	unsigned left = 0;

	CHECK(own->on && page_size == PAGE && num_words >= words_of(length / PAGE), "asked for %llu words of %llu bytes",
	      (unsigned long long)num_words, (unsigned long long)length);
	for (unsigned i = 0; i < own->num; i++) {
		if (own->pages[i] >= iova && own->pages[i] - iova < length)
			set_bits(bitmap, (own->pages[i] - iova) / PAGE, 1);
		else
			own->pages[left++] = own->pages[i];
	}
	own->num = left;
	return 0;
}

/* An mdev by cdev, in an iommufd and address space that others share. */
static struct vfiomig_device *open_in(struct lab_device *device, const struct lab_mock *mock)
{
	struct lab_device first = { .how = LAB_CDEV, .iommufd = mock->iommufd };
	uint32_t pt = mock->ioas;

	kmod_create(device, 7);
	lab_open_beside(device, &first);
	OK(lab_attach(device, &pt));
	return lab_handle(device);
}

/*
 * One device is tracked only by its page table, the other only by its own log, both in one address
 * space: a single choice for both would lose one of them.
 */
static void one_tracker_each(void)
{
	struct lab_mock mock;
	struct lab_device device;
	struct vfiomig_device *handle;

	lab_mock_open(&mock, 0);
	ioas_map(&mock, BASE, 4 * MIB);
	handle = open_in(&device, &mock);
	guest_new(&guest, 0, 0);
	guest_area(&guest, BASE, 4 * MIB, 0);
	EXPECT(add_hwpt(&mock), 0);
	EXPECT(guest_log(&guest, handle), 1);
	guest_start(&guest);
	expect_tracker(&guest, 0, VFIOMIG_TRACKER_HWPT, "");
	expect_tracker(&guest, 1, VFIOMIG_TRACKER_DEVICE_LOG, "");
	for (unsigned round = 0; round < 6; round++) {
		/* Only the one, only the other, both, and one page of both. */
		if (round % 3 != 1)
			mock_write(&mock, BASE + round * 2 * PAGE);
		if (round % 3 != 0)
			mark(&guest, &device, BASE + MIB + round * 3 * PAGE, PAGE);
		if (round == 5) {
			mock_write(&mock, BASE + 2 * MIB);
			mark(&guest, &device, BASE + 2 * MIB, PAGE);
		}
		if (round % 2)
			EXPECT(collect(&guest, 0), round % 3 == 2 ? (round == 5 ? 3 : 2) : 1);
		else
			EXPECT(sync_range(&guest, BASE, 4 * MIB, PAGE, 0), round % 3 == 2 ? 2 : 1);
	}
	end();
	kmod_end(&device, handle);
	lab_mock_close(&mock);
}

/* One device for each kind of tracker. */
static void all_kinds(void)
{
	struct vfiomig_tracker_ops ops = VFIOMIG_TRACKER_OPS_INIT;
	struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
	struct lab_device logging, mdev;
	struct vfiomig_device *handle;
	struct own own = { 0 };
	struct lab_mock mock;
	uint64_t found = 0;
	uint32_t number;

	lab_mock_open(&mock, 0);
	handle = open_in(&logging, &mock);
	new_mdev(&mdev, NULL);
	guest_new(&guest, 0, 4096);
	for (unsigned i = 0; i < 3; i++) {
		ioas_map(&mock, BASE + i * 3 * MIB, 2 * MIB);
		map_container(mdev.container, BASE + i * 3 * MIB, 2 * MIB);
		guest_area(&guest, BASE + i * 3 * MIB, 2 * MIB, 0);
	}
	EXPECT(guest_log(&guest, handle), 0);
	EXPECT(add_hwpt(&mock), 1);
	ops.page_size = PAGE;
	ops.start = own_start;
	ops.stop = own_stop;
	ops.sync = own_sync;
	writer.flags = VFIOMIG_WRITER_CUSTOM;
	writer.tracker = &ops;
	writer.tracker_opaque = &own;
	OK(vfiomig_dirty_add_writer(guest.dirty, &writer, &number));
	EXPECT(add_container(mdev.container), 3);
	guest_start(&guest);
	for (unsigned i = 0; i < 4; i++)
		expect_tracker(&guest, i, i + 1, "");
	for (unsigned round = 0; round < 40; round++) {
		uint64_t at = BASE + random_below(3) * 3 * MIB + random_below(512) * PAGE;

		switch (random_below(4)) {
		case 0:
			mark(&guest, &logging, at, 1 + random_below(2 * PAGE));
			break;
		case 1:
			mock_write(&mock, at);
			break;
		case 2:
			own.pages[own.num++] = at;
			guest_want(&guest, at, at);
			break;
		default:
			dma_write(&mdev, at, 1);
		}
		if (round % 4 == 3)
			found += round % 8 == 3 ? collect(&guest, 0) : sync_range(&guest, BASE, 8 * MIB, PAGE, 0);
		if (round % 10 == 9) {
			/* One more, which nothing tracks: everything is dirty as long as it is there. */
			struct vfiomig_dirty_writer none = VFIOMIG_DIRTY_WRITER_INIT;

			OK(vfiomig_dirty_add_writer(guest.dirty, &none, &number));
			expect_tracker(&guest, number, VFIOMIG_TRACKER_ALL_DIRTY, "");
			guest_want_all(&guest);
			EXPECT(collect(&guest, UNWATCHED), 3 * 512);
			OK(vfiomig_dirty_remove_writer(guest.dirty, number));
			guest_want_all(&guest);
			EXPECT(collect(&guest, UNWATCHED), 3 * 512);
		}
	}
	CHECK(found > 15, "only %llu pages", (unsigned long long)found);
	/* A part is unmapped, for all of them. */
	mark(&guest, &logging, BASE + 3 * MIB, 1);
	mock_write(&mock, BASE + 3 * MIB + PAGE);
	own.pages[own.num++] = BASE + 3 * MIB + 2 * PAGE;
	guest_want(&guest, BASE + 3 * MIB + 2 * PAGE, BASE + 3 * MIB + 2 * PAGE);
	dma_write(&mdev, BASE + 3 * MIB + 3 * PAGE, 1);
	OK(vfiomig_dirty_unmap(guest.dirty, BASE + 3 * MIB, 2 * MIB, 0, NULL, 0, nothing_to_unmap, NULL));
	OK(lab_ioas_unmap(mock.iommufd, mock.ioas, BASE + 3 * MIB, 2 * MIB));
	EXPECT(bit(guest.areas[1].got, 0) + bit(guest.areas[1].got, 1) + bit(guest.areas[1].got, 2) +
		       bit(guest.areas[1].got, 3),
	       4);
	collect(&guest, 0);
	end();
	kmod_end(&logging, handle);
	lab_remove(&mdev);
	lab_mock_close(&mock);
}

/* A writer that could be tracked in several ways, from the best that works to none. */
static void the_best_that_works(void)
{
	struct vfiomig_tracker_ops ops = VFIOMIG_TRACKER_OPS_INIT;
	struct lab_device device, mdev;
	struct vfiomig_device *handle;
	struct own own = { 0 };
	struct lab_mock mock;

	lab_mock_open(&mock, 0);
	ioas_map(&mock, BASE, MIB);
	handle = open_in(&device, &mock);
	new_mdev(&mdev, NULL);
	map_container(mdev.container, BASE, MIB);
	ops.page_size = PAGE;
	ops.start = own_start;
	ops.stop = own_stop;
	ops.sync = own_sync;
	for (unsigned broken = 0; broken < 4; broken++) {
		struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
		uint32_t number;

		guest_new(&guest, 0, 0);
		guest_area(&guest, BASE, MIB, 0);
		writer.flags = VFIOMIG_WRITER_DEVICE_LOG | VFIOMIG_WRITER_HWPT | VFIOMIG_WRITER_TYPE1 |
			       (broken < 3 ? VFIOMIG_WRITER_CUSTOM : 0);
		writer.device = handle;
		writer.iommufd = mock.iommufd;
		writer.hwpt_id = broken > 1 ? mock.first_hwpt : mock.hwpt;
		writer.tracker = &ops;
		writer.tracker_opaque = &own;
		writer.container_fd = mdev.container;
		kmod_set(&device, "log_refuse", broken ? "0 0x100000000 95" : "0");
		OK(vfiomig_dirty_add_writer(guest.dirty, &writer, &number));
		guest_start(&guest);
		expect_tracker(&guest, number, VFIOMIG_TRACKER_DEVICE_LOG + broken,
			       broken > 1   ? "; iommufd page table: "
			       : broken > 0 ? "device DMA logging: "
					    : "");
		switch (broken) {
		case 0:
			mark(&guest, &device, BASE + PAGE, PAGE);
			break;
		case 1:
			mock_write(&mock, BASE + PAGE);
			break;
		case 2:
			own.pages[own.num++] = BASE + PAGE;
			guest_want(&guest, BASE + PAGE, BASE + PAGE);
			break;
		default:
			dma_write(&mdev, BASE + PAGE, 1);
		}
		EXPECT(collect(&guest, 0), 1);
		EXPECT(collect(&guest, 0), 0);
		end();
	}
	kmod_end(&device, handle);
	lab_remove(&mdev);
	lab_mock_close(&mock);
}

int main(void)
{
	static const uint64_t pages[] = { PAGE, 64 * KIB };

	if (lab_boot() != 1)
		return 77;
	for (unsigned i = 0; i < 2; i++)
		lab_run_arg(hwpt_exact, &pages[i], "dirty-hwpt-pages-of-%llu", (unsigned long long)pages[i]);
	lab_run("dirty-hwpt-is-switched", hwpt_is_switched);
	lab_run("dirty-hwpt-starts-clean", hwpt_starts_clean);
	lab_run("dirty-hwpt-unmap", hwpt_unmap);
	lab_run("dirty-hwpt-hole", hwpt_hole);
	lab_run("dirty-hwpt-without-tracking", hwpt_without_tracking);
	lab_run("dirty-hwpt-no-power-of-two", hwpt_no_power_of_two);
	lab_run("dirty-hwpt-large-entries", hwpt_large_entries);
	for (unsigned i = 0; i < 2; i++)
		lab_run_arg(type1_exact, &pages[i], "dirty-type1-pages-of-%llu", (unsigned long long)pages[i]);
	lab_run("dirty-type1-pinned", type1_pinned);
	lab_run("dirty-type1-pci-device", type1_pci);
	lab_run("dirty-type1-unmap", type1_unmap);
	lab_run("dirty-type1-cut", type1_cut);
	lab_run("dirty-type1-too-large", type1_too_large);
	lab_run("dirty-type1-last-page", type1_last_page);
	lab_run("dirty-type1-no-container", type1_no_container);
	lab_run("dirty-one-tracker-each", one_tracker_each);
	lab_run("dirty-all-kinds", all_kinds);
	lab_run("dirty-best-that-works", the_best_that_works);
	return lab_status();
}
