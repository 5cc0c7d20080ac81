// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reading side: takes any split of a stream and hands on only what it has verified.
//!
//! A frame that lies whole in the caller's input is verified and handed on from there; one that
//! straddles inputs is put together in one buffer. That buffer grows with what has come, not with
//! what a header announces, and holds at the most the largest frame that the limits allow and what one
//! reading brings behind it. Lengths and counts are checked before anything is allocated or awaited.

use super::encode::Totals;
use super::frame::{
    END_LEN, FrameHeader, FrameType, Get, HEADER_LEN, OPTIONAL, PREAMBLE_LEN, decode_preamble,
};
use super::identity::{MAX_IDENTITY, decode_identity};
use crate::alloc;
use crate::error::{Code, Error, Result, err};
use crate::identity::Identity;

/// What a stream may ask for. Streams come from outside: everything has a limit.
#[derive(Clone, Copy, Debug)]
pub struct DecodeLimits {
    /// Largest payload of a data frame, in bytes.
    pub max_frame: u32,
    /// Largest blob, in bytes.
    pub max_blob: u32,
    /// Number of blobs between restarts.
    pub max_blobs: u32,
    /// Number of restarts.
    pub max_restarts: u32,
    /// Device data in all, restarts and frames that are passed over included, in bytes.
    pub max_total: u64,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        DecodeLimits {
            max_frame: 4 << 20,
            max_blob: 1 << 20,
            max_blobs: 256,
            max_restarts: 64,
            max_total: 1 << 40,
        }
    }
}

/// Frames other than data that a stream may have in all. They are small, but not free.
const MAX_OTHER_FRAMES: u64 = 1 << 16;

/// Something that a stream says, verified.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// What the saved device is; always the first item, and only that.
    Identity(Box<Identity>),
    /// Device data.
    Data(&'a [u8]),
    /// All initial data has come; the numbers rise over the whole stream.
    InitialComplete(u32),
    /// A piece of the VMM's.
    Blob {
        /// The VMM's own number for it.
        kind: u32,
        /// Its contents.
        bytes: &'a [u8],
    },
    /// Everything before but the identity is void; the numbers rise.
    Restart(u32),
    /// The end; the totals were right, where the format has any.
    End,
    /// The end of a section. QEMU's format only, as what follows.
    SectionEnd,
    /// The VMM's own part comes now, whose length only the VMM knows.
    Config,
    /// The configuration, which came in a packet, may be loaded now.
    ConfigReady,
}

/// A reader of one stream, whatever its format.
pub(crate) trait Read: Send {
    /// Takes bytes from the front of `input` until there is something to hand on; `None` when all
    /// of `input` has been taken. After an error the stream is refused for good.
    fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Item<'s>>>;

    /// Memory to receive the next bytes of the stream into, at least one.
    fn space(&mut self) -> Result<&mut [u8]>;

    /// Says that `len` bytes of [`Read::space`] have been filled.
    fn received(&mut self, len: usize) -> Result<()>;

    /// Bytes of the stream taken so far.
    fn offset(&self) -> u64;

    /// Frames, or whatever the format has in their place, so far.
    fn frames(&self) -> u64;

    /// Bytes of device data since the last restart.
    fn data_bytes(&self) -> u64;

    /// Whether nothing that has begun is unfinished, where packets may come behind it.
    fn at_rest(&self) -> bool {
        true
    }

    /// The stream's own name, where it has one that has come.
    fn migration_id(&self) -> Option<[u8; 16]> {
        None
    }

    /// Number of the device within its VM, where the stream has it.
    fn device(&self) -> Option<u32> {
        None
    }
}

impl Read for Decoder {
    fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Item<'s>>> {
        Decoder::next(self, input)
    }

    fn space(&mut self) -> Result<&mut [u8]> {
        Decoder::space(self)
    }

    fn received(&mut self, len: usize) -> Result<()> {
        Decoder::received(self, len)
    }

    fn offset(&self) -> u64 {
        Decoder::offset(self)
    }

    fn frames(&self) -> u64 {
        Decoder::frames(self)
    }

    fn data_bytes(&self) -> u64 {
        Decoder::data_bytes(self)
    }

    fn migration_id(&self) -> Option<[u8; 16]> {
        Some(Decoder::migration_id(self))
    }

    fn device(&self) -> Option<u32> {
        Decoder::device(self)
    }
}

/// Where [`Decoder::space`] lets one reading end, in bytes from the front of the buffer, unless a frame
/// is larger: a few frames, and not more than the caches hold.
const WINDOW: usize = if cfg!(test) { 300 } else { 512 << 10 };

/// What [`Decoder::space`] offers at the least, in bytes: as much as a socket has at once (a unix
/// socket by default 208 KiB, and what its writer adds meanwhile). Reading it in two parts would cost
/// more than moving the part of a frame that is in the way.
const LEAST_ROOM: usize = if cfg!(test) { 200 } else { 320 << 10 };

/// Bytes.
const CACHE_LINE: usize = 64;

enum Awaiting {
    Preamble,
    Header,
    Payload(FrameHeader),
    Nothing,
}

/// The state of one stream being read.
pub struct Decoder {
    limits: DecodeLimits,
    awaiting: Awaiting,
    /// Memory for what does not lie whole in an input. All of it is initialised; only the bytes
    /// from `start` to `end` mean something.
    staged: Vec<u8>,
    start: usize,
    end: usize,
    /// Where an empty one begins: on a cache line, which copies into it are faster for.
    base: usize,
    /// Bytes from `start` on that were handed on and are not needed any more.
    used: usize,
    /// How much room behind `end` was offered last.
    offered: usize,
    /// Checksum of the staged part of a payload, and how much of it that covers: computed while the
    /// bytes are still in the cache.
    crc: crc32fast::Hasher,
    hashed: usize,
    migration_id: [u8; 16],
    device: Option<u32>,
    sequence: u64,
    totals: Totals,
    /// Payload of data and of frames that were passed over in all, restarts included.
    data_ever: u64,
    other_frames: u64,
    /// Number of the last mark of complete initial data; numbers rise.
    last_mark: u32,
    restarts: u32,
    /// Number of the last restart; numbers rise.
    last_restart: u32,
    offset: u64,
    refused: Option<Code>,
}

/// Where the bytes that were asked for lie.
#[derive(Clone, Copy)]
enum Found<'i> {
    /// In the caller's input.
    Input(&'i [u8]),
    /// At the front of what is staged, this many.
    Staged(usize),
}

impl Decoder {
    /// A reader of one stream.
    pub fn new(limits: DecodeLimits) -> Decoder {
        Decoder {
            limits,
            awaiting: Awaiting::Preamble,
            staged: Vec::new(),
            start: 0,
            end: 0,
            base: 0,
            used: 0,
            offered: 0,
            crc: crc32fast::Hasher::new(),
            hashed: 0,
            migration_id: [0; 16],
            device: None,
            sequence: 0,
            totals: Totals::default(),
            data_ever: 0,
            other_frames: 0,
            last_mark: 0,
            restarts: 0,
            last_restart: 0,
            offset: 0,
            refused: None,
        }
    }

    /// Whether the END frame has come and was right.
    pub fn ended(&self) -> bool {
        matches!(self.awaiting, Awaiting::Nothing) && self.refused.is_none()
    }

    /// Bytes of the stream taken so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of device data since the last restart.
    pub fn data_bytes(&self) -> u64 {
        self.totals.data_bytes
    }

    /// Frames so far.
    pub fn frames(&self) -> u64 {
        self.sequence
    }

    /// Number of the device within its VM, once the first frame has come.
    pub fn device(&self) -> Option<u32> {
        self.device
    }

    /// The stream's own name, once the preamble has come.
    pub fn migration_id(&self) -> [u8; 16] {
        self.migration_id
    }

    /// Memory to receive the next bytes of the stream into: LEAST_ROOM at least, and more where the
    /// present frame needs it and as much of it has come. Say with [`Decoder::received`] how much
    /// came. Avoids the copy that [`Decoder::next`] makes of frames that straddle inputs.
    pub fn space(&mut self) -> Result<&mut [u8]> {
        self.drop_used();
        let filled = self.filled();
        let wanted = match self.awaiting {
            Awaiting::Payload(header) => header.length as usize + HEADER_LEN,
            Awaiting::Preamble | Awaiting::Header | Awaiting::Nothing => 0,
        };
        if self.end - self.base + LEAST_ROOM > WINDOW {
            self.move_to(self.base);
        }
        // A header may announce much and nothing may come: no more room than twice what has come.
        let room = wanted.saturating_sub(filled).min(filled).max(LEAST_ROOM);
        self.ensure(filled + LEAST_ROOM, WINDOW.max(filled + room))?;
        let until = (self.base + WINDOW).max(self.end + room).min(self.staged.len());
        self.offered = until - self.end;
        Ok(self.staged.get_mut(self.end..until).unwrap_or_default())
    }

    /// Says that `len` bytes of [`Decoder::space`] have been filled. Then call [`Decoder::next`]
    /// with no input until there is nothing more to hand on.
    pub fn received(&mut self, len: usize) -> Result<()> {
        let room = self.offered;
        if self.used != 0 || len > room {
            return Err(err!(
                Inval,
                "{len} bytes cannot have been received: there was room for {room}"
            ));
        }
        self.offered = 0;
        self.end += len;
        self.offset += len as u64;
        self.hash_staged();
        Ok(())
    }

    /// Takes bytes from the front of `input` until there is something to hand on; `None` when all
    /// of `input` has been taken. After an error the stream is refused for good.
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Item<'s>>> {
        if let Some(code) = self.refused {
            return Err(Error::new(code, "this stream has been refused before"));
        }
        match self.advance(input).and_then(|found| self.hand_on(found)) {
            // Split in two because a borrow that is returned conditionally ends too late.
            Ok(None) => Ok(None),
            Ok(Some((header, found))) => {
                Self::interpret(&header, bytes_of(found, self.staged())).map(Some)
            }
            Err(error) => {
                self.refused = Some(error.code());
                Err(error)
            }
        }
    }

    /// Checks what will be handed on, so that a refusal is remembered.
    fn hand_on<'i>(
        &mut self,
        found: Option<(FrameHeader, Found<'i>)>,
    ) -> Result<Option<(FrameHeader, Found<'i>)>> {
        if let Some((header, found)) = found {
            let item = Self::interpret(&header, bytes_of(found, self.staged()))?;
            let (last, number) = match item {
                Item::InitialComplete(number) => (&mut self.last_mark, number),
                Item::Restart(number) => (&mut self.last_restart, number),
                _ => return Ok(Some((header, found))),
            };
            if number <= *last {
                return Err(err!(Proto, "the number in frame {} does not rise", header.sequence));
            }
            *last = number;
        }
        Ok(found)
    }

    /// Goes on to the next frame that is verified and counted.
    fn advance<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<(FrameHeader, Found<'i>)>> {
        self.drop_used();
        self.offered = 0;
        loop {
            match self.awaiting {
                Awaiting::Preamble => {
                    let Some(bytes) = self.take_array::<PREAMBLE_LEN>(input)? else {
                        return Ok(None);
                    };
                    self.migration_id = decode_preamble(&bytes)?;
                    self.awaiting = Awaiting::Header;
                }
                Awaiting::Header => {
                    let Some(bytes) = self.take_array::<HEADER_LEN>(input)? else {
                        return Ok(None);
                    };
                    let header = FrameHeader::decode(&bytes, &self.migration_id)?;
                    self.check_header(&header)?;
                    // END states the totals of what came before it.
                    if header.kind != FrameType::End {
                        self.totals.add(&header, &bytes);
                    }
                    self.sequence += 1;
                    self.awaiting = Awaiting::Payload(header);
                    self.crc.reset();
                    self.hashed = 0;
                    self.hash_staged();
                }
                Awaiting::Payload(header) => {
                    let Some(found) = self.take(input, header.length as usize)? else {
                        return Ok(None);
                    };
                    let crc = match found {
                        Found::Input(payload) => crc32fast::hash(payload),
                        Found::Staged(_) => self.crc.clone().finalize(),
                    };
                    if crc != header.payload_crc {
                        let number = header.sequence;
                        return Err(err!(BadMsg, "the checksum of frame {number} is wrong"));
                    }
                    self.awaiting = Awaiting::Header;
                    match header.kind {
                        FrameType::Other(_) => self.drop_used(),
                        FrameType::End => {
                            self.check_end(bytes_of(found, self.staged()))?;
                            self.awaiting = Awaiting::Nothing;
                            return Ok(Some((header, found)));
                        }
                        _ => return Ok(Some((header, found))),
                    }
                }
                Awaiting::Nothing => {
                    return match input.len() + self.filled() {
                        0 => Ok(None),
                        more => Err(err!(Proto, "{more} bytes follow the end of the stream")),
                    };
                }
            }
        }
    }

    /// Takes exactly `len` bytes: from the input where they lie there whole, else staged.
    fn take<'i>(&mut self, input: &mut &'i [u8], len: usize) -> Result<Option<Found<'i>>> {
        if self.filled() == 0 {
            if let Some((front, rest)) = input.split_at_checked(len) {
                *input = rest;
                self.offset += len as u64;
                return Ok(Some(Found::Input(front)));
            }
        }
        let missing = len.saturating_sub(self.filled());
        if missing > 0 && !input.is_empty() {
            let (front, rest) = input.split_at(missing.min(input.len()));
            *input = rest;
            // As in space(): what is announced need not come.
            let needed = self.filled() + front.len();
            self.ensure(needed, len.min((2 * needed).max(LEAST_ROOM)))?;
            let end = self.end + front.len();
            if let Some(room) = self.staged.get_mut(self.end..end) {
                room.copy_from_slice(front);
            }
            self.end = end;
            self.offset += front.len() as u64;
            self.hash_staged();
        }
        if self.filled() < len {
            return Ok(None);
        }
        self.used = len;
        Ok(Some(Found::Staged(len)))
    }

    fn take_array<const N: usize>(&mut self, input: &mut &[u8]) -> Result<Option<[u8; N]>> {
        let found = self.take(input, N)?;
        let array = found.map(|found| Get { bytes: bytes_of(found, self.staged()), at: 0 }.array());
        self.drop_used();
        Ok(array)
    }

    /// Bytes that are staged.
    fn filled(&self) -> usize {
        self.end - self.start
    }

    fn staged(&self) -> &[u8] {
        self.staged.get(self.start..self.end).unwrap_or_default()
    }

    /// Makes sure that `len` bytes can be staged in all; memory that has to be found is at least
    /// `generous`.
    fn ensure(&mut self, len: usize, generous: usize) -> Result<()> {
        if self.staged.len() - self.start < len {
            self.move_to(self.base);
        }
        if self.staged.len() - self.start < len {
            self.move_to(0);
            let more = (len.max(generous) + CACHE_LINE).saturating_sub(self.staged.len());
            alloc::reserve(&mut self.staged, more, "no memory for a frame")?;
            self.staged.resize(self.staged.len() + more, 0);
            self.base = self.staged.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE);
            self.move_to(self.base);
        }
        Ok(())
    }

    /// Moves what is staged to a place where it fits.
    fn move_to(&mut self, place: usize) {
        let filled = self.filled();
        if place == self.start {
            return;
        }
        self.staged.copy_within(self.start..self.end, place);
        (self.start, self.end) = (place, place + filled);
    }

    /// Forgets what was handed on.
    fn drop_used(&mut self) {
        self.start += std::mem::take(&mut self.used);
        if self.start >= self.end {
            // From the front again: that memory is still in the cache.
            (self.start, self.end) = (self.base, self.base);
        }
    }

    /// Adds to the checksum what has been staged of the payload since.
    fn hash_staged(&mut self) {
        if let Awaiting::Payload(header) = self.awaiting {
            let end = self.filled().min(header.length as usize);
            if let Some(new) = self.staged.get(self.start + self.hashed..self.start + end) {
                self.crc.update(new);
                self.hashed = end;
            }
        }
    }

    /// Everything that can be told from a header, before its payload is awaited.
    fn check_header(&mut self, header: &FrameHeader) -> Result<()> {
        let FrameHeader { kind, flags, device, length, sequence, .. } = *header;
        if sequence != self.sequence {
            return Err(err!(Proto, "frame {sequence} came where {} was due", self.sequence));
        }
        if (sequence == 0) != (kind == FrameType::Identity) {
            return Err(err!(Proto, "the identity must be the first frame and no other"));
        }
        if *self.device.get_or_insert(device) != device {
            return Err(err!(Proto, "frame {sequence} is of device {device}"));
        }
        let allowed = if matches!(kind, FrameType::Other(_)) { OPTIONAL } else { 0 };
        if flags & !allowed != 0 {
            return Err(err!(Proto, "frame {sequence} has unknown flags {flags:#x}"));
        }
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
        if kind != FrameType::Data {
            self.other_frames += 1;
            if self.other_frames > MAX_OTHER_FRAMES {
                return Err(err!(MsgSize, "more than {MAX_OTHER_FRAMES} frames without data"));
            }
        }
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
            FrameType::Other(raw) if flags & OPTIONAL == 0 => Err(err!(
                Proto,
                "frame {sequence} is of type {raw}, which this library does not know and which \
                 may not be passed over; use a newer library on this side"
            )),
            FrameType::Other(_) => {
                limit(self.limits.max_frame, "limit for frames")?;
                self.add_ever(length)
            }
        }?;
        Ok(())
    }

    /// Counts what is awaited, also of frames that are passed over: they cost as much.
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

fn bytes_of<'a>(found: Found<'a>, staged: &'a [u8]) -> &'a [u8] {
    match found {
        Found::Input(bytes) => bytes,
        Found::Staged(len) => staged.get(..len).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Encoder, encode_identity};
    use super::*;
    use crate::stream::frame::encode_preamble;
    use proptest::prelude::*;

    /// An item, owned.
    #[derive(Debug, PartialEq, Eq, Clone)]
    enum Owned {
        Identity(Identity),
        Data(Vec<u8>),
        Initial(u32),
        Blob(u32, Vec<u8>),
        Restart,
        End,
    }

    fn own(item: Item<'_>) -> Owned {
        match item {
            Item::Identity(identity) => Owned::Identity(*identity),
            Item::Data(bytes) => Owned::Data(bytes.to_vec()),
            Item::InitialComplete(n) => Owned::Initial(n),
            Item::Blob { kind, bytes } => Owned::Blob(kind, bytes.to_vec()),
            Item::Restart(_) => Owned::Restart,
            Item::End => Owned::End,
            other => panic!("{other:?} is none of this format's"),
        }
    }

    fn read(limits: DecodeLimits, pieces: &[&[u8]]) -> Result<Vec<Owned>> {
        let mut decoder = Decoder::new(limits);
        let mut items = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while let Some(item) = decoder.next(&mut rest)? {
                items.push(own(item));
            }
        }
        if !decoder.ended() {
            return Err(err!(NoData, "no end"));
        }
        Ok(items)
    }

    /// Reads through [`Decoder::space`], in pieces of the given sizes.
    fn read_into_space(
        stream: &[u8],
        sizes: &mut dyn Iterator<Item = usize>,
    ) -> Result<Vec<Owned>> {
        let mut decoder = Decoder::new(DecodeLimits::default());
        let mut items = Vec::new();
        let mut rest = stream;
        while !rest.is_empty() {
            let space = decoder.space()?;
            let n = sizes.next().unwrap_or(usize::MAX).clamp(1, space.len()).min(rest.len());
            space[..n].copy_from_slice(&rest[..n]);
            rest = &rest[n..];
            decoder.received(n)?;
            while let Some(item) = decoder.next(&mut [].as_slice())? {
                items.push(own(item));
            }
        }
        if !decoder.ended() {
            return Err(err!(NoData, "no end"));
        }
        Ok(items)
    }

    const SESSION: [u8; 16] = [7; 16];

    struct Writer {
        encoder: Encoder,
        out: Vec<u8>,
    }

    impl Writer {
        fn new() -> Writer {
            let encoder = Encoder::new(SESSION, 3);
            let mut writer = Writer { encoder, out: encode_preamble(&SESSION).to_vec() };
            let identity = Identity { bus: "pci".into(), ..Identity::default() };
            writer.put(FrameType::Identity, &[&encode_identity(&identity)]);
            writer
        }

        fn put(&mut self, kind: FrameType, parts: &[&[u8]]) {
            let mut buf = vec![0; 70000];
            let n = self.encoder.frame(&mut buf, kind, parts).unwrap();
            self.out.extend_from_slice(&buf[..n]);
        }

        fn end(mut self) -> Vec<u8> {
            let mut buf = [0; 100];
            let n = self.encoder.end(&mut buf).unwrap();
            self.out.extend_from_slice(&buf[..n]);
            self.out
        }
    }

    fn sample() -> Vec<u8> {
        let mut w = Writer::new();
        w.put(FrameType::Data, &[b"initial"]);
        w.put(FrameType::InitialComplete, &[&1u32.to_le_bytes(), &[0; 4]]);
        w.put(FrameType::Blob, &[&9u32.to_le_bytes(), &[0; 4], b"config space"]);
        w.put(FrameType::Data, &[&[5; 300]]);
        w.end()
    }

    fn code(result: Result<Vec<Owned>>) -> Code {
        result.unwrap_err().code()
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let good = sample();
        read(DecodeLimits::default(), &[&good]).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(DecodeLimits::default(), &[&bad]).is_err(), "bit {bit} may flip");
            assert!(read(DecodeLimits::default(), &[&bad[..50], &bad[50..]]).is_err());
            assert!(read_into_space(&bad, &mut std::iter::empty()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_and_every_extension_is_refused() {
        let good = sample();
        for len in 0..good.len() {
            assert!(read(DecodeLimits::default(), &[&good[..len]]).is_err(), "cut at {len}");
        }
        let mut long = good.clone();
        long.push(0);
        assert_eq!(code(read(DecodeLimits::default(), &[&long])), Code::Proto);
        assert_eq!(code(read(DecodeLimits::default(), &[&good, &[1]])), Code::Proto);
        assert_eq!(code(read_into_space(&long, &mut std::iter::empty())), Code::Proto);
    }

    #[test]
    fn frames_that_are_missing_repeated_or_of_another_stream_are_refused() {
        let good = sample();
        // Offsets of the frames.
        let mut at = vec![PREAMBLE_LEN];
        while *at.last().unwrap() < good.len() {
            let here = *at.last().unwrap();
            let len = u32::from_le_bytes(good[here + 12..here + 16].try_into().unwrap());
            at.push(here + HEADER_LEN + len as usize);
        }
        for pair in at.windows(2) {
            let frame = &good[pair[0]..pair[1]];
            let without = [&good[..pair[0]], &good[pair[1]..]].concat();
            assert!(read(DecodeLimits::default(), &[&without]).is_err());
            let twice = [&good[..pair[1]], frame, &good[pair[1]..]].concat();
            assert!(read(DecodeLimits::default(), &[&twice]).is_err());
        }
        // The same frames under another session's preamble.
        let foreign = [&encode_preamble(&[8; 16])[..], &good[PREAMBLE_LEN..]].concat();
        assert_eq!(code(read(DecodeLimits::default(), &[&foreign])), Code::BadMsg);
    }

    #[test]
    fn limits_hold_before_anything_is_allocated() {
        let small = DecodeLimits { max_frame: 100, ..DecodeLimits::default() };
        assert_eq!(code(read(small, &[&sample()])), Code::MsgSize);
        let total = DecodeLimits { max_total: 306, ..DecodeLimits::default() };
        assert_eq!(code(read(total, &[&sample()])), Code::MsgSize);
        let blob = DecodeLimits { max_blob: 11, ..DecodeLimits::default() };
        assert_eq!(code(read(blob, &[&sample()])), Code::MsgSize);
        let blobs = DecodeLimits { max_blobs: 0, ..DecodeLimits::default() };
        assert_eq!(code(read(blobs, &[&sample()])), Code::MsgSize);
        let mut w = Writer::new();
        for number in 1..4u32 {
            w.put(FrameType::Restart, &[&number.to_le_bytes(), &[0; 4]]);
        }
        let restarts = DecodeLimits { max_restarts: 2, ..DecodeLimits::default() };
        assert_eq!(code(read(restarts, &[&w.end()])), Code::MsgSize);
        // A header that claims 4 GiB is refused when the header is there, not when the rest is.
        let stream = announcing(u32::MAX);
        let mut decoder = Decoder::new(DecodeLimits::default());
        let mut rest = stream.as_slice();
        decoder.next(&mut rest).unwrap();
        assert_eq!(decoder.next(&mut rest).unwrap_err().code(), Code::MsgSize);
        assert_eq!(decoder.staged.capacity(), 0);
    }

    /// A stream whose second frame announces `length` bytes of data, none of which are there.
    fn announcing(length: u32) -> Vec<u8> {
        let mut w = Writer::new();
        let header = FrameHeader {
            kind: FrameType::Data,
            flags: 0,
            device: 3,
            length,
            sequence: 1,
            payload_crc: 0,
        };
        w.out.extend_from_slice(&header.encode(&SESSION));
        w.out
    }

    /// Takes a stream in pieces of `piece` bytes, and then `more` zeros; `each` sees what has come and
    /// how much memory there is for it.
    fn take_in_pieces(
        stream: &[u8],
        more: usize,
        piece: usize,
        in_space: bool,
        mut each: impl FnMut(usize, usize),
    ) {
        let limits = DecodeLimits { max_frame: 1 << 30, ..DecodeLimits::default() };
        let mut decoder = Decoder::new(limits);
        let all = [stream, &vec![0; more]].concat();
        let mut at = 0;
        while at < all.len() {
            let mut rest = &all[at..(at + piece).min(all.len())];
            if in_space {
                let space = decoder.space().unwrap();
                let n = rest.len().min(space.len());
                space[..n].copy_from_slice(&rest[..n]);
                decoder.received(n).unwrap();
                (at, rest) = (at + n, &[]);
            } else {
                at += rest.len();
            }
            while decoder.next(&mut rest).unwrap().is_some() {}
            each(at, decoder.staged.capacity());
        }
    }

    #[test]
    fn memory_grows_with_what_has_come_and_not_with_what_is_announced() {
        let stream = announcing(1 << 30);
        for (piece, in_space) in [(7, true), (7, false), (5000, true), (5000, false)] {
            let (mut sizes, mut last) = (0, 0);
            take_in_pieces(&stream, 100_000, piece, in_space, |came, size| {
                // What is there was asked for before the last piece came.
                let most = 2 * came + WINDOW + LEAST_ROOM + 2 * CACHE_LINE;
                assert!(size <= most, "{size} bytes for {came}, in pieces of {piece}");
                sizes += usize::from(size != last);
                last = size;
            });
            assert!(last >= 100_000 && sizes <= 16, "{sizes} sizes, pieces of {piece}");
        }
    }

    /// Frames of all sizes, received in pieces of all sizes: there is always room for a good piece, and
    /// never memory for more than the largest frame and what comes behind it.
    #[test]
    fn there_is_always_room_for_a_good_piece() {
        let mut w = Writer::new();
        for number in 0..200 {
            w.put(FrameType::Data, &[&vec![number as u8; 1 + number * 7919 % 997]]);
        }
        let stream = w.end();
        for most in [1, 30, 150, 400, usize::MAX] {
            let mut decoder = Decoder::new(DecodeLimits::default());
            let (mut rest, mut left) = (stream.as_slice(), 200);
            while !rest.is_empty() {
                let space = decoder.space().unwrap();
                assert!(space.len() >= LEAST_ROOM, "room for {}", space.len());
                let n = rest.len().min(space.len()).min(most);
                space[..n].copy_from_slice(&rest[..n]);
                rest = &rest[n..];
                decoder.received(n).unwrap();
                while let Some(item) = decoder.next(&mut [].as_slice()).unwrap() {
                    left -= usize::from(matches!(item, Item::Data(_)));
                }
                let bound = WINDOW.max(2 * 997 + 2 * LEAST_ROOM) + 2 * CACHE_LINE;
                assert!(decoder.staged.capacity() <= bound, "{}", decoder.staged.capacity());
            }
            assert!(decoder.ended() && left == 0);
        }
    }

    #[test]
    fn unknown_optional_frames_are_passed_over_and_mandatory_ones_refused() {
        let with = |flags: u16| {
            let mut w = Writer::new();
            let payload = b"from the future";
            let header = FrameHeader {
                kind: FrameType::Other(77),
                flags,
                device: 3,
                length: payload.len() as u32,
                sequence: 1,
                payload_crc: crc32fast::hash(payload),
            };
            let bytes = header.encode(&SESSION);
            w.out.extend_from_slice(&bytes);
            w.out.extend_from_slice(payload);
            w.encoder.skip_for_test(&header, &bytes);
            w.put(FrameType::Data, &[b"x"]);
            w.end()
        };
        let items = read(DecodeLimits::default(), &[&with(OPTIONAL)]).unwrap();
        assert_eq!(items[1..], [Owned::Data(b"x".to_vec()), Owned::End]);
        assert_eq!(code(read(DecodeLimits::default(), &[&with(0)])), Code::Proto);
        assert_eq!(code(read(DecodeLimits::default(), &[&with(OPTIONAL | 2)])), Code::Proto);
    }

    #[test]
    fn a_restart_voids_the_totals_before_it() {
        let mut w = Writer::new();
        w.put(FrameType::Data, &[b"void"]);
        w.put(FrameType::Restart, &[&[1, 0, 0, 0, 0, 0, 0, 0]]);
        w.put(FrameType::Data, &[b"new"]);
        assert_eq!(w.encoder.data_bytes(), 3);
        let items = read(DecodeLimits::default(), &[&w.end()]).unwrap();
        assert_eq!(items[2..4], [Owned::Restart, Owned::Data(b"new".to_vec())]);
    }

    #[test]
    fn numbers_of_marks_and_restarts_must_rise() {
        for kind in [FrameType::InitialComplete, FrameType::Restart] {
            for (numbers, good) in [
                ([1u32, 2], true),
                ([5, 9], true),
                ([0, 1], false),
                ([2, 2], false),
                ([3, 1], false),
            ] {
                let mut w = Writer::new();
                for number in numbers {
                    w.put(kind, &[&number.to_le_bytes(), &[0; 4]]);
                }
                assert_eq!(read(DecodeLimits::default(), &[&w.end()]).is_ok(), good, "{numbers:?}");
            }
        }
    }

    impl Encoder {
        fn skip_for_test(&mut self, header: &FrameHeader, bytes: &[u8; HEADER_LEN]) {
            self.totals.add(header, bytes);
            self.sequence += 1;
        }
    }

    #[derive(Debug, Clone)]
    enum Piece {
        Data(Vec<u8>),
        Blob(u32, Vec<u8>),
        Initial,
        Restart,
    }

    fn pieces() -> impl Strategy<Value = Vec<Piece>> {
        let bytes = || proptest::collection::vec(any::<u8>(), 1..600);
        let piece = prop_oneof![
            4 => bytes().prop_map(Piece::Data),
            1 => (any::<u32>(), bytes()).prop_map(|(kind, bytes)| Piece::Blob(kind, bytes)),
            1 => Just(Piece::Initial),
            1 => Just(Piece::Restart),
        ];
        proptest::collection::vec(piece, 0..12)
    }

    proptest! {
        #[test]
        fn a_stream_survives_any_split(
            pieces in pieces(),
            cuts in proptest::collection::vec(0usize..200, 0..80),
        ) {
            let mut w = Writer::new();
            let mut expected = Vec::new();
            for (number, piece) in (1u32..).zip(&pieces) {
                match piece {
                    Piece::Data(bytes) => {
                        w.put(FrameType::Data, &[bytes]);
                        expected.push(Owned::Data(bytes.clone()));
                    }
                    Piece::Blob(kind, bytes) => {
                        w.put(FrameType::Blob, &[&kind.to_le_bytes(), &[0; 4], bytes]);
                        expected.push(Owned::Blob(*kind, bytes.clone()));
                    }
                    Piece::Initial => {
                        w.put(FrameType::InitialComplete, &[&number.to_le_bytes(), &[0; 4]]);
                        expected.push(Owned::Initial(number));
                    }
                    Piece::Restart => {
                        w.put(FrameType::Restart, &[&number.to_le_bytes(), &[0; 4]]);
                        expected.push(Owned::Restart);
                    }
                }
            }
            expected.push(Owned::End);
            let stream = w.end();
            let mut split: Vec<&[u8]> = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts {
                let (front, back) = rest.split_at(cut.min(rest.len()));
                split.push(front);
                rest = back;
            }
            split.push(rest);
            let items = read(DecodeLimits::default(), &split).unwrap();
            prop_assert_eq!(&items[1..], &expected[..]);
            let received = read_into_space(&stream, &mut split.iter().map(|s| s.len())).unwrap();
            prop_assert_eq!(&received[1..], &expected[..]);
        }

        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(read(DecodeLimits::default(), &[&bytes]).is_err());
        }
    }

    #[test]
    fn a_sample_survives_every_single_cut_and_byte_by_byte() {
        let good = sample();
        let whole = read(DecodeLimits::default(), &[&good]).unwrap();
        for cut in 0..=good.len() {
            let (a, b) = good.split_at(cut);
            assert_eq!(read(DecodeLimits::default(), &[a, b]).unwrap(), whole);
        }
        let bytes: Vec<&[u8]> = good.chunks(1).collect();
        assert_eq!(read(DecodeLimits::default(), &bytes).unwrap(), whole);
    }
}
