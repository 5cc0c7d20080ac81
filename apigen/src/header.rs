// SPDX-License-Identifier: MIT OR Apache-2.0
//! `include/vfiomig.h`: the declarations in the order in which a person reads them, object by object.
//!
//! The prose comes from the Rust source; what the table says follows it.

use std::fmt::Write;

use crate::api::{Api, Function};
use crate::cdecl::{Callback, Constant, Struct};
use crate::text::{fill, hang, paragraphs};

const WIDTH: usize = 100;

/// Members whose declarations are no longer than this have their comments next to them.
const BESIDE: usize = 40;

pub fn make(api: &Api) -> String {
    let decls = &api.decls;
    let mut out = format!("{}\n\n", decls.head);
    out.push_str("#ifndef VFIOMIG_H\n#define VFIOMIG_H\n\n");
    out.push_str("#include <stddef.h>\n#include <stdint.h>\n\n");
    out.push_str("#ifdef __cplusplus\nextern \"C\" {\n#endif\n");

    let _ = write!(out, "\n{}\n", decls.macros);

    for (i, section) in api.sections.iter().enumerate() {
        heading(&mut out, &section.title);
        if let Some(opaque) = section.object.as_ref().and_then(|name| decls.opaque(name)) {
            let _ = write!(out, "\n{}struct {};\n", comment(&opaque.doc, 0), opaque.name);
        }
        for group in &section.groups {
            let _ = write!(out, "\n{}", comment(std::slice::from_ref(&group.title), 0));
            out.push_str(&constants(&group.members(api)));
        }
        if !section.macros.is_empty() {
            let _ = write!(out, "\n{}\n", section.macros);
        }
        for name in &section.types {
            if let Some(found) = decls.structure(name) {
                let _ = write!(out, "\n{}", structure(found));
            }
            if let Some(callback) = decls.callbacks.iter().find(|c| c.name == *name) {
                let _ = write!(out, "\n{}", typedef(callback));
            }
        }
        for function in api.functions.iter().filter(|function| function.section == i) {
            let _ = write!(out, "\n{}{}", prose(api, function), prototype(function));
        }
    }
    out.push_str("\n#ifdef __cplusplus\n}\n#endif\n\n#endif /* VFIOMIG_H */\n");
    out
}

fn heading(out: &mut String, title: &str) {
    let _ = write!(out, "\n/* {title}\n * {} */\n", "-".repeat(title.len()));
}

fn comment(lines: &[String], indent: usize) -> String {
    let pad = " ".repeat(indent);
    match lines {
        [] => String::new(),
        [line] => format!("{pad}/* {} */\n", line.trim()),
        lines => {
            let mut out = format!("{pad}/*\n");
            for (i, paragraph) in paragraphs(lines).iter().enumerate() {
                if i > 0 {
                    let _ = writeln!(out, "{pad} *");
                }
                for line in fill(paragraph.split(' '), WIDTH - indent - 3) {
                    let _ = writeln!(out, "{pad} * {line}");
                }
            }
            out + &pad + " */\n"
        }
    }
}

/// Constants with their comments next to them.
fn constants(members: &[&Constant]) -> String {
    let longest = |f: fn(&Constant) -> usize| members.iter().map(|c| f(c)).max().unwrap_or(0);
    let name = longest(|c| c.name.len());
    // A value of many digits or letters does not push the others' comments away.
    let value = longest(|c| if c.value.len() < 10 { c.value.len() } else { 0 });
    let define = |c: &Constant| format!("#define {:name$} {:value$}", c.name, c.value);
    members.iter().map(|c| beside(&define(c), &c.doc)).collect()
}

/// A declaration and its comment next to it, on as many lines as needed.
fn beside(head: &str, doc: &[String]) -> String {
    let text = doc.join(" ");
    let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    // The comment's end stays with the last word.
    if let Some(last) = words.last_mut() {
        last.push_str(" */");
    }
    let head = format!("{head}  /* ");
    let indent = " ".repeat(head.len() - 3);
    let lines = fill(words.iter().map(String::as_str), WIDTH - head.len());
    let line = |(i, line): (usize, &String)| match i {
        0 => format!("{head}{line}\n"),
        _ => format!("{indent} * {line}\n"),
    };
    lines.iter().enumerate().map(line).collect()
}

fn structure(found: &Struct) -> String {
    let mut out = format!("{}struct {} {{\n", comment(&found.doc, 0), found.name);
    let longest = found.members.iter().map(|m| m.decl.len() + 1).max().unwrap_or(0);
    for (i, member) in found.members.iter().enumerate() {
        let decl = format!("{};", member.decl);
        if longest > BESIDE {
            let blank = if i > 0 { "\n" } else { "" };
            let decl = match member.decl.rsplit_once('(') {
                Some((head, params)) => {
                    declaration(&format!("    {head}("), params.trim_end_matches(')'), "")
                }
                None => format!("    {decl}\n"),
            };
            let _ = write!(out, "{blank}{}{decl}", comment(&member.doc, 4));
        } else {
            out.push_str(&beside(&format!("    {decl:longest$}"), &member.doc));
        }
    }
    out.push_str("};\n");
    if let Some(init) = found.init() {
        let _ = writeln!(out, "#define {init} VFIOMIG_INIT_(struct {})", found.name);
    }
    out
}

fn typedef(callback: &Callback) -> String {
    let (head, params) = callback.decl.rsplit_once('(').unwrap_or((&callback.decl, ")"));
    comment(&callback.doc, 0) + &declaration(&format!("{head}("), params.trim_end_matches(')'), "")
}

fn prototype(function: &Function) -> String {
    let proto = &function.proto;
    let tail = if function.must_check { " VFIOMIG_MUST_CHECK" } else { "" };
    declaration(&format!("{}(", proto.head()), &proto.list().join(", "), tail)
}

/// A declaration with as many parameters on each line as fit.
pub fn declaration(head: &str, params: &str, tail: &str) -> String {
    declaration_in(head, params, tail, WIDTH)
}

pub fn declaration_in(head: &str, params: &str, tail: &str, width: usize) -> String {
    let all = format!("{params}){tail};");
    // Parameters are not torn apart: their blanks are not places to break.
    let words: Vec<String> = all.split(", ").map(|p| p.replace(' ', "\u{a0}")).collect();
    let last = words.len().saturating_sub(1);
    let comma = |(i, word): (usize, &String)| {
        if i == last { word.clone() } else { format!("{word},") }
    };
    let words: Vec<String> = words.iter().enumerate().map(comma).collect();
    let lines = hang(head, words.iter().map(String::as_str), width);
    lines.join("\n").replace('\u{a0}', " ") + "\n"
}

/// The function's comment: its prose, and what the table says.
fn prose(api: &Api, function: &Function) -> String {
    let prose = comment(&function.proto.doc, 0);
    // Of one line or of many, the comment is opened and goes on.
    let prose = match prose.strip_suffix(" */\n") {
        Some(line) if prose.lines().count() == 1 => line.replacen("/*", "/*\n *", 1) + "\n",
        Some(lines) => lines.to_owned(),
        None => "/*\n".to_owned(),
    };
    let facts: String = facts(api, function).iter().map(|fact| format!(" * {fact}\n")).collect();
    format!("{prose} *\n{facts} */\n")
}

fn facts(api: &Api, function: &Function) -> Vec<String> {
    let mut facts = Vec::new();
    let object = function.handle.as_deref().and_then(|name| api.object(name));
    if let Some(object) = object.filter(|object| object.states.len() > 1) {
        let states = match object.state_names() == function.states {
            true => "all".to_owned(),
            false => function.states.join(", "),
        };
        facts.push(("States: ", format!("{states}.")));
    }
    if let Some(returns) = &function.returns {
        facts.push(("Returns: ", returns.clone()));
    }
    if !function.errors.is_empty() {
        let codes: Vec<String> =
            function.errors.iter().map(|(errno, _)| format!("-{errno}")).collect();
        facts.push(("Errors: ", format!("{}.", codes.join(", "))));
    }
    if function.concurrent {
        facts.push(("Concurrent: ", "with any other call on the handle, from any thread.".into()));
    }
    if object.is_some_and(|object| object.waits) && !function.concurrent {
        facts.push(("Threads: ", "any; waits for other calls, but not in callbacks.".into()));
    }
    facts.push(("Since: ", format!("{}.", function.since)));
    // Three columns go to the comment's " * ".
    facts.iter().flat_map(|(head, text)| hang(head, text.split(' '), WIDTH - 3)).collect()
}
