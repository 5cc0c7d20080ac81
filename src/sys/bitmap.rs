// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for bitmaps that the kernel writes into.
//!
//! The kernel pins the pages of a bitmap while it reports, and if it cannot, bits are lost without
//! an error (docs/kernel-interface.md). So the library reports into memory of its own, which is
//! present from the start, kept present, not shared with a child after fork(), and followed by a
//! page that nobody uses.
//!
//! The kernel may set more bits than it was asked for: an entry of a page table, or the pages that
//! a device notes at once, may reach beyond the end of the range, and its bits are set up to the
//! end of the pinned pages. A slice of words cannot promise that this memory is nobody else's. So
//! the kernel, and a callback that may do as the kernel does, is given a [`Bitmap`].

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::{Errno, Process, Span, page_size};

/// Zeroed words in pages of their own, from which bitmaps are lent.
pub struct BitmapBuffer {
    start: NonNull<u64>,
    len: usize,
    mapped: usize,
    /// How many words a page has.
    page: usize,
    /// From this word up to `reach`, something may have been set after the end of a bitmap.
    clean: usize,
    reach: usize,
    /// In a child, that address is unmapped, or holds something else.
    owner: Process,
}

// SAFETY: the memory belongs to this value alone.
unsafe impl Send for BitmapBuffer {}

/// How much stays unused after the words, in bytes: at least a page on every machine.
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
        let (owner, page) = (Process::this(), page_size() as usize / size_of::<u64>());
        let mut words = BitmapBuffer { start, len, mapped, page, clean: 0, reach: 0, owner };
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

    /// Lends the first words to whoever fills in the bitmap of a span. `EINVAL` if there are too
    /// few, or the span is empty or wraps. The words are as they were left, except that what was set
    /// after the end of an earlier, shorter bitmap is cleared.
    pub fn bitmap(&mut self, span: Span) -> Result<Bitmap<'_>, Errno> {
        let words = span.words().filter(|words| *words <= self.len_here());
        let words = words.ok_or(Errno(libc::EINVAL))?;
        self.wipe_behind(words);
        Ok(Bitmap { start: self.start, words, span, buffer: PhantomData })
    }

    /// Clears what was set after the end of earlier bitmaps, as far as the next one goes.
    fn wipe_behind(&mut self, next: usize) {
        if next > self.clean {
            let stale = self.clean..next.min(self.reach);
            self.get_mut(stale).unwrap_or_default().fill(0);
        }
        self.clean = next;
        self.reach = self.reach.max(next.next_multiple_of(self.page));
    }

    /// The memory that it takes, in bytes.
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
            // SAFETY: mapped by `new` with this length; nothing borrows it now.
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

/// A bitmap that the kernel, or a callback in its place, may write into: words with the lowest bit
/// first, which have a bit for each page of a span.
///
/// The words begin at a page. What follows them to the end of their last page, and one more page,
/// is nobody else's as long as this lives. Only a [`BitmapBuffer`] lends a bitmap; a slice is not
/// one:
///
/// ```compile_fail,E0308
/// # use vfiomig::transport::DmaLog;
/// # fn report(mut log: Box<dyn DmaLog>) {
/// log.report(&mut [0u64; 1]);
/// # }
/// ```
///
/// ```
/// # use vfiomig::transport::{BitmapBuffer, DmaLog, PageSize, Span};
/// # fn report(mut log: Box<dyn DmaLog>) -> Result<(), vfiomig::error::Errno> {
/// let page = PageSize::new(4096).unwrap();
/// let mut buffer = BitmapBuffer::new(1)?;
/// log.report(&mut buffer.bitmap(Span { start: 1 << 20, length: 64 * 4096, page })?)?;
/// # Ok(())
/// # }
/// ```
pub struct Bitmap<'a> {
    start: NonNull<u64>,
    words: usize,
    span: Span,
    buffer: PhantomData<&'a mut BitmapBuffer>,
}

impl Bitmap<'_> {
    /// The addresses that it covers, and its page size.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The bitmap of its first pages, up to a length in bytes. `EINVAL` if that is 0, or more than
    /// there is. Whatever is set after them ends up in the other words.
    pub fn first(&mut self, length: u64) -> Result<Bitmap<'_>, Errno> {
        let span = Span { length, ..self.span };
        let words = span.words().filter(|_| length <= self.span.length);
        let words = words.ok_or(Errno(libc::EINVAL))?;
        Ok(Bitmap { start: self.start, words, span, buffer: PhantomData })
    }

    /// Its address, for the kernel. `EINVAL` if the span is not in whole pages: each driver would
    /// treat the rest differently.
    pub(crate) fn address(&mut self) -> Result<u64, Errno> {
        let Span { start, length, page } = self.span;
        if !page.divides(start | length) {
            return Err(Errno(libc::EINVAL));
        }
        Ok(self.start.as_ptr().expose_provenance() as u64)
    }
}

impl Deref for Bitmap<'_> {
    type Target = [u64];
    fn deref(&self) -> &[u64] {
        // SAFETY: `BitmapBuffer::bitmap` found as many words, which are mapped and initialised. The
        // buffer is borrowed for as long as this lives, and the words with `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl DerefMut for Bitmap<'_> {
    fn deref_mut(&mut self) -> &mut [u64] {
        // SAFETY: as above, exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.words) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::PageSize;
    use std::ops::Range;
    use std::ptr::with_exposed_provenance_mut;

    const PAGE: u64 = 4096;

    fn span(start: u64, length: u64) -> Span {
        Span { start, length, page: PageSize::new(PAGE).unwrap() }
    }

    /// Plays the kernel: sets bits in the pages that a bitmap is in.
    fn set(bitmap: &mut Bitmap<'_>, bits: Range<usize>) {
        let start = with_exposed_provenance_mut::<u64>(bitmap.address().unwrap() as usize);
        for bit in bits {
            // SAFETY: the callers stay within the pages that the bitmap is in.
            unsafe { *start.add(bit / 64) |= 1 << (bit % 64) };
        }
    }

    #[test]
    fn a_buffer_lends_no_more_than_it_has_and_nothing_of_no_span() {
        let mut buffer = BitmapBuffer::new(2).unwrap();
        let mut words = |start, length| buffer.bitmap(span(start, length)).map(|it| it.len());
        let no = Err(Errno(libc::EINVAL));
        assert_eq!(words(PAGE, 128 * PAGE), Ok(2));
        assert_eq!(words(0u64.wrapping_sub(64 * PAGE), 64 * PAGE), Ok(1));
        assert_eq!(words(0, 64 * PAGE + 1), Ok(2));
        assert_eq!(words(0, 129 * PAGE), no);
        assert_eq!(words(0, 128 * PAGE + 1), no);
        assert_eq!(words(0, u64::MAX), no);
        assert_eq!(words(0, 0), no);
        assert_eq!(words(0u64.wrapping_sub(PAGE), 2 * PAGE), no);
    }

    #[test]
    fn a_part_of_a_bitmap_is_no_longer_than_the_whole() {
        let mut buffer = BitmapBuffer::new(2).unwrap();
        let mut whole = buffer.bitmap(span(PAGE, 100 * PAGE)).unwrap();
        whole.first(PAGE).unwrap()[0] = 5;
        assert_eq!(whole.first(64 * PAGE).unwrap()[..], [5]);
        assert_eq!(whole.first(65 * PAGE).unwrap().span(), span(PAGE, 65 * PAGE));
        for length in [0, 101 * PAGE, u64::MAX] {
            assert!(whole.first(length).is_err(), "{length}");
        }
        assert_eq!(whole[..], [5, 0]);
    }

    #[test]
    fn the_kernel_gets_whole_pages_only() {
        let mut buffer = BitmapBuffer::new(2).unwrap();
        for (start, length, whole) in
            [(PAGE, PAGE, true), (1, PAGE, false), (PAGE, PAGE + 1, false), (PAGE, 1, false)]
        {
            let mut bitmap = buffer.bitmap(span(start, length)).unwrap();
            assert_eq!(bitmap.address().is_ok(), whole, "{start:#x}, {length:#x}");
        }
    }

    #[test]
    fn what_the_kernel_sets_behind_the_range_stays_in_the_buffer_and_is_gone_the_next_time() {
        let in_a_page = page_size() as usize * 8;
        for words in [1, 7, in_a_page / 64 - 1, in_a_page / 64, in_a_page / 64 + 1] {
            let (before, mut buffer) = (BitmapBuffer::new(1).unwrap(), BitmapBuffer::new(words));
            let (buffer, after) = (buffer.as_mut().unwrap(), BitmapBuffer::new(1).unwrap());
            let mut bitmap = buffer.bitmap(span(0, PAGE)).unwrap();
            // An entry of 1 GiB at the range's only page sets bits to the end of the bitmap's page.
            set(&mut bitmap, 0..in_a_page);
            assert_eq!(bitmap[..], [u64::MAX]);
            bitmap.fill(0);
            let part = buffer.bitmap(span(0, words.div_ceil(2) as u64 * 64 * PAGE)).unwrap();
            assert!(part.iter().all(|word| *word == 0), "{words}");
            let whole = buffer.bitmap(span(0, words as u64 * 64 * PAGE)).unwrap();
            assert!(whole.iter().all(|word| *word == 0), "{words}");
            assert_eq!((before[0], after[0]), (0, 0));
        }
    }

    #[test]
    fn what_was_set_behind_a_longer_bitmap_is_not_forgotten_over_a_shorter_one() {
        let in_a_page = page_size() * 8;
        let mut buffer = BitmapBuffer::new(in_a_page as usize / 64 * 2).unwrap();
        let mut long = buffer.bitmap(span(0, (in_a_page + 1) * PAGE)).unwrap();
        set(&mut long, 0..in_a_page as usize * 2);
        long.fill(0);
        buffer.bitmap(span(0, PAGE)).unwrap();
        let whole = buffer.bitmap(span(0, in_a_page * 2 * PAGE)).unwrap();
        assert!(whole.iter().all(|word| *word == 0));
    }

    #[test]
    fn what_is_set_behind_a_part_stays_in_the_whole() {
        let mut buffer = BitmapBuffer::new(1).unwrap();
        let mut bitmap = buffer.bitmap(span(0, 64 * PAGE)).unwrap();
        set(&mut bitmap.first(PAGE).unwrap(), 0..65);
        assert_eq!(bitmap[..], [u64::MAX]);
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
        // In an emulator, it has.
        if std::env::var_os("EMULATOR").is_some_and(|words| !words.is_empty()) {
            return;
        }
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
