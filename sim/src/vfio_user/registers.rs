// SPDX-License-Identifier: MIT OR Apache-2.0
//! The registers of a served device, in its region 0: what a guest's driver would use, and what a test
//! wants to know. 64-bit little-endian numbers:
//!
//! | at | | |
//! |---|---|---|
//! | 0x00 | read | the bytes `vfiomigs` |
//! | 0x08 | read | its migration state |
//! | 0x10 | read | the digest of its contents, as `Sim::digest` has it |
//! | 0x18 | read | how often the client did what no client may do |
//! | 0x20 | read, write | address |
//! | 0x28 | read, write | length |
//! | 0x30 | read, write | seed |
//! | 0x38 | write | a command, carried out before the write is answered |
//! | 0x38 | read | its result: 0 or an errno |
//! | 0x40 | read | the sum of the numbers that were read by command 2 |
//!
//! | command | does |
//! |---|---|
//! | 1 | writes `length` bytes to the guest's memory at `address`: the numbers `seed`, `seed + 1`, … |
//! | 2 | reads `length` bytes there |
//! | 3 | changes the device's state, `length` bytes at `address`: `Sim::guest_write` |
//! | 4 | raises the interrupt with index `address` and number `length` |
//!
//! Length of commands 1 and 2: at most 1 MiB.

/// What is there to be written.
const WRITABLE: std::ops::Range<usize> = 0x20..0x38;
const COMMAND: usize = 0x38;
const MAGIC: &[u8; 8] = b"vfiomigs";

/// What was written to the register of commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Command {
    pub number: u32,
    pub address: u64,
    pub length: u64,
    pub seed: u64,
}

#[derive(Default)]
pub(crate) struct Registers {
    writable: [u8; WRITABLE.end - WRITABLE.start],
    pub result: u64,
    pub sum: u64,
}

impl Registers {
    /// All of them, from the first on.
    pub fn image(&self, state: u64, digest: u64, violations: u64) -> Vec<u8> {
        let mut image = MAGIC.to_vec();
        let mut push = |number: u64| image.extend(number.to_le_bytes());
        [state, digest, violations].into_iter().for_each(&mut push);
        image.extend(self.writable);
        let mut push = |number: u64| image.extend(number.to_le_bytes());
        [self.result, self.sum].into_iter().for_each(&mut push);
        image
    }

    /// Something is written; what cannot be written stays.
    pub fn write(&mut self, at: usize, bytes: &[u8]) -> Option<Command> {
        for (at, byte) in (at..).zip(bytes) {
            let slot = at.checked_sub(WRITABLE.start).and_then(|at| self.writable.get_mut(at));
            if let Some(slot) = slot {
                *slot = *byte;
            }
        }
        let command = COMMAND.checked_sub(at).and_then(|from| bytes.get(from..))?;
        let number = u32::from_le_bytes(*command.first_chunk()?);
        let [address, length, seed] = [0, 8, 16].map(|at| {
            let raw = self.writable.get(at..).and_then(|rest| rest.first_chunk());
            raw.map_or(0, |raw| u64::from_le_bytes(*raw))
        });
        Some(Command { number, address, length, seed })
    }
}

/// What command 1 writes.
pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let numbers = (0..length.div_ceil(8) as u64).map(|n| seed.wrapping_add(n));
    let mut bytes: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(length);
    bytes
}

/// What command 2 makes of what it has read.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let number = |part: &[u8]| {
        let mut raw = [0; 8];
        raw.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(raw)
    };
    bytes.chunks(8).map(number).fold(0, u64::wrapping_add)
}
