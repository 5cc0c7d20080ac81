/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The test device itself, without the library: what it refuses, how it ends, and that nothing that
 * user space keeps or does harms the kernel. The other tests are only as good as this device.
 */
#include <pthread.h>
#include <sys/syscall.h>

#include "kmod.h"

#define KIB (1ull << 10)
#define HEADER 48u
#define RECORD 32u
#define END_LEN 72u
#define MODULE "/modules/90-vfiomig_test.ko"

/* An invalid address that the compiler does not recognise as one. */
static void *volatile nowhere;

static void open_new(struct lab_device *device, uint64_t size, unsigned seed)
{
	kmod_create(device, 7);
	kmod_set(device, "state_size", "%llu", (unsigned long long)size);
	kmod_set(device, "seed", "%u", seed);
	lab_open(device, LAB_GROUP);
}

static int to_state(const struct lab_device *device, uint32_t state)
{
	int fd, ret = lab_raw_set_state(device->fd, state, &fd);

	CHECK(ret == 0, "to %s: %s", vfiomig_state_name(state), strerror(-ret));
	return fd;
}

/* The whole of a stopped device. */
static struct lab_bytes take_all(int fd)
{
	struct lab_bytes bytes = { 0 };
	unsigned char piece[3000];
	ssize_t n;

	while ((n = read(fd, piece, sizeof(piece))) > 0)
		lab_append(&bytes, piece, (size_t)n);
	CHECK(n == 0, "reading: %s", strerror(errno));
	return bytes;
}

static int try_write(int fd, const void *data, size_t len)
{
	return write(fd, data, len) < 0 ? -errno : 0;
}

/* Two devices, of which one is in RESUMING, and a stream of the other. */
struct pair {
	struct lab_device source, target;
	struct lab_bytes stream;
	int in, out;
	unsigned long long power_on; /* digest of the target before all */
};

static void make_pair(struct pair *pair, uint64_t size)
{
	open_new(&pair->source, size, 1);
	open_new(&pair->target, size, 2);
	pair->power_on = kmod_digest(&pair->target);
	kmod_set(&pair->source, "touch", "0 1");
	pair->out = to_state(&pair->source, VFIOMIG_STATE_STOP_COPY);
	pair->stream = take_all(pair->out);
	pair->in = to_state(&pair->target, VFIOMIG_STATE_RESUMING);
}

static void end_pair(struct pair *pair)
{
	lab_free(&pair->stream);
	close(pair->in);
	close(pair->out);
	lab_remove(&pair->source);
	lab_remove(&pair->target);
}

static void streams_are_as_described(void)
{
	struct pair pair;

	make_pair(&pair, 4097);
	EXPECT(pair.stream.len, HEADER + 2 * RECORD + 4097 + RECORD + END_LEN);
	CHECK(!memcmp(pair.stream.data, "vmgtest1", 8), "no magic number");
	OK(try_write(pair.in, pair.stream.data, pair.stream.len));
	EXPECT(to_state(&pair.target, VFIOMIG_STATE_STOP), -1);
	EXPECT(kmod_digest(&pair.target), kmod_digest(&pair.source));
	/* After a reset it is as it was after power-on. */
	OK(lab_raw_reset(pair.target.fd));
	EXPECT(lab_raw_state(pair.target.fd), VFIOMIG_STATE_RUNNING);
	EXPECT(kmod_digest(&pair.target), pair.power_on);
	end_pair(&pair);
}

/* Every single wrong byte of a stream is refused, at once or at the end, and for good. */
static void wrong_bytes_are_refused(void)
{
	struct pair pair;

	make_pair(&pair, 100);
	for (size_t at = 0; at < pair.stream.len; at++) {
		int data_fd, ret;

		pair.stream.data[at] ^= 0x04;
		ret = try_write(pair.in, pair.stream.data, pair.stream.len);
		EXPECT(ret, -EINVAL);
		pair.stream.data[at] ^= 0x04;
		EXPECT(try_write(pair.in, pair.stream.data, pair.stream.len), -EINVAL);
		EXPECT(lab_raw_set_state(pair.target.fd, VFIOMIG_STATE_STOP, &data_fd), -EINVAL);
		EXPECT(lab_raw_state(pair.target.fd), VFIOMIG_STATE_RESUMING);
		OK(lab_raw_reset(pair.target.fd));
		close(pair.in);
		pair.in = to_state(&pair.target, VFIOMIG_STATE_RESUMING);
	}
	OK(try_write(pair.in, pair.stream.data, pair.stream.len));
	to_state(&pair.target, VFIOMIG_STATE_STOP);
	EXPECT(kmod_digest(&pair.target), kmod_digest(&pair.source));
	end_pair(&pair);
}

/* Every length but the right one. */
static void wrong_lengths_are_refused(void)
{
	struct pair pair;
	int data_fd;

	make_pair(&pair, 100);
	for (size_t len = 0; len < pair.stream.len; len++) {
		EXPECT(lab_raw_set_state(pair.target.fd, VFIOMIG_STATE_STOP, &data_fd), -EINVAL);
		OK(try_write(pair.in, pair.stream.data + len, 1));
	}
	EXPECT(try_write(pair.in, "x", 1), -ENOMEM);
	EXPECT(lab_raw_set_state(pair.target.fd, VFIOMIG_STATE_STOP, &data_fd), -EINVAL);
	EXPECT(try_write(pair.in, nowhere, 1), -ENOMEM);
	OK(lab_raw_reset(pair.target.fd));
	EXPECT(try_write(pair.in, "x", 1), -ENODEV);
	close(pair.in);
	pair.in = to_state(&pair.target, VFIOMIG_STATE_RESUMING);
	EXPECT(try_write(pair.in, nowhere, 1), -EFAULT);
	OK(try_write(pair.in, pair.stream.data, pair.stream.len));
	to_state(&pair.target, VFIOMIG_STATE_STOP);
	EXPECT(kmod_digest(&pair.target), kmod_digest(&pair.source));
	end_pair(&pair);
}

/* Nonsense streams: neither accepted nor harmful. */
static void noise_is_refused(void)
{
	uint64_t x = 88172645463325252ull;
	struct pair pair;

	make_pair(&pair, 5000);
	for (unsigned run = 0; run < 3000; run++) {
		unsigned char noise[6000];
		size_t keep, len;
		int data_fd;

		for (size_t i = 0; i < sizeof(noise); i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			noise[i] = (unsigned char)(x >> 30);
		}
		/* Correct up to some place, or cut, or repeated there. */
		keep = x % pair.stream.len;
		OK(try_write(pair.in, pair.stream.data, keep));
		len = 1 + (x >> 20) % sizeof(noise);
		(void)!write(pair.in, run % 2 ? noise : pair.stream.data, run % 2 ? len : len % pair.stream.len);
		EXPECT(lab_raw_set_state(pair.target.fd, VFIOMIG_STATE_STOP, &data_fd), -EINVAL);
		OK(lab_raw_reset(pair.target.fd));
		close(pair.in);
		pair.in = to_state(&pair.target, VFIOMIG_STATE_RESUMING);
	}
	end_pair(&pair);
}

/* An fd that outlives its session, its device's fd, and the device; and the module. */
static void fds_that_outlive(void)
{
	unsigned char byte;
	struct pair pair;
	struct pollfd ready;
	int fd;

	make_pair(&pair, 64 * KIB);
	lab_close(&pair.source);
	lab_close(&pair.target);
	EXPECT(read(pair.out, &byte, 1), -1);
	EXPECT(errno, ENODEV);
	EXPECT(try_write(pair.in, "x", 1), -ENODEV);
	/* Closing took the device back, so the next user finds nothing strange. */
	lab_open(&pair.source, LAB_GROUP);
	lab_open(&pair.target, LAB_GROUP);
	EXPECT(lab_raw_state(pair.source.fd), VFIOMIG_STATE_RUNNING);
	EXPECT(lab_raw_state(pair.target.fd), VFIOMIG_STATE_RUNNING);
	OK(to_state(&pair.target, VFIOMIG_STATE_STOP) == -1 ? 0 : -1);
	lab_remove(&pair.source);
	lab_remove(&pair.target);
	EXPECT(read(pair.out, &byte, 1), -1);
	EXPECT(errno, ENODEV);
	ready = (struct pollfd){ .fd = pair.out, .events = POLLIN };
	EXPECT(poll(&ready, 1, 0), 1);
	EXPECT(try_write(pair.in, "x", 1), -ENODEV);
	/* The module stays while there is an fd, and can be removed after that. */
	EXPECT(syscall(SYS_delete_module, "vfiomig_test", O_NONBLOCK), -1);
	EXPECT(errno, EWOULDBLOCK);
	close(pair.in);
	close(pair.out);
	/* What closing does is done a little later. */
	for (unsigned i = 0; syscall(SYS_delete_module, "vfiomig_test", O_NONBLOCK); i++) {
		EXPECT(errno, EWOULDBLOCK);
		CHECK(i < 3000, "the module cannot be removed");
		usleep(20000);
	}
	CHECK(access("/sys/class/mdev_bus/vfiomig_test", F_OK), "the module's device is still there");
	fd = open(MODULE, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0, MODULE ": %s", strerror(errno));
	CHECK(syscall(SYS_finit_module, fd, "", 0) == 0, "inserting it again: %s", strerror(errno));
	close(fd);
	make_pair(&pair, KIB);
	end_pair(&pair);
}

/* Poll, ENOMSG, EAGAIN and the estimates in pre-copy. */
static void pre_copy_is_as_the_kernel_says(void)
{
	struct vfiomig_precopy_info info = { .argsz = 8 };
	static unsigned char all[64 << 10];
	struct lab_device device;
	struct pollfd ready;
	int out, data_fd;

	open_new(&device, 32 * KIB, 1);
	out = to_state(&device, VFIOMIG_STATE_PRE_COPY);
	EXPECT(ioctl(out, LAB_GET_PRECOPY_INFO, &info), -1);
	EXPECT(errno, EINVAL);
	EXPECT(ioctl(out, LAB_DEVICE_FEATURE, &info), -1);
	EXPECT(errno, ENOTTY);
	info.argsz = sizeof(info);
	OK(ioctl(out, LAB_GET_PRECOPY_INFO, &info));
	EXPECT(info.initial_bytes, HEADER + 8 * RECORD + 32 * KIB);
	EXPECT(info.dirty_bytes, 0);
	EXPECT(read(out, all, 100), 100);
	OK(ioctl(out, LAB_GET_PRECOPY_INFO, &info));
	EXPECT(info.initial_bytes, HEADER + 8 * RECORD + 32 * KIB - 100);
	EXPECT(read(out, all, sizeof(all)), HEADER + 8 * RECORD + 32 * KIB - 100);
	EXPECT(read(out, all, 1), -1);
	EXPECT(errno, ENOMSG);
	ready = (struct pollfd){ .fd = out, .events = POLLIN };
	EXPECT(poll(&ready, 1, 50), 0);
	kmod_set(&device, "touch", "4095 2");
	EXPECT(poll(&ready, 1, 0), 1);
	OK(ioctl(out, LAB_GET_PRECOPY_INFO, &info));
	EXPECT(info.initial_bytes, 0);
	EXPECT(info.dirty_bytes, 2 * (RECORD + 4096));
	/* Slow, and without waiting: a byte, and the next one a second later. */
	EXPECT(fcntl(out, F_SETFL, O_NONBLOCK), 0);
	kmod_set(&device, "read_rate", "1");
	EXPECT(read(out, all, sizeof(all)), 1);
	EXPECT(read(out, all, sizeof(all)), -1);
	EXPECT(errno, EAGAIN);
	EXPECT(poll(&ready, 1, 0), 0);
	EXPECT(poll(&ready, 1, 30000), 1);
	EXPECT(read(out, all, sizeof(all)), 1);
	kmod_set(&device, "read_rate", "0");
	to_state(&device, VFIOMIG_STATE_STOP_COPY);
	EXPECT(ioctl(out, LAB_GET_PRECOPY_INFO, &info), -1);
	EXPECT(errno, EINVAL);
	EXPECT(read(out, all, sizeof(all)), 2 * (RECORD + 4096) - 2 + RECORD + END_LEN);
	EXPECT(read(out, all, 1), 0);
	EXPECT(poll(&ready, 1, 0), 1);
	EXPECT(kmod_try_set(&device, "touch", "0 1"), -EBUSY);
	EXPECT(kmod_try_set(&device, "seed", "9"), -EBUSY);
	EXPECT(kmod_try_set(&device, "state_size", "9"), -EBUSY);
	EXPECT(kmod_try_set(&device, "reinit", "1"), -EBUSY);
	EXPECT(lab_raw_set_state(device.fd, VFIOMIG_STATE_PRE_COPY, &data_fd), -EINVAL);
	OK(lab_raw_reset(device.fd));
	EXPECT(ioctl(out, LAB_GET_PRECOPY_INFO, &info), -1);
	EXPECT(errno, ENODEV);
	close(out);
	lab_remove(&device);
}

static void knobs(void)
{
	static const char *const bad[][2] = {
		{ "state_size", "0" }, { "state_size", "1073741825" }, { "state_size", "x" }, { "seed", "-" },
		{ "dirty_rate", "8589934593" }, { "touch", "0 0" }, { "touch", "0 1048577" }, { "touch", "1048576 1" },
		{ "touch", "0 0xffffffffffffffff" }, { "touch", "1" }, { "latency_us", "8 1" }, { "latency_us", "1" },
		{ "latency_us", "1 30000001" }, { "fail_read", "1" }, { "fail_read", "1 0" }, { "fail_read", "1 512" },
		{ "fail_read", "" }, { "drained", "512" }, { "fail_to_error", "2" }, { "log_page_size", "0" },
	};
	unsigned long long digests[3];
	struct lab_device device;

	kmod_create(&device, 7);
	for (unsigned i = 0; i < 3; i++) {
		kmod_set(&device, "seed", "%u", 5 + i % 2);
		digests[i] = kmod_digest(&device);
	}
	EXPECT(digests[2], digests[0]);
	CHECK(digests[1] != digests[0], "the seed makes no difference");
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		int ret = kmod_try_set(&device, bad[i][0], bad[i][1]);

		CHECK(ret == -EINVAL || !*bad[i][1], "\"%s\" to %s: %d", bad[i][1], bad[i][0], ret);
	}
	/* The largest. */
	kmod_set(&device, "state_size", "1073741824");
	kmod_set(&device, "touch", "0 1073741824");
	EXPECT(kmod_count(&device, "counters", "touched"), 262144);
	lab_remove(&device);
}

static void regions(void)
{
	unsigned char bytes[64];
	uint64_t value;
	uint32_t word;
	struct lab_device device;
	off_t config = (off_t)(7ull << 40);

	open_new(&device, 12345, 1);
	EXPECT(pread(device.fd, &word, 4, config), 4);
	EXPECT(word, 0xf10e1234u);
	word = 0xffffffff;
	EXPECT(pwrite(device.fd, &word, 4, config + 0x10), 4);
	EXPECT(pread(device.fd, &word, 4, config + 0x10), 4);
	EXPECT(word, 0xfffff000u);
	EXPECT(pread(device.fd, bytes, 64, config + 250), 6);
	EXPECT(pread(device.fd, bytes, 1, config + 256), -1);
	EXPECT(pread(device.fd, bytes, 1, (off_t)(1ull << 40)), -1);
	EXPECT(pread(device.fd, &value, 8, 8), 8);
	EXPECT(value, 12345);
	EXPECT(pread(device.fd, &value, 8, 0x10), 8);
	EXPECT(value, kmod_digest(&device));
	value = 8192;
	EXPECT(pwrite(device.fd, &value, 8, 0x18), 8);
	EXPECT(kmod_count(&device, "counters", "touched"), 1);
	EXPECT(pwrite(device.fd, "abc", 3, 0x7f), 3);
	EXPECT(pread(device.fd, bytes, 4, 0x7e), 4);
	CHECK(!memcmp(bytes, "\0a\0\0", 4), "the registers do not end where they should");
	EXPECT(pread(device.fd, nowhere, 4, 0), -1);
	EXPECT(errno, EFAULT);
	EXPECT(pwrite(device.fd, nowhere, 4, 0x40), -1);
	EXPECT(errno, EFAULT);
	lab_remove(&device);
}

/* Writes by DMA, into memory that type1 has mapped. */
static void dma_reaches_memory(void)
{
	struct { uint32_t argsz, flags; uint64_t vaddr, iova, size; } map = { 32, 3, 0, 0x100000, 65536 };
	unsigned char *memory = aligned_alloc(4096, 65536);
	struct lab_device device;

	CHECK(memory, "out of memory");
	memset(memory, 0, 65536);
	map.vaddr = (uintptr_t)memory;
	open_new(&device, 1, 1);
	CHECK(ioctl(device.container, LAB_VFIO(13), &map) == 0, "MAP_DMA: %s", strerror(errno));
	kmod_set(&device, "dma_write", "0x101ffe 5");
	for (unsigned i = 0; i < 65536; i++)
		EXPECT(memory[i], i >= 0x1ffe && i < 0x2003 ? 0xd5 : 0);
	CHECK(kmod_try_set(&device, "dma_write", "0x200000 1") < 0, "it wrote to where nothing is mapped");
	lab_remove(&device);
	free(memory);
}

/* --- everything at once ------------------------------------------------------------------------ */

#define SESSIONS 400u

static struct lab_device shared;
static volatile int shared_fd = -1, over;

static uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x >> 20;
}

static void *change_states(void *unused)
{
	uint64_t x = 88172645463325252ull;
	unsigned sessions = 0;

	(void)unused;
	while (!over && sessions < SESSIONS) {
		int fd = -1;

		lab_raw_set_state(shared.fd, (uint32_t)(1 + next_random(&x) % 7), &fd);
		if (fd < 0)
			continue;
		/* Not closed before the end, so that the others never use a number that means something
		 * else. */
		shared_fd = fd;
		sessions++;
		for (unsigned wait = (unsigned)(next_random(&x) % 4); wait; wait--)
			usleep(500);
	}
	over = 1;
	return NULL;
}

static void *use_the_data_fd(void *seed)
{
	static unsigned char nothing[20000];
	unsigned char *data = malloc(20000);
	uint64_t x = (uintptr_t)seed;

	CHECK(data, "out of memory");
	while (!over) {
		struct vfiomig_precopy_info info = { .argsz = sizeof(info) };
		struct pollfd ready = { .fd = shared_fd, .events = POLLIN | POLLOUT };
		size_t len = next_random(&x) % 20000;

		switch (next_random(&x) % 4) {
		case 0:
			(void)!read(shared_fd, data, len);
			break;
		case 1:
			(void)!write(shared_fd, nothing, len);
			break;
		case 2:
			ioctl(shared_fd, LAB_GET_PRECOPY_INFO, &info);
			break;
		case 3:
			poll(&ready, 1, 1);
			break;
		}
	}
	free(data);
	return NULL;
}

static void *turn_knobs(void *unused)
{
	static const char *const what[][2] = {
		{ "touch", "0 30000" }, { "reinit", "1" }, { "read_rate", "1000000" }, { "read_rate", "0" },
		{ "dirty_rate", "100000000" }, { "dirty_rate", "0" }, { "state_size", "100000" },
		{ "state_size", "30000" }, { "seed", "7" }, { "log_mark", "0 0x100000" }, { "dma_write", "0 4096" },
		{ "fail_set_state", "1 5" }, { "fail_read", "2 5" }, { "fail_to_error", "1" }, { "fail_to_error", "0" },
		{ "log_load", "0x100000 0x100000 200000 1" }, { "log_load", "0" }, { "log_truth", "0" },
		{ "pin", "0 0x10000" }, { "unpin", "0" }, { "log_refuse", "0 4096" }, { "log_refuse", "0" },
	};
	uint64_t x = 4101842887655102017ull;

	(void)unused;
	while (!over) {
		size_t i = next_random(&x) % (sizeof(what) / sizeof(*what) + 2);

		if (i < sizeof(what) / sizeof(*what))
			kmod_try_set(&shared, what[i][0], what[i][1]);
		else if (i % 2)
			lab_raw_reset(shared.fd);
		else
			kmod_digest(&shared);
	}
	return NULL;
}

/* What counts is that nothing hangs, and that the kernel's log stays clean. */
static void everything_at_once(void)
{
	pthread_t threads[4];
	struct pair pair;
	int fd;

	open_new(&shared, 30000, 1);
	pthread_create(&threads[0], NULL, change_states, NULL);
	pthread_create(&threads[1], NULL, use_the_data_fd, (void *)0x1234567);
	pthread_create(&threads[2], NULL, use_the_data_fd, (void *)0x7654321);
	pthread_create(&threads[3], NULL, turn_knobs, NULL);
	for (unsigned i = 0; i < 200 && !over; i++)
		usleep(50000);
	over = 1;
	for (unsigned i = 0; i < 4; i++)
		CHECK(pthread_join(threads[i], NULL) == 0, "a thread does not end");
	CHECK(shared_fd >= 0, "there was not a single stream");
	OK(kmod_try_set(&shared, "fail_set_state", "0"));
	OK(kmod_try_set(&shared, "fail_read", "0"));
	OK(lab_raw_reset(shared.fd));
	EXPECT(lab_raw_state(shared.fd), VFIOMIG_STATE_RUNNING);
	fd = to_state(&shared, VFIOMIG_STATE_STOP_COPY);
	CHECK(fd >= 0, "no stream");
	close(fd);
	printf("%llu steps, %llu resets (%llu deferred), %llu reads, %llu writes\n",
	       kmod_count(&shared, "counters", "arcs"), kmod_count(&shared, "counters", "resets"),
	       kmod_count(&shared, "counters", "deferred_resets"), kmod_count(&shared, "counters", "reads"),
	       kmod_count(&shared, "counters", "writes"));
	/* The device disappears with hundreds of dead streams open. */
	lab_remove(&shared);
	make_pair(&pair, KIB);
	end_pair(&pair);
}

int main(void)
{
	if (lab_boot() != 1)
		return 77;
	lab_run("kmod-device-stream", streams_are_as_described);
	lab_run("kmod-device-wrong-bytes", wrong_bytes_are_refused);
	lab_run("kmod-device-wrong-lengths", wrong_lengths_are_refused);
	lab_run("kmod-device-noise", noise_is_refused);
	lab_run("kmod-device-pre-copy", pre_copy_is_as_the_kernel_says);
	lab_run("kmod-device-knobs", knobs);
	lab_run("kmod-device-regions", regions);
	lab_run("kmod-device-dma", dma_reaches_memory);
	lab_run("kmod-device-all-at-once", everything_at_once);
	lab_run("kmod-device-outlive", fds_that_outlive);
	return lab_status();
}
