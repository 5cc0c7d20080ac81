// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structures of `vfiomig_group_*`.

use super::constants::*;
use crate::capi::sized::sized32;
use crate::error::{Result, err};
use crate::group::{GroupOptions, GroupStatus, Role, Until};

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
}

sized32!(vfiomig_group_options, vfiomig_group_status);

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
        }
    }
}
