// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device reports to the VMM during calls.

use std::fmt;

use crate::error::Outcome;
use crate::fixups::Fixups;
use crate::fsm::{Named, State};

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
#[non_exhaustive]
pub enum EventKind {
    /// The device went from one state to another.
    StateChanged = 1,
    /// Recovery from a failed change has ended; the outcome says how.
    Recovered = 2,
    /// The device was reset, by the library or behind its back.
    Reset = 3,
    /// A save started again because the device was reset: everything sent before is void.
    SaveRestarted = 4,
    /// The VMM must redo something before the device runs.
    FixupsNeeded = 5,
    /// The source of a load started again: earlier blobs and acknowledgements are void. Comes at
    /// its place among the blobs.
    LoadRestarted = 6,
}

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// State before, if it is known.
    pub from: Option<State>,
    /// State after, if it is known.
    pub to: Option<State>,
    /// What recovery left behind.
    pub outcome: Outcome,
    /// What the VMM must redo before the device runs.
    pub fixups: Fixups,
    /// How long the change took, in nanoseconds.
    pub duration_ns: u64,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (Named(self.from), Named(self.to));
        match self.kind {
            EventKind::StateChanged => write!(f, "{from} -> {to} in {} ns", self.duration_ns),
            EventKind::Recovered => write!(f, "recovery: {:?}, now {to}", self.outcome),
            EventKind::Reset => write!(f, "reset, now {to}"),
            EventKind::SaveRestarted => write!(f, "the save starts again, now {to}"),
            EventKind::LoadRestarted => write!(f, "the load starts again, now {to}"),
            EventKind::FixupsNeeded => write!(f, "fix-ups needed: {}", self.fixups),
        }
    }
}

/// Where events go. Called on the thread that is inside the library; from there, the library must
/// not be entered again with the same device.
pub struct EventSink(Box<dyn FnMut(&Event) + Send>);

impl EventSink {
    /// A sink that calls `call`.
    pub fn new(call: impl FnMut(&Event) + Send + 'static) -> EventSink {
        EventSink(Box::new(call))
    }

    pub(super) fn call(&mut self, event: &Event) {
        (self.0)(event);
    }
}
