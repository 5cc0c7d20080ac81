// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a walk over a native stream is, and what it says.

use crate::error::err;
use crate::inspect::carry::{Carry, Place};
use crate::inspect::entry::{Checked, Owned, Piece, Problem, ProblemKind};
use crate::inspect::report::Report;
use crate::stream::{Decoder, FrameHeader};

/// Where the walk is.
#[derive(Clone, Copy, Debug)]
pub enum At {
    /// A unit that the decoder asks for.
    Unit,
    /// Behind a preamble that is damaged.
    BadPreamble { magic: bool },
    /// The payload of a frame, whose header lies before it. What is wrong with its place.
    Payload(FrameHeader),
    /// A frame whose payload is wrong, of this length in all: does a frame follow it?
    BadFrame { total: usize },
    /// Nothing is known of what comes; a gap that began there.
    Scan { from: u64 },
    /// So many bytes belong to a frame that is not looked at.
    Skip(u64),
    /// So many bytes have come after the end.
    Behind(u64),
    /// Nothing more is said, whatever comes.
    Over,
}

/// How many bytes may be looked at a second time, beyond as many as have come. Whoever makes headers
/// can make many that announce long frames, one within the other.
pub const SECOND_LOOKS: u64 = if cfg!(test) { 4 << 10 } else { 64 << 20 };

/// A walk.
pub struct Walk {
    pub decoder: Decoder,
    pub carry: Carry,
    pub at: At,
    /// Where the next byte that was not consumed is.
    pub offset: u64,
    /// What was passed on last, and is no longer needed.
    pub used: usize,
    /// What is wrong with the place of the frame whose payload is awaited.
    pub misplaced: Option<Problem>,
    /// Bytes that were looked at a second time.
    pub second_looks: u64,
    pub report: Report,
}

/// What the walk has found, and where its bytes lie.
pub struct Found {
    pub piece: Piece,
    pub place: Place,
}

/// What a step of the walk came to. Passed on at once, so that its size costs nothing.
#[allow(clippy::large_enum_variant)]
pub enum Step {
    Said(Found),
    /// More of the stream is needed.
    Wait,
    On,
}

impl Walk {
    /// At the front of a stream.
    pub fn new(decoder: Decoder, report: Report) -> Walk {
        Walk {
            decoder,
            carry: Carry::default(),
            at: At::Unit,
            offset: 0,
            used: 0,
            misplaced: None,
            second_looks: 0,
            report,
        }
    }

    /// Leaves bytes behind that have been dealt with.
    pub fn consume(&mut self, input: &mut &[u8], len: usize) {
        self.carry.consume(input, len);
        self.offset += len as u64;
    }

    /// Whether so many bytes may be looked at again.
    pub fn may_look_again(&mut self, len: usize) -> bool {
        let allowed = self.second_looks + len as u64 <= self.offset + SECOND_LOOKS;
        self.second_looks += if allowed { len as u64 } else { 0 };
        allowed
    }

    /// Nothing more comes where so many bytes are missing.
    pub fn cut(&mut self, what: Owned, missing: u64, used: usize) -> Step {
        let here = self.carry.len() as u64;
        self.at = At::Over;
        let problem = Problem {
            kind: ProblemKind::Truncated,
            expected: Some(here + missing),
            found: Some(here),
            error: err!(NoData, "the stream is cut short: {missing} bytes are missing at its end"),
        };
        self.used = used;
        let piece = Piece { offset: self.offset, length: here, what, problem: Some(problem) };
        Step::Said(Found { piece, place: Place::Held })
    }

    pub fn frame(
        &self,
        header: FrameHeader,
        checked: Checked,
        head: usize,
        payload: usize,
    ) -> Owned {
        let data_offset = self.report.data_bytes;
        Owned::Frame { header, checked, data_offset, head, payload }
    }

    /// Says what is here, of which `used` bytes are then left behind.
    pub fn say(
        &mut self,
        what: Owned,
        length: usize,
        problem: Option<Problem>,
        used: usize,
        place: Place,
    ) -> Step {
        self.used = used;
        let piece = Piece { offset: self.offset, length: length as u64, what, problem };
        Step::Said(Found { piece, place })
    }

    /// Says what has been left behind from there on.
    pub fn say_from(&mut self, from: u64, what: Owned) -> Step {
        self.say_at(from, self.offset - from, what, None)
    }

    pub fn say_at(
        &mut self,
        offset: u64,
        length: u64,
        what: Owned,
        problem: Option<Problem>,
    ) -> Step {
        let piece = Piece { offset, length, what, problem };
        Step::Said(Found { piece, place: Place::Held })
    }
}
