// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals that a write raises beside its error, and that would end the process: SIGPIPE where
//! nobody reads it, SIGXFSZ where a file may not become that long (`RLIMIT_FSIZE`).

use std::mem::MaybeUninit;
use std::ptr::null_mut;

/// While this lives, such a signal to this thread waits, and one that came meanwhile goes with it.
/// The handler of the process, and what other threads do, stay out of it.
pub(super) struct Quiet {
    signal: i32,
    before: libc::sigset_t,
    pending: bool,
}

fn only(signal: i32) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset() initialises what the pointer leads to; both numbers are valid.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        set.assume_init()
    }
}

fn is_pending(signal: i32) -> bool {
    let mut pending = MaybeUninit::uninit();
    // SAFETY: sigpending() initialises the set before it is looked into; if it fails, that is not
    // done.
    unsafe {
        libc::sigpending(pending.as_mut_ptr()) == 0
            && libc::sigismember(pending.as_ptr(), signal) == 1
    }
}

impl Quiet {
    /// For a pipe, or something like one.
    pub fn pipe() -> Quiet {
        Quiet::new(libc::SIGPIPE)
    }

    /// For a file.
    pub fn file() -> Quiet {
        Quiet::new(libc::SIGXFSZ)
    }

    fn new(signal: i32) -> Quiet {
        let (set, mut before) = (only(signal), MaybeUninit::zeroed());
        // SAFETY: both sets are there for the call; all zeros is a value of the second.
        let before = unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, before.as_mut_ptr());
            before.assume_init()
        };
        Quiet { signal, before, pending: is_pending(signal) }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let set = only(self.signal);
        if !self.pending && is_pending(self.signal) {
            let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: both structures are there for the call.
            unsafe { libc::sigtimedwait(&raw const set, null_mut(), &raw const none) };
        }
        // SAFETY: the set is there for the call.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, null_mut()) };
    }
}
