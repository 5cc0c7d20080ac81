// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loops over bitmaps, compiled again for CPUs that can do more than the oldest x86-64. A reading
//! of all dirty pages consists of these loops, and a 1 TiB guest has 32 MiB of bitmap for each
//! tracker.
//!
//! This is plain code that the compiler turns into vectors; intrinsics were no faster. Only
//! AVX-512, which can count bits, is worth assembly.

/// No bitmap has 2^64 bits; checking each addition would keep the loop from becoming vectors.
#[inline(always)]
fn count_any(words: &[u64]) -> u64 {
    words.iter().fold(0, |bits: u64, word| bits.wrapping_add(word.count_ones().into()))
}

#[inline(always)]
fn drain_any(from: &mut [u64], into: &mut [u64]) -> u64 {
    let mut bits = 0u64;
    for (word, to) in from.iter_mut().zip(into) {
        bits = bits.wrapping_add(word.count_ones().into());
        *to |= *word;
        *word = 0;
    }
    bits
}

/// How many bits are set.
pub(crate) fn count(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if avx512::is_there() {
        // SAFETY: the CPU has what the function needs.
        return unsafe { avx512::count(words) };
    }
    #[cfg(target_arch = "x86_64")]
    if avx2::is_there() {
        // SAFETY: as above.
        return unsafe { avx2::count(words) };
    }
    count_any(words)
}

/// Moves the bits of `from` to `into`, word by word, as far as both go, and counts them. `from` is
/// left zero.
pub(crate) fn drain(from: &mut [u64], into: &mut [u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if avx512::is_there() {
        // SAFETY: as above.
        return unsafe { avx512::drain(from, into) };
    }
    #[cfg(target_arch = "x86_64")]
    if avx2::is_there() {
        // SAFETY: as above.
        return unsafe { avx2::drain(from, into) };
    }
    drain_any(from, into)
}

/// Counts in the registers, which saves an eighth of a whole reading. In assembly, because the
/// intrinsics (1.89) are newer than the oldest supported Rust.
///
/// `vzeroupper` changes all of ymm0 to ymm15, and the caller may be compiled for a CPU that has
/// them. So the blocks declare that they preserve no register that a C function need not preserve.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::asm;

    pub fn is_there() -> bool {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vpopcntdq")
    }

    /// Words in a register.
    const LANES: usize = 8;

    /// # Safety
    /// `is_there()` has returned true.
    #[inline]
    pub unsafe fn count(words: &[u64]) -> u64 {
        let pieces = words.len() / LANES;
        let rest = words.get(pieces * LANES..).unwrap_or_default();
        let mut sums = [0u64; LANES];
        if pieces > 0 {
            // SAFETY: reads `pieces` times LANES of the words, which are that many, and writes
            // `sums`. The caller promises that the CPU knows these instructions.
            unsafe {
                asm!(
                    "vpxorq zmm0, zmm0, zmm0",
                    "2:",
                    "vpopcntq zmm1, zmmword ptr [rdi]",
                    "vpaddq zmm0, zmm0, zmm1",
                    "add rdi, 64",
                    "dec rcx",
                    "jnz 2b",
                    "vmovdqu64 zmmword ptr [rdx], zmm0",
                    "vzeroupper",
                    inout("rdi") words.as_ptr() => _,
                    inout("rcx") pieces => _,
                    in("rdx") sums.as_mut_ptr(),
                    clobber_abi("sysv64"),
                    options(nostack),
                );
            }
        }
        sums.iter().sum::<u64>() + super::count_any(rest)
    }

    /// # Safety
    /// `is_there()` has returned true.
    #[inline]
    pub unsafe fn drain(from: &mut [u64], into: &mut [u64]) -> u64 {
        let pieces = from.len().min(into.len()) / LANES;
        let mut sums = [0u64; LANES];
        if pieces > 0 {
            // SAFETY: reads and writes `pieces` times LANES of the words of both, which are that
            // many each and in different memory, and writes `sums`. The rest as above.
            unsafe {
                asm!(
                    "vpxorq zmm0, zmm0, zmm0",
                    "vpxorq zmm3, zmm3, zmm3",
                    "2:",
                    "vmovdqu64 zmm1, zmmword ptr [rdi]",
                    "vporq zmm2, zmm1, zmmword ptr [rsi]",
                    "vmovdqu64 zmmword ptr [rsi], zmm2",
                    "vmovdqu64 zmmword ptr [rdi], zmm3",
                    "vpopcntq zmm1, zmm1",
                    "vpaddq zmm0, zmm0, zmm1",
                    "add rdi, 64",
                    "add rsi, 64",
                    "dec rcx",
                    "jnz 2b",
                    "vmovdqu64 zmmword ptr [rdx], zmm0",
                    "vzeroupper",
                    inout("rdi") from.as_mut_ptr() => _,
                    inout("rsi") into.as_mut_ptr() => _,
                    inout("rcx") pieces => _,
                    in("rdx") sums.as_mut_ptr(),
                    clobber_abi("sysv64"),
                    options(nostack),
                );
            }
        }
        let from = from.get_mut(pieces * LANES..).unwrap_or_default();
        let into = into.get_mut(pieces * LANES..).unwrap_or_default();
        sums.iter().sum::<u64>() + super::drain_any(from, into)
    }
}

/// The plain loops, compiled for every x86-64 of the last ten years.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    pub fn is_there() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt")
    }

    /// # Safety
    /// `is_there()` has returned true.
    #[target_feature(enable = "avx2,popcnt")]
    pub unsafe fn count(words: &[u64]) -> u64 {
        super::count_any(words)
    }

    /// # Safety
    /// `is_there()` has returned true.
    #[target_feature(enable = "avx2,popcnt")]
    pub unsafe fn drain(from: &mut [u64], into: &mut [u64]) -> u64 {
        super::drain_any(from, into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Count = fn(&[u64]) -> u64;
    type Drain = fn(&mut [u64], &mut [u64]) -> u64;

    /// All the ways that this CPU can run, not just the chosen one.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
    fn ways() -> Vec<(Count, Drain)> {
        let mut ways: Vec<(Count, Drain)> = vec![(count, drain), (count_any, drain_any)];
        #[cfg(target_arch = "x86_64")]
        if avx2::is_there() {
            // SAFETY: checked just before.
            ways.push((
                |words| unsafe { avx2::count(words) },
                |from, into| unsafe { avx2::drain(from, into) },
            ));
        }
        #[cfg(target_arch = "x86_64")]
        if avx512::is_there() {
            // SAFETY: checked just before.
            ways.push((
                |words| unsafe { avx512::count(words) },
                |from, into| unsafe { avx512::drain(from, into) },
            ));
        }
        ways
    }

    /// Only a build for a CPU with such registers, with everything inlined, keeps anything in them
    /// across the calls. scripts/v3.sh makes one.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn what_the_caller_keeps_in_wide_registers_stays() {
        use std::hint::black_box;
        if !avx512::is_there() {
            return;
        }
        let next = |lane: u64| lane.wrapping_add(lane << 7) ^ 0x5a;
        let start: [u64; 32] = black_box(std::array::from_fn(|k| k as u64));
        let (mut words, mut into) = (black_box([!0u64; 64]), black_box([0u64; 64]));
        let (mut counted, mut drained) = (start, start);
        for _ in 0..black_box(3) {
            counted = counted.map(next);
            // SAFETY: checked just before.
            assert_eq!(unsafe { avx512::count(&words) }, 64 * 64);
            counted = counted.map(next);
        }
        for round in 0..black_box(3) {
            drained = drained.map(next);
            // SAFETY: as above.
            let moved = unsafe { avx512::drain(&mut words, &mut into) };
            assert_eq!(moved, if round == 0 { 64 * 64 } else { 0 });
            drained = drained.map(next);
        }
        let expected: Vec<u64> =
            start.iter().map(|lane| (0..6).fold(*lane, |lane, _| next(black_box(lane)))).collect();
        assert_eq!((&counted[..], &drained[..]), (&expected[..], &expected[..]));
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
