/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A small VMM that migrates a guest's memory and its VFIO devices between two processes. To be read,
 * and copied from:
 *
 *   source.c   the side that the guest leaves: pre-copy, the decision, the switchover
 *   target.c   the side that it arrives at
 *   vm.c       what both sides have: devices in a group, with threads and channels
 *   link.c     who owns the guest: vfiomig_handover_* over a connection that may break
 *   tracking.c which pages of memory must be sent: vfiomig_dirty_*
 *   net.c      messages between the two; a VMM has its own
 *   device.c   where a device comes from: the simulator, or /dev/vfio
 *   memory.c   the guest's memory
 *   guest.c    stands in for vCPUs that keep the devices and the memory busy
 *   show.c     bars, and the downtime as it was predicted and as it was
 *   main.c     options, the two processes, and who was right in the end
 */
#ifndef DEMO_H
#define DEMO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "vfiomig.h"

#define MAX_DEVICES 16
#define MAX_CHANNELS 16

/* What goes wrong on purpose: --fail-at. With several devices, it is the last one that fails. */
enum failure {
    FAIL_NOTHING,
    FAIL_SOURCE_READ,
    FAIL_SOURCE_QUIESCE,
    FAIL_SOURCE_STOP,
    FAIL_SOURCE_DRAIN,
    FAIL_TARGET_BEGIN,
    FAIL_TARGET_WRITE,
    FAIL_TARGET_COMMIT,
    FAIL_TARGET_RUN,
    FAIL_OTHER_DEVICE,
    FAIL_CORRUPT,
    FAIL_CANCEL,
    FAIL_TARGET_CANCEL,
    FAIL_GUEST_RESET,
    FAIL_NO_LOG,
    FAIL_LOG_REFUSES,
    FAIL_LOG_FORGETS,
    FAIL_SET_DIRTY,
    FAIL_CUT_CHANNEL,
    FAIL_CUT_MEMORY,
    FAIL_CUT_LINK,
    FAIL_CUT_GO,
    /* Real devices do these as well. */
    FAIL_CUT_FOR_GOOD,
    FAIL_KILL_TARGET,
    FAIL_KILL_TARGET_LATE,
    FAIL_KILL_SOURCE,
    FAIL_KILL_SOURCE_EARLY,
};

enum side { SOURCE, TARGET };

struct options {
    uint32_t devices, channels;
    uint64_t state_size;  /* bytes, of each device */
    uint64_t dirty_rate;  /* bytes per second that the guest makes the devices change */
    uint64_t memory_size; /* bytes; 0: the memory is not moved */
    uint64_t memory_rate; /* bytes per second that the vCPUs write to memory */
    uint64_t dma_rate;    /* bytes per second that each device writes to memory */
    bool skip_last_collect; /* a mistake that the program must notice */
    uint64_t read_rate;   /* bytes per second that a source's driver returns; 0: all it can */
    uint64_t write_rate;  /* bytes per second that a target's driver takes; 0: all it can */
    uint64_t downtime_limit_ms;
    uint64_t precopy_limit_ms; /* pre-copy need not converge: switch over after this in any case */
    enum failure fail_at;
    bool verbose, bars;
    const char *remember; /* a file: what was measured, for the next time; NULL: none */
    /* Real devices instead of simulated ones, by side. */
    const char *device[2];
    const char *group[2];
};

/* One side's ends of the connections. */
struct connections {
    int link, again; /* for the handover; the second one for when the first one breaks */
    int memory;
    int channels[MAX_CHANNELS]; /* for the devices */
};

/* What each side tells the parent. */
struct report {
    bool vcpus_run;  /* the guest runs here, as far as this side knows */
    bool finished;   /* false: the process died */
    bool lost;       /* the devices could not be brought back */
    bool goes_on;    /* the guest and its devices write to memory after the switchover */
    uint64_t digest; /* of the devices' contents as they were moved; 0: cannot be told */
    uint64_t data_bytes, stop_bytes, restarts;
    uint64_t memory_digest; /* of the guest's memory as it was moved */
    uint64_t memory_bytes, memory_stop_bytes, memory_ns;
    uint64_t logged_bytes;  /* that the devices' trackers reported as dirty */
    uint64_t tracking_errors;
    uint32_t tracker;       /* VFIOMIG_TRACKER_*: what the last device's was in the end */
    uint64_t violations; /* of the kernel's rules, counted by the simulator */
    uint16_t pci_command;
    uint64_t at_ns;  /* when the vCPUs stopped here, or ran here. Both processes read the same clock */
    struct vfiomig_prediction prediction; /* when the guest was stopped */
    struct vfiomig_downtime downtime;
    char why[512];   /* why this side gave up; empty: it did not */
};

/* In memory that all processes share. The lease stands for a lock on the guest's disks: without it,
 * nobody runs the guest. */
struct shared {
    struct report reports[2];
    int lease; /* 1 + a side; 0: nobody's */
};

/* False: the other side has it. */
static inline bool lease_take(struct shared *shared, enum side side)
{
    int nobody = 0;
    return __atomic_compare_exchange_n(&shared->lease, &nobody, 1 + (int)side, false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_SEQ_CST) || nobody == 1 + (int)side;
}

static inline void lease_leave(struct shared *shared, enum side side)
{
    int mine = 1 + (int)side;
    __atomic_compare_exchange_n(&shared->lease, &mine, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void run_source(const struct options *options, const struct connections *connections,
                struct shared *shared);
void run_target(const struct options *options, const struct connections *connections,
                struct shared *shared);

#endif
