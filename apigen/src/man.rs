// SPDX-License-Identifier: MIT OR Apache-2.0
//! `docs/man/`: a page per function, and the overview, in the macros of man(7).

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::api::{Api, Arg, Function};
use crate::cdecl::{Prototype, Struct};
use crate::header;
use crate::text::{fill, hang, paragraphs};

/// Columns of roff source, and of C in an example.
const WIDTH: usize = 78;

/// Before a name: it is not hyphenated.
const NAME: &str = "\\%";

fn head(api: &Api, name: &str, section: u8) -> String {
    format!(
        ".\\\" SPDX-License-Identifier: MIT OR Apache-2.0\n\
         .\\\" Made by apigen from src/capi; do not edit.\n\
         .TH {name} {section} {} \"libvfiomig {}\" \"libvfiomig manual\"\n",
        api.date, api.version
    )
}

/// A function's page.
pub fn page(api: &Api, function: &Function) -> String {
    let mut out = head(api, &function.name, 3);
    let _ = write!(out, ".SH NAME\n{} \\- {}\n", function.name, prose(api, None, &function.brief));
    out.push_str(".SH LIBRARY\nVFIO live migration\n.RI ( libvfiomig \", \" \\-lvfiomig )\n");
    out.push_str(".SH SYNOPSIS\n.nf\n.B #include <vfiomig.h>\n.P\n");
    let _ = write!(out, "{}.fi\n.SH DESCRIPTION\n", synopsis(&function.proto));
    out.push_str(&doc(api, Some(function), &function.proto.doc));
    for arg in &function.args {
        let name = match arg {
            Arg::Struct(name) | Arg::Options(name) => name,
            Arg::Ops => "vfiomig_device_ops",
            _ => continue,
        };
        if let Some(found) = api.decls.structure(name) {
            out.push_str(&structure(api, found));
        }
    }
    if let Some(object) = function.handle.as_deref().and_then(|name| api.object(name)) {
        if object.state_names() != function.states {
            let states: Vec<String> =
                function.states.iter().map(|state| format!("\\fI{state}\\fP")).collect();
            let noun = if states.len() == 1 { "state" } else { "states" };
            let _ = write!(
                out,
                ".SH STATES\nAllowed in the {noun}\n{}\nof a {}, see\n.BR vfiomig (7).\n\
                 In other states the function returns\n.BR \\-{} ,\nand nothing happens.\n",
                and(&states),
                object.name,
                function.wrong_state
            );
        }
    }
    if function.proto.ret != "void" {
        let _ = write!(out, ".SH RETURN VALUE\n{}", returns(api, function));
    }
    if !function.errors.is_empty() {
        out.push_str(".SH ERRORS\n");
        for (errno, text) in &function.errors {
            let text = prose(api, Some(function), text);
            let _ = write!(out, ".TP\n.B \\-{errno}\n{text}\n");
        }
    }
    let _ = write!(out, ".SH THREADS\n{}", threads(api, function));
    let _ = write!(out, ".SH HISTORY\nSince libvfiomig {}.\n", function.since);
    let _ = write!(out, ".SH SEE ALSO\n{}", see_also(api, function));
    out
}

fn and(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn returns(api: &Api, function: &Function) -> String {
    let success = function.returns.as_deref();
    match (success, function.errors.is_empty()) {
        (Some(text), true) => prose(api, Some(function), text) + "\n",
        (text, _) => {
            let text = text.map_or("0".into(), |text| text.trim_end_matches('.').to_owned());
            let text = format!(
                "{text} on success. On failure a negative error code of those below; outputs are \
                 not written then, and vfiomig_error_message() has a text."
            );
            prose(api, Some(function), &text) + "\n"
        }
    }
}

fn threads(api: &Api, function: &Function) -> String {
    let object = function.handle.as_deref().and_then(|name| api.object(name));
    let text = if function.concurrent {
        "May be called from any thread at any time while the handle lives,\n\
         also while another call is using it.\n"
    } else if object.is_some_and(|object| object.waits) {
        "May be called from any thread; calls with the same handle wait for each other.\n\
         In a callback of the library it does not wait: while a call is inside the handle,\n\
         the callback's own for example, it returns\n\
         .BR \\-EBUSY .\n"
    } else if function.no_wait {
        "The handle is used by one thread at a time:\n\
         while a call is inside it, others get\n\
         .BR \\-EBUSY .\n\
         Does not wait for calls on sessions of the device,\n\
         and may be called from their callbacks.\n"
    } else if function.handle.is_some() {
        "The handle is used by one thread at a time:\n\
         while a call is inside it, others get\n\
         .BR \\-EBUSY .\n\
         Calls with different handles of the same device wait for each other.\n\
         From a callback of the device the function returns\n\
         .BR \\-EBUSY .\n"
    } else if matches!(function.args.first(), Some(Arg::Free(_))) {
        "Waits for a call on another thread.\n\
         Called inside a callback of the same handle, it frees nothing.\n"
    } else if function.name.starts_with("vfiomig_log_") {
        "May be called from any thread, but not from a log callback.\n\
         Works on the whole process.\n"
    } else {
        "May be called from any thread at any time.\n"
    };
    text.to_owned()
}

fn see_also(api: &Api, function: &Function) -> String {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let text = function.proto.doc.join(" ");
    for other in &api.functions {
        let relative = match (function.family(api), other.family(api)) {
            (Some(mine), Some(theirs)) if mine.name == theirs.name => {
                let rest = other.name.rsplit('_').next().unwrap_or_default();
                // Where the object comes from and where it goes.
                ["begin", "fd", "new", "ops", "free"].contains(&rest)
                    && !other.name.ends_with("poll_fd")
            }
            _ => false,
        };
        if relative || text.contains(&format!("{}()", other.name)) {
            names.insert(&other.name);
        }
    }
    if !function.errors.is_empty() {
        names.insert("vfiomig_error_message");
        if function.errors.iter().any(|(errno, _)| errno == "EIO") {
            let own =
                function.family(api).map(|object| format!("vfiomig_{}_get_failure", object.name));
            let own = api.functions.iter().find(|other| own.as_ref() == Some(&other.name));
            names.insert(own.map_or("vfiomig_device_get_failure", |own| &own.name));
        }
    }
    names.remove(function.name.as_str());
    let lines: String = names.iter().map(|name| format!(".BR \\%{name} (3),\n")).collect();
    lines + ".BR vfiomig (7)\n"
}

/// The prototype with its parameters in italics.
fn synopsis(proto: &Prototype) -> String {
    const OPEN: &str = "\u{1}";
    const CLOSE: &str = "\u{2}";
    let marked: Vec<String> = proto
        .params
        .iter()
        .map(|param| {
            let decl = param.decl();
            let (ctype, name) = decl.split_at(decl.len() - param.name.len());
            format!("{ctype}{OPEN}{name}{CLOSE}")
        })
        .collect();
    let list = if marked.is_empty() { "void".to_owned() } else { marked.join(", ") };
    let text = header::declaration_in(&format!("{}(", proto.head()), &list, "", WIDTH);
    let line = |line: &str| {
        let line = code_line(line).replace(OPEN, "\\fI").replace(CLOSE, "\\fB");
        format!("\\fB{line}\\fP\n")
    };
    text.lines().map(line).collect()
}

/// A structure: its declaration, then what its members mean.
fn structure(api: &Api, found: &Struct) -> String {
    let mut out = format!(".SS struct {}\n", found.name);
    out.push_str(&doc(api, None, &found.doc));
    let mut decl = format!("struct {} {{\n", found.name);
    for member in &found.members {
        let head = format!("    {}", member.decl);
        match head.split_once(")(").filter(|_| head.len() >= WIDTH - 4) {
            Some((pointer, params)) => {
                let words =
                    params.replace(", ", ",\u{0}").replace(' ', "\u{a0}").replace('\0', " ");
                let words = words + ";";
                let lines = hang(&format!("{pointer})("), words.split(' '), WIDTH - 4);
                decl += &(lines.join("\n").replace('\u{a0}', " ") + "\n");
            }
            None => decl += &format!("{head};\n"),
        }
    }
    decl += "};\n";
    out.push_str(".P\n");
    out.push_str(&example(&decl));
    for member in &found.members {
        let _ = write!(out, ".TP\n.I {}\n", member.name());
        out.push_str(&prose(api, None, &member.doc.join(" ")));
        out.push('\n');
    }
    out
}

/// C as it is.
fn example(text: &str) -> String {
    let lines: String = text.lines().map(|line| code_line(line) + "\n").collect();
    format!(".in +4n\n.EX\n{lines}.EE\n.in\n")
}

fn code_line(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    let line = line.replace('^', "\\(ha").replace('~', "\\(ti").replace('`', "\\(ga");
    if line.starts_with('.') { format!("\\&{line}") } else { line }
}

/// A doc comment's paragraphs.
fn doc(api: &Api, function: Option<&Function>, lines: &[String]) -> String {
    let paragraphs = paragraphs(lines);
    let text: Vec<String> =
        paragraphs.iter().map(|text| prose(api, function, text) + "\n").collect();
    text.join(".P\n")
}

/// Prose as roff, a sentence per line, with what the reader types in bold and arguments in italics.
fn prose(api: &Api, function: Option<&Function>, text: &str) -> String {
    let mut lines = Vec::new();
    let mut sentence = Vec::new();
    let words: Vec<&str> = text.split_whitespace().collect();
    for (i, word) in words.iter().enumerate() {
        sentence.push(markup(api, function, word));
        let ends = word.ends_with('.') && !word.ends_with("..") || word.ends_with(".)");
        let next = words.get(i + 1).and_then(|next| next.chars().next());
        if next.is_none() || ends && next.is_some_and(|c| !c.is_lowercase()) {
            lines.extend(fill(sentence.iter().map(String::as_str), WIDTH));
            sentence.clear();
        }
    }
    let safe = |line: &String| match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line.clone(),
    };
    lines.iter().map(safe).collect::<Vec<_>>().join("\n")
}

/// One word of prose.
fn markup(api: &Api, function: Option<&Function>, word: &str) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let start = word.find(is_name).unwrap_or(word.len());
    let (before, rest) = word.split_at(start);
    let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    let plain = |text: &str| text.replace('\\', "\\e");
    // A word made up of several, such as READ/WRITE or a->b, has its parts marked.
    let after_marked = |after: &str| match after.find(is_name) {
        Some(at) => {
            let (punctuation, more) = after.split_at(at);
            plain(punctuation) + &markup(api, function, more)
        }
        None => plain(after),
    };
    if let Some(rest) = after.strip_prefix("()").filter(|_| name.starts_with("vfiomig_")) {
        let own = function.is_some_and(|f| f.name == name);
        let section = if own { "()" } else { "(3)" };
        return format!("{}{NAME}\\fB{name}\\fP{section}{}", plain(before), after_marked(rest));
    }
    let is_errno = api.codes.iter().any(|code| code.errno == name);
    if is_errno || name == "ENOMSG" || name == "errno" && before.ends_with('-') {
        let before = match before.strip_suffix('-') {
            Some(before) => plain(before) + "\\-",
            None => plain(before),
        };
        let font = if name == "errno" { "\\fI" } else { "\\fB" };
        return format!("{before}{font}{name}\\fP{}", after_marked(after));
    }
    if name.starts_with("VFIOMIG_") {
        // VFIOMIG_STATE_*: the star belongs to the name.
        let star = if after.starts_with('*') { "*" } else { "" };
        let after = after.strip_prefix('*').unwrap_or(after);
        return format!("{}{NAME}\\fB{name}{star}\\fP{}", plain(before), after_marked(after));
    }
    if name.starts_with("vfiomig_") {
        return format!("{}{NAME}\\fB{name}\\fP{}", plain(before), after_marked(after));
    }
    let argument = function.is_some_and(|function| {
        let named = function.proto.params.iter().zip(&function.args);
        let mut names = named.filter(|(_, arg)| {
            matches!(arg, Arg::Buffer | Arg::Len | Arg::Fd | Arg::Ptr | Arg::Opaque | Arg::Ops)
        });
        // "state" and the like are words as well.
        names.any(|(param, _)| param.name == name)
            && ["buf", "cap", "len", "fd", "opaque", "ops", "space"].contains(&name)
    });
    if argument {
        return format!("{}\\fI{name}\\fP{}", plain(before), after_marked(after));
    }
    format!("{}{}{}", plain(before), plain(name), after_marked(after))
}

/// vfiomig(7).
pub fn overview(api: &Api) -> String {
    let mut out = head(api, "vfiomig", 7);
    for line in include_str!("vfiomig.7.in").lines().filter(|l| !l.starts_with(".\\\"")) {
        let made = match line {
            "@SOURCE@" => example(sketch("SOURCE")),
            "@TARGET@" => example(sketch("TARGET")),
            "@OBJECTS@" => objects(api),
            "@STATES@" => states(api),
            "@ERRORS@" => errors(api),
            "@CONCURRENT@." => concurrent(api),
            "@STRUCTURES@" => structures(api),
            "@CONSTANTS@" => constants(api),
            "@FUNCTIONS@" => functions(api),
            "@SEE@" => see_all(api),
            line => format!("{line}\n"),
        };
        out.push_str(&made);
    }
    out
}

/// A part of the sketch: from its mark to the next.
fn sketch(mark: &str) -> &'static str {
    let (_, text) =
        include_str!("sketch.c").split_once(&format!("/* {mark} */\n")).unwrap_or_default();
    text.split("\n/* TARGET */").next().unwrap_or_default()
}

fn errors(api: &Api) -> String {
    let row = |code: &crate::api::ErrorCode| {
        format!(".TP\n.B \\-{}\n{}\n", code.errno, prose(api, None, &code.text))
    };
    api.codes.iter().map(row).collect()
}

fn concurrent(api: &Api) -> String {
    let names: Vec<&str> =
        api.functions.iter().filter(|f| f.concurrent).map(|f| f.name.as_str()).collect();
    let last = names.len().saturating_sub(1);
    let line = |(i, name): (usize, &&str)| match i {
        i if i == last => format!(".BR \\%{name} (3).\n"),
        i if i + 1 == last => format!(".BR \\%{name} (3)\nand\n"),
        _ => format!(".BR \\%{name} (3),\n"),
    };
    names.iter().enumerate().map(line).collect()
}

fn objects(api: &Api) -> String {
    let row = |object: &crate::api::Object| {
        format!(".TP\n.B struct vfiomig_{}\n{}\n", object.name, prose(api, None, &object.about))
    };
    api.objects.iter().map(row).collect()
}

fn states(api: &Api) -> String {
    let mut out = String::new();
    for object in api.objects.iter().filter(|object| object.states.len() > 1) {
        let _ = writeln!(out, ".SS {}", object.title);
        for state in &object.states {
            let _ = write!(out, ".TP\n.I {}\n{}\n", state.name, prose(api, None, &state.text));
        }
    }
    out
}

fn structures(api: &Api) -> String {
    let types = api.sections.iter().flat_map(|section| &section.types);
    types.filter_map(|name| api.decls.structure(name)).map(|s| structure(api, s)).collect()
}

fn constants(api: &Api) -> String {
    let mut out = String::new();
    for group in api.sections.iter().flat_map(|section| &section.groups) {
        // What follows the first sentence is not part of a heading.
        let title = group.title.split(". ").next().unwrap_or_default();
        let _ = writeln!(out, ".SS {}", title.trim_end_matches('.'));
        for constant in group.members(api) {
            let text = prose(api, None, &constant.doc.join(" "));
            let _ = write!(out, ".TP\n.BR {} \" (\" {} )\n{text}\n", constant.name, constant.value);
        }
    }
    out
}

fn functions(api: &Api) -> String {
    let mut out = String::new();
    for (i, section) in api.sections.iter().enumerate() {
        let mut functions = api.functions.iter().filter(|f| f.section == i).peekable();
        if functions.peek().is_some() {
            let _ = writeln!(out, ".SS {}", section.title);
        }
        for function in functions {
            let brief = prose(api, None, &function.brief);
            let _ = write!(out, ".TP\n.BR \\%{} (3)\n{brief}\n", function.name);
        }
    }
    out
}

fn see_all(api: &Api) -> String {
    let mut names: Vec<&str> = api.functions.iter().map(|f| f.name.as_str()).collect();
    names.sort_unstable();
    let last = names.len().saturating_sub(1);
    let comma = |i: usize| if i == last { "" } else { "," };
    names.iter().enumerate().map(|(i, name)| format!(".BR \\%{name} (3){}\n", comma(i))).collect()
}
