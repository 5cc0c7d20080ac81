// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps what is dirty, or counts as dirty, until it is delivered, and the errors that made it
//! count.
//!
//! Nothing here asks a tracker or calls the VMM.

use std::ops::{Range, RangeInclusive};

use rangemap::RangeInclusiveSet;

use super::bitmap::{self, PageSize, Span};
use super::buffers::{Sum, Union};
use super::errors::{DirtyError, Errors};
use super::map::{Map, Piece};
use super::pending::Pending;
use super::ranges::{self, EVERYWHERE, MAX_KEPT, insert_or_all};
use super::tracker::TrackerKind;
use crate::error::{Error, Result};

/// The most ranges kept in `untold`, to say precisely what was not watched.
const MAX_UNTOLD: usize = 1024;

/// The most parts of pages kept in `owed`. Callers decide how many there are, by the ranges that
/// they ask for.
const MAX_OWED: usize = 1024;

/// Takes what is dirty: a piece, the address of the first page, the bits, how many. On an error,
/// the bits of pages that were not taken are still set.
pub(super) type Sink<'a> = &'a mut dyn FnMut(&Piece, u64, &mut [u64], u64) -> Result<()>;

/// Takes a part of what is pending: the address of the first page, the bits, how many. An error
/// ends the loop.
pub(super) type Take<'a> = &'a mut dyn FnMut(&mut Ledger, u64, &mut [u64], u64) -> Result<()>;

/// What is dirty and not yet delivered. Ranges are of addresses.
pub(super) struct Ledger {
    page: PageSize,
    pending: Pending,
    /// Always dirty until unmapped, because a tracker may not see what is written there.
    suspect: RangeInclusiveSet<u64>,
    /// Where in windows a write may have been missed before the library was told of the mapping.
    /// This becomes dirty once, when it is told.
    missed_windows: RangeInclusiveSet<u64>,
    /// Parts of dirty pages that are still to be delivered: readings asked for other parts of those
    /// pages.
    owed: RangeInclusiveSet<u64>,
    /// What counted as dirty because nobody watched it, and no reading has said so yet.
    untold: RangeInclusiveSet<u64>,
    errors: Errors,
    /// How many errors there were when a reading last said that there are some.
    errors_told: u64,
}

impl Ledger {
    pub fn new(page: PageSize) -> Ledger {
        Ledger {
            page,
            pending: Pending::default(),
            suspect: RangeInclusiveSet::new(),
            missed_windows: RangeInclusiveSet::new(),
            owed: RangeInclusiveSet::new(),
            untold: RangeInclusiveSet::new(),
            errors: Errors::default(),
            errors_told: 0,
        }
    }

    /// Forgets everything but the errors.
    pub fn forget_pages(&mut self) {
        self.pending.clear();
        self.suspect.clear();
        self.missed_windows.clear();
        self.owed.clear();
        self.untold.clear();
    }

    pub fn forget_errors(&mut self) {
        self.errors.clear();
        self.errors_told = 0;
    }

    /// The memory that pending pages take, in bytes.
    pub fn footprint(&self) -> u64 {
        self.pending.footprint()
    }

    /// How many ranges it keeps besides the pending pages.
    pub fn num_ranges(&self) -> usize {
        [&self.suspect, &self.missed_windows, &self.owed].map(RangeInclusiveSet::len).iter().sum()
    }

    // --- pending pages -----------------------------------------------------------------------------

    /// Limits the memory for pending pages according to how much is mapped.
    pub fn set_room(&mut self, map: &Map) {
        self.pending.set_room(self.page.of(map.bytes()));
    }

    /// Makes a range pending, all of which must be mapped.
    pub fn add(&mut self, range: &RangeInclusive<u64>) {
        self.pending.add(self.page.of(*range.start())..=self.page.of(*range.end()));
    }

    /// Makes the pages whose bits are set pending; bit 0 is the page at `first`.
    pub fn add_bits(&mut self, first: u64, words: &[u64], bits: Range<u64>) {
        self.pending.add_bits(self.page.of(first), words, bits);
    }

    /// Makes all of a sum pending.
    pub fn add_sum(&mut self, sum: &Sum) {
        self.add_sum_of(sum, 0..u64::MAX);
    }

    /// Makes those of these pages pending that are set in a sum. Pages are given by number.
    pub fn add_sum_of(&mut self, sum: &Sum, pages: Range<u64>) {
        let Some((whole, words)) = sum.get() else { return };
        let (base, last) = (self.page.of(whole.first), self.page.of(whole.last));
        let (first, end) = (pages.start.max(base), pages.end.min(last + 1));
        self.pending.add_bits(base, words, first - base..end.max(base) - base);
    }

    /// Makes what devices can write to in a range pending.
    pub fn add_writable(&mut self, map: &Map, range: &RangeInclusive<u64>) {
        let Ledger { pending, page, .. } = self;
        for piece in map.writable(range) {
            pending.add(page.of(piece.first)..=page.of(piece.last));
        }
    }

    /// Takes out what is pending of `bits` pages from `first` on, and adds it to `into`.
    pub fn take(&mut self, first: u64, bits: u64, into: &mut [u64]) {
        self.pending.take(self.page.of(first), bits, into);
    }

    /// Takes what is pending in a piece, part by part, until `take` fails.
    pub fn each_pending(&mut self, piece: &Piece, union: &mut Union, take: Take<'_>) -> Result<()> {
        let mut at = self.page.of(piece.first);
        let last = self.page.of(piece.last);
        while at <= last {
            let bits = union.max_bits().min(last - at + 1);
            if self.pending.overlaps(&(at..=at + (bits - 1))) {
                let words = union.begin(bits)?;
                self.pending.take(at, bits, words);
                take(self, at << self.page.shift(), words, bits)?;
            }
            at += bits;
        }
        Ok(())
    }

    /// Hands bits to the sink; what it does not take becomes pending.
    pub fn deliver(
        &mut self,
        piece: &Piece,
        first: u64,
        words: &mut [u64],
        bits: u64,
        sink: Sink<'_>,
    ) {
        if bitmap::has_any(words) && sink(piece, first, words, bits).is_err() {
            self.add_bits(first, words, 0..bits);
        }
    }

    /// Delivers what is pending in these pieces, until `check` fails.
    pub fn deliver_pending(
        &mut self,
        pieces: &[Piece],
        union: &mut Union,
        check: impl Fn() -> Result<()>,
        sink: Sink<'_>,
    ) -> Result<()> {
        for piece in pieces {
            self.each_pending(piece, union, &mut |ledger, first, words, bits| {
                if let Err(error) = check() {
                    ledger.add_bits(first, words, 0..bits);
                    return Err(error);
                }
                ledger.deliver(piece, first, words, bits, sink);
                Ok(())
            })?;
        }
        Ok(())
    }

    // --- what nobody watches -----------------------------------------------------------------------

    /// From now on a range is always dirty.
    pub fn suspect(&mut self, range: RangeInclusive<u64>) {
        insert_or_all(&mut self.suspect, range);
        ranges::bound(&mut self.suspect, MAX_KEPT);
    }

    /// A range is no longer suspect: it is unmapped.
    pub fn trust(&mut self, range: RangeInclusive<u64>) {
        self.suspect.remove(range);
        ranges::bound(&mut self.suspect, MAX_KEPT);
    }

    pub fn is_suspect(&self, range: &RangeInclusive<u64>) -> bool {
        self.suspect.overlaps(range)
    }

    /// Whether some of a range is suspect, and some is not.
    pub fn is_suspect_in_part(&self, range: &RangeInclusive<u64>) -> bool {
        self.is_suspect(range) && self.suspect.gaps(range).next().is_some()
    }

    /// Adds what is suspect in a chunk to its sum.
    pub fn add_suspects_to(&self, chunk: Span, union: &mut [u64]) {
        for range in self.suspect.overlapping(&chunk.range()) {
            chunk.set(union, range);
        }
    }

    /// Makes what is suspect in a piece pending.
    pub fn add_suspects(&mut self, piece: &Piece) {
        let Ledger { suspect, pending, page, .. } = self;
        for range in suspect.overlapping(&piece.range()) {
            let (first, last) = (range.start().max(&piece.first), range.end().min(&piece.last));
            pending.add(page.of(*first)..=page.of(*last));
        }
    }

    /// Makes everything pending, including what is about to be mapped.
    pub fn add_everything(&mut self, map: &Map) {
        self.add_writable(map, &EVERYWHERE);
        self.miss_windows(map);
    }

    /// Notes that a write to any window may have been missed: there may be a mapping that the
    /// library has not yet been told of.
    pub fn miss_windows(&mut self, map: &Map) {
        for window in map.windows().iter() {
            insert_or_all(&mut self.missed_windows, window.clone());
        }
    }

    /// Notes that nothing was missed in windows.
    pub fn forget_windows(&mut self) {
        self.missed_windows.clear();
    }

    /// Makes what may have been missed in a range of a window pending, now that the range is
    /// mapped.
    pub fn add_missed(&mut self, map: &Map, range: &RangeInclusive<u64>) {
        let Ledger { missed_windows, untold, pending, page, .. } = self;
        for part in missed_windows.overlapping(range) {
            let part = *part.start().max(range.start())..=*part.end().min(range.end());
            insert_or_all(untold, part.clone());
            for piece in map.writable(&part) {
                pending.add(page.of(piece.first)..=page.of(piece.last));
            }
        }
        ranges::bound(untold, MAX_UNTOLD);
        missed_windows.remove(range.clone());
        ranges::bound(missed_windows, MAX_KEPT);
    }

    /// Lets the next reading of a range say that some of it was not watched.
    pub fn tell_later(&mut self, range: RangeInclusive<u64>) {
        insert_or_all(&mut self.untold, range);
        ranges::bound(&mut self.untold, MAX_UNTOLD);
    }

    /// What a complete reading of a range has to say: whether there are new errors, and whether
    /// some of the range was not watched.
    pub fn tell(&mut self, range: &RangeInclusive<u64>) -> (bool, bool) {
        let errors = self.errors.total > self.errors_told;
        self.errors_told = self.errors.total;
        let untold = self.untold.overlaps(range);
        self.untold.remove(range.clone());
        (errors, untold)
    }

    // --- parts of pages ----------------------------------------------------------------------------

    /// Keeps the rest of a dirty page that `asked` covers only partly.
    pub fn owe(&mut self, map: &Map, page: u64, asked: &RangeInclusive<u64>) {
        let first = page << self.page.shift();
        let last = first | (self.page.bytes() - 1);
        insert_or_all(&mut self.owed, first..=last);
        self.owed.remove(asked.clone());
        if self.owed.len() > MAX_OWED {
            // Too many parts: all of those pages are delivered once more.
            self.add_owed(map, &EVERYWHERE);
        }
    }

    /// Makes the pages pending of which a part within a range is owed.
    pub fn add_owed(&mut self, map: &Map, range: &RangeInclusive<u64>) {
        let Ledger { owed, pending, page, .. } = self;
        for part in owed.overlapping(range) {
            let part = *part.start().max(range.start())..=*part.end().min(range.end());
            // This includes read-only mappings, because the VMM can write there.
            for piece in map.pieces(&part) {
                pending.add(page.of(piece.first)..=page.of(piece.last));
            }
        }
        owed.remove(range.clone());
    }

    /// Delivers the parts that are owed within a range.
    pub fn pay(&mut self, asked: &RangeInclusive<u64>, mut to: impl FnMut(&RangeInclusive<u64>)) {
        for range in self.owed.overlapping(asked) {
            let (first, last) = (range.start().max(asked.start()), range.end().min(asked.end()));
            to(&(*first..=*last));
        }
        self.owed.remove(asked.clone());
    }

    // --- errors ------------------------------------------------------------------------------------

    /// Records an error that makes a range count as dirty.
    pub fn record(
        &mut self,
        writer: Option<u32>,
        tracker: TrackerKind,
        range: &RangeInclusive<u64>,
        error: &Error,
    ) {
        self.errors.add(DirtyError::new(writer, tracker, range, error));
    }

    /// Notes errors that no reading has to mention, because the call in which they happened reports
    /// them.
    pub fn told(&mut self, errors: u64) {
        self.errors_told += errors;
    }

    /// How many errors there have been.
    pub fn total_errors(&self) -> u64 {
        self.errors.total
    }

    /// How many errors are kept.
    pub fn num_errors(&self) -> usize {
        self.errors.len()
    }

    pub fn error(&self, index: usize) -> Option<&DirtyError> {
        self.errors.get(index)
    }
}

#[cfg(test)]
mod tests;
