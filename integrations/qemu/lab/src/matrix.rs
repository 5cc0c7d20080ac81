// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of migrations that must succeed: from which QEMU to which, with which device, and how.

use std::time::Instant;

use serde_json::Value;

use crate::cases::{Lab, Res};
use crate::pair::{LIMIT, Pair, Setup, What};
use crate::relay::{CONFIG, Plan};
use crate::versions::{Machine, NATIVE, PATCHED, PREVIOUS, STABLE, STOCK, exists};
use crate::vm::Side;

/// A line of the table; each is run with all devices.
struct Peers {
    name: &'static str,
    source: Side,
    target: Side,
    machine: Machine,
    way: Way,
}

/// How the device's state travels.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// In the main stream.
    Plain,
    /// The same, and the guest is not stopped before the target has the initial data.
    Ack,
    /// On channels of its own. With a return path, because without one QEMU closes the channels
    /// without waiting for what they still have to send.
    Multifd,
}

const fn peers(
    name: &'static str,
    source: Side,
    target: Side,
    machine: Machine,
    way: Way,
) -> Peers {
    Peers { name, source, target, machine, way }
}

static TABLE: [Peers; 28] = [
    peers("patched-patched", PATCHED, PATCHED, Machine::Newest, Way::Plain),
    peers("patched-patched-ack", PATCHED, PATCHED, Machine::Newest, Way::Ack),
    peers("patched-patched-multifd", PATCHED, PATCHED, Machine::Newest, Way::Multifd),
    peers("stock-patched", STOCK, PATCHED, Machine::Newest, Way::Plain),
    peers("stock-patched-ack", STOCK, PATCHED, Machine::Newest, Way::Ack),
    peers("stock-patched-multifd", STOCK, PATCHED, Machine::Newest, Way::Multifd),
    peers("patched-stock", PATCHED, STOCK, Machine::Newest, Way::Plain),
    peers("patched-stock-ack", PATCHED, STOCK, Machine::Newest, Way::Ack),
    peers("patched-stock-multifd", PATCHED, STOCK, Machine::Newest, Way::Multifd),
    peers("native-native", NATIVE, NATIVE, Machine::Newest, Way::Plain),
    peers("stable-patched", STABLE, PATCHED, Machine::Stable, Way::Plain),
    peers("stable-patched-multifd", STABLE, PATCHED, Machine::Stable, Way::Multifd),
    peers("patched-stable", PATCHED, STABLE, Machine::Stable, Way::Plain),
    peers("patched-stable-multifd", PATCHED, STABLE, Machine::Stable, Way::Multifd),
    peers("stable-patched-ack", STABLE, PATCHED, Machine::Stable, Way::Ack),
    peers("patched-stable-ack", PATCHED, STABLE, Machine::Stable, Way::Ack),
    peers("previous-patched", PREVIOUS, PATCHED, Machine::Previous, Way::Plain),
    peers("previous-patched-ack", PREVIOUS, PATCHED, Machine::Previous, Way::Ack),
    peers("previous-patched-multifd", PREVIOUS, PATCHED, Machine::Previous, Way::Multifd),
    peers("patched-previous", PATCHED, PREVIOUS, Machine::Previous, Way::Plain),
    peers("patched-previous-ack", PATCHED, PREVIOUS, Machine::Previous, Way::Ack),
    peers("patched-previous-multifd", PATCHED, PREVIOUS, Machine::Previous, Way::Multifd),
    peers("patched-patched-ack-legacy", PATCHED, PATCHED, Machine::Legacy, Way::Ack),
    peers("stock-patched-ack-legacy", STOCK, PATCHED, Machine::Legacy, Way::Ack),
    peers("patched-stock-ack-legacy", PATCHED, STOCK, Machine::Legacy, Way::Ack),
    peers("stock-stock", STOCK, STOCK, Machine::Newest, Way::Plain),
    peers("stock-stock-ack", STOCK, STOCK, Machine::Newest, Way::Ack),
    peers("stock-stock-multifd", STOCK, STOCK, Machine::Newest, Way::Multifd),
];

/// How two versions get on without the library: for when a row with it fails.
static STOCK_TABLE: [Peers; 4] = [
    peers("stable-stock", STABLE, STOCK, Machine::Stable, Way::Plain),
    peers("stable-stock-multifd", STABLE, STOCK, Machine::Stable, Way::Multifd),
    peers("stock-stable", STOCK, STABLE, Machine::Stable, Way::Plain),
    peers("stock-stable-multifd", STOCK, STABLE, Machine::Stable, Way::Multifd),
];

/// QEMU's mark in the stream, as the trace has it.
const INIT_DATA_SENT: &str = "0xffffffffef100005";
const MIB: u64 = 1 << 20;

const DEVICES: [(&str, What); 5] = [
    ("mtty", What::Mtty),
    ("1m", What::Test { bytes: MIB, pre_copy: false }),
    ("1m-precopy", What::Test { bytes: MIB, pre_copy: true }),
    ("256m", What::Test { bytes: 256 * MIB, pre_copy: false }),
    ("256m-precopy", What::Test { bytes: 256 * MIB, pre_copy: true }),
];

/// With these an acknowledgement means something, and they take little time.
const SMALL: [&str; 2] = ["mtty", "1m-precopy"];

/// Whose stream is kept: small ones, one of each kind.
const KEPT: [&str; 7] = [
    "stock-stock-mtty",
    "stock-stock-1m",
    "stock-stock-1m-precopy",
    "stock-stock-ack-mtty",
    "stock-stock-ack-1m-precopy",
    "stock-stock-multifd-mtty",
    "stock-stock-multifd-1m-precopy",
];

/// Runs it all.
pub fn run(lab: &Lab) {
    run_table(lab, &TABLE);
}

/// Two versions without the library.
pub fn run_stock(lab: &Lab) {
    run_table(lab, &STOCK_TABLE);
}

fn run_table(lab: &Lab, table: &'static [Peers]) {
    for (name, peers, what) in rows(table, &lab.kernel) {
        let Some(machine) = peers.machine.name() else { continue };
        if exists(&lab.dir, peers.source) && exists(&lab.dir, peers.target) {
            lab.case(&name, || row(lab, &name, peers, machine, what));
        }
    }
}

/// The names of the rows on a kernel whose streams are kept.
pub fn kept(kernel: &str) -> Vec<String> {
    rows(&TABLE, kernel)
        .map(|(name, ..)| name)
        .filter(|name| KEPT.contains(&name.as_str()))
        .collect()
}

/// A table's lines with each device, as far as a kernel has them.
fn rows(
    table: &'static [Peers],
    kernel: &str,
) -> impl Iterator<Item = (String, &'static Peers, What)> {
    // Kernels other than the main one differ in VFIO's core and in mtty.
    let main = kernel == "6.12";
    let all = table.iter().flat_map(|peers| DEVICES.map(|(device, what)| (peers, device, what)));
    all.filter(move |(peers, device, what)| {
        let short = peers.way == Way::Ack || peers.machine == Machine::Previous;
        (main || *what == What::Mtty) && (!short || SMALL.contains(device))
    })
    .map(|(peers, device, what)| (format!("{}-{device}", peers.name), peers, what))
}

fn row(lab: &Lab, name: &str, peers: &Peers, machine: &str, what: What) -> Res<()> {
    let mut setup = Setup::new(peers.source, peers.target, machine, what);
    setup.multifd = peers.way == Way::Multifd;
    setup.return_path = peers.way != Way::Plain;
    setup.switchover_ack = peers.way == Way::Ack;
    if KEPT.contains(&name) {
        setup.plan = Some(Plan { keep: Some(lab.tmp.join(format!("{name}.stream"))), flip: None });
    }
    let begun = Instant::now();
    let mut pair = Pair::start(lab, setup)?;
    let started = begun.elapsed();
    let result = migrate(lab, name, peers, what, &mut pair);
    if result.is_err() {
        pair.keep_files(lab, name);
    }
    println!(
        "{name}: {:.1} s, of these {:.1} s to start",
        begun.elapsed().as_secs_f64(),
        started.as_secs_f64()
    );
    result
}

fn migrate(lab: &Lab, name: &str, peers: &Peers, what: What, pair: &mut Pair) -> Res<()> {
    if let What::Test { pre_copy: true, bytes } = what {
        // Something for each round of pre-copy, but less than can be sent.
        pair.source_device.set("dirty_rate", bytes / 256)?;
    }
    pair.go()?;
    pair.complete(LIMIT)?;
    pair.expect_moved()?;
    pair.expect_states()?;
    let progress = pair.source.progress()?;
    println!("{name}: blackout {:.0} ms; {progress}", pair.blackout_ms()?);
    expect_way(peers, what, pair, &progress)?;
    pair.expect_contents()?;
    let Some(relay) = &pair.relay else { return Ok(()) };
    if let Some(failure) = relay.failure() {
        return Err(format!("relay: {failure}"));
    }
    let digest = if what == What::Mtty { None } else { Some(pair.target_device.get("digest")?) };
    keep(lab, name, digest.as_deref())
}

/// The device's state travelled as the row says.
fn expect_way(peers: &Peers, what: What, pair: &Pair, progress: &Value) -> Res<()> {
    let packets = pair.target.trace_lines("vfio_load_state_device_buffer_incoming").len();
    if (packets > 0) != (peers.way == Way::Multifd) {
        return Err(format!("{packets} packets by channels of their own"));
    }
    let acks = pair
        .target
        .trace_lines("vfio_load_state ")
        .iter()
        .filter(|l| l.contains(INIT_DATA_SENT))
        .count();
    if acks != usize::from(peers.way == Way::Ack) {
        return Err(format!("the end of the initial data was marked {acks} times"));
    }
    // What unpatched QEMU has loaded is what the source says that it sent.
    if peers.way != Way::Multifd && peers.target == STOCK {
        let sizes = pair.target.trace_lines("vfio_load_state_device_data ");
        let loaded: u64 = sizes.iter().filter_map(|line| size_in(line)).sum();
        let sent = progress.pointer("/vfio/transferred").and_then(Value::as_u64);
        if loaded == 0 || sent != Some(loaded) {
            return Err(format!("the source counts {sent:?} bytes of {loaded}"));
        }
    }
    // An mtty has nothing to say before it is stopped.
    if what.pre_copy() && what != What::Mtty {
        let lines = pair.source.trace_lines("vfio_");
        let before = lines.iter().take_while(|line| !line.ends_with(" state STOP_COPY"));
        if before.filter(|line| line.starts_with("vfio_save_block ")).count() == 0 {
            return Err("nothing was sent in pre-copy".into());
        }
    }
    Ok(())
}

/// The number after "size" in a line of the trace.
fn size_in(line: &str) -> Option<u64> {
    let (_, size) = line.split_once(") size ")?;
    let end = size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len());
    size.get(..end)?.parse().ok()
}

/// Moves a stream that was kept to where it outlives the machine, with the digest of what it holds.
fn keep(lab: &Lab, name: &str, digest: Option<&str>) -> Res<()> {
    let fail = |e: std::io::Error| format!("keeping the stream: {e}");
    let mut marks = 0;
    for number in 0.. {
        let from = lab.tmp.join(format!("{name}.stream.{number}"));
        if !from.exists() {
            break;
        }
        let bytes = std::fs::read(&from).map_err(fail)?;
        marks += bytes.windows(8).filter(|window| *window == CONFIG.to_be_bytes()).count();
        std::fs::write(lab.out.join(format!("{name}.stream.{number}")), bytes).map_err(fail)?;
        std::fs::remove_file(&from).map_err(fail)?;
    }
    // Whichever way it went, there is one of these.
    if marks != 1 {
        return Err(format!(
            "the stream that was kept has {marks} sections with a PCI configuration"
        ));
    }
    match digest {
        Some(digest) => {
            std::fs::write(lab.out.join(format!("{name}.digest")), digest).map_err(fail)
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kept_stream_is_that_of_a_row() {
        assert_eq!(kept("6.12").len(), KEPT.len());
        assert!(kept("7.3").iter().all(|name| name.ends_with("-mtty")));
        assert_eq!(kept("7.3").len(), 3);
    }
}
