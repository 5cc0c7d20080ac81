// SPDX-License-Identifier: MIT OR Apache-2.0
//! The whole tool in this process, with simulated devices in a tree that looks like sysfs.

mod checkpoint;
mod compat;
mod document;
mod inputs;
mod qemu;
mod reset;
mod schema;
mod streams;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;
use vfiomig::Device;
use vfiomig::session::{Ending, Save, SaveStatus};
use vfiomig::transport::OpsTransport;
use vfiomig_sim::{Sim, SimOptions};

use crate::context::Context;
use crate::interrupt::Interrupt;
use crate::open::{OpenError, Opened, Step, Way};
use crate::sysfs::Root;
use crate::text::Style;

/// A machine with mediated devices `…01`, `…02` and so on.
struct Machine {
    dir: tempfile::TempDir,
    sims: Vec<Sim>,
    /// Devices whose node somebody else has open, by their number.
    taken: Vec<usize>,
    /// What a person types.
    typed: Option<&'static str>,
    /// What presses Ctrl-C.
    interrupt: Interrupt,
    /// The signal that comes when a device is opened.
    presses: Option<i32>,
}

/// What a run of the tool left.
#[derive(Debug)]
struct Ran {
    status: u8,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// One line, as for every trouble.
    fn complains(&self, status: u8, what: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.err.contains(what), "{what}: {self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.starts_with("vfiomig: "), "{self:?}");
    }
}

/// What is left of a save's stream; the device runs afterwards.
fn rest_of(mut save: Save, device: &Device) -> Vec<u8> {
    let (mut bytes, mut buf) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        let next = save.next(&mut buf).unwrap();
        bytes.extend_from_slice(&buf[..next.len]);
        match next.status {
            SaveStatus::More => {}
            SaveStatus::Drained => save.stop().unwrap(),
            SaveStatus::End => break,
        }
    }
    save.finish(Ending::Keep).unwrap();
    device.run().unwrap();
    bytes
}

fn uuid(number: usize) -> String {
    format!("6d747479-0000-4000-8000-{number:012x}")
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

impl Machine {
    fn new(devices: impl IntoIterator<Item = SimOptions>) -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let sims: Vec<Sim> = devices.into_iter().map(|it| Sim::new(it).unwrap()).collect();
        let at = |path: &str| dir.path().join(path);
        write(&at("proc/sys/kernel/osrelease"), "6.12.0\n");
        for number in 1..=sims.len() {
            let device = format!("sys/devices/virtual/mtty/mtty/{}", uuid(number));
            write(&at(&format!("{device}/vfio-dev/vfio{number}/dev")), "252:0\n");
            for (name, to) in [
                (format!("{device}/subsystem"), "sys/bus/mdev".to_owned()),
                (format!("{device}/driver"), "sys/bus/mdev/drivers/mtty".to_owned()),
                (format!("{device}/mdev_type"), "sys/devices/types/mtty-2".to_owned()),
                (format!("sys/bus/mdev/devices/{}", uuid(number)), device.clone()),
            ] {
                let (name, to) = (at(&name), at(&to));
                fs::create_dir_all(name.parent().unwrap()).unwrap();
                fs::create_dir_all(&to).unwrap();
                symlink(to, name).unwrap();
            }
        }
        Machine {
            dir,
            sims,
            taken: Vec::new(),
            typed: None,
            interrupt: Interrupt::default(),
            presses: None,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.file(name);
        write(&path, bytes);
        path.to_str().unwrap().to_owned()
    }

    fn open(&self, way: &Way) -> Result<Opened, OpenError> {
        let node = way.node();
        let number: usize = node
            .to_str()
            .unwrap()
            .trim_start_matches(|c: char| !c.is_ascii_digit())
            .parse()
            .unwrap();
        if self.taken.contains(&number) {
            return Err(OpenError { step: Step::Bind, node: node.to_owned(), errno: libc::EBUSY });
        }
        if let Some(signal) = self.presses {
            self.interrupt.raise(signal);
        }
        let transport: OpsTransport = self.sims[number - 1].transport();
        let device = Box::new(move |options| Device::new(transport, options));
        Ok(Opened { device, keep: Vec::new() })
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut typed = self.typed.unwrap_or_default().as_bytes();
        let mut context = Context {
            root: Root::new(self.dir.path()),
            open: &|_, way| self.open(way),
            out: &mut out,
            err: &mut err,
            answers: None,
            style: Style(false),
            progress: false,
            interrupt: self.interrupt.clone(),
            histories: Default::default(),
        };
        if self.typed.is_some() {
            context.answers = Some(&mut typed);
        }
        let arguments = ["vfiomig"].iter().chain(arguments).map(OsString::from);
        let status = crate::run(arguments, &mut context).code();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { status, out: text(out), err: text(err) }
    }
}

/// A small device, always the same.
fn small(seed: u64) -> SimOptions {
    SimOptions { seed, ..SimOptions::default() }
}

#[test]
fn the_command_line_is_consistent() {
    crate::command().debug_assert();
}

#[test]
fn completions_are_those_that_are_installed() {
    let machine = Machine::new([]);
    for (shell, file) in [("bash", "vfiomig.bash"), ("zsh", "_vfiomig"), ("fish", "vfiomig.fish")] {
        let ran = machine.run(&["completions", shell]);
        assert_eq!(ran.status, 0);
        same_as_committed(&format!("cli/completions/{file}"), &ran.out);
    }
}

/// Compares with a file of the source tree, or writes it if VFIOMIG_BLESS is set.
fn same_as_committed(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    if std::env::var_os("VFIOMIG_BLESS").is_some() {
        return write(&path, text);
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "{file} is out of date: make tool-files writes it again");
}
