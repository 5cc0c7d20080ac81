// SPDX-License-Identifier: MIT OR Apache-2.0
//! The recovery ladder for changes of state that fail.
//!
//! A failed change leaves the device in any state along its path and does not say in which. The
//! ladder: drop the data fd, unless the device never left its state and had none; ask where the
//! device is; try once to reach the state to recover to; reset; report. Only `VFIO_DEVICE_RESET` is
//! used; harder resets are the VMM's decision. Nothing here ends the process, and nothing tries the
//! same arc twice, which is known to confuse drivers (docs/kernel-interface.md).

use std::fmt;
use std::time::Instant;

use super::inner::Inner;
use crate::error::Outcome;
use crate::fsm::{Named, Path, State};
use crate::history::{Cause, What};
use crate::nanoseconds::elapsed_ns;
use crate::protocol::Changed;

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
    /// The ladder after a failed change from `from`.
    pub(super) fn recover(&mut self, from: State, path: &Path, recover: Recover) -> Outcome {
        let found = self.link.state();
        if let Ok(found) = found {
            // On the path that it was sent: it stopped there, and nobody has reset it. The same
            // cannot be said of RUNNING if a reset would take something.
            let reset = found == State::Running && self.belief.contents().are_at_stake();
            if path.steps.contains(&found) && !reset && from != found {
                self.belief.forget_state();
            }
            self.found(found);
        }
        self.link.close();
        if found == Ok(from) && !from.has_data_stream() {
            return Outcome::Kept;
        }
        let mut outcome = None;
        let at_rest = matches!(found, Ok(State::Stop | State::Running | State::RunningP2p));
        if recover == Recover::Stay && at_rest {
            outcome = Some(Outcome::Recovered);
        }
        if let (Ok(found), Recover::To(target)) = (found, recover) {
            let target = self.on_the_way_to(found, target);
            // A device in RESUMING has consumed what it was given; only a reset abandons that.
            let usable = found != State::Resuming && self.fsm().path(found, target).is_some();
            if usable && (found == target || self.try_recover(found, target)) {
                outcome = Some(Outcome::Recovered);
            }
        }
        let outcome = outcome.unwrap_or_else(|| match self.reset(Cause::Recovery) {
            Ok(()) => {
                self.belief.note_recovery_by_reset();
                Outcome::Reset
            }
            Err(_) => Outcome::Lost,
        });
        self.emit(What::Recovered, Some(from), outcome, 0);
        outcome
    }

    /// Where recovery goes to first. A request for RUNNING_P2P that leads through RUNNING could end
    /// there, and a device that has stopped there half way looks like one that was reset.
    fn on_the_way_to(&self, found: State, target: State) -> State {
        let path = self.fsm().path(found, target);
        let through_running = found == State::Running
            || path.is_some_and(|path| path.steps.contains(&State::Running));
        match target {
            State::RunningP2p if through_running => State::Running,
            _ => target,
        }
    }

    /// One attempt to reach the state to recover to.
    fn try_recover(&mut self, found: State, target: State) -> bool {
        let start = Instant::now();
        let opens_data = self.fsm().path(found, target).is_some_and(|path| path.opens_data);
        match self.request(found, target, opens_data) {
            Changed::Done => {
                let there = self.link.state();
                if there.is_ok_and(|there| there != target) {
                    return false;
                }
                self.belief.is_now_in(target);
                self.emit(What::StateChanged, Some(found), Outcome::Kept, elapsed_ns(start));
                true
            }
            changed @ (Changed::Refused(_) | Changed::Broken(_) | Changed::Reset) => {
                self.note_not_changed(found, target, &changed);
                false
            }
        }
    }
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
