// SPDX-License-Identifier: MIT OR Apache-2.0
//! One side: its machine, what its VMM is doing, and whether the guest runs there.

use vfiomig::handover::{Action, Fence, Handover, Outcome, Report};

/// What a VMM is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Work {
    /// Compares the devices.
    Judge,
    /// Stops the guest, and sends the rest.
    Stop,
    /// Commits every device.
    Commit,
    /// Releases every device.
    Release,
    /// Keeps the guest.
    Keep,
    /// Runs the guest.
    Run,
    /// Resets every device.
    Reset,
}

/// Whether the guest has run on a side since it was last stopped on the source.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ran {
    /// Certainly not.
    No,
    /// It is being started.
    Maybe,
    /// Yes.
    Yes,
}

/// A side.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// Its machine.
    pub machine: Handover,
    /// Which attempt that is about.
    pub attempt: u32,
    /// Whether its process lives.
    pub alive: bool,
    /// What its VMM has been asked for, and has not reported.
    pub doing: Option<Work>,
    /// Whether the guest runs here, or may.
    pub runs: bool,
    /// Whether it has run here since the switchover.
    pub ran: Ran,
    /// Loads were begun.
    pub begun: bool,
    /// How often the outcome of this attempt was told, and what it was.
    pub told: u8,
    /// How often the connection may still break.
    pub cuts: u8,
    /// Whether this side believes that there is a connection.
    pub linked: bool,
    /// What a fencer has told this side of the other one.
    pub fenced: Option<Fence>,
    /// "Go" was said: only looked at where it may be said once.
    pub said_go: bool,
}

/// What a VMM got from its machine.
pub enum Taken {
    /// Nothing.
    Nothing,
    /// Something that only this side knows of.
    Local,
    /// A message.
    Message(Vec<u8>),
    /// Something to do, which has been noted.
    Work(Work),
}

impl Node {
    /// A side that begins an attempt.
    pub fn new(machine: Handover, attempt: u32, cuts: u8) -> Node {
        Node {
            machine,
            attempt,
            alive: true,
            doing: None,
            runs: false,
            ran: Ran::No,
            begun: false,
            told: 0,
            cuts,
            linked: true,
            fenced: None,
            said_go: false,
        }
    }

    /// What the VMM sees of its machine.
    pub fn report(&self) -> Report {
        self.machine.report()
    }

    /// Whether the outcome is final.
    pub fn is_over(&self) -> bool {
        !matches!(self.report().outcome, Outcome::Pending | Outcome::Undecided)
    }

    /// Takes the next action and begins with it. Waits and requests for a fence are passed over: ticks
    /// and fences may come at any time.
    pub fn take(&mut self) -> Taken {
        loop {
            let work = match self.machine.next_action() {
                Ok(Action::Send(message)) => return Taken::Message(message.to_vec()),
                Ok(Action::Wait(_) | Action::Fence) => continue,
                Ok(Action::Nothing) | Err(_) => return Taken::Nothing,
                Ok(Action::Outcome) => {
                    self.told = self.told.saturating_add(1);
                    return Taken::Local;
                }
                Ok(Action::Begin) => {
                    self.begun = true;
                    return Taken::Local;
                }
                Ok(Action::Judge) => Work::Judge,
                Ok(Action::Stop) => Work::Stop,
                Ok(Action::Commit) => Work::Commit,
                Ok(Action::Release) => Work::Release,
                Ok(Action::Keep) => Work::Keep,
                Ok(Action::Run) => Work::Run,
                Ok(Action::Reset) => Work::Reset,
            };
            if matches!(work, Work::Keep | Work::Run) {
                // As early as it can.
                self.runs = true;
                if self.ran == Ran::No {
                    self.ran = Ran::Maybe;
                }
            }
            // Stopping needs no report of its own, so something else may be asked for meanwhile.
            self.doing = Some(work);
            return Taken::Work(work);
        }
    }
}
