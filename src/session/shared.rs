// SPDX-License-Identifier: MIT OR Apache-2.0
//! What other threads may do with a session during a call: cancel it, read its numbers, bring
//! packets.

use std::sync::Arc;
use std::time::Duration;

use super::packets::Packets;
use super::progress::Progress;
use super::stats::{LoadNumbers, LoadStats, SaveNumbers, SaveStats};
use crate::cancel::Cancel;
use crate::history::Recorder;

/// The part of a save that any thread may use at any time.
#[derive(Clone, Debug)]
pub struct SharedSave {
    pub(super) cancel: Cancel,
    pub(super) numbers: SaveNumbers,
    pub(super) recorder: Arc<Recorder>,
    /// Its number in the device's history.
    pub(super) session: u64,
}

impl SharedSave {
    /// Cancels the save.
    pub fn cancel(&self) {
        self.recorder.cancelled(self.session);
        self.cancel.cancel();
    }

    /// What it has done so far.
    pub fn stats(&self) -> SaveStats {
        self.numbers.0.load()
    }
}

/// The part of a load that any thread may use at any time.
#[derive(Clone, Debug)]
pub struct SharedLoad {
    pub(super) cancel: Cancel,
    pub(super) numbers: LoadNumbers,
    pub(super) packets: Option<Packets>,
    pub(super) progress: Arc<Progress>,
    pub(super) recorder: Arc<Recorder>,
    /// Its number in the device's history.
    pub(super) session: u64,
}

impl SharedLoad {
    /// Cancels the load.
    pub fn cancel(&self) {
        self.recorder.cancelled(self.session);
        self.cancel.cancel();
        if let Some(packets) = &self.packets {
            packets.wake();
        }
    }

    /// Where packets go in, if it takes them.
    pub fn packets(&self) -> Option<&Packets> {
        self.packets.as_ref()
    }

    /// How much longer the source may take until the load fails for want of progress, if nothing
    /// comes; `None`: there is no deadline. What is zero fails at the next call.
    pub fn deadline(&self) -> Option<Duration> {
        self.progress.left()
    }

    /// What it has done so far.
    pub fn stats(&self) -> LoadStats {
        self.numbers.0.load()
    }
}
