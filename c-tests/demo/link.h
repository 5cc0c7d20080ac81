/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Who owns the guest: the library's handover, over a connection that may break. */
#ifndef LINK_H
#define LINK_H

#include "demo.h"
#include "net.h"

/* A VMM has a new one for each migration, and tells both sides. */
extern const uint8_t migration_id[16];

struct link {
    struct vfiomig_handover *machine;
    struct shared *shared;
    enum side side;
    int sock, again; /* the connection, and another one for when that breaks; -1: none */
    uint64_t tick_ns; /* when the machine is to be told that time has passed; 0: never */
    bool given_up;   /* the guest runs on the other side, which does not answer */
    uint8_t inbox[VFIOMIG_HANDOVER_MAX_MESSAGE];
    /* Does what the machine asks for. Returns -errno, or 0 with the event that reports it; 0: what it
     * was reported already, or will be later. */
    int (*act)(void *opaque, uint32_t action, uint32_t *event);
    /* What else has come. */
    void (*heard)(void *opaque, const struct message *message);
    void *opaque;
};

/* The devices' identities are what the source says of them. 0 or -errno. */
int link_open(struct link *link, uint32_t num_devices, const struct vfiomig_identity *identities);
void link_close(struct link *link);

/* Reports an event, and does what follows from it. What does not fit any more is ignored. */
void link_notify(struct link *link, uint32_t event, uint32_t device, int64_t value);
/* Waits for a message, for the time that the machine has asked for, for `fd` (-1: none) or for
 * timeout_ms, and does what follows. Returns whether `fd` is readable. */
bool link_turn(struct link *link, int fd, int timeout_ms);
void link_send(struct link *link, uint32_t type, uint64_t where, const void *data, size_t len);

struct vfiomig_handover_outcome link_outcome(const struct link *link);
/* Nothing is left to be said. */
bool link_is_over(const struct link *link);

#endif
