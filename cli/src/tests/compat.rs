// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vfiomig compat`: every kind of side, every kind of verdict.

use std::process::Command;

use vfiomig::device::{DeviceOptions, Identity};
use vfiomig::session::SaveOptions;

use super::{Machine, rest_of, schema, small, uuid};

fn identity(driver: &str) -> Identity {
    let (bus, driver) = ("pci".to_owned(), driver.to_owned());
    let pci = [0x15b3, 0x101e, 0x15b3, 0x0023];
    Identity { bus, driver, pci, firmware: "28.39.1002".into(), ..Identity::default() }
}

fn exported(driver: &str) -> Vec<u8> {
    identity(driver).to_bytes().unwrap()
}

/// A whole stream of a simulated device.
pub fn stream(machine: &Machine, options: SaveOptions) -> Vec<u8> {
    let device =
        vfiomig::Device::new(machine.sims[0].transport(), DeviceOptions::default()).unwrap();
    let save = device.save(options).unwrap();
    rest_of(save, &device)
}

#[test]
fn the_verdict_is_the_status_and_each_field_has_a_reason() {
    let machine = Machine::new([]);
    let a = machine.put("a", exported("mlx5_vfio_pci"));
    let b = machine.put("b", exported("qat_vfio_pci"));
    let ran = machine.run(&["compat", &a, &a]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{ran:?}");
    assert!(ran.out.ends_with(": fits\n"), "{ran:?}");
    let ran = machine.run(&["compat", &a, &b]);
    assert_eq!(ran.status, 1, "{ran:?}");
    let refused = "refuses     driver mlx5_vfio_pci (target: qat_vfio_pci)";
    assert!(ran.out.contains(": does not fit\n") && ran.out.contains(refused), "{ran:?}");

    let ran = machine.run(&["compat", "--json", &a, &b]);
    let json = ran.json();
    schema::check("compat", &json);
    assert_eq!(json["compatible"], false);
    let fields = json["fields"].as_array().unwrap();
    assert_eq!(fields.len(), vfiomig::compat::Field::ALL.len());
    let driver = fields.iter().find(|field| field["field"] == "driver").unwrap();
    assert_eq!((&driver["effect"], &driver["why"]), (&"refuses".into(), &"differs".into()));
    assert_eq!(driver["rule"], "as-target");
}

#[test]
fn rules_of_the_command_line_decide() {
    let machine = Machine::new([]);
    let a = machine.put("a", exported("mlx5_vfio_pci"));
    let other = Identity { firmware: "28.41.7".into(), ..identity("mlx5_vfio_pci") };
    let b = machine.put("b", other.to_bytes().unwrap());
    let status = |rules: &[&str]| machine.run(&[&["compat", &a, &b], rules].concat()).status;
    assert_eq!(status(&[]), 1);
    assert_eq!(status(&["--ignore", "firmware"]), 0);
    assert_eq!(status(&["--rule", "firmware=range:28.39..28.41.9"]), 0);
    assert_eq!(status(&["--rule", "firmware=range:28.40.."]), 1);
    assert_eq!(status(&["--rule", "firmware=pairs:28.39.1002>28.41.7"]), 0);
    assert_eq!(status(&["--rule", "firmware=one-of:28.39.1002,1"]), 0);
    assert_eq!(status(&["--others", "ignore"]), 0);
    assert_eq!(status(&["--ignore", "firmware", "--rule", "vendor-data=require"]), 1);
    for wrong in [
        ["--rule", "firmware"],
        ["--rule", "colour=exact"],
        ["--rule", "driver=range:1..2"],
        ["--ignore", "colour"],
        ["--others", "require"],
        ["--others", "one-of:a"],
    ] {
        let ran = machine.run(&[&["compat", &a, &b][..], &wrong].concat());
        assert_eq!(ran.status, 2, "{wrong:?}");
        assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
    }
}

#[test]
fn devices_streams_exports_and_probes_are_sides() {
    let machine = Machine::new([small(1), small(2)]);
    let bytes = stream(&machine, SaveOptions::default());
    let stream = machine.put("stream", &bytes);
    let probe = machine.put("probe.json", machine.run(&["probe", "--json"]).out);
    let identity = machine.file("identity").to_str().unwrap().to_owned();
    assert_eq!(machine.run(&["probe", "--identity", &identity, &uuid(1)]).status, 0);
    let of_first = format!("{probe}#{}", uuid(1));
    let node = "/dev/vfio/devices/vfio2".to_owned();
    let kind = |given: &str| {
        let ran = machine.run(&["compat", "--json", "--others", "ignore", given, &uuid(2)]);
        assert_eq!(ran.status, 0, "{given}: {ran:?}");
        ran.json()["source"]["kind"].as_str().unwrap().to_owned()
    };
    assert_eq!(kind(&uuid(1)), "device");
    assert_eq!(kind(&stream), "stream");
    assert_eq!(kind(&of_first), "probe");
    assert_eq!(kind(&identity), "identity");
    let ran = machine.run(&["compat", &probe, &node]);
    ran.complains(3, "several devices");
    machine.run(&["compat", &format!("{probe}#x"), &uuid(2)]).complains(3, "no such device");
}

#[test]
fn what_says_nothing_of_a_device_is_one_line() {
    let machine = Machine::new([small(1)]);
    let good = machine.put("good", exported("mtty"));
    let whole = stream(&machine, SaveOptions::default());
    let dir = machine.dir.path().to_str().unwrap();
    let fifo = machine.file("fifo").to_str().unwrap().to_owned();
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let sparse = machine.put("sparse", "");
    std::fs::File::options().write(true).open(&sparse).unwrap().set_len(1 << 43).unwrap();
    let damaged = {
        let mut bytes = exported("mtty");
        *bytes.last_mut().unwrap() ^= 1;
        machine.put("damaged", bytes)
    };
    for (given, status, text) in [
        (machine.put("empty", ""), 3, "it is empty"),
        (machine.put("text", "hello, world"), 3, "neither a stream, nor"),
        (machine.put("qemu", b"QEVM\0\0\0\x03"), 3, "do not say what they were saved from"),
        (machine.put("json", "[{\"name\": "), 3, "not JSON"),
        (machine.put("other.json", "[{\"name\": \"a\"}]"), 3, "no identity.exported"),
        (machine.put("cut", &whole[..60]), 3, "ends before it says"),
        (damaged, 3, "damaged"),
        (dir.to_owned(), 3, "is a directory"),
        (fifo, 3, "nobody writes to"),
        ("/dev/full".to_owned(), 3, "is a device node"),
        (sparse, 3, "neither a stream, nor"),
        ("/nowhere/at/all".to_owned(), 3, "No such file"),
        ("nothing".to_owned(), 2, "no device nothing"),
    ] {
        machine.run(&["compat", &given, &good]).complains(status, text);
        machine.run(&["compat", &good, &given]).complains(status, text);
    }
    machine.run(&["compat", "-", "-"]).complains(2, "only one side");
}

#[test]
fn an_authenticated_stream_needs_its_key() {
    let machine = Machine::new([small(1)]);
    let auth = vfiomig::stream::Auth::with_keys(7, |_, key| {
        *key = [0x5a; 32];
        Ok(())
    });
    let bytes = stream(&machine, SaveOptions { auth: Some(auth), ..SaveOptions::default() });
    let file = machine.put("stream", bytes);
    let raw = machine.put("raw.key", [0x5a; 32]);
    let digits = machine.put("hex.key", format!("{}\n", "5a".repeat(32)));
    let other = machine.put("other.key", [0xa5; 32]);
    let short = machine.put("short.key", "5a");
    machine.run(&["compat", &file, &uuid(1)]).complains(4, "--key-file");
    for key in [raw, digits] {
        let ran =
            machine.run(&["compat", "--others", "ignore", "--key-file", &key, &file, &uuid(1)]);
        assert_eq!(ran.status, 0, "{ran:?}");
    }
    let with = |key: &str| machine.run(&["compat", "--key-file", key, &file, &uuid(1)]);
    with(&other).complains(4, "another key");
    let plain = machine.put("plain", stream(&machine, SaveOptions::default()));
    machine.run(&["compat", "--key-file", &other, &plain, &uuid(1)]).complains(4, "authenticated");
    with(&short).complains(3, "not a key");
    with("/dev/zero").complains(3, "is a device node");
}
