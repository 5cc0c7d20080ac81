//! Changes of state, and the ladder that is climbed down when one fails.
//!
//! A failed change leaves the device in any state along its path and says nothing about which.
//! The ladder: drop the data fd unless the device never left its state and had none, ask where
//! the device is, try once to go to the state to recover to, reset, report. Only
//! `VFIO_DEVICE_RESET` is used; harder resets are the VMM's decision. Nothing here ends the
//! process, and nothing tries the same arc twice: drivers are known to be confused by that
//! (docs/kernel-interface.md).

use std::time::Instant;

use super::events::EventKind;
use super::fsm::State;
use super::{Contents, Fixups, Inner, probe};
use crate::error::{Code, Errno, Error, Failure, Operation, Outcome, Result};
use crate::transport::DataFd;
use crate::uapi;

/// Where to go when a change fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Recover {
    /// To this state, once; then reset.
    To(State),
    /// Nowhere: a device that stopped on the way, in a state without a stream, is whole, and the
    /// caller may try again. Otherwise reset.
    Stay,
    /// Reset at once, unless the device is still where it was.
    Reset,
}

/// What a request for a change brought.
enum Changed {
    Done,
    /// The kernel's errno.
    Refused(Errno),
    /// The driver broke the interface's rules.
    Broken(&'static str),
}

impl Inner {
    /// Takes the device to a state; returns how long that took, in nanoseconds. An illegal change
    /// is refused before the device hears of it.
    pub(crate) fn transition(&mut self, to: State, recover: Recover) -> Result<u64> {
        let Some(from) = self.state else {
            return Err(lost());
        };
        let Some(path) = self.fsm.path(from, to) else {
            return Err(Error::new(
                Code::Inval,
                format!(
                    "the device cannot go from {from} to {to} (migration flags {:#x})",
                    self.caps.migration_flags
                ),
            )
            .with_failure(Failure {
                operation: Operation::SetState,
                state_before: Some(from),
                state_wanted: Some(to),
                state_after: Some(from),
                fixups: self.fixups(),
                ..Failure::default()
            }));
        };
        if path.steps.is_empty() {
            return Ok(0);
        }
        self.may_write();
        let start = Instant::now();
        let changed = self.request(to, path.opens_data);
        let ns = elapsed_ns(start);
        let (errno, why) = match changed {
            Changed::Done => {
                self.state = Some(to);
                if to == State::Running {
                    self.contents = Contents::Own;
                }
                self.emit(EventKind::StateChanged, Some(from), Outcome::Kept, ns);
                return Ok(ns);
            }
            Changed::Refused(errno) => (errno, errno.to_string()),
            Changed::Broken(why) => (Errno(libc::EIO), why.to_owned()),
        };
        log::warn!(target: "vfiomig::device", "{from} -> {to} failed: {why}");
        let outcome = self.recover(from, recover);
        let text = format!(
            "taking the device from {from} to {to} failed: {why}; {}",
            describe(outcome, self.state)
        );
        Err(Error::new(errno.code(), text).with_failure(Failure {
            operation: Operation::SetState,
            ioctl: uapi::VFIO_DEVICE_FEATURE,
            errno: errno.0,
            state_before: Some(from),
            state_wanted: Some(to),
            state_after: self.state,
            outcome,
            fixups: self.fixups(),
            ..Failure::default()
        }))
    }

    /// The request itself, and the bookkeeping of data fds.
    fn request(&mut self, to: State, opens_data: bool) -> Changed {
        let mut payload = [0; 8];
        let (state, fd) = payload.split_at_mut(4);
        state.copy_from_slice(&to.raw().to_ne_bytes());
        fd.copy_from_slice(&(-1i32).to_ne_bytes());
        let set = uapi::FEATURE_SET | uapi::FEATURE_MIG_DEVICE_STATE;
        if let Err(errno) = self.transport.feature(set, &mut payload) {
            return Changed::Refused(errno);
        }
        let (_, mut fd) = probe::split_state(payload);
        if fd >= 0 && self.data == Some(DataFd(fd)) {
            // A device behind callbacks that names its stream again: the same one, not another.
            if opens_data {
                return Changed::Done;
            }
            fd = -1;
        }
        // The old stream ends where a new one is opened and where no session state is left.
        if opens_data || !to.has_session() {
            self.drop_data();
        }
        match (opens_data, fd >= 0) {
            (true, true) => {
                self.data = Some(DataFd(fd));
                Changed::Done
            }
            (true, false) => Changed::Broken("the driver returned no data fd"),
            // Superfluous, and of no consequence where no stream goes on.
            (false, true) if !to.has_session() => {
                log::warn!(target: "vfiomig::device", "a data fd came with {to}; closed");
                self.transport.data_close(DataFd(fd));
                Changed::Done
            }
            (false, true) => {
                self.transport.data_close(DataFd(fd));
                Changed::Broken("the driver returned a data fd where none belongs")
            }
            (false, false) => Changed::Done,
        }
    }

    /// Asks the device where it is, and believes it.
    pub(crate) fn query_state(&mut self) -> std::result::Result<State, Errno> {
        let state = probe::get_state(self.transport.as_mut())?;
        let before = self.state.replace(state);
        if before == Some(state) {
            return Ok(state);
        }
        // Moved behind our back: an open stream is dead.
        if !state.has_session() {
            self.drop_data();
        }
        // Only a reset leads from a session, or from what was loaded, to RUNNING unasked. Sessions
        // notice by the epoch. In STOP_COPY the guest stands still and cannot have done it: that
        // save fails instead.
        let held = before.is_some_and(State::has_session) || self.contents == Contents::Loaded;
        if held && state == State::Running {
            match before {
                Some(State::StopCopy) => self.log_is_lost(),
                _ => self.next_epoch(),
            }
            self.note_fixups(Fixups::AFTER_RESET_OR_LOAD);
            self.emit(EventKind::Reset, before, Outcome::Reset, 0);
        }
        Ok(state)
    }

    /// The ladder after a failed change from `from`.
    pub(crate) fn recover(&mut self, from: State, recover: Recover) -> Outcome {
        let found = self.query_state();
        if found == Ok(from) && !from.has_session() {
            return Outcome::Kept;
        }
        self.drop_data();
        let mut outcome = None;
        let at_rest = matches!(found, Ok(State::Stop | State::Running | State::RunningP2p));
        if recover == Recover::Stay && at_rest {
            outcome = Some(Outcome::Recovered);
        }
        if let (Ok(found), Recover::To(target)) = (found, recover) {
            // A device in RESUMING has consumed what it was given; only a reset abandons that.
            let usable = found != State::Resuming && self.fsm.path(found, target).is_some();
            if usable && (found == target || self.try_recover(found, target)) {
                outcome = Some(Outcome::Recovered);
            }
        }
        let outcome = outcome.unwrap_or_else(|| match self.reset() {
            Ok(()) => Outcome::Reset,
            Err(_) => Outcome::Lost,
        });
        self.emit(EventKind::Recovered, Some(from), outcome, 0);
        outcome
    }

    /// One try to reach the state to recover to.
    fn try_recover(&mut self, found: State, target: State) -> bool {
        let start = Instant::now();
        let opens_data = self.fsm.path(found, target).is_some_and(|path| path.opens_data);
        match self.request(target, opens_data) {
            Changed::Done => {
                self.state = Some(target);
                self.emit(EventKind::StateChanged, Some(found), Outcome::Kept, elapsed_ns(start));
                true
            }
            Changed::Refused(_) | Changed::Broken(_) => false,
        }
    }

    /// `VFIO_DEVICE_RESET`, and a look at whether it worked.
    pub(crate) fn reset(&mut self) -> Result<()> {
        let before = self.state.take();
        self.drop_data();
        let start = Instant::now();
        let done = self.transport.reset();
        let after = match done {
            // A device without migration has no state to read.
            Ok(()) if !self.caps.can_migrate() => Ok(State::Running),
            Ok(()) => self.query_state(),
            Err(errno) => Err(errno),
        };
        self.next_epoch();
        self.note_fixups(Fixups::AFTER_RESET_OR_LOAD);
        if after == Ok(State::Running) {
            self.state = Some(State::Running);
            self.forget_bad_state();
            self.emit(EventKind::Reset, before, Outcome::Reset, elapsed_ns(start));
            return Ok(());
        }
        let (errno, why) = match after {
            Ok(state) => (Errno(libc::EIO), format!("the device is in {state} afterwards")),
            Err(errno) => (errno, errno.to_string()),
        };
        // Whatever the device does now, nothing that is believed of it can be relied upon.
        self.state = None;
        self.emit(EventKind::Reset, before, Outcome::Lost, elapsed_ns(start));
        Err(Error::new(
            errno.code(),
            format!("resetting the device failed: {why}; the device is lost until a harder reset"),
        )
        .with_failure(Failure {
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
}

/// A change that was to keep what a device holds, and ended in a reset.
pub(crate) fn contents_lost(device: &Inner, before: Option<State>) -> Error {
    let text = "the device could not be brought back and was reset: what it held is lost";
    after_reset(device, before, text)
}

/// What was loaded went with a reset before it ran.
pub(crate) fn load_lost(device: &Inner) -> Error {
    let text = "what was loaded is lost: the device was reset before it ran; load it again, or reset \
                it on purpose to run it as after power-on";
    after_reset(device, device.state_now(), text)
}

fn after_reset(device: &Inner, before: Option<State>, text: &str) -> Error {
    Error::new(Code::Io, text).with_failure(Failure {
        operation: Operation::SetState,
        state_before: before,
        state_wanted: Some(State::Running),
        state_after: device.state_now(),
        outcome: Outcome::Reset,
        fixups: device.fixups(),
        ..Failure::default()
    })
}

fn lost() -> Error {
    Error::new(Code::Io, "the device is lost: an earlier reset failed; reset it by harder means")
        .with_failure(Failure {
            operation: Operation::SetState,
            outcome: Outcome::Lost,
            ..Failure::default()
        })
}

/// What recovery did, as the second half of a sentence.
pub(crate) fn describe(outcome: Outcome, state: Option<State>) -> String {
    let state = state.map_or("an unknown state".to_owned(), |s| s.to_string());
    match outcome {
        Outcome::Kept => format!("the device is still in {state}"),
        Outcome::Recovered => format!("the device was brought back to {state}"),
        Outcome::Reset => format!("the device was reset and is in {state}"),
        Outcome::Lost => "the device could not be reset and is lost".to_owned(),
    }
}

pub(crate) fn elapsed_ns(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
