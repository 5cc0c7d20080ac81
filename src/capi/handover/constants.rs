// SPDX-License-Identifier: MIT OR Apache-2.0
//! The constants of `vfiomig_handover_*`.

use crate::capi::compat::VFIOMIG_IDENTITY_BYTES;
use crate::capi::numbers::same_numbers;
use crate::handover::{self, Fence, Outcome, Reason, Role};

/// The guest leaves this side.
pub const VFIOMIG_HANDOVER_ROLE_SOURCE: u32 = 1;
/// The guest arrives at this side.
pub const VFIOMIG_HANDOVER_ROLE_TARGET: u32 = 2;

/// There is a connection to the other side, the first one or another one.
pub const VFIOMIG_HANDOVER_EVENT_CONNECTED: u32 = 1;
/// The connection is gone, or the other side has been silent for too long.
pub const VFIOMIG_HANDOVER_EVENT_CUT: u32 = 2;
/// wait_ms of VFIOMIG_HANDOVER_ACTION_WAIT have passed.
pub const VFIOMIG_HANDOVER_EVENT_TICK: u32 = 3;
/// Target: the devices were compared; value is 0 if they match, or a code that says why not.
pub const VFIOMIG_HANDOVER_EVENT_JUDGED: u32 = 4;
/// Source: generation value of the device's initial data must be loaded before the switchover; 0
/// for none.
pub const VFIOMIG_HANDOVER_EVENT_INITIAL_SENT: u32 = 5;
/// Target: generation value of the device's initial data is loaded.
pub const VFIOMIG_HANDOVER_EVENT_INITIAL_LOADED: u32 = 6;
/// Source: the guest could be stopped now.
pub const VFIOMIG_HANDOVER_EVENT_SWITCHOVER: u32 = 7;
/// Source: the switchover is off, and pre-copy goes on.
pub const VFIOMIG_HANDOVER_EVENT_RESUMED: u32 = 8;
/// The device's stream is complete: sent, or received. Before the last one, so is the guest's memory.
pub const VFIOMIG_HANDOVER_EVENT_ENDED: u32 = 9;
/// Target: every device was committed.
pub const VFIOMIG_HANDOVER_EVENT_COMMITTED: u32 = 10;
/// Source: the guest is given up here.
pub const VFIOMIG_HANDOVER_EVENT_RELEASED: u32 = 11;
/// Source: the devices were kept, and the guest runs here.
pub const VFIOMIG_HANDOVER_EVENT_KEPT: u32 = 12;
/// The guest runs here, as VFIOMIG_HANDOVER_ACTION_RUN asked.
pub const VFIOMIG_HANDOVER_EVENT_RUNNING: u32 = 13;
/// Target: the loads were abandoned and the devices reset.
pub const VFIOMIG_HANDOVER_EVENT_RESET: u32 = 14;
/// What an action asked for failed, or something else did; value is a code, such as -errno.
pub const VFIOMIG_HANDOVER_EVENT_FAILED: u32 = 15;

/// Nothing now: report the next event.
pub const VFIOMIG_HANDOVER_ACTION_NOTHING: u32 = 0;
/// Send the message_len bytes at message, as one message.
pub const VFIOMIG_HANDOVER_ACTION_SEND: u32 = 1;
/// Report VFIOMIG_HANDOVER_EVENT_TICK after wait_ms. It replaces an earlier wait.
pub const VFIOMIG_HANDOVER_ACTION_WAIT: u32 = 2;
/// Target: compare the devices: VFIOMIG_HANDOVER_EVENT_JUDGED.
pub const VFIOMIG_HANDOVER_ACTION_JUDGE: u32 = 3;
/// Begin the saves, or the loads.
pub const VFIOMIG_HANDOVER_ACTION_BEGIN: u32 = 4;
/// Source: stop the guest and its devices, and send the rest: VFIOMIG_HANDOVER_EVENT_ENDED.
pub const VFIOMIG_HANDOVER_ACTION_STOP: u32 = 5;
/// Target: commit every device: VFIOMIG_HANDOVER_EVENT_COMMITTED.
pub const VFIOMIG_HANDOVER_ACTION_COMMIT: u32 = 6;
/// Source: release every device: VFIOMIG_HANDOVER_EVENT_RELEASED.
pub const VFIOMIG_HANDOVER_ACTION_RELEASE: u32 = 7;
/// Source: keep every device and run the guest: VFIOMIG_HANDOVER_EVENT_KEPT.
pub const VFIOMIG_HANDOVER_ACTION_KEEP: u32 = 8;
/// Run the devices and the guest: VFIOMIG_HANDOVER_EVENT_RUNNING.
pub const VFIOMIG_HANDOVER_ACTION_RUN: u32 = 9;
/// Target: free the loads, and stop or reset every device: VFIOMIG_HANDOVER_EVENT_RESET.
pub const VFIOMIG_HANDOVER_ACTION_RESET: u32 = 10;
/// The guest may be on either side: connect again, or fence the other side.
pub const VFIOMIG_HANDOVER_ACTION_FENCE: u32 = 11;
/// The outcome is final: vfiomig_handover_get_outcome() has it. Comes once.
pub const VFIOMIG_HANDOVER_ACTION_OUTCOME: u32 = 12;

/// Not over: until it is, the source owns the guest.
pub const VFIOMIG_HANDOVER_OUTCOME_PENDING: u32 = 0;
/// The guest runs on the target.
pub const VFIOMIG_HANDOVER_OUTCOME_ON_TARGET: u32 = 1;
/// The guest is the source's.
pub const VFIOMIG_HANDOVER_OUTCOME_ON_SOURCE: u32 = 2;
/// The guest runs nowhere, and cannot go on where it was.
pub const VFIOMIG_HANDOVER_OUTCOME_LOST: u32 = 3;
/// The guest may be on either side. Not final.
pub const VFIOMIG_HANDOVER_OUTCOME_UNDECIDED: u32 = 4;

/// Nothing went wrong.
pub const VFIOMIG_HANDOVER_REASON_NONE: u32 = 0;
/// The migration was cancelled.
pub const VFIOMIG_HANDOVER_REASON_CANCELLED: u32 = 1;
/// Something failed: code is what VFIOMIG_HANDOVER_EVENT_FAILED brought.
pub const VFIOMIG_HANDOVER_REASON_FAILED: u32 = 2;
/// The devices do not match: code is what VFIOMIG_HANDOVER_EVENT_JUDGED brought.
pub const VFIOMIG_HANDOVER_REASON_INCOMPATIBLE: u32 = 3;
/// The two sides have different keys.
pub const VFIOMIG_HANDOVER_REASON_OTHER_KEY: u32 = 4;
/// The two sides have different numbers of devices.
pub const VFIOMIG_HANDOVER_REASON_OTHER_DEVICES: u32 = 5;
/// The source has begun another attempt.
pub const VFIOMIG_HANDOVER_REASON_SUPERSEDED: u32 = 6;
/// The other side was fenced.
pub const VFIOMIG_HANDOVER_REASON_FENCED: u32 = 7;
/// The other side was fenced, and may have run the guest before: what this side has of it is old.
pub const VFIOMIG_HANDOVER_REASON_MAY_HAVE_RUN: u32 = 8;
/// The guest cannot be run here: code is what VFIOMIG_HANDOVER_EVENT_FAILED brought. On a target it
/// may still be running.
pub const VFIOMIG_HANDOVER_REASON_STUCK: u32 = 9;
/// The connection broke at a moment when the guest may be on either side.
pub const VFIOMIG_HANDOVER_REASON_CUT: u32 = 10;

/// The reason is the other side's.
pub const VFIOMIG_HANDOVER_BY_PEER: u32 = 1 << 0;
/// The other side knows the outcome too, so nothing is left to be sent.
pub const VFIOMIG_HANDOVER_SETTLED: u32 = 1 << 1;

/// The guest may have run there after it was stopped on the source.
pub const VFIOMIG_HANDOVER_FENCE_MAY_HAVE_RUN: u32 = 0;
/// The guest certainly has not run there since it was stopped on the source.
pub const VFIOMIG_HANDOVER_FENCE_DID_NOT_RUN: u32 = 1;

/// How a message begins, in bytes: what vfiomig_handover_get_message_len() needs.
pub const VFIOMIG_HANDOVER_HEADER: u32 = 36;
/// The longest message, in bytes.
pub const VFIOMIG_HANDOVER_MAX_MESSAGE: u32 = 65536;
/// The longest description of a device, in bytes: any that
/// vfiomig_identity_export() makes fits.
pub const VFIOMIG_HANDOVER_MAX_IDENTITY: u32 = 8192;
const _: () = assert!(VFIOMIG_IDENTITY_BYTES <= VFIOMIG_HANDOVER_MAX_IDENTITY);
/// The most devices of one guest.
pub const VFIOMIG_HANDOVER_MAX_DEVICES: u32 = 256;

same_numbers!(
    VFIOMIG_HANDOVER_HEADER = handover::HEADER_LEN,
    VFIOMIG_HANDOVER_MAX_MESSAGE = handover::MAX_MESSAGE,
    VFIOMIG_HANDOVER_MAX_IDENTITY = handover::MAX_IDENTITY,
    VFIOMIG_HANDOVER_MAX_DEVICES = handover::MAX_DEVICES,
);
same_numbers!(Role:
    VFIOMIG_HANDOVER_ROLE_SOURCE = Source,
    VFIOMIG_HANDOVER_ROLE_TARGET = Target,
);
same_numbers!(Fence:
    VFIOMIG_HANDOVER_FENCE_MAY_HAVE_RUN = MayHaveRun,
    VFIOMIG_HANDOVER_FENCE_DID_NOT_RUN = DidNotRun,
);
same_numbers!(Outcome:
    VFIOMIG_HANDOVER_OUTCOME_PENDING = Pending,
    VFIOMIG_HANDOVER_OUTCOME_ON_TARGET = OnTarget,
    VFIOMIG_HANDOVER_OUTCOME_ON_SOURCE = OnSource,
    VFIOMIG_HANDOVER_OUTCOME_LOST = Lost,
    VFIOMIG_HANDOVER_OUTCOME_UNDECIDED = Undecided,
);
same_numbers!(Reason:
    VFIOMIG_HANDOVER_REASON_NONE = None,
    VFIOMIG_HANDOVER_REASON_CANCELLED = Cancelled,
    VFIOMIG_HANDOVER_REASON_FAILED = Failed,
    VFIOMIG_HANDOVER_REASON_INCOMPATIBLE = Incompatible,
    VFIOMIG_HANDOVER_REASON_OTHER_KEY = OtherKey,
    VFIOMIG_HANDOVER_REASON_OTHER_DEVICES = OtherDevices,
    VFIOMIG_HANDOVER_REASON_SUPERSEDED = Superseded,
    VFIOMIG_HANDOVER_REASON_FENCED = Fenced,
    VFIOMIG_HANDOVER_REASON_MAY_HAVE_RUN = MayHaveRun,
    VFIOMIG_HANDOVER_REASON_STUCK = Stuck,
    VFIOMIG_HANDOVER_REASON_CUT = Cut,
);
