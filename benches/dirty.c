/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * dirty-union: one reading of four trackers over a guest of 1 TiB in pages of 4 KiB, with their
 * answers combined and delivered into the VMM's bitmap, in milliseconds. The baseline is memcpy()
 * of the same four bitmaps, 32 MiB each, into four others. Runs alternate.
 *
 * The dirty pages of the trackers are random and independent. A tracker copies the part that it is
 * asked for; what else a kernel does, finding the dirty pages and forgetting them, is on neither
 * side. The VMM adds what it is given to a bitmap of its own: that is only on the library's side.
 * The clock is the thread's: both sides only compute, and other work on the machine counts in
 * neither.
 *
 * dirty-memory: the most that dirty tracking needs, in bytes of the process, with four trackers
 * that find every other page dirty. The baseline is one bitmap of the guest. While pages are
 * delivered, the need must not depend on the guest. When a writer is removed, everything that it
 * had to report is kept until it is delivered, and that is one bitmap.
 *
 * dirty-sync-page: a reading of one page of a guest of 1 TiB, in microseconds, each after a new
 * mapping, for which the device's log should be restarted while something else could watch. The
 * baseline is the same reading before the new mapping.
 *
 * dirty-unmap: 64 GiB that have to be translated are unmapped, with nothing dirty, in milliseconds.
 * The baseline is the same with a place that is known. dirty-unmap-memory: what comes into use in
 * the meantime, in bytes; the baseline is one bitmap of the range.
 */
#define _GNU_SOURCE
#include <sys/wait.h>

#include "bench.h"

enum { TRACKERS = 4, RUNS = 41 };
static const uint64_t PAGE = 4096, GUEST = 1ull << 40;

static size_t words_of(uint64_t bytes)
{
    return bytes / PAGE / 64;
}

static double cpu_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* xorshift64* */
static uint64_t next_random(void)
{
    static uint64_t x = 0x9e3779b97f4a7c15;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    return x * 0x2545f4914f6cdd1d;
}

/* Each of the guest's pages is dirty with this probability. */
static void fill_at_random(uint64_t *words, unsigned per_mille)
{
    size_t n = words_of(GUEST);
    memset(words, 0, n * 8);
    if (per_mille == 500) {
        for (size_t i = 0; i < n; i++)
            words[i] = next_random();
        return;
    }
    for (uint64_t left = GUEST / PAGE * per_mille / 1000; left; left--) {
        uint64_t page = next_random() % (GUEST / PAGE);
        words[page / 64] |= 1ull << page % 64;
    }
}

static uint64_t *new_bitmap(int byte)
{
    void *words;
    if (posix_memalign(&words, PAGE, words_of(GUEST) * 8))
        bench_die("posix_memalign");
    return memset(words, byte, words_of(GUEST) * 8);
}

/* A tracker: the bits that it has. */
static int copy_part(void *opaque, uint64_t iova, uint64_t length, uint64_t page_size,
                     uint64_t *bitmap, size_t num_words)
{
    const uint64_t *log = opaque;
    (void)length, (void)page_size;
    memcpy(bitmap, log + words_of(iova), num_words * 8);
    return 0;
}

/* As wide as the registers of every x86-64 and aarch64. */
struct pair {
    uint64_t words __attribute__((vector_size(16), aligned(8), may_alias));
};

/* The VMM's own bitmap. */
static int add_to_own(void *opaque, uint64_t cookie, uint64_t offset, uint64_t page_size,
                      const uint64_t *bitmap, uint64_t num_bits)
{
    struct pair *own = (struct pair *)((uint64_t *)opaque + words_of(offset));
    const struct pair *new = (const struct pair *)bitmap;
    (void)cookie, (void)page_size;
    for (size_t i = 0; i < num_bits / 128; i++)
        own[i].words |= new[i].words;
    return 0;
}

typedef int (*sync_fn)(void *, uint64_t, uint64_t, uint64_t, uint64_t *, size_t);
typedef int (*set_dirty_fn)(void *, uint64_t, uint64_t, uint64_t, const uint64_t *, uint64_t);

static struct vfiomig_dirty *new_tracking_of(const struct vfiomig_mapping *all,
                                             set_dirty_fn set_dirty, void *opaque)
{
    struct vfiomig_memory_ops memory = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty_options options = VFIOMIG_DIRTY_OPTIONS_INIT;
    struct vfiomig_dirty *dirty;

    memory.set_dirty = set_dirty;
    options.page_size = PAGE;
    if (vfiomig_dirty_new(&memory, opaque, &options, &dirty) || vfiomig_dirty_map(dirty, all))
        bench_die("vfiomig_dirty_new");
    return dirty;
}

static struct vfiomig_dirty *new_tracking(uint64_t guest, set_dirty_fn set_dirty, void *opaque,
                                     sync_fn sync, uint64_t *const *logs)
{
    struct vfiomig_tracker_ops tracker = VFIOMIG_TRACKER_OPS_INIT;
    struct vfiomig_mapping all = VFIOMIG_MAPPING_INIT;
    uint32_t number;

    tracker.page_size = PAGE;
    tracker.sync = sync;
    all.size = guest;
    struct vfiomig_dirty *dirty = new_tracking_of(&all, set_dirty, opaque);
    for (int i = 0; i < TRACKERS; i++) {
        struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
        writer.flags = VFIOMIG_WRITER_CUSTOM | VFIOMIG_WRITER_REQUIRED;
        writer.tracker = &tracker;
        writer.tracker_opaque = logs ? logs[i] : NULL;
        if (vfiomig_dirty_add_writer(dirty, &writer, &number))
            bench_die("vfiomig_dirty_add_writer");
    }
    if (vfiomig_dirty_start(dirty))
        bench_die("vfiomig_dirty_start");
    return dirty;
}

static void get_stats(struct vfiomig_dirty *dirty, struct vfiomig_dirty_stats *stats)
{
    if (vfiomig_dirty_get_stats(dirty, stats))
        bench_die("vfiomig_dirty_get_stats");
}

/* --- dirty-union -------------------------------------------------------------------------------- */

static void expect_union(struct vfiomig_dirty *dirty, const uint64_t *own, uint64_t *const *logs)
{
    struct vfiomig_dirty_stats stats = VFIOMIG_DIRTY_STATS_INIT;
    uint64_t pages = 0;
    for (size_t i = 0; i < words_of(GUEST); i++) {
        uint64_t word = 0;
        for (int k = 0; k < TRACKERS; k++)
            word |= logs[k][i];
        if (own[i] != word) {
            fprintf(stderr, "bench: word %zu is %#llx, not the union %#llx\n", i,
                    (unsigned long long)own[i], (unsigned long long)word);
            exit(1);
        }
        pages += (uint64_t)__builtin_popcountll(word);
    }
    get_stats(dirty, &stats);
    if (stats.dirty_bytes != pages * PAGE || stats.errors) {
        fprintf(stderr, "bench: %llu bytes are dirty, not %llu\n",
                (unsigned long long)stats.dirty_bytes, (unsigned long long)(pages * PAGE));
        exit(1);
    }
}

static void measure_union(const char *name, unsigned per_mille, uint64_t **logs, uint64_t **copies,
                          uint64_t *own)
{
    double ours[RUNS], baseline[RUNS];
    for (int k = 0; k < TRACKERS; k++)
        fill_at_random(logs[k], per_mille);
    memset(own, 0, words_of(GUEST) * 8);
    struct vfiomig_dirty *dirty = new_tracking(GUEST, add_to_own, own, copy_part, logs);

    /* Once before: for the caches, and to see that what is measured is right. */
    if (vfiomig_dirty_collect(dirty))
        bench_die("vfiomig_dirty_collect");
    expect_union(dirty, own, logs);
    for (int i = 0; i < RUNS; i++) {
        double start = cpu_now();
        for (int k = 0; k < TRACKERS; k++)
            memcpy(copies[k], logs[k], words_of(GUEST) * 8);
        baseline[i] = (cpu_now() - start) * 1e3;
        start = cpu_now();
        if (vfiomig_dirty_collect(dirty))
            bench_die("vfiomig_dirty_collect");
        ours[i] = (cpu_now() - start) * 1e3;
    }
    for (int k = 0; k < TRACKERS; k++)
        if (memcmp(copies[k], logs[k], words_of(GUEST) * 8))
            bench_die("memcpy");
    bench_report(name, "ms", ours, baseline, RUNS);
    vfiomig_dirty_free(dirty);
}

/* --- dirty-memory ------------------------------------------------------------------------------- */

static int every_other(void *opaque, uint64_t iova, uint64_t length, uint64_t page_size,
                       uint64_t *bitmap, size_t num_words)
{
    (void)opaque, (void)iova, (void)length, (void)page_size;
    memset(bitmap, 0x55, num_words * 8);
    return 0;
}

static int take(void *opaque, uint64_t cookie, uint64_t offset, uint64_t page_size,
                const uint64_t *bitmap, uint64_t num_bits)
{
    (void)opaque, (void)cookie, (void)offset, (void)page_size, (void)bitmap, (void)num_bits;
    return 0;
}

static double status_bytes(const char *field)
{
    char line[256];
    double kib = -1;
    FILE *status = fopen("/proc/self/status", "r");
    if (!status)
        bench_die("/proc/self/status");
    while (fgets(line, sizeof line, status))
        if (!strncmp(line, field, strlen(field)) && line[strlen(field)] == ':')
            kib = atof(line + strlen(field) + 1);
    fclose(status);
    return kib * 1024;
}

struct peak_case {
    uint64_t guest;
    int removes;
};

/* In a process of its own, whose peak begins with what it has. */
static void measure_alone(void (*measure)(const struct peak_case *, double *peak),
                          const struct peak_case *c, double peak[2])
{
    const size_t size = 2 * sizeof *peak;
    int pipes[2], code;
    if (pipe(pipes))
        bench_die("pipe");
    pid_t pid = fork();
    if (pid < 0)
        bench_die("fork");
    if (!pid) {
        measure(c, peak);
        _exit(write(pipes[1], peak, size) != (ssize_t)size);
    }
    close(pipes[1]);
    if (read(pipes[0], peak, size) != (ssize_t)size || waitpid(pid, &code, 0) != pid || code)
        bench_die("a process that measures its memory");
    close(pipes[0]);
}

/* What came into use, and what the library says of it. */
static void measure_peak(const struct peak_case *c, double *peak)
{
    struct vfiomig_dirty_stats stats = VFIOMIG_DIRTY_STATS_INIT;
    struct vfiomig_dirty *dirty;
    /* What is allocated once per process. */
    dirty = new_tracking(PAGE * 64, take, NULL, every_other, NULL);
    if (vfiomig_dirty_collect(dirty))
        bench_die("vfiomig_dirty_collect");
    vfiomig_dirty_free(dirty);
    double before = status_bytes("VmRSS");
    dirty = new_tracking(c->guest, take, NULL, every_other, NULL);
    if (c->removes ? vfiomig_dirty_remove_writer(dirty, 0) : vfiomig_dirty_collect(dirty))
        bench_die("vfiomig_dirty_collect");
    get_stats(dirty, &stats);
    peak[0] = status_bytes("VmHWM") - before;
    peak[1] = (double)stats.memory_bytes;
    if (vfiomig_dirty_collect(dirty))
        bench_die("vfiomig_dirty_collect");
    get_stats(dirty, &stats);
    if (stats.last_dirty_bytes != c->guest / 2)
        bench_die("pages are missing");
}

static double peak_of(uint64_t guest, int removes)
{
    double peak[2];
    measure_alone(measure_peak, &(struct peak_case){ guest, removes }, peak);
    if (peak[0] > peak[1] * 1.05 + (256 << 10)) {
        fprintf(stderr, "bench: memory_bytes says %.0f, and %.0f came into use\n", peak[1], peak[0]);
        exit(1);
    }
    return peak[0];
}

static void measure_memory(void)
{
    static const struct {
        const char *name;
        uint64_t guest;
    } guests[] = { { "16GiB", 16ull << 30 }, { "1TiB", 1ull << 40 }, { "4TiB", 4ull << 40 } };
    double most = 0;
    for (int removes = 0; removes < 2; removes++) {
        for (size_t i = 0; i < sizeof guests / sizeof guests[0]; i++) {
            char name[64];
            double bitmap = (double)words_of(guests[i].guest) * 8;
            double peak = peak_of(guests[i].guest, removes);
            snprintf(name, sizeof name, "dirty-memory/%s-%s", removes ? "removed" : "delivered",
                     guests[i].name);
            bench_report(name, "B", &peak, &bitmap, 1);
            if (!removes)
                most = peak > most ? peak : most;
            else if (peak > bitmap * 1.05 + 1.5 * (1 << 20))
                bench_die("what is kept must be one bitmap");
        }
    }
    if (most > 1.5 * (1 << 20))
        bench_die("the need must not depend on the guest, and be at most 1.5 MiB");
}

/* --- dirty-sync-page ---------------------------------------------------------------------------- */

static int nothing(void *opaque, uint64_t iova, uint64_t length, uint64_t page_size,
                   uint64_t *bitmap, size_t num_words)
{
    (void)opaque, (void)iova, (void)length, (void)page_size, (void)bitmap, (void)num_words;
    return 0;
}

/* A device that has a log, in which nothing is ever written. */
static int log_feature(void *opaque, uint32_t flags, void *data, size_t len)
{
    uint32_t feature = flags & 0xffff;
    return feature >= 6 && feature <= 8 ? 0 : bench_feature(opaque, flags, data, len);
}

static double sync_page(struct vfiomig_dirty *dirty, uint64_t iova)
{
    uint64_t word = 0;
    double start = bench_now();
    int r = vfiomig_dirty_sync(dirty, iova, PAGE, PAGE, &word, 1);
    double took = (bench_now() - start) * 1e6;
    if (r < 0 || word)
        bench_die("vfiomig_dirty_sync");
    return took;
}

static void measure_sync_page(void)
{
    struct bench_device state = { .state = VFIOMIG_STATE_RUNNING };
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    struct vfiomig_tracker_ops tracker = VFIOMIG_TRACKER_OPS_INIT;
    struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
    struct vfiomig_dirty_writer_stats stats = VFIOMIG_DIRTY_WRITER_STATS_INIT;
    struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
    struct vfiomig_device *device;
    double ours[RUNS], baseline[RUNS];
    uint32_t number;

    ops.feature = log_feature;
    ops.reset = bench_reset;
    tracker.page_size = PAGE;
    tracker.sync = nothing;
    writer.flags = VFIOMIG_WRITER_DEVICE_LOG | VFIOMIG_WRITER_CUSTOM;
    writer.tracker = &tracker;
    mapping.size = GUEST;
    if (vfiomig_device_new_ops(&ops, &state, NULL, &device))
        bench_die("vfiomig_device_new_ops");
    writer.device = device;
    struct vfiomig_dirty *dirty = new_tracking_of(&mapping, take, NULL);
    if (vfiomig_dirty_add_writer(dirty, &writer, &number) || vfiomig_dirty_start(dirty) ||
        vfiomig_dirty_get_writer_stats(dirty, number, &stats))
        bench_die("tracking with a device's log");
    if (stats.tracker != VFIOMIG_TRACKER_DEVICE_LOG)
        bench_die(stats.note);
    mapping.size = PAGE;
    sync_page(dirty, 0);
    for (int i = 0; i < RUNS; i++) {
        /* The first reading in a while is slower on either side. */
        sync_page(dirty, 0);
        baseline[i] = sync_page(dirty, 0);
        mapping.iova = 2 * GUEST + (uint64_t)i * 2 * PAGE;
        if (vfiomig_dirty_map(dirty, &mapping))
            bench_die("vfiomig_dirty_map");
        ours[i] = sync_page(dirty, 0);
    }
    bench_report("dirty-sync-page/new-mapping-1TiB", "us", ours, baseline, RUNS);
    if (bench_median(ours, RUNS) > 5)
        bench_die("a reading of one page must take at most 5 us");
    /* It is not put off forever. */
    if (vfiomig_dirty_collect(dirty) < 0 || vfiomig_dirty_get_writer_stats(dirty, number, &stats))
        bench_die("vfiomig_dirty_collect");
    if (stats.restarts != 1)
        bench_die("the log must have been restarted once");
    vfiomig_dirty_free(dirty);
    vfiomig_device_free(device);
}

/* --- dirty-unmap -------------------------------------------------------------------------------- */

static const uint64_t UNMAPPED = 64ull << 30;

static int translate_page(void *opaque, uint64_t iova, uint64_t size, struct vfiomig_place *place)
{
    (void)opaque, (void)size;
    place->cookie = 1;
    place->offset = iova;
    place->size = PAGE;
    return 0;
}

static int unmap_nothing(void *opaque, uint64_t iova, uint64_t size)
{
    (void)opaque, (void)iova, (void)size;
    return 0;
}

static double unmap_ms(struct vfiomig_dirty *dirty, uint32_t flags)
{
    struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
    mapping.iova = 1ull << 40;
    mapping.size = UNMAPPED;
    mapping.flags = flags;
    if (vfiomig_dirty_map(dirty, &mapping))
        bench_die("vfiomig_dirty_map");
    double start = bench_now();
    if (vfiomig_dirty_unmap(dirty, mapping.iova, mapping.size, 0, NULL, 0, unmap_nothing, NULL))
        bench_die("vfiomig_dirty_unmap");
    return (bench_now() - start) * 1e3;
}

static struct vfiomig_dirty *new_unmapping_tracking(void)
{
    struct vfiomig_memory_ops memory = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty_options options = VFIOMIG_DIRTY_OPTIONS_INIT;
    struct vfiomig_tracker_ops tracker = VFIOMIG_TRACKER_OPS_INIT;
    struct vfiomig_dirty_writer writer = VFIOMIG_DIRTY_WRITER_INIT;
    struct vfiomig_dirty *dirty;
    uint32_t number;

    memory.set_dirty = take;
    memory.translate = translate_page;
    options.page_size = PAGE;
    tracker.page_size = PAGE;
    tracker.sync = nothing;
    writer.flags = VFIOMIG_WRITER_CUSTOM | VFIOMIG_WRITER_REQUIRED;
    writer.tracker = &tracker;
    if (vfiomig_dirty_new(&memory, NULL, &options, &dirty) ||
        vfiomig_dirty_add_writer(dirty, &writer, &number) || vfiomig_dirty_start(dirty))
        bench_die("tracking for unmapping");
    unmap_ms(dirty, 0);
    return dirty;
}

static void measure_unmap_peak(const struct peak_case *none, double *peak)
{
    struct vfiomig_dirty *dirty = new_unmapping_tracking();
    double before = status_bytes("VmHWM");
    (void)none;
    unmap_ms(dirty, VFIOMIG_MAPPING_TRANSLATE);
    peak[0] = status_bytes("VmHWM") - before;
    peak[1] = 0;
}

static void measure_unmap(void)
{
    double ours[RUNS], baseline[RUNS], bitmap = (double)words_of(UNMAPPED) * 8;
    double peak[2];
    measure_alone(measure_unmap_peak, NULL, peak);
    bench_report("dirty-unmap-memory/translate-64GiB-clean", "B", peak, &bitmap, 1);
    if (peak[0] > 1 << 20)
        bench_die("unmapping must take at most 1 MiB");
    struct vfiomig_dirty *dirty = new_unmapping_tracking();
    for (int i = 0; i < RUNS; i++) {
        baseline[i] = unmap_ms(dirty, 0);
        ours[i] = unmap_ms(dirty, VFIOMIG_MAPPING_TRANSLATE);
    }
    bench_report("dirty-unmap/translate-64GiB-clean", "ms", ours, baseline, RUNS);
    if (bench_median(ours, RUNS) > 10)
        bench_die("unmapping what is clean must take at most 10 ms");
    vfiomig_dirty_free(dirty);
}

int main(void)
{
    uint64_t *logs[TRACKERS], *copies[TRACKERS];
    measure_memory();
    measure_unmap();
    measure_sync_page();
    for (int k = 0; k < TRACKERS; k++) {
        logs[k] = new_bitmap(0);
        copies[k] = new_bitmap(0xff);
    }
    uint64_t *own = new_bitmap(0xff);
    measure_union("dirty-union/0.1%", 1, logs, copies, own);
    measure_union("dirty-union/1%", 10, logs, copies, own);
    measure_union("dirty-union/50%", 500, logs, copies, own);
    return 0;
}
