// SPDX-License-Identifier: MIT OR Apache-2.0
//! An estimate that several threads use: those that measure, and those that ask.

use std::sync::{Arc, PoisonError};

use super::Estimate;
use crate::sync::Mutex;

/// An estimate behind a lock, which is held for computing only. Clones are the same one.
#[derive(Clone)]
pub struct SharedEstimate(Arc<Mutex<Estimate>>);

impl SharedEstimate {
    /// Shares an estimate.
    pub fn new(estimate: Estimate) -> SharedEstimate {
        SharedEstimate(Arc::new(Mutex::new(estimate)))
    }

    /// Has exclusive use of it for a moment.
    pub fn with<T>(&self, call: impl FnOnce(&mut Estimate) -> T) -> T {
        call(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for SharedEstimate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedEstimate")
    }
}
