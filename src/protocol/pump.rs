// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a unit goes from a region into the data, piece by piece, into buffers of any size.

use super::units::{HEADER, Kind, Piece, Spill};
use super::window::Window;
use super::{GOOD_PART, Got, NoMore, Patience, WriteFailed};
use crate::cancel::Cancel;
use crate::sys::Errno;
use crate::transport::Transport;

/// A unit that lies in a region, and how much of it has been read.
pub(super) struct Unit {
    pub kind: Kind,
    /// Where in the region it begins.
    pub at: u64,
    /// Its length.
    pub len: u64,
    /// What has been read of it.
    pub done: u64,
}

impl Unit {
    pub fn left(&self) -> u64 {
        self.len.saturating_sub(self.done)
    }
}

/// Reads units into buffers.
#[derive(Default)]
pub(super) struct Pump {
    spill: Spill,
}

/// In a buffer with less room than this, a header takes up too much, in bytes.
const NARROW: usize = 256;

impl Pump {
    /// What is left of a piece that had no room.
    pub fn drain(&mut self, buf: &mut [u8]) -> usize {
        self.spill.drain(buf)
    }

    /// Reads a piece of `unit`, of which something is left, into `buf`, which is not empty. Returns how
    /// much came.
    pub fn piece(
        &mut self,
        io: &mut dyn Transport,
        window: &mut Window,
        unit: &mut Unit,
        buf: &mut [u8],
    ) -> Result<usize, Errno> {
        if buf.len() >= NARROW {
            return read_piece(io, window, unit, buf);
        }
        let len = read_piece(io, window, unit, self.spill.room())?;
        self.spill.filled(len);
        Ok(self.spill.drain(buf))
    }

    /// Puts a short unit that lies in no region into the data. Nothing of a piece may be left.
    pub fn put(&mut self, kind: Kind, bytes: &[u8]) {
        let header = Piece { kind, len: bytes.len() as u32, at: 0, unit: bytes.len() as u64 };
        let header = header.encode();
        let places = self.spill.room().iter_mut();
        let len = places.zip(header.iter().chain(bytes)).map(|(to, from)| *to = *from).count();
        self.spill.filled(len);
    }

    /// Whether part of a piece waits for room.
    pub fn holds_some(&self) -> bool {
        !self.spill.is_empty()
    }
}

/// Fills `buf` by steps, each of which puts something into what is left of it, until it is full or
/// there is a good part in it, or a step says why no more comes.
pub(super) fn fill(
    buf: &mut [u8],
    cancel: &Cancel,
    mut step: impl FnMut(&mut [u8]) -> Result<usize, NoMore>,
) -> Got {
    let mut len = 0;
    let no_more = loop {
        match step(buf.get_mut(len..).unwrap_or_default()) {
            Ok(n) => len += n,
            Err(why) => break Some(why),
        }
        if len == buf.len() || len >= GOOD_PART || cancel.is_cancelled() {
            break None;
        }
    };
    Got { len, no_more }
}

/// Empties `buf` by steps, each of which takes something from its beginning, until one says that there
/// is nothing more in it.
pub(super) fn pour(
    buf: &[u8],
    patience: &Patience<'_>,
    mut step: impl FnMut(&mut &[u8]) -> Result<bool, WriteFailed>,
) -> Result<(), WriteFailed> {
    let mut rest = buf;
    loop {
        let before = rest.len();
        let goes_on = step(&mut rest)?;
        patience.took(before.saturating_sub(rest.len()));
        if !goes_on {
            return Ok(());
        }
        patience.check()?;
    }
}

fn read_piece(
    io: &mut dyn Transport,
    window: &mut Window,
    unit: &mut Unit,
    buf: &mut [u8],
) -> Result<usize, Errno> {
    let Some((header, room)) = buf.split_first_chunk_mut::<HEADER>() else {
        return Err(Errno(libc::EINVAL));
    };
    let most = u64::from(u32::MAX).min(room.len() as u64);
    let len = unit.left().min(most) as u32;
    let room = room.get_mut(..len as usize).unwrap_or_default();
    window.read(io, unit.at.saturating_add(unit.done), room)?;
    *header = Piece { kind: unit.kind, len, at: unit.done, unit: unit.len }.encode();
    unit.done += u64::from(len);
    Ok(HEADER + len as usize)
}
