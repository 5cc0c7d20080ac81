// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's migration state machine, written a second time: a simulator that asked the library
//! for its paths would share its mistakes.
//!
//! This is the kernel's own form: a square table of the next state, and a rule for states that a
//! device does not have.

/// A state, by the kernel's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct State(pub u32);

impl State {
    /// Only a reset helps.
    pub const ERROR: State = State(0);
    /// Stopped.
    pub const STOP: State = State(1);
    /// Running.
    pub const RUNNING: State = State(2);
    /// Stopped, being read.
    pub const STOP_COPY: State = State(3);
    /// Stopped, being written.
    pub const RESUMING: State = State(4);
    /// Running without peer-to-peer DMA.
    pub const RUNNING_P2P: State = State(5);
    /// Running, being read.
    pub const PRE_COPY: State = State(6);
    /// Running without peer-to-peer DMA, being read.
    pub const PRE_COPY_P2P: State = State(7);

    /// Whether a saving stream belongs to it.
    pub fn is_saving(self) -> bool {
        matches!(self, State::PRE_COPY | State::PRE_COPY_P2P | State::STOP_COPY)
    }

    /// Whether the guest's device works, and makes its state dirty.
    pub fn is_running(self) -> bool {
        matches!(self, State::RUNNING | State::RUNNING_P2P | State::PRE_COPY | State::PRE_COPY_P2P)
    }

    /// Whether estimates can be asked for.
    pub fn is_pre_copy(self) -> bool {
        matches!(self, State::PRE_COPY | State::PRE_COPY_P2P)
    }
}

/// The row is where the device is; the column is where it should go. The entry is the next state on
/// the path, or 0 (ERROR) if there is no path.
#[rustfmt::skip]
const NEXT: [[u32; 8]; 8] = [
    //            ERR STOP RUN  SC  RES RP2P  PC PCP2P
    /* ERROR */   [0,  0,  0,   0,  0,   0,   0,  0],
    /* STOP */    [0,  1,  5,   3,  4,   5,   5,  5],
    /* RUNNING */ [0,  5,  2,   5,  5,   5,   6,  5],
    /* STOP_COPY*/[0,  1,  1,   3,  1,   1,   0,  0],
    /* RESUMING */[0,  1,  1,   1,  4,   1,   1,  1],
    /* RUN_P2P */ [0,  1,  2,   1,  1,   5,   2,  7],
    /* PRE_COPY */[0,  2,  2,   7,  2,   2,   6,  7],
    /* PC_P2P */  [0,  5,  5,   3,  5,   5,   6,  7],
];

/// The flags that a device must have to be in a state; the column is the state.
const NEEDS: [u32; 8] = [0, 1, 1, 1, 1, 1 | 2, 1 | 4, 1 | 2 | 4];

fn has(flags: u32, state: State) -> bool {
    NEEDS.get(state.0 as usize).is_some_and(|needs| *needs != 0 && flags & needs == *needs)
}

fn next(at: State, to: State) -> Option<State> {
    let row = NEXT.get(at.0 as usize)?;
    row.get(to.0 as usize).copied().filter(|next| *next != 0).map(State)
}

/// The states that the path enters, the target last; `None` if the kernel returns EINVAL.
pub fn path(flags: u32, from: State, to: State) -> Option<Vec<State>> {
    if !has(flags, from) || !has(flags, to) {
        return None;
    }
    let mut steps = Vec::new();
    let mut at = from;
    while at != to {
        let mut step = next(at, to)?;
        while !has(flags, step) {
            step = next(step, to)?;
        }
        steps.push(step);
        at = step;
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(name: &str) -> State {
        let names = ["ERROR", "STOP", "RUN", "SC", "RES", "RP2P", "PC", "PCP2P"];
        State(names.iter().position(|n| *n == name).unwrap() as u32)
    }

    /// Rows of the documented tables: from, then one path for each state in the header line.
    fn check(flags: u32, head: &str, rows: &[&str]) {
        let columns: Vec<State> = head.split_whitespace().map(number).collect();
        assert_eq!(rows.len(), columns.len());
        for row in rows {
            let mut cells = row.split_whitespace();
            let from = number(cells.next().unwrap());
            for to in &columns {
                let documented = match cells.next().unwrap() {
                    "-" => Some(vec![]),
                    "EINVAL" => None,
                    way => Some(way.split('>').map(number).collect()),
                };
                assert_eq!(path(flags, from, *to), documented, "{flags}: {from:?} to {to:?}");
            }
            assert_eq!(cells.next(), None);
        }
        for other in (0..10).map(State).filter(|s| !columns.contains(s)) {
            for state in &columns {
                assert_eq!(path(flags, *state, other), None);
                assert_eq!(path(flags, other, *state), None);
            }
        }
    }

    #[test]
    fn every_way_is_the_documented_one() {
        check(
            7,
            "STOP RUN SC RES RP2P PC PCP2P",
            &[
                "STOP - RP2P>RUN SC RES RP2P RP2P>RUN>PC RP2P>PCP2P",
                "RUN RP2P>STOP - RP2P>STOP>SC RP2P>STOP>RES RP2P PC RP2P>PCP2P",
                "SC STOP STOP>RP2P>RUN - STOP>RES STOP>RP2P EINVAL EINVAL",
                "RES STOP STOP>RP2P>RUN STOP>SC - STOP>RP2P STOP>RP2P>RUN>PC STOP>RP2P>PCP2P",
                "RP2P STOP RUN STOP>SC STOP>RES - RUN>PC PCP2P",
                "PC RUN>RP2P>STOP RUN PCP2P>SC RUN>RP2P>STOP>RES RUN>RP2P - PCP2P",
                "PCP2P RP2P>STOP RP2P>RUN SC RP2P>STOP>RES RP2P PC -",
            ],
        );
        check(
            5,
            "STOP RUN SC RES PC",
            &[
                "STOP - RUN SC RES RUN>PC",
                "RUN STOP - STOP>SC STOP>RES PC",
                "SC STOP STOP>RUN - STOP>RES EINVAL",
                "RES STOP STOP>RUN STOP>SC - STOP>RUN>PC",
                "PC RUN>STOP RUN SC RUN>STOP>RES -",
            ],
        );
        check(
            3,
            "STOP RUN SC RES RP2P",
            &[
                "STOP - RP2P>RUN SC RES RP2P",
                "RUN RP2P>STOP - RP2P>STOP>SC RP2P>STOP>RES RP2P",
                "SC STOP STOP>RP2P>RUN - STOP>RES STOP>RP2P",
                "RES STOP STOP>RP2P>RUN STOP>SC - STOP>RP2P",
                "RP2P STOP RUN STOP>SC STOP>RES -",
            ],
        );
        check(
            1,
            "STOP RUN SC RES",
            &[
                "STOP - RUN SC RES",
                "RUN STOP - STOP>SC STOP>RES",
                "SC STOP STOP>RUN - STOP>RES",
                "RES STOP STOP>RUN STOP>SC -",
            ],
        );
    }
}
