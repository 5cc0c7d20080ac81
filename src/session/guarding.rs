// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guards of a load: the driver gets nothing that one of them has not let pass.

use std::sync::PoisonError;

use crate::error::{Operation, Result, err};
use crate::guard::{self, Guard};
use crate::identity::Identity;
use crate::sync::{Mutex, MutexGuard};

/// The guards of one load, in the order in which they are asked.
pub(super) struct Guarding {
    guards: Vec<Box<dyn Guard>>,
    /// Bytes of the device's data since the beginning or the last restart.
    offset: u64,
}

impl Guarding {
    fn each(&mut self, mut ask: impl FnMut(&mut dyn Guard) -> Result<()>) -> Result<()> {
        self.guards.iter_mut().try_for_each(|guard| ask(guard.as_mut()))
    }

    /// The driver is about to get these bytes.
    pub fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let offset = self.offset;
        self.each(|guard| guard.data(bytes, offset))?;
        self.offset = offset.saturating_add(bytes.len() as u64);
        Ok(())
    }

    pub fn restart(&mut self) -> Result<()> {
        self.offset = 0;
        self.each(|guard| guard.restart())
    }

    pub fn end(&mut self) -> Result<()> {
        let len = self.offset;
        self.each(|guard| guard.end(len))
    }
}

/// Where a load keeps them. They may be callbacks of the VMM, so no lock is held while one of them
/// runs; the device's lock sees to it that they are asked one after another.
pub(super) struct Guards {
    any: bool,
    /// Nothing while they are being asked, and after the load.
    here: Mutex<Option<Guarding>>,
}

impl Guards {
    /// The library's guard for this target, if it is wanted, and the VMM's.
    pub fn begin(ours: bool, theirs: Option<Box<dyn Guard>>, target: &Identity) -> Result<Guards> {
        let ours = if ours { guard::built_in(target) } else { None };
        let guards: Vec<_> = [ours, theirs].into_iter().flatten().collect();
        let mut guarding = Guarding { guards, offset: 0 };
        guarding.each(|guard| guard.begin())?;
        Ok(Guards { any: !guarding.guards.is_empty(), here: Mutex::new(Some(guarding)) })
    }

    /// Asks all of them. What one refuses is the stream's fault.
    pub fn ask(&self, ask: impl FnOnce(&mut Guarding) -> Result<()>) -> Result<()> {
        if !self.any {
            return Ok(());
        }
        // One that panics is gone, and nothing passes after it.
        let Some(mut guarding) = self.lock().take() else {
            return Err(err!(NotRecoverable, "the guard of this load is gone"));
        };
        let result = ask(&mut guarding);
        *self.lock() = Some(guarding);
        result.map_err(|error| error.amend(|failure| failure.operation = Operation::Stream))
    }

    /// The load is over: callbacks are released.
    pub fn release(&self) {
        let guarding = self.lock().take();
        drop(guarding);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Guarding>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
