// SPDX-License-Identifier: MIT OR Apache-2.0
//! Of the ways to compile `src/sync.rs`, the one with pthreads' locks.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(pthread_locks, shuttle)");
    println!("cargo::rustc-cfg=pthread_locks");
    println!("cargo::rerun-if-changed=../build.rs");
}
