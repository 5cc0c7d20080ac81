/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "iommu.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>

#define HUGE_PAGE ((size_t)2 << 20)

static int call(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg) ? -errno : 0;
}

/* --- type1 ------------------------------------------------------------------------------------- */

int lab_dma_map(int container, uint64_t iova, uint64_t size, void *memory)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)memory,
		.iova = iova,
		.size = size,
	};

	return call(container, VFIO_IOMMU_MAP_DMA, &map);
}

int lab_dma_unmap(int container, uint64_t iova, uint64_t size, uint64_t *done)
{
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap), .iova = iova, .size = size };
	int ret = call(container, VFIO_IOMMU_UNMAP_DMA, &unmap);

	if (done)
		*done = unmap.size;
	return ret;
}

int lab_dma_unmap_dirty(int container, uint64_t iova, uint64_t size, uint64_t *done, uint64_t page_size,
			uint64_t *bitmap, uint64_t bytes)
{
	/* The kernel's structure ends with an array that contains the bitmap's description. */
	struct {
		uint32_t argsz;
		uint32_t flags;
		uint64_t iova;
		uint64_t size;
		struct vfio_bitmap bitmap;
	} unmap = {
		.argsz = sizeof(unmap),
		.flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
		.iova = iova,
		.size = size,
		.bitmap = { .pgsize = page_size, .size = bytes, .data = (void *)bitmap },
	};
	int ret = call(container, VFIO_IOMMU_UNMAP_DMA, &unmap);

	if (done)
		*done = unmap.size;
	return ret;
}

int lab_dirty_pages(int container, uint32_t flag)
{
	struct vfio_iommu_type1_dirty_bitmap dirty = { .argsz = sizeof(dirty), .flags = flag };

	return call(container, VFIO_IOMMU_DIRTY_PAGES, &dirty);
}

int lab_dirty_bitmap(int container, uint64_t iova, uint64_t size, uint64_t page_size, uint64_t *bitmap,
		     uint64_t bytes)
{
	struct {
		uint32_t argsz;
		uint32_t flags;
		struct vfio_iommu_type1_dirty_bitmap_get get;
	} dirty = {
		.argsz = sizeof(dirty),
		.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
		.get = {
			.iova = iova,
			.size = size,
			.bitmap = { .pgsize = page_size, .size = bytes, .data = (void *)bitmap },
		},
	};

	return call(container, VFIO_IOMMU_DIRTY_PAGES, &dirty);
}

int lab_dirty_info(int container, struct lab_dirty_info *out)
{
	union {
		struct {
			uint32_t argsz;
			uint32_t flags;
			uint64_t page_sizes;
			uint32_t cap_offset;
			uint32_t pad;
		} info;
		unsigned char bytes[4096];
	} answer = { .info.argsz = sizeof(answer) };
	uint32_t at;

	OK(call(container, VFIO_IOMMU_GET_INFO, &answer));
	out->iova_page_sizes = answer.info.page_sizes;
	/* VFIO_IOMMU_INFO_CAPS */
	at = answer.info.flags & 2 ? answer.info.cap_offset : 0;
	while (at) {
		struct vfio_iommu_type1_info_cap_migration cap;

		CHECK(at <= sizeof(answer) - sizeof(cap), "a capability is at %u", at);
		memcpy(&cap, answer.bytes + at, sizeof(cap));
		if (cap.header.id == VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION) {
			out->page_sizes = cap.pgsize_bitmap;
			out->max_bitmap = cap.max_dirty_bitmap_size;
			return 0;
		}
		at = cap.header.next;
	}
	return -ENOENT;
}

/* --- iommufd ----------------------------------------------------------------------------------- */

int lab_iommufd(void)
{
	int fd;

	lab_need(LAB_CDEV);
	fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0, "/dev/iommu: %s", strerror(errno));
	return fd;
}

uint32_t lab_ioas(int iommufd)
{
	struct lab_iommu_ioas_alloc alloc = { .size = sizeof(alloc) };

	OK(call(iommufd, LAB_IOMMU_IOAS_ALLOC, &alloc));
	return alloc.out_ioas_id;
}

int lab_ioas_map(int iommufd, uint32_t ioas, uint64_t iova, uint64_t length, void *memory)
{
	struct lab_iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = LAB_IOAS_FIXED_IOVA | LAB_IOAS_READABLE | LAB_IOAS_WRITEABLE,
		.ioas_id = ioas,
		.user_va = (uintptr_t)memory,
		.length = length,
		.iova = iova,
	};

	return call(iommufd, LAB_IOMMU_IOAS_MAP, &map);
}

int lab_ioas_unmap(int iommufd, uint32_t ioas, uint64_t iova, uint64_t length)
{
	struct lab_iommu_ioas_unmap unmap = {
		.size = sizeof(unmap), .ioas_id = ioas, .iova = iova, .length = length,
	};

	return call(iommufd, LAB_IOMMU_IOAS_UNMAP, &unmap);
}

int lab_ioas_copy(int iommufd, uint32_t to, uint64_t to_iova, uint32_t from, uint64_t from_iova, uint64_t length)
{
	struct lab_iommu_ioas_copy copy = {
		.size = sizeof(copy),
		.flags = LAB_IOAS_FIXED_IOVA | LAB_IOAS_READABLE,
		.dst_ioas_id = to,
		.src_ioas_id = from,
		.length = length,
		.dst_iova = to_iova,
		.src_iova = from_iova,
	};

	return call(iommufd, LAB_IOMMU_IOAS_COPY, &copy);
}

void lab_ioas_aperture(int iommufd, uint32_t ioas, uint64_t *start, uint64_t *last)
{
	struct lab_iova_range range = { 0, 0 };
	struct lab_iommu_ioas_iova_ranges ranges = {
		.size = sizeof(ranges), .ioas_id = ioas, .num_iovas = 1, .allowed_iovas = (uintptr_t)&range,
	};

	OK(call(iommufd, LAB_IOMMU_IOAS_IOVA_RANGES, &ranges));
	EXPECT(ranges.num_iovas, 1);
	*start = range.start;
	*last = range.last;
}

int lab_iommufd_destroy(int iommufd, uint32_t id)
{
	struct lab_iommu_destroy destroy = { .size = sizeof(destroy), .id = id };

	return call(iommufd, LAB_IOMMU_DESTROY, &destroy);
}

int lab_hw_info(int iommufd, uint32_t devid, uint64_t *capabilities)
{
	struct lab_iommu_hw_info info = { .size = sizeof(info), .dev_id = devid };
	int ret = call(iommufd, LAB_IOMMU_GET_HW_INFO, &info);

	*capabilities = info.out_capabilities;
	return ret;
}

int lab_hwpt_alloc(int iommufd, uint32_t flags, uint32_t devid, uint32_t ioas, uint32_t *hwpt)
{
	struct lab_iommu_hwpt_alloc alloc = {
		.size = sizeof(alloc), .flags = flags, .dev_id = devid, .pt_id = ioas,
	};
	int ret = call(iommufd, LAB_IOMMU_HWPT_ALLOC, &alloc);

	*hwpt = alloc.out_hwpt_id;
	return ret;
}

int lab_hwpt_set_tracking(int iommufd, uint32_t hwpt, uint32_t flags)
{
	struct lab_iommu_hwpt_set_dirty set = { .size = sizeof(set), .flags = flags, .hwpt_id = hwpt };

	return call(iommufd, LAB_IOMMU_HWPT_SET_DIRTY, &set);
}

int lab_hwpt_get_bitmap(int iommufd, uint32_t hwpt, uint32_t flags, uint64_t iova, uint64_t length,
			uint64_t page_size, void *bitmap)
{
	struct lab_iommu_hwpt_get_dirty get = {
		.size = sizeof(get),
		.hwpt_id = hwpt,
		.flags = flags,
		.iova = iova,
		.length = length,
		.page_size = page_size,
		.data = (uintptr_t)bitmap,
	};

	return call(iommufd, LAB_IOMMU_HWPT_GET_DIRTY, &get);
}

int lab_attach(const struct lab_device *device, uint32_t *pt)
{
	struct lab_vfio_attach_pt attach = { .argsz = sizeof(attach), .pt_id = *pt };
	int ret = call(device->fd, LAB_VFIO_ATTACH_PT, &attach);

	*pt = attach.pt_id;
	return ret;
}

/* --- mock domains ------------------------------------------------------------------------------ */

void lab_need_mock(void)
{
	/* The lab's own kernels have both iommufd and its mocks, Debian's has neither. */
	lab_need(LAB_CDEV);
}

void lab_mock_add(struct lab_mock *mock, int iommufd, uint32_t ioas, uint32_t flags)
{
	struct lab_iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = LAB_TEST_MOCK_DOMAIN_FLAGS,
		.id = ioas,
		/* 7.3 no longer has this flag. */
		.mock_domain_flags.dev_flags = lab_kernel_is("7.3") ? flags & ~(uint32_t)LAB_MOCK_HUGE : flags,
	};

	*mock = (struct lab_mock){ .iommufd = iommufd, .ioas = ioas };
	OK(call(iommufd, LAB_IOMMU_TEST_CMD, &cmd));
	mock->dev = cmd.mock_domain_flags.out_stdev_id;
	mock->devid = cmd.mock_domain_flags.out_idev_id;
	mock->first_hwpt = cmd.mock_domain_flags.out_hwpt_id;
}

int lab_mock_replace(const struct lab_mock *mock, uint32_t pt)
{
	struct lab_iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = LAB_TEST_MOCK_DOMAIN_REPLACE,
		.id = mock->dev,
		.mock_domain_replace.pt_id = pt,
	};

	return call(mock->iommufd, LAB_IOMMU_TEST_CMD, &cmd);
}

void lab_mock_open(struct lab_mock *mock, uint32_t flags)
{
	int fd;

	lab_need_mock();
	fd = lab_iommufd();
	lab_mock_add(mock, fd, lab_ioas(fd), flags);
	OK(lab_hwpt_alloc(fd, LAB_HWPT_ALLOC_DIRTY_TRACKING, mock->devid, mock->ioas, &mock->hwpt));
	OK(lab_mock_replace(mock, mock->hwpt));
}

int lab_mock_dirty_bits(const struct lab_mock *mock, uint64_t iova, uint64_t length, const uint64_t *bits)
{
	struct lab_iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = LAB_TEST_DIRTY,
		.id = mock->hwpt,
		.dirty = {
			.iova = iova,
			.length = length,
			/* 6.12 takes it for the size of an entry, whatever it says; no other works. */
			.page_size = LAB_MOCK_GRAIN,
		},
	};
	uint64_t pages = length / LAB_MOCK_PAGE, *grains = calloc(pages / 32 + 1, 8);
	int ret;

	CHECK(grains, "out of memory");
	/* The lower half of each page: a bitmap of pages does not tell which half. */
	for (uint64_t i = 0; i < pages; i++)
		if (lab_bit(bits, i))
			lab_set_bit(grains, 2 * i);
	cmd.dirty.uptr = (uintptr_t)grains;
	ret = call(mock->iommufd, LAB_IOMMU_TEST_CMD, &cmd);
	free(grains);
	return ret;
}

void lab_mock_dirty(const struct lab_mock *mock, uint64_t iova)
{
	uint64_t bit = 1;

	OK(lab_mock_dirty_bits(mock, iova, LAB_MOCK_PAGE, &bit));
}

void lab_mock_close(struct lab_mock *mock)
{
	close(mock->iommufd);
	mock->iommufd = -1;
}

/* --- a PCI device ------------------------------------------------------------------------------ */

#define PCI_DEVICES "/sys/bus/pci/devices"
#define EDU_VENDOR "0x1234\n"
#define EDU_DEVICE "0x11e8\n"

/* Its registers, in steps of 8 bytes, and the address of its memory. */
enum { EDU_ID = 0x00 / 8, EDU_SRC = 0x80 / 8, EDU_DST = 0x88 / 8, EDU_COUNT = 0x90 / 8, EDU_CMD = 0x98 / 8 };
enum { EDU_RUN = 1, EDU_TO_MEMORY = 2 };
#define EDU_BUFFER 0x40000u

static int is_text(const char *dir, const char *name, const char *want)
{
	char path[300], text[32];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n < 0)
		return 0;
	text[n] = 0;
	return !strcmp(text, want);
}

static void find_edu(struct lab_edu *edu)
{
	struct lab_device *device = &edu->device;
	DIR *dir = opendir(PCI_DEVICES);
	struct dirent *entry;
	char path[160], link[160];
	ssize_t n;

	*edu = (struct lab_edu){ .device = { .fd = -1, .group = -1, .container = -1, .iommufd = -1 } };
	CHECK(dir, PCI_DEVICES ": %s", strerror(errno));
	while (!*device->uuid && (entry = readdir(dir))) {
		snprintf(device->sysfs, sizeof(device->sysfs), PCI_DEVICES "/%.30s", entry->d_name);
		if (is_text(device->sysfs, "vendor", EDU_VENDOR) && is_text(device->sysfs, "device", EDU_DEVICE))
			snprintf(device->uuid, sizeof(device->uuid), "%.30s", entry->d_name);
	}
	closedir(dir);
	CHECK(*device->uuid, "the machine has no edu device");

	snprintf(path, sizeof(path), "%s/driver", device->sysfs);
	n = readlink(path, link, sizeof(link) - 1);
	if (n > 0) {
		link[n] = 0;
		if (!strcmp(strrchr(link, '/') + 1, "vfio-pci"))
			return;
		snprintf(path, sizeof(path), "%s/driver/unbind", device->sysfs);
		OK(lab_try_write(path, device->uuid));
	}
	snprintf(path, sizeof(path), "%s/driver_override", device->sysfs);
	OK(lab_try_write(path, "vfio-pci"));
	OK(lab_try_write("/sys/bus/pci/drivers_probe", device->uuid));
	snprintf(path, sizeof(path), "%s/driver", device->sysfs);
	CHECK(access(path, F_OK) == 0, "vfio-pci has not taken %s: is there an IOMMU?", device->uuid);
}

static void enable_edu(struct lab_edu *edu)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = VFIO_PCI_CONFIG_REGION_INDEX };
	/* PCI_COMMAND: answer to memory accesses, and make some. */
	const uint16_t command = 0x6;
	void *bar;

	OK(call(edu->device.fd, VFIO_DEVICE_GET_REGION_INFO, &info));
	CHECK(pwrite(edu->device.fd, &command, 2, (off_t)info.offset + 4) == 2, "PCI_COMMAND: %s", strerror(errno));
	info = (struct vfio_region_info){ .argsz = sizeof(info), .index = VFIO_PCI_BAR0_REGION_INDEX };
	OK(call(edu->device.fd, VFIO_DEVICE_GET_REGION_INFO, &info));
	bar = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, edu->device.fd, (off_t)info.offset);
	CHECK(bar != MAP_FAILED, "the registers: %s", strerror(errno));
	edu->bar = bar;
	/* 4 bytes: it refuses wider accesses to the lower registers. */
	CHECK((*(volatile uint32_t *)bar & 0xff) == 0xed, "edu says %#x", *(volatile uint32_t *)bar);
}

void lab_edu_open(struct lab_edu *edu, enum lab_how how)
{
	lab_need(how);
	find_edu(edu);
	lab_open(&edu->device, how);
	enable_edu(edu);
}

void lab_edu_open_beside(struct lab_edu *edu, const struct lab_device *first)
{
	find_edu(edu);
	lab_open_beside(&edu->device, first);
	enable_edu(edu);
}

static void copy(const struct lab_edu *edu, uint64_t from, uint64_t to, size_t len, unsigned direction)
{
	const struct timespec moment = { .tv_nsec = 2000000 };
	unsigned tries;

	/* QEMU ends the whole machine if the end of its buffer is touched. */
	CHECK(len && len <= LAB_EDU_MAX, "edu cannot copy %zu bytes", len);
	edu->bar[EDU_SRC] = from;
	edu->bar[EDU_DST] = to;
	edu->bar[EDU_COUNT] = len;
	edu->bar[EDU_CMD] = EDU_RUN | direction;
	for (tries = 0; edu->bar[EDU_CMD] & EDU_RUN; tries++) {
		CHECK(tries < 30000, "edu does not end its DMA");
		nanosleep(&moment, NULL);
	}
}

void lab_edu_load(const struct lab_edu *edu, uint64_t iova, size_t len)
{
	copy(edu, iova, EDU_BUFFER, len, 0);
}

void lab_edu_store(const struct lab_edu *edu, uint64_t iova, size_t len)
{
	copy(edu, EDU_BUFFER, iova, len, EDU_TO_MEMORY);
}

void lab_edu_close(struct lab_edu *edu)
{
	if (edu->bar)
		munmap((void *)(uintptr_t)edu->bar, 4096);
	edu->bar = NULL;
	lab_close(&edu->device);
}

/* --- memory and bitmaps ------------------------------------------------------------------------ */

void *lab_memory(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	CHECK(memory != MAP_FAILED, "%zu bytes of memory: %s", size, strerror(errno));
	return memory;
}

static unsigned long meminfo(const char *name)
{
	char line[128];
	FILE *file = fopen("/proc/meminfo", "r");
	unsigned long value = 0;

	CHECK(file, "/proc/meminfo: %s", strerror(errno));
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, name, strlen(name)))
			value = strtoul(line + strlen(name), NULL, 10);
	fclose(file);
	return value;
}

void *lab_huge_memory(size_t size)
{
	unsigned long used = meminfo("HugePages_Total:") - meminfo("HugePages_Free:");
	char text[32];
	void *memory;

	size = (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
	snprintf(text, sizeof(text), "%zu", used + size / HUGE_PAGE);
	OK(lab_try_write("/proc/sys/vm/nr_hugepages", text));
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
	CHECK(memory != MAP_FAILED, "%zu bytes of huge pages: %s", size, strerror(errno));
	return memory;
}

void *lab_mock_memory(size_t size)
{
	/* Its even pages are odd ones physically, so that none begins an entry of two. */
	return (unsigned char *)lab_huge_memory(size + LAB_MOCK_PAGE) + LAB_MOCK_PAGE;
}

uint64_t lab_bits(const uint64_t *bitmap, uint64_t first, uint64_t last)
{
	uint64_t count = 0;

	for (uint64_t i = first; i < last; i++)
		count += (uint64_t)lab_bit(bitmap, i);
	return count;
}
