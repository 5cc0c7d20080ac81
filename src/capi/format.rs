// SPDX-License-Identifier: MIT OR Apache-2.0
//! Formats of streams.

use crate::error::{Result, err};
use crate::stream::Format;

/// The library's own format: verified, with an identity and an end.
pub const VFIOMIG_FORMAT_NATIVE: u32 = 0;
/// The format of stock QEMU's VFIO devices.
pub const VFIOMIG_FORMAT_QEMU: u32 = 1;

/// The format that the options of a save or a load name.
pub(super) fn format(format: u32, packets: bool) -> Result<Format> {
    match (format, packets) {
        (VFIOMIG_FORMAT_NATIVE, _) => Ok(Format::Native),
        (VFIOMIG_FORMAT_QEMU, false) => Ok(Format::Qemu),
        (VFIOMIG_FORMAT_QEMU, true) => Ok(Format::QemuPackets),
        _ => Err(err!(Inval, "there is no format {format}")),
    }
}
