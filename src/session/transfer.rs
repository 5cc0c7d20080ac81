// SPDX-License-Identifier: MIT OR Apache-2.0
//! Streams through the caller's descriptors: what a pull returns is written to one, and what is read
//! from one is pushed.
//!
//! What goes wrong with a descriptor is not the session's failure: what could not be written waits,
//! and the call can be repeated, with another descriptor if need be.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::error::{Code, Errno, Error, Failure, Operation, Result, err};
use crate::private::Private;
use crate::sys::{Channel, Direction, TERMINAL};

/// How a descriptor is used.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// How long the other end may take, or bring, nothing; `None`: as long as it likes.
    pub timeout: Option<Duration>,
    /// Returns [`Code::Again`] where it would have to wait.
    pub no_wait: bool,
    /// Returns after this many bytes of the stream; 0: it does not.
    pub max_bytes: u64,
}

impl Default for Transfer {
    fn default() -> Transfer {
        Transfer { timeout: Some(Duration::from_secs(60)), no_wait: false, max_bytes: 0 }
    }
}

/// How often it is looked whether a call that waits was cancelled.
const LOOK: Duration = Duration::from_millis(20);

/// One use of a descriptor.
pub(super) struct Waiter<'a> {
    channel: Channel<'a>,
    how: Transfer,
    /// Since when there has been no progress.
    since: Option<Instant>,
    pub done: u64,
}

/// The error for a call on a descriptor that failed.
#[cold]
fn failed(errno: Errno, what: &str) -> Error {
    let code = match errno.0 {
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Code::NoSpace,
        libc::EBADF | libc::EINVAL | libc::ENOTCONN | libc::EISDIR => Code::Inval,
        libc::ENOMEM | libc::ENOBUFS => Code::NoMem,
        _ => Code::Io,
    };
    let failure = Failure { operation: Operation::File, errno: errno.0, ..Failure::default() };
    Error::from_args(code, format_args!("{what}: {errno}")).with_failure(failure)
}

impl<'a> Waiter<'a> {
    pub fn new(fd: BorrowedFd<'a>, how: Transfer) -> Result<Waiter<'a>> {
        let channel = Channel::new(fd).map_err(|errno| match errno {
            TERMINAL => {
                err!(Inval, "the descriptor is a terminal, which changes what goes through")
            }
            _ => failed(errno, "the descriptor"),
        })?;
        Ok(Waiter { channel, how, since: None, done: 0 })
    }

    /// Whether this call has done enough.
    pub fn is_enough(&self) -> bool {
        self.how.max_bytes != 0 && self.done >= self.how.max_bytes
    }

    /// How much more of `len` bytes it may do.
    pub fn part(&self, len: usize) -> usize {
        match self.how.max_bytes {
            0 => len,
            most => len.min(usize::try_from(most.saturating_sub(self.done)).unwrap_or(len)),
        }
    }

    /// One step: a number of bytes, or nothing after having waited for a while.
    fn step(
        &mut self,
        direction: Direction,
        what: &str,
        call: impl FnOnce(&Channel<'_>) -> Result<usize, Errno>,
    ) -> Result<Option<usize>> {
        match call(&self.channel) {
            Ok(n) => {
                self.since = None;
                self.done += n as u64;
                Ok(Some(n))
            }
            Err(Errno(libc::EINTR)) => Ok(None),
            Err(Errno(libc::EAGAIN)) if self.how.no_wait => {
                Err(err!(Again, "{what}: it would have to wait"))
            }
            Err(Errno(libc::EAGAIN)) => {
                let waited = self.since.get_or_insert_with(Instant::now).elapsed();
                if self.how.timeout.is_some_and(|timeout| waited >= timeout) {
                    return Err(err!(TimedOut, "{what}: nothing for {} ms", waited.as_millis()));
                }
                let left = self.how.timeout.map_or(LOOK, |timeout| timeout - waited);
                // Rounded up, so that a short rest is waited for.
                self.channel.wait(direction, left.min(LOOK).max(Duration::from_millis(1)));
                Ok(None)
            }
            Err(errno) => Err(failed(errno, what)),
        }
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        let what = "writing the stream to its descriptor";
        match self.step(Direction::Write, what, |channel| channel.write(bytes))? {
            Some(0) => Err(err!(Io, "{what}: it takes nothing")),
            other => Ok(other),
        }
    }

    /// `Some(0)`: there is nothing more.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        let what = "reading the stream from its descriptor";
        self.step(Direction::Read, what, |channel| channel.read(buf))
    }
}

/// What a save has returned, and nobody has taken.
#[derive(Default)]
pub(super) struct Outgoing {
    pub memory: Private,
    from: usize,
    to: usize,
}

/// What is read from a device at once, in bytes.
const BUFFER: usize = 512 << 10;

impl Outgoing {
    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }

    pub fn rest(&self) -> &[u8] {
        self.memory.get(self.from..self.to).unwrap_or_default()
    }

    pub fn taken(&mut self, len: usize) {
        self.from = (self.from + len).min(self.to);
    }

    /// The first `len` bytes of the memory are to go out.
    pub fn filled(&mut self, len: usize) {
        (self.from, self.to) = (0, len);
    }

    /// Memory for the next piece: twice as much as before, if that was too little.
    pub fn widen(&mut self, too_small: bool) -> Result<()> {
        match self.memory.len() {
            0 => self.memory.lengthen(BUFFER, "no memory to read the device"),
            len if too_small => self.memory.lengthen(len, "no memory for a long frame"),
            _ => Ok(()),
        }
    }
}
