// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stream reader on any bytes, split in any way: it must refuse or pass on, never crash, and
//! must say the same however the bytes come in. The checksums are corrected first, because no
//! fuzzer guesses them.

use crate::input::{Input, crc};
use vfiomig::stream::{DecodeLimits, Decoder, HEADER_LEN, PREAMBLE_LEN, Read};

/// What a reader says, as text.
struct Said {
    decoder: Decoder,
    lines: Vec<String>,
}

impl Said {
    fn new() -> Said {
        // The most that can be asked for: what is announced must not become memory (`max_memory`).
        let limits = DecodeLimits { max_frame: 1 << 30, ..DecodeLimits::default() };
        Said { decoder: Decoder::new(limits), lines: Vec::new() }
    }

    /// All items that these bytes complete.
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), vfiomig::Error> {
        while let Some(item) = self.decoder.next(&mut bytes)? {
            self.lines.push(format!("{item:?}"));
        }
        Ok(())
    }

    /// The same through the receive buffer.
    fn take_into_space(&mut self, mut bytes: &[u8], step: usize) -> Result<(), vfiomig::Error> {
        while !bytes.is_empty() {
            let space = self.decoder.space()?;
            let n = step.min(space.len()).min(bytes.len());
            space[..n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            self.decoder.received(n).expect("it fits");
            self.take(&[])?;
        }
        Ok(())
    }

    /// The last line is the verdict.
    fn end(mut self, result: Result<(), vfiomig::Error>) -> Vec<String> {
        self.lines.push(match result {
            Ok(()) => format!("ended {}", self.decoder.ended()),
            Err(error) => format!("{:?}", error.code()),
        });
        self.lines
    }
}

fn read(mut pieces: impl Iterator<Item = Vec<u8>>) -> Vec<String> {
    let mut said = Said::new();
    let result = pieces.try_for_each(|piece| said.take(&piece));
    said.end(result)
}

fn read_into_space(bytes: &[u8], step: usize) -> Vec<String> {
    let mut said = Said::new();
    let result = said.take_into_space(bytes, step);
    said.end(result)
}

/// Makes checksums and lengths fit the bytes, so that the fuzzer reaches what lies behind them.
pub fn repair(bytes: &mut [u8]) {
    if bytes.len() < PREAMBLE_LEN {
        return;
    }
    bytes[..8].copy_from_slice(&vfiomig::stream::MAGIC);
    bytes[8..20].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let migration_id = bytes[20..36].to_vec();
    let preamble = crc(&[&bytes[..36]]);
    bytes[36..40].copy_from_slice(&preamble.to_le_bytes());
    let mut at = PREAMBLE_LEN;
    while at + HEADER_LEN <= bytes.len() {
        bytes[at..at + 4].copy_from_slice(b"VMFr");
        let room = bytes.len() - at - HEADER_LEN;
        let announced = u32::from_le_bytes(bytes[at + 12..at + 16].try_into().expect("four"));
        // A payload of almost a GiB, of which this is the beginning.
        let false_promise = announced >> 24 == 0x3e;
        let len = if false_promise { room } else { announced as usize % (room + 1) };
        if !false_promise {
            bytes[at + 12..at + 16].copy_from_slice(&(len as u32).to_le_bytes());
        }
        let payload = crc(&[&bytes[at + HEADER_LEN..at + HEADER_LEN + len]]);
        bytes[at + 24..at + 28].copy_from_slice(&payload.to_le_bytes());
        let header = crc(&[&migration_id, &bytes[at..at + 28]]);
        bytes[at + 28..at + 32].copy_from_slice(&header.to_le_bytes());
        at += HEADER_LEN + len;
    }
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
