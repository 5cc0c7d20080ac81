// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes into a handover and what comes out of it: options, events, actions, outcomes.

use crate::error::{Result, err};

/// Which side of the migration this is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Role {
    /// The guest leaves this side.
    Source = 1,
    /// The guest arrives at this side.
    Target = 2,
}

/// The most devices of one guest.
pub const MAX_DEVICES: u32 = 256;

/// What both sides of a handover agree on before it begins.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HandoverOptions {
    /// Which side this is.
    pub role: Role,
    /// Identifies the migration; the same on both sides, and different for each migration.
    pub migration_id: [u8; 16],
    /// Which attempt at this migration this is, from 1. No two have the same number.
    pub attempt: u32,
    /// How many devices the guest has: 1 to [`MAX_DEVICES`].
    pub num_devices: u32,
    /// Identifies the key that the streams are authenticated with; zeros for none.
    pub key_id: [u8; 16],
    /// After how many milliseconds a message without an answer is sent again; at least 1.
    pub repeat_ms: u32,
}

impl HandoverOptions {
    /// How often messages are repeated unless the options say otherwise, in milliseconds. A lost
    /// message costs this much downtime at most; five small messages a second cost nothing.
    pub const REPEAT_MS: u32 = 200;

    pub(super) fn check(&self) -> Result<()> {
        if self.migration_id == [0; 16] {
            return Err(err!(
                Inval,
                "the migration id is zero: old messages would be taken for new"
            ));
        }
        if self.attempt == 0 {
            return Err(err!(Inval, "attempts are numbered from 1"));
        }
        if self.num_devices == 0 || self.num_devices > MAX_DEVICES {
            return Err(err!(
                Inval,
                "{} devices; 1 to {MAX_DEVICES} are allowed",
                self.num_devices
            ));
        }
        if self.repeat_ms == 0 {
            return Err(err!(Inval, "messages cannot be repeated every 0 milliseconds"));
        }
        Ok(())
    }
}

/// What the VMM tells the machine. Devices are numbered from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// There is a connection to the other side, the first one or another one.
    Connected,
    /// The connection is gone, or the other side has been silent for too long.
    Cut,
    /// The time that [`Action::Wait`] named has passed.
    Tick,
    /// Target: the source's devices were compared with those here: 0 if they match, or a code that
    /// says why not.
    Judged(i32),
    /// Source: this generation of a device's initial data must be loaded before the switchover; 0
    /// for none.
    InitialSent(u32, u64),
    /// Target: this generation of a device's initial data is loaded.
    InitialLoaded(u32, u64),
    /// Source: the guest could be stopped now.
    Switchover,
    /// Source: the switchover is off; pre-copy goes on.
    Resumed,
    /// A device's stream is complete: sent on the source, received on the target. Before the last one
    /// is reported, so is the guest's memory.
    Ended(u32),
    /// Target: every device was committed.
    Committed,
    /// Source: the guest is given up here.
    Released,
    /// Source: the devices were kept, and the guest runs here.
    Kept,
    /// The guest runs here, as [`Action::Run`] asked.
    Running,
    /// Target: the loads were abandoned and the devices reset.
    Reset,
    /// What an action asked for failed, or something else did before the guest was given up or run.
    Failed(i32),
}

/// What the caller knows about a peer that it has fenced: one that does not run the guest, and never
/// will, because it was switched off or cut from the guest's memory and disks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Fence {
    /// The guest may have run there after it was stopped on the source. What it has written since
    /// then, this side does not know.
    MayHaveRun = 0,
    /// The guest certainly has not run there since it was stopped on the source.
    DidNotRun = 1,
}

/// What the VMM is asked to do. It carries actions out in the order in which it gets them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action<'a> {
    /// Nothing now: report the next event.
    Nothing,
    /// Send this message.
    Send(&'a [u8]),
    /// Report a tick after this many milliseconds. It replaces an earlier wait.
    Wait(u32),
    /// Target: compare the devices ([`Event::Judged`]).
    Judge,
    /// Begin the saves, or the loads.
    Begin,
    /// Source: the target agrees; stop the guest and its devices, and send the rest.
    Stop,
    /// Target: commit every device ([`Event::Committed`]).
    Commit,
    /// Source: release every device ([`Event::Released`]).
    Release,
    /// Source: keep every device and run the guest ([`Event::Kept`]).
    Keep,
    /// Run the guest: on the target for the first time, on the source because the target has not run
    /// it ([`Event::Running`]).
    Run,
    /// Target: abandon the loads, and reset or stop all devices ([`Event::Reset`]).
    Reset,
    /// The guest may run on either side: connect again, or fence the other side.
    Fence,
    /// The outcome is final: see `outcome`.
    Outcome,
}

/// Where the guest is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u32)]
pub enum Outcome {
    /// The handover goes on; until it is over, the source owns the guest.
    #[default]
    Pending = 0,
    /// It runs on the target.
    OnTarget = 1,
    /// It is the source's.
    OnSource = 2,
    /// It runs nowhere, and cannot go on where it was.
    Lost = 3,
    /// It may be on either side. Not final: the other side's return, or a fence, decides.
    Undecided = 4,
}

/// Why the guest did not arrive, or cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u32)]
pub enum Reason {
    /// Nothing went wrong.
    #[default]
    None = 0,
    /// The migration was cancelled.
    Cancelled = 1,
    /// Something failed: the code is what [`Event::Failed`] brought.
    Failed = 2,
    /// The devices do not match: the code is what [`Event::Judged`] brought.
    Incompatible = 3,
    /// The two sides have different keys.
    OtherKey = 4,
    /// The two sides have different numbers of devices.
    OtherDevices = 5,
    /// The source has begun another attempt.
    Superseded = 6,
    /// The other side was fenced.
    Fenced = 7,
    /// The other side was fenced, and may have run the guest before: what this side has of it is old.
    MayHaveRun = 8,
    /// The guest cannot be run here: the code is what [`Event::Failed`] brought.
    Stuck = 9,
    /// The connection broke at a moment when the guest may be on either side.
    Cut = 10,
}

impl Reason {
    /// What a message may carry.
    pub(super) fn from_wire(number: u32) -> Option<Reason> {
        use Reason::*;
        [
            Cancelled,
            Failed,
            Incompatible,
            OtherKey,
            OtherDevices,
            Superseded,
            Fenced,
            MayHaveRun,
            Stuck,
        ]
        .into_iter()
        .find(|reason| *reason as u32 == number)
    }
}

/// Where the guest is, and why.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Report {
    /// Where the guest is.
    pub outcome: Outcome,
    /// Why it is there, unless it runs on the target.
    pub reason: Reason,
    /// What belongs to the reason; else 0.
    pub code: i32,
    /// Whether the reason is the other side's.
    pub by_peer: bool,
    /// Whether the other side knows the outcome too, so that nothing is left to be sent.
    pub settled: bool,
}
