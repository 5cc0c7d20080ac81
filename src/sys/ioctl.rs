// SPDX-License-Identifier: MIT OR Apache-2.0
//! ioctl(2).

use std::os::fd::{AsRawFd, BorrowedFd};

use super::Errno;
use super::retry::retry;

/// Makes an ioctl, and repeats it while signals interrupt it.
///
/// # Safety For `request`, the kernel may read and write only `arg` and what addresses in it lead
/// to. The latter must be valid for that, and exclusive if the kernel writes to it. Any bits must
/// be a value of `T`.
pub(super) unsafe fn ioctl<T: ?Sized>(
    fd: BorrowedFd<'_>,
    request: u32,
    arg: &mut T,
) -> Result<(), Errno> {
    let arg = std::ptr::from_mut(arg).cast::<libc::c_void>();
    // SAFETY: `arg` is exclusive. That the kernel uses nothing but it and what it leads to, and may
    // do so, is the promise of the caller.
    retry(|| unsafe { libc::ioctl(fd.as_raw_fd(), request as _, arg) as isize }).map(drop)
}

/// Makes an ioctl that has no argument.
///
/// # Safety
/// `request` must be one that touches no memory.
pub(super) unsafe fn ioctl_without_argument(fd: BorrowedFd<'_>, request: u32) -> Result<(), Errno> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the caller promised that the request touches no memory.
    retry(|| unsafe { libc::ioctl(fd.as_raw_fd(), request as _, none) as isize }).map(drop)
}

/// Two `u32`s in a `u64`, as they lie in memory.
pub(super) fn pair(first: u32, second: u32) -> u64 {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}
