// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trackers: what answers "which pages were written to", one trait over everything that does, and a
//! file for each.
//!
//! Each knows what its interface's answers are worth; a reading that may be incomplete is an error,
//! and what an error covers counts as dirty (`asking`).

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
    /// The IOMMU's page table does, by iommufd (`IOMMU_HWPT_GET_DIRTY_BITMAP`).
    Hwpt = 2,
    /// The VMM does, by callbacks.
    Custom = 3,
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
            TrackerKind::Custom => "the VMM's own tracker",
            TrackerKind::Type1 => "type1 container",
            TrackerKind::AllDirty => "all dirty",
        }
    }
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

    /// Reads and forgets; with `keep`, where it can, only reads. The bitmap comes zeroed, and is in
    /// pages of [`Tracker::page`].
    fn read(&mut self, keep: bool, bitmap: &mut Bitmap<'_>) -> Result<()>;

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
    fn unmap(&mut self, _bitmap: &mut Bitmap<'_>) -> Option<Result<()>> {
        None
    }
}

pub(super) fn refused(what: &str, errno: Errno) -> Error {
    Error::new(errno.code(), format!("{what}: {errno}"))
}

/// Whether an error says that a tracker is not there at all, which is nothing to warn of.
pub(super) fn is_absent(error: &Error) -> bool {
    matches!(error.code(), Code::NotSupported | Code::NotTty)
}
