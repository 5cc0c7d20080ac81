// SPDX-License-Identifier: MIT OR Apache-2.0
//! A decoder that is fed unit by unit, and goes on where a load would not: for inspection.
//!
//! All rules stay where they are. Whoever inspects a stream gives exactly what [`Decoder::unit`] asks
//! for, so that nothing is staged here, and finds the place to go on at by itself.

use super::{Awaiting, Check, Decoder};
use crate::error::Result;
use crate::stream::auth::{Auth, TAG_LEN};
use crate::stream::native::frame::{Binding, FrameHeader, HEADER_LEN, PREAMBLE_LEN};
use crate::stream::native::mac::BLOCK_LEN;
use crate::stream::reader::DecodeLimits;

/// What comes next in a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unit {
    Preamble,
    Block,
    Head,
    /// The payload of the frame that has this header.
    Payload(FrameHeader),
    /// Nothing: END has come.
    Nothing,
}

impl Decoder {
    /// Reads what a load would read, and also authenticated streams without a key. After an error
    /// it can be told to go on.
    pub(crate) fn lenient(limits: DecodeLimits, auth: Option<Auth>) -> Result<Decoder> {
        let decoder = match auth {
            Some(auth) => Decoder::authenticated(limits, auth)?,
            None => Decoder::new(limits),
        };
        Ok(Decoder { lenient: true, ..decoder })
    }

    /// What comes next.
    pub(crate) fn unit(&self) -> Unit {
        match self.awaiting {
            Awaiting::Preamble => Unit::Preamble,
            Awaiting::Block(_) => Unit::Block,
            Awaiting::Header => Unit::Head,
            Awaiting::Payload(header) => Unit::Payload(header),
            Awaiting::Nothing => Unit::Nothing,
        }
    }

    /// The length of a unit, in bytes.
    pub(crate) fn unit_len(&self, unit: Unit) -> usize {
        match unit {
            Unit::Preamble => PREAMBLE_LEN,
            Unit::Block => BLOCK_LEN + TAG_LEN,
            Unit::Head => self.staging.check.head_len(),
            Unit::Payload(header) => header.length as usize,
            Unit::Nothing => 0,
        }
    }

    /// Whether tags are verified; `None`: there are none.
    pub(crate) fn tags(&self) -> Option<bool> {
        match self.staging.check {
            Check::Sum(_) => None,
            Check::Tag(_) => Some(true),
            Check::Unknown => Some(false),
        }
    }

    /// What the checks of headers are bound to.
    pub(crate) fn binding(&self) -> Binding {
        self.binding
    }

    /// The number of the frame that is due.
    pub(crate) fn due(&self) -> u64 {
        self.sequence
    }

    /// Goes on with a frame of this number, as if everything before it had come.
    pub(crate) fn go_on_at(&mut self, sequence: u64) {
        (self.awaiting, self.refused, self.sequence) = (Awaiting::Header, None, sequence);
    }

    /// Goes on behind a frame that was refused for its header, which is counted anyway.
    pub(crate) fn go_on_behind(&mut self, header: &FrameHeader, bytes: &[u8; HEADER_LEN]) {
        self.totals.add(header, bytes);
        self.go_on_at(header.sequence.saturating_add(1));
    }

    /// Goes on at the first frame, without what came before it. `tags`: the frames have some, which
    /// nothing is known about.
    pub(crate) fn go_on_without_beginning(&mut self, binding: Binding, tags: bool) {
        self.binding = binding;
        self.auth = None;
        self.staging.check = if tags { Check::Unknown } else { Check::default() };
        self.go_on_at(0);
    }

    /// Goes on behind a block that could not be verified.
    pub(crate) fn go_on_without_key(&mut self) {
        if !matches!(self.staging.check, Check::Tag(_)) {
            self.staging.check = Check::Unknown;
        }
        self.go_on_at(0);
    }
}
