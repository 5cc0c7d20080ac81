// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables (`src/capi/api.toml` and those of the folders there), combined with the source's
//! declarations.
//!
//! Everything that apigen makes rests on this: if the table and the source disagree, or the table
//! contradicts itself ([`crate::check`]), nothing is made.

use std::collections::BTreeMap;
use std::path::Path;

use crate::api::{Api, Arg, ErrorCode, Function, Group, Object, Section, Since};
use crate::cdecl::{Declarations, Prototype};
use crate::check;
use crate::rows::{RawFunction, RawGroup, RawTable};
use crate::source::{Folder, Source};

/// A folder and the table in it.
type Part<'a> = (&'a Folder, RawTable);

/// Reads and checks; returns what is wrong as a list.
pub fn read(root: &Path) -> Result<Api, Vec<String>> {
    let one = |problem: String| vec![problem];
    let decls = Declarations::read(root).map_err(one)?;
    let source = Source::read(root).map_err(one)?;
    combine(&source, decls, env!("CARGO_PKG_VERSION"))
}

/// Combines the tables with the declarations.
pub fn combine(
    source: &Source,
    mut decls: Declarations,
    version: &str,
) -> Result<Api, Vec<String>> {
    let parts = parts(&source.folders)?;
    let mut problems = Vec::new();
    let objects = objects(&parts, &mut problems);
    let sections = sections(&parts, &decls, &mut problems);
    let (date, texts) = for_all(&parts, &mut problems);
    let codes = codes(&source.codes, &texts, &mut problems);
    check::declarations(&decls, &objects, version, &mut problems);
    check::exports(&decls, &source.exported, &mut problems);

    let mut prototypes = std::mem::take(&mut decls.functions);
    let mut functions: Vec<Function> = Vec::new();
    for (section, (folder, table)) in parts.into_iter().enumerate() {
        for row in table.function {
            let name = row.name.clone();
            if functions.iter().any(|f| f.name == name) {
                problems.push(format!("{name}: is in api.toml twice"));
                continue;
            }
            let Some(at) = prototypes.iter().position(|p| p.name == name) else {
                problems.push(format!("{name}: in api.toml, but not in the source"));
                continue;
            };
            let proto = prototypes.swap_remove(at);
            let mut wrong = Vec::new();
            if !folder.exported.contains(&name) {
                wrong.push(format!(
                    "is in {}api.toml, but not in that folder's source",
                    folder.path()
                ));
            }
            if let Some(made) = function(row, section, proto, &objects, &codes, &mut wrong) {
                check::function(&made, &objects, &decls, version, &mut wrong);
                functions.push(made);
            }
            problems.extend(wrong.into_iter().map(|problem| format!("{name}: {problem}")));
        }
    }
    for proto in prototypes {
        problems.push(format!("{}: has no row in api.toml", proto.name));
    }
    let version = version.to_owned();
    match problems.is_empty() {
        true => Ok(Api { sections, objects, functions, codes, decls, version, date }),
        false => Err(problems),
    }
}

/// Each folder's table, in the header's order.
fn parts(folders: &[Folder]) -> Result<Vec<Part<'_>>, Vec<String>> {
    let (mut parts, mut failed) = (Vec::new(), Vec::new());
    for folder in folders {
        match toml::from_str::<RawTable>(&folder.table) {
            Ok(table) => parts.push((folder, table)),
            Err(error) => failed.push(format!("{}api.toml: {error}", folder.path())),
        }
    }
    parts.sort_by_key(|(_, table)| table.section.order);
    if failed.is_empty() { Ok(parts) } else { Err(failed) }
}

/// What belongs in the table above the folders: the date, and the texts of the codes.
fn for_all(parts: &[Part<'_>], problems: &mut Vec<String>) -> (String, BTreeMap<String, String>) {
    let (mut date, mut texts) = (None, BTreeMap::new());
    for (folder, table) in parts {
        if !folder.name.is_empty() && (table.date.is_some() || !table.errors.is_empty()) {
            problems.push(format!(
                "{}api.toml: date and errors belong in src/capi/api.toml",
                folder.path()
            ));
        }
        date = date.or(table.date.clone());
        texts.extend(table.errors.clone());
    }
    if date.is_none() {
        problems.push("api.toml: there is no date".into());
    }
    (date.unwrap_or_default(), texts)
}

/// Objects in the order of their numbers.
fn objects(parts: &[Part<'_>], problems: &mut Vec<String>) -> Vec<Object> {
    let mut objects = Vec::new();
    for (folder, table) in parts {
        let Some(object) = &table.object else { continue };
        objects.push(Object {
            name: folder.name.clone(),
            number: object.number,
            title: table.section.title.clone(),
            about: object.about.clone(),
            states: object.state.clone(),
            waits: object.waits,
        });
    }
    objects.sort_by_key(|object| object.number);
    for (i, object) in objects.iter().enumerate() {
        if !(1..=15).contains(&object.number) {
            problems.push(format!("{}: its number is not from 1 to 15", object.name));
        }
        if objects.get(i + 1).is_some_and(|next| next.number == object.number) {
            problems.push(format!("{}: its number is another object's too", object.name));
        }
        if object.states.is_empty() || object.states.len() > 32 {
            problems.push(format!("{}: has no states, or more than 32", object.name));
        }
        if object.states.len() > 1 && object.states.iter().any(|state| state.text.is_empty()) {
            problems.push(format!("{}: a state has no text", object.name));
        }
    }
    objects
}

/// The header's sections, with what belongs to each.
fn sections(parts: &[Part<'_>], decls: &Declarations, problems: &mut Vec<String>) -> Vec<Section> {
    let mut sections: Vec<Section> = parts
        .iter()
        .map(|(folder, table)| Section {
            title: table.section.title.clone(),
            object: table.object.as_ref().map(|_| folder.name.clone()),
            groups: groups(table),
            macros: table.section.macros.trim().to_owned(),
            types: Vec::new(),
        })
        .collect();
    for (i, constant) in decls.constants.iter().enumerate() {
        let name = &constant.name;
        if !name.starts_with("VFIOMIG_") {
            problems.push(format!("{name}: a constant that is not part of the ABI"));
        }
        if constant.doc.is_empty() {
            problems.push(format!("{name}: has no comment"));
        }
        match group_of(parts, name) {
            Some((section, group)) => sections[section].groups[group].members.push(i),
            None => problems.push(format!("{name}: no group of constants takes it")),
        }
    }
    for name in &decls.order {
        let mut found = (0..parts.len()).filter(|i| parts[*i].0.declared.contains(name));
        match (found.next(), found.next()) {
            (Some(section), None) => sections[section].types.push(name.clone()),
            (Some(_), Some(_)) => problems.push(format!("{name}: declared in two folders")),
            (None, _) => problems.push(format!("{name}: in no folder with an api.toml")),
        }
    }
    for group in sections.iter().flat_map(|section| &section.groups) {
        if group.members.is_empty() {
            problems.push(format!("{:?}: a group without constants", group.title));
        }
    }
    sections
}

fn groups(table: &RawTable) -> Vec<Group> {
    let made = |group: &RawGroup| Group { title: group.title.clone(), members: Vec::new() };
    table.constants.iter().map(made).collect()
}

/// The group of a constant: the one that names it, or the one with the longest prefix of it.
fn group_of(parts: &[Part<'_>], name: &str) -> Option<(usize, usize)> {
    let all = parts.iter().enumerate().flat_map(|(section, (_, table))| {
        table.constants.iter().enumerate().map(move |(i, group)| (section, i, group))
    });
    let fits = |group: &RawGroup| {
        if group.names.iter().any(|known| known == name) {
            return usize::MAX;
        }
        group.prefix.as_ref().filter(|prefix| name.starts_with(*prefix)).map_or(0, String::len)
    };
    let best = all.max_by_key(|(_, _, group)| fits(group))?;
    (fits(best.2) > 0).then_some((best.0, best.1))
}

/// The closed set, from `codes!` in `src/error.rs`.
fn codes(
    source: &str,
    texts: &BTreeMap<String, String>,
    problems: &mut Vec<String>,
) -> Vec<ErrorCode> {
    let rows = source.split_once("\ncodes! {").map_or("", |(_, rest)| rest);
    let rows = rows.split_once("\n}").map_or("", |(rows, _)| rows);
    let mut codes = Vec::new();
    for row in rows.lines() {
        let Some((names, _)) = row.split_once(',') else { continue };
        let Some((variant, errno)) = names.split_once('=') else { continue };
        let (variant, errno) = (variant.trim().to_owned(), errno.trim().to_owned());
        match texts.get(&errno) {
            Some(text) => codes.push(ErrorCode { errno, variant, text: text.clone() }),
            None => problems.push(format!("{errno}: in src/error.rs, but not in api.toml")),
        }
    }
    for errno in texts.keys() {
        if codes.iter().all(|code| code.errno != *errno) {
            problems.push(format!("{errno}: in api.toml, but not a code in src/error.rs"));
        }
    }
    codes
}

/// Combines a row with its prototype; None if it makes no sense.
fn function(
    row: RawFunction,
    section: usize,
    proto: Prototype,
    objects: &[Object],
    codes: &[ErrorCode],
    wrong: &mut Vec<String>,
) -> Option<Function> {
    let since = Since::parse(&row.since);
    if since.is_none() {
        wrong.push(format!("since is {:?}, which is not a version", row.since));
    }
    let states = states(&row, objects, wrong);
    let args = args(&row.args, objects, wrong);
    let errors = errors(&row.errors, codes, wrong);
    let wrong_state = row.wrong_state.unwrap_or_else(|| "EINVAL".into());
    if codes.iter().all(|code| code.errno != wrong_state) {
        wrong.push(format!("wrong_state is {wrong_state}, which is not in the closed set"));
    }
    Some(Function {
        name: row.name,
        section,
        since: since?,
        handle: row.handle,
        states,
        wrong_state,
        concurrent: row.concurrent,
        no_wait: row.no_wait,
        must_check: row.must_check,
        args,
        errors,
        returns: row.returns,
        brief: row.brief.unwrap_or_else(|| brief(&proto)),
        proto,
    })
}

/// The states in which it is allowed: those it names, or all.
fn states(row: &RawFunction, objects: &[Object], wrong: &mut Vec<String>) -> Vec<String> {
    let object = row.handle.as_deref().map(|name| {
        let object = objects.iter().find(|object| object.name == name);
        if object.is_none() {
            wrong.push(format!("handle is {name}, which is not an object"));
        }
        object
    });
    let known = object.flatten().map(Object::state_names).unwrap_or_default();
    if row.states.is_some() && row.handle.is_none() {
        wrong.push("has states, but no handle".into());
    }
    let states = row.states.clone().unwrap_or_else(|| known.clone());
    for state in states.iter().filter(|state| !known.contains(state)) {
        wrong.push(format!("there is no state {state}"));
    }
    states
}

fn args(texts: &[String], objects: &[Object], wrong: &mut Vec<String>) -> Vec<Arg> {
    let mut args = Vec::new();
    for text in texts {
        match arg(text, objects) {
            Some(arg) => args.push(arg),
            None => wrong.push(format!("{text:?} is not a kind of argument")),
        }
    }
    args
}

/// Each errno with what it means here, in the order of the codes.
fn errors(texts: &[String], codes: &[ErrorCode], wrong: &mut Vec<String>) -> Vec<(String, String)> {
    let mut errors: Vec<(String, String)> = Vec::new();
    for text in texts {
        let (errnos, own) = match text.split_once(": ") {
            Some((errnos, own)) => (errnos, Some(own)),
            None => (text.as_str(), None),
        };
        for errno in errnos.split(", ") {
            match codes.iter().find(|code| code.errno == errno) {
                None => wrong.push(format!("{errno} is not in the closed set")),
                Some(_) if errors.iter().any(|(listed, _)| listed == errno) => {
                    wrong.push(format!("{errno} is listed twice"));
                }
                Some(code) => errors.push((errno.to_owned(), own.unwrap_or(&code.text).to_owned())),
            }
        }
    }
    errors.sort_by_key(|(errno, _)| codes.iter().position(|code| code.errno == *errno));
    errors
}

/// The first sentence of the prose, up to its first pause.
fn brief(proto: &Prototype) -> String {
    let text = proto.doc.join(" ");
    let end = [". ", ": ", "; "].iter().filter_map(|pause| text.find(pause)).min();
    let first = text.get(..end.unwrap_or(text.len())).unwrap_or_default().trim_end_matches('.');
    let mut letters = first.chars();
    match letters.next() {
        Some(head) => head.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

fn arg(text: &str, objects: &[Object]) -> Option<Arg> {
    let object = |name: &str| objects.iter().any(|o| o.name == name).then(|| name.to_owned());
    Some(match text.split_once(':') {
        None => match text {
            "out" => Arg::Out,
            "ops" => Arg::Ops,
            "ptr" => Arg::Ptr,
            "buffer" => Arg::Buffer,
            "data" => Arg::Data,
            "words" => Arg::Words,
            "no-words" => Arg::NoWords,
            "unmap" => Arg::Unmap,
            "text" => Arg::Text,
            "reason" => Arg::Reason,
            "len" => Arg::Len,
            "fd" => Arg::Fd,
            "opaque" => Arg::Opaque,
            "log" => Arg::Log,
            "release" => Arg::Release,
            "ending" => Arg::Ending,
            name => Arg::Handle(object(name)?),
        },
        Some(("handle", name)) => Arg::Free(object(name)?),
        Some(("struct", name)) => Arg::Struct(name.to_owned()),
        Some(("in", name)) => Arg::In(name.to_owned()),
        Some(("options", name)) => Arg::Options(name.to_owned()),
        Some(("number", value)) => Arg::Number(value.parse().ok()?),
        Some(_) => return None,
    })
}
