// SPDX-License-Identifier: MIT OR Apache-2.0
//! A source that sends too little in too long a time: the load ends, and nobody but the source is
//! blamed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Side, check_clean, side, small, stream_of};
use vfiomig::Error;
use vfiomig::error::{Code, Operation, Outcome};
use vfiomig::session::{LoadOptions, SaveOptions};
use vfiomig::stream::Format;
use vfiomig_sim::{SimOptions, State};

const TIME: Duration = Duration::from_millis(300);

fn options(bytes: u64) -> LoadOptions {
    LoadOptions { progress_timeout: Some(TIME), progress_bytes: bytes, ..LoadOptions::default() }
}

fn stream(options: SimOptions) -> Vec<u8> {
    stream_of(&side(options).device, SaveOptions::default()).unwrap()
}

/// The source was too slow, and the device was reset.
#[track_caller]
fn check_too_slow(target: &Side, error: &Error) {
    assert_eq!(error.code(), Code::TimedOut, "{error}");
    let failure = error.failure().unwrap();
    assert_eq!((failure.operation, failure.outcome), (Operation::Stream, Outcome::Reset));
    assert_eq!(target.sim.state(), State::RUNNING);
    check_clean(target);
}

#[test]
fn a_byte_a_call_is_no_progress() {
    let (stream, target) = (stream(small(1)), side(small(2)));
    let mut load = target.device.load(options(1000)).unwrap();
    let start = Instant::now();
    let mut taken = 0;
    let error = stream.iter().find_map(|byte| {
        sleep(Duration::from_millis(2));
        taken += 1;
        load.push(&[*byte]).err()
    });
    check_too_slow(&target, &error.unwrap());
    // A thousand bytes would take several times as long as they may, and it is noticed at once.
    assert!(start.elapsed() >= TIME && taken < 1000, "{taken}");
    assert_eq!(load.shared().deadline(), None);
}

#[test]
fn silence_is_found_by_whichever_call_comes_next() {
    let calls: [fn(&mut vfiomig::Load) -> Option<Error>; 3] =
        [|load| load.push(&[]).err(), |load| load.space().err(), |load| load.received(0).err()];
    for call in calls {
        let target = side(small(2));
        let mut load = target.device.load(options(1)).unwrap();
        let shared = load.shared();
        let left = shared.deadline().unwrap();
        assert!(left > Duration::ZERO && left <= TIME);
        assert!(call(&mut load).is_none());
        sleep(left);
        assert_eq!(shared.deadline(), Some(Duration::ZERO));
        check_too_slow(&target, &call(&mut load).unwrap());
    }
}

#[test]
fn a_slow_stream_that_keeps_its_pace_arrives_and_the_end_has_no_deadline() {
    let (stream, target) = (stream(small(1)), side(small(2)));
    let mut load = target.device.load(options(300)).unwrap();
    let start = Instant::now();
    let mut ended = false;
    for piece in stream.chunks(300) {
        assert!(!ended);
        ended = load.push(piece).unwrap().ended;
        sleep(TIME / 5);
    }
    assert!(ended && start.elapsed() > TIME * 2);
    sleep(TIME * 2);
    assert_eq!(load.shared().deadline(), None);
    load.commit().unwrap();
}

#[test]
fn what_the_driver_takes_is_not_the_sources_time() {
    let slow = SimOptions { write_rate: 4000, ..small(2) };
    let (stream, target) = (stream(small(1)), side(slow));
    let mut load = target.device.load(options(1 << 20)).unwrap();
    let start = Instant::now();
    assert!(load.push(&stream).unwrap().ended);
    assert!(start.elapsed() > TIME * 2, "{:?}", start.elapsed());
    load.commit().unwrap();
}

#[test]
fn without_a_limit_there_is_no_deadline() {
    let target = side(small(2));
    let mut load = target.device.load(LoadOptions::default()).unwrap();
    assert_eq!(load.shared().deadline(), None);
    load.push(&[]).unwrap();
}

#[test]
fn a_thread_that_waits_for_packets_stops_waiting() {
    let setup =
        [0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0, 3, 0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0, 1];
    let packet = |idx: u32| [[0, idx, 0].map(u32::to_be_bytes).concat(), vec![7; 38]].concat();
    // Nothing comes; packets come that wait for an earlier one, but too few; enough of them come
    // for a while, which is progress whatever becomes of it.
    for (bytes, sent, longer) in [(1, 0, false), (1 << 20, 3, false), (100, 8, true)] {
        let target = side(small(2));
        let mut load = target
            .device
            .load(LoadOptions { format: Format::QemuPackets, ..options(bytes) })
            .unwrap();
        load.push(&setup).unwrap();
        let packets = load.packets().unwrap();
        let start = Instant::now();
        let (ran, submitted) = std::thread::scope(|scope| {
            let runner = scope.spawn(|| packets.run());
            let mut submitted = Ok(());
            for idx in 1..=sent {
                sleep(TIME / 4);
                submitted = submitted.and(packets.submit(&packet(idx)));
            }
            (runner.join().unwrap().unwrap_err(), submitted)
        });
        assert!(start.elapsed() >= TIME);
        assert_eq!(start.elapsed() > TIME * 2, longer, "{:?}", start.elapsed());
        submitted.unwrap();
        check_too_slow(&target, &ran);
        // Every thread is told the same.
        assert_eq!(packets.submit(&packet(0)).unwrap_err().code(), Code::TimedOut);
        assert_eq!(load.push(&[]).unwrap_err().code(), Code::TimedOut);
    }
}
