// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads the trackers' answers over the map, piece by piece and chunk by chunk.
//!
//! The answers for a chunk are added up in a small buffer and delivered from there. Only what cannot
//! be delivered at once goes into the ledger.

use std::ops::RangeInclusive;

use super::asking::Asking;
use super::bitmap::{self, Span};
use super::buffers::{Sum, Union};
use super::ledger::Sink;
use super::map::Piece;
use super::ranges::EVERYWHERE;
use crate::alloc;
use crate::cancel::Cancel;
use crate::error::{Result, err};

/// Everything needed for a reading, borrowed for one call.
pub(super) struct Reading<'a> {
    pub asking: Asking<'a>,
    pub union: &'a mut Union,
    pub sum: &'a mut Sum,
    pub cancel: &'a Cancel,
}

impl Reading<'_> {
    /// Gives everything that is dirty in a range to the sink.
    pub fn over(&mut self, range: &RangeInclusive<u64>, sink: Sink<'_>) -> Result<()> {
        self.check_resets();
        self.check_untracked(range);
        // This comes before any reading, so a lack of memory here loses nothing.
        let pieces = self.asking.map.pieces(range);
        let pieces = alloc::collect(pieces, "no memory for a list of mappings")?;
        for piece in pieces.iter().filter(|piece| !piece.mapping.read_only) {
            let whole = self.asking.trackers.active_whole();
            self.asking.whole(piece, &whole, false, self.sum);
            let (end, result) = self.chunks(piece, sink);
            // Keep what was read and not delivered: outside the piece, and after an error.
            let Asking { ledger, page, .. } = &mut self.asking;
            ledger.add_sum_of(self.sum, 0..page.of(piece.first));
            ledger.add_sum_of(self.sum, end..u64::MAX);
            result?;
        }
        // A reset during the reading may have lost what was logged before it.
        self.check_resets();
        // Deliver what an error has made dirty in parts already read, and what was read outside its
        // piece.
        let Reading { asking, union, cancel, .. } = self;
        asking.ledger.deliver_pending(&pieces, union, || check_cancel(cancel), sink)
    }

    /// Reads a piece from all trackers and delivers it, as far as possible. Returns the number of
    /// the first page that was not delivered.
    fn chunks(&mut self, piece: &Piece, sink: Sink<'_>) -> (u64, Result<()>) {
        let page = self.asking.page;
        let mut at = piece.first;
        loop {
            let last = self.chunk_end(at, piece.last);
            if let Err(error) = self.chunk(piece, Span::of(&(at..=last), page), sink) {
                return (page.of(at), Err(error));
            }
            if last >= piece.last {
                return (page.of(last) + 1, Ok(()));
            }
            at = last + 1;
        }
    }

    /// The last address of the next chunk of a piece. The chunk must fit the buffer even in the
    /// smallest of the trackers' pages, and end at an edge of the largest.
    fn chunk_end(&self, at: u64, last: u64) -> u64 {
        let page = self.asking.page;
        let (mut least, mut most) = (page, page);
        for (own, edges) in self.asking.trackers.active().filter_map(|(_, it)| it.pages()) {
            least = least.min(own);
            most = most.max(edges);
        }
        let length = self.union.max_bits().saturating_mul(least.bytes());
        // 2^64 cannot be represented, and is an edge.
        let Some(end) = at.checked_add(length) else { return last };
        let edge = end & !(most.bytes() - 1);
        let end = if edge > at && page.divides(edge) { edge } else { end };
        last.min(end - 1)
    }

    /// Reads one part of a piece from all trackers and delivers it.
    fn chunk(&mut self, piece: &Piece, chunk: Span, sink: Sink<'_>) -> Result<()> {
        check_cancel(self.cancel)?;
        let Reading { asking, union, sum, .. } = self;
        let bits = chunk.bits();
        let union = &mut union.chunk(chunk)?;
        let mut is_empty = true;
        for i in 0..asking.trackers.len() {
            let read = asking.trackers.get(i).is_some_and(|it| it.is_active() && !it.reads_whole());
            if !read {
                continue;
            }
            let result = if is_empty { asking.fill(i, false, union) } else { asking.add(i, union) };
            if let Err(error) = result {
                if !asking.failed(i, &chunk.range(), &error) {
                    bitmap::set(union, 0, bits);
                }
            }
            is_empty = false;
        }
        if let Some((whole, words)) = sum.get() {
            let from = asking.page.of(chunk.start) - asking.page.of(whole.first);
            bitmap::or_at(union, 0, words, from, bits);
        }
        // This comes after the questions, because what failed in one of them is pending now.
        asking.ledger.take(chunk.start, bits, union);
        asking.trackers.add_blind_to(chunk, union);
        asking.ledger.add_suspects_to(chunk, union);
        asking.ledger.deliver(piece, chunk.start, union, bits, sink);
        Ok(())
    }

    // --- one tracker -------------------------------------------------------------------------------

    /// Makes all that one tracker says about these pieces pending. With `keep`, it does not forget
    /// what it said, if it can do that.
    pub fn pieces(&mut self, i: usize, pieces: &[Piece], keep: bool) {
        let page = self.asking.page;
        for piece in pieces.iter().filter(|piece| !piece.mapping.read_only) {
            if self.asking.trackers.get(i).is_some_and(|tracker| tracker.reads_whole()) {
                self.asking.whole(piece, &[i], keep, self.sum);
                // With `keep`, the tracker still has the rest.
                let kept = page.of(piece.first)..page.of(piece.last) + 1;
                self.asking.ledger.add_sum_of(self.sum, if keep { kept } else { 0..u64::MAX });
                continue;
            }
            let mut at = piece.first;
            loop {
                let last = self.chunk_end(at, piece.last);
                if let Err(error) = self.chunk_of(i, Span::of(&(at..=last), page), keep) {
                    if self.asking.failed(i, &(at..=last), &error) {
                        break; // it has answered for the whole mapping
                    }
                }
                if !self.asking.trackers.is_active(i) {
                    return; // given up, and everything is dirty
                }
                if last >= piece.last {
                    break;
                }
                at = last + 1;
            }
        }
    }

    fn chunk_of(&mut self, i: usize, chunk: Span, keep: bool) -> Result<()> {
        let mut union = self.union.chunk(chunk)?;
        self.asking.fill(i, keep, &mut union)?;
        self.asking.ledger.add_bits(chunk.start, &union, 0..chunk.bits());
        Ok(())
    }

    /// [`Reading::pieces`] for the whole map. No list is made, because there may be no memory for
    /// one.
    pub fn all_pieces(&mut self, i: usize) {
        let mut from = Some(0);
        let map = self.asking.map;
        while let Some(piece) = from.and_then(|from| map.next_writable(from, &EVERYWHERE)) {
            self.pieces(i, &[piece], false);
            if !self.asking.trackers.is_active(i) {
                return;
            }
            from = piece.last.checked_add(1);
        }
    }

    /// Makes everything that one tracker has to say pending, and everything that it did not watch.
    pub fn read_out(&mut self, i: usize) {
        self.all_pieces(i);
        if self.asking.trackers.is_active(i) {
            let blind = self.asking.trackers.blind_of(i);
            self.asking.trackers.assume_unwatched(i, &blind, self.asking.ledger);
        }
    }

    // --- doubts ------------------------------------------------------------------------------------

    /// Looks for devices that were reset: they may have forgotten what they had logged.
    pub fn check_resets(&mut self) {
        let Asking { trackers, map, ledger, .. } = &mut self.asking;
        trackers.check_resets(map, ledger);
    }

    /// If nothing tracks a writer, makes all of a range pending: nobody knows what it wrote to.
    pub fn check_untracked(&mut self, range: &RangeInclusive<u64>) {
        let Asking { trackers, map, ledger, .. } = &mut self.asking;
        trackers.check_untracked(range, map, ledger);
    }
}

fn check_cancel(cancel: &Cancel) -> Result<()> {
    if cancel.is_cancelled() {
        return Err(err!(Cancelled, "dirty tracking was cancelled; stop it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::buffers::Buffers;
    use crate::dirty::fake::{Fake, PAGE, map, page};
    use crate::dirty::ledger::Ledger;
    use crate::dirty::map::Map;
    use crate::dirty::trackers::Trackers;
    use crate::dirty::writer::Writer;
    use crate::error::Code;

    /// What a [`Reading`] borrows.
    struct Parts {
        map: Map,
        trackers: Trackers,
        ledger: Ledger,
        buffers: Buffers,
        cancel: Cancel,
    }

    impl Parts {
        /// Parts with chunks of 64 pages.
        fn new(mappings: &[(u64, u64)], writers: Vec<Writer>) -> Parts {
            let (map, mut trackers) = (map(mappings), Trackers::new(page()));
            for writer in writers {
                trackers.add(writer, Some(&map)).unwrap();
            }
            let buffers = Buffers::new(8).unwrap();
            let (ledger, cancel) = (Ledger::new(page()), Cancel::default());
            Parts { map, trackers, ledger, buffers, cancel }
        }

        fn reading(&mut self) -> Reading<'_> {
            let Parts { map, trackers, ledger, buffers, cancel } = self;
            let Buffers { answers, union, sum } = buffers;
            let asking = Asking { page: page(), map, trackers, ledger, answers };
            Reading { asking, union, sum, cancel }
        }

        /// The dirty pages of a reading over a range of pages.
        fn read(&mut self, first: u64, last: u64) -> (Vec<u64>, Result<()>) {
            let mut found = Vec::new();
            let range = first * PAGE..=(last + 1) * PAGE - 1;
            let result = self.reading().over(&range, &mut |_, first, words, bits| {
                let dirty = bitmap::runs(words, 0..bits).flat_map(|(at, n)| at..at + n);
                found.extend(dirty.map(|bit| first / PAGE + bit));
                Ok(())
            });
            (found, result)
        }
    }

    fn custom(fake: &Fake) -> Writer {
        Writer { custom: Some(Box::new(fake.clone())), ..Writer::default() }
    }

    fn table(fake: &Fake) -> Writer {
        Writer { hwpt: Some(Box::new(fake.clone())), ..Writer::default() }
    }

    #[test]
    fn the_answers_of_all_trackers_and_what_is_pending_come_as_one() {
        let (own, other, whole) = (Fake::new(1), Fake::new(2), Fake::new(3));
        let writers = vec![custom(&own), custom(&other), table(&whole)];
        let mut parts = Parts::new(&[(0, 100), (200, 10)], writers);
        own.dirty([1, 2, 99]);
        other.dirty([2, 70, 150]);
        whole.dirty([3, 205]);
        parts.ledger.add(&(4 * PAGE..=5 * PAGE - 1));
        parts.ledger.suspect(6 * PAGE..=7 * PAGE - 1);
        let (found, result) = parts.read(0, 1000);
        result.unwrap();
        assert_eq!(found, [1, 2, 3, 4, 6, 70, 99, 205]);
        // One is asked a chunk at a time, the other about whole mappings at once.
        assert_eq!(own.state().asked, [(0, 64), (64, 36), (200, 10)]);
        assert_eq!(whole.state().asked, [(0, 100), (200, 10)]);
        assert_eq!(parts.read(0, 1000).0, [6]);
    }

    #[test]
    fn what_a_whole_mapping_says_beside_the_range_comes_later() {
        let whole = Fake::new(1);
        let mut parts = Parts::new(&[(0, 100)], vec![table(&whole)]);
        whole.dirty([1, 50, 99]);
        assert_eq!(parts.read(40, 60).0, [50]);
        assert!(whole.state().dirty.is_empty());
        assert_eq!(parts.read(0, 99).0, [1, 99]);
    }

    #[test]
    fn a_reading_that_is_cancelled_loses_nothing() {
        let (own, whole) = (Fake::new(1), Fake::new(2));
        let mut parts = Parts::new(&[(0, 100)], vec![custom(&own), table(&whole)]);
        own.dirty([1, 99]);
        whole.dirty([2, 98]);
        parts.cancel.cancel();
        let (found, result) = parts.read(0, 99);
        assert_eq!((found, result.unwrap_err().code()), (vec![], Code::Cancelled));
        parts.cancel.clear();
        assert_eq!(parts.read(0, 99).0, [1, 2, 98, 99]);
    }

    #[test]
    fn what_is_not_answered_is_dirty_and_the_rest_is_exact() {
        let (own, whole) = (Fake::new(1), Fake::new(2));
        let mut parts = Parts::new(&[(0, 10), (20, 10)], vec![custom(&own), table(&whole)]);
        own.dirty([1, 25]);
        own.state().no_read = Some(libc::EIO);
        assert_eq!(parts.read(0, 9).0, (0..10).collect::<Vec<_>>());
        own.state().no_read = None;
        whole.state().no_read = Some(libc::EIO);
        assert_eq!(parts.read(20, 24).0, (20..25).collect::<Vec<_>>());
        whole.state().no_read = None;
        // The error of the second tracker made all of the second mapping dirty. Pages 20 to 24 have
        // been reported already.
        assert_eq!(parts.read(0, 29).0, [vec![1], (25..30).collect()].concat());
        assert_eq!((parts.read(0, 29).0, parts.ledger.num_errors()), (vec![], 2));
    }

    #[test]
    fn a_tracker_that_is_not_there_has_seen_everything() {
        for by_table in [false, true] {
            let mut parts = Parts::new(&[(0, 10)], vec![]);
            let pieces: Vec<_> = parts.map.pieces(&EVERYWHERE).collect();
            let mut reading = parts.reading();
            if by_table {
                reading.asking.whole(&pieces[0], &[0], false, reading.sum);
            } else {
                reading.pieces(0, &pieces, false);
            }
            assert_eq!(parts.read(0, 9).0, (0..10).collect::<Vec<_>>());
            assert_eq!(parts.ledger.error(0).unwrap().code, Code::NotRecoverable);
            // The same if the tracker should have unmapped it.
            let mut reading = parts.reading();
            reading.asking.unmap(0, &pieces[0], reading.sum);
            assert_eq!(parts.read(0, 9).0, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_tracker_is_read_out_with_what_it_does_not_watch() {
        let own = Fake::new(1);
        let mut parts = Parts::new(&[(0, 100)], vec![custom(&own), Writer::default()]);
        own.dirty([7, 70]);
        let tracker = parts.trackers.of_writer(0).unwrap().unwrap();
        parts.reading().read_out(tracker);
        assert!(own.state().dirty.is_empty());
        let all_dirty = parts.trackers.of_writer(1).unwrap().unwrap();
        parts.trackers.remove(1);
        assert_eq!(parts.read(0, 99).0, [7, 70]);
        // The second writer has no tracker but the one that watches nothing.
        let mut parts = Parts::new(&[(0, 100)], vec![custom(&own), Writer::default()]);
        parts.reading().read_out(all_dirty);
        parts.trackers.remove(1);
        assert_eq!(parts.read(0, 99).0.len(), 100);
        assert_eq!(parts.ledger.tell(&EVERYWHERE), (false, true));
    }

    #[test]
    fn with_keep_a_page_table_forgets_nothing() {
        let whole = Fake::new(1);
        let mut parts = Parts::new(&[(0, 100)], vec![table(&whole)]);
        whole.dirty([1, 50]);
        let piece: Vec<_> = parts.map.pieces(&(40 * PAGE..=60 * PAGE - 1)).collect();
        parts.reading().pieces(0, &piece, true);
        assert_eq!(whole.state().dirty.len(), 2);
        let mut words = [0; 2];
        parts.ledger.take(0, 100, &mut words);
        assert_eq!(words, [1 << 50, 0]);
    }
}
