// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's sample device, `mtty`.
//!
//! Its state is a header, which the driver checks, and a structure for each port, which it copies
//! as it is. The driver then indexes a FIFO of 16 bytes with what stands there, up to 255, in memory
//! where pointers of the kernel's follow. This accepts what mtty can have saved, and nothing else.

use super::contract::Guard;
use crate::error::{Error, Result, err};

/// The header: magic, major and minor version, number of ports, flags; in the host's byte order.
pub(crate) const HEADER: usize = 24;
pub(crate) const MAGIC: u64 = 0x7e9d_0989_8c3e_2c4e;
pub(crate) const VERSION: (u32, u32) = (1, 0);

/// A port: the driver's own structure, with padding.
pub(crate) const PORT: usize = 36;

/// Bytes in a FIFO.
const FIFO: u8 = 16;

/// Where in a port the driver's members are that it does not check.
pub(crate) mod at {
    pub const HEAD: usize = 24;
    pub const TAIL: usize = 25;
    pub const COUNT: usize = 26;
    pub const DLAB: usize = 27;
    pub const OVERRUN: usize = 28;
    pub const MAX_FIFO_SIZE: usize = 33;
    pub const TRIGGER_LEVEL: usize = 34;
}

/// A guard for mtty, version 1.0 of its state.
#[derive(Debug)]
pub struct Mtty {
    /// Ports of this device, if its type is known.
    wanted: Option<u32>,
    /// Ports in the header.
    ports: u32,
    /// Bytes that have come.
    came: u64,
    /// The member of the header that is coming.
    word: [u8; 8],
    head: u8,
    tail: u8,
}

impl Mtty {
    /// For a target of this mdev type: `mtty-1` has one port, `mtty-2` has two.
    pub fn new(mdev_type: &str) -> Mtty {
        let wanted = match mdev_type {
            "mtty-1" => Some(1),
            "mtty-2" => Some(2),
            _ => None,
        };
        Mtty { wanted, ports: 0, came: 0, word: [0; 8], head: 0, tail: 0 }
    }

    /// How long the state is, according to its header.
    fn length(&self) -> u64 {
        HEADER as u64 + PORT as u64 * u64::from(self.ports)
    }

    /// Judges the next byte.
    fn byte(&mut self, byte: u8) -> Result<()> {
        let place = usize::try_from(self.came).unwrap_or(usize::MAX);
        match place.checked_sub(HEADER) {
            None => self.header(place, byte)?,
            Some(_) if self.came >= self.length() => {
                return Err(refused(self.came, "more follows than the ports that it has"));
            }
            Some(place) => self.port(place % PORT, byte)?,
        }
        self.came += 1;
        Ok(())
    }

    fn header(&mut self, place: usize, byte: u8) -> Result<()> {
        // The magic has 8 bytes, the other members have 4.
        let (begin, len) = if place < 8 { (0, 8) } else { (place & !3, 4) };
        if let Some(slot) = self.word.get_mut(place - begin) {
            *slot = byte;
        }
        if place - begin + 1 < len {
            return Ok(());
        }
        let [a, b, c, d, ..] = self.word;
        let (magic, number) = (u64::from_ne_bytes(self.word), u32::from_ne_bytes([a, b, c, d]));
        let right = match begin {
            0 => magic == MAGIC,
            8 => number == VERSION.0,
            12 => number == VERSION.1,
            16 => {
                self.ports = number;
                matches!(number, 1 | 2) && self.wanted.is_none_or(|wanted| wanted == number)
            }
            _ => number == 0,
        };
        match right {
            true => Ok(()),
            false => Err(refused(
                self.came,
                match begin {
                    0 => "its magic number is wrong",
                    8 | 12 => "it is of a version other than 1.0",
                    16 => "it has another number of ports than this device",
                    _ => "it has flags that are not known",
                },
            )),
        }
    }

    fn port(&mut self, place: usize, byte: u8) -> Result<()> {
        match place {
            at::HEAD => self.head = byte,
            at::TAIL => self.tail = byte,
            _ => {}
        }
        match is_right(place, byte, self.head, self.tail) {
            true => Ok(()),
            false => {
                let port = self.came.saturating_sub(HEADER as u64) / PORT as u64;
                Err(err!(
                    Proto,
                    "mtty's state is not what mtty saves: {} of port {port} is {byte}, at byte {} of \
                     the device's data",
                    member(place),
                    self.came
                ))
            }
        }
    }
}

/// Whether mtty can have saved this byte of a port, whose FIFO has its head and its tail there.
pub(crate) fn is_right(place: usize, byte: u8, head: u8, tail: u8) -> bool {
    match place {
        at::HEAD | at::TAIL => byte < FIFO,
        // A FIFO of 16 bytes has its head where its tail is, like an empty one.
        at::COUNT => byte <= FIFO && byte % FIFO == head.wrapping_sub(tail) % FIFO,
        at::DLAB | at::OVERRUN => byte <= 1,
        at::MAX_FIFO_SIZE => byte == 1 || byte == FIFO,
        at::TRIGGER_LEVEL => matches!(byte, 0 | 1 | 4 | 8 | 14),
        _ => true,
    }
}

fn member(place: usize) -> &'static str {
    match place {
        at::HEAD => "the head of the FIFO",
        at::TAIL => "the tail of the FIFO",
        at::COUNT => "the count of the FIFO",
        at::DLAB => "dlab",
        at::OVERRUN => "overrun",
        at::MAX_FIFO_SIZE => "the size of the FIFO",
        _ => "the trigger level",
    }
}

#[cold]
fn refused(place: u64, what: &str) -> Error {
    err!(Proto, "mtty's state is not what mtty saves: {what}, at byte {place} of the device's data")
}

impl Guard for Mtty {
    fn data(&mut self, bytes: &[u8], _offset: u64) -> Result<()> {
        bytes.iter().try_for_each(|byte| self.byte(*byte))
    }

    fn restart(&mut self) -> Result<()> {
        (self.came, self.ports) = (0, 0);
        Ok(())
    }

    fn end(&mut self, len: u64) -> Result<()> {
        match self.came >= HEADER as u64 && self.came == self.length() {
            true => Ok(()),
            false => Err(refused(len, "it is too short")),
        }
    }
}
