// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mappings that go: what was dirty there is read in the order that each tracker needs.

use std::ops::RangeInclusive;

use super::super::errors::DirtyError;
use super::super::map::{Piece, check_range};
use super::super::ranges::{self, MAX_KEPT, insert_or_all};
use super::super::tracker::TrackerKind;
use super::deliver::{BitmapSink, callback_failed};
use super::places::places_of;
use super::read::no_tracker;
use super::{Run, Synced, pages_in};
use crate::alloc;
use crate::error::{Errno, Error, Result, err};

const NO_MEMORY: &str = "no memory for a list of mappings";

impl Run {
    /// Takes a range out of the map: reads what was dirty there, in the order that each tracker
    /// needs, and calls `unmap` in between, which removes the range from everything that has it
    /// mapped. Containers that are tracked have been unmapped already then, which does not matter:
    /// unmapping them again does nothing. Where `bitmap` is given what was dirty is added there,
    /// otherwise [`super::super::Memory::set_dirty`] gets it. Where nothing is mapped, `unmap` is
    /// called and nothing else happens.
    ///
    /// When `unmap` fails the range stays in the map and counts as dirty.
    pub fn unmap(
        &mut self,
        iova: u64,
        size: u64,
        bitmap: Option<(u64, &mut [u64])>,
        unmap: impl FnOnce() -> std::result::Result<(), Errno>,
    ) -> Result<Synced> {
        self.check_process()?;
        let range = check_range("a range to unmap", iova, size, self.page)?;
        let sink = match bitmap {
            Some((page_size, words)) => {
                Some(BitmapSink::new(iova, size, page_size, words, self.page)?)
            }
            None => None,
        };
        let failed = |errno| {
            let error = callback_failed("unmap a range", iova, errno);
            error.note_args(format_args!(" ({size:#x} bytes)"))
        };
        if !self.tracking || self.map.pieces(&range).next().is_none() {
            unmap().map_err(failed)?;
            self.map.remove(&range);
            return Ok(Synced::default());
        }
        // First: without memory nothing has happened.
        let pieces = alloc::collect(self.map.pieces(&range), NO_MEMORY)?;
        let mut translated = Vec::new();
        if sink.is_none() {
            self.check_room()?;
            let found = pieces.iter().filter(|piece| piece.mapping.translate);
            translated = alloc::collect(found.copied(), NO_MEMORY)?;
        }
        let pages: u64 = translated.iter().map(|p| pages_in(p.first, p.last, self.page)).sum();
        let room = (pages > 0).then(|| places_of(pieces.len(), pages)).transpose()?;
        if sink.is_none() {
            self.orphans.reserve(room.as_ref().map_or(pieces.len(), Vec::capacity))?;
        }
        self.note_resets();
        let places = self.read_mapped(&pieces, &translated, room).map_err(|error| {
            self.orphans.give_back();
            // What a container had mapped is gone from there.
            if !self.active_slots(&[TrackerKind::Type1]).is_empty() {
                self.doubt(&pieces, &error);
            }
            error.note("; what is dirty can neither be given nor kept: try again")
        })?;
        let places = places.as_deref().unwrap_or(&pieces);
        if let Err(errno) = unmap() {
            // Some of it may be gone: no tracker can be relied upon here any more.
            self.orphans.give_back();
            self.doubt(&pieces, &failed(errno));
            return Err(failed(errno));
        }
        // A device can write until the last moment: what still tells is read when it cannot.
        for i in self.active_slots(&[TrackerKind::DeviceLog, TrackerKind::Custom]) {
            self.read_pieces(i, &pieces, false);
        }
        // A log that is lost by now can be made up for by now only.
        self.note_resets();
        self.add_blind(&pieces, true);
        match sink {
            Some(mut sink) => {
                self.deliver_owed(&range, &mut sink);
                self.deliver_pending(places, false, &mut |_, first, words, bits| {
                    sink.add(first, words, bits);
                    Ok(())
                })?;
            }
            None => self.deliver_unmapped(&range, places),
        }
        let told = self.told(&range);
        self.map.remove(&range);
        self.suspect.remove(range.clone());
        ranges::bound(&mut self.suspect, MAX_KEPT);
        self.map_changed(&range);
        Ok(told)
    }

    /// Whether `set_dirty` is there, and takes enough for more to be unmapped.
    fn check_room(&mut self) -> Result<()> {
        if !self.memory.as_ref().is_some_and(|memory| memory.takes_pages()) {
            return Err(err!(
                Inval,
                "there is nowhere to put what is dirty: no bitmap, no set_dirty"
            ));
        }
        if !self.orphans.is_full() {
            return Ok(());
        }
        let drained = self.drain_orphans();
        if !self.orphans.is_full() {
            return Ok(());
        }
        let error = drained.err().unwrap_or_else(|| err!(Io, "the VMM does not take dirty pages"));
        Err(error.note("; too much that was unmapped before waits for that: nothing is unmapped"))
    }

    /// What is read before the range goes. What is known to be dirty in translated pieces is looked
    /// up in the VMM's memory, as long as the VMM surely knows where it is: returns the places, where
    /// there is room for them.
    fn read_mapped(
        &mut self,
        pieces: &[Piece],
        translated: &[Piece],
        room: Option<Vec<Piece>>,
    ) -> Result<Option<Vec<Piece>>> {
        // A page table forgets with the mapping; so may a tracker of the VMM's.
        for i in self.active_slots(&[TrackerKind::Hwpt, TrackerKind::Custom]) {
            self.read_pieces(i, pieces, true);
        }
        for i in self.active_slots(&[TrackerKind::Type1]) {
            self.unmap_container(i, pieces);
        }
        let Some(room) = room else { return Ok(None) };
        for i in self.active_slots(&[TrackerKind::DeviceLog]) {
            self.read_pieces(i, translated, false);
        }
        // Counted when it is added for good.
        self.add_blind(translated, false);
        self.locate(pieces, room).map(Some)
    }

    /// Delivers what is dirty in a range that is gone. What `set_dirty` refuses is kept.
    fn deliver_unmapped(&mut self, range: &RangeInclusive<u64>, places: &[Piece]) {
        let Run { owed, map, pending, page, .. } = self;
        for part in owed.overlapping(range) {
            let part = *part.start().max(range.start())..=*part.end().min(range.end());
            for piece in map.pieces(&part) {
                pending.add(page.of(piece.first)..=page.of(piece.last));
            }
        }
        owed.remove(range.clone());
        self.hand_over_unmapped(range, places);
    }

    /// Makes what could not be unmapped dirty for good. A page table says nothing about all of a
    /// mapping that has a hole now, so where one cannot tell, all of it is doubtful.
    fn doubt(&mut self, pieces: &[Piece], error: &Error) {
        let before = self.errors.total;
        let tables = self.active_slots(&[TrackerKind::Hwpt]);
        for piece in pieces {
            let whole = self.map.whole(piece);
            let length = whole.last - whole.first + 1;
            let blind = tables.iter().any(|i| {
                let slot = self.slots.get_mut(*i);
                slot.is_some_and(|slot| slot.tracker.is_mapped(whole.first, length).is_none())
            });
            let piece = if blind { &whole } else { piece };
            self.add_piece(piece);
            insert_or_all(&mut self.suspect, piece.range());
            ranges::bound(&mut self.suspect, MAX_KEPT);
            self.errors.add(DirtyError::new(None, TrackerKind::None, &piece.range(), error));
            self.verify(&whole.range());
        }
        // The call fails, which says it.
        self.errors_told += self.errors.total - before;
    }

    /// Unmaps what a container has, with what was dirty. What fails counts as dirty, and the
    /// VMM's callback unmaps it.
    pub(super) fn unmap_container(&mut self, i: usize, pieces: &[Piece]) {
        for piece in pieces {
            // Read-only pieces are unmapped like the others.
            let result = self.take_sum(piece).and_then(|mut sum| {
                let result = self.with_whole(i, piece, &mut sum, |tracker, length, words| {
                    tracker.unmap(piece.first, length, words).unwrap_or_else(|| Err(no_tracker()))
                });
                self.sum = Some(sum);
                result
            });
            match result {
                Ok(()) => {
                    self.keep_sum(piece, self.page.of(piece.first), self.page.of(piece.last) + 1);
                }
                Err(error) => self.assume(i, piece, &error),
            }
        }
    }
}
