// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for what is confidential: a device's state, and the VMM's own data.
//!
//! Wiped before it is freed, so that what the VMM allocates next does not have it. Large pieces are
//! also kept out of core dumps. Not for keys, which are smaller and have no copies:
//! `stream/auth.rs`.

use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::alloc;
use crate::error::Result;
use crate::sys::{dump, leave_out_of_dumps, wipe};

/// From this many bytes on, memory is kept out of core dumps. It takes two system calls, and pages
/// that differ in this split what the kernel knows of the memory map.
const LARGE: usize = 256 << 10;

/// Bytes.
#[derive(Default)]
pub struct Private {
    bytes: Vec<u8>,
}

impl Private {
    pub(crate) const fn new() -> Private {
        Private { bytes: Vec::new() }
    }

    /// A copy.
    pub(crate) fn copy(from: &[u8], what: &'static str) -> Result<Private> {
        let mut out = Private::new();
        out.refill(from, what)?;
        Ok(out)
    }

    /// Replaces the contents.
    pub(crate) fn refill(&mut self, from: &[u8], what: &'static str) -> Result<()> {
        self.bytes.clear();
        if self.bytes.capacity() < from.len() {
            *self = Private::with_capacity(from.len(), what)?;
        }
        self.bytes.extend_from_slice(from);
        Ok(())
    }

    /// Appends `more` zeros.
    pub(crate) fn lengthen(&mut self, more: usize, what: &'static str) -> Result<()> {
        let len = self.bytes.len() + more;
        if self.bytes.capacity() < len {
            // Not realloc(), which frees the old memory as it is.
            let mut longer = Private::with_capacity(len, what)?;
            longer.bytes.extend_from_slice(&self.bytes);
            *self = longer;
        }
        self.bytes.resize(len, 0);
        Ok(())
    }

    /// Makes it this long, to be filled in: what it holds is what was there before, or zeros.
    pub(crate) fn set_len(&mut self, len: usize, what: &'static str) -> Result<()> {
        if self.bytes.capacity() < len {
            *self = Private::with_capacity(len, what)?;
        }
        self.bytes.resize(len, 0);
        Ok(())
    }

    fn with_capacity(len: usize, what: &'static str) -> Result<Private> {
        let mut bytes = Vec::new();
        alloc::reserve(&mut bytes, len, what)?;
        if bytes.capacity() >= LARGE {
            leave_out_of_dumps(&mut bytes);
        }
        Ok(Private { bytes })
    }

    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        wipe(&mut self.bytes);
        if self.bytes.capacity() >= LARGE {
            dump(&mut self.bytes);
        }
    }
}

impl Deref for Private {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Private {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl fmt::Debug for Private {
    /// Not the bytes: this may end up in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_survive_growth_and_are_not_printed() {
        let mut bytes = Private::copy(b"secret", "").unwrap();
        bytes.lengthen(LARGE, "").unwrap();
        assert_eq!(bytes[..7], *b"secret\0");
        assert_eq!(bytes.len(), LARGE + 6);
        bytes.refill(b"other", "").unwrap();
        assert_eq!(bytes[..], *b"other");
        assert_eq!(format!("{bytes:?}"), "5 bytes");
        assert!(bytes.capacity() >= LARGE);
    }
}
