// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two QEMUs compared, in one boot and alternately: how long the guest is stopped, how long all of
//! it takes, how many system calls and how much memory.
//!
//! `QEMU_A` and `QEMU_B` in the environment are the two: BUILD, or BUILD and properties of the
//! device that begin with a comma. A is measured, B is what it is compared with.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cases::{Lab, Res};
use crate::pair::{Pair, Setup, What};
use crate::versions::newest;
use crate::vm::{Side, Vm};

const BYTES: u64 = 256 << 20;
/// Bytes a second: with the 500 ms of downtime that the setup permits, 64 MiB are left for the
/// stop.
const SWITCHOVER_BANDWIDTH: u64 = 128 << 20;
/// Measurements of each, after one that is not counted.
const ROUNDS: usize = 5;
/// Of each, with strace.
const WATCHED: usize = 3;

/// strace makes it slow.
const PATIENCE: Duration = Duration::from_secs(500);

/// One migration, measured.
#[derive(Clone, Copy, Default)]
struct Sample {
    blackout_ms: f64,
    device_ms: f64,
    total_ms: f64,
    source_kib: f64,
    target_kib: f64,
}

fn side(name: &str) -> Res<Side> {
    let text: &'static str = match std::env::var(name) {
        Ok(text) if !text.is_empty() => Box::leak(text.into_boxed_str()),
        _ => "stock",
    };
    let (build, props) = text.split_at(text.find(',').unwrap_or(text.len()));
    let props = Box::leak(format!(",migration-events=on{props}").into_boxed_str());
    Ok(Side { build, props })
}

/// Runs it all.
pub fn run(lab: &Lab) {
    for (name, pre_copy, multifd) in
        [("256m", false, false), ("256m-precopy", true, false), ("256m-multifd", false, true)]
    {
        lab.case(&format!("bench-{name}"), || compare(lab, name, pre_copy, multifd));
    }
}

fn compare(lab: &Lab, name: &str, pre_copy: bool, multifd: bool) -> Res<()> {
    let sides = [side("QEMU_A")?, side("QEMU_B")?];
    let mut samples = [Vec::new(), Vec::new()];
    for round in 0..=ROUNDS {
        for (side, samples) in sides.iter().zip(&mut samples) {
            let sample = migrate(lab, *side, pre_copy, multifd, None)?;
            println!(
                "{name} {}: blackout {:.0} ms, total {:.0} ms",
                side.build, sample.blackout_ms, sample.total_ms
            );
            // The first one finds memory that the machine has never touched.
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    let [a, b] = &samples;
    let report = |what: &str, of: fn(&Sample) -> f64| {
        report(
            what,
            name,
            &a.iter().map(of).collect::<Vec<_>>(),
            &b.iter().map(of).collect::<Vec<_>>(),
        );
    };
    report("downtime-ms", |s| s.blackout_ms);
    report("device-downtime-ms", |s| s.device_ms);
    report("total-ms", |s| s.total_ms);
    report("source-peak-kib", |s| s.source_kib);
    report("target-peak-kib", |s| s.target_kib);

    // In migrations of their own: being watched takes time.
    let mut counts = [Vec::new(), Vec::new()];
    for _ in 0..WATCHED {
        for (side, counts) in sides.iter().zip(&mut counts) {
            let mut count = [0.0; 2];
            migrate(lab, *side, pre_copy, multifd, Some(&mut count))?;
            counts.push(count);
        }
    }
    let [a, b] = &counts;
    for (which, what) in ["source-syscalls", "target-syscalls"].iter().enumerate() {
        let of = |counts: &[[f64; 2]]| {
            counts.iter().filter_map(|c| c.get(which).copied()).collect::<Vec<_>>()
        };
        crate::bench::report(what, name, &of(a), &of(b));
    }
    Ok(())
}

/// A line of results: medians, their ratio, and the least and the greatest ratio of two consecutive
/// runs; and all values, for people to read.
fn report(what: &str, variant: &str, ours: &[f64], baseline: &[f64]) {
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values
    };
    let middle = |values: &[f64]| sorted(values).get(values.len() / 2).copied().unwrap_or(f64::NAN);
    let ratios = sorted(&ours.iter().zip(baseline).map(|(a, b)| a / b).collect::<Vec<_>>());
    let (min, max) = (ratios.first().unwrap_or(&f64::NAN), ratios.last().unwrap_or(&f64::NAN));
    let (a, b) = (middle(ours), middle(baseline));
    println!(
        "| bench qemu-{what}/{variant} ours={a:.0} baseline={b:.0} ratio={:.3} (min {min:.3} max {max:.3})",
        a / b
    );
    println!("{what}/{variant}: ours {ours:.0?} baseline {baseline:.0?}");
}

fn migrate(
    lab: &Lab,
    side: Side,
    pre_copy: bool,
    multifd: bool,
    counts: Option<&mut [f64; 2]>,
) -> Res<Sample> {
    let mut setup = Setup::new(side, side, newest(), What::Test { bytes: BYTES, pre_copy });
    setup.trace = false;
    setup.multifd = multifd;
    setup.return_path = multifd;
    if pre_copy {
        // Left to itself, QEMU stops the guest when what is left should take just the permitted
        // downtime: then that is the result, whoever sends it. So both stop with the same amount
        // left.
        setup.parameters = json!({ "avail-switchover-bandwidth": SWITCHOVER_BANDWIDTH });
    }
    let mut pair = Pair::start(lab, setup)?;
    let watchers = match &counts {
        Some(_) => Some([
            Watch::start(lab, "source", &pair.source)?,
            Watch::start(lab, "target", &pair.target)?,
        ]),
        None => None,
    };
    pair.source.qmp.patience = PATIENCE;
    pair.target.qmp.patience = PATIENCE;
    let begun = Instant::now();
    pair.go()?;
    pair.complete(PATIENCE)?;
    let total = begun.elapsed();
    if let (Some(counts), Some(watchers)) = (counts, watchers) {
        for (count, watch) in counts.iter_mut().zip(watchers) {
            *count = watch.end()?;
        }
    }
    let sample = Sample {
        blackout_ms: pair.blackout_ms()?,
        device_ms: pair.device_blackout_ms()?,
        total_ms: total.as_secs_f64() * 1000.0,
        source_kib: pair.source.peak_kib()? as f64,
        target_kib: pair.target.peak_kib()? as f64,
    };
    // What was not migrated would be fast.
    pair.expect_contents()?;
    Ok(sample)
}

/// strace, attached to a QEMU.
struct Watch {
    child: Child,
    report: std::path::PathBuf,
}

impl Watch {
    fn start(lab: &Lab, name: &str, vm: &Vm) -> Res<Watch> {
        let report = lab.tmp.join(format!("{name}.strace"));
        let said = lab.tmp.join(format!("{name}.strace.err"));
        let err = fs::File::create(&said).map_err(|e| e.to_string())?;
        let child = Command::new(lab.dir.join("strace"))
            .args(["-f", "-c", "-o"])
            .arg(&report)
            .args(["-p", &vm.child.id().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(err)
            .spawn()
            .map_err(|e| format!("strace: {e}"))?;
        let watch = Watch { child, report };
        watch.attached(&said)?;
        Ok(watch)
    }

    fn attached(&self, said: &Path) -> Res<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !fs::read_to_string(said).is_ok_and(|text| text.contains("attached")) {
            if Instant::now() > deadline {
                return Err("strace does not attach".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // It says so after the first thread.
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    }

    /// Lets go and returns how many calls there were.
    #[allow(unsafe_code)]
    fn end(mut self) -> Res<f64> {
        let pid = i32::try_from(self.child.id()).map_err(|e| e.to_string())?;
        // SAFETY: takes numbers only, and the process is our child, which nobody has waited for.
        unsafe { libc::kill(pid, libc::SIGINT) };
        self.child.wait().map_err(|e| format!("strace: {e}"))?;
        let text = fs::read_to_string(&self.report).map_err(|e| format!("strace's report: {e}"))?;
        // "100.00 SECONDS USECS CALLS [ERRORS] total"
        text.lines()
            .find(|line| line.trim_end().ends_with("total"))
            .and_then(|line| line.split_whitespace().nth(3)?.parse().ok())
            .ok_or_else(|| format!("no total in strace's report: {text}"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
