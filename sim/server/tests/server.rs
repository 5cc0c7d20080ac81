// SPDX-License-Identifier: MIT OR Apache-2.0
//! The executable: it listens, serves with the options that it was given, and says what became of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

const EXE: &str = env!("CARGO_BIN_EXE_vfiomig-sim-server");

struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    path: PathBuf,
}

impl Server {
    fn new(name: &str, options: &[&str]) -> Server {
        let path = std::env::temp_dir().join(format!("vfiomig-{name}-{}", std::process::id()));
        let mut command = Command::new(EXE);
        command.arg(&path).args(options).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, format!("listening on {}\n", path.display()));
        Server { child, out, path }
    }

    /// What it says last, when it has ended.
    fn end(mut self) -> String {
        let mut said = String::new();
        self.out.read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success());
        assert!(!self.path.exists());
        said
    }
}

fn exchange(socket: &mut UnixStream, command: u16, payload: &[u8]) -> (u32, Vec<u8>) {
    let mut bytes = [5u16.to_ne_bytes(), command.to_ne_bytes()].concat();
    let numbers = [16 + payload.len() as u32, 0, 0];
    bytes.extend(numbers.iter().flat_map(|n| n.to_ne_bytes()).chain(payload.iter().copied()));
    socket.write_all(&bytes).unwrap();
    let mut head = [0; 16];
    socket.read_exact(&mut head).unwrap();
    let number = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap());
    let mut payload = vec![0; number(4) as usize - 16];
    socket.read_exact(&mut payload).unwrap();
    (number(12), payload)
}

#[test]
fn it_serves_one_client_with_its_options_and_says_how_it_ended() {
    let server = Server::new(
        "once",
        &["--once", "--seed", "0x7", "--quirk", "major_one", "--quirk", "unknown_einval"],
    );
    let mut socket = UnixStream::connect(&server.path).unwrap();
    assert_eq!(exchange(&mut socket, 1, &[0; 4]).1[..2], [1, 0]);
    let feature =
        |flags: u32| [16u32, flags].iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<_>>();
    assert_eq!(exchange(&mut socket, 16, &feature(1 << 16 | 99)).0, 22);
    assert_eq!(exchange(&mut socket, 16, &feature(1 << 16 | 2)).1[8..12], 2u32.to_ne_bytes());
    drop(socket);
    let said = server.end();
    assert!(said.starts_with("state 2, digest ") && said.ends_with("violations 0\n"), "{said}");
}

#[test]
fn faults_are_given_by_their_names_and_a_signal_ends_it() {
    let faults = ["--fault", "16:2:error:121", "--device-fault", "2:3:5:0"];
    let server = Server::new("faults", &faults);
    let mut socket = UnixStream::connect(&server.path).unwrap();
    exchange(&mut socket, 1, &[0; 4]);
    let get: Vec<u8> = [16u32, 1 << 16 | 2].iter().flat_map(|n| n.to_ne_bytes()).collect();
    let errors = [0; 4].map(|_| exchange(&mut socket, 16, &get).0);
    assert_eq!(errors, [0, 121, 5, 0]);
    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    server.end();
}

#[test]
fn what_is_not_an_option_is_refused() {
    for wrong in [
        &[][..],
        &["--quirk", "none"],
        &["--device-quirk", "one_recv"],
        &["--seed", "x"],
        &["--max-read", "0x100000000"],
        &["--fault", "16:1"],
        &["--fault", "16:1:nothing"],
        &["--fault", "70000:1:close"],
        &["--device-fault", "99:1:5:0"],
        &["--device-fault", "1:1:5"],
    ] {
        let mut command = Command::new(EXE);
        if !wrong.is_empty() {
            command.arg("/nowhere/socket");
        }
        let output = command.args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
    let output = Command::new(EXE).arg("/nowhere/socket").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("/nowhere/socket"));
}
