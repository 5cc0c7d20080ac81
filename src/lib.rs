// SPDX-License-Identifier: MIT OR Apache-2.0
//! VFIO live migration as a library.
//!
//! A VMM owns the guest, the device's file descriptor, the memory map and the transport. libvfiomig
//! owns everything between a VFIO device and a trustworthy stream of bytes, in both directions, and
//! answers the question "which guest pages did this device write to?".
//!
//! ```text
//! capi        extern "C": handles, entry guards, errors, callbacks
//! session     save, load
//! stream      frames, encoder, decoder, identity: the native format
//! protocol    v2: what the kernel's data fd says
//! dirty       memory map, trackers, bitmaps: which pages devices wrote to
//! device      Device, probing, state machine, recovery
//! transport   kernel ioctls, ops table of callbacks
//! sys         system calls, memory for bitmaps
//! ```
//! A layer calls only downwards. The C functions have the same core: `include/vfiomig.h`.
//!
//! Rust callers start with [`Device::new`] and a [`transport::KernelTransport`], and continue with
//! [`Device::save`] and [`Device::load`]. All types are `Send`; only one thread at a time may use a
//! session.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub(crate) mod alloc;
pub(crate) mod cancel;
pub mod capi;
pub mod device;
pub mod dirty;
pub mod error;
pub mod fsm;
pub mod identity;
pub(crate) mod logging;
pub(crate) mod protocol;
pub mod session;
pub mod stream;
pub(crate) mod sync;
pub(crate) mod sys;
pub(crate) mod text;
pub mod transport;
pub(crate) mod waiting;

pub use device::Device;
pub use error::{Code, Error, Result};
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
