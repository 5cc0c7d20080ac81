// SPDX-License-Identifier: MIT OR Apache-2.0
//! A simulated VFIO device for tests: of libvfiomig, and of any VMM that uses it.
//!
//! [`Sim`] is a device model and a client of libvfiomig's public ops table, and nothing else. It
//! follows the kernel's state machine strictly: what no VMM may do is counted as a violation and
//! answered as the strictest driver would. Its contents are deterministic. Quirks of real drivers
//! are switched on one by one, and any operation can be made to fail. The same in C:
//! `include/vfiomig-sim.h`.
//!
//! ```
//! use vfiomig::device::DeviceOptions;
//! use vfiomig_sim::{Sim, SimOptions};
//!
//! let sim = Sim::new(SimOptions { seed: 1, ..SimOptions::default() }).unwrap();
//! let device = vfiomig::Device::new(sim.transport(), DeviceOptions::default()).unwrap();
//! assert!(device.caps().unwrap().can_migrate());
//! assert_eq!(sim.violations(), (0, None));
//! ```

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod capi;
mod contents;
mod device;
pub mod fsm;
mod logging;
mod options;
mod quirks;
mod region;
mod shared;
mod stream;
// Whichever locks the library has been compiled with.
#[allow(unused_imports)]
#[path = "../../src/sync.rs"]
mod sync;
mod table;
pub mod vfio_user;

use std::ffi::c_void;
use std::sync::Arc;

use vfiomig::transport::{OpsTransport, vfiomig_device_ops};

pub use fsm::State;
pub use options::{Effect, Kind, NO_MIGRATION, Op, SimOptions, quirk};

use shared::Shared;

/// A simulated device. Clones share it.
#[derive(Clone)]
pub struct Sim {
    shared: Arc<Shared>,
}

impl Sim {
    /// A device, powered on. Fails with EINVAL if the options make no sense.
    pub fn new(options: SimOptions) -> Result<Sim, i32> {
        Ok(Sim { shared: Arc::new(Shared::new(options)?) })
    }

    /// The device for [`vfiomig::Device::new`], through the public ops table.
    pub fn transport(&self) -> OpsTransport {
        table::transport(Arc::clone(&self.shared))
    }

    /// The table of callbacks itself, and the pointer that goes with it: as in C, and valid while a
    /// clone of this is there.
    pub fn table(&self) -> (&'static vfiomig_device_ops, *mut c_void) {
        (&table::OPS, Arc::as_ptr(&self.shared).cast_mut().cast())
    }

    /// Makes the `nth` (from 1, counted from now) operation of a kind fail. Several faults may be
    /// pending.
    pub fn inject(&self, op: Op, nth: u64, errno: i32, effect: Effect) {
        self.shared.lock().inject(op, nth, errno, effect);
    }

    /// Forgets pending and sticky faults, and revives a device that has died: RUNNING, with its
    /// contents kept.
    pub fn clear_faults(&self) {
        self.shared.lock().clear_faults();
    }

    /// The guest resets the device (FLR), behind the library's back: RUNNING, streams dead,
    /// power-on contents.
    pub fn guest_reset(&self) {
        self.shared.lock().guest_reset();
    }

    /// The guest changes a part of the device's state: bytes of a new seed, marked dirty. EINVAL if
    /// the part does not lie within the state.
    pub fn guest_write(&self, offset: u64, len: u64, seed: u64) -> Result<(), i32> {
        self.shared.lock().guest_write(offset, len, seed)
    }

    /// The device writes to memory. Whether that is noticed depends on its log. EPERM while it is
    /// stopped, ENODEV when it is gone.
    pub fn dma_write(&self, iova: u64, len: u64) -> Result<(), i32> {
        self.shared.lock().dma_write(iova, len)
    }

    /// Pre-copy starts its initial data again.
    pub fn reinit(&self) {
        self.shared.lock().reinit();
    }

    /// A digest of the whole contents: equal contents have equal digests.
    pub fn digest(&self) -> u64 {
        self.shared.lock().digest()
    }

    /// Present state.
    pub fn state(&self) -> State {
        self.shared.lock().state()
    }

    /// Whether a fault has made the device vanish.
    pub fn is_dead(&self) -> bool {
        self.shared.lock().is_dead()
    }

    /// Operations of a kind so far.
    pub fn count(&self, op: Op) -> u64 {
        self.shared.lock().count(op)
    }

    /// Bytes read from data streams so far.
    pub fn bytes_read(&self) -> u64 {
        self.shared.lock().bytes_read
    }

    /// Bytes written to data streams so far.
    pub fn bytes_written(&self) -> u64 {
        self.shared.lock().bytes_written
    }

    /// Data streams handed out and not closed yet.
    pub fn open_streams(&self) -> u32 {
        self.shared.lock().open_streams()
    }

    /// How often the library did what no VMM may do, and what it did first. 0 in every correct
    /// run.
    pub fn violations(&self) -> (u64, Option<&'static str>) {
        let (count, first) = self.shared.lock().violations;
        (count, first.and_then(|text| text.to_str().ok()))
    }

    /// How often the table's `release` was called.
    pub fn releases(&self) -> u32 {
        self.shared.releases()
    }
}
