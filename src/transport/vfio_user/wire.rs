// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages as they are on the socket: a header of 16 bytes, and what follows it. Numbers are in the
//! machine's own byte order, because both sides are on one machine.

use crate::error::Errno;

/// Length of the header, in bytes.
pub(super) const HEADER: usize = 16;
/// The longest message that is read, in bytes: what a peer claims beyond this is nonsense.
pub(super) const LONGEST: usize = 64 << 20;

/// Commands, by their numbers in the protocol.
pub mod command {
    /// Negotiation, which comes first.
    pub const VERSION: u16 = 1;
    /// Memory that the server may use.
    pub const DMA_MAP: u16 = 2;
    /// Memory that it may no longer use.
    pub const DMA_UNMAP: u16 = 3;
    /// What kind of device it is.
    pub const DEVICE_GET_INFO: u16 = 4;
    /// Reads a region of the device.
    pub const REGION_READ: u16 = 9;
    /// The server reads memory.
    pub const DMA_READ: u16 = 11;
    /// The server writes to memory.
    pub const DMA_WRITE: u16 = 12;
    /// Resets the device.
    pub const DEVICE_RESET: u16 = 13;
    /// `VFIO_DEVICE_FEATURE`.
    pub const DEVICE_FEATURE: u16 = 16;
    /// Reads migration data.
    pub const MIG_DATA_READ: u16 = 17;
    /// Writes migration data.
    pub const MIG_DATA_WRITE: u16 = 18;
}

const TYPE: u32 = 0xf;
const REPLY: u32 = 1;
const NO_REPLY: u32 = 0x10;
const ERROR: u32 = 0x20;
/// The largest errno there is.
const MAX_ERRNO: u32 = 4095;

/// What stands before each message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub id: u16,
    pub command: u16,
    /// Length of what follows the header, in bytes.
    pub body: usize,
    flags: u32,
    error: u32,
}

impl Header {
    /// The header of a command with a body of this length.
    pub fn command(id: u16, command: u16, body: usize) -> Header {
        Header { id, command, body, flags: 0, error: 0 }
    }

    /// The header of the reply to this command.
    pub fn reply(self, body: usize) -> Header {
        Header { body, flags: REPLY, error: 0, ..self }
    }

    /// The header of a reply that refuses this command.
    pub fn refusal(self, errno: Errno) -> Header {
        let error = u32::try_from(errno.0).unwrap_or(libc::EIO as u32);
        Header { body: 0, flags: REPLY | ERROR, error, ..self }
    }

    pub fn to_bytes(self) -> [u8; HEADER] {
        let size = (HEADER + self.body) as u32;
        let ids = u32::from_ne_bytes(join(self.id.to_ne_bytes(), self.command.to_ne_bytes()));
        let mut out = [0; HEADER];
        for (to, from) in out.chunks_exact_mut(4).zip([ids, size, self.flags, self.error]) {
            to.copy_from_slice(&from.to_ne_bytes());
        }
        out
    }

    /// What a peer has sent. `EPROTO` if it cannot be a header: then nobody knows where the next
    /// message begins.
    pub fn parse(bytes: [u8; HEADER]) -> Result<Header, Errno> {
        let number = |at: usize| -> Option<u32> {
            Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
        };
        let found = || {
            let [a, b, c, d] = number(0)?.to_ne_bytes();
            let size = usize::try_from(number(4)?).ok()?;
            let body = size.checked_sub(HEADER).filter(|_| size <= LONGEST)?;
            let (id, command) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
            let header = Header { id, command, body, flags: number(8)?, error: number(12)? };
            (header.flags & TYPE <= REPLY).then_some(header)
        };
        found().ok_or(Errno(libc::EPROTO))
    }

    pub fn is_reply(&self) -> bool {
        self.flags & TYPE == REPLY
    }

    /// Whether the peer waits for a reply to this command.
    pub fn wants_reply(&self) -> bool {
        self.flags & NO_REPLY == 0
    }

    /// Why the command was refused, if this reply says that it was.
    pub fn refused(&self) -> Option<Errno> {
        if self.flags & ERROR == 0 {
            return None;
        }
        let known =
            i32::try_from(self.error).ok().filter(|_| (1..=MAX_ERRNO).contains(&self.error));
        Some(Errno(known.unwrap_or(libc::EIO)))
    }
}

fn join(a: [u8; 2], b: [u8; 2]) -> [u8; 4] {
    let ([a, b], [c, d]) = (a, b);
    [a, b, c, d]
}

/// Puts 32-bit and 64-bit numbers one after the other.
pub(super) struct Fields<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Fields<N> {
    pub fn new() -> Fields<N> {
        Fields { bytes: [0; N], len: 0 }
    }

    fn put(mut self, from: &[u8]) -> Fields<N> {
        if let Some(to) = self.bytes.get_mut(self.len..self.len + from.len()) {
            to.copy_from_slice(from);
            self.len += from.len();
        }
        self
    }

    pub fn u32(self, value: u32) -> Fields<N> {
        self.put(&value.to_ne_bytes())
    }

    pub fn u64(self, value: u64) -> Fields<N> {
        self.put(&value.to_ne_bytes())
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// A 32-bit number at an offset; `EPROTO` where there is none.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Errno> {
    let found = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    found.map(|bytes| u32::from_ne_bytes(*bytes)).ok_or(Errno(libc::EPROTO))
}

/// A 64-bit number at an offset; `EPROTO` where there is none.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Errno> {
    let found = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    found.map(|bytes| u64::from_ne_bytes(*bytes)).ok_or(Errno(libc::EPROTO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_went() {
        let command = Header::command(7, command::MIG_DATA_READ, 8);
        let reply = command.reply(1 << 20);
        let refusal = command.refusal(Errno(libc::ENOENT));
        for header in [command, reply, refusal] {
            assert_eq!(Header::parse(header.to_bytes()), Ok(header));
        }
        assert_eq!(
            command.to_bytes()[..8],
            [7u16.to_ne_bytes(), 17u16.to_ne_bytes(), 24u16.to_ne_bytes(), [0, 0]].concat()
        );
        assert_eq!((command.is_reply(), reply.is_reply(), refusal.is_reply()), (false, true, true));
        assert_eq!((reply.refused(), refusal.refused()), (None, Some(Errno(libc::ENOENT))));
    }

    #[test]
    fn what_cannot_be_a_header_is_refused() {
        let with = |at: usize, value: u32| {
            let mut bytes = Header::command(1, 2, 0).to_bytes();
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            Header::parse(bytes)
        };
        let no = Err(Errno(libc::EPROTO));
        for size in [0, 15, LONGEST as u32 + 1, u32::MAX] {
            assert_eq!(with(4, size), no, "{size}");
        }
        assert_eq!(with(4, 16).unwrap().body, 0);
        assert_eq!(with(4, LONGEST as u32).unwrap().body, LONGEST - 16);
        assert_eq!((with(8, 2), with(8, 15)), (no, no));
        assert!(!with(8, 0x10).unwrap().wants_reply());
        assert_eq!(with(8, 0x21).unwrap().refused(), Some(Errno(libc::EIO)));
        for (error, errno) in [(0, libc::EIO), (4096, libc::EIO), (u32::MAX, libc::EIO), (1, 1)] {
            let mut bytes = Header::command(1, 2, 0).refusal(Errno(0)).to_bytes();
            bytes[12..].copy_from_slice(&error.to_ne_bytes());
            assert_eq!(Header::parse(bytes).unwrap().refused(), Some(Errno(errno)), "{error}");
        }
    }

    #[test]
    fn numbers_that_are_not_there_are_not_read() {
        let fields = Fields::<16>::new().u32(1).u64(2).u32(3);
        assert_eq!((u32_at(fields.bytes(), 0), u64_at(fields.bytes(), 4)), (Ok(1), Ok(2)));
        assert_eq!(u32_at(fields.bytes(), 12), Ok(3));
        for at in [13, 16, 17, usize::MAX] {
            assert_eq!(u32_at(fields.bytes(), at), Err(Errno(libc::EPROTO)));
            assert_eq!(u64_at(fields.bytes(), at), Err(Errno(libc::EPROTO)));
        }
    }
}
