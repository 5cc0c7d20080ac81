// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames: the unit of the native stream, and the preamble before them.
//!
//! A frame is verified as a whole before any byte of it is passed on. This module knows only bytes
//! and lengths; what a payload means is up to the session.

use crate::crc::crc32;
use crate::error::{Result, err};
use crate::flags::flags;
use crate::stream::bytes::{Get, Put};

/// The first eight bytes of a stream. The first one is not ASCII, so that nothing mistakes a stream
/// for text.
pub const MAGIC: [u8; 8] = *b"\x89VFIOMIG";
/// Readers of formats with the same major number can read each other's streams.
pub const FORMAT_MAJOR: u16 = 1;
/// Increases when optional frames or features are added.
pub const FORMAT_MINOR: u16 = 0;
/// Length of the preamble in bytes.
pub const PREAMBLE_LEN: usize = 40;
/// Length of a frame header in bytes.
pub const HEADER_LEN: usize = 32;
/// Length of the END frame's payload in bytes.
pub const END_LEN: usize = 32;
/// The largest payload that any frame may have, in bytes; options set lower limits.
pub const MAX_PAYLOAD: u32 = 1 << 30;

/// What begins every frame header.
pub(crate) const FRAME_MARK: [u8; 4] = *b"VMFr";

flags! {
    /// Flags of a frame. Those of newer formats are kept, for whoever refuses them.
    open FrameFlags: u16 {
        /// A reader that does not know the type skips the frame.
        OPTIONAL = 1 << 0;
    }
}

flags! {
    /// What a reader of a stream must know to read it. Bits of newer formats are kept, for whoever
    /// refuses them.
    open Features: u32 {
        /// Each frame has a tag, which only who has the key can make.
        AUTHENTICATED = 1 << 0;
    }
}

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FrameType {
    /// What the saved device is.
    Identity,
    /// A piece of the device's state, as the driver returned it.
    Data,
    /// All initial data has been sent: the target may now be expected to be fast.
    InitialComplete,
    /// Opaque data of the VMM's.
    Blob,
    /// Everything before is void: the source's device was reset.
    Restart,
    /// The end, with totals.
    End,
    /// Of a newer format.
    Other(u16),
}

impl FrameType {
    /// The number in the stream.
    pub fn raw(self) -> u16 {
        match self {
            FrameType::Identity => 1,
            FrameType::Data => 2,
            FrameType::InitialComplete => 3,
            FrameType::Blob => 4,
            FrameType::Restart => 5,
            FrameType::End => 6,
            FrameType::Other(raw) => raw,
        }
    }

    /// The type with this number.
    pub fn from_raw(raw: u16) -> FrameType {
        use FrameType::{Blob, Data, End, Identity, InitialComplete, Restart};
        [Identity, Data, InitialComplete, Blob, Restart, End]
            .into_iter()
            .find(|kind| kind.raw() == raw)
            .unwrap_or(FrameType::Other(raw))
    }
}

/// The header of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// What the frame carries.
    pub kind: FrameType,
    /// Its flags.
    pub flags: FrameFlags,
    /// Which device of the VM.
    pub device: u32,
    /// Payload bytes that follow.
    pub length: u32,
    /// Number of the frame in its stream, from 0.
    pub sequence: u64,
    /// CRC-32 of the payload.
    pub payload_crc: u32,
}

impl FrameHeader {
    /// The header's bytes in the migration `migration_id`.
    pub fn encode(&self, migration_id: &[u8; 16]) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut put = Put { out: &mut out, at: 0 };
        put.bytes(&FRAME_MARK);
        put.bytes(&self.kind.raw().to_le_bytes());
        put.bytes(&self.flags.bits().to_le_bytes());
        put.bytes(&self.device.to_le_bytes());
        put.bytes(&self.length.to_le_bytes());
        put.bytes(&self.sequence.to_le_bytes());
        put.bytes(&self.payload_crc.to_le_bytes());
        let crc = Binding::of(migration_id).check(&out);
        Put { out: &mut out, at: HEADER_LEN - 4 }.bytes(&crc.to_le_bytes());
        out
    }

    /// Reads a header of the migration `migration_id`; verifies its own check first.
    pub fn decode(bytes: &[u8; HEADER_LEN], migration_id: &[u8; 16]) -> Result<FrameHeader> {
        FrameHeader::decode_bound(bytes, Binding::of(migration_id))
    }

    /// The same for a stream whose migration id need not be known.
    pub(crate) fn decode_bound(bytes: &[u8; HEADER_LEN], binding: Binding) -> Result<FrameHeader> {
        let mut get = Get { bytes, at: 0 };
        if get.array::<4>() != FRAME_MARK {
            return Err(err!(Proto, "there is no frame where one must begin"));
        }
        let header = FrameHeader {
            kind: FrameType::from_raw(get.u16()),
            flags: FrameFlags::from_bits_retain(get.u16()),
            device: get.u32(),
            length: get.u32(),
            sequence: get.u64(),
            payload_crc: get.u32(),
        };
        if get.u32() != binding.check(bytes) {
            return Err(err!(BadMsg, "the check of a frame header is wrong"));
        }
        Ok(header)
    }
}

/// What a migration id adds to the check of a header, so that a frame of another stream does not pass.
///
/// The check is the CRC-32 of the id and the header without its check. Of two things one behind the
/// other, CRC-32 is the sum (XOR) of the second one's and of something that depends on nothing but
/// the first one and the second one's length: this. So it follows from any one header, also where
/// the id is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Binding(u32);

impl Binding {
    /// That of a migration id.
    pub fn of(migration_id: &[u8; 16]) -> Binding {
        let none = [0; HEADER_LEN - 4];
        Binding(crc32(&[migration_id, &none]) ^ crc32(&[&none]))
    }

    /// The one under which a header's check is right.
    pub fn of_header(header: &[u8; HEADER_LEN]) -> Binding {
        let check = Get { bytes: header, at: HEADER_LEN - 4 }.u32();
        Binding(check ^ Binding(0).check(header))
    }

    /// The check that a header must have.
    pub fn check(self, header: &[u8; HEADER_LEN]) -> u32 {
        self.0 ^ crc32fast::hash(header.get(..HEADER_LEN - 4).unwrap_or_default())
    }
}

/// The preamble's bytes.
pub(super) fn encode_preamble(migration_id: &[u8; 16], required: Features) -> [u8; PREAMBLE_LEN] {
    let mut out = [0; PREAMBLE_LEN];
    let mut put = Put { out: &mut out, at: 0 };
    put.bytes(&MAGIC);
    put.bytes(&FORMAT_MAJOR.to_le_bytes());
    put.bytes(&FORMAT_MINOR.to_le_bytes());
    put.bytes(&required.bits().to_le_bytes());
    put.bytes(&0u32.to_le_bytes());
    put.bytes(migration_id);
    let crc = crc32fast::hash(out.get(..PREAMBLE_LEN - 4).unwrap_or_default());
    Put { out: &mut out, at: PREAMBLE_LEN - 4 }.bytes(&crc.to_le_bytes());
    out
}

/// What stands before the frames of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preamble {
    /// The format's major version.
    pub major: u16,
    /// The format's minor version.
    pub minor: u16,
    /// What a reader must know.
    pub required: Features,
    /// What a reader may know.
    pub optional: u32,
    /// The stream's name.
    pub migration_id: [u8; 16],
}

impl Preamble {
    /// What these bytes say, right or wrong.
    pub(crate) fn of(bytes: &[u8; PREAMBLE_LEN]) -> Preamble {
        let mut get = Get { bytes, at: MAGIC.len() };
        Preamble {
            major: get.u16(),
            minor: get.u16(),
            required: Features::from_bits_retain(get.u32()),
            optional: get.u32(),
            migration_id: get.array(),
        }
    }

    /// The check of a preamble: what it must be, and what it is.
    pub(crate) fn checks(bytes: &[u8; PREAMBLE_LEN]) -> (u32, u32) {
        let must = crc32fast::hash(bytes.get(..PREAMBLE_LEN - 4).unwrap_or_default());
        (must, Get { bytes, at: PREAMBLE_LEN - 4 }.u32())
    }
}

/// Reads a preamble; returns the migration id, and what the stream requires.
pub(super) fn decode_preamble(bytes: &[u8; PREAMBLE_LEN]) -> Result<([u8; 16], Features)> {
    if !bytes.starts_with(&MAGIC) {
        return Err(err!(Proto, "this is not a libvfiomig stream"));
    }
    let Preamble { major, minor, required, migration_id, .. } = Preamble::of(bytes);
    // The check comes before the version: a flipped bit is damage, not a newer format.
    let (must, is) = Preamble::checks(bytes);
    if is != must {
        return Err(err!(BadMsg, "the check of the stream's preamble is wrong"));
    }
    if major != FORMAT_MAJOR {
        return Err(err!(
            Proto,
            "the stream's format is version {major}.{minor}, this library reads {FORMAT_MAJOR}.x; \
             use a library of the same major format on both sides"
        ));
    }
    let unknown = required - Features::AUTHENTICATED;
    if !unknown.is_empty() {
        return Err(err!(
            Proto,
            "the stream needs features {:#x} that this library does not have",
            unknown.bits()
        ));
    }
    Ok((migration_id, required))
}
