// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's three interfaces that report which pages DMA wrote to: device logging, the type1
//! container, and the page table of an iommufd. Nothing is interpreted here; `dirty` decides how
//! far an answer can be trusted.

use crate::error::Errno;
use crate::sys::{Bitmap, IovaRange, PageSize};

/// A device that logs its own writes: `VFIO_DEVICE_FEATURE_DMA_LOGGING_*`.
pub trait DmaLog: Send {
    /// Starts logging, in pages of this size if the device can. Returns the size of its pages as
    /// the device reports it, in bytes.
    fn start(&mut self, page: PageSize, ranges: &[IovaRange]) -> Result<u64, Errno>;

    /// Stops logging.
    fn stop(&mut self) -> Result<(), Errno>;

    /// Sets the bits of pages in the bitmap's span that were written to since the last report, and
    /// forgets them.
    fn report(&mut self, bitmap: &mut Bitmap<'_>) -> Result<(), Errno>;
}

/// A set of page sizes, with a bit for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageSizes(u64);

impl PageSizes {
    /// The page sizes whose bits are set: bit 12 stands for 4 KiB.
    pub const fn from_bits(bits: u64) -> PageSizes {
        PageSizes(bits)
    }

    /// The smallest, if there is one.
    pub const fn smallest(self) -> Option<PageSize> {
        PageSize::new(self.0 & self.0.wrapping_neg())
    }
}

/// What a type1 container says about its dirty tracking.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Type1Info {
    /// Page sizes that a bitmap may have; none: no tracking.
    pub page_sizes: PageSizes,
    /// The largest bitmap, in bytes.
    pub max_bitmap: u64,
}

/// A type1 container: `VFIO_IOMMU_DIRTY_PAGES`.
pub trait Type1: Send {
    /// A number that is the same for the same container, so that it is asked only once for all of
    /// its devices.
    fn key(&self) -> u64;

    /// What it can do.
    fn info(&mut self) -> Result<Type1Info, Errno>;

    /// Starts dirty tracking.
    fn start(&mut self) -> Result<(), Errno>;

    /// Stops dirty tracking.
    fn stop(&mut self) -> Result<(), Errno>;

    /// Writes the bits of pages that are pinned or were written to. Overwrites whole words, but
    /// leaves words alone in which no mapping has pages.
    fn bitmap(&mut self, bitmap: &mut Bitmap<'_>) -> Result<(), Errno>;

    /// Unmaps the bitmap's span, and reports what was dirty there; returns how many bytes were
    /// unmapped.
    fn unmap(&mut self, bitmap: &mut Bitmap<'_>) -> Result<u64, Errno>;
}

/// A page table of an iommufd with dirty tracking (`IOMMU_HWPT_ALLOC_DIRTY_TRACKING`).
pub trait Hwpt: Send {
    /// A number that is the same for the same page table, so that it is asked only once for all of
    /// its devices.
    fn key(&self) -> u64;

    /// Starts or stops dirty tracking. Starting forgets what was dirty before.
    fn set_tracking(&mut self, enable: bool) -> Result<(), Errno>;

    /// Sets the bits of pages that were written to and, unless `keep`, forgets them.
    fn bitmap(&mut self, keep: bool, bitmap: &mut Bitmap<'_>) -> Result<(), Errno>;

    /// The address space that it belongs to, if that is known.
    fn ioas(&self) -> Option<u32> {
        None
    }

    /// Whether all of the range is mapped; `None` if there is no way to tell.
    fn is_mapped(&mut self, iova: u64, length: u64) -> Option<Result<bool, Errno>>;

    /// The size of the largest bitmap that is filled in without loss, in bytes.
    fn max_bitmap(&self) -> u64 {
        u64::MAX
    }
}
