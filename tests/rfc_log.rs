// SPDX-License-Identifier: MIT OR Apache-2.0
//! The RFC's own bitmap of dirty pages as a tracker, and the order in which a device is read: both hang
//! on when LOGGING is set.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use common::regions::commit;
use common::{Drive, Side, check_clean, migrate, side, stream_of};
use vfiomig::dirty::{
    DirtyPages, Mapping, Memory, PageSize, Span, TrackerKind, Tracking, TrackingOptions, Writer,
};
use vfiomig::error::{Errno, Outcome};
use vfiomig::session::{Ending, Save, SaveOptions, SaveStatus};
use vfiomig_sim::{Effect, Kind, Op, SimOptions, State, quirk};

/// Where the device sees memory: several times what its bitmap has room for.
const RAM: u64 = 1 << 30;
const SIZE: u64 = 40 << 20;
const PAGE: u64 = 4096;

fn rfc(seed: u64) -> SimOptions {
    SimOptions { kind: Kind::Rfc, seed, state_size: 100_000, ..SimOptions::default() }
}

#[derive(Clone, Default)]
struct Told(Arc<Mutex<BTreeSet<u64>>>);

impl Memory for Told {
    fn set_dirty(&mut self, pages: DirtyPages<'_>) -> Result<(), Errno> {
        let bytes = pages.page.bytes();
        let all = pages.offsets().flat_map(|at| (at..at + bytes).step_by(PAGE as usize));
        self.0.lock().unwrap().extend(all.map(|at| at / PAGE));
        Ok(())
    }
}

struct Guest {
    side: Side,
    tracking: Tracking,
    told: Told,
}

impl Guest {
    fn new(options: SimOptions, page: u64) -> Guest {
        let (side, told) = (side(options), Told::default());
        let options =
            TrackingOptions { page_size: PageSize::new(page), ..TrackingOptions::default() };
        let mut tracking = Tracking::new(told.clone(), options).unwrap();
        tracking.map(Mapping { iova: RAM, size: SIZE, ..Mapping::default() }).unwrap();
        tracking.add_writer(Writer::device(&side.device).unwrap()).unwrap();
        Guest { side, tracking, told }
    }

    fn started(options: SimOptions) -> Guest {
        let mut guest = Guest::new(options, PAGE);
        guest.tracking.start().unwrap();
        guest.is_logged();
        guest
    }

    fn is_logged(&self) {
        let stats = self.tracking.writer(0).unwrap();
        assert_eq!((stats.tracker, stats.note.as_str()), (TrackerKind::DeviceLog, ""));
    }

    fn write(&self, pages: &[u64]) {
        for page in pages {
            self.side.sim.dma_write(RAM + page * PAGE + 17, 1).unwrap();
        }
    }

    /// The pages that a reading reports, and whether it had errors.
    fn collect(&mut self) -> (Vec<u64>, bool) {
        let errors = self.tracking.collect().unwrap().errors;
        (std::mem::take(&mut *self.told.0.lock().unwrap()).into_iter().collect(), errors)
    }

    fn expect(&mut self, pages: &[u64]) {
        assert_eq!(self.collect(), (pages.to_vec(), false));
    }

    fn expect_everything(&mut self) {
        let (pages, errors) = self.collect();
        assert!(errors && pages.len() as u64 == SIZE / PAGE, "{} pages, {errors}", pages.len());
    }
}

/// At the edges of what the device is asked at once.
const SOME: [u64; 7] = [0, 1, 63, 4095, 4096, 8192 + 77, SIZE / PAGE - 1];

fn drain(save: &mut Save) -> Vec<u8> {
    let (mut all, mut buf) = (vec![], vec![0; 1 << 20]);
    loop {
        let next = save.next(&mut buf).unwrap();
        all.extend_from_slice(&buf[..next.len]);
        if next.status != SaveStatus::More {
            return all;
        }
    }
}

#[test]
fn pages_are_exact_before_during_and_after_a_save() {
    let mut guest = Guest::started(rfc(1));
    guest.expect(&[]);
    guest.write(&SOME);
    guest.expect(&SOME);
    guest.expect(&[]);
    guest.write(&[5]);
    let mut save = guest.side.device.save(SaveOptions::default()).unwrap();
    let mut stream = drain(&mut save);
    guest.write(&[7, 5000]);
    guest.expect(&[5, 7, 5000]);
    stream.extend(drain(&mut save));
    guest.write(&[9]);
    save.stop().unwrap();
    stream.extend(drain(&mut save));
    guest.expect(&[9]);
    save.finish(Ending::Release).unwrap();
    guest.expect(&[]);
    assert_eq!(guest.tracking.num_errors(), 0);
    let target = side(rfc(2));
    commit(&stream, &target).unwrap();
    assert_eq!(target.sim.digest(), guest.side.sim.digest());
    // What the device wrote last is there until the log is stopped.
    assert_eq!(guest.side.sim.state(), State::STOP_COPY);
    guest.tracking.stop().unwrap();
    assert_eq!(guest.side.sim.state(), State::STOP);
    check_clean(&guest.side);
}

#[test]
fn logging_is_set_as_long_as_the_log_runs_and_no_longer() {
    let mut guest = Guest::new(rfc(1), PAGE);
    for _ in 0..2 {
        guest.write(&[3]);
        guest.tracking.start().unwrap();
        assert_eq!(guest.side.sim.state(), State::PRE_COPY);
        guest.expect(&[]);
        guest.write(&[1]);
        guest.side.device.set_state(vfiomig::device::State::Stop).unwrap();
        assert_eq!(guest.side.sim.state(), State::STOP_COPY);
        guest.expect(&[1]);
        guest.side.device.run().unwrap();
        assert_eq!(guest.side.sim.state(), State::PRE_COPY);
        guest.tracking.stop().unwrap();
        assert_eq!(guest.side.sim.state(), State::RUNNING);
    }
    check_clean(&guest.side);
}

/// All memory must count as changed to the next save, so LOGGING is set again, which forgets pages.
#[test]
fn a_save_after_one_that_was_given_up_has_everything_and_so_has_the_log() {
    let mut guest = Guest::started(rfc(1));
    for round in 0..3 {
        guest.write(&[round]);
        let mut save = guest.side.device.save(SaveOptions::default()).unwrap();
        drain(&mut save);
        guest.write(&[100]);
        match round {
            0 => guest.expect(&[0, 100]),
            _ => guest.expect_everything(),
        }
        guest.write(&[101]);
        // What could not be reported may come again.
        let (pages, errors) = guest.collect();
        assert!(!errors && matches!(pages[..], [101] | [100, 101]), "{pages:?}");
        if round == 1 {
            save.stop().unwrap();
        }
        save.finish(Ending::Keep).unwrap();
        guest.write(&[102]);
        guest.expect(&[102]);
    }
    // Stopped at once, too.
    let options = SaveOptions { no_pre_copy: true, ..SaveOptions::default() };
    let stream = stream_of(&guest.side.device, options).unwrap();
    let target = side(rfc(2));
    commit(&stream, &target).unwrap();
    assert_eq!(target.sim.digest(), guest.side.sim.digest());
    check_clean(&guest.side);
}

#[test]
fn larger_pages_are_dirty_with_each_of_the_protocol_s() {
    for page in [16 << 10, 64 << 10, 2 << 20] {
        let mut guest = Guest::new(rfc(1), page);
        guest.tracking.start().unwrap();
        let pages = page / PAGE;
        guest.write(&[pages - 1, 3 * pages, 4095]);
        let mut expected: BTreeSet<u64> = (0..pages).chain(3 * pages..4 * pages).collect();
        expected.extend(4095 / pages * pages..(4095 / pages + 1) * pages);
        guest.expect(&expected.into_iter().collect::<Vec<_>>());
        guest.expect(&[]);
    }
    // And a range of the VMM's own.
    let mut guest = Guest::started(rfc(1));
    guest.write(&[9, 10, 5000]);
    let span =
        Span { start: RAM + 10 * PAGE, length: 64 * PAGE, page: PageSize::new(PAGE).unwrap() };
    let mut bitmap = [0];
    guest.tracking.sync(span, &mut bitmap).unwrap();
    assert_eq!(bitmap, [1]);
    guest.expect(&[9, 5000]);
}

#[test]
fn a_query_that_fails_or_a_reset_makes_everything_dirty_and_then_it_is_exact_again() {
    for effect in [Effect::Once, Effect::Half, Effect::Reset] {
        for nth in 1..4 {
            let mut guest = Guest::started(rfc(1));
            guest.write(&SOME);
            guest.side.sim.inject(Op::LogReport, nth, libc::EINVAL, effect);
            let (pages, errors) = guest.collect();
            if effect == Effect::Reset {
                // Nobody knows, unless the VMM says so.
                guest.side.device.was_reset().unwrap();
                guest.expect_everything();
            } else {
                assert!(errors && pages.len() as u64 == SIZE / PAGE, "{effect:?} {nth}");
            }
            guest.write(&[6]);
            guest.expect(&[6]);
            guest.is_logged();
            check_clean(&guest.side);
        }
    }
}

#[test]
fn a_device_that_does_not_set_logging_is_not_tracked_by_it_and_runs_on() {
    let mut guest = Guest::new(rfc(1), PAGE);
    guest.side.sim.inject(Op::SetState, 1, libc::EBUSY, Effect::Once);
    guest.tracking.start().unwrap();
    assert_eq!(guest.side.sim.state(), State::RUNNING);
    guest.write(&[4]);
    let (pages, _) = guest.collect();
    assert_eq!(pages.len() as u64, SIZE / PAGE);
    // It was only busy, and has been asked again.
    assert_eq!(guest.side.sim.state(), State::PRE_COPY);
    guest.expect(&[]);
    guest.write(&[4]);
    guest.expect(&[4]);
    guest.tracking.stop().unwrap();
    migrate(&guest.side, &side(rfc(2)), Drive::default());
    check_clean(&guest.side);
}

#[test]
fn a_device_without_a_bitmap_needs_another_tracker() {
    let mut guest = Guest::new(SimOptions { quirks: quirk::NO_LOGGING, ..rfc(1) }, PAGE);
    guest.tracking.start().unwrap();
    assert_eq!(guest.tracking.writer(0).unwrap().tracker, TrackerKind::AllDirty);
    assert_eq!(guest.side.sim.state(), State::RUNNING);
}

// --- the order of the letter ------------------------------------------------------------------------

fn of_the_letter() -> SaveOptions {
    SaveOptions { full_before_logging: true, ..SaveOptions::default() }
}

#[test]
fn in_the_order_of_the_letter_a_driver_that_relies_on_it_can_be_saved() {
    for quirks in [0, quirk::FULL_BEFORE_LOGGING] {
        for rounds in 0..4 {
            let source = side(SimOptions { quirks, window: 1000, ..rfc(1) });
            let target = side(SimOptions { window: 1000, ..rfc(2) });
            source.sim.guest_write(0, 1000, 5).unwrap();
            let mut save = source.device.save(of_the_letter()).unwrap();
            assert_eq!(source.sim.state(), State::RUNNING);
            let mut stream = vec![];
            for round in 0..rounds {
                stream.extend(drain(&mut save));
                assert_eq!(source.sim.state(), State::PRE_COPY);
                source.sim.guest_write(2000 * round, 1000, 7).unwrap();
            }
            save.stop().unwrap();
            // A device whose memory was not read whole is read whole, without LOGGING.
            let stopped = if rounds == 0 { State::STOP } else { State::STOP_COPY };
            assert_eq!(source.sim.state(), stopped);
            stream.extend(drain(&mut save));
            save.finish(Ending::Release).unwrap();
            commit(&stream, &target).unwrap();
            assert_eq!(target.sim.digest(), source.sim.digest(), "{quirks} {rounds}");
            check_clean(&source);
            check_clean(&target);
        }
    }
}

#[test]
fn in_the_order_of_the_letter_a_device_is_stopped_within_its_first_snapshot_and_read_again() {
    let source = side(SimOptions { quirks: quirk::FULL_BEFORE_LOGGING, window: 1000, ..rfc(1) });
    let mut save = source.device.save(of_the_letter()).unwrap();
    let mut buf = vec![0; 8192];
    let mut stream = vec![];
    for _ in 0..3 {
        let next = save.next(&mut buf).unwrap();
        stream.extend_from_slice(&buf[..next.len]);
    }
    source.sim.guest_write(0, 50_000, 5).unwrap();
    save.stop().unwrap();
    assert_eq!(source.sim.state(), State::STOP);
    stream.extend(drain(&mut save));
    save.finish(Ending::Keep).unwrap();
    assert_eq!(source.sim.state(), State::RUNNING);
    let target = side(SimOptions { window: 1000, ..rfc(2) });
    commit(&stream, &target).unwrap();
    assert_eq!(target.sim.digest(), source.sim.digest());
    // Without pre-copy, and kept.
    let options = SaveOptions { no_pre_copy: true, ..of_the_letter() };
    commit(&stream_of(&source.device, options).unwrap(), &target).unwrap();
    assert_eq!(target.sim.digest(), source.sim.digest());
    check_clean(&source);
}

#[test]
fn logging_that_cannot_be_set_after_the_whole_ends_the_save() {
    let source = side(rfc(1));
    source.sim.inject(Op::SetState, 2, libc::EBUSY, Effect::Once);
    let mut save = source.device.save(of_the_letter()).unwrap();
    let error = loop {
        match save.next(&mut vec![0; 8192]) {
            Ok(next) => assert_eq!(next.status, SaveStatus::More),
            Err(error) => break error,
        }
    };
    assert_eq!(error.failure().unwrap().errno, libc::EBUSY, "{error}");
    let digest = source.sim.digest();
    save.finish(Ending::Keep).unwrap();
    assert_eq!((source.sim.state(), source.sim.digest()), (State::RUNNING, digest));
    migrate(&source, &side(rfc(2)), Drive::default());
}

#[test]
fn in_the_order_of_the_letter_everything_is_dirty_until_logging_is_set() {
    let mut guest = Guest::started(rfc(1));
    guest.write(&[3]);
    let mut save = guest.side.device.save(of_the_letter()).unwrap();
    assert_eq!(guest.side.sim.state(), State::RUNNING);
    let (pages, errors) = guest.collect();
    assert!(errors && pages.len() as u64 == SIZE / PAGE);
    drain(&mut save);
    assert_eq!(guest.side.sim.state(), State::PRE_COPY);
    let (pages, _) = guest.collect();
    assert_eq!(pages.len() as u64, SIZE / PAGE);
    guest.write(&[5]);
    guest.expect(&[5]);
    save.stop().unwrap();
    drain(&mut save);
    guest.expect(&[]);
    assert!(save.finish(Ending::Keep).is_ok());
    let outcome = guest.side.device.failure().unwrap().map(|failure| failure.outcome);
    assert_ne!(outcome, Some(Outcome::Reset));
    check_clean(&guest.side);
}
