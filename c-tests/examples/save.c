/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the manual shows of a save, from its beginning to its end. */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "examples.h"

static struct bytes sent;
static int send_fails;

static int send_all(int sock, const void *data, size_t len)
{
    (void)sock;
    if (send_fails)
        return -EPIPE;
    bytes_add(&sent, data, len);
    return 0;
}

static int vcpus_run;

static void stop_vcpus(void)
{
    vcpus_run = 0;
}

static void start_vcpus(void)
{
    vcpus_run = 1;
}

/* EXAMPLE vfiomig_save_begin */
/* One of several devices of a VM: the target can tell by these
   numbers if it gets another device's stream. */
static int begin_save(struct vfiomig_device *dev, uint32_t index,
                      const uint8_t migration_id[16],
                      struct vfiomig_save **save)
{
    struct vfiomig_save_options options = VFIOMIG_SAVE_OPTIONS_INIT;
    int r;

    options.device_index = index;
    memcpy(options.migration_id, migration_id, 16);
    r = vfiomig_save_begin(dev, &options, save); /* to PRE_COPY */
    if (r < 0)                /* there is no migration */
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

/* EXAMPLE vfiomig_save_next */
/* Sends what the device has for now: while the guest runs, up to
   VFIOMIG_NEXT_DRAINED, and to VFIOMIG_NEXT_END when the device has
   stopped. Returns which, or -errno: then, keep the guest. */
static int send_stream(struct vfiomig_save *save, int sock)
{
    static char buf[VFIOMIG_GOOD_BUFFER];
    size_t len;
    int r;

    do {
        r = vfiomig_save_next(save, buf, sizeof buf, &len);
        if (r < 0)
            fprintf(stderr, "%s\n", vfiomig_error_message());
        else if (send_all(sock, buf, len) < 0)
            r = -EPIPE;
    } while (r == VFIOMIG_NEXT_MORE);
    return r;
}
/* END */

/* EXAMPLE vfiomig_save_get_pending */
/* Whether to switch over, for a device with VFIOMIG_CAP_PRE_COPY.
   acknowledged is the initial_generation that the target has sent;
   bandwidth is in bytes per second. The numbers are estimates, and
   need not become small: have a limit of time as well. */
static int is_time(struct vfiomig_save *save, uint32_t acknowledged,
                   uint64_t bandwidth, uint64_t downtime_ms)
{
    struct vfiomig_pending p = VFIOMIG_PENDING_INIT;
    uint64_t rest = 0, per_ms = bandwidth / 1000;
    int r = vfiomig_save_get_pending(save, &p);

    if (r < 0)
        return r;
    if (!(p.flags & VFIOMIG_PENDING_INITIAL_SENT) ||
        acknowledged != p.initial_generation || per_ms == 0)
        return 0;
    if (p.flags & VFIOMIG_PENDING_PRE_COPY_KNOWN)
        rest = p.initial_bytes + p.dirty_bytes;
    if (rest < p.dirty_bytes)            /* drivers make mistakes */
        rest = UINT64_MAX;
    if ((p.flags & VFIOMIG_PENDING_STOP_COPY_KNOWN) &&
        p.stop_copy_bytes > rest)
        rest = p.stop_copy_bytes;
    return rest / per_ms <= downtime_ms;
}
/* END */

/* EXAMPLE vfiomig_save_get_poll_fd */
/* After VFIOMIG_NEXT_DRAINED or -EAGAIN: waits until there may be
   more. Drivers that are always ready make the timer necessary. */
static int wait_for_data(struct vfiomig_save *save, int sock)
{
    struct pollfd fds[2] = { { .fd = sock, .events = POLLIN },
                             { .fd = -1, .events = POLLIN } };
    struct timespec pause = { .tv_nsec = 2000000 };
    int fd = vfiomig_save_get_poll_fd(save);

    if (fd < 0 && fd != -EOPNOTSUPP)     /* which is: none now */
        return fd;
    if (fd >= 0)
        fds[1].fd = fd;       /* not to be kept: it may change */
    if (poll(fds, 2, 10) > 0 && fds[1].revents)
        nanosleep(&pause, NULL);
    return fds[0].revents != 0;          /* the target has spoken */
}
/* END */

/* EXAMPLE vfiomig_save_quiesce */
/* Stops a VM with several devices: none of them is stopped while
   another one may reach it by peer-to-peer DMA. */
static int stop_vm(struct vfiomig_save **saves, int num)
{
    int r = 0;

    stop_vcpus();
    for (int i = 0; i < num && r == 0; i++) {
        r = vfiomig_save_quiesce(saves[i]);
        if (r == -EAGAIN)     /* initial data again: never mind */
            r = vfiomig_save_quiesce(saves[i]);
    }
    for (int i = 0; i < num && r == 0; i++) {
        r = vfiomig_save_stop(saves[i]);
        if (r == -EAGAIN)
            r = vfiomig_save_stop(saves[i]);
    }
    if (r < 0)                /* keep all of them */
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

/* EXAMPLE vfiomig_save_stop */
/* Stops a VM with one device. 1: the guest goes on, and pre-copy
   with it. too_late: the VMM does not want to wait any longer. */
static int switch_over(struct vfiomig_save *save, int too_late)
{
    int r;

    stop_vcpus();
    r = vfiomig_save_stop(save);          /* to STOP_COPY */
    if (r == -EAGAIN && !too_late) {
        /* Initial data has begun again, and the target has to
           acknowledge it again. */
        start_vcpus();
        return 1;
    }
    if (r == -EAGAIN)
        r = vfiomig_save_stop(save);      /* does not refuse twice */
    if (r < 0)                            /* keep it */
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

/* EXAMPLE vfiomig_save_add_blob */
#define PCI_CONFIG 1          /* a kind of the VMM's own choice */

/* After vfiomig_save_stop(): the guest changes nothing now.
   The target's blob callback gets the same bytes. */
static int add_config(struct vfiomig_save *save,
                      const uint8_t config[256])
{
    int r = vfiomig_save_add_blob(save, PCI_CONFIG, config, 256);

    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

/* EXAMPLE vfiomig_save_finish */
/* What is known after the end of the stream about a target that
   runs the guest as soon as it has committed. */
enum answer { COMMITTED, REFUSED, CONNECTION_LOST };

/* Returns whether the guest may go on here. */
static int end_save(struct vfiomig_save *save, enum answer answer)
{
    uint32_t ending = VFIOMIG_ENDING_KEEP;        /* to RUNNING */
    int r;

    if (answer == COMMITTED)
        ending = VFIOMIG_ENDING_RELEASE;          /* to STOP */
    /* It may run there. Someone who knows that it does not calls
       vfiomig_device_run() here. */
    if (answer == CONNECTION_LOST)
        ending = VFIOMIG_ENDING_KEEP_STOPPED;     /* to STOP */
    r = vfiomig_save_finish(save, ending);
    if (r < 0)                /* see vfiomig_save_get_failure() */
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r == 0 && answer == REFUSED;
}
/* END */

/* EXAMPLE vfiomig_save_get_failure */
/* A call has failed, vfiomig_save_finish() for example: does the
   device still hold what its guest relies on? */
static int is_intact(struct vfiomig_save *save)
{
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;

    if (vfiomig_save_get_failure(save, &failure) < 0)
        return 0;
    switch (failure.outcome) {
    case VFIOMIG_OUTCOME_KEPT:
    case VFIOMIG_OUTCOME_RECOVERED:
        return 1;
    default:                  /* reset or lost: its state is gone */
        fprintf(stderr, "the device is in %s, after errno %d\n",
                vfiomig_state_name(failure.state_after),
                failure.os_errno);
        return 0;
    }
}
/* END */

/* EXAMPLE vfiomig_save_get_stats */
/* Writes how long the guest's device stood still, and for what. */
static int write_downtime(struct vfiomig_save *save, FILE *out)
{
    struct vfiomig_save_stats s = VFIOMIG_SAVE_STATS_INIT;
    int r = vfiomig_save_get_stats(save, &s);

    if (r < 0)
        return r;
    fprintf(out, "%.1f ms to stop, %.1f ms to read %llu bytes\n",
            (double)(s.quiesce_ns + s.stop_ns) / 1e6,
            (double)s.stop_read_ns / 1e6,
            (unsigned long long)(s.data_bytes - s.precopy_bytes));
    return 0;
}
/* END */

/* EXAMPLE vfiomig_save_cancel */
/* The user has cancelled the migration of a VM with one device.
   `saver` is the thread that calls vfiomig_save_next(); `saving`
   becomes 0 when it has done so for the last time. The handler of
   SIGUSR1 does nothing, and was installed without SA_RESTART. */
static int cancel_save(struct vfiomig_save *save, pthread_t saver,
                       atomic_int *saving)
{
    int r = vfiomig_save_cancel(save);

    if (r < 0)
        return r;
    while (*saving) {         /* it may be about to block */
        pthread_kill(saver, SIGUSR1);
        usleep(1000);
    }
    return vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP);
}
/* END */

/* EXAMPLE vfiomig_save_free */
/* Where a VMM with one device gives up. Freeing an unfinished save
   keeps the device too, but nobody learns whether that worked, so
   finish it first. With NULL nothing happens. */
static int give_up(struct vfiomig_save *save)
{
    int r = vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP);

    vfiomig_save_free(save);
    return r;
}
/* END */

static struct vfiomig_save *begun(struct rig *rig)
{
    static const uint8_t id[16] = { 7, 7, 7 };
    struct vfiomig_save *save;
    bytes_free(&sent);
    vcpus_run = 1;
    *rig = rig_new(NULL, NULL);
    OK(begin_save(rig->dev, 3, id, &save));
    return save;
}

/* To where the target answers. */
static struct vfiomig_save *complete(struct rig *rig)
{
    struct vfiomig_save *save = begun(rig);
    EQ(send_stream(save, 0), VFIOMIG_NEXT_DRAINED);
    OK(switch_over(save, 0));
    EQ(send_stream(save, 0), VFIOMIG_NEXT_END);
    return save;
}

static void end(struct rig *rig, struct vfiomig_save *save)
{
    vfiomig_save_free(save);
    rig_free(rig);
    bytes_free(&sent);
}

static int load(const struct vfiomig_load_options *options)
{
    struct rig to = rig_target(NULL);
    struct vfiomig_load *loading;
    OK(vfiomig_load_begin(to.dev, options, &loading));
    int r = push_all(loading, &sent, SIZE_MAX);
    vfiomig_load_free(loading);
    rig_free(&to);
    return r;
}

static void a_stream_carries_its_devices_number(void)
{
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_sim_options none = rig_options();
    struct rig rig;
    struct vfiomig_save *save = complete(&rig);
    options.flags = VFIOMIG_LOAD_CHECK_DEVICE_INDEX | VFIOMIG_LOAD_CHECK_MIGRATION_ID;
    memset(options.migration_id, 7, 3);
    options.device_index = 3;
    CHECK(load(&options) & VFIOMIG_PUSH_END);
    options.device_index = 2;
    EQ(load(&options), -EXDEV);
    end(&rig, save);
    none.migration_flags = VFIOMIG_SIM_NO_MIGRATION;
    rig = rig_new(&none, NULL);
    EQ(begin_save(rig.dev, 0, options.migration_id, &save), -EOPNOTSUPP);
    rig_free(&rig);
}

static void a_stream_that_cannot_be_sent_or_read_is_an_error(void)
{
    struct rig rig;
    struct vfiomig_save *save = begun(&rig);
    send_fails = 1;
    EQ(send_stream(save, 0), -EPIPE);
    send_fails = 0;
    EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_READ, 1, EIO, VFIOMIG_SIM_FAULT_ONCE), 0);
    EQ(send_stream(save, 0), -EIO);
    OK(give_up(save));
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    save = NULL;
    end(&rig, save);
}

static void it_is_time_when_the_target_has_the_initial_data_and_the_rest_is_small(void)
{
    struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
    struct rig rig;
    struct vfiomig_save *save = begun(&rig);
    EQ(is_time(save, 0, 1000000, 1000), 0);
    EQ(send_stream(save, 0), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_get_pending(save, &pending));
    EQ(is_time(save, pending.initial_generation - 1, 1000000, 1000), 0);
    EQ(is_time(save, pending.initial_generation, 1000000, 1000), 1);
    EQ(is_time(save, pending.initial_generation, 1000000, 100), 0); /* 225 kB at 1 MB/s */
    EQ(is_time(save, pending.initial_generation, 0, 1000), 0);
    OK(give_up(save));
    EQ(is_time(save, 1, 1, 1), -EBADF);
    end(&rig, NULL);
}

static void waiting_ends_when_the_target_speaks(void)
{
    struct rig rig;
    struct vfiomig_save *save = begun(&rig);
    int socks[2];
    EQ(pipe(socks), 0);
    EQ(wait_for_data(save, socks[0]), 0);
    EQ(write(socks[1], "x", 1), 1);
    EQ(wait_for_data(save, socks[0]), 1);
    close(socks[0]);
    close(socks[1]);
    OK(vfiomig_save_cancel(save));
    EQ(wait_for_data(save, -1), -ECANCELED);
    end(&rig, save);
}

static void several_devices_stop_together(void)
{
    for (int fails = 0; fails < 2; fails++) {
        struct rig rigs[2];
        struct vfiomig_save *saves[2];
        for (int i = 0; i < 2; i++)
            saves[i] = begun(&rigs[i]);
        if (fails)
            EQ(vfiomig_sim_inject(rigs[1].sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO, VFIOMIG_SIM_FAULT_ONCE), 0);
        EQ(stop_vm(saves, 2), fails ? -EIO : 0);
        EQ(vcpus_run, 0);
        EQ(vfiomig_sim_state(rigs[0].sim), fails ? VFIOMIG_STATE_PRE_COPY_P2P : VFIOMIG_STATE_STOP_COPY);
        for (int i = 0; i < 2; i++)
            end(&rigs[i], saves[i]);
    }
}

/* With a device that says at the last moment that its initial data has begun again. */
static void the_guest_goes_on_if_initial_data_has_begun_again(void)
{
    struct vfiomig_sim_options o = rig_options();
    o.quirks = VFIOMIG_SIM_PRECOPY_INFO_V2;
    for (int many = 0; many < 2; many++)
        for (int late = 0; late < 2; late++) {
            struct vfiomig_save *save;
            struct rig rig = rig_new(&o, NULL);
            OK(vfiomig_save_begin(rig.dev, NULL, &save));
            EQ(send_stream(save, 0), VFIOMIG_NEXT_DRAINED);
            vfiomig_sim_reinit(rig.sim);
            if (many) {
                OK(stop_vm(&save, 1));
            } else {
                EQ(switch_over(save, late), !late);
                EQ(vcpus_run, !late);
            }
            EQ(vfiomig_sim_state(rig.sim), many || late ? VFIOMIG_STATE_STOP_COPY : VFIOMIG_STATE_PRE_COPY);
            end(&rig, save);
        }
}

static uint32_t blob_kind;

static int take_blob(void *opaque, uint32_t kind, const void *data, size_t len)
{
    (void)opaque;
    blob_kind = len == 256 && ((const uint8_t *)data)[255] == 9 ? kind : 0;
    return 0;
}

static void the_configuration_arrives(void)
{
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    uint8_t config[256] = { [255] = 9 };
    struct rig rig;
    struct vfiomig_save *save = begun(&rig);
    EQ(send_stream(save, 0), VFIOMIG_NEXT_DRAINED);
    OK(switch_over(save, 0));
    OK(add_config(save, config));
    EQ(send_stream(save, 0), VFIOMIG_NEXT_END);
    options.blob = take_blob;
    CHECK(load(&options) & VFIOMIG_PUSH_END);
    EQ(blob_kind, PCI_CONFIG);
    EQ(add_config(save, config), -EINVAL);
    end(&rig, save);
}

static void the_answer_decides_how_a_save_ends(void)
{
    static const uint32_t states[] = { VFIOMIG_STATE_STOP, VFIOMIG_STATE_RUNNING, VFIOMIG_STATE_STOP };
    for (int answer = COMMITTED; answer <= CONNECTION_LOST; answer++) {
        struct rig rig;
        struct vfiomig_save *save = complete(&rig);
        EQ(end_save(save, (enum answer)answer), answer == REFUSED);
        EQ(vfiomig_sim_state(rig.sim), states[answer]);
        OK(vfiomig_device_run(rig.dev)); /* by someone who knows */
        end(&rig, save);
    }
}

static void a_device_that_was_reset_is_not_intact(void)
{
    for (int reset = 0; reset < 2; reset++) {
        struct rig rig;
        struct vfiomig_save *save = begun(&rig);
        EQ(vfiomig_sim_inject(rig.sim, VFIOMIG_SIM_OP_SET_STATE, 1, EIO,
                              reset ? VFIOMIG_SIM_FAULT_ERROR : VFIOMIG_SIM_FAULT_ONCE), 0);
        EQ(switch_over(save, 0), -EIO);
        EQ(is_intact(save), !reset);
        EQ(end_save(save, REFUSED), !reset);
        EQ(vfiomig_device_run(rig.dev), reset ? -EIO : 0);
        end(&rig, save);
    }
    EQ(is_intact(NULL), 0);
}

static void how_long_it_took_is_known(void)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    struct rig rig;
    struct vfiomig_save *save = complete(&rig);
    CHECK(out);
    OK(write_downtime(save, out));
    fclose(out);
    HAS(text, " ms to stop, ");
    free(text);
    end(&rig, save);
}

static atomic_int saving;

static void *saver(void *save)
{
    intptr_t r;
    do
        r = send_stream(save, 0);
    while (r >= 0 && r != VFIOMIG_NEXT_END);
    atomic_store(&saving, 0);
    return (void *)r;
}

static void nothing(int signal)
{
    (void)signal;
}

static void a_save_on_another_thread_is_cancelled(void)
{
    struct sigaction action = { .sa_handler = nothing };
    struct vfiomig_sim_options o = rig_options();
    struct vfiomig_save *save;
    pthread_t thread;
    void *r;
    o.read_rate = 20000; /* half a minute, if nobody stops it */
    o.initial_size = o.state_size *= 2;
    struct rig rig = rig_new(&o, NULL);
    sigaction(SIGUSR1, &action, NULL);
    atomic_store(&saving, 1);
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(pthread_create(&thread, NULL, saver, save), 0);
    OK(cancel_save(save, thread, &saving));
    pthread_join(thread, &r);
    EQ((intptr_t)r, -ECANCELED);
    EQ(vfiomig_sim_state(rig.sim), VFIOMIG_STATE_RUNNING);
    end(&rig, save);
}

int main(void)
{
    RUN(a_stream_carries_its_devices_number);
    RUN(a_stream_that_cannot_be_sent_or_read_is_an_error);
    RUN(it_is_time_when_the_target_has_the_initial_data_and_the_rest_is_small);
    RUN(waiting_ends_when_the_target_speaks);
    RUN(several_devices_stop_together);
    RUN(the_guest_goes_on_if_initial_data_has_begun_again);
    RUN(the_configuration_arrives);
    RUN(the_answer_decides_how_a_save_ends);
    RUN(a_device_that_was_reset_is_not_intact);
    RUN(how_long_it_took_is_known);
    RUN(a_save_on_another_thread_is_cancelled);
    return DONE();
}
