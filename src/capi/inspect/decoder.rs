// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decoders that a C program brings, and fields on their way from one and to a callback.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use super::constants::*;
use crate::capi::args::bytes_if_any;
use crate::capi::callbacks::{Opaque, verdict, vfiomig_release_fn};
use crate::capi::sized::{read_in, sized32};
use crate::error::{Errno, Error, Failure, Operation, Result, err};
use crate::inspect::{
    Field, FieldDecoder, FieldFlags, Fields, MAX_DESCRIPTION, MAX_NAME, MAX_VALUE, Value,
};

/// Takes a field that a decoder names, or a copy of it: 0, or -errno to end decoding.
pub type vfiomig_decoded_fn =
    Option<unsafe extern "C" fn(opaque: *mut c_void, field: *const vfiomig_decoded) -> c_int>;

/// A field of a device's data, as a decoder names it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_decoded {
    /// VFIOMIG_DECODED_INIT sets it.
    pub struct_size: u32,
    /// VFIOMIG_DECODED_NUMBER, _BYTES or _TEXT.
    pub kind: u32,
    /// Its name, with dots between its parts: printable ASCII without spaces, 1 to 63 bytes.
    pub name: *const c_char,
    /// What it is, for people, at most 255 bytes of UTF-8; NULL: nothing to say.
    pub description: *const c_char,
    /// Where it is, in bytes from the front of the device's data.
    pub offset: u64,
    /// How many bits it has.
    pub bits: u32,
    /// Bitwise OR of VFIOMIG_DECODED_HEX and other flags, or 0.
    pub flags: u32,
    /// The number.
    pub number: u64,
    /// The bytes, or the text.
    pub bytes: *const c_void,
    /// ... and how many there are.
    pub bytes_len: u64,
}

/// What names the fields in a driver's own data. It is given a copy of the device's data of one
/// stream in order, in any pieces, after the frames that it came in have been checked. It passes the
/// fields that it finds to put, with put_opaque, which takes a copy and returns 0; -EINVAL for a field
/// that cannot be; -EMSGSIZE after 65536 fields; -EFAULT where a pointer is NULL. Each callback returns
/// 0, or -errno to end decoding: that says nothing of whether the stream is whole. The data may come
/// from anywhere. data must be there; others may be NULL.
///
/// They are called on the thread that called the library, one at a time.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_decoder_ops {
    /// VFIOMIG_DECODER_OPS_INIT sets it.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// The driver whose data this is, as in struct vfiomig_identity; empty: any.
    pub driver: [c_char; 64],
    /// The next len bytes, which begin at byte offset of the device's data: 0 at first and after a
    /// restart.
    pub data: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            data: *const c_void,
            len: usize,
            offset: u64,
            put: vfiomig_decoded_fn,
            put_opaque: *mut c_void,
        ) -> c_int,
    >,
    /// The source has started again: what came before is void, and so are the fields of it.
    pub restart: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// The data is complete, with len bytes in all.
    pub end: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            len: u64,
            put: vfiomig_decoded_fn,
            put_opaque: *mut c_void,
        ) -> c_int,
    >,
    /// Releases the opaque.
    pub release: vfiomig_release_fn,
}

sized32!(vfiomig_decoded, vfiomig_decoder_ops);

/// A decoder of a C program's.
struct Table {
    ops: vfiomig_decoder_ops,
    opaque: Opaque,
}

/// A decoder out of a table, and the driver that it is for. Whoever calls this need not be C: a
/// program in Rust has this for tables that it finds in a shared object.
///
/// # Safety
/// As vfiomig.h says of structures and callbacks: `ops` is NULL or such a table, and its callbacks may
/// be called with `opaque` until it is released.
pub unsafe fn decoder(
    ops: *const vfiomig_decoder_ops,
    opaque: *mut c_void,
) -> Result<Option<(String, Box<dyn FieldDecoder>)>> {
    if ops.is_null() {
        return Ok(None);
    }
    // SAFETY: promise 1: a structure of the size that it claims.
    let (ops, tail) = unsafe { read_in(ops, "decoder") }?;
    // SAFETY: promise 2: `release` can be called with the opaque.
    let opaque = unsafe { Opaque::new(opaque, ops.release) };
    tail.check()?;
    if ops.reserved != 0 {
        return Err(err!(Inval, "reserved is not zero in the decoder"));
    }
    if ops.data.is_none() {
        return Err(err!(Fault, "data of the decoder is NULL"));
    }
    let driver = ops.driver.map(|byte| byte as u8);
    let driver = CStr::from_bytes_until_nul(&driver).ok().and_then(|text| text.to_str().ok());
    let Some(driver) = driver else {
        return Err(err!(Inval, "driver of the decoder is not a text with a NUL at its end"));
    };
    let driver = crate::alloc::text(driver, "no memory for a decoder")?;
    Ok(Some((driver, Box::new(Table { ops, opaque }))))
}

/// Runs `call` with what a decoder puts its fields into.
fn putting(
    out: &mut Fields<'_>,
    call: impl FnOnce(vfiomig_decoded_fn, *mut c_void) -> c_int,
    what: &str,
) -> Result<()> {
    // What is behind the pointer outlives the call, and nothing else uses it meanwhile.
    verdict(call(Some(put), ptr::from_mut(out).cast())).map_err(|errno| ended(errno, what))
}

#[cold]
fn ended(errno: Errno, what: &str) -> Error {
    Error::from_args(errno.refusal_code(), format_args!("the decoder ends with {what}"))
        .with_failure(Failure {
            operation: Operation::Callback,
            errno: errno.0,
            ..Failure::default()
        })
}

/// What a decoder calls.
unsafe extern "C" fn put(opaque: *mut c_void, field: *const vfiomig_decoded) -> c_int {
    // The sink behind it is the library's or a caller's in Rust, and this is called from C.
    let done = std::panic::catch_unwind(|| {
        if opaque.is_null() {
            return Err(err!(Fault, "put_opaque is NULL"));
        }
        // SAFETY: promise 3: what `putting` has passed to the callback that this is called in. It made
        // it of a reference that nobody uses meanwhile.
        let fields = unsafe { &mut *opaque.cast::<Fields<'_>>() };
        // SAFETY: promise 1, for the field and what it points to.
        unsafe { put_field(fields, field) }
    });
    match done {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => error.code().to_ret(),
        Err(_) => -libc::ENOTRECOVERABLE,
    }
}

/// # Safety
/// Promise 1 of C: NULL, or a field, with what it points to.
unsafe fn put_field(fields: &mut Fields<'_>, field: *const vfiomig_decoded) -> Result<()> {
    // SAFETY: the caller made the same promise.
    let (field, tail) = unsafe { read_in(field, "field") }?;
    tail.check()?;
    // SAFETY: promise 1: NULL, or a text.
    let name = unsafe { text(field.name, "name") }?.ok_or_else(|| err!(Fault, "name is NULL"))?;
    // SAFETY: promise 1: NULL, or a text.
    let description = unsafe { text(field.description, "description") }?.unwrap_or_default();
    // More than is kept is not looked at.
    let len = usize::try_from(field.bytes_len).unwrap_or(usize::MAX).min(MAX_VALUE + 1);
    let value = match field.kind {
        VFIOMIG_DECODED_NUMBER => Value::Unsigned(field.number),
        kind @ (VFIOMIG_DECODED_BYTES | VFIOMIG_DECODED_TEXT) => {
            // SAFETY: promise 1: as many bytes as `bytes_len` says.
            let bytes = unsafe { bytes_if_any(field.bytes, len, "bytes") }?;
            match std::str::from_utf8(bytes) {
                Ok(text) if kind == VFIOMIG_DECODED_TEXT => Value::Text(text),
                _ => Value::Bytes(bytes),
            }
        }
        kind => return Err(err!(Inval, "there is no kind {kind} of field")),
    };
    let Some(flags) = FieldFlags::from_bits(field.flags) else {
        return Err(err!(Inval, "unknown flags in a field"));
    };
    let (bits, offset) = (field.bits, field.offset);
    fields.put(&Field { name, value, bits, offset, description, flags })
}

/// # Safety
/// Promise 1 of C: NULL, or a NUL-terminated text.
unsafe fn text<'a>(from: *const c_char, what: &str) -> Result<Option<&'a str>> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL; promise 1: a NUL at the end.
    let text = unsafe { CStr::from_ptr(from) }.to_str();
    text.map(Some).map_err(|_| err!(Inval, "{what} of a field is not UTF-8"))
}

impl FieldDecoder for Table {
    fn data(&mut self, bytes: &[u8], offset: u64, out: &mut Fields<'_>) -> Result<()> {
        let Some(data) = self.ops.data else { return Ok(()) };
        let (from, len, opaque) = (bytes.as_ptr().cast(), bytes.len(), self.opaque.get());
        // SAFETY: promises 2 and 3; there are `len` bytes, which live during the call.
        putting(out, |put, to| unsafe { data(opaque, from, len, offset, put, to) }, "the data")
    }

    fn restart(&mut self) -> Result<()> {
        let Some(restart) = self.ops.restart else { return Ok(()) };
        // SAFETY: promise 2.
        verdict(unsafe { restart(self.opaque.get()) }).map_err(|errno| ended(errno, "a restart"))
    }

    fn end(&mut self, len: u64, out: &mut Fields<'_>) -> Result<()> {
        let Some(end) = self.ops.end else { return Ok(()) };
        let opaque = self.opaque.get();
        // SAFETY: promises 2 and 3.
        putting(out, |put, to| unsafe { end(opaque, len, put, to) }, "the end")
    }
}

/// Texts with a NUL at their end, for a field on its way to C.
pub(super) struct Texts {
    name: [u8; MAX_NAME + 1],
    description: [u8; MAX_DESCRIPTION + 1],
}

impl Texts {
    pub fn of(field: &Field<'_>) -> Texts {
        let mut texts = Texts { name: [0; MAX_NAME + 1], description: [0; MAX_DESCRIPTION + 1] };
        fill(&mut texts.name, field.name);
        fill(&mut texts.description, field.description);
        texts
    }

    /// The field, which points to these texts.
    pub fn field(&self, field: &Field<'_>) -> vfiomig_decoded {
        let (kind, number, bytes) = match field.value {
            Value::Unsigned(number) => (VFIOMIG_DECODED_NUMBER, number, &[][..]),
            Value::Bytes(bytes) => (VFIOMIG_DECODED_BYTES, 0, bytes),
            Value::Text(text) => (VFIOMIG_DECODED_TEXT, 0, text.as_bytes()),
        };
        vfiomig_decoded {
            struct_size: size_of::<vfiomig_decoded>() as u32,
            kind,
            name: self.name.as_ptr().cast(),
            description: self.description.as_ptr().cast(),
            offset: field.offset,
            bits: field.bits,
            flags: field.flags.bits(),
            number,
            bytes: bytes.as_ptr().cast(),
            bytes_len: bytes.len() as u64,
        }
    }
}

/// All but the last byte, which stays zero.
fn fill(to: &mut [u8], text: &str) {
    let most = to.len().saturating_sub(1);
    for (slot, byte) in to.iter_mut().take(most).zip(text.bytes()) {
        *slot = byte;
    }
}
