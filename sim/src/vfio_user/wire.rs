// SPDX-License-Identifier: MIT OR Apache-2.0
//! What vfio-user messages look like: headers, and numbers at places of a payload. All are in the
//! byte order of the host.

/// Length of a header, in bytes.
pub(crate) const HEADER: usize = 16;

/// The numbers of commands.
pub(crate) const VERSION: u16 = 1;
pub(crate) const DMA_MAP: u16 = 2;
pub(crate) const DMA_UNMAP: u16 = 3;
pub(crate) const GET_INFO: u16 = 4;
pub(crate) const GET_REGION_INFO: u16 = 5;
pub(crate) const GET_IRQ_INFO: u16 = 7;
pub(crate) const SET_IRQS: u16 = 8;
pub(crate) const REGION_READ: u16 = 9;
pub(crate) const REGION_WRITE: u16 = 10;
pub(crate) const DMA_READ: u16 = 11;
pub(crate) const DMA_WRITE: u16 = 12;
pub(crate) const RESET: u16 = 13;
pub(crate) const FEATURE: u16 = 16;
pub(crate) const MIG_DATA_READ: u16 = 17;
pub(crate) const MIG_DATA_WRITE: u16 = 18;

const TYPE_MASK: u32 = 0xf;
/// Of a header's flags: it is not a command.
pub(crate) const REPLY: u32 = 1;
const NO_REPLY: u32 = 0x10;
/// Of a header's flags: the reply is an error.
pub(crate) const ERROR: u32 = 0x20;

/// What every message begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub id: u16,
    pub command: u16,
    /// Of the whole message.
    pub size: u32,
    pub flags: u32,
    pub error: u32,
}

impl Header {
    pub fn command(id: u16, command: u16, payload: usize) -> Header {
        Header { id, command, size: whole(payload), flags: 0, error: 0 }
    }

    /// Of a reply without an error.
    pub fn reply(&self, payload: usize) -> Header {
        Header { size: whole(payload), flags: REPLY, error: 0, ..*self }
    }

    pub fn is_command(&self) -> bool {
        self.flags & TYPE_MASK == 0
    }

    pub fn is_reply_to(&self, other: &Header) -> bool {
        self.flags & TYPE_MASK == REPLY && (self.id, self.command) == (other.id, other.command)
    }

    pub fn wants_reply(&self) -> bool {
        self.flags & NO_REPLY == 0
    }

    pub fn is_error(&self) -> bool {
        self.flags & ERROR != 0
    }

    pub fn parse(bytes: &[u8; HEADER]) -> Header {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *bytes;
        Header {
            id: u16::from_ne_bytes([a, b]),
            command: u16::from_ne_bytes([c, d]),
            size: u32::from_ne_bytes([e, f, g, h]),
            flags: u32::from_ne_bytes([i, j, k, l]),
            error: u32::from_ne_bytes([m, n, o, p]),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER);
        out.extend(self.id.to_ne_bytes());
        out.extend(self.command.to_ne_bytes());
        [self.size, self.flags, self.error].iter().for_each(|word| out.extend(word.to_ne_bytes()));
        out
    }
}

fn whole(payload: usize) -> u32 {
    u32::try_from(HEADER + payload).unwrap_or(u32::MAX)
}

/// A number of a payload; EINVAL if the payload is too short for it.
pub(crate) fn u32_at(payload: &[u8], at: usize) -> Result<u32, i32> {
    let raw = payload.get(at..).and_then(|rest| rest.first_chunk());
    raw.map(|raw| u32::from_ne_bytes(*raw)).ok_or(libc::EINVAL)
}

/// The same with 64 bits.
pub(crate) fn u64_at(payload: &[u8], at: usize) -> Result<u64, i32> {
    let raw = payload.get(at..).and_then(|rest| rest.first_chunk());
    raw.map(|raw| u64::from_ne_bytes(*raw)).ok_or(libc::EINVAL)
}

/// 32-bit numbers as they lie in a payload.
pub(crate) fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

/// 64-bit ones.
pub(crate) fn long_words(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

/// An errno of the system's.
pub(crate) fn errno(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
