//! Trackers: what answers "which pages were written to", one trait over everything that does.
//!
//! Each knows what its interface's answers are worth; a reading that may be incomplete is an error,
//! and what an error covers counts as dirty (`run`).

use std::fmt::Write;
use std::ops::RangeInclusive;

use rangemap::RangeInclusiveSet;

use super::bitmap::{self, PageSize, Span};
use super::map::{EVERYWHERE, Map};
use super::ranges::{self, MAX_RANGES};
use crate::error::{Code, Errno, Error, Result, err};
use crate::transport::{DmaLog, Hwpt, IovaRange, Type1, Words};

/// What tracks a source, in the order in which they are preferred.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
#[repr(u32)]
pub enum TrackerKind {
    /// Tracking is off.
    #[default]
    None = 0,
    /// The device logs its own writes (`VFIO_DEVICE_FEATURE_DMA_LOGGING_*`).
    DeviceLog = 1,
    /// The IOMMU's page table does, by iommufd (`IOMMU_HWPT_GET_DIRTY_BITMAP`).
    Hwpt = 2,
    /// The VMM does, by callbacks.
    Supplied = 3,
    /// The type1 container does (`VFIO_IOMMU_DIRTY_PAGES`): every pinned page is dirty.
    Type1 = 4,
    /// Nothing does: every page is dirty at every time.
    AllDirty = 5,
}

impl TrackerKind {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            TrackerKind::None => "none",
            TrackerKind::DeviceLog => "device DMA logging",
            TrackerKind::Hwpt => "iommufd page table",
            TrackerKind::Supplied => "the VMM's own tracker",
            TrackerKind::Type1 => "type1 container",
            TrackerKind::AllDirty => "all dirty",
        }
    }
}

/// A tracker of the VMM's own: a vfio-user server's log, or whatever else it has.
pub trait SuppliedTracker: Send {
    /// Size of the pages that it answers in: a power of two.
    fn page_size(&self) -> u64;

    /// Starts; what was written to before does not matter.
    fn start(&mut self) -> std::result::Result<(), Errno>;

    /// Stops.
    fn stop(&mut self) -> std::result::Result<(), Errno>;

    /// Sets the bits of pages that were written to since the last time, and forgets them. Bit 0 is
    /// the page at `iova`; the bitmap comes zeroed. Range and page size are multiples of
    /// [`SuppliedTracker::page_size`] and may reach over the ends of mappings.
    fn sync(
        &mut self,
        iova: u64,
        length: u64,
        page_size: u64,
        bitmap: &mut [u64],
    ) -> std::result::Result<(), Errno>;
}

/// What a tracker can be asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extent {
    /// Ranges that begin and end at pages of this size, which may be larger than those that it
    /// answers in: a page behind the interface is forgotten as a whole.
    Pages(PageSize),
    /// Whole mappings only, with at most so many bytes of bitmap.
    WholeMappings { max_bitmap: u64 },
}

pub(super) trait Tracker: Send {
    fn kind(&self) -> TrackerKind;

    /// The pages that it answers in.
    fn page(&self) -> PageSize;

    /// Starts on a map.
    fn start(&mut self, map: &Map) -> Result<()>;

    /// Stops. After an error it may be tried again.
    fn stop(&mut self) -> Result<()>;

    /// Reads and forgets; with `keep`, where it can, only reads. `words` come zeroed, bit 0 is the
    /// page at `iova`, and the range is in whole pages.
    fn read(&mut self, iova: u64, length: u64, keep: bool, words: &mut [u64]) -> Result<()>;

    /// How many system calls or callbacks it has made.
    fn calls(&self) -> u64;

    /// What it can be asked about.
    fn extent(&self) -> Extent {
        Extent::Pages(self.page())
    }

    /// Bytes of the bitmaps that it keeps.
    fn footprint(&self) -> usize {
        0
    }

    /// After a failed start: it runs all the same.
    fn is_left_on(&self) -> bool {
        false
    }

    /// After an error in one range nothing of what it says can be relied upon.
    fn fails_as_a_whole(&self) -> bool {
        false
    }

    /// What of the map it does not watch: dirty at all times.
    fn blind(&self) -> Option<&RangeInclusiveSet<u64>> {
        None
    }

    /// Whether it would watch more if it were started again.
    fn is_outdated(&self) -> bool {
        false
    }

    /// The map has changed in a range.
    fn changed(&mut self, _map: &Map, _range: &RangeInclusive<u64>) {}

    /// Whether the range is mapped, in case it can tell.
    fn is_mapped(&mut self, _iova: u64, _length: u64) -> Option<std::result::Result<bool, Errno>> {
        None
    }

    /// Unmaps and reads in one step, in case it can.
    fn unmap(&mut self, _iova: u64, _length: u64, _words: &mut [u64]) -> Option<Result<()>> {
        None
    }
}

fn refused(what: &str, errno: Errno) -> Error {
    Error::new(errno.code(), format!("{what}: {errno}"))
}

// --- device DMA logging --------------------------------------------------------------------------

/// The kernel takes no smaller pages.
const MIN_LOG_PAGE: u64 = 4096;

/// No device has larger ones.
const MAX_OWN_PAGE: PageSize = PageSize::GIB;

pub(super) struct DeviceLog {
    log: Box<dyn DmaLog>,
    page: PageSize,
    /// The device's own pages.
    own_page: PageSize,
    started: bool,
    logged: RangeInclusiveSet<u64>,
    blind: RangeInclusiveSet<u64>,
    /// A window came that is not logged.
    outdated_windows: bool,
    /// The ranges of the last start that succeeded.
    accepted: RangeInclusiveSet<u64>,
    /// The device takes no more than those.
    is_full: bool,
    /// A page that was found dirty when reports were tried out.
    held: Option<u64>,
    spare: Option<Words>,
    calls: u64,
}

impl DeviceLog {
    pub fn new(log: Box<dyn DmaLog>, page: PageSize) -> DeviceLog {
        let page = page.max(PageSize::new(MIN_LOG_PAGE).unwrap_or(page));
        DeviceLog {
            log,
            page,
            own_page: page,
            started: false,
            logged: RangeInclusiveSet::new(),
            blind: RangeInclusiveSet::new(),
            outdated_windows: false,
            accepted: RangeInclusiveSet::new(),
            is_full: false,
            held: None,
            spare: None,
            calls: 0,
        }
    }

    fn try_start(&mut self, set: &RangeInclusiveSet<u64>) -> std::result::Result<u64, Errno> {
        self.calls += 1;
        self.log.start(self.page.bytes(), &ranges::list(set))
    }

    /// Starts with these ranges, or with fewer and larger ones where the device takes no more.
    fn start_with(&mut self, set: &RangeInclusiveSet<u64>) -> std::result::Result<u64, Errno> {
        let mut joined = ranges::join(set, MAX_RANGES);
        loop {
            match self.try_start(&joined) {
                Ok(page_size) => {
                    self.logged = joined;
                    return Ok(page_size);
                }
                // There is no logging, however few the ranges.
                Err(errno @ Errno(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENODEV)) => {
                    return Err(errno);
                }
                Err(errno) if joined.len() <= 1 => return Err(errno),
                Err(_) => joined = ranges::join(set, joined.len() / 2),
            }
        }
    }

    /// After a refusal: which range is at fault, or whether it is all of them together.
    fn explain(&mut self, set: &RangeInclusiveSet<u64>, errno: Errno) -> Error {
        let mut text = format!("the device refuses to log: {errno}");
        if matches!(errno.0, libc::EOPNOTSUPP | libc::ENOTTY | libc::ENODEV) {
            return Error::new(errno.code(), text);
        }
        let list = ranges::list(&ranges::join(set, MAX_RANGES));
        let mut culprit = None;
        for (i, range) in list.iter().enumerate() {
            self.calls += 1;
            match self.log.start(self.page.bytes(), std::slice::from_ref(range)) {
                Ok(_) => {
                    self.calls += 1;
                    if let Err(errno) = self.log.stop() {
                        self.started = true;
                        let _ = write!(text, "; and cannot be stopped: {errno}");
                        break;
                    }
                }
                Err(errno) => {
                    culprit = Some((i, *range, errno));
                    break;
                }
            }
        }
        let bytes: u64 = list.iter().map(|range| range.length).sum();
        let _ = match culprit {
            Some((i, IovaRange { iova, length }, errno)) => write!(
                text,
                "; range {} of {} is at fault: {iova:#x}, {length:#x} bytes ({errno})",
                i + 1,
                list.len()
            ),
            None => write!(
                text,
                "; each range alone is taken: {} ranges with {bytes:#x} bytes are too much, and \
                 so is one over all of them",
                list.len()
            ),
        };
        Error::new(errno.code(), text)
    }

    /// The kernel may have no way to report although logging starts. Only asking tells.
    fn try_report(&mut self) -> std::result::Result<(), Errno> {
        let Some(first) = self.logged.first().map(|range| *range.start()) else { return Ok(()) };
        let mut words = Words::new(1).map_err(|_| Errno(libc::ENOMEM))?;
        self.calls += 1;
        self.log.report(first, self.page.bytes(), self.page.bytes(), &mut words)?;
        bitmap::cut(&mut words, 1);
        self.held = bitmap::has_any(&words).then_some(first);
        Ok(())
    }

    fn report(&mut self, iova: u64, length: u64, words: &mut [u64]) -> Result<()> {
        self.calls += 1;
        self.log.report(iova, length, self.page.bytes(), words).map_err(|errno| {
            refused(
                &format!("the device's log of {iova:#x}, {length:#x} bytes, is unreadable"),
                errno,
            )
        })
    }
}

impl Tracker for DeviceLog {
    fn kind(&self) -> TrackerKind {
        TrackerKind::DeviceLog
    }

    fn page(&self) -> PageSize {
        self.page
    }

    fn start(&mut self, map: &Map) -> Result<()> {
        self.held = None;
        self.logged.clear();
        self.own_page = self.page;
        // Perhaps an earlier owner of the fd left it on. Most drivers then refuse to start, and one
        // does not and keeps the old ranges.
        self.calls += 1;
        let _ = self.log.stop();
        let precise = ranges::wanted(map, false, self.page);
        let wide = ranges::wanted(map, true, self.page);
        if wide.is_empty() {
            // Nothing to log yet, and no logging of nothing.
            self.changed(map, &EVERYWHERE);
            return Ok(());
        }
        let mut windows = wide != precise;
        let mut result = Err(Errno(libc::EINVAL));
        if windows {
            result = self.start_with(&wide);
            if let Err(errno) = result {
                windows = false;
                log::info!(
                    target: "vfiomig::dirty",
                    "the device does not log windows of later mappings: {errno}"
                );
            }
        }
        if result.is_err() && !precise.is_empty() {
            result = self.start_with(&precise);
        }
        self.is_full = false;
        if result.is_err() && precise.iter().any(|range| self.accepted.overlaps(range)) {
            // More than it can log: then what it could log before. The rest is not watched.
            let accepted = self.accepted.clone();
            let again = self.start_with(&accepted);
            self.is_full = again.is_ok();
            result = again.or(result);
        }
        let mut page_size = match result {
            Ok(page_size) => page_size,
            Err(errno) => {
                let set = if precise.is_empty() { wide } else { precise };
                return Err(self.explain(&set, errno));
            }
        };
        self.started = true;
        // Larger pages than asked for: ranges that share one are better one range.
        let larger =
            PageSize::new(page_size).filter(|own| *own > self.page && *own <= MAX_OWN_PAGE);
        if let Some(own) = larger.filter(|_| !self.is_full) {
            let mut rounded = ranges::wanted(map, windows, own);
            // The last page of all is larger now, and left out: not what can be logged of it.
            rounded.extend(self.logged.iter().cloned());
            if rounded != self.logged {
                let set = self.logged.clone();
                self.stop()?;
                let again = self.start_with(&rounded).or_else(|_| self.start_with(&set));
                page_size =
                    again.map_err(|errno| refused("the device does not log again", errno))?;
                self.started = true;
            }
        }
        let usable = match PageSize::new(page_size) {
            Some(own_page) if own_page <= MAX_OWN_PAGE => {
                self.own_page = own_page.max(self.page);
                self.try_report().map_err(|errno| match errno.0 {
                    libc::EOPNOTSUPP | libc::ENOTTY => err!(
                        NotSupported,
                        "the device logs, but this kernel cannot report: it was built without \
                         CONFIG_IOMMUFD"
                    ),
                    _ => refused("the device logs, but does not report", errno),
                })
            }
            _ => Err(err!(Io, "the device logs in pages of {page_size} bytes, which cannot be")),
        };
        if let Err(error) = usable {
            let stopped = self.stop();
            return Err(match stopped {
                Ok(()) => error,
                Err(other) => error.note(&format!("; {other}")),
            });
        }
        self.accepted = self.logged.clone();
        let is_full = self.is_full;
        self.changed(map, &EVERYWHERE);
        self.is_full = is_full;
        self.outdated_windows = false;
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        if self.started {
            self.calls += 1;
            self.log.stop().map_err(|errno| refused("the device does not stop logging", errno))?;
            self.started = false;
        }
        self.logged.clear();
        self.spare = None;
        Ok(())
    }

    fn read(&mut self, iova: u64, length: u64, _keep: bool, words: &mut [u64]) -> Result<()> {
        let last = iova.saturating_add(length - 1);
        let asked = iova..=last;
        let parts: Vec<_> = self
            .logged
            .overlapping(&asked)
            .map(|range| (*range.start().max(&iova), *range.end().min(&last)))
            .collect();
        for (first, end) in parts {
            let part = (end - first).saturating_add(1);
            if first == iova {
                self.report(first, part, words)?;
                bitmap::cut(words, part >> self.page.shift());
                continue;
            }
            // Its bits begin within a word.
            let span = Span { start: first, length: part, page: self.page };
            let mut spare = match self.spare.take() {
                Some(spare) if spare.len() >= bitmap::words_for(span.bits()) => spare,
                _ => Words::new(words.len())?,
            };
            spare.fill(0);
            self.report(first, part, &mut spare)?;
            bitmap::or_at(words, (first - iova) >> self.page.shift(), &spare, 0, span.bits());
            self.spare = Some(spare);
        }
        if let Some(held) = self.held {
            if (iova..=last).contains(&held) {
                bitmap::set(words, (held - iova) >> self.page.shift(), 1);
                self.held = None;
            }
        }
        Ok(())
    }

    fn calls(&self) -> u64 {
        self.calls
    }

    fn footprint(&self) -> usize {
        self.spare.as_ref().map_or(0, Words::footprint)
    }

    fn extent(&self) -> Extent {
        Extent::Pages(self.own_page)
    }

    fn is_left_on(&self) -> bool {
        self.started
    }

    fn fails_as_a_whole(&self) -> bool {
        true
    }

    fn blind(&self) -> Option<&RangeInclusiveSet<u64>> {
        Some(&self.blind)
    }

    fn changed(&mut self, map: &Map, range: &RangeInclusive<u64>) {
        self.blind.remove(range.clone());
        for part in ranges::missing(map, range, &self.logged) {
            ranges::insert_or_all(&mut self.blind, part);
        }
        // Perhaps it takes this.
        self.is_full = false;
        let mut windows = map.windows().overlapping(range);
        self.outdated_windows |= windows.any(|window| self.logged.gaps(window).next().is_some());
    }

    fn is_outdated(&self) -> bool {
        // The last page of all cannot be logged.
        let last = u64::MAX - (self.page.bytes() - 1);
        !self.is_full
            && (self.outdated_windows
                || self.blind.first().is_some_and(|range| *range.start() < last))
    }
}

// --- the page table of an iommufd ------------------------------------------------------------------

pub(super) struct PageTable {
    hwpt: Box<dyn Hwpt>,
    page: PageSize,
    calls: u64,
}

impl PageTable {
    pub fn new(hwpt: Box<dyn Hwpt>, page: PageSize) -> PageTable {
        PageTable { hwpt, page, calls: 0 }
    }
}

impl Tracker for PageTable {
    fn kind(&self) -> TrackerKind {
        TrackerKind::Hwpt
    }

    fn page(&self) -> PageSize {
        self.page
    }

    fn start(&mut self, _map: &Map) -> Result<()> {
        self.calls += 1;
        self.hwpt.set_tracking(true).map_err(|errno| match errno.0 {
            libc::EOPNOTSUPP => err!(
                NotSupported,
                "the page table was not made for dirty tracking \
                 (IOMMU_HWPT_ALLOC_DIRTY_TRACKING), or the IOMMU has none"
            ),
            _ => refused("the page table does not start dirty tracking", errno),
        })
    }

    fn stop(&mut self) -> Result<()> {
        self.calls += 1;
        self.hwpt
            .set_tracking(false)
            .map_err(|errno| refused("the page table does not stop dirty tracking", errno))
    }

    fn read(&mut self, iova: u64, length: u64, keep: bool, words: &mut [u64]) -> Result<()> {
        self.calls += 1;
        self.hwpt.bitmap(iova, length, self.page.bytes(), keep, words).map_err(|errno| {
            refused(
                &format!("the dirty bits of {iova:#x}, {length:#x} bytes, are unreadable"),
                errno,
            )
        })
    }

    fn calls(&self) -> u64 {
        self.calls
    }

    /// Entries of a page table may be of any size, and a range that cuts one loses what it says
    /// (docs/kernel-interface.md). None reaches over the edge of a mapping.
    fn extent(&self) -> Extent {
        Extent::WholeMappings { max_bitmap: u64::MAX }
    }

    fn is_mapped(&mut self, iova: u64, length: u64) -> Option<std::result::Result<bool, Errno>> {
        self.calls += 1;
        self.hwpt.is_mapped(iova, length)
    }
}

// --- a type1 container -----------------------------------------------------------------------------

pub(super) struct Container {
    type1: Box<dyn Type1>,
    page: PageSize,
    max_bitmap: u64,
    calls: u64,
}

impl Container {
    pub fn new(type1: Box<dyn Type1>, page: PageSize) -> Container {
        Container { type1, page, max_bitmap: 0, calls: 0 }
    }
}

impl Tracker for Container {
    fn kind(&self) -> TrackerKind {
        TrackerKind::Type1
    }

    fn page(&self) -> PageSize {
        self.page
    }

    fn start(&mut self, _map: &Map) -> Result<()> {
        self.calls += 2;
        let info = self.type1.info();
        let info =
            info.map_err(|errno| refused("the container does not say what it can", errno))?;
        let smallest = info.page_sizes & info.page_sizes.wrapping_neg();
        self.page = PageSize::new(smallest)
            .ok_or_else(|| err!(NotSupported, "the container has no dirty tracking"))?;
        self.max_bitmap = info.max_bitmap;
        self.type1.start().map_err(|errno| match errno.0 {
            libc::EACCES => err!(NotSupported, "the container is not of type1v2"),
            _ => refused("the container does not start dirty tracking", errno),
        })
    }

    fn stop(&mut self) -> Result<()> {
        self.calls += 1;
        self.type1
            .stop()
            .map_err(|errno| refused("the container does not stop dirty tracking", errno))
    }

    fn read(&mut self, iova: u64, length: u64, _keep: bool, words: &mut [u64]) -> Result<()> {
        self.calls += 1;
        self.type1.bitmap(iova, length, self.page.bytes(), words).map_err(|errno| {
            let hint = match errno.0 {
                libc::EINVAL => "; is it mapped exactly so, in one piece or in several whole ones?",
                _ => "",
            };
            let text = format!("the dirty bits of {iova:#x}, {length:#x} bytes, are unreadable");
            refused(&text, errno).note(hint)
        })
    }

    fn calls(&self) -> u64 {
        self.calls
    }

    fn extent(&self) -> Extent {
        Extent::WholeMappings { max_bitmap: self.max_bitmap }
    }

    fn unmap(&mut self, iova: u64, length: u64, words: &mut [u64]) -> Option<Result<()>> {
        let mut unmap = || {
            self.calls += 1;
            let unmapped = self.type1.unmap(iova, length, self.page.bytes(), words);
            let what = format!("unmapping {iova:#x}, {length:#x} bytes, with its dirty bits");
            let unmapped = unmapped.map_err(|errno| refused(&what, errno))?;
            if unmapped == length {
                return Ok(());
            }
            Err(err!(Io, "{what}: only {unmapped:#x} bytes were mapped"))
        };
        Some(unmap())
    }
}

// --- the VMM's own ---------------------------------------------------------------------------------

pub(super) struct Supplied {
    tracker: Box<dyn SuppliedTracker>,
    page: PageSize,
    calls: u64,
}

impl Supplied {
    pub fn new(tracker: Box<dyn SuppliedTracker>) -> Result<Supplied> {
        let size = tracker.page_size();
        let page = PageSize::new(size).filter(|page| (512..=1 << 30).contains(&page.bytes()));
        let page = page.ok_or_else(|| {
            err!(
                Inval,
                "a tracker's page size must be a power of two from 512 to 1 GiB, not {size}"
            )
        })?;
        Ok(Supplied { tracker, page, calls: 0 })
    }
}

fn callback(what: &str, errno: Errno) -> Error {
    refused(&format!("the VMM's tracker does not {what}"), errno)
}

impl Tracker for Supplied {
    fn kind(&self) -> TrackerKind {
        TrackerKind::Supplied
    }

    fn page(&self) -> PageSize {
        self.page
    }

    fn start(&mut self, _map: &Map) -> Result<()> {
        self.calls += 1;
        self.tracker.start().map_err(|errno| callback("start", errno))
    }

    fn stop(&mut self) -> Result<()> {
        self.calls += 1;
        self.tracker.stop().map_err(|errno| callback("stop", errno))
    }

    fn read(&mut self, iova: u64, length: u64, _keep: bool, words: &mut [u64]) -> Result<()> {
        self.calls += 1;
        self.tracker
            .sync(iova, length, self.page.bytes(), words)
            .map_err(|errno| callback(&format!("read {iova:#x}, {length:#x} bytes"), errno))
    }

    fn calls(&self) -> u64 {
        self.calls
    }
}

// --- nothing ---------------------------------------------------------------------------------------

pub(super) struct AllDirty {
    page: PageSize,
    map: RangeInclusiveSet<u64>,
}

impl AllDirty {
    pub fn new(page: PageSize) -> AllDirty {
        AllDirty { page, map: RangeInclusiveSet::new() }
    }
}

impl Tracker for AllDirty {
    fn kind(&self) -> TrackerKind {
        TrackerKind::AllDirty
    }

    fn page(&self) -> PageSize {
        self.page
    }

    fn start(&mut self, map: &Map) -> Result<()> {
        self.changed(map, &EVERYWHERE);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        Ok(())
    }

    fn read(&mut self, _iova: u64, _length: u64, _keep: bool, _words: &mut [u64]) -> Result<()> {
        Ok(())
    }

    fn calls(&self) -> u64 {
        0
    }

    fn blind(&self) -> Option<&RangeInclusiveSet<u64>> {
        Some(&self.map)
    }

    fn changed(&mut self, map: &Map, range: &RangeInclusive<u64>) {
        self.map.remove(range.clone());
        for part in ranges::missing(map, range, &RangeInclusiveSet::new()) {
            ranges::insert_or_all(&mut self.map, part);
        }
    }
}

/// Whether an error says that a tracker is not there at all, which is nothing to warn of.
pub(super) fn is_absent(error: &Error) -> bool {
    matches!(error.code(), Code::NotSupported | Code::NotTty)
}
