// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ring of the last events, and how it is read.

use std::fmt;
use std::sync::{Arc, PoisonError};

use super::queue::{Event, Listeners, Queue};
use super::record::{About, Entry, History, Note, Record, Short, What};
use super::show::{self, Format};
use crate::alloc;
use crate::error::{Result, err};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::{Process, monotonic_ns};

/// How many events are kept of a device.
pub const LAST: usize = 64;

/// What ends in an error may be repeated by somebody who polls a dead device. Up to so many events
/// are then kept once, so that they do not drive out what has killed it.
const LONGEST_REPEATED: usize = 8;

/// Keeps the last events.
pub(crate) struct Recorder {
    about: About,
    /// In a child after fork(), another thread may have had the lock: nothing is recorded there.
    process: Process,
    ring: Mutex<Ring>,
    /// The newest session that was cancelled while somebody else had the lock, until it is recorded;
    /// 0: none.
    cancelled: AtomicU64,
}

#[derive(Default)]
struct Ring {
    /// Has its memory from the beginning, or none. Full, it goes on at `recorded` modulo its length.
    records: Vec<Record>,
    /// How many of them count, up to the newest.
    kept: usize,
    recorded: u64,
    /// How many sessions have begun.
    sessions: u64,
    /// The session that has begun and has neither ended nor been cancelled, counted from 1.
    open: Option<u64>,
    listeners: Listeners,
}

impl Recorder {
    /// Where there is no memory for it, nothing is kept: a device is of use without its history.
    pub fn new(driver: &str, name: &str) -> Recorder {
        let mut records = Vec::new();
        let _ = alloc::reserve(&mut records, LAST, "no memory for a device's history");
        let ring = Mutex::new(Ring { records, ..Ring::default() });
        let (driver, name) = (Short::of(driver), Short::of(name));
        let about = About { driver, name, ..About::default() };
        Recorder { about, process: Process::this(), ring, cancelled: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.cancel(self.cancelled.swap(0, Ordering::Relaxed));
        ring
    }

    #[cfg(test)]
    pub fn hold(&self) -> impl Drop + '_ {
        self.lock()
    }

    /// Keeps what happened, in place of the oldest event if there are many.
    pub fn record(&self, note: &Note) {
        if !self.process.is_this() {
            return;
        }
        let mut ring = self.lock();
        // Under the lock, so that times follow each other as numbers do.
        ring.record(monotonic_ns(), note);
    }

    /// Keeps that a session has begun. Returns its number, which no other session of the device has.
    pub fn begin(&self, note: &Note) -> u64 {
        if !self.process.is_this() {
            return 0;
        }
        let mut ring = self.lock();
        ring.sessions += 1;
        ring.open = Some(ring.sessions);
        ring.record(monotonic_ns(), note);
        ring.sessions
    }

    /// The same, unless that is what was recorded last.
    pub fn record_once(&self, note: &Note) {
        if !self.process.is_this() {
            return;
        }
        let mut ring = self.lock();
        if ring.last().is_none_or(|last| last.note != *note) {
            ring.record(monotonic_ns(), note);
        }
    }

    /// Keeps that this session is cancelled, once, if it is open: what is over may be cancelled as
    /// well, and nothing comes of it. Never waits: if somebody is at it, whoever takes the lock
    /// next records it.
    pub fn cancelled(&self, session: u64) {
        if !self.process.is_this() {
            return;
        }
        self.cancelled.fetch_max(session, Ordering::Relaxed);
        if let Ok(mut ring) = self.ring.try_lock() {
            let newest = self.cancelled.load(Ordering::Relaxed);
            if ring.try_cancel(newest) {
                // Unless a newer one has come meanwhile.
                let (from, to) = (Ordering::Relaxed, Ordering::Relaxed);
                let _ = self.cancelled.compare_exchange(newest, 0, from, to);
            }
        }
    }

    /// The queue that is told of what happens from now on, if it was asked for.
    pub fn queue(&self) -> Option<Arc<Queue>> {
        self.lock().listeners.own().cloned()
    }

    #[cfg(test)]
    pub fn queue_unseen(&self) -> Arc<Queue> {
        let ring = self.ring.lock().unwrap();
        Arc::clone(ring.listeners.own().unwrap())
    }

    /// Tells this queue from now on, unless it has one already; returns the one that it has.
    pub fn set_queue(&self, queue: Arc<Queue>) -> Arc<Queue> {
        Arc::clone(self.lock().listeners.set_own(queue))
    }

    /// Tells its queue no more, and returns it.
    pub fn take_queue(&self) -> Option<Arc<Queue>> {
        self.lock().listeners.take_own()
    }

    /// Its queue, made if there is none yet.
    pub fn make_queue(&self, devices: usize) -> Result<Arc<Queue>> {
        if let Some(queue) = self.queue() {
            return Ok(queue);
        }
        // Without the lock: this takes system calls.
        Ok(self.set_queue(Arc::new(Queue::new(devices)?)))
    }

    /// What is readable while there are events to be fetched, which are queued from now on.
    pub fn event_fd(&self) -> Result<i32> {
        Ok(self.make_queue(1)?.fd())
    }

    /// The oldest event that waits to be fetched.
    pub fn next_event(&self) -> Result<Event> {
        let Some(queue) = self.queue() else {
            return Err(err!(NoData, "no events are queued before their descriptor was asked for"));
        };
        queue.next().ok_or_else(|| err!(Again, "there is no event"))
    }

    /// The device is in a group now, as the one with this number: its queue is told as well, and
    /// those of other groups that it is in.
    pub fn join(&self, number: u32, queue: Arc<Queue>) -> Result<()> {
        self.lock().listeners.join(number, queue)
    }

    /// It is in that group no longer.
    pub fn leave(&self, queue: &Arc<Queue>) {
        self.lock().listeners.leave(queue);
    }

    /// What is kept, from the oldest event to the newest.
    pub fn history(&self) -> Result<History> {
        merge([(None, self)])
    }

    /// A copy, on the stack: nobody waits while it is written into memory of the caller's, which may
    /// have to be brought from a disk first.
    fn copy(&self) -> (About, [Option<Record>; LAST]) {
        let ring = self.lock();
        let about = About { recorded: ring.recorded, ..self.about };
        (about, std::array::from_fn(|index| ring.get(index).filter(|_| index < ring.kept).copied()))
    }

    /// Writes what is kept, without needing memory for it: as many of the newest events as fit, and
    /// a NUL. Returns how long that is, without the NUL.
    pub fn write(&self, format: Format, out: &mut [u8]) -> Result<usize> {
        let (about, records) = self.copy();
        let entry = |index: usize| Some((None, records.get(index)?.as_ref()?));
        show::fit(format, &[about], records.iter().flatten().count(), &entry, out)
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

impl Ring {
    fn place(&self, number: u64) -> usize {
        usize::try_from(number % LAST as u64).unwrap_or_default()
    }

    /// By age: the oldest is number 0.
    fn get(&self, index: usize) -> Option<&Record> {
        let oldest = self.recorded.saturating_sub(self.kept as u64);
        self.records.get(self.place(oldest + index as u64))
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut Record> {
        let oldest = self.recorded.saturating_sub(self.kept as u64);
        let place = self.place(oldest + index as u64);
        self.records.get_mut(place)
    }

    fn last(&mut self) -> Option<&mut Record> {
        self.get_mut(self.kept.checked_sub(1)?)
    }

    fn cancel(&mut self, session: u64) {
        if self.open == Some(session) {
            self.open = None;
            self.record(monotonic_ns(), &Note::of(What::Cancelled));
        }
    }

    /// The same, without waiting for anybody; false: it could not be.
    fn try_cancel(&mut self, session: u64) -> bool {
        if self.open == Some(session) {
            let (now, note) = (monotonic_ns(), Note::of(What::Cancelled));
            if !self.listeners.try_tell(now, &note) {
                return false;
            }
            self.open = None;
            self.keep(now, &note);
        }
        true
    }

    fn record(&mut self, at_ns: u64, note: &Note) {
        if let What::SaveEnded | What::Committed | What::LoadAbandoned | What::LoadFailed =
            note.what
        {
            self.open = None;
        }
        self.listeners.tell(at_ns, note);
        self.keep(at_ns, note);
    }

    fn keep(&mut self, at_ns: u64, note: &Note) {
        if self.last().is_some_and(|last| last.absorb(at_ns, note)) {
            return;
        }
        let record = Record { number: self.recorded, at_ns, times: 1, note: *note };
        let place = self.place(self.recorded);
        let has_room = self.records.len() < self.records.capacity();
        self.recorded += 1;
        match self.records.get_mut(place) {
            Some(oldest) => *oldest = record,
            None if has_room => self.records.push(record),
            None => return,
        }
        self.kept = LAST.min(self.kept + 1);
        if note.is_error() {
            self.fold();
        }
    }

    /// If the newest events are a repetition of those before them, they are kept once.
    fn fold(&mut self) {
        let kept = self.kept;
        let repeats = |len: &usize| {
            (kept - len..kept).all(|at| match (self.get(at), self.get(at - len)) {
                (Some(later), Some(earlier)) => later.is_like(earlier),
                _ => false,
            })
        };
        let Some(len) = (1..=LONGEST_REPEATED.min(kept / 2)).find(repeats) else { return };
        for at in kept - len..kept {
            let Some(later) = self.get(at).copied() else { return };
            if let Some(earlier) = self.get_mut(at - len) {
                earlier.repeat(&later);
            }
        }
        self.kept -= len;
        self.recorded -= len as u64;
    }
}

/// What several recorders have kept, in the order of time.
pub(crate) fn merge<'a>(
    recorders: impl IntoIterator<Item = (Option<u32>, &'a Recorder)>,
) -> Result<History> {
    const NONE: &str = "no memory for a history";
    let mut history = History::default();
    for (device, recorder) in recorders {
        alloc::grow(&mut history.entries, LAST, NONE)?;
        let ring = recorder.lock();
        let about = About { device, recorded: ring.recorded, ..recorder.about };
        let records = (0..ring.kept).filter_map(|index| ring.get(index));
        history.entries.extend(records.map(|record| Entry { device, record: *record }));
        drop(ring);
        alloc::push(&mut history.about, about, NONE)?;
    }
    let order = |entry: &Entry| (entry.record.at_ns, entry.device, entry.record.number);
    history.entries.sort_unstable_by_key(order);
    Ok(history)
}
