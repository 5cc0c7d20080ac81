/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Eight threads on one load with packets. Some bring packets, one writes them, some read
 * statistics, and one ends it all at any moment: not at all, by a cancellation, or by freeing the
 * handle while the others use it. Made for the thread sanitizer (make check-tsan), but valid
 * without it.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "packets.h"

enum { THREADS = 8, BRINGERS = 4 };
enum way { TO_ITS_END, CANCELLED, FREED, WAYS };

static struct vfiomig_sim_options small(uint64_t seed)
{
    struct vfiomig_sim_options o = rig_options();
    o.seed = seed;
    o.state_size = 30000;
    o.migration_flags = 3; /* no pre-copy: all of it comes in packets */
    return o;
}

/* The packets of a device, the configuration last; and the digest of what they contain. */
static uint64_t make_packets(void)
{
    struct vfiomig_sim_options o = small(1);
    struct rig rig = rig_new(&o, NULL);
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    struct vfiomig_save *save;
    static uint8_t buf[8192];
    uint64_t digest = vfiomig_sim_digest(rig.sim);
    size_t len;
    options.format = VFIOMIG_FORMAT_QEMU;
    options.flags = VFIOMIG_SAVE_PACKETS;
    options.max_frame = 300;
    OK(vfiomig_save_begin(rig.dev, &options, &save));
    OK(vfiomig_save_stop(save));
    OK(vfiomig_save_next(save, buf, sizeof buf, &len)); /* the section of save_setup */
    take_packets(save, "vmstate", 7);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    rig_free(&rig);
    CHECK(num_packets > 50);
    return digest;
}

struct round {
    struct vfiomig_load *load;
    struct vfiomig_device *dev;
    enum way way;
    unsigned delay_us;
    atomic_int stop, released, odd;
    pthread_barrier_t begin;
};

struct worker {
    struct round *round;
    int number, result;
    pthread_t thread;
};

/* What a call may return, depending on how the round ends. */
static void judge(struct round *round, int r)
{
    int fine = r >= 0;
    if (round->way == CANCELLED)
        fine |= r == -ECANCELED;
    if (round->way == FREED)
        fine |= r == -ECANCELED || r == -EBADF;
    if (!fine)
        atomic_store(&round->odd, r);
}

static void *bring(void *opaque)
{
    struct worker *w = opaque;
    pthread_barrier_wait(&w->round->begin);
    for (int i = w->number; i < num_packets && w->result >= 0; i += BRINGERS)
        w->result = vfiomig_load_push_packet(w->round->load, packets[i].data, packets[i].len);
    judge(w->round, w->result);
    return NULL;
}

static void *run(void *opaque)
{
    struct worker *w = opaque;
    pthread_barrier_wait(&w->round->begin);
    w->result = vfiomig_load_write_packets(w->round->load);
    judge(w->round, w->result);
    return NULL;
}

static void *look(void *opaque)
{
    struct worker *w = opaque;
    struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
    uint64_t before = 0;
    pthread_barrier_wait(&w->round->begin);
    while (!atomic_load(&w->round->stop)) {
        int r = vfiomig_load_get_stats(w->round->load, &stats);
        judge(w->round, r);
        if (r == 0 && stats.packets < before)
            atomic_store(&w->round->odd, 1);
        before = stats.packets;
    }
    return NULL;
}

/* Handles of the same device and of others come and go in the meantime. */
static void *look_at_devices(void *opaque)
{
    struct worker *w = opaque;
    pthread_barrier_wait(&w->round->begin);
    while (!atomic_load(&w->round->stop)) {
        struct vfiomig_sim_options o = small(9);
        struct vfiomig_sim *sim;
        struct vfiomig_device *other;
        struct vfiomig_load *second;
        uint32_t fixups;
        int r = vfiomig_device_get_fixups(w->round->dev, &fixups);
        if (r != 0)
            atomic_store(&w->round->odd, r);
        /* The device is busy with its load, unless that is over. */
        r = vfiomig_load_begin(w->round->dev, NULL, &second);
        if (r == 0)
            vfiomig_load_free(second);
        else if (r != -EBUSY)
            atomic_store(&w->round->odd, r);
        if (vfiomig_sim_new(&o, &sim) != 0)
            continue;
        if (vfiomig_device_new_ops(vfiomig_sim_ops(sim), sim, NULL, &other) == 0)
            vfiomig_device_free(other);
        vfiomig_sim_free(sim);
    }
    return NULL;
}

static void *end(void *opaque)
{
    struct worker *w = opaque;
    struct round *round = w->round;
    pthread_barrier_wait(&round->begin);
    nanosleep(&(struct timespec){ .tv_nsec = (long)round->delay_us * 1000 }, NULL);
    if (round->way == CANCELLED)
        judge(round, vfiomig_load_cancel(round->load));
    if (round->way == FREED)
        vfiomig_load_free(round->load);
    return NULL;
}

static int take_config(void *opaque, uint32_t kind, const void *data, size_t len)
{
    (void)opaque;
    return kind == 0 && len == 7 && memcmp(data, "vmstate", 7) == 0 ? 0 : -EINVAL;
}

static void release(void *opaque)
{
    atomic_fetch_add((atomic_int *)opaque, 1);
}

static void one_round(enum way way, unsigned delay_us, uint64_t digest)
{
    static const uint8_t setup[] = { 255, 255, 255, 255, 0xef, 0x10, 0, 3,
                                     255, 255, 255, 255, 0xef, 0x10, 0, 1 };
    void *(*const what[THREADS])(void *) = { bring, bring, bring, bring,
                                             run,   look,  end,   look_at_devices };
    struct vfiomig_sim_options o = small(2);
    struct rig rig = rig_new(&o, NULL);
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct round round = { .dev = rig.dev, .way = way, .delay_us = delay_us };
    struct worker workers[THREADS];
    options.format = VFIOMIG_FORMAT_QEMU;
    options.flags = VFIOMIG_LOAD_PACKETS;
    options.max_queued = 4000; /* someone always waits for room */
    options.blob = take_config;
    options.blob_opaque = &round.released;
    options.blob_release = release;
    OK(vfiomig_load_begin(rig.dev, &options, &round.load));
    CHECK(vfiomig_load_push(round.load, setup, sizeof setup) & VFIOMIG_PUSH_SECTION_END);
    EQ(pthread_barrier_init(&round.begin, NULL, THREADS), 0);
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){ .round = &round, .number = i };
        EQ(pthread_create(&workers[i].thread, NULL, what[i], &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        /* Those that only look do so until the others have ended. */
        if (i == BRINGERS + 1)
            pthread_join(workers[BRINGERS + 2].thread, NULL), atomic_store(&round.stop, 1);
        if (i != BRINGERS + 2)
            pthread_join(workers[i].thread, NULL);
    }
    if (round.odd)
        FAIL("a call returned %d in way %d", round.odd, way);
    int complete = workers[BRINGERS].result == 0;
    CHECK(complete || way != TO_ITS_END);
    if (way == TO_ITS_END) {
        OK(vfiomig_load_commit(round.load));
        EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_STOP);
        CHECK(vfiomig_sim_digest(rig.sim) == digest);
    }
    if (way != FREED)
        vfiomig_load_free(round.load);
    if (way != TO_ITS_END)
        EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    EQ(round.released, 1);
    pthread_barrier_destroy(&round.begin);
    rig_free(&rig);
}

static void a_load_that_eight_threads_use_ends_well_in_any_way(void)
{
    uint64_t digest = make_packets();
    int rounds = getenv("VFIOMIG_TEST_SLOW") ? 12 : 60;
    for (int i = 0; i < rounds; i++)
        one_round((enum way)(i % WAYS), (unsigned)(i * 37) % 2000, digest);
    packets_free();
}

int main(void)
{
    RUN(a_load_that_eight_threads_use_ends_well_in_any_way);
    return DONE();
}
