// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig diff`: what differs between two streams, or two devices of checkpoints.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Command};
use serde_json::{Value, json};
use vfiomig::compat::Field;
use vfiomig::inspect::{Content, Decoding, FieldFlags, Frame, Value as FieldValue, What};

use crate::contents::Part;
use crate::context::Context;
use crate::exit::{Result, Status, Trouble};
use crate::input::Input;
use crate::key::Key;
use crate::progress::Progress;
use crate::text::{hex, line};
use crate::walk::{Found, Walk};
use crate::{contents, found, input, json as json_option, key};

/// The subcommand.
pub fn command() -> Command {
    let side = |name: &'static str, value| {
        Arg::new(name)
            .value_name(value)
            .required(true)
            .help("A stream, or a checkpoint, with #NAME if it has several devices")
    };
    Command::new("diff")
        .about("Says what differs between two streams, or two devices of checkpoints")
        .after_help("Exit status: 0 the same, 1 different; others as for verify.")
        .arg(side("a", "A"))
        .arg(side("b", "B"))
        .arg(key::arg())
        .arg(json_option::arg())
}

/// One of the two.
struct Side {
    input: Input,
    part: Part,
    found: Found,
    /// By the decoder for its driver, without padding.
    fields: BTreeMap<String, String>,
}

/// Runs it.
pub fn run(args: &ArgMatches, context: &mut Context<'_>) -> Result<Status> {
    let key = key::read(args)?;
    let given = |name: &str| args.get_one::<String>(name).map_or("", String::as_str);
    let mut a = read(given("a"), key.as_ref(), context.progress)?;
    let mut b = read(given("b"), key.as_ref(), context.progress)?;
    for side in [&a, &b] {
        // What is not whole has no contents that could be compared.
        if side.found.status() != Status::Yes {
            let word = found::verdict_word(side.found.verdict());
            let text = format!("{}: {word}: see vfiomig verify", side.input.name);
            return Err(Trouble::new(side.found.status(), text));
        }
    }
    let mut differences = about_identity(&a.found, &b.found);
    differences.extend(about_sizes(&a.found, &b.found));
    differences.extend(about_fields(&a.fields, &b.fields));
    let data = compare_data(&mut a, &mut b, key.as_ref(), context.progress)?;
    if let Some(at) = data {
        differences.push(Difference {
            what: "data",
            name: "first-difference".into(),
            a: Some(at.to_string()),
            b: Some(at.to_string()),
        });
    }
    let same = differences.is_empty();
    if args.get_flag("json") {
        let list: Vec<Value> = differences.iter().map(Difference::to_json).collect();
        context.json(&json!({
            "schema": 1,
            "same": same,
            "a": { "given": given("a"), "stream": found::to_json(a.part.name(), &a.found) },
            "b": { "given": given("b"), "stream": found::to_json(b.part.name(), &b.found) },
            "first_difference": data,
            "differences": list,
        }))?;
    } else {
        let mut text = format!(
            "{} and {}: {}\n",
            context.style.bold(given("a")),
            context.style.bold(given("b")),
            context.style.verdict(same, if same { "the same" } else { "different" })
        );
        for difference in &differences {
            difference.to_text(&mut text);
        }
        context.say(&text)?;
    }
    Ok(if same { Status::Yes } else { Status::No })
}

/// Something that differs.
struct Difference {
    /// `identity`, `size`, `field` or `data`.
    what: &'static str,
    name: String,
    a: Option<String>,
    b: Option<String>,
}

impl Difference {
    fn to_json(&self) -> Value {
        json!({ "what": self.what, "name": self.name, "a": self.a, "b": self.b })
    }

    fn to_text(&self, out: &mut String) {
        let shown = |value: &Option<String>| value.clone().unwrap_or("not there".into());
        let text = match self.what {
            "data" => format!("differs first at byte {} of the device's data", shown(&self.a)),
            _ => format!("{}: {} → {}", self.name, shown(&self.a), shown(&self.b)),
        };
        line(out, self.what, &text);
    }
}

fn read(given: &str, key: Option<&Key>, shown: bool) -> Result<Side> {
    let (file, device) = match given.rsplit_once('#') {
        Some((file, device)) if !std::path::Path::new(given).exists() => (file, Some(device)),
        _ => (given, None),
    };
    let mut input = input::open(file)?;
    if input.len.is_none() {
        let text = format!("{}: this reads a file twice: put it into one first", input.name);
        return Err(Trouble::new(Status::Input, text));
    }
    let contents = contents::of(&mut input, key)?;
    let mut parts = contents.parts(&input, device)?;
    let (Some(mut part), true) = (parts.pop(), parts.is_empty()) else {
        let text = format!("{given}: several devices are in it: say which after a #");
        return Err(Trouble::new(Status::Usage, text));
    };
    let mut fields = BTreeMap::new();
    let mut decoding = Decoding::new();
    let mut walk = Walk::new(&mut input, &mut part, key, Progress::new(shown, "reading", None))?;
    while walk.next(&mut |entry| {
        if matches!(&entry.what, What::Frame(Frame { content: Content::Restart(_), .. })) {
            fields.clear();
        }
        // A decoder that fails has nothing to compare; the data is compared anyway.
        let _ = decoding.entry(entry, &mut |field| {
            let value = match field.value {
                FieldValue::Unsigned(number) => format!("{number:#x}"),
                FieldValue::Bytes(bytes) => hex(bytes),
                FieldValue::Text(text) => text.to_owned(),
            };
            if !field.flags.contains(FieldFlags::PADDING) {
                fields.insert(field.name.to_owned(), value);
            }
            Ok(())
        });
        Ok(())
    })? {}
    let found = walk.finish()?;
    Ok(Side { input, part, found, fields })
}

fn about_identity(a: &Found, b: &Found) -> Vec<Difference> {
    let value = |found: &Found, field: Field| {
        let identity = found.report.identity.as_ref()?;
        field.value(identity).ok().flatten()
    };
    Field::ALL
        .iter()
        .map(|&field| Difference {
            what: "identity",
            name: field.label().into(),
            a: value(a, field),
            b: value(b, field),
        })
        .filter(|it| it.a != it.b)
        .collect()
}

fn about_sizes(a: &Found, b: &Found) -> Vec<Difference> {
    let sizes = |found: &Found| {
        let report = &found.report;
        [("data-bytes", report.data_bytes), ("blobs", report.blobs)]
    };
    let pairs = sizes(a).into_iter().zip(sizes(b));
    pairs
        .filter(|((_, a), (_, b))| a != b)
        .map(|((name, a), (_, b))| Difference {
            what: "size",
            name: name.into(),
            a: Some(a.to_string()),
            b: Some(b.to_string()),
        })
        .collect()
}

fn about_fields(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<Difference> {
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names
        .into_iter()
        .filter(|name| a.get(*name) != b.get(*name))
        .map(|name| Difference {
            what: "field",
            name: name.clone(),
            a: a.get(name).cloned(),
            b: b.get(name).cloned(),
        })
        .collect()
}

/// Device data since the last restart, a frame at a time.
struct Data<'a> {
    walk: Walk<'a>,
    restarts: u64,
    bytes: Vec<u8>,
    at: usize,
}

impl<'a> Data<'a> {
    fn new(side: &'a mut Side, key: Option<&Key>, shown: bool) -> Result<Data<'a>> {
        side.part.rewind(&mut side.input)?;
        let progress = Progress::new(shown, "comparing", side.part.len);
        let restarts = side.found.report.restarts;
        let walk = Walk::new(&mut side.input, &mut side.part, key, progress)?;
        Ok(Data { walk, restarts, bytes: Vec::new(), at: 0 })
    }

    /// What is there of the next bytes; none at the end.
    fn rest(&mut self) -> Result<&[u8]> {
        while self.at >= self.bytes.len() {
            (self.at, self.bytes) = (0, Vec::new());
            let (restarts, bytes) = (&mut self.restarts, &mut self.bytes);
            let more = self.walk.next(&mut |entry| {
                match &entry.what {
                    What::Frame(Frame { content: Content::Restart(_), .. }) => {
                        *restarts = restarts.saturating_sub(1);
                    }
                    What::Frame(Frame { content: Content::Data, payload, .. })
                        if *restarts == 0 =>
                    {
                        bytes.extend_from_slice(payload);
                    }
                    _ => {}
                }
                Ok(())
            })?;
            if !more {
                break;
            }
        }
        Ok(self.bytes.get(self.at..).unwrap_or_default())
    }
}

/// Where the data of two devices differs first.
fn compare_data(a: &mut Side, b: &mut Side, key: Option<&Key>, shown: bool) -> Result<Option<u64>> {
    let mut a = Data::new(a, key, shown)?;
    let mut b = Data::new(b, key, false)?;
    let mut at = 0;
    loop {
        let (one, two) = (a.rest()?, b.rest()?);
        let len = one.len().min(two.len());
        if len == 0 {
            return Ok((one.len() != two.len()).then_some(at));
        }
        if let Some(differs) = one.iter().zip(two).position(|(x, y)| x != y) {
            return Ok(Some(at + differs as u64));
        }
        at += len as u64;
        a.at += len;
        b.at += len;
    }
}
