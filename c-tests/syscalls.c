/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Everything that makes system calls, phase by phase, for c-tests/syscalls.sh to watch with strace.
 * Run alone, it tests the kernel's transport against a kernel of its own.
 *
 * There is no VFIO device here. This program's own ioctl() stands in for it: it makes the system
 * call, which fails on an ordinary file, and then answers as a VFIO driver would. What it needs for
 * that is opened beforehand, so that what strace sees in a phase comes from the library alone. A
 * phase lies between two calls of access() with the names below.
 */
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "kernel-structs.h"

#define GET_INFO 0x3b6b
#define GET_REGION_INFO 0x3b6c
#define RESET 0x3b6f
#define FEATURE 0x3b75
#define GET_PRECOPY_INFO 0x3b79
/* Of a type1 container; its DIRTY_PAGES has the number of FEATURE. */
#define IOMMU_GET_INFO 0x3b70
#define IOMMU_UNMAP_DMA 0x3b72
#define DIRTY_PAGES 0x3b75
/* Of an iommufd. */
#define IOMMU_DESTROY 0x3b80
#define IOAS_ALLOC 0x3b81
#define IOAS_COPY 0x3b83
#define HWPT_SET_DIRTY_TRACKING 0x3b8b
#define HWPT_GET_DIRTY_BITMAP 0x3b8c
#define SIZE 50000

static int device_fds[2] = { -1, -1 };
static uint32_t state = VFIOMIG_STATE_RUNNING;
static int next_data_fd = -1, data_fd = -1;
static uint32_t left;

static int container_fd = -1, iommu_fd = -1;

static uint64_t u64_at(const uint32_t *arg, size_t offset)
{
    uint64_t value;
    memcpy(&value, (const char *)arg + offset, sizeof value);
    return value;
}

static void put_u64(uint32_t *arg, size_t offset, uint64_t value)
{
    memcpy((char *)arg + offset, &value, sizeof value);
}

/* Everything that is asked for is dirty. */
static void all_dirty(uint64_t address, uint64_t length, uint64_t page_size)
{
    uint64_t *bitmap = (uint64_t *)(uintptr_t)address;
    for (uint64_t i = 0; i < length / page_size; i++)
        bitmap[i / 64] |= (uint64_t)1 << i % 64;
}

static int answer_container(unsigned long request, uint32_t *arg)
{
    /* The migration capability: id 2, pages of 4 KiB, bitmaps of up to 256 MiB. */
    static const struct migration_capability migration = { 2, 1, 0, 0, 0, 4096, 256u << 20 };
    switch (request) {
    case IOMMU_GET_INFO:
        arg[1] = 2;
        arg[4] = 24;
        memcpy(arg + 6, &migration, sizeof migration);
        return 0;
    case IOMMU_UNMAP_DMA:
        all_dirty(u64_at(arg, 40), u64_at(arg, 16), u64_at(arg, 24));
        return 0;
    case DIRTY_PAGES:
        if (arg[1] == 4)
            all_dirty(u64_at(arg, 40), u64_at(arg, 16), u64_at(arg, 24));
        return 0;
    default:
        return -ENOTTY;
    }
}

static int answer_iommufd(unsigned long request, uint32_t *arg)
{
    switch (request) {
    case IOAS_ALLOC:
        arg[2] = 99;
        return 0;
    case HWPT_GET_DIRTY_BITMAP:
        all_dirty(u64_at(arg, 40), u64_at(arg, 24), u64_at(arg, 32));
        return 0;
    case IOAS_COPY:
    case IOMMU_DESTROY:
    case HWPT_SET_DIRTY_TRACKING:
        return 0;
    default:
        return -ENOTTY;
    }
}

static int answer_feature(uint32_t *arg)
{
    switch (arg[1]) {
    case 1u << 16 | 1: /* migration flags */
        put_u64(arg, 8, 7);
        return 0;
    case 1u << 16 | 2: /* state */
        arg[2] = state;
        return 0;
    case 1u << 17 | 2:
        state = arg[2];
        arg[3] = UINT32_MAX;
        if (state == VFIOMIG_STATE_PRE_COPY || state == VFIOMIG_STATE_RESUMING) {
            arg[3] = (uint32_t)(data_fd = next_data_fd);
            next_data_fd = -1;
            left = SIZE;
        }
        return 0;
    case 1u << 16 | 9: /* size */
        put_u64(arg, 8, SIZE);
        return 0;
    case 1u << 17 | 12: /* pre-copy info version 2 */
        return 0;
    case 1u << 18 | 1u << 17 | 6: /* DMA logging: does it exist, start, stop, report */
    case 1u << 17 | 6:
    case 1u << 17 | 7:
        return 0;
    case 1u << 16 | 8:
        if (!u64_at(arg, 32))
            return -EINVAL;
        all_dirty(u64_at(arg, 32), u64_at(arg, 16), u64_at(arg, 24));
        return 0;
    default:
        return -ENOTTY;
    }
}

static int answer(int fd, unsigned long request, uint32_t *arg)
{
    if (fd == container_fd)
        return answer_container(request, arg);
    if (fd == iommu_fd)
        return answer_iommufd(request, arg);
    if (request == GET_PRECOPY_INFO && fd == data_fd) {
        put_u64(arg, 8, left);
        put_u64(arg, 16, 0);
        left = 0;
        return 0;
    }
    if (fd != device_fds[0] && fd != device_fds[1])
        return -ENOTTY;
    switch (request) {
    case GET_INFO:
        arg[1] = 2; /* a PCI device */
        arg[2] = 9;
        return 0;
    case GET_REGION_INFO: /* the file itself is the configuration space */
        put_u64(arg, 16, 256);
        put_u64(arg, 24, 0);
        return 0;
    case RESET:
        state = VFIOMIG_STATE_RUNNING;
        return 0;
    case FEATURE:
        return answer_feature(arg);
    default:
        return -ENOTTY;
    }
}

/* Replaces libc's, for the library as well. */
int ioctl(int fd, unsigned long request, ...)
{
    va_list args;
    va_start(args, request);
    void *arg = va_arg(args, void *);
    va_end(args);
    if (syscall(SYS_ioctl, fd, request, arg) == 0)
        return 0;
    int r = answer(fd, request, arg);
    if (r == 0)
        return 0;
    errno = -r;
    return -1;
}

static int stuck_fd = -1;

/* So does this one: a full device that says "later" instead of "never". */
ssize_t write(int fd, const void *data, size_t len)
{
    ssize_t n = syscall(SYS_write, fd, data, len);
    if (n < 0 && fd == stuck_fd && errno == ENOSPC)
        errno = EAGAIN;
    return n;
}

static void phase(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/vfiomig-syscalls/%s", name);
    fflush(stdout);
    (void)!access(path, F_OK);
}

static int file_with(size_t len)
{
    int fd = memfd_create("data", MFD_CLOEXEC);
    CHECK(fd >= 0);
    for (size_t done = 0; done < len;) {
        static uint8_t some[4096];
        memset(some, (int)(done >> 12) + 1, sizeof some);
        size_t n = len - done < sizeof some ? len - done : sizeof some;
        EQ(write(fd, some, n), (ssize_t)n);
        done += n;
    }
    lseek(fd, 0, SEEK_SET);
    return fd;
}

static uint8_t stream[SIZE * 2];
static size_t stream_len;

static void save(struct vfiomig_device *dev, const char *name, uint32_t flags)
{
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_save *save;
    int r;
    options.flags = flags;
    next_data_fd = file_with(SIZE);
    stream_len = 0;
    phase(name);
    r = vfiomig_save_begin(dev, &options, &save);
    while (r >= 0 && r != VFIOMIG_NEXT_END) {
        struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
        size_t len;
        r = vfiomig_save_next(save, stream + stream_len, sizeof stream - stream_len, &len);
        if (r < 0)
            break;
        stream_len += len;
        if (r == VFIOMIG_NEXT_DRAINED && (r = vfiomig_save_get_pending(save, &pending)) == 0)
            r = vfiomig_save_stop(save);
    }
    int finished = r == VFIOMIG_NEXT_END ? vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP) : r;
    if (r >= 0)
        vfiomig_save_free(save);
    phase("end");
    OK(finished);
    CHECK(stream_len > SIZE);
}

static int unmapped(void *opaque, uint64_t iova, uint64_t size)
{
    (void)opaque;
    (void)iova;
    (void)size;
    return 0;
}

/* Tracking with one writer, over a little memory. */
static void track(const char *name, const struct vfiomig_dirty_writer *writer, uint32_t tracker)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty_options options = VFIOMIG_DIRTY_OPTIONS_INIT;
    struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
    struct vfiomig_dirty_writer_stats stats = VFIOMIG_DIRTY_WRITER_STATS_INIT;
    struct vfiomig_dirty *dirty = NULL;
    uint64_t bitmap = 0, last = 0;
    uint32_t number;
    options.page_size = 4096;
    mapping.size = 48 * 4096;
    phase(name);
    int r = vfiomig_dirty_new(&ops, NULL, &options, &dirty);
    if (r == 0)
        r = vfiomig_dirty_add_writer(dirty, writer, &number);
    if (r == 0)
        r = vfiomig_dirty_map(dirty, &mapping);
    if (r == 0)
        r = vfiomig_dirty_start(dirty);
    if (r == 0)
        r = vfiomig_dirty_sync(dirty, 0, mapping.size, 4096, &bitmap, 1);
    int r2 = r < 0 ? r : vfiomig_dirty_get_writer_stats(dirty, number, &stats);
    if (r == 0)
        r = vfiomig_dirty_unmap(dirty, 0, mapping.size, 4096, &last, 1, unmapped, NULL);
    vfiomig_dirty_free(dirty);
    phase("end");
    OK(r);
    OK(r2);
    EQ(stats.tracker, tracker);
    EQ(bitmap, 0xffffffffffff);
    EQ(last, 0xffffffffffff);
}

static void load(struct vfiomig_device *dev)
{
    struct vfiomig_load *load;
    int target = next_data_fd = file_with(0), mine = dup(target);
    phase("load");
    int r = vfiomig_load_begin(dev, NULL, &load);
    int r2 = vfiomig_load_push(load, stream, stream_len);
    int r3 = vfiomig_load_commit(load);
    vfiomig_load_free(load);
    phase("end");
    OK(r);
    CHECK(r2 > 0 && r2 & VFIOMIG_PUSH_END);
    OK(r3);
    EQ(lseek(mine, 0, SEEK_END), SIZE);
    close(mine);
}

/* Into a driver that takes nothing for a while, although it says that it is ready. */
static void load_that_waits(struct vfiomig_device *dev)
{
    struct vfiomig_load_options patient = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_load *load;
    patient.write_timeout_ms = 20;
    next_data_fd = stuck_fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    CHECK(stuck_fd >= 0);
    phase("load-wait");
    int r = vfiomig_load_begin(dev, &patient, &load);
    int r2 = vfiomig_load_push(load, stream, stream_len);
    vfiomig_load_free(load);
    phase("end");
    OK(r);
    EQ(r2, -ETIMEDOUT);
    stuck_fd = -1;
}

static void group_with_a_channel(void)
{
    struct vfiomig_channel_options channel = VFIOMIG_CHANNEL_OPTIONS_INIT;
    struct vfiomig_group_options options = VFIOMIG_GROUP_OPTIONS_INIT;
    struct vfiomig_group *group;
    int pair[2];
    options.role = VFIOMIG_GROUP_ROLE_TARGET;
    options.window = VFIOMIG_GROUP_MIN_WINDOW;
    EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    channel.fd = pair[0];
    OK(vfiomig_group_new(&options, &group));
    phase("group-channels");
    int r = vfiomig_group_add_channel(group, &channel);
    int r2 = vfiomig_group_get_work_fd(group);
    int r3 = vfiomig_group_work(group, VFIOMIG_GROUP_UNTIL_IDLE);
    vfiomig_group_free(group);
    phase("end");
    OK(r);
    CHECK(r2 >= 0);
    OK(r3);
    close(pair[0]);
    close(pair[1]);
}

static void track_with_each_tracker(struct vfiomig_device *dev)
{
    struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
    writer.flags = VFIOMIG_WRITER_DEVICE_LOG;
    writer.device = dev;
    track("dirty", &writer, VFIOMIG_TRACKER_DEVICE_LOG);
    writer.flags = VFIOMIG_WRITER_TYPE1;
    writer.container_fd = container_fd = file_with(1);
    track("dirty-type1", &writer, VFIOMIG_TRACKER_TYPE1);
    writer.flags = VFIOMIG_WRITER_HWPT;
    writer.iommufd = iommu_fd = file_with(1);
    writer.hwpt_id = 2;
    writer.ioas_id = 1;
    track("dirty-iommufd", &writer, VFIOMIG_TRACKER_HWPT);
    close(container_fd);
    close(iommu_fd);
}

static void log_env(void)
{
    setenv("VFIOMIG_LOG", "debug", 1);
    phase("log-env");
    int r = vfiomig_log_init_env();
    int r2 = r == 0 ? vfiomig_device_reset(NULL) : -EFAULT; /* an error is a message */
    phase("end");
    CHECK(r == 0 || r == -EOPNOTSUPP);
    EQ(r2, -EFAULT);
}

/* A policy file that denies nothing. */
static void policy(void)
{
    char directory[] = "/tmp/vfiomig-syscalls-XXXXXX", path[64];
    CHECK(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/policy.conf", directory);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    CHECK(fd >= 0);
    EQ(write(fd, "default allow\n", 14), 14);
    close(fd);
    fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    phase("policy");
    int r = vfiomig_policy_add_file(fd, "policy.conf", 0);
    phase("end");
    OK(r);
    close(fd);
    unlink(path);
    rmdir(directory);
}

/* By way of memory and onto the disk, over what an earlier writer left, and one that is given up. */
static void checkpoint(struct vfiomig_device *dev, const char *path, const char *left_over)
{
    struct vfiomig_checkpoint_options options = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
    struct vfiomig_checkpoint *cp, *second;
    options.spool_bytes = 1 << 20;
    close(open(left_over, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    next_data_fd = file_with(SIZE);
    phase("checkpoint");
    int r = vfiomig_checkpoint_begin(AT_FDCWD, path, &options, &cp);
    int r2 = vfiomig_checkpoint_add(cp, dev, "device", NULL);
    int r3 = vfiomig_checkpoint_read(cp);
    if (r3 == 0)
        r3 = vfiomig_checkpoint_stop(cp);
    if (r3 == 0)
        r3 = vfiomig_checkpoint_read(cp);
    int r4 = vfiomig_checkpoint_resume(cp, VFIOMIG_CHECKPOINT_RESUME);
    int r5 = vfiomig_checkpoint_commit(cp);
    vfiomig_checkpoint_free(cp);
    int r6 = vfiomig_checkpoint_begin(AT_FDCWD, path, NULL, &second);
    vfiomig_checkpoint_free(second);
    phase("end");
    OK(r);
    OK(r2);
    OK(r3);
    OK(r4);
    OK(r5);
    OK(r6);
}

static void restore(struct vfiomig_device *dev, const char *path)
{
    struct vfiomig_restore_options options = VFIOMIG_RESTORE_OPTIONS_INIT;
    struct vfiomig_restore *restore;
    int target = next_data_fd = file_with(0), mine = dup(target);
    options.staged_bytes = 1 << 20;
    phase("restore");
    int r = vfiomig_restore_open(AT_FDCWD, path, &options, &restore);
    int r2 = vfiomig_restore_load(restore, "device", dev, NULL);
    vfiomig_restore_free(restore);
    phase("end");
    OK(r);
    OK(r2);
    EQ(lseek(mine, 0, SEEK_END), SIZE);
    close(mine);
}

static void checkpoints(struct vfiomig_device *dev)
{
    char directory[] = "/tmp/vfiomig-syscalls-XXXXXX", path[64], left_over[64];
    CHECK(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/state", directory);
    snprintf(left_over, sizeof left_over, "%s/.state.vfiomig-tmp", directory);
    checkpoint(dev, path, left_over);
    restore(dev, path);
    unlink(path);
    EQ(rmdir(directory), 0);
}

/* To a socket, a pipe that nobody reads and a file, each a part, and back; and from where nothing comes. */
static void transfer(struct vfiomig_device *dev)
{
    struct vfiomig_transfer how = VFIOMIG_TRANSFER_INIT, soon = VFIOMIG_TRANSFER_INIT;
    struct vfiomig_save *save = NULL;
    struct vfiomig_load *load = NULL;
    int sockets[2], pipes[2], file = file_with(0), r = 0, r2, r3;
    EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    EQ(pipe(pipes), 0);
    how.max_bytes = 1000;
    soon.timeout_ms = 5;
    next_data_fd = file_with(SIZE);
    phase("write-fd");
    r = vfiomig_save_begin(dev, NULL, &save);
    if (r == 0)
        r = vfiomig_save_stop(save);
    if (r == 0)
        r = vfiomig_save_write_fd(save, sockets[0], &how);
    r2 = vfiomig_save_write_fd(save, pipes[1], &how);
    r3 = vfiomig_save_write_fd(save, file, NULL);
    vfiomig_save_free(save);
    phase("end");
    EQ(r, VFIOMIG_NEXT_MORE);
    EQ(r2, VFIOMIG_NEXT_MORE);
    EQ(r3, VFIOMIG_NEXT_END);
    CHECK(lseek(file, 0, SEEK_SET) == 0);
    next_data_fd = file_with(0);
    phase("read-fd");
    r = vfiomig_load_begin(dev, NULL, &load);
    if (r == 0)
        r = vfiomig_load_read_fd(load, sockets[1], &how);
    r2 = vfiomig_load_read_fd(load, pipes[0], &how);
    r3 = vfiomig_load_read_fd(load, sockets[1], &soon);
    do
        r = r < 0 ? r : vfiomig_load_read_fd(load, file, NULL);
    while (r >= 0 && !(r & VFIOMIG_PUSH_END));
    vfiomig_load_free(load);
    phase("end");
    CHECK(r >= 0);
    EQ(r2, VFIOMIG_PUSH_MORE);
    EQ(r3, -ETIMEDOUT);
    close(file);
    for (int i = 0; i < 2; i++)
        close(sockets[i]), close(pipes[i]);
}

static void every_phase(void)
{
    struct vfiomig_device *dev, *other, *none;
    uint32_t now;
    device_fds[0] = file_with(256);
    device_fds[1] = open("/dev/null", O_RDWR | O_CLOEXEC);
    CHECK(device_fds[1] >= 0);
    int ordinary = file_with(1);

    phase("probe");
    int r = vfiomig_device_new_fd(device_fds[0], NULL, &dev);
    int r2 = vfiomig_device_new_fd(device_fds[1], NULL, &other); /* a character device, as a cdev is */
    int r3 = vfiomig_device_new_fd(ordinary, NULL, &none);
    phase("end");
    OK(r);
    OK(r2);
    EQ(r3, -ENOTTY);
    struct vfiomig_identity identity = VFIOMIG_IDENTITY_INIT;
    OK(vfiomig_device_get_identity(dev, &identity));
    EQ(identity.pci_vendor, 0x0101); /* read from the file */
    EQ(strcmp(identity.bus, "pci"), 0);

    phase("state");
    r = vfiomig_device_get_state(dev, &now);
    r2 = vfiomig_device_set_state(dev, VFIOMIG_STATE_STOP);
    r3 = vfiomig_device_run(dev);
    phase("end");
    OK(r);
    OK(r2);
    OK(r3);
    EQ(now, VFIOMIG_STATE_RUNNING);

    save(dev, "save-nonblock", VFIOMIG_SAVE_NONBLOCK);
    save(dev, "save", 0);
    load(dev);
    load_that_waits(dev);
    checkpoints(dev);
    OK(vfiomig_device_run(dev));
    transfer(dev);

    phase("reset");
    r = vfiomig_device_reset(dev);
    r2 = vfiomig_device_notify_reset(dev);
    phase("end");
    OK(r);
    OK(r2);

    track_with_each_tracker(dev);

    policy();
    group_with_a_channel();

    phase("free");
    vfiomig_device_free(dev);
    vfiomig_device_free(other);
    phase("end");
    /* The fds were only borrowed. */
    CHECK(fcntl(device_fds[0], F_GETFD) >= 0 && fcntl(device_fds[1], F_GETFD) >= 0);

    log_env();
    close(device_fds[0]);
    close(device_fds[1]);
    close(ordinary);
}

int main(void)
{
    RUN(every_phase);
    return DONE();
}
