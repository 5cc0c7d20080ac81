/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A group of four real devices, two mtty and two of lab/kmod. At each change of a device's state, the
 * kernel is asked, past the library, where all of them are: none runs while another stands still. The
 * last device fails at each step of a switchover, of a commit and of running.
 */
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kmod.h"

enum { DEVICES = 4, CAP = 16384, MTTYS = 2 };

static struct lab_device devices[2][DEVICES];
static struct vfiomig_device *handles[2][DEVICES];
static struct vfiomig_group *groups[2];
static struct vfiomig_estimate *estimates[2];

enum { SOURCE, TARGET };

/* The trace: what changed, and whether that was allowed beside the others. */
static struct {
	unsigned changes, quiesced_beside_running, early;
	int watched;
} trace[2];

struct place {
	int side, number;
} places[2][DEVICES];

static int stands(int state)
{
	return state == VFIOMIG_STATE_STOP || state == VFIOMIG_STATE_STOP_COPY;
}

static int runs(int state)
{
	return state == VFIOMIG_STATE_RUNNING || state == VFIOMIG_STATE_PRE_COPY;
}

static void look(void *opaque, const struct vfiomig_event *event)
{
	const struct place *place = opaque;
	int one = lab_raw_state(devices[place->side][place->number].fd);

	if (event->kind != VFIOMIG_EVENT_STATE_CHANGED || !trace[place->side].watched)
		return;
	trace[place->side].changes++;
	for (int i = 0; i < DEVICES; i++) {
		int other = lab_raw_state(devices[place->side][i].fd);

		trace[place->side].early += (runs(one) && stands(other)) || (stands(one) && runs(other));
		trace[place->side].quiesced_beside_running += one == VFIOMIG_STATE_PRE_COPY_P2P && runs(other);
	}
}

static void open_device(int side, int i, enum lab_how how)
{
	struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
	struct lab_device *device = &devices[side][i];

	if (i < MTTYS) {
		lab_create(device, 2);
		lab_open(device, how);
		lab_fill(device, 100u * (unsigned)side + (unsigned)i);
	} else {
		kmod_create(device, 7);
		kmod_set(device, "state_size", "%u", 300000);
		kmod_set(device, "seed", "%u", 100 * side + i);
		lab_open(device, how);
	}
	places[side][i] = (struct place){ side, i };
	options.sysfs_path = device->sysfs;
	options.event = look;
	options.event_opaque = &places[side][i];
	OK(vfiomig_device_new_fd(device->fd, &options, &handles[side][i]));
}

enum { CHANNELS = 3, LENT = DEVICES + 1 };

static int with_channels, socks[CHANNELS][2];

static void add_channels(void)
{
	for (int i = 0; i < CHANNELS; i++) {
		EXPECT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks[i]), 0);
		for (int side = 0; side < 2; side++) {
			struct vfiomig_channel_options options = VFIOMIG_CHANNEL_OPTIONS_INIT;

			options.fd = socks[i][side];
			OK(vfiomig_group_add_channel(groups[side], &options));
		}
	}
}

static void begin(enum lab_how how)
{
	lab_need(how);
	memset(trace, 0, sizeof trace);
	for (int side = 0; side < 2; side++) {
		struct vfiomig_group_options options = VFIOMIG_GROUP_OPTIONS_INIT;

		for (int i = 0; i < DEVICES; i++)
			open_device(side, i, how);
		options.role = side == SOURCE ? VFIOMIG_GROUP_ROLE_SOURCE : VFIOMIG_GROUP_ROLE_TARGET;
		memset(options.migration_id, 5, sizeof options.migration_id);
		options.window = with_channels ? VFIOMIG_GROUP_GOOD_WINDOW : 0;
		OK(vfiomig_group_new(&options, &groups[side]));
		for (int i = 0; i < DEVICES; i++)
			OK(side == SOURCE ? vfiomig_group_add_save(groups[side], handles[side][i], NULL)
					  : vfiomig_group_add_load(groups[side], handles[side][i], NULL));
	}
	for (int side = 0; side < 2; side++)
		OK(vfiomig_group_get_estimate(groups[side], &estimates[side]));
	if (with_channels)
		add_channels();
	trace[SOURCE].watched = 1;
	for (int side = 0; side < 2; side++)
		OK(vfiomig_group_begin(groups[side]));
}

static void end(void)
{
	for (int side = 0; side < 2; side++) {
		EXPECT(trace[side].early, 0);
		vfiomig_estimate_free(estimates[side]);
		vfiomig_group_free(groups[side]);
		for (int i = 0; i < DEVICES; i++) {
			vfiomig_device_free(handles[side][i]);
			lab_remove(&devices[side][i]);
		}
	}
}

static uint64_t stopped_ns, ran_ns; /* the guest, or it would have */

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Passes frames on until the source says that there are no more, or something fails. */
static int pass(void)
{
	static unsigned char frame[CAP];
	size_t len;
	int ret;

	do {
		ret = vfiomig_group_next(groups[SOURCE], frame, sizeof frame, &len);
		if (ret >= 0 && len) {
			uint64_t before = now_ns();

			OK(vfiomig_group_put(groups[TARGET], frame, len));
			OK(vfiomig_estimate_observe(estimates[SOURCE], VFIOMIG_OBSERVATION_SENT, 0, 0, len,
						    now_ns() - before));
		}
	} while (ret == VFIOMIG_NEXT_MORE);
	return ret;
}

static void expect_all(int side, uint32_t state)
{
	for (int i = 0; i < DEVICES; i++)
		EXPECT(lab_raw_state(devices[side][i].fd), (int)state);
}

static void the_last_device_fails(const char *knob, unsigned nth, int side)
{
	kmod_set(&devices[side][DEVICES - 1], knob, "%u %d", nth, EIO);
}

static void everything_comes(void)
{
	EXPECT(pass(), VFIOMIG_NEXT_DRAINED);
	OK(vfiomig_group_stop(groups[SOURCE]));
	expect_all(SOURCE, VFIOMIG_STATE_STOP_COPY);
	EXPECT(pass(), VFIOMIG_NEXT_END);
}

static void the_source_is_kept(void)
{
	OK(vfiomig_group_finish(groups[SOURCE], VFIOMIG_ENDING_KEEP));
	OK(vfiomig_group_run(groups[SOURCE]));
	expect_all(SOURCE, VFIOMIG_STATE_RUNNING);
}

/* All of them, and what they hold. */
static void they_run_on_the_target(void)
{
	OK(vfiomig_group_commit(groups[TARGET]));
	expect_all(TARGET, VFIOMIG_STATE_STOP);
	trace[TARGET].watched = 1;
	OK(vfiomig_group_finish(groups[SOURCE], VFIOMIG_ENDING_RELEASE));
	expect_all(SOURCE, VFIOMIG_STATE_STOP);
	OK(vfiomig_group_run(groups[TARGET]));
	ran_ns = now_ns();
	expect_all(TARGET, VFIOMIG_STATE_RUNNING);
	CHECK(trace[TARGET].changes >= 2 * DEVICES, "only %u changes of state were seen", trace[TARGET].changes);
	for (int i = 0; i < MTTYS; i++)
		lab_expect_contents(&devices[TARGET][i], (unsigned)i);
	for (int i = MTTYS; i < DEVICES; i++) {
		char digest[64];

		snprintf(digest, sizeof digest, "%.60s", kmod_get(&devices[SOURCE][i], "digest"));
		CHECK(!strcmp(digest, kmod_get(&devices[TARGET][i], "digest")), "device %d holds something else", i);
	}
	printf("| %u changes of the source's states, %u of the target's\n", trace[SOURCE].changes,
	       trace[TARGET].changes);
}

/* --- how long the guest would have stood still ------------------------------------------------------ */

static struct vfiomig_prediction prediction;

/* What was measured of each side's devices, from the migrations before this one. */
static unsigned char measured[2][DEVICES][VFIOMIG_ESTIMATE_BYTES];
static int migrations;

static void recall(int side, uint32_t as, unsigned char blobs[DEVICES][VFIOMIG_ESTIMATE_BYTES])
{
	for (uint32_t i = 0; i < DEVICES && migrations > 0; i++)
		OK(vfiomig_estimate_import(estimates[side], i, as, blobs[i], sizeof blobs[i]));
}

/* Before the devices are stopped, with all that is known by then. */
static void predict(void)
{
	recall(SOURCE, VFIOMIG_ESTIMATE_HERE, measured[SOURCE]);
	recall(SOURCE, VFIOMIG_ESTIMATE_THERE, measured[TARGET]);
	recall(TARGET, VFIOMIG_ESTIMATE_HERE, measured[TARGET]);
	for (uint32_t i = 0; i < DEVICES; i++) {
		struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;

		OK(vfiomig_group_get_pending(groups[SOURCE], i, &pending));
	}
	prediction = (struct vfiomig_prediction)VFIOMIG_PREDICTION_INIT;
	OK(vfiomig_estimate_predict(estimates[SOURCE], VFIOMIG_ESTIMATE_ALL, 0, &prediction));
	/* The first time, nobody knows how long these devices take to commit. */
	EXPECT(prediction.high_ns[VFIOMIG_DOWNTIME_COMMIT] == VFIOMIG_ESTIMATE_UNKNOWN, migrations == 0);
	stopped_ns = now_ns();
}

static void print_phase(const char *name, uint32_t phase, const struct vfiomig_downtime *downtime)
{
	uint64_t high = prediction.high_ns[phase], took = downtime->measured_ns[phase];

	printf("| group: %-8s predicted %.3f ms (%.3f to ", name, (double)prediction.expected_ns[phase] / 1e6,
	       (double)prediction.low_ns[phase] / 1e6);
	if (high == VFIOMIG_ESTIMATE_UNKNOWN)
		printf("nobody knows");
	else
		printf("%.3f", (double)high / 1e6);
	printf("), measured %.3f ms\n", (double)took / 1e6);
	CHECK(took != VFIOMIG_ESTIMATE_UNKNOWN, "%s was not measured", name);
	CHECK(prediction.low_ns[phase] <= prediction.expected_ns[phase] && prediction.expected_ns[phase] <= high,
	      "the prediction of %s is not between its bounds", name);
}

/* Beside what was predicted, by phase. How long they take is up to the machine, which may be busy; that
 * they do not overlap is not. */
static void compare(void)
{
	static const char *const names[] = { "quiesce", "stop", "read", "send", "load", "commit", "resume" };
	uint64_t passed = ran_ns - stopped_ns, sum = 0;
	struct vfiomig_downtime here = VFIOMIG_DOWNTIME_INIT, there = VFIOMIG_DOWNTIME_INIT;

	OK(vfiomig_estimate_get_downtime(estimates[TARGET], VFIOMIG_ESTIMATE_ALL, &there));
	for (uint32_t phase = VFIOMIG_DOWNTIME_COMMIT; phase <= VFIOMIG_DOWNTIME_RESUME; phase++)
		OK(vfiomig_estimate_observe(estimates[SOURCE], VFIOMIG_OBSERVATION_PHASE, 0, 0, phase,
					    there.measured_ns[phase]));
	OK(vfiomig_estimate_get_downtime(estimates[SOURCE], VFIOMIG_ESTIMATE_ALL, &here));
	for (uint32_t phase = 0; phase < VFIOMIG_DOWNTIME_TOTAL; phase++) {
		print_phase(names[phase], phase, &here);
		sum += here.measured_ns[phase];
	}
	printf("| group: predicted %.3f ms%s, measured %.3f ms, passed %.3f ms\n",
	       (double)prediction.expected_ns[VFIOMIG_DOWNTIME_TOTAL] / 1e6,
	       prediction.flags & VFIOMIG_ESTIMATE_KNOWN ? "" : " or more",
	       (double)here.measured_ns[VFIOMIG_DOWNTIME_TOTAL] / 1e6, (double)passed / 1e6);
	EXPECT(here.measured_ns[VFIOMIG_DOWNTIME_TOTAL] == sum, 1);
	/* In between, this program looks at the devices, which belongs to no phase. */
	CHECK(sum <= passed, "%llu ns in %llu", (unsigned long long)sum, (unsigned long long)passed);
	EXPECT(prediction.flags & VFIOMIG_ESTIMATE_KNOWN, migrations > 0 ? VFIOMIG_ESTIMATE_KNOWN : 0);
	for (int side = 0; side < 2; side++) {
		size_t len;

		for (uint32_t i = 0; i < DEVICES; i++)
			OK(vfiomig_estimate_export(estimates[side], i, measured[side][i], sizeof measured[0][0], &len));
	}
	migrations++;
}

static void four_devices_move_together(void)
{
	/* The second time, what the first one has measured is known. */
	for (int time = 0; time < 2; time++) {
		begin(*(const enum lab_how *)lab_arg());
		EXPECT(pass(), VFIOMIG_NEXT_DRAINED);
		predict();
		everything_comes();
		/* Each one was quiesced while the next ones ran: in turn, and all before the first was stopped. */
		CHECK(trace[SOURCE].quiesced_beside_running > 0, "no device was seen quiesced beside a running one");
		they_run_on_the_target();
		compare();
		end();
	}
}

static void *help(void *group)
{
	vfiomig_group_work(group, VFIOMIG_GROUP_UNTIL_DISMISSED);
	return NULL;
}

/* Threads read, send, receive and write; nothing passes through this program's hands. */
static void move_over_channels(void)
{
	pthread_t lent[2][LENT];
	struct vfiomig_channel_stats stats = VFIOMIG_CHANNEL_STATS_INIT;
	uint64_t bytes[CHANNELS];

	with_channels = 1;
	begin(*(const enum lab_how *)lab_arg());
	with_channels = 0;
	for (int side = 0; side < 2; side++)
		for (int i = 0; i < LENT; i++)
			EXPECT(pthread_create(&lent[side][i], NULL, help, groups[side]), 0);
	OK(vfiomig_group_work(groups[SOURCE], VFIOMIG_GROUP_UNTIL_DRAINED));
	predict();
	OK(vfiomig_group_stop(groups[SOURCE]));
	OK(vfiomig_group_work(groups[SOURCE], VFIOMIG_GROUP_UNTIL_COMPLETE));
	OK(vfiomig_group_work(groups[TARGET], VFIOMIG_GROUP_UNTIL_COMPLETE));
	they_run_on_the_target();
	compare();
	for (uint32_t i = 0; i < CHANNELS; i++) {
		OK(vfiomig_group_get_channel_stats(groups[SOURCE], i, &stats));
		bytes[i] = stats.sent_bytes;
	}
	printf("| sent over channels: %llu, %llu and %llu bytes\n", (unsigned long long)bytes[0],
	       (unsigned long long)bytes[1], (unsigned long long)bytes[2]);
	for (int side = 0; side < 2; side++) {
		OK(vfiomig_group_dismiss(groups[side]));
		for (int i = 0; i < LENT; i++)
			EXPECT(pthread_join(lent[side][i], NULL), 0);
	}
	end();
	for (int i = 0; i < CHANNELS; i++)
		EXPECT(close(socks[i][0]) + close(socks[i][1]), 0);
}

static void four_devices_move_over_channels(void)
{
	for (int time = 0; time < 2; time++)
		move_over_channels();
}

/* Its first change of state is to be quiesced, its second to be stopped. */
static void the_last_device_does_not_stop(void)
{
	for (unsigned nth = 1; nth <= 2; nth++) {
		struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;

		begin(*(const enum lab_how *)lab_arg());
		EXPECT(pass(), VFIOMIG_NEXT_DRAINED);
		the_last_device_fails("fail_set_state", nth, SOURCE);
		CALL(vfiomig_group_stop(groups[SOURCE]), -EIO);
		OK(vfiomig_group_get_failure(groups[SOURCE], DEVICES - 1, &failure));
		EXPECT(failure.os_errno, EIO);
		for (int i = 0; i < DEVICES - 1; i++)
			EXPECT(stands(lab_raw_state(devices[SOURCE][i].fd)), nth == 2);
		the_source_is_kept();
		OK(vfiomig_group_abandon(groups[TARGET]));
		expect_all(TARGET, VFIOMIG_STATE_RUNNING);
		end();
	}
}

static void the_last_device_cannot_be_read(void)
{
	begin(*(const enum lab_how *)lab_arg());
	EXPECT(pass(), VFIOMIG_NEXT_DRAINED);
	OK(vfiomig_group_stop(groups[SOURCE]));
	the_last_device_fails("fail_read", 1, SOURCE);
	EXPECT(pass(), -EIO);
	the_source_is_kept();
	OK(vfiomig_group_abandon(groups[TARGET]));
	end();
}

static void the_last_device_does_not_begin(void)
{
	begin(*(const enum lab_how *)lab_arg());
	the_source_is_kept();
	vfiomig_group_free(groups[SOURCE]);
	{
		struct vfiomig_group_options options = VFIOMIG_GROUP_OPTIONS_INIT;

		options.role = VFIOMIG_GROUP_ROLE_SOURCE;
		OK(vfiomig_group_new(&options, &groups[SOURCE]));
		for (int i = 0; i < DEVICES; i++)
			OK(vfiomig_group_add_save(groups[SOURCE], handles[SOURCE][i], NULL));
	}
	the_last_device_fails("fail_set_state", 1, SOURCE);
	CALL(vfiomig_group_begin(groups[SOURCE]), -EIO);
	expect_all(SOURCE, VFIOMIG_STATE_RUNNING);
	end();
}

static void the_last_device_does_not_commit(void)
{
	begin(*(const enum lab_how *)lab_arg());
	everything_comes();
	the_last_device_fails("fail_set_state", 1, TARGET);
	CALL(vfiomig_group_commit(groups[TARGET]), -EIO);
	/* Those that had committed were reset as well. */
	expect_all(TARGET, VFIOMIG_STATE_RUNNING);
	for (int i = MTTYS; i < DEVICES; i++)
		CHECK(kmod_count(&devices[TARGET][i], "counters", "resets") >= 1, "device %d was not reset", i);
	the_source_is_kept();
	end();
}

static void the_last_device_does_not_run(void)
{
	for (unsigned nth = 1; nth <= 2; nth++) {
		begin(*(const enum lab_how *)lab_arg());
		everything_comes();
		OK(vfiomig_group_commit(groups[TARGET]));
		trace[TARGET].watched = 1;
		kmod_set(&devices[TARGET][DEVICES - 1], "fail_to_error", "1");
		the_last_device_fails("fail_set_state", nth, TARGET);
		CALL(vfiomig_group_run(groups[TARGET]), -EIO);
		for (int i = 0; i < DEVICES; i++)
			CHECK(!runs(lab_raw_state(devices[TARGET][i].fd)), "device %d runs", i);
		/* It was reset, which takes a device to RUNNING before the library can take it further. */
		trace[TARGET].early = 0;
		trace[TARGET].watched = 0;
		OK(vfiomig_group_abandon(groups[TARGET]));
		the_source_is_kept();
		end();
	}
}

int main(void)
{
	static const enum lab_how hows[] = { LAB_GROUP, LAB_CDEV };

	for (size_t i = 0; i < 2; i++) {
		const char *how = lab_how_name(hows[i]);

		lab_run_arg(four_devices_move_together, &hows[i], "group-moves-%s", how);
		lab_run_arg(four_devices_move_over_channels, &hows[i], "group-channels-%s", how);
		lab_run_arg(the_last_device_does_not_begin, &hows[i], "group-begin-fails-%s", how);
		lab_run_arg(the_last_device_does_not_stop, &hows[i], "group-stop-fails-%s", how);
		lab_run_arg(the_last_device_cannot_be_read, &hows[i], "group-read-fails-%s", how);
		lab_run_arg(the_last_device_does_not_commit, &hows[i], "group-commit-fails-%s", how);
		lab_run_arg(the_last_device_does_not_run, &hows[i], "group-run-fails-%s", how);
	}
	return lab_status();
}
