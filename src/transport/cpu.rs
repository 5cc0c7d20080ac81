//! Loops over bitmaps, compiled a second time for CPUs that have more than every x86-64 has: they
//! are what a reading of all dirty pages consists of, and a 1 TiB guest has 32 MiB of them for each
//! tracker.

#[inline(always)]
fn count_any(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// Words that are worked on at once: as many as a register of AVX2 holds.
const LANES: usize = 4;
type Lanes = [u64; LANES];

/// Adds three bits at each place: what is left there, and what is carried.
#[inline(always)]
#[allow(clippy::indexing_slicing, reason = "all of these have LANES words")]
fn add_bits(a: Lanes, b: Lanes, c: Lanes) -> (Lanes, Lanes) {
    let (mut sum, mut carry) = ([0; LANES], [0; LANES]);
    for i in 0..LANES {
        let half = a[i] ^ b[i];
        sum[i] = half ^ c[i];
        carry[i] = a[i] & b[i] | half & c[i];
    }
    (sum, carry)
}

/// Moves LANES words, and returns them.
#[inline(always)]
#[allow(
    clippy::indexing_slicing,
    reason = "chunks_exact_mut() gives 8 * LANES words; k is below 8"
)]
fn move_lanes(from: &mut [u64], into: &mut [u64], k: usize) -> Lanes {
    let mut words = [0; LANES];
    for i in 0..LANES {
        words[i] = from[k * LANES + i];
        into[k * LANES + i] |= words[i];
        from[k * LANES + i] = 0;
    }
    words
}

/// Moves twice LANES words, and adds them to what was there.
#[inline(always)]
fn add_two(sum: Lanes, from: &mut [u64], into: &mut [u64], k: usize) -> (Lanes, Lanes) {
    let first = move_lanes(from, into, k);
    add_bits(sum, first, move_lanes(from, into, k + 1))
}

/// Words are added place by place, and only what is carried to the eights is counted: counting is
/// what takes the time (Harley and Seal).
#[inline(always)]
fn drain_any(from: &mut [u64], into: &mut [u64]) -> u64 {
    let (mut ones, mut twos, mut fours) = ([0; LANES], [0; LANES], [0; LANES]);
    let mut bits = 0;
    let n = from.len().min(into.len());
    let mut from = from.get_mut(..n).unwrap_or_default().chunks_exact_mut(8 * LANES);
    let mut into = into.get_mut(..n).unwrap_or_default().chunks_exact_mut(8 * LANES);
    for (from, into) in from.by_ref().zip(into.by_ref()) {
        let (sum, two_a) = add_two(ones, from, into, 0);
        let (sum, two_b) = add_two(sum, from, into, 2);
        let (sum_twos, four_a) = add_bits(twos, two_a, two_b);
        let (sum, two_a) = add_two(sum, from, into, 4);
        let (sum, two_b) = add_two(sum, from, into, 6);
        let (sum_twos, four_b) = add_bits(sum_twos, two_a, two_b);
        let (sum_fours, eights) = add_bits(fours, four_a, four_b);
        (ones, twos, fours) = (sum, sum_twos, sum_fours);
        bits += 8 * count_any(&eights);
    }
    bits += 4 * count_any(&fours) + 2 * count_any(&twos) + count_any(&ones);
    for (word, to) in from.into_remainder().iter_mut().zip(into.into_remainder()) {
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
