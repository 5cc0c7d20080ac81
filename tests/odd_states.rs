// SPDX-License-Identifier: MIT OR Apache-2.0
//! Drivers that say that they are in a state into which nobody put them. What a state means for the
//! guest is decided by what the driver says, and never by what it was told.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::sync::{Arc, Mutex};

use common::{Side, Twist, check_clean, side, small, stream_of, twisted_side};
use vfiomig::device::State;
use vfiomig::error::{Code, Errno, Operation, Outcome};
use vfiomig::session::{LoadOptions, SaveOptions};
use vfiomig::transport::{FeatureRequest, OpsTransport, Transport};
use vfiomig::uapi;
use vfiomig_sim::{Effect, Op};

const GET_STATE: FeatureRequest = FeatureRequest::get(uapi::FEATURE_MIG_DEVICE_STATE);
const SET_STATE: FeatureRequest = FeatureRequest::set(uapi::FEATURE_MIG_DEVICE_STATE);

/// What a driver does, and what it was asked.
#[derive(Default)]
struct Habit {
    /// It says that it is in this state until it is reset.
    says: Option<State>,
    /// A change is answered with this errno and not made; the device then says that it is in this
    /// state.
    refuses: Option<(i32, State)>,
    /// Resets leave it in this state, and it goes on refusing what it refuses.
    stays: Option<State>,
    /// States that were asked for, and resets, as numbers; a reset is `RESET`.
    asked: Vec<u32>,
}

const RESET: u32 = 99;

impl Twist for Arc<Mutex<Habit>> {
    fn feature(
        &mut self,
        device: &mut OpsTransport,
        request: FeatureRequest,
        payload: &mut [u8],
    ) -> Result<(), Errno> {
        let mut habit = self.lock().unwrap();
        if request == SET_STATE {
            habit.asked.push(u32::from_ne_bytes(payload[..4].try_into().unwrap()));
            if let Some((errno, state)) = habit.refuses {
                habit.says = Some(state);
                return Err(Errno(errno));
            }
        }
        device.feature(request, payload)?;
        if let (GET_STATE, Some(state)) = (request, habit.says) {
            payload[..4].copy_from_slice(&state.raw().to_ne_bytes());
        }
        Ok(())
    }

    fn reset(&mut self, device: &mut OpsTransport) -> Result<(), Errno> {
        let mut habit = self.lock().unwrap();
        habit.asked.push(RESET);
        match habit.stays {
            Some(_) => habit.says = habit.stays,
            None => (habit.says, habit.refuses) = (None, None),
        }
        device.reset()
    }
}

fn odd(seed: u64) -> (Side, Arc<Mutex<Habit>>) {
    let habit = Arc::new(Mutex::new(Habit::default()));
    (twisted_side(small(seed), Arc::clone(&habit)), habit)
}

#[test]
fn a_device_that_is_not_in_resuming_any_more_is_not_committed() {
    let stream = stream_of(&side(small(1)).device, SaveOptions::default()).unwrap();
    let others = [
        State::Error,
        State::Stop,
        State::StopCopy,
        State::RunningP2p,
        State::PreCopy,
        State::PreCopyP2p,
        State::from_raw(77),
    ];
    for state in others {
        let (target, habit) = odd(2);
        let empty = target.sim.digest();
        let mut load = target.device.load(LoadOptions::default()).unwrap();
        assert!(load.push(&stream).unwrap().ended);
        {
            let mut habit = habit.lock().unwrap();
            habit.says = Some(state);
            habit.asked.clear();
        }
        let error = load.commit().unwrap_err();
        assert_eq!(error.code(), Code::NoDev, "{state}: {error}");
        assert_eq!(error.failure().unwrap().outcome, Outcome::Reset, "{state}");
        // It was asked for nothing but the reset that abandons the state.
        assert_eq!(habit.lock().unwrap().asked, [RESET], "{state}");
        assert_eq!(target.sim.state(), vfiomig_sim::State::RUNNING);
        assert_eq!(target.sim.digest(), empty);
        drop(load);
        check_clean(&target);
    }
}

#[test]
fn a_device_that_does_not_say_where_it_is_is_not_committed_and_the_error_says_why() {
    let stream = stream_of(&side(small(1)).device, SaveOptions::default()).unwrap();
    for (errno, code) in [(libc::EIO, Code::Io), (libc::ENODEV, Code::NoDev)] {
        let target = side(small(2));
        let mut load = target.device.load(LoadOptions::default()).unwrap();
        assert!(load.push(&stream).unwrap().ended);
        target.sim.inject(Op::GetState, 1, errno, Effect::Once);
        let error = load.commit().unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains("state cannot be read"), "{error}");
        let failure = error.failure().unwrap();
        assert_eq!((failure.operation, failure.errno), (Operation::GetState, errno));
        assert_eq!(failure.outcome, Outcome::Reset);
        assert_eq!(target.sim.state(), vfiomig_sim::State::RUNNING);
        drop(load);
        check_clean(&target);
    }
}

#[test]
fn a_device_that_is_found_in_resuming_is_left_by_a_reset_only() {
    // Each change of a save that is undone if it fails.
    for (step, wanted) in [State::PreCopy, State::PreCopyP2p, State::StopCopy].iter().enumerate() {
        let (source, habit) = odd(1);
        let refuse = || {
            let mut habit = habit.lock().unwrap();
            habit.refuses = Some((libc::EIO, State::Resuming));
            habit.asked.clear();
        };
        let mut save = None;
        let error = if step == 0 {
            refuse();
            source.device.save(SaveOptions::default()).err().unwrap()
        } else {
            let save = save.insert(source.device.save(SaveOptions::default()).unwrap());
            if step == 2 {
                save.quiesce().unwrap();
            }
            refuse();
            if step == 1 { save.quiesce() } else { save.stop() }.unwrap_err()
        };
        assert_eq!(error.failure().unwrap().outcome, Outcome::Reset, "{wanted}: {error}");
        // Nobody knows what a device in RESUMING has accepted, so no change leads out of it. What was
        // to be switched over leaves RUNNING at once.
        let asked = [wanted.raw(), RESET, State::RunningP2p.raw()];
        let asked = if step == 0 { &asked[..2] } else { &asked };
        assert_eq!(habit.lock().unwrap().asked, asked, "{wanted}");
        drop(save);
        assert_eq!(source.sim.state(), vfiomig_sim::State::RUNNING);
        check_clean(&source);
    }
}

#[test]
fn a_reset_that_leaves_a_device_elsewhere_leaves_nothing_to_believe() {
    for stays in [State::Stop, State::RunningP2p, State::Error] {
        let (device, habit) = odd(1);
        {
            let mut habit = habit.lock().unwrap();
            habit.stays = Some(stays);
            habit.refuses = Some((libc::EIO, stays));
        }
        let error = device.device.reset().unwrap_err();
        assert_eq!(error.failure().unwrap().outcome, Outcome::Lost, "{stays}: {error}");
        habit.lock().unwrap().asked.clear();
        // It says that it is in a state from which devices are saved: that was so before as well.
        let error = device.device.save(SaveOptions::default()).err().unwrap();
        assert_eq!(error.code(), Code::Io, "{stays}: {error}");
        assert!(error.message().contains("lost"), "{stays}: {error}");
        assert_eq!(habit.lock().unwrap().asked, [0; 0], "{stays}");
        habit.lock().unwrap().stays = None;
        device.device.reset().unwrap();
        assert_eq!(device.sim.state(), vfiomig_sim::State::RUNNING);
        check_clean(&device);
    }
}
