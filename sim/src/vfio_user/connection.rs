// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection from its first message to its last.

use std::os::fd::{AsFd, OwnedFd};

use super::channel::Channel;
use super::desk::Desk;
use super::device::Device;
use super::options::{ServerOptions, quirk};
use super::socket::{Lost, Message};
use super::version::Client;
use super::wire::VERSION;
use crate::shared::Shared;

pub(crate) struct Connection<'s> {
    desk: &'s Desk,
    options: &'s ServerOptions,
    channel: Channel<'s>,
}

impl<'s> Connection<'s> {
    pub fn new(
        desk: &'s Desk,
        sim: &'s Shared,
        options: &'s ServerOptions,
        socket: OwnedFd,
    ) -> Connection<'s> {
        Connection { desk, options, channel: Channel::new(desk, sim, options, socket) }
    }

    /// Serves until one side has enough.
    pub fn run(mut self, device: &mut Device) -> Lost {
        let Err(lost) = self.introduce(device).and_then(|()| self.serve(device));
        self.desk.close();
        lost
    }

    fn next(&mut self) -> Result<Message, Lost> {
        loop {
            if let Some(message) = self.channel.next()? {
                return Ok(message);
            }
        }
    }

    /// The first message.
    fn introduce(&mut self, device: &mut Device) -> Result<(), Lost> {
        let Message { header, payload, .. } = self.next()?;
        let introduced = header.command == VERSION;
        let client = if introduced { Client::parse(&payload) } else { Err(libc::EINVAL) };
        let client = match client {
            Ok(client) => client,
            Err(errno) => {
                self.channel.refuse(&header, &[], errno)?;
                return Err(Lost::Connection);
            }
        };
        let twins =
            client.wants_twin && client.max_msg_fds > 0 && !self.options.has(quirk::NO_TWIN_SOCKET);
        let twin = if twins { Some(self.channel.make_twin()?) } else { None };
        self.channel.client_takes = client.max_data_xfer.min(self.options.max_data_xfer as usize);
        device.client_came(client.max_data_xfer, client.max_msg_fds > 0);
        // Before the client knows that it is there.
        self.desk.open();
        let payload = client.answer(self.options, twin.is_some());
        let fds: Vec<_> = twin.iter().map(AsFd::as_fd).collect();
        self.channel.answer(&header, &payload, &fds)
    }

    fn serve(&mut self, device: &mut Device) -> Result<std::convert::Infallible, Lost> {
        loop {
            while let Some(job) = self.desk.next_job() {
                let result = device.work(job.work, &mut self.channel);
                // Whoever asked may have gone.
                let _ = job.done.send(result);
                self.channel.lost.map_or(Ok(()), Err)?;
            }
            let Some(message) = self.channel.next()? else { continue };
            let header = message.header;
            let refused = device.refusal(&message);
            let result = device.execute(message, &mut self.channel);
            self.channel.lost.map_or(Ok(()), Err)?;
            match result {
                Ok(answer) => {
                    let fds: Vec<_> = answer.fds.iter().map(AsFd::as_fd).collect();
                    self.channel.answer(&header, &answer.payload, &fds)?;
                }
                Err(errno) => self.channel.refuse(&header, &refused, errno)?,
            }
        }
    }
}
