// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device's log forgets when it is restarted, or when its device is reset while the library
//! is in the middle of something: none of it may be missing, and not only at the next reading,
//! because there may be none.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod track;

use track::{Logged, PAGE, PAGE_SIZE, Taken, mapping, new_tracking, start_logged};
use vfiomig::dirty::{Mapping, Span, Tracking};

const PAGES: u64 = 64;

/// 64 pages from 0 on, and a device with a log.
fn machine(bridge: bool) -> (Tracking, Logged, Taken) {
    let taken = Taken::default();
    let window = Mapping { window: true, ..mapping(1000, PAGES) };
    let mut tracking = new_tracking(taken.clone(), &[mapping(0, PAGES), window]);
    let device = start_logged(&mut tracking, false, bridge);
    (tracking, device, taken)
}

fn all() -> Vec<u64> {
    (0..PAGES).collect()
}

#[test]
fn a_reset_during_a_reading_is_made_up_for_by_that_reading() {
    let (mut tracking, device, taken) = machine(false);
    device.get().write(7 * PAGE);
    tracking.collect().unwrap();
    assert_eq!(taken.take(), [7]);

    // After the first report: what a second would have said is gone.
    device.get().write(9 * PAGE);
    device.get().reset_in = Some(1);
    assert!(tracking.collect().unwrap().errors);
    assert_eq!(taken.take(), all());

    device.get().reset_in = Some(1);
    let (mut words, page) = ([0], PAGE_SIZE);
    let all_pages = Span { start: 0, length: PAGES * PAGE, page };
    assert!(tracking.sync(all_pages, &mut words).unwrap().errors);
    assert_eq!(words, [u64::MAX]);
    assert!(!tracking.collect().unwrap().errors);
    assert_eq!(taken.take(), [0; 0]);
}

#[test]
fn a_reset_during_the_reading_of_an_unmapped_range_is_made_up_for_by_the_unmapping() {
    let (mut tracking, device, taken) = machine(false);
    device.get().reset_in = Some(1);
    assert!(tracking.unmap(8 * PAGE, 8 * PAGE, None, || Ok(())).unwrap().errors);
    assert_eq!(taken.take(), (8..16).collect::<Vec<u64>>());

    device.get().reset_in = Some(1);
    let mut words = [0];
    let bitmap = Some((PAGE_SIZE, &mut words[..]));
    assert!(tracking.unmap(32 * PAGE, 8 * PAGE, bitmap, || Ok(())).unwrap().errors);
    assert_eq!(words, [0xff]);
    tracking.collect().unwrap();
    let rest: Vec<u64> = (0..8).chain(16..32).chain(40..64).collect();
    assert_eq!(taken.take(), rest);
}

#[test]
fn a_reset_while_a_writer_is_taken_out_makes_everything_dirty() {
    let (mut tracking, device, taken) = machine(false);
    device.get().reset_in = Some(1);
    tracking.remove_writer(0).unwrap();
    tracking.collect().unwrap();
    assert_eq!(taken.take(), all());
}

/// The VMM has made a mapping in a window, the device has written there, and tracking has not been
/// told yet when the log is restarted: nobody asks for those bits before they are gone.
#[test]
fn a_mapping_in_a_window_that_is_told_of_late_is_dirty_after_a_log_was_started_anew() {
    for (still, bridge) in [(true, false), (false, true), (false, false)] {
        let (mut tracking, device, taken) = machine(bridge);
        device.get().write(1010 * PAGE);
        device.get().still = still;
        // Something outside the window, for which the log has to be restarted.
        tracking.map(mapping(2000, 1)).unwrap();
        tracking.rearm().unwrap();
        tracking.collect().unwrap();
        let everything: Vec<u64> = (0..PAGES).chain([2000]).collect();
        assert_eq!(taken.take(), if still || bridge { vec![2000] } else { everything });
        assert!(device.get().dirty.is_empty());

        tracking.map(mapping(1008, 8)).unwrap();
        tracking.collect().unwrap();
        assert_eq!(taken.take(), (1008..1016).collect::<Vec<u64>>(), "{still}, {bridge}");
        tracking.collect().unwrap();
        assert_eq!(taken.take(), [0; 0]);
    }
}
