// SPDX-License-Identifier: MIT OR Apache-2.0
//! A v1 device that is being saved: one chunk after another, in the order of accesses that the
//! kernel's header prescribes.

use super::registers::{END, Registers};
use crate::cancel::Cancel;
use crate::fsm::State;
use crate::protocol::pump::{Pump, Unit, fill};
use crate::protocol::units::Kind;
use crate::protocol::window::Window;
use crate::protocol::{Estimates, Got, NoMore};
use crate::sys::Errno;
use crate::transport::Transport;

#[derive(Default)]
pub(super) struct Saving {
    pump: Pump,
    chunk: Option<Unit>,
    /// The device does not know yet that the last chunk was taken.
    owes: bool,
    /// What was said to be pending before the chunk.
    pending: u64,
    /// The device had nothing pending once: what comes now became dirty since.
    drained: bool,
    /// It cannot go on, for this reason: a chunk may have been lost.
    broken: Option<NoMore>,
}

impl Saving {
    /// Says that the last chunk was taken, before the state changes. If that fails, the device offers
    /// it again, and the target takes it twice.
    pub fn acknowledge(&mut self, io: &mut dyn Transport, window: &Window) {
        if self.owes && self.chunk.is_none() && self.broken.is_none() {
            let _ = Registers(window).pending_bytes(io);
            self.owes = false;
        }
    }

    /// A chunk that has not been read whole comes again.
    pub fn drop_chunk(&mut self) {
        self.chunk = None;
        self.owes = false;
    }

    /// What is left. All that a device gives before it has had nothing pending once counts as its
    /// initial data.
    pub fn pending(
        &mut self,
        io: &mut dyn Transport,
        window: &Window,
        expected: State,
    ) -> Result<Estimates, Errno> {
        let bytes = match &self.chunk {
            // Asking would say that it was taken.
            Some(chunk) => self.pending.saturating_sub(chunk.done),
            None if self.broken.is_some() => return Err(Errno(libc::ENODEV)),
            None if Registers(window).state(io)? != expected => return Err(Errno(libc::ENODEV)),
            None => {
                self.owes = false;
                self.pending = Registers(window).pending_bytes(io)?;
                self.pending
            }
        };
        let bytes = bytes.min(i64::MAX as u64);
        let (initial_bytes, dirty_bytes) = if self.drained { (0, bytes) } else { (bytes, 0) };
        Ok(Estimates { initial_bytes, dirty_bytes, began_again: false })
    }

    pub fn read(
        &mut self,
        io: &mut dyn Transport,
        window: &mut Window,
        buf: &mut [u8],
        expected: State,
        cancel: &Cancel,
    ) -> Got {
        if self.broken.is_some() {
            return Got { len: 0, no_more: self.broken };
        }
        let got = fill(buf, cancel, |rest| self.step(io, window, rest, expected));
        self.broken = got.no_more.filter(|why| matches!(why, NoMore::Dead(_) | NoMore::Failed(_)));
        got
    }

    /// Reads something into `buf`, which is not empty.
    fn step(
        &mut self,
        io: &mut dyn Transport,
        window: &mut Window,
        buf: &mut [u8],
        expected: State,
    ) -> Result<usize, NoMore> {
        if self.pump.holds_some() {
            return Ok(self.pump.drain(buf));
        }
        let came = match self.chunk.take() {
            Some(chunk) => Ok(chunk),
            None => self.next_chunk(io, window, expected)?,
        };
        let came = came.and_then(|mut chunk| {
            let len = self.pump.piece(io, window, &mut chunk, buf)?;
            if chunk.left() > 0 {
                self.chunk = Some(chunk);
            }
            Ok(len)
        });
        came.map_err(|errno| match (errno.0, Registers(window).state(io)) {
            (libc::ENODEV, _) => NoMore::Dead(errno),
            // Somebody has reset the device meanwhile, and that is why.
            (_, Ok(State::Running)) if expected != State::Running => {
                NoMore::Dead(Errno(libc::ENODEV))
            }
            _ => NoMore::Failed(errno),
        })
    }

    /// Has the device prepare a chunk.
    fn next_chunk(
        &mut self,
        io: &mut dyn Transport,
        window: &Window,
        expected: State,
    ) -> Result<Result<Unit, Errno>, NoMore> {
        let registers = Registers(window);
        match registers.state(io) {
            Ok(state) if state == expected => {}
            Ok(State::Running) => return Err(NoMore::Dead(Errno(libc::ENODEV))),
            Ok(_) => return Err(NoMore::Failed(Errno(libc::EIO))),
            Err(errno) => return Ok(Err(errno)),
        }
        self.owes = false;
        let pending = registers.pending_bytes(io);
        if pending == Ok(0) {
            self.drained = true;
            return Err(match expected {
                State::StopCopy => NoMore::End,
                _ => NoMore::Drained,
            });
        }
        let chunk = pending.and_then(|pending| {
            self.pending = pending;
            let at = registers.data_offset(io)?;
            self.owes = true;
            let len = registers.data_size(io)?;
            if len == 0 || at < END || !window.has(at, len) {
                log::error!(
                    target: "vfiomig::device",
                    "the driver has {pending} bytes pending and offers {len} at {at} of a region of {}",
                    window.size()
                );
                return Err(Errno(libc::EIO));
            }
            Ok(Unit { kind: Kind::Chunk, at, len, done: 0 })
        });
        Ok(chunk)
    }
}
