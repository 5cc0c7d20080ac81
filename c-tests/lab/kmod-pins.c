/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Pages that the test device pins, by the kernel's own interface: which ones a type1 container then
 * reports as dirty, and that unmapping, detaching and closing release them, whatever else is going
 * on.
 */
#include <pthread.h>
#include <sys/mman.h>

#include "kmod.h"

#define TYPE1_MAP LAB_VFIO(13)
#define TYPE1_UNMAP LAB_VFIO(14)
#define TYPE1_DIRTY LAB_VFIO(17)
#define ATTACH_PT LAB_VFIO(19)
#define DETACH_PT LAB_VFIO(20)
#define IOAS_ALLOC _IO(';', 0x81)
#define IOAS_MAP _IO(';', 0x85)
#define IOAS_UNMAP _IO(';', 0x86)

#define READ 1u
#define WRITE 2u
#define UNMAP_WITH_BITMAP 1u
#define DIRTY_START 1u
#define DIRTY_STOP 2u
#define DIRTY_GET 4u

#define PAGE 4096ull
/* Two mappings of PAGES each, one after the other. */
#define PAGES 64u
#define IOVA 0x10000000ull
#define SECOND (IOVA + PAGES * PAGE)

static unsigned char *memory;

static void map(const struct lab_device *device, uint64_t iova, uint32_t flags)
{
	struct { uint32_t argsz, flags; uint64_t vaddr, iova, size; } arg = {
		32, flags, (uintptr_t)memory + (iova - IOVA), iova, PAGES * PAGE,
	};

	CHECK(ioctl(device->container, TYPE1_MAP, &arg) == 0, "MAP_DMA: %s", strerror(errno));
}

/* With a bitmap, or without. */
static void unmap(const struct lab_device *device, uint64_t iova, uint64_t size, uint64_t *bitmap)
{
	struct {
		uint32_t argsz, flags;
		uint64_t iova, size, page_size, bytes, bitmap;
	} arg = { sizeof(arg), bitmap ? UNMAP_WITH_BITMAP : 0, iova, size, PAGE, size / PAGE / 8, (uintptr_t)bitmap };

	CHECK(ioctl(device->container, TYPE1_UNMAP, &arg) == 0, "UNMAP_DMA: %s", strerror(errno));
	EXPECT(arg.size, size);
}

static void dirty(const struct lab_device *device, uint32_t what)
{
	struct { uint32_t argsz, flags; } arg = { sizeof(arg), what };

	CHECK(ioctl(device->container, TYPE1_DIRTY, &arg) == 0, "DIRTY_PAGES %u: %s", what, strerror(errno));
}

/* The pages of the first mapping that are dirty. */
static uint64_t get_dirty(const struct lab_device *device)
{
	uint64_t bitmap = 0;
	struct {
		uint32_t argsz, flags;
		uint64_t iova, size, page_size, bytes, bitmap;
	} arg = { sizeof(arg), DIRTY_GET, IOVA, PAGES * PAGE, PAGE, 8, (uintptr_t)&bitmap };

	CHECK(ioctl(device->container, TYPE1_DIRTY, &arg) == 0, "GET_BITMAP: %s", strerror(errno));
	return bitmap;
}

static unsigned long long pinned(const struct lab_device *device)
{
	return strtoull(kmod_get(device, "pinned"), NULL, 10);
}

static void new_memory(void)
{
	memory = mmap(NULL, 2 * PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED, "no memory: %s", strerror(errno));
}

/* Open, with both mappings. */
static void new_device(struct lab_device *device)
{
	new_memory();
	kmod_create(device, 7);
	lab_open(device, LAB_GROUP);
	map(device, IOVA, READ | WRITE);
	map(device, SECOND, READ | WRITE);
}

/* How much of this process is locked in memory, which includes pinned pages; in KiB. */
static unsigned long locked(void)
{
	char line[128];
	unsigned long kib = ~0ul;
	FILE *file = fopen("/proc/self/status", "r");

	CHECK(file, "no status: %s", strerror(errno));
	while (fgets(line, sizeof(line), file))
		(void)sscanf(line, "VmLck: %lu kB", &kib);
	fclose(file);
	CHECK(kib != ~0ul, "no VmLck");
	return kib;
}

/* --- cases -------------------------------------------------------------------------------------- */

static void pages_are_pinned_one_by_one(void)
{
	static const char *const bad[] = { "", "1", "0 0", "x", "0xfffffffffffff000 0x2000", "0 4096 100" };
	struct lab_device device;

	new_device(&device);
	kmod_set(&device, "pin", "0x10000fff 2\n0x10008000 0x4000\n");
	EXPECT(pinned(&device), 6);
	EXPECT(locked(), 24);
	/* Not twice. */
	kmod_set(&device, "pin", "0x10000000 0xc000");
	EXPECT(pinned(&device), 12);
	EXPECT(locked(), 48);
	/* Parts of pages, exactly one, and none. */
	kmod_set(&device, "unpin", "0x10001000 1\n0x10003fff 2\n0x20000000 0x1000");
	EXPECT(pinned(&device), 9);
	kmod_set(&device, "unpin", "0x10007000 0x1000");
	EXPECT(pinned(&device), 8);
	kmod_set(&device, "pin", "0x10007000 0x1000");
	EXPECT(pinned(&device), 9);
	EXPECT(locked(), 36);
	/* Across the border of the mappings, and every fourth page. */
	kmod_set(&device, "pin", "0x1003f000 0x2000\n0x10050000 0x10000 0x4000");
	EXPECT(pinned(&device), 15);
	/* Off the end of what is mapped: what is before it stays. */
	EXPECT(kmod_try_set(&device, "pin", "0x1007e000 0x3000"), -EINVAL);
	EXPECT(pinned(&device), 17);
	EXPECT(locked(), 68);
	for (size_t i = 1; i < sizeof(bad) / sizeof(*bad); i++) {
		EXPECT(kmod_try_set(&device, "pin", bad[i]), -EINVAL);
		EXPECT(kmod_try_set(&device, "unpin", bad[i]), -EINVAL);
	}
	EXPECT(kmod_try_set(&device, "pin", "0x10000000 0x200000000"), -EINVAL); /* too much */
	EXPECT(pinned(&device), 17);
	lab_raw_reset(device.fd);
	EXPECT(pinned(&device), 17);
	kmod_set(&device, "unpin", "0\n");
	EXPECT(pinned(&device), 0);
	EXPECT(locked(), 0);
	unmap(&device, IOVA, PAGES * PAGE, NULL);
	EXPECT(kmod_count(&device, "counters", "unmaps"), 0); /* nothing to ask for */
	map(&device, IOVA, READ);
	EXPECT(kmod_try_set(&device, "pin", "0x10000000 1"), -EPERM);
	EXPECT(pinned(&device), 0);
	lab_close(&device);
	EXPECT(kmod_try_set(&device, "pin", "0x10040000 1"), -ENODEV);
	OK(kmod_try_set(&device, "unpin", "0"));
	lab_remove(&device);
}

/* A pinned page is dirty every time, and once more after that; the others never are. */
static void pinned_pages_are_dirty_for_ever(void)
{
	const uint64_t two = 1ull << 3 | 1ull << 63;
	struct lab_device device;

	new_device(&device);
	kmod_set(&device, "pin", "0x10003000 1\n0x1003f000 0x2000");
	dirty(&device, DIRTY_START);
	for (unsigned i = 0; i < 3; i++)
		EXPECT(get_dirty(&device), two);
	kmod_set(&device, "pin", "0x10005000 1");
	for (unsigned i = 0; i < 3; i++)
		EXPECT(get_dirty(&device), two | 1ull << 5);
	/* Written to by the CPU: once. */
	kmod_set(&device, "dma_write", "0x10009000 1");
	EXPECT(get_dirty(&device), two | 1ull << 5 | 1ull << 9);
	EXPECT(get_dirty(&device), two | 1ull << 5);
	kmod_set(&device, "unpin", "0x10005000 1");
	EXPECT(get_dirty(&device), two | 1ull << 5);
	EXPECT(get_dirty(&device), two);
	kmod_set(&device, "unpin", "0");
	EXPECT(get_dirty(&device), two);
	EXPECT(get_dirty(&device), 0);
	dirty(&device, DIRTY_STOP);
	lab_remove(&device);
}

static void unmapping_releases(void)
{
	uint64_t bitmap = 0, began;
	struct lab_device device;

	new_device(&device);
	kmod_set(&device, "pin", "0x1003e000 0x5000"); /* two pages in the first mapping, three in the second */
	dirty(&device, DIRTY_START);
	unmap(&device, IOVA, PAGES * PAGE, &bitmap);
	EXPECT(bitmap, 3ull << 62);
	EXPECT(pinned(&device), 3);
	EXPECT(locked(), 12);
	EXPECT(kmod_count(&device, "counters", "unmaps"), 1);
	EXPECT(kmod_count(&device, "counters", "unmap_unpinned"), 2);
	EXPECT(kmod_try_set(&device, "pin", "0x10000000 1"), -EINVAL);
	began = kmod_now_ms();
	unmap(&device, SECOND, PAGES * PAGE, NULL);
	EXPECT(pinned(&device), 0);
	EXPECT(locked(), 0);
	EXPECT(kmod_count(&device, "counters", "unmap_unpinned"), 5);
	/* And again, which takes its time because the kernel might not be finished. */
	map(&device, IOVA, READ | WRITE);
	kmod_set(&device, "pin", "0x10000000 0x40000");
	CHECK(kmod_now_ms() - began >= 19, "it did not wait");
	EXPECT(pinned(&device), PAGES);
	EXPECT(get_dirty(&device), ~0ull);
	dirty(&device, DIRTY_STOP);
	lab_remove(&device);
}

static void closing_releases(void)
{
	struct lab_device device;

	new_device(&device);
	for (unsigned i = 0; i < 5; i++) {
		kmod_set(&device, "pin", "0x10000000 0x80000");
		EXPECT(pinned(&device), 2 * PAGES);
		EXPECT(locked(), 2 * PAGES * 4);
		lab_close(&device);
		EXPECT(pinned(&device), 0);
		EXPECT(locked(), 0);
		lab_open(&device, LAB_GROUP);
		map(&device, IOVA, READ | WRITE);
		map(&device, SECOND, READ | WRITE);
	}
	/* Removed with all of it pinned. */
	kmod_set(&device, "pin", "0x10000000 0x80000");
	lab_remove(&device);
	EXPECT(locked(), 0);
}

/* The same with iommufd, where there is detaching as well. */
static void by_iommufd(void)
{
	struct { uint32_t size, flags, id; } alloc = { .size = sizeof(alloc) };
	struct { uint32_t argsz, flags, id; } attach = { .argsz = sizeof(attach) };
	struct { uint32_t argsz, flags; } detach = { .argsz = sizeof(detach) };
	struct { uint32_t size, flags, id, zero; uint64_t memory, length, iova; } mapping = {
		.size = sizeof(mapping), .flags = 7, .length = 2 * PAGES * PAGE, .iova = IOVA,
	};
	struct { uint32_t size, id; uint64_t iova, length; } gone = { sizeof(gone), 0, IOVA, 2 * PAGES * PAGE };
	struct lab_device device;

	lab_need(LAB_CDEV);
	new_memory();
	kmod_create(&device, 7);
	lab_open(&device, LAB_CDEV);
	EXPECT(kmod_try_set(&device, "pin", "0x10000000 1"), -ENOENT); /* not attached */
	CHECK(ioctl(device.iommufd, IOAS_ALLOC, &alloc) == 0, "IOAS_ALLOC: %s", strerror(errno));
	attach.id = mapping.id = gone.id = alloc.id;
	mapping.memory = (uintptr_t)memory;
	for (unsigned round = 0; round < 3; round++) {
		CHECK(ioctl(device.fd, ATTACH_PT, &attach) == 0, "attaching: %s", strerror(errno));
		CHECK(ioctl(device.iommufd, IOAS_MAP, &mapping) == 0, "IOAS_MAP: %s", strerror(errno));
		kmod_set(&device, "pin", "0x10000000 0x80000 0x3000");
		EXPECT(pinned(&device), 43);
		kmod_set(&device, "unpin", "0x10000000 0x8000");
		EXPECT(pinned(&device), 40);
		if (round == 1) {
			CHECK(ioctl(device.fd, DETACH_PT, &detach) == 0, "detaching: %s", strerror(errno));
			EXPECT(pinned(&device), 0);
			EXPECT(kmod_try_set(&device, "pin", "0x10000000 1"), -ENOENT);
		}
		CHECK(ioctl(device.iommufd, IOAS_UNMAP, &gone) == 0, "IOAS_UNMAP: %s", strerror(errno));
		EXPECT(gone.length, 2 * PAGES * PAGE);
		EXPECT(pinned(&device), 0);
		EXPECT(kmod_count(&device, "counters", "unmap_unpinned"), 40 * (round + 1));
		if (round != 1)
			CHECK(ioctl(device.fd, DETACH_PT, &detach) == 0, "detaching: %s", strerror(errno));
	}
	CHECK(ioctl(device.fd, ATTACH_PT, &attach) == 0, "attaching: %s", strerror(errno));
	CHECK(ioctl(device.iommufd, IOAS_MAP, &mapping) == 0, "IOAS_MAP: %s", strerror(errno));
	kmod_set(&device, "pin", "0x10000000 0x80000");
	lab_close(&device);
	EXPECT(pinned(&device), 0);
	lab_remove(&device);
}

/* --- everything at once ------------------------------------------------------------------------- */

static struct lab_device shared;
static volatile int over;
static unsigned pins_done; /* atomic */

static uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x >> 20;
}

static void *pin_and_unpin(void *seed)
{
	uint64_t x = (uintptr_t)seed;

	while (!over) {
		uint64_t page = next_random(&x) % (2 * PAGES), len = 1 + next_random(&x) % 20;
		char text[80];

		snprintf(text, sizeof(text), "%llu %llu", (unsigned long long)(IOVA + page * PAGE),
			 (unsigned long long)(len * PAGE));
		switch (next_random(&x) % 8) {
		case 0:
			kmod_try_set(&shared, "unpin", text);
			break;
		case 1:
			kmod_try_set(&shared, "unpin", "0");
			break;
		case 2:
			kmod_try_set(&shared, "log_load", "0x10000000 0x80000 100000 1");
			break;
		case 3:
			kmod_try_set(&shared, "dma_write", text);
			break;
		default:
			if (!kmod_try_set(&shared, "pin", text))
				__atomic_fetch_add(&pins_done, 1, __ATOMIC_RELAXED);
		}
	}
	return NULL;
}

/*
 * Mapping and unmapping, states, resets, closing and opening while two threads pin. What counts is
 * that nothing hangs, that the kernel's log stays clean, and that nothing stays pinned.
 */
static void everything_at_once(void)
{
	uint64_t x = 88172645463325252ull, released, began = kmod_now_ms(), passed;
	pthread_t threads[2];
	unsigned rounds = 0;
	int enough = 0;

	new_device(&shared);
	pthread_create(&threads[0], NULL, pin_and_unpin, (void *)0x1234567);
	pthread_create(&threads[1], NULL, pin_and_unpin, (void *)0x7654321);
	/* Longer where little comes of it: on a slow machine. */
	for (; (passed = kmod_now_ms() - began) < 8000 || (!enough && passed < 300000); rounds++) {
		uint64_t iova = next_random(&x) % 2 ? IOVA : SECOND;
		int fd = -1;

		if (rounds % 16 == 0)
			enough = __atomic_load_n(&pins_done, __ATOMIC_RELAXED) > 50 &&
				 kmod_count(&shared, "counters", "unmap_unpinned") > 50;
		switch (next_random(&x) % 6) {
		case 0:
			lab_raw_reset(shared.fd);
			break;
		case 1:
			lab_raw_set_state(shared.fd, (uint32_t)(1 + next_random(&x) % 7), &fd);
			if (fd >= 0)
				close(fd);
			break;
		case 2:
			lab_close(&shared);
			EXPECT(pinned(&shared), 0);
			EXPECT(locked(), 0);
			lab_open(&shared, LAB_GROUP);
			map(&shared, IOVA, READ | WRITE);
			map(&shared, SECOND, READ | WRITE);
			break;
		default:
			unmap(&shared, iova, PAGES * PAGE, NULL);
			map(&shared, iova, READ | WRITE);
			usleep((useconds_t)(next_random(&x) % 40000));
		}
	}
	over = 1;
	for (unsigned i = 0; i < 2; i++)
		CHECK(pthread_join(threads[i], NULL) == 0, "a thread does not end");
	released = kmod_count(&shared, "counters", "unmap_unpinned");
	printf("%u rounds, %u pins, %llu pages released by %llu unmaps\n", rounds, pins_done,
	       (unsigned long long)released, kmod_count(&shared, "counters", "unmaps"));
	CHECK(pins_done > 50, "only %u pins succeeded", pins_done);
	CHECK(released > 50, "only %llu pages were released by unmapping", (unsigned long long)released);
	lab_close(&shared);
	EXPECT(pinned(&shared), 0);
	EXPECT(locked(), 0);
	/* The device disappears while someone turns its knobs. */
	over = 0;
	lab_open(&shared, LAB_GROUP);
	map(&shared, IOVA, READ | WRITE);
	pthread_create(&threads[0], NULL, pin_and_unpin, (void *)0x1234567);
	usleep(50000);
	lab_remove(&shared);
	usleep(20000);
	over = 1;
	CHECK(pthread_join(threads[0], NULL) == 0, "a thread does not end");
	EXPECT(locked(), 0);
}

int main(void)
{
	if (lab_boot() != 1)
		return 77;
	lab_run("kmod-pins-pages", pages_are_pinned_one_by_one);
	lab_run("kmod-pins-dirty", pinned_pages_are_dirty_for_ever);
	lab_run("kmod-pins-unmap", unmapping_releases);
	lab_run("kmod-pins-close", closing_releases);
	lab_run("kmod-pins-iommufd", by_iommufd);
	lab_run("kmod-pins-all-at-once", everything_at_once);
	return lab_status();
}
