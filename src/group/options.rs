// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a group is set up, and what it says of itself.

use std::fmt::Arguments;

use crate::device::{Reason, Severity};
use crate::error::{Error, Result, err};
use crate::session::{LoadOptions, SaveOptions};
use crate::stream::Format;

/// The most devices of one group.
pub const MAX_DEVICES: u32 = 256;

/// Which side of the migration a group is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Role {
    /// Its devices are saved.
    Source = 1,
    /// Its devices are loaded.
    Target = 2,
}

/// How long [`super::Group::work`] helps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Until {
    /// Until [`super::Group::dismiss`].
    Dismissed = 0,
    /// Until there is nothing to do at the moment.
    Idle = 1,
    /// Until [`super::Group::next`] has something to say: a frame to be sent, or that there will be
    /// none.
    Frame = 2,
    /// The source, with channels: until each device has been asked once more, had nothing more to
    /// say, and all was sent. Or until the devices are stopped.
    Drained = 3,
    /// Until all streams are complete, and what the source has read was sent.
    Complete = 4,
}

/// How a group is set up.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// Which side this is.
    pub role: Role,
    /// The name of the migration, for all of its streams. On the source, zeros stand for a random
    /// one; on the target, for any.
    pub migration_id: [u8; 16],
    /// The caller vouches that the devices do not reach each other's memory, so that those without
    /// peer-to-peer states can be migrated together.
    pub no_peer_to_peer: bool,
    /// How much of each device's stream may be on its way, or wait at the target: then its frames may
    /// arrive in any order, and the target says what it has room for. 0: they come in order.
    /// Otherwise [`MIN_WINDOW`] to [`MAX_WINDOW`], and the same on both sides.
    pub window: u64,
}

/// The smallest window, in bytes: two of the longest blobs.
pub const MIN_WINDOW: u64 = 2 << 20;
/// The largest window, in bytes.
pub const MAX_WINDOW: u64 = 1 << 30;

impl GroupOptions {
    /// A group on this side, otherwise as usual.
    pub fn new(role: Role) -> GroupOptions {
        GroupOptions { role, migration_id: [0; 16], no_peer_to_peer: false, window: 0 }
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.window {
            0 | MIN_WINDOW..=MAX_WINDOW => Ok(()),
            window => Err(err!(
                Inval,
                "a window of {window} bytes: {MIN_WINDOW} to {MAX_WINDOW} are allowed, or 0 for none"
            )),
        }
    }
}

/// Where a group is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Phase {
    /// Devices are being added.
    Setup = 0,
    /// The source: the guest runs. The target: it receives.
    Open = 1,
    /// The source: all devices are stopped, and are being read.
    Stopped = 2,
    /// All streams are complete.
    Complete = 3,
    /// A device has failed. The source is to be finished by keeping the devices, the target is to be
    /// abandoned.
    Failed = 4,
    /// The source has kept its devices.
    Kept = 5,
    /// The source has released its devices.
    Released = 6,
    /// All devices of the target have accepted their state.
    Committed = 7,
    /// All devices run.
    Running = 8,
    /// Not all devices could be run, so none runs.
    Halted = 9,
    /// Nothing is left to do.
    Over = 10,
}

impl Phase {
    /// Its name, as in histories.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Setup => "setup",
            Phase::Open => "open",
            Phase::Stopped => "stopped",
            Phase::Complete => "complete",
            Phase::Failed => "failed",
            Phase::Kept => "kept",
            Phase::Released => "released",
            Phase::Committed => "committed",
            Phase::Running => "running",
            Phase::Halted => "halted",
            Phase::Over => "over",
        }
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Phase::Setup => "before the group has begun",
            Phase::Open => "while streams are open",
            Phase::Stopped => "while stopped devices are being read",
            Phase::Complete => "after the end of all streams",
            Phase::Failed => "after a device has failed",
            Phase::Kept => "after the devices were kept",
            Phase::Released => "after the devices were released",
            Phase::Committed => "after the commit",
            Phase::Running => "while the devices run",
            Phase::Halted => "after the devices were halted",
            Phase::Over => "after the end of the group",
        }
    }
}

/// What a group says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupStatus {
    /// Where it is.
    pub phase: Phase,
    /// How many devices it has.
    pub devices: u32,
    /// How many of them have failed.
    pub failed: u32,
    /// How many of their streams are complete.
    pub complete: u32,
    /// How many of the source's running devices had nothing more when they were last asked.
    pub drained: u32,
    /// How many channels it has.
    pub channels: u32,
    /// What the target keeps of frames that were not written yet, in bytes, with 128 bytes for each.
    pub held_bytes: u64,
    /// The name of the migration.
    pub migration_id: [u8; 16],
}

/// A reason why a device of a group cannot migrate, or not well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupReason {
    /// The device's number.
    pub device: u32,
    /// How much it matters in this group, which may be more than for the device by itself.
    pub severity: Severity,
    /// What it is.
    pub reason: Reason,
}

/// What a device's number and the group's name make of the options of a save.
pub(super) fn save_options(
    options: SaveOptions,
    device_index: u32,
    migration_id: [u8; 16],
) -> Result<SaveOptions> {
    check_format(options.format)?;
    Ok(SaveOptions { device_index, migration_id, ..options })
}

/// The same for a load.
pub(super) fn load_options(
    options: LoadOptions,
    device_index: u32,
    migration_id: [u8; 16],
) -> Result<LoadOptions> {
    check_format(options.format)?;
    let migration_id = (migration_id != [0; 16]).then_some(migration_id);
    Ok(LoadOptions { device_index: Some(device_index), migration_id, ..options })
}

fn check_format(format: Format) -> Result<()> {
    match format {
        Format::Native => Ok(()),
        Format::Qemu | Format::QemuPackets => Err(err!(
            Inval,
            "QEMU's format has a protocol of its own for several devices: a group uses the native one"
        )),
    }
}

/// Says in the text of an error whose it is.
pub(super) fn of_device(number: u32, error: &Error) -> Error {
    named(error, format_args!("device {number}: {}", error.message()))
}

/// The same of a channel.
pub(super) fn of_channel(number: usize, error: &Error) -> Error {
    named(error, format_args!("channel {number}: {}", error.message()))
}

fn named(error: &Error, text: Arguments<'_>) -> Error {
    let named = Error::from_args(error.code(), text);
    match error.failure() {
        Some(failure) => named.with_failure(*failure),
        None => named,
    }
}
