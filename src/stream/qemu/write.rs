// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the writing side puts around device data.

use super::{CONFIG_STATE, DATA_STATE, END_OF_STATE, PACKET_VERSION};
use crate::error::Result;
use crate::stream::encode::too_small;
use crate::stream::frame::Put;

/// Length of a tag, in bytes.
pub const TAG_LEN: usize = 8;
/// What stands before a piece of data on the main channel: its tag and its length.
pub const DATA_HEAD: usize = 16;
/// What stands before the data of a packet: version, index, flags.
pub const PACKET_HEAD: usize = 12;
/// What stands around a configuration: the tags before and behind it.
pub const CONFIG_OVERHEAD: usize = 2 * TAG_LEN;

/// The head of a piece of data on the main channel.
pub fn data_head(len: u64) -> [u8; DATA_HEAD] {
    let mut out = [0; DATA_HEAD];
    let mut put = Put { out: &mut out, at: 0 };
    put.bytes(&DATA_STATE.to_be_bytes());
    put.bytes(&len.to_be_bytes());
    out
}

/// The head of a packet.
pub fn packet_head(idx: u32, flags: u32) -> [u8; PACKET_HEAD] {
    let mut out = [0; PACKET_HEAD];
    let mut put = Put { out: &mut out, at: 0 };
    for field in [PACKET_VERSION, idx, flags] {
        put.bytes(&field.to_be_bytes());
    }
    out
}

/// Writes tags; returns their length.
pub(crate) fn tags(buf: &mut [u8], tags: &[u64]) -> Result<usize> {
    let len = tags.len() * TAG_LEN;
    let room = buf.get_mut(..len).ok_or_else(|| too_small(len))?;
    let mut put = Put { out: room, at: 0 };
    for tag in tags {
        put.bytes(&tag.to_be_bytes());
    }
    Ok(len)
}

/// Writes a configuration between its tags, behind `head`; returns the length of all.
pub(crate) fn config(buf: &mut [u8], head: &[u8], blob: &[u8]) -> Result<usize> {
    let len = head.len() + CONFIG_OVERHEAD + blob.len();
    let room = buf.get_mut(..len).ok_or_else(|| too_small(len))?;
    let mut put = Put { out: room, at: 0 };
    put.bytes(head);
    put.bytes(&CONFIG_STATE.to_be_bytes());
    put.bytes(blob);
    put.bytes(&END_OF_STATE.to_be_bytes());
    Ok(len)
}
