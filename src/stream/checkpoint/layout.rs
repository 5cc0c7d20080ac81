// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands at both ends of the file. The trailer comes last, so a file that has one is complete.

use crate::crc::crc32;
use crate::error::{Result, err};
use crate::stream::bytes::{Get, Put};
use crate::stream::native::Features;

/// Length of what the file begins with, in bytes.
pub const HEAD_LEN: usize = 64;
/// Length of what the file ends with, in bytes.
pub const TRAILER_LEN: usize = 64;

const HEAD_MAGIC: [u8; 8] = *b"\x89VFIOMCP";
const TRAILER_MAGIC: [u8; 8] = *b"\x89VFIOMCE";
const MAJOR: u16 = 1;
const MINOR: u16 = 0;

/// Where the check of either end stands, in bytes.
const CHECK: usize = 60;

/// The beginning of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub features: Features,
    pub id: [u8; 16],
}

/// Its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Trailer {
    /// Where the manifest begins, and its length, in bytes.
    pub offset: u64,
    pub len: u64,
    pub id: [u8; 16],
    /// CRC-32 of the manifest.
    pub check: u32,
}

fn check_of(bytes: &[u8; 64]) -> u32 {
    crc32(&[bytes.get(..CHECK).unwrap_or_default()])
}

fn seal(bytes: &mut [u8; 64]) {
    let check = check_of(bytes);
    Put { out: bytes, at: CHECK }.bytes(&check.to_le_bytes());
}

fn stated_check(bytes: &[u8; 64]) -> u32 {
    Get { bytes, at: CHECK }.u32()
}

/// Whether a file with this beginning is a checkpoint, or was to become one.
pub(super) fn has_magic(beginning: &[u8]) -> bool {
    beginning.starts_with(&HEAD_MAGIC)
}

impl Head {
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let mut out = [0; HEAD_LEN];
        let mut put = Put { out: &mut out, at: 0 };
        put.bytes(&HEAD_MAGIC);
        put.bytes(&MAJOR.to_le_bytes());
        put.bytes(&MINOR.to_le_bytes());
        put.bytes(&self.features.bits().to_le_bytes());
        put.bytes(&[0; 4]);
        put.bytes(&self.id);
        seal(&mut out);
        out
    }

    pub fn decode(bytes: &[u8; HEAD_LEN]) -> Result<Head> {
        let mut get = Get { bytes, at: 0 };
        if get.array() != HEAD_MAGIC {
            return Err(err!(Proto, "the file is not a checkpoint"));
        }
        // Before the version: a flipped bit is damage, and not a newer format.
        if check_of(bytes) != stated_check(bytes) {
            return Err(err!(BadMsg, "the head of the checkpoint is damaged: its check is wrong"));
        }
        let (major, _minor, features, _optional) = (get.u16(), get.u16(), get.u32(), get.u32());
        if major != MAJOR {
            return Err(err!(
                Proto,
                "the checkpoint has format {major}; this library reads {MAJOR}"
            ));
        }
        let Some(features) = Features::from_bits(features) else {
            return Err(err!(
                Proto,
                "the checkpoint needs features ({features:#x}) that are not known"
            ));
        };
        let id = get.array();
        zero(&get.array::<24>(), "head")?;
        Ok(Head { features, id })
    }
}

impl Trailer {
    pub fn encode(&self) -> [u8; TRAILER_LEN] {
        let mut out = [0; TRAILER_LEN];
        let mut put = Put { out: &mut out, at: 0 };
        put.bytes(&TRAILER_MAGIC);
        put.bytes(&self.offset.to_le_bytes());
        put.bytes(&self.len.to_le_bytes());
        put.bytes(&self.id);
        put.bytes(&self.check.to_le_bytes());
        seal(&mut out);
        out
    }

    pub fn decode(bytes: &[u8; TRAILER_LEN]) -> Result<Trailer> {
        let mut get = Get { bytes, at: 0 };
        if get.array() != TRAILER_MAGIC {
            return Err(err!(
                NoData,
                "the checkpoint is not complete: it does not end with a trailer"
            ));
        }
        if check_of(bytes) != stated_check(bytes) {
            return Err(err!(
                BadMsg,
                "the trailer of the checkpoint is damaged: its check is wrong"
            ));
        }
        let (offset, len, id, check) = (get.u64(), get.u64(), get.array(), get.u32());
        zero(&get.array::<16>(), "trailer")?;
        Ok(Trailer { offset, len, id, check })
    }
}

fn zero(reserved: &[u8], of: &str) -> Result<()> {
    match reserved.iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => Err(err!(Proto, "a reserved field of the checkpoint's {of} is not zero")),
    }
}
