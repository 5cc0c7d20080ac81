// SPDX-License-Identifier: MIT OR Apache-2.0
//! The walk over a native stream.
//!
//! Units are handed to a lenient decoder, which judges them. What is here is where to go on after
//! something was refused: docs/inspect.md has the rules.

mod damage;
mod state;

use super::carry::Place;
use super::diagnose;
use super::entry::{Checked, Entry, Owned, Problem, ProblemKind};
use super::report::{Report, Tags, Verdict};
use crate::error::{Error, Result, err};
use crate::stream::{
    Auth, AuthBlock, DecodeLimits, Decoder, FrameHeader, FrameType, HEADER_LEN, MAGIC,
    PREAMBLE_LEN, Preamble, Read as _, TAG_LEN, Unit,
};
use state::{At, Found, Step, Walk};

/// What an inspector goes by.
#[derive(Debug, Default)]
pub struct InspectOptions {
    /// What a stream may ask for: those of the load that it is meant for, or the defaults.
    pub limits: DecodeLimits,
    /// What an authenticated stream is verified with. Without it, streams are read unverified.
    pub auth: Option<Auth>,
}

/// Reads a stream, and says what it consists of.
pub struct Inspector {
    walk: Walk,
}

impl Inspector {
    /// Refuses options that cannot be.
    pub fn new(options: InspectOptions) -> Result<Inspector> {
        let report = Report::new(options.auth.is_none());
        Ok(Inspector { walk: Walk::new(Decoder::lenient(options.limits, options.auth)?, report) })
    }

    /// Takes bytes from the front of `input` until there is something to say; `None` when all of it
    /// has been taken, or is waited for more of. Fails for want of memory only.
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Entry<'s>>> {
        self.step(input, false)
    }

    /// Says that nothing more comes. To be called until there is nothing more to say.
    pub fn finish(&mut self) -> Result<Option<Entry<'_>>> {
        self.step(&mut [].as_slice(), true)
    }

    /// What there is to say of the whole stream. The verdict is there when [`Inspector::finish`] has
    /// returned `None`.
    pub fn report(&self) -> &Report {
        &self.walk.report
    }

    fn step<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
        last: bool,
    ) -> Result<Option<Entry<'s>>> {
        let used = std::mem::take(&mut self.walk.used);
        self.walk.consume(input, used);
        let Some(Found { piece, place }) = self.walk(input, last)? else {
            self.walk.report.bytes = self.walk.offset + self.walk.carry.len() as u64;
            return Ok(None);
        };
        // Copied, because what is returned is borrowed for as long as the input is there.
        let whole: &'i [u8] = input;
        if place == Place::Input {
            let used = std::mem::take(&mut self.walk.used);
            self.walk.consume(input, used);
        }
        self.walk.report.bytes = self.walk.offset + self.walk.carry.len() as u64;
        let bytes = if place == Place::Held { self.walk.carry.held() } else { whole };
        let payload = match &piece.what {
            Owned::Frame { head, payload, .. } => bytes.get(*head..head + payload),
            _ => None,
        };
        self.walk.report.add(&piece, payload.unwrap_or_default());
        Ok(Some(piece.entry(bytes)))
    }

    fn walk(&mut self, input: &mut &[u8], last: bool) -> Result<Option<Found>> {
        loop {
            let found = match self.walk.at {
                At::Unit => self.unit(input, last)?,
                At::BadPreamble { magic } => self.walk.behind_preamble(input, last, magic)?,
                At::Payload(header) => self.payload(input, last, header)?,
                At::BadFrame { total } => self.walk.behind_frame(input, last, total)?,
                At::Scan { from } => self.walk.scan(input, last, from)?,
                At::Skip(left) => self.walk.skip(input, last, left)?,
                At::Behind(so_far) => self.walk.behind_end(input, last, so_far)?,
                At::Over => {
                    self.walk.consume(input, self.walk.carry.len() + input.len());
                    if last && self.walk.report.verdict == Verdict::Pending {
                        self.walk.report.close();
                    }
                    return Ok(None);
                }
            };
            match found {
                Step::Said(found) => return Ok(Some(found)),
                Step::Wait => return Ok(None),
                Step::On => {}
            }
        }
    }

    /// The next unit that the decoder asks for.
    fn unit(&mut self, input: &mut &[u8], last: bool) -> Result<Step> {
        let unit = self.walk.decoder.unit();
        if unit == Unit::Nothing {
            self.walk.at = At::Behind(0);
            return Ok(Step::On);
        }
        let len = self.walk.decoder.unit_len(unit);
        let Some(place) = self.walk.carry.find(input, len)? else {
            return Ok(if last { self.walk.cut_short(unit, len) } else { Step::Wait });
        };
        let bytes = self.walk.carry.bytes(place, input, len);
        match unit {
            Unit::Preamble => {
                let bytes = *bytes.first_chunk().unwrap_or(&[0; PREAMBLE_LEN]);
                Ok(self.preamble(&bytes, place))
            }
            Unit::Block => {
                let bytes = *bytes.first_chunk().unwrap_or(&[0; diagnose::BLOCK]);
                Ok(self.block(&bytes, place))
            }
            _ => {
                let mut head = [0; HEADER_LEN + TAG_LEN];
                for (slot, byte) in head.iter_mut().zip(bytes) {
                    *slot = *byte;
                }
                Ok(self.head(&head, len, place))
            }
        }
    }

    fn preamble(&mut self, bytes: &[u8; PREAMBLE_LEN], place: Place) -> Step {
        let said = take(&mut self.walk.decoder, bytes).err();
        let problem = said.map(|error| diagnose::preamble(bytes, error));
        let kind = problem.as_ref().map(|problem| problem.kind);
        if kind == Some(ProblemKind::NotAuthenticated) {
            self.walk.decoder.go_on_at(0);
        } else if let Some(kind) = kind {
            self.walk.at = match kind {
                ProblemKind::Version | ProblemKind::Features => At::Over,
                _ => At::BadPreamble { magic: bytes.starts_with(&MAGIC) },
            };
        }
        let what = Owned::Preamble(Preamble::of(bytes));
        self.walk.say(what, PREAMBLE_LEN, problem, PREAMBLE_LEN, place)
    }

    fn block(&mut self, bytes: &[u8; diagnose::BLOCK], place: Place) -> Step {
        let said = take(&mut self.walk.decoder, bytes).err();
        let problem = said.map(|error| {
            diagnose::block(bytes, &self.walk.decoder.migration_id().unwrap_or_default(), error)
        });
        if problem.is_some() {
            self.walk.decoder.go_on_without_key();
        }
        self.walk.report.tags = match (self.walk.decoder.tags(), &problem) {
            (Some(true), _) => Tags::Verified,
            (_, None) => Tags::NoKey,
            (_, Some(_)) => Tags::OtherKey,
        };
        let block = bytes.first_chunk().and_then(|block| {
            AuthBlock::decode(block, &self.walk.decoder.migration_id().unwrap_or_default()).ok()
        });
        self.walk.say(
            Owned::Authentication(block),
            diagnose::BLOCK,
            problem,
            diagnose::BLOCK,
            place,
        )
    }

    /// What stands before a payload.
    fn head(&mut self, head: &[u8; HEADER_LEN + TAG_LEN], len: usize, place: Place) -> Step {
        let header = head.first_chunk().unwrap_or(&[0; HEADER_LEN]);
        let binding = self.walk.decoder.binding();
        let unit = head.get(..len).unwrap_or_default();
        let mut said = take(&mut self.walk.decoder, unit).err();
        let Ok(parsed) = FrameHeader::decode_bound(header, binding) else {
            let error = said.unwrap_or_else(|| err!(Proto, "a frame header is wrong"));
            let problem = diagnose::header_bytes(header, binding, error);
            self.walk.at = At::Scan { from: self.walk.offset };
            return self.walk.say(Owned::Damage, 0, Some(problem), 0, place);
        };
        if let Some(error) = said.take_if(|_| parsed.sequence != self.walk.decoder.due()) {
            self.walk.misplaced = Some(Problem {
                kind: ProblemKind::Sequence,
                expected: Some(self.walk.decoder.due()),
                found: Some(parsed.sequence),
                error,
            });
            self.walk.decoder.go_on_at(parsed.sequence);
            said = take(&mut self.walk.decoder, unit).err();
        }
        let Some(error) = said else {
            self.walk.at = At::Payload(parsed);
            return Step::On;
        };
        // It breaks a rule, and its header is right: so is its length, if it leads to another one. A
        // load looks at its place first.
        let problem =
            self.walk.misplaced.take().unwrap_or_else(|| diagnose::header(&parsed, error));
        self.walk.decoder.go_on_behind(&parsed, header);
        self.walk.at = At::Skip(u64::from(parsed.length));
        let what = self.walk.frame(parsed, Checked::NotChecked, len, 0);
        self.walk.say(what, len, Some(problem), len, place)
    }

    fn payload(&mut self, input: &mut &[u8], last: bool, header: FrameHeader) -> Result<Step> {
        let head = self.walk.decoder.unit_len(Unit::Head);
        let (length, total) = (header.length as usize, head + header.length as usize);
        let Some(place) = self.walk.carry.find(input, total)? else {
            return Ok(if last { self.walk.cut_payload(header, head, total) } else { Step::Wait });
        };
        let bytes = self.walk.carry.bytes(place, input, total);
        let payload = bytes.get(head..).unwrap_or_default();
        let tags = self.walk.decoder.tags();
        // An empty one has been taken with its header.
        let said = match self.walk.decoder.unit() {
            Unit::Payload(_) => take(&mut self.walk.decoder, payload).err(),
            _ => None,
        };
        let misplaced = self.walk.misplaced.take();
        let Some(error) = said else {
            let checked = if tags == Some(false) { Checked::NoKey } else { Checked::Right };
            let what = self.walk.frame(header, checked, head, length);
            self.walk.at = At::Unit;
            return Ok(self.walk.say(what, total, misplaced, total, place));
        };
        let problem = diagnose::payload(&header, payload, tags, error);
        let damaged = matches!(problem.kind, ProblemKind::PayloadCheck | ProblemKind::Tag);
        let checked = match (damaged, tags) {
            (true, _) => Checked::Wrong,
            (_, Some(false)) => Checked::NoKey,
            _ => Checked::Right,
        };
        // A load has refused it for its place already.
        let problem = misplaced.unwrap_or(problem);
        let what = self.walk.frame(header, checked, head, length);
        if header.kind == FrameType::End && !damaged {
            self.walk.report.ended = true;
            self.walk.at = At::Behind(0);
            return Ok(self.walk.say(what, total, Some(problem), total, place));
        }
        self.walk.decoder.go_on_at(header.sequence.saturating_add(1));
        self.walk.at = if damaged { At::BadFrame { total } } else { At::Unit };
        let used = if damaged { 0 } else { total };
        Ok(self.walk.say(what, total, Some(problem), used, place))
    }
}

/// Has the decoder take a unit, which it does not stage.
fn take(decoder: &mut Decoder, mut unit: &[u8]) -> Result<(), Error> {
    decoder.next(&mut unit).map(drop)
}

#[cfg(test)]
mod tests;
