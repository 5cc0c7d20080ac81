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

// SAFETY: vfiomig.h says of every callback that it may be called from any thread, one call at a time
// per handle; of the log's, which may be called by several threads at once, it says that.
unsafe impl Send for Opaque {}
// SAFETY: as above; only the log's is shared.
unsafe impl Sync for Opaque {}

impl Opaque {
    /// Owns an opaque from here on.
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
            // SAFETY: the promise that was made to `new`; this is the only call of it.
            unsafe { release(self.value) };
        }
    }
}

/// What a callback returned.
pub(super) fn status(ret: c_int) -> Result<(), Errno> {
    if ret < 0 { Err(Errno(ret.saturating_neg())) } else { Ok(()) }
}
