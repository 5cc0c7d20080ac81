// SPDX-License-Identifier: MIT OR Apache-2.0
//! blake3-alone: the hash that authenticates a stream, on one frame's buffer over and over, against
//! CRC-32 on the same buffer. What `save-pump-mac` costs beside the bare loop is this.

use std::hint::black_box;
use std::time::Instant;

/// A frame of an authenticated stream: docs/stream-format.md, and the default of max_frame.
const FRAME: usize = 112 << 10;
const RUNS: usize = 21;
/// Bytes per run.
const RUN: usize = 256 << 20;

fn rate(mut pass: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..RUN / FRAME {
        pass();
    }
    (RUN / FRAME * FRAME) as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn main() {
    let buffer = vec![0x5a_u8; FRAME];
    let mut hasher = blake3::Hasher::new_keyed(&[0x4b; 32]);
    let mut runs: Vec<(f64, f64)> = (0..RUNS)
        .map(|_| {
            let hash = rate(|| {
                hasher.reset();
                hasher.update(black_box(&buffer));
                black_box(hasher.update(&[0; 32]).finalize());
            });
            let crc = rate(|| {
                black_box(crc32fast::hash(black_box(&buffer)));
            });
            (hash, crc)
        })
        .collect();
    runs.retain(|(hash, crc)| *hash > 0.0 && *crc > 0.0);
    let mut ratios: Vec<f64> = runs.iter().map(|(hash, crc)| hash / crc).collect();
    let (mut hashes, mut crcs): (Vec<f64>, Vec<f64>) = runs.into_iter().unzip();
    let (ours, baseline, ratio) = (median(&mut hashes), median(&mut crcs), median(&mut ratios));
    let (low, high) = (ratios.first().unwrap_or(&0.0), ratios.last().unwrap_or(&0.0));
    println!(
        "bench blake3-alone ours={ours:.6}GB/s baseline={baseline:.6}GB/s ratio={ratio:.3} \
         (min {low:.3} max {high:.3})"
    );
}
