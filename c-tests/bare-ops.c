/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A device whose table has nothing but `feature` and `reset`: its data fds are real file
 * descriptors, which the library reads, writes, polls and closes with the system calls themselves.
 */
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rig.h"

struct device {
    uint32_t state;
    uint64_t flags;
    uint8_t contents[100000];
    size_t len;
    int backing;   /* what a resuming stream is written to */
    int last_fd;   /* what the library was given last */
    int feed;      /* writing end of the pipe of a saving stream */
    int use_pipe;
    int resets;
};

/* A stream to be read. */
static int open_saving(struct device *d)
{
    if (d->use_pipe) {
        int fds[2];
        if (pipe2(fds, O_CLOEXEC) < 0)
            return -errno;
        d->feed = fds[1];
        return fds[0];
    }
    int fd = memfd_create("state", MFD_CLOEXEC);
    if (fd < 0 || write(fd, d->contents, d->len) != (ssize_t)d->len)
        return -EIO;
    lseek(fd, 0, SEEK_SET);
    return fd;
}

static int feature(void *opaque, uint32_t flags, void *data, size_t len)
{
    struct device *d = opaque;
    int32_t *state = data;
    switch (flags) {
    case 1u << 16 | 1:
        memcpy(data, &d->flags, 8);
        return 0;
    case 1u << 16 | 2:
        state[0] = (int32_t)d->state;
        state[1] = -1;
        return 0;
    case 1u << 17 | 2:
        if (len != 8)
            return -EINVAL;
        if (state[0] == VFIOMIG_STATE_STOP_COPY && d->state != VFIOMIG_STATE_PRE_COPY) {
            state[1] = d->last_fd = open_saving(d);
            if (state[1] < 0)
                return state[1];
        } else if (state[0] == VFIOMIG_STATE_PRE_COPY) {
            state[1] = d->last_fd = open_saving(d);
            if (state[1] < 0)
                return state[1];
        } else if (state[0] == VFIOMIG_STATE_RESUMING) {
            d->backing = memfd_create("state", MFD_CLOEXEC);
            state[1] = d->last_fd = dup(d->backing);
        } else {
            if (d->state == VFIOMIG_STATE_RESUMING) { /* the commit */
                ssize_t n = pread(d->backing, d->contents, sizeof d->contents, 0);
                close(d->backing);
                if (n <= 0)
                    return -EINVAL;
                d->len = (size_t)n;
            }
            state[1] = -1;
        }
        d->state = ((uint32_t *)data)[0];
        return 0;
    default:
        return -ENOTTY;
    }
}

static int reset(void *opaque)
{
    struct device *d = opaque;
    if (d->state == VFIOMIG_STATE_RESUMING)
        close(d->backing);
    d->state = VFIOMIG_STATE_RUNNING;
    d->resets++;
    return 0;
}

static struct vfiomig_device *open_device(struct device *d)
{
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    struct vfiomig_device *dev;
    ops.feature = feature;
    ops.reset = reset;
    d->state = VFIOMIG_STATE_RUNNING;
    d->feed = -1;
    OK(vfiomig_device_new_ops(&ops, d, NULL, &dev));
    return dev;
}

static int is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

static void state_goes_from_file_to_file(void)
{
    static struct device a, b;
    a = (struct device){ .flags = 1, .len = sizeof a.contents };
    b = (struct device){ .flags = 1 };
    for (size_t i = 0; i < a.len; i++)
        a.contents[i] = (uint8_t)(i * 11 + (i >> 7));
    struct vfiomig_device *from = open_device(&a), *to = open_device(&b);
    struct bytes stream = { NULL, 0, 0 };
    struct vfiomig_load *load;
    struct vfiomig_save *save = save_all(from, NULL, 8192, &stream);
    int fd = a.last_fd;
    CHECK(is_open(fd));
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
    CHECK(!is_open(fd)); /* it belongs to the library */
    OK(vfiomig_load_begin(to, NULL, &load));
    fd = b.last_fd;
    CHECK(push_all(load, &stream, 777) & VFIOMIG_PUSH_END);
    OK(vfiomig_load_commit(load));
    CHECK(!is_open(fd));
    EQ(b.len, a.len);
    EQ(memcmp(a.contents, b.contents, a.len), 0);
    EQ(b.resets, 0);
    vfiomig_load_free(load);
    vfiomig_save_free(save);
    vfiomig_device_free(from);
    vfiomig_device_free(to);
    bytes_free(&stream);
}

static void a_load_that_is_given_up_closes_its_fd(void)
{
    static struct device b;
    b = (struct device){ .flags = 1 };
    struct vfiomig_device *to = open_device(&b);
    struct vfiomig_load *load;
    OK(vfiomig_load_begin(to, NULL, &load));
    int fd = b.last_fd;
    CHECK(is_open(fd));
    vfiomig_load_free(load);
    CHECK(!is_open(fd));
    EQ(b.resets, 1);
    EQ(b.state, VFIOMIG_STATE_RUNNING);
    vfiomig_device_free(to);
}

static void a_pipe_is_read_without_blocking_and_polled(void)
{
    static struct device a;
    static uint8_t buf[8192];
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_save *save;
    size_t len;
    int r;
    a = (struct device){ .flags = 5, .use_pipe = 1 };
    struct vfiomig_device *dev = open_device(&a);
    options.flags = VFIOMIG_SAVE_NONBLOCK;
    OK(vfiomig_save_begin(dev, &options, &save));
    EQ(fcntl(a.last_fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    do /* preamble and identity need no device */
        r = vfiomig_save_next(save, buf, sizeof buf, &len);
    while (r == VFIOMIG_NEXT_MORE);
    EQ(r, -EAGAIN);
    struct pollfd pfd = { .fd = vfiomig_save_get_poll_fd(save), .events = POLLIN };
    EQ(pfd.fd, a.last_fd);
    EQ(poll(&pfd, 1, 0), 0);
    EQ(write(a.feed, "0123456789", 10), 10);
    EQ(poll(&pfd, 1, 0), 1);
    r = vfiomig_save_next(save, buf, sizeof buf, &len);
    EQ(r, VFIOMIG_NEXT_MORE);
    CHECK(len > 10);
    EQ(memcmp(buf + len - 10, "0123456789", 10), 0);
    EQ(vfiomig_save_next(save, buf, sizeof buf, &len), -EAGAIN);
    vfiomig_save_free(save);
    close(a.feed);
    vfiomig_device_free(dev);
}

static void no_fd_is_leaked(void)
{
    static struct device a, b;
    int before = dup(0), after;
    close(before);
    for (int i = 0; i < 50; i++) {
        a = (struct device){ .flags = 1, .len = 5000 };
        b = (struct device){ .flags = 1 };
        struct vfiomig_device *from = open_device(&a), *to = open_device(&b);
        struct bytes stream = stream_of(from);
        struct vfiomig_load *load;
        OK(vfiomig_load_begin(to, NULL, &load));
        stream.data[stream.len - 1] ^= i % 2;
        int r = push_all(load, &stream, SIZE_MAX);
        CHECK(i % 2 ? r < 0 : r > 0);
        if (r > 0)
            OK(vfiomig_load_commit(load));
        vfiomig_load_free(load);
        vfiomig_device_free(from);
        vfiomig_device_free(to);
        bytes_free(&stream);
    }
    after = dup(0);
    close(after);
    EQ(after, before);
}

int main(void)
{
    RUN(state_goes_from_file_to_file);
    RUN(a_load_that_is_given_up_closes_its_fd);
    RUN(a_pipe_is_read_without_blocking_and_polled);
    RUN(no_fd_is_leaked);
    return DONE();
}
