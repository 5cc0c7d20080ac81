// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the server's own commands are answered: it reads the guest's memory, and writes to it.

use std::time::Duration;

use super::regions::Regions;
use super::stream::Stream;
use super::wire::{Header, command, u64_at};
use crate::alloc;
use crate::error::Errno;
use crate::transport::dma::{DmaAccess, GuestMemory};

/// What stands before the data of a command or its reply: address and count.
const HEAD: usize = 16;

/// The guest's memory, and the command that is coming in.
pub(super) struct Desk {
    memory: Option<Box<dyn GuestMemory>>,
    pub regions: Regions,
    /// The most data that a command may carry or ask for, in bytes.
    most: usize,
    buffer: Vec<u8>,
    /// How many commands were answered.
    pub served: u64,
}

impl Desk {
    pub fn new(memory: Option<Box<dyn GuestMemory>>, most: usize) -> Desk {
        Desk { memory, regions: Regions::default(), most, buffer: Vec::new(), served: 0 }
    }

    /// Goes on with the command of which `stream` has the header. Returns whether it is done: answered,
    /// or refused.
    pub fn serve(
        &mut self,
        stream: &mut Stream,
        header: Header,
        timeout: Duration,
    ) -> Result<bool, Errno> {
        if header.is_reply() {
            return Err(Errno(libc::EPROTO));
        }
        let known = matches!(header.command, command::DMA_READ | command::DMA_WRITE);
        let refusal = match known {
            false => Some(Errno(libc::EOPNOTSUPP)),
            true if header.body > HEAD + self.most => Some(Errno(libc::EINVAL)),
            true => self.make_room(header.body).err(),
        };
        if let Some(errno) = refusal {
            if !stream.skip()? {
                return Ok(false);
            }
            self.reply(stream, header, Err(errno), timeout)?;
            return Ok(true);
        }
        let body = self.buffer.get_mut(..header.body).unwrap_or_default();
        if !stream.body(&mut [body])? {
            return Ok(false);
        }
        let done = match header.command {
            command::DMA_READ => self.read(header.body),
            _ => self.write(header.body),
        };
        self.reply(stream, header, done, timeout)?;
        Ok(true)
    }

    fn make_room(&mut self, len: usize) -> Result<(), Errno> {
        let more = len.saturating_sub(self.buffer.len());
        alloc::reserve(&mut self.buffer, more, "").map_err(|_| Errno(libc::ENOMEM))?;
        self.buffer.resize(self.buffer.len().max(len), 0);
        Ok(())
    }

    /// Address and length of what the command in the buffer is about.
    fn range(&self, data: usize) -> Result<(u64, usize), Errno> {
        let (iova, count) = (u64_at(&self.buffer, 0)?, u64_at(&self.buffer, 8)?);
        let count = usize::try_from(count).ok().filter(|count| (1..=self.most).contains(count));
        let count = count.filter(|count| data == 0 || data == *count);
        Ok((iova, count.ok_or(Errno(libc::EINVAL))?))
    }

    /// Reads the guest's memory. Returns how much of the buffer is the reply.
    fn read(&mut self, body: usize) -> Result<usize, Errno> {
        if body != HEAD {
            return Err(Errno(libc::EINVAL));
        }
        let (iova, len) = self.range(0)?;
        self.regions.check(iova, len as u64, DmaAccess::READ)?;
        self.make_room(HEAD + len)?;
        let data = self.buffer.get_mut(HEAD..HEAD + len).ok_or(Errno(libc::EINVAL))?;
        self.memory.as_mut().ok_or(Errno(libc::EOPNOTSUPP))?.read(iova, data)?;
        Ok(HEAD + len)
    }

    /// Writes to the guest's memory. The reply is address and count, which servers insist on.
    fn write(&mut self, body: usize) -> Result<usize, Errno> {
        let data = body.checked_sub(HEAD).filter(|len| *len > 0).ok_or(Errno(libc::EINVAL))?;
        let (iova, len) = self.range(data)?;
        self.regions.check(iova, len as u64, DmaAccess::WRITE)?;
        let memory = self.memory.as_mut().ok_or(Errno(libc::EOPNOTSUPP))?;
        // Dirty even if it fails: nobody knows how much was written.
        self.regions.mark(iova, len as u64);
        memory.write(iova, self.buffer.get(HEAD..HEAD + len).ok_or(Errno(libc::EINVAL))?)?;
        Ok(HEAD)
    }

    fn reply(
        &mut self,
        stream: &Stream,
        to: Header,
        done: Result<usize, Errno>,
        timeout: Duration,
    ) -> Result<(), Errno> {
        self.served += 1;
        if !to.wants_reply() {
            return Ok(());
        }
        match done {
            Ok(len) => {
                let body = self.buffer.get(..len).unwrap_or_default();
                stream.send_all([&to.reply(len).to_bytes(), body, &[]], timeout)
            }
            Err(errno) => stream.send_all([&to.refusal(errno).to_bytes(), &[], &[]], timeout),
        }
    }
}
