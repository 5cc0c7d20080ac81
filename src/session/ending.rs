// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a save ends, and where that leaves the device.

use super::stats::{AtomicSaveStats, set};
use crate::device::{Inner, Recover};
use crate::error::Result;
use crate::fsm::State;

/// How a save ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The target has committed: the device stays in STOP.
    Release,
    /// The guest goes on here: the device goes back to where it was.
    Keep,
    /// Like [`Ending::Keep`], but without peer-to-peer DMA if the device has such a state: for
    /// several devices, none of which may run before all have left the stopped states. Then call
    /// [`crate::Device::run`] for each.
    KeepQuiesced,
    /// The guest stays here and does not run: the device goes to STOP.
    KeepStopped,
}

impl Ending {
    /// Whether the device's contents are still needed here.
    pub(super) fn keeps(self) -> bool {
        self != Ending::Release
    }

    /// Lets go of a device that was in `origin` before its save.
    pub(super) fn end(
        self,
        inner: &mut Inner,
        origin: State,
        stats: &AtomicSaveStats,
    ) -> Result<()> {
        let to = match self {
            Ending::Release | Ending::KeepStopped => State::Stop,
            Ending::KeepQuiesced if origin == State::Running && inner.caps().has_p2p() => {
                State::RunningP2p
            }
            Ending::Keep | Ending::KeepQuiesced => origin,
        };
        inner.unclaim();
        let before = inner.state_now();
        // After an error nothing is certain, so ask. If there is no answer, our belief must do: the
        // kernel knows where the device is, and a wrong path only fails.
        let _ = inner.look_after_contents();
        let on_the_way = inner.state_now().is_some_and(|at| inner.fsm().path(at, to).is_some());
        let walk = match on_the_way {
            true => inner.transition(to, Recover::Stay).map(|ns| set(&stats.finish_ns, ns)),
            false => inner.reset().and_then(|()| match self.keeps() {
                false => Ok(()),
                true => Err(inner.contents_lost(before)),
            }),
        };
        inner.drop_data();
        let ended = match (self, inner.state_now()) {
            // Nothing of the guest is needed here any more, wherever recovery ended. But the device
            // must not run next to its twin.
            (Ending::Release, Some(State::Running | State::RunningP2p)) => {
                inner.transition(State::Stop, Recover::Reset).map(drop)
            }
            // Nor may it run while its guest is stopped, whatever became of its contents.
            (_, Some(State::Running)) if to == State::Stop && walk.is_err() => {
                let _ = inner.transition(State::Stop, Recover::Stay);
                walk
            }
            _ => walk,
        };
        // However the reset was noticed, and wherever the device is now.
        match ended {
            Ok(()) if self.keeps() && inner.contents_are_lost() => Err(inner.contents_lost(before)),
            ended => ended,
        }
    }
}
