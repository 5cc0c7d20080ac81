// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device that several handles and callbacks share: its lock, and the time that reads, writes
//! and changes of state take outside of it.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
#[cfg(not(pthread_locks))]
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[cfg(pthread_locks)]
use vfiomig_pthread_locks::OnceLock;

use crate::device::{Core, UserMemory};
use crate::options::SimOptions;
use crate::region::Regions;
use crate::sync::{Mutex, MutexGuard};

pub(crate) struct Shared {
    core: Mutex<Core>,
    /// Locked after it.
    regions: Mutex<Regions>,
    /// Always readable and writable, as the data fds of most drivers are.
    poll: OnceLock<Option<OwnedFd>>,
    /// Callbacks in progress: the library promises one at a time.
    inside: AtomicUsize,
    releases: AtomicU32,
}

impl Shared {
    pub(crate) fn new(options: SimOptions) -> Result<Shared, i32> {
        Ok(Shared {
            regions: Mutex::new(Regions::new(&options)?),
            core: Mutex::new(Core::new(options)?),
            poll: OnceLock::new(),
            inside: AtomicUsize::new(0),
            releases: AtomicU32::new(0),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        core.pass_time(Instant::now());
        core
    }

    /// Runs a callback of the table.
    pub(crate) fn callback<T>(&self, call: impl FnOnce(&Shared) -> T) -> T {
        if self.inside.fetch_add(1, Ordering::AcqRel) != 0 {
            self.lock().violation(c"two callbacks of one device at a time");
        }
        let result = call(self);
        self.inside.fetch_sub(1, Ordering::AcqRel);
        result
    }

    pub(crate) fn feature(
        &self,
        flags: u32,
        payload: &mut [u8],
        user: &mut dyn UserMemory,
    ) -> Result<(), i32> {
        // Changes of state take their time without the lock: the guest may reset the device in the
        // meantime.
        let pause = self.lock().time_of_change(flags, payload);
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        self.lock().feature(flags, payload, user)
    }

    pub(crate) fn reset(&self) -> Result<(), i32> {
        self.lock().reset()
    }

    pub(crate) fn read(&self, token: i32, buf: &mut [u8]) -> Result<usize, i32> {
        let mut core = self.lock();
        let limit = core.read_limit(buf.len());
        let result = core.read(token, buf.get_mut(..limit).unwrap_or_default());
        let pause = core.read_pause(&result);
        drop(core);
        sleep(pause);
        result
    }

    pub(crate) fn write(&self, token: i32, buf: &[u8]) -> Result<usize, i32> {
        let mut core = self.lock();
        let limit = core.write_limit(buf.len());
        let result = core.write(token, buf.get(..limit).unwrap_or_default());
        let pause = core.write_pause(&result);
        drop(core);
        sleep(pause);
        result
    }

    /// Something with the regions of a device.
    pub(crate) fn region<T>(&self, call: impl FnOnce(&mut Regions, &mut Core) -> T) -> T {
        let mut core = self.lock();
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        call(&mut regions, &mut core)
    }

    pub(crate) fn poll_fd(&self, token: i32) -> Result<i32, i32> {
        self.lock().check_token(token)?;
        let fd = self.poll.get_or_init(|| {
            // SAFETY: eventfd takes no pointers.
            #[allow(unsafe_code)]
            let fd = unsafe { libc::eventfd(1, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
            // SAFETY: a fresh fd, owned by nobody else.
            #[allow(unsafe_code)]
            (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
        });
        fd.as_ref().map(OwnedFd::as_raw_fd).ok_or(libc::EMFILE)
    }

    pub(crate) fn released(&self) {
        self.releases.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn releases(&self) -> u32 {
        self.releases.load(Ordering::Relaxed)
    }
}

fn sleep(pause: Duration) {
    if !pause.is_zero() {
        std::thread::sleep(pause);
    }
}
