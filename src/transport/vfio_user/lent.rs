// SPDX-License-Identifier: MIT OR Apache-2.0
//! The connection of a VMM that has one itself: it sends the commands, and hands on the replies.

use std::os::fd::BorrowedFd;

use crate::alloc;
use crate::error::Errno;

/// A connection to a vfio-user server that its owner lends, one command at a time.
///
/// Called on the thread that called the library, while the device is locked: wait for nothing that
/// another thread holds while it calls the library, and call nothing of this device, which is busy. The
/// owner passes over replies that come too late, and closes descriptors that nobody has asked for.
pub trait Requests: Send {
    /// Sends a command with this payload and these descriptors, and waits for its reply. Returns how
    /// many bytes of the reply's payload are in `reply`, which has room for the longest that is
    /// expected. An error reply is its errno; a connection that is gone is `ENODEV`,
    /// and a reply that has not come in time `ETIMEDOUT`. Have a limit: the library waits as long as this.
    fn request(
        &mut self,
        command: u16,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
        reply: &mut [u8],
    ) -> Result<usize, Errno>;
}

pub(super) struct Lent {
    requests: Box<dyn Requests>,
    payload: Vec<u8>,
    reply: Vec<u8>,
}

impl Lent {
    pub fn new(requests: Box<dyn Requests>) -> Lent {
        Lent { requests, payload: Vec::new(), reply: Vec::new() }
    }

    /// Sends a command, and waits for its reply.
    pub fn call(
        &mut self,
        command: u16,
        [head, tail]: [&[u8]; 2],
        fds: &[BorrowedFd<'_>],
        parts: &mut [&mut [u8]],
    ) -> Result<usize, Errno> {
        let no_memory = |_| Errno(libc::ENOMEM);
        let mut payload = head;
        if !tail.is_empty() {
            self.payload.clear();
            alloc::reserve(&mut self.payload, head.len() + tail.len(), "").map_err(no_memory)?;
            self.payload.extend_from_slice(head);
            self.payload.extend_from_slice(tail);
            payload = &self.payload;
        }
        if let [reply] = parts {
            return check(self.requests.request(command, payload, fds, reply)?, reply.len());
        }
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let more = len.saturating_sub(self.reply.len());
        alloc::reserve(&mut self.reply, more, "").map_err(no_memory)?;
        self.reply.resize(self.reply.len().max(len), 0);
        let reply = self.reply.get_mut(..len).unwrap_or_default();
        let got = check(self.requests.request(command, payload, fds, reply)?, len)?;
        let mut rest = self.reply.get(..got).unwrap_or_default();
        for part in parts {
            let (here, after) = rest.split_at(part.len().min(rest.len()));
            part.get_mut(..here.len()).unwrap_or_default().copy_from_slice(here);
            rest = after;
        }
        Ok(got)
    }
}

fn check(got: usize, room: usize) -> Result<usize, Errno> {
    if got <= room { Ok(got) } else { Err(Errno(libc::EPROTO)) }
}
