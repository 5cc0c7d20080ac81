// SPDX-License-Identifier: MIT OR Apache-2.0
//! Saving in the native format: frames, as many as the buffer holds.

use super::{Control, Filled, Next, Phase, Save, SaveStatus};
use crate::device::Inner;
use crate::error::{Code, Errno, Result, err};
use crate::protocol::v2::ReadStep;
use crate::session::MIN_BUFFER;
use crate::stream::{Encoder, FrameType, HEADER_LEN, encode_identity};

/// Where the stream of frames is.
pub(super) struct Frames {
    encoder: Encoder,
    preamble_sent: bool,
    identity_sent: bool,
}

impl Frames {
    pub(super) fn new(migration_id: [u8; 16], device: u32) -> Frames {
        let encoder = Encoder::new(migration_id, device);
        Frames { encoder, preamble_sent: false, identity_sent: false }
    }

    /// Whether there is anything that a restart would void.
    pub(super) fn begun(&self) -> bool {
        self.identity_sent
    }

    /// Frames so far.
    pub(super) fn sent(&self) -> u64 {
        self.encoder.frames()
    }
}

/// What reading a frame brought.
enum Frame {
    /// A frame of this length, header included.
    Sealed(usize),
    /// No data, and why.
    Empty(ReadStep),
}

impl Save {
    /// As many frames as the buffer holds.
    pub(super) fn next_frames(&mut self, inner: &mut Inner, buf: &mut [u8]) -> Result<Next> {
        // Frames are much smaller than a good buffer, so that each is still in the cache when it is
        // checksummed and, on the target, when it is written to the driver.
        let mut filled = 0;
        loop {
            let rest = buf.get_mut(filled..).unwrap_or_default();
            let full = filled > 0 && rest.len() < MIN_BUFFER;
            if full || self.deferred.is_some() {
                return Ok(Next { status: SaveStatus::More, len: filled });
            }
            let phase = self.phase;
            match self.next_frame(inner, rest) {
                Ok(Next { status: SaveStatus::More, len }) => filled += len,
                Ok(Next { status, len }) => return Ok(Next { status, len: filled + len }),
                Err(error) if filled == 0 => return Err(error),
                Err(error) => {
                    // What has been sealed must be sent before the error is told.
                    if !matches!(error.code(), Code::Again | Code::NoSpace) {
                        self.deferred = Some(error);
                        self.phase = phase;
                    }
                    return Ok(Next { status: SaveStatus::More, len: filled });
                }
            }
        }
    }

    /// One frame, or the preamble.
    fn next_frame(&mut self, inner: &mut Inner, buf: &mut [u8]) -> Result<Next> {
        self.check_cancelled()?;
        self.restart_after_reset(inner)?;
        let more = |len| Ok(Next { status: SaveStatus::More, len });
        if !self.frames.preamble_sent {
            self.frames.preamble_sent = true;
            return more(self.frames.encoder.preamble(buf)?);
        }
        if !self.frames.identity_sent {
            let payload = encode_identity(inner.identity());
            let len = self.frames.encoder.frame(buf, FrameType::Identity, &[&payload])?;
            self.frames.identity_sent = true;
            return more(len);
        }
        if !self.queue.is_empty() {
            return more(self.send_control(buf)?);
        }
        if self.initial.is_due() {
            return more(self.send_mark(buf)?);
        }
        if inner.data().is_none() {
            return match self.streaming {
                // Without pre-copy there is nothing to send before the device stops.
                false => Ok(Next { status: SaveStatus::Drained, len: 0 }),
                true => self.dead(inner, Errno(libc::ENODEV)),
            };
        }
        match self.read_frame(inner, buf)? {
            Frame::Sealed(len) => more(len),
            Frame::Empty(ReadStep::End) => {
                let len = self.frames.encoder.end(buf)?;
                self.phase = Phase::Ended;
                Ok(Next { status: SaveStatus::End, len })
            }
            Frame::Empty(ReadStep::WouldBlock) => {
                Err(err!(Again, "the device has no data now; poll its data fd"))
            }
            Frame::Empty(ReadStep::Dead(errno)) => self.dead(inner, errno),
            Frame::Empty(_) => self.drained(inner, buf),
        }
    }

    /// Reads until the frame is full or the device has nothing more to give at once.
    fn read_frame(&mut self, inner: &mut Inner, buf: &mut [u8]) -> Result<Frame> {
        let Some((room, payload)) = buf.split_at_mut_checked(HEADER_LEN) else {
            return Err(err!(NoSpace, "the buffer is too small for a frame"));
        };
        let limit = payload.len().min(self.options.max_frame as usize);
        let payload = payload.get_mut(..limit).unwrap_or_default();
        let mut crc = crc32fast::Hasher::new();
        let Filled { len, step, failed } = self.read(inner, payload, |piece| crc.update(piece))?;
        self.deferred = failed;
        if len == 0 {
            return Ok(Frame::Empty(step.unwrap_or(ReadStep::Drained)));
        }
        let length = u32::try_from(len).map_err(|_| err!(Inval, "the frame is too long"))?;
        self.frames.encoder.seal(room, FrameType::Data, length, crc.finalize())?;
        if self.phase != Phase::StopCopy && self.initial.is_worth_a_look() {
            self.look_for_initial(inner, false);
        }
        Ok(Frame::Sealed(HEADER_LEN + len))
    }

    /// The device had nothing to read in pre-copy.
    fn drained(&mut self, inner: &mut Inner, buf: &mut [u8]) -> Result<Next> {
        // Asking is what makes mlx5 and virtio produce the next piece.
        self.look_for_initial(inner, true);
        if self.initial.is_due() {
            let len = self.send_mark(buf)?;
            return Ok(Next { status: SaveStatus::More, len });
        }
        Ok(Next { status: SaveStatus::Drained, len: 0 })
    }

    /// All initial data has been sent.
    fn send_mark(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mark = self.initial.generation().to_le_bytes();
        let payload: [&[u8]; 2] = [&mark, &[0; 4]];
        let len = self.frames.encoder.frame(buf, FrameType::InitialComplete, &payload)?;
        self.initial.mark();
        Ok(len)
    }

    fn send_control(&mut self, buf: &mut [u8]) -> Result<usize> {
        let len = match self.queue.front() {
            Some(Control::Restart(count)) => self.frames.encoder.frame(
                buf,
                FrameType::Restart,
                &[&count.to_le_bytes(), &[0; 4]],
            )?,
            Some(Control::Blob(kind, bytes)) => self.frames.encoder.frame(
                buf,
                FrameType::Blob,
                &[&kind.to_le_bytes(), &[0; 4], bytes],
            )?,
            None => 0,
        };
        self.queue.pop_front();
        Ok(len)
    }
}
