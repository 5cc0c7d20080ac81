// SPDX-License-Identifier: MIT OR Apache-2.0
//! Callbacks of the VMM, owned: each is released exactly once, when its owner goes.

use std::ffi::{c_int, c_void};

use super::structs::{
    vfiomig_blob_fn, vfiomig_event, vfiomig_event_fn, vfiomig_identity, vfiomig_policy_fn,
    vfiomig_release_fn,
};
use crate::device::{Event, EventSink, Identity};
use crate::session::{BlobSink, Policy};

/// An `opaque` and what releases it.
pub(super) struct Opaque {
    value: *mut c_void,
    release: vfiomig_release_fn,
}

// SAFETY: the contract of every callback is that it may be called from any thread, one call at a
// time per handle; log callbacks, which may be called at once, state so.
unsafe impl Send for Opaque {}
// SAFETY: as above; only the log callback is shared.
unsafe impl Sync for Opaque {}

impl Opaque {
    pub(super) fn new(value: *mut c_void, release: vfiomig_release_fn) -> Opaque {
        Opaque { value, release }
    }

    pub(super) fn get(&self) -> *mut c_void {
        self.value
    }
}

impl Drop for Opaque {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: the contract of release callbacks; this is the only call of it.
            unsafe { release(self.value) };
        }
    }
}

/// Without a function the opaque is released at once: nobody will use it.
pub(super) fn event_sink(call: vfiomig_event_fn, opaque: Opaque) -> Option<EventSink> {
    let call = call?;
    Some(EventSink::new(move |event: &Event| {
        let event = vfiomig_event::from(event);
        // SAFETY: the callback's contract; the event lives during the call.
        unsafe { call(opaque.get(), &raw const event) };
    }))
}

pub(super) fn blob_sink(call: vfiomig_blob_fn, opaque: Opaque) -> Option<BlobSink> {
    let call = call?;
    Some(Box::new(move |kind, bytes: &[u8]| {
        // SAFETY: the callback's contract; the bytes live during the call.
        status(unsafe { call(opaque.get(), kind, bytes.as_ptr().cast(), bytes.len()) })
    }))
}

pub(super) fn policy(call: vfiomig_policy_fn, opaque: Opaque) -> Option<Policy> {
    let call = call?;
    Some(Box::new(move |source: &Identity, target: &Identity| {
        let (source, target) = (vfiomig_identity::from(source), vfiomig_identity::from(target));
        // SAFETY: the callback's contract; both live during the call.
        status(unsafe { call(opaque.get(), &raw const source, &raw const target) })
    }))
}

fn status(ret: c_int) -> Result<(), i32> {
    if ret < 0 { Err(ret.saturating_neg()) } else { Ok(()) }
}
