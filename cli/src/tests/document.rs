// SPDX-License-Identifier: MIT OR Apache-2.0
//! The output in docs/tool.md is real: each command there is run on what is made here, and what it
//! prints is compared with what stands below it.

use vfiomig::device::{DeviceOptions, Identity, State};
use vfiomig::stream::{Encoder, FrameType, encode_identity};

use super::{Machine, same_as_committed, small, uuid};

const DOCUMENT: &str = include_str!("../../../docs/tool.md");

/// A block with commands begins like this.
const BLOCK: &str = "```console\n";

fn mtty(firmware: &str) -> Identity {
    Identity {
        bus: "pci".into(),
        driver: "mtty".into(),
        driver_version: "0.1".into(),
        mdev_type: "mtty-1".into(),
        firmware: firmware.into(),
        kernel_release: "7.3.4".into(),
        protocol: 2,
        ..Identity::default()
    }
}

/// The state of an mtty with one port, as the kernel saves it, with two bytes in its FIFO.
fn state(scratch: u8) -> Vec<u8> {
    let mut bytes = vec![0; 24 + 36];
    bytes[..8].copy_from_slice(&0x7e9d_0989_8c3e_2c4e_u64.to_ne_bytes());
    bytes[8..12].copy_from_slice(&1u32.to_ne_bytes());
    bytes[16..20].copy_from_slice(&1u32.to_ne_bytes());
    let port = &mut bytes[24..];
    port[7] = scratch;
    port[8..10].copy_from_slice(b"hi");
    (port[24], port[26]) = (2, 2);
    (port[33], port[34]) = (16, 1);
    bytes
}

fn stream(data: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(*b"an example's id.", 0);
    let (mut out, mut buf) = (Vec::new(), vec![0; 8192]);
    let mut put = |buf: &[u8]| out.extend_from_slice(buf);
    let len = encoder.preamble(&mut buf).unwrap();
    put(&buf[..len]);
    let identity = encode_identity(&mtty(""));
    for (kind, bytes) in [
        (FrameType::Identity, identity.as_slice()),
        (FrameType::Data, data),
        (FrameType::Blob, b"\x05\0\0\0\0\0\0\0of the VMM"),
    ] {
        let len = encoder.frame(&mut buf, kind, &[bytes]).unwrap();
        put(&buf[..len]);
    }
    let len = encoder.end(&mut buf).unwrap();
    put(&buf[..len]);
    out
}

/// The machine on which the commands are run.
fn machine() -> Machine {
    let machine = Machine::new([small(1), small(2)]);
    let whole = stream(&state(0x41));
    machine.put("mtty.stream", &whole);
    machine.put("later.stream", stream(&state(0x42)));
    machine.put("cut.stream", &whole[..whole.len() - 9]);
    let mut damaged = whole.clone();
    damaged[150] ^= 0x10;
    machine.put("damaged.stream", damaged);
    machine.put("here.id", mtty("28.39").to_bytes().unwrap());
    machine.put("there.id", mtty("28.41").to_bytes().unwrap());
    let options = DeviceOptions::default();
    let device = vfiomig::Device::new(machine.sims[0].transport(), options).unwrap();
    device.set_state(State::Stop).unwrap();
    machine
}

/// What a command prints, and its status if that is not 0.
fn output(machine: &Machine, line: &str) -> String {
    let here = format!("{}/", machine.dir.path().display());
    let words = line.strip_prefix("$ vfiomig ").unwrap().split_whitespace();
    let place = |word: &str| match word.ends_with(".stream")
        || word.ends_with(".state")
        || word.ends_with(".id")
    {
        true => format!("{here}{word}"),
        false => word.to_owned(),
    };
    let arguments: Vec<String> = words.map(place).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ran = machine.run(&arguments);
    let status = if ran.status == 0 { String::new() } else { format!("[{}]\n", ran.status) };
    format!("{}{}{status}", ran.err, ran.out).replace(&here, "")
}

#[test]
fn the_output_in_the_documentation_is_what_the_tool_prints() {
    let machine = machine();
    let mut made = String::new();
    let mut rest = DOCUMENT;
    let mut commands = 0;
    while let Some((before, block)) = rest.split_once(BLOCK) {
        let (block, after) = block.split_once("```").unwrap();
        made.push_str(before);
        made.push_str(BLOCK);
        for (number, line) in block.lines().filter(|line| line.starts_with("$ ")).enumerate() {
            let gap = if number == 0 { "" } else { "\n" };
            made.push_str(&format!("{gap}{line}\n{}", output(&machine, line)));
            commands += 1;
        }
        made.push_str("```");
        rest = after;
    }
    made.push_str(rest);
    assert!(commands >= 5);
    same_as_committed("docs/tool.md", &made);
    assert_eq!(uuid(1), "6d747479-0000-4000-8000-000000000001");
}
