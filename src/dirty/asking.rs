// SPDX-License-Identifier: MIT OR Apache-2.0
//! One question to one tracker, and what counts as dirty where it has no answer.

use std::ops::RangeInclusive;

use super::bitmap::PageSize;
use super::buffers::{Answers, Sum};
use super::ledger::Ledger;
use super::map::{Map, Piece};
use super::ranges::EVERYWHERE;
use super::tracker::Doubtful;
use super::trackers::Trackers;
use crate::error::{Error, Result, err};
use crate::transport::Bitmap;

/// Everything needed to ask the trackers, borrowed for one call.
pub(super) struct Asking<'a> {
    pub page: PageSize,
    pub map: &'a Map,
    pub trackers: &'a mut Trackers,
    pub ledger: &'a mut Ledger,
    pub answers: &'a mut Answers,
}

impl Asking<'_> {
    // --- chunks ------------------------------------------------------------------------------------

    /// Puts one tracker's answer for a chunk into `union`, which is empty before, and empty again
    /// if this fails.
    pub fn fill(&mut self, i: usize, keep: bool, union: &mut Bitmap<'_>) -> Result<()> {
        let Asking { map, trackers, ledger, answers, .. } = self;
        let tracker = trackers.get_mut(i).ok_or_else(no_tracker)?;
        tracker.fill(keep, union, &mut answers.chunk, |beyond| {
            ledger.add_writable(map, &beyond);
        })
    }

    /// Adds one tracker's answer for a chunk to `union`.
    pub fn add(&mut self, i: usize, union: &mut Bitmap<'_>) -> Result<()> {
        let Asking { map, trackers, ledger, answers, .. } = self;
        let tracker = trackers.get_mut(i).ok_or_else(no_tracker)?;
        tracker.add(false, union, &mut answers.chunk, |beyond| {
            ledger.add_writable(map, &beyond);
        })
    }

    /// A tracker has not answered for a chunk, so what it was asked about counts as dirty. If the
    /// error makes everything doubtful, everything counts as dirty, and the tracker is restarted or
    /// replaced by the next one. Returns true if a question about whole mappings got the answer
    /// instead; that answer is pending. Otherwise returns false.
    pub fn failed(&mut self, i: usize, range: &RangeInclusive<u64>, error: &Error) -> bool {
        let Some(doubtful) = self.trackers.get(i).map(|tracker| tracker.doubtful()) else {
            self.is_gone(i, error);
            return false;
        };
        match doubtful {
            Doubtful::PerhapsWhole if self.ask_for_whole(i, range) => return true,
            Doubtful::PerhapsWhole | Doubtful::Everything => {
                self.trackers.start_anew(i, error, self.map, self.ledger);
                return false;
            }
            Doubtful::NotNow | Doubtful::Range => {}
        }
        let Some(tracker) = self.trackers.get_mut(i) else { return false };
        tracker.numbers().fail_round();
        let range = tracker.widen(range);
        tracker.numbers().assume((range.end() - range.start()).saturating_add(1));
        self.trackers.record(i, &range, error, self.ledger);
        self.ledger.add_writable(self.map, &range);
        false
    }

    /// The tracker no longer exists. Nobody knows what it would have said, so everything counts as
    /// dirty.
    fn is_gone(&mut self, i: usize, error: &Error) {
        self.trackers.record(i, &EVERYWHERE, error, self.ledger);
        self.ledger.add_everything(self.map);
    }

    /// Asks a log that does not answer for part of a mapping about all of it, now and in future.
    /// What it says becomes pending. Returns whether it answers.
    fn ask_for_whole(&mut self, i: usize, range: &RangeInclusive<u64>) -> bool {
        if !self.trackers.get_mut(i).is_some_and(|tracker| tracker.ask_for_whole_mappings(true)) {
            return false;
        }
        // A reading may be under way, with a sum of its own.
        let mut sum = Sum::default();
        let (mut answers, mut from) = (true, Some(*range.start()));
        while let Some(piece) = from.and_then(|from| self.map.next_writable(from, range)) {
            let whole = self.map.whole(&piece);
            let answer = sum.begin(&whole, self.page);
            answers = answer.and_then(|words| self.add_whole(i, &whole, false, words)).is_ok();
            if !answers {
                break;
            }
            self.ledger.add_sum(&sum);
            from = piece.last.checked_add(1);
        }
        if let Some(tracker) = self.trackers.get_mut(i).filter(|_| !answers) {
            tracker.ask_for_whole_mappings(false);
        }
        answers
    }

    // --- whole mappings ----------------------------------------------------------------------------

    /// Reads the whole mapping that a piece belongs to from these trackers into `sum`. Without
    /// trackers there is no sum; without memory there is none either, and all of the mapping is
    /// pending.
    pub fn whole(&mut self, piece: &Piece, trackers: &[usize], keep: bool, sum: &mut Sum) {
        sum.end();
        if trackers.is_empty() {
            return;
        }
        let whole = self.map.whole(piece);
        match sum.begin(&whole, self.page) {
            Ok(words) => {
                for i in trackers {
                    if let Err(error) = self.add_whole(*i, &whole, keep, words) {
                        self.failed_whole(*i, &whole, &error);
                    }
                }
            }
            Err(error) => {
                for i in trackers {
                    self.trackers.assume(*i, &whole, &error, self.ledger);
                }
            }
        }
    }

    fn add_whole(&mut self, i: usize, whole: &Piece, keep: bool, sum: &mut [u64]) -> Result<()> {
        let tracker = self.trackers.get_mut(i).ok_or_else(no_tracker)?;
        tracker.add_whole(whole, self.page, keep, sum, &mut self.answers.whole)
    }

    /// A tracker has not answered for a whole mapping. See [`Asking::failed`].
    fn failed_whole(&mut self, i: usize, whole: &Piece, error: &Error) {
        match self.trackers.get(i).map(|tracker| tracker.doubtful()) {
            Some(Doubtful::Range | Doubtful::NotNow) => {
                self.trackers.assume(i, whole, error, self.ledger);
                if let Some(tracker) = self.trackers.get_mut(i) {
                    tracker.numbers().fail_round();
                }
            }
            Some(Doubtful::PerhapsWhole | Doubtful::Everything) => {
                self.trackers.start_anew(i, error, self.map, self.ledger);
            }
            None => self.is_gone(i, error),
        }
    }

    /// Unmaps what a container has mapped of a piece; what was dirty there becomes pending. If that
    /// fails, all of the piece becomes pending, and the VMM's callback unmaps it.
    pub fn unmap(&mut self, i: usize, piece: &Piece, sum: &mut Sum) {
        let scratch = &mut self.answers.whole;
        let unmapped = sum.begin(piece, self.page).and_then(|words| {
            let tracker = self.trackers.get_mut(i).ok_or_else(no_tracker)?;
            tracker.unmap(piece, self.page, words, scratch)
        });
        match unmapped {
            Ok(()) => self.ledger.add_sum(sum),
            Err(error) => self.trackers.assume(i, piece, &error, self.ledger),
        }
    }
}

/// Should never happen. If it does, nobody knows what was written to.
fn no_tracker() -> Error {
    err!(NotRecoverable, "the tracker is gone")
}
