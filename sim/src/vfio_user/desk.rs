// SPDX-License-Identifier: MIT OR Apache-2.0
//! What other threads have to do with a server: stopping it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use super::socket::Bell;
use crate::sync::atomic::{AtomicBool, Ordering};

pub(crate) struct Desk {
    /// Rung when there is something new here.
    bell: OwnedFd,
    stopped: AtomicBool,
    serving: AtomicBool,
}

impl Desk {
    pub fn new() -> Result<Desk, i32> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Desk {
            bell: eventfd(0, flags).map_err(|errno| errno.raw_os_error())?,
            stopped: AtomicBool::new(false),
            serving: AtomicBool::new(false),
        })
    }

    fn ring(&self) {
        // It fails only if it has been rung 2^64 times and nobody has answered.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.ring();
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// EBUSY while another thread serves.
    pub fn begin(&self) -> Result<(), i32> {
        if self.serving.swap(true, Ordering::AcqRel) { Err(libc::EBUSY) } else { Ok(()) }
    }

    pub fn end(&self) {
        self.serving.store(false, Ordering::Release);
    }
}

impl Bell for Desk {
    fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn answer(&self) -> bool {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.is_stopped()
    }
}
