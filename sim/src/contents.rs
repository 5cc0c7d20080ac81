// SPDX-License-Identifier: MIT OR Apache-2.0
//! The contents of a simulated device, without keeping them in memory.
//!
//! The state is cut into blocks, each of which is a function of a 64-bit seed. A new device's seeds
//! follow from one base seed, so a state of any size costs nothing; only devices whose guest wrote
//! keep a seed per block. Making and checking contents is a copy and a comparison, because
//! benchmarks measure what runs on top of them.

#[cfg(not(pthread_locks))]
use std::sync::OnceLock;
#[cfg(pthread_locks)]
use vfiomig_pthread_locks::OnceLock;

/// The largest block, in bytes, and the length of the pattern.
const MAX_BLOCK: u64 = 64 << 10;
const MIN_BLOCK: u64 = 256;
/// A block's seed is itself at the start of each sector, so that blocks of different seeds differ
/// even where their patterns happen to be the same.
const SECTOR: usize = 512;
const STAMP: usize = 8;

/// Scrambles a number (the finaliser of SplitMix64).
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Scrambles several numbers into one; their order counts.
pub(crate) fn mix_all(values: &[u64]) -> u64 {
    values.iter().fold(0, |hash, value| mix(hash ^ *value))
}

/// Noise, twice in a row, so that a block may begin anywhere in it.
fn pattern() -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    PATTERN.get_or_init(|| {
        let words = MAX_BLOCK / 8;
        (0..2 * words).flat_map(|i| mix(i % words).to_le_bytes()).collect()
    })
}

/// The pattern of the block with this seed, from `at` in the block on.
fn pattern_of(seed: u64, at: usize, len: usize) -> &'static [u8] {
    let start = ((mix(seed) % (MAX_BLOCK / 8)) * 8) as usize + at;
    pattern().get(start..start + len).unwrap_or_default()
}

fn stamp(seed: u64, sector: usize) -> [u8; STAMP] {
    seed.wrapping_add(sector as u64).to_le_bytes()
}

/// Puts the bytes from `at` of the block with this seed into `out`.
pub(crate) fn fill(seed: u64, at: usize, out: &mut [u8]) {
    out.copy_from_slice(pattern_of(seed, at, out.len()));
    let mut sector = at / SECTOR;
    while sector * SECTOR < at + out.len() {
        for (i, byte) in stamp(seed, sector).into_iter().enumerate() {
            let place = (sector * SECTOR + i).checked_sub(at).and_then(|place| out.get_mut(place));
            if let Some(place) = place {
                *place = byte;
            }
        }
        sector += 1;
    }
}

/// Whether `bytes` are those from `at` of the block with this seed.
pub(crate) fn matches(seed: u64, at: usize, bytes: &[u8]) -> bool {
    let mut at = at;
    let mut rest = bytes;
    while !rest.is_empty() {
        let (sector, within) = (at / SECTOR, at % SECTOR);
        let len = rest.len().min(if within < STAMP { STAMP - within } else { SECTOR - within });
        let Some((now, later)) = rest.split_at_checked(len) else { return false };
        let same = match stamp(seed, sector).get(within..within + len) {
            Some(stamp) if within < STAMP => now == stamp,
            _ => now == pattern_of(seed, at, len),
        };
        if !same {
            return false;
        }
        rest = later;
        at += len;
    }
    true
}

/// The contents of one device.
#[derive(Clone, Debug)]
pub(crate) struct Contents {
    size: u64,
    block: u64,
    base: u64,
    /// One seed per block, once they do not all follow from the base.
    seeds: Option<Vec<u64>>,
}

impl Contents {
    pub fn new(size: u64, base: u64) -> Contents {
        // Small states too consist of several blocks: otherwise nothing could be partly dirty.
        let block = (size / 16).next_power_of_two().clamp(MIN_BLOCK, MAX_BLOCK);
        Contents { size, block, base, seeds: None }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn base(&self) -> u64 {
        self.base
    }

    pub fn block_size(&self) -> u64 {
        self.block
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(self.block)
    }

    /// Length of a block: the last one may be shorter.
    pub fn len(&self, index: u64) -> u64 {
        self.size.saturating_sub(index * self.block).min(self.block)
    }

    fn of_base(&self, index: u64) -> u64 {
        mix(self.base ^ mix(index))
    }

    pub fn seed(&self, index: u64) -> u64 {
        let own = self.seeds.as_ref().and_then(|seeds| seeds.get(index as usize));
        own.copied().unwrap_or_else(|| self.of_base(index))
    }

    pub fn set_seed(&mut self, index: u64, seed: u64) {
        if self.seeds.is_none() {
            if seed == self.of_base(index) {
                return;
            }
            self.seeds = Some((0..self.blocks()).map(|i| self.of_base(i)).collect());
        }
        if let Some(slot) = self.seeds.as_mut().and_then(|seeds| seeds.get_mut(index as usize)) {
            *slot = seed;
        }
    }

    /// Writes a part of a block with bytes of a seed. Blocks have one seed each: the rest of the
    /// block changes as well.
    pub fn write(&mut self, index: u64, at: u64, len: u64, seed: u64) {
        let before = if len == self.len(index) { 0 } else { self.seed(index) };
        self.set_seed(index, mix_all(&[seed, index, at, len, before]));
    }

    /// A number that differs if anything in the contents does.
    pub fn digest(&self, model: u32) -> u64 {
        let start = mix_all(&[u64::from(model), self.size]);
        (0..self.blocks()).fold(start, |hash, index| mix(hash ^ self.seed(index)))
    }
}

/// A set of blocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blocks {
    words: Vec<u64>,
    count: u64,
}

impl Blocks {
    pub fn none(blocks: u64) -> Blocks {
        Blocks { words: vec![0; blocks.div_ceil(64) as usize], count: 0 }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn has(&self, index: u64) -> bool {
        self.words.get((index / 64) as usize).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    pub fn add(&mut self, index: u64) {
        if let Some(word) = self.words.get_mut((index / 64) as usize) {
            self.count += u64::from(*word & (1 << (index % 64)) == 0);
            *word |= 1 << (index % 64);
        }
    }

    pub fn remove(&mut self, index: u64) {
        if let Some(word) = self.words.get_mut((index / 64) as usize) {
            self.count -= u64::from(*word & (1 << (index % 64)) != 0);
            *word &= !(1 << (index % 64));
        }
    }

    /// Moves everything out of another set into this one.
    pub fn take_all(&mut self, from: &mut Blocks) {
        for (to, from) in self.words.iter_mut().zip(&mut from.words) {
            *to |= std::mem::take(from);
        }
        from.count = 0;
        self.count = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
    }

    /// The first block at or after `from`.
    pub fn first_from(&self, from: u64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let mut keep = u64::MAX << (from % 64);
        for (at, word) in (from / 64..).zip(self.words.get((from / 64) as usize..)?) {
            let left = word & keep;
            if left != 0 {
                return Some(at * 64 + u64::from(left.trailing_zeros()));
            }
            keep = u64::MAX;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_the_same_in_every_split_and_every_flipped_bit_is_noticed() {
        let seed = 0x1234_5678_9abc_def0;
        let mut whole = vec![0; 1300];
        fill(seed, 0, &mut whole);
        for at in (0..1300).step_by(7).chain(500..530) {
            for len in [1, 7, 8, 9, 100, 520] {
                let len = len.min(1300 - at);
                let mut part = vec![0; len];
                fill(seed, at, &mut part);
                assert_eq!(part, whole[at..at + len]);
                assert!(matches(seed, at, &part));
            }
        }
        for bit in 0..1300 * 8 {
            whole[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches(seed, 0, &whole), "bit {bit}");
            whole[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(!matches(seed + 1, 0, &whole));
    }

    #[test]
    fn digests_are_equal_exactly_where_contents_are() {
        let fresh = Contents::new(100_000, 7);
        assert_eq!(fresh.digest(1), Contents::new(100_000, 7).digest(1));
        assert_ne!(fresh.digest(1), fresh.digest(2));
        assert_ne!(fresh.digest(1), Contents::new(100_000, 8).digest(1));
        assert_ne!(fresh.digest(1), Contents::new(100_001, 7).digest(1));
        let mut written = fresh.clone();
        for index in 0..fresh.blocks() {
            let before = written.digest(1);
            written.write(index, 0, 1, 99);
            assert_ne!(written.digest(1), before);
            written.set_seed(index, fresh.seed(index));
            assert_eq!(written.digest(1), before);
        }
        assert_eq!(written.digest(1), fresh.digest(1));
    }

    #[test]
    fn blocks_cover_every_size_exactly() {
        for size in [1, 255, 256, 257, 4095, 4096, 1 << 20, (1 << 20) + 1, 4 << 30] {
            let contents = Contents::new(size, 0);
            let all: u64 = (0..contents.blocks()).map(|i| contents.len(i)).sum();
            assert_eq!(all, size);
            assert_eq!(contents.len(contents.blocks()), 0);
        }
    }

    #[test]
    fn sets_of_blocks_count_and_find() {
        let mut set = Blocks::none(200);
        assert_eq!(set.first_from(0), None);
        for index in [0, 63, 64, 130, 199] {
            set.add(index);
            set.add(index);
        }
        assert_eq!(set.count(), 5);
        let mut found = vec![];
        let mut at = 0;
        while let Some(index) = set.first_from(at) {
            found.push(index);
            at = index + 1;
        }
        assert_eq!(found, [0, 63, 64, 130, 199]);
        set.remove(63);
        set.remove(63);
        assert!(!set.has(63) && set.has(64));
        let mut other = Blocks::none(200);
        other.add(0);
        other.add(5);
        other.take_all(&mut set);
        assert_eq!((other.count(), set.count()), (5, 0));
    }
}
