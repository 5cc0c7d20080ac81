// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;
use crate::dirty::fake::{Fake, PAGE, map, page};
use crate::error::Code;

/// A writer with a log, a page table and the VMM's own tracker.
fn writer(log: &Fake, table: &Fake, custom: &Fake) -> Writer {
    Writer {
        device_log: Some(Box::new(log.clone())),
        hwpt: Some(Box::new(table.clone())),
        custom: Some(Box::new(custom.clone())),
        ..Writer::default()
    }
}

fn fakes() -> [Fake; 3] {
    [Fake::new(1), Fake::new(2), Fake::new(3)]
}

/// Takes out what is pending in the first 64 pages.
fn pending(ledger: &mut Ledger) -> u64 {
    let mut words = [0];
    ledger.take(0, 64, &mut words);
    words[0]
}

fn kind(trackers: &Trackers, index: usize) -> TrackerKind {
    trackers.stats(index, true).unwrap().tracker
}

#[test]
fn a_writer_gets_the_best_tracker_that_starts_and_a_note_of_the_others() {
    let map = map(&[(0, 8)]);
    let wanted = [TrackerKind::DeviceLog, TrackerKind::Hwpt, TrackerKind::Custom];
    for (i, wanted) in wanted.into_iter().chain([TrackerKind::AllDirty]).enumerate() {
        let [log, table, custom] = fakes();
        for fake in [&log, &table, &custom].into_iter().take(i) {
            fake.state().no_start = Some(libc::EIO);
        }
        let mut trackers = Trackers::new(page());
        trackers.add(writer(&log, &table, &custom), Some(&map)).unwrap();
        assert_eq!(kind(&trackers, 0), wanted);
        let note = trackers.stats(0, true).unwrap().note;
        assert_eq!(note.split("; ").filter(|note| !note.is_empty()).count(), i, "{note}");
        let running = [log, table, custom].iter().filter(|fake| fake.state().running).count();
        assert_eq!(running, usize::from(i < 3));
    }
}

#[test]
fn a_writer_that_must_be_tracked_and_cannot_be_is_not_added() {
    let [log, table, custom] = fakes();
    let mut trackers = Trackers::new(page());
    for fake in [&log, &table, &custom] {
        fake.state().no_start = Some(libc::EIO);
    }
    let required = Writer { required: true, ..writer(&log, &table, &custom) };
    let error = trackers.add(required, Some(&map(&[(0, 8)]))).unwrap_err();
    assert_eq!((error.code(), trackers.num_writers()), (Code::NotSupported, 0));
    assert!(trackers.active().next().is_none());
}

#[test]
fn a_tracker_that_is_given_up_is_replaced_and_everything_is_dirty() {
    let (map, mut ledger) = (map(&[(0, 8)]), Ledger::new(page()));
    let [log, table, custom] = fakes();
    let mut trackers = Trackers::new(page());
    trackers.add(writer(&log, &table, &custom), Some(&map)).unwrap();
    log.state().no_start = Some(libc::EIO);
    let (i, why) = (trackers.of_writer(0).unwrap().unwrap(), err!(Io, "it failed"));
    trackers.start_anew(i, &why, &map, &mut ledger);
    assert_eq!(kind(&trackers, 0), TrackerKind::Hwpt);
    assert_eq!((pending(&mut ledger), ledger.num_errors()), (0xff, 1));
    // The next tracker cannot be started again, nor the one after it. Then nothing is left to ask.
    table.state().no_start = Some(libc::EIO);
    custom.state().no_start = Some(libc::EIO);
    let i = trackers.of_writer(0).unwrap().unwrap();
    trackers.start_anew(i, &why, &map, &mut ledger);
    assert_eq!(kind(&trackers, 0), TrackerKind::AllDirty);
    assert_eq!(pending(&mut ledger), 0xff);
    assert!(trackers.is_blind(&(0..=0)));
}

#[test]
fn a_writer_without_a_tracker_that_is_read_makes_what_is_asked_dirty() {
    let (map, mut ledger) = (map(&[(0, 8)]), Ledger::new(page()));
    let [log, table, custom] = fakes();
    let mut trackers = Trackers::new(page());
    let asked = 2 * PAGE..=4 * PAGE - 1;
    trackers.check_untracked(&asked, &map, &mut ledger);
    assert_eq!((pending(&mut ledger), ledger.num_errors()), (0, 0));
    // A writer that never got a tracker.
    let index = trackers.add(writer(&log, &table, &custom), None).unwrap();
    trackers.check_untracked(&asked, &map, &mut ledger);
    assert_eq!((pending(&mut ledger), ledger.num_errors()), (0b1100, 1));
    trackers.start(&map).unwrap();
    trackers.check_untracked(&asked, &map, &mut ledger);
    assert_eq!(pending(&mut ledger), 0);
    // A writer whose tracker is not active.
    let i = trackers.of_writer(index).unwrap().unwrap();
    trackers.get_mut(i).unwrap().retire();
    trackers.check_untracked(&asked, &map, &mut ledger);
    assert_eq!(pending(&mut ledger), 0b1100);
}

#[test]
fn what_a_page_table_does_not_have_is_dirty_at_all_times() {
    let (map, mut ledger) = (map(&[(0, 8), (16, 8)]), Ledger::new(page()));
    let table = Fake::new(1);
    let mut trackers = Trackers::new(page());
    let writer = Writer { hwpt: Some(Box::new(table.clone())), ..Writer::default() };
    trackers.add(writer, Some(&map)).unwrap();
    table.state().mapped = Some(true);
    trackers.verify(&EVERYWHERE, &map, &mut ledger);
    assert!(!ledger.is_suspect(&EVERYWHERE));
    table.state().mapped = Some(false);
    trackers.verify(&(16 * PAGE..=u64::MAX), &map, &mut ledger);
    assert!(
        !ledger.is_suspect(&(0..=16 * PAGE - 1)) && ledger.is_suspect(&(16 * PAGE..=16 * PAGE))
    );
    assert_eq!(ledger.error(0).unwrap().writer, Some(0));
}

#[test]
fn a_mapping_that_may_have_a_hole_is_dirty_for_a_page_table_that_cannot_tell() {
    for (mapped, whole) in [(None, true), (Some(true), false)] {
        let (map, mut ledger) = (map(&[(0, 8), (16, 8)]), Ledger::new(page()));
        let table = Fake::new(1);
        table.state().mapped = mapped;
        let mut trackers = Trackers::new(page());
        let hwpt: Box<dyn crate::transport::Hwpt> = Box::new(table.clone());
        trackers.add(Writer { hwpt: Some(hwpt), ..Writer::default() }, Some(&map)).unwrap();
        // It could not be unmapped, when nothing behind a page table was tracked.
        ledger.suspect(2 * PAGE..=4 * PAGE - 1);
        for _ in 0..2 {
            trackers.verify(&EVERYWHERE, &map, &mut ledger);
            let rest = [0..=PAGE - 1, 4 * PAGE..=8 * PAGE - 1];
            assert_eq!(rest.map(|range| ledger.is_suspect(&range)), [whole; 2]);
            assert!(!ledger.is_suspect(&(16 * PAGE..=u64::MAX)));
            // It is said once.
            assert_eq!(ledger.num_errors(), usize::from(whole));
        }
    }
}

#[test]
fn a_log_that_fails_in_many_rounds_is_given_up_where_there_is_something_better() {
    for better in [false, true] {
        let (map, mut ledger) = (map(&[(0, 8)]), Ledger::new(page()));
        let [log, table, custom] = fakes();
        let mut trackers = Trackers::new(page());
        let mut writer = writer(&log, &table, &custom);
        if !better {
            (writer.hwpt, writer.custom) = (None, None);
        }
        trackers.add(writer, Some(&map)).unwrap();
        for _ in 0..MAX_BAD_ROUNDS {
            assert_eq!(kind(&trackers, 0), TrackerKind::DeviceLog);
            trackers.get_mut(0).unwrap().numbers().fail_round();
            trackers.end_round(&map, &mut ledger);
        }
        let now = if better { TrackerKind::Hwpt } else { TrackerKind::DeviceLog };
        assert_eq!(kind(&trackers, 0), now);
        assert_eq!(pending(&mut ledger), if better { 0xff } else { 0 });
    }
}
