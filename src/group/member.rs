// SPDX-License-Identifier: MIT OR Apache-2.0
//! One device of a group: its session, and the steps that it takes.
//!
//! A member knows nothing of the others. Its lock is held while a step is taken or a piece of its
//! stream is read or written; cancelling and asking for numbers need only the part beside it.

use std::sync::{PoisonError, TryLockError};

use crate::device::Device;
use crate::error::{Code, Error, Failure, Outcome, Result, err};
use crate::fsm::State;
use crate::session::{
    Ending, Load, LoadOptions, LoadPhase, LoadStats, LoadStatus, Next, Pending, Save, SaveOptions,
    SavePhase, SaveStats, SharedLoad, SharedSave,
};
use crate::sync::{Mutex, MutexGuard};
use crate::waiting::{HoldsMember, may_wait_for_member};

/// What is done with all members of a group, each on any thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Begins the save or the load.
    Begin,
    /// Asks whether initial data has started again.
    Look,
    Quiesce,
    Stop,
    Finish(Ending),
    /// Brings a device that was kept back to where it ran, if it still has what its guest needs.
    Rejoin,
    Commit,
    /// Gives a load up, committed or not, so that nothing of the guest is left in the device.
    Abandon,
    /// To RUNNING_P2P, before any device runs.
    Approach,
    Run,
    /// So that it does not run: others do not.
    Halt,
}

/// How a member's session is.
enum Session {
    Save(Box<Save>),
    Load(Box<Load>),
    /// Not begun.
    Saved(Box<SaveOptions>),
    Loaded(Box<LoadOptions>),
    Over,
}

/// The part of a session that is used beside it.
#[derive(Clone)]
enum Beside {
    Save(SharedSave),
    Load(SharedLoad),
}

pub(super) struct Member {
    pub device: Device,
    session: Mutex<Session>,
    beside: Mutex<Option<Beside>>,
    failure: Mutex<Option<Failure>>,
}

/// A member, in exclusive use.
pub(super) struct Held<'a> {
    member: &'a Member,
    session: MutexGuard<'a, Session>,
    _holds: HoldsMember,
}

fn lock<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Member {
    pub fn to_save(device: Device, options: SaveOptions) -> Member {
        Member::new(device, Session::Saved(Box::new(options)))
    }

    pub fn to_load(device: Device, options: LoadOptions) -> Member {
        Member::new(device, Session::Loaded(Box::new(options)))
    }

    fn new(device: Device, session: Session) -> Member {
        let session = Mutex::new(session);
        Member { device, session, beside: Mutex::new(None), failure: Mutex::new(None) }
    }

    /// Waits for other threads; in a callback, a member that is in use is busy.
    pub fn hold(&self) -> Result<Held<'_>> {
        let locked = match may_wait_for_member() {
            true => self.session.lock().map_err(TryLockError::Poisoned),
            false => self.session.try_lock(),
        };
        match locked {
            Ok(session) => Ok(Held { member: self, session, _holds: HoldsMember::new() }),
            Err(TryLockError::WouldBlock) => Err(err!(
                Busy,
                "a call is using this device of the group, and a callback does not wait for it"
            )),
            Err(TryLockError::Poisoned(_)) => {
                Err(err!(NotRecoverable, "an earlier internal error has left it unusable"))
            }
        }
    }

    pub fn cancel(&self) {
        match &*lock(&self.beside) {
            Some(Beside::Save(save)) => save.cancel(),
            Some(Beside::Load(load)) => load.cancel(),
            None => {}
        }
    }

    pub fn save_stats(&self) -> Result<SaveStats> {
        match &*lock(&self.beside) {
            Some(Beside::Save(save)) => Ok(save.stats()),
            _ => Err(err!(NoData, "the device is not being saved, or not yet")),
        }
    }

    pub fn load_stats(&self) -> Result<LoadStats> {
        match &*lock(&self.beside) {
            Some(Beside::Load(load)) => Ok(load.stats()),
            _ => Err(err!(NoData, "the device is not being loaded, or not yet")),
        }
    }

    /// What went wrong last, if anything did.
    pub fn failure(&self) -> Option<Failure> {
        *lock(&self.failure)
    }

    /// Remembers what went wrong.
    pub fn note(&self, error: &Error) {
        let unknown = Failure { code: Some(error.code()), ..Failure::default() };
        *lock(&self.failure) = Some(error.failure().copied().unwrap_or(unknown));
    }
}

impl Held<'_> {
    /// Takes a step.
    pub fn take(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Begin => self.begin(),
            Step::Look => self.save()?.look(),
            // It has been asked before, and cannot go on alone.
            Step::Quiesce => insist(self.save()?, Save::quiesce),
            Step::Stop => insist(self.save()?, Save::stop),
            Step::Finish(ending) => self.finish(ending),
            Step::Rejoin => self.rejoin(),
            Step::Commit => self.load()?.commit(),
            Step::Abandon => self.abandon(),
            Step::Approach => self.approach(),
            Step::Run => twice(|| self.member.device.run()),
            Step::Halt => self.halt(),
        }
    }

    fn save(&mut self) -> Result<&mut Save> {
        match &mut *self.session {
            Session::Save(save) => Ok(save),
            _ => Err(err!(Inval, "the device is not being saved")),
        }
    }

    fn load(&mut self) -> Result<&mut Load> {
        match &mut *self.session {
            Session::Load(load) => Ok(load),
            _ => Err(err!(Inval, "the device is not being loaded")),
        }
    }

    fn begin(&mut self) -> Result<()> {
        let device = self.member.device.clone();
        let begun = match std::mem::replace(&mut *self.session, Session::Over) {
            Session::Saved(options) => {
                let save = device.save(*options)?;
                *lock(&self.member.beside) = Some(Beside::Save(save.shared()));
                Session::Save(Box::new(save))
            }
            Session::Loaded(options) => {
                let load = device.load(*options)?;
                *lock(&self.member.beside) = Some(Beside::Load(load.shared()));
                Session::Load(Box::new(load))
            }
            other => other,
        };
        *self.session = begun;
        Ok(())
    }

    /// Reads the next piece of the stream, whole frames of it.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<Next> {
        self.save()?.next(buf)
    }

    /// Writes the next piece of the stream.
    pub fn write(&mut self, bytes: &[u8]) -> Result<LoadStatus> {
        self.load()?.push(bytes)
    }

    pub fn blob(&mut self, kind: u32, bytes: &[u8]) -> Result<()> {
        self.save()?.blob(kind, bytes)
    }

    pub fn pending(&mut self) -> Result<Pending> {
        self.save()?.pending()
    }

    pub fn poll_fd(&mut self) -> Result<i32> {
        self.save()?.poll_fd()
    }

    /// Whether its session has failed, so that the migration cannot go on.
    pub fn has_failed(&self) -> bool {
        match &*self.session {
            Session::Save(save) => save.phase() == SavePhase::Failed,
            Session::Load(load) => load.phase() == LoadPhase::Failed,
            Session::Saved(_) | Session::Loaded(_) | Session::Over => false,
        }
    }

    fn finish(&mut self, ending: Ending) -> Result<()> {
        let device = self.member.device.clone();
        let Session::Save(save) = &mut *self.session else { return Ok(()) };
        let finished = save.finish(ending);
        if save.phase() != SavePhase::Finished {
            return finished;
        }
        *self.session = Session::Over;
        match (finished, ending) {
            // Nothing is lost: the same step once more.
            (Err(error), Ending::KeepQuiesced) if is_intact(&error) && has_p2p(&device)? => {
                device.set_state(State::RunningP2p)
            }
            (Err(error), Ending::KeepStopped) if is_intact(&error) => device.set_state(State::Stop),
            (Err(error), Ending::Keep | Ending::KeepQuiesced) if is_intact(&error) => device.run(),
            (finished, _) => finished,
        }
    }

    fn rejoin(&mut self) -> Result<()> {
        let device = &self.member.device;
        twice(|| match device.state()? {
            State::RunningP2p => device.run(),
            // Where it was before, because its guest did not run.
            _ => Ok(()),
        })
    }

    fn abandon(&mut self) -> Result<()> {
        let device = self.member.device.clone();
        let session = std::mem::replace(&mut *self.session, Session::Over);
        match session {
            Session::Load(load) => {
                let committed = load.phase() == LoadPhase::Committed;
                // One that was not committed is reset with it.
                drop(load);
                if committed { device.reset() } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    fn approach(&mut self) -> Result<()> {
        let device = &self.member.device;
        twice(|| match device.state()? {
            State::Running | State::RunningP2p => Ok(()),
            _ if !has_p2p(device)? => Ok(()),
            _ => device.set_state(State::RunningP2p),
        })
    }

    fn halt(&mut self) -> Result<()> {
        let device = &self.member.device;
        twice(|| device.set_state(State::Stop)).or_else(|_| {
            device.reset()?;
            // Without anything of the guest's it may also be where the reset has left it.
            let _ = device.set_state(State::Stop);
            Ok(())
        })
    }
}

fn has_p2p(device: &Device) -> Result<bool> {
    Ok(device.caps()?.has_p2p())
}

/// Whether the device still holds what it held.
fn is_intact(error: &Error) -> bool {
    let outcome = error.failure().map(|failure| failure.outcome);
    matches!(outcome, Some(Outcome::Kept | Outcome::Recovered))
}

/// Once more, if the first time has merely been refused.
fn twice(step: impl Fn() -> Result<()>) -> Result<()> {
    match step() {
        Err(error) if is_intact(&error) => step(),
        other => other,
    }
}

/// Does not accept that initial data has started again: other devices may have taken the step.
fn insist(save: &mut Save, step: fn(&mut Save) -> Result<()>) -> Result<()> {
    match step(save) {
        Err(error) if error.code() == Code::Again => step(save),
        other => other,
    }
}
