/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "link.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

const uint8_t migration_id[16] = "the demo's guest";

int link_open(struct link *l, uint32_t num_devices, const struct vfiomig_identity *identities)
{
    struct vfiomig_handover_options options = VFIOMIG_HANDOVER_OPTIONS_INIT;
    options.role = l->side == SOURCE ? VFIOMIG_HANDOVER_ROLE_SOURCE : VFIOMIG_HANDOVER_ROLE_TARGET;
    memcpy(options.migration_id, migration_id, sizeof options.migration_id);
    options.attempt = 1;
    options.num_devices = num_devices;
    int r = vfiomig_handover_new(&options, &l->machine);
    for (uint32_t i = 0; i < num_devices && l->side == SOURCE && r == 0; i++) {
        uint8_t bytes[VFIOMIG_IDENTITY_BYTES];
        size_t len;
        r = vfiomig_identity_export(&identities[i], bytes, sizeof bytes, &len);
        if (r == 0)
            r = vfiomig_handover_set_identity(l->machine, i, bytes, len);
    }
    return r < 0 ? r : vfiomig_handover_notify(l->machine, VFIOMIG_HANDOVER_EVENT_CONNECTED, 0, 0);
}

void link_close(struct link *l)
{
    vfiomig_handover_free(l->machine);
    l->machine = NULL;
}

struct vfiomig_handover_outcome link_outcome(const struct link *l)
{
    struct vfiomig_handover_outcome outcome = VFIOMIG_HANDOVER_OUTCOME_INIT;
    if (vfiomig_handover_get_outcome(l->machine, &outcome) < 0)
        outcome.outcome = VFIOMIG_HANDOVER_OUTCOME_PENDING;
    return outcome;
}

bool link_is_over(const struct link *l)
{
    struct vfiomig_handover_outcome o = link_outcome(l);
    bool final = o.outcome != VFIOMIG_HANDOVER_OUTCOME_PENDING &&
                 o.outcome != VFIOMIG_HANDOVER_OUTCOME_UNDECIDED;
    return l->given_up || (final && (o.flags & VFIOMIG_HANDOVER_SETTLED || l->sock < 0));
}

/*
 * The connection is gone. With another one, both sides say again where they are. Without, a side that
 * may still do so gives up; once "go" may have been said, the machine asks for a fence.
 */
static void cut(struct link *l)
{
    l->sock = l->again;
    l->again = -1;
    int r = vfiomig_handover_notify(l->machine, VFIOMIG_HANDOVER_EVENT_CUT, 0, 0);
    if (r == 0 && l->sock >= 0)
        r = vfiomig_handover_notify(l->machine, VFIOMIG_HANDOVER_EVENT_CONNECTED, 0, 0);
    else if (r == 0 && link_outcome(l).outcome == VFIOMIG_HANDOVER_OUTCOME_PENDING)
        vfiomig_handover_cancel(l->machine);
}

/* The lease is the fencer. If this side gets it, the other one has not run the guest, and cannot do so
 * from now on. If it does not, the guest runs there. */
static void ask_fencer(struct link *l)
{
    if (lease_take(l->shared, l->side))
        l->given_up = vfiomig_handover_peer_fenced(l->machine, VFIOMIG_HANDOVER_FENCE_DID_NOT_RUN) < 0;
    else
        l->given_up = vfiomig_handover_cancel(l->machine) < 0; /* too late for a source */
}

void link_send(struct link *l, uint32_t type, uint64_t where, const void *data, size_t len)
{
    if (l->sock >= 0 && net_send(l->sock, type, where, data, len) < 0)
        cut(l);
}

/* An error of the machine's is lack of memory: the next turn tries again. */
static void carry_out(struct link *l)
{
    struct vfiomig_handover_action next = VFIOMIG_HANDOVER_ACTION_INIT;
    while (vfiomig_handover_next(l->machine, &next) == 0) {
        uint32_t event = 0;
        int r;
        switch (next.action) {
        case VFIOMIG_HANDOVER_ACTION_NOTHING:
            return;
        case VFIOMIG_HANDOVER_ACTION_SEND:
            link_send(l, MSG_HANDOVER, 0, next.message, next.message_len);
            break;
        case VFIOMIG_HANDOVER_ACTION_WAIT:
            l->tick_ns = now_ns() + next.wait_ms * 1000000ull;
            break;
        case VFIOMIG_HANDOVER_ACTION_FENCE:
            ask_fencer(l);
            break;
        case VFIOMIG_HANDOVER_ACTION_OUTCOME: /* link_outcome() has it */
            break;
        default:
            r = l->act(l->opaque, next.action, &event);
            if (r < 0)
                event = VFIOMIG_HANDOVER_EVENT_FAILED;
            if (event && vfiomig_handover_notify(l->machine, event, 0, r) < 0)
                return;
        }
    }
}

void link_notify(struct link *l, uint32_t event, uint32_t device, int64_t value)
{
    if (vfiomig_handover_notify(l->machine, event, device, value) == 0)
        carry_out(l);
}

/* A peer that makes no sense is as good as gone. */
static void receive(struct link *l)
{
    struct message m = { .data = l->inbox, .cap = sizeof l->inbox };
    int r = net_receive(l->sock, &m);
    if (r == 1 && m.type == MSG_HANDOVER)
        r = vfiomig_handover_receive(l->machine, m.data, m.len);
    else if (r == 1)
        l->heard(l->opaque, &m);
    if (r < 0)
        cut(l);
}

bool link_turn(struct link *l, int fd, int timeout_ms)
{
    struct pollfd fds[2] = { { .fd = l->sock, .events = POLLIN }, { .fd = fd, .events = POLLIN } };
    uint64_t now = now_ns();
    carry_out(l);
    fds[0].fd = l->sock;
    if (l->tick_ns && l->tick_ns < now + (uint64_t)timeout_ms * 1000000u)
        timeout_ms = l->tick_ns > now ? (int)((l->tick_ns - now) / 1000000) + 1 : 0;
    if (poll(fds, 2, link_is_over(l) ? 0 : timeout_ms) < 0)
        return false;
    if (l->tick_ns && now_ns() >= l->tick_ns) {
        l->tick_ns = 0;
        link_notify(l, VFIOMIG_HANDOVER_EVENT_TICK, 0, 0);
    }
    if (fds[0].revents && fds[0].fd == l->sock)
        receive(l);
    carry_out(l);
    return fds[1].revents;
}
