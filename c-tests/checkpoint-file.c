/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Checkpoints in files: what comes back, and what is left if anything fails, of the old file and of the
 * guest. tests/checkpoint.rs kills the writer at every system call.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "fan-out.h"
#include "scratch.h"

/* --- system calls that fail ---------------------------------------------------------------------- */

/* The nth from now: 1 is the next one; 0: none. */
static int fail_fsync, fail_rename, fail_allocate, fail_errno;

static int fails(int *when)
{
    if (*when == 0 || --*when != 0)
        return 0;
    errno = fail_errno;
    return 1;
}

int fsync(int fd)
{
    return fails(&fail_fsync) ? -1 : (int)syscall(SYS_fsync, fd);
}

int renameat(int from, const char *old, int to, const char *new)
{
    return fails(&fail_rename) ? -1 : (int)syscall(SYS_renameat2, from, old, to, new, 0);
}

/* Files in memory cannot become longer: how often that was tried. */
static int no_memory_file, refused_memory;

int fallocate64(int fd, int mode, off_t at, off_t len)
{
    if (no_memory_file && mode == 0) {
        refused_memory++;
        errno = ENOSPC;
        return -1;
    }
    return fails(&fail_allocate) ? -1 : fallocate(fd, mode, at, len);
}

/* --- what comes back ------------------------------------------------------------------------------ */

static void devices_come_back_as_they_were(void)
{
    static const uint64_t spools[] = { 0, 1 << 30, 100 << 10 };
    for (int i = 0; i < 3; i++) {
        struct scratch s = scratch_new();
        struct rig one = rig_new(NULL, NULL), two = rig_target(NULL);
        uint64_t then[] = { vfiomig_sim_digest(one.sim), vfiomig_sim_digest(two.sim) };
        struct vfiomig_device *devs[] = { one.dev, two.dev };
        struct vfiomig_checkpoint_options options = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
        struct stat info;
        options.spool_bytes = spools[i];
        OK(take(s.file, devs, 2, &options));
        EQ(vfiomig_sim_state(one.sim), VFIOMIG_STATE_RUNNING);
        EQ(vfiomig_sim_state(two.sim), VFIOMIG_STATE_RUNNING);
        EQ(scratch_files(&s), 1);
        EQ(stat(s.file, &info), 0);
        EQ(info.st_mode & 07777, 0600);

        EQ(vfiomig_sim_guest_write(one.sim, 0, 200000, 9), 0);
        OK(go_back(s.file, "dev0", one.dev, NULL));
        EQ(vfiomig_sim_state(one.sim), VFIOMIG_STATE_STOP);
        OK(vfiomig_device_run(one.dev));
        CHECK(vfiomig_sim_digest(one.sim) == then[0]);
        struct vfiomig_restore_options restore = VFIOMIG_RESTORE_OPTIONS_INIT;
        restore.staged_bytes = 1 << 20;
        OK(go_back(s.file, "dev1", two.dev, &restore));
        CHECK(vfiomig_sim_digest(two.sim) == then[1]);
        rig_free(&one);
        rig_free(&two);
        scratch_free(&s);
    }
}

static void a_checkpoint_says_what_it_holds(void)
{
    static const char note[] = "memory-17.img";
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL), other = rig_target(NULL);
    struct vfiomig_device *devs[] = { rig.dev, other.dev };
    struct vfiomig_checkpoint_options options = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
    struct vfiomig_restore_info info = VFIOMIG_RESTORE_INFO_INIT;
    struct vfiomig_restore_device device = VFIOMIG_RESTORE_DEVICE_INIT;
    struct vfiomig_identity identity = VFIOMIG_IDENTITY_INIT, own = VFIOMIG_IDENTITY_INIT;
    struct vfiomig_restore *restore;
    char buf[64];
    size_t len = 99;
    options.generation = 17;
    options.created_ns = 1234567;
    options.note = note;
    options.note_len = sizeof note;
    OK(take(s.file, devs, 2, &options));
    OK(vfiomig_restore_open(AT_FDCWD, s.file, NULL, &restore));
    OK(vfiomig_restore_get_info(restore, &info));
    EQ(info.generation, 17);
    EQ(info.created_ns, 1234567);
    EQ(info.num_devices, 2);
    EQ(info.note_len, sizeof note);
    EQ(info.flags, 0);
    EQ(vfiomig_restore_get_note(restore, buf, sizeof note - 1, &len), -ENOSPC);
    EQ(len, 99);
    OK(vfiomig_restore_get_note(restore, buf, sizeof buf, &len));
    CHECK(len == sizeof note && strcmp(buf, note) == 0);
    OK(vfiomig_restore_get_device(restore, 1, &device));
    EQ(device.device_index, 1);
    CHECK(strcmp(device.name, "dev1") == 0);
    CHECK(device.data_bytes >= SOME_SIZE && device.stream_bytes > device.data_bytes);
    OK(vfiomig_restore_get_identity(restore, 1, &identity));
    OK(vfiomig_device_get_identity(other.dev, &own));
    CHECK(memcmp(&identity, &own, sizeof own) == 0);
    EQ(vfiomig_restore_get_device(restore, 2, &device), -ENODATA);
    EQ(vfiomig_restore_get_identity(restore, UINT32_MAX, &identity), -ENODATA);
    OK(vfiomig_restore_verify(restore, 1));
    OK(vfiomig_restore_verify(restore, VFIOMIG_RESTORE_ALL));
    EQ(vfiomig_restore_verify(restore, 2), -ENODATA);
    EQ(vfiomig_restore_load(restore, "dev2", rig.dev, NULL), -ENODATA);
    EQ(vfiomig_restore_load(restore, "\xff", rig.dev, NULL), -ENODATA);
    vfiomig_restore_free(restore);
    rig_free(&rig);
    rig_free(&other);
    scratch_free(&s);
}

static void the_numbers_add_up_while_it_is_taken(void)
{
    static const uint64_t spools[] = { 0, 1 << 30 };
    for (int i = 0; i < 2; i++) {
        struct scratch s = scratch_new();
        struct rig rig = rig_new(NULL, NULL);
        struct vfiomig_checkpoint_options options = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
        struct vfiomig_checkpoint_stats stats = VFIOMIG_CHECKPOINT_STATS_INIT;
        struct vfiomig_checkpoint *cp;
        options.spool_bytes = spools[i];
        OK(vfiomig_checkpoint_begin(AT_FDCWD, s.file, &options, &cp));
        OK(add_devices(cp, &rig.dev, 1));
        OK(vfiomig_checkpoint_read(cp));
        OK(vfiomig_checkpoint_get_stats(cp, &stats));
        uint64_t early = stats.stream_bytes;
        CHECK(early > 0 && stats.stopped_bytes == 0 && stats.file_bytes >= early);
        CHECK(stats.expected_bytes >= SOME_SIZE);
        OK(vfiomig_checkpoint_stop(cp));
        OK(vfiomig_checkpoint_read(cp));
        OK(vfiomig_checkpoint_get_stats(cp, &stats));
        EQ(stats.stream_bytes, early + stats.stopped_bytes);
        EQ(stats.spooled_bytes, i ? stats.stopped_bytes : 0);
        CHECK(stats.stream_bytes > SOME_SIZE && stats.stream_bytes <= stats.expected_bytes);
        EQ(stats.pause_ns, 0);
        OK(vfiomig_checkpoint_resume(cp, VFIOMIG_CHECKPOINT_RESUME));
        OK(vfiomig_checkpoint_get_stats(cp, &stats));
        CHECK(stats.pause_ns >= stats.stop_ns + stats.read_ns && stats.read_ns > 0);
        OK(vfiomig_checkpoint_commit(cp));
        OK(vfiomig_checkpoint_get_stats(cp, &stats));
        CHECK(stats.file_bytes > stats.stream_bytes);
        vfiomig_checkpoint_free(cp);
        rig_free(&rig);
        scratch_free(&s);
    }
}

/* --- fan-out --------------------------------------------------------------------------------------- */

static void one_file_is_loaded_into_many_devices_at_once(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_restore *restore;
    OK(take(s.file, &rig.dev, 1, NULL));
    OK(vfiomig_restore_open(AT_FDCWD, s.file, NULL, &restore));
    load_into_many(restore, "dev0", &rig);
    vfiomig_restore_free(restore);
    rig_free(&rig);
    scratch_free(&s);
}

/* --- bad files -------------------------------------------------------------------------------------- */

static struct vfiomig_sim_options small(void)
{
    struct vfiomig_sim_options options = rig_options();
    options.state_size = 300;
    return options;
}

/* With a bad file, the device keeps what it has, and does not even stop. */
static void refused(const struct scratch *s, struct rig *rig, const char *what, size_t at)
{
    uint64_t digest = vfiomig_sim_digest(rig->sim);
    uint64_t changes = vfiomig_sim_count(rig->sim, VFIOMIG_SIM_OP_SET_STATE);
    int r = go_back(s->file, "dev0", rig->dev, NULL);
    if (r != -EBADMSG && r != -EPROTO && r != -ENODATA && r != -EPERM && r != -EMSGSIZE)
        FAIL("%s %zu: %d: %s", what, at, r, vfiomig_error_message());
    CHECK(vfiomig_sim_digest(rig->sim) == digest);
    EQ(vfiomig_sim_count(rig->sim, VFIOMIG_SIM_OP_SET_STATE), changes);
    EQ(vfiomig_sim_state(rig->sim), VFIOMIG_STATE_RUNNING);
}

/* Between the head and the first stream there is a hole: what is there belongs to nothing. */
enum { HEAD = 64, FIRST = 4096 };

static void a_bad_file_is_found_before_the_device_loses_anything(void)
{
    struct scratch s = scratch_new();
    struct vfiomig_sim_options options = small();
    struct rig rig = rig_new(&options, NULL);
    OK(take(s.file, &rig.dev, 1, NULL));
    struct bytes file = contents_of(s.file);
    for (size_t at = 0; at < file.len; at = at + 1 == HEAD ? FIRST : at + 1) {
        file.data[at] ^= 0x10;
        put_contents(s.file, file.data, file.len);
        refused(&s, &rig, "with a changed byte", at);
        file.data[at] ^= 0x10;
    }
    for (size_t len = 0; len < file.len; len += 97) {
        put_contents(s.file, file.data, len);
        refused(&s, &rig, "cut off after", len);
    }
    bytes_add(&file, "x", 1);
    put_contents(s.file, file.data, file.len);
    refused(&s, &rig, "with more behind it", 1);
    put_contents(s.file, file.data, file.len - 1);
    OK(go_back(s.file, "dev0", rig.dev, NULL));
    bytes_free(&file);
    rig_free(&rig);
    scratch_free(&s);
}

static int opens(const char *path)
{
    struct vfiomig_restore *restore = NULL;
    int r = vfiomig_restore_open(AT_FDCWD, path, NULL, &restore);
    CHECK(r < 0 ? !restore : restore != NULL);
    vfiomig_restore_free(restore);
    return r;
}

static void what_is_not_a_checkpoint_is_not_opened(void)
{
    struct scratch s = scratch_new();
    struct bytes text = contents_of("/proc/self/maps");
    EQ(opens(s.file), -EINVAL); /* there is none */
    EQ(opens(s.dir), -EINVAL);
    EQ(opens("/dev/null"), -EINVAL);
    EQ(opens("/dev/zero"), -EINVAL);
    EQ(opens("/dev/full"), -EINVAL);
    EQ(opens(""), -EINVAL);
    EQ(opens("/nowhere/at/all"), -EINVAL);
    EQ(mkfifo(s.file, 0600), 0);
    EQ(opens(s.file), -EINVAL);
    unlink(s.file);
    EQ(symlink("/etc/passwd", s.file), 0);
    EQ(opens(s.file), -EINVAL);
    unlink(s.file);
    put_contents(s.file, text.data, text.len);
    EQ(opens(s.file), -EPROTO);
    put_contents(s.file, "", 0);
    EQ(opens(s.file), -EPROTO);
    /* As large as the file system lets it be, of nothing. */
    EQ(truncate(s.file, (off_t)1 << 40), 0);
    EQ(opens(s.file), -EPROTO);
    bytes_free(&text);
    scratch_free(&s);
}

static void a_file_that_is_changed_after_it_was_verified_is_refused(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL);
    uint64_t digest = vfiomig_sim_digest(rig.sim);
    struct vfiomig_restore *restore;
    struct timespec moment = { 0, 20000000 };
    OK(take(s.file, &rig.dev, 1, NULL));
    OK(vfiomig_restore_open(AT_FDCWD, s.file, NULL, &restore));
    OK(vfiomig_restore_verify(restore, 0));
    nanosleep(&moment, NULL);
    int fd = open(s.file, O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, "x", 1, 9000) == 1);
    close(fd);
    EQ(vfiomig_restore_load(restore, "dev0", rig.dev, NULL), -EBADMSG);
    CHECK(vfiomig_sim_digest(rig.sim) == digest);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_restore_free(restore);
    /* Who replaces it does not disturb those who read the old one. */
    OK(take(s.file, &rig.dev, 1, NULL));
    OK(vfiomig_restore_open(AT_FDCWD, s.file, NULL, &restore));
    EQ(vfiomig_sim_guest_write(rig.sim, 0, 1000, 4), 0);
    OK(take(s.file, &rig.dev, 1, NULL));
    OK(vfiomig_restore_load(restore, "dev0", rig.dev, NULL));
    CHECK(vfiomig_sim_digest(rig.sim) == digest);
    vfiomig_restore_free(restore);
    rig_free(&rig);
    scratch_free(&s);
}

static void another_kind_of_device_is_refused_before_anything_is_read(void)
{
    struct scratch s = scratch_new();
    struct vfiomig_sim_options options = rig_options();
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    struct vfiomig_checkpoint_stats stats = VFIOMIG_CHECKPOINT_STATS_INIT;
    struct vfiomig_restore *restore;
    struct rig rig = rig_new(NULL, NULL);
    strcpy(options.driver, "another");
    struct rig other = rig_new(&options, NULL);
    uint64_t digest = vfiomig_sim_digest(other.sim);
    OK(take(s.file, &rig.dev, 1, NULL));
    OK(vfiomig_restore_open(AT_FDCWD, s.file, NULL, &restore));
    EQ(vfiomig_restore_load(restore, "dev0", other.dev, NULL), -EXDEV);
    OK(vfiomig_restore_get_stats(restore, &stats));
    EQ(stats.stream_bytes, 0);
    OK(vfiomig_device_get_failure(other.dev, &failure));
    EQ(failure.code, 0);
    CHECK(vfiomig_sim_digest(other.sim) == digest);
    EQ(vfiomig_sim_state(other.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_restore_free(restore);
    rig_free(&rig);
    rig_free(&other);
    scratch_free(&s);
}

/* --- disks that are full or fail --------------------------------------------------------------------- */

/* The old file is there, whole; nothing else is; and the guest runs with what it had. */
static void nothing_has_happened(const struct scratch *s, const struct bytes *old, struct rig *rig,
                                 uint64_t digest)
{
    struct bytes now = contents_of(s->file);
    CHECK(now.len == old->len && memcmp(now.data, old->data, old->len) == 0);
    bytes_free(&now);
    EQ(scratch_files(s), 1);
    EQ(vfiomig_sim_state(rig->sim), VFIOMIG_STATE_RUNNING);
    CHECK(vfiomig_sim_digest(rig->sim) == digest);
}

static void a_full_disk_leaves_the_guest_running_and_the_old_file_whole(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL);
    uint64_t digest = vfiomig_sim_digest(rig.sim);
    struct vfiomig_checkpoint_options options = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
    struct rlimit before, now;
    OK(take(s.file, &rig.dev, 1, NULL));
    struct bytes old = contents_of(s.file);
    /* It would end the process. */
    signal(SIGXFSZ, SIG_DFL);
    EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    for (size_t limit = 0; limit < old.len; limit += limit < 100 ? 33 : 30011) {
        for (int spooled = 0; spooled < 2; spooled++) {
            options.spool_bytes = spooled ? 1 << 30 : 0;
            now = (struct rlimit){ limit, before.rlim_max };
            EQ(setrlimit(RLIMIT_FSIZE, &now), 0);
            int r = take(s.file, &rig.dev, 1, &options);
            EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
            EQ(r, -ENOSPC);
            nothing_has_happened(&s, &old, &rig, digest);
        }
    }
    OK(take(s.file, &rig.dev, 1, NULL));
    bytes_free(&old);
    rig_free(&rig);
    scratch_free(&s);
}

/* A disk that has no room says so before the pause. */
static void a_full_disk_shows_while_the_guest_runs(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_checkpoint *cp;
    OK(vfiomig_checkpoint_begin(AT_FDCWD, s.file, NULL, &cp));
    OK(add_devices(cp, &rig.dev, 1));
    fail_allocate = 1;
    fail_errno = ENOSPC;
    EQ(vfiomig_checkpoint_read(cp), -ENOSPC);
    EQ(fail_allocate, 0);
    CHECK(vfiomig_sim_state(rig.sim) != VFIOMIG_STATE_STOP_COPY);
    /* What has failed stays failed, and nothing is stopped for it. */
    EQ(vfiomig_checkpoint_stop(cp), -ENOSPC);
    CHECK(vfiomig_sim_state(rig.sim) != VFIOMIG_STATE_STOP_COPY);
    OK(vfiomig_checkpoint_resume(cp, VFIOMIG_CHECKPOINT_RESUME));
    EQ(vfiomig_checkpoint_commit(cp), -ENOSPC);
    vfiomig_checkpoint_free(cp);
    EQ(scratch_files(&s), 0);
    /* One that cannot say whether it has room is no obstacle. */
    fail_allocate = 1;
    fail_errno = EOPNOTSUPP;
    OK(take(s.file, &rig.dev, 1, NULL));
    EQ(fail_allocate, 0);
    rig_free(&rig);
    scratch_free(&s);
}

static void a_failing_disk_leaves_the_old_file_or_says_that_it_does_not(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL);
    uint64_t digest = vfiomig_sim_digest(rig.sim);
    OK(take_with(s.file, &rig.dev, 1, NULL));
    struct bytes old = contents_of(s.file);
    fail_errno = EIO;
    fail_fsync = 1; /* of the file */
    EQ(take_with(s.file, &rig.dev, 1, NULL), -EIO);
    nothing_has_happened(&s, &old, &rig, digest);
    fail_errno = EROFS;
    fail_rename = 1;
    EQ(take_with(s.file, &rig.dev, 1, NULL), -EIO);
    nothing_has_happened(&s, &old, &rig, digest);
    fail_errno = EIO;
    fail_fsync = 2; /* of the directory */
    EQ(take_with(s.file, &rig.dev, 1, NULL), -EIO);
    HAS(vfiomig_error_message(), "in its place");
    struct bytes new = contents_of(s.file);
    CHECK(new.len != old.len || memcmp(new.data, old.data, old.len) != 0);
    OK(opens(s.file));
    EQ(scratch_files(&s), 1);
    /* Whoever does not need that waits for no disk. */
    fail_fsync = 1;
    OK(take(s.file, &rig.dev, 1, NULL));
    EQ(fail_fsync, 1);
    fail_fsync = 0;
    bytes_free(&old);
    bytes_free(&new);
    rig_free(&rig);
    scratch_free(&s);
}

static void what_is_not_a_file_is_not_replaced(void)
{
    struct scratch s = scratch_new();
    struct vfiomig_checkpoint *cp = NULL;
    EQ(vfiomig_checkpoint_begin(AT_FDCWD, "/dev/full", NULL, &cp), -EINVAL);
    EQ(vfiomig_checkpoint_begin(AT_FDCWD, "/nowhere/at/all", NULL, &cp), -EINVAL);
    EQ(vfiomig_checkpoint_begin(AT_FDCWD, s.dir, NULL, &cp), -EINVAL);
    EQ(vfiomig_checkpoint_begin(AT_FDCWD, "", NULL, &cp), -EINVAL);
    EQ(vfiomig_checkpoint_begin(AT_FDCWD, "/tmp/", NULL, &cp), -EINVAL);
    EQ(vfiomig_checkpoint_begin(AT_FDCWD, "/tmp/..", NULL, &cp), -EINVAL);
    EQ(vfiomig_checkpoint_begin(-1, "state", NULL, &cp), -EINVAL);
    EQ(vfiomig_checkpoint_begin(AT_FDCWD, NULL, NULL, &cp), -EFAULT);
    EQ(vfiomig_checkpoint_begin(AT_FDCWD, s.file, NULL, NULL), -EFAULT);
    EQ(symlink("/tmp/anything", s.file), 0);
    EQ(vfiomig_checkpoint_begin(AT_FDCWD, s.file, NULL, &cp), -EINVAL);
    CHECK(!cp);
    EQ(scratch_files(&s), 1);
    scratch_free(&s);
}

/* Not what comes in the meantime either. */
static void what_takes_the_name_meanwhile_is_not_replaced(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL);
    for (int i = 0; i < 2; i++) {
        struct vfiomig_checkpoint *cp;
        struct stat info;
        OK(vfiomig_checkpoint_begin(AT_FDCWD, s.file, NULL, &cp));
        OK(add_devices(cp, &rig.dev, 1));
        OK(vfiomig_checkpoint_read(cp));
        OK(vfiomig_checkpoint_stop(cp));
        OK(vfiomig_checkpoint_read(cp));
        OK(vfiomig_checkpoint_resume(cp, VFIOMIG_CHECKPOINT_RESUME));
        EQ(i == 0 ? symlink("/tmp/anything", s.file) : mkfifo(s.file, 0600), 0);
        EQ(vfiomig_checkpoint_commit(cp), -EINVAL);
        vfiomig_checkpoint_free(cp);
        EQ(lstat(s.file, &info), 0);
        EQ(info.st_mode & S_IFMT, i == 0 ? S_IFLNK : S_IFIFO);
        EQ(scratch_files(&s), 1);
        unlink(s.file);
    }
    rig_free(&rig);
    scratch_free(&s);
}

/* The host has no memory for the spool: it is asked for it while the guest runs, and once in the pause. */
static void memory_that_is_refused_is_not_asked_for_again(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL), other = rig_target(NULL);
    struct vfiomig_device *devs[] = { rig.dev, other.dev };
    struct vfiomig_checkpoint_options options = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
    struct vfiomig_checkpoint_stats stats = VFIOMIG_CHECKPOINT_STATS_INIT;
    struct vfiomig_checkpoint *cp;
    uint64_t digest = vfiomig_sim_digest(rig.sim);
    options.spool_bytes = 1 << 30;
    OK(vfiomig_checkpoint_begin(AT_FDCWD, s.file, &options, &cp));
    OK(add_devices(cp, devs, 2));
    no_memory_file = 1;
    OK(vfiomig_checkpoint_read(cp));
    OK(vfiomig_checkpoint_stop(cp));
    EQ(refused_memory, 1);
    OK(vfiomig_checkpoint_read(cp));
    EQ(refused_memory, 2);
    no_memory_file = 0;
    OK(vfiomig_checkpoint_resume(cp, VFIOMIG_CHECKPOINT_RESUME));
    OK(vfiomig_checkpoint_get_stats(cp, &stats));
    EQ(stats.spooled_bytes, 0);
    OK(vfiomig_checkpoint_commit(cp));
    vfiomig_checkpoint_free(cp);
    OK(go_back(s.file, "dev0", rig.dev, NULL));
    CHECK(vfiomig_sim_digest(rig.sim) == digest);
    rig_free(&rig);
    rig_free(&other);
    scratch_free(&s);
}

static void relative_paths_begin_at_a_directory(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_checkpoint *cp;
    struct vfiomig_restore *restore;
    int dir = open(s.dir, O_RDONLY | O_DIRECTORY);
    CHECK(dir >= 0);
    OK(vfiomig_checkpoint_begin(dir, "state", NULL, &cp));
    OK(all_steps(cp, &rig.dev, 1));
    vfiomig_checkpoint_free(cp);
    OK(vfiomig_restore_open(dir, "state", NULL, &restore));
    OK(vfiomig_restore_load(restore, "dev0", rig.dev, NULL));
    vfiomig_restore_free(restore);
    close(dir);
    EQ(vfiomig_restore_open(dir, "state", NULL, &restore), -EINVAL);
    OK(opens(s.file));
    rig_free(&rig);
    scratch_free(&s);
}

static void two_writers_of_one_name_do_not_meet(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_checkpoint *cp, *second = NULL;
    OK(vfiomig_checkpoint_begin(AT_FDCWD, s.file, NULL, &cp));
    EQ(vfiomig_checkpoint_begin(AT_FDCWD, s.file, NULL, &second), -EBUSY);
    CHECK(!second);
    OK(all_steps(cp, &rig.dev, 1));
    vfiomig_checkpoint_free(cp);
    OK(take(s.file, &rig.dev, 1, NULL));
    /* Somebody takes its temporary file away. */
    char temporary[128];
    snprintf(temporary, sizeof temporary, "%s/.state.vfiomig-tmp", s.dir);
    OK(vfiomig_checkpoint_begin(AT_FDCWD, s.file, NULL, &cp));
    EQ(unlink(temporary), 0);
    put_contents(temporary, "x", 1);
    EQ(all_steps(cp, &rig.dev, 1), -EIO);
    vfiomig_checkpoint_free(cp);
    OK(opens(s.file));
    EQ(unlink(temporary), 0); /* not ours */
    rig_free(&rig);
    scratch_free(&s);
}

/* --- devices that fail, and those who give up ---------------------------------------------------------- */

static void a_device_that_fails_leaves_the_old_file_whole(void)
{
    static const struct { uint32_t op; int nth; } faults[] = {
        { VFIOMIG_SIM_OP_SET_STATE, 1 }, { VFIOMIG_SIM_OP_SET_STATE, 2 }, { VFIOMIG_SIM_OP_SET_STATE, 3 },
        { VFIOMIG_SIM_OP_READ, 1 },      { VFIOMIG_SIM_OP_READ, 2 },      { VFIOMIG_SIM_OP_READ, 3 },
    };
    for (size_t i = 0; i < 2 * sizeof faults / sizeof *faults; i++) {
        struct scratch s = scratch_new();
        struct rig rig = rig_new(NULL, NULL);
        uint64_t digest = vfiomig_sim_digest(rig.sim);
        struct vfiomig_checkpoint_options options = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
        options.spool_bytes = i % 2 ? 1 << 20 : 0;
        OK(take(s.file, &rig.dev, 1, &options));
        struct bytes old = contents_of(s.file);
        EQ(vfiomig_sim_inject(rig.sim, faults[i / 2].op, (uint64_t)faults[i / 2].nth, EIO,
                              VFIOMIG_SIM_FAULT_ONCE), 0);
        EQ(take(s.file, &rig.dev, 1, &options), -EIO);
        vfiomig_sim_clear_faults(rig.sim);
        nothing_has_happened(&s, &old, &rig, digest);
        OK(take(s.file, &rig.dev, 1, &options));
        bytes_free(&old);
        rig_free(&rig);
        scratch_free(&s);
    }
}

static void a_cancelled_checkpoint_leaves_the_guest_running(void)
{
    for (int step = 0; step < 6; step++) {
        struct scratch s = scratch_new();
        struct rig rig = rig_new(NULL, NULL), other = rig_target(NULL);
        uint64_t digest = vfiomig_sim_digest(rig.sim);
        struct vfiomig_checkpoint *cp;
        OK(take(s.file, &rig.dev, 1, NULL));
        struct bytes old = contents_of(s.file);
        OK(vfiomig_checkpoint_begin(AT_FDCWD, s.file, NULL, &cp));
        if (step >= 1)
            OK(add_devices(cp, &rig.dev, 1));
        if (step >= 2)
            OK(vfiomig_checkpoint_read(cp));
        if (step >= 3)
            OK(vfiomig_checkpoint_stop(cp));
        if (step >= 4)
            OK(vfiomig_checkpoint_read(cp));
        if (step >= 5)
            OK(vfiomig_checkpoint_resume(cp, VFIOMIG_CHECKPOINT_RESUME));
        OK(vfiomig_checkpoint_cancel(cp));
        if (step < 3) {
            EQ(vfiomig_checkpoint_add(cp, other.dev, "other", NULL), -ECANCELED);
            EQ(vfiomig_checkpoint_stop(cp), step == 0 ? -EINVAL : -ECANCELED);
        }
        if (step < 4)
            EQ(vfiomig_checkpoint_read(cp), -ECANCELED);
        if (step < 5)
            OK(vfiomig_checkpoint_resume(cp, VFIOMIG_CHECKPOINT_RESUME));
        EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
        EQ(vfiomig_checkpoint_commit(cp), -ECANCELED);
        vfiomig_checkpoint_free(cp);
        nothing_has_happened(&s, &old, &rig, digest);
        bytes_free(&old);
        rig_free(&rig);
        rig_free(&other);
        scratch_free(&s);
    }
}

static void *cancel_soon(void *cp)
{
    struct timespec moment = { 0, 100000000 };
    nanosleep(&moment, NULL);
    vfiomig_checkpoint_cancel(cp);
    return NULL;
}

static void a_cancellation_ends_a_call_that_reads(void)
{
    struct scratch s = scratch_new();
    struct vfiomig_sim_options options = rig_options();
    struct vfiomig_checkpoint *cp;
    pthread_t thread;
    options.read_rate = 10000; /* half a minute in all */
    struct rig rig = rig_new(&options, NULL);
    OK(vfiomig_checkpoint_begin(AT_FDCWD, s.file, NULL, &cp));
    OK(add_devices(cp, &rig.dev, 1));
    OK(vfiomig_checkpoint_stop(cp));
    CHECK(pthread_create(&thread, NULL, cancel_soon, cp) == 0);
    EQ(vfiomig_checkpoint_read(cp), -ECANCELED);
    pthread_join(thread, NULL);
    OK(vfiomig_checkpoint_resume(cp, VFIOMIG_CHECKPOINT_RESUME));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    vfiomig_checkpoint_free(cp);
    EQ(scratch_files(&s), 0);
    rig_free(&rig);
    scratch_free(&s);
}

static void a_cancelled_restore_reads_no_more(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_restore_info info = VFIOMIG_RESTORE_INFO_INIT;
    struct vfiomig_restore *restore;
    OK(take(s.file, &rig.dev, 1, NULL));
    OK(vfiomig_restore_open(AT_FDCWD, s.file, NULL, &restore));
    OK(vfiomig_restore_verify(restore, 0));
    OK(vfiomig_restore_cancel(restore));
    EQ(vfiomig_restore_verify(restore, VFIOMIG_RESTORE_ALL), -ECANCELED);
    EQ(vfiomig_restore_load(restore, "dev0", rig.dev, NULL), -ECANCELED);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    OK(vfiomig_restore_get_info(restore, &info));
    vfiomig_restore_free(restore);
    rig_free(&rig);
    scratch_free(&s);
}

static const struct vfiomig_device_ops *sim_ops;
static struct vfiomig_restore *restoring;

/* The driver of a device whose restore is cancelled as soon as it gets something. */
static int64_t write_and_cancel(void *opaque, int fd, const void *buf, size_t len)
{
    vfiomig_restore_cancel(restoring);
    return sim_ops->data_write(opaque, fd, buf, len);
}

static void a_restore_that_is_cancelled_says_that_the_device_was_reset(void)
{
    struct scratch s = scratch_new();
    struct vfiomig_sim_options options = rig_options();
    options.state_size = 3 << 20; /* more than is read at once */
    for (int lost = 0; lost < 2; lost++) {
        struct rig rig = rig_new(&options, NULL);
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        struct vfiomig_device_ops ops;
        struct vfiomig_device *dev;
        struct vfiomig_sim *sim;
        OK(take(s.file, &rig.dev, 1, NULL));
        EQ(vfiomig_sim_new(&options, &sim), 0);
        sim_ops = vfiomig_sim_ops(sim);
        ops = *sim_ops;
        ops.data_write = write_and_cancel;
        OK(vfiomig_device_new_ops(&ops, sim, NULL, &dev));
        if (lost)
            vfiomig_sim_inject(sim, VFIOMIG_SIM_OP_RESET, 1, EIO, VFIOMIG_SIM_FAULT_STICKY);
        OK(vfiomig_restore_open(AT_FDCWD, s.file, NULL, &restoring));
        EQ(vfiomig_restore_load(restoring, "dev0", dev, NULL), -ECANCELED);
        CHECK(strstr(vfiomig_error_message(), lost ? "could not be reset" : "the device was reset"));
        OK(vfiomig_device_get_failure(dev, &failure));
        EQ(failure.code, -ECANCELED);
        EQ(failure.outcome, lost ? VFIOMIG_OUTCOME_LOST : VFIOMIG_OUTCOME_RESET);
        vfiomig_restore_free(restoring);
        vfiomig_device_free(dev);
        vfiomig_sim_free(sim);
        rig_free(&rig);
    }
    scratch_free(&s);
}

static void stricter_limits_of_a_load_are_kept_before_the_device_is_reset(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL);
    uint64_t digest = vfiomig_sim_digest(rig.sim);
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_restore *restore;
    options.max_total = 1000;
    OK(take(s.file, &rig.dev, 1, NULL));
    OK(vfiomig_restore_open(AT_FDCWD, s.file, NULL, &restore));
    OK(vfiomig_restore_verify(restore, 0));
    EQ(vfiomig_restore_load(restore, "dev0", rig.dev, &options), -EMSGSIZE);
    CHECK(vfiomig_sim_digest(rig.sim) == digest);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    OK(vfiomig_restore_load(restore, "dev0", rig.dev, NULL));
    vfiomig_restore_free(restore);
    rig_free(&rig);
    scratch_free(&s);
}

static void one_that_is_freed_gives_the_devices_back(void)
{
    for (int step = 0; step < 4; step++) {
        struct scratch s = scratch_new();
        struct rig rig = rig_new(NULL, NULL);
        struct vfiomig_checkpoint *cp;
        OK(vfiomig_checkpoint_begin(AT_FDCWD, s.file, NULL, &cp));
        OK(add_devices(cp, &rig.dev, 1));
        if (step >= 1)
            OK(vfiomig_checkpoint_stop(cp));
        if (step >= 2)
            OK(vfiomig_checkpoint_read(cp));
        if (step >= 3)
            OK(vfiomig_checkpoint_resume(cp, VFIOMIG_CHECKPOINT_RESUME));
        EQ(scratch_files(&s), 1);
        vfiomig_checkpoint_free(cp);
        EQ(scratch_files(&s), 0);
        EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
        EQ(vfiomig_checkpoint_cancel(cp), -EBADF);
        rig_free(&rig);
        scratch_free(&s);
    }
}

static void devices_go_back_to_where_they_were_or_stay_stopped(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL), stopped = rig_target(NULL);
    struct vfiomig_device *devs[] = { rig.dev, stopped.dev };
    struct vfiomig_checkpoint *cp;
    OK(vfiomig_device_set_state(stopped.dev, VFIOMIG_STATE_STOP));
    OK(take(s.file, devs, 2, NULL));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    EQ(vfiomig_sim_state(stopped.sim), VFIOMIG_STATE_STOP);
    OK(vfiomig_checkpoint_begin(AT_FDCWD, s.file, NULL, &cp));
    OK(add_devices(cp, devs, 2));
    OK(vfiomig_checkpoint_stop(cp));
    EQ(vfiomig_checkpoint_commit(cp), -EINVAL);
    OK(vfiomig_checkpoint_read(cp));
    EQ(vfiomig_checkpoint_resume(cp, 2), -EINVAL);
    OK(vfiomig_checkpoint_resume(cp, VFIOMIG_CHECKPOINT_RESUME_STOPPED));
    EQ(vfiomig_checkpoint_resume(cp, VFIOMIG_CHECKPOINT_RESUME), -EINVAL);
    OK(vfiomig_checkpoint_commit(cp));
    vfiomig_checkpoint_free(cp);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_STOP);
    EQ(vfiomig_sim_state(stopped.sim), VFIOMIG_STATE_STOP);
    OK(vfiomig_device_run(rig.dev));
    OK(go_back(s.file, "dev0", rig.dev, NULL));
    rig_free(&rig);
    rig_free(&stopped);
    scratch_free(&s);
}

/* --- options ------------------------------------------------------------------------------------------ */

static int begins(const struct scratch *s, const struct vfiomig_checkpoint_options *options)
{
    struct vfiomig_checkpoint *cp = NULL;
    int r = vfiomig_checkpoint_begin(AT_FDCWD, s->file, options, &cp);
    vfiomig_checkpoint_free(cp);
    EQ(scratch_files(s), 0);
    return r;
}

static void options_that_are_wrong_are_refused(void)
{
    static const char note[4097];
    struct scratch s = scratch_new();
    const struct vfiomig_checkpoint_options right = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
    struct vfiomig_checkpoint_options o = right;
    struct vfiomig_restore_options r = VFIOMIG_RESTORE_OPTIONS_INIT;
    struct vfiomig_restore *restore;
    o.flags = 2;
    EQ(begins(&s, &o), -EINVAL);
    o = right, o.reserved = 1;
    EQ(begins(&s, &o), -EINVAL);
    o = right, o.note_len = 1;
    EQ(begins(&s, &o), -EFAULT);
    o.note = note, o.note_len = 4097;
    EQ(begins(&s, &o), -EINVAL);
    o.note_len = 4096;
    OK(begins(&s, &o));
    o = right, o.spool_bytes = UINT64_MAX;
    OK(begins(&s, &o));
    r.reserved = 1;
    EQ(vfiomig_restore_open(AT_FDCWD, s.file, &r, &restore), -EINVAL);
    scratch_free(&s);
}

static void names_of_devices_are_short_and_no_two_are_equal(void)
{
    struct scratch s = scratch_new();
    struct rig rig = rig_new(NULL, NULL), other = rig_target(NULL);
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_checkpoint *cp;
    char name[65];
    memset(name, 'n', 64);
    name[64] = 0;
    OK(vfiomig_checkpoint_begin(AT_FDCWD, s.file, NULL, &cp));
    EQ(vfiomig_checkpoint_stop(cp), -EINVAL); /* there is no device */
    EQ(vfiomig_checkpoint_add(cp, rig.dev, "", NULL), -EINVAL);
    EQ(vfiomig_checkpoint_add(cp, rig.dev, name, NULL), -EINVAL);
    EQ(vfiomig_checkpoint_add(cp, rig.dev, "two\nlines", NULL), -EINVAL);
    EQ(vfiomig_checkpoint_add(cp, rig.dev, "\xff", NULL), -EINVAL);
    EQ(vfiomig_checkpoint_add(cp, rig.dev, NULL, NULL), -EFAULT);
    options.format = VFIOMIG_FORMAT_QEMU;
    EQ(vfiomig_checkpoint_add(cp, rig.dev, "qemu", &options), -EINVAL);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    options.format = VFIOMIG_FORMAT_NATIVE;
    options.migration_id[0] = 7;
    OK(vfiomig_checkpoint_add(cp, rig.dev, name + 1, &options));
    EQ(vfiomig_checkpoint_add(cp, other.dev, name + 1, NULL), -EINVAL);
    EQ(vfiomig_checkpoint_add(cp, rig.dev, "again", NULL), -EBUSY);
    EQ(vfiomig_checkpoint_add(cp, other.dev, "b", &options), -EINVAL); /* the same id and index */
    OK(vfiomig_checkpoint_add(cp, other.dev, "b", NULL));
    OK(all_steps(cp, NULL, 0));
    vfiomig_checkpoint_free(cp);
    struct vfiomig_restore_device device = VFIOMIG_RESTORE_DEVICE_INIT;
    struct vfiomig_restore *restore;
    OK(vfiomig_restore_open(AT_FDCWD, s.file, NULL, &restore));
    OK(vfiomig_restore_get_device(restore, 0, &device));
    CHECK(strcmp(device.name, name + 1) == 0);
    vfiomig_restore_free(restore);
    OK(go_back(s.file, name + 1, rig.dev, NULL));
    rig_free(&rig);
    rig_free(&other);
    scratch_free(&s);
}

int main(void)
{
    RUN(devices_come_back_as_they_were);
    RUN(a_checkpoint_says_what_it_holds);
    RUN(the_numbers_add_up_while_it_is_taken);
    RUN(one_file_is_loaded_into_many_devices_at_once);
    RUN(a_bad_file_is_found_before_the_device_loses_anything);
    RUN(what_is_not_a_checkpoint_is_not_opened);
    RUN(a_file_that_is_changed_after_it_was_verified_is_refused);
    RUN(another_kind_of_device_is_refused_before_anything_is_read);
    RUN(a_full_disk_leaves_the_guest_running_and_the_old_file_whole);
    RUN(a_full_disk_shows_while_the_guest_runs);
    RUN(a_failing_disk_leaves_the_old_file_or_says_that_it_does_not);
    RUN(what_is_not_a_file_is_not_replaced);
    RUN(what_takes_the_name_meanwhile_is_not_replaced);
    RUN(memory_that_is_refused_is_not_asked_for_again);
    RUN(relative_paths_begin_at_a_directory);
    RUN(two_writers_of_one_name_do_not_meet);
    RUN(a_device_that_fails_leaves_the_old_file_whole);
    RUN(a_cancelled_checkpoint_leaves_the_guest_running);
    RUN(a_cancellation_ends_a_call_that_reads);
    RUN(a_cancelled_restore_reads_no_more);
    RUN(a_restore_that_is_cancelled_says_that_the_device_was_reset);
    RUN(stricter_limits_of_a_load_are_kept_before_the_device_is_reset);
    RUN(one_that_is_freed_gives_the_devices_back);
    RUN(devices_go_back_to_where_they_were_or_stay_stopped);
    RUN(options_that_are_wrong_are_refused);
    RUN(names_of_devices_are_short_and_no_two_are_equal);
    return DONE();
}
