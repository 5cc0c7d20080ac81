// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_fsm_*` and `vfiomig_state_*`: the state machine, without a device.

use std::ffi::{c_char, c_int};

use super::entry::guarded;
use super::sized::{SizedOut, sized32};
use super::table;
use crate::error::err;
use crate::fsm::{Fsm, MigrationFlags, Path, State};

/// The driver has lost track of the device; only a reset helps.
pub const VFIOMIG_STATE_ERROR: u32 = 0;
/// Stopped.
pub const VFIOMIG_STATE_STOP: u32 = 1;
/// Running.
pub const VFIOMIG_STATE_RUNNING: u32 = 2;
/// Stopped, with its state being read.
pub const VFIOMIG_STATE_STOP_COPY: u32 = 3;
/// Stopped, with its state being written.
pub const VFIOMIG_STATE_RESUMING: u32 = 4;
/// Running, but not starting any peer-to-peer DMA.
pub const VFIOMIG_STATE_RUNNING_P2P: u32 = 5;
/// Running, with its state being read.
pub const VFIOMIG_STATE_PRE_COPY: u32 = 6;
/// Like PRE_COPY, but not starting any peer-to-peer DMA.
pub const VFIOMIG_STATE_PRE_COPY_P2P: u32 = 7;
/// Not known.
pub const VFIOMIG_STATE_UNKNOWN: u32 = u32::MAX;

const _: () = {
    assert!(VFIOMIG_STATE_ERROR == State::Error.raw());
    assert!(VFIOMIG_STATE_STOP == State::Stop.raw());
    assert!(VFIOMIG_STATE_RUNNING == State::Running.raw());
    assert!(VFIOMIG_STATE_STOP_COPY == State::StopCopy.raw());
    assert!(VFIOMIG_STATE_RESUMING == State::Resuming.raw());
    assert!(VFIOMIG_STATE_RUNNING_P2P == State::RunningP2p.raw());
    assert!(VFIOMIG_STATE_PRE_COPY == State::PreCopy.raw());
    assert!(VFIOMIG_STATE_PRE_COPY_P2P == State::PreCopyP2p.raw());
    assert!(State::KNOWN.len() == 8);
};

/// A state's number, or that of no state.
pub(super) fn raw(state: Option<State>) -> u32 {
    state.map_or(VFIOMIG_STATE_UNKNOWN, State::raw)
}

/// The path from one state to another.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_path {
    /// VFIOMIG_PATH_INIT sets it.
    pub struct_size: u32,
    /// How many states the path enters; the last one is the target. 0: the device is already there.
    pub num_steps: u32,
    /// These states: VFIOMIG_STATE_*.
    pub steps: [u32; 8],
    /// 1 if the kernel returns a new data fd on the way.
    pub opens_data: u32,
    /// Zero.
    pub reserved: u32,
}

sized32!(vfiomig_path);

impl From<&Path> for vfiomig_path {
    fn from(path: &Path) -> Self {
        let mut out = vfiomig_path {
            struct_size: 0,
            num_steps: path.steps.len() as u32,
            steps: [0; 8],
            opens_data: u32::from(path.opens_data),
            reserved: 0,
        };
        for (slot, step) in out.steps.iter_mut().zip(path.steps.iter()) {
            *slot = step.raw();
        }
        out
    }
}

/// Computes how a device with VFIO_MIGRATION_* migration_flags gets from one state to another
/// (VFIOMIG_STATE_*), exactly as the kernel does: which states it passes through, and whether a
/// data fd comes back. Asks no device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_fsm_path(
    migration_flags: u64,
    from: u32,
    to: u32,
    path: *mut vfiomig_path,
) -> c_int {
    guarded(&table::FSM_PATH, || {
        // SAFETY: vfiomig.h: a writable structure of the size that it claims.
        let out = unsafe { SizedOut::new(path, "path") }?;
        let (from, to) = (State::from_raw(from), State::from_raw(to));
        let flags = MigrationFlags::from_bits_retain(migration_flags);
        let found = Fsm::new(flags).path(from, to);
        let found = found.ok_or_else(|| {
            err!(Inval, "no path from {from} to {to} with these migration flags: {flags}")
        })?;
        out.fill(&vfiomig_path::from(&found));
        Ok(())
    })
}

/// Returns a state's name as the kernel's documentation has it, for example "PRE_COPY"; "UNKNOWN"
/// for numbers that are not states. Static.
#[unsafe(no_mangle)]
pub extern "C" fn vfiomig_state_name(state: u32) -> *const c_char {
    match State::from_raw(state) {
        State::Error => c"ERROR",
        State::Stop => c"STOP",
        State::Running => c"RUNNING",
        State::StopCopy => c"STOP_COPY",
        State::Resuming => c"RESUMING",
        State::RunningP2p => c"RUNNING_P2P",
        State::PreCopy => c"PRE_COPY",
        State::PreCopyP2p => c"PRE_COPY_P2P",
        State::Other(_) => c"UNKNOWN",
    }
    .as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_cores() {
        for state in State::KNOWN.into_iter().chain([State::Other(8)]) {
            // SAFETY: a static NUL-terminated string.
            let name = unsafe { std::ffi::CStr::from_ptr(vfiomig_state_name(state.raw())) };
            assert_eq!(name.to_str().unwrap(), state.name());
        }
    }
}
