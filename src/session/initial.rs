// SPDX-License-Identifier: MIT OR Apache-2.0
//! Initial data: when the mark that all of it was sent is due, and who must be told that an
//! acknowledgement of it no longer counts.

use crate::error::{Error, err};
use crate::protocol::Estimates;

/// How far the initial data of this generation has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// Some of it has not been read, or nobody knows.
    #[default]
    Outstanding,
    /// All of it has been read, and the mark is due.
    Complete,
    /// The mark has been returned to the caller.
    Marked,
}

/// The initial data of a save.
#[derive(Debug)]
pub(super) struct Initial {
    stage: Stage,
    /// Bytes of it that are known to be unread.
    left: u64,
    /// Increases when it starts again, even across restarts: earlier acknowledgements then do not
    /// count.
    generation: u32,
    /// A stop was refused, and nothing has been read since: a caller that asks again insists.
    refused: bool,
}

impl Initial {
    pub(super) fn new() -> Initial {
        Initial { stage: Stage::Outstanding, left: 0, generation: 1, refused: false }
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether the mark of this generation is on its way.
    pub(super) fn is_marked(&self) -> bool {
        self.stage == Stage::Marked
    }

    /// Whether all of it has been read, as far as anyone knows.
    pub(super) fn is_read(&self) -> bool {
        self.stage != Stage::Outstanding
    }

    /// The number of the mark that is to be sent now.
    pub(super) fn due(&self) -> Option<u32> {
        (self.stage == Stage::Complete).then_some(self.generation)
    }

    /// The mark is sent.
    pub(super) fn mark(&mut self) {
        self.stage = Stage::Marked;
    }

    /// Whether it is time to ask if all of it has been read.
    pub(super) fn is_worth_a_look(&self) -> bool {
        self.stage == Stage::Outstanding && self.left == 0
    }

    /// Some data has been read.
    pub(super) fn read(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// The save goes on: a refusal to stop is over.
    pub(super) fn goes_on(&mut self) {
        self.refused = false;
    }

    /// The first estimate.
    pub(super) fn begins(&mut self, info: &Estimates) {
        self.left = info.initial_bytes;
    }

    /// It starts again.
    pub(super) fn void(&mut self) {
        if std::mem::take(&mut self.stage) != Stage::Outstanding {
            self.generation = self.generation.saturating_add(1);
        }
        self.left = 0;
    }

    /// The driver has said how much is left.
    pub(super) fn learned(&mut self, info: &Estimates) {
        if info.began_again {
            self.void();
        }
        self.left = info.initial_bytes;
        if self.is_worth_a_look() {
            self.stage = Stage::Complete;
        }
    }

    /// The driver has nothing to read, and does not say how much is left.
    pub(super) fn drained(&mut self) {
        if self.stage == Stage::Outstanding {
            self.stage = Stage::Complete;
        }
    }

    /// Whether a stop was refused, and nothing has been read since.
    pub(super) fn has_refused(&self) -> bool {
        self.refused
    }

    /// Refuses to stop.
    pub(super) fn refuse(&mut self) -> Error {
        self.refused = true;
        err!(
            Again,
            "the device has started its initial data again, so an acknowledgement of it no longer \
             counts; nothing has changed: call again to insist, or keep the device; in pre-copy, \
             the save can also go on"
        )
    }
}
