// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole units out of inputs that are split anywhere: in place where a unit lies whole in the
//! input, otherwise put together here. As in a load, memory grows with what has come.

use crate::error::Result;
use crate::private::Private;

/// Where bytes lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// At the front of the input.
    Input,
    /// At the front of what is carried over.
    Held,
}

/// Bytes that are carried over from one input to the next.
#[derive(Default)]
pub(super) struct Carry {
    /// Only the bytes from `start` to `end` mean anything.
    memory: Private,
    start: usize,
    end: usize,
}

/// The least that is allocated, in bytes.
const LEAST: usize = if cfg!(test) { 64 } else { 8 << 10 };

impl Carry {
    /// How many bytes are carried.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Finds the next `len` bytes in one place. `None`: there are not as many yet, and all of the
    /// input has been taken.
    pub fn find(&mut self, input: &mut &[u8], len: usize) -> Result<Option<Place>> {
        if self.len() == 0 && input.len() >= len {
            return Ok(Some(Place::Input));
        }
        self.top_up(input, len)?;
        Ok((self.len() >= len).then_some(Place::Held))
    }

    /// Takes from the input until there are `len` bytes, as far as it has them.
    pub fn top_up(&mut self, input: &mut &[u8], len: usize) -> Result<()> {
        let missing = len.saturating_sub(self.len()).min(input.len());
        if missing == 0 {
            return Ok(());
        }
        let (front, rest) = input.split_at(missing);
        self.make_room(missing, len)?;
        *input = rest;
        let end = self.end + missing;
        if let Some(room) = self.memory.get_mut(self.end..end) {
            room.copy_from_slice(front);
        }
        self.end = end;
        Ok(())
    }

    /// Makes room for `more` bytes, where `wanted` are expected in all.
    fn make_room(&mut self, more: usize, wanted: usize) -> Result<()> {
        if self.memory.len() - self.end >= more {
            return Ok(());
        }
        self.memory.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.len());
        let needed = self.end + more;
        if self.memory.len() < needed {
            let good = wanted.min(2 * needed).max(needed).max(LEAST);
            self.memory.lengthen(good - self.memory.len(), "no memory for a frame")?;
        }
        Ok(())
    }

    /// What is carried.
    pub fn held(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }

    /// The bytes that [`Carry::find`] has found.
    pub fn bytes<'a>(&'a self, place: Place, input: &'a [u8], len: usize) -> &'a [u8] {
        let all = if place == Place::Held { self.held() } else { input };
        all.get(..len).unwrap_or_default()
    }

    /// Forgets the next `len` bytes, which are there.
    pub fn consume(&mut self, input: &mut &[u8], len: usize) {
        let held = len.min(self.len());
        self.start += held;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        *input = input.get(len - held..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_come_out_whole_however_the_input_is_split() {
        let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
        for step in [1, 7, 100, 4999, 5000] {
            let (mut carry, mut at, mut unit) = (Carry::default(), 0, 1);
            for mut input in bytes.chunks(step) {
                while let Some(place) = carry.find(&mut input, unit).unwrap() {
                    assert_eq!(carry.bytes(place, input, unit), &bytes[at..at + unit]);
                    carry.consume(&mut input, unit);
                    at += unit;
                    unit = unit % 300 + 1;
                }
                assert!(input.is_empty() && carry.len() < unit);
                assert!(carry.memory.capacity() < 2 * 300 + LEAST);
            }
            assert_eq!(&bytes[at..], carry.held());
        }
    }
}
