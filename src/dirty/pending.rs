//! Pages that are known to be dirty and have not been delivered: what was read out but refused, what
//! lay beyond a range that was asked for, what an error made count as dirty.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use rangemap::RangeInclusiveSet;

use super::bitmap;

/// Pages in a block: a bitmap of 4 KiB.
const BLOCK: u64 = 512 * 64;

/// A block's words.
type Block = [u64; (BLOCK / 64) as usize];

/// Sets that are at least this long cost less as a range than as bits.
const LONG: u64 = BLOCK;

/// What a range takes, with its share of the tree that it is in.
const RANGE_BYTES: usize = 32;

/// Pages that [`Pending::first_run`] finds at the most.
pub(super) const MAX_RUN: u64 = BLOCK;

/// A set of pages, by number. Takes memory for what is in it only: 4 KiB for each 32,768 pages with
/// a bit, and next to nothing for long ranges.
#[derive(Default)]
pub(super) struct Pending {
    bits: BTreeMap<u64, Box<Block>>,
    ranges: RangeInclusiveSet<u64>,
}

impl Pending {
    /// Adds pages `first` to `last`.
    pub fn add(&mut self, pages: RangeInclusive<u64>) {
        let (first, last) = pages.into_inner();
        if last < first {
            return;
        }
        if last - first >= LONG - 1 {
            self.ranges.insert(first..=last);
            return;
        }
        self.each_block(first, last - first + 1, |block, bit, _, n| bitmap::set(block, bit, n));
    }

    /// Adds the pages of these bits that are set; bit 0 is page `first`.
    pub fn add_bits(&mut self, first: u64, words: &[u64], bits: Range<u64>) {
        let Range { start: mut at, end } = bits;
        while at < end {
            let page = first.saturating_add(at);
            let next = end.min(at + (BLOCK - page % BLOCK));
            match bitmap::runs(words, at..next).next() {
                None => {}
                Some((_, BLOCK)) => self.ranges.insert(page..=page + (BLOCK - 1)),
                Some((set, _)) => {
                    self.each_block(first + set, next - set, |block, bit, done, n| {
                        bitmap::or_at(block, bit, words, set + done, n);
                    });
                }
            }
            at = next;
        }
    }

    fn each_block(&mut self, first: u64, n: u64, mut f: impl FnMut(&mut Block, u64, u64, u64)) {
        let mut done = 0;
        while done < n {
            let page = first + done;
            let here = (BLOCK - page % BLOCK).min(n - done);
            let block = self
                .bits
                .entry(page / BLOCK)
                .or_insert_with(|| Box::new([0; (BLOCK / 64) as usize]));
            f(block, page % BLOCK, done, here);
            done += here;
        }
    }

    /// Takes out what there is of `n` pages from `first` on, and adds it to `into`, whose bit 0 is
    /// page `first`.
    pub fn take(&mut self, first: u64, n: u64, into: &mut [u64]) {
        if n == 0 || self.is_empty() {
            return;
        }
        let last = first.saturating_add(n - 1);
        let pages = first..=last;
        let found: Vec<_> = self.ranges.overlapping(&pages).cloned().collect();
        for range in found {
            let (start, end) = (*range.start().max(&first), *range.end().min(&last));
            bitmap::set(into, start - first, end - start + 1);
        }
        self.ranges.remove(pages);
        let blocks: Vec<u64> =
            self.bits.range(first / BLOCK..=last / BLOCK).map(|(index, _)| *index).collect();
        for index in blocks {
            let Some(block) = self.bits.get_mut(&index) else { continue };
            let start = first.max(index * BLOCK);
            let end = last.min(index * BLOCK + (BLOCK - 1));
            let len = end - start + 1;
            bitmap::or_at(into, start - first, &block[..], start % BLOCK, len);
            bitmap::clear(&mut block[..], start % BLOCK, len);
            if !bitmap::has_any(&block[..]) {
                self.bits.remove(&index);
            }
        }
    }

    /// The first pages in it from `from` on, in one stretch: number and how many, one block at the
    /// most.
    pub fn first_run(&self, from: u64) -> Option<(u64, u64)> {
        let range = self.ranges.overlapping(&(from..=u64::MAX)).next().map(|range| {
            let first = from.max(*range.start());
            (first, (range.end() - first).min(BLOCK - 1) + 1)
        });
        let bits = self.bits.range(from / BLOCK..).find_map(|(index, block)| {
            let base = index * BLOCK;
            let run = bitmap::runs(&block[..], from.saturating_sub(base)..BLOCK).next();
            run.map(|(at, n)| (base + at, n))
        });
        match (range, bits) {
            (Some(range), Some(bits)) => Some(if bits.0 < range.0 { bits } else { range }),
            (range, bits) => range.or(bits),
        }
    }

    /// Takes out pages that [`Pending::first_run`] has found.
    pub fn remove(&mut self, first: u64, n: u64) {
        let mut gone: Block = [0; (BLOCK / 64) as usize];
        self.take(first, n.min(BLOCK), &mut gone);
    }

    /// Whether any of these pages is in it.
    pub fn overlaps(&self, pages: &RangeInclusive<u64>) -> bool {
        if self.ranges.overlaps(pages) {
            return true;
        }
        let (first, last) = (*pages.start(), *pages.end());
        self.bits.range(first / BLOCK..=last / BLOCK).any(|(index, block)| {
            bitmap::runs(&block[..], 0..BLOCK).any(|(at, len)| {
                let start = index * BLOCK + at;
                start <= last && start + (len - 1) >= first
            })
        })
    }

    pub fn is_empty(&self) -> bool {
        self.bits.is_empty() && self.ranges.is_empty()
    }

    pub fn clear(&mut self) {
        self.bits.clear();
        self.ranges.clear();
    }

    /// Bytes that it takes.
    pub fn footprint(&self) -> u64 {
        (self.bits.len() * size_of::<Block>() + self.ranges.len() * RANGE_BYTES) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set_of_pages(steps in prop::collection::vec(
            (0u8..3, 0u64..200_000, 1u64..90_000, any::<u64>()), 1..12)) {
            let mut pending = Pending::default();
            let mut model = BTreeSet::new();
            for (what, first, n, word) in steps {
                let long = word % 3 == 0;
                let n = if long { n } else { n % 200 + 1 };
                match what {
                    0 => {
                        pending.add(first..=first + n - 1);
                        model.extend(first..first + n);
                    }
                    1 => {
                        // Noise, gaps and long stretches, from any bit on.
                        let n = if long { n % 4000 } else { n % 128 };
                        let mut words: Vec<u64> =
                            (0..n.div_ceil(64)).map(|i| word.rotate_left(i as u32 * 7)).collect();
                        let from = (word >> 8) as usize % (words.len() + 1);
                        words[from..].fill(if word >> 40 & 1 == 0 { 0 } else { u64::MAX });
                        let from = word >> 32 & 127;
                        pending.add_bits(first, &words, from..n);
                        let set = (from..n).filter(|i| bitmap::get(&words, *i));
                        model.extend(set.map(|i| first + i));
                    }
                    _ => {
                        let mut into = vec![0; bitmap::words_for(n)];
                        let range = first..=first + n - 1;
                        prop_assert_eq!(pending.overlaps(&range), model.range(range).next().is_some());
                        pending.take(first, n, &mut into);
                        for i in 0..n {
                            prop_assert_eq!(bitmap::get(&into, i), model.remove(&(first + i)));
                        }
                    }
                }
                prop_assert_eq!(pending.is_empty(), model.is_empty());
            }
            // Everything is found, in order.
            let (mut from, mut runs) = (0, Vec::new());
            while let Some((first, n)) = pending.first_run(from) {
                prop_assert!(first >= from && n > 0 && n <= MAX_RUN);
                runs.push((first, n));
                from = first + n;
            }
            let found = runs.iter().flat_map(|(at, n)| *at..at + n);
            prop_assert!(found.eq(model.iter().copied()));
            for (first, n) in runs.into_iter().take(9) {
                pending.remove(first, n);
                model.retain(|page| *page < first || *page >= first + n);
                prop_assert_eq!(pending.first_run(0).map(|run| run.0), model.first().copied());
            }
        }
    }

    #[test]
    fn long_stretches_of_bits_take_next_to_nothing() {
        let (first, n) = (BLOCK - 5, 4 * BLOCK);
        for hole in [None, Some(0), Some(4), Some(5), Some(BLOCK + 4), Some(BLOCK + 5), Some(n - 1)]
        {
            let mut words = vec![u64::MAX; bitmap::words_for(n)];
            if let Some(bit) = hole {
                words[(bit / 64) as usize] &= !(1 << (bit % 64));
            }
            let mut pending = Pending::default();
            pending.add_bits(first, &words, 0..n);
            // The ends, and the block with the hole.
            let bytes = 3 * size_of::<Block>() + 5 * RANGE_BYTES;
            assert!(pending.footprint() <= bytes as u64);
            let mut into = vec![0; words.len() + 2];
            pending.take(first - 64, n + 128, &mut into);
            assert_eq!((into[0], into[words.len() + 1]), (0, 0));
            assert_eq!(into[1..=words.len()], words, "{hole:?}");
            assert!(pending.is_empty());
        }
    }
}
