// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's format on any bytes: the main channel gives the same result however it is split, and
//! packets in any order come out in order or are refused, within their limits.

use std::sync::Arc;

use crate::input::Input;
use vfiomig::Device;
use vfiomig::device::{DeviceOptions, State};
use vfiomig::session::{LoadOptions, LoadStatus};
use vfiomig::stream::Format;
use vfiomig::stream::qemu::{Packet, PacketLimits, Quota, Window};
use vfiomig_sim::{Sim, SimOptions};

fn tag(n: u8) -> [u8; 8] {
    [0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0, n % 8]
}

fn options(format: Format) -> LoadOptions {
    LoadOptions {
        format,
        blobs: Some(Box::new(|_, _| Ok(()))),
        write_timeout: std::time::Duration::from_millis(1),
        ..LoadOptions::default()
    }
}

/// Loads into a device in pieces of this length, cut where there is no room; returns what became of
/// it.
fn load(bytes: &[u8], format: Format, step: usize) -> (Option<i32>, Vec<LoadStatus>) {
    let sim = Sim::new(SimOptions { state_size: 300, ..SimOptions::default() }).expect("sim");
    let device = Device::new(sim.transport(), DeviceOptions::default()).expect("device");
    let mut load = device.load(options(format)).expect("load");
    let (mut rest, mut said, mut code) = (bytes, vec![], None);
    while !rest.is_empty() {
        let Ok(room) = load.space() else { break };
        let (piece, behind) = rest.split_at(room.len().min(step).min(rest.len()));
        rest = behind;
        match load.push(piece) {
            Ok(status) if status == LoadStatus::default() => {}
            Ok(status) => said.push(status),
            Err(error) => {
                code = Some(error.code().to_ret());
                break;
            }
        }
    }
    let committed = load.commit().is_ok();
    drop(load);
    let state = device.state().expect("state");
    assert_eq!(state, if committed { State::Stop } else { State::Running });
    assert_eq!(sim.violations(), (0, None));
    assert_eq!(sim.open_streams(), 0);
    (code, said)
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let format = if input.flag() { Format::QemuPackets } else { Format::Qemu };
    let step = usize::from(input.u8()) + 1;
    // Parts of a main channel, so that the fuzzer need not guess tags.
    let mut bytes = [tag(3), tag(1)].concat();
    for _ in 0..input.u8() % 16 {
        match input.u8() % 3 {
            0 => bytes.extend(tag(input.u8())),
            1 => {
                let data = input.bytes();
                bytes.extend(tag(4));
                bytes.extend((data.len() as u64).to_be_bytes());
                bytes.extend(data);
            }
            _ => bytes.extend(input.bytes()),
        }
    }
    let whole = load(&bytes, format, usize::MAX);
    assert_eq!(whole, load(&bytes, format, step));
    bring_packets(&mut input);
}

/// Packets in any order: what comes out is in order, and no more waits than may.
fn bring_packets(input: &mut Input<'_>) {
    let limits = PacketLimits { max_data: 300, max_config: 300, max_ahead: 40, max_queued: 4000 };
    let mut window = Window::new(limits, Arc::new(Quota::new(10_000)));
    let mut next = 0;
    while !input.is_empty() {
        let take = input.flag();
        let mut bytes;
        if input.flag() {
            let idx = input.u8();
            bytes = [0u32, u32::from(idx), 0].map(u32::to_be_bytes).concat();
            bytes.resize(12 + usize::from(input.u8()), idx);
        } else {
            bytes = input.bytes().to_vec();
        }
        let Ok(packet) = Packet::parse(&bytes) else { continue };
        if let Ok(Some(reserved)) = window.reserve(&packet) {
            window.fill(reserved.copy(&packet).expect("memory"));
        }
        assert!(window.queued() <= 4000 + 300 + 128);
        if let Some(held) = take.then(|| window.take()).flatten() {
            assert_eq!(held.idx, next);
            next += 1;
            window.done(held);
        }
    }
}
