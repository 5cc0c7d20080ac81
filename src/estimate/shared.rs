// SPDX-License-Identifier: MIT OR Apache-2.0
//! An estimate that several threads use: those that measure, and those that ask.

use std::sync::{Arc, PoisonError};

use super::{Decision, Estimate};
use crate::sync::Mutex;

/// Who is told of decisions.
type Listener = Box<dyn Fn(&Decision) + Send + Sync>;

/// An estimate behind a lock, which is held for computing only. Clones are the same one.
#[derive(Clone)]
pub struct SharedEstimate(Arc<Inside>);

struct Inside {
    estimate: Mutex<Estimate>,
    decided: Option<Listener>,
}

impl SharedEstimate {
    /// Shares an estimate.
    pub fn new(estimate: Estimate) -> SharedEstimate {
        SharedEstimate(Arc::new(Inside { estimate: Mutex::new(estimate), decided: None }))
    }

    /// The same, with somebody who is told of each decision.
    pub(crate) fn heard(
        estimate: Estimate,
        decided: impl Fn(&Decision) + Send + Sync + 'static,
    ) -> SharedEstimate {
        let decided: Option<Listener> = Some(Box::new(decided));
        SharedEstimate(Arc::new(Inside { estimate: Mutex::new(estimate), decided }))
    }

    /// Has exclusive use of it for a moment.
    pub fn with<T>(&self, call: impl FnOnce(&mut Estimate) -> T) -> T {
        call(&mut self.0.estimate.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What to do: see [`Estimate::decide`]. A group tells it in its events when that changes.
    pub fn decide(&self, at_ns: u64, limit_ns: u64, wait_for_initial: bool) -> Decision {
        let decision = self.with(|estimate| estimate.decide(at_ns, limit_ns, wait_for_initial));
        if let Some(decided) = &self.0.decided {
            decided(&decision);
        }
        decision
    }
}

impl std::fmt::Debug for SharedEstimate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedEstimate")
    }
}
