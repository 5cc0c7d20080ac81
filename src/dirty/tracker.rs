// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trackers: what answers "which pages were written to", one trait over everything that does.
//!
//! Each knows what its interface's answers are worth; a reading that may be incomplete is an error,
//! and what an error covers counts as dirty (`run`).

use std::ops::RangeInclusive;

use rangemap::RangeInclusiveSet;

use super::bitmap::PageSize;
use super::map::{EVERYWHERE, Map};
use super::ranges;
use crate::error::{Code, Errno, Error, Result, err};
use crate::transport::{Hwpt, Type1};

/// What tracks a writer, in the order in which they are preferred.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
#[repr(u32)]
pub enum TrackerKind {
    /// Tracking is off.
    #[default]
    None = 0,
    /// The device logs its own writes (`VFIO_DEVICE_FEATURE_DMA_LOGGING_*`).
    DeviceLog = 1,
    /// The IOMMU's page table does, by iommufd (`IOMMU_HWPT_GET_DIRTY_BITMAP`).
    Hwpt = 2,
    /// The VMM does, by callbacks.
    Supplied = 3,
    /// The type1 container does (`VFIO_IOMMU_DIRTY_PAGES`): every pinned page is dirty.
    Type1 = 4,
    /// Nothing does: every page is dirty at every time.
    AllDirty = 5,
}

impl TrackerKind {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            TrackerKind::None => "none",
            TrackerKind::DeviceLog => "device DMA logging",
            TrackerKind::Hwpt => "iommufd page table",
            TrackerKind::Supplied => "the VMM's own tracker",
            TrackerKind::Type1 => "type1 container",
            TrackerKind::AllDirty => "all dirty",
        }
    }
}

/// A tracker of the VMM's own: a vfio-user server's log, or whatever else it has.
pub trait SuppliedTracker: Send {
    /// Size of the pages that it answers in: a power of two.
    fn page_size(&self) -> u64;

    /// Starts; what was written to before does not matter.
    fn start(&mut self) -> std::result::Result<(), Errno>;

    /// Stops.
    fn stop(&mut self) -> std::result::Result<(), Errno>;

    /// Sets the bits of pages that were written to since the last time, and forgets them. Bit 0 is
    /// the page at `iova`; the bitmap comes zeroed. Range and page size are multiples of
    /// [`SuppliedTracker::page_size`] and may reach over the ends of mappings.
    fn sync(
        &mut self,
        iova: u64,
        length: u64,
        page_size: u64,
        bitmap: &mut [u64],
    ) -> std::result::Result<(), Errno>;
}

/// What a tracker can be asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extent {
    /// Ranges that begin and end at pages of this size, which may be larger than those that it
    /// answers in: a page behind the interface is forgotten as a whole.
    Pages(PageSize),
    /// Whole mappings only, with at most so many bytes of bitmap.
    WholeMappings { max_bitmap: u64 },
}

/// What counts as dirty when a reading has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Doubtful {
    /// What was asked for.
    Range,
    /// The same: it could not be asked now, and has lost nothing.
    NotNow,
    /// Everything, unless it answers for the whole mapping.
    PerhapsWhole,
    /// Everything.
    Everything,
}

pub(super) trait Tracker: Send {
    fn kind(&self) -> TrackerKind;

    /// The pages that it answers in.
    fn page(&self) -> PageSize;

    /// Starts on a map.
    fn start(&mut self, map: &Map) -> Result<()>;

    /// Stops. After an error it may be tried again.
    fn stop(&mut self) -> Result<()>;

    /// Reads and forgets; with `keep`, where it can, only reads. `words` come zeroed, bit 0 is the
    /// page at `iova`, and the range is in whole pages.
    fn read(&mut self, iova: u64, length: u64, keep: bool, words: &mut [u64]) -> Result<()>;

    /// How many system calls or callbacks it has made.
    fn calls(&self) -> u64;

    /// What it can be asked about.
    fn extent(&self) -> Extent {
        Extent::Pages(self.page())
    }

    /// Where bitmaps are limited to less than others, why.
    fn why_limited(&self) -> &'static str {
        ""
    }

    /// Bytes of the bitmaps that it keeps.
    fn footprint(&self) -> usize {
        0
    }

    /// After a failed start: it runs all the same.
    fn is_left_on(&self) -> bool {
        false
    }

    /// What the last error of a reading makes doubtful.
    fn doubtful(&self) -> Doubtful {
        Doubtful::Range
    }

    /// From now on it is asked for whole mappings, or no longer. Returns whether that is possible.
    fn ask_for_whole_mappings(&mut self, _on: bool) -> bool {
        false
    }

    /// It could not be started, counts everything as dirty, and is to be started again.
    fn is_down(&self) -> bool {
        false
    }

    /// Why it does not watch all that it was started for; what is to be known of it besides.
    fn remark(&self) -> Option<String> {
        None
    }

    /// It watches a part only, and trying again does not help.
    fn is_partial(&self) -> bool {
        false
    }

    /// What of the map it does not watch: dirty at all times.
    fn blind(&self) -> Option<&RangeInclusiveSet<u64>> {
        None
    }

    /// Whether it would watch more if it were started again.
    fn is_outdated(&self) -> bool {
        false
    }

    /// The map has changed in a range.
    fn changed(&mut self, _map: &Map, _range: &RangeInclusive<u64>) {}

    /// Whether the range is mapped, in case it can tell.
    fn is_mapped(&mut self, _iova: u64, _length: u64) -> Option<std::result::Result<bool, Errno>> {
        None
    }

    /// Unmaps and reads in one step, in case it can.
    fn unmap(&mut self, _iova: u64, _length: u64, _words: &mut [u64]) -> Option<Result<()>> {
        None
    }
}

pub(super) fn refused(what: &str, errno: Errno) -> Error {
    Error::new(errno.code(), format!("{what}: {errno}"))
}

// --- the page table of an iommufd ------------------------------------------------------------------

pub(super) struct PageTable {
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

    fn read(&mut self, iova: u64, length: u64, keep: bool, words: &mut [u64]) -> Result<()> {
        self.calls += 1;
        self.hwpt.bitmap(iova, length, self.page.bytes(), keep, words).map_err(|errno| {
            refused(
                &format!("the dirty bits of {iova:#x}, {length:#x} bytes, are unreadable"),
                errno,
            )
        })
    }

    fn calls(&self) -> u64 {
        self.calls
    }

    /// Entries of a page table may be of any size, and a range that cuts one loses what it says
    /// (docs/kernel-interface.md). None reaches over the edge of a mapping.
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

// --- a type1 container -----------------------------------------------------------------------------

pub(super) struct Container {
    type1: Box<dyn Type1>,
    page: PageSize,
    max_bitmap: u64,
    calls: u64,
}

impl Container {
    pub fn new(type1: Box<dyn Type1>, page: PageSize) -> Container {
        Container { type1, page, max_bitmap: 0, calls: 0 }
    }
}

impl Tracker for Container {
    fn kind(&self) -> TrackerKind {
        TrackerKind::Type1
    }

    fn page(&self) -> PageSize {
        self.page
    }

    fn start(&mut self, _map: &Map) -> Result<()> {
        self.calls += 2;
        let info = self.type1.info();
        let info =
            info.map_err(|errno| refused("the container does not say what it can", errno))?;
        let smallest = info.page_sizes & info.page_sizes.wrapping_neg();
        self.page = PageSize::new(smallest)
            .ok_or_else(|| err!(NotSupported, "the container has no dirty tracking"))?;
        self.max_bitmap = info.max_bitmap;
        self.type1.start().map_err(|errno| match errno.0 {
            libc::EACCES => err!(NotSupported, "the container is not of type1v2"),
            _ => refused("the container does not start dirty tracking", errno),
        })
    }

    fn stop(&mut self) -> Result<()> {
        self.calls += 1;
        self.type1
            .stop()
            .map_err(|errno| refused("the container does not stop dirty tracking", errno))
    }

    fn read(&mut self, iova: u64, length: u64, _keep: bool, words: &mut [u64]) -> Result<()> {
        self.calls += 1;
        self.type1.bitmap(iova, length, self.page.bytes(), words).map_err(|errno| {
            let hint = match errno.0 {
                libc::EINVAL => "; is it mapped exactly so, in one piece or in several whole ones?",
                _ => "",
            };
            let text = format!("the dirty bits of {iova:#x}, {length:#x} bytes, are unreadable");
            refused(&text, errno).note(hint)
        })
    }

    fn calls(&self) -> u64 {
        self.calls
    }

    fn extent(&self) -> Extent {
        Extent::WholeMappings { max_bitmap: self.max_bitmap }
    }

    fn unmap(&mut self, iova: u64, length: u64, words: &mut [u64]) -> Option<Result<()>> {
        let mut unmap = || {
            self.calls += 1;
            let unmapped = self.type1.unmap(iova, length, self.page.bytes(), words);
            let what = format!("unmapping {iova:#x}, {length:#x} bytes, with its dirty bits");
            let unmapped = unmapped.map_err(|errno| refused(&what, errno))?;
            if unmapped == length {
                return Ok(());
            }
            Err(err!(Io, "{what}: only {unmapped:#x} bytes were mapped"))
        };
        Some(unmap())
    }
}

// --- the VMM's own ---------------------------------------------------------------------------------

pub(super) struct Supplied {
    tracker: Box<dyn SuppliedTracker>,
    page: PageSize,
    calls: u64,
}

impl Supplied {
    pub fn new(tracker: Box<dyn SuppliedTracker>) -> Result<Supplied> {
        let size = tracker.page_size();
        let page = PageSize::new(size).filter(|page| (512..=1 << 30).contains(&page.bytes()));
        let page = page.ok_or_else(|| {
            err!(
                Inval,
                "a tracker's page size must be a power of two from 512 to 1 GiB, not {size}"
            )
        })?;
        Ok(Supplied { tracker, page, calls: 0 })
    }
}

fn callback(what: &str, errno: Errno) -> Error {
    refused(&format!("the VMM's tracker does not {what}"), errno)
}

impl Tracker for Supplied {
    fn kind(&self) -> TrackerKind {
        TrackerKind::Supplied
    }

    fn page(&self) -> PageSize {
        self.page
    }

    fn start(&mut self, _map: &Map) -> Result<()> {
        self.calls += 1;
        self.tracker.start().map_err(|errno| callback("start", errno))
    }

    fn stop(&mut self) -> Result<()> {
        self.calls += 1;
        self.tracker.stop().map_err(|errno| callback("stop", errno))
    }

    fn read(&mut self, iova: u64, length: u64, _keep: bool, words: &mut [u64]) -> Result<()> {
        self.calls += 1;
        self.tracker
            .sync(iova, length, self.page.bytes(), words)
            .map_err(|errno| callback(&format!("read {iova:#x}, {length:#x} bytes"), errno))
    }

    fn calls(&self) -> u64 {
        self.calls
    }
}

// --- nothing ---------------------------------------------------------------------------------------

pub(super) struct AllDirty {
    page: PageSize,
    map: RangeInclusiveSet<u64>,
}

impl AllDirty {
    pub fn new(page: PageSize) -> AllDirty {
        AllDirty { page, map: RangeInclusiveSet::new() }
    }
}

impl Tracker for AllDirty {
    fn kind(&self) -> TrackerKind {
        TrackerKind::AllDirty
    }

    fn page(&self) -> PageSize {
        self.page
    }

    fn start(&mut self, map: &Map) -> Result<()> {
        self.changed(map, &EVERYWHERE);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        Ok(())
    }

    fn read(&mut self, _iova: u64, _length: u64, _keep: bool, _words: &mut [u64]) -> Result<()> {
        Ok(())
    }

    fn calls(&self) -> u64 {
        0
    }

    fn blind(&self) -> Option<&RangeInclusiveSet<u64>> {
        Some(&self.map)
    }

    fn changed(&mut self, map: &Map, range: &RangeInclusive<u64>) {
        self.map.remove(range.clone());
        for part in ranges::missing(map, range, &RangeInclusiveSet::new()) {
            ranges::insert_or_all(&mut self.map, part);
        }
    }
}

/// Whether an error says that a tracker is not there at all, which is nothing to warn of.
pub(super) fn is_absent(error: &Error) -> bool {
    matches!(error.code(), Code::NotSupported | Code::NotTty)
}
