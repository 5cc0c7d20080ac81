/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Migrations of the test device: all kinds of device, sizes up to 256 MiB, drivers that answer in
 * short pieces or slowly, contents that change in the meantime. The device compares every byte that
 * it is given, and its digest must match the source's.
 */
#include "kmod.h"

#define KIB (1ull << 10)
#define MIB (1ull << 20)

struct variety {
	unsigned flags;
	uint64_t size;
	unsigned drained;  /* errno of a drained read in pre-copy */
	unsigned max_read, max_write;
	unsigned rate;     /* bytes per second, both ways */
	uint64_t initial;  /* bytes that pre-copy sends */
	size_t cap;
	uint32_t save_flags;
	enum lab_how how;
};

static void it_arrives(void)
{
	const struct variety *v = lab_arg();
	struct kmod_way way = { .save_flags = v->save_flags, .cap = v->cap };
	struct lab_device source, target;
	struct vfiomig_device *from = kmod_new(&source, v->flags, v->size, 1, v->how);
	struct vfiomig_device *to = kmod_new(&target, v->flags, v->size, 2, v->how);
	unsigned char scratch[8] = "scratch", back[8];

	kmod_set(&source, "drained", "%u", v->drained);
	kmod_set(&source, "max_read", "%u", v->max_read);
	kmod_set(&target, "max_write", "%u", v->max_write);
	kmod_set(&source, "read_rate", "%u", v->rate);
	kmod_set(&target, "write_rate", "%u", v->rate);
	kmod_set(&source, "initial_size", "%llu", (unsigned long long)v->initial);
	/* The guest has used its device: it is not as it was after power-on. */
	kmod_set(&source, "touch", "0 1");
	EXPECT(pwrite(source.fd, scratch, 8, 0x40), 8);
	CHECK(kmod_digest(&source) != kmod_digest(&target), "the devices are alike from the beginning");
	kmod_migrate_well(&source, from, &target, to, &way, NULL);
	EXPECT(pread(target.fd, back, 8, 0x40), 8);
	CHECK(!memcmp(scratch, back, 8), "the registers have not arrived");
	CHECK(kmod_count(&source, "counters", "read_bytes") == kmod_count(&target, "counters", "write_bytes"),
	      "the driver of the source gave %llu bytes, that of the target got %llu",
	      kmod_count(&source, "counters", "read_bytes"), kmod_count(&target, "counters", "write_bytes"));
	if (v->flags & 4 && !(v->save_flags & VFIOMIG_SAVE_NO_PRE_COPY)) {
		/* Headers come on top. */
		CHECK(way.stats.precopy_bytes >= (v->initial < v->size ? v->initial : v->size),
		      "%llu bytes came in pre-copy", (unsigned long long)way.stats.precopy_bytes);
		CHECK(v->initial >= v->size || way.stats.precopy_bytes < v->size, "pre-copy sent more than it should");
	} else {
		EXPECT(way.stats.precopy_bytes, 0);
	}
	if (v->max_read)
		CHECK(kmod_count(&source, "counters", "reads") >= v->size / v->max_read, "reads were not short");
	kmod_end(&source, from);
	kmod_end(&target, to);
}

/* --- contents that change ----------------------------------------------------------------------- */

static const struct lab_device *busy;

static void go_on_for_a_while(struct vfiomig_save *save, struct vfiomig_load *load, struct kmod_way *way,
			      struct kmod_result *result)
{
	uint64_t until = kmod_now_ms() + 600;

	/* At least three rounds, if it takes longer. */
	for (unsigned rounds = 0; rounds < 3 || kmod_now_ms() < until; rounds++) {
		struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
		struct pollfd ready = { .fd = vfiomig_save_get_poll_fd(save), .events = POLLIN };

		CHECK(ready.fd >= 0, "no fd to poll: %d", ready.fd);
		/* Something is dirty after at most a few milliseconds. */
		CHECK(poll(&ready, 1, 5000) == 1, "nothing to read within 5 s");
		OK(vfiomig_save_get_pending(save, &pending));
		CHECK(pending.flags & VFIOMIG_PENDING_PRE_COPY_KNOWN, "no estimates");
		EXPECT(pending.initial_bytes, 0);
		CHECK(pending.dirty_bytes > 0, "readable, but nothing dirty");
		CHECK(pending.flags & VFIOMIG_PENDING_STOP_COPY_KNOWN && pending.stop_copy_bytes >= pending.dirty_bytes,
		      "%llu bytes dirty, %llu to come when stopped", (unsigned long long)pending.dirty_bytes,
		      (unsigned long long)pending.stop_copy_bytes);
		EXPECT(kmod_pass(save, load, way, result), VFIOMIG_NEXT_DRAINED);
	}
}

static void it_arrives_while_it_changes(void)
{
	const struct variety *v = lab_arg();
	struct kmod_way way = { .save_flags = v->save_flags };
	struct lab_device source, target;
	struct vfiomig_device *from = kmod_new(&source, v->flags, v->size, 1, v->how);
	struct vfiomig_device *to = kmod_new(&target, v->flags, v->size, 2, v->how);

	busy = &source;
	kmod_set(&source, "drained", "%u", v->drained);
	kmod_set(&source, "dirty_rate", "%llu", 1 * MIB);
	kmod_migrate_well(&source, from, &target, to, &way, go_on_for_a_while);
	CHECK(way.load_bits & VFIOMIG_PUSH_INITIAL_LOADED, "the mark behind the initial data has not come");
	CHECK(kmod_count(&source, "counters", "touched") >= 20, "only %llu blocks changed",
	      kmod_count(&source, "counters", "touched"));
	CHECK(kmod_count(&source, "counters", "read_bytes") > v->size + 10 * 4096, "nothing was sent twice");
	kmod_end(&source, from);
	kmod_end(&target, to);
}

/* If something changes faster than it can be read, pre-copy does not end, but the save can. */
static void it_arrives_although_pre_copy_never_drains(void)
{
	struct vfiomig_save *save = NULL;
	struct vfiomig_load *load = NULL;
	struct kmod_way way = { 0 };
	struct kmod_result result = { 0 };
	unsigned char *buf = malloc(65536);
	struct lab_device source, target;
	struct vfiomig_device *from = kmod_new(&source, 7, MIB, 1, LAB_GROUP);
	struct vfiomig_device *to = kmod_new(&target, 7, MIB, 2, LAB_GROUP);
	size_t len, taken = 0;

	kmod_set(&source, "dirty_rate", "%llu", 512 * MIB);
	kmod_set(&source, "read_rate", "%llu", 8 * MIB);
	OK(vfiomig_save_begin(from, NULL, &save));
	OK(vfiomig_load_begin(to, NULL, &load));
	while (taken < 3 * MIB) {
		CALL(vfiomig_save_next(save, buf, 65536, &len), VFIOMIG_NEXT_MORE);
		CHECK(vfiomig_load_push(load, buf, len) >= 0, "%s", vfiomig_error_message());
		taken += len;
	}
	kmod_set(&source, "read_rate", "0");
	OK(vfiomig_save_stop(save));
	EXPECT(kmod_pass(save, load, &way, &result), VFIOMIG_NEXT_END);
	OK(vfiomig_load_commit(load));
	OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
	vfiomig_save_free(save);
	vfiomig_load_free(load);
	EXPECT(kmod_digest(&target), kmod_digest(&source));
	free(buf);
	kmod_end(&source, from);
	kmod_end(&target, to);
}

/* --- without blocking --------------------------------------------------------------------------- */

static void faster_after_five_waits(const struct kmod_way *way)
{
	if (way->waits == 5)
		kmod_set(busy, "read_rate", "%llu", 1 * MIB);
}

static void a_slow_device_is_polled(void)
{
	const struct variety *v = lab_arg();
	struct kmod_way way = { .save_flags = VFIOMIG_SAVE_NONBLOCK, .before_wait = faster_after_five_waits };
	struct lab_device source, target;
	struct vfiomig_device *from = kmod_new(&source, v->flags, 512 * KIB, 1, LAB_GROUP);
	struct vfiomig_device *to = kmod_new(&target, v->flags, 512 * KIB, 2, LAB_GROUP);

	busy = &source;
	/* One byte every 250 ms, until someone has had to wait for it five times. */
	kmod_set(&source, "read_rate", "4");
	kmod_migrate_well(&source, from, &target, to, &way, NULL);
	/* After that 50 pieces a second, of which some may come in time. */
	CHECK(way.waits >= 5, "%u waits in a slow save", way.waits);
	/* poll() that returned at once would have made thousands of them. */
	CHECK(way.waits <= 500, "%u waits in a slow save", way.waits);
	EXPECT(way.timeouts, 0);
	kmod_end(&source, from);
	kmod_end(&target, to);
}

/* --- initial data that starts again ------------------------------------------------------------- */

static uint32_t generations[2];

static void start_initial_data_again(struct vfiomig_save *save, struct vfiomig_load *load, struct kmod_way *way,
				     struct kmod_result *result)
{
	struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;

	OK(vfiomig_save_get_pending(save, &pending));
	EXPECT(pending.initial_bytes, 0);
	generations[0] = pending.initial_generation;
	kmod_set(busy, "reinit", "1");
	OK(vfiomig_save_get_pending(save, &pending));
	CHECK(pending.initial_bytes + pending.dirty_bytes >= 256 * KIB, "nothing to send again");
	EXPECT(kmod_pass(save, load, way, result), VFIOMIG_NEXT_DRAINED);
	OK(vfiomig_save_get_pending(save, &pending));
	EXPECT(pending.initial_bytes, 0);
	generations[1] = pending.initial_generation;
}

static void initial_data_starts_again(void)
{
	struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
	struct kmod_way way = { 0 };
	struct lab_device source, target;
	struct vfiomig_device *from = kmod_new(&source, 7, 256 * KIB, 1, LAB_GROUP);
	struct vfiomig_device *to = kmod_new(&target, 7, 256 * KIB, 2, LAB_GROUP);
	int v2 = lab_kernel_is("7.3");

	busy = &source;
	OK(vfiomig_device_get_caps(from, &caps));
	EXPECT(!!(caps.flags & VFIOMIG_CAP_PRECOPY_INFO_V2), v2);
	kmod_migrate_well(&source, from, &target, to, &way, start_initial_data_again);
	/* Older kernels have no way to tell. */
	EXPECT(generations[1] - generations[0], v2);
	CHECK(kmod_count(&source, "counters", "read_bytes") > 512 * KIB, "nothing was sent twice");
	kmod_end(&source, from);
	kmod_end(&target, to);
}

/* --- what must not arrive ----------------------------------------------------------------------- */

/* The other tests rely on the device's comparing. */
static void a_wrong_bit_is_refused(void)
{
	struct kmod_way way = { 0 };
	struct lab_device source, target;
	struct vfiomig_device *from = kmod_new(&source, 7, MIB, 1, LAB_GROUP);
	struct vfiomig_device *to = kmod_new(&target, 7, MIB, 2, LAB_GROUP);
	unsigned long long before = kmod_digest(&source), target_before = kmod_digest(&target);
	struct kmod_result result;

	kmod_set(&source, "corrupt", "200");
	result = kmod_migrate(from, to, &way, NULL, NULL);
	CHECK(result.step && result.target_failed, "a wrong bit was taken");
	EXPECT(result.error, -EINVAL);
	lab_expect_state(&source, from, VFIOMIG_STATE_RUNNING);
	lab_expect_state(&target, to, VFIOMIG_STATE_RUNNING);
	EXPECT(kmod_digest(&source), before);
	EXPECT(kmod_digest(&target), target_before);
	kmod_set(&source, "corrupt", "0xffffffffffffffff");
	kmod_migrate_well(&source, from, &target, to, &way, NULL);
	kmod_end(&source, from);
	kmod_end(&target, to);
}

static void another_kind_of_device_is_refused(void)
{
	struct kmod_way way = { 0 };
	struct lab_device source, target, larger;
	struct vfiomig_device *from = kmod_new(&source, 7, MIB, 1, LAB_GROUP);
	struct vfiomig_device *to = kmod_new(&target, 5, MIB, 2, LAB_GROUP);
	struct vfiomig_device *big = kmod_new(&larger, 7, 2 * MIB, 2, LAB_GROUP);
	struct kmod_result result = kmod_migrate(from, to, &way, NULL, NULL);

	/* By the library, before the driver gets anything. */
	CHECK(result.step && result.target_failed, "a device of another type was loaded");
	EXPECT(result.error, -EXDEV);
	EXPECT(kmod_count(&target, "counters", "writes"), 0);
	/* By the driver. */
	result = kmod_migrate(from, big, &way, NULL, NULL);
	CHECK(result.step && result.target_failed, "a device of another size was loaded");
	EXPECT(result.error, -EINVAL);
	lab_expect_state(&source, from, VFIOMIG_STATE_RUNNING);
	lab_expect_state(&target, to, VFIOMIG_STATE_RUNNING);
	lab_expect_state(&larger, big, VFIOMIG_STATE_RUNNING);
	kmod_end(&source, from);
	kmod_end(&target, to);
	kmod_end(&larger, big);
}

static void a_device_without_migration_says_so(void)
{
	struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
	struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
	struct vfiomig_save *save = NULL;
	struct lab_device device;
	struct vfiomig_device *handle = kmod_new(&device, 0, MIB, 1, LAB_GROUP);

	OK(vfiomig_device_get_caps(handle, &caps));
	CHECK(!(caps.flags & VFIOMIG_CAP_MIGRATE), "it can migrate");
	OK(vfiomig_device_get_reason(handle, 0, &reason));
	EXPECT(reason.code, VFIOMIG_REASON_DRIVER_NO_MIGRATION);
	CALL(vfiomig_save_begin(handle, NULL, &save), -EOPNOTSUPP);
	kmod_end(&device, handle);
}

int main(void)
{
	static const unsigned flags[] = { 1, 3, 5, 7 };
	static const unsigned answers[] = { ENOMSG, 0 };
	static const uint64_t sizes[] = { 1, 4 * KIB + 1, 16 * MIB };
	static struct variety v;

	if (lab_boot() != 1)
		return 77;
	for (size_t f = 0; f < 4; f++)
		for (size_t a = 0; a < 2; a++) {
			v = (struct variety){ .flags = flags[f], .drained = answers[a], .initial = UINT64_MAX };
			/* Without pre-copy there is only one answer. */
			if (!(v.flags & 4) && a)
				continue;
			for (size_t s = 0; s < 3; s++) {
				v.size = sizes[s];
				lab_run_arg(it_arrives, &v, "kmod-migrate-flags-%u-size-%llu-drained-%u", v.flags,
					    (unsigned long long)v.size, v.drained);
			}
			v.size = 64 * KIB + 3;
			v.max_read = 37;
			v.max_write = 53;
			lab_run_arg(it_arrives, &v, "kmod-migrate-flags-%u-short-drained-%u", v.flags, v.drained);
			v.max_read = v.max_write = 0;
			v.rate = 2 * MIB;
			v.size = MIB;
			lab_run_arg(it_arrives, &v, "kmod-migrate-flags-%u-slow-drained-%u", v.flags, v.drained);
			v.rate = 0;
			v.cap = VFIOMIG_MIN_BUFFER;
			lab_run_arg(it_arrives, &v, "kmod-migrate-flags-%u-small-buffer-drained-%u", v.flags, v.drained);
			v.cap = 0;
			if (!(v.flags & 4))
				continue;
			v.initial = 300 * KIB;
			lab_run_arg(it_arrives, &v, "kmod-migrate-flags-%u-part-drained-%u", v.flags, v.drained);
			v.initial = 0;
			lab_run_arg(it_arrives, &v, "kmod-migrate-flags-%u-header-drained-%u", v.flags, v.drained);
			v.initial = UINT64_MAX;
			v.save_flags = VFIOMIG_SAVE_NO_PRE_COPY;
			lab_run_arg(it_arrives, &v, "kmod-migrate-flags-%u-no-pre-copy-drained-%u", v.flags, v.drained);
			v.save_flags = 0;
			lab_run_arg(it_arrives_while_it_changes, &v, "kmod-migrate-flags-%u-dirty-drained-%u", v.flags,
				    v.drained);
			v.save_flags = VFIOMIG_SAVE_NONBLOCK;
			lab_run_arg(it_arrives_while_it_changes, &v, "kmod-migrate-flags-%u-dirty-nonblock-drained-%u",
				    v.flags, v.drained);
		}
	for (size_t f = 0; f < 4; f++) {
		v = (struct variety){ .flags = flags[f] };
		lab_run_arg(a_slow_device_is_polled, &v, "kmod-migrate-flags-%u-polled", v.flags);
	}
	v = (struct variety){ .flags = 7, .size = MIB, .initial = UINT64_MAX, .drained = ENOMSG, .how = LAB_CDEV };
	lab_run_arg(it_arrives, &v, "kmod-migrate-cdev");
	v = (struct variety){ .flags = 7, .size = 256 * MIB, .drained = ENOMSG, .initial = 128 * MIB };
	lab_run_arg(it_arrives, &v, "kmod-migrate-256-MiB");
	lab_run("kmod-migrate-never-drains", it_arrives_although_pre_copy_never_drains);
	lab_run("kmod-migrate-reinit", initial_data_starts_again);
	lab_run("kmod-migrate-wrong-bit", a_wrong_bit_is_refused);
	lab_run("kmod-migrate-other-device", another_kind_of_device_is_refused);
	lab_run("kmod-migrate-no-migration", a_device_without_migration_says_so);
	return lab_status();
}
