// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a bitmap covers: a range of addresses, and how many of them each bit stands for.

use std::fmt;
use std::ops::RangeInclusive;

/// A power of two, in bytes: what one bit stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct PageSize(u32);

impl PageSize {
    /// A page of `bytes` bytes, if that is a power of two.
    pub const fn new(bytes: u64) -> Option<PageSize> {
        if bytes.is_power_of_two() { Some(PageSize(bytes.trailing_zeros())) } else { None }
    }

    pub(crate) const GIB: PageSize = PageSize(30);

    /// Its size.
    pub fn bytes(self) -> u64 {
        1 << self.0
    }

    pub(crate) fn shift(self) -> u32 {
        self.0
    }

    /// The number of the page that an address is in.
    pub(crate) fn of(self, address: u64) -> u64 {
        address >> self.0
    }

    pub(crate) fn divides(self, n: u64) -> bool {
        n & (self.bytes() - 1) == 0
    }
}

/// The addresses that a bitmap covers. Bit 0 is the page at `start`; `start` and `length` are
/// multiples of the page size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The first address.
    pub start: u64,
    /// Length in bytes, not 0.
    pub length: u64,
    /// What a bit stands for.
    pub page: PageSize,
}

impl Span {
    /// The span from a first address to a last one.
    pub(crate) fn of(range: &RangeInclusive<u64>, page: PageSize) -> Span {
        Span { start: *range.start(), length: range.end() - range.start() + 1, page }
    }

    pub(crate) fn bits(self) -> u64 {
        self.length >> self.page.shift()
    }

    pub(crate) fn last(self) -> u64 {
        self.start + (self.length - 1)
    }

    pub(crate) fn range(self) -> RangeInclusive<u64> {
        self.start..=self.last()
    }

    /// How many words it takes to have a bit for each page that has a byte of the span. None if the
    /// span is empty or wraps.
    pub(crate) fn words(self) -> Option<usize> {
        let last = self.length.checked_sub(1)?;
        self.start.checked_add(last)?;
        usize::try_from(self.page.of(last) / 64 + 1).ok()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}, {:#x} bytes", self.start, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_a_word_for_each_64_pages_and_none_where_it_cannot_be() {
        let page = PageSize::new(4096).unwrap();
        let words = |start, length| Span { start, length, page }.words();
        assert_eq!(words(0, 64 * 4096), Some(1));
        assert_eq!(words(0, 64 * 4096 + 1), Some(2));
        assert_eq!(words(4096, 0u64.wrapping_sub(4096)), Some(1 << 46));
        assert_eq!(words(4096, 0u64.wrapping_sub(4095)), None);
        assert_eq!(words(4096, 0), None);
    }
}
