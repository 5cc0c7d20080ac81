/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The library as a plug-in: opened, used from several threads, and closed again, a hundred times.
 * It must really be gone each time, and leave nothing behind. This program is not linked with it.
 */
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <unistd.h>

#include "check.h"
#include "idle.h"

#define SONAME "libvfiomig.so.0"
#define LOOPS (getenv("VFIOMIG_TEST_SLOW") ? 20 : 100)

static int (*new_ops)(const struct vfiomig_device_ops *, void *, const struct vfiomig_device_options *,
                      struct vfiomig_device **);
static void (*device_free)(struct vfiomig_device *);
static const char *(*error_message)(void);
static int (*device_reset)(struct vfiomig_device *);
static int (*dirty_new)(const struct vfiomig_memory_ops *, void *,
                        const struct vfiomig_dirty_options *, struct vfiomig_dirty **);
static void (*dirty_free)(struct vfiomig_dirty *);
static int (*dirty_map)(struct vfiomig_dirty *, const struct vfiomig_mapping *);
static int (*dirty_start)(struct vfiomig_dirty *);
static int (*dirty_sync)(struct vfiomig_dirty *, uint64_t, uint64_t, uint64_t, uint64_t *, size_t);
static int (*log_set)(vfiomig_log_fn, void *, vfiomig_release_fn, uint32_t);

static void log_sink(void *opaque, uint32_t level, const char *target, const char *message)
{
    (void)level;
    (void)target;
    (void)message;
    ++*(int *)opaque;
}

/* Dirty tracking, with the bitmaps that it needs. */
static int track(void)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
    struct vfiomig_dirty *dirty;
    uint64_t bits[4] = { 0 };
    mapping.size = 1 << 20;
    if (dirty_new(&ops, NULL, NULL, &dirty) != 0)
        return 0;
    int good = dirty_map(dirty, &mapping) == 0 && dirty_start(dirty) == 0 &&
               dirty_sync(dirty, 0, 1 << 20, 4096, bits, 4) == 0;
    dirty_free(dirty);
    return good;
}

static void *use(void *opaque)
{
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    struct vfiomig_device *dev;
    int *good = opaque;
    ops.feature = idle_feature;
    if (new_ops(&ops, NULL, NULL, &dev) != 0)
        return NULL;
    if (device_reset(NULL) != -EFAULT || !strstr(error_message(), "vfiomig_device_reset"))
        return NULL;
    device_free(dev);
    *good = track();
    return NULL;
}

static void *find(void *library, const char *name)
{
    void *symbol = dlsym(library, name);
    if (!symbol)
        FAIL("%s", dlerror());
    return symbol;
}

/* Where the programs next to this one find it; sanitizers get in the way of run paths. */
static const char *library_path(void)
{
    static char path[4096];
    ssize_t len = readlink("/proc/self/exe", path, sizeof path - 64);
    CHECK(len > 0);
    path[len] = 0;
    *strrchr(path, '/') = 0;
    strcat(path, "/../../" SONAME);
    return path;
}

static int maps(void)
{
    FILE *f = fopen("/proc/self/maps", "r");
    int lines = 0;
    CHECK(f);
    for (int c; (c = getc(f)) != EOF;)
        lines += c == '\n';
    fclose(f);
    return lines;
}

static void once(void)
{
    void *library = dlopen(library_path(), RTLD_NOW | RTLD_LOCAL);
    pthread_t thread;
    int here = 0, there = 0, messages = 0;
    if (!library)
        FAIL("%s", dlerror());
    /* ISO C has no conversion between pointers to objects and to functions. */
    *(void **)&new_ops = find(library, "vfiomig_device_new_ops");
    *(void **)&device_free = find(library, "vfiomig_device_free");
    *(void **)&device_reset = find(library, "vfiomig_device_reset");
    *(void **)&error_message = find(library, "vfiomig_error_message");
    *(void **)&dirty_new = find(library, "vfiomig_dirty_new");
    *(void **)&dirty_free = find(library, "vfiomig_dirty_free");
    *(void **)&dirty_map = find(library, "vfiomig_dirty_map");
    *(void **)&dirty_start = find(library, "vfiomig_dirty_start");
    *(void **)&dirty_sync = find(library, "vfiomig_dirty_sync");
    *(void **)&log_set = find(library, "vfiomig_log_set");
    CHECK(log_set(log_sink, &messages, NULL, VFIOMIG_LOG_TRACE) == 0);
    use(&here);
    CHECK(pthread_create(&thread, NULL, use, &there) == 0);
    pthread_join(thread, NULL);
    CHECK(here == 1 && there == 1);
    CHECK(messages > 0);
    CHECK(log_set(NULL, NULL, NULL, VFIOMIG_LOG_OFF) == 0);
    CHECK(dlclose(library) == 0);
    if (dlopen(library_path(), RTLD_NOW | RTLD_NOLOAD))
        FAIL("the library is still there after dlclose()");
}

static void a_hundred_times_and_nothing_grows(void)
{
    for (int i = 0; i < 5; i++)
        once();
    int maps_before = maps();
    size_t heap_before = mallinfo2().uordblks;
    for (int i = 0; i < LOOPS; i++)
        once();
    size_t heap = mallinfo2().uordblks;
    /* Valgrind, which is what makes this slow, has mappings of its own. */
    CHECK(getenv("VFIOMIG_TEST_SLOW") || maps() <= maps_before + 2);
    if (heap > heap_before + 4096)
        FAIL("%d rounds leave %zu bytes of heap behind", LOOPS, heap - heap_before);
}

int main(void)
{
    RUN(a_hundred_times_and_nothing_grows);
    return DONE();
}
