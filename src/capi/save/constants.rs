// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers of `vfiomig_save_*`.

use crate::capi::numbers::same_numbers;
use crate::session::{DEFAULT_FRAME, MIN_BUFFER, SaveStatus};
use crate::stream::HEADER_LEN;
use crate::stream::qemu;

/// Send what there is and call again.
pub const VFIOMIG_NEXT_MORE: i32 = 0;
/// The device runs and has nothing to send now. In QEMU's format also: the stopped device's data is
/// complete, and the configuration is wanted.
pub const VFIOMIG_NEXT_DRAINED: i32 = 1;
/// The stream is complete.
pub const VFIOMIG_NEXT_END: i32 = 2;

/// The smallest buffer that vfiomig_save_next() takes, in bytes.
pub const VFIOMIG_MIN_BUFFER: u32 = 4096;
/// A good size of the buffer for vfiomig_save_next(), in bytes: one full frame. Larger ones hold
/// several.
pub const VFIOMIG_GOOD_BUFFER: u32 = 128 << 10;
/// The same in QEMU's format: one full piece of data of 1 MiB with its head and a tag.
pub const VFIOMIG_QEMU_BUFFER: u32 = (1 << 20) + 24;

/// Reads return -EAGAIN instead of blocking, where the driver can do that.
pub const VFIOMIG_SAVE_NONBLOCK: u32 = 1 << 0;
/// Leaves out pre-copy even where the device has it.
pub const VFIOMIG_SAVE_NO_PRE_COPY: u32 = 1 << 1;
/// QEMU's format: says in the stream when all initial data has been sent, and again when the device
/// has begun it again. For a migration with the capability switchover-ack.
pub const VFIOMIG_SAVE_SWITCHOVER_ACK: u32 = 1 << 2;
/// QEMU's format: what the stopped device gives comes as packets. For multifd device-state
/// transfer.
pub const VFIOMIG_SAVE_PACKETS: u32 = 1 << 3;
/// QEMU's format, with VFIOMIG_SAVE_SWITCHOVER_ACK: says it once, whatever the device does. For a
/// target older than QEMU 11.1 or with switchover-ack-legacy=on, which fails on a second one.
pub const VFIOMIG_SAVE_ACK_ONCE: u32 = 1 << 4;

/// initial_bytes and dirty_bytes are there.
pub const VFIOMIG_PENDING_PRE_COPY_KNOWN: u32 = 1 << 0;
/// stop_copy_bytes is there.
pub const VFIOMIG_PENDING_STOP_COPY_KNOWN: u32 = 1 << 1;
/// The mark that all initial data of this generation was sent has been returned to the caller. Never
/// set where the stream has no such mark: QEMU's format without VFIOMIG_SAVE_SWITCHOVER_ACK.
pub const VFIOMIG_PENDING_INITIAL_SENT: u32 = 1 << 2;

/// The target has committed: the device stays in STOP.
pub const VFIOMIG_ENDING_RELEASE: u32 = 1;
/// The guest goes on here: the device goes back to where it was before the save.
pub const VFIOMIG_ENDING_KEEP: u32 = 2;
/// As VFIOMIG_ENDING_KEEP, but without peer-to-peer DMA where the device has such a state: for several
/// devices, of which none may run before all have left the stopped states. Then call
/// vfiomig_device_run() for each.
pub const VFIOMIG_ENDING_KEEP_QUIESCED: u32 = 3;
/// As VFIOMIG_ENDING_KEEP, for a guest that does not run: the device goes to STOP.
pub const VFIOMIG_ENDING_KEEP_STOPPED: u32 = 4;

same_numbers!(SaveStatus:
    VFIOMIG_NEXT_MORE = More,
    VFIOMIG_NEXT_DRAINED = Drained,
    VFIOMIG_NEXT_END = End,
);
same_numbers!(
    VFIOMIG_MIN_BUFFER = MIN_BUFFER,
    VFIOMIG_GOOD_BUFFER = DEFAULT_FRAME as usize + HEADER_LEN,
    VFIOMIG_QEMU_BUFFER = qemu::PIECE as usize + qemu::DATA_HEAD + qemu::TAG_LEN,
);
