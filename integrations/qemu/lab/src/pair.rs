// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two QEMUs that are ready to migrate a device from one to the other.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cases::{Lab, Res};
use crate::device::{Device, Kind, PRE_COPY};
use crate::qmp::Event;
use crate::relay::{Plan, Relay};
use crate::vm::{DEVICE, Life, Side, Spec, Vm};

/// No step of a migration that is not throttled on purpose takes longer.
pub const LIMIT: Duration = Duration::from_secs(300);
/// What the migrated mtty holds.
const SEED: u8 = 0x5b;

/// A device and what is in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// An mtty with its registers and FIFOs filled.
    Mtty,
    /// A test device.
    Test {
        /// Size of its state.
        bytes: u64,
        /// Whether it can be read while it runs.
        pre_copy: bool,
    },
}

impl What {
    fn kind(self) -> Kind {
        match self {
            What::Mtty => Kind::Mtty,
            What::Test { pre_copy: true, .. } => Kind::Test(PRE_COPY),
            What::Test { pre_copy: false, .. } => Kind::Test(crate::device::STOP_COPY),
        }
    }

    /// Whether the device has the pre-copy states.
    pub fn pre_copy(self) -> bool {
        !matches!(self, What::Test { pre_copy: false, .. })
    }
}

/// A device next to the first.
#[derive(Clone, Copy)]
pub struct Other {
    /// The device.
    pub what: What,
    /// Another one on the target.
    pub target_what: Option<What>,
    /// Its properties in addition to those of the side.
    pub props: &'static str,
}

impl Other {
    /// The same on both sides.
    pub const fn new(what: What) -> Other {
        Other { what, target_what: None, props: "" }
    }
}

/// How two QEMUs are to be set up.
pub struct Setup<'a> {
    /// Where it comes from.
    pub source: Side,
    /// Where it goes.
    pub target: Side,
    /// Of both.
    pub machine: &'a str,
    /// The device.
    pub what: What,
    /// Another one on the target.
    pub target_what: Option<What>,
    /// Further devices.
    pub others: &'a [Other],
    /// Further arguments of both.
    pub args: &'a [&'a str],
    /// Device state on channels of its own.
    pub multifd: bool,
    /// The target says when it is done, and may refuse.
    pub return_path: bool,
    /// The source waits until the target has the initial data of pre-copy.
    pub switchover_ack: bool,
    /// Milliseconds.
    pub downtime_limit: u64,
    /// Further parameters of the migration.
    pub parameters: Value,
    /// What to do with the stream on its way; `None`: no relay.
    pub plan: Option<Plan>,
    /// Traces are written.
    pub trace: bool,
}

impl<'a> Setup<'a> {
    /// Without anything special.
    pub fn new(source: Side, target: Side, machine: &'a str, what: What) -> Setup<'a> {
        Setup {
            source,
            target,
            machine,
            what,
            target_what: None,
            others: &[],
            args: &[],
            multifd: false,
            return_path: false,
            switchover_ack: false,
            // Under emulation, and with a state that is large or cannot be read before the guest is
            // stopped, QEMU would never think that it can be done in less.
            downtime_limit: if what.pre_copy() { 500 } else { 100_000 },
            parameters: json!({}),
            plan: None,
            trace: true,
        }
    }

    /// With further devices.
    pub fn with(mut self, others: &'a [Other]) -> Setup<'a> {
        self.others = others;
        if !self.pre_copy() {
            self.downtime_limit = 100_000;
        }
        self
    }

    /// Whether all of the state can be read before the guest is stopped.
    fn pre_copy(&self) -> bool {
        self.what.pre_copy() && self.others.iter().all(|other| other.what.pre_copy())
    }
}

/// A device next to the first, on both sides.
pub struct Member {
    /// The device.
    pub what: What,
    props: &'static str,
    /// The source's.
    pub source: Device,
    /// The target's.
    pub target: Device,
}

/// The QEMUs, and their devices, which outlive them.
pub struct Pair {
    /// Where it comes from.
    pub source: Vm,
    /// Where it goes.
    pub target: Vm,
    /// What is in between.
    pub relay: Option<Relay>,
    /// The source's device.
    pub source_device: Device,
    /// The target's.
    pub target_device: Device,
    /// Further devices.
    pub others: Vec<Member>,
    what: What,
    /// Source and target.
    patched: (bool, bool),
    again: Again,
    listens: PathBuf,
    connects: PathBuf,
}

/// What it takes to start another target.
struct Again {
    side: Side,
    machine: String,
    args: Vec<String>,
    capabilities: Vec<&'static str>,
    parameters: Value,
}

/// Makes a device; contents of the two sides differ.
pub fn make_device(what: What, target: bool) -> Res<Device> {
    let device = Device::create(what.kind())?;
    match what {
        What::Mtty => device.fill(if target { !SEED } else { SEED })?,
        What::Test { bytes, .. } => {
            device.set("state_size", bytes)?;
            device.set("seed", if target { 77 } else { 42 })?;
        }
    }
    Ok(device)
}

/// The VFIO devices in the answer to `query-pci`, the first one first.
fn find_devices(bus: &Value) -> Vec<Value> {
    let devices = bus.pointer("/0/devices").and_then(Value::as_array);
    let id = |d: &Value| d.get("qdev_id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut found: Vec<Value> =
        devices.into_iter().flatten().filter(|d| id(d).starts_with(DEVICE)).cloned().collect();
    found.sort_by_key(id);
    found
}

/// After QEMU has reset a device: contents about which the seed says nothing.
fn touch(what: What, device: &Device) -> Res<()> {
    if let What::Test { .. } = what {
        for block in [0, 3] {
            device.set("touch", format!("{} 4096", block * 4096))?;
        }
    }
    Ok(())
}

impl Pair {
    /// Starts both and waits until the source's guest runs.
    pub fn start(lab: &Lab, setup: Setup<'_>) -> Res<Pair> {
        let source_device = make_device(setup.what, false)?;
        let target_device = make_device(setup.target_what.unwrap_or(setup.what), true)?;
        let mut others = Vec::new();
        for Other { what, target_what, props } in setup.others.iter().copied() {
            let source = make_device(what, false)?;
            let target = make_device(target_what.unwrap_or(what), true)?;
            others.push(Member { what, props, source, target });
        }
        let (dir, tmp, machine, trace) = (&lab.dir, &lab.tmp, setup.machine, setup.trace);
        let args = setup.args;
        let start = |name, side, device, others: &[(&Device, &'static str)], incoming| {
            Vm::start(
                dir,
                tmp,
                &Spec { name, side, machine, device, others, args, incoming, trace },
            )
        };
        let sources: Vec<_> = others.iter().map(|member| (&member.source, member.props)).collect();
        let targets: Vec<_> = others.iter().map(|member| (&member.target, member.props)).collect();
        // Both at once: most of the time of a short migration goes into this.
        let (source, target) = std::thread::scope(|scope| {
            let target =
                scope.spawn(|| start("target", setup.target, &target_device, &targets, true));
            let source = start("source", setup.source, &source_device, &sources, false);
            (source, target.join())
        });
        let mut source = source?;
        let mut target = target.map_err(|_| "starting the target panicked")??;

        let mut capabilities = Vec::new();
        let mut parameters = json!({
            "downtime-limit": setup.downtime_limit,
            "max-bandwidth": 10u64 << 30,
        });
        if !setup.pre_copy() {
            // If it is measured while there is hardly anything to send, which is the case for an
            // idle guest with such a device, the bandwidth never suffices for the large state.
            parameters = json!({
                "downtime-limit": setup.downtime_limit,
                "max-bandwidth": 10u64 << 30,
                "avail-switchover-bandwidth": 10u64 << 30,
            });
        }
        if setup.return_path {
            capabilities.push("return-path");
        }
        let mut add = |more: &Value| {
            if let (Some(all), Some(more)) = (parameters.as_object_mut(), more.as_object()) {
                all.extend(more.clone());
            }
        };
        if setup.switchover_ack {
            capabilities.push("switchover-ack");
        }
        if setup.multifd {
            capabilities.push("multifd");
            add(&json!({ "multifd-channels": 3 }));
        }
        add(&setup.parameters);
        target.configure(&capabilities, parameters.clone())?;
        source.configure(&capabilities, parameters.clone())?;
        let again = Again {
            side: setup.target,
            machine: setup.machine.to_owned(),
            args: setup.args.iter().map(|arg| (*arg).to_owned()).collect(),
            capabilities,
            parameters,
        };
        let listens = lab.tmp.join("migration");
        let _ = std::fs::remove_file(&listens);
        let (relay, connects) = match setup.plan {
            Some(plan) => {
                let front = lab.tmp.join("relay");
                (Some(Relay::start(&front, &listens, plan)?), front)
            }
            None => (None, listens.clone()),
        };
        source.wait_guest(LIMIT)?;
        touch(setup.what, &source_device)?;
        for member in &others {
            touch(member.what, &member.source)?;
        }
        let what = setup.what;
        Ok(Pair {
            source,
            target,
            relay,
            source_device,
            target_device,
            others,
            what,
            patched: (setup.source.patched(), setup.target.patched()),
            again,
            listens,
            connects,
        })
    }

    /// After a migration that failed: migrates the same source to a new target, without a relay.
    pub fn again(&mut self, lab: &Lab) -> Res<()> {
        let _ = self.target.kill();
        let device = make_device(self.what, true)?;
        let mut others = Vec::new();
        for member in &self.others {
            others.push((make_device(member.what, true)?, member.props));
        }
        let props: Vec<_> = others.iter().map(|(device, props)| (device, *props)).collect();
        let args: Vec<&str> = self.again.args.iter().map(String::as_str).collect();
        let spec = Spec {
            name: "target2",
            side: self.again.side,
            machine: &self.again.machine,
            device: &device,
            others: &props,
            args: &args,
            incoming: true,
            trace: true,
        };
        self.target = Vm::start(&lab.dir, &lab.tmp, &spec)?;
        // The old ones are removed only now that their QEMU is gone.
        self.target_device = device;
        for (member, (device, _)) in self.others.iter_mut().zip(others) {
            member.target = device;
        }
        self.relay = None;
        let _ = std::fs::remove_file(&self.listens);
        self.connects.clone_from(&self.listens);
        self.target.configure(&self.again.capabilities, self.again.parameters.clone())?;
        self.go()?;
        self.complete(LIMIT)?;
        self.expect_moved()?;
        self.expect_states()?;
        self.expect_contents()
    }

    /// Begins the migration.
    pub fn go(&mut self) -> Res<()> {
        for vm in [&mut self.source, &mut self.target] {
            vm.forget_trace();
            vm.qmp.poll(Duration::from_millis(10))?;
            vm.qmp.events.clear();
        }
        self.target.listen(&self.listens)?;
        self.source.migrate(&self.connects)
    }

    /// Waits for the end that it should have on both sides.
    pub fn complete(&mut self, limit: Duration) -> Res<()> {
        let status = self.source.wait_migrated(limit)?;
        if status != "completed" {
            let progress = self.source.progress().map_or_else(|e| e, |p| p.to_string());
            return Err(format!(
                "source: {status}: {progress}; target said: {}",
                self.target.said()
            ));
        }
        // RESUME is sent before the device is asked to run, which may fail or take long.
        let status = self.target.wait_migrated(limit)?;
        if status != "completed" || self.target.qmp.last("RESUME").is_none() {
            return Err(format!("target: {status}; it said: {}", self.target.said()));
        }
        Ok(())
    }

    /// The guest runs on the target and nowhere else.
    pub fn expect_moved(&mut self) -> Res<()> {
        let (source, target) = self.observe()?;
        if source != (Life::Alive { status: "postmigrate".into(), ticks: false }) {
            return Err(format!("source: {source}"));
        }
        if target != (Life::Alive { status: "running".into(), ticks: true }) {
            return Err(format!("target: {target}; it said: {}", self.target.said()));
        }
        self.expect_pci()
    }

    /// Waits until the source's firmware has given the device its addresses, as after a reset.
    pub fn wait_pci(&mut self) -> Res<()> {
        // The reset is done by QEMU's main loop, not by the command.
        std::thread::sleep(Duration::from_millis(200));
        self.source.wait_for("addresses of the device", LIMIT, |vm| {
            let bus = vm.qmp.command("query-pci", json!({}))?;
            let device = find_devices(&bus).into_iter().next().unwrap_or_default();
            let address = device.pointer("/regions/0/address").and_then(Value::as_i64);
            Ok(address.is_some_and(|address| address > 0))
        })?;
        self.source.wait_guest(LIMIT)
    }

    /// The guest's view of the PCI bus is the same on both sides. Only the source's firmware has
    /// set addresses, so the target has them from the stream.
    pub fn expect_pci(&mut self) -> Res<()> {
        let source = self.source.qmp.command("query-pci", json!({}))?;
        let target = self.target.qmp.command("query-pci", json!({}))?;
        let (source, target) = (find_devices(&source), find_devices(&target));
        if source.len() != 1 + self.others.len() || source != target {
            let text = |devices: Vec<Value>| Value::Array(devices).to_string();
            return Err(format!(
                "PCI configuration: source {}, target {}",
                text(source),
                text(target)
            ));
        }
        Ok(())
    }

    /// What both do. The source is checked before and after the target.
    pub fn observe(&mut self) -> Res<(Life, Life)> {
        let target = self.target.observe()?;
        Ok((self.source.observe()?, target))
    }

    /// The devices went through the states that the kernel documents for a migration, and none was
    /// stopped, or run, before all were quiet.
    pub fn expect_states(&self) -> Res<()> {
        for (what, (source, target)) in self.devices() {
            let want: &[&str] = match (what.pre_copy(), self.patched.0) {
                (true, _) => &["PRE_COPY", "PRE_COPY_P2P", "STOP_COPY", "STOP"],
                // Nobody reads its state in between.
                (false, true) => &["RUNNING_P2P", "STOP_COPY", "STOP"],
                (false, false) => &["RUNNING_P2P", "STOP", "STOP_COPY", "STOP"],
            };
            let states = self.source.states_of(&source.name());
            if states != want {
                return Err(format!("states of the source's device, {what:?}: {states:?}"));
            }
            let want: &[&str] = match self.patched.1 {
                // STOP: the driver has accepted the state before the source lets go of it.
                true => &["RESUMING", "STOP", "RUNNING_P2P", "RUNNING"],
                false => &["RESUMING", "RUNNING_P2P", "RUNNING"],
            };
            let states = self.target.states_of(&target.name());
            if states != want {
                return Err(format!("states of the target's device, {what:?}: {states:?}"));
            }
        }
        for (side, vm, then) in [
            ("source", &self.source, &["STOP_COPY", "STOP"][..]),
            ("target", &self.target, &["RUNNING"][..]),
        ] {
            let steps = vm.steps();
            let quiet = steps.iter().rposition(|step| step.state.ends_with("_P2P"));
            let first = steps.iter().position(|step| then.contains(&step.state.as_str()));
            if quiet >= first {
                return Err(format!("order of the {side}'s devices: {steps:?}"));
            }
        }
        Ok(())
    }

    /// All devices, the source's and the target's of each.
    fn devices(&self) -> impl Iterator<Item = (What, (&Device, &Device))> {
        let first = (self.what, (&self.source_device, &self.target_device));
        let others = self.others.iter().map(|m| (m.what, (&m.source, &m.target)));
        std::iter::once(first).chain(others)
    }

    /// The digests of the source's test devices.
    pub fn source_digests(&self) -> Res<Vec<String>> {
        let tests = self.devices().filter(|(what, _)| *what != What::Mtty);
        tests.map(|(_, (source, _))| source.get("digest")).collect()
    }

    /// The target's test devices have the digests of the source's.
    pub fn expect_digests(&self) -> Res<()> {
        for (_, (source, target)) in self.devices() {
            if source.kind() == Kind::Mtty || source.kind() != target.kind() {
                continue;
            }
            let (source, target) = (source.get("digest")?, target.get("digest")?);
            if source != target {
                return Err(format!("digests: {source} on the source, {target} on the target"));
            }
        }
        Ok(())
    }

    /// The target's devices hold what the source's did. Ends both QEMUs.
    pub fn expect_contents(&mut self) -> Res<()> {
        self.expect_digests()?;
        for (what, (_, target)) in self.devices() {
            let What::Test { bytes, .. } = what else { continue };
            let size = target.get("state_size")?;
            if size != bytes.to_string() {
                return Err(format!("size of the state: {size}"));
            }
        }
        self.source.quit()?;
        self.target.quit()?;
        // These can be checked when nobody has them open.
        for (_, (_, target)) in self.devices().filter(|(what, _)| *what == What::Mtty) {
            target.expect(SEED).map_err(|e| format!("target: {e}"))?;
        }
        Ok(())
    }

    /// From the source's STOP event to the target's RESUME event, in milliseconds. QEMU sends the
    /// first when the device has been stopped, and the second before it is started.
    pub fn blackout_ms(&self) -> Res<f64> {
        let stop = self.source.qmp.last("STOP").ok_or("no STOP event")?.at_us;
        let resume = self.target.qmp.last("RESUME").ok_or("no RESUME event")?.at_us;
        Ok((resume as f64 - stop as f64) / 1000.0)
    }

    /// From the first step of the source's device towards its stop to the target's device running,
    /// in milliseconds. Needs the property `migration-events`.
    pub fn device_blackout_ms(&self) -> Res<f64> {
        let is = |event: &&Event, states: &[&str]| {
            let state = event.data.get("device-state").and_then(Value::as_str);
            event.name == "VFIO_MIGRATION" && state.is_some_and(|state| states.contains(&state))
        };
        let mut events = self.source.qmp.events.iter();
        let quiet =
            events.find(|e| is(e, &["pre-copy-p2p", "running-p2p"])).ok_or("no P2P event")?;
        let mut events = self.target.qmp.events.iter().rev();
        let running =
            events.find(|e| is(e, &["running"])).ok_or("no event of the target's device")?;
        Ok((running.at_us as f64 - quiet.at_us as f64) / 1000.0)
    }

    /// After a failure.
    pub fn keep_files(&self, lab: &Lab, case: &str) {
        self.source.keep_files(&lab.out, case);
        self.target.keep_files(&lab.out, case);
    }
}
