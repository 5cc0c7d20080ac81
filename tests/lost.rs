// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device held for its guest is gone, or could be taken for it: whoever would let the guest
//! go on must hear of it, and nothing that the library does by itself may take it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{Side, Twist, check_clean, side, twisted_side};
use vfiomig::device::{DeviceOptions, State};
use vfiomig::error::{Code, Errno, Error, Outcome};
use vfiomig::session::{Ending, Save, SaveOptions, SaveStatus};
use vfiomig::transport::{DataFd, FeatureRequest, OpsTransport, Transport};
use vfiomig::{Device, Result};
use vfiomig_sim::{Effect, Op, Sim, SimOptions};

fn options() -> SimOptions {
    SimOptions { state_size: 10_000, ..SimOptions::default() }
}

fn save(side: &Side) -> Save {
    side.device.save(SaveOptions::default()).unwrap()
}

fn is_lost<T: std::fmt::Debug>(result: Result<T>) {
    let error: Error = result.unwrap_err();
    assert_eq!(error.code(), Code::Io, "{error}");
    assert_eq!(error.failure().unwrap().outcome, Outcome::Reset, "{error}");
}

#[test]
fn a_device_in_running_p2p_holds_what_its_stopped_guest_has_in_it() {
    // However it came there.
    for kept in [false, true] {
        let paused = side(options());
        match kept {
            true => save(&paused).finish(Ending::KeepQuiesced).unwrap(),
            false => paused.device.set_state(State::RunningP2p).unwrap(),
        }
        paused.sim.guest_reset();
        is_lost(paused.device.run());
        is_lost(paused.device.save(SaveOptions::default()).map(drop));
        paused.device.set_state(State::Stop).unwrap();
        is_lost(paused.device.run());
        paused.device.accept_reset().unwrap();
        paused.device.run().unwrap();
        check_clean(&paused);
    }
    // Nor did the guest of one that is found like that reset it.
    let found = side(SimOptions { initial_state: vfiomig_sim::State::RUNNING_P2P, ..options() });
    found.sim.guest_reset();
    is_lost(found.device.run());
    // A guest that runs may do what it likes.
    let running = side(options());
    running.device.set_state(State::RunningP2p).unwrap();
    running.device.run().unwrap();
    running.sim.guest_reset();
    running.device.set_state(State::Stop).unwrap();
    running.device.run().unwrap();
}

#[test]
fn keeping_a_device_says_that_recovery_has_reset_it_under_a_running_guest() {
    for ending in [Ending::Keep, Ending::KeepQuiesced, Ending::KeepStopped] {
        let source = side(options());
        let mut first = save(&source);
        first.next(&mut [0; 4096]).unwrap();
        source.sim.guest_reset();
        source.sim.inject(Op::SetState, 1, libc::EIO, Effect::Error);
        is_lost((0..9).try_for_each(|_| first.next(&mut [0; 4096]).map(drop)));
        is_lost(first.finish(ending));
        drop(first);
        source.device.run().unwrap();
        // That was one session's business. In another, its guest resets it.
        let mut second = save(&source);
        second.next(&mut [0; 4096]).unwrap();
        source.sim.guest_reset();
        while second.next(&mut [0; 4096]).unwrap().status != SaveStatus::Drained {}
        second.finish(Ending::Keep).unwrap();
        check_clean(&source);
    }
}

#[test]
fn a_state_that_could_not_be_read_once_is_asked_for_again_and_nothing_is_reset() {
    for initial in [vfiomig_sim::State::RUNNING, vfiomig_sim::State::STOP] {
        for to in [State::Running, State::RunningP2p, State::Stop] {
            let sim = Sim::new(SimOptions { initial_state: initial, ..options() }).unwrap();
            sim.inject(Op::GetState, 1, libc::EIO, Effect::Once);
            let device = Device::new(sim.transport(), DeviceOptions::default()).unwrap();
            device.set_state(to).unwrap();
            assert_eq!((sim.count(Op::Reset), device.state().unwrap()), (0, to));
        }
    }
    // After its guest has reset it and set it up again.
    let told = side(options());
    told.sim.guest_reset();
    told.sim.guest_write(10, 500, 99).unwrap();
    let digest = told.sim.digest();
    told.sim.inject(Op::GetState, 1, libc::EIO, Effect::Once);
    told.device.was_reset().unwrap_err();
    told.device.run().unwrap();
    assert_eq!((told.sim.count(Op::Reset), told.sim.digest()), (0, digest));
    // One that never answers is left alone, too.
    let dumb = side(options());
    dumb.sim.inject(Op::GetState, 1, libc::EIO, Effect::Sticky);
    dumb.device.was_reset().unwrap_err();
    let error = dumb.device.run().unwrap_err();
    assert_eq!((error.code(), error.failure().unwrap().outcome), (Code::Io, Outcome::Kept));
    assert_eq!(dumb.sim.count(Op::Reset), 0);
}

/// A server whose streams end when the device is reset, and which a few times, when it is asked
/// which state the device is in, does not say.
struct Server(Arc<AtomicU32>);

impl Twist for Server {
    fn feature(
        &mut self,
        device: &mut OpsTransport,
        request: FeatureRequest,
        payload: &mut [u8],
    ) -> std::result::Result<(), Errno> {
        let silent = self.0.load(Ordering::Relaxed);
        if request == FeatureRequest::get(2) && silent > 0 {
            self.0.store(silent - 1, Ordering::Relaxed);
            return Err(Errno(libc::EIO));
        }
        device.feature(request, payload)
    }

    fn data_read(
        &mut self,
        device: &mut OpsTransport,
        data: DataFd,
        buf: &mut [u8],
    ) -> std::result::Result<usize, Errno> {
        match device.data_read(data, buf) {
            Err(Errno(libc::ENODEV)) => Ok(0),
            other => other,
        }
    }
}

#[test]
fn the_end_of_a_stream_counts_only_while_the_device_says_that_it_is_stopped() {
    for silent in [0, 1, 2, 3, 50] {
        let answers = Arc::new(AtomicU32::new(0));
        let size = SimOptions { state_size: 1 << 20, ..SimOptions::default() };
        let source = twisted_side(size, Server(Arc::clone(&answers)));
        let mut save = save(&source);
        save.stop().unwrap();
        save.next(&mut [0; 8192]).unwrap();
        source.sim.guest_reset();
        answers.store(silent, Ordering::Relaxed);
        let error = loop {
            match save.next(&mut [0; 8192]) {
                Ok(next) => assert_ne!(next.status, SaveStatus::End, "{silent}"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code(), Code::Io, "{silent}: {error}");
        assert_eq!(save.finish(Ending::Release).unwrap_err().code(), Code::Inval);
        answers.store(0, Ordering::Relaxed);
        is_lost(save.finish(Ending::Keep));
        is_lost(source.device.run());
        check_clean(&source);
    }
}
