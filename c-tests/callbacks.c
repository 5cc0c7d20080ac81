/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Two callbacks at once, on two threads, each of which asks for what the other one's call is using:
 * devices, sessions and tracking objects in all combinations. Neither waits: both get -EBUSY, and
 * both calls end. With the other one out of the way, the same calls succeed.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "hooked.h"
#include "track.h"

/* Longer than anything here takes. A deadlock ends the program, and the test fails. */
enum { BOUND_S = 60 };

static void nap(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

static void *watch(void *opaque)
{
    atomic_int *done = opaque;
    for (int ms = 0; ms < BOUND_S * 1000 && !atomic_load(done); ms++)
        nap();
    if (!atomic_load(done)) {
        printf("not ok %s: two callbacks wait for each other\n", check_name_);
        fflush(stdout);
        _Exit(1);
    }
    return NULL;
}

/* What a callback belongs to, and what it asks for. */
enum where { IN_OP, IN_EVENT, IN_READ, IN_BLOB, IN_TRACKER, IN_SET_DIRTY, WHERES };
static const char *const names[WHERES] = {
    "a device's table", "events", "reading", "blobs", "a tracker", "set_dirty",
};

struct party {
    struct hooked hooked;
    enum where where;
    struct party *other;
    struct vfiomig_device *dev;
    struct vfiomig_save *save;
    struct vfiomig_load *load;
    struct vfiomig_dirty *dirty;
    struct tracker tracker;
    struct bytes stream;
    pthread_t thread;
    atomic_int armed, here, asked;
    int frees, answer, result;
};

/* Both are in their callbacks before either asks, and until both have asked. */
static void ask(struct party *p)
{
    struct party *other = p->other;
    uint64_t bits[1] = { 0 };
    uint32_t state;
    if (!atomic_exchange(&p->armed, 0))
        return;
    atomic_store(&p->here, 1);
    while (other && !atomic_load(&other->here))
        nap();
    struct party *asked = other ? other : p + 1;
    if (p->frees) {
        vfiomig_save_free(asked->save);
        vfiomig_load_free(asked->load);
        vfiomig_dirty_free(asked->dirty);
    }
    if (asked->where == IN_TRACKER || asked->where == IN_SET_DIRTY)
        p->answer = vfiomig_dirty_sync(asked->dirty, 0, 64 * PAGE, PAGE, bits, 1);
    else
        p->answer = vfiomig_device_get_state(asked->dev, &state);
    atomic_store(&p->asked, 1);
    while (other && !atomic_load(&other->asked))
        nap();
}

static void before(struct hooked *hooked, uint32_t op)
{
    struct party *p = (struct party *)hooked;
    if ((p->where == IN_OP && op == VFIOMIG_SIM_OP_GET_STATE) ||
        (p->where == IN_READ && op == VFIOMIG_SIM_OP_READ))
        ask(p);
}

static void on_event(void *opaque, const struct vfiomig_event *event)
{
    struct party *p = opaque;
    (void)event;
    if (p->where == IN_EVENT)
        ask(p);
}

static int on_blob(void *opaque, uint32_t kind, const void *data, size_t len)
{
    (void)kind;
    (void)data;
    (void)len;
    ask(opaque);
    return 0;
}

static void on_sync(void *opaque)
{
    struct party *p = opaque;
    if (p->where == IN_TRACKER)
        ask(p);
}

static int on_set_dirty(void *opaque, uint64_t cookie, uint64_t offset, uint64_t page_size,
                        const uint64_t *bitmap, uint64_t num_bits)
{
    struct party *p = opaque;
    (void)cookie;
    (void)offset;
    (void)page_size;
    (void)bitmap;
    (void)num_bits;
    if (p->where == IN_SET_DIRTY)
        ask(p);
    return 0;
}

static struct bytes stream_with_a_blob(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct bytes out = { NULL, 0, 0 };
    struct vfiomig_save *save;
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    OK(vfiomig_save_stop(save));
    OK(vfiomig_save_add_blob(save, 1, "abc", 3));
    EQ(read_until(save, &out, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    OK(vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP));
    vfiomig_save_free(save);
    rig_free(&rig);
    return out;
}

static void party_new(struct party *p, enum where where, struct party *other)
{
    struct vfiomig_sim_options o = rig_options();
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    struct vfiomig_load_options load = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_memory_ops memory = VFIOMIG_MEMORY_OPS_INIT;
    struct vfiomig_mapping mapping = VFIOMIG_MAPPING_INIT;
    *p = (struct party){ .where = where, .other = other, .answer = 1, .result = -1 };
    EQ(hooked_new(&p->hooked, &o, before), 0);
    options.event = on_event;
    options.event_opaque = p;
    OK(vfiomig_device_new_ops(&p->hooked.ops, p, &options, &p->dev));
    if (where == IN_READ) {
        OK(vfiomig_save_begin(p->dev, NULL, &p->save));
    } else if (where == IN_BLOB) {
        p->stream = stream_with_a_blob();
        load.blob = on_blob;
        load.blob_opaque = p;
        OK(vfiomig_load_begin(p->dev, &load, &p->load));
    } else if (where == IN_TRACKER || where == IN_SET_DIRTY) {
        memory.set_dirty = on_set_dirty;
        OK(vfiomig_dirty_new(&memory, p, NULL, &p->dirty));
        p->tracker = tracker_new(0, PAGE, 64);
        p->tracker.hook = on_sync;
        p->tracker.hook_opaque = p;
        add_writer(p->dirty, &p->tracker, NULL, 0);
        mapping.size = 64 * PAGE;
        OK(vfiomig_dirty_map(p->dirty, &mapping));
        OK(vfiomig_dirty_start(p->dirty));
        touch(&p->tracker, 0, 1);
    }
    atomic_store(&p->armed, 1);
}

/* The call whose callback asks. */
static void *party_calls(void *opaque)
{
    struct party *p = opaque;
    static _Thread_local uint8_t buf[8192];
    uint32_t state;
    size_t len;
    switch (p->where) {
    case IN_OP:
        p->result = vfiomig_device_get_state(p->dev, &state);
        break;
    case IN_EVENT:
        p->result = vfiomig_device_set_state(p->dev, VFIOMIG_STATE_STOP);
        break;
    case IN_READ:
        p->result = vfiomig_save_next(p->save, buf, sizeof buf, &len);
        break;
    case IN_BLOB:
        p->result = vfiomig_load_push(p->load, p->stream.data, p->stream.len);
        break;
    default:
        p->result = vfiomig_dirty_collect(p->dirty);
    }
    return NULL;
}

static void party_free(struct party *p)
{
    const char *what = "";
    vfiomig_dirty_free(p->dirty);
    vfiomig_save_free(p->save);
    vfiomig_load_free(p->load);
    vfiomig_device_free(p->dev);
    if (p->dirty)
        tracker_free(&p->tracker);
    if (vfiomig_sim_violations(p->hooked.sim, &what) != 0)
        FAIL("the library broke a rule of the kernel: %s", what);
    EQ(vfiomig_sim_open_streams(p->hooked.sim), 0);
    CHECK(vfiomig_sim_state(p->hooked.sim) != VFIOMIG_STATE_RESUMING);
    vfiomig_sim_free(p->hooked.sim);
    bytes_free(&p->stream);
}

static void both_ask(enum where a, enum where b, int frees)
{
    static struct party p[2];
    static atomic_int done;
    pthread_t watcher;
    party_new(&p[0], a, &p[1]);
    party_new(&p[1], b, &p[0]);
    p[0].frees = p[1].frees = frees;
    atomic_store(&done, 0);
    EQ(pthread_create(&watcher, NULL, watch, &done), 0);
    for (int i = 0; i < 2; i++)
        EQ(pthread_create(&p[i].thread, NULL, party_calls, &p[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(p[i].thread, NULL);
    atomic_store(&done, 1);
    pthread_join(watcher, NULL);
    for (int i = 0; i < 2; i++) {
        struct party *me = &p[i];
        if (!me->asked || me->answer != -EBUSY)
            FAIL("%s and %s: the answer in %s is %d", names[a], names[b], names[me->where],
                 me->answer);
        if (me->result < 0)
            FAIL("%s and %s: the call of %s returns %d", names[a], names[b], names[me->where],
                 me->result);
    }
    party_free(&p[0]);
    party_free(&p[1]);
}

static void callbacks_that_ask_for_each_others_devices_and_trackings_are_told_busy(void)
{
    for (enum where a = 0; a < WHERES; a++)
        for (enum where b = a; b < WHERES; b++)
            both_ask(a, b, 0);
}

/* Nor does one wait that frees what the other one's call is using: that handle stays. */
static void callbacks_that_free_each_others_sessions_do_not_wait(void)
{
    for (enum where a = 0; a < WHERES; a++)
        for (enum where b = a; b < WHERES; b++)
            both_ask(a, b, 1);
}

/* Nobody is in the way, so the same call succeeds. */
static void a_callback_may_ask_for_what_nobody_uses(void)
{
    static struct party p[2];
    for (enum where a = 0; a < WHERES; a++)
        for (enum where b = 0; b < WHERES; b++) {
            party_new(&p[0], a, NULL);
            party_new(&p[1], b, NULL);
            atomic_store(&p[1].armed, 0);
            party_calls(&p[0]);
            if (p[0].answer != 0 || p[0].result < 0)
                FAIL("in %s, of %s: %d, and %d", names[a], names[b], p[0].answer, p[0].result);
            party_free(&p[0]);
            party_free(&p[1]);
        }
}

/* --- a device that a call on another thread is using ----------------------------------------- */

static atomic_int blocked, go_on;

static void block(struct party *p)
{
    if (atomic_exchange(&p->armed, 0)) {
        atomic_store(&blocked, 1);
        while (!atomic_load(&go_on))
            nap();
    }
}

static int blocking_feature(void *opaque, uint32_t flags, void *data, size_t len)
{
    struct party *p = opaque;
    block(p);
    return vfiomig_sim_ops(p->hooked.sim)->feature(p->hooked.sim, flags, data, len);
}

static void *asks_for_its_state(void *opaque)
{
    struct party *p = opaque;
    uint32_t state;
    p->result = vfiomig_device_get_state(p->dev, &state);
    return NULL;
}

/* A device with a session on it, and a call of another thread inside the device, not the
 * session. */
static void party_in_use(struct party *p, struct vfiomig_save **save, struct vfiomig_load **load)
{
    party_new(p, IN_OP, NULL);
    vfiomig_device_free(p->dev);
    atomic_store(&p->armed, 0);
    p->hooked.ops.feature = blocking_feature;
    OK(vfiomig_device_new_ops(&p->hooked.ops, p, NULL, &p->dev));
    if (save)
        OK(vfiomig_save_begin(p->dev, NULL, save));
    if (load)
        OK(vfiomig_load_begin(p->dev, NULL, load));
    atomic_store(&blocked, 0);
    atomic_store(&go_on, 0);
    atomic_store(&p->armed, 1);
    EQ(pthread_create(&p->thread, NULL, asks_for_its_state, p), 0);
    while (!atomic_load(&blocked))
        nap();
}

static struct vfiomig_save *save_to_free;
static struct vfiomig_load *load_to_free;
static int events;

static void frees_on_event(void *opaque, const struct vfiomig_event *event)
{
    (void)opaque;
    (void)event;
    events++;
    vfiomig_save_free(save_to_free);
    vfiomig_load_free(load_to_free);
}

/* It would have to wait for the device to bring it back. What stays can be freed later. */
static void a_session_whose_device_is_in_use_is_not_freed_by_a_callback(void)
{
    for (int loads = 0; loads < 2; loads++) {
        static struct party used;
        struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
        struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
        struct vfiomig_save *save = NULL;
        struct vfiomig_load *load = NULL;
        party_in_use(&used, loads ? NULL : &save, loads ? &load : NULL);
        save_to_free = save;
        load_to_free = load;
        events = 0;
        options.event = frees_on_event;
        struct rig rig = rig_new(NULL, &options);
        OK(vfiomig_device_set_state(rig.dev, VFIOMIG_STATE_STOP));
        EQ(events, 1);
        HAS(vfiomig_error_message(), "not freed");
        atomic_store(&go_on, 1);
        pthread_join(used.thread, NULL);
        OK(used.result);
        OK(loads ? vfiomig_load_get_failure(load, &failure) : vfiomig_save_get_failure(save, &failure));
        EQ(vfiomig_sim_state(used.hooked.sim),
           loads ? VFIOMIG_STATE_RESUMING : VFIOMIG_STATE_PRE_COPY);
        /* When the device is idle, the callback frees it. */
        OK(vfiomig_device_run(rig.dev));
        EQ(events, 2);
        EQ(vfiomig_sim_state(used.hooked.sim), VFIOMIG_STATE_RUNNING);
        EQ(loads ? vfiomig_load_get_failure(load, &failure) : vfiomig_save_get_failure(save, &failure),
           -EBADF);
        rig_free(&rig);
        party_free(&used);
    }
}

/* The callback's own device is in use by the call that makes it. */
static void a_session_of_its_own_device_is_not_freed_by_a_callback(void)
{
    struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;
    options.event = frees_on_event;
    struct rig rig = rig_new(NULL, &options);
    save_to_free = NULL;
    load_to_free = NULL;
    OK(vfiomig_save_begin(rig.dev, NULL, &save_to_free));
    OK(vfiomig_device_reset(rig.dev));
    OK(vfiomig_save_get_failure(save_to_free, &failure));
    struct vfiomig_save *save = save_to_free;
    save_to_free = NULL;
    vfiomig_save_free(save);
    /* Nobody is using the device now. */
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    vfiomig_save_free(save);
    rig_free(&rig);
}

int main(void)
{
    RUN(callbacks_that_ask_for_each_others_devices_and_trackings_are_told_busy);
    RUN(callbacks_that_free_each_others_sessions_do_not_wait);
    RUN(a_callback_may_ask_for_what_nobody_uses);
    RUN(a_session_whose_device_is_in_use_is_not_freed_by_a_callback);
    RUN(a_session_of_its_own_device_is_not_freed_by_a_callback);
    return DONE();
}
