// SPDX-License-Identifier: MIT OR Apache-2.0
//! A region as the protocols use it: fields, which are read and written alone, and data, which is
//! copied from and to mapped memory where there is some.

use crate::alloc;
use crate::sys::Errno;
use crate::transport::{Area, Region, RegionMapping, Transport};

/// A region of a device.
pub(super) struct Window {
    region: Region,
    mapped: Vec<(Area, RegionMapping)>,
    /// The driver refuses accesses that are longer than a word.
    narrow: bool,
}

/// The longest access of a driver that takes words only, in bytes.
const WORD: u64 = 8;

impl Window {
    pub fn new(region: Region) -> Window {
        Window { region, mapped: Vec::new(), narrow: false }
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.region.size
    }

    /// Whether `len` bytes at `at` are in it.
    pub fn has(&self, at: u64, len: u64) -> bool {
        at.checked_add(len).is_some_and(|end| end <= self.region.size)
    }

    /// Maps what can be mapped. What cannot is read and written.
    pub fn map(&mut self, io: &mut dyn Transport) {
        if !self.mapped.is_empty() {
            return;
        }
        for area in &self.region.areas {
            let mapped = io.region_map(self.region.index, *area).ok();
            let Some(mapping) = mapped.filter(|mapping| mapping.len() >= area.len) else {
                continue;
            };
            if alloc::push(&mut self.mapped, (*area, mapping), "no memory for a mapping").is_err() {
                break;
            }
        }
        let (got, offered) = (self.mapped.len(), self.region.areas.len());
        if got < offered {
            log::info!(
                target: "vfiomig::device",
                "{got} of {offered} areas of region {} are mapped; the rest is slower",
                self.region.index
            );
        }
    }

    /// Unmaps it.
    pub fn unmap(&mut self) {
        self.mapped = Vec::new();
    }

    // --- fields ------------------------------------------------------------------------------------

    /// Reads a field, with one access of its length.
    pub fn get<const N: usize>(&self, io: &mut dyn Transport, at: u64) -> Result<[u8; N], Errno> {
        let mut field = [0; N];
        match io.region_read(self.region.index, at, &mut field)? {
            len if len == N => Ok(field),
            _ => Err(Errno(libc::EIO)),
        }
    }

    pub fn get_u32(&self, io: &mut dyn Transport, at: u64) -> Result<u32, Errno> {
        self.get(io, at).map(u32::from_ne_bytes)
    }

    pub fn get_u64(&self, io: &mut dyn Transport, at: u64) -> Result<u64, Errno> {
        self.get(io, at).map(u64::from_ne_bytes)
    }

    /// Writes a field, with one access of its length.
    pub fn put(&self, io: &mut dyn Transport, at: u64, field: &[u8]) -> Result<(), Errno> {
        match io.region_write(self.region.index, at, field)? {
            len if len == field.len() => Ok(()),
            _ => Err(Errno(libc::EIO)),
        }
    }

    // --- data --------------------------------------------------------------------------------------

    /// Copies data out of the region, from mapped and other parts of it.
    pub fn read(&mut self, io: &mut dyn Transport, at: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let from = at.saturating_add(done as u64);
            let (mapping, len) = self.part(from, rest.len());
            let part = rest.get_mut(..len).unwrap_or_default();
            match mapping {
                Some((mapping, inside)) => mapping.read(inside, part)?,
                None => self.read_trapped(io, from, part)?,
            }
            done += len;
        }
        Ok(())
    }

    /// Copies data into it.
    pub fn write(&mut self, io: &mut dyn Transport, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let to = at.saturating_add(done as u64);
            let (mapping, len) = self.part(to, rest.len());
            let part = rest.get(..len).unwrap_or_default();
            match mapping {
                Some((mapping, inside)) => mapping.write(inside, part)?,
                None => self.write_trapped(io, to, part)?,
            }
            done += len;
        }
        Ok(())
    }

    /// How many of `len` bytes at `at` lie together in one mapping, or in none; and where in it.
    fn part(&self, at: u64, len: usize) -> (Option<(&RegionMapping, u64)>, usize) {
        let here = self.mapped.iter().find(|(area, _)| area.offset <= at && at < area.end());
        let end = match here {
            Some((area, _)) => area.end(),
            // The areas are in order.
            None => {
                let next = self.mapped.iter().find(|(area, _)| area.offset > at);
                next.map_or(u64::MAX, |(area, _)| area.offset)
            }
        };
        let room = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
        (here.map(|(area, mapping)| (mapping, at.saturating_sub(area.offset))), len.min(room))
    }

    fn read_trapped(
        &mut self,
        io: &mut dyn Transport,
        at: u64,
        buf: &mut [u8],
    ) -> Result<(), Errno> {
        let index = self.region.index;
        let len = buf.len();
        self.trapped(at, len, |at, from, len| {
            let part = buf.get_mut(from..from.saturating_add(len)).unwrap_or_default();
            io.region_read(index, at, part)
        })
    }

    fn write_trapped(
        &mut self,
        io: &mut dyn Transport,
        at: u64,
        bytes: &[u8],
    ) -> Result<(), Errno> {
        let index = self.region.index;
        self.trapped(at, bytes.len(), |at, from, len| {
            let part = bytes.get(from..from.saturating_add(len)).unwrap_or_default();
            io.region_write(index, at, part)
        })
    }

    /// One access for all of it, or, if a driver does not take that, one for each word. `access` gets
    /// the offset in the region, that in the memory, and the length.
    fn trapped(
        &mut self,
        at: u64,
        len: usize,
        mut access: impl FnMut(u64, usize, usize) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        let mut whole = |at: u64, from: usize, len: usize| match access(at, from, len)? {
            done if done == len => Ok(()),
            _ => Err(Errno(libc::EIO)),
        };
        if !self.narrow {
            match whole(at, 0, len) {
                Err(Errno(libc::EINVAL)) if len as u64 > 1 => self.narrow = true,
                done => return done,
            }
        }
        let mut done = 0;
        while done < len {
            let at = at.saturating_add(done as u64);
            let step = word_at(at, len - done);
            whole(at, done, step)?;
            done += step;
        }
        Ok(())
    }
}

/// The longest aligned word at `at` that has at most `len` bytes.
fn word_at(at: u64, len: usize) -> usize {
    let mut word = WORD as usize;
    while word > len || at % word as u64 != 0 {
        word /= 2;
    }
    word.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_aligned_and_never_longer_than_what_is_left() {
        let expected = [
            (0, 8, 8),
            (0, 100, 8),
            (0, 7, 4),
            (4, 100, 4),
            (2, 100, 2),
            (1, 100, 1),
            (8, 3, 2),
            (8, 1, 1),
        ];
        for (at, len, word) in expected {
            assert_eq!(word_at(at, len), word, "{at} {len}");
        }
    }
}
