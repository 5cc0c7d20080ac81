// SPDX-License-Identifier: MIT OR Apache-2.0
//! The constants of `vfiomig_load_*`.

use crate::capi::numbers::same_flags;
use crate::compat::Ignore;

/// None of these bits is set: go on.
pub const VFIOMIG_PUSH_MORE: i32 = 0;
/// The stream is complete. Has the same value as VFIOMIG_NEXT_END; bit 0 has no meaning.
pub const VFIOMIG_PUSH_END: i32 = 1 << 1;
/// The driver has taken all initial data; tell the source.
pub const VFIOMIG_PUSH_INITIAL_LOADED: i32 = 1 << 2;
/// The source started again; what was loaded before is void.
pub const VFIOMIG_PUSH_RESTARTED: i32 = 1 << 3;
/// QEMU's format: a section has ended.
pub const VFIOMIG_PUSH_SECTION_END: i32 = 1 << 4;
/// QEMU's format: the VMM's configuration comes next in its stream. Read it, then go on.
pub const VFIOMIG_PUSH_CONFIG: i32 = 1 << 5;
/// QEMU's format: the configuration that came in a packet may be loaded now.
pub const VFIOMIG_PUSH_CONFIG_READY: i32 = 1 << 6;

/// Refuse a stream whose device_index differs from that in the options.
pub const VFIOMIG_LOAD_CHECK_DEVICE_INDEX: u32 = 1 << 0;
/// Refuse a stream whose migration_id differs from that in the options.
pub const VFIOMIG_LOAD_CHECK_MIGRATION_ID: u32 = 1 << 1;
/// QEMU's format: what the stopped device returned comes as packets, through
/// vfiomig_load_push_packet().
pub const VFIOMIG_LOAD_PACKETS: u32 = 1 << 2;

/// Leave out the guard that the library has for the target's driver: mtty's and mlx5's have one. For
/// a driver whose format the guard does not know yet, and a source that is trusted.
pub const VFIOMIG_LOAD_NO_GUARD: u32 = 1 << 3;

/// Ignore the driver's name.
pub const VFIOMIG_IGNORE_DRIVER: u32 = 1 << 0;
/// Ignore the PCI subsystem vendor and device.
pub const VFIOMIG_IGNORE_PCI_SUBSYSTEM: u32 = 1 << 1;
/// Ignore the PCI revision.
pub const VFIOMIG_IGNORE_PCI_REVISION: u32 = 1 << 2;
/// Ignore the mdev type.
pub const VFIOMIG_IGNORE_MDEV_TYPE: u32 = 1 << 3;
/// Ignore the vendor string.
pub const VFIOMIG_IGNORE_VENDOR_DATA: u32 = 1 << 4;
/// Compare nothing.
pub const VFIOMIG_IGNORE_ALL: u32 = 1 << 5;
/// Ignore the vendor's type.
pub const VFIOMIG_IGNORE_VENDOR_TYPE: u32 = 1 << 6;
/// Ignore the driver's version, if its vendor says that both versions accept each other's state.
pub const VFIOMIG_IGNORE_DRIVER_VERSION: u32 = 1 << 7;

same_flags!(Ignore:
    VFIOMIG_IGNORE_DRIVER = DRIVER,
    VFIOMIG_IGNORE_PCI_SUBSYSTEM = PCI_SUBSYSTEM,
    VFIOMIG_IGNORE_PCI_REVISION = PCI_REVISION,
    VFIOMIG_IGNORE_MDEV_TYPE = MDEV_TYPE,
    VFIOMIG_IGNORE_VENDOR_DATA = VENDOR_DATA,
    VFIOMIG_IGNORE_ALL = EVERYTHING,
    VFIOMIG_IGNORE_VENDOR_TYPE = VENDOR_TYPE,
    VFIOMIG_IGNORE_DRIVER_VERSION = DRIVER_VERSION,
);
