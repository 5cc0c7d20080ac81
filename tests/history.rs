// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device's history says after migrations that go well, and after those that do not.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::sync::mpsc;
use std::time::Duration;

use common::{Call, Drive, Side, migrate, side, small};
use vfiomig::Device;
use vfiomig::device::{DeviceOptions, EventSink, State};
use vfiomig::error::{Code, Operation, Outcome};
use vfiomig::group::{Group, GroupOptions, Role};
use vfiomig::history::{Cause, Note, What};
use vfiomig::session::{Ending, LoadOptions, Save, SaveOptions, SaveStatus};
use vfiomig_sim::{Effect, Op, Sim, quirk};

fn pair() -> [Side; 2] {
    [side(small(1)), side(small(2))]
}

fn notes(device: &Device) -> Vec<Note> {
    let history = device.history().unwrap();
    let entries = &history.entries;
    assert!(entries.windows(2).all(|two| two[0].record.at_ns <= two[1].record.at_ns));
    assert!(entries.windows(2).all(|two| two[0].record.number + 1 == two[1].record.number));
    entries.iter().map(|entry| entry.record.note).collect()
}

fn whats(device: &Device) -> Vec<What> {
    notes(device).iter().map(|note| note.what).collect()
}

fn last(device: &Device, what: What) -> Note {
    let found = notes(device).into_iter().rfind(|note| note.what == what);
    found.unwrap_or_else(|| panic!("no {what:?}:\n{}", device.history().unwrap().text()))
}

/// These events come in this order, whatever comes between them.
fn in_order(device: &Device, wanted: &[What]) {
    let mut seen = whats(device).into_iter();
    for what in wanted {
        let found = seen.any(|it| it == *what);
        assert!(found, "no {what:?} in its place:\n{}", device.history().unwrap().text());
    }
}

#[test]
fn a_migration_is_told_from_the_beginning_to_the_end() {
    let [source, target] = pair();
    migrate(&source, &target, Drive { quiesce: true, ..Drive::default() });
    target.device.run().unwrap();
    in_order(
        &source.device,
        &[
            What::Opened,
            What::SaveBegan,
            What::StateAsked,
            What::StateChanged,
            What::FirstData,
            What::InitialSent,
            What::Round,
            What::StateAsked,
            What::StateChanged,
            What::FirstData,
            What::LastData,
            What::StateAsked,
            What::StateChanged,
            What::SaveEnded,
        ],
    );
    in_order(
        &target.device,
        &[
            What::Opened,
            What::LoadBegan,
            What::StateAsked,
            What::StateChanged,
            What::FirstData,
            What::InitialLoaded,
            What::LoadComplete,
            What::StateAsked,
            What::StateChanged,
            What::Committed,
            What::FixupsNeeded,
            What::StateAsked,
            What::StateChanged,
        ],
    );
    for side in [&source, &target] {
        let seen = whats(&side.device);
        assert!(!seen.contains(&What::Error) && !seen.contains(&What::DriverFailed), "{seen:?}");
    }
    let sent = last(&source.device, What::LastData).bytes.unwrap();
    assert!(sent >= 3000);
    assert_eq!(last(&target.device, What::Committed).bytes, Some(sent));
    assert_eq!(last(&source.device, What::SaveEnded).text.as_str(), "release");
    let changed = last(&target.device, What::StateChanged);
    assert_eq!((changed.from, changed.to), (Some(State::Stop), Some(State::Running)));
    assert!(changed.duration_ns.is_some());
}

#[test]
fn a_change_that_fails_is_told_with_its_errno_and_what_came_of_it() {
    let [source, target] = pair();
    let mut drive = Drive::default();
    let sim = source.sim.clone();
    drive.before = Box::new(move |_, call| {
        if call == Call::Stop {
            sim.inject(Op::SetState, 1, libc::ENOTCONN, Effect::Error);
        }
    });
    let mut done = drive.run(&source.device, &target.device);
    assert!(done.result.is_err());
    in_order(
        &source.device,
        &[What::StateAsked, What::DriverFailed, What::Reset, What::Recovered, What::Error],
    );
    let failed = last(&source.device, What::DriverFailed);
    assert_eq!((failed.operation, failed.errno), (Operation::SetState, libc::ENOTCONN));
    assert_eq!((failed.from, failed.to), (Some(State::PreCopy), Some(State::PreCopyP2p)));
    let reset = last(&source.device, What::Reset);
    assert_eq!((reset.cause, reset.outcome), (Some(Cause::Recovery), Some(Outcome::Reset)));
    let error = last(&source.device, What::Error);
    assert_eq!((error.code, error.errno), (Some(Code::Io), libc::ENOTCONN));
    assert!(error.text.as_str().contains("PRE_COPY_P2P"), "{error:?}");
    let _ = done.save.take().unwrap().finish(Ending::Keep);
    // The target was given up.
    drop(done.load.take());
    in_order(&target.device, &[What::LoadBegan, What::Reset, What::LoadAbandoned]);
    assert_eq!(last(&target.device, What::Reset).cause, Some(Cause::LoadAbandoned));
}

#[test]
fn a_read_and_a_write_that_fail_are_told_before_what_they_lead_to() {
    for (op, operation) in [(Op::Read, Operation::DataRead), (Op::Write, Operation::DataWrite)] {
        let [source, target] = pair();
        let bad = if op == Op::Read { &source } else { &target };
        bad.sim.inject(op, 2, libc::EIO, Effect::Once);
        let mut drive = Drive::default();
        drive.save.max_frame = 1000;
        let done = drive.run(&source.device, &target.device);
        let failure = *done.result.as_ref().unwrap_err().1.failure().unwrap();
        let told = last(&bad.device, What::Error);
        assert!(failure.offset > 0);
        assert_eq!((told.operation, told.bytes), (operation, Some(failure.offset)));
        // A load is reset afterwards, and that is told by itself.
        let outcome = if op == Op::Read { Some(failure.outcome) } else { None };
        assert_eq!(told.outcome, outcome);
        let failed = last(&bad.device, What::DriverFailed);
        assert_eq!((failed.operation, failed.errno), (operation, libc::EIO));
        drop(done);
        let tail: &[What] = match op {
            Op::Read => &[What::DriverFailed, What::Error, What::StateAsked, What::SaveEnded],
            _ => &[What::FirstData, What::DriverFailed, What::Error, What::Reset, What::LoadFailed],
        };
        in_order(&bad.device, tail);
    }
}

#[test]
fn a_driver_is_not_blamed_for_a_cancellation() {
    let [source, target] = pair();
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    let mut load = target.device.load(LoadOptions::default()).unwrap();
    let mut buf = vec![0; 64 << 10];
    let len = save.next(&mut buf).unwrap().len;
    // It takes no more: the write waits until it is cancelled.
    target.sim.inject(Op::Write, 1, libc::EAGAIN, Effect::Sticky);
    let shared = load.shared();
    let sim = target.sim.clone();
    let error = std::thread::scope(|scope| {
        scope.spawn(move || {
            while sim.count(Op::Write) == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            shared.cancel();
        });
        load.push(&buf[..len]).unwrap_err()
    });
    assert_eq!(error.code(), Code::Cancelled);
    assert_eq!(error.failure().unwrap().operation, Operation::DataWrite);
    assert!(!whats(&target.device).contains(&What::DriverFailed));
    in_order(&target.device, &[What::Cancelled, What::Error, What::Reset, What::LoadFailed]);
}

#[test]
fn a_damaged_stream_is_told_on_the_side_that_refuses_it() {
    let [source, target] = pair();
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    let mut load = target.device.load(LoadOptions::default()).unwrap();
    let mut buf = vec![0; 64 << 10];
    let len = save.next(&mut buf).unwrap().len;
    buf[len - 1] ^= 1;
    let error = load.push(&buf[..len]).unwrap_err();
    let told = last(&target.device, What::Error);
    assert_eq!((told.code, told.operation), (Some(error.code()), Operation::Stream));
    // What becomes of the device is told by the reset.
    let failure = error.failure().unwrap();
    assert_eq!((failure.outcome, failure.offset), (Outcome::Reset, told.bytes.unwrap()));
    assert_eq!((told.outcome, told.from), (None, failure.state_before));
    assert_eq!(last(&target.device, What::Reset).outcome, Some(failure.outcome));
    in_order(&target.device, &[What::LoadBegan, What::Error, What::Reset, What::LoadFailed]);
    assert_eq!(last(&target.device, What::Reset).cause, Some(Cause::LoadFailed));
    // What comes later is the caller's mistake, and not the device's history.
    let before = whats(&target.device).len();
    load.push(&buf[..len]).unwrap_err();
    assert_eq!(whats(&target.device).len(), before);
}

#[test]
fn a_cancellation_and_resets_are_told() {
    let [source, target] = pair();
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    save.shared().cancel();
    assert_eq!(save.next(&mut vec![0; 8192]).unwrap_err().code(), Code::Cancelled);
    save.finish(Ending::Keep).unwrap();
    in_order(&source.device, &[What::SaveBegan, What::Cancelled, What::Error, What::SaveEnded]);
    assert_eq!(last(&source.device, What::SaveEnded).text.as_str(), "keep");
    // Nothing is open now.
    save.shared().cancel();
    assert_eq!(whats(&source.device).last(), Some(&What::SaveEnded));
    // Another is, and is another.
    let again = source.device.save(SaveOptions::default()).unwrap();
    let seen = whats(&source.device);
    save.shared().cancel();
    assert_eq!(whats(&source.device), seen);
    for _ in 0..100 {
        again.shared().cancel();
    }
    assert_eq!(whats(&source.device).len(), seen.len() + 1);
    assert_eq!(whats(&source.device).last(), Some(&What::Cancelled));
    drop(again);

    target.device.reset().unwrap();
    assert_eq!(last(&target.device, What::Reset).cause, Some(Cause::Asked));
    target.sim.guest_reset();
    target.device.was_reset().unwrap();
    assert_eq!(last(&target.device, What::Reset).cause, Some(Cause::Told));
    target.device.set_state(State::Stop).unwrap();
    target.sim.guest_reset();
    target.device.run().unwrap_err();
    assert_eq!(last(&target.device, What::Reset).cause, Some(Cause::Found));
}

#[test]
fn a_save_that_starts_again_says_so() {
    let [source, _] = pair();
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    let mut buf = vec![0; 8192];
    drain(&mut save, &mut buf);
    source.sim.guest_reset();
    source.device.was_reset().unwrap();
    drain(&mut save, &mut buf);
    in_order(
        &source.device,
        &[
            What::FirstData,
            What::InitialSent,
            What::Round,
            What::Reset,
            What::SaveRestarted,
            What::FirstData,
            What::InitialSent,
            What::Round,
        ],
    );
    // The driver has not: the whole save has.
    assert!(!whats(&source.device).contains(&What::InitialRestarted));
    assert_eq!(last(&source.device, What::InitialSent).count, Some(2));
    assert_eq!(last(&source.device, What::Round).count, Some(1));
}

fn drain(save: &mut Save, buf: &mut [u8]) {
    while save.next(buf).unwrap().status != SaveStatus::Drained {}
}

#[test]
fn initial_data_that_starts_again_is_told() {
    let mut options = small(1);
    options.quirks |= quirk::PRECOPY_INFO_V2;
    let source = side(options);
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    let mut buf = vec![0; 8192];
    drain(&mut save, &mut buf);
    source.sim.reinit();
    drain(&mut save, &mut buf);
    assert_eq!(last(&source.device, What::InitialRestarted).count, Some(2));
}

#[test]
fn a_session_that_is_not_allowed_is_told_and_its_later_calls_are_not() {
    let [source, _] = pair();
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    assert_eq!(source.device.load(LoadOptions::default()).err().unwrap().code(), Code::Busy);
    assert_eq!(last(&source.device, What::Error).code, Some(Code::Busy));
    let seen = whats(&source.device);
    assert_eq!(save.finish(Ending::Release).unwrap_err().code(), Code::Inval);
    assert_eq!(whats(&source.device), seen);
}

#[test]
fn a_session_that_does_not_begin_is_told() {
    let [source, _] = pair();
    source.sim.inject(Op::SetState, 1, libc::EBUSY, Effect::Once);
    let error = source.device.save(SaveOptions::default()).err().unwrap();
    let told = last(&source.device, What::Error);
    assert_eq!((told.code, told.errno), (Some(error.code()), libc::EBUSY));
    let errors = whats(&source.device).into_iter().filter(|what| *what == What::Error);
    assert_eq!(errors.count(), 1);
}

#[test]
fn a_history_is_read_while_the_device_is_in_use() {
    let sim = Sim::new(small(1)).unwrap();
    let (reached, told) = (mpsc::channel(), mpsc::channel());
    // In the middle of a call, and so with the device's lock.
    let events = EventSink::new(move |_| {
        reached.0.send(()).unwrap();
        told.1.recv_timeout(Duration::from_secs(60)).unwrap();
    });
    let options = DeviceOptions { events: Some(events), ..DeviceOptions::default() };
    let device = Device::new(sim.transport(), options).unwrap();
    let reader = std::thread::spawn({
        let device = device.clone();
        move || {
            reached.1.recv().unwrap();
            let seen = whats(&device);
            told.0.send(()).unwrap();
            seen
        }
    });
    device.set_state(State::Stop).unwrap();
    assert_eq!(reader.join().unwrap().last(), Some(&What::StateChanged));
}

#[test]
fn a_group_has_the_histories_of_all_devices_in_the_order_of_time() {
    let sides = [side(small(1)), side(small(2)), side(small(3))];
    let group = Group::new(GroupOptions::new(Role::Source)).unwrap();
    for side in &sides {
        group.add_save(&side.device, SaveOptions::default()).unwrap();
    }
    group.begin().unwrap();
    sides[2].sim.inject(Op::SetState, 2, libc::EIO, Effect::Once);
    group.stop().unwrap_err();
    let history = group.history().unwrap();
    assert_eq!(history.about.len(), 4);
    let times: Vec<u64> = history.entries.iter().map(|entry| entry.record.at_ns).collect();
    assert!(times.is_sorted());
    let find = |device, what| {
        let mut entries = history.entries.iter();
        entries.rposition(|it| it.device == device && it.record.note.what == what)
    };
    let failed = find(Some(2), What::DriverFailed).unwrap();
    assert!(find(Some(0), What::StateChanged).unwrap() < failed, "{}", history.text());
    assert!(find(None, What::Phase).unwrap() > failed, "{}", history.text());
    let phases = history.entries.iter().filter(|it| it.device.is_none());
    let phases: Vec<_> = phases.map(|it| it.record.note.text.as_str().to_owned()).collect();
    assert_eq!(phases, ["open", "failed"]);
}

#[test]
fn one_who_polls_a_dead_device_does_not_drive_out_what_killed_it() {
    let [source, _] = pair();
    source.sim.inject(Op::SetState, 1, libc::EIO, Effect::Die);
    source.device.set_state(State::Stop).unwrap_err();
    let killed = whats(&source.device);
    for _ in 0..100 {
        source.device.state().unwrap_err();
    }
    let seen = whats(&source.device);
    assert!(seen.starts_with(&killed), "{}", source.device.history().unwrap().text());
    assert!(seen.len() < killed.len() + 8, "{}", source.device.history().unwrap().text());
    let history = source.device.history().unwrap();
    assert!(history.entries.last().unwrap().record.times >= 99, "{}", history.text());
}

#[test]
fn a_group_that_is_freed_late_cancels_nothing_of_others() {
    let one = side(small(1));
    let group = Group::new(GroupOptions::new(Role::Source)).unwrap();
    group.add_save(&one.device, SaveOptions::default()).unwrap();
    group.begin().unwrap();
    group.finish(Ending::Keep).unwrap();
    let mut save = one.device.save(SaveOptions::default()).unwrap();
    drop(group);
    assert!(!whats(&one.device).contains(&What::Cancelled), "{:?}", whats(&one.device));
    save.next(&mut vec![0; 8192]).unwrap();
}
