/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Where the device comes from. */
#ifndef DEVICE_H
#define DEVICE_H

#include <pthread.h>

#include "demo.h"

struct vfiomig_device;
struct vfiomig_sim;
struct memory;

extern const char *const side_name[2];

#define PCI_CONFIG_SIZE 256
#define BLOB_PCI_CONFIG 1u /* how it is sent */

struct device {
    struct vfiomig_device *mig; /* what the library knows of it */
    const struct options *options;
    enum side side;
    uint32_t number; /* in the group */
    uint8_t config_to_restore[PCI_CONFIG_SIZE];
    bool has_config; /* ... has come from the source */
    /* One of the two: */
    struct vfiomig_sim *sim;
    int fd;
    int iommu; /* the iommufd or the container that fd depends on */
    int group;
    uint64_t config_offset;
    uint8_t config[PCI_CONFIG_SIZE]; /* of the simulated device */
    /* The simulated device's DMA. */
    struct memory *memory; /* that the guest's driver gave it; NULL: it does not write to any */
    pthread_t dma;
    pthread_mutex_t dma_lock;
    uint64_t dma_seed, dma_writes;
    bool dma_leave;
    uint64_t fails_stopped; /* which of its reads fails once it has stopped; 0: none */
};

/* 0, or -errno with the reason in why. */
int device_open(struct device *device, const struct options *options, enum side side,
                uint32_t number, char *why, size_t why_size);
void device_close(struct device *device);

/* PCI configuration space: a part of the guest's view of the device that is not in the device's
 * own state. */
void device_read_config(struct device *device, uint8_t config[PCI_CONFIG_SIZE]);
/* What a load and a reset lose of it. */
void device_restore_command(struct device *device, const uint8_t config[PCI_CONFIG_SIZE]);
void device_restore_interrupts(struct device *device, const uint8_t config[PCI_CONFIG_SIZE]);

/* The guest makes the device change. Real devices need a real guest for that. */
void device_guest_write(struct device *device, uint64_t offset, uint64_t len, uint64_t seed);
void device_guest_reset(struct device *device);

/* The guest gives the device memory to write to: from then on it writes whenever it runs,
 * without telling the VMM, until the device is closed. A real device would need a mapping in its
 * IOMMU. Returns 0 or -errno. */
int device_start_dma(struct device *device, struct memory *memory);
uint64_t device_dma_writes(struct device *device);

/* Equal contents have equal digests; 0: cannot be told from outside. */
uint64_t devices_digest(struct device *devices, uint32_t num_devices);
uint64_t device_violations(struct device *device, const char **what);

/* Makes the device's nth change of state (with the device in ERROR), read, read once it has stopped, or
 * write from now fail; or the nth report of its
 * log, once, with what it should have reported forgotten, or every one from then on. */
enum operation {
    CHANGE_OF_STATE,
    CHANGE_TO_ERROR,
    READ,
    READ_STOPPED,
    WRITE,
    LOG_REPORT_FORGETS,
    LOG_REPORTS,
};
void device_inject(struct device *device, enum operation operation, uint64_t nth, int errnum);

#endif
