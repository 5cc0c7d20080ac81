// SPDX-License-Identifier: MIT OR Apache-2.0
//! An estimate that is told anything, and given blobs of anybody's: no number runs over, the bounds
//! contain the value, and what it exports it takes back. The checksums of blobs are corrected first.

use vfiomig::estimate::{BLOB_LEN, Estimate, Observation, Phase, Remaining, Side, Step, Verdict};

use crate::input::{Input, crc};

const DEVICES: u32 = 2;

fn number(input: &mut Input) -> u64 {
    let bits = input.u8() % 65;
    let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    let bytes: [u8; 8] = std::array::from_fn(|_| input.u8());
    u64::from_le_bytes(bytes) & mask
}

fn blob(input: &mut Input) -> Vec<u8> {
    let mut blob = b"VMES\x01\x00\x00\x01".to_vec();
    while blob.len() < BLOB_LEN - 4 {
        // Small numbers pass more often.
        blob.extend_from_slice(&number(input).to_le_bytes());
    }
    blob.truncate(BLOB_LEN - 4);
    if input.rarely(4) {
        blob.truncate(usize::from(input.u8()));
    }
    let check = crc(&[&blob]);
    blob.extend_from_slice(&check.to_le_bytes());
    blob
}

fn observation(input: &mut Input) -> Observation {
    let (bytes, ns) = (number(input), number(input));
    match input.u8() % 17 {
        0 | 1 => Observation::Read { bytes, ns },
        2 => Observation::Sent { bytes, ns },
        3 => Observation::Written { bytes, ns },
        4 => Observation::Took(input.pick(&Step::ALL), ns),
        5 => Observation::Ended,
        6 | 7 => Observation::Remaining(Remaining {
            precopy: (!input.rarely(4)).then_some((bytes, ns)),
            stop_copy: (!input.rarely(4)).then_some(number(input)),
            initial_sent: input.rarely(2),
            generation: u32::from(input.u8() % 4),
        }),
        8 => Observation::InitialLoaded(bytes as u32),
        9 => Observation::RoundTrip(ns),
        10 => Observation::SourceThreads(bytes as u32),
        11 => Observation::TargetThreads(bytes as u32),
        12 => Observation::SourceHelpers(bytes as u32),
        13 => Observation::TargetHelpers(bytes as u32),
        14 => Observation::Channels(bytes as u32),
        15 => input.pick(&[
            Observation::SwitchOver,
            Observation::Moved(ns),
            Observation::HandedOver(ns),
        ]),
        _ => Observation::Measured(input.pick(&Phase::ALL), ns),
    }
}

fn check(estimate: &mut Estimate, at: u64, limit: u64) {
    for device in [None, Some(0), Some(1)] {
        let prediction = estimate.predict(device, at).expect("a device that there is");
        let ranges = prediction.phases.iter().chain([&prediction.total]);
        for range in ranges.chain([&prediction.stop_copy_bytes]) {
            assert!(range.low <= range.value && range.value <= range.high, "{prediction:?}");
        }
        estimate.measured(device).expect("a device that there is");
    }
    let decision = estimate.decide(at, limit, limit % 2 == 0);
    let fits = decision.prediction.total.value <= limit;
    assert!(fits || decision.verdict != Verdict::SwitchOver);
    let kept = estimate.export(0).expect("a device that there is");
    let mut other = Estimate::new();
    other.add_device().expect("memory");
    other.import(0, Side::Here, &kept).expect("its own");
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut estimate = Estimate::new();
    for _ in 0..DEVICES {
        estimate.add_device().expect("memory");
    }
    while !input.is_empty() {
        let device = u32::from(input.u8()) % (DEVICES + 1);
        let before = estimate.clone();
        let taken = match input.rarely(4) {
            true => {
                let side = input.pick(&[Side::Here, Side::There]);
                estimate.import(device, side, &blob(&mut input))
            }
            false => {
                let at = number(&mut input);
                estimate.observe(device, at, observation(&mut input))
            }
        };
        assert!(taken.is_ok() || estimate == before, "refused, and yet something changed");
        let (at, limit) = (number(&mut input), number(&mut input));
        check(&mut estimate, at, limit);
    }
}
