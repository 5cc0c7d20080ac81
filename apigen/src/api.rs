// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known about the ABI. Everything that apigen makes is made from this.
//!
//! [`crate::combine`] fills it in.

use std::fmt;

use serde::Deserialize;

use crate::cdecl::{Constant, Declarations, Prototype};

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

impl Api {
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

pub struct ErrorCode {
    pub errno: String,
    pub variant: String,
    pub text: String,
}

/// A part of the header, which is a folder of the source.
pub struct Section {
    pub title: String,
    /// The name of the object that it is about, which is the folder's.
    pub object: Option<String>,
    pub groups: Vec<Group>,
    /// C code that follows the constants.
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
    /// What the state means; empty if it is the only one.
    #[serde(default)]
    pub text: String,
}

/// Constants that belong together.
pub struct Group {
    pub title: String,
    /// Indices of `decls.constants`.
    pub members: Vec<usize>,
}

impl Group {
    pub fn members<'a>(&self, api: &'a Api) -> Vec<&'a Constant> {
        self.members.iter().filter_map(|i| api.decls.constants.get(*i)).collect()
    }
}

/// A version that introduced something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Since(pub u32, pub u32);

impl Since {
    pub fn parse(text: &str) -> Option<Since> {
        let (major, minor) = text.split_once('.')?;
        Some(Since(major.parse().ok()?, minor.parse().ok()?))
    }
}

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

    /// Its errors, those together that share a text.
    pub fn errors_by_text(&self) -> Vec<(Vec<&str>, &str)> {
        let mut found: Vec<(Vec<&str>, &str)> = Vec::new();
        for (errno, text) in &self.errors {
            match found.iter_mut().find(|(_, known)| known == text) {
                Some((errnos, _)) => errnos.push(errno),
                None => found.push((vec![errno], text)),
            }
        }
        found
    }

    /// Codes that it may return, as bits in the order of [`Api::codes`]; of one that frees a handle
    /// and returns nothing, those whose texts it may leave.
    pub fn may_leave(&self, api: &Api) -> u32 {
        let frees = matches!(self.args.first(), Some(Arg::Free(_)));
        let unlisted: &[&str] = if frees { &["EBADF", "EBUSY", "ENOTRECOVERABLE"] } else { &[] };
        let left = |errno: &str| {
            unlisted.contains(&errno) || self.errors.iter().any(|(listed, _)| listed == errno)
        };
        let bits = api.codes.iter().enumerate();
        bits.map(|(bit, code)| u32::from(left(&code.errno)) << bit).sum()
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
    /// A text with a NUL at its end.
    Text,
    Reason,
    Number(i64),
    Log,
    Release,
    Ending,
}
