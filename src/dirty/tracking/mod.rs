// SPDX-License-Identifier: MIT OR Apache-2.0
//! Dirty tracking of one address space: the calls that a VMM makes.
//!
//! Pages go one way: a tracker's answer is added to those of the others in a small buffer and
//! delivered from there. Only what cannot be delivered at once is kept. Each part of this has a
//! file next to this folder; docs/architecture.md shows which calls which.

mod access;
#[cfg(test)]
mod tests;
mod unmap;

use std::ops::RangeInclusive;

use super::asking::Asking;
use super::bitmap::{PageSize, Span};
use super::buffers::Buffers;
use super::delivery::Delivery;
use super::delivery::caller_bitmap::CallerBitmap;
use super::errors::DirtyError;
use super::ledger::Ledger;
use super::map::{Map, Mapping};
use super::memory::Memory;
use super::ranges::{EVERYWHERE, RANGE_BYTES};
use super::reading::Reading;
use super::rearm::{Rearm, rearm};
use super::stats::{DirtyRound, DirtyStats, Rounds, WriterStats};
use super::sweep::Sweep;
use super::tracker::TrackerKind;
use super::trackers::Trackers;
use super::writer::Writer;
use crate::cancel::Cancel;
use crate::error::{Code, Result, err, of_another_process};
use crate::sys::{self, Process};

/// Bytes of the buffer that a tracker's answer is read into: small enough to stay in a cache
/// together with the sum of the answers, and large enough to read memory in long pieces (`make
/// bench`).
const BUFFER: usize = 512 << 10;
const MIN_BUFFER: usize = 4 << 10;
const MAX_BUFFER: usize = 32 << 20;

/// Options of dirty tracking.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrackingOptions {
    /// The page size of the tracking, from 4096 bytes to 1 GiB; none: the host's. Mappings must be
    /// in whole pages, and [`Memory::set_dirty`] is given pages of this size.
    pub page_size: Option<PageSize>,
    /// Size of the buffer that trackers' answers are read into, in bytes; 0: 512 KiB.
    pub buffer_bytes: u32,
}

/// What a call that has read dirty pages reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Synced {
    /// Something failed, and pages count as dirty because of it: see [`Tracking::error`].
    pub errors: bool,
    /// Some pages are not watched by every writer's tracker, so they always count as dirty.
    pub unwatched: bool,
}

/// Dirty tracking of one address space.
///
/// The usual order: add writers and mappings, [`Tracking::start`], any number of readings while
/// mappings come and go, [`Tracking::stop`]. Any other order is safe as well.
pub struct Tracking {
    page: PageSize,
    buffer_bytes: usize,
    map: Map,
    trackers: Trackers,
    ledger: Ledger,
    delivery: Delivery,
    rounds: Rounds,
    rearm: Rearm,
    /// These exist while tracking is on.
    buffers: Option<Buffers>,
    cancel: Cancel,
    /// Whether a call is reading, or never came back from reading. In that case nobody knows what
    /// it had read.
    is_inside: bool,
    /// The process that it belongs to. In a child after fork(), its trackers would give the child
    /// what the parent needs.
    process: Process,
}

impl Tracking {
    /// Sets up tracking of a VMM's memory. It is off until [`Tracking::start`].
    pub fn new(memory: impl Memory + 'static, options: TrackingOptions) -> Result<Tracking> {
        let page = options.page_size.or_else(|| PageSize::new(sys::page_size()));
        let page = page.filter(|page| (4096..=1 << 30).contains(&page.bytes()));
        let page = page.ok_or_else(|| err!(Inval, "pages must have from 4096 bytes to 1 GiB"))?;
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
        Ok(Tracking {
            page,
            buffer_bytes,
            map: Map::default(),
            trackers: Trackers::new(page),
            ledger: Ledger::new(page),
            delivery: Delivery::new(Box::new(memory), page),
            rounds: Rounds::new(),
            rearm: Rearm::default(),
            buffers: None,
            cancel: Cancel::default(),
            is_inside: false,
            process: Process::this(),
        })
    }

    fn check_process(&self) -> Result<()> {
        if self.process.is_this() { Ok(()) } else { Err(of_another_process("dirty tracking")) }
    }

    /// The switch with which another thread can cancel a reading. Bits that were not delivered are
    /// kept. Stopping and starting resets it.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Whether tracking is on.
    pub fn is_tracking(&self) -> bool {
        self.buffers.is_some()
    }

    /// Makes a call that reads. If one does not come back, no later call reads again.
    fn inside<R>(&mut self, call: impl FnOnce(&mut Tracking) -> Result<R>) -> Result<R> {
        if std::mem::replace(&mut self.is_inside, true) {
            return Err(err!(NotRecoverable, "an earlier call did not come back"));
        }
        let result = call(self);
        self.is_inside = false;
        result
    }

    /// Everything needed to read, and to deliver what was read. It is an error if tracking is off.
    fn parts(&mut self) -> Result<(Sweep<'_>, &mut Delivery)> {
        let Tracking { map, trackers, ledger, delivery, rounds, rearm, cancel, .. } = self;
        let Some(Buffers { answers, union, sum }) = &mut self.buffers else {
            return Err(err!(Inval, "tracking is off; start it first"));
        };
        let asking = Asking { page: self.page, map, trackers, ledger, answers };
        let reading = Reading { asking, union, sum, cancel };
        Ok((Sweep { reading, rounds, rearm }, delivery))
    }

    // --- mappings and writers ----------------------------------------------------------------------

    /// Adds a mapping, after it has been made. While tracking is on, it is watched from now on. If
    /// a device's log does not include it, it counts as dirty until the log is restarted. Adding
    /// the same mapping twice changes nothing.
    pub fn map(&mut self, mapping: Mapping) -> Result<()> {
        self.check_process()?;
        let range = if mapping.window {
            self.map.insert_window(mapping.iova, mapping.size, self.page)?
        } else {
            match self.map.insert(mapping, self.page)? {
                Some(range) => range,
                None => return Ok(()),
            }
        };
        if !self.is_tracking() {
            return Ok(());
        }
        self.map_changed(&range);
        if !mapping.window {
            self.ledger.add_missed(&self.map, &range);
            self.trackers.verify(&range, &self.map, &mut self.ledger);
        }
        Ok(())
    }

    fn map_changed(&mut self, range: &RangeInclusive<u64>) {
        self.ledger.set_room(&self.map);
        self.trackers.map_changed(&self.map, range);
    }

    /// Adds something that writes to memory, and returns its number. While tracking is on, it is
    /// tracked at once. What it wrote before that is not reported: send it otherwise.
    pub fn add_writer(&mut self, writer: Writer) -> Result<u32> {
        self.check_process()?;
        let tracked = self.buffers.is_some().then_some(&self.map);
        let number = self.trackers.add(writer, tracked)?;
        if self.is_tracking() {
            self.trackers.verify(&EVERYWHERE, &self.map, &mut self.ledger);
        }
        Ok(u32::try_from(number).unwrap_or(u32::MAX))
    }

    /// Removes a writer, for example because its device is unplugged. What it has written to is
    /// read first, and delivered later. Its number is not used again.
    pub fn remove_writer(&mut self, number: u32) -> Result<()> {
        self.check_process()?;
        let index = number as usize;
        let tracker = self.trackers.of_writer(index)?;
        if self.is_tracking() {
            self.inside(|tracking| {
                let (Sweep { mut reading, .. }, _) = tracking.parts()?;
                // If nothing tracks the writer, everything is dirty.
                reading.check_untracked(&EVERYWHERE);
                if let Some(tracker) = tracker {
                    reading.read_out(tracker);
                }
                // This is the last chance to notice that its log was lost to a reset.
                reading.check_resets();
                Ok(())
            })?;
        }
        self.trackers.remove(index);
        Ok(())
    }

    // --- starting and stopping ---------------------------------------------------------------------

    /// Starts tracking: takes over the VMM's map if it can enumerate it, chooses a tracker for each
    /// writer and starts it. What was written to before is not reported, so start before memory is
    /// sent for the first time. If this fails, nothing is tracked.
    pub fn start(&mut self) -> Result<Synced> {
        self.check_process()?;
        if self.is_tracking() {
            return Err(err!(Inval, "tracking is on"));
        }
        let buffers = Buffers::new(self.buffer_bytes)?;
        let map = self.delivery.enumerate()?;
        let old = map.map(|map| std::mem::replace(&mut self.map, map));
        self.forget_pages();
        self.ledger.forget_errors();
        self.trackers.forget();
        self.cancel.clear();
        self.rounds = Rounds::new();
        self.rearm = Rearm::default();
        self.buffers = Some(buffers);
        self.ledger.set_room(&self.map);
        if let Err(error) = self.trackers.start(&self.map) {
            if let Err(other) = self.stop() {
                log::warn!(target: "vfiomig::dirty", "{other}");
            }
            if let Some(old) = old {
                self.map = old;
            }
            return Err(error);
        }
        // What trackers missed while they were being started was written before the start.
        self.ledger.forget_windows();
        self.trackers.verify(&EVERYWHERE, &self.map, &mut self.ledger);
        self.trackers.begin_round();
        Ok(self.tell(&EVERYWHERE))
    }

    fn forget_pages(&mut self) {
        self.ledger.forget_pages();
        self.delivery.forget();
    }

    /// Stops tracking and forgets what was not read, so read once more before that, with the
    /// devices stopped. Every tracker is asked to stop, and the first error is returned; another
    /// call asks those that failed again. Stopping when tracking is off is not an error.
    pub fn stop(&mut self) -> Result<()> {
        self.check_process()?;
        let result = self.trackers.stop();
        self.forget_pages();
        self.buffers = None;
        self.is_inside = false;
        self.cancel.clear();
        result
    }

    // --- readings ----------------------------------------------------------------------------------

    /// Reads everything that became dirty since the last time, and gives it to
    /// [`Memory::set_dirty`]. What that refuses is kept for the next time, and the first such error
    /// is returned after everything else has been delivered. If the reading is cancelled, the rest
    /// is kept.
    pub fn collect(&mut self) -> Result<Synced> {
        self.check_process()?;
        self.inside(|tracking| {
            let (mut sweep, delivery) = tracking.parts()?;
            if !delivery.takes_pages() {
                return Err(err!(Inval, "there is no set_dirty to give pages to"));
            }
            let Asking { map, ledger, .. } = &mut sweep.reading.asking;
            ledger.add_owed(map, &EVERYWHERE);
            let orphans = delivery.drain();
            let mut refused = Ok(());
            let swept = sweep.over(&EVERYWHERE, true, &mut |piece, first, words, bits| {
                let given = delivery.give(piece, first, words, bits);
                if let (Ok(()), Err(error)) = (&refused, &given) {
                    refused = Err(error.clone());
                }
                given
            });
            let synced = swept.map(|()| tracking.tell(&EVERYWHERE));
            match synced.and_then(|synced| refused.map(|()| synced)) {
                Err(error) if error.code() == Code::Cancelled => Err(error),
                synced => orphans.and(synced),
            }
        })
    }

    /// Reads what became dirty in a span since the last time and adds it to `bitmap`. Pages that no
    /// mapping covers stay clean. Trackers that answer only for whole mappings are asked about all
    /// of a mapping each time, so large spans cost less.
    pub fn sync(&mut self, span: Span, bitmap: &mut [u64]) -> Result<Synced> {
        self.check_process()?;
        self.inside(|tracking| {
            let page = tracking.page;
            let (mut sweep, _) = tracking.parts()?;
            let mut sink = CallerBitmap::new(span, bitmap, page)?;
            let asked = sink.range();
            sweep.reading.asking.ledger.pay(&asked, |part| sink.add_range(part));
            // Read whole pages of the tracking. The parts beyond the range are owed.
            let mask = page.bytes() - 1;
            let range = asked.start() & !mask..=asked.end() | mask;
            let mut cut = Vec::new();
            let swept = sweep.over(&range, false, &mut |_, first, words, bits| {
                sink.add(first, words, bits);
                sink.add_cut(first, words, bits, &mut cut);
                Ok(())
            });
            for page in cut {
                tracking.ledger.owe(&tracking.map, page, &asked);
            }
            swept.map(|()| tracking.tell(&range))
        })
    }

    /// Restarts the logs of devices, so that they watch mappings that were added after the start.
    /// No bit is lost: meanwhile another tracker of the writer watches, if it has one, or the
    /// device stands still; otherwise everything counts as dirty once. If nothing has to count as
    /// dirty because of it, readings restart logs by themselves, once per round, since it takes as
    /// long as reading all of the map.
    pub fn rearm(&mut self) -> Result<Synced> {
        self.check_process()?;
        self.inside(|tracking| {
            let before = tracking.ledger.total_errors();
            let (Sweep { mut reading, .. }, _) = tracking.parts()?;
            for i in reading.asking.trackers.active_of(&[TrackerKind::DeviceLog]) {
                rearm(i, false, &mut reading);
            }
            let errors = tracking.ledger.total_errors() > before;
            Ok(Synced { errors, unwatched: tracking.is_unwatched(&EVERYWHERE) })
        })
    }

    fn is_unwatched(&self, range: &RangeInclusive<u64>) -> bool {
        self.ledger.is_suspect(range) || self.trackers.is_blind(range)
    }

    /// What a complete reading of a range reports.
    fn tell(&mut self, range: &RangeInclusive<u64>) -> Synced {
        let (errors, untold) = self.ledger.tell(range);
        Synced { errors, unwatched: untold || self.is_unwatched(range) }
    }

    // --- numbers -----------------------------------------------------------------------------------

    /// The statistics of dirty tracking as a whole.
    pub fn stats(&self) -> DirtyStats {
        let kept = self.ledger.footprint() + self.delivery.footprint();
        let buffers = self.buffers.as_ref().map_or(0, Buffers::footprint);
        let ranges = (self.ledger.num_ranges() + self.rounds.num_ranges()) * RANGE_BYTES;
        DirtyStats {
            mapped_bytes: self.map.bytes(),
            memory_bytes: kept + (buffers + self.trackers.footprint() + ranges) as u64,
            errors: self.ledger.total_errors(),
            ..self.rounds.totals()
        }
    }

    /// The newest rounds over the map, oldest first.
    pub fn rounds(&self) -> Vec<DirtyRound> {
        self.rounds.history().collect()
    }

    /// How many writers were ever added.
    pub fn num_writers(&self) -> u32 {
        u32::try_from(self.trackers.num_writers()).unwrap_or(u32::MAX)
    }

    /// The statistics of one writer. It is an error if it was never added, or was removed.
    pub fn writer(&self, number: u32) -> Result<WriterStats> {
        self.trackers.stats(number as usize, self.is_tracking())
    }

    /// What went wrong since the start, by number, oldest first.
    pub fn error(&self, index: usize) -> Option<&DirtyError> {
        self.ledger.error(index)
    }

    /// How many errors are kept.
    pub fn num_errors(&self) -> usize {
        self.ledger.num_errors()
    }
}

impl Drop for Tracking {
    fn drop(&mut self) {
        if !self.process.is_this() {
            return;
        }
        if let Err(error) = self.stop() {
            log::warn!(target: "vfiomig::dirty", "{error}");
        }
    }
}
