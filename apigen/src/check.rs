// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks the rules that the declarations and the tables must follow.

use crate::api::{Arg, Function, Object, Since};
use crate::cdecl::{Declarations, Param};

/// Checks structures, callbacks, handles and the version.
pub fn declarations(
    decls: &Declarations,
    objects: &[Object],
    version: &str,
    problems: &mut Vec<String>,
) {
    structs(decls, problems);
    callbacks(decls, problems);
    for handle in &decls.opaques {
        if objects.iter().all(|object| handle.name != format!("vfiomig_{}", object.name)) {
            problems.push(format!("{}: a handle that no folder has an object for", handle.name));
        }
    }
    for object in objects.iter().filter(|object| decls.opaque(&object.name).is_none()) {
        problems.push(format!("{}: an object that the source has no handle for", object.name));
    }
    package(decls, version, problems);
}

/// Checks that the header has what the source exports, and nothing else.
pub fn exports(decls: &Declarations, exported: &[String], problems: &mut Vec<String>) {
    let in_header: Vec<&String> = decls.functions.iter().map(|p| &p.name).collect();
    for name in exported.iter().filter(|name| !in_header.contains(name)) {
        problems.push(format!("{name}: exported by the source and not in the header"));
    }
    for name in in_header.iter().filter(|name| !exported.contains(name)) {
        problems.push(format!("{name}: not found in the source as an exported function"));
    }
}

fn structs(decls: &Declarations, problems: &mut Vec<String>) {
    for found in &decls.structs {
        let name = &found.name;
        if found.doc.is_empty() || found.members.iter().any(|member| member.doc.is_empty()) {
            problems.push(format!("struct {name}: a comment is missing"));
        }
        let short = name.trim_start_matches("vfiomig_").to_uppercase();
        if found.init().is_some_and(|init| init != format!("VFIOMIG_{short}_INIT")) {
            problems.push(format!("struct {name}: struct_size names a macro of another structure"));
        }
    }
}

/// Checks that all callbacks follow the rule stated at `vfiomig_release_fn`.
fn callbacks(decls: &Declarations, problems: &mut Vec<String>) {
    let is_callback = |ctype: &str| {
        ctype.starts_with("vfiomig_") && ctype.ends_with("_fn") && ctype != "vfiomig_release_fn"
    };
    let mut wrong = |of: &str, what: &str| problems.push(format!("{of}: {what}"));
    let pointers = decls.structs.iter().flat_map(|found| &found.members);
    let pointers = pointers.map(|member| &member.decl).filter(|decl| decl.contains("(*"));
    for decl in decls.callbacks.iter().map(|callback| &callback.decl).chain(pointers) {
        if !decl.contains(")(void *opaque") {
            wrong(decl, "a callback's first parameter is void *opaque");
        }
    }
    for found in &decls.structs {
        let of = format!("struct {}", found.name);
        let declared = |i: usize| found.members.get(i).map(|member| member.decl.as_str());
        for (i, member) in found.members.iter().enumerate() {
            let name = member.name();
            let opaque = format!("void *{name}_opaque");
            let release = format!("vfiomig_release_fn {name}_release");
            let ctype = member.decl.split(' ').next().unwrap_or_default();
            let table = member.decl.starts_with("const struct") && member.decl.contains("_ops *");
            if (table || is_callback(ctype)) && declared(i + 1) != Some(&opaque) {
                wrong(&of, &format!("{opaque} does not follow {name}"));
            }
            if is_callback(ctype) && declared(i + 2) != Some(&release) {
                wrong(&of, &format!("{release} does not follow {opaque}"));
            }
        }
        let table = found.members.iter().any(|member| member.decl.contains("(*"));
        let released = found.members.iter().any(|m| m.decl == "vfiomig_release_fn release");
        if table && !released {
            wrong(&of, "a table has a member vfiomig_release_fn release");
        }
    }
    for function in &decls.functions {
        for (i, param) in function.params.iter().enumerate() {
            let table = param.ctype.starts_with("const struct") && param.ctype.ends_with("_ops *");
            let next = function.params.get(i + 1);
            let opaque = next.is_some_and(|next| {
                next.ctype == "void *"
                    && (next.name == "opaque" || next.name == format!("{}_opaque", param.name))
            });
            if (table || is_callback(&param.ctype)) && !opaque {
                wrong(&function.name, &format!("no opaque follows {}", param.name));
            }
        }
    }
}

/// Checks that the version numbers in the header are the package's.
fn package(decls: &Declarations, version: &str, problems: &mut Vec<String>) {
    let number = |part: &str| {
        let name = format!("VFIOMIG_VERSION_{part}");
        let found = decls.constants.iter().find(|constant| constant.name == name);
        found.map_or_else(|| "?".to_owned(), |constant| constant.value.clone())
    };
    let numbers = ["MAJOR", "MINOR", "PATCH"].map(number).join(".");
    if numbers != version {
        problems.push(format!("VFIOMIG_VERSION is {numbers}, and the package's version {version}"));
    }
}

const INTEGERS: &[&str] =
    &["int", "int32_t", "int64_t", "uint32_t", "uint64_t", "size_t", "uint16_t", "uint8_t"];

/// Whether a C parameter can be of this kind.
fn fits(arg: &Arg, param: &Param) -> bool {
    let ctype = param.ctype.as_str();
    match arg {
        Arg::Handle(name) | Arg::Free(name) => ctype == format!("struct vfiomig_{name} *"),
        Arg::Out => ctype.starts_with("struct vfiomig_") && ctype.ends_with(" **"),
        Arg::Struct(name) => ctype == format!("struct {name} *"),
        Arg::In(name) | Arg::Options(name) => ctype == format!("const struct {name} *"),
        Arg::Ops => ctype == "const struct vfiomig_device_ops *",
        Arg::Ptr => {
            ctype == "void **" || ctype.strip_suffix(" *").is_some_and(|to| INTEGERS.contains(&to))
        }
        Arg::Buffer | Arg::Opaque => ctype == "void *",
        Arg::Data => ctype == "const void *",
        Arg::Words | Arg::NoWords => ctype == "uint64_t *",
        Arg::Unmap => ctype == "vfiomig_unmap_fn",
        Arg::Text => ctype == "const char *",
        Arg::Reason => ctype == "vfiomig_compat_reason_fn",
        Arg::Len => ctype == "size_t",
        Arg::Fd => ctype == "int" && param.name.ends_with("fd"),
        Arg::Number(_) => INTEGERS.contains(&ctype),
        Arg::Log => ctype == "vfiomig_log_fn",
        Arg::Release => ctype == "vfiomig_release_fn",
        Arg::Ending => ctype == "uint32_t",
    }
}

/// The codes that a function with such an argument must list.
fn brings(arg: &Arg) -> &'static [&'static str] {
    match arg {
        Arg::Handle(_) => &["EBADF", "EFAULT", "ENOTRECOVERABLE"],
        Arg::Out | Arg::Ptr | Arg::Buffer | Arg::Data | Arg::Words | Arg::Text => &["EFAULT"],
        Arg::Struct(_) => &["EFAULT", "EINVAL"],
        Arg::Options(_) => &["EINVAL", "E2BIG"],
        Arg::In(_) => &["EFAULT", "EINVAL", "E2BIG"],
        Arg::Ops => &["EFAULT", "EINVAL", "E2BIG"],
        Arg::Ending => &["EINVAL"],
        _ => &[],
    }
}

/// Checks a row against itself, its prototype and the declarations.
pub fn function(
    function: &Function,
    objects: &[Object],
    decls: &Declarations,
    version: &str,
    wrong: &mut Vec<String>,
) {
    let newer = Since::parse(version.rsplit_once('.').map_or(version, |(most, _)| most))
        .is_none_or(|now| function.since > now);
    if newer {
        wrong.push(format!("since is {}, and the version {version}", function.since));
    }
    arguments(function, decls, wrong);
    guard(function, objects, wrong);
    results(function, wrong);
    prose(function, wrong);
}

fn listed(function: &Function, errno: &str) -> bool {
    function.errors.iter().any(|(listed, _)| listed == errno)
}

/// Checks that the kinds of its arguments fit its parameters, and that it lists the codes that they
/// can cause.
fn arguments(function: &Function, decls: &Declarations, wrong: &mut Vec<String>) {
    let params = &function.proto.params;
    if function.args.len() != params.len() {
        let (args, params) = (function.args.len(), params.len());
        wrong.push(format!("has {params} parameters in C and {args} in api.toml"));
    }
    for (arg, param) in function.args.iter().zip(params) {
        if !fits(arg, param) {
            wrong.push(format!("parameter {} cannot be {arg:?}", param.decl()));
        }
        if let Arg::Struct(name) | Arg::In(name) | Arg::Options(name) = arg {
            if decls.structure(name).is_none_or(|s| s.init().is_none()) {
                wrong
                    .push(format!("{name} is not a structure with struct_size and an _INIT macro"));
            }
        }
        for errno in brings(arg) {
            if !listed(function, errno) {
                wrong.push(format!("does not list {errno}, which its {} can cause", param.name));
            }
        }
    }
    for (i, arg) in function.args.iter().enumerate() {
        let behind = function.args.get(i + 1);
        if matches!(arg, Arg::Buffer | Arg::Data | Arg::Words | Arg::NoWords)
            && behind != Some(&Arg::Len)
        {
            wrong.push(format!("argument {i} is memory without a length after it"));
        }
    }
}

/// Checks what its entry guard is told: the handle, the states, other threads.
fn guard(function: &Function, objects: &[Object], wrong: &mut Vec<String>) {
    let first = match function.args.first() {
        Some(Arg::Handle(name)) => Some(name),
        _ => None,
    };
    if first != function.handle.as_ref() {
        wrong.push("handle and the first argument disagree".into());
    }
    // One that is concurrent may give it for reasons of its own, such as another handle.
    if function.handle.is_some() && !function.concurrent && !listed(function, "EBUSY") {
        wrong.push("a function is concurrent or gives EBUSY".into());
    }
    if function.concurrent && function.handle.is_none() {
        wrong.push("concurrent without a handle means nothing".into());
    }
    let all = function.handle.as_ref().and_then(|name| objects.iter().find(|o| o.name == *name));
    if all.is_some_and(|all| all.state_names() != function.states)
        && !listed(function, &function.wrong_state)
    {
        wrong.push(format!("does not list {}, its wrong_state", function.wrong_state));
    }
    if function.no_wait && function.handle.as_deref() != Some("device") {
        wrong.push("no_wait is for functions of a device".into());
    }
}

/// Checks what it returns, and whether that can be an error.
fn results(function: &Function, wrong: &mut Vec<String>) {
    let frees = matches!(function.args.first(), Some(Arg::Free(_)));
    match (function.proto.ret.as_str(), function.errors.is_empty()) {
        ("int", true) => wrong.push("returns int, but lists no errors".into()),
        ("int", false) if !listed(function, "ENOTRECOVERABLE") => {
            wrong.push("does not list ENOTRECOVERABLE, which a panic causes".into());
        }
        ("int", false) => {}
        (_, false) => wrong.push("lists errors, but returns no int".into()),
        ("void", true) if frees => {}
        ("void", true) => wrong.push("only what frees a handle returns nothing".into()),
        _ if function.returns.is_none() => wrong.push("returns is missing".into()),
        _ => {}
    }
    if function.must_check && function.proto.ret != "int" {
        wrong.push("must_check, but returns no int".into());
    }
}

fn prose(function: &Function, wrong: &mut Vec<String>) {
    if function.proto.doc.is_empty() {
        wrong.push("has no documentation".into());
    }
    let head = function.name.len() + 3 + function.brief.len();
    if function.brief.is_empty() || head > 100 {
        wrong.push(format!("{:?} is not a line for a man page's NAME; set brief", function.brief));
    }
}
