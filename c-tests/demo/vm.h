/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What both sides have: a guest, and its devices in a group, with threads and channels. */
#ifndef VM_H
#define VM_H

#include <pthread.h>

#include "demo.h"
#include "device.h"
#include "guest.h"
#include "link.h"
#include "memory.h"

struct vm {
    const struct options *options;
    const struct connections *connections;
    struct shared *shared;
    struct report *report;
    enum side side;
    struct device devices[MAX_DEVICES];
    struct guest guest;
    struct memory memory;
    struct link link;
    struct vfiomig_group *group;
    struct vfiomig_estimate *estimate; /* the group's */
    uint32_t num_open; /* devices */
    bool has_guest, begun;
    pthread_t lent[MAX_DEVICES + 1];
    uint32_t num_lent;
};

/* Opens the devices, and creates everything else. link.act and link.heard are set before. 0, or -errno
 * with the reason in the report. */
int vm_create(struct vm *vm, const struct options *options, const struct connections *connections,
              struct shared *shared, enum side side);
void vm_destroy(struct vm *vm);
static inline struct device *vm_last_device(struct vm *vm)
{
    return &vm->devices[vm->options->devices - 1];
}

/* Notes why this side gives up; the first reason stays. Returns the code. */
int vm_give_up(struct vm *vm, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same with the library's text, which is the thread's last one: before the next call. */
int vm_library_failed(struct vm *vm, int code);

/* Begins the saves or the loads, with threads that work on them. */
int vm_begin(struct vm *vm);
/* Makes the fix-ups, and runs the devices: if the guest may run here. */
int vm_run_devices(struct vm *vm);
/* What was measured of the devices, from the last migration and for the next one. */
void vm_recall(struct vm *vm);
void vm_remember(struct vm *vm);
/* Breaks the connections of devices and memory, so that nobody waits for them. */
void vm_cut(struct vm *vm);

#endif
