/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Checkpoints of real devices, and back: mtty with what its guest wrote, and the test device, whose
 * digest must be the same each time. Many rounds take no more memory and descriptors than fifty, and a
 * writer that is killed leaves the old file whole.
 */
#include "kmod.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define KIB (1ull << 10)
/* Emulated machines are slow: `make lab-checkpoints` has 1000. */
#ifndef ROUNDS
#define ROUNDS 100u
#endif
/* How many system calls a writer is not killed in for one in which it is. */
#define STRIDE (ROUNDS < 1000 ? 5u : 1u)
#define FILE_NAME "/tmp/checkpoint"
#define TEMPORARY "/tmp/.checkpoint.vfiomig-tmp"

static int take_to(const char *path, struct vfiomig_device *const *devices, unsigned count, uint64_t generation,
		   uint64_t spool)
{
	struct vfiomig_checkpoint_options options = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
	struct vfiomig_checkpoint *cp = NULL;
	int ret;

	options.generation = generation;
	options.spool_bytes = spool;
	OK(vfiomig_checkpoint_begin(AT_FDCWD, path, &options, &cp));
	for (unsigned i = 0; i < count; i++) {
		struct vfiomig_save_options save = VFIOMIG_SAVE_OPTIONS_INIT;
		char name[16];

		save.device_index = i;
		snprintf(name, sizeof(name), "device%u", i);
		OK(vfiomig_checkpoint_add(cp, devices[i], name, &save));
	}
	OK(vfiomig_checkpoint_read(cp));
	OK(vfiomig_checkpoint_stop(cp));
	OK(vfiomig_checkpoint_read(cp));
	OK(vfiomig_checkpoint_resume(cp, VFIOMIG_CHECKPOINT_RESUME));
	ret = vfiomig_checkpoint_commit(cp);
	vfiomig_checkpoint_free(cp);
	return ret;
}

static int take(struct vfiomig_device *const *devices, unsigned count, uint64_t generation, uint64_t spool)
{
	return take_to(FILE_NAME, devices, count, generation, spool);
}

static struct vfiomig_restore *open_it(void)
{
	struct vfiomig_restore *restore = NULL;

	OK(vfiomig_restore_open(AT_FDCWD, FILE_NAME, NULL, &restore));
	return restore;
}

static uint64_t generation(void)
{
	struct vfiomig_restore_info info = VFIOMIG_RESTORE_INFO_INIT;
	struct vfiomig_restore *restore = open_it();

	OK(vfiomig_restore_get_info(restore, &info));
	OK(vfiomig_restore_verify(restore, VFIOMIG_RESTORE_ALL));
	vfiomig_restore_free(restore);
	return info.generation;
}

/* Devices of two drivers in one file, one of which waits in RUNNING_P2P for the other. */
static void devices_of_two_kinds_go_back(void)
{
	struct lab_device mtty, test;
	struct vfiomig_device *handles[2];
	struct vfiomig_restore *restore;
	unsigned long long then;

	handles[0] = lab_new(&mtty, 2, LAB_GROUP);
	handles[1] = kmod_new(&test, 7, 256 * KIB, 4, LAB_GROUP);
	lab_fill(&mtty, 3);
	kmod_set(&test, "touch", "0 9000");
	then = kmod_digest(&test);
	OK(take(handles, 2, 5, 100 * KIB));
	lab_expect_state(&mtty, handles[0], VFIOMIG_STATE_RUNNING);
	lab_expect_state(&test, handles[1], VFIOMIG_STATE_RUNNING);
	lab_fill(&mtty, 4);
	kmod_set(&test, "touch", "5000 9000");
	restore = open_it();
	/* Another kind of device keeps what it has. */
	CALL(vfiomig_restore_load(restore, "device1", handles[0], NULL), -EXDEV);
	lab_expect_contents(&mtty, 4);
	for (unsigned i = 0; i < 2; i++)
		OK(vfiomig_restore_load(restore, i ? "device1" : "device0", handles[i], NULL));
	vfiomig_restore_free(restore);
	for (unsigned i = 0; i < 2; i++)
		OK(vfiomig_device_run(handles[i]));
	lab_expect_contents(&mtty, 3);
	CHECK(kmod_digest(&test) == then, "another digest");
	vfiomig_device_free(handles[0]);
	lab_close(&mtty);
	kmod_end(&test, handles[1]);
	unlink(FILE_NAME);
}

static void mtty_goes_back(void)
{
	const enum lab_how *how = lab_arg();
	struct lab_device devices[2];
	struct vfiomig_device *handles[2];
	struct vfiomig_restore *restore;

	for (unsigned i = 0; i < 2; i++) {
		handles[i] = lab_new(&devices[i], 2, *how);
		lab_fill(&devices[i], 10 + i);
	}
	/* mtty's devices have no peer-to-peer states to wait in, and both run afterwards. */
	OK(take(handles, 2, 1, 1 << 20));
	for (unsigned i = 0; i < 2; i++) {
		lab_expect_state(&devices[i], handles[i], VFIOMIG_STATE_RUNNING);
		lab_expect_contents(&devices[i], 10 + i);
		lab_fill(&devices[i], 20 + i);
	}
	restore = open_it();
	for (unsigned i = 0; i < 2; i++) {
		OK(vfiomig_restore_load(restore, i ? "device1" : "device0", handles[i], NULL));
		OK(vfiomig_device_run(handles[i]));
		lab_expect_contents(&devices[i], 10 + i);
	}
	/* One state, in both devices. */
	OK(vfiomig_restore_load(restore, "device0", handles[1], NULL));
	OK(vfiomig_device_run(handles[1]));
	lab_expect_contents(&devices[1], 10);
	vfiomig_restore_free(restore);
	for (unsigned i = 0; i < 2; i++) {
		vfiomig_device_free(handles[i]);
		lab_close(&devices[i]);
	}
	unlink(FILE_NAME);
}

static unsigned descriptors(void)
{
	unsigned count = 0;
	DIR *dir = opendir("/proc/self/fd");

	CHECK(dir, "/proc/self/fd: %s", strerror(errno));
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static long resident_kib(void)
{
	long pages = 0, all;
	FILE *file = fopen("/proc/self/statm", "r");

	CHECK(file && fscanf(file, "%ld %ld", &all, &pages) == 2, "/proc/self/statm");
	fclose(file);
	return pages * 4;
}

static void many_times_there_and_back(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = kmod_new(&device, 7, 64 * KIB, 1, LAB_GROUP);
	unsigned fds = 0;
	long memory = 0;

	kmod_set(&device, "touch", "0 1");
	for (unsigned i = 0; i < ROUNDS; i++) {
		unsigned long long then = kmod_digest(&device);
		struct vfiomig_restore *restore;

		OK(take(&handle, 1, i, i % 2 ? 1 << 20 : 0));
		CHECK(kmod_digest(&device) == then, "round %u: the checkpoint changed the device", i);
		kmod_set(&device, "touch", "0 1");
		CHECK(kmod_digest(&device) != then, "round %u: the guest wrote nothing", i);
		restore = open_it();
		OK(vfiomig_restore_load(restore, "device0", handle, NULL));
		vfiomig_restore_free(restore);
		OK(vfiomig_device_run(handle));
		CHECK(kmod_digest(&device) == then, "round %u: another digest", i);
		kmod_set(&device, "touch", "0 1");
		if (i == 50) {
			fds = descriptors();
			memory = resident_kib();
		}
	}
	EXPECT(descriptors(), fds);
	CHECK(resident_kib() <= memory + 128, "from %ld to %ld KiB", memory, resident_kib());
	printf("| %u checkpoints and restores; after 50 and in the end: %ld and %ld KiB, %u descriptors\n", ROUNDS,
	       memory, resident_kib(), fds);
	kmod_end(&device, handle);
	unlink(FILE_NAME);
}

/* --- a writer that dies ------------------------------------------------------------------------- */

enum { BEGUN, ADDED, READ, STOPPED, COMPLETE, RESUMED, COMMITTED, STEPS };

/* Up to a step. */
static void write_up_to(const struct lab_device *device, int step, uint64_t generation)
{
	struct vfiomig_checkpoint_options options = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
	struct vfiomig_checkpoint *cp = NULL;
	struct vfiomig_device *handle = NULL;

	options.generation = generation;
	options.spool_bytes = generation % 2 ? 1 << 20 : 0;
	OK(vfiomig_device_new_fd(device->fd, NULL, &handle));
	for (int i = 0; i <= step; i++) {
		if (i == BEGUN)
			OK(vfiomig_checkpoint_begin(AT_FDCWD, FILE_NAME, &options, &cp));
		else if (i == ADDED)
			OK(vfiomig_checkpoint_add(cp, handle, "device0", NULL));
		else if (i == READ || i == COMPLETE)
			OK(vfiomig_checkpoint_read(cp));
		else if (i == STOPPED)
			OK(vfiomig_checkpoint_stop(cp));
		else if (i == RESUMED)
			OK(vfiomig_checkpoint_resume(cp, VFIOMIG_CHECKPOINT_RESUME));
		else
			OK(vfiomig_checkpoint_commit(cp));
	}
}

/* The device is as its dead writer left it. It still goes back to the file, and another one is written. */
static void goes_on(struct lab_device *device, unsigned long long digest)
{
	struct vfiomig_device *handle = NULL;
	struct vfiomig_restore *restore = open_it();

	OK(vfiomig_device_new_fd(device->fd, NULL, &handle));
	OK(vfiomig_device_reset(handle));
	OK(vfiomig_restore_load(restore, "device0", handle, NULL));
	vfiomig_restore_free(restore);
	OK(vfiomig_device_run(handle));
	CHECK(kmod_digest(device) == digest, "another digest");
	vfiomig_device_free(handle);
}

static void a_killed_writer_leaves_the_old_file_whole(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = kmod_new(&device, 7, 64 * KIB, 1, LAB_GROUP);
	unsigned long long digest = kmod_digest(&device);
	struct stat info;

	OK(take(&handle, 1, 77, 0));
	vfiomig_device_free(handle);
	for (int step = 0; step < STEPS; step++) {
		int ends[2], status;
		char ready;
		pid_t pid;

		CHECK(pipe(ends) == 0, "no pipe");
		pid = fork();
		if (pid == 0) {
			write_up_to(&device, step, 78);
			CHECK(write(ends[1], "!", 1) == 1, "the other end has gone");
			pause();
			_exit(1);
		}
		close(ends[1]);
		CHECK(read(ends[0], &ready, 1) == 1, "the writer died too early, in step %d", step);
		close(ends[0]);
		kill(pid, SIGKILL);
		CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status), "step %d: %x", step, status);
		EXPECT(generation(), step == COMMITTED ? 78 : 77);
		EXPECT(stat(TEMPORARY, &info), step == COMMITTED ? -1 : 0);
		goes_on(&device, digest);
	}
	lab_remove(&device);
	unlink(FILE_NAME);
	unlink(TEMPORARY);
}

/* Whether it was killed before the given stop, at the beginning or the end of a system call. */
static int killed_at(const struct lab_device *device, unsigned stop, uint64_t generation)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		write_up_to(device, COMMITTED, generation);
		_exit(0);
	}
	for (unsigned i = 0;; i++) {
		CHECK(waitpid(pid, &status, 0) == pid, "it cannot be waited for");
		if (WIFEXITED(status)) {
			EXPECT(WEXITSTATUS(status), 0);
			return 0;
		}
		CHECK(WIFSTOPPED(status), "stop %u: %x", i, status);
		if (i == stop)
			break;
		CHECK(ptrace(PTRACE_SYSCALL, pid, NULL, NULL) == 0, "stop %u: %s", i, strerror(errno));
	}
	kill(pid, SIGKILL);
	CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status), "stop %u: %x", stop, status);
	return 1;
}

/* How often the old file was there afterwards, and how often the new one. */
struct found {
	unsigned old, new;
};

static void take_the_old_one(const struct lab_device *device)
{
	struct vfiomig_device *handle = NULL;

	OK(vfiomig_device_new_fd(device->fd, NULL, &handle));
	OK(take(&handle, 1, 1000, 0));
	vfiomig_device_free(handle);
}

/* Kills it at this stop, unless there are not so many. */
static int kill_at(struct lab_device *device, unsigned long long digest, unsigned stop, struct found *found)
{
	uint64_t number;

	if (!killed_at(device, stop, stop))
		return 0;
	number = generation();
	CHECK(number == stop || number == 1000, "stop %u: the checkpoint is number %llu", stop,
	      (unsigned long long)number);
	found->old += number == 1000;
	found->new += number == stop;
	goes_on(device, digest);
	take_the_old_one(device);
	return 1;
}

static void one_that_is_killed_in_any_system_call_leaves_the_old_file_or_the_new_one(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = kmod_new(&device, 7, 64 * KIB, 1, LAB_GROUP);
	unsigned long long digest = kmod_digest(&device);
	struct found found = { 0, 0 };
	unsigned stop = 0;

	OK(take(&handle, 1, 1000, 0));
	vfiomig_device_free(handle);
	while (kill_at(&device, digest, stop, &found))
		stop += STRIDE;
	/* At the end, where the file gets its name, in all of them. */
	if (STRIDE > 1)
		for (take_the_old_one(&device), stop -= 2 * STRIDE; kill_at(&device, digest, stop, &found);)
			stop++;
	/* Nobody was there to kill it. */
	EXPECT(generation(), stop);
	printf("| a writer was killed %u times: %u times the old file was whole, %u times the new one was there\n",
	       found.old + found.new, found.old, found.new);
	CHECK(found.old > 50 / STRIDE && found.new > 0, "%u and %u", found.old, found.new);
	lab_remove(&device);
	unlink(FILE_NAME);
}

/* A disk with room for a checkpoint of a small device, for which a MiB more is found than it announces, and
 * not for one of a large device. */
static void a_full_disk_costs_only_the_checkpoint(void)
{
	static const char dir[] = "/tmp/small", name[] = "/tmp/small/checkpoint";
	struct lab_device device;
	struct vfiomig_device *handle = kmod_new(&device, 7, 64 * KIB, 1, LAB_GROUP);
	unsigned long long digest;

	CHECK(mkdir(dir, 0700) == 0 && mount("none", dir, "tmpfs", 0, "size=1600k") == 0, "no small disk: %s",
	      strerror(errno));
	OK(take_to(name, &handle, 1, 7, 0));
	kmod_end(&device, handle);
	for (int spooled = 0; spooled < 2; spooled++) {
		struct vfiomig_checkpoint_options options = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
		struct vfiomig_checkpoint *cp = NULL;
		struct vfiomig_restore *restore = NULL;
		int r;

		handle = kmod_new(&device, 7, 4096 * KIB, 2, LAB_GROUP);
		digest = kmod_digest(&device);
		options.spool_bytes = spooled ? 8 << 20 : 0;
		OK(vfiomig_checkpoint_begin(AT_FDCWD, name, &options, &cp));
		OK(vfiomig_checkpoint_add(cp, handle, "device0", NULL));
		CALL(vfiomig_checkpoint_read(cp), -ENOSPC);
		CALL(vfiomig_checkpoint_stop(cp), -ENOSPC);
		OK(vfiomig_checkpoint_resume(cp, VFIOMIG_CHECKPOINT_RESUME));
		CALL(vfiomig_checkpoint_commit(cp), -ENOSPC);
		vfiomig_checkpoint_free(cp);
		lab_expect_state(&device, handle, VFIOMIG_STATE_RUNNING);
		CHECK(kmod_digest(&device) == digest, "the device has changed");
		kmod_end(&device, handle);
		OK(vfiomig_restore_open(AT_FDCWD, name, NULL, &restore));
		r = vfiomig_restore_verify(restore, VFIOMIG_RESTORE_ALL);
		vfiomig_restore_free(restore);
		OK(r);
	}
	unlink(name);
	CHECK(rmdir(dir) == -1 && umount(dir) == 0 && rmdir(dir) == 0, "something was left on the small disk");
}

/* A stream that a descriptor does not take waits for another one. */
static void a_stream_waits_for_a_descriptor_that_takes_it(void)
{
	struct lab_device device;
	struct vfiomig_device *handle = kmod_new(&device, 7, 64 * KIB, 1, LAB_GROUP);
	unsigned long long digest = kmod_digest(&device);
	struct vfiomig_save *save = NULL;
	struct vfiomig_load *load = NULL;
	int full = open("/dev/full", O_WRONLY | O_CLOEXEC), r;
	int file = open(FILE_NAME, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	CHECK(full >= 0 && file >= 0, "%s", strerror(errno));
	OK(vfiomig_save_begin(handle, NULL, &save));
	CALL(vfiomig_save_write_fd(save, full, NULL), -ENOSPC);
	CALL(vfiomig_save_write_fd(save, file, NULL), VFIOMIG_NEXT_DRAINED);
	OK(vfiomig_save_stop(save));
	CALL(vfiomig_save_write_fd(save, full, NULL), -ENOSPC);
	CALL(vfiomig_save_write_fd(save, file, NULL), VFIOMIG_NEXT_END);
	OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
	vfiomig_save_free(save);
	lab_expect_state(&device, handle, VFIOMIG_STATE_RUNNING);
	kmod_set(&device, "touch", "0 1");
	CHECK(lseek(file, 0, SEEK_SET) == 0, "lseek");
	OK(vfiomig_load_begin(handle, NULL, &load));
	do
		r = vfiomig_load_read_fd(load, file, NULL);
	while (r >= 0 && !(r & VFIOMIG_PUSH_END));
	CHECK(r >= 0, "vfiomig_load_read_fd: %d: %s", r, vfiomig_error_message());
	OK(vfiomig_load_commit(load));
	vfiomig_load_free(load);
	OK(vfiomig_device_run(handle));
	CHECK(kmod_digest(&device) == digest, "another digest");
	close(full);
	close(file);
	kmod_end(&device, handle);
	unlink(FILE_NAME);
}

int main(void)
{
	static const enum lab_how hows[] = { LAB_GROUP, LAB_CDEV };

	for (unsigned i = 0; i < 2; i++)
		if (lab_has(hows[i]))
			lab_run_arg(mtty_goes_back, &hows[i], "mtty_goes_back, %s", lab_how_name(hows[i]));
	lab_run("devices_of_two_kinds_go_back", devices_of_two_kinds_go_back);
	lab_run("many_times_there_and_back", many_times_there_and_back);
	lab_run("a_killed_writer_leaves_the_old_file_whole", a_killed_writer_leaves_the_old_file_whole);
	lab_run("one_that_is_killed_in_any_system_call_leaves_the_old_file_or_the_new_one",
		one_that_is_killed_in_any_system_call_leaves_the_old_file_or_the_new_one);
	lab_run("a_full_disk_costs_only_the_checkpoint", a_full_disk_costs_only_the_checkpoint);
	lab_run("a_stream_waits_for_a_descriptor_that_takes_it", a_stream_waits_for_a_descriptor_that_takes_it);
	return lab_status();
}
