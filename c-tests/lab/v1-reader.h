/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Protocol v1 once more, in plain C and without the library: what the kernel's header of Linux 5.8 to
 * 5.17 prescribes. Reads a device's chunks, and writes them to another one.
 */
#ifndef V1_READER_H
#define V1_READER_H

#include <sys/mman.h>

#include <linux/vfio.h>

#include "lab.h"

#define V1_STATE 0
#define V1_PENDING 8
#define V1_OFFSET 16
#define V1_SIZE 24

struct v1_device {
    int fd;
    uint64_t region, size; /* where the region is on the fd, and how long */
};

/* Finds the region by its type. */
static inline struct v1_device v1_open(int fd)
{
    struct vfio_device_info info = { .argsz = sizeof(info) };
    struct v1_device device = { fd, 0, 0 };

    CHECK(ioctl(fd, VFIO_DEVICE_GET_INFO, &info) == 0, "GET_INFO: %s", strerror(errno));
    for (uint32_t i = 0; i < info.num_regions; i++) {
        struct vfio_region_info short_info = { .argsz = sizeof(short_info), .index = i };
        struct vfio_region_info *region = &short_info;

        if (ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, region) < 0 || region->argsz <= sizeof(short_info))
            continue;
        region = calloc(1, short_info.argsz);
        CHECK(region, "out of memory");
        region->argsz = short_info.argsz;
        region->index = i;
        CHECK(ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, region) == 0, "region %u: %s", i, strerror(errno));
        for (uint32_t at = region->cap_offset; at;) {
            struct vfio_region_info_cap_type *type = (void *)((char *)region + at);

            if (type->header.id == VFIO_REGION_INFO_CAP_TYPE && type->type == 3 && type->subtype == 1) {
                device.region = region->offset;
                device.size = region->size;
            }
            at = type->header.next;
        }
        free(region);
    }
    CHECK(device.size, "no region of type 3, subtype 1");
    return device;
}

static inline int v1_get(const struct v1_device *device, uint64_t at, void *to, size_t len)
{
    ssize_t n = pread(device->fd, to, len, (off_t)(device->region + at));

    return n == (ssize_t)len ? 0 : n < 0 ? -errno : -EIO;
}

static inline int v1_put(const struct v1_device *device, uint64_t at, const void *from, size_t len)
{
    ssize_t n = pwrite(device->fd, from, len, (off_t)(device->region + at));

    return n == (ssize_t)len ? 0 : n < 0 ? -errno : -EIO;
}

static inline uint64_t v1_number(const struct v1_device *device, uint64_t at)
{
    uint64_t value = 0;
    int ret = v1_get(device, at, &value, sizeof(value));

    CHECK(ret == 0, "reading the field at %d: %s", (int)at, strerror(-ret));
    return value;
}

static inline uint32_t v1_state(const struct v1_device *device)
{
    uint32_t state = 0;
    int ret = v1_get(device, V1_STATE, &state, sizeof(state));

    CHECK(ret == 0, "reading the state: %s", strerror(-ret));
    return state & 7;
}

/* Keeps the other bits, as the header says. */
static inline int v1_try_set(const struct v1_device *device, uint32_t state)
{
    uint32_t raw = 0;
    int ret = v1_get(device, V1_STATE, &raw, sizeof(raw));

    raw = (raw & ~7u) | state;
    return ret ? ret : v1_put(device, V1_STATE, &raw, sizeof(raw));
}

static inline void v1_set(const struct v1_device *device, uint32_t state)
{
    int ret = v1_try_set(device, state);

    CHECK(ret == 0, "to state %u: %s", state, strerror(-ret));
}

/* The chunks of a device that is being saved, each behind its length in 8 bytes. */
static inline void v1_read_chunks(const struct v1_device *device, struct lab_bytes *chunks)
{
    while (v1_number(device, V1_PENDING)) {
        uint64_t at = v1_number(device, V1_OFFSET), len = v1_number(device, V1_SIZE);
        void *chunk = malloc(len);

        CHECK(len && at >= 32 && at + len <= device->size, "%llu bytes at %llu", (unsigned long long)len,
              (unsigned long long)at);
        CHECK(chunk && v1_get(device, at, chunk, len) == 0, "a chunk: %s", strerror(errno));
        lab_append(chunks, &len, sizeof(len));
        lab_append(chunks, chunk, len);
        free(chunk);
    }
}

/* The same chunks for a device that is being loaded. */
static inline void v1_write_chunks(const struct v1_device *device, const struct lab_bytes *chunks)
{
    for (size_t from = 0; from < chunks->len;) {
        uint64_t at = v1_number(device, V1_OFFSET), len;
        int ret;

        memcpy(&len, chunks->data + from, sizeof(len));
        from += sizeof(len);
        CHECK(from + len <= chunks->len, "a chunk is cut off");
        ret = v1_put(device, at, chunks->data + from, len);
        if (!ret)
            ret = v1_put(device, V1_SIZE, &len, sizeof(len));
        CHECK(ret == 0, "writing a chunk: %s", strerror(-ret));
        from += len;
    }
}

/* The chunks in a stream's data, after docs/stream-format.md, in the same form. */
static inline struct lab_bytes v1_chunks_of(const struct lab_bytes *data)
{
    struct lab_bytes chunks = { 0 };

    for (size_t at = 0; at < data->len;) {
        uint32_t kind, len;
        uint64_t place, unit;

        CHECK(at + 24 <= data->len, "a header is cut off");
        memcpy(&kind, data->data + at, 4);
        memcpy(&len, data->data + at + 4, 4);
        memcpy(&place, data->data + at + 8, 8);
        memcpy(&unit, data->data + at + 16, 8);
        at += 24;
        CHECK(kind == 1 && len && place + len <= unit && at + len <= data->len, "a piece cannot be right");
        if (!place)
            lab_append(&chunks, &unit, 8);
        lab_append(&chunks, data->data + at, len);
        at += len;
    }
    return chunks;
}

#endif
