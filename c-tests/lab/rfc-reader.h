/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The protocol of the RFC of February 2019 once more, in plain C and without the library: what its
 * letters and the thread about it say. Reads a device's memory and configuration, writes them to another
 * one, and asks for dirty pages.
 */
#ifndef RFC_READER_H
#define RFC_READER_H

#include "region-reader.h"

#define RFC_VERSION 0
#define RFC_STATE 4
#define RFC_CAPS 8
#define RFC_CONFIG_ACTION 16
#define RFC_CONFIG_SIZE 24
#define RFC_MEMORY_ACTION 32
#define RFC_MEMORY_SIZE 40
#define RFC_MEMORY_POS 48
#define RFC_SYSTEM_MEMORY 56

#define RFC_STOP 1u
#define RFC_LOGGING 2u
#define RFC_GET 1u
#define RFC_SET 2u

/* As in streams. */
#define RFC_SNAPSHOT 2
#define RFC_CHUNK 3
#define RFC_CONFIG 4

struct rfc_device {
    struct raw_region control, config, memory, bitmap;
};

static inline struct rfc_device rfc_open(int fd)
{
    struct rfc_device device = { raw_find(fd, 2, 1), raw_find(fd, 2, 2), raw_find(fd, 2, 3), raw_find(fd, 2, 4) };

    CHECK(device.control.size >= 72 && device.config.size, "no regions of type 2, subtypes 1 and 2");
    EXPECT(raw_u32(&device.control, RFC_VERSION), 1);
    if (raw_u32(&device.control, RFC_CAPS) & 1)
        CHECK(device.memory.size, "no region of type 2, subtype 3");
    return device;
}

static inline void rfc_set(const struct rfc_device *device, uint32_t state)
{
    raw_set_u32(&device->control, RFC_STATE, state);
}

/* One snapshot of its memory; how long that is. */
static inline uint64_t rfc_read_memory(const struct rfc_device *device, struct lab_bytes *units)
{
    uint64_t size = raw_u64(&device->control, RFC_MEMORY_SIZE), window = device->memory.size;
    uint64_t head[2] = { size, window };
    unsigned char *chunk = malloc(window);

    if (size)
        raw_add_unit(units, RFC_SNAPSHOT, head, sizeof(head));
    for (uint64_t pos = 0; pos < size; pos += window) {
        uint64_t len = size - pos < window ? size - pos : window;

        raw_set_u64(&device->control, RFC_MEMORY_POS, pos);
        raw_set_u32(&device->control, RFC_MEMORY_ACTION, RFC_GET);
        CHECK(chunk && raw_get(&device->memory, 0, chunk, len) == 0, "a chunk: %s", strerror(errno));
        raw_add_unit(units, RFC_CHUNK, chunk, len);
    }
    free(chunk);
    return size;
}

static inline void rfc_read_config(const struct rfc_device *device, struct lab_bytes *units)
{
    uint64_t size = raw_u64(&device->control, RFC_CONFIG_SIZE);
    unsigned char *config = malloc(size);

    CHECK(size <= device->config.size, "a configuration of %llu bytes", (unsigned long long)size);
    raw_set_u32(&device->control, RFC_CONFIG_ACTION, RFC_GET);
    CHECK(config && raw_get(&device->config, 0, config, size) == 0, "the configuration: %s", strerror(errno));
    raw_add_unit(units, RFC_CONFIG, config, size);
    free(config);
}

/* All of a device, which is stopped for that. */
static inline void rfc_read_stopped(int fd, struct lab_bytes *units)
{
    struct rfc_device device = rfc_open(fd);

    rfc_set(&device, RFC_STOP | RFC_LOGGING);
    if (device.memory.size)
        while (rfc_read_memory(&device, units))
            ;
    rfc_read_config(&device, units);
    rfc_set(&device, RFC_STOP);
}

static inline void rfc_write_units(const struct rfc_device *device, const struct lab_bytes *units)
{
    const unsigned char *data;
    uint64_t len, pos = 0;
    uint32_t kind;

    for (size_t next = 0; (data = raw_next_unit(units, &next, &kind, &len));) {
        switch (kind) {
        case RFC_SNAPSHOT: {
            uint64_t size;

            memcpy(&size, data, sizeof(size));
            raw_set_u64(&device->control, RFC_MEMORY_SIZE, size);
            pos = 0;
            break;
        }
        case RFC_CHUNK:
            CHECK(raw_put(&device->memory, 0, data, len) == 0, "writing a chunk: %s", strerror(errno));
            raw_set_u64(&device->control, RFC_MEMORY_POS, pos);
            raw_set_u32(&device->control, RFC_MEMORY_ACTION, RFC_SET);
            pos += len;
            break;
        case RFC_CONFIG:
            raw_set_u64(&device->control, RFC_CONFIG_SIZE, len);
            CHECK(raw_put(&device->config, 0, data, len) == 0, "the configuration: %s", strerror(errno));
            raw_set_u32(&device->control, RFC_CONFIG_ACTION, RFC_SET);
            break;
        default:
            FAIL("a unit of kind %u", kind);
        }
    }
}

/* The same for another device, which runs in the end. */
static inline void rfc_load(int fd, const struct lab_bytes *units)
{
    struct rfc_device device = rfc_open(fd);

    rfc_set(&device, RFC_STOP);
    rfc_write_units(&device, units);
    rfc_set(&device, 0);
}

/* Asks which pages were written to, in one access. 0 or -errno. */
static inline int rfc_ask(const struct rfc_device *device, uint64_t start, uint64_t pages)
{
    uint64_t range[2] = { start, pages };

    return raw_put(&device->control, RFC_SYSTEM_MEMORY, range, sizeof(range));
}

/* The same, with the answer: a bit for each page. */
static inline void rfc_query(const struct rfc_device *device, uint64_t start, uint64_t pages, uint64_t *bitmap)
{
    int ret = rfc_ask(device, start, pages);

    ret = ret ? ret : raw_get(&device->bitmap, 0, bitmap, (pages + 63) / 64 * 8);
    CHECK(ret == 0, "asking for dirty pages: %s", strerror(-ret));
}

#endif
