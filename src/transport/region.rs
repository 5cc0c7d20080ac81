// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a driver says of a region: its size, what may be done with it, its type, and which parts of it
//! can be mapped.
//!
//! The answer is a structure with a chain of capabilities behind it. All of it comes from a driver:
//! every offset, length and count is checked here, and nothing else reads it.

use crate::alloc;
use crate::error::{Code, Error, Result, err};
use crate::flags::flags;
use crate::sys::{page_size, uapi};

flags! {
    /// What may be done with a region: `VFIO_REGION_INFO_FLAG_*`. Those without a name here are kept.
    open RegionFlags: u32 {
        /// It can be read.
        READ = uapi::REGION_INFO_READ;
        /// It can be written to.
        WRITE = uapi::REGION_INFO_WRITE;
        /// It, or a part of it, can be mapped.
        MMAP = uapi::REGION_INFO_MMAP;
        /// There are capabilities.
        CAPS = uapi::REGION_INFO_CAPS;
    }
}

/// A part of a region, in bytes from its beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    /// Where it begins.
    pub offset: u64,
    /// How long it is; not zero.
    pub len: u64,
}

impl Area {
    /// Where it ends.
    pub fn end(self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// A region, as its driver describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region {
    /// Its number.
    pub index: u32,
    /// What may be done with it.
    pub flags: RegionFlags,
    /// Its length in bytes.
    pub size: u64,
    /// Its type and subtype, if it has them.
    pub kind: Option<(u32, u32)>,
    /// What of it can be mapped: whole pages, in order, that do not overlap.
    pub areas: Vec<Area>,
}

/// The size of `struct vfio_region_info`.
pub(crate) const INFO: usize = 32;
/// The size of a capability's header.
const HEADER: usize = 8;
/// The size of an area in a capability.
const AREA: usize = 16;

impl Region {
    /// How many bytes an answer to `VFIO_DEVICE_GET_REGION_INFO` needs, according to itself.
    pub(crate) fn needed(reply: &[u64]) -> usize {
        reply.first().map_or(0, |word| low(*word) as usize)
    }

    /// What an answer says of region `index`.
    pub(crate) fn read(reply: &[u64], index: u32) -> Result<Region> {
        let bytes = alloc::collect(reply.iter().flat_map(|word| word.to_ne_bytes()), NO_MEMORY)?;
        Region::parse(&bytes, index, page_size())
    }

    /// What an answer of whole words says. `page` is the size of a page.
    fn parse(reply: &[u8], index: u32, page: u64) -> Result<Region> {
        Reply { bytes: reply, page }.region(index).map_err(|why| match why {
            NO_MEMORY => Error::new(Code::NoMem, why),
            _ => {
                err!(Io, "the driver describes region {index} in a way that cannot be right: {why}")
            }
        })
    }
}

const NO_MEMORY: &str = "no memory for the driver's answer";

/// The first half of a word, as it lies in memory.
fn low(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

fn at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    at(bytes, offset).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    at(bytes, offset).map(u64::from_ne_bytes)
}

/// Why an answer is not believed.
type Wrong = &'static str;
const TOO_SHORT: Wrong = "it is too short";

/// An answer.
struct Reply<'a> {
    bytes: &'a [u8],
    page: u64,
}

impl Reply<'_> {
    fn region(&self, index: u32) -> std::result::Result<Region, Wrong> {
        let number = |offset| u32_at(self.bytes, offset).ok_or(TOO_SHORT);
        let flags = RegionFlags::from_bits_retain(number(4)?);
        let size = u64_at(self.bytes, 16).ok_or(TOO_SHORT)?;
        let mut region = Region { index, flags, size, kind: None, areas: Vec::new() };
        // What comes after argsz is not part of the answer.
        let len = (number(0)? as usize).min(self.bytes.len());
        let (kind, sparse) = match flags.contains(RegionFlags::CAPS) {
            true => self.chain(number(12)? as usize, len)?,
            false => (None, None),
        };
        region.kind = kind;
        if flags.contains(RegionFlags::MMAP) {
            match sparse {
                Some(sparse) => region.areas = self.areas(sparse, size)?,
                None if size > 0 && size % self.page == 0 => {
                    let whole = Area { offset: 0, len: size };
                    alloc::push(&mut region.areas, whole, NO_MEMORY).map_err(|_| NO_MEMORY)?;
                }
                // The end of the last page would not be the region's.
                None => {}
            }
        }
        Ok(region)
    }

    /// Follows the chain through `len` bytes; returns the type, and where the areas are and how many.
    /// It only goes forward, so it ends.
    #[allow(clippy::type_complexity)]
    fn chain(
        &self,
        first: usize,
        len: usize,
    ) -> std::result::Result<(Option<(u32, u32)>, Option<(usize, usize)>), Wrong> {
        let (mut kind, mut sparse) = (None, None);
        let (mut at, mut least) = (first, INFO);
        while at != 0 {
            let end = at.checked_add(HEADER).filter(|end| *end <= len);
            let end = end.ok_or("a capability lies outside of it")?;
            if at < least {
                return Err("its capabilities go backwards");
            }
            let word = u32_at(self.bytes, at).ok_or(TOO_SHORT)?;
            let body = |offset: usize| match end.checked_add(offset + 4) {
                Some(last) if last <= len => u32_at(self.bytes, end + offset).ok_or(TOO_SHORT),
                _ => Err("a capability ends outside of it"),
            };
            // The id and the version, two bytes each.
            match id_of(word) {
                uapi::REGION_INFO_CAP_TYPE => {
                    once(&mut kind, (body(0)?, body(4)?), "it has two types")?;
                }
                uapi::REGION_INFO_CAP_SPARSE_MMAP => {
                    let count = body(0)? as usize;
                    let from = end + 8;
                    let room = len.checked_sub(from).ok_or("a capability ends outside of it")?;
                    if count > room / AREA {
                        return Err("more areas than there is room for");
                    }
                    once(&mut sparse, (from, count), "it has two lists of areas")?;
                }
                // There are others, which say nothing that matters here.
                _ => {}
            }
            least = end;
            at = u32_at(self.bytes, at + 4).ok_or(TOO_SHORT)? as usize;
        }
        Ok((kind, sparse))
    }

    /// The areas that can be mapped, in order.
    fn areas(
        &self,
        (from, count): (usize, usize),
        size: u64,
    ) -> std::result::Result<Vec<Area>, Wrong> {
        let mut areas = Vec::new();
        for i in 0..count {
            let place = from + i * AREA;
            let offset = u64_at(self.bytes, place).ok_or(TOO_SHORT)?;
            let len = u64_at(self.bytes, place + 8).ok_or(TOO_SHORT)?;
            if len == 0 {
                continue;
            }
            if offset.checked_add(len).is_none_or(|end| end > size) {
                return Err("an area lies outside of the region");
            }
            if offset % self.page != 0 || len % self.page != 0 {
                return Err("an area is not made of whole pages");
            }
            alloc::push(&mut areas, Area { offset, len }, NO_MEMORY).map_err(|_| NO_MEMORY)?;
        }
        areas.sort_unstable_by_key(|area| area.offset);
        let overlap = |pair: &[Area]| matches!(pair, [one, two] if one.end() > two.offset);
        match areas.windows(2).any(overlap) {
            true => Err("areas overlap"),
            false => Ok(areas),
        }
    }
}

/// Notes what an answer may say once.
fn once<T>(place: &mut Option<T>, value: T, twice: Wrong) -> std::result::Result<(), Wrong> {
    if place.replace(value).is_some() { Err(twice) } else { Ok(()) }
}

/// The id of a capability, in the first word of its header.
fn id_of(word: u32) -> u16 {
    let [a, b, _, _] = word.to_ne_bytes();
    u16::from_ne_bytes([a, b])
}

#[cfg(test)]
mod tests;
