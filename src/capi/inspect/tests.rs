// SPDX-License-Identifier: MIT OR Apache-2.0
use std::ffi::CStr;
use std::ptr;

use super::*;
use crate::identity::Identity;
use crate::stream::{Encoder, FrameType, encode_identity};

/// A stream with 100 bytes of data.
fn stream() -> Vec<u8> {
    let mut encoder = Encoder::new([7; 16], 3);
    let mut out = vec![0; 1000];
    let mut len = encoder.preamble(&mut out).unwrap();
    let identity = Identity { driver: "other".into(), ..Identity::default() };
    let fields = encode_identity(&identity);
    len += encoder.frame(&mut out[len..], FrameType::Identity, &[&fields]).unwrap();
    len += encoder.frame(&mut out[len..], FrameType::Data, &[&[5; 60]]).unwrap();
    len += encoder.frame(&mut out[len..], FrameType::Data, &[&[6; 40]]).unwrap();
    len += encoder.end(&mut out[len..]).unwrap();
    out.truncate(len);
    out
}

#[derive(Default)]
struct Seen {
    entries: u32,
    problems: u32,
    fields: Vec<String>,
    decoded: u64,
    refused: u32,
    released: u32,
}

unsafe fn seen<'a>(opaque: *mut c_void) -> &'a mut Seen {
    // SAFETY: what `inspect` has passed, which nobody else uses meanwhile.
    unsafe { &mut *opaque.cast() }
}

unsafe extern "C" fn on_entry(opaque: *mut c_void, entry: *const vfiomig_inspect_entry) {
    // SAFETY: as the library promises.
    let (seen, entry) = unsafe { (seen(opaque), &*entry) };
    seen.entries += 1;
    seen.problems += u32::from(entry.problem != 0);
    assert_eq!(entry.problem != 0, entry.text[0] != 0);
}

unsafe extern "C" fn on_field(opaque: *mut c_void, field: *const vfiomig_decoded) -> c_int {
    // SAFETY: as the library promises.
    let (seen, field) = unsafe { (seen(opaque), &*field) };
    // SAFETY: a text with a NUL.
    let name = unsafe { CStr::from_ptr(field.name) }.to_str().unwrap();
    seen.fields.push(format!("{name} {} {} {}", field.kind, field.number, field.bytes_len));
    0
}

unsafe extern "C" fn on_release(opaque: *mut c_void) {
    // SAFETY: as above.
    unsafe { seen(opaque) }.released += 1;
}

unsafe extern "C" fn on_data(
    opaque: *mut c_void,
    data: *const c_void,
    len: usize,
    offset: u64,
    put: vfiomig_decoded_fn,
    to: *mut c_void,
) -> c_int {
    // SAFETY: as above.
    let seen = unsafe { seen(opaque) };
    assert_eq!(seen.decoded, offset);
    seen.decoded += len as u64;
    let put = put.unwrap();
    let mut field = vfiomig_decoded {
        struct_size: size_of::<vfiomig_decoded>() as u32,
        kind: VFIOMIG_DECODED_BYTES,
        name: c"some.bytes".as_ptr(),
        description: ptr::null(),
        offset,
        bits: 8 * len as u32,
        flags: 0,
        number: 0,
        bytes: data,
        bytes_len: len as u64,
    };
    // SAFETY: `to` is what came with `put`.
    unsafe {
        assert_eq!(put(to, &raw const field), 0);
        field.name = c"two words".as_ptr();
        assert_eq!(put(to, &raw const field), -libc::EINVAL);
        field.name = ptr::null();
        assert_eq!(put(to, &raw const field), -libc::EFAULT);
        (field.name, field.kind) = (c"x".as_ptr(), 9);
        assert_eq!(put(to, &raw const field), -libc::EINVAL);
        assert_eq!(put(to, ptr::null()), -libc::EFAULT);
        assert_eq!(put(ptr::null_mut(), &raw const field), -libc::EFAULT);
    }
    seen.refused += 1;
    0
}

/// What is seen of a stream, with its report.
fn inspect(stream: &[u8], driver: u8) -> (Seen, vfiomig_inspect_report) {
    let mut seen = Seen::default();
    let opaque: *mut c_void = (&raw mut seen).cast();
    // SAFETY: all zeros are valid structures.
    let (mut options, mut ops, mut report) = unsafe {
        (
            std::mem::zeroed::<vfiomig_inspect_options>(),
            std::mem::zeroed::<vfiomig_decoder_ops>(),
            std::mem::zeroed::<vfiomig_inspect_report>(),
        )
    };
    ops.struct_size = size_of_val(&ops) as u32;
    ops.driver[0] = driver as _;
    ops.data = Some(on_data);
    ops.release = Some(on_release);
    options.struct_size = size_of_val(&options) as u32;
    options.entry = Some(on_entry);
    options.entry_release = Some(on_release);
    options.field = Some(on_field);
    options.field_release = Some(on_release);
    (options.entry_opaque, options.field_opaque) = (opaque, opaque);
    (options.decoder, options.decoder_opaque) = (&raw const ops, opaque);
    report.struct_size = size_of_val(&report) as u32;
    let mut handle = ptr::null_mut();
    // SAFETY: structures, callbacks and bytes live until the end of this function.
    unsafe {
        assert_eq!(vfiomig_inspect_new(&raw const options, &raw mut handle), 0);
        for piece in stream.chunks(13) {
            assert_eq!(vfiomig_inspect_push(handle, piece.as_ptr().cast(), piece.len()), 0);
        }
        assert_eq!(vfiomig_inspect_get_report(handle, &raw mut report), 0);
        assert_eq!(report.verdict, VFIOMIG_INSPECT_VERDICT_PENDING);
        assert_eq!(vfiomig_inspect_end(handle), 0);
        assert_eq!(vfiomig_inspect_end(handle), -libc::EINVAL);
        assert_eq!(vfiomig_inspect_get_report(handle, &raw mut report), 0);
    }
    vfiomig_inspect_free(handle);
    assert_eq!(seen.released, 3);
    (seen, report)
}

#[test]
fn a_whole_stream_is_told_from_a_damaged_one_and_its_fields_are_named() {
    let mut stream = stream();
    let (seen, report) = inspect(&stream, 0);
    assert_eq!((report.verdict, report.code), (VFIOMIG_INSPECT_VERDICT_WHOLE, 0));
    assert_eq!((report.data_bytes, report.bytes), (100, stream.len() as u64));
    assert_eq!((seen.entries, seen.problems, seen.decoded, seen.refused), (6, 0, 100, 2));
    assert_eq!(seen.fields, ["some.bytes 2 0 60", "some.bytes 2 0 40"]);
    // For another driver.
    assert_eq!(inspect(&stream, b'x').0.decoded, 0);
    let last = stream.len() - 1;
    stream[last] ^= 1;
    let (seen, report) = inspect(&stream, 0);
    assert_eq!(report.verdict, VFIOMIG_INSPECT_VERDICT_DAMAGED);
    assert_eq!(report.problem, VFIOMIG_INSPECT_PROBLEM_PAYLOAD_CHECK);
    // The end is damaged, and so there is none.
    assert_eq!((report.code, seen.problems), (-libc::EBADMSG, 2));
    let (_, report) = inspect(&stream[..last], 0);
    assert_eq!(report.verdict, VFIOMIG_INSPECT_VERDICT_INCOMPLETE);
}

#[test]
fn options_that_cannot_be_are_refused_and_release_what_they_brought() {
    let mut seen = Seen::default();
    // SAFETY: all zeros are valid structures.
    let (mut options, mut ops) = unsafe {
        (std::mem::zeroed::<vfiomig_inspect_options>(), std::mem::zeroed::<vfiomig_decoder_ops>())
    };
    ops.struct_size = size_of_val(&ops) as u32;
    ops.release = Some(on_release);
    options.struct_size = size_of_val(&options) as u32;
    options.entry_release = Some(on_release);
    options.entry_opaque = (&raw mut seen).cast();
    options.decoder = &raw const ops;
    options.decoder_opaque = (&raw mut seen).cast();
    let mut handle = ptr::null_mut();
    // SAFETY: the structures live during the call.
    let ret = unsafe { vfiomig_inspect_new(&raw const options, &raw mut handle) };
    assert_eq!((ret, seen.released), (-libc::EFAULT, 2));
}
