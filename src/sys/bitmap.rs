// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for bitmaps that the kernel writes into.
//!
//! The kernel pins the pages of a bitmap while it reports, and if it cannot, bits are lost without
//! an error (docs/kernel-interface.md). So the library reports into memory of its own, which is
//! present from the start, kept present, not shared with a child after fork(), and followed by a
//! page that nobody uses.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::{Errno, Process};

/// Zeroed words in pages of their own.
pub struct BitmapBuffer {
    start: NonNull<u64>,
    len: usize,
    mapped: usize,
    /// In a child there is nothing at that address, or something else.
    owner: Process,
}

// SAFETY: the memory belongs to this value alone.
unsafe impl Send for BitmapBuffer {}

/// What stays unused after the words, in bytes: at least a page on every machine.
const MARGIN: usize = 64 << 10;

impl BitmapBuffer {
    /// Room for `len` words.
    pub fn new(len: usize) -> Result<BitmapBuffer, Errno> {
        let bytes = len.max(1).checked_mul(8).and_then(|n| n.checked_next_multiple_of(MARGIN));
        let mapped = bytes.and_then(|n| n.checked_add(MARGIN)).filter(|n| *n < isize::MAX as usize);
        let mapped = mapped.ok_or(Errno(libc::ENOMEM))?;
        // SAFETY: a new private mapping; nothing that exists is touched.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        let start = NonNull::new(at.cast::<u64>()).filter(|_| at != libc::MAP_FAILED);
        let start = start.ok_or_else(Errno::last)?;
        let mut words = BitmapBuffer { start, len, mapped, owner: Process::this() };
        // SAFETY: the mapping is ours. Both calls help, but neither has to succeed: without the
        // lock pages can be swapped out, and are brought back when they are pinned.
        unsafe {
            libc::madvise(at, mapped, libc::MADV_DONTFORK);
            libc::mlock(at, mapped);
        }
        // MAP_POPULATE does not fail if memory is short, but writing would.
        words.fill(0);
        Ok(words)
    }

    /// The bytes it takes.
    pub fn footprint(&self) -> usize {
        self.mapped
    }

    /// How many words there are in this process.
    fn len_here(&self) -> usize {
        if self.owner.is_this() { self.len } else { 0 }
    }

    fn start(&self) -> *mut u64 {
        if self.owner.is_this() { self.start.as_ptr() } else { NonNull::dangling().as_ptr() }
    }
}

impl Drop for BitmapBuffer {
    fn drop(&mut self) {
        if self.owner.is_this() {
            // SAFETY: mapped by `new` with this length; nothing borrows it any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
        }
    }
}

impl Deref for BitmapBuffer {
    type Target = [u64];
    fn deref(&self) -> &[u64] {
        // SAFETY: `len` words are mapped and initialised in the process that owns them, and
        // borrowed with `self`; none in another process.
        unsafe { std::slice::from_raw_parts(self.start(), self.len_here()) }
    }
}

impl DerefMut for BitmapBuffer {
    fn deref_mut(&mut self) -> &mut [u64] {
        // SAFETY: as above, exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len_here()) }
    }
}

/// Refuses a bitmap that has no bit for each page of a range, and pages of which the kernel might
/// think otherwise: iommufd takes a size that is no power of two for a smaller one.
pub(super) fn check_room(bitmap: &[u64], length: u64, page_size: u64) -> Result<(), Errno> {
    let bits = length.checked_div(page_size).filter(|_| page_size.is_power_of_two());
    let room = (bitmap.len() as u64).saturating_mul(64);
    match bits {
        Some(bits) if bits <= room && length % page_size == 0 => Ok(()),
        _ => Err(Errno(libc::EINVAL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitmap_that_is_too_small_is_refused_and_so_are_pages_of_odd_sizes() {
        let (page, no) = (4096, Err(Errno(libc::EINVAL)));
        let words = [0; 2];
        assert_eq!(check_room(&words, 128 * page, page), Ok(()));
        assert_eq!(check_room(&words, page, page), Ok(()));
        assert_eq!(check_room(&words, 129 * page, page), no);
        assert_eq!(check_room(&words, page + 1, page), no);
        assert_eq!(check_room(&words, u64::MAX, 1), no);
        assert_eq!(check_room(&words, page, 0), no);
        assert_eq!(check_room(&words, 6 * page, 3 * page), no);
        assert_eq!(check_room(&[], page, page), no);
    }

    #[test]
    fn words_are_zero_and_page_aligned_and_absurd_sizes_are_refused() {
        let mut words = BitmapBuffer::new(1000).unwrap();
        assert_eq!(words.len(), 1000);
        assert!(words.iter().all(|word| *word == 0));
        assert_eq!(words.as_ptr().addr() % 4096, 0);
        words[999] = 7;
        assert_eq!(words[999], 7);
        assert!(words.footprint() >= 8000 + MARGIN);
        for absurd in [usize::MAX, usize::MAX / 8, 1 << 59] {
            assert_eq!(BitmapBuffer::new(absurd).err(), Some(Errno(libc::ENOMEM)));
        }
    }
    #[test]
    #[cfg_attr(miri, ignore)]
    fn a_child_has_no_words_and_keeps_what_it_has_in_their_place() {
        let mut words = BitmapBuffer::new(1000).unwrap();
        words.fill(1);
        let at = words.as_mut_ptr();
        // SAFETY: the child touches only its own memory, and ends without unwinding. It maps only
        // where nothing is mapped.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let none = words.is_empty();
            // SAFETY: as above.
            unsafe {
                let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_FIXED_NOREPLACE);
                let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                let mine = libc::mmap(at.cast(), MARGIN, prot, flags, -1, 0).cast::<u64>();
                let mapped = mine == at;
                drop(words);
                // It is no longer there: SIGSEGV.
                at.write_volatile(7);
                libc::_exit(i32::from(!(none && mapped && at.read_volatile() == 7)));
            }
        }
        let mut status = -1;
        // SAFETY: waits for the child; `status` is valid for writes.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        assert!(words.iter().all(|word| *word == 1));
    }
}
