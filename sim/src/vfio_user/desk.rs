// SPDX-License-Identifier: MIT OR Apache-2.0
//! What other threads have to do with a server: stopping it, and work for the thread that serves. Work
//! is done between two commands of the client, and so in an order with them.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::PoisonError;
use std::sync::mpsc::{SyncSender, sync_channel};

use rustix::event::{EventfdFlags, eventfd};

use super::socket::Bell;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// What the device is to do.
pub(crate) enum Work {
    Write(u64, Vec<u8>),
    Read(u64, usize),
}

/// Work, and where the result is waited for.
pub(crate) struct Job {
    pub work: Work,
    pub done: SyncSender<Result<Vec<u8>, i32>>,
}

#[derive(Default)]
struct Jobs {
    /// Somebody does them.
    open: bool,
    queue: VecDeque<Job>,
}

pub(crate) struct Desk {
    /// Rung when there is something new here.
    bell: OwnedFd,
    stopped: AtomicBool,
    serving: AtomicBool,
    jobs: Mutex<Jobs>,
}

impl Desk {
    pub fn new() -> Result<Desk, i32> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Desk {
            bell: eventfd(0, flags).map_err(|errno| errno.raw_os_error())?,
            stopped: AtomicBool::new(false),
            serving: AtomicBool::new(false),
            jobs: Mutex::new(Jobs::default()),
        })
    }

    fn ring(&self) {
        // It fails only if it has been rung 2^64 times and nobody has answered.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.ring();
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// EBUSY while another thread serves.
    pub fn begin(&self) -> Result<(), i32> {
        if self.serving.swap(true, Ordering::AcqRel) { Err(libc::EBUSY) } else { Ok(()) }
    }

    pub fn end(&self) {
        self.serving.store(false, Ordering::Release);
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on there is a client.
    pub fn open(&self) {
        self.jobs().open = true;
    }

    /// And from now on not. Whoever waits for a job learns that nobody does it.
    pub fn close(&self) {
        *self.jobs() = Jobs::default();
    }

    pub fn next_job(&self) -> Option<Job> {
        self.jobs().queue.pop_front()
    }

    /// Has something done, and waits for it. ENOTCONN without a client.
    pub fn ask(&self, work: Work) -> Result<Vec<u8>, i32> {
        let (done, result) = sync_channel(1);
        {
            let mut jobs = self.jobs();
            if !jobs.open {
                return Err(libc::ENOTCONN);
            }
            jobs.queue.push_back(Job { work, done });
        }
        self.ring();
        result.recv().unwrap_or(Err(libc::ENOTCONN))
    }
}

impl Bell for Desk {
    fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn answer(&self) -> bool {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.is_stopped()
    }
}
