// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig_limits`: what the options of saves and loads share.

use std::time::Duration;

use super::sized::{read_options, sized32};
use crate::error::{Result, err};
use crate::session::{LoadOptions, SaveOptions};
use crate::stream::DecodeLimits;

/// What a session may be made to do and to take: one structure for all sessions of a VMM. A limit of 0
/// means the default. Options that set a limit of their own win, but not over max_memory. All limits
/// are checked before memory is allocated, and buffers grow with what has come, not with what was
/// announced.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_limits {
    /// VFIOMIG_LIMITS_INIT sets it.
    pub struct_size: u32,
    /// The largest payload of a data frame, or data of a packet, in bytes; default 4 MiB. A save makes
    /// its frames no larger.
    pub max_frame: u32,
    /// The largest blob, or configuration in a packet, in bytes; default 1 MiB.
    pub max_blob: u32,
    /// The number of blobs; default 256.
    pub max_blobs: u32,
    /// How often a save may start again, or a load's source; default 16 and 64.
    pub max_restarts: u32,
    /// Frames that are not data, restarts included; default 65536. For loads.
    pub max_other_frames: u32,
    /// Device data in all, with skipped frames, in bytes; default 1 TiB.
    pub max_total: u64,
    /// Packets that wait for their turn, in bytes; default 1 GiB. For loads.
    pub max_queued: u64,
    /// Memory that the library takes for the stream of one session, in bytes, at least 4 MiB; default:
    /// as much as the other limits make of it. Lowers max_frame, max_blob and max_queued where they
    /// would need more. Not counted: what is small and fixed, and the VMM's own buffers.
    pub max_memory: u64,
    /// How far a packet may be ahead of the next one in order; default 1048576. For loads.
    pub max_ahead: u32,
    /// How long a source may take for progress_bytes before the load fails with -ETIMEDOUT, in
    /// milliseconds; default: as long as it likes. Only the time counts in which the load waits for
    /// more. See vfiomig_load_get_deadline().
    pub progress_timeout_ms: u32,
    /// How much of the stream is progress, packets included, in bytes; default 65536. A stream that
    /// is shorter must end within one such time.
    pub progress_bytes: u32,
    /// Zero.
    pub reserved: u32,
}

sized32!(vfiomig_limits);

/// The first that is not 0, or the default.
pub(super) fn choose<T: Copy + Default + PartialEq>(own: T, shared: T, default: T) -> T {
    let zero = T::default();
    match (own != zero, shared != zero) {
        (true, _) => own,
        (false, true) => shared,
        (false, false) => default,
    }
}

impl vfiomig_limits {
    /// All zeros, which is all defaults.
    const NONE: vfiomig_limits = vfiomig_limits {
        struct_size: 0,
        max_frame: 0,
        max_blob: 0,
        max_blobs: 0,
        max_restarts: 0,
        max_other_frames: 0,
        max_total: 0,
        max_queued: 0,
        max_memory: 0,
        max_ahead: 0,
        progress_timeout_ms: 0,
        progress_bytes: 0,
        reserved: 0,
    };

    /// The limits that options point to.
    ///
    /// # Safety
    /// Promise 1 of C: NULL, or a structure of the size that it claims.
    pub(super) unsafe fn read(limits: *const vfiomig_limits) -> Result<vfiomig_limits> {
        // SAFETY: the caller made the same promise.
        let limits = unsafe { read_options(limits) }?.unwrap_or(vfiomig_limits::NONE);
        match limits.reserved {
            0 => Ok(limits),
            _ => Err(err!(Inval, "reserved is not zero in the limits")),
        }
    }

    /// What whoever reads or writes a stream looks at.
    pub(super) fn of_reader(&self, default: DecodeLimits) -> DecodeLimits {
        DecodeLimits {
            max_frame: choose(0, self.max_frame, default.max_frame),
            max_blob: choose(0, self.max_blob, default.max_blob),
            max_blobs: choose(0, self.max_blobs, default.max_blobs),
            max_restarts: choose(0, self.max_restarts, default.max_restarts),
            max_total: choose(0, self.max_total, default.max_total),
            max_other_frames: choose(0, self.max_other_frames.into(), default.max_other_frames),
            max_memory: choose(0, self.max_memory, default.max_memory),
        }
    }

    pub(super) fn of_save(&self, out: &mut SaveOptions) {
        out.limits = self.of_reader(out.limits);
        out.max_restarts = choose(0, self.max_restarts, out.max_restarts);
        if self.max_frame != 0 {
            out.max_frame = out.max_frame.min(self.max_frame);
        }
    }

    pub(super) fn of_load(&self, out: &mut LoadOptions) {
        out.limits = self.of_reader(out.limits);
        out.max_ahead = choose(0, self.max_ahead, out.max_ahead);
        out.max_queued = choose(0, self.max_queued, out.max_queued);
        if self.progress_timeout_ms != 0 {
            out.progress_timeout = Some(Duration::from_millis(self.progress_timeout_ms.into()));
        }
        out.progress_bytes = choose(0, self.progress_bytes.into(), out.progress_bytes);
    }
}
