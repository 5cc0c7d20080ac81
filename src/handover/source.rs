// SPDX-License-Identifier: MIT OR Apache-2.0
//! The side that the guest leaves.
//!
//! It owns the guest until a "go" has left. From then on it runs the guest only if the target says
//! that it does not, or if whoever has fenced the target says so.

use super::message::{Body, Parting};
use super::shared::{Shared, Standing, Work};
use super::types::{Event, Fence, Outcome, Reason};
use crate::error::{Result, err};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Phase {
    /// The target has not accepted the devices yet.
    Meeting,
    PreCopy,
    /// The guest could be stopped; the target is asked.
    Asking,
    /// The guest is stopped, and the rest is being sent.
    Stopping,
    Ended,
    /// The target has committed; the guest is being given up.
    Releasing,
    /// "Go" is repeated.
    Released,
    /// The target runs.
    Moved,
    /// Released, but the target does not run: the guest is to run here again.
    Returning,
    Keeping,
    /// The guest runs here, or it is lost.
    Over,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Source {
    phase: Phase,
    /// Which switchover this is: an answer to an earlier one does not count.
    round: u32,
    /// Something was said.
    spoken: bool,
    /// "Go" may be on its way.
    go_left: bool,
    /// The target will not run: take the guest back as soon as it is released.
    returning: bool,
    /// The release failed with this code, so there is nothing to take back.
    no_way_back: Option<i32>,
    /// The target has given up as well.
    heard: bool,
}

impl Source {
    pub fn new() -> Source {
        Source {
            phase: Phase::Meeting,
            round: 0,
            spoken: false,
            go_left: false,
            returning: false,
            no_way_back: None,
            heard: false,
        }
    }

    /// What to say, and whether to repeat it.
    pub fn standing(&self) -> Option<(Standing, bool)> {
        let keep = (Standing::Keep { heard: self.heard }, !self.heard);
        match self.phase {
            Phase::Meeting => Some((Standing::Hello, true)),
            Phase::PreCopy | Phase::Stopping | Phase::Releasing => None,
            Phase::Asking => Some((Standing::Switchover(self.round), true)),
            Phase::Ended => Some((Standing::End, true)),
            Phase::Released => Some((Standing::Go, true)),
            Phase::Moved => Some((Standing::Done, false)),
            Phase::Returning | Phase::Keeping | Phase::Over => Some(keep),
        }
    }

    pub fn sent(&mut self) {
        self.spoken = true;
        self.go_left |= self.phase == Phase::Released;
    }

    /// Whether the guest may run on the target already.
    pub fn in_doubt(&self) -> bool {
        self.phase == Phase::Released && self.go_left
    }

    pub fn accepts_identities(&self) -> bool {
        self.phase == Phase::Meeting && !self.spoken
    }

    /// Whether the guest can no longer be kept by this side's own decision.
    pub fn too_late(&self) -> bool {
        matches!(self.phase, Phase::Released | Phase::Moved) && self.go_left
    }

    /// The guest does not arrive. Not for a guest that may run on the target.
    pub fn give_up(&mut self, shared: &mut Shared) {
        match self.phase {
            Phase::Meeting | Phase::PreCopy | Phase::Asking | Phase::Stopping | Phase::Ended => {
                self.keep(shared);
            }
            // It was not asked for yet.
            Phase::Releasing if shared.work == Some(Work::Release) => self.keep(shared),
            Phase::Releasing => self.returning = true,
            Phase::Released => self.take_back(shared),
            Phase::Moved | Phase::Returning | Phase::Keeping | Phase::Over => {}
        }
    }

    fn keep(&mut self, shared: &mut Shared) {
        self.phase = Phase::Keeping;
        shared.work = Some(Work::Keep);
        shared.send = true;
    }

    fn take_back(&mut self, shared: &mut Shared) {
        shared.send = true;
        match self.no_way_back {
            Some(code) => self.lose(shared, code),
            None => {
                self.phase = Phase::Returning;
                shared.work = Some(Work::Run);
            }
        }
    }

    fn lose(&mut self, shared: &mut Shared, code: i32) {
        shared.stuck(code);
        self.phase = Phase::Over;
        shared.end(Outcome::Lost);
    }

    pub fn event(&mut self, shared: &mut Shared, event: Event) -> Result<()> {
        match (event, self.phase) {
            (Event::InitialSent(device, generation), _) => {
                shared.device(device)?.needed = generation;
            }
            (Event::Switchover, Phase::PreCopy) => {
                self.round = self.round.checked_add(1).ok_or_else(|| {
                    err!(Inval, "the switchover was asked for {} times", self.round)
                })?;
                self.phase = Phase::Asking;
                shared.send = true;
            }
            (Event::Resumed, Phase::Asking | Phase::Stopping) => {
                if shared.devices.iter().any(|device| device.ended) {
                    return Err(err!(
                        Inval,
                        "a stream has ended: there is no way back to pre-copy"
                    ));
                }
                if shared.work == Some(Work::Stop) {
                    shared.work = None;
                }
                self.phase = Phase::PreCopy;
            }
            (Event::Ended(device), Phase::Stopping) if shared.work.is_none() => {
                if shared.ended(device)? {
                    self.phase = Phase::Ended;
                    shared.send = true;
                }
            }
            (Event::Released, _) => {
                shared.finish(Work::Release)?;
                self.released(shared);
            }
            (Event::Kept, _) => {
                shared.finish(Work::Keep)?;
                self.stays(shared);
            }
            (Event::Running, _) => {
                shared.finish(Work::Run)?;
                self.stays(shared);
            }
            (Event::Failed(code), _) => self.failed(shared, code)?,
            // The target has given up in the meantime, which the VMM is about to hear.
            (Event::Switchover | Event::Resumed | Event::Ended(_), Phase::Keeping) => {}
            _ => return Err(err!(Inval, "the source does not expect this event now")),
        }
        Ok(())
    }

    fn stays(&mut self, shared: &mut Shared) {
        self.phase = Phase::Over;
        shared.end(Outcome::OnSource);
    }

    fn released(&mut self, shared: &mut Shared) {
        self.phase = Phase::Released;
        if self.returning {
            self.take_back(shared);
        } else {
            shared.send = true;
        }
    }

    fn failed(&mut self, shared: &mut Shared, code: i32) -> Result<()> {
        let under_way = shared.under_way.take();
        match self.phase {
            // The target has everything, so it does not matter; but there is no second chance here.
            Phase::Releasing if under_way == Some(Work::Release) => {
                self.no_way_back = Some(code);
                self.released(shared);
            }
            Phase::Released => self.no_way_back = Some(code),
            Phase::Keeping | Phase::Returning => {
                shared.work = None;
                self.lose(shared, code);
            }
            Phase::Moved | Phase::Over => {
                return Err(err!(Inval, "the handover is over"));
            }
            _ => {
                shared.because(Reason::Failed, code, false);
                self.give_up(shared);
            }
        }
        Ok(())
    }

    pub fn fenced(&mut self, shared: &mut Shared, fence: Fence) {
        // Nobody is left to be told anything.
        self.heard = true;
        shared.report.settled = true;
        if self.in_doubt() && fence == Fence::MayHaveRun {
            shared.because(Reason::MayHaveRun, 0, false);
            self.phase = Phase::Over;
            shared.end(Outcome::Lost);
            return;
        }
        shared.because(Reason::Fenced, 0, false);
        self.give_up(shared);
    }

    pub fn receive(&mut self, shared: &mut Shared, body: Body<'_>) -> Result<()> {
        match body {
            Body::Welcome { loaded } => {
                shared.same_number(loaded.count)?;
                shared.take_loaded(loaded);
                if self.phase == Phase::Meeting {
                    self.phase = Phase::PreCopy;
                    shared.send = false;
                    shared.work = Some(Work::Begin);
                }
            }
            Body::Agreed { round, loaded } => {
                shared.same_number(loaded.count)?;
                shared.take_loaded(loaded);
                if self.phase == Phase::Asking && round == self.round {
                    self.phase = Phase::Stopping;
                    shared.send = false;
                    shared.work = Some(Work::Stop);
                }
            }
            Body::Committed if self.phase == Phase::Ended => {
                self.phase = Phase::Releasing;
                shared.send = false;
                shared.work = Some(Work::Release);
            }
            Body::Running if self.phase == Phase::Released => {
                self.phase = Phase::Moved;
                shared.report.settled = true;
                shared.end(Outcome::OnTarget);
                shared.send = true;
            }
            Body::Refused(parting) => {
                self.refused(shared, &parting);
                return Ok(());
            }
            Body::Committed | Body::Running => {}
            _ => return Err(err!(Proto, "a message that only a source sends")),
        }
        self.answer(shared);
        Ok(())
    }

    /// The target would not have said this if it had heard what there is to say.
    fn answer(&self, shared: &mut Shared) {
        shared.send |=
            matches!(self.phase, Phase::Moved | Phase::Returning | Phase::Keeping | Phase::Over);
    }

    fn refused(&mut self, shared: &mut Shared, parting: &Parting) {
        self.heard = true;
        if self.phase != Phase::Moved {
            shared.report.settled = true;
            shared.because_of(parting);
            self.give_up(shared);
            shared.send = !parting.heard;
        }
    }
}
