/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A simulated VFIO device for tests: of libvfiomig, and of any VMM that uses it.
 *
 * The simulator is a client of libvfiomig's public ops table, and nothing else:
 *
 *     struct vfiomig_sim_options options = { .struct_size = sizeof options };
 *     struct vfiomig_sim *sim;
 *     struct vfiomig_device *dev;
 *     int r = vfiomig_sim_new(&options, &sim);
 *     if (r == 0)
 *         r = vfiomig_device_new_ops(vfiomig_sim_ops(sim), sim, NULL, &dev);
 *
 * It follows the kernel's state machine strictly: what no VMM may do is counted as a violation and
 * answered as the strictest driver would. Its contents are deterministic: a model, a size and a
 * seed define them. All functions may be called from any thread at any time.
 */
#ifndef VFIOMIG_SIM_H
#define VFIOMIG_SIM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vfiomig_sim;
struct vfiomig_device_ops;

/* Quirks of real drivers, by the driver that has them; bits of vfiomig_sim_options.quirks. */
#define VFIOMIG_SIM_DRAINED_ZERO        (1ull << 0)  /* mtty, hisi_acc, qat: drained pre-copy read returns 0, not ENOMSG */
#define VFIOMIG_SIM_STOP_ACCEPTS_ALL    (1ull << 1)  /* mlx5, virtio: RESUMING -> STOP succeeds after a broken or short write */
#define VFIOMIG_SIM_CONSUMES_ON_ERROR   (1ull << 2)  /* mtty, hisi_acc, qat: a failing write consumes the bytes anyway */
#define VFIOMIG_SIM_SIZE_UNDER          (1ull << 3)  /* virtio: estimates half of the real size */
#define VFIOMIG_SIM_SIZE_OVER           (1ull << 4)  /* hisi_acc: estimates three times the real size */
#define VFIOMIG_SIM_SIZE_NEGATIVE       (1ull << 5)  /* xe: a negative errno in the unsigned size */
#define VFIOMIG_SIM_SIZE_ENOTTY         (1ull << 6)  /* Linux before 6.2: no size */
#define VFIOMIG_SIM_NO_DATA_FD          (1ull << 7)  /* a change succeeds without the data fd it owes */
#define VFIOMIG_SIM_EXTRA_DATA_FD       (1ull << 8)  /* a change returns a data fd that it does not owe */
#define VFIOMIG_SIM_FALSE_END           (1ull << 9)  /* mlx5: the first stop-copy read returns 0 once */
#define VFIOMIG_SIM_NONBLOCKING         (1ull << 10) /* mlx5: honours nonblocking reads with EAGAIN (every second read) */
#define VFIOMIG_SIM_P2P_INFO_EINVAL     (1ull << 11) /* hisi_acc: no pre-copy estimates in PRE_COPY_P2P */
#define VFIOMIG_SIM_INFO_MAKES_DATA     (1ull << 12) /* mlx5, virtio: new dirty data appears only when the estimates are asked for */
#define VFIOMIG_SIM_FLAGS_ECHO          (1ull << 13) /* v1 kernels: the estimates' flags come back as garbage unless v2 was opted in */
#define VFIOMIG_SIM_ILLEGAL_IS_FATAL    (1ull << 14) /* xe: an illegal change puts the device into ERROR */
#define VFIOMIG_SIM_NO_RESET            (1ull << 15) /* VFIO_DEVICE_RESET returns ENOTTY */
#define VFIOMIG_SIM_WRITE_ZERO          (1ull << 16) /* writes take nothing and return no error */
#define VFIOMIG_SIM_WRITE_TOO_MUCH      (1ull << 17) /* reads and writes claim more than they were given */
#define VFIOMIG_SIM_WRITE_EAGAIN        (1ull << 18) /* every second write returns EAGAIN */
#define VFIOMIG_SIM_NO_LOGGING          (1ull << 19) /* no DMA logging */
#define VFIOMIG_SIM_REPORT_EOPNOTSUPP   (1ull << 20) /* kernels without CONFIG_IOMMUFD: PROBE succeeds, REPORT does not */
#define VFIOMIG_SIM_PRECOPY_INFO_V2     (1ull << 21) /* newer kernels: opt-in to meaningful flags, REINIT */
#define VFIOMIG_SIM_STATE_UNREADABLE    (1ull << 22) /* GET of the state fails with EIO */
#define VFIOMIG_SIM_FUTURE              (1ull << 23) /* reports unknown migration flags in addition to its own */
#define VFIOMIG_SIM_PRECOPY_ALL         (1ull << 24) /* virtio: pre-copy resends the full state each round */
#define VFIOMIG_SIM_RESET_KEEPS_STATE   (1ull << 25) /* vfio-user servers: a reset leaves the migration state; EINVAL while stopped */
#define VFIOMIG_SIM_ALTERNATING_OFFSET  (1ull << 26) /* v1: chunks lie in two places in turn */
#define VFIOMIG_SIM_DATA_SIZE_ZERO      (1ull << 27) /* v1, NVIDIA vGPU: the length of a chunk reads 0 */
#define VFIOMIG_SIM_PENDING_FOREVER     (1ull << 28) /* v1: there is always something pending */
#define VFIOMIG_SIM_STRICT_WIDTHS       (1ull << 29) /* v1: data is accessed in aligned words only */
#define VFIOMIG_SIM_OFFSET_OUTSIDE      (1ull << 30) /* v1: chunks lie outside of the region */
#define VFIOMIG_SIM_LOOPING_CHAIN       (1ull << 31) /* v1: the chain of capabilities goes in circles */
#define VFIOMIG_SIM_MID_REGION          (1ull << 32) /* v1: the region has the type of earlier patches */
#define VFIOMIG_SIM_TWO_REGIONS         (1ull << 33) /* v1, RFC: there are two such regions */
#define VFIOMIG_SIM_NO_DEVICE_MEMORY    (1ull << 34) /* RFC: no memory of its own; all of its state is configuration */
#define VFIOMIG_SIM_OTHER_VERSION       (1ull << 35) /* RFC: the fields have a layout of another version */
#define VFIOMIG_SIM_UNKNOWN_CAPS        (1ull << 36) /* RFC: a capability that nobody knows */
#define VFIOMIG_SIM_MISSING_REGION      (1ull << 37) /* RFC: the last region that its capabilities need is missing */
#define VFIOMIG_SIM_CONFIG_TOO_LONG     (1ull << 38) /* RFC: the configuration is longer than the region for it */
#define VFIOMIG_SIM_FULL_BEFORE_LOGGING (1ull << 39) /* RFC: what was not read before LOGGING is not read after it */
#define VFIOMIG_SIM_FORGETS_HALF        (1ull << 40) /* RFC: a snapshot that was read in part is not in the next */

/* How a device is made. Set struct_size, and everything else that you do not need to zero: where zero
 * means nothing, it stands for the default. */
struct vfiomig_sim_options {
    uint32_t struct_size;       /* sizeof(struct vfiomig_sim_options) */
    uint32_t migration_flags;   /* VFIO_MIGRATION_*; default 7; VFIOMIG_SIM_NO_MIGRATION: none */
    uint64_t state_size;        /* bytes of device state; default 1 MiB */
    uint64_t initial_size;      /* bytes of it, from the front, that pre-copy sends as initial data;
                                 default a quarter. The rest is sent when the device has stopped. */
    uint64_t seed;              /* the seed of the contents */
    uint64_t quirks;
    uint64_t dirty_rate;        /* bytes per second that become dirty while the device runs; 0: none */
    uint64_t read_rate;         /* the most bytes per second that reads return; 0: unlimited */
    uint64_t write_rate;        /* the most bytes per second that writes take; 0: unlimited */
    uint32_t max_read;          /* the most bytes that one read returns; 0: unlimited */
    uint32_t max_write;         /* the most bytes that one write takes; 0: unlimited */
    uint32_t transition_us[8];  /* microseconds that entering a state (its number) takes */
    uint32_t eintr_every;       /* one read or write in every N returns EINTR; 0: none */
    uint32_t model;             /* devices of another model refuse the state; default 1 */
    uint32_t initial_state;     /* the state in which it is found; default RUNNING (2) */
    uint32_t reserved;
    uint16_t pci_vendor, pci_device, pci_subsystem_vendor, pci_subsystem_device;
    char mdev_type[64];         /* "" : none */
    char driver[64];            /* default "vfiomig-sim" */
    uint64_t log_page_size;     /* smallest pages in which it logs its DMA: a power of two; default 4096 */
    uint32_t log_max_ranges;    /* ranges that its log has room for (more: ENOSPC); default 256, the kernel's */
    uint32_t kind;              /* VFIOMIG_PROTOCOL_V1: the region of Linux 5.8 to 5.17; RFC: the
                                 regions proposed in 2019; default V2 */
    uint64_t window;            /* v1: the most bytes of a chunk; RFC: the region for its memory;
                                 default 64 KiB */
};
#define VFIOMIG_SIM_NO_MIGRATION 0x80000000u

/* Operations that can fail. */
#define VFIOMIG_SIM_OP_ANY          0u
#define VFIOMIG_SIM_OP_GET_FLAGS    1u
#define VFIOMIG_SIM_OP_GET_STATE    2u
#define VFIOMIG_SIM_OP_SET_STATE    3u
#define VFIOMIG_SIM_OP_READ         4u
#define VFIOMIG_SIM_OP_WRITE        5u
#define VFIOMIG_SIM_OP_PRECOPY_INFO 6u
#define VFIOMIG_SIM_OP_DATA_SIZE    7u
#define VFIOMIG_SIM_OP_RESET        8u
#define VFIOMIG_SIM_OP_LOG_START    9u  /* of DMA logging */
#define VFIOMIG_SIM_OP_LOG_STOP     10u
#define VFIOMIG_SIM_OP_LOG_REPORT   11u
#define VFIOMIG_SIM_OP_CHUNK        12u /* v1: asking where the next chunk is, and how long; RFC: having
                                          * a chunk or the configuration put into its region */
#define VFIOMIG_SIM_OP_TAKE_CHUNK   13u /* v1: saying that a chunk has been written; RFC: a chunk or the
                                          * configuration, or that a snapshot comes */

/* What happens with the failure. */
#define VFIOMIG_SIM_FAULT_ONCE   0u  /* the operation fails, nothing else changes */
#define VFIOMIG_SIM_FAULT_STICKY 1u  /* so does every later operation of its kind */
#define VFIOMIG_SIM_FAULT_ERROR  2u  /* the device enters ERROR */
#define VFIOMIG_SIM_FAULT_DIE    3u  /* the device is gone: from now on everything returns ENODEV, including reset */
#define VFIOMIG_SIM_FAULT_HALF   4u  /* SET_STATE: the device stops halfway along its path, then fails;
                                      * LOG_REPORT: forgets what it should have reported, then fails */
#define VFIOMIG_SIM_FAULT_RESET  5u  /* the guest resets the device just before; the operation meets a dead stream */
#define VFIOMIG_SIM_FAULT_IGNORED 6u /* SET_STATE: claims to be done, and does nothing */

/* 0 or -errno. Without options (NULL) all are the defaults. */
int vfiomig_sim_new(const struct vfiomig_sim_options *options, struct vfiomig_sim **out);

/* Only after the vfiomig_device on it and all its sessions have been freed, and after it has been
 * removed as a writer from dirty tracking, or the tracking objects have been freed. */
void vfiomig_sim_free(struct vfiomig_sim *sim);

/* The table; its opaque is the sim. It lives as long as the sim. */
const struct vfiomig_device_ops *vfiomig_sim_ops(struct vfiomig_sim *sim);

/* Makes the nth (from 1, counted from now) operation of a kind fail with an errno (positive).
 * Several faults may be pending. Returns 0 or -errno.
 *
 * SET_STATE counts requests of the library, not steps: one request may take several steps, and one call of
 * the library may make several requests. vfiomig_save_stop() makes two if the device has peer-to-peer states
 * and is not quiesced yet. */
int vfiomig_sim_inject(struct vfiomig_sim *sim, uint32_t op, uint64_t nth, int errnum, uint32_t effect);

/* Forgets pending and sticky faults, and revives a device that has died (RUNNING, contents kept). */
void vfiomig_sim_clear_faults(struct vfiomig_sim *sim);

/* The guest resets the device (FLR), behind the library's back: RUNNING, streams dead, power-on
 * contents (those of the seed). */
void vfiomig_sim_guest_reset(struct vfiomig_sim *sim);

/* The guest changes a part of the device's state: bytes of a new seed, marked dirty. State
 * changes and is sent in blocks (of 64 KiB, smaller below 1 MiB of state), each of which has one
 * seed, so the rest of a block changes with it. -EINVAL beyond the end of the state. */
int vfiomig_sim_guest_write(struct vfiomig_sim *sim, uint64_t offset, uint64_t len, uint64_t seed);

/* The device writes to len bytes of memory at an I/O virtual address. All that the simulator
 * keeps of it are the pages in its log, if that has been started over them. -EINVAL if the range
 * is empty or wraps, -E2BIG above 1 GiB, -EPERM while the device is stopped, -ENODEV when it is
 * gone.
 *
 * The bytes themselves are up to the caller. Hardware writes to memory before it logs the page, so
 * that a page which is read and sent in between is still reported; and a device that has stopped
 * does not write. So the DMA engine of a test looks like this:
 *
 *     static int dma(struct vfiomig_sim *sim, uint64_t iova, const void *data, size_t len)
 *     {
 *         static const uint32_t running =
 *             1u << VFIOMIG_STATE_RUNNING | 1u << VFIOMIG_STATE_RUNNING_P2P |
 *             1u << VFIOMIG_STATE_PRE_COPY | 1u << VFIOMIG_STATE_PRE_COPY_P2P;
 *         int r = -EPERM;
 *         pthread_mutex_lock(&engine);
 *         if (running >> vfiomig_sim_state(sim) & 1) {
 *             memcpy(ram + iova, data, len);
 *             r = vfiomig_sim_dma_write(sim, iova, len);
 *         }
 *         pthread_mutex_unlock(&engine);
 *         return r;
 *     }
 *
 * Take the same lock around calls that may stop the device: vfiomig_save_stop(), _next(), _finish() and
 * _free(); vfiomig_load_begin() and _commit(); vfiomig_device_set_state(). Or put a feature callback of
 * your own before the simulator's and take it there, as the demo in the source tree does.
 */
int vfiomig_sim_dma_write(struct vfiomig_sim *sim, uint64_t iova, uint64_t len);

/* Pre-copy starts its initial data again (needs VFIOMIG_SIM_PRECOPY_INFO_V2 to be noticed). */
void vfiomig_sim_reinit(struct vfiomig_sim *sim);

/* A digest of the whole contents; equal contents have equal digests. */
uint64_t vfiomig_sim_digest(struct vfiomig_sim *sim);

/* Present state: VFIOMIG_STATE_*. */
uint32_t vfiomig_sim_state(struct vfiomig_sim *sim);

/* Operations of a kind so far (VFIOMIG_SIM_OP_ANY: all). */
uint64_t vfiomig_sim_count(struct vfiomig_sim *sim, uint32_t op);

/* Bytes read from and written to data streams so far. */
uint64_t vfiomig_sim_bytes_read(struct vfiomig_sim *sim);
uint64_t vfiomig_sim_bytes_written(struct vfiomig_sim *sim);

/* Data streams handed out and not closed yet. */
uint32_t vfiomig_sim_open_streams(struct vfiomig_sim *sim);

/* How often the library did what no VMM may do: illegal changes, reads of a resuming stream,
 * writes after a failed write, use of a closed stream… 0 in every correct run. *what, unless
 * NULL, gets a static text about the first one. */
uint64_t vfiomig_sim_violations(struct vfiomig_sim *sim, const char **what);

/* How often ops->release was called (in the end, it must be 1 per vfiomig_device_new_ops()). */
uint32_t vfiomig_sim_releases(struct vfiomig_sim *sim);

/* --- vfio-user ---------------------------------------------------------------------------------
 *
 * A server that shows a simulated device over vfio-user, for tests of clients:
 * vfiomig_sim_server_new(), and vfiomig_sim_server_serve() or _listen() on a thread of the test.
 *
 * It speaks with one client at a time: negotiation with a twin socket, infos, regions, interrupts,
 * DMA mappings, reset, device features, migration data. The device is the sim, which counts what no
 * client may do, and whose faults and quirks work here as well. It has no peer-to-peer states.
 *
 * Region 0 has registers, 64-bit little-endian numbers, for tests in another process. Region 2 is
 * memory that can be mapped.
 *
 *    0x00  the bytes "vfiomigs"
 *    0x08  its migration state
 *    0x10  the digest of its contents, as vfiomig_sim_digest() has it
 *    0x18  violations, as vfiomig_sim_violations() counts them
 *    0x20  address, 0x28 length, 0x30 seed: read and written
 *    0x38  written: a command, done before the answer; read: its result, 0 or an errno
 *    0x40  the sum of the numbers that command 2 has read
 *
 *    command 1  writes length bytes (at most 1 MiB) of guest memory: numbers, seed, seed + 1, ...
 *    command 2  reads length bytes of guest memory (at most 1 MiB)
 *    command 3  changes the device's state, as vfiomig_sim_guest_write() does
 *    command 4  raises the interrupt with index address and number length
 */
struct vfiomig_sim_server;

/* What servers do (L: libvfio-user and its sample, as of June 2026); bits of
 * vfiomig_sim_server_options.quirks. A reset that leaves the migration state is one of the sim,
 * VFIOMIG_SIM_RESET_KEEPS_STATE. Short reads are its max_read. */
#define VFIOMIG_SIM_SERVER_ONE_RECV          (1ull << 0)  /* L: EINVAL for commands above 32 KiB */
#define VFIOMIG_SIM_SERVER_UNTRIMMED         (1ull << 1)  /* L: replies as long as was asked for */
#define VFIOMIG_SIM_SERVER_SET_PAYLOAD       (1ull << 2)  /* L: errors of SET have a payload */
#define VFIOMIG_SIM_SERVER_STOPPED_REFUSES   (1ull << 3)  /* L: stopped, it refuses most commands */
#define VFIOMIG_SIM_SERVER_UNKNOWN_EINVAL    (1ull << 4)  /* L: unknown features are EINVAL */
#define VFIOMIG_SIM_SERVER_NO_TWIN_SOCKET    (1ull << 5)  /* no twin socket */
#define VFIOMIG_SIM_SERVER_BYTEWISE          (1ull << 6)  /* what it sends comes byte by byte */
#define VFIOMIG_SIM_SERVER_STARTS_OVER       (1ull << 7)  /* L: stop-copy sends all again */
#define VFIOMIG_SIM_SERVER_MINOR_ZERO        (1ull << 8)  /* speaks 0.0 only */
#define VFIOMIG_SIM_SERVER_MINOR_ABOVE       (1ull << 9)  /* its minor is above the client's */
#define VFIOMIG_SIM_SERVER_MAJOR_ONE         (1ull << 10) /* answers with major version 1 */
#define VFIOMIG_SIM_SERVER_TWIN_LIES         (1ull << 11) /* the twin socket is not where it says */
#define VFIOMIG_SIM_SERVER_CROSSING_FATAL    (1ull << 12) /* L: crossing commands end all */
#define VFIOMIG_SIM_SERVER_LEAVING_RESETS    (1ull << 13) /* L: reset when the client leaves */
#define VFIOMIG_SIM_SERVER_CLIENT_LIMIT_ONLY (1ull << 14) /* L: for data, only the client's limit */
#define VFIOMIG_SIM_SERVER_MAP_AGAIN         (1ull << 15) /* L: mapping again is no error */
#define VFIOMIG_SIM_SERVER_LIBVFIO_USER      0xf09full    /* all of L; the sim needs its own, too */

/* How a server is made. Set struct_size, and everything else that you do not need to zero. */
struct vfiomig_sim_server_options {
    uint32_t struct_size;   /* sizeof(struct vfiomig_sim_server_options) */
    uint32_t delay_us;      /* microseconds that pass before each message that it sends */
    uint64_t quirks;
    uint32_t max_data_xfer; /* the most bytes of data at once; default 1 MiB, at most 64 MiB */
    uint32_t max_msg_fds;   /* descriptors with a message; default 8, at most 253 */
    uint32_t max_dma_maps;  /* mappings; default 65535 */
    uint32_t reply_timeout_ms; /* for replies to its own commands; default 60000 */
};

/* What becomes of a message that the server should send. value is that of
 * vfiomig_sim_server_inject_message(). */
#define VFIOMIG_SIM_SERVER_CLOSE               0u  /* the connection is closed instead */
#define VFIOMIG_SIM_SERVER_CLOSE_WITHIN        1u  /* closed after value bytes of it */
#define VFIOMIG_SIM_SERVER_SILENCE             2u  /* it is not sent */
#define VFIOMIG_SIM_SERVER_LATE                3u  /* it comes value microseconds late */
#define VFIOMIG_SIM_SERVER_WRONG_ID            4u  /* it has another id */
#define VFIOMIG_SIM_SERVER_WRONG_COMMAND       5u  /* it has value as its command */
#define VFIOMIG_SIM_SERVER_WRONG_TYPE          6u  /* reply and command change places */
#define VFIOMIG_SIM_SERVER_WRONG_SIZE          7u  /* it has value as its size */
#define VFIOMIG_SIM_SERVER_ERROR               8u  /* it is an error, with the number value */
#define VFIOMIG_SIM_SERVER_ERROR_WITH_PAYLOAD  9u  /* the same, and it keeps its payload */
#define VFIOMIG_SIM_SERVER_FDS                 10u /* it has value descriptors, at least 1 */
#define VFIOMIG_SIM_SERVER_NONSENSE            11u /* it is something else, by seed value */
#define VFIOMIG_SIM_SERVER_PAYLOAD             12u /* its payload is, by seed value */
#define VFIOMIG_SIM_SERVER_CUT                 13u /* it ends value bytes earlier */
#define VFIOMIG_SIM_SERVER_MORE                14u /* it has value bytes more */
#define VFIOMIG_SIM_SERVER_CLAIMS              15u /* of data: says value bytes more */
#define VFIOMIG_SIM_SERVER_ELSEWHERE           16u /* of DMA: about the address value */

/* 0 or -errno. Without options (NULL) all are the defaults. -EINVAL also for a sim that speaks
 * one of the older protocols, or is in a peer-to-peer state. The sim lives at least as long as
 * its server. */
int vfiomig_sim_server_new(struct vfiomig_sim *sim,
                           const struct vfiomig_sim_server_options *options,
                           struct vfiomig_sim_server **out);

/* When no call on it is in progress. */
void vfiomig_sim_server_free(struct vfiomig_sim_server *server);

/* Serves one client over a connected socket, which becomes the server's and is closed in any
 * case. Returns 0 when the client has left or the server was stopped; -EBUSY while it serves on
 * another thread. The device stays as the client leaves it; its mappings and interrupts are
 * gone. */
int vfiomig_sim_server_serve(struct vfiomig_sim_server *server, int fd);

/* Makes a socket at a path and serves one client after the other until the server is stopped;
 * then it removes the socket and returns 0. A second client can connect while there is one, and
 * is not answered before that one leaves. -EBUSY as above; -EADDRINUSE if there is something at
 * the path. */
int vfiomig_sim_server_listen(struct vfiomig_sim_server *server, const char *path);

/* Ends what serves, and what will, from any thread. */
void vfiomig_sim_server_stop(struct vfiomig_sim_server *server);

/* The device writes len bytes to the guest's memory, between two commands of the client. What
 * the client has mapped with a descriptor is written there, and is in the log. Where it has
 * mapped without one, the client is sent messages, which it must answer meanwhile, and nothing
 * is logged. 0; -ENOTCONN without a client, -ENOENT where nothing is mapped, -EACCES where the
 * device may not write, -EPERM while it is stopped, -ENODEV when it is gone, or what the client
 * answers. -ETIMEDOUT, and the client is left, if it does not answer in time. */
int vfiomig_sim_server_dma_write(struct vfiomig_sim_server *server, uint64_t iova,
                                 const void *data, size_t len);

/* The device reads there. Returns as above. */
int vfiomig_sim_server_dma_read(struct vfiomig_sim_server *server, uint64_t iova,
                                void *data, size_t len);

/* Something (VFIOMIG_SIM_SERVER_CLOSE and what follows it) goes wrong with the nth message (from
 * 1, counted from now) that the server sends about a command, by its number in the protocol: a
 * reply, or DMA_READ and DMA_WRITE (11, 12), which are its own. 0: about any. Several may be
 * pending. Returns 0; -EINVAL, also for VFIOMIG_SIM_SERVER_MORE with more than 64 MiB. */
int vfiomig_sim_server_inject_message(struct vfiomig_sim_server *server, uint32_t command,
                                      uint64_t nth, uint32_t what, uint64_t value);

/* Forgets what was to go wrong. */
void vfiomig_sim_server_clear_message_faults(struct vfiomig_sim_server *server);

/* Commands with a number that came so far; 0: those that the protocol does not have. */
uint64_t vfiomig_sim_server_count(struct vfiomig_sim_server *server, uint32_t command);

#ifdef __cplusplus
}
#endif
#endif
