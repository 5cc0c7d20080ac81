// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading, writing and waiting with file descriptors.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::Errno;
use super::retry::{once, retry};

/// The most that one read or write of device state transfers, so that a length never exceeds what
/// the kernel takes at once (`MAX_RW_COUNT`, about 2 GiB).
const MAX_TRANSFER: usize = 1 << 30;

/// What to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Until it can be read.
    Read,
    /// Until it can be written.
    Write,
}

/// read(2), once.
pub(crate) fn read(fd: BorrowedFd<'_>, buf: &mut [u8]) -> Result<usize, Errno> {
    let len = buf.len().min(MAX_TRANSFER);
    // SAFETY: `buf` is valid for writes of `len` bytes.
    once(unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), len) })
}

/// write(2), once.
pub(crate) fn write(fd: BorrowedFd<'_>, buf: &[u8]) -> Result<usize, Errno> {
    let len = buf.len().min(MAX_TRANSFER);
    // SAFETY: `buf` is valid for reads of `len` bytes.
    once(unsafe { libc::write(fd.as_raw_fd(), buf.as_ptr().cast(), len) })
}

/// pread(2), repeated while signals interrupt it.
pub(crate) fn pread(fd: BorrowedFd<'_>, buf: &mut [u8], at: u64) -> Result<usize, Errno> {
    let at = i64::try_from(at).map_err(|_| Errno(libc::EINVAL))?;
    let (to, len) = (buf.as_mut_ptr(), buf.len());
    // SAFETY: `to` and `len` are those of `buf`, which is valid for writes.
    retry(|| unsafe { libc::pread64(fd.as_raw_fd(), to.cast(), len, at) })
}

/// pwrite(2), repeated while signals interrupt it.
pub(crate) fn pwrite(fd: BorrowedFd<'_>, bytes: &[u8], at: u64) -> Result<usize, Errno> {
    let at = i64::try_from(at).map_err(|_| Errno(libc::EINVAL))?;
    let (from, len) = (bytes.as_ptr(), bytes.len());
    // SAFETY: `from` and `len` are those of `bytes`, which is valid for reads.
    retry(|| unsafe { libc::pwrite64(fd.as_raw_fd(), from.cast(), len, at) })
}

/// From now on, reads and writes return `EAGAIN` instead of blocking.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: F_GETFL touches no memory.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(Errno::last());
    }
    // SAFETY: F_SETFL takes a number.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(Errno::last());
    }
    Ok(())
}

/// Waits until the fd is ready, or the time is up. May return early.
pub(crate) fn wait(fd: BorrowedFd<'_>, direction: Direction, timeout: Duration) {
    let events = match direction {
        Direction::Read => libc::POLLIN,
        Direction::Write => libc::POLLOUT,
    };
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    let ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the pointer and the number describe `entry`. The result does not matter: the caller
    // tries again either way.
    unsafe { libc::poll(&raw mut entry, 1, ms) };
    if entry.revents != 0 {
        // Most drivers have no poll and are "ready" at once: do not spin on them.
        std::thread::sleep(Duration::from_micros(200).min(timeout));
    }
}
