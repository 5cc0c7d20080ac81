/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The test device of lab/kmod, for the tests kmod-*.c: making one, its knobs, and a migration from
 * one to another in which the stream is not kept.
 */
#ifndef KMOD_H
#define KMOD_H

#include <fcntl.h>
#include <poll.h>
#include <time.h>

#include "lab.h"

#define KMOD_TYPES "/sys/class/mdev_bus/vfiomig_test/mdev_supported_types/vfiomig_test-"
/* Never confused with those of lab_create(), but removed with them. */
#define KMOD_UUID "6d747479-1ab0-4000-%04x-%012x"

/* A device of this type; lab_open(), lab_close() and lab_remove() take it. */
static inline void kmod_create_type(struct lab_device *device, const char *type)
{
	static unsigned number = 0x8000;
	char path[160];
	int ret;

	memset(device, 0, sizeof(*device));
	device->fd = device->group = device->container = device->iommufd = -1;
	snprintf(device->uuid, sizeof(device->uuid), KMOD_UUID, ++number & 0xffff, (unsigned)getpid());
	snprintf(device->sysfs, sizeof(device->sysfs), "/sys/bus/mdev/devices/%s", device->uuid);
	snprintf(path, sizeof(path), KMOD_TYPES "%s/create", type);
	ret = lab_try_write(path, device->uuid);
	CHECK(ret == 0, "%s: %s (is the module there?)", path, strerror(-ret));
}

/* A device with these VFIO_MIGRATION_* flags. */
static inline void kmod_create(struct lab_device *device, unsigned flags)
{
	char type[16];

	snprintf(type, sizeof(type), "%u", flags);
	kmod_create_type(device, type);
}

static inline int kmod_try_set(const struct lab_device *device, const char *knob, const char *text)
{
	char path[192];

	snprintf(path, sizeof(path), "%s/test/%s", device->sysfs, knob);
	return lab_try_write(path, text);
}

static inline void kmod_set(const struct lab_device *device, const char *knob, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static inline void kmod_set(const struct lab_device *device, const char *knob, const char *format, ...)
{
	char text[4000];
	va_list args;
	int ret;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	ret = kmod_try_set(device, knob, text);
	CHECK(ret == 0, "writing \"%.60s\" to %s: %s", text, knob, strerror(-ret));
}

static inline const char *kmod_get(const struct lab_device *device, const char *knob)
{
	static _Thread_local char text[4096];
	char path[192];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/test/%s", device->sysfs, knob);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	CHECK(n >= 0, "%s: %s", path, strerror(errno));
	close(fd);
	text[n] = 0;
	return text;
}

static inline unsigned long long kmod_digest(const struct lab_device *device)
{
	return strtoull(kmod_get(device, "digest"), NULL, 16);
}

/* A line of "counters" or "log". */
static inline unsigned long long kmod_count(const struct lab_device *device, const char *knob, const char *name)
{
	const char *at = kmod_get(device, knob);
	size_t len = strlen(name);

	for (; *at; at = strchr(at, '\n') + 1)
		if (!strncmp(at, name, len) && at[len] == ' ')
			return strtoull(at + len + 1, NULL, 10);
	FAIL("%s has no line %s", knob, name);
}

/* Creates, sets up, opens and wraps. */
static inline struct vfiomig_device *kmod_new(struct lab_device *device, unsigned flags, uint64_t size,
					      unsigned seed, enum lab_how how)
{
	lab_need(how);
	kmod_create(device, flags);
	kmod_set(device, "state_size", "%llu", (unsigned long long)size);
	kmod_set(device, "seed", "%u", seed);
	lab_open(device, how);
	return lab_handle(device);
}

static inline uint64_t kmod_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* --- the load ---------------------------------------------------------------------------------- */

/* The whole of log_truth, which must have this many pages: a bit each. */
static inline void kmod_read_truth(const struct lab_device *device, uint64_t *bitmap, uint64_t pages)
{
	size_t want = (size_t)(pages + 7) / 8, have = 0;
	char path[192], more;
	ssize_t n = 0;
	int fd;

	snprintf(path, sizeof(path), "%s/test/log_truth", device->sysfs);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0, "%s: %s", path, strerror(errno));
	while (have < want && (n = read(fd, (char *)bitmap + have, want - have)) > 0)
		have += (size_t)n;
	CHECK(have == want, "%zu bytes of %zu came, then %zd (%s)", have, want, n, strerror(errno));
	CHECK(read(fd, &more, 1) == 0, "the truth is longer than %zu bytes", want);
	close(fd);
}

static inline unsigned long long kmod_load_writes(const struct lab_device *device)
{
	return kmod_count(device, "counters", "load_writes");
}

/* Waits for that many more writes of the load. */
static inline void kmod_wait_for_writes(const struct lab_device *device, unsigned long long more)
{
	unsigned long long now = kmod_load_writes(device), until = now + more, before = now;
	uint64_t moved = kmod_now_ms();

	/* However slowly they come. */
	while ((now = kmod_load_writes(device)) < until) {
		if (now != before)
			moved = kmod_now_ms();
		before = now;
		CHECK(kmod_now_ms() - moved < 20000, "%llu writes of %llu, and no more", now, until);
		usleep(2000);
	}
}

/* --- a migration ------------------------------------------------------------------------------- */

/* Where it failed first, and with what. */
struct kmod_result {
	const char *step; /* NULL: it did not */
	int error;
	unsigned target_failed; /* else the source */
};

struct kmod_way {
	uint32_t save_flags;
	size_t cap;
	unsigned load_bits; /* all that load_push has returned */
	unsigned waits;     /* EAGAIN answered by poll */
	unsigned timeouts;  /* polls that did not end by themselves */
	void (*before_wait)(const struct kmod_way *way); /* may be NULL */
	struct vfiomig_save_stats stats;
};

static inline int kmod_failed(struct kmod_result *result, const char *step, int ret, int target)
{
	if (ret >= 0)
		return 0;
	if (!result->step) {
		result->step = step;
		result->error = ret;
		result->target_failed = (unsigned)target;
	}
	return 1;
}

/* Passes the stream on until save_next returns something other than MORE; negative: failed. */
static inline int kmod_pass(struct vfiomig_save *save, struct vfiomig_load *load, struct kmod_way *way,
			    struct kmod_result *result)
{
	size_t cap = way->cap ? way->cap : VFIOMIG_GOOD_BUFFER;
	unsigned char *buf = malloc(cap);
	int ret;

	CHECK(buf, "out of memory");
	for (;;) {
		size_t len = 0;

		ret = vfiomig_save_next(save, buf, cap, &len);
		if (ret == -EAGAIN) {
			struct pollfd ready = { .fd = vfiomig_save_get_poll_fd(save), .events = POLLIN };

			CHECK(ready.fd >= 0, "no fd to poll: %d", ready.fd);
			way->waits++;
			if (way->before_wait)
				way->before_wait(way);
			way->timeouts += poll(&ready, 1, 2000) == 0;
			continue;
		}
		if (kmod_failed(result, "next", ret, 0))
			break;
		if (len) {
			int bits = vfiomig_load_push(load, buf, len);

			if (kmod_failed(result, "push", bits, 1)) {
				ret = bits;
				break;
			}
			way->load_bits |= (unsigned)bits;
		}
		if (ret != VFIOMIG_NEXT_MORE)
			break;
	}
	free(buf);
	return ret;
}

/* What happens while the guest is still running; may be NULL. */
typedef void (*kmod_meanwhile)(struct vfiomig_save *save, struct vfiomig_load *load, struct kmod_way *way,
			       struct kmod_result *result);

/*
 * All of a migration. Released after success, kept after a failure; an error while keeping does not
 * hide the first one.
 */
static inline struct kmod_result kmod_migrate(struct vfiomig_device *from, struct vfiomig_device *to,
					      struct kmod_way *way, kmod_meanwhile meanwhile,
					      struct vfiomig_failure *failure)
{
	struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
	struct kmod_result result = { 0 };
	struct vfiomig_save *save = NULL;
	struct vfiomig_load *load = NULL;
	int ret, committed = 0;

	options.flags = way->save_flags;
	if (kmod_failed(&result, "save_begin", vfiomig_save_begin(from, &options, &save), 0))
		goto out;
	if (kmod_failed(&result, "load_begin", vfiomig_load_begin(to, NULL, &load), 1))
		goto out;
	ret = kmod_pass(save, load, way, &result);
	if (ret == VFIOMIG_NEXT_DRAINED) {
		if (meanwhile)
			meanwhile(save, load, way, &result);
		if (result.step || kmod_failed(&result, "quiesce", lab_insist(vfiomig_save_quiesce, save), 0) ||
		    kmod_failed(&result, "stop", lab_insist(vfiomig_save_stop, save), 0))
			goto out;
		ret = kmod_pass(save, load, way, &result);
	}
	if (ret < 0)
		goto out;
	EXPECT(ret, VFIOMIG_NEXT_END);
	committed = !kmod_failed(&result, "commit", vfiomig_load_commit(load), 1);
	if (committed)
		kmod_failed(&result, "release", vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE), 0);
out:
	if (save && !committed)
		kmod_failed(&result, "keep", vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP), 0);
	way->stats = (struct vfiomig_save_stats)VFIOMIG_SAVE_STATS_INIT;
	if (save)
		OK(vfiomig_save_get_stats(save, &way->stats));
	/* The device's, not the save's: there may be no save. */
	if (failure)
		OK(vfiomig_device_get_failure(from, failure));
	vfiomig_save_free(save);
	vfiomig_load_free(load);
	return result;
}

/* The same if it must succeed: contents arrive, the source is stopped, the target runs. */
static inline void kmod_migrate_well(const struct lab_device *source, struct vfiomig_device *from,
				     const struct lab_device *target, struct vfiomig_device *to,
				     struct kmod_way *way, kmod_meanwhile meanwhile)
{
	struct kmod_result result = kmod_migrate(from, to, way, meanwhile, NULL);
	unsigned long long sent, got;

	CHECK(!result.step, "%s: %d (%s)", result.step, result.error, vfiomig_error_message());
	lab_expect_state(source, from, VFIOMIG_STATE_STOP);
	lab_expect_state(target, to, VFIOMIG_STATE_STOP);
	sent = kmod_digest(source);
	got = kmod_digest(target);
	CHECK(sent == got, "the source has contents %016llx, the target %016llx", sent, got);
	OK(vfiomig_device_run(to));
	lab_expect_state(target, to, VFIOMIG_STATE_RUNNING);
}

static inline void kmod_end(struct lab_device *device, struct vfiomig_device *handle)
{
	vfiomig_device_free(handle);
	lab_remove(device);
}

#endif
