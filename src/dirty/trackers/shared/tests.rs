// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;
use crate::dirty::bitmap::Span;
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

/// A sum of at most two words.
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
    // The next answer is added to it.
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
    // A page table cannot unmap; the VMM does that.
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
