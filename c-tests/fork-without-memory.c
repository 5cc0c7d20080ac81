/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A process forks while one of its threads fills the library's reserve: the child does not have
 * that thread, and fills its own.
 */
#include <semaphore.h>
#include <sys/wait.h>
#include <unistd.h>

#include "failing-malloc.h"
#include "rig.h"

enum { MANY = 3000 };

static sem_t is_inside, may_go_on;
static int holds;

/* What is borrowed is more than a MiB. */
static void hold(size_t size)
{
    if (holds && size > 1 << 20) {
        holds = 0;
        sem_post(&is_inside);
        sem_wait(&may_go_on);
    }
}

static int made_by_thread;

/* A device that has no migration: its callback allocates nothing. */
static int no_feature(void *o, uint32_t flags, void *data, size_t len)
{
    (void)o;
    (void)flags;
    (void)data;
    (void)len;
    return -ENOTTY;
}

static int probe(struct vfiomig_device **dev)
{
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    ops.feature = no_feature;
    return LIB(vfiomig_device_new_ops(&ops, NULL, NULL, dev));
}

static void *refill(void *unused)
{
    struct vfiomig_device *dev = NULL;
    made_by_thread = probe(&dev);
    vfiomig_device_free(dev);
    return unused;
}

static void a_child_fills_its_own_reserve_up(void)
{
    static struct vfiomig_device *devs[MANY];
    pthread_t thread;
    int n = 0, status = -1;
    sem_init(&is_inside, 0, 0);
    sem_init(&may_go_on, 0, 0);
    /* Room for handles, which is never given back. */
    for (int i = 0; i < MANY; i++)
        OK(probe(&devs[i]));
    for (int i = 0; i < MANY; i++)
        vfiomig_device_free(devs[i]);
    memory_runs_out(1, (unsigned long)-1);
    while (n < MANY && probe(&devs[n]) == 0)
        n++;
    CHECK(n > 0 && n < MANY);
    memory_is_back();
    memory_hook = hold;
    holds = 1;
    CHECK(pthread_create(&thread, NULL, refill, NULL) == 0);
    sem_wait(&is_inside);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct vfiomig_device *dev = NULL;
        alarm(60);
        int r = probe(&dev);
        vfiomig_device_free(dev);
        _exit(r == 0 ? 0 : r == -ENOMEM ? 1 : 2);
    }
    sem_post(&may_go_on);
    EQ(waitpid(child, &status, 0), child);
    EQ(pthread_join(thread, NULL), 0);
    EQ(status, 0);
    EQ(made_by_thread, 0);
    for (int i = 0; i < n; i++)
        vfiomig_device_free(devs[i]);
}

int main(void)
{
    RUN(a_child_fills_its_own_reserve_up);
    return DONE();
}
