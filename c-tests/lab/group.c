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
		vfiomig_group_free(groups[side]);
		for (int i = 0; i < DEVICES; i++) {
			vfiomig_device_free(handles[side][i]);
			lab_remove(&devices[side][i]);
		}
	}
}

/* Passes frames on until the source says that there are no more, or something fails. */
static int pass(void)
{
	static unsigned char frame[CAP];
	size_t len;
	int ret;

	do {
		ret = vfiomig_group_next(groups[SOURCE], frame, sizeof frame, &len);
		if (ret >= 0 && len)
			OK(vfiomig_group_put(groups[TARGET], frame, len));
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

static void four_devices_move_together(void)
{
	begin(*(const enum lab_how *)lab_arg());
	everything_comes();
	/* Each one was quiesced while the next ones ran: in turn, and all before the first was stopped. */
	CHECK(trace[SOURCE].quiesced_beside_running > 0, "no device was seen quiesced beside a running one");
	they_run_on_the_target();
	end();
}

static void *help(void *group)
{
	vfiomig_group_work(group, VFIOMIG_GROUP_UNTIL_DISMISSED);
	return NULL;
}

/* Threads read, send, receive and write; nothing passes through this program's hands. */
static void four_devices_move_over_channels(void)
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
	OK(vfiomig_group_stop(groups[SOURCE]));
	OK(vfiomig_group_work(groups[SOURCE], VFIOMIG_GROUP_UNTIL_COMPLETE));
	OK(vfiomig_group_work(groups[TARGET], VFIOMIG_GROUP_UNTIL_COMPLETE));
	they_run_on_the_target();
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
