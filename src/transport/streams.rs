// SPDX-License-Identifier: MIT OR Apache-2.0
//! The data streams that a device has handed out and that are still open.
//!
//! A [`DataFd`] is a number. Only streams in this list are read, written or closed: anything else
//! with that number does not belong to the library.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use super::{DataFd, PrecopyInfo};
use crate::error::Errno;
use crate::sys::{Process, device, uapi};

/// Streams of one device: at most two, while one replaces another.
pub(super) struct Streams {
    open: Vec<Stream>,
    process: Process,
}

struct Stream {
    number: i32,
    /// The fd with that number, if the library owns it.
    fd: Option<OwnedFd>,
}

impl Streams {
    pub fn new() -> Streams {
        Streams { open: Vec::new(), process: Process::this() }
    }

    /// Adds a stream whose fd belongs to the library from now on.
    pub fn add_fd(&mut self, fd: OwnedFd) {
        let number = fd.as_raw_fd();
        // If a number comes again, somebody has closed the library's fd: the number now belongs to
        // the new stream.
        if let Some(at) = self.open.iter().position(|stream| stream.number == number) {
            let _ = self.open.swap_remove(at).fd.map(IntoRawFd::into_raw_fd);
        }
        self.open.push(Stream { number, fd: Some(fd) });
    }

    /// Adds a stream that is only a number to the library.
    pub fn add_number(&mut self, number: i32) {
        if !self.has(DataFd(number)) {
            self.open.push(Stream { number, fd: None });
        }
    }

    pub fn has(&self, data: DataFd) -> bool {
        self.open.iter().any(|stream| stream.number == data.0)
    }

    /// The stream's fd; `EBADF` if the library has no fd with that number.
    pub fn fd(&self, data: DataFd) -> Result<BorrowedFd<'_>, Errno> {
        let stream = self.open.iter().find(|stream| stream.number == data.0);
        stream.and_then(|stream| stream.fd.as_ref()).map(AsFd::as_fd).ok_or(Errno(libc::EBADF))
    }

    /// `VFIO_MIG_GET_PRECOPY_INFO` of the stream's fd.
    pub fn precopy_info(fd: BorrowedFd<'_>) -> Result<PrecopyInfo, Errno> {
        let info = device::precopy_info(fd)?;
        Ok(PrecopyInfo {
            reinit: info.flags & uapi::PRECOPY_INFO_REINIT != 0,
            initial_bytes: info.initial_bytes,
            dirty_bytes: info.dirty_bytes,
        })
    }

    /// Forgets a stream, and closes its fd if the library owns it. Returns whether it was there.
    pub fn close(&mut self, data: DataFd) -> bool {
        let at = self.open.iter().position(|stream| stream.number == data.0);
        at.map(|at| self.open.swap_remove(at)).is_some()
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        if !self.process.is_this() {
            // A child may have closed what it inherited, and use the number for something else.
            for fd in self.open.drain(..).filter_map(|stream| stream.fd) {
                let _ = fd.into_raw_fd();
            }
        }
    }
}
