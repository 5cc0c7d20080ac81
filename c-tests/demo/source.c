/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The side that the guest leaves.
 *
 *     pre-copy     the guest runs. Threads read its devices and send what they read; this one sends its
 *                  memory, and asks the estimate whether to switch over
 *     switchover   the vCPUs stop, the devices stop, the rest is sent
 *     release      only after the target has committed
 *
 * What comes next, and whose the guest is, says the handover: act() does what it asks for.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "show.h"
#include "tracking.h"
#include "vm.h"

#define LOOK_MS 10 /* how often the memory is sent and the estimate is asked */
#define BUFFER_SIZE VFIOMIG_GOOD_BUFFER

struct source {
    struct vm vm; /* first: callbacks are given this */
    struct tracking tracking; /* which pages of the memory are to be sent */
    double memory_bandwidth;  /* bytes per second */
    uint64_t began_ns;
    bool asked;     /* for the switchover */
    bool stopped, gone_wrong, half;
    uint32_t shown; /* what the estimate has said so far: a bit for each reason */
};

static bool is(const struct source *s, enum failure failure)
{
    return s->vm.options->fail_at == failure;
}

/* What threads have failed at, or somebody has cancelled. */
static int group_failed(struct source *s)
{
    struct vfiomig_group_status status = VFIOMIG_GROUP_STATUS_INIT;
    int r = vfiomig_group_get_status(s->vm.group, &status);
    if (r == 0 && status.phase == VFIOMIG_GROUP_PHASE_FAILED)
        r = vfiomig_group_work(s->vm.group, VFIOMIG_GROUP_UNTIL_IDLE); /* says it again */
    return r < 0 ? vm_library_failed(&s->vm, r) : 0;
}

static uint64_t bytes_read(struct source *s)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < s->vm.options->devices; i++) {
        struct vfiomig_save_stats stats = VFIOMIG_SAVE_STATS_INIT;
        if (vfiomig_group_get_save_stats(s->vm.group, i, &stats) == 0)
            bytes += stats.data_bytes;
    }
    return bytes;
}

/* --- memory --------------------------------------------------------------------------------- */

static int start_tracking(struct source *s)
{
    struct device *last = vm_last_device(&s->vm);
    if (s->vm.memory.size == 0)
        return 0;
    int r = tracking_start(&s->tracking, &s->vm.memory, s->vm.devices, s->vm.options->devices);
    if (r < 0)
        return vm_library_failed(&s->vm, r);
    if (is(s, FAIL_LOG_REFUSES))
        device_inject(last, LOG_REPORTS, 1, EIO);
    if (is(s, FAIL_LOG_FORGETS))
        device_inject(last, LOG_REPORT_FORGETS, 2, EIO);
    if (is(s, FAIL_SET_DIRTY))
        s->tracking.refuse = EIO;
    return 0;
}

/* A negative value means that pages may be missing. If pages merely count as dirty because
 * something failed, there is more to send, and nothing else to do about it. */
static int collect(struct source *s, bool without_devices)
{
    int r = tracking_collect(&s->tracking, without_devices);
    return r < 0 ? vm_library_failed(&s->vm, r) : 0;
}

/* Everything that was collected, straight from where the guest and its devices go on writing: a
 * page that changes while it is sent is dirty again. */
static int send_memory(struct source *s)
{
    uint64_t before = now_ns(), offset, len, bytes = 0;
    if (!s->tracking.mig)
        return 0;
    while ((len = tracking_take(&s->tracking, BUFFER_SIZE, &offset)) > 0) {
        int r = net_send(s->vm.connections->memory, MSG_MEMORY, offset, s->vm.memory.ram + offset, len);
        if (r < 0)
            return vm_give_up(&s->vm, r, "sending memory failed: %s", strerror(-r));
        bytes += len;
    }
    double seconds = (double)(now_ns() - before) / 1e9;
    if ((bytes >= 1 << 20 || s->memory_bandwidth == 0) && seconds > 0)
        s->memory_bandwidth = (double)bytes / seconds;
    s->vm.report->memory_bytes += bytes;
    return 0;
}

/* What the last pages will cost when the guest has stopped: reading the logs, and sending. */
static uint64_t memory_ns(const struct source *s)
{
    uint64_t ns = s->tracking.stats.last_sync_ns;
    if (s->memory_bandwidth > 0)
        ns += (uint64_t)((double)tracking_left(&s->tracking) / s->memory_bandwidth * 1e9);
    return ns;
}

static void stop_tracking(struct source *s)
{
    if (s->tracking.mig) {
        for (uint32_t i = 0; i < s->tracking.num_writers; i++) {
            s->vm.report->logged_bytes += s->tracking.devices[i].dirty_bytes;
            s->vm.report->tracker = s->tracking.devices[i].tracker;
        }
        s->vm.report->tracking_errors = s->tracking.stats.errors;
    }
    tracking_stop(&s->tracking);
}

/* --- pre-copy ------------------------------------------------------------------------------- */

static int begin(struct source *s)
{
    /* The devices write to memory all the time, so tracking begins before any of it is sent. */
    int r = start_tracking(s);
    if (r == 0 && is(s, FAIL_SOURCE_READ))
        device_inject(vm_last_device(&s->vm), READ, 20, EIO);
    if (r == 0)
        r = vm_begin(&s->vm);
    s->began_ns = now_ns();
    return r;
}

static void *cancel(void *group)
{
    vfiomig_group_cancel(group);
    return NULL;
}

/* What happens in the middle of pre-copy. */
static int halfway(struct source *s)
{
    struct vm *vm = &s->vm;
    pthread_t thread;
    if (s->half || bytes_read(s) < vm->options->state_size * vm->options->devices / 2)
        return 0;
    s->half = true;
    if (is(s, FAIL_CANCEL) && pthread_create(&thread, NULL, cancel, vm->group) == 0)
        pthread_join(thread, NULL);
    if (is(s, FAIL_CUT_CHANNEL))
        shutdown(vm->connections->channels[0], SHUT_RDWR);
    if (is(s, FAIL_CUT_MEMORY))
        shutdown(vm->connections->memory, SHUT_RDWR);
    if (is(s, FAIL_CUT_LINK))
        shutdown(vm->link.sock, SHUT_RDWR);
    if (!is(s, FAIL_GUEST_RESET))
        return 0;
    printf("source: the guest resets its last device\n");
    device_guest_reset(vm_last_device(vm));
    /* A VMM sees it in the configuration space that it gives to the guest. The device's
     * log is gone as well, and whatever it held counts as dirty. */
    int r = vfiomig_device_notify_reset(vm_last_device(vm)->mig);
    return r < 0 ? vm_library_failed(vm, r) : 0;
}

/* If the guest is faster than the drivers, pre-copy would go on forever. */
static bool precopy_took_too_long(const struct source *s)
{
    return now_ns() - s->began_ns >= s->vm.options->precopy_limit_ms * 1000000;
}

/* What the drivers say is left, and which initial data the target has to have loaded first. */
static int look_at_devices(struct source *s, bool insist)
{
    struct vm *vm = &s->vm;
    for (uint32_t i = 0; i < vm->options->devices; i++) {
        struct vfiomig_pending pending = VFIOMIG_PENDING_INIT;
        uint64_t loaded = 0;
        int r = vfiomig_group_get_pending(vm->group, i, &pending);
        if (r < 0)
            return group_failed(s) < 0 ? r : vm_library_failed(vm, r);
        bool wait = pending.flags & VFIOMIG_PENDING_INITIAL_SENT && !insist;
        link_notify(&vm->link, VFIOMIG_HANDOVER_EVENT_INITIAL_SENT, i,
                    wait ? (int64_t)pending.initial_generation : 0);
        if (vfiomig_handover_get_initial_loaded(vm->link.machine, i, &loaded) == 0)
            vfiomig_estimate_observe(vm->estimate, VFIOMIG_OBSERVATION_INITIAL_LOADED, i, 0, loaded, 0);
    }
    return 0;
}

/* 1: the guest is to be switched over. */
static int decide(struct source *s)
{
    struct vm *vm = &s->vm;
    bool insist = precopy_took_too_long(s);
    struct vfiomig_decision decision = VFIOMIG_DECISION_INIT;
    uint64_t limit = vm->options->downtime_limit_ms * 1000000, memory = memory_ns(s);
    int r = look_at_devices(s, insist);
    if (r < 0)
        return r;
    r = vfiomig_estimate_decide(vm->estimate, 0, limit, 0, &decision);
    if (r < 0)
        return vm_library_failed(vm, r);
    /* The memory is the VMM's own, and the estimate does not know of it. If nobody watches it, it is
     * always dirty, however long one waits: then only the devices count. */
    if (decision.verdict == VFIOMIG_VERDICT_SWITCH_OVER && !s->tracking.unwatched &&
        decision.expected_ns + memory > limit) {
        decision.verdict = VFIOMIG_VERDICT_GO_ON;
        decision.because = VFIOMIG_BECAUSE_DATA_LEFT;
    }
    bool now = insist || decision.verdict == VFIOMIG_VERDICT_SWITCH_OVER;
    if (now || !(s->shown & 1u << decision.because)) /* each reason once */
        show_decision(&decision, memory, insist);
    s->shown |= 1u << decision.because;
    return now;
}

static int pre_copy(struct source *s)
{
    int r = group_failed(s);
    if (r == 0)
        r = halfway(s);
    if (r == 0)
        r = collect(s, false);
    /* What is dirty in any case is sent once the guest has stopped, and not in vain before. */
    if (r == 0 && !(s->tracking.unwatched && s->vm.report->memory_bytes))
        r = send_memory(s);
    if (r == 0 && !s->asked && (r = decide(s)) > 0) {
        s->asked = true;
        vfiomig_estimate_predict(s->vm.estimate, VFIOMIG_ESTIMATE_ALL, 0, &s->vm.report->prediction);
        link_notify(&s->vm.link, VFIOMIG_HANDOVER_EVENT_SWITCHOVER, 0, 0);
    }
    return r < 0 ? r : 0;
}

/* --- switchover ----------------------------------------------------------------------------- */

/* The guest can write to its configuration space until it is stopped, so not earlier. */
static int add_configs(struct source *s)
{
    int r = 0;
    for (uint32_t i = 0; i < s->vm.options->devices && r == 0; i++) {
        uint8_t config[PCI_CONFIG_SIZE];
        device_read_config(&s->vm.devices[i], config);
        s->vm.report->pci_command = (uint16_t)(config[4] | config[5] << 8);
        r = vfiomig_group_add_blob(s->vm.group, i, BLOB_PCI_CONFIG, config, sizeof config);
    }
    return r < 0 ? vm_library_failed(&s->vm, r) : 0;
}

static int send_last_memory(struct source *s)
{
    uint64_t before = now_ns(), sent = s->vm.report->memory_bytes;
    /* The devices have written for the last time, after the vCPUs, so only this reading is the
     * last one. It comes before the saves are finished, because some drivers' logs end with them. */
    int r = collect(s, s->vm.options->skip_last_collect);
    if (r == 0)
        r = send_memory(s);
    if (r == 0 && (r = net_send(s->vm.connections->memory, MSG_MEMORY_END, 0, NULL, 0)) < 0)
        vm_give_up(&s->vm, r, "sending memory failed: %s", strerror(-r));
    s->vm.report->memory_stop_bytes = s->vm.report->memory_bytes - sent;
    s->vm.report->memory_ns = now_ns() - before;
    return r;
}

/* Stops the guest and its devices. -EAGAIN: one of them has started its initial data again. */
static int stop(struct source *s)
{
    struct vm *vm = &s->vm;
    guest_stop(&vm->guest);
    vm->report->at_ns = now_ns();
    vm->report->vcpus_run = false;
    lease_leave(vm->shared, SOURCE);
    if (is(s, FAIL_SOURCE_QUIESCE))
        device_inject(vm_last_device(vm), CHANGE_OF_STATE, 1, EBUSY);
    if (is(s, FAIL_SOURCE_STOP))
        device_inject(vm_last_device(vm), CHANGE_OF_STATE, 2, EBUSY);
    if (is(s, FAIL_SOURCE_DRAIN))
        device_inject(vm_last_device(vm), READ_STOPPED, 2, EIO);
    int r = add_configs(s);
    if (r < 0)
        return r;
    r = vfiomig_group_stop(vm->group); /* all are quiesced, then all are stopped, and read at once */
    if (r == -EAGAIN && precopy_took_too_long(s))
        r = vfiomig_group_stop(vm->group);
    return r < 0 && r != -EAGAIN ? vm_library_failed(vm, r) : r;
}

static int switch_over(struct source *s)
{
    struct vm *vm = &s->vm;
    int r = stop(s);
    if (r == -EAGAIN) {
        printf("source: %s\n", vfiomig_error_message());
        if (!lease_take(vm->shared, SOURCE))
            return vm_give_up(vm, -EBUSY, "the guest's disks are the other side's");
        guest_run(&vm->guest);
        vm->report->vcpus_run = true;
        s->asked = false;
        return vfiomig_handover_notify(vm->link.machine, VFIOMIG_HANDOVER_EVENT_RESUMED, 0, 0);
    }
    if (r == 0)
        s->stopped = true;
    if (r == 0 && is(s, FAIL_KILL_SOURCE_EARLY))
        raise(SIGKILL);
    if (r == 0)
        r = send_last_memory(s);
    if (r == 0 && (r = vfiomig_group_work(vm->group, VFIOMIG_GROUP_UNTIL_COMPLETE)) < 0)
        vm_library_failed(vm, r);
    /* Everything has left, the memory too. */
    for (uint32_t i = 0; i < vm->options->devices && r == 0; i++)
        r = vfiomig_handover_notify(vm->link.machine, VFIOMIG_HANDOVER_EVENT_ENDED, i, 0);
    return r;
}

static void tell_contents(struct source *s)
{
    s->vm.report->digest = devices_digest(s->vm.devices, s->vm.options->devices);
    s->vm.report->memory_digest = memory_digest(&s->vm.memory);
}

static int release(struct source *s)
{
    struct vm *vm = &s->vm;
    if (is(s, FAIL_KILL_SOURCE)) {
        tell_contents(s); /* which it can no longer do afterwards */
        raise(SIGKILL);
    }
    if (is(s, FAIL_CUT_GO) || is(s, FAIL_CUT_FOR_GOOD))
        shutdown(vm->link.sock, SHUT_RDWR); /* before "go" */
    if (is(s, FAIL_CUT_FOR_GOOD))
        shutdown(vm->link.again, SHUT_RDWR);
    int r = vfiomig_group_finish(vm->group, VFIOMIG_ENDING_RELEASE);
    if (r < 0) /* the target has everything: it goes on */
        printf("source: stopping the devices: %s\n", vfiomig_error_message());
    return r;
}

/* The guest goes on here, where its devices still are what they were. */
static int run_here(struct source *s)
{
    int r = vm_run_devices(&s->vm);
    if (r < 0)
        return r;
    if (!s->vm.report->vcpus_run)
        guest_run(&s->vm.guest);
    s->vm.report->vcpus_run = true;
    return 0;
}

static int keep(struct source *s)
{
    stop_tracking(s);
    if (!s->vm.begun)
        return 0; /* nothing was touched */
    int r = vfiomig_group_finish(s->vm.group, VFIOMIG_ENDING_KEEP);
    return r < 0 ? vm_library_failed(&s->vm, r) : run_here(s);
}

/* What the handover asks for. */
static int act(void *opaque, uint32_t action, uint32_t *event)
{
    struct source *s = opaque;
    switch (action) {
    case VFIOMIG_HANDOVER_ACTION_BEGIN:
        return begin(s);
    case VFIOMIG_HANDOVER_ACTION_STOP:
        return switch_over(s);
    case VFIOMIG_HANDOVER_ACTION_RELEASE:
        *event = VFIOMIG_HANDOVER_EVENT_RELEASED;
        return release(s);
    case VFIOMIG_HANDOVER_ACTION_KEEP:
        *event = VFIOMIG_HANDOVER_EVENT_KEPT;
        return keep(s);
    case VFIOMIG_HANDOVER_ACTION_RUN:
        printf("source: taking the guest back\n");
        *event = VFIOMIG_HANDOVER_EVENT_RUNNING;
        return run_here(s);
    default:
        return -EINVAL;
    }
}

/* What the target has measured. */
static void heard(void *opaque, const struct message *m)
{
    struct source *s = opaque;
    struct vfiomig_estimate *estimate = s->vm.estimate;
    struct phases phases;
    if (m->type == MSG_MEASURES && m->where < s->vm.options->devices)
        vfiomig_estimate_import(estimate, (uint32_t)m->where, VFIOMIG_ESTIMATE_THERE, m->data, m->len);
    if (m->type == MSG_PHASES && m->len == sizeof phases) {
        memcpy(&phases, m->data, sizeof phases);
        vfiomig_estimate_observe(estimate, VFIOMIG_OBSERVATION_PHASE, 0, 0, VFIOMIG_DOWNTIME_COMMIT,
                                 phases.commit_ns);
        vfiomig_estimate_observe(estimate, VFIOMIG_OBSERVATION_PHASE, 0, 0, VFIOMIG_DOWNTIME_RESUME,
                                 phases.resume_ns);
    }
}

static void migrate(struct source *s)
{
    struct vm *vm = &s->vm;
    /* Both sides lend a thread for each device. */
    static const uint32_t kinds[] = { VFIOMIG_OBSERVATION_SOURCE_THREADS, VFIOMIG_OBSERVATION_TARGET_THREADS,
                                      VFIOMIG_OBSERVATION_TARGET_HELPERS };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        vfiomig_estimate_observe(vm->estimate, kinds[i], 0, 0, vm->options->devices, 0);
    vm_recall(vm);
    while (!link_is_over(&vm->link)) {
        bool at_work = vm->begun && !s->stopped && !s->gone_wrong;
        link_turn(&vm->link, -1, at_work ? LOOK_MS : 1000);
        int r = at_work && vm->begun && !s->stopped && !link_is_over(&vm->link) ? pre_copy(s) : 0;
        show_bars(vm);
        if (r < 0) {
            s->gone_wrong = true;
            link_notify(&vm->link, VFIOMIG_HANDOVER_EVENT_FAILED, 0, r);
        }
    }
    show_last_bars(vm);
    show_outcome(vm);
    vfiomig_estimate_get_downtime(vm->estimate, VFIOMIG_ESTIMATE_ALL, &vm->report->downtime);
    if (link_outcome(&vm->link).outcome == VFIOMIG_HANDOVER_OUTCOME_ON_TARGET)
        vm_remember(vm);
    tell_contents(s);
}

void run_source(const struct options *options, const struct connections *connections,
                struct shared *shared)
{
    struct source *s = calloc(1, sizeof *s);
    if (!s)
        return;
    s->vm.link.act = act;
    s->vm.link.heard = heard;
    if (vm_create(&s->vm, options, connections, shared, SOURCE) < 0) {
        printf("source: %s\n", s->vm.report->why);
    } else {
        for (uint32_t i = 0; i < options->devices; i++)
            if (device_start_dma(&s->vm.devices[i], &s->vm.memory) < 0)
                printf("source: no thread for a device's DMA\n");
        if (lease_take(shared, SOURCE))
            guest_run(&s->vm.guest);
        s->vm.report->vcpus_run = true;
        migrate(s);
    }
    stop_tracking(s);
    vm_destroy(&s->vm);
    free(s);
}
