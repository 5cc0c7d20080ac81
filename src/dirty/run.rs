//! A run: one address space, what writes into it, and what is dirty there.
//!
//! Pages go one way: a tracker's answer is added up with those of the others in a small buffer and
//! delivered from there. Only what cannot be delivered at once is kept (`pending`).

use std::ops::RangeInclusive;
use std::time::Instant;

use rangemap::RangeInclusiveSet;

use super::bitmap::{self, PageSize, Span, words_for};
use super::errors::{DirtyError, Errors};
use super::map::{EVERYWHERE, MAX_MAPPED, Map, Mapping, Piece, check_range};
use super::memory::{Memory, Place};
use super::pending::Pending;
use super::source::{Health, Source};
use super::stats::{DirtyRound, DirtyStats, Rounds, SourceStats, per_second};
use super::tracker::{
    AllDirty, Container, DeviceLog, PageTable, Supplied, Tracker, TrackerKind, is_absent,
};
use crate::cancel::Cancel;
use crate::error::{Errno, Error, Result, err};
use crate::transport::{self, Words};

/// Bytes of the buffer that a tracker's answer is read into: small enough to stay in a cache with
/// the sum of the answers (`make bench`).
const BUFFER: usize = 256 << 10;
const MIN_BUFFER: usize = 4 << 10;
const MAX_BUFFER: usize = 32 << 20;

/// More sources than any machine has devices: a number that is wrong is told from one that is not.
const MAX_SOURCES: usize = 4096;

/// How often a tracker that fails is started again in one go before it is given up.
const MAX_RESTARTS: u32 = 3;

/// How a run is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// The run's pages, in bytes: a power of two from 4096 to 1 GiB; 0: the host's. Mappings are
    /// in whole pages, and [`Memory::set_dirty`] gets them.
    pub page_size: u64,
    /// Bytes of the buffer that is read into at a time; 0: 256 KiB.
    pub buffer_bytes: u32,
}

/// What a call that read dirty pages has to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Synced {
    /// Something failed, and pages count as dirty because of that: [`Run::errors`].
    pub errors: bool,
    /// Some pages are not watched by every source's tracker, and count as dirty at every time.
    pub unwatched: bool,
}

struct Slot {
    tracker: Box<dyn Tracker>,
    /// Two sources with the same number have the same one.
    key: Option<(TrackerKind, u64)>,
    active: bool,
    stats: SourceStats,
    round: Round,
    /// Since it was last given up or a reading began.
    failures: u32,
    /// Bytes counted as dirty for want of watching, since the ranges were last chosen.
    blind_bytes: u64,
}

/// A tracker's numbers in the round that is under way.
struct Round {
    since: Instant,
    dirty_bytes: u64,
    sync_ns: u64,
}

struct User {
    name: String,
    required: bool,
    /// Slots, best first.
    candidates: Vec<usize>,
    /// Position in `candidates`.
    chosen: Option<usize>,
    health: Option<Health>,
    resets_seen: u64,
    /// Why there is no device log, if the device said so.
    given_note: String,
    note: String,
}

impl User {
    fn slot(&self) -> Option<usize> {
        self.candidates.get(self.chosen?).copied()
    }

    fn add_note(&mut self, note: &str) {
        if !self.note.is_empty() {
            self.note.push_str("; ");
        }
        self.note.push_str(note);
    }
}

/// Bits whose mapping is gone and that nobody has taken yet.
struct Orphan {
    piece: Piece,
    first: u64,
    words: Vec<u64>,
    bits: u64,
}

/// Takes what is dirty: a piece, its first page's address, the bits.
type Sink<'a> = &'a mut dyn FnMut(&Piece, u64, &[u64], u64) -> Result<()>;

/// One dirty-tracking run. See the module.
///
/// The order is: sources and mappings, [`Run::start`], any number of readings while mappings come
/// and go, [`Run::stop`]. Any order is safe.
pub struct Run {
    page: PageSize,
    buffer_bytes: usize,
    memory: Option<Box<dyn Memory>>,
    map: Map,
    users: Vec<Option<User>>,
    slots: Vec<Slot>,
    tracking: bool,
    pending: Pending,
    /// Dirty at all times, until unmapped: a tracker may not see what is written there.
    suspect: RangeInclusiveSet<u64>,
    orphans: Vec<Orphan>,
    errors: Errors,
    rounds: Rounds,
    /// For a tracker's answer; zero between readings.
    scratch: Option<Words>,
    /// The same for one that answers for whole mappings only; zero between readings.
    whole: Option<Words>,
    /// The sum of the answers for the mapping that is being read, of trackers that answer for whole
    /// mappings only.
    sum: Option<Words>,
    union: Vec<u64>,
    cancel: Cancel,
}

fn pages_in(first: u64, last: u64, page: PageSize) -> u64 {
    page.of(last) - page.of(first) + 1
}

impl Run {
    /// A run over the memory of a VMM.
    pub fn new(memory: impl Memory + 'static, options: RunOptions) -> Result<Run> {
        let size = match options.page_size {
            0 => transport::page_size(),
            size => size,
        };
        let page = PageSize::new(size).filter(|page| (4096..=1 << 30).contains(&page.bytes()));
        let page = page.ok_or_else(|| {
            err!(Inval, "the page size must be a power of two from 4096 to 1 GiB, not {size}")
        })?;
        let buffer_bytes = match options.buffer_bytes as usize {
            0 => BUFFER,
            bytes if bytes % 8 == 0 && (MIN_BUFFER..=MAX_BUFFER).contains(&bytes) => bytes,
            bytes => {
                return Err(err!(
                    Inval,
                    "the buffer must be {MIN_BUFFER} to {MAX_BUFFER} bytes and a multiple of 8, \
                     not {bytes}"
                ));
            }
        };
        Ok(Run {
            page,
            buffer_bytes,
            memory: Some(Box::new(memory)),
            map: Map::default(),
            users: Vec::new(),
            slots: Vec::new(),
            tracking: false,
            pending: Pending::default(),
            suspect: RangeInclusiveSet::new(),
            orphans: Vec::new(),
            errors: Errors::default(),
            rounds: Rounds::new(),
            scratch: None,
            whole: None,
            sum: None,
            union: Vec::new(),
            cancel: Cancel::default(),
        })
    }

    /// The switch that cancels a reading from another thread. Bits that were not delivered are
    /// kept; stopping and starting takes it back.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Whether tracking is on.
    pub fn is_tracking(&self) -> bool {
        self.tracking
    }

    // --- sources -----------------------------------------------------------------------------------

    /// Adds something that writes to memory; returns its number. While tracking is on it is tracked
    /// at once: what it wrote before must have been sent or be sent anyway.
    pub fn add_source(&mut self, source: Source) -> Result<u32> {
        if self.users.len() >= MAX_SOURCES {
            return Err(err!(NoMem, "there are {MAX_SOURCES} sources already"));
        }
        let number = u32::try_from(self.users.len()).unwrap_or(u32::MAX);
        let hwpt_page = match source.hwpt_page_size {
            0 => Some(self.page),
            size => PageSize::new(size).map(|page| page.max(self.page)),
        };
        let hwpt_page = hwpt_page
            .ok_or_else(|| err!(Inval, "the page table's page size is not a power of two"))?;
        let supplied = source.supplied.map(Supplied::new).transpose()?;
        let mut candidates = Vec::new();
        if let Some(log) = source.device_log {
            let key = source.log_key.map(|key| (TrackerKind::DeviceLog, key));
            candidates.push(self.add_slot(Box::new(DeviceLog::new(log, self.page)), key));
        }
        if let Some(hwpt) = source.hwpt {
            let key = Some((TrackerKind::Hwpt, hwpt.key()));
            candidates.push(self.add_slot(Box::new(PageTable::new(hwpt, hwpt_page)), key));
        }
        if let Some(supplied) = supplied {
            candidates.push(self.add_slot(Box::new(supplied), None));
        }
        if let Some(type1) = source.type1 {
            let key = Some((TrackerKind::Type1, type1.key()));
            candidates.push(self.add_slot(Box::new(Container::new(type1, self.page)), key));
        }
        candidates.push(self.add_slot(Box::new(AllDirty::new(self.page)), None));
        let resets_seen = source.health.as_ref().map_or(0, Health::resets);
        self.users.push(Some(User {
            name: source.name,
            required: source.required,
            candidates,
            chosen: None,
            health: source.health,
            resets_seen,
            given_note: source.note,
            note: String::new(),
        }));
        if self.tracking {
            if let Err(error) = self.choose(number as usize, 0, true) {
                self.drop_user(number as usize);
                self.users.pop();
                return Err(error);
            }
            self.verify(&EVERYWHERE);
        }
        Ok(number)
    }

    fn add_slot(&mut self, tracker: Box<dyn Tracker>, key: Option<(TrackerKind, u64)>) -> usize {
        if key.is_some() {
            if let Some(same) = self.slots.iter().position(|slot| slot.key == key) {
                return same;
            }
        }
        let stats = SourceStats {
            tracker: tracker.kind(),
            page_size: tracker.page().bytes(),
            ..SourceStats::default()
        };
        self.slots.push(Slot {
            tracker,
            key,
            active: false,
            stats,
            round: Round { since: Instant::now(), dirty_bytes: 0, sync_ns: 0 },
            failures: 0,
            blind_bytes: 0,
        });
        self.slots.len() - 1
    }

    /// Takes a source out, for example because its device is unplugged: what it has written to is
    /// read first and delivered later. Its number is not given out again.
    pub fn remove_source(&mut self, number: u32) -> Result<()> {
        let index = number as usize;
        let slot = match self.users.get(index) {
            Some(Some(user)) => user.slot(),
            _ => return Err(err!(NoData, "there is no source {number}")),
        };
        if let Some(slot) = slot.filter(|_| self.tracking) {
            self.read_out(slot);
            self.note_resets();
        }
        self.drop_user(index);
        Ok(())
    }

    /// Forgets a user, and stops and forgets the trackers that nobody else could use.
    fn drop_user(&mut self, index: usize) {
        let Some(user) = self.users.get_mut(index).and_then(Option::take) else { return };
        for i in user.candidates {
            if self.users.iter().flatten().any(|other| other.candidates.contains(&i)) {
                if !self.users.iter().flatten().any(|other| other.slot() == Some(i)) {
                    self.deactivate(i);
                }
                continue;
            }
            self.deactivate(i);
            if let Some(slot) = self.slots.get_mut(i) {
                // What it was made of may not outlive the source.
                slot.tracker = Box::new(AllDirty::new(self.page));
                slot.key = None;
            }
        }
    }

    fn deactivate(&mut self, i: usize) {
        let Some(slot) = self.slots.get_mut(i).filter(|slot| slot.active) else { return };
        slot.active = false;
        if let Err(error) = slot.tracker.stop() {
            log::warn!(target: "vfiomig::dirty", "{error}");
        }
    }

    // --- the map -----------------------------------------------------------------------------------

    /// Adds a mapping, after it has been made. While tracking is on it is watched from now on, and
    /// where a device's log cannot be extended to it, it counts as dirty until the log is started
    /// anew.
    pub fn map(&mut self, mapping: Mapping) -> Result<()> {
        if mapping.window {
            self.map.insert_window(mapping.iova, mapping.size, self.page)?;
            return Ok(());
        }
        let range = self.map.insert(mapping, self.page)?;
        if self.tracking {
            self.map_changed();
            self.verify(&range);
        }
        Ok(())
    }

    fn map_changed(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| slot.active) {
            slot.tracker.changed(&self.map);
        }
    }

    /// A page table reports nothing, and says that all went well, where a part of the range is not
    /// mapped: then all of it counts as dirty.
    fn verify(&mut self, range: &RangeInclusive<u64>) {
        let pieces: Vec<Piece> = self.map.writable(range).collect();
        for i in 0..self.slots.len() {
            for piece in &pieces {
                let Some(slot) = self.slots.get_mut(i).filter(|slot| slot.active) else { break };
                let length = piece.last - piece.first + 1;
                if slot.tracker.is_mapped(piece.first, length) == Some(false) {
                    self.suspect.insert(piece.range());
                    let error = err!(
                        Inval,
                        "the mapping at {:#x}, {length:#x} bytes, is not mapped completely in the \
                         address space of its page table",
                        piece.first
                    );
                    self.record(i, &piece.range(), &error);
                }
            }
        }
    }

    /// Takes a range out of the map: reads what was dirty there, in the order that each tracker
    /// needs, and calls `unmap` in between. `unmap` removes the range from everything that has it
    /// mapped; with `true`, containers that are tracked have been unmapped already. Where `bitmap`
    /// is given what was dirty is added there, otherwise [`Memory::set_dirty`] gets it.
    ///
    /// When `unmap` fails the range stays in the map and counts as dirty.
    pub fn unmap(
        &mut self,
        iova: u64,
        size: u64,
        bitmap: Option<(u64, &mut [u64])>,
        unmap: impl FnOnce(bool) -> std::result::Result<(), Errno>,
    ) -> Result<Synced> {
        let range = check_range("a range to unmap", iova, size, self.page)?;
        if self.map.pieces(&range).next().is_none() {
            return Err(err!(NoData, "nothing is mapped at {iova:#x}, {size:#x} bytes"));
        }
        let mut sink_of = self.bitmap_sink(iova, size, bitmap)?;
        let no_sink = !self.memory.as_ref().is_some_and(|memory| memory.takes_pages());
        if self.tracking && sink_of.is_none() && no_sink {
            return Err(err!(
                Inval,
                "there is nowhere to put what is dirty: no bitmap, no set_dirty"
            ));
        }
        if !self.tracking {
            unmap(false).map_err(|errno| unmap_failed(iova, size, errno))?;
            self.map.remove(&range);
            return Ok(Synced::default());
        }
        let before = self.errors.total;
        self.note_resets();
        let pieces: Vec<Piece> = self.map.pieces(&range).collect();
        // A page table forgets with the mapping; so may a tracker of the VMM's.
        for i in self.active_slots(&[TrackerKind::Hwpt, TrackerKind::Supplied]) {
            self.read_pieces(i, &pieces, true);
        }
        let containers = self.active_slots(&[TrackerKind::Type1]);
        let mut unmapped = !containers.is_empty();
        for i in containers {
            unmapped &= self.unmap_container(i, &pieces);
        }
        if let Err(errno) = unmap(unmapped) {
            // Some of it may be gone: no tracker can be relied upon here any more.
            self.add_mapped(*range.start(), *range.end());
            self.suspect.extend(pieces.iter().map(Piece::range));
            let error = unmap_failed(iova, size, errno);
            self.errors.add(DirtyError::new(None, TrackerKind::None, &range, &error));
            // A page table says nothing about a mapping that has a hole now.
            self.verify(&EVERYWHERE);
            return Err(error);
        }
        // A device can write until the last moment: its log is read when it cannot any more.
        for i in self.active_slots(&[TrackerKind::DeviceLog, TrackerKind::Supplied]) {
            self.read_pieces(i, &pieces, false);
        }
        // A log that is lost by now can be made up for by now only.
        self.note_resets();
        let unwatched = self.is_unwatched(&range);
        self.add_blind(&pieces);
        let delivered = match &mut sink_of {
            Some(sink) => self.deliver_pending(&pieces, &mut |piece, first, words, bits| {
                sink.add(piece, first, words, bits);
                Ok(())
            }),
            None => self.deliver_to_memory(|run, sink| run.deliver_pending(&pieces, sink)),
        };
        if let Err(error) = delivered {
            self.errors.add(DirtyError::new(None, TrackerKind::None, &range, &error));
            self.orphan(&pieces);
        }
        self.map.remove(&range);
        self.suspect.remove(range);
        self.map_changed();
        Ok(Synced { errors: self.errors.total > before, unwatched })
    }

    /// Unmaps what a container has, with what was dirty; returns whether that was all.
    fn unmap_container(&mut self, i: usize, pieces: &[Piece]) -> bool {
        let mut all = true;
        for piece in pieces {
            // Read-only pieces are unmapped like the others.
            let bits = pages_in(piece.first, piece.last, self.page);
            let result = self.with_sum(bits).and_then(|mut sum| {
                let result = self.with_whole(i, piece, &mut sum, |tracker, length, words| {
                    tracker.unmap(piece.first, length, words).unwrap_or(Ok(()))
                });
                self.sum = Some(sum);
                result
            });
            self.keep_sum_from(piece, piece.first);
            if let Err(error) = result {
                all = false;
                self.assume(i, piece, &error);
            }
        }
        all
    }

    /// Keeps what is pending in pieces that go.
    fn orphan(&mut self, pieces: &[Piece]) {
        let most = self.buffer_bytes as u64 * 8;
        for piece in pieces {
            let (mut at, last) = (self.page.of(piece.first), self.page.of(piece.last));
            while at <= last {
                let bits = most.min(last - at + 1);
                if self.pending.overlaps(&(at..=at + bits - 1)) {
                    let mut words = vec![0; words_for(bits)];
                    self.pending.take(at, bits, &mut words);
                    let first = at << self.page.shift();
                    self.orphans.push(Orphan { piece: *piece, first, words, bits });
                }
                at += bits;
            }
        }
    }

    // --- starting and stopping ---------------------------------------------------------------------

    /// Starts tracking: takes the map where the VMM can enumerate it, chooses a tracker for each
    /// source and starts it. What was written to before is not reported: start before memory is
    /// sent for the first time. When this fails nothing is tracked.
    pub fn start(&mut self) -> Result<Synced> {
        if self.tracking {
            return Err(err!(Inval, "tracking is on"));
        }
        let scratch = self.new_scratch()?;
        let old = self.map.clone();
        if let Err(error) = self.enumerate() {
            self.map = old;
            return Err(error);
        }
        self.forget();
        self.cancel.clear();
        self.rounds = Rounds::new();
        self.scratch = Some(scratch);
        self.tracking = true;
        // Before any log starts: a reset behind that loses it.
        for user in self.users.iter_mut().flatten() {
            user.resets_seen = user.health.as_ref().map_or(0, Health::resets);
        }
        for index in 0..self.users.len() {
            if let Err(error) = self.choose(index, 0, true) {
                if let Err(other) = self.stop() {
                    log::warn!(target: "vfiomig::dirty", "{other}");
                }
                self.map = old;
                return Err(error);
            }
        }
        let before = self.errors.total;
        self.verify(&EVERYWHERE);
        for slot in &mut self.slots {
            slot.round = Round { since: Instant::now(), dirty_bytes: 0, sync_ns: 0 };
        }
        Ok(Synced { errors: self.errors.total > before, unwatched: self.is_unwatched(&EVERYWHERE) })
    }

    fn enumerate(&mut self) -> Result<()> {
        let Some(mut memory) = self.memory.take() else { return Ok(()) };
        let (page, mut map) = (self.page, Map::default());
        let enumerated = memory.enumerate(&mut |mapping| {
            if mapping.window {
                map.insert_window(mapping.iova, mapping.size, page)
            } else {
                map.insert(mapping, page).map(drop)
            }
        });
        self.memory = Some(memory);
        if enumerated? {
            self.map = map;
        }
        Ok(())
    }

    fn new_scratch(&self) -> Result<Words> {
        // Two more: an answer in larger pages may begin before and end behind.
        Words::new(self.buffer_bytes / 8 + 2)
    }

    fn forget(&mut self) {
        self.pending.clear();
        self.suspect.clear();
        self.orphans.clear();
        self.errors.clear();
        for slot in &mut self.slots {
            // One that did not stop before has no ranges any more.
            if std::mem::take(&mut slot.active) {
                if let Err(error) = slot.tracker.stop() {
                    log::warn!(target: "vfiomig::dirty", "{error}");
                }
            }
            let SourceStats { tracker, page_size, .. } = slot.stats;
            slot.stats = SourceStats { tracker, page_size, ..SourceStats::default() };
            slot.failures = 0;
            slot.blind_bytes = 0;
        }
    }

    /// Gives a source its best tracker from a position on. On `start`, one that must be tracked and
    /// cannot be is an error.
    fn choose(&mut self, index: usize, from: usize, start: bool) -> Result<()> {
        let Some(user) = self.users.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
        if start {
            user.note.clear();
            user.note.push_str(&user.given_note);
        }
        user.chosen = None;
        let candidates = user.candidates.clone();
        let (name, required) = (user.name.clone(), user.required && start);
        let mut notes = Vec::new();
        for (position, i) in candidates.into_iter().enumerate().skip(from) {
            let Some(slot) = self.slots.get_mut(i) else { continue };
            let kind = slot.tracker.kind();
            if kind == TrackerKind::AllDirty && required {
                break;
            }
            let started = if slot.active { Ok(()) } else { slot.tracker.start(&self.map) };
            match started {
                Ok(()) => {
                    slot.active = true;
                    slot.failures = 0;
                    slot.blind_bytes = 0;
                    slot.stats.page_size = slot.tracker.page().bytes();
                    log::info!(
                        target: "vfiomig::dirty",
                        "source {index} ({name}) is tracked by: {}",
                        kind.name()
                    );
                    self.chosen(index, position, &notes);
                    return Ok(());
                }
                Err(error) => {
                    let level = if is_absent(&error) { log::Level::Info } else { log::Level::Warn };
                    log::log!(target: "vfiomig::dirty", level, "source {index} ({name}): {error}");
                    notes.push(format!("{}: {}", kind.name(), error.message()));
                }
            }
        }
        self.chosen(index, usize::MAX, &notes);
        let note = self.note_of(index);
        Err(err!(
            NotSupported,
            "source {index} ({name}) must be tracked, and nothing can: {}",
            if note.is_empty() { "it was given no tracker" } else { note }
        ))
    }

    fn chosen(&mut self, index: usize, position: usize, notes: &[String]) {
        let Some(user) = self.users.get_mut(index).and_then(Option::as_mut) else { return };
        user.chosen = (position != usize::MAX).then_some(position);
        notes.iter().for_each(|note| user.add_note(note));
    }

    fn note_of(&self, index: usize) -> &str {
        self.users.get(index).and_then(Option::as_ref).map_or("", |user| &user.note)
    }

    /// Stops tracking and forgets what was not read: read once more before, with the devices
    /// stopped. Every tracker is asked to stop; the first error is returned, and stopping again
    /// asks those that failed. Stopping what does not run is no error.
    pub fn stop(&mut self) -> Result<()> {
        let mut result = Ok(());
        for slot in self.slots.iter_mut().filter(|slot| slot.active) {
            match slot.tracker.stop() {
                Ok(()) => slot.active = false,
                Err(error) => {
                    log::warn!(target: "vfiomig::dirty", "{error}");
                    if result.is_ok() {
                        result = Err(error);
                    }
                }
            }
        }
        self.tracking = false;
        self.pending.clear();
        self.orphans.clear();
        self.suspect.clear();
        self.scratch = None;
        self.whole = None;
        self.sum = None;
        self.union = Vec::new();
        self.cancel.clear();
        result
    }

    // --- reading -----------------------------------------------------------------------------------

    /// Reads all that became dirty since the last time and gives it to [`Memory::set_dirty`]. When
    /// that refuses, or the run is cancelled, what was not delivered is kept for the next time.
    pub fn collect(&mut self) -> Result<Synced> {
        self.check_tracking()?;
        if !self.memory.as_ref().is_some_and(|memory| memory.takes_pages()) {
            return Err(err!(Inval, "there is no set_dirty to give pages to"));
        }
        self.deliver_to_memory(|run, sink| {
            run.deliver_orphans(sink)?;
            run.sweep(&EVERYWHERE, true, sink)
        })
    }

    /// Reads what became dirty in a range since the last time and adds it to `bitmap`: bit 0 is the
    /// page of `page_size` bytes at `iova`. Pages that no mapping covers stay clean.
    pub fn sync(
        &mut self,
        iova: u64,
        length: u64,
        page_size: u64,
        bitmap: &mut [u64],
    ) -> Result<Synced> {
        self.check_tracking()?;
        let sink = self.bitmap_sink(iova, length, Some((page_size, bitmap)))?;
        let Some(mut sink) = sink else { return Ok(Synced::default()) };
        // Whole pages of the run: what lies beyond the range stays pending.
        let mask = self.page.bytes() - 1;
        let last = iova.saturating_add(length - 1);
        let range = iova & !mask..=last | mask;
        let cut_first = iova & mask != 0;
        let cut_last = last & mask != mask;
        let page = self.page;
        let mut beyond = Vec::new();
        let result = self.sweep(&range, false, &mut |piece, first, words, bits| {
            sink.add(piece, first, words, bits);
            for (address, cut) in [(*range.start(), cut_first), (*range.end(), cut_last)] {
                let bit = page.of(address).wrapping_sub(page.of(first));
                let word = words.get((bit / 64) as usize).copied().unwrap_or(0);
                if cut && address >= first && bit < bits && word >> (bit % 64) & 1 == 1 {
                    beyond.push(page.of(address));
                }
            }
            Ok(())
        });
        for page in beyond {
            self.pending.add(page..=page);
        }
        result
    }

    fn check_tracking(&self) -> Result<()> {
        if self.tracking { Ok(()) } else { Err(err!(Inval, "tracking is off; start it first")) }
    }

    /// The caller's bitmap, checked.
    fn bitmap_sink<'a>(
        &self,
        iova: u64,
        length: u64,
        bitmap: Option<(u64, &'a mut [u64])>,
    ) -> Result<Option<BitmapSink<'a>>> {
        let Some((page_size, words)) = bitmap else { return Ok(None) };
        let page = PageSize::new(page_size).filter(|page| (512..=1 << 40).contains(&page.bytes()));
        let page = page.ok_or_else(|| {
            err!(Inval, "the bitmap's page size must be a power of two from 512, not {page_size}")
        })?;
        check_range("a range", iova, length, page)?;
        if length > MAX_MAPPED {
            return Err(err!(Inval, "a range of {length:#x} bytes is more than can be mapped"));
        }
        let span = Span { start: iova, length, page };
        if words.len() < words_for(span.bits()) {
            return Err(err!(
                NoSpace,
                "the bitmap has {} words; {} pages take {}",
                words.len(),
                span.bits(),
                words_for(span.bits())
            ));
        }
        Ok(Some(BitmapSink { words, span, page: self.page }))
    }

    /// Runs `call` with a sink that gives everything to the VMM.
    fn deliver_to_memory<R>(
        &mut self,
        call: impl FnOnce(&mut Run, Sink<'_>) -> Result<R>,
    ) -> Result<R> {
        let gone = || err!(NotRecoverable, "an earlier call did not come back");
        let mut memory = self.memory.take().ok_or_else(gone)?;
        let page = self.page;
        let result = call(self, &mut |piece, first, words, bits| {
            give(memory.as_mut(), page, piece, first, words, bits)
        });
        self.memory = Some(memory);
        result
    }

    fn deliver_orphans(&mut self, sink: Sink<'_>) -> Result<()> {
        while let Some(Orphan { piece, first, words, bits }) = self.orphans.last() {
            sink(piece, *first, words, *bits)?;
            self.orphans.pop();
        }
        Ok(())
    }

    /// One reading over a range: every active tracker's answer and what is pending, to the sink.
    fn sweep(
        &mut self,
        range: &RangeInclusive<u64>,
        complete: bool,
        sink: Sink<'_>,
    ) -> Result<Synced> {
        let started = Instant::now();
        let before = self.errors.total;
        if self.rounds.begin(range) {
            self.end_slot_rounds();
        }
        for slot in &mut self.slots {
            slot.failures = 0;
        }
        let mut bytes = 0;
        let mut counting = |piece: &Piece, first: u64, words: &[u64], bits: u64| {
            sink(piece, first, words, bits)?;
            bytes += bitmap::count(words);
            Ok(())
        };
        let result = self.read_and_deliver(range, &mut counting);
        let bytes = bytes << self.page.shift();
        self.rounds.read(range.clone(), bytes, started.elapsed(), complete && result.is_ok());
        if complete && result.is_ok() {
            self.end_slot_rounds();
        }
        result?;
        self.rearm_if_worthwhile();
        Ok(Synced { errors: self.errors.total > before, unwatched: self.is_unwatched(range) })
    }

    fn read_and_deliver(&mut self, range: &RangeInclusive<u64>, sink: Sink<'_>) -> Result<()> {
        self.note_resets();
        let pieces: Vec<Piece> = self.map.pieces(range).collect();
        for piece in pieces.iter().filter(|piece| !piece.mapping.read_only) {
            let whole = self.read_whole(piece, &self.whole_slots(), false);
            let mut at = piece.first;
            let result = loop {
                let last = self.chunk_end(at, piece.last);
                if let Err(error) = self.chunk(piece, at, last, whole.as_ref(), sink) {
                    break Err(error);
                }
                if last >= piece.last {
                    break Ok(());
                }
                at = last + 1;
            };
            if let Some(whole) = &whole {
                // What was read and not delivered: beside the range, and behind an error.
                self.keep_sum(whole, whole.first, piece.first);
                match (&result, piece.last.checked_add(1)) {
                    (Err(_), _) => self.keep_sum_from(whole, at),
                    (Ok(()), Some(behind)) => self.keep_sum_from(whole, behind),
                    (Ok(()), None) => {}
                }
            }
            result?;
        }
        // A reset during the reading may have lost what was logged before it.
        self.note_resets();
        // What an error has made dirty behind the reading, and what lay beside a piece.
        let again = pieces.iter().any(|piece| {
            self.pending.overlaps(&(self.page.of(piece.first)..=self.page.of(piece.last)))
        });
        if again { self.deliver_pending(&pieces, sink) } else { Ok(()) }
    }

    /// The last address of a piece that fits the buffer in the smallest pages there are, at an edge
    /// of the largest.
    fn chunk_end(&self, at: u64, last: u64) -> u64 {
        let active = self.slots.iter().filter(|slot| slot.active && slot.tracker.whole().is_none());
        let (mut least, mut most) = (self.page, self.page);
        for slot in active {
            least = least.min(slot.tracker.page());
            most = most.max(slot.tracker.edges());
        }
        let length = (self.buffer_bytes as u64 * 8).saturating_mul(least.bytes());
        // 2^64 has no number, and is an edge.
        let Some(end) = at.checked_add(length) else { return last };
        let edge = end & !(most.bytes() - 1);
        let end = if edge > at && self.page.divides(edge) { edge } else { end };
        last.min(end - 1)
    }

    /// Reads one part of a piece from all trackers and delivers it.
    fn chunk(
        &mut self,
        piece: &Piece,
        first: u64,
        last: u64,
        whole: Option<&Piece>,
        sink: Sink<'_>,
    ) -> Result<()> {
        self.check_cancel()?;
        let bits = pages_in(first, last, self.page);
        let mut union = std::mem::take(&mut self.union);
        union.clear();
        union.resize(words_for(bits), 0);
        self.pending.take(self.page.of(first), bits, &mut union);
        for i in 0..self.slots.len() {
            if !self.slots.get(i).is_some_and(|slot| slot.active && slot.tracker.whole().is_none())
            {
                continue;
            }
            if let Err(error) = self.read(i, first, last, false, &mut union) {
                self.failed(i, &(first..=last), &error);
                bitmap::set(&mut union, 0, bits);
            }
        }
        if let (Some(whole), Some(sum)) = (whole, &self.sum) {
            let from = self.page.of(first) - self.page.of(whole.first);
            bitmap::or_at(&mut union, 0, sum, from, bits);
        }
        self.add_unwatched(first, last, &mut union);
        let result = self.deliver(piece, first, &union, bits, sink);
        self.union = union;
        result
    }

    fn check_cancel(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(err!(Cancelled, "the run was cancelled; stop it"));
        }
        Ok(())
    }

    /// To the sink, or back where it came from.
    fn deliver(
        &mut self,
        piece: &Piece,
        first: u64,
        words: &[u64],
        bits: u64,
        sink: Sink<'_>,
    ) -> Result<()> {
        if !bitmap::has_any(words) {
            return Ok(());
        }
        let result = sink(piece, first, words, bits);
        if result.is_err() {
            self.pending.add_bits(self.page.of(first), words, 0..bits);
        }
        result
    }

    fn deliver_pending(&mut self, pieces: &[Piece], sink: Sink<'_>) -> Result<()> {
        let most = self.buffer_bytes as u64 * 8;
        for piece in pieces {
            let (first, last) = (self.page.of(piece.first), self.page.of(piece.last));
            let mut at = first;
            while at <= last {
                let bits = most.min(last - at + 1);
                if self.pending.overlaps(&(at..=at + bits - 1)) {
                    self.check_cancel()?;
                    let mut union = std::mem::take(&mut self.union);
                    union.clear();
                    union.resize(words_for(bits), 0);
                    self.pending.take(at, bits, &mut union);
                    let result = self.deliver(piece, at << self.page.shift(), &union, bits, sink);
                    self.union = union;
                    result?;
                }
                at += bits;
            }
        }
        Ok(())
    }

    /// Adds one tracker's answer for a range to `union`, whose bit 0 is the page at `first`.
    fn read(
        &mut self,
        i: usize,
        first: u64,
        last: u64,
        keep: bool,
        union: &mut [u64],
    ) -> Result<()> {
        let Some(slot) = self.slots.get_mut(i) else { return Ok(()) };
        let page = slot.tracker.page();
        let mask = page.bytes() - 1;
        let start = first & !mask;
        // Not over 2^64: a page ends there at the most.
        let length = ((last | mask) - start).saturating_add(1);
        let asked = Span { start, length, page };
        let n = words_for(asked.bits());
        let scratch = self.scratch.as_mut().and_then(|scratch| scratch.get_mut(..n));
        let words = scratch.ok_or_else(|| err!(NoMem, "no room for {n} words of a tracker's"))?;
        let began = Instant::now();
        let result = slot.tracker.read(start, length, keep, words);
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        slot.round.sync_ns = slot.round.sync_ns.saturating_add(took);
        slot.stats.sync_ns = slot.stats.sync_ns.saturating_add(took);
        if result.is_err() {
            words.fill(0);
        }
        result?;
        bitmap::cut(words, asked.bits());
        let mut beyond = (false, false);
        let bits = if page == self.page && start == first {
            bitmap::drain(words, union)
        } else {
            let own = Span { start: first, length: last - first + 1, page: self.page };
            bitmap::add_span(union, own, words, asked);
            // The first and the last page may reach over the ends, and their bits are gone.
            let set =
                |bit: u64| words.get((bit / 64) as usize).is_some_and(|w| w >> (bit % 64) & 1 == 1);
            beyond = (set(0), set(asked.bits().saturating_sub(1)));
            let bits = bitmap::count(words);
            words.fill(0);
            bits
        };
        let dirty = bits << page.shift();
        slot.round.dirty_bytes = slot.round.dirty_bytes.saturating_add(dirty);
        slot.stats.dirty_bytes = slot.stats.dirty_bytes.saturating_add(dirty);
        let (head, tail) = beyond;
        if head && start < first {
            self.add_mapped(start, first - 1);
        }
        if tail && last | mask != last {
            self.add_mapped(last + 1, last | mask);
        }
        Ok(())
    }

    /// Makes what is mapped in a range pending.
    fn add_mapped(&mut self, first: u64, last: u64) {
        for piece in self.map.writable(&(first..=last)) {
            self.pending.add(self.page.of(piece.first)..=self.page.of(piece.last));
        }
    }

    fn add_whole_map(&mut self) {
        self.add_mapped(*EVERYWHERE.start(), *EVERYWHERE.end());
    }

    /// What counts as dirty whatever the trackers say.
    fn add_unwatched(&mut self, first: u64, last: u64, union: &mut [u64]) {
        let page = self.page;
        let asked = first..=last;
        let mut add = |range: &RangeInclusive<u64>| {
            let (start, end) = (*range.start().max(&first), *range.end().min(&last));
            let n = pages_in(start, end, page);
            bitmap::set(union, page.of(start) - page.of(first), n);
            n << page.shift()
        };
        for slot in self.slots.iter_mut().filter(|slot| slot.active) {
            let Some(blind) = slot.tracker.blind() else { continue };
            let bytes: u64 = blind.overlapping(&asked).map(&mut add).sum();
            slot.stats.assumed_bytes = slot.stats.assumed_bytes.saturating_add(bytes);
            slot.blind_bytes = slot.blind_bytes.saturating_add(bytes);
        }
        self.suspect.overlapping(&asked).for_each(|range| {
            add(range);
        });
    }

    fn add_blind(&mut self, pieces: &[Piece]) {
        for piece in pieces.iter().filter(|piece| !piece.mapping.read_only) {
            let asked = piece.range();
            let mut found: Vec<RangeInclusive<u64>> = Vec::new();
            for slot in self.slots.iter().filter(|slot| slot.active) {
                found.extend(
                    slot.tracker.blind().into_iter().flat_map(|b| b.overlapping(&asked)).cloned(),
                );
            }
            found.extend(self.suspect.overlapping(&asked).cloned());
            for range in found {
                let (start, end) = (range.start().max(&piece.first), range.end().min(&piece.last));
                self.pending.add(self.page.of(*start)..=self.page.of(*end));
            }
        }
    }

    fn is_unwatched(&self, range: &RangeInclusive<u64>) -> bool {
        let blind = |slot: &Slot| slot.tracker.blind().is_some_and(|blind| blind.overlaps(range));
        self.suspect.overlaps(range) || self.slots.iter().any(|slot| slot.active && blind(slot))
    }

    fn active_slots(&self, kinds: &[TrackerKind]) -> Vec<usize> {
        let wanted = |slot: &Slot| slot.active && kinds.contains(&slot.tracker.kind());
        let slots = self.slots.iter().enumerate();
        slots.filter(|(_, slot)| wanted(slot)).map(|(i, _)| i).collect()
    }

    /// Makes all that one tracker says of these pieces pending.
    fn read_pieces(&mut self, i: usize, pieces: &[Piece], keep: bool) {
        for piece in pieces.iter().filter(|piece| !piece.mapping.read_only) {
            if self.slots.get(i).is_some_and(|slot| slot.tracker.whole().is_some()) {
                if let Some(whole) = self.read_whole(piece, &[i], keep) {
                    // With keep, the rest is still there.
                    let part = if keep { piece } else { &whole };
                    self.keep_sum(&whole, part.first, part.last);
                    self.keep_sum_from(&whole, part.last);
                }
                continue;
            }
            let mut at = piece.first;
            loop {
                let last = self.chunk_end(at, piece.last);
                let bits = pages_in(at, last, self.page);
                let mut union = std::mem::take(&mut self.union);
                union.clear();
                union.resize(words_for(bits), 0);
                match self.read(i, at, last, keep, &mut union) {
                    Ok(()) => self.pending.add_bits(self.page.of(at), &union, 0..bits),
                    Err(error) => {
                        self.pending.add(self.page.of(at)..=self.page.of(last));
                        self.failed(i, &(at..=last), &error);
                    }
                }
                self.union = union;
                if !self.slots.get(i).is_some_and(|slot| slot.active) {
                    return; // given up, and everything is dirty
                }
                if last >= piece.last {
                    break;
                }
                at = last + 1;
            }
        }
    }

    /// Makes all that one tracker has to say pending.
    fn read_out(&mut self, i: usize) {
        let pieces: Vec<Piece> = self.map.writable(&EVERYWHERE).collect();
        self.read_pieces(i, &pieces, false);
        if self.slots.get(i).is_some_and(|slot| slot.active) {
            // Not only what it has seen.
            self.add_blind(&pieces);
        }
    }

    /// Trackers that answer for whole mappings only.
    fn whole_slots(&self) -> Vec<usize> {
        let slots = self.slots.iter().enumerate();
        let whole = |slot: &Slot| slot.active && slot.tracker.whole().is_some();
        slots.filter(|(_, slot)| whole(slot)).map(|(i, _)| i).collect()
    }

    /// Reads the mapping that a piece is of from these trackers, into `sum`, and returns it.
    fn read_whole(&mut self, piece: &Piece, slots: &[usize], keep: bool) -> Option<Piece> {
        if slots.is_empty() {
            return None;
        }
        let whole = self.map.whole(piece);
        let bits = pages_in(whole.first, whole.last, self.page);
        let mut sum = match self.with_sum(bits) {
            Ok(sum) => sum,
            Err(error) => {
                slots.iter().for_each(|i| self.assume(*i, &whole, &error));
                return None;
            }
        };
        for i in slots {
            let result = self.with_whole(*i, &whole, &mut sum, |tracker, length, words| {
                tracker.read(whole.first, length, keep, words)
            });
            if let Err(error) = result {
                self.assume(*i, &whole, &error);
            }
        }
        self.sum = Some(sum);
        Some(whole)
    }

    /// An empty sum with room for `bits` bits.
    fn with_sum(&mut self, bits: u64) -> Result<Words> {
        let n = words_for(bits);
        let mut sum = match self.sum.take() {
            Some(sum) if sum.len() >= n => sum,
            _ => Words::new(n)?,
        };
        sum.fill(0);
        Ok(sum)
    }

    /// Makes a part of the sum pending, from an address to before another.
    fn keep_sum(&mut self, whole: &Piece, first: u64, end: u64) {
        let Some(sum) = &self.sum else { return };
        let base = self.page.of(whole.first);
        let bits = self.page.of(first) - base..self.page.of(end) - base;
        self.pending.add_bits(base, sum, bits);
    }

    /// Makes the rest of the sum pending, from the page of an address on.
    fn keep_sum_from(&mut self, whole: &Piece, first: u64) {
        let Some(sum) = &self.sum else { return };
        let base = self.page.of(whole.first);
        let bits = self.page.of(first) - base..pages_in(whole.first, whole.last, self.page);
        self.pending.add_bits(base, sum, bits);
    }

    /// Lets a tracker fill in a bitmap of a whole piece, and adds that to `sum`, whose bit 0 is the
    /// piece's first page.
    fn with_whole(
        &mut self,
        i: usize,
        piece: &Piece,
        sum: &mut [u64],
        call: impl FnOnce(&mut dyn Tracker, u64, &mut [u64]) -> Result<()>,
    ) -> Result<()> {
        let Some(slot) = self.slots.get_mut(i) else { return Ok(()) };
        let page = slot.tracker.page();
        let length = piece.last - piece.first + 1;
        let bits = length.div_ceil(page.bytes());
        let n = words_for(bits);
        let most = slot.tracker.whole().unwrap_or(0);
        if n as u64 * 8 > most {
            return Err(err!(
                NotSupported,
                "the mapping at {:#x}, {length:#x} bytes, is too large for the container: its \
                 bitmap takes {} bytes, and the limit is {most}; map it in pieces",
                piece.first,
                n as u64 * 8
            ));
        }
        let mut room = match self.whole.take() {
            Some(room) if room.len() >= n => room,
            _ => Words::new(n)?,
        };
        let result = room.get_mut(..n).map_or(Ok(()), |words| {
            let began = Instant::now();
            let result = call(slot.tracker.as_mut(), length, words);
            let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            slot.round.sync_ns = slot.round.sync_ns.saturating_add(took);
            slot.stats.sync_ns = slot.stats.sync_ns.saturating_add(took);
            if result.is_err() {
                words.fill(0);
            }
            result?;
            bitmap::cut(words, bits);
            let dirty = if page == self.page {
                bitmap::drain(words, sum)
            } else {
                let to = Span { start: piece.first, length, page: self.page };
                let of = Span { start: piece.first, length: bits << page.shift(), page };
                bitmap::add_span(sum, to, words, of);
                let dirty = bitmap::count(words);
                words.fill(0);
                dirty
            };
            let dirty = dirty << page.shift();
            slot.round.dirty_bytes = slot.round.dirty_bytes.saturating_add(dirty);
            slot.stats.dirty_bytes = slot.stats.dirty_bytes.saturating_add(dirty);
            Ok(())
        });
        self.whole = Some(room);
        result
    }

    // --- errors ------------------------------------------------------------------------------------

    fn record(&mut self, i: usize, range: &RangeInclusive<u64>, error: &Error) {
        let user = self
            .users
            .iter()
            .position(|user| user.as_ref().is_some_and(|user| user.slot() == Some(i)));
        let kind = self.slots.get(i).map_or(TrackerKind::None, |slot| slot.tracker.kind());
        if let Some(slot) = self.slots.get_mut(i) {
            slot.stats.errors += 1;
        }
        let user = user.and_then(|user| u32::try_from(user).ok());
        self.errors.add(DirtyError::new(user, kind, range, error));
    }

    /// A piece counts as dirty because of an error.
    fn assume(&mut self, i: usize, piece: &Piece, error: &Error) {
        self.record(i, &piece.range(), error);
        self.pending.add(self.page.of(piece.first)..=self.page.of(piece.last));
        if let Some(slot) = self.slots.get_mut(i) {
            let bytes = piece.last - piece.first + 1;
            slot.stats.assumed_bytes = slot.stats.assumed_bytes.saturating_add(bytes);
        }
    }

    /// A reading failed. What it was about counts as dirty; the caller sees to that. Where one error
    /// makes everything doubtful, everything counts as dirty and the tracker is started anew, or
    /// given up for the next one.
    fn failed(&mut self, i: usize, range: &RangeInclusive<u64>, error: &Error) {
        // The tracker was asked in whole pages of its own.
        let mask = self.slots.get(i).map_or(0, |slot| slot.tracker.page().bytes() - 1);
        let range = &(range.start() & !mask..=range.end() | mask);
        self.add_mapped(*range.start(), *range.end());
        let as_a_whole = self.slots.get(i).is_some_and(|slot| slot.tracker.fails_as_a_whole());
        if !as_a_whole {
            self.record(i, range, error);
            if let Some(slot) = self.slots.get_mut(i) {
                let bytes = range.end() - range.start() + 1;
                slot.stats.assumed_bytes = slot.stats.assumed_bytes.saturating_add(bytes);
            }
            return;
        }
        self.start_anew(i, error);
    }

    fn start_anew(&mut self, i: usize, why: &Error) {
        self.record(i, &EVERYWHERE, why);
        let mut given_up = None;
        if let Some(slot) = self.slots.get_mut(i) {
            slot.failures += 1;
            slot.stats.assumed_bytes = slot.stats.assumed_bytes.saturating_add(self.map.bytes());
            if let Err(error) = slot.tracker.stop() {
                log::warn!(target: "vfiomig::dirty", "{error}");
            }
            let started = if slot.failures > MAX_RESTARTS {
                Err(err!(Io, "given up after {MAX_RESTARTS} restarts: {why}"))
            } else {
                slot.stats.restarts += 1;
                slot.blind_bytes = 0;
                slot.tracker.start(&self.map)
            };
            if let Err(error) = started {
                slot.active = false;
                given_up = Some(error);
            }
        }
        if let Some(error) = given_up {
            self.replace(i, &error);
        }
        // Last: whatever is written from here on is watched again.
        self.add_whole_map();
    }

    /// Gives the users of a tracker that is no more their next one.
    fn replace(&mut self, i: usize, error: &Error) {
        let kind = self.slots.get(i).map_or("", |slot| slot.tracker.kind().name());
        for index in 0..self.users.len() {
            let user = self.users.get(index).and_then(Option::as_ref);
            let Some(user) = user.filter(|user| user.slot() == Some(i)) else { continue };
            let next = user.chosen.map_or(0, |position| position + 1);
            let note = format!("{kind}: {}", error.message());
            self.chosen(index, usize::MAX, &[note]);
            // Everything-dirty is the last candidate and starts always.
            if let Err(error) = self.choose(index, next, false) {
                log::error!(target: "vfiomig::dirty", "{error}");
            }
        }
        self.verify(&EVERYWHERE);
    }

    /// A device that was reset may have forgotten what it had logged.
    fn note_resets(&mut self) {
        for index in 0..self.users.len() {
            let Some(user) = self.users.get_mut(index).and_then(Option::as_mut) else { continue };
            let resets = user.health.as_ref().map_or(0, Health::resets);
            if resets == std::mem::replace(&mut user.resets_seen, resets) {
                continue;
            }
            let Some(i) = user.slot() else { continue };
            let log = |slot: &Slot| slot.tracker.kind() == TrackerKind::DeviceLog;
            if self.slots.get(i).is_some_and(log) {
                self.start_anew(i, &err!(Io, "the device was reset, and its log with it"));
            }
        }
    }

    // --- mappings that came later ------------------------------------------------------------------

    /// Starts the logs of devices anew, so that they watch mappings that came after the start. No
    /// bit is lost: in between another tracker of the source watches, if it has one, or the device
    /// stands still; otherwise everything counts as dirty once. Done by itself when mappings that
    /// are not watched have cost more than that.
    pub fn rearm(&mut self) -> Result<Synced> {
        self.check_tracking()?;
        let before = self.errors.total;
        for i in self.active_slots(&[TrackerKind::DeviceLog]) {
            self.rearm_slot(i);
        }
        Ok(Synced { errors: self.errors.total > before, unwatched: self.is_unwatched(&EVERYWHERE) })
    }

    fn rearm_if_worthwhile(&mut self) {
        for i in self.active_slots(&[TrackerKind::DeviceLog]) {
            let Some(slot) = self.slots.get(i) else { continue };
            let cost = slot.blind_bytes;
            if slot.tracker.is_outdated() && cost > 0 && cost >= slot.tracker.watched() {
                self.rearm_slot(i);
            }
        }
    }

    fn rearm_slot(&mut self, i: usize) {
        let user = self.users.iter_mut().flatten().find(|user| user.slot() == Some(i));
        let Some(user) = user else { return };
        let quiet = user.health.as_mut().is_some_and(Health::is_quiet);
        let others: Vec<usize> =
            user.candidates.iter().copied().skip(user.chosen.map_or(0, |at| at + 1)).collect();
        // A bridge over the time without a log. Everything-dirty is none: that can be had simpler.
        let mut bridge = None;
        for other in others {
            let Some(slot) = self.slots.get_mut(other).filter(|_| !quiet) else { continue };
            if slot.active {
                // Watches already, for another source, and will be read in its turn.
                if slot.tracker.kind() != TrackerKind::AllDirty {
                    bridge = Some((other, false));
                    break;
                }
            } else if slot.tracker.kind() != TrackerKind::AllDirty
                && slot.tracker.start(&self.map).is_ok()
            {
                slot.active = true;
                bridge = Some((other, true));
                break;
            }
        }
        let pieces: Vec<Piece> = self.map.writable(&EVERYWHERE).collect();
        self.read_pieces(i, &pieces, false);
        self.add_blind(&pieces);
        if self.slots.get(i).is_some_and(|slot| slot.active) {
            self.restart_log(i);
        }
        match bridge {
            Some((other, temporary)) => {
                self.verify(&EVERYWHERE);
                self.read_pieces(other, &pieces, false);
                self.add_blind(&pieces);
                let used = self.users.iter().flatten().any(|user| user.slot() == Some(other));
                if temporary && !used {
                    self.deactivate(other);
                }
            }
            None if quiet => {}
            None => self.add_whole_map(),
        }
    }

    fn restart_log(&mut self, i: usize) {
        let Some(slot) = self.slots.get_mut(i) else { return };
        let restarted = slot.tracker.stop().and_then(|()| {
            slot.stats.restarts += 1;
            slot.blind_bytes = 0;
            slot.tracker.start(&self.map)
        });
        if let Err(error) = restarted {
            slot.active = false;
            self.record(i, &EVERYWHERE, &error);
            self.replace(i, &error);
            self.add_whole_map();
        }
    }

    // --- memory ------------------------------------------------------------------------------------

    /// Says that a range was written to by means that no tracker sees.
    pub fn mark(&mut self, iova: u64, length: u64) -> Result<()> {
        let pieces = self.pieces_of(iova, length)?;
        if self.tracking {
            for piece in pieces {
                self.pending.add(self.page.of(piece.first)..=self.page.of(piece.last));
            }
        }
        Ok(())
    }

    /// Reads guest memory as a device does: by I/O virtual addresses.
    pub fn dma_read(&mut self, iova: u64, buf: &mut [u8]) -> Result<()> {
        let pieces = self.pieces_of(iova, buf.len() as u64)?;
        let mut memory = self.memory.take();
        let mut rest = buf;
        let mut result = Ok(());
        for piece in &pieces {
            let (part, behind) = rest.split_at_mut((piece.last - piece.first + 1) as usize);
            rest = behind;
            result = each_place(memory.as_deref_mut(), piece, |memory, place, from, len| {
                let part = part.get_mut(from..from + len).ok_or(Errno(libc::EINVAL))?;
                memory.read(place, part)
            });
            if result.is_err() {
                break;
            }
        }
        self.memory = memory;
        result.map_err(|errno| callback_failed("read guest memory", iova, errno))
    }

    /// Writes guest memory as a device does, and counts it as dirty.
    pub fn dma_write(&mut self, iova: u64, buf: &[u8]) -> Result<()> {
        let pieces = self.pieces_of(iova, buf.len() as u64)?;
        if let Some(piece) = pieces.iter().find(|piece| piece.mapping.read_only) {
            return Err(err!(Inval, "the mapping at {:#x} is read-only", piece.mapping.iova));
        }
        let mut memory = self.memory.take();
        let mut rest = buf;
        let mut result = Ok(());
        for piece in &pieces {
            let (part, behind) = rest.split_at((piece.last - piece.first + 1) as usize);
            rest = behind;
            result = each_place(memory.as_deref_mut(), piece, |memory, place, from, len| {
                memory.write(place, part.get(from..from + len).ok_or(Errno(libc::EINVAL))?)
            });
            // Also after an error: some of it may be there.
            if self.tracking {
                self.pending.add(self.page.of(piece.first)..=self.page.of(piece.last));
            }
            if result.is_err() {
                break;
            }
        }
        self.memory = memory;
        result.map_err(|errno| callback_failed("write guest memory", iova, errno))
    }

    /// The pieces of a range that must be mapped from end to end; any bytes.
    fn pieces_of(&self, iova: u64, length: u64) -> Result<Vec<Piece>> {
        if length == 0 {
            return Err(err!(Inval, "a range at {iova:#x} is empty"));
        }
        let last = iova.checked_add(length - 1);
        let last = last.ok_or_else(|| err!(Inval, "a range at {iova:#x} wraps"))?;
        let pieces: Vec<Piece> = self.map.pieces(&(iova..=last)).collect();
        let mut next = Some(iova);
        for piece in &pieces {
            if next != Some(piece.first) {
                break;
            }
            next = piece.last.checked_add(1);
        }
        if pieces.last().map(|piece| piece.last) == Some(last) && next == last.checked_add(1) {
            return Ok(pieces);
        }
        let at = next.unwrap_or(iova);
        Err(err!(NoData, "nothing is mapped at {at:#x}, in a range from {iova:#x} to {last:#x}"))
    }

    // --- numbers -----------------------------------------------------------------------------------

    fn end_slot_rounds(&mut self) {
        for slot in &mut self.slots {
            let round = Round { since: Instant::now(), dirty_bytes: 0, sync_ns: 0 };
            let ended = std::mem::replace(&mut slot.round, round);
            let interval = u64::try_from(ended.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            slot.stats.rate = per_second(ended.dirty_bytes, interval);
            slot.stats.last_dirty_bytes = ended.dirty_bytes;
            slot.stats.last_sync_ns = ended.sync_ns;
        }
        let mapped: u64 =
            self.map.writable(&EVERYWHERE).map(|piece| piece.last - piece.first + 1).sum();
        for i in self.active_slots(&[TrackerKind::Type1]) {
            let all_of_it = |slot: &Slot| mapped > 0 && slot.stats.last_dirty_bytes >= mapped;
            if self.slots.get(i).is_some_and(all_of_it) {
                self.say_perpetual(i);
            }
        }
    }

    /// One device in a container that does not pin its pages one by one makes all of it dirty, for
    /// ever.
    fn say_perpetual(&mut self, i: usize) {
        let text = "every mapped page is dirty at every time: a device of the container reaches \
                    all of it";
        for user in self.users.iter_mut().flatten().filter(|user| user.slot() == Some(i)) {
            if !user.note.contains(text) {
                user.add_note(text);
            }
        }
    }

    /// The run as a whole.
    pub fn stats(&self) -> DirtyStats {
        let words = [&self.scratch, &self.whole, &self.sum];
        let words: usize = words.into_iter().flatten().map(Words::footprint).sum();
        let trackers: usize = self.slots.iter().map(|slot| slot.tracker.footprint()).sum();
        let orphans: usize = self.orphans.iter().map(|orphan| orphan.words.len()).sum();
        let others = words + trackers + (self.union.capacity() + orphans) * 8;
        DirtyStats {
            mapped_bytes: self.map.bytes(),
            memory_bytes: self.pending.footprint() + others as u64,
            errors: self.errors.total,
            ..self.rounds.totals()
        }
    }

    /// The newest rounds over the map, oldest first.
    pub fn rounds(&self) -> Vec<DirtyRound> {
        self.rounds.history().collect()
    }

    /// How many sources were ever added.
    pub fn num_sources(&self) -> u32 {
        u32::try_from(self.users.len()).unwrap_or(u32::MAX)
    }

    /// One source; an error if it was never added or was removed.
    pub fn source(&self, number: u32) -> Result<SourceStats> {
        let user = self.users.get(number as usize).and_then(Option::as_ref);
        let user = user.ok_or_else(|| err!(NoData, "there is no source {number}"))?;
        let note = user.note.clone();
        let slot = user.slot().and_then(|i| self.slots.get(i));
        Ok(match slot {
            Some(slot) => SourceStats {
                tracker: if self.tracking { slot.tracker.kind() } else { TrackerKind::None },
                calls: slot.tracker.calls(),
                note,
                ..slot.stats.clone()
            },
            None => SourceStats { note, ..SourceStats::default() },
        })
    }

    /// What went wrong since the start, oldest first.
    pub fn error(&self, index: usize) -> Option<&DirtyError> {
        self.errors.get(index)
    }

    /// How many errors are kept.
    pub fn num_errors(&self) -> usize {
        self.errors.len()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            log::warn!(target: "vfiomig::dirty", "{error}");
        }
    }
}

/// A caller's bitmap.
struct BitmapSink<'a> {
    words: &'a mut [u64],
    span: Span,
    page: PageSize,
}

impl BitmapSink<'_> {
    fn add(&mut self, _piece: &Piece, first: u64, words: &[u64], bits: u64) {
        let of = Span { start: first, length: bits << self.page.shift(), page: self.page };
        bitmap::add_span(self.words, self.span, words, of);
    }
}

fn unmap_failed(iova: u64, size: u64, errno: Errno) -> Error {
    callback_failed(&format!("unmap {size:#x} bytes"), iova, errno)
}

fn callback_failed(what: &str, iova: u64, errno: Errno) -> Error {
    Error::new(errno.code(), format!("the VMM does not {what} at {iova:#x}: {errno}"))
}

/// Gives dirty pages to the VMM.
fn give(
    memory: &mut dyn Memory,
    page: PageSize,
    piece: &Piece,
    first: u64,
    words: &[u64],
    bits: u64,
) -> Result<()> {
    let refused = |iova: u64, errno| callback_failed("take dirty pages", iova, errno);
    if !piece.mapping.translate {
        let Piece { mapping, .. } = piece;
        return memory
            .set_dirty(mapping.cookie, piece.offset_of(first), page.bytes(), words, bits)
            .map_err(|errno| refused(first, errno));
    }
    for (at, n) in bitmap::runs(words, 0..bits) {
        let mut iova = first + (at << page.shift());
        let mut left = n;
        while left > 0 {
            let place = memory
                .translate(iova, left << page.shift())
                .map_err(|errno| callback_failed("know which page was written to", iova, errno))?;
            let n = (place.size >> page.shift()).min(left);
            if n == 0 || !page.divides(place.offset) {
                let Place { offset, size, .. } = place;
                return Err(err!(
                    Inval,
                    "what is at {iova:#x} is at {offset:#x}, {size:#x} bytes, says the VMM: not in \
                     whole pages"
                ));
            }
            let mut ones = vec![0; words_for(n)];
            bitmap::set(&mut ones, 0, n);
            memory
                .set_dirty(place.cookie, place.offset, page.bytes(), &ones, n)
                .map_err(|errno| refused(iova, errno))?;
            iova = iova.wrapping_add(n << page.shift());
            left -= n;
        }
    }
    Ok(())
}

/// Calls `access` for each place that a piece lies in, with the offset in the piece and the length.
fn each_place(
    memory: Option<&mut (dyn Memory + 'static)>,
    piece: &Piece,
    mut access: impl FnMut(&mut dyn Memory, Place, usize, usize) -> std::result::Result<(), Errno>,
) -> std::result::Result<(), Errno> {
    let memory = memory.ok_or(Errno(libc::ENOTRECOVERABLE))?;
    let length = piece.last - piece.first + 1;
    let mut done = 0;
    while done < length {
        let iova = piece.first + done;
        let place = if piece.mapping.translate {
            memory.translate(iova, length - done)?
        } else {
            Place {
                cookie: piece.mapping.cookie,
                offset: piece.offset_of(iova),
                size: length - done,
                host: piece.host_of(iova),
            }
        };
        let n = place.size.min(length - done);
        if n == 0 {
            return Err(Errno(libc::EINVAL));
        }
        access(memory, Place { size: n, ..place }, done as usize, n as usize)?;
        done += n;
    }
    Ok(())
}
