// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where translated pages are in the VMM's memory. The VMM is asked before they are unmapped,
//! because afterwards it may no longer know.

use crate::alloc;
use crate::dirty::bitmap::PageSize;
use crate::dirty::map::{Mapping, Piece};
use crate::dirty::memory::Place;
use crate::error::Result;

/// The most places kept during an unmapping. A guest decides how many there are.
const MAX_PLACES: usize = 1024;

/// After this many pages that the VMM does not know, it is not asked about the rest until the range
/// has been unmapped.
const MAX_UNKNOWN: usize = 1024;

/// The known places, and between them the parts of mappings whose place is not known.
pub(in crate::dirty) struct Places {
    page: PageSize,
    found: Vec<Piece>,
    known: usize,
    unknown: usize,
    /// The first address of the current piece that is not in `found`; none after the last address
    /// of all.
    next: Option<u64>,
}

impl Places {
    /// Reserves room for the places of this many pieces with this many translated pages. Each
    /// place, and each piece, adds at most one part whose place is not known.
    pub fn new(pieces: usize, pages: u64, page: PageSize) -> Result<Places> {
        let mut found = Vec::new();
        let places = usize::try_from(pages).unwrap_or(usize::MAX).min(MAX_PLACES);
        alloc::reserve(&mut found, pieces + 2 * places, "no memory for the places of mappings")?;
        Ok(Places { page, found, known: 0, unknown: 0, next: None })
    }

    /// The most pieces that [`Places::found`] can return.
    pub fn room(&self) -> usize {
        self.found.capacity()
    }

    /// Whether it is time to stop asking the VMM.
    pub fn is_full(&self) -> bool {
        self.known >= MAX_PLACES || self.unknown >= MAX_UNKNOWN
    }

    /// Begins with the next piece.
    pub fn begin(&mut self, piece: &Piece) {
        self.next = Some(piece.first);
    }

    /// Adds the place of `pages` pages, which begin at an address within a piece.
    pub fn add(&mut self, piece: &Piece, iova: u64, pages: u64, place: Place) {
        let size = pages << self.page.shift();
        let Place { cookie, offset, .. } = place;
        let last = iova + (size - 1);
        if self.next == Some(iova) {
            if let Some(before) = self.found.last_mut().filter(|before| !before.mapping.translate) {
                let mapping = &mut before.mapping;
                let same = mapping.cookie == cookie
                    && mapping.offset.checked_add(mapping.size) == Some(offset);
                if same && before.last.checked_add(1) == Some(iova) && before.first >= piece.first {
                    (before.last, mapping.size) = (last, mapping.size + size);
                    self.next = last.checked_add(1);
                    return;
                }
            }
        }
        self.add_rest(piece, iova.checked_sub(1));
        let mapping = Mapping { iova, size, cookie, offset, ..Mapping::default() };
        self.found.push(Piece { first: iova, last, mapping });
        self.known += 1;
        self.next = last.checked_add(1);
    }

    /// Counts a page that the VMM does not know.
    pub fn add_unknown(&mut self) {
        self.unknown += 1;
    }

    /// Ends a piece: the rest of it is added without a place.
    pub fn end(&mut self, piece: &Piece) {
        self.add_rest(piece, Some(piece.last));
    }

    /// Adds the rest of a piece, up to an address, without a place.
    fn add_rest(&mut self, piece: &Piece, last: Option<u64>) {
        if let (Some(first), Some(last)) = (self.next, last) {
            if first <= last {
                self.found.push(Piece { first, last, ..*piece });
            }
        }
    }

    /// All of the pieces, cut wherever the place changes or is no longer known.
    pub fn found(&self) -> &[Piece] {
        &self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::fake::{PAGE, page};

    fn piece(first: u64, pages: u64) -> Piece {
        let (iova, size) = (first * PAGE, pages * PAGE);
        let mapping = Mapping { iova, size, translate: true, ..Mapping::default() };
        Piece { first: iova, last: iova + (size - 1), mapping }
    }

    fn place(cookie: u64, page: u64) -> Place {
        Place { cookie, offset: page * PAGE, size: PAGE, host: 0 }
    }

    #[test]
    fn neighbours_are_one_place_and_all_of_the_pieces_is_there() {
        let (first, second) = (piece(0, 16), piece(16, 8));
        let mut places = Places::new(2, 24, page()).unwrap();
        places.begin(&first);
        for (at, n, cookie, offset) in [(2, 1, 7, 50), (3, 2, 7, 51), (5, 1, 8, 53), (9, 1, 8, 57)]
        {
            places.add(&first, at * PAGE, n, place(cookie, offset));
        }
        places.end(&first);
        places.begin(&second);
        // Next to the one before, but in another piece.
        places.add(&second, 16 * PAGE, 1, place(8, 58));
        places.end(&second);
        let found = places.found().iter().map(|piece| {
            let at = (!piece.mapping.translate).then(|| piece.offset_of(piece.first) / PAGE);
            (piece.first / PAGE, piece.last / PAGE, at)
        });
        let expected = [
            (0, 1, None),
            (2, 4, Some(50)),
            (5, 5, Some(53)),
            (6, 8, None),
            (9, 9, Some(57)),
            (10, 15, None),
            (16, 16, Some(58)),
            (17, 23, None),
        ];
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn no_more_places_are_kept_than_there_is_room_for() {
        let piece = piece(0, 1 << 20);
        let mut places = Places::new(1, 1 << 20, page()).unwrap();
        let room = places.room();
        places.begin(&piece);
        let mut at = 0;
        while !places.is_full() {
            places.add(&piece, at * PAGE, 1, place(0, 2 * at));
            at += 2;
        }
        places.end(&piece);
        assert!(places.found().len() <= room && places.room() == room);
        let mut places = Places::new(1, 1 << 20, page()).unwrap();
        while !places.is_full() {
            places.add_unknown();
        }
    }
}
