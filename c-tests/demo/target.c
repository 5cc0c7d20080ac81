/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The side that the guest arrives at. Threads receive the devices' streams and write them, one receives
 * the memory, and this one talks to the source. Nothing of a frame reaches a driver before the library
 * has verified it, and the guest runs when the handover says so.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "show.h"
#include "vm.h"

/* The most that a message may hold: what the source sends at once. */
#define BUFFER_SIZE VFIOMIG_GOOD_BUFFER
#define LOOK_MS 5
#define MEASURES_NS 100000000 /* how often the source is told what was measured */

struct target {
    struct vm vm; /* first: callbacks are given this */
    pthread_t streams, memory;
    atomic_bool receiving;
    int arrived[2]; /* a pipe: an int from each of these threads, 0 or -errno */
    unsigned arrivals;
    uint64_t told[MAX_DEVICES]; /* which initial data the source was told of */
    uint64_t measures_ns;
    uint8_t buffer[BUFFER_SIZE];
};

static bool is(const struct target *t, enum failure failure)
{
    return t->vm.options->fail_at == failure;
}

/* --- what comes ----------------------------------------------------------------------------- */

static void arrives(struct target *t, int r)
{
    if (write(t->arrived[1], &r, sizeof r) != sizeof r)
        abort(); /* a pipe has room for two numbers */
}

static void *wait_for_streams(void *opaque)
{
    struct target *t = opaque;
    int r = vfiomig_group_work(t->vm.group, VFIOMIG_GROUP_UNTIL_COMPLETE);
    if (r < 0 && t->receiving)
        vm_library_failed(&t->vm, r);
    arrives(t, r);
    return NULL;
}

static void *receive_memory(void *opaque)
{
    struct target *t = opaque;
    struct message m = { .data = t->buffer, .cap = sizeof t->buffer };
    struct memory *memory = &t->vm.memory;
    int r;
    while ((r = net_receive(t->vm.connections->memory, &m)) == 1 && m.type == MSG_MEMORY) {
        /* The other side is trusted with nothing but the guest's memory. */
        if (m.where > memory->size || m.len > memory->size - m.where) {
            r = -EPROTO;
            break;
        }
        memcpy(memory->ram + m.where, m.data, m.len);
    }
    r = r == 1 && m.type == MSG_MEMORY_END ? 0 : r < 0 ? r : -EPROTO;
    if (r < 0 && t->receiving)
        vm_give_up(&t->vm, r, "receiving memory failed: %s", strerror(-r));
    arrives(t, r);
    return NULL;
}

static int begin(struct target *t)
{
    if (is(t, FAIL_TARGET_BEGIN))
        device_inject(vm_last_device(&t->vm), CHANGE_OF_STATE, 1, EBUSY);
    int r = vm_begin(&t->vm);
    if (r < 0)
        return r;
    if (is(t, FAIL_TARGET_WRITE))
        device_inject(vm_last_device(&t->vm), WRITE, 20, EIO);
    t->receiving = true;
    r = -pthread_create(&t->streams, NULL, wait_for_streams, t);
    if (r == 0 && (r = -pthread_create(&t->memory, NULL, receive_memory, t)) < 0) {
        vfiomig_group_cancel(t->vm.group);
        pthread_join(t->streams, NULL);
    }
    t->receiving = r == 0;
    return r < 0 ? vm_give_up(&t->vm, r, "no thread for what comes") : 0;
}

static void end_receiving(struct target *t)
{
    if (!t->receiving)
        return;
    t->receiving = false;
    vfiomig_group_cancel(t->vm.group);
    vm_cut(&t->vm);
    pthread_join(t->streams, NULL);
    pthread_join(t->memory, NULL);
}

/* Everything has come when the streams have and the memory has. */
static void take_arrival(struct target *t)
{
    int r;
    if (read(t->arrived[0], &r, sizeof r) != sizeof r)
        return;
    if (r < 0)
        link_notify(&t->vm.link, VFIOMIG_HANDOVER_EVENT_FAILED, 0, r);
    else if (++t->arrivals == 2)
        for (uint32_t i = 0; i < t->vm.options->devices; i++)
            link_notify(&t->vm.link, VFIOMIG_HANDOVER_EVENT_ENDED, i, 0);
}

/* What the source wants to know: which initial data is loaded, and how long things take here. */
static void tell_source(struct target *t)
{
    struct vm *vm = &t->vm;
    bool measures = now_ns() - t->measures_ns > MEASURES_NS;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < vm->options->devices; i++) {
        struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
        uint8_t blob[VFIOMIG_ESTIMATE_BYTES];
        size_t len;
        if (vfiomig_group_get_load_stats(vm->group, i, &stats) < 0)
            continue;
        bytes += stats.data_bytes;
        if (stats.initial_generation != t->told[i] || measures) {
            if (vfiomig_estimate_export(vm->estimate, i, blob, sizeof blob, &len) == 0)
                link_send(&vm->link, MSG_MEASURES, i, blob, len);
            t->measures_ns = now_ns();
        }
        if (stats.initial_generation != t->told[i]) {
            t->told[i] = stats.initial_generation;
            link_notify(&vm->link, VFIOMIG_HANDOVER_EVENT_INITIAL_LOADED, i, (int64_t)t->told[i]);
        }
    }
    if (bytes < vm->options->state_size * vm->options->devices / 2)
        return;
    if (is(t, FAIL_KILL_TARGET))
        raise(SIGKILL);
    if (is(t, FAIL_TARGET_CANCEL) && vfiomig_handover_cancel(vm->link.machine) == 0)
        vm_give_up(vm, -ECANCELED, "somebody has cancelled");
}

/* --- what the handover asks for ------------------------------------------------------------- */

static void explain(void *opaque, const struct vfiomig_compat_reason *reason)
{
    if (reason->severity == VFIOMIG_SEVERITY_BLOCKS)
        vm_give_up(opaque, 0, "%s: %s", reason->label, reason->text);
}

/* Whether these devices may take what those have: before the guest is touched. */
static int judge(struct target *t)
{
    struct vm *vm = &t->vm;
    for (uint32_t i = 0; i < vm->options->devices; i++) {
        struct vfiomig_identity theirs = VFIOMIG_IDENTITY_INIT, ours = VFIOMIG_IDENTITY_INIT;
        struct vfiomig_verdict verdict = VFIOMIG_VERDICT_INIT;
        static uint8_t bytes[VFIOMIG_HANDOVER_MAX_IDENTITY];
        size_t len;
        int r = vfiomig_handover_get_identity(vm->link.machine, i, bytes, sizeof bytes, &len);
        if (r == 0)
            r = vfiomig_identity_import(bytes, len, &theirs);
        if (r == 0)
            r = vfiomig_device_get_identity(vm->devices[i].mig, &ours);
        if (r == 0)
            r = vfiomig_compat_judge(&theirs, &ours, NULL, explain, vm, &verdict);
        if (r < 0)
            return vm_library_failed(vm, r);
    }
    return 0;
}

static int commit(struct target *t)
{
    struct vm *vm = &t->vm;
    for (uint32_t i = 0; i < vm->options->devices; i++)
        if (!vm->devices[i].has_config)
            return vm_give_up(vm, -EPROTO, "device %u: its stream brought no PCI configuration", i);
    /* The drivers' own check of the whole state, while the source can still go on. */
    if (is(t, FAIL_TARGET_COMMIT))
        device_inject(vm_last_device(vm), CHANGE_OF_STATE, 1, EINVAL);
    int r = vfiomig_group_commit(vm->group);
    return r < 0 ? vm_library_failed(vm, r) : 0;
}

static int run(struct target *t)
{
    struct vm *vm = &t->vm;
    struct vfiomig_downtime *downtime = &vm->report->downtime;
    if (is(t, FAIL_KILL_TARGET_LATE))
        raise(SIGKILL);
    if (is(t, FAIL_TARGET_RUN))
        device_inject(vm_last_device(vm), CHANGE_TO_ERROR, 1, EIO);
    int r = vm_run_devices(vm);
    if (r < 0)
        return r;
    /* From here on the guest runs. This one's vCPUs are held back until what came was looked at. */
    vm->report->at_ns = now_ns();
    if (vfiomig_estimate_get_downtime(vm->estimate, VFIOMIG_ESTIMATE_ALL, downtime) == 0) {
        struct phases phases = { downtime->measured_ns[VFIOMIG_DOWNTIME_COMMIT],
                                 downtime->measured_ns[VFIOMIG_DOWNTIME_RESUME] };
        link_send(&vm->link, MSG_PHASES, 0, &phases, sizeof phases);
    }
    return 0;
}

static int reset(struct target *t)
{
    lease_leave(t->vm.shared, TARGET);
    if (!t->vm.begun)
        return 0;
    end_receiving(t);
    int r = vfiomig_group_abandon(t->vm.group);
    return r < 0 ? vm_library_failed(&t->vm, r) : 0;
}

static int act(void *opaque, uint32_t action, uint32_t *event)
{
    struct target *t = opaque;
    int r;
    switch (action) {
    case VFIOMIG_HANDOVER_ACTION_JUDGE:
        /* The verdict is the event's value. */
        r = judge(t);
        return vfiomig_handover_notify(t->vm.link.machine, VFIOMIG_HANDOVER_EVENT_JUDGED, 0, r);
    case VFIOMIG_HANDOVER_ACTION_BEGIN:
        return begin(t);
    case VFIOMIG_HANDOVER_ACTION_COMMIT:
        *event = VFIOMIG_HANDOVER_EVENT_COMMITTED;
        return commit(t);
    case VFIOMIG_HANDOVER_ACTION_RUN:
        *event = VFIOMIG_HANDOVER_EVENT_RUNNING;
        return run(t);
    case VFIOMIG_HANDOVER_ACTION_RESET:
        *event = VFIOMIG_HANDOVER_EVENT_RESET;
        return reset(t);
    default:
        return -EINVAL;
    }
}

static void heard(void *opaque, const struct message *m)
{
    (void)opaque;
    (void)m; /* the source says nothing else */
}

/* What came is compared with what left, before the stand-in's vCPUs change it. */
static void look_at_result(struct target *t)
{
    struct vm *vm = &t->vm;
    uint8_t config[PCI_CONFIG_SIZE];
    device_read_config(vm_last_device(vm), config);
    vm->report->pci_command = (uint16_t)(config[4] | config[5] << 8);
    vm->report->digest = devices_digest(vm->devices, vm->options->devices);
    vm->report->memory_digest = memory_digest(&vm->memory);
    for (uint32_t i = 0; i < vm->options->devices; i++) {
        struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
        if (vfiomig_group_get_load_stats(vm->group, i, &stats) == 0) {
            vm->report->data_bytes += stats.data_bytes;
            vm->report->restarts += stats.restarts;
        }
    }
}

/* The guest and its devices go on writing where they were, in this side's memory. */
static void run_guest(struct target *t)
{
    const struct options *o = t->vm.options;
    struct device *last = vm_last_device(&t->vm);
    bool dma = last->sim && t->vm.memory.size > 0 && o->dma_rate > 0;
    bool vcpus = t->vm.memory.size > 0 && o->memory_rate > 0;
    uint64_t patience = now_ns() + 120000000000u;
    guest_run(&t->vm.guest);
    t->vm.report->vcpus_run = true;
    for (uint32_t i = 0; i < o->devices; i++)
        if (device_start_dma(&t->vm.devices[i], &t->vm.memory) < 0)
            return;
    do {
        t->vm.report->goes_on =
            (!dma || device_dma_writes(last) > 0) &&
            (!vcpus || __atomic_load_n(&t->vm.memory.vcpu_writes, __ATOMIC_RELAXED) > 0);
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    } while (!t->vm.report->goes_on && now_ns() < patience);
}

static void migrate(struct target *t)
{
    struct vm *vm = &t->vm;
    vm_recall(vm);
    while (!link_is_over(&vm->link)) {
        bool loading = t->receiving && t->arrivals < 2;
        if (link_turn(&vm->link, t->arrived[0], loading ? LOOK_MS : 1000))
            take_arrival(t);
        if (t->receiving && t->arrivals < 2)
            tell_source(t);
    }
    show_outcome(vm);
    if (link_outcome(&vm->link).outcome == VFIOMIG_HANDOVER_OUTCOME_ON_TARGET) {
        vm_remember(vm);
        look_at_result(t);
        run_guest(t);
    }
    end_receiving(t);
}

void run_target(const struct options *options, const struct connections *connections,
                struct shared *shared)
{
    struct target *t = calloc(1, sizeof *t);
    if (!t || pipe2(t->arrived, O_CLOEXEC) < 0)
        return;
    t->vm.link.act = act;
    t->vm.link.heard = heard;
    if (vm_create(&t->vm, options, connections, shared, TARGET) < 0)
        printf("target: %s\n", t->vm.report->why);
    else
        migrate(t);
    vm_destroy(&t->vm);
    free(t);
}
