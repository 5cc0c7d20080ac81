// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structures of `vfiomig_group_*`.

use std::ffi::c_void;
use std::time::Duration;

use super::constants::*;
use crate::capi::args::BorrowedRawFd;
use crate::capi::callbacks::{Opaque, vfiomig_release_fn};
use crate::capi::sized::{read_in, sized32};
use crate::error::{Errno, Result, err};
use crate::group::{Carrier, ChannelOptions, ChannelStats, GroupOptions, GroupStatus, Role, Until};

/// All devices of one VM, on one side of a migration.
pub enum vfiomig_group {}

/// How a group is set up.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_group_options {
    /// VFIOMIG_GROUP_OPTIONS_INIT sets it.
    pub struct_size: u32,
    /// Bitwise OR of VFIOMIG_GROUP_NO_PEER_TO_PEER, or 0.
    pub flags: u32,
    /// VFIOMIG_GROUP_ROLE_SOURCE or VFIOMIG_GROUP_ROLE_TARGET.
    pub role: u32,
    /// Zero.
    pub reserved: u32,
    /// The name of the migration, which all of its streams have; use a new one for each attempt.
    /// Zeros: on the source, a random one, which vfiomig_group_get_status() returns; on the target,
    /// any.
    pub migration_id: [u8; 16],
    /// How much of each device's stream may be on its way, or wait at the target, in bytes: then frames
    /// may arrive in any order, over any number of connections, and the target sends credits. The same
    /// on both sides: VFIOMIG_GROUP_MIN_WINDOW to VFIOMIG_GROUP_MAX_WINDOW, for example
    /// VFIOMIG_GROUP_GOOD_WINDOW, and twice the longest blob. 0: none; each device's frames arrive in
    /// order.
    pub window: u64,
}

/// Where a group is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_group_status {
    /// VFIOMIG_GROUP_STATUS_INIT sets it.
    pub struct_size: u32,
    /// VFIOMIG_GROUP_PHASE_*.
    pub phase: u32,
    /// How many devices it has.
    pub num_devices: u32,
    /// How many of them have failed: see vfiomig_group_get_failure().
    pub num_failed: u32,
    /// How many streams are complete: read to their end, or loaded.
    pub num_complete: u32,
    /// Zero.
    pub reserved: u32,
    /// The name of the migration.
    pub migration_id: [u8; 16],
    /// What the target keeps of frames that were not written yet, in bytes, with 128 bytes for each.
    pub held_bytes: u64,
    /// Source: how many of the running devices had nothing left when they were last asked.
    pub num_drained: u32,
    /// How many channels it has.
    pub num_channels: u32,
}

/// How a VMM carries a channel's bytes itself, for example through TLS. Neither callback waits; one thread
/// at a time calls either. They are called until they return -EAGAIN, and again when fd is ready.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_channel_ops {
    /// VFIOMIG_CHANNEL_OPS_INIT sets it.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// Sends some of len bytes, and returns how many it has taken; -EAGAIN: none now. Any other -errno
    /// ends the migration.
    pub send:
        Option<unsafe extern "C" fn(opaque: *mut c_void, data: *const c_void, len: usize) -> i64>,
    /// Receives at most cap bytes, and returns how many; 0: the other side has closed the connection;
    /// -EAGAIN: nothing has come. Any other -errno ends the migration.
    pub receive:
        Option<unsafe extern "C" fn(opaque: *mut c_void, buf: *mut c_void, cap: usize) -> i64>,
    /// Releases the opaque, when the group is freed or does not take the channel.
    pub release: vfiomig_release_fn,
}

/// A connection to the other side.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_channel_options {
    /// VFIOMIG_CHANNEL_OPTIONS_INIT sets it.
    pub struct_size: u32,
    /// Zero.
    pub flags: u32,
    /// A connected socket, or, with ops, whatever can be polled for them. The group makes a descriptor of
    /// its own, so you may close this one. It may be blocking or not, and stays so.
    pub fd: i32,
    /// How long a frame that has begun may make no progress, in milliseconds. 0: 60000; UINT32_MAX: as
    /// long as it likes.
    pub timeout_ms: u32,
    /// Carries the bytes in place of fd; NULL: fd does. It is copied.
    pub ops: *const vfiomig_channel_ops,
    /// Passed to the callbacks of ops.
    pub ops_opaque: *mut c_void,
}

/// What a channel has done so far.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_channel_stats {
    /// VFIOMIG_CHANNEL_STATS_INIT sets it.
    pub struct_size: u32,
    /// 1: the other side has closed it.
    pub closed: u32,
    /// Bytes sent, with headers and credits.
    pub sent_bytes: u64,
    /// Frames and credits sent.
    pub sent_frames: u64,
    /// Bytes received, with headers and credits.
    pub received_bytes: u64,
    /// Frames and credits received.
    pub received_frames: u64,
    /// How often a frame had to wait because the connection took nothing more.
    pub blocked: u64,
}

sized32!(
    vfiomig_group_options,
    vfiomig_group_status,
    vfiomig_channel_ops,
    vfiomig_channel_options,
    vfiomig_channel_stats
);

/// A VMM's callbacks for a channel.
struct Callbacks {
    send: unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> i64,
    receive: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> i64,
    opaque: Opaque,
}

impl Callbacks {
    /// # Safety
    /// NULL, or a table as vfiomig.h describes it, and the opaque that belongs to it.
    unsafe fn read(
        ops: *const vfiomig_channel_ops,
        opaque: *mut c_void,
    ) -> Result<Option<Callbacks>> {
        if ops.is_null() {
            return Ok(None);
        }
        // SAFETY: promise 1: a structure of the size that it claims.
        let (ops, tail) = unsafe { read_in(ops, "ops") }?;
        // SAFETY: promise 2.
        let opaque = unsafe { Opaque::new(opaque, ops.release) };
        tail.check()?;
        if ops.reserved != 0 {
            return Err(err!(Inval, "reserved is not zero in the channel's ops"));
        }
        let (Some(send), Some(receive)) = (ops.send, ops.receive) else {
            return Err(err!(Fault, "send or receive of the channel's ops is NULL"));
        };
        Ok(Some(Callbacks { send, receive, opaque }))
    }
}

/// What one of them returned.
fn moved(ret: i64) -> std::result::Result<usize, Errno> {
    match usize::try_from(ret) {
        Ok(len) => Ok(len),
        Err(_) => Err(Errno(i32::try_from(ret.saturating_neg()).unwrap_or(libc::EIO))),
    }
}

impl Carrier for Callbacks {
    fn send(&mut self, bytes: &[u8]) -> std::result::Result<usize, Errno> {
        // SAFETY: promises 2 and 3; the bytes can be read during the call.
        moved(unsafe { (self.send)(self.opaque.get(), bytes.as_ptr().cast(), bytes.len()) })
    }

    fn receive(&mut self, buf: &mut [u8]) -> std::result::Result<usize, Errno> {
        // SAFETY: promises 2 and 3; the bytes can be written to during the call.
        moved(unsafe { (self.receive)(self.opaque.get(), buf.as_mut_ptr().cast(), buf.len()) })
    }
}

/// Reads how a channel is set up. The library owns the opaque from here on, even if it refuses.
///
/// # Safety
/// NULL, or a structure as vfiomig.h describes it.
pub(super) unsafe fn read_channel(
    from: *const vfiomig_channel_options,
) -> Result<(BorrowedRawFd, ChannelOptions)> {
    // SAFETY: promise 1: a structure of the size that it claims.
    let (options, tail) = unsafe { read_in(from, "options") }?;
    // SAFETY: promises 1 to 3, about the table and what stands beside it.
    let ops = unsafe { Callbacks::read(options.ops, options.ops_opaque) }?;
    tail.check()?;
    if options.flags != 0 {
        return Err(err!(Inval, "unknown flags in the channel options"));
    }
    let carrier = ops.map(|ops| Box::new(ops) as Box<dyn Carrier>);
    let timeout = match options.timeout_ms {
        0 => ChannelOptions::default().timeout,
        u32::MAX => None,
        ms => Some(Duration::from_millis(ms.into())),
    };
    if options.fd < 0 {
        return Err(err!(Inval, "a channel needs a file descriptor"));
    }
    // SAFETY: promise 4: an open descriptor, or one that is refused.
    let fd = unsafe { BorrowedRawFd::new(options.fd) };
    Ok((fd, ChannelOptions { carrier, timeout }))
}

impl From<ChannelStats> for vfiomig_channel_stats {
    fn from(stats: ChannelStats) -> Self {
        vfiomig_channel_stats {
            struct_size: 0,
            closed: stats.closed.into(),
            sent_bytes: stats.sent_bytes,
            sent_frames: stats.sent_frames,
            received_bytes: stats.received_bytes,
            received_frames: stats.received_frames,
            blocked: stats.blocked,
        }
    }
}

impl vfiomig_group_options {
    pub(super) fn to_options(self) -> Result<GroupOptions> {
        if self.flags & !VFIOMIG_GROUP_NO_PEER_TO_PEER != 0 || self.reserved != 0 {
            return Err(err!(Inval, "unknown flags in the group options, or reserved is not zero"));
        }
        let role = match self.role {
            VFIOMIG_GROUP_ROLE_SOURCE => Role::Source,
            VFIOMIG_GROUP_ROLE_TARGET => Role::Target,
            other => return Err(err!(Inval, "there is no role {other}")),
        };
        Ok(GroupOptions {
            role,
            migration_id: self.migration_id,
            window: self.window,
            no_peer_to_peer: self.flags & VFIOMIG_GROUP_NO_PEER_TO_PEER != 0,
        })
    }
}

/// How long a thread is lent.
pub(super) fn until(until: u32) -> Result<Until> {
    match until {
        VFIOMIG_GROUP_UNTIL_DISMISSED => Ok(Until::Dismissed),
        VFIOMIG_GROUP_UNTIL_IDLE => Ok(Until::Idle),
        VFIOMIG_GROUP_UNTIL_FRAME => Ok(Until::Frame),
        VFIOMIG_GROUP_UNTIL_DRAINED => Ok(Until::Drained),
        VFIOMIG_GROUP_UNTIL_COMPLETE => Ok(Until::Complete),
        other => Err(err!(Inval, "there is no VFIOMIG_GROUP_UNTIL_* with the number {other}")),
    }
}

impl From<GroupStatus> for vfiomig_group_status {
    fn from(status: GroupStatus) -> Self {
        vfiomig_group_status {
            struct_size: 0,
            phase: status.phase as u32,
            num_devices: status.devices,
            num_failed: status.failed,
            num_complete: status.complete,
            reserved: 0,
            migration_id: status.migration_id,
            held_bytes: status.held_bytes,
            num_drained: status.drained,
            num_channels: status.channels,
        }
    }
}
