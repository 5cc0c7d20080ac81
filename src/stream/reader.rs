// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reading face of a format: bytes in, [`Item`]s out.
//!
//! A reader takes the stream split in any way. What it passes on has been verified as far as its
//! format allows; what it means for a device is up to the session.

use crate::error::Result;
use crate::identity::Identity;

/// What a stream may ask for. Streams come from outside, so everything has a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecodeLimits {
    /// Largest payload of a data frame, in bytes.
    pub max_frame: u32,
    /// Largest blob, in bytes.
    pub max_blob: u32,
    /// Number of blobs between restarts.
    pub max_blobs: u32,
    /// Number of restarts.
    pub max_restarts: u32,
    /// Device data in all, including restarts and skipped frames, in bytes.
    pub max_total: u64,
    /// Frames that are not data, in all. They are small, but not free.
    pub max_other_frames: u64,
    /// Memory that the library takes for the stream, in bytes, at least [`LEAST_MEMORY`]. Lowers the
    /// limits for frames, blobs and packets where these would need more.
    pub max_memory: u64,
}

/// The least memory that a session can have, in bytes.
pub const LEAST_MEMORY: u64 = 4 << 20;

impl DecodeLimits {
    /// What keeps these limits and others.
    pub(crate) fn and(self, other: DecodeLimits) -> DecodeLimits {
        DecodeLimits {
            max_frame: self.max_frame.min(other.max_frame),
            max_blob: self.max_blob.min(other.max_blob),
            max_blobs: self.max_blobs.min(other.max_blobs),
            max_restarts: self.max_restarts.min(other.max_restarts),
            max_total: self.max_total.min(other.max_total),
            max_other_frames: self.max_other_frames.min(other.max_other_frames),
            max_memory: self.max_memory.min(other.max_memory),
        }
    }

    /// The longest frame, or blob, that the memory allows: while a buffer grows there are two of it,
    /// and each has room for what is received after the frame.
    pub(crate) fn longest_frame(&self) -> u32 {
        const AROUND: u64 = 1 << 20;
        u32::try_from((self.max_memory / 2).saturating_sub(AROUND)).unwrap_or(u32::MAX)
    }
}

impl Default for DecodeLimits {
    fn default() -> Self {
        DecodeLimits {
            max_frame: 4 << 20,
            max_blob: 1 << 20,
            max_blobs: 256,
            max_restarts: 64,
            max_total: 1 << 40,
            max_other_frames: 1 << 16,
            max_memory: u64::MAX,
        }
    }
}

/// Something that a stream says, verified.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item<'a> {
    /// What the saved device is; always the first item, and only that.
    Identity(Box<Identity>),
    /// Device data.
    Data(&'a [u8]),
    /// All initial data has come; the numbers increase over the whole stream.
    InitialComplete(u32),
    /// Data of the VMM's own.
    Blob {
        /// The VMM's own number for it.
        kind: u32,
        /// Its contents.
        bytes: &'a [u8],
    },
    /// Everything before is void, except the identity; the numbers increase.
    Restart(u32),
    /// The end. The totals were right, if the format has any.
    End,
    /// The end of a section. Only in QEMU's format, like those that follow.
    SectionEnd,
    /// The VMM's own part comes now; only the VMM knows its length.
    Config,
    /// The configuration, which came in a packet, may be loaded now.
    ConfigReady,
}

/// A reader of one stream, whatever its format.
pub trait Read: Send {
    /// Takes bytes from the front of `input` until there is something to pass on; `None` when all
    /// of `input` has been taken. After an error the stream is refused for good.
    fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Item<'s>>>;

    /// Memory to receive the next bytes of the stream into, at least one.
    fn space(&mut self) -> Result<&mut [u8]>;

    /// Says that `len` bytes of [`Read::space`] have been filled.
    fn received(&mut self, len: usize) -> Result<()>;

    /// Bytes of the stream taken so far.
    fn offset(&self) -> u64;

    /// Frames so far, or whatever the format has in their place.
    fn frames(&self) -> u64;

    /// Bytes of device data since the last restart.
    fn data_bytes(&self) -> u64;

    /// How many bytes are certain to come, at least one, unless the stream has ended: more than that
    /// may belong to others.
    fn certain(&self) -> usize {
        usize::MAX
    }

    /// Whether nothing is unfinished, in a format in which packets may come separately.
    fn at_rest(&self) -> bool {
        true
    }

    /// The stream's own name, if it has one and it has come.
    fn migration_id(&self) -> Option<[u8; 16]> {
        None
    }

    /// The device's number within its VM, if the stream has it.
    fn device(&self) -> Option<u32> {
        None
    }
}
