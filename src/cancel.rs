// SPDX-License-Identifier: MIT OR Apache-2.0
//! The switch that ends a call on another thread.

use std::sync::Arc;

use crate::switch::Permission;
use crate::sync::atomic::{AtomicBool, Ordering};

/// The switch that cancels a session, or a reading of dirty pages, from any thread.
#[derive(Clone, Default, Debug)]
pub struct Cancel {
    asked: Arc<AtomicBool>,
    permission: Option<Permission>,
}

/// Why a session is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// It was cancelled.
    Asked,
    /// The process's switch was turned off.
    CutOff,
}

impl Cancel {
    /// The switch of a session that also ends with this permission.
    pub(crate) fn with(permission: Permission) -> Cancel {
        Cancel { asked: Arc::default(), permission: Some(permission) }
    }

    /// The call in progress, and every later one, returns [`crate::Code::Cancelled`].
    pub fn cancel(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether it was cancelled, or cut off by the process's switch.
    pub fn is_cancelled(&self) -> bool {
        self.why().is_some()
    }

    pub(crate) fn why(&self) -> Option<Why> {
        if self.asked.load(Ordering::Relaxed) {
            return Some(Why::Asked);
        }
        self.permission.is_some_and(Permission::has_ended).then_some(Why::CutOff)
    }

    /// Undoes the cancellation.
    pub(crate) fn clear(&self) {
        self.asked.store(false, Ordering::Relaxed);
    }
}
