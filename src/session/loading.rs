// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a load and its packets share: the device that is being loaded, how far the load has come,
//! and what ended it.
//!
//! Everything except the numbers changes only under the device's lock.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::guarding::{Guarding, Guards};
use super::progress::{Pace, Progress};
use super::stats::{AtomicLoadStats, add, set};
use crate::cancel::{Cancel, Why};
use crate::device::{Claim, Device, Fixups, Inner, Locked, Recover, describe};
use crate::error::{Code, Errno, Error, Failure, Operation, Outcome, Result, err};
use crate::fsm::State;
use crate::history::{Cause, Note, What};
use crate::identity::{Identity, protocol};
use crate::nanoseconds::elapsed_ns;
use crate::policy::{Direction, cut_off_by_process};
use crate::protocol::Patience;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// Where a load is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Phase {
    Receiving,
    Complete,
    Committed,
    Failed,
}

impl Phase {
    fn from_raw(raw: u32) -> Phase {
        [Phase::Receiving, Phase::Complete, Phase::Committed]
            .into_iter()
            .find(|phase| *phase as u32 == raw)
            .unwrap_or(Phase::Failed)
    }
}

/// A device that is being loaded.
pub(super) struct Loading {
    pub device: Device,
    pub cancel: Cancel,
    pub stats: Arc<AtomicLoadStats>,
    pub progress: Arc<Progress>,
    /// Its number in the device's history.
    pub session: u64,
    guards: Guards,
    write_timeout: Duration,
    phase: AtomicU32,
    /// The device is in RESUMING, or on its way there: from here on only a reset leads back.
    entered: AtomicBool,
    epoch: AtomicU64,
    failure: Mutex<Option<Failure>>,
    /// The policy has cut it off, with this error.
    cut_off: Mutex<Option<Error>>,
}

impl Loading {
    /// Takes the device to RESUMING, if `judge` says that it may be loaded. Until then nothing is
    /// done to it. A device with an older protocol waits for [`Loading::enter`].
    pub fn begin(
        device: Device,
        write_timeout: Duration,
        pace: Option<Pace>,
        judge: impl FnOnce(&Identity) -> Result<Guards>,
    ) -> Result<Loading> {
        let stats = Arc::new(AtomicLoadStats::default());
        let (epoch, cancel, guards, waits, session);
        {
            let mut inner = device.lock()?;
            let permit;
            (permit, cancel) = inner.permit(Direction::Load)?;
            guards = judge(inner.identity())?;
            // Data of another protocol must not be offered to these: see `enter`.
            waits = inner.identity().generation() != protocol::V2;
            inner.claim(Claim::Loading, permit)?;
            session =
                inner.note_begin(&Note { from: inner.state_now(), ..Note::of(What::LoadBegan) });
            if !waits {
                if let Err(error) = begin_resuming(&mut inner, &stats) {
                    inner.note(&Note::of(What::LoadFailed));
                    inner.unclaim();
                    return inner.remember(Err(error));
                }
            }
            epoch = inner.epoch();
        }
        Ok(Loading {
            entered: AtomicBool::new(!waits),
            device,
            cancel,
            cut_off: Mutex::new(None),
            stats,
            progress: Arc::new(Progress::new(pace)),
            session,
            guards,
            write_timeout,
            phase: AtomicU32::new(Phase::Receiving as u32),
            epoch: AtomicU64::new(epoch),
            failure: Mutex::new(None),
        })
    }

    /// Takes the device to RESUMING, if it is not there. The source has been judged: a device with an
    /// older protocol is not touched before that.
    pub fn enter(&self, inner: &mut Inner) -> Result<()> {
        if self.entered.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        begin_resuming(inner, &self.stats)?;
        self.epoch.store(inner.epoch(), Ordering::Relaxed);
        Ok(())
    }

    pub fn phase(&self) -> Phase {
        Phase::from_raw(self.phase.load(Ordering::Acquire))
    }

    fn set_phase(&self, phase: Phase) {
        if phase != Phase::Receiving {
            self.progress.over();
        }
        self.phase.store(phase as u32, Ordering::Release);
    }

    /// Whether it has neither been committed nor failed.
    pub fn is_open(&self) -> bool {
        matches!(self.phase(), Phase::Receiving | Phase::Complete)
    }

    pub fn write_timeout(&self) -> Duration {
        self.write_timeout
    }

    /// Writes data to the driver, if the guards let it pass.
    pub fn write(&self, inner: &mut Inner, data: &[u8]) -> Result<()> {
        self.enter(inner)?;
        self.guards.ask(|guarding| guarding.data(data))?;
        if self.stats.data_bytes.load(Ordering::Relaxed) == 0 {
            self.tell(What::FirstData, None);
        }
        let patience = Patience {
            timeout: self.write_timeout,
            cancel: &self.cancel,
            taken: &self.stats.data_bytes,
        };
        let start = Instant::now();
        let written = inner.write_data(data, &patience);
        add(&self.stats.write_ns, elapsed_ns(start));
        written.map_err(|error| match (error.code(), self.check_cancelled(), error.failure()) {
            (Code::Cancelled, Err(why), Some(failure)) => why.with_failure(*failure),
            _ => error,
        })
    }

    pub fn check_alive(&self, inner: &mut Inner) -> Result<()> {
        self.check_cancelled()?;
        if let Err(error) = inner.check_permitted() {
            return Err(lock(&self.cut_off).insert(error).clone());
        }
        if inner.epoch() != self.epoch.load(Ordering::Relaxed) {
            return Err(err!(NoDev, "the device was reset while it was being loaded"));
        }
        Ok(())
    }

    /// Fails if the load was cancelled, or somebody has switched loading off.
    pub fn check_cancelled(&self) -> Result<()> {
        let cut_off = || lock(&self.cut_off).clone();
        match self.cancel.why() {
            Some(Why::Asked) => Err(err!(Cancelled, "the load was cancelled")),
            Some(Why::CutOff) => Err(cut_off_by_process(Direction::Load)),
            None => cut_off().map_or(Ok(()), Err),
        }
    }

    /// The source started again: what was loaded so far is void.
    pub fn restart(&self, inner: &mut Inner) -> Result<()> {
        add(&self.stats.restarts, 1);
        self.entered.store(true, Ordering::Relaxed);
        // Only a reset makes a driver forget what it was given.
        inner.reset(Cause::SourceRestarted)?;
        enter_resuming(inner)?;
        self.epoch.store(inner.epoch(), Ordering::Relaxed);
        self.guards.ask(Guarding::restart)?;
        inner.emit(What::LoadRestarted, None, Outcome::Reset, 0);
        Ok(())
    }

    /// The whole state has come. Called with the device's lock held.
    pub fn complete(&self) -> Result<()> {
        self.guards.ask(Guarding::end)?;
        self.set_phase(Phase::Complete);
        self.tell(What::LoadComplete, None);
        Ok(())
    }

    /// Nothing more will be written, and guards of the VMM's are no longer needed.
    pub fn release_guards(&self) {
        self.guards.release();
    }

    /// Makes the driver check and accept the state: RESUMING to STOP.
    pub fn commit(&self, inner: &mut Inner) -> Result<()> {
        // A device that was reset behind the library's back would go from RUNNING to STOP without
        // complaint, with nothing loaded.
        let state = inner.ask_state();
        self.check_alive(inner)?;
        if state? != State::Resuming {
            return Err(err!(NoDev, "the device is no longer in RESUMING"));
        }
        let ns = inner.transition(State::Stop, Recover::Reset)?;
        set(&self.stats.commit_ns, ns);
        self.set_phase(Phase::Committed);
        self.tell(What::Committed, None);
        inner.unclaim();
        inner.note_load(true);
        inner.add_fixups(Fixups::AFTER_RESET_OR_LOAD);
        Ok(())
    }

    /// After an error, resets the device and says so in the error. Only the first error counts:
    /// after that the device no longer belongs to this session.
    pub fn settle(&self, inner: &mut Locked<'_>, error: Error) -> Error {
        if !self.is_open() {
            return error;
        }
        let before = inner.state_now();
        // Before what it leads to.
        let recovered = recovered(&error);
        let sofar = self.stats.load();
        let offset = match error.failure().map(|f| f.operation) {
            Some(Operation::DataWrite) => sofar.data_bytes,
            _ => sofar.stream_bytes,
        };
        let mut note = Note::error(&error).after(offset);
        if note.operation == Operation::None {
            note.operation = Operation::Stream;
        }
        note.from = note.from.or(before);
        inner.note(&if recovered.is_none() { note.undecided() } else { note });
        let abandoned = self.fail(inner, recovered.is_none(), What::LoadFailed);
        let touched = self.entered.load(Ordering::Relaxed);
        let outcome = recovered.unwrap_or(match abandoned {
            Ok(()) if touched => Outcome::Reset,
            Ok(()) => Outcome::Kept,
            Err(_) => Outcome::Lost,
        });
        let state = inner.state_now();
        let fixups = inner.fixups();
        let error = match recovered {
            Some(_) => error,
            None => error.note_args(format_args!("; {}", describe(outcome, state))),
        };
        let error = error.amend(|failure| {
            if failure.operation == Operation::None {
                failure.operation = Operation::Stream;
            }
            failure.state_before = failure.state_before.or(before);
            failure.state_after = state;
            failure.outcome = outcome;
            failure.fixups = fixups;
            failure.offset = offset;
        });
        *lock(&self.failure) = error.failure().copied();
        match inner.keep(Err::<(), _>(error)) {
            Ok(()) => err!(NotRecoverable, "an error was lost"),
            Err(error) => error,
        }
    }

    /// Abandons a load that was not committed. Fails only in a callback, if the device is in use.
    pub fn end(&self) -> Result<()> {
        let mut inner = self.device.lock()?;
        if self.is_open() {
            if let Err(error) = self.fail(&mut inner, true, What::LoadAbandoned) {
                log::error!(target: "vfiomig::load", "ending a load that was dropped: {error}");
            }
        }
        Ok(())
    }

    /// The only place where a load fails. Afterwards its device belongs to no session, and has been
    /// reset.
    fn fail(&self, inner: &mut Inner, reset: bool, how: What) -> Result<()> {
        self.set_phase(Phase::Failed);
        let touched = self.entered.load(Ordering::Relaxed);
        let cause = match how {
            What::LoadAbandoned => Cause::LoadAbandoned,
            _ => Cause::LoadFailed,
        };
        let done = if reset && touched { inner.reset(cause) } else { Ok(()) };
        self.tell(how, None);
        inner.unclaim();
        if touched {
            // The load never had anything of a guest that could be lost.
            inner.note_load(false);
        }
        done
    }

    /// Keeps what an error says that changes nothing about the load.
    pub fn note(&self, error: Error) -> Error {
        self.device.recorder().record(&Note::error(&error));
        if let Some(failure) = error.failure() {
            *lock(&self.failure) = Some(*failure);
        }
        error
    }

    /// Tells the device's history how far the load is.
    pub fn tell(&self, what: What, count: Option<u64>) {
        let bytes = Some(self.stats.data_bytes.load(Ordering::Relaxed));
        self.device.recorder().record(&Note { count, bytes, ..Note::of(what) });
    }

    /// What went wrong, if anything did.
    pub fn failure(&self) -> Option<Failure> {
        *lock(&self.failure)
    }
}

fn lock<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What happened to the device, if it failed to change its state: it has already been recovered
/// from that, or reset.
fn recovered(error: &Error) -> Option<Outcome> {
    let failure = error.failure()?;
    let changed = matches!(failure.operation, Operation::SetState | Operation::Reset);
    (changed && failure.outcome != Outcome::Kept).then_some(failure.outcome)
}

/// The device's first way to RESUMING.
fn begin_resuming(inner: &mut Inner, stats: &AtomicLoadStats) -> Result<()> {
    set(&stats.begin_ns, enter_resuming(inner)?);
    inner.note_load(false);
    Ok(())
}

/// To RESUMING, from wherever the device is: what it held is lost in any case.
fn enter_resuming(inner: &mut Inner) -> Result<u64> {
    if inner.state_now().is_none_or(|state| inner.fsm().path(state, State::Resuming).is_none())
        || inner.state_now().is_some_and(State::has_data_stream)
    {
        // An earlier owner left the device like this; a reset works with every driver.
        inner.reset(Cause::LeftBehind)?;
    }
    inner.transition(State::Resuming, Recover::Reset)
}

/// The error for a callback that refused.
pub(super) fn callback_refused(what: &'static str, errno: Errno) -> Error {
    Error::new(errno.refusal_code(), what).with_failure(Failure {
        operation: Operation::Callback,
        errno: errno.0,
        ..Failure::default()
    })
}
