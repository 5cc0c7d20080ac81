// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device of the RFC that is being saved: snapshots of its memory, each through a window in chunks,
//! then its configuration.

use super::regions::Regions;
use super::registers::Action;
use super::snapshot::Snapshot;
use crate::cancel::Cancel;
use crate::protocol::pump::{Pump, Unit, fill};
use crate::protocol::units::Kind;
use crate::protocol::{Estimates, Got, NoMore};
use crate::sys::Errno;
use crate::transport::Transport;

/// Snapshots that a stopped device, in which nothing changes, may have. Each is smaller than the one
/// before.
const MOST: u32 = 256;

#[derive(Default)]
pub(super) struct Saving {
    pump: Pump,
    unit: Option<Unit>,
    /// The snapshot under way, and how much of it the device was asked for.
    snapshot: Option<(Snapshot, u64)>,
    /// A snapshot was dropped half way: the next one has to have all of it.
    dropped: bool,
    /// The device has given some of its memory.
    given: bool,
    /// A snapshot was read whole: those after it have what became dirty since.
    again: bool,
    configured: bool,
    /// LOGGING is not set: a snapshot has all of the memory each time, and one is enough.
    before_logging: bool,
    /// Such a one was read whole: nobody has been told.
    whole_read: bool,
    /// A snapshot of the running device was read whole: nobody has been told.
    round_over: bool,
    /// The length of the first snapshot, which had all of the memory.
    whole: Option<u64>,
    /// Snapshots of the stopped device, and how long the last one was.
    stopped: (u32, Option<u64>),
    /// The device was reset, as far as anyone can tell.
    was_reset: bool,
    /// It cannot go on, for this reason: a part may have been lost.
    broken: Option<NoMore>,
}

impl Saving {
    pub fn new(before_logging: bool) -> Saving {
        Saving { before_logging, ..Saving::default() }
    }

    /// Whether LOGGING is to be set once all of the memory has been read.
    pub fn is_before_logging(&self) -> bool {
        self.before_logging && !self.again
    }

    /// Whether all of a running device's memory was read, so that LOGGING is to be set. Says so once.
    pub fn take_whole(&mut self) -> bool {
        let whole = std::mem::take(&mut self.whole_read);
        self.before_logging &= !whole;
        whole
    }

    /// The device has been stopped. A snapshot of which it was asked for all chunks counts as given,
    /// and stays where it is until the next one: the rest of that is read. Any other is dropped.
    pub fn stopped(&mut self) {
        if self.snapshot.take_if(|(snapshot, asked)| *asked < snapshot.size).is_some() {
            self.unit = None;
            self.dropped = true;
        }
    }

    /// Whether the device must be taken for one that was reset. Says so once.
    pub fn take_reset(&mut self) -> bool {
        std::mem::take(&mut self.was_reset)
    }

    /// What is left of the snapshot under way; nothing more is known, as asking takes another one.
    pub fn pending(&self) -> Option<Estimates> {
        let (snapshot, asked) = self.snapshot.as_ref()?;
        let unread = self.unit.as_ref().map_or(0, Unit::left);
        let bytes = snapshot.size.saturating_sub(*asked).saturating_add(unread);
        let (initial_bytes, dirty_bytes) = if self.again { (0, bytes) } else { (bytes, 0) };
        Some(Estimates { initial_bytes, dirty_bytes, began_again: false })
    }

    pub fn read(
        &mut self,
        io: &mut dyn Transport,
        regions: &mut Regions,
        buf: &mut [u8],
        stopped: bool,
        cancel: &Cancel,
    ) -> Got {
        if self.broken.is_some() {
            return Got { len: 0, no_more: self.broken };
        }
        // A device that is busy, or was reset, has something again each time.
        if std::mem::take(&mut self.round_over) && !stopped {
            return Got { len: 0, no_more: Some(NoMore::Drained) };
        }
        let got = fill(buf, cancel, |rest| self.step(io, regions, rest, stopped));
        self.broken = got.no_more.filter(|why| matches!(why, NoMore::Dead(_) | NoMore::Failed(_)));
        self.was_reset = stopped && self.broken.is_some() && !self.is_still_logging(io, regions);
        got
    }

    /// Whether a stopped device that has failed is known not to have been reset. Without LOGGING, it
    /// would have all of its memory again: so it has nothing, or what it had before, and that is a part.
    fn is_still_logging(&self, io: &mut dyn Transport, regions: &Regions) -> bool {
        if regions.memory.is_none() {
            return false;
        }
        let again = self.snapshot.is_some().then_some(self.stopped.1).flatten();
        match regions.registers().snapshot(io) {
            Ok(0) => true,
            Ok(size) => again == Some(size) && self.whole.is_some_and(|whole| size < whole),
            Err(_) => false,
        }
    }

    /// Reads something into `buf`, which is not empty.
    fn step(
        &mut self,
        io: &mut dyn Transport,
        regions: &mut Regions,
        buf: &mut [u8],
        stopped: bool,
    ) -> Result<usize, NoMore> {
        if self.pump.holds_some() {
            return Ok(self.pump.drain(buf));
        }
        self.piece(io, regions, buf, stopped).map_err(failed)?
    }

    fn piece(
        &mut self,
        io: &mut dyn Transport,
        regions: &mut Regions,
        buf: &mut [u8],
        stopped: bool,
    ) -> Result<Result<usize, NoMore>, Errno> {
        if self.unit.is_none() {
            if let Err(why) = self.next_unit(io, regions, stopped)? {
                return Ok(Err(why));
            }
        }
        // The beginning of a snapshot lies in no region.
        let Some(unit) = &mut self.unit else { return Ok(Ok(self.pump.drain(buf))) };
        let window = match (unit.kind, &mut regions.memory) {
            (Kind::Memory, Some(memory)) => memory,
            _ => &mut regions.config,
        };
        let len = self.pump.piece(io, window, unit, buf)?;
        if unit.left() == 0 {
            self.unit = None;
            if self.snapshot.take_if(|(snapshot, asked)| *asked == snapshot.size).is_some() {
                self.whole_read = self.before_logging && !stopped;
                (self.again, self.round_over) = (true, true);
            }
        }
        Ok(Ok(len))
    }

    /// Has the device prepare what comes next: a unit, or the beginning of a snapshot.
    fn next_unit(
        &mut self,
        io: &mut dyn Transport,
        regions: &Regions,
        stopped: bool,
    ) -> Result<Result<(), NoMore>, Errno> {
        if let Some((snapshot, asked)) = &mut self.snapshot {
            let len = snapshot.chunk_at(*asked);
            regions.registers().chunk(io, *asked, Action::Get)?;
            *asked += len;
            self.given = true;
            self.unit = Some(Unit { kind: Kind::Memory, at: 0, len, done: 0 });
            return Ok(Ok(()));
        }
        if self.round_over && !stopped {
            return Ok(Err(NoMore::Drained));
        }
        // A stopped device has the same again each time, if LOGGING is not set.
        let is_over = self.before_logging && self.again;
        if !is_over && self.begin_snapshot(io, regions, stopped)? {
            return Ok(Ok(()));
        }
        if !stopped {
            return Ok(Err(NoMore::Drained));
        }
        if self.configured {
            return Ok(Err(NoMore::End));
        }
        if self.dropped || (regions.memory.is_some() && !self.given) {
            let what = "the driver gives nothing of the device's memory that has not been read";
            log::error!(target: "vfiomig::device", "{what}");
            return Err(Errno(libc::EIO));
        }
        self.take_config(io, regions).map(Ok)
    }

    /// Takes a snapshot of the device's memory; returns whether there is anything in it.
    fn begin_snapshot(
        &mut self,
        io: &mut dyn Transport,
        regions: &Regions,
        stopped: bool,
    ) -> Result<bool, Errno> {
        let Some(memory) = &regions.memory else { return Ok(false) };
        let size = regions.registers().snapshot(io)?;
        if size == 0 {
            return Ok(false);
        }
        let (mut number, before) = self.stopped;
        let repeats = stopped && before.is_some_and(|before| size >= before);
        // It was at its end, or gave everything before: only a device that was reset has that again.
        if self.configured || (repeats && self.whole.is_some_and(|whole| size >= whole)) {
            return Err(Errno(libc::ENODEV));
        }
        number += u32::from(stopped);
        if size > i64::MAX as u64 || repeats || number > MOST {
            log::error!(
                target: "vfiomig::device",
                "the driver has {size} bytes of memory, after {number} snapshots while it was stopped"
            );
            return Err(Errno(libc::EIO));
        }
        self.whole.get_or_insert(size);
        self.stopped = (number, stopped.then_some(size));
        let snapshot = Snapshot { size, window: memory.size() };
        self.pump.put(Kind::Snapshot, &snapshot.encode());
        self.snapshot = Some((snapshot, 0));
        self.dropped = false;
        Ok(true)
    }

    fn take_config(&mut self, io: &mut dyn Transport, regions: &Regions) -> Result<(), Errno> {
        let len = regions.registers().config_size(io)?;
        if len == 0 || !regions.config.has(0, len) {
            log::error!(
                target: "vfiomig::device",
                "the driver claims a configuration of {len} bytes in a region of {}",
                regions.config.size()
            );
            return Err(Errno(libc::EIO));
        }
        regions.registers().config(io, Action::Get)?;
        self.configured = true;
        self.unit = Some(Unit { kind: Kind::Config, at: 0, len, done: 0 });
        Ok(())
    }
}

fn failed(errno: Errno) -> NoMore {
    match errno.0 {
        libc::ENODEV => NoMore::Dead(errno),
        _ => NoMore::Failed(errno),
    }
}
