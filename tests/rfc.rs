// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that speak the protocol of the RFC of 2019: memory through a window, configuration last, and
//! a state that can be written and not read.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::cell::Cell;

use common::regions::{commit, go_there_and_back, refuse_every_cut, say_what_is_lacking};
use common::{Call, Drive, Side, check_clean, migrate, side, stream_of};
use vfiomig::device::ReasonCode;
use vfiomig::error::{Code, Error, Outcome};
use vfiomig::identity::protocol;
use vfiomig::session::{Ending, LoadOptions, SaveOptions, SaveStatus};
use vfiomig::stream::{
    DecodeLimits, Decoder, Encoder, Format, FrameType, Item, Read, encode_identity,
};
use vfiomig::{Device, Save};
use vfiomig_sim::{Effect, Kind, Op, SimOptions, State, quirk};

fn rfc(seed: u64) -> SimOptions {
    SimOptions { kind: Kind::Rfc, seed, state_size: 100_000, ..SimOptions::default() }
}

#[test]
fn a_device_of_the_rfc_says_what_it_is_and_what_it_lacks() {
    let side = side(rfc(1));
    say_what_is_lacking(&side, protocol::RFC, true);
    // Asking has changed nothing.
    assert_eq!(side.sim.count(Op::SetState) + side.sim.count(Op::PrecopyInfo), 0);
    check_clean(&side);
}

#[test]
fn memory_arrives_through_any_window_any_buffer_and_in_any_pieces() {
    for window in [64, 999, 4096, 1 << 20] {
        for (buffer, piece) in [(4096, 1000), (64 << 10, usize::MAX), (1 << 20, 77_777)] {
            for max_frame in [100, 1000, 1 << 20] {
                let state_size = if window < 100 { 900 } else { 20_000 };
                let options = SimOptions { window, state_size, ..rfc(1) };
                let (source, target) =
                    (side(options.clone()), side(SimOptions { seed: 2, ..options }));
                let save = SaveOptions { max_frame, ..SaveOptions::default() };
                let mut wrote = 0;
                let drained = |_: &mut _| {
                    wrote += 1;
                    source.sim.guest_write(wrote * 7, 100, wrote).unwrap();
                };
                let drive = Drive {
                    save,
                    buffers: vec![buffer],
                    pieces: vec![piece],
                    rounds: 3,
                    drained: Box::new(drained),
                    ..Drive::default()
                };
                migrate(&source, &target, drive);
                assert_eq!(source.sim.count(Op::SetState), 3, "LOGGING, STOP and LOGGING, STOP");
            }
        }
    }
}

#[test]
fn a_device_without_memory_is_all_configuration_and_one_that_takes_words_gets_them() {
    for quirks in [quirk::NO_DEVICE_MEMORY, quirk::STRICT_WIDTHS] {
        let options = SimOptions { quirks, state_size: 5000, window: 1001, ..rfc(1) };
        let (source, target) = (side(options.clone()), side(SimOptions { seed: 2, ..options }));
        let done =
            migrate(&source, &target, Drive { buffers: vec![4096, 5001], ..Drive::default() });
        // It is marked nevertheless: a target may wait for that.
        assert!(done.statuses.iter().any(|status| status.initial_loaded));
    }
}

#[test]
fn what_is_read_again_is_what_has_changed() {
    let source = side(SimOptions { window: 4096, ..rfc(1) });
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    let mut buf = vec![0; 1 << 20];
    let mut round = || {
        let before = source.sim.bytes_read();
        while save.next(&mut buf).unwrap().status != SaveStatus::Drained {}
        source.sim.bytes_read() - before
    };
    let first = round();
    assert!(first > 100_000);
    // What has become dirty meanwhile, and then nothing.
    source.sim.guest_write(0, 1, 5).unwrap();
    let (second, third) = (round() + round(), round());
    assert!(second > 0 && second < 20_000, "{second}");
    assert_eq!(third, 0);
    // Asking what is left takes no snapshot.
    let asked = source.sim.count(Op::PrecopyInfo);
    assert!(!save.pending().unwrap().precopy_known);
    assert_eq!(source.sim.count(Op::PrecopyInfo), asked);
    save.finish(Ending::Keep).unwrap();
    assert_eq!(source.sim.state(), State::RUNNING);
    check_clean(&source);
}

/// Stops a device after each number of reads: within chunks, at their ends, and where the device has
/// given all of a snapshot that has not been read to its end.
#[test]
fn a_stop_at_any_point_of_a_snapshot_loses_nothing() {
    for stop_after in 0..12 {
        let options = SimOptions { window: 20_000, state_size: 34_000, ..rfc(1) };
        let (source, target) = (side(options.clone()), side(SimOptions { seed: 2, ..options }));
        let mut save = source.device.save(SaveOptions::default()).unwrap();
        let mut load = target.device.load(LoadOptions::default()).unwrap();
        let mut buf = vec![0; 4096];
        for reads in 0.. {
            let next = save.next(&mut buf).unwrap();
            load.push(&buf[..next.len]).unwrap();
            if reads == stop_after {
                source.sim.guest_write(10, 5000, 9).unwrap();
                save.stop().unwrap();
            }
            if next.status == SaveStatus::End {
                break;
            }
        }
        load.commit().unwrap();
        save.finish(Ending::Release).unwrap();
        assert_eq!(source.sim.digest(), target.sim.digest(), "{stop_after}");
        check_clean(&source);
        check_clean(&target);
    }
}

#[test]
fn a_driver_that_forgets_a_snapshot_read_in_part_is_found_out() {
    let options = SimOptions { window: 1000, quirks: quirk::FORGETS_HALF, ..rfc(1) };
    let source = side(options);
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    let mut buf = vec![0; 8192];
    save.next(&mut buf).unwrap();
    save.stop().unwrap();
    let error = loop {
        match save.next(&mut buf) {
            Ok(next) => assert_ne!(next.status, SaveStatus::End),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::Io);
    save.finish(Ending::Keep).unwrap();
    check_clean(&source);
}

#[test]
fn a_device_goes_there_and_back_and_is_kept_or_stopped() {
    let (one, two) = (side(rfc(1)), side(rfc(2)));
    go_there_and_back(&one, &two);
    check_clean(&one);
}

#[test]
fn a_stopped_device_is_saved_without_being_run() {
    let (source, target) = (side(rfc(1)), side(rfc(2)));
    source.device.set_state(vfiomig::device::State::Stop).unwrap();
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    save.stop().unwrap();
    let (mut buf, mut stream) = (vec![0; 64 << 10], vec![]);
    loop {
        assert!(!source.sim.state().is_running());
        let next = save.next(&mut buf).unwrap();
        stream.extend_from_slice(&buf[..next.len]);
        if next.status == SaveStatus::End {
            break;
        }
    }
    save.finish(Ending::Keep).unwrap();
    assert_eq!(source.sim.state(), State::STOP);
    commit(&stream, &target).unwrap();
    assert_eq!(source.sim.digest(), target.sim.digest());
    check_clean(&source);
    check_clean(&target);
}

#[test]
fn no_state_of_another_protocol_reaches_a_device_of_the_rfc_nor_its_state_another() {
    let kinds = [Kind::Rfc, Kind::V1, Kind::V2];
    let of = |kind, seed| side(SimOptions { kind, migration_flags: 5, ..rfc(seed) });
    for from in kinds {
        let stream = stream_of(&of(from, 1).device, SaveOptions::default()).unwrap();
        for to in kinds.into_iter().filter(|to| *to != from) {
            let target = of(to, 2);
            let error = commit(&stream, &target).unwrap_err();
            assert_eq!(error.code(), Code::OtherDevice, "{from:?} {to:?}");
            assert_eq!(target.sim.count(Op::Write) + target.sim.count(Op::TakeChunk), 0);
            assert_eq!(target.sim.state(), State::RUNNING);
            if to != Kind::V2 {
                assert_eq!(target.sim.count(Op::SetState) + target.sim.count(Op::Reset), 0);
            }
        }
    }
}

#[test]
fn qemus_format_has_no_place_for_snapshots() {
    let side = side(rfc(1));
    for format in [Format::Qemu, Format::QemuPackets] {
        let refused = side.device.save(SaveOptions { format, ..SaveOptions::default() }).err();
        assert_eq!(refused.unwrap().code(), Code::NotSupported);
    }
    assert_eq!(side.sim.count(Op::SetState), 0);
}

#[test]
fn regions_that_cannot_be_right_are_a_reason() {
    for (quirks, code, text) in [
        (quirk::OTHER_VERSION, ReasonCode::RegionsUnusable, "version 2, not 1"),
        (quirk::UNKNOWN_CAPS, ReasonCode::RegionsUnusable, "capabilities 0x23"),
        (quirk::MISSING_REGION, ReasonCode::RegionsUnusable, "no dirty bitmap region"),
        (
            quirk::MISSING_REGION | quirk::NO_LOGGING,
            ReasonCode::RegionsUnusable,
            "no device memory region",
        ),
        (quirk::LOOPING_CHAIN, ReasonCode::RegionsUnusable, "go backwards"),
        (quirk::TWO_REGIONS, ReasonCode::RegionsUnusable, "two migration regions of subtype 1"),
        // Without the region for its configuration, its type is that of the patches between.
        (
            quirk::NO_DEVICE_MEMORY | quirk::NO_LOGGING | quirk::MISSING_REGION,
            ReasonCode::MidProtocol,
            "\"MID\"",
        ),
    ] {
        let side = side(SimOptions { quirks, ..rfc(1) });
        let reasons = side.device.reasons().unwrap();
        let reason = reasons.iter().find(|reason| reason.code == code).unwrap();
        assert!(reason.text.contains(text), "{reason:?}");
        assert!(!side.device.caps().unwrap().can_migrate());
        assert_eq!(side.device.identity().unwrap().protocol, 0);
        assert!(side.device.save(SaveOptions::default()).err().unwrap().message().contains(text));
        assert!(side.device.load(LoadOptions::default()).err().unwrap().message().contains(text));
        assert_eq!(side.sim.count(Op::SetState) + side.sim.count(Op::Reset), 0);
    }
}

#[test]
fn what_cannot_be_right_ends_the_save_and_the_device_is_kept_if_it_was_not_reset() {
    // The last two: nothing of the memory comes although there is some; it never ends, as that of a
    // device which was reset does not.
    for (quirks, outcome) in [
        (quirk::CONFIG_TOO_LONG, Outcome::Kept),
        (quirk::FULL_BEFORE_LOGGING, Outcome::Kept),
        (quirk::PENDING_FOREVER, Outcome::Reset),
    ] {
        let side = side(SimOptions { quirks, ..rfc(1) });
        let error = stream_of(&side.device, SaveOptions::default()).unwrap_err();
        assert_eq!(error.code(), Code::Io, "{error}");
        assert_eq!(error.failure().unwrap().outcome, outcome, "{error}");
        assert!(side.sim.count(Op::PrecopyInfo) < 7, "it is not read over and over");
        assert_eq!(side.sim.state(), State::RUNNING);
        check_clean(&side);
    }
}

#[test]
fn a_target_that_would_cut_in_other_places_is_refused_and_what_is_not_cut_fits() {
    let save = |window, state_size| {
        let options = SimOptions { window, state_size, ..rfc(1) };
        stream_of(&side(options).device, SaveOptions::default()).unwrap()
    };
    let target = |window, state_size| side(SimOptions { window, state_size, ..rfc(2) });
    for (from, to, state_size) in [(1000, 2000, 5000), (2000, 1000, 5000), (8000, 4096, 5000)] {
        let target = target(to, state_size);
        let error = commit(&save(from, state_size), &target).unwrap_err();
        assert_eq!(error.code(), Code::MsgSize, "{error}");
        assert!(error.message().contains("need them equal"), "{error}");
        assert_eq!((target.sim.count(Op::TakeChunk), target.sim.state()), (0, State::RUNNING));
        check_clean(&target);
    }
    commit(&save(20_000, 5000), &target(10_000, 5000)).unwrap();
}

#[test]
fn a_state_with_memory_and_one_without_do_not_fit_each_others_devices() {
    let quirks = quirk::NO_DEVICE_MEMORY;
    for (from, to) in [(0, quirks), (quirks, 0)] {
        let source = side(SimOptions { quirks: from, state_size: 2000, ..rfc(1) });
        let stream = stream_of(&source.device, SaveOptions::default()).unwrap();
        let target = side(SimOptions { quirks: to, state_size: 2000, ..rfc(2) });
        let error = commit(&stream, &target).unwrap_err();
        assert_eq!(error.code(), Code::Proto, "{error}");
        assert_eq!((target.sim.count(Op::TakeChunk), target.sim.state()), (0, State::RUNNING));
    }
}

#[test]
fn each_snapshot_ends_a_round_even_where_there_is_always_another() {
    let (source, target) = (side(rfc(1)), side(rfc(2)));
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    let (mut buf, mut stream) = (vec![0; 16 << 10], vec![]);
    let mut next = |save: &mut Save| {
        let next = save.next(&mut buf).unwrap();
        stream.extend_from_slice(&buf[..next.len]);
        next.status
    };
    while next(&mut save) != SaveStatus::Drained {}
    // Nobody knows: outside of LOGGING, the device gives the whole of its memory each time.
    source.sim.guest_reset();
    for _ in 0..3 {
        let reads = (0..20).take_while(|_| next(&mut save) != SaveStatus::Drained).count();
        assert!(reads < 20);
    }
    save.stop().unwrap();
    while next(&mut save) != SaveStatus::End {}
    commit(&stream, &target).unwrap();
    assert_eq!(source.sim.digest(), target.sim.digest());
    save.finish(Ending::Release).unwrap();
    check_clean(&source);
    check_clean(&target);
}

/// A stream whose frames are whole, with this data, of a device like `device`.
fn stream_with(device: &Device, data: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new([9; 16], 0);
    let (mut stream, mut buf) = (vec![], vec![0; 1 << 16]);
    let len = encoder.preamble(&mut buf).unwrap();
    stream.extend_from_slice(&buf[..len]);
    let identity = encode_identity(&device.identity().unwrap());
    for (kind, payload) in [(FrameType::Identity, identity.as_slice()), (FrameType::Data, data)] {
        let len = encoder.frame(&mut buf, kind, &[payload]).unwrap();
        stream.extend_from_slice(&buf[..len]);
    }
    let len = encoder.end(&mut buf).unwrap();
    stream.extend_from_slice(&buf[..len]);
    stream
}

fn unit(kind: u32, bytes: &[u8]) -> Vec<u8> {
    let len = bytes.len() as u64;
    let mut all = [u64::from(kind) | len << 32, 0, len].map(u64::to_le_bytes).concat();
    all.extend(bytes);
    all
}

fn snapshot(size: u64, window: u64) -> Vec<u8> {
    unit(2, &[size, window].map(u64::to_le_bytes).concat())
}

/// Little enough to be looked at.
fn little(seed: u64) -> Side {
    side(SimOptions { window: 100, state_size: 300, ..rfc(seed) })
}

/// The data of a stopped device: a snapshot, and its configuration, which is the last unit.
fn data_of(device: &Device) -> (Vec<u8>, Vec<u8>) {
    let mut save = device.save(SaveOptions::default()).unwrap();
    save.stop().unwrap();
    let mut decoder = Decoder::new(DecodeLimits::default());
    let (mut buf, mut data) = (vec![0; 64 << 10], vec![]);
    loop {
        let next = save.next(&mut buf).unwrap();
        let mut rest = &buf[..next.len];
        while let Some(item) = decoder.next(&mut rest).unwrap() {
            if let Item::Data(bytes) = item {
                data.extend_from_slice(bytes);
            }
        }
        if next.status == SaveStatus::End {
            break;
        }
    }
    let config = data.split_off(data.len() - 124);
    assert_eq!(config[..8], [4, 0, 0, 0, 100, 0, 0, 0]);
    (data, config)
}

#[test]
fn data_that_cannot_be_right_never_becomes_a_state() {
    let (memory, config) = data_of(&little(1).device);
    let chunk = unit(3, &[7; 50]);
    for (data, text) in [
        (memory.clone(), "before the device's configuration did"),
        (chunk.clone(), "belongs to no snapshot"),
        (config.clone(), "the state has none"),
        (unit(1, &[7; 50]), "of v1"),
        (unit(5, &[7; 50]), "cannot be right"),
        (unit(2, &[7; 15]), "the beginning of a snapshot has a wrong length"),
        (snapshot(0, 100), "no snapshot"),
        (snapshot(100, 0), "no snapshot"),
        (snapshot(101, 99), "need them equal"),
        ([snapshot(51, 100), chunk.clone()].concat(), "a chunk of a snapshot has a wrong length"),
        ([snapshot(150, 100), unit(3, &[7; 100]), config.clone()].concat(), "is not complete"),
        ([memory.clone(), chunk].concat(), "belongs to no snapshot"),
        ([memory.clone(), unit(4, &[7; 5000])].concat(), "room for 4096"),
        ([memory.clone(), config.clone(), snapshot(50, 100)].concat(), "something follows"),
        ([memory.clone(), config.clone(), config.clone()].concat(), "something follows"),
    ] {
        let target = little(2);
        let error = commit(&stream_with(&target.device, &data), &target).unwrap_err();
        // What the simulated driver refuses by itself does not count.
        assert!(error.message().contains(text), "{text}: {error}");
        assert_eq!(target.sim.state(), State::RUNNING);
        check_clean(&target);
    }
    // What it was made of is right, even where a snapshot that was not complete comes before.
    let half = [snapshot(150, 100), unit(3, &[7; 100])].concat();
    for before in [vec![], half] {
        let target = little(2);
        let data = [before, memory.clone(), config.clone()].concat();
        commit(&stream_with(&target.device, &data), &target).unwrap();
        assert_eq!(target.sim.digest(), little(1).sim.digest());
        check_clean(&target);
    }
}

/// Its state cannot be read, so a reset shows only where nothing else explains what the device says.
#[test]
fn a_reset_that_the_vmm_tells_of_starts_the_save_again_and_none_goes_by_unnoticed() {
    for told in [true, false] {
        for at in 0..12 {
            let (source, target) = (side(rfc(1)), side(rfc(2)));
            source.sim.guest_write(0, 1000, 5).unwrap();
            let stopped = Cell::new(false);
            let before = |calls: usize, call| {
                stopped.set(stopped.get() || (calls == at && call == Call::NextStopped));
                if calls == at && !matches!(call, Call::Begin | Call::Commit | Call::Finish) {
                    source.sim.guest_reset();
                    if told {
                        source.device.was_reset().unwrap();
                    }
                }
            };
            let drive = Drive { before: Box::new(before), ..Drive::default() };
            let mut done = drive.run(&source.device, &target.device);
            let restarted = done.save.as_ref().unwrap().stats().restarts;
            // The guest ran until the stop, and the save was told.
            if told && (1..8).contains(&at) {
                assert!(done.result.is_ok() && restarted == 1, "{at}: {:?}", done.result);
            }
            match &done.result {
                Ok(()) => assert_eq!(source.sim.digest(), target.sim.digest(), "{at}"),
                Err((_, error)) if told => {
                    assert_eq!(error.failure().unwrap().outcome, Outcome::Reset, "{at}: {error}");
                }
                Err((_, error)) => {
                    let outcome = error.failure().unwrap().outcome;
                    // Nobody says that the device is intact which it is not.
                    assert!(!stopped.get() || outcome == Outcome::Reset, "{at}: {error}");
                }
            }
            // Had it been stopped, the reset has taken what the guest relies on.
            if done.result.is_err() && stopped.get() {
                let kept = done.save.as_mut().unwrap().finish(Ending::Keep);
                assert_eq!(kept.unwrap_err().failure().unwrap().outcome, Outcome::Reset, "{at}");
                assert!(source.device.run().is_err(), "{at}");
            }
            drop(done);
            assert_ne!(target.sim.state(), State::RESUMING);
            check_clean(&source);
            check_clean(&target);
        }
    }
}

#[test]
fn a_stopped_device_that_was_reset_behind_its_last_snapshot_is_said_to_be_lost() {
    let source = side(rfc(1));
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    let mut buf = vec![0; 1 << 20];
    while save.next(&mut buf).unwrap().status != SaveStatus::Drained {}
    save.stop().unwrap();
    // Its configuration is asked for twice: how long it is, and the thing itself.
    source.sim.inject(Op::Chunk, 2, libc::EIO, Effect::Reset);
    let error = loop {
        match save.next(&mut buf) {
            Ok(next) => assert_ne!(next.status, SaveStatus::End),
            Err(error) => break error,
        }
    };
    assert_eq!(error.failure().unwrap().outcome, Outcome::Reset, "{error}");
    assert_eq!(save.finish(Ending::Keep).unwrap_err().failure().unwrap().outcome, Outcome::Reset);
    check_clean(&source);
}

fn drain_stop_and_keep(source: &Side) -> vfiomig::Result<()> {
    let mut save = source.device.save(SaveOptions::default())?;
    while save.next(&mut vec![0; 1 << 20])?.status != SaveStatus::Drained {}
    save.stop()?;
    save.finish(Ending::Keep)
}

#[test]
fn a_state_that_could_not_be_written_is_left_by_a_reset() {
    // Into LOGGING, into STOP, and back.
    for nth in 1..4 {
        for effect in [Effect::Once, Effect::Half, Effect::Error] {
            let source = side(rfc(1));
            source.sim.inject(Op::SetState, nth, libc::EBUSY, effect);
            let error = drain_stop_and_keep(&source).unwrap_err();
            assert_eq!(error.failure().unwrap().outcome, Outcome::Reset, "{nth} {effect:?}");
            assert_eq!(source.sim.state(), State::RUNNING);
            source.device.accept_reset().unwrap();
            migrate(&source, &side(rfc(2)), Drive::default());
        }
    }
}

#[test]
fn a_driver_that_refuses_its_configuration_or_a_chunk_is_reset_and_can_be_loaded_again() {
    let source = side(SimOptions { window: 30_000, ..rfc(1) });
    let stream = stream_of(&source.device, SaveOptions::default()).unwrap();
    let target = side(SimOptions { window: 30_000, ..rfc(2) });
    commit(&stream, &target).unwrap();
    let takes = target.sim.count(Op::TakeChunk);
    assert!(takes > 5);
    for nth in 1..=takes {
        target.sim.inject(Op::TakeChunk, nth, libc::EINVAL, Effect::Once);
        let error = commit(&stream, &target).unwrap_err();
        assert_eq!(error.failure().unwrap().outcome, Outcome::Reset, "{nth}");
        assert_eq!(target.sim.state(), State::RUNNING);
        check_clean(&target);
    }
    commit(&stream, &target).unwrap();
    assert_eq!(target.sim.digest(), source.sim.digest());
}

#[test]
fn every_cut_of_a_stream_leaves_the_target_unharmed() {
    let options = SimOptions { state_size: 300, window: 100, ..rfc(1) };
    refuse_every_cut(&options);
}

/// A device that was drained, stopped, and is read on.
fn stopped_after_a_round(options: SimOptions) -> (Side, Save) {
    let source = side(options);
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    while save.next(&mut vec![0; 1 << 20]).unwrap().status != SaveStatus::Drained {}
    source.sim.guest_write(0, 5000, 9).unwrap();
    save.stop().unwrap();
    (source, save)
}

fn read_to_its_failure(save: &mut Save) -> Error {
    loop {
        match save.next(&mut vec![0; 8192]) {
            Ok(next) => assert_ne!(next.status, SaveStatus::End),
            Err(error) => return error,
        }
    }
}

#[test]
fn a_stopped_device_whose_driver_fails_is_kept_only_if_it_still_has_what_it_had() {
    let options = SimOptions { window: 1000, ..rfc(1) };
    for reset in [false, true] {
        // Chunks of a snapshot, its bytes, and the configuration.
        for (op, nth) in [(Op::Chunk, 1), (Op::Chunk, 2), (Op::Read, 1), (Op::Chunk, 9)] {
            let (source, mut save) = stopped_after_a_round(options.clone());
            let digest = source.sim.digest();
            if reset {
                source.sim.inject(op, nth, 0, Effect::Reset);
                source.sim.inject(op, nth + 1, libc::EIO, Effect::Once);
            } else {
                source.sim.inject(op, nth, libc::EIO, Effect::Once);
            }
            let error = read_to_its_failure(&mut save);
            let outcome = error.failure().unwrap().outcome;
            let kept = save.finish(Ending::Keep);
            assert_eq!(source.sim.state(), State::RUNNING);
            if reset {
                assert_eq!(outcome, Outcome::Reset, "{op:?} {nth}: {error}");
                assert_eq!(kept.unwrap_err().failure().unwrap().outcome, Outcome::Reset);
            } else {
                assert_eq!(outcome, Outcome::Kept, "{op:?} {nth}: {error}");
                assert!(kept.is_ok() && source.sim.digest() == digest);
            }
        }
    }
    // Before anything was read whole, a part cannot be told from the whole.
    let source = side(options.clone());
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    save.stop().unwrap();
    source.sim.inject(Op::Chunk, 2, libc::EIO, Effect::Once);
    let error = read_to_its_failure(&mut save);
    assert_eq!(error.failure().unwrap().outcome, Outcome::Reset);
    assert!(save.finish(Ending::Keep).is_err());
    // Nor is there anything to go by where there is no memory.
    let (_source, mut save) = stopped_after_a_round(SimOptions {
        quirks: quirk::NO_DEVICE_MEMORY,
        state_size: 5000,
        ..rfc(1)
    });
    _source.sim.inject(Op::Chunk, 1, libc::EIO, Effect::Once);
    assert_eq!(read_to_its_failure(&mut save).failure().unwrap().outcome, Outcome::Reset);
    assert!(save.finish(Ending::Keep).is_err());
}

#[test]
fn a_reset_of_a_stopped_device_is_found_when_its_memory_comes_as_a_whole_for_the_second_time() {
    let (source, mut save) = stopped_after_a_round(rfc(1));
    source.sim.guest_reset();
    let before = (source.sim.count(Op::PrecopyInfo), source.sim.bytes_read());
    let error = read_to_its_failure(&mut save);
    assert_eq!((error.code(), error.failure().unwrap().outcome), (Code::NoDev, Outcome::Reset));
    // The whole, the whole again, and a look at what is there.
    assert_eq!(source.sim.count(Op::PrecopyInfo) - before.0, 3);
    assert_eq!(save.finish(Ending::Keep).unwrap_err().failure().unwrap().outcome, Outcome::Reset);
    assert!(source.device.run().is_err());
}

#[test]
fn a_device_that_was_reset_and_cannot_be_set_running_is_not_said_to_be_kept() {
    let (source, mut save) = stopped_after_a_round(rfc(1));
    source.sim.guest_reset();
    source.sim.inject(Op::SetState, 1, libc::EBUSY, Effect::Once);
    assert_eq!(read_to_its_failure(&mut save).failure().unwrap().outcome, Outcome::Reset);
    assert!(save.finish(Ending::Keep).is_err());
    assert!(source.device.run().is_err());
}

fn server(seed: u64) -> SimOptions {
    SimOptions { quirks: quirk::RESET_KEEPS_STATE, ..rfc(seed) }
}

/// A server refuses a reset of a stopped device, and a device that it resets stays where it was.
#[test]
fn a_server_that_keeps_the_state_over_a_reset_is_taken_to_running() {
    // Into LOGGING, into STOP, and back.
    for nth in 1..4 {
        for effect in [Effect::Once, Effect::Half] {
            let source = side(server(1));
            let empty = source.sim.digest();
            source.sim.guest_write(0, 1000, 5).unwrap();
            source.sim.inject(Op::SetState, nth, libc::EBUSY, effect);
            let error = drain_stop_and_keep(&source).unwrap_err();
            assert_eq!(error.failure().unwrap().outcome, Outcome::Reset, "{nth} {effect:?}");
            let found = (source.sim.state(), source.sim.digest());
            assert_eq!(found, (State::RUNNING, empty), "{nth} {effect:?}");
            source.device.accept_reset().unwrap();
            migrate(&source, &side(rfc(2)), Drive::default());
        }
    }
    let source = side(server(1));
    source.device.set_state(vfiomig::device::State::Stop).unwrap();
    source.device.reset().unwrap();
    assert_eq!(source.sim.state(), State::RUNNING);
    check_clean(&source);
}

#[test]
fn a_device_that_cannot_be_set_running_after_a_reset_is_lost() {
    let source = side(rfc(1));
    source.sim.inject(Op::SetState, 1, libc::EBUSY, Effect::Once);
    let error = source.device.reset().unwrap_err();
    assert_eq!(error.failure().unwrap().outcome, Outcome::Lost);
    assert!(source.device.reset().is_ok());
}

#[test]
fn a_server_that_keeps_the_state_is_saved_again_after_a_reset_and_loaded_again_after_a_failure() {
    let (source, target) = (side(server(1)), side(server(2)));
    source.sim.guest_write(0, 1000, 5).unwrap();
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    let (mut buf, mut stream) = (vec![0; 8192], vec![]);
    let mut until = |save: &mut Save, status| {
        loop {
            let next = save.next(&mut buf).unwrap();
            stream.extend_from_slice(&buf[..next.len]);
            if next.status == status {
                break;
            }
        }
    };
    until(&mut save, SaveStatus::Drained);
    source.sim.guest_reset();
    source.device.was_reset().unwrap();
    assert_eq!(source.sim.state(), State::RUNNING);
    until(&mut save, SaveStatus::Drained);
    save.stop().unwrap();
    until(&mut save, SaveStatus::End);
    assert_eq!(save.stats().restarts, 1);
    save.finish(Ending::Release).unwrap();

    let empty = target.sim.digest();
    assert!(commit(&stream[..stream.len() / 2], &target).is_err());
    assert_eq!((target.sim.state(), target.sim.digest()), (State::RUNNING, empty));
    // Nor does a word that it was reset make a device run that is being loaded.
    let mut load = target.device.load(LoadOptions::default()).unwrap();
    load.push(&stream[..stream.len() / 2]).unwrap();
    target.device.was_reset().unwrap();
    assert_ne!(target.sim.state(), State::RUNNING);
    drop(load);
    assert_eq!((target.sim.state(), target.sim.digest()), (State::RUNNING, empty));
    commit(&stream, &target).unwrap();
    assert_eq!(source.sim.digest(), target.sim.digest());
    check_clean(&source);
    check_clean(&target);
}

#[test]
fn a_device_that_an_earlier_owner_has_stopped_runs_when_it_is_told_to() {
    let side = side(SimOptions { initial_state: State::STOP, ..rfc(1) });
    side.device.run().unwrap();
    assert_eq!((side.sim.state(), side.sim.count(Op::SetState)), (State::RUNNING, 1));
    // Now it is known.
    side.device.run().unwrap();
    assert_eq!(side.sim.count(Op::SetState), 1);
    // A server refuses to reset it, and it cannot be known why.
    let options = SimOptions { initial_state: State::STOP, ..server(1) };
    let side = self::side(options);
    side.device.reset().unwrap();
    assert_eq!(side.sim.state(), State::RUNNING);
}
