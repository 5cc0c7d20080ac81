// SPDX-License-Identifier: MIT OR Apache-2.0
//! The downtime that is to be expected, and whether the guest should be switched over.

use super::measure::{Measure, Range, Rate};
use super::observation::Phase;
use super::profile::Step;
use super::track::{Initial, Track};

/// What is to be expected if the guest is switched over now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Prediction {
    /// How long each phase takes, in nanoseconds. Without an upper bound, nobody knows: something of
    /// it was never measured, and the value is what is known of it.
    pub phases: [Range; Phase::ALL.len()],
    /// The downtime, in nanoseconds.
    pub total: Range,
    /// What stop-copy will send, in bytes, corrected by how far the drivers' words were true.
    pub stop_copy_bytes: Range,
    /// What pre-copy would still send now, in bytes.
    pub precopy_bytes: u64,
}

impl Prediction {
    /// Whether everything that belongs to it was measured.
    pub fn is_known(&self) -> bool {
        self.total.high != u64::MAX
    }

    /// A phase.
    pub fn phase(&self, phase: Phase) -> Range {
        self.phases.get(phase as usize).copied().unwrap_or_default()
    }
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Verdict {
    /// The guest runs on, and pre-copy with it.
    GoOn = 1,
    /// Stop the guest and switch over.
    SwitchOver = 2,
    /// More pre-copy does not help.
    WillNotConverge = 3,
}

impl Verdict {
    /// Its name, as in histories.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::GoOn => "go_on",
            Verdict::SwitchOver => "switch_over",
            Verdict::WillNotConverge => "will_not_converge",
        }
    }
}

/// Why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Because {
    /// The downtime keeps to the limit, with all its bounds.
    Fits = 1,
    /// It keeps to the limit, if it is as expected; within its bounds, it may be longer.
    Likely = 2,
    /// What is known of it keeps to the limit, but not everything was measured.
    AsFarAsKnown = 3,
    /// Nobody has said yet how much is left of a device.
    NothingKnown = 4,
    /// Not all initial data of a device was sent.
    InitialNotSent = 5,
    /// The target has not said that it has loaded the initial data of a device.
    InitialNotLoaded = 6,
    /// A device has started its initial data again, and the target has not loaded that.
    InitialAgain = 7,
    /// The downtime would be too long, but pre-copy can make it shorter.
    DataLeft = 8,
    /// Changing states alone takes longer than the limit.
    Steps = 9,
    /// What can be read only from a stopped device takes longer than the limit.
    StopCopySize = 10,
    /// A device becomes dirty faster than it can be moved.
    DirtyRate = 11,
    /// A device has started its initial data again too often.
    InitialRepeats = 12,
}

impl Because {
    /// Its name, as in histories.
    pub fn name(self) -> &'static str {
        match self {
            Because::Fits => "fits",
            Because::Likely => "likely",
            Because::AsFarAsKnown => "as_far_as_known",
            Because::NothingKnown => "nothing_known",
            Because::InitialNotSent => "initial_not_sent",
            Because::InitialNotLoaded => "initial_not_loaded",
            Because::InitialAgain => "initial_again",
            Because::DataLeft => "data_left",
            Because::Steps => "steps",
            Because::StopCopySize => "stop_copy_size",
            Because::DirtyRate => "dirty_rate",
            Because::InitialRepeats => "initial_repeats",
        }
    }
}

/// What to do, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What to do.
    pub verdict: Verdict,
    /// Why.
    pub because: Because,
    /// The device that is the reason, or the most of it; `None`: all of them.
    pub device: Option<u32>,
    /// What is to be expected.
    pub prediction: Prediction,
}

/// Initial data that starts again more often than this will do so for ever.
const MAX_REPEATS: u32 = 16;
/// With this many answers of a driver, its dirty rate counts.
const MIN_ANSWERS: u32 = 3;
const SECOND: u64 = 1_000_000_000;

/// What all devices share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Common {
    /// Sending, by one thread.
    pub channel: Rate,
    pub trip: Measure,
    /// How many devices are read, and written, at a time.
    pub source_threads: u32,
    pub target_threads: u32,
    /// How many connections send while others read; 0: whoever reads also sends.
    pub channels: u32,
    /// How many take a step at a time.
    pub source_helpers: u32,
    pub target_helpers: u32,
}

/// Devices whose downtime is to be predicted.
pub(super) struct Predictor<'a> {
    pub tracks: &'a [Track],
    pub common: &'a Common,
    pub now: u64,
}

/// What several devices take if so many are served at a time.
pub(super) fn together(each: impl Iterator<Item = Range>, threads: u32) -> Range {
    let (mut sum, mut longest) = (Range::default(), Range::default());
    for range in each {
        (sum, longest) = (sum + range, longest.max(range));
    }
    longest.max(shared(sum, threads))
}

/// What is divided up among threads.
fn shared(sum: Range, threads: u32) -> Range {
    sum.each(|ns| ns.div_ceil(u64::from(threads.max(1))))
}

/// How data moves: what reading takes, what reading and sending take, and what writing takes.
struct Moving {
    read: Range,
    sent: Range,
    written: Range,
}

impl Predictor<'_> {
    /// How long moving that takes which `bytes` says of each device.
    fn moving(&self, bytes: impl Fn(&Track) -> Range) -> Moving {
        let common = self.common;
        let reads = || self.tracks.iter().map(|track| track.read_time(bytes(track)));
        let read = together(reads(), common.source_threads);
        let all = self.tracks.iter().map(&bytes).fold(Range::default(), |sum, one| sum + one);
        let sending = common.channel.time_of(all).unwrap_or(Range::at_least(0));
        let reading = reads().fold(Range::default(), |sum, one| sum + one);
        let sent = read.max(match common.channels {
            0 => shared(reading + sending, common.source_threads),
            channels => shared(sending, channels),
        });
        let write = |track: &Track| track.there.write.time_of(bytes(track));
        let writes = self.tracks.iter().map(|track| write(track).unwrap_or(Range::at_least(0)));
        Moving { read, sent, written: together(writes, common.target_threads) }
    }

    fn step(&self, of: impl Fn(&Track) -> Option<Range>, threads: u32) -> Range {
        together(self.tracks.iter().map(|track| of(track).unwrap_or(Range::at_least(0))), threads)
    }

    fn half_trip(&self) -> Range {
        self.common.trip.range().unwrap_or_default().each(|ns| ns / 2)
    }

    /// All that does not depend on how much is to be moved.
    fn steps(&self) -> [Range; Phase::ALL.len()] {
        let (source, target) = (self.common.source_helpers, self.common.target_helpers);
        let half = self.half_trip();
        let here = |step| self.step(move |track| track.here.step(step), source);
        let there = |step| self.step(move |track| track.there.step(step), target);
        [
            here(Step::Quiesce),
            here(Step::Stop),
            Range::default(),
            half,
            half + half + here(Step::Release),
            there(Step::Commit),
            there(Step::Approach) + there(Step::Run) + half,
        ]
    }

    pub fn predict(&self) -> Prediction {
        let moving = self.moving(|track| track.bytes(self.now));
        let steps = self.steps();
        let fixed = steps.iter().fold(Range::default(), |sum, one| sum + *one);
        let mut phases = steps;
        let parts = [
            (Phase::Read, moving.read),
            (Phase::Send, moving.sent.beyond(moving.read)),
            (Phase::Load, moving.written.beyond(moving.sent)),
        ];
        for (phase, part) in parts {
            if let Some(place) = phases.get_mut(phase as usize) {
                *place = *place + part;
            }
        }
        let sum = |of: fn(&Track, u64) -> u64| {
            self.tracks.iter().fold(0u64, |sum, track| sum.saturating_add(of(track, self.now)))
        };
        let bytes = self.tracks.iter().map(|track| track.bytes(self.now));
        Prediction {
            phases,
            total: fixed + moving.sent.max(moving.written),
            stop_copy_bytes: bytes.fold(Range::default(), |sum, one| sum + one),
            precopy_bytes: sum(Track::left),
        }
    }

    /// The device of which there is most.
    fn most(&self, of: impl Fn(&Track) -> u64) -> Option<u32> {
        let numbered = (0..).zip(self.tracks.iter().map(of));
        numbered.max_by_key(|(number, size)| (*size, std::cmp::Reverse(*number))).map(|at| at.0)
    }

    fn first(&self, is: impl Fn(&Track) -> bool) -> Option<u32> {
        (0..).zip(self.tracks).find(|(_, track)| is(track)).map(|(number, _)| number)
    }

    /// The initial data that has to be waited for.
    fn initial(&self) -> Option<(Because, Option<u32>)> {
        let (number, track) =
            (0..).zip(self.tracks).find(|(_, track)| track.initial() != Initial::Done)?;
        let because = match track.initial() {
            _ if track.repeats > 0 => Because::InitialAgain,
            Initial::NotSent => Because::InitialNotSent,
            _ => Because::InitialNotLoaded,
        };
        Some((because, Some(number)))
    }

    /// Why more pre-copy cannot keep the downtime to the limit, if it cannot.
    fn hopeless(&self, limit: u64) -> Option<(Because, Option<u32>)> {
        let steps = self.steps().iter().fold(Range::default(), |sum, one| sum + *one);
        if steps.low > limit {
            return Some((Because::Steps, None));
        }
        let least = self.moving(|track| track.fixed_bytes(self.now));
        let least = steps + least.sent.max(least.written);
        let nothing_left = self.tracks.iter().all(|track| track.left(self.now) == 0);
        if least.low > limit || (nothing_left && least.value > limit) {
            let device = self.most(|track| track.read_time(track.fixed_bytes(self.now)).value);
            return Some((Because::StopCopySize, device));
        }
        None
    }

    /// Whether moving what becomes dirty in a second takes longer than a second.
    fn falls_behind(&self) -> bool {
        let known = self.tracks.iter().all(|track| track.answers >= MIN_ANSWERS);
        let moving = self.moving(|track| Range::exactly(track.came(SECOND)));
        known && moving.sent.max(moving.written).value >= SECOND
    }

    pub fn decide(&self, limit: u64, wait_for_initial: bool) -> Decision {
        let prediction = self.predict();
        let decide = |verdict, because, device| Decision { verdict, because, device, prediction };
        if let Some(device) = self.first(|track| track.answers == 0) {
            return decide(Verdict::GoOn, Because::NothingKnown, Some(device));
        }
        if let Some((because, device)) = self.hopeless(limit) {
            return decide(Verdict::WillNotConverge, because, device);
        }
        if let Some(device) = self.first(|track| track.repeats > MAX_REPEATS) {
            return decide(Verdict::WillNotConverge, Because::InitialRepeats, Some(device));
        }
        if let Some((because, device)) = self.initial().filter(|_| wait_for_initial) {
            return decide(Verdict::GoOn, because, device);
        }
        if prediction.total.value <= limit {
            let because = match prediction.total.high {
                high if high <= limit => Because::Fits,
                u64::MAX => Because::AsFarAsKnown,
                _ => Because::Likely,
            };
            return decide(Verdict::SwitchOver, because, None);
        }
        if self.falls_behind() {
            let device = self.most(|track| track.came(SECOND));
            return decide(Verdict::WillNotConverge, Because::DirtyRate, device);
        }
        decide(Verdict::GoOn, Because::DataLeft, self.most(|track| track.left(self.now)))
    }
}
