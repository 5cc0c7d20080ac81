// SPDX-License-Identifier: MIT OR Apache-2.0
//! inspect, verify: a stream in a file, inspected with all entries and fields, or for the verdict alone,
//! against reading the file, and against reading it and computing CRC-32 over all of it. The file is in
//! the page cache.
//!
//! inspect-memory: the peak of this process after a stream of 4 GiB, against the same after one of 64 MiB;
//! /tool: the peak of `vfiomig inspect -` with these streams in a pipe, if VFIOMIG_TOOL says where that is. tool-start: how long `vfiomig --version` takes, against `true`.
//!
//! INSPECT_MIB (default 512): how long the file is.

use std::fs::File;
use std::hint::black_box;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use vfiomig::inspect::{Decoding, InspectOptions, Inspector, Verdict};
use vfiomig::stream::{Encoder, FrameType, HEADER_LEN, encode_identity};
use vfiomig::{Result, identity::Identity};

/// Of the library's own frames, with their headers.
const FRAME: usize = 128 << 10;
/// What is read at once, in bytes.
const PIECE: usize = 1 << 20;
const RUNS: usize = 15;

fn wrong(error: vfiomig::Error) -> std::io::Error {
    std::io::Error::other(error.to_string())
}

/// Makes a stream with so much device data, one frame after the other; its length.
fn make(len: u64, mut put: impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<u64> {
    let mut encoder = Encoder::new([7; 16], 0);
    let mut buf = vec![0; FRAME];
    let mut sum = 0;
    let mut put = |len: usize, buf: &[u8]| {
        sum += len as u64;
        put(buf.get(..len).unwrap_or_default())
    };
    put(encoder.preamble(&mut buf).map_err(wrong)?, &buf)?;
    let identity = encode_identity(&Identity { driver: "bench".into(), ..Identity::default() });
    let made = encoder.frame(&mut buf, FrameType::Identity, &[&identity]).map_err(wrong)?;
    put(made, &buf)?;
    let payload: Vec<u8> = (0..FRAME - HEADER_LEN).map(|at| (at / 3) as u8).collect();
    for _ in 0..len / payload.len() as u64 {
        put(encoder.frame(&mut buf, FrameType::Data, &[&payload]).map_err(wrong)?, &buf)?;
    }
    put(encoder.end(&mut buf).map_err(wrong)?, &buf)?;
    Ok(sum)
}

fn make_file(path: &Path, len: u64) -> std::io::Result<u64> {
    let mut out = BufWriter::new(File::create(path)?);
    let len = make(len, |bytes| out.write_all(bytes))?;
    out.flush()?;
    Ok(len)
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

/// An inspection, with all that there is to see or for the verdict alone.
struct Inspection {
    inspector: Inspector,
    decoding: Option<Decoding>,
    entries: u64,
}

impl Inspection {
    fn new(all: bool) -> std::io::Result<Inspection> {
        let inspector = Inspector::new(InspectOptions::default()).map_err(wrong)?;
        Ok(Inspection { inspector, decoding: all.then(Decoding::new), entries: 0 })
    }

    fn take(&mut self, mut piece: &[u8]) -> Result<()> {
        while let Some(entry) = self.inspector.next(&mut piece)? {
            if let Some(decoding) = &mut self.decoding {
                self.entries += u64::from(black_box(entry.length) > 0);
                decoding.entry(&entry, &mut |_| Ok(()))?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> std::io::Result<()> {
        while self.inspector.finish().map_err(wrong)?.is_some() {}
        match self.inspector.report().verdict {
            Verdict::Whole => Ok(()),
            other => Err(std::io::Error::other(format!("{other:?}"))),
        }
    }
}

fn inspect(path: &Path, len: u64, all: bool) -> std::io::Result<f64> {
    let mut inspection = Inspection::new(all)?;
    let mut failed = None;
    let rate = pass(path, len, |piece| {
        failed = failed.take().or(inspection.take(piece).err());
    })?;
    failed.map_or(Ok(()), |error| Err(wrong(error)))?;
    inspection.finish()?;
    Ok(rate)
}

/// Reading alone, or with CRC-32.
fn read(path: &Path, len: u64, sum: bool) -> std::io::Result<f64> {
    let mut crc = crc32fast::Hasher::new();
    let rate = pass(path, len, |piece| match sum {
        true => crc.update(piece),
        false => drop(black_box(piece.first())),
    })?;
    black_box(crc.finalize());
    Ok(rate)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn report(
    name: &str,
    unit: &str,
    mut ours: impl FnMut() -> std::io::Result<f64>,
    mut base: impl FnMut() -> std::io::Result<f64>,
) -> std::io::Result<()> {
    let (mut own, mut other, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (one, two) = (ours()?, base()?);
        ratios.push(one / two);
        own.push(one);
        other.push(two);
    }
    let (own, other, ratio) = (median(&mut own), median(&mut other), median(&mut ratios));
    let (low, high) = (ratios.first().unwrap_or(&0.0), ratios.last().unwrap_or(&0.0));
    println!(
        "bench {name} ours={own:.6}{unit} baseline={other:.6}{unit} ratio={ratio:.3} \
         (min {low:.3} max {high:.3})"
    );
    Ok(())
}

/// How many milliseconds a program takes that does next to nothing.
fn start(program: &str, argument: &str) -> std::io::Result<f64> {
    const TIMES: u32 = 20;
    let start = Instant::now();
    for _ in 0..TIMES {
        let status = Command::new(program).arg(argument).stdout(Stdio::null()).status()?;
        if !status.success() {
            return Err(std::io::Error::other(format!("{program} {argument}: {status}")));
        }
    }
    Ok(start.elapsed().as_secs_f64() * 1e3 / f64::from(TIMES))
}

/// The most memory that a process has had, in KiB.
fn peak(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// The peak of this process behind the inspection of so much data, in KiB.
fn memory(len: u64) -> std::io::Result<u64> {
    let mut inspection = Inspection::new(true)?;
    let mut piece = Vec::with_capacity(PIECE + FRAME);
    make(len, |bytes| {
        piece.extend_from_slice(bytes);
        if piece.len() >= PIECE {
            inspection.take(piece.get(..PIECE).unwrap_or_default()).map_err(wrong)?;
            piece.drain(..PIECE);
        }
        Ok(())
    })?;
    inspection.take(&piece).map_err(wrong)?;
    inspection.finish()?;
    Ok(peak("self"))
}

/// The peak of the tool, in KiB, which gets all of the stream before it is looked at.
fn memory_of_tool(tool: &str, len: u64) -> std::io::Result<u64> {
    let mut child = Command::new(tool)
        .args(["inspect", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let Some(mut stdin) = child.stdin.take() else { return Ok(0) };
    make(len, |bytes| stdin.write_all(bytes))?;
    let peak = peak(&child.id().to_string());
    drop(stdin);
    match child.wait()?.success() {
        true => Ok(peak),
        false => Err(std::io::Error::other("the tool does not take the stream")),
    }
}

fn report_memory(name: &str, of: impl Fn(u64) -> std::io::Result<u64>) -> std::io::Result<()> {
    let (base, ours) = (of(64 << 20)?, of(4 << 30)?);
    let ratio = ours as f64 / base.max(1) as f64;
    println!(
        "bench {name} ours={ours}KiB baseline={base}KiB ratio={ratio:.3} \
         (min {ratio:.3} max {ratio:.3})"
    );
    Ok(())
}

fn main() -> std::io::Result<()> {
    // First: a peak stays.
    report_memory("inspect-memory", memory)?;
    if let Ok(tool) = std::env::var("VFIOMIG_TOOL") {
        report_memory("inspect-memory/tool", |len| memory_of_tool(&tool, len))?;
        report("tool-start", "ms", || start(&tool, "--version"), || start("true", "--version"))?;
    }
    let mib =
        std::env::var("INSPECT_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(512u64);
    let path = std::env::temp_dir().join(format!("vfiomig-bench-{}.stream", std::process::id()));
    let done = (|| -> std::io::Result<()> {
        let len = make_file(&path, mib << 20)?;
        for (name, all) in [("inspect", true), ("verify", false)] {
            let ours = || inspect(&path, len, all);
            report(&format!("{name}/reading"), "GB/s", ours, || read(&path, len, false))?;
            report(&format!("{name}/checksum"), "GB/s", ours, || read(&path, len, true))?;
        }
        Ok(())
    })();
    std::fs::remove_file(&path)?;
    done
}
