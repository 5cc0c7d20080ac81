/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Structures of linux/vfio.h that a test stands in the kernel's place for, and that older headers lack.
 * Members of 32 bits are read as such: on a big-endian machine they are not the low half of 64.
 */
#ifndef KERNEL_STRUCTS_H
#define KERNEL_STRUCTS_H

#include <stdint.h>

/* struct vfio_device_feature_dma_logging_control */
struct log_control {
    uint64_t page_size;
    uint32_t num_ranges;
    uint32_t reserved;
    uint64_t ranges; /* an address */
};

/* struct vfio_iommu_type1_info_cap_migration, in the place of a container's only capability */
struct migration_capability {
    uint16_t id, version;
    uint32_t next;
    uint32_t flags;
    uint32_t hole;
    uint64_t page_sizes;
    uint64_t max_bitmap;
};

#endif
