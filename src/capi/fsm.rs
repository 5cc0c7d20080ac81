// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state machine, without a device.

use std::ffi::{c_char, c_int};

use super::entry::guarded;
use super::structs::{check_out, vfiomig_path, write_out};
use super::table;
use crate::device::{Fsm, State};
use crate::error::err;

/// Computes how a device with VFIO_MIGRATION_* migration_flags gets from one state to another
/// (VFIOMIG_STATE_*), exactly as the kernel does: which states it passes through and whether a
/// data fd comes back. Asks no device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfiomig_fsm_path(
    migration_flags: u64,
    from: u32,
    to: u32,
    path: *mut vfiomig_path,
) -> c_int {
    guarded(&table::FSM_PATH, || {
        // SAFETY: the caller's contract.
        unsafe { check_out(path, "path") }?;
        let (from, to) = (State::from_raw(from), State::from_raw(to));
        let found = Fsm::new(migration_flags).path(from, to).ok_or_else(|| {
            err!(Inval, "no way from {from} to {to} with migration flags {migration_flags:#x}")
        })?;
        // SAFETY: the caller's contract.
        unsafe { write_out(path, &vfiomig_path::from(&found), "path") }
    })
}

/// A state's name as the kernel's documentation has it, for example "PRE_COPY"; "UNKNOWN" for
/// numbers that are no state. Static.
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
            // SAFETY: a static NUL-terminated text.
            let name = unsafe { std::ffi::CStr::from_ptr(vfiomig_state_name(state.raw())) };
            assert_eq!(name.to_str().unwrap(), state.name());
        }
    }
}
