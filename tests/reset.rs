// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest that resets its device in the middle of anything: at every step of a migration, and just
//! before every single operation on the device.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex};

use common::{At, Call, Done, Drive, Side, check_clean, migrate, side};
use vfiomig::Device;
use vfiomig::device::{DeviceOptions, EventSink, Fixups, State as DeviceState};
use vfiomig::error::{Code, Outcome};
use vfiomig::history::What;
use vfiomig::session::{Ending, SaveOptions};
use vfiomig::stream::DecodeLimits;
use vfiomig_sim::{Effect, Op, Sim, SimOptions, State, quirk};

/// How the library learns of a reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    /// Not at all.
    Never,
    /// The VMM saw it.
    WasReset,
    /// The VMM happens to ask for the state.
    Asked,
    /// The library makes the reset itself.
    Itself,
}

const TOLD: [Told; 4] = [Told::Never, Told::WasReset, Told::Asked, Told::Itself];

fn options(migration_flags: u32) -> SimOptions {
    SimOptions { migration_flags, state_size: 3000, ..SimOptions::default() }
}

fn drive<'a>() -> Drive<'a> {
    // Small reads make many steps; blobs must come again after a restart.
    Drive {
        buffers: vec![4096],
        save: SaveOptions { max_frame: 700, ..SaveOptions::default() },
        rounds: 2,
        quiesce: true,
        ..Drive::default()
    }
}

fn reset_now(side: &Side, told: Told) {
    if told == Told::Itself {
        side.device.reset().unwrap();
        return;
    }
    side.sim.guest_reset();
    match told {
        Told::WasReset => side.device.was_reset().unwrap(),
        Told::Asked => assert_eq!(side.device.state().unwrap().raw(), State::RUNNING.0),
        _ => {}
    }
}

/// What a failed migration must leave behind.
#[track_caller]
fn check_kept(source: &Side, target: &Side, mut done: Done, context: &str) {
    if let Some(save) = &mut done.save {
        let lost = save.finish(Ending::Keep).is_err();
        assert_eq!(source.sim.state(), State::RUNNING, "{context}");
        // A stopped guest's state in its device is gone: it is not run until the VMM says so.
        if lost {
            check_lost(source, context);
        }
    }
    done.load = None;
    done.save = None;
    assert_eq!(source.sim.state(), State::RUNNING, "{context}");
    assert_eq!(target.sim.state(), State::RUNNING, "{context}");
    check_clean(source);
    check_clean(target);
    // And everything is good for another attempt.
    migrate(source, target, drive());
}

/// The device is neither run nor saved, and remembers why, until the VMM wants it empty.
#[track_caller]
fn check_lost(side: &Side, context: &str) {
    for _ in 0..2 {
        for result in [side.device.run(), side.device.save(SaveOptions::default()).map(drop)] {
            let error = result.unwrap_err();
            let outcome = error.failure().map(|failure| failure.outcome);
            assert_eq!((error.code(), outcome), (Code::Io, Some(Outcome::Reset)), "{context}");
        }
        side.device.was_reset().unwrap();
    }
    side.device.accept_reset().unwrap();
    side.device.run().unwrap();
}

#[test]
fn a_source_that_is_reset_before_any_call_starts_again_or_fails_cleanly() {
    for migration_flags in [1, 3, 5, 7] {
        for told in TOLD {
            let mut completed = 0;
            let (mut failed, mut calls) = (vec![], vec![]);
            for position in 0.. {
                let source = side(SimOptions { seed: 1, ..options(migration_flags) });
                let target = side(SimOptions { seed: 2, ..options(migration_flags) });
                source.sim.guest_write(0, 2000, 5).unwrap();
                let struck = Cell::new(None);
                let digest = Cell::new(source.sim.digest());
                let before = Box::new(|number, call| {
                    if number == position {
                        struck.set(Some(call));
                        // What has been sent completely no longer changes.
                        let sent = matches!(call, Call::Commit | Call::Finish);
                        reset_now(&source, told);
                        if !sent {
                            digest.set(source.sim.digest());
                        }
                    }
                });
                let done = Drive { before, ..drive() }.run(&source.device, &target.device);
                let Some(call) = struck.get() else { break };
                calls.push(call);
                let context = format!("flags {migration_flags}, {told:?} before {call:?}");
                match &done.result {
                    Ok(()) => {
                        completed += 1;
                        assert_eq!(digest.get(), target.sim.digest(), "{context}");
                        assert_eq!(source.sim.state(), State::STOP, "{context}");
                        assert_eq!(target.sim.state(), State::STOP, "{context}");
                        let told_restarted = done.statuses.iter().filter(|s| s.restarted).count();
                        let (save, load) = (done.save.unwrap(), done.load.unwrap());
                        let restarts = save.stats().restarts;
                        assert!(restarts <= 1, "{context}");
                        // The target must be told, unless nothing had been sent.
                        assert!(told_restarted as u64 <= restarts, "{context}");
                        assert_eq!(load.stats().restarts, told_restarted as u64, "{context}");
                        drop((save, load));
                        check_clean(&source);
                        check_clean(&target);
                    }
                    Err((at, error)) => {
                        failed.push(call);
                        assert_eq!(*at, At::Source, "{context}");
                        // Noticed by the read that fails, or remembered if someone else noticed.
                        let by_a_read = told == Told::Never && call == Call::NextStopped;
                        let code = if by_a_read { Code::NoDev } else { Code::Io };
                        assert_eq!(error.code(), code, "{context}: {error}");
                        let failure = error.failure().unwrap();
                        assert_eq!(failure.outcome, Outcome::Reset, "{context}");
                        if call == Call::NextStopped {
                            let before = failure.state_before;
                            assert_eq!(before, Some(DeviceState::StopCopy), "{context}");
                        }
                        check_kept(&source, &target, done, &context);
                    }
                }
            }
            assert!(completed > 5, "flags {migration_flags}, {told:?}: {completed}");
            // A device that lost its state after the guest's CPUs were stopped (they are when it is
            // quiesced) cannot be saved: what it holds now is not the guest's. Except if the VMM
            // wanted it reset, or if nothing gives it away: from RUNNING to RUNNING.
            let invisible = migration_flags == 1 && told != Told::WasReset;
            let lost = |call: &Call| match call {
                Call::NextStopped => told != Told::Itself,
                Call::Stop => told != Told::Itself && !invisible,
                _ => false,
            };
            let expected: Vec<Call> = calls.iter().copied().filter(lost).collect();
            assert!(calls.iter().filter(|call| **call == Call::NextStopped).count() > 1);
            assert_eq!(failed, expected, "flags {migration_flags}, {told:?}");
        }
    }
}

#[test]
fn a_source_that_is_reset_before_any_operation_starts_again_or_fails_cleanly() {
    for migration_flags in [1, 3, 5, 7] {
        for quirks in [0, quirk::DRAINED_ZERO | quirk::FALSE_END, quirk::INFO_MAKES_DATA] {
            let mut ends = [0, 0];
            for nth in 1.. {
                let source = side(SimOptions { seed: 1, quirks, ..options(migration_flags) });
                let target = side(SimOptions { seed: 2, ..options(migration_flags) });
                source.sim.guest_write(0, 2000, 5).unwrap();
                let (before, fresh) = (source.sim.digest(), {
                    let fresh = Sim::new(SimOptions { seed: 1, ..options(migration_flags) });
                    fresh.unwrap().digest()
                });
                let operations = source.sim.count(Op::Any);
                source.sim.inject(Op::Any, nth, libc::EIO, Effect::Reset);
                let done = drive().run(&source.device, &target.device);
                let struck = source.sim.count(Op::Any) - operations >= nth;
                let context = format!("flags {migration_flags}, operation {nth}");
                match &done.result {
                    Ok(()) => {
                        ends[0] += 1;
                        let digest = target.sim.digest();
                        // Either all of the state before the reset was sent, or all of that after.
                        assert!(digest == before || digest == fresh, "{context}");
                        assert_eq!(target.sim.state(), State::STOP, "{context}");
                        assert_eq!(source.sim.state(), State::STOP, "{context}");
                        drop(done);
                        check_clean(&source);
                        check_clean(&target);
                    }
                    Err((at, error)) => {
                        ends[1] += 1;
                        assert_eq!(*at, At::Source, "{context}");
                        let code = error.code();
                        assert!(matches!(code, Code::NoDev | Code::Io), "{context}: {error}");
                        source.sim.clear_faults();
                        check_kept(&source, &target, done, &context);
                    }
                }
                if !struck {
                    break;
                }
            }
            assert!(ends[0] > 3, "flags {migration_flags}: {ends:?}");
        }
    }
}

#[test]
fn a_target_that_is_reset_fails_its_load_and_is_not_taken_for_a_migrated_one() {
    for migration_flags in [1, 7] {
        for told in TOLD {
            for position in 0.. {
                let source = side(SimOptions { seed: 1, ..options(migration_flags) });
                let target = side(SimOptions { seed: 2, ..options(migration_flags) });
                let struck = Cell::new(None);
                let before = Box::new(|number, call| {
                    if number == position {
                        struck.set(Some(call));
                        reset_now(&target, told);
                    }
                });
                let done = Drive { before, ..drive() }.run(&source.device, &target.device);
                let Some(call) = struck.get() else { break };
                let context = format!("flags {migration_flags}, {told:?} before {call:?}");
                match (&done.result, call) {
                    // Before the load begins nothing is lost, and after the commit it no longer
                    // concerns the load.
                    (Ok(()), Call::Begin | Call::Finish) => {}
                    (Err((At::Target, error)), _) => {
                        assert_eq!(error.code(), Code::NoDev, "{context}: {error}");
                        let failure = done.load.as_ref().unwrap().failure().unwrap();
                        assert_eq!(failure.state_after.unwrap().raw(), State::RUNNING.0);
                        check_kept(&source, &target, done, &context);
                    }
                    (result, _) => panic!("{context}: {result:?}"),
                }
            }
        }
    }
}

#[test]
fn a_target_that_is_reset_before_any_operation_is_never_taken_for_a_migrated_one() {
    for migration_flags in [1, 7] {
        for nth in 1.. {
            let source = side(SimOptions { seed: 1, ..options(migration_flags) });
            let target = side(SimOptions { seed: 2, ..options(migration_flags) });
            let operations = target.sim.count(Op::Any);
            target.sim.inject(Op::Any, nth, libc::EIO, Effect::Reset);
            let done = drive().run(&source.device, &target.device);
            let struck = target.sim.count(Op::Any) - operations >= nth;
            let last = target.sim.count(Op::Any) - operations;
            let context = format!("flags {migration_flags}, operation {nth} of {last}");
            match &done.result {
                Ok(()) if !struck || target.sim.digest() == source.sim.digest() => {
                    assert_eq!(target.sim.state(), State::STOP);
                }
                // The one moment that nobody can see: between the last check and the change.
                Ok(()) => assert_eq!(nth, last - 1, "{context}"),
                Err((at, error)) => {
                    assert_eq!(*at, At::Target, "{context}");
                    // In the middle of a change, the change has failed; otherwise the load is dead.
                    let code = error.code();
                    assert!(matches!(code, Code::NoDev | Code::Io), "{context}: {error}");
                    target.sim.clear_faults();
                    check_kept(&source, &target, done, &context);
                }
            }
            if !struck {
                break;
            }
        }
    }
}

#[test]
fn resets_again_and_again_end_the_save_when_the_limit_is_reached() {
    let source = side(SimOptions { seed: 1, ..options(7) });
    let target = side(SimOptions { seed: 2, ..options(7) });
    let sim = source.sim.clone();
    let before = Box::new(move |_, call| {
        if call == Call::Next {
            sim.guest_reset();
        }
    });
    let save = SaveOptions { max_restarts: 5, ..SaveOptions::default() };
    let done = Drive { before, save, ..drive() }.run(&source.device, &target.device);
    let Err((At::Source, error)) = &done.result else { panic!("{:?}", done.result) };
    assert_eq!(error.code(), Code::NoDev);
    assert_eq!(done.save.as_ref().unwrap().stats().restarts, 5);
    check_kept(&source, &target, done, "restarts");
}

#[test]
fn blobs_are_void_after_a_restart_and_the_acknowledgement_counts_anew() {
    for told in TOLD {
        let source = side(SimOptions { seed: 1, ..options(7) });
        let target = side(SimOptions { seed: 2, ..options(7) });
        let blobs = Arc::new(Mutex::new(vec![]));
        let sink = Arc::clone(&blobs);
        let mut round = 0;
        let generations = RefCell::new(vec![]);
        let drained = Box::new(|save: &mut vfiomig::Save| {
            round += 1;
            save.blob(round, &[round as u8; 10]).unwrap();
            generations.borrow_mut().push(save.pending().unwrap().initial_generation);
            if round == 2 {
                reset_now(&source, told);
            }
        });
        let mut drive = Drive { drained, rounds: 4, ..drive() };
        drive.load.blobs = Some(Box::new(move |kind, bytes| {
            sink.lock().unwrap().push((kind, bytes.to_vec()));
            Ok(())
        }));
        let done = migrate(&source, &target, drive);
        let flat: Vec<(bool, bool)> =
            done.statuses.iter().map(|s| (s.restarted, s.initial_loaded)).collect();
        assert_eq!(flat, [(false, true), (true, false), (false, true), (false, false)]);
        assert_eq!(*generations.borrow(), [1, 1, 2, 2]);
        let blobs = blobs.lock().unwrap();
        let kinds: Vec<u32> = blobs.iter().map(|(kind, _)| *kind).collect();
        // The second one is waiting when the device is reset. If that is known, it is not sent;
        // otherwise it goes before the restart that makes it void.
        let expected: &[u32] = if told == Told::Never { &[1, 2, 3, 4] } else { &[1, 3, 4] };
        assert_eq!(kinds, expected, "{told:?}");
        assert!(blobs.iter().all(|(kind, bytes)| *bytes == [*kind as u8; 10]));
    }
}

#[test]
fn a_save_that_starts_again_takes_as_many_blobs_as_before() {
    let source = side(options(7));
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    let most = DecodeLimits::default().max_blobs;
    let mut buf = vec![0; 4096];
    for restarts in 0..3 {
        for kind in 0..most {
            save.blob(kind, b"x").unwrap();
        }
        assert_eq!(save.blob(0, b"x").unwrap_err().code(), Code::MsgSize);
        // Some of them are sent and some are not.
        for _ in 0..2 {
            save.next(&mut buf).unwrap();
        }
        source.sim.guest_reset();
        source.device.was_reset().unwrap();
        save.next(&mut buf).unwrap();
        assert_eq!(save.stats().restarts, restarts + 1);
    }
    save.blob(0, b"x").unwrap();
    drop(save);
    check_clean(&source);
}

#[test]
fn whoever_listens_hears_of_a_reset_once_and_what_must_be_redone() {
    for told in TOLD {
        let sim = Sim::new(options(7)).unwrap();
        let events = Arc::new(Mutex::new(vec![]));
        let sink = Arc::clone(&events);
        let device = Device::new(
            sim.transport(),
            DeviceOptions {
                events: Some(EventSink::new(move |event| sink.lock().unwrap().push(*event))),
                ..DeviceOptions::default()
            },
        )
        .unwrap();
        let source = Side { sim, device };
        let mut save = source.device.save(SaveOptions::default()).unwrap();
        save.next(&mut [0; 4096]).unwrap();
        assert_eq!(source.device.fixups(), Fixups::empty());
        reset_now(&source, told);
        while save.stats().restarts == 0 {
            save.next(&mut [0; 4096]).unwrap();
        }
        assert_eq!(source.device.fixups(), Fixups::AFTER_RESET_OR_LOAD, "{told:?}");
        drop(save);
        let events = events.lock().unwrap();
        let count = |kind| events.iter().filter(|event| event.kind == kind).count();
        assert_eq!(count(What::Reset), 1, "{told:?}: {events:#?}");
        assert_eq!(count(What::SaveRestarted), 1, "{told:?}");
        let at = |kind| events.iter().position(|event| event.kind == kind).unwrap();
        assert!(at(What::Reset) < at(What::SaveRestarted));
    }
}
