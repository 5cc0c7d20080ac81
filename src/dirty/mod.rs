// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which guest pages did the devices write to?
//!
//! A VMM describes one I/O address space and what writes into it; [`Tracking`] picks the best tracker
//! for each writer, asks all of them and unites the answers. It never reports too little: whatever
//! fails, is unknown or is not watched counts as dirty, and the error says so. Knows nothing of
//! streams and sessions; which page has to be sent again is the VMM's business.
//!
//! # Example
//!
//! One RAM block of 64 MiB, and a device of the simulator that writes to it.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//!
//! use vfiomig::device::DeviceOptions;
//! use vfiomig::dirty::{DirtyPages, Mapping, Memory, PageSize, Span, Tracking, TrackingOptions, Writer};
//! use vfiomig::error::Errno;
//! use vfiomig::{Device, Result};
//! use vfiomig_sim::{Sim, SimOptions};
//!
//! /// Offsets of the pages that must be sent.
//! #[derive(Clone, Default)]
//! struct ToSend(Arc<Mutex<Vec<u64>>>);
//!
//! impl Memory for ToSend {
//!     fn set_dirty(&mut self, pages: DirtyPages<'_>) -> std::result::Result<(), Errno> {
//!         self.0.lock().unwrap().extend(pages.offsets());
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! const RAM: u64 = 1 << 30; // where the device sees it
//! let page = PageSize::new(4096).unwrap();
//! let sim = Sim::new(SimOptions::default()).unwrap();
//! let device = Device::new(sim.transport(), DeviceOptions::default())?;
//! let to_send = ToSend::default();
//! let options = TrackingOptions { page_size: Some(page), ..TrackingOptions::default() };
//! let mut tracking = Tracking::new(to_send.clone(), options)?;
//! tracking.map(Mapping { iova: RAM, size: 64 << 20, ..Mapping::default() })?;
//! tracking.add_writer(Writer::device(&device)?)?;
//! tracking.start()?;
//!
//! sim.dma_write(RAM + 0x5000, 1).unwrap();
//! let told = tracking.collect()?;
//! assert!(!told.errors && !told.unwatched);
//! assert_eq!(*to_send.0.lock().unwrap(), [0x5000]);
//!
//! // The same into a bitmap of the VMM's.
//! sim.dma_write(RAM + 0x3000, 1).unwrap();
//! let mut bitmap = [0];
//! tracking.sync(Span { start: RAM, length: 64 * page.bytes(), page }, &mut bitmap)?;
//! assert_eq!(bitmap, [1 << 3]);
//! # Ok(())
//! # }
//! ```

mod asking;
mod bitmap;
mod buffers;
mod delivery;
mod errors;
#[cfg(test)]
mod fake;
mod ledger;
mod map;
mod memory;
mod orphans;
mod pending;
mod ranges;
mod reading;
mod rearm;
mod stats;
mod sweep;
mod tracker;
mod trackers;
mod tracking;
mod writer;

pub use bitmap::{PageSize, Span};
pub use errors::DirtyError;
pub use map::{MAX_MAPPED, Mapping};
pub use memory::{DirtyPages, Memory, Place};
pub use stats::{DirtyRound, DirtyStats, WriterStats};
pub use tracker::TrackerKind;
pub use tracker::custom::CustomTracker;
pub use tracking::{Synced, Tracking, TrackingOptions};
pub use writer::Writer;

pub use crate::device::Health;
