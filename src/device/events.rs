// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device reports to the VMM during calls.

use std::fmt;

use crate::error::Outcome;
use crate::fixups::Fixups;
use crate::fsm::{Named, State};
use crate::history::What;

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What happened: a change of state, recovery, a reset, a restart or fix-ups.
    pub kind: What,
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
            What::StateChanged => write!(f, "{from} -> {to} in {} ns", self.duration_ns),
            What::Recovered => write!(f, "recovery: {:?}, now {to}", self.outcome),
            What::Reset => write!(f, "reset, now {to}"),
            What::SaveRestarted => write!(f, "the save starts again, now {to}"),
            What::LoadRestarted => write!(f, "the load starts again, now {to}"),
            What::FixupsNeeded => write!(f, "fix-ups needed: {}", self.fixups),
            what => f.write_str(what.name()),
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
