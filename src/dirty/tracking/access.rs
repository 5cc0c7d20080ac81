// SPDX-License-Identifier: MIT OR Apache-2.0
//! Access to guest memory by I/O virtual addresses, for devices in software.

use super::Tracking;
use crate::dirty::delivery::give::callback_failed;
use crate::error::{Result, err};

impl Tracking {
    /// Marks a range that was written to in a way that no tracker sees.
    pub fn mark(&mut self, iova: u64, length: u64) -> Result<()> {
        self.check_process()?;
        let pieces = self.map.complete(iova, length)?;
        if self.is_tracking() {
            pieces.iter().for_each(|piece| self.ledger.add(&piece.range()));
        }
        Ok(())
    }

    /// Reads guest memory as a device does: by I/O virtual addresses.
    pub fn dma_read(&mut self, iova: u64, buf: &mut [u8]) -> Result<()> {
        self.check_process()?;
        let pieces = self.map.complete(iova, buf.len() as u64)?;
        let mut rest = buf;
        for piece in &pieces {
            let (part, behind) = rest.split_at_mut(piece.size() as usize);
            rest = behind;
            let read = self.delivery.read(piece, part);
            read.map_err(|errno| callback_failed("read guest memory", iova, errno))?;
        }
        Ok(())
    }

    /// Writes guest memory as a device does, and counts it as dirty.
    pub fn dma_write(&mut self, iova: u64, buf: &[u8]) -> Result<()> {
        self.check_process()?;
        let pieces = self.map.complete(iova, buf.len() as u64)?;
        if let Some(piece) = pieces.iter().find(|piece| piece.mapping.read_only) {
            return Err(err!(Inval, "the mapping at {:#x} is read-only", piece.mapping.iova));
        }
        let mut rest = buf;
        for piece in &pieces {
            let (part, behind) = rest.split_at(piece.size() as usize);
            rest = behind;
            // This comes first, because a failing write may have written some of it.
            if self.is_tracking() {
                self.ledger.add(&piece.range());
            }
            let written = self.delivery.write(piece, part);
            written.map_err(|errno| callback_failed("write guest memory", iova, errno))?;
        }
        Ok(())
    }
}
