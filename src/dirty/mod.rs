// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which guest pages did the devices write to?
//!
//! A VMM describes one I/O address space and what writes into it; [`Tracking`] picks the best tracker
//! for each writer, asks all of them and unites the answers. It never reports too little: whatever
//! fails, is unknown or is not watched counts as dirty, and the error says so. Knows nothing of
//! streams and sessions; which page has to be sent again is the VMM's business.

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
