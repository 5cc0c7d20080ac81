// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tracker of a writer that nothing tracks: every page is always dirty.

use std::ops::RangeInclusive;

use rangemap::RangeInclusiveSet;

use super::coverage::missing;
use super::{Tracker, TrackerKind};
use crate::dirty::bitmap::PageSize;
use crate::dirty::map::Map;
use crate::dirty::ranges::{self, EVERYWHERE};
use crate::error::Result;
use crate::transport::Bitmap;

pub(in crate::dirty) struct AllDirty {
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

    fn read(&mut self, _keep: bool, _bitmap: &mut Bitmap<'_>) -> Result<()> {
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
        for part in missing(map, range, &RangeInclusiveSet::new()) {
            ranges::insert_or_all(&mut self.map, part);
        }
    }
}
