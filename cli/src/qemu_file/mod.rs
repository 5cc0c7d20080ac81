// SPDX-License-Identifier: MIT OR Apache-2.0
//! Migration files of stock QEMU: where VFIO devices are in them.
//!
//! A file is a sequence of sections, most of which do not say how long they are. What is known of
//! each: RAM's can be parsed; VFIO's have tags; those of other devices are described in JSON at the
//! end of the file (`describe.rs`); for what is left, the next footer is looked for that another
//! section can follow. A footer confirms each of these. QEMU's docs/devel/migration and
//! migration/savevm.c have the format.
//!
//! The file is hostile like any input: no length is believed beyond the file's end, memory does not
//! depend on what it says, and what does not fit is named with its place.

mod describe;
mod input;
mod ram;
mod vfio;
mod walk;

pub use walk::{Event, Section, SectionKind, Sized, Vfio, walk};

/// How such a file begins: `QEVM`.
pub const MAGIC: [u8; 4] = *b"QEVM";

#[cfg(test)]
pub mod tests;
