// SPDX-License-Identifier: MIT OR Apache-2.0
//! Delivery of dirty pages into a bitmap that a caller brings.

use std::ops::RangeInclusive;

use crate::dirty::bitmap::{self, PageSize, Span, words_for};
use crate::dirty::map::{MAX_MAPPED, check_range};
use crate::error::{Result, err};

/// A caller's bitmap. Its page size may differ from that of the tracking.
pub(in crate::dirty) struct CallerBitmap<'a> {
    words: &'a mut [u64],
    span: Span,
    /// The page size of the tracking.
    page: PageSize,
}

impl<'a> CallerBitmap<'a> {
    /// Checks the page size, the range and the length of `words`.
    pub fn new(
        span: Span,
        words: &'a mut [u64],
        tracking_page: PageSize,
    ) -> Result<CallerBitmap<'a>> {
        let Span { start, length, page } = span;
        if !(512..=1 << 40).contains(&page.bytes()) {
            let size = page.bytes();
            return Err(err!(Inval, "the bitmap's pages must have at least 512 bytes, not {size}"));
        }
        check_range("a range", start, length, page)?;
        if length > MAX_MAPPED {
            return Err(err!(Inval, "a range of {length:#x} bytes is more than can be mapped"));
        }
        if words.len() < words_for(span.bits()) {
            return Err(err!(
                NoSpace,
                "the bitmap has {} words; {} pages take {}",
                words.len(),
                span.bits(),
                words_for(span.bits())
            ));
        }
        Ok(CallerBitmap { words, span, page: tracking_page })
    }

    /// The addresses that this bitmap covers.
    pub fn range(&self) -> RangeInclusive<u64> {
        self.span.range()
    }

    /// Adds `bits` pages of the tracking; bit 0 is the page at `first`.
    pub fn add(&mut self, first: u64, words: &[u64], bits: u64) {
        let of = Span { start: first, length: bits << self.page.shift(), page: self.page };
        bitmap::add_span(self.words, self.span, words, of);
    }

    /// Adds every page that shares a byte with a range, which must overlap this bitmap's.
    pub fn add_range(&mut self, range: &RangeInclusive<u64>) {
        self.span.set(self.words, range);
    }

    /// Collects the numbers of dirty pages of the tracking that this bitmap's range covers only
    /// partly.
    pub fn add_cut(&self, first: u64, words: &[u64], bits: u64, cut: &mut Vec<u64>) {
        let (page, mask) = (self.page, self.page.bytes() - 1);
        let (start, last) = (self.span.start, self.span.last());
        for (address, is_cut) in [(start, start & mask != 0), (last, last & mask != mask)] {
            let bit = page.of(address).wrapping_sub(page.of(first));
            let word = words.get((bit / 64) as usize).copied().unwrap_or(0);
            if is_cut && bit < bits && word >> (bit % 64) & 1 == 1 {
                cut.push(page.of(address));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::fake::{PAGE, page};
    use crate::error::Code;

    fn span(start: u64, length: u64, page_size: u64) -> Span {
        Span { start, length, page: PageSize::new(page_size).unwrap() }
    }

    #[test]
    fn a_bitmap_that_is_too_small_or_cannot_be_is_refused() {
        for (start, length, size, words, code) in [
            (0, 65 * PAGE, PAGE, 1, Code::NoSpace),
            (0, PAGE, 256, 1, Code::Inval),
            (512, PAGE, PAGE, 1, Code::Inval),
            (0, 0, PAGE, 1, Code::Inval),
            (0, 2 * MAX_MAPPED, 1 << 40, 8, Code::Inval),
        ] {
            let mut words = vec![0; words];
            let bitmap = CallerBitmap::new(span(start, length, size), &mut words, page());
            assert_eq!(bitmap.err().unwrap().code(), code);
        }
    }

    #[test]
    fn pages_that_are_cut_are_found_at_both_ends() {
        let mut words = [0; 1];
        let (iova, length) = (3 * PAGE + 512, 4 * PAGE);
        let mut bitmap = CallerBitmap::new(span(iova, length, 512), &mut words, page()).unwrap();
        let mut cut = Vec::new();
        bitmap.add_cut(0, &[0b0011_1111], 6, &mut cut);
        bitmap.add_cut(6 * PAGE, &[0b11], 2, &mut cut);
        assert_eq!(cut, [3, 7]);
        bitmap.add(3 * PAGE, &[0b10001], 5);
        bitmap.add_range(&(iova + 10 * 512 + 5..=iova + 11 * 512));
        assert_eq!(words, [0x7f | 0b11 << 10 | 1 << 31]);
    }

    #[test]
    fn whole_pages_are_not_cut() {
        let (mut words, mut cut) = ([0; 1], Vec::new());
        let bitmap = CallerBitmap::new(span(PAGE, 2 * PAGE, 512), &mut words, page()).unwrap();
        bitmap.add_cut(0, &[u64::MAX], 64, &mut cut);
        assert!(cut.is_empty());
    }
}
