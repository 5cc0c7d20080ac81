// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mappings that go: their dirty pages are handed over to the VMM, and what it does not take is kept by
//! where it lies.

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

/// How handing over goes.
struct Handing {
    /// Whether the mapping is gone: what the VMM does not know the place of has to be kept like that.
    gone: bool,
    /// The first that the VMM refused.
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
    /// Whether the VMM takes pages, and enough of them for more to be unmapped.
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
        Err(error.note("; too much that was unmapped before waits for that: nothing is unmapped"))
    }

    /// Makes sure that so many pieces can be kept as a whole.
    pub fn reserve(&mut self, pieces: usize) -> Result<()> {
        self.orphans.reserve(pieces)
    }

    /// Gives the room back that was not needed.
    pub fn give_back(&mut self) {
        self.orphans.give_back();
    }

    /// Finds the places of the pending pages of these pieces. Where they are more than can be kept,
    /// those pages are handed over at once; fails where the VMM does not take them and they cannot be
    /// kept. They are pending then, and nothing must be unmapped.
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
        // These come when the range has been unmapped, with what is written to until then.
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

    /// Hands over what is pending in a range that is gone. Where there is no room to keep what the VMM
    /// refuses of a piece, all of the piece is kept.
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

    /// Gives dirty pages of a piece that goes to the VMM, which is asked once for the place of each,
    /// and keeps what it refuses. Their bits are cleared. Fails where there is no memory or no room to
    /// keep more: what is left in `words` is kept nowhere.
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

    /// Gives what is left of mappings that are gone to the VMM, which is asked where that is what it
    /// did not know when they were unmapped. What is refused stays.
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
            // There may be room for more now.
            let more = located.as_ref().is_err_and(|error| error.code() == Code::NoMem);
            if num == 0 || !more || delivered.is_err() {
                return located.and(delivered);
            }
        }
    }
}
