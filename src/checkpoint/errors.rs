// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the system says of a file, as a caller can act on it.

use std::fmt;

use crate::error::{Code, Errno, Error, Failure, Operation};

/// The error for a system call on a file that failed.
#[cold]
pub(super) fn file_error(errno: Errno, what: impl fmt::Display) -> Error {
    let code = match errno.0 {
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Code::NoSpace,
        libc::ENOMEM | libc::EMFILE | libc::ENFILE => Code::NoMem,
        libc::ENOENT
        | libc::ENOTDIR
        | libc::EISDIR
        | libc::ELOOP
        | libc::ENAMETOOLONG
        | libc::EINVAL
        | libc::EBADF
        | libc::ENXIO => Code::Inval,
        libc::EWOULDBLOCK => Code::Busy,
        _ => Code::Io,
    };
    let failure = Failure { operation: Operation::File, errno: errno.0, ..Failure::default() };
    Error::from_args(code, format_args!("{what}: {errno}")).with_failure(failure)
}
