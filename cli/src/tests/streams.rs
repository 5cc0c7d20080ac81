// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig inspect`, `verify`, `diff` and `extract`: streams of simulated devices, and everything
//! that is not a whole one.

use std::fs;

use vfiomig::device::DeviceOptions;
use vfiomig::session::SaveOptions;
use vfiomig::stream::Auth;

use super::{Machine, Ran, rest_of, schema, small};

fn auth() -> Option<Auth> {
    Some(Auth::with_keys(7, |_, key| {
        *key = [0x5a; 32];
        Ok(())
    }))
}

/// A whole stream of a device, with a blob in it, always the same.
pub fn stream(machine: &Machine, number: usize, options: SaveOptions) -> Vec<u8> {
    let transport = machine.sims[number - 1].transport();
    let device = vfiomig::Device::new(transport, DeviceOptions::default()).unwrap();
    let mut save = device.save(SaveOptions { migration_id: [7; 16], ..options }).unwrap();
    save.blob(5, b"of the VMM").unwrap();
    rest_of(save, &device)
}

fn json_of(machine: &Machine, command: &str, arguments: &[&str]) -> (Ran, serde_json::Value) {
    let ran = machine.run(&[&[command, "--json"], arguments].concat());
    let json = ran.json();
    schema::check(command, &json);
    (ran, json)
}

#[test]
fn a_whole_stream_is_whole_and_shows_what_is_in_it() {
    let machine = Machine::new([small(1)]);
    let bytes = stream(&machine, 1, SaveOptions::default());
    let file = machine.put("stream", &bytes);
    let ran = machine.run(&["verify", &file]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{ran:?}");
    assert_eq!(ran.out, format!("{file}: whole\n"));
    let (ran, json) = json_of(&machine, "verify", &[&file]);
    assert_eq!((ran.status, &json["whole"]), (0, &true.into()));
    assert_eq!(json["streams"][0]["bytes"], bytes.len());

    let ran = machine.run(&["inspect", &file]);
    assert_eq!(ran.status, 0, "{ran:?}");
    for what in ["native 1.0, migration id 0707", "blob", "kind 5, 10 bytes", "end-of-file"] {
        assert!(ran.out.contains(what), "{what}: {ran:?}");
    }
    let (_, json) = json_of(&machine, "inspect", &[&file]);
    let pieces = json["streams"][0]["pieces"].as_array().unwrap();
    assert_eq!(pieces[0]["kind"], "preamble");
    // Every byte is in a piece.
    let sum: u64 = pieces.iter().map(|piece| piece["length"].as_u64().unwrap()).sum();
    assert_eq!(sum, bytes.len() as u64);
}

#[test]
fn damage_says_where_it_is_and_what_is_left() {
    let machine = Machine::new([small(1)]);
    let bytes = stream(&machine, 1, SaveOptions::default());
    let mut damaged = bytes.clone();
    let at = bytes.len() / 2;
    damaged[at] ^= 1;
    let file = machine.put("damaged", &damaged);
    let (ran, json) = json_of(&machine, "verify", &[&file]);
    assert_eq!(ran.status, 1, "{ran:?}");
    let problem = &json["streams"][0]["problem"];
    assert!(problem["offset"].as_u64().unwrap() <= at as u64, "{problem}");
    let (ran, json) = json_of(&machine, "inspect", &[&file]);
    assert_eq!(ran.status, 1);
    assert_eq!(json["streams"][0]["ended"], true);
    let ran = machine.run(&["verify", &file]);
    assert!(ran.out.contains(": damaged\n  problem     at byte "), "{ran:?}");

    for len in [3, 39, 40, 60, bytes.len() - 1] {
        let file = machine.put("cut", &bytes[..len]);
        let (ran, json) = json_of(&machine, "verify", &[&file]);
        assert_eq!(ran.status, 1, "{len}: {ran:?}");
        assert_eq!(json["streams"][0]["verdict"], "incomplete", "{len}: {json:#}");
    }
}

#[test]
fn an_authenticated_stream_is_verified_with_its_key_only() {
    let machine = Machine::new([small(1)]);
    let bytes = stream(&machine, 1, SaveOptions { auth: auth(), ..SaveOptions::default() });
    let file = machine.put("stream", bytes);
    let plain = machine.put("plain", stream(&machine, 1, SaveOptions::default()));
    let key = machine.put("key", [0x5a; 32]);
    let other = machine.put("other", [0xa5; 32]);
    let verify = |more: &[&str]| machine.run(&[&["verify"], more].concat());
    assert_eq!(verify(&["--key-file", &key, &file]).status, 0);
    let ran = verify(&[&file]);
    assert_eq!(ran.status, 4, "{ran:?}");
    assert!(ran.out.contains("unverified") && ran.out.contains("--key-file"), "{ran:?}");
    let ran = verify(&["--key-file", &other, &file]);
    assert_eq!(ran.status, 4, "{ran:?}");
    assert!(ran.out.contains("refused\n  problem     at byte 40: the tag"), "{ran:?}");
    assert_eq!(verify(&["--key-file", &key, &plain]).status, 4);
    json_of(&machine, "inspect", &[&file, "--key-file", &key]);
    json_of(&machine, "inspect", &[&file]);
}

#[test]
fn parts_are_extracted_whole_or_not_at_all() {
    let machine = Machine::new([small(1)]);
    let bytes = stream(&machine, 1, SaveOptions::default());
    let file = machine.put("stream", &bytes);
    let out = machine.file("out").to_str().unwrap().to_owned();
    let extract = |what: &str, more: &[&str]| {
        let _ = fs::remove_file(&out);
        machine.run(&[&["extract", &file, what, "-o", &out], more].concat())
    };
    let ran = extract("blob:5", &[]);
    assert_eq!((ran.status, fs::read(&out).unwrap()), (0, b"of the VMM".to_vec()), "{ran:?}");
    assert_eq!(extract("data", &[]).status, 0);
    let (_, json) = json_of(&machine, "verify", &[&file]);
    assert_eq!(fs::metadata(&out).unwrap().len(), json["streams"][0]["data_bytes"]);
    assert_eq!((extract("stream", &[]).status, fs::read(&out).unwrap()), (0, bytes.clone()));
    for what in ["blob:6", "blob:5:2"] {
        extract(what, &[]).complains(1, "there is no");
        assert!(!machine.file("out").exists());
    }
    for what in ["", "blob", "blob:x", "blob:5:0", "data:1", "state"] {
        extract(what, &[]).complains(2, "what can be extracted");
    }
    extract("data", &["--device", "nic"]).complains(3, "only a checkpoint");

    fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    extract("data", &[]).complains(1, "incomplete");
    assert!(!machine.file("out").exists());
    assert_eq!(extract("data", &["--damaged"]).status, 0);
    let ran = machine.run(&["extract", &file, "data", "-o", "/dev/full"]);
    ran.complains(7, "is not a file");
    let ran = machine.run(&["extract", &file, "data", "-o", "/nowhere/out", "--damaged"]);
    ran.complains(7, "No such file");
    // Nothing half-written lies about.
    let left = fs::read_dir(machine.dir.path()).unwrap().flatten();
    assert!(left.into_iter().all(|it| !it.file_name().to_str().unwrap().ends_with(".new")));
}

#[test]
fn what_differs_is_named() {
    let machine = Machine::new([small(1), small(2)]);
    let a = machine.put("a", stream(&machine, 1, SaveOptions::default()));
    let b = machine.put("b", stream(&machine, 2, SaveOptions::default()));
    let ran = machine.run(&["diff", &a, &a]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let (ran, json) = json_of(&machine, "diff", &[&a, &b]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(json["first_difference"].is_u64(), "{json:#}");
    assert!(machine.run(&["diff", &a, &b]).out.contains("differs first at byte"));
    let cut = machine.put("cut", &fs::read(&b).unwrap()[..100]);
    machine.run(&["diff", &a, &cut]).complains(1, "incomplete");
}
