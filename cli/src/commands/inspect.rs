// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig inspect`: what is in a stream or checkpoint, whole or not.

use std::fmt::Write as _;

use clap::{Arg, ArgMatches, Command};
use serde_json::{Value, json};
use vfiomig::inspect::{
    Content, Decoding, Entry, Field, FieldFlags, Frame, Value as FieldValue, What,
};
use vfiomig::stream::FrameType;

use crate::contents::Contents;
use crate::context::Context;
use crate::decoder::{self, Decoder};
use crate::exit::{Result, Status};
use crate::fields::value_text;
use crate::input::{GROWING, Input};
use crate::progress::Progress;
use crate::text::{Plain, bytes, hex, line};
use crate::walk::{Found, Walk};
use crate::{contents, found, input, json as json_option, key, qemu};

/// No more pieces than that are listed: whoever wrote the stream decides how many there are.
const MOST_PIECES: usize = 10_000;

/// The subcommand.
pub fn command() -> Command {
    Command::new("inspect")
        .about("Shows what is in a stream or checkpoint, whole or not")
        .after_help("Exit status: as for verify.")
        .arg(Arg::new("file").value_name("FILE").required(true).help("A file, or - for a pipe"))
        .arg(decoder::arg())
        .arg(key::arg())
        .arg(json_option::arg())
}

/// Runs it.
pub fn run(args: &ArgMatches, context: &mut Context<'_>) -> Result<Status> {
    let key = key::read(args)?;
    let decoder = decoder::read(args)?;
    let given = args.get_one::<String>("file").map_or("", String::as_str);
    let mut input = input::open(given)?;
    let contents = contents::of(&mut input, key.as_ref())?;
    if let Contents::Qemu = &contents {
        return qemu_file(&mut input, given, decoder.as_ref(), args.get_flag("json"), context);
    }
    let (mut status, mut streams) = (Status::Yes, Vec::new());
    let mut text = String::new();
    if let Contents::Checkpoint(manifest) = &contents {
        let _ = writeln!(text, "{}: a checkpoint", context.style.bold(&input.name));
        let devices = manifest.devices.len();
        line(&mut text, "holds", &format!("{devices} devices, id {}", hex(&manifest.id)));
        line(&mut text, "generation", &manifest.generation.to_string());
    }
    for mut part in contents.parts(&input, None)? {
        let progress = Progress::new(context.progress, "reading", part.len);
        let seen = Seen::new(decoder.as_ref())?;
        let title = part.title(&input);
        let name = part.name().map(str::to_owned);
        let walk = Walk::new(&mut input, &mut part, key.as_ref(), progress)?;
        let (found, seen) = one(walk, seen)?;
        text.push_str(&found::verdict_text(&title, &found, context.style));
        if found.is_cut() && input.has_changed() {
            let _ = writeln!(text, "  {GROWING}");
        }
        found::summary_text(&mut text, &found);
        seen.to_text(&mut text);
        let mut json = found::to_json(name.as_deref(), &found);
        if let Some(members) = json.as_object_mut() {
            seen.to_json(members);
        }
        status = status.max(found.status());
        streams.push(json);
    }
    if args.get_flag("json") {
        let checkpoint = match &contents {
            Contents::Checkpoint(manifest) => json!({
                "id": hex(&manifest.id),
                "created_ns": manifest.created_ns,
                "generation": manifest.generation,
                "note": hex(&manifest.note),
                "key_id": manifest.key_id,
            }),
            _ => Value::Null,
        };
        context.json(&json!({
            "schema": 1,
            "file": given,
            "format": contents.word(),
            "checkpoint": checkpoint,
            "streams": streams,
        }))?;
    } else {
        context.say(&text)?;
    }
    Ok(status)
}

/// One stream.
fn one<'a>(mut walk: Walk<'_>, mut seen: Seen<'a>) -> Result<(Found, Seen<'a>)> {
    while walk.next(&mut |entry| {
        seen.entry(entry);
        Ok(())
    })? {}
    let found = walk.finish()?;
    let driver = found.report.identity.as_ref().map(|identity| identity.driver.clone());
    if let (Some(decoder), Some(driver)) = (seen.decoder, driver) {
        seen.decoder_failed = seen.decoder_failed.or_else(|| decoder.is_for_other(&driver));
    }
    Ok((found, seen))
}

fn qemu_file(
    input: &mut Input,
    given: &str,
    decoder: Option<&Decoder>,
    json: bool,
    context: &mut Context<'_>,
) -> Result<Status> {
    let naming = qemu::Naming { decoder, driver: None };
    let wanted = qemu::Wanted { naming, pieces_of: None };
    let seen = qemu::read(input, &wanted, context.progress)?;
    if json {
        context.json(&json!({
            "schema": 1,
            "file": given,
            "format": "qemu",
            "checkpoint": Value::Null,
            "streams": [],
            "qemu": qemu::to_json(&seen),
        }))?;
    } else {
        let title = context.style.bold(&input.name);
        let mut text = qemu::to_text(&title, &seen);
        if seen.status() != Status::Yes && input.has_changed() {
            let _ = writeln!(text, "  {GROWING}");
        }
        context.say(&text)?;
    }
    Ok(seen.status())
}

/// Pieces of a stream that follow each other, are of one kind, and have nothing wrong.
struct Run {
    offset: u64,
    length: u64,
    kind: &'static str,
    count: u64,
    detail: String,
    problem: Option<(u64, vfiomig::inspect::Problem)>,
}

/// What was seen on the way through a stream.
struct Seen<'a> {
    /// The decoder that was given.
    decoder: Option<&'a Decoder>,
    runs: Vec<Run>,
    left_out: u64,
    decoding: Decoding,
    fields: Vec<Named>,
    decoder_failed: Option<String>,
}

/// A field, kept.
struct Named {
    name: String,
    value: String,
    json: Value,
    bits: u32,
    offset: u64,
    description: String,
    flags: FieldFlags,
}

impl Seen<'_> {
    fn new(decoder: Option<&Decoder>) -> Result<Seen<'_>> {
        let decoding = decoder::decoding(decoder)?;
        let (runs, fields) = (Vec::new(), Vec::new());
        Ok(Seen { decoder, runs, left_out: 0, decoding, fields, decoder_failed: None })
    }

    fn entry(&mut self, entry: &Entry<'_>) {
        self.note(entry);
        if matches!(&entry.what, What::Frame(Frame { content: Content::Restart(_), .. })) {
            self.fields.clear();
        }
        let fields = &mut self.fields;
        let decoded = self.decoding.entry(entry, &mut |field| {
            fields.push(Named::of(field));
            Ok(())
        });
        if let Err(error) = decoded {
            self.decoder_failed.get_or_insert(error.to_string());
        }
    }

    fn note(&mut self, entry: &Entry<'_>) {
        let (kind, detail) = kind_of(&entry.what);
        let problem = entry.problem.clone().map(|problem| (entry.offset, problem));
        if let Some(last) = self.runs.last_mut() {
            let fits = last.kind == "data" && kind == "data";
            if fits && last.problem.is_none() && problem.is_none() {
                last.count += 1;
                last.length += entry.length;
                return;
            }
        }
        if self.runs.len() == MOST_PIECES {
            self.left_out += 1;
            return;
        }
        let (offset, length) = (entry.offset, entry.length);
        self.runs.push(Run { offset, length, kind, count: 1, detail, problem });
    }

    fn to_text(&self, out: &mut String) {
        for run in &self.runs {
            let mut text = run.kind.to_owned();
            if run.count > 1 {
                let _ = write!(text, ", {} frames", run.count);
            }
            if run.length > 0 {
                let _ = write!(text, ", {}", bytes(run.length));
            }
            if !run.detail.is_empty() {
                let _ = write!(text, ": {}", Plain(&run.detail));
            }
            if let Some((_, problem)) = &run.problem {
                let _ = write!(text, " ({})", Plain(&problem.error.to_string()));
            }
            line(out, &format!("{:>10}", run.offset), &text);
        }
        if self.left_out > 0 {
            line(out, "", &format!("and {} more pieces", self.left_out));
        }
        for field in &self.fields {
            if !field.flags.contains(FieldFlags::PADDING) {
                let wrong = if field.flags.contains(FieldFlags::SUSPECT) {
                    " (the driver cannot have saved this)"
                } else {
                    ""
                };
                let _ = write!(out, "  {} = {}{wrong}", Plain(&field.name), Plain(&field.value));
                if !field.description.is_empty() {
                    let _ = write!(out, "  {}", Plain(&field.description));
                }
                out.push('\n');
            }
        }
        if let Some(why) = &self.decoder_failed {
            line(out, "decoder", why);
        }
    }

    fn to_json(&self, members: &mut serde_json::Map<String, Value>) {
        let piece = |run: &Run| {
            json!({
                "offset": run.offset,
                "length": run.length,
                "kind": run.kind,
                "count": run.count,
                "detail": run.detail,
                "problem": run.problem.as_ref().map(|(at, it)| found::problem_json(*at, it)),
            })
        };
        members.insert("pieces".into(), self.runs.iter().map(piece).collect());
        members.insert("pieces_left_out".into(), json!(self.left_out));
        let field = |field: &Named| {
            json!({
                "name": field.name,
                "value": field.json,
                "bits": field.bits,
                "offset": field.offset,
                "description": field.description,
                "suspect": field.flags.contains(FieldFlags::SUSPECT),
                "padding": field.flags.contains(FieldFlags::PADDING),
                "cut": field.flags.contains(FieldFlags::CUT),
            })
        };
        members.insert("fields".into(), self.fields.iter().map(field).collect());
        members.insert("decoder_problem".into(), json!(self.decoder_failed));
    }
}

impl Named {
    fn of(field: &Field<'_>) -> Named {
        let value = value_text(field);
        let json = match field.value {
            FieldValue::Unsigned(number) => json!(number),
            _ => json!(value),
        };
        Named {
            name: field.name.to_owned(),
            value,
            json,
            bits: field.bits,
            offset: field.offset,
            description: field.description.to_owned(),
            flags: field.flags,
        }
    }
}

/// A word for a piece, and what else there is to say of it.
fn kind_of(what: &What<'_>) -> (&'static str, String) {
    match what {
        What::Preamble(_) => ("preamble", String::new()),
        What::Authentication(block) => (
            "authentication",
            block.as_ref().map(|block| format!("key id {}", block.key_id)).unwrap_or_default(),
        ),
        What::Damage => ("damage", String::new()),
        What::Gap { resumed, missing } => (
            "gap",
            match (resumed, missing) {
                (true, Some(missing)) => format!("{missing} frames are missing"),
                (true, None) => "the stream goes on after it".to_owned(),
                (false, _) => "to the end".to_owned(),
            },
        ),
        What::End => ("end-of-file", String::new()),
        What::Frame(frame) => kind_of_frame(frame),
        _ => ("other", String::new()),
    }
}

fn kind_of_frame(frame: &Frame<'_>) -> (&'static str, String) {
    let detail = match &frame.content {
        Content::InitialComplete(generation) => format!("generation {generation}"),
        Content::Blob { kind, bytes } => format!("kind {kind}, {} bytes", bytes.len()),
        Content::Restart(count) => format!("number {count}"),
        Content::End { data_bytes, data_frames, blobs } => {
            format!("{data_bytes} bytes in {data_frames} frames, {blobs} blobs")
        }
        _ => String::new(),
    };
    match frame.header.kind {
        FrameType::Identity => ("identity", detail),
        FrameType::Data => ("data", detail),
        FrameType::InitialComplete => ("initial-complete", detail),
        FrameType::Blob => ("blob", detail),
        FrameType::Restart => ("restart", detail),
        FrameType::End => ("end", detail),
        FrameType::Other(number) => ("unknown", format!("type {number}")),
        _ => ("unknown", detail),
    }
}
