// SPDX-License-Identifier: MIT OR Apache-2.0
//! What dirty tracking must know of a device, apart from its log.

use std::sync::Arc;

use crate::sync::atomic::{AtomicU64, Ordering};

/// Resets of a device, and whether it stands still.
pub struct Health {
    resets: Arc<AtomicU64>,
    quiet: Box<dyn FnMut() -> Option<u64> + Send>,
}

impl Health {
    /// `resets` increases with each reset of the device, which may lose what it has logged. If the
    /// device certainly writes nothing now, `quiet` returns a number, which changes once the device
    /// may have written again.
    pub fn new(
        resets: Arc<AtomicU64>,
        quiet: impl FnMut() -> Option<u64> + Send + 'static,
    ) -> Health {
        Health { resets, quiet: Box::new(quiet) }
    }

    pub(crate) fn resets(&self) -> u64 {
        self.resets.load(Ordering::Acquire)
    }

    pub(crate) fn quiet(&mut self) -> Option<u64> {
        (self.quiet)()
    }
}

/// Whether what a device has logged can be relied on.
#[derive(Default)]
pub(super) struct Log {
    /// How often it may have been lost.
    resets: Arc<AtomicU64>,
    /// How often the device may have begun to write.
    changes: u64,
}

impl Log {
    /// A reset may have lost what the device had logged.
    pub fn may_be_lost(&mut self) {
        self.resets.fetch_add(1, Ordering::Release);
        self.may_write();
    }

    /// The device may write from here on.
    pub fn may_write(&mut self) {
        self.changes += 1;
    }

    pub fn resets(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.resets)
    }

    pub fn changes(&self) -> u64 {
        self.changes
    }
}
