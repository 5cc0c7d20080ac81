/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Two handovers talk to each other: what is refused, what that changes (nothing), and what each side
 * is told. c-tests/examples/handover.c does the same with devices.
 */
#include "check.h"

#define DEVICES 3u

static struct vfiomig_handover *source, *target;

static struct vfiomig_handover_options options_of(uint32_t role)
{
    struct vfiomig_handover_options options = VFIOMIG_HANDOVER_OPTIONS_INIT;
    options.role = role;
    memset(options.migration_id, 7, sizeof options.migration_id);
    memset(options.key_id, 9, sizeof options.key_id);
    options.attempt = 1;
    options.num_devices = DEVICES;
    options.repeat_ms = 10;
    return options;
}

static void begin(void)
{
    struct vfiomig_handover_options options = options_of(VFIOMIG_HANDOVER_ROLE_SOURCE);
    OK(vfiomig_handover_new(&options, &source));
    options = options_of(VFIOMIG_HANDOVER_ROLE_TARGET);
    OK(vfiomig_handover_new(&options, &target));
    OK(vfiomig_handover_notify(source, VFIOMIG_HANDOVER_EVENT_CONNECTED, 0, 0));
    OK(vfiomig_handover_notify(target, VFIOMIG_HANDOVER_EVENT_CONNECTED, 0, 0));
}

static void end(void)
{
    vfiomig_handover_free(source);
    vfiomig_handover_free(target);
}

static uint8_t message[VFIOMIG_HANDOVER_MAX_MESSAGE];
static size_t message_len;

/* The next action; a message is copied. */
static uint32_t next(struct vfiomig_handover *side)
{
    struct vfiomig_handover_action action = VFIOMIG_HANDOVER_ACTION_INIT;
    OK(vfiomig_handover_next(side, &action));
    EQ(action.message != NULL, action.action == VFIOMIG_HANDOVER_ACTION_SEND);
    EQ(action.wait_ms, action.action == VFIOMIG_HANDOVER_ACTION_WAIT ? 10 : 0);
    if (action.action == VFIOMIG_HANDOVER_ACTION_SEND)
        memcpy(message, action.message, message_len = action.message_len);
    return action.action;
}

/* Messages are delivered until there are none, every other one twice: what `side` is to do then. */
static uint32_t talk(struct vfiomig_handover *side)
{
    struct vfiomig_handover *other = side == source ? target : source;
    uint32_t wanted = 0;
    for (int quiet = 0, i = 0; quiet < 4; i++) {
        struct vfiomig_handover *from = i % 2 ? side : other;
        uint32_t action = next(from);
        if (action == VFIOMIG_HANDOVER_ACTION_SEND) {
            OK(vfiomig_handover_receive(from == side ? other : side, message, message_len));
            if (i % 4 < 2)
                OK(vfiomig_handover_receive(from == side ? other : side, message, message_len));
            quiet = 0;
        } else if (action == VFIOMIG_HANDOVER_ACTION_NOTHING) {
            quiet++;
        } else if (action != VFIOMIG_HANDOVER_ACTION_WAIT && from == side) {
            EQ(wanted, 0);
            wanted = action;
        }
    }
    return wanted;
}

static struct vfiomig_handover_outcome outcome_of(struct vfiomig_handover *side)
{
    struct vfiomig_handover_outcome outcome = VFIOMIG_HANDOVER_OUTCOME_INIT;
    OK(vfiomig_handover_get_outcome(side, &outcome));
    return outcome;
}

static void to_the_switchover(void)
{
    begin();
    EQ(talk(target), VFIOMIG_HANDOVER_ACTION_JUDGE);
    OK(vfiomig_handover_notify(target, VFIOMIG_HANDOVER_EVENT_JUDGED, 0, 0));
    EQ(talk(source), VFIOMIG_HANDOVER_ACTION_BEGIN);
}

static void the_guest_goes_over_with_three_devices(void)
{
    to_the_switchover();
    OK(vfiomig_handover_notify(source, VFIOMIG_HANDOVER_EVENT_INITIAL_SENT, 2, 4));
    OK(vfiomig_handover_notify(source, VFIOMIG_HANDOVER_EVENT_SWITCHOVER, 0, 0));
    EQ(talk(source), VFIOMIG_HANDOVER_ACTION_NOTHING);
    OK(vfiomig_handover_notify(target, VFIOMIG_HANDOVER_EVENT_INITIAL_LOADED, 2, 4));
    EQ(talk(source), VFIOMIG_HANDOVER_ACTION_STOP);
    uint64_t generation = 0;
    OK(vfiomig_handover_get_initial_loaded(source, 2, &generation));
    EQ(generation, 4);
    for (uint32_t i = 0; i < DEVICES; i++) {
        EQ(talk(target), VFIOMIG_HANDOVER_ACTION_NOTHING);
        OK(vfiomig_handover_notify(source, VFIOMIG_HANDOVER_EVENT_ENDED, i, 0));
        OK(vfiomig_handover_notify(target, VFIOMIG_HANDOVER_EVENT_ENDED, i, 0));
        EQ(vfiomig_handover_notify(target, VFIOMIG_HANDOVER_EVENT_ENDED, i, 0), -EINVAL);
    }
    EQ(talk(target), VFIOMIG_HANDOVER_ACTION_COMMIT);
    EQ(outcome_of(target).outcome, VFIOMIG_HANDOVER_OUTCOME_PENDING);
    OK(vfiomig_handover_notify(target, VFIOMIG_HANDOVER_EVENT_COMMITTED, 0, 0));
    EQ(talk(source), VFIOMIG_HANDOVER_ACTION_RELEASE);
    OK(vfiomig_handover_notify(source, VFIOMIG_HANDOVER_EVENT_RELEASED, 0, 0));
    EQ(talk(target), VFIOMIG_HANDOVER_ACTION_RUN);
    EQ(vfiomig_handover_cancel(source), -EINVAL);
    HAS(vfiomig_error_message(), "too late");
    EQ(vfiomig_handover_cancel(target), -EINVAL);
    OK(vfiomig_handover_notify(target, VFIOMIG_HANDOVER_EVENT_RUNNING, 0, 0));
    EQ(talk(source), VFIOMIG_HANDOVER_ACTION_OUTCOME);
    EQ(talk(source), VFIOMIG_HANDOVER_ACTION_NOTHING);
    EQ(outcome_of(source).outcome, VFIOMIG_HANDOVER_OUTCOME_ON_TARGET);
    EQ(outcome_of(target).flags, VFIOMIG_HANDOVER_SETTLED);
    EQ(vfiomig_handover_notify(source, VFIOMIG_HANDOVER_EVENT_FAILED, 0, -EIO), -EINVAL);
    end();
}

static void a_failure_is_known_on_both_sides_with_its_code(void)
{
    to_the_switchover();
    OK(vfiomig_handover_notify(target, VFIOMIG_HANDOVER_EVENT_FAILED, 0, -ENODEV));
    EQ(talk(source), VFIOMIG_HANDOVER_ACTION_KEEP);
    OK(vfiomig_handover_notify(source, VFIOMIG_HANDOVER_EVENT_KEPT, 0, 0));
    EQ(talk(source), VFIOMIG_HANDOVER_ACTION_OUTCOME);
    struct vfiomig_handover_outcome outcome = outcome_of(source);
    EQ(outcome.outcome, VFIOMIG_HANDOVER_OUTCOME_ON_SOURCE);
    EQ(outcome.reason, VFIOMIG_HANDOVER_REASON_FAILED);
    EQ(outcome.code, -ENODEV);
    EQ(outcome.flags, VFIOMIG_HANDOVER_BY_PEER | VFIOMIG_HANDOVER_SETTLED);
    OK(vfiomig_handover_notify(target, VFIOMIG_HANDOVER_EVENT_RESET, 0, 0));
    outcome = outcome_of(target);
    EQ(outcome.outcome, VFIOMIG_HANDOVER_OUTCOME_ON_SOURCE);
    EQ(outcome.code, -ENODEV);
    EQ(outcome.flags, VFIOMIG_HANDOVER_SETTLED);
    end();
}

static void descriptions_of_devices_arrive(void)
{
    char buf[16];
    size_t len = 99;
    begin();
    OK(vfiomig_handover_set_identity(source, 1, "a device", 8));
    OK(vfiomig_handover_set_identity(source, 0, NULL, 0));
    EQ(vfiomig_handover_set_identity(target, 1, "a device", 8), -EINVAL);
    EQ(vfiomig_handover_set_identity(source, DEVICES, "a device", 8), -EINVAL);
    EQ(talk(target), VFIOMIG_HANDOVER_ACTION_JUDGE);
    OK(vfiomig_handover_get_identity(target, 1, buf, sizeof buf, &len));
    EQ(len, 8);
    CHECK(memcmp(buf, "a device", 8) == 0);
    len = 99;
    EQ(vfiomig_handover_get_identity(target, 1, buf, 7, &len), -ENOSPC);
    EQ(len, 99);
    OK(vfiomig_handover_get_identity(target, 2, buf, sizeof buf, &len));
    EQ(len, 0);
    EQ(vfiomig_handover_set_identity(source, 1, "another", 7), -EINVAL);
    end();
}

/* What a VMM has of a device, and sends as it is. */
static void the_longest_identity_fits(void)
{
    static char identity[VFIOMIG_IDENTITY_BYTES], arrived[VFIOMIG_HANDOVER_MAX_IDENTITY];
    size_t len = 0;
    memset(identity, 3, sizeof identity);
    begin();
    for (uint32_t i = 0; i < DEVICES; i++)
        OK(vfiomig_handover_set_identity(source, i, identity, sizeof identity));
    EQ(talk(target), VFIOMIG_HANDOVER_ACTION_JUDGE);
    OK(vfiomig_handover_get_identity(target, DEVICES - 1, arrived, sizeof arrived, &len));
    EQ(len, sizeof identity);
    CHECK(memcmp(arrived, identity, len) == 0);
    end();
}

static void bad_messages_change_nothing(void)
{
    struct vfiomig_handover_options options = options_of(VFIOMIG_HANDOVER_ROLE_TARGET);
    struct vfiomig_handover *other;
    begin();
    EQ(next(source), VFIOMIG_HANDOVER_ACTION_SEND);
    for (size_t i = 0; i < message_len; i++) {
        message[i] ^= 1;
        int r = vfiomig_handover_receive(target, message, message_len);
        if (r != -EBADMSG && r != -EPROTO && r != -EMSGSIZE)
            FAIL("byte %zu: %d", i, r);
        message[i] ^= 1;
    }
    EQ(vfiomig_handover_receive(target, message, message_len - 1), -EPROTO);
    EQ(vfiomig_handover_receive(source, message, message_len), -EPROTO);
    options.migration_id[3] ^= 1;
    OK(vfiomig_handover_new(&options, &other));
    EQ(vfiomig_handover_receive(other, message, message_len), -EXDEV);
    vfiomig_handover_free(other);
    EQ(next(target), VFIOMIG_HANDOVER_ACTION_NOTHING);
    OK(vfiomig_handover_receive(target, message, message_len));
    EQ(next(target), VFIOMIG_HANDOVER_ACTION_JUDGE);
    size_t len = 0;
    OK(vfiomig_handover_get_message_len(message, VFIOMIG_HANDOVER_HEADER, &len));
    EQ(len, message_len);
    message[10] = 1; /* 64 KiB more */
    EQ(vfiomig_handover_get_message_len(message, message_len, &len), -EMSGSIZE);
    end();
}

static void numbers_are_checked(void)
{
    to_the_switchover();
    EQ(vfiomig_handover_notify(source, VFIOMIG_HANDOVER_EVENT_INITIAL_SENT, DEVICES, 1), -EINVAL);
    EQ(vfiomig_handover_notify(source, VFIOMIG_HANDOVER_EVENT_INITIAL_SENT, 0, -1), -EINVAL);
    EQ(vfiomig_handover_notify(source, VFIOMIG_HANDOVER_EVENT_FAILED, 0, INT64_MIN), -EINVAL);
    EQ(talk(source), VFIOMIG_HANDOVER_ACTION_NOTHING);
    end();
}

int main(void)
{
    RUN(the_guest_goes_over_with_three_devices);
    RUN(a_failure_is_known_on_both_sides_with_its_code);
    RUN(descriptions_of_devices_arrive);
    RUN(the_longest_identity_fits);
    RUN(bad_messages_change_nothing);
    RUN(numbers_are_checked);
    return DONE();
}
