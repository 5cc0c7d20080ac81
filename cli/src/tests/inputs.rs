// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every command with everything that is not what it reads: one line that says so, no device touched,
//! nothing written.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;

use vfiomig::session::SaveOptions;
use vfiomig_sim::{SimOptions, State};

use super::streams::stream;
use super::{Machine, small, uuid};
use crate::qemu_file::tests::sample;

/// Two devices, files of every kind, and what must be there afterwards, too.
struct Table {
    machine: Machine,
    good: String,
    out: String,
    devices: Vec<(u64, State)>,
}

impl Table {
    fn new() -> Table {
        let tiny = |seed| SimOptions { state_size: 9000, ..small(seed) };
        let machine = Machine::new([tiny(1), tiny(2)]);
        let good = machine.put("good", stream(&machine, 1, SaveOptions::default()));
        let out = machine.file("out").to_str().unwrap().to_owned();
        let state = machine.file("state").to_str().unwrap().to_owned();
        assert_eq!(machine.run(&["checkpoint", &uuid(1), "-o", &state]).status, 0);
        let devices = machine.sims.iter().map(|sim| (sim.digest(), sim.state())).collect();
        Table { machine, good, out, devices }
    }

    fn state(&self) -> String {
        self.machine.file("state").to_str().unwrap().to_owned()
    }

    fn fifo(&self) -> String {
        let fifo = self.machine.file("fifo").to_str().unwrap().to_owned();
        if !self.machine.file("fifo").exists() {
            assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        }
        fifo
    }

    /// A device's data cannot be longer than that; as long as this file system allows.
    fn sparse(&self, name: &str, begin: &[u8]) -> String {
        let name = self.machine.put(name, begin);
        let file = fs::File::options().write(true).open(&name).unwrap();
        let longest = (33..63).rev().find(|bits| file.set_len(1 << bits).is_ok());
        assert!(longest.is_some());
        name
    }

    /// Each command that reads a stream, a checkpoint or an identity, with this input.
    fn commands<'a>(&'a self, given: &'a str) -> Vec<Vec<&'a str>> {
        vec![
            vec!["inspect", given],
            vec!["inspect", "--json", given],
            vec!["verify", given],
            vec!["verify", "--json", given],
            vec!["diff", given, &self.good],
            vec!["diff", &self.good, given],
            vec!["extract", given, "data", "-o", &self.out],
            vec!["extract", given, "stream", "-o", &self.out],
            vec!["extract", given, "blob:5", "-o", &self.out, "--damaged"],
            vec!["compat", given, &self.good],
            vec!["compat", &self.good, given],
        ]
    }

    /// Runs it; what it says is one line, and nothing was touched.
    fn refuses(&self, arguments: &[&str], status: u8, text: &str) {
        let ran = self.machine.run(arguments);
        assert_eq!(ran.status, status, "{arguments:?}: {ran:?}");
        assert!(ran.err.contains(text), "{arguments:?}: {text}: {ran:?}");
        assert_eq!(ran.err.lines().count(), 1, "{arguments:?}: {ran:?}");
        assert_eq!(ran.out, "", "{arguments:?}");
        self.is_untouched(arguments);
    }

    fn is_untouched(&self, arguments: &[&str]) {
        assert!(!self.machine.file("out").exists(), "{arguments:?}");
        for name in fs::read_dir(self.machine.dir.path()).unwrap().flatten() {
            let name = name.file_name().into_string().unwrap();
            assert!(!name.contains(".new") && !name.contains(".part"), "{arguments:?}: {name}");
        }
        let devices = self.machine.sims.iter().map(|sim| (sim.digest(), sim.state()));
        assert_eq!(devices.collect::<Vec<_>>(), self.devices, "{arguments:?}");
    }
}

/// What makes terminals: in a container, `/dev/ptmx` is a link to it.
fn terminals() -> String {
    fs::canonicalize("/dev/ptmx").unwrap().into_os_string().into_string().unwrap()
}

#[test]
fn what_cannot_be_read_is_one_line_for_every_command() {
    let table = Table::new();
    let dir = table.machine.dir.path().to_str().unwrap().to_owned();
    let socket = table.machine.file("socket").to_str().unwrap().to_owned();
    let _listening = UnixListener::bind(&socket).unwrap();
    let uuid = uuid(2);
    for (given, status, text) in [
        (table.machine.put("empty", ""), 3, ""),
        (table.machine.put("foreign", "\x7fELF and so on"), 3, ""),
        (table.sparse("sparse", b""), 3, ""),
        (table.machine.put("half", b"\x89VFIOMCP and nothing else"), 1, "checkpoint"),
        (table.sparse("sparse-checkpoint", b"\x89VFIOMCP"), 1, "checkpoint"),
        (dir, 3, "is a directory"),
        (table.fifo(), 3, "nobody writes to"),
        (socket, 3, "No such device or address"),
        ("/dev/full".to_owned(), 3, "is a device node"),
        ("/dev/zero".to_owned(), 3, "is a device node"),
        ("/dev/ptmx".to_owned(), 3, "is a device node"),
        ("/nowhere/file".to_owned(), 3, "No such file"),
        (format!("{}/file", table.good), 3, "Not a directory"),
    ] {
        for command in table.commands(&given) {
            table.refuses(&command, status, text);
        }
        table.refuses(&["restore", &given, &uuid], status, text);
    }
}

#[test]
fn what_is_not_a_key_is_one_line_for_every_command() {
    let table = Table::new();
    let dir = table.machine.dir.path().to_str().unwrap().to_owned();
    let (state, uuid) = (table.state(), uuid(2));
    for (key, text) in [
        (table.machine.put("empty", ""), "not a key"),
        (table.machine.put("short", [1; 31]), "not a key"),
        (table.machine.put("long", [b'0'; 65]), "not a key"),
        (table.machine.put("no-digits", [b'x'; 64]), "not a key"),
        (table.sparse("sparse", b""), "not a key"),
        (dir, "is a directory"),
        (table.fifo(), "nobody writes to"),
        ("/dev/zero".to_owned(), "is a device node"),
        ("/nowhere/key".to_owned(), "No such file"),
    ] {
        let mut commands = table.commands(&table.good);
        commands.push(vec!["restore", &state, &uuid]);
        commands.push(vec!["checkpoint", &uuid, "-o", &table.out]);
        for command in commands {
            let arguments = [&command[..], &["--key-file", &key]].concat();
            table.refuses(&arguments, 3, text);
        }
    }
}

#[test]
fn a_wrong_key_or_none_opens_nothing() {
    let table = Table::new();
    let (key, other) =
        (table.machine.put("key", [0x5a; 32]), table.machine.put("other", [0xa5; 32]));
    let secret = table.machine.file("secret").to_str().unwrap().to_owned();
    let taken = table.machine.run(&["checkpoint", &uuid(1), "-o", &secret, "--key-file", &key]);
    assert_eq!(taken.status, 0, "{taken:?}");
    let stream = table.machine.file("secret-stream").to_str().unwrap().to_owned();
    let ran = table.machine.run(&["extract", &secret, "stream", "-o", &stream, "--key-file", &key]);
    assert_eq!(ran.status, 0, "{ran:?}");
    for more in [&["--key-file", other.as_str()][..], &[]] {
        for given in [&secret, &stream] {
            for command in table.commands(given) {
                let ran = table.machine.run(&[&command[..], more].concat());
                // --damaged takes what there is without a key, and there is no such blob.
                let forced = more.is_empty() && command.contains(&"--damaged");
                let status = if forced && ran.status == 1 { 1 } else { 4 };
                assert_eq!(ran.status, status, "{command:?} {more:?}: {ran:?}");
                let said = format!("{ran:?}");
                let why = ["key", "not authenticated"].iter().any(|why| said.contains(why));
                assert!(why || forced, "{command:?} {ran:?}");
                table.is_untouched(&command);
            }
        }
        let uuid = uuid(2);
        let command = [&["restore", secret.as_str(), &uuid], more].concat();
        table.refuses(&command, 4, "key");
    }
    // What is damaged is damaged, whatever the key.
    let mut bytes = fs::read(&secret).unwrap();
    let manifest = bytes.len() - 200;
    bytes[manifest] ^= 1;
    let damaged = table.machine.put("damaged", bytes);
    for key in [&key, &other] {
        table.refuses(&["verify", &damaged, "--key-file", key], 1, "damaged");
        table.refuses(&["restore", &damaged, &uuid(2), "--key-file", key], 1, "damaged");
    }
    // With a key, what is not authenticated is refused as well.
    let with = ["--key-file", key.as_str()];
    let (state, qemu) = (table.state(), table.machine.put("qemu", sample(None)));
    for given in [&table.good, &state, &qemu] {
        for command in table.commands(given) {
            let arguments = [&command[..], &with].concat();
            let ran = table.machine.run(&arguments);
            assert_ne!(ran.status, 0, "{arguments:?}: {ran:?}");
            table.is_untouched(&arguments);
        }
    }
    table.refuses(&[&["restore", state.as_str(), &uuid(2)], &with[..]].concat(), 4, "");
}

#[test]
fn what_is_cut_short_is_incomplete_for_every_command_and_never_loaded() {
    let table = Table::new();
    let (stream, state) = (fs::read(&table.good).unwrap(), fs::read(table.state()).unwrap());
    for len in [1, 7, 8, 39, 40, 200, stream.len() - 1] {
        let cut = table.machine.put("cut", &stream[..len]);
        for command in table.commands(&cut) {
            // compat looks at the beginning only.
            if command[0] == "compat" || command.contains(&"--damaged") {
                continue;
            }
            let ran = table.machine.run(&command);
            assert_eq!(ran.status, 1, "{len}: {command:?}: {ran:?}");
            table.is_untouched(&command);
        }
        table.refuses(&["restore", &cut, &uuid(2)], 3, "not a checkpoint");
    }
    for len in [8, 40, state.len() / 2, state.len() - 1] {
        let cut = table.machine.put("cut", &state[..len]);
        let mut commands = table.commands(&cut);
        let uuid = uuid(2);
        commands.push(vec!["restore", &cut, &uuid]);
        for command in commands {
            table.refuses(&command, 1, "");
        }
    }
    // A byte more, and one in the middle of the data that was changed.
    for at in [state.len(), 5000] {
        let mut bytes = state.clone();
        match bytes.get_mut(at) {
            Some(byte) => *byte ^= 1,
            None => bytes.push(0),
        }
        let changed = table.machine.put("cut", bytes);
        let ran = table.machine.run(&["restore", &changed, &uuid(2)]);
        assert_eq!(ran.status, 1, "{at}: {ran:?}");
        table.is_untouched(&["restore"]);
    }
}

#[test]
fn what_cannot_be_written_to_is_one_line_and_stays_as_it_was() {
    let table = Table::new();
    let dir = table.machine.dir.path().to_str().unwrap().to_owned();
    let uuid = uuid(1);
    for (name, text) in [
        (dir, "is a directory"),
        (table.fifo(), "is not a file"),
        ("/dev/full".to_owned(), "is not a file"),
        ("/dev/null".to_owned(), "is not a file"),
        (terminals(), "is not a file"),
        ("/nowhere/file".to_owned(), "No such file"),
        (format!("{}/file", table.good), "Not a directory"),
        (String::new(), ""),
    ] {
        table.refuses(&["checkpoint", &uuid, "-o", &name], 7, text);
        for what in ["data", "stream", "blob:5"] {
            table.refuses(&["extract", &table.good, what, "-o", &name], 7, text);
        }
    }
    for (device, status) in [("/dev/full", 2), ("/nowhere", 2), ("", 2)] {
        let ran = table.machine.run(&["checkpoint", device, "-o", &table.out]);
        assert_eq!((ran.status, ran.err.lines().count()), (status, 1), "{device}: {ran:?}");
        let ran = table.machine.run(&["restore", &table.state(), device]);
        assert_eq!((ran.status, ran.err.lines().count()), (status, 1), "{device}: {ran:?}");
        table.is_untouched(&[device]);
    }
}
