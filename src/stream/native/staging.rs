// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for frames that do not lie completely in an input, and for bytes that are received here.
//!
//! It grows with what has come, not with what a header announces. It holds at most the largest
//! frame that the limits allow, plus what one reading brings after it. A payload goes
//! through the check as its bytes come, while they are still in the cache.

use super::check::Check;
use crate::error::{Result, err};
use crate::private::Private;
use crate::stream::bytes::Get;

/// Where [`Staging::space`] lets one reading end, in bytes from the front of the buffer, unless a
/// frame is larger: a few frames, and no more than the caches hold.
pub(super) const WINDOW: usize = if cfg!(test) { 300 } else { 512 << 10 };

/// The least that [`Staging::space`] offers, in bytes: as much as a socket has at once (a unix
/// socket by default 208 KiB, plus what its writer adds in the meantime). Reading it in two parts
/// would cost more than moving the part of a frame that is in the way.
pub(super) const LEAST_ROOM: usize = if cfg!(test) { 200 } else { 320 << 10 };

/// Bytes.
pub(super) const CACHE_LINE: usize = 64;

/// Where the requested bytes are.
#[derive(Clone, Copy)]
pub(super) enum Found<'i> {
    /// In the caller's input.
    Input(&'i [u8]),
    /// At the front of the buffer, this many.
    Staged(usize),
}

/// What is staged of one stream.
pub(super) struct Staging {
    /// All of it is initialised; only the bytes from `start` to `end` mean anything.
    memory: Private,
    start: usize,
    end: usize,
    /// Where an empty buffer begins: on a cache line, which makes copies into it faster.
    base: usize,
    /// Bytes from `start` on that were passed on and are no longer needed.
    used: usize,
    /// How much room after `end` was offered last.
    offered: usize,
    /// Length of the payload that is expected; 0: none.
    payload: usize,
    /// What vouches for frames, and how much of a staged payload has gone through it.
    pub check: Check,
    hashed: usize,
    /// Bytes of the stream taken so far.
    offset: u64,
}

impl Staging {
    pub fn new() -> Staging {
        Staging {
            memory: Private::new(),
            start: 0,
            end: 0,
            base: 0,
            used: 0,
            offered: 0,
            payload: 0,
            check: Check::default(),
            hashed: 0,
            offset: 0,
        }
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Memory to receive the next bytes into, when `wanted` of them are expected in all.
    pub fn space(&mut self, wanted: usize) -> Result<&mut [u8]> {
        self.drop_used();
        let filled = self.filled();
        if self.end - self.base + LEAST_ROOM > WINDOW {
            self.move_to(self.base);
        }
        // A header may announce a lot and nothing may come: offer no more room than twice what has
        // come.
        let room = wanted.saturating_sub(filled).min(filled).max(LEAST_ROOM);
        self.ensure(filled + LEAST_ROOM, WINDOW.max(filled + room))?;
        let until = (self.base + WINDOW).max(self.end + room).min(self.memory.len());
        self.offered = until - self.end;
        Ok(self.memory.get_mut(self.end..until).unwrap_or_default())
    }

    /// Says that `len` bytes of [`Staging::space`] have been filled.
    pub fn received(&mut self, len: usize) -> Result<()> {
        let room = self.offered;
        if self.used != 0 || len > room {
            return Err(err!(
                Inval,
                "{len} bytes cannot have been received: there was room for {room}"
            ));
        }
        self.offered = 0;
        self.end += len;
        self.offset += len as u64;
        self.hash();
        Ok(())
    }

    /// Reading goes on: what was passed on is no longer needed, and neither is the space that was
    /// offered.
    pub fn go_on(&mut self) {
        self.drop_used();
        self.offered = 0;
    }

    /// Takes exactly `len` bytes: from the input if they all lie there, otherwise from the buffer.
    pub fn take<'i>(&mut self, input: &mut &'i [u8], len: usize) -> Result<Option<Found<'i>>> {
        if self.filled() == 0 {
            if let Some((front, rest)) = input.split_at_checked(len) {
                *input = rest;
                self.offset += len as u64;
                return Ok(Some(Found::Input(front)));
            }
        }
        let missing = len.saturating_sub(self.filled());
        if missing > 0 && !input.is_empty() {
            let (front, rest) = input.split_at(missing.min(input.len()));
            *input = rest;
            // As in space(): what is announced may not come.
            let needed = self.filled() + front.len();
            self.ensure(needed, len.min((2 * needed).max(LEAST_ROOM)))?;
            let end = self.end + front.len();
            if let Some(room) = self.memory.get_mut(self.end..end) {
                room.copy_from_slice(front);
            }
            self.end = end;
            self.offset += front.len() as u64;
            self.hash();
        }
        if self.filled() < len {
            return Ok(None);
        }
        self.used = len;
        Ok(Some(Found::Staged(len)))
    }

    /// Takes exactly `N` bytes, which are then no longer needed.
    pub fn take_array<const N: usize>(&mut self, input: &mut &[u8]) -> Result<Option<[u8; N]>> {
        let found = self.take(input, N)?;
        let array = found.map(|found| Get { bytes: self.bytes_of(found), at: 0 }.array());
        self.drop_used();
        Ok(array)
    }

    /// The bytes that were found.
    pub fn bytes_of<'a>(&'a self, found: Found<'a>) -> &'a [u8] {
        match found {
            Found::Input(bytes) => bytes,
            Found::Staged(len) => self.staged().get(..len).unwrap_or_default(),
        }
    }

    /// A payload of this length is expected.
    pub fn expect_payload(&mut self, len: usize) {
        self.payload = len;
        self.check.begin();
        self.hashed = 0;
        self.hash();
    }

    /// The whole payload has come, and goes through the check as far as it has not.
    pub fn end_payload(&mut self, found: Found<'_>) {
        match found {
            Found::Input(payload) => self.check.update(payload),
            Found::Staged(_) => self.hash(),
        }
        self.payload = 0;
    }

    /// Bytes that are staged.
    pub fn filled(&self) -> usize {
        self.end - self.start
    }

    fn staged(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }

    /// Forgets what was passed on.
    pub fn drop_used(&mut self) {
        self.start += std::mem::take(&mut self.used);
        if self.start >= self.end {
            // From the front again: that memory is still in the cache.
            (self.start, self.end) = (self.base, self.base);
        }
    }

    /// Makes sure that the buffer can hold `len` bytes in all; memory that has to be found is at
    /// least `generous`.
    fn ensure(&mut self, len: usize, generous: usize) -> Result<()> {
        if self.memory.len() - self.start < len {
            self.move_to(self.base);
        }
        if self.memory.len() - self.start < len {
            self.move_to(0);
            let more = (len.max(generous) + CACHE_LINE).saturating_sub(self.memory.len());
            self.memory.lengthen(more, "no memory for a frame")?;
            self.base = self.memory.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE);
            self.move_to(self.base);
        }
        Ok(())
    }

    /// Moves what is in the buffer to a place where it fits.
    fn move_to(&mut self, place: usize) {
        let filled = self.filled();
        if place == self.start {
            return;
        }
        self.memory.copy_within(self.start..self.end, place);
        (self.start, self.end) = (place, place + filled);
    }

    /// Has what has been buffered of the payload since then go through the check.
    fn hash(&mut self) {
        let end = match self.filled() {
            part if part < self.payload => self.check.good_part(part),
            _ => self.payload,
        };
        if let Some(new) = self.memory.get(self.start + self.hashed..self.start + end) {
            self.check.update(new);
            self.hashed = end;
        }
    }

    /// How much memory there is.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }
}
