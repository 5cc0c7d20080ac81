// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the trackers say: readings over the map, piece by piece and chunk by chunk.

use std::ops::RangeInclusive;
use std::time::Instant;

use rangemap::RangeInclusiveSet;

use super::super::bitmap::{self, PageSize, Span, words_for};
use super::super::errors::DirtyError;
use super::super::map::{EVERYWHERE, Piece};
use super::super::ranges::insert_or_all;
use super::super::tracker::{Extent, Tracker, TrackerKind};
use super::deliver::Sink;
use super::trackers::Slot;
use super::{Run, Synced, elapsed_ns, pages_in};
use crate::alloc;
use crate::error::{Error, Result, err};
use crate::sys::BitmapBuffer;

impl Run {
    /// One reading over a range: every active tracker's answer and what is pending, to the sink.
    pub(super) fn sweep(
        &mut self,
        range: &RangeInclusive<u64>,
        complete: bool,
        sink: Sink<'_>,
    ) -> Result<Synced> {
        let started = Instant::now();
        if self.rounds.begin(range) {
            self.end_slot_rounds();
        }
        for slot in &mut self.slots {
            slot.failures = 0;
        }
        self.rearm_for_free(range);
        let mut pages = 0;
        let mut counting = |piece: &Piece, first: u64, words: &mut [u64], bits: u64| {
            let dirty = bitmap::count(words);
            let result = sink(piece, first, words, bits);
            pages += if result.is_ok() { dirty } else { dirty - bitmap::count(words) };
            result
        };
        let result = self.read_and_deliver(range, &mut counting);
        let bytes = pages << self.page.shift();
        let complete = complete && result.is_ok();
        self.rounds.read(range.clone(), bytes, started.elapsed(), complete);
        if complete {
            self.end_slot_rounds();
        }
        result?;
        Ok(self.told(range))
    }

    fn read_and_deliver(&mut self, range: &RangeInclusive<u64>, sink: Sink<'_>) -> Result<()> {
        self.note_resets();
        self.note_untracked(range);
        // First: without memory nothing has been read, and all stays where it is.
        let pieces = alloc::collect(self.map.pieces(range), "no memory for a list of mappings")?;
        for piece in pieces.iter().filter(|piece| !piece.mapping.read_only) {
            let whole = self.read_whole(piece, &self.whole_slots(), false);
            let mut at = piece.first;
            let result = loop {
                let last = self.chunk_end(at, piece.last);
                if let Err(error) = self.chunk(piece, at, last, whole.as_ref(), sink) {
                    break Err(error);
                }
                if last >= piece.last {
                    break Ok(());
                }
                at = last + 1;
            };
            if let Some(whole) = &whole {
                // What was read and not delivered: beside the range, and behind an error.
                let (first, base) = (self.page.of(piece.first), self.page.of(whole.first));
                let done = if result.is_ok() { piece.last } else { at };
                let done = self.page.of(done) + u64::from(result.is_ok());
                self.keep_sum(whole, base, first);
                self.keep_sum(whole, done, self.page.of(whole.last) + 1);
            }
            result?;
        }
        // A reset during the reading may have lost what was logged before it.
        self.note_resets();
        // What an error has made dirty behind the reading, and what lay beside a piece.
        self.deliver_pending(&pieces, true, sink)
    }

    /// The last address of a piece that fits the buffer in the smallest pages there are, at an edge
    /// of the largest.
    fn chunk_end(&self, at: u64, last: u64) -> u64 {
        let (mut least, mut most) = (self.page, self.page);
        for slot in self.slots.iter().filter(|slot| slot.active) {
            if let Extent::Pages(edges) = slot.tracker.extent() {
                least = least.min(slot.tracker.page());
                most = most.max(edges);
            }
        }
        let length = (self.buffer_bytes as u64 * 8).saturating_mul(least.bytes());
        // 2^64 has no number, and is an edge.
        let Some(end) = at.checked_add(length) else { return last };
        let edge = end & !(most.bytes() - 1);
        let end = if edge > at && self.page.divides(edge) { edge } else { end };
        last.min(end - 1)
    }

    /// Reads one part of a piece from all trackers and delivers it.
    pub(super) fn chunk(
        &mut self,
        piece: &Piece,
        first: u64,
        last: u64,
        whole: Option<&Piece>,
        sink: Sink<'_>,
    ) -> Result<()> {
        self.check_cancel()?;
        let bits = pages_in(first, last, self.page);
        self.with_union(bits, |run, union| {
            let mut is_empty = true;
            for i in 0..run.slots.len() {
                if !run.slots.get(i).is_some_and(|slot| slot.active && !slot.reads_whole()) {
                    continue;
                }
                let result = if is_empty {
                    run.read_first(i, first, last, false, union)
                } else {
                    run.read(i, first, last, false, union)
                };
                if let Err(error) = result {
                    if !run.failed(i, &(first..=last), &error) {
                        bitmap::set(union, 0, bits);
                    }
                }
                is_empty = false;
            }
            match (whole, &run.sum) {
                (Some(whole), Some(sum)) => {
                    let from = run.page.of(first) - run.page.of(whole.first);
                    bitmap::or_at(union, 0, sum, from, bits);
                }
                (Some(_), None) => {
                    run.record_lost_sum(&(first..=last));
                    bitmap::set(union, 0, bits);
                }
                (None, _) => {}
            }
            // Behind the readings: what failed in one of them is pending.
            run.pending.take(run.page.of(first), bits, union);
            run.add_unwatched(first, last, union);
            run.deliver(piece, first, union, bits, sink);
        })
    }

    /// Gives an empty sum of so many bits to `call`.
    pub(super) fn with_union<R>(
        &mut self,
        bits: u64,
        call: impl FnOnce(&mut Run, &mut [u64]) -> R,
    ) -> Result<R> {
        let gone = || err!(NotRecoverable, "an earlier call did not come back");
        let mut union = self.union.take().ok_or_else(gone)?;
        let words = union.get_mut(..words_for(bits));
        let result = words.map(|words| {
            words.fill(0);
            call(self, words)
        });
        self.union = Some(union);
        result.ok_or_else(|| err!(Inval, "{bits} pages are more than the buffer is for"))
    }

    /// One tracker's answer for a range, in `union`, which is empty: the tracker fills it in itself,
    /// where its pages are those of the run. When this fails, the sum is empty.
    pub(super) fn read_first(
        &mut self,
        i: usize,
        first: u64,
        last: u64,
        keep: bool,
        union: &mut [u64],
    ) -> Result<()> {
        let slot = self.slots.get_mut(i).ok_or_else(no_tracker)?;
        let (bits, length) = (pages_in(first, last, self.page), (last - first).saturating_add(1));
        let whole = |edges: PageSize| edges <= self.page && slot.tracker.page() == self.page;
        if !matches!(slot.tracker.extent(), Extent::Pages(edges) if whole(edges)) {
            return self.read(i, first, last, keep, union);
        }
        let began = Instant::now();
        let result = slot.tracker.read(first, length, keep, union);
        let took = elapsed_ns(began);
        if result.is_err() {
            union.fill(0);
        }
        result?;
        bitmap::cut(union, bits);
        slot.count(bitmap::count(union) << self.page.shift(), took);
        Ok(())
    }

    /// Adds one tracker's answer for a range to `union`, whose bit 0 is the page at `first`.
    fn read(
        &mut self,
        i: usize,
        first: u64,
        last: u64,
        keep: bool,
        union: &mut [u64],
    ) -> Result<()> {
        let slot = self.slots.get_mut(i).ok_or_else(no_tracker)?;
        let Extent::Pages(edges) = slot.tracker.extent() else { return Err(wrong_extent()) };
        let page = slot.tracker.page();
        let mask = edges.max(page).bytes() - 1;
        let start = first & !mask;
        // Not over 2^64: a page ends there at the most.
        let length = ((last | mask) - start).saturating_add(1);
        let asked = Span { start, length, page };
        let n = words_for(asked.bits());
        let mut scratch = match self.scratch.take() {
            Some(scratch) if scratch.len() >= n => scratch,
            _ => bitmap::buffer(n)?,
        };
        let mut beyond = Vec::new();
        let result = scratch.get_mut(..n).map_or_else(
            || Err(no_room(n)),
            |words| {
                let began = Instant::now();
                let result = slot.tracker.read(start, length, keep, words);
                let took = elapsed_ns(began);
                if result.is_err() {
                    words.fill(0);
                }
                result?;
                bitmap::cut(words, asked.bits());
                let bits = if page == self.page && start == first {
                    // What does not fit the union any more stays.
                    let own = pages_in(first, last, page);
                    if own < asked.bits() {
                        push_runs(&mut beyond, bitmap::runs(words, own..asked.bits()));
                        let bits = bitmap::count(words);
                        bitmap::cut(words, own);
                        bitmap::drain(words, union);
                        bits
                    } else {
                        bitmap::drain(words, union)
                    }
                } else {
                    let own = Span { start: first, length: last - first + 1, page: self.page };
                    bitmap::add_span(union, own, words, asked);
                    // Pages that reach over the ends: their bits are gone now.
                    let head = (first - start).div_ceil(page.bytes());
                    let tail = (last - start).saturating_add(1) >> page.shift();
                    push_runs(&mut beyond, bitmap::runs(words, 0..head));
                    push_runs(&mut beyond, bitmap::runs(words, tail..asked.bits()));
                    let bits = bitmap::count(words);
                    words.fill(0);
                    bits
                };
                slot.count(bits << page.shift(), took);
                Ok(())
            },
        );
        self.scratch = Some(scratch);
        for (at, len) in beyond {
            let from = start + (at << page.shift());
            let to = from + ((len << page.shift()) - 1);
            if from < first {
                self.add_mapped(from, to.min(first - 1));
            }
            if to > last {
                self.add_mapped(from.max(last + 1), to);
            }
        }
        result
    }

    /// What counts as dirty whatever the trackers say.
    fn add_unwatched(&mut self, first: u64, last: u64, union: &mut [u64]) {
        let page = self.page;
        let asked = first..=last;
        let mut add = |range: &RangeInclusive<u64>| {
            let (start, end) = (*range.start().max(&first), *range.end().min(&last));
            let n = pages_in(start, end, page);
            bitmap::set(union, page.of(start) - page.of(first), n);
            n << page.shift()
        };
        for slot in self.slots.iter_mut().filter(|slot| slot.active) {
            let Some(blind) = slot.tracker.blind() else { continue };
            let bytes = blind.overlapping(&asked).map(&mut add).sum();
            slot.assume(bytes);
        }
        self.suspect.overlapping(&asked).for_each(|range| {
            add(range);
        });
    }

    /// What counts as dirty whatever one tracker says.
    pub(super) fn blind_of(&self, i: usize) -> RangeInclusiveSet<u64> {
        let mut found = RangeInclusiveSet::new();
        let blind = self.slots.get(i).and_then(|slot| slot.tracker.blind());
        for range in blind.into_iter().flat_map(RangeInclusiveSet::iter) {
            insert_or_all(&mut found, range.clone());
        }
        found
    }

    /// Makes pages pending that one tracker has not watched; the next reading says so.
    pub(super) fn assume_unwatched(&mut self, i: usize, ranges: &RangeInclusiveSet<u64>) {
        let mut pages = 0;
        for range in ranges.iter() {
            pages += pages_in(*range.start(), *range.end(), self.page);
            self.pending.add(self.page.of(*range.start())..=self.page.of(*range.end()));
            self.tell_later(range.clone());
        }
        if let Some(slot) = self.slots.get_mut(i) {
            slot.assume(pages.saturating_mul(self.page.bytes()));
        }
    }

    /// Makes what counts as dirty whatever the trackers say pending. It is counted as assumed if
    /// wished.
    pub(super) fn add_blind(&mut self, pieces: &[Piece], counted: bool) {
        let Run { slots, suspect, pending, page, .. } = self;
        for piece in pieces.iter().filter(|piece| !piece.mapping.read_only) {
            let asked = piece.range();
            let mut add = |range: &RangeInclusive<u64>| {
                let (first, last) = (range.start().max(&piece.first), range.end().min(&piece.last));
                pending.add(page.of(*first)..=page.of(*last));
                pages_in(*first, *last, *page)
            };
            for slot in slots.iter_mut().filter(|slot| slot.active) {
                let blind = slot.tracker.blind().into_iter();
                let pages: u64 =
                    blind.flat_map(|blind| blind.overlapping(&asked)).map(&mut add).sum();
                slot.assume(if counted { pages.saturating_mul(page.bytes()) } else { 0 });
            }
            for range in suspect.overlapping(&asked) {
                add(range);
            }
        }
    }

    /// Makes all that one tracker says of these pieces pending. With `keep`, it does not forget it
    /// where it can do that.
    pub(super) fn read_pieces(&mut self, i: usize, pieces: &[Piece], keep: bool) {
        for piece in pieces.iter().filter(|piece| !piece.mapping.read_only) {
            if self.slots.get(i).is_some_and(Slot::reads_whole) {
                if let Some(whole) = self.read_whole(piece, &[i], keep) {
                    // With keep, the rest is still there.
                    let part = if keep { piece } else { &whole };
                    self.keep_sum(&whole, self.page.of(part.first), self.page.of(part.last) + 1);
                }
                continue;
            }
            let mut at = piece.first;
            loop {
                let last = self.chunk_end(at, piece.last);
                let bits = pages_in(at, last, self.page);
                let result = self.with_union(bits, |run, union| {
                    run.read_first(i, at, last, keep, union)?;
                    run.pending.add_bits(run.page.of(at), union, 0..bits);
                    Ok(())
                });
                if let Ok(Err(error)) | Err(error) = result {
                    if self.failed(i, &(at..=last), &error) {
                        break; // it has answered for the whole mapping
                    }
                }
                if !self.is_active(i) {
                    return; // given up, and everything is dirty
                }
                if last >= piece.last {
                    break;
                }
                at = last + 1;
            }
        }
    }

    /// Makes all that one tracker has to say pending.
    pub(super) fn read_out(&mut self, i: usize) {
        self.read_all_pieces(i);
        if self.is_active(i) {
            // Not only what it has seen.
            let blind = self.blind_of(i);
            self.assume_unwatched(i, &blind);
        }
    }

    /// [`Run::read_pieces`] of all there are, which are not put into a list: there may be no memory
    /// for one.
    pub(super) fn read_all_pieces(&mut self, i: usize) {
        let mut from = Some(0);
        while let Some(piece) = from.and_then(|from| self.map.next_writable(from, &EVERYWHERE)) {
            self.read_pieces(i, &[piece], false);
            if !self.is_active(i) {
                return;
            }
            from = piece.last.checked_add(1);
        }
    }

    /// Trackers that answer for whole mappings only.
    fn whole_slots(&self) -> Vec<usize> {
        let slots = self.slots.iter().enumerate();
        let whole = |slot: &Slot| slot.active && slot.reads_whole();
        slots.filter(|(_, slot)| whole(slot)).map(|(i, _)| i).collect()
    }

    /// Reads the mapping that a piece is of from these trackers, into `sum`, and returns it.
    fn read_whole(&mut self, piece: &Piece, slots: &[usize], keep: bool) -> Option<Piece> {
        if slots.is_empty() {
            return None;
        }
        let whole = self.map.whole(piece);
        let mut sum = match self.take_sum(&whole) {
            Ok(sum) => sum,
            Err(error) => {
                slots.iter().for_each(|i| self.assume(*i, &whole, &error));
                return None;
            }
        };
        for i in slots {
            let result = self.with_whole(*i, &whole, &mut sum, |tracker, length, words| {
                tracker.read(whole.first, length, keep, words)
            });
            if let Err(error) = result {
                self.failed_whole(*i, &whole, &error);
            }
        }
        self.sum = Some(sum);
        Some(whole)
    }

    /// One tracker's answer about a whole mapping, in `sum`.
    pub(super) fn whole_answer(&mut self, i: usize, whole: &Piece, keep: bool) -> Result<()> {
        let mut sum = self.take_sum(whole)?;
        let result = self.with_whole(i, whole, &mut sum, |tracker, length, words| {
            tracker.read(whole.first, length, keep, words)
        });
        self.sum = Some(sum);
        result
    }

    /// An empty sum with room for a piece.
    pub(super) fn take_sum(&mut self, piece: &Piece) -> Result<BitmapBuffer> {
        let n = words_for(pages_in(piece.first, piece.last, self.page));
        if n as u64 * 8 > MAX_WHOLE {
            return Err(too_large(piece, n as u64 * 8, MAX_WHOLE, ""));
        }
        let mut sum = match self.sum.take() {
            Some(sum) if sum.len() >= n => sum,
            _ => return bitmap::buffer(n),
        };
        sum.get_mut(..n).ok_or_else(|| no_room(n))?.fill(0);
        Ok(sum)
    }

    /// Makes pages `first` to before `end` of the sum pending.
    pub(super) fn keep_sum(&mut self, whole: &Piece, first: u64, end: u64) {
        if first >= end {
            return;
        }
        let base = self.page.of(whole.first);
        if let Some(sum) = &self.sum {
            self.pending.add_bits(base, sum, first - base..end - base);
            return;
        }
        let shift = self.page.shift();
        self.record_lost_sum(&(first << shift..=((end - 1) << shift) | (self.page.bytes() - 1)));
        self.pending.add(first..=end - 1);
    }

    fn record_lost_sum(&mut self, range: &RangeInclusive<u64>) {
        let error = err!(NotRecoverable, "what the trackers have said of a mapping is gone");
        self.errors.add(DirtyError::new(None, TrackerKind::None, range, &error));
    }

    /// Lets a tracker fill in a bitmap of a whole piece, and adds that to `sum`, whose bit 0 is the
    /// piece's first page.
    pub(super) fn with_whole(
        &mut self,
        i: usize,
        piece: &Piece,
        sum: &mut [u64],
        call: impl FnOnce(&mut dyn Tracker, u64, &mut [u64]) -> Result<()>,
    ) -> Result<()> {
        let slot = self.slots.get_mut(i).ok_or_else(no_tracker)?;
        let Extent::WholeMappings { max_bitmap } = slot.tracker.extent() else {
            return Err(wrong_extent());
        };
        let page = slot.tracker.page();
        let length = piece.last - piece.first + 1;
        let bits = length.div_ceil(page.bytes());
        let n = words_for(bits);
        let most = max_bitmap.min(MAX_WHOLE);
        if n as u64 * 8 > most {
            return Err(too_large(piece, n as u64 * 8, most, slot.tracker.why_limited()));
        }
        let mut room = match self.whole.take() {
            Some(room) if room.len() >= n => room,
            _ => bitmap::buffer(n)?,
        };
        let result = room.get_mut(..n).map_or_else(
            || Err(no_room(n)),
            |words| {
                let began = Instant::now();
                let result = call(slot.tracker.as_mut(), length, words);
                let took = elapsed_ns(began);
                if result.is_err() {
                    words.fill(0);
                }
                result?;
                bitmap::cut(words, bits);
                let dirty = if page == self.page {
                    bitmap::drain(words, sum)
                } else {
                    let to = Span { start: piece.first, length, page: self.page };
                    let of = Span { start: piece.first, length: bits << page.shift(), page };
                    bitmap::add_span(sum, to, words, of);
                    let dirty = bitmap::count(words);
                    words.fill(0);
                    dirty
                };
                slot.count(dirty << page.shift(), took);
                Ok(())
            },
        );
        self.whole = Some(room);
        result
    }
}

// What follows is not known to happen. Where it does, nobody knows what was written to.

pub(super) fn no_tracker() -> Error {
    err!(NotRecoverable, "the tracker is gone")
}

fn wrong_extent() -> Error {
    err!(NotRecoverable, "the tracker was asked for what it does not answer")
}

fn no_room(words: usize) -> Error {
    err!(NotRecoverable, "a bitmap has no room for {words} words")
}

/// Bitmaps of whole mappings are no larger, in bytes: as the kernel's limit for containers.
const MAX_WHOLE: u64 = 256 << 20;

fn too_large(piece: &Piece, bytes: u64, most: u64, why: &str) -> Error {
    err!(
        NotSupported,
        "the mapping at {:#x}, {:#x} bytes, is too large to be tracked in one: its bitmap takes \
         {bytes} bytes, and the limit is {most}{why}; map it in pieces",
        piece.first,
        piece.last - piece.first + 1
    )
}

impl Slot {
    /// Whether it answers for whole mappings only.
    pub fn reads_whole(&self) -> bool {
        matches!(self.tracker.extent(), Extent::WholeMappings { .. })
    }
}

/// Adds stretches of bits to a list. Where there is no memory for it, the last one grows over those
/// that follow: a page too many is dirty, and none too few.
fn push_runs(to: &mut Vec<(u64, u64)>, runs: impl Iterator<Item = (u64, u64)>) {
    for (at, len) in runs {
        let full = alloc::push(to, (at, len), "").is_err();
        if let Some(last) = to.last_mut().filter(|_| full) {
            last.1 = (at + len).saturating_sub(last.0).max(last.1);
        } else if full {
            // The first few take little, and come from the reserve.
            to.push((at, len));
        }
    }
}
