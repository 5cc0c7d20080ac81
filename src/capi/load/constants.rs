// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers of `vfiomig_load_*`.

use crate::capi::numbers::same_numbers;
use crate::identity::ignore;

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

/// Refuse a stream whose device_index is not that of the options.
pub const VFIOMIG_LOAD_CHECK_DEVICE_INDEX: u32 = 1 << 0;
/// Refuse a stream whose migration_id is not that of the options.
pub const VFIOMIG_LOAD_CHECK_MIGRATION_ID: u32 = 1 << 1;
/// QEMU's format: what the stopped device gave comes as packets, by vfiomig_load_push_packet().
pub const VFIOMIG_LOAD_PACKETS: u32 = 1 << 2;

/// Pass over the driver's name.
pub const VFIOMIG_IGNORE_DRIVER: u32 = 1 << 0;
/// Pass over the PCI subsystem vendor and device.
pub const VFIOMIG_IGNORE_PCI_SUBSYSTEM: u32 = 1 << 1;
/// Pass over the PCI revision.
pub const VFIOMIG_IGNORE_PCI_REVISION: u32 = 1 << 2;
/// Pass over the mdev type.
pub const VFIOMIG_IGNORE_MDEV_TYPE: u32 = 1 << 3;
/// Pass over the vendor string.
pub const VFIOMIG_IGNORE_VENDOR_DATA: u32 = 1 << 4;
/// Compare nothing.
pub const VFIOMIG_IGNORE_ALL: u32 = 1 << 5;
/// Pass over the vendor's type.
pub const VFIOMIG_IGNORE_VENDOR_TYPE: u32 = 1 << 6;
/// Pass over the driver's version: where its vendor says that both take each other's state.
pub const VFIOMIG_IGNORE_DRIVER_VERSION: u32 = 1 << 7;

same_numbers!(
    VFIOMIG_IGNORE_DRIVER = ignore::DRIVER,
    VFIOMIG_IGNORE_PCI_SUBSYSTEM = ignore::PCI_SUBSYSTEM,
    VFIOMIG_IGNORE_PCI_REVISION = ignore::PCI_REVISION,
    VFIOMIG_IGNORE_MDEV_TYPE = ignore::MDEV_TYPE,
    VFIOMIG_IGNORE_VENDOR_DATA = ignore::VENDOR_DATA,
    VFIOMIG_IGNORE_ALL = ignore::ALL,
    VFIOMIG_IGNORE_VENDOR_TYPE = ignore::VENDOR_TYPE,
    VFIOMIG_IGNORE_DRIVER_VERSION = ignore::DRIVER_VERSION,
);
