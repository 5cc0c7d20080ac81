// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bitmaps of pages: words with the lowest bit first, as in the kernel's interfaces.
//!
//! Nothing here can lose a bit: between pages of different sizes, ranges are rounded outwards.

use std::ops::{Range, RangeInclusive};

use crate::error::{Error, Result, err};
use crate::sys::BitmapBuffer;
pub use crate::sys::{PageSize, Span};
pub(crate) use crate::sys::{count, drain};

/// Memory for a bitmap of `len` words, all zero.
pub(crate) fn buffer(len: usize) -> Result<BitmapBuffer> {
    BitmapBuffer::new(len)
        .map_err(|errno| err!(NoMem, "no memory for a bitmap of {len} words: {errno}"))
}

/// Should never happen: a bitmap is made for the span that it is used for.
pub(crate) fn no_room(span: Span) -> Error {
    err!(NotRecoverable, "a bitmap has no room for {span}")
}

/// How many words it takes to hold `bits` bits.
pub(crate) fn words_for(bits: u64) -> usize {
    usize::try_from(bits.div_ceil(64)).unwrap_or(usize::MAX)
}

/// The low `n` bits, for `n` up to 64.
fn low(n: u64) -> u64 {
    if n >= 64 { u64::MAX } else { (1 << n) - 1 }
}

/// Sets `n` bits from `first` on.
pub(crate) fn set(words: &mut [u64], first: u64, n: u64) {
    let (mut at, end) = (first, first.saturating_add(n));
    while at < end {
        let Some(word) = words.get_mut((at / 64) as usize) else { return };
        let bit = at % 64;
        let here = (64 - bit).min(end - at);
        *word |= low(here) << bit;
        at += here;
    }
}

/// Clears `n` bits from `first` on.
pub(crate) fn clear(words: &mut [u64], first: u64, n: u64) {
    let (mut at, end) = (first, first.saturating_add(n));
    while at < end {
        let Some(word) = words.get_mut((at / 64) as usize) else { return };
        let bit = at % 64;
        let here = (64 - bit).min(end - at);
        *word &= !(low(here) << bit);
        at += here;
    }
}

/// Clears the bits from `n` on: those that nobody asked for.
pub(crate) fn cut(words: &mut [u64], n: u64) {
    let whole = (n / 64) as usize;
    if let Some(word) = words.get_mut(whole) {
        *word &= low(n % 64);
    }
    if let Some(rest) = words.get_mut(whole.saturating_add(1)..) {
        rest.fill(0);
    }
}

/// Whether a bit is set.
#[cfg(test)]
pub(crate) fn get(words: &[u64], bit: u64) -> bool {
    words.get((bit / 64) as usize).is_some_and(|word| word >> (bit % 64) & 1 == 1)
}

/// Whether any bit is set.
pub(crate) fn has_any(words: &[u64]) -> bool {
    words.chunks(BLOCK).any(|words| words.iter().fold(0, |all, word| all | word) != 0)
}

/// Adds `n` bits of `from`, from `from_bit` on, to `into` from `into_bit` on.
pub(crate) fn or_at(into: &mut [u64], into_bit: u64, from: &[u64], from_bit: u64, n: u64) {
    let mut done = 0;
    if into_bit % 64 == 0 && from_bit % 64 == 0 {
        let into = into.iter_mut().skip((into_bit / 64) as usize);
        let from = from.iter().skip((from_bit / 64) as usize);
        into.zip(from).take((n / 64) as usize).for_each(|(to, word)| *to |= word);
        done = n & !63;
    }
    while done < n {
        let at = from_bit + done;
        let Some(word) = from.get((at / 64) as usize) else { return };
        let here = (64 - at % 64).min(n - done);
        let bits = word >> (at % 64) & low(here);
        if bits != 0 {
            let to = into_bit + done;
            let (index, shift) = ((to / 64) as usize, to % 64);
            if let Some(word) = into.get_mut(index) {
                *word |= bits << shift;
            }
            // What the shift pushed out.
            if shift + here > 64 {
                if let Some(word) = into.get_mut(index + 1) {
                    *word |= bits >> (64 - shift);
                }
            }
        }
        done += here;
    }
}

/// Runs of set bits within `bits`: first bit and length.
pub(crate) fn runs(words: &[u64], bits: Range<u64>) -> Runs<'_> {
    let n = bits.end.min((words.len() as u64).saturating_mul(64));
    Runs { words, at: bits.start, n }
}

/// Words that are looked at together.
const BLOCK: usize = 32;

/// What [`runs`] returns.
pub(crate) struct Runs<'a> {
    words: &'a [u64],
    at: u64,
    n: u64,
}

impl Runs<'_> {
    /// The first bit from `at` on whose word differs from `like` there.
    fn first_unlike(&self, mut at: u64, like: u64) -> u64 {
        while at < self.n {
            // Most of a bitmap is alike, and this becomes vectors.
            if at % (BLOCK as u64 * 64) == 0 {
                let end = self.n.div_ceil(64) as usize;
                let blocks = self.words.get((at / 64) as usize..end).unwrap_or_default();
                let alike = |block: &&[u64]| block.iter().fold(0, |all, it| all | it ^ like) == 0;
                let skipped = blocks.chunks_exact(BLOCK).take_while(alike).count();
                at += (skipped * BLOCK * 64) as u64;
            }
            let word = self.words.get((at / 64) as usize).map_or(0, |word| word ^ like);
            let word = word >> (at % 64);
            if word != 0 {
                return (at + u64::from(word.trailing_zeros())).min(self.n);
            }
            at = (at / 64 + 1) * 64;
        }
        self.n
    }
}

impl Iterator for Runs<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let first = self.first_unlike(self.at, 0);
        if first >= self.n {
            return None;
        }
        self.at = self.first_unlike(first, u64::MAX);
        Some((first, self.at - first))
    }
}

impl Span {
    /// Sets the bit of every page that shares a byte with a range, which must overlap this span.
    /// Returns how many pages those are.
    pub(crate) fn set(self, words: &mut [u64], range: &RangeInclusive<u64>) -> u64 {
        let (first, last) = (self.start.max(*range.start()), self.last().min(*range.end()));
        let (base, page) = (self.page.of(self.start), self.page);
        let n = page.of(last) - page.of(first) + 1;
        set(words, page.of(first) - base, n);
        n
    }
}

/// Adds the bitmap of one span to that of another. Their page sizes may differ: a page of `into` is
/// set if it shares a byte with a set page of `from`.
pub(crate) fn add_span(into: &mut [u64], to: Span, from: &[u64], of: Span) {
    if to.page == of.page {
        // In pages, so that a span ending at 2^64 has an end.
        let (to_first, of_first) = (to.page.of(to.start), of.page.of(of.start));
        let first = to_first.max(of_first);
        let end = (to_first + to.bits()).min(of_first + of.bits());
        if first < end {
            or_at(into, first - to_first, from, first - of_first, end - first);
        }
        return;
    }
    let last_of = |span: Span| u128::from(span.start) + u128::from(span.length);
    for (first, n) in runs(from, 0..of.bits()) {
        let start = u128::from(of.start) + (u128::from(first) << of.page.shift());
        let end = start + (u128::from(n) << of.page.shift());
        let start = start.max(u128::from(to.start));
        let end = end.min(last_of(to));
        if start < end {
            let first = (start - u128::from(to.start)) >> to.page.shift();
            let past = (end - u128::from(to.start)).div_ceil(u128::from(to.page.bytes()));
            set(into, first as u64, (past - first) as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bits_of(words: &[u64], n: u64) -> Vec<bool> {
        (0..n).map(|bit| get(words, bit)).collect()
    }

    /// Any shift, and often one of whole words.
    fn shifts() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..200, (0u64..3).prop_map(|words| words * 64)]
    }

    fn pages() -> impl Strategy<Value = PageSize> {
        (12u32..17).prop_map(|shift| PageSize::new(1 << shift).unwrap())
    }

    proptest! {
        #[test]
        fn any_bit_is_seen(n in 0usize..200, bit in 0u64..12_800) {
            let mut words = vec![0; n];
            prop_assert!(!has_any(&words));
            set(&mut words, bit, 1);
            prop_assert_eq!(has_any(&words), bit < n as u64 * 64);
        }

        #[test]
        fn adding_at_any_shift_is_adding_bit_by_bit(
            from in prop::collection::vec(any::<u64>(), 1..6),
            mut into in prop::collection::vec(any::<u64>(), 1..6),
            from_bit in shifts(), into_bit in shifts(), n in 0u64..300,
        ) {
            let mut expected = bits_of(&into, into.len() as u64 * 64);
            for i in 0..n {
                if from_bit + i < from.len() as u64 * 64 && get(&from, from_bit + i) {
                    if let Some(bit) = expected.get_mut((into_bit + i) as usize) {
                        *bit = true;
                    }
                }
            }
            or_at(&mut into, into_bit, &from, from_bit, n);
            prop_assert_eq!(bits_of(&into, into.len() as u64 * 64), expected);
        }

        #[test]
        fn runs_are_the_set_bits(parts in prop::collection::vec((prop_oneof![
            any::<u64>(), Just(0), Just(u64::MAX)], 1usize..100), 0..6), n in 0u64..20_000) {
            let words: Vec<u64> = parts.iter().flat_map(|(word, n)| vec![*word; *n]).collect();
            let mut found = vec![false; n as usize];
            let mut before = None;
            for (first, len) in runs(&words, 0..n) {
                prop_assert!(len > 0 && before.is_none_or(|end| first > end));
                before = Some(first + len);
                found[first as usize..(first + len) as usize].fill(true);
            }
            let expected: Vec<bool> = (0..n).map(|bit| get(&words, bit)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn setting_clearing_and_cutting(n in 0u64..300, first in 0u64..300, len in 0u64..300) {
            let mut words = vec![0; 5];
            set(&mut words, first, len);
            let expected: Vec<bool> = (0..320).map(|b| b >= first && b < first + len).collect();
            prop_assert_eq!(bits_of(&words, 320), expected);
            let mut words = vec![u64::MAX; 5];
            clear(&mut words, first, len);
            let expected: Vec<bool> = (0..320).map(|b| b < first || b >= first + len).collect();
            prop_assert_eq!(bits_of(&words, 320), expected);
            let mut words = vec![u64::MAX; 5];
            cut(&mut words, n);
            prop_assert_eq!(bits_of(&words, 320), (0..320).map(|b| b < n).collect::<Vec<_>>());
        }

        #[test]
        fn pages_of_any_size_lose_nothing_and_add_only_what_touches(
            from_page in pages(), to_page in pages(), at in 0u64..64, to_at in 0u64..64,
            n in 1u64..130, to_n in 1u64..130, words in prop::collection::vec(any::<u64>(), 3),
            high in any::<bool>(),
        ) {
            // At both ends of the address space.
            let place = |at: u64, n: u64, page: PageSize| Span {
                start: if high { 0u64.wrapping_sub((at + n) * page.bytes()) } else { at * page.bytes() },
                length: n * page.bytes(),
                page,
            };
            let (of, to) = (place(at, n, from_page), place(to_at, to_n, to_page));
            let mut into = vec![0; 3];
            add_span(&mut into, to, &words, of);
            for bit in 0..to_n {
                let start = u128::from(to.start) + u128::from(bit * to_page.bytes());
                let end = start + u128::from(to_page.bytes());
                let touched = (0..n).any(|i| {
                    let s = u128::from(of.start) + u128::from(i * from_page.bytes());
                    get(&words, i) && s < end && s + u128::from(from_page.bytes()) > start
                });
                prop_assert_eq!(get(&into, bit), touched, "bit {}", bit);
            }
        }
    }
}
