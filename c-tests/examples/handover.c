/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Two VMMs that let the library decide who owns the guest, over a connection that loses messages, with
 * devices that fail at each step. However it ends, the guest runs on one side, with its device's state,
 * and each side knows that.
 */
#include "examples.h"

enum { SOURCE, TARGET };

struct side {
    struct vfiomig_handover *handover;
    struct vfiomig_device *dev;
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    struct side *other;
    int vcpus_run, fences_asked, outcomes, sent, begun;
};

/* The connection: it loses one message in `loses`, by chance; 0: none. */
static uint32_t loses, chance;
static struct bytes recorded;      /* the device's stream, on its way */
static uint64_t timer_ms;

static void send_message(struct side *s, const void *message, uint32_t len)
{
    /* A VMM would send; this one delivers at once, if at all. */
    s->sent++;
    chance = chance * 1103515245u + 12345u;
    if (loses && (chance >> 16) % loses == 0)
        return;
    OK(vfiomig_handover_receive(s->other->handover, message, len));
}

static void set_timer(struct side *s, uint32_t ms)
{
    (void)s;
    timer_ms = ms;
}

static void ask_fencer(struct side *s)
{
    s->fences_asked++;
}

static void log_outcome(const struct vfiomig_handover_outcome *outcome)
{
    (void)outcome;
}

static int begin_streams(struct side *s)
{
    s->begun = 1;
    return s->save ? 0 : vfiomig_load_begin(s->dev, NULL, &s->load);
}

static int stop_and_send(struct side *s)
{
    static char buf[VFIOMIG_GOOD_BUFFER];
    size_t len;
    int r;

    s->vcpus_run = 0;
    r = vfiomig_save_stop(s->save);
    while (r >= 0 && r != VFIOMIG_NEXT_END) {
        r = vfiomig_save_next(s->save, buf, sizeof buf, &len);
        if (r >= 0)
            bytes_add(&recorded, buf, len);
    }
    return r < 0 ? r : 0;
}

static int run_guest(struct side *s)
{
    int r = vfiomig_device_run(s->dev);

    s->vcpus_run = r == 0;
    return r;
}

static int keep_guest(struct side *s)
{
    int r = vfiomig_save_finish(s->save, VFIOMIG_ENDING_KEEP);

    return r < 0 ? r : run_guest(s);
}

static int reset_devices(struct side *s)
{
    vfiomig_load_free(s->load);
    s->load = NULL;
    return vfiomig_device_reset(s->dev);
}

/* EXAMPLE vfiomig_handover_new vfiomig_handover_set_identity vfiomig_handover_free */
/* One side of one attempt; attempts are counted from 1. */
static int begin_handover(uint32_t role, const uint8_t id[16],
                          uint32_t attempt, const char *model,
                          struct vfiomig_handover **out)
{
    struct vfiomig_handover_options options =
        VFIOMIG_HANDOVER_OPTIONS_INIT;
    int r;

    options.role = role;
    memcpy(options.migration_id, id, sizeof options.migration_id);
    options.attempt = attempt;
    options.num_devices = 1;
    r = vfiomig_handover_new(&options, out);
    if (r == 0 && role == VFIOMIG_HANDOVER_ROLE_SOURCE) {
        r = vfiomig_handover_set_identity(*out, 0, model,
                                          strlen(model));
        if (r < 0) {
            vfiomig_handover_free(*out);
            *out = NULL;
        }
    }
    return r;
}
/* END */

/* EXAMPLE vfiomig_handover_get_identity */
/* The verdict: 0, or a code that both sides report. */
static int judge(struct vfiomig_handover *handover,
                 const char *model)
{
    char theirs[VFIOMIG_HANDOVER_MAX_IDENTITY];
    size_t len;

    if (vfiomig_handover_get_identity(handover, 0, theirs,
                                      sizeof theirs, &len) < 0)
        return 1;
    return len != strlen(model) || memcmp(theirs, model, len) != 0;
}
/* END */

static const char *model_here = "model 1";

/* Carries an action out: the event that it ends with, or 0. */
static uint32_t act(struct side *s, uint32_t action, int *r)
{
    switch (action) {
    case VFIOMIG_HANDOVER_ACTION_JUDGE:
        *r = judge(s->handover, model_here);
        return VFIOMIG_HANDOVER_EVENT_JUDGED;
    case VFIOMIG_HANDOVER_ACTION_BEGIN:
        *r = begin_streams(s);
        return 0;
    case VFIOMIG_HANDOVER_ACTION_STOP:
        *r = stop_and_send(s);
        return VFIOMIG_HANDOVER_EVENT_ENDED;
    case VFIOMIG_HANDOVER_ACTION_COMMIT:
        *r = vfiomig_load_commit(s->load);
        return VFIOMIG_HANDOVER_EVENT_COMMITTED;
    case VFIOMIG_HANDOVER_ACTION_RELEASE:
        *r = vfiomig_save_finish(s->save, VFIOMIG_ENDING_RELEASE);
        return VFIOMIG_HANDOVER_EVENT_RELEASED;
    case VFIOMIG_HANDOVER_ACTION_KEEP:
        *r = keep_guest(s);
        return VFIOMIG_HANDOVER_EVENT_KEPT;
    case VFIOMIG_HANDOVER_ACTION_RUN:
        *r = run_guest(s);
        return VFIOMIG_HANDOVER_EVENT_RUNNING;
    case VFIOMIG_HANDOVER_ACTION_RESET:
        *r = reset_devices(s);
        return VFIOMIG_HANDOVER_EVENT_RESET;
    case VFIOMIG_HANDOVER_ACTION_FENCE:
        ask_fencer(s);
        return 0;
    default:
        s->outcomes++;
        return 0;
    }
}

/* EXAMPLE vfiomig_handover_next vfiomig_handover_notify */
/* To be called after each event and each message. act() commits,
   releases, runs: it returns the event to report, or 0. */
static int carry_out(struct side *s)
{
    struct vfiomig_handover_action next =
        VFIOMIG_HANDOVER_ACTION_INIT;
    uint32_t event;
    int r;

    for (;;) {
        r = vfiomig_handover_next(s->handover, &next);
        if (r < 0 || next.action == VFIOMIG_HANDOVER_ACTION_NOTHING)
            return r;
        if (next.action == VFIOMIG_HANDOVER_ACTION_SEND) {
            send_message(s, next.message, next.message_len);
        } else if (next.action == VFIOMIG_HANDOVER_ACTION_WAIT) {
            set_timer(s, next.wait_ms);
        } else {
            event = act(s, next.action, &r);
            if (r < 0)
                event = VFIOMIG_HANDOVER_EVENT_FAILED;
            if (event && (r = vfiomig_handover_notify(
                              s->handover, event, 0, r)) < 0)
                return r;
        }
    }
}
/* END */

/* EXAMPLE vfiomig_handover_get_message_len vfiomig_handover_receive */
/* Takes a message from a stream of bytes; recv_all returns 0 if all
   of them came. */
static int take_message(struct vfiomig_handover *handover, int sock,
                        int (*recv_all)(int, void *, size_t))
{
    static char message[VFIOMIG_HANDOVER_MAX_MESSAGE];
    size_t len;
    int r;

    if (recv_all(sock, message, VFIOMIG_HANDOVER_HEADER) < 0)
        return vfiomig_handover_notify(
            handover, VFIOMIG_HANDOVER_EVENT_CUT, 0, 0);
    r = vfiomig_handover_get_message_len(
        message, VFIOMIG_HANDOVER_HEADER, &len);
    if (r < 0)
        return r;             /* nothing else can be found here */
    if (recv_all(sock, message + VFIOMIG_HANDOVER_HEADER,
                 len - VFIOMIG_HANDOVER_HEADER) < 0)
        return vfiomig_handover_notify(
            handover, VFIOMIG_HANDOVER_EVENT_CUT, 0, 0);
    return vfiomig_handover_receive(handover, message, len);
}
/* END */

/* EXAMPLE vfiomig_handover_get_initial_loaded */
/* Whether the target has loaded what this save began with. */
static int may_switch_over(struct vfiomig_handover *handover,
                           struct vfiomig_save *save)
{
    struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
    uint64_t loaded;

    if (vfiomig_save_get_pending(save, &pending) < 0 ||
        vfiomig_handover_get_initial_loaded(handover, 0,
                                            &loaded) < 0)
        return 0;
    return (pending.flags & VFIOMIG_PENDING_INITIAL_SENT) &&
           loaded == pending.initial_generation;
}
/* END */

/* EXAMPLE vfiomig_handover_peer_fenced vfiomig_handover_get_outcome */
/* The other host was switched off. If its lease on the guest's disks
   was never taken there, the guest has not run there. */
static int other_host_is_off(struct side *s, int lease_was_taken)
{
    struct vfiomig_handover_outcome outcome =
        VFIOMIG_HANDOVER_OUTCOME_INIT;
    int r = vfiomig_handover_peer_fenced(
        s->handover, lease_was_taken
                         ? VFIOMIG_HANDOVER_FENCE_MAY_HAVE_RUN
                         : VFIOMIG_HANDOVER_FENCE_DID_NOT_RUN);

    if (r == 0)
        r = carry_out(s);
    if (r == 0)
        r = vfiomig_handover_get_outcome(s->handover, &outcome);
    if (r == 0)
        log_outcome(&outcome);
    return r;
}
/* END */

/* EXAMPLE vfiomig_handover_cancel */
/* The administrator has had enough. */
static int cancel_migration(struct side *s)
{
    int r = vfiomig_handover_cancel(s->handover);

    /* Too late: the guest may run on the target already. */
    return r < 0 ? r : carry_out(s);
}
/* END */

static struct rig rigs[2];
static struct side sides[2];
static uint64_t digest;

static void begin(void)
{
    static const uint8_t id[16] = "a migration's id";
    static uint32_t attempt;

    memset(sides, 0, sizeof sides);
    loses = 0;
    recorded = (struct bytes){ NULL, 0, 0 };
    rigs[SOURCE] = rig_new(NULL, NULL);
    rigs[TARGET] = rig_target(NULL);
    digest = vfiomig_sim_digest(rigs[SOURCE].sim);
    attempt++;
    for (int i = SOURCE; i <= TARGET; i++) {
        struct side *s = &sides[i];
        s->dev = rigs[i].dev;
        s->other = &sides[!i];
        OK(begin_handover(i == SOURCE ? VFIOMIG_HANDOVER_ROLE_SOURCE : VFIOMIG_HANDOVER_ROLE_TARGET,
                          id, attempt, "model 1", &s->handover));
        OK(vfiomig_handover_notify(s->handover, VFIOMIG_HANDOVER_EVENT_CONNECTED, 0, 0));
    }
    sides[SOURCE].vcpus_run = 1;
    OK(vfiomig_save_begin(rigs[SOURCE].dev, NULL, &sides[SOURCE].save));
}

static uint32_t outcome_of(const struct side *s)
{
    struct vfiomig_handover_outcome outcome = VFIOMIG_HANDOVER_OUTCOME_INIT;
    OK(vfiomig_handover_get_outcome(s->handover, &outcome));
    return outcome.outcome;
}

static void both(uint32_t event)
{
    for (int i = SOURCE; i <= TARGET; i++)
        OK(vfiomig_handover_notify(sides[i].handover, event, 0, 0));
}

/* Both go on, with their timers, until nothing more can come. */
static void go_on(void)
{
    int arrived = 0;
    for (int i = 0; i < 200; i++) {
        both(VFIOMIG_HANDOVER_EVENT_TICK);
        OK(carry_out(&sides[SOURCE]));
        OK(carry_out(&sides[TARGET]));
        /* Refused unless pre-copy is going on. */
        if (vfiomig_handover_notify(sides[SOURCE].handover, VFIOMIG_HANDOVER_EVENT_SWITCHOVER, 0, 0) == 0)
            EQ(may_switch_over(sides[SOURCE].handover, sides[SOURCE].save), 0);
        if (!arrived && sides[TARGET].load && recorded.len) {
            int r = vfiomig_load_push(sides[TARGET].load, recorded.data, recorded.len);
            arrived = 1;
            OK(vfiomig_handover_notify(sides[TARGET].handover,
                                       r < 0 ? VFIOMIG_HANDOVER_EVENT_FAILED
                                             : VFIOMIG_HANDOVER_EVENT_ENDED, 0, r < 0 ? r : 0));
        }
    }
}

static void end(void)
{
    for (int i = SOURCE; i <= TARGET; i++) {
        EQ(sides[i].outcomes <= 1, 1);
        vfiomig_handover_free(sides[i].handover);
        vfiomig_save_free(sides[i].save);
        vfiomig_load_free(sides[i].load);
        vfiomig_sim_clear_faults(rigs[i].sim);
        rig_free(&rigs[i]);
    }
    free(recorded.data);
}

static void expect(uint32_t outcome)
{
    EQ(outcome_of(&sides[SOURCE]), outcome);
    EQ(outcome_of(&sides[TARGET]), outcome);
    EQ(sides[SOURCE].vcpus_run, outcome == VFIOMIG_HANDOVER_OUTCOME_ON_SOURCE);
    EQ(sides[TARGET].vcpus_run, outcome == VFIOMIG_HANDOVER_OUTCOME_ON_TARGET);
    CHECK(vfiomig_sim_digest(rigs[!sides[SOURCE].vcpus_run].sim) == digest);
    EQ(vfiomig_sim_state(rigs[!sides[SOURCE].vcpus_run].sim), VFIOMIG_STATE_RUNNING);
}

static void the_guest_arrives_whatever_is_lost(void)
{
    for (uint32_t n = 0; n < 7; n++) {
        if (n == 1)
            continue; /* everything */
        begin();
        loses = n;
        go_on();
        expect(VFIOMIG_HANDOVER_OUTCOME_ON_TARGET);
        EQ(timer_ms, 200);
        end();
    }
}

static void other_devices_are_refused(void)
{
    begin();
    model_here = "model 2";
    go_on();
    model_here = "model 1";
    expect(VFIOMIG_HANDOVER_OUTCOME_ON_SOURCE);
    EQ(sides[TARGET].begun, 0);
    end();
}

/* Each change of state of either device fails once. */
static void a_device_that_fails_leaves_the_guest_on_one_side(void)
{
    int on_source = 0, on_target = 0;
    for (int i = SOURCE; i <= TARGET; i++)
        for (uint64_t nth = 1; nth < 6; nth++) {
            begin();
            loses = 3;
            EQ(vfiomig_sim_inject(rigs[i].sim, VFIOMIG_SIM_OP_SET_STATE, nth, EIO, VFIOMIG_SIM_FAULT_ONCE), 0);
            go_on();
            expect(sides[SOURCE].vcpus_run ? VFIOMIG_HANDOVER_OUTCOME_ON_SOURCE
                                           : VFIOMIG_HANDOVER_OUTCOME_ON_TARGET);
            on_source += sides[SOURCE].vcpus_run;
            on_target += sides[TARGET].vcpus_run;
            end();
        }
    CHECK(on_source >= 3 && on_target >= 3);
}

static void a_fence_ends_what_a_cut_has_left_open(void)
{
    for (int lease_was_taken = 0; lease_was_taken < 2; lease_was_taken++) {
        begin();
        /* Up to the commit. */
        while (!recorded.len) {
            both(VFIOMIG_HANDOVER_EVENT_TICK);
            OK(carry_out(&sides[SOURCE]));
            OK(carry_out(&sides[TARGET]));
            (void)!vfiomig_handover_notify(sides[SOURCE].handover, VFIOMIG_HANDOVER_EVENT_SWITCHOVER, 0, 0);
        }
        CHECK(vfiomig_load_push(sides[TARGET].load, recorded.data, recorded.len) >= 0);
        OK(vfiomig_handover_notify(sides[TARGET].handover, VFIOMIG_HANDOVER_EVENT_ENDED, 0, 0));
        OK(carry_out(&sides[TARGET])); /* says "committed" */
        loses = 1;
        OK(carry_out(&sides[SOURCE])); /* releases, and says "go", in vain */
        both(VFIOMIG_HANDOVER_EVENT_CUT);
        for (int i = SOURCE; i <= TARGET; i++) {
            OK(carry_out(&sides[i]));
            EQ(sides[i].fences_asked, 1);
            EQ(outcome_of(&sides[i]), VFIOMIG_HANDOVER_OUTCOME_UNDECIDED);
            EQ(sides[i].vcpus_run, 0);
        }
        EQ(cancel_migration(&sides[SOURCE]), -EINVAL);
        OK(other_host_is_off(&sides[SOURCE], lease_was_taken));
        EQ(sides[SOURCE].vcpus_run, !lease_was_taken);
        EQ(outcome_of(&sides[SOURCE]), lease_was_taken ? VFIOMIG_HANDOVER_OUTCOME_LOST
                                                       : VFIOMIG_HANDOVER_OUTCOME_ON_SOURCE);
        OK(cancel_migration(&sides[TARGET])); /* it is off */
        end();
    }
}

static struct bytes pipe_bytes;
static size_t taken;

static int from_pipe(int sock, void *buf, size_t len)
{
    (void)sock;
    if (pipe_bytes.len - taken < len)
        return -1;
    memcpy(buf, pipe_bytes.data + taken, len);
    taken += len;
    return 0;
}

static void messages_are_found_in_a_stream_of_bytes(void)
{
    struct vfiomig_handover_action next = VFIOMIG_HANDOVER_ACTION_INIT;
    begin();
    OK(vfiomig_handover_next(sides[SOURCE].handover, &next));
    EQ(next.action, VFIOMIG_HANDOVER_ACTION_SEND);
    bytes_add(&pipe_bytes, next.message, next.message_len);
    bytes_add(&pipe_bytes, next.message, next.message_len);
    bytes_add(&pipe_bytes, next.message, 20);
    OK(take_message(sides[TARGET].handover, 0, from_pipe));
    OK(take_message(sides[TARGET].handover, 0, from_pipe));
    EQ(taken, 2 * next.message_len);
    OK(vfiomig_handover_next(sides[TARGET].handover, &next));
    EQ(next.action, VFIOMIG_HANDOVER_ACTION_JUDGE);
    OK(take_message(sides[TARGET].handover, 0, from_pipe)); /* a cut */
    free(pipe_bytes.data);
    OK(cancel_migration(&sides[TARGET]));
    OK(cancel_migration(&sides[SOURCE]));
    EQ(sides[SOURCE].vcpus_run, 1);
    end();
}

int main(void)
{
    RUN(the_guest_arrives_whatever_is_lost);
    RUN(other_devices_are_refused);
    RUN(a_device_that_fails_leaves_the_guest_on_one_side);
    RUN(a_fence_ends_what_a_cut_has_left_open);
    RUN(messages_are_found_in_a_stream_of_bytes);
    return DONE();
}
