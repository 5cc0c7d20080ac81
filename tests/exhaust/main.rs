// SPDX-License-Identifier: MIT OR Apache-2.0
//! Proof by exhaustion: each call of a whole migration fails with each errno that is known for it,
//! and in each other way, and each process of a migration is killed at each of its calls. After every
//! one of these, devices are where the library says, nothing is left over, the other side goes on,
//! and the next migration works. The same for checkpoints, whose calls to the system fail, too.
//!
//! `VFIOMIG_EXHAUST=1` adds failures that last, and second failures after the first, which takes
//! minutes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod checkpoint;
#[path = "../counting/mod.rs"]
mod counting;
mod files;
mod group;
mod judge;
mod killed;
mod migration;
mod processes;
mod table;
mod tap;

use std::collections::BTreeSet;
use std::io::Write;

use judge::Judge;
use migration::SHAPES;
use table::{Asked, Listed};
use tap::{Call, Fault, Strike};

/// In which ways a call can fail.
fn faults(asked: Asked, errnos: &[i32]) -> Vec<Fault> {
    let mut all: Vec<Fault> = errnos.iter().map(|errno| Fault::Errno(*errno)).collect();
    all.push(Fault::Dies);
    match asked {
        Asked::SetState => {
            all.extend(errnos.iter().map(|errno| Fault::Half(*errno)));
            all.extend([Fault::Error, Fault::Ignored]);
        }
        Asked::GetState => all.push(Fault::Error),
        Asked::Read | Asked::Write => {
            all.extend([Fault::Error, Fault::Short, Fault::Nothing, Fault::TooMuch]);
        }
        Asked::RegionRead => all.extend([Fault::Short, Fault::Nothing, Fault::TooMuch]),
        _ => {}
    }
    all
}

/// A part of all points: this one of so many.
#[derive(Clone, Copy)]
struct Share {
    this: usize,
    of: usize,
}

/// What a share has come to.
#[derive(Default)]
struct Found {
    covered: BTreeSet<(Asked, i32)>,
    points: usize,
    failed: usize,
}

fn try_all(share: Share) -> Found {
    let thorough = std::env::var_os("VFIOMIG_EXHAUST").is_some();
    let errnos = table::errnos();
    let mut judge = Judge::new(Listed::read());
    let (mut covered, mut at) = (BTreeSet::new(), 0);
    for shape in SHAPES {
        let calls: Vec<Call> = judge.undisturbed(shape);
        for (nth, call) in (1..).zip(&calls) {
            for fault in faults(call.asked, &errnos[&call.asked]) {
                at += 1;
                if at % share.of != share.this {
                    continue;
                }
                let strike = Strike { nth, fault, lasts: false };
                judge.point(shape, &[strike]);
                if let Fault::Errno(errno) = fault {
                    covered.insert((call.asked, errno));
                }
                if thorough {
                    judge.point(shape, &[Strike { lasts: true, ..strike }]);
                    for later in nth + 1..nth + 30 {
                        let fault = Fault::Errno(libc::EIO);
                        judge.point(shape, &[strike, Strike { nth: later, fault, lasts: false }]);
                    }
                }
            }
        }
    }
    Found { covered, points: judge.points(), failed: judge.report() }
}

#[test]
fn each_call_fails_in_each_way() {
    // Shares are processes: memory and file descriptors are counted for all of one.
    if let Some(share) = processes::share() {
        processes::tell(&try_all(share));
        return;
    }
    let all = table::errnos().values().map(Vec::len).sum::<usize>();
    let Found { covered, points, failed } = processes::in_shares();
    say(&format!(
        "exhaust: {} of {all} (operation, errno) pairs, {points} points in {} shapes, {failed} failed",
        covered.len(),
        SHAPES.len()
    ));
    assert_eq!((covered.len(), failed), (all, 0));
}

#[test]
fn each_call_of_a_checkpoint_fails_in_each_way() {
    // Alone in a process, because file descriptors are counted.
    let Some(()) = processes::alone("each_call_of_a_checkpoint_fails_in_each_way") else { return };
    let mut trial = checkpoint::Trial::new();
    trial.devices();
    let devices = trial.points;
    let seen = trial.files();
    say(&format!(
        "exhaust: checkpoints and restores: {devices} points in calls to devices, {} in {} functions \
         of the system, {} failed",
        trial.points - devices,
        seen.len(),
        trial.failed
    ));
    let all = files::ALL.iter().filter(|name| !seen.contains(*name)).collect::<Vec<_>>();
    assert!(all.is_empty() && devices > 1000, "{devices}, and never called: {all:?}");
    assert_eq!(trial.failed, 0);
}

#[test]
fn each_call_of_a_groups_devices_fails_in_each_way() {
    let (points, [on_source, on_target, lost]) = group::all();
    say(&format!(
        "exhaust: {points} points in a group's migration: {on_source} on the source, {on_target} on \
         the target, {lost} lost and said so, 0 failed"
    ));
    assert!(on_source > 100 && on_target > 100, "{on_source} {on_target}");
}

#[test]
fn each_process_is_killed_at_each_call() {
    if let Some(role) = processes::role() {
        return killed::child(&role);
    }
    let points = killed::all();
    say(&format!("exhaust: {points} of {points} places where a process is killed, 0 failed"));
    assert!(points > 100, "{points}");
}

/// Past the harness, which keeps what tests print.
fn say(line: &str) {
    std::io::stdout().write_all(format!("\n{line}\n").as_bytes()).unwrap();
}
