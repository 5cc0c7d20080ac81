// SPDX-License-Identifier: MIT OR Apache-2.0
//! VFIO live migration as a library.
//!
//! A VMM owns the guest, the device's file descriptor, the memory map and the connection between
//! hosts. libvfiomig owns everything between a VFIO device and a trustworthy stream of bytes, in
//! both directions, and answers the question "which guest pages did this device write to?".
//!
//! # Example
//!
//! Both sides of a migration, in one process, with devices of the simulator. Real ones are reached
//! with [`KernelTransport::new`](transport::KernelTransport::new) and the device's fd.
//!
//! ```
//! use vfiomig::device::{DeviceOptions, Fixups};
//! use vfiomig::session::{Ending, LoadOptions, SaveOptions, SaveStatus};
//! use vfiomig::{Device, Result};
//! use vfiomig_sim::{Sim, SimOptions};
//!
//! # fn main() -> Result<()> {
//! let here = Sim::new(SimOptions { seed: 1, ..SimOptions::default() }).unwrap();
//! let there = Sim::new(SimOptions { seed: 2, ..SimOptions::default() }).unwrap();
//! let source = Device::new(here.transport(), DeviceOptions::default())?;
//! let target = Device::new(there.transport(), DeviceOptions::default())?;
//!
//! let mut save = source.save(SaveOptions::default())?;
//! let mut load = target.load(LoadOptions::default())?;
//! let mut buf = vec![0; 1 << 20];
//! loop {
//!     let next = save.next(&mut buf)?;
//!     // Between hosts, these bytes go through the VMM's connection.
//!     load.push(&buf[..next.len])?;
//!     match next.status {
//!         SaveStatus::More => {}
//!         // All that there is while the guest runs. The VMM stops the guest, then the device.
//!         SaveStatus::Drained => save.stop()?,
//!         SaveStatus::End => break,
//!     }
//! }
//! // The target has the whole state and verified it: only now the source lets go of it.
//! load.commit()?;
//! save.finish(Ending::Release)?;
//! // What the stream does not carry, the VMM sets up again before the device runs.
//! assert_eq!(target.fixups(), Fixups::PCI_COMMAND | Fixups::INTERRUPTS);
//! target.run()?;
//! assert!(target.fixups().is_empty());
//!
//! assert_eq!(there.digest(), here.digest());
//! # Ok(())
//! # }
//! ```
//!
//! Where anything fails, the error says what it was ([`Error::code`]), and
//! [`Save::failure`] or [`Load::failure`] what became of the device. A save that did not finish
//! gives the device back to the source's guest; a load that did not commit resets the target's.
//!
//! # Where things are
//!
//! - [`device`]: what a device is and can do, and why it cannot migrate.
//! - [`policy`]: who may switch migration off, in this process and on this host.
//! - [`session`]: saving and loading one device, with all options.
//! - [`group`]: all devices of one VM, saved or loaded together.
//! - [`checkpoint`]: states in files, from a guest that goes on, and back.
//! - [`estimate`]: how long a guest will stand still while it is switched over.
//! - [`history`]: what happened to a device last.
//! - [`dirty`]: which pages devices wrote to, over the whole memory map.
//! - [`guard`]: what drivers do not check of their own formats.
//! - [`inspect`]: what is in a stream, and whether it is whole.
//! - [`stream`]: the formats, for those who read or write streams without a device.
//! - [`transport`]: how a device is reached: a VFIO fd, or what a VMM brings.
//! - [`capi`]: the same as a C library; C programs include `vfiomig.h`.
//!
//! All types are `Send`. One session is used by one thread at a time, a group by any number.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub(crate) mod alloc;
pub(crate) mod cancel;
pub mod capi;
pub mod checkpoint;
pub mod compat;
pub(crate) mod crc;
pub mod device;
pub mod dirty;
pub mod error;
pub mod estimate;
pub(crate) mod fixups;
pub(crate) mod flags;
pub mod fsm;
pub mod group;
pub mod guard;
pub mod handover;
pub mod history;
pub mod identity;
pub mod inspect;
pub(crate) mod logging;
pub(crate) mod nanoseconds;
pub mod policy;
mod private;
pub(crate) mod protocol;
pub mod session;
pub mod stream;
pub(crate) mod switch;
pub(crate) mod sync;
pub(crate) mod sys;
pub(crate) mod text;
pub mod transport;
pub(crate) mod version;
pub(crate) mod waiting;

pub use device::Device;
pub use error::{Code, Error, Result};
pub use group::Group;
pub use handover::Handover;
pub use session::{Load, Save};
pub use sys::uapi;

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    /// In every profile: scripts/v3.sh runs this in the one that is installed.
    #[test]
    fn a_number_that_runs_over_is_not_computed_with() {
        let sum = std::panic::catch_unwind(|| black_box(u64::MAX) + black_box(1));
        assert!(sum.is_err(), "{sum:?}");
    }
}
