// SPDX-License-Identifier: MIT OR Apache-2.0
//! One tracker in use: starts it, stops it, asks it and keeps its numbers. Several writers may
//! share it.

use std::ops::RangeInclusive;

use rangemap::RangeInclusiveSet;

use super::answer::{self, Answer};
use super::numbers::Numbers;
use crate::dirty::bitmap::PageSize;
use crate::dirty::buffers::Scratch;
use crate::dirty::map::{Map, Piece};
use crate::dirty::stats::WriterStats;
use crate::dirty::tracker::all_dirty::AllDirty;
use crate::dirty::tracker::{Doubtful, Extent, Tracker, TrackerKind};
use crate::error::{Error, Result, err};
use crate::transport::Bitmap;

/// How often a tracker that fails is started again in one reading before it is given up.
const MAX_RESTARTS: u32 = 3;

/// Tells whether two writers have the same tracker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub kind: TrackerKind,
    /// Trackers of the same kind with the same number are one tracker.
    pub number: u64,
    /// What must be the same as well, or the second writer is refused.
    pub detail: u64,
}

impl Key {
    pub fn is_same(&self, other: &Key) -> bool {
        (self.kind, self.number) == (other.kind, other.number)
    }
}

/// A tracker that one or more writers have, or could have.
pub(in crate::dirty) struct SharedTracker {
    tracker: Box<dyn Tracker>,
    key: Option<Key>,
    /// No writer can have it: the place is free.
    vacant: bool,
    /// Some writer has it, and readings ask it.
    active: bool,
    /// It was started and has not stopped.
    running: bool,
    numbers: Numbers,
    /// How often it failed in the reading that is under way.
    failures: u32,
    /// What it did not watch before it was last restarted.
    missed: Option<String>,
}

impl SharedTracker {
    pub(super) fn new(tracker: Box<dyn Tracker>, key: Option<Key>) -> SharedTracker {
        let numbers = Numbers::new(tracker.kind(), tracker.page());
        let (vacant, active, running) = (false, false, false);
        SharedTracker { tracker, key, vacant, active, running, numbers, failures: 0, missed: None }
    }

    /// Drops the tracker, because the objects behind it may not outlive its writer.
    pub(super) fn vacate(&mut self, page: PageSize) {
        self.tracker = Box::new(AllDirty::new(page));
        self.key = None;
        self.vacant = true;
    }

    pub(super) fn is_vacant(&self) -> bool {
        self.vacant
    }

    pub(super) fn key(&self) -> Option<Key> {
        self.key
    }

    pub fn kind(&self) -> TrackerKind {
        self.tracker.kind()
    }

    pub fn is_log(&self) -> bool {
        self.kind() == TrackerKind::DeviceLog
    }

    /// Whether some writer has it, and readings ask it.
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// Whether it answers only for whole mappings.
    pub fn reads_whole(&self) -> bool {
        matches!(self.tracker.extent(), Extent::WholeMappings { .. })
    }

    /// The size of the pages that it answers in, and of those at whose edges questions to it must
    /// begin and end. None if it answers only for whole mappings.
    pub fn pages(&self) -> Option<(PageSize, PageSize)> {
        answer::pages(self.tracker.as_ref())
    }

    /// The range that it has to be asked about in order to learn about this one.
    pub fn widen(&self, range: &RangeInclusive<u64>) -> RangeInclusive<u64> {
        let edges = self.pages().map_or(self.tracker.page(), |(_, edges)| edges);
        let mask = edges.bytes() - 1;
        range.start() & !mask..=range.end() | mask
    }

    /// What of the map it does not watch.
    pub fn blind(&self) -> Option<&RangeInclusiveSet<u64>> {
        self.tracker.blind()
    }

    pub fn doubtful(&self) -> Doubtful {
        self.tracker.doubtful()
    }

    pub fn is_outdated(&self) -> bool {
        self.tracker.is_outdated()
    }

    pub fn is_down(&self) -> bool {
        self.tracker.is_down()
    }

    /// Whether it watches only a part of the map, or nothing at all now, without an end in sight.
    pub fn is_short(&self) -> bool {
        self.tracker.is_partial() || self.tracker.is_down()
    }

    pub fn ask_for_whole_mappings(&mut self, on: bool) -> bool {
        self.tracker.ask_for_whole_mappings(on)
    }

    pub fn map_changed(&mut self, map: &Map, range: &RangeInclusive<u64>) {
        self.tracker.changed(map, range);
    }

    /// Whether it reports nothing behind a hole in a mapping, and cannot tell if this one has any.
    pub fn is_blind_to_holes(&mut self, whole: &Piece) -> bool {
        self.kind() == TrackerKind::Hwpt
            && self.tracker.is_mapped(whole.first, whole.size()).is_none()
    }

    /// Why it may not see all of a piece, if it can tell.
    pub fn find_hole(&mut self, piece: &Piece) -> Option<Error> {
        let length = piece.size();
        match self.tracker.is_mapped(piece.first, length)? {
            Ok(true) => None,
            Ok(false) => Some(err!(
                Inval,
                "the mapping at {:#x}, {length:#x} bytes, is not mapped completely in the address \
                 space of its page table",
                piece.first
            )),
            Err(errno) => Some(Error::new(
                errno.code(),
                format!(
                    "it cannot be found out whether the mapping at {:#x}, {length:#x} bytes, is in \
                     the address space of its page table: {errno}",
                    piece.first
                ),
            )),
        }
    }

    // --- starting and stopping ---------------------------------------------------------------------

    pub fn start(&mut self, map: &Map) -> Result<()> {
        // If it could not be stopped before, perhaps it can be now. If not, starting it will fail.
        self.stop_or_warn();
        self.running = true;
        let started = self.tracker.start(map);
        self.running = started.is_ok() || self.tracker.is_left_on();
        started
    }

    /// Stops it if it is running.
    pub fn stop(&mut self) -> Result<()> {
        if self.running {
            self.tracker.stop()?;
            self.running = false;
        }
        Ok(())
    }

    fn stop_or_warn(&mut self) {
        if let Err(error) = self.stop() {
            log::warn!(target: "vfiomig::dirty", "{error}");
        }
    }

    /// From now on some writer has it, and readings ask it.
    pub(super) fn take(&mut self) {
        self.active = true;
        self.failures = 0;
        self.numbers.set_page(self.tracker.page());
    }

    /// From now on readings ask it; it is running.
    pub fn activate(&mut self) {
        self.active = true;
    }

    /// From now on readings do not ask it. It may still be running.
    pub fn deactivate(&mut self) {
        self.active = false;
    }

    /// From now on no writer has it: stops it.
    pub fn retire(&mut self) {
        self.active = false;
        self.stop_or_warn();
    }

    /// Stops it and starts it again. If that fails, readings no longer ask it.
    pub fn restart(&mut self, map: &Map) -> Result<()> {
        let restarted = self.stop().and_then(|()| {
            self.numbers.count_restart();
            self.start(map)
        });
        self.active &= restarted.is_ok();
        restarted
    }

    /// The same after an error that made everything count as dirty. This helps only a few times.
    pub(super) fn start_anew(&mut self, map: &Map, why: &Error) -> Result<()> {
        self.failures += 1;
        self.numbers.lose_round();
        self.numbers.assume(map.bytes());
        self.stop_or_warn();
        let started = if self.failures > MAX_RESTARTS {
            Err(err!(Io, "given up after {MAX_RESTARTS} restarts: {}", why.message()))
        } else {
            self.numbers.count_restart();
            self.start(map)
        };
        self.active &= started.is_ok();
        started
    }

    // --- asking ------------------------------------------------------------------------------------

    /// Fills in its answer for the chunk that `union` spans. `union` must be empty, and is empty
    /// again if this fails. Otherwise like [`SharedTracker::add`].
    pub fn fill(
        &mut self,
        keep: bool,
        union: &mut Bitmap<'_>,
        scratch: &mut Scratch,
        beyond: impl FnMut(RangeInclusive<u64>),
    ) -> Result<()> {
        let answer = answer::fill(self.tracker.as_mut(), keep, union, scratch, beyond);
        self.count(answer)
    }

    /// Adds its answer for a chunk to `union`. A tracker with larger pages also reports, and
    /// forgets, what is dirty beyond the chunk: those ranges go to `beyond`.
    pub fn add(
        &mut self,
        keep: bool,
        union: &mut Bitmap<'_>,
        scratch: &mut Scratch,
        beyond: impl FnMut(RangeInclusive<u64>),
    ) -> Result<()> {
        let answer = answer::add(self.tracker.as_mut(), keep, union, scratch, beyond);
        self.count(answer)
    }

    /// Adds its answer about a whole mapping to `sum`, whose bit 0 is the first page of the mapping.
    pub fn add_whole(
        &mut self,
        whole: &Piece,
        page: PageSize,
        keep: bool,
        sum: &mut [u64],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let answer = answer::whole(self.tracker.as_mut(), whole, page, keep, sum, scratch);
        self.count(answer)
    }

    /// Unmaps a piece, and adds what was dirty there in the same way. Fails if the tracker cannot
    /// unmap.
    pub fn unmap(
        &mut self,
        piece: &Piece,
        page: PageSize,
        sum: &mut [u64],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let answer = answer::unmap(self.tracker.as_mut(), piece, page, sum, scratch);
        self.count(answer)
    }

    fn count(&mut self, answer: Result<Answer>) -> Result<()> {
        let Answer { dirty_bytes, took } = answer?;
        self.numbers.count(dirty_bytes, took);
        Ok(())
    }

    // --- numbers -----------------------------------------------------------------------------------

    /// Forgets what belongs to an earlier start of tracking.
    pub(super) fn forget(&mut self) {
        // A log that could not be stopped before has lost its ranges.
        self.retire();
        self.failures = 0;
        self.missed = None;
        self.numbers.forget();
    }

    pub(super) fn begin_reading(&mut self) {
        self.failures = 0;
    }

    pub(super) fn end_round(&mut self) {
        self.numbers.end_round(self.tracker.is_down());
    }

    pub fn numbers(&mut self) -> &mut Numbers {
        &mut self.numbers
    }

    /// Notes what it did not watch before it was restarted, as a text for people.
    pub fn set_missed(&mut self, missed: Option<String>) {
        self.missed = missed;
    }

    /// The tracker's own remark.
    pub(super) fn remark(&self) -> Option<String> {
        self.tracker.remark()
    }

    /// What there is to say about it besides the writer's note.
    pub(super) fn remarks(&self) -> impl Iterator<Item = String> {
        let missed = self.missed.as_ref().map(|missed| {
            format!("not logged until the log was restarted, and dirty until then: {missed}")
        });
        let remark = self.tracker.remark().filter(|_| self.active);
        [remark, missed].into_iter().flatten()
    }

    pub(super) fn stats(&self) -> WriterStats {
        WriterStats { calls: self.tracker.calls(), ..self.numbers.stats().clone() }
    }

    /// The memory of its bitmaps, in bytes.
    pub fn footprint(&self) -> usize {
        self.tracker.footprint()
    }
}

#[cfg(test)]
mod tests;
