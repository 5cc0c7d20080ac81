// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine for tests of dirty tracking: devices that write to memory, the mappings they write
//! through, and trackers that notice it with the habits of the kernel's own.
//!
//! It keeps the truth: which page was written to and has not been delivered, and for which pages
//! there is a reason to deliver them. Devices write at any moment, even in the middle of the
//! library's calls: before and after the effect of each call that reaches a tracker.

#![allow(dead_code)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use vfiomig::dirty::{CustomTracker, DirtyPages, Health, Mapping, Memory, PageSize, Place, Writer};
use vfiomig::error::Errno;
use vfiomig::transport::{Bitmap, DmaLog, Hwpt, IovaRange, PageSizes, Span, Type1, Type1Info};

/// Numbers that look random and are the same every time: splitmix64.
pub struct Rng(pub u64);

thread_local! {
    /// What decides instead of random numbers, the next byte last.
    static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Until they are used up, these bytes are this thread's random numbers: a fuzzer finds its way
/// through them.
pub fn decide_by(bytes: &[u8]) {
    BYTES.with_borrow_mut(|own| *own = bytes.iter().rev().copied().collect());
}

/// The next number, of two bytes.
fn decided() -> Option<u64> {
    BYTES.with_borrow_mut(|bytes| {
        let low = bytes.pop()?;
        Some(u64::from(bytes.pop().unwrap_or(0)) << 8 | u64::from(low))
    })
}

impl Rng {
    pub fn next(&mut self) -> u64 {
        if let Some(number) = decided() {
            return number;
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// True `n` times in 1000.
    pub fn chance(&mut self, n: u64) -> bool {
        self.below(1000) < n
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// Addresses that mappings are made in; a case knows a few of them.
#[derive(Clone, Copy, Debug)]
pub struct Arena {
    pub first: u64,
    pub pages: u64,
    /// Number of its first page.
    base: usize,
}

/// A page of the VMM's memory, mapped once.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When it was last written to without having been delivered since; 0: it was not.
    pub must: u64,
    /// When there last was a reason to deliver it; 0: there is none.
    pub why: u64,
    /// What of it was not delivered since: a bit for each 512 bytes.
    pub left: u128,
    /// Whether a bitmap had a part of it, of which others will have the rest.
    pub cut: bool,
    /// Always dirty, because of a recorded error.
    pub suspect: bool,
    /// The page that it was mapped at.
    pub at: usize,
    pub inst: usize,
    /// What wrote to it last.
    pub by: &'static str,
}

impl Frame {
    /// It was written to.
    pub fn wrote(&mut self, now: u64, by: &'static str) {
        (self.must, self.left, self.by) = (now, u128::MAX, by);
    }

    /// This much of it was delivered: bytes `from` to `to`, in whole pieces of 512.
    pub fn had(&mut self, from: u64, to: u64, page: u64) {
        let n = |bytes: u64| if bytes >= 128 * 512 { u128::MAX } else { (1 << (bytes / 512)) - 1 };
        self.left &= n(page) & !(n(to + 1) & !n(from));
        if self.left == 0 {
            self.must = 0;
        }
    }
}

/// One mapping.
#[derive(Clone, Debug)]
pub struct Inst {
    pub iova: u64,
    pub pages: u64,
    pub first_frame: usize,
    pub offset: u64,
    pub translate: bool,
    pub read_only: bool,
}

/// Blocks of this many pages lie in reverse order behind an address translation.
const BLOCK: u64 = 4;

impl Inst {
    /// The page of the memory at page `k` of the mapping, and how many follow it.
    fn behind(&self, k: u64) -> (u64, u64) {
        let blocks = self.pages / BLOCK;
        if !self.translate {
            (k, self.pages - k)
        } else if k / BLOCK < blocks {
            ((blocks - 1 - k / BLOCK) * BLOCK + k % BLOCK, BLOCK - k % BLOCK)
        } else {
            (k, self.pages - k)
        }
    }
}

#[derive(Default, Debug)]
pub struct Log {
    pub on: bool,
    pub page: u64,
    pub asked: Vec<IovaRange>,
    pub logged: Vec<IovaRange>,
    pub bits: BTreeSet<u64>,
    /// The most ranges that it tells apart; more are merged or refused.
    pub max_ranges: usize,
    pub merges: bool,
    pub max_bytes: u64,
    /// A second START is accepted, and so are STOP and REPORT without START.
    pub lax: bool,
    pub no_report: bool,
    /// A report of a part of one of its pages forgets all of that page.
    pub loses_rest: bool,
    pub excess: bool,
}

#[derive(Default, Debug)]
pub struct Table {
    pub on: bool,
    pub page: u64,
    /// First and last address of each entry that is dirty.
    pub dirty: BTreeMap<u64, u64>,
    /// How many pages an entry covers, if they are contiguous; 0: one of `page` bytes.
    pub entry: u64,
    pub holes: BTreeSet<usize>,
    pub none: bool,
    pub mute: bool,
    /// At a hole it reads nothing; otherwise it reads what comes before it.
    pub strict: bool,
    pub loses: bool,
    pub read_for_unmap: bool,
}

#[derive(Default, Debug)]
pub struct Container {
    pub on: bool,
    pub page: u64,
    pub maps: BTreeMap<u64, u64>,
    pub dirty: BTreeSet<u64>,
    pub pinned: BTreeSet<usize>,
    pub all_pinned: bool,
    pub none: bool,
    pub max_bitmap: u64,
}

#[derive(Default, Debug)]
pub struct Own {
    pub on: bool,
    pub page: u64,
    pub bits: BTreeSet<u64>,
    /// Forgets what is unmapped.
    pub forgets: bool,
    pub loses: bool,
    pub excess: bool,
    pub read_for_unmap: bool,
}

#[derive(Debug)]
pub struct Dev {
    pub log: Option<Log>,
    pub table: Option<usize>,
    pub own: Option<usize>,
    pub container: Option<usize>,
    pub running: bool,
    /// How often it began to run.
    pub awoken: u64,
    pub number: Option<u32>,
    pub health: bool,
    pub resets: Arc<AtomicU64>,
}

/// The machine, and the truth about it.
pub struct World {
    pub rng: Rng,
    pub now: u64,
    pub page: u64,
    pub arenas: Vec<Arena>,
    /// What the IOMMU maps, and what the tracking was told.
    pub hw: Vec<Option<usize>>,
    pub told: Vec<Option<usize>>,
    pub frames: Vec<Frame>,
    pub insts: Vec<Inst>,
    pub windows: Vec<(u64, u64)>,
    pub devs: Vec<Dev>,
    pub tables: Vec<Table>,
    pub containers: Vec<Container>,
    pub owns: Vec<Own>,
    pub tracking: bool,
    pub enumerates: bool,
    pub takes_pages: bool,
    /// In 1000 calls.
    pub faults: u64,
    pub activity: u64,
    pub resets: u64,
    pub cancels: u64,
    pub cancel: Option<Box<dyn Fn() + Send>>,
    pub cancelled: bool,
    /// The pages that are being unmapped.
    pub unmapping: Option<Range<usize>>,
    /// Since the call began.
    pub delivered: Vec<(u64, usize)>,
    pub refusals: u64,
    pub starts: u64,
    pub bridge_refused: bool,
    pub calls: u64,
    pub wrong: Vec<String>,
    pub counts: BTreeMap<&'static str, u64>,
    pub trace: bool,
}

pub type Shared = Arc<Mutex<World>>;

pub fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn within(ranges: &[IovaRange], addr: u64) -> bool {
    ranges.iter().any(|r| addr >= r.iova && addr - r.iova < r.length)
}

impl World {
    pub fn new(seed: u64, page: u64, arenas: &[(u64, u64)]) -> World {
        let mut base = 0;
        let arenas: Vec<Arena> = arenas
            .iter()
            .map(|&(first, pages)| {
                let arena = Arena { first, pages, base };
                base += pages as usize;
                arena
            })
            .collect();
        World {
            rng: Rng(seed),
            now: 1,
            page,
            arenas,
            hw: vec![None; base],
            told: vec![None; base],
            frames: Vec::new(),
            insts: Vec::new(),
            windows: Vec::new(),
            devs: Vec::new(),
            tables: Vec::new(),
            containers: Vec::new(),
            owns: Vec::new(),
            tracking: false,
            enumerates: false,
            takes_pages: true,
            faults: 0,
            activity: 0,
            resets: 0,
            cancels: 0,
            cancel: None,
            cancelled: false,
            unmapping: None,
            delivered: Vec::new(),
            refusals: 0,
            starts: 0,
            bridge_refused: false,
            calls: 0,
            wrong: Vec::new(),
            counts: BTreeMap::new(),
            trace: false,
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn violation(&mut self, text: String) {
        if self.trace {
            println!("      WRONG {text}");
        }
        self.wrong.push(text);
    }

    /// The numbers of the pages between two addresses, arena by arena.
    pub fn pages(&self, range: &RangeInclusive<u64>) -> Vec<Range<usize>> {
        let (first, last) = (*range.start(), *range.end());
        let mut found = Vec::with_capacity(1);
        for arena in &self.arenas {
            let end = arena.first + (arena.pages * self.page - 1);
            let (from, to) = (first.max(arena.first), last.min(end));
            if from <= to {
                let page = |addr: u64| arena.base + ((addr - arena.first) / self.page) as usize;
                found.push(page(from)..page(to) + 1);
            }
        }
        found
    }

    pub fn page_at(&self, addr: u64) -> Option<usize> {
        self.pages(&(addr..=addr)).first().map(|range| range.start)
    }

    pub fn addr(&self, page: usize) -> u64 {
        let arena = self.arenas.iter().rev().find(|arena| arena.base <= page).unwrap();
        arena.first + (page - arena.base) as u64 * self.page
    }

    /// Notes that there is a reason to deliver these pages from now on.
    pub fn explain(&mut self, range: RangeInclusive<u64>) {
        self.now += 1;
        for pages in self.pages(&range) {
            for page in pages {
                for frame in [self.told[page], self.hw[page]].into_iter().flatten() {
                    self.frames[frame].why = self.now;
                }
            }
        }
    }

    fn explain_all(&mut self) {
        self.explain(0..=u64::MAX);
    }

    fn explain_blind(&mut self, d: usize) {
        self.now += 1;
        let blind = self.blind(d);
        for (page, blind) in blind.into_iter().enumerate() {
            if let Some(frame) = self.told[page].filter(|_| blind) {
                self.frames[frame].why = self.now;
            }
        }
    }

    /// The pages that a device's log was not asked for.
    pub fn blind(&self, d: usize) -> Vec<bool> {
        let mut blind = vec![true; self.hw.len()];
        if let Some(log) = &self.devs[d].log {
            for r in &log.asked {
                for pages in self.pages(&(r.iova..=r.iova + (r.length - 1))) {
                    blind[pages].fill(false);
                }
            }
        }
        blind
    }

    /// A call of the library reached the machine: devices may write now.
    pub fn tick(&mut self) {
        self.calls += 1;
        assert!(self.calls < 1_000_000, "the library does not come to an end");
        while self.rng.chance(self.activity) {
            self.count("write in a call");
            self.write_somewhere();
        }
        if self.rng.chance(self.resets) {
            let n = self.devs.len() as u64;
            let d = self.rng.below(n) as usize;
            self.count("reset in a call");
            self.reset(d);
        }
        if self.rng.chance(self.cancels) {
            if let Some(cancel) = &self.cancel {
                cancel();
                self.cancelled = true;
                self.count("cancel in a call");
            }
        }
    }

    pub fn fault(&mut self, what: &'static str) -> bool {
        let yes = self.rng.chance(self.faults);
        if yes {
            self.count(what);
            if self.trace {
                println!("      {what}");
            }
        }
        yes
    }

    pub fn can_write(&self, d: usize, page: usize) -> bool {
        let dev = &self.devs[d];
        let Some(frame) = self.hw[page] else { return false };
        if self.insts[self.frames[frame].inst].read_only {
            return false;
        }
        let unmapping = self.unmapping.as_ref().is_some_and(|pages| pages.contains(&page));
        if let Some(table) = dev.table.map(|t| &self.tables[t]) {
            // The kernel reads first and then unmaps: what is written in between is lost to any
            // user of that interface.
            if table.holes.contains(&page) || unmapping && table.read_for_unmap {
                return false;
            }
        }
        if let Some(own) = dev.own.map(|o| &self.owns[o]) {
            if unmapping && own.forgets && own.read_for_unmap {
                return false;
            }
        }
        if let Some(container) = dev.container.map(|c| &self.containers[c]) {
            let addr = self.addr(page);
            let over = container.maps.range(..=addr).next_back();
            if over.is_none_or(|(_, last)| *last < addr) {
                return false;
            }
        }
        true
    }

    pub fn write_somewhere(&mut self) {
        if self.devs.is_empty() {
            return;
        }
        let n = self.devs.len() as u64;
        let d = self.rng.below(n) as usize;
        if !self.devs[d].running {
            return;
        }
        let n = self.hw.len() as u64;
        for _ in 0..8 {
            let page = match &self.unmapping {
                Some(pages) if self.rng.chance(500) => {
                    let (first, len) = (pages.start, pages.len() as u64);
                    first + self.rng.below(len) as usize
                }
                _ => self.rng.below(n) as usize,
            };
            if self.can_write(d, page) {
                self.write(d, page);
                return;
            }
        }
    }

    /// A device writes a few bytes to a page.
    pub fn write(&mut self, d: usize, page: usize) {
        self.now += 1;
        self.count("write");
        let addr = self.addr(page) + self.rng.below(self.page / 512) * 512;
        let (start, end) = self.piece_of(page);
        let dev = &mut self.devs[d];
        if self.trace {
            println!("      device {d} writes to {addr:#x}");
        }
        if let Some(log) = &mut dev.log {
            if log.on && within(&log.logged, addr) {
                log.bits.insert(addr / log.page);
            }
        }
        if let Some(table) = dev.table.map(|t| &mut self.tables[t]) {
            if table.on {
                let size = table.page.max(table.entry);
                let (mut first, mut last) = (addr & !(size - 1), addr | (size - 1));
                if table.entry != 0 {
                    // None crosses the ends of what is mapped in one piece.
                    first = first.max(start);
                    last = last.min(end);
                }
                table.dirty.insert(first, last);
            }
        }
        if let Some(own) = dev.own.map(|o| &mut self.owns[o]) {
            if own.on {
                own.bits.insert(addr / own.page);
            }
        }
        if let Some(container) = dev.container.map(|c| &mut self.containers[c]) {
            if container.on {
                container.dirty.insert(addr / container.page);
            }
        }
        if self.tracking && dev.number.is_some() {
            let frame = self.hw[page].unwrap();
            self.frames[frame].wrote(self.now, "device");
        }
    }

    /// The contiguous piece of a mapping around a page.
    fn piece_of(&self, page: usize) -> (u64, u64) {
        let inst = |page: usize| self.hw[page].map(|frame| self.frames[frame].inst);
        let arena = self.arenas.iter().rev().find(|arena| arena.base <= page).unwrap();
        let (from, to) = (arena.base, arena.base + arena.pages as usize);
        let (mut first, mut last) = (page, page);
        while first > from && inst(first - 1) == inst(page) {
            first -= 1;
        }
        while last + 1 < to && inst(last + 1) == inst(page) {
            last += 1;
        }
        (self.addr(first), self.addr(last) + (self.page - 1))
    }

    /// The device is reset, and with it its log.
    pub fn reset(&mut self, d: usize) {
        let lax = self.rng.chance(500);
        let dev = &mut self.devs[d];
        if !dev.health {
            return;
        }
        if let Some(log) = &mut dev.log {
            log.bits.clear();
            // Some go on logging.
            log.on &= lax;
        }
        dev.resets.fetch_add(1, Ordering::Release);
        if self.trace {
            println!("      device {d} is reset");
        }
    }

    // --- the VMM's mappings ------------------------------------------------------------------------

    /// Makes a mapping for all devices; the tracking is not told.
    pub fn make(&mut self, first: usize, pages: u64, read_only: bool, translate: bool) -> Mapping {
        let iova = self.addr(first);
        let inst = self.insts.len();
        let first_frame = self.frames.len();
        let offset = self.rng.below(4) * self.page;
        self.insts.push(Inst { iova, pages, first_frame, offset, translate, read_only });
        for k in 0..pages {
            let frame =
                Frame { must: 0, why: 0, left: 0, cut: false, suspect: false, at: 0, inst, by: "" };
            self.frames.push(frame);
            let (behind, _) = self.insts[inst].behind(k);
            self.hw[first + k as usize] = Some(first_frame + behind as usize);
        }
        for k in 0..pages as usize {
            let frame = self.hw[first + k].unwrap();
            self.frames[frame].at = first + k;
        }
        let last = iova + (pages * self.page - 1);
        for container in &mut self.containers {
            container.maps.insert(iova, last);
            container.pinned.retain(|page| !(first..first + pages as usize).contains(page));
            if self.rng.chance(300) {
                container.pinned.insert(first + self.rng.below(pages) as usize);
            }
        }
        Mapping {
            iova,
            size: pages * self.page,
            cookie: inst as u64 + 100,
            offset: if translate { 0 } else { offset },
            host: 0,
            read_only,
            translate,
            window: false,
        }
    }

    /// The tracking knows of it, or is about to.
    pub fn tell(&mut self, pages: Range<usize>) {
        for page in pages {
            self.told[page] = self.hw[page];
        }
    }

    fn vanish(&mut self, pages: Range<usize>) {
        if pages.is_empty() {
            return;
        }
        let (first, last) = (self.addr(pages.start), self.addr(pages.end - 1) + (self.page - 1));
        for page in pages.clone() {
            self.hw[page] = None;
        }
        for table in &mut self.tables {
            let dirty = std::mem::take(&mut table.dirty);
            for (from, to) in dirty {
                if from < first {
                    table.dirty.insert(from, to.min(first - 1));
                }
                if to > last {
                    table.dirty.insert(from.max(last + 1), to);
                }
            }
            table.holes.retain(|page| !pages.contains(page));
        }
        for own in self.owns.iter_mut().filter(|own| own.forgets) {
            let inside = |bit: &u64| {
                let start = bit * own.page;
                start >= first && start + (own.page - 1) <= last
            };
            own.bits.retain(|bit| !inside(bit));
        }
        for container in &mut self.containers {
            container.maps.retain(|at, end| !(*at >= first && *end <= last));
            let page = container.page;
            container.dirty.retain(|bit| !(first..=last).contains(&(bit * page)));
            container.pinned.retain(|page| !pages.contains(page));
        }
    }

    /// What the VMM does when it is told to unmap.
    pub fn unmap(&mut self, pages: Range<usize>) -> Result<(), Errno> {
        self.tick();
        let (first, last) = (self.addr(pages.start), self.addr(pages.end - 1) + (self.page - 1));
        if self.fault("unmap fails") || self.fault("unmap fails") || self.fault("unmap fails") {
            // If nobody could tell afterwards, nothing is gone.
            let part = self.rng.chance(800) && !self.tables.iter().any(|table| table.mute);
            if part && !self.containers.iter().any(|c| c.bisected(first, last)) {
                let half = pages.start + pages.len() / 2;
                // A single page has no half.
                if half > pages.start {
                    let at = self.addr(half) - 1;
                    if !self.containers.iter().any(|c| c.bisected(first, at)) {
                        self.count("unmap fails midway");
                        self.vanish(pages.start..half);
                    }
                }
            }
            self.tick();
            return Err(Errno(libc::EIO));
        }
        if self.containers.iter().any(|c| c.bisected(first, last)) {
            self.count("unmap bisects");
            return Err(Errno(libc::EINVAL));
        }
        self.vanish(pages);
        self.tick();
        Ok(())
    }

    // --- deliveries --------------------------------------------------------------------------------

    pub fn begin_call(&mut self) {
        self.delivered.clear();
        self.refusals = 0;
        self.starts = 0;
        self.bridge_refused = false;
        self.unmapping = None;
        for table in &mut self.tables {
            table.read_for_unmap = false;
        }
        for own in &mut self.owns {
            own.read_for_unmap = false;
        }
    }
}

impl Container {
    fn bisected(&self, first: u64, last: u64) -> bool {
        let cuts = |at: u64, end: u64| at < first && end >= first || at <= last && end > last;
        self.maps.range(..=last).any(|(at, end)| cuts(*at, *end))
    }
}

fn set(words: &mut [u64], bit: u64) {
    words[(bit / 64) as usize] |= 1 << (bit % 64);
}

/// Sets the bits of pages of `page` bytes that an interval touches, within a bitmap's range.
fn mark(words: &mut [u64], iova: u64, length: u64, page: u64, start: u64, bytes: u64) {
    let first = start.max(iova);
    let last = (start + (bytes - 1)).min(iova + (length - 1));
    if first <= last {
        for bit in (first - iova) / page..=(last - iova) / page {
            set(words, bit);
        }
    }
}

/// Bits that nobody asked for.
fn garbage(words: &mut [u64], bits: u64) {
    if bits % 64 != 0 {
        words[(bits / 64) as usize] |= u64::MAX << (bits % 64);
    }
}

// --- the device's log ------------------------------------------------------------------------------

pub struct FakeLog(pub Shared, pub usize);

impl DmaLog for FakeLog {
    fn start(&mut self, page: PageSize, ranges: &[IovaRange]) -> Result<u64, Errno> {
        let page_size = page.bytes();
        let mut w = lock(&self.0);
        let w = &mut *w;
        w.tick();
        let d = self.1;
        if w.trace {
            println!("      device {d}: START, {} ranges", ranges.len());
        }
        if page_size < 4096 {
            w.violation(format!("START with pages of {page_size}"));
            return Err(Errno(libc::EINVAL));
        }
        if ranges.is_empty() {
            w.violation("START without a range".into());
            return Err(Errno(libc::EINVAL));
        }
        if ranges.len() > 256 {
            w.violation("START with more ranges than the kernel takes".into());
            return Err(Errno(libc::E2BIG));
        }
        let mut sorted = ranges.to_vec();
        sorted.sort_by_key(|r| r.iova);
        for r in &sorted {
            if r.length == 0 || (r.iova | r.length) & (page_size - 1) != 0 {
                w.violation(format!("START with a bad range {r:?}"));
                return Err(Errno(libc::EINVAL));
            }
            if r.iova.checked_add(r.length).is_none() {
                w.violation(format!("START with a range that ends at 2^64: {r:?}"));
                return Err(Errno(libc::EOVERFLOW));
            }
        }
        if sorted.windows(2).any(|w| w[0].iova + w[0].length > w[1].iova) {
            w.violation("START with ranges that overlap".into());
            return Err(Errno(libc::EINVAL));
        }
        let log = w.devs[d].log.as_ref().unwrap();
        if log.on && !log.lax {
            w.count("log: START twice");
            let errno = w.rng.pick(&[libc::EINVAL, libc::EEXIST]);
            return Err(Errno(errno));
        }
        if w.fault("log: START fails") {
            let errno = w.rng.pick(&[libc::EIO, libc::EINVAL, libc::ENOSPC, libc::EOPNOTSUPP]);
            return Err(Errno(errno));
        }
        let log = w.devs[d].log.as_mut().unwrap();
        if sorted.len() > log.max_ranges {
            if !log.merges {
                w.count("log: too many ranges");
                return Err(Errno(libc::ENOSPC));
            }
            while sorted.len() > log.max_ranges {
                let gap = |i: &usize| sorted[i + 1].iova - sorted[*i].iova - sorted[*i].length;
                let i = (0..sorted.len() - 1).min_by_key(gap).unwrap();
                let next = sorted.remove(i + 1);
                sorted[i].length = next.iova + next.length - sorted[i].iova;
            }
            w.count("log: merges ranges");
        }
        let log = w.devs[d].log.as_mut().unwrap();
        if ranges.iter().fold(0u64, |sum, r| sum.saturating_add(r.length)) > log.max_bytes {
            w.count("log: too many bytes");
            return Err(Errno(libc::ENOSPC));
        }
        if w.tracking && w.devs[d].number.is_some() {
            w.starts += 1;
            w.count("log: restarted");
            // What was not logged before was dirty.
            w.explain_blind(d);
            let dev = &w.devs[d];
            let bridged = dev.table.is_some_and(|t| w.tables[t].on)
                || dev.own.is_some_and(|o| w.owns[o].on)
                || dev.container.is_some_and(|c| w.containers[c].on);
            let quiet = dev.health && !dev.running;
            if bridged && !w.bridge_refused {
                w.count("log: restarted under a bridge");
            } else if quiet {
                w.count("log: restarted in silence");
            } else {
                w.count("log: restarted in the open");
                w.explain_all();
            }
        }
        let log = w.devs[d].log.as_mut().unwrap();
        log.bits.clear();
        log.on = true;
        log.asked = ranges.to_vec();
        log.logged = sorted;
        let page = log.page;
        w.count("log: started");
        w.tick();
        Ok(page)
    }

    fn stop(&mut self) -> Result<(), Errno> {
        let mut w = lock(&self.0);
        w.tick();
        if w.fault("log: STOP fails") {
            return Err(Errno(libc::EIO));
        }
        if w.trace {
            println!("      device {}: STOP", self.1);
        }
        if w.tracking && w.devs[self.1].number.is_some() {
            w.explain_blind(self.1);
        }
        let log = w.devs[self.1].log.as_mut().unwrap();
        let result = if log.on || log.lax { Ok(()) } else { Err(Errno(libc::EINVAL)) };
        log.on = false;
        log.bits.clear();
        log.asked.clear();
        w.tick();
        result
    }

    fn report(&mut self, words: &mut Bitmap<'_>) -> Result<(), Errno> {
        let Span { start: iova, length, page } = words.span();
        let page_size = page.bytes();
        let mut w = lock(&self.0);
        let w = &mut *w;
        w.tick();
        if w.trace {
            println!("      device {}: REPORT {iova:#x}, {length:#x}", self.1);
        }
        let bad = page_size < 4096
            || length == 0
            || (iova | length) & (page_size - 1) != 0
            || iova.checked_add(length).is_none()
            || length / page_size > words.len() as u64 * 64;
        if bad {
            w.violation(format!("REPORT of {iova:#x}, {length:#x} in {page_size}"));
            return Err(Errno(libc::EINVAL));
        }
        let failed = w.fault("log: REPORT fails");
        let log = w.devs[self.1].log.as_mut().unwrap();
        if !log.on {
            return if log.lax { Ok(()) } else { Err(Errno(libc::EINVAL)) };
        }
        if log.no_report {
            w.count("log: no REPORT");
            return Err(Errno(libc::EOPNOTSUPP));
        }
        let all: Vec<u64> =
            log.bits.range(iova / log.page..=(iova + (length - 1)) / log.page).copied().collect();
        let page = log.page;
        if page > page_size {
            *w.counts.entry("log: larger pages").or_default() += 1;
        }
        let log = w.devs[self.1].log.as_mut().unwrap();
        let mut found = Vec::new();
        for bit in all {
            let start = bit * page;
            let whole = start >= iova && start + (page - 1) <= iova + (length - 1);
            if whole || log.loses_rest {
                log.bits.remove(&bit);
            }
            if !failed {
                mark(words, iova, length, page_size, start, page);
                found.push(start..=start + (page - 1));
            }
        }
        if log.excess {
            garbage(words, length / page_size);
        }
        for range in found {
            w.explain(range);
        }
        w.tick();
        if failed { Err(Errno(libc::EIO)) } else { Ok(()) }
    }
}

// --- a page table ----------------------------------------------------------------------------------

pub struct FakeTable(pub Shared, pub usize);

impl Hwpt for FakeTable {
    fn key(&self) -> u64 {
        self.1 as u64 + 7
    }

    fn set_tracking(&mut self, enable: bool) -> Result<(), Errno> {
        let mut w = lock(&self.0);
        w.tick();
        if w.trace {
            println!("      page table {}: tracking {enable}", self.1);
        }
        let failed = w.fault("table: SET fails");
        let table = &mut w.tables[self.1];
        let none = table.none;
        if failed || none {
            w.bridge_refused |= enable;
            return Err(Errno(if none { libc::EOPNOTSUPP } else { libc::EIO }));
        }
        table.on = enable;
        if enable {
            table.dirty.clear();
            w.count("table: started");
        }
        w.tick();
        Ok(())
    }

    fn bitmap(&mut self, keep: bool, words: &mut Bitmap<'_>) -> Result<(), Errno> {
        let Span { start: iova, length, page } = words.span();
        let page_size = page.bytes();
        let mut w = lock(&self.0);
        let w = &mut *w;
        w.tick();
        if w.trace {
            println!("      page table {}: read {iova:#x}, {length:#x}, keep {keep}", self.1);
        }
        let io = w.tables[self.1].page;
        if length == 0
            || !page_size.is_power_of_two()
            || page_size < io
            || (iova | length) & (page_size - 1) != 0
            || iova.checked_add(length - 1).is_none()
            || length / page_size > words.len() as u64 * 64
        {
            w.violation(format!("GET_DIRTY_BITMAP of {iova:#x}, {length:#x} in {page_size}"));
            return Err(Errno(libc::EINVAL));
        }
        let failed = w.fault("table: GET fails");
        let hole = w.first_hole(self.1, iova, length);
        let table = &mut w.tables[self.1];
        if !table.on {
            return Ok(());
        }
        let end = match hole {
            Some(_) if table.strict => iova,
            Some(hole) => hole,
            None => iova.wrapping_add(length), // 0: 2^64
        };
        let whole = hole.is_none();
        let mut found = Vec::new();
        if end != iova {
            let end = end.wrapping_sub(1);
            let all: Vec<(u64, u64)> = table
                .dirty
                .range(..=end)
                .map(|(from, to)| (*from, *to))
                .filter(|(_, to)| *to >= iova)
                .collect();
            for (from, to) in all {
                // Of an entry that the range cuts, only the part in the range is reported.
                if !keep && (!failed || table.loses) {
                    table.dirty.remove(&from);
                }
                if !failed {
                    mark(words, iova, end - iova + 1, page_size, from, to - from + 1);
                    let mask = page_size - 1;
                    found.push(from & !mask..=to | mask);
                }
            }
        }
        if whole && !failed {
            table.read_for_unmap = true;
        } else if !whole {
            w.count("table: read over a hole");
        }
        for range in found {
            w.explain(range);
        }
        w.tick();
        if failed { Err(Errno(libc::EIO)) } else { Ok(()) }
    }

    fn is_mapped(&mut self, iova: u64, length: u64) -> Option<Result<bool, Errno>> {
        let mut w = lock(&self.0);
        w.tick();
        let mapped = w.first_hole(self.1, iova, length).is_none();
        (!w.tables[self.1].mute).then_some(Ok(mapped))
    }
}

impl World {
    /// The first address that a page table does not map.
    fn first_hole(&self, t: usize, iova: u64, length: u64) -> Option<u64> {
        let mut next = iova;
        let last = iova + (length - 1);
        for pages in self.pages(&(iova..=last)) {
            for page in pages {
                let addr = self.addr(page);
                if addr > next || self.hw[page].is_none() || self.tables[t].holes.contains(&page) {
                    return Some(next.min(addr).max(iova));
                }
                next = (addr + (self.page - 1)).saturating_add(1);
                if addr + (self.page - 1) >= last {
                    return None;
                }
            }
        }
        Some(next)
    }
}

// --- a container -----------------------------------------------------------------------------------

pub struct FakeContainer(pub Shared, pub usize);

impl FakeContainer {
    /// What both ways of reading check.
    fn check(
        w: &mut World,
        c: usize,
        iova: u64,
        length: u64,
        page_size: u64,
        words: &[u64],
    ) -> Result<(), Errno> {
        let container = &w.containers[c];
        let bits = length / page_size.max(1);
        if length == 0
            || page_size != container.page
            || (iova | length) & (page_size - 1) != 0
            || iova.checked_add(length - 1).is_none()
            || bits > words.len() as u64 * 64
            || bits.div_ceil(64) * 8 > container.max_bitmap
        {
            w.violation(format!("container: {iova:#x}, {length:#x} in {page_size}"));
            return Err(Errno(libc::EINVAL));
        }
        if !container.on {
            w.count("container: not started");
            return Err(Errno(libc::EINVAL));
        }
        if container.bisected(iova, iova + (length - 1)) {
            w.count("container: bisected");
            return Err(Errno(libc::EINVAL));
        }
        Ok(())
    }

    /// One mapping's bits, as the kernel writes them: over whole words.
    fn copy(w: &mut World, c: usize, at: u64, last: u64, iova: u64, words: &mut [u64]) {
        let page = w.containers[c].page;
        let offset = (at - iova) / page;
        let bits = (last - at) / page + 1;
        let shift = offset % 64;
        let word = (offset / 64) as usize;
        let n = ((bits + shift).div_ceil(64)) as usize;
        let kept = if shift == 0 { 0 } else { words[word] & ((1 << shift) - 1) };
        words[word..word + n].fill(0);
        words[word] |= kept;
        let mut found = Vec::new();
        let container = &mut w.containers[c];
        let dirty: Vec<u64> = container.dirty.range(at / page..=last / page).copied().collect();
        for bit in dirty {
            container.dirty.remove(&bit);
            found.push(bit * page);
        }
        for bit in 0..bits {
            let start = at + bit * page;
            let pinned = w.containers[c].all_pinned
                || w.page_at(start).is_some_and(|page| w.containers[c].pinned.contains(&page));
            if pinned {
                found.push(start);
            }
        }
        for start in found {
            set(words, (start - iova) / page);
            w.explain(start..=start + (page - 1));
        }
    }
}

impl Type1 for FakeContainer {
    fn key(&self) -> u64 {
        self.1 as u64
    }

    fn info(&mut self) -> Result<Type1Info, Errno> {
        let mut w = lock(&self.0);
        w.tick();
        if w.fault("container: INFO fails") {
            w.bridge_refused = true;
            return Err(Errno(libc::EIO));
        }
        let container = &w.containers[self.1];
        let none = container.none;
        let info = if none {
            Type1Info::default()
        } else {
            Type1Info {
                page_sizes: PageSizes::from_bits(container.page),
                max_bitmap: container.max_bitmap,
            }
        };
        w.bridge_refused |= none;
        Ok(info)
    }

    fn start(&mut self) -> Result<(), Errno> {
        let mut w = lock(&self.0);
        w.tick();
        if w.fault("container: START fails") {
            w.bridge_refused = true;
            return Err(Errno(libc::EIO));
        }
        if !w.containers[self.1].on {
            w.containers[self.1].dirty.clear();
        }
        w.containers[self.1].on = true;
        w.count("container: started");
        w.tick();
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Errno> {
        let mut w = lock(&self.0);
        w.tick();
        if w.fault("container: STOP fails") {
            return Err(Errno(libc::EIO));
        }
        w.containers[self.1].on = false;
        w.containers[self.1].dirty.clear();
        Ok(())
    }

    fn bitmap(&mut self, words: &mut Bitmap<'_>) -> Result<(), Errno> {
        let Span { start: iova, length, page } = words.span();
        let page_size = page.bytes();
        let mut w = lock(&self.0);
        let w = &mut *w;
        w.tick();
        if w.trace {
            println!("      container {}: read {iova:#x}, {length:#x}", self.1);
        }
        FakeContainer::check(w, self.1, iova, length, page_size, words)?;
        let failed = w.fault("container: GET fails");
        let last = iova + (length - 1);
        let maps: Vec<(u64, u64)> =
            w.containers[self.1].maps.range(iova..=last).map(|(a, b)| (*a, *b)).collect();
        for (at, end) in maps {
            FakeContainer::copy(w, self.1, at, end, iova, words);
        }
        if failed {
            // What was read is gone.
            return Err(Errno(libc::EFAULT));
        }
        w.tick();
        Ok(())
    }

    fn unmap(&mut self, words: &mut Bitmap<'_>) -> Result<u64, Errno> {
        let Span { start: iova, length, page } = words.span();
        let page_size = page.bytes();
        let mut w = lock(&self.0);
        let w = &mut *w;
        w.tick();
        if w.trace {
            println!("      container {}: unmap {iova:#x}, {length:#x}", self.1);
        }
        FakeContainer::check(w, self.1, iova, length, page_size, words)?;
        let failed = w.fault("container: UNMAP fails");
        let last = iova + (length - 1);
        let maps: Vec<(u64, u64)> =
            w.containers[self.1].maps.range(iova..=last).map(|(a, b)| (*a, *b)).collect();
        let mut bytes = 0;
        for (at, end) in maps {
            if failed && w.rng.chance(500) {
                return Err(Errno(libc::EFAULT));
            }
            FakeContainer::copy(w, self.1, at, end, iova, words);
            w.containers[self.1].maps.remove(&at);
            bytes += end - at + 1;
        }
        w.count("container: unmapped");
        w.tick();
        if failed { Err(Errno(libc::EFAULT)) } else { Ok(bytes) }
    }
}

// --- the VMM's own tracker -------------------------------------------------------------------------

pub struct FakeOwn(pub Shared, pub usize);

impl CustomTracker for FakeOwn {
    fn page_size(&self) -> PageSize {
        PageSize::new(lock(&self.0).owns[self.1].page).unwrap()
    }

    fn start(&mut self) -> Result<(), Errno> {
        let mut w = lock(&self.0);
        w.tick();
        if w.fault("own: start fails") {
            w.bridge_refused = true;
            return Err(Errno(libc::EIO));
        }
        w.owns[self.1].bits.clear();
        w.owns[self.1].on = true;
        w.count("own: started");
        w.tick();
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Errno> {
        let mut w = lock(&self.0);
        w.tick();
        if w.fault("own: stop fails") {
            return Err(Errno(libc::EIO));
        }
        w.owns[self.1].on = false;
        Ok(())
    }

    fn sync(&mut self, words: &mut Bitmap<'_>) -> Result<(), Errno> {
        let Span { start: iova, length, page } = words.span();
        let page_size = page.bytes();
        let mut w = lock(&self.0);
        let w = &mut *w;
        w.tick();
        if w.trace {
            println!("      tracker {}: read {iova:#x}, {length:#x}", self.1);
        }
        let page = w.owns[self.1].page;
        if page_size != page
            || length == 0
            || (iova | length) & (page - 1) != 0
            || iova.checked_add(length - 1).is_none()
            || length / page > words.len() as u64 * 64
            || words.iter().any(|word| *word != 0)
        {
            w.violation(format!("sync of {iova:#x}, {length:#x} in {page_size}"));
            return Err(Errno(libc::EINVAL));
        }
        let failed = w.fault("own: sync fails");
        let own = &mut w.owns[self.1];
        own.read_for_unmap |= !failed;
        let last = iova + (length - 1);
        let mut found = Vec::new();
        let all: Vec<u64> = own.bits.range(iova / page..=last / page).copied().collect();
        for bit in all {
            if !failed || own.loses {
                own.bits.remove(&bit);
            }
            if !failed {
                set(words, bit - iova / page);
                let start = bit * page;
                let mask = w.page.max(page) - 1;
                found.push(start & !mask..=start | mask);
            }
        }
        if own.excess {
            garbage(words, length / page);
        }
        for range in found {
            w.explain(range);
        }
        w.tick();
        if failed { Err(Errno(libc::EIO)) } else { Ok(()) }
    }
}

// --- the VMM's memory ------------------------------------------------------------------------------

pub struct FakeMemory(pub Shared);

impl Memory for FakeMemory {
    fn enumerate(
        &mut self,
        add: &mut dyn FnMut(Mapping) -> vfiomig::Result<()>,
    ) -> vfiomig::Result<bool> {
        let mut w = lock(&self.0);
        w.tick();
        if !w.enumerates {
            return Ok(false);
        }
        w.count("enumerated");
        // What the tracking was told piece by piece.
        let mut mappings: Vec<Mapping> = Vec::new();
        for (page, frame) in w.told.iter().enumerate() {
            let Some(frame) = *frame else { continue };
            let inst = &w.insts[w.frames[frame].inst];
            let iova = w.addr(page);
            let offset = inst.offset + (iova - inst.iova);
            let cookie = w.frames[frame].inst as u64 + 100;
            match mappings.last_mut() {
                Some(last)
                    if last.cookie == cookie && last.iova.checked_add(last.size) == Some(iova) =>
                {
                    last.size += w.page;
                }
                _ => mappings.push(Mapping {
                    iova,
                    size: w.page,
                    cookie,
                    offset: if inst.translate { 0 } else { offset },
                    host: 0,
                    read_only: inst.read_only,
                    translate: inst.translate,
                    window: false,
                }),
            }
        }
        for (iova, size) in &w.windows {
            mappings.push(Mapping { iova: *iova, size: *size, window: true, ..Mapping::default() });
        }
        let fail_at = if w.fault("enumerate fails") { w.rng.below(3) } else { u64::MAX };
        for (i, mapping) in mappings.into_iter().enumerate() {
            if i as u64 == fail_at {
                break;
            }
            add(mapping)?;
        }
        if fail_at < u64::MAX {
            return Err(vfiomig::Error::new(vfiomig::Code::Io, "no map"));
        }
        Ok(true)
    }

    fn takes_pages(&self) -> bool {
        lock(&self.0).takes_pages
    }

    fn set_dirty(&mut self, pages: DirtyPages<'_>) -> Result<(), Errno> {
        let DirtyPages { cookie, offset, page, bitmap: words, bits } = pages;
        let page_size = page.bytes();
        let mut w = lock(&self.0);
        w.tick();
        if w.fault("set_dirty refuses") {
            w.refusals += 1;
            return Err(Errno(libc::EIO));
        }
        let Some(inst) = w.insts.get((cookie - 100) as usize).cloned() else {
            w.violation(format!("set_dirty for cookie {cookie}"));
            return Ok(());
        };
        let page = w.page;
        let first = offset.wrapping_sub(inst.offset) / page;
        if page_size != page
            || offset < inst.offset
            || offset % page != 0
            || first + bits > inst.pages
            || bits > words.len() as u64 * 64
        {
            w.violation(format!("set_dirty({cookie}, {offset:#x}, {page_size}, {bits} bits)"));
            return Ok(());
        }
        if (bits..words.len() as u64 * 64)
            .any(|bit| words[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
        {
            w.violation(format!("set_dirty with bits behind the {bits} that count"));
        }
        w.now += 1;
        let now = w.now;
        for bit in 0..bits {
            if words[(bit / 64) as usize] >> (bit % 64) & 1 == 1 {
                let frame = inst.first_frame + (first + bit) as usize;
                w.delivered.push((now, frame));
            }
        }
        w.tick();
        Ok(())
    }

    fn translate(&mut self, iova: u64, size: u64) -> Result<Place, Errno> {
        let mut w = lock(&self.0);
        if size == 0 {
            w.violation(format!("translate({iova:#x}, {size:#x})"));
        }
        if w.fault("translate fails") {
            w.refusals += 1;
            return Err(Errno(libc::EIO));
        }
        let frame = w.page_at(iova).and_then(|page| w.told[page]);
        let Some(frame) = frame else {
            w.count("translate: no longer there");
            w.refusals += 1;
            return Err(Errno(libc::ENOENT));
        };
        let inst = &w.insts[w.frames[frame].inst];
        if !inst.translate {
            w.violation(format!("translate({iova:#x}) of a mapping that has no translation"));
            return Err(Errno(libc::EINVAL));
        }
        let (behind, n) = inst.behind((iova - inst.iova) / w.page);
        let place = Place {
            cookie: w.frames[frame].inst as u64 + 100,
            offset: inst.offset + behind * w.page + iova % w.page,
            size: n * w.page - iova % w.page,
            host: 0,
        };
        w.count("translated");
        Ok(place)
    }

    fn write(&mut self, _: Place, _: &[u8]) -> Result<(), Errno> {
        let mut w = lock(&self.0);
        w.tick();
        if w.fault("write fails") { Err(Errno(libc::EFAULT)) } else { Ok(()) }
    }
}

/// A device as the tracking gets it.
pub fn writer(world: &Shared, d: usize) -> Writer {
    let w = lock(world);
    let dev = &w.devs[d];
    let mut writer = Writer::default();
    writer.name = format!("device {d}");
    if dev.log.is_some() {
        writer.device_log = Some(Box::new(FakeLog(world.clone(), d)));
    }
    if let Some(t) = dev.table {
        writer.hwpt = Some(Box::new(FakeTable(world.clone(), t)));
        let page = w.tables[t].page;
        let named = page > w.page || d % 2 == 1;
        writer.hwpt_page_size = PageSize::new(page).filter(|_| named);
    }
    if let Some(o) = dev.own {
        writer.custom = Some(Box::new(FakeOwn(world.clone(), o)));
    }
    if let Some(c) = dev.container {
        writer.type1 = Some(Box::new(FakeContainer(world.clone(), c)));
    }
    if dev.health {
        let quiet = world.clone();
        writer.health = Some(Health::new(dev.resets.clone(), move || {
            let dev = &lock(&quiet).devs[d];
            (!dev.running).then_some(dev.awoken)
        }));
    }
    writer
}
