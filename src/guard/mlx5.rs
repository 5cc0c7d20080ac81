// SPDX-License-Identifier: MIT OR Apache-2.0
//! NVIDIA's ConnectX functions, `mlx5_vfio_pci`.
//!
//! The driver allocates memory for a record when its header has come, up to 4 GiB, and again for
//! the size that stands within a record of the kind STOP_COPY_SIZE. The firmware judges what comes
//! into that memory; nobody judges the sizes.

use super::contract::Guard;
use super::records::{Field, Optional, Part, Record, RecordFormat, Records};
use crate::error::{Error, Result, err};

/// The kinds of record: an image for the firmware, and how large the last image will be.
const FW_DATA: u64 = 0;
const STOP_COPY_SIZE: u64 = 1;

/// The least that is allowed for a record, in bytes: what a target says of its own state is about a
/// function that no guest uses, and may be very little.
const LEAST: u64 = 256 << 20;

/// How much larger than the target's own state a record may be.
const FACTOR: u64 = 16;

/// What is allowed where the target says nothing.
const UNKNOWN: u64 = 1 << 30;

/// A guard for mlx5.
#[derive(Debug)]
pub struct Mlx5 {
    records: Records,
    announced: Announced,
}

/// What a record of the kind STOP_COPY_SIZE says.
#[derive(Debug)]
struct Announced {
    most: u64,
    record: Option<Record>,
    bytes: [u8; 8],
    filled: usize,
}

impl Mlx5 {
    /// For a target that estimates its own state at `state_size` bytes; 0: it does not say.
    pub fn new(state_size: u64) -> Mlx5 {
        let most = match state_size {
            0 => UNKNOWN,
            size => size.saturating_mul(FACTOR).clamp(LEAST, u64::from(u32::MAX)),
        };
        let format = RecordFormat {
            header: 16,
            big_endian: false,
            size: Field { offset: 0, width: 8 },
            with_header: false,
            tag: Some(Field { offset: 12, width: 4 }),
            tags: vec![FW_DATA, STOP_COPY_SIZE],
            optional: Some(Optional { flags: Field { offset: 8, width: 4 }, mask: 1 }),
            max_record: most,
            max_total: u64::MAX,
        };
        Mlx5 {
            records: Records::of(format),
            announced: Announced { most, record: None, bytes: [0; 8], filled: 0 },
        }
    }
}

impl Announced {
    fn part(&mut self, part: Part<'_>) -> Result<()> {
        match part {
            Part::Header(record) => {
                (self.record, self.filled) = (Some(record), 0);
                match record {
                    // The driver would take what was in its memory before for the rest.
                    Record { tag: STOP_COPY_SIZE, size: ..8 } => Err(wrong("is too short")),
                    _ => Ok(()),
                }
            }
            Part::Payload(bytes) if self.record.is_some_and(|r| r.tag == STOP_COPY_SIZE) => {
                for (slot, byte) in self.bytes.iter_mut().skip(self.filled).zip(bytes) {
                    *slot = *byte;
                    self.filled += 1;
                }
                match u64::from_le_bytes(self.bytes) > self.most && self.filled == 8 {
                    true => Err(err!(
                        MsgSize,
                        "mlx5's stream announces {} bytes for the end, more than the guard allows \
                         ({})",
                        u64::from_le_bytes(self.bytes),
                        self.most
                    )),
                    false => Ok(()),
                }
            }
            Part::Payload(_) => Ok(()),
        }
    }
}

#[cold]
fn wrong(what: &str) -> Error {
    err!(Proto, "mlx5's record about the size of the end {what}")
}

impl Guard for Mlx5 {
    fn data(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let announced = &mut self.announced;
        self.records.walk(bytes, offset, |part| announced.part(part))
    }

    fn restart(&mut self) -> Result<()> {
        (self.announced.record, self.announced.filled) = (None, 0);
        self.records.restart()
    }

    fn end(&mut self, len: u64) -> Result<()> {
        self.records.end(len)
    }
}
