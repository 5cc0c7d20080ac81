/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "guest.h"

#include <time.h>

#include "demo.h"
#include "device.h"
#include "memory.h"

#define PERIOD_NS 2000000 /* between two bursts of writes */
#define CHUNK 65536u
#define MAX_LATE_NS 50000000 /* what is late by more than that is not made up for */

/* How much is to be written, at most, after this many nanoseconds. A thread that tried to catch
 * up on a machine that cannot keep up would be later each time, and would stop only when it had
 * caught up. */
static uint64_t due_after(uint64_t ns, uint64_t rate, uint64_t *written, uint64_t unit)
{
    uint64_t due = (uint64_t)((double)ns / 1e9 * (double)rate);
    uint64_t most = (uint64_t)(MAX_LATE_NS / 1e9 * (double)rate);
    if (most < unit)
        most = unit;
    if (due - *written > most)
        *written = due - most;
    return due;
}

/* What is due after this many nanoseconds; scattered, like a guest's writes. */
static void write_to_devices(struct guest *g, uint64_t ns, uint64_t *written, uint64_t *seed)
{
    uint64_t size = g->options->state_size, chunk = size < CHUNK ? size : CHUNK;
    uint64_t due = due_after(ns, g->options->dirty_rate, written, chunk);
    for (; *written + chunk <= due; *written += chunk) {
        uint64_t at = random_next(seed) % (size / chunk) * chunk;
        device_guest_write(&g->devices[random_next(seed) % g->options->devices], at, chunk, *seed);
    }
}

static void write_to_memory(struct guest *g, uint64_t ns, uint64_t *written, uint64_t *seed)
{
    if (g->memory->size == 0)
        return;
    uint64_t page = g->memory->page_size;
    uint64_t due = due_after(ns, g->options->memory_rate, written, page);
    for (; *written + page <= due; *written += page) {
        uint64_t at = random_next(seed) % g->memory->pages * page;
        memory_vcpu_write(g->memory, at, page, *seed);
    }
}

static void *vcpu(void *opaque)
{
    struct guest *g = opaque;
    uint64_t to_devices = 0, to_memory = 0, since = 0, seed = 1000;
    pthread_mutex_lock(&g->lock);
    while (!g->leave) {
        if (!g->wanted) {
            g->running = false;
            pthread_cond_broadcast(&g->changed);
            pthread_cond_wait(&g->changed, &g->lock);
            since = 0;
            continue;
        }
        if (!g->running) {
            g->running = true;
            pthread_cond_broadcast(&g->changed);
        }
        pthread_mutex_unlock(&g->lock);

        uint64_t now = now_ns();
        if (since == 0) {
            since = now;
            to_devices = to_memory = 0;
        }
        write_to_devices(g, now - since, &to_devices, &seed);
        write_to_memory(g, now - since, &to_memory, &seed);
        nanosleep(&(struct timespec){ .tv_nsec = PERIOD_NS }, NULL);

        pthread_mutex_lock(&g->lock);
    }
    g->running = false;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

int guest_create(struct guest *g, struct device *devices, struct memory *memory,
                 const struct options *options)
{
    *g = (struct guest){ .devices = devices, .memory = memory, .options = options };
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->changed, NULL);
    return -pthread_create(&g->thread, NULL, vcpu, g);
}

static void want(struct guest *g, bool running)
{
    pthread_mutex_lock(&g->lock);
    g->wanted = running;
    pthread_cond_broadcast(&g->changed);
    while (g->running != running)
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

void guest_run(struct guest *g)
{
    want(g, true);
}

void guest_stop(struct guest *g)
{
    want(g, false);
}

void guest_destroy(struct guest *g)
{
    pthread_mutex_lock(&g->lock);
    g->leave = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
    pthread_join(g->thread, NULL);
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
}
