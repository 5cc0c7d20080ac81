// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig reset`, on simulated devices.

use vfiomig::device::{DeviceOptions, State};
use vfiomig_sim::{Effect, Op};

use super::{Machine, small, uuid};

fn state(machine: &Machine) -> State {
    let device =
        vfiomig::Device::new(machine.sims[0].transport(), DeviceOptions::default()).unwrap();
    device.state().unwrap()
}

/// A device that an earlier user has left in STOP.
fn stopped() -> Machine {
    let machine = Machine::new([small(1)]);
    let device =
        vfiomig::Device::new(machine.sims[0].transport(), DeviceOptions::default()).unwrap();
    device.set_state(State::Stop).unwrap();
    machine
}

#[test]
fn a_stale_device_is_reset_after_it_was_said_what_is_lost() {
    let mut machine = stopped();
    machine.typed = Some("yes\n");
    let ran = machine.run(&["reset", &uuid(1)]);
    assert_eq!((ran.status, state(&machine)), (0, State::Running), "{ran:?}");
    assert!(ran.err.contains("is in STOP. A reset loses all that the device holds"), "{ran:?}");
    assert_eq!(ran.out, format!("{}: reset; RUNNING\n", uuid(1)));
}

#[test]
fn nothing_is_reset_without_a_yes() {
    let mut machine = stopped();
    for (typed, status) in [(Some("no\n"), 1), (Some(""), 1), (Some("y\n"), 1), (None, 2)] {
        machine.typed = typed;
        let ran = machine.run(&["reset", &uuid(1)]);
        assert_eq!((ran.status, state(&machine)), (status, State::Stop), "{typed:?} {ran:?}");
        assert!(ran.err.contains("not reset") && ran.out.is_empty(), "{ran:?}");
    }
    let ran = machine.run(&["reset", "--yes", "--json", &uuid(1)]);
    assert_eq!((ran.status, state(&machine)), (0, State::Running), "{ran:?}");
    super::schema::check("reset", &ran.json());
    assert_eq!(ran.json()["state_before"], "STOP");
}

#[test]
fn a_running_device_is_left_alone_unless_that_is_asked_for() {
    let machine = Machine::new([small(1)]);
    let resets = || machine.sims[0].count(Op::Reset);
    let before = resets();
    let ran = machine.run(&["reset", "--yes", &uuid(1)]);
    assert_eq!((ran.status, resets()), (0, before), "{ran:?}");
    let ran = machine.run(&["reset", "--yes", "--json", &uuid(1)]);
    super::schema::check("reset", &ran.json());
    assert_eq!(ran.json()["reset"], false);
    let ran = machine.run(&["reset", "--yes", "--running", &uuid(1)]);
    assert_eq!((ran.status, resets()), (0, before + 1), "{ran:?}");
}

#[test]
fn a_device_that_cannot_be_reset_is_one_line() {
    let mut machine = stopped();
    machine.run(&["reset", "nothing"]).complains(2, "no device nothing");
    machine.taken = vec![1];
    machine.run(&["reset", "-y", &uuid(1)]).complains(6, "another process has the device");
    machine.taken = vec![];
    machine.sims[0].inject(Op::Reset, 1, libc::EIO, Effect::Sticky);
    let ran = machine.run(&["reset", "-y", &uuid(1)]);
    assert_eq!(ran.status, 5, "{ran:?}");
    assert!(ran.err.contains("resetting the device failed"), "{ran:?}");
}

#[test]
fn what_happened_to_a_device_is_told_if_that_is_asked_for() {
    let fails = |arguments: &[&str]| {
        let machine = stopped();
        machine.sims[0].inject(Op::Reset, 1, libc::EIO, Effect::Sticky);
        machine.run(arguments)
    };
    let ran = fails(&["reset", "-y", &uuid(1)]);
    assert_eq!((ran.status, ran.err.contains("driver_failed")), (5, false), "{ran:?}");
    let ran = fails(&["reset", "-y", "--history", &uuid(1)]);
    assert_eq!(ran.status, 5, "{ran:?}");
    let at = |what: &str| ran.err.find(what).unwrap_or_else(|| panic!("no {what}: {ran:?}"));
    let order =
        ["vfiomig: ", "\nhistory library=", " opened to=STOP\n", " driver_failed ", " error from="];
    assert!(order.windows(2).all(|two| at(two[0]) < at(two[1])), "{ran:?}");
    assert!(ran.err.contains("operation=reset errno=5"), "{ran:?}");
    // Text is for failures; JSON comes always, and not among the result.
    let machine = stopped();
    let ran = machine.run(&["reset", "-y", "--history=text", &uuid(1)]);
    assert_eq!((ran.status, ran.err.contains("history library")), (0, false), "{ran:?}");
    let ran = machine.run(&["reset", "-y", "--running", "--history=json", "--json", &uuid(1)]);
    assert_eq!((ran.status, ran.json()["reset"].clone()), (0, true.into()), "{ran:?}");
    let lines: Vec<&str> = ran.err.lines().filter(|line| line.starts_with('{')).collect();
    for line in &lines {
        super::schema::check("history", &serde_json::from_str(line).unwrap());
    }
    assert!(lines.iter().any(|line| line.contains("\"cause\":\"asked\"")), "{ran:?}");
    assert_eq!(machine.run(&["reset", "-y", "--history=xml", &uuid(1)]).status, 2);
}
