// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which tracker is whose: writers, their candidates, and the choice among them.

use std::time::Instant;

use super::super::bitmap::PageSize;
use super::super::map::{EVERYWHERE, Piece};
use super::super::ranges::{self, MAX_KEPT, insert_or_all};
use super::super::stats::{WriterStats, per_second};
use super::super::tracker::all_dirty::AllDirty;
use super::super::tracker::custom::Custom;
use super::super::tracker::device_log::DeviceLog;
use super::super::tracker::hwpt::PageTable;
use super::super::tracker::type1::Container;
use super::super::tracker::{Tracker, TrackerKind, is_absent};
use super::super::writer::Writer;
use super::{Run, elapsed_ns};
use crate::alloc;
use crate::device::Health;
use crate::error::{Error, Result, err};
use std::ops::RangeInclusive;

/// More writers than any machine has devices: a number that is wrong is told from one that is not.
/// A list of their trackers fits a block of the reserve (`sys/reserve.rs`).
const MAX_WRITERS: usize = 512;

/// A tracker, and what writers have in common that have the same.
pub(super) struct Slot {
    pub tracker: Box<dyn Tracker>,
    /// Two writers with the same number have the same one.
    key: Option<(TrackerKind, u64)>,
    /// What must be the same, too.
    detail: u64,
    /// It is some writer's tracker and is read.
    pub active: bool,
    /// It was started and has not stopped.
    running: bool,
    pub stats: WriterStats,
    pub round: Round,
    /// How often it failed in the reading that is under way.
    pub failures: u32,
    /// In how many rounds it failed, in a row and until now.
    pub bad_rounds: u32,
    /// In the last one it was started anew.
    pub round_was_lost: bool,
    /// What it did not watch before it was started anew.
    pub missed: Option<String>,
}

/// A tracker's numbers in the round that is under way.
pub(super) struct Round {
    since: Instant,
    pub dirty_bytes: u64,
    pub sync_ns: u64,
    /// It has answered, has failed, was started anew because of that.
    pub answered: bool,
    pub failed: bool,
    pub lost: bool,
}

impl Round {
    fn new() -> Round {
        let (answered, failed, lost) = (false, false, false);
        Round { since: Instant::now(), dirty_bytes: 0, sync_ns: 0, answered, failed, lost }
    }
}

impl Slot {
    /// Stops it if it runs.
    pub fn stop(&mut self) -> Result<()> {
        if self.running {
            self.tracker.stop()?;
            self.running = false;
        }
        Ok(())
    }

    pub fn stop_or_warn(&mut self) {
        if let Err(error) = self.stop() {
            log::warn!(target: "vfiomig::dirty", "{error}");
        }
    }

    pub fn start(&mut self, map: &super::super::map::Map) -> Result<()> {
        // One that did not stop may be stopped by now; where it is not, starting says so.
        self.stop_or_warn();
        self.running = true;
        let started = self.tracker.start(map);
        self.running = started.is_ok() || self.tracker.is_left_on();
        started
    }

    pub fn new_round(&mut self) {
        self.round = Round::new();
    }

    /// What there is to say of it beside the note of a writer.
    pub fn remarks(&self, tracking: bool) -> Vec<String> {
        let missed = self.missed.as_ref().map(|missed| {
            format!("not logged until the log was started anew, and dirty until then: {missed}")
        });
        let remark = self.tracker.remark().filter(|_| self.active);
        [remark, missed].into_iter().flatten().filter(|_| tracking).collect()
    }

    fn end_round(&mut self) {
        let ended = std::mem::replace(&mut self.round, Round::new());
        let failed = ended.lost || ended.failed && !ended.answered || self.tracker.is_down();
        self.round_was_lost = ended.lost;
        match (failed, ended.answered) {
            (true, _) => self.bad_rounds = self.bad_rounds.saturating_add(1),
            (false, true) => self.bad_rounds = 0,
            (false, false) => {}
        }
        self.stats.rate = per_second(ended.dirty_bytes, elapsed_ns(ended.since));
        self.stats.last_dirty_bytes = ended.dirty_bytes;
        self.stats.last_sync_ns = ended.sync_ns;
    }

    /// Counts what it said and how long that took.
    pub fn count(&mut self, dirty_bytes: u64, ns: u64) {
        self.round.answered = true;
        let stats = &mut self.stats;
        stats.dirty_bytes = stats.dirty_bytes.saturating_add(dirty_bytes);
        stats.sync_ns = stats.sync_ns.saturating_add(ns);
        self.round.dirty_bytes = self.round.dirty_bytes.saturating_add(dirty_bytes);
        self.round.sync_ns = self.round.sync_ns.saturating_add(ns);
    }

    pub fn assume(&mut self, bytes: u64) {
        self.stats.assumed_bytes = self.stats.assumed_bytes.saturating_add(bytes);
    }
}

pub(super) struct User {
    name: String,
    required: bool,
    /// Slots, best first.
    pub candidates: Vec<usize>,
    /// Position in `candidates`.
    pub chosen: Option<usize>,
    pub health: Option<Health>,
    pub resets_seen: u64,
    /// Why there is no device log, if the device said so.
    given_note: String,
    pub note: String,
}

impl User {
    pub fn slot(&self) -> Option<usize> {
        self.candidates.get(self.chosen?).copied()
    }

    fn add_note(&mut self, note: &str) {
        add_note(&mut self.note, note);
    }
}

pub(super) fn add_note(to: &mut String, note: &str) {
    if !to.is_empty() {
        to.push_str("; ");
    }
    to.push_str(note);
}

impl Run {
    /// Adds something that writes to memory; returns its number. While tracking is on it is tracked
    /// at once: what it wrote before must have been sent or be sent anyway.
    pub fn add_writer(&mut self, writer: Writer) -> Result<u32> {
        self.check_process()?;
        if self.users.iter().flatten().count() >= MAX_WRITERS || self.users.len() >= 1 << 20 {
            return Err(err!(NoMem, "there are too many writers"));
        }
        let number = u32::try_from(self.users.len()).unwrap_or(u32::MAX);
        let hwpt_page = match writer.hwpt_page_size {
            0 => Some(self.page),
            size => PageSize::new(size).filter(|page| page.bytes() <= 1 << 30),
        };
        let hwpt_page = hwpt_page.map(|page| page.max(self.page)).ok_or_else(|| {
            err!(Inval, "the page table's page size must be a power of two up to 1 GiB")
        })?;
        let custom = writer.custom.map(Custom::new).transpose()?;
        if let Some(hwpt) = &writer.hwpt {
            let detail = hwpt_detail(hwpt_page, hwpt.ioas());
            self.check_same((TrackerKind::Hwpt, hwpt.key()), detail)?;
        }
        // First: from here on nothing may fail before the writer is complete.
        alloc::grow(&mut self.users, 1, "no memory for a writer")?;
        alloc::grow(&mut self.slots, 5, "no memory for a writer")?;
        let mut candidates = Vec::new();
        if let Some(log) = writer.device_log {
            let key = writer.log_key.map(|key| (TrackerKind::DeviceLog, key));
            candidates.push(self.add_slot(Box::new(DeviceLog::new(log, self.page)), key, 0));
        }
        if let Some(hwpt) = writer.hwpt {
            let key = Some((TrackerKind::Hwpt, hwpt.key()));
            let detail = hwpt_detail(hwpt_page, hwpt.ioas());
            candidates.push(self.add_slot(Box::new(PageTable::new(hwpt, hwpt_page)), key, detail));
        }
        if let Some(custom) = custom {
            candidates.push(self.add_slot(Box::new(custom), None, 0));
        }
        if let Some(type1) = writer.type1 {
            let key = Some((TrackerKind::Type1, type1.key()));
            candidates.push(self.add_slot(Box::new(Container::new(type1, self.page)), key, 0));
        }
        candidates.push(self.add_slot(Box::new(AllDirty::new(self.page)), None, 0));
        let resets_seen = writer.health.as_ref().map_or(0, Health::resets);
        self.users.push(Some(User {
            name: writer.name,
            required: writer.required,
            candidates,
            chosen: None,
            health: writer.health,
            resets_seen,
            given_note: writer.note,
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

    fn check_same(&self, key: (TrackerKind, u64), detail: u64) -> Result<()> {
        match self.slots.iter().find(|slot| slot.key == Some(key)) {
            Some(slot) if slot.detail != detail => Err(err!(
                Inval,
                "another writer has the same page table with another address space or page size"
            )),
            _ => Ok(()),
        }
    }

    fn add_slot(
        &mut self,
        tracker: Box<dyn Tracker>,
        key: Option<(TrackerKind, u64)>,
        detail: u64,
    ) -> usize {
        if key.is_some() {
            if let Some(same) = self.slots.iter().position(|slot| slot.key == key) {
                return same;
            }
        }
        let stats = WriterStats {
            tracker: tracker.kind(),
            page_size: tracker.page().bytes(),
            ..WriterStats::default()
        };
        let round = Round::new();
        let slot = Slot {
            tracker,
            key,
            detail,
            active: false,
            running: false,
            stats,
            round,
            failures: 0,
            bad_rounds: 0,
            round_was_lost: false,
            missed: None,
        };
        let used = |i: usize| self.users.iter().flatten().any(|user| user.candidates.contains(&i));
        // Those of the writer that is being added come last and are not known yet.
        let vacant = (0..self.slots.len())
            .find(|i| self.slots.get(*i).is_some_and(|slot| slot.detail == VACANT) && !used(*i));
        match vacant.and_then(|i| self.slots.get_mut(i).map(|place| (i, place))) {
            Some((i, place)) => {
                *place = slot;
                i
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        }
    }

    /// Takes a writer out, for example because its device is unplugged: what it has written to is
    /// read first and delivered later. Its number is not given out again.
    pub fn remove_writer(&mut self, number: u32) -> Result<()> {
        self.check_process()?;
        let index = number as usize;
        let slot = match self.users.get(index) {
            Some(Some(user)) => user.slot(),
            _ => return Err(err!(NoData, "there is no writer {number}")),
        };
        if let Some(slot) = slot.filter(|_| self.tracking) {
            self.read_out(slot);
            // A log that was lost can be made up for by now only.
            self.note_resets();
        }
        self.drop_user(index);
        Ok(())
    }

    /// Forgets a user, and stops and forgets the trackers that nobody else could use.
    fn drop_user(&mut self, index: usize) {
        let Some(user) = self.users.get_mut(index).and_then(Option::take) else { return };
        for i in user.candidates {
            let others = || self.users.iter().flatten();
            let chosen = others().any(|other| other.slot() == Some(i));
            let wanted = others().any(|other| other.candidates.contains(&i));
            let Some(slot) = self.slots.get_mut(i) else { continue };
            if !chosen {
                slot.active = false;
                slot.stop_or_warn();
            }
            if !wanted {
                // What it was made of may not outlive the writer.
                slot.tracker = Box::new(AllDirty::new(self.page));
                slot.key = None;
                slot.detail = VACANT;
            }
        }
    }

    /// Gives a writer its best tracker from a position on. On `start`, one that must be tracked and
    /// cannot be is an error.
    pub(super) fn choose(&mut self, index: usize, from: usize, start: bool) -> Result<()> {
        let Some(user) = self.users.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
        if start {
            user.note = user.given_note.clone();
        }
        user.chosen = None;
        let candidates = user.candidates.clone();
        let (name, required) = (user.name.clone(), user.required && start);
        for (position, i) in candidates.iter().copied().enumerate().skip(from) {
            let Some(kind) = self.slots.get(i).map(|slot| slot.tracker.kind()) else { continue };
            if kind == TrackerKind::AllDirty && required {
                break;
            }
            if !self.try_tracker(index, i, &name) {
                continue;
            }
            if self.slots.get(i).is_some_and(Slot::is_short) {
                if let Some(better) = self.better(index, position, &name) {
                    self.set_aside(index, i);
                    self.take(index, better, &name);
                    return Ok(());
                }
                if required && self.slots.get(i).is_some_and(|slot| slot.tracker.is_down()) {
                    self.set_aside(index, i);
                    continue;
                }
            }
            self.take(index, position, &name);
            return Ok(());
        }
        let note = self.users.get(index).and_then(Option::as_ref).map_or("", |user| &user.note);
        Err(err!(
            NotSupported,
            "writer {index} ({name}) must be tracked, and nothing can: {}",
            if note.is_empty() { "it was given no tracker" } else { note }
        ))
    }

    /// Starts a tracker for a writer, unless it runs; where it does not start the note says why.
    fn try_tracker(&mut self, index: usize, i: usize, name: &str) -> bool {
        let Some(slot) = self.slots.get_mut(i) else { return false };
        let started = if slot.active { Ok(()) } else { slot.start(&self.map) };
        let kind = slot.tracker.kind();
        let Err(error) = started else { return true };
        let level = if is_absent(&error) { log::Level::Info } else { log::Level::Warn };
        log::log!(target: "vfiomig::dirty", level, "writer {index} ({name}): {error}");
        self.note(index, &format!("{}: {}", kind.name(), error.message()));
        false
    }

    /// Another tracker that starts, for a writer whose log watches only a part of the memory: one
    /// that tells all. A container does not, where a device can reach all of it.
    fn better(&mut self, index: usize, position: usize, name: &str) -> Option<usize> {
        let candidates = self.users.get(index)?.as_ref()?.candidates.clone();
        let mut others = candidates.into_iter().enumerate().skip(position + 1);
        others.find_map(|(position, i)| {
            let kind = self.slots.get(i)?.tracker.kind();
            let tells = matches!(kind, TrackerKind::Hwpt | TrackerKind::Custom);
            (tells && self.try_tracker(index, i, name)).then_some(position)
        })
    }

    /// Stops a tracker that would have watched too little, unless others have it, and notes why.
    fn set_aside(&mut self, index: usize, i: usize) {
        let used = self.users.iter().flatten().any(|user| user.slot() == Some(i));
        let Some(slot) = self.slots.get_mut(i) else { return };
        let text = slot.tracker.remark().unwrap_or_default();
        let text = format!("{}: {text}", slot.tracker.kind().name());
        if !used {
            slot.active = false;
            slot.stop_or_warn();
        }
        self.note(index, &text);
    }

    /// Makes the tracker at a position, which runs, that of a writer.
    fn take(&mut self, index: usize, position: usize, name: &str) {
        let Some(user) = self.users.get_mut(index).and_then(Option::as_mut) else { return };
        user.chosen = Some(position);
        let Some(slot) = user.slot().and_then(|i| self.slots.get_mut(i)) else { return };
        slot.active = true;
        slot.failures = 0;
        slot.stats.page_size = slot.tracker.page().bytes();
        log::info!(
            target: "vfiomig::dirty",
            "writer {index} ({name}) is tracked by: {}",
            slot.tracker.kind().name()
        );
    }

    /// What else could track the writers that have a tracker.
    pub(super) fn later_kinds(&self, i: usize) -> Vec<TrackerKind> {
        let users = self.users.iter().flatten().filter(|user| user.slot() == Some(i));
        let later = users.flat_map(|user| {
            user.candidates.iter().skip(user.chosen.map_or(0, |position| position + 1))
        });
        later.filter_map(|i| self.slots.get(*i)).map(|slot| slot.tracker.kind()).collect()
    }

    fn note(&mut self, index: usize, note: &str) {
        if let Some(user) = self.users.get_mut(index).and_then(Option::as_mut) {
            user.add_note(note);
        }
    }

    /// Gives the users of a tracker that is no more their next one.
    pub(super) fn replace(&mut self, i: usize, error: &Error) {
        let kind = self.slots.get(i).map_or("", |slot| slot.tracker.kind().name());
        for index in 0..self.users.len() {
            let user = self.users.get(index).and_then(Option::as_ref);
            let Some(user) = user.filter(|user| user.slot() == Some(i)) else { continue };
            let next = user.chosen.map_or(0, |position| position + 1);
            self.note(index, &format!("{kind}: {}", error.message()));
            // Everything-dirty is the last candidate and starts always.
            if let Err(error) = self.choose(index, next, false) {
                log::error!(target: "vfiomig::dirty", "{error}");
            }
        }
        self.verify(&EVERYWHERE);
    }

    /// A page table reports nothing, and says that all went well, where a part of the range is not
    /// mapped: then all of it counts as dirty.
    pub(super) fn verify(&mut self, range: &RangeInclusive<u64>) {
        for i in 0..self.slots.len() {
            let mut from = Some(*range.start());
            while let Some(piece) = from.and_then(|from| self.map.next_writable(from, range)) {
                let Some(slot) = self.slots.get_mut(i).filter(|slot| slot.active) else { break };
                if let Some(error) = slot.find_hole(&piece) {
                    insert_or_all(&mut self.suspect, piece.range());
                    ranges::bound(&mut self.suspect, MAX_KEPT);
                    self.record(i, &piece.range(), &error);
                }
                from = piece.last.checked_add(1);
            }
        }
    }

    pub(super) fn active_slots(&self, kinds: &[TrackerKind]) -> Vec<usize> {
        let wanted = |slot: &Slot| slot.active && kinds.contains(&slot.tracker.kind());
        let slots = self.slots.iter().enumerate();
        slots.filter(|(_, slot)| wanted(slot)).map(|(i, _)| i).collect()
    }

    pub(super) fn is_active(&self, i: usize) -> bool {
        self.slots.get(i).is_some_and(|slot| slot.active)
    }

    pub(super) fn end_slot_rounds(&mut self) {
        self.slots.iter_mut().for_each(Slot::end_round);
        self.give_up_failing();
        let mapped = self.map.writable_bytes();
        // One device in a container that does not pin its pages one by one makes all of it dirty.
        let text = "every mapped page is dirty at every time: a device of the container reaches \
                    all of it";
        for i in self.active_slots(&[TrackerKind::Type1]) {
            let all = |slot: &Slot| mapped > 0 && slot.stats.last_dirty_bytes >= mapped;
            if !self.slots.get(i).is_some_and(all) {
                continue;
            }
            for user in self.users.iter_mut().flatten().filter(|user| user.slot() == Some(i)) {
                if !user.note.contains(text) {
                    user.add_note(text);
                }
            }
        }
    }
}

impl Slot {
    /// It runs and watches a part only, for as long as can be seen.
    fn is_short(&self) -> bool {
        self.tracker.is_partial() || self.tracker.is_down()
    }

    /// Why a tracker may not see all of a piece.
    pub fn find_hole(&mut self, piece: &Piece) -> Option<Error> {
        let length = piece.last - piece.first + 1;
        match self.tracker.is_mapped(piece.first, length)? {
            Ok(true) => None,
            Ok(false) => Some(err!(
                Inval,
                "the mapping at {:#x}, {length:#x} bytes, is not mapped completely in the address \
                 space of its page table",
                piece.first
            )),
            Err(errno) => Some(Error::new(
                errno.code(),
                format!(
                    "whether the mapping at {:#x}, {length:#x} bytes, is in the address space of \
                     its page table cannot be found out: {errno}",
                    piece.first
                ),
            )),
        }
    }
}

/// The `detail` of a slot that nobody has.
const VACANT: u64 = u64::MAX;

fn hwpt_detail(page: PageSize, ioas: Option<u32>) -> u64 {
    page.bytes() << 32 | u64::from(ioas.unwrap_or(0))
}
