// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device's own data stream, as a driver would define it: a header, a record per block with
//! the block's seed and its bytes, and a last record with the digest of all contents.
//!
//! All numbers are little-endian. Header, 40 bytes: magic, model (32 bits), version (32 bits),
//! size, base seed, check. Record, 32 bytes: magic (32 bits), length (32 bits), block, seed, check;
//! then the block. The last record has another magic, no bytes, and the digest as its seed.
//!
//! A target checks every byte against the seed that came before it. It keeps the seeds, and so can
//! itself be saved with exactly what it was given.

use crate::contents::{Blocks, Contents, fill, matches, mix_all};

const MAGIC: u64 = 0x6d69_735f_6f69_6676;
const VERSION: u32 = 1;
const BLOCK_MAGIC: u32 = 0x6b63_6c62;
const LAST_MAGIC: u32 = 0x7473_616c;
/// Length of the header, in bytes.
pub(crate) const HEADER: usize = 40;
/// Length of a record without its block, in bytes.
pub(crate) const RECORD: usize = 32;

fn header(model: u32, size: u64, base: u64) -> [u8; HEADER] {
    let words = [MAGIC, u64::from(model) | u64::from(VERSION) << 32, size, base];
    let mut out = [0; HEADER];
    put(&mut out, words.iter().copied().chain([mix_all(&words)]));
    out
}

fn record(magic: u32, len: u64, index: u64, seed: u64) -> [u8; RECORD] {
    let words = [u64::from(magic) | len << 32, index, seed];
    let mut out = [0; RECORD];
    put(&mut out, words.iter().copied().chain([mix_all(&words)]));
    out
}

fn put(out: &mut [u8], words: impl Iterator<Item = u64>) {
    for (slot, word) in out.chunks_exact_mut(8).zip(words) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
}

/// The words of a header or record, and whether its check is right.
fn words<const N: usize>(bytes: &[u8]) -> ([u64; N], bool) {
    let mut out = [0; N];
    for (slot, chunk) in out.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        *slot = u64::from_le_bytes(word);
    }
    let (body, check) = out.split_at(N - 1);
    let good = check == [mix_all(body)];
    (out, good)
}

/// Length of a stream that sends everything once.
pub(crate) fn full_length(contents: &Contents) -> u64 {
    HEADER as u64 + contents.blocks() * RECORD as u64 + contents.size() + RECORD as u64
}

/// Whether these bytes are the beginning of a stream.
pub(crate) fn begins_anew(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC.to_le_bytes())
}

/// What ends a stream: the digest of all contents.
pub(crate) fn last_record(contents: &Contents, model: u32) -> [u8; RECORD] {
    record(LAST_MAGIC, 0, contents.blocks(), contents.digest(model))
}

/// A block that is being sent. A block that changes in the meantime is sent again as a whole.
struct Sending {
    seed: u64,
    len: usize,
    at: usize,
}

/// The device being read.
pub(crate) struct SaveStream {
    staged: [u8; HEADER],
    staged_at: usize,
    staged_len: usize,
    sending: Option<Sending>,
    /// What is being sent counts as initial data.
    initial: bool,
    /// Never sent so far.
    unsent: Blocks,
    /// Changed since they were sent.
    dirty: Blocks,
    /// Changed too, but the driver has not looked yet (`INFO_MAKES_DATA`).
    hidden: Blocks,
    hides: bool,
    /// The last record is not part of it.
    open_end: bool,
    /// Blocks before this one are initial data.
    initial_end: u64,
    /// Initial data not read yet, in bytes of the stream.
    initial_left: u64,
    next_dirty: u64,
    stopped: bool,
    last_sent: bool,
    /// Initial data started again and nobody has been told.
    pub reinit: bool,
    /// The end was claimed too early once (`FALSE_END`).
    pub lied: bool,
    pub nonblocking: bool,
    pub reads: u64,
}

impl SaveStream {
    pub fn new(contents: &Contents, model: u32, initial_size: u64, hides: bool) -> SaveStream {
        let blocks = contents.blocks();
        let mut unsent = Blocks::none(blocks);
        (0..blocks).for_each(|index| unsent.add(index));
        let initial_end = initial_size.div_ceil(contents.block_size()).min(blocks);
        let mut stream = SaveStream {
            staged: header(model, contents.size(), contents.base()),
            staged_at: 0,
            staged_len: HEADER,
            sending: None,
            initial: true,
            unsent,
            dirty: Blocks::none(blocks),
            hidden: Blocks::none(blocks),
            hides,
            open_end: false,
            initial_end,
            initial_left: HEADER as u64,
            next_dirty: 0,
            stopped: false,
            last_sent: false,
            reinit: false,
            lied: false,
            nonblocking: false,
            reads: 0,
        };
        stream.initial_left += stream.initial_blocks_left(contents);
        stream
    }

    /// Leaves out the last record, which comes by another way.
    pub fn leave_end_open(&mut self) {
        self.open_end = true;
    }

    /// Of what is there now, nothing will be sent.
    pub fn skip_all(&mut self) {
        self.unsent = Blocks::none(0);
        (self.staged_at, self.initial_left) = (self.staged_len, 0);
    }

    /// A device that had stopped runs again, and is read as before.
    pub fn go_on(&mut self) {
        self.stopped = false;
    }

    fn initial_blocks_left(&self, contents: &Contents) -> u64 {
        (0..self.initial_end)
            .filter(|index| self.unsent.has(*index))
            .map(|index| RECORD as u64 + contents.len(index))
            .sum()
    }

    /// The device has stopped: what is left is sent now.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.look();
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// A block changed. One that was never sent need not be sent again.
    pub fn dirtied(&mut self, index: u64) {
        if !self.unsent.has(index) {
            if self.hides && !self.stopped { &mut self.hidden } else { &mut self.dirty }.add(index);
        }
    }

    /// Everything must be sent again.
    pub fn all_dirtied(&mut self, blocks: u64) {
        (0..blocks).for_each(|index| self.dirtied(index));
    }

    /// The driver checks what has changed.
    pub fn look(&mut self) {
        self.dirty.take_all(&mut self.hidden);
    }

    /// Initial data starts again.
    pub fn start_again(&mut self, contents: &Contents) {
        for index in 0..self.initial_end {
            self.unsent.add(index);
            self.dirty.remove(index);
            self.hidden.remove(index);
        }
        let under_way = if self.initial { self.under_way() } else { 0 };
        self.initial_left = under_way + self.initial_blocks_left(contents);
        self.reinit = true;
    }

    fn under_way(&self) -> u64 {
        let staged = self.staged_len - self.staged_at;
        let block = self.sending.as_ref().map_or(0, |sending| sending.len - sending.at);
        (staged + block) as u64
    }

    pub fn initial_bytes(&self) -> u64 {
        self.initial_left
    }

    pub fn dirty_bytes(&self, contents: &Contents) -> u64 {
        let under_way = if self.initial { 0 } else { self.under_way() };
        under_way + bytes_of(&self.dirty, contents)
    }

    /// What stop-copy would send.
    pub fn stop_copy_bytes(&self, contents: &Contents) -> u64 {
        let last = if self.last_sent { 0 } else { RECORD as u64 };
        let sets = [&self.unsent, &self.dirty, &self.hidden];
        self.under_way() + last + sets.iter().map(|set| bytes_of(set, contents)).sum::<u64>()
    }

    /// Fills as much of `out` as there is data for.
    pub fn read(&mut self, contents: &Contents, model: u32, out: &mut [u8]) -> usize {
        let mut done = 0;
        while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let n = if self.staged_at < self.staged_len {
                let staged = self.staged.get(self.staged_at..self.staged_len).unwrap_or_default();
                let n = staged.len().min(rest.len());
                for (to, from) in rest.iter_mut().zip(staged) {
                    *to = *from;
                }
                self.staged_at += n;
                n
            } else if let Some(sending) = &mut self.sending {
                let n = rest.len().min(sending.len - sending.at);
                if let Some(out) = rest.get_mut(..n) {
                    fill(sending.seed, sending.at, out);
                }
                sending.at += n;
                if sending.at == sending.len {
                    self.sending = None;
                }
                n
            } else if self.begin_next(contents, model) {
                0
            } else {
                break;
            };
            if self.initial {
                self.initial_left = self.initial_left.saturating_sub(n as u64);
            }
            done += n;
        }
        done
    }

    /// Begins to send what is due next, if anything is.
    fn begin_next(&mut self, contents: &Contents, model: u32) -> bool {
        let initial = self.unsent.first_from(0).filter(|index| *index < self.initial_end);
        let unsent = || if self.stopped { self.unsent.first_from(0) } else { None };
        // Round and round: a block that is always dirty must not keep the others from their turn.
        let dirty = || self.dirty.first_from(self.next_dirty).or_else(|| self.dirty.first_from(0));
        self.initial = initial.is_some() && !self.stopped;
        match initial.or_else(unsent).or_else(dirty) {
            Some(index) => {
                self.unsent.remove(index);
                self.dirty.remove(index);
                self.next_dirty = index + 1;
                let (len, seed) = (contents.len(index), contents.seed(index));
                self.stage(&record(BLOCK_MAGIC, len, index, seed));
                self.sending = Some(Sending { seed, len: len as usize, at: 0 });
                true
            }
            None if self.stopped && !self.last_sent && !self.open_end => {
                self.last_sent = true;
                self.stage(&last_record(contents, model));
                true
            }
            None => false,
        }
    }

    fn stage(&mut self, bytes: &[u8]) {
        for (to, from) in self.staged.iter_mut().zip(bytes) {
            *to = *from;
        }
        (self.staged_at, self.staged_len) = (0, bytes.len());
    }
}

fn bytes_of(set: &Blocks, contents: &Contents) -> u64 {
    let Some(last) = contents.blocks().checked_sub(1) else { return 0 };
    let short = if set.has(last) { contents.block_size() - contents.len(last) } else { 0 };
    set.count() * (RECORD as u64 + contents.block_size()) - short
}

#[derive(Clone, Copy)]
enum Awaiting {
    Header,
    Record,
    Block {
        seed: u64,
        len: usize,
        at: usize,
    },
    Nothing,
    /// After an error, in drivers that go on nevertheless: anything.
    Anything,
}

/// The device being written.
pub(crate) struct LoadStream {
    model: u32,
    awaiting: Awaiting,
    staged: [u8; HEADER],
    staged_len: usize,
    contents: Contents,
    received: Blocks,
    damaged: bool,
    /// A write failed: nothing but a reset is allowed now.
    pub poisoned: bool,
    pub writes: u64,
}

impl LoadStream {
    pub fn new(size: u64, model: u32) -> LoadStream {
        let contents = Contents::new(size, 0);
        LoadStream {
            model,
            awaiting: Awaiting::Header,
            staged: [0; HEADER],
            staged_len: 0,
            received: Blocks::none(contents.blocks()),
            contents,
            damaged: false,
            poisoned: false,
            writes: 0,
        }
    }

    /// The contents, if all of them came and were right.
    pub fn complete(&self) -> Option<&Contents> {
        let all = matches!(self.awaiting, Awaiting::Nothing) && !self.damaged;
        all.then_some(&self.contents)
    }

    /// Whatever came.
    pub fn whatever(&self) -> &Contents {
        &self.contents
    }

    /// Takes bytes. With `lenient`, everything is taken even after an error, and the first error is
    /// returned in the end.
    pub fn write(&mut self, bytes: &[u8], lenient: bool) -> Result<(), i32> {
        let mut first = Ok(());
        let mut rest = bytes;
        while !rest.is_empty() {
            if let Err(errno) = self.take(&mut rest) {
                self.damaged = true;
                if !lenient {
                    return Err(errno);
                }
                first = first.and(Err(errno));
            }
        }
        first
    }

    fn take(&mut self, rest: &mut &[u8]) -> Result<(), i32> {
        match self.awaiting {
            Awaiting::Header => match self.gather(rest, HEADER) {
                true => self.take_header(),
                false => Ok(()),
            },
            Awaiting::Record => match self.gather(rest, RECORD) {
                true => self.take_record(),
                false => Ok(()),
            },
            Awaiting::Block { seed, len, at } => {
                let (now, later) = rest.split_at(rest.len().min(len - at));
                *rest = later;
                let end = at + now.len();
                self.awaiting = match end == len {
                    true => Awaiting::Record,
                    false => Awaiting::Block { seed, len, at: end },
                };
                if matches(seed, at, now) { Ok(()) } else { Err(libc::EINVAL) }
            }
            Awaiting::Nothing => {
                self.awaiting = Awaiting::Anything;
                *rest = &[];
                Err(libc::ENOMEM)
            }
            Awaiting::Anything => {
                *rest = &[];
                Ok(())
            }
        }
    }

    fn take_header(&mut self) -> Result<(), i32> {
        self.awaiting = Awaiting::Record;
        let ([magic, kind, size, base, _], good) = words(&self.staged);
        let ours = u64::from(self.model) | u64::from(VERSION) << 32;
        if !good || magic != MAGIC || kind != ours || size != self.contents.size() {
            return Err(libc::EFAULT);
        }
        self.contents = Contents::new(size, base);
        Ok(())
    }

    fn take_record(&mut self) -> Result<(), i32> {
        let head = self.staged.get(..RECORD).unwrap_or_default();
        let ([kind, index, seed, _], good) = words(head);
        let (magic, len) = (kind as u32, kind >> 32);
        let blocks = self.contents.blocks();
        match magic {
            BLOCK_MAGIC if good && index < blocks && len == self.contents.len(index) => {
                self.contents.set_seed(index, seed);
                self.received.add(index);
                self.awaiting = Awaiting::Block { seed, len: len as usize, at: 0 };
                Ok(())
            }
            LAST_MAGIC
                if good
                    && self.received.count() == blocks
                    && seed == self.contents.digest(self.model) =>
            {
                self.awaiting = Awaiting::Nothing;
                Ok(())
            }
            _ => {
                self.awaiting = Awaiting::Anything;
                Err(libc::EINVAL)
            }
        }
    }

    /// Assembles a header or record; returns whether it is complete.
    fn gather(&mut self, rest: &mut &[u8], want: usize) -> bool {
        let (now, later) = rest.split_at(rest.len().min(want - self.staged_len));
        *rest = later;
        for (to, from) in self.staged.iter_mut().skip(self.staged_len).zip(now) {
            *to = *from;
        }
        self.staged_len += now.len();
        if self.staged_len < want {
            return false;
        }
        self.staged_len = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream_of(contents: &Contents, model: u32) -> Vec<u8> {
        let mut save = SaveStream::new(contents, model, 0, false);
        save.stop();
        let mut out = vec![0; full_length(contents) as usize + 100];
        let n = save.read(contents, model, &mut out);
        out.truncate(n);
        out
    }

    #[test]
    fn a_stream_is_as_long_as_announced_and_reproduces_the_contents() {
        for size in [1, 256, 300, 4095, 70_000, 2 << 20] {
            let mut contents = Contents::new(size, 42);
            contents.write(0, 0, 1, 5);
            let bytes = stream_of(&contents, 1);
            assert_eq!(bytes.len() as u64, full_length(&contents));
            for split in [1, 31, 4096, bytes.len()] {
                if size > 100_000 && split == 1 {
                    continue;
                }
                let mut load = LoadStream::new(size, 1);
                for piece in bytes.chunks(split) {
                    assert!(load.complete().is_none());
                    load.write(piece, false).unwrap();
                }
                assert_eq!(load.complete().unwrap().digest(1), contents.digest(1));
                assert_eq!(stream_of(load.complete().unwrap(), 1), bytes);
                assert_eq!(load.write(&[0], false), Err(libc::ENOMEM));
            }
        }
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        let contents = Contents::new(600, 3);
        let bytes = stream_of(&contents, 1);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut load = LoadStream::new(600, 1);
            let want = if bit < HEADER * 8 { libc::EFAULT } else { libc::EINVAL };
            assert_eq!(load.write(&bad, false), Err(want), "bit {bit}");
            assert!(load.complete().is_none());
        }
        for len in 0..bytes.len() {
            let mut load = LoadStream::new(600, 1);
            load.write(&bytes[..len], false).unwrap();
            assert!(load.complete().is_none());
        }
        assert_eq!(LoadStream::new(600, 2).write(&bytes, false), Err(libc::EFAULT));
        assert_eq!(LoadStream::new(601, 1).write(&bytes, false), Err(libc::EFAULT));
    }

    #[test]
    fn a_lenient_stream_takes_everything_and_never_counts_as_complete() {
        let contents = Contents::new(600, 3);
        let mut bytes = stream_of(&contents, 1);
        bytes[100] ^= 1;
        let mut load = LoadStream::new(600, 1);
        assert_eq!(load.write(&bytes[..200], true), Err(libc::EINVAL));
        assert_eq!(load.write(&bytes[200..], true), Ok(()));
        assert!(load.complete().is_none());
    }

    #[test]
    fn pre_copy_sends_initial_data_then_what_became_dirty_then_the_rest() {
        let mut contents = Contents::new(4096, 9);
        let block = contents.block_size();
        let piece = RECORD as u64 + block;
        let mut save = SaveStream::new(&contents, 1, 2 * block, false);
        assert_eq!(save.initial_bytes(), HEADER as u64 + 2 * piece);
        let mut out = vec![0; 10_000];
        let n = save.read(&contents, 1, &mut out[..HEADER + 100]);
        assert_eq!(n, HEADER + 100);
        assert_eq!(save.initial_bytes(), 2 * piece - 100);
        // Block 0 changes while it is being sent; block 9 was never sent and does not count.
        for index in [0, 9] {
            contents.write(index, 0, 1, 77);
            save.dirtied(index);
        }
        assert_eq!(save.dirty_bytes(&contents), piece);
        let mut at = n + save.read(&contents, 1, &mut out[n..]);
        assert_eq!(at as u64, HEADER as u64 + 3 * piece);
        assert_eq!((save.initial_bytes(), save.dirty_bytes(&contents)), (0, 0));
        assert_eq!(save.read(&contents, 1, &mut out[at..]), 0);
        save.stop();
        let left = save.stop_copy_bytes(&contents);
        let n = save.read(&contents, 1, &mut out[at..]);
        assert_eq!(n as u64, left);
        assert_eq!(n as u64, (contents.blocks() - 2) * piece + RECORD as u64);
        at += n;
        let mut load = LoadStream::new(4096, 1);
        load.write(&out[..at], false).unwrap();
        assert_eq!(load.complete().unwrap().digest(1), contents.digest(1));
    }

    #[test]
    fn initial_data_can_start_again() {
        let contents = Contents::new(4096, 9);
        let mut save = SaveStream::new(&contents, 1, 1024, false);
        let whole = save.initial_bytes();
        let mut out = vec![0; 10_000];
        let n = save.read(&contents, 1, &mut out);
        save.start_again(&contents);
        assert!(save.reinit);
        assert_eq!(save.initial_bytes(), whole - HEADER as u64);
        let m = save.read(&contents, 1, &mut out[n..]);
        assert_eq!(m as u64, whole - HEADER as u64);
        assert_eq!(save.initial_bytes(), 0);
    }
}
