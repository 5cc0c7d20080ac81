// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file of a checkpoint: the code for what docs/stream-format.md says of it.
//!
//! Native streams lie in it as they are; a manifest at the end says where, and what they are of.
//! This room knows bytes and offsets: what a file is, and how it gets its name, is up to others.

mod layout;
mod manifest;
mod read;
mod tag;
mod verify;
mod write;

pub use layout::{HEAD_LEN, TRAILER_LEN};
pub use manifest::{
    Entry, MAX_DEVICES, MAX_MANIFEST, MAX_NAME, MAX_NOTE, MAX_PIECES, Manifest, Piece, StreamEnd,
};
pub use read::{looks_like_a_checkpoint, read_manifest};
pub use tag::Authenticity;
pub use verify::Verifier;
pub use write::{encode_head, encode_manifest};
