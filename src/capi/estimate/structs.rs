// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structures of `vfiomig_estimate_*`.

use super::constants::*;
use crate::capi::numbers::flag;
use crate::capi::save::{
    VFIOMIG_PENDING_INITIAL_SENT, VFIOMIG_PENDING_PRE_COPY_KNOWN, VFIOMIG_PENDING_STOP_COPY_KNOWN,
    vfiomig_pending,
};
use crate::capi::sized::sized32;
use crate::error::{Result, err};
use crate::estimate::{
    Decision, Measured, Observation, Phase, Prediction, Range, Remaining, Side, Step,
};

/// What is known of a migration's times.
pub enum vfiomig_estimate {}

/// A downtime that is to be expected. Times are in nanoseconds, sizes in bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_prediction {
    /// VFIOMIG_PREDICTION_INIT sets it.
    pub struct_size: u32,
    /// VFIOMIG_ESTIMATE_KNOWN, or 0.
    pub flags: u32,
    /// What is expected of each phase, and of all: VFIOMIG_DOWNTIME_* is the index.
    pub expected_ns: [u64; 8],
    /// It will hardly be less.
    pub low_ns: [u64; 8],
    /// It will hardly be more. VFIOMIG_ESTIMATE_UNKNOWN: something was never measured, and expected_ns
    /// is what is known of it.
    pub high_ns: [u64; 8],
    /// What stop-copy will send.
    pub stop_copy_bytes: u64,
    /// It will hardly be less.
    pub stop_copy_low_bytes: u64,
    /// It will hardly be more. VFIOMIG_ESTIMATE_UNKNOWN: no driver says.
    pub stop_copy_high_bytes: u64,
    /// What pre-copy would still send.
    pub precopy_bytes: u64,
}

/// Whether to switch over.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_decision {
    /// VFIOMIG_DECISION_INIT sets it.
    pub struct_size: u32,
    /// VFIOMIG_VERDICT_*: what to do.
    pub verdict: u32,
    /// VFIOMIG_BECAUSE_*: why.
    pub because: u32,
    /// The device that is the reason, or VFIOMIG_ESTIMATE_ALL.
    pub device: u32,
    /// The downtime that is expected, in nanoseconds.
    pub expected_ns: u64,
    /// It will hardly be less.
    pub low_ns: u64,
    /// It will hardly be more. VFIOMIG_ESTIMATE_UNKNOWN: something was never measured.
    pub high_ns: u64,
}

/// A downtime as it was, and as it had been expected.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_downtime {
    /// VFIOMIG_DOWNTIME_INIT sets it.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// What each phase took, in nanoseconds: VFIOMIG_DOWNTIME_* is the index. VFIOMIG_ESTIMATE_UNKNOWN:
    /// it was not measured. The last one is the sum of what was.
    pub measured_ns: [u64; 8],
    /// What was expected when the guest was switched over, of all devices together;
    /// VFIOMIG_ESTIMATE_UNKNOWN: nothing.
    pub expected_ns: [u64; 8],
}

sized32!(vfiomig_prediction, vfiomig_decision, vfiomig_downtime);

/// The numbers of the phases, then that of all.
fn with_total(phases: &[u64], total: u64) -> [u64; 8] {
    let mut out = [total; 8];
    for (place, value) in out.iter_mut().zip(phases) {
        *place = *value;
    }
    out
}

fn each(prediction: &Prediction, of: fn(&Range) -> u64) -> [u64; 8] {
    with_total(&prediction.phases.each_ref().map(of), of(&prediction.total))
}

impl From<&Prediction> for vfiomig_prediction {
    fn from(from: &Prediction) -> Self {
        vfiomig_prediction {
            struct_size: 0,
            flags: flag(from.is_known(), VFIOMIG_ESTIMATE_KNOWN),
            expected_ns: each(from, |range| range.value),
            low_ns: each(from, |range| range.low),
            high_ns: each(from, |range| range.high),
            stop_copy_bytes: from.stop_copy_bytes.value,
            stop_copy_low_bytes: from.stop_copy_bytes.low,
            stop_copy_high_bytes: from.stop_copy_bytes.high,
            precopy_bytes: from.precopy_bytes,
        }
    }
}

impl From<Decision> for vfiomig_decision {
    fn from(from: Decision) -> Self {
        let Range { low, value, high } = from.prediction.total;
        vfiomig_decision {
            struct_size: 0,
            verdict: from.verdict as u32,
            because: from.because as u32,
            device: from.device.unwrap_or(VFIOMIG_ESTIMATE_ALL),
            expected_ns: value,
            low_ns: low,
            high_ns: high,
        }
    }
}

impl vfiomig_downtime {
    pub(super) fn new(measured: Measured, expected: Option<Prediction>) -> Self {
        let sum = measured.iter().flatten().fold(0u64, |sum, ns| sum.saturating_add(*ns));
        let phases = measured.map(|ns| ns.unwrap_or(VFIOMIG_ESTIMATE_UNKNOWN));
        let nothing = [VFIOMIG_ESTIMATE_UNKNOWN; 8];
        vfiomig_downtime {
            struct_size: 0,
            reserved: 0,
            measured_ns: with_total(&phases, sum),
            expected_ns: expected.map_or(nothing, |it| each(&it, |range| range.value)),
        }
    }
}

/// What was measured, from what C has of it.
pub(super) fn to_observation(kind: u32, value: u64, ns: u64) -> Result<Observation> {
    let number =
        || u32::try_from(value).map_err(|_| err!(Inval, "{value} is too large for an observation"));
    Ok(match kind {
        VFIOMIG_OBSERVATION_READ => Observation::Read { bytes: value, ns },
        VFIOMIG_OBSERVATION_SENT => Observation::Sent { bytes: value, ns },
        VFIOMIG_OBSERVATION_WRITTEN => Observation::Written { bytes: value, ns },
        VFIOMIG_OBSERVATION_QUIESCED => Observation::Took(Step::Quiesce, ns),
        VFIOMIG_OBSERVATION_STOPPED => Observation::Took(Step::Stop, ns),
        VFIOMIG_OBSERVATION_RELEASED => Observation::Took(Step::Release, ns),
        VFIOMIG_OBSERVATION_COMMITTED => Observation::Took(Step::Commit, ns),
        VFIOMIG_OBSERVATION_APPROACHED => Observation::Took(Step::Approach, ns),
        VFIOMIG_OBSERVATION_RAN => Observation::Took(Step::Run, ns),
        VFIOMIG_OBSERVATION_ENDED => Observation::Ended,
        VFIOMIG_OBSERVATION_INITIAL_LOADED => Observation::InitialLoaded(number()?),
        VFIOMIG_OBSERVATION_ROUND_TRIP => Observation::RoundTrip(ns),
        VFIOMIG_OBSERVATION_SOURCE_THREADS => Observation::SourceThreads(number()?),
        VFIOMIG_OBSERVATION_TARGET_THREADS => Observation::TargetThreads(number()?),
        VFIOMIG_OBSERVATION_SOURCE_HELPERS => Observation::SourceHelpers(number()?),
        VFIOMIG_OBSERVATION_TARGET_HELPERS => Observation::TargetHelpers(number()?),
        VFIOMIG_OBSERVATION_CHANNELS => Observation::Channels(number()?),
        VFIOMIG_OBSERVATION_SWITCHOVER => Observation::SwitchOver,
        VFIOMIG_OBSERVATION_PHASE => Observation::Measured(to_phase(value)?, ns),
        VFIOMIG_OBSERVATION_MOVED => Observation::Moved(ns),
        VFIOMIG_OBSERVATION_HANDED_OVER => Observation::HandedOver(ns),
        other => {
            return Err(err!(Inval, "there is no VFIOMIG_OBSERVATION_* with the number {other}"));
        }
    })
}

fn to_phase(number: u64) -> Result<Phase> {
    let found = Phase::ALL.into_iter().find(|phase| *phase as u64 == number);
    found.ok_or_else(|| err!(Inval, "a downtime has no phase {number}"))
}

pub(super) fn to_side(side: u32) -> Result<Side> {
    match side {
        VFIOMIG_ESTIMATE_HERE => Ok(Side::Here),
        VFIOMIG_ESTIMATE_THERE => Ok(Side::There),
        other => Err(err!(Inval, "{other} is neither here nor there")),
    }
}

impl From<vfiomig_pending> for Remaining {
    fn from(from: vfiomig_pending) -> Self {
        let has = |flag| from.flags & flag != 0;
        Remaining {
            precopy: has(VFIOMIG_PENDING_PRE_COPY_KNOWN)
                .then_some((from.initial_bytes, from.dirty_bytes)),
            stop_copy: has(VFIOMIG_PENDING_STOP_COPY_KNOWN).then_some(from.stop_copy_bytes),
            initial_sent: has(VFIOMIG_PENDING_INITIAL_SENT),
            generation: from.initial_generation,
        }
    }
}
