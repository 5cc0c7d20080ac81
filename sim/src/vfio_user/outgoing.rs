// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of a message on its way out, when something is to go wrong with it. A message is what
//! it would have been, and then changed.

use super::options::MessageFault;
use super::socket::MOST_FDS;
use super::wire::{
    DMA_READ, DMA_WRITE, ERROR, HEADER, Header, MIG_DATA_READ, REPLY, u32_at, u64_at,
};
use crate::contents::mix;

pub(crate) struct Outgoing {
    pub bytes: Vec<u8>,
    /// How many of them are sent before the connection is closed; `None`: all, and it is not.
    pub closes_after: Option<usize>,
    /// Nothing is sent.
    pub silent: bool,
    /// Microseconds.
    pub late: u64,
    /// Descriptors in addition to its own.
    pub fds: usize,
}

impl Outgoing {
    pub fn new(header: &Header, payload: &[u8]) -> Outgoing {
        let mut bytes = header.bytes();
        bytes.extend(payload);
        Outgoing { bytes, closes_after: None, silent: false, late: 0, fds: 0 }
    }

    /// A message that goes wrong.
    pub fn spoilt(header: &Header, payload: &[u8], what: MessageFault, value: u64) -> Outgoing {
        let mut header = *header;
        let mut payload = payload.to_vec();
        let whole = payload.len();
        match what {
            MessageFault::WrongId => header.id = header.id.wrapping_add(1),
            MessageFault::WrongCommand => header.command = value as u16,
            MessageFault::WrongType => header.flags ^= REPLY,
            MessageFault::Error | MessageFault::ErrorWithPayload => {
                (header.flags, header.error) = (header.flags | ERROR, value as u32);
                if what == MessageFault::Error {
                    payload.clear();
                }
            }
            MessageFault::Payload => nonsense(value, &mut payload),
            MessageFault::Cut => payload.truncate(whole.saturating_sub(value as usize)),
            MessageFault::More => {
                payload.resize(whole.saturating_add(value as usize), 0);
                claim(&header, &mut payload, value);
            }
            MessageFault::Claims => claim(&header, &mut payload, value),
            MessageFault::Elsewhere if matches!(header.command, DMA_READ | DMA_WRITE) => {
                put(&mut payload, 0, &value.to_ne_bytes());
            }
            _ => {}
        }
        header.size = match what {
            MessageFault::WrongSize => value as u32,
            _ => (HEADER + payload.len()) as u32,
        };
        let mut out = Outgoing::new(&header, &payload);
        match what {
            MessageFault::Close => out.closes_after = Some(0),
            MessageFault::CloseWithin => out.closes_after = Some(value as usize),
            MessageFault::Silence => out.silent = true,
            MessageFault::Late => out.late = value,
            MessageFault::Fds => out.fds = value.clamp(1, MOST_FDS as u64) as usize,
            MessageFault::Nonsense => nonsense(value, &mut out.bytes),
            _ => {}
        }
        out
    }
}

/// Says that there is more than there is.
fn claim(header: &Header, payload: &mut [u8], more: u64) {
    match header.command {
        MIG_DATA_READ => {
            let claimed = u32_at(payload, 4).map(|now| now.wrapping_add(more as u32));
            put(payload, 4, &claimed.unwrap_or_default().to_ne_bytes());
        }
        DMA_READ | DMA_WRITE => {
            let claimed = u64_at(payload, 8).map(|now| now.wrapping_add(more));
            put(payload, 8, &claimed.unwrap_or_default().to_ne_bytes());
        }
        _ => {}
    }
}

/// Bytes that mean nothing, always the same ones for a seed.
fn nonsense(seed: u64, out: &mut [u8]) {
    let bytes = (1..).flat_map(|n: u64| mix(seed.wrapping_add(n)).to_ne_bytes());
    out.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
}

fn put(payload: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slot) = payload.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}
