// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C ABI: handles, entry guards, errors, structures, callbacks.
//!
//! There is a folder for each object, and for each part of the library that has no object. It holds
//! the functions, and each function is thin: it converts, calls the safe core, and converts back.
//! The folder's `api.toml` says what each function may be called with, in which states, with which
//! errors and since when. From it come the guards (`table.rs`), the header, the export map, the man
//! pages and the misuse tests. The files next to the folders are what the folders share; none of
//! them knows which objects exist.
//!
//! With `sys` and `transport/ops.rs`, this is where `unsafe` is.

#![allow(unsafe_code)]
#![allow(non_camel_case_types)]
// `vfiomig.h` says once, at its head, what all functions require of pointers.
#![allow(clippy::missing_safety_doc)]

// A folder per object: a new one needs a line here.
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
