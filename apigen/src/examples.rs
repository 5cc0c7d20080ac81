// SPDX-License-Identifier: MIT OR Apache-2.0
//! The manual's examples: marked parts of the programs in `c-tests/examples`.
//!
//! `make check-c` compiles and runs these programs, so what a page shows has been compiled and run.
//! A part stands between `/* EXAMPLE NAME... */` and `/* END */`. It goes into the page of each
//! function that it names, or to where vfiomig(7) asks for it by another name.

use std::path::Path;

use crate::api::Api;

/// Where they stand, below the project's directory.
pub const FOLDER: &str = "c-tests/examples";

/// Columns: a terminal's 80, less man's indentation and that of an example.
const WIDTH: usize = 80 - 7 - 4;

/// Lines of a function's example. One that is longer shows more than the call.
const LINES: usize = 30;

pub struct Example {
    /// The file's name.
    pub file: String,
    /// The line of its mark.
    line: usize,
    pub names: Vec<String>,
    pub text: String,
}

impl Example {
    fn place(&self) -> String {
        format!("{FOLDER}/{}:{}", self.file, self.line)
    }
}

/// Those of all programs, in the order of the files' names.
pub struct Examples(Vec<Example>);

impl Examples {
    /// Reads and checks; returns what is wrong as a list. `asked` is what vfiomig(7) asks for.
    pub fn read(root: &Path, api: &Api, asked: &[&str]) -> Result<Examples, Vec<String>> {
        Examples::new(&files(root).map_err(|problem| vec![problem])?, api, asked)
    }

    /// From the files' names and contents.
    pub fn new(
        files: &[(String, String)],
        api: &Api,
        asked: &[&str],
    ) -> Result<Examples, Vec<String>> {
        let mut problems = Vec::new();
        let parts = files.iter().flat_map(|(name, text)| parts(name, text, &mut problems));
        let examples = Examples(parts.collect());
        examples.check(api, asked, &mut problems);
        match problems.is_empty() {
            true => Ok(examples),
            false => Err(problems),
        }
    }

    /// The example of a function, or that of another name.
    pub fn of(&self, name: &str) -> Option<&Example> {
        self.0.iter().find(|example| example.names.iter().any(|of| of == name))
    }

    fn check(&self, api: &Api, asked: &[&str], problems: &mut Vec<String>) {
        for (i, example) in self.0.iter().enumerate() {
            let place = example.place();
            for name in &example.names {
                let is_function = api.functions.iter().any(|function| function.name == *name);
                if !is_function && !asked.contains(&name.as_str()) {
                    problems.push(format!("{place}: {name} is no function"));
                }
                if is_function && !example.text.contains(&format!("{name}(")) {
                    problems.push(format!("{place}: {name} is not called"));
                }
                if let Some(other) = self.0[..i].iter().find(|other| other.names.contains(name)) {
                    problems.push(format!("{place}: {name} has an example, {}", other.place()));
                }
                let lines = example.text.lines().count();
                if is_function && lines > LINES {
                    problems.push(format!("{place}: {lines} lines, and {LINES} are allowed"));
                }
            }
            for (at, line) in example.text.lines().enumerate() {
                if line.chars().count() > WIDTH {
                    let at = example.line + 1 + at;
                    problems.push(format!("{FOLDER}/{}:{at}: over {WIDTH} columns", example.file));
                }
            }
        }
        let functions = api.functions.iter().map(|function| function.name.as_str());
        for name in functions.chain(asked.iter().copied()).filter(|name| self.of(name).is_none()) {
            problems.push(format!("{name}: has no example in {FOLDER}"));
        }
    }
}

/// Names and contents of the programs.
pub fn files(root: &Path) -> Result<Vec<(String, String)>, String> {
    let folder = root.join(FOLDER);
    let wrong = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(wrong)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".c") {
            files.push((name, std::fs::read_to_string(entry.path()).map_err(wrong)?));
        }
    }
    files.sort();
    Ok(files)
}

/// The marked parts of a file.
fn parts(file: &str, text: &str, problems: &mut Vec<String>) -> Vec<Example> {
    let (mut done, mut open) = (Vec::new(), None::<Example>);
    for (i, line) in text.lines().enumerate() {
        let mut wrong = |what: &str| problems.push(format!("{FOLDER}/{file}:{}: {what}", i + 1));
        let mark = line.strip_prefix("/* ").and_then(|rest| rest.strip_suffix(" */"));
        let mark = mark.map(|mark| mark.split_once(' ').unwrap_or((mark, "")));
        match (mark, &mut open) {
            (Some(("EXAMPLE", names)), None) => {
                let names = names.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
                if names.is_empty() {
                    wrong("an example of nothing");
                }
                let (file, text) = (file.to_owned(), String::new());
                open = Some(Example { file, line: i + 1, names, text });
            }
            (Some(("EXAMPLE", _)), Some(_)) => wrong("an example within another one"),
            (Some(("END", "")), Some(_)) => done.extend(open.take()),
            (Some(("END", "")), None) => wrong("the end of no example"),
            (_, Some(example)) => {
                example.text.push_str(line);
                example.text.push('\n');
            }
            (_, None) => {}
        }
    }
    if let Some(example) = open {
        problems.push(format!("{}: an example without an end", example.place()));
    }
    done
}
