/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What docs/abi.md says about stacks: threads that have 64 KiB may call anything. */
#include "track.h"

#include <pthread.h>
#include <unistd.h>

enum { STACK = 64 << 10, PAGES = 256 };

static struct rig source, target;
static int result;
static uint8_t stream[1 << 20], buffer[VFIOMIG_QEMU_BUFFER];

/* Calls only: checks are for the thread that has a large stack. */
#define TRY(call)               \
    do {                        \
        if ((result = (call)) < 0) \
            return NULL;        \
    } while (0)

static void *migrate(void *unused)
{
    struct vfiomig_save_options so = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_load_options lo = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    size_t len = 0;
    int r;
    TRY(vfiomig_save_begin(source.dev, &so, &save));
    do {
        size_t n = 0;
        TRY(r = vfiomig_save_next(save, buffer, sizeof buffer, &n));
        if (len + n > sizeof stream) {
            result = -E2BIG;
            return NULL;
        }
        memcpy(stream + len, buffer, n);
        len += n;
        if (r == VFIOMIG_NEXT_DRAINED)
            TRY(vfiomig_save_stop(save));
    } while (r != VFIOMIG_NEXT_END);
    TRY(vfiomig_load_begin(target.dev, &lo, &load));
    TRY(vfiomig_load_push(load, stream, len));
    TRY(vfiomig_load_commit(load));
    TRY(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
    TRY(vfiomig_device_run(target.dev));
    vfiomig_save_free(save);
    vfiomig_load_free(load);
    return unused;
}

static struct tracker tracker;
static struct memory memory;

static void *track(void *unused)
{
    struct vfiomig_memory_ops ops = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_dirty_options o = VFIOMIG_DIRTY_OPTIONS_INIT;
    struct vfiomig_dirty *dirty;
    uint64_t bitmap[PAGES / 64] = { 0 };
    uint32_t number;
    ops.set_dirty = give_;
    ops.release = memory_release_;
    o.page_size = PAGE;
    TRY(vfiomig_dirty_new(&ops, &memory, &o, &dirty));
    TRY(try_add_writer(dirty, &tracker, NULL, 0, &number));
    TRY(try_map(dirty, 0, PAGES * PAGE, 1, 0, 0));
    TRY(try_map(dirty, 1000 * PAGE, PAGES * PAGE, 1, 1000 * PAGE, 0));
    TRY(vfiomig_dirty_start(dirty));
    touch(&tracker, 0, 20 * PAGE);
    TRY(vfiomig_dirty_sync(dirty, 0, PAGES * PAGE, PAGE, bitmap, PAGES / 64));
    touch(&tracker, 0, 20 * PAGE);
    memory.refuse = EAGAIN;
    memory.refused = (struct given){ 1, 3 * PAGE };
    TRY(vfiomig_dirty_unmap(dirty, 0, PAGES * PAGE, 0, NULL, 0, unmapped_, NULL));
    memory.refuse = 0;
    TRY(vfiomig_dirty_collect(dirty));
    vfiomig_dirty_free(dirty);
    return unused;
}

static void on_a_small_stack(void *(*what)(void *), void *opaque)
{
    pthread_attr_t attr;
    pthread_t thread;
    EQ(pthread_attr_init(&attr), 0);
    /* A system may not give as little: glibc on arm64 wants 128 KiB. */
    long least = sysconf(_SC_THREAD_STACK_MIN);
    EQ(pthread_attr_setstacksize(&attr, least > STACK ? (size_t)least : STACK), 0);
    result = -1;
    EQ(pthread_create(&thread, &attr, what, opaque), 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attr);
    if (result < 0)
        FAIL("a call is %d", result);
}

static void a_small_stack_is_enough_to_migrate(void)
{
    source = rig_new(NULL, NULL);
    target = rig_target(NULL);
    on_a_small_stack(migrate, NULL);
    rig_free(&source);
    rig_free(&target);
}

static void a_small_stack_is_enough_to_track(void)
{
    tracker = tracker_new(0, PAGE, PAGES);
    memory = memory_new(PAGE);
    on_a_small_stack(track, NULL);
    CHECK(times_given(&memory, 1, 3 * PAGE) > 0);
    EQ(memory.released, 1);
    tracker_free(&tracker);
}

int main(void)
{
    RUN(a_small_stack_is_enough_to_migrate);
    RUN(a_small_stack_is_enough_to_track);
    return DONE();
}
