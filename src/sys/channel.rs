// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors of the caller's that streams go through: sockets, pipes, files and what else there
//! is.
//!
//! Nothing here blocks on a socket or a pipe, whether it is in blocking mode or not, and nothing
//! changes that mode, which others may rely on. Neither SIGPIPE nor SIGXFSZ reaches the process.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::Errno;
use super::fd::{self, Direction};
use super::quiet::Quiet;
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

/// A terminal is no channel: it changes what passes through it, and blocks while nobody reads.
pub(crate) const TERMINAL: Errno = Errno(libc::EINVAL);

/// What a pipe that is ready takes without blocking, in bytes. A device that is ready may block on
/// more, too.
const PIPE_BUF: usize = 4096;
/// The most that is written to a file, or to a pipe that does not block, at once, in bytes.
const STEP: usize = 1 << 20;

impl<'fd> Channel<'fd> {
    /// [`TERMINAL`] for one.
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
            // SAFETY: touches no memory of ours.
            _ if unsafe { libc::isatty(fd.as_raw_fd()) } == 1 => return Err(TERMINAL),
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
                let _quiet = Quiet::pipe();
                match blocks {
                    true if !self.is_ready(Direction::Write) => Err(Errno(libc::EAGAIN)),
                    true => fd::write(self.fd, up_to(PIPE_BUF)),
                    false => fd::write(self.fd, up_to(STEP)),
                }
            }
            Kind::File => {
                let _quiet = Quiet::file();
                fd::write(self.fd, up_to(STEP))
            }
            Kind::Other if !self.is_ready(Direction::Write) => Err(Errno(libc::EAGAIN)),
            Kind::Other => {
                let _quiet = Quiet::pipe();
                fd::write(self.fd, up_to(PIPE_BUF))
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
