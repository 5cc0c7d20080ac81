// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stock QEMU wrote, as text and JSON: where its VFIO devices are, and what is skipped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Seek, SeekFrom};

use serde_json::{Value, json};
use vfiomig::identity::Identity;
use vfiomig::inspect::{Decoding, FieldFlags, Value as FieldValue};

use crate::context::Context;
use crate::exit::{Result, Status, Trouble};
use crate::input::Input;
use crate::qemu_file::{Event, Section, SectionKind, Sized, Vfio, walk};
use crate::text::{Plain, bytes, hex, line};

/// No more sections than that are listed: whoever wrote the file decides how many there are.
const MOST: usize = 10_000;

/// What the state of an mtty begins with, on a host that is little-endian.
const MTTY: [u8; 8] = 0x7e9d_0989_8c3e_2c4e_u64.to_le_bytes();

/// The file of an input, from any place.
struct At<'a> {
    input: &'a mut Input,
    len: u64,
    at: u64,
    trouble: Option<Trouble>,
}

impl Read for At<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.input.read_at(buf, self.at) {
            Ok(len) => {
                self.at = self.at.saturating_add(len as u64);
                Ok(len)
            }
            Err(trouble) => {
                self.trouble = Some(trouble);
                Err(io::Error::other("it cannot be read"))
            }
        }
    }
}

impl Seek for At<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::other("a place before the file"))?;
        Ok(self.at)
    }
}

/// What was seen in a file.
#[derive(Default)]
struct Seen {
    sections: Vec<Section>,
    left_out: u64,
    devices: Vec<Vfio>,
    damage: Option<(u64, &'static str)>,
    complete: bool,
    /// By a device's name: what names the fields of its data, and what it has named.
    decoded: BTreeMap<String, (Decoding, Vec<String>)>,
}

impl Seen {
    fn take(&mut self, event: &Event<'_>) {
        match event {
            Event::Section(section) => self.section(section),
            Event::Data(name, bytes) => self.data(name, bytes),
            Event::Damage(offset, text) => self.damage = Some((*offset, text)),
            Event::Device(vfio) => self.devices.push((*vfio).clone()),
            Event::End(complete) => self.complete = *complete,
        }
    }

    /// QEMU's file does not say which driver the data is of; mtty's says so itself.
    fn data(&mut self, name: &str, data: &[u8]) {
        if !self.decoded.contains_key(name) {
            let driver = if data.starts_with(&MTTY) { "mtty" } else { "" };
            let mut decoding = Decoding::new();
            decoding.begin(&Identity { driver: driver.into(), ..Identity::default() });
            self.decoded.insert(name.to_owned(), (decoding, Vec::new()));
        }
        let Some((decoding, fields)) = self.decoded.get_mut(name) else { return };
        let decoded = decoding.data(data, &mut |field| {
            fields.push(match field.value {
                FieldValue::Unsigned(number) if field.flags.contains(FieldFlags::HEX) => {
                    format!("{} = {number:#x}", field.name)
                }
                FieldValue::Unsigned(number) => format!("{} = {number}", field.name),
                FieldValue::Bytes(bytes) => format!("{} = {}", field.name, hex(bytes)),
                FieldValue::Text(text) => format!("{} = {}", field.name, Plain(text)),
            });
            Ok(())
        });
        if let Err(error) = decoded {
            fields.push(format!("not decoded further: {}", Plain(error.message())));
        }
    }

    fn fields(&self, name: &str) -> &[String] {
        self.decoded.get(name).map_or(&[], |(_, fields)| fields.as_slice())
    }

    /// Sections of one kind and name that follow each other are one line.
    fn section(&mut self, section: &Section) {
        if let Some(last) = self.sections.last_mut() {
            let same =
                (last.kind, &last.name, last.sized) == (section.kind, &section.name, section.sized);
            if same && section.kind == SectionKind::Part && last.instance == section.instance {
                last.length =
                    section.offset.saturating_add(section.length).saturating_sub(last.offset);
                return;
            }
        }
        match self.sections.len() {
            MOST => self.left_out += 1,
            _ => self.sections.push(section.clone()),
        }
    }

    fn status(&self) -> Status {
        let right = |vfio: &Vfio| vfio.ended && vfio.problem.is_none();
        match self.complete && self.damage.is_none() && self.devices.iter().all(right) {
            true => Status::Yes,
            false => Status::No,
        }
    }
}

/// Shows the file.
pub fn run(
    input: &mut Input,
    given: &str,
    as_json: bool,
    context: &mut Context<'_>,
) -> Result<Status> {
    let Some(len) = input.len else {
        let text = format!(
            "{}: QEMU's file is read from its end, too, and this is a pipe: put it into a file first",
            input.name
        );
        return Err(Trouble::new(Status::Input, text));
    };
    let mut file = At { input, len, at: 0, trouble: None };
    let mut seen = Seen::default();
    if let Err(error) = walk(&mut file, &mut |event| seen.take(&event)) {
        let trouble = file.trouble.take();
        let other = || Trouble::new(Status::Input, format!("{}: {error}", input.name));
        return Err(trouble.unwrap_or_else(other));
    }
    if as_json {
        context.json(&json!({
            "schema": 1,
            "file": given,
            "format": "qemu",
            "checkpoint": Value::Null,
            "streams": [],
            "qemu": to_json(&seen),
        }))?;
    } else {
        let title = context.style.bold(&input.name);
        context.say(&to_text(&title, &seen))?;
    }
    Ok(seen.status())
}

fn kind_word(kind: SectionKind) -> &'static str {
    match kind {
        SectionKind::Configuration => "configuration",
        SectionKind::Start => "start",
        SectionKind::Part => "part",
        SectionKind::End => "end",
        SectionKind::Full => "full",
        SectionKind::Command => "command",
        SectionKind::Description => "description",
    }
}

fn sized_word(sized: Sized) -> &'static str {
    match sized {
        Sized::Parsed => "parsed",
        Sized::Described => "described",
        Sized::Searched => "searched",
    }
}

fn to_text(title: &str, seen: &Seen) -> String {
    let mut out = format!("{title}: a migration file of QEMU\n");
    for section in &seen.sections {
        let mut text = String::from(kind_word(section.kind));
        if section.kind != SectionKind::Description {
            let _ = write!(text, " {}", Plain(&section.name));
        }
        if section.instance > 0 {
            let _ = write!(text, " {}", section.instance);
        }
        let _ = write!(text, ", {}", bytes(section.length));
        if section.sized == Sized::Searched {
            text.push_str(" (its end was looked for)");
        }
        line(&mut out, &format!("{:>10}", section.offset), &text);
    }
    if seen.left_out > 0 {
        line(&mut out, "", &format!("and {} more sections", seen.left_out));
    }
    for vfio in &seen.devices {
        let mut text = format!(
            "{}: {} sections, {} of device data",
            Plain(&vfio.name),
            vfio.sections,
            bytes(vfio.data_bytes)
        );
        if let Some(len) = vfio.config_bytes {
            let _ = write!(text, ", a configuration of {}", bytes(len));
        }
        text.push_str(&match &vfio.problem {
            Some((offset, error)) => format!(": at byte {offset}, {}", Plain(error.message())),
            None if vfio.ended => String::from(": whole, as far as this format can tell"),
            None => String::from(": its end is missing"),
        });
        line(&mut out, "vfio", &text);
        for field in seen.fields(&vfio.name) {
            let _ = writeln!(out, "  {field}");
        }
    }
    if seen.devices.is_empty() {
        line(&mut out, "vfio", "there is no VFIO device in it");
    }
    if let Some((offset, text)) = seen.damage {
        line(&mut out, "damage", &format!("at byte {offset}: {text}"));
    }
    out
}

fn to_json(seen: &Seen) -> Value {
    let section = |section: &Section| {
        json!({
            "kind": kind_word(section.kind),
            "offset": section.offset,
            "length": section.length,
            "sized": sized_word(section.sized),
            "name": section.name,
            "instance": section.instance,
            "version": section.version,
        })
    };
    let device = |vfio: &Vfio| {
        json!({
            "name": vfio.name,
            "sections": vfio.sections,
            "data_bytes": vfio.data_bytes,
            "config_bytes": vfio.config_bytes,
            "initial_marks": vfio.initial_marks,
            "ended": vfio.ended,
            "fields": seen.fields(&vfio.name),
            "problem": vfio.problem.as_ref().map(|(offset, error)| json!({
                "offset": offset,
                "code": error.code().name(),
                "text": error.message(),
            })),
        })
    };
    json!({
        "complete": seen.complete,
        "damage": seen.damage.map(|(offset, text)| json!({ "offset": offset, "text": text })),
        "sections": seen.sections.iter().map(section).collect::<Vec<_>>(),
        "sections_left_out": seen.left_out,
        "devices": seen.devices.iter().map(device).collect::<Vec<_>>(),
    })
}
