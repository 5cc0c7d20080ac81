// SPDX-License-Identifier: MIT OR Apache-2.0
//! Groups of devices: the order of their steps, and what becomes of all when one fails.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Side, check_clean};
use proptest::prelude::*;
use vfiomig::device::{DeviceOptions, Event, EventSink, ReasonCode, Severity, State};
use vfiomig::error::{Code, Errno, Error, Outcome};
use vfiomig::group::{
    GroupOptions, HEADER_LEN, MAX_WINDOW, MIN_WINDOW, Phase, Role, Until, frame_len,
};
use vfiomig::history::What;
use vfiomig::session::{Ending, LoadOptions, SaveOptions, SaveStatus};
use vfiomig::stream::Format;
use vfiomig::{Device, Group, Result};
use vfiomig_sim::{Effect, Op, Sim, SimOptions, quirk};

const BUFFER: usize = 8192;
const ID: [u8; 16] = *b"one of many runs";

fn options(migration_flags: u32, seed: u64) -> SimOptions {
    SimOptions { migration_flags, seed, state_size: 20_000, ..SimOptions::default() }
}

/// Whether the device may write to other devices.
fn runs(sim: &Sim) -> bool {
    matches!(State::from_raw(sim.state().0), State::Running | State::PreCopy)
}

/// Whether writing to the device is forbidden.
fn stands(sim: &Sim) -> bool {
    matches!(State::from_raw(sim.state().0), State::Stop | State::StopCopy | State::Resuming)
}

/// One side's devices, and whether one of them ever ran while another one stood still.
struct Vm {
    sides: Vec<Side>,
    early: Arc<Mutex<Vec<usize>>>,
    /// Only then that is an error: a target's devices run before their loads begin.
    watched: Arc<AtomicBool>,
}

impl Vm {
    fn new(sims: Vec<SimOptions>) -> Vm {
        let early = Arc::new(Mutex::new(vec![]));
        let watched = Arc::new(AtomicBool::new(false));
        let sims: Vec<Sim> = sims.into_iter().map(|options| Sim::new(options).unwrap()).collect();
        let side = |number: usize| {
            let transport = sims[number].transport().with_patience(Duration::from_millis(3));
            let (all, early, watched) = (sims.clone(), Arc::clone(&early), Arc::clone(&watched));
            let sink = EventSink::new(move |event: &Event| {
                let mut others = all.iter().enumerate().filter(|(other, _)| *other != number);
                let went = event.kind == What::StateChanged && runs(&all[number]);
                let watched = watched.load(Ordering::Relaxed);
                if watched && went && others.any(|(_, sim)| stands(sim)) {
                    early.lock().unwrap().push(number);
                }
            });
            let options = DeviceOptions { events: Some(sink), ..DeviceOptions::default() };
            Side { device: Device::new(transport, options).unwrap(), sim: sims[number].clone() }
        };
        Vm { sides: (0..sims.len()).map(side).collect(), early, watched }
    }

    fn of(count: usize, flags: u32, seed: u64) -> Vm {
        Vm::new((0..count).map(|i| options(flags, seed + i as u64)).collect())
    }

    fn source(&self) -> Group {
        self.source_with(GroupOptions { migration_id: ID, ..GroupOptions::new(Role::Source) })
    }

    fn source_with(&self, options: GroupOptions) -> Group {
        let group = Group::new(options).unwrap();
        for side in &self.sides {
            let options =
                SaveOptions { read_timeout: Duration::from_millis(5), ..SaveOptions::default() };
            group.add_save(&side.device, options).unwrap();
        }
        group
    }

    fn target(&self) -> Group {
        self.target_with(GroupOptions { migration_id: ID, ..GroupOptions::new(Role::Target) })
    }

    fn target_with(&self, options: GroupOptions) -> Group {
        let group = Group::new(options).unwrap();
        for side in &self.sides {
            let options = LoadOptions {
                write_timeout: Duration::from_millis(5),
                blobs: Some(Box::new(|_, _| Ok(()))),
                ..LoadOptions::default()
            };
            group.add_load(&side.device, options).unwrap();
        }
        group
    }

    fn states(&self) -> Vec<State> {
        self.sides.iter().map(|side| State::from_raw(side.sim.state().0)).collect()
    }

    #[track_caller]
    fn all_in(&self, state: State) {
        assert_eq!(self.states(), vec![state; self.sides.len()]);
    }

    fn digests(&self) -> Vec<u64> {
        self.sides.iter().map(|side| side.sim.digest()).collect()
    }

    #[track_caller]
    fn check(&self) {
        assert_eq!(*self.early.lock().unwrap(), [0; 0], "ran beside one that stood still");
        self.sides.iter().for_each(check_clean);
    }
}

/// Frames until the source says that.
fn frames(group: &Group, until: SaveStatus) -> Result<Vec<Vec<u8>>> {
    let mut buf = vec![0; BUFFER];
    let mut frames = vec![];
    loop {
        let next = group.next(&mut buf)?;
        if next.len > 0 {
            let header = buf.first_chunk().unwrap();
            assert_eq!(frame_len(header).unwrap(), next.len);
            frames.push(buf[..next.len].to_vec());
        }
        if next.status == until || next.status == SaveStatus::End {
            return Ok(frames);
        }
    }
}

fn put_all(group: &Group, frames: &[Vec<u8>]) -> Result<()> {
    frames.iter().try_for_each(|frame| group.put(frame))
}

fn device_of(frame: &[u8]) -> u32 {
    u32::from_le_bytes(frame[8..12].try_into().unwrap())
}

#[track_caller]
fn code<T: std::fmt::Debug>(result: Result<T>) -> Code {
    result.unwrap_err().code()
}

/// A source whose streams are complete, and their frames.
fn complete(vm: &Vm) -> (Group, Vec<Vec<u8>>) {
    let group = vm.source();
    group.begin().unwrap();
    let mut all = frames(&group, SaveStatus::Drained).unwrap();
    group.stop().unwrap();
    all.extend(frames(&group, SaveStatus::End).unwrap());
    (group, all)
}

#[test]
fn all_devices_move_together() {
    for (count, flags) in [(1, 1), (1, 7), (2, 3), (3, 7), (8, 7)] {
        let (from, to) = (Vm::of(count, flags, 1), Vm::of(count, flags, 1000));
        from.watched.store(true, Ordering::Relaxed);
        let (source, all) = complete(&from);
        assert_eq!(source.status().unwrap().phase, Phase::Complete);
        from.all_in(State::StopCopy);
        let target = to.target();
        target.begin().unwrap();
        to.all_in(State::Resuming);
        put_all(&target, &all).unwrap();
        assert_eq!(target.status().unwrap().complete as usize, count);
        target.commit().unwrap();
        to.all_in(State::Stop);
        source.finish(Ending::Release).unwrap();
        from.all_in(State::Stop);
        to.watched.store(true, Ordering::Relaxed);
        target.run().unwrap();
        to.all_in(State::Running);
        assert_eq!(from.digests(), to.digests());
        assert_eq!(target.status().unwrap().phase, Phase::Running);
        drop((source, target));
        from.all_in(State::Stop);
        to.all_in(State::Running);
        from.check();
        to.check();
    }
}

#[test]
fn a_kept_source_runs_again_after_all_have_left_the_stopped_states() {
    for flags in [3, 7] {
        let from = Vm::of(3, flags, 1);
        from.watched.store(true, Ordering::Relaxed);
        let before = from.digests();
        let (source, _) = complete(&from);
        source.finish(Ending::Keep).unwrap();
        from.all_in(State::RunningP2p);
        source.run().unwrap();
        from.all_in(State::Running);
        assert_eq!(from.digests(), before);
        from.check();
    }
}

#[test]
fn a_source_that_was_released_can_take_its_guest_back() {
    let from = Vm::of(2, 7, 1);
    from.watched.store(true, Ordering::Relaxed);
    let (source, _) = complete(&from);
    source.finish(Ending::Release).unwrap();
    source.run().unwrap();
    from.all_in(State::Running);
    from.check();
}

#[test]
fn a_group_that_is_dropped_gives_its_devices_back() {
    for stop in [false, true] {
        let (from, to) = (Vm::of(3, 7, 1), Vm::of(3, 7, 100));
        from.watched.store(true, Ordering::Relaxed);
        let (source, target) = (from.source(), to.target());
        source.begin().unwrap();
        target.begin().unwrap();
        put_all(&target, &frames(&source, SaveStatus::Drained).unwrap()).unwrap();
        if stop {
            source.stop().unwrap();
        }
        drop((source, target));
        from.all_in(State::Running);
        to.all_in(State::Running);
        assert!(to.sides.iter().all(|side| side.sim.count(Op::Reset) == 1));
        from.check();
        to.check();
    }
}

#[test]
fn frames_of_one_device_come_in_order_and_those_of_several_in_any() {
    let (from, to) = (Vm::of(3, 7, 1), Vm::of(3, 7, 100));
    let (source, all) = complete(&from);
    let target = to.target();
    target.begin().unwrap();
    // What is refused changes nothing.
    let of_one: Vec<_> = all.iter().filter(|frame| device_of(frame) == 1).cloned().collect();
    assert_eq!(code(target.put(&of_one[1])), Code::Proto);
    target.put(&of_one[0]).unwrap();
    assert_eq!(code(target.put(&of_one[0])), Code::Proto);
    let mut damaged = of_one[1].clone();
    damaged[9] ^= 1;
    assert_eq!(code(target.put(&damaged)), Code::BadMsg);
    assert_eq!(code(target.put(&of_one[1][..HEADER_LEN + 3])), Code::Proto);
    assert_eq!(code(target.put(&[])), Code::Proto);
    assert_eq!(code(target.commit()), Code::NoData);
    put_all(&target, &of_one[1..]).unwrap();
    // The last device first.
    for device in [2, 0] {
        for frame in all.iter().filter(|frame| device_of(frame) == device) {
            target.put(frame).unwrap();
        }
    }
    assert_eq!(code(target.put(&of_one[0])), Code::Proto);
    target.commit().unwrap();
    assert_eq!(from.digests(), to.digests());
    source.finish(Ending::Release).unwrap();
}

#[test]
fn frames_of_another_migration_or_device_are_refused() {
    let from = Vm::of(2, 7, 1);
    let other = GroupOptions { migration_id: [9; 16], ..GroupOptions::new(Role::Source) };
    let source = from.source_with(other);
    source.begin().unwrap();
    let all = frames(&source, SaveStatus::Drained).unwrap();
    let to = Vm::of(1, 7, 100);
    let target = to.target();
    target.begin().unwrap();
    assert_eq!(code(target.put(&all[0])), Code::OtherDevice);
    drop(target);
    // With any name, but too few devices.
    let target = Group::new(GroupOptions::new(Role::Target)).unwrap();
    target.add_load(&to.sides[0].device, LoadOptions::default()).unwrap();
    target.begin().unwrap();
    let second = all.iter().find(|frame| device_of(frame) == 1).unwrap();
    assert_eq!(code(target.put(second)), Code::Proto);
    target.put(&all[0]).unwrap();
}

#[test]
fn a_device_without_peer_to_peer_states_blocks_a_group_of_several() {
    for flags in [1, 5] {
        let vm = Vm::new(vec![options(7, 1), options(flags, 2)]);
        let group = vm.source();
        let found = group.reasons().unwrap();
        assert_eq!((found[0].device, found[0].severity), (1, Severity::Blocks));
        assert_eq!(found[0].reason.code, ReasonCode::NoP2p);
        assert!(found.windows(2).all(|two| two[0].severity <= two[1].severity));
        assert_eq!(code(group.begin()), Code::NotSupported);
        drop(group);
        // Somebody vouches that it does not matter.
        let vouched = GroupOptions { no_peer_to_peer: true, ..GroupOptions::new(Role::Source) };
        let group = vm.source_with(vouched);
        assert!(group.reasons().unwrap().iter().all(|found| found.severity != Severity::Blocks));
        group.begin().unwrap();
        frames(&group, SaveStatus::Drained).unwrap();
        group.stop().unwrap();
        vm.all_in(State::StopCopy);
        group.finish(Ending::Keep).unwrap();
        group.run().unwrap();
        vm.all_in(State::Running);
        // Nor does it in a group of its own.
        drop(group);
        let alone = Vm::new(vec![options(flags, 3)]);
        alone.source().begin().unwrap();
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let vm = Vm::of(2, 7, 1);
    let group = Group::new(GroupOptions::new(Role::Source)).unwrap();
    assert_ne!(group.status().unwrap().migration_id, [0; 16]);
    assert_eq!(code(group.begin()), Code::Inval);
    let device = &vm.sides[0].device;
    assert_eq!(group.add_save(device, SaveOptions::default()).unwrap(), 0);
    assert_eq!(code(group.add_save(device, SaveOptions::default())), Code::Inval);
    assert_eq!(code(group.add_load(&vm.sides[1].device, LoadOptions::default())), Code::Inval);
    let qemu = SaveOptions { format: Format::Qemu, ..SaveOptions::default() };
    assert_eq!(code(group.add_save(&vm.sides[1].device, qemu)), Code::Inval);
    for refused in [group.stop(), group.finish(Ending::Keep), group.run(), group.commit()] {
        assert_eq!(code(refused), Code::Inval);
    }
    assert_eq!(code(group.next(&mut [0; BUFFER])), Code::Inval);
    assert_eq!(code(group.put(&[])), Code::Proto);
    assert_eq!(code(group.abandon()), Code::Inval);
    assert_eq!(code(group.pending(0)), Code::Inval);
    assert_eq!(code(group.save_stats(0)), Code::NoData);
    assert_eq!(code(group.failure(1)), Code::Inval);
    group.begin().unwrap();
    assert_eq!(code(group.begin()), Code::Inval);
    assert_eq!(code(group.add_save(&vm.sides[1].device, SaveOptions::default())), Code::Inval);
    assert_eq!(code(group.next(&mut [0; 4096])), Code::NoSpace);
    assert_eq!(code(group.finish(Ending::Release)), Code::Inval);
    assert_eq!(code(group.load_stats(0)), Code::NoData);
    assert_eq!(code(group.blob(1, 1, b"")), Code::Inval);
    group.finish(Ending::Keep).unwrap();
    assert_eq!(code(group.next(&mut [0; BUFFER])), Code::Inval);
    assert_eq!(code(group.finish(Ending::Keep)), Code::Inval);
}

#[test]
fn a_save_that_does_not_begin_undoes_the_others() {
    for failing in 0..3 {
        let vm = Vm::of(3, 7, 1);
        vm.sides[failing].sim.inject(Op::SetState, 1, libc::EIO, Effect::Once);
        let group = vm.source();
        let error = group.begin().unwrap_err();
        assert_eq!(error.code(), Code::Io);
        assert!(error.message().starts_with(&format!("device {failing}: ")), "{error}");
        assert_eq!(group.failure(failing as u32).unwrap().unwrap().errno, libc::EIO);
        let status = group.status().unwrap();
        assert_eq!((status.phase, status.failed), (Phase::Over, 1));
        vm.all_in(State::Running);
        vm.check();
    }
}

#[test]
fn a_load_that_does_not_begin_undoes_the_others() {
    for failing in 0..3 {
        let vm = Vm::of(3, 7, 1);
        vm.sides[failing].sim.inject(Op::SetState, 1, libc::EIO, Effect::Once);
        let group = vm.target();
        assert_eq!(code(group.begin()), Code::Io);
        vm.all_in(State::Running);
        vm.check();
    }
}

/// One fault in one device during a switchover; what a VMM does then. Whether the fault struck.
fn switchover(
    flags: u32,
    failing: usize,
    op: Op,
    nth: u64,
    effect: Effect,
    helpers: usize,
) -> bool {
    let case = format!("flags {flags} device {failing} {op:?} {nth} {effect:?}");
    let vm = Vm::of(3, flags, 1);
    let before = vm.digests();
    vm.watched.store(true, Ordering::Relaxed);
    let group = vm.source();
    group.begin().unwrap();
    frames(&group, SaveStatus::Drained).unwrap();
    let sim = &vm.sides[failing].sim;
    let counted = sim.count(op);
    sim.inject(op, nth, libc::EIO, effect);
    thread::scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|| group.work(Until::Dismissed).unwrap());
        }
        let stopped = group.stop().and_then(|()| frames(&group, SaveStatus::End).map(drop));
        if let Err(error) = &stopped {
            assert!(error.message().starts_with(&format!("device {failing}: ")), "{case}: {error}");
            assert_eq!(group.status().unwrap().phase, Phase::Failed, "{case}");
            // It is told to everybody.
            assert_eq!(code(group.next(&mut [0; BUFFER])), error.code());
            assert_eq!(code(group.stop()), error.code());
            assert_eq!(code(group.finish(Ending::Release)), error.code());
        }
        let lost = |error: &Error| error.failure().is_some_and(|f| f.outcome == Outcome::Reset);
        let kept = group.finish(Ending::Keep);
        let ran = group.run();
        match (&kept, &ran) {
            (_, Ok(())) => {
                // It failed when it was asked where it is, and could not say so.
                let unseen = effect == Effect::Error && vm.states()[failing] == State::Error;
                if !unseen {
                    vm.all_in(State::Running);
                    assert_eq!(vm.digests(), before, "{case}");
                }
            }
            (_, Err(error)) => {
                assert!(lost(error), "{case}: {error}");
                assert!(!vm.sides.iter().any(|side| runs(&side.sim)), "{case}: {:?}", vm.states());
            }
        }
        group.dismiss();
    });
    drop(group);
    assert_eq!(*vm.early.lock().unwrap(), [0; 0], "{case}");
    sim.count(op) - counted >= nth
}

#[test]
fn whatever_fails_in_a_switchover_all_devices_run_again_or_none_does() {
    let mut struck = 0;
    for flags in [3, 7] {
        for failing in 0..3 {
            for op in [Op::SetState, Op::GetState, Op::Read, Op::Any] {
                for effect in [Effect::Once, Effect::Error, Effect::Half, Effect::Ignored] {
                    for nth in 1.. {
                        if !switchover(flags, failing, op, nth, effect, 0) {
                            break;
                        }
                        struck += 1;
                    }
                }
            }
        }
    }
    assert!(struck > 400, "only {struck} faults struck");
}

#[test]
fn helpers_change_nothing_of_that() {
    for failing in 0..3 {
        for nth in 1..4 {
            for helpers in [1, 3] {
                switchover(7, failing, Op::SetState, nth, Effect::Once, helpers);
                switchover(7, failing, Op::SetState, nth, Effect::Error, helpers);
            }
        }
    }
}

#[test]
fn if_one_device_does_not_commit_all_are_reset() {
    for failing in 0..3 {
        for effect in [Effect::Once, Effect::Error] {
            let (from, to) = (Vm::of(3, 7, 1), Vm::of(3, 7, 100));
            let (source, all) = complete(&from);
            let target = to.target();
            target.begin().unwrap();
            put_all(&target, &all).unwrap();
            to.sides[failing].sim.inject(Op::SetState, 1, libc::EINVAL, effect);
            let error = target.commit().unwrap_err();
            assert_eq!(error.code(), Code::Inval);
            assert!(error.message().contains("; all devices have been reset"), "{error}");
            to.all_in(State::Running);
            assert!(to.sides.iter().all(|side| side.sim.count(Op::Reset) >= 1));
            assert_eq!(target.status().unwrap().phase, Phase::Over);
            assert_eq!(code(target.run()), Code::Inval);
            // The source still has everything.
            source.finish(Ending::Keep).unwrap();
            source.run().unwrap();
            from.all_in(State::Running);
            drop(target);
            to.check();
        }
    }
}

#[test]
fn a_device_that_cannot_be_reset_after_a_failed_commit_is_named() {
    let (from, to) = (Vm::of(2, 7, 1), Vm::of(2, 7, 100));
    let (_source, all) = complete(&from);
    let target = to.target();
    target.begin().unwrap();
    put_all(&target, &all).unwrap();
    to.sides[1].sim.inject(Op::SetState, 1, libc::EINVAL, Effect::Once);
    to.sides[0].sim.inject(Op::Reset, 1, libc::EIO, Effect::Once);
    let error = target.commit().unwrap_err();
    assert!(error.message().contains("; then device 0: "), "{error}");
    assert!(!error.message().contains("; all devices have been reset"), "{error}");
}

#[test]
fn a_committed_target_can_be_abandoned() {
    let (from, to) = (Vm::of(2, 7, 1), Vm::of(2, 7, 100));
    let (_source, all) = complete(&from);
    let target = to.target();
    target.begin().unwrap();
    put_all(&target, &all).unwrap();
    target.commit().unwrap();
    target.abandon().unwrap();
    to.all_in(State::Running);
    assert!(to.sides.iter().all(|side| side.sim.count(Op::Reset) == 1));
    assert!(to.digests().iter().zip(from.digests()).all(|(there, here)| *there != here));
}

#[test]
fn if_one_device_does_not_run_none_does() {
    for failing in 0..3 {
        for nth in [1, 2] {
            for effect in [Effect::Once, Effect::Error] {
                let (from, to) = (Vm::of(3, 7, 1), Vm::of(3, 7, 100));
                let (_source, all) = complete(&from);
                let target = to.target();
                target.begin().unwrap();
                put_all(&target, &all).unwrap();
                target.commit().unwrap();
                to.watched.store(true, Ordering::Relaxed);
                to.sides[failing].sim.inject(Op::SetState, nth, libc::EIO, effect);
                let ran = target.run();
                if effect == Effect::Once {
                    // What was merely refused works the second time.
                    ran.unwrap();
                    to.all_in(State::Running);
                } else {
                    assert_eq!(code(ran), Code::Io);
                    assert!(!to.sides.iter().any(|side| runs(&side.sim)), "{:?}", to.states());
                    assert_eq!(target.status().unwrap().phase, Phase::Halted);
                    assert_eq!(code(target.run()), Code::Inval);
                    target.abandon().unwrap();
                }
            }
        }
    }
}

#[test]
fn a_load_that_fails_ends_the_group_and_the_rest_can_be_abandoned() {
    let (from, to) = (Vm::of(2, 7, 1), Vm::of(2, 7, 100));
    let (_source, all) = complete(&from);
    let target = to.target();
    target.begin().unwrap();
    to.sides[1].sim.inject(Op::Write, 1, libc::EIO, Effect::Once);
    let error = put_all(&target, &all).unwrap_err();
    assert!(error.message().starts_with("device 1: "), "{error}");
    let failure = target.failure(1).unwrap().unwrap();
    assert_eq!((failure.errno, failure.outcome), (libc::EIO, Outcome::Reset));
    assert_eq!(target.failure(0).unwrap(), None);
    assert_eq!(code(target.put(&all[0])), Code::Io);
    assert_eq!(to.states(), [State::Resuming, State::Running]);
    assert_eq!(code(target.commit()), Code::Io);
    to.all_in(State::Running);
    to.check();
}

#[test]
fn initial_data_that_starts_again_refuses_the_switchover_before_any_device_is_touched() {
    let quirks = quirk::PRECOPY_INFO_V2;
    let sims = (1..4).map(|seed| SimOptions { quirks, ..options(7, seed) }).collect();
    let vm = Vm::new(sims);
    let group = vm.source();
    group.begin().unwrap();
    frames(&group, SaveStatus::Drained).unwrap();
    assert!(group.pending(2).unwrap().initial_sent);
    vm.sides[2].sim.reinit();
    let error = group.stop().unwrap_err();
    assert_eq!(error.code(), Code::Again);
    assert!(error.message().starts_with("device 2: "), "{error}");
    vm.all_in(State::PreCopy);
    // The guest goes on, and the next attempt finds everything sent.
    frames(&group, SaveStatus::Drained).unwrap();
    assert_eq!(group.pending(2).unwrap().initial_generation, 2);
    vm.sides[0].sim.reinit();
    assert_eq!(code(group.stop()), Code::Again);
    // The guest must be switched over.
    group.stop().unwrap();
    vm.all_in(State::StopCopy);
    frames(&group, SaveStatus::End).unwrap();
    drop(group);
    vm.all_in(State::Running);
    vm.check();
}

#[test]
fn a_guests_reset_in_pre_copy_starts_one_device_again() {
    let (from, to) = (Vm::of(2, 7, 1), Vm::of(2, 7, 100));
    let (source, target) = (from.source(), to.target());
    source.begin().unwrap();
    target.begin().unwrap();
    put_all(&target, &frames(&source, SaveStatus::Drained).unwrap()).unwrap();
    from.sides[1].sim.guest_reset();
    from.sides[1].device.was_reset().unwrap();
    put_all(&target, &frames(&source, SaveStatus::Drained).unwrap()).unwrap();
    source.blob(0, 5, b"the configuration").unwrap();
    source.stop().unwrap();
    put_all(&target, &frames(&source, SaveStatus::End).unwrap()).unwrap();
    assert_eq!(source.save_stats(1).unwrap().restarts, 1);
    assert_eq!(target.load_stats(1).unwrap().restarts, 1);
    assert_eq!(target.load_stats(0).unwrap().blobs, 1);
    target.commit().unwrap();
    assert_eq!(from.digests(), to.digests());
}

#[test]
fn a_blob_that_the_vmm_refuses_ends_the_group() {
    let (from, to) = (Vm::of(1, 7, 1), Vm::of(1, 7, 100));
    let source = from.source();
    source.begin().unwrap();
    source.blob(0, 5, b"x").unwrap();
    let target = Group::new(GroupOptions::new(Role::Target)).unwrap();
    let blobs: vfiomig::session::BlobSink = Box::new(|_, _| Err(Errno(libc::EPERM)));
    let options = LoadOptions { blobs: Some(blobs), ..LoadOptions::default() };
    target.add_load(&to.sides[0].device, options).unwrap();
    target.begin().unwrap();
    let all = frames(&source, SaveStatus::Drained).unwrap();
    assert_eq!(code(put_all(&target, &all)), Code::Perm);
}

#[test]
fn a_cancelled_group_can_be_kept_or_abandoned() {
    // Before it begins, in pre-copy, stopped, complete.
    for when in 0..4 {
        let (from, to) = (Vm::of(2, 7, 1), Vm::of(2, 7, 100));
        from.watched.store(true, Ordering::Relaxed);
        let (source, target) = (from.source(), to.target());
        if when == 0 {
            source.cancel();
            target.cancel();
            assert_eq!(code(source.begin()), Code::Cancelled);
            assert_eq!(code(target.begin()), Code::Cancelled);
            continue;
        }
        source.begin().unwrap();
        target.begin().unwrap();
        put_all(&target, &frames(&source, SaveStatus::Drained).unwrap()).unwrap();
        if when >= 2 {
            source.stop().unwrap();
        }
        if when == 3 {
            put_all(&target, &frames(&source, SaveStatus::End).unwrap()).unwrap();
        }
        source.cancel();
        target.cancel();
        assert_eq!(code(source.next(&mut [0; BUFFER])), Code::Cancelled);
        if when == 1 {
            assert_eq!(code(source.stop()), Code::Cancelled);
        }
        assert_eq!(code(target.put(&[0; 64])), if when > 3 { Code::Inval } else { Code::Proto });
        assert_eq!(code(target.commit()), Code::Cancelled);
        to.all_in(State::Running);
        source.finish(Ending::Keep).unwrap();
        source.run().unwrap();
        from.all_in(State::Running);
        from.check();
        to.check();
    }
}

#[test]
fn a_release_is_still_possible_if_the_source_was_cancelled_after_the_end() {
    let from = Vm::of(2, 7, 1);
    let (source, _) = complete(&from);
    source.cancel();
    source.finish(Ending::Release).unwrap();
    from.all_in(State::Stop);
}

#[test]
fn a_paused_guest_stays_paused() {
    let from = Vm::of(2, 7, 1);
    for side in &from.sides {
        side.device.set_state(State::Stop).unwrap();
    }
    let source = from.source();
    source.begin().unwrap();
    frames(&source, SaveStatus::Drained).unwrap();
    source.stop().unwrap();
    frames(&source, SaveStatus::End).unwrap();
    drop(source);
    from.all_in(State::Stop);
}

/// Devices whose changes of state take a while.
fn slow(count: usize) -> Vm {
    Vm::new(
        (1..=count)
            .map(|seed| SimOptions { transition_us: [50_000; 8], ..options(7, seed as u64) })
            .collect(),
    )
}

#[test]
fn lent_threads_take_steps_at_the_same_time() {
    let time = |helpers: usize| {
        let vm = slow(4);
        let group = vm.source();
        thread::scope(|scope| {
            for _ in 0..helpers {
                scope.spawn(|| group.work(Until::Dismissed).unwrap());
            }
            group.begin().unwrap();
            frames(&group, SaveStatus::Drained).unwrap();
            let begun = Instant::now();
            group.stop().unwrap();
            let time = begun.elapsed();
            group.finish(Ending::Keep).unwrap();
            group.run().unwrap();
            group.dismiss();
            time
        })
    };
    let (alone, helped) = (time(0), time(3));
    assert!(alone >= Duration::from_millis(400), "{alone:?}");
    assert!(helped < alone / 2, "{helped:?} instead of {alone:?}");
}

#[test]
fn several_threads_read_and_write_and_a_slow_device_holds_nobody_up() {
    let sims = |seed: u64| -> Vec<SimOptions> {
        let fast = SimOptions { state_size: 400_000, ..options(7, seed) };
        let slow = SimOptions { read_rate: 200_000, ..options(7, seed + 1) };
        vec![slow, fast.clone(), SimOptions { seed: seed + 2, ..fast }]
    };
    let (from, to) = (Vm::new(sims(1)), Vm::new(sims(100)));
    let (source, target) = (from.source(), to.target());
    source.begin().unwrap();
    target.begin().unwrap();
    let last = Mutex::new([Instant::now(); 3]);
    // A connection per device: each keeps its order.
    let queues: Vec<Mutex<Vec<Vec<u8>>>> = (0..3).map(|_| Mutex::default()).collect();
    let pump = |until: SaveStatus| {
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut buf = vec![0; BUFFER];
                    loop {
                        let next = source.next(&mut buf).unwrap();
                        if next.len > 0 {
                            let device = device_of(&buf) as usize;
                            last.lock().unwrap()[device] = Instant::now();
                            queues[device].lock().unwrap().push(buf[..next.len].to_vec());
                        }
                        if next.status == until || next.status == SaveStatus::End {
                            return;
                        }
                    }
                });
            }
        });
    };
    pump(SaveStatus::Drained);
    source.stop().unwrap();
    pump(SaveStatus::End);
    let ended = *last.lock().unwrap();
    thread::scope(|scope| {
        for queue in &queues {
            let target = &target;
            scope.spawn(move || {
                let mut frames = queue.lock().unwrap();
                // Several threads read this device: its frames say how they follow each other.
                frames.sort_by_key(|frame| u64::from_le_bytes(frame[16..24].try_into().unwrap()));
                put_all(target, &frames).unwrap();
            });
        }
    });
    target.commit().unwrap();
    assert_eq!(from.digests(), to.digests());
    assert!(ended[1] < ended[0] && ended[2] < ended[0], "{ended:?}");
    assert_eq!(source.next(&mut [0; BUFFER]).unwrap().status, SaveStatus::End);
}

#[test]
fn a_callback_is_told_that_it_would_have_to_wait() {
    let sim = Sim::new(options(7, 1)).unwrap();
    let group = Arc::new(Group::new(GroupOptions::new(Role::Source)).unwrap());
    let told = Arc::new(Mutex::new(vec![]));
    let sink = {
        let (group, told) = (Arc::downgrade(&group), Arc::clone(&told));
        EventSink::new(move |_| {
            let Some(group) = group.upgrade() else { return };
            let mut told = told.lock().unwrap();
            told.push(code(group.next(&mut [0; BUFFER])));
            told.push(code(group.stop()));
            told.push(code(group.pending(0)));
            told.push(code(group.work(Until::Idle)));
            group.status().unwrap();
        })
    };
    let options = DeviceOptions { events: Some(sink), ..DeviceOptions::default() };
    let device = Device::new(sim.transport(), options).unwrap();
    group.add_save(&device, SaveOptions::default()).unwrap();
    group.begin().unwrap();
    let told = std::mem::take(&mut *told.lock().unwrap());
    assert!(!told.is_empty() && told.iter().all(|code| *code == Code::Busy), "{told:?}");
}

// --- with a window ---------------------------------------------------------------------------------

fn windowed(role: Role) -> GroupOptions {
    GroupOptions { migration_id: ID, window: MIN_WINDOW, ..GroupOptions::new(role) }
}

/// Devices with more state than fits into a window.
fn large(count: usize, seed: u64) -> Vm {
    let state_size = 3 << 20;
    let of = |i| SimOptions { state_size, initial_size: state_size, ..options(7, seed + i as u64) };
    Vm::new((0..count).map(of).collect())
}

/// Both sides, begun.
fn pair(from: &Vm, to: &Vm) -> (Group, Group) {
    let source = from.source_with(windowed(Role::Source));
    let target = to.target_with(windowed(Role::Target));
    source.begin().unwrap();
    target.begin().unwrap();
    (source, target)
}

/// All credits that the target has to give.
fn credits(target: &Group) -> Vec<Vec<u8>> {
    let mut buf = [0; HEADER_LEN];
    let mut credits = vec![];
    while target.next(&mut buf).unwrap().status == SaveStatus::More {
        credits.push(buf.to_vec());
    }
    credits
}

/// What the source sends until it needs credits, or has nothing more.
fn sent(source: &Group, buffer: usize) -> (Vec<Vec<u8>>, Result<SaveStatus>) {
    let mut buf = vec![0; buffer];
    let mut sent = vec![];
    loop {
        match source.next(&mut buf) {
            Ok(next) if next.len > 0 => sent.push(buf[..next.len].to_vec()),
            Ok(next) => return (sent, Ok(next.status)),
            Err(error) => return (sent, Err(error)),
        }
    }
}

#[test]
fn without_credits_nothing_is_sent() {
    let (from, to) = (large(2, 1), large(2, 100));
    let (source, target) = pair(&from, &to);
    let (frames, why) = sent(&source, BUFFER);
    assert_eq!((frames.len(), code(why)), (0, Code::Again));
    let credits = credits(&target);
    assert_eq!(credits.len(), 2);
    assert_eq!(frame_len(credits[0].first_chunk().unwrap()).unwrap(), HEADER_LEN);
    source.put(&credits[1]).unwrap();
    let (frames, why) = sent(&source, BUFFER);
    assert_eq!(code(why), Code::Again);
    assert!(frames.iter().all(|frame| device_of(frame) == 1));
    let bytes: usize = frames.iter().map(|frame| frame.len() - HEADER_LEN + 128).sum();
    assert!(bytes as u64 <= MIN_WINDOW && bytes as u64 > MIN_WINDOW - 2 * BUFFER as u64, "{bytes}");
    // What came is kept, and written when somebody works.
    put_all(&target, &frames).unwrap();
    assert_eq!(target.status().unwrap().held_bytes, bytes as u64);
    assert_eq!(to.sides[1].sim.bytes_written(), 0);
    target.work(Until::Idle).unwrap();
    assert_eq!(target.status().unwrap().held_bytes, 0);
    assert!(to.sides[1].sim.bytes_written() > 0);
}

#[test]
fn frames_that_the_other_side_would_send_are_refused() {
    let (from, to) = (large(1, 1), large(1, 100));
    let (source, target) = pair(&from, &to);
    let credit = credits(&target).remove(0);
    assert_eq!(code(target.put(&credit)), Code::Proto);
    source.put(&credit).unwrap();
    let frame = sent(&source, BUFFER).0.remove(0);
    assert_eq!(code(source.put(&frame)), Code::Proto);
    // Without a window there are no credits.
    let plain = large(1, 7).source();
    plain.begin().unwrap();
    assert_eq!(code(plain.put(&credit)), Code::Proto);
    for window in [1, MIN_WINDOW - 1, MAX_WINDOW + 1, u64::MAX] {
        assert_eq!(
            code(Group::new(GroupOptions { window, ..windowed(Role::Target) })),
            Code::Inval
        );
    }
}

#[test]
fn frames_that_come_twice_or_are_missing_change_nothing() {
    let (from, to) = (Vm::of(2, 7, 1), Vm::of(2, 7, 100));
    let (source, target) = pair(&from, &to);
    put_all(&source, &credits(&target)).unwrap();
    let mut all = sent(&source, BUFFER).0;
    source.stop().unwrap();
    all.extend(sent(&source, BUFFER).0);
    // The last first, each twice, all but one.
    let held_back = all.remove(1);
    for frame in all.iter().rev() {
        target.put(frame).unwrap();
        assert_eq!(code(target.put(frame)), Code::Proto);
        target.work(Until::Idle).unwrap();
    }
    assert_eq!(code(target.commit()), Code::NoData);
    target.put(&held_back).unwrap();
    target.work(Until::Idle).unwrap();
    assert_eq!(code(target.put(&held_back)), Code::Proto);
    target.commit().unwrap();
    assert_eq!(from.digests(), to.digests());
}

#[test]
fn an_attack_with_the_highest_first_stays_within_the_window() {
    let to = large(1, 100);
    let target = to.target_with(windowed(Role::Target));
    target.begin().unwrap();
    let from = large(1, 1);
    let source = from.source();
    source.begin().unwrap();
    // A frame of the right shape, moved to where it never becomes the next one.
    let mut frame = frames(&source, SaveStatus::Drained).unwrap().remove(0);
    let len = frame.len() - HEADER_LEN;
    let mut kept = 0;
    for at in (1..5000_u64).rev() {
        frame[16..24].copy_from_slice(&(at * len as u64).to_le_bytes());
        let check = crc32fast::hash(&frame[..28]).to_le_bytes();
        frame[28..32].copy_from_slice(&check);
        kept += u64::from(target.put(&frame).is_ok());
        assert!(target.status().unwrap().held_bytes <= MIN_WINDOW);
    }
    assert!(kept > 100 && kept * len as u64 <= MIN_WINDOW, "{kept}");
    target.work(Until::Idle).unwrap();
    assert_eq!(to.sides[0].sim.bytes_written(), 0);
}

#[test]
fn a_blob_that_does_not_fit_into_half_a_window_is_refused_and_others_wait_for_room() {
    let (from, to) = (Vm::of(1, 7, 1), Vm::of(1, 7, 100));
    let (source, target) = pair(&from, &to);
    assert_eq!(code(source.blob(0, 1, &vec![0; MIN_WINDOW as usize / 2 + 1])), Code::MsgSize);
    source.blob(0, 1, &vec![7; 1 << 20]).unwrap();
    source.blob(0, 2, &vec![8; 1 << 20]).unwrap();
    source.blob(0, 3, &vec![9; 1 << 20]).unwrap();
    source.stop().unwrap();
    let mut rounds = 0;
    while target.status().unwrap().phase == Phase::Open {
        put_all(&source, &credits(&target)).unwrap();
        put_all(&target, &sent(&source, (1 << 20) + 4096).0).unwrap();
        target.work(Until::Idle).unwrap();
        rounds += 1;
        assert!(rounds < 20);
    }
    assert_eq!(target.load_stats(0).unwrap().blobs, 3);
    target.commit().unwrap();
}

#[test]
fn a_slow_device_does_not_hold_up_the_others() {
    let sims = |seed: u64, rate: u64| {
        let fast = SimOptions { state_size: 3 << 20, ..options(7, seed) };
        let slow = SimOptions { write_rate: rate, ..fast.clone() };
        vec![
            slow,
            SimOptions { seed: seed + 1, ..fast.clone() },
            SimOptions { seed: seed + 2, ..fast },
        ]
    };
    let (from, to) = (Vm::new(sims(1, 0)), Vm::new(sims(100, 2 << 20)));
    let (source, target) = pair(&from, &to);
    let done = Mutex::new([None; 3]);
    thread::scope(|scope| {
        // One connection for all, and one back.
        let wire: Mutex<VecDeque<Vec<u8>>> = Mutex::default();
        for _ in 0..3 {
            scope.spawn(|| target.work(Until::Dismissed).unwrap());
        }
        let (source, target, done) = (&source, &target, &done);
        scope.spawn(move || {
            let mut stopped = false;
            loop {
                put_all(source, &credits(target)).unwrap();
                let (frames, why) = sent(source, 64 << 10);
                wire.lock().unwrap().extend(frames);
                match why {
                    Ok(SaveStatus::Drained) if !stopped => {
                        source.stop().unwrap();
                        stopped = true;
                    }
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.code(), Code::Again),
                }
                for frame in wire.lock().unwrap().drain(..) {
                    target.put(&frame).unwrap();
                }
                let mut done = done.lock().unwrap();
                for (number, at) in done.iter_mut().enumerate() {
                    let written = target.load_stats(number as u32).unwrap().data_bytes;
                    if at.is_none() && written >= 3 << 20 {
                        *at = Some(Instant::now());
                    }
                }
                if target.status().unwrap().phase == Phase::Complete {
                    target.dismiss();
                    return;
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
    });
    let done = done.lock().unwrap().map(Option::unwrap);
    assert!(done[1] + Duration::from_millis(300) < done[0], "{done:?}");
    assert!(done[2] + Duration::from_millis(300) < done[0], "{done:?}");
    target.commit().unwrap();
    assert_eq!(from.digests(), to.digests());
}

#[test]
fn a_device_that_dies_ends_the_group_for_everybody() {
    let (from, to) = (large(2, 1), large(2, 100));
    let (source, target) = pair(&from, &to);
    to.sides[1].sim.inject(Op::Write, 2, libc::EIO, Effect::Once);
    put_all(&source, &credits(&target)).unwrap();
    put_all(&target, &sent(&source, BUFFER).0).unwrap();
    let error = target.work(Until::Idle).unwrap_err();
    assert!(error.message().starts_with("device 1: "), "{error}");
    assert_eq!(target.status().unwrap().phase, Phase::Failed);
    assert_eq!(code(target.work(Until::Frame)), Code::Io);
    assert_eq!(code(target.next(&mut [0; HEADER_LEN])), Code::Io);
    target.abandon().unwrap();
    to.all_in(State::Running);
    assert_eq!(target.status().unwrap().held_bytes, 0);
}

#[test]
fn who_waits_for_a_frame_is_woken_by_a_credit_by_the_end_and_by_a_cancellation() {
    let (from, to) = (Vm::of(1, 7, 1), Vm::of(1, 7, 100));
    let (source, target) = pair(&from, &to);
    let credit = credits(&target).remove(0);
    assert_eq!(code(sent(&source, BUFFER).1), Code::Again);
    let waits = |group: &Group, then: &dyn Fn()| {
        thread::scope(|scope| {
            let waiting = scope.spawn(|| group.work(Until::Frame));
            thread::sleep(Duration::from_millis(30));
            assert!(!waiting.is_finished());
            then();
            waiting.join().unwrap()
        })
    };
    waits(&source, &|| source.put(&credit).unwrap()).unwrap();
    let frames = sent(&source, BUFFER).0;
    waits(&target, &|| put_all(&target, &frames).unwrap()).unwrap();
    let _ = credits(&target);
    assert_eq!(code(waits(&target, &|| target.cancel())), Code::Cancelled);
}

#[test]
fn who_waits_for_a_frame_is_told_that_there_is_none_for_now() {
    let from = Vm::of(2, 7, 1);
    for window in [0, MIN_WINDOW] {
        let to = Vm::of(2, 7, 100);
        let source = from.source_with(GroupOptions { window, ..windowed(Role::Source) });
        let target = to.target_with(GroupOptions { window, ..windowed(Role::Target) });
        source.begin().unwrap();
        target.begin().unwrap();
        if window != 0 {
            put_all(&source, &credits(&target)).unwrap();
        }
        let mut buf = vec![0; 150_000];
        // Frames that come with the last there is, and then nothing.
        while source.next(&mut buf).unwrap().len > 0 {
            source.work(Until::Frame).unwrap();
        }
        source.work(Until::Frame).unwrap();
        source.finish(Ending::Keep).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Frames go over channels that each keep their own order, whichever is chosen for each; channels
    /// are served in any order, and credits come back late.
    #[test]
    fn whatever_the_mapping_to_channels_everything_arrives(
        seed in any::<u64>(),
        channels in 1_usize..5,
        depth in 1_usize..6,
        buffer in prop::sample::select(vec![5000_usize, 20_000, 150_000]),
    ) {
        let (from, to) = (large(3, 1), large(3, 100));
        let (source, target) = pair(&from, &to);
        let mut random = seed | 1;
        let mut dice = move |sides: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % sides
        };
        let mut wires: Vec<VecDeque<Vec<u8>>> = vec![VecDeque::new(); channels];
        let mut back: VecDeque<Vec<u8>> = VecDeque::new();
        let (mut buf, mut stopped, mut idle) = (vec![0; buffer], false, 0);
        while target.status().unwrap().phase != Phase::Complete {
            idle += 1;
            prop_assert!(idle < 2000, "nothing moves");
            let wire = dice(channels);
            match dice(4) {
                0 if wires[wire].len() < depth => match source.next(&mut buf) {
                    Ok(next) if next.len > 0 => {
                        wires[wire].push_back(buf[..next.len].to_vec());
                        idle = 0;
                    }
                    Ok(next) if next.status == SaveStatus::Drained && !stopped => {
                        source.stop().unwrap();
                        stopped = true;
                    }
                    Ok(_) => {}
                    Err(error) => prop_assert_eq!(error.code(), Code::Again),
                },
                1 => if let Some(frame) = wires[wire].pop_front() {
                    target.put(&frame).unwrap();
                    idle = 0;
                },
                2 => target.work(Until::Idle).unwrap(),
                _ => {
                    back.extend(credits(&target));
                    if let Some(credit) = back.pop_back() {
                        source.put(&credit).unwrap();
                        idle = 0;
                    }
                }
            }
            prop_assert!(target.status().unwrap().held_bytes <= 3 * MIN_WINDOW);
        }
        target.commit().unwrap();
        prop_assert_eq!(from.digests(), to.digests());
    }
}
