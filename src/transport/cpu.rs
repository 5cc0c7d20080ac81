//! Loops over bitmaps, compiled a second time for CPUs that have more than every x86-64 has: they
//! are what a reading of all dirty pages consists of, and a 1 TiB guest has 32 MiB of them for each
//! tracker.

#[inline(always)]
fn count_any(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

#[inline(always)]
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
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has what the function is compiled for.
        return unsafe { avx2::count(words) };
    }
    count_any(words)
}

/// Moves the bits of `from` to `into`, word by word as far as both go, and counts them. What is
/// left in `from` is zero.
pub(crate) fn drain(from: &mut [u64], into: &mut [u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: as above.
        return unsafe { avx2::drain(from, into) };
    }
    drain_any(from, into)
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    /// # Safety
    /// The CPU has AVX2.
    #[target_feature(enable = "avx2")]
    pub unsafe fn count(words: &[u64]) -> u64 {
        super::count_any(words)
    }

    /// # Safety
    /// The CPU has AVX2.
    #[target_feature(enable = "avx2")]
    pub unsafe fn drain(from: &mut [u64], into: &mut [u64]) -> u64 {
        super::drain_any(from, into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Drain = fn(&mut [u64], &mut [u64]) -> u64;

    fn bits(word: u64) -> u64 {
        (0..64).map(|bit| word >> bit & 1).sum()
    }

    proptest! {
        #[test]
        fn counting_sees_every_bit(words in prop::collection::vec(any::<u64>(), 0..200)) {
            let expected: u64 = words.iter().copied().map(bits).sum();
            prop_assert_eq!(count(&words), expected);
            prop_assert_eq!(count_any(&words), expected);
        }

        #[test]
        fn draining_moves_every_bit(
            from in prop::collection::vec(any::<u64>(), 0..200),
            into in prop::collection::vec(any::<u64>(), 0..200),
        ) {
            let n = from.len().min(into.len());
            for drain in [drain as Drain, drain_any] {
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
