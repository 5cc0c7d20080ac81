// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a save ends, and where that leaves the device.

use super::stats::{AtomicSaveStats, set};
use crate::device::{Inner, Recover};
use crate::error::Result;
use crate::fsm::State;
use crate::history::Cause;

/// How a save ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The target has committed: the device stays in STOP.
    Release,
    /// The guest goes on here: the device goes back to where it was.
    Keep,
    /// Like [`Ending::Keep`], but without peer-to-peer DMA if the device has such a state: for
    /// several devices, none of which may run before all have left the stopped states. Then call
    /// [`crate::Device::run`] for each. One that fails while it is quiesced or stopped waits in
    /// RUNNING_P2P for its ending as well.
    KeepQuiesced,
    /// The guest stays here and does not run: the device goes to STOP.
    KeepStopped,
}

impl Ending {
    /// Its name, as in histories.
    pub(super) fn name(self) -> &'static str {
        match self {
            Ending::Release => "release",
            Ending::Keep => "keep",
            Ending::KeepQuiesced => "keep_quiesced",
            Ending::KeepStopped => "keep_stopped",
        }
    }

    /// Whether the device's contents are still needed here.
    pub(super) fn keeps(self) -> bool {
        self != Ending::Release
    }

    /// Ends the session of a device that was in `origin` before its save.
    pub(super) fn end(
        self,
        inner: &mut Inner,
        origin: State,
        stats: &AtomicSaveStats,
    ) -> Result<()> {
        let to = match self {
            Ending::Release | Ending::KeepStopped => State::Stop,
            Ending::KeepQuiesced => waiting_place(origin, inner),
            Ending::Keep => origin,
        };
        let reset_before = inner.was_reset_in_session();
        inner.unclaim();
        let (before, epoch) = (inner.state_now(), inner.epoch());
        // After an error nothing is certain, so ask. If there is no answer, our belief must do: the
        // kernel knows where the device is, and a wrong path only fails.
        let _ = inner.look_after_contents();
        let on_the_way = inner.state_now().is_some_and(|at| inner.fsm().path(at, to).is_some());
        let walk = match on_the_way {
            true => inner.transition(to, Recover::Stay).map(|ns| set(&stats.finish_ns, ns)),
            false => inner.reset(Cause::Ending).and_then(|()| match self.keeps() {
                false => Ok(()),
                true => Err(inner.contents_lost(before)),
            }),
        };
        inner.drop_data();
        let was_reset = inner.epoch() != epoch;
        let mut failed = None;
        let ended = match (walk, self, inner.state_now()) {
            // The guest's state is no longer needed here, wherever recovery ended. But the device
            // must not run next to its twin.
            (walk, Ending::Release, Some(State::Running | State::RunningP2p)) => {
                failed = walk.err();
                inner.transition(State::Stop, Recover::Reset).map(drop)
            }
            // Nor may it run while its guest is stopped, whatever became of its contents.
            (Err(error), _, Some(State::Running)) if to == State::Stop => {
                Err(inner.move_on(to, error))
            }
            // Nor before the VM's other devices have left the stopped states.
            (Err(error), _, Some(State::Running)) if to == State::RunningP2p && was_reset => {
                Err(inner.move_on(to, error))
            }
            (walk, ..) => walk,
        };
        if ended.is_err() || !(inner.contents_are_lost() || reset_before) {
            return ended;
        }
        // However the reset was noticed, and wherever the device is now. A release succeeds anyway;
        // but whoever would like the guest back must be able to learn of it.
        let now = inner.state_now();
        let lost = failed.unwrap_or_else(|| inner.contents_lost(before));
        let lost = Err(lost.amend(|failure| failure.state_after = now));
        if self.keeps() { lost } else { inner.remember(lost).or(Ok(())) }
    }
}

/// Where a device that was in `origin` waits for the VM's other devices: without peer-to-peer DMA,
/// because they may stand still.
pub(super) fn waiting_place(origin: State, inner: &Inner) -> State {
    match origin == State::Running && inner.caps().has_p2p() {
        true => State::RunningP2p,
        false => origin,
    }
}
