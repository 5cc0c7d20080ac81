// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing in the native format: a frame per piece, as many pieces as the buffer holds.
//!
//! Frames are much smaller than a good buffer, so each is still in the cache when it is checksummed
//! and, on the target, when it is written to the driver.

use super::encode::Encoder;
use super::frame::{FrameType, HEADER_LEN};
use super::identity::encode_identity;
use crate::error::{Result, err};
use crate::stream::writer::{Before, Piece, Room, Round, SaveStatus, Took, Waiting, Write};

/// Writes one stream of frames.
pub(crate) struct Writer {
    encoder: Encoder,
    max_frame: usize,
    preamble_sent: bool,
    identity_sent: bool,
}

impl Writer {
    /// A new stream, whose data frames have a payload of at most `max_frame` bytes.
    pub fn new(migration_id: [u8; 16], device: u32, max_frame: u32) -> Writer {
        Writer {
            encoder: Encoder::new(migration_id, device),
            max_frame: max_frame as usize,
            preamble_sent: false,
            identity_sent: false,
        }
    }

    /// A frame without data; reserved fields are 0.
    fn say(&mut self, what: &Waiting, buf: &mut [u8]) -> Result<usize> {
        match what {
            Waiting::Restart(number) => {
                self.encoder.frame(buf, FrameType::Restart, &[&number.to_le_bytes(), &[0; 4]])
            }
            Waiting::Blob(kind, bytes) => {
                self.encoder.frame(buf, FrameType::Blob, &[&kind.to_le_bytes(), &[0; 4], bytes])
            }
        }
    }
}

impl Write for Writer {
    fn gives_several(&self) -> bool {
        true
    }

    fn check_blob(&self, _kind: u32, _stopped: bool, _others: u32) -> Result<()> {
        Ok(())
    }

    fn before_data(&mut self, before: &Before<'_>, buf: &mut [u8]) -> Result<Option<Piece>> {
        if !self.preamble_sent {
            let len = self.encoder.preamble(buf)?;
            self.preamble_sent = true;
            return Ok(Some(Piece::more(len)));
        }
        if !self.identity_sent {
            let payload = encode_identity(before.identity);
            let len = self.encoder.frame(buf, FrameType::Identity, &[&payload])?;
            self.identity_sent = true;
            return Ok(Some(Piece::more(len)));
        }
        if let Some(first) = before.first {
            let len = self.say(first, buf)?;
            return Ok(Some(Piece { took: Took::First, ..Piece::more(len) }));
        }
        if let Some(mark) = before.mark {
            let payload: [&[u8]; 2] = [&mark.to_le_bytes(), &[0; 4]];
            let len = self.encoder.frame(buf, FrameType::InitialComplete, &payload)?;
            return Ok(Some(Piece { took: Took::Mark, ..Piece::more(len) }));
        }
        Ok(None)
    }

    fn room<'b>(&mut self, buf: &'b mut [u8], _stopped: bool) -> Result<Room<'b>> {
        Ok(Room::new(buf, HEADER_LEN, 0, self.max_frame).checked())
    }

    fn seal(&mut self, room: Room<'_>, round: &Round) -> Result<Piece> {
        let (buf, len, crc) = room.into_parts();
        if len > 0 {
            let length = u32::try_from(len).map_err(|_| err!(Inval, "the frame is too long"))?;
            self.encoder.seal(buf, FrameType::Data, length, crc)?;
            return Ok(Piece::more(HEADER_LEN + len));
        }
        if round.ended {
            let len = self.encoder.end(buf)?;
            return Ok(Piece { len, status: SaveStatus::End, took: Took::Nothing });
        }
        // A mark has a frame of its own, which comes next.
        let status = if round.mark.is_some() { SaveStatus::More } else { SaveStatus::Drained };
        Ok(Piece { len: 0, status, took: Took::Nothing })
    }

    fn begun(&self) -> bool {
        self.identity_sent
    }

    fn frames(&self) -> u64 {
        self.encoder.frames()
    }
}
