// SPDX-License-Identifier: MIT OR Apache-2.0
//! `Mutex`, `Condvar` and `OnceLock` as in the standard library, on pthreads.
//!
//! The thread sanitizer follows pthreads' locks. Those of a standard library that was built without
//! it wait where it does not see them, and everything that they protect looks like a race.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LockResult, PoisonError, TryLockError, TryLockResult};
use std::time::{Duration, Instant};

pub struct Mutex<T: ?Sized> {
    lock: UnsafeCell<libc::pthread_mutex_t>,
    poisoned: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: as std's: the lock lets one thread at a time to the value.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Mutex<T> {
        Mutex::new(T::default())
    }
}

/// What it protects is not shown: that would take the lock.
impl<T: ?Sized> std::fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mutex").finish_non_exhaustive()
    }
}

pub struct MutexGuard<'a, T: ?Sized>(&'a Mutex<T>, std::marker::PhantomData<*const ()>);

// SAFETY: it gives out nothing but the value.
unsafe impl<T: ?Sized + Sync> Sync for MutexGuard<'_, T> {}

impl<T> Mutex<T> {
    /// glibc's mutexes may be moved while nobody holds them.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex {
            lock: UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER),
            poisoned: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    pub fn into_inner(self) -> LockResult<T> {
        let poisoned = self.poisoned.load(Ordering::Relaxed);
        let value = self.value.into_inner();
        if poisoned { Err(PoisonError::new(value)) } else { Ok(value) }
    }
}

impl<T: ?Sized> Mutex<T> {
    fn guard(&self) -> LockResult<MutexGuard<'_, T>> {
        let guard = MutexGuard(self, std::marker::PhantomData);
        match self.poisoned.load(Ordering::Relaxed) {
            true => Err(PoisonError::new(guard)),
            false => Ok(guard),
        }
    }

    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        // SAFETY: an initialised mutex that does not move while it is borrowed.
        assert_eq!(unsafe { libc::pthread_mutex_lock(self.lock.get()) }, 0);
        self.guard()
    }

    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        // SAFETY: as above.
        match unsafe { libc::pthread_mutex_trylock(self.lock.get()) } {
            0 => self.guard().map_err(TryLockError::Poisoned),
            _ => Err(TryLockError::WouldBlock),
        }
    }

    pub fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Relaxed)
    }

    pub fn clear_poison(&self) {
        self.poisoned.store(false, Ordering::Relaxed);
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poisoned.store(true, Ordering::Relaxed);
        }
        // SAFETY: this guard says that the mutex is this thread's.
        unsafe { libc::pthread_mutex_unlock(self.0.lock.get()) };
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the mutex is this thread's.
        unsafe { &*self.0.value.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *self.0.value.get() }
    }
}

pub struct Condvar(UnsafeCell<libc::pthread_cond_t>);

// SAFETY: pthread's are made for it.
unsafe impl Send for Condvar {}
// SAFETY: as above.
unsafe impl Sync for Condvar {}

pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

/// What a timed wait returns.
type Waited<'a, T> = LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)>;

impl Condvar {
    pub const fn new() -> Condvar {
        Condvar(UnsafeCell::new(libc::PTHREAD_COND_INITIALIZER))
    }

    pub fn notify_one(&self) {
        // SAFETY: initialised, and it does not move while it is borrowed.
        unsafe { libc::pthread_cond_signal(self.0.get()) };
    }

    pub fn notify_all(&self) {
        // SAFETY: as above.
        unsafe { libc::pthread_cond_broadcast(self.0.get()) };
    }

    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let mutex = guard.0;
        std::mem::forget(guard);
        // SAFETY: the guard said that the mutex is this thread's, and it is again afterwards.
        unsafe { libc::pthread_cond_wait(self.0.get(), mutex.lock.get()) };
        mutex.guard()
    }

    pub fn wait_timeout<'a, T>(&self, guard: MutexGuard<'a, T>, time: Duration) -> Waited<'a, T> {
        let mutex = guard.0;
        std::mem::forget(guard);
        // SAFETY: zeros are a timespec; clock_gettime writes one.
        let mut until: libc::timespec = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut until) };
        // A day is as long as forever, and does not overflow.
        let time = time.min(Duration::from_secs(86_400));
        let nanos = until.tv_nsec + i64::from(time.subsec_nanos());
        until.tv_sec += time.as_secs() as i64 + nanos / 1_000_000_000;
        until.tv_nsec = nanos % 1_000_000_000;
        // SAFETY: as in wait().
        let ret = unsafe { libc::pthread_cond_timedwait(self.0.get(), mutex.lock.get(), &until) };
        let over = WaitTimeoutResult(ret == libc::ETIMEDOUT);
        match mutex.guard() {
            Ok(guard) => Ok((guard, over)),
            Err(poisoned) => Err(PoisonError::new((poisoned.into_inner(), over))),
        }
    }

    pub fn wait_timeout_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        time: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> Waited<'a, T> {
        let begun = Instant::now();
        let mut guard = guard;
        loop {
            if !condition(&mut guard) {
                return Ok((guard, WaitTimeoutResult(false)));
            }
            let Some(left) = time.checked_sub(begun.elapsed()) else {
                return Ok((guard, WaitTimeoutResult(true)));
            };
            guard = self.wait_timeout(guard, left)?.0;
        }
    }
}

impl Default for Condvar {
    fn default() -> Condvar {
        Condvar::new()
    }
}

/// Takes its lock every time: nothing here is in a hurry.
pub struct OnceLock<T> {
    lock: Mutex<()>,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: the value is written once, under the lock, before anybody reads it.
unsafe impl<T: Send> Send for OnceLock<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for OnceLock<T> {}

impl<T> OnceLock<T> {
    pub const fn new() -> OnceLock<T> {
        OnceLock { lock: Mutex::new(()), value: UnsafeCell::new(None) }
    }

    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        let _guard = self.lock.lock();
        // SAFETY: with the lock, and nobody has a reference to a value that is not there yet.
        unsafe { &mut *self.value.get() }.get_or_insert_with(make)
    }
}

impl<T> Default for OnceLock<T> {
    fn default() -> OnceLock<T> {
        OnceLock::new()
    }
}
