// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was going on when something failed.

use crate::capi::fsm::raw;
use crate::capi::numbers::same_numbers;
use crate::capi::sized::sized32;
use crate::error::{Code, Failure, Operation, Outcome};

/// Nothing had to be recovered: the device is in the state that it was in before.
pub const VFIOMIG_OUTCOME_KEPT: u32 = 0;
/// The device was brought back without a reset; its data stream is gone.
pub const VFIOMIG_OUTCOME_RECOVERED: u32 = 1;
/// The device was reset, and its contents are lost. It is in state_after: RUNNING, unless the library
/// has taken it on from there.
pub const VFIOMIG_OUTCOME_RESET: u32 = 2;
/// The device could not be reset; only a harder reset by the VMM may help.
pub const VFIOMIG_OUTCOME_LOST: u32 = 3;

/// The caller's arguments were at fault.
pub const VFIOMIG_OP_NONE: u32 = 0;
/// Asking for a feature.
pub const VFIOMIG_OP_PROBE: u32 = 1;
/// Reading the device's state.
pub const VFIOMIG_OP_GET_STATE: u32 = 2;
/// Changing the device's state.
pub const VFIOMIG_OP_SET_STATE: u32 = 3;
/// Reading from the data fd.
pub const VFIOMIG_OP_DATA_READ: u32 = 4;
/// Writing to the data fd.
pub const VFIOMIG_OP_DATA_WRITE: u32 = 5;
/// Asking for the pre-copy estimates.
pub const VFIOMIG_OP_PRECOPY_INFO: u32 = 6;
/// Resetting the device.
pub const VFIOMIG_OP_RESET: u32 = 7;
/// Checking the stream.
pub const VFIOMIG_OP_STREAM: u32 = 8;
/// A callback of the VMM refused.
pub const VFIOMIG_OP_CALLBACK: u32 = 9;
/// Reading, writing or naming a file, or what else is behind a descriptor of the VMM's.
pub const VFIOMIG_OP_FILE: u32 = 10;

same_numbers!(Outcome:
    VFIOMIG_OUTCOME_KEPT = Kept,
    VFIOMIG_OUTCOME_RECOVERED = Recovered,
    VFIOMIG_OUTCOME_RESET = Reset,
    VFIOMIG_OUTCOME_LOST = Lost,
);
same_numbers!(Operation:
    VFIOMIG_OP_NONE = None,
    VFIOMIG_OP_PROBE = Probe,
    VFIOMIG_OP_GET_STATE = GetState,
    VFIOMIG_OP_SET_STATE = SetState,
    VFIOMIG_OP_DATA_READ = DataRead,
    VFIOMIG_OP_DATA_WRITE = DataWrite,
    VFIOMIG_OP_PRECOPY_INFO = PrecopyInfo,
    VFIOMIG_OP_RESET = Reset,
    VFIOMIG_OP_STREAM = Stream,
    VFIOMIG_OP_CALLBACK = Callback,
    VFIOMIG_OP_FILE = File,
);

/// What was going on when something failed. Look at code first: it is 0 if nothing has failed, and
/// then no member means anything.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_failure {
    /// VFIOMIG_FAILURE_INIT sets it.
    pub struct_size: u32,
    /// What the function returned: -errno from the library's closed set. 0 if nothing has failed.
    pub code: i32,
    /// VFIOMIG_OP_*.
    pub operation: u32,
    /// The ioctl's request number; 0 for read, write and the stream.
    pub ioctl_request: u32,
    /// The errno that the kernel or a callback gave; 0 for the stream.
    pub os_errno: i32,
    /// The state before, or VFIOMIG_STATE_UNKNOWN.
    pub state_before: u32,
    /// The state that was wanted, or VFIOMIG_STATE_UNKNOWN.
    pub state_wanted: u32,
    /// The state afterwards, including recovery, or VFIOMIG_STATE_UNKNOWN.
    pub state_after: u32,
    /// VFIOMIG_OUTCOME_*: what recovery left behind.
    pub outcome: u32,
    /// Bitwise OR of VFIOMIG_FIXUP_*: what the VMM must redo before the device runs.
    pub fixups: u32,
    /// Bytes of device data (for reads and writes), or of the stream, before the failure.
    pub offset: u64,
}

sized32!(vfiomig_failure);

impl From<Option<Failure>> for vfiomig_failure {
    fn from(failure: Option<Failure>) -> Self {
        // Without a failure no state is known either: 0 would be ERROR.
        let failure = failure.unwrap_or_default();
        vfiomig_failure {
            struct_size: 0,
            code: failure.code.map_or(0, Code::to_ret),
            operation: failure.operation as u32,
            ioctl_request: failure.ioctl,
            os_errno: failure.errno,
            state_before: raw(failure.state_before),
            state_wanted: raw(failure.state_wanted),
            state_after: raw(failure.state_after),
            outcome: failure.outcome as u32,
            fixups: failure.fixups.bits(),
            offset: failure.offset,
        }
    }
}
