// SPDX-License-Identifier: MIT OR Apache-2.0
//! The native format: the code for docs/stream-format.md.
//!
//! [`Encoder`] seals frames in the caller's buffer. [`Decoder`] takes the stream split in any way,
//! and passes on nothing that it has not verified. Checksums, totals and numbers are up to this
//! room; what a stream says is up to the session.

mod check;
mod container;
mod decode;
mod encode;
mod frame;
mod identity;
mod mac;
mod staging;
mod totals;
mod writer;

pub use container::MAX_EXPORTED;
pub use decode::Decoder;
pub(crate) use decode::Unit;
pub use encode::Encoder;
pub(crate) use frame::{Binding, FRAME_MARK};
pub use frame::{
    END_LEN, FORMAT_MAJOR, FORMAT_MINOR, Features, FrameFlags, FrameHeader, FrameType, HEADER_LEN,
    MAGIC, MAX_PAYLOAD, PREAMBLE_LEN, Preamble,
};
pub(in crate::stream) use identity::MAX_IDENTITY;
pub use identity::{decode_identity, encode_identity};
pub use mac::{Algorithm, Block, NONCE_LEN};
pub(crate) use mac::{BLOCK_LEN, BLOCK_MARK, block_check};
pub(crate) use writer::Writer;
