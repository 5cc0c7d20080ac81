// SPDX-License-Identifier: MIT OR Apache-2.0
//! What takes no longer than a test may. `make check-handover` goes further.

use vfiomig_model::{Traffic, flow};

const TRAFFIC: Traffic = Traffic {
    devices: 2,
    channels: 2,
    frames: 3,
    depth: 2,
    window: 2,
    stuck: false,
    waits_in_channel: false,
};

#[test]
fn frames_keep_flowing_whatever_channel_they_take() {
    for stuck in [false, true] {
        let found = flow(Traffic { stuck, ..TRAFFIC });
        println!("{found}");
        assert!(found.is_right(), "{found}");
    }
}

#[test]
fn a_target_that_leaves_frames_in_their_channel_is_found() {
    let found = flow(Traffic { stuck: true, waits_in_channel: true, ..TRAFFIC });
    println!("{found}");
    assert!(found.is_right(), "{found}");
}
