// SPDX-License-Identifier: MIT OR Apache-2.0
//! Resets: those that the library makes, those that it is told of, and those that it discovers.
//!
//! The kernel's reset takes a device to RUNNING and ends its data stream. A device behind callbacks
//! may be reset and stay in its migration state, or may refuse a reset while it is stopped. Such a
//! device is then taken to RUNNING by changes of state (docs/kernel-interface.md).

use std::time::Instant;

use super::belief::Claim;
use super::inner::Inner;
use crate::error::{Errno, Error, Failure, Operation, Outcome, Result, err};
use crate::fsm::State;
use crate::history::Cause;
use crate::nanoseconds::elapsed_ns;
use crate::protocol::Changed;
use crate::uapi;

impl Inner {
    /// Resets the device, and checks whether that worked.
    pub(crate) fn reset(&mut self, cause: Cause) -> Result<()> {
        let before = self.belief.forget_state();
        self.link.close();
        let start = Instant::now();
        let after = self.reset_to_running();
        self.belief.was_reset(before);
        self.belief.owe_reset(after != Ok(State::Running));
        if after == Ok(State::Running) {
            self.belief.is_now_in(State::Running);
            self.forget_bad_state();
            self.emit_reset(before, Outcome::Reset, elapsed_ns(start), cause);
            return Ok(());
        }
        let errno = after.err().unwrap_or(Errno(libc::EIO));
        // Whatever the device does now, nothing that we believe of it is reliable.
        self.belief.forget_state();
        self.note_failed(Operation::Reset, errno.0, format_args!("{errno}"));
        self.emit_reset(before, Outcome::Lost, elapsed_ns(start), cause);
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

    /// Something else has reset the device, according to the VMM.
    pub(super) fn note_told_reset(&mut self) -> Result<()> {
        let before = self.state_now();
        self.link.close();
        // The word that a device which is being loaded was reset is not enough to have it run.
        if before != Some(State::Resuming) {
            self.link.note_reset();
        }
        self.belief.was_reset(before);
        self.belief.forget_state();
        let result = self.ask_state().map(|state| {
            // The library leaves RESUMING only by a reset of its own. The VMM's word is not enough,
            // because behind the callbacks there may be a kernel driver.
            if state != State::Resuming {
                let _ = self.leave_kept_state(state);
            }
            let now = self.state_now();
            let owes = self.belief.owes_reset() && now.is_some_and(State::has_data_stream);
            self.belief.owe_reset(owes);
            if now == Some(State::Running) {
                self.forget_bad_state();
            }
        });
        self.emit_reset(before, Outcome::Reset, 0, Cause::Told);
        result
    }

    /// The reset itself; returns the state of the device afterwards.
    fn reset_to_running(&mut self) -> std::result::Result<State, Errno> {
        match self.link.reset() {
            // A device without migration has no state to read.
            Ok(()) if !self.caps().can_migrate() => return Ok(State::Running),
            Ok(()) => {}
            // A server refused it because the device is stopped.
            Err(Errno(libc::EINVAL)) if self.link.keeps_state_over_reset() => {
                if self.link.leave_unknown() {
                    self.link.reset()?;
                } else if self.query_state()? == State::Running {
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
        self.link.reset()?;
        self.query_state()
    }

    /// Takes a device that a reset has left in `kept` to RUNNING; returns whether it is there now.
    fn leave_kept_state(&mut self, kept: State) -> bool {
        if kept == State::Running {
            return true;
        }
        // Walking a kernel driver out of a session without its data fd has crashed kernels, and no
        // kernel keeps one across a reset.
        let may_walk = !kept.has_data_stream() || self.link.keeps_state_over_reset();
        if !may_walk || self.fsm().path(kept, State::Running).is_none() {
            return false;
        }
        let asked = matches!(self.request(kept, State::Running, false), Changed::Done);
        if asked && self.link.state() == Ok(State::Running) {
            self.belief.is_now_in(State::Running);
            return true;
        }
        false
    }
}

impl Drop for Inner {
    /// The last handle of the device is gone. Sessions have ended before, because they hold the
    /// device. So a session's state without a session can only be left after a panic, for example,
    /// or after a failed reset. Some drivers keep such a state across a close and fail the next
    /// owner.
    fn drop(&mut self) {
        if !self.process.is_this() {
            return;
        }
        self.link.close();
        if self.claimed() == Claim::None && !self.belief.owes_reset() {
            return;
        }
        if let Err(error) = self.reset(Cause::LetGo) {
            log::error!(target: "vfiomig::device", "resetting a device that is let go: {error}");
        }
    }
}
