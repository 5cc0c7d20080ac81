// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the VMM must redo before a device runs, because neither a reset nor a stream keeps it.

use crate::flags::flags;
use crate::sync::atomic::{AtomicU32, Ordering};

flags! {
    /// What the VMM must redo before the device runs.
    Fixups: u32 {
        /// Write PCI_COMMAND again: memory, I/O and bus-master enables are not part of the state.
        PCI_COMMAND = 1 << 0;
        /// Set up INTx, MSI and MSI-X eventfds again (`VFIO_DEVICE_SET_IRQS`).
        INTERRUPTS = 1 << 1;
    }
}

impl Fixups {
    /// What a reset and a load lose.
    pub const AFTER_RESET_OR_LOAD: Fixups = Fixups::PCI_COMMAND.union(Fixups::INTERRUPTS);
}

/// Fix-ups that are noted on one thread and read on others.
#[derive(Default)]
pub(crate) struct AtomicFixups(AtomicU32);

impl AtomicFixups {
    pub fn get(&self) -> Fixups {
        Fixups(self.0.load(Ordering::Relaxed))
    }

    pub fn add(&self, fixups: Fixups) {
        self.0.fetch_or(fixups.0, Ordering::Relaxed);
    }

    /// The VMM has made them.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
