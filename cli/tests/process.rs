// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tool as a process: pipes, terminals, limits, signals.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
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
    // Who started the tests in the background may have had Ctrl-C ignored, which is inherited.
    let mut child = Command::new("env")
        .args(["--default-signal=INT", "setsid", "--ctty", "--wait", TOOL])
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
    let longest_of = |file: &File| {
        assert!((33..63).rev().any(|bits| file.set_len(1 << bits).is_ok()));
    };
    longest_of(&file);
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
    // One that begins like QEMU's, and goes on with nothing, or with more data than a load takes.
    let mut begin = b"QEVM\0\0\0\x03".to_vec();
    file.write_all_at(&begin, 0).unwrap();
    longest_of(&file);
    assert_eq!(limited("verify"), 1);
    begin.extend(b"\x01\0\0\0\x01\x06a/vfio\0\0\0\0\0\0\0\x01");
    for word in [0xffff_ffff_ef10_0003_u64, 0xffff_ffff_ef10_0001] {
        begin.extend(word.to_be_bytes());
    }
    begin.extend(b"\x7e\0\0\0\x01\x02\0\0\0\x01");
    for word in [0xffff_ffff_ef10_0004_u64, 1 << 41] {
        begin.extend(word.to_be_bytes());
    }
    file.write_all_at(&begin, 0).unwrap();
    assert_eq!(limited("verify"), 1);
    assert_eq!(limited("inspect"), 1);
    assert_eq!(limited("extract"), 1);
    file.write_all_at(&[0xff; 100], 0).unwrap();
    // One that begins like a checkpoint.
    file.write_all_at(b"\x89VFIOMCP", 0).unwrap();
    assert_eq!(limited("verify"), 1);
    assert_eq!(limited("inspect"), 1);
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The tool as somebody who may do little; `None` if there is no way to run it as one.
fn as_nobody(is_root: bool, arguments: &[&str]) -> Option<(i32, String, String)> {
    let mut command = Command::new(TOOL);
    command.args(arguments).stdin(Stdio::null());
    if is_root {
        command.uid(65534).gid(65534);
    }
    let output = command.output().ok()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((output.status.code().unwrap(), text(&output.stdout), text(&output.stderr)))
}

#[test]
fn a_terminal_is_not_read_from() {
    for arguments in [&["verify", "-"][..], &["inspect", "-"], &["compat", "-", "/nowhere/file"]] {
        let (shown, status) = on_a_terminal(arguments, None);
        assert_eq!(status, 3, "{shown}");
        assert!(shown.contains("is a terminal"), "{shown}");
    }
}

#[test]
fn whoever_may_not_read_or_write_a_file_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (stream, secret, closed) = (path("stream"), path("secret"), path("closed"));
    fs::copy(fixture("minimal.bin"), &stream).unwrap();
    fs::copy(fixture("minimal.bin"), &secret).unwrap();
    fs::create_dir(&closed).unwrap();
    chmod(dir.path(), 0o755);
    chmod(Path::new(&stream), 0o444);
    chmod(Path::new(&secret), 0o000);
    chmod(Path::new(&closed), 0o555);
    let as_nobody = |arguments: &[&str]| as_nobody(File::open(&secret).is_ok(), arguments);
    // The program itself may lie where only its owner comes.
    if as_nobody(&["verify", &stream]).is_none_or(|(status, ..)| status != 0) {
        println!("skipped: there is nobody who may run the tool and not read all files");
        return;
    }
    let out = format!("{closed}/out");
    for arguments in [
        &["verify", secret.as_str()][..],
        &["inspect", &secret],
        &["diff", &secret, &stream],
        &["diff", &stream, &secret],
        &["extract", &secret, "data", "-o", "/nowhere/out"],
        &["extract", &stream, "data", "-o", &out],
        &["compat", &secret, &stream],
        &["compat", &stream, &secret],
        &["restore", &secret, "0000:00:00.0"],
        &["verify", "--key-file", &secret, &stream],
        &["inspect", "--decoder", &secret, &stream],
    ] {
        let (status, shown, err) = as_nobody(arguments).unwrap();
        assert_eq!((status, shown.as_str()), (4, ""), "{arguments:?} {err}");
        assert_eq!(err.lines().count(), 1, "{arguments:?} {err}");
        assert!(err.to_lowercase().contains("permission denied"), "{arguments:?} {err}");
    }
    chmod(Path::new(&closed), 0o755);
    assert_eq!(fs::read_dir(&closed).unwrap().count(), 0);
}

#[test]
fn a_stream_that_is_being_written_is_told_from_a_broken_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("growing");
    long_stream(&path, 40);
    let file = File::options().append(true).open(&path).unwrap();
    file.set_len((39 << 20) + 5).unwrap();
    let name = path.to_str().unwrap();
    let out = dir.path().join("out");
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                (&file).write_all(&[0x5a]).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let growing = "still being written";
        for command in ["verify", "inspect"] {
            let (status, shown, err) = vfiomig(&[command, name]);
            assert_eq!((status, err.as_str()), (1, ""), "{command}");
            assert!(shown.contains(growing), "{command} {shown}");
        }
        let (_, shown, _) = vfiomig(&["verify", "--json", name]);
        assert!(shown.contains("\"growing\": true"), "{shown}");
        for arguments in
            [&["diff", name, name][..], &["extract", name, "data", "-o", out.to_str().unwrap()]]
        {
            let (status, _, err) = vfiomig(arguments);
            assert!(status == 1 && err.contains(growing), "{arguments:?} {err}");
        }
        ended.store(true, Ordering::Relaxed);
    });
    assert!(!out.exists());
    let (_, shown, _) = vfiomig(&["verify", name]);
    assert!(!shown.contains("still being written"), "{shown}");
}

/// The most memory that a process has had, in KiB.
fn peak(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// `make bench` has the same with 4 GiB.
#[test]
fn a_longer_stream_takes_no_more_memory() {
    let dir = tempfile::tempdir().unwrap();
    let peak_of = |frames: u32| {
        let path = dir.path().join("stream");
        long_stream(&path, frames);
        let mut child = Command::new(TOOL)
            .args(["inspect", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::copy(&mut File::open(&path).unwrap(), &mut stdin).unwrap();
        let peak = peak(child.id());
        drop(stdin);
        assert!(child.wait().unwrap().success());
        peak
    };
    let (short, long) = (peak_of(8), peak_of(100));
    assert!(long < short + 4096, "{short} KiB for 8 MiB, {long} KiB for 100 MiB");
}

/// Thousands of devices in a file of QEMU's, each of which announces more data than the file has.
#[test]
fn devices_that_announce_much_take_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let mut bytes = b"QEVM\0\0\0\x03".to_vec();
    for number in 0..10_000u32 {
        let (id, name) = (number.to_be_bytes(), format!("{number}/vfio"));
        let mut section = |kind: u8, body: &[u64]| {
            bytes.push(kind);
            bytes.extend(id);
            if kind == 1 {
                bytes.push(name.len() as u8);
                bytes.extend(name.as_bytes());
                bytes.extend([0; 8]);
            }
            bytes.extend(body.iter().flat_map(|word| word.to_be_bytes()));
            bytes.push(0x7e);
            bytes.extend(id);
        };
        section(1, &[0xffff_ffff_ef10_0003, 0xffff_ffff_ef10_0001]);
        section(2, &[0xffff_ffff_ef10_0004, 1 << 40]);
    }
    fs::write(&path, bytes).unwrap();
    let since = Instant::now();
    for command in ["verify", "inspect"] {
        let script =
            format!("ulimit -v 400000; exec {TOOL} {command} {} | tail -1", path.display());
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        assert!(output.stderr.is_empty() && !output.stdout.is_empty(), "{output:?}");
    }
    assert!(since.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_limit_on_files_leaves_nothing_of_what_was_begun() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let file = fixture("minimal.bin");
    let script =
        format!("ulimit -f 0; exec {TOOL} extract {} stream -o {}", file.display(), out.display());
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A tree of it would have dozens of times its size.
#[test]
fn json_of_another_host_takes_no_more_memory_than_its_length() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("json");
    fs::write(&path, format!("[{}0]", "[],".repeat(6 << 20))).unwrap();
    let script = format!("ulimit -v 400000; exec {TOOL} compat {0} {0}", path.display());
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("no such device") && err.lines().count() == 1, "{err}");
}

#[test]
fn an_interrupt_leaves_nothing_of_what_was_being_extracted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long");
    long_stream(&path, 200);
    let out = dir.path().join("out");
    fs::write(&out, "before").unwrap();
    let arguments = ["extract", path.to_str().unwrap(), "data", "-o", out.to_str().unwrap()];
    let (shown, status) = on_a_terminal(&arguments, Some("extracting ["));
    assert_eq!(status, 130, "{shown}");
    assert!(shown.contains("not written: interrupted"), "{shown}");
    assert_eq!(fs::read(&out).unwrap(), b"before");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
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
