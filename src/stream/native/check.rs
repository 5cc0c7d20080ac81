// SPDX-License-Identifier: MIT OR Apache-2.0
//! What vouches for a frame: a checksum, or a tag.
//!
//! Computed over a payload as its bytes come, while they are still in the cache, and finished with
//! the header. In an authenticated stream a tag takes the place of the payload's checksum: it finds
//! all that the checksum would, and going over each byte twice costs time.

use super::frame::{FrameHeader, HEADER_LEN};
use super::mac::{STEP, Tagger};
use crate::error::{Result, err};
use crate::stream::auth::TAG_LEN;
use crate::stream::bytes::Put;
use crate::stream::writer::Watch;

/// Length of what stands before a payload at most, in bytes.
pub(super) const MAX_HEAD: usize = HEADER_LEN + TAG_LEN;

/// One frame after the other.
pub(super) enum Check {
    Sum(crc32fast::Hasher),
    Tag(Tagger),
    /// A tag that nobody here has a key for.
    Unknown,
}

impl Default for Check {
    fn default() -> Check {
        Check::Sum(crc32fast::Hasher::new())
    }
}

impl Check {
    /// Length of what stands before a payload, in bytes.
    pub fn head_len(&self) -> usize {
        match self {
            Check::Sum(_) => HEADER_LEN,
            Check::Tag(_) | Check::Unknown => MAX_HEAD,
        }
    }

    /// How many of `len` bytes to look at now, if more will follow: all, or as many as go fast.
    pub fn good_part(&self, len: usize) -> usize {
        match self {
            Check::Sum(_) | Check::Unknown => len,
            Check::Tag(_) => len - len % STEP,
        }
    }

    /// A payload begins.
    pub fn begin(&mut self) {
        match self {
            Check::Sum(crc) => crc.reset(),
            Check::Tag(tagger) => tagger.begin(),
            Check::Unknown => {}
        }
    }

    /// Its next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Check::Sum(crc) => crc.update(bytes),
            Check::Tag(tagger) => tagger.update(bytes),
            Check::Unknown => {}
        }
    }

    /// The field of the header. A tag leaves it zero.
    pub fn sum(&self) -> u32 {
        match self {
            Check::Sum(crc) => crc.clone().finalize(),
            Check::Tag(_) | Check::Unknown => 0,
        }
    }

    /// Writes what stands before the payload that has come.
    pub fn seal(&mut self, head: &mut [u8], header: &[u8; HEADER_LEN]) -> Result<()> {
        let mut put = Put { out: head, at: 0 };
        put.bytes(header);
        if let Check::Tag(tagger) = self {
            put.bytes(&tagger.finish(header)?);
        }
        Ok(())
    }

    /// Whether the payload that has come is the one that this header was made for. `head`: its bytes,
    /// and those of its tag.
    pub fn verify(&mut self, header: &FrameHeader, head: &[u8; MAX_HEAD]) -> Result<()> {
        let number = header.sequence;
        if self.sum() != header.payload_crc {
            return Err(err!(BadMsg, "the checksum of frame {number} is wrong"));
        }
        if let Check::Tag(tagger) = self {
            let (header, tag) = head.split_at(HEADER_LEN);
            let tag = tag.first_chunk().unwrap_or(&[0; TAG_LEN]);
            if !tagger.verify(header, tag)? {
                return Err(err!(BadMsg, "the tag of frame {number} is wrong: it was changed"));
            }
        }
        Ok(())
    }
}

impl Watch for Check {
    fn came(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}
