// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device among threads and processes: its lock, and what is read without it.

use std::sync::{Arc, TryLockError};

use super::inner::Inner;
use crate::error::{Result, err, of_another_process};
use crate::fixups::{AtomicFixups, Fixups};
use crate::history::Recorder;
use crate::sync::atomic::AtomicU64;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::Process;
use crate::waiting::{self, HoldsDevice};

pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// What the VMM must redo; outside the lock, so that it can be read while a session is busy.
    fixups: Arc<AtomicFixups>,
    /// How often the device was reset; likewise outside the lock.
    resets: Arc<AtomicU64>,
    /// The process that the device belongs to: a child after fork() has a copy, and leaves the
    /// device alone.
    process: Process,
    recorder: Arc<Recorder>,
}

/// The device, locked.
pub(crate) struct Locked<'a> {
    inner: MutexGuard<'a, Inner>,
    _holds: HoldsDevice,
}

impl Shared {
    pub fn new(inner: Inner) -> Shared {
        let (fixups, resets) = (inner.belief.shared_fixups(), inner.belief.resets());
        let recorder = Arc::clone(&inner.recorder);
        Shared { fixups, resets, process: inner.process, recorder, inner: Mutex::new(inner) }
    }

    pub fn lock(&self) -> Result<Locked<'_>> {
        if !self.process.is_this() {
            return Err(of_another_process("device"));
        }
        let locked = match waiting::may_wait() {
            true => self.inner.lock().map_err(TryLockError::Poisoned),
            false => self.inner.try_lock(),
        };
        match locked {
            Ok(inner) => Ok(Locked { inner, _holds: HoldsDevice::new() }),
            Err(TryLockError::WouldBlock) => {
                Err(err!(Busy, "a call is using this device, and a callback does not wait for it"))
            }
            Err(TryLockError::Poisoned(_)) => {
                Err(err!(NotRecoverable, "an earlier internal error has left this device unusable"))
            }
        }
    }

    /// Whether this process is a child of the one that the device belongs to.
    pub fn is_of_parent(&self) -> bool {
        !self.process.is_this()
    }

    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    pub fn fixups(&self) -> Fixups {
        self.fixups.get()
    }

    pub fn resets(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.resets)
    }

    /// If the device certainly writes nothing now: a number that changes once it may have written.
    pub fn quiet(&self) -> Option<u64> {
        // If the device is busy, for example with a read of its state, it is not worth waiting for.
        self.inner.try_lock().ok()?.belief.quiet()
    }
}

impl std::ops::Deref for Locked<'_> {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}
