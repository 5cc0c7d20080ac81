/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "guest.h"

#include <time.h>

#include "demo.h"
#include "device.h"

#define PERIOD_NS 2000000 /* between two bursts of writes */
#define CHUNK 65536u

static void *vcpu(void *opaque)
{
    struct guest *g = opaque;
    uint64_t written = 0, since = 0, seed = 1000;
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
            written = 0;
        }
        /* Scattered, as a guest's writes are. */
        uint64_t due = (uint64_t)((double)(now - since) / 1e9 * (double)g->dirty_rate);
        uint64_t chunk = g->state_size < CHUNK ? g->state_size : CHUNK, chunks = g->state_size / chunk;
        while (written + chunk <= due) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            device_guest_write(g->device, (seed >> 16) % chunks * chunk, chunk, seed);
            written += chunk;
        }
        nanosleep(&(struct timespec){ .tv_nsec = PERIOD_NS }, NULL);

        pthread_mutex_lock(&g->lock);
    }
    g->running = false;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

int guest_create(struct guest *g, struct device *device, uint64_t state_size, uint64_t dirty_rate)
{
    *g = (struct guest){ .device = device, .state_size = state_size, .dirty_rate = dirty_rate };
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
