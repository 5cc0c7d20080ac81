// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was seen in a file, as text and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Seen;
use crate::qemu_file::{Section, SectionKind, Sized, Vfio};
use crate::text::{Plain, Style, bytes, line};

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

/// What can be told of a device.
pub fn judgement(vfio: &Vfio) -> String {
    match &vfio.problem {
        Some((offset, error)) => format!("at byte {offset}, {}", Plain(error.message())),
        None if vfio.ended => String::from("whole, as far as this format can tell"),
        None => String::from("its end is missing"),
    }
}

/// All that there is to see.
pub fn to_text(title: &str, seen: &Seen) -> String {
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
    devices_text(&mut out, seen, true);
    out
}

/// The devices, and whether the file is whole.
pub fn verdict_text(title: &str, seen: &Seen, style: Style) -> String {
    let good = seen.status() == crate::exit::Status::Yes;
    let word = style.verdict(good, if good { "whole" } else { "not whole" });
    let mut out = format!("{title}: a migration file of QEMU: {word}\n");
    devices_text(&mut out, seen, false);
    out
}

fn devices_text(out: &mut String, seen: &Seen, fields: bool) {
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
        let _ = write!(text, ": {}", judgement(vfio));
        line(out, "vfio", &text);
        for field in seen.fields(&vfio.name).iter().filter(|_| fields) {
            let _ = writeln!(out, "  {} = {}", Plain(&field.name), Plain(&field.value));
        }
        if let Some(why) = seen.problem(&vfio.name).filter(|_| fields) {
            line(out, "decoder", why);
        }
    }
    if seen.devices.is_empty() {
        line(out, "vfio", "there is no VFIO device in it");
    }
    if let Some((offset, text)) = seen.damage {
        line(out, "damage", &format!("at byte {offset}: {text}"));
    }
}

/// The same for programs.
pub fn to_json(seen: &Seen) -> Value {
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
        let mut fields: Vec<String> = seen
            .fields(&vfio.name)
            .iter()
            .map(|field| format!("{} = {}", field.name, field.value))
            .collect();
        fields.extend(seen.problem(&vfio.name).map(|why| format!("not decoded further: {why}")));
        let mut json = vfio_json(vfio);
        if let Some(members) = json.as_object_mut() {
            members.insert("fields".into(), json!(fields));
        }
        json
    };
    json!({
        "complete": seen.complete,
        "damage": seen.damage.map(|(offset, text)| json!({ "offset": offset, "text": text })),
        "sections": seen.sections.iter().map(section).collect::<Vec<_>>(),
        "sections_left_out": seen.left_out,
        "devices": seen.devices.iter().map(device).collect::<Vec<_>>(),
    })
}

/// A device in numbers.
pub fn vfio_json(vfio: &Vfio) -> Value {
    json!({
        "name": vfio.name,
        "sections": vfio.sections,
        "data_bytes": vfio.data_bytes,
        "config_bytes": vfio.config_bytes,
        "initial_marks": vfio.initial_marks,
        "ended": vfio.ended,
        "problem": vfio.problem.as_ref().map(|(offset, error)| json!({
            "offset": offset,
            "code": error.code().name(),
            "text": error.message(),
        })),
    })
}
