// SPDX-License-Identifier: MIT OR Apache-2.0
//! Gets one answer from a tracker: asks in the tracker's pages, and adds the answer up in the
//! caller's.
//!
//! An answer that fails leaves no bit behind, neither in the sum nor in the scratch buffer.

use std::ops::{Range, RangeInclusive};
use std::time::Instant;

use crate::dirty::bitmap::{self, PageSize, Span, words_for};
use crate::dirty::buffers::{MAX_WHOLE, Scratch, too_large};
use crate::dirty::map::Piece;
use crate::dirty::tracker::{Extent, Tracker};
use crate::error::{Error, Result, err};
use crate::nanoseconds::elapsed_ns;
use crate::transport::Bitmap;

/// What the statistics count of an answer.
pub(super) struct Answer {
    pub dirty_bytes: u64,
    /// How long the tracker took, in nanoseconds.
    pub took: u64,
}

/// The size of the pages that a tracker answers in, and of those at whose edges questions to it
/// must begin and end. None if it answers only for whole mappings.
pub(super) fn pages(tracker: &dyn Tracker) -> Option<(PageSize, PageSize)> {
    match tracker.extent() {
        Extent::Pages(edges) => Some((tracker.page(), edges.max(tracker.page()))),
        Extent::WholeMappings { .. } => None,
    }
}

/// Fills in the answer for the chunk that `union` spans. `union` must be empty, and is empty again
/// if this fails. A tracker whose pages are those of the chunk writes straight into it; for any
/// other this is [`add`].
pub(super) fn fill(
    tracker: &mut dyn Tracker,
    keep: bool,
    union: &mut Bitmap<'_>,
    scratch: &mut Scratch,
    beyond: impl FnMut(RangeInclusive<u64>),
) -> Result<Answer> {
    let chunk = union.span();
    if pages(tracker).is_none_or(|(own, edges)| own != chunk.page || edges != chunk.page) {
        return add(tracker, keep, union, scratch, beyond);
    }
    let took = read_into(tracker, union, |tracker, words| tracker.read(keep, words))?;
    bitmap::cut(union, chunk.bits());
    Ok(Answer { dirty_bytes: bitmap::count(union) << chunk.page.shift(), took })
}

/// Adds the answer for a chunk to `union`. A tracker with larger pages also reports, and forgets,
/// what is dirty beyond the chunk: those ranges go to `beyond`.
pub(super) fn add(
    tracker: &mut dyn Tracker,
    keep: bool,
    union: &mut Bitmap<'_>,
    scratch: &mut Scratch,
    mut beyond: impl FnMut(RangeInclusive<u64>),
) -> Result<Answer> {
    let Some((page, edges)) = pages(tracker) else { return Err(wrong_extent()) };
    let chunk = union.span();
    let (first, last) = (chunk.start, chunk.last());
    let mask = edges.bytes() - 1;
    let start = first & !mask;
    // This never passes 2^64, because a page always ends there.
    let asked = Span { start, length: ((last | mask) - start).saturating_add(1), page };
    let words = &mut scratch.bitmap(asked)?;
    let took = read_into(tracker, words, |tracker, words| tracker.read(keep, words))?;
    bitmap::cut(words, asked.bits());
    let mut beyond = |bits: Range<u64>| {
        for (at, len) in bitmap::runs(words, bits) {
            let from = start + (at << page.shift());
            let to = from + ((len << page.shift()) - 1);
            if from < first {
                beyond(from..=to.min(first - 1));
            }
            if to > last {
                beyond(from.max(last + 1)..=to);
            }
        }
    };
    let bits = if page == chunk.page && start == first {
        // What does not fit into the chunk goes to `beyond`.
        let own = chunk.bits();
        if own < asked.bits() {
            beyond(own..asked.bits());
            let bits = bitmap::count(words);
            bitmap::cut(words, own);
            bitmap::drain(words, union);
            bits
        } else {
            bitmap::drain(words, union)
        }
    } else {
        bitmap::add_span(union, chunk, words, asked);
        // Pages that reach beyond the ends: the tracker has forgotten them.
        beyond(0..(first - start).div_ceil(page.bytes()));
        beyond((last - start).saturating_add(1) >> page.shift()..asked.bits());
        let bits = bitmap::count(words);
        words.fill(0);
        bits
    };
    Ok(Answer { dirty_bytes: bits << page.shift(), took })
}

/// Adds the answer about a whole mapping to `sum`, whose bit 0 is the first page of the mapping.
pub(super) fn whole(
    tracker: &mut dyn Tracker,
    whole: &Piece,
    page: PageSize,
    keep: bool,
    sum: &mut [u64],
    scratch: &mut Scratch,
) -> Result<Answer> {
    ask_whole(tracker, whole, page, sum, scratch, |tracker, words| tracker.read(keep, words))
}

/// Unmaps a piece, and adds what was dirty there in the same way. Fails if the tracker cannot
/// unmap.
pub(super) fn unmap(
    tracker: &mut dyn Tracker,
    piece: &Piece,
    page: PageSize,
    sum: &mut [u64],
    scratch: &mut Scratch,
) -> Result<Answer> {
    ask_whole(tracker, piece, page, sum, scratch, |tracker, words| {
        tracker.unmap(words).unwrap_or_else(|| Err(wrong_extent()))
    })
}

fn ask_whole(
    tracker: &mut dyn Tracker,
    whole: &Piece,
    page: PageSize,
    sum: &mut [u64],
    scratch: &mut Scratch,
    ask: impl FnOnce(&mut dyn Tracker, &mut Bitmap<'_>) -> Result<()>,
) -> Result<Answer> {
    let Extent::WholeMappings { max_bitmap } = tracker.extent() else {
        return Err(wrong_extent());
    };
    let own = tracker.page();
    let length = whole.size();
    let bits = length.div_ceil(own.bytes());
    let n = words_for(bits);
    let most = max_bitmap.min(MAX_WHOLE);
    if n as u64 * 8 > most {
        return Err(too_large(whole, n as u64 * 8, most, tracker.why_limited()));
    }
    let words = &mut scratch.bitmap(Span { start: whole.first, length, page: own })?;
    let took = read_into(tracker, words, ask)?;
    bitmap::cut(words, bits);
    let dirty = if own == page {
        bitmap::drain(words, sum)
    } else {
        let to = Span { start: whole.first, length, page };
        let of = Span { start: whole.first, length: bits << own.shift(), page: own };
        bitmap::add_span(sum, to, words, of);
        let dirty = bitmap::count(words);
        words.fill(0);
        dirty
    };
    Ok(Answer { dirty_bytes: dirty << own.shift(), took })
}

/// Lets the tracker fill in words, which must be zero, and are zero again if it fails. Returns how
/// long it took, in nanoseconds.
fn read_into(
    tracker: &mut dyn Tracker,
    words: &mut Bitmap<'_>,
    read: impl FnOnce(&mut dyn Tracker, &mut Bitmap<'_>) -> Result<()>,
) -> Result<u64> {
    let began = Instant::now();
    let result = read(tracker, words);
    let took = elapsed_ns(began);
    if result.is_err() {
        words.fill(0);
    }
    result.map(|()| took)
}

/// Should never happen. If it does, nobody knows what was written to.
fn wrong_extent() -> Error {
    err!(NotRecoverable, "the tracker was asked for what it does not answer")
}
