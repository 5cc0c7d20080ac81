/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * peak-heap: the largest amount of memory allocated at once while a state of 1 MiB, 256 MiB and 4
 * GiB goes from a saving to a loading device, in the library and this program together. The
 * baseline is a bare loop over one buffer. Pieces are pushed in sizes that make every frame cross
 * their boundaries, which is what costs the loading side memory.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdatomic.h>

#include "bench.h"

/* Every allocation of the process goes through here, including the library's, which uses malloc. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *old);

static atomic_llong now_bytes, peak_bytes;

static void *grew(void *memory)
{
    if (memory) {
        long long now = atomic_fetch_add(&now_bytes, (long long)malloc_usable_size(memory)) +
                        (long long)malloc_usable_size(memory);
        long long peak = atomic_load(&peak_bytes);
        while (now > peak && !atomic_compare_exchange_weak(&peak_bytes, &peak, now))
            ;
    }
    return memory;
}

static void shrank(void *memory)
{
    if (memory)
        atomic_fetch_sub(&now_bytes, (long long)malloc_usable_size(memory));
}

void *malloc(size_t size) { return grew(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return grew(__libc_calloc(count, size)); }
void *memalign(size_t align, size_t size) { return grew(__libc_memalign(align, size)); }
void *aligned_alloc(size_t align, size_t size) { return memalign(align, size); }

int posix_memalign(void **out, size_t align, size_t size)
{
    *out = memalign(align, size);
    return *out ? 0 : ENOMEM;
}

void *realloc(void *old, size_t size)
{
    shrank(old);
    void *memory = __libc_realloc(old, size);
    return grew(memory ? memory : old) == memory ? memory : NULL;
}

void free(void *old)
{
    shrank(old);
    __libc_free(old);
}

static const size_t BUFFER = VFIOMIG_GOOD_BUFFER;

static uint64_t left, taken;

static int open_token(void *opaque, uint32_t state)
{
    (void)opaque;
    return (int)state;
}

static int64_t data_read(void *opaque, int fd, void *buf, size_t len)
{
    (void)opaque, (void)fd, (void)buf;
    uint64_t n = left < len ? left : len;
    left -= n;
    return (int64_t)n;
}

static int64_t data_write(void *opaque, int fd, const void *buf, size_t len)
{
    (void)opaque, (void)fd, (void)buf;
    taken += len;
    return (int64_t)len;
}

static int data_close(void *opaque, int fd)
{
    (void)opaque, (void)fd;
    return 0;
}

static struct vfiomig_device *new_device(struct bench_device *state)
{
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    ops.data_read = data_read;
    ops.data_write = data_write;
    ops.data_close = data_close;
    return bench_open(state, ops, open_token);
}

static double peak_of_ours(uint64_t size)
{
    struct bench_device from, to;
    long long before = atomic_load(&now_bytes);
    atomic_store(&peak_bytes, before);
    left = size;
    taken = 0;

    char *buf = malloc(BUFFER);
    memset(buf, 0, BUFFER);
    struct vfiomig_device *source = new_device(&from), *target = new_device(&to);
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    size_t len;
    int r;
    if (vfiomig_save_begin(source, NULL, &save) || vfiomig_load_begin(target, NULL, &load) ||
        vfiomig_save_stop(save))
        bench_die("begin");
    do {
        r = vfiomig_save_next(save, buf, BUFFER, &len);
        if (r < 0)
            bench_die("vfiomig_save_next");
        /* In two pieces, so that the loading side has to put every frame together. */
        size_t half = len / 2;
        if (vfiomig_load_push(load, buf, half) < 0 ||
            vfiomig_load_push(load, buf + half, len - half) < 0)
            bench_die("vfiomig_load_push");
    } while (r != VFIOMIG_NEXT_END);
    if (vfiomig_load_commit(load) || vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE))
        bench_die("commit");
    if (taken != size) {
        fprintf(stderr, "bench: %llu of %llu bytes arrived\n", (unsigned long long)taken,
                (unsigned long long)size);
        exit(1);
    }
    vfiomig_load_free(load);
    vfiomig_save_free(save);
    vfiomig_device_free(source);
    vfiomig_device_free(target);
    free(buf);
    return (double)(atomic_load(&peak_bytes) - before);
}

static double peak_of_bare(uint64_t size)
{
    long long before = atomic_load(&now_bytes);
    atomic_store(&peak_bytes, before);
    left = size;
    char *volatile buf = malloc(BUFFER);
    int64_t n;
    while ((n = data_read(NULL, 0, buf, BUFFER)) > 0)
        data_write(NULL, 0, buf, (size_t)n);
    free(buf);
    return (double)(atomic_load(&peak_bytes) - before);
}

int main(void)
{
    static const struct {
        const char *name;
        uint64_t size;
    } cases[] = {
        { "peak-heap/1MiB", 1ull << 20 },
        { "peak-heap/256MiB", 256ull << 20 },
        { "peak-heap/4GiB", 4ull << 30 },
    };
    double most = 0, least = 1e18;
    peak_of_ours(1 << 20); /* what is allocated once per process */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double ours = peak_of_ours(cases[i].size), bare = peak_of_bare(cases[i].size);
        bench_report(cases[i].name, "B", &ours, &bare, 1);
        most = ours > most ? ours : most;
        least = ours < least ? ours : least;
    }
    if (most > 4 << 20 || most - least > 4096) {
        fprintf(stderr, "bench: the peak must be the same at every size, and at most 4 MiB\n");
        return 1;
    }
    return 0;
}
