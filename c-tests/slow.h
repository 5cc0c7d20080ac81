/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Sessions that take a minute if nobody ends them, and how another thread sees that the driver has
 * begun.
 */
#ifndef SLOW_H
#define SLOW_H

#include <time.h>

#include "rig.h"

/* A device that is read slowly. */
static inline struct vfiomig_sim_options slow_to_read(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.state_size = 64 << 20;
    o.initial_size = 64 << 20;
    o.read_rate = 1 << 20;
    return o;
}

/* One that takes so little at a time that one push lasts as long. */
static inline struct vfiomig_sim_options slow_to_write(struct vfiomig_sim_options o)
{
    o.max_write = 64;
    o.write_rate = 65536;
    return o;
}

static inline void nap(long ms)
{
    nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
}

static inline void until_saving(struct vfiomig_save *save)
{
    struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
    do
        nap(2);
    while (vfiomig_save_get_stats(save, &stats) == 0 && stats.data_bytes == 0);
}

static inline void until_loading(struct vfiomig_load *load)
{
    struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
    do
        nap(2);
    while (vfiomig_load_get_stats(load, &stats) == 0 && stats.data_bytes == 0);
}

#endif
