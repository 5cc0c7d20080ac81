// SPDX-License-Identifier: MIT OR Apache-2.0
//! Restarts devices' logs, so that they watch mappings that were added after they were started. No
//! bit is lost: the moments in which nobody watches are all dealt with here.

use std::ops::RangeInclusive;

use rangemap::RangeInclusiveSet;

use super::asking::Asking;
use super::map::Piece;
use super::ranges::{self, EVERYWHERE};
use super::reading::Reading;
use super::tracker::TrackerKind;

/// What shows that no write is missed while a log is restarted.
enum Evidence {
    /// The device stands still. The number changes when it may have written.
    Quiet(u64),
    /// Another tracker watches meanwhile; a `temporary` one runs only for that.
    Bridge { tracker: usize, temporary: bool },
    /// Nothing shows that.
    Nothing,
}

/// When logs are restarted without being asked.
#[derive(Default)]
pub(super) struct Rearm {
    /// Bytes read since some log should be restarted.
    read: u64,
}

impl Rearm {
    /// Restarts logs that would watch more afterwards, if nothing has to count as dirty because of
    /// it. This is part of a reading of a range.
    pub fn for_free(&mut self, range: &RangeInclusive<u64>, reading: &mut Reading<'_>) {
        let mut due = None;
        for i in reading.asking.trackers.active_of(&[TrackerKind::DeviceLog]) {
            let Some(log) = reading.asking.trackers.get(i) else { continue };
            let (is_outdated, is_down) = (log.is_outdated(), log.is_down());
            if !is_outdated || !*due.get_or_insert_with(|| self.is_due(range, reading)) {
                continue;
            }
            if is_down {
                let blind = reading.asking.trackers.blind_of(i);
                restart(i, blind, reading);
            } else {
                rearm(i, true, reading);
            }
        }
        if due.is_none() {
            self.read = 0;
        }
    }

    /// Restarting a log takes a reading of the whole map, and a guest decides how often there is a
    /// new mapping. So it is due only when readings have covered as much for other reasons: once
    /// per round.
    fn is_due(&mut self, range: &RangeInclusive<u64>, reading: &Reading<'_>) -> bool {
        let map = reading.asking.map;
        let bytes: u64 = map.writable(range).map(|piece| piece.size()).sum();
        self.read = self.read.saturating_add(bytes);
        let due = self.read >= map.writable_bytes();
        if due {
            self.read = 0;
        }
        due
    }
}

/// Restarts a log. With `for_free`, it does so only if nothing has to count as dirty because of it.
pub(super) fn rearm(i: usize, for_free: bool, reading: &mut Reading<'_>) {
    let evidence = evidence(i, for_free, &mut reading.asking);
    if for_free && matches!(evidence, Evidence::Nothing) {
        return;
    }
    reading.all_pieces(i);
    let blind = reading.asking.trackers.blind_of(i);
    if reading.asking.trackers.is_active(i) {
        restart(i, blind, reading);
    } else {
        add_missed(i, blind, &mut reading.asking);
    }
    let lossless = match evidence {
        Evidence::Quiet(before) => reading.asking.trackers.quiet(i) == Some(before),
        Evidence::Bridge { tracker, temporary } => {
            let watched = reading.asking.trackers.is_active(tracker);
            reading.all_pieces(tracker);
            let trackers = &mut *reading.asking.trackers;
            let is_used = trackers.is_used(tracker);
            if let Some(bridge) = trackers.get_mut(tracker).filter(|_| temporary && !is_used) {
                bridge.retire();
            }
            watched
        }
        Evidence::Nothing => false,
    };
    let Asking { map, trackers, ledger, .. } = &mut reading.asking;
    if !lossless {
        if let Some(tracker) = trackers.get_mut(i) {
            tracker.numbers().assume(map.bytes());
        }
        ledger.tell_later(EVERYWHERE);
        ledger.add_everything(map);
    }
    // Windows were not read: a log is read only where something is mapped.
    ledger.miss_windows(map);
}

fn restart(i: usize, blind: RangeInclusiveSet<u64>, reading: &mut Reading<'_>) {
    let Asking { map, trackers, ledger, .. } = &mut reading.asking;
    trackers.restart(i, map, ledger);
    add_missed(i, blind, &mut reading.asking);
}

/// Makes what the log did not watch before, and watches now, dirty for the last time. The next
/// reading says so.
fn add_missed(i: usize, mut missed: RangeInclusiveSet<u64>, asking: &mut Asking<'_>) {
    let Some(tracker) = asking.trackers.get_mut(i) else { return };
    for range in tracker.blind().into_iter().flat_map(RangeInclusiveSet::iter) {
        missed.remove(range.clone());
    }
    tracker.set_missed((!missed.is_empty()).then(|| ranges::name(&missed)));
    asking.trackers.assume_unwatched(i, &missed, asking.ledger);
}

fn evidence(i: usize, for_free: bool, asking: &mut Asking<'_>) -> Evidence {
    let Asking { map, trackers, ledger, .. } = asking;
    if let Some(quiet) = trackers.quiet(i) {
        return Evidence::Quiet(quiet);
    }
    for tracker in trackers.others(i) {
        let Some(other) = trackers.get_mut(tracker) else { continue };
        match other.kind() {
            // It would make everything dirty. `Nothing` does that more simply.
            TrackerKind::AllDirty => continue,
            // For a container, everything that is pinned is dirty.
            TrackerKind::Type1 if for_free => continue,
            _ => {}
        }
        let misses = |piece: Piece| {
            let doubted = ledger.is_suspect(&piece.range()) && other.is_blind_to_holes(&piece);
            doubted || other.find_hole(&piece).is_some()
        };
        if map.writable(&EVERYWHERE).any(misses) {
            continue;
        }
        // If it is active, it watches for another writer already, and readings ask it anyway.
        let temporary = !other.is_active();
        if temporary && other.start(map).is_err() {
            continue;
        }
        other.activate();
        return Evidence::Bridge { tracker, temporary };
    }
    Evidence::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Cancel;
    use crate::device::Health;
    use crate::dirty::buffers::Buffers;
    use crate::dirty::fake::{Fake, PAGE, map, page};
    use crate::dirty::ledger::Ledger;
    use crate::dirty::map::{Map, Mapping};
    use crate::dirty::trackers::Trackers;
    use crate::dirty::writer::Writer;

    /// What a [`Reading`] borrows: here a log that does not watch the second of two mappings.
    struct Parts {
        map: Map,
        trackers: Trackers,
        ledger: Ledger,
        buffers: Buffers,
        log: Fake,
        table: Fake,
    }

    const ALL: RangeInclusive<u64> = 0..=20 * PAGE - 1;

    impl Parts {
        fn new(health: Option<Health>, bridge: bool) -> Parts {
            let (mut map, log, table) = (map(&[(0, 10)]), Fake::new(1), Fake::new(2));
            table.state().mapped = Some(true);
            let mut writer = Writer { health, ..Writer::default() };
            writer.device_log = Some(Box::new(log.clone()));
            if bridge {
                writer.hwpt = Some(Box::new(table.clone()));
            }
            let (mut trackers, ledger) = (Trackers::new(page()), Ledger::new(page()));
            trackers.add(writer, Some(&map)).unwrap();
            let later = Mapping { iova: 10 * PAGE, size: 10 * PAGE, ..Mapping::default() };
            let range = map.insert(later, page()).unwrap().unwrap();
            trackers.map_changed(&map, &range);
            let buffers = Buffers::new(8).unwrap();
            Parts { map, trackers, ledger, buffers, log, table }
        }

        fn with<R>(&mut self, call: impl FnOnce(&mut Reading<'_>) -> R) -> R {
            let Parts { map, trackers, ledger, buffers, .. } = self;
            let Buffers { answers, union, sum } = buffers;
            let asking = Asking { page: page(), map, trackers, ledger, answers };
            call(&mut Reading { asking, union, sum, cancel: &Cancel::default() })
        }

        fn pending(&mut self) -> u64 {
            let mut words = [0];
            self.ledger.take(0, 64, &mut words);
            words[0]
        }
    }

    /// The health of a device that writes when it is asked the `writes_at`th time whether it stands
    /// still.
    fn health(writes_at: u64) -> Option<Health> {
        let mut asked = 0;
        let quiet = move || {
            asked += 1;
            Some(u64::from(asked >= writes_at))
        };
        Some(Health::new(Default::default(), quiet))
    }

    #[test]
    fn without_evidence_everything_is_dirty_once_and_it_is_not_done_for_free() {
        let mut parts = Parts::new(None, false);
        parts.log.dirty([3]);
        parts.with(|reading| rearm(0, true, reading));
        assert_eq!((parts.pending(), parts.log.state().starts), (0, 1));
        parts.with(|reading| rearm(0, false, reading));
        assert_eq!((parts.pending(), parts.log.state().starts), (0xf_ffff, 2));
        assert_eq!(parts.ledger.tell(&ALL), (false, true));
    }

    #[test]
    fn while_the_device_stands_still_only_what_was_not_watched_is_dirty() {
        let mut parts = Parts::new(health(u64::MAX), false);
        parts.log.dirty([3]);
        parts.with(|reading| rearm(0, true, reading));
        assert_eq!((parts.pending(), parts.log.state().starts), (0xf_fc08, 2));
        assert!(!parts.trackers.is_blind(&ALL));
        // The device wrote meanwhile.
        let mut parts = Parts::new(health(2), false);
        parts.with(|reading| rearm(0, true, reading));
        assert_eq!(parts.pending(), 0xf_ffff);
    }

    #[test]
    fn another_tracker_watches_while_the_log_does_not() {
        let mut parts = Parts::new(None, true);
        parts.table.dirty([5]);
        parts.with(|reading| rearm(0, true, reading));
        assert_eq!(parts.pending(), 0xf_fc20);
        let table = parts.table.state();
        assert_eq!((table.starts, table.running), (1, false));
        drop(table);
        // A tracker that does not see everything is not evidence.
        let mut parts = Parts::new(None, true);
        parts.table.state().mapped = Some(false);
        parts.with(|reading| rearm(0, true, reading));
        assert_eq!((parts.table.state().starts, parts.log.state().starts), (0, 1));
        // Nor one that cannot tell, if there may be something that it does not see.
        for (doubted, starts) in [(false, (1, 2)), (true, (0, 1))] {
            let mut parts = Parts::new(None, true);
            parts.table.state().mapped = None;
            if doubted {
                parts.ledger.suspect(PAGE..=2 * PAGE - 1);
            }
            parts.with(|reading| rearm(0, true, reading));
            assert_eq!((parts.table.state().starts, parts.log.state().starts), starts);
        }
    }

    #[test]
    fn logs_are_started_anew_by_themselves_once_per_round() {
        let mut parts = Parts::new(health(u64::MAX), false);
        let mut due = Rearm::default();
        let half = 0..=10 * PAGE - 1;
        parts.with(|reading| due.for_free(&half, reading));
        assert_eq!(parts.log.state().starts, 1);
        parts.with(|reading| due.for_free(&half, reading));
        assert_eq!(parts.log.state().starts, 2);
        // Now the log watches everything.
        for _ in 0..4 {
            parts.with(|reading| due.for_free(&ALL, reading));
        }
        assert_eq!((parts.log.state().starts, due.read), (2, 0));
    }
}
