// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing in the native format: a frame per piece, as many pieces as the buffer holds.
//!
//! Frames are much smaller than a good buffer, so each is still in the cache when it is checksummed
//! and, on the target, when it is written to the driver.

use super::check::Check;
use super::encode::Encoder;
use super::frame::FrameType;
use super::identity::encode_identity;
use super::mac::{NONCE_LEN, STEP};
use crate::error::{Result, err};
use crate::stream::auth::Auth;
use crate::stream::writer::{Before, Piece, Room, Round, SaveStatus, Took, Waiting, Write};

/// Writes one stream of frames.
pub(crate) struct Writer {
    encoder: Encoder,
    max_frame: usize,
    /// Data frames are a multiple of this long, where there is room and data: their checks go
    /// faster then.
    step: usize,
    preamble_sent: bool,
    identity_sent: bool,
}

impl Writer {
    /// A new stream, whose data frames have a payload of at most `max_frame` bytes.
    pub fn new(migration_id: [u8; 16], device: u32, max_frame: u32) -> Writer {
        Writer::with(Encoder::new(migration_id, device), max_frame as usize, 1)
    }

    /// The same, authenticated; the random number `nonce` is the stream's alone.
    pub fn authenticated(
        migration_id: [u8; 16],
        device: u32,
        max_frame: u32,
        auth: Auth,
        nonce: [u8; NONCE_LEN],
    ) -> Result<Writer> {
        let encoder = Encoder::authenticated(migration_id, device, auth, nonce)?;
        Ok(Writer::with(encoder, max_frame as usize, STEP))
    }

    fn with(encoder: Encoder, max_frame: usize, step: usize) -> Writer {
        Writer { encoder, max_frame, step, preamble_sent: false, identity_sent: false }
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

    fn least_room(&self) -> usize {
        match self.step {
            1 => 0,
            step => self.encoder.check.head_len() + step.min(self.max_frame),
        }
    }

    fn room<'b>(&'b mut self, buf: &'b mut [u8], _stopped: bool) -> Result<Room<'b>> {
        let check = &mut self.encoder.check;
        let head_len = check.head_len();
        let most = buf.len().saturating_sub(head_len).min(self.max_frame);
        let even = if most < self.step { most } else { most - most % self.step };
        check.begin();
        Ok(Room::new(buf, head_len, 0, even).watched(check))
    }

    fn seal(&mut self, buf: &mut [u8], len: usize, round: &Round) -> Result<Piece> {
        if len > 0 {
            let length = u32::try_from(len).map_err(|_| err!(Inval, "the frame is too long"))?;
            self.encoder.seal(buf, FrameType::Data, length)?;
            return Ok(Piece::more(self.encoder.check.head_len() + len));
        }
        if round.ended {
            let len = self.encoder.end(buf)?;
            // The stream's own key is of no more use.
            self.encoder.check = Check::default();
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
