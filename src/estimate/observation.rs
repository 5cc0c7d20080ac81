// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an estimate is told, and the names of the parts of a downtime.

use super::profile::Step;

/// A part of the downtime, in the order in which they come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Phase {
    /// All devices of the source give up their peer-to-peer DMA.
    Quiesce = 0,
    /// All devices of the source are stopped.
    Stop = 1,
    /// They are read.
    Read = 2,
    /// How much longer sending takes than reading; and half a round trip.
    Send = 3,
    /// How much longer the target takes to write what was sent; a round trip, and the release of the
    /// source's devices.
    Load = 4,
    /// The target's drivers accept the state.
    Commit = 5,
    /// All devices of the target run; and half a round trip.
    Resume = 6,
}

impl Phase {
    /// In the order of their numbers.
    pub const ALL: [Phase; 7] = [
        Phase::Quiesce,
        Phase::Stop,
        Phase::Read,
        Phase::Send,
        Phase::Load,
        Phase::Commit,
        Phase::Resume,
    ];
}

/// What the driver of a source's device says is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Remaining {
    /// Initial data and dirty data, in bytes, if the driver says so.
    pub precopy: Option<(u64, u64)>,
    /// What stop-copy would send, in bytes, if the driver says so.
    pub stop_copy: Option<u64>,
    /// Whether the mark that all initial data was sent is on its way.
    pub initial_sent: bool,
    /// Which generation of initial data this is.
    pub generation: u32,
}

impl Remaining {
    /// What pre-copy would still send, in bytes.
    pub(super) fn left(&self) -> u64 {
        self.precopy.map_or(0, |(initial, dirty)| initial.saturating_add(dirty))
    }
}

/// What was measured. Times are in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Observation {
    /// Source: bytes were read from the device, which took that long.
    Read {
        /// How many.
        bytes: u64,
        /// How long.
        ns: u64,
    },
    /// Source: bytes were given to a connection, which took that long.
    Sent {
        /// How many.
        bytes: u64,
        /// How long.
        ns: u64,
    },
    /// Target: bytes were written to the device, which took that long.
    Written {
        /// How many.
        bytes: u64,
        /// How long.
        ns: u64,
    },
    /// The device took a step.
    Took(Step, u64),
    /// Source: all of the device's stream was read.
    Ended,
    /// Source: what the driver says is left.
    Remaining(Remaining),
    /// Source: the target has loaded this generation of the device's initial data.
    InitialLoaded(u32),
    /// A message to the other side and the answer to it took that long.
    RoundTrip(u64),
    /// How many of the source's devices are read at a time, by threads that also send.
    SourceThreads(u32),
    /// How many of the target's devices are written at a time.
    TargetThreads(u32),
    /// So many connections send, while others read. 0: the threads that read also send.
    Channels(u32),
    /// How many of the source's devices take a step at a time.
    SourceHelpers(u32),
    /// How many of the target's devices take a step at a time.
    TargetHelpers(u32),
    /// Source: the guest has been stopped, and is switched over. What was to be expected then is kept.
    SwitchOver,
    /// Source: from the stop of all devices until all of their streams were read and sent, it took that
    /// long.
    Moved(u64),
    /// Source: from there until all devices were released, which is after the target's commit, it took
    /// that long.
    HandedOver(u64),
    /// A part of the group's downtime has taken that long.
    Measured(Phase, u64),
}

/// Which side's device a history is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Side {
    /// This side's.
    Here = 1,
    /// The device of the other side.
    There = 2,
}
