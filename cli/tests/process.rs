// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tool as a process: pipes, terminals, limits, signals.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vfiomig::stream::{Encoder, FrameType};

const TOOL: &str = env!("CARGO_BIN_EXE_vfiomig");

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn vfiomig(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(TOOL).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// A stream of this many data frames of 1 MiB.
fn long_stream(path: &Path, frames: u32) {
    let mut encoder = Encoder::new([9; 16], 0);
    let mut buf = vec![0; (1 << 20) + 4096];
    let mut file = File::create(path).unwrap();
    let mut put = |buf: &[u8]| file.write_all(buf).unwrap();
    let len = encoder.preamble(&mut buf).unwrap();
    put(&buf[..len]);
    let len = encoder.frame(&mut buf, FrameType::Identity, &[]).unwrap();
    put(&buf[..len]);
    let data = vec![0x5a; 1 << 20];
    for _ in 0..frames {
        let len = encoder.frame(&mut buf, FrameType::Data, &[&data]).unwrap();
        put(&buf[..len]);
    }
    let len = encoder.end(&mut buf).unwrap();
    put(&buf[..len]);
}

/// Runs the tool on a terminal of its own; what was shown, and the status. `until` says when it is
/// interrupted, as with Ctrl-C.
fn on_a_terminal(arguments: &[&str], until: Option<&str>) -> (String, i32) {
    let pty = nix::pty::openpty(None, None).unwrap();
    let end = |fd: &std::os::fd::OwnedFd| Stdio::from(fd.try_clone().unwrap());
    let mut child = Command::new("setsid")
        .args(["--ctty", "--wait", TOOL])
        .args(arguments)
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(end(&pty.slave))
        .stdout(end(&pty.slave))
        .stderr(end(&pty.slave))
        .spawn()
        .unwrap();
    drop(pty.slave);
    let mut terminal = File::from(pty.master);
    let (mut shown, mut buf) = (String::new(), [0; 4096]);
    let mut typed = false;
    // A terminal whose last user is gone cannot be read.
    while let Ok(len) = terminal.read(&mut buf) {
        shown.push_str(&String::from_utf8_lossy(&buf[..len]));
        if !typed && until.is_some_and(|until| shown.contains(until)) {
            typed = true;
            terminal.write_all(b"\x03").unwrap();
        }
    }
    let status = child.wait().unwrap();
    (shown, status.code().unwrap_or_else(|| 128 + status.signal().unwrap()))
}

#[test]
fn a_terminal_sees_colours_progress_and_ctrl_c() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long");
    // Long enough for a bar, with the library's debug build.
    long_stream(&path, 250);
    let name = path.to_str().unwrap();
    let (shown, status) = on_a_terminal(&["verify", name], None);
    assert_eq!(status, 0, "{shown}");
    assert!(shown.contains("\x1b[32mwhole"), "{shown}");
    assert!(shown.contains("verifying ["), "{shown}");
    let (shown, status) = on_a_terminal(&["verify", name], Some("verifying ["));
    assert_eq!(status, 130, "{shown}");
    assert!(!shown.contains("whole"), "{shown}");
    // Nothing of the kind where nobody watches.
    let (status, out, err) = vfiomig(&["verify", name]);
    assert_eq!((status, err.as_str()), (0, ""));
    assert_eq!(out, format!("{name}: whole\n"));
}

#[test]
fn a_stream_comes_through_a_pipe() {
    let mut child = Command::new(TOOL)
        .args(["verify", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let bytes = fs::read(fixture("minimal.bin")).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for byte in bytes.chunks(7) {
        stdin.write_all(byte).unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"standard input: whole\n");
    assert!(output.status.success());
    // And through the shell's own.
    let script = format!("{TOOL} verify <(cat {})", fixture("minimal.bin").display());
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn an_enormous_file_is_answered_at_once_and_in_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse");
    let file = File::create(&path).unwrap();
    // As long as this file system allows: 8 EiB on some, 16 TiB on others.
    let longest = (33..63).rev().map(|bits| 1u64 << bits).find(|len| file.set_len(*len).is_ok());
    assert!(longest.is_some());
    let name = path.to_str().unwrap();
    // An emulator of another machine needs more address space itself.
    let try_it = format!("ulimit -v 400000; exec {TOOL} --version");
    if !Command::new("sh").args(["-c", &try_it]).output().unwrap().status.success() {
        return;
    }
    let limited = |command: &str| {
        let script = format!("ulimit -v 400000; exec {TOOL} {command} {name} \"$@\"");
        let mut shell = Command::new("sh");
        let more: &[&str] = if command == "extract" { &["data", "-o", "/nowhere/x"] } else { &[] };
        let since = Instant::now();
        let output = shell.args(["-c", &script, "sh"]).args(more).output().unwrap();
        assert!(since.elapsed() < Duration::from_secs(20), "{command}: {output:?}");
        output.status.code().unwrap()
    };
    assert_eq!(limited("verify"), 3);
    assert_eq!(limited("inspect"), 3);
    // One that begins like a stream: what follows its beginning is not a frame.
    file.write_all_at(&fs::read(fixture("minimal.bin")).unwrap()[..123], 0).unwrap();
    file.set_len(1 << 33).unwrap();
    assert_eq!(limited("verify"), 1);
    // One that begins like a checkpoint.
    file.write_all_at(b"\x89VFIOMCP", 0).unwrap();
    assert_eq!(limited("verify"), 1);
    assert_eq!(limited("inspect"), 1);
}

#[test]
fn whoever_may_not_read_a_file_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stream");
    fs::copy(fixture("minimal.bin"), &path).unwrap();
    let deny = Command::new("chmod").args(["000", path.to_str().unwrap()]).status().unwrap();
    assert!(deny.success());
    if File::open(&path).is_ok() {
        // Root may.
        return;
    }
    for command in ["verify", "inspect"] {
        let (status, out, err) = vfiomig(&[command, path.to_str().unwrap()]);
        assert_eq!((status, out.as_str()), (4, ""), "{err}");
        assert!(err.contains("Permission denied") && err.lines().count() == 1, "{err}");
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error_and_a_reader_that_stops_is_not() {
    let file = fixture("minimal.bin");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(TOOL).arg("inspect").arg(&file).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let script = format!("{TOOL} inspect {} | true; exit ${{PIPESTATUS[0]}}", file.display());
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}
