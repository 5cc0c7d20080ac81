/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Messages between source and target. */
#ifndef NET_H
#define NET_H

#include <stddef.h>
#include <stdint.h>

enum {
    MSG_HANDOVER,   /* the library's, about who owns the guest */
    MSG_MEASURES,   /* target: what was measured of the device `where`, for the source's estimate */
    MSG_PHASES,     /* target: struct phases */
    MSG_MEMORY,     /* source: pages of the guest's memory, from `where` on */
    MSG_MEMORY_END, /* source: there are no more */
};

/* How long the target took for what the source cannot see. */
struct phases {
    uint64_t commit_ns, resume_ns;
};

struct message {
    uint32_t type;
    uint32_t len;
    uint64_t where;
    uint8_t *data; /* the caller's buffer */
    size_t cap;    /* its size */
};

/* 0 or -errno. */
int net_send(int sock, uint32_t type, uint64_t where, const void *data, size_t len);

/* Waits for a message: 1 when it came, -EPIPE when the other side is gone, or another -errno. */
int net_receive(int sock, struct message *message);

#endif
