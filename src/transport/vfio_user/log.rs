// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages the server has written to: its own log of what it has mapped, and what it wrote by
//! messages.
//!
//! Servers answer for whole regions only, from where they begin, in pages of the size that logging was
//! started with; any other question may be answered wrongly (libvfio-user's answers are, or do not end).
//! So nothing else is asked here.

use super::regions::{Backing, Region, add, set_all};
use super::way::Way;
use super::wire::{Fields, command, u64_at};
use crate::alloc;
use crate::error::Errno;
use crate::sys::{Bitmap, FeatureRequest, IovaRange, PageSize, uapi};
use crate::transport::dirty::DmaLog;

/// `argsz` and flags.
pub(super) const FEATURE: usize = 8;
/// Start, length and page size of a report.
const REPORT: usize = 24;
/// What a request to unmap has before its bitmap.
const UNMAP: usize = 40;
/// The largest bitmap that is asked for, in bytes.
const MAX_BITMAP: usize = 32 << 20;
/// The largest reply to a request to unmap, in bytes: libvfio-user's limit.
const MAX_UNMAP: usize = 1 << 20;
/// Ranges that fit into the command that starts logging.
const MAX_RANGES: usize = 1024;
/// Descriptors, no; the bitmap of what was unmapped, please.
const UNMAP_WITH_BITMAP: u32 = 1;

/// A log, for as long as it is asked something.
pub(super) struct Log<'a> {
    pub way: &'a mut Way,
    /// Memory for replies.
    pub buffer: &'a mut Vec<u8>,
}

impl Log<'_> {
    /// The length of a bitmap, in bytes, in whole words; and room for it after a head.
    fn make_room(&mut self, size: u64, page: PageSize, head: usize) -> Result<usize, Errno> {
        let bytes = (size / page.bytes()).div_ceil(64).checked_mul(8);
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = bytes.filter(|bytes| *bytes <= MAX_BITMAP).ok_or(Errno(libc::E2BIG))?;
        let more = (head + bytes).saturating_sub(self.buffer.len());
        alloc::reserve(self.buffer, more, "").map_err(|_| Errno(libc::ENOMEM))?;
        self.buffer.resize(self.buffer.len().max(head + bytes), 0);
        Ok(bytes)
    }

    /// Asks for what was logged of a region. Returns the bitmap's bytes in the buffer.
    fn ask(&mut self, iova: u64, size: u64, page: PageSize) -> Result<&[u8], Errno> {
        const HEAD: usize = FEATURE + REPORT;
        let bytes = self.make_room(size, page, HEAD)?;
        let flags = FeatureRequest::get(uapi::FEATURE_DMA_LOGGING_REPORT).flags();
        let asked = Fields::<HEAD>::new().u32((HEAD + bytes) as u32).u32(flags);
        let asked = asked.u64(iova).u64(size).u64(page.bytes());
        let reply = self.buffer.get_mut(..HEAD + bytes).unwrap_or_default();
        let payload = [asked.bytes(), &[]];
        let got = self.way.call(command::DEVICE_FEATURE, payload, &[], &mut [reply])?;
        let (head, bitmap) = self.buffer.split_at_checked(HEAD).ok_or(Errno(libc::EPROTO))?;
        let same = head.get(FEATURE..) == asked.bytes().get(FEATURE..);
        // Less than that leaves pages out, and an answer to something else is of no use.
        if got != HEAD + bytes || !same {
            return Err(Errno(libc::EPROTO));
        }
        bitmap.get(..bytes).ok_or(Errno(libc::EPROTO))
    }

    /// Takes a range from the server, with its log, if there is one and it fits.
    pub fn unmap(&mut self, iova: u64, size: u64) -> Result<(), Errno> {
        let regions = self.way.regions();
        let has_log = regions.find(iova, size)?.has_log();
        // In other pages than those that are noted, the whole range counts as dirty.
        let page = regions.page().filter(|page| has_log && regions.own() == Some(*page));
        if let Some(page) = page {
            match self.unmap_with_log(iova, size, page) {
                Ok(()) => return Ok(()),
                Err(errno) if is_in_doubt(errno) => return Err(self.doubt(iova, size, errno)),
                Err(_) => {}
            }
        }
        let asked = Fields::<24>::new().u32(24).u32(0).u64(iova).u64(size);
        let mut reply = [0; UNMAP];
        let payload = [asked.bytes(), &[]];
        match self.way.call(command::DMA_UNMAP, payload, &[], &mut [&mut reply]) {
            // It never had it, or has lost it when it was asked before.
            Ok(_) | Err(Errno(libc::ENOENT)) => {}
            Err(errno) if is_in_doubt(errno) => return Err(self.doubt(iova, size, errno)),
            Err(errno) => return Err(errno),
        }
        self.way.regions().remove(iova, size, None);
        Ok(())
    }

    /// Nobody knows whether the server still has a range.
    fn doubt(&mut self, iova: u64, size: u64, errno: Errno) -> Errno {
        let _ = self.way.regions().find(iova, size).map(Region::doubt);
        errno
    }

    fn unmap_with_log(&mut self, iova: u64, size: u64, page: PageSize) -> Result<(), Errno> {
        let bytes = self.make_room(size, page, UNMAP)?;
        if UNMAP + bytes > MAX_UNMAP {
            return Err(Errno(libc::E2BIG));
        }
        let asked = Fields::<UNMAP>::new().u32((UNMAP + bytes) as u32).u32(UNMAP_WITH_BITMAP);
        let asked = asked.u64(iova).u64(size).u64(page.bytes()).u64(bytes as u64);
        let reply = self.buffer.get_mut(..UNMAP + bytes).unwrap_or_default();
        let payload = [asked.bytes(), &[]];
        let got = self.way.call(command::DMA_UNMAP, payload, &[], &mut [reply])?;
        // An answer to something else says nothing of this range.
        let (asked, head) = (asked.bytes().get(FEATURE..), self.buffer.get(FEATURE..UNMAP));
        let bitmap = self.buffer.get(UNMAP..got).filter(|bitmap| bitmap.len() == bytes);
        let bitmap = bitmap.filter(|_| head == asked);
        let words = bitmap.and_then(|bitmap| words(bitmap).ok());
        self.way.regions().remove(iova, size, words.as_deref());
        Ok(())
    }
}

/// Whether nobody knows if a command that ended so was carried out, or will be.
pub(super) fn is_in_doubt(errno: Errno) -> bool {
    matches!(errno.0, libc::ETIMEDOUT | libc::EPROTO | libc::ENODEV)
}

/// Adds bits for pages of one size to a bitmap for pages of another, in which the first page is at
/// `at` bytes.
fn spread(bitmap: &mut Bitmap<'_>, at: u64, own: PageSize, words: &[u64]) {
    let start = bitmap.span().start + at;
    for (word, first) in words.iter().zip((0u64..).step_by(64)) {
        for bit in (0..64).filter(|bit| word >> bit & 1 == 1) {
            let from = start + (first + bit) * own.bytes();
            set_all(bitmap, from, from + (own.bytes() - 1));
        }
    }
}

/// The words of a bitmap, of which a byte has the lowest bit first.
fn words(bytes: &[u8]) -> Result<Vec<u64>, Errno> {
    let mut words = Vec::new();
    alloc::reserve(&mut words, bytes.len() / 8, "").map_err(|_| Errno(libc::ENOMEM))?;
    let whole = bytes.chunks_exact(8).filter_map(|word| word.first_chunk());
    words.extend(whole.map(|word| u64::from_le_bytes(*word)));
    Ok(words)
}

impl DmaLog for Log<'_> {
    fn start(&mut self, page: PageSize, ranges: &[IovaRange]) -> Result<u64, Errno> {
        // No range means all memory, which is never too little.
        let ranges = if ranges.len() > MAX_RANGES { &[] } else { ranges };
        let mut payload = Vec::new();
        alloc::reserve(&mut payload, ranges.len() * 16, "").map_err(|_| Errno(libc::ENOMEM))?;
        for range in ranges {
            payload.extend_from_slice(&range.iova.to_ne_bytes());
            payload.extend_from_slice(&range.length.to_ne_bytes());
        }
        const HEAD: usize = FEATURE + 16;
        let flags = FeatureRequest::set(uapi::FEATURE_DMA_LOGGING_START).flags();
        let head = Fields::<HEAD>::new().u32((HEAD + payload.len()) as u32).u32(flags);
        let head = head.u64(page.bytes()).u32(ranges.len() as u32).u32(0);
        let mut reply = [0; HEAD];
        let mut rest = alloc::filled(0, payload.len(), "").map_err(|_| Errno(libc::ENOMEM))?;
        // From here on, so that nothing is missed that is written before the reply is there.
        self.way.regions().watch(Some(page));
        let parts = &mut [&mut reply[..], &mut rest];
        let done = self.way.call(command::DEVICE_FEATURE, [head.bytes(), &payload], &[], parts);
        let got = done.inspect_err(|_| self.way.regions().watch(None))?;
        if got < FEATURE + 8 {
            self.way.regions().watch(None);
            return Err(Errno(libc::EPROTO));
        }
        // The server may log in pages of another size, and is asked in these.
        let own = u64_at(&reply, FEATURE)?;
        let size = PageSize::new(own);
        self.way.regions().set_own(size);
        // Reports are in the pages that were asked for, whatever those of the server are.
        Ok(size.map_or(own, |_| page.bytes()))
    }

    fn stop(&mut self) -> Result<(), Errno> {
        let flags = FeatureRequest::set(uapi::FEATURE_DMA_LOGGING_STOP).flags();
        let asked = Fields::<FEATURE>::new().u32(FEATURE as u32).u32(flags);
        let mut reply = [0; FEATURE];
        let payload = [asked.bytes(), &[]];
        self.way.call(command::DEVICE_FEATURE, payload, &[], &mut [&mut reply])?;
        self.way.regions().watch(None);
        Ok(())
    }

    fn report(&mut self, bitmap: &mut Bitmap<'_>) -> Result<(), Errno> {
        let span = bitmap.span();
        let regions = self.way.regions();
        let cover = regions.cover(span)?;
        let own = regions.own().ok_or(Errno(libc::EINVAL))?;
        if regions.page() != Some(span.page) {
            return Err(Errno(libc::EINVAL));
        }
        let whole = |(iova, size, _): &(u64, u64, Backing)| own.divides(iova | size);
        if !span.page.divides(span.start | span.length) || !cover.logged.iter().all(whole) {
            return Err(Errno(libc::EINVAL));
        }
        for (iova, size, backing) in cover.logged {
            let words = match self.ask(iova, size, own) {
                Ok(bytes) => words(bytes)?,
                // It has no log of it: all of it is dirty.
                Err(errno) if backing == Backing::Unknown && !is_in_doubt(errno) => {
                    set_all(bitmap, iova, iova + (size - 1));
                    continue;
                }
                Err(errno) => return Err(errno),
            };
            match own == span.page {
                true => add(bitmap, span.page.of(iova - span.start), &words),
                false => spread(bitmap, iova - span.start, own, &words),
            }
        }
        // Nobody knows of these addresses what is written there.
        for (first, last) in cover.holes {
            set_all(bitmap, first, last);
        }
        self.way.regions().give(bitmap);
        Ok(())
    }
}
