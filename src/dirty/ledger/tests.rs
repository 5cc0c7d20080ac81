// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;
use crate::dirty::buffers::Buffers;
use crate::dirty::fake::{PAGE, map, page};
use crate::dirty::map::Mapping;
use crate::error::err;

/// Takes out what is pending in the first 64 pages.
fn pending(ledger: &mut Ledger) -> u64 {
    let mut words = [0];
    ledger.take(0, 64, &mut words);
    words[0]
}

fn pages(first: u64, last: u64) -> RangeInclusive<u64> {
    first * PAGE..=(last + 1) * PAGE - 1
}

#[test]
fn only_what_is_mapped_becomes_pending_and_what_devices_can_write_to() {
    let (mut map, mut ledger) = (map(&[(0, 4), (8, 4)]), Ledger::new(page()));
    let (iova, size) = (16 * PAGE, 4 * PAGE);
    let read_only = Mapping { iova, size, read_only: true, ..Mapping::default() };
    map.insert(read_only, page()).unwrap();
    ledger.add_writable(&map, &pages(2, 17));
    assert_eq!(pending(&mut ledger), 0b1111_0000_1100);
    // The VMM wrote to a page there, and a part of it is owed.
    ledger.owe(&map, 17, &(0..=17 * PAGE + 511));
    ledger.add_owed(&map, &EVERYWHERE);
    assert_eq!(pending(&mut ledger), 1 << 17);
}

#[test]
fn what_a_sink_refuses_is_pending_again() {
    let (map, mut ledger) = (map(&[(0, 60)]), Ledger::new(page()));
    let pieces: Vec<_> = map.pieces(&EVERYWHERE).collect();
    let mut buffers = Buffers::new(8).unwrap();
    ledger.add(&pages(0, 9));
    let mut seen = 0;
    // The sink takes the low half of what comes.
    let union = &mut buffers.union;
    ledger
        .deliver_pending(&pieces, union, || Ok(()), &mut |_, first, words, bits| {
            seen = words[0];
            assert_eq!((first, bits), (0, 60));
            words[0] &= !0x1f;
            Err(err!(Io, "too much"))
        })
        .unwrap();
    assert_eq!((seen, pending(&mut ledger)), (0x3ff, 0x3e0));
    // Nothing is lost if nothing is delivered.
    ledger.add(&pages(0, 9));
    let check = || Err(err!(Cancelled, "enough"));
    let none = &mut |_: &Piece, _: u64, _: &mut [u64], _: u64| panic!("it was cancelled");
    assert!(ledger.deliver_pending(&pieces, union, check, none).is_err());
    assert_eq!(pending(&mut ledger), 0x3ff);
}

#[test]
fn pending_pages_come_in_parts_that_fit_the_buffer() {
    let (map, mut ledger) = (map(&[(5, 1000)]), Ledger::new(page()));
    let piece = map.pieces(&EVERYWHERE).next().unwrap();
    let mut union = Buffers::new(16).unwrap().union;
    ledger.add(&pages(5, 5));
    ledger.add(&pages(700, 800));
    let mut parts = Vec::new();
    ledger
        .each_pending(&piece, &mut union, &mut |_, first, words, bits| {
            parts.push((first / PAGE, bits, bitmap::count(words)));
            Ok(())
        })
        .unwrap();
    assert_eq!(parts, [(5, 128, 1), (645, 128, 73), (773, 128, 28)]);
    assert!(ledger.pending.is_empty());
}

#[test]
fn a_part_of_a_page_is_paid_once() {
    let (map, mut ledger) = (map(&[(0, 8)]), Ledger::new(page()));
    ledger.owe(&map, 3, &(3 * PAGE..=3 * PAGE + 1023));
    let mut paid = Vec::new();
    let mut pay = |ledger: &mut Ledger, asked: RangeInclusive<u64>| {
        paid.clear();
        ledger.pay(&asked, |part| paid.push(part.clone()));
        paid.clone()
    };
    assert_eq!(pay(&mut ledger, 0..=3 * PAGE + 1023), []);
    let rest = 3 * PAGE + 1024..=4 * PAGE - 1;
    assert_eq!(pay(&mut ledger, 3 * PAGE..=9 * PAGE), [rest]);
    assert_eq!(pay(&mut ledger, EVERYWHERE), []);
    assert_eq!(pending(&mut ledger), 0);
}

#[test]
fn too_many_parts_come_as_whole_pages() {
    let (map, mut ledger) = (map(&[(0, 3000)]), Ledger::new(page()));
    for i in 0..=MAX_OWED as u64 {
        ledger.owe(&map, 2 * i, &(2 * i * PAGE..=2 * i * PAGE + 1023));
    }
    assert_eq!((ledger.owed.len(), pending(&mut ledger)), (0, 0x5555_5555_5555_5555));
}

#[test]
fn what_may_have_been_missed_in_a_window_is_dirty_once_and_told_once() {
    let (mut map, mut ledger) = (map(&[(0, 4), (20, 4)]), Ledger::new(page()));
    map.insert_window(0, 16 * PAGE, page()).unwrap();
    ledger.miss_windows(&map);
    let all = pages(0, 23);
    for (dirty, untold) in [(0xf, true), (0, false)] {
        ledger.add_missed(&map, &all);
        assert_eq!(pending(&mut ledger), dirty);
        assert_eq!(ledger.tell(&all), (false, untold));
    }
    ledger.add_everything(&map);
    assert_eq!(pending(&mut ledger), 0xf0_000f);
    ledger.forget_windows();
    ledger.add_missed(&map, &all);
    assert_eq!(pending(&mut ledger), 0);
}

#[test]
fn what_is_suspect_is_dirty_each_time_until_it_is_unmapped() {
    let map = map(&[(0, 64)]);
    let piece = map.pieces(&EVERYWHERE).next().unwrap();
    let mut ledger = Ledger::new(page());
    ledger.suspect(pages(6, 9));
    for _ in 0..2 {
        let mut union = [0];
        ledger.add_suspects_to(Span::of(&pages(8, 15), page()), &mut union);
        assert_eq!(union, [0b11]);
        ledger.add_suspects(&piece);
        assert_eq!(pending(&mut ledger), 0b11_1100_0000);
    }
    ledger.trust(pages(0, 8));
    assert!(!ledger.is_suspect(&pages(0, 8)) && ledger.is_suspect(&pages(9, 9)));
}

#[test]
fn errors_are_told_of_once_and_not_those_of_a_call_that_fails() {
    let mut ledger = Ledger::new(page());
    let error = err!(Io, "it failed");
    ledger.record(None, TrackerKind::None, &EVERYWHERE, &error);
    assert_eq!(ledger.tell(&EVERYWHERE), (true, false));
    assert_eq!(ledger.tell(&EVERYWHERE), (false, false));
    ledger.record(None, TrackerKind::None, &EVERYWHERE, &error);
    ledger.told(1);
    assert_eq!(ledger.tell(&EVERYWHERE), (false, false));
    assert_eq!((ledger.total_errors(), ledger.num_errors()), (2, 1));
    // Only a reading of the range that nobody watched says so.
    ledger.tell_later(pages(4, 5));
    assert_eq!(ledger.tell(&pages(0, 3)), (false, false));
    assert_eq!(ledger.tell(&pages(0, 4)), (false, true));
    assert_eq!(ledger.tell(&pages(5, 5)), (false, true));
}

#[test]
fn what_is_left_of_a_sum_is_what_lies_beside_the_pages_that_were_read() {
    let map = map(&[(4, 60)]);
    let whole = map.pieces(&EVERYWHERE).next().unwrap();
    let (mut sum, mut ledger) = (Sum::default(), Ledger::new(page()));
    // An ended sum adds nothing.
    ledger.add_sum(&sum);
    sum.begin(&whole, page()).unwrap().fill(u64::MAX);
    ledger.add_sum_of(&sum, 0..6);
    ledger.add_sum_of(&sum, 62..u64::MAX);
    ledger.add_sum_of(&sum, 0..4);
    ledger.add_sum_of(&sum, 64..u64::MAX);
    assert_eq!(pending(&mut ledger), 3 << 4 | 3 << 62);
    ledger.add_sum(&sum);
    assert_eq!(pending(&mut ledger), u64::MAX << 4);
}
