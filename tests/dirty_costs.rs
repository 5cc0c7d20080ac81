// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest can make dirty tracking cost. A guest behind a vIOMMU decides which addresses are
//! mapped, how often, and where devices write. Neither time nor memory may follow from that alone,
//! and what is rounded to stay within bounds must not lose a page.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::field_reassign_with_default)] // Not all fields are public.

mod track;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use track::{Logged, Own, PAGE, PAGE_SIZE, bits_of, new_tracking, set_bit, start_logged};
use vfiomig::Code;
use vfiomig::dirty::{
    DirtyPages, Mapping, Memory, PageSize, Place, Span, Tracking, TrackingOptions, Writer,
};
use vfiomig::error::Errno;
use vfiomig::transport::{Bitmap, Hwpt};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Peaks are those of the process, so tests run one at a time, even those that do not measure a
/// peak.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The most bytes that came into use at any time during `call`.
fn peak_of(call: impl FnOnce()) -> u64 {
    let status = |field: &str| -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    };
    // The peak starts again at the memory in use now.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, program) = (status("VmRSS:"), status("RssFile:"));
    call();
    // Pages of the program itself, which it runs for the first time, are not the library's memory.
    let program = status("RssFile:").saturating_sub(program);
    status("VmHWM:").saturating_sub(before + program)
}

/// The VMM: page `n` of its memory is behind address `n`, in another order.
#[derive(Default)]
struct Vmm {
    taken: BTreeSet<(u64, u64)>,
    /// How many pages it was given.
    given: u64,
    /// How often it was asked where a page is.
    asked: u64,
    /// It knows where this many bytes are, in one piece; 0: it knows nothing.
    piece: u64,
    refuses: bool,
    counts_only: bool,
    /// Whether each page is a different piece of its memory.
    apart: bool,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vmm>>);

impl Shared {
    fn get(&self) -> MutexGuard<'_, Vmm> {
        self.0.lock().unwrap()
    }

    fn take(&self) -> BTreeSet<(u64, u64)> {
        std::mem::take(&mut self.get().taken)
    }
}

/// Cookie of what is behind translated mappings.
const BEHIND: u64 = 77;

/// Where translated pages lie: every other one, so that no two are neighbours.
fn behind(iova: u64) -> u64 {
    iova * 2
}

impl Memory for Shared {
    fn set_dirty(&mut self, pages: DirtyPages<'_>) -> Result<(), Errno> {
        let mut vmm = self.get();
        if vmm.refuses {
            return Err(Errno(libc::ENOBUFS));
        }
        for offset in pages.offsets() {
            vmm.given += 1;
            if !vmm.counts_only {
                vmm.taken.insert((pages.cookie, offset));
            }
        }
        Ok(())
    }

    fn translate(&mut self, iova: u64, size: u64) -> Result<Place, Errno> {
        let mut vmm = self.get();
        vmm.asked += 1;
        match vmm.piece {
            0 => Err(Errno(libc::ENOENT)),
            _ if vmm.apart => Ok(Place { cookie: iova, offset: 0, size: PAGE, host: 0 }),
            piece => {
                let first = iova & !(piece - 1);
                let size = size.min(piece - (iova - first));
                Ok(Place { cookie: BEHIND, offset: behind(first) + (iova - first), size, host: 0 })
            }
        }
    }
}

/// What a tracker will report, each page of these ranges once.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<(u64, u64, u64)>>>);

impl Written {
    /// `n` pages from an address on, each `step` pages after the one before.
    fn write(&self, iova: u64, n: u64, step: u64) {
        self.0.lock().unwrap().push((iova / PAGE, n, step));
    }

    fn report(&self, iova: u64, length: u64, words: &mut [u64]) {
        let (first, end) = (iova / PAGE, (iova + (length - 1)) / PAGE);
        self.0.lock().unwrap().retain_mut(|(page, n, step)| {
            while *n > 0 && *page <= end && *page >= first {
                set_bit(words, *page - first);
                (*page, *n) = (*page + *step, *n - 1);
            }
            *n > 0
        });
    }
}

fn started(vmm: &Shared, mappings: &[Mapping]) -> (Tracking, Written) {
    let mut tracking = new_tracking(vmm.clone(), mappings);
    let written = Written::default();
    let told = written.clone();
    let sync = move |iova: u64, length: u64, words: &mut [u64]| {
        told.report(iova, length, words);
        Ok(())
    };
    let mut writer = Writer::default();
    writer.custom = Some(Box::new(Own { page: PAGE, sync }));
    tracking.add_writer(writer).unwrap();
    tracking.start().unwrap();
    (tracking, written)
}

fn translated(iova: u64, size: u64) -> Mapping {
    Mapping { iova, size, translate: true, ..Mapping::default() }
}

fn plain(iova: u64, size: u64, cookie: u64, offset: u64) -> Mapping {
    Mapping { iova, size, cookie, offset, ..Mapping::default() }
}

fn set<const N: usize>(pages: [(u64, u64); N]) -> BTreeSet<(u64, u64)> {
    pages.into_iter().collect()
}

// --- unmapping what has to be translated -----------------------------------------------------------

#[test]
fn unmapping_asks_for_the_places_of_dirty_pages_only() {
    let _alone = alone();
    let vmm = Shared::default();
    vmm.get().piece = PAGE;
    let (mut tracking, tracked) = started(&vmm, &[translated(0, 64 * GIB)]);
    let bytes = peak_of(|| {
        tracking.unmap(0, 64 * GIB, None, || Ok(())).unwrap();
    });
    assert!(bytes <= MIB, "{bytes} bytes for nothing");
    assert_eq!(vmm.get().asked, 0);

    tracking.map(translated(0, 64 * GIB)).unwrap();
    let dirty = [3 * PAGE, 40 * GIB, 64 * GIB - PAGE];
    dirty.iter().for_each(|iova| tracked.write(*iova, 1, 1));
    assert!(!tracking.unmap(0, 64 * GIB, None, || Ok(())).unwrap().errors);
    assert_eq!(vmm.take(), dirty.iter().map(|iova| (BEHIND, behind(*iova))).collect());
    assert_eq!(vmm.get().asked, 3);
}

#[test]
fn many_dirty_pages_in_many_places_are_unmapped_with_bounded_memory() {
    let _alone = alone();
    let vmm = Shared::default();
    vmm.get().piece = PAGE;
    vmm.get().counts_only = true;
    for (n, step) in [(GIB / PAGE, 1), (GIB / PAGE / 3, 3)] {
        let (mut tracking, tracked) = started(&vmm, &[translated(0, GIB)]);
        tracked.write(0, n, step);
        vmm.get().given = 0;
        let bytes = peak_of(|| {
            tracking.unmap(0, GIB, None, || Ok(())).unwrap();
        });
        assert_eq!(vmm.get().given, n);
        assert!(bytes <= MIB, "{bytes} bytes for {n} pages");
        assert_eq!(tracking.num_errors(), 0);
    }
}

/// The VMM's callback drops what it needs for translating.
#[test]
fn what_was_dirty_before_is_delivered_though_the_vmm_forgets_where_it_is() {
    let _alone = alone();
    for (pages, piece) in [(16, PAGE), (5000, PAGE), (5000, 64 * PAGE)] {
        for refuses in [false, true] {
            let vmm = Shared::default();
            vmm.get().piece = piece;
            let (mut tracking, tracked) = started(&vmm, &[translated(0, pages * PAGE)]);
            tracked.write(PAGE, pages / 2, 2);
            vmm.get().refuses = refuses;
            let hands = vmm.clone();
            let unmap = || {
                hands.get().piece = 0;
                Ok(())
            };
            let synced = tracking.unmap(0, pages * PAGE, None, unmap).unwrap();
            assert_eq!(synced.errors, refuses);
            vmm.get().refuses = false;
            tracking.collect().unwrap();
            let offset = |page: u64| {
                let iova = page * PAGE;
                let first = iova & !(piece - 1);
                (BEHIND, behind(first) + (iova - first))
            };
            let expected = (0..pages / 2).map(|i| offset(1 + 2 * i)).collect();
            assert_eq!(vmm.take(), expected, "{pages} pages, refuses: {refuses}");
        }
    }
}

#[test]
fn pages_whose_place_is_unknown_come_when_it_is_known() {
    let _alone = alone();
    let vmm = Shared::default();
    let (mut tracking, tracked) = started(&vmm, &[translated(0, 64 * PAGE)]);
    tracked.write(5 * PAGE, 2, 20);
    assert!(tracking.unmap(0, 64 * PAGE, None, || Ok(())).unwrap().errors);
    assert_eq!(tracking.collect().unwrap_err().code(), Code::Io);
    assert_eq!(vmm.take(), set([]));
    vmm.get().piece = PAGE;
    tracking.collect().unwrap();
    let at = |page: u64| (BEHIND, behind(page * PAGE));
    assert_eq!(vmm.take(), set([at(5), at(25)]));
    tracking.collect().unwrap();
    assert_eq!(vmm.take(), set([]));
}

// --- pages whose mapping is gone -------------------------------------------------------------------

#[test]
fn a_page_that_is_unmapped_again_and_again_is_kept_once() {
    let _alone = alone();
    let vmm = Shared::default();
    let (mut tracking, tracked) = started(&vmm, &[]);
    vmm.get().refuses = true;
    let least = tracking.stats().memory_bytes;
    for i in 0..20_000 {
        // The address is another every time, and the page one of four.
        let iova = i * PAGE;
        tracking.map(plain(iova, PAGE, 1, i % 4 * 9 * PAGE)).unwrap();
        tracked.write(iova, 1, 1);
        assert!(tracking.unmap(iova, PAGE, None, || Ok(())).unwrap().errors);
    }
    let kept = tracking.stats().memory_bytes - least;
    assert!((4 * 8..=5000).contains(&kept), "{kept}");
    vmm.get().refuses = false;
    tracking.collect().unwrap();
    assert_eq!(vmm.take(), (0..4).map(|i| (1, i * 9 * PAGE)).collect());
    assert_eq!(vmm.get().given, 4);
    assert_eq!(tracking.stats().memory_bytes, least);
}

#[test]
fn when_too_much_waits_for_the_vmm_nothing_more_is_unmapped() {
    let _alone = alone();
    let vmm = Shared::default();
    let (mut tracking, tracked) = started(&vmm, &[]);
    vmm.get().refuses = true;
    let least = tracking.stats().memory_bytes;
    let mut unmapped = 0;
    let error = loop {
        // The page is another every time, so nothing can be merged.
        tracking.map(plain(0, PAGE, unmapped, 0)).unwrap();
        tracked.write(0, 1, 1);
        match tracking.unmap(0, PAGE, None, || Ok(())) {
            Ok(synced) => assert!(synced.errors),
            Err(error) => break error,
        }
        unmapped += 1;
        assert!(unmapped < 100_000, "without end");
    };
    assert_eq!(error.code(), Code::Io);
    assert!(error.message().contains("nothing is unmapped"), "{error}");
    let kept = tracking.stats().memory_bytes - least;
    assert!((63 * MIB..=66 * MIB).contains(&kept), "{kept}");
    // A bitmap has room, and the mapping is still there, with what was written to.
    let never = || -> Result<(), Errno> { panic!("nothing is to be unmapped") };
    tracking.unmap(0, PAGE, None, never).unwrap_err();
    let mut words = [0];
    tracking.unmap(0, PAGE, Some((PAGE_SIZE, &mut words)), || Ok(())).unwrap();
    assert_eq!(words, [1]);
    // When the VMM takes pages again, unmapping goes on by itself, and nothing is missing.
    vmm.get().refuses = false;
    tracking.map(plain(0, PAGE, unmapped, 0)).unwrap();
    tracked.write(0, 1, 1);
    tracking.unmap(0, PAGE, None, || Ok(())).unwrap();
    assert_eq!(vmm.take(), (0..=unmapped).map(|cookie| (cookie, 0)).collect());
    assert_eq!(tracking.stats().memory_bytes, least);
}

#[test]
fn one_unmapping_does_not_keep_more_than_may_wait() {
    const SIZE: u64 = 128 * MIB;
    let _alone = alone();
    let vmm = Shared::default();
    vmm.get().piece = PAGE;
    vmm.get().apart = true;
    vmm.get().refuses = true;
    let (mut tracking, tracked) = started(&vmm, &[translated(0, SIZE)]);
    tracked.write(0, SIZE / PAGE, 1);
    let never = || -> Result<(), Errno> { panic!("nothing is to be unmapped") };
    let bytes = peak_of(|| {
        let error = tracking.unmap(0, SIZE, None, never).unwrap_err();
        assert_eq!(error.code(), Code::Io);
        assert!(error.message().contains("can neither be given nor kept"), "{error}");
    });
    assert!(bytes <= 80 * MIB, "{bytes} bytes");
    assert!(vmm.get().asked <= SIZE / PAGE, "asked {} times", vmm.get().asked);
    // Everything is still there, and pages whose place the VMM knew are delivered although it has
    // forgotten it.
    vmm.get().refuses = false;
    tracking.unmap(0, SIZE, None, || Ok(())).unwrap();
    vmm.get().piece = 0;
    tracking.collect().unwrap();
    assert_eq!(vmm.take(), (0..SIZE / PAGE).map(|page| (page * PAGE, 0)).collect());
}

// --- a mapping that comes later --------------------------------------------------------------------

fn logged(vmm: &Shared, mappings: &[Mapping], still: bool, tracked: bool) -> (Tracking, Logged) {
    let mut tracking = new_tracking(vmm.clone(), mappings);
    let log = start_logged(&mut tracking, still, tracked);
    (tracking, log)
}

fn dirty(tracking: &mut Tracking, iova: u64, pages: u64) -> Vec<u64> {
    let mut words = vec![0; pages.div_ceil(64) as usize];
    let span = Span { start: iova, length: pages * PAGE, page: PAGE_SIZE };
    tracking.sync(span, &mut words).unwrap();
    bits_of(&words, pages).map(|page| iova / PAGE + page).collect()
}

#[test]
fn a_new_mapping_does_not_make_a_reading_of_one_page_read_the_whole_map() {
    let _alone = alone();
    const TIB: u64 = 1 << 40;
    for (still, tracked) in [(true, false), (false, true)] {
        let vmm = Shared::default();
        let (mut tracking, log) = logged(&vmm, &[plain(0, TIB, 1, 0)], still, tracked);
        assert_eq!(dirty(&mut tracking, 0, 1), [0; 0]);
        let before = log.get().reports;
        for i in 0..10 {
            tracking.map(plain(2 * TIB + i * GIB, PAGE, 2, i * PAGE)).unwrap();
            // Even if each reading is a round of its own.
            log.get().dirty.insert(PAGE * i);
            assert_eq!(dirty(&mut tracking, PAGE * i, 1), [i]);
            assert_eq!(dirty(&mut tracking, PAGE * i, 1), [0; 0]);
            assert_eq!(dirty(&mut tracking, 2 * TIB + i * GIB, 1), [(2 * TIB + i * GIB) / PAGE]);
        }
        assert_eq!(log.get().reports, before + 20);
        assert_eq!(log.get().starts.len(), 1);

        // A round: all of them are logged then.
        tracking.collect().unwrap();
        assert_eq!(log.get().starts.len(), 2);
        assert_eq!(log.get().starts[1].len(), 11);
        assert_eq!(dirty(&mut tracking, 2 * TIB, 1), [0; 0]);
        assert_eq!(tracking.num_errors(), 0);
    }
}

#[test]
fn readings_piece_by_piece_start_a_log_anew_once_per_round() {
    let _alone = alone();
    const PIECES: u64 = 64;
    let size = PIECES * 64 * PAGE;
    for (still, tracked) in [(true, false), (false, true)] {
        let vmm = Shared::default();
        let (mut tracking, log) = logged(&vmm, &[plain(0, size, 1, 0)], still, tracked);
        for round in 0..3 {
            // In the meantime the guest does this again and again.
            for piece in 0..PIECES {
                let at = 2 * size + (round * PIECES + piece) * 2 * PAGE;
                tracking.map(plain(at, PAGE, 2, at)).unwrap();
                log.get().dirty.insert(piece * 64 * PAGE);
                let found = dirty(&mut tracking, piece * 64 * PAGE, 64);
                assert!(found.contains(&(piece * 64)), "{piece}");
            }
        }
        let starts = log.get().starts.len();
        assert!((3..=4).contains(&starts), "{starts}");
        // What was not read again since is not lost.
        for piece in 0..PIECES {
            log.get().dirty.insert((piece * 64 + 5) * PAGE);
        }
        tracking.rearm().unwrap();
        tracking.collect().unwrap();
        let taken = vmm.take();
        assert!((0..PIECES).all(|piece| taken.contains(&(1, (piece * 64 + 5) * PAGE))));
    }
}

// --- as many pieces as a guest likes ---------------------------------------------------------------

const MANY: u64 = 20_000;

/// A page table in which nothing is mapped that the tracking was told of.
struct Hollow;

impl Hwpt for Hollow {
    fn key(&self) -> u64 {
        1
    }

    fn set_tracking(&mut self, _: bool) -> Result<(), Errno> {
        Ok(())
    }

    fn bitmap(&mut self, _: bool, _: &mut Bitmap<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn is_mapped(&mut self, _: u64, _: u64) -> Option<Result<bool, Errno>> {
        Some(Ok(false))
    }
}

fn pages_of(n: u64, iova: impl Fn(u64) -> u64) -> BTreeSet<(u64, u64)> {
    (0..n).map(|i| (1, iova(i))).collect()
}

#[test]
fn dirty_pages_that_are_scattered_take_bounded_memory_and_none_is_lost() {
    let _alone = alone();
    let vmm = Shared::default();
    let (mut tracking, tracked) = started(&vmm, &[]);
    let iova = |i: u64| i * 256 * MIB;
    for i in 0..MANY {
        tracking.map(plain(iova(i), PAGE, 1, iova(i))).unwrap();
        tracked.write(iova(i), 1, 1);
    }
    let least = tracking.stats().memory_bytes;
    vmm.get().refuses = true;
    tracking.collect().unwrap_err();
    let kept = tracking.stats().memory_bytes - least;
    assert!((MANY * 8..=3 * MIB).contains(&kept), "{kept}");
    vmm.get().refuses = false;
    tracking.collect().unwrap();
    assert_eq!(vmm.take(), pages_of(MANY, iova));
    tracking.collect().unwrap();
    assert_eq!(vmm.take(), set([]));
    assert_eq!(tracking.stats().memory_bytes, least);
}

#[test]
fn mappings_that_a_page_table_does_not_have_take_bounded_memory_and_are_all_dirty() {
    let _alone = alone();
    let vmm = Shared::default();
    let mut tracking = new_tracking(vmm.clone(), &[]);
    let mut writer = Writer::default();
    writer.hwpt = Some(Box::new(Hollow));
    tracking.add_writer(writer).unwrap();
    tracking.start().unwrap();
    let least = tracking.stats().memory_bytes;
    let iova = |i: u64| i * i % 65_537 * 16 * PAGE;
    let mut mapped = BTreeSet::new();
    for i in 0..MANY {
        if mapped.insert((1, iova(i))) {
            tracking.map(plain(iova(i), PAGE, 1, iova(i))).unwrap();
        }
    }
    let kept = tracking.stats().memory_bytes - least;
    assert!((1..=MIB / 4).contains(&kept), "{kept}");
    assert_eq!(tracking.num_errors(), 64);
    for _ in 0..2 {
        assert!(tracking.collect().unwrap().unwatched);
        assert_eq!(vmm.take(), mapped);
    }
    // Each is within an error that says so.
    let errors: Vec<_> = (0..64).map(|i| tracking.error(i).unwrap()).collect();
    let is_told = |iova: u64| errors.iter().any(|e| e.first <= iova && iova <= e.last);
    assert!(mapped.iter().all(|(_, iova)| is_told(*iova)));
}

#[test]
fn pages_that_are_read_in_parts_take_bounded_memory_and_come_completely() {
    let _alone = alone();
    const LARGE: u64 = 16 * PAGE;
    let vmm = Shared::default();
    let options = TrackingOptions { page_size: PageSize::new(LARGE), ..TrackingOptions::default() };
    let mut tracking = Tracking::new(vmm.clone(), options).unwrap();
    tracking.map(plain(0, 3 * MANY * LARGE, 1, 0)).unwrap();
    tracking.start().unwrap();
    let least = tracking.stats().memory_bytes;
    for i in 0..MANY {
        let iova = 3 * i * LARGE;
        tracking.mark(iova, 1).unwrap();
        assert_eq!(dirty(&mut tracking, iova, 1), [iova / PAGE]);
        // Only the page of the tracking that the range covers partly.
        assert_eq!(dirty(&mut tracking, iova + LARGE, 1), [0; 0]);
    }
    let kept = tracking.stats().memory_bytes - least;
    assert!((1..=MIB / 16).contains(&kept), "{kept}");
    let mut rest = 0;
    for i in 0..MANY {
        let iova = 3 * i * LARGE;
        let found = dirty(&mut tracking, iova + PAGE, 15);
        assert_eq!(found, (1..16).map(|n| iova / PAGE + n).collect::<Vec<u64>>());
        rest += dirty(&mut tracking, iova + LARGE, 32).len();
    }
    assert_eq!(rest, 0);
}

#[test]
fn readings_here_and_there_take_bounded_memory() {
    let _alone = alone();
    let vmm = Shared::default();
    let (mut tracking, _) = started(&vmm, &[plain(0, GIB, 1, 0)]);
    let least = tracking.stats().memory_bytes;
    for i in 0..MANY {
        dirty(&mut tracking, i * 2 * PAGE, 1);
    }
    let kept = tracking.stats().memory_bytes - least;
    assert!((1..=64 << 10).contains(&kept), "{kept}");
}

#[test]
fn what_comes_into_a_doubtful_window_in_many_pieces_is_dirty_once() {
    let _alone = alone();
    let vmm = Shared::default();
    let window = Mapping { window: true, ..plain(0, MANY * 2 * PAGE, 0, 0) };
    let (mut tracking, _) = logged(&vmm, &[window], true, false);
    tracking.map(plain(GIB, PAGE, 2, 0)).unwrap();
    tracking.rearm().unwrap();
    tracking.collect().unwrap();
    let least = tracking.stats().memory_bytes;
    vmm.take();
    let iova = |i: u64| i * 2 * PAGE;
    for i in 0..MANY {
        tracking.map(plain(iova(i), PAGE, 1, iova(i))).unwrap();
    }
    let kept = tracking.stats().memory_bytes - least;
    assert!(kept <= MIB / 4, "{kept}");
    tracking.collect().unwrap();
    assert_eq!(vmm.take(), pages_of(MANY, iova));
    tracking.collect().unwrap();
    assert_eq!(vmm.take(), set([]));
}

#[test]
fn mappings_that_nobody_watches_take_bounded_memory_and_are_dirty_at_all_times() {
    let _alone = alone();
    // More than there may be.
    const MOST: u64 = 80_000;
    for has_log in [false, true] {
        let vmm = Shared::default();
        let mut tracking = if has_log {
            logged(&vmm, &[plain(1 << 40, PAGE, 2, 0)], false, false).0
        } else {
            let mut tracking = new_tracking(vmm.clone(), &[]);
            tracking.add_writer(Writer::default()).unwrap();
            tracking.start().unwrap();
            tracking
        };
        let least = tracking.stats().memory_bytes;
        let iova = |i: u64| i * 4 * PAGE;
        for i in 0..MOST {
            tracking.map(plain(iova(i), PAGE, 1, iova(i))).unwrap();
        }
        let kept = tracking.stats().memory_bytes - least;
        assert!((1..=2 * MIB).contains(&kept), "{kept}, a log: {has_log}");
        for _ in 0..2 {
            assert!(tracking.collect().unwrap().unwatched);
            assert_eq!(vmm.take(), pages_of(MOST, iova));
        }
    }
}
