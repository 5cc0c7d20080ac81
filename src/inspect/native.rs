// SPDX-License-Identifier: MIT OR Apache-2.0
//! The walk over a native stream.
//!
//! Units are handed to a lenient decoder, which judges them. What is here is where to go on after
//! something was refused: docs/inspect.md has the rules.

use super::carry::{Carry, Place};
use super::diagnose;
use super::entry::{Checked, Entry, Owned, Piece, Problem, ProblemKind};
use super::headers::{first_frames, is_header, next_header};
use super::report::{Report, Tags, Verdict};
use crate::error::{Error, Result, err};
use crate::stream::{
    Auth, AuthBlock, BLOCK_MARK, DecodeLimits, Decoder, FrameHeader, FrameType, HEADER_LEN, MAGIC,
    PREAMBLE_LEN, Preamble, Read as _, TAG_LEN, Unit,
};

/// What an inspector goes by.
#[derive(Debug, Default)]
pub struct InspectOptions {
    /// What a stream may ask for: those of the load that it is meant for, or the defaults.
    pub limits: DecodeLimits,
    /// What an authenticated stream is verified with. Without it, streams are read unverified.
    pub auth: Option<Auth>,
}

/// Where the walk is.
#[derive(Clone, Copy, Debug)]
enum At {
    /// A unit that the decoder asks for.
    Unit,
    /// Behind a preamble that is damaged.
    BadPreamble { magic: bool },
    /// The payload of a frame, whose header lies before it. What is wrong with its place.
    Payload(FrameHeader),
    /// A frame whose payload is wrong, of this length in all: does a frame follow it?
    BadFrame { total: usize },
    /// Nothing is known of what comes; a gap that began there.
    Scan { from: u64 },
    /// So many bytes belong to a frame that is not looked at.
    Skip(u64),
    /// So many bytes have come after the end.
    Behind(u64),
    /// Nothing more is said, whatever comes.
    Over,
}

/// How many bytes may be looked at a second time, beyond as many as have come. Whoever makes headers
/// can make many that announce long frames, one within the other.
const SECOND_LOOKS: u64 = if cfg!(test) { 4 << 10 } else { 64 << 20 };

/// How much is looked through at once, in bytes.
const SCANNED: usize = if cfg!(test) { 100 } else { 64 << 10 };

/// Reads a stream, and says what it consists of.
pub struct Inspector {
    decoder: Decoder,
    carry: Carry,
    at: At,
    /// Where the next byte that was not consumed is.
    offset: u64,
    /// What was passed on last, and is no longer needed.
    used: usize,
    /// What is wrong with the place of the frame whose payload is awaited.
    misplaced: Option<Problem>,
    /// Bytes that were looked at a second time.
    second_looks: u64,
    report: Report,
}

/// What the walk has found, and where its bytes lie.
struct Found {
    piece: Piece,
    place: Place,
}

impl Inspector {
    /// Refuses options that cannot be.
    pub fn new(options: InspectOptions) -> Result<Inspector> {
        let report = Report::new(options.auth.is_none());
        Ok(Inspector {
            decoder: Decoder::lenient(options.limits, options.auth)?,
            carry: Carry::default(),
            at: At::Unit,
            offset: 0,
            used: 0,
            misplaced: None,
            second_looks: 0,
            report,
        })
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
        &self.report
    }

    fn step<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
        last: bool,
    ) -> Result<Option<Entry<'s>>> {
        let used = std::mem::take(&mut self.used);
        self.consume(input, used);
        let Some(Found { piece, place }) = self.walk(input, last)? else {
            self.report.bytes = self.offset + self.carry.len() as u64;
            return Ok(None);
        };
        // Copied, because what is returned is borrowed for as long as the input is there.
        let whole: &'i [u8] = input;
        if place == Place::Input {
            let used = std::mem::take(&mut self.used);
            self.consume(input, used);
        }
        self.report.bytes = self.offset + self.carry.len() as u64;
        let bytes = if place == Place::Held { self.carry.held() } else { whole };
        let payload = match &piece.what {
            Owned::Frame { head, payload, .. } => bytes.get(*head..head + payload),
            _ => None,
        };
        self.report.add(&piece, payload.unwrap_or_default());
        Ok(Some(piece.entry(bytes)))
    }

    /// Leaves bytes behind that have been dealt with.
    fn consume(&mut self, input: &mut &[u8], len: usize) {
        self.carry.consume(input, len);
        self.offset += len as u64;
    }

    fn walk(&mut self, input: &mut &[u8], last: bool) -> Result<Option<Found>> {
        loop {
            let found = match self.at {
                At::Unit => self.unit(input, last)?,
                At::BadPreamble { magic } => self.behind_preamble(input, last, magic)?,
                At::Payload(header) => self.payload(input, last, header)?,
                At::BadFrame { total } => self.behind_frame(input, last, total)?,
                At::Scan { from } => self.scan(input, last, from)?,
                At::Skip(left) => self.skip(input, last, left)?,
                At::Behind(so_far) => self.behind_end(input, last, so_far)?,
                At::Over => {
                    self.consume(input, self.carry.len() + input.len());
                    if last && self.report.verdict == Verdict::Pending {
                        self.report.close();
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
        let unit = self.decoder.unit();
        if unit == Unit::Nothing {
            self.at = At::Behind(0);
            return Ok(Step::On);
        }
        let len = self.decoder.unit_len(unit);
        let Some(place) = self.carry.find(input, len)? else {
            return Ok(if last { self.cut_short(unit, len) } else { Step::Wait });
        };
        let bytes = self.carry.bytes(place, input, len);
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
        let said = take(&mut self.decoder, bytes).err();
        let problem = said.map(|error| diagnose::preamble(bytes, error));
        let kind = problem.as_ref().map(|problem| problem.kind);
        if kind == Some(ProblemKind::NotAuthenticated) {
            self.decoder.go_on_at(0);
        } else if let Some(kind) = kind {
            self.at = match kind {
                ProblemKind::Version | ProblemKind::Features => At::Over,
                _ => At::BadPreamble { magic: bytes.starts_with(&MAGIC) },
            };
        }
        let what = Owned::Preamble(Preamble::of(bytes));
        self.say(what, PREAMBLE_LEN, problem, PREAMBLE_LEN, place)
    }

    fn block(&mut self, bytes: &[u8; diagnose::BLOCK], place: Place) -> Step {
        let said = take(&mut self.decoder, bytes).err();
        let problem = said.map(|error| {
            diagnose::block(bytes, &self.decoder.migration_id().unwrap_or_default(), error)
        });
        if problem.is_some() {
            self.decoder.go_on_without_key();
        }
        self.report.tags = match (self.decoder.tags(), &problem) {
            (Some(true), _) => Tags::Verified,
            (_, None) => Tags::NoKey,
            (_, Some(_)) => Tags::OtherKey,
        };
        let block = bytes.first_chunk().and_then(|block| {
            AuthBlock::decode(block, &self.decoder.migration_id().unwrap_or_default()).ok()
        });
        self.say(Owned::Authentication(block), diagnose::BLOCK, problem, diagnose::BLOCK, place)
    }

    /// What stands before a payload.
    fn head(&mut self, head: &[u8; HEADER_LEN + TAG_LEN], len: usize, place: Place) -> Step {
        let header = head.first_chunk().unwrap_or(&[0; HEADER_LEN]);
        let binding = self.decoder.binding();
        let unit = head.get(..len).unwrap_or_default();
        let mut said = take(&mut self.decoder, unit).err();
        let Ok(parsed) = FrameHeader::decode_bound(header, binding) else {
            let error = said.unwrap_or_else(|| err!(Proto, "a frame header is wrong"));
            let problem = diagnose::header_bytes(header, binding, error);
            self.at = At::Scan { from: self.offset };
            return self.say(Owned::Damage, 0, Some(problem), 0, place);
        };
        if let Some(error) = said.take_if(|_| parsed.sequence != self.decoder.due()) {
            self.misplaced = Some(Problem {
                kind: ProblemKind::Sequence,
                expected: Some(self.decoder.due()),
                found: Some(parsed.sequence),
                error,
            });
            self.decoder.go_on_at(parsed.sequence);
            said = take(&mut self.decoder, unit).err();
        }
        let Some(error) = said else {
            self.at = At::Payload(parsed);
            return Step::On;
        };
        // It breaks a rule, and its header is right: so is its length, if it leads to another one. A
        // load looks at its place first.
        let problem = self.misplaced.take().unwrap_or_else(|| diagnose::header(&parsed, error));
        self.decoder.go_on_behind(&parsed, header);
        self.at = At::Skip(u64::from(parsed.length));
        let what = self.frame(parsed, Checked::NotChecked, len, 0);
        self.say(what, len, Some(problem), len, place)
    }

    fn payload(&mut self, input: &mut &[u8], last: bool, header: FrameHeader) -> Result<Step> {
        let head = self.decoder.unit_len(Unit::Head);
        let (length, total) = (header.length as usize, head + header.length as usize);
        let Some(place) = self.carry.find(input, total)? else {
            return Ok(if last { self.cut_payload(header, head, total) } else { Step::Wait });
        };
        let bytes = self.carry.bytes(place, input, total);
        let payload = bytes.get(head..).unwrap_or_default();
        let tags = self.decoder.tags();
        // An empty one has been taken with its header.
        let said = match self.decoder.unit() {
            Unit::Payload(_) => take(&mut self.decoder, payload).err(),
            _ => None,
        };
        let misplaced = self.misplaced.take();
        let Some(error) = said else {
            let checked = if tags == Some(false) { Checked::NoKey } else { Checked::Right };
            let what = self.frame(header, checked, head, length);
            self.at = At::Unit;
            return Ok(self.say(what, total, misplaced, total, place));
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
        let what = self.frame(header, checked, head, length);
        if header.kind == FrameType::End && !damaged {
            self.report.ended = true;
            self.at = At::Behind(0);
            return Ok(self.say(what, total, Some(problem), total, place));
        }
        self.decoder.go_on_at(header.sequence.saturating_add(1));
        self.at = if damaged { At::BadFrame { total } } else { At::Unit };
        let used = if damaged { 0 } else { total };
        Ok(self.say(what, total, Some(problem), used, place))
    }

    /// A payload is wrong. If a frame follows where the header says, only bytes were changed;
    /// otherwise some may be missing, and what follows may lie within.
    fn behind_frame(&mut self, input: &mut &[u8], last: bool, total: usize) -> Result<Step> {
        let head = self.decoder.unit_len(Unit::Head);
        let follows = match self.carry.find(input, total + head)? {
            Some(place) => {
                let bytes = self.carry.bytes(place, input, total + head);
                is_header(bytes.get(total..).unwrap_or_default(), self.decoder.binding())
            }
            None if last => self.carry.len() == total,
            None => return Ok(Step::Wait),
        };
        if follows || !self.may_look_again(total) {
            self.consume(input, total);
            self.at = At::Unit;
        } else {
            self.at = At::Scan { from: self.offset };
        }
        Ok(Step::On)
    }

    /// Whether so many bytes may be looked at again.
    fn may_look_again(&mut self, len: usize) -> bool {
        let allowed = self.second_looks + len as u64 <= self.offset + SECOND_LOOKS;
        self.second_looks += if allowed { len as u64 } else { 0 };
        allowed
    }

    /// Looks for the next frame, behind the first byte.
    fn scan(&mut self, input: &mut &[u8], last: bool, from: u64) -> Result<Step> {
        let binding = self.decoder.binding();
        loop {
            self.carry.top_up(input, self.carry.len().max(HEADER_LEN) + SCANNED)?;
            let held = self.carry.held();
            let first = usize::from(self.offset == from);
            if let Some((at, header)) = next_header(held, first, binding) {
                self.consume(input, at);
                let due = self.decoder.due();
                let missing = header.sequence.checked_sub(due);
                self.decoder.go_on_at(header.sequence);
                self.at = At::Unit;
                let what = Owned::Gap { resumed: true, missing };
                return Ok(self.say_from(from, what));
            }
            let done = match last {
                true => held.len(),
                // A header may have begun.
                false => held.len().saturating_sub(HEADER_LEN - 1).max(first.min(held.len())),
            };
            if !last && held.len() < HEADER_LEN {
                return Ok(Step::Wait);
            }
            self.consume(input, done);
            if last {
                self.at = At::Over;
                return Ok(self.say_from(from, Owned::Gap { resumed: false, missing: None }));
            }
            if input.is_empty() {
                return Ok(Step::Wait);
            }
        }
    }

    /// The rest of a frame that is not looked at.
    fn skip(&mut self, input: &mut &[u8], last: bool, left: u64) -> Result<Step> {
        let here = (self.carry.len() + input.len()) as u64;
        let len = left.min(here);
        self.consume(input, len as usize);
        if len == left {
            self.at = At::Unit;
            return Ok(Step::On);
        }
        self.at = At::Skip(left - len);
        if !last {
            return Ok(Step::Wait);
        }
        Ok(self.cut(Owned::End, left - len, 0))
    }

    fn behind_end(&mut self, input: &mut &[u8], last: bool, so_far: u64) -> Result<Step> {
        let here = self.carry.len() + input.len();
        self.consume(input, here);
        let so_far = so_far + here as u64;
        self.at = At::Behind(so_far);
        if !last {
            return Ok(Step::Wait);
        }
        self.at = At::Over;
        let problem = (so_far > 0).then(|| Problem {
            kind: ProblemKind::AfterEnd,
            expected: Some(0),
            found: Some(so_far),
            error: err!(Proto, "{so_far} bytes follow the end of the stream"),
        });
        Ok(self.say_at(self.offset - so_far, so_far, Owned::End, problem))
    }

    /// A damaged preamble: the frames behind it show what their checks are bound to, if there are
    /// two that agree.
    fn behind_preamble(&mut self, input: &mut &[u8], last: bool, magic: bool) -> Result<Step> {
        let enough = diagnose::BLOCK + 2 * (HEADER_LEN + TAG_LEN) + diagnose::LONGEST_IDENTITY;
        self.carry.top_up(input, enough)?;
        if self.carry.len() < enough && !last {
            return Ok(Step::Wait);
        }
        let held = self.carry.held();
        let tags = held.starts_with(&BLOCK_MARK);
        let begin = if tags { diagnose::BLOCK } else { 0 };
        let Some(binding) = first_frames(held.get(begin..).unwrap_or_default(), tags) else {
            // Without its beginning, nothing of it can be verified.
            self.report.worsen(if magic { Verdict::Damaged } else { Verdict::Foreign });
            self.at = At::Over;
            return Ok(Step::On);
        };
        self.decoder.go_on_without_beginning(binding, tags);
        self.at = At::Unit;
        if !tags {
            return Ok(Step::On);
        }
        self.report.tags = Tags::OtherKey;
        Ok(self.say(Owned::Authentication(None), begin, None, begin, Place::Held))
    }

    /// The stream ends within a unit, or before one.
    fn cut_short(&mut self, unit: Unit, len: usize) -> Step {
        let here = self.carry.len();
        let begins = self.carry.held().get(..here.min(MAGIC.len())).unwrap_or_default();
        if unit == Unit::Preamble && !MAGIC.starts_with(begins) {
            self.report.worsen(Verdict::Foreign);
            let error = err!(Proto, "this is not a libvfiomig stream");
            let kind = ProblemKind::NotAStream;
            self.at = At::Over;
            let problem = Problem { kind, expected: None, found: None, error };
            return self.say_at(self.offset, here as u64, Owned::End, Some(problem));
        }
        if here > 0 {
            return self.cut(Owned::End, (len - here) as u64, here);
        }
        self.at = At::Over;
        let error = err!(NoData, "the stream stops before its end: it is not complete");
        let kind = ProblemKind::NoEnd;
        let problem = Problem { kind, expected: None, found: None, error };
        self.say_at(self.offset, 0, Owned::End, Some(problem))
    }

    /// The stream ends within a payload. If bytes are missing from it, frames may lie within.
    fn cut_payload(&mut self, header: FrameHeader, head: usize, total: usize) -> Step {
        let here = self.carry.len();
        let misplaced = self.misplaced.take();
        let what = self.frame(header, Checked::NotChecked, head, here.saturating_sub(head));
        self.decoder.go_on_at(header.sequence.saturating_add(1));
        let mut said = self.cut(what, (total - here) as u64, 0);
        if let (Some(problem), Step::Said(found)) = (misplaced, &mut said) {
            found.piece.problem = Some(problem);
        }
        let within = self.carry.held().get(1..).unwrap_or_default();
        let found = next_header(within, 0, self.decoder.binding()).is_some();
        self.at = match found && self.may_look_again(here) {
            true => At::Scan { from: self.offset },
            false => At::Over,
        };
        said
    }

    /// Nothing more comes where so many bytes are missing.
    fn cut(&mut self, what: Owned, missing: u64, used: usize) -> Step {
        let here = self.carry.len() as u64;
        self.at = At::Over;
        let problem = Problem {
            kind: ProblemKind::Truncated,
            expected: Some(here + missing),
            found: Some(here),
            error: err!(NoData, "the stream is cut short: {missing} bytes are missing at its end"),
        };
        self.used = used;
        let piece = Piece { offset: self.offset, length: here, what, problem: Some(problem) };
        Step::Said(Found { piece, place: Place::Held })
    }

    fn frame(&self, header: FrameHeader, checked: Checked, head: usize, payload: usize) -> Owned {
        let data_offset = self.report.data_bytes;
        Owned::Frame { header, checked, data_offset, head, payload }
    }

    /// Says what is here, of which `used` bytes are then left behind.
    fn say(
        &mut self,
        what: Owned,
        length: usize,
        problem: Option<Problem>,
        used: usize,
        place: Place,
    ) -> Step {
        self.used = used;
        let piece = Piece { offset: self.offset, length: length as u64, what, problem };
        Step::Said(Found { piece, place })
    }

    /// Says what has been left behind from there on.
    fn say_from(&mut self, from: u64, what: Owned) -> Step {
        self.say_at(from, self.offset - from, what, None)
    }

    fn say_at(&mut self, offset: u64, length: u64, what: Owned, problem: Option<Problem>) -> Step {
        let piece = Piece { offset, length, what, problem };
        Step::Said(Found { piece, place: Place::Held })
    }
}

/// What a step of the walk came to. Passed on at once, so that its size costs nothing.
#[allow(clippy::large_enum_variant)]
enum Step {
    Said(Found),
    /// More of the stream is needed.
    Wait,
    On,
}

/// Has the decoder take a unit, which it does not stage.
fn take(decoder: &mut Decoder, mut unit: &[u8]) -> Result<(), Error> {
    decoder.next(&mut unit).map(drop)
}

#[cfg(test)]
mod tests;
