// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table (`src/capi/api.toml` and those of the folders there), combined with the source's
//! declarations, and checked.
//!
//! Everything that is made rests on this: if the table and the source disagree, or the table
//! contradicts itself, nothing is made.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;

use crate::cdecl::{Constant, Declarations, Param, Prototype};

/// Everything that is known about the ABI.
pub struct Api {
    /// The parts of the header, in its order.
    pub sections: Vec<Section>,
    pub objects: Vec<Object>,
    pub functions: Vec<Function>,
    /// Codes in the order of their numbers: the errno's name, the variant's name in Rust, and the
    /// text.
    pub codes: Vec<ErrorCode>,
    pub decls: Declarations,
    pub version: String,
    /// When the manual was last changed: YYYY-MM-DD.
    pub date: String,
}

pub struct ErrorCode {
    pub errno: String,
    pub variant: String,
    pub text: String,
}

/// A part of the header: a folder of the source.
pub struct Section {
    pub title: String,
    /// The name of the object that it is about, which is the folder's.
    pub object: Option<String>,
    pub groups: Vec<Group>,
    /// C that stands behind the constants.
    pub macros: String,
    /// Names of structures and callbacks in an order in which each follows what it needs.
    pub types: Vec<String>,
}

pub struct Object {
    pub name: String,
    /// What distinguishes its handles from others.
    pub number: u8,
    pub title: String,
    pub about: String,
    pub states: Vec<State>,
    /// Calls from several threads wait for each other.
    pub waits: bool,
}

impl Object {
    pub fn state_names(&self) -> Vec<String> {
        self.states.iter().map(|state| state.name.clone()).collect()
    }
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub name: String,
    /// What it means; empty where it is the only one.
    #[serde(default)]
    pub text: String,
}

/// Constants that belong together.
pub struct Group {
    pub title: String,
    /// Indices of `decls.constants`.
    members: Vec<usize>,
}

impl Group {
    pub fn members<'a>(&self, api: &'a Api) -> Vec<&'a Constant> {
        self.members.iter().filter_map(|i| api.decls.constants.get(*i)).collect()
    }
}

/// A version that introduced something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Since(pub u32, pub u32);

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

pub struct Function {
    pub name: String,
    /// Number of its section.
    pub section: usize,
    pub since: Since,
    /// The object whose guard it passes.
    pub handle: Option<String>,
    /// States in which it is allowed; empty for functions without a guard.
    pub states: Vec<String>,
    pub wrong_state: String,
    pub concurrent: bool,
    /// Whether it bypasses the sessions on its device.
    pub no_wait: bool,
    pub must_check: bool,
    pub args: Vec<Arg>,
    /// The errno's name and what it means here, in the order of [`Api::codes`].
    pub errors: Vec<(String, String)>,
    pub returns: Option<String>,
    pub brief: String,
    pub proto: Prototype,
}

impl Function {
    /// Whether it passes an entry guard.
    pub fn is_guarded(&self) -> bool {
        !self.errors.is_empty() || matches!(self.args.first(), Some(Arg::Free(_)))
    }

    /// Bits of the states in which it is allowed.
    pub fn mask(&self, api: &Api) -> u32 {
        let all = self.handle.as_deref().and_then(|name| api.object(name));
        let all = all.map(|object| object.states.as_slice()).unwrap_or_default();
        let bit = |(i, state): (usize, &State)| u32::from(self.states.contains(&state.name)) << i;
        all.iter().enumerate().map(bit).sum()
    }

    /// The object it belongs to by its name.
    pub fn family<'a>(&self, api: &'a Api) -> Option<&'a Object> {
        let rest = self.name.strip_prefix("vfiomig_")?;
        api.objects.iter().find(|object| rest.starts_with(&format!("{}_", object.name)))
    }
}

/// A C argument, as the misuse tests fill it in; `api.toml` says what each kind means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arg {
    Handle(String),
    Free(String),
    Out,
    Struct(String),
    In(String),
    Options(String),
    Ops,
    Ptr,
    Buffer,
    Data,
    Words,
    NoWords,
    Len,
    Fd,
    Opaque,
    Unmap,
    Number(i64),
    Log,
    Release,
    Ending,
}

/// An `api.toml`: that of `src/capi` has the date and the errors, those of its folders the rest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    date: Option<String>,
    #[serde(default)]
    errors: BTreeMap<String, String>,
    section: RawSection,
    object: Option<RawObject>,
    #[serde(default)]
    constants: Vec<RawGroup>,
    #[serde(default)]
    function: Vec<RawFunction>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSection {
    order: u32,
    title: String,
    #[serde(default)]
    macros: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawObject {
    number: u8,
    about: String,
    state: Vec<State>,
    #[serde(default)]
    waits: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    title: String,
    prefix: Option<String>,
    #[serde(default)]
    names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFunction {
    name: String,
    since: String,
    handle: Option<String>,
    states: Option<Vec<String>>,
    wrong_state: Option<String>,
    #[serde(default)]
    concurrent: bool,
    #[serde(default)]
    no_wait: bool,
    #[serde(default)]
    must_check: bool,
    args: Vec<String>,
    errors: Vec<String>,
    returns: Option<String>,
    brief: Option<String>,
}

impl Api {
    /// Reads and checks; returns what is wrong as a list.
    pub fn read(root: &Path) -> Result<Api, Vec<String>> {
        let one = |problem: String| vec![problem];
        let decls = Declarations::read(root).map_err(one)?;
        let source = Source::read(root).map_err(one)?;
        Api::new(&source, decls, env!("CARGO_PKG_VERSION"))
    }

    /// Combines the table with the declarations.
    pub fn new(source: &Source, decls: Declarations, version: &str) -> Result<Api, Vec<String>> {
        let mut problems = Vec::new();
        let (mut tables, mut failed) = (Vec::new(), Vec::new());
        for folder in &source.folders {
            match toml::from_str::<RawTable>(&folder.table) {
                Ok(table) => tables.push((folder, table)),
                Err(error) => failed.push(format!("{}api.toml: {error}", folder.path())),
            }
        }
        if !failed.is_empty() {
            return Err(failed);
        }
        tables.sort_by_key(|(_, table)| table.section.order);
        let objects = objects(&tables, &mut problems);
        let sections = sections(&tables, &decls, &mut problems);
        let (mut date, mut texts, mut rows) = (None, BTreeMap::new(), Vec::new());
        for (i, (folder, table)) in tables.into_iter().enumerate() {
            if !folder.name.is_empty() && (table.date.is_some() || !table.errors.is_empty()) {
                problems.push(format!("{}api.toml: date and errors stand above", folder.path()));
            }
            date = date.or(table.date);
            texts.extend(table.errors);
            rows.extend(table.function.into_iter().map(|row| (i, folder, row)));
        }
        let codes = codes(&source.codes, &texts, &mut problems);
        let mut decls = decls;
        check_structs(&decls, &mut problems);
        check_callbacks(&decls, &mut problems);
        for handle in &decls.opaques {
            if objects.iter().all(|object| handle.name != format!("vfiomig_{}", object.name)) {
                problems
                    .push(format!("{}: a handle that no folder has an object for", handle.name));
            }
        }
        for object in objects.iter().filter(|object| decls.opaque(&object.name).is_none()) {
            problems.push(format!("{}: an object that the source has no handle for", object.name));
        }
        check_version(&decls, version, &mut problems);

        let mut prototypes = std::mem::take(&mut decls.functions);
        let in_header: Vec<String> = prototypes.iter().map(|p| p.name.clone()).collect();
        for name in &source.exported {
            if !in_header.contains(name) {
                problems.push(format!("{name}: exported by the source and not in the header"));
            }
        }
        for name in &in_header {
            if !source.exported.contains(name) {
                problems.push(format!("{name}: not found in the source as an exported function"));
            }
        }
        let mut functions = Vec::new();
        for (section, folder, row) in rows {
            let name = row.name.clone();
            if functions.iter().any(|f: &Function| f.name == name) {
                problems.push(format!("{name}: stands in api.toml twice"));
                continue;
            }
            let Some(at) = prototypes.iter().position(|p| p.name == name) else {
                problems.push(format!("{name}: in api.toml, but not in the source"));
                continue;
            };
            let proto = prototypes.swap_remove(at);
            let mut wrong = Vec::new();
            if !exported_by(&folder.rust).contains(&name) {
                wrong.push(format!("stands in {}api.toml, but is not there", folder.path()));
            }
            let made = function(row, section, proto, &objects, &codes, &mut wrong);
            if let Some(made) = made {
                check_function(&made, &objects, &decls, version, &mut wrong);
                functions.push(made);
            }
            problems.extend(wrong.into_iter().map(|problem| format!("{name}: {problem}")));
        }
        for proto in prototypes {
            problems.push(format!("{}: has no row in api.toml", proto.name));
        }
        let date = date.unwrap_or_else(|| {
            problems.push("api.toml: there is no date".into());
            String::new()
        });
        let version = version.to_owned();
        let api = Api { sections, objects, functions, codes, decls, version, date };
        match problems.is_empty() {
            true => Ok(api),
            false => Err(problems),
        }
    }

    pub fn object(&self, name: &str) -> Option<&Object> {
        self.objects.iter().find(|object| object.name == name)
    }

    /// The variant of `Code` for an errno's name.
    pub fn code(&self, errno: &str) -> &str {
        self.codes.iter().find(|code| code.errno == errno).map_or("", |code| &code.variant)
    }

    /// Versions that introduced functions, oldest first.
    pub fn versions(&self) -> Vec<Since> {
        let mut versions: Vec<Since> = self.functions.iter().map(|f| f.since).collect();
        versions.sort_unstable();
        versions.dedup();
        versions
    }
}

/// What is read besides the declarations.
pub struct Source {
    /// `src/capi` and the folders in it.
    pub folders: Vec<Folder>,
    /// `src/error.rs`
    pub codes: String,
    /// Names of all functions that the source exports.
    pub exported: Vec<String>,
}

impl Source {
    pub fn read(root: &Path) -> Result<Source, String> {
        let codes = root.join("src/error.rs");
        Ok(Source {
            folders: folders(&root.join("src/capi"))?,
            codes: std::fs::read_to_string(&codes).map_err(|e| format!("src/error.rs: {e}"))?,
            exported: exported(&root.join("src"))?,
        })
    }
}

/// A folder with an `api.toml`.
pub struct Folder {
    /// Empty for `src/capi` itself.
    pub name: String,
    pub table: String,
    /// Its source, one file behind the other, without folders in it.
    pub rust: String,
}

impl Folder {
    fn path(&self) -> String {
        if self.name.is_empty() { String::new() } else { format!("{}/", self.name) }
    }

    /// Whether a type is declared here, or handed on.
    fn declares(&self, name: &str) -> bool {
        let declared = ["struct", "enum", "type"]
            .iter()
            .any(|kind| self.rust.split(&format!("pub {kind} {name}")).skip(1).any(ends_word));
        let mut uses = self.rust.split("\npub use crate::").skip(1);
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        declared
            || uses.any(|rest| {
                let list = rest.split(';').next().unwrap_or_default();
                list.split(|c| !is_name(c)).any(|word| word == name)
            })
    }
}

fn ends_word(rest: &str) -> bool {
    rest.starts_with([' ', '='])
}

/// `src/capi` and the folders in it that have an `api.toml`.
fn folders(root: &Path) -> Result<Vec<Folder>, String> {
    let read =
        |path: &Path| std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
    let mut paths = vec![root.to_owned()];
    let entries = std::fs::read_dir(root).map_err(|e| format!("{}: {e}", root.display()))?;
    paths.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
    paths.sort();
    let mut folders = Vec::new();
    for path in paths {
        let Ok(table) = std::fs::read_to_string(path.join("api.toml")) else { continue };
        let mut files: Vec<_> = std::fs::read_dir(&path)
            .map_err(|e| format!("{}: {e}", path.display()))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|file| file.extension().is_some_and(|ext| ext == "rs"))
            .collect();
        files.sort();
        let rust = files.iter().map(|file| read(file)).collect::<Result<String, _>>()?;
        let name = match path == root {
            true => String::new(),
            false => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        folders.push(Folder { name, table, rust });
    }
    Ok(folders)
}

/// Objects in the order of their numbers.
fn objects(tables: &[(&Folder, RawTable)], problems: &mut Vec<String>) -> Vec<Object> {
    let mut objects = Vec::new();
    for (folder, table) in tables {
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
fn sections(
    tables: &[(&Folder, RawTable)],
    decls: &Declarations,
    problems: &mut Vec<String>,
) -> Vec<Section> {
    let mut sections: Vec<Section> = tables
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
            problems.push(format!("{name}: a constant that is none of the ABI"));
        }
        if constant.doc.is_empty() {
            problems.push(format!("{name}: has no comment"));
        }
        match group_of(tables, name) {
            Some((section, group)) => sections[section].groups[group].members.push(i),
            None => problems.push(format!("{name}: no group of constants takes it")),
        }
    }
    for name in &decls.order {
        let mut found = (0..tables.len()).filter(|i| tables[*i].0.declares(name));
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
fn group_of(tables: &[(&Folder, RawTable)], name: &str) -> Option<(usize, usize)> {
    let all = tables.iter().enumerate().flat_map(|(section, (_, table))| {
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
            problems.push(format!("{errno}: in api.toml, but no code of src/error.rs"));
        }
    }
    codes
}

fn check_structs(decls: &Declarations, problems: &mut Vec<String>) {
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

/// All callbacks follow the rule that stands at `vfiomig_release_fn`.
fn check_callbacks(decls: &Declarations, problems: &mut Vec<String>) {
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

/// The numbers in the header are the package's.
fn check_version(decls: &Declarations, version: &str, problems: &mut Vec<String>) {
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

fn function(
    row: RawFunction,
    section: usize,
    proto: Prototype,
    objects: &[Object],
    codes: &[ErrorCode],
    wrong: &mut Vec<String>,
) -> Option<Function> {
    let since = since(&row.since);
    if since.is_none() {
        wrong.push(format!("since is {:?}, which is no version", row.since));
    }
    let object = row.handle.as_deref().map(|name| {
        let object = objects.iter().find(|object| object.name == name);
        if object.is_none() {
            wrong.push(format!("handle is {name}, which is no object"));
        }
        object
    });
    let known = object.flatten().map(Object::state_names).unwrap_or_default();
    if row.states.is_some() && row.handle.is_none() {
        wrong.push("has states, but no handle".into());
    }
    let states = row.states.unwrap_or_else(|| known.clone());
    for state in &states {
        if !known.contains(state) {
            wrong.push(format!("there is no state {state}"));
        }
    }
    let args: Vec<Arg> = row
        .args
        .iter()
        .filter_map(|text| {
            let arg = arg(text, objects);
            if arg.is_none() {
                wrong.push(format!("{text:?} is no kind of argument"));
            }
            arg
        })
        .collect();
    let mut errors: Vec<(String, String)> = Vec::new();
    for text in &row.errors {
        let (errno, own) = match text.split_once(": ") {
            Some((errno, own)) => (errno, Some(own)),
            None => (text.as_str(), None),
        };
        match codes.iter().find(|code| code.errno == errno) {
            None => wrong.push(format!("{errno} is not in the closed set")),
            Some(_) if errors.iter().any(|(listed, _)| listed == errno) => {
                wrong.push(format!("{errno} is listed twice"));
            }
            Some(code) => errors.push((errno.to_owned(), own.unwrap_or(&code.text).to_owned())),
        }
    }
    let rank = |errno: &str| codes.iter().position(|code| code.errno == errno);
    errors.sort_by_key(|(errno, _)| rank(errno));
    let wrong_state = row.wrong_state.unwrap_or_else(|| "EINVAL".into());
    if rank(&wrong_state).is_none() {
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

fn since(text: &str) -> Option<Since> {
    let (major, minor) = text.split_once('.')?;
    Some(Since(major.parse().ok()?, minor.parse().ok()?))
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

const INTEGERS: &[&str] =
    &["int", "int32_t", "int64_t", "uint32_t", "uint64_t", "size_t", "uint16_t", "uint8_t"];

impl Arg {
    /// Whether a C parameter can be of this kind.
    fn fits(&self, param: &Param) -> bool {
        let ctype = param.ctype.as_str();
        match self {
            Arg::Handle(name) | Arg::Free(name) => ctype == format!("struct vfiomig_{name} *"),
            Arg::Out => ctype.starts_with("struct vfiomig_") && ctype.ends_with(" **"),
            Arg::Struct(name) => ctype == format!("struct {name} *"),
            Arg::In(name) | Arg::Options(name) => ctype == format!("const struct {name} *"),
            Arg::Ops => ctype == "const struct vfiomig_device_ops *",
            Arg::Ptr => {
                ctype == "void **"
                    || ctype.strip_suffix(" *").is_some_and(|to| INTEGERS.contains(&to))
            }
            Arg::Buffer | Arg::Opaque => ctype == "void *",
            Arg::Data => ctype == "const void *",
            Arg::Words | Arg::NoWords => ctype == "uint64_t *",
            Arg::Unmap => ctype == "vfiomig_unmap_fn",
            Arg::Len => ctype == "size_t",
            Arg::Fd => ctype == "int" && param.name.ends_with("fd"),
            Arg::Number(_) => INTEGERS.contains(&ctype),
            Arg::Log => ctype == "vfiomig_log_fn",
            Arg::Release => ctype == "vfiomig_release_fn",
            Arg::Ending => ctype == "uint32_t",
        }
    }

    /// Codes that a function with such an argument has.
    fn brings(&self) -> &'static [&'static str] {
        match self {
            Arg::Handle(_) => &["EBADF", "EFAULT", "ENOTRECOVERABLE"],
            Arg::Out | Arg::Ptr | Arg::Buffer | Arg::Data | Arg::Words => &["EFAULT"],
            Arg::Struct(_) => &["EFAULT", "EINVAL"],
            Arg::Options(_) => &["EINVAL", "E2BIG"],
            Arg::In(_) => &["EFAULT", "EINVAL", "E2BIG"],
            Arg::Ops => &["EFAULT", "EINVAL", "E2BIG"],
            Arg::Ending => &["EINVAL"],
            _ => &[],
        }
    }
}

fn check_function(
    function: &Function,
    objects: &[Object],
    decls: &Declarations,
    version: &str,
    wrong: &mut Vec<String>,
) {
    let listed = |errno: &str| function.errors.iter().any(|(listed, _)| listed == errno);
    let newer = since(version.rsplit_once('.').map_or(version, |(most, _)| most))
        .is_none_or(|now| function.since > now);
    if newer {
        wrong.push(format!("since is {}, and the version {version}", function.since));
    }

    let params = &function.proto.params;
    if function.args.len() != params.len() {
        let (args, params) = (function.args.len(), params.len());
        wrong.push(format!("has {params} parameters in C and {args} in api.toml"));
    }
    for (arg, param) in function.args.iter().zip(params) {
        if !arg.fits(param) {
            wrong.push(format!("parameter {} is no {arg:?}", param.decl()));
        }
        if let Arg::Struct(name) | Arg::In(name) | Arg::Options(name) = arg {
            if decls.structure(name).is_none_or(|s| s.init().is_none()) {
                wrong.push(format!("{name} is no structure with struct_size and an _INIT macro"));
            }
        }
        for errno in arg.brings() {
            if !listed(errno) {
                wrong.push(format!("does not list {errno}, which its {} brings", param.name));
            }
        }
    }
    for (i, arg) in function.args.iter().enumerate() {
        let behind = function.args.get(i + 1);
        if matches!(arg, Arg::Buffer | Arg::Data | Arg::Words | Arg::NoWords)
            && behind != Some(&Arg::Len)
        {
            wrong.push(format!("argument {i} is memory without a length behind it"));
        }
    }

    let first = match function.args.first() {
        Some(Arg::Handle(name)) => Some(name),
        _ => None,
    };
    if first != function.handle.as_ref() {
        wrong.push("handle and the first argument disagree".into());
    }
    if function.handle.is_some() && function.concurrent == listed("EBUSY") {
        wrong.push("a function is either concurrent or gives EBUSY".into());
    }
    if function.concurrent && function.handle.is_none() {
        wrong.push("concurrent without a handle means nothing".into());
    }
    let all = function.handle.as_ref().and_then(|name| objects.iter().find(|o| o.name == *name));
    if all.is_some_and(|all| all.state_names() != function.states) && !listed(&function.wrong_state)
    {
        wrong.push(format!("does not list {}, its wrong_state", function.wrong_state));
    }
    let frees = matches!(function.args.first(), Some(Arg::Free(_)));
    match (function.proto.ret.as_str(), function.errors.is_empty()) {
        ("int", true) => wrong.push("returns int, but lists no errors".into()),
        ("int", false) if !listed("ENOTRECOVERABLE") => {
            wrong.push("does not list ENOTRECOVERABLE, which a panic brings".into());
        }
        ("int", false) => {}
        (_, false) => wrong.push("lists errors, but returns no int".into()),
        ("void", true) if frees => {}
        ("void", true) => wrong.push("only what frees a handle returns nothing".into()),
        _ if function.returns.is_none() => wrong.push("returns is missing".into()),
        _ => {}
    }
    if function.no_wait && function.handle.as_deref() != Some("device") {
        wrong.push("no_wait is for functions of a device".into());
    }
    if function.must_check && function.proto.ret != "int" {
        wrong.push("must_check, but returns no int".into());
    }
    if function.proto.doc.is_empty() {
        wrong.push("has no documentation".into());
    }
    let head = function.name.len() + 3 + function.brief.len();
    if function.brief.is_empty() || head > 100 {
        wrong.push(format!("{:?} is no line for a man page's NAME; set brief", function.brief));
    }
}

/// Names of all functions that the source exports.
fn exported(dir: &Path) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            names.extend(exported(&path)?);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{e}"))?;
            names.extend(exported_by(&text));
        }
    }
    Ok(names)
}

/// Names behind `#[unsafe(no_mangle)]`.
pub fn exported_by(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    for rest in source.split("#[unsafe(no_mangle)]").skip(1) {
        let function = rest.split_once("extern \"C\" fn ").map(|(_, rest)| rest);
        let name = function.and_then(|rest| rest.split(['(', '<']).next());
        // A static, or something unknown, is not one of the table's functions.
        names.push(name.unwrap_or("(not a function)").trim().to_owned());
    }
    names
}
