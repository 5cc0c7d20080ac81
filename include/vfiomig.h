/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libvfiomig: VFIO live migration.
 *
 * Generated from the library's source; do not edit. Every function has a man page. Start with
 * vfiomig(7).
 *
 * Return values: 0 or a positive number is success; a negative number is -errno from the closed set
 * that each function lists. errno itself is not touched. vfiomig_error_message() returns a text.
 * Outputs are written on success only.
 *
 * Handles are not memory. A function returns -EFAULT for NULL, and -EBADF for a handle that was
 * freed or is of another kind. Different handles may be used by different threads at once. If one
 * thread is using a handle, another one gets -EBUSY for it, or -EBADF once a thread waits to free
 * it. Calls on the same device wait for each other, and so do calls with the same struct
 * vfiomig_dirty.
 *
 * Structures begin with their size: initialise them with their _INIT macro.
 *
 * Pointers must be valid for the length that belongs to them, for reading or for writing as the
 * function needs, and nobody else may change what they point to during the call. After a call has
 * returned, the library keeps nothing but handles, callbacks and their opaque pointers.
 *
 * Callbacks run on the thread that is inside the library. They must return: no longjmp, no
 * exception, no pthread_exit. They may use what their arguments point to only until they return,
 * and only for the length that belongs to it. In a callback, functions return -EBUSY for handles of
 * the device or tracking object that the callback belongs to, and for any other that a call is
 * using: nothing waits in a callback.
 *
 * Handles belong to the process that made them: after fork() they return -EBADF in the child.
 *
 * The library starts no threads, installs no signal handlers and no exit handlers, and never ends
 * the process. A thread that is inside it must not be cancelled (pthread_cancel).
 */

#ifndef VFIOMIG_H
#define VFIOMIG_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Makes compilers warn if a result is dropped that decides what becomes of the guest. To switch
 * that off, define it as nothing before you include this header.
 */
#ifndef VFIOMIG_MUST_CHECK
#ifdef __GNUC__
#define VFIOMIG_MUST_CHECK __attribute__((warn_unused_result))
#else
#define VFIOMIG_MUST_CHECK
#endif
#endif

/* Initialises a structure: sets struct_size, and everything else to zero. */
#ifdef __cplusplus
#define VFIOMIG_INIT_(type) \
    ([] { type s_{}; s_.struct_size = static_cast<uint32_t>(sizeof s_); return s_; }())
#else
#define VFIOMIG_INIT_(type) { .struct_size = sizeof(type) }
#endif

/* Callbacks
 * --------- */

/*
 * Called exactly once with a callback's opaque, when the library will no longer use it, even if the
 * call that brought it fails. NULL: nothing to do.
 *
 * All callbacks follow one rule. A single callback is followed by its opaque and its release, such
 * as event, event_opaque, event_release. A table of callbacks has a member release, and its opaque
 * stands beside the pointer to the table. Each callback gets its opaque as its first argument. If a
 * structure cannot be read at all (NULL, or a wrong struct_size), nothing in it is released. A
 * callback that is only called during the call that it is given to has no release.
 */
typedef void (*vfiomig_release_fn)(void *opaque);

/* Version
 * ------- */

/* The version of this header. */
#define VFIOMIG_VERSION_MAJOR 0  /* Major version. */
#define VFIOMIG_VERSION_MINOR 1  /* Minor version; increases when something is added. */
#define VFIOMIG_VERSION_PATCH 0  /* Patch version. */

/* The version that the caller was compiled with; vfiomig_version() is the one it runs with. */
#define VFIOMIG_VERSION \
    (VFIOMIG_VERSION_MAJOR << 16 | VFIOMIG_VERSION_MINOR << 8 | VFIOMIG_VERSION_PATCH)

/*
 * Returns the library's version at run time: major << 16 | minor << 8 | patch. Compare it with
 * VFIOMIG_VERSION, which the caller was compiled with.
 *
 * Returns: The version as a number.
 * Since: 0.1.
 */
uint32_t vfiomig_version(void);

/*
 * Returns the library's version at run time as a text, for example "0.1.0". Static.
 *
 * Returns: A static text.
 * Since: 0.1.
 */
const char *vfiomig_version_string(void);

/* Errors
 * ------ */

/* What recovery left behind. */
#define VFIOMIG_OUTCOME_KEPT      0  /* Nothing had to be recovered: the device is in the state that
                                      * it was in before. */
#define VFIOMIG_OUTCOME_RECOVERED 1  /* The device was brought back without a reset; its data stream
                                      * is gone. */
#define VFIOMIG_OUTCOME_RESET     2  /* The device was reset, and its contents are lost. It is in
                                      * state_after: RUNNING, unless the library has taken it on
                                      * from there. */
#define VFIOMIG_OUTCOME_LOST      3  /* The device could not be reset; only a harder reset by the
                                      * VMM may help. */

/* What was being done when something failed. */
#define VFIOMIG_OP_NONE         0   /* The caller's arguments were at fault. */
#define VFIOMIG_OP_PROBE        1   /* Asking for a feature. */
#define VFIOMIG_OP_GET_STATE    2   /* Reading the device's state. */
#define VFIOMIG_OP_SET_STATE    3   /* Changing the device's state. */
#define VFIOMIG_OP_DATA_READ    4   /* Reading from the data fd. */
#define VFIOMIG_OP_DATA_WRITE   5   /* Writing to the data fd. */
#define VFIOMIG_OP_PRECOPY_INFO 6   /* Asking for the pre-copy estimates. */
#define VFIOMIG_OP_RESET        7   /* Resetting the device. */
#define VFIOMIG_OP_STREAM       8   /* Checking the stream. */
#define VFIOMIG_OP_CALLBACK     9   /* A callback of the VMM refused. */
#define VFIOMIG_OP_FILE         10  /* Reading, writing or naming a file, or what else is behind a
                                     * descriptor of the VMM's. */

/*
 * What was going on when something failed. Look at code first: it is 0 if nothing has failed, and
 * then no member means anything.
 */
struct vfiomig_failure {
    uint32_t struct_size;    /* VFIOMIG_FAILURE_INIT sets it. */
    int32_t code;            /* What the function returned: -errno from the library's closed set. 0
                              * if nothing has failed. */
    uint32_t operation;      /* VFIOMIG_OP_*. */
    uint32_t ioctl_request;  /* The ioctl's request number; 0 for read, write and the stream. */
    int32_t os_errno;        /* The errno that the kernel or a callback gave; 0 for the stream. */
    uint32_t state_before;   /* The state before, or VFIOMIG_STATE_UNKNOWN. */
    uint32_t state_wanted;   /* The state that was wanted, or VFIOMIG_STATE_UNKNOWN. */
    uint32_t state_after;    /* The state afterwards, including recovery, or
                              * VFIOMIG_STATE_UNKNOWN. */
    uint32_t outcome;        /* VFIOMIG_OUTCOME_*: what recovery left behind. */
    uint32_t fixups;         /* Bitwise OR of VFIOMIG_FIXUP_*: what the VMM must redo before the
                              * device runs. */
    uint64_t offset;         /* Bytes of device data (for reads and writes), or of the stream,
                              * before the failure. */
};
#define VFIOMIG_FAILURE_INIT VFIOMIG_INIT_(struct vfiomig_failure)

/*
 * Returns the text of the last error that a function returned on this thread: one line, beginning
 * with the function's name; empty before the first error. Texts may change in any release; codes do
 * not. Valid until the next error on this thread.
 *
 * Returns: A text of this thread; never NULL.
 * Since: 0.1.
 */
const char *vfiomig_error_message(void);

/*
 * Returns one line that says what an error code generally means, for a negative return value of any
 * function; "unknown error" for other numbers. Static.
 *
 * Returns: A static text; never NULL.
 * Since: 0.1.
 */
const char *vfiomig_error_describe(int code);

/* Messages
 * -------- */

/* Levels of messages; each includes those before it. */
#define VFIOMIG_LOG_OFF   0  /* No messages. */
#define VFIOMIG_LOG_ERROR 1  /* Errors. */
#define VFIOMIG_LOG_WARN  2  /* And warnings: something went wrong, and the library recovered from
                              * it. */
#define VFIOMIG_LOG_INFO  3  /* And what an operator wants to know. */
#define VFIOMIG_LOG_DEBUG 4  /* And every change of state. */
#define VFIOMIG_LOG_TRACE 5  /* And everything. */

/*
 * Takes a message: its level (VFIOMIG_LOG_*), the part of the library that it comes from, and one
 * line of text. May be called from several threads at once, and must not call the library.
 */
typedef void (*vfiomig_log_fn)(void *opaque, uint32_t level, const char *target,
                               const char *message);

/*
 * Sends the library's messages to log, up to level (VFIOMIG_LOG_*), for the whole process. NULL
 * makes the library silent again, as it is at first. Bytes of device state are never logged. The
 * previous callback's opaque is released once no thread is inside that callback.
 *
 * Errors: -ENOMEM, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_log_set(vfiomig_log_fn log, void *opaque, vfiomig_release_fn release, uint32_t level);

/*
 * Sends the library's messages to standard error as the environment variable VFIOMIG_LOG says, for
 * example VFIOMIG_LOG=debug. Replaces what vfiomig_log_set() set; may be called again. For programs
 * that have no logging of their own. The syntax is that of Rust's env_logger: a level, or
 * TARGET=LEVEL, several separated by commas. No other thread may change the environment meanwhile.
 *
 * Errors: -ENOMEM, -EBUSY, -EOPNOTSUPP, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_log_init_env(void);

/* States of a device
 * ------------------ */

/* States of a device, with the kernel's numbers (enum vfio_device_mig_state). */
#define VFIOMIG_STATE_ERROR        0  /* The driver has lost track of the device; only a reset
                                       * helps. */
#define VFIOMIG_STATE_STOP         1  /* Stopped. */
#define VFIOMIG_STATE_RUNNING      2  /* Running. */
#define VFIOMIG_STATE_STOP_COPY    3  /* Stopped, with its state being read. */
#define VFIOMIG_STATE_RESUMING     4  /* Stopped, with its state being written. */
#define VFIOMIG_STATE_RUNNING_P2P  5  /* Running, but not starting any peer-to-peer DMA. */
#define VFIOMIG_STATE_PRE_COPY     6  /* Running, with its state being read. */
#define VFIOMIG_STATE_PRE_COPY_P2P 7  /* Like PRE_COPY, but not starting any peer-to-peer DMA. */
#define VFIOMIG_STATE_UNKNOWN      UINT32_MAX  /* Not known. */

/* The path from one state to another. */
struct vfiomig_path {
    uint32_t struct_size;  /* VFIOMIG_PATH_INIT sets it. */
    uint32_t num_steps;    /* How many states the path enters; the last one is the target. 0: the
                            * device is already there. */
    uint32_t steps[8];     /* These states: VFIOMIG_STATE_*. */
    uint32_t opens_data;   /* 1 if the kernel returns a new data fd on the way. */
    uint32_t reserved;     /* Zero. */
};
#define VFIOMIG_PATH_INIT VFIOMIG_INIT_(struct vfiomig_path)

/*
 * Computes how a device with VFIO_MIGRATION_* migration_flags gets from one state to another
 * (VFIOMIG_STATE_*), exactly as the kernel does: which states it passes through, and whether a data
 * fd comes back. Asks no device.
 *
 * Errors: -EFAULT, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_fsm_path(uint64_t migration_flags, uint32_t from, uint32_t to,
                     struct vfiomig_path *path);

/*
 * Returns a state's name as the kernel's documentation has it, for example "PRE_COPY"; "UNKNOWN"
 * for numbers that are not states. Static.
 *
 * Returns: A static text; never NULL.
 * Since: 0.1.
 */
const char *vfiomig_state_name(uint32_t state);

/* Switching migration off
 * ----------------------- */

/* What a process allows. */
#define VFIOMIG_ALLOW_SAVE (1 << 0)  /* Saves may begin, and go on. */
#define VFIOMIG_ALLOW_LOAD (1 << 1)  /* Loads may begin, and go on. */

/* Flags of vfiomig_policy_add_file(). */
#define VFIOMIG_POLICY_OPTIONAL (1 << 0)  /* The file may be missing: it forbids nothing until it is
                                           * there. */

/*
 * Allows saves and loads in this process (bitwise OR of VFIOMIG_ALLOW_*), and forbids what is not
 * named: 0 is the kill switch. Everything is allowed at first. The environment (VFIOMIG_DISABLE)
 * and the host's policy may forbid more: vfiomig-policy(5). May be called from any thread at any
 * time.
 *
 * What is no longer allowed does not begin (-EPERM), and what has begun is cut off: a call on
 * another thread, and every later one, returns -EPERM, and the device is as after any error. A save
 * is then finished with VFIOMIG_ENDING_KEEP, and its guest goes on; a load has been reset. To end a
 * call that blocks in the driver, also send its thread a signal. What is complete is not cut off: a
 * save that has returned VFIOMIG_NEXT_END can still be released, and a load that was committed is
 * run as usual. Allowing something again lets new sessions begin, and does not bring back those
 * that were cut off.
 *
 * Errors: -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_process_set_allowed(uint32_t directions);

/*
 * Has this process keep to a policy file (vfiomig-policy(5)) besides the host's. It can only forbid
 * more than that one. The file belongs to root or to the process's user, and nobody else can write
 * to it. If it cannot be used, the call fails and changes nothing; if that happens later, the file
 * forbids everything. There can be 16 files; one that is named again counts once.
 *
 * The path is absolute, and dir_fd is AT_FDCWD; or it is relative to the directory dir_fd, of which
 * the library keeps a duplicate. A directory that was opened before the VMM locks itself in can be
 * looked into later: with /etc/vfiomig, path "policy.conf" and VFIOMIG_POLICY_OPTIONAL, a VMM keeps
 * seeing the host's policy.
 *
 * Sessions look at the files again when they begin, and on their calls every 100 ms, and are cut
 * off as by vfiomig_process_set_allowed().
 *
 * Errors: -ENOMEM, -EFAULT, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_policy_add_file(int dir_fd, const char *path, uint32_t flags) VFIOMIG_MUST_CHECK;

/* Devices
 * ------- */

/* One VFIO device. A handle, not memory: only the library's functions can use it. */
struct vfiomig_device;

/* Flags of struct vfiomig_device_options. */
#define VFIOMIG_DEVICE_DISABLED (1 << 0)  /* The administrator's switch: the device is probed, but
                                           * not migrated. */

/* Kinds of events. More may come. */
#define VFIOMIG_EVENT_STATE_CHANGED     1   /* The device went from one state to another. */
#define VFIOMIG_EVENT_RECOVERED         2   /* Recovery from a failed change has ended; the outcome
                                             * says how. */
#define VFIOMIG_EVENT_RESET             3   /* The device was reset, by the library or behind its
                                             * back, or could not be reset
                                             * (VFIOMIG_OUTCOME_LOST). */
#define VFIOMIG_EVENT_SAVE_RESTARTED    4   /* A save started again because the device was reset:
                                             * everything sent before is void. */
#define VFIOMIG_EVENT_FIXUPS_NEEDED     5   /* The VMM must redo something before the device
                                             * runs. */
#define VFIOMIG_EVENT_LOAD_RESTARTED    6   /* The source of a load started again: earlier blobs and
                                             * acknowledgements are void. A callback gets it at its
                                             * place among the blobs. */
#define VFIOMIG_EVENT_OPENED            7   /* The library was given the device. This and what
                                             * follows is not told to callbacks, but queued:
                                             * vfiomig_group_next_event(),
                                             * vfiomig_device_next_event(). */
#define VFIOMIG_EVENT_STATE_ASKED       8   /* The driver is asked to take the device from one state
                                             * to another. */
#define VFIOMIG_EVENT_DRIVER_FAILED     9   /* The driver failed at an operation. */
#define VFIOMIG_EVENT_SAVE_BEGAN        10  /* A save began. */
#define VFIOMIG_EVENT_FIRST_DATA        11  /* The first data of pre-copy or of the stopped device
                                             * was read, or is about to be written. */
#define VFIOMIG_EVENT_ROUND             12  /* The running device has nothing more for now, for the
                                             * count-th time. */
#define VFIOMIG_EVENT_INITIAL_SENT      13  /* All initial data of generation count was read. */
#define VFIOMIG_EVENT_INITIAL_RESTARTED 14  /* The device has started its initial data again:
                                             * generation count. */
#define VFIOMIG_EVENT_LAST_DATA         15  /* The device's stream was read to its end. */
#define VFIOMIG_EVENT_SAVE_ENDED        16  /* A save was released or kept; text says which. */
#define VFIOMIG_EVENT_LOAD_BEGAN        17  /* A load began. */
#define VFIOMIG_EVENT_INITIAL_LOADED    18  /* The device has taken all initial data of generation
                                             * count. */
#define VFIOMIG_EVENT_LOAD_COMPLETE     19  /* The device's stream has come to its end. */
#define VFIOMIG_EVENT_COMMITTED         20  /* The driver has accepted the device's state. */
#define VFIOMIG_EVENT_LOAD_ABANDONED    21  /* A load was given up. */
#define VFIOMIG_EVENT_LOAD_FAILED       22  /* A load has failed, and lets go of its device. */
#define VFIOMIG_EVENT_CANCELLED         23  /* The session was cancelled. */
#define VFIOMIG_EVENT_ERROR             24  /* A call failed. */
#define VFIOMIG_EVENT_PHASE             25  /* The group has gone on to another phase. */
#define VFIOMIG_EVENT_VERDICT           26  /* What the group's estimate says of the switchover is
                                             * another thing than before. */
#define VFIOMIG_EVENT_NO_DEVICE         UINT32_MAX  /* The event is of the group, or of a device by
                                                     * itself. */

/* Why a device was reset: struct vfiomig_event. */
#define VFIOMIG_CAUSE_ASKED            1   /* vfiomig_device_reset() was called, or a group has
                                            * abandoned the device. */
#define VFIOMIG_CAUSE_TOLD             2   /* The VMM said so: vfiomig_device_notify_reset(). */
#define VFIOMIG_CAUSE_FOUND            3   /* It was in RUNNING without having been asked: somebody
                                            * else has reset it. */
#define VFIOMIG_CAUSE_RECOVERY         4   /* After a change of state that failed, nothing else
                                            * helped. */
#define VFIOMIG_CAUSE_LEFT_BEHIND      5   /* An earlier owner, or an earlier failure, left it where
                                            * only a reset helps. */
#define VFIOMIG_CAUSE_SOURCE_RESTARTED 6   /* The source of a load started again. */
#define VFIOMIG_CAUSE_LOAD_FAILED      7   /* The load has failed. */
#define VFIOMIG_CAUSE_LOAD_ABANDONED   8   /* The load was given up. */
#define VFIOMIG_CAUSE_ENDING           9   /* A save's end found no other way back. */
#define VFIOMIG_CAUSE_LET_GO           10  /* The last handle was freed, with a session left open or
                                            * after a reset that failed. */

/* What the VMM must redo before a device runs. */
#define VFIOMIG_FIXUP_PCI_COMMAND (1 << 0)  /* Write PCI_COMMAND again: memory, I/O and bus-master
                                             * enables are not part of the state. */
#define VFIOMIG_FIXUP_INTERRUPTS  (1 << 1)  /* Set up INTx, MSI and MSI-X eventfds again
                                             * (VFIO_DEVICE_SET_IRQS). */

/* Flags of struct vfiomig_caps. */
#define VFIOMIG_CAP_MIGRATE         (1 << 0)  /* The device can be saved and loaded. */
#define VFIOMIG_CAP_PRE_COPY        (1 << 1)  /* It can be saved while the guest runs. */
#define VFIOMIG_CAP_P2P             (1 << 2)  /* It has peer-to-peer states. */
#define VFIOMIG_CAP_DMA_LOGGING     (1 << 3)  /* It logs the pages that it writes, and the kernel
                                               * can report them. */
#define VFIOMIG_CAP_PRECOPY_INFO_V2 (1 << 4)  /* It says when initial data starts again during
                                               * pre-copy. */
#define VFIOMIG_CAP_STATE_SIZE      (1 << 5)  /* state_size is credible. */

/* Histories: vfiomig_device_get_history(), vfiomig_group_get_history(). */
#define VFIOMIG_HISTORY_TEXT  1       /* A history as text: a line for each event. */
#define VFIOMIG_HISTORY_JSON  2       /* A history as JSON: an object in each line. */
#define VFIOMIG_HISTORY_BYTES 131072  /* Enough for the history of any device, in bytes; for one of
                                       * a group, that much for each device and once more. */
#define VFIOMIG_HISTORY_LEAST 4096    /* Enough for the first line of a device's history, in
                                       * bytes. */

/* How much a reason matters. */
#define VFIOMIG_SEVERITY_BLOCKS 0  /* The device cannot be migrated. */
#define VFIOMIG_SEVERITY_LIMITS 1  /* It can be migrated, but with a longer downtime, more pages
                                    * sent again, or not together with other devices. */
#define VFIOMIG_SEVERITY_INFO   2  /* Good to know. */

/* Why a device cannot migrate, or not well. More may come. */
#define VFIOMIG_REASON_DISABLED                1   /* The VMM switched migration off. */
#define VFIOMIG_REASON_KERNEL_TOO_OLD          2   /* The kernel has no VFIO migration. */
#define VFIOMIG_REASON_DRIVER_NO_MIGRATION     3   /* The driver bound to the device does not
                                                    * support migration. */
#define VFIOMIG_REASON_NO_STOP_COPY            4   /* The driver's migration flags do not include
                                                    * STOP_COPY. */
#define VFIOMIG_REASON_STATE_UNREADABLE        5   /* The device's state cannot be read. */
#define VFIOMIG_REASON_DEVICE_IN_ERROR         6   /* The device is in ERROR; reset it. */
#define VFIOMIG_REASON_STALE_STATE             7   /* An earlier owner left the device in a state
                                                    * other than RUNNING. */
#define VFIOMIG_REASON_NO_PRE_COPY             8   /* There is no pre-copy: the whole state is sent
                                                    * while the guest is stopped. */
#define VFIOMIG_REASON_NO_P2P                  9   /* There are no peer-to-peer states: several
                                                    * devices cannot be stopped together safely. */
#define VFIOMIG_REASON_NO_DATA_SIZE            10  /* The size of the state is not known in
                                                    * advance. */
#define VFIOMIG_REASON_NO_DMA_LOGGING          11  /* The device does not log the pages it
                                                    * writes. */
#define VFIOMIG_REASON_DMA_LOGGING_UNUSABLE    12  /* The device logs the pages it writes, but the
                                                    * kernel cannot report them. */
#define VFIOMIG_REASON_NO_PRECOPY_INFO_V2      13  /* The kernel does not say when initial data
                                                    * starts again. */
#define VFIOMIG_REASON_DISABLED_BY_ENVIRONMENT 14  /* Migration is switched off by VFIOMIG_DISABLE
                                                    * in the process's environment. */
#define VFIOMIG_REASON_DISABLED_BY_PROCESS     15  /* Migration is switched off in this process: see
                                                    * vfiomig_process_set_allowed(). */
#define VFIOMIG_REASON_DISABLED_BY_POLICY      16  /* Migration is switched off by a policy file:
                                                    * see vfiomig-policy(5). */
#define VFIOMIG_REASON_SAVE_DISABLED           17  /* Saving is switched off, by one of these three.
                                                    * Loading is not. */
#define VFIOMIG_REASON_LOAD_DISABLED           18  /* Loading is switched off, by one of these
                                                    * three. Saving is not. */
#define VFIOMIG_REASON_MID_PROTOCOL            19  /* The device has the migration region of patches
                                                    * of 2018 and 2019 that no kernel has. */
#define VFIOMIG_REASON_REGIONS_UNUSABLE        20  /* The device has migration regions of older
                                                    * kernels, and they cannot be used. */

/* Something that happened to a device. */
struct vfiomig_event {
    uint32_t struct_size;  /* VFIOMIG_EVENT_INIT sets it. In a callback: the size of this structure
                            * in the library. */
    uint32_t kind;         /* VFIOMIG_EVENT_*. More may come. */
    uint32_t from;         /* The state before, or VFIOMIG_STATE_UNKNOWN. */
    uint32_t to;           /* The state after, or VFIOMIG_STATE_UNKNOWN. Another change may follow
                            * in the same call: after a reset, for example, from RUNNING to
                            * RUNNING_P2P. */
    uint32_t outcome;      /* VFIOMIG_OUTCOME_*: what recovery, a reset or what led to a restart
                            * left behind, and of an error what it left behind. In other events it
                            * is VFIOMIG_OUTCOME_KEPT, which says nothing. */
    uint32_t fixups;       /* Bitwise OR of VFIOMIG_FIXUP_*: what the VMM must redo before the
                            * device runs. Only in events of which callbacks hear; ask
                            * vfiomig_device_get_fixups() otherwise. */
    uint64_t duration_ns;  /* How long the change took, in nanoseconds; of VFIOMIG_EVENT_VERDICT,
                            * the downtime that is expected, without what was never measured. */
    uint64_t at_ns;        /* When it happened, on CLOCK_MONOTONIC, in nanoseconds; if it was
                            * repeated, the last time. 0 in callbacks, as are all members that
                            * follow. */
    uint64_t lost;         /* How many events were dropped since the one that was returned before
                            * this. */
    uint64_t times;        /* How often it happened in a row. */
    uint64_t bytes;        /* The device's data so far, in bytes; in errors of a load's stream,
                            * bytes of the stream. */
    uint64_t count;        /* A round, a generation of initial data, a restart. */
    uint32_t device;       /* The device's number in the group, or VFIOMIG_EVENT_NO_DEVICE. Of
                            * VFIOMIG_EVENT_VERDICT, the device that is the reason;
                            * VFIOMIG_EVENT_NO_DEVICE: all. */
    int32_t code;          /* Of an error: what the call returned, -errno. */
    uint32_t operation;    /* VFIOMIG_OP_*: what failed. */
    int32_t os_errno;      /* The errno that the kernel or a callback gave. */
    uint32_t cause;        /* VFIOMIG_CAUSE_*: why the device was reset. */
    uint32_t phase;        /* VFIOMIG_GROUP_PHASE_*: of VFIOMIG_EVENT_PHASE, the phase that
                            * begins. */
    uint32_t verdict;      /* VFIOMIG_VERDICT_*: of VFIOMIG_EVENT_VERDICT, what to do. */
    uint32_t because;      /* VFIOMIG_BECAUSE_*: why. */
    char text[208];        /* For people, in printable ASCII; a long one is cut and ends in
                            * "...". */
};
#define VFIOMIG_EVENT_INIT VFIOMIG_INIT_(struct vfiomig_event)

/* Reports what happens to a device, on the thread that is inside the library. */
typedef void (*vfiomig_event_fn)(void *opaque, const struct vfiomig_event *event);

/* How a device is set up; NULL for the defaults. */
struct vfiomig_device_options {
    uint32_t struct_size;              /* VFIOMIG_DEVICE_OPTIONS_INIT sets it. */
    uint32_t flags;                    /* VFIOMIG_DEVICE_DISABLED or 0. */
    const char *sysfs_path;            /* The device's directory in sysfs, for example
                                        * /sys/bus/pci/devices/0000:3b:00.2 or
                                        * /sys/bus/mdev/devices/UUID. For an fd from a group, it is
                                        * needed to find the driver's name and version and the
                                        * device's type; a cdev finds its own. A load compares what
                                        * is known of its target, and chooses the guard by it. At
                                        * most 2000 bytes. NULL: the library tries to find it. */
    const void *vendor_data;           /* An opaque string that the target compares with its own;
                                        * NULL: none. */
    uint32_t vendor_data_len;          /* Its length in bytes, at most 256. */
    uint32_t reserved;                 /* Zero. */
    vfiomig_event_fn event;            /* Reports what happens to the device; NULL: no reports. */
    void *event_opaque;                /* Passed to event. */
    vfiomig_release_fn event_release;  /* Releases event_opaque. */
};
#define VFIOMIG_DEVICE_OPTIONS_INIT VFIOMIG_INIT_(struct vfiomig_device_options)

/* Estimates of a device in pre-copy: the kernel's structure of the same name, and its layout. */
struct vfiomig_precopy_info {
    uint32_t argsz;          /* 24. */
    uint32_t flags;          /* VFIO_PRECOPY_INFO_*; 0 on entry. */
    uint64_t initial_bytes;  /* Bytes of initial data not read yet. */
    uint64_t dirty_bytes;    /* Bytes that became dirty since. */
};

/*
 * What a device is, as far as it can be learned from its fd and sysfs. Texts are NUL-terminated; an
 * empty text and a zero number mean "not known".
 */
struct vfiomig_identity {
    uint32_t struct_size;           /* Size of this structure, set by the caller:
                                     * VFIOMIG_IDENTITY_INIT. */
    uint32_t vendor_data_len;       /* Length of vendor_data that is used, in bytes. */
    uint64_t migration_flags;       /* VFIO_MIGRATION_* flags of the device. */
    uint64_t state_size;            /* Stop-copy size that the device estimated, in bytes; 0 when
                                     * not known. */
    uint16_t pci_vendor;            /* PCI vendor ID. */
    uint16_t pci_device;            /* PCI device ID. */
    uint16_t pci_subsystem_vendor;  /* PCI subsystem vendor ID. */
    uint16_t pci_subsystem_device;  /* PCI subsystem device ID. */
    uint8_t pci_revision;           /* PCI revision ID. */
    uint8_t reserved[7];            /* Zero. */
    char bus[16];                   /* The bus that the device behaves as, even if it is an mdev:
                                     * "pci", "platform", "ccw" or "ap". */
    char driver[64];                /* Kernel driver that is bound to the device. */
    char mdev_type[64];             /* mdev type, for example "mtty-2". */
    char kernel_release[72];        /* Kernel release, as in uname. */
    uint8_t vendor_data[256];       /* Opaque string of the VMM's or vendor's choice: firmware
                                     * version, licence, profile... */
    char vendor_type[64];           /* The vendor's type of a virtual function that has no mdev
                                     * type, for example "nvidia-1155". */
    char driver_version[64];        /* Version of the driver's module, where it has one. */
    char driver_srcversion[64];     /* The hash that the kernel's build makes of the source of the
                                     * driver's module (srcversion). */
    char firmware[64];              /* Version of the device's firmware. */
    uint32_t protocol;              /* The migration protocol that the state is of:
                                     * VFIOMIG_PROTOCOL_*; 0 when not known. */
    uint32_t reserved2;             /* Zero. */
};
#define VFIOMIG_IDENTITY_INIT VFIOMIG_INIT_(struct vfiomig_identity)

/*
 * A device behind callbacks. Each returns 0 or a count on success and -errno on failure, exactly as
 * the kernel would answer the call that it stands for. One that returns -EINTR is called again:
 * data_read and data_write for as long as the session's options allow, the others for 2 seconds.
 *
 * The callbacks are called on the thread that called the library, one at a time per device. Calls
 * of the library with a handle of the same device get -EBUSY there, and so do calls with others
 * that a call on another thread is inside of: nothing waits in a callback.
 *
 * Where data_read, data_write, data_precopy_info, data_close or data_poll_fd is NULL, the data_fd
 * that feature returned is a file descriptor, the library uses the system call on it and owns it.
 */
struct vfiomig_device_ops {
    /* Size of this structure, set by the caller: VFIOMIG_DEVICE_OPS_INIT. */
    uint32_t struct_size;

    /* Zero. */
    uint32_t reserved;

    /*
     * VFIO_DEVICE_FEATURE: flags is a feature index with VFIO_DEVICE_FEATURE_GET, _SET or _PROBE,
     * data the feature's payload of len bytes, in and out. Required.
     */
    int (*feature)(void *opaque, uint32_t flags, void *data, size_t len);

    /* VFIO_DEVICE_RESET. NULL: the device has no reset, which leaves failed loads LOST. */
    int (*reset)(void *opaque);

    /* read(2) on the data_fd: a count, 0 at the end, -ENOMSG when drained in pre-copy. */
    int64_t (*data_read)(void *opaque, int data_fd, void *buf, size_t len);

    /* write(2) on the data_fd. */
    int64_t (*data_write)(void *opaque, int data_fd, const void *buf, size_t len);

    /* VFIO_MIG_GET_PRECOPY_INFO on the data_fd. */
    int (*data_precopy_info)(void *opaque, int data_fd, struct vfiomig_precopy_info *info);

    /* close(2) of the data_fd. */
    int (*data_close)(void *opaque, int data_fd);

    /*
     * A file descriptor that poll(2) accepts for the data_fd, or -errno. Callbacks that set
     * data_read and leave this NULL are asked again on a timer.
     */
    int (*data_poll_fd)(void *opaque, int data_fd);

    /* Asks for reads and writes that return -EAGAIN instead of blocking. NULL: not offered. */
    int (*data_set_nonblocking)(void *opaque, int data_fd);

    /*
     * Reads len bytes of a region (PCI: VFIO_PCI_*_REGION_INDEX) at offset. NULL: no regions. Asked
     * for PCI configuration space of devices whose identity has the bus "pci", and for migration
     * regions: a field of those with one call of its length.
     */
    int64_t (*region_read)(void *opaque, uint32_t region, uint64_t offset, void *buf, size_t len);

    /* Fills in what the device is; struct_size is set on entry. NULL: not known. */
    int (*identity)(void *opaque, struct vfiomig_identity *identity);

    /*
     * Called exactly once, when the library will no longer call anything in this table, even if
     * creating the device fails. NULL: nothing to do.
     */
    vfiomig_release_fn release;

    /*
     * VFIO_DEVICE_GET_INFO: sets *flags to VFIO_DEVICE_FLAGS_* and *num_regions to the number of
     * regions. Both are 0 on entry. NULL: they stay 0, and the device has no migration regions.
     */
    int (*device_info)(void *opaque, uint32_t *flags, uint32_t *num_regions);

    /*
     * VFIO_DEVICE_GET_REGION_INFO: fills info, a struct vfio_region_info with room for len bytes in
     * all, aligned to 8, with the region and its capabilities. argsz and index are set on entry. As
     * in the kernel, argsz says how many bytes are needed if len is too little, and cap_offset is 0
     * then. NULL: the device has no migration regions.
     */
    int (*region_info)(void *opaque, uint32_t region, void *info, size_t len);

    /* Writes len bytes of a region at offset. NULL: the device has no migration regions. */
    int64_t (*region_write)(void *opaque, uint32_t region, uint64_t offset, const void *buf,
                            size_t len);
};
#define VFIOMIG_DEVICE_OPS_INIT VFIOMIG_INIT_(struct vfiomig_device_ops)

/* What a device can do. */
struct vfiomig_caps {
    uint32_t struct_size;      /* VFIOMIG_CAPS_INIT sets it. */
    uint32_t flags;            /* Bitwise OR of VFIOMIG_CAP_*. */
    uint64_t migration_flags;  /* Bitwise OR of VFIO_MIGRATION_*, as the driver reports them. */
    uint64_t state_size;       /* The estimated length of the stop-copy data, in bytes; see
                                * VFIOMIG_CAP_STATE_SIZE. */
    uint32_t initial_state;    /* The state in which the device was found, or
                                * VFIOMIG_STATE_UNKNOWN. */
    uint32_t num_reasons;      /* How many reasons vfiomig_device_get_reason() can return. */
};
#define VFIOMIG_CAPS_INIT VFIOMIG_INIT_(struct vfiomig_caps)

/* Why a device cannot migrate, or not well. */
struct vfiomig_reason {
    uint32_t struct_size;  /* VFIOMIG_REASON_INIT sets it. */
    uint32_t code;         /* VFIOMIG_REASON_*; its meaning never changes. */
    uint32_t severity;     /* VFIOMIG_SEVERITY_*. */
    uint32_t reserved;     /* Zero. */
    char label[32];        /* The code as a word, for scripts. */
    char text[464];        /* What it means here and what to do about it, for people to read. */
};
#define VFIOMIG_REASON_INIT VFIOMIG_INIT_(struct vfiomig_reason)

/*
 * Probes the VFIO device behind fd, which comes from a group, or from a cdev that is bound to an
 * iommufd. The fd is borrowed: the library never closes it, and it must stay open until the device
 * handle and all sessions on it have been freed. A device that cannot migrate is not an error:
 * vfiomig_device_get_reason() says why it cannot. The call issues ioctls, but does not change the
 * device's state.
 *
 * Errors: -EIO, -ENOMEM, -EFAULT, -ENODEV, -EINVAL, -ENOTTY, -E2BIG, -ETIMEDOUT, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_device_new_fd(int fd, const struct vfiomig_device_options *options,
                          struct vfiomig_device **out) VFIOMIG_MUST_CHECK;

/*
 * Probes a device behind a table of callbacks: a vfio-user device, a mock, or anything else that
 * the VMM provides. The table is copied. ops->release is called exactly once with opaque, even if
 * this call fails (unless ops itself cannot be read, because it is NULL or its struct_size is
 * invalid).
 *
 * Errors: -ENOMEM, -EFAULT, -EINVAL, -E2BIG, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_device_new_ops(const struct vfiomig_device_ops *ops, void *opaque,
                           const struct vfiomig_device_options *options,
                           struct vfiomig_device **out) VFIOMIG_MUST_CHECK;

/*
 * Frees a device handle. NULL is ignored. Sessions that are still open keep the device until they
 * are freed too. Waits for a call on another thread. Freeing a handle from a callback while a call
 * is using it has no effect.
 *
 * Since: 0.1.
 */
void vfiomig_device_free(struct vfiomig_device *device);

/*
 * Returns what the device can do.
 *
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_device_get_caps(struct vfiomig_device *device, struct vfiomig_caps *caps);

/*
 * Returns one reason why the device cannot migrate, or not well, by an index that starts at 0; the
 * worst comes first.
 *
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENODATA, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_device_get_reason(struct vfiomig_device *device, uint32_t index,
                              struct vfiomig_reason *reason);

/*
 * Returns what the device is, as far as that is known.
 *
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_device_get_identity(struct vfiomig_device *device, struct vfiomig_identity *identity);

/*
 * Reads the device's state (VFIOMIG_STATE_*; states that only a newer kernel has come as their
 * numbers).
 *
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -EOPNOTSUPP,
 *         -ETIMEDOUT, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_device_get_state(struct vfiomig_device *device, uint32_t *state);

/*
 * Takes the device to VFIOMIG_STATE_STOP, VFIOMIG_STATE_RUNNING or VFIOMIG_STATE_RUNNING_P2P,
 * through whatever states lie between. Only vfiomig_save_begin() and vfiomig_load_begin() enter the
 * states that have a data stream. A device that an earlier owner left in one of those is reset
 * first. A device that has lost its guest's state goes only to STOP: see vfiomig_device_run(). This
 * may take as long as the device needs, so call it off the main loop.
 *
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -EOPNOTSUPP,
 *         -ETIMEDOUT, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_device_set_state(struct vfiomig_device *device, uint32_t state) VFIOMIG_MUST_CHECK;

/*
 * Takes the device to RUNNING: the last step on the target, after vfiomig_load_commit() and the
 * fix-ups, or the way back on a source that was kept stopped. Clears the fix-ups. After an error
 * whose outcome is KEPT or RECOVERED nothing is lost, and you may try again. A device has lost what
 * its guest relies on if it was reset while its guest was stopped (quiesced, in STOP or STOP_COPY,
 * after the end of its stream, after RELEASE), or between a commit and its first run. It does not
 * matter who reset it, or how that was noticed. Such a device is neither run nor saved: -EIO with
 * outcome RESET, every time, until the VMM loads it again, or says with vfiomig_device_reset() or
 * vfiomig_device_accept_reset() that it wants the device in its power-on state.
 *
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -EOPNOTSUPP,
 *         -ETIMEDOUT, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_device_run(struct vfiomig_device *device) VFIOMIG_MUST_CHECK;

/*
 * Resets the device with VFIO_DEVICE_RESET. It ends in RUNNING (even one that was quiesced), in its
 * power-on state, and the library takes it that the VMM wants this. A save in progress starts again
 * by itself and sends the state of the reset device; a load fails. While something else holds the
 * device's lock (the kernel answers EAGAIN), the reset is retried for up to a second. If it fails,
 * the device is lost, and the reset is tried once more when the last handle of the device is freed.
 *
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -EOPNOTSUPP,
 *         -ETIMEDOUT, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_device_reset(struct vfiomig_device *device) VFIOMIG_MUST_CHECK;

/*
 * Tells the library that something else reset the device: its guest (a function-level reset), the
 * VMM (a bus reset), or error recovery on the host. If the guest runs, a save starts again by
 * itself, and a load fails. If the guest was stopped, or had not run since the load, its state in
 * the device is lost: the save fails with -EIO, and the device is no longer run (see
 * vfiomig_device_run()). A VMM that made the reset itself, on purpose, calls
 * vfiomig_device_accept_reset() next. The call also brings back a lost device that a harder reset
 * has revived.
 *
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -EOPNOTSUPP,
 *         -ETIMEDOUT, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_device_notify_reset(struct vfiomig_device *device) VFIOMIG_MUST_CHECK;

/*
 * Tells the library that the VMM wants a device as it is now, in its power-on state, although a
 * reset took what it held: for a VMM that has reset the device itself by means other than
 * vfiomig_device_reset(), for example with its machine, and has called
 * vfiomig_device_notify_reset(). The device may be run and saved again. Has no effect on a device
 * that has lost nothing.
 *
 * Errors: -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_device_accept_reset(struct vfiomig_device *device);

/*
 * Returns what the VMM must redo before the device runs, after a reset or a load: a bitwise OR of
 * VFIOMIG_FIXUP_*. Does not wait for a session on the device.
 *
 * Errors: -EBADF, -EFAULT, -EBUSY, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_device_get_fixups(struct vfiomig_device *device, uint32_t *fixups);

/*
 * Returns what was going on when something last failed on this device, including its sessions; code
 * is 0 if nothing has. It is kept through later successes, and through errors in which no device
 * and no stream had a part (a call that is not allowed, -EBUSY, -EAGAIN). So it describes your last
 * call only if code is what that call returned. After RELEASE, which returns 0, outcome RESET means
 * that the device's contents are lost.
 *
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_device_get_failure(struct vfiomig_device *device, struct vfiomig_failure *failure);

/*
 * Writes what happened to a device last into buf: a line that says whose history it is, and a line
 * for each event, the oldest first, as text (VFIOMIG_HISTORY_TEXT) or as JSON objects
 * (VFIOMIG_HISTORY_JSON). A NUL ends it; *len is its length without that. Of the last 64 events, as
 * many of the newest are written as fit into cap bytes; the first line says how many are left out.
 * VFIOMIG_HISTORY_BYTES are always enough, and VFIOMIG_HISTORY_LEAST for the first line.
 *
 * For logs and bug reports: all of it is printable ASCII, whatever a driver is called, but names
 * and error texts in it come from outside. docs/events.md says what is recorded, and
 * docs/schema/history.json what JSON looks like. Does not wait for a call on the device, and needs
 * no memory.
 *
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENOSPC, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_device_get_history(struct vfiomig_device *device, uint32_t format, void *buf,
                               size_t cap, size_t *len);

/*
 * Returns a file descriptor that can be polled for reading: it is readable while
 * vfiomig_device_next_event() has something to return. Events are queued from the first call on, in
 * memory that is there from then on. vfiomig_group_get_event_fd() does the same for all devices of
 * a group. The descriptor is the device's: do not close it, or read from it, and poll it no more
 * once the device's handles and sessions are freed. Does not wait for a call on the device.
 *
 * Returns: A file descriptor.
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_device_get_event_fd(struct vfiomig_device *device);

/*
 * Returns the oldest event of a device that was not returned yet: see vfiomig_group_next_event().
 * The queue holds 96. Does not wait for a call on the device, and needs no memory.
 *
 * Errors: -EBADF, -EAGAIN, -EFAULT, -EINVAL, -ENODATA, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_device_next_event(struct vfiomig_device *device, struct vfiomig_event *event);

/* Authentication of streams
 * ------------------------- */

/* Flags of struct vfiomig_auth. */
#define VFIOMIG_AUTH_CHALLENGE             (1 << 0)  /* challenge is set: the stream is made, or has
                                                      * been made, for this one load. */
#define VFIOMIG_AUTH_ALLOW_UNAUTHENTICATED (1 << 1)  /* Of a load: also takes a stream without
                                                      * authentication, which anybody may have
                                                      * made. */

/*
 * Fills in the 32 bytes of the key with this id: 0, or -errno to refuse it. ENOKEY, ENOENT, EACCES,
 * EKEYEXPIRED, EKEYREVOKED and EKEYREJECTED become EPERM; otherwise as for vfiomig_blob_fn. Called
 * once per stream: in vfiomig_save_begin(), or in the push that brings the stream's beginning. The
 * library wipes its copy when it has derived the stream's own key from it. A key of zeros is
 * refused.
 */
typedef int (*vfiomig_get_key_fn)(void *opaque, uint32_t key_id, uint8_t *key);

/*
 * A message authentication code of the VMM's own, in place of keyed BLAKE3, for one stream. One tag
 * is computed at a time, on the thread that uses the session: begin, any number of update, finish.
 * A begin without a finish before it starts again. Each returns 0, or -errno, which ends the
 * session as vfiomig_blob_fn says. All members are required but release.
 */
struct vfiomig_mac_ops {
    /* Size of this structure, set by the caller: VFIOMIG_MAC_OPS_INIT. */
    uint32_t struct_size;

    /* Length of a tag in bytes: 16 to 32. */
    uint32_t tag_len;

    /* A tag begins, with the key that has this id. */
    int (*begin)(void *opaque, uint32_t key_id);

    /* The next len bytes that it covers, in pieces of any length. */
    int (*update)(void *opaque, const void *data, size_t len);

    /* Writes the tag_len bytes of the tag, which are not all zeros. */
    int (*finish)(void *opaque, uint8_t *tag);

    /* Releases the opaque. */
    vfiomig_release_fn release;
};
#define VFIOMIG_MAC_OPS_INIT VFIOMIG_INIT_(struct vfiomig_mac_ops)

/*
 * How a stream is authenticated, in the options of a save or of a load: with keys that both sides
 * have (get_key), or with a MAC of the VMM's own (mac), of which exactly one is set. Only the
 * native format is authenticated; with QEMU's format, auth is -EINVAL.
 *
 * A load with this takes no stream without authentication, unless
 * VFIOMIG_AUTH_ALLOW_UNAUTHENTICATED is set; a load without this takes no authenticated stream.
 * Both are -EPERM, and so is a key that is not there. A wrong tag is -EBADMSG, and a stream that
 * was made for another challenge -EXDEV. Nothing reaches the driver before the tag of its frame has
 * been verified.
 */
struct vfiomig_auth {
    uint32_t struct_size;                /* Size of this structure, set by the caller:
                                          * VFIOMIG_AUTH_INIT. */
    uint32_t flags;                      /* Bitwise OR of VFIOMIG_AUTH_*, or 0. */
    uint32_t key_id;                     /* Of a save: which key it uses; the stream tells the
                                          * target. A load ignores it. */
    uint32_t reserved;                   /* Zero. */
    uint8_t challenge[32];               /* With VFIOMIG_AUTH_CHALLENGE: what the target has chosen
                                          * for this one load, 32 random bytes that it has sent to
                                          * the source beforehand. A save binds it into the stream,
                                          * and a load refuses a stream without it: a recorded
                                          * stream cannot be loaded again. */
    vfiomig_get_key_fn get_key;          /* Brings keys; NULL with mac. */
    void *get_key_opaque;                /* Passed to get_key. */
    vfiomig_release_fn get_key_release;  /* Releases get_key_opaque. */
    const struct vfiomig_mac_ops *mac;   /* Computes tags; NULL with get_key. It is copied. */
    void *mac_opaque;                    /* Passed to the callbacks of mac. */
};
#define VFIOMIG_AUTH_INIT VFIOMIG_INIT_(struct vfiomig_auth)

/* Identities and whether they fit
 * ------------------------------- */

/* Sizes of buffers. */
#define VFIOMIG_IDENTITY_BYTES 4116  /* A buffer of this size has room for any exported identity, in
                                      * bytes. */

/* Migration protocols: struct vfiomig_identity.protocol. */
#define VFIOMIG_PROTOCOL_V1  1  /* The migration region of Linux 5.8 to 5.17. */
#define VFIOMIG_PROTOCOL_V2  2  /* The protocol of Linux 5.18 and newer. */
#define VFIOMIG_PROTOCOL_RFC 3  /* The device state regions that were proposed in 2019. */

/* Fields of an identity. */
#define VFIOMIG_FIELD_BUS               1   /* The bus. */
#define VFIOMIG_FIELD_DRIVER            2   /* The kernel driver. */
#define VFIOMIG_FIELD_PCI_DEVICE        3   /* PCI vendor and device, for example "15b3:101e". */
#define VFIOMIG_FIELD_PCI_SUBSYSTEM     4   /* PCI subsystem vendor and device, for example
                                             * "15b3:0023". */
#define VFIOMIG_FIELD_PCI_REVISION      5   /* PCI revision, for example "0x01". It is known
                                             * wherever vendor and device are. */
#define VFIOMIG_FIELD_MDEV_TYPE         6   /* The mdev type. */
#define VFIOMIG_FIELD_VENDOR_TYPE       7   /* The vendor's type of a virtual function. */
#define VFIOMIG_FIELD_DRIVER_VERSION    8   /* The version of the driver's module. */
#define VFIOMIG_FIELD_DRIVER_SRCVERSION 9   /* The hash of the source of the driver's module. */
#define VFIOMIG_FIELD_FIRMWARE          10  /* The version of the firmware. */
#define VFIOMIG_FIELD_VENDOR_DATA       11  /* The VMM's string; bytes that cannot be printed as \n,
                                             * \x00 and so on. */
#define VFIOMIG_FIELD_PROTOCOL          12  /* The migration protocol: VFIOMIG_PROTOCOL_* in
                                             * decimal. */
#define VFIOMIG_FIELD_KERNEL_RELEASE    13  /* The kernel's release. */
#define VFIOMIG_FIELD_STATE_SIZE        14  /* The estimated size of the state, in bytes, in
                                             * decimal. */
#define VFIOMIG_FIELD_MIGRATION_FLAGS   15  /* VFIO_MIGRATION_* flags, in hexadecimal: "0x7". */

/* Rules: struct vfiomig_compat_rule.rule and struct vfiomig_compat_policy.others. */
#define VFIOMIG_RULE_DEFAULT   0  /* What is best for the field: see vfiomig_compat_judge(). */
#define VFIOMIG_RULE_IGNORE    1  /* The field is passed over. */
#define VFIOMIG_RULE_IF_KNOWN  2  /* If both sides know it, it must be the same. */
#define VFIOMIG_RULE_AS_TARGET 3  /* If the target knows it, the source must say the same. */
#define VFIOMIG_RULE_EXACT     4  /* It must be the same, or neither side knows it. */
#define VFIOMIG_RULE_REQUIRE   5  /* Both sides must know it, and it must be the same. */
#define VFIOMIG_RULE_ONE_OF    6  /* The source's value must be one of values, whatever the target's
                                   * is. */
#define VFIOMIG_RULE_PAIRS     7  /* Both sides must know it, and it must be the same, or the
                                   * source's value and the target's must follow each other in
                                   * values at an even place. */
#define VFIOMIG_RULE_RANGE     8  /* Both sides must know it, and both values must be versions from
                                   * min to max. Only for VFIOMIG_FIELD_DRIVER_VERSION and
                                   * VFIOMIG_FIELD_FIRMWARE. */

/* Codes of struct vfiomig_compat_reason. */
#define VFIOMIG_COMPAT_DIFFERS        1   /* Both sides know the field, and it differs. */
#define VFIOMIG_COMPAT_SOURCE_UNKNOWN 2   /* Only the target knows it. */
#define VFIOMIG_COMPAT_TARGET_UNKNOWN 3   /* Only the source knows it. */
#define VFIOMIG_COMPAT_BOTH_UNKNOWN   4   /* Neither side knows it. */
#define VFIOMIG_COMPAT_IGNORED        5   /* It differs or a side does not know it, and it was
                                           * passed over. */
#define VFIOMIG_COMPAT_ALLOWED        6   /* It differs, and a list or a range allows that. */
#define VFIOMIG_COMPAT_NOT_LISTED     7   /* It is not in the list. */
#define VFIOMIG_COMPAT_OUT_OF_RANGE   8   /* It is out of the range. */
#define VFIOMIG_COMPAT_NOT_A_VERSION  9   /* It cannot be compared with a range: it is not numbers
                                           * between dots. */
#define VFIOMIG_COMPAT_CALLBACK       10  /* The policy's callback refuses; of no field. */

/*
 * Decides whether a stream of source may be loaded into target. Returns 0, or -errno to refuse it,
 * as vfiomig_blob_fn does. May be called more than once for a load.
 */
typedef int (*vfiomig_policy_fn)(void *opaque, const struct vfiomig_identity *source,
                                 const struct vfiomig_identity *target);

/* What must hold of one field. VFIOMIG_FIELD_* says how the field's value looks as text. */
struct vfiomig_compat_rule {
    uint32_t struct_size;       /* VFIOMIG_COMPAT_RULE_INIT sets it. */
    uint32_t field;             /* VFIOMIG_FIELD_*. */
    uint32_t rule;              /* VFIOMIG_RULE_*. */
    uint32_t num_values;        /* The number of values, at most 1024. */
    const char *const *values;  /* VFIOMIG_RULE_ONE_OF: what the source may have.
                                 * VFIOMIG_RULE_PAIRS: what the source may have, followed by what
                                 * the target may have with it, and so on. At most 1024 bytes
                                 * each. */
    const char *min;            /* VFIOMIG_RULE_RANGE: the lowest version, numbers between dots, at
                                 * most 1024 bytes; NULL: any. */
    const char *max;            /* The highest version, which is compatible as well; NULL: any. */
};
#define VFIOMIG_COMPAT_RULE_INIT VFIOMIG_INIT_(struct vfiomig_compat_rule)

/*
 * What must match between the source's device and the target's; NULL, and zeros, for the default,
 * which vfiomig_compat_judge() explains.
 */
struct vfiomig_compat_policy {
    uint32_t struct_size;                     /* VFIOMIG_COMPAT_POLICY_INIT sets it. */
    uint32_t others;                          /* The rule for all fields without one in rules:
                                               * VFIOMIG_RULE_DEFAULT, _IGNORE, _IF_KNOWN,
                                               * _AS_TARGET or _EXACT. It does not apply to what is
                                               * not compared by default. */
    const struct vfiomig_compat_rule *rules;  /* One rule for each of some fields; every element has
                                               * the same struct_size. */
    uint32_t num_rules;                       /* How many there are. */
    uint32_t reserved;                        /* Zero. */
    vfiomig_policy_fn decide;                 /* Decides in addition, if no rule refuses; NULL: the
                                               * rules alone decide. To let it decide about a field,
                                               * give the field VFIOMIG_RULE_IGNORE. */
    void *decide_opaque;                      /* Passed to decide. */
    vfiomig_release_fn decide_release;        /* Releases decide_opaque. */
};
#define VFIOMIG_COMPAT_POLICY_INIT VFIOMIG_INIT_(struct vfiomig_compat_policy)

/*
 * Why a field counts against the source, or why it does not although it differs, is not known, or
 * is not compared.
 */
struct vfiomig_compat_reason {
    uint32_t struct_size;  /* The size of this structure in the library. */
    uint32_t field;        /* VFIOMIG_FIELD_*; 0: the policy's callback. */
    uint32_t code;         /* VFIOMIG_COMPAT_*; its meaning never changes. */
    uint32_t severity;     /* VFIOMIG_SEVERITY_BLOCKS: the devices do not fit.
                            * VFIOMIG_SEVERITY_LIMITS: the field could not be compared, and passed.
                            * VFIOMIG_SEVERITY_INFO: it passed. */
    char label[32];        /* The field as a word, for scripts. */
    char source[256];      /* The source's value; empty: not known. What is longer is cut. */
    char target[256];      /* The target's value; empty: not known. What is longer is cut. */
    char text[464];        /* All of this in one line, for people to read. */
};

/* Takes a reason of a verdict. */
typedef void (*vfiomig_compat_reason_fn)(void *opaque, const struct vfiomig_compat_reason *reason);

/* What a judgement came to. */
struct vfiomig_verdict {
    uint32_t struct_size;    /* VFIOMIG_VERDICT_INIT sets it. */
    uint32_t compatible;     /* 1: the target may take the source's state. 0: it must not. */
    uint32_t num_reasons;    /* How many reasons the callback was given. */
    uint32_t num_refused;    /* How many of them are against the source: VFIOMIG_SEVERITY_BLOCKS. */
    uint32_t num_unchecked;  /* How many fields passed because they could not be compared:
                              * VFIOMIG_SEVERITY_LIMITS. */
    uint32_t reserved;       /* Zero. */
};
#define VFIOMIG_VERDICT_INIT VFIOMIG_INIT_(struct vfiomig_verdict)

/*
 * Writes an identity as bytes into buf, which has room for cap of them, and their number into *len.
 * VFIOMIG_IDENTITY_BYTES are always enough. Another host reads them with vfiomig_identity_import(),
 * whatever the versions of the library there and here. They are what the stream has, in a container
 * of their own.
 *
 * Errors: -ENOMEM, -EFAULT, -EINVAL, -ENOSPC, -E2BIG, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_identity_export(const struct vfiomig_identity *identity, void *buf, size_t cap,
                            size_t *len) VFIOMIG_MUST_CHECK;

/*
 * Reads an identity from the len bytes that vfiomig_identity_export() made on any host. They must
 * be all of them, and nothing else. What this version of the library does not know is left out.
 * What the bytes say is a claim, not a proof.
 *
 * Errors: -ENOMEM, -EFAULT, -EINVAL, -EPROTO, -EBADMSG, -EMSGSIZE, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_identity_import(const void *data, size_t len,
                            struct vfiomig_identity *identity) VFIOMIG_MUST_CHECK;

/*
 * Judges whether a device that is target may take the state of one that is source, under a policy.
 * Asks no device, so any host can call it, with identities that it was sent, and before anything is
 * given up.
 *
 * Returns 0 if they fit. Returns -EXDEV if they do not: the message names all that is against it,
 * and *verdict is filled in as well. Gives reason (NULL: nobody) a reason for each field that
 * differs, that a side does not know, or that was passed over, in the order of VFIOMIG_FIELD_*.
 * reason must not use what it is given after it has returned.
 *
 * By default (policy NULL), what the target knows of bus, driver, PCI device, subsystem and
 * revision, mdev type and vendor's type, the source must say too, and say the same
 * (VFIOMIG_RULE_AS_TARGET). Versions of driver and firmware, the vendor string and the protocol
 * must be the same if both sides know them (VFIOMIG_RULE_IF_KNOWN). srcversion, kernel release,
 * size of the state and migration flags are not compared (VFIOMIG_RULE_IGNORE). docs/security.md
 * has the reasons.
 *
 * Errors: -ENOMEM, -EFAULT, -EINVAL, -E2BIG, -EXDEV, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_compat_judge(const struct vfiomig_identity *source,
                         const struct vfiomig_identity *target,
                         const struct vfiomig_compat_policy *policy,
                         vfiomig_compat_reason_fn reason, void *opaque,
                         struct vfiomig_verdict *verdict) VFIOMIG_MUST_CHECK;

/* Limits
 * ------ */

/*
 * What a session may be made to do and to take: one structure for all sessions of a VMM. A limit of
 * 0 means the default. Options that set a limit of their own win, but not over max_memory. All
 * limits are checked before memory is allocated, and buffers grow with what has come, not with what
 * was announced.
 */
struct vfiomig_limits {
    uint32_t struct_size;          /* VFIOMIG_LIMITS_INIT sets it. */
    uint32_t max_frame;            /* The largest payload of a data frame, or data of a packet, in
                                    * bytes; default 4 MiB. A save makes its frames no larger. */
    uint32_t max_blob;             /* The largest blob, or configuration in a packet, in bytes;
                                    * default 1 MiB. */
    uint32_t max_blobs;            /* The number of blobs; default 256. */
    uint32_t max_restarts;         /* How often a save may start again, or a load's source; default
                                    * 16 and 64. */
    uint32_t max_other_frames;     /* Frames that are not data, restarts included; default 65536.
                                    * For loads. */
    uint64_t max_total;            /* Device data in all, with skipped frames, in bytes; default 1
                                    * TiB. */
    uint64_t max_queued;           /* Packets that wait for their turn, in bytes; default 1 GiB. For
                                    * loads. */
    uint64_t max_memory;           /* Memory that the library takes for the stream of one session,
                                    * in bytes, at least 4 MiB; default: as much as the other limits
                                    * make of it. Lowers max_frame, max_blob and max_queued where
                                    * they would need more. Not counted: what is small and fixed,
                                    * and the VMM's own buffers. */
    uint32_t max_ahead;            /* How far a packet may be ahead of the next one in order;
                                    * default 1048576. For loads. */
    uint32_t progress_timeout_ms;  /* How long a source may take for progress_bytes before the load
                                    * fails with -ETIMEDOUT, in milliseconds; default: as long as it
                                    * likes. Only the time counts in which the load waits for more.
                                    * See vfiomig_load_get_deadline(). */
    uint32_t progress_bytes;       /* How much of the stream is progress, packets included, in
                                    * bytes; default 65536. A stream that is shorter must end within
                                    * one such time. */
    uint32_t reserved;             /* Zero. */
};
#define VFIOMIG_LIMITS_INIT VFIOMIG_INIT_(struct vfiomig_limits)

/* Streams through descriptors
 * --------------------------- */

/* Flags of struct vfiomig_transfer. */
#define VFIOMIG_TRANSFER_NO_WAIT (1 << 0)  /* The call returns -EAGAIN where it would have to wait
                                            * for the descriptor. */

/* How a descriptor is used; NULL for the defaults. */
struct vfiomig_transfer {
    uint32_t struct_size;  /* VFIOMIG_TRANSFER_INIT sets it. */
    uint32_t flags;        /* Bitwise OR of VFIOMIG_TRANSFER_*, or 0. */
    uint64_t max_bytes;    /* Returns after this many bytes of the stream; 0: does not. */
    uint32_t timeout_ms;   /* How long the other end may take, or bring, nothing, in milliseconds;
                            * 0: 60000. UINT32_MAX: as long as it likes. */
    uint32_t reserved;     /* Zero. */
};
#define VFIOMIG_TRANSFER_INIT VFIOMIG_INIT_(struct vfiomig_transfer)

/* Saving
 * ------ */

/* One device being saved. */
struct vfiomig_save;

/* Flags of struct vfiomig_save_options. */
#define VFIOMIG_SAVE_NONBLOCK            (1 << 0)  /* Reads return -EAGAIN instead of blocking, if
                                                    * the driver supports that. */
#define VFIOMIG_SAVE_NO_PRE_COPY         (1 << 1)  /* Leaves out pre-copy even if the device has
                                                    * it. */
#define VFIOMIG_SAVE_FULL_BEFORE_LOGGING (1 << 5)  /* Devices of the RFC's protocol: all of the
                                                    * memory is read before its changes are logged,
                                                    * as the protocol's letter has it; for drivers
                                                    * that rely on that. What a driver does not
                                                    * count as changed in between is lost. Has no
                                                    * effect on other devices. */

/* How a stream is laid out. QEMU's format has a part of its own below. */
#define VFIOMIG_FORMAT_NATIVE 0  /* The library's own format: verified, with an identity and an
                                  * end. */

/* Sizes of buffers. */
#define VFIOMIG_MIN_BUFFER  4096  /* The smallest buffer that vfiomig_save_next() accepts, in
                                   * bytes. */
#define VFIOMIG_GOOD_BUFFER (128 << 10)  /* A good size for the buffer of vfiomig_save_next(), in
                                          * bytes: it holds one full frame. Larger buffers hold
                                          * several. */

/* What vfiomig_save_next() returns. */
#define VFIOMIG_NEXT_MORE    0  /* Send what there is and call again. */
#define VFIOMIG_NEXT_DRAINED 1  /* The device runs and has nothing to send now. In QEMU's format
                                 * also: the stopped device's data is complete, and the
                                 * configuration comes next. */
#define VFIOMIG_NEXT_END     2  /* The stream is complete. */

/* Flags of struct vfiomig_pending. */
#define VFIOMIG_PENDING_PRE_COPY_KNOWN  (1 << 0)  /* initial_bytes and dirty_bytes are valid. */
#define VFIOMIG_PENDING_STOP_COPY_KNOWN (1 << 1)  /* stop_copy_bytes is valid. */
#define VFIOMIG_PENDING_INITIAL_SENT    (1 << 2)  /* The caller has been given the mark that all
                                                   * initial data of this generation was sent. Never
                                                   * set if the stream has no such mark: in QEMU's
                                                   * format without VFIOMIG_SAVE_SWITCHOVER_ACK. */

/* How a save ends. */
#define VFIOMIG_ENDING_RELEASE       1  /* The target has committed: the device stays in STOP. */
#define VFIOMIG_ENDING_KEEP          2  /* The guest goes on here: the device goes back to the state
                                         * it was in before the save. */
#define VFIOMIG_ENDING_KEEP_QUIESCED 3  /* Like VFIOMIG_ENDING_KEEP, but without peer-to-peer DMA if
                                         * the device has such a state: for several devices, none of
                                         * which may run before all have left the stopped states.
                                         * Then call vfiomig_device_run() for each. The library
                                         * helps with this. Once a vfiomig_save_quiesce() or
                                         * vfiomig_save_stop() is not refused, a device that fails
                                         * waits in RUNNING_P2P for its ending. */
#define VFIOMIG_ENDING_KEEP_STOPPED  4  /* Like VFIOMIG_ENDING_KEEP, for a guest that does not run:
                                         * the device goes to STOP. */

/* How a device is saved; NULL for the defaults. */
struct vfiomig_save_options {
    uint32_t struct_size;                 /* VFIOMIG_SAVE_OPTIONS_INIT sets it. */
    uint32_t flags;                       /* Bitwise OR of VFIOMIG_SAVE_*, or 0. */
    uint32_t device_index;                /* The device's number within its VM; every frame carries
                                           * it. QEMU's format has no place for it: 0. */
    uint32_t max_frame;                   /* The largest payload of a data frame, in bytes; 0:
                                           * 131040, which with its header is 128 KiB. With auth,
                                           * frames are as long as a multiple of 16 KiB that this
                                           * allows. In QEMU's format: the longest piece of data; 0:
                                           * 1 MiB. */
    uint32_t max_restarts;                /* How often the save may start again because the device
                                           * was reset; 0: 16. In QEMU's format, a save cannot start
                                           * again. */
    uint32_t format;                      /* How the stream is laid out: VFIOMIG_FORMAT_*. */
    uint8_t migration_id[16];             /* The name of the stream; all zeros: a random one. For a
                                           * target that checks it, tell the target before its load
                                           * begins, and use a new one for each attempt. QEMU's
                                           * format has no place for it: zeros. */
    uint32_t read_timeout_ms;             /* How long the driver may deliver neither data nor an end
                                           * before the save fails, in milliseconds; 0: 60000. */
    uint32_t reserved;                    /* Zero. */
    const struct vfiomig_auth *auth;      /* Authenticates the stream; NULL: nobody can tell who has
                                           * made it. */
    const struct vfiomig_limits *limits;  /* Limits that all sessions of the VMM share; NULL: the
                                           * defaults. */
};
#define VFIOMIG_SAVE_OPTIONS_INIT VFIOMIG_INIT_(struct vfiomig_save_options)

/* Estimates of what is left to save. */
struct vfiomig_pending {
    uint32_t struct_size;         /* VFIOMIG_PENDING_INIT sets it. */
    uint32_t flags;               /* Bitwise OR of VFIOMIG_PENDING_*. */
    uint64_t initial_bytes;       /* Initial data that has not been read yet, in bytes. */
    uint64_t dirty_bytes;         /* Data that became dirty since it was read, in bytes. */
    uint64_t stop_copy_bytes;     /* What the device will still send if it is stopped now, in bytes.
                                   * Usually contains the two above, so do not add them: what is
                                   * left is the larger one of their sum and this. */
    uint32_t initial_generation;  /* Begins at 1 and increases when the device starts its initial
                                   * data again: an acknowledgement of an earlier generation no
                                   * longer counts. */
    uint32_t reserved;            /* Zero. */
};
#define VFIOMIG_PENDING_INIT VFIOMIG_INIT_(struct vfiomig_pending)

/* What a save has done so far. */
struct vfiomig_save_stats {
    uint32_t struct_size;    /* VFIOMIG_SAVE_STATS_INIT sets it. */
    uint32_t reserved;       /* Zero. */
    uint64_t data_bytes;     /* Device data returned, including that before restarts, in bytes. */
    uint64_t precopy_bytes;  /* The part of it that was read before the device stopped, in bytes. */
    uint64_t stream_bytes;   /* The whole stream returned, in bytes. */
    uint64_t frames;         /* Frames returned. */
    uint64_t restarts;       /* How often the save started again because the device was reset. */
    uint64_t stop_read_ns;   /* Time spent in the driver's reads after the device stopped, in
                              * nanoseconds. */
    uint64_t begin_ns;       /* Time that the change to PRE_COPY took, in nanoseconds. */
    uint64_t quiesce_ns;     /* Time that the change to PRE_COPY_P2P or RUNNING_P2P took, in
                              * nanoseconds. */
    uint64_t stop_ns;        /* Time that the change to STOP_COPY took, in nanoseconds. */
    uint64_t finish_ns;      /* Time that the change which ended the save took, in nanoseconds. */
};
#define VFIOMIG_SAVE_STATS_INIT VFIOMIG_INIT_(struct vfiomig_save_stats)

/*
 * Begins to save the device: RUNNING to PRE_COPY, if the device has it. A device in STOP is saved
 * without pre-copy. The session owns the device's data fd and keeps the device alive.
 *
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -E2BIG,
 *         -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_save_begin(struct vfiomig_device *device, const struct vfiomig_save_options *options,
                       struct vfiomig_save **out) VFIOMIG_MUST_CHECK;

/*
 * Returns the next piece of the stream: at most cap bytes in buf, and their number in *len. Send
 * them to the target, in this order. The driver's data goes directly into buf. Bytes between *len
 * and cap may be overwritten; nothing beyond cap is. cap must be at least VFIOMIG_MIN_BUFFER, and
 * at least 40 bytes more than the longest blob, or 72 in an authenticated stream.
 *
 * VFIOMIG_NEXT_MORE: send the bytes and call again. VFIOMIG_NEXT_DRAINED: send the bytes; the
 * running device has nothing more for now. Come back on a timer or when vfiomig_save_get_poll_fd()
 * is readable, or go on to vfiomig_save_stop(). VFIOMIG_NEXT_END: send the bytes; the stream is
 * complete.
 *
 * In QEMU's format, a call returns the contents of one of QEMU's sections, and the VMM writes the
 * section around it. The first call returns save_setup, and each further call an iteration. After
 * vfiomig_save_stop() the calls return the pieces of save_complete, the last with
 * VFIOMIG_NEXT_DRAINED. Once the VMM has added its configuration with vfiomig_save_add_blob(), the
 * next call returns save_state, with VFIOMIG_NEXT_END. With VFIOMIG_SAVE_PACKETS, each call after
 * vfiomig_save_stop() returns one packet, which must be neither split nor joined.
 * VFIOMIG_NEXT_DRAINED comes with the last data or with nothing, and VFIOMIG_NEXT_END with the
 * configuration. See docs/qemu-format.md.
 *
 * States: pre-copy, quiesced, stop-copy.
 * Returns: VFIOMIG_NEXT_MORE, VFIOMIG_NEXT_DRAINED or VFIOMIG_NEXT_END.
 * Errors: -EPERM, -EIO, -EBADF, -EAGAIN, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY,
 *         -ENOSPC, -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_save_next(struct vfiomig_save *save, void *buf, size_t cap,
                      size_t *len) VFIOMIG_MUST_CHECK;

/*
 * Writes the stream to a descriptor of the VMM's, instead of vfiomig_save_next(): to a stream
 * socket, a pipe, a file or what else can be written to but a terminal, in blocking mode or not.
 * Never blocks where vfiomig_save_cancel() could not end it, except in a disk or a driver. No
 * SIGPIPE or SIGXFSZ is raised, and the mode of the fd is not changed.
 *
 * VFIOMIG_NEXT_DRAINED: the running device has nothing more for now, and all it had was written.
 * VFIOMIG_NEXT_END: the whole stream was written. VFIOMIG_NEXT_MORE: max_bytes were written; call
 * again. What could not be written when a call fails is kept, and goes first in the next call,
 * which may have another fd. Devices, and pipes in blocking mode, take 4 KiB at a time;
 * non-blocking pipes are faster. Not for QEMU's format, which needs the VMM's own sections in
 * between.
 *
 * States: pre-copy, quiesced, stop-copy, ended.
 * Returns: VFIOMIG_NEXT_MORE, VFIOMIG_NEXT_DRAINED or VFIOMIG_NEXT_END.
 * Errors: -EPERM, -EIO, -EBADF, -EAGAIN, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY,
 *         -ENOSPC, -E2BIG, -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT,
 *         -ECANCELED, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_save_write_fd(struct vfiomig_save *save, int fd,
                          const struct vfiomig_transfer *how) VFIOMIG_MUST_CHECK;

/*
 * Adds opaque data of the VMM's own, for example the PCI configuration space. It travels after
 * everything returned so far, and the target's blob callback gets it with the same kind. The data
 * is copied. If a save starts again because its device was reset, earlier blobs are void: add them
 * again (see VFIOMIG_EVENT_SAVE_RESTARTED, or restarts in vfiomig_save_get_stats()). A blob needs a
 * buffer of its length plus 40 bytes in vfiomig_save_next(), or 72 in an authenticated stream.
 *
 * In QEMU's format there is exactly one blob, of kind 0: the configuration of the stopped device,
 * as QEMU's vmstate writes it. It is empty if there is none. The library adds the tags around it.
 *
 * States: pre-copy, quiesced, stop-copy.
 * Errors: -EPERM, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -EINVAL, -EMSGSIZE, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_save_add_blob(struct vfiomig_save *save, uint32_t kind, const void *data,
                          size_t len) VFIOMIG_MUST_CHECK;

/*
 * Asks the driver how much is left. All numbers are estimates, and drivers err in both directions.
 *
 * States: pre-copy, quiesced, stop-copy.
 * Errors: -EPERM, -EBADF, -EFAULT, -EBUSY, -EINVAL, -ECANCELED, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_save_get_pending(struct vfiomig_save *save, struct vfiomig_pending *pending);

/*
 * Returns a file descriptor to poll for reading while vfiomig_save_next() returns -EAGAIN or
 * VFIOMIG_NEXT_DRAINED. The fd belongs to the library, and changes when the save stops the device
 * or starts again. Most drivers are always ready, so come back on a timer as well.
 *
 * States: all.
 * Returns: A file descriptor.
 * Errors: -EPERM, -EBADF, -EFAULT, -EBUSY, -EOPNOTSUPP, -ECANCELED, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_save_get_poll_fd(struct vfiomig_save *save);

/*
 * Stops the device's peer-to-peer DMA. Stop the guest's vCPUs first. With several devices, quiesce
 * all of them before you stop any. Devices without peer-to-peer states stay as they are. Like
 * vfiomig_save_stop(), this may refuse with -EAGAIN: the device is then still in pre-copy, so you
 * may start the vCPUs and go on, if no other device has been quiesced. A save that is quiesced does
 * not go back to pre-copy: stop the device, or keep it. Do not run the vCPUs in between. If it
 * fails, see vfiomig_save_stop(). A device that has no peer-to-peer states and no data stream yet
 * stays in RUNNING, where a reset before vfiomig_save_stop() cannot be seen: call that at once.
 *
 * States: pre-copy.
 * Errors: -EPERM, -EIO, -EBADF, -EAGAIN, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY,
 *         -EMSGSIZE, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_save_quiesce(struct vfiomig_save *save) VFIOMIG_MUST_CHECK;

/*
 * Stops the device: to STOP_COPY, quiescing it first if that has not been done. Stop the guest's
 * vCPUs first. Then call vfiomig_save_next() until VFIOMIG_NEXT_END.
 *
 * Before the device is stopped, it is asked once more whether it has started its initial data again
 * since it was complete (because of VFIO_PRECOPY_INFO_REINIT, or a reset). If so, an
 * acknowledgement by the target no longer counts, and all of that data would add to the downtime.
 * The call then returns -EAGAIN, the device is where it was, and vfiomig_save_get_pending() returns
 * a new generation. If the device is quiesced, repeat the call at once, which then stops it anyway,
 * or keep the guest. If it is still in pre-copy, you may also start the vCPUs and go on with
 * vfiomig_save_next(). Devices that cannot tell are not asked.
 *
 * After any other error the save is over; finish it with one of the KEEP endings before the vCPUs
 * run. Until then the device waits in RUNNING_P2P, if it has that state, because other devices of
 * the VM may have been stopped. state_after in vfiomig_save_get_failure() says where it is: it may
 * also be where it was, or in RUNNING, if it refuses to be quiesced.
 *
 * States: pre-copy, quiesced.
 * Errors: -EPERM, -EIO, -EBADF, -EAGAIN, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY,
 *         -EMSGSIZE, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_save_stop(struct vfiomig_save *save) VFIOMIG_MUST_CHECK;

/*
 * Ends the save. VFIOMIG_ENDING_RELEASE: the target has committed, and the device stays in STOP;
 * this needs the complete stream, and returns 0 even if the device has to be reset on the way (see
 * VFIOMIG_EVENT_RESET and vfiomig_device_get_failure()). VFIOMIG_ENDING_KEEP: the guest goes on
 * here, and the device goes back to where it was, from any state. After VFIOMIG_NEXT_END, this
 * makes the stream a checkpoint. VFIOMIG_ENDING_KEEP_QUIESCED: the same for one of several devices,
 * which goes to RUNNING_P2P if it has that state. VFIOMIG_ENDING_KEEP_STOPPED: the same for a guest
 * that is stopped; the device goes to STOP.
 *
 * If VFIOMIG_ENDING_KEEP fails, the outcome in vfiomig_save_get_failure() says whether the guest
 * may go on; vfiomig_device_get_failure() has the same until something else fails. After outcome
 * KEPT or RECOVERED nothing is lost; try again once with vfiomig_device_run() (with several
 * devices, with vfiomig_device_set_state(VFIOMIG_STATE_RUNNING_P2P) first). After outcome RESET the
 * device was reset, by the library or behind its back, and its guest's state is gone: see
 * vfiomig_device_run(). It is then where the ending was to take it, or in RUNNING if it refuses
 * that. If the driver refuses the way back, the outcome is normally RESET.
 *
 * States: pre-copy, quiesced, stop-copy, ended, failed.
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -EOPNOTSUPP,
 *         -ETIMEDOUT, -ECANCELED, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_save_finish(struct vfiomig_save *save, uint32_t ending) VFIOMIG_MUST_CHECK;

/*
 * Cancels the save. The call in progress returns -ECANCELED as soon as the driver lets it, and so
 * does every later call except those that ask what happened. To end a read that blocks in the
 * driver, also send its thread a signal. Then finish with VFIOMIG_ENDING_KEEP, or free the save.
 * With several devices, cancel the save of each; once one of them is quiesced or stopped, finish
 * all with VFIOMIG_ENDING_KEEP_QUIESCED, and free none before. A stream that was complete before
 * can still be finished with VFIOMIG_ENDING_RELEASE. May be called from any thread at any time
 * while the handle lives.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_save_cancel(struct vfiomig_save *save);

/*
 * Returns what the save has done so far. May be called from any thread at any time while the handle
 * lives.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_save_get_stats(struct vfiomig_save *save, struct vfiomig_save_stats *stats);

/*
 * Returns what was going on when this save last failed; code is 0 if it has not. It describes your
 * last call if code is what that call returned: see vfiomig_device_get_failure().
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_save_get_failure(struct vfiomig_save *save, struct vfiomig_failure *failure);

/*
 * Frees a save. NULL is ignored. An unfinished save ends as with VFIOMIG_ENDING_KEEP. Waits for a
 * call on another thread. Freeing a handle from a callback while a call is using it or its device
 * has no effect.
 *
 * Since: 0.1.
 */
void vfiomig_save_free(struct vfiomig_save *save);

/* Guards
 * ------ */

/* Flags of struct vfiomig_guard_records. */
#define VFIOMIG_RECORDS_BIG_ENDIAN  (1 << 0)  /* Numbers in a header are big-endian; otherwise they
                                               * are little-endian. */
#define VFIOMIG_RECORDS_WITH_HEADER (1 << 1)  /* A record's size includes its header. */

/*
 * Device data that is a sequence of records, each a header of fixed length and what follows it, and
 * what they may cost. Drivers such as mlx5's and virtio's allocate memory for a record as soon as
 * its header has come. Places are in bytes from the header's front; widths are 1, 2, 4 or 8 bytes.
 */
struct vfiomig_guard_records {
    uint32_t struct_size;    /* VFIOMIG_GUARD_RECORDS_INIT sets it. */
    uint32_t flags;          /* Bitwise OR of VFIOMIG_RECORDS_*, or 0. */
    uint32_t header_len;     /* Length of a header, in bytes: 1 to 64. */
    uint32_t size_offset;    /* Where the record's size is. */
    uint32_t size_width;     /* Its width. */
    uint32_t tag_offset;     /* Where the record's kind is. */
    uint32_t tag_width;      /* Its width; 0: records have no kind. */
    uint32_t tag_count;      /* How many kinds there are in tags: up to 64; 0: all kinds pass. */
    const uint64_t *tags;    /* The kinds that the driver knows. A record of another kind is
                              * refused. */
    uint32_t flags_offset;   /* Where the record's flags are. */
    uint32_t flags_width;    /* Their width; 0: records have no flags. */
    uint64_t optional_mask;  /* A record with any of these flags passes whatever its kind is,
                              * because the driver skips those that it does not know. */
    uint64_t max_record;     /* The longest record, in bytes without its header; 0: 1 GiB. */
    uint64_t max_total;      /* All records with their headers, in bytes; 0: no more than max_total
                              * of the limits. */
};
#define VFIOMIG_GUARD_RECORDS_INIT VFIOMIG_INIT_(struct vfiomig_guard_records)

/*
 * What a VMM knows of a driver's own format. A guard sees the device's data of one load in order,
 * in any pieces, after the stream has been verified and before the driver gets it. Each callback
 * returns 0, or -errno to refuse the stream, as vfiomig_blob_fn does: the load fails, and the
 * device is reset. Callbacks may be NULL, but not all that judges: records or data must be there.
 *
 * They are called on the thread that called the library, one at a time, while the device is in use:
 * calls for the same device give -EBUSY.
 */
struct vfiomig_guard_ops {
    /* VFIOMIG_GUARD_OPS_INIT sets it. */
    uint32_t struct_size;

    /* Zero. */
    uint32_t reserved;

    /*
     * The data is a sequence of records, which are judged before data is called; NULL: it is not.
     * Copied.
     */
    const struct vfiomig_guard_records *records;

    /*
     * The load begins: called by vfiomig_load_begin(), before anything has happened to the device.
     */
    int (*begin)(void *opaque);

    /*
     * The next len bytes, which begin at byte offset of the device's data: 0 at first and after a
     * restart. If they are refused, the driver gets none of them.
     */
    int (*data)(void *opaque, const void *data, size_t len, uint64_t offset);

    /* The source has started again: what came before is void. */
    int (*restart)(void *opaque);

    /* The data is complete, with len bytes in all. */
    int (*end)(void *opaque, uint64_t len);

    /* Releases the opaque. */
    vfiomig_release_fn release;
};
#define VFIOMIG_GUARD_OPS_INIT VFIOMIG_INIT_(struct vfiomig_guard_ops)

/* Loading
 * ------- */

/* One device being loaded. */
struct vfiomig_load;

/* Flags of struct vfiomig_load_options. */
#define VFIOMIG_LOAD_CHECK_DEVICE_INDEX (1 << 0)  /* Refuse a stream whose device_index differs from
                                                   * that in the options. */
#define VFIOMIG_LOAD_CHECK_MIGRATION_ID (1 << 1)  /* Refuse a stream whose migration_id differs from
                                                   * that in the options. */
#define VFIOMIG_LOAD_NO_GUARD           (1 << 3)  /* Leave out the guard that the library has for
                                                   * the target's driver: mtty's and mlx5's have
                                                   * one. For a driver whose format the guard does
                                                   * not know yet, and a source that is trusted. */

/* Fields of the identity that need not match: struct vfiomig_load_options.ignore. */
#define VFIOMIG_IGNORE_DRIVER         (1 << 0)  /* Ignore the driver's name. */
#define VFIOMIG_IGNORE_PCI_SUBSYSTEM  (1 << 1)  /* Ignore the PCI subsystem vendor and device. */
#define VFIOMIG_IGNORE_PCI_REVISION   (1 << 2)  /* Ignore the PCI revision. */
#define VFIOMIG_IGNORE_MDEV_TYPE      (1 << 3)  /* Ignore the mdev type. */
#define VFIOMIG_IGNORE_VENDOR_DATA    (1 << 4)  /* Ignore the vendor string. */
#define VFIOMIG_IGNORE_ALL            (1 << 5)  /* Compare nothing. */
#define VFIOMIG_IGNORE_VENDOR_TYPE    (1 << 6)  /* Ignore the vendor's type. */
#define VFIOMIG_IGNORE_DRIVER_VERSION (1 << 7)  /* Ignore the driver's version, if its vendor says
                                                 * that both versions accept each other's state. */

/* What vfiomig_load_push() and vfiomig_load_push_received() return: a bitwise OR. */
#define VFIOMIG_PUSH_MORE           0         /* None of these bits is set: go on. */
#define VFIOMIG_PUSH_END            (1 << 1)  /* The stream is complete. Has the same value as
                                               * VFIOMIG_NEXT_END; bit 0 has no meaning. */
#define VFIOMIG_PUSH_INITIAL_LOADED (1 << 2)  /* The driver has taken all initial data; tell the
                                               * source. */
#define VFIOMIG_PUSH_RESTARTED      (1 << 3)  /* The source started again; what was loaded before is
                                               * void. */

/*
 * Takes data of the VMM's own that came with a stream: 0, or -errno to refuse the stream. EPERM,
 * EINVAL, ENODEV, ENOMEM, ENOTTY, EOPNOTSUPP, EPROTO, EBADMSG, EMSGSIZE, EXDEV and ECANCELED are
 * passed on; any other becomes EIO, and the failure structure has it. A positive number refuses
 * too: nothing but 0 lets a stream pass.
 */
typedef int (*vfiomig_blob_fn)(void *opaque, uint32_t kind, const void *data, size_t len);

/* How a device is loaded; NULL for the defaults. Limits of 0 mean the default. */
struct vfiomig_load_options {
    /* VFIOMIG_LOAD_OPTIONS_INIT sets it. */
    uint32_t struct_size;

    /*
     * Fields of the identity that need not match: bitwise OR of VFIOMIG_IGNORE_*, or 0. A short way
     * to give them VFIOMIG_RULE_IGNORE; compat must not have rules for the same fields.
     */
    uint32_t ignore;

    /* The largest payload of a data frame, or data of a packet, in bytes; default 4 MiB. */
    uint32_t max_frame;

    /* The largest blob, or configuration in a packet, in bytes; default 1 MiB. */
    uint32_t max_blob;

    /* The number of blobs; default 256. */
    uint32_t max_blobs;

    /* How often the source may start again; default 64. */
    uint32_t max_restarts;

    /* Device data plus skipped frames, in bytes; default 1 TiB. */
    uint64_t max_total;

    /*
     * Packets that wait for their turn, in bytes; default 1 GiB. If there are more,
     * vfiomig_load_push_packet() waits.
     */
    uint64_t max_queued;

    /* How far a packet may be ahead of the next one in order; default 1048576. */
    uint32_t max_ahead;

    /* How long the driver may refuse data before the load fails, in milliseconds; default 60000. */
    uint32_t write_timeout_ms;

    /* Bitwise OR of VFIOMIG_LOAD_*, or 0. */
    uint32_t flags;

    /* The number within its VM that the device of the stream must have; see flags. */
    uint32_t device_index;

    /* How the stream is laid out: VFIOMIG_FORMAT_*. */
    uint32_t format;

    /* Zero. */
    uint32_t reserved;

    /* The name that the stream must have; see flags. */
    uint8_t migration_id[16];

    /* Takes the VMM's own data; NULL: a stream that has any is refused. */
    vfiomig_blob_fn blob;

    /* Passed to blob. */
    void *blob_opaque;

    /* Releases blob_opaque. */
    vfiomig_release_fn blob_release;

    /*
     * Decides in addition to the comparison of identities; NULL: the comparison alone decides. A
     * short way to set compat's decide, which must then be NULL.
     */
    vfiomig_policy_fn policy;

    /* Passed to policy. */
    void *policy_opaque;

    /* Releases policy_opaque. */
    vfiomig_release_fn policy_release;

    /*
     * What the stream will be of, if the source has told: vfiomig_load_begin() judges it, and
     * refuses with -EXDEV before it does anything to the device. The stream's own identity is
     * judged too, and what both say must be the same, but for the size of the state. NULL: not
     * known; only the stream's own identity is judged, when it comes.
     */
    const struct vfiomig_identity *source;

    /* What must match between source and target; NULL: the default. */
    const struct vfiomig_compat_policy *compat;

    /* Verifies who has made the stream; NULL: an authenticated stream is refused. */
    const struct vfiomig_auth *auth;

    /* Limits that all sessions of the VMM share; NULL: the defaults. */
    const struct vfiomig_limits *limits;

    /*
     * Judges the device's data before the driver gets it, after the library's own guard if there is
     * one for the driver; NULL: only that one does.
     */
    const struct vfiomig_guard_ops *guard;

    /* Passed to the guard. */
    void *guard_opaque;
};
#define VFIOMIG_LOAD_OPTIONS_INIT VFIOMIG_INIT_(struct vfiomig_load_options)

/* What a load has done so far. */
struct vfiomig_load_stats {
    uint32_t struct_size;         /* VFIOMIG_LOAD_STATS_INIT sets it. */
    uint32_t reserved;            /* Zero. */
    uint64_t data_bytes;          /* Device data written to the driver, including that before
                                   * restarts, in bytes. */
    uint64_t stream_bytes;        /* The whole stream taken, without packets, in bytes. */
    uint64_t frames;              /* Frames taken; in QEMU's format, pieces of data on the main
                                   * channel. */
    uint64_t packets;             /* Packets taken. */
    uint64_t queued_bytes;        /* Packets that are waiting for their turn or being written at the
                                   * moment, in bytes, plus 128 bytes for each. */
    uint64_t restarts;            /* How often the source started again. */
    uint64_t blobs;               /* Blobs passed to the callback. */
    uint64_t write_ns;            /* Time spent in the driver's writes, in nanoseconds. */
    uint64_t begin_ns;            /* Time that the change to RESUMING took, in nanoseconds. */
    uint64_t commit_ns;           /* Time that the driver took to check and accept the state, in
                                   * nanoseconds. */
    uint64_t initial_generation;  /* The generation of the latest initial data that was loaded: a
                                   * number to compare with that in struct vfiomig_pending, which
                                   * never needs more than 32 bits; 0: none yet. */
};
#define VFIOMIG_LOAD_STATS_INIT VFIOMIG_INIT_(struct vfiomig_load_stats)

/*
 * Begins to load the device: to RESUMING. What the device held is lost. The session owns the
 * device's data fd and keeps the device alive.
 *
 * If the options name the source, it is judged first, and nothing has been done to the device if it
 * does not fit. A device that speaks an older protocol stays where it is until the stream has said
 * what it was saved from.
 *
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -E2BIG,
 *         -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_load_begin(struct vfiomig_device *device, const struct vfiomig_load_options *options,
                       struct vfiomig_load **out) VFIOMIG_MUST_CHECK;

/*
 * Takes the next len bytes of the stream, split in any way. Nothing reaches the driver before its
 * frame has been verified. May block for as long as the driver does.
 *
 * If the load fails, the device has already been reset, and all you can do is free the load. Calls
 * that are refused as such change nothing: with a bad handle or pointer, with a handle that is in
 * use, in a state that does not allow them, or for lack of memory at their entry. To tell the two
 * apart: after a failure, code in vfiomig_load_get_failure() is not 0.
 *
 * Returns a bitwise OR. VFIOMIG_PUSH_MORE (no bit is set): go on. VFIOMIG_PUSH_INITIAL_LOADED: tell
 * the source that its initial data is here, and go on. VFIOMIG_PUSH_RESTARTED: the source's device
 * was reset, and earlier blobs and acknowledgements are void; if INITIAL_LOADED is set as well, it
 * came later; go on. VFIOMIG_PUSH_END: the stream is complete; commit. Any byte that is pushed
 * after that makes the load fail; after the commit a push returns -EINVAL, and changes nothing.
 *
 * In QEMU's format nothing can be verified, and data goes to the driver as it arrives. Push no more
 * than vfiomig_load_get_space() has room for, because what follows may belong to others.
 * VFIOMIG_PUSH_SECTION_END: a section has ended. VFIOMIG_PUSH_CONFIG: the VMM's configuration
 * follows in its stream; read it there, then push what comes after it. VFIOMIG_PUSH_CONFIG_READY:
 * load the configuration that came in a packet. VFIOMIG_PUSH_END comes with the end of the
 * configuration's section. It never comes with VFIOMIG_LOAD_PACKETS, where
 * vfiomig_load_write_packets() says that everything is complete. The main channel's last sections,
 * which are empty, may come before or after that, and even after the commit, which no other load
 * takes.
 *
 * States: receiving, complete, committed.
 * Returns: VFIOMIG_PUSH_MORE, or a bitwise OR of VFIOMIG_PUSH_RESTARTED,
 *          VFIOMIG_PUSH_INITIAL_LOADED, VFIOMIG_PUSH_END, VFIOMIG_PUSH_SECTION_END,
 *          VFIOMIG_PUSH_CONFIG and VFIOMIG_PUSH_CONFIG_READY.
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -ENODATA,
 *         -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_load_push(struct vfiomig_load *load, const void *data, size_t len) VFIOMIG_MUST_CHECK;

/*
 * Offers memory to receive the next bytes of the stream into: *len bytes at *space, at least one.
 * After VFIOMIG_PUSH_END it returns -EINVAL, which loses nothing. The memory belongs to the library
 * and is valid until the next call with this handle. Then tell vfiomig_load_push_received() how
 * many bytes came. This is the way for a VMM that reads from a socket: it saves the copy that
 * vfiomig_load_push() makes of frames that cross the boundaries of its input. There may be more
 * room than the stream is long, and bytes after the stream's end are an error. So if anything else
 * follows on the same connection, send the length of each piece of the stream before it, and
 * receive no more than is left of the piece. In QEMU's format there is room only for what is
 * certain to come, so a VMM can read from a stream that carries more than this device.
 *
 * States: receiving, complete, committed.
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -ENODATA,
 *         -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_load_get_space(struct vfiomig_load *load, void **space, size_t *len) VFIOMIG_MUST_CHECK;

/*
 * Takes len bytes that were received into the memory of vfiomig_load_get_space(). Returns the same
 * as vfiomig_load_push(). More bytes than there was room for are refused, which loses nothing.
 *
 * States: receiving, complete, committed.
 * Returns: VFIOMIG_PUSH_MORE, or a bitwise OR of VFIOMIG_PUSH_RESTARTED,
 *          VFIOMIG_PUSH_INITIAL_LOADED, VFIOMIG_PUSH_END, VFIOMIG_PUSH_SECTION_END,
 *          VFIOMIG_PUSH_CONFIG and VFIOMIG_PUSH_CONFIG_READY.
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -ENODATA,
 *         -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_load_push_received(struct vfiomig_load *load, size_t len) VFIOMIG_MUST_CHECK;

/*
 * Reads the stream from a descriptor of the VMM's and loads it, instead of vfiomig_load_push():
 * from a stream socket, a pipe, a file or what else can be read, in blocking mode or not. Reads
 * nothing of what follows the stream's end. Never blocks where vfiomig_load_cancel() could not end
 * it, except in a disk or a driver. Not for QEMU's format, whose sections the VMM reads.
 *
 * Returns as soon as there is something to say, like vfiomig_load_push(), or VFIOMIG_PUSH_MORE
 * after max_bytes: call again until VFIOMIG_PUSH_END. What goes wrong with the fd leaves the load
 * as it is; anything else ends it, and the device has been reset.
 *
 * States: receiving.
 * Returns: VFIOMIG_PUSH_MORE, or a bitwise OR of VFIOMIG_PUSH_RESTARTED,
 *          VFIOMIG_PUSH_INITIAL_LOADED and VFIOMIG_PUSH_END.
 * Errors: -EPERM, -EIO, -EBADF, -EAGAIN, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY,
 *         -ENOSPC, -E2BIG, -ENODATA, -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT,
 *         -ECANCELED, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_load_read_fd(struct vfiomig_load *load, int fd,
                         const struct vfiomig_transfer *how) VFIOMIG_MUST_CHECK;

/*
 * Makes the driver check and accept the state: RESUMING to STOP. Needs the complete stream. After
 * success the source may be released; make the fix-ups of vfiomig_device_get_fixups() and call
 * vfiomig_device_run(). After an error, including an incomplete stream, the device has been reset,
 * and the guest goes on at the source.
 *
 * States: receiving, complete.
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -ENODATA,
 *         -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_load_commit(struct vfiomig_load *load) VFIOMIG_MUST_CHECK;

/*
 * Cancels the load. The call in progress returns -ECANCELED as soon as the driver lets it, and so
 * does every later call except those that ask what happened. The first of them resets the device.
 * To end a write that blocks in the driver, also send its thread a signal. A load that has been
 * committed is not affected. May be called from any thread at any time while the handle lives.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_load_cancel(struct vfiomig_load *load);

/*
 * Returns what the stream says it was saved from, also if the stream was refused because of that.
 * This is a claim, not a proof.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENODATA, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_load_get_source_identity(struct vfiomig_load *load, struct vfiomig_identity *identity);

/*
 * Returns what the load has done so far. May be called from any thread at any time while the handle
 * lives.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_load_get_stats(struct vfiomig_load *load, struct vfiomig_load_stats *stats);

/*
 * Returns how long the VMM may wait for more of the stream, as poll() takes it: *timeout_ms is in
 * milliseconds, 0 if the source has been too slow already, and -1 if there is no deadline
 * (progress_timeout_ms of the limits is 0, or the stream is complete). The library has no clock of
 * its own: when that time has passed and nothing has come, push 0 bytes, which fails with
 * -ETIMEDOUT. May be called from any thread at any time while the handle lives.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_load_get_deadline(struct vfiomig_load *load, int *timeout_ms);

/*
 * Returns what was going on when this load failed; code is 0 if it has not.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_load_get_failure(struct vfiomig_load *load, struct vfiomig_failure *failure);

/*
 * Frees a load. NULL is ignored. If it was not committed, it is abandoned and its device is reset.
 * Waits for calls on other threads, and ends vfiomig_load_write_packets() and
 * vfiomig_load_push_packet(). Freeing a handle from a callback while a call is using it or its
 * device has no effect.
 *
 * Since: 0.1.
 */
void vfiomig_load_free(struct vfiomig_load *load);

/* How long the guest will stand still
 * ----------------------------------- */

/* What is known of a migration's times. */
struct vfiomig_estimate;

/* What was measured: vfiomig_estimate_observe(). */
#define VFIOMIG_OBSERVATION_READ           1   /* Source: value bytes were read from the device,
                                                * which took ns. */
#define VFIOMIG_OBSERVATION_SENT           2   /* Source: value bytes were sent, which kept a thread
                                                * busy for ns; device is ignored. */
#define VFIOMIG_OBSERVATION_WRITTEN        3   /* Target: value bytes were written to the device,
                                                * which took ns. */
#define VFIOMIG_OBSERVATION_QUIESCED       4   /* Source: quiescing the device took ns; value is
                                                * ignored. */
#define VFIOMIG_OBSERVATION_STOPPED        5   /* Source: stopping the device took ns; value is
                                                * ignored. What is read from now on is stop-copy. */
#define VFIOMIG_OBSERVATION_RELEASED       6   /* Source: releasing the device took ns; value is
                                                * ignored. */
#define VFIOMIG_OBSERVATION_COMMITTED      7   /* Target: committing the device took ns; value is
                                                * ignored. */
#define VFIOMIG_OBSERVATION_APPROACHED     8   /* Target: taking the device to RUNNING_P2P took ns;
                                                * value is ignored. */
#define VFIOMIG_OBSERVATION_RAN            9   /* Target: taking the device to RUNNING took ns;
                                                * value is ignored. */
#define VFIOMIG_OBSERVATION_ENDED          10  /* Source: the device was read to its end; value and
                                                * ns are ignored. */
#define VFIOMIG_OBSERVATION_INITIAL_LOADED 11  /* Source: the target has loaded generation value of
                                                * the device's initial data; ns is ignored. */
#define VFIOMIG_OBSERVATION_ROUND_TRIP     12  /* A message to the other side and its answer took
                                                * ns; device and value are ignored. */
#define VFIOMIG_OBSERVATION_SOURCE_THREADS 13  /* value devices of the source are read at a time, by
                                                * threads that also send; device and ns are
                                                * ignored. */
#define VFIOMIG_OBSERVATION_TARGET_THREADS 14  /* value devices of the target are written at a time;
                                                * device and ns are ignored. */
#define VFIOMIG_OBSERVATION_SWITCHOVER     15  /* Source: the guest has been stopped and is switched
                                                * over. What was to be expected then stands beside
                                                * what is measured. device, value and ns are
                                                * ignored. */
#define VFIOMIG_OBSERVATION_PHASE          16  /* The phase with the number value has taken ns, of
                                                * all devices together; device is ignored. */
#define VFIOMIG_OBSERVATION_MOVED          17  /* Source: from the stop of all devices until all of
                                                * their streams were read and sent, it took ns.
                                                * device and value are ignored. */
#define VFIOMIG_OBSERVATION_HANDED_OVER    18  /* Source: from there until all devices were
                                                * released, which is after the target's commit, it
                                                * took ns. device and value are ignored. */
#define VFIOMIG_OBSERVATION_SOURCE_HELPERS 19  /* value devices of the source take a step at a time:
                                                * a group tells it. device and ns are ignored. */
#define VFIOMIG_OBSERVATION_TARGET_HELPERS 20  /* value devices of the target take a step at a time;
                                                * device and ns are ignored. */
#define VFIOMIG_OBSERVATION_CHANNELS       21  /* Source: value connections send while others read;
                                                * 0: the threads that read also send. A group with
                                                * channels tells it. device and ns are ignored. */

/* Phases of a downtime, in their order. */
#define VFIOMIG_DOWNTIME_QUIESCE 0  /* All devices of the source give up their peer-to-peer DMA. */
#define VFIOMIG_DOWNTIME_STOP    1  /* All devices of the source are stopped. */
#define VFIOMIG_DOWNTIME_READ    2  /* They are read. */
#define VFIOMIG_DOWNTIME_SEND    3  /* How much longer sending takes. */
#define VFIOMIG_DOWNTIME_LOAD    4  /* How much longer the target takes to write it, and the source
                                     * to let go of its devices. */
#define VFIOMIG_DOWNTIME_COMMIT  5  /* The target's drivers accept the state. */
#define VFIOMIG_DOWNTIME_RESUME  6  /* All devices of the target run. */
#define VFIOMIG_DOWNTIME_TOTAL   7  /* All phases together. */

/* What to do: struct vfiomig_decision. */
#define VFIOMIG_VERDICT_GO_ON             1  /* The guest runs on, and pre-copy with it. */
#define VFIOMIG_VERDICT_SWITCH_OVER       2  /* Stop the guest and switch over. */
#define VFIOMIG_VERDICT_WILL_NOT_CONVERGE 3  /* More pre-copy does not help. */

/* ... and why. */
#define VFIOMIG_BECAUSE_FITS               1   /* The downtime keeps to the limit, also its upper
                                                * bound. */
#define VFIOMIG_BECAUSE_LIKELY             2   /* What is expected keeps to the limit, the upper
                                                * bound does not. */
#define VFIOMIG_BECAUSE_AS_FAR_AS_KNOWN    3   /* What is known keeps to the limit, but something
                                                * was never measured. */
#define VFIOMIG_BECAUSE_NOTHING_KNOWN      4   /* Nobody has said yet what is left of the device:
                                                * vfiomig_estimate_observe_pending(). */
#define VFIOMIG_BECAUSE_INITIAL_NOT_SENT   5   /* Not all of the device's initial data was sent. */
#define VFIOMIG_BECAUSE_INITIAL_NOT_LOADED 6   /* The target has not said that it has loaded the
                                                * device's initial data. */
#define VFIOMIG_BECAUSE_INITIAL_AGAIN      7   /* The device has started its initial data again, and
                                                * the target has not loaded that yet. */
#define VFIOMIG_BECAUSE_DATA_LEFT          8   /* The downtime would be too long; pre-copy makes it
                                                * shorter. */
#define VFIOMIG_BECAUSE_STEPS              9   /* Changing states alone takes longer than the
                                                * limit. */
#define VFIOMIG_BECAUSE_STOP_COPY_SIZE     10  /* What can be read only from the stopped device
                                                * takes longer than the limit. */
#define VFIOMIG_BECAUSE_DIRTY_RATE         11  /* The device becomes dirty faster than it can be
                                                * moved. */
#define VFIOMIG_BECAUSE_INITIAL_REPEATS    12  /* The device has started its initial data again too
                                                * often. */

/* Flags of vfiomig_estimate_decide(). */
#define VFIOMIG_DECIDE_WITHOUT_INITIAL (1 << 0)  /* vfiomig_estimate_decide(): do not wait until the
                                                  * target has loaded all initial data. */

/* Numbers of an estimate. */
#define VFIOMIG_ESTIMATE_ALL         UINT32_MAX  /* All devices together, where a device's number
                                                  * can stand. */
#define VFIOMIG_ESTIMATE_KNOWN       (1 << 0)  /* Everything that belongs to the prediction was
                                                * measured. */
#define VFIOMIG_ESTIMATE_UNKNOWN     UINT64_MAX  /* A time that nobody knows: an upper bound that
                                                  * there is not, or a phase that was not
                                                  * measured. */
#define VFIOMIG_ESTIMATE_HERE        1         /* A blob is of this side's device. */
#define VFIOMIG_ESTIMATE_THERE       2         /* A blob is of the other side's device. */
#define VFIOMIG_ESTIMATE_BYTES       256       /* How long a blob is, in bytes. A later version's
                                                * may be longer. */
#define VFIOMIG_ESTIMATE_MAX_DEVICES 256       /* The most devices of an estimate. */

/* A downtime that is to be expected. Times are in nanoseconds, sizes in bytes. */
struct vfiomig_prediction {
    uint32_t struct_size;           /* VFIOMIG_PREDICTION_INIT sets it. */
    uint32_t flags;                 /* VFIOMIG_ESTIMATE_KNOWN, or 0. */
    uint64_t expected_ns[8];        /* What is expected of each phase, and of all:
                                     * VFIOMIG_DOWNTIME_* is the index. */
    uint64_t low_ns[8];             /* It will hardly be less. */
    uint64_t high_ns[8];            /* It will hardly be more. VFIOMIG_ESTIMATE_UNKNOWN: something
                                     * was never measured, and expected_ns is what is known of
                                     * it. */
    uint64_t stop_copy_bytes;       /* What stop-copy will send. */
    uint64_t stop_copy_low_bytes;   /* It will hardly be less. */
    uint64_t stop_copy_high_bytes;  /* It will hardly be more. VFIOMIG_ESTIMATE_UNKNOWN: no driver
                                     * says. */
    uint64_t precopy_bytes;         /* What pre-copy would still send. */
};
#define VFIOMIG_PREDICTION_INIT VFIOMIG_INIT_(struct vfiomig_prediction)

/* Whether to switch over. */
struct vfiomig_decision {
    uint32_t struct_size;  /* VFIOMIG_DECISION_INIT sets it. */
    uint32_t verdict;      /* VFIOMIG_VERDICT_*: what to do. */
    uint32_t because;      /* VFIOMIG_BECAUSE_*: why. */
    uint32_t device;       /* The device that is the reason, or VFIOMIG_ESTIMATE_ALL. */
    uint64_t expected_ns;  /* The downtime that is expected, in nanoseconds. */
    uint64_t low_ns;       /* It will hardly be less. */
    uint64_t high_ns;      /* It will hardly be more. VFIOMIG_ESTIMATE_UNKNOWN: something was never
                            * measured. */
};
#define VFIOMIG_DECISION_INIT VFIOMIG_INIT_(struct vfiomig_decision)

/* A downtime as it was, and as it had been expected. */
struct vfiomig_downtime {
    uint32_t struct_size;     /* VFIOMIG_DOWNTIME_INIT sets it. */
    uint32_t reserved;        /* Zero. */
    uint64_t measured_ns[8];  /* What each phase took, in nanoseconds: VFIOMIG_DOWNTIME_* is the
                               * index. VFIOMIG_ESTIMATE_UNKNOWN: it was not measured. The last one
                               * is the sum of what was. */
    uint64_t expected_ns[8];  /* What was expected when the guest was switched over, of all devices
                               * together; VFIOMIG_ESTIMATE_UNKNOWN: nothing. */
};
#define VFIOMIG_DOWNTIME_INIT VFIOMIG_INIT_(struct vfiomig_downtime)

/*
 * Makes an estimate for a VM with that many devices, which knows nothing yet. A group has one
 * already, which it feeds: vfiomig_group_get_estimate(). An estimate touches no device and reads no
 * clock. Its functions may be called from any number of threads, at the same time.
 *
 * Errors: -ENOMEM, -EFAULT, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_estimate_new(uint32_t num_devices, struct vfiomig_estimate **out) VFIOMIG_MUST_CHECK;

/*
 * Tells what was measured: VFIOMIG_OBSERVATION_*. device and value are used by those that say so;
 * otherwise they are ignored. at_ns is when that was, on the clock of
 * vfiomig_estimate_observe_pending(), or 0 for the latest time that it was told.
 *
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_estimate_observe(struct vfiomig_estimate *estimate, uint32_t observation,
                             uint32_t device, uint64_t at_ns, uint64_t value, uint64_t ns);

/*
 * Tells what a source's driver says is left: what vfiomig_save_get_pending() has returned at at_ns.
 * From two of them with time between, it learns how fast the device becomes dirty. at_ns is of any
 * clock that goes on steadily; with a group's estimate it is CLOCK_MONOTONIC.
 *
 * Errors: -EBADF, -EFAULT, -EINVAL, -E2BIG, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_estimate_observe_pending(struct vfiomig_estimate *estimate, uint32_t device,
                                     uint64_t at_ns, const struct vfiomig_pending *pending);

/*
 * Says how long the guest will stand still if it is switched over at at_ns, or at the latest time
 * that was told if that is 0: for all devices together (VFIOMIG_ESTIMATE_ALL), or as if a device
 * were the only one. What was never measured has no upper bound.
 *
 * QEMU's numbers are in it: state_pending_estimate is precopy_bytes, state_pending_exact and the
 * size of stop-copy are stop_copy_bytes.
 *
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_estimate_predict(struct vfiomig_estimate *estimate, uint32_t device, uint64_t at_ns,
                             struct vfiomig_prediction *prediction);

/*
 * Says whether to switch over at at_ns (0: the latest time that was told) if the guest may stand
 * still for limit_ns at most. Unless flags has VFIOMIG_DECIDE_WITHOUT_INITIAL, it waits until the
 * target has loaded the present generation of each device's initial data
 * (VFIOMIG_OBSERVATION_INITIAL_LOADED). If stopping refuses with -EAGAIN, because a device has
 * started its initial data again, tell it what is pending now and ask again.
 *
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_estimate_decide(struct vfiomig_estimate *estimate, uint64_t at_ns, uint64_t limit_ns,
                            uint32_t flags, struct vfiomig_decision *decision);

/*
 * Says how long the phases of the downtime were, for all devices together (VFIOMIG_ESTIMATE_ALL) or
 * a device's part in them, and what had been expected.
 *
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_estimate_get_downtime(struct vfiomig_estimate *estimate, uint32_t device,
                                  struct vfiomig_downtime *downtime);

/*
 * Copies what is worth being remembered of this side's device: VFIOMIG_ESTIMATE_BYTES in buf, their
 * number in *len. Keep it for the device's next migration, or send it to the other side of this
 * one.
 *
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENOSPC, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_estimate_export(struct vfiomig_estimate *estimate, uint32_t device, void *buf,
                            size_t cap, size_t *len);

/*
 * Takes what vfiomig_estimate_export() has returned: earlier for this side's device
 * (VFIOMIG_ESTIMATE_HERE), or on the other side for its device (VFIOMIG_ESTIMATE_THERE). It
 * replaces what was known. It may come from anywhere: whatever it says, nothing worse happens than
 * a wrong prediction. One that is refused changes nothing.
 *
 * Errors: -EBADF, -EFAULT, -EINVAL, -EPROTO, -EBADMSG, -EOPNOTSUPP, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_estimate_import(struct vfiomig_estimate *estimate, uint32_t device, uint32_t side,
                            const void *blob, size_t len);

/*
 * Frees an estimate; NULL is ignored. A group's lives on with the group.
 *
 * Since: 0.1.
 */
void vfiomig_estimate_free(struct vfiomig_estimate *estimate);

/* Several devices together
 * ------------------------ */

/* All devices of one VM, on one side of a migration. */
struct vfiomig_group;

/* Sides: struct vfiomig_group_options.role. */
#define VFIOMIG_GROUP_ROLE_SOURCE 1  /* The devices are saved. */
#define VFIOMIG_GROUP_ROLE_TARGET 2  /* The devices are loaded. */

/* Flags of struct vfiomig_group_options. */
#define VFIOMIG_GROUP_NO_PEER_TO_PEER (1 << 0)  /* You vouch that the devices do not reach each
                                                 * other's memory. Without this, devices without
                                                 * peer-to-peer states are not migrated together
                                                 * with others. */

/* Where a group is: struct vfiomig_group_status. */
#define VFIOMIG_GROUP_PHASE_SETUP     0   /* Devices are being added. */
#define VFIOMIG_GROUP_PHASE_OPEN      1   /* The source: the guest runs. The target: it receives. */
#define VFIOMIG_GROUP_PHASE_STOPPED   2   /* The source: all devices are stopped, and are being
                                           * read. */
#define VFIOMIG_GROUP_PHASE_COMPLETE  3   /* All streams are complete. */
#define VFIOMIG_GROUP_PHASE_FAILED    4   /* A device has failed. Finish the source by keeping the
                                           * devices, abandon the target. */
#define VFIOMIG_GROUP_PHASE_KEPT      5   /* The source has kept its devices. */
#define VFIOMIG_GROUP_PHASE_RELEASED  6   /* The source has released its devices. */
#define VFIOMIG_GROUP_PHASE_COMMITTED 7   /* All devices of the target have accepted their state. */
#define VFIOMIG_GROUP_PHASE_RUNNING   8   /* All devices run. */
#define VFIOMIG_GROUP_PHASE_HALTED    9   /* Not all devices could be run, so none runs. */
#define VFIOMIG_GROUP_PHASE_OVER      10  /* Only freeing is left. */

/* How long vfiomig_group_work() helps. */
#define VFIOMIG_GROUP_UNTIL_DISMISSED 0  /* vfiomig_group_work() helps until
                                          * vfiomig_group_dismiss(). */
#define VFIOMIG_GROUP_UNTIL_IDLE      1  /* vfiomig_group_work() helps with what there is to do
                                          * now. */
#define VFIOMIG_GROUP_UNTIL_FRAME     2  /* vfiomig_group_work() helps until vfiomig_group_next()
                                          * has something to return other than -EAGAIN, or
                                          * VFIOMIG_NEXT_DRAINED on the target. */
#define VFIOMIG_GROUP_UNTIL_DRAINED   3  /* Source, with channels: vfiomig_group_work() helps until
                                          * each running device has been asked once more, has
                                          * nothing left for now, and all of it was sent; or until
                                          * vfiomig_group_stop(). */
#define VFIOMIG_GROUP_UNTIL_COMPLETE  4  /* vfiomig_group_work() helps until all streams are
                                          * complete and, with channels, what the source has read
                                          * was sent. */

/* Sizes of a group. */
#define VFIOMIG_GROUP_HEADER       32         /* How a frame begins, in bytes: what
                                               * vfiomig_group_get_frame_len() needs. */
#define VFIOMIG_GROUP_MAX_FRAME    16777248   /* The longest frame, in bytes. One is never longer
                                               * than the buffer that it was read into. */
#define VFIOMIG_GROUP_GOOD_BUFFER  131104     /* A good size for the buffer of vfiomig_group_next(),
                                               * in bytes. */
#define VFIOMIG_GROUP_MIN_WINDOW   (2 << 20)  /* The smallest window, in bytes. */
#define VFIOMIG_GROUP_GOOD_WINDOW  (8 << 20)  /* A good size for a window, in bytes: what a device
                                               * is written in a few milliseconds. */
#define VFIOMIG_GROUP_MAX_WINDOW   (1 << 30)  /* The largest window, in bytes. */
#define VFIOMIG_GROUP_MAX_CHANNELS 64         /* The most channels of one group. */
#define VFIOMIG_GROUP_MAX_DEVICES  256        /* The most devices of one group. */

/* How a group is set up. */
struct vfiomig_group_options {
    uint32_t struct_size;      /* VFIOMIG_GROUP_OPTIONS_INIT sets it. */
    uint32_t flags;            /* Bitwise OR of VFIOMIG_GROUP_NO_PEER_TO_PEER, or 0. */
    uint32_t role;             /* VFIOMIG_GROUP_ROLE_SOURCE or VFIOMIG_GROUP_ROLE_TARGET. */
    uint32_t reserved;         /* Zero. */
    uint8_t migration_id[16];  /* The name of the migration, which all of its streams have; use a
                                * new one for each attempt. Zeros: on the source, a random one,
                                * which vfiomig_group_get_status() returns; on the target, any. */
    uint64_t window;           /* How much of each device's stream may be on its way, or wait at the
                                * target, in bytes: then frames may arrive in any order, over any
                                * number of connections, and the target sends credits. The same on
                                * both sides: VFIOMIG_GROUP_MIN_WINDOW to VFIOMIG_GROUP_MAX_WINDOW,
                                * for example VFIOMIG_GROUP_GOOD_WINDOW, and twice the longest blob.
                                * 0: none; each device's frames arrive in order. */
};
#define VFIOMIG_GROUP_OPTIONS_INIT VFIOMIG_INIT_(struct vfiomig_group_options)

/*
 * How a VMM carries a channel's bytes itself, for example through TLS. Neither callback waits; one
 * thread at a time calls either. They are called until they return -EAGAIN, and again when fd is
 * ready.
 */
struct vfiomig_channel_ops {
    /* VFIOMIG_CHANNEL_OPS_INIT sets it. */
    uint32_t struct_size;

    /* Zero. */
    uint32_t reserved;

    /*
     * Sends some of len bytes, and returns how many it has taken; -EAGAIN: none now. Any other
     * -errno ends the migration.
     */
    int64_t (*send)(void *opaque, const void *data, size_t len);

    /*
     * Receives at most cap bytes, and returns how many; 0: the other side has closed the
     * connection; -EAGAIN: nothing has come. Any other -errno ends the migration.
     */
    int64_t (*receive)(void *opaque, void *buf, size_t cap);

    /* Releases the opaque, when the group is freed or does not take the channel. */
    vfiomig_release_fn release;
};
#define VFIOMIG_CHANNEL_OPS_INIT VFIOMIG_INIT_(struct vfiomig_channel_ops)

/* A connection to the other side. */
struct vfiomig_channel_options {
    uint32_t struct_size;                   /* VFIOMIG_CHANNEL_OPTIONS_INIT sets it. */
    uint32_t flags;                         /* Zero. */
    int32_t fd;                             /* A connected socket, or, with ops, whatever can be
                                             * polled for them. The group makes a descriptor of its
                                             * own, so you may close this one. It may be blocking or
                                             * not, and stays so. */
    uint32_t timeout_ms;                    /* How long a frame that has begun may make no progress,
                                             * in milliseconds. 0: 60000; UINT32_MAX: as long as it
                                             * likes. */
    const struct vfiomig_channel_ops *ops;  /* Carries the bytes in place of fd; NULL: fd does. It
                                             * is copied. */
    void *ops_opaque;                       /* Passed to the callbacks of ops. */
};
#define VFIOMIG_CHANNEL_OPTIONS_INIT VFIOMIG_INIT_(struct vfiomig_channel_options)

/* What a channel has done so far. */
struct vfiomig_channel_stats {
    uint32_t struct_size;      /* VFIOMIG_CHANNEL_STATS_INIT sets it. */
    uint32_t closed;           /* 1: the other side has closed it. */
    uint64_t sent_bytes;       /* Bytes sent, with headers and credits. */
    uint64_t sent_frames;      /* Frames and credits sent. */
    uint64_t received_bytes;   /* Bytes received, with headers and credits. */
    uint64_t received_frames;  /* Frames and credits received. */
    uint64_t blocked;          /* How often a frame had to wait because the connection took nothing
                                * more. */
};
#define VFIOMIG_CHANNEL_STATS_INIT VFIOMIG_INIT_(struct vfiomig_channel_stats)

/* Where a group is. */
struct vfiomig_group_status {
    uint32_t struct_size;      /* VFIOMIG_GROUP_STATUS_INIT sets it. */
    uint32_t phase;            /* VFIOMIG_GROUP_PHASE_*. */
    uint32_t num_devices;      /* How many devices it has. */
    uint32_t num_failed;       /* How many of them have failed: see vfiomig_group_get_failure(). */
    uint32_t num_complete;     /* How many streams are complete: read to their end, or loaded. */
    uint32_t reserved;         /* Zero. */
    uint8_t migration_id[16];  /* The name of the migration. */
    uint64_t held_bytes;       /* What the target keeps of frames that were not written yet, in
                                * bytes, with 128 bytes for each. */
    uint32_t num_drained;      /* Source: how many of the running devices had nothing left when they
                                * were last asked. */
    uint32_t num_channels;     /* How many channels it has. */
};
#define VFIOMIG_GROUP_STATUS_INIT VFIOMIG_INIT_(struct vfiomig_group_status)

/*
 * Makes a group, without devices. Its functions may be called from any number of threads, at the
 * same time, except in callbacks: there, a call that may have to wait for another device returns
 * -EBUSY.
 *
 * Errors: -EIO, -ENOMEM, -EFAULT, -EINVAL, -E2BIG, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_group_new(const struct vfiomig_group_options *options,
                      struct vfiomig_group **out) VFIOMIG_MUST_CHECK;

/*
 * Adds a device to a source. Its number in the group is how many were added before: the target adds
 * its devices in the same order. The options are those of vfiomig_save_begin(), and are read now;
 * the group replaces device_index and migration_id. Only VFIOMIG_FORMAT_NATIVE is possible. The
 * device's handle may be freed.
 *
 * States: setup.
 * Errors: -EBADF, -ENOMEM, -EFAULT, -EBUSY, -EINVAL, -E2BIG, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_add_save(struct vfiomig_group *group, struct vfiomig_device *device,
                           const struct vfiomig_save_options *options) VFIOMIG_MUST_CHECK;

/*
 * Adds a device to a target. Its number in the group is how many were added before. The options are
 * those of vfiomig_load_begin(), and are read now; the group replaces device_index and
 * migration_id, which are always checked. Only VFIOMIG_FORMAT_NATIVE is possible. The device's
 * handle may be freed.
 *
 * States: setup.
 * Errors: -EBADF, -ENOMEM, -EFAULT, -EBUSY, -EINVAL, -E2BIG, -EMSGSIZE, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_add_load(struct vfiomig_group *group, struct vfiomig_device *device,
                           const struct vfiomig_load_options *options) VFIOMIG_MUST_CHECK;

/*
 * Adds a connection to the other side. From then on, the group's frames and credits go over its
 * channels, and you move none by hand: threads in vfiomig_group_work() read devices, send, receive
 * and write devices, all at the same time, whatever is to be done. vfiomig_group_next() and
 * vfiomig_group_put() are refused. Any frame goes over any channel, so that one fast device can use
 * all of them, and a slow device or a slow channel does not hold up what goes over the others.
 * Needs a window (struct vfiomig_group_options).
 *
 * Channels are numbered in the order in which they are added; the two sides need not agree on it.
 * They can be added as long as the guest runs (on the target: until all streams are complete).
 * Nothing blocks on one, no SIGPIPE is raised, and its blocking mode is left alone. A channel that
 * fails, or that makes no progress for timeout_ms in the middle of a frame, ends the migration: the
 * functions return the error, which names it. Leave the connections open until the target has
 * committed. The options are released with the group, or at once if the call fails.
 *
 * States: setup, open.
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -EINVAL, -E2BIG, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_add_channel(struct vfiomig_group *group,
                              const struct vfiomig_channel_options *options) VFIOMIG_MUST_CHECK;

/*
 * Returns a file descriptor that can be polled for reading: it is readable while channels have
 * something for vfiomig_group_work(VFIOMIG_GROUP_UNTIL_IDLE), for a VMM with one thread and an
 * event loop. It covers what the channels can send and receive, and steps that other threads ask
 * for. It does not tell when a device is to be asked again, or a channel has been stuck for too
 * long. So poll for no longer than 10 ms on the source until all streams are complete (1 ms with
 * VFIOMIG_SAVE_NONBLOCK), and for no longer than a second on the target. The descriptor is the
 * group's: do not close it, or read from it.
 *
 * States: all.
 * Returns: A file descriptor.
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_get_work_fd(struct vfiomig_group *group);

/*
 * Returns what a channel has done so far.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_get_channel_stats(struct vfiomig_group *group, uint32_t channel,
                                    struct vfiomig_channel_stats *stats);

/*
 * Returns one reason why a device of the group cannot migrate, or not well, and the device's number
 * in *device. The index starts at 0, and the worst come first. What matters more in a group than
 * for the device alone has that severity: VFIOMIG_REASON_NO_P2P blocks a group of several devices,
 * unless VFIOMIG_GROUP_NO_PEER_TO_PEER is set.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENODATA, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_get_reason(struct vfiomig_group *group, uint32_t index, uint32_t *device,
                             struct vfiomig_reason *reason);

/*
 * Begins all saves, or all loads. If one does not begin, the group is over: on the source, the
 * devices run as before; on the target, those that had begun have been reset.
 *
 * States: setup.
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -EPROTO,
 *         -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_begin(struct vfiomig_group *group) VFIOMIG_MUST_CHECK;

/*
 * Returns the next frame to be sent. Source: one of any device that has something to send and that
 * no other thread is reading, at most cap bytes in buf, and their number in *len. Send it to the
 * target whole. The frames of one device must arrive there in the order of their offsets; it does
 * not matter how those of different devices follow each other. One connection keeps that order, if
 * one thread reads and sends; so does a connection per device. cap must be at least
 * VFIOMIG_MIN_BUFFER and VFIOMIG_GROUP_HEADER.
 *
 * With a window (struct vfiomig_group_options), frames may arrive in any order, so any number of
 * threads may read and send, each on a connection of its own. Then the target calls this function
 * too: it returns credits, which are short frames for vfiomig_group_put() of the source, and
 * DRAINED when there is none to be sent. Without a window, and for the source, what follows holds.
 *
 * VFIOMIG_NEXT_MORE: send the frame and call again. VFIOMIG_NEXT_DRAINED: *len is 0; the running
 * devices have nothing more for now, apart from those that other threads are reading. Come back on
 * a timer, or go on to vfiomig_group_stop(). VFIOMIG_NEXT_END: send the frame, if *len is not 0;
 * all streams are complete. Every later call returns VFIOMIG_NEXT_END as well, so several threads
 * learn of it.
 *
 * States: open.
 * Returns: VFIOMIG_NEXT_MORE, VFIOMIG_NEXT_DRAINED or VFIOMIG_NEXT_END.
 * Errors: -EPERM, -EIO, -EBADF, -EAGAIN, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY,
 *         -ENOSPC, -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_next(struct vfiomig_group *group, void *buf, size_t cap,
                       size_t *len) VFIOMIG_MUST_CHECK;

/*
 * Takes one whole frame that the other side has sent. On the target, what is in it is written to
 * its device; frames of different devices may be brought by different threads at the same time.
 * With a window (struct vfiomig_group_options), the frame is only kept, which waits for nothing,
 * and a thread in vfiomig_group_work() writes it. On the source, which takes credits, it only
 * counts. A frame that is refused because it is damaged, out of order or another migration's
 * changes nothing. If a load fails, its device has been reset, and the group has failed: abandon or
 * free it.
 *
 * What a frame has brought is in vfiomig_group_get_status() (num_complete) and
 * vfiomig_group_get_load_stats() (initial_generation, restarts).
 *
 * States: open.
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -ENODATA,
 *         -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_put(struct vfiomig_group *group, const void *frame,
                      size_t len) VFIOMIG_MUST_CHECK;

/*
 * Tells how long the frame is that begins with these bytes, of which there must be
 * VFIOMIG_GROUP_HEADER: for frames that are carried over a stream of bytes. The length includes the
 * header, and is at most VFIOMIG_GROUP_MAX_FRAME.
 *
 * Errors: -EFAULT, -EINVAL, -EPROTO, -EBADMSG, -EMSGSIZE, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_group_get_frame_len(const void *header, size_t header_len, size_t *len);

/*
 * Source: adds opaque data of the VMM's own to a device's stream: see vfiomig_save_add_blob(). It
 * needs a buffer of its length plus 40 bytes and VFIOMIG_GROUP_HEADER in vfiomig_group_next(), or
 * 32 more in an authenticated stream.
 *
 * States: open.
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -EPROTO,
 *         -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_add_blob(struct vfiomig_group *group, uint32_t device, uint32_t kind,
                           const void *data, size_t len) VFIOMIG_MUST_CHECK;

/*
 * Source: asks a device's driver how much is left: see vfiomig_save_get_pending(). Waits for a
 * thread that is reading the device.
 *
 * States: open.
 * Errors: -EPERM, -EBADF, -EFAULT, -EBUSY, -EINVAL, -ECANCELED, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_get_pending(struct vfiomig_group *group, uint32_t device,
                              struct vfiomig_pending *pending);

/*
 * Source: returns a file descriptor to poll for reading while the device has nothing for now: see
 * vfiomig_save_get_poll_fd(). Waits for a thread that is reading the device.
 *
 * States: open.
 * Returns: A file descriptor.
 * Errors: -EPERM, -EBADF, -EFAULT, -EBUSY, -EINVAL, -EOPNOTSUPP, -ECANCELED, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_get_poll_fd(struct vfiomig_group *group, uint32_t device);

/*
 * Source: stops all devices. All are quiesced before any is stopped. Stop the guest's vCPUs first.
 * Then call vfiomig_group_next() until VFIOMIG_NEXT_END.
 *
 * Before any device is touched, all are asked whether they have started their initial data again
 * (see vfiomig_save_stop()). If one has, the call returns -EAGAIN, nothing has happened, and you
 * may start the vCPUs and go on with vfiomig_group_next(). To insist, call again before that: it
 * does not refuse twice, and nor does it once a device has been quiesced.
 *
 * After any other error the group has failed: call vfiomig_group_finish() with VFIOMIG_ENDING_KEEP
 * before the vCPUs run.
 *
 * States: open.
 * Errors: -EPERM, -EIO, -EBADF, -EAGAIN, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY,
 *         -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_stop(struct vfiomig_group *group) VFIOMIG_MUST_CHECK;

/*
 * Source: ends all saves. VFIOMIG_ENDING_RELEASE: the target has committed, and the devices stay in
 * STOP; this needs all streams to be complete. If it fails for one device, the others are released
 * anyway; go on as if it had not failed. VFIOMIG_ENDING_KEEP: the guest goes on here. Each device
 * leaves the stopped states and, if any has been quiesced, waits in RUNNING_P2P: make the fix-ups,
 * then call vfiomig_group_run(), and start the vCPUs. VFIOMIG_ENDING_KEEP_STOPPED: the guest stays
 * here and does not run.
 *
 * If keeping fails, vfiomig_group_get_failure() says for each device what became of it. The group
 * has tried again where nothing was lost. After outcome RESET the guest's state in that device is
 * gone, and vfiomig_group_run() refuses to run any of them.
 *
 * States: open.
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -EPROTO,
 *         -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_finish(struct vfiomig_group *group, uint32_t ending) VFIOMIG_MUST_CHECK;

/*
 * Target: makes all drivers check and accept the state. If one refuses, all devices are reset, also
 * those that had accepted it, and the group is over: the source keeps the guest. If a device could
 * not be reset, the message says so; something of the guest may be left in it. If a stream is not
 * complete, the call returns -ENODATA and changes nothing.
 *
 * States: open.
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -ENODATA,
 *         -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_commit(struct vfiomig_group *group) VFIOMIG_MUST_CHECK;

/*
 * Target: gives up. All devices are reset, whether they were committed or not, so that nothing of
 * the guest is left in them. Also if they could not be run.
 *
 * States: open, ended.
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -EOPNOTSUPP,
 *         -ETIMEDOUT, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_abandon(struct vfiomig_group *group) VFIOMIG_MUST_CHECK;

/*
 * Runs all devices: on the target after the commit; on the source after VFIOMIG_ENDING_KEEP, or to
 * take a released guest back. All leave the stopped states before any runs. Make the fix-ups of
 * each first (vfiomig_device_get_fixups()), and start the vCPUs afterwards.
 *
 * If a device does not run, none does: all are stopped, and those that do not stop are reset. Do
 * not start the vCPUs. On the target, tell the source, which may take the guest back, and abandon
 * the group. If the message says that a device could not be halted either, it may be running. The
 * exception is a source that was kept before any device was quiesced: its guest runs anyway, and so
 * do the other devices.
 *
 * States: ended.
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -EOPNOTSUPP,
 *         -ETIMEDOUT, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_run(struct vfiomig_group *group) VFIOMIG_MUST_CHECK;

/*
 * Lends the calling thread to the group. The library starts no threads: a call that has all devices
 * take a step (begin, stop, finish, commit, abandon, run) takes it with one after the other, unless
 * threads that are in this function take some of them at the same time.
 * VFIOMIG_GROUP_UNTIL_DISMISSED: stays until vfiomig_group_dismiss(), also if the group fails.
 * VFIOMIG_GROUP_UNTIL_IDLE: returns when there is nothing to do now. What becomes of a step is
 * returned by the call that asked for it.
 *
 * With a window, these threads also write what has come to the target. As many of them as there are
 * devices keep a slow one from holding up another. VFIOMIG_GROUP_UNTIL_FRAME: returns when
 * vfiomig_group_next() has something to return, for a thread that sends.
 *
 * With channels (vfiomig_group_add_channel()), they also read the source's devices and serve the
 * channels. Lend as many as there are devices, and one more: each device keeps at most one of them
 * busy, and the others go on. VFIOMIG_GROUP_UNTIL_DRAINED and VFIOMIG_GROUP_UNTIL_COMPLETE tell how
 * far the streams are. VFIOMIG_GROUP_UNTIL_IDLE may return before everything is done;
 * vfiomig_group_get_work_fd() is then still readable.
 *
 * States: all.
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -ENODATA,
 *         -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_work(struct vfiomig_group *group, uint32_t until);

/*
 * Sends away the threads that are in vfiomig_group_work(). From then on it returns at once. Steps
 * are still possible.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_dismiss(struct vfiomig_group *group);

/*
 * Cancels the migration, like vfiomig_save_cancel() or vfiomig_load_cancel() for each device. Calls
 * in progress return -ECANCELED as soon as the drivers let them, and so do later calls, except
 * those that keep, abandon, run or ask. Then finish with VFIOMIG_ENDING_KEEP, abandon, or free the
 * group. What was committed can still be run, and a source whose streams were complete can still be
 * released.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_cancel(struct vfiomig_group *group);

/*
 * Returns where the group is.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_get_status(struct vfiomig_group *group, struct vfiomig_group_status *status);

/*
 * Source: returns what the save of a device has done so far.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENODATA, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_get_save_stats(struct vfiomig_group *group, uint32_t device,
                                 struct vfiomig_save_stats *stats);

/*
 * Target: returns what the load of a device has done so far.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENODATA, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_get_load_stats(struct vfiomig_group *group, uint32_t device,
                                 struct vfiomig_load_stats *stats);

/*
 * Returns the group's estimate, which is fed with what the group measures: how long devices take to
 * be read, written and taken from one state to another, and what vfiomig_group_get_pending()
 * returns. Its clock is CLOCK_MONOTONIC. Call vfiomig_group_get_pending() for each device before a
 * prediction. What only the VMM knows it tells with vfiomig_estimate_observe(): how long sending
 * takes, how many threads serve the group, and what the target says. On the target,
 * vfiomig_estimate_export() has what the source needs. Free the handle with
 * vfiomig_estimate_free(), before the group or after it.
 *
 * States: all.
 * Errors: -EBADF, -ENOMEM, -EFAULT, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_get_estimate(struct vfiomig_group *group,
                               struct vfiomig_estimate **out) VFIOMIG_MUST_CHECK;

/*
 * Returns what was going on when this device of the group last failed; code is 0 if it has not.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_get_failure(struct vfiomig_group *group, uint32_t device,
                              struct vfiomig_failure *failure);

/*
 * Writes what happened to the group and to all of its devices last into buf, in the order of time:
 * as vfiomig_device_get_history() does for one device, with the device's number in each line. It
 * begins with a line for the group and one for each device. VFIOMIG_HISTORY_BYTES for each device
 * and once more are always enough. Waits for nobody.
 *
 * States: all.
 * Errors: -EBADF, -ENOMEM, -EFAULT, -EINVAL, -ENOSPC, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_get_history(struct vfiomig_group *group, uint32_t format, void *buf, size_t cap,
                              size_t *len);

/*
 * Returns a file descriptor that can be polled for reading: it is readable while
 * vfiomig_group_next_event() has something to return, for a VMM's event loop. What happens to the
 * group and its devices is queued from the first call on, in memory that is there from then on: for
 * 64 events, and 32 for each device. So call it right after vfiomig_group_new(). The descriptor is
 * the group's: do not close it, or read from it, and poll it no more once the group is freed.
 *
 * States: all.
 * Returns: A file descriptor.
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_get_event_fd(struct vfiomig_group *group);

/*
 * Returns the oldest event of the group and its devices that was not returned yet: changes of state
 * and of the group's phase, initial data loaded, rounds, ends of streams, errors, resets, and what
 * the group's estimate says when vfiomig_estimate_decide() is called and that is new.
 * docs/events.md has the list. -EAGAIN: there is none.
 *
 * Any thread may call it, also in callbacks; each event is returned once. It needs no memory, and
 * waits for nobody for longer than one event is copied. If nobody calls it, the oldest events are
 * dropped, and the next one that is returned says how many. Rounds, verdicts and equal errors that
 * follow each other take one place until they are returned.
 *
 * States: all.
 * Errors: -EBADF, -EAGAIN, -EFAULT, -EINVAL, -ENODATA, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_group_next_event(struct vfiomig_group *group, struct vfiomig_event *event);

/*
 * Frees a group. NULL is ignored. It is cancelled first, and calls on other threads are waited for.
 * A source that was not finished keeps its devices, which run again as before, none before all have
 * left the stopped states, unless one has lost its guest's state. A target that was not committed
 * resets its devices. In a callback, freeing has no effect while a call is using the group, or
 * while sessions are open.
 *
 * Since: 0.1.
 */
void vfiomig_group_free(struct vfiomig_group *group);

/* Taking checkpoints
 * ------------------ */

/* A checkpoint that is being taken. */
struct vfiomig_checkpoint;

/* Flags of struct vfiomig_checkpoint_options. */
#define VFIOMIG_CHECKPOINT_NOT_DURABLE (1 << 0)  /* The file need not survive a loss of power. */

/* Room for a device's name, in bytes. */
#define VFIOMIG_CHECKPOINT_NAME_SIZE 64  /* The longest name of a device in a checkpoint, in bytes,
                                          * with its NUL. */

/* How the guest goes on: vfiomig_checkpoint_resume(). */
#define VFIOMIG_CHECKPOINT_RESUME         0  /* The guest goes on: its devices go back to where they
                                              * were. */
#define VFIOMIG_CHECKPOINT_RESUME_STOPPED 1  /* The guest stays here and does not run: its devices
                                              * go to STOP. */

/* How a checkpoint is taken; NULL for the defaults. */
struct vfiomig_checkpoint_options {
    uint32_t struct_size;             /* VFIOMIG_CHECKPOINT_OPTIONS_INIT sets it. */
    uint32_t flags;                   /* Bitwise OR of VFIOMIG_CHECKPOINT_NOT_DURABLE, or 0. */
    uint64_t generation;              /* A number of the VMM's own, which the file carries. */
    uint64_t created_ns;              /* When it was taken, in nanoseconds since 1970 UTC; 0:
                                       * now. */
    uint64_t spool_bytes;             /* What stopped devices say goes to memory of at most so many
                                       * bytes first, and to the file when they are back. What does
                                       * not fit goes to the file at once. 0: all of it. */
    const struct vfiomig_auth *auth;  /* Authenticates the streams and the file; NULL: nobody can
                                       * tell who has made it. */
    const void *note;                 /* Data of the VMM's own, which the file carries, for example
                                       * which image of the memory belongs to it. It is copied. */
    uint32_t note_len;                /* Its length in bytes, at most 4096. */
    uint32_t reserved;                /* Zero. */
};
#define VFIOMIG_CHECKPOINT_OPTIONS_INIT VFIOMIG_INIT_(struct vfiomig_checkpoint_options)

/* What has been done so far. Times are in nanoseconds. */
struct vfiomig_checkpoint_stats {
    uint32_t struct_size;     /* VFIOMIG_CHECKPOINT_STATS_INIT sets it. */
    uint32_t reserved;        /* Zero. */
    uint64_t stream_bytes;    /* Bytes of streams that were read from devices, or from the file. */
    uint64_t stopped_bytes;   /* Part of it that was read from stopped devices. */
    uint64_t spooled_bytes;   /* Part of it that went to memory first. */
    uint64_t file_bytes;      /* Bytes that were written to the file. */
    uint64_t expected_bytes;  /* How many bytes of streams there will be, as far as the drivers
                               * know. */
    uint64_t stop_ns;         /* Time that the devices took to stop. */
    uint64_t read_ns;         /* Time that the stopped devices were read. */
    uint64_t pause_ns;        /* Time from the beginning of vfiomig_checkpoint_stop() to the end of
                               * vfiomig_checkpoint_resume(). */
};
#define VFIOMIG_CHECKPOINT_STATS_INIT VFIOMIG_INIT_(struct vfiomig_checkpoint_stats)

/*
 * Begins to take a checkpoint, which will be the file path. A relative path begins at the directory
 * dir_fd, or where the process is (AT_FDCWD). Nothing has this name before
 * vfiomig_checkpoint_commit(), and what has it now stays as it is until then. Meanwhile the file
 * has a temporary name in the same directory: the final one with a dot before it and ".vfiomig-tmp"
 * behind it. A process that dies leaves it there, and the next checkpoint of that name removes it.
 *
 * Then add the devices with vfiomig_checkpoint_add() and call vfiomig_checkpoint_read() while the
 * guest runs; stop the vCPUs; vfiomig_checkpoint_stop(); fix what the guest's memory is;
 * vfiomig_checkpoint_read(); vfiomig_checkpoint_resume(); start the vCPUs;
 * vfiomig_checkpoint_commit(). docs/checkpointing.md has the reasons.
 *
 * Errors: -EPERM, -EIO, -ENOMEM, -EFAULT, -EBUSY, -EINVAL, -ENOSPC, -E2BIG, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_checkpoint_begin(int dir_fd, const char *path,
                             const struct vfiomig_checkpoint_options *options,
                             struct vfiomig_checkpoint **out) VFIOMIG_MUST_CHECK;

/*
 * Adds a device under a name of the VMM's, of 1 to 63 bytes, and begins to save it: to PRE_COPY, if
 * it has that. The options are those of vfiomig_save_begin(): the format is the native one, and
 * auth is NULL, because the checkpoint's options have that. With several devices, each has a
 * device_index of its own: two that have the same one and the same migration_id, other than zeros,
 * are refused. A device that is in STOP stays there.
 *
 * States: running.
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -ENOSPC,
 *         -E2BIG, -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_checkpoint_add(struct vfiomig_checkpoint *checkpoint, struct vfiomig_device *device,
                           const char *name,
                           const struct vfiomig_save_options *options) VFIOMIG_MUST_CHECK;

/*
 * While the guest runs: reads what the devices have for now and writes it to the file, and finds
 * room for what they will say when they are stopped. It may be called again, but once is enough.
 * After vfiomig_checkpoint_stop(): reads all that is left, which is most of the pause. With
 * spool_bytes it goes to memory, otherwise to the file.
 *
 * If it fails, there will be no file, and an earlier one stays: call vfiomig_checkpoint_resume() if
 * the devices are stopped, and free the checkpoint.
 *
 * States: running, stopped.
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -ENOSPC,
 *         -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_checkpoint_read(struct vfiomig_checkpoint *checkpoint) VFIOMIG_MUST_CHECK;

/*
 * Stops the devices: all are quiesced, then all are stopped. Stop the guest's vCPUs first. After an
 * error as well, call vfiomig_checkpoint_resume() before the vCPUs run.
 *
 * States: running.
 * Errors: -EPERM, -EIO, -EBADF, -EAGAIN, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY,
 *         -ENOSPC, -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_checkpoint_stop(struct vfiomig_checkpoint *checkpoint) VFIOMIG_MUST_CHECK;

/*
 * Gives the devices back, whatever has happened so far. VFIOMIG_CHECKPOINT_RESUME: the guest goes
 * on, and the devices go to where they were; several wait for each other in RUNNING_P2P, if they
 * have that state. VFIOMIG_CHECKPOINT_RESUME_STOPPED: they go to STOP. No reset is needed, so there
 * are no fix-ups. An error of this call is one of a device: what vfiomig_save_finish() says of
 * VFIOMIG_ENDING_KEEP holds, and vfiomig_device_get_failure() says which device it was and what
 * became of it. An error of the checkpoint's file is returned by vfiomig_checkpoint_commit().
 *
 * States: running, stopped, complete.
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -EOPNOTSUPP,
 *         -ETIMEDOUT, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_checkpoint_resume(struct vfiomig_checkpoint *checkpoint,
                              uint32_t how) VFIOMIG_MUST_CHECK;

/*
 * Completes the file and gives it its name: writes what is in memory, and the manifest, has the
 * disk write all of it, renames it, and has the disk write the directory. An earlier file of that
 * name is replaced at once and as a whole. After an error it is still there, unless the message
 * says that the new one is in its place and may not survive a loss of power. Then free the
 * checkpoint.
 *
 * States: resumed.
 * Errors: -EPERM, -EIO, -EBADF, -EAGAIN, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY,
 *         -ENOSPC, -ENODATA, -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT,
 *         -ECANCELED, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_checkpoint_commit(struct vfiomig_checkpoint *checkpoint) VFIOMIG_MUST_CHECK;

/*
 * Cancels the checkpoint. The call in progress returns -ECANCELED as soon as the driver or the disk
 * lets it, and so do later ones. Only vfiomig_checkpoint_resume() works as before: it brings the
 * devices back. May be called from any thread at any time while the handle lives.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_checkpoint_cancel(struct vfiomig_checkpoint *checkpoint);

/*
 * Returns what has been done so far. May be called from any thread at any time while the handle
 * lives.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_checkpoint_get_stats(struct vfiomig_checkpoint *checkpoint,
                                 struct vfiomig_checkpoint_stats *stats);

/*
 * Frees a checkpoint. NULL is ignored. One that was not committed is given up: its devices go back
 * to where they were, and nothing of it is left. Waits for a call on another thread. Freeing a
 * handle from a callback while a call is using it or its device has no effect.
 *
 * Since: 0.1.
 */
void vfiomig_checkpoint_free(struct vfiomig_checkpoint *checkpoint);

/* Restoring from checkpoints
 * -------------------------- */

/* A checkpoint that is being read. */
struct vfiomig_restore;

/* Flags of struct vfiomig_restore_info. */
#define VFIOMIG_RESTORE_AUTHENTICATED (1 << 0)  /* The file is authenticated. */

/* All devices of a checkpoint. */
#define VFIOMIG_RESTORE_ALL UINT32_MAX  /* All devices of a checkpoint: vfiomig_restore_verify(). */

/* How a checkpoint is read; NULL for the defaults. */
struct vfiomig_restore_options {
    uint32_t struct_size;                 /* VFIOMIG_RESTORE_OPTIONS_INIT sets it. */
    uint32_t reserved;                    /* Zero. */
    uint64_t staged_bytes;                /* A stream of at most so many bytes is copied to memory
                                           * while it is verified, and loaded from there: then
                                           * neither a disk nor another process can spoil it after
                                           * the device has lost what it held. 0: none. */
    const struct vfiomig_auth *auth;      /* Verifies who has made the file; NULL: an authenticated
                                           * one is refused. */
    const struct vfiomig_limits *limits;  /* What its streams may ask for; NULL: the defaults. */
};
#define VFIOMIG_RESTORE_OPTIONS_INIT VFIOMIG_INIT_(struct vfiomig_restore_options)

/* What a checkpoint is. */
struct vfiomig_restore_info {
    uint32_t struct_size;  /* VFIOMIG_RESTORE_INFO_INIT sets it. */
    uint32_t flags;        /* Bitwise OR of VFIOMIG_RESTORE_AUTHENTICATED, or 0. */
    uint8_t id[16];        /* Its name: random bytes. */
    uint64_t generation;   /* The number that its VMM gave it. */
    uint64_t created_ns;   /* When it was taken, in nanoseconds since 1970 UTC, by the clock of its
                            * host; 0: not known. */
    uint32_t num_devices;  /* How many devices it has. */
    uint32_t note_len;     /* The length of the note, in bytes. */
    uint32_t key_id;       /* With VFIOMIG_RESTORE_AUTHENTICATED: the key's id. */
    uint32_t reserved;     /* Zero. */
};
#define VFIOMIG_RESTORE_INFO_INIT VFIOMIG_INIT_(struct vfiomig_restore_info)

/* A device of a checkpoint. */
struct vfiomig_restore_device {
    uint32_t struct_size;                     /* VFIOMIG_RESTORE_DEVICE_INIT sets it. */
    uint32_t device_index;                    /* Its number within its VM. */
    uint8_t migration_id[16];                 /* The name of its stream. */
    uint64_t stream_bytes;                    /* Length of its stream in bytes. */
    uint64_t data_bytes;                      /* Bytes of device data in it. */
    char name[VFIOMIG_CHECKPOINT_NAME_SIZE];  /* The name that its VMM gave it, with a NUL at its
                                               * end. */
};
#define VFIOMIG_RESTORE_DEVICE_INIT VFIOMIG_INIT_(struct vfiomig_restore_device)

/*
 * Opens the checkpoint path and verifies its manifest. A relative path begins at the directory
 * dir_fd, or where the process is (AT_FDCWD). The streams are verified when a device is loaded, or
 * by vfiomig_restore_verify(). The file may be replaced meanwhile, which this handle does not
 * notice; it must not be changed.
 *
 * All calls with the handle may be made from several threads at once.
 *
 * Errors: -EPERM, -EIO, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -E2BIG, -ENODATA,
 *         -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ECANCELED, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_restore_open(int dir_fd, const char *path,
                         const struct vfiomig_restore_options *options,
                         struct vfiomig_restore **out) VFIOMIG_MUST_CHECK;

/*
 * Returns what the checkpoint is.
 *
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_restore_get_info(struct vfiomig_restore *restore, struct vfiomig_restore_info *info);

/*
 * Copies the VMM's note into buf, which has room for cap bytes, and its length into *len: at most
 * 4096 bytes.
 *
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENOSPC, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_restore_get_note(struct vfiomig_restore *restore, void *buf, size_t cap, size_t *len);

/*
 * Returns what the checkpoint says of its device number index, from 0.
 *
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENODATA, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_restore_get_device(struct vfiomig_restore *restore, uint32_t index,
                               struct vfiomig_restore_device *device);

/*
 * Returns what the checkpoint's device number index was, from 0: what vfiomig_compat_judge() takes
 * as the source.
 *
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENODATA, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_restore_get_identity(struct vfiomig_restore *restore, uint32_t index,
                                 struct vfiomig_identity *identity);

/*
 * Verifies the whole stream of device number index, from 0, or those of all devices
 * (VFIOMIG_RESTORE_ALL).
 *
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -ENODATA,
 *         -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ECANCELED, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_restore_verify(struct vfiomig_restore *restore, uint32_t index) VFIOMIG_MUST_CHECK;

/*
 * Loads a device with the state that the device of this name had. First it is judged whether it may
 * take that, then the whole stream is verified, if that has not been done, and only then the device
 * is taken to RESUMING, which loses what it held. Where the limits of the options are stricter than
 * those of vfiomig_restore_open(), the stream is verified again with them, and one with blobs is
 * refused before anything happens if no callback takes them. Stop the guest's vCPUs first, if there
 * is a guest. Afterwards the device is in STOP: make the fix-ups of vfiomig_device_get_fixups() and
 * call vfiomig_device_run(). After an error in vfiomig_device_get_failure(), its outcome says
 * whether the device was reset; if code there is 0, nothing has happened to it.
 *
 * The options are those of vfiomig_load_begin(). Format, auth and source are left open: they are
 * the checkpoint's. One checkpoint can be loaded into any number of devices, from several threads
 * at once. What the guest must change in a copy of itself is in docs/checkpointing.md.
 *
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -ENOSPC,
 *         -E2BIG, -ENODATA, -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT,
 *         -ECANCELED, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_restore_load(struct vfiomig_restore *restore, const char *name,
                         struct vfiomig_device *device,
                         const struct vfiomig_load_options *options) VFIOMIG_MUST_CHECK;

/*
 * Cancels all calls with this handle that read the file: they return -ECANCELED, and so do later
 * ones. A device that is being loaded is reset.
 *
 * Errors: -EBADF, -EFAULT, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_restore_cancel(struct vfiomig_restore *restore);

/*
 * Returns how much of the file has been read so far: stream_bytes; the other members are 0.
 *
 * Errors: -EBADF, -EFAULT, -EINVAL, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_restore_get_stats(struct vfiomig_restore *restore,
                              struct vfiomig_checkpoint_stats *stats);

/*
 * Closes a checkpoint. NULL is ignored. Calls that other threads are inside of go on to their end.
 *
 * Since: 0.1.
 */
void vfiomig_restore_free(struct vfiomig_restore *restore);

/* The handover between the two sides
 * ---------------------------------- */

/* One side of a handover. */
struct vfiomig_handover;

/* Sides: struct vfiomig_handover_options.role. */
#define VFIOMIG_HANDOVER_ROLE_SOURCE 1  /* The guest leaves this side. */
#define VFIOMIG_HANDOVER_ROLE_TARGET 2  /* The guest arrives at this side. */

/* What vfiomig_handover_notify() tells. */
#define VFIOMIG_HANDOVER_EVENT_CONNECTED      1   /* There is a connection to the other side, the
                                                   * first one or another one. */
#define VFIOMIG_HANDOVER_EVENT_CUT            2   /* The connection is gone, or the other side has
                                                   * been silent for too long. */
#define VFIOMIG_HANDOVER_EVENT_TICK           3   /* wait_ms of VFIOMIG_HANDOVER_ACTION_WAIT have
                                                   * passed. */
#define VFIOMIG_HANDOVER_EVENT_JUDGED         4   /* Target: the devices were compared; value is 0
                                                   * if they match, or a code that says why not. */
#define VFIOMIG_HANDOVER_EVENT_INITIAL_SENT   5   /* Source: generation value of the device's
                                                   * initial data must be loaded before the
                                                   * switchover; 0 for none. */
#define VFIOMIG_HANDOVER_EVENT_INITIAL_LOADED 6   /* Target: generation value of the device's
                                                   * initial data is loaded. */
#define VFIOMIG_HANDOVER_EVENT_SWITCHOVER     7   /* Source: the guest could be stopped now. */
#define VFIOMIG_HANDOVER_EVENT_RESUMED        8   /* Source: the switchover is off, and pre-copy
                                                   * goes on. */
#define VFIOMIG_HANDOVER_EVENT_ENDED          9   /* The device's stream is complete: sent, or
                                                   * received. Before the last one, so is the
                                                   * guest's memory. */
#define VFIOMIG_HANDOVER_EVENT_COMMITTED      10  /* Target: every device was committed. */
#define VFIOMIG_HANDOVER_EVENT_RELEASED       11  /* Source: the guest is given up here. */
#define VFIOMIG_HANDOVER_EVENT_KEPT           12  /* Source: the devices were kept, and the guest
                                                   * runs here. */
#define VFIOMIG_HANDOVER_EVENT_RUNNING        13  /* The guest runs here, as
                                                   * VFIOMIG_HANDOVER_ACTION_RUN asked. */
#define VFIOMIG_HANDOVER_EVENT_RESET          14  /* Target: the loads were abandoned and the
                                                   * devices reset. */
#define VFIOMIG_HANDOVER_EVENT_FAILED         15  /* What an action asked for failed, or something
                                                   * else did; value is a code, such as -errno. */

/* What vfiomig_handover_next() asks for. */
#define VFIOMIG_HANDOVER_ACTION_NOTHING 0   /* Nothing now: report the next event. */
#define VFIOMIG_HANDOVER_ACTION_SEND    1   /* Send the message_len bytes at message, as one
                                             * message. */
#define VFIOMIG_HANDOVER_ACTION_WAIT    2   /* Report VFIOMIG_HANDOVER_EVENT_TICK after wait_ms. It
                                             * replaces an earlier wait. */
#define VFIOMIG_HANDOVER_ACTION_JUDGE   3   /* Target: compare the devices:
                                             * VFIOMIG_HANDOVER_EVENT_JUDGED. */
#define VFIOMIG_HANDOVER_ACTION_BEGIN   4   /* Begin the saves, or the loads. */
#define VFIOMIG_HANDOVER_ACTION_STOP    5   /* Source: stop the guest and its devices, and send the
                                             * rest: VFIOMIG_HANDOVER_EVENT_ENDED. */
#define VFIOMIG_HANDOVER_ACTION_COMMIT  6   /* Target: commit every device:
                                             * VFIOMIG_HANDOVER_EVENT_COMMITTED. */
#define VFIOMIG_HANDOVER_ACTION_RELEASE 7   /* Source: release every device:
                                             * VFIOMIG_HANDOVER_EVENT_RELEASED. */
#define VFIOMIG_HANDOVER_ACTION_KEEP    8   /* Source: keep every device and run the guest:
                                             * VFIOMIG_HANDOVER_EVENT_KEPT. */
#define VFIOMIG_HANDOVER_ACTION_RUN     9   /* Run the devices and the guest:
                                             * VFIOMIG_HANDOVER_EVENT_RUNNING. */
#define VFIOMIG_HANDOVER_ACTION_RESET   10  /* Target: free the loads, and stop or reset every
                                             * device: VFIOMIG_HANDOVER_EVENT_RESET. */
#define VFIOMIG_HANDOVER_ACTION_FENCE   11  /* The guest may be on either side: connect again, or
                                             * fence the other side. */
#define VFIOMIG_HANDOVER_ACTION_OUTCOME 12  /* The outcome is final: vfiomig_handover_get_outcome()
                                             * has it. Comes once. */

/* Where the guest is: struct vfiomig_handover_outcome. */
#define VFIOMIG_HANDOVER_OUTCOME_PENDING   0  /* Not over: until it is, the source owns the
                                               * guest. */
#define VFIOMIG_HANDOVER_OUTCOME_ON_TARGET 1  /* The guest runs on the target. */
#define VFIOMIG_HANDOVER_OUTCOME_ON_SOURCE 2  /* The guest is the source's. */
#define VFIOMIG_HANDOVER_OUTCOME_LOST      3  /* The guest runs nowhere, and cannot go on where it
                                               * was. */
#define VFIOMIG_HANDOVER_OUTCOME_UNDECIDED 4  /* The guest may be on either side. Not final. */

/* ... and why. */
#define VFIOMIG_HANDOVER_REASON_NONE          0   /* Nothing went wrong. */
#define VFIOMIG_HANDOVER_REASON_CANCELLED     1   /* The migration was cancelled. */
#define VFIOMIG_HANDOVER_REASON_FAILED        2   /* Something failed: code is what
                                                   * VFIOMIG_HANDOVER_EVENT_FAILED brought. */
#define VFIOMIG_HANDOVER_REASON_INCOMPATIBLE  3   /* The devices do not match: code is what
                                                   * VFIOMIG_HANDOVER_EVENT_JUDGED brought. */
#define VFIOMIG_HANDOVER_REASON_OTHER_KEY     4   /* The two sides have different keys. */
#define VFIOMIG_HANDOVER_REASON_OTHER_DEVICES 5   /* The two sides have different numbers of
                                                   * devices. */
#define VFIOMIG_HANDOVER_REASON_SUPERSEDED    6   /* The source has begun another attempt. */
#define VFIOMIG_HANDOVER_REASON_FENCED        7   /* The other side was fenced. */
#define VFIOMIG_HANDOVER_REASON_MAY_HAVE_RUN  8   /* The other side was fenced, and may have run the
                                                   * guest before: what this side has of it is
                                                   * old. */
#define VFIOMIG_HANDOVER_REASON_STUCK         9   /* The guest cannot be run here: code is what
                                                   * VFIOMIG_HANDOVER_EVENT_FAILED brought. On a
                                                   * target it may still be running. */
#define VFIOMIG_HANDOVER_REASON_CUT           10  /* The connection broke at a moment when the guest
                                                   * may be on either side. */

/* Flags of struct vfiomig_handover_outcome. */
#define VFIOMIG_HANDOVER_BY_PEER (1 << 0)  /* The reason is the other side's. */
#define VFIOMIG_HANDOVER_SETTLED (1 << 1)  /* The other side knows the outcome too, so nothing is
                                            * left to be sent. */

/* What the fencer of the other side knows: vfiomig_handover_peer_fenced(). */
#define VFIOMIG_HANDOVER_FENCE_MAY_HAVE_RUN 0  /* The guest may have run there after it was stopped
                                                * on the source. */
#define VFIOMIG_HANDOVER_FENCE_DID_NOT_RUN  1  /* The guest certainly has not run there since it was
                                                * stopped on the source. */

/* Sizes of a handover. */
#define VFIOMIG_HANDOVER_HEADER       36     /* How a message begins, in bytes: what
                                              * vfiomig_handover_get_message_len() needs. */
#define VFIOMIG_HANDOVER_MAX_MESSAGE  65536  /* The longest message, in bytes. */
#define VFIOMIG_HANDOVER_MAX_IDENTITY 8192   /* The longest description of a device, in bytes: any
                                              * that vfiomig_identity_export() makes fits. */
#define VFIOMIG_HANDOVER_MAX_DEVICES  256    /* The most devices of one guest. */

/* What both sides agree on before a handover begins. */
struct vfiomig_handover_options {
    uint32_t struct_size;      /* VFIOMIG_HANDOVER_OPTIONS_INIT sets it. */
    uint32_t role;             /* VFIOMIG_HANDOVER_ROLE_SOURCE or VFIOMIG_HANDOVER_ROLE_TARGET. */
    uint8_t migration_id[16];  /* Identifies the migration: the same on both sides, another one for
                                * each migration, not zeros. */
    uint8_t key_id[16];        /* Identifies the key that the streams are authenticated with, or
                                * zeros. Never the key itself. */
    uint32_t attempt;          /* Which attempt at this migration this is, from 1. No two have the
                                * same number. */
    uint32_t num_devices;      /* How many devices the guest has: 1 to
                                * VFIOMIG_HANDOVER_MAX_DEVICES. */
    uint32_t repeat_ms;        /* After how many milliseconds a message without an answer is sent
                                * again; default 200. */
    uint32_t reserved;         /* Zero. */
};
#define VFIOMIG_HANDOVER_OPTIONS_INIT VFIOMIG_INIT_(struct vfiomig_handover_options)

/* What to do next. */
struct vfiomig_handover_action {
    uint32_t struct_size;  /* VFIOMIG_HANDOVER_ACTION_INIT sets it. */
    uint32_t action;       /* VFIOMIG_HANDOVER_ACTION_*. */
    uint32_t wait_ms;      /* Of VFIOMIG_HANDOVER_ACTION_WAIT: how long, in milliseconds. */
    uint32_t message_len;  /* Of VFIOMIG_HANDOVER_ACTION_SEND: how many bytes. */
    const void *message;   /* ... and where. The memory is the library's, until the next call with
                            * this handle. */
};
#define VFIOMIG_HANDOVER_ACTION_INIT VFIOMIG_INIT_(struct vfiomig_handover_action)

/* Where the guest is, and why. */
struct vfiomig_handover_outcome {
    uint32_t struct_size;  /* VFIOMIG_HANDOVER_OUTCOME_INIT sets it. */
    uint32_t outcome;      /* VFIOMIG_HANDOVER_OUTCOME_*. */
    uint32_t reason;       /* VFIOMIG_HANDOVER_REASON_*. */
    int32_t code;          /* What belongs to the reason; else 0. */
    uint32_t flags;        /* Bitwise OR of VFIOMIG_HANDOVER_BY_PEER and
                            * VFIOMIG_HANDOVER_SETTLED. */
    uint32_t reserved;     /* Zero. */
};
#define VFIOMIG_HANDOVER_OUTCOME_INIT VFIOMIG_INIT_(struct vfiomig_handover_outcome)

/*
 * Makes one side of a handover, for one attempt at a migration. It does nothing by itself: tell it
 * what has happened, and ask vfiomig_handover_next() what to do.
 *
 * Errors: -ENOMEM, -EFAULT, -EINVAL, -E2BIG, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_handover_new(const struct vfiomig_handover_options *options,
                         struct vfiomig_handover **out) VFIOMIG_MUST_CHECK;

/*
 * Source: describes a device, by its number from 0. The target is sent the description and compares
 * it with its own device. The library does not look into it. Possible until the first message was
 * taken from vfiomig_handover_next(). All descriptions together must fit into a message.
 *
 * States: all.
 * Errors: -EBADF, -ENOMEM, -EFAULT, -EBUSY, -EINVAL, -EMSGSIZE, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_handover_set_identity(struct vfiomig_handover *handover, uint32_t device,
                                  const void *identity, size_t len) VFIOMIG_MUST_CHECK;

/*
 * Copies what the source has said that a device is; on the source, what it says. *len is 0 if
 * nothing was said. This is a claim, not a proof. A buffer of VFIOMIG_HANDOVER_MAX_IDENTITY is
 * always large enough.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENOSPC, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_handover_get_identity(struct vfiomig_handover *handover, uint32_t device, void *buf,
                                  size_t cap, size_t *len);

/*
 * Returns which generation of a device's initial data the target has loaded; 0 if none. On the
 * source, this is what the target has said last.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_handover_get_initial_loaded(struct vfiomig_handover *handover, uint32_t device,
                                        uint64_t *generation);

/*
 * Tells what has happened: VFIOMIG_HANDOVER_EVENT_*. device and value are used by the events that
 * say so; otherwise they are ignored. Then ask vfiomig_handover_next() until there is nothing to
 * do. An event that is refused changes nothing.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_handover_notify(struct vfiomig_handover *handover, uint32_t event, uint32_t device,
                            int64_t value) VFIOMIG_MUST_CHECK;

/*
 * Takes one whole message that the other side has sent. Messages may be lost, repeated, and come in
 * any order; those of another attempt have no effect. One that is refused changes nothing: drop it,
 * or cut the connection.
 *
 * States: all.
 * Errors: -EBADF, -ENOMEM, -EFAULT, -EBUSY, -EINVAL, -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV,
 *         -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_handover_receive(struct vfiomig_handover *handover, const void *message,
                             size_t len) VFIOMIG_MUST_CHECK;

/*
 * Tells how long the message is that begins with these bytes, of which there must be
 * VFIOMIG_HANDOVER_HEADER: for messages that are carried over a stream of bytes. The length is at
 * most VFIOMIG_HANDOVER_MAX_MESSAGE.
 *
 * Errors: -EFAULT, -EINVAL, -EPROTO, -EMSGSIZE, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_handover_get_message_len(const void *header, size_t header_len, size_t *len);

/*
 * Returns what to do next. Carry it out and ask again, until it is VFIOMIG_HANDOVER_ACTION_NOTHING.
 * An action that has a result is not followed by another such action before the result was reported
 * with vfiomig_handover_notify(); messages and waits may still follow.
 *
 * States: all.
 * Errors: -EBADF, -ENOMEM, -EFAULT, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_handover_next(struct vfiomig_handover *handover,
                          struct vfiomig_handover_action *action) VFIOMIG_MUST_CHECK;

/*
 * Tells that the other side does not run the guest and never will, because it was switched off, or
 * cut off from the guest's disks and memory. fence is what the fencer knows of the time since the
 * guest was stopped on the source: VFIOMIG_HANDOVER_FENCE_DID_NOT_RUN or
 * VFIOMIG_HANDOVER_FENCE_MAY_HAVE_RUN. If the link does not return after "go" may have left, this
 * is the only way out. If what is said here is not so, the guest may run twice.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_handover_peer_fenced(struct vfiomig_handover *handover,
                                 uint32_t fence) VFIOMIG_MUST_CHECK;

/*
 * Gives the migration up. The source can do so until "go" may have left, the target until it has
 * been told to run the guest.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_handover_cancel(struct vfiomig_handover *handover);

/*
 * Returns where the guest is. VFIOMIG_HANDOVER_OUTCOME_PENDING and _UNDECIDED are not final.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_handover_get_outcome(struct vfiomig_handover *handover,
                                 struct vfiomig_handover_outcome *outcome);

/*
 * Frees one side of a handover. NULL is ignored. It touches no device and sends nothing: free it
 * when the outcome has VFIOMIG_HANDOVER_SETTLED, or the other side learns of it in another way.
 *
 * Since: 0.1.
 */
void vfiomig_handover_free(struct vfiomig_handover *handover);

/* QEMU's stream format
 * -------------------- */

/* In struct vfiomig_save_options.format and struct vfiomig_load_options.format. */
#define VFIOMIG_FORMAT_QEMU 1  /* The format of stock QEMU's VFIO devices. */

/* Sizes of buffers. */
#define VFIOMIG_QEMU_BUFFER ((1 << 20) + 24)  /* A size for the buffer of vfiomig_save_next() in
                                               * QEMU's format, in bytes: it holds a full piece of
                                               * data of 1 MiB, with its header and a tag. */

/* Further flags of struct vfiomig_save_options. */
#define VFIOMIG_SAVE_SWITCHOVER_ACK (1 << 2)  /* QEMU's format: the stream says when all initial
                                               * data has been sent, and again after the device has
                                               * started it again. For migrations with the
                                               * capability switchover-ack. */
#define VFIOMIG_SAVE_PACKETS        (1 << 3)  /* QEMU's format: what the stopped device returns
                                               * comes as packets. For multifd device-state
                                               * transfer. */
#define VFIOMIG_SAVE_ACK_ONCE       (1 << 4)  /* QEMU's format, with VFIOMIG_SAVE_SWITCHOVER_ACK:
                                               * the stream says it only once, whatever the device
                                               * does. For a target that is older than QEMU 11.1 or
                                               * has switchover-ack-legacy=on, which fails if it
                                               * comes twice. */

/* Further flags of struct vfiomig_load_options. */
#define VFIOMIG_LOAD_PACKETS (1 << 2)  /* QEMU's format: what the stopped device returned comes as
                                        * packets, through vfiomig_load_push_packet(). */

/* What vfiomig_load_push() and vfiomig_load_push_received() also return. */
#define VFIOMIG_PUSH_SECTION_END  (1 << 4)  /* QEMU's format: a section has ended. */
#define VFIOMIG_PUSH_CONFIG       (1 << 5)  /* QEMU's format: the VMM's configuration comes next in
                                             * its stream. Read it, then go on. */
#define VFIOMIG_PUSH_CONFIG_READY (1 << 6)  /* QEMU's format: the configuration that came in a
                                             * packet may be loaded now. */

/*
 * Takes one packet of a load with VFIOMIG_LOAD_PACKETS: what QEMU's multifd channels carry for this
 * device, starting at its version field. Packets may come in any order and from any number of
 * threads. The packet is copied. While too many bytes are queued (max_queued), the call waits for
 * as long as vfiomig_load_write_packets() makes progress; the packet that is next in order never
 * waits. In a callback no packet waits: the call returns -EAGAIN, and the load goes on. After any
 * other error the device has been reset, and every other call of this load returns the same error.
 *
 * States: all.
 * Errors: -EPERM, -EIO, -EBADF, -EAGAIN, -ENOMEM, -EFAULT, -ENODEV, -EINVAL, -ENOTTY, -ENODATA,
 *         -EPROTO, -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED,
 *         -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_load_push_packet(struct vfiomig_load *load, const void *packet,
                             size_t len) VFIOMIG_MUST_CHECK;

/*
 * Writes the packets of a load with VFIOMIG_LOAD_PACKETS to the driver, in order. Blocks until the
 * configuration has come after all of them and the blob callback has taken it, on this thread and
 * with kind 0, or until something ends the load: an error on any thread, vfiomig_load_cancel(), or
 * vfiomig_load_free(). Call it once, on a thread of its own, when the main channel has brought all
 * the data that it will bring (QEMU's switchover_start) and is between two sections; from then on,
 * data on it is refused. After 0 the stream is complete: commit. After an error the device has been
 * reset.
 *
 * The blob callback runs without any of the library's locks, so it may use the device's other
 * handles.
 *
 * States: all.
 * Errors: -EPERM, -EIO, -EBADF, -ENOMEM, -EFAULT, -ENODEV, -EINVAL, -ENOTTY, -ENODATA, -EPROTO,
 *         -EBADMSG, -EMSGSIZE, -EXDEV, -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_load_write_packets(struct vfiomig_load *load) VFIOMIG_MUST_CHECK;

/* Inspecting a stream
 * ------------------- */

/* A stream being inspected. */
struct vfiomig_inspect;

/* Pieces of a stream: struct vfiomig_inspect_entry.what. */
#define VFIOMIG_INSPECT_ENTRY_PREAMBLE       1  /* The beginning of the stream: major, minor,
                                                 * required, optional and migration_id. */
#define VFIOMIG_INSPECT_ENTRY_AUTHENTICATION 2  /* How it is authenticated: algorithm, key_id, nonce
                                                 * and challenge; algorithm is 0 where that cannot
                                                 * be read. */
#define VFIOMIG_INSPECT_ENTRY_FRAME          3  /* A frame. */
#define VFIOMIG_INSPECT_ENTRY_DAMAGE         4  /* Damage begins here. What cannot be understood
                                                 * follows as VFIOMIG_INSPECT_ENTRY_GAP. */
#define VFIOMIG_INSPECT_ENTRY_GAP            5  /* Bytes that could not be understood. */
#define VFIOMIG_INSPECT_ENTRY_END            6  /* The stream ends here. */

/* Whether what vouches for a frame is right: struct vfiomig_inspect_entry.checked. */
#define VFIOMIG_INSPECT_CHECKED_RIGHT  1  /* It is right. */
#define VFIOMIG_INSPECT_CHECKED_WRONG  2  /* It is wrong. */
#define VFIOMIG_INSPECT_CHECKED_NOT    3  /* It was not looked at: the frame breaks a rule, is
                                           * longer than the limits allow, or is cut short. */
#define VFIOMIG_INSPECT_CHECKED_NO_KEY 4  /* It is a tag, and there is no key to verify it with. */

/* What is wrong: struct vfiomig_inspect_entry.problem, struct vfiomig_inspect_report.problem. */
#define VFIOMIG_INSPECT_PROBLEM_NOT_A_STREAM      1   /* The stream does not begin like one. */
#define VFIOMIG_INSPECT_PROBLEM_PREAMBLE_CHECK    2   /* The preamble's check is wrong. */
#define VFIOMIG_INSPECT_PROBLEM_VERSION           3   /* A major version that this library does not
                                                       * read. */
#define VFIOMIG_INSPECT_PROBLEM_FEATURES          4   /* Features that this library does not
                                                       * have. */
#define VFIOMIG_INSPECT_PROBLEM_BLOCK             5   /* The authentication block is damaged, or not
                                                       * there. */
#define VFIOMIG_INSPECT_PROBLEM_KEY               6   /* It is authenticated in another way than can
                                                       * be verified here, there is no key with its
                                                       * id, or it was made with another key. */
#define VFIOMIG_INSPECT_PROBLEM_CHALLENGE         7   /* It was made for another load. */
#define VFIOMIG_INSPECT_PROBLEM_NOT_AUTHENTICATED 8   /* It is not authenticated, and only
                                                       * authenticated streams are wanted. */
#define VFIOMIG_INSPECT_PROBLEM_MARK              9   /* There is no frame where one must begin. */
#define VFIOMIG_INSPECT_PROBLEM_HEADER_CHECK      10  /* The check of a frame's header is wrong. */
#define VFIOMIG_INSPECT_PROBLEM_SEQUENCE          11  /* Frames are missing, or came twice, or in
                                                       * another order. */
#define VFIOMIG_INSPECT_PROBLEM_ORDER             12  /* The first frame is not the identity, or
                                                       * another one is. */
#define VFIOMIG_INSPECT_PROBLEM_DEVICE            13  /* A frame of another device. */
#define VFIOMIG_INSPECT_PROBLEM_FLAGS             14  /* Flags that the frame may not have. */
#define VFIOMIG_INSPECT_PROBLEM_LENGTH            15  /* A length that the frame may not have. */
#define VFIOMIG_INSPECT_PROBLEM_LIMIT             16  /* More than the limits allow. */
#define VFIOMIG_INSPECT_PROBLEM_UNKNOWN_FRAME     17  /* A frame of a newer format that must not be
                                                       * skipped. */
#define VFIOMIG_INSPECT_PROBLEM_PAYLOAD_CHECK     18  /* The check of a payload is wrong. */
#define VFIOMIG_INSPECT_PROBLEM_TAG               19  /* The tag of a frame is wrong. */
#define VFIOMIG_INSPECT_PROBLEM_CONTENTS          20  /* A payload that is not what the format has
                                                       * there. */
#define VFIOMIG_INSPECT_PROBLEM_TOTALS            21  /* What the end says of the stream is not what
                                                       * came. */
#define VFIOMIG_INSPECT_PROBLEM_AFTER_END         22  /* Something follows the end. */
#define VFIOMIG_INSPECT_PROBLEM_TRUNCATED         23  /* The stream ends within a piece. */
#define VFIOMIG_INSPECT_PROBLEM_NO_END            24  /* The stream ends without its end. */

/* Whether a stream is whole: struct vfiomig_inspect_report.verdict. */
#define VFIOMIG_INSPECT_VERDICT_PENDING    0  /* Not all of the stream has come. */
#define VFIOMIG_INSPECT_VERDICT_WHOLE      1  /* Whole: a load with the same limits and keys takes
                                               * it. */
#define VFIOMIG_INSPECT_VERDICT_UNVERIFIED 2  /* Nothing is wrong with it as far as can be told
                                               * without a key. */
#define VFIOMIG_INSPECT_VERDICT_INCOMPLETE 3  /* What is there is right, and it stops before its
                                               * end. */
#define VFIOMIG_INSPECT_VERDICT_REFUSED    4  /* Not damaged, and a load refuses it: a newer format,
                                               * more than the limits, or another key. */
#define VFIOMIG_INSPECT_VERDICT_DAMAGED    5  /* Damaged. */
#define VFIOMIG_INSPECT_VERDICT_FOREIGN    6  /* It does not begin like a stream. */

/* What became of a stream's tags: struct vfiomig_inspect_report.tags. */
#define VFIOMIG_INSPECT_TAGS_NONE      0  /* It has none, or that is not known yet. */
#define VFIOMIG_INSPECT_TAGS_VERIFIED  1  /* They are verified. */
#define VFIOMIG_INSPECT_TAGS_NO_KEY    2  /* There is no key to verify them with. */
#define VFIOMIG_INSPECT_TAGS_OTHER_KEY 3  /* They cannot be verified with the key that there is. */

/* Flags of struct vfiomig_inspect_entry and struct vfiomig_inspect_report. */
#define VFIOMIG_INSPECT_HAS_EXPECTED (1 << 0)  /* expected means something. */
#define VFIOMIG_INSPECT_HAS_FOUND    (1 << 1)  /* found means something. */
#define VFIOMIG_INSPECT_RESUMED      (1 << 2)  /* After a gap: a frame follows. */
#define VFIOMIG_INSPECT_HAS_MISSING  (1 << 3)  /* After a gap: missing means something. */
#define VFIOMIG_INSPECT_ENDED        (1 << 4)  /* In the report: the stream's end has come. */
#define VFIOMIG_INSPECT_HAS_PREAMBLE (1 << 5)  /* In the report: major, minor and migration_id mean
                                                * something. */
#define VFIOMIG_INSPECT_HAS_DEVICE   (1 << 6)  /* In the report: device means something. */

/* Kinds of values: struct vfiomig_decoded.kind. */
#define VFIOMIG_DECODED_NUMBER 1  /* A number. */
#define VFIOMIG_DECODED_BYTES  2  /* Bytes, at most 4096. */
#define VFIOMIG_DECODED_TEXT   3  /* A text in UTF-8, at most 4096 bytes, without a NUL at its
                                   * end. */

/* Flags of struct vfiomig_decoded. */
#define VFIOMIG_DECODED_HEX     (1 << 0)  /* People read it in hexadecimal. */
#define VFIOMIG_DECODED_SUSPECT (1 << 1)  /* The driver cannot have saved this. */
#define VFIOMIG_DECODED_PADDING (1 << 2)  /* It means nothing: padding. */
#define VFIOMIG_DECODED_CUT     (1 << 3)  /* The value is longer than what is here. */

/* A piece of a stream. Members that do not belong to what it is are zero. */
struct vfiomig_inspect_entry {
    uint32_t struct_size;      /* The library sets it. */
    uint32_t what;             /* VFIOMIG_INSPECT_ENTRY_*. */
    uint64_t offset;           /* Where it begins, in bytes from the front of the stream. */
    uint64_t length;           /* How long it is, in bytes: as much as there is of it. */
    uint32_t problem;          /* What is wrong with it: VFIOMIG_INSPECT_PROBLEM_*, or 0. */
    int32_t code;              /* With which -errno a load would refuse it; 0: it would not. */
    uint64_t expected;         /* What would have been right: a check as it is computed, the number
                                * of the frame that was due, the number of bytes that should be
                                * there. See flags. */
    uint64_t found;            /* What was found in its place. See flags. */
    uint32_t flags;            /* Bitwise OR of VFIOMIG_INSPECT_HAS_EXPECTED and other
                                * VFIOMIG_INSPECT_* flags. */
    uint32_t checked;          /* Of a frame: VFIOMIG_INSPECT_CHECKED_*. */
    uint64_t missing;          /* Of a gap: how many frames are missing. See flags. */
    uint64_t sequence;         /* Of a frame: its number within the stream. */
    uint32_t frame_type;       /* Of a frame: its type. docs/stream-format.md has them. */
    uint32_t frame_flags;      /* Of a frame: its flags. */
    uint32_t device;           /* Of a frame, and of the authentication: the device's number within
                                * its VM. */
    uint32_t number;           /* Of a frame: a blob's kind, or the number of a restart or of a mark
                                * of complete initial data. */
    uint64_t data_offset;      /* Of a frame: where its device data begins, in bytes of device data
                                * since the last restart. */
    const void *payload;       /* Of a frame: its payload, as far as it is there and not too long.
                                * Only to be relied on with VFIOMIG_INSPECT_CHECKED_RIGHT and
                                * without a problem. */
    uint64_t payload_len;      /* ... and how many bytes of it there are. */
    uint32_t major;            /* Of the preamble: the format's versions. */
    uint32_t minor;            /* As above. */
    uint32_t required;         /* Of the preamble: features. */
    uint32_t optional;         /* As above. */
    uint8_t migration_id[16];  /* Of the preamble: the stream's name. */
    uint32_t algorithm;        /* Of the authentication: 1: keyed BLAKE3; 2: a MAC of the VMM's
                                * own. */
    uint32_t key_id;           /* Of the authentication: which key it is. */
    uint8_t nonce[32];         /* Of the authentication: random bytes that no other stream has. */
    uint8_t challenge[32];     /* Of the authentication: what the target has chosen, or zeros. */
    char text[256];            /* What is wrong, for people; empty: nothing. */
};

/* Takes a piece of a stream. Pieces come in order, and cover all of the stream. */
typedef void (*vfiomig_inspect_entry_fn)(void *opaque, const struct vfiomig_inspect_entry *entry);

/* A field of a device's data, as a decoder names it. */
struct vfiomig_decoded {
    uint32_t struct_size;     /* VFIOMIG_DECODED_INIT sets it. */
    uint32_t kind;            /* VFIOMIG_DECODED_NUMBER, _BYTES or _TEXT. */
    const char *name;         /* Its name, with dots between its parts: printable ASCII without
                               * spaces, 1 to 63 bytes. */
    const char *description;  /* What it is, for people, at most 255 bytes of UTF-8; NULL: nothing
                               * to say. */
    uint64_t offset;          /* Where it is, in bytes from the front of the device's data. */
    uint32_t bits;            /* How many bits it has. */
    uint32_t flags;           /* Bitwise OR of VFIOMIG_DECODED_HEX and other flags, or 0. */
    uint64_t number;          /* The number. */
    const void *bytes;        /* The bytes, or the text. */
    uint64_t bytes_len;       /* ... and how many there are. */
};
#define VFIOMIG_DECODED_INIT VFIOMIG_INIT_(struct vfiomig_decoded)

/* Takes a field that a decoder names, or a copy of it: 0, or -errno to end decoding. */
typedef int (*vfiomig_decoded_fn)(void *opaque, const struct vfiomig_decoded *field);

/*
 * What names the fields in a driver's own data. It is given a copy of the device's data of one
 * stream in order, in any pieces, after the frames that it came in have been checked. It passes the
 * fields that it finds to put, with put_opaque, which takes a copy and returns 0; -EINVAL for a
 * field that cannot be; -EMSGSIZE after 65536 fields; -EFAULT where a pointer is NULL. Each
 * callback returns 0, or -errno to end decoding: that says nothing of whether the stream is whole.
 * The data may come from anywhere. data must be there; others may be NULL.
 *
 * They are called on the thread that called the library, one at a time.
 */
struct vfiomig_decoder_ops {
    /* VFIOMIG_DECODER_OPS_INIT sets it. */
    uint32_t struct_size;

    /* Zero. */
    uint32_t reserved;

    /* The driver whose data this is, as in struct vfiomig_identity; empty: any. */
    char driver[64];

    /*
     * The next len bytes, which begin at byte offset of the device's data: 0 at first and after a
     * restart.
     */
    int (*data)(void *opaque, const void *data, size_t len, uint64_t offset, vfiomig_decoded_fn put,
                void *put_opaque);

    /* The source has started again: what came before is void, and so are the fields of it. */
    int (*restart)(void *opaque);

    /* The data is complete, with len bytes in all. */
    int (*end)(void *opaque, uint64_t len, vfiomig_decoded_fn put, void *put_opaque);

    /* Releases the opaque. */
    vfiomig_release_fn release;
};
#define VFIOMIG_DECODER_OPS_INIT VFIOMIG_INIT_(struct vfiomig_decoder_ops)

/* How a stream is inspected; NULL for the defaults. */
struct vfiomig_inspect_options {
    /* VFIOMIG_INSPECT_OPTIONS_INIT sets it. */
    uint32_t struct_size;

    /* Zero. */
    uint32_t reserved;

    /* What a stream may ask for: those of the load that it is meant for; NULL: the defaults. */
    const struct vfiomig_limits *limits;

    /*
     * What an authenticated stream is verified with; NULL: it is read unverified. As in a load, a
     * stream without authentication is then a problem, unless VFIOMIG_AUTH_ALLOW_UNAUTHENTICATED is
     * set.
     */
    const struct vfiomig_auth *auth;

    /* Takes what the stream consists of; NULL: only the report is wanted. */
    vfiomig_inspect_entry_fn entry;

    /* Passed to entry. */
    void *entry_opaque;

    /* Releases entry_opaque. */
    vfiomig_release_fn entry_release;

    /*
     * Takes the fields of the device's data, each after the entry that completes it; NULL: nobody
     * does, and nothing is decoded.
     */
    vfiomig_decoded_fn field;

    /* Passed to field. */
    void *field_opaque;

    /* Releases field_opaque. */
    vfiomig_release_fn field_release;

    /*
     * Names the fields of a driver that the library does not know, or instead of the library; NULL:
     * only the library does, for mtty.
     */
    const struct vfiomig_decoder_ops *decoder;

    /* Passed to the callbacks of decoder. */
    void *decoder_opaque;
};
#define VFIOMIG_INSPECT_OPTIONS_INIT VFIOMIG_INIT_(struct vfiomig_inspect_options)

/* What there is to say of a stream, as far as it has come. */
struct vfiomig_inspect_report {
    uint32_t struct_size;      /* VFIOMIG_INSPECT_REPORT_INIT sets it. */
    uint32_t verdict;          /* VFIOMIG_INSPECT_VERDICT_*. */
    int32_t code;              /* What a load would say of it: 0, or -errno. */
    uint32_t tags;             /* VFIOMIG_INSPECT_TAGS_*. */
    uint64_t problems;         /* How many problems there are. */
    uint64_t bytes;            /* Its length, as far as it has been looked at, in bytes. */
    uint64_t frames;           /* Frames that are there, right or wrong. */
    uint64_t data_bytes;       /* Bytes of device data since the last restart, in frames that are
                                * right. */
    uint64_t data_frames;      /* Frames with device data since the last restart that are right. */
    uint64_t blobs;            /* Blobs since the last restart. */
    uint64_t restarts;         /* Restarts. */
    uint64_t initial_marks;    /* Marks of complete initial data. */
    uint64_t skipped;          /* Frames of newer formats that were skipped. */
    uint64_t lost_bytes;       /* Bytes that could not be understood. */
    uint64_t offset;           /* Where the first problem is, in bytes from the front of the
                                * stream. */
    uint64_t expected;         /* As in struct vfiomig_inspect_entry, of the first problem. */
    uint64_t found;            /* As above. */
    uint32_t problem;          /* The first problem: VFIOMIG_INSPECT_PROBLEM_*, or 0. */
    uint32_t flags;            /* Bitwise OR of VFIOMIG_INSPECT_* flags. */
    uint32_t device;           /* The device's number within its VM. See flags. */
    int32_t decoder_code;      /* Why decoding ended early: -errno; 0: it did not. */
    uint32_t major;            /* The format's versions. See flags. */
    uint32_t minor;            /* As above. */
    uint8_t migration_id[16];  /* The stream's name. See flags. */
    char text[256];            /* The first problem, for people; empty: there is none. */
};
#define VFIOMIG_INSPECT_REPORT_INIT VFIOMIG_INIT_(struct vfiomig_inspect_report)

/*
 * Begins to inspect a stream. It needs no device, and has an effect on none: it reads a copy. Its
 * memory does not depend on the length of the stream; it keeps one frame at most.
 *
 * Errors: -ENOMEM, -EFAULT, -EINVAL, -E2BIG, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_inspect_new(const struct vfiomig_inspect_options *options,
                        struct vfiomig_inspect **out) VFIOMIG_MUST_CHECK;

/*
 * Inspects the next len bytes of the stream, split in any way, and calls back for what they
 * complete. A stream that is damaged is no error: what is wrong is in the entries and in the
 * report, and inspection goes on where the stream can be understood again.
 *
 * States: open.
 * Errors: -EBADF, -ENOMEM, -EFAULT, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_inspect_push(struct vfiomig_inspect *inspect, const void *data,
                         size_t len) VFIOMIG_MUST_CHECK;

/*
 * Tells that all of the stream has come. Calls back for what is left, and makes the verdict:
 * vfiomig_inspect_get_report() has it.
 *
 * States: open.
 * Errors: -EBADF, -ENOMEM, -EFAULT, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_inspect_end(struct vfiomig_inspect *inspect) VFIOMIG_MUST_CHECK;

/*
 * Returns what there is to say of the stream, as far as it has come. The verdict is
 * VFIOMIG_INSPECT_VERDICT_PENDING until vfiomig_inspect_end() was called.
 *
 * VFIOMIG_INSPECT_VERDICT_WHOLE means that a load with the same limits and keys takes the stream,
 * as far as that depends on the stream alone; other verdicts mean that it refuses it, or fails to
 * commit, with code.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_inspect_get_report(struct vfiomig_inspect *inspect,
                               struct vfiomig_inspect_report *report);

/*
 * Returns what the stream says that the saved device is. This is a claim, not a proof.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENODATA, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_inspect_get_identity(struct vfiomig_inspect *inspect,
                                 struct vfiomig_identity *identity);

/*
 * Frees the inspection of a stream. NULL is ignored.
 *
 * Since: 0.1.
 */
void vfiomig_inspect_free(struct vfiomig_inspect *inspect);

/* Dirty tracking
 * -------------- */

/* Dirty tracking of one I/O address space. */
struct vfiomig_dirty;

/* Flags of struct vfiomig_mapping. */
#define VFIOMIG_MAPPING_READ_ONLY (1 << 0)  /* Devices cannot write to the mapping. */
#define VFIOMIG_MAPPING_TRANSLATE (1 << 1)  /* What lies there changes without notice:
                                             * ops->translate is asked whenever a page is dirty. */
#define VFIOMIG_MAPPING_WINDOW    (1 << 2)  /* Not a mapping, but addresses in which mappings will
                                             * come and go (those of a vIOMMU). Devices log them
                                             * from the start if they can. Windows cannot be taken
                                             * back. */

/* Flags of struct vfiomig_dirty_writer: what could track it, best first. */
#define VFIOMIG_WRITER_DEVICE_LOG (1 << 0)  /* The device's own log
                                             * (VFIO_DEVICE_FEATURE_DMA_LOGGING_*). */
#define VFIOMIG_WRITER_HWPT       (1 << 1)  /* The page table of an iommufd. */
#define VFIOMIG_WRITER_CUSTOM     (1 << 2)  /* The VMM's own tracker. */
#define VFIOMIG_WRITER_TYPE1      (1 << 3)  /* The type1 container: pages that are pinned for
                                             * devices are always dirty. */
#define VFIOMIG_WRITER_REQUIRED   (1 << 4)  /* Tracking fails to start, rather than count every page
                                             * as always dirty. */

/* A number that no writer has. */
#define VFIOMIG_NO_WRITER UINT32_MAX  /* A number that no writer has. */

/* What tracks a writer. */
#define VFIOMIG_TRACKER_NONE       0  /* Tracking is off. */
#define VFIOMIG_TRACKER_DEVICE_LOG 1  /* The device's own log. */
#define VFIOMIG_TRACKER_HWPT       2  /* The page table of an iommufd. */
#define VFIOMIG_TRACKER_CUSTOM     3  /* The VMM's own. */
#define VFIOMIG_TRACKER_TYPE1      4  /* The type1 container. */
#define VFIOMIG_TRACKER_ALL_DIRTY  5  /* None: every page is always dirty. */

/* What functions that read dirty pages return: a bitwise OR. */
#define VFIOMIG_DIRTY_ERRORS    (1 << 0)  /* Something failed, and pages count as dirty because of
                                           * it: see vfiomig_dirty_get_error(). */
#define VFIOMIG_DIRTY_UNWATCHED (1 << 1)  /* Some pages count as dirty because they were not watched
                                           * by every writer's tracker. Most of them are always
                                           * dirty. vfiomig_dirty_get_writer_stats() says how many
                                           * bytes and why, by writer. */

/* A piece of memory that devices can reach, or a window in which such pieces will come and go. */
struct vfiomig_mapping {
    uint32_t struct_size;  /* VFIOMIG_MAPPING_INIT sets it. */
    uint32_t flags;        /* Bitwise OR of VFIOMIG_MAPPING_*, or 0. */
    uint64_t iova;         /* The first I/O virtual address; a multiple of the tracking object's
                            * page size. */
    uint64_t size;         /* The size in bytes; a multiple of the tracking object's page size. The
                            * mapping may end at 2^64. */
    uint64_t cookie;       /* What the memory is to the VMM, for example the number of a RAM block.
                            * Comes back in set_dirty. */
    uint64_t offset;       /* Where the mapping begins in it, in bytes; whole pages. */
    void *host;            /* Where it lies in this process, for reading and writing without
                            * callbacks; NULL: nowhere. */
};
#define VFIOMIG_MAPPING_INIT VFIOMIG_INIT_(struct vfiomig_mapping)

/*
 * Adds a mapping while enumerate runs. Returns 0, or -errno if it is refused; enumerate should then
 * return that.
 */
typedef int (*vfiomig_mapping_fn)(void *opaque, const struct vfiomig_mapping *mapping);

/* A place in the VMM's memory. */
struct vfiomig_place {
    uint32_t struct_size;  /* Set by the library. */
    uint32_t reserved;     /* Zero. */
    uint64_t cookie;       /* As in struct vfiomig_mapping. */
    uint64_t offset;       /* The offset in what the cookie stands for, in bytes; whole pages. */
    uint64_t size;         /* How many bytes from there belong together: at least a page. */
    void *host;            /* Where it is in this process; NULL: nowhere. */
};

/*
 * The VMM's memory, as dirty tracking needs it. Callbacks run on the thread that is inside the
 * tracking object, one at a time. In them, every function of that tracking object returns -EBUSY.
 * Each may be NULL. Each returns 0 or -errno: EINVAL, ENODEV, ENOMEM, ENOTTY and EOPNOTSUPP are
 * passed on to whoever called the library; any other becomes EIO.
 */
struct vfiomig_memory_ops {
    /* VFIOMIG_MEMORY_OPS_INIT sets it. */
    uint32_t struct_size;

    /* Zero. */
    uint32_t reserved;

    /*
     * Called by vfiomig_dirty_start(): gives every mapping and window there is to add(add_opaque,
     * mapping). They replace what was mapped before. NULL: the mappings are those of
     * vfiomig_dirty_map().
     */
    int (*enumerate)(void *opaque, vfiomig_mapping_fn add, void *add_opaque);

    /*
     * Takes dirty pages. Bit i of the bitmap, counted from the lowest, is the page at offset + i *
     * page_size in what cookie stands for. Only num_bits bits count. After -errno they are kept and
     * delivered again. NULL: only vfiomig_dirty_sync() delivers dirty pages.
     */
    int (*set_dirty)(void *opaque, uint64_t cookie, uint64_t offset, uint64_t page_size,
                     const uint64_t *bitmap, uint64_t num_bits);

    /*
     * Returns what lies at iova now, in a mapping with VFIOMIG_MAPPING_TRANSLATE. size says how
     * much is being asked about, and place->size may be less. vfiomig_dirty_unmap() asks before the
     * range is unmapped and, for what a device wrote at the last moment, after it: answer until it
     * returns.
     */
    int (*translate)(void *opaque, uint64_t iova, uint64_t size, struct vfiomig_place *place);

    /* Reads guest memory. NULL: it is read from the host address. */
    int (*read)(void *opaque, uint64_t cookie, uint64_t offset, void *buf, size_t len);

    /* Writes guest memory. NULL: it is written at the host address. */
    int (*write)(void *opaque, uint64_t cookie, uint64_t offset, const void *buf, size_t len);

    /*
     * Called exactly once, when the library will no longer call anything in this table, even if the
     * tracking object could not be made. NULL: nothing to do.
     */
    vfiomig_release_fn release;
};
#define VFIOMIG_MEMORY_OPS_INIT VFIOMIG_INIT_(struct vfiomig_memory_ops)

/* How dirty tracking is set up; NULL for the defaults. */
struct vfiomig_dirty_options {
    uint32_t struct_size;   /* VFIOMIG_DIRTY_OPTIONS_INIT sets it. */
    uint32_t buffer_bytes;  /* How many bytes are read from a tracker at a time: 4 KiB to 32 MiB, a
                             * multiple of 8; 0: the library chooses. A page takes one bit, so this
                             * decides how many system calls a reading takes. */
    uint64_t page_size;     /* The tracking object's page size in bytes: a power of two from 4096 to
                             * 1 GiB; 0: the host's. */
};
#define VFIOMIG_DIRTY_OPTIONS_INIT VFIOMIG_INIT_(struct vfiomig_dirty_options)

/*
 * A dirty tracker of the VMM's own: a vfio-user server's log, or anything else it has. Each
 * callback returns 0 or -errno, as those of struct vfiomig_memory_ops do.
 */
struct vfiomig_tracker_ops {
    /* VFIOMIG_TRACKER_OPS_INIT sets it. */
    uint32_t struct_size;

    /* Zero. */
    uint32_t reserved;

    /* The size of its pages in bytes: a power of two from 512 to 1 GiB. */
    uint64_t page_size;

    /* Starts it. NULL: it always runs. */
    int (*start)(void *opaque);

    /* Stops it. NULL: it always runs. */
    int (*stop)(void *opaque);

    /*
     * Sets the bits of pages that were written to since the last time, and forgets them. Bit 0 is
     * the page at iova. The bitmap has num_words words and is zeroed. iova and length are multiples
     * of page_size and may extend beyond the ends of mappings. After -errno the range counts as
     * dirty. Required.
     */
    int (*sync)(void *opaque, uint64_t iova, uint64_t length, uint64_t page_size, uint64_t *bitmap,
                size_t num_words);

    /* Called exactly once, when the library will no longer call anything in this table. */
    vfiomig_release_fn release;
};
#define VFIOMIG_TRACKER_OPS_INIT VFIOMIG_INIT_(struct vfiomig_tracker_ops)

/*
 * Something that writes to the guest's memory, and what could track it. The library takes the first
 * tracker that works, in the order of the flags.
 */
struct vfiomig_dirty_writer {
    /* VFIOMIG_DIRTY_WRITER_INIT sets it. */
    uint32_t struct_size;

    /* Bitwise OR of VFIOMIG_WRITER_*, or 0: no tracker; every page is always dirty. */
    uint32_t flags;

    /* A name for messages, for people to read; NULL: the driver's name. */
    const char *name;

    /*
     * The device. Its resets are noticed, whatever tracks it. NULL: the library does not know the
     * device.
     */
    struct vfiomig_device *device;

    /* With VFIOMIG_WRITER_CUSTOM: the VMM's own tracker; copied. */
    const struct vfiomig_tracker_ops *tracker;

    /* Passed to its callbacks. */
    void *tracker_opaque;

    /* With VFIOMIG_WRITER_HWPT: the iommufd, borrowed for as long as the writer exists. */
    int iommufd;

    /*
     * The page table (hwpt) that the device is attached to, made with
     * IOMMU_HWPT_ALLOC_DIRTY_TRACKING.
     */
    uint32_t hwpt_id;

    /*
     * The address space (ioas) of that page table. With it, the library notices mappings that are
     * not there, which the kernel reports as clean. 0: not known.
     */
    uint32_t ioas_id;

    /*
     * With VFIOMIG_WRITER_TYPE1: the container, of type1v2, borrowed in the same way. Give the same
     * fd for all of its writers: a duplicate counts as a different container.
     */
    int container_fd;

    /* The smallest page of the page table, in bytes; 0: no larger than the tracking object's. */
    uint64_t hwpt_page_size;
};
#define VFIOMIG_DIRTY_WRITER_INIT VFIOMIG_INIT_(struct vfiomig_dirty_writer)

/*
 * Unmaps a range from everything that has it mapped. Returns 0 or -errno, as the callbacks of
 * struct vfiomig_memory_ops do.
 */
typedef int (*vfiomig_unmap_fn)(void *opaque, uint64_t iova, uint64_t size);

/* Numbers of a tracking object since tracking was started. */
struct vfiomig_dirty_stats {
    uint32_t struct_size;       /* VFIOMIG_DIRTY_STATS_INIT sets it. */
    uint32_t num_writers;       /* How many writers have ever been added. */
    uint32_t num_errors;        /* How many errors vfiomig_dirty_get_error() can return. */
    uint32_t num_rounds;        /* How many rounds vfiomig_dirty_get_round() can return. */
    uint64_t rounds;            /* Complete rounds over the map. A round ends with
                                 * vfiomig_dirty_collect(), or when vfiomig_dirty_sync() comes back
                                 * to an address. */
    uint64_t dirty_bytes;       /* Bytes delivered as dirty; a page counts each time it is
                                 * delivered. */
    uint64_t last_dirty_bytes;  /* In the last complete round. */
    uint64_t rate;              /* Bytes that became dirty per second in the last complete round. */
    uint64_t average_rate;      /* The same, averaged over the rounds; the newest has a weight of
                                 * one quarter. */
    uint64_t sync_ns;           /* Time spent reading and delivering, in nanoseconds. */
    uint64_t last_sync_ns;      /* In the last complete round. */
    uint64_t mapped_bytes;      /* Bytes in the map. */
    uint64_t memory_bytes;      /* Memory in use besides the map, in bytes: bitmaps, and dirty pages
                                 * that wait to be delivered. */
    uint64_t errors;            /* Errors since the start; see vfiomig_dirty_get_error(). */
};
#define VFIOMIG_DIRTY_STATS_INIT VFIOMIG_INIT_(struct vfiomig_dirty_stats)

/* Numbers of one round over the map, for deciding about convergence. */
struct vfiomig_dirty_round {
    uint32_t struct_size;  /* VFIOMIG_DIRTY_ROUND_INIT sets it. */
    uint32_t reserved;     /* Zero. */
    uint64_t at_ns;        /* When it ended, in nanoseconds since the start. */
    uint64_t interval_ns;  /* Time since the end of the round before, in nanoseconds. */
    uint64_t dirty_bytes;  /* Bytes delivered as dirty. */
    uint64_t sync_ns;      /* Time that the library spent on it, in nanoseconds. */
};
#define VFIOMIG_DIRTY_ROUND_INIT VFIOMIG_INIT_(struct vfiomig_dirty_round)

/*
 * Numbers of one writer and of its tracker. Writers that share a page table or a container share
 * its numbers.
 */
struct vfiomig_dirty_writer_stats {
    uint32_t struct_size;       /* VFIOMIG_DIRTY_WRITER_STATS_INIT sets it. */
    uint32_t tracker;           /* VFIOMIG_TRACKER_*: what tracks it now. */
    uint64_t page_size;         /* The size of the tracker's pages, in bytes. */
    uint64_t dirty_bytes;       /* Bytes that the tracker has reported as dirty. */
    uint64_t last_dirty_bytes;  /* In the last complete round. */
    uint64_t assumed_bytes;     /* Bytes counted as dirty because the tracker does not watch them,
                                 * or because of an error. */
    uint64_t rate;              /* Bytes reported per second in the last complete round. */
    uint64_t sync_ns;           /* Time spent asking the tracker, in nanoseconds. */
    uint64_t last_sync_ns;      /* In the last complete round. */
    uint64_t calls;             /* System calls or callbacks made. */
    uint64_t errors;            /* Errors. */
    uint64_t restarts;          /* How often the tracker was restarted. */
    char note[464];             /* Why it is this tracker, and none of those before it; empty if
                                 * there is nothing to say. */
};
#define VFIOMIG_DIRTY_WRITER_STATS_INIT VFIOMIG_INIT_(struct vfiomig_dirty_writer_stats)

/* Why a range counts, or counted, as dirty. */
struct vfiomig_dirty_error {
    uint32_t struct_size;  /* VFIOMIG_DIRTY_ERROR_INIT sets it. */
    uint32_t writer;       /* The writer's number, or VFIOMIG_NO_WRITER. */
    uint32_t tracker;      /* VFIOMIG_TRACKER_*: its tracker at the time. */
    int32_t code;          /* -errno of the library's closed set. */
    uint64_t first;        /* The first address of the range. */
    uint64_t last;         /* The last address of the range, inclusive. */
    char text[464];        /* For people to read. */
};
#define VFIOMIG_DIRTY_ERROR_INIT VFIOMIG_INIT_(struct vfiomig_dirty_error)

/*
 * Makes a tracking object for one I/O address space of the VMM's: everything that has the same
 * mappings. Add what writes to it with vfiomig_dirty_add_writer(), then call vfiomig_dirty_start().
 *
 * The table is copied. ops->release is called exactly once with opaque, even if this call fails
 * (unless ops itself cannot be read, because it is NULL or its struct_size is invalid).
 *
 * Functions of one tracking object may be called from any thread; they wait for each other.
 *
 * Errors: -ENOMEM, -EFAULT, -EINVAL, -E2BIG, -ENOTRECOVERABLE.
 * Since: 0.1.
 */
int vfiomig_dirty_new(const struct vfiomig_memory_ops *ops, void *opaque,
                      const struct vfiomig_dirty_options *options,
                      struct vfiomig_dirty **out) VFIOMIG_MUST_CHECK;

/*
 * Frees a tracking object. NULL is ignored. Stops tracking first, and lets go of its writers'
 * devices and fds. Waits for a call on another thread. In a callback, freeing has no effect on the
 * tracking object that the callback was called from, or on one that uses the log of a device that a
 * call is using.
 *
 * Since: 0.1.
 */
void vfiomig_dirty_free(struct vfiomig_dirty *dirty);

/*
 * Adds something that writes to the guest's memory. *number identifies it from then on. When
 * tracking starts, the library decides for each writer by itself which of its trackers to use;
 * vfiomig_dirty_get_writer_stats() tells. If tracking is already on, the writer is tracked at once;
 * memory that it wrote to before must be sent anyway.
 *
 * The device and the fds must stay open until the writer is removed or the tracking object is
 * freed; the device's handle may be freed. tracker->release is called exactly once, even if this
 * call fails (unless the table itself cannot be read: then the library takes nothing over).
 *
 * States: all.
 * Errors: -EBADF, -ENOMEM, -EFAULT, -EBUSY, -EINVAL, -E2BIG, -EOPNOTSUPP, -ENOTRECOVERABLE.
 * Threads: any; waits for other calls, but not in callbacks.
 * Since: 0.1.
 */
int vfiomig_dirty_add_writer(struct vfiomig_dirty *dirty, const struct vfiomig_dirty_writer *writer,
                             uint32_t *number) VFIOMIG_MUST_CHECK;

/*
 * Removes a writer, for example because its device is unplugged. What it has written to is read
 * first and delivered with the rest. Its number is not used again.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -ENODATA, -ENOTRECOVERABLE.
 * Threads: any; waits for other calls, but not in callbacks.
 * Since: 0.1.
 */
int vfiomig_dirty_remove_writer(struct vfiomig_dirty *dirty, uint32_t number);

/*
 * Adds a mapping or, with VFIOMIG_MAPPING_WINDOW, addresses in which mappings will come and go.
 * Call it after you have made the mapping. If tracking is on, the mapping is tracked from now on.
 * If a device's log cannot be extended to it, its pages are always dirty until the log is
 * restarted: see vfiomig_dirty_rearm().
 *
 * States: all.
 * Errors: -EBADF, -ENOMEM, -EFAULT, -EBUSY, -EINVAL, -E2BIG, -ENOTRECOVERABLE.
 * Threads: any; waits for other calls, but not in callbacks.
 * Since: 0.1.
 */
int vfiomig_dirty_map(struct vfiomig_dirty *dirty,
                      const struct vfiomig_mapping *mapping) VFIOMIG_MUST_CHECK;

/*
 * Unmaps a range without losing anything that was dirty there. The library reads each tracker in
 * the order that the tracker needs. In between, it calls unmap(unmap_opaque, iova, size), which
 * removes the range from everything that has it mapped. By then the library has already unmapped it
 * from containers whose dirty tracking is in use, in one step with reading them; unmapping them
 * again does nothing.
 *
 * What was dirty is added to bitmap (see vfiomig_dirty_sync()). If bitmap is NULL, and page_size
 * and num_words are 0, it goes to set_dirty: now, or later if set_dirty refuses it. When 64 MiB of
 * pages wait for that, nothing more is unmapped without a bitmap, and the call returns what
 * set_dirty returned. Remove mappings with this call even while tracking is off.
 *
 * If unmap fails, the range stays in the map and counts as dirty until it is unmapped. Mappings
 * that lie only partly in the range are cut. If nothing is mapped there, unmap is still called.
 *
 * States: all.
 * Returns: Bitwise OR of VFIOMIG_DIRTY_ERRORS and VFIOMIG_DIRTY_UNWATCHED, or 0.
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -ENOSPC, -EOPNOTSUPP,
 *         -ENOTRECOVERABLE.
 * Threads: any; waits for other calls, but not in callbacks.
 * Since: 0.1.
 */
int vfiomig_dirty_unmap(struct vfiomig_dirty *dirty, uint64_t iova, uint64_t size,
                        uint64_t page_size, uint64_t *bitmap, size_t num_words,
                        vfiomig_unmap_fn unmap, void *unmap_opaque) VFIOMIG_MUST_CHECK;

/*
 * Starts tracking: takes the mappings from ops->enumerate, chooses a tracker for each writer, and
 * starts it. Earlier writes are not reported, so start before memory is sent for the first time. If
 * it fails, nothing is tracked, and the map is as it was.
 *
 * States: idle.
 * Returns: Bitwise OR of VFIOMIG_DIRTY_ERRORS and VFIOMIG_DIRTY_UNWATCHED, or 0.
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -E2BIG, -EOPNOTSUPP,
 *         -ENOTRECOVERABLE.
 * Threads: any; waits for other calls, but not in callbacks.
 * Since: 0.1.
 */
int vfiomig_dirty_start(struct vfiomig_dirty *dirty) VFIOMIG_MUST_CHECK;

/*
 * Reads everything that became dirty since the last reading and passes it to ops->set_dirty. If
 * that refuses, or the reading is cancelled, what was not delivered is kept for the next time.
 *
 * Every page that could be dirty is reported. If a tracker fails, its pages count as dirty; that is
 * not an error of this function, but sets VFIOMIG_DIRTY_ERRORS in the result. The last reading,
 * after the devices have stopped, completes all that they have ever written.
 *
 * States: tracking.
 * Returns: Bitwise OR of VFIOMIG_DIRTY_ERRORS and VFIOMIG_DIRTY_UNWATCHED, or 0.
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -EOPNOTSUPP,
 *         -ECANCELED, -ENOTRECOVERABLE.
 * Threads: any; waits for other calls, but not in callbacks.
 * Since: 0.1.
 */
int vfiomig_dirty_collect(struct vfiomig_dirty *dirty) VFIOMIG_MUST_CHECK;

/*
 * Reads what became dirty in a range since the last reading and adds it to bitmap, which has
 * num_words words. Bit i, counted from the lowest, is the page at iova + i * page_size. Bits that
 * are already set stay set. page_size is any power of two from 512 up; iova and length are
 * multiples of it. Pages of different sizes never lose bits: a dirty page of the tracking object
 * that lies only partly in the range is reported here, and again when the rest is read. Pages where
 * nothing is mapped stay clean.
 *
 * Otherwise like vfiomig_dirty_collect(). If it is cancelled, what is in the bitmap so far is
 * right, and the rest is kept.
 *
 * States: tracking.
 * Returns: Bitwise OR of VFIOMIG_DIRTY_ERRORS and VFIOMIG_DIRTY_UNWATCHED, or 0.
 * Errors: -EBADF, -ENOMEM, -EFAULT, -EBUSY, -EINVAL, -ENOSPC, -ECANCELED, -ENOTRECOVERABLE.
 * Threads: any; waits for other calls, but not in callbacks.
 * Since: 0.1.
 */
int vfiomig_dirty_sync(struct vfiomig_dirty *dirty, uint64_t iova, uint64_t length,
                       uint64_t page_size, uint64_t *bitmap, size_t num_words) VFIOMIG_MUST_CHECK;

/*
 * Restarts the devices' logs, so that they watch mappings that were added after the start. No bit
 * is lost: in the meantime another tracker of the writer watches, if it was given one, or the
 * device is stopped. In these cases, readings restart the log by themselves, once per round.
 * Otherwise everything counts as dirty once, so call this well before the switchover.
 *
 * States: tracking.
 * Returns: Bitwise OR of VFIOMIG_DIRTY_ERRORS and VFIOMIG_DIRTY_UNWATCHED, or 0.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Threads: any; waits for other calls, but not in callbacks.
 * Since: 0.1.
 */
int vfiomig_dirty_rearm(struct vfiomig_dirty *dirty);

/*
 * Stops tracking and forgets what was not read, so read once more first, with the devices stopped.
 * Every tracker is asked to stop. The first error is returned, and calling again asks those that
 * failed. Has no effect if tracking is off.
 *
 * States: all.
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -EOPNOTSUPP,
 *         -ETIMEDOUT, -ENOTRECOVERABLE.
 * Threads: any; waits for other calls, but not in callbacks.
 * Since: 0.1.
 */
int vfiomig_dirty_stop(struct vfiomig_dirty *dirty);

/*
 * Makes the reading in progress, and every later one, return -ECANCELED until tracking is stopped.
 * Does not wait.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -ENOTRECOVERABLE.
 * Concurrent: with any other call on the handle, from any thread.
 * Since: 0.1.
 */
int vfiomig_dirty_cancel(struct vfiomig_dirty *dirty);

/*
 * Tells the library that a range was written to in a way that no tracker sees, for example by a
 * device that the VMM emulates. The addresses need no alignment; the whole range must be mapped.
 * Has no effect if tracking is off.
 *
 * States: all.
 * Errors: -EBADF, -ENOMEM, -EFAULT, -EBUSY, -EINVAL, -ENODATA, -ENOTRECOVERABLE.
 * Threads: any; waits for other calls, but not in callbacks.
 * Since: 0.1.
 */
int vfiomig_dirty_mark(struct vfiomig_dirty *dirty, uint64_t iova,
                       uint64_t length) VFIOMIG_MUST_CHECK;

/*
 * Reads guest memory as a device does, by I/O virtual address: for a device in software that the
 * VMM serves, such as a vfio-user device. The whole range must be mapped.
 *
 * States: all.
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -ENODATA, -EOPNOTSUPP,
 *         -ENOTRECOVERABLE.
 * Threads: any; waits for other calls, but not in callbacks.
 * Since: 0.1.
 */
int vfiomig_dirty_dma_read(struct vfiomig_dirty *dirty, uint64_t iova, void *buf,
                           size_t len) VFIOMIG_MUST_CHECK;

/*
 * Writes guest memory as a device does, and counts it as dirty. The whole range must be mapped and
 * must not be read-only; otherwise nothing is written.
 *
 * States: all.
 * Errors: -EIO, -EBADF, -ENOMEM, -EFAULT, -EBUSY, -ENODEV, -EINVAL, -ENOTTY, -ENODATA, -EOPNOTSUPP,
 *         -ENOTRECOVERABLE.
 * Threads: any; waits for other calls, but not in callbacks.
 * Since: 0.1.
 */
int vfiomig_dirty_dma_write(struct vfiomig_dirty *dirty, uint64_t iova, const void *buf,
                            size_t len) VFIOMIG_MUST_CHECK;

/*
 * Returns what has happened since tracking was started; after it was stopped, what had happened by
 * then.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENOTRECOVERABLE.
 * Threads: any; waits for other calls, but not in callbacks.
 * Since: 0.1.
 */
int vfiomig_dirty_get_stats(struct vfiomig_dirty *dirty, struct vfiomig_dirty_stats *stats);

/*
 * Returns one round over the map, by an index from 0, which is the oldest of the up to 64 that are
 * kept. num_rounds in struct vfiomig_dirty_stats says how many there are.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENODATA, -ENOTRECOVERABLE.
 * Threads: any; waits for other calls, but not in callbacks.
 * Since: 0.1.
 */
int vfiomig_dirty_get_round(struct vfiomig_dirty *dirty, uint32_t index,
                            struct vfiomig_dirty_round *round);

/*
 * Returns what tracks a writer, why, and what it has done.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENODATA, -ENOTRECOVERABLE.
 * Threads: any; waits for other calls, but not in callbacks.
 * Since: 0.1.
 */
int vfiomig_dirty_get_writer_stats(struct vfiomig_dirty *dirty, uint32_t number,
                                   struct vfiomig_dirty_writer_stats *stats);

/*
 * Returns what went wrong since the start, by an index from 0, the oldest first, and which
 * addresses counted as dirty because of it. At most 64 errors are kept; if there are more, the last
 * one grows until it covers the rest.
 *
 * States: all.
 * Errors: -EBADF, -EFAULT, -EBUSY, -EINVAL, -ENODATA, -ENOTRECOVERABLE.
 * Threads: any; waits for other calls, but not in callbacks.
 * Since: 0.1.
 */
int vfiomig_dirty_get_error(struct vfiomig_dirty *dirty, uint32_t index,
                            struct vfiomig_dirty_error *error);

#ifdef __cplusplus
}
#endif

#endif /* VFIOMIG_H */
