// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tool's reader, as `cli/src/qemu_file/mod.rs` puts it together. The tool is a program, and cannot be
//! used from here: its files are built again.

#[path = "../../../cli/src/qemu_file/describe.rs"]
mod describe;
#[path = "../../../cli/src/qemu_file/input.rs"]
mod input;
#[path = "../../../cli/src/qemu_file/ram.rs"]
mod ram;
#[path = "../../../cli/src/qemu_file/vfio.rs"]
mod vfio;
#[path = "../../../cli/src/qemu_file/walk.rs"]
mod walk;

pub use walk::{Event, SectionKind, walk};

/// How such a file begins.
pub const MAGIC: [u8; 4] = *b"QEVM";
