// SPDX-License-Identifier: MIT OR Apache-2.0
//! inspect, verify: a stream in a file, inspected with all entries and fields, or for the verdict alone,
//! against reading the file and computing CRC-32 over all of it. The file is in the page cache.
//!
//! INSPECT_MIB (default 1024): how long the device's data is. The last line says how much memory the
//! inspection of it took; with 4096, of a stream of 4 GiB.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use vfiomig::inspect::{Decoding, InspectOptions, Inspector, Verdict};
use vfiomig::stream::{Encoder, FrameType, HEADER_LEN, encode_identity};
use vfiomig::{Result, identity::Identity};

/// Of the library's own frames, with their headers.
const FRAME: usize = 128 << 10;
/// What is read at once, in bytes.
const PIECE: usize = 1 << 20;
const RUNS: usize = 11;

fn make(path: &Path, len: u64) -> std::io::Result<u64> {
    let wrong = |error: vfiomig::Error| std::io::Error::other(error.to_string());
    let mut out = std::io::BufWriter::new(File::create(path)?);
    let mut encoder = Encoder::new([7; 16], 0);
    let mut buf = vec![0; FRAME];
    let mut put = |len: usize, buf: &[u8]| out.write_all(buf.get(..len).unwrap_or_default());
    put(encoder.preamble(&mut buf).map_err(wrong)?, &buf)?;
    let identity = encode_identity(&Identity { driver: "bench".into(), ..Identity::default() });
    let made = encoder.frame(&mut buf, FrameType::Identity, &[&identity]).map_err(wrong)?;
    put(made, &buf)?;
    let payload: Vec<u8> = (0..FRAME - HEADER_LEN).map(|at| (at / 3) as u8).collect();
    let frames = len / payload.len() as u64;
    for _ in 0..frames {
        put(encoder.frame(&mut buf, FrameType::Data, &[&payload]).map_err(wrong)?, &buf)?;
    }
    put(encoder.end(&mut buf).map_err(wrong)?, &buf)?;
    out.flush()?;
    std::fs::metadata(path).map(|it| it.len())
}

/// Passes the file to `take` piece by piece; returns GB/s.
fn pass(path: &Path, len: u64, mut take: impl FnMut(&[u8])) -> std::io::Result<f64> {
    let (mut file, mut buf) = (File::open(path)?, vec![0; PIECE]);
    let start = Instant::now();
    loop {
        let n = file.read(&mut buf)?;
        if n == 0 {
            return Ok(len as f64 / start.elapsed().as_secs_f64() / 1e9);
        }
        take(buf.get(..n).unwrap_or_default());
    }
}

fn inspect(path: &Path, len: u64, all: bool) -> std::io::Result<f64> {
    let wrong = |error: vfiomig::Error| std::io::Error::other(error.to_string());
    let mut inspector = Inspector::new(InspectOptions::default()).map_err(wrong)?;
    let (mut decoding, mut failed) = (Decoding::new(), None);
    let mut entries = 0u64;
    let rate = pass(path, len, |mut piece| {
        let mut step = || -> Result<()> {
            while let Some(entry) = inspector.next(&mut piece)? {
                if all {
                    entries += u64::from(black_box(entry.length) > 0);
                    decoding.entry(&entry, &mut |_| Ok(()))?;
                }
            }
            Ok(())
        };
        failed = failed.take().or(step().err());
    })?;
    while inspector.finish().map_err(wrong)?.is_some() {}
    let verdict = inspector.report().verdict;
    match (failed, verdict) {
        (None, Verdict::Whole) => Ok(rate),
        (error, verdict) => Err(std::io::Error::other(format!("{error:?} {verdict:?}"))),
    }
}

fn checksum(path: &Path, len: u64) -> std::io::Result<f64> {
    let mut crc = crc32fast::Hasher::new();
    let rate = pass(path, len, |piece| crc.update(piece))?;
    black_box(crc.finalize());
    Ok(rate)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn report(name: &str, path: &Path, len: u64, all: bool) -> std::io::Result<()> {
    let (mut ours, mut base, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (one, other) = (inspect(path, len, all)?, checksum(path, len)?);
        ratios.push(one / other);
        ours.push(one);
        base.push(other);
    }
    let (ours, base, ratio) = (median(&mut ours), median(&mut base), median(&mut ratios));
    let (low, high) = (ratios.first().unwrap_or(&0.0), ratios.last().unwrap_or(&0.0));
    println!(
        "bench {name} ours={ours:.6}GB/s baseline={base:.6}GB/s ratio={ratio:.3} \
         (min {low:.3} max {high:.3})"
    );
    Ok(())
}

/// The most memory that this process has had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn main() -> std::io::Result<()> {
    let mib =
        std::env::var("INSPECT_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(1024u64);
    let path = std::env::temp_dir().join(format!("vfiomig-bench-{}.stream", std::process::id()));
    let done = (|| -> std::io::Result<()> {
        let len = make(&path, mib << 20)?;
        checksum(&path, len)?;
        let before = peak();
        inspect(&path, len, true)?;
        let grown = peak() - before;
        report("inspect", &path, len, true)?;
        report("verify", &path, len, false)?;
        println!("inspect: {grown} KiB more memory for a stream of {len} bytes");
        Ok(())
    })();
    std::fs::remove_file(&path)?;
    done
}
