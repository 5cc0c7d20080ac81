// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C ABI: handles, entry guards, errors, structures, callbacks.
//!
//! One file per object, each function thin: convert, call the safe core, convert back. What a
//! function may be called with, in which states, with which errors and since when stands in
//! `api.toml`, from which the guards (`table.rs`), the export map, the man pages and the misuse
//! tests are made. With `transport` and `sys` it is one of the rooms
//! with `unsafe` in it.

#![allow(unsafe_code)]
#![allow(non_camel_case_types)]
// What a pointer must be is the same for all functions and is said once, at the head of vfiomig.h.
#![allow(clippy::missing_safety_doc)]

mod callbacks;
mod constants;
mod device;
mod dirty;
mod entry;
mod errors;
mod fsm;
mod handle;
mod load;
mod log;
mod reserve;
mod save;
mod structs;
mod table;
mod version;

pub use self::log::*;
pub use crate::sys::Reserve;
pub use constants::*;
pub use device::*;
pub use dirty::*;
pub use errors::*;
pub use fsm::*;
pub use load::*;
pub use save::*;
pub use structs::*;
pub use version::*;
