// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C library: every function of `vfiomig::capi`, and the allocator that belongs to it.
//!
//! The allocator is here and not in the crate, because a program has only one: a VMM in Rust
//! chooses its own.

#[global_allocator]
static ALLOCATOR: vfiomig::capi::Reserve = vfiomig::capi::Reserve;
