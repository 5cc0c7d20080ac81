// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames of a group: pieces of its devices' streams, each with the number of its device and its
//! place there. docs/group.md has the bytes.
//!
//! What is in a piece is checked where the stream is loaded. Here it only has to be certain whose
//! it is, where it belongs, and how long it is.

use crate::crc::crc32;
use crate::error::{Result, err};

/// What every frame begins with, in bytes.
pub const HEADER_LEN: usize = 32;
/// The longest piece of a stream in one frame, in bytes.
pub const MAX_PIECE: usize = 16 << 20;

const MAGIC: [u8; 4] = *b"VMGR";
const VERSION: u8 = 1;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    /// A piece of a device's stream.
    Data = 1,
    /// From the target: how much it has room for.
    Credit = 2,
}

/// Where the checksum of the header is; it covers what is before it.
const CRC_AT: usize = 28;

/// Tells the frames of one migration from those of another.
pub(super) fn tag_of(migration_id: &[u8; 16]) -> u32 {
    crc32(&[migration_id])
}

/// Where a piece belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub kind: Kind,
    pub device: u32,
    /// Of the first byte in the device's stream. Of a credit: how much there is room for in all, from
    /// the beginning.
    pub offset: u64,
    pub len: u32,
    pub tag: u32,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let device = self.device.to_le_bytes();
        let (offset, len) = (self.offset.to_le_bytes(), self.len.to_le_bytes());
        let tag = self.tag.to_le_bytes();
        let kind = [VERSION, self.kind as u8, 0, 0];
        let fields: [&[u8]; 6] = [&MAGIC, &kind, &device, &len, &offset, &tag];
        for (to, from) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        let check = out.split_at_checked(CRC_AT).map_or(0, |(covered, _)| crc32(&[covered]));
        for (to, from) in out.iter_mut().skip(CRC_AT).zip(check.to_le_bytes()) {
            *to = from;
        }
        out
    }

    /// Reads the beginning of a frame.
    pub fn decode(header: &[u8; HEADER_LEN]) -> Result<Header> {
        let word = |at: usize| {
            let bytes = header.get(at..).and_then(|rest| rest.first_chunk());
            u32::from_le_bytes(bytes.copied().unwrap_or_default())
        };
        if !header.starts_with(&MAGIC) {
            return Err(err!(Proto, "not a frame of a group"));
        }
        let covered = header.split_at_checked(CRC_AT).map_or(&[][..], |(covered, _)| covered);
        if crc32(&[covered]) != word(CRC_AT) {
            return Err(err!(BadMsg, "the checksum of a frame's header is wrong"));
        }
        let kind = match word(4).to_le_bytes() {
            [VERSION, 1, 0, 0] => Kind::Data,
            [VERSION, 2, 0, 0] => Kind::Credit,
            _ => return Err(err!(Proto, "a frame of a version or a kind that is not known here")),
        };
        let len = word(12);
        if kind == Kind::Credit && len != 0 {
            return Err(err!(Proto, "a credit with {len} bytes"));
        }
        if kind == Kind::Data && len == 0 || len as usize > MAX_PIECE {
            return Err(err!(MsgSize, "a frame with {len} bytes; 1 to {MAX_PIECE} are allowed"));
        }
        let offset = u64::from(word(16)) | u64::from(word(20)) << 32;
        if offset.checked_add(u64::from(len)).is_none() {
            return Err(err!(Proto, "a frame's place is beyond the end of any stream"));
        }
        Ok(Header { kind, device: word(8), offset, len, tag: word(24) })
    }

    /// Divides a whole frame.
    pub fn split(frame: &[u8]) -> Result<(Header, &[u8])> {
        let Some((header, piece)) = frame.split_first_chunk::<HEADER_LEN>() else {
            return Err(err!(Proto, "{} bytes are not a whole frame", frame.len()));
        };
        let header = Header::decode(header)?;
        if piece.len() != header.len as usize {
            let (came, said) = (piece.len(), header.len);
            return Err(err!(Proto, "a frame of {said} bytes came with {came}"));
        }
        Ok((header, piece))
    }
}

/// How long the frame is that begins with these bytes, its header included.
pub fn frame_len(header: &[u8; HEADER_LEN]) -> Result<usize> {
    Ok(HEADER_LEN + Header::decode(header)?.len as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    const SOME: Header =
        Header { kind: Kind::Data, device: 3, offset: 0x1_0000_0005, len: 4, tag: 77 };

    #[test]
    fn a_header_is_what_it_was_made_of() {
        let bytes = SOME.encode();
        assert_eq!(Header::decode(&bytes).unwrap(), SOME);
        assert_eq!(frame_len(&bytes).unwrap(), HEADER_LEN + 4);
        assert_eq!(bytes[..8], *b"VMGR\x01\x01\0\0");
        assert_eq!(bytes[8..28], [3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 77, 0, 0, 0]);
        let frame = [&bytes[..], b"abcd"].concat();
        assert_eq!(Header::split(&frame).unwrap(), (SOME, &b"abcd"[..]));
    }

    #[test]
    fn a_changed_or_cut_frame_is_refused() {
        let frame = [&SOME.encode()[..], b"abcd"].concat();
        for at in 0..HEADER_LEN {
            let mut changed = frame.clone();
            changed[at] ^= 0x10;
            let code = Header::split(&changed).unwrap_err().code();
            assert_eq!(code, if at < 4 { Code::Proto } else { Code::BadMsg }, "byte {at}");
        }
        for len in 0..frame.len() {
            assert_eq!(Header::split(&frame[..len]).unwrap_err().code(), Code::Proto, "{len}");
        }
        let longer = [&frame[..], b"e"].concat();
        assert_eq!(Header::split(&longer).unwrap_err().code(), Code::Proto);
    }

    #[test]
    fn lengths_and_places_are_bounded() {
        for (len, offset, code) in [
            (0, 0, Code::MsgSize),
            (MAX_PIECE as u32 + 1, 0, Code::MsgSize),
            (u32::MAX, 0, Code::MsgSize),
            (2, u64::MAX - 1, Code::Proto),
        ] {
            let header = Header { offset, len, ..SOME }.encode();
            assert_eq!(frame_len(&header).unwrap_err().code(), code, "{len} {offset}");
        }
        let last = Header { offset: u64::MAX - 1, len: 1, ..SOME };
        assert_eq!(Header::decode(&last.encode()).unwrap(), last);
    }

    #[test]
    fn kinds_that_are_not_known_are_refused() {
        for at in 4..8 {
            let mut header = SOME.encode();
            header[at] = 9;
            let check = crc32(&[&header[..CRC_AT]]).to_le_bytes();
            header[CRC_AT..].copy_from_slice(&check);
            assert_eq!(Header::decode(&header).unwrap_err().code(), Code::Proto);
        }
    }
}
