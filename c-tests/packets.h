/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The packets of a save in QEMU's format, one call of vfiomig_save_next() each, the configuration
 * last.
 */
#ifndef PACKETS_H
#define PACKETS_H

#include "rig.h"

enum { MAX_PACKETS = 600 };

static struct bytes packets[MAX_PACKETS];
static int num_packets;

/* All that a stopped save has left. The configuration is given to it when it asks for one. */
static inline void take_packets(struct vfiomig_save *save, const void *config, size_t config_len)
{
    static uint8_t buf[VFIOMIG_QEMU_BUFFER];
    size_t len;
    int r;
    num_packets = 0;
    do {
        r = vfiomig_save_next(save, buf, sizeof buf, &len);
        CHECK(r >= 0 && num_packets < MAX_PACKETS);
        if (len > 0)
            bytes_add(&packets[num_packets++], buf, len);
        if (r == VFIOMIG_NEXT_DRAINED)
            OK(vfiomig_save_add_blob(save, 0, config, config_len));
    } while (r != VFIOMIG_NEXT_END);
}

static inline void packets_free(void)
{
    while (num_packets > 0)
        bytes_free(&packets[--num_packets]);
}

#endif
