// SPDX-License-Identifier: MIT OR Apache-2.0
//! The manifest: what a checkpoint holds, and where.
//!
//! Records of fields, like an identity. What is read here was checked against everything that the
//! manifest itself can tell: that no two pieces of the file overlap, and that nothing lies outside.

use crate::alloc;
use crate::error::{Result, err};
use crate::identity::Identity;
use crate::stream::bytes::{Get, Put};
use crate::stream::native::{END_LEN, MAX_IDENTITY, decode_identity, encode_identity};

use super::layout::HEAD_LEN;

/// The most devices in one checkpoint.
pub const MAX_DEVICES: usize = 1024;
/// The most pieces that one device's stream may lie in.
pub const MAX_PIECES: usize = 64;
/// The longest name of a device, in bytes.
pub const MAX_NAME: usize = 63;
/// The longest note, in bytes.
pub const MAX_NOTE: usize = 4096;
/// The longest manifest, in bytes.
pub const MAX_MANIFEST: u64 = 8 << 20;

pub(super) const NO_MEMORY: &str = "no memory for a checkpoint's manifest";
const MARK: [u8; 4] = *b"VMCm";

/// Numbers of the fields of the first record, which is about the checkpoint.
mod about {
    pub const CREATED: u16 = 1;
    pub const GENERATION: u16 = 2;
    pub const NOTE: u16 = 3;
}

/// Numbers of the fields of a device's record.
mod field {
    pub const NAME: u16 = 1;
    pub const DEVICE: u16 = 2;
    pub const MIGRATION_ID: u16 = 3;
    pub const PIECES: u16 = 4;
    pub const END: u16 = 5;
    pub const IDENTITY: u16 = 6;
}

/// What a checkpoint holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// The checkpoint's own name: random bytes.
    pub id: [u8; 16],
    /// When it was made, in nanoseconds since 1970, by the clock of the host that made it; 0: not
    /// known.
    pub created_ns: u64,
    /// The caller's number for it.
    pub generation: u64,
    /// Data of the caller's own: for example, which image of the memory belongs to it.
    pub note: Vec<u8>,
    /// With which key it is authenticated, if it is.
    pub key_id: Option<u32>,
    /// Its devices, at least one.
    pub devices: Vec<Entry>,
}

/// A device of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// The caller's name for it, unique in the checkpoint.
    pub name: String,
    /// Its number within its VM, as in each frame of its stream.
    pub device: u32,
    /// The name of its stream.
    pub migration_id: [u8; 16],
    /// Where its stream lies in the file, in order.
    pub pieces: Vec<Piece>,
    /// What the END frame of its stream says.
    pub end: StreamEnd,
    /// What it is, as its stream says.
    pub identity: Box<Identity>,
}

/// A part of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Piece {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes: at least 1.
    pub len: u64,
}

/// What the END frame of a stream says, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StreamEnd {
    /// Bytes of device data.
    pub data_bytes: u64,
    /// Frames of it.
    pub data_frames: u64,
    /// Blobs.
    pub blobs: u32,
    /// CRC-32 over the headers of all frames.
    pub digest: u32,
}

impl StreamEnd {
    /// From the payload of an END frame.
    pub fn from_payload(payload: &[u8; END_LEN]) -> Result<StreamEnd> {
        let mut get = Get { bytes: payload, at: 0 };
        let end = StreamEnd {
            data_bytes: get.u64(),
            data_frames: get.u64(),
            blobs: get.u32(),
            digest: get.u32(),
        };
        match get.u64() {
            0 => Ok(end),
            _ => Err(err!(Proto, "a reserved field of a stream's totals is not zero")),
        }
    }

    fn to_payload(self) -> [u8; END_LEN] {
        let mut out = [0; END_LEN];
        let mut put = Put { out: &mut out, at: 0 };
        put.bytes(&self.data_bytes.to_le_bytes());
        put.bytes(&self.data_frames.to_le_bytes());
        put.bytes(&self.blobs.to_le_bytes());
        put.bytes(&self.digest.to_le_bytes());
        out
    }
}

impl Entry {
    /// The length of its stream in bytes.
    pub fn stream_len(&self) -> u64 {
        self.pieces.iter().fold(0, |sum, piece| sum.saturating_add(piece.len))
    }

    fn check(&self) -> Result<()> {
        let name = &self.name;
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(err!(
                Proto,
                "the name of a device must have 1 to {MAX_NAME} bytes and no control characters"
            ));
        }
        if !(1..=MAX_PIECES).contains(&self.pieces.len()) {
            return Err(err!(Proto, "the stream of {name} is in {} pieces", self.pieces.len()));
        }
        Ok(())
    }
}

impl Manifest {
    /// The device of this name.
    pub fn device(&self, name: &str) -> Option<&Entry> {
        self.devices.iter().find(|entry| entry.name == name)
    }

    /// Whether it makes sense in a file whose manifest begins at `end`.
    pub(super) fn check(&self, end: u64) -> Result<()> {
        let count = self.devices.len();
        if count == 0 {
            return Err(err!(Proto, "a checkpoint of no device"));
        }
        if count > MAX_DEVICES {
            return Err(err!(
                MsgSize,
                "a checkpoint of {count} devices; the most is {MAX_DEVICES}"
            ));
        }
        if self.note.len() > MAX_NOTE {
            return Err(err!(
                MsgSize,
                "a note of {} bytes; the most is {MAX_NOTE}",
                self.note.len()
            ));
        }
        for (at, entry) in self.devices.iter().enumerate() {
            entry.check()?;
            let before = self.devices.get(..at).unwrap_or_default();
            if before.iter().any(|other| other.name == entry.name) {
                return Err(err!(Proto, "two devices of the checkpoint are called {}", entry.name));
            }
            let stream = (entry.migration_id, entry.device);
            if before.iter().any(|other| (other.migration_id, other.device) == stream) {
                return Err(err!(Proto, "a stream occurs twice in the checkpoint"));
            }
        }
        self.check_pieces(end)
    }

    /// Each piece lies between head and manifest, and none within another.
    fn check_pieces(&self, end: u64) -> Result<()> {
        let all = self.devices.iter().flat_map(|entry| entry.pieces.iter().copied());
        let mut pieces = alloc::collect(all, NO_MEMORY)?;
        pieces.sort_unstable_by_key(|piece| piece.offset);
        let mut free = HEAD_LEN as u64;
        for Piece { offset, len } in pieces {
            let until = offset.checked_add(len).filter(|until| *until <= end);
            let Some(until) = until.filter(|_| len > 0 && offset >= free) else {
                return Err(err!(
                    Proto,
                    "a piece of {len} bytes at {offset} is outside of the checkpoint, or overlaps"
                ));
            };
            free = until;
        }
        Ok(())
    }

    /// The bytes of the manifest, without what authenticates it.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        put(&mut out, &MARK)?;
        put(&mut out, &(self.devices.len() as u32).to_le_bytes())?;
        record(&mut out, |out| {
            put_field(out, about::CREATED, &self.created_ns.to_le_bytes())?;
            put_field(out, about::GENERATION, &self.generation.to_le_bytes())?;
            match self.note.is_empty() {
                true => Ok(()),
                false => put_field(out, about::NOTE, &self.note),
            }
        })?;
        for entry in &self.devices {
            record(&mut out, |out| entry.encode(out))?;
        }
        Ok(out)
    }

    /// Reads what [`Manifest::encode`] wrote.
    pub(super) fn decode(bytes: &[u8], id: [u8; 16]) -> Result<Manifest> {
        let mut rest = bytes;
        let mut head = Get { bytes: take(&mut rest, 8)?, at: 0 };
        if head.array() != MARK {
            return Err(err!(Proto, "the checkpoint's manifest does not begin with its mark"));
        }
        let count = head.u32() as usize;
        if count > MAX_DEVICES {
            return Err(err!(
                MsgSize,
                "a checkpoint of {count} devices; the most is {MAX_DEVICES}"
            ));
        }
        let mut manifest = Manifest { id, ..Manifest::default() };
        fields(take_record(&mut rest)?, |number, value| manifest.set(number, value))?;
        for _ in 0..count {
            let mut entry = Entry::default();
            let mut seen = 0u32;
            fields(take_record(&mut rest)?, |number, value| {
                seen |= 1u32.checked_shl(u32::from(number)).unwrap_or(0);
                entry.set(number, value)
            })?;
            entry.check_complete(seen)?;
            alloc::push(&mut manifest.devices, entry, NO_MEMORY)?;
        }
        match rest.len() {
            0 => Ok(manifest),
            more => Err(err!(Proto, "{more} bytes follow the manifest of the checkpoint")),
        }
    }

    fn set(&mut self, number: u16, value: &[u8]) -> Result<()> {
        match number {
            about::CREATED => self.created_ns = sized(number, value, 8)?.u64(),
            about::GENERATION => self.generation = sized(number, value, 8)?.u64(),
            about::NOTE => self.note = alloc::copy(value, NO_MEMORY)?,
            _ => {}
        }
        Ok(())
    }
}

impl Entry {
    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        put_field(out, field::NAME, self.name.as_bytes())?;
        put_field(out, field::DEVICE, &self.device.to_le_bytes())?;
        put_field(out, field::MIGRATION_ID, &self.migration_id)?;
        let mut pieces = alloc::filled(0, self.pieces.len() * 16, NO_MEMORY)?;
        let mut each = Put { out: &mut pieces, at: 0 };
        for piece in &self.pieces {
            each.bytes(&piece.offset.to_le_bytes());
            each.bytes(&piece.len.to_le_bytes());
        }
        put_field(out, field::PIECES, &pieces)?;
        put_field(out, field::END, &self.end.to_payload())?;
        put_field(out, field::IDENTITY, &encode_identity(&self.identity))
    }

    fn set(&mut self, number: u16, value: &[u8]) -> Result<()> {
        match number {
            field::NAME => {
                let name = std::str::from_utf8(value)
                    .map_err(|_| err!(Proto, "the name of a device is not UTF-8"))?;
                self.name = alloc::text(name, NO_MEMORY)?;
            }
            field::DEVICE => self.device = sized(number, value, 4)?.u32(),
            field::MIGRATION_ID => self.migration_id = sized(number, value, 16)?.array(),
            field::PIECES => {
                if value.len() % 16 != 0 || value.len() > MAX_PIECES * 16 {
                    return Err(err!(Proto, "a list of pieces of {} bytes", value.len()));
                }
                let mut get = Get { bytes: value, at: 0 };
                let each =
                    (0..value.len() / 16).map(|_| Piece { offset: get.u64(), len: get.u64() });
                self.pieces = alloc::collect(each, NO_MEMORY)?;
            }
            field::END => {
                let payload = sized(number, value, END_LEN)?.array();
                self.end = StreamEnd::from_payload(&payload)?;
            }
            field::IDENTITY if value.len() > MAX_IDENTITY as usize => {
                return Err(err!(Proto, "an identity of {} bytes", value.len()));
            }
            field::IDENTITY => *self.identity = decode_identity(value)?,
            _ => {}
        }
        Ok(())
    }

    fn check_complete(&self, seen: u32) -> Result<()> {
        let needed = (field::NAME..=field::IDENTITY).fold(0, |bits, number| bits | 1 << number);
        match seen & needed == needed {
            true => Ok(()),
            false => Err(err!(Proto, "a device's record in the manifest lacks a field")),
        }
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    alloc::grow(out, bytes.len(), NO_MEMORY)?;
    out.extend_from_slice(bytes);
    Ok(())
}

fn put_field(out: &mut Vec<u8>, number: u16, value: &[u8]) -> Result<()> {
    let len = u16::try_from(value.len()).map_err(|_| err!(Inval, "a field that is too long"))?;
    put(out, &number.to_le_bytes())?;
    put(out, &len.to_le_bytes())?;
    put(out, value)
}

/// Its length first, then its fields.
fn record(out: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    let at = out.len();
    put(out, &[0; 4])?;
    fields(out)?;
    let len = (out.len() - at - 4) as u32;
    Put { out, at }.bytes(&len.to_le_bytes());
    Ok(())
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8]> {
    let (front, back) = rest
        .split_at_checked(len)
        .ok_or_else(|| err!(Proto, "the manifest of the checkpoint ends too early"))?;
    *rest = back;
    Ok(front)
}

fn take_record<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let len = Get { bytes: take(rest, 4)?, at: 0 }.u32() as usize;
    take(rest, len)
}

/// Each field of a record. One with a number below 32 may stand there once.
fn fields(record: &[u8], mut each: impl FnMut(u16, &[u8]) -> Result<()>) -> Result<()> {
    let (mut rest, mut seen) = (record, 0u32);
    while !rest.is_empty() {
        let mut head = Get { bytes: take(&mut rest, 4)?, at: 0 };
        let (number, len) = (head.u16(), usize::from(head.u16()));
        let bit = 1u32.checked_shl(u32::from(number)).unwrap_or(0);
        if seen & bit != 0 {
            return Err(err!(Proto, "field {number} occurs twice in a record of the manifest"));
        }
        seen |= bit;
        each(number, take(&mut rest, len)?)?;
    }
    Ok(())
}

fn sized(number: u16, value: &[u8], len: usize) -> Result<Get<'_>> {
    match value.len() == len {
        true => Ok(Get { bytes: value, at: 0 }),
        false => Err(err!(Proto, "field {number} of the manifest has {} bytes", value.len())),
    }
}
