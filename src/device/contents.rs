// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whose contents a device holds, and whether a reset has taken them.
//!
//! A running guest may reset its device, and knows that it did. A stopped guest cannot have done
//! it: whoever resets its device then (a bus reset, error recovery on the host) takes state that
//! the guest relies on. The library remembers that until the VMM says that it wants an empty
//! device, or loads another state.

use crate::fsm::State;

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
    /// Those of a device that was found in this state.
    pub fn of(state: Option<State>) -> Contents {
        match state {
            Some(State::Stop | State::RunningP2p) => Contents::Held,
            _ => Contents::Live,
        }
    }

    /// The guest was stopped. From here on, it cannot reset the device itself.
    pub fn hold(&mut self) {
        if *self == Contents::Live {
            *self = Contents::Held;
        }
    }

    /// The guest runs again.
    pub fn set_live(&mut self) {
        if !self.are_lost() {
            *self = Contents::Live;
        }
    }

    /// A load was committed: that also brings back what was lost before.
    pub fn load(&mut self) {
        *self = Contents::Loaded;
    }

    /// A reset was made, by anyone; the device was in `before`.
    pub fn lose(&mut self, before: Option<State>) {
        if self.are_at_stake() {
            *self = Contents::Lost(before);
        }
    }

    /// The VMM wants the device in its power-on state.
    pub fn accept_loss(&mut self) {
        *self = Contents::Live;
    }

    /// Whether a reset takes something that cannot be recovered.
    pub fn are_at_stake(self) -> bool {
        matches!(self, Contents::Held | Contents::Loaded)
    }

    pub fn are_lost(self) -> bool {
        matches!(self, Contents::Lost(_))
    }
}
