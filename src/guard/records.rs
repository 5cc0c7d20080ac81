// SPDX-License-Identifier: MIT OR Apache-2.0
//! Formats that are a sequence of records: a header of fixed length, which has the length of what
//! follows it. Drivers allocate memory for that length before anything of it has come.

use super::contract::Guard;
use crate::error::{Result, err};

/// The longest header, in bytes.
pub const MAX_HEADER: usize = 64;

/// How many kinds of record a format can name.
pub const MAX_TAGS: usize = 64;

/// A number in a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// Where it begins, in bytes from the header's front.
    pub offset: u32,
    /// Its length in bytes: 1, 2, 4 or 8.
    pub width: u32,
}

/// Which records of unknown kinds a driver skips.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Optional {
    /// Where a record's flags are.
    pub flags: Field,
    /// A record is skipped if it has any of these.
    pub mask: u64,
}

/// What records look like, and what they may cost.
#[derive(Clone, Debug)]
pub struct RecordFormat {
    /// The header's length in bytes, up to [`MAX_HEADER`].
    pub header: u32,
    /// Whether numbers are big-endian.
    pub big_endian: bool,
    /// The length of what follows the header.
    pub size: Field,
    /// Whether that length includes the header's.
    pub with_header: bool,
    /// What kind of record it is.
    pub tag: Option<Field>,
    /// The kinds that are known, up to [`MAX_TAGS`]; none: all are.
    pub tags: Vec<u64>,
    /// What makes a record of another kind acceptable.
    pub optional: Option<Optional>,
    /// The longest record, in bytes without its header.
    pub max_record: u64,
    /// All records with their headers, in bytes.
    pub max_total: u64,
}

/// The record that has begun, as its header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// Bytes after the header.
    pub size: u64,
    /// Its kind; 0 if the format has none.
    pub tag: u64,
}

/// A part of the data.
pub(super) enum Part<'a> {
    /// A header, which has been found right.
    Header(Record),
    /// Some bytes of the record that has begun.
    Payload(&'a [u8]),
}

/// A guard for a sequence of records.
#[derive(Debug)]
pub struct Records {
    format: RecordFormat,
    header: [u8; MAX_HEADER],
    filled: usize,
    /// What is to come of the present record.
    left: u64,
    total: u64,
}

impl Records {
    /// Refuses a format that cannot be.
    pub fn new(format: RecordFormat) -> Result<Records> {
        let fits = |field: &Field| {
            matches!(field.width, 1 | 2 | 4 | 8)
                && field.offset.checked_add(field.width).is_some_and(|end| end <= format.header)
        };
        let header = usize::try_from(format.header).unwrap_or(usize::MAX);
        let fields =
            [Some(format.size), format.tag, format.optional.map(|optional| optional.flags)];
        if !(1..=MAX_HEADER).contains(&header) {
            return Err(err!(Inval, "a record's header has from 1 to {MAX_HEADER} bytes"));
        }
        if !fields.iter().flatten().all(fits) {
            return Err(err!(Inval, "a field of a record's header is not within it"));
        }
        if format.tags.len() > MAX_TAGS || (format.tag.is_none() && !format.tags.is_empty()) {
            return Err(err!(Inval, "too many kinds of record, or kinds without a field for them"));
        }
        Ok(Records::of(format))
    }

    /// Of a format that is known to be possible.
    pub(super) fn of(format: RecordFormat) -> Records {
        Records { format, header: [0; MAX_HEADER], filled: 0, left: 0, total: 0 }
    }

    fn number(&self, field: &Field) -> u64 {
        let (begin, width) = (field.offset as usize, field.width as usize);
        let bytes = self.header.iter().skip(begin).take(width);
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        match self.format.big_endian {
            true => bytes.fold(0, add),
            false => bytes.rev().fold(0, add),
        }
    }

    /// Judges a header that is complete and begins at byte `at` of the data.
    fn judge(&mut self, at: u64) -> Result<Record> {
        let format = &self.format;
        let header = u64::from(format.header);
        let said = self.number(&format.size);
        let size = match format.with_header {
            true => said.checked_sub(header),
            false => Some(said),
        };
        let Some(size) = size else {
            return Err(err!(
                Proto,
                "a record of the device's data, at byte {at}, is shorter than its own header"
            ));
        };
        if size > format.max_record {
            return Err(err!(
                MsgSize,
                "a record of the device's data, at byte {at}, has {size} bytes, more than the guard \
                 allows ({})",
                format.max_record
            ));
        }
        let tag = format.tag.map_or(0, |field| self.number(&field));
        let optional = || format.optional.is_some_and(|o| self.number(&o.flags) & o.mask != 0);
        if !format.tags.is_empty() && !format.tags.contains(&tag) && !optional() {
            return Err(err!(
                Proto,
                "a record of the device's data, at byte {at}, is of kind {tag}, which the guard does \
                 not know"
            ));
        }
        self.total = self.total.saturating_add(header).saturating_add(size);
        if self.total > format.max_total {
            return Err(err!(
                MsgSize,
                "the records of the device's data, up to the one at byte {at}, have more than {} \
                 bytes",
                format.max_total
            ));
        }
        Ok(Record { size, tag })
    }

    /// Goes on with the bytes from `offset` on, and shows their parts, each before the driver has it.
    pub(super) fn walk(
        &mut self,
        bytes: &[u8],
        offset: u64,
        mut see: impl FnMut(Part<'_>) -> Result<()>,
    ) -> Result<()> {
        let header = self.format.header as usize;
        let mut rest = bytes;
        while !rest.is_empty() {
            let wanted = match self.left {
                0 => header - self.filled,
                left => usize::try_from(left).unwrap_or(usize::MAX),
            };
            let (front, behind) = rest.split_at(wanted.min(rest.len()));
            rest = behind;
            if self.left > 0 {
                self.left -= front.len() as u64;
                see(Part::Payload(front))?;
                continue;
            }
            for (slot, byte) in self.header.iter_mut().skip(self.filled).zip(front) {
                *slot = *byte;
            }
            self.filled += front.len();
            if self.filled == header {
                let done = (bytes.len() - rest.len()) as u64;
                let end = offset.saturating_add(done);
                let record = self.judge(end.saturating_sub(header as u64))?;
                (self.filled, self.left) = (0, record.size);
                see(Part::Header(record))?;
            }
        }
        Ok(())
    }
}

impl Guard for Records {
    fn data(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        self.walk(bytes, offset, |_| Ok(()))
    }

    fn restart(&mut self) -> Result<()> {
        (self.filled, self.left, self.total) = (0, 0, 0);
        Ok(())
    }

    fn end(&mut self, len: u64) -> Result<()> {
        match self.filled == 0 && self.left == 0 {
            true => Ok(()),
            false => Err(err!(Proto, "the device's data ends within a record, after {len} bytes")),
        }
    }
}
