// SPDX-License-Identifier: MIT OR Apache-2.0
//! A target's group, and frames from a peer that keeps to no window: by hand, or over two channels in any
//! pieces. Whatever comes, no more is kept than the windows allow, what is refused by hand changes
//! nothing, and devices end in RUNNING. The checksums are right, because no fuzzer guesses them.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use vfiomig::Device;
use vfiomig::device::{DeviceOptions, State};
use vfiomig::group::{
    ChannelOptions, Group, GroupOptions, HEADER_LEN, MIN_WINDOW, Phase, Role, Until, frame_len,
};
use vfiomig::session::LoadOptions;
use vfiomig_sim::Sim;

use crate::input::{Input, crc};
use crate::load::{options, stream};

const DEVICES: u32 = 2;
/// Where pieces belong: in order, and at the window's edges.
const PLACES: [u64; 6] = [0, 1, 500, MIN_WINDOW - 1, MIN_WINDOW, u64::MAX - 3];

fn frame(input: &mut Input, next: &mut [u64; 3]) -> Vec<u8> {
    let device = u32::from(input.u8() % 3);
    let kind = if input.rarely(16) { input.u8() } else { 1 };
    let whole = stream();
    let at = next[device as usize];
    let piece = match input.u8() % 4 {
        // The next piece of the right stream, mostly.
        0..=2 => {
            let from = whole.len().min(at as usize);
            let to = whole.len().min(from + usize::from(input.u16()) % 1000 + 1);
            whole[from..to].to_vec()
        }
        _ => input.bytes().to_vec(),
    };
    let offset = if input.rarely(8) { input.pick(&PLACES) } else { at };
    if offset == at {
        next[device as usize] += piece.len() as u64;
    }
    let said = if input.rarely(16) { input.u32() } else { piece.len() as u32 };
    let mut frame = vec![b'V', b'M', b'G', b'R', 1, kind, 0, 0];
    frame.extend_from_slice(&device.to_le_bytes());
    frame.extend_from_slice(&said.to_le_bytes());
    frame.extend_from_slice(&offset.to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    let check = crc(&[&frame]);
    frame.extend_from_slice(&check.to_le_bytes());
    frame.extend_from_slice(&piece);
    frame
}

fn held(group: &Group) -> u64 {
    let held = group.status().expect("status").held_bytes;
    assert!(held <= u64::from(DEVICES) * MIN_WINDOW, "{held} bytes are kept");
    held
}

fn by_hand(input: &mut Input, group: &Group) {
    let mut next = [0; 3];
    while !input.is_empty() {
        let frame = frame(input, &mut next);
        if let Some(header) = frame.first_chunk::<HEADER_LEN>() {
            let _ = frame_len(header);
        }
        let before = held(group);
        if group.put(&frame).is_err() {
            assert_eq!(held(group), before, "a frame that was refused");
        }
        if input.flag() && group.work(Until::Idle).is_err() {
            return;
        }
        let _ = group.next(&mut [0; HEADER_LEN]);
    }
}

fn over_channels(input: &mut Input, group: &Group) {
    let mut far = Vec::new();
    for _ in 0..2 {
        let (near, other) = UnixStream::pair().expect("a pair");
        other.set_nonblocking(true).expect("a socket");
        group.add_channel(near.as_fd(), ChannelOptions::default()).expect("a channel");
        far.push(other);
    }
    let mut next = [0; 3];
    while !input.is_empty() {
        let frame = frame(input, &mut next);
        let (channel, cut) = (usize::from(input.flag()), usize::from(input.u8()));
        let (first, rest) = frame.split_at(frame.len().min(cut));
        for part in [first, rest] {
            let _ = far[channel].write(part);
            if group.work(Until::Idle).is_err() {
                return;
            }
            held(group);
        }
    }
    drop(far);
    let _ = group.work(Until::Complete);
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let group = Group::new(GroupOptions { window: MIN_WINDOW, ..GroupOptions::new(Role::Target) });
    let group = group.expect("a group");
    let mut devices = vec![];
    for _ in 0..DEVICES {
        let sim = Sim::new(options()).expect("sim");
        let device = Device::new(sim.transport(), DeviceOptions::default()).expect("device");
        group.add_load(&device, LoadOptions::default()).expect("a device");
        devices.push((sim, device));
    }
    group.begin().expect("begin");
    match input.flag() {
        true => by_hand(&mut input, &group),
        false => over_channels(&mut input, &group),
    }
    let complete = group.status().expect("status").phase == Phase::Complete;
    let committed = group.commit().is_ok();
    assert_eq!(committed, complete);
    if committed {
        group.run().expect("run");
    }
    drop(group);
    for (sim, device) in devices {
        assert_eq!(device.state().expect("state"), State::Running);
        assert_eq!(sim.violations(), (0, None));
    }
}
