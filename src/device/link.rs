// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way to a device: its transport, and the protocol over it, which owns the data stream.
//!
//! Asks and tells, and remembers nothing. What an answer says of the device is up to those above.

use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::error::Errno;
use crate::fsm::State;
use crate::identity::protocol;
use crate::protocol::{Changed, Estimates, Got, PageLog, Patience, Protocol, WriteFailed};
use crate::transport::{Bitmap, Direction, Dma, DmaLog, IovaRange, PageSize, Transport};

/// How long a reset is retried while something else holds the device's lock: error recovery and a
/// neighbour's resets take tens to hundreds of milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// The pages of a protocol's own log, in bytes.
const OWN_PAGE: u64 = 4096;
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

type Answer<T> = std::result::Result<T, Errno>;

pub(super) struct Link {
    transport: Box<dyn Transport>,
    protocol: Box<dyn Protocol>,
}

impl Link {
    pub fn new(transport: Box<dyn Transport>, protocol: Box<dyn Protocol>) -> Link {
        Link { transport, protocol }
    }

    /// Which protocol the device is migrated with: a number of [`crate::identity::protocol`].
    pub fn generation(&self) -> u32 {
        self.protocol.generation()
    }

    /// The ioctl behind a request of the protocol's, of which `v2` is that of the newest; 0: none.
    pub fn ioctl(&self, v2: u32) -> u32 {
        if self.generation() == protocol::V2 { v2 } else { 0 }
    }

    // --- the device's state ------------------------------------------------------------------------

    /// Asks the device where it is.
    pub fn state(&mut self) -> Answer<State> {
        self.protocol.state(self.transport.as_mut())
    }

    /// Requests a change of state; `opens_data` says whether the way there opens a data stream.
    pub fn request(&mut self, to: State, opens_data: bool) -> Changed {
        self.protocol.set_state(self.transport.as_mut(), to, opens_data)
    }

    /// `VFIO_DEVICE_RESET`, retried for a while if something else holds the device's lock.
    pub fn reset(&mut self) -> Answer<()> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            match self.transport.reset() {
                Err(Errno(libc::EAGAIN | libc::EBUSY | libc::EINTR))
                    if start.elapsed() < PATIENCE =>
                {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                done => {
                    if done.is_ok() {
                        self.note_reset();
                    }
                    return done;
                }
            }
        }
    }

    /// The device has been reset.
    pub fn note_reset(&mut self) {
        self.protocol.was_reset(self.transport.as_mut());
    }

    /// Whether the device's state is a mere assumption.
    pub fn assumes(&self) -> bool {
        self.protocol.assumes()
    }

    /// Takes a device of which nobody knows where it is to RUNNING; returns whether it is there.
    pub fn leave_unknown(&mut self) -> bool {
        self.protocol.leave_unknown(self.transport.as_mut())
    }

    /// Whether a reset may leave the device in its migration state, or be refused in it.
    pub fn keeps_state_over_reset(&self) -> bool {
        self.transport.keeps_state_over_reset()
    }

    /// The driver's present estimate of the stop-copy stream, in bytes.
    pub fn size(&mut self) -> Option<u64> {
        self.protocol.size(self.transport.as_mut()).ok().flatten()
    }

    // --- the data stream ---------------------------------------------------------------------------

    pub fn has_data(&self) -> bool {
        self.protocol.has_data()
    }

    /// Closes the data stream, if one is open.
    pub fn close(&mut self) {
        self.protocol.close(self.transport.as_mut());
    }

    pub fn poll_fd(&self) -> Option<i32> {
        self.protocol.poll_fd(self.transport.as_ref())
    }

    pub fn set_nonblocking(&mut self) -> Answer<()> {
        self.protocol.set_nonblocking(self.transport.as_mut())
    }

    pub fn read(&mut self, buf: &mut [u8], stopped: bool, cancel: &Cancel) -> Got {
        self.protocol.read(self.transport.as_mut(), buf, stopped, cancel)
    }

    pub fn write(&mut self, buf: &[u8], patience: &Patience<'_>) -> Result<(), WriteFailed> {
        self.protocol.write(self.transport.as_mut(), buf, patience)
    }

    pub fn wait(&mut self, direction: Direction, timeout: Duration) {
        self.protocol.wait(self.transport.as_mut(), direction, timeout);
    }

    /// Estimates of a device in pre-copy.
    pub fn pending(&mut self) -> Answer<Option<Estimates>> {
        self.protocol.pending(self.transport.as_mut())
    }

    // --- the log -----------------------------------------------------------------------------------

    /// The DMA log, if it can be used in parallel with everything else.
    pub fn dma_log(&mut self) -> Option<Box<dyn DmaLog>> {
        // The protocol's own moves with the device's state.
        if self.protocol.log().is_some() { None } else { self.transport.dma_log() }
    }

    /// Makes a call on the DMA log, in turn with everything else.
    pub fn with_log<T>(&mut self, call: impl FnOnce(&mut dyn DmaLog) -> Answer<T>) -> Answer<T> {
        if let Some(log) = self.protocol.log() {
            return call(&mut OfProtocol { io: self.transport.as_mut(), log });
        }
        call(self.transport.dma_log_in_turn().ok_or(Errno(libc::ENOTTY))?)
    }

    /// The guest's memory as the device has it.
    pub fn dma(&mut self) -> Option<&mut dyn Dma> {
        self.transport.dma()
    }

    /// Whether all of the device's memory is read before its changes are logged.
    pub fn full_before_logging(&mut self, on: bool) {
        self.protocol.full_before_logging(on);
    }
}

/// A protocol's own log.
struct OfProtocol<'a> {
    io: &'a mut dyn Transport,
    log: &'a mut dyn PageLog,
}

impl DmaLog for OfProtocol<'_> {
    fn start(&mut self, _: PageSize, _: &[IovaRange]) -> Answer<u64> {
        self.log.start(self.io).map(|()| OWN_PAGE)
    }

    fn stop(&mut self) -> Answer<()> {
        self.log.stop(self.io)
    }

    fn report(&mut self, bitmap: &mut Bitmap<'_>) -> Answer<()> {
        self.log.report(self.io, bitmap)
    }
}
