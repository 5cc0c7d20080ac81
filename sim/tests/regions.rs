// SPDX-License-Identifier: MIT OR Apache-2.0
//! The regions of a device that speaks v1, through the table, as a client of its own sees them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unsafe_code)]

use std::ffi::c_void;

use vfiomig_sim::{Kind, Sim, SimOptions, State, quirk};

const REGION: u32 = 9;
const PAGE: u64 = 4096;
const KEPT: u32 = 0x5a5a_0000;

fn sim(quirks: u64, seed: u64) -> Sim {
    let options =
        SimOptions { kind: Kind::V1, state_size: 3000, window: 1000, ..SimOptions::default() };
    Sim::new(SimOptions { quirks, seed, ..options }).unwrap()
}

fn read(sim: &Sim, at: u64, len: usize) -> Result<Vec<u8>, i32> {
    let (table, opaque) = sim.table();
    let mut buf = vec![0; len];
    // SAFETY: the simulator lives, and the buffer has `len` bytes.
    let ret =
        unsafe { table.region_read.unwrap()(opaque, REGION, at, buf.as_mut_ptr().cast(), len) };
    if ret < 0 { Err(-ret as i32) } else { Ok(buf) }
}

fn word(sim: &Sim, at: u64) -> Result<u64, i32> {
    read(sim, at, 8).map(|bytes| u64::from_ne_bytes(bytes.try_into().unwrap()))
}

fn write(sim: &Sim, at: u64, bytes: &[u8]) -> Result<(), i32> {
    let (table, opaque) = sim.table();
    let from = bytes.as_ptr().cast::<c_void>();
    // SAFETY: as above.
    let ret = unsafe { table.region_write.unwrap()(opaque, REGION, at, from, bytes.len()) };
    if ret < 0 { Err(-ret as i32) } else { Ok(()) }
}

fn set(sim: &Sim, state: u32) -> Result<(), i32> {
    write(sim, 0, &(state | KEPT).to_ne_bytes())
}

fn info(sim: &Sim, region: u32) -> Result<Vec<u32>, i32> {
    let (table, opaque) = sim.table();
    let mut words = vec![0u32; 16];
    // SAFETY: as above.
    let ret = unsafe { table.region_info.unwrap()(opaque, region, words.as_mut_ptr().cast(), 64) };
    if ret < 0 { Err(-ret) } else { Ok(words) }
}

fn regions(sim: &Sim) -> u32 {
    let (table, opaque) = sim.table();
    let (mut flags, mut count) = (0, 0);
    // SAFETY: as above.
    unsafe { table.device_info.unwrap()(opaque, &raw mut flags, &raw mut count) };
    count
}

/// All chunks of a stopped device, as they lie in its region.
fn chunks(sim: &Sim) -> Vec<(u64, Vec<u8>)> {
    set(sim, 2).unwrap();
    let mut all = vec![];
    while word(sim, 8).unwrap() > 0 {
        let (at, len) = (word(sim, 16).unwrap(), word(sim, 24).unwrap());
        all.push((at, read(sim, at, len as usize).unwrap()));
    }
    set(sim, 0).unwrap();
    all
}

#[test]
fn a_plain_client_saves_and_loads_a_device_in_chunks() {
    for quirks in [0, quirk::ALTERNATING_OFFSET] {
        let (source, target) = (sim(quirks, 1), sim(quirks, 2));
        let all = chunks(&source);
        assert!(all.len() > 3 && all.iter().all(|(_, chunk)| chunk.len() <= 1000));
        let places: Vec<_> = all.iter().map(|(at, _)| *at).collect();
        let moves = places.iter().any(|at| *at != PAGE);
        assert_eq!(moves, quirks == quirk::ALTERNATING_OFFSET);
        set(&target, 4).unwrap();
        for (_, chunk) in &all {
            write(&target, word(&target, 16).unwrap(), chunk).unwrap();
            write(&target, 24, &(chunk.len() as u64).to_ne_bytes()).unwrap();
        }
        set(&target, 1).unwrap();
        assert_eq!((target.digest(), target.state()), (source.digest(), State::RUNNING));
        assert_eq!((source.violations(), target.violations()), ((0, None), (0, None)));
    }
}

#[test]
fn what_no_client_may_do_is_refused_and_counted() {
    let sim = sim(0, 1);
    assert_eq!(word(&sim, 8), Err(libc::EINVAL)); // no session
    assert_eq!(set(&sim, 5), Err(libc::EINVAL));
    assert_eq!(set(&sim, 7), Err(libc::EINVAL));
    set(&sim, 3).unwrap();
    assert_eq!(word(&sim, 16), Err(libc::EINVAL)); // nobody asked whether there is one
    assert_eq!(word(&sim, 24), Err(libc::EINVAL));
    assert_eq!(write(&sim, PAGE, &[0]), Err(libc::EINVAL));
    assert_eq!(sim.violations().0, 6);
    // Wrong widths, and fields that cannot be written to.
    assert_eq!(read(&sim, 0, 8), Err(libc::EINVAL));
    assert_eq!(read(&sim, 8, 4), Err(libc::EINVAL));
    assert_eq!(write(&sim, 8, &[0; 8]), Err(libc::EFAULT));
    assert_eq!(read(&sim, PAGE, 1001), Err(libc::EINVAL));
    assert_eq!(write(&sim, 0, &1u32.to_ne_bytes()), Ok(()));
    assert_eq!(sim.violations().0, 7, "the reserved bits");
}

#[test]
fn a_chunk_that_was_not_taken_is_offered_again() {
    let sim = sim(0, 1);
    set(&sim, 3).unwrap();
    assert!(word(&sim, 8).unwrap() > 0);
    let (at, len) = (word(&sim, 16).unwrap(), word(&sim, 24).unwrap());
    let chunk = read(&sim, at, len as usize);
    set(&sim, 2).unwrap();
    assert!(word(&sim, 8).unwrap() > 0);
    let (at, len) = (word(&sim, 16).unwrap(), word(&sim, 24).unwrap());
    assert_eq!(read(&sim, at, len as usize), chunk);
}

#[test]
fn quirks_of_v1_show() {
    let zero = sim(quirk::DATA_SIZE_ZERO, 1);
    set(&zero, 2).unwrap();
    assert!(word(&zero, 8).unwrap() > 0);
    assert_eq!((word(&zero, 16), word(&zero, 24)), (Ok(PAGE), Ok(0)));
    let strict = sim(quirk::STRICT_WIDTHS, 1);
    assert_eq!(read(&strict, PAGE, 16), Err(libc::EINVAL));
    assert_eq!(read(&strict, PAGE + 4, 8), Err(libc::EINVAL));
    assert!(read(&strict, PAGE + 4, 4).is_ok());
    let outside = sim(quirk::OFFSET_OUTSIDE, 1);
    set(&outside, 2).unwrap();
    assert!(word(&outside, 8).unwrap() > 0);
    assert_eq!(word(&outside, 16), Ok(PAGE + 1000));
    let endless = sim(quirk::PENDING_FOREVER, 1);
    set(&endless, 2).unwrap();
    for _ in 0..20 {
        assert!(word(&endless, 8).unwrap() > 0);
        word(&endless, 16).unwrap();
    }
    let typed = |quirks, region| info(&sim(quirks, 1), region).unwrap()[14..].to_vec();
    assert_eq!((typed(0, 9), typed(quirk::MID_REGION, 9)), (vec![3, 1], vec![2, 1]));
    assert_eq!(regions(&sim(quirk::TWO_REGIONS, 1)), 11);
    assert_eq!((regions(&sim(0, 1)), typed(quirk::TWO_REGIONS, 10)), (10, vec![3, 1]));
    let looping = info(&sim(quirk::LOOPING_CHAIN, 1), 9).unwrap();
    assert_eq!((looping[3], looping[9], looping[13]), (32, 48, 32));
    assert_eq!(info(&sim(0, 1), 8), Err(libc::EINVAL));
}
