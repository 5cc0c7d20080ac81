// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that may not be available: how everything is allocated whose size the library does not
//! choose.
//!
//! Allocations whose size comes from a stream, the kernel, the guest or the VMM go through here and
//! fail with [`Code::NoMem`]. Allocations that are small and of fixed size (a box, a node of a map)
//! are made as usual: the C library's allocator keeps a reserve for those (`sys/reserve.rs`), which
//! nothing that goes through here may use up.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};

use crate::error::{Code, Error, Result};
use crate::sys::{Room, may_fail, reserve_room};
pub(crate) use crate::text::{Text, format};

#[cold]
fn no_memory(what: &'static str) -> Error {
    // A text that needs no memory.
    Error::new(Code::NoMem, what)
}

/// Something that grows.
pub(crate) trait Grow {
    /// Makes room for exactly `more` elements, or for more than that if it grows in steps.
    fn grow(&mut self, more: usize, exactly: bool) -> std::result::Result<(), ()>;
}

impl<T> Grow for Vec<T> {
    fn grow(&mut self, more: usize, exactly: bool) -> std::result::Result<(), ()> {
        if self.capacity() - self.len() >= more {
            return Ok(());
        }
        may_fail(|| match exactly {
            true => self.try_reserve_exact(more),
            false => self.try_reserve(more),
        })
        .map_err(drop)
    }
}

impl<T> Grow for VecDeque<T> {
    fn grow(&mut self, more: usize, exactly: bool) -> std::result::Result<(), ()> {
        if self.capacity() - self.len() >= more {
            return Ok(());
        }
        may_fail(|| match exactly {
            true => self.try_reserve_exact(more),
            false => self.try_reserve(more),
        })
        .map_err(drop)
    }
}

/// Room for `more` elements and no more.
pub(crate) fn reserve(to: &mut impl Grow, more: usize, what: &'static str) -> Result<()> {
    to.grow(more, true).map_err(|()| no_memory(what))
}

/// Room for `more` elements, and for others that may follow.
pub(crate) fn grow(to: &mut impl Grow, more: usize, what: &'static str) -> Result<()> {
    to.grow(more, false).map_err(|()| no_memory(what))
}

/// Appends one element.
pub(crate) fn push<T>(to: &mut Vec<T>, value: T, what: &'static str) -> Result<()> {
    to.grow(1, false).map_err(|()| no_memory(what))?;
    to.push(value);
    Ok(())
}

/// Appends one element.
pub(crate) fn push_back<T>(to: &mut VecDeque<T>, value: T, what: &'static str) -> Result<()> {
    to.grow(1, false).map_err(|()| no_memory(what))?;
    to.push_back(value);
    Ok(())
}

/// A copy.
pub(crate) fn copy<T: Copy>(from: &[T], what: &'static str) -> Result<Vec<T>> {
    let mut out = Vec::new();
    reserve(&mut out, from.len(), what)?;
    out.extend_from_slice(from);
    Ok(out)
}

/// A copy with room for more after it; `None` if there is no memory for it.
pub(crate) fn copy_with_room(from: &[u8], room: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    reserve(&mut out, from.len().checked_add(room)?, "").ok()?;
    out.extend_from_slice(from);
    Some(out)
}

/// `len` copies of the same value.
pub(crate) fn filled<T: Copy>(value: T, len: usize, what: &'static str) -> Result<Vec<T>> {
    let mut out = Vec::new();
    reserve(&mut out, len, what)?;
    out.resize(len, value);
    Ok(out)
}

/// As many as there are.
pub(crate) fn collect<T>(from: impl Iterator<Item = T>, what: &'static str) -> Result<Vec<T>> {
    let mut out = Vec::new();
    for value in from {
        push(&mut out, value, what)?;
    }
    Ok(out)
}

/// More than any small allocation takes, in bytes.
const PROBE: usize = 8 << 10;

/// The sizes of small allocations, in bytes.
const SMALL: [usize; 4] = [64, 256, 1024, 4096];

/// Whether there is memory now: asked before each node of a map or set that the guest or the VMM
/// can make long. A caller that hears "no" stores something coarser instead, or nothing. Malloc may
/// have what is tried here but not the node itself, which then comes from the reserve. So if the
/// reserve has little left, small sizes are tried too, and if it has nothing for this, the answer
/// is "no".
pub(crate) fn has_memory() -> bool {
    match reserve_room() {
        Room::Enough => can_have(&[PROBE]),
        Room::Little => can_have(&[PROBE]) && can_have(&SMALL),
        Room::None => false,
    }
}

/// Whether malloc has pieces of all these sizes at once.
fn can_have(sizes: &[usize]) -> bool {
    let mut probe: Vec<u8> = Vec::new();
    let Some((size, others)) = sizes.split_first() else { return true };
    let found = may_fail(|| probe.try_reserve_exact(*size)).is_ok() && can_have(others);
    // The compiler may remove an allocation that is never used.
    std::hint::black_box(probe.as_ptr());
    found
}

/// An error if there is no memory now.
pub(crate) fn check_memory(what: &'static str) -> Result<()> {
    if has_memory() { Ok(()) } else { Err(no_memory(what)) }
}

/// The error for whatever found no memory, or must not take more.
#[cold]
pub(crate) fn refuse<T>(what: &'static str) -> Result<T> {
    Err(no_memory(what))
}

/// A copy of a text.
pub(crate) fn text(from: &str, what: &'static str) -> Result<String> {
    format(format_args!("{from}")).ok_or_else(|| no_memory(what))
}

/// A copy of the first `longest` bytes of something that may not be valid text.
pub(crate) fn text_of_bytes(from: &[u8], longest: usize, what: &'static str) -> Result<String> {
    let from = from.get(..longest).unwrap_or(from);
    let mut out = Text(String::new());
    let put = |part: &str| out.write_str(part);
    each_text(from, put).map_err(|_| no_memory(what))?;
    Ok(out.0)
}

/// Passes the valid text in some bytes to `put`, with a mark for each piece that is not text.
fn each_text(from: &[u8], mut put: impl FnMut(&str) -> fmt::Result) -> fmt::Result {
    for chunk in from.utf8_chunks() {
        put(chunk.valid())?;
        if !chunk.invalid().is_empty() {
            put("\u{fffd}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_cannot_be_had_are_refused_and_change_nothing() {
        let mut bytes = vec![1u8, 2];
        assert_eq!(reserve(&mut bytes, isize::MAX as usize, "x").unwrap_err().code(), Code::NoMem);
        assert_eq!(bytes, [1, 2]);
        assert_eq!(filled(0u64, usize::MAX / 8, "x").unwrap_err().code(), Code::NoMem);
        push(&mut bytes, 3, "x").unwrap();
        assert_eq!(copy(&bytes, "x").unwrap(), [1, 2, 3]);
        assert_eq!(format(format_args!("{}-{}", 1, "a")).unwrap(), "1-a");
        assert_eq!(text_of_bytes(b"ab\xffcd", 4, "x").unwrap(), "ab\u{fffd}c");
    }
}
