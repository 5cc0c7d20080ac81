// SPDX-License-Identifier: MIT OR Apache-2.0
//! Delivers dirty pages to the VMM through its callbacks, and keeps those of unmapped ranges that
//! it has not taken yet.

mod access;
pub(super) mod caller_bitmap;
pub(super) mod give;
mod handover;
pub(super) mod places;
#[cfg(test)]
mod tests;

use super::bitmap::PageSize;
use super::map::{Map, Piece};
use super::memory::Memory;
use super::orphans::Orphans;
use crate::error::{Errno, Result};
use give::give;

/// The VMM's callbacks, and the pages of unmapped ranges that it still has to take.
pub(super) struct Delivery {
    page: PageSize,
    memory: Box<dyn Memory>,
    orphans: Orphans,
}

impl Delivery {
    pub fn new(memory: Box<dyn Memory>, page: PageSize) -> Delivery {
        Delivery { page, memory, orphans: Orphans::default() }
    }

    /// Forgets what the VMM has not taken.
    pub fn forget(&mut self) {
        self.orphans.clear();
    }

    /// The memory of what the VMM has not taken, in bytes.
    pub fn footprint(&self) -> u64 {
        self.orphans.footprint()
    }

    /// The map, if the VMM can enumerate it.
    pub fn enumerate(&mut self) -> Result<Option<Map>> {
        let (page, mut map) = (self.page, Map::default());
        let enumerated = self.memory.enumerate(&mut |mapping| {
            if mapping.window {
                map.insert_window(mapping.iova, mapping.size, page).map(drop)
            } else {
                map.insert(mapping, page).map(drop)
            }
        });
        Ok(enumerated?.then_some(map))
    }

    /// Whether the VMM takes pages at all.
    pub fn takes_pages(&self) -> bool {
        self.memory.takes_pages()
    }

    /// Gives dirty pages to the VMM. On an error, the bits of pages that it has taken are cleared.
    pub fn give(&mut self, piece: &Piece, first: u64, words: &mut [u64], bits: u64) -> Result<()> {
        give(self.memory.as_mut(), self.page, piece, first, words, bits)
    }

    /// Reads all of a piece.
    pub fn read(&mut self, piece: &Piece, buf: &mut [u8]) -> std::result::Result<(), Errno> {
        access::read(self.memory.as_mut(), piece, buf)
    }

    /// Writes all of a piece.
    pub fn write(&mut self, piece: &Piece, buf: &[u8]) -> std::result::Result<(), Errno> {
        access::write(self.memory.as_mut(), piece, buf)
    }
}
