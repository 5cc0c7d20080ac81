// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers of the kernel's VFIO interface: those in `vfio-bindings`, under short names, and those
//! that it lacks because the C macros behind them did not survive the translation.

use vfio_bindings::bindings::vfio as v;

/// `_IO(';', 100 + 7)`
pub const VFIO_DEVICE_GET_INFO: u32 = 0x3b6b;
/// `_IO(';', 100 + 8)`
pub const VFIO_DEVICE_GET_REGION_INFO: u32 = 0x3b6c;
/// `_IO(';', 100 + 11)`
pub const VFIO_DEVICE_RESET: u32 = 0x3b6f;
/// `_IO(';', 100 + 12)`, on a container
pub const VFIO_IOMMU_GET_INFO: u32 = 0x3b70;
/// `_IO(';', 100 + 14)`, on a container
pub const VFIO_IOMMU_UNMAP_DMA: u32 = 0x3b72;
/// `_IO(';', 100 + 17)`, on a container; on a device the same number is VFIO_DEVICE_FEATURE
pub const VFIO_IOMMU_DIRTY_PAGES: u32 = 0x3b75;
/// `_IO(';', 100 + 17)`
pub const VFIO_DEVICE_FEATURE: u32 = 0x3b75;
/// `_IO(';', 100 + 21)`, on the data fd
pub const VFIO_MIG_GET_PRECOPY_INFO: u32 = 0x3b79;

/// `VFIO_DEVICE_FEATURE`: read the feature.
pub const FEATURE_GET: u32 = v::VFIO_DEVICE_FEATURE_GET;
/// `VFIO_DEVICE_FEATURE`: write the feature.
pub const FEATURE_SET: u32 = v::VFIO_DEVICE_FEATURE_SET;
/// `VFIO_DEVICE_FEATURE`: only ask whether the feature is there.
pub const FEATURE_PROBE: u32 = v::VFIO_DEVICE_FEATURE_PROBE;

/// `VFIO_DEVICE_FEATURE`: which feature is meant.
pub const FEATURE_MASK: u32 = v::VFIO_DEVICE_FEATURE_MASK;

/// Feature: migration flags.
pub const FEATURE_MIGRATION: u32 = v::VFIO_DEVICE_FEATURE_MIGRATION;
/// Feature: device state and data fd.
pub const FEATURE_MIG_DEVICE_STATE: u32 = v::VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
/// Feature: start of DMA logging.
pub const FEATURE_DMA_LOGGING_START: u32 = v::VFIO_DEVICE_FEATURE_DMA_LOGGING_START;
/// Feature: end of DMA logging.
pub const FEATURE_DMA_LOGGING_STOP: u32 = v::VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP;
/// Feature: report of DMA logging.
pub const FEATURE_DMA_LOGGING_REPORT: u32 = v::VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT;
/// Feature: estimated length of the stop-copy stream.
pub const FEATURE_MIG_DATA_SIZE: u32 = v::VFIO_DEVICE_FEATURE_MIG_DATA_SIZE;
/// Feature: opt in to meaningful flags in `vfio_precopy_info`.
pub const FEATURE_MIG_PRECOPY_INFO_V2: u32 = v::VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2;

/// Migration flag: the device can be saved while stopped.
pub const MIGRATION_STOP_COPY: u64 = v::VFIO_MIGRATION_STOP_COPY as u64;
/// Migration flag: the device has peer-to-peer states.
pub const MIGRATION_P2P: u64 = v::VFIO_MIGRATION_P2P as u64;
/// Migration flag: the device has pre-copy states.
pub const MIGRATION_PRE_COPY: u64 = v::VFIO_MIGRATION_PRE_COPY as u64;

/// `vfio_precopy_info.flags`: new initial data is on the stream.
pub const PRECOPY_INFO_REINIT: u32 = v::VFIO_PRECOPY_INFO_REINIT;

/// `vfio_device_info.flags`: the fd behaves as a PCI device.
pub const DEVICE_FLAGS_PCI: u32 = v::VFIO_DEVICE_FLAGS_PCI;
/// `vfio_device_info.flags`: the fd behaves as a platform device.
pub const DEVICE_FLAGS_PLATFORM: u32 = v::VFIO_DEVICE_FLAGS_PLATFORM;
/// `vfio_device_info.flags`: the fd behaves as a CCW device.
pub const DEVICE_FLAGS_CCW: u32 = v::VFIO_DEVICE_FLAGS_CCW;
/// `vfio_device_info.flags`: the fd behaves as an AP device.
pub const DEVICE_FLAGS_AP: u32 = v::VFIO_DEVICE_FLAGS_AP;
/// `vfio_region_info.flags`: it can be read.
pub const REGION_INFO_READ: u32 = v::VFIO_REGION_INFO_FLAG_READ;
/// `vfio_region_info.flags`: it can be written to.
pub const REGION_INFO_WRITE: u32 = v::VFIO_REGION_INFO_FLAG_WRITE;
/// `vfio_region_info.flags`: it can be mapped.
pub const REGION_INFO_MMAP: u32 = v::VFIO_REGION_INFO_FLAG_MMAP;
/// `vfio_region_info.flags`: capabilities follow.
pub const REGION_INFO_CAPS: u32 = v::VFIO_REGION_INFO_FLAG_CAPS;
/// Capability of a region: which parts can be mapped.
pub const REGION_INFO_CAP_SPARSE_MMAP: u16 = v::VFIO_REGION_INFO_CAP_SPARSE_MMAP as u16;
/// Capability of a region: its type and subtype.
pub const REGION_INFO_CAP_TYPE: u16 = v::VFIO_REGION_INFO_CAP_TYPE as u16;
/// Type and subtype of the migration region of Linux 5.8 to 5.17.
pub const REGION_V1: (u32, u32) = (3, 1);
/// Type of the regions that the RFC of 2019 proposes, with subtypes 1 to 4; today that of CCW devices.
pub const REGION_TYPE_RFC: u32 = 2;
/// Region index of PCI configuration space.
pub const PCI_CONFIG_REGION: u32 = v::VFIO_PCI_CONFIG_REGION_INDEX;

/// Major and minor of a device special file's number (`st_rdev`), as glibc and musl take it apart. The
/// `libc` crate has functions for it since 0.2.171, which is newer than what Debian 13 ships.
pub const fn device_number(rdev: u64) -> (u32, u32) {
    let major = rdev >> 8 & 0xfff | rdev >> 32 & !0xfff;
    let minor = rdev & 0xff | rdev >> 12 & !0xff;
    (major as u32, minor as u32)
}

/// `_IO(';', 0x80)`, on an iommufd
pub const IOMMU_DESTROY: u32 = 0x3b80;
/// `_IO(';', 0x81)`, on an iommufd
pub const IOMMU_IOAS_ALLOC: u32 = 0x3b81;
/// `_IO(';', 0x83)`, on an iommufd
pub const IOMMU_IOAS_COPY: u32 = 0x3b83;
/// `_IO(';', 0x8b)`, on an iommufd
pub const IOMMU_HWPT_SET_DIRTY_TRACKING: u32 = 0x3b8b;
/// `_IO(';', 0x8c)`, on an iommufd
pub const IOMMU_HWPT_GET_DIRTY_BITMAP: u32 = 0x3b8c;
/// `iommu_hwpt_set_dirty_tracking.flags`
pub const IOMMU_HWPT_DIRTY_TRACKING_ENABLE: u32 = 1;
/// `iommu_hwpt_get_dirty_bitmap.flags`
pub const IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR: u32 = 1;
/// `iommu_ioas_copy.flags`
pub const IOMMU_IOAS_MAP_FIXED_IOVA: u32 = 1;
/// `iommu_ioas_copy.flags`
pub const IOMMU_IOAS_MAP_READABLE: u32 = 4;

/// `vfio_iommu_type1_dirty_bitmap.flags`
pub const DIRTY_PAGES_START: u32 = v::VFIO_IOMMU_DIRTY_PAGES_FLAG_START;
/// `vfio_iommu_type1_dirty_bitmap.flags`
pub const DIRTY_PAGES_STOP: u32 = v::VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP;
/// `vfio_iommu_type1_dirty_bitmap.flags`
pub const DIRTY_PAGES_GET_BITMAP: u32 = v::VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
/// `vfio_iommu_type1_dma_unmap.flags`
pub const UNMAP_GET_DIRTY_BITMAP: u32 = v::VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
/// Capability of a type1 container: it tracks dirty pages.
pub const TYPE1_INFO_CAP_MIGRATION: u16 = v::VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION as u16;
/// `vfio_iommu_type1_info.flags`: capabilities follow.
pub const TYPE1_INFO_CAPS: u32 = v::VFIO_IOMMU_INFO_CAPS;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn device_numbers_are_taken_apart_as_the_c_library_puts_them_together() {
        for (major, minor) in [(1, 3), (0xfff, 0xff), (0x1000, 0x100), (511, 0xf_ffff)] {
            assert_eq!(device_number(libc::makedev(major, minor)), (major, minor));
        }
        assert_eq!(device_number(libc::makedev(u32::MAX, u32::MAX)), (u32::MAX, u32::MAX));
        let null = std::fs::metadata("/dev/null").unwrap();
        assert_eq!(device_number(null.rdev()), (1, 3));
    }
}
