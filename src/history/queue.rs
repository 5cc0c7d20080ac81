// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events that wait until somebody fetches them, and the descriptor that says so.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, PoisonError};

use super::record::{Entry, Note, Record, What};
use crate::alloc;
use crate::error::{Result, err};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::Bell;

/// How many events wait at most, besides [`FOR_EACH`].
const SOME: usize = 64;
/// And how many more for each device: twice what happens to one in a whole migration.
const FOR_EACH: usize = 32;
/// How far back an event that is only repeated is looked for: nobody waits long for the lock.
const NEAR: usize = 16;

/// An event that was fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What happened, and to whom.
    pub entry: Entry,
    /// How many were dropped before it, after the one that was fetched before, because nobody came.
    pub lost: u64,
}

/// Events of one device, or of a group and its devices, in the order in which they were recorded.
///
/// If nobody fetches them, the oldest of whoever has most are dropped: what matters most is how it is
/// now, and one that never stops talking must not drive out how the others have ended.
pub(crate) struct Queue {
    /// Rings while events wait: it changes under the lock only, so that it is never wrong.
    bell: Bell,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Has its memory from the beginning.
    events: VecDeque<Entry>,
    most: usize,
    /// How many of them are of the group, and of each device.
    counts: Vec<usize>,
    /// Dropped since the last one was fetched.
    lost: u64,
}

impl Queue {
    /// For this many devices.
    pub fn new(devices: usize) -> Result<Queue> {
        let bell = Bell::new().map_err(|errno| match errno.0 {
            libc::EMFILE | libc::ENFILE | libc::ENOMEM => {
                err!(NoMem, "no descriptor for events: {errno}")
            }
            _ => err!(Io, "no descriptor for events: {errno}"),
        })?;
        let queue = Queue { bell, waiting: Mutex::default() };
        queue.make_room(devices)?;
        Ok(queue)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn rings(&self) -> bool {
        use std::os::fd::AsFd;
        let channel = crate::sys::Channel::new(self.bell.as_fd()).unwrap();
        channel.wait(crate::sys::Direction::Read, std::time::Duration::ZERO)
    }

    #[cfg(test)]
    pub fn hold(&self) -> impl Drop + '_ {
        self.lock()
    }

    /// There are so many devices.
    pub fn make_room(&self, devices: usize) -> Result<()> {
        const NONE: &str = "no memory for events that wait";
        let most = SOME.saturating_add(devices.saturating_mul(FOR_EACH));
        // Without the lock, which is held by nobody who may have to wait for memory.
        let mut events = VecDeque::new();
        alloc::reserve(&mut events, most, NONE)?;
        let mut counts = alloc::filled(0, devices.saturating_add(1), NONE)?;
        let mut waiting = self.lock();
        if waiting.most < most {
            events.extend(waiting.events.drain(..));
            for (to, from) in counts.iter_mut().zip(&waiting.counts) {
                *to = *from;
            }
            std::mem::swap(&mut waiting.events, &mut events);
            std::mem::swap(&mut waiting.counts, &mut counts);
            waiting.most = most;
        }
        Ok(())
    }

    /// Keeps what happened until it is fetched.
    fn put(&self, waiting: &mut Waiting, device: Option<u32>, at_ns: u64, note: &Note) {
        if waiting.absorb(device, at_ns, note) {
            return;
        }
        if waiting.events.len() >= waiting.most {
            waiting.drop_one();
        }
        let record = Record { number: 0, at_ns, times: 1, note: *note };
        waiting.events.push_back(Entry { device, record });
        if let Some(count) = waiting.count_mut(device) {
            *count += 1;
        }
        if waiting.events.len() == 1 {
            self.bell.ring();
        }
    }

    /// The oldest event that waits, if one does.
    pub fn next(&self) -> Option<Event> {
        let mut waiting = self.lock();
        let entry = waiting.events.pop_front()?;
        waiting.gone(entry.device);
        if waiting.events.is_empty() {
            self.bell.hush();
        }
        Some(Event { entry, lost: std::mem::take(&mut waiting.lost) })
    }

    /// What is readable while an event waits.
    pub fn fd(&self) -> i32 {
        self.bell.number()
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Queue")
    }
}

/// The group comes first, then its devices.
fn place(device: Option<u32>) -> usize {
    device.map_or(0, |number| number as usize + 1)
}

impl Waiting {
    fn count_mut(&mut self, device: Option<u32>) -> Option<&mut usize> {
        self.counts.get_mut(place(device))
    }

    fn gone(&mut self, device: Option<u32>) {
        if let Some(count) = self.count_mut(device) {
            *count = count.saturating_sub(1);
        }
    }

    /// The oldest event of whoever has most is dropped.
    fn drop_one(&mut self) {
        let most = self.counts.iter().max().copied();
        let has_most = |entry: &Entry| self.counts.get(place(entry.device)).copied() == most;
        let oldest = self.events.iter().position(has_most).unwrap_or(0);
        if let Some(entry) = self.events.remove(oldest) {
            self.gone(entry.device);
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// Whether the newest event of this device was only repeated.
    fn absorb(&mut self, device: Option<u32>, at_ns: u64, note: &Note) -> bool {
        match note.what {
            What::Round | What::Verdict | What::Error | What::DriverFailed => {
                let mut near = self.events.iter_mut().rev().take(NEAR);
                let newest = near.find(|entry| entry.device == device);
                newest.is_some_and(|entry| entry.record.absorb(at_ns, note))
            }
            _ => false,
        }
    }
}

/// Whom a recorder tells what it records.
#[derive(Default)]
pub(super) struct Listeners {
    /// The queue of its device, or of its group.
    own: Option<Arc<Queue>>,
    /// Those of the groups that its device was added to, and the device's number there.
    groups: Vec<(u32, Arc<Queue>)>,
}

impl Listeners {
    pub fn own(&self) -> Option<&Arc<Queue>> {
        self.own.as_ref()
    }

    /// Returns the queue of its own, which is this one if there was none.
    pub fn set_own(&mut self, queue: Arc<Queue>) -> &Arc<Queue> {
        self.own.get_or_insert(queue)
    }

    /// There is no longer a queue of its own.
    pub fn take_own(&mut self) -> Option<Arc<Queue>> {
        self.own.take()
    }

    pub fn join(&mut self, number: u32, queue: Arc<Queue>) -> Result<()> {
        alloc::push(&mut self.groups, (number, queue), "no memory for a group that hears a device")
    }

    pub fn leave(&mut self, queue: &Arc<Queue>) {
        self.groups.retain(|(_, of_group)| !Arc::ptr_eq(of_group, queue));
    }

    fn each(&self) -> impl Iterator<Item = (Option<u32>, &Queue)> {
        let own = self.own.iter().map(|queue| (None, queue.as_ref()));
        own.chain(self.groups.iter().map(|(number, queue)| (Some(*number), queue.as_ref())))
    }

    pub fn tell(&self, at_ns: u64, note: &Note) {
        for (device, queue) in self.each() {
            queue.put(&mut queue.lock(), device, at_ns, note);
        }
    }

    /// Tells all of them, or none, if somebody, this thread perhaps, is at one of them.
    pub fn try_tell(&self, at_ns: u64, note: &Note) -> bool {
        fn tell_rest(
            rest: &mut dyn Iterator<Item = (Option<u32>, &Queue)>,
            at_ns: u64,
            note: &Note,
        ) -> bool {
            let Some((device, queue)) = rest.next() else { return true };
            let Ok(mut waiting) = queue.waiting.try_lock() else { return false };
            let all = tell_rest(rest, at_ns, note);
            if all {
                queue.put(&mut waiting, device, at_ns, note);
            }
            all
        }
        tell_rest(&mut self.each(), at_ns, note)
    }
}
