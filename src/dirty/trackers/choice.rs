// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chooses a writer's tracker: the best one that starts.

use super::registry::Registry;
use super::shared::SharedTracker;
use crate::dirty::map::Map;
use crate::dirty::tracker::{TrackerKind, is_absent};
use crate::error::{Result, err};

/// The choice for one writer.
pub(super) struct Choice<'a> {
    registry: &'a mut Registry,
    map: &'a Map,
    index: usize,
    name: String,
}

/// Gives a writer the best of its trackers from a position on. With `start`, it is an error if a
/// writer that must be tracked cannot be.
pub(super) fn choose(
    registry: &mut Registry,
    map: &Map,
    index: usize,
    from: usize,
    start: bool,
) -> Result<()> {
    let Some(writer) = registry.writer_mut(index) else { return Ok(()) };
    if start {
        writer.reset_note();
    }
    writer.choose(None);
    let candidates: Vec<_> = writer.candidates(from).collect();
    let (name, required) = (writer.name.clone(), writer.required && start);
    Choice { registry, map, index, name }.among(&candidates, required)
}

impl Choice<'_> {
    fn among(mut self, candidates: &[(usize, usize)], required: bool) -> Result<()> {
        for (place, (position, i)) in candidates.iter().enumerate() {
            let Some(kind) = self.tracker(*i).map(|tracker| tracker.kind()) else { continue };
            if kind == TrackerKind::AllDirty && required {
                break;
            }
            if !self.starts(*i) {
                continue;
            }
            if self.tracker(*i).is_some_and(|tracker| tracker.is_short()) {
                let others = candidates.get(place + 1..).unwrap_or_default();
                if let Some(better) = self.better(others) {
                    self.set_aside(*i);
                    self.take(better);
                    return Ok(());
                }
                if required && self.tracker(*i).is_some_and(|tracker| tracker.is_down()) {
                    self.set_aside(*i);
                    continue;
                }
            }
            self.take(*position);
            return Ok(());
        }
        let note = self.registry.writer(self.index).map_or("", |writer| writer.note());
        Err(err!(
            NotSupported,
            "writer {} ({}) must be tracked, and nothing can track it: {}",
            self.index,
            self.name,
            if note.is_empty() { "it was given no tracker" } else { note }
        ))
    }

    fn tracker(&mut self, i: usize) -> Option<&mut SharedTracker> {
        self.registry.tracker_mut(i)
    }

    /// Starts a tracker unless it is active already. If it does not start, the writer's note says
    /// why.
    fn starts(&mut self, i: usize) -> bool {
        let map = self.map;
        let Some(tracker) = self.tracker(i) else { return false };
        let started = if tracker.is_active() { Ok(()) } else { tracker.start(map) };
        let kind = tracker.kind();
        let Err(error) = started else { return true };
        let level = if is_absent(&error) { log::Level::Info } else { log::Level::Warn };
        let Choice { index, name, .. } = self;
        log::log!(target: "vfiomig::dirty", level, "writer {index} ({name}): {error}");
        self.add_note(&format!("{}: {}", kind.name(), error.message()));
        false
    }

    /// For a writer whose log watches only a part of the memory: the position of another tracker
    /// that starts and watches all of it. A container does not count: if a device can reach all of
    /// the memory, it reports all of it as dirty.
    fn better(&mut self, others: &[(usize, usize)]) -> Option<usize> {
        others.iter().find_map(|(position, i)| {
            let kind = self.tracker(*i)?.kind();
            let tells = matches!(kind, TrackerKind::Hwpt | TrackerKind::Custom);
            (tells && self.starts(*i)).then_some(*position)
        })
    }

    /// Stops a tracker that watches too little, unless other writers have it, and notes why.
    fn set_aside(&mut self, i: usize) {
        let is_used = self.registry.is_used(i);
        let Some(tracker) = self.tracker(i) else { return };
        let text = tracker.remark().unwrap_or_default();
        let text = format!("{}: {text}", tracker.kind().name());
        if !is_used {
            tracker.retire();
        }
        self.add_note(&text);
    }

    /// Gives the writer the tracker at a position, which is running.
    fn take(&mut self, position: usize) {
        let Some(writer) = self.registry.writer_mut(self.index) else { return };
        writer.choose(Some(position));
        let Some(i) = writer.tracker() else { return };
        let Some(tracker) = self.tracker(i) else { return };
        tracker.take();
        let kind = tracker.kind().name();
        let Choice { index, name, .. } = self;
        log::info!(target: "vfiomig::dirty", "writer {index} ({name}) is tracked by: {kind}");
    }

    fn add_note(&mut self, note: &str) {
        if let Some(writer) = self.registry.writer_mut(self.index) {
            writer.add_note(note);
        }
    }
}
