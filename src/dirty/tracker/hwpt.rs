// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tracker behind an iommufd: the IOMMU marks pages as dirty in its page table when it
//! translates writes.

use super::{Extent, Tracker, TrackerKind, refused};
use crate::dirty::bitmap::PageSize;
use crate::dirty::map::Map;
use crate::error::{Errno, Result, err};
use crate::transport::{Bitmap, Hwpt};

pub(in crate::dirty) struct PageTable {
    hwpt: Box<dyn Hwpt>,
    page: PageSize,
    calls: u64,
}

impl PageTable {
    pub fn new(hwpt: Box<dyn Hwpt>, page: PageSize) -> PageTable {
        PageTable { hwpt, page, calls: 0 }
    }
}

impl Tracker for PageTable {
    fn kind(&self) -> TrackerKind {
        TrackerKind::Hwpt
    }

    fn page(&self) -> PageSize {
        self.page
    }

    fn start(&mut self, _map: &Map) -> Result<()> {
        self.calls += 1;
        self.hwpt.set_tracking(true).map_err(|errno| match errno.0 {
            libc::EOPNOTSUPP => err!(
                NotSupported,
                "the page table was not made for dirty tracking \
                 (IOMMU_HWPT_ALLOC_DIRTY_TRACKING), or the IOMMU has none"
            ),
            _ => refused("the page table does not start dirty tracking", errno),
        })
    }

    fn stop(&mut self) -> Result<()> {
        self.calls += 1;
        self.hwpt
            .set_tracking(false)
            .map_err(|errno| refused("the page table does not stop dirty tracking", errno))
    }

    fn read(&mut self, keep: bool, bitmap: &mut Bitmap<'_>) -> Result<()> {
        self.calls += 1;
        self.hwpt.bitmap(keep, bitmap).map_err(|errno| {
            refused(&format!("the dirty bits of {}, are unreadable", bitmap.span()), errno)
        })
    }

    fn calls(&self) -> u64 {
        self.calls
    }

    /// Entries of a page table may be of any size, and reading a range that cuts one loses its bit
    /// (docs/kernel-interface.md). No entry crosses the edge of a mapping.
    fn extent(&self) -> Extent {
        Extent::WholeMappings { max_bitmap: self.hwpt.max_bitmap() }
    }

    fn why_limited(&self) -> &'static str {
        match self.hwpt.max_bitmap() {
            u64::MAX => "",
            _ => ", because iommufd in Linux 6.7.0 to 6.7.6 loses bits of larger mappings",
        }
    }

    fn is_mapped(&mut self, iova: u64, length: u64) -> Option<std::result::Result<bool, Errno>> {
        self.calls += 1;
        self.hwpt.is_mapped(iova, length)
    }
}
