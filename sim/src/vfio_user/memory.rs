// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's memory, as far as the client has mapped it, and the log of what the device wrote there.
//!
//! What was mapped with a descriptor is read and written through that, and logged. It is not mapped
//! into this process: a client that makes its file shorter must not end the server. All else goes
//! through messages, and only the client knows of it. The log is libvfio-user's: for each region, from
//! its first page on, in the pages that it was started with.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use super::wire::{errno, long_words, u32_at, u64_at, words};

/// The smallest pages.
const PAGE: u64 = 4096;
/// The longest bitmap in a message, in bytes.
const MOST_BITMAP: u64 = 64 << 20;

const MAP: usize = 32;
const MAP_READ: u32 = 1;
const MAP_WRITE: u32 = 2;
/// Newer libvfio-user: how the descriptor is to be used.
const MAP_MMAP: u32 = 4;
const MAP_FILE_IO: u32 = 8;

const UNMAP: usize = 24;
const UNMAP_DIRTY: u32 = 1;
const UNMAP_ALL: u32 = 2;
/// Page size and length of a bitmap.
const BITMAP: usize = 16;

/// What a feature's data come after.
const FEATURE: usize = 8;
const START: usize = 16;
const RANGE: usize = 16;
const REPORT: usize = 24;

/// Memory that is reached through messages to the client.
pub(crate) trait Peer {
    fn read(&mut self, iova: u64, buf: &mut [u8]) -> Result<(), i32>;
    fn write(&mut self, iova: u64, bytes: &[u8]) -> Result<(), i32>;
}

/// An errno, and which rule the client broke if it did.
pub(crate) type Refusal = (i32, Option<&'static CStr>);

struct Region {
    last: u64,
    prot: u32,
    /// And where in it the region begins.
    file: Option<(File, u64)>,
    /// Numbers of pages, counted from the region's first.
    dirty: BTreeSet<u64>,
}

impl Region {
    fn read(&self, iova: u64, at: u64, buf: &mut [u8], peer: &mut dyn Peer) -> Result<(), i32> {
        match &self.file {
            Some((file, start)) => file.read_exact_at(buf, start + at).map_err(errno),
            None => peer.read(iova, buf),
        }
    }

    fn write(&self, iova: u64, at: u64, bytes: &[u8], peer: &mut dyn Peer) -> Result<(), i32> {
        match &self.file {
            Some((file, start)) => file.write_all_at(bytes, start + at).map_err(errno),
            None => peer.write(iova, bytes),
        }
    }

    /// What is dirty in the first `pages` pages, as a bitmap, and forgets it.
    fn take_dirty(&mut self, pages: u64) -> Vec<u8> {
        let clean = self.dirty.split_off(&pages);
        let dirty = std::mem::replace(&mut self.dirty, clean);
        let mut bitmap = vec![0u64; pages.div_ceil(64) as usize];
        for page in dirty {
            if let Some(word) = bitmap.get_mut((page / 64) as usize) {
                *word |= 1 << (page % 64);
            }
        }
        long_words(&bitmap)
    }
}

#[derive(Default)]
pub(crate) struct Memory {
    /// By their first address.
    regions: BTreeMap<u64, Region>,
    /// Size of the log's pages, while there is one.
    log: Option<u64>,
}

impl Memory {
    fn at(&self, iova: u64) -> Option<(u64, &Region)> {
        let below = self.regions.range(..=iova).next_back();
        below.filter(|(_, region)| iova <= region.last).map(|(first, region)| (*first, region))
    }

    /// `VFIO_USER_DMA_MAP`.
    /// A region that is there can be mapped again, unless that is an error.
    pub fn map(
        &mut self,
        payload: &[u8],
        fds: Vec<OwnedFd>,
        most: usize,
        again: bool,
    ) -> Result<(), i32> {
        let (argsz, flags) = (u32_at(payload, 0)? as usize, u32_at(payload, 4)?);
        let (offset, iova, size) =
            (u64_at(payload, 8)?, u64_at(payload, 16)?, u64_at(payload, 24)?);
        let last =
            size.checked_sub(1).and_then(|more| iova.checked_add(more)).ok_or(libc::EINVAL)?;
        let how = flags & (MAP_MMAP | MAP_FILE_IO);
        if argsz < MAP
            || flags & !(MAP_READ | MAP_WRITE | MAP_MMAP | MAP_FILE_IO) != 0
            || how == MAP_MMAP | MAP_FILE_IO
            || (how != 0 && fds.is_empty())
            || fds.len() > 1
            || (iova | size) % PAGE != 0
        {
            return Err(libc::EINVAL);
        }
        if self.regions.get(&iova).is_some_and(|region| region.last == last) {
            return if again { Ok(()) } else { Err(libc::EEXIST) };
        }
        if self.regions.len() >= most {
            return Err(libc::EINVAL);
        }
        let below = self.regions.range(..=last).next_back();
        if below.is_some_and(|(_, region)| region.last >= iova) {
            return Err(libc::EINVAL);
        }
        let file = match fds.into_iter().next().map(File::from) {
            Some(file) => {
                // A write beyond the end would make it longer.
                let end = offset.checked_add(size).ok_or(libc::EINVAL)?;
                if file.metadata().map_err(errno)?.len() < end {
                    return Err(libc::EINVAL);
                }
                Some((file, offset))
            }
            None => None,
        };
        let prot = flags & (MAP_READ | MAP_WRITE);
        self.regions.insert(iova, Region { last, prot, file, dirty: BTreeSet::new() });
        Ok(())
    }

    /// `VFIO_USER_DMA_UNMAP`.
    pub fn unmap(&mut self, payload: &[u8]) -> Result<Vec<u8>, i32> {
        let (argsz, flags) = (u32_at(payload, 0)? as usize, u32_at(payload, 4)?);
        let (iova, size) = (u64_at(payload, 8)?, u64_at(payload, 16)?);
        let mut out = payload.get(..UNMAP).unwrap_or_default().to_vec();
        if argsz < UNMAP || !matches!(flags, 0 | UNMAP_DIRTY | UNMAP_ALL) {
            return Err(libc::EINVAL);
        }
        if flags == UNMAP_ALL {
            if (iova, size) != (0, 0) {
                return Err(libc::EINVAL);
            }
            self.regions.clear();
            return Ok(out);
        }
        let region = self.regions.get_mut(&iova).ok_or(libc::ENOENT)?;
        if region.last.wrapping_sub(iova) != size.wrapping_sub(1) {
            return Err(libc::ENOENT);
        }
        if flags == UNMAP_DIRTY {
            let (page, room) = (u64_at(payload, UNMAP)?, u64_at(payload, UNMAP + 8)?);
            let bitmap = bitmap_bytes(size, page).filter(|len| *len == room);
            let bitmap = bitmap.ok_or(libc::EINVAL)? as usize;
            if self.log != Some(page) || region.file.is_none() || argsz < UNMAP + BITMAP + bitmap {
                return Err(libc::EINVAL);
            }
            out.extend(long_words(&[page, room]));
            out.extend(region.take_dirty(size.div_ceil(page)));
        }
        self.regions.remove(&iova);
        Ok(out)
    }

    /// The device reads.
    pub fn read(&self, iova: u64, buf: &mut [u8], peer: &mut dyn Peer) -> Result<(), i32> {
        let (mut iova, mut rest) = (iova, buf);
        while !rest.is_empty() {
            let (first, region) = self.at(iova).ok_or(libc::ENOENT)?;
            if region.prot & MAP_READ == 0 {
                return Err(libc::EACCES);
            }
            let (now, later) = rest.split_at_mut(within(region, iova, rest.len()));
            region.read(iova, iova - first, now, peer)?;
            rest = later;
            iova = after(iova, now.len(), rest.is_empty())?;
        }
        Ok(())
    }

    /// The device writes. A page is in memory before it is in the log, so that whoever finds it there
    /// finds what was written.
    pub fn write(&mut self, iova: u64, bytes: &[u8], peer: &mut dyn Peer) -> Result<(), i32> {
        let (mut iova, mut rest) = (iova, bytes);
        while !rest.is_empty() {
            let (first, region) = self.at(iova).ok_or(libc::ENOENT)?;
            if region.prot & MAP_WRITE == 0 {
                return Err(libc::EACCES);
            }
            let (now, later) = rest.split_at(within(region, iova, rest.len()));
            region.write(iova, iova - first, now, peer)?;
            let (from, len, logged) = (iova - first, now.len() as u64, region.file.is_some());
            if let (Some(page), true) = (self.log, logged) {
                let pages = from / page..=(from + len - 1) / page;
                self.regions.entry(first).and_modify(|region| region.dirty.extend(pages));
            }
            rest = later;
            iova = after(iova, now.len(), rest.is_empty())?;
        }
        Ok(())
    }

    /// `DMA_LOGGING_START`, in pages of at least `least` bytes: the reply. Ranges are ignored, as
    /// libvfio-user does.
    pub fn start_log(&mut self, payload: &[u8], least: u64) -> Result<Vec<u8>, Refusal> {
        let plain = |errno| (errno, None);
        let broken = |rule| Err((libc::EINVAL, Some(rule)));
        let data = payload.get(FEATURE..).unwrap_or_default();
        let (page, ranges) =
            (u64_at(data, 0).map_err(plain)?, u32_at(data, 8).map_err(plain)? as usize);
        if data.len() < START || (data.len() - START) / RANGE != ranges || data.len() % RANGE != 0 {
            return broken(c"a log whose ranges are not as many as it says");
        }
        if page < PAGE || !page.is_power_of_two() {
            return broken(c"a log in pages whose size is not a power of two, or below 4096");
        }
        if u32_at(data, 12) != Ok(0) {
            return broken(c"a log with something in its reserved member");
        }
        let page = page.max(least);
        // Started again, it keeps what it has.
        if self.log.is_some_and(|own| own != page) {
            return Err(plain(libc::EINVAL));
        }
        self.log = Some(page);
        let mut out = payload.get(..FEATURE).unwrap_or_default().to_vec();
        out.extend(long_words(&[page]));
        out.extend(data.get(8..).unwrap_or_default());
        Ok(out)
    }

    /// `DMA_LOGGING_STOP`.
    pub fn stop_log(&mut self) {
        self.log = None;
        self.regions.values_mut().for_each(|region| region.dirty.clear());
    }

    /// `DMA_LOGGING_REPORT`: the reply.
    pub fn report(&mut self, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        let plain = |errno| (errno, None);
        let at = |at| u64_at(payload, at).map_err(plain);
        let argsz = u32_at(payload, 0).map_err(plain)? as usize;
        let (iova, length, page) = (at(FEATURE)?, at(FEATURE + 8)?, at(FEATURE + 16)?);
        let own = self.log.ok_or(plain(libc::EINVAL))?;
        if page != own {
            let rule = c"a report in pages of another size than the log's";
            return Err((libc::EINVAL, Some(rule)));
        }
        let first = self.at(iova).map(|(first, _)| first).ok_or(plain(libc::ENOENT))?;
        if first != iova {
            return Err(plain(libc::ENOTSUP));
        }
        let region = self.regions.get_mut(&first).ok_or(plain(libc::ENOENT))?;
        if length == 0 || length - 1 > region.last - first {
            return Err(plain(libc::ENOENT));
        }
        if region.file.is_none() {
            return Err(plain(libc::EINVAL));
        }
        let whole = bitmap_bytes(length, page).map(|len| FEATURE + REPORT + len as usize);
        let whole = whole.filter(|whole| *whole <= argsz).ok_or(plain(libc::EINVAL))?;
        let mut out = words(&[whole as u32]);
        out.extend(payload.get(4..FEATURE + REPORT).unwrap_or_default());
        out.extend(region.take_dirty(length.div_ceil(page)));
        Ok(out)
    }
}

/// Where the next part begins. There is nothing behind the last address.
fn after(iova: u64, len: usize, last: bool) -> Result<u64, i32> {
    let next = iova.checked_add(len as u64);
    if last { Ok(next.unwrap_or(0)) } else { next.ok_or(libc::ENOENT) }
}

/// How much of `len` bytes from an address on is in the region.
fn within(region: &Region, iova: u64, len: usize) -> usize {
    usize::try_from((region.last - iova).saturating_add(1)).map_or(len, |left| left.min(len))
}

/// In whole words of 64 bits; `None` if that is more than anybody asks for.
fn bitmap_bytes(length: u64, page: u64) -> Option<u64> {
    let bytes = length.checked_add(page.checked_sub(1)?)? / page;
    Some(bytes.div_ceil(64) * 8).filter(|bytes| *bytes <= MOST_BITMAP)
}
