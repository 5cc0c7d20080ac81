// SPDX-License-Identifier: MIT OR Apache-2.0
//! Converts the plain arguments of C functions: memory with a length, places for results, strings,
//! file descriptors.
//!
//! All functions require the same of pointers, and `vfiomig.h` says once, at its head, what that
//! is. Each function here relies on a part of it, and says which.

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use crate::alloc;
use crate::error::{Result, err};

fn checked(pointer: *const c_void, len: usize, what: &str) -> Result<()> {
    if pointer.is_null() {
        return Err(err!(Fault, "{what} is NULL"));
    }
    if len > isize::MAX as usize {
        return Err(err!(Inval, "{what} cannot have {len} bytes"));
    }
    Ok(())
}

/// Memory that is read.
///
/// # Safety
/// NULL, or `len` bytes that can be read and that nobody changes during the call.
pub(super) unsafe fn bytes<'a>(from: *const c_void, len: usize, what: &str) -> Result<&'a [u8]> {
    checked(from, len, what)?;
    // SAFETY: not NULL; the caller promised `len` readable bytes that nobody changes.
    Ok(unsafe { std::slice::from_raw_parts(from.cast(), len) })
}

/// The same, but NULL stands for no bytes.
///
/// # Safety
/// As [`bytes`].
pub(super) unsafe fn bytes_if_any<'a>(
    from: *const c_void,
    len: usize,
    what: &str,
) -> Result<&'a [u8]> {
    if from.is_null() && len == 0 {
        return Ok(&[]);
    }
    // SAFETY: the caller made the same promise.
    unsafe { bytes(from, len, what) }
}

/// Memory to be written to. Its bytes may be uninitialised: whoever gets it does not read them.
///
/// # Safety
/// NULL, or `len` bytes that can be written to and that nobody else uses during the call.
pub(super) unsafe fn bytes_mut<'a>(
    to: *mut c_void,
    len: usize,
    what: &str,
) -> Result<&'a mut [u8]> {
    checked(to, len, what)?;
    // SAFETY: not NULL; the caller promised `len` writable bytes that nobody else uses.
    Ok(unsafe { std::slice::from_raw_parts_mut(to.cast(), len) })
}

/// A bitmap that bits are added to.
///
/// # Safety
/// NULL, or `num_words` words that can be read and written to, and that nobody else uses during the
/// call.
pub(super) unsafe fn bitmap<'a>(words: *mut u64, num_words: usize) -> Result<&'a mut [u64]> {
    if words.is_null() {
        return Err(err!(Fault, "bitmap is NULL"));
    }
    if !words.is_aligned() || num_words > isize::MAX as usize / size_of::<u64>() {
        return Err(err!(Inval, "the bitmap is not aligned, or {num_words} words are too many"));
    }
    // SAFETY: not NULL and aligned; the caller promised `num_words` initialised, writable words
    // that nobody else uses.
    Ok(unsafe { std::slice::from_raw_parts_mut(words, num_words) })
}

/// Where a result goes, if the call succeeds.
pub(super) struct Out<'a, T>(*mut T, PhantomData<&'a mut T>);

impl<T> Out<'_, T> {
    /// # Safety
    /// NULL, or memory for a `T` that can be written to during the whole call.
    pub(super) unsafe fn new(to: *mut T, what: &str) -> Result<Self> {
        if to.is_null() {
            return Err(err!(Fault, "{what} is NULL"));
        }
        Ok(Out(to, PhantomData))
    }

    pub(super) fn write(self, value: T) {
        // SAFETY: `new` has checked that it is not NULL, and the caller promised memory for a `T`.
        unsafe { self.0.write(value) }
    }
}

/// A string of at most `max` bytes; `None` for NULL.
///
/// # Safety
/// NULL, or a NUL-terminated string.
pub(super) unsafe fn text(
    from: *const c_char,
    max: usize,
    no_memory: &'static str,
) -> Result<Option<String>> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL; the caller promised a NUL at the end.
    let bytes = unsafe { CStr::from_ptr(from) }.to_bytes();
    alloc::text_of_bytes(bytes, max, no_memory).map(Some)
}

/// The longest path of a device, in bytes.
const MAX_PATH: usize = 2000;

/// A path; `None` for NULL.
///
/// # Safety
/// NULL, or a NUL-terminated string.
pub(super) unsafe fn path(from: *const c_char) -> Result<Option<PathBuf>> {
    use std::os::unix::ffi::OsStringExt;
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL; the caller promised a NUL at the end.
    let bytes = unsafe { CStr::from_ptr(from) }.to_bytes();
    // Names are appended to it, and that must not need more memory than the reserve has.
    if bytes.len() > MAX_PATH {
        return Err(err!(Inval, "the path has {} bytes; the most is {MAX_PATH}", bytes.len()));
    }
    let bytes = alloc::copy(bytes, "no memory for a path")?;
    Ok(Some(std::ffi::OsString::from_vec(bytes).into()))
}

/// An fd that the VMM lends for as long as an object lives.
pub(super) struct BorrowedRawFd(i32);

impl BorrowedRawFd {
    /// # Safety
    /// The VMM keeps the fd open while this lives. (With a number that is not an open fd, system
    /// calls fail, and nothing else happens.)
    pub(super) unsafe fn new(fd: i32) -> BorrowedRawFd {
        BorrowedRawFd(fd)
    }
}

impl AsFd for BorrowedRawFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `new` got this promise. It is not -1: that was refused before.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

/// An fd that the VMM keeps open during a call.
pub(super) struct CallersFd(BorrowedRawFd);

impl CallersFd {
    /// # Safety
    /// The VMM keeps the fd open while this lives.
    pub(super) unsafe fn new(fd: i32) -> Result<CallersFd> {
        match fd {
            // SAFETY: the caller made the same promise.
            0.. => Ok(CallersFd(unsafe { BorrowedRawFd::new(fd) })),
            _ => Err(err!(Inval, "{fd} is not a file descriptor")),
        }
    }

    pub(super) fn get(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Where relative paths begin.
pub(super) struct DirectoryFd(Option<CallersFd>);

impl DirectoryFd {
    /// # Safety
    /// `AT_FDCWD`, or an fd that the VMM keeps open while this lives.
    pub(super) unsafe fn new(fd: i32) -> Result<DirectoryFd> {
        match fd {
            libc::AT_FDCWD => Ok(DirectoryFd(None)),
            // SAFETY: the caller made the same promise.
            fd => unsafe { CallersFd::new(fd) }.map(|fd| DirectoryFd(Some(fd))),
        }
    }

    pub(super) fn get(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(CallersFd::get)
    }
}

/// A text.
///
/// # Safety
/// NULL, or a NUL-terminated string that nobody changes during the call.
pub(super) unsafe fn c_text<'a>(from: *const c_char, what: &str) -> Result<&'a CStr> {
    if from.is_null() {
        return Err(err!(Fault, "{what} is NULL"));
    }
    // SAFETY: not NULL; the caller promised a NUL at the end.
    Ok(unsafe { CStr::from_ptr(from) })
}
