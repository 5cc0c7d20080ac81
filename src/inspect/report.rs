// SPDX-License-Identifier: MIT OR Apache-2.0
//! What there is to say of a stream as a whole.

use super::entry::{Owned, Piece, Problem, ProblemKind};
use crate::error::Code;
use crate::identity::Identity;
use crate::stream::{Features, FrameType, Preamble};

/// Whether a stream is whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u32)]
#[non_exhaustive]
pub enum Verdict {
    /// Not all of it has been looked at.
    #[default]
    Pending = 0,
    /// Whole: a load takes it.
    Whole = 1,
    /// Nothing is wrong with it as far as can be told without a key.
    Unverified = 2,
    /// What is there is right, and it stops before its end.
    Incomplete = 3,
    /// Not damaged, and a load refuses it: it is of a newer format, exceeds the limits, or cannot be
    /// verified with the key.
    Refused = 4,
    /// Damaged.
    Damaged = 5,
    /// It does not begin like a stream.
    Foreign = 6,
}

/// Whether a stream has tags, and what became of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum Tags {
    /// It has none, or that is not known yet.
    #[default]
    None = 0,
    /// They are verified.
    Verified = 1,
    /// There is no key to verify them with.
    NoKey = 2,
    /// They cannot be verified with the key that there is.
    OtherKey = 3,
}

/// A stream, as far as it has been looked at.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Whether it is whole.
    pub verdict: Verdict,
    /// What a load would say of it; `None`: it takes it.
    pub code: Option<Code>,
    /// The first problem, and where it is, in bytes from the front.
    pub first_problem: Option<(u64, Problem)>,
    /// How many problems there are.
    pub problems: u64,
    /// Its length as far as it was taken, in bytes.
    pub bytes: u64,
    /// Frames that are there, right or wrong.
    pub frames: u64,
    /// Bytes of device data since the last restart, in frames that are right.
    pub data_bytes: u64,
    /// Frames with device data since the last restart that are right.
    pub data_frames: u64,
    /// Blobs since the last restart.
    pub blobs: u64,
    /// Restarts.
    pub restarts: u64,
    /// Marks of complete initial data.
    pub initial_marks: u64,
    /// Frames of newer formats that were skipped.
    pub skipped: u64,
    /// Bytes that could not be understood.
    pub lost_bytes: u64,
    /// Whether its end has come.
    pub ended: bool,
    /// Its tags.
    pub tags: Tags,
    /// The device's number within its VM.
    pub device: Option<u32>,
    /// Its preamble, if that is right.
    pub preamble: Option<Preamble>,
    /// What the saved device is, if that has come and is right.
    pub identity: Option<Box<Identity>>,
    /// Whether there is no key.
    keyless: bool,
    /// The worst that was found.
    found: Verdict,
}

impl ProblemKind {
    /// What it makes of the stream.
    fn verdict(self) -> Verdict {
        use ProblemKind::*;
        match self {
            NoEnd | Truncated => Verdict::Incomplete,
            Version | Features | Key | Challenge | NotAuthenticated | Limit | UnknownFrame => {
                Verdict::Refused
            }
            _ => Verdict::Damaged,
        }
    }
}

impl Report {
    /// Of a stream of which nothing has come.
    pub(super) fn new(keyless: bool) -> Report {
        Report { keyless, ..Report::default() }
    }

    /// Counts a piece.
    pub(super) fn add(&mut self, piece: &Piece, payload: &[u8]) {
        if let Some(problem) = &piece.problem {
            self.problems += 1;
            self.worsen(problem.kind.verdict());
            if self.first_problem.is_none() {
                self.code = Some(problem.code());
                self.first_problem = Some((piece.offset, problem.clone()));
            }
        }
        match &piece.what {
            Owned::Preamble(preamble) if piece.problem.is_none() => {
                self.preamble = Some(*preamble);
            }
            Owned::Gap { resumed, .. } => {
                self.lost_bytes = self.lost_bytes.saturating_add(piece.length);
                if *resumed {
                    self.worsen(Verdict::Damaged);
                }
            }
            Owned::Frame { header, .. } => {
                self.frames += 1;
                let in_order = |it: &Problem| it.kind == ProblemKind::Sequence;
                if piece.problem.as_ref().is_none_or(in_order) {
                    self.device.get_or_insert(header.device);
                    self.add_frame(header.kind, header.length, payload);
                }
            }
            _ => {}
        }
    }

    fn add_frame(&mut self, kind: FrameType, length: u32, payload: &[u8]) {
        match kind {
            FrameType::Identity => {
                self.identity = crate::stream::decode_identity(payload).ok().map(Box::new);
            }
            FrameType::Data => {
                self.data_bytes = self.data_bytes.saturating_add(u64::from(length));
                self.data_frames += 1;
            }
            FrameType::InitialComplete => self.initial_marks += 1,
            FrameType::Blob => self.blobs += 1,
            FrameType::Restart => {
                self.restarts += 1;
                (self.data_bytes, self.data_frames, self.blobs) = (0, 0, 0);
            }
            FrameType::End => self.ended = true,
            FrameType::Other(_) => self.skipped += 1,
        }
    }

    /// Nothing makes a stream better.
    pub(super) fn worsen(&mut self, to: Verdict) {
        self.found = self.found.max(to);
    }

    /// All has been looked at.
    pub(super) fn close(&mut self) {
        self.verdict = match self.found {
            Verdict::Pending if self.ended && self.tags == Tags::NoKey => Verdict::Unverified,
            Verdict::Pending if self.ended => Verdict::Whole,
            Verdict::Pending => Verdict::Incomplete,
            found => found,
        };
        // A load asks for the key before it looks at any frame.
        let tags = |it: &Preamble| it.required.contains(Features::AUTHENTICATED);
        if self.keyless && self.preamble.as_ref().is_some_and(tags) {
            self.code = Some(Code::Perm);
        }
    }
}
