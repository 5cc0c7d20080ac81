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
//!
//! # What C promises
//!
//! `vfiomig.h` says it, most of it at its head. Comments at unsafe code name the number, or, for the
//! first, say what is there: "NULL, or `len` readable bytes".
//!
//! 1. A pointer is NULL, or valid for the length that belongs to it: a structure for the size that
//!    its first member claims, a text up to its NUL. It is valid for what the function does there.
//!    Meanwhile nobody else changes what the function reads, or uses what it writes.
//! 2. A callback, NULL or not, may be called with its opaque until it is released, on any thread;
//!    one at a time per object, but the log's on several threads at once. A release function may be
//!    called with the opaque, once, on any thread.
//! 3. A callback uses what it is given pointers to only while it runs, within the length that belongs
//!    to it, and writes only to what is there to be filled in. `add` is called only while `enumerate`
//!    runs, on its thread, with the opaque that came with it.
//! 4. An fd that is lent stays open until the object that it was lent to is freed.
//! 5. A host address leads to as many bytes as its mapping or place has, to be read, and to be written
//!    unless the mapping is read-only: as long as it is mapped, or until the call returns in which the
//!    place was asked for.
//! 6. The memory that `vfiomig_load_get_space` offers is not used after the next call with its handle.

#![allow(unsafe_code)]
#![allow(non_camel_case_types)]
// `vfiomig.h` says once, at its head, what all functions require of pointers.
#![allow(clippy::missing_safety_doc)]

// A folder per object: a new one needs a line here.
pub mod checkpoint;
pub mod device;
pub mod dirty;
pub mod estimate;
pub mod group;
pub mod handover;
pub mod inspect;
pub mod load;
pub mod restore;
pub mod save;

// Parts without an object.
pub mod auth;
pub mod compat;
pub mod error;
pub mod fsm;
pub mod guard;
pub mod limits;
pub mod log;
pub mod policy;
pub mod qemu;
pub mod transfer;
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
