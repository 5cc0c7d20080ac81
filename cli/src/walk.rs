// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads a stream in a file from the front to the back, in constant memory.

use vfiomig::inspect::{Content, Entry, InspectOptions, Inspector, Report, Tags, Verdict, What};
use vfiomig::stream::checkpoint::StreamEnd;

use crate::contents::Part;
use crate::exit::{Result, Status, Trouble};
use crate::input::Input;
use crate::key::Key;
use crate::progress::Progress;

/// How much is read at once, in bytes.
const CHUNK: usize = 1 << 20;

/// After this many bytes in which nothing can be understood, the rest is not looked at: a hole in a
/// file can be longer than anybody waits for. No frame is as long.
const SILENCE: u64 = if cfg!(debug_assertions) { 64 << 20 } else { (1 << 30) + (64 << 20) };

/// A stream that is being read.
pub struct Walk<'a> {
    input: &'a mut Input,
    part: &'a mut Part,
    inspector: Inspector,
    buf: Vec<u8>,
    /// What of the buffer has not been looked at.
    rest: std::ops::Range<usize>,
    done: u64,
    /// How much had been read when something was last understood.
    heard: u64,
    gave_up: bool,
    ended: bool,
    /// What its end says, to be compared with the checkpoint that it is in.
    end: Option<StreamEnd>,
    progress: Progress,
}

/// What was found out about a stream.
pub struct Found {
    /// What the library says of it.
    pub report: Report,
    /// The checkpoint says something else of it.
    pub misplaced: Option<String>,
    /// The rest was not looked at, because nothing was understood for too long.
    pub gave_up: bool,
}

impl Found {
    /// Whether it is whole, as a load of it would see it.
    pub fn verdict(&self) -> Verdict {
        match (self.report.verdict, &self.misplaced) {
            (Verdict::Whole | Verdict::Unverified, Some(_)) => Verdict::Damaged,
            (verdict, _) => verdict,
        }
    }

    /// Whether a stream that is being written looks like this.
    pub fn is_cut(&self) -> bool {
        matches!(self.verdict(), Verdict::Incomplete | Verdict::Damaged)
    }

    /// How the tool ends because of it.
    pub fn status(&self) -> Status {
        match self.verdict() {
            Verdict::Whole => Status::Yes,
            Verdict::Unverified => Status::Permission,
            // With another key, the tag of a stream's beginning is as wrong as if it had been changed.
            Verdict::Refused if self.report.tags == Tags::OtherKey => Status::Permission,
            Verdict::Refused if self.report.code == Some(vfiomig::Code::Perm) => Status::Permission,
            Verdict::Foreign => Status::Input,
            _ => Status::No,
        }
    }
}

impl<'a> Walk<'a> {
    /// From the front.
    pub fn new(
        input: &'a mut Input,
        part: &'a mut Part,
        key: Option<&Key>,
        progress: Progress,
    ) -> Result<Walk<'a>> {
        let options = InspectOptions { auth: key.map(Key::auth), ..InspectOptions::default() };
        let inspector = Inspector::new(options).map_err(|error| no_memory(&error))?;
        Ok(Walk {
            input,
            part,
            inspector,
            buf: vec![0; CHUNK],
            rest: 0..0,
            done: 0,
            heard: 0,
            gave_up: false,
            ended: false,
            end: None,
            progress,
        })
    }

    /// The next piece of the stream, if there is one.
    pub fn next(&mut self, each: &mut dyn FnMut(&Entry<'_>) -> Result<()>) -> Result<bool> {
        loop {
            let mut bytes = self.buf.get(self.rest.clone()).unwrap_or_default();
            let found = match self.ended {
                false => self.inspector.next(&mut bytes),
                true => self.inspector.finish(),
            };
            if let Some(entry) = found.map_err(|error| no_memory(&error))? {
                if let What::Frame(frame) = &entry.what {
                    if let (Content::End { .. }, Some(end)) =
                        (&frame.content, frame.payload.first_chunk())
                    {
                        self.end = StreamEnd::from_payload(end).ok();
                    }
                }
                each(&entry)?;
                self.rest.start = self.rest.end - bytes.len();
                self.heard = self.done;
                return Ok(true);
            }
            if self.ended {
                return Ok(false);
            }
            let len = self.part.read(self.input, &mut self.buf)?;
            self.rest = 0..len;
            self.done += len as u64;
            self.gave_up = self.done - self.heard > SILENCE;
            self.ended = len == 0 || self.gave_up;
            self.progress.at(self.done);
        }
    }

    /// What there is to say when all has been read.
    pub fn finish(mut self) -> Result<Found> {
        while self.next(&mut |_| Ok(()))? {}
        let report = self.inspector.report().clone();
        let misplaced = self.part.entry.as_ref().and_then(|entry| {
            let id = report.preamble.map(|preamble| preamble.migration_id);
            let differs = |what: &str| Some(format!("the checkpoint has another {what} for it"));
            if id != Some(entry.migration_id) {
                differs("migration id")
            } else if report.device != Some(entry.device) {
                differs("device number")
            } else if report.identity.as_ref() != Some(&entry.identity) {
                differs("identity")
            } else if self.end != Some(entry.end) {
                differs("end")
            } else {
                None
            }
        });
        Ok(Found { report, misplaced, gave_up: self.gave_up })
    }
}

/// Whether a stream that begins like this was made with another key.
pub fn is_of_other_key(mut start: &[u8], key: &Key) -> Result<bool> {
    let options = InspectOptions { auth: Some(key.auth()), ..InspectOptions::default() };
    let mut inspector = Inspector::new(options).map_err(|error| no_memory(&error))?;
    while inspector.next(&mut start).map_err(|error| no_memory(&error))?.is_some() {}
    Ok(inspector.report().tags == Tags::OtherKey)
}

fn no_memory(error: &vfiomig::Error) -> Trouble {
    Trouble::new(Status::Resources, error.to_string())
}
