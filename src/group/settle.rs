// SPDX-License-Identifier: MIT OR Apache-2.0
//! When a migration has come to its end, or can no longer come to it.

use super::options::{Phase, Role};
use super::shared::{Shared, State};
use crate::error::err;

impl State {
    /// Whether all have said that they had nothing more, and all was sent.
    fn has_passed(&self) -> bool {
        self.members.iter().all(|place| place.drained) && self.lines.all_sent()
    }

    /// Whether the migration has come to its end, or can no longer come to it.
    fn settles(&mut self, role: Role) -> bool {
        if !self.is_open() {
            return false;
        }
        match role {
            Role::Source if self.phase == Phase::Stopped => {
                let over = self.all_complete() && self.lines.all_sent();
                if over {
                    self.go_to(Phase::Complete);
                }
                over
            }
            _ if self.lines.slots.is_empty() => false,
            Role::Source => {
                let over = !self.lines.passed && self.has_passed();
                self.lines.passed |= over;
                over
            }
            Role::Target => {
                let over = self.lines.slots.iter().all(|slot| slot.stats.closed);
                let rest = self.members.iter().any(|place| place.busy || place.can_be_written());
                let cut = over && !rest && !self.all_complete();
                if cut {
                    let text = "all channels were closed before everything had come";
                    self.break_off(err!(Io, "{text}"));
                }
                cut
            }
        }
    }
}

impl Shared {
    /// Notes that the migration has come to its end, if it has.
    pub fn settle(&self) {
        let mut state = self.lock();
        let settled = self.settle_now(&mut state);
        drop(state);
        if settled {
            self.wake();
        }
    }

    /// The same for one who has the state, and wakes the others.
    pub fn settle_now(&self, state: &mut State) -> bool {
        let settled = state.settles(self.options.role);
        if settled && self.options.role == Role::Source && state.phase == Phase::Complete {
            self.measuring.moved();
        }
        settled
    }
}
