/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * save-pump and load-pump: device state between a memfd and a unix socket whose other end is
 * another process, through the library (checksums on) and through a bare read+write loop. Both
 * use the same fds, the same buffer size and the same number of bytes; runs alternate. 1 MiB is
 * the buffer that VMMs use by habit, 128 KiB is VFIOMIG_GOOD_BUFFER. A load receives into the
 * library's memory; load-pump/push into memory of its own, of 1 MiB. save-pump-mac and load-pump-mac are
 * the same with an authenticated stream, and mac is to them what checksum is to the others.
 *
 * save-limit and load-limit: what one thread can reach that does the bare loop and the checksum, one
 * after the other: bare time / (bare time + checksum). save-of-limit and load-of-limit: how much of
 * that the library reaches.
 *
 * The parts, in microseconds per MiB:
 * checksum: a save whose device gives data without touching memory: the checksum and all else that the
 *   library does, on a buffer in the cache. The baseline adds up the same words.
 * load-read: reading from a socket that is full, into the library's memory; the baseline into 1 MiB.
 * load-write: writing to the memfd in a load; the baseline is the bare loop's.
 * save-read: the device's half of a save, without a socket: vfiomig_save_next() against read(2).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "bench.h"

/* Each SET runs with pages of its own: where they lie makes a difference of its own. */
enum { RUNS = 21, SET = 3, WARM_UP = 1, MOST = 1 << 20 };
static const size_t STATE = 512u << 20;
static size_t block = VFIOMIG_GOOD_BUFFER;

static int memfd = -1; /* the device's contents */

/* Of all sessions: with a key, streams are authenticated. */
static struct vfiomig_save_options saving = VFIOMIG_SAVE_OPTIONS_INIT;
static struct vfiomig_load_options loading = VFIOMIG_LOAD_OPTIONS_INIT;

static int get_key(void *opaque, uint32_t key_id, uint8_t *key)
{
    (void)opaque, (void)key_id;
    memset(key, 0x4b, 32);
    return 0;
}

static struct vfiomig_auth auth = { .struct_size = sizeof auth, .get_key = get_key };

static void authenticate(void)
{
    saving.auth = &auth;
    loading.auth = &auth;
}

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

/* An open file of its own, with its own offset, on the device's contents. */
static int open_contents(void *opaque, uint32_t state)
{
    char path[64];
    (void)opaque;
    snprintf(path, sizeof path, "/proc/self/fd/%d", memfd);
    return open(path, (state == VFIOMIG_STATE_RESUMING ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
}

static void new_contents(char *buf)
{
    if (memfd >= 0)
        close(memfd);
    memfd = memfd_create("state", MFD_CLOEXEC);
    if (memfd < 0)
        bench_die("memfd_create");
    memset(buf, 0x5a, MOST);
    for (size_t at = 0; at < STATE; at += MOST)
        write_all(memfd, buf, MOST);
}

typedef int64_t (*data_read_fn)(void *, int, void *, size_t);

/* Without a data callback the library uses read(2) and write(2) on the data fd, as with a kernel
 * device. */
static struct vfiomig_device *new_device(struct bench_device *state, data_read_fn data_read)
{
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    ops.data_read = data_read;
    return bench_open(state, ops, open_contents);
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

/* Each process keeps to a CPU of its own: otherwise, where the scheduler puts the two decides
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
    struct vfiomig_device *device = new_device(&state, NULL);
    struct vfiomig_save *save;
    size_t n;
    int r;
    if (vfiomig_save_begin(device, &saving, &save))
        bench_die("vfiomig_save_begin");
    double start = bench_now();
    if (vfiomig_save_stop(save))
        bench_die("vfiomig_save_stop");
    do {
        r = vfiomig_save_next(save, buf, block, &n);
        if (r < 0)
            bench_die("vfiomig_save_next");
        write_all(peer.sock, buf, n);
    } while (r != VFIOMIG_NEXT_END);
    double rate = finish_sending(peer, start);
    if (vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE))
        bench_die("vfiomig_save_finish");
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

/* A whole save, from the moment that the device has stopped. */
static double save_whole(struct vfiomig_device *device, char *buf, size_t len)
{
    struct vfiomig_save *save;
    size_t n;
    int r;
    if (vfiomig_save_begin(device, &saving, &save) || vfiomig_save_stop(save))
        bench_die("vfiomig_save_stop");
    double start = bench_now();
    while ((r = vfiomig_save_next(save, buf, len, &n)) == VFIOMIG_NEXT_MORE)
        ;
    double us = per_mib(start);
    if (r != VFIOMIG_NEXT_END)
        bench_die("vfiomig_save_next");
    vfiomig_save_free(save);
    vfiomig_device_free(device);
    return us;
}

static double read_ours(char *buf)
{
    struct bench_device state;
    return save_whole(new_device(&state, NULL), buf, block);
}

/* Delivers what is asked for, and touches no memory. */
static size_t given;

static int64_t give_nothing(void *opaque, int data_fd, void *buf, size_t len)
{
    (void)opaque, (void)data_fd, (void)buf;
    len = len < STATE - given ? len : STATE - given;
    given += len;
    return (int64_t)len;
}

static double checksum_ours(char *buf)
{
    struct bench_device state;
    given = 0;
    return save_whole(new_device(&state, give_nothing), buf, VFIOMIG_GOOD_BUFFER);
}

static double add_words(const char *buf)
{
    static volatile uint64_t result;
    double start = bench_now();
    for (size_t at = 0; at < STATE; at += VFIOMIG_GOOD_BUFFER) {
        uint64_t sum[8] = { at, 0, 0, 0, 0, 0, 0, 0 };
        for (size_t i = 0; i < VFIOMIG_GOOD_BUFFER; i += sizeof sum) {
            uint64_t words[8];
            memcpy(words, buf + i, sizeof words);
            for (int k = 0; k < 8; k++)
                sum[k] += words[k];
        }
        for (int k = 0; k < 8; k++)
            result += sum[k];
    }
    return per_mib(start);
}

/* What one thread can reach, in GB/s: the bare loop and then the checksum. */
static double limit_of(double bare, double checksum)
{
    return 1 / (1 / bare + checksum * 1e3 / (1 << 20));
}

/* Seconds spent in a part of a load. */
static double in_read, in_write;

/* Until the socket is as full as it will be: only what reading costs should count, not who waits
 * for whom. */
static void wait_until_full(int sock)
{
    int before = -1, now = 0;
    while (before != now || !now) {
        before = now;
        usleep(50);
        if (ioctl(sock, FIONREAD, &now))
            bench_die("FIONREAD");
        char end;
        if (!now && recv(sock, &end, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
            return;
    }
}

static ssize_t receive(int sock, void *space, size_t room, int parts)
{
    if (parts)
        wait_until_full(sock);
    double start = bench_now();
    ssize_t n = read(sock, space, room);
    in_read += bench_now() - start;
    return n;
}

/* With `parts` the socket is full at each reading. */
static double load_bare(char *buf, const char *bytes, size_t len, int parts)
{
    struct peer peer = start_peer(0, bytes, len);
    int fd = open_contents(NULL, VFIOMIG_STATE_RESUMING);
    ssize_t n;
    in_read = in_write = 0;
    double start = bench_now();
    while ((n = receive(peer.sock, buf, block, parts)) > 0) {
        double before = bench_now();
        write_all(fd, buf, (size_t)n);
        in_write += bench_now() - before;
    }
    double rate = (double)STATE / (bench_now() - start) / 1e9;
    close(fd);
    end_peer(peer);
    return rate;
}

static double load_ours(const char *bytes, size_t len, char *pushed_from, int parts)
{
    struct peer peer = start_peer(0, bytes, len);
    struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
    struct bench_device state;
    struct vfiomig_device *device = new_device(&state, NULL);
    struct vfiomig_load *load;
    void *space = pushed_from;
    size_t room = block;
    ssize_t n;
    if (vfiomig_load_begin(device, &loading, &load))
        bench_die("vfiomig_load_begin");
    in_read = 0;
    double start = bench_now();
    for (;;) {
        if (!pushed_from && vfiomig_load_get_space(load, &space, &room))
            bench_die("vfiomig_load_get_space");
        if ((n = receive(peer.sock, space, room, parts)) <= 0)
            break;
        int r = pushed_from ? vfiomig_load_push(load, space, (size_t)n)
                            : vfiomig_load_push_received(load, (size_t)n);
        if (r < 0)
            bench_die("vfiomig_load_push_received");
        if (r & VFIOMIG_PUSH_END)
            break;
    }
    if (vfiomig_load_commit(load))
        bench_die("vfiomig_load_commit");
    double rate = (double)STATE / (bench_now() - start) / 1e9;
    if (vfiomig_load_get_stats(load, &stats))
        bench_die("vfiomig_load_get_stats");
    in_write = (double)stats.write_ns / 1e9;
    vfiomig_load_free(load);
    vfiomig_device_free(device);
    end_peer(peer);
    return rate;
}

static double seconds_to_us_per_mib(double seconds)
{
    return seconds * 1e6 / (double)(STATE >> 20);
}

/* The whole stream in memory, for the loading side's peer. */
static char *record_stream(size_t *len)
{
    size_t room = STATE + STATE / 64 + 4 * (size_t)MOST, at = 0, n;
    char *bytes = malloc(room);
    struct bench_device state;
    struct vfiomig_device *device = new_device(&state, NULL);
    struct vfiomig_save *save;
    int r;
    if (!bytes || vfiomig_save_begin(device, &saving, &save) || vfiomig_save_stop(save))
        bench_die("recording");
    do {
        if (room - at < block)
            bench_die("room");
        r = vfiomig_save_next(save, bytes + at, block, &n);
        if (r < 0)
            bench_die("vfiomig_save_next");
        at += n;
    } while (r != VFIOMIG_NEXT_END);
    vfiomig_save_free(save);
    vfiomig_device_free(device);
    *len = at;
    return bytes;
}

/* A line for each of the pump, its limit, and how much of that is reached. */
static void report_pump(const char *what, const char *variant, const double *ours,
                        const double *bare, double checksum)
{
    char name[64];
    double limit[RUNS];
    for (int i = 0; i < RUNS; i++)
        limit[i] = limit_of(bare[i], checksum);
    snprintf(name, sizeof name, "%s-pump%s", what, variant);
    bench_report(name, "GB/s", ours, bare, RUNS);
    snprintf(name, sizeof name, "%s-limit%s", what, variant);
    bench_report(name, "GB/s", limit, bare, RUNS);
    snprintf(name, sizeof name, "%s-of-limit%s", what, variant);
    bench_report(name, "GB/s", ours, limit, RUNS);
}

static double measure_checksum(char *buf, const char *name)
{
    double ours[RUNS], bare[RUNS];
    for (int i = -WARM_UP; i < RUNS; i++) {
        double b = add_words(buf), o = checksum_ours(buf);
        if (i >= 0)
            bare[i] = b, ours[i] = o;
    }
    bench_report(name, "us/MiB", ours, bare, RUNS);
    return bench_median(ours, RUNS);
}

/* Before each set of runs, including the first one that counts: new pages, and a run to get
 * warm. */
static int begins_set(int i)
{
    return i % (SET + WARM_UP) == 0;
}

static void measure_save(char *buf, double checksum, const char *variants[2])
{
    static const size_t sizes[] = { MOST, VFIOMIG_GOOD_BUFFER };
    double ours[RUNS], bare[RUNS];
    for (size_t k = 0; k < 2; k++) {
        block = sizes[k];
        for (int i = 0, n = 0; n < RUNS; i++) {
            if (begins_set(i))
                new_contents(buf);
            double b = save_bare(buf), o = save_ours(buf);
            if (!begins_set(i))
                bare[n] = b, ours[n++] = o;
        }
        report_pump("save", variants[k], ours, bare, checksum);
    }
}

static void measure_save_read(char *buf)
{
    double ours[RUNS], bare[RUNS];
    for (int i = -WARM_UP; i < RUNS; i++) {
        double b = read_bare(buf), o = read_ours(buf);
        if (i >= 0)
            bare[i] = b, ours[i] = o;
    }
    bench_report("save-read", "us/MiB", ours, bare, RUNS);
}

static void measure_load_mac(char *buf, double mac)
{
    double ours[RUNS], bare[RUNS];
    size_t len;
    block = MOST;
    char *stream = record_stream(&len);
    for (int i = 0, n = 0; n < RUNS; i++) {
        if (begins_set(i))
            new_contents(buf);
        double b = load_bare(buf, stream, len, 0), o = load_ours(stream, len, NULL, 0);
        if (!begins_set(i))
            bare[n] = b, ours[n++] = o;
    }
    report_pump("load", "-mac", ours, bare, mac);
    free(stream);
}

static void measure_load(char *buf, double checksum)
{
    double ours[RUNS], pushed[RUNS], bare[RUNS];
    double ours_write[RUNS], bare_write[RUNS], ours_read[RUNS], bare_read[RUNS];
    size_t len;
    block = MOST;
    char *stream = record_stream(&len);
    for (int i = 0, n = 0; n < RUNS; i++) {
        if (begins_set(i))
            new_contents(buf);
        double b = load_bare(buf, stream, len, 0);
        double bw = in_write;
        double o = load_ours(stream, len, NULL, 0);
        double ow = in_write;
        double p = load_ours(stream, len, buf, 0);
        if (begins_set(i))
            continue;
        bare[n] = b, ours[n] = o, pushed[n] = p;
        bare_write[n] = seconds_to_us_per_mib(bw);
        ours_write[n++] = seconds_to_us_per_mib(ow);
    }
    for (int i = 0; i < RUNS; i++) {
        load_bare(buf, stream, len, 1);
        bare_read[i] = seconds_to_us_per_mib(in_read);
        load_ours(stream, len, NULL, 1);
        ours_read[i] = seconds_to_us_per_mib(in_read);
    }
    report_pump("load", "", ours, bare, checksum);
    bench_report("load-pump/push", "GB/s", pushed, bare, RUNS);
    bench_report("load-read", "us/MiB", ours_read, bare_read, RUNS);
    bench_report("load-write", "us/MiB", ours_write, bare_write, RUNS);
}

int main(void)
{
    char *buf = malloc(MOST);
    if (!buf)
        bench_die("malloc");
    pin(0);
    bench_before_others();
    /* Nothing before others without an end. */
    alarm(600);
    new_contents(buf);
    double checksum = measure_checksum(buf, "checksum");
    measure_save(buf, checksum, (const char *[]){ "/1MiB", "/128KiB" });
    measure_save_read(buf);
    measure_load(buf, checksum);
    authenticate();
    double mac = measure_checksum(buf, "mac");
    measure_save(buf, mac, (const char *[]){ "-mac/1MiB", "-mac/128KiB" });
    measure_load_mac(buf, mac);
    return 0;
}
