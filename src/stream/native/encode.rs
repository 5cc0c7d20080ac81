// SPDX-License-Identifier: MIT OR Apache-2.0
//! The writing side: seals frames in buffers that the caller provides, and keeps the totals.

use super::frame::{FrameFlags, FrameHeader, FrameType, HEADER_LEN, PREAMBLE_LEN, encode_preamble};
use super::totals::Totals;
use crate::error::{Result, err};
use crate::stream::bytes::Put;
use crate::stream::writer::too_small;

/// The state of one stream being written.
pub struct Encoder {
    migration_id: [u8; 16],
    device: u32,
    pub(super) sequence: u64,
    pub(super) totals: Totals,
}

impl Encoder {
    /// A new stream.
    pub fn new(migration_id: [u8; 16], device: u32) -> Encoder {
        Encoder { migration_id, device, sequence: 0, totals: Totals::default() }
    }

    /// Bytes of device data so far, since the last RESTART.
    pub fn data_bytes(&self) -> u64 {
        self.totals.data_bytes
    }

    /// Frames so far.
    pub fn frames(&self) -> u64 {
        self.sequence
    }

    /// Writes the preamble.
    pub fn preamble(&self, buf: &mut [u8]) -> Result<usize> {
        let slot = buf.get_mut(..PREAMBLE_LEN).ok_or_else(|| too_small(PREAMBLE_LEN))?;
        slot.copy_from_slice(&encode_preamble(&self.migration_id));
        Ok(PREAMBLE_LEN)
    }

    /// Seals the frame whose payload already lies after the room for its header.
    pub fn seal(
        &mut self,
        room: &mut [u8],
        kind: FrameType,
        length: u32,
        payload_crc: u32,
    ) -> Result<()> {
        let slot = room.get_mut(..HEADER_LEN).ok_or_else(|| too_small(HEADER_LEN))?;
        let header = FrameHeader {
            kind,
            flags: FrameFlags::empty(),
            device: self.device,
            length,
            sequence: self.sequence,
            payload_crc,
        };
        let bytes = header.encode(&self.migration_id);
        slot.copy_from_slice(&bytes);
        self.totals.add(&header, &bytes);
        self.sequence += 1;
        Ok(())
    }

    /// Writes a whole frame; its payload is the concatenation of the parts. Returns its length.
    pub fn frame(&mut self, buf: &mut [u8], kind: FrameType, parts: &[&[u8]]) -> Result<usize> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let needed = HEADER_LEN + len;
        let frame = buf.get_mut(..needed).ok_or_else(|| too_small(needed))?;
        let length = u32::try_from(len).map_err(|_| err!(Inval, "the frame is too long"))?;
        let (room, payload) = frame.split_at_mut(HEADER_LEN);
        let mut put = Put { out: payload, at: 0 };
        for part in parts {
            put.bytes(part);
        }
        let crc = crc32fast::hash(payload);
        self.seal(room, kind, length, crc)?;
        Ok(needed)
    }

    /// Writes the END frame.
    pub fn end(&mut self, buf: &mut [u8]) -> Result<usize> {
        let payload = self.totals.end_payload();
        self.frame(buf, FrameType::End, &[&payload])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_depends_on_every_frames_contents_and_order() {
        let digest = |frames: &[(&[u8], FrameType)]| {
            let mut encoder = Encoder::new([3; 16], 0);
            let mut buf = [0; 100];
            for (payload, kind) in frames {
                encoder.frame(&mut buf, *kind, &[payload]).unwrap();
            }
            encoder.totals.end_payload()
        };
        let (a, b): ((&[u8], _), (&[u8], _)) =
            ((b"abcd", FrameType::Data), (b"efgh", FrameType::Data));
        let all = [digest(&[a, b]), digest(&[b, a]), digest(&[a, a]), digest(&[b, b])];
        for (i, one) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|other| other != one));
        }
    }
}
