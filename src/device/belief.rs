// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the library believes about a device between two questions to it: where it is, how often it
//! was reset, whose contents it holds, which session has it, what the VMM must redo.
//!
//! All of it changes here, so that it stays consistent: whatever shows a reset begins an epoch,
//! takes the contents that were at stake, puts the log in doubt and makes fix-ups due.

use std::sync::Arc;

use super::contents::Contents;
use super::health::Log;
use crate::error::{Code, Error, Failure, Operation, Outcome, Result, err};
use crate::fixups::{AtomicFixups, Fixups};
use crate::fsm::State;
use crate::sync::atomic::AtomicU64;

/// Which session has the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    None,
    Saving,
    Loading,
}

pub(super) struct Belief {
    /// The state that the device is believed to be in; `None` after it was lost.
    state: Option<State>,
    /// Increases with every reset: a session of an earlier epoch is dead.
    epoch: u64,
    contents: Contents,
    claimed: Claim,
    log: Log,
    fixups: Arc<AtomicFixups>,
    /// The last reset failed. It is tried once more when the device is freed.
    owes_reset: bool,
    /// Recovery has reset the device during this session, perhaps while its guest was running.
    reset_in_session: bool,
}

impl Belief {
    /// What to believe of a device that was found in this state.
    pub fn new(state: Option<State>) -> Belief {
        Belief {
            state,
            epoch: 0,
            contents: Contents::of(state),
            claimed: Claim::None,
            log: Log::default(),
            fixups: Arc::default(),
            owes_reset: false,
            reset_in_session: false,
        }
    }

    // --- where the device is -----------------------------------------------------------------------

    pub fn state(&self) -> Option<State> {
        self.state
    }

    /// Notes where the device is, because it said so or nothing suggests otherwise.
    pub fn is_now_in(&mut self, state: State) {
        self.state = Some(state);
    }

    /// Forgets the state, which can no longer be relied on. Returns what was believed.
    pub fn forget_state(&mut self) -> Option<State> {
        self.state.take()
    }

    /// The device has gone to the state that it was asked for.
    pub fn arrived(&mut self, at: State) {
        self.state = Some(at);
        if at == State::Running {
            self.contents.set_live();
        }
        self.hold_if_stopped(at);
    }

    /// A guest stops before its devices are quiesced or stopped.
    fn hold_if_stopped(&mut self, at: State) {
        if matches!(at, State::Stop | State::StopCopy | State::RunningP2p) {
            self.hold();
        }
    }

    /// The device is in a state that it was not asked for; returns whether that shows a reset.
    pub fn found(&mut self, state: State) -> bool {
        let before = self.state.replace(state);
        if before == Some(state) {
            return false;
        }
        self.hold_if_stopped(state);
        // Only a reset leads to RUNNING unasked. Sessions notice it by the epoch. That a stopped
        // guest cannot have done it is remembered with the contents.
        let reset = before.is_some() && state == State::Running;
        if reset {
            self.was_reset(before);
        }
        reset
    }

    // --- resets ------------------------------------------------------------------------------------

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The device was reset, by anyone, out of `before`: the one place where that is recorded.
    pub fn was_reset(&mut self, before: Option<State>) {
        self.epoch += 1;
        self.contents.lose(before);
        self.log.may_be_lost();
        self.fixups.add(Fixups::AFTER_RESET_OR_LOAD);
    }

    pub fn owes_reset(&self) -> bool {
        self.owes_reset
    }

    pub fn owe_reset(&mut self, owes: bool) {
        self.owes_reset = owes;
    }

    // --- contents ----------------------------------------------------------------------------------

    pub fn contents(&self) -> Contents {
        self.contents
    }

    /// The guest was stopped, according to the caller or because its device was.
    pub fn hold(&mut self) {
        // A caller that begins a load has given up what the device held.
        if self.claimed != Claim::Loading {
            self.contents.hold();
        }
    }

    /// Records that a load begins or has failed, or that it was committed.
    pub fn note_load(&mut self, committed: bool) {
        match committed {
            true => self.contents.load(),
            false => self.contents.set_live(),
        }
    }

    /// The VMM wants the device in its power-on state.
    pub fn accept_loss(&mut self) {
        self.contents.accept_loss();
    }

    /// The error for contents that a reset has taken: now, with the device in `before`, or earlier.
    pub fn contents_lost(&self, before: Option<State>) -> Error {
        let before = match self.contents {
            Contents::Lost(earlier) => earlier,
            _ => before,
        };
        let text = "the device was reset, and its guest's state in it is lost: load it again, or reset it on purpose to use it in its power-on state";
        Error::new(Code::Io, text).with_failure(Failure {
            operation: Operation::SetState,
            state_before: before,
            state_wanted: Some(State::Running),
            state_after: self.state,
            outcome: Outcome::Reset,
            fixups: self.fixups(),
            ..Failure::default()
        })
    }

    // --- sessions ----------------------------------------------------------------------------------

    pub fn claimed(&self) -> Claim {
        self.claimed
    }

    /// Gives the device to a session.
    pub fn claim(&mut self, by: Claim) -> Result<()> {
        match self.claimed {
            Claim::None => {
                self.claimed = by;
                self.reset_in_session = false;
                Ok(())
            }
            Claim::Saving => Err(err!(Busy, "the device is being saved; finish that first")),
            Claim::Loading => Err(err!(Busy, "the device is being loaded; finish that first")),
        }
    }

    /// Recovery had to reset the device. A running guest did not ask for that, so whoever keeps the
    /// device must hear of it, although nothing was held.
    pub fn note_recovery_by_reset(&mut self) {
        self.reset_in_session |= self.claimed != Claim::None;
    }

    /// Whether recovery has reset the device since the session began.
    pub fn was_reset_in_session(&self) -> bool {
        self.reset_in_session
    }

    /// The session is over.
    pub fn unclaim(&mut self) {
        self.claimed = Claim::None;
    }

    // --- the log -----------------------------------------------------------------------------------

    /// The device may write from here on.
    pub fn may_write(&mut self) {
        self.log.may_write();
    }

    /// How often the device was reset, for those that do not lock it.
    pub fn resets(&self) -> Arc<AtomicU64> {
        self.log.resets()
    }

    /// If the device certainly writes nothing now: a number that changes once it may have written.
    pub fn quiet(&self) -> Option<u64> {
        let quiet = matches!(self.state, Some(State::Stop | State::StopCopy | State::Resuming));
        quiet.then_some(self.log.changes())
    }

    // --- fix-ups -----------------------------------------------------------------------------------

    pub fn fixups(&self) -> Fixups {
        self.fixups.get()
    }

    pub fn add_fixups(&mut self, fixups: Fixups) {
        self.fixups.add(fixups);
    }

    /// The VMM has made them.
    pub fn clear_fixups(&mut self) {
        self.fixups.clear();
    }

    /// The fix-ups, for those that do not lock the device.
    pub fn shared_fixups(&self) -> Arc<AtomicFixups> {
        Arc::clone(&self.fixups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(belief: &Belief) -> bool {
        belief.contents().are_lost()
    }

    #[test]
    fn what_shows_a_reset_is_recorded_as_one() {
        let mut belief = Belief::new(Some(State::Running));
        let resets = belief.resets();
        let count = || resets.load(crate::sync::atomic::Ordering::Relaxed);
        belief.arrived(State::PreCopy);
        assert!(!belief.found(State::PreCopy) && !belief.found(State::PreCopyP2p));
        assert_eq!((belief.epoch(), count()), (0, 0));
        assert!(belief.found(State::Running));
        assert_eq!((belief.epoch(), count()), (1, 1));
        assert_eq!(belief.fixups(), Fixups::AFTER_RESET_OR_LOAD);
        // It is where it was believed to be, or nobody knew where it was.
        assert!(!belief.found(State::Running));
        belief.forget_state();
        assert!(!belief.found(State::Running));
        assert_eq!(belief.epoch(), 1);
    }

    #[test]
    fn a_reset_takes_what_a_stopped_guest_relies_on_until_it_is_accepted_or_loaded_again() {
        let mut belief = Belief::new(Some(State::Running));
        belief.was_reset(Some(State::Running));
        assert!(!lost(&belief));
        belief.arrived(State::Stop);
        belief.was_reset(Some(State::Stop));
        assert!(lost(&belief));
        // Neither running nor a load that failed brings it back.
        belief.arrived(State::Running);
        belief.note_load(false);
        assert!(lost(&belief));
        assert_eq!(belief.contents_lost(None).failure().unwrap().state_before, Some(State::Stop));
        belief.note_load(true);
        assert!(belief.contents().are_at_stake());
        belief.was_reset(Some(State::Stop));
        assert!(lost(&belief));
        belief.accept_loss();
        assert!(!lost(&belief) && !belief.contents().are_at_stake());
    }

    #[test]
    fn a_device_that_is_being_loaded_holds_nothing_of_a_guest() {
        let mut belief = Belief::new(Some(State::Running));
        belief.claim(Claim::Loading).unwrap();
        belief.arrived(State::Stop);
        assert!(!belief.contents().are_at_stake());
        assert_eq!(belief.claim(Claim::Saving).unwrap_err().code(), Code::Busy);
        belief.unclaim();
        belief.hold();
        assert!(belief.contents().are_at_stake());
    }

    #[test]
    fn a_stopped_device_is_quiet_until_it_may_have_written() {
        let mut belief = Belief::new(Some(State::Running));
        assert_eq!(belief.quiet(), None);
        belief.arrived(State::Stop);
        let before = belief.quiet();
        assert!(before.is_some() && before == belief.quiet());
        belief.may_write();
        assert_ne!(belief.quiet(), before);
        let before = belief.quiet();
        belief.was_reset(Some(State::Stop));
        assert_ne!(belief.quiet(), before);
    }
}
