/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "vm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int vm_give_up(struct vm *vm, int code, const char *format, ...)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* several threads may fail at once */
    va_list args;
    pthread_mutex_lock(&lock);
    va_start(args, format);
    if (!vm->report->why[0])
        vsnprintf(vm->report->why, sizeof vm->report->why, format, args);
    va_end(args);
    pthread_mutex_unlock(&lock);
    return code;
}

int vm_library_failed(struct vm *vm, int code)
{
    return vm_give_up(vm, code, "%s", vfiomig_error_message());
}

/* --- channels -------------------------------------------------------------------------------- */

/* A channel whose bytes the VMM carries itself, as it would through TLS. This one damages them. */
struct damaging {
    int fd;
    unsigned calls;
};

static int64_t damage_and_send(void *opaque, const void *data, size_t len)
{
    struct damaging *d = opaque;
    uint8_t copy[4096];
    len = len < sizeof copy ? len : sizeof copy;
    memcpy(copy, data, len);
    if (++d->calls == 100)
        copy[len / 2] ^= 0x10;
    ssize_t n = send(d->fd, copy, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    return n < 0 ? -errno : n;
}

static int64_t receive(void *opaque, void *buf, size_t cap)
{
    struct damaging *d = opaque;
    ssize_t n = recv(d->fd, buf, cap, MSG_DONTWAIT);
    return n < 0 ? -errno : n;
}

static int add_channels(struct vm *vm)
{
    static struct damaging damaging;
    struct vfiomig_channel_ops ops = VFIOMIG_CHANNEL_OPS_INIT;
    int r = 0;
    ops.send = damage_and_send;
    ops.receive = receive;
    for (uint32_t i = 0; i < vm->options->channels && r == 0; i++) {
        struct vfiomig_channel_options options = VFIOMIG_CHANNEL_OPTIONS_INIT;
        options.fd = vm->connections->channels[i];
        if (vm->side == SOURCE && vm->options->fail_at == FAIL_CORRUPT && i == 0) {
            damaging.fd = options.fd;
            options.ops = &ops;
            options.ops_opaque = &damaging;
        }
        r = vfiomig_group_add_channel(vm->group, &options);
    }
    return r;
}

/* --- the group ------------------------------------------------------------------------------- */

/* Called while the target loads. What is refused here makes the load fail. */
static int take_blob(void *opaque, uint32_t kind, const void *data, size_t len)
{
    struct device *d = opaque;
    if (kind != BLOB_PCI_CONFIG || len != sizeof d->config_to_restore)
        return -EPROTO;
    memcpy(d->config_to_restore, data, len);
    d->has_config = true;
    return 0;
}

static int make_group(struct vm *vm)
{
    struct vfiomig_group_options options = VFIOMIG_GROUP_OPTIONS_INIT;
    options.role = vm->side == SOURCE ? VFIOMIG_GROUP_ROLE_SOURCE : VFIOMIG_GROUP_ROLE_TARGET;
    memcpy(options.migration_id, migration_id, sizeof options.migration_id);
    options.window = VFIOMIG_GROUP_GOOD_WINDOW;
    int r = vfiomig_group_new(&options, &vm->group);
    for (uint32_t i = 0; i < vm->options->devices && r == 0; i++) {
        struct vfiomig_load_options load = VFIOMIG_LOAD_OPTIONS_INIT;
        load.blob = take_blob;
        load.blob_opaque = &vm->devices[i];
        r = vm->side == SOURCE ? vfiomig_group_add_save(vm->group, vm->devices[i].mig, NULL)
                               : vfiomig_group_add_load(vm->group, vm->devices[i].mig, &load);
    }
    if (r == 0)
        r = add_channels(vm);
    if (r == 0)
        r = vfiomig_group_get_estimate(vm->group, &vm->estimate);
    return r < 0 ? vm_library_failed(vm, r) : 0;
}

/* A group that cannot migrate is not an error for the library, but it is for this program. */
static int must_migrate(struct vm *vm)
{
    struct vfiomig_reason reason = VFIOMIG_REASON_INIT;
    uint32_t device;
    int r;
    for (uint32_t i = 0; (r = vfiomig_group_get_reason(vm->group, i, &device, &reason)) == 0; i++) {
        if (vm->options->verbose)
            printf("%s: device %u: %s: %s\n", side_name[vm->side], device, reason.label, reason.text);
        if (reason.severity == VFIOMIG_SEVERITY_BLOCKS)
            return vm_give_up(vm, -EOPNOTSUPP, "device %u cannot migrate: %s", device, reason.text);
    }
    return r == -ENODATA ? 0 : vm_library_failed(vm, r); /* which is what it returns after the last one */
}

static int open_link(struct vm *vm)
{
    static struct vfiomig_identity identities[MAX_DEVICES];
    int r = 0;
    for (uint32_t i = 0; i < vm->options->devices && r == 0; i++) {
        identities[i] = (struct vfiomig_identity)VFIOMIG_IDENTITY_INIT;
        r = vfiomig_device_get_identity(vm->devices[i].mig, &identities[i]);
    }
    if (r == 0)
        r = link_open(&vm->link, vm->options->devices, identities);
    return r < 0 ? vm_library_failed(vm, r) : 0;
}

int vm_create(struct vm *vm, const struct options *options, const struct connections *connections,
              struct shared *shared, enum side side)
{
    vm->options = options;
    vm->connections = connections;
    vm->shared = shared;
    vm->report = &shared->reports[side];
    vm->report->prediction = (struct vfiomig_prediction)VFIOMIG_PREDICTION_INIT;
    vm->report->downtime = (struct vfiomig_downtime)VFIOMIG_DOWNTIME_INIT;
    vm->side = vm->link.side = side;
    vm->link.shared = shared;
    vm->link.sock = connections->link;
    vm->link.again = connections->again;
    vm->link.opaque = vm;
    /* The target's guest has just been powered on. */
    int r = memory_create(&vm->memory, options->memory_size, side == SOURCE);
    if (r < 0)
        return vm_give_up(vm, r, "no memory for the guest");
    for (; vm->num_open < options->devices && r == 0; vm->num_open += r == 0)
        r = device_open(&vm->devices[vm->num_open], options, side, vm->num_open, vm->report->why,
                        sizeof vm->report->why);
    if (r == 0)
        r = make_group(vm);
    if (r == 0)
        r = must_migrate(vm);
    if (r == 0)
        r = open_link(vm);
    if (r < 0)
        return r;
    r = guest_create(&vm->guest, vm->devices, &vm->memory, options);
    vm->has_guest = r == 0;
    return r < 0 ? vm_give_up(vm, r, "no thread for the guest") : 0;
}

/* On standard error: what happened to the devices, for whoever has to explain why this side gave up. */
static void print_history(struct vm *vm)
{
    size_t size = (vm->num_open + 1) * (size_t)VFIOMIG_HISTORY_BYTES, len;
    char *text = malloc(size);
    if (text && vfiomig_group_get_history(vm->group, VFIOMIG_HISTORY_TEXT, text, size, &len) == 0)
        fprintf(stderr, "%s: what happened:\n%s", vm->side == SOURCE ? "source" : "target", text);
    free(text);
}

void vm_destroy(struct vm *vm)
{
    if (vm->group && vm->report->why[0])
        print_history(vm);
    vfiomig_group_dismiss(vm->group);
    for (uint32_t i = 0; i < vm->num_lent; i++)
        pthread_join(vm->lent[i], NULL);
    if (vm->has_guest)
        guest_destroy(&vm->guest);
    link_close(&vm->link);
    vfiomig_estimate_free(vm->estimate);
    vfiomig_group_free(vm->group);
    for (uint32_t i = 0; i < vm->num_open; i++) {
        vm->report->violations += device_violations(&vm->devices[i], NULL);
        device_close(&vm->devices[i]);
    }
    memory_destroy(&vm->memory);
    vm->report->finished = true;
}

static void *work(void *group)
{
    vfiomig_group_work(group, VFIOMIG_GROUP_UNTIL_DISMISSED);
    return NULL;
}

int vm_begin(struct vm *vm)
{
    int r;
    /* One for each device, which it may keep busy, and one for the channels. */
    while (vm->num_lent <= vm->options->devices) {
        r = -pthread_create(&vm->lent[vm->num_lent], NULL, work, vm->group);
        if (r < 0)
            return vm_give_up(vm, r, "no thread for the group");
        vm->num_lent++;
    }
    if ((r = vfiomig_group_begin(vm->group)) < 0)
        return vm_library_failed(vm, r);
    vm->begun = true;
    return 0;
}

/* What the devices' own state does not contain, and a load or a reset has undone. */
static int redo_fixups(struct vm *vm)
{
    for (uint32_t i = 0; i < vm->options->devices; i++) {
        struct device *d = &vm->devices[i];
        uint32_t fixups;
        int r = vfiomig_device_get_fixups(d->mig, &fixups);
        if (r < 0)
            return vm_library_failed(vm, r);
        if (vm->side == SOURCE)
            device_read_config(d, d->config_to_restore);
        if (fixups & VFIOMIG_FIXUP_PCI_COMMAND)
            device_restore_command(d, d->config_to_restore);
        if (fixups & VFIOMIG_FIXUP_INTERRUPTS)
            device_restore_interrupts(d, d->config_to_restore);
        if (fixups)
            printf("%s: device %u: redone before running:%s%s\n", side_name[vm->side], i,
                   fixups & VFIOMIG_FIXUP_PCI_COMMAND ? " PCI_COMMAND" : "",
                   fixups & VFIOMIG_FIXUP_INTERRUPTS ? " interrupts" : "");
    }
    return 0;
}

int vm_run_devices(struct vm *vm)
{
    if (!lease_take(vm->shared, vm->side))
        return vm_give_up(vm, -EBUSY, "the guest's disks are the other side's");
    int r = redo_fixups(vm);
    if (r == 0 && (r = vfiomig_group_run(vm->group)) < 0)
        vm_library_failed(vm, r);
    return r;
}

void vm_cut(struct vm *vm)
{
    for (uint32_t i = 0; i < vm->options->channels; i++)
        shutdown(vm->connections->channels[i], SHUT_RDWR);
    shutdown(vm->connections->memory, SHUT_RDWR);
}

/* --- from one migration to the next ---------------------------------------------------------- */

static FILE *open_measures(const struct vm *vm, const char *mode)
{
    char path[4096];
    if (!vm->options->remember)
        return NULL;
    snprintf(path, sizeof path, "%s.%s", vm->options->remember, side_name[vm->side]);
    return fopen(path, mode);
}

/* A VMM keeps them by device; these are numbered. Anything may be in the file: it is checked. */
void vm_recall(struct vm *vm)
{
    FILE *file = open_measures(vm, "r");
    uint8_t blob[VFIOMIG_ESTIMATE_BYTES];
    for (uint32_t i = 0; file && i < vm->options->devices && fread(blob, sizeof blob, 1, file) == 1; i++)
        if (vfiomig_estimate_import(vm->estimate, i, VFIOMIG_ESTIMATE_HERE, blob, sizeof blob) < 0)
            printf("%s: %s\n", side_name[vm->side], vfiomig_error_message());
    if (file)
        fclose(file);
}

void vm_remember(struct vm *vm)
{
    FILE *file = open_measures(vm, "w");
    uint8_t blob[VFIOMIG_ESTIMATE_BYTES];
    size_t len;
    for (uint32_t i = 0; file && i < vm->options->devices; i++)
        if (vfiomig_estimate_export(vm->estimate, i, blob, sizeof blob, &len) < 0 ||
            fwrite(blob, len, 1, file) != 1)
            break;
    if (file && fclose(file) != 0)
        perror(vm->options->remember);
}
