// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one system call for which there is no safe function in the standard library.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Takes `O_NONBLOCK` from a file that was opened with it.
pub fn set_blocking(file: &File) -> io::Result<()> {
    let fd = file.as_raw_fd();
    // SAFETY: F_GETFL and F_SETFL touch no memory of ours, and the file is open.
    let done = unsafe {
        match libc::fcntl(fd, libc::F_GETFL) {
            flags if flags < 0 => flags,
            flags => libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK),
        }
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
