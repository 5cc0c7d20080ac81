// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that speak protocol v1, of Linux 5.8 to 5.17: a region with chunks.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::regions::{commit, go_there_and_back, refuse_every_cut, say_what_is_lacking};
use common::{Call, Drive, ENDED, check_clean, migrate, side, stream_of};
use vfiomig::Device;
use vfiomig::compat::{Field, Policy, Rule};
use vfiomig::device::{DeviceOptions, ReasonCode};
use vfiomig::error::{Code, Outcome};
use vfiomig::identity::protocol;
use vfiomig::session::{Ending, LoadOptions, SaveOptions, SaveStatus};
use vfiomig::stream::{DecodeLimits, Format};
use vfiomig_sim::{Effect, Kind, Op, Sim, SimOptions, State, quirk};

fn v1(seed: u64) -> SimOptions {
    SimOptions { kind: Kind::V1, seed, state_size: 100_000, ..SimOptions::default() }
}

#[test]
fn a_v1_device_says_what_it_is_and_what_it_lacks() {
    let side = side(v1(1));
    say_what_is_lacking(&side, protocol::V1, false);
    check_clean(&side);
}

#[test]
fn chunks_of_any_size_arrive_as_they_were_read_through_any_buffer_in_any_pieces() {
    for window in [9, 500, 64 << 10, 1 << 20] {
        for (buffer, piece) in [(4096, 1000), (64 << 10, usize::MAX), (1 << 20, 77_777)] {
            for max_frame in [1, 1000, 1 << 20] {
                // Chunks of one byte in frames of one byte would take a while.
                if window.min(u64::from(max_frame)) < 100 && window.max(max_frame.into()) > 600 {
                    continue;
                }
                let state_size = if window.min(max_frame.into()) < 100 { 800 } else { 20_000 };
                let options = SimOptions { window, state_size, ..v1(1) };
                let source = side(options.clone());
                let target = side(SimOptions { seed: 2, ..options });
                let save = SaveOptions { max_frame, ..SaveOptions::default() };
                let mut wrote = 0;
                migrate(
                    &source,
                    &target,
                    Drive {
                        save,
                        buffers: vec![buffer],
                        pieces: vec![piece],
                        rounds: 3,
                        drained: Box::new(|_| {
                            wrote += 1;
                            source.sim.guest_write(wrote * 7, 100, wrote).unwrap();
                        }),
                        ..Drive::default()
                    },
                );
                assert_eq!(source.sim.count(Op::SetState), 3, "PRE_COPY, STOP_COPY, STOP");
            }
        }
    }
}

#[test]
fn drivers_that_take_words_only_or_move_their_chunks_are_migrated() {
    for quirks in [quirk::STRICT_WIDTHS, quirk::ALTERNATING_OFFSET] {
        let options = SimOptions { quirks, window: 1001, state_size: 5000, ..v1(1) };
        let (source, target) = (side(options.clone()), side(SimOptions { seed: 2, ..options }));
        let buffers = vec![4096, 5001, 8192];
        migrate(&source, &target, Drive { buffers, pieces: vec![13, 1001], ..Drive::default() });
    }
}

/// Stops a device whose chunk has been read in part.
#[test]
fn a_stop_in_the_middle_of_a_chunk_has_the_target_take_the_chunk_once() {
    let options = SimOptions { window: 64 << 10, initial_size: 90_000, ..v1(1) };
    let (source, target) = (side(options.clone()), side(SimOptions { seed: 2, ..options }));
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    let mut load = target.device.load(LoadOptions::default()).unwrap();
    let mut buf = vec![0; 4096];
    for reads in 0.. {
        let next = save.next(&mut buf).unwrap();
        load.push(&buf[..next.len]).unwrap();
        if reads == 6 {
            source.sim.guest_write(10, 50_000, 9).unwrap();
            save.stop().unwrap();
        }
        if next.status == SaveStatus::End {
            break;
        }
    }
    load.commit().unwrap();
    save.finish(Ending::Release).unwrap();
    assert_eq!(source.sim.digest(), target.sim.digest());
    check_clean(&source);
    check_clean(&target);
}

#[test]
fn a_device_goes_there_and_back_and_is_kept_or_stopped() {
    let (one, two) = (side(v1(1)), side(v1(2)));
    go_there_and_back(&one, &two);
    // A device that stands still is saved without being run.
    one.device.set_state(vfiomig::device::State::Stop).unwrap();
    let stream = stream_of(&one.device, SaveOptions::default());
    assert!(stream.is_err() || one.sim.state() == State::STOP);
    check_clean(&one);
}

#[test]
fn a_mix_of_protocols_is_refused_before_a_v1_device_is_touched_and_before_v2_gets_data() {
    let v2 = SimOptions { kind: Kind::V2, migration_flags: 5, ..v1(1) };
    let [new, old] = [v2.clone(), v1(1)]
        .map(|options| stream_of(&side(options).device, SaveOptions::default()).unwrap());
    let target = side(v1(2));
    let error = commit(&new, &target).unwrap_err();
    assert_eq!(error.code(), Code::OtherDevice);
    assert!(
        error.message().contains("of migration protocol v2, and the device speaks v1"),
        "{error}"
    );
    assert_eq!(error.failure().unwrap().outcome, Outcome::Kept);
    assert_eq!(target.sim.count(Op::SetState) + target.sim.count(Op::Reset), 0);
    assert_eq!(target.sim.state(), State::RUNNING);
    // It can be used as if nothing had happened.
    commit(&old, &target).unwrap();
    check_clean(&target);
    let target = side(SimOptions { seed: 2, ..v2 });
    // No policy allows it.
    let policy = Policy::default().with(Field::Protocol, Rule::Ignore).unwrap();
    let mut load = target.device.load(LoadOptions { policy, ..LoadOptions::default() }).unwrap();
    let error = load.push(&old).unwrap_err();
    assert_eq!(error.code(), Code::OtherDevice);
    assert!(
        error.message().contains("of migration protocol v1, and the device speaks v2"),
        "{error}"
    );
    assert_eq!((target.sim.count(Op::Write), target.sim.state()), (0, State::RUNNING));
    drop(load);
    commit(&new, &target).unwrap();
}

#[test]
fn a_source_of_another_protocol_that_is_announced_is_refused_at_once() {
    let v2 = side(SimOptions { kind: Kind::V2, ..v1(1) });
    let source = Some(Box::new(v2.device.identity().unwrap()));
    let target = side(v1(2));
    let refused = target.device.load(LoadOptions { source, ..LoadOptions::default() });
    assert_eq!(refused.err().unwrap().code(), Code::OtherDevice);
    assert_eq!(target.sim.count(Op::SetState) + target.sim.count(Op::Reset), 0);
}

#[test]
fn a_load_that_ends_before_it_began_leaves_a_v1_device_alone() {
    let target = side(v1(2));
    let load = target.device.load(LoadOptions::default()).unwrap();
    assert!(target.device.save(SaveOptions::default()).is_err());
    drop(load);
    assert_eq!(target.sim.count(Op::SetState) + target.sim.count(Op::Reset), 0);
}

#[test]
fn qemus_format_has_no_place_for_chunks() {
    let side = side(v1(1));
    for format in [Format::Qemu, Format::QemuPackets] {
        let refused = side.device.save(SaveOptions { format, ..SaveOptions::default() }).err();
        assert_eq!(refused.unwrap().code(), Code::NotSupported);
        let refused = side.device.load(LoadOptions { format, ..LoadOptions::default() }).err();
        assert_eq!(refused.unwrap().code(), Code::NotSupported);
    }
    assert_eq!(side.sim.count(Op::SetState) + side.sim.count(Op::Reset), 0);
}

#[test]
fn regions_that_cannot_be_right_are_a_reason_and_the_protocol_between_is_named() {
    for (quirks, code, text) in [
        (quirk::MID_REGION, ReasonCode::MidProtocol, "\"MID\""),
        (quirk::LOOPING_CHAIN, ReasonCode::RegionsUnusable, "go backwards"),
        (quirk::TWO_REGIONS, ReasonCode::RegionsUnusable, "two migration regions"),
        (quirk::STATE_UNREADABLE, ReasonCode::RegionsUnusable, "cannot be read"),
    ] {
        let side = side(SimOptions { quirks, ..v1(1) });
        let reasons = side.device.reasons().unwrap();
        let reason = reasons.iter().find(|reason| reason.code == code).unwrap();
        assert!(reason.text.contains(text), "{reason:?}");
        assert!(!side.device.caps().unwrap().can_migrate());
        assert_eq!(side.device.identity().unwrap().protocol, 0);
        for refused in [
            side.device.save(SaveOptions::default()).err(),
            side.device.load(LoadOptions::default()).err(),
        ] {
            assert!(refused.unwrap().message().contains(text));
        }
        assert_eq!(side.sim.count(Op::SetState) + side.sim.count(Op::Reset), 0);
    }
}

#[test]
fn chunks_that_cannot_be_right_end_the_save_and_the_device_is_kept() {
    for quirks in [quirk::DATA_SIZE_ZERO, quirk::OFFSET_OUTSIDE] {
        let side = side(SimOptions { quirks, ..v1(1) });
        let error = stream_of(&side.device, SaveOptions::default()).unwrap_err();
        assert_eq!(error.code(), Code::Io, "{error}");
        assert_eq!(side.sim.state(), State::RUNNING);
        check_clean(&side);
    }
    let target = side(SimOptions { quirks: quirk::OFFSET_OUTSIDE, ..v1(2) });
    let stream = stream_of(&side(v1(1)).device, SaveOptions::default()).unwrap();
    let error = commit(&stream, &target).unwrap_err();
    assert!(error.message().contains("wants a chunk at"), "{error}");
    assert_eq!(
        (error.failure().unwrap().outcome, target.sim.state()),
        (Outcome::Reset, State::RUNNING)
    );
}

#[test]
fn a_device_that_never_ends_is_given_up_at_the_limit() {
    let side = side(SimOptions { quirks: quirk::PENDING_FOREVER, ..v1(1) });
    let limits = DecodeLimits { max_total: 1 << 20, ..DecodeLimits::default() };
    let error = stream_of(&side.device, SaveOptions { limits, ..SaveOptions::default() });
    assert_eq!(error.unwrap_err().code(), Code::MsgSize);
    assert_eq!(side.sim.state(), State::RUNNING);
}

#[test]
fn a_chunk_for_which_the_target_has_no_room_is_refused_and_not_cut() {
    let stream = stream_of(&side(v1(1)).device, SaveOptions::default()).unwrap();
    let target = side(SimOptions { window: 1000, ..v1(2) });
    let error = commit(&stream, &target).unwrap_err();
    assert_eq!(error.code(), Code::MsgSize);
    assert!(error.message().contains("a larger region"), "{error}");
    assert_eq!((target.sim.count(Op::TakeChunk), target.sim.state()), (0, State::RUNNING));
    check_clean(&target);
}

#[test]
fn a_guest_that_resets_its_device_starts_the_save_again_and_a_stopped_one_has_lost_it() {
    for at in 0..12 {
        let (source, target) = (side(v1(1)), side(v1(2)));
        source.sim.guest_write(0, 1000, 5).unwrap();
        let before = |calls: usize, call| {
            if calls == at && !matches!(call, Call::Commit | Call::Finish) {
                source.sim.guest_reset();
            }
        };
        let drive = Drive { before: Box::new(before), ..Drive::default() };
        let done = drive.run(&source.device, &target.device);
        match done.result {
            Ok(()) => {
                assert_eq!(source.sim.digest(), target.sim.digest(), "{at}");
                assert_eq!(done.statuses.last(), Some(&ENDED));
            }
            Err((_, error)) => {
                let failure = error.failure().unwrap();
                assert_eq!(failure.outcome, Outcome::Reset, "{at}: {error} {failure:?}");
            }
        }
        drop(done.save);
        drop(done.load);
        check_clean(&source);
        check_clean(&target);
    }
}

#[test]
fn a_commit_that_fails_leaves_the_target_reset() {
    for effect in [Effect::Once, Effect::Error] {
        let stream = stream_of(&side(v1(1)).device, SaveOptions::default()).unwrap();
        let target = side(v1(2));
        let mut load = target.device.load(LoadOptions::default()).unwrap();
        load.push(&stream).unwrap();
        target.sim.inject(Op::SetState, 1, libc::EIO, effect);
        let error = load.commit().unwrap_err();
        assert_eq!(error.failure().unwrap().outcome, Outcome::Reset);
        assert_eq!(error.failure().unwrap().ioctl, 0);
        assert_eq!(target.sim.state(), State::RUNNING);
        check_clean(&target);
    }
}

#[test]
fn every_cut_of_a_stream_leaves_the_target_unharmed() {
    let options = SimOptions { state_size: 300, window: 100, ..v1(1) };
    refuse_every_cut(&options);
}

#[test]
fn a_table_without_regions_has_none() {
    let sim = Sim::new(v1(1)).unwrap();
    let (table, opaque) = sim.table();
    for which in 0..3 {
        let mut table = *table;
        match which {
            0 => table.device_info = None,
            1 => table.region_info = None,
            _ => table.region_write = None,
        }
        // SAFETY: the table of a simulator that outlives the transport.
        #[allow(unsafe_code)]
        let transport = unsafe { vfiomig::transport::OpsTransport::new(table, opaque) };
        let device = Device::new(transport, DeviceOptions::default()).unwrap();
        assert!(!device.caps().unwrap().can_migrate());
    }
}
