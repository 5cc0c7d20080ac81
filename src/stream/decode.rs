//! The reading side: takes any split of a stream and hands on only what it has verified.
//!
//! A frame that lies whole in the caller's input is verified and handed on from there; one that
//! straddles inputs is put together in one buffer, which never outgrows the largest frame that the
//! limits allow. Lengths and counts are checked before anything is allocated or awaited.

use super::encode::Totals;
use super::frame::{
    END_LEN, FrameHeader, FrameType, Get, HEADER_LEN, OPTIONAL, PREAMBLE_LEN, decode_preamble,
};
use super::identity::{MAX_IDENTITY, decode_identity};
use crate::device::Identity;
use crate::error::{Code, Error, Result, err};

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
    /// Device data in all, restarts included, in bytes.
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
    /// All initial data has come; the number counts from 1.
    InitialComplete(u32),
    /// A piece of the VMM's.
    Blob {
        /// The VMM's own number for it.
        kind: u32,
        /// Its contents.
        bytes: &'a [u8],
    },
    /// Everything before but the identity is void.
    Restart,
    /// The end; the totals were right.
    End,
}

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
    staged: Vec<u8>,
    /// What is staged was handed on and is not needed any more.
    handed_on: bool,
    session: [u8; 16],
    device: Option<u32>,
    sequence: u64,
    totals: Totals,
    /// Data in all, restarts included.
    data_ever: u64,
    other_frames: u64,
    initial_marks: u32,
    restarts: u32,
    offset: u64,
    refused: Option<Code>,
}

/// A frame that was found, before it is interpreted: where its payload lies.
enum Found<'i> {
    Input(&'i [u8]),
    Staged,
}

impl Decoder {
    /// A reader of one stream.
    pub fn new(limits: DecodeLimits) -> Decoder {
        Decoder {
            limits,
            awaiting: Awaiting::Preamble,
            staged: Vec::new(),
            handed_on: false,
            session: [0; 16],
            device: None,
            sequence: 0,
            totals: Totals::default(),
            data_ever: 0,
            other_frames: 0,
            initial_marks: 0,
            restarts: 0,
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

    /// The stream's own name, once the preamble has come.
    pub fn session(&self) -> [u8; 16] {
        self.session
    }

    /// Takes bytes from the front of `input` until there is something to hand on; `None` when all
    /// of `input` has been taken. After an error the stream is refused for good.
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Item<'s>>> {
        if let Some(code) = self.refused {
            return Err(Error::new(code, "this stream has been refused before"));
        }
        match self.advance(input) {
            Ok(None) => Ok(None),
            Ok(Some((header, found))) => {
                let payload = match found {
                    Found::Input(payload) => payload,
                    Found::Staged => self.staged.as_slice(),
                };
                self.handed_on = true;
                match Self::interpret(&header, payload) {
                    Ok(item) => Ok(Some(item)),
                    Err(error) => {
                        self.refused = Some(error.code());
                        Err(error)
                    }
                }
            }
            Err(error) => {
                self.refused = Some(error.code());
                Err(error)
            }
        }
    }

    /// Goes on to the next frame that is verified and counted.
    fn advance<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<(FrameHeader, Found<'i>)>> {
        // What was handed on last time has been used by now.
        if std::mem::take(&mut self.handed_on) {
            self.staged.clear();
        }
        loop {
            match self.awaiting {
                Awaiting::Preamble => {
                    let Some(bytes) = self.take_array::<PREAMBLE_LEN>(input)? else {
                        return Ok(None);
                    };
                    self.session = decode_preamble(&bytes)?;
                    self.awaiting = Awaiting::Header;
                }
                Awaiting::Header => {
                    let Some(bytes) = self.take_array::<HEADER_LEN>(input)? else {
                        return Ok(None);
                    };
                    let header = FrameHeader::decode(&bytes, &self.session)?;
                    self.check_header(&header)?;
                    // END states the totals of what came before it.
                    if header.kind != FrameType::End {
                        self.totals.add(&header, &bytes);
                    }
                    self.awaiting = Awaiting::Payload(header);
                    self.sequence += 1;
                }
                Awaiting::Payload(header) => {
                    let Some(found) = self.take(input, header.length as usize)? else {
                        return Ok(None);
                    };
                    let payload = match found {
                        Found::Input(payload) => payload,
                        Found::Staged => self.staged.as_slice(),
                    };
                    if crc32fast::hash(payload) != header.payload_crc {
                        return Err(err!(
                            BadMsg,
                            "the checksum of frame {} is wrong",
                            header.sequence
                        ));
                    }
                    if header.kind == FrameType::End {
                        self.check_end(payload)?;
                        self.awaiting = Awaiting::Nothing;
                        return Ok(Some((header, found)));
                    }
                    self.awaiting = Awaiting::Header;
                    if let FrameType::Other(_) = header.kind {
                        self.staged.clear();
                        continue;
                    }
                    return Ok(Some((header, found)));
                }
                Awaiting::Nothing if input.is_empty() => return Ok(None),
                Awaiting::Nothing => {
                    return Err(err!(Proto, "{} bytes follow the end of the stream", input.len()));
                }
            }
        }
    }

    /// Takes exactly `len` bytes: from the input where they lie there whole, else staged.
    fn take<'i>(&mut self, input: &mut &'i [u8], len: usize) -> Result<Option<Found<'i>>> {
        if self.staged.is_empty() {
            if let Some((front, rest)) = input.split_at_checked(len) {
                *input = rest;
                self.offset += len as u64;
                return Ok(Some(Found::Input(front)));
            }
            // Exactly once per frame, and at most the largest one that the limits allow.
            self.staged
                .try_reserve_exact(len)
                .map_err(|_| err!(NoMem, "no memory for a frame of {len} bytes"))?;
        }
        let missing = len.saturating_sub(self.staged.len());
        let (front, rest) = input.split_at(missing.min(input.len()));
        *input = rest;
        self.offset += front.len() as u64;
        self.staged.extend_from_slice(front);
        Ok((self.staged.len() == len).then_some(Found::Staged))
    }

    fn take_array<const N: usize>(&mut self, input: &mut &[u8]) -> Result<Option<[u8; N]>> {
        let found = self.take(input, N)?;
        let bytes = match found {
            None => return Ok(None),
            Some(Found::Input(bytes)) => bytes,
            Some(Found::Staged) => self.staged.as_slice(),
        };
        let array = Get { bytes, at: 0 }.array();
        self.staged.clear();
        Ok(Some(array))
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
                self.data_ever = self.data_ever.saturating_add(u64::from(length));
                if self.data_ever > self.limits.max_total {
                    let most = self.limits.max_total;
                    return Err(err!(MsgSize, "the stream has more than {most} bytes of data"));
                }
                Ok(())
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
                self.initial_marks = 0;
                Ok(())
            }
            FrameType::End => exactly(END_LEN),
            FrameType::Other(raw) if flags & OPTIONAL == 0 => Err(err!(
                Proto,
                "frame {sequence} is of type {raw}, which this library does not know and which \
                 may not be passed over; use a newer library on this side"
            )),
            FrameType::Other(_) => limit(self.limits.max_frame, "limit for frames"),
        }?;
        if kind == FrameType::InitialComplete {
            self.initial_marks = self.initial_marks.saturating_add(1);
        }
        Ok(())
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
                let _count = get.u32();
                zero(get.u32())?;
                Item::Restart
            }
            FrameType::End => Item::End,
            FrameType::Other(raw) => {
                return Err(err!(Proto, "frame of type {raw} where none can be"));
            }
        })
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
            Item::Restart => Owned::Restart,
            Item::End => Owned::End,
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
            let result = read(DecodeLimits::default(), &[&bad]);
            assert!(result.is_err(), "bit {bit} may flip");
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
        for _ in 0..3 {
            w.put(FrameType::Restart, &[&[0; 8]]);
        }
        let restarts = DecodeLimits { max_restarts: 2, ..DecodeLimits::default() };
        assert_eq!(code(read(restarts, &[&w.end()])), Code::MsgSize);
        // A header that claims 4 GiB is refused when the header is there, not when the rest is.
        let mut w = Writer::new();
        let header = FrameHeader {
            kind: FrameType::Data,
            flags: 0,
            device: 3,
            length: u32::MAX,
            sequence: 1,
            payload_crc: 0,
        };
        w.out.extend_from_slice(&header.encode(&SESSION));
        let mut decoder = Decoder::new(DecodeLimits::default());
        let mut rest = w.out.as_slice();
        decoder.next(&mut rest).unwrap();
        assert_eq!(decoder.next(&mut rest).unwrap_err().code(), Code::MsgSize);
        assert_eq!(decoder.staged.capacity(), 0);
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
        w.put(FrameType::Restart, &[&[0; 8]]);
        w.put(FrameType::Data, &[b"new"]);
        assert_eq!(w.encoder.data_bytes(), 3);
        let items = read(DecodeLimits::default(), &[&w.end()]).unwrap();
        assert_eq!(items[2..4], [Owned::Restart, Owned::Data(b"new".to_vec())]);
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
        Initial(u32),
        Restart,
    }

    fn pieces() -> impl Strategy<Value = Vec<Piece>> {
        let bytes = || proptest::collection::vec(any::<u8>(), 1..600);
        let piece = prop_oneof![
            4 => bytes().prop_map(Piece::Data),
            1 => (any::<u32>(), bytes()).prop_map(|(kind, bytes)| Piece::Blob(kind, bytes)),
            1 => any::<u32>().prop_map(Piece::Initial),
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
            for piece in &pieces {
                match piece {
                    Piece::Data(bytes) => {
                        w.put(FrameType::Data, &[bytes]);
                        expected.push(Owned::Data(bytes.clone()));
                    }
                    Piece::Blob(kind, bytes) => {
                        w.put(FrameType::Blob, &[&kind.to_le_bytes(), &[0; 4], bytes]);
                        expected.push(Owned::Blob(*kind, bytes.clone()));
                    }
                    Piece::Initial(n) => {
                        w.put(FrameType::InitialComplete, &[&n.to_le_bytes(), &[0; 4]]);
                        expected.push(Owned::Initial(*n));
                    }
                    Piece::Restart => {
                        w.put(FrameType::Restart, &[&[0; 8]]);
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
