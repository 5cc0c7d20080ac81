// SPDX-License-Identifier: MIT OR Apache-2.0
//! What other threads have to do with a server: stopping it, what is to go wrong, how many commands
//! came, and work for the thread that serves. Work is done between two commands of the client, and so in
//! an order with them.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::PoisonError;
use std::sync::mpsc::{SyncSender, sync_channel};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::options::MessageFault;
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

/// Commands have numbers below this.
const COMMANDS: usize = 19;

/// A message that goes wrong.
struct Fault {
    /// 0: any.
    command: u16,
    left: u64,
    what: MessageFault,
    value: u64,
}

#[derive(Default)]
struct Messages {
    faults: Vec<Fault>,
    /// Commands that came, by their number; the others are counted as 0.
    came: [u64; COMMANDS],
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
    messages: Mutex<Messages>,
    /// The other ends of pipes whose reading ends were sent to somebody who had not asked.
    unasked: Mutex<Vec<OwnedFd>>,
}

impl Desk {
    pub fn new() -> Result<Desk, i32> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Desk {
            bell: eventfd(0, flags).map_err(|errno| errno.raw_os_error())?,
            stopped: AtomicBool::new(false),
            serving: AtomicBool::new(false),
            jobs: Mutex::new(Jobs::default()),
            messages: Mutex::new(Messages::default()),
            unasked: Mutex::new(Vec::new()),
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

    fn messages(&self) -> MutexGuard<'_, Messages> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn inject_message(&self, command: u16, nth: u64, what: MessageFault, value: u64) {
        self.messages().faults.push(Fault { command, left: nth.max(1), what, value });
    }

    pub fn clear_message_faults(&self) {
        self.messages().faults.clear();
    }

    /// A message is about to be sent: what goes wrong with it.
    pub fn due(&self, command: u16) -> Option<(MessageFault, u64)> {
        let mut messages = self.messages();
        let mut due = None;
        for fault in &mut messages.faults {
            if fault.command == 0 || fault.command == command {
                fault.left -= 1;
                if fault.left == 0 {
                    due.get_or_insert((fault.what, fault.value));
                }
            }
        }
        messages.faults.retain(|fault| fault.left > 0);
        due
    }

    /// A command came.
    pub fn came(&self, command: u16) {
        let mut messages = self.messages();
        let known = usize::from(command) < COMMANDS;
        let slot = messages.came.get_mut(if known { command.into() } else { 0 });
        slot.into_iter().for_each(|count| *count += 1);
    }

    pub fn count(&self, command: u16) -> u64 {
        self.messages().came.get(usize::from(command)).copied().unwrap_or(0)
    }

    /// A descriptor to be sent that nobody asked for.
    pub fn make_unasked(&self) -> Result<OwnedFd, i32> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| errno.raw_os_error())?;
        self.unasked.lock().unwrap_or_else(PoisonError::into_inner).push(write);
        Ok(read)
    }

    /// How many pipes somebody still has the reading ends of.
    pub fn unasked(&self) -> usize {
        let mut pipes = self.unasked.lock().unwrap_or_else(PoisonError::into_inner);
        pipes.retain(|pipe| {
            let mut polled = [PollFd::new(pipe, PollFlags::empty())];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let _ = poll(&mut polled, Some(&now));
            !polled.iter().any(|pipe| pipe.revents().contains(PollFlags::ERR))
        });
        pipes.len()
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

    fn is_stopped(&self) -> bool {
        Desk::is_stopped(self)
    }
}
