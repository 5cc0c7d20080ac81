/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The side that the guest leaves.
 *
 *     pre-copy     the guest runs; its memory and its device's state are sent, and sent again where
 *                  they change
 *     switchover   the vCPUs stop, the device stops, the rest is sent
 *     release      only after the target has committed
 *
 * Until MSG_GO is sent, the guest belongs to this side, and any failure ends with keep().
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "demo.h"
#include "device.h"
#include "guest.h"
#include "memory.h"
#include "net.h"
#include "tracking.h"
#include "vfiomig.h"

#define BUFFER_SIZE VFIOMIG_GOOD_BUFFER
#define BLOB_PCI_CONFIG 1u
#define DRAINED_WAIT_MS 5
#define ANSWER_TIMEOUT_MS 120000
#define MIB(bytes) ((double)(bytes) / (1 << 20))

struct source {
    const struct options *options;
    struct report *report;
    int sock;
    struct device device;
    struct guest guest;
    struct memory memory;
    struct tracking tracking; /* which pages of it are to be sent */
    struct vfiomig_save *save;
    uint8_t *buffer;
    uint8_t inbox[1024];
    bool has_pre_copy;
    struct initial_loaded loaded; /* what the target has said last */
    bool committed;               /* ... and whether it has said this */
    uint64_t began_ns;
    /* A round sends as much as was left when it began; in the meantime the guest makes more
     * dirty. */
    uint64_t round_began_ns, round_bytes, round_goal;
    double bandwidth; /* bytes per second, of the last round that was long enough to tell */
    uint64_t memory_bytes;   /* of the guest's memory, in this round */
    double memory_bandwidth; /* which is another one: no driver has to be asked */
    uint64_t sent;
    pthread_t canceller;
    bool cancelling;
};

static int give_up(struct source *s, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(s->report->why, sizeof s->report->why, format, args);
    va_end(args);
    return code;
}

/* The text is the thread's last one, so it must be taken before the next call. */
static int library_failed(struct source *s, int code)
{
    return give_up(s, code, "%s", vfiomig_error_message());
}

/* --- what the target says ------------------------------------------------------------------- */

/* Takes one message: its type, -EAGAIN if none came in time, or another -errno with a reason. */
static int hear(struct source *s, int timeout_ms)
{
    struct message m = { .data = s->inbox, .cap = sizeof s->inbox };
    int r = net_receive(s->sock, &m, timeout_ms);
    if (r == 0)
        return -EAGAIN;
    if (r < 0)
        return give_up(s, r, r == -EPIPE ? "the target is gone" : "the target makes no sense");
    if (m.type == MSG_FAILED)
        return give_up(s, -ECONNABORTED, "the target says: %.*s", (int)m.len, (char *)m.data);
    if (m.type == MSG_INITIAL_LOADED && m.len == sizeof s->loaded)
        memcpy(&s->loaded, m.data, sizeof s->loaded);
    if (m.type == MSG_COMMITTED)
        s->committed = true;
    return (int)m.type;
}

/* Everything that has come in the meantime. */
static int hear_all(struct source *s)
{
    for (;;) {
        int r = hear(s, 0);
        if (r < 0)
            return r == -EAGAIN ? 0 : r;
    }
}

static int send_message(struct source *s, uint32_t type, uint64_t where, const void *data, size_t len)
{
    int r = net_send_at(s->sock, type, where, data, len);
    if (r == 0)
        return hear_all(s);
    /* The reason why it closed the connection may be waiting to be read. */
    int said = hear_all(s);
    return said < 0 ? said : give_up(s, r, "sending to the target failed: %s", strerror(-r));
}

/* Halfway, the thread that cancels is given time to do so: the migration could be over before
 * its turn. */
static void let_cancel(struct source *s)
{
    struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
    if (!s->cancelling || vfiomig_save_get_stats(s->save, &stats) < 0 ||
        stats.data_bytes < s->options->state_size / 2)
        return;
    pthread_join(s->canceller, NULL);
    s->cancelling = false;
}

static int send_stream(struct source *s, size_t len)
{
    if (s->options->fail_at == FAIL_CORRUPT && s->sent < s->options->state_size / 2 &&
        s->sent + len >= s->options->state_size / 2)
        s->buffer[len / 2] ^= 0x10;
    int r = send_message(s, MSG_STREAM, 0, s->buffer, len);
    s->sent += len;
    s->round_bytes += len;
    let_cancel(s);
    return r;
}

/* --- memory --------------------------------------------------------------------------------- */

static int start_tracking(struct source *s)
{
    if (s->memory.size == 0)
        return 0;
    int r = tracking_start(&s->tracking, &s->memory, &s->device);
    if (r < 0)
        return s->tracking.dirty ? library_failed(s, r) : give_up(s, r, "no memory for a bitmap");
    if (s->options->fail_at == FAIL_LOG_REFUSES)
        device_inject(&s->device, LOG_REPORTS, 1, EIO);
    if (s->options->fail_at == FAIL_LOG_FORGETS)
        device_inject(&s->device, LOG_REPORT_FORGETS, 2, EIO);
    if (s->options->fail_at == FAIL_SET_DIRTY)
        s->tracking.refuse = EIO;
    return 0;
}

/* A negative value means that pages may be missing. If pages merely count as dirty because
 * something failed, there is more to send, and nothing else to do about it. */
static int collect(struct source *s, bool without_device)
{
    int r = tracking_collect(&s->tracking, without_device);
    return r < 0 ? library_failed(s, r) : 0;
}

/* Everything that was collected, straight from where the guest and its device go on writing: a
 * page that changes while it is sent is dirty again. */
static int send_memory(struct source *s)
{
    uint64_t before = now_ns(), offset, len, bytes = 0;
    if (!s->tracking.mig)
        return 0;
    while ((len = tracking_take(&s->tracking, BUFFER_SIZE, &offset)) > 0) {
        int r = send_message(s, MSG_MEMORY, offset, s->memory.ram + offset, len);
        if (r < 0)
            return r;
        bytes += len;
    }
    double seconds = (double)(now_ns() - before) / 1e9;
    if ((bytes >= 1 << 20 || s->memory_bandwidth == 0) && seconds > 0)
        s->memory_bandwidth = (double)bytes / seconds;
    s->memory_bytes += bytes;
    s->report->memory_bytes += bytes;
    return 0;
}

/* What the last pages will cost when the guest has stopped: reading the log, and sending. */
static double memory_ms(const struct source *s)
{
    double ms = (double)s->tracking.stats.last_sync_ns / 1e6;
    if (s->memory_bandwidth > 0)
        ms += (double)tracking_left(&s->tracking) / s->memory_bandwidth * 1e3;
    return ms;
}

static void stop_tracking(struct source *s)
{
    if (s->tracking.mig) {
        s->report->logged_bytes = s->tracking.device.dirty_bytes;
        s->report->tracking_errors = s->tracking.stats.errors;
        s->report->tracker = s->tracking.device.tracker;
    }
    tracking_stop(&s->tracking);
}

/* --- pre-copy ------------------------------------------------------------------------------- */

static void show_bar(struct source *s)
{
    static const char full[] = "##############################";
    static uint64_t shown_ns;
    uint64_t now = now_ns();
    if (!isatty(STDOUT_FILENO) || now - shown_ns < 50000000)
        return;
    shown_ns = now;
    uint64_t goal = s->round_goal > s->round_bytes ? s->round_goal : s->round_bytes;
    int width = goal > 0 ? (int)((double)s->round_bytes / (double)goal * 30) : 30;
    double seconds = (double)(now - s->round_began_ns) / 1e9;
    printf("\r[%.*s%*s] round %u: %.0f of %.0f MiB, %.0f MiB/s\033[K", width, full, 30 - width, "",
           s->report->rounds + 1, MIB(s->round_bytes), MIB(goal),
           seconds > 0 ? MIB(s->round_bytes) / seconds : 0);
    fflush(stdout);
}

/*
 * Whether to switch over now. All of the driver's numbers are estimates, and none of them needs to
 * fall: in the end, the time limit on pre-copy decides.
 */
static int end_round(struct source *s, bool *wanted)
{
    struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
    int r = vfiomig_save_get_pending(s->save, &pending);
    if (r < 0)
        return library_failed(s, r);
    uint64_t now = now_ns();
    double seconds = (double)(now - s->round_began_ns) / 1e9;
    if ((s->round_bytes >= 1 << 20 || s->bandwidth == 0) && seconds > 0)
        s->bandwidth = (double)s->round_bytes / seconds;
    /* What pre-copy has left is to be sent in any case; some drivers send more than that when
     * the device has stopped, and say so. */
    uint64_t left = pending.initial_bytes + pending.dirty_bytes;
    s->round_goal = left;
    if (pending.flags & VFIOMIG_PENDING_STOP_COPY_KNOWN && pending.stop_copy_bytes > left)
        left = pending.stop_copy_bytes;

    if ((r = collect(s, false)) < 0)
        return r;

    bool bar = isatty(STDOUT_FILENO);
    if (s->round_bytes > 0) {
        printf("%ssource: round %u: %.2f MiB at %.0f MiB/s, %.2f MiB left", bar ? "\r\033[K" : "",
               ++s->report->rounds, MIB(s->round_bytes), s->bandwidth / (1 << 20), MIB(left));
        if (s->tracking.mig)
            printf("; memory: %.2f MiB, %.2f MiB left", MIB(s->memory_bytes),
                   MIB(tracking_left(&s->tracking)));
        if (s->tracking.device.tracker == VFIOMIG_TRACKER_DEVICE_LOG)
            printf(", the device writes to %.1f MiB/s", MIB(s->tracking.device.rate));
        printf("\n");
    }
    s->round_began_ns = now;
    s->round_bytes = s->memory_bytes = 0;

    /* Initial data is what the target needs time for: allocating, programming. Stopping before
     * it has loaded that would add this time to the downtime. */
    bool initial_loaded = !s->has_pre_copy ||
                          (pending.flags & VFIOMIG_PENDING_INITIAL_SENT &&
                           s->loaded.generation == pending.initial_generation);
    double ms = s->bandwidth > 0 ? (double)left / s->bandwidth * 1e3 : 0;
    double limit = (double)s->options->downtime_limit_ms, total = ms + memory_ms(s);
    if (s->tracking.unwatched) {
        /* It is always dirty, however long one waits, so only the device counts. If the downtime
         * matters more than the migration, this is the moment to abandon it. */
        *wanted = initial_loaded && ms <= limit;
        if (*wanted)
            printf("source: nobody tracks the memory, and waiting makes it no less: switching over, "
                   "with %.1f ms for it\n", memory_ms(s));
        return 0;
    }
    *wanted = initial_loaded && total <= limit;
    if (*wanted)
        printf("source: the rest will take %.1f ms of the %llu allowed: switching over\n", total,
               (unsigned long long)s->options->downtime_limit_ms);
    return 0;
}

/* If the guest is faster than the driver, pre-copy would go on forever. */
static bool precopy_took_too_long(struct source *s)
{
    uint64_t ms = (now_ns() - s->began_ns) / 1000000;
    if (s->sent == 0 || ms < s->options->precopy_limit_ms)
        return false;
    printf("source: pre-copy has taken %llu ms: switching over, whatever it costs\n",
           (unsigned long long)ms);
    return true;
}

/* The device has nothing to send: wait for it, or for the target, but not for long. */
static void wait_drained(struct source *s)
{
    struct pollfd fds[2] = { { .fd = s->sock, .events = POLLIN }, { .fd = -1, .events = POLLIN } };
    uint64_t before = now_ns();
    int fd = vfiomig_save_get_poll_fd(s->save);
    if (fd >= 0)
        fds[1].fd = fd;
    poll(fds, 2, DRAINED_WAIT_MS);
    /* Many drivers are always "ready": the timer is what counts. */
    if (fds[0].revents == 0 && now_ns() - before < 1000000)
        poll(fds, 1, DRAINED_WAIT_MS);
}

static int pre_copy(struct source *s)
{
    bool wanted = false, was_reset = false;
    int r;
    s->round_goal = s->options->state_size;
    if ((r = send_memory(s)) < 0)
        return r;
    s->round_began_ns = now_ns();
    for (;;) {
        size_t len;
        int status = vfiomig_save_next(s->save, s->buffer, BUFFER_SIZE, &len);
        if (status < 0)
            return library_failed(s, status);
        r = len > 0 ? send_stream(s, len) : hear_all(s);
        if (r < 0)
            return r;
        show_bar(s);
        if (s->options->fail_at == FAIL_GUEST_RESET && !was_reset &&
            s->sent > s->options->state_size / 2) {
            was_reset = true;
            printf("source: the guest resets its device\n");
            device_guest_reset(&s->device);
            /* A VMM sees it in the configuration space that it gives to the guest. The device's
             * log is gone as well, and whatever it held counts as dirty. */
            if ((r = vfiomig_device_notify_reset(s->device.mig)) < 0)
                return library_failed(s, r);
        }
        if (precopy_took_too_long(s))
            return 0;
        if (status != VFIOMIG_NEXT_DRAINED && s->round_bytes < s->round_goal)
            continue;
        if ((r = end_round(s, &wanted)) < 0)
            return r;
        if (wanted)
            return 0;
        /* What is dirty in any case is sent once the guest has stopped, and not in vain before. */
        if (!s->tracking.unwatched && (r = send_memory(s)) < 0)
            return r;
        if (status == VFIOMIG_NEXT_DRAINED)
            wait_drained(s);
        s->round_began_ns = now_ns();
    }
}

/* --- switchover ----------------------------------------------------------------------------- */

enum { BEGAN_AGAIN = 1 };

/*
 * Quiesces the device. If it has started its initial data again at the last moment, the guest goes
 * on and so does pre-copy, unless that has taken too long already.
 */
static int quiesce(struct source *s)
{
    int r = vfiomig_save_quiesce(s->save);
    if (r == -EAGAIN && !precopy_took_too_long(s)) {
        printf("source: %s\n", vfiomig_error_message());
        guest_run(&s->guest);
        s->report->vcpus_run = true;
        return BEGAN_AGAIN;
    }
    if (r == -EAGAIN)
        r = vfiomig_save_quiesce(s->save);
    return r < 0 ? library_failed(s, r) : 0;
}

/* A quiesced device has no way back to pre-copy, so a refusal is not taken for an answer. */
static int stop(struct source *s)
{
    int r = vfiomig_save_stop(s->save);
    if (r == -EAGAIN)
        r = vfiomig_save_stop(s->save);
    return r < 0 ? library_failed(s, r) : 0;
}

/* What the stopped device still has to say. */
static int send_rest(struct source *s)
{
    enum failure fail_at = s->options->fail_at;
    int status, r;
    if (fail_at == FAIL_SOURCE_DRAIN)
        device_inject(&s->device, READ, 2, EIO);
    do {
        size_t len;
        status = vfiomig_save_next(s->save, s->buffer, BUFFER_SIZE, &len);
        if (status < 0)
            return library_failed(s, status);
        if (fail_at == FAIL_KILL_SOURCE_EARLY) {
            send_stream(s, len / 2);
            raise(SIGKILL);
        }
        if ((r = send_stream(s, len)) < 0)
            return r;
    } while (status != VFIOMIG_NEXT_END);
    return 0;
}

/* Commit or failure. A quick target may have committed before send_stream() looked for messages,
 * and acknowledgements of initial data may still be on their way. */
static int await_commit(struct source *s)
{
    while (!s->committed) {
        int r = hear(s, ANSWER_TIMEOUT_MS);
        if (r == -EAGAIN)
            return give_up(s, -ETIMEDOUT, "the target does not answer");
        if (r < 0)
            return r;
        if (r != MSG_COMMITTED && r != MSG_INITIAL_LOADED)
            return give_up(s, -EPROTO, "the target answers with message %d", r);
    }
    return 0;
}

/* 0, BEGAN_AGAIN or -errno. */
static int switchover(struct source *s)
{
    uint64_t *at = s->report->at_ns;
    enum failure fail_at = s->options->fail_at;
    int r;

    guest_stop(&s->guest);
    at[VCPUS_STOPPED] = now_ns();

    /* With several devices: all of them, before any of them is stopped. */
    if (fail_at == FAIL_SOURCE_QUIESCE)
        device_inject(&s->device, CHANGE_OF_STATE, 1, EBUSY);
    if ((r = quiesce(s)) != 0)
        return r;
    at[QUIESCED] = now_ns();

    if (fail_at == FAIL_SOURCE_STOP)
        device_inject(&s->device, CHANGE_OF_STATE, 1, EBUSY);
    if ((r = stop(s)) != 0)
        return r;
    at[STOPPED] = now_ns();

    /* The device has written for the last time, after the vCPUs, so only this reading is the
     * last one. It comes before the save is finished, because some drivers' logs end with it. */
    uint64_t before = s->report->memory_bytes;
    if ((r = collect(s, s->options->skip_last_collect)) < 0 || (r = send_memory(s)) < 0)
        return r;
    s->report->memory_stop_bytes = s->report->memory_bytes - before;
    if (s->tracking.mig)
        at[MEMORY_SENT] = now_ns();

    /* The guest can write to its configuration space until it is stopped, so not earlier. */
    uint8_t config[PCI_CONFIG_SIZE];
    device_read_config(&s->device, config);
    s->report->pci_command = (uint16_t)(config[4] | config[5] << 8);
    if ((r = vfiomig_save_add_blob(s->save, BLOB_PCI_CONFIG, config, sizeof config)) < 0)
        return library_failed(s, r);

    if ((r = send_rest(s)) < 0)
        return r;
    at[SENT] = now_ns();
    return await_commit(s);
}

/* --- the two ends --------------------------------------------------------------------------- */

static int redo_fixups(struct source *s)
{
    uint8_t config[PCI_CONFIG_SIZE];
    int r = vfiomig_device_get_fixups(s->device.mig, &s->report->fixups);
    if (r < 0)
        return r;
    device_read_config(&s->device, config);
    if (s->report->fixups & VFIOMIG_FIXUP_PCI_COMMAND)
        device_restore_command(&s->device, config);
    if (s->report->fixups & VFIOMIG_FIXUP_INTERRUPTS)
        device_restore_interrupts(&s->device, config);
    return 0;
}

/* A guest is not run with a device that has forgotten it, or may have. */
static void lost(struct source *s, const char *what)
{
    printf("source: %s: %s\n", what, vfiomig_error_message());
    s->report->lost = true;
}

/* The guest goes on here. */
static void keep(struct source *s)
{
    printf("source: %s\n", s->report->why);
    stop_tracking(s);
    /* Before anything runs again, so that the target cannot take a commit for permission. What
     * comes back does not matter: a target that cannot be told is gone. On a network it may only
     * be cut off: ask someone who can fence it before you run the guest twice. */
    net_send(s->sock, MSG_KEEP, NULL, 0);

    if (s->save && vfiomig_save_finish(s->save, VFIOMIG_ENDING_KEEP) < 0) {
        lost(s, "the device cannot be brought back");
        return;
    }
    /* Nothing is lost, or KEEP would have failed. After a reset that the guest made itself in
     * pre-copy, there is something to redo anyway. */
    if (redo_fixups(s) < 0) {
        lost(s, "what is to be redone cannot be told");
        return;
    }
    if (s->report->fixups) {
        printf("source: the device was reset on the way; redone what that undid\n");
        /* It runs already; this says that the fix-ups are made. */
        if (vfiomig_device_run(s->device.mig) < 0) {
            lost(s, "the device does not run");
            return;
        }
    }
    guest_run(&s->guest);
    s->report->vcpus_run = true;
}

/* The target has given up what it had been given: its device would not run, or it died. */
static void take_back(struct source *s)
{
    printf("source: %s; taking the guest back\n", s->report->why);
    /* The device is in STOP with its state untouched. */
    if (vfiomig_device_run(s->device.mig) < 0) {
        lost(s, "the device does not run");
        return;
    }
    guest_run(&s->guest);
    s->report->vcpus_run = true;
}

static void release(struct source *s)
{
    if (s->options->fail_at == FAIL_KILL_SOURCE) {
        s->report->memory_digest = memory_digest(&s->memory); /* what it can no longer tell */
        raise(SIGKILL);
    }

    /* The point of no return, in one message. Taking the device to STOP can be slow, and the
     * guest does not wait for it, so it comes afterwards. */
    int r = net_send(s->sock, MSG_GO, NULL, 0);
    s->report->at_ns[TOLD] = now_ns();
    if (r < 0) {
        give_up(s, r, "the target went away after its commit");
        keep(s);
        return;
    }
    stop_tracking(s);
    bool untouched = vfiomig_save_finish(s->save, VFIOMIG_ENDING_RELEASE) == 0;
    if (!untouched)
        printf("source: stopping the device: %s\n", vfiomig_error_message());
    s->report->digest = device_digest(&s->device);
    s->report->memory_digest = memory_digest(&s->memory);

    r = hear(s, ANSWER_TIMEOUT_MS);
    if (r == MSG_RUNNING)
        printf("source: the target runs; this side has let go\n");
    else if ((r == -EPIPE || r == -ECONNABORTED) && untouched)
        take_back(s);
    else if (r == -EPIPE || r == -ECONNABORTED)
        lost(s, "the device was not left as it was, and the target has let go");
    else
        /* It may be running: better no guest for a while than two. */
        give_up(s, r, "the target does not say whether it runs; leaving the guest to it");
}

/* --- cancelling from another thread ---------------------------------------------------------- */

static void *cancel_soon(void *opaque)
{
    struct source *s = opaque;
    struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
    do
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    while (vfiomig_save_get_stats(s->save, &stats) == 0 &&
           stats.data_bytes < s->options->state_size / 4);
    vfiomig_save_cancel(s->save);
    return NULL;
}

void run_source(const struct options *options, int sock, struct report *report)
{
    struct source s = { .options = options, .report = report, .sock = sock };
    if (memory_create(&s.memory, options->memory_size, 1) < 0 ||
        device_open(&s.device, options, SOURCE, report->why, sizeof report->why) < 0 ||
        device_start_dma(&s.device, &s.memory) < 0 ||
        guest_create(&s.guest, &s.device, &s.memory, options) < 0) {
        printf("source: %s\n", report->why);
        report->finished = true;
        return;
    }
    s.buffer = malloc(BUFFER_SIZE);
    struct vfiomig_caps caps = VFIOMIG_CAPS_INIT;
    int r = vfiomig_device_get_caps(s.device.mig, &caps);
    if (r < 0)
        library_failed(&s, r);
    s.has_pre_copy = caps.flags & VFIOMIG_CAP_PRE_COPY;
    guest_run(&s.guest);
    report->vcpus_run = true;

    if (options->fail_at == FAIL_SOURCE_READ)
        device_inject(&s.device, READ, 20, EIO);
    /* The device writes to memory all the time, so tracking begins before any of it is sent. */
    if (r == 0)
        r = start_tracking(&s);
    if (r == 0 && (r = vfiomig_save_begin(s.device.mig, NULL, &s.save)) < 0)
        r = library_failed(&s, r);
    if (r == 0) {
        if (options->fail_at == FAIL_CANCEL)
            s.cancelling = pthread_create(&s.canceller, NULL, cancel_soon, &s) == 0;
        s.began_ns = now_ns();
        do {
            r = pre_copy(&s);
            if (r == 0) {
                report->vcpus_run = false;
                r = switchover(&s);
            }
        } while (r == BEGAN_AGAIN);
    }
    /* It uses the save, which is about to go. */
    if (s.cancelling)
        pthread_join(s.canceller, NULL);

    if (r == 0)
        release(&s);
    else
        keep(&s);

    struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
    if (s.save && vfiomig_save_get_stats(s.save, &stats) == 0) {
        report->data_bytes = stats.data_bytes;
        report->stop_bytes = stats.data_bytes - stats.precopy_bytes;
        report->restarts = stats.restarts;
    }
    vfiomig_save_free(s.save);
    guest_destroy(&s.guest);
    report->violations = device_violations(&s.device, NULL);
    device_close(&s.device);
    memory_destroy(&s.memory);
    free(s.buffer);
    report->finished = true;
}
