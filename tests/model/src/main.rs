// SPDX-License-Identifier: MIT OR Apache-2.0
//! Goes through the model, and through each mistake that is planted in it.
//!
//! usage: vfiomig-model quick|large

use std::process::ExitCode;

use vfiomig_model::{Bounds, Fault, Traffic, explore, find, flow};

/// With nothing planted: everything holds, and everything that should be reachable is.
const QUICK: [Bounds; 3] = [
    Bounds { attempts: 1, cuts: 1, failures: 0, resumes: 0, deaths: 2, devices: 1 },
    Bounds { attempts: 1, cuts: 0, failures: 1, resumes: 1, deaths: 2, devices: 2 },
    Bounds { attempts: 2, cuts: 0, failures: 0, resumes: 0, deaths: 1, devices: 1 },
];

/// Some minutes.
const LARGE: [Bounds; 4] = [
    Bounds { attempts: 2, cuts: 0, failures: 0, resumes: 0, deaths: 2, devices: 1 },
    Bounds { attempts: 1, cuts: 1, failures: 2, resumes: 1, deaths: 2, devices: 2 },
    Bounds { attempts: 1, cuts: 2, failures: 0, resumes: 0, deaths: 2, devices: 1 },
    Bounds { attempts: 2, cuts: 0, failures: 1, resumes: 0, deaths: 2, devices: 1 },
];

const TRAFFIC: Traffic = Traffic {
    devices: 2,
    channels: 2,
    frames: 3,
    depth: 2,
    window: 2,
    stuck: false,
    waits_in_channel: false,
};

/// Flow control: with all devices writing, with one that does not, and with a planted mistake.
const QUICK_TRAFFIC: [Traffic; 4] = [
    TRAFFIC,
    Traffic { stuck: true, ..TRAFFIC },
    Traffic { stuck: true, channels: 1, ..TRAFFIC },
    Traffic { stuck: true, waits_in_channel: true, ..TRAFFIC },
];

const LARGE_TRAFFIC: [Traffic; 2] = [
    Traffic { frames: 4, window: 3, ..TRAFFIC },
    Traffic { devices: 3, frames: 2, stuck: true, ..TRAFFIC },
];

fn main() -> ExitCode {
    let large = match std::env::args().nth(1).as_deref() {
        Some("quick") => false,
        Some("large") => true,
        _ => {
            eprintln!("usage: vfiomig-model quick|large");
            return ExitCode::from(2);
        }
    };
    let (mut passed, mut failed) = (0, 0);
    let mut count = |line: String, right: bool| {
        println!("{}{line}", if right { "" } else { "WRONG: " });
        *if right { &mut passed } else { &mut failed } += 1;
    };
    for traffic in QUICK_TRAFFIC.iter().chain(LARGE_TRAFFIC.iter().filter(|_| large)) {
        let found = flow(*traffic);
        count(format!("flow control: {found}"), found.is_right());
    }
    for bounds in QUICK.iter().chain(LARGE.iter().filter(|_| large)) {
        let found = explore(*bounds);
        count(format!("handover: {found}"), found.is_right());
    }
    for fault in Fault::ALL {
        let found = find(fault);
        count(format!("handover: {found}"), found.is_right());
    }
    println!("check-handover: {passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}
