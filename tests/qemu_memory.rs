// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the numbers in a hostile stream of QEMU's format cost: counted by the allocator itself, and
//! therefore a program of its own with one test.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;
mod counting;

use std::time::Duration;

use common::side;
use counting::cost;
use vfiomig::session::{LoadOptions, Packets};
use vfiomig::stream::Format;
use vfiomig_sim::SimOptions;

fn packet(idx: u32, flags: u32, data: &[u8]) -> Vec<u8> {
    [&[0, idx, flags].map(u32::to_be_bytes).concat(), data].concat()
}

/// What sending these packets costs, with a queue of 100000 bytes.
fn of_packets(send: impl FnOnce(&Packets)) -> usize {
    let target = side(SimOptions::default());
    let options = LoadOptions {
        format: Format::QemuPackets,
        max_queued: 100_000,
        write_timeout: Duration::from_millis(10),
        ..LoadOptions::default()
    };
    let load = target.device.load(options).unwrap();
    let packets = load.packets().unwrap();
    cost(|| send(&packets)).1
}

#[test]
fn numbers_of_a_hostile_stream_cost_nothing() {
    // The counting itself works.
    assert!((50_000..51_000).contains(&cost(|| drop(vec![0u8; 50_000])).1));
    // An error's text and failure, and the logger's.
    const LITTLE: usize = 8 << 10;
    for idx in [1 << 20 | 1, 1 << 24, 1 << 31, u32::MAX - 1, u32::MAX] {
        for (flags, data) in
            [(0, &b"x"[..]), (1, b"\xff\xff\xff\xff\xef\x10\0\x02\xff\xff\xff\xff\xef\x10\0\x01")]
        {
            let bytes = packet(idx, flags, data);
            let cost = of_packets(|packets| assert!(packets.submit(&bytes).is_err()));
            assert!(cost < LITTLE, "{idx}: {cost}");
        }
    }
    // The largest distance that is allowed costs as much as any other.
    let bytes = packet(1 << 20, 0, b"x");
    let far = of_packets(|packets| packets.submit(&bytes).unwrap());
    assert!(far < LITTLE, "{far}");
    // A packet that is too long is not copied.
    let bytes = packet(0, 0, &vec![0; (4 << 20) + 1]);
    let long = of_packets(|packets| assert!(packets.submit(&bytes).is_err()));
    assert!(long < LITTLE, "{long}");
    // Many packets of one byte cost what they are taken to cost, and end at the quota.
    let all: Vec<_> = (1..100_000).map(|idx| packet(idx, 0, b"x")).collect();
    let mut taken = 0;
    let many = of_packets(|packets| {
        taken = all.iter().take_while(|bytes| packets.submit(bytes).is_ok()).count();
    });
    assert_eq!(taken, 100_000 / 129);
    assert!(many < 120_000, "{many}");
    // An announced length is not believed: room for a piece of it is made, and only when asked for.
    let target = side(SimOptions::default());
    let options = LoadOptions { format: Format::Qemu, ..LoadOptions::default() };
    let mut load = target.device.load(options).unwrap();
    let tag = |n: u8| [0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0, n];
    let head = [tag(3), tag(1), tag(4), (1u64 << 39).to_be_bytes()].concat();
    let ((), head) = cost(|| assert!(load.push(&head).unwrap().section_ended));
    assert!(head < LITTLE, "{head}");
    let ((), room) = cost(|| assert_eq!(load.space().unwrap().len(), 1 << 20));
    assert!(room < (1 << 20) + LITTLE, "{room}");
}
