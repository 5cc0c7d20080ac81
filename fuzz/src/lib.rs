// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fuzz targets: functions that take bytes, return if all is well, and panic if it is not.
//!
//! They know nothing about where the bytes come from. libFuzzer makes them if there is time
//! (`libfuzzer/`, `make fuzz`); `src/main.rs` makes them with any stable compiler (`make
//! fuzz-smoke`).

// A target that finds something panics: that is how it reports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod auth;
mod calls;
mod checkpoint;
mod decode;
mod dirty;
mod estimate;
mod group;
mod guards;
mod handover;
mod identity;
mod input;
mod inspect;
mod load;
pub mod memory;
mod policy;
mod qemu;
mod qemu_file;
mod roundtrip;

/// One thing that bytes are fed to. A new one is a file here, a row below, and a directory of inputs
/// in `corpus/` that is named like it.
pub struct Target {
    /// What it is called on the command line, and the directory of its corpus.
    pub name: &'static str,
    /// Panics where the library is wrong.
    pub run: fn(&[u8]),
    /// The longest input that is worth trying.
    pub max_len: usize,
    /// The most memory that may be held while one input runs, in bytes: what the documents say that
    /// the library needs, and what the target itself does.
    pub max_memory: usize,
}

impl Target {
    /// Tries one input. Returns the most memory that was held meanwhile, in bytes.
    pub fn check(&self, bytes: &[u8]) -> usize {
        memory::within(self.max_memory, || (self.run)(bytes)).1
    }
}

const MIB: usize = 1 << 20;

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "calls", run: calls::run, max_len: 1024, max_memory: 8 * MIB },
    Target { name: "roundtrip", run: roundtrip::run, max_len: 256, max_memory: 4 * MIB },
    Target { name: "v1", run: roundtrip::run_v1, max_len: 256, max_memory: 4 * MIB },
    Target { name: "rfc", run: roundtrip::run_rfc, max_len: 256, max_memory: 4 * MIB },
    Target { name: "dirty", run: dirty::run, max_len: 4096, max_memory: 4 * MIB },
    Target { name: "checkpoint", run: checkpoint::run, max_len: 4096, max_memory: MIB },
    Target { name: "decode", run: decode::run, max_len: 4096, max_memory: MIB },
    Target { name: "estimate", run: estimate::run, max_len: 2048, max_memory: MIB },
    Target { name: "group", run: group::run, max_len: 1024, max_memory: 6 * MIB },
    Target { name: "guards", run: guards::run, max_len: 2048, max_memory: MIB },
    Target { name: "handover", run: handover::run, max_len: 1024, max_memory: MIB },
    Target { name: "identity", run: identity::run, max_len: 4096, max_memory: MIB },
    Target { name: "inspect", run: inspect::run, max_len: 4096, max_memory: 2 * MIB },
    Target { name: "load", run: load::run, max_len: 256, max_memory: MIB },
    Target { name: "auth", run: auth::run, max_len: 512, max_memory: 2 * MIB },
    Target { name: "qemu", run: qemu::run, max_len: 2048, max_memory: 2 * MIB },
    Target { name: "qemu_file", run: qemu_file::run, max_len: 4096, max_memory: 2 * MIB },
    Target { name: "policy", run: policy::run, max_len: 4096, max_memory: MIB },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
