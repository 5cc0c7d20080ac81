/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Regions in plain C, without the library: found by their type, and read and written. For the readers
 * of the older protocols (v1-reader.h, rfc-reader.h), which check the library's work.
 */
#ifndef REGION_READER_H
#define REGION_READER_H

#include <linux/vfio.h>

#include "lab.h"

struct raw_region {
    int fd;
    uint64_t at, size; /* where it is on the fd, and how long; no size: there is none */
};

static inline struct raw_region raw_find(int fd, uint32_t kind, uint32_t subtype)
{
    struct vfio_device_info info = { .argsz = sizeof(info) };
    struct raw_region found = { fd, 0, 0 };

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

            if (type->header.id == VFIO_REGION_INFO_CAP_TYPE && type->type == kind && type->subtype == subtype) {
                found.at = region->offset;
                found.size = region->size;
            }
            at = type->header.next;
        }
        free(region);
    }
    return found;
}

/* 0 or -errno. */
static inline int raw_get(const struct raw_region *region, uint64_t at, void *to, size_t len)
{
    ssize_t n = pread(region->fd, to, len, (off_t)(region->at + at));

    return n == (ssize_t)len ? 0 : n < 0 ? -errno : -EIO;
}

static inline int raw_put(const struct raw_region *region, uint64_t at, const void *from, size_t len)
{
    ssize_t n = pwrite(region->fd, from, len, (off_t)(region->at + at));

    return n == (ssize_t)len ? 0 : n < 0 ? -errno : -EIO;
}

/* Fields, which must be there. */
static inline uint64_t raw_u64(const struct raw_region *region, uint64_t at)
{
    uint64_t value = 0;
    int ret = raw_get(region, at, &value, sizeof(value));

    CHECK(ret == 0, "reading the field at %d: %s", (int)at, strerror(-ret));
    return value;
}

static inline uint32_t raw_u32(const struct raw_region *region, uint64_t at)
{
    uint32_t value = 0;
    int ret = raw_get(region, at, &value, sizeof(value));

    CHECK(ret == 0, "reading the field at %d: %s", (int)at, strerror(-ret));
    return value;
}

static inline int raw_try_u64(const struct raw_region *region, uint64_t at, uint64_t value)
{
    return raw_put(region, at, &value, sizeof(value));
}

static inline int raw_try_u32(const struct raw_region *region, uint64_t at, uint32_t value)
{
    return raw_put(region, at, &value, sizeof(value));
}

static inline void raw_set_u64(const struct raw_region *region, uint64_t at, uint64_t value)
{
    int ret = raw_try_u64(region, at, value);

    CHECK(ret == 0, "writing %llu to the field at %d: %s", (unsigned long long)value, (int)at, strerror(-ret));
}

static inline void raw_set_u32(const struct raw_region *region, uint64_t at, uint32_t value)
{
    int ret = raw_try_u32(region, at, value);

    CHECK(ret == 0, "writing %u to the field at %d: %s", value, (int)at, strerror(-ret));
}

/* --- units of data ------------------------------------------------------------------------------- */

/* Something that is read from a device and written to one as a whole, behind its kind and length. */
static inline void raw_add_unit(struct lab_bytes *units, uint32_t kind, const void *data, uint64_t len)
{
    uint64_t head[2] = { kind, len };

    lab_append(units, head, sizeof(head));
    lab_append(units, data, len);
}

/* The next of them; NULL: there are no more. */
static inline const unsigned char *raw_next_unit(const struct lab_bytes *units, size_t *at, uint32_t *kind,
                                                 uint64_t *len)
{
    uint64_t head[2];
    const unsigned char *data = units->data + *at + sizeof(head);

    if (*at == units->len)
        return NULL;
    CHECK(units->len - *at >= sizeof(head), "a unit's head is cut off");
    memcpy(head, units->data + *at, sizeof(head));
    CHECK(head[1] <= units->len - *at - sizeof(head), "a unit is cut off");
    *kind = (uint32_t)head[0];
    *len = head[1];
    *at += sizeof(head) + head[1];
    return data;
}

/* The units in a stream's data, after docs/stream-format.md. One that begins again makes void what came
 * of the one before. */
static inline struct lab_bytes raw_units_of(const struct lab_bytes *data)
{
    struct lab_bytes units = { 0 }, one = { 0 };

    for (size_t at = 0; at < data->len;) {
        uint32_t kind, len;
        uint64_t place, unit;

        CHECK(at + 24 <= data->len, "a header is cut off");
        memcpy(&kind, data->data + at, 4);
        memcpy(&len, data->data + at + 4, 4);
        memcpy(&place, data->data + at + 8, 8);
        memcpy(&unit, data->data + at + 16, 8);
        at += 24;
        CHECK(len && place + len <= unit && at + len <= data->len, "a piece cannot be right");
        if (!place)
            lab_free(&one);
        lab_append(&one, data->data + at, len);
        if (place + len == unit)
            raw_add_unit(&units, kind, one.data, one.len);
        at += len;
    }
    lab_free(&one);
    return units;
}

#endif
