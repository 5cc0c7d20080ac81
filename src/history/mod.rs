// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flight recorder: the last events of a device, or of a group, with their times.
//!
//! A `Recorder` keeps them in memory that it has from the beginning. Recording takes a look at
//! the clock and a short lock, so it works in every failure, and a history can be read from any
//! thread at any time. It says what happened, not what that means; docs/events.md has the list. Whoever
//! wants to hear of events as they happen has a `Queue`, which the recorder tells what it records.

mod queue;
mod record;
mod recorder;
mod show;

pub use queue::Event;
pub(crate) use queue::Queue;
pub use record::{About, Cause, Entry, History, Note, OfGroup, Record, Short, What};
pub use recorder::LAST;
pub(crate) use recorder::{Recorder, merge};
pub use show::Format;
pub(crate) use show::{LEAST_BYTES, MAX_BYTES};

#[cfg(test)]
mod tests;
