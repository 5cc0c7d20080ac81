// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fields of the control region: `struct vfio_device_state_ctl` of 2019.

use crate::fsm::State;
use crate::protocol::window::Window;
use crate::sys::Errno;
use crate::transport::Transport;

const VERSION: u64 = 0;
const DEVICE_STATE: u64 = 4;
const CAPS: u64 = 8;
const CONFIG_ACTION: u64 = 16;
const CONFIG_SIZE: u64 = 24;
const MEMORY_ACTION: u64 = 32;
const MEMORY_SIZE: u64 = 40;
const MEMORY_POS: u64 = 48;
const SYSTEM_MEMORY_START: u64 = 56;
/// The length of all fields, in bytes.
pub(super) const END: u64 = 72;

/// The layout that is known.
pub(super) const LAYOUT: u32 = 1;
/// Capability: the device has memory of its own.
pub(super) const DEVICE_MEMORY: u32 = 1;
/// Capability: the device knows which pages of the guest's memory it has written to.
pub(super) const SYSTEM_MEMORY: u32 = 2;

const STOP: u32 = 1;
const LOGGING: u32 = 2;

/// What is done with a region's contents.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Action {
    /// The device puts its state there.
    Get = 1,
    /// The device takes its state from there.
    Set = 2,
}

/// The fields of a region. Each is accessed alone and with its own length.
pub(super) struct Registers<'a>(pub &'a Window);

impl Registers<'_> {
    pub fn version(&self, io: &mut dyn Transport) -> Result<u32, Errno> {
        self.0.get_u32(io, VERSION)
    }

    pub fn caps(&self, io: &mut dyn Transport) -> Result<u32, Errno> {
        self.0.get_u32(io, CAPS)
    }

    /// Asks for a state. The field cannot be read.
    pub fn set_state(&self, io: &mut dyn Transport, to: State, logging: bool) -> Result<(), Errno> {
        let stop = match to {
            State::Running | State::PreCopy => 0,
            // A device is loaded while it is stopped; there is no state of its own for that.
            State::Stop | State::Resuming | State::StopCopy => STOP,
            _ => return Err(Errno(libc::EINVAL)),
        };
        let bits = stop | if logging { LOGGING } else { 0 };
        self.0.put(io, DEVICE_STATE, &bits.to_ne_bytes())
    }

    /// Has the bits of the pages from an address on put into the bitmap, and the pages forgotten.
    /// Both numbers go in one access, as from the VMM that was published with the protocol.
    pub fn query(&self, io: &mut dyn Transport, start: u64, pages: u64) -> Result<(), Errno> {
        let mut range = [0; 16];
        let bytes = [start, pages].into_iter().flat_map(u64::to_ne_bytes);
        range.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        self.0.put(io, SYSTEM_MEMORY_START, &range)
    }

    /// The length of the configuration.
    pub fn config_size(&self, io: &mut dyn Transport) -> Result<u64, Errno> {
        self.0.get_u64(io, CONFIG_SIZE)
    }

    pub fn set_config_size(&self, io: &mut dyn Transport, len: u64) -> Result<(), Errno> {
        self.0.put(io, CONFIG_SIZE, &len.to_ne_bytes())
    }

    /// Has the whole configuration put into its region, or taken from there.
    pub fn config(&self, io: &mut dyn Transport, action: Action) -> Result<(), Errno> {
        self.0.put(io, CONFIG_ACTION, &(action as u32).to_ne_bytes())
    }

    /// Takes a snapshot of the device's memory, or of what has changed in it, and returns its length.
    /// The snapshot before is gone.
    pub fn snapshot(&self, io: &mut dyn Transport) -> Result<u64, Errno> {
        self.0.get_u64(io, MEMORY_SIZE)
    }

    /// Announces a snapshot of this length to a device that is being loaded.
    pub fn announce(&self, io: &mut dyn Transport, len: u64) -> Result<(), Errno> {
        self.0.put(io, MEMORY_SIZE, &len.to_ne_bytes())
    }

    /// Has the chunk of the snapshot that begins at `pos` put into its region, or taken from there.
    pub fn chunk(&self, io: &mut dyn Transport, pos: u64, action: Action) -> Result<(), Errno> {
        self.0.put(io, MEMORY_POS, &pos.to_ne_bytes())?;
        self.0.put(io, MEMORY_ACTION, &(action as u32).to_ne_bytes())
    }
}
