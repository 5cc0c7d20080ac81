// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an inspector says, piece by piece.

use crate::error::{Code, Error};
use crate::identity::Identity;
use crate::stream::{AuthBlock, FrameHeader, FrameType, Preamble};

/// A piece of a stream.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Where it begins, in bytes from the front of the stream.
    pub offset: u64,
    /// How long it is, in bytes: as much as there is of it.
    pub length: u64,
    /// What it is.
    pub what: What<'a>,
    /// What is wrong with it, if anything is.
    pub problem: Option<Problem>,
}

/// What a piece of a stream is.
#[derive(Debug)]
#[non_exhaustive]
pub enum What<'a> {
    /// The beginning of a native stream, as it is there.
    Preamble(Preamble),
    /// How the stream is authenticated; `None` where that cannot be read.
    Authentication(Option<AuthBlock>),
    /// A frame.
    Frame(Frame<'a>),
    /// Damage begins here. What follows it, up to where the stream can be understood again, is a
    /// [`What::Gap`].
    Damage,
    /// Bytes that could not be understood. Afterwards the stream goes on, or ends.
    Gap {
        /// Whether a frame follows.
        resumed: bool,
        /// How many frames are missing, if a frame follows that says so.
        missing: Option<u64>,
    },
    /// The stream ends here.
    End,
}

/// Whether a check is right that vouches for something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Checked {
    /// It is right.
    Right = 1,
    /// It is wrong.
    Wrong = 2,
    /// It was not looked at: the frame breaks a rule, is longer than the limits allow, or is not
    /// there as a whole.
    NotChecked = 3,
    /// It is a tag, and there is no key to verify it with.
    NoKey = 4,
}

/// A frame of a native stream.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Its header, whose own check is right.
    pub header: FrameHeader,
    /// Whether what vouches for its payload is right.
    pub checked: Checked,
    /// Where its device data begins, in bytes of device data since the last restart.
    pub data_offset: u64,
    /// Its payload, as far as it is there and not too long; not to be relied on unless `checked` is
    /// [`Checked::Right`].
    pub payload: &'a [u8],
    /// What it says; [`Content::Unknown`] where it breaks a rule.
    pub content: Content<'a>,
}

/// What a frame says.
#[derive(Debug)]
#[non_exhaustive]
pub enum Content<'a> {
    /// Nothing that is known, or nothing that keeps to the format.
    Unknown,
    /// What the saved device is.
    Identity(Box<Identity>),
    /// Device data: all of the payload.
    Data,
    /// All initial data has come.
    InitialComplete(u32),
    /// Data of the VMM's own.
    Blob {
        /// The VMM's own number for it.
        kind: u32,
        /// Its contents.
        bytes: &'a [u8],
    },
    /// Everything before is void, except the identity.
    Restart(u32),
    /// The end, with what it says of the stream.
    End {
        /// Bytes of device data since the last restart.
        data_bytes: u64,
        /// Frames with device data since the last restart.
        data_frames: u64,
        /// Blobs since the last restart.
        blobs: u32,
    },
}

/// What is wrong with a piece of a stream.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What it is.
    pub kind: ProblemKind,
    /// What would have been right, where that is a number: a check as it is computed, the number of
    /// the frame that was due, the number of bytes that should be there.
    pub expected: Option<u64>,
    /// What was found in its place.
    pub found: Option<u64>,
    /// Why a load refuses it.
    pub error: Error,
}

impl Problem {
    /// The code with which a load would refuse it.
    pub fn code(&self) -> Code {
        self.error.code()
    }
}

/// The kinds of problems.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
#[non_exhaustive]
pub enum ProblemKind {
    /// The stream does not begin like one.
    NotAStream = 1,
    /// The preamble's check is wrong.
    PreambleCheck = 2,
    /// Of a major version that this library does not read.
    Version = 3,
    /// It needs features that this library does not have.
    Features = 4,
    /// The authentication block is damaged, or not there.
    Block = 5,
    /// It is authenticated in another way than can be verified here, or there is no key with its id,
    /// or it was made with another key.
    Key = 6,
    /// It was made for another load.
    Challenge = 7,
    /// It is not authenticated, and only authenticated streams are wanted.
    NotAuthenticated = 8,
    /// There is no frame where one must begin.
    Mark = 9,
    /// The check of a frame's header is wrong.
    HeaderCheck = 10,
    /// Frames are missing, or came twice, or in another order.
    Sequence = 11,
    /// The first frame is not the identity, or another one is.
    Order = 12,
    /// A frame of another device.
    Device = 13,
    /// Flags that the frame may not have.
    Flags = 14,
    /// A length that the frame may not have.
    Length = 15,
    /// More than the limits allow.
    Limit = 16,
    /// A frame of a newer format that must not be skipped.
    UnknownFrame = 17,
    /// The check of a payload is wrong.
    PayloadCheck = 18,
    /// The tag of a frame is wrong.
    Tag = 19,
    /// A payload that is not what the format has there.
    Contents = 20,
    /// What the end says of the stream is not what came.
    Totals = 21,
    /// Something follows the end.
    AfterEnd = 22,
    /// The stream ends within a piece.
    Truncated = 23,
    /// The stream ends without its end.
    NoEnd = 24,
}

/// An entry without what it borrows.
pub(super) struct Piece {
    pub offset: u64,
    pub length: u64,
    pub what: Owned,
    pub problem: Option<Problem>,
}

/// [`What`] without what it borrows.
pub(super) enum Owned {
    Preamble(Preamble),
    Authentication(Option<AuthBlock>),
    /// A frame, whose payload lies behind this many bytes and has this length.
    Frame {
        header: FrameHeader,
        checked: Checked,
        data_offset: u64,
        head: usize,
        payload: usize,
    },
    Damage,
    Gap {
        resumed: bool,
        missing: Option<u64>,
    },
    End,
}

impl Piece {
    /// The entry for it. `bytes`: what lies at the piece, if it is a frame.
    pub fn entry(self, bytes: &[u8]) -> Entry<'_> {
        let Piece { offset, length, what, problem } = self;
        let what = match what {
            Owned::Preamble(preamble) => What::Preamble(preamble),
            Owned::Authentication(block) => What::Authentication(block),
            Owned::Damage => What::Damage,
            Owned::Gap { resumed, missing } => What::Gap { resumed, missing },
            Owned::End => What::End,
            Owned::Frame { header, checked, data_offset, head, payload } => {
                let payload = bytes.get(head..head.saturating_add(payload)).unwrap_or_default();
                let sound = problem.as_ref().is_none_or(|it| it.kind == ProblemKind::Sequence)
                    && matches!(checked, Checked::Right | Checked::NoKey);
                let totals = problem.as_ref().is_some_and(|it| it.kind == ProblemKind::Totals);
                let content = match sound || totals {
                    true => Content::of(&header, payload),
                    false => Content::Unknown,
                };
                What::Frame(Frame { header, checked, data_offset, payload, content })
            }
        };
        Entry { offset, length, what, problem }
    }
}

impl<'a> Content<'a> {
    /// What the payload of a frame that is right says.
    fn of(header: &FrameHeader, payload: &'a [u8]) -> Content<'a> {
        let number = |at: usize| {
            let bytes = payload.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        let long = |at: usize| u64::from(number(at)) | u64::from(number(at + 4)) << 32;
        match header.kind {
            FrameType::Identity => match crate::stream::decode_identity(payload) {
                Ok(identity) => Content::Identity(Box::new(identity)),
                Err(_) => Content::Unknown,
            },
            FrameType::Data => Content::Data,
            FrameType::InitialComplete => Content::InitialComplete(number(0)),
            FrameType::Blob => {
                Content::Blob { kind: number(0), bytes: payload.get(8..).unwrap_or_default() }
            }
            FrameType::Restart => Content::Restart(number(0)),
            FrameType::End => {
                Content::End { data_bytes: long(0), data_frames: long(8), blobs: number(16) }
            }
            _ => Content::Unknown,
        }
    }
}
