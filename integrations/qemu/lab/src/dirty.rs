// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that the device writes while the guest migrates arrive on the target as they are then.
//!
//! With two devices in one container, each noticed in another way, none may be missing either.
//!
//! This program writes guest memory behind QEMU's back and tells the test device which pages it has
//! "written" by DMA. Others are written without that. QEMU cannot know of them, and the fact that
//! they do not arrive shows that it is the marks that make the difference.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cases::{Lab, Res};
use crate::device::Device;
use crate::pair::{LIMIT, Other, Pair, Setup, What};
use crate::versions::{NATIVE, PATCHED, STOCK, newest};
use crate::vm::{Side, Vm};

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// Away from what the firmware uses.
const FIRST: u64 = 16 * MIB;
const PAGES: u64 = 2048;
const WHAT: What = What::Test { bytes: 8 * MIB, pre_copy: true };

/// How the pages become dirty, and who notices.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tracker {
    /// The device logs its DMA.
    Device,
    /// The container knows what drivers write.
    Container,
    /// Two devices in one container, each noticed in its own way: QEMU asks only one of the two for
    /// both.
    Both,
}

/// The second device of these two.
const WITHOUT_LOG: [Other; 1] =
    [Other { props: ",x-device-dirty-page-tracking=off", ..Other::new(WHAT) }];

const CASES: [(&str, Side, Side, Tracker); 6] = [
    ("dirty-patched-both", PATCHED, STOCK, Tracker::Both),
    ("dirty-patched-device", PATCHED, STOCK, Tracker::Device),
    (
        "dirty-patched-container",
        Side { props: ",x-vfiomig=on,x-device-dirty-page-tracking=off", ..PATCHED },
        STOCK,
        Tracker::Container,
    ),
    ("dirty-native", NATIVE, NATIVE, Tracker::Device),
    ("dirty-device", STOCK, STOCK, Tracker::Device),
    (
        "dirty-container",
        Side { props: ",x-device-dirty-page-tracking=off", ..STOCK },
        STOCK,
        Tracker::Container,
    ),
];

/// Runs it all.
pub fn run(lab: &Lab) {
    if lab.kernel != "6.12" {
        return;
    }
    for (name, source, target, tracker) in CASES {
        lab.case(name, || {
            let mut setup = Setup::new(source, target, newest(), WHAT);
            if tracker == Tracker::Both {
                setup = setup.with(&WITHOUT_LOG);
            }
            // So little that QEMU stops the guest only when nothing is left.
            setup.downtime_limit = 1;
            setup.parameters = json!({ "avail-switchover-bandwidth": MIB });
            let mut pair = Pair::start(lab, setup)?;
            let result = migrate(tracker, &mut pair);
            if result.is_err() {
                pair.keep_files(lab, name);
            }
            result
        });
    }
}

/// Every page has contents of its own in every round.
fn page(number: u64, round: u64) -> [u8; PAGE as usize] {
    let mut x = (number << 8 | round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = [0; PAGE as usize];
    for byte in &mut bytes {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *byte = x as u8;
    }
    bytes
}

/// Writes pages that are not zeros, before anything was sent.
pub fn fill(vm: &Vm) -> Res<()> {
    (0..PAGES).try_for_each(|number| vm.write_ram(FIRST + number * PAGE, &page(number, 0)))
}

struct Writer<'a> {
    pair: &'a mut Pair,
    tracker: Tracker,
    /// By page: in which round it was last written in such a way that the target must know.
    known: Vec<u64>,
    /// Written in a way that nobody notices.
    unnoticed: Vec<u64>,
}

/// Who notices when this page is written to.
fn notices(tracker: Tracker, number: u64) -> Tracker {
    match tracker {
        Tracker::Both if number / 2 % 2 == 0 => Tracker::Device,
        Tracker::Both => Tracker::Container,
        one => one,
    }
}

impl Writer<'_> {
    fn put(&self, number: u64, round: u64) -> Res<()> {
        self.pair.source.write_ram(FIRST + number * PAGE, &page(number, round))
    }

    /// Writes pages as a device would.
    fn write(&mut self, numbers: impl Iterator<Item = u64>, round: u64) -> Res<()> {
        let (mut by_device, mut by_kernel) = (Vec::new(), Vec::new());
        for number in numbers {
            self.put(number, round)?;
            let address = FIRST + number * PAGE;
            if notices(self.tracker, number) == Tracker::Device {
                by_device.push(format!("{address:#x} {PAGE}"));
            } else {
                // The kernel writes, one byte at the page's start. The rest of the page is written
                // before that, so that it is there when the page is found dirty.
                by_kernel.push(format!("{address:#x} 1"));
            }
            if let Some(known) = self.known.get_mut(number as usize) {
                *known = round;
            }
        }
        let device = &self.pair.source_device;
        write_knob(device, "log_mark", &by_device)?;
        let device = self.pair.others.first().map_or(device, |other| &other.source);
        write_knob(device, "dma_write", &by_kernel)
    }

    fn write_unnoticed(&mut self, number: u64, round: u64) -> Res<()> {
        self.put(number, round)?;
        self.unnoticed.push(number);
        Ok(())
    }
}

fn write_knob(device: &Device, knob: &str, lines: &[String]) -> Res<()> {
    lines.chunks(100).try_for_each(|lines| device.set(knob, lines.join("\n")))
}

fn syncs(vm: &mut Vm) -> Res<u64> {
    // None before there is anything to count.
    Ok(vm.progress()?.pointer("/ram/dirty-sync-count").and_then(Value::as_u64).unwrap_or(0))
}

/// Waits until QEMU has asked for dirty pages this many more times.
fn wait_syncs(vm: &mut Vm, more: u64) -> Res<()> {
    let before = syncs(vm)?;
    vm.wait_for("further rounds of pre-copy", LIMIT, |vm| {
        std::thread::sleep(Duration::from_millis(30));
        Ok(syncs(vm)? >= before + more)
    })
}

fn migrate(tracker: Tracker, pair: &mut Pair) -> Res<()> {
    fill(&pair.source)?;
    // Pre-copy goes on until this is taken back. Then the last step takes a while, in which the
    // guest is stopped and the device may still write.
    pair.source_device.set("dirty_rate", 32 * MIB)?;
    pair.source_device.set("read_rate", 16 * MIB)?;
    pair.source_device.set("latency_us", "7 2000000")?;
    pair.go()?;
    wait_syncs(&mut pair.source, 3)?;
    let log = pair.source_device.get("log")?;
    if (pair.source_device.count("log", "active")? == 1) != (tracker != Tracker::Container) {
        return Err(format!("the device's log: {log}"));
    }
    for other in &pair.others {
        if other.source.count("log", "active")? == 1 {
            return Err("the other device's log is on".into());
        }
    }

    let mut writer =
        Writer { pair, tracker, known: vec![0; PAGES as usize], unnoticed: Vec::new() };
    for round in 1..=4 {
        // Some pages in each round, some in several.
        writer.write((0..PAGES).filter(|n| n % 16 == round || n % 64 == 0), round)?;
        // Each of these in the middle of others that are noticed.
        writer.write_unnoticed(round * 16 + 9, round)?;
        wait_syncs(&mut writer.pair.source, 2)?;
    }
    // The guest is about to be stopped.
    writer.pair.source_device.set("dirty_rate", 0)?;
    writer.pair.source_device.set("read_rate", 0)?;
    writer.pair.source.wait_for("the step to PRE_COPY_P2P", LIMIT, |vm| {
        Ok(!vm.trace_lines("new state PRE_COPY_P2P").is_empty())
    })?;
    writer.write((0..PAGES).filter(|n| n % 32 == 10), 5)?;
    if writer.pair.source.states().iter().any(|s| s == "PRE_COPY_P2P") {
        return Err("the step to PRE_COPY_P2P was over too early".into());
    }
    let Writer { known, unnoticed, .. } = writer;

    pair.complete(LIMIT)?;
    pair.expect_moved()?;
    compare(tracker, &known, &unnoticed, pair)?;
    pair.expect_contents()
}

fn compare(tracker: Tracker, known: &[u64], unnoticed: &[u64], pair: &Pair) -> Res<()> {
    let (mut lost, mut stale) = (Vec::new(), 0);
    for (number, round) in (0..).zip(known) {
        let mut is = [0; PAGE as usize];
        pair.target.read_ram(FIRST + number * PAGE, &mut is)?;
        let mut want = page(number, *round);
        let who = notices(tracker, number);
        if let (Tracker::Container, [first, ..], true) = (who, &mut want, *round > 0) {
            // What the kernel writes.
            *first = 0xd5;
        }
        if is != want {
            lost.push(number);
        } else if unnoticed.contains(&number) {
            stale += 1;
        }
    }
    if !lost.is_empty() {
        let some: Vec<_> = lost.iter().take(8).collect();
        return Err(format!(
            "{} of {PAGES} pages are not what they should be on the target, such as {some:?}",
            lost.len()
        ));
    }
    // Pages that nobody was told of arrive only if all are sent again, and then nothing is shown.
    if stale != unnoticed.len() {
        return Err(format!(
            "of {} pages that were written unnoticed, {stale} are as before",
            unnoticed.len()
        ));
    }
    Ok(())
}
