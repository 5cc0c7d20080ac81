// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structures and callbacks of `vfiomig_inspect_*`, but for those of decoders.

use std::ffi::{c_char, c_void};
use std::ptr;

use super::constants::*;
use super::decoder::{vfiomig_decoded_fn, vfiomig_decoder_ops};
use crate::capi::auth::vfiomig_auth;
use crate::capi::callbacks::vfiomig_release_fn;
use crate::capi::limits::vfiomig_limits;
use crate::capi::numbers::flag;
use crate::capi::sized::sized32;
use crate::inspect::{Content, Entry, Frame, Problem, Report, What};
use crate::transport::put_fixed_text;

/// A stream being inspected.
pub enum vfiomig_inspect {}

/// Takes a piece of a stream. Pieces come in order, and cover all of the stream.
pub type vfiomig_inspect_entry_fn =
    Option<unsafe extern "C" fn(opaque: *mut c_void, entry: *const vfiomig_inspect_entry)>;

/// How a stream is inspected; NULL for the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_inspect_options {
    /// VFIOMIG_INSPECT_OPTIONS_INIT sets it.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// What a stream may ask for: those of the load that it is meant for; NULL: the defaults.
    pub limits: *const vfiomig_limits,
    /// What an authenticated stream is verified with; NULL: it is read unverified. As in a load, a
    /// stream without authentication is then a problem, unless VFIOMIG_AUTH_ALLOW_UNAUTHENTICATED is
    /// set.
    pub auth: *const vfiomig_auth,
    /// Takes what the stream consists of; NULL: only the report is wanted.
    pub entry: vfiomig_inspect_entry_fn,
    /// Passed to entry.
    pub entry_opaque: *mut c_void,
    /// Releases entry_opaque.
    pub entry_release: vfiomig_release_fn,
    /// Takes the fields of the device's data, each after the entry that completes it; NULL: nobody
    /// does, and nothing is decoded.
    pub field: vfiomig_decoded_fn,
    /// Passed to field.
    pub field_opaque: *mut c_void,
    /// Releases field_opaque.
    pub field_release: vfiomig_release_fn,
    /// Names the fields of a driver that the library does not know, or instead of the library; NULL:
    /// only the library does, for mtty.
    pub decoder: *const vfiomig_decoder_ops,
    /// Passed to the callbacks of decoder.
    pub decoder_opaque: *mut c_void,
}

/// A piece of a stream. Members that do not belong to what it is are zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_inspect_entry {
    /// The library sets it.
    pub struct_size: u32,
    /// VFIOMIG_INSPECT_ENTRY_*.
    pub what: u32,
    /// Where it begins, in bytes from the front of the stream.
    pub offset: u64,
    /// How long it is, in bytes: as much as there is of it.
    pub length: u64,
    /// What is wrong with it: VFIOMIG_INSPECT_PROBLEM_*, or 0.
    pub problem: u32,
    /// With which -errno a load would refuse it; 0: it would not.
    pub code: i32,
    /// What would have been right: a check as it is computed, the number of the frame that was due,
    /// the number of bytes that should be there. See flags.
    pub expected: u64,
    /// What was found in its place. See flags.
    pub found: u64,
    /// Bitwise OR of VFIOMIG_INSPECT_HAS_EXPECTED and other VFIOMIG_INSPECT_* flags.
    pub flags: u32,
    /// Of a frame: VFIOMIG_INSPECT_CHECKED_*.
    pub checked: u32,
    /// Of a gap: how many frames are missing. See flags.
    pub missing: u64,
    /// Of a frame: its number within the stream.
    pub sequence: u64,
    /// Of a frame: its type. docs/stream-format.md has them.
    pub frame_type: u32,
    /// Of a frame: its flags.
    pub frame_flags: u32,
    /// Of a frame, and of the authentication: the device's number within its VM.
    pub device: u32,
    /// Of a frame: a blob's kind, or the number of a restart or of a mark of complete initial data.
    pub number: u32,
    /// Of a frame: where its device data begins, in bytes of device data since the last restart.
    pub data_offset: u64,
    /// Of a frame: its payload, as far as it is there and not too long. Only to be relied on with
    /// VFIOMIG_INSPECT_CHECKED_RIGHT and without a problem.
    pub payload: *const c_void,
    /// ... and how many bytes of it there are.
    pub payload_len: u64,
    /// Of the preamble: the format's versions.
    pub major: u32,
    /// As above.
    pub minor: u32,
    /// Of the preamble: features.
    pub required: u32,
    /// As above.
    pub optional: u32,
    /// Of the preamble: the stream's name.
    pub migration_id: [u8; 16],
    /// Of the authentication: 1: keyed BLAKE3; 2: a MAC of the VMM's own.
    pub algorithm: u32,
    /// Of the authentication: which key it is.
    pub key_id: u32,
    /// Of the authentication: random bytes that no other stream has.
    pub nonce: [u8; 32],
    /// Of the authentication: what the target has chosen, or zeros.
    pub challenge: [u8; 32],
    /// What is wrong, for people; empty: nothing.
    pub text: [c_char; 256],
}

/// What there is to say of a stream, as far as it has come.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_inspect_report {
    /// VFIOMIG_INSPECT_REPORT_INIT sets it.
    pub struct_size: u32,
    /// VFIOMIG_INSPECT_VERDICT_*.
    pub verdict: u32,
    /// What a load would say of it: 0, or -errno.
    pub code: i32,
    /// VFIOMIG_INSPECT_TAGS_*.
    pub tags: u32,
    /// How many problems there are.
    pub problems: u64,
    /// Its length, as far as it has been looked at, in bytes.
    pub bytes: u64,
    /// Frames that are there, right or wrong.
    pub frames: u64,
    /// Bytes of device data since the last restart, in frames that are right.
    pub data_bytes: u64,
    /// Frames with device data since the last restart that are right.
    pub data_frames: u64,
    /// Blobs since the last restart.
    pub blobs: u64,
    /// Restarts.
    pub restarts: u64,
    /// Marks of complete initial data.
    pub initial_marks: u64,
    /// Frames of newer formats that were skipped.
    pub skipped: u64,
    /// Bytes that could not be understood.
    pub lost_bytes: u64,
    /// Where the first problem is, in bytes from the front of the stream.
    pub offset: u64,
    /// As in struct vfiomig_inspect_entry, of the first problem.
    pub expected: u64,
    /// As above.
    pub found: u64,
    /// The first problem: VFIOMIG_INSPECT_PROBLEM_*, or 0.
    pub problem: u32,
    /// Bitwise OR of VFIOMIG_INSPECT_* flags.
    pub flags: u32,
    /// The device's number within its VM. See flags.
    pub device: u32,
    /// Why decoding ended early: -errno; 0: it did not.
    pub decoder_code: i32,
    /// The format's versions. See flags.
    pub major: u32,
    /// As above.
    pub minor: u32,
    /// The stream's name. See flags.
    pub migration_id: [u8; 16],
    /// The first problem, for people; empty: there is none.
    pub text: [c_char; 256],
}

sized32!(vfiomig_inspect_options, vfiomig_inspect_entry, vfiomig_inspect_report);

/// What both structures say of a problem.
fn numbers(problem: &Problem) -> (u32, u64, u64) {
    let flags = flag(problem.expected.is_some(), VFIOMIG_INSPECT_HAS_EXPECTED)
        | flag(problem.found.is_some(), VFIOMIG_INSPECT_HAS_FOUND);
    (flags, problem.expected.unwrap_or(0), problem.found.unwrap_or(0))
}

impl vfiomig_inspect_entry {
    const NONE: vfiomig_inspect_entry = vfiomig_inspect_entry {
        struct_size: size_of::<vfiomig_inspect_entry>() as u32,
        what: 0,
        offset: 0,
        length: 0,
        problem: 0,
        code: 0,
        expected: 0,
        found: 0,
        flags: 0,
        checked: 0,
        missing: 0,
        sequence: 0,
        frame_type: 0,
        frame_flags: 0,
        device: 0,
        number: 0,
        data_offset: 0,
        payload: ptr::null(),
        payload_len: 0,
        major: 0,
        minor: 0,
        required: 0,
        optional: 0,
        migration_id: [0; 16],
        algorithm: 0,
        key_id: 0,
        nonce: [0; 32],
        challenge: [0; 32],
        text: [0; 256],
    };

    fn set_frame(&mut self, frame: &Frame<'_>) {
        self.what = VFIOMIG_INSPECT_ENTRY_FRAME;
        self.checked = frame.checked as u32;
        self.sequence = frame.header.sequence;
        self.frame_type = frame.header.kind.raw().into();
        self.frame_flags = frame.header.flags.bits().into();
        self.device = frame.header.device;
        self.data_offset = frame.data_offset;
        self.payload = frame.payload.as_ptr().cast();
        self.payload_len = frame.payload.len() as u64;
        self.number = match frame.content {
            Content::InitialComplete(number) | Content::Restart(number) => number,
            Content::Blob { kind, .. } => kind,
            _ => 0,
        };
    }
}

impl From<&Entry<'_>> for vfiomig_inspect_entry {
    fn from(entry: &Entry<'_>) -> Self {
        let mut out = vfiomig_inspect_entry {
            offset: entry.offset,
            length: entry.length,
            ..vfiomig_inspect_entry::NONE
        };
        match &entry.what {
            What::Preamble(preamble) => {
                out.what = VFIOMIG_INSPECT_ENTRY_PREAMBLE;
                (out.major, out.minor) = (preamble.major.into(), preamble.minor.into());
                (out.required, out.optional) = (preamble.required.bits(), preamble.optional);
                out.migration_id = preamble.migration_id;
            }
            What::Authentication(block) => {
                out.what = VFIOMIG_INSPECT_ENTRY_AUTHENTICATION;
                if let Some(block) = block {
                    (out.algorithm, out.key_id) = (block.algorithm as u32, block.key_id);
                    (out.device, out.nonce) = (block.device, block.nonce);
                    out.challenge = block.challenge.unwrap_or_default();
                }
            }
            What::Frame(frame) => out.set_frame(frame),
            What::Damage => out.what = VFIOMIG_INSPECT_ENTRY_DAMAGE,
            What::Gap { resumed, missing } => {
                out.what = VFIOMIG_INSPECT_ENTRY_GAP;
                out.flags = flag(*resumed, VFIOMIG_INSPECT_RESUMED)
                    | flag(missing.is_some(), VFIOMIG_INSPECT_HAS_MISSING);
                out.missing = missing.unwrap_or(0);
            }
            What::End => out.what = VFIOMIG_INSPECT_ENTRY_END,
        }
        if let Some(problem) = &entry.problem {
            let (flags, expected, found) = numbers(problem);
            (out.expected, out.found) = (expected, found);
            out.flags |= flags;
            (out.problem, out.code) = (problem.kind as u32, problem.code().to_ret());
            put_fixed_text(&mut out.text, problem.error.message());
        }
        out
    }
}

impl From<&Report> for vfiomig_inspect_report {
    fn from(report: &Report) -> Self {
        let first = report.first_problem.as_ref();
        let (flags, expected, found) = first.map_or((0, 0, 0), |(_, problem)| numbers(problem));
        let preamble = report.preamble.as_ref();
        let mut out = vfiomig_inspect_report {
            struct_size: 0,
            verdict: report.verdict as u32,
            code: report.code.map_or(0, crate::error::Code::to_ret),
            tags: report.tags as u32,
            problems: report.problems,
            bytes: report.bytes,
            frames: report.frames,
            data_bytes: report.data_bytes,
            data_frames: report.data_frames,
            blobs: report.blobs,
            restarts: report.restarts,
            initial_marks: report.initial_marks,
            skipped: report.skipped,
            lost_bytes: report.lost_bytes,
            offset: first.map_or(0, |(offset, _)| *offset),
            expected,
            found,
            problem: first.map_or(0, |(_, problem)| problem.kind as u32),
            flags: flags
                | flag(report.ended, VFIOMIG_INSPECT_ENDED)
                | flag(preamble.is_some(), VFIOMIG_INSPECT_HAS_PREAMBLE)
                | flag(report.device.is_some(), VFIOMIG_INSPECT_HAS_DEVICE),
            device: report.device.unwrap_or(0),
            decoder_code: 0,
            major: preamble.map_or(0, |it| it.major.into()),
            minor: preamble.map_or(0, |it| it.minor.into()),
            migration_id: preamble.map_or([0; 16], |it| it.migration_id),
            text: [0; 256],
        };
        let text = first.map_or("", |(_, problem)| problem.error.message());
        put_fixed_text(&mut out.text, text);
        out
    }
}
