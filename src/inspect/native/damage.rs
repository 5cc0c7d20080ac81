// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a walk goes on behind what is wrong, or ends.

use super::state::{At, Step, Walk};
use crate::error::{Result, err};
use crate::inspect::carry::Place;
use crate::inspect::diagnose;
use crate::inspect::entry::{Checked, Owned, Problem, ProblemKind};
use crate::inspect::headers::{first_frames, is_header, next_header};
use crate::inspect::report::{Tags, Verdict};
use crate::stream::{BLOCK_MARK, FrameHeader, HEADER_LEN, MAGIC, TAG_LEN, Unit};

/// How much is looked through at once, in bytes.
const SCANNED: usize = if cfg!(test) { 100 } else { 64 << 10 };

impl Walk {
    /// A payload is wrong. If a frame follows where the header says, only bytes were changed;
    /// otherwise some may be missing, and what follows may lie within.
    pub fn behind_frame(&mut self, input: &mut &[u8], last: bool, total: usize) -> Result<Step> {
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

    /// Looks for the next frame, behind the first byte.
    pub fn scan(&mut self, input: &mut &[u8], last: bool, from: u64) -> Result<Step> {
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
    pub fn skip(&mut self, input: &mut &[u8], last: bool, left: u64) -> Result<Step> {
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

    pub fn behind_end(&mut self, input: &mut &[u8], last: bool, so_far: u64) -> Result<Step> {
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
    pub fn behind_preamble(&mut self, input: &mut &[u8], last: bool, magic: bool) -> Result<Step> {
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
    pub fn cut_short(&mut self, unit: Unit, len: usize) -> Step {
        let here = self.carry.len();
        let begins = self.carry.held().get(..here.min(MAGIC.len())).unwrap_or_default();
        if unit == Unit::Preamble && !MAGIC.starts_with(begins) {
            self.report.worsen(Verdict::Foreign);
            // A load waits for a whole preamble before it looks.
            let error = err!(NoData, "this is not a libvfiomig stream");
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
    pub fn cut_payload(&mut self, header: FrameHeader, head: usize, total: usize) -> Step {
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
}
