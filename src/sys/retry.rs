// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls that signals interrupt, and how long something may go without progress.

use std::time::{Duration, Instant};

use super::Errno;

/// A system call's result. `EINTR` is one too: reads and writes of device state may block for long,
/// and whoever sent the signal may have meant to end that.
pub(super) fn once(ret: isize) -> Result<usize, Errno> {
    usize::try_from(ret).map_err(|_| Errno::last())
}

/// For how long a call that signals keep interrupting is repeated. Signals do not last that long,
/// but a driver's bug may.
pub(crate) const INTERRUPTED: Duration = Duration::from_secs(2);

/// Repeats a system call while signals interrupt it.
pub(super) fn retry(mut call: impl FnMut() -> isize) -> Result<usize, Errno> {
    uninterrupted(INTERRUPTED, || once(call()))
}

/// Repeats a call while signals interrupt it, for this long; after that, the interruption is the
/// result.
pub(crate) fn uninterrupted<T>(
    patience: Duration,
    mut call: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    let mut stuck = Stuck::default();
    loop {
        match call() {
            Err(Errno(libc::EINTR)) if stuck.interrupted(patience) => {}
            other => return other,
        }
    }
}

/// How long something has made no progress.
#[derive(Default)]
pub(crate) struct Stuck {
    since: Option<Instant>,
    interruptions: u32,
}

impl Stuck {
    /// There was progress.
    pub fn moved(&mut self) {
        *self = Stuck::default();
    }

    /// Nothing was there, or nothing was taken. Returns whether there is time to try again.
    pub fn waits(&mut self, patience: Duration) -> bool {
        self.since.get_or_insert_with(Instant::now).elapsed() < patience
    }

    /// A signal came. Returns whether there is time to try again. When there are more than can be
    /// real signals, it sleeps, to spare the CPU.
    pub fn interrupted(&mut self, patience: Duration) -> bool {
        self.interruptions = self.interruptions.saturating_add(1);
        if self.interruptions > 100_000 {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.waits(patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_interrupted_is_repeated_but_not_for_ever() {
        for (interruptions, patience) in [(0, 0), (1, 1000), (5000, 60_000), (100_010, 60_000)] {
            let mut left = interruptions;
            let result = uninterrupted(Duration::from_millis(patience), || match left {
                0 => Ok(7),
                _ => {
                    left -= 1;
                    Err(Errno(libc::EINTR))
                }
            });
            assert_eq!(result, Ok(7), "{interruptions}");
        }
        let begun = Instant::now();
        let endless = uninterrupted(Duration::from_millis(30), || -> Result<(), Errno> {
            Err(Errno(libc::EINTR))
        });
        assert_eq!(endless, Err(Errno(libc::EINTR)));
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(30) && took < Duration::from_secs(20), "{took:?}");
    }
}
