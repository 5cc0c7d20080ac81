// SPDX-License-Identifier: MIT OR Apache-2.0
//! The books: what is known or taken to be dirty and has not been delivered, and why.
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

/// Ranges that are kept in order to say precisely what was not watched.
const MAX_UNTOLD: usize = 1024;

/// Parts of pages that are kept apart: a caller decides by what it asks for.
const MAX_OWED: usize = 1024;

/// Takes what is dirty: a piece, its first page's address, the bits. On an error, those bits are
/// left set that were not taken.
pub(super) type Sink<'a> = &'a mut dyn FnMut(&Piece, u64, &mut [u64], u64) -> Result<()>;

/// Takes a part of what is pending: its first page's address, the bits. An error ends the taking.
pub(super) type Take<'a> = &'a mut dyn FnMut(&mut Ledger, u64, &mut [u64], u64) -> Result<()>;

/// See the module. Ranges are of addresses.
pub(super) struct Ledger {
    page: PageSize,
    pending: Pending,
    /// Dirty at all times, until unmapped: a tracker may not see what is written there.
    suspect: RangeInclusiveSet<u64>,
    /// Where in windows a write may have been missed before its mapping was told of: dirty once, when
    /// it is.
    missed_windows: RangeInclusiveSet<u64>,
    /// Parts of dirty pages that readings of other parts have left.
    owed: RangeInclusiveSet<u64>,
    /// What counts as dirty because nobody watched it, and what no reading has said this of yet.
    untold: RangeInclusiveSet<u64>,
    errors: Errors,
    /// Of them, so many were there when a reading said that there are some.
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

    /// Forgets all but the errors.
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

    /// How many ranges it keeps besides.
    pub fn num_ranges(&self) -> usize {
        [&self.suspect, &self.missed_windows, &self.owed].map(RangeInclusiveSet::len).iter().sum()
    }

    // --- pending pages -----------------------------------------------------------------------------

    /// Bounds the memory for pending pages by how much is mapped.
    pub fn set_room(&mut self, map: &Map) {
        self.pending.set_room(self.page.of(map.bytes()));
    }

    /// Makes a range pending. All of it is mapped.
    pub fn add(&mut self, range: &RangeInclusive<u64>) {
        self.pending.add(self.page.of(*range.start())..=self.page.of(*range.end()));
    }

    /// Makes pages pending whose bits are set; bit 0 is the page at `first`.
    pub fn add_bits(&mut self, first: u64, words: &[u64], bits: Range<u64>) {
        self.pending.add_bits(self.page.of(first), words, bits);
    }

    /// Makes all of a sum pending.
    pub fn add_sum(&mut self, sum: &Sum) {
        self.add_sum_of(sum, 0..u64::MAX);
    }

    /// Makes what a sum has of these pages pending, by their numbers.
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

    /// To the sink; what it does not take becomes pending. Refusals are the sink's to keep.
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

    /// From now on a range is dirty at all times.
    pub fn suspect(&mut self, range: RangeInclusive<u64>) {
        insert_or_all(&mut self.suspect, range);
        ranges::bound(&mut self.suspect, MAX_KEPT);
    }

    /// No longer: it is unmapped.
    pub fn trust(&mut self, range: RangeInclusive<u64>) {
        self.suspect.remove(range);
        ranges::bound(&mut self.suspect, MAX_KEPT);
    }

    pub fn is_suspect(&self, range: &RangeInclusive<u64>) -> bool {
        self.suspect.overlaps(range)
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

    /// Makes everything pending, also what is about to be mapped.
    pub fn add_everything(&mut self, map: &Map) {
        self.add_writable(map, &EVERYWHERE);
        self.miss_windows(map);
    }

    /// In a window, a mapping may have been made already that has not been told of.
    pub fn miss_windows(&mut self, map: &Map) {
        for window in map.windows().iter() {
            insert_or_all(&mut self.missed_windows, window.clone());
        }
    }

    /// Nothing was missed.
    pub fn forget_windows(&mut self) {
        self.missed_windows.clear();
    }

    /// Makes what may have been missed in a range of windows pending: it is mapped now.
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

    /// The next reading says that some of a range was not watched.
    pub fn tell_later(&mut self, range: RangeInclusive<u64>) {
        insert_or_all(&mut self.untold, range);
        ranges::bound(&mut self.untold, MAX_UNTOLD);
    }

    /// What a reading of a range that is complete has to say: whether there are errors, and whether
    /// some of it was not watched.
    pub fn tell(&mut self, range: &RangeInclusive<u64>) -> (bool, bool) {
        let errors = self.errors.total > self.errors_told;
        self.errors_told = self.errors.total;
        let untold = self.untold.overlaps(range);
        self.untold.remove(range.clone());
        (errors, untold)
    }

    // --- parts of pages ----------------------------------------------------------------------------

    /// Keeps what a reading of `asked` leaves of a dirty page that it cuts.
    pub fn owe(&mut self, map: &Map, page: u64, asked: &RangeInclusive<u64>) {
        let first = page << self.page.shift();
        let last = first | (self.page.bytes() - 1);
        insert_or_all(&mut self.owed, first..=last);
        self.owed.remove(asked.clone());
        if self.owed.len() > MAX_OWED {
            // Then all of those pages come once more.
            self.add_owed(map, &EVERYWHERE);
        }
    }

    /// Makes pages pending of which a part in a range is owed.
    pub fn add_owed(&mut self, map: &Map, range: &RangeInclusive<u64>) {
        let Ledger { owed, pending, page, .. } = self;
        for part in owed.overlapping(range) {
            let part = *part.start().max(range.start())..=*part.end().min(range.end());
            // Also where devices cannot write: the VMM can.
            for piece in map.pieces(&part) {
                pending.add(page.of(piece.first)..=page.of(piece.last));
            }
        }
        owed.remove(range.clone());
    }

    /// Gives out the parts that are owed in a range.
    pub fn pay(&mut self, asked: &RangeInclusive<u64>, mut to: impl FnMut(&RangeInclusive<u64>)) {
        for range in self.owed.overlapping(asked) {
            let (first, last) = (range.start().max(asked.start()), range.end().min(asked.end()));
            to(&(*first..=*last));
        }
        self.owed.remove(asked.clone());
    }

    // --- errors ------------------------------------------------------------------------------------

    /// A range counts as dirty because of an error.
    pub fn record(
        &mut self,
        writer: Option<u32>,
        tracker: TrackerKind,
        range: &RangeInclusive<u64>,
        error: &Error,
    ) {
        self.errors.add(DirtyError::new(writer, tracker, range, error));
    }

    /// Errors that no reading needs to speak of: the call in which they came says it.
    pub fn told(&mut self, errors: u64) {
        self.errors_told += errors;
    }

    /// How many errors there were.
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
