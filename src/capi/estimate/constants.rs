// SPDX-License-Identifier: MIT OR Apache-2.0
//! The constants of `vfiomig_estimate_*`.

use crate::capi::numbers::same_numbers;
use crate::estimate::{self, Because, Phase, Side, Verdict};

/// Source: value bytes were read from the device, which took ns.
pub const VFIOMIG_OBSERVATION_READ: u32 = 1;
/// Source: value bytes were sent, which kept a thread busy for ns; device is ignored.
pub const VFIOMIG_OBSERVATION_SENT: u32 = 2;
/// Target: value bytes were written to the device, which took ns.
pub const VFIOMIG_OBSERVATION_WRITTEN: u32 = 3;
/// Source: quiescing the device took ns; value is ignored.
pub const VFIOMIG_OBSERVATION_QUIESCED: u32 = 4;
/// Source: stopping the device took ns; value is ignored. What is read from now on is stop-copy.
pub const VFIOMIG_OBSERVATION_STOPPED: u32 = 5;
/// Source: releasing the device took ns; value is ignored.
pub const VFIOMIG_OBSERVATION_RELEASED: u32 = 6;
/// Target: committing the device took ns; value is ignored.
pub const VFIOMIG_OBSERVATION_COMMITTED: u32 = 7;
/// Target: taking the device to RUNNING_P2P took ns; value is ignored.
pub const VFIOMIG_OBSERVATION_APPROACHED: u32 = 8;
/// Target: taking the device to RUNNING took ns; value is ignored.
pub const VFIOMIG_OBSERVATION_RAN: u32 = 9;
/// Source: the device was read to its end; value and ns are ignored.
pub const VFIOMIG_OBSERVATION_ENDED: u32 = 10;
/// Source: the target has loaded generation value of the device's initial data; ns is ignored.
pub const VFIOMIG_OBSERVATION_INITIAL_LOADED: u32 = 11;
/// A message to the other side and its answer took ns; device and value are ignored.
pub const VFIOMIG_OBSERVATION_ROUND_TRIP: u32 = 12;
/// value devices of the source are read at a time, by threads that also send; device and ns are ignored.
pub const VFIOMIG_OBSERVATION_SOURCE_THREADS: u32 = 13;
/// value devices of the target are written at a time; device and ns are ignored.
pub const VFIOMIG_OBSERVATION_TARGET_THREADS: u32 = 14;
/// Source: the guest has been stopped and is switched over. What was to be expected then stands beside
/// what is measured. device, value and ns are ignored.
pub const VFIOMIG_OBSERVATION_SWITCHOVER: u32 = 15;
/// The phase with the number value has taken ns, of all devices together; device is ignored.
pub const VFIOMIG_OBSERVATION_PHASE: u32 = 16;

/// Source: from the stop of all devices until all of their streams were read and sent, it took ns.
/// device and value are ignored.
pub const VFIOMIG_OBSERVATION_MOVED: u32 = 17;
/// Source: from there until all devices were released, which is after the target's commit, it took ns.
/// device and value are ignored.
pub const VFIOMIG_OBSERVATION_HANDED_OVER: u32 = 18;
/// value devices of the source take a step at a time: a group tells it. device and ns are ignored.
pub const VFIOMIG_OBSERVATION_SOURCE_HELPERS: u32 = 19;
/// value devices of the target take a step at a time; device and ns are ignored.
pub const VFIOMIG_OBSERVATION_TARGET_HELPERS: u32 = 20;
/// Source: value connections send while others read; 0: the threads that read also send. A group with
/// channels tells it. device and ns are ignored.
pub const VFIOMIG_OBSERVATION_CHANNELS: u32 = 21;

/// All devices of the source give up their peer-to-peer DMA.
pub const VFIOMIG_DOWNTIME_QUIESCE: u32 = 0;
/// All devices of the source are stopped.
pub const VFIOMIG_DOWNTIME_STOP: u32 = 1;
/// They are read.
pub const VFIOMIG_DOWNTIME_READ: u32 = 2;
/// How much longer sending takes.
pub const VFIOMIG_DOWNTIME_SEND: u32 = 3;
/// How much longer the target takes to write it, and the source to let go of its devices.
pub const VFIOMIG_DOWNTIME_LOAD: u32 = 4;
/// The target's drivers accept the state.
pub const VFIOMIG_DOWNTIME_COMMIT: u32 = 5;
/// All devices of the target run.
pub const VFIOMIG_DOWNTIME_RESUME: u32 = 6;
/// All phases together.
pub const VFIOMIG_DOWNTIME_TOTAL: u32 = 7;

/// The guest runs on, and pre-copy with it.
pub const VFIOMIG_VERDICT_GO_ON: u32 = 1;
/// Stop the guest and switch over.
pub const VFIOMIG_VERDICT_SWITCH_OVER: u32 = 2;
/// More pre-copy does not help.
pub const VFIOMIG_VERDICT_WILL_NOT_CONVERGE: u32 = 3;

/// The downtime keeps to the limit, also its upper bound.
pub const VFIOMIG_BECAUSE_FITS: u32 = 1;
/// What is expected keeps to the limit, the upper bound does not.
pub const VFIOMIG_BECAUSE_LIKELY: u32 = 2;
/// What is known keeps to the limit, but something was never measured.
pub const VFIOMIG_BECAUSE_AS_FAR_AS_KNOWN: u32 = 3;
/// Nobody has said yet what is left of the device: vfiomig_estimate_observe_pending().
pub const VFIOMIG_BECAUSE_NOTHING_KNOWN: u32 = 4;
/// Not all of the device's initial data was sent.
pub const VFIOMIG_BECAUSE_INITIAL_NOT_SENT: u32 = 5;
/// The target has not said that it has loaded the device's initial data.
pub const VFIOMIG_BECAUSE_INITIAL_NOT_LOADED: u32 = 6;
/// The device has started its initial data again, and the target has not loaded that yet.
pub const VFIOMIG_BECAUSE_INITIAL_AGAIN: u32 = 7;
/// The downtime would be too long; pre-copy makes it shorter.
pub const VFIOMIG_BECAUSE_DATA_LEFT: u32 = 8;
/// Changing states alone takes longer than the limit.
pub const VFIOMIG_BECAUSE_STEPS: u32 = 9;
/// What can be read only from the stopped device takes longer than the limit.
pub const VFIOMIG_BECAUSE_STOP_COPY_SIZE: u32 = 10;
/// The device becomes dirty faster than it can be moved.
pub const VFIOMIG_BECAUSE_DIRTY_RATE: u32 = 11;
/// The device has started its initial data again too often.
pub const VFIOMIG_BECAUSE_INITIAL_REPEATS: u32 = 12;

/// vfiomig_estimate_decide(): do not wait until the target has loaded all initial data.
pub const VFIOMIG_DECIDE_WITHOUT_INITIAL: u32 = 1 << 0;

/// All devices together, where a device's number can stand.
pub const VFIOMIG_ESTIMATE_ALL: u32 = u32::MAX;
/// Everything that belongs to the prediction was measured.
pub const VFIOMIG_ESTIMATE_KNOWN: u32 = 1 << 0;
/// A time that nobody knows: an upper bound that there is not, or a phase that was not measured.
pub const VFIOMIG_ESTIMATE_UNKNOWN: u64 = u64::MAX;
/// A blob is of this side's device.
pub const VFIOMIG_ESTIMATE_HERE: u32 = 1;
/// A blob is of the other side's device.
pub const VFIOMIG_ESTIMATE_THERE: u32 = 2;
/// How long a blob is, in bytes. A later version's may be longer.
pub const VFIOMIG_ESTIMATE_BYTES: u32 = 256;
/// The most devices of an estimate.
pub const VFIOMIG_ESTIMATE_MAX_DEVICES: u32 = 256;

same_numbers!(
    VFIOMIG_ESTIMATE_BYTES = estimate::BLOB_LEN,
    VFIOMIG_ESTIMATE_MAX_DEVICES = estimate::MAX_DEVICES,
    VFIOMIG_DOWNTIME_TOTAL = Phase::ALL.len(),
);
same_numbers!(Phase:
    VFIOMIG_DOWNTIME_QUIESCE = Quiesce,
    VFIOMIG_DOWNTIME_STOP = Stop,
    VFIOMIG_DOWNTIME_READ = Read,
    VFIOMIG_DOWNTIME_SEND = Send,
    VFIOMIG_DOWNTIME_LOAD = Load,
    VFIOMIG_DOWNTIME_COMMIT = Commit,
    VFIOMIG_DOWNTIME_RESUME = Resume,
);
same_numbers!(Side:
    VFIOMIG_ESTIMATE_HERE = Here,
    VFIOMIG_ESTIMATE_THERE = There,
);
same_numbers!(Verdict:
    VFIOMIG_VERDICT_GO_ON = GoOn,
    VFIOMIG_VERDICT_SWITCH_OVER = SwitchOver,
    VFIOMIG_VERDICT_WILL_NOT_CONVERGE = WillNotConverge,
);
same_numbers!(Because:
    VFIOMIG_BECAUSE_FITS = Fits,
    VFIOMIG_BECAUSE_LIKELY = Likely,
    VFIOMIG_BECAUSE_AS_FAR_AS_KNOWN = AsFarAsKnown,
    VFIOMIG_BECAUSE_NOTHING_KNOWN = NothingKnown,
    VFIOMIG_BECAUSE_INITIAL_NOT_SENT = InitialNotSent,
    VFIOMIG_BECAUSE_INITIAL_NOT_LOADED = InitialNotLoaded,
    VFIOMIG_BECAUSE_INITIAL_AGAIN = InitialAgain,
    VFIOMIG_BECAUSE_DATA_LEFT = DataLeft,
    VFIOMIG_BECAUSE_STEPS = Steps,
    VFIOMIG_BECAUSE_STOP_COPY_SIZE = StopCopySize,
    VFIOMIG_BECAUSE_DIRTY_RATE = DirtyRate,
    VFIOMIG_BECAUSE_INITIAL_REPEATS = InitialRepeats,
);
