// SPDX-License-Identifier: MIT OR Apache-2.0
//! Of the two ways to compile `src/sync.rs`, the other one.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(shuttle, pthread_locks)");
    println!("cargo::rustc-cfg=shuttle");
    println!("cargo::rerun-if-changed=build.rs");
}
