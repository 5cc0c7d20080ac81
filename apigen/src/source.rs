// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is read besides the declarations: the tables, the codes, and what the source exports.

use std::collections::BTreeSet;
use std::path::Path;

/// What is read besides the declarations.
#[derive(Clone)]
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
#[derive(Clone)]
pub struct Folder {
    /// Empty for `src/capi` itself.
    pub name: String,
    pub table: String,
    /// Types that its source files declare or re-export, without those of folders in it.
    pub declared: BTreeSet<String>,
    /// Functions that they export.
    pub exported: Vec<String>,
}

impl Folder {
    pub fn path(&self) -> String {
        if self.name.is_empty() { String::new() } else { format!("{}/", self.name) }
    }
}

/// Names of types that are declared or re-exported.
fn declared_by(source: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut names = BTreeSet::new();
    for kind in ["pub struct ", "pub enum ", "pub type "] {
        for rest in source.split(kind).skip(1) {
            let name = rest.split(|c| !is_name(c)).next().unwrap_or_default();
            if rest.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '='])) {
                names.insert(name.to_owned());
            }
        }
    }
    for rest in source.split("\npub use crate::").skip(1) {
        let list = rest.split(';').next().unwrap_or_default();
        names.extend(list.split(|c| !is_name(c)).map(str::to_owned));
    }
    names
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
        let (declared, exported) = (declared_by(&rust), exported_by(&rust));
        folders.push(Folder { name, table, declared, exported });
    }
    Ok(folders)
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
