// SPDX-License-Identifier: MIT OR Apache-2.0
//! A group's migration: two devices on each side, of which one is asked through the tap. Each of its
//! calls fails in each way; then the guest is on one side, with all its devices, or a call has said
//! that it cannot be.

use std::time::Duration;

use vfiomig::device::DeviceOptions;
use vfiomig::group::{GroupOptions, Role};
use vfiomig::session::{Ending, LoadOptions, SaveOptions, SaveStatus};
use vfiomig::{Device, Group, Result};
use vfiomig_sim::{Sim, SimOptions, State};

use super::table::{self, Listed};
use super::tap::{At, Call, Fault, Strike, Tap};

const SIDES: [At; 2] = [At::Source, At::Target];

/// Where the guest is in the end.
#[derive(PartialEq, Eq, Debug)]
enum Guest {
    OnSource,
    OnTarget,
    Lost,
}

struct Vms {
    tap: Tap,
    sims: [Vec<Sim>; 2],
    groups: [Group; 2],
    contents: Vec<u64>,
    /// The guest was stopped, so a device that does not run keeps it from running.
    stopped: bool,
    /// What has failed, and where.
    errors: Vec<(At, &'static str, &'static str)>,
}

impl Vms {
    fn new(tapped: usize, strikes: &[Strike]) -> Result<Vms> {
        let tap = Tap::new(strikes);
        let sims = SIDES.map(|at| (0..2).map(|number| sim(at, number)).collect::<Vec<Sim>>());
        let contents = sims[0].iter().map(Sim::digest).collect();
        let groups = SIDES.map(|at| {
            let role = if at == At::Source { Role::Source } else { Role::Target };
            Group::new(GroupOptions { migration_id: [3; 16], ..GroupOptions::new(role) }).unwrap()
        });
        for at in SIDES {
            for (number, sim) in sims[at as usize].iter().enumerate() {
                let device = match number == tapped {
                    true => tap.device(at, sim),
                    false => Device::new(
                        sim.transport().with_patience(Duration::from_millis(5)),
                        DeviceOptions::default(),
                    )?,
                };
                add(&groups[at as usize], at, &device)?;
            }
        }
        Ok(Vms { tap, sims, groups, contents, stopped: false, errors: vec![] })
    }

    fn hear<T>(&mut self, at: At, function: &'static str, result: Result<T>) -> Result<T> {
        result.inspect_err(|error| self.errors.push((at, function, error.code().name())))
    }

    fn source(&self) -> &Group {
        &self.groups[0]
    }

    fn target(&self) -> &Group {
        &self.groups[1]
    }

    /// Frames, until the source says that.
    fn pass(&mut self, until: SaveStatus) -> Result<()> {
        let mut buf = vec![0; 8192];
        for _ in 0..1000 {
            let next = self.source().next(&mut buf);
            let next = match next {
                // As with pre-copy that has nothing for now.
                Err(error) if error.code() == vfiomig::error::Code::Again => continue,
                next => self.hear(At::Source, "vfiomig_group_next", next)?,
            };
            if next.len > 0 {
                let put = self.target().put(&buf[..next.len]);
                self.hear(At::Target, "vfiomig_group_put", put)?;
            }
            if next.status == until || next.status == SaveStatus::End {
                return Ok(());
            }
        }
        panic!("it goes on for ever");
    }

    /// Up to "committed".
    fn move_over(&mut self) -> Result<()> {
        self.pass(SaveStatus::Drained)?;
        self.stopped = true;
        let stopped = self.source().stop();
        self.hear(At::Source, "vfiomig_group_stop", stopped)?;
        self.pass(SaveStatus::End)?;
        let committed = self.target().commit();
        self.hear(At::Target, "vfiomig_group_commit", committed)
    }

    /// The whole migration, as a VMM makes it.
    fn migrate(&mut self) -> Guest {
        let begun = self.source().begin();
        if self.hear(At::Source, "vfiomig_group_begin", begun).is_err() {
            return Guest::OnSource;
        }
        let begun = self.target().begin();
        let arrives = self.hear(At::Target, "vfiomig_group_begin", begun).is_ok();
        if arrives && self.move_over().is_ok() {
            let released = self.source().finish(Ending::Release);
            let released = self.hear(At::Source, "vfiomig_group_finish", released).is_ok();
            let runs = self.target().run();
            if self.hear(At::Target, "vfiomig_group_run", runs).is_ok() {
                return Guest::OnTarget;
            }
            let abandoned = self.target().abandon();
            let halted = self.hear(At::Target, "vfiomig_group_abandon", abandoned).is_ok();
            return if released && halted { self.run_source() } else { Guest::Lost };
        }
        let undone = self.errors.iter().any(|(_, function, _)| *function == "vfiomig_group_commit");
        if arrives && !undone {
            let abandoned = self.target().abandon();
            let _ = self.hear(At::Target, "vfiomig_group_abandon", abandoned);
        }
        let kept = self.source().finish(Ending::Keep);
        let _ = self.hear(At::Source, "vfiomig_group_finish", kept);
        self.run_source()
    }

    fn run_source(&mut self) -> Guest {
        let runs = self.source().run();
        match self.hear(At::Source, "vfiomig_group_run", runs) {
            Err(_) if self.stopped => Guest::Lost,
            _ => Guest::OnSource,
        }
    }

    fn all_run(&self, at: At) {
        for (number, sim) in self.sims[at as usize].iter().enumerate() {
            assert_eq!(sim.state(), State::RUNNING, "{at:?}, device {number}");
            assert_eq!(sim.digest(), self.contents[number], "{at:?}, device {number}");
        }
    }

    fn none_runs_with_the_guest(&self, at: At) {
        for (sim, contents) in self.sims[at as usize].iter().zip(&self.contents) {
            assert!(sim.state() != State::RUNNING || sim.digest() != *contents, "{at:?} too");
        }
    }

    fn judge(&self, guest: &Guest, listed: &Listed) {
        let struck = self.tap.struck();
        let last_resort =
            |call: &Call| matches!(call.asked, table::Asked::Reset | table::Asked::GetState);
        let beyond_help = |at: At| {
            struck.iter().any(|(call, fault)| {
                call.at == at && (last_resort(call) || matches!(fault, Fault::Dies | Fault::Error))
            })
        };
        for (_, function, code) in &self.errors {
            assert!(listed.has(function, code), "{function}: {code} is not listed");
        }
        assert_eq!(self.tap.wrong(), None);
        match guest {
            Guest::OnTarget => {
                // A device that has died, or failed by itself, after the last call: nobody was told.
                if !beyond_help(At::Target) {
                    self.all_run(At::Target);
                }
                self.none_runs_with_the_guest(At::Source);
            }
            Guest::OnSource => {
                if !beyond_help(At::Source) {
                    self.all_run(At::Source);
                }
                self.none_runs_with_the_guest(At::Target);
                let mut left = self.sims[1].iter().zip(&self.contents);
                let empty = left.all(|(sim, contents)| sim.digest() != *contents);
                assert!(empty || beyond_help(At::Target), "the guest is left in a target's device");
            }
            Guest::Lost => {
                let helpless = beyond_help(At::Source) || beyond_help(At::Target);
                assert!(helpless, "lost by {struck:?}: {:?}", self.errors);
                assert!(!self.errors.is_empty());
                SIDES.iter().for_each(|at| self.none_runs_with_the_guest(*at));
            }
        }
    }
}

fn sim(at: At, number: usize) -> Sim {
    let options = SimOptions {
        migration_flags: 7,
        seed: 1 + at as u64 + 2 * number as u64,
        state_size: 700,
        pci: [0x1111, 0x1111, 0x1111, 0x1111],
        ..SimOptions::default()
    };
    let sim = Sim::new(options).unwrap();
    if at == At::Source {
        sim.guest_write(50, 400, 5 + number as u64).unwrap();
    }
    sim
}

fn add(group: &Group, at: At, device: &Device) -> Result<u32> {
    let wait = Duration::from_millis(5);
    match at {
        At::Source => {
            group.add_save(device, SaveOptions { read_timeout: wait, ..SaveOptions::default() })
        }
        At::Target => {
            group.add_load(device, LoadOptions { write_timeout: wait, ..LoadOptions::default() })
        }
    }
}

/// One migration; `None` if the group could not be made, because a device is no longer one that can be
/// migrated.
fn one(tapped: usize, strikes: &[Strike], listed: &Listed) -> (Vec<Call>, Option<Guest>) {
    let Ok(mut vms) = Vms::new(tapped, strikes) else { return (vec![], None) };
    let guest = vms.migrate();
    vms.judge(&guest, listed);
    let (calls, sims) = (vms.tap.calls(), vms.sims.clone());
    drop(vms);
    for sim in sims.iter().flatten() {
        assert_eq!((sim.violations(), sim.open_streams()), ((0, None), 0));
    }
    (calls, Some(guest))
}

/// How many points there are, and how many of them ended where.
pub fn all() -> (usize, [usize; 3]) {
    let (listed, errnos) = (Listed::read(), table::errnos());
    let (mut points, mut places) = (0, [0; 3]);
    for tapped in 0..2 {
        let (calls, guest) = one(tapped, &[], &listed);
        assert_eq!(guest, Some(Guest::OnTarget));
        for (nth, call) in (1..).zip(&calls) {
            for fault in super::faults(call.asked, &errnos[&call.asked]) {
                let strike = Strike { nth, fault, lasts: false };
                let point = || one(tapped, &[strike], &listed).1;
                let guest = std::panic::catch_unwind(point).unwrap_or_else(|_| {
                    panic!("device {tapped}, call {nth} ({call:?}): {fault:?}")
                });
                points += 1;
                if let Some(guest) = guest {
                    places[guest as usize] += 1;
                }
            }
        }
    }
    (points, places)
}
