// SPDX-License-Identifier: MIT OR Apache-2.0
//! DMA logging: which pages the device wrote to, within the ranges that were asked for.
//!
//! It is exact: nothing is reported that was not written to, up to the size of the log's pages.
//! Pages are kept in units of 4 KiB, whatever that size is, so that a report of part of a larger
//! page neither loses the rest nor reports it twice.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::ops::RangeInclusive;

/// The smallest pages that a report may use.
const UNIT: u64 = 4096;
/// As many as fit into a page of the kernel's: more return E2BIG.
pub(crate) const MAX_RANGES: u32 = 256;
/// Bytes that one write of the device may cover.
const MAX_WRITE: u64 = 1 << 30;

/// What a `VFIO_DEVICE_FEATURE_DMA_LOGGING_START` asks for.
pub(crate) struct Start {
    pub page_size: u64,
    pub num_ranges: u32,
    pub reserved: u32,
    /// First address and length.
    pub ranges: Vec<(u64, u64)>,
}

/// What a `VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT` asks for.
pub(crate) struct Report {
    pub iova: u64,
    pub length: u64,
    pub page_size: u64,
}

pub(crate) struct Log {
    page: u64,
    ranges: Vec<RangeInclusive<u64>>,
    /// Numbers of units.
    dirty: BTreeSet<u64>,
}

impl Report {
    /// How many words its bitmap has, or the kernel's objection to the request.
    pub fn words(&self) -> Result<usize, i32> {
        if self.page_size < UNIT || !self.page_size.is_power_of_two() {
            return Err(libc::EINVAL);
        }
        if self.iova.checked_add(self.length).is_none() {
            return Err(libc::EOVERFLOW);
        }
        usize::try_from(self.length.div_ceil(self.page_size).div_ceil(64)).map_err(|_| libc::ENOMEM)
    }
}

impl Log {
    /// The kernel's checks of a request, then those of a device that has room for `max_ranges`
    /// ranges and logs in pages of at least `least_page` bytes. The text says which rule the VMM
    /// broke.
    pub fn start(
        start: &Start,
        least_page: u64,
        max_ranges: u32,
    ) -> Result<Log, (i32, Option<&'static CStr>)> {
        let broken = |errno, rule| Err((errno, Some(rule)));
        match start.num_ranges {
            0 => return broken(libc::EINVAL, c"a log of no ranges"),
            1..=MAX_RANGES => {}
            _ => return broken(libc::E2BIG, c"a log of more than 256 ranges"),
        }
        if start.reserved != 0 {
            return broken(libc::EINVAL, c"a log with something in its reserved member");
        }
        let page = start.page_size;
        if !page.is_power_of_two() {
            return broken(libc::EINVAL, c"a log in pages whose size is not a power of two");
        }
        let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
        for &(iova, length) in &start.ranges {
            if iova % page != 0 || length % page != 0 {
                return broken(libc::EINVAL, c"a log of a range that is not in whole pages");
            }
            // The kernel accepts it, and then has a range that ends before it begins.
            if length == 0 {
                return broken(libc::EINVAL, c"a log of an empty range");
            }
            let Some(end) = iova.checked_add(length) else {
                return broken(libc::EOVERFLOW, c"a log of a range that ends at 2^64 or wraps");
            };
            let range = iova..=end - 1;
            let overlaps = |other: &RangeInclusive<u64>| {
                other.start() <= range.end() && range.start() <= other.end()
            };
            if ranges.iter().any(overlaps) {
                return broken(libc::EINVAL, c"a log of ranges that overlap");
            }
            ranges.push(range);
        }
        if max_ranges != 0 && start.num_ranges > max_ranges {
            return Err((libc::ENOSPC, None));
        }
        Ok(Log { page: page.max(least_page).max(UNIT), ranges, dirty: BTreeSet::new() })
    }

    /// A log of all addresses, in the smallest pages.
    pub fn everything() -> Log {
        Log { page: UNIT, ranges: vec![0..=u64::MAX], dirty: BTreeSet::new() }
    }

    pub fn page(&self) -> u64 {
        self.page
    }

    /// The device writes.
    pub fn write(&mut self, iova: u64, len: u64) -> Result<(), i32> {
        let last =
            len.checked_sub(1).and_then(|more| iova.checked_add(more)).ok_or(libc::EINVAL)?;
        if len > MAX_WRITE {
            return Err(libc::E2BIG);
        }
        let mask = self.page - 1;
        let (first, last) = (iova & !mask, last | mask);
        for range in &self.ranges {
            let (first, last) = (first.max(*range.start()), last.min(*range.end()));
            if first <= last {
                self.dirty.extend(first / UNIT..=last / UNIT);
            }
        }
        Ok(())
    }

    /// Sets the bits of what is dirty in a range, and forgets it.
    pub fn report(&mut self, report: &Report, words: &mut [u64]) {
        let Some(more) = report.length.checked_sub(1) else { return };
        let asked = report.iova / UNIT..=(report.iova + more) / UNIT;
        let found: Vec<u64> = self.dirty.range(asked).copied().collect();
        for unit in found {
            self.dirty.remove(&unit);
            let bit = (unit * UNIT).saturating_sub(report.iova) / report.page_size;
            if let Some(word) = words.get_mut((bit / 64) as usize) {
                *word |= 1 << (bit % 64);
            }
        }
    }

    /// Silently forgets what is dirty in a range.
    pub fn lose(&mut self, report: &Report) {
        let words = report.words().unwrap_or(0);
        self.report(report, &mut vec![0; words]);
    }
}
