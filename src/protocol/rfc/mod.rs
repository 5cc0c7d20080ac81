// SPDX-License-Identifier: MIT OR Apache-2.0
//! The protocol of the RFC of February 2019: a region with fields, one for the device's configuration,
//! and a window to its memory, if it has some.
//!
//! The state can be written and not read, so this remembers what was written, and has to be told of
//! resets. A write that fails leaves a state that nobody knows, which only a reset leads out of; and
//! after a reset, RUNNING is written, because servers keep the state over resets.

mod loading;
mod regions;
mod registers;
mod saving;
mod snapshot;

use super::{Changed, Estimates, Got, NoMore, Patience, Protocol, WriteFailed, not_loaded};
use crate::cancel::Cancel;
use crate::fsm::{MigrationFlags, State};
use crate::identity;
use crate::sys::Errno;
use crate::transport::Transport;
use loading::Loading;
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
        Ok(Rfc { regions, session: Session::None, at: Some(State::Running), written: false })
    }

    /// Writes the state.
    fn put(&mut self, io: &mut dyn Transport, to: State) -> Result<(), Errno> {
        (self.at, self.written) = (None, false);
        self.regions.registers().set_state(io, to)?;
        (self.at, self.written) = (Some(to), true);
        Ok(())
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
        if let Err(errno) = self.put(io, to) {
            return Changed::Refused(errno);
        }
        if opens_data {
            self.regions.map(io);
            self.session = match to {
                State::Resuming => Session::Loading(Loading::default()),
                _ => Session::Saving(Saving::default()),
            };
        } else if !to.has_data_stream() {
            self.close(io);
        } else if let Session::Saving(saving) = &mut self.session {
            saving.stopped();
        }
        Changed::Done
    }

    fn was_reset(&mut self, io: &mut dyn Transport) {
        // That a failure leaves the state unknown is what there is to say.
        let _ = self.put(io, State::Running);
    }

    fn assumes(&self) -> bool {
        self.at.is_some() && !self.written
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
                let got = saving.read(io, &mut self.regions, buf, stopped, cancel);
                if saving.take_reset() && self.put(io, State::Running).is_err() {
                    // It must be known as reset even so. What is assumed is written before it runs.
                    self.at = Some(State::Running);
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
