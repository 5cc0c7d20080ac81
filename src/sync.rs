// SPDX-License-Identifier: MIT OR Apache-2.0
//! Locks, condition variables and atomics for what several threads use at once.
//!
//! They are the standard library's. Tests compile the same sources again with others: those of the
//! shuttle crate, whose scheduler decides at each of them which thread goes on (`tests/shuttle`),
//! and pthreads' own, which the thread sanitizer understands (`tests/tsan`). The tests beside the
//! sources run without that scheduler, whatever they are compiled with.

#[cfg(not(any(all(shuttle, not(test)), pthread_locks)))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

#[cfg(pthread_locks)]
pub(crate) use vfiomig_pthread_locks::{Condvar, Mutex, MutexGuard};

/// Locks of what a process has once: it outlives the runs of shuttle's scheduler, so they are not
/// shuttle's. No thread gives way to another one while it has such a lock.
pub(crate) mod global {
    #[cfg(not(pthread_locks))]
    pub(crate) use std::sync::{Mutex, MutexGuard};
    #[cfg(pthread_locks)]
    pub(crate) use vfiomig_pthread_locks::{Mutex, MutexGuard};
}

#[cfg(any(not(shuttle), test))]
pub(crate) use std::sync::atomic;

#[cfg(all(shuttle, not(test)))]
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, atomic};

/// Per-thread values. To the operating system, all of shuttle's threads are one.
#[cfg(all(shuttle, not(test)))]
pub(crate) use shuttle::thread_local;
#[cfg(any(not(shuttle), test))]
pub(crate) use std::thread_local;

// The simulator compiles this file, too.

/// Whether a thread may wait in the kernel: all of shuttle's threads would wait with it.
#[allow(dead_code)]
pub(crate) fn may_block() -> bool {
    cfg!(any(not(shuttle), test))
}

/// Lets others go on, where a scheduler decides who does.
#[allow(dead_code)]
pub(crate) fn give_way() {
    #[cfg(all(shuttle, not(test)))]
    shuttle::thread::yield_now();
}
