// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a call of the C API needs of the allocator's reserve before it begins.

use crate::error::{Result, err};
use crate::sys;

/// Refuses a call that needs memory while the reserve could not carry it.
#[inline]
pub(super) fn admit() -> Result<()> {
    match sys::reserve_admits_call() {
        true => Ok(()),
        false => Err(err!(NoMem, "out of memory, and the reserve is needed for calls in progress")),
    }
}
