/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Both sides of a migration, as vfiomig(7) shows them, over a connection that is cut at every
 * message and with devices that fail at every step. However it ends, the guest runs on one side or
 * on none, and only where its device still holds its state.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "examples.h"

enum side { SOURCE, TARGET };

/* What becomes of a message when the connection is cut. */
enum cut { SENDING_FAILS, MESSAGE_IS_LOST, MESSAGE_ARRIVES, CUTS };

static struct {
    struct rig rigs[2];
    atomic_int vcpus_run[2];
    uint32_t fixups[2];        /* what the VMM has made again */
    uint64_t digest;           /* of the source's device, at first */
    uint64_t digest_at_stop;   /* ... and when the guest was stopped */
    int stopped;               /* messages of the source since then */
    int socks[2];
    atomic_int messages;       /* so far, of both sides */
    int cut_at;                /* the connection breaks with this one; 0: never */
    const char *cut_with;     /* ... or with this one; "?": never */
    enum cut cut;
    atomic_int broken;
    /* Something that happens to a device at this message. */
    int event_at;
    void (*event)(void);
    char blocked[464];
    int reported[2];
    int guest_resets;          /* ... its device, perhaps */
} vm;

/* Each side is a thread. */
static _Thread_local enum side side;
static _Thread_local uint32_t left_of_message;

struct message {
    char text[24]; /* empty: it brings `len` bytes of the stream */
    uint32_t len;
};

static int put(int sock, const void *data, size_t len)
{
    return send(sock, data, len, MSG_NOSIGNAL) == (ssize_t)len ? 0 : -EPIPE;
}

static int get(int sock, void *data, size_t len)
{
    return recv(sock, data, len, MSG_WAITALL) == (ssize_t)len ? 0 : -EPIPE;
}

static int send_message(int sock, const char *text, const void *data, size_t len)
{
    struct message m = { .len = (uint32_t)len };
    int number = atomic_fetch_add(&vm.messages, 1) + 1, r = 0;
    snprintf(m.text, sizeof m.text, "%s", text);
    /* A reset before vfiomig_save_stop() looks might have been the guest's own. */
    if (side == SOURCE && !vm.vcpus_run[SOURCE] && vm.stopped++ == 0)
        vm.digest_at_stop = vfiomig_sim_digest(vm.rigs[SOURCE].sim);
    if (number == vm.event_at)
        vm.event();
    if (atomic_load(&vm.broken))
        return -EPIPE;
    if (number == vm.cut_at || strcmp(text, vm.cut_with) == 0) {
        atomic_store(&vm.broken, 1); /* also for the answer */
        r = vm.cut == SENDING_FAILS ? -EPIPE : 0;
    }
    if (!vm.broken || vm.cut == MESSAGE_ARRIVES) {
        r = put(sock, &m, sizeof m);
        if (r == 0 && len > 0)
            r = put(sock, data, len);
    }
    if (vm.broken)
        shutdown(sock, SHUT_RDWR); /* what has been sent is still there to be received */
    return r;
}

static int send_all(int sock, const void *data, size_t len)
{
    return len > 0 ? send_message(sock, "", data, len) : 0;
}

static int tell(int sock, const char *text)
{
    return send_message(sock, text, NULL, 0);
}

static ssize_t receive(int sock, void *data, size_t len)
{
    struct message m;
    if (left_of_message == 0) {
        if (get(sock, &m, sizeof m) < 0)
            return -1;
        if (m.text[0])
            return 0; /* "keep" */
        left_of_message = m.len;
    }
    if (len > left_of_message)
        len = left_of_message;
    if (get(sock, data, len) < 0)
        return -1;
    left_of_message -= (uint32_t)len;
    return (ssize_t)len;
}

static void stop_vcpus(void)
{
    atomic_store(&vm.vcpus_run[side], 0);
    vm.digest_at_stop = vfiomig_sim_digest(vm.rigs[SOURCE].sim);
}

static void start_vcpus(void)
{
    atomic_store(&vm.vcpus_run[side], 1);
}

static int redo(struct vfiomig_device *dev, uint32_t fixups)
{
    (void)dev;
    vm.fixups[side] |= fixups;
    return 0;
}

static int switchover_wanted(struct vfiomig_save *save)
{
    struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
    return vfiomig_save_get_pending(save, &pending) < 0 || pending.initial_bytes == 0;
}

static void wait_a_little(struct vfiomig_save *save)
{
    (void)save;
}

static void block_migration(const char *why)
{
    snprintf(vm.blocked, sizeof vm.blocked, "%s", why);
}

static void report(const char *what)
{
    vm.reported[side]++;
    if (!*what)
        vm.reported[side] = -1000; /* there is always something to say */
}

/* EXAMPLE attach */
static int attach(int device_fd, struct vfiomig_device **dev)
{
    struct vfiomig_reason worst = VFIOMIG_REASON_INIT;
    int r = vfiomig_device_new_fd(device_fd, NULL, dev);

    if (r < 0)
        block_migration(vfiomig_error_message());
    else if (vfiomig_device_get_reason(*dev, 0, &worst) == 0 &&
             worst.severity == VFIOMIG_SEVERITY_BLOCKS)
        block_migration(worst.text);
    return r;
}
/* END */

/* EXAMPLE both */
/* What a migration comes to for one side. */
enum guest {
    HERE,       /* the guest runs on this side */
    THERE,      /* it is the other side's */
    UNKNOWN,    /* it is stopped here, and may run there: someone
                   who knows that it does not calls run_guest() */
    FAILED      /* it is stopped here: its device cannot run it */
};

/* What the other side says. */
enum answer {
    YES,        /* "committed", "go", "running" */
    NO,         /* "refused", "keep" */
    SILENCE     /* the connection broke, or it takes too long */
};

static int run_guest(struct vfiomig_device *dev)
{
    uint32_t fixups;
    int r = vfiomig_device_get_fixups(dev, &fixups);

    if (r == 0)
        r = redo(dev, fixups);            /* VFIOMIG_FIXUP_* */
    if (r == 0)
        r = vfiomig_device_run(dev);      /* to RUNNING */
    if (r == 0)
        start_vcpus();
    else
        report(vfiomig_error_message());
    return r;
}
/* END */

static enum answer hear(int sock)
{
    static const char *const yes[] = { "committed", "go", "running" };
    struct message m;
    do
        if (get(sock, &m, sizeof m) < 0)
            return SILENCE;
    while (strcmp(m.text, "initial data loaded") == 0);
    for (int i = 0; i < 3; i++)
        if (strcmp(m.text, yes[i]) == 0)
            return YES;
    return NO;
}

/* EXAMPLE source */
/* A call on the device has returned r: does it know its guest? */
static int is_intact(struct vfiomig_device *dev, int r)
{
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;

    if (r == 0)
        return 1;
    report(vfiomig_error_message());
    if (vfiomig_device_get_failure(dev, &failure) < 0)
        return 0;
    return failure.code != r ||   /* only the call was wrong */
           failure.outcome == VFIOMIG_OUTCOME_KEPT ||
           failure.outcome == VFIOMIG_OUTCOME_RECOVERED;
}

/* The guest goes on here; r: of vfiomig_save_begin(). */
static enum guest keep(struct vfiomig_device *dev,
                       struct vfiomig_save *save, int sock, int r)
{
    /* If this is lost, nothing is: without "go" the target waits. */
    tell(sock, "keep");
    if (save)
        r = vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP);
    if (is_intact(dev, r) && run_guest(dev) == 0)
        return HERE;
    stop_vcpus();             /* they run if pre-copy failed */
    return FAILED;
}

static enum guest migrate_out(struct vfiomig_device *dev, int sock)
{
    static char buf[VFIOMIG_GOOD_BUFFER];
    struct vfiomig_save *save = NULL;
    enum guest guest = UNKNOWN;
    size_t len;
    int r;

    r = vfiomig_save_begin(dev, NULL, &save);     /* to PRE_COPY */
    if (r < 0)
        goto keep;
    for (;;) {
        r = vfiomig_save_next(save, buf, sizeof buf, &len);
        if (r < 0 || send_all(sock, buf, len) < 0)
            goto keep;
        if (r == VFIOMIG_NEXT_DRAINED) {
            if (switchover_wanted(save))
                break;
            wait_a_little(save);
        }
    }

    stop_vcpus();
    r = vfiomig_save_stop(save);                  /* to STOP_COPY */
    if (r == -EAGAIN)         /* initial data again: never mind */
        r = vfiomig_save_stop(save);
    if (r < 0)
        goto keep;
    do {
        r = vfiomig_save_next(save, buf, sizeof buf, &len);
        if (r < 0 || send_all(sock, buf, len) < 0)
            goto keep;
    } while (r != VFIOMIG_NEXT_END);

    switch (hear(sock)) {
    case YES:                 /* "committed" */
        break;
    case NO:                  /* "refused" */
    case SILENCE:             /* it may have committed, but waits */
        goto keep;
    }
    /* Once "go" may have left, the guest is not this side's. */
    if (vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE) < 0)
        report(vfiomig_error_message());  /* the target has it */
    switch (tell(sock, "go") < 0 ? SILENCE : hear(sock)) {
    case YES:                 /* "running" */
        guest = THERE;
        break;
    case NO:                  /* "refused": it does not run */
        guest = run_guest(dev) == 0 ? HERE : FAILED;
        break;
    case SILENCE:             /* it may run */
        guest = UNKNOWN;
        break;
    }
    goto out;
keep:
    guest = keep(dev, save, sock, r);
out:
    vfiomig_save_free(save);
    return guest;
}
/* END */

/* EXAMPLE target */
static enum guest migrate_in(struct vfiomig_device *dev, int sock)
{
    struct vfiomig_load *load = NULL;
    enum guest guest = THERE;
    void *space;
    size_t len;
    ssize_t n;
    int r;

    r = vfiomig_load_begin(dev, NULL, &load);     /* to RESUMING */
    while (r >= 0 && !(r & VFIOMIG_PUSH_END)) {
        r = vfiomig_load_get_space(load, &space, &len);
        if (r < 0)
            break;
        n = receive(sock, space, len);
        if (n <= 0) {         /* 0: "keep"; or silence */
            r = -ECONNABORTED;
            break;
        }
        r = vfiomig_load_push_received(load, (size_t)n);
        if (r >= 0 && (r & VFIOMIG_PUSH_INITIAL_LOADED) &&
            tell(sock, "initial data loaded") < 0)
            r = -ECONNABORTED;
    }
    if (r >= 0)
        r = vfiomig_load_commit(load);            /* to STOP */
    if (r < 0) {
        tell(sock, "refused");    /* silence means the same here */
        goto out;
    }

    switch (tell(sock, "committed") < 0 ? SILENCE : hear(sock)) {
    case YES:                 /* "go" */
        if (run_guest(dev) == 0) {
            guest = HERE;
            tell(sock, "running");
        } else if (vfiomig_device_set_state(
                       dev, VFIOMIG_STATE_STOP) == 0 ||
                   vfiomig_device_reset(dev) == 0) {
            tell(sock, "refused");
        } else {              /* the device may still be running */
            guest = FAILED;
        }
        break;
    case NO:                  /* "keep" */
        break;
    case SILENCE:             /* it may have been either */
        guest = UNKNOWN;
        break;
    }
out:
    vfiomig_load_free(load);  /* resets what was not committed */
    /* Nothing of a guest stays that is not this side's. But a load
       that has not begun may have met another one. */
    if (load && guest == THERE && vfiomig_device_reset(dev) < 0)
        report(vfiomig_error_message());
    return guest;
}
/* END */

static enum guest ended[2];

static void *source(void *unused)
{
    (void)unused;
    side = SOURCE;
    ended[SOURCE] = migrate_out(vm.rigs[SOURCE].dev, vm.socks[SOURCE]);
    shutdown(vm.socks[SOURCE], SHUT_RDWR);
    return NULL;
}

static void *target(void *unused)
{
    (void)unused;
    side = TARGET;
    left_of_message = 0;
    ended[TARGET] = migrate_in(vm.rigs[TARGET].dev, vm.socks[TARGET]);
    shutdown(vm.socks[TARGET], SHUT_RDWR);
    return NULL;
}

static void begin(const struct vfiomig_sim_options *from, const struct vfiomig_sim_options *to)
{
    memset(&vm, 0, sizeof vm);
    vm.cut_with = "?";
    vm.rigs[SOURCE] = rig_new(from, NULL);
    vm.rigs[TARGET] = rig_target(to);
    /* Not what a reset leaves. */
    EQ(vfiomig_sim_guest_write(vm.rigs[SOURCE].sim, 0, 1000, 99), 0);
    vm.digest = vfiomig_sim_digest(vm.rigs[SOURCE].sim);
    EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, vm.socks), 0);
    atomic_store(&vm.vcpus_run[SOURCE], 1);
}

/* Whoever says that it runs the guest does, with its device; nobody else does. */
static void migrate(void)
{
    pthread_t threads[2];
    EQ(pthread_create(&threads[SOURCE], NULL, source, NULL), 0);
    EQ(pthread_create(&threads[TARGET], NULL, target, NULL), 0);
    pthread_join(threads[SOURCE], NULL);
    pthread_join(threads[TARGET], NULL);

    CHECK(!(vm.vcpus_run[SOURCE] && vm.vcpus_run[TARGET]));
    for (int i = 0; i < 2; i++) {
        EQ(vm.vcpus_run[i], ended[i] == HERE);
        uint32_t state = vfiomig_sim_state(vm.rigs[i].sim);
        /* It may run and fail at the same moment. */
        CHECK(ended[i] != HERE || state == VFIOMIG_STATE_RUNNING || state == VFIOMIG_STATE_ERROR);
    }
    if (ended[SOURCE] == THERE)
        EQ(ended[TARGET], HERE);
    if (ended[TARGET] == HERE) {
        CHECK(vfiomig_sim_digest(vm.rigs[TARGET].sim) == vm.digest_at_stop);
        CHECK(vm.fixups[TARGET] != 0);
    } else if (ended[SOURCE] != HERE) {
        /* The guest is on no side only where somebody has to see to it. */
        CHECK(ended[SOURCE] == UNKNOWN || ended[SOURCE] == FAILED);
    }
    /* Its device has not forgotten it, unless the guest itself has reset it. */
    if (ended[SOURCE] == HERE && !vm.guest_resets)
        CHECK(vfiomig_sim_digest(vm.rigs[SOURCE].sim) == vm.digest);
    if (ended[SOURCE] == HERE && vfiomig_sim_digest(vm.rigs[SOURCE].sim) != vm.digest)
        CHECK(vm.fixups[SOURCE] != 0);
    /* Nothing of the guest stays with a side that does not run it, unless that is reported. */
    if (ended[TARGET] == THERE && vm.digest_at_stop && !vm.reported[TARGET])
        CHECK(vfiomig_sim_digest(vm.rigs[TARGET].sim) != vm.digest_at_stop);
}

static void end(void)
{
    for (int i = 0; i < 2; i++) {
        close(vm.socks[i]);
        vfiomig_sim_clear_faults(vm.rigs[i].sim);
        rig_free(&vm.rigs[i]);
    }
}

static void the_guest_arrives(void)
{
    begin(NULL, NULL);
    migrate();
    EQ(ended[SOURCE], THERE);
    EQ(ended[TARGET], HERE);
    EQ(vfiomig_sim_state(vm.rigs[SOURCE].sim), VFIOMIG_STATE_STOP);
    end();
}

static void a_target_that_refuses_leaves_it_at_the_source(void)
{
    struct vfiomig_sim_options other = rig_options();
    other.model = 2;
    begin(NULL, &other);
    migrate();
    EQ(ended[SOURCE], HERE);
    EQ(ended[TARGET], THERE);
    end();
}

/* Also if the driver finds out only when it has everything. */
static void so_does_one_that_refuses_to_commit(void)
{
    begin(NULL, NULL);
    EQ(vfiomig_sim_inject(vm.rigs[TARGET].sim, VFIOMIG_SIM_OP_SET_STATE, 2, EINVAL, VFIOMIG_SIM_FAULT_ONCE), 0);
    migrate();
    EQ(ended[SOURCE], HERE);
    EQ(ended[TARGET], THERE);
    EQ(vm.fixups[SOURCE], 0);
    end();
}

static void a_target_whose_device_does_not_run_gives_it_back(void)
{
    begin(NULL, NULL);
    EQ(vfiomig_sim_inject(vm.rigs[TARGET].sim, VFIOMIG_SIM_OP_SET_STATE, 3, EIO, VFIOMIG_SIM_FAULT_ERROR), 0);
    migrate();
    EQ(ended[SOURCE], HERE);
    EQ(ended[TARGET], THERE);
    CHECK(vfiomig_sim_digest(vm.rigs[SOURCE].sim) == vm.digest_at_stop);
    end();
}

/* One that does not stop either is reset before the source hears of it. */
static void so_does_one_whose_device_does_not_stop_then(void)
{
    begin(NULL, NULL);
    EQ(vfiomig_sim_inject(vm.rigs[TARGET].sim, VFIOMIG_SIM_OP_SET_STATE, 3, EIO, VFIOMIG_SIM_FAULT_HALF), 0);
    EQ(vfiomig_sim_inject(vm.rigs[TARGET].sim, VFIOMIG_SIM_OP_SET_STATE, 4, EIO, VFIOMIG_SIM_FAULT_STICKY), 0);
    migrate();
    EQ(ended[SOURCE], HERE);
    EQ(ended[TARGET], THERE);
    CHECK(vfiomig_sim_count(vm.rigs[TARGET].sim, VFIOMIG_SIM_OP_RESET) > 0);
    end();
}

static void a_device_that_another_session_has_is_left_to_it(void)
{
    struct vfiomig_load *other;
    begin(NULL, NULL);
    OK(vfiomig_load_begin(vm.rigs[TARGET].dev, NULL, &other));
    uint64_t resets = vfiomig_sim_count(vm.rigs[TARGET].sim, VFIOMIG_SIM_OP_RESET);
    migrate();
    EQ(ended[SOURCE], HERE);
    EQ(ended[TARGET], THERE);
    EQ(vfiomig_sim_count(vm.rigs[TARGET].sim, VFIOMIG_SIM_OP_RESET), resets);
    EQ(vfiomig_sim_state(vm.rigs[TARGET].sim), VFIOMIG_STATE_RESUMING);
    vfiomig_load_free(other);
    end();
}

/* RELEASE does not say that the source may run it again. */
static void a_source_whose_device_was_not_left_as_it_was_does_not_take_it_back(void)
{
    begin(NULL, NULL);
    EQ(vfiomig_sim_inject(vm.rigs[SOURCE].sim, VFIOMIG_SIM_OP_SET_STATE, 4, EIO, VFIOMIG_SIM_FAULT_ERROR), 0);
    EQ(vfiomig_sim_inject(vm.rigs[TARGET].sim, VFIOMIG_SIM_OP_SET_STATE, 3, EIO, VFIOMIG_SIM_FAULT_ERROR), 0);
    migrate();
    EQ(ended[SOURCE], FAILED);
    EQ(ended[TARGET], THERE);
    end();
}

static void lose(const char *message, enum cut cut, enum guest of_source, enum guest of_target)
{
    begin(NULL, NULL);
    vm.cut_with = message;
    vm.cut = cut;
    migrate();
    EQ(ended[SOURCE], of_source);
    EQ(ended[TARGET], of_target);
    end();
}

static void a_connection_that_breaks_before_the_answer_leaves_it_at_the_source(void)
{
    lose("initial data loaded", SENDING_FAILS, HERE, THERE);
    lose("committed", SENDING_FAILS, HERE, UNKNOWN);
    lose("committed", MESSAGE_IS_LOST, HERE, UNKNOWN);
}

static void one_that_breaks_after_it_leaves_it_stopped_until_someone_knows(void)
{
    lose("committed", MESSAGE_ARRIVES, UNKNOWN, UNKNOWN);
    lose("go", SENDING_FAILS, UNKNOWN, UNKNOWN);
    lose("go", MESSAGE_IS_LOST, UNKNOWN, UNKNOWN);
    lose("go", MESSAGE_ARRIVES, UNKNOWN, HERE);
    lose("running", SENDING_FAILS, UNKNOWN, HERE);
    lose("running", MESSAGE_IS_LOST, UNKNOWN, HERE);
    lose("running", MESSAGE_ARRIVES, THERE, HERE);
}

/* Either side still has what it needs for it. */
static void someone_who_knows_lets_it_run_on_one_of_them(void)
{
    for (int i = 0; i < 2; i++) {
        begin(NULL, NULL);
        vm.cut_with = "go";
        vm.cut = MESSAGE_IS_LOST;
        migrate();
        side = (enum side)i;
        EQ(run_guest(vm.rigs[i].dev), 0);
        EQ(vm.vcpus_run[i], 1);
        CHECK(vfiomig_sim_digest(vm.rigs[i].sim) == vm.digest_at_stop);
        end();
    }
}

static void wherever_the_connection_breaks(void)
{
    for (int cut = 0; cut < CUTS; cut++)
        for (int at = 1, last = 0; !last; at++) {
            begin(NULL, NULL);
            vm.cut_at = at;
            vm.cut = (enum cut)cut;
            migrate();
            last = !vm.broken;
            CHECK(at < 20);
            if (last) {
                EQ(ended[SOURCE], THERE);
                EQ(ended[TARGET], HERE);
            }
            end();
        }
}

static void wherever_a_device_fails(void)
{
    static const uint32_t ops[] = {
        VFIOMIG_SIM_OP_GET_STATE, VFIOMIG_SIM_OP_SET_STATE, VFIOMIG_SIM_OP_READ, VFIOMIG_SIM_OP_WRITE,
        VFIOMIG_SIM_OP_PRECOPY_INFO,
    };
    static int ends[2][FAILED + 1];
    for (int i = 0; i < 2; i++)
        for (size_t op = 0; op < sizeof ops / sizeof *ops; op++)
            for (uint32_t effect = VFIOMIG_SIM_FAULT_ONCE; effect <= VFIOMIG_SIM_FAULT_IGNORED; effect++)
                for (uint64_t nth = 1; nth <= 8; nth++) {
                    /* A reset between the library's last look and the kernel's change to STOP or
                     * RUNNING leaves no trace, and one just after it is the guest's. */
                    if (i == TARGET && effect == VFIOMIG_SIM_FAULT_RESET && ops[op] <= VFIOMIG_SIM_OP_SET_STATE)
                        continue;
                    begin(NULL, NULL);
                    vm.guest_resets = effect == VFIOMIG_SIM_FAULT_RESET;
                    EQ(vfiomig_sim_inject(vm.rigs[i].sim, ops[op], nth, EIO, effect), 0);
                    migrate();
                    ends[0][ended[SOURCE]]++;
                    ends[1][ended[TARGET]]++;
                    end();
                }
    /* All of that has happened. */
    for (int i = HERE; i <= FAILED; i++)
        CHECK(ends[SOURCE][i] > 0 || i == UNKNOWN);
    CHECK(ends[TARGET][HERE] > 0 && ends[TARGET][THERE] > 0 && ends[TARGET][FAILED] > 0);
}

static void the_device_is_reset(void)
{
    vfiomig_sim_guest_reset(vm.rigs[SOURCE].sim);
}

/* If its guest is stopped, it is not run with a device that has forgotten it. */
static void a_reset_at_any_moment(void)
{
    for (int refused = 0; refused < 2; refused++)
        for (int at = 1, last = 0, failed = 0; !last; at++) {
            begin(NULL, NULL);
            vm.event_at = at;
            vm.event = the_device_is_reset;
            vm.guest_resets = 1;
            if (refused)
                EQ(vfiomig_sim_inject(vm.rigs[TARGET].sim, VFIOMIG_SIM_OP_SET_STATE, 2, EINVAL, VFIOMIG_SIM_FAULT_ONCE), 0);
            migrate();
            last = vm.messages < at;
            failed += ended[SOURCE] == FAILED;
            if (last)
                CHECK(failed > 0);
            end();
        }
}

static void a_device_that_cannot_migrate_blocks_it(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct vfiomig_device *dev;
    for (int blocked = 0; blocked < 2; blocked++) {
        memset(&vm, 0, sizeof vm);
        o.migration_flags = blocked ? VFIOMIG_SIM_NO_MIGRATION : 7;
        EQ(vfiomig_sim_new(&o, &sim_behind_fd), 0);
        OK(attach(SIM_FD, &dev));
        EQ(vm.blocked[0] != 0, blocked);
        vfiomig_device_free(dev);
        vfiomig_sim_free(sim_behind_fd);
    }
    EQ(attach(STDIN_FILENO, &dev), -ENOTTY);
    HAS(vm.blocked, "vfiomig_device_new_fd");
}

int main(void)
{
    RUN(the_guest_arrives);
    RUN(a_target_that_refuses_leaves_it_at_the_source);
    RUN(so_does_one_that_refuses_to_commit);
    RUN(a_target_whose_device_does_not_run_gives_it_back);
    RUN(so_does_one_whose_device_does_not_stop_then);
    RUN(a_device_that_another_session_has_is_left_to_it);
    RUN(a_source_whose_device_was_not_left_as_it_was_does_not_take_it_back);
    RUN(a_connection_that_breaks_before_the_answer_leaves_it_at_the_source);
    RUN(one_that_breaks_after_it_leaves_it_stopped_until_someone_knows);
    RUN(someone_who_knows_lets_it_run_on_one_of_them);
    RUN(wherever_the_connection_breaks);
    RUN(wherever_a_device_fails);
    RUN(a_reset_at_any_moment);
    RUN(a_device_that_cannot_migrate_blocks_it);
    return DONE();
}
