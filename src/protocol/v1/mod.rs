// SPDX-License-Identifier: MIT OR Apache-2.0
//! Migration protocol v1, of Linux 5.8 to 5.17: one region with a state, a few fields, and a place
//! through which data goes in chunks.
//!
//! A target gets the chunks as they were read, so the data has their edges in it (`units`). There is
//! no data fd that dies with a reset: the state is asked for before each chunk instead.

mod loading;
mod registers;
mod saving;

use super::window::Window;
use super::{Changed, Estimates, Got, NoMore, Patience, Protocol, WriteFailed, not_loaded};
use crate::cancel::Cancel;
use crate::fsm::{MigrationFlags, State};
use crate::identity;
use crate::sys::Errno;
use crate::transport::{Region, RegionFlags, Transport};
use loading::Loading;
use registers::{Registers, state_of};
use saving::Saving;

/// Protocol v1 of one device.
pub(crate) struct V1 {
    window: Window,
    session: Session,
    /// The state that was set last.
    set: State,
}

/// A device has one of these, for as long as it lives.
#[allow(clippy::large_enum_variant)]
enum Session {
    None,
    Saving(Saving),
    Loading(Loading),
}

impl V1 {
    /// The protocol over a region of its type, or why that is no such region.
    pub fn new(region: Region) -> Result<V1, &'static str> {
        if !region.flags.contains(RegionFlags::READ | RegionFlags::WRITE) {
            return Err("it cannot be read and written");
        }
        if region.size <= registers::END {
            return Err("it has no room for data");
        }
        let window = Window::new(region);
        Ok(V1 { window, session: Session::None, set: State::Running })
    }

    fn registers(&self) -> Registers<'_> {
        Registers(&self.window)
    }

    /// What stands in the way of a request from where the device is, if anything does.
    fn obstacle(&self, from: State, to: State) -> Option<Changed> {
        let open = !matches!(self.session, Session::None);
        // Only a reset leads to RUNNING unasked. Setting the state now would hide it.
        if open && from == State::Running && self.set != State::Running {
            return Some(Changed::Reset);
        }
        match &self.session {
            Session::Loading(loading)
                if matches!(to, State::Stop | State::Running) && !loading.at_rest() =>
            {
                Some(Changed::Broken("the data ended within a chunk"))
            }
            _ => None,
        }
    }

    /// Writes the state. Between its reading and that there is nothing, as a reset there is not seen.
    fn request(&mut self, io: &mut dyn Transport, to: State) -> Changed {
        if let Session::Saving(saving) = &mut self.session {
            saving.acknowledge(io, &self.window);
        }
        let raw = match self.registers().raw_state(io) {
            Ok(raw) => raw,
            Err(errno) => return Changed::Refused(errno),
        };
        if let Some(obstacle) = self.obstacle(state_of(raw), to) {
            return obstacle;
        }
        match self.registers().set_state(io, raw, to) {
            Ok(()) => Changed::Done,
            Err(errno) => Changed::Refused(errno),
        }
    }
}

impl Protocol for V1 {
    fn generation(&self) -> u32 {
        identity::protocol::V1
    }

    fn probe(&mut self, io: &mut dyn Transport) -> Result<MigrationFlags, Errno> {
        self.registers().state(io)?;
        Ok(MigrationFlags::STOP_COPY | MigrationFlags::PRE_COPY)
    }

    fn state(&mut self, io: &mut dyn Transport) -> Result<State, Errno> {
        self.registers().state(io)
    }

    fn set_state(&mut self, io: &mut dyn Transport, to: State, opens_data: bool) -> Changed {
        match self.request(io, to) {
            Changed::Done => self.set = to,
            other => return other,
        }
        if opens_data {
            self.window.map(io);
            self.session = match to {
                State::Resuming => Session::Loading(Loading::default()),
                _ => Session::Saving(Saving::default()),
            };
        } else if !to.has_data_stream() {
            self.close(io);
        } else if let Session::Saving(saving) = &mut self.session {
            // What was not taken whole is offered again.
            saving.drop_chunk();
        }
        Changed::Done
    }

    fn pending(&mut self, io: &mut dyn Transport) -> Result<Option<Estimates>, Errno> {
        match &mut self.session {
            Session::Saving(saving) => saving.pending(io, &self.window, self.set).map(Some),
            _ => Err(Errno(libc::ENODEV)),
        }
    }

    fn has_data(&self) -> bool {
        !matches!(self.session, Session::None)
    }

    fn close(&mut self, _: &mut dyn Transport) {
        self.session = Session::None;
        self.window.unmap();
    }

    fn read(
        &mut self,
        io: &mut dyn Transport,
        buf: &mut [u8],
        stopped: bool,
        cancel: &Cancel,
    ) -> Got {
        let Session::Saving(saving) = &mut self.session else {
            return Got { len: 0, no_more: Some(NoMore::Dead(Errno(libc::ENODEV))) };
        };
        let expected = if stopped { State::StopCopy } else { self.set };
        saving.read(io, &mut self.window, buf, expected, cancel)
    }

    fn write(
        &mut self,
        io: &mut dyn Transport,
        buf: &[u8],
        patience: &Patience<'_>,
    ) -> Result<(), WriteFailed> {
        match &mut self.session {
            Session::Loading(loading) => loading.write(io, &mut self.window, buf, patience),
            _ => Err(not_loaded()),
        }
    }
}
