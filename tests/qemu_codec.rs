// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's format: exactly its bytes on the way out; on the way in, nothing that it does not allow,
//! and none of the ways in which its own reader can be brought down.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use common::{Side, Twist, check_clean, side, small, twisted_side};
use vfiomig::compat::{Field, Policy, Rule};
use vfiomig::device::Identity;
use vfiomig::error::{Code, Errno, Error, Operation, Outcome};
use vfiomig::session::{
    Ending, Load, LoadOptions, LoadStatus, Packets, Save, SaveOptions, SaveStatus,
};
use vfiomig::stream::{DecodeLimits, Format};
use vfiomig::transport::{DataFd, OpsTransport, Transport};
use vfiomig_sim::{Effect, Op, SimOptions, State, quirk};

// The tags as docs/qemu-format.md has them, deliberately not the library's constants.
const EOS: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0x00, 0x01];
const CONFIG: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0x00, 0x02];
const SETUP: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0x00, 0x03];
const DATA: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0x00, 0x04];
const INIT_SENT: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0x00, 0x05];
const LOAD_READY: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0x00, 0x06];

const BLOB: &[u8] = b"what vmstate says of the configuration";

/// A device without pre-copy.
fn stopped_only(seed: u64) -> SimOptions {
    SimOptions { migration_flags: 3, ..small(seed) }
}

fn saving(format: Format) -> SaveOptions {
    SaveOptions { format, max_frame: 1 << 20, ..SaveOptions::default() }
}

fn loading(format: Format) -> LoadOptions {
    LoadOptions {
        format,
        write_timeout: Duration::from_millis(200),
        blobs: Some(Box::new(|kind, bytes| {
            assert_eq!((kind, bytes), (0, BLOB));
            Ok(())
        })),
        ..LoadOptions::default()
    }
}

/// What one call gave.
#[track_caller]
fn next(save: &mut Save, cap: usize) -> (SaveStatus, Vec<u8>) {
    let mut buf = vec![0xa5; cap];
    let next = save.next(&mut buf).unwrap();
    buf.truncate(next.len);
    (next.status, buf)
}

/// The pieces of a save: sections, or packets.
struct Saved {
    /// What came while the guest ran, a section each.
    rounds: Vec<Vec<u8>>,
    /// Pieces of the stopped device's data; with packets a packet each.
    data: Vec<Vec<u8>>,
    /// The configuration's section or packet.
    config: Vec<u8>,
}

fn save_all(side: &Side, options: SaveOptions, cap: usize) -> Saved {
    let mut save = side.device.save(options).unwrap();
    let mut rounds = vec![];
    loop {
        let (status, bytes) = next(&mut save, cap);
        rounds.push(bytes);
        if status == SaveStatus::Drained {
            break;
        }
        assert_eq!(status, SaveStatus::More);
    }
    save.stop().unwrap();
    let mut data = vec![];
    loop {
        let (status, bytes) = next(&mut save, cap);
        if !bytes.is_empty() {
            data.push(bytes);
        }
        match status {
            SaveStatus::More => {}
            SaveStatus::Drained => break,
            SaveStatus::End => panic!("the end came without the configuration"),
        }
    }
    save.blob(0, BLOB).unwrap();
    let (status, config) = next(&mut save, cap);
    assert_eq!(status, SaveStatus::End);
    save.finish(Ending::Keep).unwrap();
    Saved { rounds, data, config }
}

/// A whole main channel as the VMM's stream has it, section headers left out.
fn main_channel(saved: &Saved) -> Vec<u8> {
    [saved.rounds.concat(), saved.data.concat(), saved.config.clone()].concat()
}

/// The same up to where the VMM reads its configuration.
fn up_to_config(saved: &Saved) -> Vec<u8> {
    [saved.rounds.concat(), saved.data.concat(), CONFIG.to_vec()].concat()
}

fn piece(data: &[u8]) -> Vec<u8> {
    [&DATA[..], &(data.len() as u64).to_be_bytes(), data].concat()
}

fn packet(idx: u32, data: &[u8]) -> Vec<u8> {
    raw_packet(0, idx, 0, data)
}

fn raw_packet(version: u32, idx: u32, flags: u32, data: &[u8]) -> Vec<u8> {
    let head = [version, idx, flags].map(u32::to_be_bytes).concat();
    [&head, data].concat()
}

fn config_packet(idx: u32) -> Vec<u8> {
    raw_packet(0, idx, 1, &[&CONFIG, BLOB, &EOS].concat())
}

/// Driver bytes of a small device without pre-copy: what the stopped device returns.
fn driver_bytes(side: &Side) -> Vec<u8> {
    let mut options = saving(Format::Qemu);
    options.no_pre_copy = true;
    let saved = save_all(side, options, 1 << 20);
    assert_eq!(saved.data.len(), 1);
    let bytes = &saved.data[0];
    bytes[16..bytes.len() - 8].to_vec()
}

/// A VMM that reads its stream through the library's memory, never more than it has room for, and
/// the configuration by itself. Returns how much it read.
fn load_main(load: &mut Load, stream: &[u8], piece: usize) -> Result<(LoadStatus, usize), Error> {
    let mut all = LoadStatus::default();
    let mut at = 0;
    while at < stream.len() && !all.ended {
        let space = load.space()?;
        let len = space.len().min(piece).min(stream.len() - at);
        space[..len].copy_from_slice(&stream[at..at + len]);
        at += len;
        let status = load.received(len)?;
        all.initial_loaded |= status.initial_loaded;
        all.section_ended |= status.section_ended;
        all.config_ready |= status.config_ready;
        all.ended |= status.ended;
        if status.config {
            assert_eq!(&stream[at..at + BLOB.len()], BLOB);
            at += BLOB.len();
            all.config = true;
        }
    }
    Ok((all, at))
}

#[track_caller]
fn check_refused(target: &Side, error: &Error, code: Code) {
    assert_eq!(error.code(), code, "{error}");
    assert_eq!(target.sim.state(), State::RUNNING, "{error}");
    check_clean(target);
}

// What is written.

#[test]
fn a_save_without_pre_copy_is_written_byte_for_byte() {
    let source = side(stopped_only(1));
    let state = driver_bytes(&source);
    let saved = save_all(&source, saving(Format::Qemu), 1 << 20);
    assert_eq!(saved.rounds, [[SETUP, EOS].concat(), vec![]]);
    assert_eq!(saved.data, [[piece(&state), EOS.to_vec()].concat()]);
    assert_eq!(saved.config, [&CONFIG[..], BLOB, &EOS].concat());
    check_clean(&source);
}

#[test]
fn each_call_in_pre_copy_is_a_section() {
    let source = side(small(1));
    let mut save = source.device.save(saving(Format::Qemu)).unwrap();
    assert_eq!(next(&mut save, 4096), (SaveStatus::More, [SETUP, EOS].concat()));
    let (status, first) = next(&mut save, 4096);
    assert_eq!(status, SaveStatus::More);
    let data = first[16..first.len() - 8].to_vec();
    assert_eq!(first, [piece(&data), EOS.to_vec()].concat());
    assert_eq!(data.len() as u64, source.sim.bytes_read());
    assert_eq!(next(&mut save, 4096), (SaveStatus::Drained, EOS.to_vec()));
    source.sim.guest_write(0, 3000, 5).unwrap();
    assert_eq!(next(&mut save, 4096).0, SaveStatus::More);
    assert_eq!(save.stats().frames, 2);
    assert_eq!(save.stats().precopy_bytes, source.sim.bytes_read());
}

#[test]
fn the_mark_of_initial_data_comes_once_per_generation_and_only_for_switchover_ack() {
    for (ack, once) in [(false, false), (true, false), (true, true)] {
        let source = side(SimOptions { quirks: quirk::PRECOPY_INFO_V2, ..small(1) });
        let options = SaveOptions { switchover_ack: ack, ack_once: once, ..saving(Format::Qemu) };
        let mut save = source.device.save(options).unwrap();
        let (mut ends, mut sent) = (vec![], vec![]);
        for round in 0..6 {
            if round == 3 {
                source.sim.reinit();
            }
            let (_, bytes) = next(&mut save, 4096);
            ends.push(bytes[bytes.len() - 8..].to_vec());
            sent.push(save.pending().unwrap().initial_sent);
        }
        // After the data that completes it; the guest's device starts again in the fourth round.
        let wanted: &[usize] = if !ack {
            &[]
        } else if once {
            &[1]
        } else {
            &[1, 4]
        };
        for (round, end) in ends.iter().enumerate() {
            let tag = if wanted.contains(&round) { &INIT_SENT } else { &EOS };
            assert_eq!(end, tag, "round {round}, ack {ack}, once {once}");
        }
        // What is said about the mark is true of the current generation.
        let said = [false, ack, ack, false, ack && !once, ack && !once];
        assert_eq!(sent, said, "ack {ack}, once {once}");
        assert_eq!(save.pending().unwrap().initial_generation, 2);
    }
}

#[test]
fn data_is_cut_where_the_buffer_or_the_option_says_and_at_a_mebibyte() {
    let big = SimOptions { state_size: (2 << 20) + 777, ..stopped_only(1) };
    let cases: [(u32, usize, usize); 3] =
        [(1 << 20, (1 << 20) + 24, 1 << 20), (1 << 20, 50_000, 50_000 - 24), (700, 1 << 20, 700)];
    for (max_frame, cap, expected) in cases {
        let source = side(big.clone());
        let saved = save_all(&source, SaveOptions { max_frame, ..saving(Format::Qemu) }, cap);
        let (last, whole) = saved.data.split_last().unwrap();
        for bytes in whole {
            assert_eq!(bytes[..16], piece(&vec![0; expected])[..16], "{max_frame} {cap}");
            assert_eq!(bytes.len(), 16 + expected);
        }
        assert_eq!(last[last.len() - 8..], EOS);
    }
}

#[test]
fn packets_count_up_and_the_configuration_is_the_last() {
    let source = side(small(1));
    let mut options = saving(Format::QemuPackets);
    options.max_frame = 1000;
    let saved = save_all(&source, options, 4096);
    assert_eq!(saved.rounds[0], [SETUP, EOS].concat());
    assert_eq!(saved.rounds.last().unwrap(), &EOS);
    let count = saved.data.len() as u32;
    assert!(count > 2);
    for (idx, bytes) in (0..count).zip(&saved.data) {
        assert_eq!(bytes[..12], packet(idx, &[])[..]);
        assert!(bytes.len() <= 1012 && bytes.len() > 12);
    }
    assert_eq!(saved.config, config_packet(count));
    // The same data as on the main channel.
    let plain = save_all(&source, saving(Format::Qemu), 1 << 20);
    let data: Vec<u8> = saved.data.iter().flat_map(|bytes| bytes[12..].to_vec()).collect();
    assert_eq!(plain.data.concat(), [piece(&data), EOS.to_vec()].concat());
}

#[test]
fn the_configuration_is_given_once_after_the_stop_and_must_be_given() {
    for format in [Format::Qemu, Format::QemuPackets] {
        let source = side(small(1));
        let mut save = source.device.save(saving(format)).unwrap();
        assert_eq!(save.blob(0, b"early").unwrap_err().code(), Code::Inval);
        save.stop().unwrap();
        assert_eq!(save.blob(1, b"of a kind").unwrap_err().code(), Code::Inval);
        let mut buf = vec![0; 8192];
        while save.next(&mut buf).unwrap().status != SaveStatus::Drained {}
        // Nothing is lost by asking too early.
        assert_eq!(save.next(&mut buf).unwrap_err().code(), Code::Inval);
        assert_eq!(save.finish(Ending::Release).unwrap_err().code(), Code::Inval);
        let big = vec![7; 9000];
        save.blob(0, &big).unwrap();
        assert_eq!(save.blob(0, b"again").unwrap_err().code(), Code::Inval);
        assert_eq!(save.next(&mut buf).unwrap_err().code(), Code::NoSpace);
        let mut buf = vec![0; 10_000];
        let next = save.next(&mut buf).unwrap();
        assert_eq!(next.status, SaveStatus::End);
        assert_eq!(buf[next.len - 8 - 9000..next.len - 8], big);
        save.finish(Ending::Release).unwrap();
        assert_eq!(source.sim.state(), State::STOP);
        check_clean(&source);
    }
}

#[test]
fn an_empty_configuration_is_two_tags() {
    let source = side(small(1));
    let mut save = source.device.save(saving(Format::Qemu)).unwrap();
    save.stop().unwrap();
    save.blob(0, b"").unwrap();
    loop {
        let (status, bytes) = next(&mut save, 8192);
        if status == SaveStatus::End {
            assert_eq!(bytes, [CONFIG, EOS].concat());
            break;
        }
    }
}

#[test]
fn what_the_format_cannot_carry_is_refused() {
    let source = side(small(1));
    let wrong = [
        SaveOptions { device_index: 1, ..saving(Format::Qemu) },
        SaveOptions { migration_id: [1; 16], ..saving(Format::QemuPackets) },
    ];
    for options in wrong {
        assert_eq!(source.device.save(options).err().unwrap().code(), Code::Inval);
    }
    let asks = || Policy::default().deciding(Box::new(|_, _| Ok(()))).unwrap();
    let wrong = [
        LoadOptions { device_index: Some(0), ..loading(Format::Qemu) },
        LoadOptions { migration_id: Some([1; 16]), ..loading(Format::QemuPackets) },
        LoadOptions { policy: asks(), ..loading(Format::Qemu) },
        LoadOptions {
            policy: Policy::default().with(Field::Driver, Rule::Require).unwrap(),
            ..loading(Format::QemuPackets)
        },
    ];
    for options in wrong {
        assert_eq!(source.device.load(options).err().unwrap().code(), Code::Inval);
    }
    assert_eq!(source.sim.state(), State::RUNNING);
    // But it says nothing against a source that the VMM has told of.
    let told = Some(Box::new(source.device.identity().unwrap()));
    let lenient = Policy::default().with_others(Rule::IfKnown).unwrap();
    let options = LoadOptions { policy: lenient, ..loading(Format::Qemu) };
    drop(source.device.load(options).unwrap());
    let options = LoadOptions { policy: asks(), source: told, ..loading(Format::Qemu) };
    drop(source.device.load(options).unwrap());
    let other = Identity { driver: "mtty".into(), ..source.device.identity().unwrap() };
    let options = LoadOptions { source: Some(Box::new(other)), ..loading(Format::Qemu) };
    assert_eq!(source.device.load(options).err().unwrap().code(), Code::OtherDevice);
}

#[test]
fn a_reset_during_a_save_fails_it_since_nothing_can_say_so() {
    for stopped in [false, true] {
        let source = side(small(1));
        let mut save = source.device.save(saving(Format::Qemu)).unwrap();
        next(&mut save, 4096);
        next(&mut save, 4096);
        if stopped {
            save.stop().unwrap();
        }
        source.sim.guest_reset();
        let mut buf = vec![0; 4096];
        assert_eq!(save.next(&mut buf).unwrap_err().code(), Code::NoDev);
        assert_eq!(save.stats().restarts, 0);
        let _ = save.finish(Ending::Keep);
        assert_eq!(source.sim.state(), State::RUNNING);
        check_clean(&source);
    }
}

#[test]
fn a_reset_before_anything_was_sent_needs_no_saying() {
    for (options, quiesced) in
        [(small(1), false), (stopped_only(1), false), (stopped_only(1), true)]
    {
        let (source, target) = (side(options.clone()), side(SimOptions { seed: 2, ..options }));
        let mut save = source.device.save(saving(Format::Qemu)).unwrap();
        let (_, mut stream) = next(&mut save, 4096);
        if quiesced {
            save.quiesce().unwrap();
        }
        for _ in 0..3 {
            source.sim.guest_reset();
            source.device.was_reset().unwrap();
        }
        if quiesced {
            // Its guest was stopped, so it was not the guest: the VMM must have wanted it.
            source.device.accept_reset().unwrap();
        }
        save.stop().unwrap();
        let mut status = SaveStatus::More;
        while status != SaveStatus::End {
            if status == SaveStatus::Drained {
                save.blob(0, BLOB).unwrap();
            }
            let (now, bytes) = next(&mut save, 4096);
            stream.extend(bytes);
            status = now;
        }
        save.finish(Ending::Release).unwrap();
        let mut load = target.device.load(loading(Format::Qemu)).unwrap();
        let (status, read) = load_main(&mut load, &stream, 4096).unwrap();
        assert!(status.ended && read == stream.len());
        load.commit().unwrap();
        assert_eq!(target.sim.digest(), source.sim.digest());
        for side in [&source, &target] {
            check_clean(side);
        }
    }
}

#[test]
fn a_failed_read_ends_the_save_and_nothing_half_is_returned() {
    for format in [Format::Qemu, Format::QemuPackets] {
        let source = side(SimOptions { max_read: 100, ..small(1) });
        let mut save = source.device.save(saving(format)).unwrap();
        next(&mut save, 4096);
        source.sim.inject(Op::Read, 2, libc::EIO, Effect::Once);
        let mut buf = vec![0; 4096];
        assert_eq!(save.next(&mut buf).unwrap_err().code(), Code::Io);
        assert_eq!(save.next(&mut buf).unwrap_err().code(), Code::Inval);
        save.finish(Ending::Keep).unwrap();
        check_clean(&source);
    }
}

#[test]
fn interrupted_and_false_ends_change_nothing() {
    for quirks in [0, quirk::FALSE_END, quirk::DRAINED_ZERO] {
        let odd = SimOptions { quirks, eintr_every: 2, max_read: 333, ..stopped_only(1) };
        let source = side(stopped_only(1));
        let odd = side(odd);
        let one = save_all(&source, saving(Format::Qemu), 1 << 20);
        let two = save_all(&odd, saving(Format::Qemu), 1 << 20);
        assert_eq!(main_channel(&one), main_channel(&two));
    }
}

// What is read.

#[test]
fn a_round_trip_in_every_split() {
    let source = side(small(1));
    let options = SaveOptions { switchover_ack: true, max_frame: 900, ..saving(Format::Qemu) };
    let stream = main_channel(&save_all(&source, options, 4096));
    for split in (1..200).chain([500, 1000, usize::MAX]) {
        let target = side(small(2));
        let mut load = target.device.load(loading(Format::Qemu)).unwrap();
        let (status, read) = load_main(&mut load, &stream, split).unwrap();
        assert!(status.ended && status.config && status.initial_loaded && status.section_ended);
        assert_eq!(read, stream.len());
        assert_eq!(load.stats().stream_bytes, (stream.len() - BLOB.len()) as u64);
        load.commit().unwrap();
        assert_eq!(source.sim.digest(), target.sim.digest());
        target.device.run().unwrap();
        check_clean(&target);
    }
}

#[test]
fn pushing_in_two_pieces_cut_anywhere_gives_the_same() {
    let source = side(small(1));
    let saved = save_all(&source, saving(Format::Qemu), 4096);
    let before = up_to_config(&saved);
    for cut in 0..=before.len() {
        let target = side(small(2));
        let mut load = target.device.load(loading(Format::Qemu)).unwrap();
        let one = load.push(&before[..cut]).unwrap();
        let two = load.push(&before[cut..]).unwrap();
        assert_eq!(one.config as u8 + two.config as u8, 1);
        assert!(!one.ended && !two.ended);
        let end = load.push(&EOS).unwrap();
        assert!(end.ended && end.section_ended);
        load.commit().unwrap();
        assert_eq!(source.sim.digest(), target.sim.digest());
    }
}

#[test]
fn there_is_never_room_for_a_byte_of_somebody_elses() {
    let source = side(small(1));
    let saved = save_all(&source, saving(Format::Qemu), 4096);
    let target = side(small(2));
    let mut load = target.device.load(loading(Format::Qemu)).unwrap();
    // One section at a time, with what follows it out of reach.
    for section in saved.rounds.iter().chain([&saved.data.concat()]) {
        let mut at = 0;
        let mut ended = false;
        while at < section.len() {
            assert!(!ended);
            let space = load.space().unwrap();
            let len = space.len();
            assert!(len > 0 && at + len <= section.len(), "{at} + {len} of {}", section.len());
            space.copy_from_slice(&section[at..at + len]);
            ended = load.received(len).unwrap().section_ended;
            at += len;
        }
        assert!(ended || section.is_empty());
    }
    assert_eq!(load.space().unwrap().len(), 8);
    load.push(&CONFIG).unwrap();
    assert_eq!(load.space().unwrap().len(), 8);
    load.push(&EOS[..3]).unwrap();
    assert_eq!(load.space().unwrap().len(), 5);
    assert!(load.push(&EOS[3..]).unwrap().ended);
    assert_eq!(load.space().unwrap_err().code(), Code::Inval);
    assert_eq!(load.received(1).unwrap_err().code(), Code::Inval);
    load.commit().unwrap();
}

#[test]
fn what_stock_qemu_never_writes_is_refused() {
    let begin = [SETUP, EOS].concat();
    let with = |parts: &[&[u8]]| [&begin[..], &parts.concat()].concat();
    let one = piece(b"x");
    let streams: Vec<(&str, Vec<u8>)> = vec![
        ("no setup", EOS.to_vec()),
        ("data before setup", one.clone()),
        ("configuration before setup", CONFIG.to_vec()),
        ("a second setup", with(&[&SETUP])),
        ("setup with data in it", [&SETUP[..], &one].concat()),
        ("setup within a section", with(&[&one, &SETUP])),
        ("an unknown tag", with(&[&[0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0, 0]])),
        ("a tag of tomorrow", with(&[&[0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0, 7]])),
        ("a flipped tag", with(&[&[0x7f, 0xff, 0xff, 0xff, 0xef, 0x10, 0, 1]])),
        ("an empty piece", with(&[&DATA, &[0; 8]])),
        ("configuration within a section", with(&[&one, &CONFIG])),
        ("a second configuration", with(&[&CONFIG, &EOS, &CONFIG])),
        ("data instead of the configuration's end", with(&[&CONFIG, &DATA])),
        ("data behind the configuration", with(&[&CONFIG, &EOS, &one])),
        ("a section behind the configuration", with(&[&CONFIG, &EOS, &EOS])),
        ("a load-ready mark without packets", with(&[&LOAD_READY])),
        ("the native format", b"\x89VFIOMIG\x01\0\0\0".to_vec()),
    ];
    for (what, stream) in streams {
        for split in [1, 3, 8, usize::MAX] {
            let target = side(small(2));
            let mut load = target.device.load(loading(Format::Qemu)).unwrap();
            // The configuration, which is empty, ends a push.
            let pieces = stream.chunks(8).flat_map(|piece| piece.chunks(split.min(8)));
            let error = pieces.map(|piece| load.push(piece)).find_map(Result::err);
            let error = error.unwrap_or_else(|| panic!("{what}"));
            check_refused(&target, &error, Code::Proto);
            assert_eq!(error.failure().unwrap().operation, Operation::Stream, "{what}");
            assert_eq!(load.push(&EOS).unwrap_err().code(), Code::Inval);
            assert_eq!(load.commit().unwrap_err().code(), Code::Inval);
        }
    }
}

#[test]
fn bytes_taken_from_the_vmms_own_part_are_refused() {
    let target = side(small(2));
    let mut load = target.device.load(loading(Format::Qemu)).unwrap();
    let error = load.push(&[&SETUP[..], &EOS, &CONFIG, b"v"].concat()).unwrap_err();
    check_refused(&target, &error, Code::Proto);
}

#[test]
fn a_stream_without_its_end_is_not_committed() {
    let source = side(small(1));
    let saved = save_all(&source, saving(Format::Qemu), 4096);
    let stream = up_to_config(&saved);
    for len in 0..=stream.len() {
        let target = side(SimOptions { quirks: quirk::STOP_ACCEPTS_ALL, ..small(2) });
        let mut load = target.device.load(loading(Format::Qemu)).unwrap();
        assert!(!load.push(&stream[..len]).unwrap().ended);
        check_refused(&target, &load.commit().unwrap_err(), Code::NoData);
    }
    // Nor is one that has its end and nothing else.
    let target = side(SimOptions { quirks: quirk::STOP_ACCEPTS_ALL, ..small(2) });
    let mut load = target.device.load(loading(Format::Qemu)).unwrap();
    load.push(&[SETUP, EOS, CONFIG].concat()).unwrap();
    assert!(load.push(&EOS).unwrap().ended);
    check_refused(&target, &load.commit().unwrap_err(), Code::NoData);
}

#[test]
fn lengths_are_judged_before_any_of_their_bytes_come() {
    for (len, most) in [(1001u64, 1000u64), (u64::MAX, 1 << 40), (1 << 63, u64::MAX >> 1)] {
        let target = side(small(2));
        let mut options = loading(Format::Qemu);
        options.limits.max_total = most;
        let mut load = target.device.load(options).unwrap();
        let head = [&SETUP[..], &EOS, &DATA, &len.to_be_bytes()].concat();
        check_refused(&target, &load.push(&head).unwrap_err(), Code::MsgSize);
    }
    // The limit is for all of them together, not for each.
    let target = side(small(2));
    let mut options = loading(Format::Qemu);
    options.limits.max_total = 1000;
    let mut load = target.device.load(options).unwrap();
    let source = side(small(1));
    let state = driver_bytes(&source);
    load.push(&[&SETUP[..], &EOS, &piece(&state[..600])].concat()).unwrap();
    let error = load.push(&piece(&state[600..1001])).unwrap_err();
    check_refused(&target, &error, Code::MsgSize);
    assert_eq!(load.stats().data_bytes, 600);
    // An announced length costs only as much memory as is received at once.
    let target = side(small(2));
    let mut load = target.device.load(loading(Format::Qemu)).unwrap();
    load.push(&[&SETUP[..], &EOS, &DATA, &(1u64 << 39).to_be_bytes()].concat()).unwrap();
    assert_eq!(load.space().unwrap().len(), 1 << 20);
}

#[test]
fn a_driver_that_takes_nothing_is_an_error_and_interruptions_are_none() {
    let source = side(small(1));
    let stream = main_channel(&save_all(&source, saving(Format::Qemu), 4096));
    let target = side(SimOptions { quirks: quirk::WRITE_ZERO, ..small(2) });
    let mut load = target.device.load(loading(Format::Qemu)).unwrap();
    let error = load_main(&mut load, &stream, usize::MAX).unwrap_err();
    check_refused(&target, &error, Code::Io);
    let quirks = quirk::WRITE_EAGAIN;
    let target = side(SimOptions { quirks, eintr_every: 2, max_write: 90, ..small(2) });
    let mut load = target.device.load(loading(Format::Qemu)).unwrap();
    load_main(&mut load, &stream, usize::MAX).unwrap();
    load.commit().unwrap();
    assert_eq!(source.sim.digest(), target.sim.digest());
}

/// Every other read and write is interrupted by a signal, as it is with file descriptors.
#[derive(Default)]
struct Signals(u32);

impl Signals {
    fn interrupted(&mut self) -> Result<(), Errno> {
        self.0 += 1;
        if self.0 % 2 == 0 { Ok(()) } else { Err(Errno(libc::EINTR)) }
    }
}

impl Twist for Signals {
    fn data_read(
        &mut self,
        device: &mut OpsTransport,
        data: DataFd,
        buf: &mut [u8],
    ) -> Result<usize, Errno> {
        self.interrupted()?;
        device.data_read(data, buf)
    }

    fn data_write(
        &mut self,
        device: &mut OpsTransport,
        data: DataFd,
        buf: &[u8],
    ) -> Result<usize, Errno> {
        self.interrupted()?;
        device.data_write(data, buf)
    }
}

#[test]
fn what_a_signal_interrupts_is_tried_again() {
    let signals = |options: SimOptions| {
        let options = SimOptions { max_read: 500, max_write: 500, ..options };
        twisted_side(options, Signals::default())
    };
    let (source, target) = (signals(small(1)), signals(small(2)));
    let stream = main_channel(&save_all(&source, saving(Format::Qemu), 4096));
    let mut load = target.device.load(loading(Format::Qemu)).unwrap();
    load_main(&mut load, &stream, usize::MAX).unwrap();
    load.commit().unwrap();
    assert_eq!(source.sim.digest(), target.sim.digest());
    let (source, target) = (signals(stopped_only(1)), signals(stopped_only(2)));
    let saved = save_all(&source, saving(Format::QemuPackets), 4096);
    let (mut load, packets) = packet_load(&target, loading(Format::QemuPackets));
    for bytes in saved.data.iter().chain([&saved.config]) {
        packets.submit(bytes).unwrap();
    }
    packets.run().unwrap();
    load.commit().unwrap();
    assert_eq!(source.sim.digest(), target.sim.digest());
}

// Packets.

/// A load with packets whose main channel has come as far as the switchover.
fn packet_load(target: &Side, options: LoadOptions) -> (Load, Packets) {
    let mut load = target.device.load(options).unwrap();
    let packets = load.packets().unwrap();
    load.push(&[SETUP, EOS].concat()).unwrap();
    (load, packets)
}

/// Packets of a stopped device's state, the configuration last.
fn packets_of(state: &[u8], len: usize) -> Vec<Vec<u8>> {
    let mut out: Vec<Vec<u8>> =
        (0..).zip(state.chunks(len)).map(|(idx, data)| packet(idx, data)).collect();
    out.push(config_packet(out.len() as u32));
    out
}

#[test]
fn packets_arrive_in_any_order() {
    let source = side(stopped_only(1));
    let all = packets_of(&driver_bytes(&source), 50);
    let mut seed = 1u64;
    for round in 0..50 {
        let mut order: Vec<usize> = (0..all.len()).collect();
        match round {
            0 => {}
            1 => order.reverse(),
            _ => {
                for i in (1..order.len()).rev() {
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    order.swap(i, (seed >> 33) as usize % (i + 1));
                }
            }
        }
        let target = side(stopped_only(2));
        let (mut load, packets) = packet_load(&target, loading(Format::QemuPackets));
        std::thread::scope(|scope| {
            let runner = scope.spawn(|| packets.run());
            for i in order {
                packets.submit(&all[i]).unwrap();
            }
            runner.join().unwrap().unwrap();
        });
        let end = load.push(&EOS).unwrap();
        assert!(end.section_ended && !end.ended);
        let stats = load.stats();
        assert_eq!((stats.packets, stats.blobs), (all.len() as u64, 1));
        load.commit().unwrap();
        assert_eq!(source.sim.digest(), target.sim.digest());
        check_clean(&target);
    }
}

#[test]
fn many_threads_bring_packets_and_the_queue_stays_within_its_quota() {
    const THREADS: usize = 6;
    let options = SimOptions { state_size: 1 << 20, ..stopped_only(1) };
    let source = side(options.clone());
    let mut save = saving(Format::QemuPackets);
    save.max_frame = 1000;
    let saved = save_all(&source, save, 4096);
    let mut all = saved.data;
    all.push(saved.config);
    let target = side(SimOptions { seed: 2, ..options });
    let mut loading = loading(Format::QemuPackets);
    loading.max_queued = 20_000;
    loading.write_timeout = Duration::from_secs(60);
    let (mut load, packets) = packet_load(&target, loading);
    let worst = AtomicU32::new(0);
    let begin = Barrier::new(THREADS + 1);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (packets, all, begin, worst, load) =
                (&packets, &all, &begin, &worst, load.shared());
            scope.spawn(move || {
                begin.wait();
                for bytes in all.iter().skip(thread).step_by(THREADS) {
                    packets.submit(bytes).unwrap();
                    let queued = load.stats().queued_bytes;
                    worst.fetch_max(queued as u32, Ordering::Relaxed);
                }
            });
        }
        begin.wait();
        // Let the queue fill before anything is taken out of it. If it does not, the threads give
        // up.
        while worst.load(Ordering::Relaxed) < 15_000 && load.failure().is_none() {
            worst.fetch_max(load.stats().queued_bytes as u32, Ordering::Relaxed);
            std::thread::yield_now();
        }
        packets.run().unwrap();
    });
    load.commit().unwrap();
    assert_eq!(source.sim.digest(), target.sim.digest());
    assert_eq!(load.stats().packets, all.len() as u64);
    let worst = u64::from(worst.into_inner());
    // Two packets may come beyond it: one that is written, and the next in order.
    assert!((15_000..=20_000 + 2 * 1128).contains(&worst), "{worst}");
    assert_eq!(load.stats().queued_bytes, 0);
}

#[test]
fn packets_that_cannot_be_are_refused_at_once() {
    let unframed = raw_packet(0, 1, 1, b"no tags, but long enough for them");
    let half = raw_packet(0, 1, 1, &[&CONFIG[..], BLOB].concat());
    let wrong: Vec<(&str, Vec<Vec<u8>>, Code)> = vec![
        ("nothing", vec![vec![]], Code::Proto),
        ("less than a head", vec![packet(0, b"")[..11].to_vec()], Code::Proto),
        ("no data", vec![packet(0, b"")], Code::Proto),
        ("version 1", vec![raw_packet(1, 0, 0, b"x")], Code::Proto),
        ("flag 2", vec![raw_packet(0, 0, 2, b"x")], Code::Proto),
        ("flags 3", vec![raw_packet(0, 0, 3, &config_packet(0)[12..])], Code::Proto),
        ("the same twice", vec![packet(5, b"x"), packet(5, b"x")], Code::Proto),
        ("the last number", vec![packet(u32::MAX, b"x")], Code::MsgSize),
        ("4 billion ahead", vec![packet(u32::MAX - 1, b"x")], Code::MsgSize),
        ("too far ahead", vec![packet(101, b"x")], Code::MsgSize),
        ("a configuration 4 billion ahead", vec![config_packet(u32::MAX - 1)], Code::MsgSize),
        ("too long", vec![packet(0, &[0; 1001])], Code::MsgSize),
        (
            "too long a configuration",
            vec![raw_packet(0, 0, 1, &[&CONFIG[..], &[0; 501], &EOS].concat())],
            Code::MsgSize,
        ),
        (
            "too much in all",
            vec![packet(0, &[0; 1000]), packet(1, &[0; 1000]), packet(2, b"x")],
            Code::MsgSize,
        ),
        ("a configuration without tags", vec![unframed], Code::Proto),
        ("a configuration without its end", vec![half], Code::Proto),
        ("an empty configuration packet", vec![raw_packet(0, 0, 1, &[])], Code::Proto),
        ("tags that overlap", vec![raw_packet(0, 0, 1, &CONFIG)], Code::Proto),
        ("a second configuration", vec![config_packet(7), config_packet(8)], Code::Proto),
        ("a second configuration, lower", vec![config_packet(7), config_packet(6)], Code::Proto),
        ("an early configuration", vec![packet(8, b"x"), config_packet(7)], Code::Proto),
        ("data behind the configuration", vec![config_packet(7), packet(8, b"x")], Code::Proto),
    ];
    for (what, sent, code) in wrong {
        for running in [false, true] {
            let (last, good) = sent.split_last().unwrap();
            if running && good.iter().any(|bytes| bytes[7] == 0) {
                // What is next in order goes to the driver, which refuses what it never gave.
                continue;
            }
            let target = side(small(2));
            let mut options = loading(Format::QemuPackets);
            options.max_ahead = 100;
            options.limits = DecodeLimits {
                max_frame: 1000,
                max_blob: 500,
                max_total: 2000,
                ..DecodeLimits::default()
            };
            let (mut load, packets) = packet_load(&target, options);
            std::thread::scope(|scope| {
                let runner = running.then(|| scope.spawn(|| packets.run()));
                for bytes in good {
                    packets.submit(bytes).unwrap();
                }
                let refused = packets.submit(last);
                if refused.is_ok() {
                    load.shared().cancel();
                }
                let error = refused.unwrap_err();
                check_refused(&target, &error, code);
                // The thread that waits is told the same, and so is anyone who comes later.
                if let Some(runner) = runner {
                    assert_eq!(runner.join().unwrap().unwrap_err().code(), code, "{what}");
                }
                assert_eq!(packets.submit(&packet(0, b"x")).unwrap_err().code(), code);
                assert_eq!(packets.run().unwrap_err().code(), code);
            });
            // The main channel's thread as well.
            assert_eq!(load.push(&EOS).unwrap_err().code(), code, "{what}");
            assert_eq!(load.commit().unwrap_err().code(), code);
            assert_eq!(load.failure().unwrap().outcome, Outcome::Reset);
            drop(load);
            assert_eq!(target.sim.state(), State::RUNNING);
            check_clean(&target);
        }
    }
}

#[test]
fn data_on_the_main_channel_is_refused_while_packets_are_written() {
    let state = driver_bytes(&side(small(1)));
    let target = side(small(2));
    let (mut load, packets) = packet_load(&target, loading(Format::QemuPackets));
    // Packets may overtake the main channel's last data, which is not an error yet.
    packets.submit(&packet(0, &state[200..300])).unwrap();
    let halves = piece(&state[..200]);
    load.push(&halves[..100]).unwrap();
    load.push(&[&halves[100..], &EOS].concat()).unwrap();
    assert_eq!(target.sim.bytes_written(), 200);
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| packets.run());
        while target.sim.bytes_written() < 300 {
            assert!(!runner.is_finished());
            std::thread::yield_now();
        }
        let pushed = load.push(&piece(&state[300..400]));
        load.shared().cancel();
        let error = pushed.unwrap_err();
        check_refused(&target, &error, Code::Proto);
        assert!(error.message().contains("main channel"), "{error}");
        assert_eq!(target.sim.bytes_written(), 300);
        assert_eq!(runner.join().unwrap().unwrap_err().code(), Code::Proto);
    });
}

#[test]
fn packets_are_loaded_behind_whole_sections_of_the_main_channel_only() {
    let source = side(stopped_only(1));
    let state = driver_bytes(&source);
    let all = packets_of(&state, 500);
    let unfinished: [&[&[u8]]; 6] = [
        &[],
        &[&SETUP],
        &[&SETUP, &EOS, &DATA],
        &[&SETUP, &EOS, &DATA, &100u64.to_be_bytes()],
        &[&SETUP, &EOS, &DATA, &100u64.to_be_bytes(), &state[..50]],
        &[&SETUP, &EOS, &DATA, &100u64.to_be_bytes(), &state[..100]],
    ];
    for parts in unfinished {
        let target = side(SimOptions { quirks: quirk::STOP_ACCEPTS_ALL, ..stopped_only(2) });
        let mut load = target.device.load(loading(Format::QemuPackets)).unwrap();
        let packets = load.packets().unwrap();
        if !parts.is_empty() {
            load.push(&parts.concat()).unwrap();
        }
        let written = target.sim.bytes_written();
        for bytes in &all {
            packets.submit(bytes).unwrap();
        }
        check_refused(&target, &packets.run().unwrap_err(), Code::Proto);
        assert_eq!(target.sim.bytes_written(), written);
        assert_eq!(load.commit().unwrap_err().code(), Code::Proto);
    }
    // Nor is it cut short after them.
    let target = side(stopped_only(2));
    let (mut load, packets) = packet_load(&target, loading(Format::QemuPackets));
    for bytes in &all {
        packets.submit(bytes).unwrap();
    }
    packets.run().unwrap();
    load.push(&[&DATA[..], &100u64.to_be_bytes()].concat()).unwrap();
    check_refused(&target, &load.commit().unwrap_err(), Code::NoData);
}

#[test]
fn a_main_channel_with_packets_has_no_configuration_and_one_load_ready_mark() {
    let target = side(small(2));
    let (mut load, _) = packet_load(&target, loading(Format::QemuPackets));
    check_refused(&target, &load.push(&CONFIG).unwrap_err(), Code::Proto);
    for behind in [LOAD_READY, EOS, DATA] {
        let target = side(small(2));
        let (mut load, _) = packet_load(&target, loading(Format::QemuPackets));
        assert!(!load.push(&EOS).unwrap().config_ready);
        let ready = load.push(&LOAD_READY).unwrap();
        assert!(ready.config_ready && ready.section_ended && !ready.ended);
        check_refused(&target, &load.push(&behind).unwrap_err(), Code::Proto);
    }
}

/// QEMU's thread that loads packets knows nothing of the main channel: it commits when it is done.
#[test]
fn the_main_channels_last_sections_may_come_after_the_commit_and_carry_nothing() {
    let source = side(stopped_only(1));
    let all = packets_of(&driver_bytes(&source), 500);
    for behind in [vec![LOAD_READY], vec![EOS, EOS], vec![EOS, LOAD_READY]] {
        let target = side(stopped_only(2));
        let (mut load, packets) = packet_load(&target, loading(Format::QemuPackets));
        all.iter().for_each(|bytes| packets.submit(bytes).unwrap());
        packets.run().unwrap();
        load.commit().unwrap();
        // A cancellation is too late.
        load.shared().cancel();
        let (status, _) = load_main(&mut load, &behind.concat(), 8).unwrap();
        assert!(status.section_ended);
        assert_eq!(status.config_ready, behind.contains(&LOAD_READY));
        // Data is refused, and what was committed stays.
        assert_eq!(load.push(&piece(b"x")).unwrap_err().code(), Code::Proto);
        assert_eq!(target.sim.state(), State::STOP);
        assert_eq!(source.sim.digest(), target.sim.digest());
        check_clean(&target);
    }
    // The device no longer belongs to the load, so what is done with it in the meantime does not
    // matter.
    let target = side(stopped_only(2));
    let (mut load, packets) = packet_load(&target, loading(Format::QemuPackets));
    all.iter().for_each(|bytes| packets.submit(bytes).unwrap());
    packets.run().unwrap();
    load.commit().unwrap();
    target.device.reset().unwrap();
    assert!(load.push(&EOS).unwrap().section_ended);
    // Without packets nothing comes after the commit.
    let target = side(stopped_only(2));
    let mut load = target.device.load(loading(Format::Qemu)).unwrap();
    let saved = save_all(&side(stopped_only(1)), saving(Format::Qemu), 4096);
    load_main(&mut load, &main_channel(&saved), 8).unwrap();
    load.commit().unwrap();
    assert_eq!(load.push(&EOS).unwrap_err().code(), Code::Inval);
    assert_eq!(load.space().unwrap_err().code(), Code::Inval);
    assert_eq!(load.received(0).unwrap_err().code(), Code::Inval);
}

#[test]
fn nothing_is_committed_before_the_configuration_has_come() {
    let source = side(stopped_only(1));
    let all = packets_of(&driver_bytes(&source), 500);
    let target = side(SimOptions { quirks: quirk::STOP_ACCEPTS_ALL, ..stopped_only(2) });
    let (mut load, packets) = packet_load(&target, loading(Format::QemuPackets));
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| packets.run());
        for bytes in &all[..all.len() - 1] {
            packets.submit(bytes).unwrap();
        }
        check_refused(&target, &load.commit().unwrap_err(), Code::NoData);
        assert_eq!(runner.join().unwrap().unwrap_err().code(), Code::NoData);
    });
}

#[test]
fn a_configuration_alone_is_no_device() {
    let target = side(SimOptions { quirks: quirk::STOP_ACCEPTS_ALL, ..stopped_only(2) });
    let (mut load, packets) = packet_load(&target, loading(Format::QemuPackets));
    packets.submit(&config_packet(0)).unwrap();
    packets.run().unwrap();
    check_refused(&target, &load.commit().unwrap_err(), Code::NoData);
}

#[test]
fn the_packets_are_loaded_once_and_by_one_thread() {
    let source = side(stopped_only(1));
    let all = packets_of(&driver_bytes(&source), 500);
    let target = side(stopped_only(2));
    let (mut load, packets) = packet_load(&target, loading(Format::QemuPackets));
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| packets.run());
        packets.submit(&all[0]).unwrap();
        // Only the thread that loads the packets writes them.
        while target.sim.bytes_written() == 0 {
            std::thread::yield_now();
        }
        assert!(packets.in_use());
        // Refused without harm.
        assert_eq!(packets.run().unwrap_err().code(), Code::Inval);
        for bytes in &all[1..] {
            packets.submit(bytes).unwrap();
        }
        runner.join().unwrap().unwrap();
    });
    assert_eq!(packets.run().unwrap_err().code(), Code::Inval);
    load.commit().unwrap();
    assert_eq!(packets.submit(&all[0]).unwrap_err().code(), Code::Inval);
    assert_eq!(target.sim.state(), State::STOP);
    assert_eq!(source.sim.digest(), target.sim.digest());
}

#[test]
fn a_load_without_packets_has_no_way_in_for_them() {
    for format in [Format::Native, Format::Qemu] {
        let target = side(small(2));
        let load = target.device.load(loading(format)).unwrap();
        assert!(load.packets().is_none() && load.shared().packets().is_none());
    }
}

#[test]
fn the_drivers_error_reaches_every_thread() {
    let source = side(stopped_only(1));
    let all = packets_of(&driver_bytes(&source), 100);
    for (quirks, errno, code) in [
        (quirk::WRITE_ZERO, 0, Code::Io),
        (0, libc::ENOMEM, Code::NoMem),
        (0, libc::EINVAL, Code::Inval),
    ] {
        let target = side(SimOptions { quirks, ..stopped_only(2) });
        if errno != 0 {
            target.sim.inject(Op::Write, 5, errno, Effect::Once);
        }
        let mut options = loading(Format::QemuPackets);
        options.max_queued = 500;
        options.write_timeout = Duration::from_secs(120);
        let (load, packets) = packet_load(&target, options);
        let start = Instant::now();
        std::thread::scope(|scope| {
            let submitters: Vec<_> = (0..4)
                .map(|thread| {
                    let (all, packets) = (&all, &packets);
                    scope.spawn(move || {
                        all.iter().skip(thread).step_by(4).try_for_each(|p| packets.submit(p))
                    })
                })
                .collect();
            let error = packets.run().unwrap_err();
            check_refused(&target, &error, code);
            assert_eq!(error.failure().unwrap().operation, Operation::DataWrite);
            let told: Vec<_> =
                submitters.into_iter().filter_map(|t| t.join().unwrap().err()).collect();
            // The queue holds five of thirty: all of them were still busy.
            assert_eq!(told.len(), 4);
            assert!(told.iter().all(|error| error.code() == code));
        });
        assert!(start.elapsed() < Duration::from_secs(50));
        assert_eq!(load.failure().unwrap().outcome, Outcome::Reset);
    }
}

#[test]
fn the_vmm_may_refuse_the_configuration_and_must_be_there_to_take_it() {
    let source = side(stopped_only(1));
    let all = packets_of(&driver_bytes(&source), 500);
    let refusing: Option<vfiomig::session::BlobSink> =
        Some(Box::new(|_, _| Err(Errno(libc::EPERM))));
    for (sink, code, operation) in
        [(refusing, Code::Perm, Operation::Callback), (None, Code::NotSupported, Operation::Stream)]
    {
        let target = side(stopped_only(2));
        let mut options = loading(Format::QemuPackets);
        options.blobs = sink;
        let (load, packets) = packet_load(&target, options);
        for bytes in &all {
            packets.submit(bytes).unwrap();
        }
        check_refused(&target, &packets.run().unwrap_err(), code);
        assert_eq!(load.failure().unwrap().operation, operation);
    }
}

#[test]
fn the_configuration_is_handed_over_with_no_lock_held() {
    let source = side(stopped_only(1));
    let all = packets_of(&driver_bytes(&source), 500);
    let target = Arc::new(side(stopped_only(2)));
    let mut options = loading(Format::QemuPackets);
    let (device, seen) = (target.device.clone(), Arc::new(Mutex::new(None)));
    let told = Arc::clone(&seen);
    options.blobs = Some(Box::new(move |_, _| {
        *told.lock().unwrap() = Some(device.state());
        Ok(())
    }));
    let (_load, packets) = packet_load(&target, options);
    for bytes in &all {
        packets.submit(bytes).unwrap();
    }
    packets.run().unwrap();
    let seen = seen.lock().unwrap().take();
    assert_eq!(seen.unwrap().unwrap(), vfiomig::device::State::Resuming);
}

#[test]
fn cancelling_ends_what_waits() {
    let start = Instant::now();
    // For the next packet, and for room.
    let target = side(small(2));
    let mut options = loading(Format::QemuPackets);
    options.max_queued = 200;
    options.write_timeout = Duration::from_secs(60);
    let (load, packets) = packet_load(&target, options);
    packets.submit(&packet(2, &[0; 50])).unwrap();
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| packets.run());
        let submitter = scope.spawn(|| packets.submit(&packet(3, &[0; 50])));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!runner.is_finished() && !submitter.is_finished());
        load.shared().cancel();
        assert_eq!(submitter.join().unwrap().unwrap_err().code(), Code::Cancelled);
        check_refused(&target, &runner.join().unwrap().unwrap_err(), Code::Cancelled);
    });
    // Before anything waits.
    let target = side(small(2));
    let (load, packets) = packet_load(&target, loading(Format::QemuPackets));
    load.shared().cancel();
    check_refused(&target, &packets.run().unwrap_err(), Code::Cancelled);
    // In the driver's write, which would take a minute.
    let slow = SimOptions { write_rate: 1 << 14, max_write: 64, ..stopped_only(2) };
    let target = side(SimOptions { state_size: 1 << 20, ..slow });
    let state = vec![0; 1 << 20];
    let (load, packets) = packet_load(&target, loading(Format::QemuPackets));
    let source = side(SimOptions { state_size: 1 << 20, ..stopped_only(1) });
    let first = save_all(&source, saving(Format::QemuPackets), state.len() + 100).data.remove(0);
    packets.submit(&first).unwrap();
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| packets.run());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!runner.is_finished());
        load.shared().cancel();
        check_refused(&target, &runner.join().unwrap().unwrap_err(), Code::Cancelled);
    });
    assert!(target.sim.bytes_written() < 1 << 19);
    assert!(start.elapsed() < Duration::from_secs(50));
}

#[test]
fn letting_a_load_go_ends_what_waits_and_resets_the_device() {
    let target = side(small(2));
    let released = Arc::new(());
    let mut options = loading(Format::QemuPackets);
    options.max_queued = 200;
    options.write_timeout = Duration::from_secs(60);
    let held = Arc::clone(&released);
    options.blobs = Some(Box::new(move |_, _| {
        let _ = &held;
        Ok(())
    }));
    let (load, packets) = packet_load(&target, options);
    packets.submit(&packet(2, &[0; 50])).unwrap();
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| packets.run());
        let submitter = scope.spawn(|| packets.submit(&packet(3, &[0; 50])));
        std::thread::sleep(Duration::from_millis(50));
        drop(load);
        // The callback is gone with it, not with the last thread.
        assert_eq!(Arc::strong_count(&released), 1);
        assert!(!packets.in_use());
        assert_eq!(target.sim.state(), State::RUNNING);
        assert_eq!(runner.join().unwrap().unwrap_err().code(), Code::Cancelled);
        assert_eq!(submitter.join().unwrap().unwrap_err().code(), Code::Cancelled);
        assert_eq!(packets.submit(&packet(0, b"x")).unwrap_err().code(), Code::Cancelled);
    });
    // The device is free for the next session, which the old threads cannot touch.
    let load = target.device.load(loading(Format::Qemu)).unwrap();
    assert!(packets.run().is_err());
    assert_eq!(target.sim.state(), State::RESUMING);
    drop(load);
    check_clean(&target);
}

#[test]
fn no_room_and_nobody_who_makes_any_is_given_up() {
    let target = side(small(2));
    let mut options = loading(Format::QemuPackets);
    options.max_queued = 400;
    let (load, packets) = packet_load(&target, options);
    packets.submit(&packet(1, &[0; 50])).unwrap();
    packets.submit(&packet(2, &[0; 50])).unwrap();
    assert_eq!(load.stats().queued_bytes, 2 * 178);
    check_refused(&target, &packets.submit(&packet(3, &[0; 50])).unwrap_err(), Code::TimedOut);
    assert_eq!(load.stats().queued_bytes, 0);
    assert_eq!(load.failure().unwrap().outcome, Outcome::Reset);
    // The next in order always has room, whatever is queued.
    let target = side(small(2));
    let mut options = loading(Format::QemuPackets);
    options.max_queued = 1;
    let (_load, packets) = packet_load(&target, options);
    packets.submit(&packet(0, &[0; 900])).unwrap();
    check_refused(&target, &packets.submit(&packet(1, &[0; 50])).unwrap_err(), Code::TimedOut);
}

#[test]
fn a_slow_driver_is_waited_for_as_long_as_it_takes_anything() {
    let source = side(SimOptions { state_size: 40_000, ..stopped_only(1) });
    let all = packets_of(&driver_bytes(&source), 20_100);
    let slow = SimOptions { write_rate: 7_000, max_write: 500, ..stopped_only(2) };
    let target = side(SimOptions { state_size: 40_000, ..slow });
    let mut options = loading(Format::QemuPackets);
    options.write_timeout = Duration::from_secs(2);
    options.max_queued = 1;
    let (mut load, packets) = packet_load(&target, options);
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| packets.run());
        // The last one waits for longer than the timeout, for each of the others.
        for bytes in &all {
            packets.submit(bytes).unwrap();
        }
        runner.join().unwrap().unwrap();
    });
    load.commit().unwrap();
    assert_eq!(source.sim.digest(), target.sim.digest());
}

#[test]
fn a_reset_behind_the_librarys_back_ends_the_load() {
    let source = side(stopped_only(1));
    let all = packets_of(&driver_bytes(&source), 100);
    let target = side(stopped_only(2));
    let (_load, packets) = packet_load(&target, loading(Format::QemuPackets));
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| packets.run());
        packets.submit(&all[0]).unwrap();
        while target.sim.bytes_written() == 0 {
            assert!(!runner.is_finished());
            std::thread::yield_now();
        }
        target.device.reset().unwrap();
        let _ = packets.submit(&all[1]);
        let error = runner.join().unwrap().unwrap_err();
        check_refused(&target, &error, Code::NoDev);
        // The driver was no longer asked to take anything.
        assert_eq!(error.failure().unwrap().operation, Operation::Stream);
    });
}

#[test]
fn the_thread_inside_the_driver_is_told_why_it_was_stopped() {
    let options = SimOptions { state_size: 1 << 20, ..stopped_only(1) };
    let source = side(options.clone());
    let first = save_all(&source, saving(Format::QemuPackets), 2 << 20).data.remove(0);
    let target =
        side(SimOptions { seed: 2, write_rate: 1 << 16, max_write: 64, ..options.clone() });
    let (load, packets) = packet_load(&target, loading(Format::QemuPackets));
    packets.submit(&first).unwrap();
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| packets.run());
        while target.sim.bytes_written() == 0 {
            assert!(!runner.is_finished());
            std::thread::yield_now();
        }
        let refused = packets.submit(&packet(9, b""));
        if refused.is_ok() {
            load.shared().cancel();
        }
        assert_eq!(refused.unwrap_err().code(), Code::Proto);
        check_refused(&target, &runner.join().unwrap().unwrap_err(), Code::Proto);
    });
    assert_eq!(load.failure().unwrap().code, Some(Code::Proto));
}

#[test]
fn a_thread_of_a_load_that_failed_does_not_touch_the_next_one() {
    let source = side(stopped_only(1));
    let all = packets_of(&driver_bytes(&source), 500);
    let target = side(stopped_only(2));
    let (entered, go_on) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let mut options = loading(Format::QemuPackets);
    let gates = (Arc::clone(&entered), Arc::clone(&go_on));
    options.blobs = Some(Box::new(move |_, _| {
        gates.0.wait();
        gates.1.wait();
        Ok(())
    }));
    let (_load, packets) = packet_load(&target, options);
    for bytes in &all {
        packets.submit(bytes).unwrap();
    }
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| packets.run());
        entered.wait();
        let error = packets.submit(&all[0]).unwrap_err();
        check_refused(&target, &error, Code::Proto);
        let (mut next, others) = packet_load(&target, loading(Format::QemuPackets));
        go_on.wait();
        assert_eq!(runner.join().unwrap().unwrap_err().code(), Code::Proto);
        assert_eq!(target.sim.state(), State::RESUMING);
        for bytes in &all {
            others.submit(bytes).unwrap();
        }
        others.run().unwrap();
        next.commit().unwrap();
        assert_eq!(source.sim.digest(), target.sim.digest());
    });
}
