// SPDX-License-Identifier: MIT OR Apache-2.0
//! Locks, condition variables and atomics of what several threads use at once.
//!
//! They are the standard library's. In `tests/shuttle` the same sources are compiled once more with
//! those of the shuttle crate, whose scheduler decides at each of them which thread goes on.

#[cfg(not(shuttle))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic};

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, atomic};
