// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fuzz targets: functions that take bytes, return if all is well, and panic if it is not.
//!
//! They know nothing about where the bytes come from. libFuzzer makes them if there is time
//! (`libfuzzer/`, `make fuzz`); `src/main.rs` makes them with any stable compiler (`make
//! fuzz-smoke`).

// A target that finds something panics: that is how it reports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod calls;
mod decode;
mod dirty;
mod input;
mod load;
mod qemu;
mod roundtrip;

/// One thing that bytes are fed to.
pub struct Target {
    /// What it is called on the command line, and the directory of its corpus.
    pub name: &'static str,
    /// Panics where the library is wrong.
    pub run: fn(&[u8]),
    /// The longest input that is worth trying.
    pub max_len: usize,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "calls", run: calls::run, max_len: 1024 },
    Target { name: "roundtrip", run: roundtrip::run, max_len: 256 },
    Target { name: "dirty", run: dirty::run, max_len: 4096 },
    Target { name: "decode", run: decode::run, max_len: 4096 },
    Target { name: "load", run: load::run, max_len: 256 },
    Target { name: "qemu", run: qemu::run, max_len: 2048 },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
