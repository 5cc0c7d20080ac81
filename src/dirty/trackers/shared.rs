// SPDX-License-Identifier: MIT OR Apache-2.0
//! One tracker at work: how it is started and asked, and the numbers of that. Writers may share it.

use std::ops::{Range, RangeInclusive};
use std::time::Instant;

use rangemap::RangeInclusiveSet;

use super::numbers::Numbers;
use crate::dirty::bitmap::{self, PageSize, Span, words_for};
use crate::dirty::buffers::{MAX_WHOLE, Scratch, too_large};
use crate::dirty::map::{Map, Piece};
use crate::dirty::stats::{WriterStats, elapsed_ns};
use crate::dirty::tracker::all_dirty::AllDirty;
use crate::dirty::tracker::{Doubtful, Extent, Tracker, TrackerKind};
use crate::error::{Error, Result, err};
use crate::transport::Bitmap;

/// How often a tracker that fails is started again in one reading before it is given up.
const MAX_RESTARTS: u32 = 3;

/// What tells trackers apart that writers have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub kind: TrackerKind,
    /// Two writers with the same number have the same one.
    pub number: u64,
    /// What must be the same, too.
    pub detail: u64,
}

impl Key {
    pub fn is_same(&self, other: &Key) -> bool {
        (self.kind, self.number) == (other.kind, other.number)
    }
}

/// See the module.
pub(in crate::dirty) struct SharedTracker {
    tracker: Box<dyn Tracker>,
    key: Option<Key>,
    /// Nobody could have it.
    vacant: bool,
    /// It is some writer's tracker and is read.
    active: bool,
    /// It was started and has not stopped.
    running: bool,
    numbers: Numbers,
    /// How often it failed in the reading that is under way.
    failures: u32,
    /// What it did not watch before it was started anew.
    missed: Option<String>,
}

impl SharedTracker {
    pub(super) fn new(tracker: Box<dyn Tracker>, key: Option<Key>) -> SharedTracker {
        let numbers = Numbers::new(tracker.kind(), tracker.page());
        let (vacant, active, running) = (false, false, false);
        SharedTracker { tracker, key, vacant, active, running, numbers, failures: 0, missed: None }
    }

    /// Lets go of the tracker: what it was made of may not outlive its writer.
    pub(super) fn vacate(&mut self, page: PageSize) {
        self.tracker = Box::new(AllDirty::new(page));
        self.key = None;
        self.vacant = true;
    }

    pub(super) fn is_vacant(&self) -> bool {
        self.vacant
    }

    pub(super) fn key(&self) -> Option<Key> {
        self.key
    }

    pub fn kind(&self) -> TrackerKind {
        self.tracker.kind()
    }

    pub fn is_log(&self) -> bool {
        self.kind() == TrackerKind::DeviceLog
    }

    /// Whether it is some writer's tracker and is read.
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// Whether it answers for whole mappings only.
    pub fn reads_whole(&self) -> bool {
        matches!(self.tracker.extent(), Extent::WholeMappings { .. })
    }

    /// The pages that it answers in, and those at whose edges it has to be asked. None where it
    /// answers for whole mappings only.
    pub fn pages(&self) -> Option<(PageSize, PageSize)> {
        match self.tracker.extent() {
            Extent::Pages(edges) => Some((self.tracker.page(), edges.max(self.tracker.page()))),
            Extent::WholeMappings { .. } => None,
        }
    }

    /// The range that it is asked about for this one.
    pub fn widen(&self, range: &RangeInclusive<u64>) -> RangeInclusive<u64> {
        let edges = self.pages().map_or(self.tracker.page(), |(_, edges)| edges);
        let mask = edges.bytes() - 1;
        range.start() & !mask..=range.end() | mask
    }

    /// What of the map it does not watch.
    pub fn blind(&self) -> Option<&RangeInclusiveSet<u64>> {
        self.tracker.blind()
    }

    pub fn doubtful(&self) -> Doubtful {
        self.tracker.doubtful()
    }

    pub fn is_outdated(&self) -> bool {
        self.tracker.is_outdated()
    }

    pub fn is_down(&self) -> bool {
        self.tracker.is_down()
    }

    /// It runs and watches a part only, for as long as can be seen.
    pub fn is_short(&self) -> bool {
        self.tracker.is_partial() || self.tracker.is_down()
    }

    pub fn ask_for_whole_mappings(&mut self, on: bool) -> bool {
        self.tracker.ask_for_whole_mappings(on)
    }

    pub fn map_changed(&mut self, map: &Map, range: &RangeInclusive<u64>) {
        self.tracker.changed(map, range);
    }

    /// Whether the range is mapped where it looks, in case it can tell.
    pub fn can_tell_holes(&mut self, piece: &Piece) -> bool {
        self.tracker.is_mapped(piece.first, piece.size()).is_some()
    }

    /// Why it may not see all of a piece.
    pub fn find_hole(&mut self, piece: &Piece) -> Option<Error> {
        let length = piece.size();
        match self.tracker.is_mapped(piece.first, length)? {
            Ok(true) => None,
            Ok(false) => Some(err!(
                Inval,
                "the mapping at {:#x}, {length:#x} bytes, is not mapped completely in the address \
                 space of its page table",
                piece.first
            )),
            Err(errno) => Some(Error::new(
                errno.code(),
                format!(
                    "whether the mapping at {:#x}, {length:#x} bytes, is in the address space of \
                     its page table cannot be found out: {errno}",
                    piece.first
                ),
            )),
        }
    }

    // --- starting and stopping ---------------------------------------------------------------------

    pub fn start(&mut self, map: &Map) -> Result<()> {
        // One that did not stop may be stopped by now; where it is not, starting says so.
        self.stop_or_warn();
        self.running = true;
        let started = self.tracker.start(map);
        self.running = started.is_ok() || self.tracker.is_left_on();
        started
    }

    /// Stops it if it runs.
    pub fn stop(&mut self) -> Result<()> {
        if self.running {
            self.tracker.stop()?;
            self.running = false;
        }
        Ok(())
    }

    fn stop_or_warn(&mut self) {
        if let Err(error) = self.stop() {
            log::warn!(target: "vfiomig::dirty", "{error}");
        }
    }

    /// It is some writer's from now on.
    pub(super) fn take(&mut self) {
        self.active = true;
        self.failures = 0;
        self.numbers.set_page(self.tracker.page());
    }

    /// It runs, and is read from now on.
    pub fn activate(&mut self) {
        self.active = true;
    }

    /// It is not read from now on. It may still run.
    pub fn deactivate(&mut self) {
        self.active = false;
    }

    /// It is no writer's from now on.
    pub fn retire(&mut self) {
        self.active = false;
        self.stop_or_warn();
    }

    /// Stops it and starts it again. Where that fails it is no longer read.
    pub fn restart(&mut self, map: &Map) -> Result<()> {
        let restarted = self.stop().and_then(|()| {
            self.numbers.count_restart();
            self.start(map)
        });
        self.active &= restarted.is_ok();
        restarted
    }

    /// The same, after an error for which everything counts as dirty, and for a few times only.
    pub(super) fn start_anew(&mut self, map: &Map, why: &Error) -> Result<()> {
        self.failures += 1;
        self.numbers.lose_round();
        self.numbers.assume(map.bytes());
        self.stop_or_warn();
        let started = if self.failures > MAX_RESTARTS {
            Err(err!(Io, "given up after {MAX_RESTARTS} restarts: {}", why.message()))
        } else {
            self.numbers.count_restart();
            self.start(map)
        };
        self.active &= started.is_ok();
        started
    }

    // --- asking ------------------------------------------------------------------------------------

    /// Its answer for a chunk, which is the span of `union`, which is empty: it fills it in itself,
    /// where its pages are those of the chunk. When this fails, `union` is empty. See
    /// [`SharedTracker::add`].
    pub fn fill(
        &mut self,
        keep: bool,
        union: &mut Bitmap<'_>,
        scratch: &mut Scratch,
        beyond: impl FnMut(RangeInclusive<u64>),
    ) -> Result<()> {
        let chunk = union.span();
        if !self.pages().is_some_and(|(own, edges)| own == chunk.page && edges == chunk.page) {
            return self.add(keep, union, scratch, beyond);
        }
        let began = Instant::now();
        let result = self.tracker.read(keep, union);
        let took = elapsed_ns(began);
        if result.is_err() {
            union.fill(0);
        }
        result?;
        bitmap::cut(union, chunk.bits());
        self.numbers.count(bitmap::count(union) << chunk.page.shift(), took);
        Ok(())
    }

    /// Adds its answer for a chunk to `union`. Ranges beyond the chunk that are dirty, too, and
    /// forgotten now, go to `beyond`.
    pub fn add(
        &mut self,
        keep: bool,
        union: &mut Bitmap<'_>,
        scratch: &mut Scratch,
        mut beyond: impl FnMut(RangeInclusive<u64>),
    ) -> Result<()> {
        let Some((page, edges)) = self.pages() else { return Err(wrong_extent()) };
        let chunk = union.span();
        let (first, last) = (chunk.start, chunk.last());
        let mask = edges.bytes() - 1;
        let start = first & !mask;
        // Not over 2^64: a page ends there at the most.
        let asked = Span { start, length: ((last | mask) - start).saturating_add(1), page };
        let words = &mut scratch.bitmap(asked)?;
        let took = self.read_into(words, |tracker, words| tracker.read(keep, words))?;
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
            // What does not fit the chunk stays.
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
            // Pages that reach over the ends: their bits are gone now.
            beyond(0..(first - start).div_ceil(page.bytes()));
            beyond((last - start).saturating_add(1) >> page.shift()..asked.bits());
            let bits = bitmap::count(words);
            words.fill(0);
            bits
        };
        self.numbers.count(bits << page.shift(), took);
        Ok(())
    }

    /// Adds its answer about a whole mapping to `sum`, whose bit 0 is the first page of the mapping.
    pub fn add_whole(
        &mut self,
        whole: &Piece,
        page: PageSize,
        keep: bool,
        sum: &mut [u64],
        scratch: &mut Scratch,
    ) -> Result<()> {
        self.ask_whole(whole, page, sum, scratch, |tracker, words| tracker.read(keep, words))
    }

    /// Unmaps a piece, where it can, and adds what was dirty there likewise.
    pub fn unmap(
        &mut self,
        piece: &Piece,
        page: PageSize,
        sum: &mut [u64],
        scratch: &mut Scratch,
    ) -> Result<()> {
        self.ask_whole(piece, page, sum, scratch, |tracker, words| {
            tracker.unmap(words).unwrap_or_else(|| Err(wrong_extent()))
        })
    }

    fn ask_whole(
        &mut self,
        whole: &Piece,
        page: PageSize,
        sum: &mut [u64],
        scratch: &mut Scratch,
        ask: impl FnOnce(&mut dyn Tracker, &mut Bitmap<'_>) -> Result<()>,
    ) -> Result<()> {
        let Extent::WholeMappings { max_bitmap } = self.tracker.extent() else {
            return Err(wrong_extent());
        };
        let own = self.tracker.page();
        let length = whole.size();
        let bits = length.div_ceil(own.bytes());
        let n = words_for(bits);
        let most = max_bitmap.min(MAX_WHOLE);
        if n as u64 * 8 > most {
            return Err(too_large(whole, n as u64 * 8, most, self.tracker.why_limited()));
        }
        let words = &mut scratch.bitmap(Span { start: whole.first, length, page: own })?;
        let took = self.read_into(words, ask)?;
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
        self.numbers.count(dirty << own.shift(), took);
        Ok(())
    }

    /// Lets it fill in words that are zero, and are again where it fails. Returns how long it took.
    fn read_into(
        &mut self,
        words: &mut Bitmap<'_>,
        read: impl FnOnce(&mut dyn Tracker, &mut Bitmap<'_>) -> Result<()>,
    ) -> Result<u64> {
        let began = Instant::now();
        let result = read(self.tracker.as_mut(), words);
        let took = elapsed_ns(began);
        if result.is_err() {
            words.fill(0);
        }
        result.map(|()| took)
    }

    // --- numbers -----------------------------------------------------------------------------------

    /// What a start begins without.
    pub(super) fn forget(&mut self) {
        // One that did not stop before has no ranges any more.
        self.retire();
        self.failures = 0;
        self.missed = None;
        self.numbers.forget();
    }

    pub(super) fn begin_reading(&mut self) {
        self.failures = 0;
    }

    pub(super) fn end_round(&mut self) {
        self.numbers.end_round(self.tracker.is_down());
    }

    pub fn numbers(&mut self) -> &mut Numbers {
        &mut self.numbers
    }

    /// What it did not watch before it was started anew, for people.
    pub fn set_missed(&mut self, missed: Option<String>) {
        self.missed = missed;
    }

    /// What it says of itself.
    pub(super) fn remark(&self) -> Option<String> {
        self.tracker.remark()
    }

    /// What there is to say of it beside the note of a writer.
    pub(super) fn remarks(&self) -> impl Iterator<Item = String> {
        let missed = self.missed.as_ref().map(|missed| {
            format!("not logged until the log was started anew, and dirty until then: {missed}")
        });
        let remark = self.tracker.remark().filter(|_| self.active);
        [remark, missed].into_iter().flatten()
    }

    pub(super) fn stats(&self) -> WriterStats {
        WriterStats { calls: self.tracker.calls(), ..self.numbers.stats().clone() }
    }

    /// The memory of its bitmaps, in bytes.
    pub fn footprint(&self) -> usize {
        self.tracker.footprint()
    }
}

/// Not known to happen. Where it does, nobody knows what was written to.
fn wrong_extent() -> Error {
    err!(NotRecoverable, "the tracker was asked for what it does not answer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::buffers::{Buffers, Union};
    use crate::dirty::fake::{Fake, PAGE, map, page};
    use crate::dirty::tracker::custom::Custom;
    use crate::dirty::tracker::hwpt::PageTable;
    use crate::error::Code;

    fn custom(fake: &Fake) -> SharedTracker {
        SharedTracker::new(Box::new(Custom::new(Box::new(fake.clone())).unwrap()), None)
    }

    fn table(fake: &Fake) -> SharedTracker {
        let own = PageSize::new(fake.page).unwrap();
        SharedTracker::new(Box::new(PageTable::new(Box::new(fake.clone()), own)), None)
    }

    /// A sum of two words at the most.
    fn union() -> Union {
        Buffers::new(16).unwrap().union
    }

    fn chunk(first: u64, n: u64) -> Span {
        Span { start: first * PAGE, length: n * PAGE, page: page() }
    }

    fn none(range: RangeInclusive<u64>) {
        panic!("{range:x?} is beyond");
    }

    #[test]
    fn an_answer_in_pages_of_the_chunk_goes_straight_into_the_sum() {
        let fake = Fake::new(1);
        let (mut tracker, mut scratch, mut union) = (custom(&fake), Scratch::default(), union());
        let mut union = union.chunk(chunk(8, 63)).unwrap();
        fake.dirty([7, 8, 70, 71]);
        tracker.fill(false, &mut union, &mut scratch, none).unwrap();
        assert_eq!((&union[..], scratch.footprint()), (&[1 | 1 << 62][..], 0));
        // Another one's answer, or another time's, is added.
        fake.dirty([9, 71]);
        tracker.add(false, &mut union, &mut scratch, none).unwrap();
        assert_eq!(union[..], [3 | 1 << 62]);
        assert!(scratch.bitmap(chunk(0, 128)).unwrap().iter().all(|word| *word == 0));
        let stats = tracker.stats();
        assert_eq!((stats.dirty_bytes, stats.calls), (3 * PAGE, 2));
    }

    #[test]
    fn larger_pages_that_reach_over_a_chunk_are_told_of() {
        let fake = Fake { page: 4 * PAGE, ..Fake::new(1) };
        let mut tracker = custom(&fake);
        let (mut scratch, mut union, mut beyond) = (Scratch::default(), union(), Vec::new());
        let mut union = union.chunk(chunk(2, 8)).unwrap();
        fake.dirty([1, 9]);
        let pages = |range: RangeInclusive<u64>| (range.start() / PAGE, range.end() / PAGE);
        tracker.fill(false, &mut union, &mut scratch, |range| beyond.push(pages(range))).unwrap();
        // Pages 0 to 3 and 8 to 11.
        assert_eq!((union[0], fake.state().asked[0]), (0b1100_0011, (0, 12)));
        assert_eq!(beyond, [(0, 1), (10, 11)]);
        assert_eq!(tracker.widen(&(2 * PAGE..=10 * PAGE - 1)), 0..=12 * PAGE - 1);
    }

    #[test]
    fn an_answer_that_fails_leaves_no_bit_behind() {
        let fake = Fake::new(1);
        fake.state().no_read = Some(libc::EIO);
        let (mut tracker, mut scratch, mut union) = (custom(&fake), Scratch::default(), union());
        let mut union = union.chunk(chunk(0, 8)).unwrap();
        assert!(tracker.fill(false, &mut union, &mut scratch, none).is_err());
        assert!(tracker.add(false, &mut union, &mut scratch, none).is_err());
        assert_eq!((union[0], scratch.bitmap(chunk(0, 8)).unwrap()[0]), (0, 0));
        let whole = map(&[(0, 8)]).pieces(&(0..=0)).next().unwrap();
        assert!(table(&fake).add_whole(&whole, page(), false, &mut union, &mut scratch).is_err());
        assert_eq!((union[0], scratch.bitmap(chunk(0, 8)).unwrap()[0]), (0, 0));
        assert_eq!(tracker.stats().dirty_bytes, 0);
    }

    #[test]
    fn a_whole_mapping_is_read_in_any_pages_up_to_the_limit() {
        let fake = Fake { page: 4 * PAGE, max_bitmap: 8, ..Fake::new(1) };
        let (mut tracker, mut scratch, mut sum) = (table(&fake), Scratch::default(), [0; 5]);
        fake.dirty([0, 9]);
        let whole = |pages| map(&[(0, pages)]).writable(&(0..=u64::MAX)).next().unwrap();
        tracker.add_whole(&whole(256), page(), true, &mut sum, &mut scratch).unwrap();
        assert_eq!((sum[0], fake.state().dirty.len()), (0xf0f, 2));
        let refused = tracker.add_whole(&whole(257), page(), true, &mut sum, &mut scratch);
        assert_eq!(refused.unwrap_err().code(), Code::NotSupported);
    }

    #[test]
    fn what_is_asked_for_what_it_does_not_answer_is_an_error_and_not_clean() {
        let fake = Fake::new(1);
        let (mut scratch, mut words, mut union) = (Scratch::default(), [0; 1], union());
        let mut union = union.chunk(chunk(0, 8)).unwrap();
        let whole = map(&[(0, 8)]).writable(&(0..=0)).next().unwrap();
        let filled = table(&fake).fill(false, &mut union, &mut scratch, none);
        let read = custom(&fake).add_whole(&whole, page(), false, &mut words, &mut scratch);
        // A page table is unmapped by the VMM.
        let unmapped = table(&fake).unmap(&whole, page(), &mut words, &mut scratch);
        for result in [filled, read, unmapped] {
            assert_eq!(result.unwrap_err().code(), Code::NotRecoverable);
        }
        assert!(fake.state().asked.is_empty());
    }

    #[test]
    fn a_tracker_that_fails_is_started_anew_a_few_times_in_one_reading() {
        let fake = Fake::new(1);
        let (mut tracker, map) = (custom(&fake), map(&[(0, 8)]));
        tracker.start(&map).unwrap();
        tracker.take();
        let why = err!(Io, "it was reset");
        for _ in 0..2 {
            tracker.begin_reading();
            for _ in 0..MAX_RESTARTS {
                tracker.start_anew(&map, &why).unwrap();
            }
            assert!(tracker.is_active() && fake.state().running);
        }
        let given_up = tracker.start_anew(&map, &why).unwrap_err();
        assert!(given_up.message().contains("it was reset"), "{given_up}");
        assert!(!tracker.is_active() && !fake.state().running);
        let stats = tracker.stats();
        assert_eq!((stats.restarts, stats.assumed_bytes), (6, 7 * 8 * PAGE));
    }
}
