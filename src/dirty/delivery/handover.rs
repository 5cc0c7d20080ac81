// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hands over the dirty pages of mappings that are being removed. What the VMM does not take is
//! kept by its place in the VMM's memory.

use std::ops::RangeInclusive;

use super::Delivery;
use super::give::{BATCH, give, give_at, place_of};
use super::places::Places;
use crate::dirty::bitmap;
use crate::dirty::buffers::Union;
use crate::dirty::ledger::Ledger;
use crate::dirty::map::Piece;
use crate::dirty::orphans::Pages;
use crate::dirty::tracker::TrackerKind;
use crate::error::{Code, Error, Result, err};

/// The state of one handing over of pages.
struct Handing {
    /// Whether the mapping is gone. Then pages whose place the VMM does not know are kept by their
    /// I/O address; before that, they stay pending.
    gone: bool,
    /// The first error with which the VMM refused a page.
    refused: Option<Error>,
}

impl Handing {
    fn new(gone: bool) -> Handing {
        Handing { gone, refused: None }
    }

    fn refuse(&mut self, error: Error) {
        self.refused.get_or_insert(error);
    }
}

impl Delivery {
    /// Fails if the VMM takes no pages, or has to take some before more can be unmapped.
    pub fn check_room(&mut self) -> Result<()> {
        if !self.takes_pages() {
            return Err(err!(
                Inval,
                "there is nowhere to put what is dirty: no bitmap, no set_dirty"
            ));
        }
        if !self.orphans.is_full() {
            return Ok(());
        }
        let drained = self.drain();
        if !self.orphans.is_full() {
            return Ok(());
        }
        let error = drained.err().unwrap_or_else(|| err!(Io, "the VMM does not take dirty pages"));
        Err(error
            .note("; too many pages from earlier unmappings wait for that, so nothing is unmapped"))
    }

    /// Reserves memory for keeping this many pieces as a whole.
    pub fn reserve(&mut self, pieces: usize) -> Result<()> {
        self.orphans.reserve(pieces)
    }

    /// Frees reserved memory that was not needed.
    pub fn give_back(&mut self) {
        self.orphans.give_back();
    }

    /// Finds the places of the pending pages of these pieces. If there are more than `places` can
    /// hold, the rest is handed over at once. Fails if the VMM does not take those and they cannot
    /// be kept; they stay pending then, and nothing must be unmapped.
    pub fn locate(
        &mut self,
        pieces: &[Piece],
        ledger: &mut Ledger,
        union: &mut Union,
        places: &mut Places,
    ) -> Result<()> {
        for piece in pieces {
            places.begin(piece);
            if piece.mapping.translate {
                ledger.each_pending(piece, union, &mut |ledger, first, words, bits| {
                    self.locate_part(piece, first, words, bits, ledger, places)
                })?;
            }
            places.end(piece);
        }
        Ok(())
    }

    fn locate_part(
        &mut self,
        piece: &Piece,
        first: u64,
        words: &mut [u64],
        bits: u64,
        ledger: &mut Ledger,
        places: &mut Places,
    ) -> Result<()> {
        let page = self.page;
        let mut next = 0;
        while let Some((at, n)) = bitmap::runs(words, next..bits).next() {
            let mut done = 0;
            while done < n && !places.is_full() {
                let iova = first + ((at + done) << page.shift());
                done += match place_of(self.memory.as_mut(), page, iova, n - done) {
                    Ok(place) => {
                        let pages = page.of(place.size).min(n - done);
                        places.add(piece, iova, pages, place);
                        pages
                    }
                    Err(_) => {
                        places.add_unknown();
                        1
                    }
                };
            }
            next = at + done;
            if places.is_full() {
                break;
            }
        }
        // These are delivered after the range has been unmapped, together with what is written
        // until then.
        let is_full = places.is_full();
        let kept = if is_full { next } else { bits };
        ledger.add_bits(first, words, 0..kept);
        if !is_full {
            return Ok(());
        }
        bitmap::clear(words, 0, kept);
        let mut handing = Handing::new(false);
        let handed = self.hand_over(piece, first, words, bits, &mut handing);
        let handed = handed.map_err(|error| match (&handing.refused, self.orphans.is_full()) {
            (Some(refused), true) => refused.clone(),
            _ => error,
        });
        ledger.add_bits(first, words, 0..bits);
        if let Some(error) = handing.refused {
            ledger.record(None, TrackerKind::None, &piece.range(), &error);
        }
        handed
    }

    /// Hands over what is pending in a range that is gone. If there is no room to keep the pages of
    /// a piece that the VMM refuses, the piece is kept as a whole.
    pub fn hand_over_pending(
        &mut self,
        range: &RangeInclusive<u64>,
        pieces: &[Piece],
        ledger: &mut Ledger,
        union: &mut Union,
    ) {
        let mut handing = Handing::new(true);
        for piece in pieces {
            let mut kept = Ok(());
            let taken = ledger.each_pending(piece, union, &mut |_, first, words, bits| {
                if kept.is_ok() {
                    kept = self.hand_over(piece, first, words, bits, &mut handing);
                }
                Ok(())
            });
            if kept.and(taken).is_err() {
                if let Err(error) = self.orphans.add_whole(piece, self.page) {
                    handing.refuse(error);
                }
            }
        }
        self.orphans.give_back();
        if let Some(error) = handing.refused {
            ledger.record(None, TrackerKind::None, range, &error);
        }
    }

    /// Gives dirty pages to the VMM, for a piece that is being unmapped. The VMM is asked once for
    /// the place of each page, and what it refuses is kept. Bits of pages that were taken or kept
    /// are cleared. Fails if there is no memory or room to keep more; bits that are left in `words`
    /// then are kept nowhere else.
    fn hand_over(
        &mut self,
        piece: &Piece,
        first: u64,
        words: &mut [u64],
        bits: u64,
        handing: &mut Handing,
    ) -> Result<()> {
        let Delivery { page, memory, orphans } = self;
        let (page, memory, mapping) = (*page, memory.as_mut(), piece.mapping);
        if !mapping.translate {
            let Err(error) = give(memory, page, piece, first, words, bits) else {
                words.fill(0);
                return Ok(());
            };
            handing.refuse(error);
        }
        let mut next = 0;
        while let Some((at, n)) = bitmap::runs(words, next..bits).next() {
            let iova = first + (at << page.shift());
            if !mapping.translate {
                let first = page.of(piece.offset_of(iova));
                orphans.add(Pages { cookie: mapping.cookie, first, n })?;
                bitmap::clear(words, at, n);
                next = at + n;
                continue;
            }
            let place = match place_of(memory, page, iova, n) {
                Ok(place) => place,
                Err(error) => {
                    handing.refuse(error);
                    if handing.gone {
                        orphans.add_unknown(page.of(iova)..=page.of(iova))?;
                        bitmap::clear(words, at, 1);
                    }
                    next = at + 1;
                    continue;
                }
            };
            let n = page.of(place.size).min(n).min(BATCH);
            if let Err(error) = give_at(memory, page, iova, place, n) {
                handing.refuse(error);
                orphans.add(Pages { cookie: place.cookie, first: page.of(place.offset), n })?;
            }
            bitmap::clear(words, at, n);
            next = at + n;
        }
        Ok(())
    }

    /// Gives the VMM what is left of mappings that are gone. It is asked again for the places that
    /// it did not know when they were unmapped. What it refuses stays.
    pub fn drain(&mut self) -> Result<()> {
        let Delivery { page, memory, orphans } = self;
        let (page, memory) = (*page, memory.as_mut());
        loop {
            let (num, located) = orphans.locate(page, |number, n| {
                let place = place_of(memory, page, number << page.shift(), n)?;
                let first = page.of(place.offset);
                Ok(Pages { cookie: place.cookie, first, n: page.of(place.size) })
            });
            let delivered = orphans.deliver(page, &mut |piece, first, words, bits| {
                give(memory, page, piece, first, words, bits)
            });
            // Go round again if memory was short: delivering has made room.
            let more = located.as_ref().is_err_and(|error| error.code() == Code::NoMem);
            if num == 0 || !more || delivered.is_err() {
                return located.and(delivered);
            }
        }
    }
}
