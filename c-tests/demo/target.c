/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The side that the guest arrives at. Nothing of a frame reaches the driver before the library has
 * verified it, and after any failure the library has already reset the device: all that is left is
 * to say so.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "demo.h"
#include "device.h"
#include "guest.h"
#include "memory.h"
#include "net.h"
#include "vfiomig.h"

/* The most that a message may hold: what the source reads at once. */
#define BUFFER_SIZE VFIOMIG_GOOD_BUFFER
#define BLOB_PCI_CONFIG 1u

struct target {
    const struct options *options;
    struct report *report;
    int sock;
    struct device device;
    struct guest guest;
    struct memory memory;
    struct vfiomig_load *load;
    uint8_t *buffer;
    uint8_t config[PCI_CONFIG_SIZE];
    bool has_config;
    uint64_t pushed;
};

static int give_up(struct target *t, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(t->report->why, sizeof t->report->why, format, args);
    va_end(args);
    return code;
}

static int library_failed(struct target *t, int code)
{
    return give_up(t, code, "%s", vfiomig_error_message());
}

/* Called from inside vfiomig_load_push(). What is refused here makes the load fail. */
static int take_blob(void *opaque, uint32_t kind, const void *data, size_t len)
{
    struct target *t = opaque;
    if (kind != BLOB_PCI_CONFIG || len != sizeof t->config)
        return -EPROTO;
    memcpy(t->config, data, len);
    t->has_config = true;
    return 0;
}

/* The other side is trusted with nothing but the guest's memory. */
static int take_memory(struct target *t, const struct message *m)
{
    if (m->where > t->memory.size || m->len > t->memory.size - m->where)
        return give_up(t, -EPROTO, "memory that this guest has not");
    memcpy(t->memory.ram + m->where, m->data, m->len);
    return 0;
}

/* The memory, and the stream to its end, which comes last. */
static int receive_state(struct target *t)
{
    enum failure fail_at = t->options->fail_at;
    struct message m = { .data = t->buffer, .cap = BUFFER_SIZE };
    for (;;) {
        int r = net_receive(t->sock, &m, -1);
        if (r == -EPIPE)
            return give_up(t, r, "the source died before the end of the stream");
        if (r < 0)
            return give_up(t, r, "receiving failed: %s", strerror(-r));
        if (r == 0)
            continue;
        if (m.type == MSG_KEEP)
            return give_up(t, -ECANCELED, "the source keeps the guest");
        if (m.type == MSG_MEMORY) {
            if ((r = take_memory(t, &m)) < 0)
                return r;
            continue;
        }
        if (m.type != MSG_STREAM)
            return give_up(t, -EPROTO, "message %u where the stream was due", m.type);

        t->pushed += m.len;
        if (fail_at == FAIL_KILL_TARGET && t->pushed > t->options->state_size / 2)
            raise(SIGKILL);
        if (fail_at == FAIL_TARGET_CANCEL && t->pushed > t->options->state_size / 2)
            vfiomig_load_cancel(t->load);

        int status = vfiomig_load_push(t->load, m.data, m.len);
        if (status < 0)
            return library_failed(t, status);
        /* VFIOMIG_PUSH_RESTARTED (the source's device was reset) needs no action here: the
         * library forgets what was loaded before, and in any case the last PCI configuration is
         * the one that counts. */
        if (status & VFIOMIG_PUSH_INITIAL_LOADED) {
            struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
            vfiomig_load_get_stats(t->load, &stats);
            struct initial_loaded loaded = { .generation = stats.initial_generation };
            if ((r = net_send(t->sock, MSG_INITIAL_LOADED, &loaded, sizeof loaded)) < 0)
                return give_up(t, r, "the source is gone");
        }
        if (status & VFIOMIG_PUSH_END) {
            t->report->at_ns[LOADED] = now_ns();
            return 0;
        }
    }
}

/* After the commit: whose guest is it? */
static int wait_for_permission(struct target *t)
{
    struct message m = { .data = t->buffer, .cap = BUFFER_SIZE };
    int r;
    do
        r = net_receive(t->sock, &m, -1);
    while (r == 0);
    if (r == 1 && m.type == MSG_GO)
        return 0;
    if (r == -EPIPE) {
        /* A source that goes on says so first; this one died, and its guest with it. Between two
         * processes of one machine that is certain. On a network a broken connection proves
         * nothing: ask someone who can fence the source before you run the guest. */
        printf("target: the source died after the commit: the guest is this side's\n");
        return 0;
    }
    return give_up(t, -ECANCELED, "the source keeps the guest after all");
}

/* What the device's own state does not contain. */
static int redo_fixups(struct target *t)
{
    uint32_t fixups;
    int r = vfiomig_device_get_fixups(t->device.mig, &fixups);
    if (r < 0)
        return library_failed(t, r);
    t->report->fixups = fixups;
    if (fixups & VFIOMIG_FIXUP_PCI_COMMAND)
        device_restore_command(&t->device, t->config);
    if (fixups & VFIOMIG_FIXUP_INTERRUPTS)
        device_restore_interrupts(&t->device, t->config);
    return 0;
}

static int load_and_run(struct target *t)
{
    enum failure fail_at = t->options->fail_at;
    struct vfiomig_load_options options = VFIOMIG_LOAD_OPTIONS_INIT;
    options.blob = take_blob;
    options.blob_opaque = t;
    if (fail_at == FAIL_TARGET_BEGIN)
        device_inject(&t->device, CHANGE_OF_STATE, 1, EBUSY);
    int r = vfiomig_load_begin(t->device.mig, &options, &t->load);
    if (r < 0)
        return library_failed(t, r);
    if (fail_at == FAIL_TARGET_WRITE)
        device_inject(&t->device, WRITE, 20, EIO);

    if ((r = receive_state(t)) < 0)
        return r;
    if (!t->has_config)
        return give_up(t, -EPROTO, "the stream brought no PCI configuration");

    /* The driver's own check of the whole state, while the source can still go on. */
    if (fail_at == FAIL_TARGET_COMMIT)
        device_inject(&t->device, CHANGE_OF_STATE, 1, EINVAL);
    if ((r = vfiomig_load_commit(t->load)) < 0)
        return library_failed(t, r);
    t->report->at_ns[COMMITTED] = now_ns();
    if ((r = net_send(t->sock, MSG_COMMITTED, NULL, 0)) < 0 && r != -EPIPE)
        return give_up(t, r, "telling the source failed: %s", strerror(-r));
    if ((r = wait_for_permission(t)) < 0)
        return r;
    if (fail_at == FAIL_KILL_TARGET_LATE)
        raise(SIGKILL);

    if ((r = redo_fixups(t)) < 0)
        return r;
    if (fail_at == FAIL_TARGET_RUN)
        device_inject(&t->device, CHANGE_OF_STATE, 1, EBUSY);
    if ((r = vfiomig_device_run(t->device.mig)) < 0)
        return library_failed(t, r);
    t->report->at_ns[RUNNING] = now_ns();
    /* From here on the guest runs: its vCPUs would be started first and checked later. */
    net_send(t->sock, MSG_RUNNING, NULL, 0);
    return 0;
}

/* What came is compared with what left; the stand-in's vCPUs wait, so that it does not change. */
static void look_at_result(struct target *t)
{
    uint8_t config[PCI_CONFIG_SIZE];
    device_read_config(&t->device, config);
    t->report->pci_command = (uint16_t)(config[4] | config[5] << 8);
    t->report->digest = device_digest(&t->device);
    t->report->memory_digest = memory_digest(&t->memory);
    printf("target: redone before running:%s%s\n",
           t->report->fixups & VFIOMIG_FIXUP_PCI_COMMAND ? " PCI_COMMAND" : "",
           t->report->fixups & VFIOMIG_FIXUP_INTERRUPTS ? " interrupts" : "");
}

/* The guest and its device go on writing where they were, in this side's memory. */
static void run_guest(struct target *t)
{
    const struct options *o = t->options;
    bool dma = t->device.sim && t->memory.size > 0 && o->dma_rate > 0;
    bool vcpus = t->memory.size > 0 && o->memory_rate > 0;
    uint64_t patience = now_ns() + 120000000000u;
    guest_run(&t->guest);
    t->report->vcpus_run = true;
    if (device_start_dma(&t->device, &t->memory) < 0)
        return;
    do {
        t->report->goes_on =
            (!dma || device_dma_writes(&t->device) > 0) &&
            (!vcpus || __atomic_load_n(&t->memory.vcpu_writes, __ATOMIC_RELAXED) > 0);
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    } while (!t->report->goes_on && now_ns() < patience);
}

void run_target(const struct options *options, int sock, struct report *report)
{
    struct target t = { .options = options, .report = report, .sock = sock };
    t.buffer = malloc(BUFFER_SIZE);
    int r = device_open(&t.device, options, TARGET, report->why, sizeof report->why);
    if (r == 0 && (r = memory_create(&t.memory, options->memory_size, 0)) < 0)
        give_up(&t, r, "no memory for the guest");
    if (r == 0) {
        r = guest_create(&t.guest, &t.device, &t.memory, options);
        if (r == 0) {
            r = load_and_run(&t);
            if (r == 0) {
                look_at_result(&t);
                run_guest(&t);
            }
            guest_destroy(&t.guest);
        }
    }
    if (r < 0) {
        printf("target: %s\n", report->why);
        net_send(sock, MSG_FAILED, report->why, strlen(report->why));
    }

    struct vfiomig_load_stats stats = VFIOMIG_LOAD_STATS_INIT;
    if (t.load && vfiomig_load_get_stats(t.load, &stats) == 0) {
        report->data_bytes = stats.data_bytes;
        report->restarts = stats.restarts;
    }
    /* A load that was not committed leaves a device that was reset. One that was committed but
     * may not run leaves a complete state behind, which nobody should find: reset it. */
    vfiomig_load_free(t.load);
    if (r < 0 && t.device.mig && report->at_ns[COMMITTED] && vfiomig_device_reset(t.device.mig) < 0)
        printf("target: %s\n", vfiomig_error_message());
    if (t.device.mig)
        report->violations = device_violations(&t.device, NULL);
    device_close(&t.device);
    memory_destroy(&t.memory);
    free(t.buffer);
    report->finished = true;
}
