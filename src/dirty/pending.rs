// SPDX-License-Identifier: MIT OR Apache-2.0
//! A set of pages that are dirty, or count as dirty, and have not been delivered: the VMM refused
//! them, they lay beyond the range that was asked for, or an error made them count.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::{Range, RangeInclusive};

use rangemap::RangeInclusiveSet;

use super::bitmap;
use super::ranges::{self, RANGE_BYTES, insert_or_all};
use crate::alloc;
use crate::error::Result;

const NO_MEMORY: &str = "no memory for dirty pages whose mapping is gone";

/// Pages in a block: a bitmap of 4 KiB.
const BLOCK: u64 = 512 * 64;

/// A block's words.
type Block = [u64; (BLOCK / 64) as usize];

/// The number of pages from which a range costs less than bits.
const LONG: u64 = BLOCK;

/// How many blocks are allowed beyond those that a contiguous map of the same size would take.
const SPARE_BLOCKS: u64 = 256;

/// A block with no more stretches than this takes less memory as ranges.
const FEW: usize = 16;

/// The most ranges in a set that is bounded.
const MAX_RANGES: usize = 64 << 10;

/// A set of pages, by number. It takes 4 KiB for each block of 32,768 pages in which a bit is set,
/// and next to nothing for long ranges.
pub(super) struct Pending {
    bits: BTreeMap<u64, Box<Block>>,
    ranges: RangeInclusiveSet<u64>,
    /// The most blocks there may be.
    room: usize,
}

impl Default for Pending {
    fn default() -> Pending {
        Pending { bits: BTreeMap::new(), ranges: RangeInclusiveSet::new(), room: usize::MAX }
    }
}

impl Pending {
    /// Adds pages, never rounding. Fails if that takes more memory and there is none, or if the set
    /// must not `grow`; some of the pages may have been added then.
    pub fn add_exact(&mut self, pages: RangeInclusive<u64>, grow: bool) -> Result<()> {
        let (first, last) = (*pages.start(), *pages.end());
        if last < first || self.ranges.gaps(&pages).next().is_none() {
            return Ok(());
        }
        let has_room = || grow && alloc::has_memory();
        if last - first >= LONG - 1 {
            if !has_room() {
                return alloc::refuse(NO_MEMORY);
            }
            self.ranges.insert(pages);
            return Ok(());
        }
        let mut page = first;
        loop {
            let end = last.min(page | (BLOCK - 1));
            let block = match self.bits.entry(page / BLOCK) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(place) if has_room() => place.insert(new_block()),
                Entry::Vacant(_) => return alloc::refuse(NO_MEMORY),
            };
            bitmap::set(&mut block[..], page % BLOCK, end - page + 1);
            match end.checked_add(1) {
                Some(next) if end < last => page = next,
                _ => return Ok(()),
            }
        }
    }

    /// Limits the memory that the set takes to that of bitmaps of this many pages, and a few MiB.
    /// If the pages are scattered over more addresses than that, which a guest behind a vIOMMU can
    /// arrange, pages that are near each other become one range, together with what lies between
    /// them.
    pub fn set_room(&mut self, pages: u64) {
        self.room = usize::try_from(pages / BLOCK + SPARE_BLOCKS).unwrap_or(usize::MAX);
    }

    /// Turns blocks into ranges. Those with few stretches become exactly those ranges. If that is
    /// not enough, others become one range from their first page to their last, beginning with
    /// those to which this adds the fewest pages.
    fn make_room(&mut self) {
        let (mut others, mut few) = (Vec::new(), Vec::new());
        let lists = alloc::reserve(&mut others, self.bits.len(), "")
            .and_then(|()| alloc::reserve(&mut few, self.bits.len(), ""));
        if lists.is_err() {
            self.bits.clear();
            self.ranges.clear();
            self.ranges.insert(0..=u64::MAX);
            return;
        }
        let stretches = |block: &Block| bitmap::runs(block, 0..BLOCK).take(FEW + 1).count();
        for (index, block) in &self.bits {
            match stretches(block) <= FEW {
                true => few.push(*index),
                false => others.push((added(block), *index)),
            }
        }
        for index in &few {
            let Some(block) = self.bits.remove(index) else { continue };
            for (at, n) in bitmap::runs(&block[..], 0..BLOCK) {
                let first = index * BLOCK + at;
                insert_or_all(&mut self.ranges, first..=first + (n - 1));
            }
        }
        others.sort_unstable();
        let most = (SPARE_BLOCKS / 2) as usize;
        for (_, index) in others.into_iter().take(most.saturating_sub(few.len())) {
            let Some((first, last)) = self.bits.remove(&index).and_then(|block| hull(&block))
            else {
                continue;
            };
            insert_or_all(&mut self.ranges, index * BLOCK + first..=index * BLOCK + last);
        }
        ranges::bound(&mut self.ranges, MAX_RANGES);
    }

    /// Adds pages. If there is no memory to note them, the set contains everything from now on.
    pub fn add(&mut self, pages: RangeInclusive<u64>) {
        let (first, last) = pages.into_inner();
        if last < first {
            return;
        }
        if last - first >= LONG - 1 {
            insert_or_all(&mut self.ranges, first..=last);
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
                Some((_, BLOCK)) => insert_or_all(&mut self.ranges, page..=page + (BLOCK - 1)),
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
            if self.bits.len() >= self.room && !self.bits.contains_key(&(page / BLOCK)) {
                self.make_room();
            }
            let block = match self.bits.entry(page / BLOCK) {
                Entry::Occupied(there) => Some(there.into_mut()),
                Entry::Vacant(place) => alloc::has_memory().then(|| place.insert(new_block())),
            };
            match block {
                Some(block) => f(block, page % BLOCK, done, here),
                None => insert_or_all(&mut self.ranges, page..=page + (here - 1)),
            }
            done += here;
        }
    }

    /// Takes out those of `n` pages from `first` on that are in the set, and adds them to `into`,
    /// whose bit 0 is page `first`.
    pub fn take(&mut self, first: u64, n: u64, into: &mut [u64]) {
        self.take_out(first, n, Some(into));
    }

    /// Takes out pages. A range that this would cut in two stays if there is no memory for a second
    /// one: its pages are delivered once more.
    fn take_out(&mut self, first: u64, n: u64, mut into: Option<&mut [u64]>) {
        if n == 0 || self.is_empty() {
            return;
        }
        let last = first.saturating_add(n - 1);
        let pages = first..=last;
        for range in self.ranges.overlapping(&pages) {
            let (start, end) = (*range.start().max(&first), *range.end().min(&last));
            if let Some(into) = into.as_deref_mut() {
                bitmap::set(into, start - first, end - start + 1);
            }
        }
        let around = self.ranges.get(&first);
        let cuts = around.is_some_and(|range| *range.start() < first && last < *range.end());
        if !cuts || alloc::has_memory() {
            self.ranges.remove(pages);
        }
        let mut from = Some(first / BLOCK);
        while let Some((index, block)) = from
            .and_then(|from| self.bits.range_mut(from..).next())
            .filter(|(i, _)| **i <= last / BLOCK)
        {
            let index = *index;
            from = index.checked_add(1);
            let start = first.max(index * BLOCK);
            let end = last.min(index * BLOCK + (BLOCK - 1));
            let len = end - start + 1;
            if let Some(into) = into.as_deref_mut() {
                bitmap::or_at(into, start - first, &block[..], start % BLOCK, len);
            }
            bitmap::clear(&mut block[..], start % BLOCK, len);
            if !bitmap::has_any(&block[..]) {
                self.bits.remove(&index);
            }
        }
    }

    /// The first stretch of pages in the set from `from` on: the number of the first page and how
    /// many there are, at most a block.
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
        self.take_out(first, n, None);
    }

    /// Whether any of these pages is in it.
    pub fn overlaps(&self, pages: &RangeInclusive<u64>) -> bool {
        if self.ranges.overlaps(pages) {
            return true;
        }
        let (first, last) = (*pages.start(), *pages.end());
        self.bits.range(first / BLOCK..=last / BLOCK).any(|(index, block)| {
            let base = index * BLOCK;
            let bits = first.saturating_sub(base)..(last - base).min(BLOCK - 1) + 1;
            bitmap::runs(&block[..], bits).next().is_some()
        })
    }

    pub fn is_empty(&self) -> bool {
        self.bits.is_empty() && self.ranges.is_empty()
    }

    pub fn clear(&mut self) {
        self.bits.clear();
        self.ranges.clear();
    }

    /// The memory that the set takes, in bytes.
    pub fn footprint(&self) -> u64 {
        (self.bits.len() * size_of::<Block>() + self.ranges.len() * RANGE_BYTES) as u64
    }
}

/// An empty block. It is never on the stack, because a thread may have little of that.
fn new_block() -> Box<Block> {
    let words = vec![0; (BLOCK / 64) as usize].into_boxed_slice();
    words.try_into().unwrap_or_else(|_| Box::new([0; (BLOCK / 64) as usize]))
}

/// The first and the last page that are set in a block.
fn hull(block: &Block) -> Option<(u64, u64)> {
    let first = bitmap::runs(block, 0..BLOCK).next()?.0;
    let zeros: u64 = block.iter().rev().map_while(|word| (*word == 0).then_some(64)).sum();
    let word = block.get(((BLOCK - zeros) / 64).checked_sub(1)? as usize)?;
    Some((first, BLOCK - zeros - 1 - u64::from(word.leading_zeros())))
}

/// How many pages making a block one range would add.
fn added(block: &Block) -> u64 {
    hull(block).map_or(0, |(first, last)| last - first + 1 - bitmap::count(block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn scattered_pages_take_bounded_memory_and_none_is_lost() {
        let mut pending = Pending::default();
        pending.set_room(100 * BLOCK);
        let most =
            ((100 + SPARE_BLOCKS) as usize * size_of::<Block>() + MAX_RANGES * RANGE_BYTES) as u64;
        // First single pages, then blocks that are half full, each far from the others.
        let mut added = BTreeSet::new();
        for i in 0..100_000u64 {
            let page = (i * 7919 % 100_003) * 3 * BLOCK + i % BLOCK;
            pending.add(page..=page);
            added.insert(page);
            assert!(pending.footprint() <= most);
        }
        assert!(added.iter().all(|page| pending.overlaps(&(*page..=*page))));
        let every_other = vec![0x5555_5555_5555_5555u64; (BLOCK / 64) as usize];
        let dense = |i: u64| (1 << 40) + i * 2 * BLOCK;
        for i in 0..1000 {
            pending.add_bits(dense(i), &every_other, 0..BLOCK);
            assert!(pending.footprint() <= most);
        }
        let mut words = vec![0; (BLOCK / 64) as usize];
        for i in 0..1000 {
            words.fill(0);
            pending.take(dense(i), BLOCK, &mut words);
            assert!(words.iter().zip(&every_other).all(|(word, set)| word & set == *set));
            assert!(!pending.overlaps(&(dense(i)..=dense(i) + (BLOCK - 1))));
        }
    }

    #[test]
    fn what_fits_is_kept_as_it_is() {
        let mut pending = Pending::default();
        pending.set_room(100 * BLOCK);
        let every_other = vec![0x5555_5555_5555_5555u64; (BLOCK / 64) as usize];
        for i in 0..100 {
            pending.add_bits(i * BLOCK, &every_other, 0..BLOCK);
        }
        // And pages that are far away, one in each block.
        for i in 200..10_000 {
            pending.add(i * BLOCK + 7..=i * BLOCK + 7);
        }
        let mut words = vec![0; (BLOCK / 64) as usize];
        for i in (0..100).chain(200..10_000) {
            words.fill(0);
            pending.take(i * BLOCK, BLOCK, &mut words);
            if i < 100 {
                assert_eq!(words, every_other);
            } else {
                assert_eq!((words[0], bitmap::count(&words)), (1 << 7, 1));
            }
        }
        assert!(pending.is_empty());
    }

    #[test]
    fn a_block_reaches_from_its_first_page_to_its_last() {
        let mut block: Block = [0; (BLOCK / 64) as usize];
        assert_eq!((hull(&block), added(&block)), (None, 0));
        for (page, reaches, more) in
            [(700, (700, 700), 0), (64, (64, 700), 635), (BLOCK - 1, (64, BLOCK - 1), BLOCK - 67)]
        {
            bitmap::set(&mut block, page, 1);
            assert_eq!((hull(&block), added(&block)), (Some(reaches), more));
        }
    }

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
                prop_assert!(first >= from && n > 0 && n <= BLOCK);
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
