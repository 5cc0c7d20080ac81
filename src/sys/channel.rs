// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors of the caller's that streams go through: sockets, pipes, files and what else there
//! is.
//!
//! Nothing here blocks on a socket or a pipe, whether it is in blocking mode or not, and nothing
//! changes that mode, which others may rely on. No SIGPIPE reaches the process.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::null_mut;
use std::time::Duration;

use super::Errno;
use super::fd::{self, Direction};
use super::retry::once;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Socket,
    /// Whether writing may block.
    Pipe(bool),
    /// Never waits for anybody else.
    File,
    Other,
}

/// A descriptor of the caller's.
pub(crate) struct Channel<'fd> {
    fd: BorrowedFd<'fd>,
    kind: Kind,
}

/// The same for one that is the library's.
pub(crate) struct OwnedChannel {
    fd: OwnedFd,
    kind: Kind,
}

impl OwnedChannel {
    pub fn new(fd: OwnedFd) -> Result<OwnedChannel, Errno> {
        let kind = Channel::new(fd.as_fd())?.kind;
        Ok(OwnedChannel { fd, kind })
    }

    pub fn as_channel(&self) -> Channel<'_> {
        Channel { fd: self.fd.as_fd(), kind: self.kind }
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a pipe that is ready takes without blocking, in bytes.
const PIPE_BUF: usize = 4096;
/// The most that is written to a file, or to what else there is, at once, in bytes.
const STEP: usize = 1 << 20;

impl<'fd> Channel<'fd> {
    pub fn new(fd: BorrowedFd<'fd>) -> Result<Channel<'fd>, Errno> {
        // SAFETY: all zeros is a value of this structure of numbers.
        let mut stat: libc::stat64 = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is there for the call.
        once(unsafe { libc::fstat64(fd.as_raw_fd(), &raw mut stat) } as isize)?;
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFSOCK => Kind::Socket,
            libc::S_IFIFO => {
                // SAFETY: F_GETFL touches no memory.
                let flags = once(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) } as isize)?;
                Kind::Pipe(flags & libc::O_NONBLOCK as usize == 0)
            }
            libc::S_IFREG | libc::S_IFBLK => Kind::File,
            _ => Kind::Other,
        };
        Ok(Channel { fd, kind })
    }

    /// Writes as much as goes now. `EAGAIN` if nothing does.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let up_to = |most: usize| bytes.get(..most).unwrap_or(bytes);
        match self.kind {
            Kind::Socket => {
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                let (from, len) = (bytes.as_ptr(), bytes.len());
                // SAFETY: `from` and `len` are those of `bytes`.
                once(unsafe { libc::send(self.fd.as_raw_fd(), from.cast(), len, flags) })
            }
            Kind::Pipe(blocks) => {
                let _quiet = NoSigpipe::new();
                match blocks {
                    true if !self.is_ready(Direction::Write) => Err(Errno(libc::EAGAIN)),
                    true => fd::write(self.fd, up_to(PIPE_BUF)),
                    false => fd::write(self.fd, up_to(STEP)),
                }
            }
            Kind::File => fd::write(self.fd, up_to(STEP)),
            Kind::Other if !self.is_ready(Direction::Write) => Err(Errno(libc::EAGAIN)),
            Kind::Other => {
                let _quiet = NoSigpipe::new();
                fd::write(self.fd, up_to(STEP))
            }
        }
    }

    /// Reads as much as is there. 0 at the end; `EAGAIN` if there is nothing now.
    pub fn read(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        match self.kind {
            Kind::Socket => {
                let (to, len) = (buf.as_mut_ptr(), buf.len());
                // SAFETY: `to` and `len` are those of `buf`, which is valid for writes.
                once(unsafe { libc::recv(self.fd.as_raw_fd(), to.cast(), len, libc::MSG_DONTWAIT) })
            }
            Kind::File => fd::read(self.fd, buf),
            Kind::Pipe(_) | Kind::Other if !self.is_ready(Direction::Read) => {
                Err(Errno(libc::EAGAIN))
            }
            Kind::Pipe(_) | Kind::Other => fd::read(self.fd, buf),
        }
    }

    fn is_ready(&self, direction: Direction) -> bool {
        self.wait(direction, Duration::ZERO)
    }

    /// Waits until something can be read or written, or will fail. May return early.
    pub fn wait(&self, direction: Direction, time: Duration) -> bool {
        let events = match direction {
            Direction::Read => libc::POLLIN,
            Direction::Write => libc::POLLOUT,
        };
        let mut entry = libc::pollfd { fd: self.fd.as_raw_fd(), events, revents: 0 };
        let ms = i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the pointer and the number describe `entry`.
        unsafe { libc::poll(&raw mut entry, 1, ms) > 0 }
    }
}

/// While this lives, SIGPIPE waits, and one that came meanwhile goes with it.
struct NoSigpipe {
    before: libc::sigset_t,
    pending: bool,
}

fn sigpipe() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset() initialises what the pointer leads to; both numbers are valid.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
        set.assume_init()
    }
}

fn is_pending() -> bool {
    let mut pending = MaybeUninit::uninit();
    // SAFETY: sigpending() initialises the set before it is looked into; if it fails, that is not
    // done.
    unsafe {
        libc::sigpending(pending.as_mut_ptr()) == 0
            && libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1
    }
}

impl NoSigpipe {
    fn new() -> NoSigpipe {
        let (set, mut before) = (sigpipe(), MaybeUninit::zeroed());
        // SAFETY: both sets are there for the call; all zeros is a value of the second.
        let before = unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, before.as_mut_ptr());
            before.assume_init()
        };
        NoSigpipe { before, pending: is_pending() }
    }
}

impl Drop for NoSigpipe {
    fn drop(&mut self) {
        let set = sigpipe();
        if !self.pending && is_pending() {
            let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: both structures are there for the call.
            unsafe { libc::sigtimedwait(&raw const set, null_mut(), &raw const none) };
        }
        // SAFETY: the set is there for the call.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, null_mut()) };
    }
}
