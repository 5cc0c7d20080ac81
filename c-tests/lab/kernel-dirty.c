/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What the kernel itself does when it tracks dirty pages, by plain system calls: what the library
 * relies on, and what it must guard against. If a case fails here with a new kernel, it says which
 * of the library's assumptions no longer holds.
 */
#include "iommu.h"
#include "kmod.h"

#include <sys/mman.h>

#define PAGE 4096ull
#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define TIB (1ull << 40)
#define START VFIO_IOMMU_DIRTY_PAGES_FLAG_START
#define STOP VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP
#define GET VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP
#define PATTERN 0xaaaaaaaaaaaaaaaaull
#define ALL (~0ull)

static int newer(void)
{
	return lab_kernel_is("7.3");
}

/* --- type1 ------------------------------------------------------------------------------------- */

/* A container with a mediated device only. */
static int mdev_container(struct lab_device *mdev)
{
	lab_create(mdev, 1);
	lab_open(mdev, LAB_GROUP);
	return mdev->container;
}

static void type1_info(void)
{
	struct lab_device mdev;
	struct lab_dirty_info info = { 0 };
	struct lab_edu edu;
	int container = mdev_container(&mdev);

	/* Only the smallest page size, and as much bitmap as 2^31 pages need. */
	OK(lab_dirty_info(container, &info));
	EXPECT(info.page_sizes, PAGE);
	EXPECT(info.max_bitmap, 256 * MIB);
	lab_edu_open_beside(&edu, &mdev);
	OK(lab_dirty_info(container, &info));
	EXPECT(info.page_sizes, PAGE);
	EXPECT(info.max_bitmap, 256 * MIB);
	EXPECT(info.iova_page_sizes & PAGE, PAGE);
}

static void type1_start_stop(void)
{
	struct lab_device mdev;
	uint64_t word = PATTERN;
	int container = mdev_container(&mdev);

	OK(lab_dma_map(container, 0, 64 * PAGE, lab_memory(64 * PAGE)));
	CALL(lab_dirty_bitmap(container, 0, 64 * PAGE, PAGE, &word, 8), -EINVAL);
	OK(lab_dirty_pages(container, STOP));
	OK(lab_dirty_pages(container, START));
	OK(lab_dirty_pages(container, START));
	OK(lab_dirty_bitmap(container, 0, 64 * PAGE, PAGE, &word, 8));
	EXPECT(word, 0);
	OK(lab_dirty_pages(container, STOP));
	OK(lab_dirty_pages(container, STOP));
	CALL(lab_dirty_bitmap(container, 0, 64 * PAGE, PAGE, &word, 8), -EINVAL);
	CALL(lab_dirty_pages(container, START | STOP), -EINVAL);
	CALL(lab_dirty_pages(container, 8), -EINVAL);
	/* argsz ends where the range should begin. */
	CALL(lab_dirty_pages(container, GET), -EINVAL);
}

static void type1_arguments(void)
{
	struct lab_device mdev;
	uint64_t words[4] = { PATTERN, PATTERN, PATTERN, PATTERN };
	int container = mdev_container(&mdev);

	OK(lab_dma_map(container, MIB, 128 * PAGE, lab_memory(128 * PAGE)));
	OK(lab_dirty_pages(container, START));
	CALL(lab_dirty_bitmap(container, MIB, 128 * PAGE, 2048, words, 32), -EINVAL);
	CALL(lab_dirty_bitmap(container, MIB, 128 * PAGE, 8192, words, 32), -EINVAL);
	CALL(lab_dirty_bitmap(container, MIB, 128 * PAGE, 2 * MIB, words, 32), -EINVAL);
	CALL(lab_dirty_bitmap(container, MIB + 512, 128 * PAGE, PAGE, words, 32), -EINVAL);
	CALL(lab_dirty_bitmap(container, MIB, 128 * PAGE + 512, PAGE, words, 32), -EINVAL);
	CALL(lab_dirty_bitmap(container, MIB, 0, PAGE, words, 32), -EINVAL);
	CALL(lab_dirty_bitmap(container, 0 - PAGE, 2 * PAGE, PAGE, words, 32), newer() ? -EOVERFLOW : -EINVAL);
	CALL(lab_dirty_bitmap(container, MIB, 128 * PAGE, PAGE, words, 15), -EINVAL);
	CALL(lab_dirty_bitmap(container, MIB, 128 * PAGE, PAGE, words, 8), -EINVAL);
	/* One page more takes another word. */
	CALL(lab_dirty_bitmap(container, MIB, 129 * PAGE, PAGE, words, 17), -EINVAL);
	CALL(lab_dirty_bitmap(container, MIB, 128 * PAGE, PAGE, words, 256 * MIB + 8), -EINVAL);
	for (unsigned i = 0; i < 4; i++)
		EXPECT(words[i], (long long)PATTERN);
	OK(lab_dirty_bitmap(container, MIB, 128 * PAGE, PAGE, words, 16));
	/* What is beyond the range stays, however large the buffer is claimed to be. */
	OK(lab_dirty_bitmap(container, MIB, 128 * PAGE, PAGE, words, 32));
	EXPECT(words[0] | words[1], 0);
	EXPECT(words[2], (long long)PATTERN);
	EXPECT(words[3], (long long)PATTERN);
}

static void type1_bisecting(void)
{
	struct lab_device mdev;
	uint64_t words[8] = { 0 };
	int container = mdev_container(&mdev);
	void *memory = lab_memory(64 * PAGE);

	OK(lab_dma_map(container, MIB, 64 * PAGE, memory));
	OK(lab_dma_map(container, MIB + 64 * PAGE, 64 * PAGE, memory));
	OK(lab_dirty_pages(container, START));
	CALL(lab_dirty_bitmap(container, MIB, 63 * PAGE, PAGE, words, 64), -EINVAL);
	CALL(lab_dirty_bitmap(container, MIB + PAGE, 63 * PAGE, PAGE, words, 64), -EINVAL);
	CALL(lab_dirty_bitmap(container, MIB - PAGE, 64 * PAGE, PAGE, words, 64), -EINVAL);
	CALL(lab_dirty_bitmap(container, MIB, 65 * PAGE, PAGE, words, 64), -EINVAL);
	/* Two that touch are still two. */
	OK(lab_dirty_bitmap(container, MIB + 64 * PAGE, 64 * PAGE, PAGE, words, 64));
	OK(lab_dirty_bitmap(container, MIB, 128 * PAGE, PAGE, words, 64));
	OK(lab_dirty_bitmap(container, MIB - PAGE, 200 * PAGE, PAGE, words, 64));
	OK(lab_dirty_bitmap(container, 64 * MIB, 64 * PAGE, PAGE, words, 64));
}

/* Which words are written to: from clean mappings, so that everything written is 0. */
static void type1_words(void)
{
	struct lab_device mdev;
	uint64_t words[6];
	int container = mdev_container(&mdev);
	void *memory = lab_memory(128 * PAGE);

	/* Pages 0 to 63, 128 to 194, and 260 to 323. */
	OK(lab_dma_map(container, 0, 64 * PAGE, memory));
	OK(lab_dma_map(container, 128 * PAGE, 67 * PAGE, memory));
	OK(lab_dma_map(container, 260 * PAGE, 64 * PAGE, memory));
	OK(lab_dirty_pages(container, START));
	memset(words, 0xaa, sizeof(words));
	OK(lab_dirty_bitmap(container, 0, 384 * PAGE, PAGE, words, sizeof(words)));
	EXPECT(words[0], 0);
	/* A hole is left as it was, so the caller must have zeroed it. */
	EXPECT(words[1], (long long)PATTERN);
	EXPECT(words[2], 0);
	/* All of a word, although only three of its bits mean anything. */
	EXPECT(words[3], 0);
	/* In the word with which it begins, old bits stay: before the mapping and in it. */
	EXPECT(words[4], (long long)PATTERN);
	EXPECT(words[5], 0);
}

static void type1_clean(void)
{
	struct lab_device first, second;
	uint64_t words[4];
	int container = mdev_container(&first);

	lab_create(&second, 2);
	lab_open_beside(&second, &first);
	OK(lab_dma_map(container, 0, 256 * PAGE, lab_memory(256 * PAGE)));
	OK(lab_dirty_pages(container, START));
	/* A mapping made while tracking is on is clean too. */
	OK(lab_dma_map(container, GIB, 256 * PAGE, lab_memory(256 * PAGE)));
	for (unsigned round = 0; round < 2; round++) {
		memset(words, 0xff, sizeof(words));
		OK(lab_dirty_bitmap(container, 0, 256 * PAGE, PAGE, words, sizeof(words)));
		EXPECT(lab_bits(words, 0, 256), 0);
		memset(words, 0xff, sizeof(words));
		OK(lab_dirty_bitmap(container, GIB, 256 * PAGE, PAGE, words, sizeof(words)));
		EXPECT(lab_bits(words, 0, 256), 0);
	}
	memset(words, 0xff, sizeof(words));
	OK(lab_dma_unmap_dirty(container, GIB, 256 * PAGE, NULL, PAGE, words, sizeof(words)));
	EXPECT(lab_bits(words, 0, 256), 0);
}

static uint64_t count_dirty(int container, uint64_t iova, uint64_t pages)
{
	uint64_t words[64] = { 0 };

	CHECK(pages <= 4096, "%llu pages", (unsigned long long)pages);
	OK(lab_dirty_bitmap(container, iova, pages * PAGE, PAGE, words, (pages + 63) / 64 * 8));
	return lab_bits(words, 0, 4096);
}

static void type1_pci(void)
{
	struct lab_edu edu;
	int container;

	lab_edu_open(&edu, LAB_GROUP);
	container = edu.device.container;
	OK(lab_dma_map(container, 0, 128 * PAGE, lab_memory(128 * PAGE)));
	OK(lab_dma_map(container, GIB, 192 * PAGE, lab_memory(192 * PAGE)));
	OK(lab_dirty_pages(container, START));
	OK(lab_dma_map(container, TIB, 128 * PAGE, lab_memory(128 * PAGE)));
	/* Everything mapped, always, although the device has done nothing. */
	for (unsigned round = 0; round < 3; round++) {
		EXPECT(count_dirty(container, 0, 128), 128);
		EXPECT(count_dirty(container, GIB, 192), 192);
		EXPECT(count_dirty(container, TIB, 128), 128);
		EXPECT(count_dirty(container, GIB - 64 * PAGE, 64 + 192 + 64), 192);
	}
}

/* The worst device of a container decides for all of its mappings. */
static void type1_pci_comes_and_goes(void)
{
	struct lab_device mdev;
	struct lab_edu edu;
	int container = mdev_container(&mdev);

	OK(lab_dma_map(container, 0, 128 * PAGE, lab_memory(128 * PAGE)));
	OK(lab_dma_map(container, MIB, 256 * PAGE, lab_memory(256 * PAGE)));
	OK(lab_dirty_pages(container, START));
	EXPECT(count_dirty(container, 0, 128), 0);
	lab_edu_open_beside(&edu, &mdev);
	EXPECT(count_dirty(container, 0, 128), 128);
	EXPECT(count_dirty(container, 0, 128), 128);
	lab_edu_close(&edu);
	/* What it may have written before it left can still be read, once. */
	EXPECT(count_dirty(container, 0, 128), 128);
	EXPECT(count_dirty(container, 0, 128), 0);
	EXPECT(count_dirty(container, MIB, 256), 256);
	EXPECT(count_dirty(container, MIB, 256), 0);
}

/* Two mappings that are dirty once. */
static int dirty_once(struct lab_device *mdev, uint64_t first, uint64_t first_pages, uint64_t second,
		      uint64_t second_pages)
{
	struct lab_edu edu;
	int container = mdev_container(mdev);

	OK(lab_dma_map(container, first, first_pages * PAGE, lab_memory(first_pages * PAGE)));
	OK(lab_dma_map(container, second, second_pages * PAGE, lab_memory(second_pages * PAGE)));
	OK(lab_dirty_pages(container, START));
	lab_edu_open_beside(&edu, mdev);
	lab_edu_close(&edu);
	return container;
}

/* A bitmap that ends where memory ends: its last word is the last before an unmapped page. */
static uint64_t *bitmap_before_nothing(size_t words)
{
	unsigned char *memory = lab_memory(2 * PAGE);

	CHECK(munmap(memory + PAGE, PAGE) == 0, "munmap: %s", strerror(errno));
	return (uint64_t *)(memory + PAGE) - words;
}

static void type1_fault_loses_bits(void)
{
	struct lab_device mdev;
	int container = dirty_once(&mdev, 0, 64, 64 * PAGE, 64);
	uint64_t *bitmap = bitmap_before_nothing(1);

	CALL(lab_dirty_bitmap(container, 0, 128 * PAGE, PAGE, bitmap, 16), -EFAULT);
	EXPECT(lab_bits(bitmap, 0, 64), 64);
	/* The first mapping is clean now, the second is not: a call that fails has consumed bits. */
	EXPECT(count_dirty(container, 0, 64), 0);
	EXPECT(count_dirty(container, 64 * PAGE, 64), 64);
	EXPECT(count_dirty(container, 64 * PAGE, 64), 0);
}

/*
 * If a mapping is read with an offset, its bits are shifted in place, and what is shifted out at
 * the end is cleared neither then nor later.
 */
static void type1_bits_beyond_the_end(void)
{
	struct lab_device mdev;
	uint64_t words[3] = { 0 };
	int container = dirty_once(&mdev, 0, 1, MIB, 65);

	/* Three pages before it: page 0 of the mapping is bit 3. */
	OK(lab_dirty_bitmap(container, MIB - 3 * PAGE, 68 * PAGE, PAGE, words, sizeof(words)));
	EXPECT(lab_bits(words, 0, 3), 0);
	EXPECT(lab_bits(words, 3, 68), 65);
	EXPECT(lab_bits(words, 68, 192), 0);
	memset(words, 0, sizeof(words));
	OK(lab_dirty_bitmap(container, MIB, 65 * PAGE, PAGE, words, sizeof(words)));
	EXPECT(lab_bits(words, 0, 65), 0);
	/* Bits of no page, from the time before. */
	EXPECT(lab_bits(words, 65, 128), 3);
	EXPECT(words[2], 0);
}

static void type1_limits(void)
{
	struct lab_device mdev;
	int container = mdev_container(&mdev);
	const uint64_t most = ((1ull << 31) - 1) * PAGE;
	uint64_t *bitmap = mmap(NULL, 256 * MIB, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	CHECK(bitmap != MAP_FAILED, "mmap: %s", strerror(errno));
	OK(lab_dirty_pages(container, START));
	OK(lab_dma_map(container, 4 * TIB, 64 * PAGE, lab_memory(64 * PAGE)));
	bitmap[4 * TIB / PAGE / 64] = ALL;
	OK(lab_dirty_bitmap(container, 0, most, PAGE, bitmap, 256 * MIB));
	EXPECT(bitmap[4 * TIB / PAGE / 64], 0);
	CALL(lab_dirty_bitmap(container, 0, most + 2 * PAGE, PAGE, bitmap, 256 * MIB), -EINVAL);
	CALL(lab_dirty_bitmap(container, 0, most, PAGE, bitmap, 256 * MIB - 8), -EINVAL);
}

/*
 * A mapping may end where the address space ends. 6.12 takes that for wrapping: it can neither be
 * read nor, except together with all others, unmapped.
 */
static void type1_last_page(void)
{
	struct lab_device mdev;
	uint64_t words[2] = { PATTERN, PATTERN }, done = 77;
	int container = mdev_container(&mdev), expected = newer() ? 0 : -EINVAL;

	OK(lab_dirty_pages(container, START));
	OK(lab_dma_map(container, 0 - PAGE, PAGE, lab_memory(PAGE)));
	CALL(lab_dirty_bitmap(container, 0 - PAGE, PAGE, PAGE, words, 8), expected);
	CALL(lab_dirty_bitmap(container, 0 - 2 * PAGE, 2 * PAGE, PAGE, words, 8), expected);
	OK(lab_dma_unmap_dirty(container, 0 - PAGE, PAGE, &done, PAGE, words, 8));
	EXPECT(done, newer() ? PAGE : 0);
	OK(lab_dma_unmap(container, 0 - PAGE, PAGE, &done));
	EXPECT(done, 0);
}

static void type1_unmap(void)
{
	struct lab_edu edu;
	uint64_t words[8] = { 0 }, done = 0;
	void *memory = lab_memory(128 * PAGE);
	int container;

	lab_edu_open(&edu, LAB_GROUP);
	container = edu.device.container;
	OK(lab_dma_map(container, 0, 64 * PAGE, memory));
	CALL(lab_dma_unmap_dirty(container, 0, 64 * PAGE, &done, PAGE, words, 8), -EINVAL);
	OK(lab_dirty_pages(container, START));
	CALL(lab_dma_unmap_dirty(container, 0, 64 * PAGE, &done, 8192, words, 8), -EINVAL);
	CALL(lab_dma_unmap_dirty(container, 0, 64 * PAGE, &done, PAGE, words, 7), -EINVAL);
	CALL(lab_dma_unmap_dirty(container, 0, 32 * PAGE, &done, PAGE, words, 8), -EINVAL);
	CALL(lab_dma_unmap_dirty(container, 0, 0, &done, PAGE, words, 8), -EINVAL);
	/* It is still there, complete. */
	EXPECT(count_dirty(container, 0, 64), 64);

	OK(lab_dma_unmap_dirty(container, 0, 64 * PAGE, &done, PAGE, words, 8));
	EXPECT(done, 64 * PAGE);
	EXPECT(words[0], -1);
	EXPECT(count_dirty(container, 0, 64), 0);
	/* If nothing is left there, that is not an error, and the bitmap does not change. */
	words[0] = PATTERN;
	OK(lab_dma_unmap_dirty(container, 0, 64 * PAGE, &done, PAGE, words, 8));
	EXPECT(done, 0);
	EXPECT(words[0], (long long)PATTERN);

	/* Several with a hole. */
	OK(lab_dma_map(container, 0, 64 * PAGE, memory));
	OK(lab_dma_map(container, 128 * PAGE, 128 * PAGE, memory));
	memset(words, 0, sizeof(words));
	OK(lab_dma_unmap_dirty(container, 0, 512 * PAGE, &done, PAGE, words, sizeof(words)));
	EXPECT(done, 192 * PAGE);
	EXPECT(lab_bits(words, 0, 64), 64);
	EXPECT(lab_bits(words, 64, 128), 0);
	EXPECT(lab_bits(words, 128, 256), 128);
	EXPECT(lab_bits(words, 256, 512), 0);
}

static void type1_unmap_fault(void)
{
	struct lab_device mdev;
	int container = dirty_once(&mdev, 0, 64, 64 * PAGE, 64);
	uint64_t *bitmap = bitmap_before_nothing(1), done = 77;

	CALL(lab_dma_unmap_dirty(container, 0, 128 * PAGE, &done, PAGE, bitmap, 16), -EFAULT);
	/* How much is gone is not reported: the caller's own value is still there. */
	EXPECT(done, 128 * PAGE);
	EXPECT(lab_bits(bitmap, 0, 64), 64);
	OK(lab_dma_map(container, 0, 64 * PAGE, lab_memory(64 * PAGE)));
	CALL(lab_dma_map(container, 64 * PAGE, 64 * PAGE, lab_memory(64 * PAGE)), -EEXIST);
	EXPECT(count_dirty(container, 64 * PAGE, 64), 64);
}

/* --- the device that does DMA
 * ------------------------------------------------------------------ */

static void check_dma(const struct lab_edu *edu, uint64_t iova, unsigned char *memory)
{
	memset(memory, 0, 2 * PAGE);
	for (unsigned i = 0; i < 256; i++)
		memory[i] = (unsigned char)(i * 7 + 1);
	lab_edu_load(edu, iova, 256);
	lab_edu_store(edu, iova + PAGE + 100, 256);
	for (unsigned i = 0; i < 2 * PAGE; i++) {
		unsigned from = i < PAGE ? i : i - (unsigned)PAGE - 100;

		EXPECT(memory[i], from < 256 ? (from * 7 + 1) & 0xff : 0);
	}
}

static void edu_type1(void)
{
	unsigned char *memory = lab_memory(2 * PAGE), *high = lab_memory(2 * PAGE);
	struct lab_edu edu;
	int container;

	lab_edu_open(&edu, LAB_GROUP);
	container = edu.device.container;
	OK(lab_dma_map(container, MIB, 2 * PAGE, memory));
	OK(lab_dma_map(container, 2 * TIB, 2 * PAGE, high));
	check_dma(&edu, MIB, memory);
	check_dma(&edu, 2 * TIB, high);
	/* The IOMMU is in between: where nothing is mapped, nothing is written. */
	OK(lab_dma_unmap(container, MIB, 2 * PAGE, NULL));
	memset(memory, 0x55, 2 * PAGE);
	lab_edu_store(&edu, MIB, 256);
	for (unsigned i = 0; i < 2 * PAGE; i++)
		EXPECT(memory[i], 0x55);
	lab_edu_close(&edu);
}

static void edu_iommufd(void)
{
	unsigned char *memory = lab_memory(2 * PAGE);
	uint64_t capabilities = 0;
	uint32_t ioas, pt, hwpt = 0;
	struct lab_edu edu;
	int fd;

	lab_edu_open(&edu, LAB_CDEV);
	fd = edu.device.iommufd;
	pt = ioas = lab_ioas(fd);
	OK(lab_attach(&edu.device, &pt));
	CHECK(pt != ioas, "no page table was made");
	OK(lab_ioas_map(fd, ioas, MIB, 2 * PAGE, memory));
	check_dma(&edu, MIB, memory);
	/* An IOMMU like most: without dirty tracking. */
	OK(lab_hw_info(fd, edu.device.devid, &capabilities));
	EXPECT(capabilities & LAB_HW_CAP_DIRTY_TRACKING, 0);
	CALL(lab_hwpt_alloc(fd, LAB_HWPT_ALLOC_DIRTY_TRACKING, edu.device.devid, ioas, &hwpt), -EOPNOTSUPP);
	CALL(lab_hwpt_set_tracking(fd, pt, 1), -EOPNOTSUPP);
	lab_edu_close(&edu);
}

/* --- page tables of iommufd -------------------------------------------------------------------- */

#define BASE LAB_MOCK_FIRST
#define MOCK_PAGES(bytes) ((bytes) / LAB_MOCK_PAGE)

/* With this much mapped at BASE, and tracking on. */
static void tracking(struct lab_mock *mock, uint64_t bytes)
{
	lab_mock_open(mock, 0);
	OK(lab_ioas_map(mock->iommufd, mock->ioas, BASE, bytes, lab_mock_memory(bytes)));
	OK(lab_hwpt_set_tracking(mock->iommufd, mock->hwpt, 1));
}

static int get(const struct lab_mock *mock, uint32_t flags, uint64_t iova, uint64_t length, uint64_t *words)
{
	return lab_hwpt_get_bitmap(mock->iommufd, mock->hwpt, flags, iova, length, LAB_MOCK_PAGE, words);
}

static uint64_t count_mock(const struct lab_mock *mock, uint32_t flags, uint64_t iova, uint64_t length)
{
	uint64_t words[1024] = { 0 };

	CHECK(MOCK_PAGES(length) <= 65536, "%llu bytes", (unsigned long long)length);
	OK(get(mock, flags, iova, length, words));
	return lab_bits(words, 0, 65536);
}

static void hwpt_geometry(void)
{
	struct lab_mock mock;
	uint64_t first, last;

	lab_mock_open(&mock, 0);
	lab_ioas_aperture(mock.iommufd, mock.ioas, &first, &last);
	EXPECT(first, LAB_MOCK_FIRST);
	EXPECT(last, LAB_MOCK_LAST);
}

static void hwpt_exact(void)
{
	static const unsigned pages[] = { 0, 1, 63, 64, 127, 1000, 1023 };
	struct lab_mock mock;
	uint64_t words[16] = { 0 };

	tracking(&mock, 4 * MIB);
	for (unsigned i = 0; i < 7; i++)
		lab_mock_dirty(&mock, BASE + pages[i] * LAB_MOCK_PAGE);
	OK(get(&mock, LAB_HWPT_GET_NO_CLEAR, BASE, 4 * MIB, words));
	EXPECT(lab_bits(words, 0, 1024), 7);
	for (unsigned i = 0; i < 7; i++)
		EXPECT(lab_bit(words, pages[i]), 1);
	/* A part, relative to its beginning. */
	memset(words, 0, sizeof(words));
	OK(get(&mock, 0, BASE + 64 * LAB_MOCK_PAGE, 64 * LAB_MOCK_PAGE, words));
	EXPECT(lab_bits(words, 0, 1024), 2);
	EXPECT(lab_bit(words, 0) + lab_bit(words, 63), 2);
	/* NO_CLEAR has kept everything, and the other call cleared only its own two. */
	EXPECT(count_mock(&mock, 0, BASE, 4 * MIB), 5);
	EXPECT(count_mock(&mock, 0, BASE, 4 * MIB), 0);
}

static void hwpt_sets_bits_only(void)
{
	struct lab_mock mock;
	uint64_t words[4] = { PATTERN, PATTERN, PATTERN, PATTERN };

	tracking(&mock, 256 * LAB_MOCK_PAGE);
	lab_mock_dirty(&mock, BASE + 64 * LAB_MOCK_PAGE);
	OK(get(&mock, 0, BASE, 256 * LAB_MOCK_PAGE, words));
	EXPECT(words[0], (long long)PATTERN);
	EXPECT(words[1], (long long)(PATTERN | 1));
	EXPECT(words[2], (long long)PATTERN);
	EXPECT(words[3], (long long)PATTERN);
}

static void hwpt_off(void)
{
	struct lab_mock mock;

	lab_mock_open(&mock, 0);
	OK(lab_ioas_map(mock.iommufd, mock.ioas, BASE, MIB, lab_mock_memory(MIB)));
	/* Never on: success, and nothing reported. */
	EXPECT(count_mock(&mock, 0, BASE, MIB), 0);
	OK(lab_hwpt_set_tracking(mock.iommufd, mock.hwpt, 1));
	lab_mock_dirty(&mock, BASE + 5 * LAB_MOCK_PAGE);
	OK(lab_hwpt_set_tracking(mock.iommufd, mock.hwpt, 0));
	OK(lab_hwpt_set_tracking(mock.iommufd, mock.hwpt, 0));
	/* Off again: success, whether what is left is reported (generic page tables) or not. */
	EXPECT(count_mock(&mock, 0, BASE, MIB), newer() ? 1 : 0);
	EXPECT(lab_mock_dirty_bits(&mock, BASE, LAB_MOCK_PAGE, (uint64_t[]){ 1 }), -EINVAL);
}

static void hwpt_enable(void)
{
	struct lab_mock mock;

	tracking(&mock, MIB);
	lab_mock_dirty(&mock, BASE);
	OK(lab_hwpt_set_tracking(mock.iommufd, mock.hwpt, 0));
	OK(lab_hwpt_set_tracking(mock.iommufd, mock.hwpt, 1));
	/* Stale bits are cleared when tracking begins ... */
	EXPECT(count_mock(&mock, 0, BASE, MIB), 0);
	lab_mock_dirty(&mock, BASE);
	/* ... and also if it was already on: what was dirtied since then is lost. */
	OK(lab_hwpt_set_tracking(mock.iommufd, mock.hwpt, 1));
	EXPECT(count_mock(&mock, 0, BASE, MIB), 0);
	lab_mock_dirty(&mock, BASE);
	EXPECT(count_mock(&mock, 0, BASE, MIB), 1);
	CALL(lab_hwpt_set_tracking(mock.iommufd, mock.hwpt, 2), -EOPNOTSUPP);
	CALL(lab_hwpt_set_tracking(mock.iommufd, mock.hwpt + 999, 1), -ENOENT);
	/* An IOAS is not a page table. */
	CALL(lab_hwpt_set_tracking(mock.iommufd, mock.ioas, 1), -ENOENT);
}

static void hwpt_hole(void)
{
	const uint64_t second = BASE + 2 * MIB;
	struct lab_mock mock;
	uint64_t words[64] = { 0 };

	tracking(&mock, MIB);
	OK(lab_ioas_map(mock.iommufd, mock.ioas, second, MIB, lab_mock_memory(MIB)));
	lab_mock_dirty(&mock, BASE + 3 * LAB_MOCK_PAGE);
	lab_mock_dirty(&mock, second + 4 * LAB_MOCK_PAGE);
	/* Success, but what comes after the hole is not even looked at. */
	OK(get(&mock, 0, BASE, 3 * MIB, words));
	EXPECT(lab_bits(words, 0, 4096), 1);
	EXPECT(lab_bit(words, 3), 1);
	EXPECT(count_mock(&mock, 0, BASE, MIB), 0);
	EXPECT(count_mock(&mock, LAB_HWPT_GET_NO_CLEAR, second, MIB), 1);
	/* A hole at the front hides everything; so does one at the end, if it is not at the very
	 * end. */
	EXPECT(count_mock(&mock, LAB_HWPT_GET_NO_CLEAR, second - MIB, 2 * MIB), 0);
	EXPECT(count_mock(&mock, LAB_HWPT_GET_NO_CLEAR, second, 2 * MIB), 1);
	EXPECT(count_mock(&mock, 0, second, MIB), 1);
}

static void hwpt_adjacent(void)
{
	struct lab_mock mock;
	uint64_t words[64] = { 0 };

	tracking(&mock, MIB);
	for (unsigned i = 1; i < 4; i++)
		OK(lab_ioas_map(mock.iommufd, mock.ioas, BASE + i * MIB, MIB, lab_mock_memory(MIB)));
	for (unsigned i = 0; i < 4; i++)
		lab_mock_dirty(&mock, BASE + i * MIB + i * LAB_MOCK_PAGE);
	OK(get(&mock, LAB_HWPT_GET_NO_CLEAR, BASE, 4 * MIB, words));
	EXPECT(lab_bits(words, 0, 4096), 4);
	for (unsigned i = 0; i < 4; i++)
		EXPECT(lab_bit(words, i * MOCK_PAGES(MIB) + i), 1);
	/* From within one to within another. */
	EXPECT(count_mock(&mock, 0, BASE + MIB / 2, 2 * MIB), 2);
	EXPECT(count_mock(&mock, 0, BASE, 4 * MIB), 2);
}

static void hwpt_bad_pointer(void)
{
	struct lab_mock mock;
	uint64_t *read_only = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t *edge;

	CHECK(read_only != MAP_FAILED, "mmap: %s", strerror(errno));
	tracking(&mock, 4 * MIB);
	/* Success; nothing is written, and what was dirty is no longer dirty. */
	lab_mock_dirty(&mock, BASE);
	OK(get(&mock, 0, BASE, MIB, (uint64_t *)PAGE));
	EXPECT(count_mock(&mock, 0, BASE, MIB), 0);
	lab_mock_dirty(&mock, BASE);
	OK(get(&mock, 0, BASE, MIB, read_only));
	EXPECT(*read_only, 0);
	EXPECT(count_mock(&mock, 0, BASE, MIB), 0);
	/* The second half of the bitmap is not there. */
	edge = bitmap_before_nothing(8);
	lab_mock_dirty(&mock, BASE + LAB_MOCK_PAGE);
	lab_mock_dirty(&mock, BASE + 3 * MIB);
	OK(get(&mock, 0, BASE, 4 * MIB, edge));
	EXPECT(lab_bits(edge, 0, 512), 1);
	EXPECT(count_mock(&mock, 0, BASE, 4 * MIB), 0);
	/* With NO_CLEAR nothing is lost. */
	lab_mock_dirty(&mock, BASE);
	OK(get(&mock, LAB_HWPT_GET_NO_CLEAR, BASE, MIB, (uint64_t *)PAGE));
	EXPECT(count_mock(&mock, 0, BASE, MIB), 1);
}

static int get_sized(const struct lab_mock *mock, uint64_t iova, uint64_t length, uint64_t page_size, uint64_t *words)
{
	return lab_hwpt_get_bitmap(mock->iommufd, mock->hwpt, LAB_HWPT_GET_NO_CLEAR, iova, length, page_size, words);
}

static void hwpt_page_sizes(void)
{
	/* 6.12's mock tracks each half of a page, 7.3's the whole. */
	const unsigned halves = newer() ? 2 : 1;
	struct lab_mock mock;
	uint64_t words[64] = { 0 };

	tracking(&mock, 4 * MIB);
	lab_mock_dirty(&mock, BASE + 3 * PAGE);
	lab_mock_dirty(&mock, BASE + 3 * MIB);
	OK(get_sized(&mock, BASE, 4 * MIB, 4096, words));
	EXPECT(lab_bits(words, 0, 4096), 2);
	EXPECT(lab_bit(words, 3) + lab_bit(words, 768), 2);
	memset(words, 0, sizeof(words));
	OK(get_sized(&mock, BASE, 4 * MIB, MIB, words));
	EXPECT(words[0], 9);
	/* Finer than what the IOMMU tracks: one becomes several. */
	memset(words, 0, sizeof(words));
	OK(get_sized(&mock, BASE, MIB, 512, words));
	EXPECT(lab_bits(words, 0, 4096), 4 * halves);
	EXPECT(lab_bits(words, 24, 24 + 4 * halves), 4 * halves);
	/*
	 * Not a power of two, but aligned in the kernel's way: taken as its lowest bit, and three times
	 * as much bitmap is written as was asked for.
	 */
	memset(words, 0, sizeof(words));
	OK(get_sized(&mock, BASE, 4 * MIB, 6144, words));
	EXPECT(lab_bits(words, 0, 4096), 2 * halves);
	EXPECT(lab_bit(words, 6) + lab_bit(words, 1536), 2);
}

static void hwpt_arguments(void)
{
	struct lab_mock mock;
	uint64_t words[64] = { 0 };

	tracking(&mock, 4 * MIB);
	CALL(get_sized(&mock, BASE, 0, 4096, words), -EINVAL);
	CALL(get_sized(&mock, BASE, MIB, 0, words), -EINVAL);
	CALL(get_sized(&mock, BASE + 1024, MIB, 1024, words), -EINVAL);
	CALL(get_sized(&mock, BASE, MIB + 1024, 1024, words), -EINVAL);
	CALL(get_sized(&mock, BASE + 2048, MIB, 4096, words), -EINVAL);
	CALL(get_sized(&mock, BASE, MIB + 2048, 4096, words), -EINVAL);
	CALL(get_sized(&mock, 0 - 4096ull, 8192, 4096, words), -EOVERFLOW);
	/* Up to the end of the address space is no overflow (and there is a hole). */
	OK(get_sized(&mock, 0 - 4096ull, 4096, 4096, words));
	CALL(lab_hwpt_get_bitmap(mock.iommufd, mock.hwpt, 2, BASE, MIB, 4096, words), -EOPNOTSUPP);
	CALL(lab_hwpt_get_bitmap(mock.iommufd, mock.hwpt + 999, 0, BASE, MIB, 4096, words), -ENOENT);
	CALL(lab_hwpt_get_bitmap(mock.iommufd, mock.ioas, 0, BASE, MIB, 4096, words), -ENOENT);
	EXPECT(lab_bits(words, 0, 4096), 0);
}

static void hwpt_mappings_change(void)
{
	struct lab_mock mock;
	void *memory = lab_mock_memory(MIB);

	tracking(&mock, MIB);
	/* What is added while tracking is on is tracked. */
	OK(lab_ioas_map(mock.iommufd, mock.ioas, BASE + MIB, MIB, memory));
	lab_mock_dirty(&mock, BASE + MIB + LAB_MOCK_PAGE);
	EXPECT(count_mock(&mock, LAB_HWPT_GET_NO_CLEAR, BASE, 2 * MIB), 1);
	/* What is removed takes its bits along: they must have been read before. */
	OK(lab_ioas_unmap(mock.iommufd, mock.ioas, BASE + MIB, MIB));
	EXPECT(count_mock(&mock, LAB_HWPT_GET_NO_CLEAR, BASE + MIB, MIB), 0);
	OK(lab_ioas_map(mock.iommufd, mock.ioas, BASE + MIB, MIB, memory));
	EXPECT(count_mock(&mock, LAB_HWPT_GET_NO_CLEAR, BASE, 2 * MIB), 0);
}

static void hwpt_which_device(void)
{
	struct lab_mock mock, plain;
	uint64_t capabilities = 0;
	uint32_t hwpt = 0;

	lab_mock_open(&mock, 0);
	OK(lab_hw_info(mock.iommufd, mock.devid, &capabilities));
	EXPECT(capabilities & LAB_HW_CAP_DIRTY_TRACKING, LAB_HW_CAP_DIRTY_TRACKING);
	/* The page table that attaching to an IOAS made. */
	CALL(lab_hwpt_set_tracking(mock.iommufd, mock.first_hwpt, 1), -ENOENT);
	lab_mock_add(&plain, mock.iommufd, mock.ioas, LAB_MOCK_NO_DIRTY);
	OK(lab_hw_info(mock.iommufd, plain.devid, &capabilities));
	EXPECT(capabilities & LAB_HW_CAP_DIRTY_TRACKING, 0);
	CALL(lab_hwpt_set_tracking(mock.iommufd, plain.first_hwpt, 1), -EOPNOTSUPP);
	CALL(lab_hwpt_alloc(mock.iommufd, LAB_HWPT_ALLOC_DIRTY_TRACKING, plain.devid, mock.ioas, &hwpt), -EOPNOTSUPP);
	CALL(lab_mock_replace(&plain, mock.hwpt), -EINVAL);
}

/* A mediated device has no page table. */
static void hwpt_of_mdev(void)
{
	struct lab_device mdev;
	uint64_t capabilities = 0;
	uint32_t ioas, pt, hwpt = 0;

	lab_create(&mdev, 1);
	lab_open(&mdev, LAB_CDEV);
	pt = ioas = lab_ioas(mdev.iommufd);
	OK(lab_attach(&mdev, &pt));
	EXPECT(pt, ioas);
	CALL(lab_hw_info(mdev.iommufd, mdev.devid, &capabilities), -ENOENT);
	CALL(lab_hwpt_alloc(mdev.iommufd, LAB_HWPT_ALLOC_DIRTY_TRACKING, mdev.devid, ioas, &hwpt), -ENOENT);
	CALL(lab_hwpt_alloc(mdev.iommufd, 0, mdev.devid, ioas, &hwpt), -ENOENT);
	CALL(lab_hwpt_set_tracking(mdev.iommufd, ioas, 1), -ENOENT);
}

/* --- large entries of page tables -------------------------------------------------------------- */

/* Each MiB at BASE is one entry, and tracking is on. */
static void tracking_huge(struct lab_mock *mock, uint64_t bytes)
{
	lab_mock_open(mock, LAB_MOCK_HUGE);
	OK(lab_ioas_map(mock->iommufd, mock->ioas, BASE, bytes, lab_huge_memory(bytes)));
	OK(lab_hwpt_set_tracking(mock->iommufd, mock->hwpt, 1));
}

static void huge_all_or_nothing(void)
{
	struct lab_mock mock;
	uint64_t words[16] = { 0 };

	tracking_huge(&mock, 2 * MIB);
	lab_mock_dirty(&mock, BASE + 200 * PAGE);
	OK(get(&mock, 0, BASE, 2 * MIB, words));
	/* 7.3 makes one entry of 2 MiB, 6.12 has none larger than 1 MiB. */
	EXPECT(lab_bits(words, 0, 512), newer() ? 512 : 256);
	EXPECT(lab_bits(words, 0, 256), 256);
	EXPECT(count_mock(&mock, 0, BASE, 2 * MIB), 0);
}

/* A range that begins within an entry. */
static void huge_cut_in_front(void)
{
	struct lab_mock mock;
	uint64_t words[16] = { 0 };

	tracking_huge(&mock, 2 * MIB);
	lab_mock_dirty(&mock, BASE + 130 * PAGE);
	OK(get(&mock, 0, BASE + 128 * PAGE, 128 * PAGE, words));
	/* 7.3 reports nothing, but clears the entry anyway. */
	EXPECT(lab_bits(words, 0, 128), newer() ? 0 : 128);
	EXPECT(count_mock(&mock, 0, BASE, 2 * MIB), 0);
}

/* The same with smaller entries after it: 6.12 skips as many of these as were cut off. */
static void huge_cut_in_front_skips(void)
{
	struct lab_mock mock;
	uint64_t words[16] = { 0 };

	/* 1 MiB in one entry, and half a MiB that is too small for one in 6.12. */
	tracking_huge(&mock, MIB + MIB / 2);
	lab_mock_dirty(&mock, BASE + MIB + 5 * PAGE);
	OK(get(&mock, 0, BASE + 128 * PAGE, MIB, words));
	EXPECT(lab_bits(words, 0, 256), newer() ? 128 : 0);
	EXPECT(lab_bit(words, 128 + 5), newer() ? 1 : 0);
	/* Not lost: the next one finds it. */
	EXPECT(count_mock(&mock, 0, BASE, MIB + MIB / 2), newer() ? 0 : 1);
}

/* A range that ends inside an entry: bits beyond the end of the bitmap are set as well. */
static void huge_cut_at_the_end(void)
{
	struct lab_mock mock;
	uint64_t *words = lab_memory(PAGE);

	tracking_huge(&mock, 2 * MIB);
	lab_mock_dirty(&mock, BASE);
	OK(get(&mock, 0, BASE, 64 * PAGE, words));
	EXPECT(lab_bits(words, 0, 64), 64);
	EXPECT(lab_bits(words, 64, PAGE * 8), (newer() ? 512 : 256) - 64);
}

/*
 * How far beyond: as far as memory is pinned, which is a page more than needed, if there is one.
 * First with a bitmap of exactly one page, then with one of a few words.
 */
static void huge_cut_at_the_end_of_a_page(void)
{
	const uint64_t start = BASE + MIB / 2;
	struct lab_mock mock;
	uint64_t *words = lab_memory(3 * PAGE), *next = words + PAGE / 8, *last = next + PAGE / 8;
	unsigned char *memory = lab_huge_memory(18 * MIB);

	lab_mock_open(&mock, LAB_MOCK_HUGE);
	OK(lab_ioas_map(mock.iommufd, mock.ioas, start, 18 * MIB - MIB / 2, memory + MIB / 2));
	OK(lab_hwpt_set_tracking(mock.iommufd, mock.hwpt, 1));
	lab_mock_dirty(&mock, BASE + 16 * MIB);
	OK(lab_hwpt_get_bitmap(mock.iommufd, mock.hwpt, 0, start, 16 * MIB, 512, words));
	EXPECT(lab_bits(words, 0, PAGE * 8), 1024);
	EXPECT(lab_bits(words, PAGE * 8 - 1024, PAGE * 8), 1024);
	EXPECT(lab_bits(next, 0, 2 * PAGE * 8), (newer() ? 4096 : 2048) - 1024);

	/* One page in pages of 8 bytes: 64 bytes of bitmap are asked for. */
	memset(words, 0, PAGE);
	memset(next, 0, PAGE);
	lab_mock_dirty(&mock, BASE + 16 * MIB);
	OK(lab_hwpt_get_bitmap(mock.iommufd, mock.hwpt, 0, BASE + 16 * MIB, PAGE, 8, words + 8));
	EXPECT(lab_bits(words, 0, 512), 0);
	EXPECT(lab_bits(words, 512, 2 * PAGE * 8), 2 * PAGE * 8 - 512);
	EXPECT(lab_bits(last, 0, PAGE * 8), 0);

	/* If there is no memory, no harm is done. */
	CHECK(munmap(next, PAGE) == 0, "munmap: %s", strerror(errno));
	memset(words, 0, PAGE);
	lab_mock_dirty(&mock, BASE + 16 * MIB);
	OK(lab_hwpt_get_bitmap(mock.iommufd, mock.hwpt, 0, start, 16 * MIB, 512, words));
	EXPECT(lab_bits(words, 0, PAGE * 8), 1024);
}

/* --- is everything mapped? --------------------------------------------------------------------- */

/* IOAS_COPY into an IOAS of no device, which is then destroyed: 0 if all of the range is mapped. */
static int all_mapped(int fd, uint32_t ioas, uint64_t iova, uint64_t length)
{
	uint32_t copy = lab_ioas(fd);
	int ret = lab_ioas_copy(fd, copy, iova, ioas, iova, length);

	OK(lab_iommufd_destroy(fd, copy));
	return ret;
}

static void copy_finds_holes(void)
{
	struct lab_mock mock;
	int fd;

	tracking(&mock, MIB);
	fd = mock.iommufd;
	OK(lab_ioas_map(fd, mock.ioas, BASE + MIB, MIB, lab_mock_memory(MIB)));
	OK(lab_ioas_map(fd, mock.ioas, BASE + 3 * MIB, MIB, lab_mock_memory(MIB)));
	OK(all_mapped(fd, mock.ioas, BASE, MIB));
	OK(all_mapped(fd, mock.ioas, BASE, 2 * MIB));
	OK(all_mapped(fd, mock.ioas, BASE + MIB / 2, MIB));
	OK(all_mapped(fd, mock.ioas, BASE + 3 * MIB, PAGE));
	CALL(all_mapped(fd, mock.ioas, BASE, 4 * MIB), -ENOENT);
	CALL(all_mapped(fd, mock.ioas, BASE, 2 * MIB + PAGE), -ENOENT);
	CALL(all_mapped(fd, mock.ioas, BASE + 2 * MIB, 2 * MIB), -ENOENT);
	CALL(all_mapped(fd, mock.ioas, BASE + 2 * MIB, MIB), -ENOENT);
	CALL(all_mapped(fd, mock.ioas, BASE, 0), -EINVAL);
	CALL(all_mapped(fd, mock.ioas, 0 - PAGE, 2 * PAGE), -EOVERFLOW);
	CALL(all_mapped(fd, mock.ioas + 999, BASE, MIB), -ENOENT);
}

static void copy_leaves_no_trace(void)
{
	struct lab_mock mock;
	uint32_t copy;
	int fd;

	tracking(&mock, 4 * MIB);
	fd = mock.iommufd;
	lab_mock_dirty(&mock, BASE + LAB_MOCK_PAGE);
	OK(all_mapped(fd, mock.ioas, BASE, 4 * MIB));
	/* The bits are as they were. */
	EXPECT(count_mock(&mock, 0, BASE, 4 * MIB), 1);
	/* The source may be unmapped while the copy exists, and the copy outlives it. */
	copy = lab_ioas(fd);
	OK(lab_ioas_copy(fd, copy, BASE, mock.ioas, BASE, 4 * MIB));
	OK(lab_ioas_unmap(fd, mock.ioas, BASE, 4 * MIB));
	CALL(all_mapped(fd, mock.ioas, BASE, 4 * MIB), -ENOENT);
	OK(all_mapped(fd, copy, BASE, 4 * MIB));
	OK(lab_iommufd_destroy(fd, copy));
	/* The place is free. */
	OK(lab_ioas_map(fd, mock.ioas, BASE, 4 * MIB, lab_mock_memory(4 * MIB)));
	OK(all_mapped(fd, mock.ioas, BASE, 4 * MIB));
	OK(lab_ioas_unmap(fd, mock.ioas, BASE, 4 * MIB));
}

static unsigned long long proc_status(const char *name)
{
	char line[256];
	FILE *file = fopen("/proc/self/status", "r");
	unsigned long long value = 0;

	CHECK(file, "/proc/self/status: %s", strerror(errno));
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, name, strlen(name)))
			value = strtoull(line + strlen(name) + 1, NULL, 10);
	fclose(file);
	return value;
}

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* The shortest time, out of many attempts, that it takes to find everything mapped: anything
 * else that takes time is not its cost. */
static uint64_t least_us(int fd, uint32_t ioas, uint64_t iova, uint64_t len, unsigned times)
{
	uint64_t least = UINT64_MAX;

	for (unsigned i = 0; i < times; i++) {
		uint64_t start = now_us(), us;

		OK(all_mapped(fd, ioas, iova, len));
		us = now_us() - start;
		if (us < least)
			least = us;
	}
	return least;
}

static void copy_costs(void)
{
	struct lab_mock mock;
	unsigned long long pinned;
	uint64_t one, many;
	uint32_t other;
	void *memory;
	int fd;

	lab_mock_open(&mock, 0);
	fd = mock.iommufd;
	memory = lab_memory(64 * MIB);
	/* 1 GiB in 16 pieces, later in 1024, of an IOAS without a page table. */
	for (uint64_t at = 0; at < GIB; at += 64 * MIB)
		OK(lab_ioas_map(fd, mock.ioas, BASE + at, 64 * MIB, memory));
	pinned = proc_status("VmPin");
	EXPECT(pinned, GIB >> 10);
	other = lab_ioas(fd);
	OK(lab_ioas_copy(fd, other, BASE, mock.ioas, BASE, GIB));
	EXPECT(proc_status("VmPin"), (long long)pinned);
	OK(lab_iommufd_destroy(fd, other));
	one = least_us(fd, mock.ioas, BASE, GIB, 100);
	EXPECT(proc_status("VmPin"), (long long)pinned);

	other = lab_ioas(fd);
	for (uint64_t at = 0; at < GIB; at += MIB)
		OK(lab_ioas_map(fd, other, at, MIB, memory));
	many = least_us(fd, other, 0, GIB, 10);
	printf("| is 1 GiB mapped, by a copy: %llu us for 16 mappings, %llu us for 1024; pinned %llu KiB\n",
	       (unsigned long long)one, (unsigned long long)many, pinned);
	/* Cost depends on the number of mappings, not on size: it could not go through 262144 pages
	 * in that time. */
	CHECK(one < 20000, "%llu us", (unsigned long long)one);
}

/* A mapping that devices may only read can be copied for reading only. */
static void copy_of_read_only(void)
{
	struct lab_mock mock;
	struct lab_iommu_ioas_map map = { .size = sizeof(map) };
	struct lab_iommu_ioas_copy copy = { .size = sizeof(copy) };
	uint32_t other;

	lab_mock_open(&mock, 0);
	map.flags = LAB_IOAS_FIXED_IOVA | LAB_IOAS_READABLE;
	map.ioas_id = mock.ioas;
	map.user_va = (uintptr_t)lab_mock_memory(MIB);
	map.length = MIB;
	map.iova = BASE;
	OK(ioctl(mock.iommufd, LAB_IOMMU_IOAS_MAP, &map) ? -errno : 0);
	OK(all_mapped(mock.iommufd, mock.ioas, BASE, MIB));
	other = lab_ioas(mock.iommufd);
	copy.flags = LAB_IOAS_FIXED_IOVA | LAB_IOAS_READABLE | LAB_IOAS_WRITEABLE;
	copy.dst_ioas_id = other;
	copy.src_ioas_id = mock.ioas;
	copy.length = MIB;
	copy.dst_iova = copy.src_iova = BASE;
	CALL(ioctl(mock.iommufd, LAB_IOMMU_IOAS_COPY, &copy) ? -errno : 0, -EPERM);
}

int main(void)
{
	lab_run("kernel-type1-info", type1_info);
	lab_run("kernel-type1-start-and-stop-are-idempotent", type1_start_stop);
	lab_run("kernel-type1-arguments", type1_arguments);
	lab_run("kernel-type1-ranges-must-not-bisect-mappings", type1_bisecting);
	lab_run("kernel-type1-which-words-are-written", type1_words);
	lab_run("kernel-type1-mdevs-only-are-clean", type1_clean);
	lab_run("kernel-type1-pci-device-makes-all-dirty", type1_pci);
	lab_run("kernel-type1-pci-device-comes-and-goes", type1_pci_comes_and_goes);
	lab_run("kernel-type1-fault-loses-bits", type1_fault_loses_bits);
	lab_run("kernel-type1-bits-beyond-the-end", type1_bits_beyond_the_end);
	lab_run("kernel-type1-limits", type1_limits);
	lab_run("kernel-type1-last-page", type1_last_page);
	lab_run("kernel-type1-unmap-with-bitmap", type1_unmap);
	lab_run("kernel-type1-unmap-with-bitmap-fault", type1_unmap_fault);
	lab_run("kernel-edu-type1", edu_type1);
	lab_run("kernel-edu-iommufd", edu_iommufd);
	lab_run("kernel-hwpt-geometry", hwpt_geometry);
	lab_run("kernel-hwpt-exact", hwpt_exact);
	lab_run("kernel-hwpt-sets-bits-only", hwpt_sets_bits_only);
	lab_run("kernel-hwpt-off-is-success", hwpt_off);
	lab_run("kernel-hwpt-enabling-clears-even-when-enabled", hwpt_enable);
	lab_run("kernel-hwpt-hole-is-success", hwpt_hole);
	lab_run("kernel-hwpt-adjacent-mappings", hwpt_adjacent);
	lab_run("kernel-hwpt-bad-pointer-is-success", hwpt_bad_pointer);
	lab_run("kernel-hwpt-page-sizes", hwpt_page_sizes);
	lab_run("kernel-hwpt-arguments", hwpt_arguments);
	lab_run("kernel-hwpt-mappings-change", hwpt_mappings_change);
	lab_run("kernel-hwpt-which-device", hwpt_which_device);
	lab_run("kernel-hwpt-of-mdev", hwpt_of_mdev);
	lab_run("kernel-hwpt-large-entries-are-dirty-as-a-whole", huge_all_or_nothing);
	lab_run("kernel-hwpt-large-entry-cut-in-front", huge_cut_in_front);
	lab_run("kernel-hwpt-large-entry-cut-in-front-skips", huge_cut_in_front_skips);
	lab_run("kernel-hwpt-large-entry-cut-at-the-end", huge_cut_at_the_end);
	lab_run("kernel-hwpt-large-entry-cut-at-the-end-of-a-page", huge_cut_at_the_end_of_a_page);
	lab_run("kernel-copy-finds-holes", copy_finds_holes);
	lab_run("kernel-copy-leaves-no-trace", copy_leaves_no_trace);
	lab_run("kernel-copy-costs", copy_costs);
	lab_run("kernel-copy-of-read-only", copy_of_read_only);
	return lab_status();
}
