// SPDX-License-Identifier: MIT OR Apache-2.0
//! Streams: the native format and QEMU's, in a room each, and the file that holds several.
//!
//! A format has two faces: a [`Read`], which takes the stream split in any way and passes on
//! [`Item`]s, and a `Write`, which lays out in the caller's buffer what a save says. Neither knows
//! a device.

mod auth;
mod bytes;
pub mod checkpoint;
mod native;
pub mod qemu;
mod reader;
mod writer;

pub use auth::{Auth, CHALLENGE_LEN, KEY_LEN, KeySource, MIN_TAG_LEN, Mac, Secret, TAG_LEN};
pub use native::Block as AuthBlock;
pub(crate) use native::Writer as NativeWriter;
pub use native::{
    Algorithm, Decoder, END_LEN, Encoder, FORMAT_MAJOR, FORMAT_MINOR, Features, FrameFlags,
    FrameHeader, FrameType, HEADER_LEN, MAGIC, MAX_EXPORTED, MAX_PAYLOAD, NONCE_LEN, PREAMBLE_LEN,
    Preamble, decode_identity, encode_identity,
};
pub(crate) use native::{BLOCK_LEN, BLOCK_MARK, Binding, FRAME_MARK, Unit, block_check};
pub use reader::{DecodeLimits, Item, LEAST_MEMORY, Read};
pub use writer::SaveStatus;
pub(crate) use writer::{Before, Piece, Room, Round, Took, Waiting, Write};

/// How a session's stream is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Format {
    /// docs/stream-format.md.
    #[default]
    Native,
    /// As stock QEMU does it on its main channel: docs/qemu-format.md.
    Qemu,
    /// The same with multifd device-state transfer: what the stopped device returns travels in
    /// packets.
    QemuPackets,
}
