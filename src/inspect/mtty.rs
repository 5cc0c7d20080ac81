// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is in the state of the kernel's sample device, `mtty`, version 1.0: samples/vfio-mdev/mtty.c.
//!
//! A header, and a structure for each port with the driver's own padding, in the host's byte order.
//! The state has no configuration space.

use super::fields::{Field, FieldDecoder, FieldFlags, Fields, Value};
use crate::error::Result;
use crate::guard::mtty::{HEADER, MAGIC, PORT, VERSION, at, is_right};

/// A member of the header: its name, where it is, how many bytes it has, and what it is.
type Member = (&'static str, usize, usize, &'static str);

const OF_HEADER: [Member; 5] = [
    ("header.magic", 0, 8, "what the state begins with"),
    ("header.major", 8, 4, "major version of the state"),
    ("header.minor", 12, 4, "minor version of the state"),
    ("header.nr_ports", 16, 4, "number of ports"),
    ("header.flags", 20, 4, "none are defined"),
];

/// The same of a port. The registers are at the offsets that they have in the device's BAR; several
/// are computed when the guest reads them, and their place here is not used.
const OF_PORT: [Member; 20] = [
    ("uart.rx_tx", 0, 1, "receiver buffer, transmitter holding (not used: see fifo)"),
    ("uart.ier", 1, 1, "interrupt enable"),
    ("uart.iir", 2, 1, "interrupt identification (computed when it is read)"),
    ("uart.lcr", 3, 1, "line control"),
    ("uart.mcr", 4, 1, "modem control"),
    ("uart.lsr", 5, 1, "line status (computed when it is read)"),
    ("uart.msr", 6, 1, "modem status"),
    ("uart.scr", 7, 1, "scratch"),
    ("fifo.data", 8, 16, "bytes that the guest has sent, and that loop back to it"),
    ("fifo.head", at::HEAD, 1, "where the next byte goes"),
    ("fifo.tail", at::TAIL, 1, "where the next byte is taken from"),
    ("fifo.count", at::COUNT, 1, "bytes in the FIFO"),
    ("dlab", at::DLAB, 1, "divisor latch access: bit 7 of lcr"),
    ("overrun", at::OVERRUN, 1, "a byte came when the FIFO was full"),
    ("pad0", 29, 1, ""),
    ("divisor", 30, 2, "of the baud rate's generator"),
    ("fcr", 32, 1, "FIFO control"),
    ("max_fifo_size", at::MAX_FIFO_SIZE, 1, "1 without a FIFO, 16 with it"),
    ("intr_trigger_level", at::TRIGGER_LEVEL, 1, "bytes in the FIFO that make an interrupt"),
    ("pad1", 35, 1, ""),
];

/// Names what is in the state of an mtty.
#[derive(Debug)]
pub struct MttyFields {
    /// As much of the header, or of the port, as has come.
    part: [u8; PORT],
    filled: usize,
    /// Where the part begins.
    begin: u64,
    ports: u32,
    /// Bytes behind the last port.
    more: u64,
}

impl MttyFields {
    /// For one stream.
    pub fn new() -> MttyFields {
        MttyFields { part: [0; PORT], filled: 0, begin: 0, ports: 0, more: 0 }
    }

    fn part_len(&self) -> usize {
        if self.begin == 0 { HEADER } else { PORT }
    }

    fn port(&self) -> u64 {
        self.begin.saturating_sub(HEADER as u64) / PORT as u64
    }

    /// The number at a place of the part.
    fn number(&self, place: usize, len: usize) -> u64 {
        let mut bytes = [0; 8];
        let begin = if cfg!(target_endian = "big") { 8 - len } else { 0 };
        let from = self.part.iter().skip(place).take(len);
        for (slot, byte) in bytes.iter_mut().skip(begin).zip(from) {
            *slot = *byte;
        }
        u64::from_ne_bytes(bytes)
    }

    fn header_came(&mut self, out: &mut Fields<'_>) -> Result<()> {
        for (name, place, len, description) in OF_HEADER {
            let value = self.number(place, len);
            let right = match place {
                0 => value == MAGIC,
                8 => value == u64::from(VERSION.0),
                12 => value == u64::from(VERSION.1),
                16 => matches!(value, 1 | 2),
                _ => value == 0,
            };
            let hex = if place == 0 { FieldFlags::HEX } else { FieldFlags::empty() };
            let suspect = if right { FieldFlags::empty() } else { FieldFlags::SUSPECT };
            out.put(&Field {
                name,
                value: Value::Unsigned(value),
                bits: 8 * len as u32,
                offset: place as u64,
                description,
                flags: hex | suspect,
            })?;
        }
        self.ports = self.number(16, 4) as u32;
        Ok(())
    }

    fn port_came(&mut self, out: &mut Fields<'_>) -> Result<()> {
        let byte = |place: usize| self.part.get(place).copied().unwrap_or_default();
        let (head, tail) = (byte(at::HEAD), byte(at::TAIL));
        for (member, place, len, description) in OF_PORT {
            let mut name = [0; 32];
            let name = port_name(&mut name, self.port(), member);
            let bytes = self.part.get(place..place + len).unwrap_or_default();
            let mut flags = FieldFlags::empty();
            if member.starts_with("uart.") || matches!(member, "divisor" | "fcr") {
                flags |= FieldFlags::HEX;
            }
            if member.starts_with("pad") {
                flags |= FieldFlags::PADDING;
            }
            if !is_right(place, byte(place), head, tail) {
                flags |= FieldFlags::SUSPECT;
            }
            out.put(&Field {
                name,
                value: match len {
                    16 => Value::Bytes(bytes),
                    _ => Value::Unsigned(self.number(place, len)),
                },
                bits: 8 * len as u32,
                offset: self.begin + place as u64,
                description,
                flags,
            })?;
        }
        Ok(())
    }
}

/// `portN.member`, without an allocation.
fn port_name<'a>(buffer: &'a mut [u8; 32], port: u64, member: &str) -> &'a str {
    use std::io::Write as _;
    let whole = buffer.len();
    let mut rest = &mut buffer[..];
    let written = write!(rest, "port{port}.{member}");
    let len = if written.is_ok() { whole - rest.len() } else { 0 };
    std::str::from_utf8(buffer.get(..len).unwrap_or_default()).unwrap_or_default()
}

impl Default for MttyFields {
    fn default() -> MttyFields {
        MttyFields::new()
    }
}

impl FieldDecoder for MttyFields {
    fn data(&mut self, bytes: &[u8], _offset: u64, out: &mut Fields<'_>) -> Result<()> {
        let mut bytes = bytes;
        while let Some((first, rest)) = bytes.split_first() {
            if self.begin > 0 && self.port() >= u64::from(self.ports) {
                self.more += bytes.len() as u64;
                return Ok(());
            }
            bytes = rest;
            if let Some(slot) = self.part.get_mut(self.filled) {
                *slot = *first;
            }
            self.filled += 1;
            if self.filled < self.part_len() {
                continue;
            }
            match self.begin {
                0 => self.header_came(out)?,
                _ => self.port_came(out)?,
            }
            self.begin += self.filled as u64;
            self.filled = 0;
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        *self = MttyFields::new();
        Ok(())
    }

    fn end(&mut self, len: u64, out: &mut Fields<'_>) -> Result<()> {
        let left = self.more + self.filled as u64;
        if left == 0 {
            return Ok(());
        }
        out.put(&Field {
            name: "rest",
            value: Value::Unsigned(left),
            bits: 64,
            offset: len.saturating_sub(left),
            description: "bytes that are not a whole port, or follow the last one",
            flags: FieldFlags::SUSPECT,
        })
    }
}
