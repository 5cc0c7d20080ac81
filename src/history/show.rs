// SPDX-License-Identifier: MIT OR Apache-2.0
//! Histories as text and as JSON. Whatever a driver's name or an error's text has in it, a line
//! stays a line of printable ASCII, and JSON stays JSON.

use std::fmt::{self, Write};

use super::record::{About, Cause, History, Note, Record, Short};
use crate::error::{Operation, Outcome, Result, err};
use crate::fsm::State;

/// How a history is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Format {
    /// A line for each event, for people.
    Text = 1,
    /// A JSON object in each line.
    Json = 2,
}

/// Enough for the history of any device, with its NUL: each character of a text may take six.
pub(crate) const MAX_BYTES: usize = 128 << 10;

/// Enough for the line that says whose history it is.
pub(crate) const LEAST_BYTES: usize = 4 << 10;

/// An event and whose it is, by age.
type Get<'a, 'r> = &'a dyn Fn(usize) -> Option<(Option<u32>, &'r Record)>;

/// Writes the newest of `len` events that fit into `out`, after a line for each in `about`.
pub(super) fn fit(
    format: Format,
    about: &[About],
    len: usize,
    get: Get<'_, '_>,
    out: &mut [u8],
) -> Result<usize> {
    let room = out.len().saturating_sub(1);
    // As if nothing were shown: then the numbers are the longest.
    let heads = about.iter().map(|it| length(&Head(format, it, it.recorded))).sum::<usize>();
    let Some(mut rest) = room.checked_sub(heads) else {
        return Err(err!(NoSpace, "the history takes {} bytes at least", heads + 1));
    };
    let mut first = len;
    while let Some((device, record)) = first.checked_sub(1).and_then(get) {
        let Some(left) = rest.checked_sub(length(&Line(format, device, record))) else { break };
        (rest, first) = (left, first - 1);
    }
    let mut writer = Into { out, at: 0 };
    for it in about {
        let shown = (first..len).filter_map(get).filter(|(device, _)| *device == it.device);
        let left_out = it.recorded.saturating_sub(shown.count() as u64);
        writer.line(&Head(format, it, left_out))?;
    }
    for (device, record) in (first..len).filter_map(get) {
        writer.line(&Line(format, device, record))?;
    }
    writer.end()
}

impl History {
    /// Writes as many of the newest events as fit into `out`, and a NUL. Returns how long that is,
    /// without the NUL. Fails with [`crate::Code::NoSpace`] if there is not even room for what it
    /// begins with.
    pub fn write(&self, format: Format, out: &mut [u8]) -> Result<usize> {
        let entry =
            |index: usize| self.entries.get(index).map(|entry| (entry.device, &entry.record));
        fit(format, &self.about, self.entries.len(), &entry, out)
    }

    /// All of it as text, a line for each event.
    pub fn text(&self) -> impl fmt::Display + '_ {
        Whole(self, Format::Text)
    }

    /// All of it as JSON, an object in each line: docs/schema/history.json.
    pub fn json(&self) -> impl fmt::Display + '_ {
        Whole(self, Format::Json)
    }
}

/// A whole history.
struct Whole<'a>(&'a History, Format);

impl fmt::Display for Whole<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Whole(history, format) = self;
        for it in &history.about {
            let shown = history.entries.iter().filter(|entry| entry.device == it.device);
            let left_out = it.recorded.saturating_sub(shown.count() as u64);
            Head(*format, it, left_out).fmt(f)?;
        }
        history
            .entries
            .iter()
            .try_for_each(|entry| Line(*format, entry.device, &entry.record).fmt(f))
    }
}

/// The line that says whose history it is, and how many events are not in it.
struct Head<'a>(Format, &'a About, u64);

impl fmt::Display for Head<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Head(format, about, left_out) = self;
        let mut object = Object::begin(f, *format)?;
        object.kind(None, "history", about.device)?;
        if *format == Format::Json {
            object.number("schema", 1)?;
        }
        object.text("library", env!("CARGO_PKG_VERSION"))?;
        object.short("driver", &about.driver)?;
        object.short("name", &about.name)?;
        object.number("recorded", about.recorded)?;
        object.number("left_out", *left_out)?;
        object.end()
    }
}

/// The line of an event.
struct Line<'a>(Format, Option<u32>, &'a Record);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line(format, device, record) = self;
        let note = &record.note;
        let mut object = Object::begin(f, *format)?;
        object.kind(Some(record.at_ns), note.what.name(), *device)?;
        if *format == Format::Json {
            object.number("number", record.number)?;
        }
        object.states(note)?;
        object.name("cause", note.cause.map(Cause::name))?;
        object.name("outcome", note.outcome.map(outcome))?;
        object.name("code", note.code.map(crate::error::Code::name))?;
        object.name("operation", operation(note.operation))?;
        if note.errno != 0 {
            object.member("errno", format_args!("{}", note.errno))?;
        }
        let numbers = [
            ("duration_ns", note.duration_ns),
            ("bytes", note.bytes),
            ("count", note.count),
            ("times", Some(record.times).filter(|times| *times > 1)),
        ];
        for (name, number) in numbers {
            number.map_or(Ok(()), |number| object.number(name, number))?;
        }
        object.short("text", &note.text)?;
        object.end()
    }
}

/// The members of an object, in either format.
struct Object<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    format: Format,
}

impl<'a, 'f> Object<'a, 'f> {
    fn begin(f: &'a mut fmt::Formatter<'f>, format: Format) -> Result<Self, fmt::Error> {
        if format == Format::Json {
            f.write_char('{')?;
        }
        Ok(Object { f, format })
    }

    /// What each line begins with: when, whose, what.
    fn kind(&mut self, at_ns: Option<u64>, what: &str, device: Option<u32>) -> fmt::Result {
        match (self.format, at_ns, device) {
            (Format::Json, at_ns, device) => {
                write!(self.f, "\"event\":\"{what}\",\"device\":")?;
                match device {
                    Some(device) => write!(self.f, "{device}")?,
                    None => self.f.write_str("null")?,
                }
                at_ns.map_or(Ok(()), |at_ns| self.number("at_ns", at_ns))
            }
            (Format::Text, at_ns, device) => {
                if let Some(at_ns) = at_ns {
                    let (seconds, rest) = (at_ns / 1_000_000_000, at_ns % 1_000_000_000);
                    write!(self.f, "{seconds}.{rest:09} ")?;
                }
                if let Some(device) = device {
                    write!(self.f, "device {device}: ")?;
                }
                self.f.write_str(what)
            }
        }
    }

    fn member(&mut self, name: &str, value: fmt::Arguments<'_>) -> fmt::Result {
        match self.format {
            Format::Json => write!(self.f, ",\"{name}\":{value}"),
            Format::Text => write!(self.f, " {name}={value}"),
        }
    }

    fn number(&mut self, name: &str, value: u64) -> fmt::Result {
        self.member(name, format_args!("{value}"))
    }

    /// One of the library's own names.
    fn name(&mut self, name: &str, value: Option<&str>) -> fmt::Result {
        match (value, self.format) {
            (None, _) => Ok(()),
            (Some(value), Format::Json) => self.text(name, value),
            (Some(value), Format::Text) => self.member(name, format_args!("{value}")),
        }
    }

    /// Any text, which may come from outside.
    fn text(&mut self, name: &str, value: &str) -> fmt::Result {
        self.member(name, format_args!("\"{}\"", Escaped(self.format, value)))
    }

    fn short(&mut self, name: &str, value: &Short) -> fmt::Result {
        match (value.as_str(), value.is_cut()) {
            ("", _) => Ok(()),
            (text, false) => self.text(name, text),
            (text, true) => {
                self.member(name, format_args!("\"{}...\"", Escaped(self.format, text)))
            }
        }
    }

    fn states(&mut self, note: &Note) -> fmt::Result {
        let states = [("from", note.from), ("to", note.to)];
        states.into_iter().try_for_each(|(name, state)| {
            let Some(state) = state else { return Ok(()) };
            match (state, self.format) {
                (State::Other(_), Format::Json) => self.member(name, format_args!("\"{state}\"")),
                (state, Format::Json) => self.text(name, state.name()),
                (state, Format::Text) => self.member(name, format_args!("{state}")),
            }
        })
    }

    fn end(self) -> fmt::Result {
        self.f.write_str(match self.format {
            Format::Json => "}\n",
            Format::Text => "\n",
        })
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Kept => "kept",
        Outcome::Recovered => "recovered",
        Outcome::Reset => "reset",
        Outcome::Lost => "lost",
    }
}

fn operation(operation: Operation) -> Option<&'static str> {
    Some(match operation {
        Operation::None => return None,
        Operation::Probe => "probe",
        Operation::GetState => "get_state",
        Operation::SetState => "set_state",
        Operation::DataRead => "data_read",
        Operation::DataWrite => "data_write",
        Operation::PrecopyInfo => "precopy_info",
        Operation::Reset => "reset",
        Operation::Stream => "stream",
        Operation::Callback => "callback",
        Operation::File => "file",
    })
}

/// A text from outside: printable ASCII, and nothing that could end a text.
struct Escaped<'a>(Format, &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Escaped(format, text) = self;
        for c in text.chars() {
            match (c, format) {
                ('"' | '\\', _) => write!(f, "\\{c}")?,
                (' '..='~', _) => f.write_char(c)?,
                (_, Format::Text) => write!(f, "{}", c.escape_unicode())?,
                (_, Format::Json) => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        write!(f, "\\u{unit:04x}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// How long a line is.
fn length(line: &impl fmt::Display) -> usize {
    struct Length(usize);
    impl Write for Length {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }
    let mut length = Length(0);
    let _ = write!(length, "{line}");
    length.0
}

/// Writes into memory of the caller's, whose bytes are never read.
struct Into<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Into<'_> {
    fn line(&mut self, line: &impl fmt::Display) -> Result<()> {
        write!(self, "{line}").map_err(|_| err!(NoSpace, "the history does not fit"))
    }

    /// Ends the text; returns its length.
    fn end(self) -> Result<usize> {
        match self.out.get_mut(self.at) {
            Some(end) => *end = 0,
            None => return Err(err!(NoSpace, "the history does not fit")),
        }
        Ok(self.at)
    }
}

impl Write for Into<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.at + text.len();
        self.out.get_mut(self.at..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.at = end;
        Ok(())
    }
}
