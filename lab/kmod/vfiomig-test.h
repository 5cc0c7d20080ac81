/* SPDX-License-Identifier: GPL-2.0 */
/*
 * vfiomig-test: a mediated device without hardware that implements all of VFIO migration and DMA
 * logging, and misbehaves on request. README.md says how to use it; this is how it is made.
 *
 * Locks, outermost first: region.mutex (a region's session), state_mutex (which migration state), reset_mutex (deferred resets), lock
 * (contents and streams), load.mutex (whether the load may go on), log_mutex. open_mutex is taken
 * outside the last two. pins.mutex is neither taken inside any of these nor held around them, but
 * around the kernel's own: vfio_pin_pages() and vfio_unpin_pages() are called with it held, and
 * what the kernel calls before it unmaps takes it. Nothing sleeps for long with `lock` held, except
 * when copying to and from user space.
 */
#ifndef VFIOMIG_TEST_H
#define VFIOMIG_TEST_H

#include <linux/device.h>
#include <linux/fs.h>
#include <linux/mdev.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/vfio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

/* The unit of contents and of the stream. */
#define VMT_BLOCK_SHIFT 12
#define VMT_BLOCK (1u << VMT_BLOCK_SHIFT)
#define VMT_MAX_SIZE (1ull << 30)
#define VMT_SCRATCH 64
#define VMT_NUM_STATES 8
/* The largest rate in bytes per second: with it, a second times the rate fits in 64 bits. */
#define VMT_MAX_RATE (8ull << 30)

/* The unit of logging, and the limits of the load. */
#define VMT_UNIT_SHIFT 12
#define VMT_MAX_TRUTH (16ull << 30)
#define VMT_MAX_LOAD (1ull << 24)

/* A region's offset on the fd is its number shifted by this. */
#define VMT_OFFSET_SHIFT 40
#define VMT_REGION_INDEX VFIO_PCI_NUM_REGIONS
#define VMT_MAX_WINDOW (64ull << 20)
#define VMT_MAX_WINDOWS 5

#define VMT_VENDOR 0x1234
#define VMT_DEVICE 0xf10e

/* --- the stream, little-endian ------------------------------------------------------------------ */

#define VMT_STREAM_MAGIC 0x3174736574676d76ull /* "vmgtest1" */
#define VMT_STREAM_VERSION 1
#define VMT_RECORD_MAGIC 0x63657276u /* "vrec" */

struct vmt_header {
	__le64 magic;
	__le32 version;
	__le32 block;
	__le64 state_size;
	__le64 seed;
	__le64 reserved;
	__le64 check; /* over the fields before it */
} __packed;

enum vmt_record_type {
	VMT_RECORD_BLOCK = 1,
	VMT_RECORD_END = 2,
};

struct vmt_record {
	__le32 magic;
	__le32 type;
	__le64 offset;
	__le32 generation;
	__le32 length;
	__le64 check; /* over the fields before it and the seed */
} __packed;

struct vmt_end {
	__le64 digest;
	u8 scratch[VMT_SCRATCH];
} __packed;

#define VMT_BUFFER (sizeof(struct vmt_record) + VMT_BLOCK)

/* --- a device ----------------------------------------------------------------------------------- */

/* What a device holds: every byte follows from seed, place and its block's generation. */
struct vmt_contents {
	u64 seed;
	u32 *generation;
	u8 scratch[VMT_SCRATCH];
};

enum vmt_op {
	VMT_OP_OPEN,
	VMT_OP_SET_STATE,
	VMT_OP_GET_STATE,
	VMT_OP_DATA_SIZE,
	VMT_OP_READ,
	VMT_OP_WRITE,
	VMT_OP_PRECOPY_INFO,
	VMT_OP_RESET,
	VMT_OP_LOG_START,
	VMT_OP_LOG_STOP,
	VMT_OP_LOG_REPORT,
	VMT_OP_ACCESS,
	VMT_NUM_OPS,
};

/* The nth call from now on fails, and so do the `times - 1` after it (0: all). */
struct vmt_fault {
	u32 nth, error, times;
};

struct vmt_counters {
	u64 precopy_infos, arcs, resets, deferred_resets;
	u64 touched, faults, log_starts, log_reports, log_marked, log_outside, log_reported;
	u64 unmaps, unmap_unpinned;
};

/* Addresses at which something fails; none if the error is 0. */
struct vmt_span {
	u64 start, last;
	u32 error;
};

struct vmt_stream;

/* What a save has sent: the blocks before `next`, of which those in `dirty` have changed since. */
struct vmt_sent {
	u32 next;
	unsigned long *dirty;
	u64 dirty_bytes; /* what they take in the stream */
};

/* Reading, or writing, of data streams. */
struct vmt_flow {
	u64 rate, max; /* knobs: bytes per second, and in one call */
	u64 ready_ns; /* when the throttle lets the next transfer pass */
	u64 calls, bytes;
};

struct vmt_log {
	bool active;
	u32 num_ranges;
	u64 page_size;
	u64 pages; /* marked and not yet reported, in units of 4 KiB */
	struct vmt_log_range *ranges;
	struct xarray chunks;
	u32 num_chunks;
	int lost; /* why a write of the load could not be kept: there will be no more reports */

	/* All pages in a range that were written to, logged or not, since it was set. */
	unsigned long *truth;
	u64 truth_first, truth_units;

	struct vmt_span refuse, fail_report; /* knobs */
};

struct vmt_load {
	struct mutex mutex; /* also for changing vmt.running */
	struct task_struct *task;
	u64 iova, length, rate, seed; /* no length: there is none */
	u64 writes;
	u64 done_ns;
};

struct vmt_pins {
	struct mutex mutex;
	bool open;
	struct xarray pages;
	u64 count;
	u64 unmapped_ns; /* when the kernel last wanted to unmap something */
};

enum vmt_layout {
	VMT_LAYOUT_NONE, /* nothing can be mapped */
	VMT_LAYOUT_WHOLE, /* everything, and no capability says so */
	VMT_LAYOUT_DATA, /* all but the fields */
	VMT_LAYOUT_TWO, /* two areas, with a hole between them, in the wrong order */
	VMT_LAYOUT_OUTSIDE, /* an area that cannot be */
	VMT_NUM_LAYOUTS,
};

/* What a driver may say of its regions, and what of its numbers, that cannot be right. */
enum vmt_chain {
	VMT_CHAIN_OUTSIDE = 1, /* a capability behind the end */
	VMT_CHAIN_TWO_TYPES, /* a region with two types */
	VMT_CHAIN_TWICE, /* two regions of the same type */
	VMT_CHAIN_LOOP, /* goes in circles; newer kernels write the chain themselves */
	VMT_NUM_CHAINS,
};

enum vmt_lie {
	VMT_LIE_LENGTH = 1, /* more data than there is room for */
	VMT_LIE_HUGE, /* numbers that no device has */
	VMT_LIE_PLACE, /* v1: chunks lie where the fields are */
	VMT_LIE_SHORT, /* the regions have too few bytes */
	VMT_LIE_VERSION, /* RFC: fields of another version */
	VMT_LIE_CAPS, /* RFC: a capability that nobody knows */
	VMT_LIE_MISSING, /* RFC: no region for what its capabilities say */
	VMT_NUM_LIES,
};

/* What is in an RFC's first snapshot with LOGGING. */
enum vmt_first {
	VMT_FIRST_ALL, /* everything */
	VMT_FIRST_NOTHING, /* what has changed since LOGGING was set */
	VMT_FIRST_SINCE, /* what has changed since memory was last read, if it was */
	VMT_NUM_FIRSTS,
};

/* A region of an older protocol. */
struct vmt_window {
	u32 type, subtype;
	u64 size;
	void *memory; /* while the device is open; none if there are only fields */
	u64 data; /* where the fields end */
};

/* A snapshot of the memory of a device of the RFC: one that was taken, or one that comes. */
struct vmt_snapshot {
	u8 *bytes; /* NULL: there is none */
	u64 len;
	unsigned long *chunks; /* which were fetched, or have come */
	u32 num_chunks, done;
};

struct vmt_rfc {
	struct vmt_snapshot snapshot;
	u64 pos, config_len, start_addr;
	bool was_running; /* before it was loaded */
	struct vmt_sent since; /* VMT_FIRST_SINCE */
};

struct vmt_region_ops;

/* The regions of an older protocol. */
struct vmt_region {
	const struct vmt_region_ops *ops; /* NULL: there are none */
	struct mutex mutex;
	struct vmt_window windows[VMT_MAX_WINDOWS];
	u32 num;
	bool ready; /* while the device is open */

	/* A session. */
	struct file *file;
	struct vmt_stream *stream; /* as long as there is the file */
	bool refused; /* something of a load: nothing more is taken */
	/* v1 */
	u64 window; /* the length of a place */
	u32 chunk; /* the length of one that is there and was not taken; 0: there is none */
	u32 number; /* of the next */
	bool asked, counted; /* REG_OFFSET was read since REG_PENDING was; REG_PENDING since the state changed */
	struct vmt_rfc rfc;

	/* Knobs. Those of the first line count from the next open on. */
	u64 window_bytes, config_bytes, bitmap_bytes, no_memory, chain, lie, mid;
	u64 layout, alternate, zero_size, endless, strict, first, break_loaded;
};

struct vmt {
	struct vfio_device vdev;
	struct vmt_region region;

	struct mutex state_mutex;
	struct mutex reset_mutex;
	bool deferred_reset;
	enum vfio_device_mig_state state;

	struct mutex lock;
	struct vmt_contents contents;
	u64 size;
	u32 num_blocks;
	bool running; /* changed with load.mutex held as well */
	struct vmt_stream *stream;
	struct vmt_sent *sent; /* of the stream, if that saves */
	struct vmt_flow reading, writing;
	wait_queue_head_t wait;
	struct delayed_work tick;
	u64 dirtied_ns; /* up to when the dirty rate has been applied */
	u32 next_dirty;

	/* Knobs, under `lock`. */
	u64 seed; /* contents after power-on and reset */
	u64 initial_size;
	u64 dirty_rate;
	u64 drained; /* errno of a drained read in pre-copy; 0 is allowed */
	u64 corrupt; /* block to send with a wrong bit; ~0: none */
	u64 fail_to_error;
	u64 log_page_size, log_max_ranges, log_limit_ranges, log_limit_bytes, log_lie;
	u64 latency_us[VMT_NUM_STATES];

	spinlock_t fault_lock;
	struct vmt_fault faults[VMT_NUM_OPS];
	struct vmt_counters counters;

	struct mutex log_mutex;
	struct vmt_log log;
	struct vmt_load load;
	struct vmt_pins pins;

	struct mutex open_mutex;
	bool open;

	u8 config[256];
};

static inline struct vmt *vmt_of(struct vfio_device *vdev)
{
	return container_of(vdev, struct vmt, vdev);
}

/* contents.c */
u64 vmt_mix(u64 x);
void vmt_fill_block(const struct vmt_contents *contents, u32 block, u32 generation, void *to, u32 len);
u32 vmt_block_len(const struct vmt *vmt, u32 block);
u32 vmt_block_bytes(const struct vmt *vmt, u32 block);
u64 vmt_digest(const struct vmt *vmt, const struct vmt_contents *contents);
int vmt_resize(struct vmt *vmt, u64 size);
void vmt_power_on(struct vmt *vmt);
void vmt_touch(struct vmt *vmt, u32 block);
void vmt_catch_up(struct vmt *vmt);
void vmt_set_running(struct vmt *vmt, bool running);
void vmt_set_running_locked(struct vmt *vmt, bool running);

/* faults.c */
int vmt_check_fault(struct vmt *vmt, enum vmt_op op);

/* save.c and stream.c; more in stream.h */
int vmt_stream_reinit(struct vmt *vmt);
void vmt_tick(struct work_struct *work);

/* migration.c */
extern const struct vfio_migration_ops vmt_migration_ops;
void vmt_migration_close(struct vmt *vmt);
struct file *vmt_change_state(struct vmt *vmt, enum vfio_device_mig_state state);
int vmt_reset(struct vmt *vmt);
void vmt_state_unlock(struct vmt *vmt);

void vmt_set_broken(struct vmt *vmt);
int vmt_run_again(struct vmt *vmt);

/* regions.c; more in regions.h */
void vmt_region_init(struct vmt *vmt, const struct vmt_region_ops *ops);
int vmt_region_open(struct vmt *vmt);
void vmt_region_close(struct vmt *vmt);
int vmt_region_info(struct vmt *vmt, struct vfio_region_info *info, struct vfio_info_cap *caps);
void vmt_region_spoil(const struct vmt *vmt, u32 index, void *caps, size_t offset);
int vmt_region_mmap(struct vmt *vmt, struct vm_area_struct *vma);
ssize_t vmt_region_access(struct vmt *vmt, u32 index, char __user *to, const char __user *from, u64 at, size_t count);

/* v1.c and rfc.c */
extern const struct vmt_region_ops vmt_v1_ops, vmt_rfc_ops;

/* logging.c */
extern const struct vfio_log_ops vmt_log_ops;
void vmt_log_init(struct vmt *vmt);
void vmt_log_end(struct vmt *vmt);
int vmt_log_everything(struct vmt *vmt);
int vmt_log_take(struct vmt *vmt, u64 iova, u64 pages, unsigned long *bits);
int vmt_log_mark(struct vmt *vmt, u64 iova, u64 length, u64 stride);
void vmt_log_load(struct vmt *vmt, u64 iova);
int vmt_truth_begin(struct vmt *vmt, u64 iova, u64 length);
void vmt_truth_clear(struct vmt *vmt);
void vmt_truth_end(struct vmt *vmt);
u64 vmt_truth_pages(const struct vmt_log *log);
ssize_t vmt_truth_read(struct vmt *vmt, void *to, u64 offset, size_t len);

/* load.c */
void vmt_load_init(struct vmt *vmt);
int vmt_load_start(struct vmt *vmt, u64 iova, u64 length, u64 rate, u64 seed);
void vmt_load_stop(struct vmt *vmt);

/* pins.c */
void vmt_pins_init(struct vmt *vmt);
void vmt_pins_open(struct vmt *vmt);
void vmt_pins_close(struct vmt *vmt);
int vmt_pin(struct vmt *vmt, u64 iova, u64 length, u64 stride);
int vmt_unpin(struct vmt *vmt, u64 iova, u64 length, u64 stride);
void vmt_dma_unmap(struct vfio_device *vdev, u64 iova, u64 length);

/* knobs.c */
extern const struct attribute_group *vmt_groups[];

#endif
