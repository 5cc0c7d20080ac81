// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that are written under another name first: directories, locks, names, and what makes them
//! last.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::Errno;
use super::quiet::Quiet;
use super::retry::retry;

fn done(result: Result<usize, Errno>) -> Result<(), Errno> {
    result.map(drop)
}

fn open(directory: i32, path: &CStr, flags: i32) -> Result<OwnedFd, Errno> {
    let flags = flags | libc::O_CLOEXEC;
    // SAFETY: `path` ends with a NUL and lives for the call; the mode is for O_CREAT.
    let fd = retry(|| unsafe { libc::openat(directory, path.as_ptr(), flags, 0o600) as isize })?;
    // SAFETY: the kernel has just opened it, for nobody else. It fits: it came as an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn at(directory: Option<BorrowedFd<'_>>) -> i32 {
    directory.map_or(libc::AT_FDCWD, |fd| fd.as_raw_fd())
}

/// A directory whose entries are to be changed. Without `from`, relative paths begin where the
/// process is.
pub(crate) fn open_directory(from: Option<BorrowedFd<'_>>, path: &CStr) -> Result<OwnedFd, Errno> {
    open(at(from), path, libc::O_RDONLY | libc::O_DIRECTORY)
}

/// A new file, which only its owner may read and write. `EEXIST` if the name is taken, whatever by.
pub(crate) fn create_new(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    open(
        directory.as_raw_fd(),
        name,
        libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW,
    )
}

/// A file that is there. Does not wait for anything, and follows no symbolic link at the end of the
/// path.
pub(crate) fn open_existing(
    from: Option<BorrowedFd<'_>>,
    path: &CStr,
    writable: bool,
) -> Result<OwnedFd, Errno> {
    let access = if writable { libc::O_RDWR } else { libc::O_RDONLY };
    open(at(from), path, access | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW)
}

/// Locks a file for this open description, until it is closed. `EWOULDBLOCK` if it is locked.
pub(crate) fn lock(file: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    done(retry(|| unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) as isize }))
}

/// What a name stands for: the device and the inode, and whether that is a regular file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Node {
    pub device: u64,
    pub inode: u64,
    pub regular: bool,
    pub len: u64,
    /// When its contents were last changed, in seconds and nanoseconds.
    pub changed: (i64, i64),
}

fn node(call: impl Fn(*mut libc::stat64) -> i32) -> Result<Node, Errno> {
    // SAFETY: all zeros is a value of this structure of numbers.
    let mut stat: libc::stat64 = unsafe { std::mem::zeroed() };
    retry(|| call(&raw mut stat) as isize)?;
    // The types differ from one machine to the next.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    Ok(Node {
        device: stat.st_dev as u64,
        inode: stat.st_ino as u64,
        regular: stat.st_mode & libc::S_IFMT == libc::S_IFREG,
        len: u64::try_from(stat.st_size).unwrap_or(0),
        changed: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
    })
}

/// What a name in a directory stands for. A symbolic link is one.
pub(crate) fn look_at(directory: BorrowedFd<'_>, name: &CStr) -> Result<Node, Errno> {
    let (fd, flags) = (directory.as_raw_fd(), libc::AT_SYMLINK_NOFOLLOW);
    // SAFETY: `name` ends with a NUL, and the structure is there for the call.
    node(|stat| unsafe { libc::fstatat64(fd, name.as_ptr(), stat, flags) })
}

/// What an open file is.
pub(crate) fn look_into(file: BorrowedFd<'_>) -> Result<Node, Errno> {
    // SAFETY: the structure is there for the call.
    node(|stat| unsafe { libc::fstat64(file.as_raw_fd(), stat) })
}

/// unlinkat(2), of a file.
pub(crate) fn remove(directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    // SAFETY: `name` ends with a NUL.
    done(retry(|| unsafe { libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), 0) as isize }))
}

/// renameat(2), within a directory.
pub(crate) fn rename(directory: BorrowedFd<'_>, from: &CStr, to: &CStr) -> Result<(), Errno> {
    let fd = directory.as_raw_fd();
    // SAFETY: both names end with a NUL.
    done(retry(|| unsafe { libc::renameat(fd, from.as_ptr(), fd, to.as_ptr()) as isize }))
}

/// fsync(2), of a file or a directory. Not repeated if it fails: the kernel reports a failure to
/// write once.
pub(crate) fn make_last(file: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    done(retry(|| unsafe { libc::fsync(file.as_raw_fd()) as isize }))
}

/// Has the file system find room for `len` bytes, without making the file longer.
pub(crate) fn allocate(file: BorrowedFd<'_>, len: u64) -> Result<(), Errno> {
    let len = i64::try_from(len).map_err(|_| Errno(libc::EFBIG))?;
    let (fd, mode) = (file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE);
    let _quiet = Quiet::file();
    // SAFETY: touches no memory.
    done(retry(|| unsafe { libc::fallocate64(fd, mode, 0, len) as isize }))
}

/// ftruncate(2).
pub(crate) fn set_len(file: BorrowedFd<'_>, len: u64) -> Result<(), Errno> {
    let len = i64::try_from(len).map_err(|_| Errno(libc::EFBIG))?;
    let _quiet = Quiet::file();
    // SAFETY: touches no memory.
    done(retry(|| unsafe { libc::ftruncate64(file.as_raw_fd(), len) as isize }))
}

/// pwrite(2), repeated while signals interrupt it. No SIGXFSZ reaches the process.
pub(crate) fn pwrite(file: BorrowedFd<'_>, bytes: &[u8], at: u64) -> Result<usize, Errno> {
    let at = i64::try_from(at).map_err(|_| Errno(libc::EFBIG))?;
    let (from, len) = (bytes.as_ptr(), bytes.len());
    let _quiet = Quiet::file();
    // SAFETY: `from` and `len` are those of `bytes`.
    retry(|| unsafe { libc::pwrite64(file.as_raw_fd(), from.cast(), len, at) })
}
