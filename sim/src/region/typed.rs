// SPDX-License-Identifier: MIT OR Apache-2.0
//! What regions of all protocols have in common.

/// The first number that no region of PCI has.
pub(super) const FIRST: u32 = 9;
pub(super) const PAGE: u64 = 4096;

/// A region that has a type.
pub(super) struct Typed {
    pub kind: u32,
    pub subtype: u32,
    pub size: u64,
}

/// Whether a driver that takes words only takes this access.
pub(super) fn is_word(at: u64, len: usize) -> bool {
    matches!(len, 1 | 2 | 4 | 8) && at % len as u64 == 0
}

/// A register's value, as it lies in memory: 4 or 8 bytes. Returns how many.
pub fn put_register(buf: &mut [u8], value: u64) -> Result<usize, i32> {
    match buf.len() {
        4 => buf.copy_from_slice(&(value as u32).to_ne_bytes()),
        8 => buf.copy_from_slice(&value.to_ne_bytes()),
        _ => return Err(libc::EINVAL),
    }
    Ok(buf.len())
}
