// SPDX-License-Identifier: MIT OR Apache-2.0
//! The handover: what the two sides of a migration say to each other until the guest runs on exactly
//! one of them.
//!
//! A [`Handover`] is one side, as a machine that does nothing by itself. The VMM tells it what has
//! happened ([`Handover::notify`], [`Handover::receive`]), and it says what to do next
//! ([`Handover::next_action`]): send this, begin, stop, commit, release, run. It opens no connection,
//! reads no clock, and touches no device. docs/handover.md has the protocol and its messages.
//!
//! This room knows who owns the guest, and nothing of devices, sessions or streams.

mod message;
mod shared;
mod source;
mod target;
mod types;

use std::hash::{Hash, Hasher};

use crate::error::{Result, err};
pub use message::{HEADER_LEN, MAX_IDENTITY, MAX_MESSAGE, message_len};
use shared::{Shared, Standing, Work};
use source::Source;
use target::Target;
pub use types::{
    Action, Event, Fence, HandoverOptions, MAX_DEVICES, Outcome, Reason, Report, Role,
};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Side {
    Source(Source),
    Target(Target),
}

/// One side of a handover. Two are equal if whatever happens from now on, they do the same.
#[derive(Clone, Debug)]
pub struct Handover {
    shared: Shared,
    side: Side,
    /// The last message, which the VMM reads here.
    message: Vec<u8>,
}

impl PartialEq for Handover {
    fn eq(&self, other: &Handover) -> bool {
        self.shared == other.shared && self.side == other.side
    }
}

impl Eq for Handover {}

impl Hash for Handover {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.shared.hash(state);
        self.side.hash(state);
    }
}

impl Handover {
    /// Begins one attempt at a migration.
    pub fn new(options: HandoverOptions) -> Result<Handover> {
        let side = match options.role {
            Role::Source => Side::Source(Source::new()),
            Role::Target => Side::Target(Target::new()),
        };
        let mut shared = Shared::new(options)?;
        shared.send = matches!(side, Side::Source(_));
        Ok(Handover { shared, side, message: Vec::new() })
    }

    /// Source: says what a device is, for the target to compare. Before the first message.
    pub fn set_identity(&mut self, device: u32, identity: &[u8]) -> Result<()> {
        if !matches!(&self.side, Side::Source(source) if source.accepts_identities()) {
            return Err(err!(
                Inval,
                "only a source that has said nothing yet can describe its devices"
            ));
        }
        if identity.len() > MAX_IDENTITY {
            let len = identity.len();
            return Err(err!(MsgSize, "a description of {len} bytes; {MAX_IDENTITY} are allowed"));
        }
        self.shared.set_identity(device, identity)
    }

    /// Target: what the source says that a device is. It is the source's word.
    pub fn identity(&mut self, device: u32) -> Result<&[u8]> {
        Ok(&self.shared.device(device)?.identity)
    }

    /// Which generation of a device's initial data the target has loaded; 0: none yet.
    pub fn initial_loaded(&mut self, device: u32) -> Result<u64> {
        Ok(self.shared.device(device)?.loaded)
    }

    /// Tells what has happened. An event that is refused changes nothing.
    pub fn notify(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Connected => {
                self.shared.linked = true;
                self.shared.fence = false;
                self.shared.send = true;
            }
            Event::Cut => {
                self.shared.linked = false;
                self.shared.wait = false;
                self.shared.fence = self.in_doubt();
            }
            Event::Tick => self.shared.send |= self.standing().is_some_and(|(_, repeat)| repeat),
            event => match &mut self.side {
                Side::Source(source) => source.event(&mut self.shared, event)?,
                Side::Target(target) => target.event(&mut self.shared, event)?,
            },
        }
        Ok(())
    }

    /// Takes one whole message of the other side's. One that is refused changes nothing: ignore it, or
    /// cut the connection.
    pub fn receive(&mut self, message: &[u8]) -> Result<()> {
        let message = message::decode(message)?;
        let ours = &self.shared.options;
        if message.migration_id != ours.migration_id {
            return Err(err!(OtherDevice, "a message of another migration"));
        }
        if message.attempt != ours.attempt {
            self.other_attempt(message.attempt > ours.attempt);
            return Ok(());
        }
        match &mut self.side {
            Side::Source(source) => source.receive(&mut self.shared, message.body),
            Side::Target(target) => target.receive(&mut self.shared, message.body),
        }
    }

    /// A message of another attempt says nothing about this one, except that a source which is at a
    /// later one has kept the guest.
    fn other_attempt(&mut self, later: bool) {
        match &mut self.side {
            Side::Target(target) if later => target.superseded(&mut self.shared),
            // What it hears next tells an earlier target so.
            Side::Source(_) if !later => {
                self.shared.send |= self.standing().is_some_and(|(_, repeat)| repeat);
            }
            _ => {}
        }
    }

    /// Tells that the other side does not run the guest and never will.
    pub fn peer_fenced(&mut self, fence: Fence) -> Result<()> {
        match &mut self.side {
            Side::Source(source) => source.fenced(&mut self.shared, fence),
            Side::Target(target) => target.fenced(&mut self.shared, fence),
        }
        Ok(())
    }

    /// Gives the migration up, as long as this side may decide that.
    pub fn cancel(&mut self) -> Result<()> {
        let too_late = match &self.side {
            Side::Source(source) => source.too_late(),
            Side::Target(target) => target.too_late(),
        };
        if too_late {
            return Err(err!(Inval, "too late to cancel: the guest may run on the target already"));
        }
        self.shared.because(Reason::Cancelled, 0, false);
        match &mut self.side {
            Side::Source(source) => source.give_up(&mut self.shared),
            Side::Target(target) => target.give_up(&mut self.shared),
        }
        Ok(())
    }

    /// What to do next. Ask again until there is nothing.
    pub fn next_action(&mut self) -> Result<Action<'_>> {
        if self.shared.linked && self.shared.send {
            if let Some((standing, repeat)) = self.standing() {
                self.shared.encode(standing, &mut self.message)?;
                self.shared.send = false;
                self.shared.wait = repeat;
                if let Side::Source(source) = &mut self.side {
                    source.sent();
                }
                return Ok(Action::Send(&self.message));
            }
            self.shared.send = false;
        }
        if let Some(work) = self.shared.take_work() {
            if let Side::Target(target) = &mut self.side {
                target.taken(work);
            }
            return Ok(action(work));
        }
        if std::mem::take(&mut self.shared.fence) && self.in_doubt() {
            return Ok(Action::Fence);
        }
        let shared = &mut self.shared;
        if std::mem::take(&mut shared.tell) {
            return Ok(Action::Outcome);
        }
        if std::mem::take(&mut shared.wait) && shared.linked {
            return Ok(Action::Wait(shared.options.repeat_ms));
        }
        Ok(Action::Nothing)
    }

    /// Where the guest is.
    pub fn report(&self) -> Report {
        let report = self.shared.report;
        if report.outcome == Outcome::Pending && !self.shared.linked && self.in_doubt() {
            return Report { outcome: Outcome::Undecided, reason: Reason::Cut, ..report };
        }
        report
    }

    fn standing(&self) -> Option<(Standing, bool)> {
        match &self.side {
            Side::Source(source) => source.standing(),
            Side::Target(target) => target.standing(),
        }
    }

    fn in_doubt(&self) -> bool {
        match &self.side {
            Side::Source(source) => source.in_doubt(),
            Side::Target(target) => target.in_doubt(),
        }
    }
}

fn action(work: Work) -> Action<'static> {
    match work {
        Work::Judge => Action::Judge,
        Work::Begin => Action::Begin,
        Work::Stop => Action::Stop,
        Work::Commit => Action::Commit,
        Work::Release => Action::Release,
        Work::Keep => Action::Keep,
        Work::Run => Action::Run,
        Work::Reset => Action::Reset,
    }
}
