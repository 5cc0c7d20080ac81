// SPDX-License-Identifier: MIT OR Apache-2.0
//! Both directions of a connection: the client's commands and the server's replies, and the server's
//! commands, on a socket of their own if the client wants that.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::PollFlags;

use super::desk::Desk;
use super::memory::Peer;
use super::options::{ServerOptions, quirk};
use super::outgoing::Outgoing;
use super::socket::{Bell, Lost, Message, Socket, pass};
use super::wire::{ERROR, HEADER, Header, long_words};
use crate::shared::Shared;

const DMA_READ: u16 = 11;
const DMA_WRITE: u16 = 12;
/// Address and length.
const DMA_PREFIX: usize = 16;

/// How much longer than its data a message can be, its header included.
const MOST_BESIDES: usize = 32;
/// Messages are never taken to be longer than this if data are limited to less.
const LEAST_LIMIT: usize = 4096;

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
        if let Some(message) = self.early.pop_front() {
            return Ok(Some(message));
        }
        if !self.main.wait(self.desk, PollFlags::IN)? {
            return Ok(None);
        }
        let message = self.receive(&self.main)?;
        if message.as_ref().is_some_and(|message| !message.header.is_command()) {
            self.violation(c"a reply to nothing");
            return Err(Lost::Connection);
        }
        Ok(message)
    }

    /// A message as long as it says; `None` for one that was not.
    fn receive(&self, socket: &Socket) -> Result<Option<Message>, Lost> {
        let (header, mut fds) = socket.header(self.desk)?;
        let len = (header.size as usize).checked_sub(HEADER);
        let Some(len) = len.filter(|_| header.size as usize <= self.most) else {
            // What follows it may be anything.
            if header.is_command() {
                self.refuse(&header, &[], libc::EINVAL)?;
            }
            return Err(Lost::Connection);
        };
        let one_recv = header.is_command() && self.options.has(quirk::ONE_RECV);
        let payload = socket.payload(self.desk, len, one_recv, &mut fds)?;
        if payload.len() < len {
            self.refuse(&header, &[], libc::EINVAL)?;
            return Ok(None);
        }
        if header.is_command() {
            self.desk.came(header.command);
        }
        Ok(Some(Message { header, payload, fds }))
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

    /// Sends a message, or what is to become of it: whether it has gone wrong.
    fn transmit(
        &self,
        socket: &Socket,
        header: &Header,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<bool, Lost> {
        let due = self.desk.due(header.command);
        let out = match due {
            Some((what, value)) => Outgoing::spoilt(header, payload, what, value),
            None => Outgoing::new(header, payload),
        };
        let late = out.late.saturating_add(self.options.delay_us.into());
        pass(self.desk, Duration::from_micros(late))?;
        if out.silent {
            return Ok(true);
        }
        let fds: Vec<_> =
            fds.iter().copied().chain(std::iter::repeat_n(self.desk.fd(), out.fds)).collect();
        let piece = if self.options.has(quirk::BYTEWISE) { 1 } else { usize::MAX };
        let bytes = out.bytes.get(..out.closes_after.unwrap_or(usize::MAX)).unwrap_or(&out.bytes);
        socket.send(self.desk, bytes, piece, &fds)?;
        if out.closes_after.is_some() { Err(Lost::Connection) } else { Ok(due.is_some()) }
    }

    /// A command of the server's, and the reply to it.
    fn exchange(&mut self, command: u16, payload: &[u8]) -> Result<Message, Lost> {
        self.last_id = self.last_id.wrapping_add(1);
        let header = Header::command(self.last_id, command, payload.len());
        let socket = self.twin.as_ref().unwrap_or(&self.main);
        let spoilt = self.transmit(socket, &header, payload, &[])?;
        loop {
            let Some(message) = self.receive(socket)? else { continue };
            if message.header.is_reply_to(&header) {
                return Ok(message);
            }
            // With one socket, the client's next command may be on its way already.
            if !message.header.is_command() || self.twin.is_some() {
                // Who was asked wrongly may answer wrongly.
                if !spoilt {
                    self.violation(c"a message that is not the reply to the server's command");
                }
                return Err(Lost::Connection);
            }
            if self.options.has(quirk::CROSSING_FATAL) {
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
        let reply = self.exchange(command, &payload).map_err(|lost| {
            self.lost = Some(lost);
            libc::ENOTCONN
        })?;
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
                self.violation(c"a reply to a DMA command without its address and length");
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
