/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Every operation of the driver fails, once, at every place of a migration: on the source, on the
 * target, with an errno that drivers return, leaving the device where it was or in ERROR.
 * Afterwards the guest must have exactly one device with its contents, both devices must be in a
 * known state, and the next migration must succeed. Also resets behind the library's back, and
 * signals.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#include "kmod.h"

#define KIB (1ull << 10)
#define SIZE (24 * KIB)

struct fault {
	const char *knob;
	int error;
	int on_target;
	int to_error;
	uint32_t save_flags;
};

/* What functions that talk to a driver may return; see the lists of errors in vfiomig.h. */
static int is_documented(int error)
{
	static const int codes[] = { EIO, ENODEV, ENOMEM, EINVAL, ENOTTY, EOPNOTSUPP, ENOSPC, ENODATA };

	for (size_t i = 0; i < sizeof(codes) / sizeof(*codes); i++)
		if (error == -codes[i])
			return 1;
	return 0;
}

static const char *const all_knobs[] = { "fail_set_state", "fail_get_state", "fail_data_size", "fail_read",
					 "fail_write", "fail_precopy_info", "fail_reset" };

static void no_more_faults(const struct lab_device *device)
{
	for (size_t i = 0; i < sizeof(all_knobs) / sizeof(*all_knobs); i++)
		kmod_set(device, all_knobs[i], "0");
	kmod_set(device, "fail_to_error", "0");
}

/* States that a device may be left in, as the kernel reports them. */
static void expect_raw(const struct lab_device *device, const char *which, unsigned nth, uint32_t a, uint32_t b)
{
	int state = lab_raw_state(device->fd);

	CHECK(state == (int)a || state == (int)b, "fault %u: the %s is in %s", nth, which,
	      state < 0 ? strerror(-state) : vfiomig_state_name((uint32_t)state));
}

static void ask_for_sizes(struct vfiomig_save *save, struct vfiomig_load *load, struct kmod_way *way,
			  struct kmod_result *result)
{
	struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;

	(void)load;
	(void)way;
	/* Numbers that a driver does not give are unknown, which is not a failure. */
	kmod_failed(result, "get_pending", vfiomig_save_get_pending(save, &pending), 0);
}

static void it_fails_and_recovers(void)
{
	const struct fault *f = lab_arg();
	unsigned nth, hit = 0, failed = 0;
	struct lab_device source, target;
	struct vfiomig_device *from = kmod_new(&source, 7, SIZE, 1, LAB_GROUP);
	struct vfiomig_device *to = kmod_new(&target, 7, SIZE, 2, LAB_GROUP);
	const struct lab_device *victim = f->on_target ? &target : &source;
	unsigned long long source_power_on = kmod_digest(&source), target_power_on = kmod_digest(&target);

	/* Many reads and writes, so that there are many places. */
	kmod_set(&source, "max_read", "4000");
	kmod_set(&target, "max_write", "5000");
	for (nth = 1; nth < 60; nth++) {
		struct kmod_way way = { .save_flags = f->save_flags, .cap = 8 * KIB };
		struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
		unsigned long long before, faults_before = kmod_count(victim, "counters", "faults");
		struct kmod_result result;
		int reset, again, run;

		kmod_set(&source, "touch", "0 %llu", SIZE);
		before = kmod_digest(&source);
		kmod_set(victim, "fail_to_error", "%d", f->to_error);
		kmod_set(victim, f->knob, "%u %d", nth, f->error);
		result = kmod_migrate(from, to, &way, ask_for_sizes, &failure);
		again = kmod_count(victim, "counters", "faults") > faults_before;
		no_more_faults(victim);
		hit += (unsigned)again;
		if (result.step) {
			failed++;
			CHECK(again, "%s failed (%d) without a fault", result.step, result.error);
			CHECK(is_documented(result.error), "fault %u: %s returned %d (%s)", nth, result.step,
			      result.error, vfiomig_error_message());
			if (!strcmp(result.step, "release")) {
				/* The target has the contents, so the source must not run next to it. */
				expect_raw(&source, "source", nth, VFIOMIG_STATE_STOP, VFIOMIG_STATE_STOP);
				EXPECT(kmod_digest(&target), before);
			} else {
				expect_raw(&source, "source", nth, VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_RUNNING);
				reset = kmod_digest(&source) == source_power_on;
				CHECK(reset || kmod_digest(&source) == before, "fault %u: the source's contents changed",
				      nth);
				/* A guest that goes on with an empty device must be told. */
				CHECK(!reset || failure.outcome == VFIOMIG_OUTCOME_RESET,
				      "fault %u: the source was reset, the outcome is %u", nth, failure.outcome);
				expect_raw(&target, "target", nth, VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_RUNNING);
				CHECK(kmod_digest(&target) == target_power_on, "fault %u: the target kept something", nth);
			}
		} else {
			expect_raw(&source, "source", nth, VFIOMIG_STATE_STOP, VFIOMIG_STATE_STOP);
			expect_raw(&target, "target", nth, VFIOMIG_STATE_STOP, VFIOMIG_STATE_STOP);
			EXPECT(kmod_digest(&target), before);
		}
		/* Whatever it was, it is over; but a device that lost a stopped guest's state is not
		 * run. */
		run = vfiomig_device_run(from);
		if (run) {
			EXPECT(run, -EIO);
			EXPECT(kmod_digest(&source), source_power_on);
			OK(vfiomig_device_accept_reset(from));
			OK(vfiomig_device_run(from));
		}
		OK(vfiomig_device_reset(to));
		EXPECT(kmod_digest(&target), target_power_on);
		kmod_migrate_well(&source, from, &target, to, &(struct kmod_way){ 0 }, NULL);
		OK(vfiomig_device_run(from));
		OK(vfiomig_device_reset(to));
		if (!again)
			break;
	}
	printf("%s: %u places, %u of which failed the migration\n", f->knob, hit, failed);
	CHECK(hit > 0, "%s was never called", f->knob);
	CHECK(nth < 60, "no end of calls");
	kmod_end(&source, from);
	kmod_end(&target, to);
}

/* A reset that fails when it is needed: the device is lost until it can be reset again. */
static void a_reset_that_fails(void)
{
	struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
	struct kmod_way way = { 0 };
	struct lab_device source, target;
	struct vfiomig_device *from = kmod_new(&source, 7, SIZE, 1, LAB_GROUP);
	struct vfiomig_device *to = kmod_new(&target, 7, SIZE, 2, LAB_GROUP);
	struct kmod_result result;

	CALL((kmod_set(&source, "fail_reset", "1 %d", EIO), vfiomig_device_reset(from)), -EIO);
	OK(vfiomig_device_reset(from));
	kmod_set(&target, "fail_write", "2 %d", EIO);
	kmod_set(&target, "fail_reset", "1 %d 0", EIO);
	kmod_set(&target, "max_write", "1000");
	result = kmod_migrate(from, to, &way, NULL, NULL);
	CHECK(result.step && result.target_failed, "nothing failed");
	EXPECT(result.error, -EIO);
	OK(vfiomig_device_get_failure(to, &failure));
	EXPECT(failure.outcome, VFIOMIG_OUTCOME_LOST);
	EXPECT(lab_raw_state(target.fd), VFIOMIG_STATE_RESUMING);
	lab_expect_state(&source, from, VFIOMIG_STATE_RUNNING);
	CALL(vfiomig_device_reset(to), -EIO);
	no_more_faults(&target);
	OK(vfiomig_device_reset(to));
	kmod_migrate_well(&source, from, &target, to, &way, NULL);
	kmod_end(&source, from);
	kmod_end(&target, to);
}

/* The kernel answers EAGAIN while something else holds the device's lock. */
static void a_reset_that_is_held_up(void)
{
	struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
	struct kmod_way way = { 0 };
	struct lab_device source, target;
	struct vfiomig_device *from = kmod_new(&source, 7, SIZE, 1, LAB_GROUP);
	struct vfiomig_device *to = kmod_new(&target, 7, SIZE, 2, LAB_GROUP);
	struct kmod_result result;

	kmod_set(&target, "max_write", "1000");
	kmod_set(&target, "fail_write", "2 %d", EIO);
	kmod_set(&target, "fail_reset", "1 %d 3", EAGAIN);
	result = kmod_migrate(from, to, &way, NULL, NULL);
	CHECK(result.step && result.target_failed, "nothing failed");
	OK(vfiomig_device_get_failure(to, &failure));
	EXPECT(failure.outcome, VFIOMIG_OUTCOME_RESET);
	lab_expect_state(&target, to, VFIOMIG_STATE_RUNNING);
	/* For longer than the library waits; at the latest when the device is let go. */
	kmod_set(&target, "fail_write", "2 %d", EIO);
	kmod_set(&target, "fail_reset", "1 %d 0", EAGAIN);
	result = kmod_migrate(from, to, &way, NULL, NULL);
	CHECK(result.step && result.target_failed, "nothing failed");
	OK(vfiomig_device_get_failure(to, &failure));
	EXPECT(failure.outcome, VFIOMIG_OUTCOME_LOST);
	EXPECT(lab_raw_state(target.fd), VFIOMIG_STATE_RESUMING);
	no_more_faults(&target);
	vfiomig_device_free(to);
	EXPECT(lab_raw_state(target.fd), VFIOMIG_STATE_RUNNING);
	to = lab_handle(&target);
	no_more_faults(&source);
	kmod_migrate_well(&source, from, &target, to, &way, NULL);
	kmod_end(&source, from);
	kmod_end(&target, to);
}

/* --- resets behind the library's back ----------------------------------------------------------- */

/* After every piece of pre-copy in turn; the guest then makes new contents. */
static void resets_in_pre_copy(void)
{
	const int *blocking = lab_arg();
	struct lab_device source, target;
	struct vfiomig_device *from = kmod_new(&source, 7, SIZE, 1, LAB_GROUP);
	struct vfiomig_device *to = kmod_new(&target, 7, SIZE, 2, LAB_GROUP);
	unsigned char *buf = malloc(VFIOMIG_MIN_BUFFER);
	unsigned pieces, places = 0, restarted = 0;

	kmod_set(&source, "max_read", "1500");
	for (pieces = 0; pieces < 100; pieces++) {
		struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
		struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
		struct vfiomig_save *save = NULL;
		struct vfiomig_load *load = NULL;
		struct kmod_way way = { .cap = VFIOMIG_MIN_BUFFER };
		struct kmod_result result = { 0 };
		int ret = VFIOMIG_NEXT_MORE;

		options.flags = *blocking ? 0 : VFIOMIG_SAVE_NONBLOCK;
		kmod_set(&source, "touch", "0 100");
		OK(vfiomig_save_begin(from, &options, &save));
		OK(vfiomig_load_begin(to, NULL, &load));
		for (unsigned i = 0; i < pieces && ret == VFIOMIG_NEXT_MORE; i++) {
			size_t len = 0;

			ret = vfiomig_save_next(save, buf, VFIOMIG_MIN_BUFFER, &len);
			CHECK(ret >= 0, "%s", vfiomig_error_message());
			CHECK(vfiomig_load_push(load, buf, len) >= 0, "%s", vfiomig_error_message());
		}
		OK(lab_raw_reset(source.fd));
		kmod_set(&source, "touch", "4096 5000");
		if (pieces & 1)
			kmod_set(&source, "touch", "20000 1");
		EXPECT(kmod_pass(save, load, &way, &result), VFIOMIG_NEXT_DRAINED);
		OK(vfiomig_save_stop(save));
		EXPECT(kmod_pass(save, load, &way, &result), VFIOMIG_NEXT_END);
		OK(vfiomig_load_commit(load));
		OK(vfiomig_save_get_stats(save, &stats));
		EXPECT(stats.restarts, 1);
		restarted += !!(way.load_bits & VFIOMIG_PUSH_RESTARTED);
		OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
		vfiomig_save_free(save);
		vfiomig_load_free(load);
		EXPECT(kmod_digest(&target), kmod_digest(&source));
		OK(vfiomig_device_run(from));
		OK(vfiomig_device_run(to));
		places++;
		if (ret == VFIOMIG_NEXT_DRAINED)
			break;
	}
	CHECK(places >= 5, "only %u places", places);
	CHECK(restarted >= places - 2, "the target was told of %u of %u restarts", restarted, places);
	free(buf);
	kmod_end(&source, from);
	kmod_end(&target, to);
}

/* Each reset waits until a counter has increased by this much since the one before, or since the
 * beginning. */
struct resets {
	const struct lab_device *device;
	const char *counter;
	unsigned long long more, before;
	unsigned number;
	const char *knob; /* set after the last one: nothing needs to be slow now */
	char value[24];
};

static void *reset_at_the_right_time(void *arg)
{
	struct resets *resets = arg;

	for (unsigned i = 0; i < resets->number; i++) {
		uint64_t began = kmod_now_ms();

		while (kmod_count(resets->device, "counters", resets->counter) < resets->before + resets->more) {
			CHECK(kmod_now_ms() - began < 120000, "there is nothing to reset: %s do not get more",
			      resets->counter);
			usleep(1000);
		}
		OK(lab_raw_reset(resets->device->fd));
		resets->before = kmod_count(resets->device, "counters", resets->counter);
	}
	kmod_set(resets->device, resets->knob, "%s", resets->value);
	return NULL;
}

/* While a read sleeps in the driver. */
static void resets_during_a_blocking_read(void)
{
	struct kmod_way way = { 0 };
	struct lab_device source, target;
	struct vfiomig_device *from = kmod_new(&source, 7, 256 * KIB, 1, LAB_GROUP);
	struct vfiomig_device *to = kmod_new(&target, 7, 256 * KIB, 2, LAB_GROUP);
	/* Two reads after a reset, the device is being saved again. */
	struct resets resets = { &source, "reads", .more = 2, .number = 4, .knob = "read_rate", .value = "0" };
	pthread_t thread;

	kmod_set(&source, "touch", "0 100000");
	/* A quarter of a minute for everything; each reset comes in the middle. */
	kmod_set(&source, "read_rate", "%llu", 16 * KIB);
	resets.before = kmod_count(&source, "counters", "reads");
	CHECK(pthread_create(&thread, NULL, reset_at_the_right_time, &resets) == 0, "no thread");
	kmod_migrate_well(&source, from, &target, to, &way, NULL);
	CHECK(pthread_join(thread, NULL) == 0, "no end of the thread");
	EXPECT(way.stats.restarts, 4);
	EXPECT(kmod_count(&source, "counters", "resets"), 4);
	kmod_end(&source, from);
	kmod_end(&target, to);
}

/* A reset during a slow change of state happens when the change is over. */
static void a_reset_during_a_change(void)
{
	static const unsigned slow_states[] = { VFIOMIG_STATE_PRE_COPY, VFIOMIG_STATE_PRE_COPY_P2P };

	for (unsigned i = 0; i < 2; i++) {
		struct kmod_way way = { 0 };
		struct lab_device source, target;
		struct vfiomig_device *from = kmod_new(&source, 7, SIZE, 1, LAB_GROUP);
		struct vfiomig_device *to = kmod_new(&target, 7, SIZE, 2, LAB_GROUP);
		/* A step is counted when it begins. */
		struct resets resets = { &source, "arcs", .more = i + 1, .number = 1, .knob = "latency_us" };
		struct kmod_result result;
		pthread_t thread;

		kmod_set(&source, "touch", "0 100");
		kmod_set(&source, "latency_us", "%u 5000000", slow_states[i]);
		snprintf(resets.value, sizeof(resets.value), "%u 0", slow_states[i]);
		resets.before = kmod_count(&source, "counters", "arcs");
		CHECK(pthread_create(&thread, NULL, reset_at_the_right_time, &resets) == 0, "no thread");
		result = kmod_migrate(from, to, &way, NULL, NULL);
		CHECK(pthread_join(thread, NULL) == 0, "no end of the thread");
		EXPECT(kmod_count(&source, "counters", "deferred_resets"), 1);
		if (slow_states[i] == VFIOMIG_STATE_PRE_COPY_P2P) {
			/* The guest is stopped before its device is quiesced, so it was not the guest. */
			CHECK(result.step && !result.target_failed, "nothing failed");
			EXPECT(result.error, -EIO);
			CALL(vfiomig_device_run(from), -EIO);
			OK(vfiomig_device_accept_reset(from));
			OK(vfiomig_device_run(from));
		} else {
			CHECK(!result.step, "%s: %d (%s)", result.step, result.error, vfiomig_error_message());
			EXPECT(way.stats.restarts, 1);
			EXPECT(kmod_digest(&target), kmod_digest(&source));
		}
		kmod_end(&source, from);
		kmod_end(&target, to);
	}
}

/* --- signals ------------------------------------------------------------------------------------ */

static volatile sig_atomic_t signals;

static void on_signal(int number)
{
	(void)number;
	signals++;
}

static void signals_do_no_harm(void)
{
	struct sigaction action = { .sa_handler = on_signal }; /* not SA_RESTART */
	struct itimerval every = { { 0, 3000 }, { 0, 3000 } }, never = { 0 };
	struct kmod_way way = { 0 };
	struct lab_device source, target;
	struct vfiomig_device *from = kmod_new(&source, 7, 64 * KIB, 1, LAB_GROUP);
	struct vfiomig_device *to = kmod_new(&target, 7, 64 * KIB, 2, LAB_GROUP);
	struct kmod_result result;

	kmod_set(&source, "touch", "0 100");
	kmod_set(&source, "read_rate", "%llu", 128 * KIB);
	kmod_set(&target, "write_rate", "%llu", 128 * KIB);
	for (unsigned state = VFIOMIG_STATE_STOP; state <= VFIOMIG_STATE_PRE_COPY_P2P; state++) {
		kmod_set(&source, "latency_us", "%u 20000", state);
		kmod_set(&target, "latency_us", "%u 20000", state);
	}
	CHECK(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &every, NULL) == 0, "no timer");
	result = kmod_migrate(from, to, &way, NULL, NULL);
	CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0, "no timer");
	CHECK(!result.step, "%s: %d (%s)", result.step, result.error, vfiomig_error_message());
	EXPECT(kmod_digest(&target), kmod_digest(&source));
	CHECK(signals >= 50, "only %d signals in a migration of a second", (int)signals);
	kmod_end(&source, from);
	kmod_end(&target, to);
}

int main(void)
{
	static const char *const source_knobs[] = { "fail_set_state", "fail_get_state", "fail_data_size", "fail_read",
						    "fail_precopy_info" };
	static const char *const target_knobs[] = { "fail_set_state", "fail_get_state", "fail_write" };
	static const int errors[] = { EIO, ENODEV, EINVAL, EPERM, EAGAIN, ENOSPC };
	static const int manners[] = { 0, 1 };
	static struct fault f;

	if (lab_boot() != 1)
		return 77;
	for (size_t e = 0; e < sizeof(errors) / sizeof(*errors); e++) {
		f = (struct fault){ .error = errors[e] };
		for (size_t k = 0; k < sizeof(source_knobs) / sizeof(*source_knobs); k++) {
			f.knob = source_knobs[k];
			/* "Try again" from read and write is what a driver says that must not block. */
			if (f.error == EAGAIN && !strcmp(f.knob, "fail_read"))
				continue;
			lab_run_arg(it_fails_and_recovers, &f, "kmod-faults-source-%s-%s", f.knob + 5,
				    strerrorname_np(f.error));
		}
		f.on_target = 1;
		for (size_t k = 0; k < sizeof(target_knobs) / sizeof(*target_knobs); k++) {
			f.knob = target_knobs[k];
			if (f.error == EAGAIN && !strcmp(f.knob, "fail_write"))
				continue;
			lab_run_arg(it_fails_and_recovers, &f, "kmod-faults-target-%s-%s", f.knob + 5,
				    strerrorname_np(f.error));
		}
	}
	f = (struct fault){ .error = EIO, .knob = "fail_set_state", .to_error = 1 };
	lab_run_arg(it_fails_and_recovers, &f, "kmod-faults-source-to-ERROR");
	f.on_target = 1;
	lab_run_arg(it_fails_and_recovers, &f, "kmod-faults-target-to-ERROR");
	f = (struct fault){ .error = EIO, .knob = "fail_set_state", .save_flags = VFIOMIG_SAVE_NO_PRE_COPY };
	lab_run_arg(it_fails_and_recovers, &f, "kmod-faults-source-no-pre-copy-set_state");
	f.knob = "fail_read";
	lab_run_arg(it_fails_and_recovers, &f, "kmod-faults-source-no-pre-copy-read");
	lab_run("kmod-faults-reset", a_reset_that_fails);
	lab_run("kmod-faults-reset-held-up", a_reset_that_is_held_up);
	lab_run_arg(resets_in_pre_copy, &manners[1], "kmod-faults-flr-blocking");
	lab_run_arg(resets_in_pre_copy, &manners[0], "kmod-faults-flr-nonblock");
	lab_run("kmod-faults-flr-in-read", resets_during_a_blocking_read);
	lab_run("kmod-faults-flr-in-change", a_reset_during_a_change);
	lab_run("kmod-faults-signals", signals_do_no_harm);
	return lab_status();
}
