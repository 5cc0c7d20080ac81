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
/// If nobody fetches them, the oldest are dropped: what matters most is how it is now, and what has
/// ended a migration comes last.
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
        let mut waiting = self.lock();
        let most = SOME.saturating_add(devices.saturating_mul(FOR_EACH));
        let more = most.saturating_sub(waiting.events.len());
        alloc::reserve(&mut waiting.events, more, "no memory for events that wait")?;
        waiting.most = most;
        Ok(())
    }

    /// Whether nobody, not even this thread, is at it.
    pub fn is_free(&self) -> bool {
        self.waiting.try_lock().is_ok()
    }

    /// Keeps what happened until it is fetched.
    fn put(&self, device: Option<u32>, at_ns: u64, note: &Note) {
        let mut waiting = self.lock();
        if waiting.absorb(device, at_ns, note) {
            return;
        }
        if waiting.events.len() >= waiting.most {
            waiting.events.pop_front();
            waiting.lost = waiting.lost.saturating_add(1);
        }
        let record = Record { number: 0, at_ns, times: 1, note: *note };
        waiting.events.push_back(Entry { device, record });
        if waiting.events.len() == 1 {
            self.bell.ring();
        }
    }

    /// The oldest event that waits, if one does.
    pub fn next(&self) -> Option<Event> {
        let mut waiting = self.lock();
        let entry = waiting.events.pop_front()?;
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

impl Waiting {
    /// Whether the newest event of this device was only repeated.
    fn absorb(&mut self, device: Option<u32>, at_ns: u64, note: &Note) -> bool {
        match note.what {
            What::Round | What::Verdict | What::Error | What::DriverFailed => {
                let newest = self.events.iter_mut().rev().find(|entry| entry.device == device);
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

    pub fn are_free(&self) -> bool {
        self.each().all(|(_, queue)| queue.is_free())
    }

    pub fn tell(&self, at_ns: u64, note: &Note) {
        self.each().for_each(|(device, queue)| queue.put(device, at_ns, note));
    }
}
