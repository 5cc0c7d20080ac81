// SPDX-License-Identifier: MIT OR Apache-2.0
//! The constants of `vfiomig_save_*`.

use crate::capi::numbers::same_numbers;
use crate::session::{DEFAULT_FRAME, MIN_BUFFER, SaveStatus};
use crate::stream::HEADER_LEN;
use crate::stream::qemu;

/// Send what there is and call again.
pub const VFIOMIG_NEXT_MORE: i32 = 0;
/// The device runs and has nothing to send now. In QEMU's format also: the stopped device's data is
/// complete, and the configuration comes next.
pub const VFIOMIG_NEXT_DRAINED: i32 = 1;
/// The stream is complete.
pub const VFIOMIG_NEXT_END: i32 = 2;

/// The smallest buffer that vfiomig_save_next() accepts, in bytes.
pub const VFIOMIG_MIN_BUFFER: u32 = 4096;
/// A good size for the buffer of vfiomig_save_next(), in bytes: it holds one full frame. Larger
/// buffers hold several.
pub const VFIOMIG_GOOD_BUFFER: u32 = 128 << 10;
/// A size for the buffer of vfiomig_save_next() in QEMU's format, in bytes: it holds a full piece of
/// data of 1 MiB, with its header and a tag.
pub const VFIOMIG_QEMU_BUFFER: u32 = (1 << 20) + 24;

/// Reads return -EAGAIN instead of blocking, if the driver supports that.
pub const VFIOMIG_SAVE_NONBLOCK: u32 = 1 << 0;
/// Leaves out pre-copy even if the device has it.
pub const VFIOMIG_SAVE_NO_PRE_COPY: u32 = 1 << 1;
/// QEMU's format: the stream says when all initial data has been sent, and again after the device
/// has started it again. For migrations with the capability switchover-ack.
pub const VFIOMIG_SAVE_SWITCHOVER_ACK: u32 = 1 << 2;
/// QEMU's format: what the stopped device returns comes as packets. For multifd device-state
/// transfer.
pub const VFIOMIG_SAVE_PACKETS: u32 = 1 << 3;
/// QEMU's format, with VFIOMIG_SAVE_SWITCHOVER_ACK: the stream says it only once, whatever the
/// device does. For a target that is older than QEMU 11.1 or has switchover-ack-legacy=on, which
/// fails if it comes twice.
pub const VFIOMIG_SAVE_ACK_ONCE: u32 = 1 << 4;
/// Devices of the RFC's protocol: all of the memory is read before its changes are logged, as the
/// protocol's letter has it; for drivers that rely on that. What a driver does not count as changed
/// in between is lost. Has no effect on other devices.
pub const VFIOMIG_SAVE_FULL_BEFORE_LOGGING: u32 = 1 << 5;

/// initial_bytes and dirty_bytes are valid.
pub const VFIOMIG_PENDING_PRE_COPY_KNOWN: u32 = 1 << 0;
/// stop_copy_bytes is valid.
pub const VFIOMIG_PENDING_STOP_COPY_KNOWN: u32 = 1 << 1;
/// The caller has been given the mark that all initial data of this generation was sent. Never set
/// if the stream has no such mark: in QEMU's format without VFIOMIG_SAVE_SWITCHOVER_ACK.
pub const VFIOMIG_PENDING_INITIAL_SENT: u32 = 1 << 2;

/// The target has committed: the device stays in STOP.
pub const VFIOMIG_ENDING_RELEASE: u32 = 1;
/// The guest goes on here: the device goes back to the state it was in before the save.
pub const VFIOMIG_ENDING_KEEP: u32 = 2;
/// Like VFIOMIG_ENDING_KEEP, but without peer-to-peer DMA if the device has such a state: for
/// several devices, none of which may run before all have left the stopped states. Then call
/// vfiomig_device_run() for each. The library helps with this. Once a vfiomig_save_quiesce() or
/// vfiomig_save_stop() is not refused, a device that fails waits in RUNNING_P2P for its ending.
pub const VFIOMIG_ENDING_KEEP_QUIESCED: u32 = 3;
/// Like VFIOMIG_ENDING_KEEP, for a guest that does not run: the device goes to STOP.
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
