// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has which tracker, and what happens when one fails.
//!
//! What is doubtful goes into the ledger *after* something watches again, because a device may
//! write at any moment before that.

mod answer;
mod choice;
mod numbers;
mod registry;
mod shared;
#[cold]
fn may_have_hole(whole: &Piece) -> Error {
    err!(
        Inval,
        "a part of the mapping at {:#x}, {:#x} bytes, could not be unmapped before, and the page table \
         cannot tell whether all of it is mapped",
        whole.first,
        whole.size()
    )
}

#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use rangemap::RangeInclusiveSet;

use super::bitmap::{PageSize, Span};
use super::ledger::Ledger;
use super::map::{Map, Piece};
use super::ranges::{EVERYWHERE, RANGE_BYTES, insert_or_all};
use super::stats::WriterStats;
use super::tracker::TrackerKind;
use super::writer::Writer;
use crate::error::{Error, Result, err};
use choice::choose;
use numbers::MAX_BAD_ROUNDS;
use registry::{Registry, add_note};
use shared::SharedTracker;

/// Every writer, and every tracker that one of them could have. Trackers are known by number.
pub(super) struct Trackers {
    page: PageSize,
    registry: Registry,
}

impl Trackers {
    pub fn new(page: PageSize) -> Trackers {
        Trackers { page, registry: Registry::new(page) }
    }

    /// Adds a writer and returns its number. If a map is given, it is tracked at once.
    pub fn add(&mut self, writer: Writer, tracked: Option<&Map>) -> Result<usize> {
        let index = self.registry.add(writer)?;
        if let Some(map) = tracked {
            if let Err(error) = choose(&mut self.registry, map, index, 0, true) {
                self.registry.take_back(index);
                return Err(error);
            }
        }
        Ok(index)
    }

    /// Takes a writer out. Its number is not given out again.
    pub fn remove(&mut self, index: usize) {
        self.registry.remove(index);
    }

    /// How many writers were ever added.
    pub fn num_writers(&self) -> usize {
        self.registry.num_writers()
    }

    /// The number of the tracker that a writer has. It is an error if there is no such writer.
    pub fn of_writer(&self, index: usize) -> Result<Option<usize>> {
        let writer = self.registry.writer(index);
        let writer = writer.ok_or_else(|| err!(NoData, "there is no writer {index}"))?;
        Ok(writer.tracker())
    }

    pub fn get(&self, i: usize) -> Option<&SharedTracker> {
        self.registry.trackers().get(i)
    }

    pub fn get_mut(&mut self, i: usize) -> Option<&mut SharedTracker> {
        self.registry.tracker_mut(i)
    }

    /// Trackers' numbers are below this.
    pub fn len(&self) -> usize {
        self.registry.trackers().len()
    }

    /// The trackers that readings ask, with their numbers.
    pub fn active(&self) -> impl Iterator<Item = (usize, &SharedTracker)> {
        self.registry.trackers().iter().enumerate().filter(|(_, tracker)| tracker.is_active())
    }

    fn active_mut(&mut self) -> impl Iterator<Item = &mut SharedTracker> {
        self.registry.trackers_mut().iter_mut().filter(|tracker| tracker.is_active())
    }

    pub fn is_active(&self, i: usize) -> bool {
        self.get(i).is_some_and(SharedTracker::is_active)
    }

    pub fn is_used(&self, i: usize) -> bool {
        self.registry.is_used(i)
    }

    /// The numbers of active trackers of these kinds.
    pub fn active_of(&self, kinds: &[TrackerKind]) -> Vec<usize> {
        let of_kind = self.active().filter(|(_, tracker)| kinds.contains(&tracker.kind()));
        of_kind.map(|(i, _)| i).collect()
    }

    /// The numbers of active trackers that answer only for whole mappings.
    pub fn active_whole(&self) -> Vec<usize> {
        let whole = self.active().filter(|(_, tracker)| tracker.reads_whole());
        whole.map(|(i, _)| i).collect()
    }

    // --- starting and stopping ---------------------------------------------------------------------

    /// Forgets what belongs to an earlier start of tracking.
    pub fn forget(&mut self) {
        self.registry.trackers_mut().iter_mut().for_each(SharedTracker::forget);
        // This comes before any log is started, because a reset after that loses the log.
        for writer in self.registry.writers_mut() {
            writer.was_reset();
        }
    }

    /// Gives each writer its best tracker.
    pub fn start(&mut self, map: &Map) -> Result<()> {
        (0..self.num_writers())
            .try_for_each(|index| choose(&mut self.registry, map, index, 0, true))
    }

    /// Asks every tracker to stop, and returns the first error. Those that failed are asked again
    /// the next time.
    pub fn stop(&mut self) -> Result<()> {
        let mut result = Ok(());
        for tracker in self.registry.trackers_mut() {
            tracker.deactivate();
            if let Err(error) = tracker.stop() {
                log::warn!(target: "vfiomig::dirty", "{error}");
                result = result.and(Err(error));
            }
        }
        result
    }

    /// Tells the trackers that the map has changed within a range.
    pub fn map_changed(&mut self, map: &Map, range: &RangeInclusive<u64>) {
        self.active_mut().for_each(|tracker| tracker.map_changed(map, range));
    }

    // --- failures ----------------------------------------------------------------------------------

    /// Gives the writers that have lost a tracker their next one.
    pub fn replace(&mut self, i: usize, error: &Error, map: &Map, ledger: &mut Ledger) {
        let kind = self.get(i).map_or("", |tracker| tracker.kind().name());
        for index in 0..self.num_writers() {
            let writer = self.registry.writer(index).filter(|writer| writer.tracker() == Some(i));
            let Some(next) = writer.map(|writer| writer.next()) else { continue };
            if let Some(writer) = self.registry.writer_mut(index) {
                writer.add_note(&format!("{kind}: {}", error.message()));
            }
            // This cannot fail: the last candidate, which counts everything as dirty, always
            // starts.
            if let Err(error) = choose(&mut self.registry, map, index, next, false) {
                log::error!(target: "vfiomig::dirty", "{error}");
            }
        }
        self.verify(&EVERYWHERE, map, ledger);
    }

    /// Looks for mappings of which a part is not mapped in a page table: it then reports nothing
    /// for all of the mapping, without an error. So all of it counts as dirty. That is also so if a
    /// part may not be mapped, because it could not be unmapped before, and the table cannot tell.
    pub fn verify(&mut self, range: &RangeInclusive<u64>, map: &Map, ledger: &mut Ledger) {
        for i in 0..self.len() {
            let mut from = Some(*range.start());
            while let Some(piece) = from.and_then(|from| map.next_writable(from, range)) {
                let Some(tracker) = self.get_mut(i).filter(|tracker| tracker.is_active()) else {
                    break;
                };
                let whole = map.whole(&piece);
                if let Some(error) = tracker.find_hole(&piece) {
                    ledger.suspect(piece.range());
                    self.record(i, &piece.range(), &error, ledger);
                } else if ledger.is_suspect_in_part(&whole.range())
                    && tracker.is_blind_to_holes(&whole)
                {
                    ledger.suspect(whole.range());
                    let error = may_have_hole(&whole);
                    self.record(i, &whole.range(), &error, ledger);
                }
                from = piece.last.checked_add(1);
            }
        }
    }

    /// Records a tracker's error that makes a range count as dirty.
    pub fn record(
        &mut self,
        i: usize,
        range: &RangeInclusive<u64>,
        error: &Error,
        ledger: &mut Ledger,
    ) {
        let writer = self.registry.users(i).next().and_then(|(index, _)| u32::try_from(index).ok());
        let kind = self.get(i).map_or(TrackerKind::None, SharedTracker::kind);
        if let Some(tracker) = self.get_mut(i) {
            tracker.numbers().count_error();
        }
        ledger.record(writer, kind, range, error);
    }

    /// Makes a piece count as dirty because of a tracker's error.
    pub fn assume(&mut self, i: usize, piece: &Piece, error: &Error, ledger: &mut Ledger) {
        self.record(i, &piece.range(), error, ledger);
        ledger.add(&piece.range());
        if let Some(tracker) = self.get_mut(i) {
            tracker.numbers().assume(piece.size());
        }
    }

    /// Makes everything count as dirty because of a tracker's error. The tracker is restarted, or
    /// replaced by the next one.
    pub fn start_anew(&mut self, i: usize, why: &Error, map: &Map, ledger: &mut Ledger) {
        self.record(i, &EVERYWHERE, why, ledger);
        let started = self.get_mut(i).map_or(Ok(()), |tracker| tracker.start_anew(map, why));
        if let Err(error) = started {
            self.replace(i, &error, map, ledger);
        }
        // This comes last, when everything is watched again.
        ledger.add_everything(map);
    }

    /// Stops a log and starts it again. If that fails, it is given up for the next tracker.
    pub fn restart(&mut self, i: usize, map: &Map, ledger: &mut Ledger) {
        let restarted = self.get_mut(i).map_or(Ok(()), |tracker| tracker.restart(map));
        if let Err(error) = restarted {
            self.record(i, &EVERYWHERE, &error, ledger);
            self.replace(i, &error, map, ledger);
            ledger.add_everything(map);
        }
    }

    /// Looks for devices that were reset: they may have forgotten what they had logged.
    pub fn check_resets(&mut self, map: &Map, ledger: &mut Ledger) {
        for index in 0..self.num_writers() {
            let Some(writer) = self.registry.writer_mut(index) else { continue };
            let Some(i) = writer.was_reset().then(|| writer.tracker()).flatten() else { continue };
            if self.get(i).is_some_and(|tracker| tracker.is_active() && tracker.is_log()) {
                let error = err!(Io, "the device was reset, and its log with it");
                self.start_anew(i, &error, map, ledger);
            }
        }
    }

    /// If a writer has no tracker, for whatever reason, makes all of a range pending: nobody knows
    /// what it writes to.
    pub fn check_untracked(&self, range: &RangeInclusive<u64>, map: &Map, ledger: &mut Ledger) {
        for (index, writer) in self.registry.writers() {
            if writer.tracker().is_some_and(|i| self.is_active(i)) {
                continue;
            }
            let error = err!(NotRecoverable, "nothing tracks writer {index}");
            ledger.record(u32::try_from(index).ok(), TrackerKind::None, range, &error);
            ledger.add_writable(map, range);
        }
    }

    /// Gives up logs that have failed in many rounds in a row, if there is something better.
    fn give_up_failing(&mut self, map: &Map, ledger: &mut Ledger) {
        for i in self.active_of(&[TrackerKind::DeviceLog]) {
            let Some(numbers) = self.get_mut(i).map(SharedTracker::numbers) else { continue };
            let (failing, lost) = (numbers.is_failing(), numbers.round_was_lost());
            if !failing || !lost && !self.has_better(i) {
                continue;
            }
            let error = err!(Io, "given up: it failed in {MAX_BAD_ROUNDS} rounds in a row");
            if let Some(tracker) = self.get_mut(i) {
                tracker.retire();
            }
            self.record(i, &EVERYWHERE, &error, ledger);
            self.replace(i, &error, map, ledger);
            ledger.add_everything(map);
        }
    }

    /// Whether something else could track the writers that have a tracker, and would watch what it
    /// does not.
    fn has_better(&self, i: usize) -> bool {
        let others = self.registry.users(i).flat_map(|(_, user)| user.candidates(user.next()));
        let mut kinds = others.filter_map(|(_, i)| self.get(i)).map(SharedTracker::kind);
        kinds.any(|kind| !matches!(kind, TrackerKind::AllDirty | TrackerKind::Type1))
    }

    // --- evidence ----------------------------------------------------------------------------------

    /// A number if the writer that has a tracker stands still. It changes when the writer may have
    /// written.
    pub fn quiet(&mut self, i: usize) -> Option<u64> {
        self.registry.users_mut(i).next()?.quiet()
    }

    /// The other trackers that could watch the writer that has a tracker, best first.
    pub fn others(&self, i: usize) -> Vec<usize> {
        let user = self.registry.users(i).next();
        let others = user.into_iter().flat_map(|(_, user)| user.candidates(user.next()));
        others.map(|(_, i)| i).collect()
    }

    // --- what they do not watch --------------------------------------------------------------------

    /// Whether any active tracker does not watch all of a range.
    pub fn is_blind(&self, range: &RangeInclusive<u64>) -> bool {
        let mut blind = self.active().filter_map(|(_, tracker)| tracker.blind());
        blind.any(|blind| blind.overlaps(range))
    }

    /// The parts of the map that one tracker does not watch.
    pub fn blind_of(&self, i: usize) -> RangeInclusiveSet<u64> {
        let mut found = RangeInclusiveSet::new();
        let blind = self.get(i).and_then(SharedTracker::blind);
        for range in blind.into_iter().flat_map(RangeInclusiveSet::iter) {
            insert_or_all(&mut found, range.clone());
        }
        found
    }

    /// Makes ranges that one tracker has not watched pending. The next reading says so.
    pub fn assume_unwatched(
        &mut self,
        i: usize,
        ranges: &RangeInclusiveSet<u64>,
        ledger: &mut Ledger,
    ) {
        let mut pages = 0;
        for range in ranges.iter() {
            pages += self.page.of(*range.end()) - self.page.of(*range.start()) + 1;
            ledger.add(range);
            ledger.tell_later(range.clone());
        }
        let bytes = pages.saturating_mul(self.page.bytes());
        if let Some(tracker) = self.get_mut(i) {
            tracker.numbers().assume(bytes);
        }
    }

    /// Adds the parts of a chunk that some tracker does not watch to its sum.
    pub fn add_blind_to(&mut self, chunk: Span, union: &mut [u64]) {
        let range = chunk.range();
        for tracker in self.active_mut() {
            let Some(blind) = tracker.blind() else { continue };
            let pages: u64 = blind.overlapping(&range).map(|range| chunk.set(union, range)).sum();
            tracker.numbers().assume(pages << chunk.page.shift());
        }
    }

    /// Makes the parts of a piece that some tracker does not watch pending. With `counted`, they
    /// are added to the bytes that were assumed to be dirty.
    pub fn add_blind(&mut self, piece: &Piece, counted: bool, ledger: &mut Ledger) {
        let (asked, page) = (piece.range(), self.page);
        for tracker in self.active_mut() {
            let Some(blind) = tracker.blind() else { continue };
            let mut pages: u64 = 0;
            for range in blind.overlapping(&asked) {
                let (first, last) = (range.start().max(&piece.first), range.end().min(&piece.last));
                ledger.add(&(*first..=*last));
                pages += page.of(*last) - page.of(*first) + 1;
            }
            tracker.numbers().assume(if counted { pages.saturating_mul(page.bytes()) } else { 0 });
        }
    }

    // --- numbers -----------------------------------------------------------------------------------

    /// Tells the trackers that a reading begins.
    pub fn begin_reading(&mut self) {
        self.registry.trackers_mut().iter_mut().for_each(SharedTracker::begin_reading);
    }

    /// Tells the trackers that the first round begins.
    pub fn begin_round(&mut self) {
        for tracker in self.registry.trackers_mut() {
            tracker.numbers().begin_round();
        }
    }

    /// Ends a round for all trackers.
    pub fn end_round(&mut self, map: &Map, ledger: &mut Ledger) {
        self.registry.trackers_mut().iter_mut().for_each(SharedTracker::end_round);
        self.give_up_failing(map, ledger);
        let mapped = map.writable_bytes();
        // A single device that does not pin its pages one by one makes the whole container dirty.
        let text = "every mapped page is always dirty: a device in the container can reach all \
                    of them";
        for i in self.active_of(&[TrackerKind::Type1]) {
            let last = self.get_mut(i).map_or(0, |it| it.numbers().last_dirty_bytes());
            if mapped == 0 || last < mapped {
                continue;
            }
            for user in self.registry.users_mut(i).filter(|user| !user.note().contains(text)) {
                user.add_note(text);
            }
        }
    }

    /// The statistics of a writer. It is an error if there is no such writer.
    pub fn stats(&self, index: usize, tracking: bool) -> Result<WriterStats> {
        let tracker = self.of_writer(index)?.and_then(|i| self.get(i));
        let mut note = self.registry.writer(index).map_or("", |writer| writer.note()).to_owned();
        let Some(tracker) = tracker else {
            return Ok(WriterStats { note, ..WriterStats::default() });
        };
        let kind = if tracking { tracker.kind() } else { TrackerKind::None };
        for remark in tracker.remarks().filter(|_| tracking) {
            add_note(&mut note, &remark);
        }
        Ok(WriterStats { tracker: kind, note, ..tracker.stats() })
    }

    /// The memory of their bitmaps, and of the ranges that they do not watch, in bytes.
    pub fn footprint(&self) -> usize {
        let blind = |tracker: &SharedTracker| tracker.blind().map_or(0, RangeInclusiveSet::len);
        let bytes = |tracker: &SharedTracker| tracker.footprint() + blind(tracker) * RANGE_BYTES;
        self.registry.trackers().iter().map(bytes).sum()
    }
}
