// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes of state: those that sessions make, and those that a VMM asks for outside of them.
//!
//! A change counts only once the device confirms it. One that fails goes on to the ladder
//! ([`Inner::recover`]); its error says where that has led.

use std::time::Instant;

use super::belief::Claim;
use super::inner::Inner;
use super::recovery::{Recover, describe};
use crate::error::{Code, Error, Failure, Operation, Outcome, Result, err};
use crate::fsm::State;
use crate::history::{Cause, What};
use crate::nanoseconds::elapsed_ns;
use crate::protocol::Changed;
use crate::uapi;

impl Inner {
    /// A change that needs no session: to a state without a data stream.
    pub(super) fn set_plain_state(&mut self, to: State) -> Result<()> {
        if to.has_data_stream() || !matches!(to, State::Stop | State::Running | State::RunningP2p) {
            return Err(err!(Inval, "only saving and loading enter {to}"));
        }
        if self.claimed() != Claim::None {
            return Err(err!(Busy, "the device has an open session; finish that first"));
        }
        if !self.caps().can_migrate() {
            return Err(err!(NotSupported, "the device has no migration states"));
        }
        if self.state_now().is_none() && !self.belief.owes_reset() {
            // One question had no answer, which says nothing about the device: ask again.
            self.ask_state()?;
        }
        if self.state_now().is_none() {
            // A failed reset lost it; perhaps a reset works now.
            self.reset(Cause::LeftBehind)?;
            return Err(self.contents_lost(None));
        }
        // A device that has lost its contents may be stopped, but not run.
        self.check_contents().or_else(|lost| if to == State::Stop { Ok(()) } else { Err(lost) })?;
        let before = self.state_now();
        let usable = before.is_some_and(|state| self.fsm().supports(state));
        if !usable || before.is_some_and(State::has_data_stream) {
            // Walking a device out of RESUMING without its data fd has crashed kernels
            // (docs/kernel-interface.md). A reset is safe.
            let left_by_an_earlier_owner = self.epoch() == 0 && before == self.caps().initial_state;
            self.reset(Cause::LeftBehind)?;
            if !left_by_an_earlier_owner {
                return Err(self.contents_lost(before));
            }
        }
        self.transition(to, Recover::Stay).map(drop)
    }

    /// Takes the device to a state; returns how long that took, in nanoseconds. Refuses an illegal
    /// change before the device hears of it.
    pub(crate) fn transition(&mut self, to: State, recover: Recover) -> Result<u64> {
        let Some(from) = self.state_now() else {
            return Err(lost());
        };
        let Some(path) = self.fsm().path(from, to) else {
            return Err(self.no_path(from, to));
        };
        if path.steps.is_empty() && !self.link.assumes() {
            self.arrived(to);
            return Ok(0);
        }
        self.belief.may_write();
        let epoch = self.epoch();
        let start = Instant::now();
        let changed = self.request(from, to, path.opens_data);
        let ns = elapsed_ns(start);
        let changed = self.confirm(from, to, path.opens_data, changed, recover);
        if matches!(changed, Changed::Done) {
            if from != to {
                self.emit(What::StateChanged, Some(from), Outcome::Kept, ns);
            }
            return Ok(ns);
        }
        log::warn!(target: "vfiomig::device", "{from} -> {to} failed: {changed}");
        self.note_not_changed(from, to, &changed);
        let outcome = match self.recover(from, &path, recover) {
            // Where it was brought back to, it is empty.
            Outcome::Kept | Outcome::Recovered if self.epoch() != epoch => Outcome::Reset,
            outcome => outcome,
        };
        Err(self.failed(from, to, changed, outcome))
    }

    /// The error for a change that is illegal.
    fn no_path(&self, from: State, to: State) -> Error {
        let flags = self.caps().migration_flags;
        err!(Inval, "the device cannot go from {from} to {to} (migration flags: {flags})")
            .with_failure(Failure {
                operation: Operation::SetState,
                state_before: Some(from),
                state_wanted: Some(to),
                state_after: Some(from),
                fixups: self.fixups(),
                ..Failure::default()
            })
    }

    /// The error for a change that failed, with what recovery left behind.
    fn failed(&self, from: State, to: State, changed: Changed, outcome: Outcome) -> Error {
        let code = match changed {
            Changed::Refused(errno) => errno.code(),
            Changed::Broken(_) | Changed::Reset | Changed::Done => Code::Io,
        };
        let now = describe(outcome, self.state_now());
        Error::from_args(
            code,
            format_args!("taking the device from {from} to {to} failed: {changed}; {now}"),
        )
        .with_failure(Failure {
            operation: Operation::SetState,
            ioctl: self.link.ioctl(uapi::VFIO_DEVICE_FEATURE),
            errno: changed.errno(),
            state_before: Some(from),
            state_wanted: Some(to),
            state_after: self.state_now(),
            outcome,
            fixups: self.fixups(),
            ..Failure::default()
        })
    }

    /// After what `error` reports, takes the device on to `to`: a reset leaves a device in RUNNING,
    /// which may not be where it must wait. Returns the error, which then also says what became of
    /// that.
    pub(crate) fn move_on(&mut self, to: State, error: Error) -> Error {
        let epoch = self.epoch();
        let error = match self.transition(to, Recover::Stay) {
            Ok(_) => error.note_args(format_args!("; it was then taken to {to}")),
            Err(worse) => error.note_args(format_args!("; {worse}")),
        };
        let outcome = match self.state_now() {
            None => Some(Outcome::Lost),
            Some(_) => (self.epoch() != epoch).then_some(Outcome::Reset),
        };
        error.amend(|failure| {
            failure.state_after = self.state_now();
            failure.fixups = self.fixups();
            failure.outcome = outcome.unwrap_or(failure.outcome);
        })
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
        self.belief.is_now_in(to);
        match self.link.state() {
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
                self.belief.is_now_in(now);
                Changed::Broken("the driver claims to be done, but is not")
            }
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
