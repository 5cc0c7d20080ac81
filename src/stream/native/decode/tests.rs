// SPDX-License-Identifier: MIT OR Apache-2.0
//! Streams that must be read, and streams that must be refused, split in every way.

use proptest::prelude::*;

use super::super::encode::Encoder;
use super::super::frame::encode_preamble;
use super::super::identity::encode_identity;
use super::super::staging::{CACHE_LINE, LEAST_ROOM, WINDOW};
use super::*;
use crate::identity::Identity;

/// An item, owned.
#[derive(Debug, PartialEq, Eq, Clone)]
enum Owned {
    Identity(Box<Identity>),
    Data(Vec<u8>),
    Initial(u32),
    Blob(u32, Vec<u8>),
    Restart,
    End,
}

fn own(item: Item<'_>) -> Owned {
    match item {
        Item::Identity(identity) => Owned::Identity(identity),
        Item::Data(bytes) => Owned::Data(bytes.to_vec()),
        Item::InitialComplete(n) => Owned::Initial(n),
        Item::Blob { kind, bytes } => Owned::Blob(kind, bytes.to_vec()),
        Item::Restart(_) => Owned::Restart,
        Item::End => Owned::End,
        other => panic!("{other:?} does not belong to this format"),
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
fn read_into_space(stream: &[u8], sizes: &mut dyn Iterator<Item = usize>) -> Result<Vec<Owned>> {
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

const MIGRATION_ID: [u8; 16] = [7; 16];

struct Writer {
    encoder: Encoder,
    out: Vec<u8>,
}

impl Writer {
    fn new() -> Writer {
        let encoder = Encoder::new(MIGRATION_ID, 3);
        let mut writer =
            Writer { encoder, out: encode_preamble(&MIGRATION_ID, Features::empty()).to_vec() };
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
    // The same frames under another migration's preamble.
    let foreign =
        [&encode_preamble(&[8; 16], Features::empty())[..], &good[PREAMBLE_LEN..]].concat();
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
    assert_eq!(decoder.staging.capacity(), 0);
}

/// A stream whose second frame announces `length` bytes of data, none of which are there.
fn announcing(length: u32) -> Vec<u8> {
    let mut w = Writer::new();
    let header = FrameHeader {
        kind: FrameType::Data,
        flags: FrameFlags::empty(),
        device: 3,
        length,
        sequence: 1,
        payload_crc: 0,
    };
    w.out.extend_from_slice(&header.encode(&MIGRATION_ID));
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
        each(at, decoder.staging.capacity());
    }
}

#[test]
fn memory_grows_with_what_has_come_and_not_with_what_is_announced() {
    let stream = announcing(1 << 30);
    for (piece, in_space) in [(7, true), (7, false), (5000, true), (5000, false)] {
        let (mut sizes, mut last) = (0, 0);
        take_in_pieces(&stream, 100_000, piece, in_space, |came, size| {
            // This memory was reserved before the last piece came.
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
            assert!(decoder.staging.capacity() <= bound, "{}", decoder.staging.capacity());
        }
        assert!(decoder.ended() && left == 0);
    }
}

#[test]
fn unknown_optional_frames_are_passed_over_and_mandatory_ones_refused() {
    let with = |flags: FrameFlags| {
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
        let bytes = header.encode(&MIGRATION_ID);
        w.out.extend_from_slice(&bytes);
        w.out.extend_from_slice(payload);
        w.encoder.skip_for_test(&header, &bytes);
        w.put(FrameType::Data, &[b"x"]);
        w.end()
    };
    let items = read(DecodeLimits::default(), &[&with(FrameFlags::OPTIONAL)]).unwrap();
    assert_eq!(items[1..], [Owned::Data(b"x".to_vec()), Owned::End]);
    assert_eq!(code(read(DecodeLimits::default(), &[&with(FrameFlags::empty())])), Code::Proto);
    let more = FrameFlags::OPTIONAL | FrameFlags::from_bits_retain(2);
    assert_eq!(code(read(DecodeLimits::default(), &[&with(more)])), Code::Proto);
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
        for (numbers, good) in
            [([1u32, 2], true), ([5, 9], true), ([0, 1], false), ([2, 2], false), ([3, 1], false)]
        {
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
