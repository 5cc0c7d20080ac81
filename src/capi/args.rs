// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plain arguments of C functions, made into Rust's: memory with a length, places for results, texts,
//! file descriptors.
//!
//! What a pointer must be is the same for all functions and is said once, at the head of `vfiomig.h`.
//! Each function here relies on a part of that, and says which.

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
/// NULL, or `len` bytes that can be read, and that nobody changes while the call lasts.
pub(super) unsafe fn bytes<'a>(from: *const c_void, len: usize, what: &str) -> Result<&'a [u8]> {
    checked(from, len, what)?;
    // SAFETY: not NULL, and then the caller's promise: `len` bytes, readable and left alone.
    Ok(unsafe { std::slice::from_raw_parts(from.cast(), len) })
}

/// The same, where NULL stands for no bytes.
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
    // SAFETY: the caller's promise is the same.
    unsafe { bytes(from, len, what) }
}

/// Memory that is written to. Its bytes may not be initialised: whoever gets it does not read them.
///
/// # Safety
/// NULL, or `len` bytes that can be written to, and that nobody else uses while the call lasts.
pub(super) unsafe fn bytes_mut<'a>(
    to: *mut c_void,
    len: usize,
    what: &str,
) -> Result<&'a mut [u8]> {
    checked(to, len, what)?;
    // SAFETY: not NULL, and then the caller's promise: `len` bytes, writable and used by nobody else.
    Ok(unsafe { std::slice::from_raw_parts_mut(to.cast(), len) })
}

/// A bitmap that bits are added to.
///
/// # Safety
/// NULL, or `num_words` words that can be read and written to, and that nobody else uses while the
/// call lasts.
pub(super) unsafe fn bitmap<'a>(words: *mut u64, num_words: usize) -> Result<&'a mut [u64]> {
    if words.is_null() {
        return Err(err!(Fault, "bitmap is NULL"));
    }
    if !words.is_aligned() || num_words > isize::MAX as usize / size_of::<u64>() {
        return Err(err!(Inval, "the bitmap is not aligned, or {num_words} words are too many"));
    }
    // SAFETY: not NULL and aligned, and then the caller's promise: `num_words` words that are
    // initialised, writable and used by nobody else.
    Ok(unsafe { std::slice::from_raw_parts_mut(words, num_words) })
}

/// Where a result goes, on success only.
pub(super) struct Out<'a, T>(*mut T, PhantomData<&'a mut T>);

impl<T> Out<'_, T> {
    /// # Safety
    /// NULL, or memory for a `T` that can be written to for as long as the call lasts.
    pub(super) unsafe fn new(to: *mut T, what: &str) -> Result<Self> {
        if to.is_null() {
            return Err(err!(Fault, "{what} is NULL"));
        }
        Ok(Out(to, PhantomData))
    }

    pub(super) fn write(self, value: T) {
        // SAFETY: `new` has checked that it is not NULL, and its caller promised that it is memory for
        // a `T`.
        unsafe { self.0.write(value) }
    }
}

/// A text, of at most `max` bytes; `None` for NULL.
///
/// # Safety
/// NULL, or a text with a NUL at its end.
pub(super) unsafe fn text(
    from: *const c_char,
    max: usize,
    no_memory: &'static str,
) -> Result<Option<String>> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, and then the caller's promise: a NUL is behind it.
    let bytes = unsafe { CStr::from_ptr(from) }.to_bytes();
    alloc::text_of_bytes(bytes, max, no_memory).map(Some)
}

/// The longest path of a device, in bytes.
const MAX_PATH: usize = 2000;

/// A path; `None` for NULL.
///
/// # Safety
/// NULL, or a text with a NUL at its end.
pub(super) unsafe fn path(from: *const c_char) -> Result<Option<PathBuf>> {
    use std::os::unix::ffi::OsStringExt;
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, and then the caller's promise: a NUL is behind it.
    let bytes = unsafe { CStr::from_ptr(from) }.to_bytes();
    // Names are joined to it, which must not need more than the reserve has.
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
    /// The VMM keeps the fd open while this lives. (A number that is no open fd only makes system
    /// calls fail.)
    pub(super) unsafe fn new(fd: i32) -> BorrowedRawFd {
        BorrowedRawFd(fd)
    }
}

impl AsFd for BorrowedRawFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the promise that was made to `new`. It is not -1: that is refused before.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}
