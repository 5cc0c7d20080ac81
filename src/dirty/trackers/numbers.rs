// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps a tracker's statistics: what it reported, how long that took, and in which rounds it
//! failed.

use std::time::Instant;

use crate::dirty::bitmap::PageSize;
use crate::dirty::stats::{WriterStats, per_second};
use crate::dirty::tracker::TrackerKind;
use crate::nanoseconds::elapsed_ns;

/// In how many rounds in a row a log must fail to be given up.
pub(super) const MAX_BAD_ROUNDS: u32 = 8;

/// The round that is under way.
struct Round {
    since: Instant,
    dirty_bytes: u64,
    sync_ns: u64,
    answered: bool,
    failed: bool,
    lost: bool,
}

impl Round {
    fn new() -> Round {
        let (answered, failed, lost) = (false, false, false);
        Round { since: Instant::now(), dirty_bytes: 0, sync_ns: 0, answered, failed, lost }
    }
}

/// The statistics of one tracker.
pub(in crate::dirty) struct Numbers {
    stats: WriterStats,
    round: Round,
    /// In how many rounds in a row it has failed so far.
    bad_rounds: u32,
    round_was_lost: bool,
}

impl Numbers {
    pub fn new(tracker: TrackerKind, page: PageSize) -> Numbers {
        let stats = WriterStats { tracker, page_size: Some(page), ..WriterStats::default() };
        Numbers { stats, round: Round::new(), bad_rounds: 0, round_was_lost: false }
    }

    /// Forgets what belongs to an earlier start of tracking.
    pub fn forget(&mut self) {
        self.bad_rounds = 0;
        let WriterStats { tracker, page_size, .. } = self.stats;
        self.stats = WriterStats { tracker, page_size, ..WriterStats::default() };
    }

    pub fn set_page(&mut self, page: PageSize) {
        self.stats.page_size = Some(page);
    }

    /// Counts an answer: how many bytes were dirty, and how many nanoseconds it took.
    pub fn count(&mut self, dirty_bytes: u64, ns: u64) {
        self.round.answered = true;
        let stats = &mut self.stats;
        stats.dirty_bytes = stats.dirty_bytes.saturating_add(dirty_bytes);
        stats.sync_ns = stats.sync_ns.saturating_add(ns);
        self.round.dirty_bytes = self.round.dirty_bytes.saturating_add(dirty_bytes);
        self.round.sync_ns = self.round.sync_ns.saturating_add(ns);
    }

    /// Counts bytes that are taken to be dirty without an answer.
    pub fn assume(&mut self, bytes: u64) {
        self.stats.assumed_bytes = self.stats.assumed_bytes.saturating_add(bytes);
    }

    pub fn count_error(&mut self) {
        self.stats.errors += 1;
    }

    pub fn count_restart(&mut self) {
        self.stats.restarts += 1;
    }

    /// Notes that it has not answered a question in this round.
    pub fn fail_round(&mut self) {
        self.round.failed = true;
    }

    /// Notes that it was restarted in this round because of an error.
    pub fn lose_round(&mut self) {
        self.round.lost = true;
    }

    pub fn begin_round(&mut self) {
        self.round = Round::new();
    }

    /// Ends a round. `is_down`: it could not answer at all in this round.
    pub fn end_round(&mut self, is_down: bool) {
        let ended = std::mem::replace(&mut self.round, Round::new());
        let failed = ended.lost || ended.failed && !ended.answered || is_down;
        self.round_was_lost = ended.lost;
        match (failed, ended.answered) {
            (true, _) => self.bad_rounds = self.bad_rounds.saturating_add(1),
            (false, true) => self.bad_rounds = 0,
            (false, false) => {}
        }
        self.stats.rate = per_second(ended.dirty_bytes, elapsed_ns(ended.since));
        self.stats.last_dirty_bytes = ended.dirty_bytes;
        self.stats.last_sync_ns = ended.sync_ns;
    }

    /// Whether it has failed in too many rounds in a row.
    pub fn is_failing(&self) -> bool {
        self.bad_rounds >= MAX_BAD_ROUNDS
    }

    /// Whether it was restarted in the last round because of an error.
    pub fn round_was_lost(&self) -> bool {
        self.round_was_lost
    }

    /// How many bytes were dirty in its last round.
    pub fn last_dirty_bytes(&self) -> u64 {
        self.stats.last_dirty_bytes
    }

    pub fn stats(&self) -> &WriterStats {
        &self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers() -> Numbers {
        Numbers::new(TrackerKind::DeviceLog, PageSize::new(4096).unwrap())
    }

    #[test]
    fn a_round_has_what_was_said_in_it_and_the_sum_has_all() {
        let mut numbers = numbers();
        for bytes in [1, 2, 3] {
            numbers.count(bytes, 10 * bytes);
            numbers.count(bytes, 10 * bytes);
            numbers.end_round(false);
            assert_eq!(numbers.last_dirty_bytes(), 2 * bytes);
            assert_eq!(numbers.stats().last_sync_ns, 20 * bytes);
        }
        numbers.assume(4096);
        assert_eq!((numbers.stats().dirty_bytes, numbers.stats().sync_ns), (12, 120));
        assert_eq!(numbers.stats().assumed_bytes, 4096);
        // A new start of tracking begins from zero.
        numbers.forget();
        assert_eq!(numbers.stats(), self::numbers().stats());
    }

    #[test]
    fn a_round_is_bad_where_nothing_was_answered_or_all_was_lost() {
        type Happens = fn(&mut Numbers);
        let cases: [(Happens, bool, Option<bool>); 6] = [
            (|n| n.fail_round(), false, Some(true)),
            (|n| n.lose_round(), false, Some(true)),
            (|n| n.count(0, 0), true, Some(true)),
            (|n| n.count(0, 0), false, Some(false)),
            (
                |n| {
                    n.fail_round();
                    n.count(0, 0);
                },
                false,
                Some(false),
            ),
            // Nobody asked it anything.
            (|_| {}, false, None),
        ];
        for (i, (happens, is_down, bad)) in cases.into_iter().enumerate() {
            for before in [false, true] {
                let mut numbers = numbers();
                for _ in 0..if before { MAX_BAD_ROUNDS } else { MAX_BAD_ROUNDS - 1 } {
                    numbers.lose_round();
                    numbers.end_round(false);
                }
                assert_eq!(numbers.is_failing(), before);
                happens(&mut numbers);
                numbers.end_round(is_down);
                assert_eq!(numbers.is_failing(), bad.unwrap_or(before), "case {i}");
            }
        }
    }
}
