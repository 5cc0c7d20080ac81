// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages of the handover as bytes: docs/handover.md.
//!
//! What comes in is the other side's word. It is checked here as a whole before any of it is acted
//! on; what it means is the machine's business.

use super::types::{MAX_DEVICES, Reason};
use crate::alloc;
use crate::crc::crc32;
use crate::error::{Result, err};

/// The longest message, in bytes. It bounds what the other side can make this one store.
pub const MAX_MESSAGE: usize = 64 << 10;
/// The longest description of a device, in bytes: more than the longest exported identity has.
pub const MAX_IDENTITY: usize = 8192;
/// What every message begins with, in bytes.
pub const HEADER_LEN: usize = 36;

const MAGIC: [u8; 4] = *b"VMHO";
const VERSION: u16 = 1;
/// Where the checksum is; it covers everything else.
const CRC_AT: usize = 32;

/// Types of messages: those of the source, then those of the target.
pub(super) mod kind {
    pub const HELLO: u16 = 1;
    pub const SWITCHOVER: u16 = 2;
    pub const END: u16 = 3;
    pub const GO: u16 = 4;
    pub const KEEP: u16 = 5;
    pub const DONE: u16 = 6;
    pub const WELCOME: u16 = 17;
    pub const AGREED: u16 = 18;
    pub const COMMITTED: u16 = 19;
    pub const RUNNING: u16 = 20;
    pub const REFUSED: u16 = 21;
}

/// What a message says, with what it carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Body<'a> {
    /// Source: these are the devices.
    Hello { key_id: [u8; 16], identities: Identities<'a> },
    /// Source: the guest could be stopped.
    Switchover { round: u32, needed: Generations<'a> },
    /// Source: everything is sent.
    End,
    /// Source: the guest was given up; run it.
    Go,
    /// Source: the guest goes on here.
    Keep(Parting),
    /// Source: the target runs, I know.
    Done,
    /// Target: the devices match; this initial data is loaded.
    Welcome { loaded: Generations<'a> },
    /// Target: stop the guest.
    Agreed { round: u32, loaded: Generations<'a> },
    /// Target: every device has accepted its state.
    Committed,
    /// Target: the guest runs here.
    Running,
    /// Target: the guest does not run here, and never will.
    Refused(Parting),
}

/// Why a side has given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Parting {
    pub reason: Reason,
    pub code: i32,
    /// Whether it knows already that the other side has given up too.
    pub heard: bool,
}

/// A length and a text for each device, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identities<'a> {
    pub count: u32,
    bytes: &'a [u8],
}

impl<'a> Identities<'a> {
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = Input(self.bytes);
        std::iter::from_fn(move || rest.sized())
    }
}

/// A generation for each device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Generations<'a> {
    pub count: u32,
    bytes: &'a [u8],
}

impl<'a> Generations<'a> {
    pub fn iter(self) -> impl Iterator<Item = u64> {
        let mut rest = Input(self.bytes);
        std::iter::from_fn(move || rest.u64())
    }
}

/// A message that was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Message<'a> {
    pub migration_id: [u8; 16],
    pub attempt: u32,
    pub body: Body<'a>,
}

/// Bytes that are taken from the front.
#[derive(Clone, Copy)]
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length, and as many bytes as it says.
    fn sized(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        if len > MAX_IDENTITY { None } else { self.take(len) }
    }
}

fn checksum(message: &[u8]) -> u32 {
    let head = message.get(..CRC_AT).unwrap_or(message);
    crc32(&[head, message.get(HEADER_LEN..).unwrap_or_default()])
}

/// How long the message is that begins with these bytes.
pub fn message_len(header: &[u8; HEADER_LEN]) -> Result<usize> {
    let mut input = Input(header);
    let magic = input.array::<4>();
    let version = input.u16();
    input.u16();
    let payload = input.u32();
    let (Some(magic), Some(version), Some(payload)) = (magic, version, payload) else {
        return Err(err!(Proto, "the header of a message is cut off"));
    };
    if magic != MAGIC {
        return Err(err!(Proto, "not a message of a handover"));
    }
    if version != VERSION {
        return Err(err!(Proto, "a message of version {version}; this library reads {VERSION}"));
    }
    let len = (payload as usize).saturating_add(HEADER_LEN);
    if len > MAX_MESSAGE {
        return Err(err!(MsgSize, "a message of {len} bytes; {MAX_MESSAGE} are allowed"));
    }
    Ok(len)
}

/// Reads a whole message.
pub(super) fn decode(bytes: &[u8]) -> Result<Message<'_>> {
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Err(err!(Proto, "a message of {} bytes", bytes.len()));
    };
    let len = message_len(header)?;
    if len != bytes.len() {
        return Err(err!(Proto, "a message says that it has {len} bytes, and has {}", bytes.len()));
    }
    let cut = || err!(Proto, "the header of a message is cut off");
    let mut input = Input(header);
    input.take(6).ok_or_else(cut)?;
    let number = input.u16().ok_or_else(cut)?;
    input.take(4).ok_or_else(cut)?;
    let attempt = input.u32().ok_or_else(cut)?;
    let migration_id = input.array().ok_or_else(cut)?;
    if input.u32() != Some(checksum(bytes)) {
        return Err(err!(BadMsg, "the checksum of a message is wrong"));
    }
    let body = body(number, payload).ok_or_else(|| {
        err!(Proto, "a message of type {number} with a payload that it cannot have")
    })?;
    Ok(Message { migration_id, attempt, body })
}

/// `None`: not what this type carries.
fn body(number: u16, payload: &[u8]) -> Option<Body<'_>> {
    let mut input = Input(payload);
    let body = match number {
        kind::HELLO => {
            let key_id = input.array()?;
            Body::Hello { key_id, identities: identities(&mut input)? }
        }
        kind::SWITCHOVER => {
            let round = input.u32()?;
            Body::Switchover { round, needed: generations(&mut input)? }
        }
        kind::END => Body::End,
        kind::GO => Body::Go,
        kind::KEEP => Body::Keep(parting(&mut input)?),
        kind::DONE => Body::Done,
        kind::WELCOME => Body::Welcome { loaded: generations(&mut input)? },
        kind::AGREED => {
            let round = input.u32()?;
            Body::Agreed { round, loaded: generations(&mut input)? }
        }
        kind::COMMITTED => Body::Committed,
        kind::RUNNING => Body::Running,
        kind::REFUSED => Body::Refused(parting(&mut input)?),
        _ => return None,
    };
    input.0.is_empty().then_some(body)
}

fn count(input: &mut Input<'_>) -> Option<u32> {
    input.u32().filter(|count| (1..=MAX_DEVICES).contains(count))
}

fn identities<'a>(input: &mut Input<'a>) -> Option<Identities<'a>> {
    let count = count(input)?;
    let bytes = input.0;
    for _ in 0..count {
        input.sized()?;
    }
    Some(Identities { count, bytes })
}

fn generations<'a>(input: &mut Input<'a>) -> Option<Generations<'a>> {
    let count = count(input)?;
    let bytes = input.take(count as usize * size_of::<u64>())?;
    Some(Generations { count, bytes })
}

fn parting(input: &mut Input<'_>) -> Option<Parting> {
    let reason = Reason::from_wire(input.u32()?)?;
    let code = input.u32()? as i32;
    let heard = match input.u32()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    Some(Parting { reason, code, heard })
}

/// A message being made, in memory that is used again for the next one.
pub(super) struct Output<'a> {
    bytes: &'a mut Vec<u8>,
}

const NO_MEMORY: &str = "no memory for a message";

impl<'a> Output<'a> {
    /// Begins a message of this type, which must not need more than `payload` bytes.
    pub fn new(bytes: &'a mut Vec<u8>, kind: u16, payload: usize) -> Result<Output<'a>> {
        bytes.clear();
        alloc::reserve(bytes, HEADER_LEN.saturating_add(payload), NO_MEMORY)?;
        let mut out = Output { bytes };
        out.put(&MAGIC);
        out.put(&VERSION.to_le_bytes());
        out.put(&kind.to_le_bytes());
        out.u32(0);
        Ok(out)
    }

    /// Whose message it is.
    pub fn begin(&mut self, attempt: u32, migration_id: &[u8; 16]) {
        self.u32(attempt);
        self.put(migration_id);
        self.u32(0);
    }

    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn u32(&mut self, number: u32) {
        self.put(&number.to_le_bytes());
    }

    pub fn u64(&mut self, number: u64) {
        self.put(&number.to_le_bytes());
    }

    /// Fills in its length and its checksum.
    pub fn seal(self) {
        let payload = self.bytes.len().saturating_sub(HEADER_LEN) as u32;
        if let Some(to) = self.bytes.get_mut(8..12) {
            to.copy_from_slice(&payload.to_le_bytes());
        }
        let crc = checksum(self.bytes);
        if let Some(to) = self.bytes.get_mut(CRC_AT..HEADER_LEN) {
            to.copy_from_slice(&crc.to_le_bytes());
        }
    }
}
