// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loading side against what a stream may do to it, and what the VMM's callbacks see.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Drive, Side, check_clean, migrate, side, stream_of};
use vfiomig::compat::{Decider, Ignore, Policy};
use vfiomig::device::{DeviceOptions, Event, EventSink, Fixups, Identity, MigrationFlags};
use vfiomig::error::{Code, Errno, Error, Operation, Outcome};
use vfiomig::history::What;
use vfiomig::session::{Ending, LoadOptions, LoadStatus, SaveOptions, SaveStatus};
use vfiomig::stream::DecodeLimits;
use vfiomig::{Device, Load};
use vfiomig_sim::{Op, Sim, SimOptions, State, quirk};

fn small(seed: u64) -> SimOptions {
    SimOptions { seed, state_size: 300, ..SimOptions::default() }
}

/// A stream of a small device, and what it holds.
fn stream() -> (Vec<u8>, u64) {
    let source = side(small(1));
    let stream =
        stream_of(&source.device, SaveOptions { migration_id: [7; 16], ..Default::default() });
    (stream.unwrap(), source.sim.digest())
}

fn load_all(target: &Side, options: LoadOptions, bytes: &[u8]) -> Result<LoadStatus, Error> {
    let mut load = target.device.load(options)?;
    let status = load.push(bytes)?;
    load.commit()?;
    Ok(status)
}

/// The stream was refused: the device was reset and is good for the right one.
#[track_caller]
fn check_refused(target: &Side, good: &(Vec<u8>, u64)) {
    assert_eq!(target.sim.state(), State::RUNNING);
    assert_eq!(target.device.fixups(), Fixups::AFTER_RESET_OR_LOAD);
    check_clean(target);
    assert!(load_all(target, LoadOptions::default(), &good.0).unwrap().ended);
    assert_eq!(target.sim.digest(), good.1);
    target.device.run().unwrap();
    assert_eq!(target.device.fixups(), Fixups::empty());
}

#[test]
fn a_stream_cut_at_any_byte_is_not_committed() {
    let good = stream();
    // Even with drivers that would accept anything.
    for quirks in [0, quirk::STOP_ACCEPTS_ALL] {
        for len in 0..good.0.len() {
            let target = side(SimOptions { quirks, ..small(2) });
            let mut load = target.device.load(LoadOptions::default()).unwrap();
            assert!(!load.push(&good.0[..len]).unwrap().ended);
            let error = load.commit().unwrap_err();
            assert_eq!(error.code(), Code::NoData, "{len}: {error}");
            let failure = error.failure().unwrap();
            assert_eq!(failure.operation, Operation::Stream);
            assert_eq!(failure.outcome, Outcome::Reset);
            assert_eq!(failure.offset, len as u64);
            assert_eq!(load.commit().unwrap_err().code(), Code::Inval);
            assert_eq!(load.push(&good.0).unwrap_err().code(), Code::Inval);
            if len % 64 == 0 {
                check_refused(&target, &good);
            } else {
                check_clean(&target);
                assert_eq!(target.sim.state(), State::RUNNING);
            }
        }
    }
}

#[test]
fn a_stream_with_any_bit_flipped_is_refused_and_its_data_never_reaches_the_driver() {
    let good = stream();
    let target = side(small(2));
    let mut worst = 0;
    for bit in 0..good.0.len() * 8 {
        let mut bad = good.0.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let taken = target.sim.bytes_written();
        let mut load = target.device.load(LoadOptions::default()).unwrap();
        // How the stream is cut into pieces must not hide anything.
        let result = bad.chunks(1 + bit % 97).try_for_each(|piece| load.push(piece).map(drop));
        let error = result.and_then(|()| load.commit()).unwrap_err();
        let code = error.code();
        let known = matches!(code, Code::BadMsg | Code::Proto | Code::MsgSize | Code::NoData);
        assert!(known, "bit {bit}: {error}");
        assert!(load.failure().unwrap().outcome == Outcome::Reset, "bit {bit}");
        drop(load);
        worst = worst.max(target.sim.bytes_written() - taken);
        check_clean(&target);
        assert_eq!(target.sim.state(), State::RUNNING);
        // The driver never said no: it was not asked to accept anything wrong.
        assert!(error.failure().unwrap().operation == Operation::Stream, "bit {bit}: {error}");
    }
    assert!(worst > 0, "data before the flipped bit does arrive");
    check_refused(&target, &good);
}

#[test]
fn bytes_behind_the_end_are_refused() {
    let good = stream();
    for (extra, at_once) in [(&b"\0"[..], true), (b"\0", false), (&good.0, true), (&good.0, false)]
    {
        let target = side(small(2));
        let mut load = target.device.load(LoadOptions::default()).unwrap();
        let result = match at_once {
            true => load.push(&[&good.0, extra].concat()).map(drop),
            false => {
                assert!(load.push(&good.0).unwrap().ended);
                load.push(extra).map(drop)
            }
        };
        assert_eq!(result.unwrap_err().code(), Code::Proto);
        assert_eq!(load.commit().unwrap_err().code(), Code::Inval);
        check_refused(&target, &good);
    }
}

#[test]
fn streams_of_other_devices_are_refused_before_any_data_unless_told_otherwise() {
    let source = SimOptions {
        pci: [0x15b3, 0x101e, 1, 2],
        mdev_type: "nvidia-35".into(),
        driver: "nvidia-vgpu-vfio".into(),
        ..small(1)
    };
    let bytes = stream_of(&side(source.clone()).device, SaveOptions::default()).unwrap();
    let cases: [(SimOptions, Option<Ignore>); 4] = [
        (SimOptions { driver: "xe".into(), ..source.clone() }, Some(Ignore::DRIVER)),
        (SimOptions { pci: [0x15b3, 0x101f, 1, 2], ..source.clone() }, None),
        (SimOptions { pci: [0x15b3, 0x101e, 1, 3], ..source.clone() }, Some(Ignore::PCI_SUBSYSTEM)),
        (SimOptions { mdev_type: "nvidia-36".into(), ..source.clone() }, Some(Ignore::MDEV_TYPE)),
    ];
    for (options, flag) in cases {
        let target = side(options);
        let try_with = |ignore| {
            let policy = Policy::default().ignoring(ignore).unwrap();
            let options = LoadOptions { policy, ..LoadOptions::default() };
            load_all(&target, options, &bytes).map_err(|error| error.code())
        };
        assert_eq!(try_with(Ignore::empty()), Err(Code::OtherDevice));
        assert_eq!(target.sim.count(Op::Write), 0);
        if let Some(flag) = flag {
            let others = Ignore::all() - Ignore::EVERYTHING - flag;
            assert_eq!(try_with(others), Err(Code::OtherDevice));
            assert!(try_with(flag).unwrap().ended);
        }
        assert!(try_with(Ignore::EVERYTHING).unwrap().ended);
        check_clean(&target);
    }
    // What is not known on both sides cannot differ.
    let target = side(SimOptions { driver: "vfiomig-sim".into(), ..small(2) });
    assert_eq!(
        load_all(&target, LoadOptions::default(), &bytes).unwrap_err().code(),
        Code::OtherDevice
    );
}

#[test]
fn a_driver_that_refuses_the_state_is_reset() {
    let good = stream();
    // The identity cannot tell, but the driver can. Another model, and another size.
    for options in [SimOptions { model: 2, ..small(2) }, SimOptions { state_size: 301, ..small(2) }]
    {
        let target = side(options.clone());
        let error = load_all(&target, LoadOptions::default(), &good.0).unwrap_err();
        let failure = error.failure().unwrap();
        assert_eq!(failure.operation, Operation::DataWrite);
        assert_eq!(failure.errno, libc::EFAULT);
        assert_eq!(failure.outcome, Outcome::Reset);
        assert_eq!(target.sim.state(), State::RUNNING);
        check_clean(&target);
        let own = side(options);
        migrate(&own, &target, Drive::default());
    }
}

#[test]
fn limits_are_kept() {
    let source = side(SimOptions { state_size: 100_000, ..small(1) });
    let target = side(SimOptions { state_size: 100_000, ..small(2) });
    let exact = stream_of(&source.device, SaveOptions { max_frame: 5000, ..Default::default() });
    let exact = exact.unwrap();
    let total = source.sim.bytes_read();
    let with = |limits| {
        let options = LoadOptions { limits, ..LoadOptions::default() };
        load_all(&target, options, &exact).map(|status| status.ended).map_err(|e| e.code())
    };
    let limits = DecodeLimits { max_frame: 5000, max_total: total, ..DecodeLimits::default() };
    assert_eq!(with(limits), Ok(true));
    assert_eq!(with(DecodeLimits { max_frame: 4999, ..limits }), Err(Code::MsgSize));
    assert_eq!(with(DecodeLimits { max_total: total - 1, ..limits }), Err(Code::MsgSize));
    assert_eq!(with(DecodeLimits { max_frame: 0, ..limits }), Err(Code::Inval));
    assert_eq!(with(DecodeLimits { max_frame: 1 << 31, ..limits }), Err(Code::Inval));
    check_clean(&target);
}

#[test]
fn blobs_arrive_in_order_with_their_contents_and_between_the_right_data() {
    let source = side(SimOptions { state_size: 20_000, ..small(1) });
    let target = side(SimOptions { state_size: 20_000, ..small(2) });
    let came = Arc::new(Mutex::new(vec![]));
    let (sink, sim) = (Arc::clone(&came), target.sim.clone());
    let read = source.sim.clone();
    let sent = Mutex::new(vec![]);
    let mut drive = Drive::default();
    drive.load.blobs = Some(Box::new(move |kind, bytes| {
        sink.lock().unwrap().push((kind, bytes.to_vec(), sim.bytes_written()));
        Ok(())
    }));
    drive.drained = Box::new(|save| {
        for (kind, len) in [(1, 0), (u32::MAX, 1), (1, 4000)] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            save.blob(kind, &bytes).unwrap();
            sent.lock().unwrap().push((kind, bytes, read.bytes_read()));
        }
    });
    drive.rounds = 3;
    let done = migrate(&source, &target, drive);
    assert_eq!(came.lock().unwrap().len(), 9);
    assert_eq!(*came.lock().unwrap(), *sent.lock().unwrap());
    drop(done);

    let mut save = source.device.save(SaveOptions::default()).unwrap();
    let limit = DecodeLimits::default().max_blob as usize;
    assert_eq!(save.blob(1, &vec![0; limit + 1]).unwrap_err().code(), Code::MsgSize);
    save.blob(1, &vec![0; limit]).unwrap();
    // A buffer that does not hold it gets an error, and a larger one gets the frame.
    let mut small_buffer = vec![0; 4096];
    let error = loop {
        match save.next(&mut small_buffer) {
            Ok(next) => assert_eq!(next.status, SaveStatus::More),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::NoSpace);
    let next = save.next(&mut vec![0; limit + 4096]).unwrap();
    assert!(next.len > limit);
    save.finish(Ending::Keep).unwrap();
    assert_eq!(save.blob(1, &[]).unwrap_err().code(), Code::Inval);
}

#[test]
fn a_blob_that_nobody_takes_or_that_is_refused_ends_the_load() {
    let source = side(small(1));
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    save.blob(5, b"hello").unwrap();
    let mut bytes = vec![];
    let mut buf = vec![0; 8192];
    loop {
        let next = save.next(&mut buf).unwrap();
        bytes.extend_from_slice(&buf[..next.len]);
        match next.status {
            SaveStatus::More => {}
            SaveStatus::Drained => save.stop().unwrap(),
            SaveStatus::End => break,
        }
    }
    drop(save);
    let good = stream();
    let target = side(small(2));
    let error = load_all(&target, LoadOptions::default(), &bytes).unwrap_err();
    assert_eq!(error.code(), Code::NotSupported);
    check_refused(&target, &good);
    for (errno, code) in [(libc::ENOTSUP, Code::NotSupported), (libc::EXFULL, Code::Io)] {
        let blobs: Option<vfiomig::session::BlobSink> =
            Some(Box::new(move |_, _| Err(Errno(errno))));
        let options = LoadOptions { blobs, ..LoadOptions::default() };
        let error = load_all(&target, options, &bytes).unwrap_err();
        assert_eq!(error.code(), code);
        assert_eq!(error.failure().unwrap().operation, Operation::Callback);
        assert_eq!(error.failure().unwrap().errno, errno);
        check_refused(&target, &good);
    }
    let blobs: Option<vfiomig::session::BlobSink> = Some(Box::new(|_, _| Ok(())));
    let limits = DecodeLimits { max_blob: 4, ..DecodeLimits::default() };
    let options = LoadOptions { blobs, limits, ..LoadOptions::default() };
    assert_eq!(load_all(&target, options, &bytes).unwrap_err().code(), Code::MsgSize);
    check_refused(&target, &good);
}

#[test]
fn the_policy_sees_both_identities_and_decides() {
    let (bytes, digest) = stream();
    let target = side(SimOptions { state_size: 300, ..small(2) });
    let seen: Arc<Mutex<Vec<(Identity, Identity)>>> = Arc::default();
    for refuse in [None, Some((libc::EPERM, Code::Perm)), Some((libc::EXFULL, Code::Io))] {
        let sink = Arc::clone(&seen);
        let decide: Decider = Box::new(move |source, target| {
            sink.lock().unwrap().push((source.clone(), target.clone()));
            refuse.map_or(Ok(()), |(errno, _)| Err(Errno(errno)))
        });
        let policy = Policy::default().deciding(decide).unwrap();
        let written = target.sim.count(Op::Write);
        let mut load =
            target.device.load(LoadOptions { policy, ..LoadOptions::default() }).unwrap();
        assert_eq!(load.source_identity().unwrap_err().code(), Code::NoData);
        let result = load.push(&bytes);
        match refuse {
            None => {
                assert!(result.unwrap().ended);
                assert_eq!(load.source_identity().unwrap().driver, "vfiomig-sim");
                load.commit().unwrap();
                assert_eq!(target.sim.digest(), digest);
                target.device.run().unwrap();
            }
            Some((errno, code)) => {
                let error = result.unwrap_err();
                assert_eq!(error.code(), code);
                assert_eq!(error.failure().unwrap().operation, Operation::Callback);
                assert_eq!(error.failure().unwrap().errno, errno);
                assert_eq!(load.source_identity().unwrap().driver, "vfiomig-sim");
                assert_eq!(target.sim.count(Op::Write), written);
                assert_eq!(target.sim.state(), State::RUNNING);
            }
        }
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[0].0.driver, "vfiomig-sim");
    assert_eq!(seen[0].0.migration_flags, MigrationFlags::all());
    assert_eq!(seen[0].1, target.device.identity().unwrap());
    check_clean(&target);
}

fn listening(options: SimOptions) -> (Side, Arc<Mutex<Vec<Event>>>) {
    let events: Arc<Mutex<Vec<Event>>> = Arc::default();
    let sink = Arc::clone(&events);
    let sim = Sim::new(options).unwrap();
    let events_to = EventSink::new(move |event| sink.lock().unwrap().push(*event));
    let options = DeviceOptions { events: Some(events_to), ..DeviceOptions::default() };
    let device = Device::new(sim.transport(), options).unwrap();
    (Side { sim, device }, events)
}

#[test]
fn events_tell_the_story_of_a_migration() {
    // Stopping quiesces if that has not been done.
    for quiesce in [false, true] {
        let (source, events) = listening(small(1));
        migrate(&source, &side(small(2)), Drive { quiesce, ..Drive::default() });
        let to: Vec<u32> = events.lock().unwrap().iter().map(|e| e.to.unwrap().raw()).collect();
        let (p2p, stop_copy) = (State::PRE_COPY_P2P, State::STOP_COPY);
        assert_eq!(to, [State::PRE_COPY.0, p2p.0, stop_copy.0, State::STOP.0]);
    }
    let (source, source_events) = listening(small(1));
    let (target, target_events) = listening(small(2));
    migrate(&source, &target, Drive::default());
    let story = |events: &Mutex<Vec<Event>>| -> Vec<(What, u32, u32)> {
        let raw = |state: Option<vfiomig::device::State>| state.map_or(u32::MAX, |s| s.raw());
        events.lock().unwrap().iter().map(|e| (e.kind, raw(e.from), raw(e.to))).collect()
    };
    let changed = |from: State, to: State| (What::StateChanged, from.0, to.0);
    assert_eq!(
        story(&source_events),
        [
            changed(State::RUNNING, State::PRE_COPY),
            changed(State::PRE_COPY, State::PRE_COPY_P2P),
            changed(State::PRE_COPY_P2P, State::STOP_COPY),
            changed(State::STOP_COPY, State::STOP),
        ]
    );
    assert_eq!(
        story(&target_events),
        [
            changed(State::RUNNING, State::RESUMING),
            changed(State::RESUMING, State::STOP),
            (What::FixupsNeeded, State::STOP.0, State::STOP.0),
            changed(State::STOP, State::RUNNING),
        ]
    );
    let fixups: Vec<Fixups> = target_events.lock().unwrap().iter().map(|e| e.fixups).collect();
    let (none, all) = (Fixups::empty(), Fixups::AFTER_RESET_OR_LOAD);
    assert_eq!(fixups, [none, none, all, all]);

    target_events.lock().unwrap().clear();
    let mut load = target.device.load(LoadOptions::default()).unwrap();
    load.push(&[0; 100]).unwrap_err();
    assert_eq!(
        story(&target_events),
        [
            changed(State::RUNNING, State::RESUMING),
            (What::Reset, State::RESUMING.0, State::RUNNING.0),
        ]
    );
}

#[test]
fn numbers_add_up() {
    let options = SimOptions { state_size: 50_000, ..small(1) };
    let source = side(options.clone());
    let target = side(options);
    let drained = Box::new(|save: &mut vfiomig::Save| save.blob(1, b"x").unwrap());
    let drive = Drive { drained, ..Drive::default() };
    let mut done = drive.run(&source.device, &target.device);
    done.result.as_ref().unwrap();
    let (save, load) = (done.save.take().unwrap(), done.load.take().unwrap());
    let (saved, loaded) = (save.stats(), load.stats());
    assert_eq!(saved.data_bytes, source.sim.bytes_read());
    assert_eq!(loaded.data_bytes, target.sim.bytes_written());
    assert_eq!(saved.data_bytes, loaded.data_bytes);
    assert!(saved.precopy_bytes > 10_000 && saved.precopy_bytes < saved.data_bytes);
    assert!(saved.stream_bytes > saved.data_bytes);
    assert_eq!((saved.stream_bytes, saved.frames), (loaded.stream_bytes, loaded.frames));
    assert_eq!((loaded.blobs, loaded.restarts, saved.restarts), (2, 0, 0));
    assert_eq!(loaded.initial_generation, 1);
    assert!(saved.begin_ns > 0 && saved.stop_ns > 0 && saved.finish_ns > 0);
    assert!(saved.stop_read_ns > 0 && loaded.write_ns > 0);
    assert!(loaded.begin_ns > 0 && loaded.commit_ns > 0);
    assert_eq!((save.failure(), load.failure()), (None, None));
    // Others read the same numbers.
    assert_eq!(save.shared().stats(), saved);
    assert_eq!(load.shared().stats(), loaded);
}

#[test]
fn a_load_is_cancelled_from_another_thread_while_the_driver_is_slow() {
    let good = stream();
    let size = 1 << 20;
    let source = side(SimOptions { state_size: size, ..small(1) });
    let bytes = stream_of(&source.device, SaveOptions::default()).unwrap();
    // Unlimited patience, and minutes' worth of data.
    let target = side(SimOptions { state_size: size, write_rate: 5_000, ..small(2) });
    let mut load = target.device.load(LoadOptions::default()).unwrap();
    let shared = load.shared();
    let sim = target.sim.clone();
    let error = std::thread::scope(|scope| {
        scope.spawn(move || {
            while sim.bytes_written() == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(shared.stats().begin_ns > 0);
            shared.cancel();
        });
        load.push(&bytes).unwrap_err()
    });
    assert_eq!(error.code(), Code::Cancelled);
    // Not even one piece of the stream was written to its end.
    assert!(target.sim.bytes_written() < size / 8);
    assert_eq!(target.sim.state(), State::RUNNING);
    assert_eq!(load.push(&bytes).unwrap_err().code(), Code::Cancelled);
    drop(load);
    check_clean(&target);
    // A load cancelled before anything, and one before its commit.
    let target = side(small(2));
    for pushed in [false, true] {
        let mut load = target.device.load(LoadOptions::default()).unwrap();
        if pushed {
            assert!(load.push(&good.0).unwrap().ended);
        }
        load.shared().cancel();
        let result = if pushed { load.commit() } else { load.push(&good.0).map(drop) };
        assert_eq!(result.unwrap_err().code(), Code::Cancelled);
        check_refused(&target, &good);
    }
}

#[test]
fn a_save_is_cancelled_from_another_thread_and_the_source_goes_on() {
    let size = 1 << 20;
    let source = side(SimOptions { state_size: size, read_rate: 5_000, ..small(1) });
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    let shared = save.shared();
    let sim = source.sim.clone();
    let error = std::thread::scope(|scope| {
        scope.spawn(move || {
            while sim.bytes_read() == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            shared.cancel();
        });
        loop {
            if let Err(error) = save.next(&mut vec![0; 2 << 20]) {
                break error;
            }
        }
    });
    assert_eq!(error.code(), Code::Cancelled);
    assert!(source.sim.bytes_read() < size / 8);
    assert_eq!(save.finish(Ending::Release).unwrap_err().code(), Code::Cancelled);
    save.finish(Ending::Keep).unwrap();
    assert_eq!(source.sim.state(), State::RUNNING);
    assert_eq!(source.sim.count(Op::Reset), 0);
    check_clean(&source);
    let source = side(small(1));
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    save.shared().cancel();
    assert_eq!(save.quiesce().unwrap_err().code(), Code::Cancelled);
    drop(save);
    let mut save = source.device.save(SaveOptions::default()).unwrap();
    save.shared().cancel();
    assert_eq!(save.stop().unwrap_err().code(), Code::Cancelled);
    drop(save);
    assert_eq!(source.sim.state(), State::RUNNING);
    check_clean(&source);
}

#[test]
fn a_callback_that_calls_back_into_its_own_device_is_told_it_is_busy() {
    let sim = Sim::new(small(1)).unwrap();
    let handle: Arc<Mutex<Option<Device>>> = Arc::default();
    let calls = Arc::new(AtomicU32::new(0));
    let (inside, counted) = (Arc::clone(&handle), Arc::clone(&calls));
    let try_it = move || {
        let Some(device) = inside.lock().unwrap().clone() else { return };
        for result in [
            device.state().map(drop),
            device.run(),
            device.reset(),
            device.was_reset(),
            device.save(SaveOptions::default()).map(drop),
            device.load(LoadOptions::default()).map(drop),
        ] {
            assert_eq!(result.unwrap_err().code(), Code::Busy);
        }
        // These never wait.
        let _ = (device.fixups(), device.caps(), device.identity());
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let again = try_it.clone();
    let options = DeviceOptions {
        events: Some(EventSink::new(move |_| try_it())),
        ..DeviceOptions::default()
    };
    let device = Device::new(sim.transport(), options).unwrap();
    *handle.lock().unwrap() = Some(device.clone());
    device.save(SaveOptions::default()).unwrap().finish(Ending::Keep).unwrap();
    assert_eq!(calls.swap(0, Ordering::Relaxed), 2);
    let decide: Decider = Box::new(move |_, _| {
        again();
        Ok(())
    });
    let policy = Policy::default().deciding(decide).unwrap();
    let mut load = device.load(LoadOptions { policy, ..LoadOptions::default() }).unwrap();
    assert!(load.push(&stream().0).unwrap().ended);
    load.commit().unwrap();
    // RESUMING, the policy, STOP, the fix-ups.
    assert_eq!(calls.load(Ordering::Relaxed), 4);
    *handle.lock().unwrap() = None;
    drop((load, device));
    assert_eq!(sim.violations(), (0, None));
    assert_eq!(sim.releases(), 1);
}

#[test]
fn sessions_exclude_each_other_and_keep_the_device_alive() {
    let Side { sim, device } = side(small(1));
    let save = device.save(SaveOptions::default()).unwrap();
    assert_eq!(device.save(SaveOptions::default()).err().unwrap().code(), Code::Busy);
    assert_eq!(device.load(LoadOptions::default()).err().unwrap().code(), Code::Busy);
    assert_eq!(device.run().unwrap_err().code(), Code::Busy);
    assert_eq!(sim.state(), State::PRE_COPY);
    drop(device);
    assert_eq!(sim.releases(), 0);
    let mut save = save;
    save.next(&mut [0; 4096]).unwrap();
    drop(save);
    assert_eq!(sim.state(), State::RUNNING);
    assert_eq!((sim.releases(), sim.open_streams()), (1, 0));

    let Side { sim, device } = side(small(2));
    let load = device.load(LoadOptions::default()).unwrap();
    assert_eq!(device.load(LoadOptions::default()).err().unwrap().code(), Code::Busy);
    assert_eq!(device.save(SaveOptions::default()).err().unwrap().code(), Code::Busy);
    drop(device);
    assert_eq!(sim.state(), State::RESUMING);
    drop(load);
    assert_eq!(sim.state(), State::RUNNING);
    assert_eq!((sim.releases(), sim.open_streams()), (1, 0));
    assert_eq!(sim.violations(), (0, None));
}

#[test]
fn a_device_that_is_switched_off_is_not_touched() {
    let sim = Sim::new(small(1)).unwrap();
    let options = DeviceOptions { disabled: true, ..DeviceOptions::default() };
    let device = Device::new(sim.transport(), options).unwrap();
    assert_eq!(device.save(SaveOptions::default()).err().unwrap().code(), Code::Perm);
    assert_eq!(device.load(LoadOptions::default()).err().unwrap().code(), Code::Perm);
    assert_eq!(sim.count(Op::SetState) + sim.count(Op::Reset), 0);
}

#[test]
fn a_device_left_in_a_session_state_is_reset_before_it_is_loaded() {
    let good = stream();
    for initial_state in [State::PRE_COPY, State::STOP_COPY, State::RESUMING, State::PRE_COPY_P2P] {
        let target = side(SimOptions { initial_state, ..small(2) });
        let refused = target.device.save(SaveOptions::default()).err().unwrap();
        assert_eq!(refused.code(), Code::Inval, "{refused}");
        assert_eq!(target.sim.state(), initial_state);
        assert!(load_all(&target, LoadOptions::default(), &good.0).unwrap().ended);
        assert_eq!(target.sim.digest(), good.1);
        check_clean(&target);
    }
    for initial_state in [State::PRE_COPY, State::STOP_COPY, State::RESUMING, State::ERROR] {
        for to in [vfiomig::device::State::Running, vfiomig::device::State::Stop] {
            let target = side(SimOptions { initial_state, ..small(2) });
            target.device.set_state(to).unwrap();
            assert_eq!(target.sim.state().0, to.raw());
            check_clean(&target);
            assert!(target.device.save(SaveOptions::default()).is_ok(), "good as new");
        }
    }
}

#[test]
fn a_stream_of_another_device_or_migration_is_refused_where_the_vmm_asks_for_it() {
    let (bytes, _) = stream();
    let with = |device_index, migration_id| {
        let target = side(small(2));
        let options = LoadOptions { device_index, migration_id, ..LoadOptions::default() };
        let result = load_all(&target, options, &bytes).map(|s| s.ended).map_err(|e| e.code());
        assert_eq!(target.sim.count(Op::Write) > 0, result.is_ok());
        check_clean(&target);
        result
    };
    assert_eq!(with(Some(0), Some([7; 16])), Ok(true));
    assert_eq!(with(Some(1), None), Err(Code::OtherDevice));
    assert_eq!(with(None, Some([8; 16])), Err(Code::OtherDevice));
}

#[test]
fn a_driver_that_takes_nothing_is_given_up_in_time() {
    let good = stream();
    let target = side(SimOptions { ..small(2) });
    target.sim.inject(Op::Write, 1, libc::EAGAIN, vfiomig_sim::Effect::Sticky);
    let write_timeout = Duration::from_millis(30);
    let begun = Instant::now();
    let options = LoadOptions { write_timeout, ..LoadOptions::default() };
    let error = load_all(&target, options, &good.0).unwrap_err();
    assert_eq!(error.code(), Code::TimedOut);
    // The default is a minute.
    assert!(begun.elapsed() >= write_timeout && begun.elapsed() < Duration::from_secs(30));
    target.sim.clear_faults();
    check_refused(&target, &good);
}

#[test]
fn what_is_received_into_the_librarys_own_memory_is_the_same_stream() {
    let source = side(SimOptions { state_size: 50_000, ..small(1) });
    let bytes = stream_of(&source.device, SaveOptions::default()).unwrap();
    for most in [1, 33, 4096, usize::MAX] {
        let target = side(SimOptions { state_size: 50_000, ..small(2) });
        let mut load: Load = target.device.load(LoadOptions::default()).unwrap();
        let mut rest = &bytes[..];
        let mut ended = false;
        while !rest.is_empty() {
            let space = load.space().unwrap();
            let n = space.len().min(rest.len()).min(most);
            assert!(n > 0 && !ended);
            space[..n].copy_from_slice(&rest[..n]);
            rest = &rest[n..];
            ended = load.received(n).unwrap().ended;
        }
        assert!(ended);
        load.commit().unwrap();
        assert_eq!(target.sim.digest(), source.sim.digest());
        drop(load);
        check_clean(&target);
    }
}
