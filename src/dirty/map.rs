// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory map of one I/O address space: which addresses a device can reach, and what of the
//! VMM's memory lies there.

use std::ops::RangeInclusive;

use rangemap::{RangeInclusiveMap, RangeInclusiveSet};

use super::bitmap::PageSize;
use super::ranges;
use crate::alloc;
use crate::error::{Result, err};

/// The most that one address space may map, in bytes: far more than any machine has, and low enough
/// to catch sizes that are wrong.
pub const MAX_MAPPED: u64 = 1 << 48;

/// A mapping, as the VMM describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mapping {
    /// First I/O virtual address.
    pub iova: u64,
    /// Size in bytes. The mapping may end at 2^64.
    pub size: u64,
    /// The VMM's own name for the memory: the number of a RAM block, for example.
    pub cookie: u64,
    /// Where the mapping begins in that memory, in bytes.
    pub offset: u64,
    /// Its address in this process; 0: it has none.
    pub host: usize,
    /// Devices cannot write to it.
    pub read_only: bool,
    /// What lies there changes without notice, so the VMM is asked where a page is each time it is
    /// dirty.
    pub translate: bool,
    /// Not a mapping, but a range in which mappings will come and go: devices log it from the
    /// beginning if they can.
    pub window: bool,
}

/// The part of a mapping that lies within some range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub first: u64,
    pub last: u64,
    pub mapping: Mapping,
}

impl Piece {
    /// Offset in the VMM's terms.
    pub fn offset_of(&self, iova: u64) -> u64 {
        self.mapping.offset.wrapping_add(iova.wrapping_sub(self.mapping.iova))
    }

    pub fn host_of(&self, iova: u64) -> usize {
        match self.mapping.host {
            0 => 0,
            host => host.wrapping_add(iova.wrapping_sub(self.mapping.iova) as usize),
        }
    }

    pub fn range(&self) -> RangeInclusive<u64> {
        self.first..=self.last
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// Mappings that do not overlap, and the windows in which more may come.
#[derive(Clone, Default)]
pub(crate) struct Map {
    mappings: RangeInclusiveMap<u64, Mapping>,
    windows: RangeInclusiveSet<u64>,
    bytes: u64,
    /// How many of them devices can write to.
    writable_bytes: u64,
}

/// Checks that a range is not empty, does not wrap and is in whole pages. It may end at 2^64.
pub(crate) fn check_range(
    what: &str,
    iova: u64,
    size: u64,
    page: PageSize,
) -> Result<RangeInclusive<u64>> {
    if size == 0 {
        return Err(err!(Inval, "{what} at {iova:#x} is empty"));
    }
    let last = iova.checked_add(size - 1);
    let last = last.ok_or_else(|| err!(Inval, "{what} at {iova:#x}, {size:#x} bytes, wraps"))?;
    if !page.divides(iova) || !page.divides(size) {
        let page = page.bytes();
        return Err(err!(
            Inval,
            "{what} at {iova:#x}, {size:#x} bytes, is not in whole pages of {page} bytes"
        ));
    }
    Ok(iova..=last)
}

impl Map {
    /// Adds a mapping. Returns none if exactly this mapping is there already.
    pub fn insert(
        &mut self,
        mapping: Mapping,
        page: PageSize,
    ) -> Result<Option<RangeInclusive<u64>>> {
        let Mapping { iova, size, .. } = mapping;
        let range = check_range("a mapping", iova, size, page)?;
        if !page.divides(mapping.offset) {
            return Err(err!(
                Inval,
                "the mapping at {iova:#x} has offset {:#x}: not in whole pages of {} bytes",
                mapping.offset,
                page.bytes()
            ));
        }
        if mapping.offset.checked_add(size - 1).is_none() && !mapping.translate {
            return Err(err!(Inval, "the offset of the mapping at {iova:#x} wraps"));
        }
        if mapping.host != 0 && mapping.host.checked_add((size - 1) as usize).is_none() {
            return Err(err!(Inval, "the host address of the mapping at {iova:#x} wraps"));
        }
        if let Some((other, there)) = self.mappings.overlapping(&range).next() {
            if *other == range && *there == mapping {
                return Ok(None);
            }
            return Err(err!(
                Inval,
                "the mapping at {iova:#x}, {size:#x} bytes, overlaps the one at {:#x} to {:#x}",
                other.start(),
                other.end()
            ));
        }
        alloc::check_memory("no memory for a mapping")?;
        let bytes = self.bytes.checked_add(size).filter(|bytes| *bytes <= MAX_MAPPED);
        self.bytes = bytes.ok_or_else(|| {
            err!(Inval, "with the mapping at {iova:#x} more than {MAX_MAPPED:#x} bytes are mapped")
        })?;
        self.writable_bytes += if mapping.read_only { 0 } else { size };
        self.mappings.insert(range.clone(), mapping);
        Ok(Some(range))
    }

    pub fn insert_window(
        &mut self,
        iova: u64,
        size: u64,
        page: PageSize,
    ) -> Result<RangeInclusive<u64>> {
        let range = check_range("a window", iova, size, page)?;
        alloc::check_memory("no memory for a window")?;
        self.windows.insert(range.clone());
        ranges::bound(&mut self.windows, ranges::MAX_KEPT);
        Ok(range)
    }

    pub fn remove(&mut self, range: &RangeInclusive<u64>) {
        let gone: u64 = self.pieces(range).map(|piece| piece.size()).sum();
        let writable: u64 = self.writable(range).map(|piece| piece.size()).sum();
        self.bytes = self.bytes.saturating_sub(gone);
        self.writable_bytes = self.writable_bytes.saturating_sub(writable);
        self.mappings.remove(range.clone());
    }

    /// The pieces of mappings in a range, in order.
    pub fn pieces<'a>(
        &'a self,
        range: &'a RangeInclusive<u64>,
    ) -> impl Iterator<Item = Piece> + 'a {
        self.mappings.overlapping(range).map(|(whole, mapping)| Piece {
            first: *whole.start().max(range.start()),
            last: *whole.end().min(range.end()),
            mapping: *mapping,
        })
    }

    /// The pieces of a range, which must be mapped from end to end. It need not be in whole pages.
    pub fn complete(&self, iova: u64, length: u64) -> Result<Vec<Piece>> {
        if length == 0 {
            return Err(err!(Inval, "a range at {iova:#x} is empty"));
        }
        let last = iova.checked_add(length - 1);
        let last = last.ok_or_else(|| err!(Inval, "a range at {iova:#x} wraps"))?;
        let range = iova..=last;
        let pieces = alloc::collect(self.pieces(&range), "no memory for a list of mappings")?;
        let mut next = Some(iova);
        for piece in &pieces {
            if next != Some(piece.first) {
                break;
            }
            next = piece.last.checked_add(1);
        }
        if pieces.last().map(|piece| piece.last) == Some(last) && next == last.checked_add(1) {
            return Ok(pieces);
        }
        let at = next.unwrap_or(iova);
        Err(err!(NoData, "nothing is mapped at {at:#x}, in a range from {iova:#x} to {last:#x}"))
    }

    /// The first piece from an address on that devices can write to.
    pub fn next_writable(&self, from: u64, range: &RangeInclusive<u64>) -> Option<Piece> {
        let rest = from.max(*range.start())..=*range.end();
        // Nothing comes after the end of the range, even if more is mapped there.
        if rest.is_empty() { None } else { self.writable(&rest).next() }
    }

    /// The whole mapping that a piece belongs to.
    pub fn whole(&self, piece: &Piece) -> Piece {
        match self.mappings.get_key_value(&piece.first) {
            Some((range, _)) => Piece { first: *range.start(), last: *range.end(), ..*piece },
            None => *piece,
        }
    }

    /// The pieces that devices can write to.
    pub fn writable<'a>(
        &'a self,
        range: &'a RangeInclusive<u64>,
    ) -> impl Iterator<Item = Piece> + 'a {
        self.pieces(range).filter(|piece| !piece.mapping.read_only)
    }

    pub fn windows(&self) -> &RangeInclusiveSet<u64> {
        &self.windows
    }

    /// How many bytes are mapped.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes are mapped that devices can write to.
    pub fn writable_bytes(&self) -> u64 {
        self.writable_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::ranges::EVERYWHERE;
    use crate::error::Code;

    const PAGE: u64 = 4096;

    fn page() -> PageSize {
        PageSize::new(PAGE).unwrap()
    }

    fn mapping(iova: u64, size: u64, cookie: u64) -> Mapping {
        Mapping { iova, size, cookie, ..Mapping::default() }
    }

    #[test]
    fn bad_mappings_are_refused_and_leave_the_map_as_it_was() {
        let mut map = Map::default();
        map.insert(mapping(16 * PAGE, 16 * PAGE, 1), page()).unwrap();
        for bad in [
            mapping(0, 0, 2),
            mapping(1, PAGE, 2),
            mapping(0, PAGE + 1, 2),
            mapping(u64::MAX - PAGE + 1, 2 * PAGE, 2),
            mapping(PAGE, u64::MAX - PAGE + 1, 2),
            mapping(31 * PAGE, PAGE, 2),
            mapping(0, 17 * PAGE, 2),
            mapping(15 * PAGE, 100 * PAGE, 2),
            mapping(20 * PAGE, PAGE, 2),
            mapping(1 << 50, MAX_MAPPED, 2),
            Mapping { offset: 1, ..mapping(0, PAGE, 2) },
            Mapping { offset: 0u64.wrapping_sub(PAGE), ..mapping(0, 2 * PAGE, 2) },
            Mapping { host: usize::MAX, ..mapping(0, PAGE, 2) },
        ] {
            assert_eq!(map.insert(bad, page()).unwrap_err().code(), Code::Inval, "{bad:x?}");
        }
        assert_eq!((map.pieces(&EVERYWHERE).count(), map.bytes()), (1, 16 * PAGE));
        // The last page of the address space.
        map.insert(mapping(u64::MAX - PAGE + 1, PAGE, 3), page()).unwrap();
        assert_eq!(map.pieces(&EVERYWHERE).count(), 2);
    }

    #[test]
    fn pieces_that_are_looked_up_one_by_one_come_to_an_end() {
        let mut map = Map::default();
        map.insert(mapping(0, 16 * PAGE, 1), page()).unwrap();
        for range in [0..=4 * PAGE - 1, 4 * PAGE..=8 * PAGE - 1, 0..=u64::MAX] {
            let piece = map.next_writable(0, &range).unwrap();
            assert_eq!(piece.first, *range.start());
            assert!(map.next_writable(piece.last + 1, &range).is_none(), "{range:x?}");
        }
    }

    #[test]
    fn a_mapping_that_loses_its_middle_keeps_its_offsets() {
        let mut map = Map::default();
        map.insert(Mapping { offset: 64 * PAGE, ..mapping(0, 16 * PAGE, 1) }, page()).unwrap();
        map.remove(&(4 * PAGE..=8 * PAGE - 1));
        let pieces: Vec<Piece> = map.pieces(&EVERYWHERE).collect();
        assert_eq!(pieces.len(), 2);
        assert_eq!((map.bytes(), map.writable_bytes()), (12 * PAGE, 12 * PAGE));
        map.insert(Mapping { read_only: true, ..mapping(4 * PAGE, 4 * PAGE, 2) }, page()).unwrap();
        assert_eq!((map.bytes(), map.writable_bytes()), (16 * PAGE, 12 * PAGE));
        map.remove(&(6 * PAGE..=10 * PAGE - 1));
        assert_eq!((map.bytes(), map.writable_bytes()), (12 * PAGE, 10 * PAGE));
        map.remove(&EVERYWHERE);
        assert_eq!((map.bytes(), map.writable_bytes()), (0, 0));
        map.insert(Mapping { offset: 64 * PAGE, ..mapping(0, 16 * PAGE, 1) }, page()).unwrap();
        map.remove(&(4 * PAGE..=8 * PAGE - 1));
        assert_eq!((pieces[1].first, pieces[1].last), (8 * PAGE, 16 * PAGE - 1));
        assert_eq!(pieces[1].offset_of(9 * PAGE), 73 * PAGE);
    }

    #[test]
    fn a_range_is_complete_where_everything_in_it_is_mapped() {
        let mut map = Map::default();
        for (iova, pages) in [(0, 2), (2, 2), (5, 1)] {
            map.insert(mapping(iova * PAGE, pages * PAGE, iova), page()).unwrap();
        }
        let pieces = map.complete(PAGE + 1, 2 * PAGE).unwrap();
        let found: Vec<_> = pieces.iter().map(|piece| (piece.first, piece.last)).collect();
        assert_eq!(found, [(PAGE + 1, 2 * PAGE - 1), (2 * PAGE, 3 * PAGE)]);
        for (iova, length, code) in [
            (0, 0, Code::Inval),
            (PAGE, u64::MAX, Code::Inval),
            (0, 4 * PAGE + 1, Code::NoData),
            (0, 6 * PAGE, Code::NoData),
            (5 * PAGE - 1, 2, Code::NoData),
            (9 * PAGE, 1, Code::NoData),
        ] {
            assert_eq!(map.complete(iova, length).unwrap_err().code(), code, "{iova:#x}");
        }
        map.insert(mapping(u64::MAX - PAGE + 1, PAGE, 9), page()).unwrap();
        assert_eq!(map.complete(u64::MAX, 1).unwrap().len(), 1);
    }
}
