// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fields at the beginning of a v1 region: `struct vfio_device_migration_info`.

use crate::fsm::State;
use crate::protocol::window::Window;
use crate::sys::Errno;
use crate::transport::Transport;

const DEVICE_STATE: u64 = 0;
const PENDING_BYTES: u64 = 8;
const DATA_OFFSET: u64 = 16;
const DATA_SIZE: u64 = 24;
/// Where data may begin.
pub(super) const END: u64 = 32;

const RUNNING: u32 = 1;
const SAVING: u32 = 2;
const RESUMING: u32 = 4;
/// The bits of the state; the others are kept as they are.
const STATE: u32 = RUNNING | SAVING | RESUMING;

/// What the field means. ERROR, and combinations that mean nothing, are left by a reset only.
pub(super) fn state_of(raw: u32) -> State {
    match raw & STATE {
        0 => State::Stop,
        RUNNING => State::Running,
        SAVING => State::StopCopy,
        3 => State::PreCopy,
        RESUMING => State::Resuming,
        _ => State::Error,
    }
}

/// The fields of a region. Each is accessed alone and with its own length.
pub(super) struct Registers<'a>(pub &'a Window);

impl Registers<'_> {
    /// Where the device is.
    pub fn state(&self, io: &mut dyn Transport) -> Result<State, Errno> {
        self.raw_state(io).map(state_of)
    }

    /// The field itself.
    pub fn raw_state(&self, io: &mut dyn Transport) -> Result<u32, Errno> {
        self.0.get_u32(io, DEVICE_STATE)
    }

    /// Asks for a state; `raw` is what the field was.
    pub fn set_state(&self, io: &mut dyn Transport, raw: u32, to: State) -> Result<(), Errno> {
        let bits = match to {
            State::Stop => 0,
            State::Running => RUNNING,
            State::StopCopy => SAVING,
            State::PreCopy => SAVING | RUNNING,
            State::Resuming => RESUMING,
            _ => return Err(Errno(libc::EINVAL)),
        };
        self.0.put(io, DEVICE_STATE, &(raw & !STATE | bits).to_ne_bytes())
    }

    /// An estimate of what is still to come. Asking says that the last chunk has been taken.
    pub fn pending_bytes(&self, io: &mut dyn Transport) -> Result<u64, Errno> {
        self.0.get_u64(io, PENDING_BYTES)
    }

    /// Where the next chunk is, or goes. Asking makes the device prepare it, which may take time.
    pub fn data_offset(&self, io: &mut dyn Transport) -> Result<u64, Errno> {
        self.0.get_u64(io, DATA_OFFSET)
    }

    pub fn data_size(&self, io: &mut dyn Transport) -> Result<u64, Errno> {
        self.0.get_u64(io, DATA_SIZE)
    }

    /// The device takes a chunk of this length.
    pub fn set_data_size(&self, io: &mut dyn Transport, len: u64) -> Result<(), Errno> {
        self.0.put(io, DATA_SIZE, &len.to_ne_bytes())
    }
}
