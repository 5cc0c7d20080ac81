// SPDX-License-Identifier: MIT OR Apache-2.0
//! Migration data, in messages. A command whose reply takes a long time is left on its way: reading or writing
//! again goes on with it, so that whoever waits can look up meanwhile.

use std::time::{Duration, Instant};

use super::connection::{Connection, Sent};
use super::way::Way;
use super::wire::{Fields, command, u32_at};
use crate::alloc;
use crate::error::Errno;

/// What stands before data: two numbers.
pub(super) const HEAD: usize = 8;
/// How long a reply is waited for at a time.
const LOOK_UP: Duration = Duration::from_millis(50);
/// What a server may say to data that it has taken, in bytes; it is nothing, by the protocol.
const ACKNOWLEDGEMENT: usize = 64;

/// A command on its way, and how much data it is about, in bytes.
#[derive(Clone, Copy)]
struct Pending {
    sent: Sent,
    len: usize,
}

/// What is on its way, and what has come and was not taken yet.
#[derive(Default)]
pub(super) struct Data {
    reading: Option<Pending>,
    writing: Option<Pending>,
    /// Data that nobody was there for when it came.
    kept: Vec<u8>,
    taken: usize,
    /// Reading failed when nobody was there.
    failed: Option<Errno>,
    /// Nothing is waited for.
    pub nonblocking: bool,
}

impl Data {
    /// The most that a reply is waited for now.
    fn until(&self) -> Instant {
        Instant::now() + if self.nonblocking { Duration::ZERO } else { LOOK_UP }
    }

    /// Reads into `buf`, `most` bytes at once.
    pub fn read(&mut self, way: &mut Way, most: usize, buf: &mut [u8]) -> Result<usize, Errno> {
        if let Some(errno) = self.failed.take() {
            return Err(errno);
        }
        let kept = self.kept.get(self.taken..).unwrap_or_default();
        if !kept.is_empty() {
            let len = kept.len().min(buf.len());
            for (to, from) in buf.iter_mut().zip(kept) {
                *to = *from;
            }
            self.taken += len;
            return Ok(len);
        }
        let len = buf.len().min(most);
        let connection = match way {
            Way::Own(connection) => connection,
            Way::Lent(lent, _) => {
                let mut head = [0; HEAD];
                let data = buf.get_mut(..len).unwrap_or_default();
                let asked = ask(len);
                let parts = &mut [&mut head[..], data];
                let got = lent.call(command::MIG_DATA_READ, [asked.bytes(), &[]], &[], parts)?;
                return amount(&head, got, len);
            }
        };
        let pending = match self.reading.take() {
            Some(pending) => pending,
            None => Pending { sent: begin_read(connection, len)?, len },
        };
        match connection.begin_reply(pending.sent, self.until(), None) {
            Err(Errno(libc::ETIMEDOUT)) if !connection.is_lost() => {
                self.reading = Some(pending);
                Err(Errno(libc::EAGAIN))
            }
            Err(errno) => Err(errno),
            Ok(header) if pending.len <= buf.len() => {
                let mut head = [0; HEAD];
                let data = buf.get_mut(..pending.len).unwrap_or_default();
                let got = connection.end_reply(header, &mut [&mut head, data])?;
                amount(&head, got, pending.len)
            }
            Ok(_) => {
                self.keep(connection, pending)?;
                match self.kept.len() {
                    0 => Ok(0),
                    _ => self.read(way, most, buf),
                }
            }
        }
    }

    /// Waits for data that is on its way, and keeps it.
    fn keep(&mut self, connection: &mut Connection, pending: Pending) -> Result<(), Errno> {
        (self.kept, self.taken) = (Vec::new(), 0);
        let Ok(mut kept) = alloc::filled(0, pending.len, "") else {
            connection.forget(pending.sent);
            return Err(Errno(libc::ENOMEM));
        };
        let mut head = [0; HEAD];
        let got = connection.reply(pending.sent, &mut [&mut head, &mut kept])?;
        kept.truncate(amount(&head, got, pending.len)?);
        self.kept = kept;
        Ok(())
    }

    /// Writes some of `buf`: at most `most` bytes.
    pub fn write(&mut self, way: &mut Way, most: usize, buf: &[u8]) -> Result<usize, Errno> {
        let len = buf.len().min(most);
        let data = buf.get(..len).unwrap_or_default();
        let mut waste = [0; ACKNOWLEDGEMENT];
        let connection = match way {
            Way::Own(connection) => connection,
            Way::Lent(lent, _) => {
                let head = ask(len);
                let payload = [head.bytes(), data];
                lent.call(command::MIG_DATA_WRITE, payload, &[], &mut [&mut waste])?;
                return Ok(len);
            }
        };
        let pending = match self.writing.take() {
            Some(pending) => pending,
            None => {
                let head = ask(len);
                let payload = [head.bytes(), data];
                Pending { sent: connection.send(command::MIG_DATA_WRITE, payload, &[])?, len }
            }
        };
        match connection.begin_reply(pending.sent, self.until(), None) {
            Err(Errno(libc::ETIMEDOUT)) if !connection.is_lost() => {
                self.writing = Some(pending);
                Err(Errno(libc::EAGAIN))
            }
            Err(errno) => Err(errno),
            Ok(header) => {
                connection.end_reply(header, &mut [&mut waste])?;
                // Whoever writes again after EAGAIN brings the same bytes.
                if pending.len <= buf.len() { Ok(pending.len) } else { Err(Errno(libc::EIO)) }
            }
        }
    }

    /// Waits for what is on its way, before something else is asked for.
    pub fn settle(&mut self, way: &mut Way) {
        let Way::Own(connection) = way else { return };
        if let Some(pending) = self.reading.take() {
            self.failed = self.keep(connection, pending).err();
        }
        if let Some(pending) = self.writing.take() {
            let mut waste = [0; ACKNOWLEDGEMENT];
            let _ = connection.reply(pending.sent, &mut [&mut waste]);
        }
    }

    /// The stream has ended: nobody wants the rest.
    pub fn close(&mut self, way: &mut Way) {
        let pending = [self.reading.take(), self.writing.take()];
        if let Way::Own(connection) = way {
            for pending in pending.into_iter().flatten() {
                connection.forget(pending.sent);
            }
        }
        *self = Data::default();
    }
}

/// The two numbers before data, or in place of it.
fn ask(len: usize) -> Fields<HEAD> {
    Fields::new().u32((HEAD + len) as u32).u32(len as u32)
}

fn begin_read(connection: &mut Connection, len: usize) -> Result<Sent, Errno> {
    connection.send(command::MIG_DATA_READ, [ask(len).bytes(), &[]], &[])
}

/// How much of a reply is data. Its message may be longer.
fn amount(head: &[u8; HEAD], got: usize, asked: usize) -> Result<usize, Errno> {
    let carried = got.checked_sub(HEAD).ok_or(Errno(libc::EPROTO))?;
    let size = u32_at(head, 4)? as usize;
    if size <= carried && size <= asked { Ok(size) } else { Err(Errno(libc::EPROTO)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_for_data_than_was_asked_for_and_has_come() {
        let amount = |size: u32, got, asked| {
            let mut head = [0; HEAD];
            head[4..].copy_from_slice(&size.to_ne_bytes());
            super::amount(&head, got, asked)
        };
        // A message may be longer than its data.
        assert_eq!((amount(5, 13, 5), amount(5, 108, 100), amount(0, 8, 9)), (Ok(5), Ok(5), Ok(0)));
        for (size, got, asked) in
            [(6, 13, 9), (6, 108, 5), (u32::MAX, 108, 100), (0, 7, 9), (0, 0, 0)]
        {
            assert_eq!(amount(size, got, asked), Err(Errno(libc::EPROTO)), "{size} {got} {asked}");
        }
    }
}
