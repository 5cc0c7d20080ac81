// SPDX-License-Identifier: MIT OR Apache-2.0
//! Callbacks of the VMM, owned: each is released exactly once, when its owner goes.

use std::ffi::{c_int, c_void};

pub use crate::transport::vfiomig_release_fn;

use crate::error::Errno;

/// An `opaque` and what releases it.
pub(super) struct Opaque {
    value: *mut c_void,
    release: vfiomig_release_fn,
}

// SAFETY: vfiomig.h says that every callback may be called from any thread, one call at a time per
// handle, and that several threads may call the log's callback at once.
unsafe impl Send for Opaque {}
// SAFETY: as above; only the log's callback is shared.
unsafe impl Sync for Opaque {}

impl Opaque {
    /// Owns the opaque from here on.
    ///
    /// # Safety
    /// `release` is NULL or can be called with `value`, once, on any thread.
    pub(super) unsafe fn new(value: *mut c_void, release: vfiomig_release_fn) -> Opaque {
        Opaque { value, release }
    }

    pub(super) fn get(&self) -> *mut c_void {
        self.value
    }
}

impl Drop for Opaque {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: `new` got this promise; this is the only call.
            unsafe { release(self.value) };
        }
    }
}

/// What a callback returned.
pub(super) fn status(ret: c_int) -> Result<(), Errno> {
    if ret < 0 { Err(Errno(ret.saturating_neg())) } else { Ok(()) }
}
