// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whose contents a device holds, and whether a reset has taken them.
//!
//! A running guest may reset its device, and knows that it did. A stopped guest cannot have done
//! it: whoever resets its device then (a bus reset, error recovery on the host) takes state that
//! the guest relies on. The library remembers that until the VMM says that it wants an empty
//! device, or loads another state.

use super::{Claim, Inner};
use crate::error::{Code, Error, Failure, Operation, Outcome, Result};
use crate::fsm::State;

/// How often a device is asked for its state if it does not tell and a guest's state depends on it.
const LOOKS: u32 = 3;

/// Whose contents a device holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Contents {
    /// Those of a guest that runs, or of nobody that the library knows of.
    Live,
    /// Those of a guest that is stopped.
    Held,
    /// They came with a load, and the device has not run since.
    Loaded,
    /// They were held or loaded, and a reset took them when the device was in this state. A guest
    /// would go on with a device that has forgotten it, so the device is neither run nor saved.
    Lost(Option<State>),
}

impl Contents {
    /// Whether a reset takes something that cannot be recovered.
    pub fn are_at_stake(self) -> bool {
        matches!(self, Contents::Held | Contents::Loaded)
    }
}

impl Inner {
    /// The guest was stopped, according to the caller or because its device was. From here on, the
    /// guest cannot reset the device itself.
    pub(crate) fn hold_contents(&mut self) {
        // A caller that begins a load has given up what the device held.
        if self.contents == Contents::Live && self.claimed != Claim::Loading {
            self.contents = Contents::Held;
        }
    }

    /// The guest runs again.
    pub(super) fn set_live(&mut self) {
        if !self.contents_are_lost() {
            self.contents = Contents::Live;
        }
    }

    /// Records that a load begins or has failed, or that it was committed. Only the latter brings
    /// back what was lost before.
    pub(crate) fn note_load(&mut self, committed: bool) {
        match committed {
            true => self.contents = Contents::Loaded,
            false => self.set_live(),
        }
    }

    /// A reset was made, by anyone; the device was in `before`.
    pub(super) fn lose_contents(&mut self, before: Option<State>) {
        if self.contents.are_at_stake() {
            self.contents = Contents::Lost(before);
        }
    }

    /// The VMM wants the device in its power-on state.
    pub(super) fn accept_loss(&mut self) {
        self.contents = Contents::Live;
    }

    pub(super) fn contents_are_at_stake(&self) -> bool {
        self.contents.are_at_stake()
    }

    pub(crate) fn contents_are_lost(&self) -> bool {
        matches!(self.contents, Contents::Lost(_))
    }

    /// The error for contents that a reset has taken: now, with the device in `before`, or earlier.
    pub(crate) fn contents_lost(&self, before: Option<State>) -> Error {
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

    /// Asks for the device's state. If a reset would take something, the state must be known: a
    /// device that is in RUNNING without having been asked goes from there to STOP, STOP_COPY or
    /// RUNNING without complaint. Otherwise, having no answer is acceptable too.
    pub(crate) fn look_after_contents(&mut self) -> Result<()> {
        if self.contents == Contents::Live {
            let _ = self.query_state();
            return Ok(());
        }
        let mut result = self.ask_state();
        for _ in 1..LOOKS {
            if result.is_ok() {
                break;
            }
            result = self.ask_state();
        }
        result.map(drop)
    }

    /// Checks whether the device was reset behind the library's back while its guest was stopped;
    /// it would otherwise go on without complaint. Refuses a device that has lost its contents.
    pub(crate) fn check_contents(&mut self) -> Result<()> {
        if self.contents == Contents::Live {
            return Ok(());
        }
        self.look_after_contents()?;
        match self.contents_are_lost() {
            true => Err(self.contents_lost(self.state)),
            false => Ok(()),
        }
    }
}
