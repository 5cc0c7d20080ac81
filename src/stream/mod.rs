// SPDX-License-Identifier: MIT OR Apache-2.0
//! Streams: the native one, docs/stream-format.md in code, and QEMU's, in [`qemu`].
//!
//! [`Encoder`] seals frames in the caller's buffer; [`Decoder`] takes any split of a stream and
//! hands on nothing that it has not verified. Neither knows a device.

mod decode;
mod encode;
mod frame;
mod identity;
pub mod qemu;

pub(crate) use decode::Read;
pub use decode::{DecodeLimits, Decoder, Item};
pub use encode::Encoder;
pub use frame::{
    END_LEN, FORMAT_MAJOR, FORMAT_MINOR, FrameHeader, FrameType, HEADER_LEN, MAGIC, MAX_PAYLOAD,
    OPTIONAL, PREAMBLE_LEN,
};
pub use identity::{decode_identity, encode_identity};

/// How a session's stream is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// docs/stream-format.md.
    #[default]
    Native,
    /// As stock QEMU does it on its main channel: docs/qemu-format.md.
    Qemu,
    /// The same with multifd device-state transfer: what the stopped device gives travels in
    /// packets.
    QemuPackets,
}
