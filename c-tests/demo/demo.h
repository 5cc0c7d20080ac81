/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A small VMM that migrates a guest's memory and one VFIO device between two processes. To be read,
 * and copied from:
 *
 *   source.c   the side that the guest leaves: pre-copy, switchover, release or keep
 *   target.c   the side that it arrives at: load, commit, fix-ups, run
 *   tracking.c which pages of memory must be sent: vfiomig_dirty_*
 *   net.c      messages between them; a VMM has its own
 *   device.c   where the device comes from: the simulator, or /dev/vfio
 *   memory.c   the guest's memory
 *   guest.c    stands in for vCPUs that keep the device and the memory busy
 *   main.c     options, the two processes, and who was right in the end
 */
#ifndef DEMO_H
#define DEMO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* What goes wrong on purpose: --fail-at. */
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
    FAIL_KILL_TARGET,
    FAIL_KILL_TARGET_LATE,
    FAIL_KILL_SOURCE,
    FAIL_KILL_SOURCE_EARLY,
};

enum side { SOURCE, TARGET };

struct options {
    uint64_t state_size;  /* bytes */
    uint64_t dirty_rate;  /* bytes per second that the guest makes the device change */
    uint64_t memory_size; /* bytes; 0: the memory is not moved */
    uint64_t memory_rate; /* bytes per second that the vCPUs write to memory */
    uint64_t dma_rate;    /* bytes per second that the device writes to memory */
    bool skip_last_collect; /* a mistake that the program must notice */
    uint64_t read_rate;   /* bytes per second that the source's driver returns; 0: all it can */
    uint64_t write_rate;  /* bytes per second that the target's driver takes; 0: all it can */
    uint64_t downtime_limit_ms;
    uint64_t precopy_limit_ms; /* pre-copy need not converge: switch over after this in any case */
    enum failure fail_at;
    bool verbose;
    /* Real devices instead of simulated ones, by side. */
    const char *device[2];
    const char *group[2];
};

/* The moments of a switchover, in order. Both processes read the same clock. */
enum moment {
    VCPUS_STOPPED,
    QUIESCED,
    STOPPED,
    MEMORY_SENT, /* the last pages were handed to the socket */
    SENT,      /* ... and the stream's last byte */
    LOADED,    /* ... and to the target's driver */
    COMMITTED, /* the target's driver accepted the state */
    TOLD,      /* the source let go: the guest belongs to the target */
    RUNNING,
    MOMENTS
};

/* What each side tells the parent, in memory that all three share. */
struct report {
    bool vcpus_run;  /* the guest runs here, as far as this side knows */
    bool finished;   /* false: the process died */
    bool lost;       /* the device could not be brought back */
    uint32_t rounds;
    uint32_t fixups;
    uint64_t digest; /* of the device's contents as they were moved; 0: cannot be told */
    uint64_t data_bytes, stop_bytes, restarts;
    uint64_t memory_digest; /* of the guest's memory as it was moved */
    uint64_t memory_bytes, memory_stop_bytes;
    uint64_t logged_bytes;  /* that the device's tracker reported as dirty */
    uint64_t tracking_errors;
    uint32_t tracker;       /* VFIOMIG_TRACKER_*: what it was in the end */
    bool goes_on;           /* the guest and its device write to memory after the switchover */
    uint64_t violations; /* of the kernel's rules, counted by the simulator */
    uint16_t pci_command;
    uint64_t at_ns[MOMENTS];
    char why[512];   /* why this side gave up; empty: it did not */
};

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void run_source(const struct options *options, int sock, struct report *report);
void run_target(const struct options *options, int sock, struct report *report);

#endif
