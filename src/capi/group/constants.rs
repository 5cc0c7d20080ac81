// SPDX-License-Identifier: MIT OR Apache-2.0
//! The constants of `vfiomig_group_*`.

use crate::capi::numbers::same_numbers;
use crate::group::{self, Phase, Role, Until};

/// The devices are saved.
pub const VFIOMIG_GROUP_ROLE_SOURCE: u32 = 1;
/// The devices are loaded.
pub const VFIOMIG_GROUP_ROLE_TARGET: u32 = 2;

/// You vouch that the devices do not reach each other's memory. Without this, devices without
/// peer-to-peer states are not migrated together with others.
pub const VFIOMIG_GROUP_NO_PEER_TO_PEER: u32 = 1 << 0;

/// Devices are being added.
pub const VFIOMIG_GROUP_PHASE_SETUP: u32 = 0;
/// The source: the guest runs. The target: it receives.
pub const VFIOMIG_GROUP_PHASE_OPEN: u32 = 1;
/// The source: all devices are stopped, and are being read.
pub const VFIOMIG_GROUP_PHASE_STOPPED: u32 = 2;
/// All streams are complete.
pub const VFIOMIG_GROUP_PHASE_COMPLETE: u32 = 3;
/// A device has failed. Finish the source by keeping the devices, abandon the target.
pub const VFIOMIG_GROUP_PHASE_FAILED: u32 = 4;
/// The source has kept its devices.
pub const VFIOMIG_GROUP_PHASE_KEPT: u32 = 5;
/// The source has released its devices.
pub const VFIOMIG_GROUP_PHASE_RELEASED: u32 = 6;
/// All devices of the target have accepted their state.
pub const VFIOMIG_GROUP_PHASE_COMMITTED: u32 = 7;
/// All devices run.
pub const VFIOMIG_GROUP_PHASE_RUNNING: u32 = 8;
/// Not all devices could be run, so none runs.
pub const VFIOMIG_GROUP_PHASE_HALTED: u32 = 9;
/// Only freeing is left.
pub const VFIOMIG_GROUP_PHASE_OVER: u32 = 10;

/// vfiomig_group_work() helps until vfiomig_group_dismiss().
pub const VFIOMIG_GROUP_UNTIL_DISMISSED: u32 = 0;
/// vfiomig_group_work() helps with what there is to do now.
pub const VFIOMIG_GROUP_UNTIL_IDLE: u32 = 1;
/// vfiomig_group_work() helps until vfiomig_group_next() has something to return other than -EAGAIN, or
/// VFIOMIG_NEXT_DRAINED on the target.
pub const VFIOMIG_GROUP_UNTIL_FRAME: u32 = 2;
/// Source, with channels: vfiomig_group_work() helps until each running device has been asked once more,
/// has nothing left for now, and all of it was sent; or until vfiomig_group_stop().
pub const VFIOMIG_GROUP_UNTIL_DRAINED: u32 = 3;
/// vfiomig_group_work() helps until all streams are complete and, with channels, what the source has read
/// was sent.
pub const VFIOMIG_GROUP_UNTIL_COMPLETE: u32 = 4;

/// How a frame begins, in bytes: what vfiomig_group_get_frame_len() needs.
pub const VFIOMIG_GROUP_HEADER: u32 = 32;
/// The longest frame, in bytes. One is never longer than the buffer that it was read into.
pub const VFIOMIG_GROUP_MAX_FRAME: u32 = 16777248;
/// A good size for the buffer of vfiomig_group_next(), in bytes.
pub const VFIOMIG_GROUP_GOOD_BUFFER: u32 = 131104;
/// The smallest window, in bytes.
pub const VFIOMIG_GROUP_MIN_WINDOW: u32 = 2 << 20;
/// A good size for a window, in bytes: what a device is written in a few milliseconds.
pub const VFIOMIG_GROUP_GOOD_WINDOW: u32 = 8 << 20;
/// The largest window, in bytes.
pub const VFIOMIG_GROUP_MAX_WINDOW: u32 = 1 << 30;
/// The most channels of one group.
pub const VFIOMIG_GROUP_MAX_CHANNELS: u32 = 64;
/// The most devices of one group.
pub const VFIOMIG_GROUP_MAX_DEVICES: u32 = 256;

same_numbers!(
    VFIOMIG_GROUP_HEADER = group::HEADER_LEN,
    VFIOMIG_GROUP_MAX_FRAME = group::HEADER_LEN + group::MAX_PIECE,
    VFIOMIG_GROUP_GOOD_BUFFER = group::HEADER_LEN + (128 << 10),
    VFIOMIG_GROUP_MIN_WINDOW = group::MIN_WINDOW,
    VFIOMIG_GROUP_MAX_WINDOW = group::MAX_WINDOW,
    VFIOMIG_GROUP_MAX_CHANNELS = group::MAX_CHANNELS,
    VFIOMIG_GROUP_MAX_DEVICES = group::MAX_DEVICES,
);
same_numbers!(Role:
    VFIOMIG_GROUP_ROLE_SOURCE = Source,
    VFIOMIG_GROUP_ROLE_TARGET = Target,
);
same_numbers!(Phase:
    VFIOMIG_GROUP_PHASE_SETUP = Setup,
    VFIOMIG_GROUP_PHASE_OPEN = Open,
    VFIOMIG_GROUP_PHASE_STOPPED = Stopped,
    VFIOMIG_GROUP_PHASE_COMPLETE = Complete,
    VFIOMIG_GROUP_PHASE_FAILED = Failed,
    VFIOMIG_GROUP_PHASE_KEPT = Kept,
    VFIOMIG_GROUP_PHASE_RELEASED = Released,
    VFIOMIG_GROUP_PHASE_COMMITTED = Committed,
    VFIOMIG_GROUP_PHASE_RUNNING = Running,
    VFIOMIG_GROUP_PHASE_HALTED = Halted,
    VFIOMIG_GROUP_PHASE_OVER = Over,
);
same_numbers!(Until:
    VFIOMIG_GROUP_UNTIL_DISMISSED = Dismissed,
    VFIOMIG_GROUP_UNTIL_IDLE = Idle,
    VFIOMIG_GROUP_UNTIL_FRAME = Frame,
    VFIOMIG_GROUP_UNTIL_DRAINED = Drained,
    VFIOMIG_GROUP_UNTIL_COMPLETE = Complete,
);
