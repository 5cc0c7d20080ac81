// SPDX-License-Identifier: MIT OR Apache-2.0
//! The constants of `vfiomig_dirty_*`.

use crate::capi::numbers::same_numbers;
use crate::dirty::TrackerKind;

/// Devices cannot write to the mapping.
pub const VFIOMIG_MAPPING_READ_ONLY: u32 = 1 << 0;
/// What lies there changes without notice: ops->translate is asked whenever a page is dirty.
pub const VFIOMIG_MAPPING_TRANSLATE: u32 = 1 << 1;
/// Not a mapping, but addresses in which mappings will come and go (those of a vIOMMU). Devices log
/// them from the start if they can. Windows cannot be taken back.
pub const VFIOMIG_MAPPING_WINDOW: u32 = 1 << 2;

/// The device's own log (VFIO_DEVICE_FEATURE_DMA_LOGGING_*).
pub const VFIOMIG_WRITER_DEVICE_LOG: u32 = 1 << 0;
/// The page table of an iommufd.
pub const VFIOMIG_WRITER_HWPT: u32 = 1 << 1;
/// The VMM's own tracker.
pub const VFIOMIG_WRITER_CUSTOM: u32 = 1 << 2;
/// The type1 container: pages that are pinned for devices are always dirty.
pub const VFIOMIG_WRITER_TYPE1: u32 = 1 << 3;
/// Tracking fails to start, rather than count every page as always dirty.
pub const VFIOMIG_WRITER_REQUIRED: u32 = 1 << 4;
/// A number that no writer has.
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
/// None: every page is always dirty.
pub const VFIOMIG_TRACKER_ALL_DIRTY: u32 = 5;

/// Something failed, and pages count as dirty because of it: see vfiomig_dirty_get_error().
pub const VFIOMIG_DIRTY_ERRORS: i32 = 1 << 0;
/// Some pages count as dirty because they were not watched by every writer's tracker. Most of them
/// are always dirty. vfiomig_dirty_get_writer_stats() says how many bytes and why, by writer.
pub const VFIOMIG_DIRTY_UNWATCHED: i32 = 1 << 1;

same_numbers!(TrackerKind:
    VFIOMIG_TRACKER_NONE = None,
    VFIOMIG_TRACKER_DEVICE_LOG = DeviceLog,
    VFIOMIG_TRACKER_HWPT = Hwpt,
    VFIOMIG_TRACKER_CUSTOM = Custom,
    VFIOMIG_TRACKER_TYPE1 = Type1,
    VFIOMIG_TRACKER_ALL_DIRTY = AllDirty,
);
