//! Loops over bitmaps, a second time for CPUs that have more than every x86-64 has: they are what a
//! reading of all dirty pages consists of, and a 1 TiB guest has 32 MiB of them for each tracker.

fn count_any(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

fn drain_any(from: &mut [u64], into: &mut [u64]) -> u64 {
    let mut bits = 0;
    for (word, to) in from.iter_mut().zip(into) {
        bits += u64::from(word.count_ones());
        *to |= *word;
        *word = 0;
    }
    bits
}

/// How many bits are set.
pub(crate) fn count(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if avx512::is_there() {
        return avx512::count(words);
    }
    #[cfg(target_arch = "x86_64")]
    if avx2::is_there() {
        // SAFETY: the CPU has what the function is compiled for.
        return unsafe { avx2::count(words) };
    }
    count_any(words)
}

/// Moves the bits of `from` to `into`, word by word as far as both go, and counts them. What is
/// left in `from` is zero.
pub(crate) fn drain(from: &mut [u64], into: &mut [u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if avx512::is_there() {
        return avx512::drain(from, into);
    }
    #[cfg(target_arch = "x86_64")]
    if avx2::is_there() {
        // SAFETY: as above.
        return unsafe { avx2::drain(from, into) };
    }
    drain_any(from, into)
}

/// Counts in the registers. As assembly: the functions for it are newer than the oldest Rust that
/// this is for (1.89).
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::asm;

    pub fn is_there() -> bool {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vpopcntdq")
    }

    /// Words in a register.
    const LANES: usize = 8;

    pub fn count(words: &[u64]) -> u64 {
        let pieces = words.len() / LANES;
        let rest = words.get(pieces * LANES..).unwrap_or_default();
        let mut sums = [0u64; LANES];
        if pieces > 0 {
            // SAFETY: reads `pieces` times LANES of the words, of which there are as many, and
            // writes `sums`. The CPU knows these instructions: the callers ask.
            unsafe {
                asm!(
                    "vpxorq zmm0, zmm0, zmm0",
                    "2:",
                    "vpopcntq zmm1, zmmword ptr [{words}]",
                    "vpaddq zmm0, zmm0, zmm1",
                    "add {words}, 64",
                    "dec {pieces}",
                    "jnz 2b",
                    "vmovdqu64 zmmword ptr [{sums}], zmm0",
                    "vzeroupper",
                    words = inout(reg) words.as_ptr() => _,
                    pieces = inout(reg) pieces => _,
                    sums = in(reg) sums.as_mut_ptr(),
                    out("xmm0") _, out("xmm1") _,
                    options(nostack),
                );
            }
        }
        sums.iter().sum::<u64>() + super::count_any(rest)
    }

    pub fn drain(from: &mut [u64], into: &mut [u64]) -> u64 {
        let pieces = from.len().min(into.len()) / LANES;
        let mut sums = [0u64; LANES];
        if pieces > 0 {
            // SAFETY: reads and writes `pieces` times LANES of the words of both, which have as
            // many and are different memory, and writes `sums`. The rest as above.
            unsafe {
                asm!(
                    "vpxorq zmm0, zmm0, zmm0",
                    "vpxorq zmm3, zmm3, zmm3",
                    "2:",
                    "vmovdqu64 zmm1, zmmword ptr [{from}]",
                    "vporq zmm2, zmm1, zmmword ptr [{into}]",
                    "vmovdqu64 zmmword ptr [{into}], zmm2",
                    "vmovdqu64 zmmword ptr [{from}], zmm3",
                    "vpopcntq zmm1, zmm1",
                    "vpaddq zmm0, zmm0, zmm1",
                    "add {from}, 64",
                    "add {into}, 64",
                    "dec {pieces}",
                    "jnz 2b",
                    "vmovdqu64 zmmword ptr [{sums}], zmm0",
                    "vzeroupper",
                    from = inout(reg) from.as_mut_ptr() => _,
                    into = inout(reg) into.as_mut_ptr() => _,
                    pieces = inout(reg) pieces => _,
                    sums = in(reg) sums.as_mut_ptr(),
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    options(nostack),
                );
            }
        }
        let from = from.get_mut(pieces * LANES..).unwrap_or_default();
        let into = into.get_mut(pieces * LANES..).unwrap_or_default();
        sums.iter().sum::<u64>() + super::drain_any(from, into)
    }
}

/// Written out, as compilers make nothing good of the same on arrays.
#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe, reason = "Rust before 1.86 takes all of these for unsafe")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_and_si256, _mm256_loadu_si256, _mm256_or_si256, _mm256_setzero_si256,
        _mm256_storeu_si256, _mm256_xor_si256,
    };

    pub fn is_there() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt")
    }

    /// Words in a register, and registers that are counted at a time.
    const LANES: usize = 4;
    const PIECE: usize = 8 * LANES;

    /// Adds three bits at each place: what is left there, and what is carried.
    #[inline]
    #[target_feature(enable = "avx2,popcnt")]
    unsafe fn add_bits(a: __m256i, b: __m256i, c: __m256i) -> (__m256i, __m256i) {
        // SAFETY: these only need the CPU to have them, as this function does.
        unsafe {
            let half = _mm256_xor_si256(a, b);
            let carry = _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(half, c));
            (_mm256_xor_si256(half, c), carry)
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,popcnt")]
    unsafe fn bits_of(lanes: __m256i) -> u64 {
        let mut words = [0u64; LANES];
        // SAFETY: as large as the register.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), lanes) };
        super::count_any(&words)
    }

    /// Counts bits, PIECE words at a time. Words are added place by place, and only what is carried
    /// to the eights is counted: counting is what takes the time (Harley and Seal).
    struct Counter {
        ones: __m256i,
        twos: __m256i,
        fours: __m256i,
        bits: u64,
    }

    impl Counter {
        #[inline]
        #[target_feature(enable = "avx2,popcnt")]
        unsafe fn new() -> Counter {
            // SAFETY: as for all of these.
            let zero = unsafe { _mm256_setzero_si256() };
            Counter { ones: zero, twos: zero, fours: zero, bits: 0 }
        }

        #[inline]
        #[target_feature(enable = "avx2,popcnt")]
        unsafe fn add(&mut self, v: [__m256i; 8]) {
            let [a, b, c, d, e, f, g, h] = v;
            // SAFETY: as for all of these.
            unsafe {
                let (sum, two_a) = add_bits(self.ones, a, b);
                let (sum, two_b) = add_bits(sum, c, d);
                let (twos, four_a) = add_bits(self.twos, two_a, two_b);
                let (sum, two_a) = add_bits(sum, e, f);
                let (sum, two_b) = add_bits(sum, g, h);
                let (twos, four_b) = add_bits(twos, two_a, two_b);
                let (fours, eights) = add_bits(self.fours, four_a, four_b);
                (self.ones, self.twos, self.fours) = (sum, twos, fours);
                self.bits += 8 * bits_of(eights);
            }
        }

        #[inline]
        #[target_feature(enable = "avx2,popcnt")]
        unsafe fn total(&self) -> u64 {
            // SAFETY: as for all of these.
            unsafe {
                self.bits + 4 * bits_of(self.fours) + 2 * bits_of(self.twos) + bits_of(self.ones)
            }
        }
    }

    /// # Safety
    /// `is_there()`.
    #[target_feature(enable = "avx2,popcnt")]
    pub unsafe fn count(words: &[u64]) -> u64 {
        let mut pieces = words.chunks_exact(PIECE);
        // SAFETY: each load is within its piece, which has PIECE words.
        unsafe {
            let mut counter = Counter::new();
            for piece in pieces.by_ref() {
                let load = |k: usize| _mm256_loadu_si256(piece.as_ptr().add(k * LANES).cast());
                let v = [load(0), load(1), load(2), load(3), load(4), load(5), load(6), load(7)];
                counter.add(v);
            }
            counter.total() + super::count_any(pieces.remainder())
        }
    }

    /// # Safety
    /// `is_there()`.
    #[target_feature(enable = "avx2,popcnt")]
    pub unsafe fn drain(from: &mut [u64], into: &mut [u64]) -> u64 {
        let n = from.len().min(into.len());
        let mut from = from.get_mut(..n).unwrap_or_default().chunks_exact_mut(PIECE);
        let mut into = into.get_mut(..n).unwrap_or_default().chunks_exact_mut(PIECE);
        // SAFETY: each load and store is within its piece, which has PIECE words.
        unsafe {
            let mut counter = Counter::new();
            for (from, into) in from.by_ref().zip(into.by_ref()) {
                let (from, into) = (from.as_mut_ptr(), into.as_mut_ptr());
                let take = |k: usize| {
                    let (from, into) = (from.add(k * LANES).cast(), into.add(k * LANES).cast());
                    let lanes = _mm256_loadu_si256(from);
                    _mm256_storeu_si256(into, _mm256_or_si256(_mm256_loadu_si256(into), lanes));
                    _mm256_storeu_si256(from, _mm256_setzero_si256());
                    lanes
                };
                let v = [take(0), take(1), take(2), take(3), take(4), take(5), take(6), take(7)];
                counter.add(v);
            }
            counter.total() + super::drain_any(from.into_remainder(), into.into_remainder())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Count = fn(&[u64]) -> u64;
    type Drain = fn(&mut [u64], &mut [u64]) -> u64;

    /// All that this CPU can run, not only the one that is chosen.
    fn ways() -> Vec<(Count, Drain)> {
        let mut ways: Vec<(Count, Drain)> = vec![(count, drain), (count_any, drain_any)];
        #[cfg(target_arch = "x86_64")]
        if avx2::is_there() {
            // SAFETY: just asked.
            ways.push((
                |words| unsafe { avx2::count(words) },
                |from, into| unsafe { avx2::drain(from, into) },
            ));
        }
        #[cfg(target_arch = "x86_64")]
        if avx512::is_there() {
            ways.push((avx512::count, avx512::drain));
        }
        ways
    }

    fn bits(word: u64) -> u64 {
        (0..64).map(|bit| word >> bit & 1).sum()
    }

    proptest! {
        #[test]
        fn counting_sees_every_bit(words in prop::collection::vec(any::<u64>(), 0..200)) {
            let expected: u64 = words.iter().copied().map(bits).sum();
            for (count, _) in ways() {
                prop_assert_eq!(count(&words), expected);
            }
        }

        #[test]
        fn draining_moves_every_bit(
            from in prop::collection::vec(any::<u64>(), 0..200),
            into in prop::collection::vec(any::<u64>(), 0..200),
        ) {
            let n = from.len().min(into.len());
            for (_, drain) in ways() {
                let (mut source, mut target) = (from.clone(), into.clone());
                let moved = drain(&mut source, &mut target);
                prop_assert_eq!(moved, from[..n].iter().copied().map(bits).sum::<u64>());
                prop_assert!(source[..n].iter().all(|word| *word == 0));
                prop_assert_eq!(&source[n..], &from[n..]);
                let both: Vec<u64> = from.iter().zip(&into).map(|(a, b)| a | b).collect();
                prop_assert_eq!(&target[..n], &both[..]);
                prop_assert_eq!(&target[n..], &into[n..]);
            }
        }
    }
}
