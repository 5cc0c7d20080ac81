// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes of state, and the recovery ladder for changes that fail.
//!
//! A failed change leaves the device in any state along its path and does not say in which. The
//! ladder: drop the data fd, unless the device never left its state and had none; ask where the
//! device is; try once to reach the state to recover to; reset; report. Only `VFIO_DEVICE_RESET` is
//! used; harder resets are the VMM's decision. Nothing here ends the process, and nothing tries the
//! same arc twice, which is known to confuse drivers (docs/kernel-interface.md).

use std::fmt;
use std::time::Instant;

use super::Inner;
use super::events::EventKind;
use crate::error::{Code, Errno, Error, Failure, Operation, Outcome, Result, err};
use crate::fsm::{Named, Path, State};
use crate::protocol::Changed;
use crate::uapi;

/// Where to go when a change fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Recover {
    /// To this state, once; then reset.
    To(State),
    /// Nowhere: a device that stopped on the way, in a state without a stream, is intact, and the
    /// caller may try again. Otherwise reset.
    Stay,
    /// Reset at once, unless the device is still where it was. A state that cannot be read does not
    /// count either: while a load is in progress, the source can still go on.
    Reset,
}

impl Inner {
    /// Takes the device to a state; returns how long that took, in nanoseconds. Refuses an illegal
    /// change before the device hears of it.
    pub(crate) fn transition(&mut self, to: State, recover: Recover) -> Result<u64> {
        let Some(from) = self.state else {
            return Err(lost());
        };
        let Some(path) = self.fsm.path(from, to) else {
            return Err(err!(
                Inval,
                "the device cannot go from {from} to {to} (migration flags: {})",
                self.caps.migration_flags
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
            self.arrived(to);
            return Ok(0);
        }
        self.may_write();
        let epoch = self.epoch();
        let start = Instant::now();
        let changed = self.request(to, path.opens_data);
        let ns = elapsed_ns(start);
        let changed = self.confirm(from, to, path.opens_data, changed, recover);
        let (code, errno) = match changed {
            Changed::Done => {
                self.emit(EventKind::StateChanged, Some(from), Outcome::Kept, ns);
                return Ok(ns);
            }
            Changed::Refused(errno) => (errno.code(), errno.0),
            Changed::Broken(_) => (Code::Io, libc::EIO),
            Changed::Reset => (Code::Io, 0),
        };
        log::warn!(target: "vfiomig::device", "{from} -> {to} failed: {changed}");
        let outcome = match self.recover(from, &path, recover) {
            // Where it was brought back to, it is empty.
            Outcome::Kept | Outcome::Recovered if self.epoch() != epoch => Outcome::Reset,
            outcome => outcome,
        };
        let now = describe(outcome, self.state);
        Err(Error::from_args(
            code,
            format_args!("taking the device from {from} to {to} failed: {changed}; {now}"),
        )
        .with_failure(Failure {
            operation: Operation::SetState,
            ioctl: uapi::VFIO_DEVICE_FEATURE,
            errno,
            state_before: Some(from),
            state_wanted: Some(to),
            state_after: self.state,
            outcome,
            fixups: self.fixups(),
            ..Failure::default()
        }))
    }

    /// Compares what the driver answered with where the device is now. A driver that answers 0 and
    /// does not go there would commit nothing, or keep a device running while it is read.
    fn confirm(
        &mut self,
        from: State,
        to: State,
        opened_data: bool,
        changed: Changed,
        recover: Recover,
    ) -> Changed {
        match changed {
            Changed::Done => {}
            Changed::Reset => {
                self.note_found_reset(Some(from));
                return changed;
            }
            Changed::Refused(_) | Changed::Broken(_) => return changed,
        }
        self.state = Some(to);
        match self.get_state() {
            Err(errno) if recover == Recover::Reset => Changed::Refused(errno),
            // The kernel's 0 counts if there is no other evidence.
            Err(_) => {
                self.arrived(to);
                Changed::Done
            }
            Ok(now) if now == to => {
                self.arrived(to);
                Changed::Done
            }
            // If it came from RUNNING and has no data fd to show for it, then as far as anyone can
            // tell it did not go anywhere.
            Ok(State::Running) if opened_data || from != State::Running => {
                self.found(State::Running);
                match to {
                    // The save notices, and starts again.
                    State::PreCopy | State::PreCopyP2p => Changed::Done,
                    _ => Changed::Reset,
                }
            }
            Ok(now) => {
                self.state = Some(now);
                Changed::Broken("the driver claims to be done, but is not")
            }
        }
    }

    /// The device is in a state that was asked for.
    fn arrived(&mut self, at: State) {
        self.state = Some(at);
        match at {
            State::Running => {
                self.set_live();
                self.forget_bad_state();
            }
            State::Stop | State::StopCopy => self.hold_contents(),
            _ => {}
        }
    }

    /// The request itself.
    pub(super) fn request(&mut self, to: State, opens_data: bool) -> Changed {
        self.protocol.set_state(self.transport.as_mut(), to, opens_data)
    }

    /// Asks the device where it is.
    pub(super) fn get_state(&mut self) -> std::result::Result<State, Errno> {
        self.protocol.state(self.transport.as_mut())
    }

    /// Asks the device where it is, and believes it.
    pub(crate) fn query_state(&mut self) -> std::result::Result<State, Errno> {
        let state = self.get_state()?;
        self.found(state);
        Ok(state)
    }

    /// The device is in `state`, whether asked for or not.
    fn found(&mut self, state: State) {
        let before = self.state.replace(state);
        if before == Some(state) {
            return;
        }
        // It moved behind our back: an open stream is dead.
        if !state.has_data_stream() {
            self.drop_data();
        }
        if matches!(state, State::Stop | State::StopCopy) {
            self.hold_contents();
        }
        // Only a reset leads to RUNNING unasked. Sessions notice it by the epoch. That a stopped
        // guest cannot have done it is remembered with the contents.
        if before.is_some() && state == State::Running {
            self.note_found_reset(before);
        }
    }

    /// The ladder after a failed change from `from`.
    fn recover(&mut self, from: State, path: &Path, recover: Recover) -> Outcome {
        let found = self.get_state();
        if let Ok(found) = found {
            // On the path that it was sent: it stopped there, and nobody has reset it. The same
            // cannot be said of RUNNING if a reset would take something.
            let reset = found == State::Running && self.contents_are_at_stake();
            if path.steps.contains(&found) && !reset && from != found {
                self.state = None;
            }
            self.found(found);
        }
        self.drop_data();
        if found == Ok(from) && !from.has_data_stream() {
            return Outcome::Kept;
        }
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

    /// One attempt to reach the state to recover to.
    fn try_recover(&mut self, found: State, target: State) -> bool {
        let start = Instant::now();
        let opens_data = self.fsm.path(found, target).is_some_and(|path| path.opens_data);
        match self.request(target, opens_data) {
            Changed::Done => {
                let there = self.get_state();
                if there.is_ok_and(|there| there != target) {
                    return false;
                }
                self.state = Some(target);
                self.emit(EventKind::StateChanged, Some(found), Outcome::Kept, elapsed_ns(start));
                true
            }
            Changed::Refused(_) | Changed::Broken(_) | Changed::Reset => false,
        }
    }
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
pub(crate) fn describe(outcome: Outcome, state: Option<State>) -> impl fmt::Display {
    Description(outcome, state)
}

struct Description(Outcome, Option<State>);

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Outcome::Kept => "the device is still in ",
            Outcome::Recovered => "the device was brought back to ",
            Outcome::Reset => "the device was reset and is in ",
            Outcome::Lost => return f.write_str("the device could not be reset and is lost"),
        })?;
        Named(self.1).fmt(f)
    }
}

pub(crate) fn elapsed_ns(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
