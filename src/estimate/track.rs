// SPDX-License-Identifier: MIT OR Apache-2.0
//! One device in a migration: what was measured of it, and what is left of it.

use super::measure::{Range, Rate, scale};
use super::observation::{Observation, Phase, Remaining, Side};
use super::profile::{Profile, Step};

/// Answers of a driver that come sooner than this after each other say nothing about a rate.
const SOON_NS: u64 = 1_000_000;

/// What a driver said, when, and how much had been read by then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Answer {
    at: u64,
    remaining: Remaining,
    read: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Track {
    pub here: Profile,
    pub there: Profile,
    /// The driver's last answer, and the one that the dirty rate is counted from.
    last: Option<Answer>,
    base: Option<Answer>,
    /// How many answers there were.
    pub answers: u32,
    /// What becomes dirty while the guest runs.
    dirty: Rate,
    /// Read in pre-copy, in bytes.
    read: u64,
    loaded: u32,
    /// How often initial data has started again.
    pub repeats: u32,
    stopped: bool,
    /// Read since, in bytes.
    stop_read: u64,
    /// What the driver had announced for that.
    announced: Option<u64>,
    ended: bool,
    /// What this device's part in the phases took.
    pub measured: [Option<u64>; Phase::ALL.len()],
}

/// How far a device's initial data is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Initial {
    NotSent,
    NotLoaded,
    Done,
}

impl Track {
    pub fn observe(&mut self, now: u64, what: Observation) {
        match what {
            Observation::Read { bytes, ns } if self.stopped => {
                self.here.read_stopped.add(bytes, ns);
                self.stop_read = self.stop_read.saturating_add(bytes);
                self.add_measured(Phase::Read, ns);
            }
            Observation::Read { bytes, ns } => {
                self.here.read_running.add(bytes, ns);
                self.read = self.read.saturating_add(bytes);
            }
            Observation::Written { bytes, ns } => self.here.write.add(bytes, ns),
            Observation::Took(step, ns) => self.took(now, step, ns),
            Observation::Ended if self.stopped && !self.ended => {
                self.ended = true;
                self.here.sent(self.stop_read, self.announced);
            }
            Observation::Remaining(remaining) => self.answered(now, remaining),
            Observation::InitialLoaded(generation) => self.loaded = self.loaded.max(generation),
            _ => {}
        }
    }

    fn took(&mut self, now: u64, step: Step, ns: u64) {
        self.here.took(step, ns);
        let phase = match step {
            Step::Quiesce => Phase::Quiesce,
            Step::Stop => Phase::Stop,
            Step::Release => Phase::Load,
            Step::Commit => Phase::Commit,
            Step::Approach | Step::Run => Phase::Resume,
        };
        self.add_measured(phase, ns);
        if step == Step::Stop && !self.stopped {
            // As it was when the device began to stop.
            self.announced = self.announced(now.saturating_sub(ns));
            self.stopped = true;
        }
    }

    fn add_measured(&mut self, phase: Phase, ns: u64) {
        if let Some(measured) = self.measured.get_mut(phase as usize) {
            *measured = Some(measured.unwrap_or(0).saturating_add(ns));
        }
    }

    fn answered(&mut self, now: u64, remaining: Remaining) {
        let answer = Answer { at: now, remaining, read: self.read };
        self.last = Some(answer);
        self.answers = self.answers.saturating_add(1);
        let Some(base) = self.base else {
            self.base = Some(answer);
            return;
        };
        if remaining.generation != base.remaining.generation {
            // What is left now has nothing to do with what was.
            self.repeats = self.repeats.saturating_add(1);
            self.base = Some(answer);
            return;
        }
        let passed = now.saturating_sub(base.at);
        if passed < SOON_NS {
            return;
        }
        let gone = answer.read.saturating_sub(base.read);
        let came = remaining.left().saturating_add(gone).saturating_sub(base.remaining.left());
        self.dirty.add(came, passed);
        self.base = Some(answer);
    }

    /// What pre-copy would still send now, in bytes.
    pub fn left(&self, now: u64) -> u64 {
        let Some(last) = &self.last else { return 0 };
        let left = last.remaining.left().saturating_sub(self.read.saturating_sub(last.read));
        let came = self.came(now.saturating_sub(last.at));
        // The same data does not become dirty twice.
        let most = last.remaining.stop_copy.map_or(u64::MAX, |all| all.max(left));
        left.saturating_add(came).min(most)
    }

    /// What becomes dirty in that time, in bytes.
    pub fn came(&self, ns: u64) -> u64 {
        self.dirty.bytes_in(ns).unwrap_or(0)
    }

    /// What the driver announces that stop-copy would send now, in bytes.
    fn announced(&self, now: u64) -> Option<u64> {
        let last = self.last.as_ref()?;
        let stays = last.remaining.stop_copy?.saturating_sub(last.remaining.left());
        Some(stays.saturating_add(self.left(now)))
    }

    /// What stop-copy will send, in bytes. Without an upper bound, nobody knows.
    pub fn bytes(&self, now: u64) -> Range {
        if let Some(announced) = self.announced(now) {
            return self.here.corrected(announced);
        }
        let left = self.left(now);
        match self.here.stop_bytes.range() {
            Some(before) => before.max(Range::exactly(left)),
            None => Range::at_least(left),
        }
    }

    /// What of it pre-copy cannot send.
    pub fn fixed_bytes(&self, now: u64) -> Range {
        let bytes = self.bytes(now);
        let left = self.left(now);
        if self.announced(now).is_none() {
            return bytes.each(|bytes| bytes.saturating_sub(left));
        }
        // What the driver says of both is wrong by the same factor, if it is wrong.
        let announced = self.announced(now).unwrap_or(0).max(1);
        bytes.each(|bytes| bytes.saturating_sub(scale(bytes, left, announced)))
    }

    /// How long it takes to read that much from the stopped device.
    pub fn read_time(&self, bytes: Range) -> Range {
        if let Some(range) = self.here.read_stopped.time_of(bytes) {
            return range;
        }
        // A device may be read faster or slower when it has stopped.
        match self.here.read_running.time_of(bytes) {
            Some(range) => {
                Range { low: range.low / 2, high: range.high.saturating_mul(2), ..range }
            }
            None => Range::at_least(0),
        }
    }

    pub fn initial(&self) -> Initial {
        match &self.last {
            Some(last) if last.remaining.precopy.is_none() => Initial::Done,
            Some(last) if !last.remaining.initial_sent => Initial::NotSent,
            Some(last) if self.loaded < last.remaining.generation => Initial::NotLoaded,
            _ => Initial::Done,
        }
    }

    pub fn profile(&mut self, side: Side) -> &mut Profile {
        match side {
            Side::Here => &mut self.here,
            Side::There => &mut self.there,
        }
    }
}
