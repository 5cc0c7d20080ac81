// SPDX-License-Identifier: MIT OR Apache-2.0
//! Statistics about dirty tracking: for people, and for deciding whether pre-copy converges.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use rangemap::RangeInclusiveSet;

use super::bitmap::PageSize;
use super::ranges;
use super::tracker::TrackerKind;
use crate::alloc;
use crate::nanoseconds::ns;

/// One round over the map.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct DirtyRound {
    /// When it ended, in nanoseconds since tracking started.
    pub at_ns: u64,
    /// Nanoseconds since the end of the round before, or since the start.
    pub interval_ns: u64,
    /// Bytes that were delivered as dirty in this round.
    pub dirty_bytes: u64,
    /// Nanoseconds that the library spent on it.
    pub sync_ns: u64,
}

/// Dirty tracking as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DirtyStats {
    /// Complete rounds over the map.
    pub rounds: u64,
    /// Bytes delivered as dirty since the start. A page counts each time.
    pub dirty_bytes: u64,
    /// In the last complete round.
    pub last_dirty_bytes: u64,
    /// Bytes that became dirty per second, in the last complete round.
    pub rate: u64,
    /// The same, averaged: the newest round has a weight of a quarter.
    pub average_rate: u64,
    /// Time spent reading and delivering, in nanoseconds.
    pub sync_ns: u64,
    /// In the last complete round.
    pub last_sync_ns: u64,
    /// Bytes in the map.
    pub mapped_bytes: u64,
    /// Memory that tracking takes besides its map, in bytes: bitmaps, and dirty pages that wait to
    /// be delivered.
    pub memory_bytes: u64,
    /// Errors recorded since the start.
    pub errors: u64,
}

/// One writer and the tracker that it has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WriterStats {
    /// What tracks it.
    pub tracker: TrackerKind,
    /// The tracker's pages; none: nothing tracks it.
    pub page_size: Option<PageSize>,
    /// Bytes that the tracker has reported as dirty since the start.
    pub dirty_bytes: u64,
    /// In its last round.
    pub last_dirty_bytes: u64,
    /// Bytes counted as dirty because the tracker does not watch them, or because of an error.
    pub assumed_bytes: u64,
    /// Bytes that the tracker reported per second, in its last round.
    pub rate: u64,
    /// Time spent asking it, in nanoseconds.
    pub sync_ns: u64,
    /// In its last round.
    pub last_sync_ns: u64,
    /// System calls or callbacks made.
    pub calls: u64,
    /// Errors recorded.
    pub errors: u64,
    /// How often it was restarted.
    pub restarts: u64,
    /// Why the writer has this tracker and not a better one; empty if there is nothing to say.
    pub note: String,
}

/// How many rounds are kept.
const HISTORY: usize = 64;

/// The most ranges kept to note what a round has read. With more, what lies between the nearest
/// ones counts as read as well. The round may then end early, which only makes the numbers less
/// precise.
const MAX_COVERED: usize = 1024;

/// Cuts a sequence of readings into rounds: a round ends before the first reading that repeats an
/// address.
pub(super) struct Rounds {
    started: Instant,
    ended: Duration,
    covered: RangeInclusiveSet<u64>,
    dirty_bytes: u64,
    busy: Duration,
    history: VecDeque<DirtyRound>,
    totals: DirtyStats,
}

pub(super) fn per_second(bytes: u64, interval: u64) -> u64 {
    let rate = u128::from(bytes) * 1_000_000_000 / u128::from(interval.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

impl Rounds {
    pub fn new() -> Rounds {
        Rounds {
            started: Instant::now(),
            ended: Duration::ZERO,
            covered: RangeInclusiveSet::new(),
            dirty_bytes: 0,
            busy: Duration::ZERO,
            history: VecDeque::new(),
            totals: DirtyStats::default(),
        }
    }

    /// Notes that a range is about to be read. Returns whether a new round begins with it.
    pub fn begin(&mut self, range: &RangeInclusive<u64>) -> bool {
        let again = self.covered.overlaps(range);
        if again {
            self.end();
        }
        again
    }

    /// Notes that a range has been read. With `complete`, this reading is the last of the round.
    pub fn read(&mut self, range: RangeInclusive<u64>, bytes: u64, took: Duration, complete: bool) {
        // Without memory the range is not noted, and the round may become longer.
        if alloc::has_memory() {
            self.covered.insert(range);
        }
        ranges::bound(&mut self.covered, MAX_COVERED);
        self.dirty_bytes = self.dirty_bytes.saturating_add(bytes);
        self.busy += took;
        self.totals.dirty_bytes = self.totals.dirty_bytes.saturating_add(bytes);
        self.totals.sync_ns = self.totals.sync_ns.saturating_add(ns(took));
        if complete {
            self.end();
        }
    }

    fn end(&mut self) {
        let now = self.started.elapsed();
        let round = DirtyRound {
            at_ns: ns(now),
            interval_ns: ns(now.saturating_sub(self.ended)),
            dirty_bytes: self.dirty_bytes,
            sync_ns: ns(self.busy),
        };
        let rate = per_second(round.dirty_bytes, round.interval_ns);
        let average = match self.totals.rounds {
            0 => u128::from(rate),
            _ => (3 * u128::from(self.totals.average_rate) + u128::from(rate)) / 4,
        };
        self.totals.rounds += 1;
        self.totals.rate = rate;
        self.totals.average_rate = u64::try_from(average).unwrap_or(u64::MAX);
        self.totals.last_dirty_bytes = round.dirty_bytes;
        self.totals.last_sync_ns = round.sync_ns;
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        // Without memory the round is left out of the history, which nothing relies on.
        let _ = alloc::push_back(&mut self.history, round, "");
        self.ended = now;
        self.covered.clear();
        self.dirty_bytes = 0;
        self.busy = Duration::ZERO;
    }

    /// How many ranges are kept.
    pub fn num_ranges(&self) -> usize {
        self.covered.len()
    }

    pub fn totals(&self) -> DirtyStats {
        self.totals
    }

    /// The rounds that are kept, newest last.
    pub fn history(&self) -> impl Iterator<Item = DirtyRound> + '_ {
        self.history.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_ends_where_addresses_come_again() {
        let mut rounds = Rounds::new();
        let took = Duration::from_millis(1);
        for (range, bytes) in [(0..=9, 10), (20..=29, 5), (0..=4, 7), (5..=9, 1), (25..=25, 2)] {
            rounds.begin(&range);
            rounds.read(range, bytes, took, false);
        }
        assert_eq!(rounds.totals().rounds, 1);
        assert_eq!(rounds.totals().last_dirty_bytes, 15);
        assert_eq!(rounds.totals().last_sync_ns, 2_000_000);
        rounds.begin(&(0..=0));
        rounds.read(0..=0, 0, took, true);
        let history: Vec<u64> = rounds.history().map(|round| round.dirty_bytes).collect();
        assert_eq!(history, [15, 10, 0]);
        assert_eq!(rounds.totals().dirty_bytes, 25);
    }

    #[test]
    fn a_round_of_scattered_readings_is_bounded_and_still_ends() {
        let mut rounds = Rounds::new();
        for i in 0..100_000u64 {
            let at = i * 7919 % 100_003 * 10;
            rounds.begin(&(at..=at));
            rounds.read(at..=at, 1, Duration::ZERO, false);
            assert!(rounds.num_ranges() <= MAX_COVERED);
        }
        assert_eq!(rounds.totals().dirty_bytes, 100_000);
        let before = rounds.totals().rounds;
        rounds.begin(&(0..=u64::MAX));
        assert_eq!((rounds.totals().rounds, rounds.num_ranges()), (before + 1, 0));
    }

    #[test]
    fn rates_and_the_history_are_bounded() {
        assert_eq!(per_second(4096, 1_000_000_000), 4096);
        assert_eq!(per_second(u64::MAX, 0), u64::MAX);
        let mut rounds = Rounds::new();
        for i in 0..200 {
            rounds.read(0..=u64::MAX, i, Duration::ZERO, true);
        }
        assert_eq!(rounds.history().count(), HISTORY);
        assert_eq!(rounds.history().last().unwrap().dirty_bytes, 199);
    }
}
