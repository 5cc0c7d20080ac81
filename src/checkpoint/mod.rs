// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checkpoints: the state of one device or of several in a file, from a guest that goes on.
//!
//! [`Writer`] takes one in steps, because the VMM has things to do in between; [`write()`] does so for
//! devices whose guest is stopped. [`File`] reads one: it verifies streams before a device loses
//! anything, and loads them into as many devices as there are. How a stream looks is up to
//! `stream`, how a device is saved up to `session`; what is here is files, and the order of steps.
//! docs/checkpointing.md is for users.

mod errors;
mod file;
mod member;
mod place;
mod shared_auth;
mod spool;
mod stats;
mod store;
mod writer;

pub use file::{File, OpenOptions, open};
pub use stats::{Stats, Watcher};
pub(crate) use writer::Phase;
pub use writer::{Guest, Writer, WriterOptions, write};

pub use crate::stream::checkpoint::{Entry, Manifest, Piece, StreamEnd};
