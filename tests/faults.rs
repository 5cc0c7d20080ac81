// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every operation on a device fails once, in every way: the library returns an error of its set,
//! reports truthfully what became of the device, and leaves nothing half done.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::time::{Duration, Instant};

use proptest::prelude::*;

use common::{At, Done, Drive, Side, check_clean, migrate, side};
use vfiomig::Device;
use vfiomig::device::{DeviceOptions, Fixups};
use vfiomig::error::{Code, Failure, Operation, Outcome};
use vfiomig::session::{Ending, SaveOptions, SaveStatus};
use vfiomig_sim::{Effect, Kind, Op, Sim, SimOptions, State, quirk};

const ERRNOS: [i32; 6] =
    [libc::EIO, libc::EINVAL, libc::ENODEV, libc::EAGAIN, libc::ENOTCONN, libc::EFAULT];

fn options(migration_flags: u32, seed: u64) -> SimOptions {
    SimOptions { migration_flags, seed, state_size: 2000, ..SimOptions::default() }
}

fn drive<'a>() -> Drive<'a> {
    let read_timeout = Duration::from_millis(3);
    let save = SaveOptions { max_frame: 1000, read_timeout, ..SaveOptions::default() };
    let mut drive = Drive { save, buffers: vec![4096], quiesce: true, ..Drive::default() };
    // A device that delivers or takes nothing is soon given up.
    drive.load.write_timeout = Duration::from_millis(3);
    drive
}

/// One fault.
#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Kind,
    flags: u32,
    quirks: u64,
    at: At,
    op: Op,
    nth: u64,
    errno: i32,
    effect: Effect,
}

impl Case {
    /// Whether the library can no longer help.
    fn beyond_help(&self) -> bool {
        self.effect == Effect::Die
            || self.quirks & quirk::NO_RESET != 0
            || (self.effect == Effect::Sticky
                && matches!(self.op, Op::Any | Op::SetState | Op::GetState | Op::Reset))
    }

    /// Runs the case. Returns whether the fault struck.
    fn run(self) -> bool {
        let [source, target] = [At::Source, At::Target].map(|at| {
            let quirks = if self.at == at { self.quirks } else { 0 };
            let options = options(self.flags, 1 + at as u64);
            side(SimOptions { quirks, kind: self.kind, window: 900, ..options })
        });
        let bad = if self.at == At::Source { &source } else { &target };
        source.sim.guest_write(100, 1000, 3).unwrap();
        let counted = bad.sim.count(self.op);
        bad.sim.inject(self.op, self.nth, self.errno, self.effect);
        let contents = source.sim.digest();
        let begun = Instant::now();
        let mut done = drive().run(&source.device, &target.device);
        let struck = bad.sim.count(self.op) - counted >= self.nth;
        // Whether it struck the last change, which only a look at the state follows.
        let looks = u64::from(self.op == Op::Any);
        let last = bad.sim.count(self.op) - counted <= self.nth + looks;
        self.check_result(&source, &target, &done, contents, last);
        // Keep what can be kept, as a VMM would.
        let mut kept = None;
        if let (Err(_), Some(save)) = (&done.result, &mut done.save) {
            kept = match save.finish(Ending::Keep) {
                Err(error) if error.code() == Code::Inval => None,
                other => Some(other),
            };
        }
        assert!(begun.elapsed() < Duration::from_secs(50), "{self:?} takes too long");
        let struck = struck || bad.sim.count(self.op) - counted >= self.nth;
        if let Some(Err(error)) = &kept {
            assert!(self.at == At::Source, "{self:?}: {error}");
            let failure = error.failure().unwrap_or_else(|| panic!("{self:?}: {error}"));
            self.check_failure(bad, failure);
        }
        if let Some(Ok(())) = kept {
            assert_eq!(source.sim.state(), State::RUNNING, "{self:?}");
            // A guest whose device has lost its contents must not go on unawares: it ran when the
            // failure before said so, or when the reset came, which may have been its own.
            let intact = source.sim.digest() == contents;
            let told = match &done.result {
                Err((_, error)) => error.failure().is_some_and(|f| f.outcome == Outcome::Reset),
                Ok(()) => false,
            };
            let unseen = self.effect == Effect::Reset;
            assert!(intact || told || unseen, "{self:?}: the contents were lost in silence");
        }
        if let Err((at, error)) = &done.result {
            self.check_history(if *at == At::Source { &source } else { &target }, error);
        }
        let failed = done.result.is_err();
        drop(done);
        self.check_left(&source, &target, failed);
        // Whatever it was: once the cause is gone, a harder reset makes both good again.
        for side in [&source, &target] {
            side.sim.clear_faults();
            if side.sim.state() != State::RUNNING || self.beyond_help() {
                side.sim.guest_reset();
                side.device.was_reset().unwrap();
                assert_eq!(side.sim.state(), State::RUNNING);
            }
            side.device.accept_reset().unwrap();
        }
        if self.quirks & quirk::NO_RESET == 0 {
            migrate(&source, &target, drive());
        }
        struck
    }

    fn check_result(&self, source: &Side, target: &Side, done: &Done, contents: u64, last: bool) {
        match &done.result {
            // The one moment that nobody can see: between the last check and the change.
            Ok(()) if self.at == At::Target && self.effect == Effect::Reset && last => {}
            Ok(()) => {
                // What was sent is the state before a reset or that after it, and nothing between.
                let after = source.sim.digest();
                assert!([contents, after].contains(&target.sim.digest()), "{self:?}");
                assert_eq!(target.sim.state(), State::STOP, "{self:?}");
                // A device that fails when its guest has left is nobody's loss.
                let failed = self.effect == Effect::Error && last;
                let left = if failed { State::ERROR } else { State::STOP };
                assert!([State::STOP, left].contains(&source.sim.state()), "{self:?}");
            }
            Err((at, error)) => {
                // A reset of an older device between the last look and the change leaves no trace but data
                // that a target refuses.
                let unseen = self.kind != Kind::V2 && self.effect == Effect::Reset;
                assert!(*at == self.at || unseen, "{self:?}: {error}");
                let session = match at {
                    At::Source => done.save.as_ref().and_then(|save| save.failure()),
                    At::Target => done.load.as_ref().and_then(|load| load.failure()),
                };
                let failure = error.failure();
                assert!(
                    failure.is_some() || error.code() == Code::Again,
                    "{self:?}: {error} without a failure"
                );
                // The handles keep the same failure that the error carries, if there are any.
                if let (Some(failure), Some(kept)) = (failure, session) {
                    assert_eq!(kept.operation, failure.operation, "{self:?}");
                    assert_eq!(kept.errno, failure.errno, "{self:?}");
                    assert_eq!(kept.code, Some(error.code()), "{self:?}");
                }
                assert!(!error.message().contains('\n'));
            }
        }
    }

    /// Whatever fails, the device's history ends with it, and has what led to it.
    fn check_history(&self, side: &Side, error: &vfiomig::Error) {
        let history = side.device.history().unwrap();
        let text = history.text();
        let mut entries = history.entries.iter();
        let at = entries.rposition(|it| it.record.note.code == Some(error.code()));
        assert!(at.is_some() || error.code() == Code::Again, "{self:?}: {error}:\n{text}");
        // What the driver has failed at stands before it, unless the device was reset or died unseen.
        let failed = error.failure().filter(|failure| failure.errno != 0);
        if let Some(failure) = failed {
            let told = entries.any(|it| it.record.note.errno == failure.errno);
            assert!(told, "{self:?}: {failure:?}:\n{text}");
        }
    }

    /// Checks that a failure says what has become of the device.
    fn check_failure(&self, bad: &Side, failure: &Failure) {
        let state = bad.sim.state();
        match failure.outcome {
            Outcome::Lost => {
                assert_eq!(failure.state_after, None, "{self:?}: {failure:?}");
                let reset_failed =
                    self.beyond_help() || matches!(self.op, Op::Any | Op::Reset | Op::GetState);
                assert!(reset_failed, "{self:?}: {failure:?}");
            }
            Outcome::Reset | Outcome::Recovered => {
                let after = failure.state_after.unwrap().raw();
                assert_eq!(after, state.0, "{self:?}: {failure:?}");
                if failure.outcome == Outcome::Reset {
                    assert_eq!(state, State::RUNNING, "{self:?}");
                    assert!(!failure.fixups.is_empty(), "{self:?}");
                }
            }
            Outcome::Kept if failure.operation == Operation::SetState => {
                assert_eq!(failure.state_after, failure.state_before, "{self:?}: {failure:?}");
                assert_eq!(failure.state_after.unwrap().raw(), state.0, "{self:?}: {failure:?}");
            }
            Outcome::Kept => {}
        }
    }

    fn check_left(&self, source: &Side, target: &Side, failed: bool) {
        for (at, side) in [(At::Source, source), (At::Target, target)] {
            check_clean(side);
            let state = side.sim.state();
            if at == self.at && self.beyond_help() {
                continue;
            }
            if !failed && self.effect == Effect::Error {
                continue; // it failed when its guest had left
            }
            let at_rest = matches!(state, State::STOP | State::RUNNING);
            // A single failure of the very reset that would have helped is beyond help too.
            let reset_failed = matches!(self.op, Op::Reset | Op::Any);
            assert!(at_rest || (at == self.at && reset_failed), "{self:?}: {at:?} in {state:?}");
            if at == At::Source && failed && self.at == At::Target {
                assert_eq!(state, State::RUNNING, "{self:?}: the guest must go on");
            }
        }
    }
}

/// Each operation of a kind in turn, until there are no more.
fn sweep(case: Case) -> u64 {
    // A reset that is held up forever takes all the library's patience, so a few of these will do.
    let held_up = case.op == Op::Any && case.effect == Effect::Sticky && case.errno == libc::EAGAIN;
    for nth in 1.. {
        if held_up && nth > 4 {
            return nth - 1;
        }
        if !(Case { nth, ..case }).run() {
            return nth - 1;
        }
    }
    0
}

const OPS: [Op; 7] =
    [Op::Any, Op::GetState, Op::SetState, Op::Read, Op::Write, Op::PrecopyInfo, Op::DataSize];

fn sweep_all(at: At, flags: u32, quirks: u64) {
    sweep_ops(Kind::V2, &OPS, at, flags, quirks);
}

fn sweep_ops(kind: Kind, ops: &[Op], at: At, flags: u32, quirks: u64) {
    let mut struck = 0;
    let errnos = if kind == Kind::V2 { &ERRNOS[..] } else { &ERRNOS[..4] };
    for op in ops.iter().copied() {
        for effect in Effect::ALL {
            // Its state cannot be read: who says that it has changed is believed.
            if kind == Kind::Rfc && (op, effect) == (Op::SetState, Effect::Ignored) {
                continue;
            }
            for errno in errnos.iter().copied() {
                let case = Case { kind, flags, quirks, at, op, nth: 0, errno, effect };
                struck += sweep(case);
            }
        }
    }
    assert!(struck > 400, "only {struck} faults struck");
}

#[test]
fn every_operation_of_the_source_fails_in_every_way() {
    for flags in [7, 1] {
        sweep_all(At::Source, flags, 0);
    }
}

/// What a v1 device is asked.
const V1_OPS: [Op; 7] =
    [Op::GetState, Op::SetState, Op::Read, Op::Write, Op::PrecopyInfo, Op::Chunk, Op::TakeChunk];

#[test]
fn every_access_to_a_v1_source_fails_in_every_way() {
    sweep_ops(Kind::V1, &V1_OPS, At::Source, 5, 0);
}

#[test]
fn every_access_to_a_v1_target_fails_in_every_way() {
    sweep_ops(Kind::V1, &V1_OPS, At::Target, 5, 0);
}

/// What a device of the RFC is asked.
const RFC_OPS: [Op; 6] =
    [Op::SetState, Op::Read, Op::Write, Op::PrecopyInfo, Op::Chunk, Op::TakeChunk];

#[test]
fn every_access_to_a_source_of_the_rfc_fails_in_every_way() {
    sweep_ops(Kind::Rfc, &RFC_OPS, At::Source, 5, 0);
}

#[test]
fn every_access_to_a_target_of_the_rfc_fails_in_every_way() {
    sweep_ops(Kind::Rfc, &RFC_OPS, At::Target, 5, 0);
}

#[test]
fn every_operation_of_the_target_fails_in_every_way() {
    sweep_all(At::Target, 7, 0);
}

#[test]
fn every_operation_fails_in_every_way_with_drivers_that_hide_it() {
    let quirks = quirk::STOP_ACCEPTS_ALL | quirk::CONSUMES_ON_ERROR | quirk::DRAINED_ZERO;
    sweep_all(At::Source, 5, quirks | quirk::INFO_MAKES_DATA);
    sweep_all(At::Target, 3, quirks);
}

#[test]
fn every_operation_fails_on_a_device_that_cannot_be_reset() {
    for at in [At::Source, At::Target] {
        for op in [Op::SetState, Op::Read, Op::Write] {
            for effect in [Effect::Once, Effect::Error, Effect::Half] {
                let errno = libc::EIO;
                let (kind, quirks) = (Kind::V2, quirk::NO_RESET);
                sweep(Case { kind, flags: 7, quirks, at, op, nth: 0, errno, effect });
            }
        }
    }
}

#[test]
fn a_failed_change_and_then_a_failed_recovery() {
    // The change fails, and so does the nth operation after it: asking, the way back, the reset.
    for flags in [1, 3, 5, 7] {
        for change in 1..4 {
            for then in [Op::GetState, Op::SetState, Op::Reset] {
                for effect in [Effect::Once, Effect::Sticky, Effect::Error, Effect::Half] {
                    for first in [Effect::Once, Effect::Half] {
                        let source = side(options(flags, 1));
                        let target = side(options(flags, 2));
                        source.sim.inject(Op::SetState, change, libc::EBUSY, first);
                        let after = if then == Op::SetState { change + 1 } else { 1 };
                        source.sim.inject(then, after, libc::EIO, effect);
                        let mut done = drive().run(&source.device, &target.device);
                        if let (Err(_), Some(save)) = (&done.result, &mut done.save) {
                            let _ = save.finish(Ending::Keep);
                        }
                        drop(done);
                        check_clean(&source);
                        check_clean(&target);
                        source.sim.clear_faults();
                        source.sim.guest_reset();
                        source.device.was_reset().unwrap();
                        source.device.accept_reset().unwrap();
                        if target.sim.state() != State::RUNNING {
                            target.device.reset().unwrap();
                        }
                        migrate(&source, &target, drive());
                    }
                }
            }
        }
    }
}

#[test]
fn probing_survives_every_failure() {
    for op in [Op::GetFlags, Op::GetState, Op::DataSize, Op::Any] {
        for effect in Effect::ALL {
            for errno in ERRNOS {
                for nth in 1..6 {
                    let sim = Sim::new(options(7, 1)).unwrap();
                    sim.inject(op, nth, errno, effect);
                    let before = sim.state();
                    let device = Device::new(sim.transport(), DeviceOptions::default()).unwrap();
                    let caps = device.caps().unwrap();
                    let can = device.reasons().unwrap();
                    assert_eq!(sim.count(Op::SetState) + sim.count(Op::Reset), 0);
                    if !matches!(effect, Effect::Error | Effect::Die | Effect::Reset) {
                        assert_eq!(sim.state(), before);
                    }
                    // Either it can be saved, or the error says why not.
                    match device.save(SaveOptions::default()) {
                        Ok(save) => drop(save),
                        Err(error) => assert!(
                            !can.is_empty() && error.message().len() > 10,
                            "{op:?} {nth} {errno} {effect:?}: {error} {caps:?}"
                        ),
                    }
                    drop(device);
                    assert_eq!(sim.violations(), (0, None));
                    assert_eq!(sim.open_streams(), 0);
                    assert_eq!(sim.releases(), 1);
                }
            }
        }
    }
}

#[test]
fn a_source_that_cannot_be_kept_as_it_was_is_not_said_to_be() {
    for stopped in [false, true] {
        let source = side(options(7, 1));
        let mut save = source.device.save(SaveOptions::default()).unwrap();
        if stopped {
            save.stop().unwrap();
        }
        source.sim.guest_write(0, 100, 9).unwrap();
        let contents = source.sim.digest();
        source.sim.inject(Op::GetState, 1, libc::EIO, Effect::Error);
        let error = save.finish(Ending::Keep).unwrap_err();
        // A device in ERROR refuses every change. If a stopped guest depends on it, it is asked
        // again before it is changed.
        assert_eq!(error.code(), if stopped { Code::Io } else { Code::Inval });
        assert_eq!(error.failure().unwrap().outcome, Outcome::Reset);
        assert_eq!(save.failure(), error.failure().copied());
        assert_ne!(source.sim.digest(), contents);
        assert_eq!(source.sim.state(), State::RUNNING);
        assert!(!source.device.fixups().is_empty());
        check_clean(&source);
    }
}

#[test]
fn a_released_source_stands_still_even_where_it_had_to_be_reset() {
    for effect in [Effect::Once, Effect::Error] {
        let (source, target) = (side(options(7, 1)), side(options(7, 2)));
        let sim = source.sim.clone();
        let before = Box::new(move |_, call| {
            if call == common::Call::Finish {
                sim.inject(Op::GetState, 1, libc::EIO, effect);
            }
        });
        let done = Drive { before, ..drive() }.run(&source.device, &target.device);
        done.result.unwrap();
        assert_eq!(source.sim.count(Op::Reset), u64::from(effect == Effect::Error));
        assert_eq!(source.sim.state(), State::STOP);
        check_clean(&source);
    }
}

#[test]
fn a_source_whose_stop_is_refused_at_its_release_stands_still_all_the_same() {
    let (source, target) = (side(options(7, 1)), side(options(7, 2)));
    let sim = source.sim.clone();
    let before = Box::new(move |_, call| {
        if call == common::Call::Finish {
            sim.inject(Op::SetState, 1, libc::EBUSY, Effect::Once);
        }
    });
    Drive { before, ..drive() }.run(&source.device, &target.device).result.unwrap();
    assert_eq!(source.sim.state(), State::STOP);
    check_clean(&source);
}

#[test]
fn a_kept_source_that_stops_on_the_way_is_whole_and_can_be_run_again() {
    for effect in [Effect::Half, Effect::Once] {
        let source = side(options(7, 1));
        let mut save = source.device.save(SaveOptions::default()).unwrap();
        save.stop().unwrap();
        let contents = source.sim.digest();
        // STOP_COPY to RUNNING goes through STOP and RUNNING_P2P.
        source.sim.inject(Op::SetState, 1, libc::EBUSY, effect);
        let error = save.finish(Ending::Keep).unwrap_err();
        let failure = error.failure().unwrap();
        if effect == Effect::Half {
            assert_eq!((failure.outcome, source.sim.digest()), (Outcome::Recovered, contents));
            assert_eq!(source.device.fixups(), Fixups::empty());
            source.device.run().unwrap();
            assert_eq!(source.sim.count(Op::Reset), 0);
        } else {
            // Still in STOP_COPY, with a stream that is no longer of use.
            assert_eq!(failure.outcome, Outcome::Reset);
        }
        assert_eq!(source.sim.state(), State::RUNNING);
        drop(save);
        check_clean(&source);
    }
}

#[test]
fn a_device_that_stops_on_the_way_to_running_is_whole_and_can_be_run_again() {
    let target = side(options(7, 2));
    target.device.set_state(vfiomig::device::State::Stop).unwrap();
    let contents = target.sim.digest();
    target.sim.inject(Op::SetState, 1, libc::EIO, Effect::Half);
    let error = target.device.run().unwrap_err();
    assert_eq!(error.failure().unwrap().outcome, Outcome::Recovered);
    target.device.run().unwrap();
    assert_eq!((target.sim.count(Op::Reset), target.sim.digest()), (0, contents));
}

#[test]
fn a_device_that_has_to_be_reset_to_run_is_said_to_have_lost_its_contents() {
    let target = side(options(7, 2));
    target.sim.inject(Op::GetState, 1, libc::EIO, Effect::Error);
    target.device.state().unwrap_err();
    assert_eq!(target.device.state().unwrap(), vfiomig::device::State::Error);
    let error = target.device.run().unwrap_err();
    assert_eq!(error.failure().unwrap().outcome, Outcome::Reset);
    assert_eq!(target.device.fixups(), Fixups::AFTER_RESET_OR_LOAD);
    target.device.run().unwrap();
    assert_eq!(target.device.fixups(), Fixups::empty());
}

#[test]
fn what_was_loaded_and_lost_by_a_reset_is_not_run() {
    use vfiomig::device::State as Wanted;
    // The step that ends in a reset: one of three, or a reset that someone else made.
    for way in 0..4 {
        let (source, target) = (side(options(7, 1)), side(options(7, 2)));
        drive().run(&source.device, &target.device).result.unwrap();
        let (device, sim) = (&target.device, &target.sim);
        if way == 1 {
            device.set_state(Wanted::RunningP2p).unwrap();
        }
        if way == 3 {
            sim.guest_reset();
            let error = device.run().unwrap_err();
            assert_eq!(
                (error.code(), error.failure().unwrap().outcome),
                (Code::Io, Outcome::Reset)
            );
            assert_eq!(device.set_state(Wanted::RunningP2p).unwrap_err().code(), Code::Io);
        } else {
            sim.inject(Op::SetState, 1, libc::EIO, Effect::Error);
            let to = if way == 2 { Wanted::RunningP2p } else { Wanted::Running };
            let error = device.set_state(to).unwrap_err();
            assert_eq!(error.failure().unwrap().outcome, Outcome::Reset, "way {way}");
            assert_eq!(sim.state(), State::RUNNING);
            // However often it is asked, and by the step before as well.
            for to in [Wanted::RunningP2p, Wanted::Running] {
                let error = device.set_state(to).unwrap_err();
                assert_eq!(
                    (error.code(), error.failure().unwrap().outcome),
                    (Code::Io, Outcome::Reset)
                );
            }
            assert!(device.run().unwrap_err().message().contains("guest's state in it is lost"));
            device.set_state(Wanted::Stop).unwrap();
            assert_eq!(device.run().unwrap_err().code(), Code::Io);
            assert_eq!(sim.state(), State::STOP);
        }
        match way {
            // Loaded once more, it is as good as any.
            0 => {
                let source = side(options(7, 1));
                drive().run(&source.device, device).result.unwrap();
                device.run().unwrap();
                assert_eq!(sim.digest(), source.sim.digest());
            }
            // In its power-on state, because the VMM says so.
            1 => {
                device.reset().unwrap();
                device.run().unwrap();
            }
            // Being told of another reset does not mean that it was wanted.
            2 => {
                sim.guest_reset();
                device.was_reset().unwrap();
                assert_eq!(device.run().unwrap_err().code(), Code::Io);
                device.accept_reset().unwrap();
                device.run().unwrap();
            }
            _ => {
                device.reset().unwrap();
                device.run().unwrap();
            }
        }
        // From then on its contents are its own: a reset is its guest's business.
        sim.inject(Op::GetState, 1, libc::EIO, Effect::Error);
        device.state().unwrap_err();
        assert_eq!(device.state().unwrap(), Wanted::Error);
        assert_eq!(device.run().unwrap_err().failure().unwrap().outcome, Outcome::Reset);
        device.run().unwrap();
        check_clean(&target);
    }
}

#[test]
fn signals_without_end_do_not_hang_a_call() {
    for op in [Op::GetState, Op::SetState, Op::Read, Op::PrecopyInfo, Op::Write] {
        let (source, target) = (side(options(7, 1)), side(options(7, 2)));
        let bad = if op == Op::Write { &target } else { &source };
        bad.sim.inject(op, 1, libc::EINTR, Effect::Sticky);
        let begun = Instant::now();
        let done = drive().run(&source.device, &target.device);
        // The library can do without the estimates. It cannot do without the state of a stopped
        // device: what looks like the end of its stream may be the end of the device.
        let dispensable = op == Op::PrecopyInfo;
        match &done.result {
            Ok(()) => assert!(dispensable, "{op:?}"),
            Err((_, error)) => {
                assert!(!dispensable, "{op:?}: {error}");
                // Neither the driver's fault nor the caller's.
                assert_eq!(error.code(), Code::TimedOut, "{op:?}: {error}");
                assert_eq!(error.failure().unwrap().errno, libc::EINTR, "{op:?}");
            }
        }
        bad.sim.clear_faults();
        drop(done);
        assert!(begun.elapsed() < Duration::from_secs(50));
        check_clean(&source);
        check_clean(&target);
    }
}

/// Each question costs as long as signals may last, and a save asks many times.
#[test]
fn estimates_that_signals_always_interrupt_are_asked_for_once_a_stream() {
    let source = side(options(7, 1));
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    source.sim.inject(Op::PrecopyInfo, 1, libc::EINTR, Effect::Sticky);
    save.pending().unwrap();
    let asked = source.sim.count(Op::PrecopyInfo);
    assert!(asked > 0);
    let mut buf = [0; 4096];
    for _ in 0..3 {
        save.next(&mut buf).unwrap();
        save.pending().unwrap();
    }
    assert_eq!(source.sim.count(Op::PrecopyInfo), asked);
    // Another stream, another driver's thread.
    source.sim.clear_faults();
    source.sim.guest_reset();
    source.device.was_reset().unwrap();
    while !matches!(save.next(&mut buf).unwrap().status, SaveStatus::Drained) {}
    assert!(save.pending().unwrap().precopy_known);
    assert!(source.sim.count(Op::PrecopyInfo) > asked);
    save.finish(Ending::Keep).unwrap();
    check_clean(&source);
}

#[test]
fn a_dead_device_is_reported_lost_and_revived_by_a_harder_reset() {
    let source = side(options(7, 1));
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    source.sim.inject(Op::Read, 1, libc::EIO, Effect::Die);
    let error = loop {
        if let Err(error) = save.next(&mut [0; 4096]) {
            break error;
        }
    };
    assert_eq!(error.code(), Code::Io);
    let error = save.finish(Ending::Keep).unwrap_err();
    assert_eq!(error.failure().unwrap().outcome, Outcome::Lost);
    assert_eq!(error.failure().unwrap().state_after, None);
    drop(save);
    let refused = source.device.save(SaveOptions::default()).err().unwrap();
    assert!(matches!(refused.code(), Code::Io | Code::NoDev), "{refused}");
    assert!(source.device.was_reset().is_err());
    source.sim.clear_faults();
    source.device.was_reset().unwrap();
    let target = side(options(7, 2));
    migrate(&source, &target, drive());
}

fn any_fault() -> impl Strategy<Value = (Op, u64, i32, Effect)> {
    (
        prop::sample::select(Op::ALL.to_vec()),
        1u64..25,
        prop::sample::select(ERRNOS.to_vec()),
        prop::sample::select(Effect::ALL.to_vec()),
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Several things go wrong at once, on both sides.
    #[test]
    fn whatever_happens_nothing_is_left_half_done(
        flags in prop::sample::select(vec![1u32, 3, 5, 7]),
        source_quirks in 0u64..(1 << 26),
        target_quirks in 0u64..(1 << 26),
        quirky: bool,
        source_faults in prop::collection::vec(any_fault(), 0..4),
        target_faults in prop::collection::vec(any_fault(), 0..4),
        ending in prop::sample::select(vec![
            Ending::Keep, Ending::KeepQuiesced, Ending::KeepStopped, Ending::Release,
        ]),
        dropped: bool,
    ) {
        // A device whose state cannot be read cannot be told to have been reset either.
        let lasting = quirk::STATE_UNREADABLE | quirk::NO_RESET;
        let quirks = |quirks: u64| if quirky { quirks & !lasting } else { 0 };
        let source = side(SimOptions { quirks: quirks(source_quirks), ..options(flags, 1) });
        let target = side(SimOptions { quirks: quirks(target_quirks), ..options(flags, 2) });
        for (side, faults) in [(&source, source_faults), (&target, target_faults)] {
            for (op, nth, errno, effect) in faults {
                side.sim.inject(op, nth, errno, effect);
            }
        }
        let mut done = drive().run(&source.device, &target.device);
        if let (Err(_), Some(save), false) = (&done.result, &mut done.save, dropped) {
            // Only a complete stream may be released.
            if let Err(error) = save.finish(ending) {
                prop_assert!(error.code() != Code::NotRecoverable, "{error}");
            }
        }
        drop(done);
        for side in [&source, &target] {
            check_clean(side);
            side.sim.clear_faults();
            // Whatever is believed of the device: a call that resets it must lead out of it.
            side.sim.guest_reset();
            side.device.was_reset().unwrap();
            side.device.accept_reset().unwrap();
            // Being told of a reset does not lead out of RESUMING, which a server's reset may have
            // kept.
            if side.sim.state() == State::RESUMING {
                side.device.reset().unwrap();
            }
            prop_assert_eq!(side.sim.state(), State::RUNNING);
        }
        if !quirky {
            migrate(&source, &target, drive());
        } else {
            let fresh = (side(options(flags, 3)), side(options(flags, 4)));
            let done = drive().run(&source.device, &fresh.0.device);
            drop(done);
            let done = drive().run(&fresh.1.device, &target.device);
            drop(done);
            for side in [&source, &target, &fresh.0, &fresh.1] {
                check_clean(side);
            }
        }
    }
}

#[test]
fn an_error_says_why_a_change_failed() {
    let stop = vfiomig::device::State::Stop;
    let refused = std::io::Error::from_raw_os_error(libc::EBUSY).to_string();
    for (effect, says) in
        [(Effect::Once, refused.as_str()), (Effect::Ignored, "claims to be done, but is not")]
    {
        let side = side(options(7, 1));
        side.sim.inject(Op::SetState, 1, libc::EBUSY, effect);
        let error = side.device.set_state(stop).unwrap_err();
        assert!(error.message().contains("taking the device from"), "{effect:?}: {error}");
        assert!(error.message().contains(says), "{effect:?}: {error}");
    }
}
