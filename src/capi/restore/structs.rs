// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structures of `vfiomig_restore_*`.

use std::ffi::c_char;

use crate::capi::auth::vfiomig_auth;
use crate::capi::checkpoint::VFIOMIG_CHECKPOINT_NAME_SIZE;
use crate::capi::limits::vfiomig_limits;
use crate::capi::numbers::flag;
use crate::capi::sized::sized32;
use crate::checkpoint::{Entry, Manifest};

/// The file is authenticated.
pub const VFIOMIG_RESTORE_AUTHENTICATED: u32 = 1 << 0;

/// All devices of a checkpoint: vfiomig_restore_verify().
pub const VFIOMIG_RESTORE_ALL: u32 = u32::MAX;

/// A checkpoint that is being read.
pub enum vfiomig_restore {}

/// How a checkpoint is read; NULL for the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_restore_options {
    /// VFIOMIG_RESTORE_OPTIONS_INIT sets it.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// A stream of at most so many bytes is copied to memory while it is verified, and loaded from
    /// there: then neither a disk nor another process can spoil it after the device has lost what
    /// it held. 0: none.
    pub staged_bytes: u64,
    /// Verifies who has made the file; NULL: an authenticated one is refused.
    pub auth: *const vfiomig_auth,
    /// What its streams may ask for; NULL: the defaults.
    pub limits: *const vfiomig_limits,
}

/// What a checkpoint is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_restore_info {
    /// VFIOMIG_RESTORE_INFO_INIT sets it.
    pub struct_size: u32,
    /// Bitwise OR of VFIOMIG_RESTORE_AUTHENTICATED, or 0.
    pub flags: u32,
    /// Its name: random bytes.
    pub id: [u8; 16],
    /// The number that its VMM gave it.
    pub generation: u64,
    /// When it was taken, in nanoseconds since 1970 UTC, by the clock of its host; 0: not known.
    pub created_ns: u64,
    /// How many devices it has.
    pub num_devices: u32,
    /// The length of the note, in bytes.
    pub note_len: u32,
    /// With VFIOMIG_RESTORE_AUTHENTICATED: the key's id.
    pub key_id: u32,
    /// Zero.
    pub reserved: u32,
}

/// A device of a checkpoint.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_restore_device {
    /// VFIOMIG_RESTORE_DEVICE_INIT sets it.
    pub struct_size: u32,
    /// Its number within its VM.
    pub device_index: u32,
    /// The name of its stream.
    pub migration_id: [u8; 16],
    /// Length of its stream in bytes.
    pub stream_bytes: u64,
    /// Bytes of device data in it.
    pub data_bytes: u64,
    /// The name that its VMM gave it, with a NUL at its end.
    pub name: [c_char; VFIOMIG_CHECKPOINT_NAME_SIZE],
}

sized32!(vfiomig_restore_options, vfiomig_restore_info, vfiomig_restore_device);

impl From<&Manifest> for vfiomig_restore_info {
    fn from(from: &Manifest) -> Self {
        vfiomig_restore_info {
            struct_size: 0,
            flags: flag(from.key_id.is_some(), VFIOMIG_RESTORE_AUTHENTICATED),
            id: from.id,
            generation: from.generation,
            created_ns: from.created_ns,
            num_devices: from.devices.len() as u32,
            note_len: from.note.len() as u32,
            key_id: from.key_id.unwrap_or(0),
            reserved: 0,
        }
    }
}

impl From<&Entry> for vfiomig_restore_device {
    fn from(from: &Entry) -> Self {
        let mut name = [0; VFIOMIG_CHECKPOINT_NAME_SIZE];
        for (to, byte) in name.iter_mut().zip(from.name.as_bytes()) {
            *to = c_char::from_ne_bytes([*byte]);
        }
        vfiomig_restore_device {
            struct_size: 0,
            device_index: from.device,
            migration_id: from.migration_id,
            stream_bytes: from.stream_len(),
            data_bytes: from.end.data_bytes,
            name,
        }
    }
}
