// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was dirty in mappings that go: given to the VMM, and kept where it refuses.

use std::ops::RangeInclusive;

use super::super::bitmap;
use super::super::errors::DirtyError;
use super::super::map::Piece;
use super::super::orphans::Pages;
use super::super::tracker::TrackerKind;
use super::Run;
use super::deliver::{BATCH, give, give_at, place_of};
use crate::error::{Code, Error, Result, err};

/// How handing over goes.
pub(super) struct Handing {
    /// Whether the mapping is gone: what the VMM does not know the place of has to be kept like that.
    pub gone: bool,
    /// The first that the VMM refused.
    pub refused: Option<Error>,
}

impl Handing {
    pub fn new(gone: bool) -> Handing {
        Handing { gone, refused: None }
    }

    fn note(&mut self, error: Error) {
        self.refused.get_or_insert(error);
    }
}

impl Run {
    /// Gives dirty pages of a piece that goes to the VMM, which is asked once for the place of each,
    /// and keeps what it refuses. Their bits are cleared. Fails where there is no memory or no room to
    /// keep more: what is left in `words` is kept nowhere.
    pub(super) fn hand_over(
        &mut self,
        piece: &Piece,
        first: u64,
        words: &mut [u64],
        bits: u64,
        handing: &mut Handing,
    ) -> Result<()> {
        let Run { memory, orphans, page, .. } = self;
        let (page, gone) = (*page, || err!(NotRecoverable, "an earlier call did not come back"));
        let memory = memory.as_deref_mut().ok_or_else(gone)?;
        let Piece { mapping, .. } = piece;
        if !mapping.translate {
            let Err(error) = give(memory, page, piece, first, words, bits) else {
                words.fill(0);
                return Ok(());
            };
            handing.note(error);
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
                    handing.note(error);
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
                handing.note(error);
                orphans.add(Pages { cookie: place.cookie, first: page.of(place.offset), n })?;
            }
            bitmap::clear(words, at, n);
            next = at + n;
        }
        Ok(())
    }

    /// Hands over what is dirty in a range that is gone. Where there is no room to keep what the VMM
    /// refuses of a piece, all of the piece is kept.
    pub(super) fn hand_over_unmapped(&mut self, range: &RangeInclusive<u64>, places: &[Piece]) {
        let mut handing = Handing::new(true);
        for piece in places {
            let mut kept = Ok(());
            self.each_pending(piece, &mut |run, first, words, bits| {
                if kept.is_ok() {
                    kept = run.hand_over(piece, first, words, bits, &mut handing);
                }
                Ok(())
            });
            if kept.is_err() {
                if let Err(error) = self.orphans.add_whole(piece, self.page) {
                    handing.note(error);
                }
            }
        }
        self.orphans.give_back();
        if let Some(error) = handing.refused {
            self.errors.add(DirtyError::new(None, TrackerKind::None, range, &error));
        }
    }

    /// Gives what is left of mappings that are gone to the VMM, which is asked where that is what it
    /// did not know when they were unmapped. What is refused stays.
    pub(super) fn drain_orphans(&mut self) -> Result<()> {
        loop {
            let (num, located) = self.locate_orphans();
            let page = self.page;
            let delivered = self.deliver_to_memory(|run, sink| run.orphans.deliver(page, sink));
            // There may be room for more now.
            let more = located.as_ref().is_err_and(|error| error.code() == Code::NoMem);
            if num == 0 || !more || delivered.is_err() {
                return located.and(delivered);
            }
        }
    }

    /// Asks the VMM where the pages are of which it did not know that when they were unmapped.
    fn locate_orphans(&mut self) -> (u64, Result<()>) {
        let Run { memory, orphans, page, .. } = self;
        let (page, Some(memory)) = (*page, memory.as_deref_mut()) else { return (0, Ok(())) };
        orphans.locate(page, |number, n| {
            let place = place_of(memory, page, number << page.shift(), n)?;
            Ok(Pages { cookie: place.cookie, first: page.of(place.offset), n: page.of(place.size) })
        })
    }
}
