// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps dirty pages whose mapping is gone until the VMM takes them.
//!
//! A guest behind a vIOMMU maps and unmaps as often as it likes while the VMM refuses pages. So
//! pages are kept by where they are in the VMM's memory: a page that was unmapped a thousand times
//! takes the room of one. Nothing here may be rounded beyond a mapping, since what lies beside it
//! may not exist. Instead, when there are too many pages, the VMM has to take some before more can
//! be unmapped ([`Orphans::is_full`]). If there is no memory to say which pages of a mapping are
//! dirty, all of it is kept, in room that was reserved before it was unmapped.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::RangeInclusive;

use super::bitmap;
use super::map::{Mapping, Piece};
use super::pending::Pending;
use crate::alloc;
use crate::dirty::PageSize;
use crate::error::Result;

/// The most memory that they may take, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// The memory that a cookie takes besides its pages, in bytes.
const COOKIE_BYTES: u64 = 128;

/// The most pages given at a time: their bits are on the stack.
const BATCH: u64 = 64 * 64;

const TOO_MUCH: &str = "too many pages from earlier unmappings wait for the VMM to take them";

/// Takes dirty pages: a piece, the address of the first page, the bits, how many.
type Take<'a> = &'a mut dyn FnMut(&Piece, u64, &mut [u64], u64) -> Result<()>;

/// Some pages in the VMM's memory.
#[derive(Clone, Copy)]
pub(super) struct Pages {
    pub cookie: u64,
    /// The number of the first page, counted from the start of what the cookie stands for.
    pub first: u64,
    pub n: u64,
}

/// The dirty pages of mappings that are gone.
#[derive(Default)]
pub(super) struct Orphans {
    /// Pages whose place is known: by cookie, their numbers in what it stands for.
    known: BTreeMap<u64, Pending>,
    /// What `known` takes, in bytes.
    known_bytes: u64,
    /// Pages that the VMM could not place, by the I/O address that they had.
    unknown: Pending,
    /// Pieces all of whose pages count as dirty, because there was no room to say which are. If a
    /// piece's place is known, its addresses are offsets in the VMM's memory.
    whole: Vec<Piece>,
}

impl Orphans {
    /// Adds pages. Those that are here already take no memory. The others are refused if there is
    /// no memory or no room; some of them may have been added then.
    pub fn add(&mut self, pages: Pages) -> Result<()> {
        let Pages { cookie, first, n } = pages;
        if n == 0 {
            return Ok(());
        }
        let grow = !self.is_full();
        let there = match self.known.entry(cookie) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) if grow && alloc::has_memory() => place.insert(Pending::default()),
            Entry::Vacant(_) => return alloc::refuse(TOO_MUCH),
        };
        let before = if there.is_empty() { 0 } else { bytes_of(there) };
        let result = there.add_exact(first..=first.saturating_add(n - 1), grow);
        let after = if there.is_empty() { 0 } else { bytes_of(there) };
        if after == 0 {
            self.known.remove(&cookie);
        }
        self.known_bytes = self.known_bytes.saturating_sub(before) + after;
        result
    }

    /// Adds pages whose place is not known, by their numbers in the I/O address space. They may be
    /// refused, like those of [`Orphans::add`].
    pub fn add_unknown(&mut self, pages: RangeInclusive<u64>) -> Result<()> {
        let grow = !self.is_full();
        self.unknown.add_exact(pages, grow)
    }

    /// Reserves memory for keeping this many pieces as a whole.
    pub fn reserve(&mut self, pieces: usize) -> Result<()> {
        alloc::reserve(&mut self.whole, pieces, "no memory for what an unmapping may leave")
    }

    /// Frees reserved memory that was not needed.
    pub fn give_back(&mut self) {
        if self.whole.is_empty() {
            self.whole = Vec::new();
        }
    }

    /// Keeps all of a piece, for which room was reserved.
    pub fn add_whole(&mut self, piece: &Piece, page: PageSize) -> Result<()> {
        let piece = match piece.mapping.translate {
            true => *piece,
            false => {
                let first = page.of(piece.offset_of(piece.first));
                let n = page.of(piece.last) - page.of(piece.first) + 1;
                place(page, Pages { cookie: piece.mapping.cookie, first, n })
            }
        };
        alloc::push(&mut self.whole, piece, TOO_MUCH)
    }

    /// Gives everything to `sink`. What it refuses stays, and the first error is returned.
    pub fn deliver(&mut self, page: PageSize, sink: Take<'_>) -> Result<()> {
        let mut result = Ok(());
        for (cookie, pages) in &mut self.known {
            let mut from = Some(0);
            while let Some((first, n)) = from.and_then(|from| pages.first_run(from)) {
                let n = n.min(BATCH);
                from = first.checked_add(n);
                match give(page, Pages { cookie: *cookie, first, n }, sink) {
                    Ok(()) => pages.remove(first, n),
                    Err(error) => result = result.and(Err(error)),
                }
            }
        }
        self.known.retain(|_, pages| !pages.is_empty());
        self.known_bytes = self.known.values().map(bytes_of).sum();
        self.whole.retain_mut(|piece| {
            if piece.mapping.translate {
                return true;
            }
            let (refused, error) = give_whole(page, piece, sink);
            if let Some((first, last)) = refused {
                (piece.first, piece.last) = (first, last);
            }
            result = std::mem::replace(&mut result, Ok(())).and(error);
            refused.is_some()
        });
        self.give_back();
        result
    }

    /// Asks `locate` about the pages whose place is not known. It gets the number of a page and how
    /// many pages there are from there on. Returns how many were found, and the first error.
    pub fn locate(
        &mut self,
        page: PageSize,
        mut locate: impl FnMut(u64, u64) -> Result<Pages>,
    ) -> (u64, Result<()>) {
        let (mut located, mut result) = (0, Ok(()));
        let mut from = Some(0);
        while let Some((number, _)) = from.and_then(|from| self.unknown.first_run(from)) {
            from = number.checked_add(1);
            match locate(number, 1) {
                Ok(pages) => {
                    if let Err(error) = self.add(Pages { n: 1, ..pages }) {
                        return (located, result.and(Err(error)));
                    }
                    self.unknown.remove(number, 1);
                    located += 1;
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        let mut whole = std::mem::take(&mut self.whole);
        let mut full = Ok(());
        whole.retain_mut(|piece| {
            while piece.mapping.translate && full.is_ok() {
                let (number, end) = (page.of(piece.first), page.of(piece.last));
                let left = end - number + 1;
                let n = match locate(number, left) {
                    Ok(pages) => {
                        let n = pages.n.clamp(1, left);
                        full = self.add(Pages { n, ..pages });
                        located += if full.is_ok() { n } else { 0 };
                        n
                    }
                    Err(error) => {
                        result = std::mem::replace(&mut result, Ok(())).and(Err(error));
                        full = self.add_unknown(number..=number);
                        1
                    }
                };
                if full.is_ok() && n == left {
                    return false;
                }
                piece.first += if full.is_ok() { n << page.shift() } else { 0 };
            }
            true
        });
        self.whole = whole;
        (located, result.and(full))
    }

    /// Whether some pages must be delivered before more may be added.
    pub fn is_full(&self) -> bool {
        self.known_bytes + self.unknown.footprint() + whole_bytes(self.whole.len()) >= MAX_BYTES
    }

    pub fn clear(&mut self) {
        self.known.clear();
        self.known_bytes = 0;
        self.unknown.clear();
        self.whole = Vec::new();
    }

    /// The memory that they take, in bytes.
    pub fn footprint(&self) -> u64 {
        self.known_bytes + self.unknown.footprint() + whole_bytes(self.whole.capacity())
    }
}

fn bytes_of(pages: &Pending) -> u64 {
    COOKIE_BYTES + pages.footprint()
}

fn whole_bytes(pieces: usize) -> u64 {
    (pieces * size_of::<Piece>()) as u64
}

/// Gives pages, at most one batch.
fn give(page: PageSize, pages: Pages, sink: Take<'_>) -> Result<()> {
    let mut ones = [0; (BATCH / 64) as usize];
    bitmap::set(&mut ones, 0, pages.n);
    let words = ones.get_mut(..bitmap::words_for(pages.n)).unwrap_or_default();
    let piece = place(page, pages);
    sink(&piece, piece.first, words, pages.n)
}

/// Gives all of a piece. Returns the first and last address that were refused, and the first error.
fn give_whole(page: PageSize, piece: &Piece, sink: Take<'_>) -> (Option<(u64, u64)>, Result<()>) {
    let (mut refused, mut result) = (None, Ok(()));
    let (mut first, end) = (page.of(piece.first), page.of(piece.last));
    loop {
        let n = (end - first + 1).min(BATCH);
        let pages = Pages { cookie: piece.mapping.cookie, first, n };
        if let Err(error) = give(page, pages, sink) {
            let there = place(page, pages);
            refused = Some((refused.map_or(there.first, |(from, _)| from), there.last));
            result = result.and(Err(error));
        }
        if end - first < BATCH {
            return (refused, result);
        }
        first += n;
    }
}

/// Pages of the VMM's memory as a piece whose addresses are their offsets.
fn place(page: PageSize, pages: Pages) -> Piece {
    let Pages { cookie, first, n } = pages;
    let (iova, size) = (first << page.shift(), n << page.shift());
    let mapping = Mapping { iova, size, cookie, offset: iova, ..Mapping::default() };
    Piece { first: iova, last: iova + (size - 1), mapping }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::err;

    fn page() -> PageSize {
        PageSize::new(4096).unwrap()
    }

    type Taken = Vec<(u64, u64, u64)>;

    /// Delivers everything; the pages of one cookie are refused.
    fn take(orphans: &mut Orphans, refuse: Option<u64>) -> (Taken, Result<()>) {
        let mut taken = Vec::new();
        let result = orphans.deliver(page(), &mut |piece, _, words, n| {
            let Piece { first, mapping, .. } = piece;
            assert_eq!((mapping.offset, words.len()), (*first, n.div_ceil(64) as usize));
            assert_eq!(words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>(), n);
            if Some(mapping.cookie) == refuse {
                return Err(err!(Io, "no"));
            }
            taken.push((mapping.cookie, first / 4096, n));
            Ok(())
        });
        (taken, result)
    }

    #[test]
    fn the_same_page_takes_its_room_once_and_comes_once() {
        let mut orphans = Orphans::default();
        for i in 0..100_000 {
            orphans.add(Pages { cookie: i % 3, first: i % 100, n: 1 }).unwrap();
            orphans.add_unknown(i % 7..=i % 7).unwrap();
        }
        let bytes = orphans.footprint();
        assert!(bytes <= 4 * (4096 + COOKIE_BYTES), "{bytes}");
        let (located, unknown) = orphans.locate(page(), |page, n| match page {
            0..3 => Ok(Pages { cookie: page, first: 99 + page, n }),
            _ => Err(err!(Io, "not {page}")),
        });
        assert_eq!((located, unknown.unwrap_err().message()), (3, "not 3"));

        // The pages of one cookie are refused, and stay.
        assert!(take(&mut orphans, Some(1)).1.is_err());
        let (first, second) = (take(&mut orphans, None).0, take(&mut orphans, None).0);
        assert_eq!((first, second), (vec![(1, 0, 101)], vec![]));
        assert!(orphans.known.is_empty() && !orphans.unknown.is_empty());
        let all = |first, n| Ok(Pages { cookie: 5, first, n });
        assert_eq!(orphans.locate(page(), all).0, 4);
        assert_eq!(take(&mut orphans, None).0, [(5, 3, 4)]);
        assert_eq!(orphans.footprint(), 0);
    }

    #[test]
    fn what_is_a_page_each_of_too_many_blocks_is_too_much() {
        let mut orphans = Orphans::default();
        let mut n = 0;
        while !orphans.is_full() {
            orphans.add(Pages { cookie: n, first: 0, n: 1 }).unwrap();
            n += 1;
        }
        let each = 4096 + COOKIE_BYTES;
        assert_eq!(n, MAX_BYTES.div_ceil(each));
        // Pages that are here already may be added again; others are refused.
        assert!(orphans.add(Pages { cookie: 7, first: 9, n: 1 }).is_ok());
        assert!(orphans.add(Pages { cookie: 7, first: 1 << 20, n: 1 }).is_err());
        assert!(orphans.add(Pages { cookie: n, first: 0, n: 1 }).is_err());
        assert!(orphans.add_unknown(0..=0).is_err());
        orphans.deliver(page(), &mut |_, _, _, _| Ok(())).unwrap();
        assert!(!orphans.is_full());
    }

    #[test]
    fn what_is_kept_as_a_whole_comes_as_a_whole() {
        let mut orphans = Orphans::default();
        let mapping = Mapping { iova: 4096, cookie: 1, offset: 1 << 20, ..Mapping::default() };
        let piece = Piece { first: 8192, last: 8192 + 10_000 * 4096 - 1, mapping };
        orphans.reserve(2).unwrap();
        orphans.add_whole(&piece, page()).unwrap();
        let translated = Mapping { translate: true, ..mapping };
        let last = 8192 + 10 * 4096 - 1;
        orphans.add_whole(&Piece { last, mapping: translated, ..piece }, page()).unwrap();
        // Refused as a whole, in its middle, and not at all.
        assert!(take(&mut orphans, Some(1)).1.is_err());
        let mut n = 0;
        let middle = orphans.deliver(page(), &mut |_, _, _, bits| {
            n += 1;
            if n == 2 { Err(err!(Io, "{bits}")) } else { Ok(()) }
        });
        assert!(middle.is_err());
        assert_eq!(take(&mut orphans, None).0, [(1, 257 + 4096, 4096)]);
        // Three pages at once are known, two are not, then one at a time.
        let (located, result) = orphans.locate(page(), |first, _| match first {
            2 => Ok(Pages { cookie: 2, first: 70, n: 3 }),
            5 | 6 => Err(err!(Io, "not {first}")),
            _ => Ok(Pages { cookie: 2, first, n: 1 }),
        });
        assert_eq!((located, result.unwrap_err().message()), (8, "not 5"));
        assert_eq!(take(&mut orphans, None).0, [(2, 7, 5), (2, 70, 3)]);
        let (located, result) =
            orphans.locate(page(), |first, n| Ok(Pages { cookie: 3, first, n }));
        assert_eq!((located, result.is_ok()), (2, true));
        assert_eq!(take(&mut orphans, None).0, [(3, 5, 2)]);
        assert_eq!(orphans.footprint(), 0);
    }
}
