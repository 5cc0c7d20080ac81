/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "lab.h"

#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* --- cases ----------------------------------------------------------------------------------- */

/* All devices of these tests begin like this, so that what a crashed case left can be found. */
#define UUID_PREFIX "6d747479-1ab0-4000-"
#define MDEVS "/sys/bus/mdev/devices"
#define EXIT_SKIPPED 77

static char case_name[160];
static const void *case_arg;
static int failed;

int lab_try_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC), ret = 0;

    if (fd < 0)
        return -errno;
    if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        ret = -errno;
    close(fd);
    return ret;
}

static void write_text(const char *path, const char *text)
{
    int ret = lab_try_write(path, text);

    CHECK(ret == 0, "writing \"%s\" to %s: %s", text, path, strerror(-ret));
}

static void remove_all_devices(void)
{
    char path[sizeof(MDEVS) + NAME_MAX + 16];
    DIR *dir = opendir(MDEVS);
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        int fd;

        if (strncmp(entry->d_name, UUID_PREFIX, strlen(UUID_PREFIX)))
            continue;
        snprintf(path, sizeof(path), MDEVS "/%s/remove", entry->d_name);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, "1", 1) != 1) {
            printf("not ok %s: cannot remove %s: %s\n", case_name, path, strerror(errno));
            failed = 1;
        }
        close(fd);
    }
    if (dir)
        closedir(dir);
}

static void run_case(void (*test)(void))
{
    const char *wanted = getenv("LAB_CASES");
    int status;
    pid_t pid;

    if (wanted && fnmatch(wanted, case_name, FNM_EXTMATCH))
        return;
    setvbuf(stdout, NULL, _IOLBF, 0);
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        test();
        fflush(NULL);
        _exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        printf("not ok %s: no process for it: %s\n", case_name, strerror(errno));
        failed = 1;
        return;
    }
    if (WIFSIGNALED(status))
        printf("not ok %s: killed by signal %d\n", case_name, WTERMSIG(status));
    else if (WEXITSTATUS(status) == 0)
        printf("ok %s\n", case_name);
    else if (WEXITSTATUS(status) != 1 && WEXITSTATUS(status) != EXIT_SKIPPED)
        printf("not ok %s: exit status %d\n", case_name, WEXITSTATUS(status));
    if (WIFSIGNALED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != EXIT_SKIPPED))
        failed = 1;
    remove_all_devices();
}

void lab_run(const char *name, void (*test)(void))
{
    snprintf(case_name, sizeof(case_name), "%s", name);
    case_arg = NULL;
    run_case(test);
}

void lab_run_arg(void (*test)(void), const void *arg, const char *name, ...)
{
    va_list args;

    va_start(args, name);
    vsnprintf(case_name, sizeof(case_name), name, args);
    va_end(args);
    case_arg = arg;
    run_case(test);
}

const void *lab_arg(void)
{
    return case_arg;
}

int lab_status(void)
{
    return failed;
}

int lab_boot(void)
{
    const char *boot = getenv("LAB_BOOT");

    return boot ? atoi(boot) : 1;
}

int lab_kernel_is(const char *variant)
{
    const char *is = getenv("KERNEL_VARIANT");

    return is && !strcmp(is, variant);
}

void lab_fail(const char *file, int line, const char *format, ...)
{
    const char *base = strrchr(file, '/');
    char text[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    printf("not ok %s: %s:%d: %s\n", case_name, base ? base + 1 : file, line, text);
    fflush(NULL);
    _exit(1);
}

void lab_skip(const char *format, ...)
{
    va_list args;

    printf("skip %s: ", case_name);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    fflush(NULL);
    _exit(EXIT_SKIPPED);
}

void lab_expect_number(const char *file, int line, const char *what, long long got, long long want)
{
    if (got != want)
        lab_fail(file, line, "%s is %lld (%#llx), expected %lld (%#llx)", what, got,
                 (unsigned long long)got, want, (unsigned long long)want);
}

static const char *errno_name(int value)
{
    return value < 0 ? strerrorname_np(-value) : NULL;
}

void lab_expect_call(const char *file, int line, const char *what, int got, int want)
{
    const char *got_name = errno_name(got), *want_name = errno_name(want);

    if (got != want)
        lab_fail(file, line, "%s returned %d (%s), expected %d (%s); last message: %s", what, got,
                 got_name ? got_name : "no error", want, want_name ? want_name : "no error",
                 vfiomig_error_message());
}

/* --- programs -------------------------------------------------------------------------------- */

FILE *lab_start(const char *name, char *argv[], pid_t *pid)
{
    static char program[PATH_MAX];
    const char *dir = getenv("LAB_DIR");
    FILE *said;
    int out[2];

    snprintf(program, sizeof(program), "%s/%s", dir ? dir : ".", name);
    if (access(program, X_OK))
        lab_skip("%s was not built into the lab's directory", name);
    argv[0] = program;
    EXPECT(pipe(out), 0);
    fflush(NULL);
    *pid = fork();
    CHECK(*pid >= 0, "fork: %s", strerror(errno));
    if (*pid == 0) {
        dup2(out[1], 1);
        dup2(out[1], 2);
        close(out[0]);
        close(out[1]);
        execv(program, argv);
        _exit(126);
    }
    close(out[1]);
    said = fdopen(out[0], "r");
    CHECK(said, "%s", strerror(errno));
    return said;
}

int lab_wait(FILE *said, pid_t pid, const char *name)
{
    int status;

    fclose(said);
    EXPECT(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status), "%s ended with status %#x", name, status);
    return WEXITSTATUS(status);
}

/* --- devices --------------------------------------------------------------------------------- */

#define TYPE1V2_IOMMU 3
#define GROUP_VIABLE 1u

const char *lab_how_name(enum lab_how how)
{
    return how == LAB_GROUP ? "group" : "cdev";
}

int lab_has(enum lab_how how)
{
    return how == LAB_GROUP || access("/dev/iommu", F_OK) == 0;
}

void lab_need(enum lab_how how)
{
    if (lab_has(how))
        return;
    /* Elsewhere, a missing iommufd would be a fault of the lab that must not pass unnoticed. */
    CHECK(lab_kernel_is("debian-6.12"), "this kernel should have /dev/iommu");
    lab_skip("this kernel has no iommufd");
}

void lab_create(struct lab_device *device, unsigned ports)
{
    static unsigned number;
    char path[128];

    memset(device, 0, sizeof(*device));
    device->ports = ports;
    device->fd = device->group = device->container = device->iommufd = -1;
    snprintf(device->uuid, sizeof(device->uuid), UUID_PREFIX "%04x-%012x", ++number & 0xffff,
             (unsigned)getpid());
    snprintf(device->sysfs, sizeof(device->sysfs), MDEVS "/%s", device->uuid);
    snprintf(path, sizeof(path), "/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-%u/create",
             ports);
    write_text(path, device->uuid);
}

/* A copy, so that each device closes its own. */
static int same_fd(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    CHECK(copy >= 0, "dup: %s", strerror(errno));
    return copy;
}

char *lab_group_number(const struct lab_device *device)
{
    char path[160], link[PATH_MAX];
    ssize_t n;

    snprintf(path, sizeof(path), "%s/iommu_group", device->sysfs);
    n = readlink(path, link, sizeof(link) - 1);
    CHECK(n > 0, "%s: %s", path, strerror(errno));
    link[n] = 0;
    return strdup(strrchr(link, '/') + 1);
}

static void open_by_group(struct lab_device *device, const struct lab_device *first)
{
    struct {
        uint32_t argsz, flags;
    } status = { sizeof(status), 0 };
    char path[160], *group = lab_group_number(device);

    snprintf(path, sizeof(path), "/dev/vfio/%.20s", group);
    free(group);
    device->container =
        first ? same_fd(first->container) : open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
    CHECK(device->container >= 0, "/dev/vfio/vfio: %s", strerror(errno));
    device->group = open(path, O_RDWR | O_CLOEXEC);
    CHECK(device->group >= 0, "%s: %s", path, strerror(errno));
    CHECK(ioctl(device->group, LAB_VFIO(3), &status) == 0 && (status.flags & GROUP_VIABLE),
          "the group is not viable: %s", strerror(errno));
    CHECK(ioctl(device->group, LAB_VFIO(4), &device->container) == 0, "GROUP_SET_CONTAINER: %s",
          strerror(errno));
    CHECK(first || ioctl(device->container, LAB_VFIO(2), TYPE1V2_IOMMU) == 0, "SET_IOMMU: %s",
          strerror(errno));
    device->fd = ioctl(device->group, LAB_VFIO(6), device->uuid);
    CHECK(device->fd >= 0, "GROUP_GET_DEVICE_FD: %s", strerror(errno));
}

const char *lab_cdev_path(const struct lab_device *device)
{
    static char path[NAME_MAX + 32];
    char dir_path[160];
    struct dirent *entry;
    const char *found = NULL;
    DIR *dir;

    snprintf(dir_path, sizeof(dir_path), "%s/vfio-dev", device->sysfs);
    dir = opendir(dir_path);
    while (dir && !found && (entry = readdir(dir))) {
        if (strncmp(entry->d_name, "vfio", 4))
            continue;
        snprintf(path, sizeof(path), "/dev/vfio/devices/%s", entry->d_name);
        found = access(path, F_OK) == 0 ? path : NULL;
    }
    if (dir)
        closedir(dir);
    return found;
}

static void open_by_cdev(struct lab_device *device, const struct lab_device *first)
{
    struct {
        uint32_t argsz, flags;
        int32_t iommufd;
        uint32_t out_devid;
    } bind = { .argsz = 16 };
    const char *path = lab_cdev_path(device);

    CHECK(path, "%s has no character device", device->uuid);
    device->iommufd = first ? same_fd(first->iommufd) : open("/dev/iommu", O_RDWR | O_CLOEXEC);
    CHECK(device->iommufd >= 0, "/dev/iommu: %s", strerror(errno));
    device->fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(device->fd >= 0, "%s: %s", path, strerror(errno));
    bind.iommufd = device->iommufd;
    CHECK(ioctl(device->fd, LAB_VFIO(18), &bind) == 0, "BIND_IOMMUFD: %s", strerror(errno));
    device->devid = bind.out_devid;
}

static void open_device(struct lab_device *device, enum lab_how how, const struct lab_device *first)
{
    lab_need(how);
    device->how = how;
    if (how == LAB_GROUP)
        open_by_group(device, first);
    else
        open_by_cdev(device, first);
}

void lab_open(struct lab_device *device, enum lab_how how)
{
    open_device(device, how, NULL);
}

void lab_open_beside(struct lab_device *device, const struct lab_device *first)
{
    open_device(device, first->how, first);
}

void lab_close(struct lab_device *device)
{
    int *fds[] = { &device->fd, &device->group, &device->container, &device->iommufd };

    for (size_t i = 0; i < sizeof(fds) / sizeof(*fds); i++) {
        if (*fds[i] >= 0)
            CHECK(close(*fds[i]) == 0, "closing a device: %s", strerror(errno));
        *fds[i] = -1;
    }
}

void lab_remove(struct lab_device *device)
{
    char path[160];

    lab_close(device);
    snprintf(path, sizeof(path), "%s/remove", device->sysfs);
    write_text(path, "1");
}

struct vfiomig_device *lab_handle(const struct lab_device *device)
{
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    struct vfiomig_device *handle = NULL;

    options.sysfs_path = device->sysfs;
    OK(vfiomig_device_new_fd(device->fd, &options, &handle));
    CHECK(handle, "no handle came");
    return handle;
}

struct vfiomig_device *lab_new(struct lab_device *device, unsigned ports, enum lab_how how)
{
    lab_create(device, ports);
    lab_open(device, how);
    return lab_handle(device);
}

/* --- the kernel's own interface -------------------------------------------------------------- */

int lab_raw_reset(int fd)
{
    return ioctl(fd, LAB_DEVICE_RESET) ? -errno : 0;
}

struct raw_state {
    uint32_t argsz, flags, state;
    int32_t data_fd;
};

int lab_raw_state(int fd)
{
    struct raw_state raw = { sizeof(raw), LAB_FEATURE_GET | LAB_FEATURE_STATE, 0, -1 };

    return ioctl(fd, LAB_DEVICE_FEATURE, &raw) ? -errno : (int)raw.state;
}

int lab_raw_set_state(int fd, uint32_t state, int *data_fd)
{
    struct raw_state raw = { sizeof(raw), LAB_FEATURE_SET | LAB_FEATURE_STATE, state, -1 };
    int result = ioctl(fd, LAB_DEVICE_FEATURE, &raw) ? -errno : 0;

    *data_fd = raw.data_fd;
    return result;
}

void lab_expect_state(const struct lab_device *device, struct vfiomig_device *handle,
                      uint32_t state)
{
    uint32_t told = VFIOMIG_STATE_UNKNOWN;
    int is = lab_raw_state(device->fd);

    CHECK(is == (int)state, "the kernel says that the device is in %s (%d), expected %s",
          is < 0 ? strerror(-is) : vfiomig_state_name((uint32_t)is), is, vfiomig_state_name(state));
    OK(vfiomig_device_get_state(handle, &told));
    CHECK(told == state, "the library says that the device is in %s, expected %s",
          vfiomig_state_name(told), vfiomig_state_name(state));
}

/* --- the registers --------------------------------------------------------------------------- */

enum { RX_TX = 0, IER = 1, FCR = 2, LCR = 3, MCR = 4, LSR = 5, SCR = 7 };
enum { LCR_DLAB = 0x80, LSR_DATA_READY = 0x01, FCR_ENABLE = 0x01, FCR_CLEAR = 0x06 };
/* The FIFO has 16 places, but when all of them are taken, mtty takes it for empty. */
#define FIFO_MAX 15u

/* mtty looks at one byte per access, and leaves undefined what it does not write. */
static void put(const struct lab_device *device, unsigned port, unsigned reg, unsigned char value)
{
    off_t at = (off_t)((uint64_t)port << 40 | reg);

    CHECK(pwrite(device->fd, &value, 1, at) == 1, "writing register %u of port %u: %s", reg, port,
          strerror(errno));
}

static unsigned char get(const struct lab_device *device, unsigned port, unsigned reg)
{
    off_t at = (off_t)((uint64_t)port << 40 | reg);
    unsigned char value;

    CHECK(pread(device->fd, &value, 1, at) == 1, "reading register %u of port %u: %s", reg, port,
          strerror(errno));
    return value;
}

struct contents {
    unsigned char ier, lcr, mcr, scr, divisor_lo, divisor_hi;
    unsigned char rotation; /* where in the ring the FIFO begins */
    unsigned char count, fifo[FIFO_MAX];
};

static struct contents contents_of(unsigned seed, unsigned port)
{
    uint64_t x = (uint64_t)(seed + 1) * 0x9e3779b97f4a7c15u + (port + 1) * 0xd1b54a32d192ed03u;
    struct contents c;
    unsigned char *bytes = (unsigned char *)&c;

    for (size_t i = 0; i < sizeof(c); i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes[i] = (unsigned char)(x >> 24);
    }
    c.ier &= 0x0f;
    /* With DLAB set, the divisor can be read back; without it, the FIFO can. */
    c.lcr = (unsigned char)((c.lcr & 0x7f) | ((seed + port) % 2 ? LCR_DLAB : 0));
    c.rotation %= FIFO_MAX + 1;
    /* Half of all are full, the rest may be empty. */
    c.count = seed % 2 ? FIFO_MAX : c.count % (FIFO_MAX + 1);
    return c;
}

void lab_fill(const struct lab_device *device, unsigned seed)
{
    for (unsigned port = 0; port < device->ports; port++) {
        struct contents c = contents_of(seed, port);

        put(device, port, LCR, 0);
        put(device, port, FCR, FCR_ENABLE | FCR_CLEAR);
        put(device, port, FCR, FCR_ENABLE);
        for (unsigned i = 0; i < c.rotation; i++) {
            put(device, port, RX_TX, 0xee);
            get(device, port, RX_TX);
        }
        for (unsigned i = 0; i < c.count; i++)
            put(device, port, RX_TX, c.fifo[i]);
        put(device, port, IER, c.ier);
        put(device, port, MCR, c.mcr);
        put(device, port, SCR, c.scr);
        /* Setting DLAB clears the divisor, and writing to it only sets bits. */
        put(device, port, LCR, (unsigned char)(c.lcr | LCR_DLAB));
        put(device, port, RX_TX, c.divisor_lo);
        put(device, port, IER, c.divisor_hi);
        if (!(c.lcr & LCR_DLAB))
            put(device, port, LCR, c.lcr);
    }
}

void lab_expect_contents(const struct lab_device *device, unsigned seed)
{
    for (unsigned port = 0; port < device->ports; port++) {
        struct contents c = contents_of(seed, port);
        unsigned char is;

#define REGISTER(name, reg, want) \
    do { \
        is = get(device, port, reg); \
        CHECK(is == (want), name " of port %u is %#x, expected %#x (contents %u)", port, is, \
              (want), seed); \
    } while (0)
        REGISTER("LCR", LCR, c.lcr);
        if (c.lcr & LCR_DLAB) {
            REGISTER("low byte of the divisor", RX_TX, c.divisor_lo);
            REGISTER("high byte of the divisor", IER, c.divisor_hi);
            put(device, port, LCR, (unsigned char)(c.lcr & ~LCR_DLAB));
        }
        REGISTER("IER", IER, c.ier);
        REGISTER("MCR", MCR, c.mcr);
        REGISTER("SCR", SCR, c.scr);
        for (unsigned i = 0; i < c.count; i++) {
            is = get(device, port, LSR);
            CHECK(is & LSR_DATA_READY, "FIFO of port %u has %u bytes, expected %u (contents %u)",
                  port, i, c.count, seed);
            is = get(device, port, RX_TX);
            CHECK(is == c.fifo[i],
                  "byte %u in the FIFO of port %u is %#x, expected %#x (contents %u)", i, port, is,
                  c.fifo[i], seed);
        }
        is = get(device, port, LSR);
        CHECK(!(is & LSR_DATA_READY), "FIFO of port %u has more than %u bytes (contents %u)", port,
              c.count, seed);
#undef REGISTER
    }
}

/* --- streams --------------------------------------------------------------------------------- */

void lab_append(struct lab_bytes *bytes, const void *data, size_t len)
{
    if (len == 0)
        return;
    if (bytes->room - bytes->len < len) {
        bytes->room = (bytes->room + len) * 2;
        bytes->data = realloc(bytes->data, bytes->room);
        CHECK(bytes->data, "out of memory");
    }
    memcpy(bytes->data + bytes->len, data, len);
    bytes->len += len;
}

void lab_free(struct lab_bytes *bytes)
{
    free(bytes->data);
    memset(bytes, 0, sizeof(*bytes));
}

void lab_write_file(const char *path, const struct lab_bytes *bytes)
{
    FILE *file = fopen(path, "wb");

    CHECK(file && fwrite(bytes->data, 1, bytes->len, file) == bytes->len && fclose(file) == 0,
          "writing %s: %s", path, strerror(errno));
}

struct lab_bytes lab_read_file(const char *path)
{
    struct lab_bytes bytes = { 0 };
    FILE *file = fopen(path, "rb");
    char piece[4096];
    size_t n;

    CHECK(file, "%s: %s", path, strerror(errno));
    while ((n = fread(piece, 1, sizeof(piece), file)) > 0)
        lab_append(&bytes, piece, n);
    CHECK(!ferror(file), "reading %s: %s", path, strerror(errno));
    fclose(file);
    return bytes;
}

int lab_pump(struct vfiomig_save *save, struct lab_bytes *stream, size_t cap)
{
    static const unsigned char guard[64] = { 0xa5, 0x5a };
    unsigned char *buf = malloc(cap + sizeof(guard));
    size_t len;
    int ret;

    CHECK(buf, "out of memory");
    /* A save of 96 bytes takes a few calls; one that never ends must not fill the memory. */
    for (int calls = 0; calls < 1000; calls++) {
        memcpy(buf + cap, guard, sizeof(guard));
        len = (size_t)-1;
        ret = vfiomig_save_next(save, buf, cap, &len);
        CHECK(!memcmp(buf + cap, guard, sizeof(guard)),
              "save_next wrote behind its buffer of %zu bytes", cap);
        if (ret < 0)
            break;
        CHECK(len <= cap, "save_next says %zu bytes in a buffer of %zu", len, cap);
        lab_append(stream, buf, len);
        if (ret != VFIOMIG_NEXT_MORE)
            break;
        CHECK(calls < 999, "save_next has said VFIOMIG_NEXT_MORE 1000 times");
    }
    free(buf);
    return ret;
}

int lab_insist(int (*call)(struct vfiomig_save *), struct vfiomig_save *save)
{
    int ret = call(save);

    return ret == -EAGAIN ? call(save) : ret;
}

struct vfiomig_save *lab_save_begin_to_end(struct vfiomig_device *device, uint32_t flags,
                                           size_t cap, struct lab_bytes *stream)
{
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_save *save = NULL;

    options.flags = flags;
    OK(vfiomig_save_begin(device, &options, &save));
    CALL(lab_pump(save, stream, cap), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_quiesce(save));
    OK(vfiomig_save_stop(save));
    CALL(lab_pump(save, stream, cap), VFIOMIG_NEXT_END);
    return save;
}

struct lab_bytes lab_save(struct vfiomig_device *device, uint32_t flags, size_t cap,
                          uint32_t ending)
{
    struct lab_bytes stream = { 0 };
    struct vfiomig_save *save = lab_save_begin_to_end(device, flags, cap, &stream);

    OK(vfiomig_save_finish(save, ending));
    vfiomig_save_free(save);
    return stream;
}

int lab_load(struct vfiomig_device *device, const struct vfiomig_load_options *options,
             const void *stream, size_t len, size_t piece, struct vfiomig_failure *failure)
{
    struct vfiomig_load *load = NULL;
    int ret = vfiomig_load_begin(device, options, &load);
    size_t at = 0;

    if (ret < 0)
        return ret;
    while (at < len && ret >= 0) {
        size_t n = piece && piece < len - at ? piece : len - at;

        ret = vfiomig_load_push(load, (const unsigned char *)stream + at, n);
        at += n;
    }
    if (ret >= 0)
        ret = vfiomig_load_commit(load);
    if (failure)
        OK(vfiomig_load_get_failure(load, failure));
    vfiomig_load_free(load);
    return ret;
}

/* --- framing --------------------------------------------------------------------------------- */

static const unsigned char magic[8] = { 0x89, 'V', 'F', 'I', 'O', 'M', 'I', 'G' };
static const unsigned char frame_mark[4] = { 'V', 'M', 'F', 'r' };

/* CRC-32 as in Ethernet and zlib; bit by bit, since nothing here is long. Start with 0. */
static uint32_t crc32_of(uint32_t crc, const void *data, size_t len)
{
    const unsigned char *bytes = data;

    crc = ~crc;
    for (size_t i = 0; i < len; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static void put_le(unsigned char *to, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] = (unsigned char)(value >> 8 * i);
}

static uint64_t get_le(const unsigned char *from, size_t bytes)
{
    uint64_t value = 0;

    for (size_t i = 0; i < bytes; i++)
        value |= (uint64_t)from[i] << 8 * i;
    return value;
}

static uint32_t header_crc(const unsigned char *migration_id, const unsigned char *header)
{
    return crc32_of(crc32_of(0, migration_id, 16), header, LAB_HEADER_LEN - 4);
}

int lab_next_frame(const struct lab_bytes *stream, struct lab_frame *frame)
{
    size_t at = frame->offset ? frame->offset + LAB_HEADER_LEN + frame->length : LAB_PREAMBLE_LEN;
    const unsigned char *header = stream->data + at;

    CHECK(stream->len >= LAB_PREAMBLE_LEN && !memcmp(stream->data, magic, sizeof(magic)),
          "the stream has no preamble");
    if (at == stream->len)
        return 0;
    CHECK(stream->len - at >= LAB_HEADER_LEN && !memcmp(header, frame_mark, 4),
          "no frame at byte %zu of the stream", at);
    CHECK(get_le(header + 28, 4) == header_crc(stream->data + 20, header),
          "the check of the frame header at byte %zu is wrong", at);
    frame->offset = at;
    frame->type = (unsigned)get_le(header + 4, 2);
    frame->length = (uint32_t)get_le(header + 12, 4);
    frame->payload = header + LAB_HEADER_LEN;
    CHECK(stream->len - at - LAB_HEADER_LEN >= frame->length, "the frame at byte %zu is cut off",
          at);
    CHECK(get_le(header + 24, 4) == crc32_of(0, frame->payload, frame->length),
          "the checksum of the frame at byte %zu is wrong", at);
    return 1;
}

struct lab_bytes lab_payload(const struct lab_bytes *stream)
{
    struct lab_bytes data = { 0 };
    struct lab_frame frame = { 0 };

    while (lab_next_frame(stream, &frame)) {
        if (frame.type == LAB_RESTART)
            data.len = 0;
        if (frame.type == LAB_DATA)
            lab_append(&data, frame.payload, frame.length);
    }
    CHECK(frame.type == LAB_END, "the stream does not end with END");
    return data;
}

struct lab_maker lab_make_begin(void)
{
    struct lab_maker maker = { .migration_id = "made by a test" };
    unsigned char preamble[LAB_PREAMBLE_LEN] = { 0 };

    memcpy(preamble, magic, sizeof(magic));
    put_le(preamble + 8, 1, 2); /* format 1.0, no features */
    memcpy(preamble + 20, maker.migration_id, 16);
    put_le(preamble + 36, crc32_of(0, preamble, 36), 4);
    lab_append(&maker.stream, preamble, sizeof(preamble));
    return maker;
}

void lab_make_frame(struct lab_maker *maker, unsigned type, const void *payload, size_t len)
{
    unsigned char header[LAB_HEADER_LEN] = { 0 };

    memcpy(header, frame_mark, 4);
    put_le(header + 4, type, 2);
    put_le(header + 12, len, 4);
    put_le(header + 16, maker->sequence++, 8);
    put_le(header + 24, crc32_of(0, payload, len), 4);
    put_le(header + 28, header_crc(maker->migration_id, header), 4);
    lab_append(&maker->stream, header, sizeof(header));
    lab_append(&maker->stream, payload, len);
    if (type == LAB_END)
        return;
    maker->digest = crc32_of(maker->digest, header, LAB_HEADER_LEN - 4);
    maker->data_bytes += type == LAB_DATA ? len : 0;
    maker->data_frames += type == LAB_DATA;
    maker->blobs += type == LAB_BLOB;
    if (type == LAB_RESTART)
        maker->data_bytes = maker->data_frames = maker->blobs = 0;
}

void lab_make_end(struct lab_maker *maker)
{
    unsigned char totals[32] = { 0 };

    put_le(totals, maker->data_bytes, 8);
    put_le(totals + 8, maker->data_frames, 8);
    put_le(totals + 16, maker->blobs, 4);
    put_le(totals + 20, maker->digest, 4);
    lab_make_frame(maker, LAB_END, totals, sizeof(totals));
}

struct lab_bytes lab_reframe(const struct lab_bytes *stream, const void *data, size_t len,
                             size_t piece)
{
    struct lab_maker maker = lab_make_begin();
    struct lab_frame frame = { 0 };

    CHECK(lab_next_frame(stream, &frame) && frame.type == LAB_IDENTITY,
          "the identity is not first");
    lab_make_frame(&maker, LAB_IDENTITY, frame.payload, frame.length);
    for (size_t at = 0; at < len; at += piece)
        lab_make_frame(&maker, LAB_DATA, (const unsigned char *)data + at,
                       len - at < piece ? len - at : piece);
    lab_make_end(&maker);
    return maker.stream;
}
