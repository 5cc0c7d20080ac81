/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * checkpoint-pause: how long devices stand still while a checkpoint of them is taken, from the
 * beginning of vfiomig_checkpoint_stop() to the end of vfiomig_checkpoint_resume(), in milliseconds.
 *
 * memfd: what the devices say goes to memory. Its baseline is the bare read(2) of the same bytes, in
 * pieces of the same length, into memory of the same kind whose pages are there and have been written
 * to: the least that any program has to do in the pause. (Pages that were only mapped cost a bare loop
 * half as much again: the first write to each is noted, which is a fault where page tables are
 * emulated.) tmpfs and disk: it goes to a file there, against a bare loop of read(2) and write(2) into
 * another file, whose room was found before. json: the same as memfd, against a program that writes
 * the bytes as base64 into a JSON document on tmpfs, which is what Cloud Hypervisor's snapshots are.
 *
 * Sizes are 256 MiB, 1 GiB and 4 GiB; those for which there is too little memory are left out.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>

#include "bench.h"

enum { RUNS = 7, PIECE = 1 << 20 };

static int memfd = -1; /* the device's contents */
static uint64_t size;

static int open_contents(void *opaque, uint32_t state)
{
    char path[64];

    (void)opaque, (void)state;
    snprintf(path, sizeof path, "/proc/self/fd/%d", memfd);
    return open(path, O_RDONLY | O_CLOEXEC);
}

static void new_contents(void)
{
    static char buf[PIECE];

    if (memfd >= 0)
        close(memfd);
    memfd = memfd_create("state", MFD_CLOEXEC);
    memset(buf, 0x5a, sizeof buf);
    for (uint64_t at = 0; at < size; at += PIECE)
        if (write(memfd, buf, PIECE) != PIECE)
            bench_die("memfd");
}

/* How much there is, for those who prepare for it. */
static int feature(void *opaque, uint32_t flags, void *data, size_t len)
{
    if ((flags & 0xffff) == 9 && flags & 1u << 16 && len >= 8) {
        memcpy(data, &size, 8);
        return 0;
    }
    return bench_feature(opaque, flags, data, len);
}

static char path[4096];

/* Milliseconds. */
static double ours(uint64_t spool)
{
    struct vfiomig_checkpoint_options options = VFIOMIG_CHECKPOINT_OPTIONS_INIT;
    struct vfiomig_checkpoint_stats stats = VFIOMIG_CHECKPOINT_STATS_INIT;
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    struct vfiomig_save_options save = VFIOMIG_SAVE_OPTIONS_INIT;
    struct bench_device state;
    struct vfiomig_device *device;
    struct vfiomig_checkpoint *cp;

    ops.feature = feature;
    device = bench_open(&state, ops, open_contents);
    options.spool_bytes = spool;
    options.flags = VFIOMIG_CHECKPOINT_NOT_DURABLE;
    save.flags = VFIOMIG_SAVE_NO_PRE_COPY;
    if (vfiomig_checkpoint_begin(AT_FDCWD, path, &options, &cp) ||
        vfiomig_checkpoint_add(cp, device, "device", &save) || vfiomig_checkpoint_read(cp) ||
        vfiomig_checkpoint_stop(cp) || vfiomig_checkpoint_read(cp) ||
        vfiomig_checkpoint_resume(cp, VFIOMIG_CHECKPOINT_RESUME) ||
        vfiomig_checkpoint_get_stats(cp, &stats))
        bench_die("checkpoint");
    if (stats.stopped_bytes < size || stats.spooled_bytes != (spool ? stats.stopped_bytes : 0))
        bench_die("not all was read in the pause, or not to where it should go");
    /* What follows is not in the pause, and with memory it is the slow part. */
    vfiomig_checkpoint_free(cp);
    vfiomig_device_free(device);
    return (double)stats.pause_ns / 1e6;
}

/* What the library reads at once: its frames have 128 KiB, with a header and a check. */
enum { FRAME = 131040 };

static double bare_memory(void)
{
    int memory = memfd_create("destination", MFD_CLOEXEC), fd = open_contents(NULL, 0);
    uint64_t at = 0;
    ssize_t n = 1;
    char *to;

    if (memory < 0 || fd < 0 || fallocate(memory, 0, 0, (off_t)size))
        bench_die("no memory");
    to = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory, 0);
    if (to == MAP_FAILED)
        bench_die("no memory");
    for (uint64_t page = 0; page < size; page += 4096)
        to[page] = 1;
    double start = bench_now();
    while (at < size && (n = read(fd, to + at, size - at < FRAME ? size - at : FRAME)) > 0)
        at += (uint64_t)n;
    double took = bench_now() - start;
    if (n < 0)
        bench_die("read");
    close(fd);
    munmap(to, size);
    close(memory);
    return took * 1e3;
}

static void write_all(int fd, const char *bytes, size_t len)
{
    while (len) {
        ssize_t n = write(fd, bytes, len);
        if (n <= 0)
            bench_die("write");
        bytes += n;
        len -= (size_t)n;
    }
}

static double bare_file(void)
{
    static char buf[PIECE];
    int fd = open_contents(NULL, 0), out = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ssize_t n;

    /* The library finds room for it before the pause. */
    (void)!fallocate(out, FALLOC_FL_KEEP_SIZE, 0, (off_t)size);
    double start = bench_now();
    while ((n = read(fd, buf, sizeof buf)) > 0)
        write_all(out, buf, (size_t)n);
    double took = bench_now() - start;
    close(fd);
    close(out);
    unlink(path);
    return took * 1e3;
}

/* {"state": "..."} */
static double base64_in_json(void)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static unsigned char in[3 << 18];
    static char out[1 << 20];
    int fd = open_contents(NULL, 0), to = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ssize_t n;

    double start = bench_now();
    write_all(to, "{\"state\": \"", 11);
    while ((n = read(fd, in, sizeof in)) > 0) {
        size_t len = 0;
        /* The end would be padded, which takes no time. */
        for (ssize_t i = 0; i < n; i += 3) {
            uint32_t word = (uint32_t)in[i] << 16 | (uint32_t)in[i + 1] << 8 | in[i + 2];
            for (int shift = 18; shift >= 0; shift -= 6)
                out[len++] = digits[word >> shift & 63];
        }
        write_all(to, out, len);
    }
    write_all(to, "\"}\n", 3);
    double took = bench_now() - start;
    close(fd);
    close(to);
    unlink(path);
    return took * 1e3;
}

static uint64_t available(void)
{
    unsigned long long kib = 0;
    char line[200];
    FILE *file = fopen("/proc/meminfo", "r");

    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return (uint64_t)kib << 10;
}

static void measure(const char *name, const char *directory, uint64_t spool, double (*baseline)(void))
{
    double us[RUNS], them[RUNS];
    char title[100];

    snprintf(path, sizeof path, "%s/vfiomig-bench-checkpoint-%d", directory, (int)getpid());
    for (int i = -1; i < RUNS; i++) {
        double mine = ours(spool), theirs = baseline();
        if (i >= 0)
            us[i] = mine, them[i] = theirs;
    }
    snprintf(title, sizeof title, "checkpoint-pause/%s-%uMiB", name, (unsigned)(size >> 20));
    bench_report(title, "ms", us, them, RUNS);
}

int main(void)
{
    static const uint64_t sizes[] = { 256ull << 20, 1ull << 30, 4ull << 30 };
    const char *disk = getenv("BENCH_DISK");

    bench_before_others();
    for (int i = 0; i < 3; i++) {
        size = sizes[i];
        /* The contents, and what is made of them on each side. */
        if (available() < 5 * size / 2 + (512ull << 20)) {
            printf("checkpoint-pause: %u MiB are left out: too little memory\n", (unsigned)(size >> 20));
            continue;
        }
        new_contents();
        measure("memfd", "/dev/shm", 2 * size, bare_memory);
        measure("tmpfs", "/dev/shm", 0, bare_file);
        measure("disk", disk ? disk : "/var/tmp", 0, bare_file);
        measure("json", "/dev/shm", 2 * size, base64_in_json);
    }
    return 0;
}
