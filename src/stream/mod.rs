//! The native stream: docs/stream-format.md, which is normative, in code.
//!
//! [`Encoder`] seals frames in the caller's buffer; [`Decoder`] takes any split of a stream and
//! hands on nothing that it has not verified. Neither knows a device.

mod decode;
mod encode;
mod frame;
mod identity;

pub use decode::{DecodeLimits, Decoder, Item};
pub use encode::Encoder;
pub use frame::{
    END_LEN, FORMAT_MAJOR, FORMAT_MINOR, FrameHeader, FrameType, HEADER_LEN, MAGIC, MAX_PAYLOAD,
    OPTIONAL, PREAMBLE_LEN,
};
pub use identity::{decode_identity, encode_identity};
