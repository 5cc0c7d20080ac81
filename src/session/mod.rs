// SPDX-License-Identifier: MIT OR Apache-2.0
//! One device being saved, one device being loaded.
//!
//! A [`Save`] is pulled by its caller and a [`Load`] is pushed: transport, threads and rate are the
//! VMM's. Both own the device's session for as long as they live, and leave the device in a known
//! state when they go.

mod load;
mod packets;
mod save;
mod stats;

pub use crate::cancel::Cancel;
pub use load::{BlobSink, Load, LoadOptions, LoadStatus, Policy};
pub use packets::Packets;
pub use save::{Ending, Next, Pending, Save, SaveOptions, SaveStatus};
pub use stats::{LoadStats, SaveStats, Shared};

use crate::device::Device;
use crate::error::Result;

impl Device {
    /// Begins to save the device: RUNNING to PRE_COPY where the device has it.
    pub fn save(&self, options: SaveOptions) -> Result<Save> {
        Save::begin(self.clone(), options)
    }

    /// Begins to load the device: to RESUMING. What the device held is lost.
    pub fn load(&self, options: LoadOptions) -> Result<Load> {
        Load::begin(self.clone(), options)
    }
}

/// What a save needs of a buffer at least, in bytes: room for a frame header, the identity and a
/// little data.
pub const MIN_BUFFER: usize = 4096;

/// The payload size of data frames, in bytes, where the options say nothing: 128 KiB with the
/// header. Larger ones outgrow the caches between the steps that each byte goes through, and
/// sockets take them in several pieces: `make bench`.
pub const DEFAULT_FRAME: u32 = (128 << 10) - crate::stream::HEADER_LEN as u32;
