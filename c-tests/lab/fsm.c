/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Every change of state that can be requested, both from the kernel and from vfiomig_fsm_path().
 * Both must agree on whether it is possible, whether a data fd comes back, and where the device is
 * afterwards. The kernel is asked directly, without the library.
 */
#include "lab.h"

#include <fcntl.h>

/* STOP_COPY, P2P and PRE_COPY: what mtty has. */
#define FLAGS 7
/* ERROR, the seven states that can be requested, and the first number that is not a state. */
#define FIRST_TARGET VFIOMIG_STATE_ERROR
#define LAST_TARGET (VFIOMIG_STATE_PRE_COPY_P2P + 1)

static const char *name_of(uint32_t state)
{
    return state > VFIOMIG_STATE_PRE_COPY_P2P ? "8" : vfiomig_state_name(state);
}

static int is_saving(uint32_t state)
{
    return state == VFIOMIG_STATE_STOP_COPY || state == VFIOMIG_STATE_PRE_COPY ||
           state == VFIOMIG_STATE_PRE_COPY_P2P;
}

/* From RUNNING to a state; the data fd that came, or -1. */
static int go(const struct lab_device *device, uint32_t state)
{
    int data_fd, result;

    EXPECT(lab_raw_state(device->fd), VFIOMIG_STATE_RUNNING);
    result = lab_raw_set_state(device->fd, state, &data_fd);
    CHECK(result == 0, "RUNNING to %s: %s", name_of(state), strerror(-result));
    return data_fd;
}

/* Device data as mtty writes it, without the library. */
static struct lab_bytes raw_save(const struct lab_device *device)
{
    struct lab_bytes data = { 0 };
    unsigned char piece[64];
    int fd = go(device, VFIOMIG_STATE_STOP_COPY);
    ssize_t n;

    while ((n = read(fd, piece, sizeof(piece))) > 0)
        lab_append(&data, piece, (size_t)n);
    CHECK(n == 0, "reading the data fd: %s", strerror(errno));
    close(fd);
    OK(lab_raw_reset(device->fd));
    return data;
}

/* Whether a data fd still belongs to a session: a read from an ended one returns ENODEV. */
static int is_alive(int data_fd)
{
    unsigned char byte;

    return read(data_fd, &byte, 1) >= 0 || errno != ENODEV;
}

/* How a row of the table is prepared. */
struct row {
    uint32_t from;
    /* How much a device in RESUMING gets of what belongs into it. */
    enum { NOTHING, HALF, ALL } written;
    const char *name;
};

/* What the kernel is expected to answer, by the library's table and one documented exception. */
static void compare(const struct row *row, uint32_t to, int result, int data_fd, int after)
{
    struct vfiomig_path path = VFIOMIG_PATH_INIT;
    int told = vfiomig_fsm_path(FLAGS, row->from, to, &path);
    /* Only a reset leaves an incomplete state. The table cannot know that. */
    int stuck = row->from == VFIOMIG_STATE_RESUMING && row->written != ALL && to != row->from;
    int want = stuck ? -EINVAL : told;
    uint32_t want_after = want == 0 ? to : row->from;
    int want_fd = want == 0 && path.opens_data;

    CHECK(told == 0 || told == -EINVAL, "fsm_path(%s, %s) returned %d", row->name, name_of(to),
          told);
    CHECK(result == want, "%s to %s: the kernel returned %d, expected %d", row->name, name_of(to),
          result, want);
    CHECK(want_fd == (data_fd >= 0), "%s to %s: the kernel returned data fd %d, expected %s",
          row->name, name_of(to), data_fd, want_fd ? "one" : "none");
    CHECK(after == (int)want_after, "%s to %s: the device is in %d afterwards, expected %u",
          row->name, name_of(to), after, want_after);
    if (told == 0 && path.num_steps > 0)
        EXPECT(path.steps[path.num_steps - 1], to);
    if (told == 0 && to == row->from)
        EXPECT(path.num_steps, 0);
}

static void every_target(const struct lab_device *device, const struct row *row,
                         const struct lab_bytes *data)
{
    for (uint32_t to = FIRST_TARGET; to <= LAST_TARGET; to++) {
        int old_fd, data_fd, result, after;

        /* First of all: a device that is closed in RESUMING crashes the kernel later. */
        OK(lab_raw_reset(device->fd));
        old_fd = row->from == VFIOMIG_STATE_RUNNING ? -1 : go(device, row->from);
        if (row->from == VFIOMIG_STATE_RESUMING && row->written != NOTHING) {
            size_t len = row->written == ALL ? data->len : data->len / 2;

            EXPECT(write(old_fd, data->data, len), len);
        }
        result = lab_raw_set_state(device->fd, to, &data_fd);
        after = lab_raw_state(device->fd);
        compare(row, to, result, data_fd, after);
        if (result == 0 && is_saving(row->from)) {
            /* PRE_COPY, PRE_COPY_P2P and STOP_COPY share a session; everything else ends it.
             * 68ab02 What no mtty can show: only a reset leads out of ERROR, and nothing leads
             * out of what is not a state. */
            CHECK(is_alive(old_fd) == is_saving(to), "%s to %s: the data fd is %s afterwards",
                  row->name, name_of(to), is_saving(to) ? "dead" : "alive");
        }
        if (data_fd >= 0)
            close(data_fd);
        if (old_fd >= 0)
            close(old_fd);
    }
    OK(lab_raw_reset(device->fd));
}

static void kernel_and_library_agree(void)
{
    const struct row *row = lab_arg();
    struct lab_device device;
    struct lab_bytes data;

    lab_create(&device, 2);
    lab_open(&device, LAB_GROUP);
    data = raw_save(&device);
    EXPECT(data.len, LAB_MTTY_SIZE(2));
    every_target(&device, row, &data);
    lab_free(&data);
    lab_close(&device);
}

/* What no mtty can show: there is no way out of ERROR but a reset, and none out of what is not a state. */
static void no_way_from_error_or_from_nowhere(void)
{
    struct vfiomig_path path = VFIOMIG_PATH_INIT;

    for (uint32_t to = FIRST_TARGET; to <= LAST_TARGET; to++) {
        CALL(vfiomig_fsm_path(FLAGS, VFIOMIG_STATE_ERROR, to, &path), -EINVAL);
        CALL(vfiomig_fsm_path(FLAGS, LAST_TARGET, to, &path), -EINVAL);
        CALL(vfiomig_fsm_path(FLAGS, VFIOMIG_STATE_UNKNOWN, to, &path), -EINVAL);
    }
}

/*
 * The states in between: mtty names each in a debugging message, which kernels with dynamic debug
 * (Debian's) can switch on.
 */
static void kernel_takes_the_steps_of_the_table(void)
{
    static const char control_path[] = "/sys/kernel/debug/dynamic_debug/control";
    static const char switch_on[] = "module mtty func mtty_step_state +p";
    int control = open(control_path, O_WRONLY), log;
    struct lab_device device;
    struct lab_bytes data;
    int changes = 0;

    if (control < 0) {
        CHECK(!lab_kernel_is("debian-6.12"), "%s: %s", control_path, strerror(errno));
        lab_skip("this kernel has no dynamic debug");
    }
    EXPECT(write(control, switch_on, strlen(switch_on)), strlen(switch_on));
    close(control);
    log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
    CHECK(log >= 0, "/dev/kmsg: %s", strerror(errno));

    lab_create(&device, 1);
    lab_open(&device, LAB_GROUP);
    data = raw_save(&device);
    for (uint32_t from = VFIOMIG_STATE_STOP; from <= VFIOMIG_STATE_PRE_COPY_P2P; from++)
        for (uint32_t to = VFIOMIG_STATE_STOP; to <= VFIOMIG_STATE_PRE_COPY_P2P; to++) {
            struct vfiomig_path path = VFIOMIG_PATH_INIT;
            char line[1024], *at;
            int old_fd, data_fd;
            unsigned steps = 0;
            ssize_t n;

            OK(lab_raw_reset(device.fd));
            old_fd = from == VFIOMIG_STATE_RUNNING ? -1 : go(&device, from);
            if (from == VFIOMIG_STATE_RESUMING)
                EXPECT(write(old_fd, data.data, data.len), data.len);
            if (vfiomig_fsm_path(FLAGS, from, to, &path))
                continue;
            EXPECT(lseek(log, 0, SEEK_END), 0);
            OK(lab_raw_set_state(device.fd, to, &data_fd));
            while ((n = read(log, line, sizeof(line) - 1)) > 0 || (n < 0 && errno == EPIPE)) {
                unsigned a, b;

                if (n < 0)
                    continue;
                line[n] = 0;
                at = strstr(line, "mtty_step_state: ");
                if (!at || sscanf(at, "mtty_step_state: %u -> %u", &a, &b) != 2)
                    continue;
                CHECK(
                    steps < path.num_steps && b == path.steps[steps],
                    "%s to %s: step %u of the kernel is %s, and not so in the library's table",
                    name_of(from), name_of(to), steps + 1, name_of(b));
                steps++;
                changes++;
            }
            EXPECT(steps, path.num_steps);
            close(old_fd);
            close(data_fd);
        }
    OK(lab_raw_reset(device.fd));
    lab_close(&device);
    CHECK(changes > 49, "only %d steps were seen", changes);
    printf("%d steps compared\n", changes);
}

int main(void)
{
    static const struct row rows[] = {
        { VFIOMIG_STATE_STOP, NOTHING, "STOP" },
        { VFIOMIG_STATE_RUNNING, NOTHING, "RUNNING" },
        { VFIOMIG_STATE_STOP_COPY, NOTHING, "STOP_COPY" },
        { VFIOMIG_STATE_RESUMING, ALL, "RESUMING" },
        { VFIOMIG_STATE_RESUMING, HALF, "RESUMING-incomplete" },
        { VFIOMIG_STATE_RESUMING, NOTHING, "RESUMING-empty" },
        { VFIOMIG_STATE_RUNNING_P2P, NOTHING, "RUNNING_P2P" },
        { VFIOMIG_STATE_PRE_COPY, NOTHING, "PRE_COPY" },
        { VFIOMIG_STATE_PRE_COPY_P2P, NOTHING, "PRE_COPY_P2P" },
    };

    if (lab_boot() != 1)
        return 77;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
        lab_run_arg(kernel_and_library_agree, &rows[i], "fsm-from-%s", rows[i].name);
    lab_run("fsm-no-way-from-error", no_way_from_error_or_from_nowhere);
    lab_run("fsm-steps", kernel_takes_the_steps_of_the_table);
    return lab_status();
}
