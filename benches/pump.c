/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * save-pump and load-pump: device state between a memfd and a unix socket whose other end is
 * another process, through the library (checksums on) and through a bare read+write loop. Both
 * use the same fds, the same buffer size and the same number of bytes; runs alternate. 1 MiB is
 * the buffer that VMMs use by habit, 128 KiB is VFIOMIG_GOOD_BUFFER.
 *
 * save-read: the device's half alone, without a socket, in microseconds per MiB: vfiomig_save_next()
 * against read(2). What it costs more is the checksum, and the most that save-pump can reach on a
 * machine is bare time / (bare time + that).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "bench.h"

enum { RUNS = 21, WARM_UP = 1, MOST = 1 << 20 };
static const size_t STATE = 512u << 20;
static size_t block = VFIOMIG_GOOD_BUFFER;

static int memfd; /* the device's contents */

static void write_all(int fd, const char *buf, size_t len)
{
    while (len) {
        ssize_t n = write(fd, buf, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            bench_die("write");
        buf += n;
        len -= (size_t)n;
    }
}

/* An open file of its own, with an own offset, on the device's contents. */
static int open_contents(void *opaque, uint32_t state)
{
    char path[64];
    (void)opaque;
    snprintf(path, sizeof path, "/proc/self/fd/%d", memfd);
    return open(path, (state == VFIOMIG_STATE_RESUMING ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
}

static struct vfiomig_device *new_device(struct bench_device *state)
{
    /* No data callbacks: the library uses read(2) and write(2) on the data fd, as with a kernel
     * device. */
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    struct vfiomig_device *device;
    *state = (struct bench_device){ VFIOMIG_STATE_RUNNING, open_contents, NULL };
    ops.feature = bench_feature;
    ops.reset = bench_reset;
    if (vfiomig_device_new_ops(&ops, state, NULL, &device))
        bench_die("vfiomig_device_new_ops");
    return device;
}

/* Reads everything and answers with one byte at the end, so that the time includes the reader. */
static void reader(int sock, size_t block)
{
    char *buf = malloc(block), done = 1;
    ssize_t n;
    while ((n = read(sock, buf, block)) > 0)
        ;
    (void)!write(sock, &done, 1);
    _exit(0);
}

static void writer(int sock, const char *bytes, size_t len)
{
    for (size_t at = 0; at < len; at += block)
        write_all(sock, bytes + at, len - at < block ? len - at : block);
    shutdown(sock, SHUT_WR);
    char done;
    (void)!read(sock, &done, 1);
    _exit(0);
}

struct peer {
    int sock;
    pid_t pid;
};

/* Each process keeps to a processor of its own: where the scheduler puts the two otherwise decides
 * more than what they do. */
static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static struct peer start_peer(int reads, const char *bytes, size_t len)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        bench_die("socketpair");
    pid_t pid = fork();
    if (pid < 0)
        bench_die("fork");
    if (!pid) {
        close(pair[0]);
        pin(1);
        if (reads)
            reader(pair[1], block);
        writer(pair[1], bytes, len);
    }
    close(pair[1]);
    return (struct peer){ pair[0], pid };
}

static void end_peer(struct peer peer)
{
    close(peer.sock);
    waitpid(peer.pid, NULL, 0);
}

static double finish_sending(struct peer peer, double start)
{
    char done;
    shutdown(peer.sock, SHUT_WR);
    if (read(peer.sock, &done, 1) != 1)
        bench_die("reader");
    return (double)STATE / (bench_now() - start) / 1e9;
}

static double save_bare(char *buf)
{
    struct peer peer = start_peer(1, NULL, 0);
    int fd = open_contents(NULL, VFIOMIG_STATE_STOP_COPY);
    ssize_t n;
    double start = bench_now();
    while ((n = read(fd, buf, block)) > 0)
        write_all(peer.sock, buf, (size_t)n);
    double rate = finish_sending(peer, start);
    close(fd);
    end_peer(peer);
    return rate;
}

static double save_ours(char *buf)
{
    struct peer peer = start_peer(1, NULL, 0);
    struct bench_device state;
    struct vfiomig_device *device = new_device(&state);
    struct vfiomig_save *save;
    size_t n;
    int r;
    if (vfiomig_save_begin(device, NULL, &save))
        bench_die("vfiomig_save_begin");
    double start = bench_now();
    if (vfiomig_save_stop(save))
        bench_die("vfiomig_save_stop");
    do {
        r = vfiomig_save_next(save, buf, block, &n);
        if (r < 0)
            bench_die("vfiomig_save_next");
        write_all(peer.sock, buf, n);
    } while (r != VFIOMIG_END);
    double rate = finish_sending(peer, start);
    vfiomig_save_finish(save, VFIOMIG_RELEASE);
    vfiomig_save_free(save);
    vfiomig_device_free(device);
    end_peer(peer);
    return rate;
}

/* Microseconds per MiB. */
static double per_mib(double start)
{
    return (bench_now() - start) * 1e6 / (double)(STATE >> 20);
}

static double read_bare(char *buf)
{
    int fd = open_contents(NULL, VFIOMIG_STATE_STOP_COPY);
    double start = bench_now();
    while (read(fd, buf, block) > 0)
        ;
    double us = per_mib(start);
    close(fd);
    return us;
}

static double read_ours(char *buf)
{
    struct bench_device state;
    struct vfiomig_device *device = new_device(&state);
    struct vfiomig_save *save;
    size_t n;
    int r;
    if (vfiomig_save_begin(device, NULL, &save) || vfiomig_save_stop(save))
        bench_die("vfiomig_save_stop");
    double start = bench_now();
    while ((r = vfiomig_save_next(save, buf, block, &n)) == VFIOMIG_MORE)
        ;
    double us = per_mib(start);
    if (r != VFIOMIG_END)
        bench_die("vfiomig_save_next");
    vfiomig_save_free(save);
    vfiomig_device_free(device);
    return us;
}

static double load_bare(char *buf, const char *bytes, size_t len)
{
    struct peer peer = start_peer(0, bytes, len);
    int fd = open_contents(NULL, VFIOMIG_STATE_RESUMING);
    ssize_t n;
    double start = bench_now();
    while ((n = read(peer.sock, buf, block)) > 0)
        write_all(fd, buf, (size_t)n);
    double rate = (double)STATE / (bench_now() - start) / 1e9;
    close(fd);
    end_peer(peer);
    return rate;
}

static double load_ours(const char *bytes, size_t len)
{
    struct peer peer = start_peer(0, bytes, len);
    struct bench_device state;
    struct vfiomig_device *device = new_device(&state);
    struct vfiomig_load *load;
    void *space;
    size_t room;
    ssize_t n;
    if (vfiomig_load_begin(device, NULL, &load))
        bench_die("vfiomig_load_begin");
    double start = bench_now();
    for (;;) {
        if (vfiomig_load_get_space(load, &space, &room))
            bench_die("vfiomig_load_get_space");
        if ((n = read(peer.sock, space, room)) <= 0)
            break;
        if (vfiomig_load_received(load, (size_t)n) < 0)
            bench_die("vfiomig_load_received");
    }
    if (vfiomig_load_commit(load))
        bench_die("vfiomig_load_commit");
    double rate = (double)STATE / (bench_now() - start) / 1e9;
    vfiomig_load_free(load);
    vfiomig_device_free(device);
    end_peer(peer);
    return rate;
}

/* The whole stream in memory, for the loading side's peer. */
static char *record_stream(size_t *len)
{
    size_t room = STATE + STATE / 64 + 4 * (size_t)MOST, at = 0, n;
    char *bytes = malloc(room);
    struct bench_device state;
    struct vfiomig_device *device = new_device(&state);
    struct vfiomig_save *save;
    int r;
    if (!bytes || vfiomig_save_begin(device, NULL, &save) || vfiomig_save_stop(save))
        bench_die("recording");
    do {
        if (room - at < block)
            bench_die("room");
        r = vfiomig_save_next(save, bytes + at, block, &n);
        if (r < 0)
            bench_die("vfiomig_save_next");
        at += n;
    } while (r != VFIOMIG_END);
    vfiomig_save_free(save);
    vfiomig_device_free(device);
    *len = at;
    return bytes;
}

int main(void)
{
    double ours[RUNS], bare[RUNS];
    char *buf = malloc(MOST);
    size_t len;

    pin(0);
    memfd = memfd_create("state", MFD_CLOEXEC);
    if (memfd < 0 || !buf)
        bench_die("memfd_create");
    memset(buf, 0x5a, block);
    for (size_t at = 0; at < STATE; at += block)
        write_all(memfd, buf, block);

    static const struct {
        const char *name;
        size_t block;
    } sizes[] = { { "save-pump/1MiB", MOST }, { "save-pump/128KiB", VFIOMIG_GOOD_BUFFER } };
    for (size_t k = 0; k < 2; k++) {
        block = sizes[k].block;
        for (int i = -WARM_UP; i < RUNS; i++) {
            double b = save_bare(buf), o = save_ours(buf);
            if (i >= 0)
                bare[i] = b, ours[i] = o;
        }
        bench_report(sizes[k].name, "GB/s", ours, bare, RUNS);
    }
    for (int i = -WARM_UP; i < RUNS; i++) {
        double b = read_bare(buf), o = read_ours(buf);
        if (i >= 0)
            bare[i] = b, ours[i] = o;
    }
    bench_report("save-read", "us/MiB", ours, bare, RUNS);

    block = MOST;
    char *stream = record_stream(&len);
    for (int i = -WARM_UP; i < RUNS; i++) {
        double b = load_bare(buf, stream, len), o = load_ours(stream, len);
        if (i >= 0)
            bare[i] = b, ours[i] = o;
    }
    bench_report("load-pump", "GB/s", ours, bare, RUNS);
    return 0;
}
