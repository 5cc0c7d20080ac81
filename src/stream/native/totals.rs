// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the END frame states, and what a reader counts to compare it with.

use super::frame::{END_LEN, FrameHeader, FrameType, HEADER_LEN};
use crate::stream::bytes::Put;

/// Totals of a stream, as the END frame states them.
#[derive(Clone, Default, Debug)]
pub(super) struct Totals {
    /// Bytes of device data since the last RESTART.
    pub data_bytes: u64,
    /// DATA frames since the last RESTART.
    pub data_frames: u64,
    /// BLOB frames since the last RESTART.
    pub blobs: u32,
    /// CRC-32 over all frame headers without their checks: a CRC over bytes that end with their own
    /// CRC would not depend on the bytes.
    digest: crc32fast::Hasher,
}

impl Totals {
    /// Counts a frame.
    pub fn add(&mut self, header: &FrameHeader, bytes: &[u8; HEADER_LEN]) {
        self.digest.update(bytes.get(..HEADER_LEN - 4).unwrap_or_default());
        match header.kind {
            FrameType::Data => {
                self.data_bytes = self.data_bytes.saturating_add(u64::from(header.length));
                self.data_frames = self.data_frames.saturating_add(1);
            }
            FrameType::Blob => self.blobs = self.blobs.saturating_add(1),
            FrameType::Restart => (self.data_bytes, self.data_frames, self.blobs) = (0, 0, 0),
            _ => {}
        }
    }

    /// The END frame's payload.
    pub fn end_payload(&self) -> [u8; END_LEN] {
        let mut out = [0; END_LEN];
        let mut put = Put { out: &mut out, at: 0 };
        put.bytes(&self.data_bytes.to_le_bytes());
        put.bytes(&self.data_frames.to_le_bytes());
        put.bytes(&self.blobs.to_le_bytes());
        put.bytes(&self.digest.clone().finalize().to_le_bytes());
        out
    }
}
