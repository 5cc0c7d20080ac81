// SPDX-License-Identifier: MIT OR Apache-2.0
//! The inside of a device: the link to it, what is believed about it, and how the two are compared.
//!
//! Whatever a device says about its state goes through here, so nothing that shows a reset is
//! missed.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use super::belief::{Belief, Claim};
use super::contents::Contents;
use super::events::{Event, EventSink};
use super::link::Link;
use super::probe::{Caps, Probed, Reason};
use crate::error::{Errno, Error, Failure, Operation, Outcome, Result};
use crate::fixups::Fixups;
use crate::fsm::{Fsm, State};
use crate::history::{Cause, Note, Recorder, What};
use crate::identity::Identity;
use crate::policy::Permit;
use crate::protocol::Changed;
use crate::sys::Process;

/// How often a device that does not answer is asked for its state, if a guest's state depends on
/// it.
const LOOKS: u32 = 3;

pub(crate) struct Inner {
    pub(super) link: Link,
    pub(super) belief: Belief,
    fsm: Fsm,
    probed: Probed,
    /// What the device is called in sysfs, if that is known.
    pub(super) name: Option<String>,
    pub(super) identity: Identity,
    /// The permission of the session that has the device.
    pub(super) permit: Option<Permit>,
    failure: Option<Failure>,
    pub(super) recorder: Arc<Recorder>,
    events: Option<EventSink>,
    /// The process that the device belongs to: a child after fork() has a copy, and leaves the
    /// device alone.
    pub(super) process: Process,
}

impl Inner {
    pub(super) fn new(
        link: Link,
        probed: Probed,
        name: Option<String>,
        identity: Identity,
        recorder: Arc<Recorder>,
        events: Option<EventSink>,
    ) -> Inner {
        recorder.record(&Note { to: probed.caps.initial_state, ..Note::of(What::Opened) });
        Inner {
            link,
            belief: Belief::new(probed.caps.initial_state),
            fsm: Fsm::new(probed.caps.migration_flags),
            probed,
            name,
            identity,
            permit: None,
            failure: None,
            recorder,
            events,
            process: Process::this(),
        }
    }

    // --- what does not change ----------------------------------------------------------------------

    pub(crate) fn caps(&self) -> Caps {
        self.probed.caps
    }

    pub(super) fn reasons(&self) -> &[Reason] {
        &self.probed.reasons
    }

    pub(crate) fn fsm(&self) -> Fsm {
        self.fsm
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Refuses a device that cannot migrate, with the first blocking reason.
    pub(super) fn check_can_migrate(&self) -> Result<()> {
        self.probed.why_not()
    }

    /// Refuses a device that was switched off when it was opened.
    pub(super) fn check_not_disabled(&self) -> Result<()> {
        self.probed.why_disabled()
    }

    /// What is said now of who switched migration off.
    pub(super) fn replace_permission_reasons(&mut self, reasons: Vec<Reason>) {
        self.probed.replace_permission_reasons(reasons);
    }

    // --- what is believed --------------------------------------------------------------------------

    pub(crate) fn state_now(&self) -> Option<State> {
        self.belief.state()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.belief.epoch()
    }

    pub(crate) fn fixups(&self) -> Fixups {
        self.belief.fixups()
    }

    pub(crate) fn claimed(&self) -> Claim {
        self.belief.claimed()
    }

    /// Gives the device to a session, which has this permission.
    pub(crate) fn claim(&mut self, by: Claim, permit: Permit) -> Result<()> {
        self.belief.claim(by)?;
        self.permit = Some(permit);
        Ok(())
    }

    /// The session is over.
    pub(crate) fn unclaim(&mut self) {
        self.belief.unclaim();
        self.permit = None;
    }

    /// The guest was stopped, according to the caller.
    pub(crate) fn hold_contents(&mut self) {
        self.belief.hold();
    }

    /// Records that a load begins or has failed, or that it was committed.
    pub(crate) fn note_load(&mut self, committed: bool) {
        self.belief.note_load(committed);
    }

    pub(crate) fn contents_are_lost(&self) -> bool {
        self.belief.contents().are_lost()
    }

    /// Whether recovery has reset the device since its session began.
    pub(crate) fn was_reset_in_session(&self) -> bool {
        self.belief.was_reset_in_session()
    }

    /// The error for contents that a reset has taken: now, with the device in `before`, or earlier.
    pub(crate) fn contents_lost(&self, before: Option<State>) -> Error {
        self.belief.contents_lost(before)
    }

    // --- what the device says ----------------------------------------------------------------------

    /// Asks the device where it is, and believes it.
    pub(crate) fn query_state(&mut self) -> std::result::Result<State, Errno> {
        let state = self.link.state()?;
        self.found(state);
        Ok(state)
    }

    /// The same; an error says what it means for the device.
    pub(crate) fn ask_state(&mut self) -> Result<State> {
        self.query_state().map_err(|errno| {
            self.note_failed(Operation::GetState, errno.0, format_args!("{errno}"));
            Error::from_args(
                errno.code(),
                format_args!("the device's state cannot be read: {errno}"),
            )
            .with_failure(Failure {
                operation: Operation::GetState,
                ioctl: self.link.ioctl(crate::uapi::VFIO_DEVICE_FEATURE),
                errno: errno.0,
                state_before: self.state_now(),
                fixups: self.fixups(),
                ..Failure::default()
            })
        })
    }

    /// The device is in `state`, whether asked for or not.
    pub(super) fn found(&mut self, state: State) {
        let before = self.belief.state();
        // It moved behind our back: an open stream is dead.
        if before != Some(state) && !state.has_data_stream() {
            self.link.close();
        }
        if self.belief.found(state) {
            self.emit_reset(before, Outcome::Reset, 0, Cause::Found);
        }
    }

    /// The device was reset behind the library's back; it was in `before`.
    pub(super) fn note_found_reset(&mut self, before: Option<State>) {
        self.belief.was_reset(before);
        self.emit_reset(before, Outcome::Reset, 0, Cause::Found);
    }

    /// The device is in a state that was asked for.
    pub(super) fn arrived(&mut self, at: State) {
        self.belief.arrived(at);
        if at == State::Running {
            self.forget_bad_state();
        }
    }

    /// Drops the reasons that no longer hold for a device in RUNNING.
    pub(super) fn forget_bad_state(&mut self) {
        self.probed.forget_bad_state();
    }

    /// Asks for the device's state. If a reset would take something, the state must be known: a
    /// device that is in RUNNING without having been asked goes from there to STOP, STOP_COPY or
    /// RUNNING without complaint. Otherwise, having no answer is acceptable too.
    pub(crate) fn look_after_contents(&mut self) -> Result<()> {
        if self.belief.contents() == Contents::Live {
            let _ = self.query_state();
            return Ok(());
        }
        let mut result = self.ask_state();
        for _ in 1..LOOKS {
            if result.is_ok() {
                break;
            }
            result = self.ask_state();
        }
        result.map(drop)
    }

    /// Checks whether the device was reset behind the library's back while its guest was stopped;
    /// it would otherwise go on without complaint. Refuses a device that has lost its contents.
    pub(crate) fn check_contents(&mut self) -> Result<()> {
        if self.belief.contents() == Contents::Live {
            return Ok(());
        }
        self.look_after_contents()?;
        match self.contents_are_lost() {
            true => Err(self.contents_lost(self.state_now())),
            false => Ok(()),
        }
    }

    // --- what the VMM is told ----------------------------------------------------------------------

    /// Reports an event, and records it.
    pub(crate) fn emit(&mut self, what: What, from: Option<State>, outcome: Outcome, ns: u64) {
        let mut note = Note { from, to: self.state_now(), ..Note::of(what) };
        match what {
            What::StateChanged => note.duration_ns = Some(ns),
            What::Recovered | What::SaveRestarted | What::LoadRestarted => {
                note.outcome = Some(outcome);
            }
            What::FixupsNeeded => {
                let _ = write!(note.text, "{}", self.fixups());
            }
            _ => {}
        }
        self.report(note, outcome);
    }

    /// The same for a reset, with what it was for.
    pub(super) fn emit_reset(
        &mut self,
        from: Option<State>,
        outcome: Outcome,
        ns: u64,
        cause: Cause,
    ) {
        let note = Note {
            from,
            to: self.state_now(),
            outcome: Some(outcome),
            duration_ns: (ns > 0).then_some(ns),
            cause: Some(cause),
            ..Note::of(What::Reset)
        };
        self.report(note, outcome);
    }

    /// Records an event, and tells the VMM's callback of it.
    fn report(&mut self, note: Note, outcome: Outcome) {
        let note = Note { fixups: self.fixups(), ..note };
        self.note(&note);
        let Note { what: kind, from, to, fixups, .. } = note;
        let duration_ns = note.duration_ns.unwrap_or(0);
        let event = Event { kind, from, to, outcome, fixups, duration_ns };
        log::debug!(target: "vfiomig::device", "{event}");
        if let Some(sink) = &mut self.events {
            sink.call(&event);
        }
    }

    /// Records what must be redone before the device runs.
    pub(crate) fn add_fixups(&mut self, fixups: Fixups) {
        self.belief.add_fixups(fixups);
        self.emit(What::FixupsNeeded, self.state_now(), Outcome::Kept, 0);
    }

    /// Keeps a failure on the device, so that it outlives the call that returned it, and records it.
    pub(crate) fn remember<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            if error.failure().is_some() {
                self.note(&Note::error(error));
            }
        }
        self.keep(result)
    }

    /// Keeps a failure that was recorded before what it led to.
    pub(crate) fn keep<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            if let Some(failure) = error.failure() {
                self.failure = Some(*failure);
            }
        }
        result
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        self.failure
    }

    // --- what is recorded --------------------------------------------------------------------------

    pub(crate) fn note(&self, note: &Note) {
        self.recorder.record(note);
    }

    /// Records that a session has begun; returns its number.
    pub(crate) fn note_begin(&self, note: &Note) -> u64 {
        self.recorder.begin(note)
    }

    /// Records that the driver has failed.
    pub(super) fn note_failed(&self, operation: Operation, errno: i32, text: fmt::Arguments<'_>) {
        let mut note =
            Note { operation, errno, from: self.state_now(), ..Note::of(What::DriverFailed) };
        let _ = note.text.write_fmt(text);
        self.note(&note);
    }

    /// Has the driver take the device to a state.
    pub(super) fn request(&mut self, from: State, to: State, opens_data: bool) -> Changed {
        self.note(&Note { from: Some(from), to: Some(to), ..Note::of(What::StateAsked) });
        self.link.request(to, opens_data)
    }

    /// Records that it has not.
    pub(super) fn note_not_changed(&self, from: State, to: State, changed: &Changed) {
        let mut note = Note {
            from: Some(from),
            to: Some(to),
            operation: Operation::SetState,
            errno: changed.errno(),
            ..Note::of(What::DriverFailed)
        };
        let _ = write!(note.text, "{changed}");
        self.note(&note);
    }
}
