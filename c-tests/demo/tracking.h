/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Which pages of the guest's memory must be sent: those that the vCPUs wrote to, by the VMM's own
 * log, and those that the devices wrote to, by vfiomig_dirty_*.
 */
#ifndef TRACKING_H
#define TRACKING_H

#include <stdbool.h>
#include <stdint.h>

#include "demo.h"

struct device;
struct memory;

struct tracking {
    struct memory *memory;
    struct vfiomig_dirty *mig; /* NULL: nothing is tracked */
    uint32_t num_writers;      /* the devices', by number */
    uint32_t writers[MAX_DEVICES];
    uint64_t *dirty;           /* pages to send: filled by collecting, emptied by sending */
    int refuse;                /* an errno: what the library reports finds no room here */
    bool unwatched;            /* the last reading found what is always dirty */
    uint64_t errors_shown;
    struct vfiomig_dirty_stats stats;    /* as of the last reading */
    struct vfiomig_dirty_writer_stats devices[MAX_DEVICES];
};

/* Everything is to be sent, and from now on everything that changes again. Returns 0, or -errno
 * with the library's message. */
int tracking_start(struct tracking *tracking, struct memory *memory, struct device *devices,
                   uint32_t num_devices);
/* Adds what was written to since the last time. -errno with the library's message: pages may be
 * missing. without_devices: leave out what the devices wrote to, which is wrong, and which the
 * program's tests must notice. */
int tracking_collect(struct tracking *tracking, bool without_devices);
/* Bytes that are to be sent, as far as they were collected. */
uint64_t tracking_left(const struct tracking *tracking);
/* Takes out the next run of at most max bytes: returns its length, 0 if there is none. */
uint64_t tracking_take(struct tracking *tracking, uint64_t max, uint64_t *offset);
/* May be called twice, and after a start that failed. */
void tracking_stop(struct tracking *tracking);

#endif
