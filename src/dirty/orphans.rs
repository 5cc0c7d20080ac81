// SPDX-License-Identifier: MIT OR Apache-2.0
//! Dirty pages whose mapping is gone and that the VMM has not taken yet.
//!
//! A guest behind a vIOMMU maps and unmaps as often as it likes while the VMM refuses pages. So these
//! are kept by where they are in the VMM's memory: a page that was unmapped a thousand times takes the
//! room of one. Nothing may be rounded here, since what lies beside a page may not exist; when it
//! becomes too much, the VMM has to take some before more can be unmapped ([`Orphans::is_full`]).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::map::{Mapping, Piece};
use super::pending::{MAX_RUN, Pending};
use crate::dirty::PageSize;
use crate::error::Result;

/// What they may take, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// What a cookie takes besides its pages.
const COOKIE_BYTES: u64 = 128;

/// Takes dirty pages: a piece, its first page's address, the bits.
type Take<'a> = &'a mut dyn FnMut(&Piece, u64, &mut [u64], u64) -> Result<()>;

/// See the module.
pub(super) struct Orphans {
    /// By cookie: the numbers of the pages there.
    known: BTreeMap<u64, Pending>,
    /// What `known` takes, in bytes.
    known_bytes: u64,
    /// Pages of which the VMM could not say where they are, by the address that they had.
    unknown: Pending,
}

impl Default for Orphans {
    fn default() -> Orphans {
        Orphans { known: BTreeMap::new(), known_bytes: 0, unknown: Pending::exact() }
    }
}

impl Orphans {
    /// Adds `n` pages from page `first` of what `cookie` stands for.
    pub fn add(&mut self, cookie: u64, first: u64, n: u64) {
        if n == 0 {
            return;
        }
        let pages = self.known.entry(cookie).or_insert_with(Pending::exact);
        let before = if pages.is_empty() { 0 } else { bytes_of(pages) };
        pages.add(first..=first.saturating_add(n - 1));
        self.known_bytes = self.known_bytes.saturating_sub(before) + bytes_of(pages);
    }

    /// Adds the page with this number in the address space that it was in.
    pub fn add_unknown(&mut self, page: u64) {
        self.add_all_unknown(page..=page);
    }

    /// Adds pages of which it is not known where they are.
    pub fn add_all_unknown(&mut self, pages: RangeInclusive<u64>) {
        self.unknown.add(pages);
    }

    /// Gives all to `sink`, which fails for what it refuses: that stays, and the first error is
    /// returned.
    pub fn deliver(&mut self, page: PageSize, sink: Take<'_>) -> Result<()> {
        let mut result = Ok(());
        for (cookie, pages) in &mut self.known {
            let mut from = Some(0);
            while let Some((first, n)) = from.and_then(|from| pages.first_run(from)) {
                from = first.checked_add(n);
                let mut ones = [0; (MAX_RUN / 64) as usize];
                super::bitmap::set(&mut ones, 0, n);
                let words = ones.get_mut(..super::bitmap::words_for(n)).unwrap_or_default();
                let piece = place(page, *cookie, first, n);
                match sink(&piece, piece.first, words, n) {
                    Ok(()) => pages.remove(first, n),
                    Err(error) => result = result.and(Err(error)),
                }
            }
        }
        self.known.retain(|_, pages| !pages.is_empty());
        self.known_bytes = self.known.values().map(bytes_of).sum();
        result
    }

    /// Asks `locate` for the pages of which it is not known where they are: it returns a cookie and
    /// the number of the page there. The first error is returned.
    pub fn locate(&mut self, mut locate: impl FnMut(u64) -> Result<(u64, u64)>) -> Result<()> {
        let mut result = Ok(());
        let mut from = Some(0);
        while let Some((page, _)) = from.and_then(|from| self.unknown.first_run(from)) {
            from = page.checked_add(1);
            match locate(page) {
                Ok((cookie, first)) => {
                    self.unknown.remove(page, 1);
                    self.add(cookie, first, 1);
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// Whether more must not be added before some have been delivered.
    pub fn is_full(&self) -> bool {
        self.footprint() >= MAX_BYTES
    }

    pub fn clear(&mut self) {
        self.known.clear();
        self.known_bytes = 0;
        self.unknown.clear();
    }

    /// Bytes that they take.
    pub fn footprint(&self) -> u64 {
        self.known_bytes + self.unknown.footprint()
    }
}

fn bytes_of(pages: &Pending) -> u64 {
    COOKIE_BYTES + pages.footprint()
}

/// Pages of the VMM's memory as a piece: at addresses that are their offsets.
fn place(page: PageSize, cookie: u64, first: u64, n: u64) -> Piece {
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

    /// Delivers; one cookie's pages are refused.
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
            orphans.add(i % 3, i % 100, 1);
            orphans.add_unknown(i % 7);
        }
        let bytes = orphans.footprint();
        assert!(bytes <= 4 * (4096 + COOKIE_BYTES), "{bytes}");
        let unknown = orphans.locate(|page| {
            if page < 3 { Ok((page, 99 + page)) } else { Err(err!(Io, "not {page}")) }
        });
        assert_eq!(unknown.unwrap_err().message(), "not 3");

        // Those of one cookie are refused, and stay.
        assert!(take(&mut orphans, Some(1)).1.is_err());
        let (first, second) = (take(&mut orphans, None).0, take(&mut orphans, None).0);
        assert_eq!((first, second), (vec![(1, 0, 101)], vec![]));
        assert!(orphans.known.is_empty() && !orphans.unknown.is_empty());
        orphans.locate(|page| Ok((5, page))).unwrap();
        assert_eq!(take(&mut orphans, None).0, [(5, 3, 4)]);
        assert_eq!(orphans.footprint(), 0);
    }

    #[test]
    fn what_is_a_page_each_of_too_many_blocks_is_too_much() {
        let mut orphans = Orphans::default();
        let mut n = 0;
        while !orphans.is_full() {
            orphans.add(n, 0, 1);
            n += 1;
        }
        let each = 4096 + COOKIE_BYTES;
        assert_eq!(n, MAX_BYTES.div_ceil(each));
        orphans.deliver(page(), &mut |_, _, _, _| Ok(())).unwrap();
        assert!(!orphans.is_full());
    }
}
