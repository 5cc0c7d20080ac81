// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that takes what stopped devices have to say, so that they wait for nothing slower.

use super::errors::file_error;
use crate::alloc;
use crate::error::Result;
use crate::sys::{Mapping, MemoryFile};

/// What is added when there is too little, in bytes.
const STEP: u64 = 32 << 20;

/// What was put somewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spooled {
    chunk: usize,
    from: usize,
    pub len: usize,
}

struct Chunk {
    memory: Mapping,
    used: usize,
}

/// Memory of at most so many bytes.
pub(super) struct Spool {
    file: MemoryFile,
    chunks: Vec<Chunk>,
    /// What there is, and what there may be, in bytes.
    size: u64,
    most: u64,
}

impl Spool {
    pub fn new(most: u64) -> Result<Spool> {
        let file = MemoryFile::new().map_err(|errno| file_error(errno, "no file in memory"))?;
        Ok(Spool { file, chunks: Vec::new(), size: 0, most })
    }

    /// Makes sure that `len` bytes find room, as far as the limit goes. They are there afterwards:
    /// nothing has to be found when they are written.
    pub fn prepare(&mut self, len: u64) -> Result<()> {
        let left: u64 = self.chunks.iter().map(|c| (c.memory.len() - c.used) as u64).sum();
        match len.saturating_sub(left).min(self.most.saturating_sub(self.size)) {
            0 => Ok(()),
            more => self.grow(more),
        }
    }

    fn grow(&mut self, len: u64) -> Result<()> {
        let what = "no memory to spool the checkpoint";
        alloc::grow(&mut self.chunks, 1, what)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let memory = self.file.grow(len).map_err(|errno| file_error(errno, what))?;
        self.size += memory.len() as u64;
        self.chunks.push(Chunk { memory, used: 0 });
        Ok(())
    }

    /// Room for at least `least` bytes, and all that is there behind; nothing if the limit, or the
    /// memory of the host, does not allow that. Once the host has none, no more is asked for.
    pub fn room(&mut self, least: usize) -> Option<&mut [u8]> {
        let fits = |chunk: &Chunk| chunk.memory.len() - chunk.used >= least;
        if !self.chunks.last().is_some_and(fits) {
            let allowed = self.most.saturating_sub(self.size);
            let wanted = STEP.max(least as u64).min(allowed);
            if wanted < least as u64 {
                return None;
            }
            if self.grow(wanted).is_err() {
                // The devices are stopped: it is not tried again for each piece.
                self.most = self.size;
                return None;
            }
        }
        let chunk = self.chunks.last_mut()?;
        chunk.memory.get_mut(chunk.used..)
    }

    /// The first `len` bytes of the room have been filled.
    pub fn filled(&mut self, len: usize) -> Option<Spooled> {
        let number = self.chunks.len().checked_sub(1)?;
        let chunk = self.chunks.last_mut()?;
        let from = chunk.used;
        chunk.used += len;
        Some(Spooled { chunk: number, from, len })
    }

    /// What was put there.
    pub fn get(&self, place: Spooled) -> &[u8] {
        let chunk = self.chunks.get(place.chunk);
        chunk
            .and_then(|chunk| chunk.memory.get(place.from..place.from + place.len))
            .unwrap_or_default()
    }

    /// Nothing more will come.
    pub fn seal(&self) {
        self.file.seal();
    }
}

impl Spooled {
    /// Whether `next` lies directly behind, so that both are one.
    pub fn join(&mut self, next: Spooled) -> bool {
        let adjacent = self.chunk == next.chunk && self.from + self.len == next.from;
        if adjacent {
            self.len += next.len;
        }
        adjacent
    }
}
