// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guest memory by I/O virtual addresses, as devices in software see it.

use super::super::map::Piece;
use super::super::memory::{Memory, Place};
use super::Run;
use super::deliver::callback_failed;
use crate::alloc;
use crate::error::{Errno, Result, err};

impl Run {
    /// Says that a range was written to by means that no tracker sees.
    pub fn mark(&mut self, iova: u64, length: u64) -> Result<()> {
        let pieces = self.pieces_of(iova, length)?;
        if self.tracking {
            for piece in pieces {
                self.pending.add(self.page.of(piece.first)..=self.page.of(piece.last));
            }
        }
        Ok(())
    }

    /// Reads guest memory as a device does: by I/O virtual addresses.
    pub fn dma_read(&mut self, iova: u64, buf: &mut [u8]) -> Result<()> {
        let pieces = self.pieces_of(iova, buf.len() as u64)?;
        let mut memory = self.memory.take();
        let mut rest = buf;
        let mut result = Ok(());
        for piece in &pieces {
            let (part, behind) = rest.split_at_mut((piece.last - piece.first + 1) as usize);
            rest = behind;
            result = each_place(memory.as_deref_mut(), piece, |memory, place, from, len| {
                let part = part.get_mut(from..from + len).ok_or(Errno(libc::EINVAL))?;
                memory.read(place, part)
            });
            if result.is_err() {
                break;
            }
        }
        self.memory = memory;
        result.map_err(|errno| callback_failed("read guest memory", iova, errno))
    }

    /// Writes guest memory as a device does, and counts it as dirty.
    pub fn dma_write(&mut self, iova: u64, buf: &[u8]) -> Result<()> {
        let pieces = self.pieces_of(iova, buf.len() as u64)?;
        if let Some(piece) = pieces.iter().find(|piece| piece.mapping.read_only) {
            return Err(err!(Inval, "the mapping at {:#x} is read-only", piece.mapping.iova));
        }
        let mut memory = self.memory.take();
        let mut rest = buf;
        let mut result = Ok(());
        for piece in &pieces {
            let (part, behind) = rest.split_at((piece.last - piece.first + 1) as usize);
            rest = behind;
            result = each_place(memory.as_deref_mut(), piece, |memory, place, from, len| {
                memory.write(place, part.get(from..from + len).ok_or(Errno(libc::EINVAL))?)
            });
            // Also after an error: some of it may be there.
            if self.tracking {
                self.pending.add(self.page.of(piece.first)..=self.page.of(piece.last));
            }
            if result.is_err() {
                break;
            }
        }
        self.memory = memory;
        result.map_err(|errno| callback_failed("write guest memory", iova, errno))
    }

    /// The pieces of a range that must be mapped from end to end; any bytes.
    fn pieces_of(&self, iova: u64, length: u64) -> Result<Vec<Piece>> {
        self.check_process()?;
        if length == 0 {
            return Err(err!(Inval, "a range at {iova:#x} is empty"));
        }
        let last = iova.checked_add(length - 1);
        let last = last.ok_or_else(|| err!(Inval, "a range at {iova:#x} wraps"))?;
        let range = iova..=last;
        let pieces = self.map.pieces(&range);
        let pieces = alloc::collect(pieces, "no memory for a list of mappings")?;
        let mut next = Some(iova);
        for piece in &pieces {
            if next != Some(piece.first) {
                break;
            }
            next = piece.last.checked_add(1);
        }
        if pieces.last().map(|piece| piece.last) == Some(last) && next == last.checked_add(1) {
            return Ok(pieces);
        }
        let at = next.unwrap_or(iova);
        Err(err!(NoData, "nothing is mapped at {at:#x}, in a range from {iova:#x} to {last:#x}"))
    }
}

/// Calls `access` for each place that a piece lies in, with the offset in the piece and the length.
fn each_place(
    memory: Option<&mut (dyn Memory + 'static)>,
    piece: &Piece,
    mut access: impl FnMut(&mut dyn Memory, Place, usize, usize) -> std::result::Result<(), Errno>,
) -> std::result::Result<(), Errno> {
    let memory = memory.ok_or(Errno(libc::ENOTRECOVERABLE))?;
    let length = piece.last - piece.first + 1;
    let mut done = 0;
    while done < length {
        let iova = piece.first + done;
        let place = if piece.mapping.translate {
            memory.translate(iova, length - done)?
        } else {
            Place {
                cookie: piece.mapping.cookie,
                offset: piece.offset_of(iova),
                size: length - done,
                host: piece.host_of(iova),
            }
        };
        let n = place.size.min(length - done);
        if n == 0 {
            return Err(Errno(libc::EINVAL));
        }
        access(memory, Place { size: n, ..place }, done as usize, n as usize)?;
        done += n;
    }
    Ok(())
}
