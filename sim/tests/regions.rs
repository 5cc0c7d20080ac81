// SPDX-License-Identifier: MIT OR Apache-2.0
//! The regions of devices that speak older protocols, through the table, as a client of its own sees them.

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
    read_from(sim, REGION, at, len)
}

fn read_from(sim: &Sim, region: u32, at: u64, len: usize) -> Result<Vec<u8>, i32> {
    let (table, opaque) = sim.table();
    let mut buf = vec![0; len];
    // SAFETY: the simulator lives, and the buffer has `len` bytes.
    let ret =
        unsafe { table.region_read.unwrap()(opaque, region, at, buf.as_mut_ptr().cast(), len) };
    if ret < 0 { Err(-ret as i32) } else { Ok(buf) }
}

fn word(sim: &Sim, at: u64) -> Result<u64, i32> {
    read(sim, at, 8).map(|bytes| u64::from_ne_bytes(bytes.try_into().unwrap()))
}

fn write(sim: &Sim, at: u64, bytes: &[u8]) -> Result<(), i32> {
    write_to(sim, REGION, at, bytes)
}

fn write_to(sim: &Sim, region: u32, at: u64, bytes: &[u8]) -> Result<(), i32> {
    let (table, opaque) = sim.table();
    let from = bytes.as_ptr().cast::<c_void>();
    // SAFETY: as above.
    let ret = unsafe { table.region_write.unwrap()(opaque, region, at, from, bytes.len()) };
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

const CONFIG: u32 = REGION + 1;
const MEMORY: u32 = REGION + 2;
const BITMAP: u32 = MEMORY + 1;

fn rfc(quirks: u64, seed: u64) -> Sim {
    let options =
        SimOptions { kind: Kind::Rfc, state_size: 3000, window: 1000, ..SimOptions::default() };
    Sim::new(SimOptions { quirks, seed, ..options }).unwrap()
}

fn put(sim: &Sim, at: u64, value: u32) -> Result<(), i32> {
    write(sim, at, &value.to_ne_bytes())
}

fn put_long(sim: &Sim, at: u64, value: u64) -> Result<(), i32> {
    write(sim, at, &value.to_ne_bytes())
}

/// The chunks of a snapshot.
fn memory(sim: &Sim) -> Vec<Vec<u8>> {
    let size = word(sim, 40).unwrap();
    let chunk = |pos: u64| {
        put_long(sim, 48, pos).unwrap();
        put(sim, 32, 1).unwrap();
        read_from(sim, MEMORY, 0, (size - pos).min(1000) as usize).unwrap()
    };
    (0..size).step_by(1000).map(chunk).collect()
}

fn config(sim: &Sim) -> Vec<u8> {
    let size = word(sim, 24).unwrap();
    put(sim, 16, 1).unwrap();
    read_from(sim, CONFIG, 0, size as usize).unwrap()
}

fn give_memory(sim: &Sim, chunks: &[Vec<u8>]) {
    put_long(sim, 40, chunks.iter().map(|chunk| chunk.len() as u64).sum()).unwrap();
    for (chunk, pos) in chunks.iter().zip((0..).step_by(1000)) {
        write_to(sim, MEMORY, 0, chunk).unwrap();
        put_long(sim, 48, pos).unwrap();
        put(sim, 32, 2).unwrap();
    }
}

fn give_config(sim: &Sim, config: &[u8]) -> Result<(), i32> {
    put_long(sim, 24, config.len() as u64)?;
    write_to(sim, CONFIG, 0, config)?;
    put(sim, 16, 2)
}

#[test]
fn a_plain_client_moves_a_device_of_the_rfc_by_snapshots() {
    // Stopped, whole; and in LOGGING, with what has changed. Loaded while stopped, and while running.
    for (logging, before) in [(false, 1), (true, 0)] {
        let (source, target) = (rfc(0, 1), rfc(0, 2));
        put(&source, 4, if logging { 2 } else { 1 }).unwrap();
        let first = memory(&source);
        assert_eq!(first.len(), 4);
        let mut later = vec![];
        if logging {
            source.guest_write(0, 1, 7).unwrap();
            put(&source, 4, 3).unwrap();
            later = memory(&source);
            assert_eq!((later.len(), memory(&source).len()), (1, 0));
        } else {
            assert_eq!(memory(&source), first, "whole each time");
        }
        let config = config(&source);
        put(&target, 4, before).unwrap();
        give_memory(&target, &first);
        if logging {
            give_memory(&target, &later);
        }
        give_config(&target, &config).unwrap();
        assert_eq!(target.state(), if before == 1 { State::STOP } else { State::RUNNING });
        put(&target, 4, 0).unwrap();
        assert_eq!((target.digest(), target.state()), (source.digest(), State::RUNNING));
        assert_eq!((source.violations(), target.violations()), ((0, None), (0, None)));
    }
}

#[test]
fn a_snapshot_read_in_part_is_in_the_next_and_all_ways_between_states_are_there() {
    let sim = rfc(0, 1);
    for from in 0..4 {
        for to in 0..4 {
            put(&sim, 4, from).unwrap();
            put(&sim, 4, to).unwrap();
        }
    }
    put(&sim, 4, 0).unwrap();
    put(&sim, 4, 2).unwrap();
    let size = word(&sim, 40).unwrap();
    put_long(&sim, 48, 0).unwrap();
    put(&sim, 32, 1).unwrap();
    let first = read_from(&sim, MEMORY, 0, 1000).unwrap();
    put(&sim, 4, 3).unwrap();
    // It stays where it is, and comes again.
    assert_eq!(read_from(&sim, MEMORY, 0, 1000).unwrap(), first);
    let all = memory(&sim);
    assert_eq!((all.len() as u64, &all[0]), (size.div_ceil(1000), &first));
    assert_eq!(word(&sim, 40), Ok(0));
    // Whoever sets LOGGING again gets everything.
    put(&sim, 4, 0).unwrap();
    put(&sim, 4, 3).unwrap();
    assert_eq!(word(&sim, 40), Ok(size));
    assert_eq!(sim.violations(), (0, None));
}

#[test]
fn what_no_client_of_the_rfc_may_do_is_refused_and_counted() {
    let sim = rfc(0, 1);
    assert_eq!(read(&sim, 0, 4), Ok(1u32.to_ne_bytes().to_vec()));
    assert_eq!(read(&sim, 12, 4), Ok(vec![0; 4]));
    assert_eq!(write(&sim, 36, &[1; 4]), Ok(()));
    assert_eq!((read(&sim, 4, 4), read(&sim, 16, 4)), (Err(libc::EINVAL), Err(libc::EINVAL)));
    assert_eq!((put(&sim, 0, 1), put(&sim, 8, 1)), (Err(libc::EFAULT), Err(libc::EFAULT)));
    assert_eq!((read(&sim, 40, 4), put(&sim, 16, 3)), (Err(libc::EINVAL), Err(libc::EINVAL)));
    assert_eq!(sim.violations(), (0, None));
    assert_eq!(put(&sim, 4, 4), Err(libc::EINVAL));
    assert_eq!(put(&sim, 32, 1), Err(libc::EINVAL), "of no snapshot");
    assert_eq!(word(&sim, 40).unwrap() / 1000, 3);
    for pos in [500, 4000] {
        put_long(&sim, 48, pos).unwrap();
        assert_eq!(put(&sim, 32, 1), Err(libc::EINVAL));
    }
    assert_eq!(write_to(&sim, MEMORY, 0, &[0]), Err(libc::EINVAL));
    put(&sim, 4, 2).unwrap();
    assert_eq!(put_long(&sim, 40, 5), Err(libc::EINVAL), "for a device that is being read");
    assert_eq!(sim.violations().0, 6);
    let target = rfc(0, 2);
    put(&target, 4, 1).unwrap();
    assert_eq!(put_long(&target, 40, 0), Err(libc::EINVAL));
    assert_eq!(put_long(&target, 40, 5), Err(libc::EINVAL), "it has refused something");
    assert_eq!((put(&target, 4, 0), target.violations().0), (Err(libc::EINVAL), 2));
}

#[test]
fn a_device_of_the_rfc_knows_the_pages_that_it_wrote_to_while_logging_is_set() {
    const RAM: u64 = 1 << 32;
    let sim = rfc(0, 1);
    let ask = |start: u64, pages: u64| {
        let range = [start, pages].map(u64::to_ne_bytes).concat();
        write(&sim, 56, &range)?;
        let bytes = read_from(&sim, BITMAP, 0, pages.div_ceil(64) as usize * 8)?;
        let words = bytes.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap()));
        Ok::<_, i32>(words.collect::<Vec<_>>())
    };
    sim.dma_write(RAM, 1).unwrap();
    assert_eq!(ask(RAM, 64), Ok(vec![0]));
    put(&sim, 4, 2).unwrap();
    assert_eq!(ask(RAM, 64), Ok(vec![0]));
    sim.dma_write(RAM + 4095, 2).unwrap();
    put(&sim, 4, 3).unwrap();
    // Once, and of that range; what is behind the last page is set anyhow.
    assert_eq!(ask(RAM + (1 << 30), 128), Ok(vec![0, 0]));
    assert_eq!(ask(RAM, 1), Ok(vec![u64::MAX]));
    assert_eq!(ask(RAM, 64), Ok(vec![2]));
    assert_eq!(ask(RAM, 64), Ok(vec![0]));
    // By two accesses, of which the second asks.
    put(&sim, 4, 2).unwrap();
    sim.dma_write(RAM, 1).unwrap();
    put_long(&sim, 56, RAM).unwrap();
    put_long(&sim, 64, 64).unwrap();
    assert_eq!(read_from(&sim, BITMAP, 0, 8), Ok(1u64.to_ne_bytes().to_vec()));
    // Dropping LOGGING forgets them.
    sim.dma_write(RAM, 1).unwrap();
    put(&sim, 4, 0).unwrap();
    put(&sim, 4, 2).unwrap();
    assert_eq!(ask(RAM, 64), Ok(vec![0]));
    assert_eq!(sim.violations(), (0, None));
    for (start, pages) in [(RAM, 4097), (RAM + 1, 1), (u64::MAX - 4095, 2), (0, u64::MAX)] {
        assert_eq!(ask(start, pages), Err(libc::EINVAL));
    }
    assert_eq!((ask(RAM, 0), sim.violations().0), (Ok(vec![]), 4));
}

#[test]
fn quirks_of_the_rfc_show() {
    let (none, letter) = (rfc(quirk::NO_DEVICE_MEMORY, 1), rfc(quirk::FULL_BEFORE_LOGGING, 1));
    assert_eq!((regions(&none), read(&none, 8, 4)), (12, Ok(2u32.to_ne_bytes().to_vec())));
    assert!(word(&none, 24).unwrap() > 3000);
    put(&letter, 4, 3).unwrap();
    assert_eq!(word(&letter, 40), Ok(0));
    assert_eq!(read(&rfc(quirk::OTHER_VERSION, 1), 0, 4), Ok(2u32.to_ne_bytes().to_vec()));
    assert_eq!(read(&rfc(quirk::UNKNOWN_CAPS, 1), 8, 4), Ok(0x23u32.to_ne_bytes().to_vec()));
    assert_eq!((regions(&rfc(0, 1)), regions(&rfc(quirk::MISSING_REGION, 1))), (13, 12));
    assert_eq!(regions(&rfc(quirk::NO_LOGGING, 1)), 12);
    assert_eq!(info(&rfc(quirk::TWO_REGIONS, 1), 13).unwrap()[14..], [2, 1]);
    assert!(word(&rfc(quirk::CONFIG_TOO_LONG, 1), 24).unwrap() > 4096);
    let forgets = rfc(quirk::FORGETS_HALF, 1);
    put(&forgets, 4, 2).unwrap();
    assert!(word(&forgets, 40).unwrap() > 0);
    put(&forgets, 4, 3).unwrap();
    assert_eq!(word(&forgets, 40), Ok(0));
}

#[test]
fn a_server_of_the_rfc_keeps_its_state_over_a_reset_and_refuses_one_while_it_is_stopped() {
    let reset = |sim: &Sim| {
        let (table, opaque) = sim.table();
        // SAFETY: the simulator lives.
        unsafe { table.reset.unwrap()(opaque) }
    };
    let sim = rfc(quirk::RESET_KEEPS_STATE, 1);
    let empty = sim.digest();
    sim.guest_write(0, 10, 1).unwrap();
    put(&sim, 4, 2).unwrap();
    let first = memory(&sim);
    assert_eq!(word(&sim, 40), Ok(0));
    assert_eq!(reset(&sim), 0);
    assert_eq!((sim.state(), sim.digest()), (State::PRE_COPY, empty));
    // All of it, as it is now.
    assert_eq!(put(&sim, 32, 1), Err(libc::EINVAL), "its snapshot is gone");
    let again = memory(&sim);
    assert!(again.len() == first.len() && again != first);
    for state in [3, 1] {
        put(&sim, 4, state).unwrap();
        assert_eq!(reset(&sim), -libc::EINVAL);
    }
    // Nor while it is being loaded, which it can leave.
    give_memory(&sim, &first);
    assert_eq!(reset(&sim), -libc::EINVAL);
    put(&sim, 4, 0).unwrap();
    assert_eq!((sim.state(), reset(&sim), sim.digest()), (State::RUNNING, 0, empty));
    assert_eq!(sim.violations().0, 1);
}
