// SPDX-License-Identifier: MIT OR Apache-2.0
//! Removes mappings, and reads what was dirty there in the order that each tracker needs.

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
    /// Removes a range from the map: reads what was dirty there, in the order that each tracker
    /// needs, and calls `unmap` in between, which must unmap the range from everything that has it
    /// mapped. The library has unmapped containers that it tracks by then, which does no harm:
    /// unmapping them again does nothing. What was dirty is added to `bitmap`, in pages of its
    /// size, if there is one, and otherwise given to [`crate::dirty::Memory::set_dirty`]. If
    /// nothing is mapped in the range, `unmap` is called and nothing else happens.
    ///
    /// If `unmap` fails, the range stays in the map and always counts as dirty.
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
        // This comes first, so a lack of memory here changes nothing.
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
        // The container has unmapped its part already.
        if !reading.asking.trackers.active_of(&[TrackerKind::Type1]).is_empty() {
            doubt(&mut reading.asking, pieces, &error);
        }
        return Err(error.note("; what is dirty can neither be given nor kept: try again"));
    }
    if let Err(error) = unmap() {
        // Some of it may be unmapped, so no tracker can be relied upon for it from now on.
        doubt(&mut reading.asking, pieces, &error);
        return Err(error);
    }
    // A device can write until the last moment. So trackers that still answer are read again now,
    // when it cannot.
    for i in reading.asking.trackers.active_of(&[TrackerKind::DeviceLog, TrackerKind::Custom]) {
        reading.pieces(i, pieces, false);
    }
    // This is the last chance to notice that a log was lost to a reset.
    reading.check_resets();
    add_blind(&mut reading.asking, pieces, true);
    Ok(())
}

/// Reads what must be read before the range is unmapped. If there are `places`, also asks the VMM
/// where the dirty pages of translated pieces are, while it certainly still knows.
fn read_mapped(
    reading: &mut Reading<'_>,
    delivery: &mut Delivery,
    pieces: &[Piece],
    translated: &[Piece],
    places: Option<&mut Places>,
) -> Result<()> {
    // A page table forgets its bits when a range is unmapped, and so may the VMM's tracker.
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
    // Not counted yet: that happens when it is added again after the unmapping.
    add_blind(&mut reading.asking, translated, false);
    delivery.locate(pieces, reading.asking.ledger, reading.union, places)
}

/// Makes what is dirty whatever the trackers say pending. With `counted`, it is added to the bytes
/// that were assumed to be dirty.
fn add_blind(asking: &mut Asking<'_>, pieces: &[Piece], counted: bool) {
    for piece in pieces.iter().filter(|piece| !piece.mapping.read_only) {
        asking.trackers.add_blind(piece, counted, asking.ledger);
        asking.ledger.add_suspects(piece);
    }
}

/// Makes what could not be unmapped always dirty. A page table reports nothing at all for a mapping
/// that now has a hole; if one cannot tell whether there is a hole, the whole mapping is doubtful.
fn doubt(asking: &mut Asking<'_>, pieces: &[Piece], error: &Error) {
    let Asking { map, trackers, ledger, .. } = asking;
    let before = ledger.total_errors();
    let tables = trackers.active_of(&[TrackerKind::Hwpt]);
    for piece in pieces {
        let whole = map.whole(piece);
        let blind = tables.iter().any(|i| {
            let table = trackers.get_mut(*i);
            table.is_some_and(|table| table.is_blind_to_holes(&whole))
        });
        let piece = if blind { &whole } else { piece };
        ledger.add(&piece.range());
        ledger.suspect(piece.range());
        ledger.record(None, TrackerKind::None, &piece.range(), error);
        trackers.verify(&whole.range(), map, ledger);
    }
    // No reading has to mention these errors, since the call itself fails.
    ledger.told(ledger.total_errors() - before);
}
