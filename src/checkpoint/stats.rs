// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far a checkpoint is, for any thread, and the switch that ends it.

use std::sync::{Arc, PoisonError};

use crate::alloc;
use crate::error::{Result, err};
use crate::session::SharedSave;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What has been done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Bytes of streams read from devices, or from the file.
    pub stream_bytes: u64,
    /// Part of it that was read while the devices were stopped.
    pub stopped_bytes: u64,
    /// Part of it that went to memory first.
    pub spooled_bytes: u64,
    /// Bytes written to the file.
    pub file_bytes: u64,
    /// How many bytes there will be in all, as far as that is known.
    pub expected_bytes: u64,
    /// From the beginning of the switch to the stopped states to its end.
    pub stop_ns: u64,
    /// How long the stopped devices were read.
    pub read_ns: u64,
    /// From the beginning of the switch to the stopped states until all devices had left them.
    pub pause_ns: u64,
}

#[derive(Default)]
pub(super) struct Numbers {
    pub stream_bytes: AtomicU64,
    pub stopped_bytes: AtomicU64,
    pub spooled_bytes: AtomicU64,
    pub file_bytes: AtomicU64,
    pub expected_bytes: AtomicU64,
    pub stop_ns: AtomicU64,
    pub read_ns: AtomicU64,
    pub pause_ns: AtomicU64,
    cancelled: AtomicBool,
    saves: Mutex<Vec<SharedSave>>,
}

/// What any thread may do with a checkpoint at any time.
#[derive(Clone, Default)]
pub struct Watcher(pub(super) Arc<Numbers>);

impl Watcher {
    /// Ends the call in progress, and every later one that reads or writes anything.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
        for save in self.0.saves.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            save.cancel();
        }
    }

    /// What has been done so far.
    pub fn stats(&self) -> Stats {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let Numbers { stream_bytes, stopped_bytes, spooled_bytes, file_bytes, .. } = &*self.0;
        let Numbers { expected_bytes, stop_ns, read_ns, pause_ns, .. } = &*self.0;
        Stats {
            stream_bytes: of(stream_bytes),
            stopped_bytes: of(stopped_bytes),
            spooled_bytes: of(spooled_bytes),
            file_bytes: of(file_bytes),
            expected_bytes: of(expected_bytes),
            stop_ns: of(stop_ns),
            read_ns: of(read_ns),
            pause_ns: of(pause_ns),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.0.cancelled.load(Ordering::Relaxed) {
            true => Err(err!(Cancelled, "the checkpoint was cancelled")),
            false => Ok(()),
        }
    }

    /// Bytes have come from a stopped device.
    pub(super) fn came_stopped(&self, len: usize) {
        add(&self.0.stopped_bytes, len as u64);
        add(&self.0.stream_bytes, len as u64);
    }

    /// A save that a cancellation ends as well.
    pub(super) fn watch(&self, save: SharedSave) -> Result<()> {
        let mut saves = self.0.saves.lock().unwrap_or_else(PoisonError::into_inner);
        alloc::push(&mut saves, save, "no memory for another device of the checkpoint")
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stats().fmt(f)
    }
}

pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

pub(super) fn set(counter: &AtomicU64, n: u64) {
    counter.store(n, Ordering::Relaxed);
}
