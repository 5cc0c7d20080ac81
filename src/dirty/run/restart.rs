// SPDX-License-Identifier: MIT OR Apache-2.0
//! What to do when trackers fail, are reset, or do not watch everything.
//!
//! Whatever is doubtful becomes pending *after* something watches again: a device may write at any
//! moment in between.

use std::ops::RangeInclusive;

use rangemap::RangeInclusiveSet;

use super::super::errors::DirtyError;
use super::super::map::{EVERYWHERE, Piece};
use super::super::ranges::{self, insert_or_all};
use super::super::tracker::{Doubtful, Extent, TrackerKind};
use super::Run;
use crate::device::Health;
use crate::error::{Error, err};

/// How often a tracker that fails is started again in one reading before it is given up.
const MAX_RESTARTS: u32 = 3;

/// In how many rounds in a row a log may fail before it is given up.
pub(super) const MAX_BAD_ROUNDS: u32 = 8;

/// What shows that nothing is missed while a log is started anew.
enum Evidence {
    /// The device stands still; a number that changes when it may have written.
    Quiet(u64),
    /// Another tracker watches meanwhile.
    Bridge { slot: usize, temporary: bool },
    /// Nothing does.
    Nothing,
}

impl Run {
    pub(super) fn record(&mut self, i: usize, range: &RangeInclusive<u64>, error: &Error) {
        let user = self
            .users
            .iter()
            .position(|user| user.as_ref().is_some_and(|user| user.slot() == Some(i)));
        let kind = self.slots.get(i).map_or(TrackerKind::None, |slot| slot.tracker.kind());
        if let Some(slot) = self.slots.get_mut(i) {
            slot.stats.errors += 1;
        }
        let user = user.and_then(|user| u32::try_from(user).ok());
        self.errors.add(DirtyError::new(user, kind, range, error));
    }

    /// A piece counts as dirty because of an error.
    pub(super) fn assume(&mut self, i: usize, piece: &Piece, error: &Error) {
        self.record(i, &piece.range(), error);
        self.add_piece(piece);
        if let Some(slot) = self.slots.get_mut(i) {
            slot.assume(piece.last - piece.first + 1);
        }
    }

    /// A reading failed: what it was about counts as dirty. Where one error makes everything
    /// doubtful, everything counts as dirty and the tracker is started anew, or given up for the
    /// next one. Returns false where it counts as dirty, and true where another question has made up
    /// for the one that failed: the answer is pending.
    pub(super) fn failed(&mut self, i: usize, range: &RangeInclusive<u64>, error: &Error) -> bool {
        let Some(slot) = self.slots.get_mut(i) else {
            self.record(i, &EVERYWHERE, error);
            self.everything_is_doubtful();
            return false;
        };
        let doubtful = slot.tracker.doubtful();
        let extent = slot.tracker.extent();
        match doubtful {
            Doubtful::PerhapsWhole if self.ask_for_whole(i, range) => return true,
            Doubtful::PerhapsWhole | Doubtful::Everything => {
                self.start_anew(i, error);
                return false;
            }
            Doubtful::NotNow | Doubtful::Range => {}
        }
        let Some(slot) = self.slots.get_mut(i) else { return false };
        slot.round.failed = true;
        // The tracker was asked in whole pages of its own.
        let mask = match extent {
            Extent::Pages(edges) => edges.max(slot.tracker.page()).bytes() - 1,
            Extent::WholeMappings { .. } => slot.tracker.page().bytes() - 1,
        };
        let range = range.start() & !mask..=range.end() | mask;
        slot.assume((range.end() - range.start()).saturating_add(1));
        self.record(i, &range, error);
        self.add_mapped(*range.start(), *range.end());
        false
    }

    /// The same for a reading of a whole mapping.
    pub(super) fn failed_whole(&mut self, i: usize, whole: &Piece, error: &Error) {
        match self.slots.get(i).map(|slot| slot.tracker.doubtful()) {
            Some(Doubtful::Range | Doubtful::NotNow) => {
                self.assume(i, whole, error);
                if let Some(slot) = self.slots.get_mut(i) {
                    slot.round.failed = true;
                }
            }
            Some(Doubtful::PerhapsWhole | Doubtful::Everything) => self.start_anew(i, error),
            None => {
                self.failed(i, &whole.range(), error);
            }
        }
    }

    /// Asks a log that does not answer for a part of a mapping for all of it, and from now on. What
    /// it says is pending. Returns whether it answers.
    fn ask_for_whole(&mut self, i: usize, range: &RangeInclusive<u64>) -> bool {
        if !self.slots.get_mut(i).is_some_and(|slot| slot.tracker.ask_for_whole_mappings(true)) {
            return false;
        }
        // A reading may be under way, with a sum of its own.
        let sum = self.sum.take();
        let (mut answers, mut from) = (true, Some(*range.start()));
        while let Some(piece) = from.and_then(|from| self.map.next_writable(from, range)) {
            let whole = self.map.whole(&piece);
            answers = self.whole_answer(i, &whole, false).is_ok();
            if !answers {
                break;
            }
            self.keep_sum(&whole, self.page.of(whole.first), self.page.of(whole.last) + 1);
            from = piece.last.checked_add(1);
        }
        self.sum = sum;
        if let Some(slot) = self.slots.get_mut(i).filter(|_| !answers) {
            slot.tracker.ask_for_whole_mappings(false);
        }
        answers
    }

    fn start_anew(&mut self, i: usize, why: &Error) {
        self.record(i, &EVERYWHERE, why);
        let mapped = self.map.bytes();
        let mut given_up = None;
        if let Some(slot) = self.slots.get_mut(i) {
            slot.failures += 1;
            slot.round.lost = true;
            slot.assume(mapped);
            slot.stop_or_warn();
            let started = if slot.failures > MAX_RESTARTS {
                Err(err!(Io, "given up after {MAX_RESTARTS} restarts: {}", why.message()))
            } else {
                slot.stats.restarts += 1;
                slot.start(&self.map)
            };
            if let Err(error) = started {
                slot.active = false;
                given_up = Some(error);
            }
        }
        if let Some(error) = given_up {
            self.replace(i, &error);
        }
        self.everything_is_doubtful();
    }

    /// Last, when everything is watched again.
    fn everything_is_doubtful(&mut self) {
        self.add_mapped(*EVERYWHERE.start(), *EVERYWHERE.end());
        self.windows_are_doubtful();
    }

    /// A mapping may have been made already that the run has not been told of.
    fn windows_are_doubtful(&mut self) {
        let Run { map, unsettled, .. } = self;
        for window in map.windows().iter() {
            insert_or_all(unsettled, window.clone());
        }
    }

    /// A device that was reset may have forgotten what it had logged.
    pub(super) fn note_resets(&mut self) {
        for index in 0..self.users.len() {
            let Some(user) = self.users.get_mut(index).and_then(Option::as_mut) else { continue };
            let resets = user.health.as_ref().map_or(0, Health::resets);
            if resets == std::mem::replace(&mut user.resets_seen, resets) {
                continue;
            }
            let Some(i) = user.slot() else { continue };
            let log = |kind| kind == TrackerKind::DeviceLog;
            if self.slots.get(i).is_some_and(|slot| slot.active && log(slot.tracker.kind())) {
                self.start_anew(i, &err!(Io, "the device was reset, and its log with it"));
            }
        }
    }

    // --- mappings that came later ------------------------------------------------------------------

    /// Starts logs anew that would watch more then, where nothing has to count as dirty for it: for a
    /// reading of a range.
    pub(super) fn rearm_for_free(&mut self, range: &RangeInclusive<u64>) {
        let mut due = None;
        for i in self.active_slots(&[TrackerKind::DeviceLog]) {
            if !self.slots.get(i).is_some_and(|slot| slot.tracker.is_outdated()) {
                continue;
            }
            if !*due.get_or_insert_with(|| self.is_rearm_due(range)) {
                continue;
            }
            if self.slots.get(i).is_some_and(|slot| slot.tracker.is_down()) {
                let blind = self.blind_of(i);
                self.restart_log(i);
                self.add_missed(i, blind);
            } else {
                self.rearm_slot(i, true);
            }
        }
        if due.is_none() {
            self.read_outdated = 0;
        }
    }

    /// Starting a log anew reads all of the map. A guest decides how often there is a new mapping, so
    /// this is done once as much has been read for other reasons: once per round.
    fn is_rearm_due(&mut self, range: &RangeInclusive<u64>) -> bool {
        let bytes: u64 = self.map.writable(range).map(|piece| piece.size()).sum();
        self.read_outdated = self.read_outdated.saturating_add(bytes);
        let due = self.read_outdated >= self.map.writable_bytes();
        if due {
            self.read_outdated = 0;
        }
        due
    }

    /// Gives up logs that have not answered for many rounds, where there is something better.
    pub(super) fn give_up_failing(&mut self) {
        for i in self.active_slots(&[TrackerKind::DeviceLog]) {
            let Some(slot) = self.slots.get_mut(i) else { continue };
            if slot.bad_rounds < MAX_BAD_ROUNDS {
                continue;
            }
            let better = |kind| !matches!(kind, TrackerKind::AllDirty | TrackerKind::Type1);
            if !slot.round_was_lost && !self.later_kinds(i).into_iter().any(better) {
                continue;
            }
            let error = err!(Io, "given up: it failed in {MAX_BAD_ROUNDS} rounds in a row");
            if let Some(slot) = self.slots.get_mut(i) {
                slot.active = false;
                slot.stop_or_warn();
            }
            self.record(i, &EVERYWHERE, &error);
            self.replace(i, &error);
            self.everything_is_doubtful();
        }
    }

    /// A writer that has no tracker, for whatever reason: nobody knows what it writes to.
    pub(super) fn note_untracked(&mut self, range: &RangeInclusive<u64>) {
        for index in 0..self.users.len() {
            let Some(user) = self.users.get(index).and_then(Option::as_ref) else { continue };
            if user.slot().is_some_and(|i| self.is_active(i)) {
                continue;
            }
            let error = err!(NotRecoverable, "nothing tracks writer {index}");
            let writer = u32::try_from(index).ok();
            self.errors.add(DirtyError::new(writer, TrackerKind::None, range, &error));
            self.add_mapped(*range.start(), *range.end());
        }
    }

    /// Starts a log anew. With `for_free`, not where everything would have to count as dirty.
    pub(super) fn rearm_slot(&mut self, i: usize, for_free: bool) {
        let evidence = self.evidence(i, for_free);
        if for_free && matches!(evidence, Evidence::Nothing) {
            return;
        }
        self.read_all_pieces(i);
        let blind = self.blind_of(i);
        if self.is_active(i) {
            self.restart_log(i);
        }
        self.add_missed(i, blind);
        let lossless = match evidence {
            Evidence::Quiet(before) => self.quiet(i) == Some(before),
            Evidence::Bridge { slot, temporary } => {
                let watched = self.is_active(slot);
                self.read_all_pieces(slot);
                let used = self.users.iter().flatten().any(|user| user.slot() == Some(slot));
                if let Some(slot) = self.slots.get_mut(slot).filter(|_| temporary && !used) {
                    slot.active = false;
                    slot.stop_or_warn();
                }
                watched
            }
            Evidence::Nothing => false,
        };
        if !lossless {
            let mapped = self.map.bytes();
            if let Some(slot) = self.slots.get_mut(i) {
                slot.assume(mapped);
            }
            self.tell_later(EVERYWHERE);
            self.everything_is_doubtful();
        }
        // Of these nobody was asked: the log is read where something is mapped.
        self.windows_are_doubtful();
    }

    /// What a log did not watch until now, and watches now: dirty for the last time. The next reading
    /// says so.
    fn add_missed(&mut self, i: usize, mut missed: RangeInclusiveSet<u64>) {
        let Some(slot) = self.slots.get_mut(i) else { return };
        for range in slot.tracker.blind().into_iter().flat_map(RangeInclusiveSet::iter) {
            missed.remove(range.clone());
        }
        slot.missed = (!missed.is_empty()).then(|| ranges::name(&missed));
        self.assume_unwatched(i, &missed);
    }

    fn quiet(&mut self, i: usize) -> Option<u64> {
        let user = self.users.iter_mut().flatten().find(|user| user.slot() == Some(i))?;
        user.health.as_mut()?.quiet()
    }

    fn evidence(&mut self, i: usize, for_free: bool) -> Evidence {
        if let Some(quiet) = self.quiet(i) {
            return Evidence::Quiet(quiet);
        }
        let user = self.users.iter().flatten().find(|user| user.slot() == Some(i));
        let Some(user) = user else { return Evidence::Nothing };
        let others = user.candidates.iter().copied().skip(user.chosen.map_or(0, |at| at + 1));
        let others: Vec<usize> = others.collect();
        for slot in others {
            let Some(other) = self.slots.get_mut(slot) else { continue };
            match other.tracker.kind() {
                // It can be had simpler.
                TrackerKind::AllDirty => continue,
                // All that is pinned is dirty in there.
                TrackerKind::Type1 if for_free => continue,
                _ => {}
            }
            if self.map.writable(&EVERYWHERE).any(|piece| other.find_hole(&piece).is_some()) {
                continue;
            }
            // One that is active watches for another writer, and is read in its turn besides.
            let temporary = !other.active;
            if temporary && other.start(&self.map).is_err() {
                continue;
            }
            other.active = true;
            return Evidence::Bridge { slot, temporary };
        }
        Evidence::Nothing
    }

    fn restart_log(&mut self, i: usize) {
        let Some(slot) = self.slots.get_mut(i) else { return };
        let restarted = slot.stop().and_then(|()| {
            slot.stats.restarts += 1;
            slot.start(&self.map)
        });
        if let Err(error) = restarted {
            slot.active = false;
            self.record(i, &EVERYWHERE, &error);
            self.replace(i, &error);
            self.everything_is_doubtful();
        }
    }
}
