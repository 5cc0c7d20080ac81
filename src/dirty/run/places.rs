// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where translated pages are in the VMM's memory, asked before they are unmapped: afterwards the VMM
//! may not know it any more.

use super::super::bitmap;
use super::super::errors::DirtyError;
use super::super::map::{Mapping, Piece};
use super::super::memory::Place;
use super::super::tracker::TrackerKind;
use super::Run;
use super::deliver::place_of;
use super::keep::Handing;
use crate::alloc;
use crate::dirty::PageSize;
use crate::error::{Error, Result};

/// Most places that are remembered over an unmapping. A guest decides how many there are.
const MAX_PLACES: usize = 1024;

/// After so many pages that the VMM does not know it is not asked for the rest until the range has
/// been unmapped.
const MAX_UNKNOWN: usize = 1024;

/// Places that are known, and the pieces of mappings between them of which that is not known.
struct Places {
    page: PageSize,
    found: Vec<Piece>,
    known: usize,
    unknown: usize,
    /// Why what is more than these cannot go.
    failed: Option<Error>,
    /// The first address that `found` does not have of the piece in question; none behind 2^64.
    next: Option<u64>,
}

impl Places {
    fn is_full(&self) -> bool {
        self.known >= MAX_PLACES || self.unknown >= MAX_UNKNOWN
    }

    /// Adds the place of `pages` pages at an address of a piece.
    fn add(&mut self, piece: &Piece, iova: u64, pages: u64, place: Place) {
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

    /// Adds what is left of a piece up to an address, as it is.
    fn add_rest(&mut self, piece: &Piece, last: Option<u64>) {
        if let (Some(first), Some(last)) = (self.next, last) {
            if first <= last {
                self.found.push(Piece { first, last, ..*piece });
            }
        }
    }
}

/// Room for all places of so many pieces, with so many translated pages in them: each has one behind it at the most of which nothing is
/// known, and so has each piece.
pub(super) fn places_of(pieces: usize, pages: u64) -> Result<Vec<Piece>> {
    let mut found = Vec::new();
    let places = usize::try_from(pages).unwrap_or(usize::MAX).min(MAX_PLACES);
    alloc::reserve(&mut found, pieces + 2 * places, "no memory for the places of mappings")?;
    Ok(found)
}

impl Run {
    /// The places of the pending pages of these pieces, and what is left of the pieces. Where they are
    /// more than can be remembered, those pages are delivered at once; fails where they can neither be
    /// delivered nor kept. They are pending then, and nothing must be unmapped.
    pub(super) fn locate(&mut self, pieces: &[Piece], found: Vec<Piece>) -> Result<Vec<Piece>> {
        let page = self.page;
        let mut places = Places { page, found, known: 0, unknown: 0, failed: None, next: None };
        for piece in pieces {
            places.next = Some(piece.first);
            if piece.mapping.translate {
                self.each_pending(piece, &mut |run, first, words, bits| {
                    run.locate_part(piece, first, words, bits, &mut places);
                    Ok(())
                });
            }
            places.add_rest(piece, Some(piece.last));
        }
        places.failed.map_or(Ok(places.found), Err)
    }

    fn locate_part(
        &mut self,
        piece: &Piece,
        first: u64,
        words: &mut [u64],
        bits: u64,
        places: &mut Places,
    ) {
        let page = self.page;
        let Some(mut memory) = self.memory.take() else {
            self.pending.add_bits(page.of(first), words, 0..bits);
            return;
        };
        let mut next = 0;
        while let Some((at, n)) = bitmap::runs(words, next..bits).next() {
            let mut done = 0;
            while done < n && !places.is_full() {
                let iova = first + ((at + done) << page.shift());
                match place_of(memory.as_mut(), page, iova, n - done) {
                    Ok(place) => {
                        let pages = page.of(place.size).min(n - done);
                        places.add(piece, iova, pages, place);
                        done += pages;
                    }
                    Err(_) => {
                        places.unknown += 1;
                        done += 1;
                    }
                }
            }
            next = at + done;
            if places.is_full() {
                break;
            }
        }
        // These come when the range has been unmapped, with what is written to until then.
        let is_full = places.is_full();
        let kept = if is_full { next } else { bits };
        self.pending.add_bits(page.of(first), words, 0..kept);
        self.memory = Some(memory);
        if !is_full {
            return;
        }
        bitmap::clear(words, 0, kept);
        let mut handing = Handing::new(false);
        if places.failed.is_none() {
            let kept = self.hand_over(piece, first, words, bits, &mut handing);
            places.failed =
                kept.err().map(|error| match (&handing.refused, self.orphans.is_full()) {
                    (Some(refused), true) => refused.clone(),
                    _ => error,
                });
        }
        self.pending.add_bits(page.of(first), words, 0..bits);
        if let Some(error) = handing.refused {
            self.errors.add(DirtyError::new(None, TrackerKind::None, &piece.range(), &error));
        }
    }
}
