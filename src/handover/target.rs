// SPDX-License-Identifier: MIT OR Apache-2.0
//! The side that the guest arrives at.
//!
//! It runs the guest when the source says "go", or when whoever has fenced the source says that the
//! guest has not run there since; never because it hears nothing.

use super::message::{Body, Identities, Parting};
use super::shared::{Shared, Standing, Work};
use super::types::{Event, Fence, Outcome, Reason};
use crate::error::{Result, err};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Phase {
    /// Nothing has come yet.
    Meeting,
    Judging,
    Loading,
    /// The source may stop the guest.
    Agreed,
    Committing,
    /// Waits for "go".
    Committed,
    Starting,
    /// The guest runs here.
    Running,
    /// It did not start, and may not have been stopped yet: nothing is said until then.
    Undoing,
    /// It will not run here; the devices are being reset.
    Refusing,
    /// Nothing of it is left here.
    Gone,
    /// It could not be run, nor undone.
    Stuck,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Target {
    phase: Phase,
    /// The last switchover that the source has asked for, and the last one agreed to.
    wanted: u32,
    agreed: u32,
    /// The source has sent everything.
    end_heard: bool,
    /// The source is fenced, so that nobody will say "go".
    alone: bool,
    /// Loads were asked for, so that there is something to reset.
    begun: bool,
    /// The source knows how it ended.
    heard: bool,
}

impl Target {
    pub fn new() -> Target {
        Target {
            phase: Phase::Meeting,
            wanted: 0,
            agreed: 0,
            end_heard: false,
            alone: false,
            begun: false,
            heard: false,
        }
    }

    /// What to say, and whether to repeat it.
    pub fn standing(&self) -> Option<(Standing, bool)> {
        match self.phase {
            Phase::Meeting | Phase::Judging | Phase::Committing => None,
            Phase::Starting | Phase::Undoing | Phase::Stuck => None,
            Phase::Loading => Some((Standing::Welcome, true)),
            Phase::Agreed => Some((Standing::Agreed(self.agreed), true)),
            Phase::Committed => Some((Standing::Committed, true)),
            Phase::Running => Some((Standing::Running, !self.heard)),
            Phase::Refusing | Phase::Gone => {
                Some((Standing::Refused { heard: self.heard }, !self.heard))
            }
        }
    }

    pub fn taken(&mut self, work: Work) {
        self.begun |= work == Work::Begin;
    }

    /// Whether the source may have let go already.
    pub fn in_doubt(&self) -> bool {
        self.phase == Phase::Committed
    }

    /// Whether the guest runs here, or may.
    pub fn too_late(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Running | Phase::Undoing | Phase::Stuck)
    }

    /// The guest will not run here.
    pub fn give_up(&mut self, shared: &mut Shared) {
        if self.too_late() || matches!(self.phase, Phase::Refusing | Phase::Gone) {
            return;
        }
        shared.send = true;
        shared.fence = false;
        shared.work = None;
        if self.begun {
            self.phase = Phase::Refusing;
            shared.work = Some(Work::Reset);
        } else {
            self.gone(shared);
        }
    }

    fn gone(&mut self, shared: &mut Shared) {
        self.phase = Phase::Gone;
        shared.end(if self.alone { Outcome::Lost } else { Outcome::OnSource });
    }

    pub fn event(&mut self, shared: &mut Shared, event: Event) -> Result<()> {
        match (event, self.phase) {
            (Event::Judged(verdict), _) => {
                shared.finish(Work::Judge)?;
                self.judged(shared, verdict);
            }
            (Event::InitialLoaded(device, generation), Phase::Loading | Phase::Agreed) => {
                shared.device(device)?.loaded = generation;
                shared.send = true;
                self.try_agree(shared);
            }
            (Event::Ended(device), Phase::Loading | Phase::Agreed) => {
                shared.ended(device)?;
                self.try_commit(shared);
            }
            (Event::Committed, _) => {
                shared.finish(Work::Commit)?;
                self.committed(shared);
            }
            (Event::Running, _) => {
                shared.finish(Work::Run)?;
                self.phase = Phase::Running;
                shared.send = true;
                shared.end(Outcome::OnTarget);
            }
            (Event::Reset, _) => {
                shared.finish(Work::Reset)?;
                self.was_reset(shared);
            }
            (Event::Failed(code), _) => self.failed(shared, code)?,
            // The source keeps the guest, which the VMM is about to hear.
            (Event::InitialLoaded(..) | Event::Ended(_), Phase::Refusing | Phase::Gone) => {}
            _ => return Err(err!(Inval, "the target does not expect this event now")),
        }
        Ok(())
    }

    fn judged(&mut self, shared: &mut Shared, verdict: i32) {
        if self.phase != Phase::Judging {
            return;
        }
        if verdict != 0 {
            shared.because(Reason::Incompatible, verdict, false);
            return self.give_up(shared);
        }
        self.phase = Phase::Loading;
        shared.work = Some(Work::Begin);
        shared.send = true;
    }

    /// Agrees to the last switchover that was asked for, if all that the source needs is loaded.
    fn try_agree(&mut self, shared: &mut Shared) {
        let loaded =
            |device: &super::shared::Device| device.needed == 0 || device.needed == device.loaded;
        if self.wanted > self.agreed && shared.devices.iter().all(loaded) {
            self.agreed = self.wanted;
            self.phase = Phase::Agreed;
            shared.send = true;
        }
    }

    /// Commits once everything is here. If the source can no longer say so, the totals at the end of
    /// each stream do.
    fn try_commit(&mut self, shared: &mut Shared) {
        let complete = shared.all_ended() && (self.end_heard || self.alone);
        if self.phase == Phase::Agreed && complete {
            self.phase = Phase::Committing;
            shared.work = Some(Work::Commit);
            shared.send = false;
        }
    }

    fn committed(&mut self, shared: &mut Shared) {
        if self.phase != Phase::Committing {
            return;
        }
        self.phase = Phase::Committed;
        if self.alone {
            return self.start(shared);
        }
        shared.send = true;
        shared.fence = !shared.linked;
    }

    fn start(&mut self, shared: &mut Shared) {
        self.phase = Phase::Starting;
        shared.work = Some(Work::Run);
        shared.send = false;
        shared.fence = false;
    }

    fn was_reset(&mut self, shared: &mut Shared) {
        if self.phase == Phase::Undoing {
            shared.send = true;
        }
        self.gone(shared);
    }

    fn failed(&mut self, shared: &mut Shared, code: i32) -> Result<()> {
        let under_way = shared.under_way.take();
        match self.phase {
            // It may run, or its devices may.
            Phase::Starting => {
                shared.work = Some(Work::Reset);
                shared.because(Reason::Failed, code, false);
                self.phase = Phase::Undoing;
            }
            // Nobody may be told that it does not run.
            Phase::Undoing if under_way == Some(Work::Reset) => {
                shared.stuck(code);
                self.phase = Phase::Stuck;
                shared.end(Outcome::Lost);
            }
            // It never ran: it is the source's anyway.
            Phase::Refusing if under_way == Some(Work::Reset) => {
                shared.stuck(code);
                self.gone(shared);
            }
            Phase::Refusing | Phase::Undoing => {}
            Phase::Running | Phase::Gone | Phase::Stuck if under_way.is_none() => {
                return Err(err!(Inval, "the handover is over"));
            }
            // It had given up before.
            Phase::Running | Phase::Gone | Phase::Stuck => {}
            _ => {
                shared.because(Reason::Failed, code, false);
                self.give_up(shared);
            }
        }
        Ok(())
    }

    pub fn fenced(&mut self, shared: &mut Shared, fence: Fence) {
        let source_keeps = self.heard;
        // Nobody is left to be told anything.
        self.heard = true;
        shared.report.settled = true;
        match (self.phase, fence) {
            (Phase::Starting | Phase::Running | Phase::Undoing | Phase::Gone | Phase::Stuck, _) => {
            }
            (Phase::Refusing, _) => self.alone |= !source_keeps,
            (Phase::Committed, Fence::DidNotRun) => self.start(shared),
            (Phase::Committing, Fence::DidNotRun) => self.alone = true,
            (Phase::Agreed, Fence::DidNotRun) if shared.all_ended() => {
                self.alone = true;
                self.try_commit(shared);
            }
            (_, fence) => {
                self.alone = true;
                let reason = match fence {
                    Fence::MayHaveRun if shared.all_ended() => Reason::MayHaveRun,
                    _ => Reason::Fenced,
                };
                shared.because(reason, 0, false);
                self.give_up(shared);
            }
        }
    }

    /// The source has begun a later attempt, so it has kept the guest in this one.
    pub fn superseded(&mut self, shared: &mut Shared) {
        if self.too_late() {
            return;
        }
        self.heard = true;
        shared.report.settled = true;
        shared.because(Reason::Superseded, 0, true);
        self.give_up(shared);
    }

    pub fn receive(&mut self, shared: &mut Shared, body: Body<'_>) -> Result<()> {
        match body {
            Body::Hello { key_id, identities } => self.hello(shared, key_id, identities)?,
            Body::Switchover { round, needed } => {
                shared.same_number(needed.count)?;
                if matches!(self.phase, Phase::Loading | Phase::Agreed) && round > self.wanted {
                    self.wanted = round;
                    for (device, needed) in shared.devices.iter_mut().zip(needed.iter()) {
                        device.needed = needed;
                    }
                    self.try_agree(shared);
                }
                shared.send |= round == self.agreed;
            }
            Body::End => {
                self.end_heard |= self.phase == Phase::Agreed;
                shared.send |= self.phase == Phase::Committed;
                self.try_commit(shared);
            }
            Body::Go => match self.phase {
                Phase::Committed => self.start(shared),
                _ => shared.send |= self.phase == Phase::Running,
            },
            Body::Keep(parting) => return self.kept(shared, &parting),
            Body::Done => {
                self.heard |= self.phase == Phase::Running;
                shared.report.settled |= self.phase == Phase::Running;
                return Ok(());
            }
            _ => return Err(err!(Proto, "a message that only a target sends")),
        }
        // The source would not have said this if it knew.
        shared.send |= matches!(self.phase, Phase::Refusing | Phase::Gone);
        Ok(())
    }

    fn hello(&mut self, shared: &mut Shared, key: [u8; 16], devices: Identities<'_>) -> Result<()> {
        if self.phase != Phase::Meeting {
            shared.send |= self.phase == Phase::Loading;
            return Ok(());
        }
        if key != shared.options.key_id {
            shared.because(Reason::OtherKey, 0, false);
            self.give_up(shared);
        } else if shared.same_number(devices.count).is_err() {
            shared.because(Reason::OtherDevices, 0, false);
            self.give_up(shared);
        } else {
            shared.take_identities(devices)?;
            self.phase = Phase::Judging;
            shared.work = Some(Work::Judge);
        }
        Ok(())
    }

    fn kept(&mut self, shared: &mut Shared, parting: &Parting) -> Result<()> {
        match self.phase {
            // The source has said "go" before, or is fenced: it cannot have said this since.
            Phase::Starting | Phase::Running | Phase::Undoing | Phase::Stuck => Ok(()),
            _ => {
                self.heard = true;
                shared.report.settled = true;
                shared.because_of(parting);
                self.give_up(shared);
                shared.send = !parting.heard;
                Ok(())
            }
        }
    }
}
