// SPDX-License-Identifier: MIT OR Apache-2.0
//! The steps of a migration, and their order: what all devices have done before any does the next.

use super::member::Step;
use super::options::{Phase, Role};
use super::shared::Shared;
use crate::error::{Code, Error, Result, err};
use crate::estimate::Phase as Part;
use crate::session::{Ending, SaveStatus};

/// Phases in which sessions are open.
const OPEN: [Phase; 4] = [Phase::Open, Phase::Stopped, Phase::Complete, Phase::Failed];

impl Shared {
    /// Begins all saves, or all loads. If one does not begin, those that have are undone.
    pub fn begin(&self) -> Result<()> {
        let _stepping = self.step(self.options.role, "beginning", &[Phase::Setup])?;
        let state = self.lock();
        state.check()?;
        if state.members.is_empty() {
            return Err(err!(Inval, "the group has no devices"));
        }
        drop(state);
        self.check_peer_to_peer()?;
        let Err(error) = self.all(Step::Begin) else {
            let mut state = self.lock();
            state.go_to(Phase::Open);
            for index in 0..state.members.len() {
                state.tell(index);
            }
            drop(state);
            self.wake();
            return Ok(());
        };
        // The guest runs, and no device has been stopped; what the target's devices held is lost in
        // any case.
        let undone = match self.options.role {
            Role::Source => self.all(Step::Finish(Ending::Keep)),
            Role::Target => self.all(Step::Abandon),
        };
        self.set_phase(Phase::Over);
        Err(with(error, undone))
    }

    fn check_peer_to_peer(&self) -> Result<()> {
        let state = self.lock();
        if state.members.len() == 1 || self.options.no_peer_to_peer {
            return Ok(());
        }
        let devices: Vec<_> = state.members.iter().map(|p| p.member.device.clone()).collect();
        drop(state);
        for (number, device) in devices.iter().enumerate() {
            if !device.caps()?.has_p2p() {
                return Err(err!(
                    NotSupported,
                    "device {number} has no peer-to-peer states, so it cannot be stopped beside others"
                ));
            }
        }
        Ok(())
    }

    /// Quiesces all devices, then stops all.
    pub fn stop(&self) -> Result<()> {
        let _stepping = self.step(Role::Source, "stopping", &[Phase::Open, Phase::Failed])?;
        let state = self.lock();
        state.check()?;
        let insists = state.refused;
        drop(state);
        self.measuring.switches_over();
        if !insists {
            self.look()?;
        }
        self.lock().quiesced = true;
        self.must(Step::Quiesce)?;
        self.measuring.phase_over(Part::Quiesce);
        self.must(Step::Stop)?;
        self.measuring.phase_over(Part::Stop);
        self.have_stopped();
        Ok(())
    }

    /// All devices have been stopped. Threads have read them meanwhile, it may be to the end.
    fn have_stopped(&self) {
        let mut state = self.lock();
        state.go_to(Phase::Stopped);
        state.round += 1;
        for place in state.members.iter_mut().filter(|place| !place.complete) {
            place.said = SaveStatus::More;
            place.again = None;
        }
        self.settle_now(&mut state);
        drop(state);
        self.wake();
    }

    /// Whether the guest may be switched over: no device has started its initial data again.
    fn look(&self) -> Result<()> {
        match self.all(Step::Look) {
            Err(error) if error.code() == Code::Again => {
                self.lock().refused = true;
                Err(error)
            }
            Err(error) => Err(self.failed(error)),
            Ok(()) => Ok(()),
        }
    }

    /// A step without which only keeping the devices is left.
    fn must(&self, step: Step) -> Result<()> {
        self.all(step).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: Error) -> Error {
        let mut state = self.lock();
        state.go_to(Phase::Failed);
        state.failed = Some(error.clone());
        drop(state);
        self.wake();
        error
    }

    /// Ends all saves.
    pub fn finish(&self, ending: Ending) -> Result<()> {
        let _stepping = self.step(Role::Source, "finishing", &OPEN)?;
        let mut state = self.lock();
        let ending = match ending {
            Ending::Release if state.phase != Phase::Complete => {
                state.check()?;
                return Err(err!(
                    Inval,
                    "not all streams are complete {}: the source cannot be released; keep it",
                    state.phase.text()
                ));
            }
            Ending::KeepQuiesced => {
                state.quiesced = true;
                ending
            }
            // Some may stand still: none runs before all have left that.
            Ending::Keep if state.quiesced => Ending::KeepQuiesced,
            ending => ending,
        };
        drop(state);
        let finished = self.all(Step::Finish(ending));
        if ending == Ending::Release {
            self.measuring.handed_over();
        }
        self.set_phase(match ending {
            Ending::Release => Phase::Released,
            _ => Phase::Kept,
        });
        finished
    }

    /// Makes all drivers accept the state. If one does not, all devices are reset.
    pub fn commit(&self) -> Result<()> {
        let phases = [Phase::Open, Phase::Complete, Phase::Failed];
        let _stepping = self.step(Role::Target, "committing", &phases)?;
        let state = self.lock();
        if state.phase == Phase::Open && !state.is_cancelled() {
            let missing = state.members.iter().position(|place| !place.complete);
            return Err(err!(
                NoData,
                "the stream of device {} is not complete, after {} bytes of it",
                missing.unwrap_or_default(),
                missing.and_then(|at| state.members.get(at)).map_or(0, |place| place.offset)
            ));
        }
        let ended = state.check();
        drop(state);
        self.measuring.phase_begins();
        let Err(error) = ended.and_then(|()| self.all(Step::Commit)) else {
            self.measuring.phase_over(Part::Commit);
            self.set_phase(Phase::Committed);
            return Ok(());
        };
        let undone = self.all(Step::Abandon);
        self.lock().drop_frames();
        self.set_phase(Phase::Over);
        Err(match undone {
            Ok(()) => error.note("; all devices have been reset"),
            Err(_) => with(error, undone),
        })
    }

    /// Leaves nothing of the guest in any device.
    pub fn abandon(&self) -> Result<()> {
        let phases = [OPEN.as_slice(), &[Phase::Committed, Phase::Halted, Phase::Over]].concat();
        let _stepping = self.step(Role::Target, "abandoning", &phases)?;
        let abandoned = self.all(Step::Abandon);
        self.lock().drop_frames();
        self.set_phase(Phase::Over);
        abandoned
    }

    /// Runs all devices: none before all have left the stopped states. If one does not run, none
    /// does.
    pub fn run(&self) -> Result<()> {
        let phases = [Phase::Committed, Phase::Kept, Phase::Released];
        let _stepping = self.step(self.options.role, "running", &phases)?;
        self.measuring.phase_begins();
        let ran = self.all(Step::Approach).and_then(|()| self.all(Step::Run));
        let Err(error) = ran else {
            if self.options.role == Role::Target {
                self.measuring.phase_over(Part::Resume);
            }
            self.set_phase(Phase::Running);
            return Ok(());
        };
        let state = self.lock();
        let runs_anyway = state.phase == Phase::Kept && !state.quiesced;
        drop(state);
        if runs_anyway {
            // The guest has run all the time.
            return Err(error);
        }
        let halted = self.all(Step::Halt);
        self.set_phase(Phase::Halted);
        Err(with(error, halted))
    }

    /// What is left to do when the group goes: its devices are given back as its side requires.
    pub fn end(&self) {
        let phase = self.lock().phase;
        if !OPEN.contains(&phase) {
            return;
        }
        let ended = match self.options.role {
            Role::Target => self.all(Step::Abandon),
            Role::Source => self.keep_and_run(),
        };
        self.set_phase(Phase::Over);
        if let Err(error) = ended {
            log::error!(target: "vfiomig::group", "ending a group that was dropped: {error}");
        }
    }

    fn keep_and_run(&self) -> Result<()> {
        let quiesced = self.lock().quiesced;
        if !quiesced {
            return self.all(Step::Finish(Ending::Keep));
        }
        self.all(Step::Finish(Ending::KeepQuiesced))?;
        self.all(Step::Rejoin)
    }

    fn set_phase(&self, phase: Phase) {
        self.lock().go_to(phase);
        self.wake();
    }
}

/// An error, and what undoing it has come to.
fn with(error: Error, undone: Result<()>) -> Error {
    match undone {
        Ok(()) => error,
        Err(worse) => error.note_args(format_args!("; then {worse}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::options::GroupOptions;

    #[test]
    fn a_source_that_was_read_to_the_end_before_its_stop_was_over_is_complete() {
        // No device, and so none whose stream is not complete.
        let shared = Shared::new(GroupOptions::new(Role::Source), 0);
        shared.lock().phase = Phase::Open;
        shared.have_stopped();
        assert_eq!(shared.lock().phase, Phase::Complete);
    }
}
