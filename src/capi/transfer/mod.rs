// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_transfer`: how streams go through descriptors of the VMM's.

use std::time::Duration;

use super::sized::{read_options, sized32};
use crate::error::{Result, err};
use crate::session::Transfer;

/// The call returns -EAGAIN where it would have to wait for the descriptor.
pub const VFIOMIG_TRANSFER_NO_WAIT: u32 = 1 << 0;

/// How a descriptor is used; NULL for the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_transfer {
    /// VFIOMIG_TRANSFER_INIT sets it.
    pub struct_size: u32,
    /// Bitwise OR of VFIOMIG_TRANSFER_*, or 0.
    pub flags: u32,
    /// Returns after this many bytes of the stream; 0: does not.
    pub max_bytes: u64,
    /// How long the other end may take, or bring, nothing, in milliseconds; 0: 60000. UINT32_MAX: as
    /// long as it likes.
    pub timeout_ms: u32,
    /// Zero.
    pub reserved: u32,
}

sized32!(vfiomig_transfer);

/// What a caller says of its descriptor.
///
/// # Safety
/// Promise 1 of C: NULL, or a structure of the size that it claims.
pub(super) unsafe fn read_transfer(from: *const vfiomig_transfer) -> Result<Transfer> {
    // SAFETY: the caller made the same promise.
    let Some(how) = unsafe { read_options(from) }? else { return Ok(Transfer::default()) };
    if how.flags & !VFIOMIG_TRANSFER_NO_WAIT != 0 || how.reserved != 0 {
        return Err(err!(Inval, "unknown flags in the transfer, or reserved is not zero"));
    }
    let default = Transfer::default();
    Ok(Transfer {
        timeout: match how.timeout_ms {
            0 => default.timeout,
            u32::MAX => None,
            ms => Some(Duration::from_millis(ms.into())),
        },
        no_wait: how.flags & VFIOMIG_TRANSFER_NO_WAIT != 0,
        max_bytes: how.max_bytes,
    })
}
