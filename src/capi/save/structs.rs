// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structures of `vfiomig_save_*`.

use std::time::Duration;

use super::constants::*;
use crate::capi::auth::vfiomig_auth;
use crate::capi::format::format;
use crate::capi::limits::{choose, vfiomig_limits};
use crate::capi::numbers::flag;
use crate::capi::sized::sized32;
use crate::error::{Result, err};
use crate::session::{Ending, Pending, SaveOptions, SaveStats};
use crate::stream::{Format, qemu};

/// One device being saved.
pub enum vfiomig_save {}

/// How a device is saved; NULL for the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_save_options {
    /// VFIOMIG_SAVE_OPTIONS_INIT sets it.
    pub struct_size: u32,
    /// Bitwise OR of VFIOMIG_SAVE_*, or 0.
    pub flags: u32,
    /// The device's number within its VM; every frame carries it. QEMU's format has no place for
    /// it: 0.
    pub device_index: u32,
    /// The largest payload of a data frame, in bytes; 0: 131040, which with its header is 128 KiB.
    /// With auth, frames are as long as a multiple of 16 KiB that this allows.
    /// In QEMU's format: the longest piece of data; 0: 1 MiB.
    pub max_frame: u32,
    /// How often the save may start again because the device was reset; 0: 16. In QEMU's format, a
    /// save cannot start again.
    pub max_restarts: u32,
    /// How the stream is laid out: VFIOMIG_FORMAT_*.
    pub format: u32,
    /// The name of the stream; all zeros: a random one. For a target that checks it, tell the target
    /// before its load begins, and use a new one for each attempt. QEMU's format has no place for
    /// it: zeros.
    pub migration_id: [u8; 16],
    /// How long the driver may deliver neither data nor an end before the save fails, in
    /// milliseconds; 0: 60000.
    pub read_timeout_ms: u32,
    /// Zero.
    pub reserved: u32,
    /// Authenticates the stream; NULL: nobody can tell who has made it.
    pub auth: *const vfiomig_auth,
    /// Limits that all sessions of the VMM share; NULL: the defaults.
    pub limits: *const vfiomig_limits,
}

/// Estimates of what is left to save.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_pending {
    /// VFIOMIG_PENDING_INIT sets it.
    pub struct_size: u32,
    /// Bitwise OR of VFIOMIG_PENDING_*.
    pub flags: u32,
    /// Initial data that has not been read yet, in bytes.
    pub initial_bytes: u64,
    /// Data that became dirty since it was read, in bytes.
    pub dirty_bytes: u64,
    /// What the device will still send if it is stopped now, in bytes. Usually contains the two
    /// above, so do not add them: what is left is the larger one of their sum and this.
    pub stop_copy_bytes: u64,
    /// Begins at 1 and increases when the device starts its initial data again: an acknowledgement
    /// of an earlier generation no longer counts.
    pub initial_generation: u32,
    /// Zero.
    pub reserved: u32,
}

/// What a save has done so far.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_save_stats {
    /// VFIOMIG_SAVE_STATS_INIT sets it.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// Device data returned, including that before restarts, in bytes.
    pub data_bytes: u64,
    /// The part of it that was read before the device stopped, in bytes.
    pub precopy_bytes: u64,
    /// The whole stream returned, in bytes.
    pub stream_bytes: u64,
    /// Frames returned.
    pub frames: u64,
    /// How often the save started again because the device was reset.
    pub restarts: u64,
    /// Time spent in the driver's reads after the device stopped, in nanoseconds.
    pub stop_read_ns: u64,
    /// Time that the change to PRE_COPY took, in nanoseconds.
    pub begin_ns: u64,
    /// Time that the change to PRE_COPY_P2P or RUNNING_P2P took, in nanoseconds.
    pub quiesce_ns: u64,
    /// Time that the change to STOP_COPY took, in nanoseconds.
    pub stop_ns: u64,
    /// Time that the change which ended the save took, in nanoseconds.
    pub finish_ns: u64,
}

sized32!(vfiomig_save_options since auth, vfiomig_pending, vfiomig_save_stats);

impl vfiomig_save_options {
    /// What comes with auth.
    ///
    /// # Safety
    /// Promise 1 of C, for the limits that it points to.
    pub(super) unsafe fn to_options(self) -> Result<SaveOptions> {
        let mut out = SaveOptions::default();
        let of_qemu = VFIOMIG_SAVE_SWITCHOVER_ACK | VFIOMIG_SAVE_PACKETS | VFIOMIG_SAVE_ACK_ONCE;
        let known =
            VFIOMIG_SAVE_NONBLOCK | VFIOMIG_SAVE_NO_PRE_COPY | VFIOMIG_SAVE_FULL_BEFORE_LOGGING;
        out.format = format(self.format, self.flags & VFIOMIG_SAVE_PACKETS != 0)?;
        let (known, frame) = match out.format {
            Format::Native => (known, out.max_frame),
            Format::Qemu | Format::QemuPackets => (known | of_qemu, qemu::PIECE),
        };
        if self.flags & !known != 0 {
            return Err(err!(Inval, "flags in the save options that are unknown in this format"));
        }
        out.switchover_ack = self.flags & VFIOMIG_SAVE_SWITCHOVER_ACK != 0;
        out.ack_once = self.flags & VFIOMIG_SAVE_ACK_ONCE != 0;
        out.device_index = self.device_index;
        out.max_frame = frame;
        // SAFETY: the caller made the same promise.
        unsafe { vfiomig_limits::read(self.limits) }?.of_save(&mut out);
        out.max_frame = choose(self.max_frame, 0, out.max_frame);
        if self.reserved != 0 {
            return Err(err!(Inval, "reserved is not zero in the save options"));
        }
        if self.read_timeout_ms != 0 {
            out.read_timeout = Duration::from_millis(u64::from(self.read_timeout_ms));
        }
        out.max_restarts = choose(self.max_restarts, 0, out.max_restarts);
        out.nonblocking = self.flags & VFIOMIG_SAVE_NONBLOCK != 0;
        out.no_pre_copy = self.flags & VFIOMIG_SAVE_NO_PRE_COPY != 0;
        out.full_before_logging = self.flags & VFIOMIG_SAVE_FULL_BEFORE_LOGGING != 0;
        out.migration_id = self.migration_id;
        Ok(out)
    }
}

/// How a save is to end.
pub(in crate::capi) fn ending(ending: u32) -> Result<Ending> {
    Ok(match ending {
        VFIOMIG_ENDING_RELEASE => Ending::Release,
        VFIOMIG_ENDING_KEEP => Ending::Keep,
        VFIOMIG_ENDING_KEEP_QUIESCED => Ending::KeepQuiesced,
        VFIOMIG_ENDING_KEEP_STOPPED => Ending::KeepStopped,
        other => return Err(err!(Inval, "there is no ending {other}")),
    })
}

impl From<&Pending> for vfiomig_pending {
    fn from(pending: &Pending) -> Self {
        vfiomig_pending {
            struct_size: 0,
            flags: flag(pending.precopy_known, VFIOMIG_PENDING_PRE_COPY_KNOWN)
                | flag(pending.stop_copy_known, VFIOMIG_PENDING_STOP_COPY_KNOWN)
                | flag(pending.initial_sent, VFIOMIG_PENDING_INITIAL_SENT),
            initial_bytes: pending.initial_bytes,
            dirty_bytes: pending.dirty_bytes,
            stop_copy_bytes: pending.stop_copy_bytes,
            initial_generation: pending.initial_generation,
            reserved: 0,
        }
    }
}

impl From<SaveStats> for vfiomig_save_stats {
    fn from(stats: SaveStats) -> Self {
        let SaveStats {
            data_bytes,
            precopy_bytes,
            stream_bytes,
            frames,
            restarts,
            stop_read_ns,
            begin_ns,
            quiesce_ns,
            stop_ns,
            finish_ns,
        } = stats;
        vfiomig_save_stats {
            struct_size: 0,
            reserved: 0,
            data_bytes,
            precopy_bytes,
            stream_bytes,
            frames,
            restarts,
            stop_read_ns,
            begin_ns,
            quiesce_ns,
            stop_ns,
            finish_ns,
        }
    }
}
