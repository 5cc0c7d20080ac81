// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mistakes that are planted around the machines, each of which must be found.

use crate::bounds::Bounds;

/// The rules, by name.
pub const NEVER_BOTH: &str = "the guest never runs on both sides";
/// A fence tells whether it did.
pub const NEVER_BACK: &str = "it never goes back in time";
/// There is no other way to know that it arrived.
pub const COMMITTED_FIRST: &str = "it is released only after this attempt's commit";
/// What a VMM is told.
pub const TOLD_ONCE: &str = "an outcome comes once and is so";
/// Nobody waits for ever.
pub const ENDS_WELL: &str = "the link's return or a fencer ends it well";

/// A mistake.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fault {
    /// A target that hears nothing after its commit runs.
    RunsInSilence,
    /// A source that hears nothing after its release takes the guest back.
    TakesBackInSilence,
    /// A source releases when it has sent everything, and does not wait for the commit.
    ReleasesBeforeCommit,
    /// Messages do not say which attempt they belong to.
    NoAttempt,
    /// "Go" is said once.
    GoOnce,
    /// A fencer who does not know whether the guest ran says that it did not.
    GuessingFencer,
    /// A fencer says that it has fenced, and has not.
    LyingFencer,
    /// A target that could not stop what it had started says that it has.
    ResetNotDone,
    /// A target runs the guest when it has committed, without "go".
    RunsAtCommit,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 9] = [
        Fault::RunsInSilence,
        Fault::TakesBackInSilence,
        Fault::ReleasesBeforeCommit,
        Fault::NoAttempt,
        Fault::GoOnce,
        Fault::GuessingFencer,
        Fault::LyingFencer,
        Fault::ResetNotDone,
        Fault::RunsAtCommit,
    ];
}

impl Fault {
    /// What it breaks.
    pub fn breaks(self) -> &'static str {
        match self {
            Fault::RunsInSilence
            | Fault::TakesBackInSilence
            | Fault::NoAttempt
            | Fault::LyingFencer
            | Fault::ResetNotDone
            | Fault::RunsAtCommit => NEVER_BOTH,
            Fault::GuessingFencer => NEVER_BACK,
            Fault::ReleasesBeforeCommit => COMMITTED_FIRST,
            Fault::GoOnce => ENDS_WELL,
        }
    }

    /// How much must happen for that.
    pub fn bounds(self) -> Bounds {
        let least = Bounds { attempts: 1, cuts: 0, failures: 0, resumes: 0, deaths: 2, devices: 1 };
        match self {
            Fault::RunsInSilence | Fault::TakesBackInSilence => Bounds { cuts: 1, ..least },
            Fault::NoAttempt => Bounds { attempts: 2, deaths: 0, ..least },
            Fault::ResetNotDone => Bounds { failures: 2, ..least },
            _ => least,
        }
    }
}

/// Types of messages, as docs/handover.md numbers them.
pub const GO: u16 = 4;
/// The other one that a fault needs.
pub const COMMITTED: u16 = 19;

/// The type of a message.
pub fn kind(message: &[u8]) -> u16 {
    match message.get(6..8) {
        Some(&[low, high]) => u16::from_le_bytes([low, high]),
        _ => 0,
    }
}

fn seal(message: &mut [u8]) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(message.get(..32).unwrap_or_default());
    crc.update(message.get(36..).unwrap_or_default());
    if let Some(to) = message.get_mut(32..36) {
        to.copy_from_slice(&crc.finalize().to_le_bytes());
    }
}

/// A message that nobody has sent.
pub fn forge(kind: u16, attempt: u32, migration_id: &[u8; 16]) -> Vec<u8> {
    let mut message = b"VMHO\x01\x00".to_vec();
    message.extend_from_slice(&kind.to_le_bytes());
    message.extend_from_slice(&0u32.to_le_bytes());
    message.extend_from_slice(&attempt.to_le_bytes());
    message.extend_from_slice(migration_id);
    message.extend_from_slice(&[0; 4]);
    seal(&mut message);
    message
}

/// The message as one of another attempt.
pub fn of_attempt(message: &[u8], attempt: u32) -> Vec<u8> {
    let mut message = message.to_vec();
    if let Some(to) = message.get_mut(12..16) {
        to.copy_from_slice(&attempt.to_le_bytes());
    }
    seal(&mut message);
    message
}
