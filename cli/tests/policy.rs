// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig policy check` as it is called.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::process::{Command, Output};

fn check(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfiomig"));
    command.args(["policy", "check"]).args(arguments).output().unwrap()
}

fn says(text: &str) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.conf");
    fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let output = check(&[path]);
    let shorter = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(path, "FILE");
    (output.status.code().unwrap(), shorter(&output.stdout), shorter(&output.stderr))
}

#[test]
fn a_file_that_is_right_is_summed_up() {
    let text = "default deny # here\nallow driver=mtty\n";
    let said = "FILE: 1 rule; what none of them names is denied\n";
    assert_eq!(says(text), (0, said.to_owned(), String::new()));
    assert_eq!(says("deny\ndeny\n").1, "FILE: 2 rules; what none of them names is allowed\n");
}

#[test]
fn a_mistake_is_told_in_one_line_as_compilers_do() {
    let (code, out, err) = says("deny\n\ndeny drivers=mtty\n");
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with("FILE:3: the conditions are driver, "), "{err}");
    assert_eq!(err.lines().count(), 1);
    assert!(says("").2.starts_with("FILE: it says nothing"));
    assert!(says(&"#\n".repeat(40_000)).2.contains("longer than 64 KiB"));
}

#[test]
fn what_cannot_be_read_is_trouble() {
    for arguments in [&["/nowhere/policy.conf"][..], &["/"], &["a", "b"]] {
        let output = check(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
}

/// Whether this machine has a policy or not.
#[test]
fn the_hosts_file_is_named() {
    let output = check(&[]);
    let said = [output.stdout, output.stderr].concat();
    assert!(String::from_utf8_lossy(&said).contains("/vfiomig/policy.conf: "));
    assert!(matches!(output.status.code(), Some(0 | 1)));
}
