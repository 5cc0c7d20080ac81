/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Every protocol on real kernels, each with a test device that speaks it: what arrives, what is given up,
 * and what is left when something fails. The two older protocols go through regions, which are read and
 * written or mapped, with windows of all sizes.
 */
#include "kinds.h"

static const struct kind_test *it(void)
{
	return lab_arg();
}

/* --- what arrives ------------------------------------------------------------------------------- */

static void it_is_found(void)
{
	const struct kind *kind = it()->kind;
	struct vfiomig_identity identity = VFIOMIG_IDENTITY_INIT;
	struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
	struct lab_device device;
	struct vfiomig_device *handle = kind_new(&device, kind, &plain, 1);

	OK(vfiomig_device_get_identity(handle, &identity));
	OK(vfiomig_device_get_caps(handle, &caps));
	EXPECT(identity.protocol, kind->protocol);
	EXPECT(caps.migration_flags, 5); /* STOP_COPY, PRE_COPY */
	EXPECT(kmod_count(&device, "counters", "arcs"), 0);
	kind_expect(&device, VFIOMIG_STATE_RUNNING);
	kmod_end(&device, handle);
}

/* The source of the migration that is under way. */
static const struct lab_device *moving;

/* Later rounds have what has changed, and no more. */
static void change(struct vfiomig_save *save, struct vfiomig_load *load, struct kmod_way *way,
		   struct kmod_result *result)
{
	unsigned long long first = kmod_count(moving, "counters", "read_bytes");

	for (unsigned i = 0; i < 3; i++) {
		unsigned long long before = kmod_count(moving, "counters", "read_bytes"), now;

		kmod_set(moving, "touch", "%u 20000", 8192 * i);
		EXPECT(kmod_pass(save, load, way, result), VFIOMIG_NEXT_DRAINED);
		now = kmod_count(moving, "counters", "read_bytes") - before;
		CHECK(now > 20000 && now < first, "%llu bytes came again, after %llu the first time", now, first);
	}
}

static void it_arrives(void)
{
	const struct variety *v = it()->v;
	struct kmod_way way = { .cap = v->cap, .save_flags = v->save_flags };
	struct lab_device source, target;
	struct vfiomig_device *from = kind_new(&source, it()->kind, v, 1), *to = kind_new(&target, it()->kind, v, 2);

	moving = &source;
	kmod_set(&source, "initial_size", "%llu", (unsigned long long)v->size / 2);
	kmod_set(&source, "touch", "0 1");
	/* All of a device without memory comes when it has stopped. */
	kind_expect_arrived(&source, &target, to,
			    kmod_migrate(from, to, &way, v->no_memory ? NULL : change, NULL));
	if (!v->no_memory) {
		CHECK(way.stats.precopy_bytes > v->size / 2 + 3 * 20000, "%llu bytes came in pre-copy",
		      (unsigned long long)way.stats.precopy_bytes);
		CHECK(way.load_bits & VFIOMIG_PUSH_INITIAL_LOADED, "the mark behind the initial data has not come");
	}
	if (it()->kind->has_regions && (v->layout == WHOLE || v->layout == DATA))
		EXPECT(kmod_count(&source, "counters", "reads"), 0);
	else
		CHECK(kmod_count(&source, "counters", "reads") > 0, "nothing was trapped");
	/* And back, stopped at once. */
	way = (struct kmod_way){ .cap = v->cap, .save_flags = v->save_flags | VFIOMIG_SAVE_NO_PRE_COPY };
	kind_expect_arrived(&target, &source, from, kmod_migrate(to, from, &way, NULL, NULL));
	EXPECT(way.stats.precopy_bytes, 0);
	kmod_end(&source, from);
	kmod_end(&target, to);
}

/* Of each kind, into a device of each other. */
static void no_mix_of_protocols(void)
{
	struct lab_device devices[NUM_KINDS];
	struct vfiomig_device *handles[NUM_KINDS];
	struct lab_bytes streams[NUM_KINDS];

	for (unsigned i = 0; i < NUM_KINDS; i++) {
		handles[i] = kind_new(&devices[i], &kinds[i], &plain, 1);
		streams[i] = lab_save(handles[i], 0, VFIOMIG_GOOD_BUFFER, VFIOMIG_ENDING_KEEP);
	}
	for (unsigned i = 0; i < NUM_KINDS; i++) {
		for (unsigned to = 0; to < NUM_KINDS; to++) {
			struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
			unsigned long long arcs = kmod_count(&devices[to], "counters", "arcs");

			if (i == to)
				continue;
			CALL(lab_load(handles[to], NULL, streams[i].data, streams[i].len, 0, &failure), -EXDEV);
			CHECK(strstr(vfiomig_error_message(), "protocol"), "%s", vfiomig_error_message());
			EXPECT(kmod_count(&devices[to], "counters", "writes"), 0);
			/* The newest one is in RESUMING by then. */
			EXPECT(failure.outcome, to == V2 ? VFIOMIG_OUTCOME_RESET : VFIOMIG_OUTCOME_KEPT);
			if (to != V2)
				EXPECT(kmod_count(&devices[to], "counters", "arcs"), arcs);
			kind_expect(&devices[to], VFIOMIG_STATE_RUNNING);
		}
	}
	for (unsigned i = 0; i < NUM_KINDS; i++) {
		lab_free(&streams[i]);
		kmod_end(&devices[i], handles[i]);
	}
}

/* --- what is given up --------------------------------------------------------------------------- */

/* In pre-copy, and when it has stopped. */
static void a_save_is_given_up(void)
{
	static const uint32_t endings[] = { VFIOMIG_ENDING_KEEP, VFIOMIG_ENDING_KEEP_STOPPED };
	static const uint32_t ends[] = { VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_STOP };
	struct lab_device device;
	struct vfiomig_device *handle = kind_new(&device, it()->kind, &plain, 1);
	unsigned long long digest = kmod_digest(&device);
	unsigned char *buf = malloc(VFIOMIG_GOOD_BUFFER);

	for (int i = 0; i < 6; i++) {
		struct vfiomig_save *save;
		size_t len;

		OK(vfiomig_save_begin(handle, NULL, &save));
		kind_expect(&device, VFIOMIG_STATE_PRE_COPY);
		CHECK(vfiomig_save_next(save, buf, 5000, &len) >= 0, "no data");
		if (i % 3)
			OK(vfiomig_save_stop(save));
		if (i % 3 == 2) {
			kind_expect(&device, VFIOMIG_STATE_STOP_COPY);
			CHECK(vfiomig_save_next(save, buf, 5000, &len) >= 0, "no data");
			OK(vfiomig_save_cancel(save));
			CALL(vfiomig_save_next(save, buf, 5000, &len), -ECANCELED);
		}
		OK(vfiomig_save_finish(save, endings[i / 3]));
		vfiomig_save_free(save);
		kind_expect(&device, ends[i / 3]);
		OK(vfiomig_device_run(handle));
		CHECK(kmod_digest(&device) == digest, "the contents have changed");
	}
	free(buf);
	kmod_end(&device, handle);
}

/* A load that is cancelled or merely left leaves a device that can be loaded. */
static void a_load_is_given_up(void)
{
	struct lab_device source, target;
	struct vfiomig_device *from = kind_new(&source, it()->kind, &plain, 1), *to = kind_new(&target, it()->kind, &plain, 2);
	struct lab_bytes stream = lab_save(from, 0, VFIOMIG_GOOD_BUFFER, VFIOMIG_ENDING_KEEP);
	unsigned long long empty = kmod_digest(&target);

	for (size_t len = 0; len < stream.len; len += 1 + stream.len / 7) {
		struct vfiomig_load *load;

		OK(vfiomig_load_begin(to, NULL, &load));
		CHECK(vfiomig_load_push(load, stream.data, len) >= 0, "%s", vfiomig_error_message());
		if (len % 2) {
			OK(vfiomig_load_cancel(load));
			CALL(vfiomig_load_push(load, stream.data, 1), -ECANCELED);
		}
		vfiomig_load_free(load);
		kind_expect(&target, VFIOMIG_STATE_RUNNING);
		CHECK(kmod_digest(&target) == empty, "half a load has left something");
	}
	OK(lab_load(to, NULL, stream.data, stream.len, 1000, NULL));
	CHECK(kmod_digest(&source) == kmod_digest(&target), "other contents arrived");
	lab_free(&stream);
	kmod_end(&source, from);
	kmod_end(&target, to);
}

/* --- what fails --------------------------------------------------------------------------------- */

static void migrate_after_all(struct lab_device *source, struct vfiomig_device *from, struct lab_device *target,
			      struct vfiomig_device *to)
{
	struct kmod_way way = { 0 };

	OK(vfiomig_device_reset(to));
	OK(vfiomig_device_reset(from));
	kind_expect_arrived(source, target, to, kmod_migrate(from, to, &way, NULL, NULL));
}

/* Each access of a kind in turn, until there are no more. */
static void every_access_fails(void)
{
	const struct variety v = { .size = 40 * KIB, .window = 16 * KIB };
	const char *op = it()->op;
	unsigned struck = 0;

	for (int at_target = 0; at_target < 2; at_target++) {
		for (unsigned nth = 1; nth < 300; nth++) {
			struct lab_device source, target;
			struct vfiomig_device *from = kind_new(&source, it()->kind, &v, 1),
					      *to = kind_new(&target, it()->kind, &v, 2);
			const struct lab_device *bad = at_target ? &target : &source;
			unsigned long long digest = kmod_digest(&source);
			struct kmod_way way = { 0 };
			struct kmod_result result;
			unsigned hit;

			if (nth % 2)
				kmod_set(bad, "fail_to_error", "1");
			kmod_set(bad, op, "%u 5", nth);
			result = kmod_migrate(from, to, &way, NULL, NULL);
			hit = kmod_count(bad, "counters", "faults") > 0;
			struck += hit;
			kmod_set(bad, op, "0");
			if (!result.step) {
				CHECK(kmod_digest(&target) == digest, "%s %u: other contents arrived", op, nth);
				kind_expect(&target, VFIOMIG_STATE_STOP);
			} else {
				/* The device that failed was reset, or brought back; the source goes on. */
				kind_expect(&source, VFIOMIG_STATE_RUNNING);
				kind_expect(&target, VFIOMIG_STATE_RUNNING);
				CHECK(at_target == 0 || kmod_digest(&source) == digest, "%s %u: the source has lost", op,
				      nth);
			}
			migrate_after_all(&source, from, &target, to);
			kmod_end(&source, from);
			kmod_end(&target, to);
			if (!hit)
				break;
		}
	}
	CHECK(struck > 1, "only %u faults struck", struck);
}

/* A migration in which one device is reset before one of the calls. */
struct ride {
	const struct kind *kind;
	const struct lab_device *victim;
	struct vfiomig_device *handle;
	unsigned step, at;
	int told;
};

static void tick(struct ride *ride)
{
	if (ride->step++ != ride->at)
		return;
	OK(lab_raw_reset(ride->victim->fd));
	/* Where the state cannot be read, it has to be told. */
	if (!ride->kind->state_is_readable)
		ride->told = vfiomig_device_notify_reset(ride->handle);
}

/* Moves what there is in small steps; returns what save_next did, or the first error. */
static int move_on(struct ride *ride, struct vfiomig_save *save, struct vfiomig_load *load)
{
	unsigned char buf[16384];

	for (;;) {
		size_t len = 0;
		int ret, pushed;

		tick(ride);
		ret = vfiomig_save_next(save, buf, sizeof(buf), &len);
		if (ret < 0)
			return ret;
		tick(ride);
		pushed = vfiomig_load_push(load, buf, len);
		if (pushed < 0)
			return pushed;
		if (ret != VFIOMIG_NEXT_MORE)
			return ret;
	}
}

/* 0 if both sides say so; what the source had when it had stopped goes to *digest. */
static int ride_once(struct ride *ride, const struct lab_device *source, struct vfiomig_device *from,
		     struct vfiomig_device *to, unsigned long long *digest)
{
	struct vfiomig_save *save = NULL;
	struct vfiomig_load *load = NULL;
	int ret = vfiomig_save_begin(from, NULL, &save);

	if (ret >= 0)
		ret = vfiomig_load_begin(to, NULL, &load);
	if (ret >= 0)
		ret = move_on(ride, save, load);
	if (ret >= 0) {
		kmod_set(source, "touch", "0 9000");
		ret = move_on(ride, save, load);
	}
	if (ret >= 0) {
		tick(ride);
		ret = lab_insist(vfiomig_save_stop, save);
		*digest = kmod_digest(source);
	}
	if (ret >= 0)
		ret = move_on(ride, save, load);
	if (ret >= 0) {
		tick(ride);
		ret = vfiomig_load_commit(load);
	}
	vfiomig_load_free(load);
	if (save) {
		int kept = vfiomig_save_finish(save, ret < 0 ? VFIOMIG_ENDING_KEEP : VFIOMIG_ENDING_RELEASE);

		/* Nobody says that a guest's state is there which is not. */
		CHECK(kept < 0 || ret >= 0 || !*digest || kmod_digest(source) == *digest, "it is kept, and lost");
	}
	vfiomig_save_free(save);
	return ret < 0 ? ret : 0;
}

static void a_reset_at_every_step(void)
{
	const struct variety v = { .size = 40 * KIB, .window = 16 * KIB };
	unsigned arrived = 0, failed = 0;

	for (int at_target = 0; at_target < 2; at_target++) {
		for (unsigned at = 0; at < 100; at++) {
			struct lab_device source, target;
			struct vfiomig_device *from = kind_new(&source, it()->kind, &v, 1),
					      *to = kind_new(&target, it()->kind, &v, 2);
			struct ride ride = { it()->kind, at_target ? &target : &source, at_target ? to : from, 0, at, 0 };
			unsigned long long digest = 0;
			int ret;

			kmod_set(&source, "touch", "0 20000");
			ret = ride_once(&ride, &source, from, to, &digest);
			if (!ret)
				CHECK(kmod_digest(&target) == digest, "%u: other contents were committed", at);
			else
				kind_expect(&target, VFIOMIG_STATE_RUNNING);
			arrived += !ret;
			failed += ret < 0;
			migrate_after_all(&source, from, &target, to);
			kmod_end(&source, from);
			kmod_end(&target, to);
			if (ride.step <= at)
				break;
		}
	}
	CHECK(arrived > 4 && failed > 4, "%u arrived, %u failed", arrived, failed);
}

static void reset_it(struct vfiomig_save *save, struct vfiomig_load *load, struct kmod_way *way,
		     struct kmod_result *result)
{
	OK(lab_raw_reset(moving->fd));
	EXPECT(kmod_pass(save, load, way, result), VFIOMIG_NEXT_DRAINED);
}

/* Noticed by itself, where the state can be read. */
static void a_reset_by_the_guest_starts_it_again(void)
{
	struct lab_device source, target;
	struct vfiomig_device *from = kind_new(&source, it()->kind, &plain, 1), *to = kind_new(&target, it()->kind, &plain, 2);
	struct kmod_way way = { 0 };

	moving = &source;
	kmod_set(&source, "touch", "0 50000");
	kind_expect_arrived(&source, &target, to, kmod_migrate(from, to, &way, reset_it, NULL));
	CHECK(way.load_bits & VFIOMIG_PUSH_RESTARTED, "the save did not start again");
	kmod_end(&source, from);
	kmod_end(&target, to);
}

int main(void)
{
	static const struct variety varieties[] = {
		{ .name = "trapped", .size = 1 * MIB, .window = 64 * KIB, .cap = VFIOMIG_GOOD_BUFFER },
		{ .name = "whole", .size = 1 * MIB, .window = 64 * KIB, .layout = WHOLE },
		{ .name = "mapped", .size = 1 * MIB, .window = 64 * KIB, .layout = DATA },
		{ .name = "two-areas-and-a-hole", .size = 1 * MIB, .window = 64 * KIB, .layout = TWO, .alternate = 1,
		  .cap = VFIOMIG_MIN_BUFFER },
		{ .name = "alternating", .size = 1 * MIB, .window = 16 * KIB, .alternate = 1, .cap = 10000 },
		{ .name = "words", .size = 100 * KIB, .window = 16 * KIB, .strict = 1 },
		{ .name = "words-between-areas", .size = 100 * KIB, .window = 16 * KIB, .layout = TWO, .alternate = 1,
		  .strict = 1 },
		{ .name = "one-chunk", .size = 1 * MIB, .window = 8 * MIB, .layout = DATA, .cap = VFIOMIG_MIN_BUFFER },
		{ .name = "large", .size = 32 * MIB, .window = 1 * MIB, .layout = DATA, .alternate = 1 },
		{ .name = "odd-window", .size = 100 * KIB, .window = 10001, .layout = TWO },
		{ .name = "cdev", .size = 1 * MIB, .window = 64 * KIB, .layout = DATA, .how = LAB_CDEV },
		/* The order of the letter, on devices that count changes from LOGGING on, or from the read before. */
		{ .name = "letter", .size = 1 * MIB, .window = 64 * KIB, .first = 1,
		  .save_flags = VFIOMIG_SAVE_FULL_BEFORE_LOGGING },
		{ .name = "letter-since", .size = 1 * MIB, .window = 64 * KIB, .first = 2,
		  .save_flags = VFIOMIG_SAVE_FULL_BEFORE_LOGGING },
		{ .name = "no-memory", .size = 200 * KIB, .window = 64 * KIB, .no_memory = 1 },
	};
	static const char *const ops[NUM_KINDS][7] = {
		[V2] = { "fail_set_state", "fail_get_state", "fail_read", "fail_write", "fail_precopy_info" },
		[V1] = { "fail_set_state", "fail_get_state", "fail_precopy_info", "fail_data_size", "fail_write",
			 "fail_access" },
		[RFC] = { "fail_set_state", "fail_precopy_info", "fail_data_size", "fail_write", "fail_access" },
	};

	for (unsigned k = 0; k < NUM_KINDS; k++) {
		const char *name = kinds[k].name;
		struct kind_test test = { &kinds[k], &plain, NULL };

		lab_run_arg(it_is_found, &test, "regions-%s-probe", name);
		for (size_t i = 0; i < sizeof(varieties) / sizeof(varieties[0]); i++) {
			test.v = &varieties[i];
			/* Without regions, their varieties do not differ. */
			if ((k == V2 && i > 0 && test.v->how != LAB_CDEV) || (k != RFC && (test.v->no_memory || test.v->first)))
				continue;
			if (k == V2)
				lab_run_arg(it_arrives, &test, "regions-%s-%s", name, lab_how_name(test.v->how));
			else
				lab_run_arg(it_arrives, &test, "regions-%s-%s", name, test.v->name);
		}
		lab_run_arg(a_save_is_given_up, &test, "regions-%s-keep", name);
		lab_run_arg(a_load_is_given_up, &test, "regions-%s-half-a-load", name);
		for (const char *const *op = ops[k]; *op; op++) {
			test.op = *op;
			lab_run_arg(every_access_fails, &test, "regions-%s-%s", name, *op);
		}
		lab_run_arg(a_reset_at_every_step, &test, "regions-%s-reset-at-every-step", name);
		if (kinds[k].state_is_readable)
			lab_run_arg(a_reset_by_the_guest_starts_it_again, &test, "regions-%s-reset", name);
	}
	lab_run("regions-no-mix", no_mix_of_protocols);
	return lab_status();
}
