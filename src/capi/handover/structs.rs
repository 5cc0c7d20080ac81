// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structures of `vfiomig_handover_*`.

use std::ffi::c_void;

use super::constants::*;
use crate::capi::numbers::flag;
use crate::capi::sized::sized32;
use crate::error::{Result, err};
use crate::handover::{Action, Event, Fence, HandoverOptions, Report, Role};

/// One side of a handover.
pub enum vfiomig_handover {}

/// What both sides agree on before a handover begins.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_handover_options {
    /// VFIOMIG_HANDOVER_OPTIONS_INIT sets it.
    pub struct_size: u32,
    /// VFIOMIG_HANDOVER_ROLE_SOURCE or VFIOMIG_HANDOVER_ROLE_TARGET.
    pub role: u32,
    /// Identifies the migration: the same on both sides, another one for each migration, not zeros.
    pub migration_id: [u8; 16],
    /// Identifies the key that the streams are authenticated with, or zeros. Never the key itself.
    pub key_id: [u8; 16],
    /// Which attempt at this migration this is, from 1. No two have the same number.
    pub attempt: u32,
    /// How many devices the guest has: 1 to VFIOMIG_HANDOVER_MAX_DEVICES.
    pub num_devices: u32,
    /// After how many milliseconds a message without an answer is sent again; default 200.
    pub repeat_ms: u32,
    /// Zero.
    pub reserved: u32,
}

/// What to do next.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_handover_action {
    /// VFIOMIG_HANDOVER_ACTION_INIT sets it.
    pub struct_size: u32,
    /// VFIOMIG_HANDOVER_ACTION_*.
    pub action: u32,
    /// Of VFIOMIG_HANDOVER_ACTION_WAIT: how long, in milliseconds.
    pub wait_ms: u32,
    /// Of VFIOMIG_HANDOVER_ACTION_SEND: how many bytes.
    pub message_len: u32,
    /// ... and where. The memory is the library's, until the next call with this handle.
    pub message: *const c_void,
}

/// Where the guest is, and why.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_handover_outcome {
    /// VFIOMIG_HANDOVER_OUTCOME_INIT sets it.
    pub struct_size: u32,
    /// VFIOMIG_HANDOVER_OUTCOME_*.
    pub outcome: u32,
    /// VFIOMIG_HANDOVER_REASON_*.
    pub reason: u32,
    /// What belongs to the reason; else 0.
    pub code: i32,
    /// Bitwise OR of VFIOMIG_HANDOVER_BY_PEER and VFIOMIG_HANDOVER_SETTLED.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

sized32!(vfiomig_handover_options, vfiomig_handover_action, vfiomig_handover_outcome);

impl vfiomig_handover_options {
    pub(super) fn to_options(self) -> Result<HandoverOptions> {
        if self.reserved != 0 {
            return Err(err!(Inval, "reserved is not zero in the options of a handover"));
        }
        Ok(HandoverOptions {
            role: match self.role {
                VFIOMIG_HANDOVER_ROLE_SOURCE => Role::Source,
                VFIOMIG_HANDOVER_ROLE_TARGET => Role::Target,
                role => return Err(err!(Inval, "there is no role {role} in a handover")),
            },
            migration_id: self.migration_id,
            attempt: self.attempt,
            num_devices: self.num_devices,
            key_id: self.key_id,
            repeat_ms: match self.repeat_ms {
                0 => HandoverOptions::REPEAT_MS,
                ms => ms,
            },
        })
    }
}

/// An event, from what C has of it.
pub(super) fn to_event(number: u32, device: u32, value: i64) -> Result<Event> {
    let code = || {
        i32::try_from(value).map_err(|_| err!(Inval, "a code of {value} does not fit into 32 bits"))
    };
    let generation =
        || u64::try_from(value).map_err(|_| err!(Inval, "there is no generation {value}"));
    Ok(match number {
        VFIOMIG_HANDOVER_EVENT_CONNECTED => Event::Connected,
        VFIOMIG_HANDOVER_EVENT_CUT => Event::Cut,
        VFIOMIG_HANDOVER_EVENT_TICK => Event::Tick,
        VFIOMIG_HANDOVER_EVENT_JUDGED => Event::Judged(code()?),
        VFIOMIG_HANDOVER_EVENT_INITIAL_SENT => Event::InitialSent(device, generation()?),
        VFIOMIG_HANDOVER_EVENT_INITIAL_LOADED => Event::InitialLoaded(device, generation()?),
        VFIOMIG_HANDOVER_EVENT_SWITCHOVER => Event::Switchover,
        VFIOMIG_HANDOVER_EVENT_RESUMED => Event::Resumed,
        VFIOMIG_HANDOVER_EVENT_ENDED => Event::Ended(device),
        VFIOMIG_HANDOVER_EVENT_COMMITTED => Event::Committed,
        VFIOMIG_HANDOVER_EVENT_RELEASED => Event::Released,
        VFIOMIG_HANDOVER_EVENT_KEPT => Event::Kept,
        VFIOMIG_HANDOVER_EVENT_RUNNING => Event::Running,
        VFIOMIG_HANDOVER_EVENT_RESET => Event::Reset,
        VFIOMIG_HANDOVER_EVENT_FAILED => Event::Failed(code()?),
        number => return Err(err!(Inval, "there is no event {number} in a handover")),
    })
}

/// What a fencer knows.
pub(super) fn to_fence(number: u32) -> Result<Fence> {
    match number {
        VFIOMIG_HANDOVER_FENCE_MAY_HAVE_RUN => Ok(Fence::MayHaveRun),
        VFIOMIG_HANDOVER_FENCE_DID_NOT_RUN => Ok(Fence::DidNotRun),
        number => Err(err!(Inval, "a fence cannot be {number}")),
    }
}

impl From<Action<'_>> for vfiomig_handover_action {
    fn from(from: Action<'_>) -> Self {
        let (mut wait_ms, mut message): (u32, &[u8]) = (0, &[]);
        let action = match from {
            Action::Nothing => VFIOMIG_HANDOVER_ACTION_NOTHING,
            Action::Send(bytes) => {
                message = bytes;
                VFIOMIG_HANDOVER_ACTION_SEND
            }
            Action::Wait(ms) => {
                wait_ms = ms;
                VFIOMIG_HANDOVER_ACTION_WAIT
            }
            Action::Judge => VFIOMIG_HANDOVER_ACTION_JUDGE,
            Action::Begin => VFIOMIG_HANDOVER_ACTION_BEGIN,
            Action::Stop => VFIOMIG_HANDOVER_ACTION_STOP,
            Action::Commit => VFIOMIG_HANDOVER_ACTION_COMMIT,
            Action::Release => VFIOMIG_HANDOVER_ACTION_RELEASE,
            Action::Keep => VFIOMIG_HANDOVER_ACTION_KEEP,
            Action::Run => VFIOMIG_HANDOVER_ACTION_RUN,
            Action::Reset => VFIOMIG_HANDOVER_ACTION_RESET,
            Action::Fence => VFIOMIG_HANDOVER_ACTION_FENCE,
            Action::Outcome => VFIOMIG_HANDOVER_ACTION_OUTCOME,
        };
        vfiomig_handover_action {
            struct_size: 0,
            action,
            wait_ms,
            // At most `MAX_MESSAGE`.
            message_len: message.len() as u32,
            message: if message.is_empty() { std::ptr::null() } else { message.as_ptr().cast() },
        }
    }
}

impl From<Report> for vfiomig_handover_outcome {
    fn from(report: Report) -> Self {
        let Report { outcome, reason, code, by_peer, settled } = report;
        vfiomig_handover_outcome {
            struct_size: 0,
            outcome: outcome as u32,
            reason: reason as u32,
            code,
            flags: flag(by_peer, VFIOMIG_HANDOVER_BY_PEER)
                | flag(settled, VFIOMIG_HANDOVER_SETTLED),
            reserved: 0,
        }
    }
}
