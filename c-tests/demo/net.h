/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Messages between source and target. */
#ifndef NET_H
#define NET_H

#include <stddef.h>
#include <stdint.h>

enum {
    /* source to target */
    MSG_STREAM, /* the next piece of the library's stream, split in any way */
    MSG_MEMORY, /* pages of the guest's memory, from `where` on */
    MSG_GO,     /* the source has let go: run */
    MSG_KEEP,   /* the source runs again: do not run, whatever you have committed */
    /* target to source */
    MSG_INITIAL_LOADED, /* struct initial_loaded */
    MSG_COMMITTED,      /* the driver has accepted the complete, verified state */
    MSG_RUNNING,
    MSG_FAILED,         /* text: the device was reset, nothing runs here */
};

/* Which initial data is loaded: the source may have started it again in the meantime. */
struct initial_loaded {
    uint64_t generation;
};

struct message {
    uint32_t type;
    uint32_t len;
    uint64_t where; /* of MSG_MEMORY; else 0 */
    uint8_t *data; /* the caller's buffer */
    size_t cap;    /* its size */
};

/* 0 or -errno. */
int net_send(int sock, uint32_t type, const void *data, size_t len);
int net_send_at(int sock, uint32_t type, uint64_t where, const void *data, size_t len);

/* Waits up to timeout_ms (-1: forever) for a message: 1 when it came, 0 when none did, -EPIPE
 * when the other process is gone, or another -errno. */
int net_receive(int sock, struct message *message, int timeout_ms);

#endif
