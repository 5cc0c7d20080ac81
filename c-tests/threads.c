/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Different handles are used by different threads at once; one handle is used by one thread at a
 * time, and a second thread is told so instead of breaking something.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "rig.h"

enum { THREADS = 6 };

struct mover {
    pthread_t thread;
    int number, rounds;
    char why[256]; /* checks end a test on its own thread only */
};

#define MUST(condition)                                                              \
    do {                                                                             \
        if (!(condition)) {                                                          \
            snprintf(m->why, sizeof m->why, "line %d: %s: %s", __LINE__, #condition, \
                     vfiomig_error_message());                                       \
            return NULL;                                                             \
        }                                                                            \
    } while (0)

/* Migrates back and forth between two devices of its own. */
static void *mover(void *opaque)
{
    struct mover *m = opaque;
    static _Thread_local uint8_t buf[20000];
    struct vfiomig_sim *sims[2];
    struct vfiomig_device *devs[2];
    for (int i = 0; i < 2; i++) {
        struct vfiomig_sim_options o = rig_options();
        o.seed = (uint64_t)(m->number * 2 + i + 1);
        MUST(vfiomig_sim_new(&o, &sims[i]) == 0);
        MUST(vfiomig_device_new_ops(vfiomig_sim_ops(sims[i]), sims[i], NULL, &devs[i]) == 0);
    }
    uint64_t digest = vfiomig_sim_digest(sims[0]);
    for (int round = 0; round < m->rounds; round++) {
        int from = round % 2, to = 1 - from, r, end = 0;
        struct vfiomig_save *save;
        struct vfiomig_load *load;
        MUST(vfiomig_save_begin(devs[from], NULL, &save) == 0);
        MUST(vfiomig_load_begin(devs[to], NULL, &load) == 0);
        do {
            size_t len;
            r = vfiomig_save_next(save, buf, sizeof buf, &len);
            MUST(r >= 0);
            if (len > 0) {
                end = vfiomig_load_push(load, buf, len);
                MUST(end >= 0);
            }
            if (r == VFIOMIG_NEXT_DRAINED)
                MUST(vfiomig_save_stop(save) == 0);
        } while (r != VFIOMIG_NEXT_END);
        MUST(end & VFIOMIG_PUSH_END);
        MUST(vfiomig_load_commit(load) == 0);
        MUST(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE) == 0);
        MUST(vfiomig_device_run(devs[to]) == 0);
        MUST(vfiomig_sim_digest(sims[to]) == digest);
        vfiomig_save_free(save);
        vfiomig_load_free(load);
    }
    for (int i = 0; i < 2; i++) {
        vfiomig_device_free(devs[i]);
        MUST(vfiomig_sim_violations(sims[i], NULL) == 0);
        vfiomig_sim_free(sims[i]);
    }
    return NULL;
}

static void different_handles_in_parallel(void)
{
    static struct mover movers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        movers[i] = (struct mover){ .number = i, .rounds = getenv("VFIOMIG_TEST_SLOW") ? 2 : 10 };
        EQ(pthread_create(&movers[i].thread, NULL, mover, &movers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(movers[i].thread, NULL);
    for (int i = 0; i < THREADS; i++)
        if (movers[i].why[0])
            FAIL("thread %d: %s", i, movers[i].why);
}

struct slow {
    struct vfiomig_save *save;
    atomic_int inside, result;
};

/* One long call: the device gives 400 KiB per second. */
static void *slow_reader(void *opaque)
{
    struct slow *slow = opaque;
    static uint8_t buf[1 << 18];
    size_t len;
    int r;
    atomic_store(&slow->inside, 1);
    do
        r = vfiomig_save_next(slow->save, buf, sizeof buf, &len);
    while (r == VFIOMIG_NEXT_MORE || r == -EBUSY); /* the test comes in between now and then */
    atomic_store(&slow->result, r);
    return NULL;
}

static void a_second_thread_is_told_that_the_handle_is_busy(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct slow slow = { .result = 1 };
    struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
    static uint8_t buf[8192];
    pthread_t thread;
    size_t len;
    int busy = 0;
    o.state_size = o.initial_size = 64 << 20; /* nobody reads it to its end */
    o.read_rate = 400 << 10;
    o.max_read = 4096;
    struct rig rig = rig_new(&o, NULL);
    OK(vfiomig_save_begin(rig.dev, NULL, &slow.save));
    EQ(pthread_create(&thread, NULL, slow_reader, &slow), 0);
    while (!atomic_load(&slow.inside))
        ;
    for (int i = 0; i < 200 && busy < 5; i++) {
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
        int r = vfiomig_save_next(slow.save, buf, sizeof buf, &len);
        CHECK(r == -EBUSY || r >= 0);
        busy += r == -EBUSY;
        /* What is documented as concurrent works all the time. */
        OK(vfiomig_save_get_stats(slow.save, &stats));
    }
    EQ(busy, 5);
    CHECK(stats.data_bytes < o.state_size);
    OK(vfiomig_save_cancel(slow.save));
    pthread_join(thread, NULL);
    EQ(atomic_load(&slow.result), -ECANCELED);
    vfiomig_save_free(slow.save);
    rig_free(&rig);
}

static void freeing_waits_for_the_call_of_another_thread(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct slow slow = { .result = 1 };
    pthread_t thread;
    o.state_size = o.initial_size = 64 << 20; /* nobody reads it to its end */
    o.read_rate = 400 << 10;
    struct rig rig = rig_new(&o, NULL);
    OK(vfiomig_save_begin(rig.dev, NULL, &slow.save));
    EQ(pthread_create(&thread, NULL, slow_reader, &slow), 0);
    while (!atomic_load(&slow.inside))
        ;
    nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    vfiomig_save_free(slow.save);
    pthread_join(thread, NULL);
    /* Its next call found the handle gone. */
    EQ(atomic_load(&slow.result), -EBADF);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    rig_free(&rig);
}

static void *fails(void *opaque)
{
    int r = vfiomig_device_reset(NULL);
    *(int *)opaque = r == -EFAULT && strstr(vfiomig_error_message(), "vfiomig_device_reset");
    return NULL;
}

static void the_error_text_is_the_threads_own(void)
{
    pthread_t thread;
    int good = 0;
    EQ(vfiomig_device_run(NULL), -EFAULT);
    EQ(pthread_create(&thread, NULL, fails, &good), 0);
    pthread_join(thread, NULL);
    EQ(good, 1);
    HAS(vfiomig_error_message(), "vfiomig_device_run");
}

int main(void)
{
    RUN(different_handles_in_parallel);
    RUN(a_second_thread_is_told_that_the_handle_is_busy);
    RUN(freeing_waits_for_the_call_of_another_thread);
    RUN(the_error_text_is_the_threads_own);
    return DONE();
}
