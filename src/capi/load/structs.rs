// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structures and callbacks of `vfiomig_load_*`.

use std::ffi::{c_int, c_void};
use std::time::Duration;

use super::constants::*;
use crate::capi::auth::vfiomig_auth;
use crate::capi::callbacks::{Opaque, verdict, vfiomig_release_fn};
use crate::capi::compat::{decider, policy_in, vfiomig_compat_policy, vfiomig_policy_fn};
use crate::capi::device::vfiomig_identity;
use crate::capi::format::format;
use crate::capi::guard::vfiomig_guard_ops;
use crate::capi::limits::{choose, vfiomig_limits};
use crate::capi::sized::sized32;
use crate::compat::{Decider, Ignore, Policy};
use crate::error::{Result, err};
use crate::session::{BlobSink, LoadOptions, LoadStats, LoadStatus};
use crate::stream::Format;

/// One device being loaded.
pub enum vfiomig_load {}

/// Takes data of the VMM's own that came with a stream: 0, or -errno to refuse the stream. EPERM,
/// EINVAL, ENODEV, ENOMEM, ENOTTY, EOPNOTSUPP, EPROTO, EBADMSG, EMSGSIZE, EXDEV and ECANCELED are
/// passed on; any other becomes EIO, and the failure structure has it. A positive number refuses too:
/// nothing but 0 lets a stream pass.
pub type vfiomig_blob_fn = Option<
    unsafe extern "C" fn(opaque: *mut c_void, kind: u32, data: *const c_void, len: usize) -> c_int,
>;
/// How a device is loaded; NULL for the defaults. Limits of 0 mean the default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_load_options {
    /// VFIOMIG_LOAD_OPTIONS_INIT sets it.
    pub struct_size: u32,
    /// Fields of the identity that need not match: bitwise OR of VFIOMIG_IGNORE_*, or 0. A short way
    /// to give them VFIOMIG_RULE_IGNORE; compat must not have rules for the same fields.
    pub ignore: u32,
    /// The largest payload of a data frame, or data of a packet, in bytes; default 4 MiB.
    pub max_frame: u32,
    /// The largest blob, or configuration in a packet, in bytes; default 1 MiB.
    pub max_blob: u32,
    /// The number of blobs; default 256.
    pub max_blobs: u32,
    /// How often the source may start again; default 64.
    pub max_restarts: u32,
    /// Device data plus skipped frames, in bytes; default 1 TiB.
    pub max_total: u64,
    /// Packets that wait for their turn, in bytes; default 1 GiB. If there are more,
    /// vfiomig_load_push_packet() waits.
    pub max_queued: u64,
    /// How far a packet may be ahead of the next one in order; default 1048576.
    pub max_ahead: u32,
    /// How long the driver may refuse data before the load fails, in milliseconds; default 60000.
    pub write_timeout_ms: u32,
    /// Bitwise OR of VFIOMIG_LOAD_*, or 0.
    pub flags: u32,
    /// The number within its VM that the device of the stream must have; see flags.
    pub device_index: u32,
    /// How the stream is laid out: VFIOMIG_FORMAT_*.
    pub format: u32,
    /// Zero.
    pub reserved: u32,
    /// The name that the stream must have; see flags.
    pub migration_id: [u8; 16],
    /// Takes the VMM's own data; NULL: a stream that has any is refused.
    pub blob: vfiomig_blob_fn,
    /// Passed to blob.
    pub blob_opaque: *mut c_void,
    /// Releases blob_opaque.
    pub blob_release: vfiomig_release_fn,
    /// Decides in addition to the comparison of identities; NULL: the comparison alone decides. A
    /// short way to set compat's decide, which must then be NULL.
    pub policy: vfiomig_policy_fn,
    /// Passed to policy.
    pub policy_opaque: *mut c_void,
    /// Releases policy_opaque.
    pub policy_release: vfiomig_release_fn,
    /// What the stream will be of, if the source has told: vfiomig_load_begin() judges it, and
    /// refuses with -EXDEV before it does anything to the device. The stream's own identity is
    /// judged too, and what both say must be the same, but for the size of the state. NULL: not
    /// known; only the stream's own identity is judged, when it comes.
    pub source: *const vfiomig_identity,
    /// What must match between source and target; NULL: the default.
    pub compat: *const vfiomig_compat_policy,
    /// Verifies who has made the stream; NULL: an authenticated stream is refused.
    pub auth: *const vfiomig_auth,
    /// Limits that all sessions of the VMM share; NULL: the defaults.
    pub limits: *const vfiomig_limits,
    /// Judges the device's data before the driver gets it, after the library's own guard if there is
    /// one for the driver; NULL: only that one does.
    pub guard: *const vfiomig_guard_ops,
    /// Passed to the guard.
    pub guard_opaque: *mut c_void,
}

/// What a load has done so far.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_load_stats {
    /// VFIOMIG_LOAD_STATS_INIT sets it.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// Device data written to the driver, including that before restarts, in bytes.
    pub data_bytes: u64,
    /// The whole stream taken, without packets, in bytes.
    pub stream_bytes: u64,
    /// Frames taken; in QEMU's format, pieces of data on the main channel.
    pub frames: u64,
    /// Packets taken.
    pub packets: u64,
    /// Packets that are waiting for their turn or being written at the moment, in bytes, plus 128
    /// bytes for each.
    pub queued_bytes: u64,
    /// How often the source started again.
    pub restarts: u64,
    /// Blobs passed to the callback.
    pub blobs: u64,
    /// Time spent in the driver's writes, in nanoseconds.
    pub write_ns: u64,
    /// Time that the change to RESUMING took, in nanoseconds.
    pub begin_ns: u64,
    /// Time that the driver took to check and accept the state, in nanoseconds.
    pub commit_ns: u64,
    /// The generation of the latest initial data that was loaded: a number to compare with that in
    /// struct vfiomig_pending, which never needs more than 32 bits; 0: none yet.
    pub initial_generation: u64,
}

sized32!(vfiomig_load_options since source, vfiomig_load_stats);

impl vfiomig_load_options {
    /// The callbacks, which the library owns from here on, and the policy that one may be in.
    ///
    /// # Safety
    /// Promises 1 to 3 of C, for both and for the policy.
    pub(super) unsafe fn callbacks(&self) -> (Option<BlobSink>, Option<Decider>, Result<Policy>) {
        // SAFETY: promise 2: the release function can be called with its opaque.
        let blob_opaque = unsafe { Opaque::new(self.blob_opaque, self.blob_release) };
        // Without a function nobody will use the opaque, so it is released at once.
        let blobs = self.blob.map(|call| -> BlobSink {
            Box::new(move |kind, bytes: &[u8]| {
                let (data, len) = (bytes.as_ptr().cast(), bytes.len());
                // SAFETY: promises 2 and 3; there are `len` bytes, which live during the call.
                verdict(unsafe { call(blob_opaque.get(), kind, data, len) })
            })
        });
        // SAFETY: promises 1 to 3.
        let (decide, policy) = unsafe {
            let decide = decider(self.policy, self.policy_opaque, self.policy_release);
            (decide, policy_in(self.compat))
        };
        (blobs, decide, policy)
    }

    /// The policy, with what the options say in short.
    pub(super) fn policy(&self, decide: Option<Decider>, policy: Policy) -> Result<Policy> {
        let ignored = Ignore::from_bits(self.ignore)
            .ok_or_else(|| err!(Inval, "unknown bits among the fields to ignore"))?;
        let policy = policy.ignoring(ignored)?;
        match decide {
            Some(decide) => policy.deciding(decide),
            None => Ok(policy),
        }
    }

    /// What comes with the callbacks.
    ///
    /// # Safety
    /// Promise 1 of C, for the limits that it points to.
    pub(super) unsafe fn to_options(self) -> Result<LoadOptions> {
        let mut out = LoadOptions::default();
        // SAFETY: the caller made the same promise.
        unsafe { vfiomig_limits::read(self.limits) }?.of_load(&mut out);
        if self.reserved != 0 {
            return Err(err!(Inval, "reserved is not zero in the load options"));
        }
        out.format = format(self.format, self.flags & VFIOMIG_LOAD_PACKETS != 0)?;
        let known = match out.format {
            Format::Native => VFIOMIG_LOAD_CHECK_DEVICE_INDEX | VFIOMIG_LOAD_CHECK_MIGRATION_ID,
            Format::Qemu | Format::QemuPackets => VFIOMIG_LOAD_PACKETS,
        };
        let known = known | VFIOMIG_LOAD_NO_GUARD;
        if self.flags & !known != 0 {
            return Err(err!(Inval, "flags in the load options that are unknown in this format"));
        }
        let check = |bit: u32| self.flags & bit != 0;
        out.no_built_in_guard = check(VFIOMIG_LOAD_NO_GUARD);
        out.device_index = check(VFIOMIG_LOAD_CHECK_DEVICE_INDEX).then_some(self.device_index);
        out.migration_id = check(VFIOMIG_LOAD_CHECK_MIGRATION_ID).then_some(self.migration_id);
        let limits = &mut out.limits;
        let fields = [
            (&mut limits.max_frame, self.max_frame),
            (&mut limits.max_blob, self.max_blob),
            (&mut limits.max_blobs, self.max_blobs),
            (&mut limits.max_restarts, self.max_restarts),
            (&mut out.max_ahead, self.max_ahead),
        ];
        for (field, value) in fields {
            *field = choose(value, 0, *field);
        }
        limits.max_total = choose(self.max_total, 0, limits.max_total);
        out.max_queued = choose(self.max_queued, 0, out.max_queued);
        if self.write_timeout_ms != 0 {
            out.write_timeout = Duration::from_millis(u64::from(self.write_timeout_ms));
        }
        Ok(out)
    }
}

/// What a push returns in C.
pub(super) fn bits(status: LoadStatus) -> c_int {
    let bit = |set: bool, bit: c_int| if set { bit } else { VFIOMIG_PUSH_MORE };
    bit(status.restarted, VFIOMIG_PUSH_RESTARTED)
        | bit(status.initial_loaded, VFIOMIG_PUSH_INITIAL_LOADED)
        | bit(status.ended, VFIOMIG_PUSH_END)
        | bit(status.section_ended, VFIOMIG_PUSH_SECTION_END)
        | bit(status.config, VFIOMIG_PUSH_CONFIG)
        | bit(status.config_ready, VFIOMIG_PUSH_CONFIG_READY)
}

impl From<LoadStats> for vfiomig_load_stats {
    fn from(stats: LoadStats) -> Self {
        let LoadStats {
            data_bytes,
            stream_bytes,
            frames,
            packets,
            queued_bytes,
            restarts,
            blobs,
            write_ns,
            begin_ns,
            commit_ns,
            initial_generation,
        } = stats;
        vfiomig_load_stats {
            struct_size: 0,
            reserved: 0,
            data_bytes,
            stream_bytes,
            frames,
            packets,
            queued_bytes,
            restarts,
            blobs,
            write_ns,
            begin_ns,
            commit_ns,
            initial_generation,
        }
    }
}
