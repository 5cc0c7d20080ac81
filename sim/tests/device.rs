// SPDX-License-Identifier: MIT OR Apache-2.0
//! The simulator itself: what it answers, what it counts, and that every quirk and every fault does
//! what it says. All of it goes through the ops table.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::type_complexity)]

mod table;

use std::time::{Duration, Instant};

use table::{Dut, dut};
use vfiomig_sim::{Effect, NO_MIGRATION, Op, Sim, SimOptions, State, quirk};

const GET: u32 = 1 << 16;
const SET: u32 = 1 << 17;
const PROBE: u32 = 1 << 18;

fn small(quirks: u64) -> SimOptions {
    SimOptions { state_size: 4096, initial_size: 1024, seed: 11, quirks, ..SimOptions::default() }
}

impl Dut {
    fn get_u64(&mut self, feature: u32) -> Result<u64, i32> {
        let mut payload = [0; 8];
        self.table.feature(GET | feature, &mut payload)?;
        Ok(u64::from_ne_bytes(payload))
    }

    fn get_state(&mut self) -> Result<u32, i32> {
        self.get_u64(2).map(|both| both as u32)
    }

    /// The data fd, or -1.
    fn set(&mut self, state: State) -> Result<i32, i32> {
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&state.0.to_ne_bytes());
        payload[4..].copy_from_slice(&77i32.to_ne_bytes());
        let result = self.table.feature(SET | 2, &mut payload);
        assert_eq!(payload[..4], state.0.to_ne_bytes());
        result.map(|()| i32::from_ne_bytes(payload[4..].try_into().unwrap()))
    }

    fn read(&mut self, fd: i32, len: usize) -> Result<Vec<u8>, i32> {
        let mut buf = vec![0; len];
        let n = self.table.read(fd, &mut buf)?;
        buf.truncate(n);
        Ok(buf)
    }

    fn write(&mut self, fd: i32, bytes: &[u8]) -> Result<usize, i32> {
        self.table.write(fd, bytes)
    }

    fn info(&mut self, fd: i32) -> Result<(u32, u64, u64), i32> {
        self.table.precopy_info(fd)
    }

    fn close(&mut self, fd: i32) {
        let _ = self.table.close(fd);
    }

    fn drain(&mut self, fd: i32) -> Vec<u8> {
        let mut all = vec![];
        loop {
            match self.read(fd, 1000) {
                Ok(bytes) if bytes.is_empty() => return all,
                Ok(bytes) => all.extend(bytes),
                Err(libc::ENOMSG) => return all,
                Err(errno) => panic!("errno {errno}"),
            }
        }
    }

    #[track_caller]
    fn violations(&self, expected: u64) {
        assert_eq!(self.sim.violations().0, expected, "{:?}", self.sim.violations());
    }
}

/// A device that holds something else.
fn target(quirks: u64) -> Dut {
    dut(SimOptions { seed: 12, ..small(quirks) })
}

/// The stop-copy stream of a device, and the digest of what it holds.
fn full_stream(quirks: u64) -> (Vec<u8>, u64) {
    let mut source = dut(small(quirks));
    let fd = source.set(State::STOP_COPY).unwrap();
    let bytes = source.drain(fd);
    (bytes, source.sim.digest())
}

#[test]
fn every_pair_of_states_answers_as_the_kernel_does() {
    for flags in [1, 3, 5, 7] {
        for from in (1..8).map(State) {
            for to in (0..9).map(State) {
                let mut dut = dut(SimOptions { migration_flags: flags, ..small(0) });
                let has = |state| vfiomig_sim::fsm::path(flags, State::STOP, state).is_some();
                if !has(from) {
                    assert_eq!(dut.set(from), Err(libc::EINVAL));
                    continue;
                }
                let old = dut.set(from).unwrap();
                assert_eq!(old >= 0, from.is_saving() || from == State::RESUMING);
                let (stream, _) = full_stream(0);
                if from == State::RESUMING {
                    assert_eq!(dut.write(old, &stream), Ok(stream.len()));
                }
                let way = vfiomig_sim::fsm::path(flags, from, to);
                let result = dut.set(to);
                match way {
                    None => {
                        assert_eq!(result, Err(libc::EINVAL));
                        assert_eq!(dut.get_state(), Ok(from.0));
                        dut.violations(1);
                    }
                    Some(_) => {
                        let owed = (to.is_saving() && !from.is_saving())
                            || (to == State::RESUMING && from != State::RESUMING);
                        assert_eq!(result.unwrap() >= 0, owed, "{flags}: {from:?} to {to:?}");
                        assert_eq!(dut.get_state(), Ok(to.0));
                        dut.violations(0);
                    }
                }
                // The old session has ended unless both states belong to it.
                let ended = way.is_some() && from != to && !(from.is_saving() && to.is_saving());
                if from.is_saving() {
                    assert_eq!(dut.read(old, 10).is_err(), ended);
                }
                if ended && from.is_saving() {
                    assert_eq!(dut.read(old, 10), Err(libc::ENODEV));
                    assert_eq!(dut.info(old), Err(libc::ENODEV));
                }
                if ended && from == State::RESUMING {
                    assert_eq!(dut.write(old, &[0]), Err(libc::ENODEV));
                }
            }
        }
    }
}

#[test]
fn a_stream_moves_the_contents_and_they_can_be_saved_again() {
    let options = SimOptions { state_size: 1 << 20, ..SimOptions::default() };
    let mut source = dut(SimOptions { seed: 1, ..options.clone() });
    source.sim.guest_write(5000, 200_000, 42).unwrap();
    let digest = source.sim.digest();
    let fd = source.set(State::STOP_COPY).unwrap();
    let size = source.get_u64(9).unwrap();
    let bytes = source.drain(fd);
    assert_eq!(bytes.len() as u64, size);
    assert_eq!(source.read(fd, 10), Ok(vec![]));
    assert_eq!(source.sim.bytes_read(), bytes.len() as u64);
    let mut target = dut(SimOptions { seed: 2, ..options });
    assert_ne!(target.sim.digest(), digest);
    let fd = target.set(State::RESUMING).unwrap();
    for piece in bytes.chunks(777) {
        assert_eq!(target.write(fd, piece), Ok(piece.len()));
    }
    assert_eq!(target.sim.bytes_written(), bytes.len() as u64);
    assert_eq!(target.set(State::STOP), Ok(-1));
    assert_eq!(target.sim.digest(), digest);
    let fd = target.set(State::STOP_COPY).unwrap();
    assert_eq!(target.drain(fd), bytes);
    source.violations(0);
    target.violations(0);
    // What a reset leaves is what power-on gave.
    target.table.reset().unwrap();
    assert_eq!(
        target.sim.digest(),
        dut(SimOptions { seed: 2, state_size: 1 << 20, ..SimOptions::default() }).sim.digest()
    );
    assert_eq!(target.sim.state(), State::RUNNING);
}

#[test]
fn streams_of_another_model_or_size_and_bytes_too_many_are_refused() {
    let (stream, _) = full_stream(0);
    let cases = [
        (SimOptions { model: 2, ..small(0) }, stream.clone(), libc::EFAULT),
        (SimOptions { state_size: 4097, ..small(0) }, stream.clone(), libc::EFAULT),
        (small(0), [&stream[..], &[0]].concat(), libc::ENOMEM),
        (small(0), [&stream[..200], &stream[201..]].concat(), libc::EINVAL),
    ];
    for (options, bytes, errno) in cases {
        let mut target = dut(options);
        let fd = target.set(State::RESUMING).unwrap();
        assert_eq!(target.write(fd, &bytes), Err(errno));
        assert_eq!(target.set(State::STOP), Err(libc::EINVAL));
        assert_eq!(target.get_state(), Ok(State::RESUMING.0));
        // Leaving it in any way but a reset was a violation.
        target.violations(1);
    }
}

#[test]
fn a_short_stream_is_refused_at_the_end_and_may_be_continued() {
    let (stream, digest) = full_stream(0);
    let mut target = self::target(0);
    let fd = target.set(State::RESUMING).unwrap();
    for at in 0..stream.len() {
        assert_eq!(target.set(State::STOP), Err(libc::EINVAL));
        assert_eq!(target.get_state(), Ok(State::RESUMING.0));
        assert_eq!(target.write(fd, &stream[at..=at]), Ok(1));
    }
    // Closing is not the end of the session.
    target.close(fd);
    assert_eq!(target.sim.open_streams(), 0);
    assert_eq!(target.set(State::STOP), Ok(-1));
    assert_eq!(target.sim.digest(), digest);
    target.violations(0);
}

#[test]
fn what_no_vmm_may_do_is_counted() {
    let wrong: [(&str, fn(&mut Dut)); 11] = [
        ("illegal change", |dut| {
            dut.set(State::STOP_COPY).unwrap();
            assert_eq!(dut.set(State::PRE_COPY), Err(libc::EINVAL));
        }),
        ("no such state", |dut| assert_eq!(dut.set(State(9)), Err(libc::EINVAL))),
        ("read of a resuming stream", |dut| {
            let fd = dut.set(State::RESUMING).unwrap();
            assert_eq!(dut.read(fd, 10), Err(libc::EBADF));
        }),
        ("write to a saving stream", |dut| {
            let fd = dut.set(State::PRE_COPY).unwrap();
            assert_eq!(dut.write(fd, &[0]), Err(libc::EBADF));
        }),
        ("write after a failed one", |dut| {
            let fd = dut.set(State::RESUMING).unwrap();
            assert_eq!(dut.write(fd, &[0; 100]), Err(libc::EFAULT));
            dut.violations(0);
            assert_eq!(dut.write(fd, &[0; 100]), Err(libc::EINVAL));
        }),
        ("double close", |dut| {
            let fd = dut.set(State::RESUMING).unwrap();
            dut.close(fd);
            dut.violations(0);
            dut.close(fd);
        }),
        ("read after close", |dut| {
            let fd = dut.set(State::PRE_COPY).unwrap();
            dut.close(fd);
            assert_eq!(dut.read(fd, 10), Err(libc::EBADF));
        }),
        ("foreign stream", |dut| assert_eq!(dut.read(3, 10), Err(libc::EBADF))),
        ("estimates outside of pre-copy", |dut| {
            let fd = dut.set(State::STOP_COPY).unwrap();
            assert_eq!(dut.info(fd), Err(libc::EINVAL));
        }),
        ("leaving RESUMING after a failed write", |dut| {
            let fd = dut.set(State::RESUMING).unwrap();
            assert_eq!(dut.write(fd, &[0; 100]), Err(libc::EFAULT));
            assert_eq!(dut.set(State::RUNNING), Err(libc::EINVAL));
        }),
        ("a change in a known ERROR", |dut| {
            dut.sim.inject(Op::GetState, 1, libc::EIO, Effect::Error);
            assert_eq!(dut.get_state(), Err(libc::EIO));
            // Nobody could know.
            assert_eq!(dut.set(State::STOP), Err(libc::EINVAL));
            dut.violations(0);
            assert_eq!(dut.get_state(), Ok(0));
            assert_eq!(dut.set(State::STOP), Err(libc::EINVAL));
        }),
    ];
    for (name, act) in wrong {
        let mut dut = dut(small(0));
        act(&mut dut);
        assert_eq!(dut.sim.violations().0, 1, "{name}");
        assert!(dut.sim.violations().1.is_some(), "{name}");
    }
    let mut stale = dut(SimOptions { initial_state: State::RESUMING, ..small(0) });
    assert_eq!(stale.set(State::STOP), Err(libc::EINVAL));
    stale.violations(1);
}

#[test]
fn pre_copy_sends_initial_and_dirty_data_and_its_estimates_fall() {
    let mut dut = dut(small(0));
    let fd = dut.set(State::PRE_COPY).unwrap();
    let (flags, initial, dirty) = dut.info(fd).unwrap();
    assert_eq!((flags, dirty), (0, 0));
    assert!(initial >= 1024);
    assert_eq!(dut.read(fd, 100).unwrap().len(), 100);
    assert_eq!(dut.info(fd), Ok((0, initial - 100, 0)));
    assert_eq!(dut.drain(fd).len() as u64, initial - 100);
    assert_eq!(dut.read(fd, 10), Err(libc::ENOMSG));
    dut.sim.guest_write(0, 1, 5).unwrap();
    let (_, initial, dirty) = dut.info(fd).unwrap();
    assert_eq!(initial, 0);
    assert!(dirty >= 256);
    assert_eq!(dut.drain(fd).len() as u64, dirty);
    // What was never sent waits for the stop.
    dut.sim.guest_write(4095, 1, 5).unwrap();
    assert_eq!(dut.info(fd), Ok((0, 0, 0)));
    assert_eq!(dut.set(State::PRE_COPY_P2P), Ok(-1));
    assert_eq!(dut.info(fd), Ok((0, 0, 0)));
    let size = dut.get_u64(9).unwrap();
    assert_eq!(dut.set(State::STOP_COPY), Ok(-1));
    assert_eq!(dut.drain(fd).len() as u64, size);
    dut.violations(0);
    assert_eq!(dut.sim.guest_write(4096, 1, 5), Err(libc::EINVAL));
    assert_eq!(dut.sim.guest_write(u64::MAX, 2, 5), Err(libc::EINVAL));
}

#[test]
fn a_running_device_becomes_dirty_with_time_and_a_stopped_one_does_not() {
    let mut dut = dut(SimOptions { dirty_rate: 1 << 20, initial_size: 4096, ..small(0) });
    let fd = dut.set(State::PRE_COPY).unwrap();
    dut.drain(fd);
    let before = dut.sim.digest();
    std::thread::sleep(Duration::from_millis(20));
    assert!(dut.info(fd).unwrap().2 > 0);
    assert_ne!(dut.sim.digest(), before);
    dut.set(State::STOP_COPY).unwrap();
    let before = dut.sim.digest();
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(dut.sim.digest(), before);
    assert!(!dut.drain(fd).is_empty());
}

#[test]
fn rates_and_latencies_take_their_time() {
    let rates = SimOptions { read_rate: 100_000, write_rate: 100_000, ..small(0) };
    let mut source = dut(rates.clone());
    let fd = source.set(State::STOP_COPY).unwrap();
    let start = Instant::now();
    let bytes = source.drain(fd);
    let least = Duration::from_secs_f64(bytes.len() as f64 / 100_000.0);
    assert!(start.elapsed() >= least);
    let mut target = dut(rates);
    let fd = target.set(State::RESUMING).unwrap();
    let start = Instant::now();
    let mut at = 0;
    while at < bytes.len() {
        at += target.write(fd, &bytes[at..]).unwrap();
    }
    assert!(start.elapsed() >= least);
    let mut transition_us = [0; 8];
    (transition_us[5], transition_us[1]) = (2000, 3000);
    let mut slow = dut(SimOptions { transition_us, ..small(0) });
    let start = Instant::now();
    slow.set(State::STOP).unwrap();
    assert!(start.elapsed() >= Duration::from_micros(5000));
}

#[test]
fn short_transfers_and_signals_as_asked() {
    let mut source = dut(SimOptions { max_read: 10, eintr_every: 3, ..small(0) });
    let fd = source.set(State::STOP_COPY).unwrap();
    // Readers and writers are told of signals: only they know how long they want to wait.
    let reads: Vec<_> = (0..5).map(|_| source.read(fd, 100).map(|bytes| bytes.len())).collect();
    assert_eq!(reads, [Ok(10), Ok(10), Err(libc::EINTR), Ok(10), Ok(10)]);
    let (stream, _) = full_stream(0);
    let mut target = dut(SimOptions { max_write: 7, eintr_every: 2, ..small(0) });
    let fd = target.set(State::RESUMING).unwrap();
    assert_eq!(target.write(fd, &stream), Ok(7));
    assert_eq!(target.write(fd, &stream[7..]), Err(libc::EINTR));
    assert_eq!(target.write(fd, &stream[7..]), Ok(7));
    assert_eq!(target.sim.count(Op::Write), 3);
    assert_eq!(target.sim.bytes_written(), 14);
}

#[test]
fn quirks_of_estimates() {
    let exact = dut(small(0)).get_u64(9).unwrap();
    let size = |quirks| dut(small(quirks)).get_u64(9);
    assert_eq!(size(quirk::SIZE_UNDER), Ok(exact / 2));
    assert_eq!(size(quirk::SIZE_OVER), Ok(exact * 3));
    assert_eq!(size(quirk::SIZE_NEGATIVE), Ok(-i64::from(libc::EIO) as u64));
    assert_eq!(size(quirk::SIZE_ENOTTY), Err(libc::ENOTTY));

    let mut dut1 = dut(small(quirk::P2P_INFO_EINVAL));
    let fd = dut1.set(State::PRE_COPY).unwrap();
    dut1.info(fd).unwrap();
    dut1.set(State::PRE_COPY_P2P).unwrap();
    assert_eq!(dut1.info(fd), Err(libc::EINVAL));
    dut1.violations(0);

    let mut dut2 = dut(small(quirk::FLAGS_ECHO | quirk::PRECOPY_INFO_V2));
    let fd = dut2.set(State::PRE_COPY).unwrap();
    assert_eq!(dut2.info(fd).unwrap().0, 0xdead_beef);
    dut2.table.feature(SET | 12, &mut []).unwrap();
    assert_eq!(dut2.info(fd).unwrap().0, 0);
    dut2.drain(fd);
    dut2.sim.reinit();
    let (flags, initial, _) = dut2.info(fd).unwrap();
    assert_eq!(flags, 1);
    assert!(initial > 0);
    assert_eq!(dut2.info(fd).unwrap(), (0, initial, 0));
    assert_eq!(dut(small(0)).table.feature(SET | 12, &mut []), Err(libc::ENOTTY));
    let no_pre_copy = SimOptions { migration_flags: 3, ..small(quirk::PRECOPY_INFO_V2) };
    assert_eq!(dut(no_pre_copy).table.feature(SET | 12, &mut []), Err(libc::EINVAL));

    let mut dut3 = dut(small(quirk::INFO_MAKES_DATA));
    let fd = dut3.set(State::PRE_COPY).unwrap();
    dut3.drain(fd);
    dut3.sim.guest_write(0, 1, 9).unwrap();
    assert_eq!(dut3.read(fd, 10), Err(libc::ENOMSG));
    assert!(dut3.info(fd).unwrap().2 > 0);
    assert_eq!(dut3.read(fd, 10).unwrap().len(), 10);

    let mut dut4 = dut(small(quirk::PRECOPY_ALL));
    let fd = dut4.set(State::PRE_COPY).unwrap();
    let first = dut4.drain(fd).len() as u64;
    dut4.sim.guest_write(0, 1, 9).unwrap();
    // Everything that was sent is sent again.
    assert_eq!(dut4.drain(fd).len() as u64, first - 40);
}

#[test]
fn quirks_of_reading() {
    let mut zero = dut(small(quirk::DRAINED_ZERO));
    let fd = zero.set(State::PRE_COPY).unwrap();
    assert!(!zero.drain(fd).is_empty());
    assert_eq!(zero.read(fd, 10), Ok(vec![]));

    let mut early = dut(small(quirk::FALSE_END));
    let fd = early.set(State::STOP_COPY).unwrap();
    assert_eq!(early.read(fd, 10), Ok(vec![]));
    assert_eq!(early.read(fd, 10).unwrap().len(), 10);

    for (quirks, second) in [(quirk::NONBLOCKING, Err(libc::EAGAIN)), (0, Ok(10))] {
        let mut dut = dut(small(quirks));
        let fd = dut.set(State::STOP_COPY).unwrap();
        dut.table.set_nonblocking(fd).unwrap();
        assert_eq!(dut.read(fd, 10).unwrap().len(), 10);
        assert_eq!(dut.read(fd, 10).map(|bytes| bytes.len()), second);
        assert_eq!(dut.read(fd, 10).unwrap().len(), 10);
        assert!(dut.table.poll_fd(fd).unwrap() >= 0);
    }

    let mut liar = dut(small(quirk::WRITE_TOO_MUCH));
    let fd = liar.set(State::STOP_COPY).unwrap();
    assert!(liar.table.read(fd, &mut [0; 10]).unwrap() > 10);
    let (fd, stream) = (liar.set(State::RESUMING).unwrap(), full_stream(0).0);
    assert!(liar.write(fd, &stream).unwrap() > stream.len());
    liar.violations(0);
}

#[test]
fn quirks_of_writing() {
    let (stream, digest) = full_stream(0);
    let mut again = target(quirk::WRITE_EAGAIN);
    let fd = again.set(State::RESUMING).unwrap();
    assert_eq!(again.write(fd, &stream[..10]), Ok(10));
    assert_eq!(again.write(fd, &stream[10..]), Err(libc::EAGAIN));
    assert_eq!(again.write(fd, &stream[10..]), Ok(stream.len() - 10));
    again.set(State::STOP).unwrap();
    assert_eq!(again.sim.digest(), digest);
    again.violations(0);

    let mut zero = target(quirk::WRITE_ZERO);
    let fd = zero.set(State::RESUMING).unwrap();
    assert_eq!(zero.write(fd, &stream), Ok(0));

    // A flipped bit in a block, and going on regardless.
    let mut bad = stream.clone();
    bad[100] ^= 1;
    for (quirks, stop) in [
        (0, Err(libc::EINVAL)),
        (quirk::CONSUMES_ON_ERROR, Err(libc::EINVAL)),
        (quirk::STOP_ACCEPTS_ALL, Ok(-1)),
        (quirk::STOP_ACCEPTS_ALL | quirk::CONSUMES_ON_ERROR, Ok(-1)),
    ] {
        let mut dut = target(quirks);
        let fd = dut.set(State::RESUMING).unwrap();
        assert_eq!(dut.write(fd, &bad[..200]), Err(libc::EINVAL));
        assert_eq!(dut.write(fd, &bad[200..]).is_ok(), quirks & quirk::CONSUMES_ON_ERROR != 0);
        assert_eq!(dut.set(State::STOP), stop);
        assert_ne!(dut.sim.digest(), digest);
        dut.violations(2);
    }
    // A short stream.
    let mut dut1 = target(quirk::STOP_ACCEPTS_ALL);
    let fd = dut1.set(State::RESUMING).unwrap();
    assert_eq!(dut1.write(fd, &stream[..stream.len() - 1]), Ok(stream.len() - 1));
    assert_eq!(dut1.set(State::STOP), Ok(-1));
    assert_ne!(dut1.sim.digest(), digest);
    dut1.violations(0);
    // With a driver that consumes the bytes anyway, an injected failure loses nothing.
    let mut dut2 = target(quirk::CONSUMES_ON_ERROR);
    dut2.sim.inject(Op::Write, 1, libc::EIO, Effect::Once);
    let fd = dut2.set(State::RESUMING).unwrap();
    assert_eq!(dut2.write(fd, &stream[..100]), Err(libc::EIO));
    assert_eq!(dut2.write(fd, &stream[100..]), Ok(stream.len() - 100));
    assert_eq!(dut2.set(State::STOP), Ok(-1));
    assert_eq!(dut2.sim.digest(), digest);
    dut2.violations(2);
}

#[test]
fn quirks_of_states_and_features() {
    let mut none = dut(small(quirk::NO_DATA_FD));
    assert_eq!(none.set(State::PRE_COPY), Ok(-1));
    assert_eq!(none.get_state(), Ok(State::PRE_COPY.0));
    assert_eq!(none.sim.open_streams(), 0);

    let mut extra = dut(small(quirk::EXTRA_DATA_FD));
    let fd = extra.set(State::STOP).unwrap();
    assert!(fd >= 0);
    assert_eq!(extra.sim.open_streams(), 1);
    assert_eq!(extra.read(fd, 1), Err(libc::ENODEV));
    extra.close(fd);
    assert_eq!(extra.sim.open_streams(), 0);

    let mut fatal = dut(small(quirk::ILLEGAL_IS_FATAL));
    fatal.set(State::STOP_COPY).unwrap();
    assert_eq!(fatal.set(State::PRE_COPY), Err(libc::EINVAL));
    assert_eq!(fatal.get_state(), Ok(0));

    let mut stuck = dut(small(quirk::NO_RESET));
    stuck.set(State::STOP).unwrap();
    assert_eq!(stuck.table.reset(), Err(libc::ENOTTY));
    assert_eq!(stuck.get_state(), Ok(State::STOP.0));

    assert_eq!(dut(small(quirk::STATE_UNREADABLE)).get_state(), Err(libc::EIO));
    assert_eq!(dut(small(quirk::FUTURE)).get_u64(1), Ok(7 | 1 << 12));
    assert_eq!(dut(small(0)).get_u64(1), Ok(7));

    let probe_start = PROBE | SET | 6;
    let report = |dut: &mut Dut| {
        let mut payload = [0; 32];
        payload[8..16].copy_from_slice(&4096u64.to_ne_bytes());
        payload[16..24].copy_from_slice(&4096u64.to_ne_bytes());
        let mut bitmap = 0u64;
        let address = std::ptr::from_mut(&mut bitmap).expose_provenance() as u64;
        payload[24..].copy_from_slice(&address.to_ne_bytes());
        dut.table.feature(GET | 8, &mut payload)
    };
    let range = [0u64, 4096];
    let mut start = [0; 24];
    start[..8].copy_from_slice(&4096u64.to_ne_bytes());
    start[8..12].copy_from_slice(&1u32.to_ne_bytes());
    start[16..].copy_from_slice(&(range.as_ptr().expose_provenance() as u64).to_ne_bytes());
    let mut logs = dut(small(0));
    logs.table.feature(probe_start, &mut []).unwrap();
    assert_eq!(report(&mut logs), Err(libc::EINVAL));
    logs.table.feature(SET | 6, &mut start).unwrap();
    assert_eq!(logs.table.feature(SET | 6, &mut start), Err(libc::EINVAL));
    assert_eq!(report(&mut logs), Ok(()));
    logs.table.feature(SET | 7, &mut []).unwrap();
    assert_eq!(report(&mut logs), Err(libc::EINVAL));
    let mut half = dut(small(quirk::REPORT_EOPNOTSUPP));
    half.table.feature(probe_start, &mut []).unwrap();
    half.table.feature(PROBE | GET | 8, &mut []).unwrap();
    assert_eq!(report(&mut half), Err(libc::EOPNOTSUPP));
    let none = dut(small(quirk::NO_LOGGING));
    assert_eq!(none.table.feature(probe_start, &mut []), Err(libc::ENOTTY));

    let mut nothing = dut(SimOptions { migration_flags: NO_MIGRATION, ..small(0) });
    assert_eq!(nothing.get_u64(1), Err(libc::ENOTTY));
    assert_eq!(nothing.get_state(), Err(libc::ENOTTY));
    // The kernel's own rules for the request.
    let rules = dut(small(0));
    for (flags, errno) in [
        (GET | SET | 2, libc::EINVAL),
        (2, libc::EINVAL),
        (1 << 19 | GET | 1, libc::EINVAL),
        (SET | 1, libc::EINVAL),
        (PROBE | SET | 1, libc::EINVAL),
        (PROBE | 99, libc::ENOTTY),
    ] {
        assert_eq!(rules.table.feature(flags, &mut [0; 8]), Err(errno), "{flags:#x}");
    }
    rules.table.feature(PROBE | GET | SET | 2, &mut []).unwrap();
    assert_eq!(rules.table.feature(GET | 1, &mut [0; 4]), Err(libc::EINVAL));
}

#[test]
fn a_reset_that_keeps_the_state_empties_the_device_and_is_refused_while_it_is_stopped() {
    let mut source = dut(small(quirk::RESET_KEEPS_STATE));
    let empty = source.sim.digest();
    source.sim.guest_write(0, 10, 1).unwrap();
    let fd = source.set(State::PRE_COPY).unwrap();
    source.drain(fd);
    source.table.reset().unwrap();
    assert_eq!(source.get_state(), Ok(State::PRE_COPY.0));
    assert_eq!(source.sim.digest(), empty);
    // The stream begins again.
    assert!(!source.drain(fd).is_empty());
    source.set(State::STOP_COPY).unwrap();
    assert_eq!(source.table.reset(), Err(libc::EINVAL));
    source.set(State::STOP).unwrap();
    assert_eq!(source.table.reset(), Err(libc::EINVAL));

    let (stream, _) = full_stream(0);
    let mut target = target(quirk::RESET_KEEPS_STATE);
    let fd = target.set(State::RESUMING).unwrap();
    target.write(fd, &stream).unwrap();
    target.table.reset().unwrap();
    assert_eq!(target.get_state(), Ok(State::RESUMING.0));
    let empty = target.sim.digest();
    target.set(State::RUNNING).unwrap();
    assert_eq!(target.sim.digest(), empty);
    for dut in [&source, &target] {
        dut.violations(0);
    }
}

#[test]
fn there_is_a_test_for_every_quirk() {
    // Whoever adds a quirk must add its test here: the tests above name every constant.
    let source = concat!(include_str!("device.rs"), include_str!("regions.rs"));
    for (bit, name) in quirk::ALL {
        assert!(bit.is_power_of_two());
        assert!(source.contains(&format!("quirk::{name}")), "{name}");
    }
}

#[test]
fn faults_strike_the_nth_operation_of_their_kind() {
    let mut once = dut(small(0));
    once.sim.inject(Op::GetState, 2, libc::ENOTCONN, Effect::Once);
    assert_eq!(once.get_state(), Ok(2));
    assert_eq!(once.get_state(), Err(libc::ENOTCONN));
    assert_eq!(once.get_state(), Ok(2));
    assert_eq!(once.sim.count(Op::GetState), 3);

    let mut sticky = dut(small(0));
    sticky.sim.inject(Op::SetState, 1, libc::EBUSY, Effect::Sticky);
    for _ in 0..3 {
        assert_eq!(sticky.set(State::STOP), Err(libc::EBUSY));
        assert_eq!(sticky.get_state(), Ok(2));
    }
    sticky.sim.clear_faults();
    assert_eq!(sticky.set(State::STOP), Ok(-1));

    let mut error = dut(small(0));
    let fd = error.set(State::PRE_COPY).unwrap();
    error.sim.inject(Op::Read, 1, libc::EIO, Effect::Error);
    assert_eq!(error.read(fd, 10), Err(libc::EIO));
    assert_eq!(error.get_state(), Ok(0));
    assert_eq!(error.read(fd, 10), Err(libc::ENODEV));
    error.table.reset().unwrap();
    assert_eq!(error.get_state(), Ok(2));

    let mut dead = dut(small(0));
    let fd = dead.set(State::PRE_COPY).unwrap();
    let digest = dead.sim.digest();
    dead.sim.inject(Op::PrecopyInfo, 1, libc::EIO, Effect::Die);
    assert_eq!(dead.info(fd), Err(libc::EIO));
    assert!(dead.sim.is_dead());
    dead.sim.guest_reset();
    assert_eq!(dead.get_state(), Err(libc::ENODEV));
    assert_eq!(dead.set(State::RUNNING), Err(libc::ENODEV));
    assert_eq!(dead.read(fd, 10), Err(libc::ENODEV));
    assert_eq!(dead.get_u64(1), Err(libc::ENODEV));
    assert_eq!(dead.get_u64(9), Err(libc::ENODEV));
    assert_eq!(dead.table.reset(), Err(libc::ENODEV));
    dead.sim.clear_faults();
    assert_eq!(dead.get_state(), Ok(2));
    assert_eq!(dead.sim.digest(), digest);
    dead.close(fd);

    let mut half = dut(small(0));
    half.sim.inject(Op::SetState, 1, libc::EIO, Effect::Half);
    assert_eq!(half.set(State::STOP), Err(libc::EIO));
    assert_eq!(half.get_state(), Ok(State::RUNNING_P2P.0));

    let mut reset = dut(small(0));
    reset.sim.guest_write(0, 1, 1).unwrap();
    let fd = reset.set(State::PRE_COPY).unwrap();
    reset.sim.inject(Op::Read, 2, libc::EIO, Effect::Reset);
    assert_eq!(reset.read(fd, 10).unwrap().len(), 10);
    assert_eq!(reset.read(fd, 10), Err(libc::ENODEV));
    assert_eq!(reset.get_state(), Ok(2));
    assert_eq!(reset.sim.digest(), dut(small(0)).sim.digest());

    let mut ignored = dut(small(0));
    ignored.sim.inject(Op::SetState, 1, libc::EIO, Effect::Ignored);
    assert_eq!(ignored.set(State::STOP), Ok(-1));
    assert_eq!(ignored.get_state(), Ok(2));
    assert_eq!(ignored.set(State::STOP), Ok(-1));
    assert_eq!(ignored.get_state(), Ok(1));

    let mut any = dut(small(0));
    any.sim.inject(Op::Any, 3, libc::EPERM, Effect::Once);
    any.sim.inject(Op::GetFlags, 1, libc::EACCES, Effect::Once);
    assert_eq!(any.get_u64(1), Err(libc::EACCES));
    assert_eq!(any.get_state(), Ok(2));
    assert_eq!(any.get_state(), Err(libc::EPERM));
    assert_eq!(any.sim.count(Op::Any), 3);
}

#[test]
fn release_is_counted_and_options_are_checked() {
    let one = dut(small(0));
    let sim = one.sim.clone();
    assert_eq!(sim.releases(), 0);
    drop(one);
    assert_eq!(sim.releases(), 1);
    for bad in [
        SimOptions { migration_flags: 8, ..small(0) },
        SimOptions { state_size: 0, ..small(0) },
        SimOptions { initial_state: State(8), ..small(0) },
    ] {
        assert_eq!(Sim::new(bad).err(), Some(libc::EINVAL));
    }
}
