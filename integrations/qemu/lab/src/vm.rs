// SPDX-License-Identifier: MIT OR Apache-2.0
//! A QEMU with one VFIO device: starting it, migrating it, and finding out what its guest does.
//!
//! The guest is the firmware, which finds nothing to boot and then waits. Its timer interrupt
//! counts in the BIOS data area 18 times a second, and RAM is a file that this program reads too.
//! So it can be seen from outside whether a guest runs, whatever QEMU says.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cases::Res;
use crate::device::Device;
use crate::qmp::Qmp;

/// The guest's RAM.
pub const RAM: u64 = 64 << 20;
/// Where the firmware counts timer interrupts.
const TICKS: u64 = 0x46c;
/// From the start of a QEMU to its socket, and from there to a guest whose timer runs.
const START: Duration = Duration::from_secs(60);

/// The name by which QMP knows the device; further ones have a number after it.
pub const DEVICE: &str = "dev";

/// A device as QEMU is told of it.
fn vfio_device(id: &str, device: &Device, side: Side) -> String {
    let sysfs = device.sysfs.display();
    format!("vfio-pci,id={id},sysfsdev={sysfs},enable-migration=on{}", side.props)
}

/// Which QEMU, and how its device is asked to behave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// A directory in `/lab/qemu`.
    pub build: &'static str,
    /// Further properties of the device: empty, or beginning with a comma.
    pub props: &'static str,
}

impl Side {
    /// The library does it.
    pub fn patched(&self) -> bool {
        self.props.contains("x-vfiomig=on")
    }

    /// In its own format.
    pub fn native(&self) -> bool {
        self.props.contains("x-vfiomig-format=native")
    }
}

/// How to start a QEMU.
pub struct Spec<'a> {
    /// What its files are called.
    pub name: &'a str,
    /// Which one.
    pub side: Side,
    /// Versioned machine type, as both sides must have the same.
    pub machine: &'a str,
    /// Its device.
    pub device: &'a Device,
    /// Further ones, with properties of their own besides the side's.
    pub others: &'a [(&'a Device, &'static str)],
    /// Further arguments.
    pub args: &'a [&'a str],
    /// Waits for a migration.
    pub incoming: bool,
    /// Writes a trace.
    pub trace: bool,
}

/// A QEMU; killed with this.
pub struct Vm {
    /// The process.
    pub child: Child,
    /// Its protocol.
    pub qmp: Qmp,
    /// What it said.
    pub log: PathBuf,
    /// What QEMU calls its device.
    device: String,
    trace: PathBuf,
    trace_from: usize,
    ram: File,
    ram_path: PathBuf,
}

/// A device was put in a state.
#[derive(Debug)]
pub struct Step {
    /// What QEMU calls it.
    pub device: String,
    /// The state.
    pub state: String,
}

/// What a QEMU and its guest were seen doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Life {
    /// QEMU has ended by itself or was killed.
    Dead(String),
    /// QEMU lives.
    Alive {
        /// What it calls the state of its guest.
        status: String,
        /// The guest's timer counts.
        ticks: bool,
    },
}

impl Life {
    /// The guest runs.
    pub fn runs(&self) -> bool {
        matches!(self, Life::Alive { ticks: true, .. })
    }
}

impl std::fmt::Display for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Life::Dead(how) => write!(f, "dead ({how})"),
            Life::Alive { status, ticks: true } => write!(f, "{status}, guest runs"),
            Life::Alive { status, ticks: false } => write!(f, "{status}, guest does not run"),
        }
    }
}

fn last_lines(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().take(4).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}

impl Vm {
    /// Starts one and waits until it answers.
    pub fn start(lab: &Path, tmp: &Path, spec: &Spec<'_>) -> Res<Vm> {
        let build = lab.join("qemu").join(spec.side.build);
        let file = |suffix: &str| tmp.join(format!("{}.{suffix}", spec.name));
        let (log, trace, socket, ram_path) = (file("log"), file("trace"), file("qmp"), file("ram"));
        for path in [&log, &trace, &socket] {
            let _ = fs::remove_file(path);
        }
        let ram = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&ram_path)
            .map_err(|e| format!("{}: {e}", ram_path.display()))?;
        ram.set_len(RAM).map_err(|e| format!("RAM: {e}"))?;
        let out = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let err = out.try_clone().map_err(|e| e.to_string())?;

        let mut command = Command::new(build.join("qemu-system-x86_64"));
        command
            .args([
                "-M",
                &format!("{},memory-backend=ram", spec.machine),
                "-accel",
                "tcg,tb-size=32",
                "-m",
                "64",
            ])
            .args(["-no-user-config", "-nodefaults", "-display", "none"])
            .arg("-L")
            .arg(build.join("firmware"))
            .arg("-object")
            .arg(format!(
                "memory-backend-file,id=ram,size=64M,mem-path={},share=on",
                ram_path.display()
            ))
            .args(spec.args);
        if spec.side.props.contains(",iommufd=") {
            command.args(["-object", "iommufd,id=iofd0"]);
        }
        let first = (spec.device, "");
        let devices = std::iter::once(&first).chain(spec.others);
        for (number, (device, props)) in devices.enumerate() {
            let id = if number == 0 { DEVICE.to_owned() } else { format!("{DEVICE}{number}") };
            command.args(["-device", &format!("{}{props}", vfio_device(&id, device, spec.side))]);
        }
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
        if spec.incoming {
            command.args(["-incoming", "defer"]);
        }
        if spec.trace {
            for events in [
                "vfio_migration_*",
                "vfio_save_*",
                "vfio_load_*",
                "vfio_vmstate_*",
                "vfio_device_dirty_*",
            ] {
                command.args(["-trace", events]);
            }
            // Not known to every QEMU: a pattern that matches nothing is not an error.
            command.args(["-trace", "vfiomig_*"]);
            command.arg("-D").arg(&trace);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|e| format!("starting {}: {e}", build.display()))?;
        let qmp = Qmp::connect(&socket, Instant::now() + START, || match child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("QEMU did not start ({status}): {}", last_lines(&log))),
            Err(e) => Err(format!("QEMU: {e}")),
        });
        match qmp {
            Ok(qmp) => {
                let device = spec.device.name();
                Ok(Vm { child, qmp, log, device, trace, trace_from: 0, ram, ram_path })
            }
            Err(e) => {
                let _ = child.kill();
                let how = child.wait().map_err(|e| format!("wait: {e}"))?;
                Err(format!("{}: {e}; {how}; it said: {}", spec.name, last_lines(&log)))
            }
        }
    }

    /// Reads guest memory, from outside.
    pub fn read_ram(&self, at: u64, bytes: &mut [u8]) -> Res<()> {
        self.ram.read_exact_at(bytes, at).map_err(|e| format!("reading RAM: {e}"))
    }

    /// Writes guest memory behind QEMU's back: like a device, but without marking anything.
    pub fn write_ram(&self, at: u64, bytes: &[u8]) -> Res<()> {
        self.ram.write_all_at(bytes, at).map_err(|e| format!("writing RAM: {e}"))
    }

    fn ticks(&self) -> Res<u32> {
        let mut bytes = [0; 4];
        self.read_ram(TICKS, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Waits until the guest's timer has counted a few times.
    pub fn wait_guest(&mut self, limit: Duration) -> Res<()> {
        let deadline = Instant::now() + limit;
        let (mut last, mut seen) = (self.ticks()?, 0);
        while seen < 3 {
            if Instant::now() > deadline {
                return Err(format!("the guest does not run: {}", self.said()));
            }
            std::thread::sleep(Duration::from_millis(10));
            let now = self.ticks()?;
            seen += u32::from(now != last);
            last = now;
        }
        Ok(())
    }

    /// The end of what QEMU said.
    pub fn said(&self) -> String {
        last_lines(&self.log)
    }

    /// Kills QEMU like a kernel that is out of memory.
    pub fn kill(&mut self) -> Res<()> {
        self.child.kill().map_err(|e| format!("kill: {e}"))?;
        self.child.wait().map(|_| ()).map_err(|e| format!("wait: {e}"))
    }

    /// Ends QEMU and waits: afterwards its device can be opened.
    pub fn quit(&mut self) -> Res<()> {
        // It may end before it has answered.
        let _ = self.qmp.command("quit", json!({}));
        self.wait_exit(Duration::from_secs(30)).map(|_| ())
    }

    /// Waits until QEMU ends by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> Res<String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(how) = self.ended()? {
                return Ok(how);
            }
            if Instant::now() > deadline {
                return Err(format!("QEMU does not end: {}", self.said()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How QEMU ended, if it did.
    pub fn ended(&mut self) -> Res<Option<String>> {
        let status = self.child.try_wait().map_err(|e| format!("wait: {e}"))?;
        Ok(status.map(|status| match status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => format!("exit status {}", status.code().unwrap_or(-1)),
        }))
    }

    /// The states that the device was put in since `forget_trace()`, as the trace has them.
    pub fn states(&self) -> Vec<String> {
        self.states_of(&self.device)
    }

    /// The same of the device that QEMU calls that.
    pub fn states_of(&self, name: &str) -> Vec<String> {
        let steps = self.steps().into_iter();
        steps.filter(|step| step.device == name).map(|step| step.state).collect()
    }

    /// The same of all devices, in their order.
    pub fn steps(&self) -> Vec<Step> {
        self.trace_lines("vfio_migration_set_device_state ")
            .iter()
            .filter_map(|line| {
                let (device, state) = line.rsplit_once(") state ")?;
                let (_, device) = device.rsplit_once('(')?;
                Some(Step { device: device.to_owned(), state: state.to_owned() })
            })
            .collect()
    }

    /// What is in the trace so far does not matter.
    pub fn forget_trace(&mut self) {
        self.trace_from = fs::metadata(&self.trace).map_or(0, |meta| meta.len() as usize);
    }

    /// Lines of the trace with this in them.
    pub fn trace_lines(&self, what: &str) -> Vec<String> {
        let text = fs::read(&self.trace).unwrap_or_default();
        let text = text.get(self.trace_from..).unwrap_or_default();
        String::from_utf8_lossy(text)
            .lines()
            .filter(|l| l.contains(what))
            .map(str::to_owned)
            .collect()
    }

    /// Waits for something to become true of this QEMU.
    pub fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        mut is: impl FnMut(&mut Vm) -> Res<bool>,
    ) -> Res<()> {
        let deadline = Instant::now() + limit;
        while !is(self)? {
            if let Some(how) = self.ended()? {
                return Err(format!("QEMU ended ({how}) before {what}: {}", self.said()));
            }
            if Instant::now() > deadline {
                let (states, secs) = (self.states(), limit.as_secs());
                return Err(format!("no {what} in {secs} s; states {states:?}; {}", self.said()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Waits for the device to be put in this state.
    pub fn wait_state(&mut self, state: &str, limit: Duration) -> Res<()> {
        self.wait_for(state, limit, |vm| Ok(vm.states().iter().any(|s| s == state)))
    }

    /// Sets capabilities and parameters of migration.
    pub fn configure(&mut self, capabilities: &[&str], parameters: Value) -> Res<()> {
        let list: Vec<Value> = ["events"]
            .iter()
            .chain(capabilities)
            .map(|name| json!({ "capability": name, "state": true }))
            .collect();
        self.qmp.command("migrate-set-capabilities", json!({ "capabilities": list }))?;
        self.qmp.command("migrate-set-parameters", parameters).map(|_| ())
    }

    /// Waits at this address for a migration.
    pub fn listen(&mut self, socket: &Path) -> Res<()> {
        let uri = format!("unix:{}", socket.display());
        self.qmp.command("migrate-incoming", json!({ "uri": uri })).map(|_| ())
    }

    /// Begins to migrate to this address.
    pub fn migrate(&mut self, socket: &Path) -> Res<()> {
        let uri = format!("unix:{}", socket.display());
        self.qmp.command("migrate", json!({ "uri": uri })).map(|_| ())
    }

    /// `query-migrate`.
    pub fn progress(&mut self) -> Res<Value> {
        self.qmp.command("query-migrate", json!({}))
    }

    /// Waits until the migration has ended one way or the other, and says which.
    pub fn wait_migrated(&mut self, limit: Duration) -> Res<String> {
        let deadline = Instant::now() + limit;
        loop {
            self.qmp.poll(Duration::from_millis(50))?;
            let last = self
                .qmp
                .last("MIGRATION")
                .and_then(|e| e.data.get("status")?.as_str().map(str::to_owned));
            if let Some(status) = last {
                if ["completed", "failed", "cancelled"].contains(&status.as_str()) {
                    return Ok(status);
                }
            }
            if Instant::now() > deadline {
                let progress = self.progress()?;
                return Err(format!(
                    "the migration does not end: {progress}; states {:?}",
                    self.states()
                ));
            }
        }
    }

    /// Checks what QEMU says and, for a while, whether the guest's timer counts.
    pub fn observe(&mut self) -> Res<Life> {
        if let Some(how) = self.ended()? {
            return Ok(Life::Dead(how));
        }
        let asked = self.qmp.command("query-status", json!({}));
        let Ok(status) = asked else {
            // It may have ended in between.
            std::thread::sleep(Duration::from_millis(200));
            return match self.ended()? {
                Some(how) => Ok(Life::Dead(how)),
                None => asked.map(|_| Life::Dead(String::new())),
            };
        };
        let running = status.get("running").and_then(Value::as_bool).unwrap_or(false);
        let status = status.get("status").and_then(Value::as_str).unwrap_or("unknown").to_owned();
        // A guest that should be stopped is watched for seven times its period, and one that should
        // run for longer: emulation may be slow.
        let deadline = Instant::now() + Duration::from_millis(if running { 5000 } else { 400 });
        let (mut last, mut seen) = (self.ticks()?, 0);
        while Instant::now() < deadline && seen < 2 {
            std::thread::sleep(Duration::from_millis(10));
            let now = self.ticks()?;
            seen += u32::from(now != last);
            last = now;
        }
        Ok(Life::Alive { status, ticks: seen > 0 })
    }

    /// Most memory that QEMU used until now, in KiB.
    pub fn peak_kib(&self) -> Res<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        text.lines()
            .find_map(|line| {
                line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok()
            })
            .ok_or_else(|| format!("{path} has no VmHWM"))
    }

    /// Copies log and trace to where they survive the machine.
    pub fn keep_files(&self, to: &Path, case: &str) {
        for path in [&self.log, &self.trace] {
            if let Some(name) = path.file_name().and_then(|n| n.to_str()) {
                let _ = fs::copy(path, to.join(format!("{case}.{name}")));
            }
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Memory of the machine, as long as it exists.
        let _ = fs::remove_file(&self.ram_path);
    }
}
