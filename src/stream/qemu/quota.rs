// SPDX-License-Identifier: MIT OR Apache-2.0
//! One limit over all channels of a stream.

use crate::error::{Result, err};
use crate::sync::atomic::{AtomicU64, Ordering};

/// How much device data a stream may bring in all, over all its channels.
#[derive(Debug)]
pub struct Quota {
    most: u64,
    used: AtomicU64,
}

impl Quota {
    /// A new quota, in bytes.
    pub fn new(most: u64) -> Quota {
        Quota { most, used: AtomicU64::new(0) }
    }

    /// Takes from it, before anything is allocated or waited for.
    pub fn claim(&self, len: u64) -> Result<()> {
        let claimed = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(len).filter(|sum| *sum <= self.most)
        });
        match claimed {
            Ok(_) => Ok(()),
            Err(_) => {
                Err(err!(MsgSize, "the stream has more than {} bytes of device data", self.most))
            }
        }
    }
}
