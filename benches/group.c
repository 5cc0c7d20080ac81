/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A group's switchover over channels, from the moment that the devices are stopped until the target has
 * committed. Devices are memfds; where a rate is given, each read or write takes its time at that rate, of
 * which a device catches up on 1 MiB at most. The target is another process, where its memory counts.
 *
 * switchover-N/RATE/Cch: N devices over C channels, in seconds. The baseline are bare read+write loops on
 *   as many threads, a connection for each device. 64M and 512M: MiB/s per device; less is moved at lower
 *   rates, because the rate decides. /sequential: the baseline is one bare loop, device after device.
 *   /ideal: the baseline is bytes/rate.
 * slow-load: four devices that the target writes at 8 MiB/s; the baseline is one of them alone. /memory: the
 *   target's peak memory in MiB, against the 45 that it may have.
 * scale/N: N devices of 16 MiB over four channels, against as many bare loops; /memory: MiB, both sides.
 * channel-cost: CPU seconds per GiB of both sides, against the bare loops.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "bench.h"

/* What a device prepares, or takes, on its own while nobody asks. */
static const double FIFO = 1 << 20;

enum { MOST = 64, MOST_CHANNELS = 8, BLOCK = 128 << 10 };

static struct device {
    struct bench_device state;
    struct vfiomig_device *mig;
    double busy;  /* until when the hardware is, at its rate */
    double rate;  /* bytes per second; 0: as fast as it goes */
    int sock[2];  /* of the bare loop */
} devices[2][MOST];

static int memfds[2] = { -1, -1 };
static size_t size;
static int num, num_channels;
static double read_rate, write_rate;
static int socks[MOST_CHANNELS][2];

static void pace(struct device *device, ssize_t n)
{
    double now = bench_now(), ahead = now - FIFO / device->rate;
    if (device->rate == 0 || n <= 0)
        return;
    device->busy = (device->busy > ahead ? device->busy : ahead) + (double)n / device->rate;
    double left = device->busy - now;
    if (left <= 0)
        return;
    struct timespec ts = { (time_t)left, (long)((left - (double)(time_t)left) * 1e9) };
    nanosleep(&ts, NULL);
}

static int64_t data_read(void *opaque, int fd, void *buf, size_t len)
{
    ssize_t n = read(fd, buf, len);
    pace(opaque, n);
    return n < 0 ? -errno : n;
}

static int64_t data_write(void *opaque, int fd, const void *buf, size_t len)
{
    ssize_t n = write(fd, buf, len);
    pace(opaque, n);
    return n < 0 ? -errno : n;
}

/* Files of their own on the same contents: many devices need no more memory than one. */
static int open_contents(int side)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", memfds[side]);
    return open(path, (side ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
}

static int open_data(void *opaque, uint32_t state)
{
    (void)opaque;
    return open_contents(state == VFIOMIG_STATE_RESUMING);
}

static void new_contents(void)
{
    static char buf[1 << 20];
    memset(buf, 0x5a, sizeof buf);
    for (int side = 0; side < 2; side++) {
        if (memfds[side] >= 0)
            close(memfds[side]);
        memfds[side] = memfd_create("state", MFD_CLOEXEC);
        for (size_t at = 0; at < size; at += sizeof buf)
            if (write(memfds[side], buf, sizeof buf) != (ssize_t)sizeof buf)
                bench_die("memfd");
    }
}

static void *help(void *group)
{
    vfiomig_group_work(group, VFIOMIG_GROUP_UNTIL_DISMISSED);
    return NULL;
}

static void open_device(int side, int i)
{
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    struct device *device = &devices[side][i];
    ops.data_read = data_read;
    ops.data_write = data_write;
    device->rate = side ? write_rate : read_rate;
    device->mig = bench_open(&device->state, ops, open_data);
}

static struct vfiomig_group *open_group(int side)
{
    struct vfiomig_group_options options = VFIOMIG_GROUP_OPTIONS_INIT;
    struct vfiomig_group *group;
    options.role = side ? VFIOMIG_GROUP_ROLE_TARGET : VFIOMIG_GROUP_ROLE_SOURCE;
    options.flags = VFIOMIG_GROUP_NO_PEER_TO_PEER;
    options.window = VFIOMIG_GROUP_GOOD_WINDOW;
    options.migration_id[0] = 1;
    if (vfiomig_group_new(&options, &group))
        bench_die("vfiomig_group_new");
    for (int i = 0; i < num; i++) {
        open_device(side, i);
        if (side ? vfiomig_group_add_load(group, devices[side][i].mig, NULL)
                 : vfiomig_group_add_save(group, devices[side][i].mig, NULL))
            bench_die("vfiomig_group_add");
    }
    for (int i = 0; i < num_channels; i++) {
        struct vfiomig_channel_options channel = VFIOMIG_CHANNEL_OPTIONS_INIT;
        channel.fd = socks[i][side];
        if (vfiomig_group_add_channel(group, &channel))
            bench_die("vfiomig_group_add_channel");
    }
    if (vfiomig_group_begin(group))
        bench_die("vfiomig_group_begin");
    return group;
}

/* `num` threads beside this one, which waits in the group, too. */
static void move_group(struct vfiomig_group *group, pthread_t *threads)
{
    for (int i = 0; i < num; i++)
        pthread_create(&threads[i], NULL, help, group);
    if (vfiomig_group_work(group, VFIOMIG_GROUP_UNTIL_COMPLETE))
        bench_die("vfiomig_group_work");
}

static void close_group(int side, struct vfiomig_group *group, pthread_t *threads)
{
    vfiomig_group_dismiss(group);
    for (int i = 0; i < num; i++)
        pthread_join(threads[i], NULL);
    vfiomig_group_free(group);
    for (int i = 0; i < num; i++)
        vfiomig_device_free(devices[side][i].mig);
}

static void *read_bare(void *opaque)
{
    struct device *device = opaque;
    char *buf = malloc(BLOCK);
    int fd = open_contents(0);
    ssize_t n;
    while (buf && (n = data_read(device, fd, buf, BLOCK)) > 0)
        for (ssize_t at = 0; at < n;) {
            ssize_t put = write(device->sock[0], buf + at, (size_t)(n - at));
            if (put <= 0)
                bench_die("write");
            at += put;
        }
    shutdown(device->sock[0], SHUT_WR);
    close(fd);
    free(buf);
    return NULL;
}

static void *write_bare(void *opaque)
{
    struct device *device = opaque;
    char *buf = malloc(BLOCK);
    int fd = open_contents(1);
    ssize_t n;
    while (buf && (n = recv(device->sock[1], buf, BLOCK, MSG_WAITALL)) > 0)
        for (ssize_t at = 0; at < n;)
            at += data_write(device, fd, buf + at, (size_t)(n - at));
    close(fd);
    free(buf);
    return NULL;
}

static double cpu_seconds(const struct rusage *use)
{
    return (double)use->ru_utime.tv_sec + (double)use->ru_utime.tv_usec / 1e6 +
           (double)use->ru_stime.tv_sec + (double)use->ru_stime.tv_usec / 1e6;
}

struct result {
    double seconds, cpu, memory; /* memory of the target, MiB */
};

static void byte(int fd, int send_it)
{
    char b = 1;
    if (send_it ? write(fd, &b, 1) != 1 : read(fd, &b, 1) != 1)
        bench_die("the other process");
}

/* A side of a run, ready when it has said so; the source measures. */
typedef double (*side_fn)(int side, int control);

static double group_side(int side, int control)
{
    pthread_t threads[MOST];
    struct vfiomig_group *group = open_group(side);
    byte(control, 1);
    byte(control, 0);
    double start = bench_now();
    for (int i = 0; i < num; i++)
        devices[side][i].busy = start;
    if (!side && vfiomig_group_stop(group))
        bench_die("vfiomig_group_stop");
    move_group(group, threads);
    if (side) {
        if (vfiomig_group_commit(group))
            bench_die("vfiomig_group_commit");
        byte(control, 1);
    } else {
        byte(control, 0);
    }
    double took = bench_now() - start;
    close_group(side, group, threads);
    return took;
}

static double bare_side(int side, int control)
{
    pthread_t threads[MOST];
    for (int i = 0; i < num; i++)
        devices[side][i] = (struct device){ .rate = side ? write_rate : read_rate,
                                            .sock = { devices[0][i].sock[0], devices[0][i].sock[1] } };
    byte(control, 1);
    byte(control, 0);
    double start = bench_now();
    for (int i = 0; i < num; i++)
        devices[side][i].busy = start;
    for (int i = 0; i < num; i++)
        pthread_create(&threads[i], NULL, side ? write_bare : read_bare, &devices[side][i]);
    for (int i = 0; i < num; i++)
        pthread_join(threads[i], NULL);
    byte(control, side);
    return bench_now() - start;
}

static double sequential_side(int side, int control)
{
    for (int i = 0; i < num; i++)
        devices[side][i] = (struct device){ .rate = side ? write_rate : read_rate,
                                            .sock = { devices[0][i].sock[0], devices[0][i].sock[1] } };
    byte(control, 1);
    byte(control, 0);
    double start = bench_now();
    for (int i = 0; i < num; i++)
        (side ? write_bare : read_bare)(&devices[side][i]);
    byte(control, side);
    return bench_now() - start;
}

/* The target's peak memory, without the contents of its devices, which are files. */
static double peak_memory(void)
{
    char line[256];
    double anon = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmHWM: %lf", &anon) == 1)
            break;
    if (status)
        fclose(status);
    return anon / 1024;
}

static struct result run(side_fn both)
{
    int control[2], pipes[2], pids[2];
    double values[2][3];
    struct result result = { 0, 0, 0 };
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, control) || pipe(pipes))
        bench_die("socketpair");
    for (int i = 0; i < MOST_CHANNELS; i++)
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks[i]))
            bench_die("socketpair");
    for (int i = 0; i < num; i++)
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, devices[0][i].sock))
            bench_die("socketpair");
    for (int side = 0; side < 2; side++) {
        pids[side] = fork();
        if (pids[side] < 0)
            bench_die("fork");
        if (pids[side] == 0) {
            struct rusage use;
            for (int i = 0; i < MOST_CHANNELS; i++)
                close(socks[i][!side]);
            for (int i = 0; i < num; i++)
                close(devices[0][i].sock[!side]);
            close(control[!side]);
            double took = both(side, control[side]);
            getrusage(RUSAGE_SELF, &use);
            double out[3] = { took, cpu_seconds(&use), peak_memory() };
            if (side)
                usleep(1000);
            char line[4 + sizeof out];
            memcpy(line, &side, 4);
            memcpy(line + 4, out, sizeof out);
            _exit(write(pipes[1], line, sizeof line) != (ssize_t)sizeof line);
        }
    }
    for (int side = 0; side < 2; side++)
        close(control[side]);
    for (int i = 0; i < MOST_CHANNELS; i++)
        close(socks[i][0]), close(socks[i][1]);
    for (int i = 0; i < num; i++)
        close(devices[0][i].sock[0]), close(devices[0][i].sock[1]);
    for (int i = 0; i < 2; i++) {
        char line[4 + sizeof values[0]];
        int side, status;
        if (read(pipes[0], line, sizeof line) != (ssize_t)sizeof line)
            bench_die("a side");
        memcpy(&side, line, 4);
        memcpy(values[side], line + 4, sizeof values[side]);
        waitpid(pids[i], &status, 0);
    }
    close(pipes[0]), close(pipes[1]);
    result.seconds = values[0][0];
    result.cpu = values[0][1] + values[1][1];
    result.memory = values[1][2];
    return result;
}

static void of(int devices_, int channels, size_t bytes, double reads, double writes)
{
    if (size != bytes) {
        size = bytes;
        new_contents();
    }
    num = devices_, num_channels = channels, read_rate = reads, write_rate = writes;
}

/* The ready bytes are exchanged here: both sides say that they are, and then both go. */
static double switchover(const char *name, int runs, int with_sequential)
{
    double ours[16], bare[16], one[16], ideal[16];
    char text[96];
    for (int i = 0; i < runs; i++) {
        bare[i] = run(bare_side).seconds;
        ours[i] = run(group_side).seconds;
        if (with_sequential)
            one[i] = run(sequential_side).seconds;
        ideal[i] = read_rate > 0 ? (double)size / read_rate : 0;
    }
    bench_report(name, "s", ours, bare, runs);
    if (with_sequential) {
        snprintf(text, sizeof text, "%s/sequential", name);
        bench_report(text, "s", ours, one, runs);
    }
    if (read_rate > 0) {
        snprintf(text, sizeof text, "%s/ideal", name);
        bench_report(text, "s", ours, ideal, runs);
    }
    return bench_median(ours, runs);
}

static void measure_switchover(void)
{
    static const struct {
        const char *name;
        double rate;
        size_t bytes;
        int runs;
    } rates[] = {
        { "64M", 64 << 20, 32 << 20, 3 },
        { "512M", 512 << 20, 128 << 20, 3 },
        { "unlimited", 0, 256 << 20, 5 },
    };
    char name[64];
    for (size_t r = 0; r < 3; r++)
        for (int channels = 1; channels <= 8; channels *= 2) {
            of(4, channels, rates[r].bytes, rates[r].rate, 0);
            snprintf(name, sizeof name, "switchover-4x256M/%s/%dch", rates[r].name, channels);
            switchover(name, rates[r].runs, channels == 4);
        }
    for (int devices_ = 1; devices_ <= 8; devices_ *= 2) {
        of(devices_, 4, 32 << 20, 64 << 20, 0);
        snprintf(name, sizeof name, "switchover-%d/64M/4ch", devices_);
        switchover(name, 3, 0);
    }
}

static void measure_slow_load(void)
{
    double limit = 45, alone;
    struct result all;
    of(1, 4, 64 << 20, 0, 8 << 20);
    alone = run(group_side).seconds;
    of(4, 4, 64 << 20, 0, 8 << 20);
    all = run(group_side);
    bench_report("slow-load", "s", &all.seconds, &alone, 1);
    bench_report("slow-load/memory", "MiB", &all.memory, &limit, 1);
}

static void measure_scale(void)
{
    char name[64];
    for (int devices_ = 1; devices_ <= MOST; devices_ *= 4) {
        double ours[5], bare[5], memory[5], bare_memory[5];
        of(devices_, 4, 16 << 20, 0, 0);
        for (int i = 0; i < 5; i++) {
            struct result b = run(bare_side), o = run(group_side);
            ours[i] = o.seconds, bare[i] = b.seconds;
            memory[i] = o.memory, bare_memory[i] = b.memory;
        }
        snprintf(name, sizeof name, "scale/%d", devices_);
        bench_report(name, "s", ours, bare, 5);
        snprintf(name, sizeof name, "scale/%d/memory", devices_);
        bench_report(name, "MiB", memory, bare_memory, 5);
    }
}

static void measure_cost(void)
{
    double ours[5], bare[5];
    of(4, 4, 256 << 20, 0, 0);
    for (int i = 0; i < 5; i++) {
        bare[i] = run(bare_side).cpu;
        ours[i] = run(group_side).cpu;
    }
    bench_report("channel-cost", "s/GiB", ours, bare, 5);
}

int main(int argc, char **argv)
{
    const char *only = argc > 1 ? argv[1] : "";
    bench_before_others();
    /* Nothing before others without an end. */
    alarm(600);
    if (!*only || !strcmp(only, "switchover"))
        measure_switchover();
    if (!*only || !strcmp(only, "slow-load"))
        measure_slow_load();
    if (!*only || !strcmp(only, "scale"))
        measure_scale();
    if (!*only || !strcmp(only, "channel-cost"))
        measure_cost();
    return 0;
}
