// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a group measures, and tells its estimate: the one place where it looks at a clock.

use std::fmt::Write as _;
use std::sync::{Arc, PoisonError};

use super::member::Step;
use super::options::Role;
use crate::error::Result;
use crate::estimate::{self, Decision, Estimate, Observation, Phase, Remaining, SharedEstimate};
use crate::history::{Note, OfGroup, Recorder, What};
use crate::session::{Ending, Pending};
use crate::sync::Mutex;
use crate::sys::monotonic_ns;

/// The estimate of a group, and when its phases began.
pub(super) struct Measuring {
    pub estimate: SharedEstimate,
    role: Role,
    /// When the last phase was over, in nanoseconds.
    phase_began: Mutex<u64>,
}

/// A moment, from which on something is measured.
#[derive(Clone, Copy)]
pub(super) struct Moment(u64);

impl Moment {
    pub fn now() -> Moment {
        Moment(monotonic_ns())
    }

    fn ns(self) -> u64 {
        monotonic_ns().saturating_sub(self.0)
    }
}

fn note_of(decision: &Decision) -> Note {
    let Decision { verdict, because, device, prediction } = decision;
    let of_group =
        OfGroup::Verdict { verdict: *verdict as u32, because: *because as u32, device: *device };
    let duration_ns = Some(prediction.total.value);
    let mut note = Note { duration_ns, of_group, ..Note::of(What::Verdict) };
    let _ = match device {
        Some(device) => {
            write!(note.text, "{}: {}, device {device}", verdict.name(), because.name())
        }
        None => write!(note.text, "{}: {}", verdict.name(), because.name()),
    };
    note
}

impl Measuring {
    /// Verdicts are recorded when they change.
    pub fn new(role: Role, recorder: Arc<Recorder>) -> Measuring {
        let last = Mutex::new(None);
        let estimate = SharedEstimate::heard(Estimate::new(), move |decision| {
            let told = (decision.verdict, decision.because, decision.device);
            // Under the lock, so that the newest one is recorded last.
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.replace(told) != Some(told) {
                recorder.record(&note_of(decision));
            }
        });
        Measuring { estimate, role, phase_began: Mutex::new(0) }
    }

    /// There is a device with this number.
    pub fn add(&self, number: u32) -> Result<()> {
        self.estimate.with(|estimate| {
            while estimate.devices() <= number {
                estimate.add_device()?;
            }
            Ok(())
        })
    }

    fn observe(&self, device: u32, what: Observation) {
        let now = monotonic_ns();
        // It can only be refused for a device that there is not.
        let _ = self.estimate.with(|estimate| estimate.observe(device, now, what));
    }

    /// That many threads take steps, besides the one that asks for them.
    pub fn helpers(&self, number: u32) {
        let threads = number.saturating_add(1);
        self.observe(
            0,
            match self.role {
                Role::Source => Observation::SourceHelpers(threads),
                Role::Target => Observation::TargetHelpers(threads),
            },
        );
    }

    /// A member was read.
    pub fn read(&self, index: usize, bytes: usize, since: Moment) {
        if bytes > 0 {
            let what = Observation::Read { bytes: bytes as u64, ns: since.ns() };
            self.observe(index as u32, what);
        }
    }

    /// A frame has gone out over a channel.
    pub fn sent(&self, bytes: usize, since: Moment) {
        // What a target sends are credits.
        if self.role == Role::Source {
            self.observe(0, Observation::Sent { bytes: bytes as u64, ns: since.ns() });
        }
    }

    /// There are so many channels, which send while others read.
    pub fn channels(&self, number: u32) {
        self.observe(0, Observation::Channels(number.saturating_add(1)));
    }

    /// A member was written to.
    pub fn written(&self, index: usize, bytes: usize, since: Moment) {
        let what = Observation::Written { bytes: bytes as u64, ns: since.ns() };
        self.observe(index as u32, what);
    }

    /// A member has taken a step.
    pub fn took(&self, index: usize, step: Step, since: Moment) {
        let step = match (step, self.role) {
            (Step::Quiesce, _) => estimate::Step::Quiesce,
            (Step::Stop, _) => estimate::Step::Stop,
            (Step::Finish(Ending::Release), _) => estimate::Step::Release,
            (Step::Commit, _) => estimate::Step::Commit,
            (Step::Approach, Role::Target) => estimate::Step::Approach,
            (Step::Run, Role::Target) => estimate::Step::Run,
            _ => return,
        };
        self.observe(index as u32, Observation::Took(step, since.ns()));
    }

    /// A member's stream is complete.
    pub fn ended(&self, index: usize) {
        self.observe(index as u32, Observation::Ended);
    }

    /// What a member's driver says is left.
    pub fn pending(&self, device: u32, pending: &Pending) {
        let remaining = Remaining {
            precopy: pending.precopy_known.then_some((pending.initial_bytes, pending.dirty_bytes)),
            stop_copy: pending.stop_copy_known.then_some(pending.stop_copy_bytes),
            initial_sent: pending.initial_sent,
            generation: pending.initial_generation,
        };
        self.observe(device, Observation::Remaining(remaining));
    }

    /// The guest is switched over.
    pub fn switches_over(&self) {
        self.observe(0, Observation::SwitchOver);
        self.phase_begins();
    }

    /// A phase begins; the next one that is over began then.
    pub fn phase_begins(&self) {
        *self.phase_began.lock().unwrap_or_else(PoisonError::into_inner) = monotonic_ns();
    }

    /// The phase is over, and the next one begins.
    fn phase_ns(&self) -> u64 {
        let now = monotonic_ns();
        let mut began = self.phase_began.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_sub(std::mem::replace(&mut *began, now))
    }

    /// All members have taken a phase's steps.
    pub fn phase_over(&self, phase: Phase) {
        self.observe(0, Observation::Measured(phase, self.phase_ns()));
    }

    /// All stopped members were read.
    pub fn moved(&self) {
        self.observe(0, Observation::Moved(self.phase_ns()));
    }

    /// The source has released all members.
    pub fn handed_over(&self) {
        self.observe(0, Observation::HandedOver(self.phase_ns()));
    }
}
