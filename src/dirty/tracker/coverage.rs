// SPDX-License-Identifier: MIT OR Apache-2.0
//! Works out which part of the map a log should watch, and which part it does not.

use std::ops::RangeInclusive;

use rangemap::RangeInclusiveSet;

use crate::alloc;
use crate::dirty::bitmap::PageSize;
use crate::dirty::map::Map;
use crate::dirty::ranges::{EVERYWHERE, hull, insert_or_all};

/// Everything that a device may write to, in whole pages: the mappings and, with `windows`, what
/// may be mapped later. Neighbours become one range. The last page before 2^64 is left out, because
/// the kernel does not take a range that ends there.
pub(super) fn wanted(map: &Map, windows: bool, page: PageSize) -> RangeInclusiveSet<u64> {
    let mut set = RangeInclusiveSet::new();
    let mut add = |range: RangeInclusive<u64>| {
        let mask = page.bytes() - 1;
        let (first, last) = (range.start() & !mask, range.end() | mask);
        let last = if last == u64::MAX { last - page.bytes() } else { last };
        if first >= last {
        } else if alloc::has_memory() {
            set.insert(first..=last);
        } else {
            // Without memory, one range: a log may watch too much.
            set = hull(set.iter().cloned().chain([first..=last]));
        }
    };
    for piece in map.writable(&EVERYWHERE) {
        add(piece.range());
    }
    if windows {
        map.windows().iter().cloned().for_each(&mut add);
    }
    set
}

/// The parts of the map within a range that are not in `logged`.
pub(super) fn missing(
    map: &Map,
    range: &RangeInclusive<u64>,
    logged: &RangeInclusiveSet<u64>,
) -> RangeInclusiveSet<u64> {
    let mut missing = RangeInclusiveSet::new();
    for piece in map.writable(range) {
        for gap in logged.gaps(&piece.range()) {
            insert_or_all(&mut missing, gap);
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::map::Mapping;
    use crate::dirty::ranges::list;

    const PAGE: u64 = 4096;

    fn page() -> PageSize {
        PageSize::new(PAGE).unwrap()
    }

    fn map(mappings: &[(u64, u64)]) -> Map {
        let mut map = Map::default();
        for (iova, size) in mappings {
            let mapping = Mapping {
                iova: iova * PAGE,
                size: size * PAGE,
                offset: iova * PAGE,
                ..Mapping::default()
            };
            map.insert(mapping, page()).unwrap();
        }
        map
    }

    fn pages(set: &RangeInclusiveSet<u64>) -> Vec<(u64, u64)> {
        list(set).iter().map(|range| (range.iova / PAGE, range.length / PAGE)).collect()
    }

    #[test]
    fn neighbours_are_one_range_and_the_last_page_of_all_is_left_out() {
        let last = (1 << 52) - 2;
        let map = map(&[(0, 4), (4, 4), (9, 1), (last, 2)]);
        let set = wanted(&map, false, page());
        assert_eq!(pages(&set), [(0, 8), (9, 1), (last, 1)]);
        assert_eq!(pages(&missing(&map, &EVERYWHERE, &set)), [(last + 1, 1)]);
    }

    #[test]
    fn larger_pages_are_rounded_outwards() {
        let map = map(&[(17, 1), (63, 2)]);
        let set = wanted(&map, false, PageSize::new(16 * PAGE).unwrap());
        assert_eq!(pages(&set), [(16, 16), (48, 32)]);
    }

    #[test]
    fn windows_are_logged_where_the_device_can() {
        let mut map = map(&[(1, 1)]);
        map.insert_window(16 * PAGE, 16 * PAGE, page()).unwrap();
        assert_eq!(pages(&wanted(&map, true, page())), [(1, 1), (16, 16)]);
        assert_eq!(pages(&wanted(&map, false, page())), [(1, 1)]);
    }
}
