// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two devices of one VM. From the moment that the guest is switched over, whatever fails: while one
//! device stands still, the other does not run.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Side, Twist, check_clean, twisted_side};
use vfiomig::Device;
use vfiomig::Result;
use vfiomig::device::{DeviceOptions, Event, EventSink, State};
use vfiomig::error::{Code, Errno, Error, Failure, Outcome};
use vfiomig::history::What;
use vfiomig::session::{Ending, Save, SaveOptions, SaveStatus};
use vfiomig::transport::{FeatureRequest, OpsTransport, Transport};
use vfiomig::uapi;
use vfiomig_sim::{Effect, Op, Sim, SimOptions, quirk};

/// Devices of one VM, their saves, and what they have told.
struct Vm {
    sides: Vec<Side>,
    saves: Vec<Save>,
    events: Arc<Mutex<Vec<(usize, Event)>>>,
    /// Devices that were taken to where they run while another one stood still.
    early: Arc<Mutex<Vec<usize>>>,
}

fn options(migration_flags: u32, seed: u64) -> SimOptions {
    SimOptions { migration_flags, seed, state_size: 2000, ..SimOptions::default() }
}

/// Whether the device may write to other devices.
fn runs(sim: &Sim) -> bool {
    matches!(State::from_raw(sim.state().0), State::Running | State::PreCopy)
}

/// Whether writing to the device is forbidden.
fn stands(sim: &Sim) -> bool {
    matches!(State::from_raw(sim.state().0), State::Stop | State::StopCopy)
}

fn name(side: &Side) -> State {
    State::from_raw(side.sim.state().0)
}

impl Vm {
    fn new(count: usize, options: impl Fn(u64) -> SimOptions) -> Vm {
        let (events, early) = (Arc::new(Mutex::new(vec![])), Arc::new(Mutex::new(vec![])));
        let sims: Vec<Sim> =
            (1..=count).map(|seed| Sim::new(options(seed as u64)).unwrap()).collect();
        let sides: Vec<Side> = (0..count)
            .map(|number| {
                let sim = sims[number].clone();
                let transport = sim.transport().with_patience(Duration::from_millis(3));
                let log = Arc::clone(&events);
                let (sims, early) = (sims.clone(), Arc::clone(&early));
                let sink = EventSink::new(move |event| {
                    log.lock().unwrap().push((number, *event));
                    let mut others = sims.iter().enumerate().filter(|(other, _)| *other != number);
                    let went = event.kind == What::StateChanged && runs(&sims[number]);
                    if went && others.any(|(_, sim)| stands(sim)) {
                        early.lock().unwrap().push(number);
                    }
                });
                let options = DeviceOptions { events: Some(sink), ..DeviceOptions::default() };
                Side { device: Device::new(transport, options).unwrap(), sim }
            })
            .collect();
        Vm { sides, saves: vec![], events, early }
    }

    /// Saves of all, in pre-copy and drained.
    fn begin(&mut self) {
        for side in &self.sides {
            let options =
                SaveOptions { read_timeout: Duration::from_millis(3), ..SaveOptions::default() };
            self.saves.push(side.device.save(options).unwrap());
        }
        for save in &mut self.saves {
            while save.next(&mut [0; 4096]).unwrap().status != SaveStatus::Drained {}
        }
    }

    /// The states that a device has told of since the last time, one after the other.
    fn told(&self, number: usize) -> Vec<(What, State)> {
        let mut events = self.events.lock().unwrap();
        let told = events.iter().filter(|(of, _)| *of == number);
        let told = told.map(|(_, event)| (event.kind, event.to.unwrap())).collect();
        events.clear();
        told
    }
}

/// One that is stopped, and one that is to be stopped next; nothing has been told yet.
fn half_stopped(flags: u32) -> Vm {
    let mut vm = Vm::new(2, |seed| options(flags, seed));
    vm.begin();
    vm.saves[0].quiesce().unwrap();
    vm.saves[1].quiesce().unwrap();
    vm.saves[0].stop().unwrap();
    vm.events.lock().unwrap().clear();
    vm
}

#[track_caller]
fn failure(result: Result<()>) -> Failure {
    *result.unwrap_err().failure().unwrap()
}

#[test]
fn a_device_that_does_not_stop_waits_without_peer_to_peer_dma() {
    // PRE_COPY_P2P and RUNNING_P2P, before it or half way to STOP_COPY.
    for (flags, effect) in [(7, Effect::Once), (3, Effect::Half), (7, Effect::Ignored)] {
        for ending in [Ending::Keep, Ending::KeepQuiesced, Ending::KeepStopped] {
            let mut vm = half_stopped(flags);
            let contents = vm.sides[1].sim.digest();
            vm.sides[1].sim.inject(Op::SetState, 1, libc::EIO, effect);
            let failure = failure(vm.saves[1].stop());
            assert_eq!(failure.outcome, Outcome::Recovered, "{flags} {effect:?}");
            assert_eq!(failure.state_after, Some(State::RunningP2p));
            assert_eq!(name(&vm.sides[1]), State::RunningP2p);
            // It was in no other state on the way.
            let told = vm.told(1);
            assert!(told.iter().all(|(_, to)| *to == State::RunningP2p), "{told:?}");
            // Where it goes from there is up to the VMM.
            let to = match ending {
                Ending::Keep => State::Running,
                Ending::KeepStopped => State::Stop,
                _ => State::RunningP2p,
            };
            vm.saves[1].finish(ending).unwrap();
            assert_eq!(name(&vm.sides[1]), to);
            vm.sides[1].device.run().unwrap();
            assert_eq!(name(&vm.sides[1]), State::Running);
            assert_eq!(vm.sides[1].sim.digest(), contents);
            assert_eq!(vm.sides[1].sim.count(Op::Reset), 0);
            vm.saves.clear();
            vm.sides.iter().for_each(check_clean);
        }
    }
}

#[test]
fn a_device_that_has_to_be_reset_leaves_running_at_once() {
    let mut vm = half_stopped(7);
    vm.sides[1].sim.inject(Op::SetState, 1, libc::EIO, Effect::Error);
    let error = vm.saves[1].stop().unwrap_err();
    let failure = *error.failure().unwrap();
    assert_eq!((failure.outcome, failure.errno), (Outcome::Reset, libc::EIO));
    assert_eq!(failure.state_after, Some(State::RunningP2p));
    assert!(!failure.fixups.is_empty());
    assert_eq!(vm.saves[1].failure(), Some(failure));
    assert_eq!(vm.sides[1].device.failure().unwrap(), Some(failure));
    assert!(
        error.message().ends_with("is in RUNNING; it was then taken to RUNNING_P2P"),
        "{error}"
    );
    let told = vm.told(1);
    let wanted = [
        (What::Reset, State::Running),
        (What::Recovered, State::Running),
        (What::StateChanged, State::RunningP2p),
    ];
    assert_eq!(told, wanted);
    // What is left of it goes to RUNNING, and does not run its guest.
    let error = vm.saves[1].finish(Ending::Keep).unwrap_err();
    assert_eq!((error.code(), error.failure().unwrap().outcome), (Code::Io, Outcome::Reset));
    assert_eq!(error.failure().unwrap().state_after, Some(State::Running));
    assert_eq!(name(&vm.sides[1]), State::Running);
    assert_eq!(vm.sides[1].device.run().unwrap_err().code(), Code::Io);
}

#[test]
fn a_reset_that_is_noticed_when_the_guest_has_stopped_leaves_running_at_once() {
    // By a read of the stopped device, by its end, by the VMM's word, by the next change.
    for way in 0..4 {
        let mut vm = half_stopped(7);
        if way < 2 {
            vm.saves[1].stop().unwrap();
        }
        vm.sides[1].sim.guest_reset();
        let error = match way {
            0 => vm.saves[1].next(&mut [0; 4096]).unwrap_err(),
            1 => {
                vm.sides[1].device.state().unwrap();
                vm.saves[1].next(&mut [0; 4096]).unwrap_err()
            }
            2 => {
                vm.sides[1].device.was_reset().unwrap();
                vm.saves[1].next(&mut [0; 4096]).unwrap_err()
            }
            _ => vm.saves[1].stop().unwrap_err(),
        };
        let failure = error.failure().unwrap();
        assert_eq!(failure.outcome, Outcome::Reset, "way {way}: {error}");
        assert_eq!(failure.state_after, Some(State::RunningP2p), "way {way}: {error}");
        assert_eq!(name(&vm.sides[1]), State::RunningP2p, "way {way}");
        let error = vm.saves[1].finish(Ending::KeepQuiesced).unwrap_err();
        assert_eq!(error.failure().unwrap().outcome, Outcome::Reset, "way {way}: {error}");
        assert_eq!(name(&vm.sides[1]), State::RunningP2p, "way {way}");
    }
}

#[test]
fn a_device_that_cannot_be_quiesced_is_asked_in_the_other_way_once() {
    let mut vm = Vm::new(1, |seed| options(7, seed));
    vm.begin();
    let contents = vm.sides[0].sim.digest();
    vm.sides[0].sim.inject(Op::SetState, 1, libc::EBUSY, Effect::Once);
    let error = vm.saves[0].quiesce().unwrap_err();
    let failure = error.failure().unwrap();
    assert_eq!(failure.outcome, Outcome::Recovered);
    assert_eq!(failure.state_after, Some(State::RunningP2p));
    assert_eq!((name(&vm.sides[0]), vm.sides[0].sim.digest()), (State::RunningP2p, contents));
    vm.saves[0].finish(Ending::Keep).unwrap();
    assert_eq!(name(&vm.sides[0]), State::Running);
    assert_eq!(vm.sides[0].sim.count(Op::Reset), 0);

    // If it refuses that as well, it runs, and has lost nothing.
    let mut vm = Vm::new(1, |seed| options(7, seed));
    vm.begin();
    vm.sides[0].sim.inject(Op::SetState, 1, libc::EBUSY, Effect::Once);
    vm.sides[0].sim.inject(Op::SetState, 3, libc::EBUSY, Effect::Once);
    let error = vm.saves[0].quiesce().unwrap_err();
    let failure = error.failure().unwrap();
    assert_eq!(failure.outcome, Outcome::Recovered);
    assert_eq!(failure.state_after, Some(State::Running));
    assert!(error.message().ends_with("the device is still in RUNNING"), "{error}");
    assert_eq!((name(&vm.sides[0]), vm.sides[0].sim.digest()), (State::Running, contents));
    vm.saves[0].finish(Ending::Keep).unwrap();
    vm.sides[0].device.run().unwrap();
    assert_eq!(vm.sides[0].sim.count(Op::Reset), 0);

    // From RUNNING it is one and the same step, which is not tried twice.
    let mut vm = Vm::new(1, |seed| options(3, seed));
    vm.saves.push(vm.sides[0].device.save(SaveOptions::default()).unwrap());
    vm.sides[0].sim.inject(Op::SetState, 1, libc::EBUSY, Effect::Once);
    let failure = self::failure(vm.saves[0].quiesce());
    assert_eq!((failure.outcome, failure.state_after), (Outcome::Kept, Some(State::Running)));
    assert_eq!(vm.sides[0].sim.count(Op::SetState), 1);
    vm.saves[0].finish(Ending::KeepQuiesced).unwrap();
    assert_eq!(name(&vm.sides[0]), State::RunningP2p);
}

/// A driver that does what it is asked for and returns an errno, if told to; and what it was asked for.
#[derive(Default)]
struct Denies {
    now: bool,
    asked: Vec<State>,
}

impl Twist for Arc<Mutex<Denies>> {
    fn feature(
        &mut self,
        device: &mut OpsTransport,
        request: FeatureRequest,
        payload: &mut [u8],
    ) -> std::result::Result<(), Errno> {
        device.feature(request, payload)?;
        let mut denies = self.lock().unwrap();
        if request == FeatureRequest::set(uapi::FEATURE_MIG_DEVICE_STATE) {
            let state = u32::from_ne_bytes(payload[..4].try_into().unwrap());
            denies.asked.push(State::from_raw(state));
            if std::mem::take(&mut denies.now) {
                return Err(Errno(libc::EIO));
            }
        }
        Ok(())
    }
}

#[test]
fn a_device_that_is_quiesced_although_it_denies_it_does_not_run_again() {
    let denies = Arc::new(Mutex::new(Denies::default()));
    let side = twisted_side(options(7, 1), Arc::clone(&denies));
    let mut save = side.device.save(SaveOptions::default()).unwrap();
    *denies.lock().unwrap() = Denies { now: true, asked: vec![] };
    let failure = failure(save.quiesce());
    assert_eq!(failure.outcome, Outcome::Recovered);
    assert_eq!(failure.state_after, Some(State::RunningP2p));
    assert_eq!(denies.lock().unwrap().asked, [State::PreCopyP2p, State::RunningP2p]);
    save.finish(Ending::Keep).unwrap();
    assert_eq!(name(&side), State::Running);
    drop(save);
    check_clean(&side);
}

#[test]
fn what_the_last_step_costs_is_reported() {
    for (reset, outcome) in [(true, Outcome::Reset), (false, Outcome::Lost)] {
        let quirks = if reset { 0 } else { quirk::NO_RESET };
        let mut vm = Vm::new(1, |seed| SimOptions { quirks, ..options(7, seed) });
        vm.begin();
        vm.sides[0].sim.inject(Op::SetState, 1, libc::EBUSY, Effect::Once);
        vm.sides[0].sim.inject(Op::SetState, 3, libc::EIO, Effect::Error);
        let error = vm.saves[0].quiesce().unwrap_err();
        let failure = *error.failure().unwrap();
        assert_eq!(failure.outcome, outcome, "{error}");
        assert_eq!(failure.state_after, reset.then_some(State::Running), "{error}");
        assert!(!failure.fixups.is_empty(), "{error}");
        // The errno is that of what was asked for.
        assert_eq!(failure.errno, libc::EBUSY);
        assert_eq!(failure.state_wanted, Some(State::PreCopyP2p));
        let kept = self::failure(vm.saves[0].finish(Ending::Keep));
        assert_eq!(kept.outcome, outcome);
    }
}

#[test]
fn a_device_without_such_a_state_goes_back_to_running() {
    for flags in [1, 5] {
        for (effect, outcome) in
            [(Effect::Once, Outcome::Recovered), (Effect::Error, Outcome::Reset)]
        {
            let mut vm = half_stopped(flags);
            // Without pre-copy, a refused change leaves it where it was.
            let effect = if flags == 1 && effect == Effect::Once { Effect::Half } else { effect };
            vm.sides[1].sim.inject(Op::SetState, 1, libc::EIO, effect);
            let failure = failure(vm.saves[1].stop());
            assert_eq!(failure.outcome, outcome, "{flags} {effect:?}");
            assert_eq!(failure.state_after, Some(State::Running));
        }
    }
}

#[test]
fn a_device_whose_guest_was_paused_stands_still_again_after_a_reset() {
    let vm = Vm::new(1, |seed| options(7, seed));
    vm.sides[0].device.set_state(State::Stop).unwrap();
    let mut save = vm.sides[0].device.save(SaveOptions::default()).unwrap();
    vm.sides[0].sim.inject(Op::SetState, 1, libc::EIO, Effect::Error);
    let failure = failure(save.stop());
    assert_eq!((failure.outcome, failure.state_after), (Outcome::Reset, Some(State::Stop)));
    assert_eq!(name(&vm.sides[0]), State::Stop);
    assert_eq!(save.finish(Ending::Keep).unwrap_err().code(), Code::Io);
    assert_eq!(name(&vm.sides[0]), State::Stop);
}

#[test]
fn a_save_that_fails_while_its_guest_runs_leaves_it_running() {
    // A start again that fails. In the second case the guest was to be switched over before, and the
    // call was refused.
    for refused in [false, true] {
        let quirks = quirk::PRECOPY_INFO_V2;
        let mut vm = Vm::new(1, |seed| SimOptions { quirks, ..options(7, seed) });
        vm.begin();
        if refused {
            vm.sides[0].sim.reinit();
            assert_eq!(vm.saves[0].quiesce().unwrap_err().code(), Code::Again);
        }
        vm.sides[0].sim.guest_reset();
        vm.sides[0].device.was_reset().unwrap();
        vm.sides[0].sim.inject(Op::SetState, 1, libc::EIO, Effect::Error);
        let error = vm.saves[0].next(&mut [0; 4096]).unwrap_err();
        assert_eq!(error.failure().unwrap().outcome, Outcome::Reset);
        assert_eq!(error.failure().unwrap().state_after, Some(State::Running));
        assert_eq!(name(&vm.sides[0]), State::Running);
        // It runs, but its guest had not asked for this reset.
        let failure = failure(vm.saves[0].finish(Ending::Keep));
        assert_eq!((failure.outcome, failure.state_after), (Outcome::Reset, Some(State::Running)));
    }
}

#[test]
fn a_guest_that_resets_its_device_too_often_leaves_it_quiesced_in_a_switchover() {
    let mut vm = Vm::new(1, |seed| options(7, seed));
    let save = SaveOptions { max_restarts: 0, ..SaveOptions::default() };
    vm.saves.push(vm.sides[0].device.save(save).unwrap());
    while vm.saves[0].next(&mut [0; 4096]).unwrap().status != SaveStatus::Drained {}
    vm.sides[0].sim.guest_reset();
    assert_eq!(vm.saves[0].quiesce().unwrap_err().code(), Code::NoDev);
    assert_eq!(name(&vm.sides[0]), State::RunningP2p);
    vm.saves[0].finish(Ending::Keep).unwrap();
    assert_eq!(name(&vm.sides[0]), State::Running);
}

#[test]
fn an_ending_that_has_to_reset_the_device_leaves_it_where_it_was_to_end() {
    for (ending, to) in [
        (Ending::KeepQuiesced, State::RunningP2p),
        (Ending::KeepStopped, State::Stop),
        (Ending::Keep, State::Running),
    ] {
        // Asked for its state, it is in ERROR; or it refuses the way back.
        for (op, effect) in [(Op::GetState, Effect::Error), (Op::SetState, Effect::Once)] {
            let mut vm = half_stopped(7);
            vm.saves[1].stop().unwrap();
            vm.sides[1].sim.inject(op, 1, libc::EIO, effect);
            let failure = failure(vm.saves[1].finish(ending));
            assert_eq!(failure.outcome, Outcome::Reset, "{ending:?} {op:?}");
            assert_eq!(failure.state_after, Some(to), "{ending:?} {op:?}");
            assert_eq!(vm.saves[1].failure(), Some(failure));
            assert_eq!(name(&vm.sides[1]), to, "{ending:?} {op:?}");
            assert_eq!(vm.sides[1].device.run().unwrap_err().code(), Code::Io);
        }
    }
}

#[test]
fn a_way_back_that_is_refused_in_running_is_not_tried_again() {
    let mut vm = Vm::new(1, |seed| options(3, seed));
    vm.saves.push(vm.sides[0].device.save(SaveOptions::default()).unwrap());
    vm.sides[0].sim.inject(Op::SetState, 1, libc::EBUSY, Effect::Once);
    let failure = failure(vm.saves[0].finish(Ending::KeepQuiesced));
    assert_eq!((failure.outcome, failure.state_after), (Outcome::Kept, Some(State::Running)));
    assert_eq!(vm.sides[0].sim.count(Op::SetState), 1);
}

#[test]
fn a_release_that_has_to_reset_the_device_succeeds_and_is_not_hidden() {
    let mut vm = half_stopped(7);
    vm.saves[1].stop().unwrap();
    while vm.saves[1].next(&mut [0; 4096]).unwrap().status != SaveStatus::End {}
    vm.told(1);
    vm.sides[1].sim.inject(Op::SetState, 1, libc::EIO, Effect::Once);
    vm.saves[1].finish(Ending::Release).unwrap();
    assert_eq!(name(&vm.sides[1]), State::Stop);
    assert!(vm.told(1).contains(&(What::Reset, State::Running)));
    let failure = vm.sides[1].device.failure().unwrap().unwrap();
    assert_eq!((failure.outcome, failure.state_after), (Outcome::Reset, Some(State::Stop)));
    assert_eq!((failure.state_before, failure.errno), (Some(State::StopCopy), libc::EIO));
    let error = vm.sides[1].device.run().unwrap_err();
    assert_eq!((error.code(), error.failure().unwrap().outcome), (Code::Io, Outcome::Reset));
}

/// A switchover during which one operation of the second device fails, and what a VMM does then.
struct Switchover {
    vm: Vm,
    /// The first device takes its steps before the second, or after it.
    first_first: bool,
}

impl Switchover {
    fn order(&self) -> [usize; 2] {
        if self.first_first { [0, 1] } else { [1, 0] }
    }

    #[track_caller]
    fn check(&self, when: &str, case: &str) {
        let (a, b) = (&self.vm.sides[0].sim, &self.vm.sides[1].sim);
        let bad = stands(a) && runs(b) || stands(b) && runs(a);
        let states = (name(&self.vm.sides[0]), name(&self.vm.sides[1]));
        assert!(!bad, "{case}: {when}: {states:?}");
        assert_eq!(*self.vm.early.lock().unwrap(), [0; 0], "{case}: {when}");
    }

    /// Up to the end of both streams.
    fn stop(&mut self) -> std::result::Result<(), (usize, Error)> {
        for number in self.order() {
            self.vm.saves[number].quiesce().map_err(|error| (number, error))?;
        }
        for number in self.order() {
            self.vm.saves[number].stop().map_err(|error| (number, error))?;
        }
        for number in self.order() {
            while self.vm.saves[number].next(&mut [0; 4096]).map_err(|e| (number, e))?.status
                != SaveStatus::End
            {}
        }
        Ok(())
    }

    /// Returns whether the fault struck.
    fn run(mut self, op: Op, nth: u64, effect: Effect) -> bool {
        let case = format!("{op:?} {nth} {effect:?} first: {}", self.first_first);
        self.vm.begin();
        let counted = self.vm.sides[1].sim.count(op);
        self.vm.sides[1].sim.inject(op, nth, libc::EIO, effect);
        let stopped = self.stop();
        if let Err((number, error)) = &stopped {
            assert_eq!(*number, 1, "{case}: {error}");
            // Both are quiesced before either stands still.
            self.check("after the failure", &case);
        }
        for number in self.order().into_iter().rev() {
            let kept = self.vm.saves[number].finish(Ending::KeepQuiesced);
            self.check("at the end of one save", &case);
            let state = name(&self.vm.sides[number]);
            match &kept {
                // It failed when it was asked where it is, and could not say so.
                Ok(()) if effect == Effect::Error && state == State::Error => {}
                Ok(()) => assert_eq!(state, State::RunningP2p, "{case}"),
                Err(error) => {
                    let failure = error.failure().unwrap();
                    assert_eq!(failure.state_after, Some(state), "{case}: {error}");
                    // Nothing is lost: the same step once more, before any device is run.
                    if matches!(failure.outcome, Outcome::Kept | Outcome::Recovered) {
                        self.vm.sides[number].device.set_state(State::RunningP2p).unwrap();
                    }
                }
            }
        }
        for side in &self.vm.sides {
            // One that has lost its guest's state says so, however that came.
            let intact = |error: &Error| error.failure().unwrap().outcome == Outcome::Kept;
            let ran = side.device.run();
            // What was merely refused works the second time.
            let ran = if ran.as_ref().is_err_and(intact) { side.device.run() } else { ran };
            if let Err(error) = ran {
                assert_eq!(error.failure().unwrap().outcome, Outcome::Reset, "{case}: {error}");
            }
            self.check("at the end", &case);
            check_clean(side);
        }
        self.vm.sides[1].sim.count(op) - counted >= nth
    }
}

#[test]
fn no_device_runs_before_all_have_left_the_stopped_states_whatever_fails() {
    let mut struck = 0;
    for flags in [3, 7] {
        for first_first in [true, false] {
            for op in [Op::SetState, Op::GetState, Op::Read, Op::Any] {
                for effect in [Effect::Once, Effect::Error, Effect::Half, Effect::Ignored] {
                    for nth in 1.. {
                        let vm = Vm::new(2, |seed| options(flags, seed));
                        if !(Switchover { vm, first_first }).run(op, nth, effect) {
                            break;
                        }
                        struck += 1;
                    }
                }
            }
        }
    }
    assert!(struck > 150, "only {struck} faults struck");
}
