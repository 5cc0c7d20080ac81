// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig diff`: what differs between two streams, or two devices of checkpoints or QEMU's files.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Command};
use serde_json::{Value, json};
use vfiomig::compat::Field;
use vfiomig::identity::Identity;
use vfiomig::inspect::{Content, FieldFlags, Frame, What};

use crate::contents::{Contents, Part};
use crate::context::Context;
use crate::decoder;
use crate::exit::{Result, Status, Trouble};
use crate::fields::value_text;
use crate::input::Input;
use crate::key::Key;
use crate::progress::Progress;
use crate::qemu::{Naming, Pieces, PiecesReader, judgement};
use crate::qemu_file::Vfio;
use crate::text::line;
use crate::walk::{Found, Walk};
use crate::{contents, found, input, json as json_option, key, qemu};

/// The subcommand.
pub fn command() -> Command {
    let side = |name: &'static str, value| {
        Arg::new(name)
            .value_name(value)
            .required(true)
            .help("A stream, a checkpoint or QEMU's file, with #NAME if it has several devices")
    };
    Command::new("diff")
        .about("Says what differs between two streams, or two devices of checkpoints")
        .after_help("Exit status: 0 the same, 1 different; others as for verify.")
        .arg(side("a", "A"))
        .arg(side("b", "B"))
        .arg(decoder::arg())
        .arg(key::arg())
        .arg(json_option::arg())
}

/// One of the two.
struct Side {
    input: Input,
    source: Source,
    /// By the decoder for its driver, without padding.
    fields: BTreeMap<String, String>,
}

/// What it is taken from.
enum Source {
    Native(Part, Box<Found>),
    Qemu(Box<Vfio>, Pieces),
}

impl Side {
    /// What is not whole has no contents that could be compared.
    fn refuse_unless_whole(&self) -> Result<()> {
        match &self.source {
            Source::Native(_, found) if found.status() != Status::Yes => {
                let (why, todo) = (found::why(found), self.input.if_growing("see vfiomig verify"));
                let text = format!("{}: {why}: {todo}", self.input.name);
                Err(Trouble::new(found.status(), text))
            }
            Source::Qemu(vfio, _) if !vfio.is_whole() => {
                let (name, todo) = (&self.input.name, self.input.if_growing("see vfiomig verify"));
                let text = format!("{name}#{}: {}: {todo}", vfio.name, judgement(vfio));
                Err(Trouble::new(Status::No, text))
            }
            _ => Ok(()),
        }
    }

    fn identity(&self) -> Option<&Identity> {
        match &self.source {
            Source::Native(_, found) => found.report.identity.as_deref(),
            Source::Qemu(..) => None,
        }
    }

    /// Bytes of device data, and what the VMM added: blobs, or QEMU's configuration.
    fn sizes(&self) -> [(&'static str, u64); 2] {
        match &self.source {
            Source::Native(_, found) => {
                [("data-bytes", found.report.data_bytes), ("blobs", found.report.blobs)]
            }
            Source::Qemu(vfio, _) => [
                ("data-bytes", vfio.data_bytes),
                ("configuration-bytes", vfio.config_bytes.unwrap_or(0)),
            ],
        }
    }

    fn to_json(&self, given: &str) -> Value {
        match &self.source {
            Source::Native(part, found) => {
                json!({ "given": given, "stream": found::to_json(part.name(), found) })
            }
            Source::Qemu(vfio, _) => {
                json!({ "given": given, "stream": null, "qemu": qemu::vfio_json(vfio) })
            }
        }
    }
}

/// Runs it.
pub fn run(args: &ArgMatches, context: &mut Context<'_>) -> Result<Status> {
    let key = key::read(args)?;
    let decoder = decoder::read(args)?;
    let given = |name: &str| args.get_one::<String>(name).map_or("", String::as_str);
    let read = |name: &str, other: Option<&Side>| {
        let driver = other.and_then(Side::identity).map(|identity| identity.driver.as_str());
        let naming = Naming { decoder: decoder.as_ref(), driver };
        read(given(name), key.as_ref(), naming, context.progress)
    };
    let mut a = read("a", None)?;
    let mut b = read("b", Some(&a))?;
    if a.identity().is_none() && b.identity().is_some() {
        // The other one knows whose data it is.
        a = read("a", Some(&b))?;
    }
    a.refuse_unless_whole()?;
    b.refuse_unless_whole()?;
    let mut differences = about_identity(&a, &b);
    differences.extend(about_sizes(&a, &b));
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
            "a": a.to_json(given("a")),
            "b": b.to_json(given("b")),
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
        if [&a, &b].iter().any(|side| matches!(side.source, Source::Qemu(..))) {
            let why = "what the devices are: QEMU's file does not say";
            line(&mut text, "unchecked", why);
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

fn read(given: &str, key: Option<&Key>, naming: Naming<'_>, shown: bool) -> Result<Side> {
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
    if let Contents::Qemu = &contents {
        return read_qemu(input, device, naming, shown);
    }
    let mut parts = contents.parts(&input, device)?;
    let (Some(mut part), true) = (parts.pop(), parts.is_empty()) else {
        let text = format!("{given}: several devices are in it: say which after a #");
        return Err(Trouble::new(Status::Usage, text));
    };
    let mut fields = BTreeMap::new();
    let mut decoding = decoder::decoding(naming.decoder)?;
    let progress = Progress::new(shown, "reading", part.len);
    let mut walk = Walk::new(&mut input, &mut part, key, progress)?;
    while walk.next(&mut |entry| {
        if matches!(&entry.what, What::Frame(Frame { content: Content::Restart(_), .. })) {
            fields.clear();
        }
        // A decoder that fails has nothing to compare; the data is compared anyway.
        let _ = decoding.entry(entry, &mut |field| {
            if !field.flags.contains(FieldFlags::PADDING) {
                fields.insert(field.name.to_owned(), value_text(field));
            }
            Ok(())
        });
        Ok(())
    })? {}
    let found = Box::new(walk.finish()?);
    Ok(Side { input, source: Source::Native(part, found), fields })
}

fn read_qemu(
    mut input: Input,
    device: Option<&str>,
    naming: Naming<'_>,
    shown: bool,
) -> Result<Side> {
    let (vfio, seen) = qemu::one_device(&mut input, device, naming, shown)?;
    let fields = seen.fields(&vfio.name).iter().filter(|field| !field.padding);
    let fields = fields.map(|field| (field.name.clone(), field.value.clone())).collect();
    Ok(Side { input, source: Source::Qemu(Box::new(vfio), seen.pieces), fields })
}

fn about_identity(a: &Side, b: &Side) -> Vec<Difference> {
    let (Some(a), Some(b)) = (a.identity(), b.identity()) else { return Vec::new() };
    let value = |identity: &Identity, field: Field| field.value(identity).ok().flatten();
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

/// What only one of the two kinds of files can have is not compared.
fn about_sizes(a: &Side, b: &Side) -> Vec<Difference> {
    let pairs = a.sizes().into_iter().zip(b.sizes());
    pairs
        .filter(|((x, a), (y, b))| x == y && a != b)
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

/// Device data since the last restart, a piece at a time.
struct Data<'a> {
    from: From<'a>,
    bytes: Vec<u8>,
    at: usize,
}

enum From<'a> {
    /// A stream, and the restarts that are still to come.
    Native(Box<Walk<'a>>, u64),
    Qemu(PiecesReader<'a>),
}

impl<'a> Data<'a> {
    fn new(side: &'a mut Side, key: Option<&Key>, shown: bool) -> Result<Data<'a>> {
        let from = match &mut side.source {
            Source::Native(part, found) => {
                part.rewind(&mut side.input)?;
                let progress = Progress::new(shown, "comparing", part.len);
                let walk = Walk::new(&mut side.input, part, key, progress)?;
                From::Native(Box::new(walk), found.report.restarts)
            }
            Source::Qemu(_, pieces) => From::Qemu(PiecesReader::new(&mut side.input, pieces)),
        };
        Ok(Data { from, bytes: Vec::new(), at: 0 })
    }

    /// What is there of the next bytes; none at the end.
    fn rest(&mut self) -> Result<&[u8]> {
        while self.at >= self.bytes.len() {
            self.at = 0;
            let more = match &mut self.from {
                From::Native(walk, restarts) => {
                    self.bytes.clear();
                    next_data(walk, restarts, &mut self.bytes)?
                }
                From::Qemu(reader) => {
                    self.bytes.resize(1 << 20, 0);
                    let len = reader.read(&mut self.bytes)?;
                    self.bytes.truncate(len);
                    len > 0
                }
            };
            if !more {
                break;
            }
        }
        Ok(self.bytes.get(self.at..).unwrap_or_default())
    }
}

/// The next piece of a stream, of which `to` gets the device data.
fn next_data(walk: &mut Walk<'_>, restarts: &mut u64, to: &mut Vec<u8>) -> Result<bool> {
    walk.next(&mut |entry| {
        match &entry.what {
            What::Frame(Frame { content: Content::Restart(_), .. }) => {
                *restarts = restarts.saturating_sub(1);
            }
            What::Frame(Frame { content: Content::Data, payload, .. }) if *restarts == 0 => {
                to.extend_from_slice(payload);
            }
            _ => {}
        }
        Ok(())
    })
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
