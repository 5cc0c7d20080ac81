// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trackers answer which pages were written to. This is the trait that all of them implement; each
//! has a file here.
//!
//! Each tracker knows how far its interface can be trusted. A reading that may be incomplete is an
//! error, and what an error covers counts as dirty (`asking`).

pub(super) mod all_dirty;
mod coverage;
pub(super) mod custom;
pub(super) mod device_log;
mod fit;
pub(super) mod hwpt;
pub(super) mod type1;

use std::ops::RangeInclusive;

use rangemap::RangeInclusiveSet;

use super::bitmap::PageSize;
use super::map::Map;
use crate::error::{Code, Errno, Error, Result};
use crate::transport::Bitmap;

/// What tracks a writer, in the order in which they are preferred.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum TrackerKind {
    /// Tracking is off.
    #[default]
    None = 0,
    /// The device logs its own writes (`VFIO_DEVICE_FEATURE_DMA_LOGGING_*`).
    DeviceLog = 1,
    /// The IOMMU marks dirty pages in a page table, which iommufd reads
    /// (`IOMMU_HWPT_GET_DIRTY_BITMAP`).
    Hwpt = 2,
    /// The VMM tracks it, through callbacks.
    Custom = 3,
    /// The type1 container reports every pinned page as dirty (`VFIO_IOMMU_DIRTY_PAGES`).
    Type1 = 4,
    /// Nothing tracks it: every page is always dirty.
    AllDirty = 5,
}

impl TrackerKind {
    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            TrackerKind::None => "none",
            TrackerKind::DeviceLog => "device DMA logging",
            TrackerKind::Hwpt => "iommufd page table",
            TrackerKind::Custom => "the VMM's own tracker",
            TrackerKind::Type1 => "type1 container",
            TrackerKind::AllDirty => "all dirty",
        }
    }
}

/// What a tracker can be asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extent {
    /// Ranges that begin and end at pages of this size. They may be larger than the pages that it
    /// answers in: what is behind the interface forgets whole pages of this size.
    Pages(PageSize),
    /// Only whole mappings whose bitmap takes at most `max_bitmap` bytes.
    WholeMappings { max_bitmap: u64 },
}

/// What counts as dirty when a reading has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Doubtful {
    /// The range that was asked for.
    Range,
    /// The range that was asked for. The tracker could not answer now, but has lost nothing.
    NotNow,
    /// Everything, unless the tracker answers when it is asked about whole mappings.
    PerhapsWhole,
    /// Everything.
    Everything,
}

pub(super) trait Tracker: Send {
    fn kind(&self) -> TrackerKind;

    /// The size of the pages that it answers in.
    fn page(&self) -> PageSize;

    /// Starts tracking the memory in a map.
    fn start(&mut self, map: &Map) -> Result<()>;

    /// Stops. If this fails, it may be called again.
    fn stop(&mut self) -> Result<()>;

    /// Sets the bits of dirty pages, and forgets those pages. With `keep`, it does not forget them,
    /// if it can do that. The bitmap is zeroed, and its pages are those of [`Tracker::page`].
    fn read(&mut self, keep: bool, bitmap: &mut Bitmap<'_>) -> Result<()>;

    /// How many system calls or callbacks it has made.
    fn calls(&self) -> u64;

    /// What it can be asked about.
    fn extent(&self) -> Extent {
        Extent::Pages(self.page())
    }

    /// Why its bitmaps are more limited than those of others, as the end of a message.
    fn why_limited(&self) -> &'static str {
        ""
    }

    /// The memory of the bitmaps that it keeps, in bytes.
    fn footprint(&self) -> usize {
        0
    }

    /// Whether it is running although its start failed.
    fn is_left_on(&self) -> bool {
        false
    }

    /// What the error of the last reading makes doubtful.
    fn doubtful(&self) -> Doubtful {
        Doubtful::Range
    }

    /// Switches between questions about whole mappings and about any range. Returns whether that is
    /// possible.
    fn ask_for_whole_mappings(&mut self, _on: bool) -> bool {
        false
    }

    /// Whether it could not be started, so that everything counts as dirty until it is started
    /// again.
    fn is_down(&self) -> bool {
        false
    }

    /// Why it does not watch everything that it was started for, or what else a user should know
    /// about it.
    fn remark(&self) -> Option<String> {
        None
    }

    /// Whether it watches only a part of the map, and trying again does not help.
    fn is_partial(&self) -> bool {
        false
    }

    /// The parts of the map that it does not watch. They are always dirty.
    fn blind(&self) -> Option<&RangeInclusiveSet<u64>> {
        None
    }

    /// Whether it would watch more if it were started again.
    fn is_outdated(&self) -> bool {
        false
    }

    /// Notes that the map has changed within a range.
    fn changed(&mut self, _map: &Map, _range: &RangeInclusive<u64>) {}

    /// Whether the range is mapped where it looks, if it can tell.
    fn is_mapped(&mut self, _iova: u64, _length: u64) -> Option<std::result::Result<bool, Errno>> {
        None
    }

    /// Unmaps the bitmap's span and reads it in one step, if it can.
    fn unmap(&mut self, _bitmap: &mut Bitmap<'_>) -> Option<Result<()>> {
        None
    }
}

pub(super) fn refused(what: &str, errno: Errno) -> Error {
    Error::new(errno.code(), format!("{what}: {errno}"))
}

/// Whether an error says that a tracker does not exist at all, which does not need a warning.
pub(super) fn is_absent(error: &Error) -> bool {
    matches!(error.code(), Code::NotSupported | Code::NotTty)
}
