// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the data of one device lies in a file.

use crate::exit::{Result, Status, Trouble};
use crate::input::Input;

/// How many pieces are kept: QEMU's have 1 MiB each, so this is a terabyte of them. Whoever made a file
/// can have made them shorter.
const MOST: usize = 1 << 20;

/// The pieces, in order.
#[derive(Default)]
pub struct Pieces(Vec<Piece>);

struct Piece {
    offset: u64,
    len: u64,
}

impl Pieces {
    /// One more.
    pub fn add(&mut self, offset: u64, len: u64) -> Result<()> {
        if let Some(last) = self.0.last_mut() {
            if last.offset.saturating_add(last.len) == offset {
                last.len += len;
                return Ok(());
            }
        }
        if self.0.len() == MOST {
            let text =
                format!("a device whose data is in more than {MOST} pieces: not QEMU's work");
            return Err(Trouble::new(Status::Input, text));
        }
        self.0.push(Piece { offset, len });
        Ok(())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|piece| piece.len).sum()
    }
}

/// Reads the pieces, one after the other.
pub struct PiecesReader<'a> {
    input: &'a mut Input,
    pieces: &'a Pieces,
    at: usize,
    /// Bytes of that piece that have been read.
    done: u64,
}

impl<'a> PiecesReader<'a> {
    /// From the front.
    pub fn new(input: &'a mut Input, pieces: &'a Pieces) -> PiecesReader<'a> {
        PiecesReader { input, pieces, at: 0, done: 0 }
    }

    /// The next bytes; none at the end.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let Some(piece) = self.pieces.0.get(self.at) else { return Ok(0) };
        let most = buf.len().min(usize::try_from(piece.len - self.done).unwrap_or(usize::MAX));
        let room = buf.get_mut(..most).unwrap_or_default();
        let len = self.input.read_at(room, piece.offset + self.done)?;
        if len == 0 {
            let text = format!("{}: it has become shorter meanwhile", self.input.name);
            return Err(Trouble::new(Status::Input, text));
        }
        self.done += len as u64;
        if self.done == piece.len {
            (self.at, self.done) = (self.at + 1, 0);
        }
        Ok(len)
    }
}
