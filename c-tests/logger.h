/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A device that can do nothing but log what it writes, with limits and habits that the simulator
 * does not have. With everything zero, it logs all that it is asked to.
 */
#ifndef LOGGER_H
#define LOGGER_H

#include "kernel-structs.h"
#include "rig.h"

#define GET (1u << 16)
#define SET (1u << 17)
#define PROBE (1u << 18)

struct logger {
    uint64_t page_size;       /* that it claims to log in; 0: what was asked for */
    uint64_t most_bytes;      /* -EOPNOTSUPP for more in all, as mlx5 */
    uint64_t end;             /* -EINVAL for a range that reaches here */
    uint64_t bad[2];          /* -EPERM for a range with one of these */
    uint32_t most_ranges;     /* -E2BIG */
    int left_on;              /* by an earlier owner: -EEXIST for a start until it is stopped */
    int fail_start, fail_report;   /* errnos */
    int fail_starts, fail_reports; /* this many times; -1: forever */
    int whole;                /* -ENOTSUP for a report that does not begin at `base` */
    int exactly;              /* and for one that is not of all of it */
    uint64_t base, length;
    uint32_t state;
    int logging, starts, stops, reports;
    uint32_t num;             /* ranges of the last start that succeeded */
    uint64_t ranges[256][2];
    uint64_t dirty[8];        /* addresses */
    int num_dirty;
};

static inline int logger_start_(struct logger *d, void *data)
{
    struct log_control control;
    uint64_t bytes = 0;
    memcpy(&control, data, sizeof control);
    uint32_t num = control.num_ranges;
    const uint64_t(*ranges)[2] = (const uint64_t(*)[2])(uintptr_t)control.ranges;
    d->starts++;
    if (d->left_on)
        return -EEXIST;
    if (d->logging)
        return -EINVAL;
    if (d->fail_starts != 0) {
        d->fail_starts -= d->fail_starts > 0;
        return -d->fail_start;
    }
    if (num > (d->most_ranges ? d->most_ranges : 256))
        return -E2BIG;
    for (uint32_t i = 0; i < num; i++) {
        bytes += ranges[i][1];
        if (d->end && ranges[i][0] + ranges[i][1] > d->end)
            return -EINVAL;
        for (int b = 0; b < 2; b++)
            if (d->bad[b] && d->bad[b] - ranges[i][0] < ranges[i][1])
                return -EPERM;
    }
    if (d->most_bytes && bytes > d->most_bytes)
        return -EOPNOTSUPP;
    memcpy(d->ranges, ranges, num * sizeof *ranges);
    d->num = num;
    d->logging = 1;
    if (d->page_size)
        memcpy(data, &d->page_size, sizeof d->page_size);
    return 0;
}

static inline int logger_report_(struct logger *d, const void *data)
{
    uint64_t report[4];
    memcpy(report, data, sizeof report);
    d->reports++;
    if (!d->logging)
        return -EINVAL;
    if (d->fail_reports != 0) {
        d->fail_reports -= d->fail_reports > 0;
        return -d->fail_report;
    }
    if ((d->whole && report[0] != d->base) || (d->exactly && report[1] != d->length))
        return -ENOTSUP;
    uint64_t *bitmap = (uint64_t *)(uintptr_t)report[3];
    for (int i = 0; i < d->num_dirty; i++) {
        uint64_t at = (d->dirty[i] - report[0]) / report[2];
        if (d->dirty[i] < report[0] || d->dirty[i] - report[0] >= report[1])
            continue;
        bitmap[at / 64] |= (uint64_t)1 << at % 64;
        d->dirty[i--] = d->dirty[--d->num_dirty];
    }
    return 0;
}

static inline int logger_feature_(void *opaque, uint32_t flags, void *data, size_t len)
{
    struct logger *d = opaque;
    uint64_t migration_flags = 1;
    uint32_t state[2] = { d->state, (uint32_t)-1 };
    switch (flags) {
    case GET | 1:
        memcpy(data, &migration_flags, 8);
        return 0;
    case GET | 2:
        memcpy(data, state, 8);
        return 0;
    case SET | 2:
        memcpy(state, data, 8);
        d->state = state[0];
        state[1] = (uint32_t)-1;
        memcpy(data, state, 8);
        return 0;
    case PROBE | SET | 6:
        return 0;
    case SET | 6:
        return len == 24 ? logger_start_(d, data) : -EINVAL;
    case SET | 7:
        d->stops++;
        d->logging = d->left_on = 0;
        return 0;
    case GET | 8:
        return len == 32 ? logger_report_(d, data) : -EINVAL;
    default:
        return -ENOTTY;
    }
}

static inline struct vfiomig_device *logger_open(struct logger *d,
                                                 const struct vfiomig_device_options *options)
{
    struct vfiomig_device_ops ops = VFIOMIG_DEVICE_OPS_INIT;
    struct vfiomig_device *dev;
    d->state = VFIOMIG_STATE_RUNNING;
    ops.feature = logger_feature_;
    OK(vfiomig_device_new_ops(&ops, d, options, &dev));
    return dev;
}

static inline int is_logged(const struct logger *d, uint64_t iova)
{
    for (uint32_t i = 0; d->logging && i < d->num; i++)
        if (iova - d->ranges[i][0] < d->ranges[i][1])
            return 1;
    return 0;
}

/* The device writes to a page; what is not logged is not reported. */
static inline void logger_write(struct logger *d, uint64_t iova)
{
    if (is_logged(d, iova))
        d->dirty[d->num_dirty++] = iova;
}

#endif
