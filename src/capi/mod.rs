// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C ABI: handles, entry guards, errors, structures, callbacks.
//!
//! One folder per object, or per part of the library that has no object. Each has its functions, and
//! each function is thin: convert, call the safe core, convert back. What a function may be called
//! with, in which states, with which errors and since when stands in the folder's `api.toml`, from
//! which the guards (`table.rs`), the header, the export map, the man pages and the misuse tests are
//! made. Beside the folders lies what they share; nothing there knows which objects there are.
//!
//! With `sys` and `transport/ops.rs`, this is where `unsafe` is.

#![allow(unsafe_code)]
#![allow(non_camel_case_types)]
// What a pointer must be is the same for all functions and is said once, at the head of vfiomig.h.
#![allow(clippy::missing_safety_doc)]

// A folder per object: a new one is a line here.
pub mod device;
pub mod dirty;
pub mod load;
pub mod save;

// Parts without an object.
pub mod error;
pub mod fsm;
pub mod log;
pub mod qemu;
pub mod version;

// What they share.
mod args;
pub mod callbacks;
mod entry;
pub mod format;
mod handle;
mod numbers;
mod reserve;
mod row;
mod sized;
mod slots;
mod table;

pub use crate::sys::Reserve;
