// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection's socket: waiting on it, and messages with their descriptors. Whoever waits is woken
//! when the server is stopped.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::wire::{HEADER, Header};

/// The most descriptors that are taken with a message: as many as the kernel passes.
const MOST_FDS: usize = 253;
/// What the kernel puts into one buffer of such a socket, in bytes.
const ONE_RECV: usize = 32 << 10;

/// Why there is no next message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lost {
    /// The other side is gone, or what it sent can be followed by nothing.
    Connection,
    /// The server is to stop.
    Stopped,
}

/// What wakes whoever waits on a socket.
pub(crate) trait Bell {
    fn fd(&self) -> BorrowedFd<'_>;

    /// Takes the ringing, and says whether the server is to stop.
    fn answer(&self) -> bool;
}

/// A message that came.
pub(crate) struct Message {
    pub header: Header,
    pub payload: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

pub(crate) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    pub fn new(fd: OwnedFd) -> Socket {
        Socket { fd }
    }

    /// Whether something came before the bell rang.
    pub fn wait(&self, bell: &dyn Bell, events: PollFlags) -> Result<bool, Lost> {
        let came = wait(Some((self.fd.as_fd(), events)), bell.fd(), None)?;
        if bell.answer() { Err(Lost::Stopped) } else { Ok(came) }
    }

    /// One `recvmsg`, when there is something.
    fn receive(
        &self,
        bell: &dyn Bell,
        buf: &mut [u8],
        fds: &mut Vec<OwnedFd>,
    ) -> Result<usize, Lost> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        loop {
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let came = recvmsg(&self.fd, &mut [IoSliceMut::new(buf)], &mut ancillary, flags);
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(more) = message {
                    fds.extend(more);
                }
            }
            match came {
                Ok(came) if came.bytes == 0 => return Err(Lost::Connection),
                Ok(came) => return Ok(came.bytes),
                Err(Errno::AGAIN) => drop(self.wait(bell, PollFlags::IN)?),
                Err(Errno::INTR) => {}
                Err(_) => return Err(Lost::Connection),
            }
        }
    }

    fn fill(&self, bell: &dyn Bell, buf: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<(), Lost> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            done += self.receive(bell, rest, fds)?;
        }
        Ok(())
    }

    /// The next header, with the descriptors that came with it.
    pub fn header(&self, bell: &dyn Bell) -> Result<(Header, Vec<OwnedFd>), Lost> {
        let (mut raw, mut fds) = ([0; HEADER], Vec::new());
        self.fill(bell, &mut raw, &mut fds)?;
        Ok((Header::parse(&raw), fds))
    }

    /// A payload of `len` bytes, which is shorter if one `recv` is all that is made for it.
    pub fn payload(
        &self,
        bell: &dyn Bell,
        len: usize,
        one_recv: bool,
        fds: &mut Vec<OwnedFd>,
    ) -> Result<Vec<u8>, Lost> {
        let mut payload = vec![0; len];
        if one_recv && len != 0 {
            let most = len.min(ONE_RECV - HEADER);
            let got = self.receive(bell, payload.get_mut(..most).unwrap_or_default(), fds)?;
            payload.truncate(got);
        } else {
            self.fill(bell, &mut payload, fds)?;
        }
        Ok(payload)
    }

    /// Sends everything, at most `piece` bytes at a time; descriptors go with the first byte.
    pub fn send(
        &self,
        bell: &dyn Bell,
        bytes: &[u8],
        piece: usize,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Lost> {
        let mut rest = bytes;
        let mut fds = fds;
        while !rest.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(Lost::Connection);
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let now = rest.get(..piece).unwrap_or(rest);
            match sendmsg(&self.fd, &[IoSlice::new(now)], &mut ancillary, flags) {
                Ok(n) => (rest, fds) = (rest.get(n..).unwrap_or_default(), &[]),
                Err(Errno::AGAIN) => drop(self.wait(bell, PollFlags::OUT)?),
                Err(Errno::INTR) => {}
                Err(_) => return Err(Lost::Connection),
            }
        }
        Ok(())
    }
}

/// Lets time pass, unless the server is to stop.
pub(crate) fn pass(bell: &dyn Bell, time: Duration) -> Result<(), Lost> {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        wait(None, bell.fd(), Some(left))?;
        if bell.answer() {
            return Err(Lost::Stopped);
        }
    }
}

/// Whether an fd is ready; the bell's ends the waiting, too.
pub(crate) fn wait(
    fd: Option<(BorrowedFd<'_>, PollFlags)>,
    bell: BorrowedFd<'_>,
    time: Option<Duration>,
) -> Result<bool, Lost> {
    let time = time.and_then(|time| Timespec::try_from(time).ok());
    let mut fds = vec![PollFd::from_borrowed_fd(bell, PollFlags::IN)];
    fds.extend(fd.map(|(fd, events)| PollFd::from_borrowed_fd(fd, events)));
    match poll(&mut fds, time.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(_) => return Err(Lost::Connection),
    }
    Ok(fd.is_some() && fds.last().is_some_and(|fd| !fd.revents().is_empty()))
}
