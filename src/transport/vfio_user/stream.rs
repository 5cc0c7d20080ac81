// SPDX-License-Identifier: MIT OR Apache-2.0
//! One socket: messages that go out, and the one that is coming in, in whatever pieces it comes.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::wire::{HEADER, Header};
use crate::error::Errno;
use crate::sys::{Process, socket};

/// How much of a message that nobody wants is read at once, in bytes.
const SKIP: usize = 4096;
/// The parts that a message may have.
pub(super) const PARTS: usize = 3;

/// A socket that is the caller's, or the library's own.
pub(super) enum Socket {
    Lent(Arc<dyn AsFd + Send + Sync>),
    Own(Own),
}

/// A descriptor that is closed by the process that has it, and left alone by a child of it.
pub(super) struct Own(Option<OwnedFd>, Process);

impl Socket {
    pub fn own(fd: OwnedFd) -> Socket {
        Socket::Own(Own(Some(fd), Process::this()))
    }

    fn fd(&self) -> Result<BorrowedFd<'_>, Errno> {
        match self {
            Socket::Lent(fd) => Ok(fd.as_fd()),
            Socket::Own(Own(fd, _)) => fd.as_ref().map(AsFd::as_fd).ok_or(Errno(libc::EBADF)),
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if !self.1.is_this() {
            // A child may have closed what it inherited, and use the number for something else.
            let _ = self.0.take().map(IntoRawFd::into_raw_fd);
        }
    }
}

/// A socket, and how far the message has come that is being received.
pub(super) struct Stream {
    socket: Socket,
    head: [u8; HEADER],
    /// Bytes of the header that have come.
    begun: usize,
    header: Option<Header>,
    /// Bytes of the body that have come.
    done: usize,
}

impl Stream {
    pub fn new(socket: Socket) -> Stream {
        Stream { socket, head: [0; HEADER], begun: 0, header: None, done: 0 }
    }

    pub fn fd(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.socket.fd()
    }

    /// Whether a part of a message has come, and the rest has not.
    pub fn is_in_message(&self) -> bool {
        self.begun > 0
    }

    /// The header of the message that is coming in; `None` if it is not there yet. `ENODEV` at the end
    /// of the connection.
    pub fn header(
        &mut self,
        mut take: Option<&mut dyn FnMut(OwnedFd)>,
    ) -> Result<Option<Header>, Errno> {
        while self.header.is_none() {
            let rest = self.head.get_mut(self.begun..).unwrap_or_default();
            let parts = &mut [IoSliceMut::new(rest)];
            let take = take.as_mut().map(|take| &mut **take as &mut dyn FnMut(OwnedFd));
            match receive(&self.socket, parts, take)? {
                None => return Ok(None),
                Some(got) => self.begun += got,
            }
            if self.begun >= HEADER {
                self.header = Some(Header::parse(self.head)?);
            }
        }
        Ok(self.header)
    }

    /// Receives more of the body into the parts, which have room for all of it. Returns whether it is
    /// complete; then the next message begins.
    pub fn body(&mut self, parts: &mut [&mut [u8]]) -> Result<bool, Errno> {
        let Some(header) = self.header else { return Err(Errno(libc::EPROTO)) };
        while self.done < header.body {
            let (mut skip, mut room) = (self.done, header.body - self.done);
            let mut slices = [(); PARTS].map(|()| IoSliceMut::new(&mut []));
            for (slice, part) in slices.iter_mut().zip(&mut *parts) {
                let from = skip.min(part.len());
                skip -= from;
                let part = part.get_mut(from..).unwrap_or_default();
                let len = part.len().min(room);
                room -= len;
                *slice = IoSliceMut::new(part.get_mut(..len).unwrap_or_default());
            }
            if slices.iter().all(|slice| slice.is_empty()) {
                return Err(Errno(libc::EPROTO));
            }
            match receive(&self.socket, &mut slices, None)? {
                None => return Ok(false),
                Some(got) => self.done += got,
            }
        }
        self.next();
        Ok(true)
    }

    /// Receives more of a body that nobody wants. Returns whether all of it has come.
    pub fn skip(&mut self) -> Result<bool, Errno> {
        let Some(header) = self.header else { return Err(Errno(libc::EPROTO)) };
        let mut waste = [0; SKIP];
        while self.done < header.body {
            let len = SKIP.min(header.body - self.done);
            let part = waste.get_mut(..len).unwrap_or_default();
            match receive(&self.socket, &mut [IoSliceMut::new(part)], None)? {
                None => return Ok(false),
                Some(got) => self.done += got,
            }
        }
        self.next();
        Ok(true)
    }

    fn next(&mut self) {
        (self.begun, self.header, self.done) = (0, None, 0);
    }

    /// Sends what goes now of a message, of which the first `sent` bytes are gone already. Returns
    /// whether all of it is gone.
    pub fn send(
        &self,
        parts: [&[u8]; PARTS],
        fds: &[BorrowedFd<'_>],
        sent: &mut usize,
    ) -> Result<bool, Errno> {
        loop {
            let mut skip = *sent;
            let rest = parts.map(|part| {
                let from = skip.min(part.len());
                skip -= from;
                IoSlice::new(part.get(from..).unwrap_or_default())
            });
            if rest.iter().all(|part| part.is_empty()) {
                return Ok(true);
            }
            let fds = if *sent == 0 { fds } else { &[] };
            match socket::send(self.fd()?, &rest, fds) {
                Ok(gone) => *sent += gone,
                Err(Errno(libc::EAGAIN)) => return Ok(false),
                Err(Errno(libc::EINTR)) => {}
                Err(errno) => return Err(ended(errno)),
            }
        }
    }

    /// Sends all of a message, for as long as the peer takes a part of it now and then.
    pub fn send_all(&self, parts: [&[u8]; PARTS], timeout: Duration) -> Result<(), Errno> {
        let (begun, mut sent) = (Instant::now(), 0);
        while !self.send(parts, &[], &mut sent)? {
            let left = timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(Errno(libc::ETIMEDOUT));
            }
            socket::wait_for_either(self.fd()?, [false, true], None, left);
        }
        Ok(())
    }
}

/// What has come; `None` if nothing has.
fn receive(
    socket: &Socket,
    parts: &mut [IoSliceMut<'_>],
    mut take: Option<&mut dyn FnMut(OwnedFd)>,
) -> Result<Option<usize>, Errno> {
    loop {
        let take = take.as_mut().map(|take| &mut **take as &mut dyn FnMut(OwnedFd));
        match socket::receive(socket.fd()?, parts, take) {
            Ok(0) => return Err(Errno(libc::ENODEV)),
            Ok(got) => return Ok(Some(got)),
            Err(Errno(libc::EAGAIN)) => return Ok(None),
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(ended(errno)),
        }
    }
}

/// The end of a connection has several names.
fn ended(errno: Errno) -> Errno {
    match errno.0 {
        libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN => Errno(libc::ENODEV),
        _ => errno,
    }
}
