// SPDX-License-Identifier: MIT OR Apache-2.0
//! The writers, the trackers that each could have, and which trackers they share. Nothing here
//! starts a tracker.

use super::shared::{Key, SharedTracker};
use crate::alloc;
use crate::device::Health;
use crate::dirty::bitmap::PageSize;
use crate::dirty::tracker::all_dirty::AllDirty;
use crate::dirty::tracker::custom::Custom;
use crate::dirty::tracker::device_log::DeviceLog;
use crate::dirty::tracker::hwpt::PageTable;
use crate::dirty::tracker::type1::Container;
use crate::dirty::tracker::{Tracker, TrackerKind};
use crate::dirty::writer::Writer;
use crate::error::{Result, err};

/// The most writers: more than any machine has devices, and few enough to notice a VMM that never
/// removes any. A list of their trackers fits into a block of the reserve (`sys/reserve.rs`).
const MAX_WRITERS: usize = 512;

/// A writer, and the tracker that it has.
pub(super) struct RegisteredWriter {
    pub name: String,
    pub required: bool,
    /// Numbers of trackers, best first.
    candidates: Vec<usize>,
    /// The position in `candidates` of the tracker that it has.
    chosen: Option<usize>,
    health: Option<Health>,
    resets_seen: u64,
    /// Why there is no device log, if the device says so.
    given_note: String,
    note: String,
}

impl RegisteredWriter {
    /// The number of the tracker that it has.
    pub fn tracker(&self) -> Option<usize> {
        self.candidates.get(self.chosen?).copied()
    }

    /// Its possible trackers from a position on, best first: position and number.
    pub fn candidates(&self, from: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.candidates.iter().copied().enumerate().skip(from)
    }

    /// The position after that of the tracker that it has.
    pub fn next(&self) -> usize {
        self.chosen.map_or(0, |position| position + 1)
    }

    /// Gives it the tracker at a position, or none.
    pub fn choose(&mut self, position: Option<usize>) {
        self.chosen = position;
    }

    /// Whether it was reset since the last call.
    pub fn was_reset(&mut self) -> bool {
        let resets = self.health.as_ref().map_or(0, Health::resets);
        resets != std::mem::replace(&mut self.resets_seen, resets)
    }

    /// A number if it certainly writes nothing now. The number changes if it may have written
    /// since.
    pub fn quiet(&mut self) -> Option<u64> {
        self.health.as_mut()?.quiet()
    }

    pub fn note(&self) -> &str {
        &self.note
    }

    /// Forgets what was noted after it was added.
    pub fn reset_note(&mut self) {
        self.note = self.given_note.clone();
    }

    pub fn add_note(&mut self, note: &str) {
        add_note(&mut self.note, note);
    }
}

/// Adds a note to a text for people.
pub(super) fn add_note(to: &mut String, note: &str) {
    if !to.is_empty() {
        to.push_str("; ");
    }
    to.push_str(note);
}

/// All writers, and all trackers that they could have.
pub(super) struct Registry {
    page: PageSize,
    writers: Vec<Option<RegisteredWriter>>,
    trackers: Vec<SharedTracker>,
}

impl Registry {
    pub fn new(page: PageSize) -> Registry {
        Registry { page, writers: Vec::new(), trackers: Vec::new() }
    }

    /// Adds a writer and everything that could track it. Returns its number.
    pub fn add(&mut self, writer: Writer) -> Result<usize> {
        if self.writers().count() >= MAX_WRITERS || self.writers.len() >= 1 << 20 {
            return Err(err!(NoMem, "there are too many writers"));
        }
        let hwpt_page = writer.hwpt_page_size.unwrap_or(self.page).max(self.page);
        if hwpt_page > PageSize::GIB {
            return Err(err!(Inval, "the page table's page size must be at most 1 GiB"));
        }
        let custom = writer.custom.map(Custom::new).transpose()?;
        let hwpt = writer.hwpt.map(|hwpt| {
            let detail = hwpt_page.bytes() << 32 | u64::from(hwpt.ioas().unwrap_or(0));
            (Key { kind: TrackerKind::Hwpt, number: hwpt.key(), detail }, hwpt)
        });
        if let Some((key, _)) = &hwpt {
            self.check_same(key)?;
        }
        // This comes first: once the writer's trackers are being added, nothing may fail.
        alloc::grow(&mut self.writers, 1, "no memory for a writer")?;
        alloc::grow(&mut self.trackers, 5, "no memory for a writer")?;
        let (page, mut candidates) = (self.page, Vec::new());
        let mut add = |tracker, key| candidates.push(self.add_tracker(tracker, key));
        if let Some(log) = writer.device_log {
            let key = |number| Key { kind: TrackerKind::DeviceLog, number, detail: 0 };
            add(Box::new(DeviceLog::new(log, page)), writer.log_key.map(key));
        }
        if let Some((key, hwpt)) = hwpt {
            add(Box::new(PageTable::new(hwpt, hwpt_page)), Some(key));
        }
        if let Some(custom) = custom {
            add(Box::new(custom), None);
        }
        if let Some(type1) = writer.type1 {
            let key = Key { kind: TrackerKind::Type1, number: type1.key(), detail: 0 };
            add(Box::new(Container::new(type1, page)), Some(key));
        }
        add(Box::new(AllDirty::new(page)), None);
        let resets_seen = writer.health.as_ref().map_or(0, Health::resets);
        self.writers.push(Some(RegisteredWriter {
            name: writer.name,
            required: writer.required,
            candidates,
            chosen: None,
            health: writer.health,
            resets_seen,
            given_note: writer.note,
            note: String::new(),
        }));
        Ok(self.writers.len() - 1)
    }

    fn check_same(&self, key: &Key) -> Result<()> {
        let mut same = self.trackers.iter().filter_map(SharedTracker::key);
        if same.any(|other| other.is_same(key) && other != *key) {
            return Err(err!(
                Inval,
                "another writer has the same page table with another address space or page size"
            ));
        }
        Ok(())
    }

    /// Adds a tracker, unless the same one is there already. Returns its number.
    fn add_tracker(&mut self, tracker: Box<dyn Tracker>, key: Option<Key>) -> usize {
        if let Some(key) = key {
            let same = |shared: &SharedTracker| shared.key().is_some_and(|it| it.is_same(&key));
            if let Some(same) = self.trackers.iter().position(same) {
                return same;
            }
        }
        let tracker = SharedTracker::new(tracker, key);
        let vacant = self.trackers.iter().position(SharedTracker::is_vacant);
        match vacant.and_then(|i| self.trackers.get_mut(i).map(|place| (i, place))) {
            Some((i, place)) => {
                *place = tracker;
                i
            }
            None => {
                self.trackers.push(tracker);
                self.trackers.len() - 1
            }
        }
    }

    /// Removes a writer, and drops the trackers that no other writer could use. Its number is not
    /// used again.
    pub fn remove(&mut self, index: usize) {
        let Some(writer) = self.writers.get_mut(index).and_then(Option::take) else { return };
        for i in writer.candidates {
            let is_used = self.is_used(i);
            let wanted = self.writers().any(|(_, other)| other.candidates.contains(&i));
            let Some(tracker) = self.trackers.get_mut(i) else { continue };
            if !is_used {
                tracker.retire();
            }
            if !wanted {
                tracker.vacate(self.page);
            }
        }
    }

    /// Undoes adding the last writer, so that its number can be used again.
    pub fn take_back(&mut self, index: usize) {
        self.remove(index);
        self.writers.truncate(index);
    }

    /// How many writers were ever added.
    pub fn num_writers(&self) -> usize {
        self.writers.len()
    }

    /// The writers that have not been removed, with their numbers.
    pub fn writers(&self) -> impl Iterator<Item = (usize, &RegisteredWriter)> {
        self.writers.iter().enumerate().filter_map(|(i, writer)| Some((i, writer.as_ref()?)))
    }

    pub fn writers_mut(&mut self) -> impl Iterator<Item = &mut RegisteredWriter> {
        self.writers.iter_mut().flatten()
    }

    pub fn writer(&self, index: usize) -> Option<&RegisteredWriter> {
        self.writers.get(index)?.as_ref()
    }

    pub fn writer_mut(&mut self, index: usize) -> Option<&mut RegisteredWriter> {
        self.writers.get_mut(index)?.as_mut()
    }

    /// The writers that have tracker `i`.
    pub fn users(&self, i: usize) -> impl Iterator<Item = (usize, &RegisteredWriter)> {
        self.writers().filter(move |(_, writer)| writer.tracker() == Some(i))
    }

    pub fn users_mut(&mut self, i: usize) -> impl Iterator<Item = &mut RegisteredWriter> {
        self.writers_mut().filter(move |writer| writer.tracker() == Some(i))
    }

    pub fn is_used(&self, i: usize) -> bool {
        self.users(i).next().is_some()
    }

    pub fn tracker_mut(&mut self, i: usize) -> Option<&mut SharedTracker> {
        self.trackers.get_mut(i)
    }

    pub fn trackers(&self) -> &[SharedTracker] {
        &self.trackers
    }

    pub fn trackers_mut(&mut self) -> &mut [SharedTracker] {
        &mut self.trackers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::fake::{Fake, page};
    use crate::error::Code;

    fn table(fake: &Fake) -> Writer {
        Writer { hwpt: Some(Box::new(fake.clone())), ..Writer::default() }
    }

    fn kinds(registry: &Registry) -> Vec<TrackerKind> {
        registry.trackers().iter().map(SharedTracker::kind).collect()
    }

    #[test]
    fn writers_behind_one_page_table_share_it_until_the_last_goes() {
        let mut registry = Registry::new(page());
        let (one, other) = (Fake::new(1), Fake::new(2));
        for fake in [&one, &one, &other] {
            registry.add(table(fake)).unwrap();
        }
        let (all, hwpt) = (TrackerKind::AllDirty, TrackerKind::Hwpt);
        assert_eq!(kinds(&registry), [hwpt, all, all, hwpt, all]);
        registry.remove(0);
        assert_eq!(kinds(&registry), [hwpt, all, all, hwpt, all]);
        registry.remove(1);
        assert_eq!(kinds(&registry), [all, all, all, hwpt, all]);
        // The trackers' places are used again; the writers' numbers are not.
        assert_eq!(registry.add(table(&one)).unwrap(), 3);
        assert_eq!(kinds(&registry), [hwpt, all, all, hwpt, all]);
        assert_eq!(registry.writers().map(|(i, _)| i).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn the_same_page_table_with_another_address_space_or_page_is_refused() {
        let mut registry = Registry::new(page());
        let fake = Fake { ioas: Some(1), ..Fake::new(1) };
        registry.add(table(&fake)).unwrap();
        let others = [
            table(&Fake { ioas: Some(2), ..fake.clone() }),
            table(&Fake { ioas: None, ..fake.clone() }),
            Writer { hwpt_page_size: PageSize::new(1 << 16), ..table(&fake) },
            Writer { hwpt_page_size: PageSize::new(1 << 31), ..table(&Fake::new(2)) },
        ];
        for other in others {
            assert_eq!(registry.add(other).unwrap_err().code(), Code::Inval);
        }
        assert_eq!((registry.num_writers(), registry.trackers().len()), (1, 2));
        // Pages smaller than those of the tracking count as equal to them.
        registry.add(Writer { hwpt_page_size: PageSize::new(512), ..table(&fake) }).unwrap();
    }

    #[test]
    fn there_are_no_more_writers_than_any_machine_has() {
        let mut registry = Registry::new(page());
        for _ in 0..MAX_WRITERS {
            registry.add(Writer::default()).unwrap();
        }
        assert_eq!(registry.add(Writer::default()).unwrap_err().code(), Code::NoMem);
        registry.remove(0);
        assert_eq!(registry.add(Writer::default()).unwrap(), MAX_WRITERS);
    }
}
