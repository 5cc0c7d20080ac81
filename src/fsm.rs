// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's migration state machine, computed in user space.
//!
//! The kernel goes from one state to another through intermediate ones; which ones depends on the
//! device's flags. Knowing the path in advance tells whether a data fd will come back. It also
//! keeps illegal requests away from drivers, some of which mark the device as failed when they get
//! one (docs/kernel-interface.md). This module knows states and arcs, and calls nothing.

use std::fmt;
use std::ops::Deref;

use crate::flags::flags;
use crate::uapi;

/// A state of the migration state machine, with the kernel's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum State {
    /// The driver has lost track of the device; only a reset helps.
    Error,
    /// Stopped.
    Stop,
    /// Running.
    Running,
    /// Stopped, with its state being read.
    StopCopy,
    /// Stopped, with its state being written.
    Resuming,
    /// Running, but starting no peer-to-peer DMA.
    RunningP2p,
    /// Running, with its state being read.
    PreCopy,
    /// Like [`State::PreCopy`], but not starting any peer-to-peer DMA.
    PreCopyP2p,
    /// A state of a kernel that is newer than this library.
    Other(u32),
}

use State::{PreCopy, PreCopyP2p, Resuming, Running, RunningP2p, Stop, StopCopy};

impl State {
    /// Every state that this library knows, in the order of their numbers.
    pub const KNOWN: [State; 8] =
        [State::Error, Stop, Running, StopCopy, Resuming, RunningP2p, PreCopy, PreCopyP2p];

    /// The kernel's number.
    pub const fn raw(self) -> u32 {
        match self {
            State::Error => 0,
            Stop => 1,
            Running => 2,
            StopCopy => 3,
            Resuming => 4,
            RunningP2p => 5,
            PreCopy => 6,
            PreCopyP2p => 7,
            State::Other(raw) => raw,
        }
    }

    /// The state with this number.
    pub fn from_raw(raw: u32) -> State {
        State::KNOWN.into_iter().find(|state| state.raw() == raw).unwrap_or(State::Other(raw))
    }

    /// The name that the kernel's documentation uses.
    pub fn name(self) -> &'static str {
        match self {
            State::Error => "ERROR",
            Stop => "STOP",
            Running => "RUNNING",
            StopCopy => "STOP_COPY",
            Resuming => "RESUMING",
            RunningP2p => "RUNNING_P2P",
            PreCopy => "PRE_COPY",
            PreCopyP2p => "PRE_COPY_P2P",
            State::Other(_) => "UNKNOWN",
        }
    }

    /// Whether a saving data fd belongs to this state.
    pub fn is_saving(self) -> bool {
        matches!(self, PreCopy | PreCopyP2p | StopCopy)
    }

    /// Whether a data fd of either direction belongs to this state.
    pub fn has_data_stream(self) -> bool {
        self.is_saving() || self == Resuming
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Other(raw) => write!(f, "UNKNOWN({raw})"),
            known => f.write_str(known.name()),
        }
    }
}

/// A state that may be unknown, for people to read.
pub(crate) struct Named(pub Option<State>);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(state) => state.fmt(f),
            None => f.write_str("an unknown state"),
        }
    }
}

/// A sequence of states, at most as many as exist: finding a path needs no memory.
#[derive(Clone, Copy)]
pub struct Steps {
    states: [State; State::KNOWN.len()],
    len: usize,
}

impl Steps {
    const NONE: Steps = Steps { states: [State::Error; State::KNOWN.len()], len: 0 };

    /// Returns whether there was room for it.
    fn push(&mut self, state: State) -> bool {
        let slot = self.states.get_mut(self.len);
        self.len += usize::from(slot.is_some());
        slot.map(|slot| *slot = state).is_some()
    }
}

impl Deref for Steps {
    type Target = [State];

    fn deref(&self) -> &[State] {
        self.states.get(..self.len).unwrap_or_default()
    }
}

impl PartialEq for Steps {
    fn eq(&self, other: &Steps) -> bool {
        **self == **other
    }
}

impl Eq for Steps {}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The path from one state to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path {
    /// The states that the path enters; the last one is the target. Empty if there is nothing to
    /// do.
    pub steps: Steps,
    /// Whether the kernel returns a new data fd on the way.
    pub opens_data: bool,
}

/// The arcs that drivers implement and, for every other pair, the first step towards the target.
/// `None`: there is no path.
fn next_of_all(from: State, to: State) -> Option<State> {
    Some(match (from, to) {
        (from, to) if from == to => to,
        (Stop, StopCopy | Resuming) => to,
        (Stop, _) => RunningP2p,
        (Running, PreCopy) => PreCopy,
        (Running, _) => RunningP2p,
        // A device that has stopped saving cannot continue the saved stream.
        (StopCopy, PreCopy | PreCopyP2p) => return None,
        (StopCopy | Resuming, _) => Stop,
        (RunningP2p, Running | PreCopyP2p | Stop) => to,
        (RunningP2p, PreCopy) => Running,
        (RunningP2p, _) => Stop,
        (PreCopy, PreCopyP2p | StopCopy) => PreCopyP2p,
        (PreCopy, _) => Running,
        (PreCopyP2p, PreCopy | StopCopy) => to,
        (PreCopyP2p, _) => RunningP2p,
        _ => return None,
    })
}

flags! {
    /// What a driver says of its migration states: `VFIO_MIGRATION_*`. Those of newer kernels are
    /// kept, and mean nothing here.
    open MigrationFlags: u64 {
        /// The device can be saved while stopped. Without it there is no migration.
        STOP_COPY = uapi::MIGRATION_STOP_COPY;
        /// It has peer-to-peer states.
        P2P = uapi::MIGRATION_P2P;
        /// It has pre-copy states.
        PRE_COPY = uapi::MIGRATION_PRE_COPY;
    }
}

/// The state machine of a device with certain migration flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fsm {
    flags: MigrationFlags,
}

impl Fsm {
    /// The machine of a device with these flags.
    pub fn new(flags: MigrationFlags) -> Fsm {
        Fsm { flags }
    }

    /// Whether a device with these flags has the state.
    pub fn supports(self, state: State) -> bool {
        use MigrationFlags as M;
        let needs = match state {
            Stop | Running | StopCopy | Resuming => M::STOP_COPY,
            RunningP2p => M::STOP_COPY | M::P2P,
            PreCopy => M::STOP_COPY | M::PRE_COPY,
            PreCopyP2p => M::STOP_COPY | M::P2P | M::PRE_COPY,
            State::Error | State::Other(_) => return false,
        };
        self.flags.contains(needs)
    }

    /// The path from one state to another, or `None` if the kernel would refuse.
    pub fn path(self, from: State, to: State) -> Option<Path> {
        if !self.supports(from) || !self.supports(to) {
            return None;
        }
        let mut steps = Steps::NONE;
        let mut opens_data = false;
        let mut at = from;
        while at != to {
            let mut next = next_of_all(at, to)?;
            // States that the device lacks are passed through on paper only.
            while !self.supports(next) {
                next = next_of_all(next, to)?;
            }
            opens_data |= match next {
                Resuming => true,
                _ => next.is_saving() && !at.is_saving(),
            };
            // A path that enters more states than exist goes in circles.
            if !steps.push(next) {
                return None;
            }
            at = next;
        }
        Some(Path { steps, opens_data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's rules once more, transcribed by hand from the table in
    /// docs/kernel-interface.md, which was confirmed on a running kernel: for each pair the path,
    /// and `fd` if a data fd comes back. Nothing here is computed.
    fn transcription(flags: u64) -> &'static str {
        match flags {
            7 => include_str!("fsm/flags7.txt"),
            5 => include_str!("fsm/flags5.txt"),
            3 => include_str!("fsm/flags3.txt"),
            _ => include_str!("fsm/flags1.txt"),
        }
    }

    fn machine(flags: u64) -> Fsm {
        Fsm::new(MigrationFlags::from_bits_retain(flags))
    }

    fn by_name(name: &str) -> State {
        State::KNOWN.into_iter().find(|s| s.name() == name).unwrap_or_else(|| panic!("{name}"))
    }

    #[test]
    fn every_pair_agrees_with_the_transcription_of_the_kernels_rules() {
        for flags in [1, 3, 5, 7] {
            let fsm = machine(flags);
            let mut seen = std::collections::HashSet::new();
            for line in transcription(flags).lines().filter(|l| !l.starts_with('#')) {
                let words: Vec<&str> = line.split_whitespace().collect();
                let (from, to) = (by_name(words[0]), by_name(words[1]));
                let expected = match words[2] {
                    "EINVAL" => None,
                    "none" => Some(Path { steps: Steps::NONE, opens_data: false }),
                    steps => Some(Path {
                        steps: steps.split('>').map(by_name).fold(Steps::NONE, |mut all, step| {
                            assert!(all.push(step));
                            all
                        }),
                        opens_data: words.get(3) == Some(&"fd"),
                    }),
                };
                assert_eq!(fsm.path(from, to), expected, "flags {flags}: {from} -> {to}");
                assert!(seen.insert((from, to)));
            }
            let supported = State::KNOWN.into_iter().filter(|s| fsm.supports(*s)).count();
            assert_eq!(seen.len(), supported * supported, "flags {flags}: rows missing");
        }
    }

    #[test]
    fn states_a_device_lacks_and_states_of_the_future_have_no_path() {
        for flags in [1, 3, 5, 7, 0, 2, 6] {
            let fsm = machine(flags);
            for from in State::KNOWN.into_iter().chain([State::Other(8), State::Other(99)]) {
                for to in State::KNOWN.into_iter().chain([State::Other(8)]) {
                    if !fsm.supports(from) || !fsm.supports(to) {
                        assert_eq!(fsm.path(from, to), None);
                    }
                }
            }
        }
    }

    #[test]
    fn unknown_flags_change_nothing() {
        let known = machine(7);
        let future = machine(7 | 1 << 40);
        for from in State::KNOWN {
            for to in State::KNOWN {
                assert_eq!(known.path(from, to), future.path(from, to));
            }
        }
    }

    #[test]
    fn numbers_and_states_convert_both_ways() {
        for raw in 0..20 {
            assert_eq!(State::from_raw(raw).raw(), raw);
        }
    }
}
