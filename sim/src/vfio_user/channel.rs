// SPDX-License-Identifier: MIT OR Apache-2.0
//! Both directions of a connection: the client's commands and the server's replies, and the server's
//! commands, on a socket of their own if the client wants that.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::desk::Desk;
use super::memory::Peer;
use super::options::{ServerOptions, quirk};
use super::outgoing::Outgoing;
use super::socket::{Lost, MOST_FDS, Message, Socket, Watch, pass};
use super::wire::{DMA_READ, DMA_WRITE, ERROR, HEADER, Header, long_words};
use crate::shared::Shared;

/// Address and length.
const DMA_PREFIX: usize = 16;

/// How much longer than its data a message can be, its header included.
const MOST_BESIDES: usize = 32;
/// Messages are never taken to be longer than this if data are limited to less.
const LEAST_LIMIT: usize = 4096;

/// How many commands may come before the reply to the server's own. What they hold together is at most
/// as long as one message can be.
const MOST_EARLY: usize = 64;

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Right,
    /// It is not what it should have been.
    Wrong,
    Not,
}

pub(crate) struct Channel<'s> {
    desk: &'s Desk,
    sim: &'s Shared,
    options: &'s ServerOptions,
    /// The longest message.
    most: usize,
    main: Socket,
    /// For the server's own commands.
    twin: Option<Socket>,
    /// The most bytes of data that the client takes at once.
    pub client_takes: usize,
    /// Commands that came while the server waited for the reply to one of its own.
    early: VecDeque<Message>,
    last_id: u16,
    /// The connection ended within a command.
    pub lost: Option<Lost>,
}

impl<'s> Channel<'s> {
    pub fn new(
        desk: &'s Desk,
        sim: &'s Shared,
        options: &'s ServerOptions,
        socket: OwnedFd,
    ) -> Channel<'s> {
        Channel {
            desk,
            sim,
            options,
            most: (options.max_data_xfer as usize).max(LEAST_LIMIT) + MOST_BESIDES,
            main: Socket::new(socket),
            twin: None,
            client_takes: 0,
            early: VecDeque::new(),
            last_id: 0,
            lost: None,
        }
    }

    /// Makes the second socket: the client's end of it.
    pub fn make_twin(&mut self) -> Result<OwnedFd, Lost> {
        let (ours, theirs) = UnixStream::pair().map_err(|_| Lost::Connection)?;
        self.twin = Some(Socket::new(ours.into()));
        Ok(theirs.into())
    }

    /// The next command; `None` if there may be something else to do.
    pub fn next(&mut self) -> Result<Option<Message>, Lost> {
        if self.desk.is_stopped() {
            return Err(Lost::Stopped);
        }
        if let Some(message) = self.early.pop_front() {
            return Ok(Some(message));
        }
        let watch = Watch::new(self.desk);
        if !self.main.wait(&watch, PollFlags::IN)? {
            return Ok(None);
        }
        let message = self.receive(&self.main, &watch)?;
        if message.as_ref().is_some_and(|message| !message.header.is_command()) {
            self.violation(c"a reply to nothing");
            return Err(Lost::Connection);
        }
        Ok(message)
    }

    /// A message as long as it says; `None` for one that was not.
    fn receive(&self, socket: &Socket, watch: &Watch<'_>) -> Result<Option<Message>, Lost> {
        let (header, mut fds) = socket.header(watch)?;
        let len = (header.size as usize).checked_sub(HEADER);
        let Some(len) = len.filter(|_| header.size as usize <= self.most) else {
            // What follows it may be anything.
            if header.is_command() {
                self.refuse(&header, &[], libc::EINVAL)?;
            }
            return Err(Lost::Connection);
        };
        let one_recv = header.is_command() && self.options.has(quirk::ONE_RECV);
        let payload = socket.payload(watch, len, one_recv, &mut fds)?;
        if payload.len() < len {
            self.refuse(&header, &[], libc::EINVAL)?;
            return Ok(None);
        }
        if header.is_command() {
            self.desk.came(header.command);
        }
        if let Some(rule) = fds.broken(self.options.max_msg_fds) {
            self.violation(rule);
            if !header.is_command() {
                return Err(Lost::Connection);
            }
            self.refuse(&header, &[], libc::EINVAL)?;
            return Ok(None);
        }
        Ok(Some(Message { header, payload, fds: fds.taken }))
    }

    /// Sends a reply.
    pub fn answer(&self, to: &Header, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Lost> {
        if to.wants_reply() {
            self.transmit(&self.main, &to.reply(payload.len()), payload, fds)?;
        }
        Ok(())
    }

    /// Sends an error.
    pub fn refuse(&self, to: &Header, payload: &[u8], errno: i32) -> Result<(), Lost> {
        let reply = to.reply(payload.len());
        let reply = Header { flags: reply.flags | ERROR, error: errno.unsigned_abs(), ..reply };
        if to.wants_reply() {
            self.transmit(&self.main, &reply, payload, &[])?;
        }
        Ok(())
    }

    /// Sends a message, or what is to become of it.
    fn transmit(
        &self,
        socket: &Socket,
        header: &Header,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Sent, Lost> {
        let due = self.desk.due(header.command);
        let out = match due {
            Some((what, value)) => Outgoing::spoilt(header, payload, what, value),
            None => Outgoing::new(header, payload),
        };
        let late = out.late.saturating_add(self.options.delay_us.into());
        pass(self.desk, Duration::from_micros(late))?;
        if out.silent {
            return Ok(Sent::Not);
        }
        let unasked = match out.fds {
            0 => None,
            _ => Some(self.desk.make_unasked().map_err(|_| Lost::Connection)?),
        };
        let more = unasked.iter().flat_map(|fd| std::iter::repeat_n(fd.as_fd(), out.fds));
        let fds: Vec<_> = fds.iter().copied().chain(more).take(MOST_FDS).collect();
        let piece = if self.options.has(quirk::BYTEWISE) { 1 } else { usize::MAX };
        let bytes = out.bytes.get(..out.closes_after.unwrap_or(usize::MAX)).unwrap_or(&out.bytes);
        socket.send(self.desk, bytes, piece, &fds)?;
        match due {
            _ if out.closes_after.is_some() => Err(Lost::Connection),
            Some(_) => Ok(Sent::Wrong),
            None => Ok(Sent::Right),
        }
    }

    /// A command of the server's, and the reply to it, of which nothing can be expected if the command
    /// went wrong. `None` if it was not sent.
    fn exchange(&mut self, command: u16, payload: &[u8]) -> Result<Option<(Message, Sent)>, Lost> {
        self.last_id = self.last_id.wrapping_add(1);
        let header = Header::command(self.last_id, command, payload.len());
        let socket = self.twin.as_ref().unwrap_or(&self.main);
        let sent = self.transmit(socket, &header, payload, &[])?;
        if sent == Sent::Not {
            return Ok(None);
        }
        let time = Duration::from_millis(self.options.reply_timeout_ms.into());
        let other = self.twin.is_some().then_some(&self.main);
        let watch = Watch { bell: self.desk, other, end: Some(Instant::now() + time) };
        loop {
            if self.desk.is_stopped() {
                return Err(Lost::Stopped);
            }
            let Some(message) = self.receive(socket, &watch)? else { continue };
            if message.header.is_reply_to(&header) {
                return Ok(Some((message, sent)));
            }
            // With one socket, the client's next command may be on its way already.
            if !message.header.is_command() || self.twin.is_some() {
                // Who was asked wrongly may answer wrongly.
                if sent == Sent::Right {
                    self.violation(c"a message that is not the reply to the server's command");
                }
                return Err(Lost::Connection);
            }
            if self.options.has(quirk::CROSSING_FATAL) {
                return Err(Lost::Connection);
            }
            let held: usize = self.early.iter().map(|message| message.payload.len()).sum();
            if self.early.len() >= MOST_EARLY || held + message.payload.len() > self.most {
                self.violation(c"commands without end, and no reply to the server's");
                return Err(Lost::Connection);
            }
            self.early.push_back(message);
        }
    }

    fn violation(&self, what: &'static CStr) {
        self.sim.lock().violation(what);
    }

    /// One command about memory: what the reply has after address and length, `len` bytes.
    fn memory(
        &mut self,
        command: u16,
        iova: u64,
        count: usize,
        bytes: &[u8],
        len: usize,
    ) -> Result<Vec<u8>, i32> {
        let mut payload = long_words(&[iova, count as u64]);
        payload.extend(bytes);
        let replied = self.exchange(command, &payload).map_err(|lost| {
            self.lost = Some(lost);
            if lost == Lost::Late { libc::ETIMEDOUT } else { libc::ENOTCONN }
        })?;
        let (reply, sent) = replied.ok_or(libc::ETIMEDOUT)?;
        if reply.header.is_error() {
            let errno = i32::try_from(reply.header.error).unwrap_or(0);
            return Err(if errno == 0 { libc::EINVAL } else { errno });
        }
        match reply.payload.split_at_checked(DMA_PREFIX) {
            Some((head, rest)) if payload.starts_with(head) && rest.len() == len => {
                Ok(rest.to_vec())
            }
            _ => {
                // libvfio-user takes no other for one, either: "bad reply to DMA transfer".
                if sent == Sent::Right {
                    self.violation(c"a reply to a DMA command without its address and length");
                }
                Err(libc::EINVAL)
            }
        }
    }
}

impl Peer for Channel<'_> {
    fn read(&mut self, iova: u64, buf: &mut [u8]) -> Result<(), i32> {
        let mut iova = iova;
        for part in buf.chunks_mut(self.client_takes.max(1)) {
            let bytes = self.memory(DMA_READ, iova, part.len(), &[], part.len())?;
            part.copy_from_slice(&bytes);
            iova = iova.wrapping_add(part.len() as u64);
        }
        Ok(())
    }

    fn write(&mut self, iova: u64, bytes: &[u8]) -> Result<(), i32> {
        let mut iova = iova;
        for part in bytes.chunks(self.client_takes.max(1)) {
            self.memory(DMA_WRITE, iova, part.len(), part, 0)?;
            iova = iova.wrapping_add(part.len() as u64);
        }
        Ok(())
    }
}
