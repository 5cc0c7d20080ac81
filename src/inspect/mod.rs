// SPDX-License-Identifier: MIT OR Apache-2.0
//! Inspection: what is in a stream, and whether it is whole, without a device.
//!
//! An [`Inspector`] takes a copy of a stream split in any way and says what it consists of, piece by
//! piece, each with its place. Unlike a load it survives damage: it says where it is, and goes on
//! where the stream can be understood again. What it calls [`Verdict::Whole`] a load takes, and the
//! other way round: the rules are those of the one decoder. It keeps one frame at most, whatever the
//! length of the stream.
//!
//! A [`FieldDecoder`] names what is in a driver's own data. The library has some for drivers that it
//! knows ([`built_in`]). Nothing that is found here has an effect on what is saved or loaded.
//!
//! This room knows formats; it knows nothing of devices or sessions.

mod carry;
mod decoding;
mod diagnose;
mod entry;
mod fields;
mod headers;
mod mtty;
mod native;
mod report;

pub use decoding::{Decoding, built_in};
pub use entry::{Checked, Content, Entry, Frame, Problem, ProblemKind, What};
pub use fields::{
    Field, FieldDecoder, FieldFlags, Fields, MAX_DESCRIPTION, MAX_FIELDS, MAX_NAME, MAX_VALUE,
    Value,
};
pub use mtty::MttyFields;
pub use native::{InspectOptions, Inspector};
pub use report::{Report, Tags, Verdict};
