// SPDX-License-Identifier: MIT OR Apache-2.0
//! Migrations that succeed: all flags, sizes, quirks and splits.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{At, Drive, ENDED, LOADED, Side, check_clean, migrate, side, stream_of};
use proptest::prelude::*;
use vfiomig::error::Code;
use vfiomig::session::{Ending, LoadStatus, SaveOptions};
use vfiomig_sim::{Op, Sim, SimOptions, State, quirk};

fn pair(options: &SimOptions) -> (Side, Side) {
    let source = side(SimOptions { seed: 1, ..options.clone() });
    let target = side(SimOptions { seed: 2, ..options.clone() });
    (source, target)
}

/// Those with which a migration must fail or cannot begin; each has its own test.
const FATAL: u64 = quirk::NO_DATA_FD
    | quirk::EXTRA_DATA_FD
    | quirk::STATE_UNREADABLE
    | quirk::WRITE_ZERO
    | quirk::WRITE_TOO_MUCH;

#[test]
fn all_flags_and_sizes() {
    for migration_flags in [1, 3, 5, 7] {
        for state_size in [1, 4095, 1 << 20, 20 << 20] {
            let options = SimOptions { migration_flags, state_size, ..SimOptions::default() };
            let (source, target) = pair(&options);
            let buffers = vec![if state_size > 4096 { 1 << 20 } else { 4096 }];
            let initial = migration_flags & 4 != 0;
            let done = migrate(&source, &target, Drive { buffers, ..Drive::default() });
            let expected: &[LoadStatus] = match initial {
                true => &[LOADED, ENDED],
                false => &[ENDED],
            };
            assert_eq!(done.statuses, expected);
            assert_eq!(source.sim.bytes_read(), target.sim.bytes_written());
        }
    }
}

#[test]
fn a_guest_that_writes_during_pre_copy_is_migrated_as_it_was_when_it_stopped() {
    for migration_flags in [5, 7] {
        for quirks in [0, quirk::INFO_MAKES_DATA, quirk::PRECOPY_ALL, quirk::DRAINED_ZERO] {
            let size = 1 << 20;
            let options = SimOptions {
                migration_flags,
                quirks,
                initial_size: size,
                state_size: size,
                ..SimOptions::default()
            };
            let (source, target) = pair(&options);
            let sim = source.sim.clone();
            let mut round = 0;
            let drained = Box::new(move |_: &mut _| {
                round += 1;
                sim.guest_write(round * 70_000, 50_000, round).unwrap();
            });
            let drive = Drive { drained, rounds: 8, quiesce: true, ..Drive::default() };
            let fresh = source.sim.digest();
            let done = migrate(&source, &target, drive);
            assert_ne!(source.sim.digest(), fresh);
            assert!(source.sim.bytes_read() > size + 8 * 50_000);
            assert_eq!(done.statuses, [LOADED, ENDED]);
        }
    }
}

#[test]
fn every_quirk_alone() {
    for (quirks, name) in quirk::ALL.iter().filter(|(bit, _)| bit & FATAL == 0) {
        for migration_flags in [1, 3, 5, 7] {
            eprintln!("{name}, flags {migration_flags}");
            let options = SimOptions {
                migration_flags,
                state_size: 20_000,
                quirks: *quirks,
                ..SimOptions::default()
            };
            let (source, target) = pair(&options);
            source.sim.guest_write(3, 5000, 9).unwrap();
            migrate(&source, &target, Drive { quiesce: true, ..Drive::default() });
        }
    }
}

#[test]
fn quirks_that_cannot_be_lived_with_fail_cleanly_on_either_side() {
    let fatal = quirk::ALL.iter().filter(|(bit, _)| bit & FATAL != 0);
    for (quirks, name) in fatal {
        for migration_flags in [1, 3, 5, 7] {
            for at_source in [true, false] {
                let options =
                    SimOptions { migration_flags, state_size: 20_000, ..SimOptions::default() };
                let bad = SimOptions { quirks: *quirks, ..options.clone() };
                let (source, target) = match at_source {
                    true => (side(bad), side(options)),
                    false => (side(options), side(bad)),
                };
                let done = Drive::default().run(&source.device, &target.device);
                // A source is not written to, and an unexpected data fd does not matter if no
                // stream goes on.
                let harmless = match *quirks {
                    quirk::WRITE_ZERO => at_source,
                    quirk::EXTRA_DATA_FD => !at_source || migration_flags & 4 == 0,
                    _ => false,
                };
                let text = format!(
                    "{name}, flags {migration_flags}, source {at_source}: {:?}",
                    done.result
                );
                assert_eq!(done.result.is_ok(), harmless, "{text}");
                if let Err((_, error)) = &done.result {
                    assert!(matches!(error.code(), Code::Io | Code::NoDev), "{text}: {error}");
                }
                // If only the release failed, the target already has its state.
                let committed = matches!(&done.result, Err((At::Source, _))) && done.ended;
                drop(done);
                check_clean(&source);
                check_clean(&target);
                let source_state = if harmless { State::STOP } else { State::RUNNING };
                assert_eq!(source.sim.state(), source_state, "{text}");
                let loaded = harmless || committed;
                let target_state = if loaded { State::STOP } else { State::RUNNING };
                assert_eq!(target.sim.state(), target_state, "{text}");
            }
        }
    }
}

#[test]
fn nonblocking_reads_and_signals_and_short_transfers_lose_nothing() {
    let options = SimOptions {
        state_size: 50_000,
        quirks: quirk::NONBLOCKING | quirk::WRITE_EAGAIN | quirk::FALSE_END,
        max_read: 1000,
        max_write: 700,
        eintr_every: 3,
        ..SimOptions::default()
    };
    let (source, target) = pair(&options);
    let save = SaveOptions { nonblocking: true, max_frame: 5000, ..SaveOptions::default() };
    migrate(&source, &target, Drive { save, ..Drive::default() });
}

#[test]
fn initial_data_that_starts_again_is_announced_again() {
    for quirks in [quirk::PRECOPY_INFO_V2, quirk::FLAGS_ECHO] {
        let options = SimOptions { state_size: 20_000, quirks, ..SimOptions::default() };
        let (source, target) = pair(&options);
        let sim = source.sim.clone();
        let mut round = 0;
        let mut generations = vec![];
        let drained = Box::new(|save: &mut vfiomig::Save| {
            round += 1;
            if round == 1 {
                sim.reinit();
            }
            generations.push(save.pending().unwrap().initial_generation);
        });
        let drive = Drive { drained, rounds: 4, ..Drive::default() };
        let done = migrate(&source, &target, drive);
        // If the kernel does not say it, nobody can know.
        let (marks, last) = if quirks == quirk::PRECOPY_INFO_V2 { (2, 2) } else { (1, 1) };
        let initial = done.statuses.iter().filter(|s| s.initial_loaded);
        assert_eq!(initial.count(), marks);
        assert_eq!(generations.last(), Some(&last));
    }
}

#[test]
fn without_pre_copy_nothing_is_read_before_the_stop() {
    let (source, target) = pair(&SimOptions { state_size: 20_000, ..SimOptions::default() });
    let sim = source.sim.clone();
    let drained = Box::new(move |_: &mut _| assert_eq!(sim.count(Op::Read), 0));
    let save = SaveOptions { no_pre_copy: true, ..SaveOptions::default() };
    let done = migrate(&source, &target, Drive { save, drained, ..Drive::default() });
    assert_eq!(done.statuses, [ENDED]);
}

#[test]
fn a_stopped_device_is_saved_from_where_it_is_and_goes_back_there() {
    for migration_flags in [1, 3, 5, 7] {
        for origin in [State::STOP, State::RUNNING_P2P, State::RUNNING] {
            if vfiomig_sim::fsm::path(migration_flags, State::STOP, origin).is_none() {
                continue;
            }
            let options = SimOptions {
                migration_flags,
                state_size: 5000,
                initial_state: origin,
                ..SimOptions::default()
            };
            let (source, target) = pair(&options);
            let checkpoint = stream_of(&source.device, SaveOptions::default()).unwrap();
            assert_eq!(source.sim.state(), origin);
            let mut load = target.device.load(Default::default()).unwrap();
            assert!(load.push(&checkpoint).unwrap().ended);
            load.commit().unwrap();
            assert_eq!(source.sim.digest(), target.sim.digest());
            check_clean(&source);
            check_clean(&target);
        }
    }
}

#[test]
fn a_device_without_peer_to_peer_dma_does_not_get_it_back_by_being_saved() {
    for migration_flags in [3, 7] {
        let initial_state = State::RUNNING_P2P;
        let options = SimOptions { migration_flags, initial_state, ..SimOptions::default() };
        let source = side(options);
        source.device.save(SaveOptions::default()).unwrap().finish(Ending::Keep).unwrap();
        assert_eq!(source.sim.state(), State::RUNNING_P2P);
        let mut save = source.device.save(SaveOptions::default()).unwrap();
        // RUNNING was never on the way.
        let expected = if migration_flags == 7 { State::PRE_COPY_P2P } else { State::RUNNING_P2P };
        assert_eq!(source.sim.state(), expected);
        save.stop().unwrap();
        save.finish(Ending::Keep).unwrap();
        assert_eq!(source.sim.state(), State::RUNNING_P2P);
        check_clean(&source);
    }
}

#[test]
fn a_kept_source_may_wait_for_its_peers() {
    for (migration_flags, waits) in
        [(1, State::RUNNING), (3, State::RUNNING_P2P), (5, State::RUNNING), (7, State::RUNNING_P2P)]
    {
        for stopped in [false, true] {
            let source = side(SimOptions { migration_flags, ..SimOptions::default() });
            let contents = source.sim.digest();
            let mut save = source.device.save(SaveOptions::default()).unwrap();
            if stopped {
                save.stop().unwrap();
            }
            save.finish(Ending::KeepQuiesced).unwrap();
            assert_eq!(source.sim.state(), waits);
            source.device.run().unwrap();
            assert_eq!(source.sim.state(), State::RUNNING);
            assert_eq!(source.sim.digest(), contents);
            assert_eq!(source.sim.count(Op::Reset), 0);
            check_clean(&source);
        }
    }
}

#[test]
fn a_kept_source_whose_guest_stands_does_not_run() {
    for migration_flags in [1, 3, 5, 7] {
        for steps in 0..3 {
            let source = side(SimOptions { migration_flags, ..SimOptions::default() });
            let contents = source.sim.digest();
            let mut save = source.device.save(SaveOptions::default()).unwrap();
            if steps > 0 {
                save.quiesce().unwrap();
            }
            if steps > 1 {
                save.stop().unwrap();
            }
            let before = source.sim.count(Op::SetState);
            save.finish(Ending::KeepStopped).unwrap();
            assert_eq!(source.sim.state(), State::STOP);
            if steps > 1 {
                // Straight there, and not through a state in which it runs.
                assert_eq!(source.sim.count(Op::SetState), before + 1);
            }
            source.device.run().unwrap();
            assert_eq!(source.sim.digest(), contents);
            assert_eq!(source.sim.count(Op::Reset), 0);
            check_clean(&source);
        }
    }
}

#[test]
fn there_and_back_ten_times_and_the_source_is_good_for_another_guest() {
    let options = SimOptions { state_size: 100_000, ..SimOptions::default() };
    let (a, b) = pair(&options);
    a.sim.guest_write(1234, 50_000, 77).unwrap();
    let contents = a.sim.digest();
    for _ in 0..10 {
        migrate(&a, &b, Drive::default());
        assert_eq!(b.sim.digest(), contents);
        migrate(&b, &a, Drive::default());
        assert_eq!(a.sim.digest(), contents);
    }
    // b is in STOP after the last release. Another guest gets it, clean.
    b.device.reset().unwrap();
    assert_eq!(b.sim.state(), State::RUNNING);
    let c = side(SimOptions { seed: 3, ..options });
    migrate(&b, &c, Drive::default());
    assert_eq!(c.sim.digest(), {
        let fresh = Sim::new(SimOptions { seed: 2, state_size: 100_000, ..SimOptions::default() });
        fresh.unwrap().digest()
    });
}

#[test]
fn a_kept_source_runs_again_from_every_phase() {
    for migration_flags in [1, 3, 5, 7] {
        // 0: after begin; 1: after some data; 2: quiesced; 3: stopped; 4: partly read; 5: ended.
        for phase in 0..6 {
            for dropped in [false, true] {
                let options =
                    SimOptions { migration_flags, state_size: 20_000, ..SimOptions::default() };
                let (source, _) = pair(&options);
                let mut save = source.device.save(SaveOptions::default()).unwrap();
                let mut buf = vec![0; 4096];
                let mut until = |save: &mut vfiomig::Save, status| {
                    while save.next(&mut buf).unwrap().status != status {}
                };
                if phase >= 1 {
                    until(&mut save, vfiomig::session::SaveStatus::Drained);
                }
                if phase >= 2 {
                    save.quiesce().unwrap();
                }
                if phase >= 3 {
                    save.stop().unwrap();
                }
                if phase == 4 {
                    save.next(&mut [0; 4096]).unwrap();
                }
                if phase == 5 {
                    until(&mut save, vfiomig::session::SaveStatus::End);
                }
                if phase < 5 {
                    let error = save.finish(Ending::Release).unwrap_err();
                    assert_eq!(error.code(), Code::Inval);
                }
                if !dropped {
                    save.finish(Ending::Keep).unwrap();
                    assert_eq!(save.finish(Ending::Keep).unwrap_err().code(), Code::Inval);
                }
                drop(save);
                assert_eq!(source.sim.state(), State::RUNNING);
                assert_eq!(source.sim.count(Op::Reset), 0, "nothing was lost");
                check_clean(&source);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_combination_of_quirks_and_splits(
        flags in prop::sample::select(vec![1u32, 3, 5, 7]),
        size in prop_oneof![Just(1u64), Just(255), Just(4095), 1u64..40_000, Just(300_000)],
        initial in 0u64..50_000,
        quirks in 0u64..(1 << 26),
        target_quirks in 0u64..(1 << 26),
        limits in (0u32..3000, 0u32..3000, prop_oneof![Just(0u32), 2u32..7]),
        buffers in prop::collection::vec(4096usize..70_000, 1..5),
        pieces in prop::collection::vec(
            prop_oneof![1usize..40, 1usize..5000, Just(usize::MAX)], 1..5),
        max_frame in 1u32..100_000,
        rounds in 1usize..4,
        quiesce: bool,
        nonblocking: bool,
        writes in prop::collection::vec((0u64..300_000, 1u64..5000, any::<u64>()), 0..6),
    ) {
        let options = SimOptions {
            migration_flags: flags,
            state_size: size,
            initial_size: initial,
            // Tiny transfers of large states only cost time.
            max_read: if limits.0 == 0 { 0 } else { limits.0 + (size / 100) as u32 },
            max_write: if limits.1 == 0 { 0 } else { limits.1 + (size / 100) as u32 },
            eintr_every: limits.2,
            ..SimOptions::default()
        };
        let source = side(SimOptions { seed: 1, quirks: quirks & !FATAL, ..options.clone() });
        let target = side(SimOptions { seed: 2, quirks: target_quirks & !FATAL, ..options });
        let sim = source.sim.clone();
        let mut writes = writes.into_iter();
        let drained = Box::new(move |_: &mut _| {
            if let Some((offset, len, seed)) = writes.next() {
                let offset = offset % size;
                sim.guest_write(offset, len.min(size - offset), seed).unwrap();
            }
        });
        // One byte per frame makes many frames.
        let max_frame = max_frame.max((size / 500) as u32);
        let save = SaveOptions { max_frame, nonblocking, ..SaveOptions::default() };
        migrate(&source, &target, Drive {
            save, buffers, pieces, rounds, quiesce, drained, ..Drive::default()
        });
    }
}
