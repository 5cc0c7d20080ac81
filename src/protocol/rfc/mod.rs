// SPDX-License-Identifier: MIT OR Apache-2.0
//! The protocol of the RFC of February 2019: a region with fields, one for the device's configuration,
//! and a window to its memory, if it has some.
//!
//! The state can be written and not read, so this remembers what was written, and has to be told of
//! resets. A write that fails leaves a state that nobody knows, which only a reset leads out of; and
//! after a reset, RUNNING is written, because servers keep the state over resets.

mod loading;
mod pages;
mod regions;
mod registers;
mod saving;
mod snapshot;

use super::{
    Changed, Estimates, Got, NoMore, PageLog, Patience, Protocol, WriteFailed, not_loaded,
};
use crate::cancel::Cancel;
use crate::fsm::{MigrationFlags, State};
use crate::identity;
use crate::sys::Errno;
use crate::transport::{Bitmap, Transport};
use loading::Loading;
use pages::Log;
pub(crate) use regions::Parts;
use regions::Regions;
use saving::Saving;

/// The RFC's protocol of one device.
pub(crate) struct Rfc {
    regions: Regions,
    session: Session,
    /// Where the device is. None: nobody knows.
    at: Option<State>,
    /// That was written, and not assumed.
    written: bool,
    /// LOGGING is set.
    logging: bool,
    /// Since it was, memory was read: what is read next is not all of it.
    begun: bool,
    log: Log,
    /// All of the memory is read before LOGGING is set, as in the protocol's letter.
    full_first: bool,
}

/// A device has one of these, for as long as it lives.
#[allow(clippy::large_enum_variant)]
enum Session {
    None,
    Saving(Saving),
    Loading(Loading),
}

impl Rfc {
    /// The protocol over regions of its type, or why they cannot be used.
    pub fn new(io: &mut dyn Transport, parts: Parts) -> Result<Rfc, String> {
        let regions = Regions::new(io, parts)?;
        // Where a device begins. That an earlier owner has stopped it cannot be seen.
        Ok(Rfc {
            regions,
            session: Session::None,
            at: Some(State::Running),
            written: false,
            logging: false,
            begun: false,
            log: Log::default(),
            full_first: false,
        })
    }

    /// Writes the state. A session that reads the device needs LOGGING, and so does a log.
    fn put(&mut self, io: &mut dyn Transport, to: State) -> Result<(), Errno> {
        let logged = self.log.is_on() && matches!(to, State::Running | State::Stop);
        self.put_as(io, to, logged || matches!(to, State::PreCopy | State::StopCopy))
    }

    fn put_as(&mut self, io: &mut dyn Transport, to: State, logging: bool) -> Result<(), Errno> {
        (self.at, self.written) = (None, false);
        // Whether it is set is as unknown as the state if this fails.
        if !logging {
            self.log.is_interrupted();
        }
        self.regions.registers().set_state(io, to, logging)?;
        self.begun &= self.logging && logging;
        (self.at, self.written, self.logging) = (Some(to), true, logging);
        Ok(())
    }

    /// Takes the device to a state in which it is read from its beginning.
    fn put_from_the_beginning(&mut self, io: &mut dyn Transport, to: State) -> Result<(), Errno> {
        let full_first = self.full_first && self.regions.memory.is_some();
        if full_first || self.begun {
            // All memory counts as changed when LOGGING is set.
            let plain = if full_first { to } else { self.at.unwrap_or(to) };
            self.put_as(io, plain, false)?;
        }
        if full_first { Ok(()) } else { self.put(io, to) }
    }

    /// The device was reset.
    fn forget(&mut self) {
        (self.logging, self.begun) = (false, false);
        self.log.stop();
    }
}

/// LOGGING stays set while the log runs.
impl PageLog for Rfc {
    fn start(&mut self, io: &mut dyn Transport) -> Result<(), Errno> {
        match self.at {
            _ if self.logging => self.log.start(),
            Some(at @ (State::Running | State::Stop)) => {
                self.log.start();
                if let Err(errno) = self.put(io, at) {
                    self.log.stop();
                    let _ = self.put(io, at);
                    return Err(errno);
                }
            }
            // Memory is read, or written, for which LOGGING must not be set.
            _ => return Err(Errno(libc::EBUSY)),
        }
        if let Some(bitmap) = &mut self.regions.bitmap {
            bitmap.map(io);
        }
        Ok(())
    }

    fn stop(&mut self, io: &mut dyn Transport) -> Result<(), Errno> {
        self.log.stop();
        if let Some(bitmap) = &mut self.regions.bitmap {
            bitmap.unmap();
        }
        match self.at {
            Some(at @ (State::Running | State::Stop)) if self.logging => self.put(io, at),
            _ => Ok(()),
        }
    }

    fn report(&mut self, io: &mut dyn Transport, bitmap: &mut Bitmap<'_>) -> Result<(), Errno> {
        let Regions { control, bitmap: pages, .. } = &mut self.regions;
        let Some(pages) = pages else { return Err(Errno(libc::ENOTTY)) };
        let reported = self.log.report(io, registers::Registers(control), pages, bitmap);
        // Whatever the driver calls it, what it had may be gone.
        reported.map_err(|_| Errno(libc::EIO))
    }
}

impl Protocol for Rfc {
    fn generation(&self) -> u32 {
        identity::protocol::RFC
    }

    fn probe(&mut self, io: &mut dyn Transport) -> Result<MigrationFlags, Errno> {
        self.regions.registers().version(io)?;
        Ok(MigrationFlags::STOP_COPY | MigrationFlags::PRE_COPY)
    }

    fn state(&mut self, _: &mut dyn Transport) -> Result<State, Errno> {
        self.at.ok_or(Errno(libc::EIO))
    }

    fn set_state(&mut self, io: &mut dyn Transport, to: State, opens_data: bool) -> Changed {
        if let Session::Loading(loading) = &self.session {
            if matches!(to, State::Stop | State::Running) && !loading.is_complete() {
                return Changed::Broken("the data ended before the device's configuration did");
            }
        }
        let put = match (&self.session, to) {
            _ if opens_data && to != State::Resuming => self.put_from_the_beginning(io, to),
            // What is read in STOP is the whole, which it has not had yet.
            (Session::Saving(saving), State::StopCopy) if saving.is_before_logging() => {
                self.put_as(io, to, false)
            }
            _ => self.put(io, to),
        };
        if let Err(errno) = put {
            return Changed::Refused(errno);
        }
        if opens_data {
            self.regions.map(io);
            self.session = match to {
                State::Resuming => Session::Loading(Loading::default()),
                _ => Session::Saving(Saving::new(!self.logging)),
            };
        } else if !to.has_data_stream() {
            self.close(io);
        } else if let Session::Saving(saving) = &mut self.session {
            saving.stopped();
        }
        Changed::Done
    }

    fn was_reset(&mut self, io: &mut dyn Transport) {
        self.forget();
        // That a failure leaves the state unknown is what there is to say.
        let _ = self.put(io, State::Running);
    }

    fn assumes(&self) -> bool {
        self.at.is_some() && !self.written
    }

    fn full_before_logging(&mut self, on: bool) {
        self.full_first = on;
    }

    fn log(&mut self) -> Option<&mut dyn PageLog> {
        self.regions.bitmap.as_ref()?;
        Some(self)
    }

    fn leave_unknown(&mut self, io: &mut dyn Transport) -> bool {
        !self.written && self.put(io, State::Running).is_ok()
    }

    fn pending(&mut self, _: &mut dyn Transport) -> Result<Option<Estimates>, Errno> {
        match &self.session {
            Session::Saving(saving) => Ok(saving.pending()),
            _ => Err(Errno(libc::ENODEV)),
        }
    }

    fn has_data(&self) -> bool {
        !matches!(self.session, Session::None)
    }

    fn close(&mut self, _: &mut dyn Transport) {
        self.session = Session::None;
        self.regions.unmap();
    }

    fn read(
        &mut self,
        io: &mut dyn Transport,
        buf: &mut [u8],
        stopped: bool,
        cancel: &Cancel,
    ) -> Got {
        match &mut self.session {
            Session::Saving(saving) => {
                let mut got = saving.read(io, &mut self.regions, buf, stopped, cancel);
                self.begun = self.regions.memory.is_some();
                let (was_reset, log_now) = (saving.take_reset(), saving.take_whole());
                if was_reset {
                    self.forget();
                    if self.put(io, State::Running).is_err() {
                        // It must be known as reset even so. What is assumed is written before it runs.
                        self.at = Some(State::Running);
                    }
                } else if log_now {
                    // At once, because what changes before is lost.
                    if let Err(errno) = self.put(io, State::PreCopy) {
                        got.no_more = Some(NoMore::Failed(errno));
                    }
                }
                got
            }
            _ => Got { len: 0, no_more: Some(NoMore::Dead(Errno(libc::ENODEV))) },
        }
    }

    fn write(
        &mut self,
        io: &mut dyn Transport,
        buf: &[u8],
        patience: &Patience<'_>,
    ) -> Result<(), WriteFailed> {
        match &mut self.session {
            Session::Loading(loading) => loading.write(io, &mut self.regions, buf, patience),
            _ => Err(not_loaded()),
        }
    }
}
