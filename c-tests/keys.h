/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What authenticates streams and checkpoints in tests: a key store, and a MAC of the VMM's own. */
#ifndef KEYS_H
#define KEYS_H

#include "check.h"

struct keyring {
    uint8_t first; /* of the bytes of key 1 */
    int asked, released, answer;
};

static inline int get_key(void *opaque, uint32_t key_id, uint8_t *key)
{
    struct keyring *ring = opaque;
    ring->asked++;
    if (ring->answer || key_id != 1)
        return ring->answer ? ring->answer : -ENOKEY;
    for (int i = 0; i < 32; i++)
        key[i] = (uint8_t)(ring->first + i);
    return 0;
}

static inline void release_ring(void *opaque)
{
    ((struct keyring *)opaque)->released++;
}

static inline struct vfiomig_auth with_key(struct keyring *ring)
{
    struct vfiomig_auth auth = VFIOMIG_AUTH_INIT;
    auth.key_id = 1;
    auth.get_key = get_key;
    auth.get_key_opaque = ring;
    auth.get_key_release = release_ring;
    return auth;
}

/* A MAC of the VMM's own, of 16 bytes: nothing that anybody should use. */
struct own_mac {
    uint64_t sum, at;
    int begins, updates, finishes, released, fails;
    int open, mixed; /* whether it computes a tag, and how often it was told what does not follow */
};

static inline int mac_begin(void *opaque, uint32_t key_id)
{
    struct own_mac *mac = opaque;
    mac->begins++;
    mac->open = 1;
    mac->sum = key_id * 0x9e3779b97f4a7c15u;
    mac->at = 0;
    return mac->fails;
}

static inline int mac_update(void *opaque, const void *data, size_t len)
{
    struct own_mac *mac = opaque;
    const uint8_t *bytes = data;
    mac->updates++;
    mac->mixed += !mac->open;
    for (size_t i = 0; i < len; i++)
        mac->sum = (mac->sum ^ bytes[i]) * 0x100000001b3u + ++mac->at;
    return 0;
}

static inline int mac_finish(void *opaque, uint8_t *tag)
{
    struct own_mac *mac = opaque;
    mac->finishes++;
    mac->mixed += !mac->open;
    mac->open = 0;
    for (int i = 0; i < 16; i++)
        tag[i] = (uint8_t)(mac->sum >> i % 8 * 8);
    return 0;
}

static inline void release_mac(void *opaque)
{
    ((struct own_mac *)opaque)->released++;
}

static const struct vfiomig_mac_ops mac_ops = { sizeof mac_ops, 16,          mac_begin,
                                                mac_update,     mac_finish, release_mac };

static inline struct vfiomig_auth with_mac(struct own_mac *mac)
{
    struct vfiomig_auth auth = VFIOMIG_AUTH_INIT;
    auth.key_id = 9;
    auth.mac = &mac_ops;
    auth.mac_opaque = mac;
    return auth;
}

#endif
