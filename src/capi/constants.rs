// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers of the C ABI. Each stands for one of the core's; a test holds them together.

/// Send what there is and call again.
pub const VFIOMIG_NEXT_MORE: i32 = 0;
/// The device runs and has nothing to send now. In QEMU's format also: the stopped device's data is
/// complete, and the configuration is wanted.
pub const VFIOMIG_NEXT_DRAINED: i32 = 1;
/// The stream is complete.
pub const VFIOMIG_NEXT_END: i32 = 2;

/// None of these bits: go on.
pub const VFIOMIG_PUSH_MORE: i32 = 0;
/// The stream is complete. The same number as VFIOMIG_NEXT_END; bit 0 has no meaning.
pub const VFIOMIG_PUSH_END: i32 = 1 << 1;
/// All initial data was taken by the driver; tell the source.
pub const VFIOMIG_PUSH_INITIAL_LOADED: i32 = 1 << 2;
/// The source started again; what was loaded before is void.
pub const VFIOMIG_PUSH_RESTARTED: i32 = 1 << 3;
/// QEMU's format: a section has ended.
pub const VFIOMIG_PUSH_SECTION_END: i32 = 1 << 4;
/// QEMU's format: the VMM's configuration comes next in its stream; read it, then go on.
pub const VFIOMIG_PUSH_CONFIG: i32 = 1 << 5;
/// QEMU's format: the configuration that came in a packet may be loaded now.
pub const VFIOMIG_PUSH_CONFIG_READY: i32 = 1 << 6;

/// The library's own: verified, with identity and end.
pub const VFIOMIG_FORMAT_NATIVE: u32 = 0;
/// As stock QEMU's VFIO devices do it.
pub const VFIOMIG_FORMAT_QEMU: u32 = 1;

/// The smallest buffer that vfiomig_save_next() takes, in bytes.
pub const VFIOMIG_MIN_BUFFER: u32 = 4096;
/// A good size of the buffer for vfiomig_save_next(), in bytes: one full frame. Larger ones hold
/// several.
pub const VFIOMIG_GOOD_BUFFER: u32 = 128 << 10;
/// The same in QEMU's format: one full piece of data of 1 MiB with its head and a tag.
pub const VFIOMIG_QEMU_BUFFER: u32 = (1 << 20) + 24;

/// The driver lost track of the device; only a reset helps.
pub const VFIOMIG_STATE_ERROR: u32 = 0;
/// Stopped.
pub const VFIOMIG_STATE_STOP: u32 = 1;
/// Running.
pub const VFIOMIG_STATE_RUNNING: u32 = 2;
/// Stopped, with its state being read.
pub const VFIOMIG_STATE_STOP_COPY: u32 = 3;
/// Stopped, with its state being written.
pub const VFIOMIG_STATE_RESUMING: u32 = 4;
/// Running, but starting no peer-to-peer DMA.
pub const VFIOMIG_STATE_RUNNING_P2P: u32 = 5;
/// Running, with its state being read.
pub const VFIOMIG_STATE_PRE_COPY: u32 = 6;
/// As PRE_COPY, but starting no peer-to-peer DMA.
pub const VFIOMIG_STATE_PRE_COPY_P2P: u32 = 7;
/// Not known.
pub const VFIOMIG_STATE_UNKNOWN: u32 = u32::MAX;

/// The kill switch: probe the device, but refuse to migrate it.
pub const VFIOMIG_DEVICE_DISABLED: u32 = 1;

/// The device can be saved and loaded.
pub const VFIOMIG_CAP_MIGRATE: u32 = 1;
/// It can be saved while the guest runs.
pub const VFIOMIG_CAP_PRE_COPY: u32 = 2;
/// It has peer-to-peer states.
pub const VFIOMIG_CAP_P2P: u32 = 4;
/// It logs the pages that it writes, and the kernel can report them.
pub const VFIOMIG_CAP_DMA_LOGGING: u32 = 8;
/// It says when initial data starts again during pre-copy.
pub const VFIOMIG_CAP_PRECOPY_INFO_V2: u32 = 16;
/// state_size is credible.
pub const VFIOMIG_CAP_STATE_SIZE: u32 = 32;

/// The device cannot be migrated.
pub const VFIOMIG_SEVERITY_BLOCKS: u32 = 0;
/// It can, but with a longer downtime, more pages resent, or not together with other devices.
pub const VFIOMIG_SEVERITY_LIMITS: u32 = 1;
/// Good to know.
pub const VFIOMIG_SEVERITY_INFO: u32 = 2;

/// Switched off by the VMM.
pub const VFIOMIG_REASON_DISABLED: u32 = 1;
/// The kernel has no VFIO migration.
pub const VFIOMIG_REASON_KERNEL_TOO_OLD: u32 = 2;
/// The driver bound to the device does not support migration.
pub const VFIOMIG_REASON_DRIVER_NO_MIGRATION: u32 = 3;
/// The driver's migration flags lack STOP_COPY.
pub const VFIOMIG_REASON_NO_STOP_COPY: u32 = 4;
/// The device's state cannot be read.
pub const VFIOMIG_REASON_STATE_UNREADABLE: u32 = 5;
/// The device is in ERROR; reset it.
pub const VFIOMIG_REASON_DEVICE_IN_ERROR: u32 = 6;
/// The device was left in a saving or resuming state by an earlier owner.
pub const VFIOMIG_REASON_STALE_STATE: u32 = 7;
/// No pre-copy: the whole state is sent while the guest is stopped.
pub const VFIOMIG_REASON_NO_PRE_COPY: u32 = 8;
/// No peer-to-peer states: several devices cannot be stopped safely together.
pub const VFIOMIG_REASON_NO_P2P: u32 = 9;
/// The size of the state is not known beforehand.
pub const VFIOMIG_REASON_NO_DATA_SIZE: u32 = 10;
/// The device does not log the pages it writes.
pub const VFIOMIG_REASON_NO_DMA_LOGGING: u32 = 11;
/// The device logs the pages it writes, but the kernel cannot report them.
pub const VFIOMIG_REASON_DMA_LOGGING_UNUSABLE: u32 = 12;
/// The kernel does not say when initial data starts again.
pub const VFIOMIG_REASON_NO_PRECOPY_INFO_V2: u32 = 13;

/// Write PCI_COMMAND again: memory, I/O and bus-master enables are not part of the state.
pub const VFIOMIG_FIXUP_PCI_COMMAND: u32 = 1;
/// Set up INTx, MSI and MSI-X eventfds again (VFIO_DEVICE_SET_IRQS).
pub const VFIOMIG_FIXUP_INTERRUPTS: u32 = 2;

/// Nothing had to be recovered: the device is in the state it was in before.
pub const VFIOMIG_OUTCOME_KEPT: u32 = 0;
/// The device was brought back without a reset; a data session is gone.
pub const VFIOMIG_OUTCOME_RECOVERED: u32 = 1;
/// The device was reset: RUNNING, with its contents lost.
pub const VFIOMIG_OUTCOME_RESET: u32 = 2;
/// The device could not be reset; only the VMM's harder resets may help.
pub const VFIOMIG_OUTCOME_LOST: u32 = 3;

/// The caller's arguments were at fault.
pub const VFIOMIG_OP_NONE: u32 = 0;
/// Asking for a feature.
pub const VFIOMIG_OP_PROBE: u32 = 1;
/// Reading the device's state.
pub const VFIOMIG_OP_GET_STATE: u32 = 2;
/// Changing the device's state.
pub const VFIOMIG_OP_SET_STATE: u32 = 3;
/// Reading from the data fd.
pub const VFIOMIG_OP_DATA_READ: u32 = 4;
/// Writing to the data fd.
pub const VFIOMIG_OP_DATA_WRITE: u32 = 5;
/// Asking for the pre-copy estimates.
pub const VFIOMIG_OP_PRECOPY_INFO: u32 = 6;
/// Resetting the device.
pub const VFIOMIG_OP_RESET: u32 = 7;
/// Checking the stream.
pub const VFIOMIG_OP_STREAM: u32 = 8;
/// A callback of the VMM refused.
pub const VFIOMIG_OP_CALLBACK: u32 = 9;

/// The device went from one state to another.
pub const VFIOMIG_EVENT_STATE_CHANGED: u32 = 1;
/// A failed change was recovered from, or not: see the outcome.
pub const VFIOMIG_EVENT_RECOVERED: u32 = 2;
/// The device was reset, by the library or behind it.
pub const VFIOMIG_EVENT_RESET: u32 = 3;
/// A save started again because the device was reset: all that was sent before is void.
pub const VFIOMIG_EVENT_SAVE_RESTARTED: u32 = 4;
/// The VMM must redo something before the device runs.
pub const VFIOMIG_EVENT_FIXUPS_NEEDED: u32 = 5;
/// The source of a load started again: blobs and acknowledgements of before are void. Comes in its
/// place among the blobs.
pub const VFIOMIG_EVENT_LOAD_RESTARTED: u32 = 6;

/// Reads return -EAGAIN instead of blocking, where the driver can do that.
pub const VFIOMIG_SAVE_NONBLOCK: u32 = 1;
/// Leaves out pre-copy even where the device has it.
pub const VFIOMIG_SAVE_NO_PRE_COPY: u32 = 2;
/// QEMU's format: says in the stream when all initial data has been sent, and again when the device
/// has begun it again. For a migration with the capability switchover-ack.
pub const VFIOMIG_SAVE_SWITCHOVER_ACK: u32 = 4;
/// QEMU's format: what the stopped device gives comes as packets. For multifd device-state
/// transfer.
pub const VFIOMIG_SAVE_PACKETS: u32 = 8;
/// QEMU's format, with VFIOMIG_SAVE_SWITCHOVER_ACK: says it once, whatever the device does. For a
/// target older than QEMU 11.1 or with switchover-ack-legacy=on, which fails on a second one.
pub const VFIOMIG_SAVE_ACK_ONCE: u32 = 16;

/// initial_bytes and dirty_bytes are there.
pub const VFIOMIG_PENDING_PRE_COPY_KNOWN: u32 = 1;
/// stop_copy_bytes is there.
pub const VFIOMIG_PENDING_STOP_COPY_KNOWN: u32 = 2;
/// The mark that all initial data of this generation was sent has been returned to the caller. Never
/// set where the stream has no such mark: QEMU's format without VFIOMIG_SAVE_SWITCHOVER_ACK.
pub const VFIOMIG_PENDING_INITIAL_SENT: u32 = 4;

/// The target has committed: the device stays in STOP.
pub const VFIOMIG_ENDING_RELEASE: u32 = 1;
/// The guest goes on here: the device goes back to where it was before the save.
pub const VFIOMIG_ENDING_KEEP: u32 = 2;
/// As VFIOMIG_ENDING_KEEP, but without peer-to-peer DMA where the device has such a state: for several
/// devices, of which none may run before all have left the stopped states. Then call
/// vfiomig_device_run() for each.
pub const VFIOMIG_ENDING_KEEP_QUIESCED: u32 = 3;
/// As VFIOMIG_ENDING_KEEP, for a guest that does not run: the device goes to STOP.
pub const VFIOMIG_ENDING_KEEP_STOPPED: u32 = 4;

/// Refuse a stream whose device_index is not that of the options.
pub const VFIOMIG_LOAD_CHECK_DEVICE_INDEX: u32 = 1;
/// Refuse a stream whose migration_id is not that of the options.
pub const VFIOMIG_LOAD_CHECK_MIGRATION_ID: u32 = 2;
/// QEMU's format: what the stopped device gave comes as packets, by vfiomig_load_push_packet().
pub const VFIOMIG_LOAD_PACKETS: u32 = 4;

/// Pass over the driver's name.
pub const VFIOMIG_IGNORE_DRIVER: u32 = 1;
/// Pass over the PCI subsystem vendor and device.
pub const VFIOMIG_IGNORE_PCI_SUBSYSTEM: u32 = 2;
/// Pass over the PCI revision.
pub const VFIOMIG_IGNORE_PCI_REVISION: u32 = 4;
/// Pass over the mdev type.
pub const VFIOMIG_IGNORE_MDEV_TYPE: u32 = 8;
/// Pass over the vendor string.
pub const VFIOMIG_IGNORE_VENDOR_DATA: u32 = 16;
/// Compare nothing.
pub const VFIOMIG_IGNORE_ALL: u32 = 32;
/// Pass over the vendor's type.
pub const VFIOMIG_IGNORE_VENDOR_TYPE: u32 = 64;
/// Pass over the driver's version: where its vendor says that both take each other's state.
pub const VFIOMIG_IGNORE_DRIVER_VERSION: u32 = 128;

/// Devices cannot write to it.
pub const VFIOMIG_MAPPING_READ_ONLY: u32 = 1;
/// What lies there changes without notice: ops->translate is asked whenever a page is dirty.
pub const VFIOMIG_MAPPING_TRANSLATE: u32 = 2;
/// No mapping, but addresses in which mappings will come and go (of a vIOMMU): devices log them
/// from the beginning where they can. Windows cannot be taken back.
pub const VFIOMIG_MAPPING_WINDOW: u32 = 4;

/// The device's own log (VFIO_DEVICE_FEATURE_DMA_LOGGING_*).
pub const VFIOMIG_WRITER_DEVICE_LOG: u32 = 1;
/// The page table of an iommufd.
pub const VFIOMIG_WRITER_HWPT: u32 = 2;
/// The VMM's own tracker.
pub const VFIOMIG_WRITER_CUSTOM: u32 = 4;
/// The type1 container: pages that are pinned for devices are dirty at every time.
pub const VFIOMIG_WRITER_TYPE1: u32 = 8;
/// Starting fails rather than count every page as dirty at every time.
pub const VFIOMIG_WRITER_REQUIRED: u32 = 16;
/// The number of no writer.
pub const VFIOMIG_NO_WRITER: u32 = u32::MAX;

/// Tracking is off.
pub const VFIOMIG_TRACKER_NONE: u32 = 0;
/// The device's own log.
pub const VFIOMIG_TRACKER_DEVICE_LOG: u32 = 1;
/// The page table of an iommufd.
pub const VFIOMIG_TRACKER_HWPT: u32 = 2;
/// The VMM's own.
pub const VFIOMIG_TRACKER_CUSTOM: u32 = 3;
/// The type1 container.
pub const VFIOMIG_TRACKER_TYPE1: u32 = 4;
/// None: every page is dirty at every time.
pub const VFIOMIG_TRACKER_ALL_DIRTY: u32 = 5;

/// Something failed, and pages count as dirty because of that: vfiomig_dirty_get_error().
pub const VFIOMIG_DIRTY_ERRORS: i32 = 1;
/// Some pages were not watched by every writer's tracker and count as dirty, most of them at every
/// time: vfiomig_dirty_get_writer_stats() tells which writer counts how much so, and why.
pub const VFIOMIG_DIRTY_UNWATCHED: i32 = 2;

/// No messages.
pub const VFIOMIG_LOG_OFF: u32 = 0;
/// Errors.
pub const VFIOMIG_LOG_ERROR: u32 = 1;
/// And warnings: what went wrong and was recovered from.
pub const VFIOMIG_LOG_WARN: u32 = 2;
/// And what an operator wants to know.
pub const VFIOMIG_LOG_INFO: u32 = 3;
/// And every change of state.
pub const VFIOMIG_LOG_DEBUG: u32 = 4;
/// And everything.
pub const VFIOMIG_LOG_TRACE: u32 = 5;
