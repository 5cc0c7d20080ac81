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

// SAFETY: promise 2 of C: any thread may call a callback, and release it.
unsafe impl Send for Opaque {}
// SAFETY: as above; only the log's callback is shared, and may be called on several threads at once.
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

/// What a callback returned that lets something pass. Nothing but 0 does: one that forgot the sign of
/// its errno, or that answers like a question, must not be taken for a yes.
pub(super) fn verdict(ret: c_int) -> Result<(), Errno> {
    match ret {
        0 => Ok(()),
        refused => Err(Errno(refused.saturating_abs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn nothing_but_zero_is_a_yes() {
        assert_eq!(verdict(0), Ok(()));
        let refused = [
            (-libc::EXDEV, Code::OtherDevice),
            (libc::EXDEV, Code::OtherDevice),
            (1, Code::Perm),
            (c_int::MAX, Code::Io),
            (c_int::MIN, Code::Io),
        ];
        for (ret, code) in refused {
            assert_eq!(verdict(ret).unwrap_err().refusal_code(), code, "{ret}");
        }
    }
}
