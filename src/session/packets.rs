// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packets of one load: many threads bring them in any order, one writes them to the driver.
//!
//! Whatever goes wrong on any thread ends the load for all of them, and each is told the first
//! reason. The device's lock is never waited for while the queue's is held, and in a callback nobody
//! waits for packets, for room or for calls to leave.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::loading::{Loading, Phase, callback_refused};
use super::options::BlobSink;
use super::stats::{add, set};
use crate::error::{Code, Error, Result, err, of_another_process};
use crate::stream::qemu::{Held, Packet, PacketLimits, Quota, Window};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::sys::current_thread_token;
use crate::waiting;

/// The way in for packets of a load. Cloning shares it; every method may be called from any thread.
#[derive(Clone)]
pub struct Packets {
    shared: Arc<Incoming>,
}

struct Incoming {
    load: Arc<Loading>,
    queue: Mutex<Queue>,
    /// Something came, room came, or an end.
    changed: Condvar,
    /// A call has left.
    left: Condvar,
    /// How long a packet waits for room while nothing moves.
    patience: Duration,
}

struct Queue {
    window: Window,
    sink: Option<BlobSink>,
    /// Whether the main channel stands between two sections.
    main_at_rest: bool,
    /// The first error of all threads.
    failed: Option<Error>,
    run: Run,
    /// Calls under way.
    inside: usize,
    /// Of these, how many wait for `changed`. Waking nobody costs a system call all the same.
    sleepers: usize,
    /// Whether the load waits for calls to leave.
    closing: bool,
    /// Packets that were written so far.
    written: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    NotYet,
    /// On the thread with this token.
    By(usize),
    Over,
}

/// A call under way, counted for as long as it lasts.
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

    /// Takes one packet, head included; its bytes are copied. Waits while too much is queued, except
    /// in a callback: there that is [`Code::Again`], which does not end the load.
    pub fn submit(&self, packet: &[u8]) -> Result<()> {
        let _inside = self.enter()?;
        match self.put(packet) {
            Err(error) if error.code() == Code::Again => Err(error),
            other => other.map_err(|error| self.fail(error)),
        }
    }

    fn put(&self, packet: &[u8]) -> Result<()> {
        let shared = &*self.shared;
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
            // A slow driver moves within a packet too.
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
        // The copy is made away from the lock: other channels go on.
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
            return Err(err!(Inval, "packets are not loaded in a callback: that waits for them"));
        }
        // What the main channel is still writing comes first.
        drop(shared.load.device.lock());
        let _inside = self.enter()?;
        let main_at_rest = {
            let mut queue = shared.lock();
            match queue.run {
                Run::NotYet => queue.run = Run::By(current_thread_token()),
                Run::By(_) => return Err(err!(Inval, "another call loads the packets already")),
                Run::Over => return Err(err!(Inval, "the packets have been loaded already")),
            }
            queue.main_at_rest
        };
        let result = match main_at_rest {
            true => self.write_all(),
            false => Err(err!(
                Proto,
                "packets are to be loaded, and the main channel is not between two sections"
            )),
        };
        let result = result.map_err(|error| self.fail(error));
        self.shared.lock().run = Run::Over;
        result
    }

    fn write_all(&self) -> Result<()> {
        let shared = &*self.shared;
        loop {
            let held = shared.next()?;
            if held.config {
                return self.give_config(held);
            }
            {
                let mut inner = shared.load.device.lock()?;
                shared.check(&shared.lock())?;
                shared.load.check_alive(&inner)?;
                shared.load.write(&mut inner, &held.bytes)?;
            }
            let mut queue = shared.lock();
            queue.window.done(held);
            queue.written += 1;
            set(&shared.load.stats.queued_bytes, queue.window.queued());
            shared.wake(&queue);
        }
    }

    /// The VMM loads its configuration without any of the library's locks held: it may have to
    /// wait for a lock of its own that another caller of the library has.
    fn give_config(&self, held: Held) -> Result<()> {
        let shared = &*self.shared;
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
        let inner = shared.load.device.lock()?;
        let mut queue = shared.lock();
        shared.check(&queue)?;
        queue.window.done(held);
        set(&shared.load.stats.queued_bytes, queue.window.queued());
        drop(queue);
        shared.load.check_alive(&inner)?;
        shared.load.complete();
        Ok(())
    }

    /// The first error of all threads, if there was one.
    pub(super) fn failed(&self) -> Option<Error> {
        self.shared.lock().failed.clone()
    }

    /// Whether packets are being written, or have been: then nothing else may be.
    pub(super) fn has_begun(&self) -> bool {
        self.shared.lock().run != Run::NotYet
    }

    /// Told after each push.
    pub(super) fn main_channel(&self, at_rest: bool) {
        self.shared.lock().main_at_rest = at_rest;
    }

    /// Whether a call is under way.
    pub fn in_use(&self) -> bool {
        !self.is_of_parent() && self.shared.lock().inside > 0
    }

    /// Whether this is a child after fork(), where another thread may have held the queue's lock.
    fn is_of_parent(&self) -> bool {
        self.shared.load.device.is_of_parent()
    }

    /// Makes waiting calls look at the cancellation.
    pub(super) fn wake(&self) {
        if self.is_of_parent() {
            return;
        }
        // With the lock: nobody is between looking and waiting.
        self.shared.wake(&self.shared.lock());
    }

    /// Stops all calls with an error, or with the one that came before it, which is returned.
    pub(super) fn stop(&self, error: Error) -> Error {
        let mut queue = self.shared.lock();
        let first = queue.failed.get_or_insert(error).clone();
        queue.window.clear();
        set(&self.shared.load.stats.queued_bytes, queue.window.queued());
        // Ends a write that is under way; the reason is the one above.
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
            // In a callback, with the device in use: whoever comes next resets it.
            Err(_) => first,
        }
    }

    /// The load goes: calls that are under way end, and the callback is released.
    pub(super) fn close(&self) {
        self.stop(err!(Cancelled, "the load was freed"));
        // A callback that lets its own load go must not wait for itself: one of the device's has its
        // lock, the configuration's is inside here.
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

    /// Wakes who waits for a change. The lock is still held: nobody is between looking and waiting.
    fn wake(&self, queue: &Queue) {
        if queue.sleepers > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits until something was written, but not for ever.
    fn wait_for_room<'q>(&self, mut queue: MutexGuard<'q, Queue>) -> MutexGuard<'q, Queue> {
        queue.sleepers += 1;
        let written = queue.written;
        let nothing_moves = |queue: &mut Queue| {
            queue.written == written && queue.failed.is_none() && !self.load.cancel.is_cancelled()
        };
        let waited = self.changed.wait_timeout_while(queue, self.patience, nothing_moves);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        queue.sleepers -= 1;
        queue
    }

    /// What has ended the load meanwhile.
    fn check(&self, queue: &Queue) -> Result<()> {
        match &queue.failed {
            Some(error) => Err(error.clone()),
            None if self.load.cancel.is_cancelled() => {
                Err(Error::new(Code::Cancelled, "the load was cancelled"))
            }
            None => Ok(()),
        }
    }

    /// Waits for the next packet in order.
    fn next(&self) -> Result<Held> {
        let mut queue = self.lock();
        loop {
            self.check(&queue)?;
            if let Some(held) = queue.window.take() {
                return Ok(held);
            }
            queue.sleepers += 1;
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.sleepers -= 1;
        }
    }
}

impl fmt::Debug for Packets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packets")
    }
}
