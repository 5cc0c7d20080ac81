/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Stands in for the guest's vCPUs: a thread that keeps the devices and the memory busy. */
#ifndef GUEST_H
#define GUEST_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct device;
struct memory;
struct options;

struct guest {
    struct device *devices;
    struct memory *memory;
    const struct options *options;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool wanted, running, leave;
};

/* The vCPUs exist, and are stopped. */
int guest_create(struct guest *guest, struct device *devices, struct memory *memory,
                 const struct options *options);
void guest_run(struct guest *guest);
/* Returns when the vCPUs no longer do anything. */
void guest_stop(struct guest *guest);
void guest_destroy(struct guest *guest);

#endif
