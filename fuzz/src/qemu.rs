//! QEMU's format on any bytes: the main channel in any split says the same, and packets in any order
//! come out in order or are refused, within their limits.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vfiomig::Device;
use vfiomig::device::{DeviceOptions, State};
use vfiomig::session::{LoadOptions, LoadStatus};
use vfiomig::stream::qemu::{Packet, PacketLimits, Quota, Window};
use vfiomig::stream::Format;
use vfiomig_sim::{Sim, SimOptions};

/// A part of a main channel, so that the fuzzer need not guess tags.
#[derive(Arbitrary, Debug)]
enum Part {
    Tag(u8),
    Piece(Vec<u8>),
    Bytes(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Input {
    parts: Vec<Part>,
    packets_flag: bool,
    step: u8,
    packets: Vec<(Vec<u8>, bool)>,
    numbered: Vec<(u8, u8, bool)>,
}

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

/// Loads into a device in pieces of this length, cut where there is no room: what became of it.
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

fuzz_target!(|input: Input| {
    let mut bytes = [tag(3), tag(1)].concat();
    for part in &input.parts {
        match part {
            Part::Tag(n) => bytes.extend(tag(*n)),
            Part::Piece(data) => {
                bytes.extend(tag(4));
                bytes.extend((data.len() as u64).to_be_bytes());
                bytes.extend(data);
            }
            Part::Bytes(data) => bytes.extend(data),
        }
    }
    let format = if input.packets_flag { Format::QemuPackets } else { Format::Qemu };
    let whole = load(&bytes, format, usize::MAX);
    assert_eq!(whole, load(&bytes, format, usize::from(input.step) + 1));

    let limits = PacketLimits { max_data: 300, max_config: 300, max_ahead: 40, max_queued: 4000 };
    let mut window = Window::new(limits, Arc::new(Quota::new(10_000)));
    let mut next = 0;
    let mut bring = |bytes: &[u8], take: bool| {
        let Ok(packet) = Packet::parse(bytes) else { return };
        if let Ok(Some(reserved)) = window.reserve(&packet) {
            window.fill(reserved.copy(&packet).expect("memory"));
        }
        assert!(window.queued() <= 4000 + 300 + 128);
        if let Some(held) = take.then(|| window.take()).flatten() {
            assert_eq!(held.idx, next);
            next += 1;
            window.done(held);
        }
    };
    for (bytes, take) in &input.packets {
        bring(bytes, *take);
    }
    for (idx, len, take) in &input.numbered {
        let mut bytes = [0u32, u32::from(*idx), 0].map(u32::to_be_bytes).concat();
        bytes.resize(12 + usize::from(*len), *idx);
        bring(&bytes, *take);
    }
});
