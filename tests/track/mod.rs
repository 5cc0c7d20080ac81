// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tests of dirty tracking put together: trackings, bits of bitmaps, a tracker of the VMM's and a
//! device with a log. `tests/machine` is for those that need to know what is true.

#![allow(dead_code)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::field_reassign_with_default)] // Not all fields are public.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use vfiomig::dirty::{
    CustomTracker, DirtyPages, Health, Mapping, Memory, PageSize, Tracking, TrackingOptions, Writer,
};
use vfiomig::error::Errno;
use vfiomig::transport::{Bitmap, DmaLog, IovaRange, Span};

pub const PAGE: u64 = 4096;
pub const PAGE_SIZE: PageSize = PageSize::new(PAGE).unwrap();

pub fn set_bit(words: &mut [u64], bit: u64) {
    words[(bit / 64) as usize] |= 1 << (bit % 64);
}

/// Which of the first `bits` are set.
pub fn bits_of(words: &[u64], bits: u64) -> impl Iterator<Item = u64> {
    (0..bits).filter(|bit| words[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
}

/// Tracking in pages of `PAGE`, with these mappings.
pub fn new_tracking(memory: impl Memory + 'static, mappings: &[Mapping]) -> Tracking {
    let options = TrackingOptions { page_size: Some(PAGE_SIZE), ..TrackingOptions::default() };
    let mut tracking = Tracking::new(memory, options).unwrap();
    mappings.iter().for_each(|mapping| tracking.map(*mapping).unwrap());
    tracking
}

/// Pages, by their numbers, at offsets that are their addresses.
pub fn mapping(first: u64, pages: u64) -> Mapping {
    let iova = first * PAGE;
    Mapping { iova, size: pages * PAGE, offset: iova, ..Mapping::default() }
}

/// Takes in which pages are dirty, until they are taken.
#[derive(Clone, Default)]
pub struct Taken(Arc<Mutex<BTreeSet<u64>>>);

impl Taken {
    pub fn take(&self) -> Vec<u64> {
        std::mem::take(&mut *self.0.lock().unwrap()).into_iter().collect()
    }
}

impl Memory for Taken {
    fn set_dirty(&mut self, pages: DirtyPages<'_>) -> Result<(), Errno> {
        self.0.lock().unwrap().extend(pages.offsets().map(|offset| offset / PAGE));
        Ok(())
    }
}

/// A tracker that starts and stops, and reads by calling this with an address, a length and words.
pub struct Own<F> {
    pub page: u64,
    pub sync: F,
}

impl<F> CustomTracker for Own<F>
where
    F: FnMut(u64, u64, &mut [u64]) -> Result<(), Errno> + Send,
{
    fn page_size(&self) -> PageSize {
        PageSize::new(self.page).unwrap()
    }

    fn start(&mut self) -> Result<(), Errno> {
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Errno> {
        Ok(())
    }

    fn sync(&mut self, words: &mut Bitmap<'_>) -> Result<(), Errno> {
        let Span { start: iova, length, .. } = words.span();
        (self.sync)(iova, length, words)
    }
}

/// A tracker that works, but never sees a write.
pub fn idle() -> Box<dyn CustomTracker> {
    Box::new(Own { page: PAGE, sync: |_: u64, _: u64, _: &mut [u64]| Ok(()) })
}

/// A device with a log, and what the log was asked.
#[derive(Default)]
pub struct Logging {
    /// The ranges of each start.
    pub starts: Vec<Vec<IovaRange>>,
    on: bool,
    pub reports: u64,
    /// Addresses of pages that were written to.
    pub dirty: BTreeSet<u64>,
    pub resets: Arc<AtomicU64>,
    /// Is reset when it has been asked for this many more reports.
    pub reset_in: Option<u64>,
    /// It says that it is stopped if asked.
    pub still: bool,
}

impl Logging {
    /// The device writes to a page; what is not logged is not reported.
    pub fn write(&mut self, iova: u64) {
        let logged = |range: &IovaRange| iova >= range.iova && iova - range.iova < range.length;
        if self.on && self.starts.last().unwrap().iter().any(logged) {
            self.dirty.insert(iova);
        }
    }

    fn reset(&mut self) {
        self.dirty.clear();
        self.resets.fetch_add(1, Ordering::Release);
    }
}

#[derive(Clone, Default)]
pub struct Logged(Arc<Mutex<Logging>>);

impl Logged {
    pub fn get(&self) -> MutexGuard<'_, Logging> {
        self.0.lock().unwrap()
    }
}

impl DmaLog for Logged {
    fn start(&mut self, page: PageSize, ranges: &[IovaRange]) -> Result<u64, Errno> {
        let mut device = self.get();
        device.starts.push(ranges.to_vec());
        device.on = true;
        Ok(page.bytes())
    }

    fn stop(&mut self) -> Result<(), Errno> {
        let mut device = self.get();
        device.on = false;
        device.dirty.clear();
        Ok(())
    }

    fn report(&mut self, words: &mut Bitmap<'_>) -> Result<(), Errno> {
        let Span { start: iova, length, .. } = words.span();
        let mut device = self.get();
        device.reports += 1;
        let found: Vec<u64> = device.dirty.range(iova..=iova + (length - 1)).copied().collect();
        for at in found {
            device.dirty.remove(&at);
            set_bit(words, (at - iova) / PAGE);
        }
        device.reset_in = device.reset_in.map(|left| left - 1);
        if device.reset_in == Some(0) {
            device.reset_in = None;
            device.reset();
        }
        Ok(())
    }
}

/// Starts tracking of a device with a log; there may also be a tracker of the VMM's own, which sees
/// nothing.
pub fn start_logged(tracking: &mut Tracking, still: bool, tracked: bool) -> Logged {
    let log = Logged::default();
    log.get().still = still;
    let mut writer = Writer::default();
    writer.device_log = Some(Box::new(log.clone()));
    let (resets, asked) = (Arc::clone(&log.get().resets), log.clone());
    writer.health = Some(Health::new(resets, move || asked.get().still.then_some(1)));
    writer.custom = tracked.then(idle);
    tracking.add_writer(writer).unwrap();
    tracking.start().unwrap();
    log
}
