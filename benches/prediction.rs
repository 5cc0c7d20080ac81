// SPDX-License-Identifier: MIT OR Apache-2.0
//! prediction: how long a guest will stand still, as predicted before the switchover (ours), against how
//! long it did (baseline): simulated devices over a sweep of sizes, rates, dirty rates, latencies, numbers
//! of devices and threads, with drivers whose sizes lie. Each VM moves twice, and the second time counts:
//! by then its VMM remembers what was measured the first time.
//!
//! PREDICTION_RUNS (default 32): how many VMs. The last line has the distribution of the errors.

// A benchmark that meets an error ends.
#![allow(clippy::indexing_slicing, clippy::panic)]

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use vfiomig::device::DeviceOptions;
use vfiomig::estimate::{BLOB_LEN, Observation, Prediction, SharedEstimate, Side};
use vfiomig::group::{GroupOptions, Role, Until};
use vfiomig::session::{Ending, LoadOptions, SaveOptions, SaveStatus};
use vfiomig::{Device, Group, Result};
use vfiomig_sim::{Sim, SimOptions, quirk};

const MIB: u64 = 1 << 20;
const FRAME: usize = 128 << 10;
/// Frames that a connection holds.
const IN_FLIGHT: usize = 2;
const ROUNDS: u32 = 4;

/// A VM and its network.
#[derive(Clone, Copy, Debug)]
struct Vm {
    devices: usize,
    size: u64,
    read_rate: u64,
    write_rate: u64,
    dirty_rate: u64,
    /// Of each change of a state, in microseconds.
    step_us: u32,
    quirks: u64,
    /// Of the connection, in bytes per second.
    channel_rate: u64,
    round_trip: Duration,
    /// Threads that take steps with the devices.
    threads: u32,
}

/// Choices, the same in every run.
struct Dice(u64);

impl Dice {
    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (self.0 >> 33) as usize % choices.len();
        choices[at]
    }

    fn vm(&mut self) -> Vm {
        Vm {
            devices: self.of(&[1, 2, 4]),
            size: self.of(&[2, 8, 24]) * MIB,
            read_rate: self.of(&[64, 128, 512]) * MIB,
            write_rate: self.of(&[64, 128, 512]) * MIB,
            dirty_rate: self.of(&[0, 4, 32]) * MIB,
            step_us: self.of(&[200, 2000, 10_000]),
            quirks: self.of(&[0, 0, quirk::SIZE_UNDER, quirk::SIZE_OVER, quirk::SIZE_ENOTTY]),
            channel_rate: self.of(&[100, 400, 2000]) * MIB,
            round_trip: Duration::from_micros(self.of(&[0, 500, 5000])),
            threads: self.of(&[1, 4]),
        }
    }
}

type Histories = Vec<[u8; BLOB_LEN]>;

struct End {
    group: Group,
    estimate: SharedEstimate,
    _devices: Vec<Device>,
}

fn end(vm: &Vm, role: Role, histories: Option<&Histories>) -> Result<End> {
    let group = Group::new(GroupOptions::new(role))?;
    let mut devices = Vec::new();
    for number in 0..vm.devices {
        let sim = Sim::new(SimOptions {
            state_size: vm.size,
            read_rate: vm.read_rate,
            write_rate: vm.write_rate,
            dirty_rate: vm.dirty_rate,
            transition_us: [vm.step_us; 8],
            quirks: vm.quirks,
            seed: number as u64 + 100 * role as u64,
            ..SimOptions::default()
        });
        let sim =
            sim.map_err(|errno| vfiomig::Error::new(vfiomig::Code::Inval, format!("{errno}")))?;
        let device = Device::new(sim.transport(), DeviceOptions::default())?;
        match role {
            Role::Source => group.add_save(&device, SaveOptions::default())?,
            Role::Target => group.add_load(&device, LoadOptions::default())?,
        };
        devices.push(device);
    }
    let estimate = group.estimate();
    for (number, blob) in (0..).zip(histories.into_iter().flatten()) {
        estimate.with(|it| it.import(number, Side::Here, blob))?;
    }
    group.begin()?;
    Ok(End { group, estimate, _devices: devices })
}

impl End {
    fn export(&self, vm: &Vm) -> Result<Histories> {
        (0..vm.devices as u32).map(|device| self.estimate.with(|it| it.export(device))).collect()
    }

    fn tell(&self, what: Observation) -> Result<()> {
        self.estimate.with(|it| it.observe(0, 0, what))
    }
}

/// The connection: as slow as the network is.
struct Wire {
    frames: SyncSender<Vec<u8>>,
    rate: u64,
    free_at: Instant,
}

impl Wire {
    fn send(&mut self, frame: &[u8]) {
        let takes = Duration::from_nanos(frame.len() as u64 * 1_000_000_000 / self.rate);
        self.free_at = self.free_at.max(Instant::now()) + takes;
        thread::sleep(self.free_at.saturating_duration_since(Instant::now()));
        // It fails if the target has failed, which is told there.
        let _ = self.frames.send(frame.to_vec());
    }
}

/// Sends what there is.
fn send_all(source: &End, wire: &mut Wire) -> Result<SaveStatus> {
    let mut buf = vec![0; FRAME];
    loop {
        let next = source.group.next(&mut buf)?;
        if next.len > 0 {
            let began = Instant::now();
            wire.send(buf.get(..next.len).unwrap_or_default());
            let ns = began.elapsed().as_nanos() as u64;
            source.tell(Observation::Sent { bytes: next.len as u64, ns })?;
        }
        if next.status != SaveStatus::More {
            return Ok(next.status);
        }
    }
}

fn receive_all(target: &Group, frames: &Receiver<Vec<u8>>) -> Result<()> {
    while !matches!(target.status()?.phase, vfiomig::group::Phase::Complete) {
        let Ok(frame) = frames.recv() else { break };
        target.put(&frame)?;
    }
    Ok(())
}

/// Moves the VM. Returns what was predicted, and how long the guest stood still.
fn migrate(vm: &Vm, memory: &mut Option<(Histories, Histories)>) -> Result<(Prediction, Duration)> {
    let source = end(vm, Role::Source, memory.as_ref().map(|it| &it.0))?;
    let target = end(vm, Role::Target, memory.as_ref().map(|it| &it.1))?;
    source.tell(Observation::RoundTrip(vm.round_trip.as_nanos() as u64))?;
    source.tell(Observation::TargetHelpers(vm.threads))?;
    let result = thread::scope(|scope| {
        for _ in 1..vm.threads {
            scope.spawn(|| source.group.work(Until::Dismissed));
            scope.spawn(|| target.group.work(Until::Dismissed));
        }
        let (frames, come) = sync_channel(IN_FLIGHT);
        let wire = Wire { frames, rate: vm.channel_rate, free_at: Instant::now() };
        let receiver = scope.spawn(|| {
            let come = come;
            receive_all(&target.group, &come)
        });
        let result = run(vm, &source, &target, wire, || {
            receiver.join().unwrap_or_else(|_| panic!("the target has panicked"))
        });
        source.group.dismiss();
        target.group.dismiss();
        result
    });
    *memory = Some((source.export(vm)?, target.export(vm)?));
    result
}

fn look(vm: &Vm, source: &End) -> Result<()> {
    (0..vm.devices as u32).try_for_each(|device| source.group.pending(device).map(drop))
}

fn run(
    vm: &Vm,
    source: &End,
    target: &End,
    mut wire: Wire,
    all_put: impl FnOnce() -> Result<()>,
) -> Result<(Prediction, Duration)> {
    for _ in 0..ROUNDS {
        send_all(source, &mut wire)?;
        look(vm, source)?;
        thread::sleep(Duration::from_millis(5));
    }
    // What the target has measured, and what it remembers.
    for (device, blob) in (0..).zip(target.export(vm)?) {
        source.estimate.with(|it| it.import(device, Side::There, &blob))?;
    }
    look(vm, source)?;
    let predicted = source.estimate.with(|it| it.predict(None, 0))?;
    let half = vm.round_trip / 2;
    let stopped = Instant::now();
    source.group.stop()?;
    send_all(source, &mut wire)?;
    thread::sleep(half);
    all_put()?;
    target.group.commit()?;
    thread::sleep(half);
    source.group.finish(Ending::Release)?;
    thread::sleep(half);
    target.group.run()?;
    Ok((predicted, stopped.elapsed()))
}

fn name(vm: &Vm) -> String {
    let quirk = quirk::ALL.iter().find(|(bit, _)| vm.quirks == *bit);
    format!(
        "{}x{}MiB-read{}-write{}-dirty{}-wire{}-step{}us-rtt{}us-{}threads{}",
        vm.devices,
        vm.size / MIB,
        vm.read_rate / MIB,
        vm.write_rate / MIB,
        vm.dirty_rate / MIB,
        vm.channel_rate / MIB,
        vm.step_us,
        vm.round_trip.as_micros(),
        vm.threads,
        quirk.map_or(String::new(), |(_, name)| format!("-{name}")),
    )
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len().saturating_sub(1) * percent).div_ceil(100);
    sorted.get(at).copied().unwrap_or_default()
}

fn main() -> Result<()> {
    let runs = std::env::var("PREDICTION_RUNS").ok().and_then(|it| it.parse().ok()).unwrap_or(32);
    let mut dice = Dice(7);
    let (mut errors, mut contained) = (Vec::new(), 0);
    for _ in 0..runs {
        let (vm, mut memory) = (dice.vm(), None);
        migrate(&vm, &mut memory)?;
        let (predicted, took) = migrate(&vm, &mut memory)?;
        let total = predicted.total;
        let (ours, baseline) = (total.value as f64 / 1e6, took.as_secs_f64() * 1e3);
        let ratio = ours / baseline;
        println!(
            "bench prediction/{} ours={ours:.6}ms baseline={baseline:.6}ms ratio={ratio:.3} \
             (min {ratio:.3} max {ratio:.3})",
            name(&vm),
        );
        let took = took.as_nanos() as u64;
        contained += u32::from(predicted.is_known() && total.low <= took && took <= total.high);
        errors.push((ratio - 1.0).abs() * 100.0);
    }
    errors.sort_by(f64::total_cmp);
    println!(
        "prediction: {runs} switchovers, error: median {:.1} %, 95th percentile {:.1} %, largest {:.1} %; \
         {contained} within their bounds",
        percentile(&errors, 50),
        percentile(&errors, 95),
        percentile(&errors, 100),
    );
    Ok(())
}
