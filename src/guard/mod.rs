// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guards: what a driver does not check of its own format, checked before the driver sees it.
//!
//! A guard gets the device's data of one load in order, in any pieces, whatever format the stream
//! has. It keeps a few bytes at most. What it lets pass may still be refused by the driver; what it
//! refuses never reaches it. This room knows drivers' formats; it knows nothing of frames, devices
//! or sessions.

mod contract;
mod mlx5;
pub(crate) mod mtty;
mod records;

pub use contract::Guard;
pub use mlx5::Mlx5;
pub use mtty::Mtty;
pub use records::{Field, MAX_HEADER, MAX_TAGS, Optional, RecordFormat, Records};

use crate::fsm::MigrationFlags;
use crate::identity::{Identity, protocol};

/// The guard that the library has for the driver of this target, if it has one.
pub fn built_in(target: &Identity) -> Option<Box<dyn Guard>> {
    // Other protocols have other data.
    if target.generation() != protocol::V2 {
        return None;
    }
    match target.driver.as_str() {
        "mtty" => Some(Box::new(Mtty::new(&target.mdev_type))),
        // Without pre-copy, a driver of before 6.7 has no records in its stream.
        "mlx5_vfio_pci" if target.migration_flags.contains(MigrationFlags::PRE_COPY) => {
            Some(Box::new(Mlx5::new(target.state_size)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
