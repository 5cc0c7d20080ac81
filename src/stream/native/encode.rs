// SPDX-License-Identifier: MIT OR Apache-2.0
//! The writing side: seals frames in buffers that the caller provides, and keeps the totals.

use super::check::Check;
use super::frame::{Features, FrameFlags, FrameHeader, FrameType, PREAMBLE_LEN, encode_preamble};
use super::mac::{BLOCK_LEN, Block, NONCE_LEN, Tagger};
use super::totals::Totals;
use crate::error::{Result, err};
use crate::stream::auth::{Auth, TAG_LEN};
use crate::stream::bytes::Put;
use crate::stream::writer::too_small;

/// The state of one stream being written.
pub struct Encoder {
    migration_id: [u8; 16],
    device: u32,
    /// What stands behind the preamble of an authenticated stream, and its tag.
    block: Option<([u8; BLOCK_LEN], [u8; TAG_LEN])>,
    pub(super) check: Check,
    pub(super) sequence: u64,
    pub(super) totals: Totals,
}

impl Encoder {
    /// A new stream.
    pub fn new(migration_id: [u8; 16], device: u32) -> Encoder {
        Encoder {
            migration_id,
            device,
            block: None,
            check: Check::default(),
            sequence: 0,
            totals: Totals::default(),
        }
    }

    /// A new authenticated stream. No other stream may have the same `nonce`: random bytes.
    pub fn authenticated(
        migration_id: [u8; 16],
        device: u32,
        auth: Auth,
        nonce: [u8; NONCE_LEN],
    ) -> Result<Encoder> {
        auth.check()?;
        let preamble = encode_preamble(&migration_id, Features::AUTHENTICATED);
        let block = Block::new(&auth, device, nonce).encode(&migration_id);
        let mut tagger = Tagger::new(auth.secret, auth.key_id, &preamble, &block)?;
        let tag = tagger.seal_block(&preamble, &block)?;
        let plain = Encoder::new(migration_id, device);
        Ok(Encoder { block: Some((block, tag)), check: Check::Tag(tagger), ..plain })
    }

    /// Bytes of device data so far, since the last RESTART.
    pub fn data_bytes(&self) -> u64 {
        self.totals.data_bytes
    }

    /// Frames so far.
    pub fn frames(&self) -> u64 {
        self.sequence
    }

    /// Writes the preamble, and what belongs to it.
    pub fn preamble(&self, buf: &mut [u8]) -> Result<usize> {
        let (needed, features) = match self.block {
            None => (PREAMBLE_LEN, Features::empty()),
            Some(_) => (PREAMBLE_LEN + BLOCK_LEN + TAG_LEN, Features::AUTHENTICATED),
        };
        let out = buf.get_mut(..needed).ok_or_else(|| too_small(needed))?;
        let mut put = Put { out, at: 0 };
        put.bytes(&encode_preamble(&self.migration_id, features));
        if let Some((block, tag)) = &self.block {
            put.bytes(block);
            put.bytes(tag);
        }
        Ok(needed)
    }

    /// Seals the frame whose payload already lies after the room for what stands before it, and has
    /// gone through the check.
    pub(super) fn seal(&mut self, room: &mut [u8], kind: FrameType, length: u32) -> Result<()> {
        let head_len = self.check.head_len();
        let head = room.get_mut(..head_len).ok_or_else(|| too_small(head_len))?;
        let header = FrameHeader {
            kind,
            flags: FrameFlags::empty(),
            device: self.device,
            length,
            sequence: self.sequence,
            payload_crc: self.check.sum(),
        };
        let bytes = header.encode(&self.migration_id);
        self.check.seal(head, &bytes)?;
        self.totals.add(&header, &bytes);
        self.sequence += 1;
        Ok(())
    }

    /// Writes a whole frame; its payload is the concatenation of the parts. Returns its length.
    pub fn frame(&mut self, buf: &mut [u8], kind: FrameType, parts: &[&[u8]]) -> Result<usize> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let head_len = self.check.head_len();
        let needed = head_len + len;
        let frame = buf.get_mut(..needed).ok_or_else(|| too_small(needed))?;
        let length = u32::try_from(len).map_err(|_| err!(Inval, "the frame is too long"))?;
        let (room, payload) = frame.split_at_mut(head_len);
        let mut put = Put { out: payload, at: 0 };
        for part in parts {
            put.bytes(part);
        }
        self.check.begin();
        self.check.update(payload);
        self.seal(room, kind, length)?;
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
