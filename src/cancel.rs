// SPDX-License-Identifier: MIT OR Apache-2.0
//! The switch that ends a call on another thread.

use std::sync::Arc;

use crate::sync::atomic::{AtomicBool, Ordering};

/// The switch that cancels a session, or a reading of dirty pages, from any thread.
#[derive(Clone, Default, Debug)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// The call in progress, and every later one, returns [`crate::Code::Cancelled`].
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Undoes the cancellation.
    pub(crate) fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
