/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Protocol v1 once more, in plain C and without the library: what the kernel's header of Linux 5.8 to
 * 5.17 prescribes. Reads a device's chunks, and writes them to another one.
 */
#ifndef V1_READER_H
#define V1_READER_H

#include "region-reader.h"

#define V1_STATE 0
#define V1_PENDING 8
#define V1_OFFSET 16
#define V1_SIZE 24

#define V1_CHUNK 1

static inline struct raw_region v1_open(int fd)
{
    struct raw_region device = raw_find(fd, 3, 1);

    CHECK(device.size, "no region of type 3, subtype 1");
    return device;
}

/* Keeps the other bits, as the header says. */
static inline void v1_set(const struct raw_region *device, uint32_t state)
{
    raw_set_u32(device, V1_STATE, (raw_u32(device, V1_STATE) & ~7u) | state);
}

/* The chunks of a device that is being saved. */
static inline void v1_read(const struct raw_region *device, struct lab_bytes *units)
{
    while (raw_u64(device, V1_PENDING)) {
        uint64_t at = raw_u64(device, V1_OFFSET), len = raw_u64(device, V1_SIZE);
        void *chunk = malloc(len);

        CHECK(len && at >= 32 && at + len <= device->size, "%llu bytes at %llu", (unsigned long long)len,
              (unsigned long long)at);
        CHECK(chunk && raw_get(device, at, chunk, len) == 0, "a chunk: %s", strerror(errno));
        raw_add_unit(units, V1_CHUNK, chunk, len);
        free(chunk);
    }
}

/* All of a device, which is stopped for that. */
static inline void v1_read_stopped(int fd, struct lab_bytes *units)
{
    struct raw_region device = v1_open(fd);

    v1_set(&device, 2);
    v1_read(&device, units);
    v1_set(&device, 0);
}

/* The same chunks for another device, which runs in the end. */
static inline void v1_load(int fd, const struct lab_bytes *units)
{
    struct raw_region device = v1_open(fd);
    const unsigned char *chunk;
    uint32_t kind;
    uint64_t len;

    v1_set(&device, 4);
    for (size_t next = 0; (chunk = raw_next_unit(units, &next, &kind, &len));) {
        uint64_t at = raw_u64(&device, V1_OFFSET);

        EXPECT(kind, V1_CHUNK);
        CHECK(raw_put(&device, at, chunk, len) == 0, "writing a chunk: %s", strerror(errno));
        raw_set_u64(&device, V1_SIZE, len);
    }
    v1_set(&device, 1);
}

#endif
