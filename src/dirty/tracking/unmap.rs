// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mappings that go: what was dirty there is read in the order that each tracker needs.

use std::ops::RangeInclusive;

use super::{Synced, Tracking};
use crate::alloc;
use crate::dirty::asking::Asking;
use crate::dirty::bitmap::{PageSize, Span};
use crate::dirty::delivery::Delivery;
use crate::dirty::delivery::caller_bitmap::CallerBitmap;
use crate::dirty::delivery::give::callback_failed;
use crate::dirty::delivery::places::Places;
use crate::dirty::map::{Piece, check_range};
use crate::dirty::reading::Reading;
use crate::dirty::sweep::Sweep;
use crate::dirty::tracker::TrackerKind;
use crate::error::{Errno, Error, Result};

const NO_MEMORY: &str = "no memory for a list of mappings";

impl Tracking {
    /// Takes a range out of the map: reads what was dirty there, in the order that each tracker
    /// needs, and calls `unmap` in between, which removes the range from everything that has it
    /// mapped. Containers that are tracked have been unmapped already then, which does not matter:
    /// unmapping them again does nothing. Where `bitmap` is given, what was dirty is added there, in
    /// pages of its size, otherwise [`crate::dirty::Memory::set_dirty`] gets it. Where nothing is mapped, `unmap` is
    /// called and nothing else happens.
    ///
    /// When `unmap` fails the range stays in the map and counts as dirty.
    pub fn unmap(
        &mut self,
        iova: u64,
        size: u64,
        bitmap: Option<(PageSize, &mut [u64])>,
        unmap: impl FnOnce() -> std::result::Result<(), Errno>,
    ) -> Result<Synced> {
        self.check_process()?;
        let range = check_range("a range to unmap", iova, size, self.page)?;
        let sink = match bitmap {
            Some((page, words)) => {
                let span = Span { start: iova, length: size, page };
                Some(CallerBitmap::new(span, words, self.page)?)
            }
            None => None,
        };
        let unmap = || {
            unmap().map_err(|errno| {
                let error = callback_failed("unmap a range", iova, errno);
                error.note_args(format_args!(" ({size:#x} bytes)"))
            })
        };
        if !self.is_tracking() || self.map.pieces(&range).next().is_none() {
            unmap()?;
            self.map.remove(&range);
            return Ok(Synced::default());
        }
        self.inside(|tracking| {
            tracking.read_and_unmap(&range, sink, unmap)?;
            let told = tracking.tell(&range);
            tracking.map.remove(&range);
            tracking.ledger.trust(range.clone());
            tracking.map_changed(&range);
            Ok(told)
        })
    }

    /// Reads what is dirty in a range, has it unmapped in between, and delivers it.
    fn read_and_unmap(
        &mut self,
        range: &RangeInclusive<u64>,
        sink: Option<CallerBitmap<'_>>,
        unmap: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let page = self.page;
        let (Sweep { mut reading, .. }, delivery) = self.parts()?;
        // First: without memory nothing has happened.
        let pieces = alloc::collect(reading.asking.map.pieces(range), NO_MEMORY)?;
        let mut translated = Vec::new();
        if sink.is_none() {
            delivery.check_room()?;
            let found = pieces.iter().filter(|piece| piece.mapping.translate);
            translated = alloc::collect(found.copied(), NO_MEMORY)?;
        }
        let pages: u64 = translated.iter().map(|piece| page.of(piece.size())).sum();
        let mut places = (pages > 0).then(|| Places::new(pieces.len(), pages, page)).transpose()?;
        if sink.is_none() {
            delivery.reserve(places.as_ref().map_or(pieces.len(), Places::room))?;
        }
        reading.check_resets();
        reading.check_untracked(range);
        read_around(&mut reading, delivery, &pieces, &translated, places.as_mut(), unmap)
            .inspect_err(|_| delivery.give_back())?;
        let Reading { asking: Asking { map, ledger, .. }, union, .. } = reading;
        let places = places.as_ref().map_or(&pieces[..], Places::found);
        match sink {
            Some(mut sink) => {
                ledger.pay(range, |part| sink.add_range(part));
                ledger.deliver_pending(places, union, || Ok(()), &mut |_, first, words, bits| {
                    sink.add(first, words, bits);
                    Ok(())
                })
            }
            None => {
                ledger.add_owed(map, range);
                delivery.hand_over_pending(range, places, ledger, union);
                Ok(())
            }
        }
    }
}

/// Reads what is dirty in a range before and after it is unmapped.
fn read_around(
    reading: &mut Reading<'_>,
    delivery: &mut Delivery,
    pieces: &[Piece],
    translated: &[Piece],
    places: Option<&mut Places>,
    unmap: impl FnOnce() -> Result<()>,
) -> Result<()> {
    if let Err(error) = read_mapped(reading, delivery, pieces, translated, places) {
        // What a container had mapped is gone from there.
        if !reading.asking.trackers.active_of(&[TrackerKind::Type1]).is_empty() {
            doubt(&mut reading.asking, pieces, &error);
        }
        return Err(error.note("; what is dirty can neither be given nor kept: try again"));
    }
    if let Err(error) = unmap() {
        // Some of it may be gone: no tracker can be relied upon here any more.
        doubt(&mut reading.asking, pieces, &error);
        return Err(error);
    }
    // A device can write until the last moment: what still tells is read when it cannot.
    for i in reading.asking.trackers.active_of(&[TrackerKind::DeviceLog, TrackerKind::Custom]) {
        reading.pieces(i, pieces, false);
    }
    // A log that is lost by now can be made up for by now only.
    reading.check_resets();
    add_blind(&mut reading.asking, pieces, true);
    Ok(())
}

/// What is read before the range goes. What is known to be dirty in translated pieces is looked up in
/// the VMM's memory, as long as the VMM surely knows where it is: where there are `places`.
fn read_mapped(
    reading: &mut Reading<'_>,
    delivery: &mut Delivery,
    pieces: &[Piece],
    translated: &[Piece],
    places: Option<&mut Places>,
) -> Result<()> {
    // A page table forgets with the mapping; so may a tracker of the VMM's.
    for i in reading.asking.trackers.active_of(&[TrackerKind::Hwpt, TrackerKind::Custom]) {
        reading.pieces(i, pieces, true);
    }
    for i in reading.asking.trackers.active_of(&[TrackerKind::Type1]) {
        // Read-only pieces are unmapped like the others.
        for piece in pieces {
            reading.asking.unmap(i, piece, reading.sum);
        }
    }
    let Some(places) = places else { return Ok(()) };
    for i in reading.asking.trackers.active_of(&[TrackerKind::DeviceLog]) {
        reading.pieces(i, translated, false);
    }
    // Counted when it is added for good.
    add_blind(&mut reading.asking, translated, false);
    delivery.locate(pieces, reading.asking.ledger, reading.union, places)
}

/// Makes what counts as dirty whatever the trackers say pending. It is counted as assumed if wished.
fn add_blind(asking: &mut Asking<'_>, pieces: &[Piece], counted: bool) {
    for piece in pieces.iter().filter(|piece| !piece.mapping.read_only) {
        asking.trackers.add_blind(piece, counted, asking.ledger);
        asking.ledger.add_suspects(piece);
    }
}

/// Makes what could not be unmapped dirty for good. A page table says nothing about all of a mapping
/// that has a hole now, so where one cannot tell, all of it is doubtful.
fn doubt(asking: &mut Asking<'_>, pieces: &[Piece], error: &Error) {
    let Asking { map, trackers, ledger, .. } = asking;
    let before = ledger.total_errors();
    let tables = trackers.active_of(&[TrackerKind::Hwpt]);
    for piece in pieces {
        let whole = map.whole(piece);
        let blind = tables.iter().any(|i| {
            let table = trackers.get_mut(*i);
            table.is_some_and(|table| !table.can_tell_holes(&whole))
        });
        let piece = if blind { &whole } else { piece };
        ledger.add(&piece.range());
        ledger.suspect(piece.range());
        ledger.record(None, TrackerKind::None, &piece.range(), error);
        trackers.verify(&whole.range(), map, ledger);
    }
    // The call fails, which says it.
    ledger.told(ledger.total_errors() - before);
}
