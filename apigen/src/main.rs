// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes what is derived from the C ABI's table (the `api.toml` files in `src/capi`) and its source:
//! entry guards, header, export map, man pages, misuse tests. The examples in the man pages come
//! from `c-tests/examples`.
//!
//! `cargo run -p apigen` writes them. `cargo run -p apigen -- --check` names each one that differs
//! from what is committed, and fails; `cargo test -p apigen` does the same. If the table and the
//! source disagree, nothing is made, and everything that is wrong is listed.

mod api;
mod cdecl;
mod check;
mod combine;
mod examples;
mod header;
mod man;
mod map;
mod misuse;
mod rows;
mod source;
mod table;
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use examples::Examples;

/// A file to be made: its path below the project's directory, and its contents.
type Output = (PathBuf, String);

/// Directories in which every file is made here; others are leftovers.
const OWNED: &[&str] = &["docs/man/man3", "docs/man/man7"];

fn outputs(root: &Path) -> Result<Vec<Output>, Vec<String>> {
    let api = combine::read(root)?;
    let examples = Examples::read(root, &api, &man::examples_of_overview())?;
    let mut files = vec![
        ("src/capi/table.rs".into(), table::make(&api)),
        ("src/libvfiomig.map".into(), map::make(&api)),
        ("include/vfiomig.h".into(), header::make(&api)),
        ("c-tests/misuse.gen.h".into(), misuse::make(&api)),
        ("docs/man/man7/vfiomig.7".into(), man::overview(&api, &examples)),
    ];
    for function in &api.functions {
        let path = format!("docs/man/man3/{}.3", function.name);
        files.push((path.into(), man::page(&api, &examples, function)));
    }
    Ok(files)
}

/// Files in these directories that are no longer made.
fn left_over(root: &Path, files: &[Output]) -> Vec<PathBuf> {
    let entries = OWNED.iter().flat_map(|dir| {
        let list = std::fs::read_dir(root.join(dir)).into_iter().flatten().flatten();
        list.map(move |entry| Path::new(dir).join(entry.file_name()))
    });
    entries.filter(|path| files.iter().all(|(made, _)| made != path)).collect()
}

fn write(root: &Path, files: &[Output]) -> Result<(), String> {
    for (path, text) in files {
        let to = root.join(path);
        // An unchanged file keeps its time, so that make has nothing to do.
        if std::fs::read_to_string(&to).is_ok_and(|old| old == *text) {
            continue;
        }
        let dir = to.parent().unwrap_or(root);
        std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        std::fs::write(&to, text).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("wrote {}", path.display());
    }
    for path in left_over(root, files) {
        std::fs::remove_file(root.join(&path)).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("removed {}", path.display());
    }
    Ok(())
}

/// What is committed and differs from what would be made.
fn differences(root: &Path, files: &[Output]) -> Vec<String> {
    let changed = files.iter().filter_map(|(path, text)| {
        let name = path.display();
        match std::fs::read_to_string(root.join(path)) {
            Ok(old) if old == *text => None,
            Ok(old) => {
                let same = old.lines().zip(text.lines()).take_while(|(a, b)| a == b).count();
                Some(format!("{name} differs from line {} on", same + 1))
            }
            Err(error) => Some(format!("{name}: {error}")),
        }
    });
    let extra = left_over(root, files);
    let extra = extra.iter().map(|path| format!("{} is no longer made", path.display()));
    changed.chain(extra).collect()
}

/// The workspace. cargo says at run time where it is. The directory that this was compiled in can be
/// another worktree that shares the target directory.
fn project() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().expect("the workspace").to_owned()
}

fn run(arguments: &[String]) -> Result<(), Vec<String>> {
    let root = project();
    match arguments {
        [] => write(&root, &outputs(&root)?).map_err(|problem| vec![problem]),
        [only] if only == "--check" => {
            let different = differences(&root, &outputs(&root)?);
            match different.is_empty() {
                true => Ok(()),
                false => Err(different),
            }
        }
        _ => Err(vec!["usage: apigen [--check]".into()]),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            for problem in &problems {
                eprintln!("apigen: {problem}");
            }
            if arguments.iter().any(|a| a == "--check") {
                eprintln!("apigen: `cargo run -p apigen` makes the files again");
            }
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests;
