// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files of QEMU's: `vfiomig verify`, `diff` and `extract` of the VFIO devices in them.

use std::fs;

use vfiomig::device::Identity;

use super::{Machine, schema, small, uuid};
use crate::qemu_file::tests::{devices, sample};

const NAME: &str = "0000:00:03.0/vfio";

fn identity() -> Vec<u8> {
    let known = Identity { bus: "pci".into(), driver: "mtty".into(), ..Identity::default() };
    known.to_bytes().unwrap()
}

#[test]
fn a_file_is_verified_as_far_as_its_format_can_tell() {
    let machine = Machine::new([]);
    let whole = sample(None);
    let file = machine.put("file", &whole);
    let ran = machine.run(&["verify", &file]);
    assert_eq!(ran.status, 0, "{ran:?}");
    for what in ["a migration file of QEMU: whole", NAME, "as far as this format can tell"] {
        assert!(ran.out.contains(what), "{what}: {ran:?}");
    }
    let json = machine.run(&["verify", "--json", &file]).json();
    schema::check("verify", &json);
    assert_eq!((&json["whole"], &json["format"]), (&true.into(), &"qemu".into()));
    for len in [9, 60, whole.len() / 2, whole.len() - 2] {
        let cut = machine.put("cut", &whole[..len]);
        let ran = machine.run(&["verify", &cut]);
        assert_eq!(ran.status, 1, "{len}: {ran:?}");
        assert!(ran.out.contains("not whole") && ran.out.contains("damage"), "{ran:?}");
        schema::check("verify", &machine.run(&["verify", "--json", &cut]).json());
        schema::check("inspect", &machine.run(&["inspect", "--json", &cut]).json());
    }
    let key = machine.put("key", [0x5a; 32]);
    for command in ["verify", "inspect"] {
        let ran = machine.run(&[command, "--key-file", &key, &file]);
        ran.complains(4, "no key can verify it");
    }
}

#[test]
fn the_data_of_a_device_comes_out_alone_and_as_a_stream() {
    let machine = Machine::new([small(1)]);
    let file = machine.put("file", sample(None));
    let out = machine.file("out").to_str().unwrap().to_owned();
    let extract = |file: &str, what: &str, more: &[&str]| {
        let _ = fs::remove_file(&out);
        let ran = machine.run(&[&["extract", file, what, "-o", &out], more].concat());
        assert_eq!(ran.status == 0, machine.file("out").exists(), "{ran:?}");
        ran
    };
    assert_eq!(extract(&file, "data", &[]).status, 0);
    assert_eq!(fs::read(&out).unwrap(), b"stateend");
    extract(&file, "data", &["--device", "nic"]).complains(3, NAME);
    extract(&file, "blob:5", &[]).complains(1, "no blobs");
    extract(&file, "stream", &[]).complains(2, "give --identity");
    let known = machine.put("identity", identity());
    extract(&file, "data", &["--identity", &known]).complains(2, "--identity is for a stream");
    let nowhere = ["--identity", "/nowhere/identity"];
    extract(&file, "stream", &nowhere).complains(3, "No such file");

    let ran = extract(&file, "stream", &["--identity", &known, "--device", NAME]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(machine.run(&["verify", &out]).status, 0);
    let json = machine.run(&["inspect", "--json", &out]).json();
    assert_eq!(json["streams"][0]["identity"]["driver"], "mtty");
    assert_eq!(json["streams"][0]["data_bytes"], 8);
    let stream = machine.put("stream", fs::read(&out).unwrap());
    let again = extract(&stream, "stream", &["--identity", &known]);
    again.complains(2, "says itself");
    // A live device says what it is, too.
    assert_eq!(extract(&file, "stream", &["--identity", &uuid(1)]).status, 0);
    assert_eq!(machine.run(&["compat", &out, &uuid(1)]).status, 0);

    let ran = machine.run(&["diff", &file, &stream]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.out.contains("QEMU's file does not say"), "{ran:?}");
    schema::check("diff", &machine.run(&["diff", "--json", &stream, &file]).json());
    machine.run(&["compat", &file, &stream]).complains(3, "do not say what they were saved from");
    machine.run(&["restore", &file, &uuid(1)]).complains(3, "not a checkpoint");
}

#[test]
fn one_of_several_devices_is_named() {
    let machine = Machine::new([]);
    let long: Vec<u8> = (0..=255).cycle().take(1000).collect();
    let mut other = long.clone();
    other[777] ^= 1;
    let file = machine.put("file", devices(&[("a/vfio", &long), ("b/vfio", &other)]));
    let (a, b) = (format!("{file}#a/vfio"), format!("{file}#b/vfio"));
    machine.run(&["diff", &file, &a]).complains(2, "several devices are in it: a/vfio, b/vfio");
    machine.run(&["diff", &a, &format!("{file}#c/vfio")]).complains(3, "no device c/vfio");
    assert_eq!(machine.run(&["diff", &a, &a]).status, 0);
    let ran = machine.run(&["diff", &a, &b]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.out.contains("differs first at byte 777"), "{ran:?}");
    let out = machine.file("out").to_str().unwrap().to_owned();
    machine.run(&["extract", &file, "data", "-o", &out]).complains(2, "several devices");
    let ran = machine.run(&["extract", &file, "data", "--device", "b/vfio", "-o", &out]);
    assert_eq!((ran.status, fs::read(&out).unwrap()), (0, other), "{ran:?}");
}

#[test]
fn what_is_not_whole_never_looks_like_a_whole_stream() {
    let machine = Machine::new([]);
    let whole = devices(&[("a/vfio", &[7; 500])]);
    // Behind two of its pieces.
    let file = machine.put("file", &whole[..400]);
    let known = machine.put("identity", identity());
    let out = machine.file("out").to_str().unwrap().to_owned();
    let extract = |more: &[&str]| machine.run(&[&["extract", "-o", &out, &file], more].concat());
    extract(&["data"]).complains(1, "its end is missing");
    for damaged in [&["--damaged"][..], &[]] {
        let ran = extract(&[&["stream", "--identity", &known], damaged].concat());
        ran.complains(1, "would look like a whole stream");
    }
    assert_eq!(extract(&["data", "--damaged"]).status, 0);
    let len = fs::metadata(&out).unwrap().len();
    assert!(len > 0 && len < 500, "{len}");
    machine.run(&["diff", &file, &file]).complains(1, "its end is missing");
    let empty = machine.put("empty", devices(&[("a/vfio", &[])]));
    let ran = machine.run(&["extract", &empty, "data", "-o", &out]);
    ran.complains(1, "there is no device data in it");
    let none = machine.put("none", devices(&[]));
    machine.run(&["diff", &none, &none]).complains(3, "there is no VFIO device");
}
