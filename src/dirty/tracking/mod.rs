// SPDX-License-Identifier: MIT OR Apache-2.0
//! Dirty tracking: one address space, what writes into it, and what is dirty there.
//!
//! Pages go one way: a tracker's answer is added up with those of the others in a small buffer and
//! delivered from there. Only what cannot be delivered at once is kept. The parts that this is made of
//! have a file each, next to this folder; who calls whom is in docs/architecture.md.

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

/// Bytes of the buffer that a tracker's answer is read into: small enough to stay in a cache with
/// the sum of the answers, and large enough for memory to be read in long pieces (`make bench`).
const BUFFER: usize = 512 << 10;
const MIN_BUFFER: usize = 4 << 10;
const MAX_BUFFER: usize = 32 << 20;

/// How dirty tracking is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrackingOptions {
    /// The pages of the tracking, of 4096 bytes to 1 GiB; none: the host's. Mappings are in whole
    /// pages, and [`Memory::set_dirty`] gets them.
    pub page_size: Option<PageSize>,
    /// Bytes of the buffer that is read into at a time; 0: 512 KiB.
    pub buffer_bytes: u32,
}

/// What a call that read dirty pages has to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Synced {
    /// Something failed, and pages count as dirty because of that: [`Tracking::error`].
    pub errors: bool,
    /// Some pages are not watched by every writer's tracker, and count as dirty at every time.
    pub unwatched: bool,
}

/// Dirty tracking of one address space. See the module.
///
/// The order is: writers and mappings, [`Tracking::start`], any number of readings while mappings come
/// and go, [`Tracking::stop`]. Any order is safe.
pub struct Tracking {
    page: PageSize,
    buffer_bytes: usize,
    map: Map,
    trackers: Trackers,
    ledger: Ledger,
    delivery: Delivery,
    rounds: Rounds,
    rearm: Rearm,
    /// There while tracking is on.
    buffers: Option<Buffers>,
    cancel: Cancel,
    /// A call reads, or did not come back from that: then nobody knows what it had read.
    is_inside: bool,
    /// Whose it is: to a child after fork() its trackers would answer at its parent's cost.
    process: Process,
}

impl Tracking {
    /// Tracking over the memory of a VMM.
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

    /// The switch that cancels a reading from another thread. Bits that were not delivered are
    /// kept; stopping and starting takes it back.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Whether tracking is on.
    pub fn is_tracking(&self) -> bool {
        self.buffers.is_some()
    }

    /// Calls what reads. Where that does not come back, nothing is read any more.
    fn inside<R>(&mut self, call: impl FnOnce(&mut Tracking) -> Result<R>) -> Result<R> {
        if std::mem::replace(&mut self.is_inside, true) {
            return Err(err!(NotRecoverable, "an earlier call did not come back"));
        }
        let result = call(self);
        self.is_inside = false;
        result
    }

    /// What it takes to read, and where that goes; an error where tracking is off.
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

    /// Adds a mapping, after it has been made. While tracking is on it is watched from now on, and
    /// where a device's log cannot be extended to it, it counts as dirty until the log is started
    /// anew. The same mapping a second time changes nothing.
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

    /// Adds something that writes to memory; returns its number. While tracking is on it is tracked
    /// at once: what it wrote before must have been sent or be sent anyway.
    pub fn add_writer(&mut self, writer: Writer) -> Result<u32> {
        self.check_process()?;
        let tracked = self.buffers.is_some().then_some(&self.map);
        let number = self.trackers.add(writer, tracked)?;
        if self.is_tracking() {
            self.trackers.verify(&EVERYWHERE, &self.map, &mut self.ledger);
        }
        Ok(u32::try_from(number).unwrap_or(u32::MAX))
    }

    /// Takes a writer out, for example because its device is unplugged: what it has written to is
    /// read first and delivered later. Its number is not given out again.
    pub fn remove_writer(&mut self, number: u32) -> Result<()> {
        self.check_process()?;
        let index = number as usize;
        let tracker = self.trackers.of_writer(index)?;
        if self.is_tracking() {
            self.inside(|tracking| {
                let (Sweep { mut reading, .. }, _) = tracking.parts()?;
                // A writer that nothing tracks leaves everything dirty.
                reading.check_untracked(&EVERYWHERE);
                if let Some(tracker) = tracker {
                    reading.read_out(tracker);
                }
                // A log that was lost can be made up for by now only.
                reading.check_resets();
                Ok(())
            })?;
        }
        self.trackers.remove(index);
        Ok(())
    }

    // --- starting and stopping ---------------------------------------------------------------------

    /// Starts tracking: takes the map where the VMM can enumerate it, chooses a tracker for each
    /// writer and starts it. What was written to before is not reported: start before memory is
    /// sent for the first time. When this fails nothing is tracked.
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
        // What they missed while they were started was before the start.
        self.ledger.forget_windows();
        self.trackers.verify(&EVERYWHERE, &self.map, &mut self.ledger);
        self.trackers.begin_round();
        Ok(self.tell(&EVERYWHERE))
    }

    fn forget_pages(&mut self) {
        self.ledger.forget_pages();
        self.delivery.forget();
    }

    /// Stops tracking and forgets what was not read: read once more before, with the devices
    /// stopped. Every tracker is asked to stop; the first error is returned, and stopping again
    /// asks those that failed. Stopping what does not run is no error.
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

    /// Reads all that became dirty since the last time and gives it to [`Memory::set_dirty`]. What
    /// that refuses is kept for the next time, and the first such error is returned, after
    /// everything else has been delivered. When it is cancelled, the rest is kept.
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
    /// mapping covers stay clean. Trackers that answer for whole mappings only are asked for them
    /// each time: large spans cost less.
    pub fn sync(&mut self, span: Span, bitmap: &mut [u64]) -> Result<Synced> {
        self.check_process()?;
        self.inside(|tracking| {
            let page = tracking.page;
            let (mut sweep, _) = tracking.parts()?;
            let mut sink = CallerBitmap::new(span, bitmap, page)?;
            let asked = sink.range();
            sweep.reading.asking.ledger.pay(&asked, |part| sink.add_range(part));
            // Whole pages of the tracking: what lies beyond the range is owed.
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

    /// Starts the logs of devices anew, so that they watch mappings that came after the start. No
    /// bit is lost: in between another tracker of the writer watches, if it has one, or the device
    /// stands still; otherwise everything counts as dirty once. Where nothing has to count as dirty
    /// for it, readings do it by themselves, once per round: it takes as long as reading all of the
    /// map.
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

    /// What a reading of a range that is complete has to say.
    fn tell(&mut self, range: &RangeInclusive<u64>) -> Synced {
        let (errors, untold) = self.ledger.tell(range);
        Synced { errors, unwatched: untold || self.is_unwatched(range) }
    }

    // --- numbers -----------------------------------------------------------------------------------

    /// Dirty tracking as a whole.
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

    /// One writer; an error if it was never added or was removed.
    pub fn writer(&self, number: u32) -> Result<WriterStats> {
        self.trackers.stats(number as usize, self.is_tracking())
    }

    /// What went wrong since the start, oldest first.
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
