// SPDX-License-Identifier: MIT OR Apache-2.0
//! Streams that are whole, and streams that are damaged in every way, split in every way.

use proptest::prelude::*;

use super::super::entry::{Content, What};
use super::state::SECOND_LOOKS;
use super::*;
use crate::error::Code;
use crate::identity::Identity;
use crate::stream::{Encoder, encode_identity};

const ID: [u8; 16] = [7; 16];
const KEY: [u8; 32] = [0x4b; 32];

fn auth(key: [u8; 32]) -> Auth {
    Auth::with_keys(5, move |_, out| {
        *out = key;
        Ok(())
    })
}

/// A stream, and where its frames begin.
struct Made {
    encoder: Encoder,
    bytes: Vec<u8>,
    frames: Vec<usize>,
}

impl Made {
    fn new(tags: bool) -> Made {
        let encoder = match tags {
            true => Encoder::authenticated(ID, 3, auth(KEY), [9; 32]).unwrap(),
            false => Encoder::new(ID, 3),
        };
        let mut bytes = vec![0; 200];
        let len = encoder.preamble(&mut bytes).unwrap();
        bytes.truncate(len);
        let mut made = Made { encoder, bytes, frames: Vec::new() };
        let identity = Identity { driver: "mtty".into(), ..Identity::default() };
        made.put(FrameType::Identity, &encode_identity(&identity));
        made
    }

    fn put(&mut self, kind: FrameType, payload: &[u8]) {
        let mut buf = vec![0; payload.len() + 100];
        let len = self.encoder.frame(&mut buf, kind, &[payload]).unwrap();
        self.frames.push(self.bytes.len());
        self.bytes.extend_from_slice(&buf[..len]);
    }

    fn end(mut self) -> Made {
        let mut buf = [0; 200];
        let len = self.encoder.end(&mut buf).unwrap();
        self.frames.push(self.bytes.len());
        self.bytes.extend_from_slice(&buf[..len]);
        self
    }
}

/// All kinds of frames.
fn sample(tags: bool) -> Made {
    let mut made = Made::new(tags);
    made.put(FrameType::Data, b"void");
    made.put(FrameType::Restart, &[1, 0, 0, 0, 0, 0, 0, 0]);
    made.put(FrameType::Data, &[1; 90]);
    made.put(FrameType::InitialComplete, &[1, 0, 0, 0, 0, 0, 0, 0]);
    made.put(FrameType::Blob, b"\x09\0\0\0\0\0\0\0blob");
    made.put(FrameType::Data, &[2; 200]);
    made.put(FrameType::Data, &[3; 40]);
    made.end()
}

fn options(key: Option<[u8; 32]>) -> InspectOptions {
    InspectOptions { auth: key.map(auth), ..InspectOptions::default() }
}

/// All that an inspector says, a line each, and its report.
fn inspect(
    options: InspectOptions,
    pieces: &mut dyn Iterator<Item = &[u8]>,
) -> (Vec<String>, Report) {
    let mut inspector = Inspector::new(options).unwrap();
    let mut lines = Vec::new();
    let mut place = 0;
    let mut line = |entry: Entry<'_>| {
        let (offset, length) = (entry.offset, entry.length);
        assert!(offset >= place || matches!(entry.what, What::End), "{entry:?} after {place}");
        place = offset;
        let problem = entry.problem.map(|it| (it.kind, it.expected, it.found, it.code()));
        let what = match entry.what {
            What::Frame(frame) => format!(
                "{} {:?} {:?} {:?} at {} {:?}",
                frame.header.sequence,
                frame.header.kind,
                frame.checked,
                frame.content,
                frame.data_offset,
                frame.payload.len(),
            ),
            what => format!("{what:?}"),
        };
        lines.push(format!("{offset}+{length} {what} {problem:?}"));
    };
    for mut piece in pieces {
        while let Some(entry) = inspector.next(&mut piece).unwrap() {
            line(entry);
        }
        assert!(piece.is_empty());
    }
    while let Some(entry) = inspector.finish().unwrap() {
        line(entry);
    }
    (lines, inspector.report().clone())
}

fn whole(bytes: &[u8], key: Option<[u8; 32]>) -> (Vec<String>, Report) {
    inspect(options(key), &mut std::iter::once(bytes))
}

/// What a load says of the stream; `None`: it takes it.
fn load(bytes: &[u8], key: Option<[u8; 32]>) -> Option<Code> {
    let mut decoder = match key {
        Some(key) => Decoder::authenticated(DecodeLimits::default(), auth(key)).unwrap(),
        None => Decoder::new(DecodeLimits::default()),
    };
    let mut rest = bytes;
    loop {
        match decoder.next(&mut rest).map(|item| item.is_some()) {
            Ok(true) => {}
            Ok(false) => return (!decoder.ended()).then_some(Code::NoData),
            Err(error) => return Some(error.code()),
        }
    }
}

/// The verdict is the load's, and so is the code.
fn agree(bytes: &[u8], key: Option<[u8; 32]>) -> Report {
    let (lines, report) = whole(bytes, key);
    let said = load(bytes, key);
    assert_eq!(report.verdict == Verdict::Whole, said.is_none(), "{lines:#?}");
    assert_eq!(report.code, said, "{lines:#?}");
    assert_ne!(report.verdict, Verdict::Pending);
    assert_eq!(report.bytes, bytes.len() as u64);
    report
}

#[test]
fn a_stream_that_is_whole_is_said_to_be() {
    let made = sample(false);
    let (lines, report) = whole(&made.bytes, None);
    assert_eq!(report.verdict, Verdict::Whole, "{lines:#?}");
    assert_eq!((report.frames, report.data_frames, report.data_bytes), (9, 3, 330));
    assert_eq!((report.blobs, report.restarts, report.initial_marks), (1, 1, 1));
    assert_eq!(report.identity.as_ref().unwrap().driver, "mtty");
    assert_eq!((report.device, report.tags, report.problems), (Some(3), Tags::None, 0));
    assert_eq!(lines.len(), 11, "{lines:#?}");
    assert!(lines[5].contains("InitialComplete(1)") || lines[6].contains("Initial"), "{lines:#?}");
    let tagged = sample(true);
    assert_eq!(agree(&tagged.bytes, Some(KEY)).tags, Tags::Verified);
    let unverified = agree(&tagged.bytes, None);
    assert_eq!((unverified.verdict, unverified.tags), (Verdict::Unverified, Tags::NoKey));
    assert_eq!((unverified.frames, unverified.problems), (9, 0));
    let other = agree(&tagged.bytes, Some([1; 32]));
    assert_eq!((other.verdict, other.tags, other.problems), (Verdict::Refused, Tags::OtherKey, 1));
    assert_eq!((other.frames, other.data_bytes), (9, 330));
    // Only authenticated streams are wanted.
    let open = agree(&made.bytes, Some(KEY));
    assert_eq!((open.verdict, open.frames), (Verdict::Refused, 9));
}

#[test]
fn every_changed_byte_is_found_and_the_frames_around_it_are_still_read() {
    for (tags, key) in [(false, None), (true, Some(KEY)), (true, None)] {
        let made = sample(tags);
        for at in 0..made.bytes.len() {
            for bit in [0, 3, 7] {
                let mut bytes = made.bytes.clone();
                bytes[at] ^= 1 << bit;
                let report = agree(&bytes, key);
                let place = report.first_problem.as_ref().map(|it| it.0);
                // Without a key, a payload or a tag may be changed.
                let Some(place) = place else {
                    assert!(tags && key.is_none() && report.verdict == Verdict::Unverified);
                    continue;
                };
                assert_ne!(report.verdict, Verdict::Unverified);
                assert!(place <= at as u64, "{place} {at}");
                let begins = made.frames.iter().rev().find(|begin| **begin <= at);
                if let (Some(begin), true) = (begins, key.is_some() || !tags) {
                    assert_eq!(place, *begin as u64, "{at}");
                }
                // No more than the frame itself is lost, whatever is wrong; only the magic and the
                // beginning of an authenticated stream have nothing to go by.
                let least = 9 - 1 - u64::from(at + 1 >= *made.frames.last().unwrap());
                assert!(report.frames >= least, "{at} {bit} {tags} {report:?}");
            }
        }
    }
}

#[test]
fn bytes_that_are_missing_or_too_many_cost_no_more_than_their_frame() {
    for (tags, key) in [(false, None), (true, Some(KEY))] {
        let made = sample(tags);
        for at in made.frames[0]..made.bytes.len() {
            for len in [1, 5, 33] {
                let mut bytes = made.bytes.clone();
                bytes.drain(at..(at + len).min(made.bytes.len()));
                let report = agree(&bytes, key);
                let hit = |frame: &&usize| **frame < at + len;
                let last = made.frames.iter().filter(hit).count();
                let first = made.frames.iter().filter(|frame| **frame <= at).count();
                let touched = (last - first + 1) as u64;
                assert!(report.frames + touched >= 9, "{at} {len} {report:?}");
                let mut bytes = made.bytes.clone();
                bytes.splice(at..at, vec![b'V'; len]);
                assert!(agree(&bytes, key).frames >= 8);
            }
        }
    }
}

#[test]
fn every_front_of_a_stream_is_incomplete() {
    for (tags, key) in [(false, None), (true, Some(KEY))] {
        let made = sample(tags);
        for len in 0..made.bytes.len() {
            let report = agree(&made.bytes[..len], key);
            assert_eq!((report.verdict, report.problems), (Verdict::Incomplete, 1), "{len}");
        }
        let more = [&made.bytes[..], b"x"].concat();
        let (place, problem) = agree(&more, key).first_problem.unwrap();
        assert_eq!((place, problem.kind), (made.bytes.len() as u64, ProblemKind::AfterEnd));
    }
}

#[test]
fn frames_that_are_missing_swapped_or_repeated_are_named() {
    let made = sample(false);
    let frame = |which: usize| {
        let end = made.frames.get(which + 1).copied().unwrap_or(made.bytes.len());
        &made.bytes[made.frames[which]..end]
    };
    let with = |order: &[usize]| {
        let frames: Vec<&[u8]> = order.iter().map(|which| frame(*which)).collect();
        agree(&[&made.bytes[..40], &frames.concat()].concat(), None)
    };
    for (order, expected, found) in [
        (&[0, 1, 2, 3, 6, 7, 8][..], 4, 6),
        (&[0, 1, 2, 3, 3, 4, 5, 6, 7, 8], 4, 3),
        (&[0, 1, 2, 4, 3, 5, 6, 7, 8], 3, 4),
    ] {
        let report = with(order);
        let (_, problem) = report.first_problem.unwrap();
        assert_eq!(problem.kind, ProblemKind::Sequence);
        assert_eq!((problem.expected, problem.found), (Some(expected), Some(found)));
        assert_eq!((report.verdict, report.frames), (Verdict::Damaged, order.len() as u64));
    }
    assert_eq!(with(&[1, 2, 3, 4, 5, 6, 7, 8]).verdict, Verdict::Damaged);
}

#[test]
fn a_preamble_that_is_lost_costs_nothing_but_itself() {
    for tags in [false, true] {
        let mut made = sample(tags);
        made.bytes[..40].fill(0xa5);
        let report = agree(&made.bytes, None);
        assert_eq!((report.verdict, report.frames), (Verdict::Damaged, 9), "{tags}");
        assert_eq!(report.data_bytes, 330);
        let (_, problem) = report.first_problem.unwrap();
        assert_eq!(problem.kind, ProblemKind::NotAStream);
    }
    for foreign in [&[b'Q'; 5][..], &[0; 5000], &[0x89; 41]] {
        assert_eq!(agree(foreign, None).verdict, Verdict::Foreign);
    }
}

#[test]
fn limits_and_newer_formats_are_no_damage() {
    let made = sample(false);
    let limits = DecodeLimits { max_frame: 100, ..DecodeLimits::default() };
    let (lines, report) =
        inspect(InspectOptions { limits, auth: None }, &mut std::iter::once(&made.bytes[..]));
    assert_eq!(
        (report.verdict, report.code),
        (Verdict::Refused, Some(Code::MsgSize)),
        "{lines:#?}"
    );
    assert_eq!(report.frames, 9);
    let mut bytes = made.bytes;
    bytes[8] = 2;
    let check = crc32fast::hash(&bytes[..36]);
    bytes[36..40].copy_from_slice(&check.to_le_bytes());
    let newer = agree(&bytes, None);
    assert_eq!((newer.verdict, newer.frames), (Verdict::Refused, 0));
    assert_eq!(newer.first_problem.unwrap().1.found, Some(2));
}

#[test]
fn headers_within_headers_take_no_longer_than_the_stream() {
    // Each announces a frame that is long and wrong, with the next one in it.
    let mut made = Made::new(false);
    let mut payload = Vec::new();
    for sequence in 0..3000 {
        let header = FrameHeader {
            kind: FrameType::Data,
            flags: crate::stream::FrameFlags::empty(),
            device: 3,
            length: 30000,
            sequence,
            payload_crc: 1,
        };
        payload.extend(header.encode(&ID));
    }
    made.put(FrameType::Data, &payload);
    let mut made = made.end();
    let place = made.frames[1] + 40;
    made.bytes[place] ^= 1;
    let mut inspector = Inspector::new(options(None)).unwrap();
    let mut rest = &made.bytes[..];
    while inspector.next(&mut rest).unwrap().is_some() {}
    while inspector.finish().unwrap().is_some() {}
    assert_eq!(inspector.report().verdict, Verdict::Damaged);
    assert!(inspector.walk.second_looks <= made.bytes.len() as u64 + SECOND_LOOKS);
}

/// A change to a stream: what, where, and how much of it.
fn change(bytes: &mut Vec<u8>, what: u8, at: usize, len: usize) {
    let at = at % bytes.len();
    let end = (at + len).min(bytes.len());
    match what {
        0 => bytes[at] ^= 1 + len as u8 % 255,
        1 => drop(bytes.drain(at..end)),
        2 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        3 => bytes[at..end].fill(0),
        _ => bytes.truncate(at.max(1)),
    }
}

proptest! {
    #[test]
    fn it_says_the_same_however_the_stream_is_split_and_what_a_load_says(
        tags: bool,
        with_key: bool,
        changes in proptest::collection::vec((0u8..5, any::<usize>(), 1usize..300), 0..4),
        step in 1usize..400,
    ) {
        let key = (tags && with_key).then_some(KEY);
        let mut bytes = sample(tags).bytes;
        for (what, at, len) in changes {
            if !bytes.is_empty() {
                change(&mut bytes, what, at, len);
            }
        }
        agree(&bytes, key);
        let (lines, _) = whole(&bytes, key);
        let (split, _) = inspect(options(key), &mut bytes.chunks(step));
        prop_assert_eq!(lines, split);
    }
}

#[test]
fn what_is_said_of_a_frame_is_what_it_says() {
    let made = sample(false);
    let mut inspector = Inspector::new(options(None)).unwrap();
    let (mut rest, mut blob, mut data) = (&made.bytes[..], Vec::new(), Vec::new());
    while let Some(entry) = inspector.next(&mut rest).unwrap() {
        if let What::Frame(frame) = entry.what {
            match frame.content {
                Content::Blob { kind: 9, bytes } => blob = bytes.to_vec(),
                Content::Restart(1) => data.clear(),
                Content::Data => {
                    assert_eq!(frame.data_offset, data.len() as u64);
                    data.extend_from_slice(frame.payload);
                }
                Content::End { data_bytes, data_frames, blobs } => {
                    assert_eq!((data_bytes, data_frames, blobs), (330, 3, 1));
                }
                _ => {}
            }
        }
    }
    assert_eq!((blob, data.len()), (b"blob".to_vec(), 330));
}
