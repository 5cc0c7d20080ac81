/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Events that wait for a VMM: in order, each once, with a descriptor that is readable while there are any;
 * what is dropped if nobody fetches them; from many threads; of a device alone and in groups.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>

#include "rig.h"

enum { DEVICES = 3, FETCHERS = 4, ROUNDS = 200 };

static struct vfiomig_event event = VFIOMIG_EVENT_INIT;

static int readable(int fd)
{
    struct pollfd entry = { .fd = fd, .events = POLLIN };
    int r = poll(&entry, 1, 0);
    CHECK(r >= 0);
    return r == 1 && entry.revents == POLLIN;
}

static struct vfiomig_group *group_of(uint32_t role, const uint8_t *id)
{
    struct vfiomig_group_options o = VFIOMIG_GROUP_OPTIONS_INIT;
    struct vfiomig_group *group;
    o.role = role;
    if (id)
        memcpy(o.migration_id, id, sizeof o.migration_id);
    OK(vfiomig_group_new(&o, &group));
    return group;
}

/* The next event of this kind, whatever comes before it. */
static void next_of(struct vfiomig_group *group, uint32_t kind)
{
    do {
        int r = vfiomig_group_next_event(group, &event);
        if (r < 0)
            FAIL("no event %u: %s", kind, vfiomig_error_message());
        EQ(event.lost, 0);
    } while (event.kind != kind);
}

static void nothing_waits(struct vfiomig_group *group)
{
    int r;
    while ((r = vfiomig_group_next_event(group, &event)) == 0)
        ;
    EQ(r, -EAGAIN);
}

static void a_device_tells_what_happens_to_it_in_order(void)
{
    static const uint32_t wanted[] = {
        VFIOMIG_EVENT_SAVE_BEGAN, VFIOMIG_EVENT_STATE_ASKED, VFIOMIG_EVENT_STATE_CHANGED,
        VFIOMIG_EVENT_FIRST_DATA, VFIOMIG_EVENT_INITIAL_SENT, VFIOMIG_EVENT_ROUND,
        VFIOMIG_EVENT_STATE_ASKED, VFIOMIG_EVENT_STATE_CHANGED, VFIOMIG_EVENT_STATE_ASKED,
        VFIOMIG_EVENT_STATE_CHANGED, VFIOMIG_EVENT_FIRST_DATA, VFIOMIG_EVENT_LAST_DATA,
        VFIOMIG_EVENT_STATE_ASKED, VFIOMIG_EVENT_STATE_CHANGED, VFIOMIG_EVENT_SAVE_ENDED,
    };
    struct rig rig = rig_new(NULL, NULL);
    struct bytes stream = { NULL, 0, 0 };
    uint64_t before = 0;
    event.kind = 7;
    EQ(vfiomig_device_next_event(rig.dev, &event), -ENODATA);
    int fd = vfiomig_device_get_event_fd(rig.dev);
    CHECK(fd >= 0);
    EQ(vfiomig_device_get_event_fd(rig.dev), fd);
    EQ(vfiomig_device_next_event(rig.dev, &event), -EAGAIN);
    EQ(event.kind, 7);
    CHECK(!readable(fd));
    struct vfiomig_save *save = save_all(rig.dev, NULL, 1 << 17, &stream);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE));
    vfiomig_save_free(save);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        CHECK(readable(fd));
        OK(vfiomig_device_next_event(rig.dev, &event));
        EQ(event.kind, wanted[i]);
        EQ(event.struct_size, sizeof event);
        EQ(event.device, VFIOMIG_EVENT_NO_DEVICE);
        EQ(event.times, 1);
        EQ(event.lost, 0);
        CHECK(event.at_ns >= before);
        before = event.at_ns;
    }
    EQ(strcmp(event.text, "release"), 0);
    EQ(event.to, VFIOMIG_STATE_STOP);
    EQ(vfiomig_device_next_event(rig.dev, &event), -EAGAIN);
    CHECK(!readable(fd));
    rig_free(&rig);
    bytes_free(&stream);
}

static void a_failure_says_what_failed(void)
{
    struct rig rig = rig_new(NULL, NULL);
    CHECK(vfiomig_device_get_event_fd(rig.dev) >= 0);
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, ENOTCONN, VFIOMIG_SIM_FAULT_ERROR), 0);
    EQ(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP), -EIO);
    int seen = 0;
    while (vfiomig_device_next_event(rig.dev, &event) == 0) {
        if (event.kind == VFIOMIG_EVENT_DRIVER_FAILED) {
            EQ(event.operation, VFIOMIG_OP_SET_STATE);
            EQ(event.os_errno, ENOTCONN);
            EQ(event.from, VFIOMIG_STATE_RUNNING);
            EQ(event.to, VFIOMIG_STATE_STOP);
            seen |= 1;
        } else if (event.kind == VFIOMIG_EVENT_RESET) {
            EQ(seen, 1);
            EQ(event.cause, VFIOMIG_CAUSE_RECOVERY);
            EQ(event.outcome, VFIOMIG_OUTCOME_RESET);
            EQ(event.fixups, VFIOMIG_FIXUP_PCI_COMMAND | VFIOMIG_FIXUP_INTERRUPTS);
            seen |= 2;
        } else if (event.kind == VFIOMIG_EVENT_ERROR) {
            EQ(seen, 3);
            EQ(event.code, -EIO);
            EQ(event.os_errno, ENOTCONN);
            EQ(event.outcome, VFIOMIG_OUTCOME_RESET);
            CHECK(event.text[0]);
            for (const char *c = event.text; *c; c++)
                CHECK(*c >= ' ' && *c <= '~');
            seen |= 4;
        }
    }
    EQ(seen, 7);
    rig_free(&rig);
}

static void without_a_reader_the_oldest_are_dropped(void)
{
    enum { MOST = 96 };
    struct rig rig = rig_new(NULL, NULL);
    int fd = vfiomig_device_get_event_fd(rig.dev), count = 0;
    for (int i = 0; i < ROUNDS; i++)
        OK(vfiomig_device_set_state(rig.dev, i & 1 ? VFIOMIG_STATE_RUNNING : VFIOMIG_STATE_STOP));
    for (; vfiomig_device_next_event(rig.dev, &event) == 0; count++)
        EQ(event.lost, count == 0 ? 2 * ROUNDS - MOST : 0);
    EQ(count, MOST);
    EQ(event.kind, VFIOMIG_EVENT_STATE_CHANGED);
    EQ(event.to, VFIOMIG_STATE_RUNNING);
    CHECK(!readable(fd));
    rig_free(&rig);
}

/* --- groups -------------------------------------------------------------------------------------- */

static void a_group_tells_of_all_its_devices_and_of_verdicts(void)
{
    static uint8_t frame[VFIOMIG_GROUP_GOOD_BUFFER];
    static const uint8_t id[16] = { 1 };
    struct vfiomig_group *groups[2];
    struct rig rigs[2][2];
    struct vfiomig_estimate *estimate;
    struct vfiomig_decision decision = VFIOMIG_DECISION_INIT;
    size_t len;
    int r, fds[2];
    for (int side = 0; side < 2; side++) {
        groups[side] = group_of(side ? VFIOMIG_GROUP_ROLE_TARGET : VFIOMIG_GROUP_ROLE_SOURCE, id);
        for (int i = 0; i < 2; i++) {
            rigs[side][i] = side ? rig_target(NULL) : rig_new(NULL, NULL);
            OK(side ? vfiomig_group_add_load(groups[side], rigs[side][i].dev, NULL)
                    : vfiomig_group_add_save(groups[side], rigs[side][i].dev, NULL));
            /* One device is there before the descriptor, one comes after it. */
            if (i == 0) {
                EQ(vfiomig_group_next_event(groups[side], &event), -ENODATA);
                fds[side] = vfiomig_group_get_event_fd(groups[side]);
                CHECK(fds[side] >= 0 && !readable(fds[side]));
            }
        }
        OK(vfiomig_group_begin(groups[side]));
        CHECK(readable(fds[side]));
    }
    for (uint32_t i = 0; i < 2; i++) {
        next_of(groups[0], VFIOMIG_EVENT_SAVE_BEGAN);
        EQ(event.device, i);
    }
    next_of(groups[0], VFIOMIG_EVENT_PHASE);
    EQ(event.phase, VFIOMIG_GROUP_PHASE_OPEN);
    EQ(event.device, VFIOMIG_EVENT_NO_DEVICE);
    nothing_waits(groups[0]);

    OK(vfiomig_group_get_estimate(groups[0], &estimate));
    for (int i = 0; i < 3; i++)
        OK(vfiomig_estimate_decide(estimate, 0, 1000000, 0, &decision));
    OK(vfiomig_group_next_event(groups[0], &event));
    EQ(event.kind, VFIOMIG_EVENT_VERDICT);
    EQ(event.verdict, VFIOMIG_VERDICT_GO_ON);
    EQ(event.because, VFIOMIG_BECAUSE_NOTHING_KNOWN);
    EQ(event.verdict, decision.verdict);
    EQ(event.because, decision.because);
    EQ(event.device, decision.device);
    EQ(event.duration_ns, decision.expected_ns);
    EQ(strncmp(event.text, "go_on: nothing_known", 20), 0);
    /* The others said nothing new. */
    EQ(vfiomig_group_next_event(groups[0], &event), -EAGAIN);
    vfiomig_estimate_free(estimate);

    do {
        r = vfiomig_group_next(groups[0], frame, sizeof frame, &len);
        CHECK(r >= 0);
        if (len)
            OK(vfiomig_group_put(groups[1], frame, len));
        if (r == VFIOMIG_NEXT_DRAINED)
            OK(vfiomig_group_stop(groups[0]));
    } while (r != VFIOMIG_NEXT_END);
    OK(vfiomig_group_commit(groups[1]));
    OK(vfiomig_group_finish(groups[0], VFIOMIG_ENDING_RELEASE));
    uint32_t ends = 0, loaded = 0;
    while (vfiomig_group_next_event(groups[0], &event) == 0)
        ends += event.kind == VFIOMIG_EVENT_LAST_DATA ? 1u << event.device : 0;
    EQ(ends, 3);
    EQ(event.kind, VFIOMIG_EVENT_PHASE);
    EQ(event.phase, VFIOMIG_GROUP_PHASE_RELEASED);
    ends = 0;
    while (vfiomig_group_next_event(groups[1], &event) == 0) {
        loaded += event.kind == VFIOMIG_EVENT_INITIAL_LOADED ? 1u << event.device : 0;
        ends += event.kind == VFIOMIG_EVENT_LOAD_COMPLETE ? 1u << event.device : 0;
    }
    EQ(loaded, 3);
    EQ(ends, 3);
    EQ(event.phase, VFIOMIG_GROUP_PHASE_COMMITTED);
    /* A device is heard in its next group, and by itself; the group that it was in is gone. */
    CHECK(vfiomig_device_get_event_fd(rigs[0][1].dev) >= 0);
    vfiomig_group_free(groups[0]);
    OK(vfiomig_device_set_state(rigs[0][1].dev, VFIOMIG_STATE_RUNNING));
    groups[0] = group_of(VFIOMIG_GROUP_ROLE_SOURCE, NULL);
    CHECK(vfiomig_group_get_event_fd(groups[0]) >= 0);
    OK(vfiomig_group_add_save(groups[0], rigs[0][1].dev, NULL));
    OK(vfiomig_device_set_state(rigs[0][1].dev, VFIOMIG_STATE_STOP));
    next_of(groups[0], VFIOMIG_EVENT_STATE_CHANGED);
    EQ(event.device, 0);
    EQ(event.to, VFIOMIG_STATE_STOP);
    int changes = 0;
    while (vfiomig_device_next_event(rigs[0][1].dev, &event) == 0)
        changes += event.kind == VFIOMIG_EVENT_STATE_CHANGED;
    EQ(changes, 2);
    for (int side = 0; side < 2; side++) {
        vfiomig_group_free(groups[side]);
        for (int i = 0; i < 2; i++)
            rig_free(&rigs[side][i]);
    }
}

static void a_device_is_heard_by_all_groups_that_it_was_added_to(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_group *groups[2];
    for (int i = 0; i < 2; i++) {
        groups[i] = group_of(VFIOMIG_GROUP_ROLE_SOURCE, NULL);
        CHECK(vfiomig_group_get_event_fd(groups[i]) >= 0);
        OK(vfiomig_group_add_save(groups[i], rig.dev, NULL));
    }
    OK(vfiomig_group_begin(groups[0]));
    for (int i = 0; i < 2; i++) {
        next_of(groups[i], VFIOMIG_EVENT_SAVE_BEGAN);
        EQ(event.device, 0);
    }
    /* The one that does not have the device goes. */
    vfiomig_group_free(groups[1]);
    OK(vfiomig_group_stop(groups[0]));
    do
        next_of(groups[0], VFIOMIG_EVENT_STATE_CHANGED);
    while (event.to != VFIOMIG_STATE_STOP_COPY);
    vfiomig_group_free(groups[0]);
    rig_free(&rig);
}

static void an_estimate_does_not_keep_the_queue_of_a_group_that_is_gone(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_group *group = group_of(VFIOMIG_GROUP_ROLE_SOURCE, NULL);
    struct vfiomig_decision decision = VFIOMIG_DECISION_INIT;
    struct vfiomig_estimate *estimate;
    int fd = vfiomig_group_get_event_fd(group);
    CHECK(fd >= 0);
    OK(vfiomig_group_add_save(group, rig.dev, NULL));
    OK(vfiomig_group_get_estimate(group, &estimate));
    vfiomig_group_free(group);
    EQ(fcntl(fd, F_GETFD), -1);
    EQ(errno, EBADF);
    OK(vfiomig_estimate_decide(estimate, 0, 1000000, 0, &decision));
    vfiomig_estimate_free(estimate);
    rig_free(&rig);
}

/* --- threads ------------------------------------------------------------------------------------- */

struct fetcher {
    struct vfiomig_group *group;
    int fd;
    /* Changes to each state, of each device. */
    uint64_t changes[DEVICES], last_ns[DEVICES], lost;
    int wrong;
};

static int done;

static void *fetches(void *opaque)
{
    struct fetcher *f = opaque;
    struct vfiomig_event e = VFIOMIG_EVENT_INIT;
    for (;;) {
        int over = __atomic_load_n(&done, __ATOMIC_ACQUIRE);
        int r = vfiomig_group_next_event(f->group, &e);
        if (r == -EAGAIN && over)
            return NULL;
        if (r == -EAGAIN) {
            struct pollfd entry = { .fd = f->fd, .events = POLLIN };
            poll(&entry, 1, 1);
            continue;
        }
        f->wrong += r != 0 || e.device >= DEVICES || e.at_ns < f->last_ns[e.device];
        if (f->wrong)
            return NULL;
        f->last_ns[e.device] = e.at_ns;
        f->changes[e.device] += e.kind == VFIOMIG_EVENT_STATE_CHANGED;
        f->lost += e.lost;
    }
}

static void *changes_states(void *dev)
{
    for (int i = 0; i < ROUNDS; i++)
        OK(vfiomig_device_set_state(dev, i & 1 ? VFIOMIG_STATE_RUNNING : VFIOMIG_STATE_STOP));
    return NULL;
}

static void each_event_is_fetched_once_by_many_threads(void)
{
    struct vfiomig_group *group = group_of(VFIOMIG_GROUP_ROLE_SOURCE, NULL);
    struct rig rigs[DEVICES];
    struct fetcher fetchers[FETCHERS] = { 0 };
    pthread_t readers[FETCHERS], writers[DEVICES];
    uint64_t changes = 0, lost = 0;
    int fd = vfiomig_group_get_event_fd(group);
    CHECK(fd >= 0);
    for (int i = 0; i < DEVICES; i++) {
        rigs[i] = rig_new(NULL, NULL);
        OK(vfiomig_group_add_save(group, rigs[i].dev, NULL));
    }
    done = 0;
    for (int i = 0; i < FETCHERS; i++) {
        fetchers[i].group = group;
        fetchers[i].fd = fd;
        EQ(pthread_create(&readers[i], NULL, fetches, &fetchers[i]), 0);
    }
    for (int i = 0; i < DEVICES; i++)
        EQ(pthread_create(&writers[i], NULL, changes_states, rigs[i].dev), 0);
    for (int i = 0; i < DEVICES; i++)
        EQ(pthread_join(writers[i], NULL), 0);
    __atomic_store_n(&done, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < FETCHERS; i++) {
        EQ(pthread_join(readers[i], NULL), 0);
        EQ(fetchers[i].wrong, 0);
        lost += fetchers[i].lost;
        for (int j = 0; j < DEVICES; j++)
            changes += fetchers[i].changes[j];
    }
    /* Threads that get no time may miss some, which are then counted; a request comes with each change. */
    CHECK(changes <= DEVICES * ROUNDS);
    CHECK(changes + lost >= DEVICES * ROUNDS);
    if (lost == 0)
        EQ(changes, DEVICES * ROUNDS);
    CHECK(!readable(fd));
    vfiomig_group_free(group);
    for (int i = 0; i < DEVICES; i++)
        rig_free(&rigs[i]);
}

int main(void)
{
    RUN(a_device_tells_what_happens_to_it_in_order);
    RUN(a_failure_says_what_failed);
    RUN(without_a_reader_the_oldest_are_dropped);
    RUN(a_group_tells_of_all_its_devices_and_of_verdicts);
    RUN(a_device_is_heard_by_all_groups_that_it_was_added_to);
    RUN(an_estimate_does_not_keep_the_queue_of_a_group_that_is_gone);
    RUN(each_event_is_fetched_once_by_many_threads);
    return DONE();
}
