// SPDX-License-Identifier: MIT OR Apache-2.0
//! What other threads may do with a session while a call is under way: cancel it, read its numbers,
//! bring packets.

use super::packets::Packets;
use super::stats::{LoadNumbers, LoadStats, SaveNumbers, SaveStats};
use crate::cancel::Cancel;

/// The part of a session that any thread may use at any time.
#[derive(Clone, Debug)]
pub enum Shared {
    /// Of a save.
    Save(Cancel, SaveNumbers),
    /// Of a load; with the entrance for packets, if it takes them.
    Load(Cancel, LoadNumbers, Option<Packets>),
    /// Of a dirty-tracking run.
    Dirty(Cancel),
}

impl Shared {
    /// Cancels the session.
    pub fn cancel(&self) {
        match self {
            Shared::Save(cancel, _) | Shared::Dirty(cancel) => cancel.cancel(),
            Shared::Load(cancel, _, packets) => {
                cancel.cancel();
                if let Some(packets) = packets {
                    packets.wake();
                }
            }
        }
    }

    /// Where packets go in.
    pub fn packets(&self) -> Option<&Packets> {
        match self {
            Shared::Load(_, _, packets) => packets.as_ref(),
            Shared::Save(..) | Shared::Dirty(_) => None,
        }
    }

    /// Numbers of a save.
    pub fn save_stats(&self) -> Option<SaveStats> {
        match self {
            Shared::Save(_, numbers) => Some(numbers.0.load()),
            Shared::Load(..) | Shared::Dirty(_) => None,
        }
    }

    /// Numbers of a load.
    pub fn load_stats(&self) -> Option<LoadStats> {
        match self {
            Shared::Load(_, numbers, _) => Some(numbers.0.load()),
            Shared::Save(..) | Shared::Dirty(_) => None,
        }
    }
}
