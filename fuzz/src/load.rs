//! A whole load of a damaged stream into a simulated device. Whatever comes: an error of the
//! closed set or success, the device never left in RESUMING, and nothing asked of the driver that
//! no VMM may ask.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vfiomig::device::{DeviceOptions, State};
use vfiomig::session::{LoadOptions, SaveOptions, SaveStatus};
use vfiomig::Device;
use vfiomig_sim::{Sim, SimOptions};

/// A good stream of a small device.
fn stream() -> &'static [u8] {
    static STREAM: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    STREAM.get_or_init(|| {
        let sim = Sim::new(options()).expect("sim");
        let device = Device::new(sim.transport(), DeviceOptions::default()).expect("device");
        let mut save = device.save(SaveOptions { max_frame: 500, ..SaveOptions::default() }).expect("save");
        let mut buf = vec![0; 8192];
        let mut out = Vec::new();
        save.stop().expect("stop");
        loop {
            let next = save.next(&mut buf).expect("next");
            out.extend_from_slice(&buf[..next.len]);
            if next.status == SaveStatus::End {
                return out;
            }
        }
    })
}

fn options() -> SimOptions {
    SimOptions { state_size: 3000, ..SimOptions::default() }
}

fuzz_target!(|input: (Vec<(u16, u8)>, u16, u8)| {
    let (changes, cut, step) = input;
    let mut bytes = stream().to_vec();
    for (at, value) in changes {
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= value;
    }
    bytes.truncate(bytes.len().saturating_sub(usize::from(cut) % 64));
    let untouched = bytes == stream();
    let sim = Sim::new(options()).expect("sim");
    let device = Device::new(sim.transport(), DeviceOptions::default()).expect("device");
    let mut load = device.load(LoadOptions::default()).expect("load");
    let pushed = bytes.chunks(usize::from(step) + 1).try_for_each(|piece| load.push(piece).map(drop));
    let done = pushed.and_then(|()| load.commit());
    drop(load);
    assert_eq!(done.is_ok(), untouched, "{done:?}");
    let state = device.state().expect("state");
    assert_eq!(state, if untouched { State::Stop } else { State::Running });
    assert_eq!(sim.violations(), (0, None));
});
