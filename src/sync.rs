// SPDX-License-Identifier: MIT OR Apache-2.0
//! Locks, condition variables and atomics of what several threads use at once.
//!
//! They are the standard library's. Tests compile the same sources once more with others: with those
//! of the shuttle crate, whose scheduler decides at each of them which thread goes on
//! (`tests/shuttle`), and with pthreads', which the thread sanitizer knows (`tests/tsan`).

#[cfg(not(any(shuttle, pthread_locks)))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

#[cfg(pthread_locks)]
pub(crate) use vfiomig_pthread_locks::{Condvar, Mutex, MutexGuard};

#[cfg(not(shuttle))]
pub(crate) use std::sync::atomic;

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, atomic};

/// What each thread has for itself: shuttle's threads are one to the operating system.
#[cfg(shuttle)]
pub(crate) use shuttle::thread_local;
#[cfg(not(shuttle))]
pub(crate) use std::thread_local;
