// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structures of `vfiomig_checkpoint_*`.

use std::ffi::c_void;

use crate::alloc;
use crate::capi::args::bytes_if_any;
use crate::capi::auth::vfiomig_auth;
use crate::capi::sized::sized32;
use crate::checkpoint::{Guest, Stats, WriterOptions};
use crate::error::{Result, err};

/// The file need not survive a loss of power.
pub const VFIOMIG_CHECKPOINT_NOT_DURABLE: u32 = 1 << 0;

/// The longest name of a device in a checkpoint, in bytes, with its NUL.
pub const VFIOMIG_CHECKPOINT_NAME_SIZE: usize = 64;
const _: () = assert!(VFIOMIG_CHECKPOINT_NAME_SIZE == crate::stream::checkpoint::MAX_NAME + 1);

/// The guest goes on: its devices go back to where they were.
pub const VFIOMIG_CHECKPOINT_RESUME: u32 = 0;
/// The guest stays here and does not run: its devices go to STOP.
pub const VFIOMIG_CHECKPOINT_RESUME_STOPPED: u32 = 1;

/// A checkpoint that is being taken.
pub enum vfiomig_checkpoint {}

/// How a checkpoint is taken; NULL for the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_checkpoint_options {
    /// VFIOMIG_CHECKPOINT_OPTIONS_INIT sets it.
    pub struct_size: u32,
    /// Bitwise OR of VFIOMIG_CHECKPOINT_NOT_DURABLE, or 0.
    pub flags: u32,
    /// A number of the VMM's own, which the file carries.
    pub generation: u64,
    /// When it was taken, in nanoseconds since 1970 UTC; 0: now.
    pub created_ns: u64,
    /// What stopped devices say goes to memory of at most so many bytes first, and to the file when
    /// they are back. What does not fit goes to the file at once. 0: all of it.
    pub spool_bytes: u64,
    /// Authenticates the streams and the file; NULL: nobody can tell who has made it.
    pub auth: *const vfiomig_auth,
    /// Data of the VMM's own, which the file carries, for example which image of the memory belongs
    /// to it. It is copied.
    pub note: *const c_void,
    /// Its length in bytes, at most 4096.
    pub note_len: u32,
    /// Zero.
    pub reserved: u32,
}

/// What has been done so far. Times are in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_checkpoint_stats {
    /// VFIOMIG_CHECKPOINT_STATS_INIT sets it.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// Bytes of streams that were read from devices, or from the file.
    pub stream_bytes: u64,
    /// Part of it that was read from stopped devices.
    pub stopped_bytes: u64,
    /// Part of it that went to memory first.
    pub spooled_bytes: u64,
    /// Bytes that were written to the file.
    pub file_bytes: u64,
    /// How many bytes of streams there will be, as far as the drivers know.
    pub expected_bytes: u64,
    /// Time that the devices took to stop.
    pub stop_ns: u64,
    /// Time that the stopped devices were read.
    pub read_ns: u64,
    /// Time from the beginning of vfiomig_checkpoint_stop() to the end of
    /// vfiomig_checkpoint_resume().
    pub pause_ns: u64,
}

sized32!(vfiomig_checkpoint_options, vfiomig_checkpoint_stats);

impl vfiomig_checkpoint_options {
    /// All but what authenticates it.
    ///
    /// # Safety
    /// Promise 1 of C, about the note.
    pub(super) unsafe fn to_options(self) -> Result<WriterOptions> {
        if self.flags & !VFIOMIG_CHECKPOINT_NOT_DURABLE != 0 || self.reserved != 0 {
            return Err(err!(Inval, "unknown flags in the options, or reserved is not zero"));
        }
        // SAFETY: the caller made the same promise.
        let note = unsafe { bytes_if_any(self.note, self.note_len as usize, "note") }?;
        Ok(WriterOptions {
            generation: self.generation,
            created_ns: (self.created_ns != 0).then_some(self.created_ns),
            note: alloc::copy(note, "no memory for a note")?,
            auth: None,
            spool: self.spool_bytes,
            durable: self.flags & VFIOMIG_CHECKPOINT_NOT_DURABLE == 0,
        })
    }
}

pub(super) fn guest(number: u32) -> Result<Guest> {
    match number {
        VFIOMIG_CHECKPOINT_RESUME => Ok(Guest::GoesOn),
        VFIOMIG_CHECKPOINT_RESUME_STOPPED => Ok(Guest::Stopped),
        number => Err(err!(Inval, "there is no way {number} for a guest to go on")),
    }
}

impl From<Stats> for vfiomig_checkpoint_stats {
    fn from(from: Stats) -> Self {
        vfiomig_checkpoint_stats {
            struct_size: 0,
            reserved: 0,
            stream_bytes: from.stream_bytes,
            stopped_bytes: from.stopped_bytes,
            spooled_bytes: from.spooled_bytes,
            file_bytes: from.file_bytes,
            expected_bytes: from.expected_bytes,
            stop_ns: from.stop_ns,
            read_ns: from.read_ns,
            pause_ns: from.pause_ns,
        }
    }
}
