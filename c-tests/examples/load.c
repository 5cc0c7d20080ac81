/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the manual shows of a load, from its beginning to its end. */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "examples.h"

static struct bytes stream;
static size_t received;

/* As a socket does: what there is, and 0 when the other side has closed it. */
static ssize_t receive(int sock, void *data, size_t len)
{
    size_t left = stream.len - received;
    (void)sock;
    len = len < left ? len : left;
    len = len < 10000 ? len : 10000;
    memcpy(data, stream.data + received, len);
    received += len;
    return (ssize_t)len;
}

static uint64_t acknowledged;

static int acknowledge(int sock, uint64_t generation)
{
    (void)sock;
    acknowledged = generation;
    return 0;
}

/* EXAMPLE vfiomig_load_begin */
#define PCI_CONFIG 1     /* as in vfiomig_save_add_blob() */

struct config {
    uint8_t bytes[256];
    int complete;
};

/* Called by vfiomig_load_push() and the like. */
static int take_blob(void *opaque, uint32_t kind, const void *data,
                     size_t len)
{
    struct config *config = opaque;

    if (kind != PCI_CONFIG || len != sizeof config->bytes)
        return -EPROTO;       /* which refuses the stream */
    memcpy(config->bytes, data, len);
    config->complete = 1;
    return 0;
}

static int begin_load(struct vfiomig_device *dev,
                      struct config *config,
                      struct vfiomig_load **load)
{
    struct vfiomig_load_options o = VFIOMIG_LOAD_OPTIONS_INIT;

    o.blob = take_blob;
    o.blob_opaque = config;
    return vfiomig_load_begin(dev, &o, load);
}
/* END */

/* EXAMPLE vfiomig_load_get_space vfiomig_load_push_received */
/* Receives a stream from a socket, to its end. After an error the
   device has been reset, or freeing the load does it. */
static int receive_stream(struct vfiomig_load *load, int sock)
{
    void *space;
    size_t len;
    int r;

    do {
        r = vfiomig_load_get_space(load, &space, &len);
        if (r < 0)
            break;
        ssize_t n = receive(sock, space, len);
        if (n <= 0)
            return -ENODATA;  /* the source is gone */
        r = vfiomig_load_push_received(load, (size_t)n);
    } while (r >= 0 && !(r & VFIOMIG_PUSH_END));
    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r < 0 ? r : 0;
}
/* END */

/* EXAMPLE vfiomig_load_get_deadline */
/* Waits for more of a stream, for as long as the limits allow. 0: it
   is there; otherwise the load is over. */
static int wait_for_more(struct vfiomig_load *load, int sock)
{
    struct pollfd fd = { .fd = sock, .events = POLLIN };
    int timeout_ms, n, r;

    do {
        r = vfiomig_load_get_deadline(load, &timeout_ms);
        if (r < 0)
            return r;
        n = poll(&fd, 1, timeout_ms);
        if (n > 0)
            return 0;
        r = vfiomig_load_push(load, NULL, 0);
    } while (r >= 0);
    return r;                 /* -ETIMEDOUT: the device was reset */
}
/* END */

/* EXAMPLE vfiomig_load_push */
/* The event callback in the options of the device. */
static void on_event(void *opaque,
                     const struct vfiomig_event *event)
{
    struct config *config = opaque;

    /* The source's device was reset: blobs will come again. */
    if (event->kind == VFIOMIG_EVENT_LOAD_RESTARTED)
        config->complete = 0;
}

/* Takes a message of the VMM's that brings a piece of the stream.
   1: the stream is complete. */
static int take_piece(struct vfiomig_load *load, const void *data,
                      size_t len)
{
    int r = vfiomig_load_push(load, data, len);

    if (r < 0) {              /* the device has been reset */
        fprintf(stderr, "%s\n", vfiomig_error_message());
        return r;
    }
    return (r & VFIOMIG_PUSH_END) != 0;
}
/* END */

/* EXAMPLE vfiomig_load_get_stats */
/* After VFIOMIG_PUSH_INITIAL_LOADED: tells the source, which
   compares the number with the initial_generation of its save. */
static int initial_loaded(struct vfiomig_load *load, int sock)
{
    struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
    int r = vfiomig_load_get_stats(load, &stats);

    return r < 0 ? r : acknowledge(sock, stats.initial_generation);
}
/* END */

/* EXAMPLE vfiomig_load_commit */
/* After the stream, when the source waits: 0, and it may let go of
   the guest; or else it keeps it. The device runs later. */
static int commit(struct vfiomig_load *load,
                  const struct config *config)
{
    int r;

    if (!config->complete)    /* what the VMM itself has to have */
        return -EPROTO;
    r = vfiomig_load_commit(load);        /* RESUMING to STOP */
    if (r < 0)
        fprintf(stderr, "%s\n", vfiomig_error_message());
    return r;
}
/* END */

/* EXAMPLE vfiomig_load_free */
/* What the source says to "committed". */
enum answer { GO, KEEP, SILENCE };

/* Ends a load. Not committed, it is abandoned, and its device is
   reset. GO: the load was committed, and the fix-ups are made. */
static int end_load(struct vfiomig_load *load, enum answer answer,
                    struct vfiomig_device *dev)
{
    vfiomig_load_free(load);
    switch (answer) {
    case GO:
        return vfiomig_device_run(dev);
    case SILENCE:   /* the guest may be this side's: it stays in STOP
                       until someone knows */
        return 0;
    case KEEP:
        break;
    }
    /* What was committed and is not run is still in the device. */
    return vfiomig_device_reset(dev);
}
/* END */

/* EXAMPLE vfiomig_load_cancel */
/* The VMM gives the load up. `loader` is the thread that calls
   vfiomig_load_push(); `loading` becomes 0 when it has done so for
   the last time. The handler of SIGUSR1 does nothing, and was
   installed without SA_RESTART. */
static int cancel_load(struct vfiomig_load *load, pthread_t loader,
                       atomic_int *loading)
{
    int r = vfiomig_load_cancel(load);

    while (r == 0 && *loading) {     /* it may be about to block */
        pthread_kill(loader, SIGUSR1);
        usleep(1000);
    }
    return r;
}
/* END */

/* EXAMPLE vfiomig_load_get_source_identity */
/* vfiomig_load_push() has returned -EXDEV: what did the source have,
   that this host has not? */
static int write_source(struct vfiomig_load *load, FILE *out)
{
    struct vfiomig_identity source = VFIOMIG_IDENTITY_INIT;
    int r = vfiomig_load_get_source_identity(load, &source);

    if (r < 0)                /* -ENODATA: it has not come yet */
        return r;
    fprintf(out, "saved with driver %s of Linux %s\n",
            source.driver, source.kernel_release);
    return 0;
}
/* END */

/* EXAMPLE vfiomig_load_get_failure */
/* After vfiomig_load_push() or vfiomig_load_commit() failed: was the
   load lost by that, or was only the call wrong? */
static int load_is_lost(struct vfiomig_load *load)
{
    struct vfiomig_failure failure = VFIOMIG_FAILURE_INIT;

    if (vfiomig_load_get_failure(load, &failure) < 0)
        return 1;
    if (failure.outcome == VFIOMIG_OUTCOME_LOST)
        fprintf(stderr, "the device needs a harder reset\n");
    return failure.code != 0;
}
/* END */

static uint8_t config_of_source[256] = { [4] = 6 };

/* A stream with a configuration; and what it contains. */
static uint64_t make_stream(const struct vfiomig_sim_options *options)
{
    struct rig rig = rig_new(options, NULL);
    struct vfiomig_save *save;
    uint64_t digest = vfiomig_sim_digest(rig.sim);
    bytes_free(&stream);
    received = 0;
    OK(vfiomig_save_begin(rig.dev, NULL, &save));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
    OK(vfiomig_save_stop(save));
    OK(vfiomig_save_add_blob(save, PCI_CONFIG, config_of_source, 256));
    EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
    vfiomig_save_free(save);
    rig_free(&rig);
    return digest;
}

static void a_stream_is_received_and_runs(void)
{
    struct rig to = rig_target(NULL);
    struct config config = { .complete = 0 };
    struct vfiomig_load *load;
    uint64_t digest = make_stream(NULL);
    OK(begin_load(to.dev, &config, &load));
    OK(receive_stream(load, -1));
    CHECK(memcmp(config.bytes, config_of_source, 256) == 0);
    OK(initial_loaded(load, -1));
    CHECK(acknowledged > 0);
    EQ(load_is_lost(load), 0);
    OK(commit(load, &config));
    OK(end_load(load, GO, to.dev));
    CHECK(vfiomig_sim_digest(to.sim) == digest);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    rig_free(&to);
    bytes_free(&stream);
}

/* A device that was committed and is not run: whose guest is it? */
static void one_that_is_not_run_is_reset_only_if_the_source_keeps_its_guest(void)
{
    for (int silent = 0; silent < 2; silent++) {
        struct rig to = rig_target(NULL);
        struct config config = { .complete = 0 };
        struct vfiomig_load *load;
        uint64_t digest = make_stream(NULL);
        OK(begin_load(to.dev, &config, &load));
        OK(receive_stream(load, -1));
        OK(commit(load, &config));
        OK(end_load(load, silent ? SILENCE : KEEP, to.dev));
        EQ(vfiomig_sim_state(to.sim), silent ? VFIOMIG_STATE_STOP : VFIOMIG_STATE_RUNNING);
        EQ(vfiomig_sim_digest(to.sim) == digest, silent);
        rig_free(&to);
    }
}

static void a_restart_makes_earlier_blobs_void_and_no_later_one(void)
{
    for (int again = 0; again < 2; again++) {
        struct config config = { .complete = 0 };
        struct vfiomig_device_options options = VFIOMIG_DEVICE_OPTIONS_INIT;
        struct rig from = rig_new(NULL, NULL);
        struct vfiomig_save *save;
        struct vfiomig_load *load;
        bytes_free(&stream);
        OK(vfiomig_save_begin(from.dev, NULL, &save));
        OK(vfiomig_save_add_blob(save, PCI_CONFIG, config_of_source, 256));
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
        vfiomig_sim_guest_reset(from.sim);
        OK(vfiomig_device_notify_reset(from.dev));
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_DRAINED), VFIOMIG_NEXT_DRAINED);
        OK(vfiomig_save_stop(save));
        if (again)
            OK(vfiomig_save_add_blob(save, PCI_CONFIG, config_of_source, 256));
        EQ(read_until(save, &stream, 8192, VFIOMIG_NEXT_END), VFIOMIG_NEXT_END);
        vfiomig_save_free(save);
        rig_free(&from);

        struct vfiomig_sim_options o = rig_options();
        o.seed += 1000;
        options.event = on_event;
        options.event_opaque = &config;
        struct rig to = rig_new(&o, &options);
        OK(begin_load(to.dev, &config, &load));
        EQ(take_piece(load, stream.data, stream.len), 1);
        EQ(commit(load, &config), again ? 0 : -EPROTO);
        OK(end_load(load, again ? GO : KEEP, to.dev));
        rig_free(&to);
    }
    bytes_free(&stream);
}

static void one_that_ends_early_leaves_nothing(void)
{
    struct rig to = rig_target(NULL);
    struct config config = { .complete = 0 };
    struct vfiomig_load *load;
    make_stream(NULL);
    stream.len -= 10;
    OK(begin_load(to.dev, &config, &load));
    EQ(receive_stream(load, -1), -ENODATA);
    config.complete = 0;
    EQ(commit(load, &config), -EPROTO);
    OK(end_load(load, KEEP, to.dev));
    CHECK(vfiomig_sim_count(to.sim, VFIOMIG_SIM_OP_RESET) > 0);
    EQ(vfiomig_sim_state(to.sim), VFIOMIG_STATE_RUNNING);
    rig_free(&to);
}

static void pieces_come_in_messages(void)
{
    struct rig to = rig_target(NULL);
    struct config config = { .complete = 0 };
    struct vfiomig_load *load;
    uint64_t digest = make_stream(NULL);
    OK(begin_load(to.dev, &config, &load));
    for (size_t at = 0, len; at < stream.len; at += len) {
        len = stream.len - at < 5000 ? stream.len - at : 5000;
        EQ(take_piece(load, stream.data + at, len), at + len == stream.len);
    }
    OK(commit(load, &config));
    OK(end_load(load, GO, to.dev));
    CHECK(vfiomig_sim_digest(to.sim) == digest);
    rig_free(&to);
    /* A damaged one. */
    to = rig_target(NULL);
    stream.data[stream.len / 2] ^= 1;
    OK(begin_load(to.dev, &config, &load));
    EQ(take_piece(load, stream.data, stream.len), -EBADMSG);
    EQ(load_is_lost(load), 1);
    EQ(commit(load, &config), config.complete ? -EINVAL : -EPROTO);
    vfiomig_load_free(load);
    rig_free(&to);
}

/* A source that has died, or sends too little. */
static void a_source_that_is_silent_ends_the_load(void)
{
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    struct vfiomig_limits limits = VFIOMIG_LIMITS_INIT;
    struct rig to = rig_target(NULL);
    struct vfiomig_load *load;
    int pipe_[2];

    limits.progress_timeout_ms = 50;
    options.limits = &limits;
    CHECK(pipe(pipe_) == 0 && write(pipe_[1], "x", 1) == 1);
    OK(vfiomig_load_begin(to.dev, &options, &load));
    OK(wait_for_more(load, pipe_[0]));
    char byte;
    EQ(read(pipe_[0], &byte, 1), 1);
    EQ(wait_for_more(load, pipe_[0]), -ETIMEDOUT);
    EQ(load_is_lost(load), 1);
    EQ(wait_for_more(NULL, pipe_[0]), -EFAULT);
    vfiomig_load_free(load);
    rig_free(&to);
    close(pipe_[0]);
    close(pipe_[1]);
}

static void a_stream_of_another_device_says_what_it_comes_from(void)
{
    struct vfiomig_sim_options o = rig_options();
    struct config config = { .complete = 0 };
    struct vfiomig_load *load;
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    CHECK(out);
    strcpy(o.driver, "another");
    make_stream(&o);
    struct rig to = rig_target(NULL);
    OK(begin_load(to.dev, &config, &load));
    EQ(write_source(load, out), -ENODATA);
    EQ(take_piece(load, stream.data, stream.len), -EXDEV);
    OK(write_source(load, out));
    fclose(out);
    EQ(strncmp(text, "saved with driver another of Linux ", 35), 0);
    free(text);
    vfiomig_load_free(load);
    rig_free(&to);
}

static void a_wrong_call_loses_nothing(void)
{
    struct rig to = rig_target(NULL);
    struct config config = { .complete = 0 };
    struct vfiomig_load *load;
    make_stream(NULL);
    OK(begin_load(to.dev, &config, &load));
    EQ(take_piece(load, NULL, 1), -EFAULT);
    EQ(load_is_lost(load), 0);
    EQ(load_is_lost(NULL), 1);
    EQ(vfiomig_sim_inject(to.sim, VFIOMIG_SIM_OP_WRITE, 1, ENODEV, VFIOMIG_SIM_FAULT_DIE), 0);
    CHECK(receive_stream(load, -1) < 0);
    EQ(load_is_lost(load), 1);
    vfiomig_load_free(load);
    vfiomig_sim_clear_faults(to.sim);
    rig_free(&to);
}

static atomic_int loading;

static void *loader(void *load)
{
    intptr_t r = receive_stream(load, -1);
    atomic_store(&loading, 0);
    return (void *)r;
}

static void nothing(int signal)
{
    (void)signal;
}

static void a_load_on_another_thread_is_cancelled(void)
{
    struct sigaction action = { .sa_handler = nothing };
    struct vfiomig_sim_options o = rig_options();
    struct config config = { .complete = 0 };
    struct vfiomig_load *load;
    pthread_t thread;
    void *r;
    make_stream(NULL);
    o.write_rate = 10000; /* half a minute, if nobody stops it */
    struct rig to = rig_target(&o);
    sigaction(SIGUSR1, &action, NULL);
    atomic_store(&loading, 1);
    OK(begin_load(to.dev, &config, &load));
    EQ(pthread_create(&thread, NULL, loader, load), 0);
    OK(cancel_load(load, thread, &loading));
    pthread_join(thread, &r);
    EQ((intptr_t)r, -ECANCELED);
    vfiomig_load_free(load);
    rig_free(&to);
    bytes_free(&stream);
}

int main(void)
{
    RUN(a_stream_is_received_and_runs);
    RUN(one_that_is_not_run_is_reset_only_if_the_source_keeps_its_guest);
    RUN(one_that_ends_early_leaves_nothing);
    RUN(a_restart_makes_earlier_blobs_void_and_no_later_one);
    RUN(pieces_come_in_messages);
    RUN(a_source_that_is_silent_ends_the_load);
    RUN(a_stream_of_another_device_says_what_it_comes_from);
    RUN(a_wrong_call_loses_nothing);
    RUN(a_load_on_another_thread_is_cancelled);
    return DONE();
}
