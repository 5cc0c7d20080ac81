// SPDX-License-Identifier: MIT OR Apache-2.0
//! Resets: those that the library makes, those that it is told of, and those that it discovers.
//!
//! The kernel's reset takes a device to RUNNING and ends its data stream. A device behind callbacks
//! may be reset and stay in its migration state, or may refuse a reset while it is stopped. Such a
//! device is then taken to RUNNING by changes of state (docs/kernel-interface.md).

use std::time::{Duration, Instant};

use super::events::EventKind;
use super::recovery::elapsed_ns;
use super::{Fixups, Inner};
use crate::error::{Errno, Error, Failure, Operation, Outcome, Result, err};
use crate::fsm::State;
use crate::protocol::Changed;
use crate::uapi;

/// How long a reset is retried while something else holds the device's lock: error recovery and a
/// neighbour's resets take tens to hundreds of milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

impl Inner {
    /// Resets the device, and checks whether that worked.
    pub(crate) fn reset(&mut self) -> Result<()> {
        let before = self.state.take();
        self.drop_data();
        let start = Instant::now();
        let after = self.reset_to_running();
        self.next_epoch(before);
        self.note_fixups(Fixups::AFTER_RESET_OR_LOAD);
        self.owes_reset = after != Ok(State::Running);
        if after == Ok(State::Running) {
            self.state = Some(State::Running);
            self.forget_bad_state();
            self.emit(EventKind::Reset, before, Outcome::Reset, elapsed_ns(start));
            return Ok(());
        }
        let errno = after.err().unwrap_or(Errno(libc::EIO));
        // Whatever the device does now, nothing that we believe of it is reliable.
        self.state = None;
        self.emit(EventKind::Reset, before, Outcome::Lost, elapsed_ns(start));
        let end = "the device is lost until a harder reset";
        let error = match after {
            Ok(state) => {
                err!(Io, "resetting the device failed: the device is in {state} afterwards; {end}")
            }
            Err(_) => Error::from_args(
                errno.code(),
                format_args!("resetting the device failed: {errno}; {end}"),
            ),
        };
        Err(error.with_failure(Failure {
            operation: Operation::Reset,
            ioctl: uapi::VFIO_DEVICE_RESET,
            errno: errno.0,
            state_before: before,
            state_wanted: Some(State::Running),
            state_after: None,
            outcome: Outcome::Lost,
            fixups: self.fixups(),
            ..Failure::default()
        }))
    }

    /// Others reset the device, according to the VMM.
    pub(super) fn note_told_reset(&mut self) -> Result<()> {
        let before = self.state;
        self.drop_data();
        self.next_epoch(before);
        self.note_fixups(Fixups::AFTER_RESET_OR_LOAD);
        self.state = None;
        let result = self.ask_state().map(|state| {
            // The library leaves RESUMING only by a reset of its own. The VMM's word is not enough,
            // because behind the callbacks there may be a kernel driver.
            if state != State::Resuming {
                let _ = self.leave_kept_state(state);
            }
            self.owes_reset &= self.state.is_some_and(State::has_data_stream);
            if self.state == Some(State::Running) {
                self.forget_bad_state();
            }
        });
        self.emit(EventKind::Reset, before, Outcome::Reset, 0);
        result
    }

    /// The device was reset behind the library's back; it was in `before`.
    pub(super) fn note_found_reset(&mut self, before: Option<State>) {
        self.next_epoch(before);
        self.note_fixups(Fixups::AFTER_RESET_OR_LOAD);
        self.emit(EventKind::Reset, before, Outcome::Reset, 0);
    }

    /// The reset itself; returns the state of the device afterwards.
    fn reset_to_running(&mut self) -> std::result::Result<State, Errno> {
        match self.try_reset() {
            // A device without migration has no state to read.
            Ok(()) if !self.caps.can_migrate() => return Ok(State::Running),
            Ok(()) => {}
            // A server refused it because the device is stopped.
            Err(Errno(libc::EINVAL)) if self.transport.keeps_state_over_reset() => {
                if self.query_state()? == State::Running {
                    return Err(Errno(libc::EINVAL));
                }
            }
            Err(errno) => return Err(errno),
        }
        let kept = self.query_state()?;
        if kept == State::Running || !self.leave_kept_state(kept) {
            return Ok(kept);
        }
        // On the way, a device that was being loaded may have accepted what it had been given.
        self.try_reset()?;
        self.query_state()
    }

    /// `VFIO_DEVICE_RESET`, retried for a while if something else holds the device's lock.
    fn try_reset(&mut self) -> std::result::Result<(), Errno> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            match self.transport.reset() {
                Err(Errno(libc::EAGAIN | libc::EBUSY | libc::EINTR))
                    if start.elapsed() < PATIENCE =>
                {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                done => return done,
            }
        }
    }

    /// Takes a device that a reset has left in `kept` to RUNNING; returns whether it is there now.
    fn leave_kept_state(&mut self, kept: State) -> bool {
        if kept == State::Running {
            return true;
        }
        // Walking a kernel driver out of a session without its data fd has crashed kernels, and no
        // kernel keeps one across a reset.
        let may_walk = !kept.has_data_stream() || self.transport.keeps_state_over_reset();
        if !may_walk || self.fsm.path(kept, State::Running).is_none() {
            return false;
        }
        let asked = matches!(self.request(State::Running, false), Changed::Done);
        if asked && self.get_state() == Ok(State::Running) {
            self.state = Some(State::Running);
            return true;
        }
        false
    }
}
