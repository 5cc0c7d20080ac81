// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection's socket: waiting on it, and messages with their descriptors. Whoever waits is woken
//! when the server is stopped.

use std::ffi::CStr;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::wire::{HEADER, Header};

/// The most descriptors that are taken with a message: as many as the kernel passes.
pub(crate) const MOST_FDS: usize = 253;
/// What the kernel puts into one buffer of such a socket, in bytes.
const ONE_RECV: usize = 32 << 10;

/// Why there is no next message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lost {
    /// The other side is gone, or what it sent can be followed by nothing.
    Connection,
    /// The server is to stop.
    Stopped,
    /// The other side did not reply in time.
    Late,
}

/// What wakes whoever waits on a socket.
pub(crate) trait Bell {
    fn fd(&self) -> BorrowedFd<'_>;

    /// Takes the ringing, and says whether the server is to stop.
    fn answer(&self) -> bool;

    /// Says so when the ringing has been taken already.
    fn is_stopped(&self) -> bool;
}

/// What ends the waiting on a socket.
pub(crate) struct Watch<'a> {
    pub bell: &'a dyn Bell,
    /// The other socket of the same client: that it hangs up.
    pub other: Option<&'a Socket>,
    pub end: Option<Instant>,
}

impl<'a> Watch<'a> {
    pub fn new(bell: &'a dyn Bell) -> Watch<'a> {
        Watch { bell, other: None, end: None }
    }
}

/// The descriptors that came with a message.
#[derive(Default)]
pub(crate) struct Fds {
    pub taken: Vec<OwnedFd>,
    /// There were more than this process could take.
    truncated: bool,
    /// Some came after the first byte.
    late: bool,
}

impl Fds {
    /// Which rule a message breaks that may have `most`.
    pub fn broken(&self, most: u32) -> Option<&'static CStr> {
        match self {
            Fds { truncated: true, .. } => Some(c"more descriptors than arrive"),
            Fds { late: true, .. } => Some(c"descriptors within a message"),
            Fds { taken, .. } if taken.len() > most as usize => {
                Some(c"more descriptors with a message than the server takes")
            }
            _ => None,
        }
    }
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
    pub fn wait(&self, watch: &Watch<'_>, events: PollFlags) -> Result<bool, Lost> {
        if watch.bell.is_stopped() {
            return Err(Lost::Stopped);
        }
        let left = watch.end.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Lost::Late);
        }
        // That somebody hangs up is told whatever is asked.
        let other = watch.other.map(|other| (other.fd.as_fd(), PollFlags::empty()));
        let sockets = [Some((self.fd.as_fd(), events)), other];
        let [came, hung_up] = wait_any(sockets, watch.bell.fd(), left)?;
        match watch.bell.answer() {
            true => Err(Lost::Stopped),
            false if hung_up && !came => Err(Lost::Connection),
            false => Ok(came),
        }
    }

    /// One `recvmsg`, when there is something.
    fn receive(
        &self,
        watch: &Watch<'_>,
        buf: &mut [u8],
        fds: &mut Fds,
        first: bool,
    ) -> Result<usize, Lost> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        loop {
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let came = recvmsg(&self.fd, &mut [IoSliceMut::new(buf)], &mut ancillary, flags);
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(more) = message {
                    fds.taken.extend(more);
                    fds.late |= !first;
                }
            }
            fds.truncated |=
                came.as_ref().is_ok_and(|came| came.flags.contains(ReturnFlags::CTRUNC));
            match came {
                Ok(came) if came.bytes == 0 => return Err(Lost::Connection),
                Ok(came) => return Ok(came.bytes),
                Err(Errno::AGAIN) => drop(self.wait(watch, PollFlags::IN)?),
                Err(Errno::INTR) => {}
                Err(_) => return Err(Lost::Connection),
            }
        }
    }

    fn fill(
        &self,
        watch: &Watch<'_>,
        buf: &mut [u8],
        fds: &mut Fds,
        begins: bool,
    ) -> Result<(), Lost> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            done += self.receive(watch, rest, fds, begins && done == 0)?;
        }
        Ok(())
    }

    /// The next header, with the descriptors that came with it.
    pub fn header(&self, watch: &Watch<'_>) -> Result<(Header, Fds), Lost> {
        let (mut raw, mut fds) = ([0; HEADER], Fds::default());
        self.fill(watch, &mut raw, &mut fds, true)?;
        Ok((Header::parse(&raw), fds))
    }

    /// A payload of `len` bytes, which is shorter if one `recv` is all that is made for it.
    pub fn payload(
        &self,
        watch: &Watch<'_>,
        len: usize,
        one_recv: bool,
        fds: &mut Fds,
    ) -> Result<Vec<u8>, Lost> {
        let mut payload = vec![0; len];
        if one_recv && len != 0 {
            let most = len.min(ONE_RECV - HEADER);
            let part = payload.get_mut(..most).unwrap_or_default();
            let got = self.receive(watch, part, fds, false)?;
            payload.truncate(got);
        } else {
            self.fill(watch, &mut payload, fds, false)?;
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
                Err(Errno::AGAIN) => drop(self.wait(&Watch::new(bell), PollFlags::OUT)?),
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
        if bell.is_stopped() {
            return Err(Lost::Stopped);
        }
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
    wait_any([fd], bell, time).map(|[ready]| ready)
}

/// Which of several are.
fn wait_any<const N: usize>(
    fds: [Option<(BorrowedFd<'_>, PollFlags)>; N],
    bell: BorrowedFd<'_>,
    time: Option<Duration>,
) -> Result<[bool; N], Lost> {
    let time = time.and_then(|time| Timespec::try_from(time).ok());
    let mut polled = vec![PollFd::from_borrowed_fd(bell, PollFlags::IN)];
    polled.extend(fds.iter().flatten().map(|(fd, events)| PollFd::from_borrowed_fd(*fd, *events)));
    match poll(&mut polled, time.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(_) => return Err(Lost::Connection),
    }
    let mut ready = polled.iter().skip(1).map(|fd| !fd.revents().is_empty());
    Ok(fds.map(|fd| fd.is_some() && ready.next().unwrap_or(false)))
}
