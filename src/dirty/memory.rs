// SPDX-License-Identifier: MIT OR Apache-2.0
//! The VMM's side of dirty tracking: its memory map, its memory, and where dirty pages go.

use super::bitmap::{self, PageSize};
use super::map::Mapping;
use crate::error::{Errno, Result};

/// A place in the VMM's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// [`Mapping::cookie`].
    pub cookie: u64,
    /// Offset in what the cookie stands for, in bytes.
    pub offset: u64,
    /// How many bytes from there on are contiguous.
    pub size: u64,
    /// Its address in this process; 0: it has none.
    pub host: usize,
}

/// Dirty pages in the VMM's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirtyPages<'a> {
    /// [`Mapping::cookie`].
    pub cookie: u64,
    /// Offset of the first bit's page in what the cookie stands for, in bytes.
    pub offset: u64,
    /// What a bit stands for.
    pub page: PageSize,
    /// A bit for each page, the lowest first. It is set if the page is dirty.
    pub bitmap: &'a [u64],
    /// How many bits count; the others are to be ignored.
    pub bits: u64,
}

impl DirtyPages<'_> {
    /// The offsets of the dirty pages in what the cookie stands for, in bytes.
    pub fn offsets(self) -> impl Iterator<Item = u64> {
        let DirtyPages { offset, page, bitmap, bits, .. } = self;
        let dirty = bitmap::runs(bitmap, 0..bits).flat_map(|(first, n)| first..first + n);
        dirty.map(move |bit| offset + (bit << page.shift()))
    }
}

/// What dirty tracking asks of the VMM. Called on the thread that called the library, one call at a
/// time.
pub trait Memory: Send {
    /// Adds every mapping that exists now. Returns false if it cannot: then the map consists of
    /// what [`super::Tracking::map`] added.
    fn enumerate(&mut self, _add: &mut dyn FnMut(Mapping) -> Result<()>) -> Result<bool> {
        Ok(false)
    }

    /// Whether [`Memory::set_dirty`] takes pages.
    fn takes_pages(&self) -> bool {
        true
    }

    /// Takes dirty pages. What it refuses is delivered again later.
    fn set_dirty(&mut self, pages: DirtyPages<'_>) -> std::result::Result<(), Errno>;

    /// Where an address in a mapping with [`Mapping::translate`] is now: at least one page, or an
    /// error. [`super::Tracking::unmap`] asks before the range is unmapped and, for what a device
    /// wrote at the last moment, after it.
    fn translate(&mut self, _iova: u64, _size: u64) -> std::result::Result<Place, Errno> {
        Err(Errno(libc::EOPNOTSUPP))
    }

    /// Reads guest memory.
    fn read(&mut self, _place: Place, _buf: &mut [u8]) -> std::result::Result<(), Errno> {
        Err(Errno(libc::EOPNOTSUPP))
    }

    /// Writes guest memory.
    fn write(&mut self, _place: Place, _buf: &[u8]) -> std::result::Result<(), Errno> {
        Err(Errno(libc::EOPNOTSUPP))
    }
}
