// SPDX-License-Identifier: MIT OR Apache-2.0
//! A whole load of a damaged stream into a simulated device. Whatever comes: an error of the closed
//! set or success, the device never left in RESUMING, and nothing asked of the driver that no VMM
//! may ask.

use crate::input::Input;
use vfiomig::Device;
use vfiomig::device::{DeviceOptions, State};
use vfiomig::session::{LoadOptions, SaveOptions, SaveStatus};
use vfiomig_sim::{Sim, SimOptions};

/// A good stream of a small device.
pub(crate) fn stream() -> &'static [u8] {
    static STREAM: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    STREAM.get_or_init(|| {
        let sim = Sim::new(options()).expect("sim");
        let device = Device::new(sim.transport(), DeviceOptions::default()).expect("device");
        let mut save =
            device.save(SaveOptions { max_frame: 500, ..SaveOptions::default() }).expect("save");
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

/// The device that it is of, and one that it fits.
pub(crate) fn options() -> SimOptions {
    SimOptions { state_size: 3000, ..SimOptions::default() }
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (cut, step) = (usize::from(input.u8()) % 64, usize::from(input.u8()) + 1);
    let mut bytes = stream().to_vec();
    while !input.is_empty() {
        let at = usize::from(input.u16()) % bytes.len();
        bytes[at] ^= input.u8();
    }
    bytes.truncate(bytes.len() - cut);
    let untouched = bytes == stream();
    let sim = Sim::new(options()).expect("sim");
    let device = Device::new(sim.transport(), DeviceOptions::default()).expect("device");
    let mut load = device.load(LoadOptions::default()).expect("load");
    let pushed = bytes.chunks(step).try_for_each(|piece| load.push(piece).map(drop));
    let done = pushed.and_then(|()| load.commit());
    drop(load);
    assert_eq!(done.is_ok(), untouched, "{done:?}");
    let state = device.state().expect("state");
    assert_eq!(state, if untouched { State::Stop } else { State::Running });
    assert_eq!(sim.violations(), (0, None));
}
