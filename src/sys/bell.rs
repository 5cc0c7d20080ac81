// SPDX-License-Identifier: MIT OR Apache-2.0
//! A descriptor that can be polled until somebody has taken notice.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::Errno;
use super::fd::{read, write};
use super::retry::once;

/// An eventfd, which is readable from when it was rung until it is hushed. Nothing waits for it here.
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub fn new() -> Result<Bell, Errno> {
        // SAFETY: it takes numbers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        once(fd as isize)?;
        // SAFETY: the kernel has just made it for this process, and nobody else knows it.
        Ok(Bell(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub fn ring(&self) {
        let _ = write(self.0.as_fd(), &1_u64.to_ne_bytes());
    }

    pub fn hush(&self) {
        let _ = read(self.0.as_fd(), &mut [0; 8]);
    }

    /// What is polled for reading.
    pub fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
