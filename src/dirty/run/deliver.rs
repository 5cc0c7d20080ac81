//! Where dirty pages go: to the VMM's callback, or into a caller's bitmap.

use std::ops::RangeInclusive;

use super::super::bitmap::{self, PageSize, Span, words_for};
use super::super::map::{MAX_MAPPED, Mapping, Piece, check_range};
use super::super::memory::{Memory, Place};
use super::{Run, pages_in};
use crate::error::{Errno, Error, Result, err};

/// Takes what is dirty: a piece, its first page's address, the bits. On an error, those bits are
/// left set that were not taken.
pub(super) type Sink<'a> = &'a mut dyn FnMut(&Piece, u64, &mut [u64], u64) -> Result<()>;

/// Takes a part of what is pending: its first page's address, the bits. An error ends the taking.
type Take<'a> = &'a mut dyn FnMut(&mut Run, u64, &mut [u64], u64) -> Result<()>;

/// Bits whose mapping is gone and that nobody has taken yet.
pub(super) struct Orphan {
    piece: Piece,
    first: u64,
    words: Vec<u64>,
    bits: u64,
}

impl Orphan {
    pub fn footprint(&self) -> usize {
        self.words.capacity() * 8
    }
}

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

impl Run {
    /// Notes what a reading of `asked` leaves of a dirty page that it cuts.
    pub(super) fn owe(&mut self, page: u64, asked: &RangeInclusive<u64>) {
        let first = page << self.page.shift();
        let last = first | (self.page.bytes() - 1);
        self.owed.insert(first..=last);
        self.owed.remove(asked.clone());
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

    /// Delivers what is left of mappings that are gone. What is refused stays.
    pub(super) fn deliver_orphans(&mut self, sink: Sink<'_>) -> Result<()> {
        let mut result = Ok(());
        self.orphans.retain_mut(|orphan| {
            let Orphan { piece, first, words, bits } = orphan;
            match sink(piece, *first, words, *bits) {
                Ok(()) => false,
                Err(error) => {
                    if result.is_ok() {
                        result = Err(error);
                    }
                    true
                }
            }
        });
        result
    }

    /// Keeps what is pending in pieces that go.
    pub(super) fn orphan(&mut self, pieces: &[Piece]) {
        for piece in pieces {
            self.each_pending(piece, &mut |run, first, words, bits| {
                let words = words.to_vec();
                run.orphans.push(Orphan { piece: *piece, first, words, bits });
                Ok(())
            });
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
    fn each_pending(&mut self, piece: &Piece, take: Take<'_>) {
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
    Error::new(errno.code(), format!("the VMM does not {what} at {iova:#x}: {errno}"))
}

/// Gives dirty pages to the VMM. On an error, the bits of pages that it has taken are cleared.
fn give(
    memory: &mut dyn Memory,
    page: PageSize,
    piece: &Piece,
    first: u64,
    words: &mut [u64],
    bits: u64,
) -> Result<()> {
    let refused = |iova: u64, errno| callback_failed("take dirty pages", iova, errno);
    let Piece { mapping, .. } = piece;
    if !mapping.translate {
        return memory
            .set_dirty(mapping.cookie, piece.offset_of(first), page.bytes(), words, bits)
            .map_err(|errno| refused(first, errno));
    }
    let runs: Vec<(u64, u64)> = bitmap::runs(words, 0..bits).collect();
    let mut result = Ok(());
    words.fill(0);
    for (at, n) in runs {
        let mut done = 0;
        while done < n {
            let iova = first + ((at + done) << page.shift());
            let taken = place_of(memory, page, iova, n - done).and_then(|place| {
                let n = (place.size >> page.shift()).min(n - done);
                let mut ones = vec![0; words_for(n)];
                bitmap::set(&mut ones, 0, n);
                memory
                    .set_dirty(place.cookie, place.offset, page.bytes(), &ones, n)
                    .map_err(|errno| refused(iova, errno))?;
                Ok(n)
            });
            done += match taken {
                Ok(n) => n,
                Err(error) => {
                    // This page, and on with the next.
                    bitmap::set(words, at + done, 1);
                    result = result.and(Err(error));
                    1
                }
            };
        }
    }
    result
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

/// After so many pages that the VMM does not know it is not asked for the rest of a piece.
const MAX_UNKNOWN: u32 = 1024;

/// The places that a piece lies in, as pieces that need no translation; where the VMM does not
/// know, as it is.
pub(super) fn resolve(memory: &mut dyn Memory, page: PageSize, piece: &Piece) -> Vec<Piece> {
    if !piece.mapping.translate {
        return vec![*piece];
    }
    let (mut parts, mut unknown) = (Vec::new(), 0);
    let (mut at, end) = (page.of(piece.first), page.of(piece.last));
    while at <= end {
        let iova = at << page.shift();
        let left = end - at + 1;
        let Ok(place) = place_of(memory, page, iova, left) else {
            unknown += 1;
            let last = if unknown < MAX_UNKNOWN { iova | (page.bytes() - 1) } else { piece.last };
            parts.push(Piece { first: iova, last, ..*piece });
            if last >= piece.last {
                break;
            }
            at += 1;
            continue;
        };
        let pages = (place.size >> page.shift()).min(left);
        let size = pages << page.shift();
        let Place { cookie, offset, .. } = place;
        let mapping = Mapping { iova, size, cookie, offset, ..Mapping::default() };
        parts.push(Piece { first: iova, last: iova + (size - 1), mapping });
        at += pages;
    }
    parts
}
