// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C declarations that cbindgen finds in the Rust source, parsed.
//!
//! cbindgen knows how Rust's types look in C; how the header looks is up to [`crate::header`]. So
//! cbindgen is asked for one declaration per line, and only its output is read here.

use std::path::Path;

/// A declaration with its doc comment's lines.
#[derive(Clone)]
pub struct Constant {
    pub name: String,
    pub value: String,
    pub doc: Vec<String>,
}

/// A handle: a type of which only pointers exist.
#[derive(Clone)]
pub struct Opaque {
    pub name: String,
    pub doc: Vec<String>,
}

/// A function pointer's name.
#[derive(Clone)]
pub struct Callback {
    pub name: String,
    /// The whole `typedef`, without its semicolon.
    pub decl: String,
    pub doc: Vec<String>,
}

#[derive(Clone)]
pub struct Member {
    /// Type and name as C writes them, without the semicolon.
    pub decl: String,
    pub doc: Vec<String>,
}

impl Member {
    /// The member's name.
    pub fn name(&self) -> &str {
        let decl = match self.decl.split_once("(*") {
            Some((_, pointer)) => pointer.split(')').next().unwrap_or_default(),
            None => self.decl.split('[').next().unwrap_or_default(),
        };
        decl.rsplit([' ', '*']).next().unwrap_or_default()
    }
}

#[derive(Clone)]
pub struct Struct {
    pub name: String,
    pub members: Vec<Member>,
    pub doc: Vec<String>,
}

impl Struct {
    /// Whether it begins with its own size, so that it can grow.
    pub fn is_sized(&self) -> bool {
        self.members.first().is_some_and(|m| m.decl == "uint32_t struct_size")
    }

    /// Its `_INIT` macro, if callers initialise it.
    pub fn init(&self) -> Option<String> {
        let says = self.members.first().filter(|_| self.is_sized())?.doc.join(" ");
        let word =
            says.split_whitespace().find(|word| word.trim_end_matches('.').ends_with("_INIT"));
        word.map(|word| word.trim_end_matches('.').to_owned())
    }
}

#[derive(Clone)]
pub struct Param {
    /// Type as C writes it, for example `struct vfiomig_save *`.
    pub ctype: String,
    pub name: String,
}

impl Param {
    pub fn decl(&self) -> String {
        let space = if self.ctype.ends_with('*') { "" } else { " " };
        format!("{}{space}{}", self.ctype, self.name)
    }
}

#[derive(Clone)]
pub struct Prototype {
    pub name: String,
    pub ret: String,
    pub params: Vec<Param>,
    pub doc: Vec<String>,
}

impl Prototype {
    /// What the function returns and its name: the head of its declaration.
    pub fn head(&self) -> String {
        let space = if self.ret.ends_with('*') { "" } else { " " };
        format!("{}{space}{}", self.ret, self.name)
    }

    /// The parameters, or `void`.
    pub fn list(&self) -> Vec<String> {
        match self.params.is_empty() {
            true => vec!["void".into()],
            false => self.params.iter().map(Param::decl).collect(),
        }
    }
}

/// All declarations of the ABI.
#[derive(Clone, Default)]
pub struct Declarations {
    pub constants: Vec<Constant>,
    pub opaques: Vec<Opaque>,
    pub structs: Vec<Struct>,
    pub callbacks: Vec<Callback>,
    pub functions: Vec<Prototype>,
    /// Names of structures and callbacks in an order in which each follows what it needs.
    pub order: Vec<String>,
    /// The header's first comment, and what follows the includes.
    pub head: String,
    pub macros: String,
}

impl Declarations {
    pub fn structure(&self, name: &str) -> Option<&Struct> {
        self.structs.iter().find(|s| s.name == name)
    }

    /// The handle of an object.
    pub fn opaque(&self, object: &str) -> Option<&Opaque> {
        self.opaques.iter().find(|o| o.name == format!("vfiomig_{object}"))
    }

    /// Reads the source with cbindgen.
    pub fn read(root: &Path) -> Result<Declarations, String> {
        let mut config = cbindgen::Config::from_file(root.join("cbindgen.toml"))?;
        let head = config.header.take().unwrap_or_default().trim().to_owned();
        let macros = config.after_includes.take().unwrap_or_default().trim().to_owned();
        config.include_guard = None;
        config.sys_includes.clear();
        config.line_length = 100_000;
        let bindings = cbindgen::Builder::new()
            .with_config(config)
            .with_src(root.join("src/transport/table.rs"))
            .with_src(root.join("src/capi/mod.rs"))
            .generate()
            .map_err(|e| format!("cbindgen: {e}"))?;
        let mut bytes = Vec::new();
        bindings.write(&mut bytes);
        let text = String::from_utf8(bytes).map_err(|e| format!("cbindgen: {e}"))?;
        parse(&text).map(|declarations| Declarations { head, macros, ..declarations })
    }
}

fn parse(text: &str) -> Result<Declarations, String> {
    let mut out = Declarations::default();
    let mut doc = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let doc_of = std::mem::take(&mut doc);
        if line == "/*" {
            doc = comment(&mut lines);
        } else if let Some(rest) = line.strip_prefix("#define ") {
            let (name, value) =
                rest.split_once(' ').ok_or_else(|| format!("a constant without value: {line}"))?;
            let (name, value) = (name.to_owned(), value.to_owned());
            out.constants.push(Constant { name, value, doc: doc_of });
        } else if let Some(name) = line.strip_prefix("struct ").and_then(|l| l.strip_suffix(" {")) {
            let members = members(&mut lines);
            out.order.push(name.to_owned());
            out.structs.push(Struct { name: name.to_owned(), members, doc: doc_of });
        } else if let Some(decl) = line.strip_prefix("typedef ") {
            let decl = format!("typedef {}", decl.trim_end_matches(';'));
            let name = decl.split_once("(*").and_then(|(_, rest)| rest.split_once(')'));
            let name = name.ok_or_else(|| format!("not a callback: {line}"))?.0.to_owned();
            out.order.push(name.clone());
            out.callbacks.push(Callback { name, decl, doc: doc_of });
        } else if line.ends_with(");") && line.contains("vfiomig_") {
            out.functions.push(prototype(line, doc_of)?);
        } else if let Some(name) = line.strip_prefix("struct ").and_then(|l| l.strip_suffix(';')) {
            out.opaques.push(Opaque { name: name.to_owned(), doc: doc_of });
        } else if !(line.is_empty()
            || line.starts_with("#if")
            || line.starts_with("#endif")
            || line == "extern \"C\" {"
            || line.starts_with("}  //"))
        {
            return Err(format!("cbindgen wrote something unknown: {line}"));
        }
    }
    Ok(out)
}

/// A comment's lines. C has no use for the markup of Rust's documentation, or for anything but
/// ASCII.
fn comment<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Vec<String> {
    let lines = lines.take_while(|line| *line != "*/");
    lines.map(|line| line.replace('`', "").replace('…', "...")).collect()
}

fn members<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Vec<Member> {
    let mut members = Vec::new();
    let mut doc = Vec::new();
    while let Some(line) = lines.next().filter(|line| *line != "};") {
        if line == "/*" {
            doc = comment(lines);
        } else if !line.is_empty() {
            let decl = line.trim_end_matches(';').to_owned();
            members.push(Member { decl, doc: std::mem::take(&mut doc) });
        }
    }
    members
}

fn prototype(line: &str, doc: Vec<String>) -> Result<Prototype, String> {
    let wrong = || format!("not a prototype: {line}");
    let (head, params) =
        line.strip_suffix(");").and_then(|l| l.split_once('(')).ok_or_else(wrong)?;
    let Param { ctype: ret, name } = split(head).ok_or_else(wrong)?;
    let params = match params {
        "void" => Vec::new(),
        list => list.split(", ").map(split).collect::<Option<_>>().ok_or_else(wrong)?,
    };
    Ok(Prototype { name, ret, params, doc })
}

/// Type and name.
fn split(decl: &str) -> Option<Param> {
    let at = decl.rfind([' ', '*'])? + 1;
    let (ctype, name) = decl.split_at(at);
    Some(Param { ctype: ctype.trim_end().to_owned(), name: name.to_owned() })
}
