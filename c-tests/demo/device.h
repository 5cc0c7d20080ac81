/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Where the device comes from. */
#ifndef DEVICE_H
#define DEVICE_H

#include "demo.h"

struct vfiomig_device;
struct vfiomig_sim;

#define PCI_CONFIG_SIZE 256

struct device {
    struct vfiomig_device *mig; /* what the library knows of it */
    const struct options *options;
    enum side side;
    /* One of the two: */
    struct vfiomig_sim *sim;
    int fd;
    int iommu; /* the iommufd or the container that fd depends on */
    int group;
    uint64_t config_offset;
    uint8_t config[PCI_CONFIG_SIZE]; /* of the simulated device */
};

/* 0, or -errno with the reason in why. */
int device_open(struct device *device, const struct options *options, enum side side, char *why,
                size_t why_size);
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

/* Equal contents have equal digests; 0: cannot be told from outside. */
uint64_t device_digest(struct device *device);
uint64_t device_violations(struct device *device, const char **what);

/* Makes the device's nth change of state, read or write from now fail. */
enum operation { CHANGE_OF_STATE, READ, WRITE };
void device_inject(struct device *device, enum operation operation, uint64_t nth, int errnum);

#endif
