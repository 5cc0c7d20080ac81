// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long a guest will stand still while it is switched over, and whether to do that now.
//!
//! An [`Estimate`] is told what was measured ([`Estimate::observe`]), and says what is to be expected
//! ([`Estimate::predict`]), what to do ([`Estimate::decide`]), and in the end what it was
//! ([`Estimate::measured`]). Numbers go in and come out: it does no I/O and reads no clock. It never
//! fails because of a number, however large, and says where something was never measured.
//! docs/downtime.md has what the numbers mean.

mod measure;
mod observation;
mod predict;
mod profile;
mod shared;
mod track;

pub use measure::Range;
pub use observation::{Observation, Phase, Remaining, Side};
pub use predict::{Because, Decision, Prediction, Verdict};
pub use profile::{BLOB_LEN, Step};
pub use shared::SharedEstimate;

use crate::alloc;
use crate::error::{Result, err};
use measure::{Measure, Rate};
use predict::{Common, Predictor, together};
use profile::Profile;
use track::Track;

/// The most devices of one estimate.
pub const MAX_DEVICES: u32 = 256;

/// What a phase took, in nanoseconds, if it was measured.
pub type Measured = [Option<u64>; Phase::ALL.len()];

/// What is known of the devices of one VM in one migration, and what follows from it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Estimate {
    tracks: Vec<Track>,
    common: Common,
    /// The latest time that anything was measured at, in nanoseconds.
    now: u64,
    measured: Measured,
    /// From the end of all streams to the release of the source.
    handed_over: Option<u64>,
    /// What was to be expected when the guest was switched over.
    expected: Option<Box<Prediction>>,
}

impl Estimate {
    /// An estimate of no devices.
    pub fn new() -> Estimate {
        let common = Common {
            channel: Rate::default(),
            trip: Measure::default(),
            source_threads: 1,
            target_threads: 1,
            channels: 0,
            source_helpers: 1,
            target_helpers: 1,
        };
        Estimate {
            tracks: Vec::new(),
            common,
            now: 0,
            measured: Measured::default(),
            handed_over: None,
            expected: None,
        }
    }

    /// Adds a device; returns its number, which counts from 0.
    pub fn add_device(&mut self) -> Result<u32> {
        let number = u32::try_from(self.tracks.len()).unwrap_or(MAX_DEVICES);
        if number >= MAX_DEVICES {
            return Err(err!(Inval, "an estimate has {MAX_DEVICES} devices at most"));
        }
        alloc::push(&mut self.tracks, Track::default(), "no memory for a device's estimate")?;
        Ok(number)
    }

    /// How many devices it has.
    pub fn devices(&self) -> u32 {
        u32::try_from(self.tracks.len()).unwrap_or(MAX_DEVICES)
    }

    fn track_mut(&mut self, device: u32) -> Result<&mut Track> {
        let count = self.tracks.len();
        let found = self.tracks.get_mut(device as usize);
        found.ok_or_else(|| err!(Inval, "the estimate has {count} devices"))
    }

    /// A time does not go back. 0 stands for the latest one.
    fn now(&self, at_ns: u64) -> u64 {
        self.now.max(at_ns)
    }

    /// Takes what was measured of a device, or of all of them: then `device` does not matter. `at_ns`
    /// is any clock that goes on steadily, the same in every call; 0 stands for the latest time that
    /// it was told.
    pub fn observe(&mut self, device: u32, at_ns: u64, what: Observation) -> Result<()> {
        let now = self.now(at_ns);
        match what {
            Observation::Sent { bytes, ns } => self.common.channel.add(bytes, ns),
            Observation::RoundTrip(ns) => self.common.trip.add(ns),
            Observation::SourceThreads(threads) => self.common.source_threads = threads.max(1),
            Observation::TargetThreads(threads) => self.common.target_threads = threads.max(1),
            Observation::Channels(number) => self.common.channels = number,
            Observation::SourceHelpers(threads) => self.common.source_helpers = threads.max(1),
            Observation::TargetHelpers(threads) => self.common.target_helpers = threads.max(1),
            Observation::SwitchOver => {
                self.expected = Some(Box::new(self.predict(None, at_ns)?));
            }
            Observation::Measured(phase, ns) => self.has_taken(phase, ns),
            Observation::Moved(ns) => self.moved(ns),
            Observation::HandedOver(ns) => self.handed_over = Some(ns),
            what => self.track_mut(device)?.observe(now, what),
        }
        self.now = now;
        Ok(())
    }

    fn has_taken(&mut self, phase: Phase, ns: u64) {
        if let Some(place) = self.measured.get_mut(phase as usize) {
            *place = Some(ns);
        }
    }

    /// Divides what reading and sending took by what the reads took.
    fn moved(&mut self, ns: u64) {
        let reads = self.tracks.iter().map(|track| {
            Range::exactly(track.measured.get(Phase::Read as usize).copied().flatten().unwrap_or(0))
        });
        let read = together(reads, self.common.source_threads).value.min(ns);
        self.has_taken(Phase::Read, read);
        self.has_taken(Phase::Send, ns.saturating_sub(read));
    }

    fn predictor<'a>(&'a self, tracks: &'a [Track], at_ns: u64) -> Predictor<'a> {
        Predictor { tracks, common: &self.common, now: self.now(at_ns) }
    }

    fn tracks(&self, device: Option<u32>) -> Result<&[Track]> {
        let Some(device) = device else { return Ok(&self.tracks) };
        let at = device as usize;
        let found = self.tracks.get(at..at.saturating_add(1));
        found.ok_or_else(|| err!(Inval, "the estimate has {} devices", self.tracks.len()))
    }

    /// What is to be expected of a device by itself, or of all together, if they are stopped at
    /// `at_ns`.
    pub fn predict(&self, device: Option<u32>, at_ns: u64) -> Result<Prediction> {
        Ok(self.predictor(self.tracks(device)?, at_ns).predict())
    }

    /// Whether to switch over at `at_ns` with a downtime of `limit_ns` at most. If
    /// `wait_for_initial`, not before the target has loaded all initial data.
    pub fn decide(&self, at_ns: u64, limit_ns: u64, wait_for_initial: bool) -> Decision {
        self.predictor(&self.tracks, at_ns).decide(limit_ns, wait_for_initial)
    }

    /// What the phases took: a device's part in them, or all together.
    pub fn measured(&self, device: Option<u32>) -> Result<Measured> {
        match (device, self.tracks(device)?) {
            (Some(_), [track]) => Ok(track.measured),
            _ => Ok(self.together()),
        }
    }

    /// The source waits for the target while that loads and commits. How long the commit was, only the
    /// target knows: until it is told, it counts as loading.
    fn together(&self) -> Measured {
        let mut measured = self.measured;
        let [.., load, commit, _] = &mut measured;
        let waited = self.handed_over.map(|ns| ns.saturating_sub(commit.unwrap_or(0)));
        *load = load.or(waited);
        measured
    }

    /// What was to be expected of all together when the guest was switched over, if it was.
    pub fn expected(&self) -> Option<Prediction> {
        self.expected.as_deref().copied()
    }

    /// What is worth to be remembered of this side's device, for the next migration, or for the other
    /// side of this one.
    pub fn export(&self, device: u32) -> Result<[u8; BLOB_LEN]> {
        match self.tracks(Some(device))? {
            [track] => Ok(track.here.encode()),
            _ => Err(err!(Inval, "there is no such device")),
        }
    }

    /// Takes what was remembered of a device. It replaces what was measured so far. A blob that is
    /// refused changes nothing.
    pub fn import(&mut self, device: u32, side: Side, blob: &[u8]) -> Result<()> {
        let profile = Profile::decode(blob)?;
        *self.track_mut(device)?.profile(side) = profile;
        Ok(())
    }
}

impl Default for Estimate {
    fn default() -> Self {
        Estimate::new()
    }
}

#[cfg(test)]
mod tests;
