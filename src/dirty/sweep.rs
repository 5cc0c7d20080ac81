// SPDX-License-Identifier: MIT OR Apache-2.0
//! A reading over a range with everything around it: ends and begins rounds, restarts logs that are
//! due, and keeps the numbers.

use std::ops::RangeInclusive;
use std::time::Instant;

use super::asking::Asking;
use super::bitmap;
use super::ledger::Sink;
use super::map::Piece;
use super::reading::Reading;
use super::rearm::Rearm;
use super::stats::Rounds;
use crate::error::Result;

/// Everything needed for a sweep, borrowed for one call.
pub(super) struct Sweep<'a> {
    pub reading: Reading<'a>,
    pub rounds: &'a mut Rounds,
    pub rearm: &'a mut Rearm,
}

impl Sweep<'_> {
    /// Gives every active tracker's answer, and what is pending, to the sink. With `complete`, this
    /// sweep is the last of the round.
    pub fn over(
        &mut self,
        range: &RangeInclusive<u64>,
        complete: bool,
        sink: Sink<'_>,
    ) -> Result<()> {
        let started = Instant::now();
        if self.rounds.begin(range) {
            self.end_round();
        }
        self.reading.asking.trackers.begin_reading();
        self.rearm.for_free(range, &mut self.reading);
        let mut pages = 0;
        let mut counting = |piece: &Piece, first: u64, words: &mut [u64], bits: u64| {
            let dirty = bitmap::count(words);
            let result = sink(piece, first, words, bits);
            pages += if result.is_ok() { dirty } else { dirty - bitmap::count(words) };
            result
        };
        let result = self.reading.over(range, &mut counting);
        let bytes = pages << self.reading.asking.page.shift();
        let complete = complete && result.is_ok();
        self.rounds.read(range.clone(), bytes, started.elapsed(), complete);
        if complete {
            self.end_round();
        }
        result
    }

    fn end_round(&mut self) {
        let Asking { trackers, map, ledger, .. } = &mut self.reading.asking;
        trackers.end_round(map, ledger);
    }
}
