// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guards that a VMM brings: a table of callbacks, a description of records, or both.

use std::ffi::{c_int, c_void};

use super::callbacks::{Opaque, verdict, vfiomig_release_fn};
use super::limits::choose;
use super::sized::{read_in, read_options, sized32};
use crate::alloc;
use crate::error::{Errno, Error, Failure, Operation, Result, err};
use crate::guard::{Field, Guard, MAX_TAGS, Optional, RecordFormat, Records};

/// Numbers in a header are big-endian; otherwise they are little-endian.
pub const VFIOMIG_RECORDS_BIG_ENDIAN: u32 = 1 << 0;
/// A record's size includes its header.
pub const VFIOMIG_RECORDS_WITH_HEADER: u32 = 1 << 1;

/// Device data that is a sequence of records, each a header of fixed length and what follows it, and
/// what they may cost. Drivers such as mlx5's and virtio's allocate memory for a record as soon as its
/// header has come. Places are in bytes from the header's front; widths are 1, 2, 4 or 8 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_guard_records {
    /// VFIOMIG_GUARD_RECORDS_INIT sets it.
    pub struct_size: u32,
    /// Bitwise OR of VFIOMIG_RECORDS_*, or 0.
    pub flags: u32,
    /// Length of a header, in bytes: 1 to 64.
    pub header_len: u32,
    /// Where the record's size is.
    pub size_offset: u32,
    /// Its width.
    pub size_width: u32,
    /// Where the record's kind is.
    pub tag_offset: u32,
    /// Its width; 0: records have no kind.
    pub tag_width: u32,
    /// How many kinds there are in tags: up to 64; 0: all kinds pass.
    pub tag_count: u32,
    /// The kinds that the driver knows. A record of another kind is refused.
    pub tags: *const u64,
    /// Where the record's flags are.
    pub flags_offset: u32,
    /// Their width; 0: records have no flags.
    pub flags_width: u32,
    /// A record with any of these flags passes whatever its kind is, because the driver skips those
    /// that it does not know.
    pub optional_mask: u64,
    /// The longest record, in bytes without its header; 0: 1 GiB.
    pub max_record: u64,
    /// All records with their headers, in bytes; 0: no more than max_total of the limits.
    pub max_total: u64,
}

/// What a VMM knows of a driver's own format. A guard sees the device's data of one load in order, in
/// any pieces, after the stream has been verified and before the driver gets it. Each callback returns
/// 0, or -errno to refuse the stream, as vfiomig_blob_fn does: the load fails, and the device is reset.
/// Callbacks may be NULL, but not all that judges: records or data must be there.
///
/// They are called on the thread that called the library, one at a time, while the device is in use:
/// calls for the same device give -EBUSY.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_guard_ops {
    /// VFIOMIG_GUARD_OPS_INIT sets it.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// The data is a sequence of records, which are judged before data is called; NULL: it is not.
    /// Copied.
    pub records: *const vfiomig_guard_records,
    /// The load begins: called by vfiomig_load_begin(), before anything has happened to the
    /// device.
    pub begin: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// The next len bytes, which begin at byte offset of the device's data: 0 at first and after a
    /// restart. If they are refused, the driver gets none of them.
    pub data: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            data: *const c_void,
            len: usize,
            offset: u64,
        ) -> c_int,
    >,
    /// The source has started again: what came before is void.
    pub restart: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// The data is complete, with len bytes in all.
    pub end: Option<unsafe extern "C" fn(opaque: *mut c_void, len: u64) -> c_int>,
    /// Releases the opaque.
    pub release: vfiomig_release_fn,
}

sized32!(vfiomig_guard_ops, vfiomig_guard_records);

/// A guard of the VMM's.
struct Table {
    records: Option<Records>,
    begin: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
    data: Option<unsafe extern "C" fn(*mut c_void, *const c_void, usize, u64) -> c_int>,
    restart: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
    end: Option<unsafe extern "C" fn(*mut c_void, u64) -> c_int>,
    opaque: Opaque,
}

/// The guard that options bring, which the library owns from here on.
///
/// # Safety
/// Promises 1 to 3 of C, for the table, what it points to, and its callbacks.
pub(super) unsafe fn guard(
    ops: *const vfiomig_guard_ops,
    opaque: *mut c_void,
) -> Result<Option<Box<dyn Guard>>> {
    if ops.is_null() {
        return Ok(None);
    }
    // SAFETY: promise 1: a structure of the size that it claims.
    let (ops, tail) = unsafe { read_in(ops, "guard") }?;
    // SAFETY: promise 2: `release` can be called with the opaque.
    let opaque = unsafe { Opaque::new(opaque, ops.release) };
    tail.check()?;
    // SAFETY: promise 1: NULL, or a structure of the size that it claims.
    let records = match unsafe { read_options(ops.records) }? {
        // SAFETY: promise 1, about the kinds that it points to.
        Some(records) => Some(Records::new(unsafe { records.format() }?)?),
        None => None,
    };
    if ops.reserved != 0 {
        return Err(err!(Inval, "reserved is not zero in the guard"));
    }
    if records.is_none() && ops.data.is_none() {
        return Err(err!(Inval, "a guard needs records or data: it would judge nothing"));
    }
    let vfiomig_guard_ops { begin, data, restart, end, .. } = ops;
    Ok(Some(Box::new(Table { records, begin, data, restart, end, opaque })))
}

impl vfiomig_guard_records {
    /// # Safety
    /// Promise 1 of C, for `tags`.
    unsafe fn format(&self) -> Result<RecordFormat> {
        let known = VFIOMIG_RECORDS_BIG_ENDIAN | VFIOMIG_RECORDS_WITH_HEADER;
        if self.flags & !known != 0 {
            return Err(err!(Inval, "unknown flags in the guard's records"));
        }
        let field = |offset, width| (width != 0).then_some(Field { offset, width });
        let flags = field(self.flags_offset, self.flags_width);
        if flags.is_none() && self.optional_mask != 0 {
            return Err(err!(Inval, "optional_mask is set, and records have no flags"));
        }
        let tags = match self.tag_count as usize {
            0 => &[],
            count if count > MAX_TAGS => {
                return Err(err!(Inval, "tag_count is {count}; the most is {MAX_TAGS}"));
            }
            _ if self.tags.is_null() => return Err(err!(Fault, "tags is NULL")),
            _ if !self.tags.is_aligned() => return Err(err!(Inval, "tags is not aligned")),
            // SAFETY: promise 1: as many numbers as `tag_count` says; not NULL, and aligned.
            count => unsafe { std::slice::from_raw_parts(self.tags, count) },
        };
        Ok(RecordFormat {
            header: self.header_len,
            big_endian: self.flags & VFIOMIG_RECORDS_BIG_ENDIAN != 0,
            size: Field { offset: self.size_offset, width: self.size_width },
            with_header: self.flags & VFIOMIG_RECORDS_WITH_HEADER != 0,
            tag: field(self.tag_offset, self.tag_width),
            tags: alloc::copy(tags, "no memory for the guard's tags")?,
            optional: flags.map(|flags| Optional { flags, mask: self.optional_mask }),
            max_record: choose(0, self.max_record, 1 << 30),
            max_total: choose(0, self.max_total, u64::MAX),
        })
    }
}

/// What a callback's answer means.
fn answer(ret: c_int, what: &str, offset: u64) -> Result<()> {
    verdict(ret).map_err(|errno| refused(errno, what, offset))
}

#[cold]
fn refused(errno: Errno, what: &str, offset: u64) -> Error {
    Error::from_args(
        errno.refusal_code(),
        format_args!("the VMM's guard refuses {what}, at byte {offset} of the device's data"),
    )
    .with_failure(Failure {
        operation: Operation::Stream,
        errno: errno.0,
        ..Failure::default()
    })
}

impl Guard for Table {
    fn begin(&mut self) -> Result<()> {
        let Some(begin) = self.begin else { return Ok(()) };
        // SAFETY: promise 2.
        answer(unsafe { begin(self.opaque.get()) }, "the load", 0)
    }

    fn data(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        if let Some(records) = &mut self.records {
            records.data(bytes, offset)?;
        }
        let Some(data) = self.data else { return Ok(()) };
        let (from, len) = (bytes.as_ptr().cast(), bytes.len());
        // SAFETY: promises 2 and 3; there are `len` bytes, which live during the call.
        answer(unsafe { data(self.opaque.get(), from, len, offset) }, "what comes", offset)
    }

    fn restart(&mut self) -> Result<()> {
        if let Some(records) = &mut self.records {
            records.restart()?;
        }
        let Some(restart) = self.restart else { return Ok(()) };
        // SAFETY: promise 2.
        answer(unsafe { restart(self.opaque.get()) }, "the restart", 0)
    }

    fn end(&mut self, len: u64) -> Result<()> {
        if let Some(records) = &mut self.records {
            records.end(len)?;
        }
        let Some(end) = self.end else { return Ok(()) };
        // SAFETY: promise 2.
        answer(unsafe { end(self.opaque.get(), len) }, "the end", len)
    }
}
