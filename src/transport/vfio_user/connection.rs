// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection to a server: commands and their replies, one after the other, and the server's own
//! commands in between.
//!
//! Nothing waits without an end. A reply that does not come in time may come later: it is passed over
//! then. A peer that stops within a message, or that says what makes no sense, is given up: nobody knows
//! where its next message would begin.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::desk::Desk;
use super::stream::{Socket, Stream};
use super::version::{self, LONGEST_TEXT, Offer};
use super::wire::{Header, command};
use crate::alloc;
use crate::error::Errno;
use crate::sys::socket;

/// How many replies may be to come after their time was up, before nothing more is asked.
const MOST_LATE: usize = 8;
/// The most commands of the server's that are answered before something else is looked at.
const AT_ONCE: u32 = 64;

/// A command that was sent, and whose reply is to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sent {
    id: u16,
    command: u16,
}

pub(super) struct Connection {
    main: Stream,
    /// The socket for the server's own commands.
    twin: Option<Stream>,
    pub desk: Desk,
    next_id: u16,
    /// Replies that nobody waits for any longer, in the order in which they will come.
    late: Vec<Sent>,
    timeout: Duration,
    is_lost: bool,
}

impl Connection {
    /// Connects to a server by its path.
    pub fn connect(path: &Path, desk: Desk, timeout: Duration) -> Result<Connection, Errno> {
        Ok(Connection::over(Socket::own(socket::connect(path, timeout)?), desk, timeout))
    }

    /// Uses a socket that is connected.
    pub fn lent(fd: Arc<dyn AsFd + Send + Sync>, desk: Desk, timeout: Duration) -> Connection {
        Connection::over(Socket::Lent(fd), desk, timeout)
    }

    fn over(socket: Socket, desk: Desk, timeout: Duration) -> Connection {
        let (main, late) = (Stream::new(socket), Vec::new());
        Connection { main, twin: None, desk, next_id: 1, late, timeout, is_lost: false }
    }

    /// Agrees on a version and on limits.
    pub fn negotiate(&mut self, max_transfer: u64) -> Result<Offer, Errno> {
        let (numbers, text) = version::proposal(max_transfer)?;
        let body = [&numbers.to_ne_bytes(), text.0.as_bytes()];
        let sent = self.send(command::VERSION, body, &[])?;
        let mut reply = [0; 4 + LONGEST_TEXT];
        let mut fds: [Option<OwnedFd>; socket::MAX_FDS] = Default::default();
        let (mut places, until) = (fds.iter_mut(), Instant::now() + self.timeout);
        let mut take = |fd| {
            if let Some(place) = places.next() {
                *place = Some(fd);
            }
        };
        let len = self.reply_with(sent, &mut [&mut reply], until, Some(&mut take))?;
        let offer = version::answer(reply.get(..len).unwrap_or_default())
            .map_err(|errno| self.lose(errno, "its version makes no sense"))?;
        if let Some(index) = offer.twin {
            let twin = fds.get_mut(index).and_then(Option::take);
            let Some(twin) = twin else {
                return Err(self.lose(Errno(libc::EPROTO), "it offered a socket, and sent none"));
            };
            // Anything else may block where a socket does not, whatever it is asked.
            if !socket::is_unix_stream(twin.as_fd()) {
                return Err(self.lose(Errno(libc::EPROTO), "what it sent is no stream socket"));
            }
            self.twin = Some(Stream::new(Socket::own(twin)));
        }
        Ok(offer)
    }

    /// Whether the server has a socket for its own commands.
    pub fn has_twin(&self) -> bool {
        self.twin.is_some()
    }

    /// What is readable when the server wants something.
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.twin.as_ref().and_then(|twin| twin.fd().ok())
    }

    /// What is readable when a reply has come.
    pub fn reply_fd(&self) -> Option<BorrowedFd<'_>> {
        self.main.fd().ok()
    }

    /// Whether the peer was given up, or is gone.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// The peer is given up.
    fn lose(&mut self, errno: Errno, why: &str) -> Errno {
        if !self.is_lost {
            log::error!(target: "vfiomig::device", "the vfio-user server is given up: {why}: {errno}");
        }
        self.is_lost = true;
        errno
    }

    /// Ends the connection, and tells the server, which may still read what it was sent before.
    pub fn end(&mut self, why: &str) {
        self.lose(Errno(libc::ETIMEDOUT), why);
        for stream in [Some(&self.main), self.twin.as_ref()].into_iter().flatten() {
            if let Ok(fd) = stream.fd() {
                socket::shut_down(fd);
            }
        }
    }

    /// What a failure of the socket means: the connection is of no use any longer.
    fn broken(&mut self, errno: Errno) -> Errno {
        match errno.0 {
            libc::ENODEV => self.lose(errno, "it has closed the connection"),
            libc::EPROTO => self.lose(errno, "what it sent makes no sense"),
            _ => self.lose(errno, "the socket failed"),
        }
    }

    /// Sends a command. Returns what its reply will be known by.
    pub fn send(
        &mut self,
        command: u16,
        [head, tail]: [&[u8]; 2],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Sent, Errno> {
        if self.is_lost {
            return Err(Errno(libc::ENODEV));
        }
        self.next_id = self.next_id.wrapping_add(1);
        let id = self.next_id;
        let header = Header::command(id, command, head.len() + tail.len()).to_bytes();
        let until = Instant::now() + self.timeout;
        self.pass_late()?;
        while self.late.len() >= MOST_LATE {
            self.wait(false, until)?;
            self.pass_late()?;
        }
        let mut gone = 0;
        loop {
            match self.main.send([&header, head, tail], fds, &mut gone) {
                Ok(true) => return Ok(Sent { id, command }),
                Ok(false) => {}
                Err(errno) => return Err(self.broken(errno)),
            }
            self.pass_late()?;
            match self.wait(true, until) {
                Ok(()) => {}
                Err(errno) if gone == 0 || self.is_lost => return Err(errno),
                Err(errno) => return Err(self.lose(errno, "it takes no more of a message")),
            }
        }
    }

    /// Receives the reply to a command into `parts`, which have room for it. Returns its length in
    /// bytes. An errno that the server has sent is one here, too.
    pub fn reply(&mut self, sent: Sent, parts: &mut [&mut [u8]]) -> Result<usize, Errno> {
        let until = Instant::now() + self.timeout;
        self.reply_with(sent, parts, until, None)
    }

    fn reply_with(
        &mut self,
        sent: Sent,
        parts: &mut [&mut [u8]],
        until: Instant,
        take: Option<&mut dyn FnMut(OwnedFd)>,
    ) -> Result<usize, Errno> {
        match self.begin_reply(sent, until, take) {
            Err(Errno(libc::ETIMEDOUT)) if !self.is_lost => {
                self.forget(sent);
                Err(Errno(libc::ETIMEDOUT))
            }
            Err(errno) => Err(errno),
            Ok(header) => self.end_reply(header, parts),
        }
    }

    /// Nobody waits for this reply any longer.
    pub fn forget(&mut self, sent: Sent) {
        let unknown = "no memory to know a late reply by";
        if alloc::push(&mut self.late, sent, unknown).is_err() {
            self.lose(Errno(libc::ENOMEM), unknown);
        }
    }

    /// Waits until the reply to a command begins. `ETIMEDOUT` if it does not in time: it may be waited
    /// for again, or must be forgotten.
    pub fn begin_reply(
        &mut self,
        sent: Sent,
        until: Instant,
        mut take: Option<&mut dyn FnMut(OwnedFd)>,
    ) -> Result<Header, Errno> {
        if self.is_lost {
            return Err(Errno(libc::ENODEV));
        }
        let latest = Instant::now() + self.timeout;
        loop {
            let take = take.as_mut().map(|take| &mut **take as &mut dyn FnMut(OwnedFd));
            match self.main.header(take) {
                // Once it has begun, a reply is waited for.
                Ok(None) if self.main.is_in_message() => self.wait_for_more(until.max(latest))?,
                Ok(None) => self.wait_for_more(until)?,
                Ok(Some(header)) if self.is_reply_to(header, sent)? => return Ok(header),
                Ok(Some(_)) => {}
                Err(errno) => return Err(self.broken(errno)),
            }
        }
    }

    /// Whether the message that is coming in is the reply to this command. Others that may come are
    /// dealt with.
    fn is_reply_to(&mut self, header: Header, sent: Sent) -> Result<bool, Errno> {
        if !header.is_reply() {
            self.serve_main(header)?;
            return Ok(false);
        }
        let of = Sent { id: header.id, command: header.command };
        if let Some(at) = self.late.iter().position(|late| *late == of) {
            self.skip()?;
            self.late.remove(at);
            return Ok(false);
        }
        if of == sent {
            return Ok(true);
        }
        Err(self.lose(Errno(libc::EPROTO), "a reply came that nobody waits for"))
    }

    /// Takes in replies that nobody waits for, as far as they have come: a server may take no command
    /// before it is rid of them.
    fn pass_late(&mut self) -> Result<(), Errno> {
        while !self.late.is_empty() {
            let header = match self.main.header(None) {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(errno) => return Err(self.broken(errno)),
            };
            let of = Sent { id: header.id, command: header.command };
            let at = self.late.iter().position(|late| *late == of && header.is_reply());
            let Some(at) = at else { break };
            match self.main.skip() {
                Ok(true) => drop(self.late.remove(at)),
                Ok(false) => break,
                Err(errno) => return Err(self.broken(errno)),
            }
        }
        Ok(())
    }

    /// Receives what follows the header of a reply.
    pub fn end_reply(&mut self, header: Header, parts: &mut [&mut [u8]]) -> Result<usize, Errno> {
        if let Some(errno) = header.refused() {
            self.skip()?;
            return Err(errno);
        }
        if header.body > parts.iter().map(|part| part.len()).sum() {
            // Where the next message begins is known: only this reply is of no use.
            self.skip()?;
            return Err(Errno(libc::EPROTO));
        }
        let until = Instant::now() + self.timeout;
        loop {
            match self.main.body(parts) {
                Ok(true) => return Ok(header.body),
                Ok(false) => self.wait_for_more(until)?,
                Err(errno) => return Err(self.broken(errno)),
            }
        }
    }

    /// Passes over the message that is coming in.
    fn skip(&mut self) -> Result<(), Errno> {
        let until = Instant::now() + self.timeout;
        loop {
            match self.main.skip() {
                Ok(true) => return Ok(()),
                Ok(false) => self.wait_for_more(until)?,
                Err(errno) => return Err(self.broken(errno)),
            }
        }
    }

    /// Waits for more of the message that is coming in, or for one.
    fn wait_for_more(&mut self, until: Instant) -> Result<(), Errno> {
        match self.wait(false, until) {
            Err(errno) if self.main.is_in_message() && !self.is_lost => {
                Err(self.lose(errno, "it has stopped within a message"))
            }
            other => other,
        }
    }

    /// Waits until something has come, or can be sent, and answers the server meanwhile.
    fn wait(&mut self, write: bool, until: Instant) -> Result<(), Errno> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno(libc::ETIMEDOUT));
        }
        let main = self.main.fd()?;
        let twin = self.twin.as_ref().map(Stream::fd).transpose()?;
        let read = !write || !self.late.is_empty();
        socket::wait_for_either(main, [read, write], twin, left);
        self.serve().map(drop)
    }

    /// Waits until something has come, or the time is up, and answers the server meanwhile.
    pub fn idle(&mut self, timeout: Duration) -> Result<(), Errno> {
        match self.wait(false, Instant::now() + timeout) {
            Err(Errno(libc::ETIMEDOUT)) if !self.is_lost => Ok(()),
            other => other,
        }
    }

    /// Answers the server's own commands, as far as they have come. Returns how many it were. `ENODEV`
    /// if the server is gone.
    pub fn serve(&mut self) -> Result<u64, Errno> {
        if self.is_lost {
            return Err(Errno(libc::ENODEV));
        }
        let before = self.desk.served;
        let Some(twin) = &mut self.twin else { return Ok(0) };
        let mut ended = None;
        for _ in 0..AT_ONCE {
            let step = match twin.header(None) {
                Ok(Some(header)) => self.desk.serve(twin, header, self.timeout),
                Ok(None) => Ok(false),
                Err(errno) => Err(errno),
            };
            match step {
                Ok(true) => {}
                Ok(false) => break,
                Err(errno) => {
                    ended = Some(errno);
                    break;
                }
            }
        }
        match ended {
            Some(errno) => Err(self.broken(errno)),
            None => Ok(self.desk.served - before),
        }
    }

    /// Answers a command that came where replies do: from a server that has no socket for them.
    fn serve_main(&mut self, header: Header) -> Result<(), Errno> {
        if self.twin.is_some() {
            return Err(self.lose(Errno(libc::EPROTO), "a command came where only replies may"));
        }
        let until = Instant::now() + self.timeout;
        loop {
            match self.desk.serve(&mut self.main, header, self.timeout) {
                Ok(true) => return Ok(()),
                Ok(false) => self.wait_for_more(until)?,
                Err(errno) => return Err(self.broken(errno)),
            }
        }
    }
}
