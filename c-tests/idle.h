/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Callbacks that do nothing, for tests of what surrounds them.
 */
#ifndef IDLE_H
#define IDLE_H

#include <errno.h>

#include "vfiomig.h"

/* A device that can do nothing. */
static inline int idle_feature(void *opaque, uint32_t flags, void *data, size_t len)
{
    (void)opaque, (void)flags, (void)data, (void)len;
    return -ENOTTY;
}

static inline void idle_event(void *opaque, const struct vfiomig_event *event)
{
    (void)opaque, (void)event;
}

static inline int idle_blob(void *opaque, uint32_t kind, const void *data, size_t len)
{
    (void)opaque, (void)kind, (void)data, (void)len;
    return 0;
}

static inline int idle_policy(void *opaque, const struct vfiomig_identity *source,
                              const struct vfiomig_identity *target)
{
    (void)opaque, (void)source, (void)target;
    return 0;
}

/* A guard that lets everything pass. */
static inline int idle_judge(void *opaque, const void *data, size_t len, uint64_t offset)
{
    (void)opaque, (void)data, (void)len, (void)offset;
    return 0;
}

/* A decoder that names nothing. */
static inline int idle_decode(void *opaque, const void *data, size_t len, uint64_t offset,
                              vfiomig_decoded_fn put, void *put_opaque)
{
    (void)opaque, (void)data, (void)len, (void)offset, (void)put, (void)put_opaque;
    return 0;
}

/* A tracker that never has anything to say. */
static inline int idle_sync(void *opaque, uint64_t iova, uint64_t length, uint64_t page_size,
                            uint64_t *bitmap, size_t num_words)
{
    (void)opaque, (void)iova, (void)length, (void)page_size, (void)bitmap, (void)num_words;
    return 0;
}

#endif
