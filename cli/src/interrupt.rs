// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals that ask the tool to stop, for commands that have something to undo first. All others
//! end as any program does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

/// Whether one has come, and which.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// From now on, these signals are noted and do nothing else.
    pub fn watch(&self) -> std::io::Result<()> {
        // A test process has signals of its own.
        if cfg!(test) {
            return Ok(());
        }
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register_usize(signal, Arc::clone(&self.0), signal as usize)?;
        }
        // What cannot be written because of a limit fails, and is undone.
        flag::register(SIGXFSZ, Arc::default())?;
        Ok(())
    }

    /// The signal that came, if one did.
    pub fn signal(&self) -> Option<i32> {
        i32::try_from(self.0.load(Ordering::Relaxed)).ok().filter(|signal| *signal != 0)
    }

    /// As if this signal had come.
    #[cfg(test)]
    pub fn raise(&self, signal: i32) {
        self.0.store(signal as usize, Ordering::Relaxed);
    }
}
