// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reading side: takes the stream split in any way, and passes on only what it has verified.
//!
//! A frame that lies completely in the caller's input is verified there and passed on from there;
//! one that crosses inputs is put together in [`Staging`]. Lengths and counts are checked before
//! anything is allocated or waited for.

mod steps;

pub(crate) use steps::Unit;

use super::check::{Check, MAX_HEAD};
use super::frame::{
    Binding, END_LEN, Features, FrameFlags, FrameHeader, FrameType, HEADER_LEN, PREAMBLE_LEN,
    decode_preamble,
};
use super::identity::{MAX_IDENTITY, decode_identity};
use super::mac::{BLOCK_LEN, Block, Tagger};
use super::staging::{Found, Staging};
use super::totals::Totals;
use crate::error::{Code, Error, Result, err};
use crate::stream::auth::{Auth, TAG_LEN};
use crate::stream::bytes::{Get, Put};
use crate::stream::reader::{DecodeLimits, Item, Read};

enum Awaiting {
    Preamble,
    /// How the stream is authenticated; the preamble's bytes.
    Block([u8; PREAMBLE_LEN]),
    Header,
    Payload(FrameHeader),
    Nothing,
}

/// The state of one stream being read.
pub struct Decoder {
    limits: DecodeLimits,
    /// What the caller verifies streams with, until the stream says whether that is needed.
    auth: Option<Auth>,
    awaiting: Awaiting,
    staging: Staging,
    /// What stands before the payload that is awaited.
    head: [u8; MAX_HEAD],
    migration_id: [u8; 16],
    binding: Binding,
    device: Option<u32>,
    sequence: u64,
    totals: Totals,
    /// Payloads of data and of skipped frames in all, including restarts.
    data_ever: u64,
    other_frames: u64,
    /// Number of the latest mark of complete initial data; numbers increase.
    last_mark: u32,
    restarts: u32,
    /// Number of the latest restart; numbers increase.
    last_restart: u32,
    refused: Option<Code>,
    /// Goes on without a key, and after a refusal: `steps.rs`.
    lenient: bool,
}

impl Decoder {
    /// A reader of one stream.
    pub fn new(limits: DecodeLimits) -> Decoder {
        let longest = limits.longest_frame();
        Decoder {
            limits: DecodeLimits {
                max_frame: limits.max_frame.min(longest),
                max_blob: limits.max_blob.min(longest),
                ..limits
            },
            auth: None,
            awaiting: Awaiting::Preamble,
            staging: Staging::new(),
            head: [0; MAX_HEAD],
            migration_id: [0; 16],
            binding: Binding::of(&[0; 16]),
            device: None,
            sequence: 0,
            totals: Totals::default(),
            data_ever: 0,
            other_frames: 0,
            last_mark: 0,
            restarts: 0,
            last_restart: 0,
            refused: None,
            lenient: false,
        }
    }

    /// A reader of one stream that is authenticated.
    pub fn authenticated(limits: DecodeLimits, auth: Auth) -> Result<Decoder> {
        auth.check()?;
        Ok(Decoder { auth: Some(auth), ..Decoder::new(limits) })
    }

    /// Whether the END frame has come and was right.
    pub fn ended(&self) -> bool {
        matches!(self.awaiting, Awaiting::Nothing) && self.refused.is_none()
    }

    /// Checks what will be passed on, so that a refusal is remembered.
    fn hand_on<'i>(
        &mut self,
        found: Option<(FrameHeader, Found<'i>)>,
    ) -> Result<Option<(FrameHeader, Found<'i>)>> {
        if let Some((header, found)) = found {
            let item = Self::interpret(&header, self.staging.bytes_of(found))?;
            let (last, number) = match item {
                Item::InitialComplete(number) => (&mut self.last_mark, number),
                Item::Restart(number) => (&mut self.last_restart, number),
                _ => return Ok(Some((header, found))),
            };
            if number <= *last {
                return Err(err!(
                    Proto,
                    "the number in frame {} does not increase",
                    header.sequence
                ));
            }
            *last = number;
        }
        Ok(found)
    }

    /// Continues with the next frame that is verified and counted.
    fn advance<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<(FrameHeader, Found<'i>)>> {
        self.staging.go_on();
        loop {
            match self.awaiting {
                Awaiting::Preamble => {
                    let Some(bytes) = self.staging.take_array::<PREAMBLE_LEN>(input)? else {
                        return Ok(None);
                    };
                    let (migration_id, features) = decode_preamble(&bytes)?;
                    self.migration_id = migration_id;
                    self.binding = Binding::of(&migration_id);
                    self.awaiting = match features.contains(Features::AUTHENTICATED) {
                        true => Awaiting::Block(bytes),
                        false => Awaiting::Header,
                    };
                    self.check_authenticated(features)?;
                }
                Awaiting::Block(preamble) => {
                    let Some(bytes) = self.staging.take_array(input)? else { return Ok(None) };
                    self.take_block(&preamble, &bytes)?;
                    self.awaiting = Awaiting::Header;
                }
                Awaiting::Header => {
                    let Some(header) = self.take_header(input)? else { return Ok(None) };
                    self.awaiting = Awaiting::Payload(header);
                    self.staging.expect_payload(header.length as usize);
                }
                Awaiting::Payload(header) => {
                    let Some(found) = self.staging.take(input, header.length as usize)? else {
                        return Ok(None);
                    };
                    self.staging.end_payload(found);
                    self.staging.check.verify(&header, &self.head)?;
                    self.awaiting = Awaiting::Header;
                    match header.kind {
                        FrameType::Other(_) => self.staging.drop_used(),
                        FrameType::End => {
                            self.check_end(self.staging.bytes_of(found))?;
                            self.awaiting = Awaiting::Nothing;
                            self.staging.check = Check::default();
                            return Ok(Some((header, found)));
                        }
                        _ => return Ok(Some((header, found))),
                    }
                }
                Awaiting::Nothing => {
                    return match input.len() + self.staging.filled() {
                        0 => Ok(None),
                        more => Err(err!(Proto, "{more} bytes follow the end of the stream")),
                    };
                }
            }
        }
    }

    /// Whether what the preamble says of authentication suits the caller.
    fn check_authenticated(&self, features: Features) -> Result<()> {
        match (&self.auth, features.contains(Features::AUTHENTICATED)) {
            (Some(auth), false) => auth.refuse_without(),
            (None, true) if !self.lenient => Err(err!(
                Perm,
                "the stream is authenticated, and this load has no key to verify it with"
            )),
            _ => Ok(()),
        }
    }

    /// Verifies the beginning of an authenticated stream. From here on, each frame has a tag.
    fn take_block(
        &mut self,
        preamble: &[u8; PREAMBLE_LEN],
        bytes: &[u8; BLOCK_LEN + TAG_LEN],
    ) -> Result<()> {
        let mut get = Get { bytes, at: 0 };
        let (bytes, tag) = (get.array(), get.array());
        let block = Block::decode(&bytes, &self.migration_id)?;
        let Some(auth) = self.auth.take() else {
            if self.lenient {
                self.device = Some(block.device);
                self.staging.check = Check::Unknown;
                return Ok(());
            }
            return Err(err!(Perm, "there is no key to verify the stream with"));
        };
        block.check_algorithm(&auth)?;
        let mut tagger = Tagger::new(auth.secret, block.key_id, preamble, &bytes)?;
        tagger.verify_block(preamble, &bytes, &tag)?;
        self.device = Some(block.device);
        self.staging.check = Check::Tag(tagger);
        block.check_challenge(auth.challenge.as_ref())
    }

    /// What stands before the next payload, as soon as it is there. Only the payload tells whether
    /// its tag is right; until then a header decides what is waited for, within the limits.
    fn take_header(&mut self, input: &mut &[u8]) -> Result<Option<FrameHeader>> {
        let head = match self.staging.check {
            Check::Sum(_) => self.staging.take_array::<HEADER_LEN>(input)?.map(|header| {
                let mut head = [0; MAX_HEAD];
                Put { out: &mut head, at: 0 }.bytes(&header);
                head
            }),
            Check::Tag(_) | Check::Unknown => self.staging.take_array::<MAX_HEAD>(input)?,
        };
        let Some(head) = head else { return Ok(None) };
        self.head = head;
        let bytes = Get { bytes: &head, at: 0 }.array();
        let header = FrameHeader::decode_bound(&bytes, self.binding)?;
        self.check_header(&header)?;
        // END states the totals of what came before it.
        if header.kind != FrameType::End {
            self.totals.add(&header, &bytes);
        }
        self.sequence += 1;
        Ok(Some(header))
    }

    /// Everything that can be told from a header, before its payload is waited for.
    fn check_header(&mut self, header: &FrameHeader) -> Result<()> {
        let FrameHeader { kind, flags, device, sequence, .. } = *header;
        if sequence != self.sequence {
            return Err(err!(Proto, "frame {sequence} came where {} was due", self.sequence));
        }
        if (sequence == 0) != (kind == FrameType::Identity) {
            return Err(err!(Proto, "the identity must be the first frame and no other"));
        }
        if *self.device.get_or_insert(device) != device {
            return Err(err!(Proto, "frame {sequence} is of device {device}"));
        }
        let allowed = match kind {
            FrameType::Other(_) => FrameFlags::OPTIONAL,
            _ => FrameFlags::empty(),
        };
        let others = flags - allowed;
        if !others.is_empty() {
            return Err(err!(Proto, "frame {sequence} has flags that it may not have: {others}"));
        }
        if kind != FrameType::Data {
            self.other_frames += 1;
            let most = self.limits.max_other_frames;
            if self.other_frames > most {
                return Err(err!(MsgSize, "more than {most} frames without data"));
            }
        }
        self.check_length(header)
    }

    /// What a frame of its kind may cost.
    fn check_length(&mut self, header: &FrameHeader) -> Result<()> {
        let FrameHeader { kind, flags, length, sequence, .. } = *header;
        let exactly = |want: usize| match length as usize == want {
            true => Ok(()),
            false => Err(err!(Proto, "frame {sequence} has {length} bytes instead of {want}")),
        };
        let limit = |most: u32, what: &str| match length <= most {
            true => Ok(()),
            false => Err(err!(
                MsgSize,
                "frame {sequence} has {length} bytes, more than the {what} allows ({most})"
            )),
        };
        match kind {
            FrameType::Identity => limit(MAX_IDENTITY, "format"),
            FrameType::Data if length == 0 => {
                Err(err!(Proto, "frame {sequence} has no data in it"))
            }
            FrameType::Data => {
                limit(self.limits.max_frame, "limit for frames")?;
                self.add_ever(length)
            }
            FrameType::InitialComplete => exactly(8),
            FrameType::Blob if length < 8 => {
                Err(err!(Proto, "frame {sequence} is too short for a blob"))
            }
            FrameType::Blob => {
                limit(self.limits.max_blob.saturating_add(8), "limit for blobs")?;
                if self.totals.blobs >= self.limits.max_blobs {
                    let most = self.limits.max_blobs;
                    return Err(err!(MsgSize, "the stream has more than {most} blobs"));
                }
                Ok(())
            }
            FrameType::Restart => {
                exactly(8)?;
                self.restarts += 1;
                if self.restarts > self.limits.max_restarts {
                    let most = self.limits.max_restarts;
                    return Err(err!(MsgSize, "the stream starts again more than {most} times"));
                }
                Ok(())
            }
            FrameType::End => exactly(END_LEN),
            FrameType::Other(raw) if !flags.contains(FrameFlags::OPTIONAL) => Err(err!(
                Proto,
                "frame {sequence} is of type {raw}, which this library does not know and which \
                 must not be skipped; use a newer library on this side"
            )),
            FrameType::Other(_) => {
                limit(self.limits.max_frame, "limit for frames")?;
                self.add_ever(length)
            }
        }
    }

    /// Counts what is waited for, including skipped frames: they cost as much.
    fn add_ever(&mut self, length: u32) -> Result<()> {
        self.data_ever = self.data_ever.saturating_add(u64::from(length));
        match self.limits.max_total {
            most if self.data_ever > most => {
                Err(err!(MsgSize, "the stream has more than {most} bytes of data"))
            }
            _ => Ok(()),
        }
    }

    fn check_end(&self, payload: &[u8]) -> Result<()> {
        if payload != self.totals.end_payload() {
            let mut get = Get { bytes: payload, at: 0 };
            let (bytes, frames, blobs) = (get.u64(), get.u64(), get.u32());
            let ours = &self.totals;
            return Err(err!(
                Proto,
                "the stream's totals are wrong: it says {bytes} bytes in {frames} frames and \
                 {blobs} blobs, and {} bytes in {} frames and {} blobs came",
                ours.data_bytes,
                ours.data_frames,
                ours.blobs
            ));
        }
        Ok(())
    }

    fn interpret<'p>(header: &FrameHeader, payload: &'p [u8]) -> Result<Item<'p>> {
        let mut get = Get { bytes: payload, at: 0 };
        let zero = |reserved: u32| match reserved {
            0 => Ok(()),
            _ => Err(err!(Proto, "a reserved field of frame {} is not zero", header.sequence)),
        };
        Ok(match header.kind {
            FrameType::Identity => Item::Identity(Box::new(decode_identity(payload)?)),
            FrameType::Data => Item::Data(payload),
            FrameType::InitialComplete => {
                let mark = get.u32();
                zero(get.u32())?;
                Item::InitialComplete(mark)
            }
            FrameType::Blob => {
                let kind = get.u32();
                zero(get.u32())?;
                Item::Blob { kind, bytes: payload.get(8..).unwrap_or_default() }
            }
            FrameType::Restart => {
                let number = get.u32();
                zero(get.u32())?;
                Item::Restart(number)
            }
            FrameType::End => Item::End,
            FrameType::Other(raw) => {
                return Err(err!(Proto, "frame of type {raw} where none can be"));
            }
        })
    }
}

impl Read for Decoder {
    fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Item<'s>>> {
        if let Some(code) = self.refused {
            return Err(Error::new(code, "this stream has been refused before"));
        }
        match self.advance(input).and_then(|found| self.hand_on(found)) {
            // Split in two, because a borrow that is returned conditionally ends too late.
            Ok(None) => Ok(None),
            Ok(Some((header, found))) => {
                Self::interpret(&header, self.staging.bytes_of(found)).map(Some)
            }
            Err(error) => {
                self.refused = Some(error.code());
                if !self.lenient {
                    self.staging.check = Check::default();
                }
                Err(error)
            }
        }
    }

    /// As much as one reading from a socket brings, and more if the present frame needs it and as
    /// much of it has come.
    fn space(&mut self) -> Result<&mut [u8]> {
        self.staging.space(match self.awaiting {
            Awaiting::Payload(header) => header.length as usize + self.staging.check.head_len(),
            _ => 0,
        })
    }

    fn received(&mut self, len: usize) -> Result<()> {
        self.staging.received(len)
    }

    /// Up to the end of the next header: one follows each payload but the last.
    fn certain(&self) -> usize {
        let head = self.staging.check.head_len();
        let whole = match &self.awaiting {
            Awaiting::Preamble => PREAMBLE_LEN + HEADER_LEN,
            Awaiting::Block(_) => BLOCK_LEN + TAG_LEN + MAX_HEAD,
            Awaiting::Header => head,
            Awaiting::Payload(header) if header.kind == FrameType::End => END_LEN,
            Awaiting::Payload(header) => header.length as usize + head,
            Awaiting::Nothing => 0,
        };
        whole.saturating_sub(self.staging.filled())
    }

    fn offset(&self) -> u64 {
        self.staging.offset()
    }

    fn frames(&self) -> u64 {
        self.sequence
    }

    fn data_bytes(&self) -> u64 {
        self.totals.data_bytes
    }

    fn migration_id(&self) -> Option<[u8; 16]> {
        (!matches!(self.awaiting, Awaiting::Preamble)).then_some(self.migration_id)
    }

    fn device(&self) -> Option<u32> {
        self.device
    }
}

#[cfg(test)]
mod tests;
