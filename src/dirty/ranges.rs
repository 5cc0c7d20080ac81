// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sets of addresses that may contain too much, but never too little: what counts as dirty, what is
//! not watched, what a device is asked to log. So they can be kept small.

use std::fmt::Write;
use std::ops::RangeInclusive;

use rangemap::RangeInclusiveSet;

use crate::alloc;
use crate::transport::IovaRange;

/// All addresses.
pub(crate) const EVERYWHERE: RangeInclusive<u64> = 0..=u64::MAX;

/// The most ranges that the kernel takes in one call: one page of them (docs/kernel-interface.md).
pub(crate) const MAX_RANGES: usize = 256;

/// The most ranges that any such set ever has.
pub(crate) const MAX_EVER: usize = 64 << 10;

/// Adds a range or, if there is no memory for that, everything. Bounds the set as well.
pub(crate) fn insert_or_all(set: &mut RangeInclusiveSet<u64>, range: RangeInclusive<u64>) {
    if alloc::has_memory() {
        set.insert(range);
        bound(set, MAX_EVER);
    } else {
        set.clear();
        set.insert(EVERYWHERE);
    }
}

/// Joins neighbours over the smallest gaps until there are at most `max` ranges.
pub(crate) fn join(set: &RangeInclusiveSet<u64>, max: usize) -> RangeInclusiveSet<u64> {
    let gaps = set
        .iter()
        .zip(set.iter().skip(1))
        .map(|(a, b)| a.end().saturating_add(1)..=b.start().saturating_sub(1));
    let all = || hull(set.iter().cloned());
    let Ok(mut gaps) = alloc::collect(gaps, "") else { return all() };
    gaps.sort_unstable_by_key(|gap| (gap.end() - gap.start(), *gap.start()));
    let gaps = gaps.into_iter().take(set.len().saturating_sub(max.max(1)));
    let mut joined = RangeInclusiveSet::new();
    for range in set.iter().cloned().chain(gaps) {
        if !alloc::has_memory() {
            return all();
        }
        joined.insert(range);
    }
    joined
}

/// The most ranges of a set in which a guest decides how many there are, by what it maps and when.
pub(crate) const MAX_KEPT: usize = 4096;

/// The memory that a range takes, in bytes, with its share of the tree that it is in.
pub(crate) const RANGE_BYTES: usize = 32;

/// Keeps a set small by joining neighbours: half of them at a time, so that this is seldom needed.
pub(crate) fn bound(set: &mut RangeInclusiveSet<u64>, max: usize) {
    if set.len() > max {
        *set = join(set, max / 2);
    }
}

/// One range from the first address of all to the last, for when there is no memory for more.
pub(crate) fn hull(ranges: impl Iterator<Item = RangeInclusive<u64>>) -> RangeInclusiveSet<u64> {
    let all = ranges.reduce(|a, b| *a.start().min(b.start())..=*a.end().max(b.end()));
    all.into_iter().collect()
}

/// The ranges in the form that the kernel takes.
pub(crate) fn list(set: &RangeInclusiveSet<u64>) -> Vec<IovaRange> {
    set.iter()
        .map(|range| IovaRange {
            iova: *range.start(),
            length: (range.end() - range.start()).saturating_add(1),
        })
        .collect()
}

/// The first few ranges, as a text for people.
pub(crate) fn name(set: &RangeInclusiveSet<u64>) -> String {
    const NAMED: usize = 4;
    let mut text = String::new();
    for (i, range) in list(set).iter().take(NAMED).enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        let _ = write!(text, "{comma}{:#x} ({:#x} bytes)", range.iova, range.length);
    }
    if let Some(more @ 1..) = set.len().checked_sub(NAMED) {
        let _ = write!(text, " and {more} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn set(ranges: &[(u64, u64)]) -> RangeInclusiveSet<u64> {
        ranges.iter().map(|(at, n)| at * PAGE..=(at + n) * PAGE - 1).collect()
    }

    fn pages(set: &RangeInclusiveSet<u64>) -> Vec<(u64, u64)> {
        list(set).iter().map(|range| (range.iova / PAGE, range.length / PAGE)).collect()
    }

    #[test]
    fn too_many_ranges_are_joined_over_the_smallest_gaps() {
        let set = set(&[(0, 1), (10, 1), (12, 1), (100, 1), (105, 1)]);
        assert_eq!(pages(&join(&set, 5)), pages(&set));
        assert_eq!(pages(&join(&set, 4)), [(0, 1), (10, 3), (100, 1), (105, 1)]);
        assert_eq!(pages(&join(&set, 3)), [(0, 1), (10, 3), (100, 6)]);
        assert_eq!(pages(&join(&set, 2)), [(0, 13), (100, 6)]);
        assert_eq!(pages(&join(&set, 1)), [(0, 106)]);
        assert_eq!(pages(&join(&set, 0)), [(0, 106)]);
        assert!(pages(&join(&RangeInclusiveSet::new(), 1)).is_empty());
    }

    #[test]
    fn a_set_that_is_bounded_keeps_all_that_was_in_it() {
        let mut set = RangeInclusiveSet::new();
        for i in 0..10_000u64 {
            let first = i * i % 65_537 * 100;
            set.insert(first..=first + 9);
            bound(&mut set, 64);
            assert!(set.len() <= 64);
        }
        for i in 0..10_000u64 {
            assert!(set.gaps(&(i * i % 65_537 * 100..=i * i % 65_537 * 100 + 9)).next().is_none());
        }
    }
}
