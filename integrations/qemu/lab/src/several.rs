// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest with several devices: that they move together, and none without the others, into another
//! QEMU or into a snapshot and back; devices behind iommufd; a device that comes and goes while
//! dirty pages are counted.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cases::{Lab, Res};
use crate::device::{Device, Kind};
use crate::pair::{LIMIT, Other, Pair, Setup, What, make_device};
use crate::versions::{NATIVE, PATCHED, STOCK, newest};
use crate::vm::{RAM, Side, Vm};

const MIB: u64 = 1 << 20;

/// One with pre-copy; an mtty; one that has something to say only when it is stopped.
const FIRST: What = What::Test { bytes: MIB, pre_copy: true };
const OTHERS: [Other; 2] =
    [Other::new(What::Mtty), Other::new(What::Test { bytes: 4 * MIB, pre_copy: false })];

/// The kernel's newer interface, without container and groups.
const IOMMUFD: Side = Side { props: ",x-vfiomig=on,iommufd=iofd0", ..PATCHED };
const IOMMUFD_NATIVE: Side =
    Side { props: ",x-vfiomig=on,x-vfiomig-format=native,iommufd=iofd0", ..PATCHED };
const IOMMUFD_STOCK: Side = Side { props: ",iommufd=iofd0", ..STOCK };

const ROWS: [(&str, Side, Side, bool); 12] = [
    ("several-patched-patched", PATCHED, PATCHED, false),
    ("several-stock-patched", STOCK, PATCHED, false),
    ("several-patched-stock", PATCHED, STOCK, false),
    ("several-native", NATIVE, NATIVE, false),
    // The channels carry memory only.
    ("several-native-multifd", NATIVE, NATIVE, true),
    ("several-patched-patched-multifd", PATCHED, PATCHED, true),
    ("several-stock-patched-multifd", STOCK, PATCHED, true),
    ("several-patched-stock-multifd", PATCHED, STOCK, true),
    ("several-iommufd-patched", IOMMUFD, IOMMUFD, false),
    ("several-iommufd-stock-patched", IOMMUFD_STOCK, IOMMUFD, false),
    ("several-iommufd-native", IOMMUFD_NATIVE, IOMMUFD_NATIVE, false),
    // Each side chooses its interface.
    ("several-iommufd-to-container", IOMMUFD, PATCHED, true),
];

/// Where a device can be plugged in, and taken out without asking the guest, which has not switched
/// it on; and an iommufd of its own for it.
const SLOT: [&str; 6] = [
    "-global",
    "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
    "-device",
    "pcie-root-port,id=plug0,chassis=1",
    "-object",
    "iommufd,id=iofd1",
];

/// Runs it all.
pub fn run(lab: &Lab) {
    // QEMU crashes if iommufd has no IOMMU_IOAS_CHANGE_PROCESS (Linux 6.13).
    let has_iommufd = lab.kernel != "6.12";
    for (name, source, target, multifd) in ROWS {
        if source.props.contains("iommufd") != has_iommufd {
            continue;
        }
        lab.case(name, || {
            let mut setup = Setup::new(source, target, newest(), FIRST).with(&OTHERS);
            setup.multifd = multifd;
            setup.return_path = multifd;
            keeping(lab, name, Pair::start(lab, setup)?, |pair| {
                pair.go()?;
                pair.complete(LIMIT)?;
                pair.expect_moved()?;
                pair.expect_states()?;
                pair.expect_contents()
            })
        });
    }
    for (name, iommufd) in [("plug-and-unplug", false), ("plug-and-unplug-iommufd", true)] {
        if iommufd != has_iommufd {
            continue;
        }
        lab.case(name, || {
            let plugged = make_device(What::Test { bytes: MIB, pre_copy: true }, false)?;
            let side = if iommufd { IOMMUFD } else { PATCHED };
            let mut setup = Setup::new(side, side, newest(), FIRST);
            setup.args = &SLOT;
            keeping(lab, name, Pair::start(lab, setup)?, |pair| {
                plug_and_unplug(pair, &plugged, iommufd)
            })
        });
    }
    if has_iommufd {
        return;
    }
    for (name, side, paused) in [
        ("snapshot", PATCHED, false),
        ("snapshot-paused", PATCHED, true),
        ("snapshot-native", NATIVE, false),
    ] {
        lab.case(name, || {
            let setup = Setup::new(side, side, newest(), FIRST).with(&OTHERS);
            keeping(lab, name, Pair::start(lab, setup)?, |pair| snapshot(lab, pair, paused))
        });
    }
}

fn keeping(
    lab: &Lab,
    name: &str,
    mut pair: Pair,
    run: impl FnOnce(&mut Pair) -> Res<()>,
) -> Res<()> {
    let result = run(&mut pair);
    if result.is_err() {
        pair.keep_files(lab, name);
    }
    result
}

/// Seconds for which dirty pages are counted.
const COUNTED: u64 = 6;
/// Where the device that is plugged in writes, away from what the firmware uses, and how much.
const WRITTEN: (u64, u64) = (16 * MIB, RAM / 2);

/// Has QEMU count what becomes dirty while something happens: about this many bytes, because it
/// divides by the seconds that it took and rounds down.
fn count_dirty(pair: &mut Pair, happens: impl FnOnce(&mut Vm) -> Res<()>) -> Res<u64> {
    let (vm, watched) = (&mut pair.source, &pair.source_device);
    vm.qmp.command("calc-dirty-rate", json!({ "calc-time": COUNTED, "mode": "dirty-bitmap" }))?;
    vm.wait_for("the device's log", LIMIT, |_| Ok(watched.count("log", "active")? == 1))?;
    // The count begins a moment later.
    std::thread::sleep(Duration::from_millis(300));
    happens(vm)?;
    if !is_count(&vm.qmp.command("query-dirty-rate", json!({}))?, "measuring") {
        return Err("it took too long to count it".into());
    }
    let rate = wait_count(vm)?;
    vm.wait_for("the log's end", LIMIT, |_| Ok(watched.count("log", "active")? == 0))?;
    Ok(rate * COUNTED * MIB)
}

fn is_count(asked: &Value, status: &str) -> bool {
    asked.get("status").and_then(Value::as_str) == Some(status)
}

/// Waits until it has been counted: MiB a second.
fn wait_count(vm: &mut Vm) -> Res<u64> {
    let mut asked = Value::Null;
    vm.wait_for("the count", LIMIT, |vm| {
        std::thread::sleep(Duration::from_millis(50));
        asked = vm.qmp.command("query-dirty-rate", json!({}))?;
        Ok(is_count(&asked, "measured"))
    })?;
    Ok(asked.get("dirty-rate").and_then(Value::as_u64).ok_or("there is no rate")?)
}

fn expect_log(device: &Device, active: bool) -> Res<()> {
    let count = device.count("log", "active")?;
    if count != u64::from(active) {
        return Err(format!("the log of the device that was plugged in: active is {count}"));
    }
    Ok(())
}

/// Nothing is missing of what a device writes that comes, or goes, while dirty pages are counted. A
/// migration cannot be used for that, because QEMU then allows neither.
///
/// With iommufd, the device that comes is the first of an address space of its own.
fn plug_and_unplug(pair: &mut Pair, plugged: &Device, iommufd: bool) -> Res<()> {
    let idle = count_dirty(pair, |_| Ok(()))?;
    if idle > 0 {
        return Err(format!("a guest that does nothing dirtied {idle} bytes"));
    }

    // What it may have written before it was watched cannot be known, so everything counts as
    // dirty.
    let all = count_dirty(pair, |vm| {
        let mut device = json!({
            "driver": "vfio-pci",
            "id": "plugged",
            "bus": "plug0",
            "sysfsdev": plugged.sysfs.display().to_string(),
            "enable-migration": "on",
            "x-vfiomig": "on",
        });
        if let (true, Some(device)) = (iommufd, device.as_object_mut()) {
            device.insert("iommufd".into(), "iofd1".into());
        }
        vm.qmp.command("device_add", device)?;
        expect_log(plugged, true)
    })?;
    if all < RAM * 3 / 4 {
        return Err(format!("with a new device {all} bytes were dirty, of {RAM}"));
    }
    expect_log(plugged, false)?;

    // It is there from the beginning, and goes before anyone asked what it has written. QEMU resets
    // it on the way, so everything may count as dirty.
    let (first, bytes) = WRITTEN;
    let written = count_dirty(pair, |vm| {
        expect_log(plugged, true)?;
        plugged.set("log_mark", format!("{first:#x} {bytes}"))?;
        vm.qmp.events.clear();
        vm.qmp.command("device_del", json!({ "id": "plugged" }))?;
        vm.wait_for("the device's end", LIMIT, |vm| {
            vm.qmp.poll(Duration::from_millis(20))?;
            Ok(vm.qmp.last("DEVICE_DELETED").is_some())
        })
    })?;
    if written < bytes * 3 / 4 {
        return Err(format!("{written} bytes were dirty; a device that went had written {bytes}"));
    }

    pair.go()?;
    pair.complete(LIMIT)?;
    pair.expect_moved()?;
    pair.expect_states()?;
    pair.expect_contents()
}

/// Runs a job of QEMU's to its end.
fn job(vm: &mut Vm, command: &str, arguments: Value) -> Res<()> {
    vm.qmp.command(command, arguments)?;
    let mut jobs = Value::Null;
    vm.wait_for("the job's end", LIMIT, |vm| {
        std::thread::sleep(Duration::from_millis(20));
        jobs = vm.qmp.command("query-jobs", json!({}))?;
        Ok(jobs.pointer("/0/status").and_then(Value::as_str) == Some("concluded"))
    })?;
    let error = jobs.pointer("/0/error").and_then(Value::as_str).map(str::to_owned);
    vm.qmp.command("job-dismiss", json!({ "id": "job" }))?;
    error.map_or(Ok(()), |error| Err(format!("{command}: {error}")))
}

/// A guest is saved as it is, goes on, and is brought back to where it was.
///
/// A snapshot is made on the main thread, which must not release QEMU's lock.
fn snapshot(lab: &Lab, pair: &mut Pair, paused: bool) -> Res<()> {
    let image = lab.tmp.join("snapshot.qcow2").display().to_string();
    let vm = &mut pair.source;
    let file = json!({ "driver": "file", "filename": image, "size": 0 });
    job(vm, "blockdev-create", json!({ "job-id": "job", "options": file }))?;
    let file = json!({ "driver": "file", "filename": image, "node-name": "file" });
    vm.qmp.command("blockdev-add", file)?;
    let disk = json!({ "driver": "qcow2", "file": "file", "size": MIB });
    job(vm, "blockdev-create", json!({ "job-id": "job", "options": disk }))?;
    let disk = json!({ "driver": "qcow2", "file": "file", "node-name": "disk" });
    vm.qmp.command("blockdev-add", disk)?;

    let tag = json!({ "job-id": "job", "tag": "as-it-is", "vmstate": "disk", "devices": ["disk"] });
    let before = pair.source_digests()?;
    if paused {
        pair.source.qmp.command("stop", json!({}))?;
    }
    pair.source.forget_trace();
    job(&mut pair.source, "snapshot-save", tag.clone())?;
    let states = pair.source.states();
    // A guest that runs is stopped first, and goes on afterwards.
    let want: &[&str] = match paused {
        false => &["RUNNING_P2P", "STOP", "STOP_COPY", "STOP", "RUNNING_P2P", "RUNNING"],
        true => &["STOP_COPY", "STOP"],
    };
    if states != want {
        return Err(format!("states of the device while it is saved: {states:?}"));
    }
    let unlocked = pair.source.trace_lines("vfiomig_bql_unlock ");
    if !unlocked.is_empty() {
        return Err(format!("the lock was given up: {unlocked:?}"));
    }
    if paused {
        pair.source.qmp.command("cont", json!({}))?;
    }
    pair.source.wait_guest(LIMIT)?;
    if pair.source_digests()? != before {
        return Err("saving has changed what the devices hold".into());
    }

    pair.source_device.set("touch", "8192 4096")?;
    for member in pair.others.iter().filter(|member| member.source.kind() != Kind::Mtty) {
        member.source.set("touch", "8192 4096")?;
    }
    if pair.source_digests()?.iter().zip(&before).any(|(now, before)| now == before) {
        return Err("a device was not changed".into());
    }
    job(&mut pair.source, "snapshot-load", tag)?;
    pair.source.wait_guest(LIMIT)?;
    if pair.source_digests()? != before {
        return Err("the devices do not hold what they did when they were saved".into());
    }
    pair.source.qmp.command("blockdev-del", json!({ "node-name": "disk" }))?;
    pair.source.qmp.command("blockdev-del", json!({ "node-name": "file" }))?;
    let _ = std::fs::remove_file(&image);

    // It is as good as before.
    pair.go()?;
    pair.complete(LIMIT)?;
    if pair.source.trace_lines("vfiomig_bql_unlock ").is_empty() {
        return Err("the lock was not given up".into());
    }
    pair.expect_moved()?;
    pair.expect_contents()
}
