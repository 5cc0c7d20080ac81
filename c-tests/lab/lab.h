/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What the tests on real kernels share: cases that each run in a process, mtty devices, their
 * registers, and a second implementation of the stream's framing, from docs/stream-format.md, so
 * that a test can make streams that the library would not.
 */
#ifndef LAB_H
#define LAB_H

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/types.h>
#include <unistd.h>

#include "vfiomig.h"

/* --- cases ----------------------------------------------------------------------------------- */

/*
 * Runs a case in a process of its own and prints its result. A case that crashes fails, and
 * whatever it did, its devices are gone afterwards. If the environment has LAB_CASES, a glob of
 * names, the others are skipped.
 */
void lab_run(const char *name, void (*test)(void));
/* For a case in several varieties: the name is made as by printf, and lab_arg() returns arg. */
void lab_run_arg(void (*test)(void), const void *arg, const char *name, ...)
    __attribute__((format(printf, 3, 4)));
const void *lab_arg(void);
/* What main() returns. */
int lab_status(void);
/* 1 or 2, LAB_BOOT of lab/README.md. */
int lab_boot(void);
/* Whether this kernel is the given variant, for example "7.3". */
int lab_kernel_is(const char *variant);

/* Ends the case. */
void lab_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4), noreturn));
void lab_skip(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#define FAIL(...) lab_fail(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(condition, ...) \
    do { \
        if (!(condition)) \
            FAIL(__VA_ARGS__); \
    } while (0)
/* Both as numbers; `what` is the expression that yielded got. */
#define EXPECT(got, want) \
    lab_expect_number(__FILE__, __LINE__, #got, (long long)(got), (long long)(want))
/* A call of the library that must return exactly this. */
#define CALL(call, want) lab_expect_call(__FILE__, __LINE__, #call, (call), (want))
#define OK(call) CALL(call, 0)

void lab_expect_number(const char *file, int line, const char *what, long long got, long long want);
void lab_expect_call(const char *file, int line, const char *what, int got, int want);

/* --- files and programs ---------------------------------------------------------------------- */

/* 0 or -errno. */
int lab_try_write(const char *path, const char *text);

/*
 * Runs a program of the lab's directory. Its path becomes argv[0]; if it was not built, the case is
 * skipped. Returns all that it prints, also as errors.
 */
FILE *lab_start(const char *name, char *argv[], pid_t *pid);
/* When it was read: the exit status. A program that ends in another way fails the case. */
int lab_wait(FILE *said, pid_t pid, const char *name);

/* --- devices --------------------------------------------------------------------------------- */

/* The two ways to open a VFIO device. */
enum lab_how {
    LAB_GROUP, /* group and type1 container */
    LAB_CDEV,  /* character device and iommufd */
};

/* An mtty device with one or two ports. (kmod.h and iommu.h have other kinds.) */
struct lab_device {
    unsigned ports;
    enum lab_how how;
    int fd; /* -1: not open */
    int group, container, iommufd;
    uint32_t devid; /* by cdev: what iommufd calls it */
    char uuid[40]; /* the kernel's name for it */
    char sysfs[128];
};

const char *lab_how_name(enum lab_how how);
/* Whether this kernel has it. */
int lab_has(enum lab_how how);
/* Skips the case if it does not have it. */
void lab_need(enum lab_how how);

/* Makes the device; it is removed when the case ends. */
void lab_create(struct lab_device *device, unsigned ports);
void lab_open(struct lab_device *device, enum lab_how how);
/* In the same container, or with the same iommufd, as a device that is already open. */
void lab_open_beside(struct lab_device *device, const struct lab_device *first);
/* Closes all fds; the device stays. */
void lab_close(struct lab_device *device);
void lab_remove(struct lab_device *device);
/* Path of the character device, or NULL. */
const char *lab_cdev_path(const struct lab_device *device);
/* The number of its group, which the caller frees. */
char *lab_group_number(const struct lab_device *device);

/* The library's handle for an open device, with its directory in sysfs. */
struct vfiomig_device *lab_handle(const struct lab_device *device);
/* Creates, opens and wraps. */
struct vfiomig_device *lab_new(struct lab_device *device, unsigned ports, enum lab_how how);

/* --- the kernel's own interface, past the library -------------------------------------------- */

#define LAB_VFIO(n) _IO(';', 100 + (n))
#define LAB_DEVICE_RESET LAB_VFIO(11)
#define LAB_DEVICE_FEATURE LAB_VFIO(17)
#define LAB_GET_PRECOPY_INFO LAB_VFIO(21)
#define LAB_FEATURE_GET (1u << 16)
#define LAB_FEATURE_SET (1u << 17)
#define LAB_FEATURE_PROBE (1u << 18)
#define LAB_FEATURE_MIGRATION 1u
#define LAB_FEATURE_STATE 2u
#define LAB_FEATURE_PRECOPY_INFO_V2 12u

/* VFIO_DEVICE_RESET: 0 or -errno. */
int lab_raw_reset(int fd);
/* The state, or -errno. */
int lab_raw_state(int fd);
/* 0 or -errno; data_fd as the kernel left it. */
int lab_raw_set_state(int fd, uint32_t state, int *data_fd);

/* Fails unless kernel and library agree on the state. */
void lab_expect_state(const struct lab_device *device, struct vfiomig_device *handle,
                      uint32_t state);

/* --- the registers --------------------------------------------------------------------------- */

/* What the ports hold is made from a number: same number, same contents. */
void lab_fill(const struct lab_device *device, unsigned seed);
/*
 * Fails unless the registers and FIFOs of all ports are those of this number. As on a real UART,
 * reading empties the FIFOs and clears DLAB.
 */
void lab_expect_contents(const struct lab_device *device, unsigned seed);

/* --- streams --------------------------------------------------------------------------------- */

struct lab_bytes {
    unsigned char *data;
    size_t len, room;
};

void lab_append(struct lab_bytes *bytes, const void *data, size_t len);
void lab_free(struct lab_bytes *bytes);
void lab_write_file(const char *path, const struct lab_bytes *bytes);
struct lab_bytes lab_read_file(const char *path);

/*
 * Calls save_next with a buffer of cap bytes until it returns something other than MORE, and
 * returns that. Fails if anything beyond cap is written.
 */
int lab_pump(struct vfiomig_save *save, struct lab_bytes *stream, size_t cap);
/*
 * Quiesces or stops, even if the device has started its initial data again since it was complete
 * (because of a reset, for example), which is reported once before anything is stopped.
 */
int lab_insist(int (*call)(struct vfiomig_save *), struct vfiomig_save *save);
/* A whole save: pre-copy (unless flags say no), quiesce, stop, end. The session is still open. */
struct vfiomig_save *lab_save_begin_to_end(struct vfiomig_device *device, uint32_t flags,
                                           size_t cap, struct lab_bytes *stream);
/* The same, finished with this ending. */
struct lab_bytes lab_save(struct vfiomig_device *device, uint32_t flags, size_t cap,
                          uint32_t ending);

/*
 * A whole load in pieces of this size (0: at once): begin, push, commit, free. Returns the first
 * negative value, or 0; failure (may be NULL) is the session's.
 */
int lab_load(struct vfiomig_device *device, const struct vfiomig_load_options *options,
             const void *stream, size_t len, size_t piece, struct vfiomig_failure *failure);

/* The framing, after docs/stream-format.md. */
#define LAB_PREAMBLE_LEN 40
#define LAB_HEADER_LEN 32
enum lab_frame_type {
    LAB_IDENTITY = 1,
    LAB_DATA = 2,
    LAB_INITIAL_COMPLETE = 3,
    LAB_BLOB = 4,
    LAB_RESTART = 5,
    LAB_END = 6,
};

struct lab_frame {
    unsigned type;
    size_t offset; /* of the header in the stream */
    const unsigned char *payload;
    uint32_t length;
};

/* Steps through a stream that must be correct; 0 at its end. Start with a zeroed frame. */
int lab_next_frame(const struct lab_bytes *stream, struct lab_frame *frame);
/* All device data of a correct stream, after its last restart. */
struct lab_bytes lab_payload(const struct lab_bytes *stream);

/* A stream being made, correct unless the caller says otherwise. */
struct lab_maker {
    struct lab_bytes stream;
    unsigned char migration_id[16];
    uint64_t sequence, data_bytes, data_frames;
    uint32_t blobs, digest;
};

struct lab_maker lab_make_begin(void);
void lab_make_frame(struct lab_maker *maker, unsigned type, const void *payload, size_t len);
void lab_make_end(struct lab_maker *maker);
/* The frames of a correct stream with other device data, in frames of at most `piece` bytes. */
struct lab_bytes lab_reframe(const struct lab_bytes *stream, const void *data, size_t len,
                             size_t piece);

/* mtty's own data: a header and 36 bytes for each port. */
#define LAB_MTTY_HEADER 24
#define LAB_MTTY_PORT 36
#define LAB_MTTY_SIZE(ports) (LAB_MTTY_HEADER + (ports) * LAB_MTTY_PORT)

#endif
