// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packets of one load: many threads bring them in any order, and one writes them to the
//! driver.
//!
//! Anything that goes wrong on any thread ends the load for all of them, and each is told the first
//! reason. No thread waits for the device's lock while it holds the queue's, and in a callback
//! nobody waits for packets, for room, or for calls to leave.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::loading::{Loading, Phase, callback_refused};
use super::options::BlobSink;
use super::stats::{add, set};
use crate::error::{Code, Error, Result, err, of_another_process};
use crate::protocol::LOOK_UP;
use crate::stream::qemu::{Held, Packet, PacketLimits, Quota, Window};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::sys::current_thread_token;
use crate::waiting;

/// The entrance for a load's packets. Clones share it; every method may be called from any thread.
#[derive(Clone)]
pub struct Packets {
    shared: Arc<Incoming>,
}

struct Incoming {
    load: Arc<Loading>,
    queue: Mutex<Queue>,
    /// A packet came, room became free, or the load ended.
    changed: Condvar,
    /// A call has ended.
    left: Condvar,
    /// How long a packet waits for room while nothing moves.
    patience: Duration,
}

struct Queue {
    window: Window,
    sink: Option<BlobSink>,
    /// Whether the main channel is between two sections.
    main_at_rest: bool,
    /// The first error of any thread.
    failed: Option<Error>,
    run: Run,
    /// Calls in progress.
    inside: usize,
    /// How many of these wait for `changed`. notify_all() makes a system call even if nobody waits.
    sleepers: usize,
    /// Whether the load waits for calls to leave.
    closing: bool,
    /// Packets written so far.
    written: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    NotYet,
    /// On the thread with this token.
    By(usize),
    Over,
}

/// A call in progress, counted for as long as it lasts.
struct Inside<'a>(&'a Incoming);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.inside -= 1;
        if queue.closing {
            self.0.left.notify_all();
        }
    }
}

impl Packets {
    pub(super) fn new(
        load: Arc<Loading>,
        limits: PacketLimits,
        quota: Arc<Quota>,
        sink: Option<BlobSink>,
    ) -> Packets {
        let queue = Queue {
            window: Window::new(limits, quota),
            sink,
            main_at_rest: false,
            failed: None,
            run: Run::NotYet,
            inside: 0,
            sleepers: 0,
            closing: false,
            written: 0,
        };
        let patience = load.write_timeout();
        let shared = Incoming {
            load,
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            left: Condvar::new(),
            patience,
        };
        Packets { shared: Arc::new(shared) }
    }

    /// Takes one packet, header included, and copies its bytes. Waits while too much is queued. In
    /// a callback it returns [`Code::Again`] instead, which does not end the load.
    pub fn submit(&self, packet: &[u8]) -> Result<()> {
        let _inside = self.enter()?;
        match self.put(packet) {
            Err(error) if error.code() == Code::Again => Err(error),
            other => other.map_err(|error| self.fail(error)),
        }
    }

    fn put(&self, packet: &[u8]) -> Result<()> {
        let shared = &*self.shared;
        shared.load.progress.check()?;
        let came = packet.len() as u64;
        let packet = Packet::parse(packet)?;
        let mut queue = shared.lock();
        let mut moved = None;
        let reserved = loop {
            shared.check(&queue)?;
            if let Some(reserved) = queue.window.reserve(&packet)? {
                break reserved;
            }
            if !waiting::may_wait() || queue.run == Run::By(current_thread_token()) {
                return Err(err!(
                    Again,
                    "packet {} finds no room now, and a callback does not wait for it",
                    packet.idx
                ));
            }
            // Even within one packet, a slow driver makes progress.
            let so_far = (queue.written, shared.load.stats.load().data_bytes);
            if moved.replace(so_far) == Some(so_far) {
                return Err(err!(
                    TimedOut,
                    "packet {} found no room: {} bytes are queued, and nothing moves",
                    packet.idx,
                    queue.window.queued()
                ));
            }
            queue = shared.wait_for_room(queue);
        };
        drop(queue);
        shared.load.progress.came(came);
        // The copy is made without the lock, so that other channels can go on.
        let held = reserved.copy(&packet)?;
        let mut queue = shared.lock();
        shared.check(&queue)?;
        queue.window.fill(held);
        add(&shared.load.stats.packets, 1);
        set(&shared.load.stats.queued_bytes, queue.window.queued());
        shared.wake(&queue);
        Ok(())
    }

    /// Writes packets to the driver, in order, until the configuration has come and the VMM has
    /// taken it. Call it once, when the main channel has no more data.
    pub fn run(&self) -> Result<()> {
        let shared = &*self.shared;
        if !waiting::may_wait() {
            return Err(err!(
                Inval,
                "packets cannot be loaded in a callback, because that waits for them"
            ));
        }
        // What the main channel is still writing goes first.
        drop(shared.load.device.lock());
        let _inside = self.enter()?;
        let main_at_rest = {
            let mut queue = shared.lock();
            match queue.run {
                Run::NotYet => queue.run = Run::By(current_thread_token()),
                Run::By(_) => {
                    return Err(err!(Inval, "another call is already loading the packets"));
                }
                Run::Over => return Err(err!(Inval, "the packets have been loaded already")),
            }
            queue.main_at_rest
        };
        let result = match main_at_rest {
            true => self.write_all(),
            false => Err(err!(
                Proto,
                "packets cannot be loaded now: the main channel is not between two sections"
            )),
        };
        let result = result.map_err(|error| self.fail(error));
        self.shared.lock().run = Run::Over;
        result
    }

    fn write_all(&self) -> Result<()> {
        let shared = &*self.shared;
        loop {
            let held = match shared.next()? {
                Some(held) if held.config => return self.give_config(held),
                held => held,
            };
            let held = {
                let _busy = shared.load.progress.busy();
                let mut inner = shared.load.device.lock()?;
                shared.check(&shared.lock())?;
                shared.load.check_alive(&mut inner)?;
                let Some(held) = held else { continue };
                shared.load.write(&mut inner, &held.bytes)?;
                held
            };
            let mut queue = shared.lock();
            queue.window.done(held);
            queue.written += 1;
            set(&shared.load.stats.queued_bytes, queue.window.queued());
            shared.wake(&queue);
        }
    }

    /// The VMM loads its configuration while none of the library's locks is held: it may have to
    /// wait for a lock of its own that another caller of the library holds.
    fn give_config(&self, held: Held) -> Result<()> {
        let shared = &*self.shared;
        let _busy = shared.load.progress.busy();
        let sink = shared.lock().sink.take();
        let Some(mut sink) = sink else {
            return Err(err!(
                NotSupported,
                "the configuration came and nobody takes it; set a blob callback"
            ));
        };
        sink(0, &held.bytes)
            .map_err(|errno| callback_refused("the VMM refuses the configuration", errno))?;
        add(&shared.load.stats.blobs, 1);
        drop(sink);
        let mut inner = shared.load.device.lock()?;
        let mut queue = shared.lock();
        shared.check(&queue)?;
        queue.window.done(held);
        set(&shared.load.stats.queued_bytes, queue.window.queued());
        drop(queue);
        shared.load.check_alive(&mut inner)?;
        shared.load.complete()
    }

    /// The first error of any thread, if there was one.
    pub(super) fn failed(&self) -> Option<Error> {
        self.shared.lock().failed.clone()
    }

    /// Whether packets are being written, or have been: then nothing else may be written.
    pub(super) fn has_begun(&self) -> bool {
        self.shared.lock().run != Run::NotYet
    }

    /// Called after each push.
    pub(super) fn main_channel(&self, at_rest: bool) {
        self.shared.lock().main_at_rest = at_rest;
    }

    /// Whether a call is in progress.
    pub fn in_use(&self) -> bool {
        !self.is_of_parent() && self.shared.lock().inside > 0
    }

    /// Whether this is a child after fork(), where another thread may have held the queue's lock.
    fn is_of_parent(&self) -> bool {
        self.shared.load.device.is_of_parent()
    }

    /// Makes waiting calls check for the cancellation.
    pub(super) fn wake(&self) {
        if self.is_of_parent() {
            return;
        }
        // Under the lock, so that nobody is between checking and waiting.
        self.shared.wake(&self.shared.lock());
    }

    /// Stops all calls with this error, or with an earlier one, which is returned.
    pub(super) fn stop(&self, error: Error) -> Error {
        let mut queue = self.shared.lock();
        let first = queue.failed.get_or_insert(error).clone();
        queue.window.clear();
        set(&self.shared.load.stats.queued_bytes, queue.window.queued());
        // Ends a write in progress; the reason is the error above.
        self.shared.load.cancel.cancel();
        self.shared.wake(&queue);
        first
    }

    /// Ends the load because of an error on this thread.
    fn fail(&self, error: Error) -> Error {
        if matches!(self.shared.load.phase(), Phase::Committed) {
            return error;
        }
        let first = self.stop(error);
        match self.shared.load.device.lock() {
            Ok(mut inner) => self.shared.load.settle(&mut inner, first),
            // In a callback, with the device in use: the next call resets it.
            Err(_) => first,
        }
    }

    /// The load is going away: calls in progress end, and the callback is released.
    pub(super) fn close(&self) {
        self.stop(err!(Cancelled, "the load was freed"));
        // A callback that frees its own load must not wait for itself: one of the device's
        // callbacks holds its lock, and the configuration's callback is inside here.
        let may_wait = waiting::may_wait();
        let mut queue = self.shared.lock();
        let own = usize::from(queue.run == Run::By(current_thread_token()));
        queue.closing = true;
        while may_wait && queue.inside > own {
            queue = self.shared.left.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let sink = queue.sink.take();
        drop(queue);
        drop(sink);
    }

    fn enter(&self) -> Result<Inside<'_>> {
        if self.is_of_parent() {
            return Err(of_another_process("load"));
        }
        let mut queue = self.shared.lock();
        if let Some(error) = &queue.failed {
            return Err(error.clone());
        }
        match self.shared.load.phase() {
            Phase::Receiving | Phase::Complete => {
                queue.inside += 1;
                Ok(Inside(&self.shared))
            }
            Phase::Committed => Err(err!(Inval, "the load has been committed")),
            Phase::Failed => Err(err!(Inval, "the load has failed")),
        }
    }
}

impl Incoming {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait for a change. The lock is still held, so nobody is between checking and
    /// waiting.
    fn wake(&self, queue: &Queue) {
        if queue.sleepers > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits until something was written, but not forever.
    fn wait_for_room<'q>(&self, mut queue: MutexGuard<'q, Queue>) -> MutexGuard<'q, Queue> {
        let written = queue.written;
        let begun = Instant::now();
        while let Some(left) = self.patience.checked_sub(begun.elapsed()) {
            let nothing_moves = |queue: &mut Queue| queue.written == written && self.goes_on(queue);
            if !nothing_moves(&mut queue) || left.is_zero() {
                break;
            }
            queue = self.wait(queue, left, nothing_moves);
        }
        queue
    }

    /// Whether nothing has ended the load.
    fn goes_on(&self, queue: &Queue) -> bool {
        queue.failed.is_none() && !self.load.cancel.is_cancelled()
    }

    /// Waits while that holds, but not for longer than [`LOOK_UP`]: nobody wakes a load that is cut
    /// off.
    fn wait<'q>(
        &self,
        mut queue: MutexGuard<'q, Queue>,
        at_most: Duration,
        condition: impl FnMut(&mut Queue) -> bool,
    ) -> MutexGuard<'q, Queue> {
        queue.sleepers += 1;
        let waited = self.changed.wait_timeout_while(queue, LOOK_UP.min(at_most), condition);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        queue.sleepers -= 1;
        queue
    }

    /// What has ended the load in the meantime.
    fn check(&self, queue: &Queue) -> Result<()> {
        match &queue.failed {
            Some(error) => Err(error.clone()),
            None => self.load.check_cancelled(),
        }
    }

    /// Waits for the next packet in order; none: it is time to see whether the load may go on.
    fn next(&self) -> Result<Option<Held>> {
        let mut queue = self.lock();
        self.check(&queue)?;
        let mut held = queue.window.take();
        if held.is_none() {
            self.load.progress.check()?;
            let time = self.load.progress.left().map_or(LOOK_UP, |left| left.min(LOOK_UP));
            queue = self.wait(queue, time, |queue| {
                held = queue.window.take();
                held.is_none() && self.goes_on(queue)
            });
            self.check(&queue)?;
        }
        Ok(held)
    }
}

impl fmt::Debug for Packets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packets")
    }
}
