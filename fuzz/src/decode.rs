// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stream reader on any bytes, split in any way: it must refuse or pass on, never crash, and
//! must say the same however the bytes come in. The checksums are corrected first, because no
//! fuzzer guesses them.

use crate::input::Input;
use vfiomig::stream::{DecodeLimits, Decoder, HEADER_LEN, PREAMBLE_LEN, Read};

/// What a reader said, as text; the last line is the verdict.
fn read(pieces: impl Iterator<Item = Vec<u8>>) -> Vec<String> {
    let mut decoder = Decoder::new(DecodeLimits { max_frame: 1 << 16, ..DecodeLimits::default() });
    let mut said = Vec::new();
    for piece in pieces {
        let mut rest = piece.as_slice();
        loop {
            match decoder.next(&mut rest) {
                Ok(Some(item)) => said.push(format!("{item:?}")),
                Ok(None) => break,
                Err(error) => {
                    said.push(format!("{:?}", error.code()));
                    return said;
                }
            }
        }
    }
    said.push(format!("ended {}", decoder.ended()));
    said
}

/// The same through the receive buffer.
fn read_into_space(mut bytes: &[u8], step: usize) -> Vec<String> {
    let mut decoder = Decoder::new(DecodeLimits { max_frame: 1 << 16, ..DecodeLimits::default() });
    let mut said = Vec::new();
    while !bytes.is_empty() {
        let n = match decoder.space() {
            Ok(space) => {
                let n = step.min(space.len()).min(bytes.len());
                space[..n].copy_from_slice(&bytes[..n]);
                n
            }
            Err(error) => {
                said.push(format!("{:?}", error.code()));
                return said;
            }
        };
        bytes = &bytes[n..];
        decoder.received(n).expect("it fits");
        loop {
            match decoder.next(&mut [].as_slice()) {
                Ok(Some(item)) => said.push(format!("{item:?}")),
                Ok(None) => break,
                Err(error) => {
                    said.push(format!("{:?}", error.code()));
                    return said;
                }
            }
        }
    }
    said.push(format!("ended {}", decoder.ended()));
    said
}

/// Makes checksums and lengths fit the bytes, so that the fuzzer reaches what lies behind them.
fn repair(bytes: &mut [u8]) {
    if bytes.len() < PREAMBLE_LEN {
        return;
    }
    bytes[..8].copy_from_slice(&vfiomig::stream::MAGIC);
    bytes[8..20].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let session = bytes[20..36].to_vec();
    let preamble = crc(&[&bytes[..36]]);
    bytes[36..40].copy_from_slice(&preamble.to_le_bytes());
    let mut at = PREAMBLE_LEN;
    while at + HEADER_LEN <= bytes.len() {
        bytes[at..at + 4].copy_from_slice(b"VMFr");
        let room = bytes.len() - at - HEADER_LEN;
        let len = (u32::from_le_bytes(bytes[at + 12..at + 16].try_into().expect("four")) as usize)
            % (room + 1);
        bytes[at + 12..at + 16].copy_from_slice(&(len as u32).to_le_bytes());
        let payload = crc(&[&bytes[at + HEADER_LEN..at + HEADER_LEN + len]]);
        bytes[at + 24..at + 28].copy_from_slice(&payload.to_le_bytes());
        let header = crc(&[&session, &bytes[at..at + 28]]);
        bytes[at + 28..at + 32].copy_from_slice(&header.to_le_bytes());
        at += HEADER_LEN + len;
    }
}

fn crc(parts: &[&[u8]]) -> u32 {
    let mut crc = !0u32;
    for byte in parts.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (mend, step) = (input.flag(), usize::from(input.u8()) + 1);
    let mut bytes = input.all().to_vec();
    if mend {
        repair(&mut bytes);
    }
    let whole = read(std::iter::once(bytes.clone()));
    let split = read(bytes.chunks(step).map(<[u8]>::to_vec));
    assert_eq!(whole, split);
    assert_eq!(whole, read_into_space(&bytes, step));
}
