// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a source makes progress.
//!
//! Only the time counts in which the library waits for the source: not what a driver, a callback or
//! a reset takes. There is no thread and no timer: calls look at the clock, and say how long a VMM
//! may wait before it calls again.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::error::{Result, err};
use crate::sync::{Mutex, MutexGuard};

/// How much has to come, and in which time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub time: Duration,
    pub bytes: u64,
}

/// The present stretch of time.
#[derive(Debug)]
struct Stretch {
    /// What has come in it, in bytes.
    came: u64,
    /// How long the source was waited for in it, up to `since`.
    waited: Duration,
    /// Since when it is waited for; `None` while the library is busy.
    since: Option<Instant>,
    /// How many threads are busy.
    busy: u32,
    /// The whole stream has come, or nothing of it is wanted.
    over: bool,
}

impl Stretch {
    fn waited(&self) -> Duration {
        self.waited.saturating_add(self.since.map_or(Duration::ZERO, |since| since.elapsed()))
    }
}

/// The pace of one load.
#[derive(Debug)]
pub(super) struct Progress {
    pace: Option<Pace>,
    stretch: Mutex<Stretch>,
}

/// While this lives, the source is not waited for.
pub(super) struct Busy<'a>(&'a Progress);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if self.0.pace.is_some() {
            let mut stretch = self.0.lock();
            stretch.busy = stretch.busy.saturating_sub(1);
            if stretch.busy == 0 {
                stretch.since = Some(Instant::now());
            }
        }
    }
}

impl Progress {
    /// The first stretch begins.
    pub fn new(pace: Option<Pace>) -> Progress {
        let since = pace.map(|_| Instant::now());
        let stretch = Stretch { came: 0, waited: Duration::ZERO, since, busy: 0, over: false };
        Progress { pace, stretch: Mutex::new(stretch) }
    }

    /// The library has something to do other than wait.
    pub fn busy(&self) -> Busy<'_> {
        if self.pace.is_some() {
            let mut stretch = self.lock();
            stretch.waited = stretch.waited();
            stretch.since = None;
            stretch.busy += 1;
        }
        Busy(self)
    }

    /// Bytes have come.
    pub fn came(&self, bytes: u64) {
        let Some(pace) = self.pace else { return };
        let mut stretch = self.lock();
        stretch.came = stretch.came.saturating_add(bytes);
        if stretch.came >= pace.bytes {
            (stretch.came, stretch.waited) = (0, Duration::ZERO);
            stretch.since = stretch.since.map(|_| Instant::now());
        }
    }

    /// Nothing more is waited for.
    pub fn over(&self) {
        self.lock().over = true;
    }

    /// How much longer the source may take; `None`: as long as it likes.
    pub fn left(&self) -> Option<Duration> {
        let pace = self.pace?;
        let stretch = self.lock();
        (!stretch.over).then(|| pace.time.saturating_sub(stretch.waited()))
    }

    /// An error if the source was too slow.
    pub fn check(&self) -> Result<()> {
        match (self.pace, self.left()) {
            (Some(pace), Some(Duration::ZERO)) => Err(err!(
                TimedOut,
                "the source sent {} bytes in {} ms, and {} are wanted in that time",
                self.lock().came,
                pace.time.as_millis(),
                pace.bytes
            )),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stretch> {
        self.stretch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use std::thread::sleep;

    const TIME: Duration = Duration::from_millis(60);

    fn progress(bytes: u64) -> Progress {
        Progress::new(Some(Pace { time: TIME, bytes }))
    }

    #[test]
    fn a_trickle_is_no_progress_and_enough_is() {
        let slow = progress(100);
        slow.came(99);
        sleep(TIME);
        assert_eq!(slow.left(), Some(Duration::ZERO));
        assert_eq!(slow.check().unwrap_err().code(), Code::TimedOut);
        let enough = progress(100);
        enough.came(60);
        sleep(TIME / 2);
        enough.came(40);
        sleep(TIME / 2 + Duration::from_millis(5));
        enough.check().unwrap();
        assert!(enough.left().unwrap() < TIME);
        sleep(TIME);
        assert!(enough.check().is_err());
    }

    #[test]
    fn time_in_which_the_library_is_busy_is_not_the_sources() {
        let progress = progress(1);
        let (one, two) = (progress.busy(), progress.busy());
        sleep(TIME * 2);
        drop(one);
        progress.check().unwrap();
        assert!(progress.left().unwrap() > TIME / 2);
        drop(two);
        sleep(TIME);
        assert!(progress.check().is_err());
        progress.over();
        assert_eq!(progress.left(), None);
        progress.check().unwrap();
    }

    #[test]
    fn without_a_pace_there_is_no_deadline() {
        let progress = Progress::new(None);
        drop(progress.busy());
        progress.came(1);
        assert_eq!(progress.left(), None);
        progress.check().unwrap();
    }
}
