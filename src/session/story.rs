// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a save tells its device's history, so that each thing is told once.

use std::sync::Arc;

use crate::fsm::State;
use crate::history::{Note, Recorder, What};

pub(super) struct Story {
    recorder: Arc<Recorder>,
    /// The save's number in the device's history.
    session: u64,
    /// Where the device was when data last came from it.
    from: Option<State>,
    rounds: u64,
    /// Data before the last round was over, in bytes.
    before: u64,
    generation: u32,
}

impl Story {
    pub fn new(recorder: Arc<Recorder>, session: u64) -> Story {
        Story { recorder, session, from: None, rounds: 0, before: 0, generation: 1 }
    }

    pub fn session(&self) -> u64 {
        self.session
    }

    fn tell(&self, what: What, count: Option<u64>, bytes: u64) {
        self.recorder.record(&Note { count, bytes: Some(bytes), ..Note::of(what) });
    }

    /// Data has come from the device in this state: `bytes` in all. Only the first of it in
    /// pre-copy, and the first from a stopped device, is told.
    pub fn came(&mut self, state: Option<State>, bytes: u64) {
        let stopped = |state| state == Some(State::StopCopy);
        if self.from.is_none() || stopped(state) && !stopped(self.from) {
            let first = Note { from: state, bytes: Some(bytes), ..Note::of(What::FirstData) };
            self.recorder.record(&first);
        }
        self.from = state;
    }

    /// The running device has nothing more. A device that had nothing at all since is not told again.
    pub fn drained(&mut self, bytes: u64) {
        if bytes > self.before {
            (self.before, self.rounds) = (bytes, self.rounds.saturating_add(1));
            self.tell(What::Round, Some(self.rounds), bytes);
        }
    }

    /// All initial data of this generation was read.
    pub fn marked(&mut self, generation: u32, bytes: u64) {
        self.tell(What::InitialSent, Some(u64::from(generation)), bytes);
    }

    /// The generation of initial data is this.
    pub fn initial(&mut self, generation: u32, bytes: u64) {
        if generation != std::mem::replace(&mut self.generation, generation) {
            self.tell(What::InitialRestarted, Some(u64::from(generation)), bytes);
        }
    }

    /// The save has started again: everything comes again, with initial data of this generation.
    pub fn restarted(&mut self, generation: u32, bytes: u64) {
        (self.from, self.rounds) = (None, 0);
        (self.generation, self.before) = (generation, bytes);
    }

    /// The stream is complete.
    pub fn ended(&mut self, bytes: u64) {
        self.tell(What::LastData, None, bytes);
    }
}
