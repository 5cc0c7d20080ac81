// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tracker of a device that logs its own writes.

use std::ops::RangeInclusive;

use rangemap::RangeInclusiveSet;

use super::coverage::{missing, wanted};
use super::fit::{self, Verdict};
use super::{Doubtful, Extent, Tracker, TrackerKind, refused};
use crate::dirty::bitmap::{self, PageSize, Span};
use crate::dirty::buffers::Scratch;
use crate::dirty::map::Map;
use crate::dirty::ranges::{self, EVERYWHERE};
use crate::error::{Errno, Result, err};
use crate::sys::BitmapBuffer;
use crate::transport::{Bitmap, DmaLog};

/// The smallest page that the kernel takes, in bytes.
const MIN_LOG_PAGE: u64 = 4096;

/// The largest page that a device's log may have. No known device has one as large.
const MAX_OWN_PAGE: PageSize = PageSize::GIB;

/// The most runs of pages that are kept one by one.
const MAX_HELD: usize = 256;

/// Whether the log may have failed only because of the range it was asked about. Some logs, such as
/// those of vfio-user servers, answer only for whole mappings.
fn is_about_the_range(errno: Errno) -> bool {
    matches!(errno.0, libc::EOPNOTSUPP | libc::EINVAL | libc::ENOENT)
}

type Set = RangeInclusiveSet<u64>;

pub(in crate::dirty) struct DeviceLog {
    log: Box<dyn DmaLog>,
    page: PageSize,
    /// The size of the pages that the device logs in.
    own_page: PageSize,
    started: bool,
    logged: Set,
    blind: Set,
    /// A window was added that is not logged.
    outdated_windows: bool,
    /// The ranges of the last start that succeeded.
    accepted: Set,
    /// Why the device does not log more than those.
    refusal: Option<Errno>,
    /// The device takes no more than those, and the map has not changed since it was asked.
    is_full: bool,
    /// Why it could not be started, if starting should be tried again.
    down: Option<Errno>,
    /// It reports only whole mappings.
    whole: bool,
    /// Why the last report failed.
    failed: Option<Errno>,
    /// The addresses that were reported as dirty when reports were tried out.
    held: Set,
    spare: Scratch,
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
            logged: Set::new(),
            blind: Set::new(),
            outdated_windows: false,
            accepted: Set::new(),
            refusal: None,
            is_full: false,
            down: None,
            whole: false,
            failed: None,
            held: Set::new(),
            spare: Scratch::default(),
            calls: 0,
        }
    }

    /// Starts the log over what is mapped, and over windows if the device takes them. Returns what
    /// it took.
    fn start_log(&mut self, precise: &Set, wide: &Set) -> Result<fit::Fit> {
        let (log, page, calls) = (&mut self.log, self.page, &mut self.calls);
        let (mut running, mut stuck) = (false, None);
        let fit = fit::fit(precise, wide, &self.accepted, |set| {
            if running {
                *calls += 1;
                if let Err(errno) = log.stop() {
                    stuck = Some(errno);
                    return Err(Errno(libc::ENOTTY));
                }
            }
            *calls += 1;
            let started = log.start(page, &ranges::list(set));
            running = started.is_ok();
            started
        });
        self.started |= running || stuck.is_some();
        match (fit, stuck) {
            (Ok(fit), _) => Ok(fit),
            (Err(_), Some(errno)) => Err(refused("the device does not stop logging", errno)),
            (Err(errno), None) => {
                match Verdict::of(errno) {
                    Verdict::Busy => self.down = Some(errno),
                    Verdict::Limit => self.refusal = Some(errno),
                    Verdict::Absent | Verdict::Trouble => {}
                }
                Err(refused("the device refuses to log", errno))
            }
        }
    }

    /// Starts the log over these ranges, rounded to the device's pages, and tries out a report.
    fn start_over(&mut self, map: &Map, precise: &Set, wide: &Set) -> Result<()> {
        let fit = self.start_log(precise, wide)?;
        self.logged = fit.logged;
        self.refusal = fit.refusal;
        let mut page_size = fit.page_size;
        // The pages are larger than asked for: ranges that share a page are better joined.
        let larger =
            PageSize::new(page_size).filter(|own| *own > self.page && *own <= MAX_OWN_PAGE);
        if let Some(own) = larger.filter(|_| self.refusal.is_none()) {
            let mut rounded = wanted(map, fit.is_wide, own);
            // The last page of all, which `wanted` leaves out, is larger now. What is logged of it
            // already stays in.
            rounded.extend(self.logged.iter().cloned());
            if rounded != self.logged {
                page_size = self.start_again(&rounded)?;
            }
        }
        let usable = match PageSize::new(page_size) {
            Some(own_page) if own_page <= MAX_OWN_PAGE => {
                self.own_page = own_page.max(self.page);
                self.try_report(map).map_err(|errno| match errno.0 {
                    libc::EOPNOTSUPP | libc::ENOTTY => err!(
                        NotSupported,
                        "the device logs, but this kernel cannot report: it was built without \
                         CONFIG_IOMMUFD"
                    ),
                    _ => refused("the device logs, but does not report", errno),
                })
            }
            _ => {
                Err(err!(Io, "the device logs in pages of {page_size} bytes, which is impossible"))
            }
        };
        if let Err(error) = usable {
            return Err(match self.stop() {
                Ok(()) => error,
                Err(other) => error.note(&format!("; {other}")),
            });
        }
        self.accepted = self.logged.clone();
        Ok(())
    }

    /// Starts the log again over these ranges or, if it refuses, over what it took before.
    fn start_again(&mut self, rounded: &Set) -> Result<u64> {
        let before = self.logged.clone();
        self.stop()?;
        for set in [ranges::join(rounded, before.len()), before] {
            self.calls += 1;
            if let Ok(page_size) = self.log.start(self.page, &ranges::list(&set)) {
                self.started = true;
                self.logged = set;
                return Ok(page_size);
            }
        }
        Err(err!(Io, "the device refuses to log again"))
    }

    /// Tries out a report: a kernel may start a log and yet be unable to report. Only asking tells.
    fn try_report(&mut self, map: &Map) -> std::result::Result<(), Errno> {
        let Some(first) = self.logged.first().map(|range| *range.start()) else { return Ok(()) };
        let page = self.page.bytes();
        match self.try_report_of(first..=first | (page - 1)) {
            // It is busy, and will answer later.
            Err(errno) if Verdict::of(errno) == Verdict::Busy => Ok(()),
            Err(errno) if is_about_the_range(errno) && self.own_page == self.page => {
                let mapping = map.pieces(&(first..=first)).next().map(|piece| map.whole(&piece));
                let logged = |range: &RangeInclusive<u64>| {
                    *range.start() == first && self.logged.gaps(range).next().is_none()
                };
                let Some(range) = mapping.map(|piece| piece.range()).filter(logged) else {
                    return Err(errno);
                };
                self.try_report_of(range).map_err(|_| errno)?;
                self.whole = true;
                Ok(())
            }
            other => other,
        }
    }

    fn try_report_of(&mut self, range: RangeInclusive<u64>) -> std::result::Result<(), Errno> {
        let span = Span::of(&range, self.page);
        let (page, bits) = (self.page, span.bits());
        let mut buffer =
            BitmapBuffer::new(bitmap::words_for(bits)).map_err(|_| Errno(libc::ENOMEM))?;
        let mut words = buffer.bitmap(span)?;
        self.calls += 1;
        self.log.report(&mut words)?;
        for (n, (at, len)) in bitmap::runs(&words, 0..bits).enumerate() {
            if n == MAX_HELD {
                self.held.insert(range);
                break;
            }
            let start = span.start + (at << page.shift());
            self.held.insert(start..=start + ((len << page.shift()) - 1));
        }
        Ok(())
    }

    fn can_ask_whole(&self) -> bool {
        !self.whole && self.own_page == self.page
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
        self.held.clear();
        self.logged.clear();
        self.own_page = self.page;
        self.whole = false;
        (self.refusal, self.down, self.failed) = (None, None, None);
        // An earlier owner of the fd may have left it on. Most drivers then refuse to start; one
        // does not, but keeps the old ranges.
        self.calls += 1;
        if self.log.stop().is_ok() {
            self.started = false;
        }
        let precise = wanted(map, false, self.page);
        let wide = wanted(map, true, self.page);
        if wide.is_empty() {
            // There is nothing to log yet, and a log cannot be started over nothing.
            self.changed(map, &EVERYWHERE);
            return Ok(());
        }
        match self.start_over(map, &precise, &wide) {
            // Starting is tried again, and everything is dirty until it succeeds.
            Err(_) if self.down.is_some() => {}
            // Nothing is mapped yet, and the windows are too much for it.
            Err(_) if precise.is_empty() && self.refusal.is_some() => self.refusal = None,
            other => other?,
        }
        self.changed(map, &EVERYWHERE);
        self.is_full = self.refusal.is_some();
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
        self.spare = Scratch::default();
        Ok(())
    }

    fn read(&mut self, _keep: bool, bitmap: &mut Bitmap<'_>) -> Result<()> {
        let asked = bitmap.span().range();
        let (iova, last) = (*asked.start(), *asked.end());
        let DeviceLog { log, page, logged, spare, calls, failed, .. } = self;
        *failed = None;
        let mut report = |bitmap: &mut Bitmap<'_>| {
            *calls += 1;
            log.report(bitmap).map_err(|errno| {
                *failed = Some(errno);
                refused(&format!("the device's log of {}, is unreadable", bitmap.span()), errno)
            })
        };
        for range in logged.overlapping(&asked) {
            let (first, end) = (*range.start().max(&iova), *range.end().min(&last));
            let part = Span::of(&(first..=end), *page);
            if first == iova {
                report(&mut bitmap.first(part.length).map_err(|_| bitmap::no_room(part))?)?;
                bitmap::cut(bitmap, part.bits());
                continue;
            }
            // Its bits begin in the middle of a word, so it is read separately.
            let mut spare = spare.bitmap(part)?;
            spare.fill(0);
            report(&mut spare)?;
            bitmap::or_at(bitmap, (first - iova) >> page.shift(), &spare, 0, part.bits());
        }
        if self.held.overlaps(&asked) {
            for held in self.held.overlapping(&asked) {
                let (first, end) = (*held.start().max(&iova), *held.end().min(&last));
                let bits = (end - first + 1) >> self.page.shift();
                bitmap::set(bitmap, (first - iova) >> self.page.shift(), bits);
            }
            self.held.remove(asked);
        }
        Ok(())
    }

    fn calls(&self) -> u64 {
        self.calls
    }

    fn footprint(&self) -> usize {
        self.spare.footprint()
    }

    fn extent(&self) -> Extent {
        match self.whole {
            true => Extent::WholeMappings { max_bitmap: u64::MAX },
            false => Extent::Pages(self.own_page),
        }
    }

    fn is_left_on(&self) -> bool {
        self.started
    }

    fn doubtful(&self) -> Doubtful {
        match self.failed {
            // It was never asked.
            None => Doubtful::Range,
            Some(errno) if Verdict::of(errno) == Verdict::Busy => Doubtful::NotNow,
            Some(errno) if is_about_the_range(errno) && self.can_ask_whole() => {
                Doubtful::PerhapsWhole
            }
            _ => Doubtful::Everything,
        }
    }

    fn ask_for_whole_mappings(&mut self, on: bool) -> bool {
        self.whole = on && (self.whole || self.can_ask_whole());
        self.whole == on
    }

    fn is_down(&self) -> bool {
        self.down.is_some()
    }

    fn is_partial(&self) -> bool {
        self.is_full
    }

    fn remark(&self) -> Option<String> {
        if let Some(errno) = self.down {
            return Some(format!(
                "the device does not log now ({errno}): everything is dirty until it does"
            ));
        }
        let blind = ranges::name(&self.blind);
        match (self.refusal, self.whole) {
            _ if self.blind.is_empty() => {
                self.whole.then(|| "the device reports whole mappings only".to_owned())
            }
            (Some(errno), _) => Some(format!(
                "the device does not log all of the memory ({errno}), so this is always \
                 dirty: {blind}"
            )),
            _ => Some(format!("not logged, so always dirty: {blind}")),
        }
    }

    fn blind(&self) -> Option<&RangeInclusiveSet<u64>> {
        Some(&self.blind)
    }

    fn changed(&mut self, map: &Map, range: &RangeInclusive<u64>) {
        self.blind.remove(range.clone());
        for part in missing(map, range, &self.logged) {
            ranges::insert_or_all(&mut self.blind, part);
        }
        // Perhaps it takes the new map.
        self.is_full = false;
        let mut windows = map.windows().overlapping(range);
        self.outdated_windows |= windows.any(|window| self.logged.gaps(window).next().is_some());
    }

    fn is_outdated(&self) -> bool {
        // The last page of all can never be logged.
        let last = u64::MAX - (self.page.bytes() - 1);
        !self.is_full
            && (self.is_down()
                || self.outdated_windows
                || self.blind.first().is_some_and(|range| *range.start() < last))
    }
}
