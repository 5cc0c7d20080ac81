/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The guest's memory, and the VMM's own log of what the vCPUs write to it, as KVM has one. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where devices find it: what a VMM gives to VFIO_IOMMU_MAP_DMA or IOMMU_IOAS_MAP. */
#define MEMORY_IOVA 0x40000000u

struct memory {
    uint8_t *ram;
    uint64_t size; /* whole pages; 0: there is none */
    uint64_t page_size;
    uint64_t pages, words; /* a bitmap of it has one bit for each page, the lowest first */
    uint64_t *vcpu_log;
    uint64_t vcpu_writes;
};

/* A guest that was just powered on finds zeros (seed 0); one that has been at work has written
 * everywhere. Returns 0 or -errno. */
int memory_create(struct memory *memory, uint64_t size, uint64_t seed);
void memory_destroy(struct memory *memory);

/* Fills len bytes from offset, both multiples of 8. Leaves no trace but the contents. */
void memory_write(struct memory *memory, uint64_t offset, uint64_t len, uint64_t seed);
/* The same by a vCPU: it goes into the VMM's log. */
void memory_vcpu_write(struct memory *memory, uint64_t offset, uint64_t len, uint64_t seed);
/* Adds the log to a bitmap, and begins a new one. */
void memory_take_vcpu_log(struct memory *memory, uint64_t *bitmap);

/* Equal contents have equal digests; 0: there is no memory. Only while nobody writes. */
uint64_t memory_digest(const struct memory *memory);

static inline uint64_t random_next(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 16;
}

#endif
