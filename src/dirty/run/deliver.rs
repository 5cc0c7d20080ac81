// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where dirty pages go: to the VMM's callback, or into a caller's bitmap.

use std::ops::RangeInclusive;

use super::super::bitmap::{self, PageSize, Span, words_for};
use super::super::map::{MAX_MAPPED, Piece, check_range};
use super::super::memory::{Memory, Place};
use super::super::ranges::insert_or_all;
use super::{Run, pages_in};
use crate::error::{Errno, Error, Result, err};

/// Takes what is dirty: a piece, its first page's address, the bits. On an error, those bits are
/// left set that were not taken.
pub(super) type Sink<'a> = &'a mut dyn FnMut(&Piece, u64, &mut [u64], u64) -> Result<()>;

/// Takes a part of what is pending: its first page's address, the bits. An error ends the taking.
pub(super) type Take<'a> = &'a mut dyn FnMut(&mut Run, u64, &mut [u64], u64) -> Result<()>;

/// A caller's bitmap.
pub(super) struct BitmapSink<'a> {
    words: &'a mut [u64],
    span: Span,
    page: PageSize,
}

impl<'a> BitmapSink<'a> {
    /// Checks it.
    pub fn new(
        iova: u64,
        length: u64,
        page_size: u64,
        words: &'a mut [u64],
        run_page: PageSize,
    ) -> Result<BitmapSink<'a>> {
        let page = PageSize::new(page_size).filter(|page| (512..=1 << 40).contains(&page.bytes()));
        let page = page.ok_or_else(|| {
            err!(Inval, "the bitmap's page size must be a power of two from 512, not {page_size}")
        })?;
        check_range("a range", iova, length, page)?;
        if length > MAX_MAPPED {
            return Err(err!(Inval, "a range of {length:#x} bytes is more than can be mapped"));
        }
        let span = Span { start: iova, length, page };
        if words.len() < words_for(span.bits()) {
            return Err(err!(
                NoSpace,
                "the bitmap has {} words; {} pages take {}",
                words.len(),
                span.bits(),
                words_for(span.bits())
            ));
        }
        Ok(BitmapSink { words, span, page: run_page })
    }

    /// Adds bits of the run's pages, from the one at `first` on.
    pub fn add(&mut self, first: u64, words: &[u64], bits: u64) {
        let of = Span { start: first, length: bits << self.page.shift(), page: self.page };
        bitmap::add_span(self.words, self.span, words, of);
    }

    /// Adds every page that has a byte of a range.
    fn add_range(&mut self, range: &RangeInclusive<u64>) {
        let (first, last) = (self.span.page.of(*range.start()), self.span.page.of(*range.end()));
        let base = self.span.page.of(self.span.start);
        bitmap::set(self.words, first.saturating_sub(base), last - first + 1);
    }

    /// Collects the dirty pages of the run that the asked-for range cuts.
    pub fn note_cut(
        &self,
        asked: &RangeInclusive<u64>,
        first: u64,
        words: &[u64],
        bits: u64,
        cut: &mut Vec<u64>,
    ) {
        let (page, mask) = (self.page, self.page.bytes() - 1);
        let edges = [
            (*asked.start(), asked.start() & mask != 0),
            (*asked.end(), asked.end() & mask != mask),
        ];
        for (address, is_cut) in edges {
            let bit = page.of(address).wrapping_sub(page.of(first));
            let word = words.get((bit / 64) as usize).copied().unwrap_or(0);
            if is_cut && bit < bits && word >> (bit % 64) & 1 == 1 {
                cut.push(page.of(address));
            }
        }
    }
}

/// Parts of pages that are kept apart: a caller decides by what it asks for.
const MAX_OWED: usize = 1024;

impl Run {
    /// Notes what a reading of `asked` leaves of a dirty page that it cuts.
    pub(super) fn owe(&mut self, page: u64, asked: &RangeInclusive<u64>) {
        let first = page << self.page.shift();
        let last = first | (self.page.bytes() - 1);
        insert_or_all(&mut self.owed, first..=last);
        self.owed.remove(asked.clone());
        if self.owed.len() > MAX_OWED {
            // Then all of those pages come once more.
            for range in std::mem::take(&mut self.owed) {
                self.add_pages(&range);
            }
        }
    }

    /// Delivers what earlier readings have left in a range.
    pub(super) fn deliver_owed(&mut self, asked: &RangeInclusive<u64>, sink: &mut BitmapSink<'_>) {
        for range in self.owed.overlapping(asked) {
            let (first, last) = (range.start().max(asked.start()), range.end().min(asked.end()));
            sink.add_range(&(*first..=*last));
        }
        self.owed.remove(asked.clone());
    }

    /// Runs `call` with a sink that gives everything to the VMM. It keeps the first error that the
    /// VMM answers with, goes on, and returns it in the end.
    pub(super) fn deliver_to_memory<R>(
        &mut self,
        call: impl FnOnce(&mut Run, Sink<'_>) -> Result<R>,
    ) -> Result<R> {
        let gone = || err!(NotRecoverable, "an earlier call did not come back");
        let mut memory = self.memory.take().ok_or_else(gone)?;
        let page = self.page;
        let mut refused = None;
        let result = call(self, &mut |piece, first, words, bits| {
            let result = give(memory.as_mut(), page, piece, first, words, bits);
            if let Err(error) = &result {
                refused.get_or_insert_with(|| error.clone());
            }
            result
        });
        self.memory = Some(memory);
        match refused {
            Some(error) => result.and(Err(error)),
            None => result,
        }
    }

    /// To the sink; what it does not take becomes pending. Refusals are the sink's to remember.
    pub(super) fn deliver(
        &mut self,
        piece: &Piece,
        first: u64,
        words: &mut [u64],
        bits: u64,
        sink: Sink<'_>,
    ) {
        if bitmap::has_any(words) && sink(piece, first, words, bits).is_err() {
            self.pending.add_bits(self.page.of(first), words, 0..bits);
        }
    }

    pub(super) fn deliver_pending(
        &mut self,
        pieces: &[Piece],
        cancellable: bool,
        sink: Sink<'_>,
    ) -> Result<()> {
        for piece in pieces {
            let mut result = Ok(());
            self.each_pending(piece, &mut |run, first, words, bits| {
                if cancellable && result.is_ok() {
                    result = run.check_cancel();
                }
                if result.is_ok() {
                    run.deliver(piece, first, words, bits, sink);
                } else {
                    run.pending.add_bits(run.page.of(first), words, 0..bits);
                }
                result.clone()
            });
            result?;
        }
        Ok(())
    }

    /// Takes what is pending in a piece, part by part, until `take` fails.
    pub(super) fn each_pending(&mut self, piece: &Piece, take: Take<'_>) {
        let most = self.buffer_bytes as u64 * 8;
        let mut at = self.page.of(piece.first);
        let end = at + pages_in(piece.first, piece.last, self.page);
        while at < end {
            let bits = most.min(end - at);
            if self.pending.overlaps(&(at..=at + bits - 1)) {
                let taken = self.with_union(bits, |run, union| {
                    run.pending.take(at, bits, union);
                    take(run, at << run.page.shift(), union, bits)
                });
                if !matches!(taken, Ok(Ok(()))) {
                    return;
                }
            }
            at += bits;
        }
    }

    pub(super) fn check_cancel(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(err!(Cancelled, "the run was cancelled; stop it"));
        }
        Ok(())
    }
}

pub(super) fn callback_failed(what: &str, iova: u64, errno: Errno) -> Error {
    Error::from_args(
        errno.callback_code(),
        format_args!("the VMM does not {what} at {iova:#x}: {errno}"),
    )
}

/// Gives dirty pages to the VMM. On an error, the bits of pages that it has taken are cleared.
pub(super) fn give(
    memory: &mut dyn Memory,
    page: PageSize,
    piece: &Piece,
    first: u64,
    words: &mut [u64],
    bits: u64,
) -> Result<()> {
    let Piece { mapping, .. } = piece;
    if !mapping.translate {
        return memory
            .set_dirty(mapping.cookie, piece.offset_of(first), page.bytes(), words, bits)
            .map_err(|errno| callback_failed("take dirty pages", first, errno));
    }
    let mut result = Ok(());
    let mut next = 0;
    while let Some((at, n)) = bitmap::runs(words, next..bits).next() {
        next = at + n;
        let mut done = 0;
        while done < n {
            let iova = first + ((at + done) << page.shift());
            done += match give_place(memory, page, iova, n - done) {
                Ok(taken) => {
                    bitmap::clear(words, at + done, taken);
                    taken
                }
                Err(error) => {
                    // This page stays, and on with the next.
                    result = result.and(Err(error));
                    1
                }
            };
        }
    }
    result
}

/// Pages that are given at a time where the VMM was asked for their place.
pub(super) const BATCH: u64 = 64 * 64;

/// Gives up to `most` dirty pages, of which it asks the VMM where the first lies. Returns how many
/// were taken.
fn give_place(memory: &mut dyn Memory, page: PageSize, iova: u64, most: u64) -> Result<u64> {
    let place = place_of(memory, page, iova, most)?;
    give_at(memory, page, iova, place, most)
}

/// The same where that is known.
pub(super) fn give_at(
    memory: &mut dyn Memory,
    page: PageSize,
    iova: u64,
    place: Place,
    most: u64,
) -> Result<u64> {
    let n = page.of(place.size).min(most).min(BATCH);
    let mut ones = [0; (BATCH / 64) as usize];
    bitmap::set(&mut ones, 0, n);
    let words = ones.get(..words_for(n)).unwrap_or_default();
    memory
        .set_dirty(place.cookie, place.offset, page.bytes(), words, n)
        .map_err(|errno| callback_failed("take dirty pages", iova, errno))?;
    Ok(n)
}

/// Asks the VMM where a page lies: a place with at least one whole page.
pub(super) fn place_of(
    memory: &mut dyn Memory,
    page: PageSize,
    iova: u64,
    pages: u64,
) -> Result<Place> {
    let place = memory
        .translate(iova, pages << page.shift())
        .map_err(|errno| callback_failed("know which page was written to", iova, errno))?;
    let Place { offset, size, .. } = place;
    if size < page.bytes() || !page.divides(offset) || offset.checked_add(size - 1).is_none() {
        return Err(err!(
            Inval,
            "what is at {iova:#x} is at {offset:#x}, {size:#x} bytes, says the VMM: not in whole \
             pages"
        ));
    }
    Ok(place)
}
