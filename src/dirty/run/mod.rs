// SPDX-License-Identifier: MIT OR Apache-2.0
//! A run: one address space, what writes into it, and what is dirty there.
//!
//! Pages go one way: a tracker's answer is added up with those of the others in a small buffer and
//! delivered from there. Only what cannot be delivered at once is kept (`pending`).
//!
//! This file is the run's face. Behind it: `trackers` (which one is whose), `read` (what they say),
//! `restart` (what to do when they fail, or do not watch everything: every moment in which nobody
//! watches is in there), `unmap`, `places` (where unmapped pages are in the VMM's memory), `deliver`
//! (where pages go), `keep` (what is left of mappings that are gone), `access` (memory by I/O addresses).

mod access;
mod deliver;
mod keep;
mod places;
mod read;
mod restart;
#[cfg(test)]
mod tests;
mod trackers;
mod unmap;

use std::ops::RangeInclusive;
use std::time::Instant;

use rangemap::RangeInclusiveSet;

use super::bitmap::{self, PageSize};
use super::errors::{DirtyError, Errors};
use super::map::{EVERYWHERE, Map, Mapping, Piece};
use super::memory::Memory;
use super::orphans::Orphans;
use super::pending::Pending;
use super::ranges::{self, MAX_KEPT, RANGE_BYTES, insert_or_all};
use super::stats::{DirtyRound, DirtyStats, Rounds, WriterStats};
use super::tracker::TrackerKind;
use crate::cancel::Cancel;
use crate::device::Health;
use crate::error::{Code, Result, err, of_another_process};
use crate::sys::{self, BitmapBuffer, Process};
use deliver::BitmapSink;
use trackers::{Slot, User, add_note};

/// Bytes of the buffer that a tracker's answer is read into: small enough to stay in a cache with
/// the sum of the answers, and large enough for memory to be read in long pieces (`make bench`).
const BUFFER: usize = 512 << 10;
const MIN_BUFFER: usize = 4 << 10;
const MAX_BUFFER: usize = 32 << 20;

/// Ranges that are kept in order to say precisely what was not watched.
const MAX_UNTOLD: usize = 1024;

/// How a run is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// The run's pages, in bytes: a power of two from 4096 to 1 GiB; 0: the host's. Mappings are
    /// in whole pages, and [`Memory::set_dirty`] gets them.
    pub page_size: u64,
    /// Bytes of the buffer that is read into at a time; 0: 512 KiB.
    pub buffer_bytes: u32,
}

/// What a call that read dirty pages has to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Synced {
    /// Something failed, and pages count as dirty because of that: [`Run::error`].
    pub errors: bool,
    /// Some pages are not watched by every writer's tracker, and count as dirty at every time.
    pub unwatched: bool,
}

/// One dirty-tracking run. See the module.
///
/// The order is: writers and mappings, [`Run::start`], any number of readings while mappings come
/// and go, [`Run::stop`]. Any order is safe.
pub struct Run {
    page: PageSize,
    buffer_bytes: usize,
    memory: Option<Box<dyn Memory>>,
    map: Map,
    users: Vec<Option<User>>,
    slots: Vec<Slot>,
    tracking: bool,
    pending: Pending,
    /// Dirty at all times, until unmapped: a tracker may not see what is written there.
    suspect: RangeInclusiveSet<u64>,
    /// Addresses of windows in which a write may have been missed before its mapping was told of:
    /// dirty once, when it is.
    unsettled: RangeInclusiveSet<u64>,
    /// Parts of dirty pages that readings of other parts have left: addresses.
    owed: RangeInclusiveSet<u64>,
    orphans: Orphans,
    errors: Errors,
    /// Of them, so many were there when a reading said that there are some.
    errors_told: u64,
    /// What counts as dirty because nobody watched it, and what no reading has said this of yet.
    untold: RangeInclusiveSet<u64>,
    rounds: Rounds,
    /// Bytes that were read since a log should be started anew.
    read_outdated: u64,
    /// For a tracker's answer; zero between readings.
    scratch: Option<BitmapBuffer>,
    /// For a tracker's answer about a whole mapping; zero between readings.
    whole: Option<BitmapBuffer>,
    /// The sum of the answers for the mapping that is being read, of trackers that answer for whole
    /// mappings only.
    sum: Option<BitmapBuffer>,
    /// The sum of the answers for the chunk that is being read, of all others. The first of them
    /// writes into it itself, so this is memory as `scratch` is.
    union: Option<BitmapBuffer>,
    cancel: Cancel,
    /// Whose it is: to a child after fork() its trackers would answer at its parent's cost.
    process: Process,
}

fn pages_in(first: u64, last: u64, page: PageSize) -> u64 {
    page.of(last) - page.of(first) + 1
}

fn elapsed_ns(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl Run {
    /// A run over the memory of a VMM.
    pub fn new(memory: impl Memory + 'static, options: RunOptions) -> Result<Run> {
        let size = match options.page_size {
            0 => sys::page_size(),
            size => size,
        };
        let page = PageSize::new(size).filter(|page| (4096..=1 << 30).contains(&page.bytes()));
        let page = page.ok_or_else(|| {
            err!(Inval, "the page size must be a power of two from 4096 to 1 GiB, not {size}")
        })?;
        let buffer_bytes = match options.buffer_bytes as usize {
            0 => BUFFER,
            bytes if bytes % 8 == 0 && (MIN_BUFFER..=MAX_BUFFER).contains(&bytes) => bytes,
            bytes => {
                return Err(err!(
                    Inval,
                    "the buffer must be {MIN_BUFFER} to {MAX_BUFFER} bytes and a multiple of 8, \
                     not {bytes}"
                ));
            }
        };
        Ok(Run {
            page,
            buffer_bytes,
            memory: Some(Box::new(memory)),
            map: Map::default(),
            users: Vec::new(),
            slots: Vec::new(),
            tracking: false,
            pending: Pending::default(),
            suspect: RangeInclusiveSet::new(),
            unsettled: RangeInclusiveSet::new(),
            owed: RangeInclusiveSet::new(),
            orphans: Orphans::default(),
            errors: Errors::default(),
            errors_told: 0,
            untold: RangeInclusiveSet::new(),
            rounds: Rounds::new(),
            read_outdated: 0,
            scratch: None,
            whole: None,
            sum: None,
            union: None,
            cancel: Cancel::default(),
            process: Process::this(),
        })
    }

    fn check_process(&self) -> Result<()> {
        if self.process.is_this() { Ok(()) } else { Err(of_another_process("run")) }
    }

    /// The switch that cancels a reading from another thread. Bits that were not delivered are
    /// kept; stopping and starting takes it back.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Whether tracking is on.
    pub fn is_tracking(&self) -> bool {
        self.tracking
    }

    fn check_tracking(&self) -> Result<()> {
        self.check_process()?;
        if self.tracking { Ok(()) } else { Err(err!(Inval, "tracking is off; start it first")) }
    }

    /// Adds a mapping, after it has been made. While tracking is on it is watched from now on, and
    /// where a device's log cannot be extended to it, it counts as dirty until the log is started
    /// anew. The same mapping a second time changes nothing.
    pub fn map(&mut self, mapping: Mapping) -> Result<()> {
        self.check_process()?;
        let range = if mapping.window {
            self.map.insert_window(mapping.iova, mapping.size, self.page)?
        } else {
            match self.map.insert(mapping, self.page)? {
                Some(range) => range,
                None => return Ok(()),
            }
        };
        if !self.tracking {
            return Ok(());
        }
        self.map_changed(&range);
        if mapping.window {
            return Ok(());
        }
        self.settle(&range);
        self.verify(&range);
        Ok(())
    }

    /// Makes what may have been missed in a range of windows pending.
    fn settle(&mut self, range: &RangeInclusive<u64>) {
        let Run { unsettled, untold, map, pending, page, .. } = self;
        for part in unsettled.overlapping(range) {
            let part = *part.start().max(range.start())..=*part.end().min(range.end());
            insert_or_all(untold, part.clone());
            for piece in map.writable(&part) {
                pending.add(page.of(piece.first)..=page.of(piece.last));
            }
        }
        ranges::bound(untold, MAX_UNTOLD);
        unsettled.remove(range.clone());
        ranges::bound(unsettled, MAX_KEPT);
    }

    fn map_changed(&mut self, range: &RangeInclusive<u64>) {
        self.pending.set_room(self.page.of(self.map.bytes()));
        for slot in self.slots.iter_mut().filter(|slot| slot.active) {
            slot.tracker.changed(&self.map, range);
        }
    }

    /// Makes what is mapped in a range pending.
    fn add_mapped(&mut self, first: u64, last: u64) {
        for piece in self.map.writable(&(first..=last)) {
            self.pending.add(self.page.of(piece.first)..=self.page.of(piece.last));
        }
    }

    /// The same, also where devices cannot write: the VMM can.
    fn add_pages(&mut self, range: &RangeInclusive<u64>) {
        for piece in self.map.pieces(range) {
            self.pending.add(self.page.of(piece.first)..=self.page.of(piece.last));
        }
    }

    fn add_piece(&mut self, piece: &Piece) {
        self.pending.add(self.page.of(piece.first)..=self.page.of(piece.last));
    }

    // --- starting and stopping ---------------------------------------------------------------------

    /// Starts tracking: takes the map where the VMM can enumerate it, chooses a tracker for each
    /// writer and starts it. What was written to before is not reported: start before memory is
    /// sent for the first time. When this fails nothing is tracked.
    pub fn start(&mut self) -> Result<Synced> {
        self.check_process()?;
        if self.tracking {
            return Err(err!(Inval, "tracking is on"));
        }
        let (scratch, union) = (self.new_buffer()?, self.new_buffer()?);
        let old = self.enumerate()?;
        self.forget();
        self.cancel.clear();
        self.rounds = Rounds::new();
        self.read_outdated = 0;
        self.scratch = Some(scratch);
        self.union = Some(union);
        self.tracking = true;
        self.pending.set_room(self.page.of(self.map.bytes()));
        // Before any log starts: a reset behind that loses it.
        for user in self.users.iter_mut().flatten() {
            user.resets_seen = user.health.as_ref().map_or(0, Health::resets);
        }
        for index in 0..self.users.len() {
            if let Err(error) = self.choose(index, 0, true) {
                if let Err(other) = self.stop() {
                    log::warn!(target: "vfiomig::dirty", "{other}");
                }
                if let Some(old) = old {
                    self.map = old;
                }
                return Err(error);
            }
        }
        // What they missed while they were started was before the start.
        self.unsettled.clear();
        let before = self.errors.total;
        self.verify(&EVERYWHERE);
        for slot in &mut self.slots {
            slot.new_round();
        }
        self.errors_told = self.errors.total;
        Ok(Synced { errors: self.errors.total > before, unwatched: self.is_unwatched(&EVERYWHERE) })
    }

    /// Takes the map as the VMM enumerates it, if it does; returns the one before.
    fn enumerate(&mut self) -> Result<Option<Map>> {
        let Some(mut memory) = self.memory.take() else { return Ok(None) };
        let (page, mut map) = (self.page, Map::default());
        let enumerated = memory.enumerate(&mut |mapping| {
            if mapping.window {
                map.insert_window(mapping.iova, mapping.size, page).map(drop)
            } else {
                map.insert(mapping, page).map(drop)
            }
        });
        self.memory = Some(memory);
        Ok(enumerated?.then(|| std::mem::replace(&mut self.map, map)))
    }

    fn new_buffer(&self) -> Result<BitmapBuffer> {
        bitmap::buffer(self.buffer_bytes / 8)
    }

    /// What a start begins without.
    fn forget(&mut self) {
        self.forget_pages();
        self.errors.clear();
        self.errors_told = 0;
        for slot in &mut self.slots {
            // One that did not stop before has no ranges any more.
            slot.stop_or_warn();
            slot.active = false;
            slot.failures = 0;
            slot.bad_rounds = 0;
            slot.missed = None;
            let WriterStats { tracker, page_size, .. } = slot.stats;
            slot.stats = WriterStats { tracker, page_size, ..WriterStats::default() };
        }
    }

    fn forget_pages(&mut self) {
        self.pending.clear();
        self.suspect.clear();
        self.unsettled.clear();
        self.owed.clear();
        self.orphans.clear();
        self.untold.clear();
    }

    /// Stops tracking and forgets what was not read: read once more before, with the devices
    /// stopped. Every tracker is asked to stop; the first error is returned, and stopping again
    /// asks those that failed. Stopping what does not run is no error.
    pub fn stop(&mut self) -> Result<()> {
        self.check_process()?;
        let mut result = Ok(());
        for slot in &mut self.slots {
            slot.active = false;
            if let Err(error) = slot.stop() {
                log::warn!(target: "vfiomig::dirty", "{error}");
                result = result.and(Err(error));
            }
        }
        self.tracking = false;
        self.forget_pages();
        self.scratch = None;
        self.whole = None;
        self.sum = None;
        self.union = None;
        self.cancel.clear();
        result
    }

    // --- readings ----------------------------------------------------------------------------------

    /// Reads all that became dirty since the last time and gives it to [`Memory::set_dirty`]. What
    /// that refuses is kept for the next time, and the first such error is returned, after
    /// everything else has been delivered. When the run is cancelled, the rest is kept.
    pub fn collect(&mut self) -> Result<Synced> {
        self.check_tracking()?;
        if !self.memory.as_ref().is_some_and(|memory| memory.takes_pages()) {
            return Err(err!(Inval, "there is no set_dirty to give pages to"));
        }
        for range in std::mem::take(&mut self.owed) {
            self.add_pages(&range);
        }
        let orphans = self.drain_orphans();
        match self.deliver_to_memory(|run, sink| run.sweep(&EVERYWHERE, true, sink)) {
            Err(error) if error.code() == Code::Cancelled => Err(error),
            synced => orphans.and(synced),
        }
    }

    /// Reads what became dirty in a range since the last time and adds it to `bitmap`: bit 0 is the
    /// page of `page_size` bytes at `iova`. Pages that no mapping covers stay clean. Trackers that
    /// answer for whole mappings only are asked for them each time: large ranges cost less.
    pub fn sync(
        &mut self,
        iova: u64,
        length: u64,
        page_size: u64,
        bitmap: &mut [u64],
    ) -> Result<Synced> {
        self.check_tracking()?;
        let mut sink = BitmapSink::new(iova, length, page_size, bitmap, self.page)?;
        let asked = iova..=iova.saturating_add(length - 1);
        self.deliver_owed(&asked, &mut sink);
        // Whole pages of the run: what lies beyond the range is owed.
        let mask = self.page.bytes() - 1;
        let range = asked.start() & !mask..=asked.end() | mask;
        let mut cut = Vec::new();
        let result = self.sweep(&range, false, &mut |_, first, words, bits| {
            sink.add(first, words, bits);
            sink.note_cut(&asked, first, words, bits, &mut cut);
            Ok(())
        });
        for page in cut {
            self.owe(page, &asked);
        }
        result
    }

    /// Starts the logs of devices anew, so that they watch mappings that came after the start. No
    /// bit is lost: in between another tracker of the writer watches, if it has one, or the device
    /// stands still; otherwise everything counts as dirty once. Where nothing has to count as dirty
    /// for it, readings do it by themselves, once per round: it takes as long as reading all of the
    /// map.
    pub fn rearm(&mut self) -> Result<Synced> {
        self.check_tracking()?;
        let before = self.errors.total;
        for i in self.active_slots(&[TrackerKind::DeviceLog]) {
            self.rearm_slot(i, false);
        }
        Ok(Synced { errors: self.errors.total > before, unwatched: self.is_unwatched(&EVERYWHERE) })
    }

    fn is_unwatched(&self, range: &RangeInclusive<u64>) -> bool {
        let blind = |slot: &Slot| slot.tracker.blind().is_some_and(|blind| blind.overlaps(range));
        self.suspect.overlaps(range) || self.slots.iter().any(|slot| slot.active && blind(slot))
    }

    /// What a reading of a range that is complete has to say.
    fn told(&mut self, range: &RangeInclusive<u64>) -> Synced {
        let errors =
            self.errors.total > std::mem::replace(&mut self.errors_told, self.errors.total);
        let untold = self.untold.overlaps(range);
        self.untold.remove(range.clone());
        Synced { errors, unwatched: untold || self.is_unwatched(range) }
    }

    /// The next reading says that some of a range was not watched.
    fn tell_later(&mut self, range: RangeInclusive<u64>) {
        insert_or_all(&mut self.untold, range);
        ranges::bound(&mut self.untold, MAX_UNTOLD);
    }

    // --- numbers -----------------------------------------------------------------------------------

    /// The run as a whole.
    pub fn stats(&self) -> DirtyStats {
        let words = [&self.scratch, &self.union, &self.whole, &self.sum];
        let words: usize = words.into_iter().flatten().map(BitmapBuffer::footprint).sum();
        let trackers: usize = self.slots.iter().map(|slot| slot.tracker.footprint()).sum();
        let kept = self.pending.footprint() + self.orphans.footprint();
        let sets = [&self.suspect, &self.unsettled, &self.owed].map(RangeInclusiveSet::len);
        let blind = self.slots.iter().filter_map(|slot| slot.tracker.blind());
        let ranges = sets.into_iter().chain(blind.map(RangeInclusiveSet::len)).sum::<usize>();
        let ranges = (ranges + self.rounds.num_ranges()) * RANGE_BYTES;
        DirtyStats {
            mapped_bytes: self.map.bytes(),
            memory_bytes: kept + (words + trackers + ranges) as u64,
            errors: self.errors.total,
            ..self.rounds.totals()
        }
    }

    /// The newest rounds over the map, oldest first.
    pub fn rounds(&self) -> Vec<DirtyRound> {
        self.rounds.history().collect()
    }

    /// How many writers were ever added.
    pub fn num_writers(&self) -> u32 {
        u32::try_from(self.users.len()).unwrap_or(u32::MAX)
    }

    /// One writer; an error if it was never added or was removed.
    pub fn writer(&self, number: u32) -> Result<WriterStats> {
        let user = self.users.get(number as usize).and_then(Option::as_ref);
        let user = user.ok_or_else(|| err!(NoData, "there is no writer {number}"))?;
        let mut note = user.note.clone();
        let slot = user.slot().and_then(|i| self.slots.get(i));
        for remark in slot.iter().flat_map(|slot| slot.remarks(self.tracking)) {
            add_note(&mut note, &remark);
        }
        Ok(match slot {
            Some(slot) => WriterStats {
                tracker: if self.tracking { slot.tracker.kind() } else { TrackerKind::None },
                calls: slot.tracker.calls(),
                note,
                ..slot.stats.clone()
            },
            None => WriterStats { note, ..WriterStats::default() },
        })
    }

    /// What went wrong since the start, oldest first.
    pub fn error(&self, index: usize) -> Option<&DirtyError> {
        self.errors.get(index)
    }

    /// How many errors are kept.
    pub fn num_errors(&self) -> usize {
        self.errors.len()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.process.is_this() {
            return;
        }
        if let Err(error) = self.stop() {
            log::warn!(target: "vfiomig::dirty", "{error}");
        }
    }
}
