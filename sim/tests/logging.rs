// SPDX-License-Identifier: MIT OR Apache-2.0
//! The simulator's DMA logging: what it keeps, what it reports, what it refuses. All of it goes
//! through the ops table, as a kernel's caller would ask.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod table;

use table::{Dut, dut};
use vfiomig_sim::{Effect, Op, Sim, SimOptions, State};

const GET: u32 = 1 << 16;
const SET: u32 = 1 << 17;
const START: u32 = SET | 6;
const STOP: u32 = SET | 7;
const REPORT: u32 = GET | 8;
const PAGE: u64 = 4096;

fn put(payload: &mut [u8], fields: &[u64]) {
    for (at, field) in payload.chunks_exact_mut(8).zip(fields) {
        at.copy_from_slice(&field.to_ne_bytes());
    }
}

impl Dut {
    fn start_raw(&mut self, fields: [u64; 3]) -> Result<u64, i32> {
        let mut payload = [0; 24];
        put(&mut payload, &fields);
        self.table.feature(START, &mut payload)?;
        Ok(u64::from_ne_bytes(payload[..8].try_into().unwrap()))
    }

    /// The pages that it logs in.
    fn start(&mut self, page_size: u64, ranges: &[(u64, u64)]) -> Result<u64, i32> {
        let words: Vec<u64> = ranges.iter().flat_map(|(iova, length)| [*iova, *length]).collect();
        let address = words.as_ptr().expose_provenance() as u64;
        self.start_raw([page_size, ranges.len() as u64, address])
    }

    fn stop(&mut self) -> Result<(), i32> {
        self.table.feature(STOP, &mut [])
    }

    /// Numbers of the pages that are reported, in a bitmap that is all zeros before.
    fn report(&mut self, iova: u64, length: u64, page_size: u64) -> Result<Vec<u64>, i32> {
        let words = (length / page_size.max(1)).div_ceil(64) as usize;
        let mut bitmap = vec![0u64; words.max(1)];
        let mut payload = [0; 32];
        let address = bitmap.as_mut_ptr().expose_provenance() as u64;
        put(&mut payload, &[iova, length, page_size, address]);
        self.table.feature(REPORT, &mut payload)?;
        let bits = bitmap.len() as u64 * 64;
        Ok((0..bits).filter(|i| bitmap[(i / 64) as usize] >> (i % 64) & 1 == 1).collect())
    }
}

#[test]
fn the_pages_that_were_written_to_are_reported_once_and_no_others() {
    let mut dut = dut(SimOptions::default());
    let base = 1 << 40;
    assert_eq!(dut.start(PAGE, &[(base, 200 * PAGE)]), Ok(PAGE));
    dut.sim.dma_write(base, 1).unwrap();
    dut.sim.dma_write(base + 70 * PAGE - 1, 2).unwrap();
    dut.sim.dma_write(base + 199 * PAGE, PAGE).unwrap();
    assert_eq!(dut.report(base, 200 * PAGE, PAGE), Ok(vec![0, 69, 70, 199]));
    assert_eq!(dut.report(base, 200 * PAGE, PAGE), Ok(vec![]));
    // A part is asked for: the rest stays.
    dut.sim.dma_write(base, 200 * PAGE).unwrap();
    assert_eq!(dut.report(base + 10 * PAGE, 3 * PAGE, PAGE), Ok(vec![0, 1, 2]));
    assert_eq!(dut.report(base, 200 * PAGE, PAGE).unwrap().len(), 197);
    assert_eq!(dut.sim.violations(), (0, None));
}

#[test]
fn only_what_the_ranges_cover_is_logged() {
    let mut dut = dut(SimOptions::default());
    assert_eq!(dut.start(PAGE, &[(64 * PAGE, 2 * PAGE), (0, 2 * PAGE)]), Ok(PAGE));
    dut.sim.dma_write(0, 100 * PAGE).unwrap();
    assert_eq!(dut.report(0, 128 * PAGE, PAGE), Ok(vec![0, 1, 64, 65]));
    // Not before the start, nor after the stop.
    dut.sim.dma_write(0, PAGE).unwrap();
    dut.stop().unwrap();
    dut.sim.dma_write(PAGE, PAGE).unwrap();
    assert_eq!(dut.report(0, 2 * PAGE, PAGE), Err(libc::EINVAL));
    assert_eq!(dut.start(PAGE, &[(0, 2 * PAGE)]), Ok(PAGE));
    assert_eq!(dut.report(0, 2 * PAGE, PAGE), Ok(vec![]));
}

#[test]
fn pages_of_the_log_and_of_the_report_may_differ() {
    let big = SimOptions { log_page_size: 16 * PAGE, ..SimOptions::default() };
    let mut dut = dut(big);
    assert_eq!(dut.start(PAGE, &[(0, 1024 * PAGE)]), Ok(16 * PAGE));
    dut.sim.dma_write(17 * PAGE, 1).unwrap();
    assert_eq!(dut.report(0, 20 * PAGE, PAGE), Ok(vec![16, 17, 18, 19]));
    assert_eq!(dut.report(20 * PAGE, 1004 * PAGE, 4 * PAGE), Ok(vec![0, 1, 2]));
    dut.stop().unwrap();
    assert_eq!(dut.start(64 * PAGE, &[(0, 1024 * PAGE)]), Ok(64 * PAGE));
    dut.sim.dma_write(65 * PAGE, 1).unwrap();
    assert_eq!(dut.report(0, 1024 * PAGE, 64 * PAGE), Ok(vec![1]));
}

#[test]
fn bits_are_added_to_what_is_in_the_bitmap() {
    let mut dut = dut(SimOptions::default());
    dut.start(PAGE, &[(0, 128 * PAGE)]).unwrap();
    dut.sim.dma_write(3 * PAGE, 1).unwrap();
    let mut bitmap = [1u64 << 63, 0xff];
    let address = bitmap.as_mut_ptr().expose_provenance() as u64;
    let mut payload = [0; 32];
    put(&mut payload, &[0, 128 * PAGE, PAGE, address]);
    dut.table.feature(REPORT, &mut payload).unwrap();
    assert_eq!(bitmap, [1 << 63 | 1 << 3, 0xff]);
}

#[test]
fn requests_that_the_kernel_refuses_are_refused_and_counted() {
    let many: Vec<(u64, u64)> = (0..257).map(|i| (i * 2 * PAGE, PAGE)).collect();
    let end = u64::MAX - PAGE + 1;
    for (page, ranges, errno) in [
        (PAGE, &[][..], libc::EINVAL),
        (PAGE, &many[..], libc::E2BIG),
        (PAGE, &[(1, PAGE)], libc::EINVAL),
        (PAGE, &[(0, PAGE + 512)], libc::EINVAL),
        (PAGE, &[(0, 0)], libc::EINVAL),
        (PAGE, &[(end, PAGE)], libc::EOVERFLOW),
        (PAGE, &[(end, 2 * PAGE)], libc::EOVERFLOW),
        (PAGE, &[(0, 2 * PAGE), (PAGE, PAGE)], libc::EINVAL),
        (3 * PAGE, &[(0, 3 * PAGE)], libc::EINVAL),
        (0, &[(0, PAGE)], libc::EINVAL),
    ] {
        let mut dut = dut(SimOptions::default());
        assert_eq!(dut.start(page, ranges), Err(errno), "{page:#x} {ranges:x?}");
        assert_eq!(dut.sim.violations().0, 1, "{page:#x} {ranges:x?}");
        // And nothing was started.
        assert_eq!(dut.report(0, PAGE, PAGE), Err(libc::EINVAL));
        assert_eq!(dut.start(PAGE, &many[..256]), Ok(PAGE));
    }
    let mut dut = dut(SimOptions::default());
    let range = [0, PAGE];
    let address = range.as_ptr().expose_provenance() as u64;
    assert_eq!(dut.start_raw([PAGE, 1 << 32 | 1, address]), Err(libc::EINVAL));
    assert_eq!(dut.sim.violations().0, 1);
    assert_eq!(dut.start_raw([PAGE, 1, 0]), Err(libc::EFAULT));
    dut.start(PAGE, &[(0, PAGE)]).unwrap();
    assert_eq!(dut.start(PAGE, &[(0, PAGE)]), Err(libc::EINVAL));
    assert_eq!(dut.report(0, PAGE, 2048), Err(libc::EINVAL));
    assert_eq!(dut.report(0, 3 * PAGE, 3 * PAGE), Err(libc::EINVAL));
    assert_eq!(dut.report(end, PAGE, PAGE), Err(libc::EOVERFLOW));
    let mut payload = [0; 32];
    put(&mut payload, &[0, PAGE, PAGE, 0]);
    assert_eq!(dut.table.feature(REPORT, &mut payload), Err(libc::EFAULT));
    assert_eq!(dut.sim.violations().0, 1);
}

#[test]
fn a_device_with_room_for_few_ranges_refuses_more() {
    let mut dut = dut(SimOptions { log_max_ranges: 2, ..SimOptions::default() });
    let three = [(0, PAGE), (2 * PAGE, PAGE), (4 * PAGE, PAGE)];
    assert_eq!(dut.start(PAGE, &three), Err(libc::ENOSPC));
    assert_eq!(dut.start(PAGE, &three[..2]), Ok(PAGE));
    assert_eq!(dut.sim.violations(), (0, None));
}

#[test]
fn a_device_writes_while_it_runs_only() {
    let mut dut = dut(SimOptions::default());
    dut.start(PAGE, &[(0, PAGE)]).unwrap();
    let set = |dut: &mut Dut, state: State| {
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&state.0.to_ne_bytes());
        dut.table.feature(SET | 2, &mut payload).unwrap();
    };
    set(&mut dut, State::RUNNING_P2P);
    assert_eq!(dut.sim.dma_write(0, 1), Ok(()));
    set(&mut dut, State::STOP);
    assert_eq!(dut.sim.dma_write(0, 1), Err(libc::EPERM));
    // Its log is still there.
    assert_eq!(dut.report(0, PAGE, PAGE), Ok(vec![0]));
    set(&mut dut, State::RUNNING);
    for (iova, len, errno) in [
        (0, 0, libc::EINVAL),
        (u64::MAX, 2, libc::EINVAL),
        (0, u64::MAX, libc::E2BIG),
        (0, (1 << 30) + 1, libc::E2BIG),
    ] {
        assert_eq!(dut.sim.dma_write(iova, len), Err(errno));
    }
    assert_eq!(dut.sim.dma_write(u64::MAX, 1), Ok(()));
    assert_eq!(dut.report(0, PAGE, PAGE), Ok(vec![]));
}

#[test]
fn a_reset_ends_the_log() {
    let mut dut = dut(SimOptions::default());
    dut.start(PAGE, &[(0, PAGE)]).unwrap();
    dut.sim.dma_write(0, 1).unwrap();
    dut.sim.guest_reset();
    assert_eq!(dut.report(0, PAGE, PAGE), Err(libc::EINVAL));
    dut.start(PAGE, &[(0, PAGE)]).unwrap();
    assert_eq!(dut.report(0, PAGE, PAGE), Ok(vec![]));
    dut.table.reset().unwrap();
    assert_eq!(dut.report(0, PAGE, PAGE), Err(libc::EINVAL));
}

#[test]
fn each_operation_of_the_log_can_fail() {
    let mut dut = dut(SimOptions::default());
    let before = dut.sim.count(Op::LogReport);
    dut.sim.inject(Op::LogStart, 1, libc::ENOMEM, Effect::Once);
    assert_eq!(dut.start(PAGE, &[(0, PAGE)]), Err(libc::ENOMEM));
    assert_eq!(dut.start(PAGE, &[(0, PAGE)]), Ok(PAGE));
    dut.sim.dma_write(0, 1).unwrap();
    // The log is as it was.
    dut.sim.inject(Op::LogReport, 1, libc::ENOTCONN, Effect::Once);
    assert_eq!(dut.report(0, PAGE, PAGE), Err(libc::ENOTCONN));
    assert_eq!(dut.report(0, PAGE, PAGE), Ok(vec![0]));
    // It is not as it was: what should have been reported is forgotten.
    dut.sim.dma_write(0, 1).unwrap();
    dut.sim.inject(Op::LogReport, 1, libc::EIO, Effect::Half);
    assert_eq!(dut.report(0, PAGE, PAGE), Err(libc::EIO));
    assert_eq!(dut.report(0, PAGE, PAGE), Ok(vec![]));
    dut.sim.inject(Op::LogStop, 1, libc::EIO, Effect::Once);
    assert_eq!(dut.stop(), Err(libc::EIO));
    dut.sim.dma_write(0, 1).unwrap();
    assert_eq!(dut.report(0, PAGE, PAGE), Ok(vec![0]));
    assert_eq!(dut.stop(), Ok(()));
    assert_eq!(dut.sim.count(Op::LogStart), 2);
    assert_eq!(dut.sim.count(Op::LogStop), 2);
    assert_eq!(dut.sim.count(Op::LogReport), before + 5);
    dut.sim.inject(Op::LogStart, 1, libc::EIO, Effect::Die);
    assert_eq!(dut.start(PAGE, &[(0, PAGE)]), Err(libc::EIO));
    assert_eq!(dut.sim.dma_write(0, 1), Err(libc::ENODEV));
    assert_eq!(dut.stop(), Err(libc::ENODEV));
}

#[test]
fn a_log_in_pages_that_cannot_be_is_no_option() {
    let odd = SimOptions { log_page_size: 5000, ..SimOptions::default() };
    assert_eq!(Sim::new(odd).err(), Some(libc::EINVAL));
}
