// SPDX-License-Identifier: MIT OR Apache-2.0
//! Both sides, what is on its way between them, and what happens to them.

use std::collections::BTreeSet;
use std::sync::Arc;

use vfiomig::handover::{Event, Fence, Handover, HandoverOptions, Outcome, Reason, Role};

use crate::bounds::Bounds;
use crate::fault::{COMMITTED, Fault, GO, forge, kind, of_attempt};
use crate::node::{Node, Ran, Taken, Work};

/// The migration of this world.
pub const MIGRATION_ID: [u8; 16] = *b"model migration!";

/// A side, by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Side {
    /// The guest leaves it.
    Source,
    /// The guest arrives at it.
    Target,
}

impl Side {
    /// Both.
    pub const BOTH: [Side; 2] = [Side::Source, Side::Target];

    /// The other one.
    pub fn other(self) -> Side {
        match self {
            Side::Source => Side::Target,
            Side::Target => Side::Source,
        }
    }
}

/// How the machine of an attempt is made.
pub fn options(side: Side, attempt: u32, num_devices: u32) -> HandoverOptions {
    HandoverOptions {
        role: match side {
            Side::Source => Role::Source,
            Side::Target => Role::Target,
        },
        migration_id: MIGRATION_ID,
        attempt,
        num_devices,
        key_id: [0; 16],
        repeat_ms: HandoverOptions::REPEAT_MS,
    }
}

/// What must never be, once it was.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Wrongs {
    /// A guest was run from memory that is older than what it had run elsewhere.
    pub went_back: bool,
    /// A guest was released that this attempt's target had not committed.
    pub released_early: bool,
    /// A side was told of an outcome that is not so.
    pub told_wrong: bool,
}

/// Both sides and everything between them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    /// The source.
    pub source: Node,
    /// The target.
    pub target: Node,
    /// Everything that was ever sent, and to whom. It may arrive at any time, again, or never.
    pub network: BTreeSet<(Side, Arc<[u8]>)>,
    /// The last attempt of which everything was sent.
    pub sent: u32,
    /// ... and the last one of which the target has everything.
    pub received: u32,
    /// The last attempt that was committed.
    pub committed: u32,
    /// How often something that is asked for may still fail.
    pub failures: u8,
    /// How often pre-copy may still be resumed.
    pub resumes: u8,
    /// How many processes may still die.
    pub deaths: u8,
    /// What may happen in all.
    pub bounds: Bounds,
    /// What was wrong.
    pub wrongs: Wrongs,
    /// The mistake that is planted.
    pub fault: Option<Fault>,
}

impl World {
    /// Before the first attempt: the guest runs at the source. `None`: the library refuses it.
    pub fn new(bounds: Bounds, fault: Option<Fault>) -> Option<World> {
        let Bounds { cuts, failures, resumes, deaths, devices, .. } = bounds;
        let mut source = Node::new(begin(Side::Source, 1, devices)?, 1, cuts);
        (source.runs, source.ran) = (true, Ran::Yes);
        let target = Node::new(begin(Side::Target, 1, devices)?, 1, cuts);
        Some(World {
            source,
            target,
            network: BTreeSet::new(),
            sent: 0,
            received: 0,
            committed: 0,
            failures,
            resumes,
            deaths,
            bounds,
            wrongs: Wrongs::default(),
            fault,
        })
    }

    /// A side.
    pub fn node(&self, side: Side) -> &Node {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }

    /// A side that something happens to.
    pub fn node_mut(&mut self, side: Side) -> &mut Node {
        match side {
            Side::Source => &mut self.source,
            Side::Target => &mut self.target,
        }
    }

    /// The side's VMM takes an action: whether there was one, and the message if it is one.
    pub fn take(&mut self, side: Side) -> Option<Option<Vec<u8>>> {
        let was_running = self.node(side).runs;
        let taken = self.node_mut(side).take();
        match taken {
            Taken::Nothing => return None,
            Taken::Local => self.check_outcome(side),
            Taken::Message(message) => return Some(self.may_say(side, message)),
            Taken::Work(Work::Release) => {
                self.wrongs.released_early |= self.committed < self.source.attempt;
            }
            Taken::Work(Work::Keep | Work::Run) if !was_running => {
                let other = self.node(side.other());
                self.wrongs.went_back |=
                    other.ran == Ran::Yes && other.attempt >= self.node(side).attempt;
            }
            Taken::Work(_) => {}
        }
        Some(None)
    }

    fn may_say(&mut self, side: Side, message: Vec<u8>) -> Option<Vec<u8>> {
        let go = kind(&message) == GO;
        let node = self.node_mut(side);
        let again = go && node.said_go;
        if self.fault != Some(Fault::GoOnce) {
            return Some(message);
        }
        self.node_mut(side).said_go |= go;
        (!again).then_some(message)
    }

    /// What was told must be so.
    fn check_outcome(&mut self, side: Side) {
        let node = self.node(side);
        if node.told == 0 {
            return;
        }
        let report = node.report();
        let right = match (side, report.outcome) {
            (Side::Source, Outcome::OnTarget) => self.target.ran == Ran::Yes,
            (Side::Target, Outcome::OnTarget) | (Side::Source, Outcome::OnSource) => node.runs,
            (Side::Target, Outcome::OnSource) => !node.runs,
            (_, Outcome::Lost) => !node.runs || report.reason == Reason::Stuck,
            (_, Outcome::Pending | Outcome::Undecided) => false,
        };
        self.wrongs.told_wrong |= !right;
    }

    /// The VMM has carried out what it was asked for, or could not.
    pub fn finish(&mut self, side: Side, well: bool) {
        let Some(work) = self.node_mut(side).doing.take() else { return };
        match (work, well) {
            (Work::Stop, true) => self.stopped(),
            (Work::Stop, false) => self.source.runs = false,
            (Work::Commit, true) => self.committed = self.target.attempt,
            (Work::Keep | Work::Run, true) => self.node_mut(side).ran = Ran::Yes,
            (Work::Keep | Work::Run, false) if side == Side::Source => {
                self.source.runs = false;
                self.source.ran = Ran::No;
            }
            // Some devices may run, but no vCPU does.
            (Work::Reset, true) => {
                self.target.runs = false;
                self.target.ran = Ran::No;
            }
            _ => {}
        }
        let well = well || (work == Work::Reset && self.fault == Some(Fault::ResetNotDone));
        self.tell(side, work, well);
        if work == Work::Commit && well && self.fault == Some(Fault::RunsAtCommit) {
            self.hear(Side::Target, &forge(GO, self.target.attempt, &MIGRATION_ID));
        }
    }

    fn stopped(&mut self) {
        self.source.runs = false;
        self.source.ran = Ran::No;
        self.sent = self.source.attempt;
    }

    fn tell(&mut self, side: Side, work: Work, well: bool) {
        let devices = self.bounds.devices;
        let attempt = self.node(side).attempt;
        let machine = &mut self.node_mut(side).machine;
        let event = match work {
            _ if !well => Event::Failed(-5),
            Work::Stop => {
                for device in 0..devices {
                    let _ = machine.notify(Event::Ended(device));
                }
                if self.fault == Some(Fault::ReleasesBeforeCommit) {
                    self.hear(side, &forge(COMMITTED, attempt, &MIGRATION_ID));
                }
                return;
            }
            Work::Judge => Event::Judged(0),
            Work::Commit => Event::Committed,
            Work::Release => Event::Released,
            Work::Keep => Event::Kept,
            Work::Run => Event::Running,
            Work::Reset => Event::Reset,
        };
        // A result may come too late to count.
        let _ = machine.notify(event);
    }

    /// A message arrives. One that is refused changes nothing.
    pub fn hear(&mut self, side: Side, message: &[u8]) {
        let node = self.node_mut(side);
        if node.alive {
            let _ = node.machine.receive(message);
        }
    }

    /// The same for one from the network.
    pub fn deliver(&mut self, side: Side, message: &[u8]) {
        match self.fault {
            Some(Fault::NoAttempt) => {
                let message = of_attempt(message, self.node(side).attempt);
                self.hear(side, &message);
            }
            _ => self.hear(side, message),
        }
    }

    /// Something that the machine may refuse.
    pub fn notify(&mut self, side: Side, event: Event) {
        let _ = self.node_mut(side).machine.notify(event);
    }

    /// Everything that was sent has arrived.
    pub fn receive_all(&mut self) {
        let before = self.target.machine.clone();
        for device in 0..self.bounds.devices {
            self.notify(Side::Target, Event::Ended(device));
        }
        // Unless it has given up before.
        if self.target.machine != before {
            self.received = self.sent;
        }
    }

    /// Whether everything was sent to a target that loads this attempt.
    pub fn can_receive_all(&self) -> bool {
        let target = &self.target;
        target.alive && target.begun && target.attempt == self.sent
    }

    /// The side notices that its connection is gone.
    pub fn cut(&mut self, side: Side) {
        let node = self.node_mut(side);
        node.linked = false;
        let _ = node.machine.notify(Event::Cut);
        let impatient = match side {
            Side::Source => Fault::TakesBackInSilence,
            Side::Target => Fault::RunsInSilence,
        };
        if self.fault == Some(impatient) && self.node(side).report().outcome == Outcome::Undecided {
            let _ = self.node_mut(side).machine.peer_fenced(Fence::DidNotRun);
        }
    }

    /// The side has a connection again.
    pub fn connect(&mut self, side: Side) {
        let node = self.node_mut(side);
        node.linked = true;
        let _ = node.machine.notify(Event::Connected);
    }

    /// The side's process dies, and its guest with it.
    pub fn kill(&mut self, side: Side) {
        if self.node(side).alive {
            self.deaths = self.deaths.saturating_sub(1);
        }
        let node = self.node_mut(side);
        node.alive = false;
        node.runs = false;
        node.doing = None;
        node.linked = false;
        if !self.may_return(side) {
            self.network.retain(|(to, _)| *to != side);
        }
    }

    /// Whether messages to this side may ever be heard.
    fn may_return(&self, side: Side) -> bool {
        let again = side == Side::Target && self.target.attempt < self.bounds.attempts;
        self.node(side).alive || again
    }

    /// What a truthful fencer may say of a side.
    pub fn may_say_of(&self, side: Side, fence: Fence) -> bool {
        fence == Fence::MayHaveRun || self.node(side).ran != Ran::Yes
    }

    /// The side has its peer fenced.
    pub fn fence(&mut self, side: Side, fence: Fence) {
        let other = self.node_mut(side.other());
        if fence == Fence::DidNotRun {
            // It was stopped before what was under way.
            other.ran = Ran::No;
        }
        if self.fault != Some(Fault::LyingFencer) {
            self.kill(side.other());
        }
        let said = match self.fault {
            Some(Fault::GuessingFencer) => Fence::DidNotRun,
            _ => fence,
        };
        let node = self.node_mut(side);
        node.fenced = Some(fence);
        let _ = node.machine.peer_fenced(said);
    }

    /// Whether the side may begin another attempt.
    pub fn can_retry(&self, side: Side) -> bool {
        let node = self.node(side);
        let over = node.told > 0 && node.report().outcome == Outcome::OnSource;
        match side {
            Side::Source => {
                node.alive && over && node.doing.is_none() && node.attempt < self.bounds.attempts
            }
            // A process that died is started again.
            Side::Target => {
                (over || !node.alive) && !node.runs && self.source.attempt > node.attempt
            }
        }
    }

    /// Begins another attempt.
    pub fn retry(&mut self, side: Side) {
        let attempt = match side {
            Side::Source => self.source.attempt.saturating_add(1),
            Side::Target => self.source.attempt,
        };
        let Some(machine) = begin(side, attempt, self.bounds.devices) else { return };
        let before = self.node(side);
        let mut node = Node::new(machine, attempt, before.cuts);
        if side == Side::Source {
            (node.runs, node.ran) = (before.runs, before.ran);
        }
        *self.node_mut(side) = node;
    }

    /// Both VMMs do what they do at once.
    pub fn settle(&mut self) {
        for side in Side::BOTH {
            let heard = self.may_return(side.other());
            for message in self.pump(side) {
                if heard {
                    self.network.insert((side.other(), message.into()));
                }
            }
        }
    }

    /// What a VMM does at once: it sends, begins, and hears of outcomes. A message that is never
    /// delivered is as good as one that was not sent, so nothing is lost by not waiting with that.
    pub fn pump(&mut self, side: Side) -> Vec<Vec<u8>> {
        let mut said = Vec::new();
        loop {
            let mut ahead = self.clone();
            if !self.node(side).alive {
                return said;
            }
            match ahead.take(side) {
                Some(message) if ahead.node(side).doing == self.node(side).doing => {
                    *self = ahead;
                    said.extend(message);
                }
                _ => return said,
            }
        }
    }
}

fn begin(side: Side, attempt: u32, num_devices: u32) -> Option<Handover> {
    let mut machine = Handover::new(options(side, attempt, num_devices)).ok()?;
    machine.notify(Event::Connected).ok()?;
    Some(machine)
}
