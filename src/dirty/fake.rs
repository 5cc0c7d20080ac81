// SPDX-License-Identifier: MIT OR Apache-2.0
//! For unit tests: one fake tracker behind each of the trackers' interfaces, and a VMM's memory.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use super::bitmap::{self, PageSize};
use super::map::{Map, Mapping};
use super::memory::{DirtyPages, Memory, Place};
use super::tracker::custom::CustomTracker;
use crate::error::Errno;
use crate::transport::{Bitmap, DmaLog, Hwpt, IovaRange, PageSizes, Span, Type1, Type1Info};

pub const PAGE: u64 = 4096;

type Outcome<T = ()> = Result<T, Errno>;

pub fn page() -> PageSize {
    PageSize::new(PAGE).unwrap()
}

/// A map of these mappings, given as first page and number of pages, at offsets equal to their
/// addresses.
pub fn map(mappings: &[(u64, u64)]) -> Map {
    let mut map = Map::default();
    for (at, n) in mappings {
        let (iova, size) = (at * PAGE, n * PAGE);
        map.insert(Mapping { iova, size, offset: iova, ..Mapping::default() }, page()).unwrap();
    }
    map
}

/// What a tracker has seen and what it says.
#[derive(Default)]
pub struct State {
    /// Numbers of dirty pages.
    pub dirty: BTreeSet<u64>,
    /// The errno with which starting fails, and reading.
    pub no_start: Option<i32>,
    pub no_read: Option<i32>,
    /// What a page table says when asked whether a range is mapped.
    pub mapped: Option<bool>,
    pub running: bool,
    pub starts: u32,
    /// What it was asked about: first page and number of pages.
    pub asked: Vec<(u64, u64)>,
}

/// A tracker, and the size of its pages in bytes.
#[derive(Clone)]
pub struct Fake {
    pub state: Arc<Mutex<State>>,
    pub page: u64,
    pub key: u64,
    pub ioas: Option<u32>,
    pub max_bitmap: u64,
}

impl Fake {
    pub fn new(key: u64) -> Fake {
        Fake { state: Arc::default(), page: PAGE, key, ioas: None, max_bitmap: u64::MAX }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn dirty(&self, pages: impl IntoIterator<Item = u64>) {
        self.state().dirty.extend(pages);
    }

    fn set_running(&self, running: bool) -> Outcome {
        let mut state = self.state();
        if let Some(errno) = state.no_start.filter(|_| running) {
            return Err(Errno(errno));
        }
        state.starts += u32::from(running);
        state.running = running;
        Ok(())
    }

    fn read(&self, keep: bool, words: &mut Bitmap<'_>) -> Outcome {
        let Span { start: iova, length, page } = words.span();
        let mut state = self.state();
        state.asked.push((iova / PAGE, length / PAGE));
        if let Some(errno) = state.no_read {
            // A failing read may leave some bits set.
            bitmap::set(words, 0, 1);
            return Err(Errno(errno));
        }
        let pages = iova / PAGE..(iova + length) / PAGE;
        for dirty in state.dirty.range(pages.clone()) {
            bitmap::set(words, (dirty * PAGE - iova) / page.bytes(), 1);
        }
        if !keep {
            state.dirty.retain(|dirty| !pages.contains(dirty));
        }
        Ok(())
    }
}

impl CustomTracker for Fake {
    fn page_size(&self) -> PageSize {
        PageSize::new(self.page).unwrap()
    }

    fn start(&mut self) -> Outcome {
        self.set_running(true)
    }

    fn stop(&mut self) -> Outcome {
        self.set_running(false)
    }

    fn sync(&mut self, bitmap: &mut Bitmap<'_>) -> Outcome {
        self.read(false, bitmap)
    }
}

impl DmaLog for Fake {
    fn start(&mut self, page: PageSize, _: &[IovaRange]) -> Outcome<u64> {
        self.set_running(true).map(|()| page.bytes())
    }

    fn stop(&mut self) -> Outcome {
        self.set_running(false)
    }

    fn report(&mut self, bitmap: &mut Bitmap<'_>) -> Outcome {
        self.read(false, bitmap)
    }
}

impl Hwpt for Fake {
    fn key(&self) -> u64 {
        self.key
    }

    fn set_tracking(&mut self, enable: bool) -> Outcome {
        self.set_running(enable)
    }

    fn bitmap(&mut self, keep: bool, bitmap: &mut Bitmap<'_>) -> Outcome {
        self.read(keep, bitmap)
    }

    fn ioas(&self) -> Option<u32> {
        self.ioas
    }

    fn is_mapped(&mut self, _: u64, _: u64) -> Option<Outcome<bool>> {
        self.state().mapped.map(Ok)
    }

    fn max_bitmap(&self) -> u64 {
        self.max_bitmap
    }
}

impl Type1 for Fake {
    fn key(&self) -> u64 {
        self.key
    }

    fn info(&mut self) -> Outcome<Type1Info> {
        Ok(Type1Info { page_sizes: PageSizes::from_bits(self.page), max_bitmap: self.max_bitmap })
    }

    fn start(&mut self) -> Outcome {
        self.set_running(true)
    }

    fn stop(&mut self) -> Outcome {
        self.set_running(false)
    }

    fn bitmap(&mut self, bitmap: &mut Bitmap<'_>) -> Outcome {
        self.read(true, bitmap)
    }

    fn unmap(&mut self, bitmap: &mut Bitmap<'_>) -> Outcome<u64> {
        self.read(false, bitmap).map(|()| bitmap.span().length)
    }
}

/// What the VMM was given, and whether it refuses.
#[derive(Default)]
pub struct Taken {
    /// Cookie and number of each page, in the order in which they came.
    pub pages: Vec<(u64, u64)>,
    pub refuses: bool,
    /// Translated pages lie this many pages higher, in places of this many pages; none: the VMM
    /// does not know where they are.
    pub place: Option<(u64, u64)>,
}

/// A VMM's memory.
#[derive(Clone, Default)]
pub struct Vmm(Arc<Mutex<Taken>>);

impl Vmm {
    pub fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap()
    }

    /// Takes the numbers of the pages that the VMM was given since the last call.
    pub fn take(&self) -> Vec<u64> {
        std::mem::take(&mut self.taken().pages).into_iter().map(|(_, page)| page).collect()
    }
}

impl Memory for Vmm {
    fn set_dirty(&mut self, pages: DirtyPages<'_>) -> Outcome {
        let mut taken = self.taken();
        if taken.refuses {
            return Err(Errno(libc::EAGAIN));
        }
        taken.pages.extend(pages.offsets().map(|offset| (pages.cookie, offset / PAGE)));
        Ok(())
    }

    fn translate(&mut self, iova: u64, _: u64) -> Outcome<Place> {
        let (higher, pages) = self.taken().place.ok_or(Errno(libc::ENOENT))?;
        let (offset, size) = (iova + higher * PAGE, pages * PAGE);
        Ok(Place { cookie: 9, offset, size, host: 0 })
    }
}
