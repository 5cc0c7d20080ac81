/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the benchmarks share: a clock, medians, the line format of `make bench`. */
#ifndef BENCH_H
#define BENCH_H

#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <vfiomig.h>

static inline double bench_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static inline void bench_die(const char *what)
{
    fprintf(stderr, "bench: %s: %s (%s)\n", what, vfiomig_error_message(), strerror(errno));
    exit(1);
}

/* Other work on the machine would count in one run and not in the next: take priority over all
 * of it, if that is permitted (root, CAP_SYS_NICE). Children inherit it. */
static inline void bench_before_others(void)
{
    struct sched_param param = { .sched_priority = 1 };
    if (sched_setscheduler(0, SCHED_FIFO, &param))
        fprintf(stderr, "bench: no real-time priority: what else runs here counts\n");
}

static inline int bench_by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double bench_median(const double *values, int n)
{
    double sorted[64];
    memcpy(sorted, values, sizeof(double) * (size_t)n);
    qsort(sorted, (size_t)n, sizeof(double), bench_by_value);
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

/* One line per measure. Each pair of runs gives a ratio; the line has the median ratio, the
 * medians of both sides, and the extremes of the ratio. */
static inline void bench_report(const char *name, const char *unit, const double *ours,
                                const double *baseline, int n)
{
    double ratio[64];
    for (int i = 0; i < n; i++)
        ratio[i] = ours[i] / baseline[i];
    double low = ratio[0], high = ratio[0];
    for (int i = 1; i < n; i++) {
        low = ratio[i] < low ? ratio[i] : low;
        high = ratio[i] > high ? ratio[i] : high;
    }
    printf("bench %s ours=%.6g%s baseline=%.6g%s ratio=%.3f (min %.3f max %.3f)\n", name,
           bench_median(ours, n), unit, bench_median(baseline, n), unit, bench_median(ratio, n),
           low, high);
    fflush(stdout);
}

/* The device's side of the ops table that all benchmarks use: flags, state, and a data fd from
 * `open_data`; everything else is the benchmark's. */
struct bench_device {
    uint32_t state;
    int (*open_data)(void *opaque, uint32_t state);
    void *opaque;
};

static inline int bench_feature(void *opaque, uint32_t flags, void *data, size_t len)
{
    struct bench_device *device = opaque;
    struct { uint32_t state; int32_t fd; } request;
    uint64_t migration_flags = 1; /* STOP_COPY */

    switch (flags) {
    case 1u | 1u << 16: /* MIGRATION, GET */
        memcpy(data, &migration_flags, len);
        return 0;
    case 2u | 1u << 16: /* MIG_DEVICE_STATE, GET */
        request.state = device->state;
        request.fd = -1;
        memcpy(data, &request, len);
        return 0;
    case 2u | 1u << 17: /* MIG_DEVICE_STATE, SET */
        memcpy(&request, data, len);
        device->state = request.state;
        request.fd = -1;
        if (request.state == VFIOMIG_STATE_STOP_COPY || request.state == VFIOMIG_STATE_RESUMING)
            request.fd = device->open_data(device->opaque, request.state);
        memcpy(data, &request, len);
        return 0;
    default:
        return -ENOTTY;
    }
}

static inline int bench_reset(void *opaque)
{
    struct bench_device *device = opaque;
    device->state = VFIOMIG_STATE_RUNNING;
    return 0;
}

/* With the callbacks for data that the benchmark has put into the table. */
static inline struct vfiomig_device *bench_open(struct bench_device *state,
                                                struct vfiomig_device_ops ops,
                                                int (*open_data)(void *opaque, uint32_t state))
{
    struct vfiomig_device *device;
    *state = (struct bench_device){ VFIOMIG_STATE_RUNNING, open_data, NULL };
    if (!ops.feature)
        ops.feature = bench_feature;
    ops.reset = bench_reset;
    if (vfiomig_device_new_ops(&ops, state, NULL, &device))
        bench_die("vfiomig_device_new_ops");
    return device;
}

#endif
