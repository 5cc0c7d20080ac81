// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the length fields of a hostile stream cost: counted by the allocator itself, and therefore a
//! program of its own with one test. `tests/qemu_memory.rs` does it for QEMU's numbers.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;
mod counting;

use std::time::Duration;

use common::{side, small};
use counting::cost;
use vfiomig::compat::{Policy, Rule};
use vfiomig::error::Code;
use vfiomig::session::{LoadOptions, Packets};
use vfiomig::stream::{
    DecodeLimits, Encoder, Format, FrameFlags, FrameHeader, FrameType, HEADER_LEN, LEAST_MEMORY,
    PREAMBLE_LEN, encode_identity,
};

/// An identity, an error's text and failure, the logger's.
const LITTLE: usize = 24 << 10;
/// What one reading from a socket may bring, which a load has room for whatever is announced.
const ROOM: usize = 1 << 20;

const NAME: [u8; 16] = [3; 16];

/// The stream up to its first frame after the identity.
fn beginning() -> Vec<u8> {
    let mut encoder = Encoder::new(NAME, 0);
    let mut buf = vec![0; 8192];
    let at = encoder.preamble(&mut buf).unwrap();
    assert_eq!(at, PREAMBLE_LEN);
    let identity = encode_identity(&Default::default());
    let len = encoder.frame(&mut buf[at..], FrameType::Identity, &[&identity]).unwrap();
    buf.truncate(at + len);
    buf
}

/// The header of the second frame, which announces `length` bytes.
fn announce(kind: FrameType, flags: FrameFlags, length: u32) -> [u8; HEADER_LEN] {
    let header = FrameHeader { kind, flags, device: 0, length, sequence: 1, payload_crc: 0 };
    header.encode(&NAME)
}

/// How bytes come.
#[derive(Clone, Copy, Debug)]
enum By {
    Push(usize),
    Space,
}

/// What a load of `stream` costs at most, with these limits, and how it ends.
fn of_stream(limits: DecodeLimits, stream: &[u8], by: By) -> (usize, Option<Code>) {
    let target = side(small(2));
    let blobs: vfiomig::session::BlobSink = Box::new(|_, _| Ok(()));
    // The streams do not say what they are of.
    let policy = Policy::default().with_others(Rule::IfKnown).unwrap();
    let options = LoadOptions { limits, blobs: Some(blobs), policy, ..LoadOptions::default() };
    let mut load = target.device.load(options).unwrap();
    let mut code = None;
    let ((), cost) = cost(|| {
        let mut rest = stream;
        while !rest.is_empty() && code.is_none() {
            let pushed = match by {
                By::Push(len) => {
                    let (piece, behind) = rest.split_at(len.min(rest.len()));
                    rest = behind;
                    load.push(piece)
                }
                By::Space => load
                    .space()
                    .map(|space| {
                        let len = space.len().min(rest.len()).min(100_000);
                        let (piece, behind) = rest.split_at(len);
                        space[..len].copy_from_slice(piece);
                        rest = behind;
                        len
                    })
                    .and_then(|len| load.received(len)),
            };
            code = pushed.err().map(|error| error.code());
        }
    });
    (cost, code)
}

const WAYS: [By; 4] = [By::Push(usize::MAX), By::Push(1000), By::Push(70_001), By::Space];

/// Each length field at its extremes, with little behind it.
fn announced_lengths_cost_what_has_come() {
    let begin = beginning();
    let kinds = [
        (FrameType::Identity, FrameFlags::empty()),
        (FrameType::Data, FrameFlags::empty()),
        (FrameType::InitialComplete, FrameFlags::empty()),
        (FrameType::Blob, FrameFlags::empty()),
        (FrameType::Restart, FrameFlags::empty()),
        (FrameType::End, FrameFlags::empty()),
        (FrameType::Other(77), FrameFlags::OPTIONAL),
        (FrameType::Other(77), FrameFlags::empty()),
    ];
    // The defaults, and limits as far up as they go.
    let open = DecodeLimits { max_frame: 1 << 30, max_blob: (1 << 30) - 8, ..Default::default() };
    let lengths = [
        0,
        1,
        7,
        8,
        9,
        4096,
        4097,
        1 << 20,
        (1 << 20) + 9,
        4 << 20,
        (4 << 20) + 1,
        1 << 30,
        (1 << 30) + 1,
        u32::MAX,
    ];
    let mut tried = 0;
    for limits in [DecodeLimits::default(), open] {
        for (kind, flags) in kinds {
            for length in lengths {
                for by in WAYS {
                    let came = 3000usize;
                    let header = announce(kind, flags, length);
                    let stream = [&begin[..], &header, &vec![5; came]].concat();
                    let (cost, _) = of_stream(limits, &stream, by);
                    assert!(cost <= ROOM + LITTLE, "{kind:?} {length} {by:?}: {cost}");
                    tried += 1;
                }
            }
        }
    }
    println!("{tried} announced lengths");
    // Of an identity, which is the first frame.
    for length in [4096, 4097, u32::MAX] {
        let header = FrameHeader {
            kind: FrameType::Identity,
            flags: FrameFlags::empty(),
            device: 0,
            length,
            sequence: 0,
            payload_crc: 0,
        };
        let stream = [&begin[..PREAMBLE_LEN], &header.encode(&NAME)].concat();
        let (cost, code) = of_stream(DecodeLimits::default(), &stream, By::Push(1));
        assert!(cost <= ROOM + LITTLE, "{length}: {cost}");
        assert_eq!(code, (length > 4096).then_some(Code::MsgSize));
    }
}

/// Frames of every length, whole: what is documented of `max_memory` holds, and without it what
/// follows from the limits.
fn whole_frames_stay_within_their_bound() {
    let begin = beginning();
    let mut worst = 0;
    for max_memory in [LEAST_MEMORY, 8 << 20, u64::MAX] {
        let limits = DecodeLimits { max_memory, ..DecodeLimits::default() };
        for length in [100_000usize, 900_000, 1_000_000, 1_100_000, 2 << 20, 3 << 20, 4 << 20] {
            for kind in [FrameType::Data, FrameType::Blob] {
                for by in WAYS {
                    let flags = FrameFlags::empty();
                    let header = announce(kind, flags, u32::try_from(length).unwrap());
                    // All but its end, so that the driver gets nothing.
                    let stream = [&begin[..], &header, &vec![5; length - 1]].concat();
                    let (cost, code) = of_stream(limits, &stream, by);
                    let most = max_memory.min(2 * (4 << 20) + 2 * ROOM as u64) as usize;
                    assert!(cost <= most + LITTLE, "{max_memory} {length} {by:?}: {cost}");
                    worst = worst.max(cost * 100 / most);
                    let longest = (max_memory / 2 - ROOM as u64).min(4 << 20) as usize;
                    let longest =
                        if kind == FrameType::Blob { longest.min(ROOM) + 8 } else { longest };
                    assert_eq!(code.is_some(), length > longest, "{max_memory} {length} {kind:?}");
                }
            }
        }
    }
    // The bound is not far from what is needed.
    assert!((60..=100).contains(&worst), "{worst}");
}

fn packet(idx: u32, data: &[u8]) -> Vec<u8> {
    [&[0, idx, 0].map(u32::to_be_bytes).concat(), data].concat()
}

/// Packets that wait, those that are written and what is kept of them share one bound.
fn packets_stay_within_the_memory_of_the_session() {
    for max_memory in [LEAST_MEMORY, 6 << 20, 16 << 20] {
        let target = side(small(2));
        let options = LoadOptions {
            format: Format::QemuPackets,
            limits: DecodeLimits { max_memory, ..DecodeLimits::default() },
            write_timeout: Duration::from_millis(5),
            ..LoadOptions::default()
        };
        let load = target.device.load(options).unwrap();
        let packets: Packets = load.packets().unwrap();
        let largest = (max_memory as usize - ROOM) / 4;
        let large = packet(0, &vec![1; largest]);
        let over = packet(0, &vec![1; largest + 1]);
        let mut taken = 0;
        let ((), cost) = cost(|| {
            // Those after the first in order wait, until there is no more room.
            for idx in 1.. {
                let mut next = large.clone();
                next[4..8].copy_from_slice(&u32::to_be_bytes(idx));
                let submitted = packets.submit(&next);
                drop(next);
                if submitted.is_err() {
                    break;
                }
                taken += 1;
            }
        });
        assert!(taken >= 1, "{max_memory}");
        // One of them is the test's own copy.
        let cost = cost.saturating_sub(large.len());
        assert!(cost as u64 <= max_memory - ROOM as u64 + LITTLE as u64, "{max_memory}: {cost}");
        let options = LoadOptions {
            format: Format::QemuPackets,
            limits: DecodeLimits { max_memory, max_frame: 1 << 30, ..DecodeLimits::default() },
            ..LoadOptions::default()
        };
        let target = side(small(2));
        let load = target.device.load(options).unwrap();
        let refused = load.packets().unwrap().submit(&over).unwrap_err();
        assert_eq!(refused.code(), Code::MsgSize);
    }
}

#[test]
fn numbers_of_a_hostile_stream_cost_what_the_limits_say() {
    announced_lengths_cost_what_has_come();
    whole_frames_stay_within_their_bound();
    packets_stay_within_the_memory_of_the_session();
    // Too little to work with is refused.
    let limits = DecodeLimits { max_memory: LEAST_MEMORY - 1, ..DecodeLimits::default() };
    let target = side(small(2));
    let options = LoadOptions { limits, ..LoadOptions::default() };
    assert_eq!(target.device.load(options).err().unwrap().code(), Code::Inval);
}
