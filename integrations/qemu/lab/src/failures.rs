// SPDX-License-Identifier: MIT OR Apache-2.0
//! Migrations that cannot succeed. Afterwards the guest must run on exactly one side, unless the
//! process that it ran in is gone, and nowhere with other contents than it had.
//!
//! Unpatched QEMU does not keep to that everywhere. What it does then is reported, and the case
//! counts as skipped, not as passed or failed; a patched one must.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cases::{Lab, NOT_REQUIRED, Res};
use crate::device::reset_in;
use crate::dirty;
use crate::pair::{LIMIT, Other, Pair, Setup, What};
use crate::relay::{CONFIG, DATA, Flip, NATIVE_DATA, Plan};
use crate::versions::{NATIVE, PATCHED, STOCK, newest};
use crate::vm::{Life, Side, Vm};

const MIB: u64 = 1 << 20;
const STOP_COPY: What = What::Test { bytes: 8 * MIB, pre_copy: false };
const PRE_COPY: What = What::Test { bytes: 8 * MIB, pre_copy: true };

/// Where a failure happens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before it begins.
    Before,
    /// While memory is sent, slowly. Nothing was sent of the device, which cannot be read before it
    /// is stopped.
    Memory,
    /// While the source's guest runs; it would never end by itself.
    PreCopy,
    /// While the stopped device is read.
    StopCopy,
    /// Everything has been sent, and the target's device takes its time to start.
    Sent,
}

/// What happens.
#[derive(Clone, Copy)]
enum Event {
    Cancel,
    KillTarget,
    KillSource,
    ResetSourceDevice,
    ResetTargetDevice,
    ResetGuest,
    Cut,
    /// The guest is stopped and goes on.
    StopCont,
    /// Like that. When the guest is about to go on and devices take their time to, QEMU has just
    /// sent memory, and looks for what else there is to send.
    StopContSending,
    /// It is stopped, and the migration cancelled; then it goes on.
    StopCancel,
    /// The network takes no more data; the guest is stopped, the migration cancelled.
    Stall,
    /// The migration's connections are broken off, which QEMU does whatever holds its big lock.
    Yank,
    /// The same while the network takes no more data.
    StallYank,
    /// The migration's parameters are changed so that no device can use multifd's channels any
    /// more.
    ChangeParameters,
    /// The target's device accepts the state, and then cannot be started.
    FailTargetStart,
    /// The source's device cannot go to pre-copy, and must be reset while its guest runs.
    FailPreCopy,
    /// The first device cannot be read; the next one takes long.
    FailRead,
}

struct Case {
    name: &'static str,
    what: What,
    target_what: Option<What>,
    others: &'static [Other],
    /// In QEMU's format, and in the library's.
    flip: Option<(Flip, Flip)>,
    happens: Option<(Phase, Event)>,
    return_path: bool,
    multifd: bool,
    /// What is to be expected.
    end: End,
}

/// How a case ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The guest runs on one side, with the contents that it had.
    OneSide,
    /// The guest runs on the source.
    Stays,
    /// The same, and it stood for less than [`SHORT`].
    StaysShort,
    /// The guest runs nowhere, because its device was harmed when the source had let go of it.
    Stopped,
    /// The guest is stopped on the source: its device was reset while the guest could not have done
    /// it.
    StoppedHere,
    /// Like `OneSide`; in QEMU's format the contents may be damaged, because nothing in it shows
    /// that.
    Unnoticed,
    /// The migration is none the worse for it, in QEMU's format.
    Completes,
    /// The guest may run on both sides: if the connection is cut while the target starts, QEMU's
    /// source cannot know whether it did, and goes on.
    BothAllowed,
}

const PLAIN: Case = Case {
    name: "",
    what: STOP_COPY,
    target_what: None,
    others: &[],
    flip: None,
    happens: None,
    return_path: false,
    multifd: false,
    end: End::OneSide,
};

/// How long a guest may stand whose migration fails at once, on a slow machine.
const SHORT: Duration = Duration::from_secs(10);

const fn event(name: &'static str, phase: Phase, event: Event) -> Case {
    let pre_copy = matches!(phase, Phase::PreCopy) || matches!(event, Event::FailPreCopy);
    let what = if pre_copy { PRE_COPY } else { STOP_COPY };
    Case { name, what, happens: Some((phase, event)), ..PLAIN }
}

const fn return_path(case: Case, name: &'static str) -> Case {
    Case { name, return_path: true, ..case }
}

const fn multifd(case: Case, name: &'static str) -> Case {
    Case { name, multifd: true, return_path: true, ..case }
}

const fn other(name: &'static str, target: What) -> Case {
    Case { name, target_what: Some(target), ..PLAIN }
}

const fn several(case: Case, name: &'static str, others: &'static [Other]) -> Case {
    Case { name, others, return_path: true, ..case }
}

const fn ending(case: Case, end: End) -> Case {
    Case { end, ..case }
}

const fn at(mark: u64, nth: usize, offset: usize) -> Flip {
    Flip { mark, nth, offset, bit: 3 }
}

const fn flip(name: &'static str, what: What, qemu: Flip, native: Flip) -> Case {
    Case { name, what, flip: Some((qemu, native)), ..PLAIN }
}

const OTHER_SIZE: What = What::Test { bytes: 4 * MIB, pre_copy: false };
const KILL_SENT: Case = event("target-killed-after-last-byte", Phase::Sent, Event::KillTarget);
const CUT_SENT: Case = event("cut-after-last-byte", Phase::Sent, Event::Cut);
/// In the middle of the 4 KiB after the length, the stream's header and a record's.
const IN_DATA: Flip = at(DATA, 2, 8 + 48 + 32 + 2000);
/// After the length and a frame's header.
const IN_FRAME: Flip = at(NATIVE_DATA, 2, 8 + 32 + 2000);
/// What a patched QEMU puts after a length: a buffer of `VFIOMIG_GOOD_BUFFER` without mark, length
/// and room for the mark of the end.
const PIECE: usize = (128 << 10) - 24;
const FLIP_STOP_COPY: Case = flip("flip-data-stopcopy", STOP_COPY, IN_DATA, IN_FRAME);
const FLIP_CONFIG: Case = flip(
    "flip-config",
    STOP_COPY,
    // After the mark come 4 bytes of version and then the configuration: in the address of BAR 0.
    at(CONFIG, 0, 4 + 0x12),
    // The first frame of the stopped device, after its kind.
    at(NATIVE_DATA, 1, 8 + 32 + 4 + 4 + 0x12),
);
const YANK_STOP_COPY: Case =
    ending(event("yank-stopcopy", Phase::StopCopy, Event::Yank), End::Stays);
/// At 1 MiB/s, three times what [`SHORT`] allows.
const SLOW: What = What::Test { bytes: 32 * MIB, pre_copy: false };
const KILL_STOP_COPY: Case = event("target-killed-stopcopy", Phase::StopCopy, Event::KillTarget);
const OTHER_TYPE: Case = other("other-type", What::Mtty);

/// Next to the first device: one with pre-copy, an mtty.
const OTHERS: &[Other] = &[Other::new(PRE_COPY), Other::new(What::Mtty)];
/// The last of them is another one on the target.
const ONE_DIFFERS: &[Other] =
    &[Other::new(What::Mtty), Other { target_what: Some(OTHER_SIZE), ..Other::new(STOP_COPY) }];
const STOP_CONT_SENDING: Case = several(
    event("", Phase::Memory, Event::StopContSending),
    "several-stop-cont-sending",
    &[Other::new(STOP_COPY)],
);
const RESET_STOP_COPY: Case = ending(
    event("source-data-fd-dies-stopcopy", Phase::StopCopy, Event::ResetSourceDevice),
    End::StoppedHere,
);

const CASES: [Case; 50] = [
    event("cancel-precopy", Phase::PreCopy, Event::Cancel),
    YANK_STOP_COPY,
    return_path(YANK_STOP_COPY, "yank-stopcopy-return-path"),
    multifd(YANK_STOP_COPY, "yank-stopcopy-multifd"),
    event("target-killed-precopy", Phase::PreCopy, Event::KillTarget),
    KILL_STOP_COPY,
    multifd(KILL_STOP_COPY, "target-killed-stopcopy-multifd"),
    KILL_SENT,
    return_path(KILL_SENT, "target-killed-after-last-byte-return-path"),
    CUT_SENT,
    ending(return_path(CUT_SENT, "cut-after-last-byte-return-path"), End::BothAllowed),
    event("cut-stopcopy", Phase::StopCopy, Event::Cut),
    event("source-killed-precopy", Phase::PreCopy, Event::KillSource),
    event("source-killed-stopcopy", Phase::StopCopy, Event::KillSource),
    event("source-killed-after-last-byte", Phase::Sent, Event::KillSource),
    OTHER_TYPE,
    return_path(OTHER_TYPE, "other-type-return-path"),
    other("other-size", OTHER_SIZE),
    return_path(other("", OTHER_SIZE), "other-size-return-path"),
    ending(multifd(other("", OTHER_SIZE), "other-size-multifd"), End::Stays),
    flip("flip-data-precopy", PRE_COPY, IN_DATA, IN_FRAME),
    FLIP_STOP_COPY,
    return_path(FLIP_STOP_COPY, "flip-data-stopcopy-return-path"),
    flip("flip-length-stopcopy", STOP_COPY, at(DATA, 2, 5), at(NATIVE_DATA, 2, 5)),
    flip("flip-mark-stopcopy", STOP_COPY, at(DATA, 1, 8 + PIECE + 2), at(NATIVE_DATA, 2, 9)),
    flip("flip-frame-header", STOP_COPY, at(DATA, 2, 8 + 48 + 8), at(NATIVE_DATA, 2, 8 + 17)),
    ending(FLIP_CONFIG, End::Unnoticed),
    event("source-data-fd-dies-precopy", Phase::PreCopy, Event::ResetSourceDevice),
    RESET_STOP_COPY,
    event("target-data-fd-dies-precopy", Phase::PreCopy, Event::ResetTargetDevice),
    event("target-data-fd-dies-stopcopy", Phase::StopCopy, Event::ResetTargetDevice),
    event("guest-reset-precopy", Phase::PreCopy, Event::ResetGuest),
    ending(event("guest-reset-memory", Phase::Memory, Event::ResetGuest), End::Completes),
    ending(event("stop-cont-memory", Phase::Memory, Event::StopCont), End::Completes),
    ending(STOP_CONT_SENDING, End::Completes),
    event("stop-cont-precopy", Phase::PreCopy, Event::StopCont),
    event("stop-cancel-precopy", Phase::PreCopy, Event::StopCancel),
    event("stalled-network-precopy", Phase::PreCopy, Event::Stall),
    ending(
        multifd(event("", Phase::StopCopy, Event::StallYank), "stalled-network-stopcopy-multifd"),
        End::Stays,
    ),
    ending(
        multifd(event("", Phase::Memory, Event::ChangeParameters), "parameters-changed-multifd"),
        End::Stays,
    ),
    ending(
        event("source-device-fails-precopy", Phase::Before, Event::FailPreCopy),
        End::StoppedHere,
    ),
    several(
        ending(event("", Phase::Before, Event::FailRead), End::StaysShort),
        "several-read-fails",
        &[Other::new(SLOW)],
    ),
    multifd(
        several(
            ending(event("", Phase::Before, Event::FailRead), End::StaysShort),
            "",
            &[Other::new(SLOW)],
        ),
        "several-read-fails-multifd",
    ),
    ending(
        event("target-device-fails-to-start", Phase::Before, Event::FailTargetStart),
        End::Stopped,
    ),
    several(event("", Phase::PreCopy, Event::Cancel), "several-cancel-precopy", OTHERS),
    several(YANK_STOP_COPY, "several-yank-stopcopy", OTHERS),
    several(multifd(YANK_STOP_COPY, ""), "several-yank-stopcopy-multifd", OTHERS),
    several(KILL_STOP_COPY, "several-target-killed-stopcopy", OTHERS),
    several(RESET_STOP_COPY, "several-source-data-fd-dies-stopcopy", OTHERS),
    several(PLAIN, "several-one-differs", ONE_DIFFERS),
];

/// Whom this is tried with: name, both sides, and whether it has to go well.
pub type Whom = (&'static str, Side, bool);
pub const WITH_QEMU_FORMAT: Whom = ("patched", PATCHED, true);
pub const WITH_NATIVE_FORMAT: Whom = ("native", NATIVE, true);
pub const WITHOUT: Whom = ("stock", STOCK, false);

/// Runs it all.
pub fn run(lab: &Lab, (prefix, side, strict): Whom) {
    if lab.kernel != "6.12" {
        return;
    }
    for case in &CASES {
        if side.native() && matches!(case.happens, Some((_, Event::ChangeParameters))) {
            // Does not use the channels.
            continue;
        }
        let name = format!("{prefix}-{}", case.name);
        lab.case(&name, || run_case(lab, &name, case, side, strict));
    }
}

fn run_case(lab: &Lab, name: &str, case: &Case, side: Side, strict: bool) -> Res<()> {
    let mut setup = Setup::new(side, side, newest(), case.what).with(case.others);
    setup.target_what = case.target_what;
    setup.return_path = case.return_path;
    setup.multifd = case.multifd;
    let native = side.native();
    let flip = case.flip.map(|(qemu, library)| if native { library } else { qemu });
    setup.plan = Some(Plan { flip, keep: None });
    if matches!(case.happens, Some((Phase::Memory, _))) {
        // So that it does not come to its end.
        setup.parameters = json!({
            "max-bandwidth": 100 << 10,
            "avail-switchover-bandwidth": 100 << 10,
            "downtime-limit": 1,
        });
    }
    let begun = Instant::now();
    let mut pair = Pair::start(lab, setup)?;
    let result = carry_out(lab, case, strict, native, &mut pair);
    println!("{name}: {:.1} s", begun.elapsed().as_secs_f64());
    pair.keep_files(lab, name);
    match result {
        Ok((what_was_seen, None)) => {
            println!("| {name}: {what_was_seen}");
            Ok(())
        }
        Ok((what_was_seen, Some(broken))) if !strict => {
            println!("| {name}: {what_was_seen}");
            Err(format!("{NOT_REQUIRED}{broken}"))
        }
        Ok((what_was_seen, Some(broken))) => Err(format!("{broken}: {what_was_seen}")),
        Err(e) => Err(e),
    }
}

/// Makes it happen and reports what came of it, and what of that must not be.
fn carry_out(
    lab: &Lab,
    case: &Case,
    strict: bool,
    native: bool,
    pair: &mut Pair,
) -> Res<(String, Option<String>)> {
    if let Some((phase, event)) = case.happens {
        match phase {
            Phase::Before => prepare(pair, event)?,
            // More than what lies between the two takes.
            Phase::Memory => dirty::fill(&pair.source)?,
            Phase::PreCopy => {
                pair.source_device.set("dirty_rate", 8 * MIB)?;
                pair.source_device.set("read_rate", 4 * MIB)?;
            }
            Phase::StopCopy => pair.source_device.set("read_rate", MIB)?,
            // RUNNING_P2P, the step that ends RESUMING.
            Phase::Sent => pair.target_device.set("latency_us", "5 4000000")?,
        }
    } else if case.what.pre_copy() {
        // Enough for a few reads.
        pair.source_device.set("dirty_rate", MIB / 4)?;
    }
    pair.go()?;
    if let Some((phase, event)) = case.happens {
        reach(pair, phase)?;
        make_happen(pair, event)?;
        if phase == Phase::Memory {
            let fast = json!({
                "max-bandwidth": 10u64 << 30,
                "avail-switchover-bandwidth": 10u64 << 30,
                "downtime-limit": 100_000,
            });
            pair.source.qmp.command("migrate-set-parameters", fast)?;
        }
    }
    settle(pair)?;
    if case.flip.is_some() && !pair.relay.as_ref().is_some_and(|relay| relay.flipped()) {
        return Err("no bit was flipped".into());
    }

    let (source, target) = pair.observe()?;
    let status = pair
        .source
        .qmp
        .last("MIGRATION")
        .and_then(|e| e.data.get("status")?.as_str().map(str::to_owned));
    let mut seen = format!(
        "source {source}; target {target}; migration {}",
        status.as_deref().unwrap_or_default()
    );
    let source_failure =
        pair.source.progress().ok().and_then(|p| Some(p.get("error-desc")?.as_str()?.to_owned()));
    for (side, said) in [("source", pair.source.said()), ("target", pair.target.said())] {
        if !said.is_empty() {
            seen += &format!("; {side} said: {said}");
        }
    }
    if let Some(why) = source_failure {
        seen += &format!("; source's error: {why}");
    }
    let completed = status.as_deref() == Some("completed");
    let mut broken = judge(case, native, completed, &source, &target);
    if broken.is_none() && case.end == End::StaysShort {
        broken = stood_long(pair)?;
    }
    // A device that the guest had reset has other contents than before, and keeps them.
    let damage_shows = native || case.end != End::Unnoticed;
    if broken.is_none() && target.runs() && damage_shows {
        broken = pair.expect_digests().err();
        if matches!(source, Life::Alive { .. }) {
            broken = broken.or_else(|| pair.expect_pci().err());
        }
    }
    // A source that was let down must be good for another migration.
    if broken.is_none() && source.runs() {
        for (knob, value) in [("dirty_rate", 0), ("read_rate", 0), ("fail_read", 0)] {
            pair.source_device.set(knob, value)?;
        }
        for member in pair.others.iter().filter(|member| member.what == SLOW) {
            member.source.set("read_rate", 0)?;
        }
        let as_before = json!({ "multifd-compression": "none" });
        pair.source.qmp.command("migrate-set-parameters", as_before)?;
        let again = pair.again(lab);
        match again {
            Ok(()) => seen += "; migrates afterwards",
            Err(e) if strict => return Err(format!("cannot migrate afterwards: {e}")),
            Err(e) => broken = Some(format!("cannot migrate afterwards: {e}")),
        }
    }
    Ok((seen, broken))
}

/// What must not be.
fn judge(
    case: &Case,
    native: bool,
    completed: bool,
    source: &Life,
    target: &Life,
) -> Option<String> {
    for (side, life) in [("source", source), ("target", target)] {
        if let Life::Dead(how) = life {
            let killed = matches!(
                (side, case.happens),
                ("source", Some((_, Event::KillSource))) | ("target", Some((_, Event::KillTarget)))
            );
            if how.starts_with("signal") && !killed {
                return Some(format!("{side} ended by {how}"));
            }
        }
    }
    // The process that it ran in is gone: the target's, from when the source has been told.
    let gone = matches!(source, Life::Dead(_))
        || completed
            && matches!(target, Life::Dead(_))
            && matches!(case.happens, Some((_, Event::KillTarget)));
    let stopped =
        |side: &Life| matches!(side, Life::Alive { status, .. } if status == "internal-error");
    match (source.runs(), target.runs()) {
        (true, false) if matches!(case.end, End::Stays | End::StaysShort) => None,
        _ if matches!(case.end, End::Stays | End::StaysShort) => {
            Some("the guest does not stay where it was".into())
        }
        (false, false) if case.end == End::Stopped && stopped(target) => None,
        (false, false) if case.end == End::StoppedHere && stopped(source) => None,
        _ if matches!(case.end, End::Stopped | End::StoppedHere) => {
            Some("the guest is not stopped by what its device has come to".into())
        }
        (true, true) if case.end == End::BothAllowed => None,
        (true, true) => Some("the guest runs on both sides".into()),
        (false, false) if !gone => Some("the guest runs nowhere".into()),
        (true, false) if case.end == End::Completes && !native => {
            Some("the migration does not complete".into())
        }
        _ => None,
    }
}

/// What is to fail is made ready to.
fn prepare(pair: &Pair, event: Event) -> Res<()> {
    match event {
        Event::FailPreCopy => {
            pair.source_device.set("fail_to_error", 1)?;
            pair.source_device.set("fail_set_state", "1 5")
        }
        Event::FailRead => {
            pair.source_device.set("fail_read", "1 5")?;
            let slow = pair.others.first().ok_or("no second device")?;
            slow.source.set("read_rate", MIB)
        }
        // RUNNING_P2P, STOP, RESUMING; then STOP, and the step that is to fail.
        _ => {
            pair.target_device.set("fail_to_error", 1)?;
            pair.target_device.set("fail_set_state", "5 5")
        }
    }
}

/// Whether the source's guest stood for longer than it may.
fn stood_long(pair: &Pair) -> Res<Option<String>> {
    let at = |name| pair.source.qmp.last(name).map(|event| event.at_us).ok_or("no such event");
    let (stop, resume) = (at("STOP")?, at("RESUME")?);
    let stood = Duration::from_micros(resume.saturating_sub(stop));
    Ok((stood > SHORT).then(|| format!("the guest stood for {stood:?}")))
}

fn reach(pair: &mut Pair, phase: Phase) -> Res<()> {
    match phase {
        Phase::Before => {}
        Phase::Memory => pair.source.wait_for("memory being sent", LIMIT, |vm| {
            Ok(vm.progress()?.pointer("/ram/transferred").and_then(Value::as_u64) > Some(50 << 10))
        })?,
        Phase::PreCopy => pair.source.wait_for("three pieces in pre-copy", LIMIT, |vm| {
            Ok(vm.trace_lines("vfio_save_block ").len() >= 3)
        })?,
        Phase::StopCopy => {
            pair.source.wait_state("STOP_COPY", LIMIT)?;
            // At 1 MiB/s, this is a quarter of it.
            std::thread::sleep(Duration::from_secs(2));
        }
        Phase::Sent => pair.target.wait_for("the target's last step", LIMIT, |vm| {
            Ok(!vm.trace_lines("new state RUNNING_P2P").is_empty())
        })?,
    }
    // If it had ended by now, this would be a test of something else.
    let state = pair.source.states().last().cloned().unwrap_or_default();
    let want: &[&str] = match phase {
        Phase::Before => return Ok(()),
        Phase::Memory => &[""],
        Phase::PreCopy => &["PRE_COPY"],
        Phase::StopCopy => &["STOP_COPY"],
        // Depends on whether the source waits for the target.
        Phase::Sent => &["STOP_COPY", "STOP"],
    };
    if !want.contains(&state.as_str()) {
        return Err(format!("the source's device is in {state} already"));
    }
    Ok(())
}

fn make_happen(pair: &mut Pair, event: Event) -> Res<()> {
    match event {
        Event::Cancel => pair.source.qmp.command("migrate_cancel", json!({})).map(|_| ()),
        Event::KillTarget => pair.target.kill(),
        Event::KillSource => pair.source.kill(),
        Event::ResetSourceDevice => reset_in(pair.source.child.id()),
        Event::ResetTargetDevice => reset_in(pair.target.child.id()),
        Event::ResetGuest => {
            pair.source.qmp.command("system_reset", json!({}))?;
            // The firmware may reset the machine once more, until it has begun to set it up.
            pair.wait_pci()
        }
        Event::StopCont => {
            pair.source.qmp.command("stop", json!({}))?;
            std::thread::sleep(Duration::from_millis(300));
            pair.source.qmp.command("cont", json!({})).map(|_| ())
        }
        Event::StopContSending => {
            let Pair { source, source_device, others, relay: Some(relay), .. } = pair else {
                return Err("no relay".into());
            };
            relay.stall(true);
            let fast = json!({ "max-bandwidth": 10u64 << 30 });
            source.qmp.command("migrate-set-parameters", fast)?;
            // Until what lies between the two is full.
            std::thread::sleep(Duration::from_secs(1));
            source.qmp.command("stop", json!({}))?;
            // RUNNING_P2P.
            source_device.set("latency_us", "5 1500000")?;
            for other in others {
                other.source.set("latency_us", "5 1500000")?;
            }
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(500));
                    relay.stall(false);
                });
                source.qmp.command("cont", json!({})).map(|_| ())
            })
        }
        Event::StopCancel => {
            pair.source.qmp.command("stop", json!({}))?;
            stand_still(pair)
        }
        Event::Stall => {
            pair.relay.as_ref().ok_or("no relay")?.stall(true);
            // Until what lies between the two is full.
            std::thread::sleep(Duration::from_secs(2));
            let asked = Instant::now();
            pair.source.qmp.command("stop", json!({}))?;
            if asked.elapsed() > Duration::from_secs(10) {
                return Err(format!("the monitor was deaf for {:?}", asked.elapsed()));
            }
            let result = stand_still(pair);
            pair.relay.as_ref().ok_or("no relay")?.stall(false);
            result
        }
        Event::Yank => yank(pair),
        Event::StallYank => {
            pair.relay.as_ref().ok_or("no relay")?.stall(true);
            pair.source_device.set("read_rate", 0)?;
            std::thread::sleep(Duration::from_secs(2));
            yank(pair)?;
            pair.source.wait_migrated(LIMIT)?;
            pair.relay.as_ref().ok_or("no relay")?.stall(false);
            Ok(())
        }
        Event::ChangeParameters => {
            let changed = json!({ "multifd-compression": "zlib" });
            pair.source.qmp.command("migrate-set-parameters", changed).map(|_| ())
        }
        // Is on its way.
        Event::FailTargetStart | Event::FailPreCopy | Event::FailRead => Ok(()),
        Event::Cut => {
            pair.relay.as_ref().ok_or("no relay")?.cut();
            Ok(())
        }
    }
}

/// Breaks off the source's connections.
fn yank(pair: &mut Pair) -> Res<()> {
    let asked = Instant::now();
    let connections = json!({ "instances": [{ "type": "migration" }] });
    pair.source.qmp.out_of_band("yank", connections)?;
    if asked.elapsed() > Duration::from_secs(10) {
        return Err(format!("the monitor was deaf for {:?}", asked.elapsed()));
    }
    Ok(())
}

/// Cancels the migration of a stopped guest, whose device must not run before the guest does.
fn stand_still(pair: &mut Pair) -> Res<()> {
    pair.source.forget_trace();
    pair.source.qmp.command("migrate_cancel", json!({}))?;
    let status = pair.source.wait_migrated(LIMIT)?;
    let states = pair.source.states();
    if status != "cancelled" || states.iter().any(|state| state.starts_with("RUNNING")) {
        return Err(format!("migration {status}; states of the device {states:?}"));
    }
    pair.source.qmp.command("cont", json!({})).map(|_| ())
}

/// Whether this side has done everything that it will do of its own accord.
fn at_rest(vm: &mut Vm, source: bool) -> Res<bool> {
    if vm.ended()?.is_some() || vm.qmp.poll(Duration::from_millis(20)).is_err() {
        return Ok(vm.ended()?.is_some());
    }
    let status =
        vm.qmp.last("MIGRATION").and_then(|e| e.data.get("status").and_then(Value::as_str));
    Ok(match status {
        Some("completed") => source || vm.qmp.last("RESUME").is_some(),
        Some("failed" | "cancelled") => true,
        _ => false,
    })
}

/// Waits until nothing more will happen: what was throttled goes on faster, except if that is what
/// the failure is about. A pre-copy that has survived the failure may end.
fn settle(pair: &mut Pair) -> Res<()> {
    std::thread::sleep(Duration::from_millis(500));
    for (knob, value) in [("dirty_rate", 0), ("read_rate", 0)] {
        pair.source_device.set(knob, value)?;
    }
    let deadline = Instant::now() + Duration::from_secs(40);
    let mut rest = (false, false);
    while rest != (true, true) && Instant::now() < deadline {
        rest = (at_rest(&mut pair.source, true)?, at_rest(&mut pair.target, false)?);
    }
    // A side that waits forever is not a fault of the test: what it does is checked.
    std::thread::sleep(Duration::from_millis(300));
    Ok(())
}
