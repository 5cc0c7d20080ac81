// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a refusal is about: the decoder says why in words and by a code; this finds the numbers.

use super::entry::{Problem, ProblemKind};
use crate::error::{Code, Error};
use crate::stream::{
    BLOCK_LEN, BLOCK_MARK, Binding, FORMAT_MAJOR, FRAME_MARK, FrameFlags, FrameHeader, FrameType,
    HEADER_LEN, MAGIC, PREAMBLE_LEN, Preamble, TAG_LEN, block_check,
};

/// What stands between a preamble and the first frame of an authenticated stream, in bytes.
pub(super) const BLOCK: usize = BLOCK_LEN + TAG_LEN;

/// The longest identity, in bytes.
pub(super) const LONGEST_IDENTITY: usize = 4096;

fn problem(kind: ProblemKind, numbers: Option<(u64, u64)>, error: Error) -> Problem {
    let (expected, found) = numbers.unzip();
    Problem { kind, expected, found, error }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

pub(super) fn preamble(bytes: &[u8; PREAMBLE_LEN], error: Error) -> Problem {
    let preamble = Preamble::of(bytes);
    let (must, is) = Preamble::checks(bytes);
    let (kind, numbers) = match () {
        () if !bytes.starts_with(&MAGIC) => (ProblemKind::NotAStream, None),
        () if must != is => (ProblemKind::PreambleCheck, Some((must.into(), is.into()))),
        () if preamble.major != FORMAT_MAJOR => {
            (ProblemKind::Version, Some((FORMAT_MAJOR.into(), preamble.major.into())))
        }
        () if error.code() == Code::Perm => (ProblemKind::NotAuthenticated, None),
        () => (ProblemKind::Features, None),
    };
    problem(kind, numbers, error)
}

pub(super) fn block(bytes: &[u8; BLOCK], migration_id: &[u8; 16], error: Error) -> Problem {
    let must = bytes.first_chunk().map_or(0, |block| block_check(migration_id, block));
    let is = number(bytes, BLOCK_LEN - 4);
    let (kind, numbers) = match error.code() {
        _ if !bytes.starts_with(&BLOCK_MARK) => (ProblemKind::Block, None),
        _ if must != is => (ProblemKind::Block, Some((must.into(), is.into()))),
        Code::Proto => (ProblemKind::Block, None),
        Code::OtherDevice => (ProblemKind::Challenge, None),
        _ => (ProblemKind::Key, None),
    };
    problem(kind, numbers, error)
}

/// Of a header whose mark or check is wrong.
pub(super) fn header_bytes(bytes: &[u8; HEADER_LEN], binding: Binding, error: Error) -> Problem {
    if !bytes.starts_with(&FRAME_MARK) {
        let must = u32::from_le_bytes(FRAME_MARK);
        return problem(ProblemKind::Mark, Some((must.into(), number(bytes, 0).into())), error);
    }
    let numbers = (binding.check(bytes).into(), number(bytes, HEADER_LEN - 4).into());
    problem(ProblemKind::HeaderCheck, Some(numbers), error)
}

/// Of a header that is right in itself, and in its place.
pub(super) fn header(header: &FrameHeader, error: Error) -> Problem {
    let FrameHeader { kind, flags, .. } = *header;
    let other = matches!(kind, FrameType::Other(_));
    let may = if other { FrameFlags::OPTIONAL } else { FrameFlags::empty() };
    let kind = match error.code() {
        Code::MsgSize => ProblemKind::Limit,
        _ if (header.sequence == 0) != (kind == FrameType::Identity) => ProblemKind::Order,
        _ if !(flags - may).is_empty() => ProblemKind::Flags,
        _ if other && !flags.contains(FrameFlags::OPTIONAL) => ProblemKind::UnknownFrame,
        _ if wrong_length(header) => ProblemKind::Length,
        _ => ProblemKind::Device,
    };
    problem(kind, None, error)
}

fn wrong_length(header: &FrameHeader) -> bool {
    match header.kind {
        FrameType::Data => header.length == 0,
        FrameType::InitialComplete | FrameType::Restart => header.length != 8,
        FrameType::Blob => header.length < 8,
        FrameType::End => header.length != 32,
        _ => false,
    }
}

/// Of a frame whose header is right.
pub(super) fn payload(
    header: &FrameHeader,
    payload: &[u8],
    tags: Option<bool>,
    error: Error,
) -> Problem {
    let sum = crc32fast::hash(payload);
    let (kind, numbers) = match (error.code(), tags) {
        (Code::BadMsg, None) => {
            (ProblemKind::PayloadCheck, Some((sum.into(), header.payload_crc.into())))
        }
        (Code::BadMsg, _) if header.payload_crc != 0 => {
            (ProblemKind::PayloadCheck, Some((0, header.payload_crc.into())))
        }
        (Code::BadMsg, _) => (ProblemKind::Tag, None),
        (Code::Proto, _) if header.kind == FrameType::End => (ProblemKind::Totals, None),
        (Code::Proto, _) => (ProblemKind::Contents, None),
        _ => (ProblemKind::Key, None),
    };
    problem(kind, numbers, error)
}
