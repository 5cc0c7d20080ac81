// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_estimate_*`.

mod constants;
mod structs;

use std::ffi::{c_int, c_void};

pub use constants::*;
pub use structs::*;

use super::args::{Out, bytes, bytes_mut};
use super::entry::{free, guarded, publish, with_shared_copy};
use super::handle::Handle;
use super::row::{Kind, Row};
use super::save::vfiomig_pending;
use super::sized::{SizedOut, read_in};
use super::table::{self, estimate_states as states};
use crate::error::{Result, err};
use crate::estimate::{Estimate, Observation, SharedEstimate};
use structs::{to_observation, to_side};

impl Handle for vfiomig_estimate {
    const KIND: &'static Kind = &table::ESTIMATE;
    type Object = SharedEstimate;
    type Shared = SharedEstimate;

    fn state(_: &SharedEstimate) -> u32 {
        states::READY
    }
}

/// A call that any number of threads may make at once.
fn with(
    row: &Row,
    estimate: *mut vfiomig_estimate,
    call: impl FnOnce(&mut Estimate) -> Result<()>,
) -> c_int {
    with_shared_copy(row, estimate, |estimate: SharedEstimate| estimate.with(call))
}

/// A handle for an estimate, which may have others.
pub(super) fn publish_shared(
    out: Out<'_, *mut vfiomig_estimate>,
    estimate: SharedEstimate,
) -> Result<()> {
    publish(out, estimate.clone(), estimate)
}

fn one_or_all(device: u32) -> Option<u32> {
    (device != VFIOMIG_ESTIMATE_ALL).then_some(device)
}

/// Makes an estimate for a VM with that many devices, which knows nothing yet. A group has one already,
/// which it feeds: vfiomig_group_get_estimate(). An estimate touches no device and reads no clock. Its
/// functions may be called from any number of threads, at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_estimate_new(
    num_devices: u32,
    out: *mut *mut vfiomig_estimate,
) -> c_int {
    guarded(&table::ESTIMATE_NEW, || {
        // SAFETY: vfiomig.h: NULL, or memory for a pointer.
        let out = unsafe { Out::new(out, "out") }?;
        let mut estimate = Estimate::new();
        for _ in 0..num_devices {
            estimate.add_device()?;
        }
        publish_shared(out, SharedEstimate::new(estimate))
    })
}

/// Tells what was measured: VFIOMIG_OBSERVATION_*. device and value are used by those that say so;
/// otherwise they are ignored. at_ns is when that was, on the clock of
/// vfiomig_estimate_observe_pending(), or 0 for the latest time that it was told.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_estimate_observe(
    estimate: *mut vfiomig_estimate,
    observation: u32,
    device: u32,
    at_ns: u64,
    value: u64,
    ns: u64,
) -> c_int {
    with(&table::ESTIMATE_OBSERVE, estimate, |estimate| {
        estimate.observe(device, at_ns, to_observation(observation, value, ns)?)
    })
}

/// Tells what a source's driver says is left: what vfiomig_save_get_pending() has returned at at_ns. From
/// two of them with time between, it learns how fast the device becomes dirty. at_ns is of any clock
/// that goes on steadily; with a group's estimate it is CLOCK_MONOTONIC.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_estimate_observe_pending(
    estimate: *mut vfiomig_estimate,
    device: u32,
    at_ns: u64,
    pending: *const vfiomig_pending,
) -> c_int {
    with(&table::ESTIMATE_OBSERVE_PENDING, estimate, |estimate| {
        // SAFETY: vfiomig.h: NULL, or a structure of the size that it claims.
        let (pending, tail) = unsafe { read_in(pending, "pending") }?;
        tail.check()?;
        estimate.observe(device, at_ns, Observation::Remaining(pending.into()))
    })
}

/// Says how long the guest will stand still if it is switched over at at_ns, or at the latest time that
/// was told if that is 0: for all devices together (VFIOMIG_ESTIMATE_ALL), or as if a device were the
/// only one. What was never measured has no upper bound.
///
/// QEMU's numbers are in it: state_pending_estimate is precopy_bytes, state_pending_exact and the size
/// of stop-copy are stop_copy_bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_estimate_predict(
    estimate: *mut vfiomig_estimate,
    device: u32,
    at_ns: u64,
    prediction: *mut vfiomig_prediction,
) -> c_int {
    with(&table::ESTIMATE_PREDICT, estimate, |estimate| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(prediction, "prediction") }?;
        out.fill(&(&estimate.predict(one_or_all(device), at_ns)?).into());
        Ok(())
    })
}

/// Says whether to switch over at at_ns (0: the latest time that was told) if the guest may stand still
/// for limit_ns at most. Unless flags has VFIOMIG_DECIDE_WITHOUT_INITIAL, it waits until the target has
/// loaded the present generation of each device's initial data
/// (VFIOMIG_OBSERVATION_INITIAL_LOADED). If stopping refuses with -EAGAIN, because a device has started its
/// initial data again, tell it what is pending now and ask again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_estimate_decide(
    estimate: *mut vfiomig_estimate,
    at_ns: u64,
    limit_ns: u64,
    flags: u32,
    decision: *mut vfiomig_decision,
) -> c_int {
    with_shared_copy(&table::ESTIMATE_DECIDE, estimate, |estimate: SharedEstimate| {
        if flags & !VFIOMIG_DECIDE_WITHOUT_INITIAL != 0 {
            return Err(err!(Inval, "unknown flags for a decision: {flags:#x}"));
        }
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(decision, "decision") }?;
        out.fill(&estimate.decide(at_ns, limit_ns, flags == 0).into());
        Ok(())
    })
}

/// Says how long the phases of the downtime were, for all devices together (VFIOMIG_ESTIMATE_ALL) or a
/// device's part in them, and what had been expected.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_estimate_get_downtime(
    estimate: *mut vfiomig_estimate,
    device: u32,
    downtime: *mut vfiomig_downtime,
) -> c_int {
    with(&table::ESTIMATE_GET_DOWNTIME, estimate, |estimate| {
        // SAFETY: vfiomig.h: NULL, or a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(downtime, "downtime") }?;
        let measured = estimate.measured(one_or_all(device))?;
        out.fill(&vfiomig_downtime::new(measured, estimate.expected()));
        Ok(())
    })
}

/// Copies what is worth being remembered of this side's device: VFIOMIG_ESTIMATE_BYTES in buf, their
/// number in *len. Keep it for the device's next migration, or send it to the other side of this one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_estimate_export(
    estimate: *mut vfiomig_estimate,
    device: u32,
    buf: *mut c_void,
    cap: usize,
    len: *mut usize,
) -> c_int {
    with(&table::ESTIMATE_EXPORT, estimate, |estimate| {
        // SAFETY: vfiomig.h: NULL, or `cap` writable bytes; NULL, or memory for a number.
        let (buf, len) = unsafe { (bytes_mut(buf, cap, "buf")?, Out::new(len, "len")?) };
        let blob = estimate.export(device)?;
        let too_small = || err!(NoSpace, "what is remembered has {} bytes", blob.len());
        buf.get_mut(..blob.len()).ok_or_else(too_small)?.copy_from_slice(&blob);
        len.write(blob.len());
        Ok(())
    })
}

/// Takes what vfiomig_estimate_export() has returned: earlier for this side's device
/// (VFIOMIG_ESTIMATE_HERE), or on the other side for its device (VFIOMIG_ESTIMATE_THERE). It replaces what
/// was known. It may come from anywhere: whatever it says, nothing worse happens than a wrong
/// prediction. One that is refused changes nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_estimate_import(
    estimate: *mut vfiomig_estimate,
    device: u32,
    side: u32,
    blob: *const c_void,
    len: usize,
) -> c_int {
    with(&table::ESTIMATE_IMPORT, estimate, |estimate| {
        // SAFETY: vfiomig.h: NULL, or `len` readable bytes.
        estimate.import(device, to_side(side)?, unsafe { bytes(blob, len, "blob") }?)
    })
}

/// Frees an estimate; NULL is ignored. A group's lives on with the group.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_estimate_free(estimate: *mut vfiomig_estimate) {
    free(&table::ESTIMATE_FREE, estimate);
}
