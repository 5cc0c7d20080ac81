// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection from its first message to its last.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;

use super::desk::Desk;
use super::device::{Answer, Device, VERSION};
use super::options::ServerOptions;
use super::socket::{Lost, Message, Socket};
use super::version::Client;
use super::wire::{ERROR, HEADER, Header};

/// How much longer than its data a command can be, its header included.
const MOST_BESIDES: usize = 32;
/// Commands are never taken to be longer than this if data are limited to less.
const LEAST_LIMIT: usize = 4096;

pub(crate) struct Connection<'s> {
    desk: &'s Desk,
    options: &'s ServerOptions,
    main: Socket,
    /// For the server's own commands.
    twin: Option<Socket>,
}

impl<'s> Connection<'s> {
    pub fn new(desk: &'s Desk, options: &'s ServerOptions, socket: OwnedFd) -> Connection<'s> {
        Connection { desk, options, main: Socket::new(socket), twin: None }
    }

    /// Serves until one side has enough.
    pub fn run(mut self, device: &mut Device) -> Lost {
        match self.introduce(device).and_then(|()| self.serve(device)) {
            Ok(never) => match never {},
            Err(lost) => lost,
        }
    }

    /// The first message.
    fn introduce(&mut self, device: &mut Device) -> Result<(), Lost> {
        let Message { header, payload, .. } = self.next()?;
        let client =
            if header.command == VERSION { Client::parse(&payload) } else { Err(libc::EINVAL) };
        let client = match client {
            Ok(client) => client,
            Err(errno) => {
                self.fail(&header, errno)?;
                return Err(Lost::Connection);
            }
        };
        let mut fds = Vec::new();
        if client.wants_twin {
            let (ours, theirs) = UnixStream::pair().map_err(|_| Lost::Connection)?;
            self.twin = Some(Socket::new(ours.into()));
            fds.push(theirs.into());
        }
        device.client_came(self.options, client.max_data_xfer);
        let payload = client.answer(self.options, self.twin.is_some());
        self.answer(&header, Answer { payload, fds })
    }

    fn serve(&mut self, device: &mut Device) -> Result<std::convert::Infallible, Lost> {
        loop {
            let message = self.next()?;
            let header = message.header;
            match device.execute(message) {
                Ok(answer) => self.answer(&header, answer)?,
                Err(errno) => self.fail(&header, errno)?,
            }
        }
    }

    /// The next command.
    fn next(&mut self) -> Result<Message, Lost> {
        while !self.main.wait(self.desk, PollFlags::IN)? {}
        let (header, mut fds) = self.main.header(self.desk)?;
        let most = (self.options.max_data_xfer as usize).max(LEAST_LIMIT) + MOST_BESIDES;
        let len = (header.size as usize).checked_sub(HEADER);
        let Some(len) = len.filter(|_| header.size as usize <= most && header.is_command()) else {
            // What follows it may be anything.
            self.fail(&header, libc::EINVAL)?;
            return Err(Lost::Connection);
        };
        let payload = self.main.payload(self.desk, len, &mut fds)?;
        Ok(Message { header, payload, fds })
    }

    fn answer(&mut self, to: &Header, answer: Answer) -> Result<(), Lost> {
        let mut bytes = to.reply(answer.payload.len()).bytes();
        bytes.extend(answer.payload);
        let fds: Vec<_> = answer.fds.iter().map(AsFd::as_fd).collect();
        self.send(to, &bytes, &fds)
    }

    fn fail(&mut self, to: &Header, errno: i32) -> Result<(), Lost> {
        let reply = to.reply(0);
        let reply = Header { flags: reply.flags | ERROR, error: errno.unsigned_abs(), ..reply };
        self.send(to, &reply.bytes(), &[])
    }

    fn send(
        &mut self,
        to: &Header,
        bytes: &[u8],
        fds: &[std::os::fd::BorrowedFd<'_>],
    ) -> Result<(), Lost> {
        if to.wants_reply() { self.main.send(self.desk, bytes, fds) } else { Ok(()) }
    }
}
