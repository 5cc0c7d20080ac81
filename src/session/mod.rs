// SPDX-License-Identifier: MIT OR Apache-2.0
//! One device being saved, one device being loaded.
//!
//! The caller pulls from a [`Save`] and pushes into a [`Load`]: transport, threads and rate are up
//! to the VMM. Both own the device's session for as long as they live, and leave the device in a
//! known state when they go.

mod ending;
mod guarding;
mod initial;
mod load;
mod loading;
mod options;
mod packets;
mod progress;
mod queue;
mod reading;
mod save;
mod saving;
mod shared;
mod stats;
mod story;
mod transfer;

pub use crate::cancel::Cancel;
pub use crate::stream::SaveStatus;
pub use ending::Ending;
pub use load::{Load, LoadStatus};
pub(crate) use loading::Phase as LoadPhase;
pub use options::{BlobSink, DEFAULT_FRAME, LoadOptions, MIN_BUFFER, SaveOptions};
pub use packets::Packets;
pub use reading::Pending;
pub use save::{Next, Save};
pub(crate) use saving::Phase as SavePhase;
pub use shared::{SharedLoad, SharedSave};
pub use stats::{LoadStats, SaveStats};
pub use transfer::Transfer;

use crate::device::Device;
use crate::error::Result;
use crate::history::Note;

impl Device {
    /// Begins to save the device: RUNNING to PRE_COPY, if the device has it.
    pub fn save(&self, options: SaveOptions) -> Result<Save> {
        self.recorded(Save::begin(self.clone(), options))
    }

    /// Begins to load the device: to RESUMING. What the device held is lost.
    pub fn load(&self, options: LoadOptions) -> Result<Load> {
        self.recorded(Load::begin(self.clone(), options))
    }

    /// A session that does not begin is in the history, also if the device was not touched.
    fn recorded<T>(&self, begun: Result<T>) -> Result<T> {
        begun.inspect_err(|error| self.recorder().record_once(&Note::error(error)))
    }
}
