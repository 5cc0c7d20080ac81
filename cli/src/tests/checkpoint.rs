// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig checkpoint` and `restore`, on simulated devices.

use std::fs;

use vfiomig_sim::{Effect, Op, State};

use super::{Machine, Ran, schema, small, uuid};

fn take(machine: &Machine, more: &[&str]) -> (Ran, String) {
    let file = machine.file("state").to_str().unwrap().to_owned();
    let devices = uuid(1);
    let ran = machine.run(&[&["checkpoint", &devices, "-o", &file], more].concat());
    (ran, file)
}

/// Nothing that was begun lies about.
fn is_tidy(machine: &Machine) {
    for entry in fs::read_dir(machine.dir.path()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        assert!(["dev", "proc", "sys", "state", "key"].contains(&name.as_str()), "{name}");
    }
}

#[test]
fn a_device_goes_into_a_file_and_comes_out_of_it_again_into_many() {
    let machine = Machine::new([small(1), small(2), small(3)]);
    let (before, others) = (machine.sims[0].digest(), machine.sims[1].digest());
    assert_ne!(before, others);
    let (ran, file) = take(&machine, &["--json", "--generation", "3", "--note", "of a test"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    schema::check("checkpoint", &ran.json());
    assert_eq!(machine.sims[0].state(), State::RUNNING);
    assert_eq!(machine.sims[0].digest(), before);
    is_tidy(&machine);

    assert_eq!(machine.run(&["verify", &file]).status, 0);
    let json = machine.run(&["inspect", "--json", &file]).json();
    schema::check("inspect", &json);
    assert_eq!(json["checkpoint"]["generation"], 3);
    let other = uuid(2);
    assert_eq!(machine.run(&["compat", &file, &other]).status, 0);

    let ran = machine.run(&["restore", "--run", "--json", &file, &other, &uuid(3)]);
    assert_eq!(ran.status, 0, "{ran:?}");
    schema::check("restore", &ran.json());
    for sim in &machine.sims[1..] {
        assert_eq!((sim.digest(), sim.state()), (before, State::RUNNING));
        assert_eq!(sim.violations(), (0, None));
    }
    let ran = machine.run(&["restore", &file, &other]);
    assert_eq!((ran.status, machine.sims[1].state()), (0, State::STOP), "{ran:?}");
}

#[test]
fn several_devices_are_in_one_file_under_their_names() {
    let machine = Machine::new([small(1), small(2), small(3), small(4)]);
    let file = machine.file("state").to_str().unwrap().to_owned();
    let (one, two) = (uuid(1), uuid(2));
    let ran = machine.run(&["checkpoint", &one, &two, "-o", &file]);
    assert_eq!(ran.status, 0, "{ran:?}");
    machine.run(&["restore", &file, &uuid(3)]).complains(2, "say which");
    machine.run(&["restore", &file, &format!("nic={}", uuid(3))]).complains(2, "no device nic");
    let pairs = [format!("{one}={}", uuid(4)), format!("{two}={}", uuid(3))];
    let ran = machine.run(&["restore", &file, &pairs[0], &pairs[1]]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let digest = |number: usize| machine.sims[number - 1].digest();
    assert_eq!((digest(4), digest(3)), (digest(1), digest(2)));
    let status = |a: &str, b: &str| machine.run(&["diff", a, b]).status;
    let (a, b) = (format!("{file}#{one}"), format!("{file}#{two}"));
    assert_eq!((status(&a, &a), status(&a, &b)), (0, 1));
    machine.run(&["diff", &file, &a]).complains(2, "several devices");
    let out = machine.file("sys/out").to_str().unwrap().to_owned();
    let ran = machine.run(&["extract", &file, "stream", "--device", &one, "-o", &out]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(machine.run(&["verify", &out]).status, 0);
}

#[test]
fn an_interrupt_leaves_the_device_and_the_file_as_they_were() {
    let mut machine = Machine::new([small(1), small(2)]);
    let (_, file) = take(&machine, &[]);
    let whole = fs::read(&file).unwrap();
    let before = machine.sims[1].digest();
    machine.presses = Some(libc::SIGINT);
    let (ran, _) = take(&machine, &[]);
    ran.complains(130, "not written: interrupted");
    assert_eq!(fs::read(&file).unwrap(), whole);
    assert_eq!(machine.sims[0].state(), State::RUNNING);
    is_tidy(&machine);
    let ran = machine.run(&["restore", &file, &uuid(2)]);
    ran.complains(130, "the devices are as they were");
    assert_eq!((machine.sims[1].digest(), machine.sims[1].state()), (before, State::RUNNING));
}

#[test]
fn a_device_that_does_not_come_back_as_it_was_is_named() {
    // Reset in the meantime: it runs, but holds something else.
    let machine = Machine::new([small(1)]);
    machine.sims[0].guest_write(0, 500, 9).unwrap();
    let before = machine.sims[0].digest();
    machine.sims[0].inject(Op::Read, 2, libc::EIO, Effect::Error);
    let (ran, _) = take(&machine, &[]);
    ran.complains(5, "was reset, and what it held is lost");
    assert!(!ran.err.contains("where they were"), "{ran:?}");
    assert_eq!(machine.sims[0].state(), State::RUNNING);
    assert_ne!(machine.sims[0].digest(), before);
    // It does not go back, and cannot be reset.
    let machine = Machine::new([small(1)]);
    machine.sims[0].inject(Op::SetState, 2, libc::EIO, Effect::Sticky);
    machine.sims[0].inject(Op::Reset, 1, libc::EIO, Effect::Sticky);
    let (ran, _) = take(&machine, &[]);
    ran.complains(5, "see vfiomig reset");
    assert!(!ran.err.contains("where they were"), "{ran:?}");
}

#[test]
fn how_many_devices_are_loaded_is_said_if_a_later_one_fails() {
    let machine = Machine::new([small(1), small(2), small(3), small(4)]);
    let (_, file) = take(&machine, &[]);
    machine.sims[2].inject(Op::Write, 1, libc::EIO, Effect::Once);
    let ran = machine.run(&["restore", &file, &uuid(2), &uuid(3), &uuid(4)]);
    ran.complains(5, "; 1 of 3 devices were loaded before it");
    assert_eq!(machine.sims[1].digest(), machine.sims[0].digest());
}

#[test]
fn a_device_or_disk_that_fails_leaves_what_was_there() {
    let machine = Machine::new([small(1)]);
    let (_, file) = take(&machine, &[]);
    let whole = fs::read(&file).unwrap();
    machine.sims[0].inject(Op::Read, 1, libc::EIO, Effect::Sticky);
    let (ran, _) = take(&machine, &[]);
    ran.complains(5, "not written");
    ran.complains(5, "by now the devices are where they were");
    machine.sims[0].clear_faults();
    assert_eq!((fs::read(&file).unwrap(), machine.sims[0].state()), (whole, State::RUNNING));
    is_tidy(&machine);
    for (name, status) in [("/dev/full", 7), ("/nowhere/file", 7), ("/", 7)] {
        let ran = machine.run(&["checkpoint", &uuid(1), "-o", name]);
        assert_eq!((ran.status, ran.err.lines().count()), (status, 1), "{name}: {ran:?}");
    }
}

#[test]
fn what_is_not_whole_or_does_not_fit_touches_no_device() {
    let machine = Machine::new([small(1), small(2)]);
    let key = machine.put("key", [0x5a; 32]);
    let (ran, file) = take(&machine, &["--key-file", &key]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let whole = fs::read(&file).unwrap();
    let before = machine.sims[1].digest();
    let restore = |more: &[&str]| {
        let ran = machine.run(&[&["restore", &file, &uuid(2)], more].concat());
        assert_eq!((machine.sims[1].digest(), machine.sims[1].state()), (before, State::RUNNING));
        ran
    };
    restore(&[]).complains(4, "key");
    let with = ["--key-file", key.as_str()];
    restore(&[&with[..], &["--rule", "vendor-data=require"]].concat())
        .complains(1, "vendor string");
    let mut damaged = whole.clone();
    damaged[5000] ^= 1;
    fs::write(&file, &damaged).unwrap();
    let ran = restore(&with);
    assert_eq!((ran.status, ran.err.lines().count()), (1, 1), "{ran:?}");
    fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(restore(&with).status, 1);
    fs::write(&file, "something else").unwrap();
    restore(&with).complains(3, "not a checkpoint");
    machine.run(&["restore", "/dev/zero", &uuid(2)]).complains(3, "is a device node");
}
