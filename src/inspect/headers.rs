// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a stream can be understood again: headers whose checks are right.

use super::diagnose::LONGEST_IDENTITY;
use crate::stream::{Binding, FRAME_MARK, FrameHeader, FrameType, HEADER_LEN, TAG_LEN};

/// Whether a frame begins here.
pub(super) fn is_header(bytes: &[u8], binding: Binding) -> bool {
    let header = bytes.first_chunk::<HEADER_LEN>();
    header.is_some_and(|header| FrameHeader::decode_bound(header, binding).is_ok())
}

/// The next header whose check is right, from the byte `first` on.
pub(super) fn next_header(
    bytes: &[u8],
    first: usize,
    binding: Binding,
) -> Option<(usize, FrameHeader)> {
    let mut at = first;
    loop {
        let rest = bytes.get(at..)?;
        let step = rest.iter().position(|byte| *byte == FRAME_MARK[0])?;
        let header = rest.get(step..)?.first_chunk::<HEADER_LEN>()?;
        if let Ok(header) = FrameHeader::decode_bound(header, binding) {
            return Some((at + step, header));
        }
        at += step + 1;
    }
}

/// What the checks of the first two frames of a stream are bound to, if these are frames, and it is
/// the same for both.
pub(super) fn first_frames(bytes: &[u8], tags: bool) -> Option<Binding> {
    let head = if tags { HEADER_LEN + TAG_LEN } else { HEADER_LEN };
    let first = bytes.first_chunk::<HEADER_LEN>()?;
    let binding = Binding::of_header(first);
    let header = FrameHeader::decode_bound(first, binding).ok()?;
    let right = header.kind == FrameType::Identity
        && header.sequence == 0
        && header.length as usize <= LONGEST_IDENTITY;
    let second = bytes.get(head + header.length as usize..)?;
    (right && is_header(second, binding)).then_some(binding)
}
