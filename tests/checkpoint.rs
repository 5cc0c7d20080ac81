// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checkpoints of simulated devices in real files: what comes back, and what happens to the old file
//! and to the guest if anything fails.

#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod track;

use std::ffi::CString;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use track::{PAGE, Taken, new_tracking};
use vfiomig::checkpoint::{self, Guest, OpenOptions, Writer, WriterOptions};
use vfiomig::device::{Device, DeviceOptions, State};
use vfiomig::dirty::{self, Mapping};
use vfiomig::error::{Code, Errno, Outcome};
use vfiomig::guard::Guard;
use vfiomig::session::{LoadOptions, SaveOptions};
use vfiomig::stream::checkpoint::{
    Entry, Manifest, Piece, StreamEnd, encode_head, encode_manifest,
};
use vfiomig::stream::{Auth, DecodeLimits, END_LEN, Encoder, FrameType, encode_identity};
use vfiomig_sim::{Effect, Op, Sim, SimOptions};

/// A directory that goes when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let base =
            std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = base.join(format!("checkpoint-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("state")
    }

    fn names(&self) -> Vec<String> {
        let all = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> =
            all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn rig(seed: u64) -> (Sim, Device) {
    let sim = Sim::new(SimOptions { seed, ..SimOptions::default() }).unwrap();
    let device = Device::new(sim.transport(), DeviceOptions::default()).unwrap();
    (sim, device)
}

fn numbered(index: u32) -> SaveOptions {
    SaveOptions { device_index: index, ..SaveOptions::default() }
}

fn keys() -> Auth {
    Auth::with_keys(7, |id, key| match id {
        7 => {
            key.fill(0x5a);
            Ok(())
        }
        _ => Err(Errno(libc::ENOKEY)),
    })
}

/// Takes a checkpoint of running devices.
fn take(path: &Path, devices: &[&Device], options: WriterOptions) -> vfiomig::Result<Writer> {
    let mut writer = Writer::create(path, options)?;
    for (at, device) in devices.iter().enumerate() {
        writer.add(&format!("dev{at}"), device, numbered(at as u32))?;
    }
    writer.read()?;
    writer.stop()?;
    writer.read()?;
    writer.resume(Guest::GoesOn)?;
    writer.commit()?;
    Ok(writer)
}

#[test]
fn devices_come_back_as_they_were_whether_memory_was_between_or_not() {
    for (spool, auth) in [(0, false), (1 << 30, false), (100 << 10, false), (1 << 30, true)] {
        let scratch = Scratch::new("back");
        let (one, two) = (rig(1), rig(2));
        let then = (one.0.digest(), two.0.digest());
        let options = WriterOptions {
            spool,
            auth: auth.then(keys),
            note: b"ram".to_vec(),
            generation: 3,
            ..WriterOptions::default()
        };
        let writer = take(&scratch.file(), &[&one.1, &two.1], options).unwrap();
        assert_eq!(one.1.state().unwrap(), State::Running);
        assert_eq!(two.1.state().unwrap(), State::Running);
        let stats = writer.watcher().stats();
        assert_eq!(stats.spooled_bytes > 0, spool > 0, "{stats:?}");
        assert_eq!(spool > 1 << 20, stats.spooled_bytes == stats.stopped_bytes, "{stats:?}");
        assert!(stats.stopped_bytes > 0 && stats.stream_bytes > stats.stopped_bytes);
        assert!(stats.pause_ns >= stats.read_ns && stats.file_bytes >= stats.stream_bytes);
        assert_eq!(scratch.names(), ["state"]);
        let mode = std::fs::metadata(scratch.file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        // The guest goes on, and then goes back.
        one.0.guest_write(0, 100_000, 9).unwrap();
        assert_ne!(one.0.digest(), then.0);
        let options = || OpenOptions { auth: auth.then(keys), ..OpenOptions::default() };
        let file = checkpoint::open(&scratch.file(), options()).unwrap();
        let manifest = file.manifest();
        assert_eq!((manifest.generation, &manifest.note[..]), (3, &b"ram"[..]));
        assert_eq!(manifest.key_id, auth.then_some(7));
        file.verify_all().unwrap();
        file.restore("dev0", &one.1, LoadOptions::default()).unwrap();
        file.restore("dev1", &two.1, LoadOptions::default()).unwrap();
        for (rig, digest) in [(&one, then.0), (&two, then.1)] {
            rig.1.run().unwrap();
            assert_eq!(rig.0.digest(), digest);
        }
        // And many more, from memory.
        let staged = OpenOptions { staged: 1 << 30, ..options() };
        let file = checkpoint::open(&scratch.file(), staged).unwrap();
        std::thread::scope(|scope| {
            for seed in 10..14 {
                let file = &file;
                scope.spawn(move || {
                    let other = rig(seed);
                    file.restore("dev1", &other.1, LoadOptions::default()).unwrap();
                    assert_eq!(other.0.digest(), then.1);
                });
            }
        });
    }
}

#[test]
fn one_call_takes_a_checkpoint_and_leaves_the_devices_where_they_were() {
    let scratch = Scratch::new("one-call");
    let (sim, device) = rig(5);
    device.set_state(State::Stop).unwrap();
    for _ in 0..3 {
        let devices = vec![("a".to_owned(), device.clone(), SaveOptions::default())];
        checkpoint::write(&scratch.file(), devices, WriterOptions::default()).unwrap();
        assert_eq!(device.state().unwrap(), State::Stop);
    }
    let other = rig(6);
    let file = checkpoint::open(&scratch.file(), OpenOptions::default()).unwrap();
    file.restore("a", &other.1, LoadOptions::default()).unwrap();
    assert_eq!(other.0.digest(), sim.digest());
    assert_eq!(scratch.names(), ["state"]);
}

#[test]
fn a_bad_file_is_found_before_the_device_loses_anything() {
    let scratch = Scratch::new("bad");
    let (sim, device) = rig(1);
    take(&scratch.file(), &[&device], WriterOptions::default()).unwrap();
    let whole = std::fs::read(scratch.file()).unwrap();
    let file = checkpoint::open(&scratch.file(), OpenOptions::default()).unwrap();
    let piece = file.manifest().devices[0].pieces[0];
    let now = sim.digest();
    for at in [piece.offset + 20, piece.offset + piece.len / 2, piece.offset + piece.len - 1] {
        let mut bytes = whole.clone();
        bytes[at as usize] ^= 4;
        std::fs::write(scratch.file(), &bytes).unwrap();
        for staged in [0, 1 << 30] {
            let options = OpenOptions { staged, ..OpenOptions::default() };
            let file = checkpoint::open(&scratch.file(), options).unwrap();
            assert!(file.verify("dev0").is_err());
            assert!(file.restore("dev0", &device, LoadOptions::default()).is_err());
            assert_eq!((sim.digest(), device.state().unwrap()), (now, State::Running));
        }
    }
    // Cut off under the reader's hands: an error, and the process lives.
    std::fs::write(scratch.file(), &whole).unwrap();
    let file = checkpoint::open(&scratch.file(), OpenOptions::default()).unwrap();
    std::fs::OpenOptions::new().write(true).open(scratch.file()).unwrap().set_len(5000).unwrap();
    let error = file.restore("dev0", &device, LoadOptions::default()).unwrap_err();
    assert_eq!(error.code(), Code::NoData);
    assert_eq!(sim.digest(), now);
    let cut = checkpoint::open(&scratch.file(), OpenOptions::default()).unwrap_err();
    assert_eq!(cut.code(), Code::NoData);
    // Changed after it was verified.
    std::fs::write(scratch.file(), &whole).unwrap();
    let file = checkpoint::open(&scratch.file(), OpenOptions::default()).unwrap();
    file.verify_all().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(30));
    std::fs::write(scratch.file(), &whole).unwrap();
    let error = file.restore("dev0", &device, LoadOptions::default()).unwrap_err();
    assert_eq!((error.code(), sim.digest()), (Code::BadMsg, now));
}

#[test]
fn another_device_is_judged_before_anything_is_read() {
    let scratch = Scratch::new("other");
    let (_sim, device) = rig(1);
    take(&scratch.file(), &[&device], WriterOptions::default()).unwrap();
    let options = SimOptions { driver: "other".into(), ..SimOptions::default() };
    let other = Sim::new(options).unwrap();
    let target = Device::new(other.transport(), DeviceOptions::default()).unwrap();
    let before = other.digest();
    let file = checkpoint::open(&scratch.file(), OpenOptions::default()).unwrap();
    let error = file.restore("dev0", &target, LoadOptions::default()).unwrap_err();
    assert_eq!(error.code(), Code::OtherDevice);
    assert_eq!(file.watcher().stats().stream_bytes, 0);
    assert_eq!((other.digest(), target.state().unwrap()), (before, State::Running));
    let unknown = file.restore("dev1", &device, LoadOptions::default()).unwrap_err();
    assert_eq!(unknown.code(), Code::NoData);
    let expecting = LoadOptions { device_index: Some(4), ..LoadOptions::default() };
    let error = file.restore("dev0", &device, expecting).unwrap_err();
    assert_eq!(error.code(), Code::OtherDevice);
}

#[test]
fn what_is_not_a_file_is_not_replaced_and_nothing_is_left_behind() {
    let scratch = Scratch::new("odd");
    let create =
        |name: &str| Writer::create(&scratch.0.join(name), WriterOptions::default()).map(drop);
    std::fs::create_dir(scratch.0.join("directory")).unwrap();
    symlink("/dev/null", scratch.0.join("link")).unwrap();
    let fifo = CString::new(scratch.0.join("fifo").to_str().unwrap()).unwrap();
    // SAFETY: a text with a NUL.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    let long = "n".repeat(250);
    for name in ["directory", "link", "fifo", "missing/state", "state/", ".", "..", &long] {
        assert_eq!(create(name).unwrap_err().code(), Code::Inval, "{name}");
    }
    let nul = Writer::create(Path::new("/dev/full"), WriterOptions::default());
    assert_eq!(nul.err().unwrap().code(), Code::Inval);
    create("state").unwrap();
    assert_eq!(scratch.names(), ["directory", "fifo", "link"]);
    for name in ["directory", "link", "fifo"] {
        assert!(checkpoint::open(&scratch.0.join(name), OpenOptions::default()).is_err());
    }
}

#[test]
fn two_writers_of_one_name_do_not_meet_and_a_dead_one_is_no_obstacle() {
    let scratch = Scratch::new("two");
    let first = Writer::create(&scratch.file(), WriterOptions::default()).unwrap();
    assert_eq!(scratch.names(), [".state.vfiomig-tmp"]);
    let second = Writer::create(&scratch.file(), WriterOptions::default());
    assert_eq!(second.err().unwrap().code(), Code::Busy);
    drop(first);
    assert!(scratch.names().is_empty());
    std::fs::write(scratch.0.join(".state.vfiomig-tmp"), b"left by a dead writer").unwrap();
    let (_sim, device) = rig(1);
    take(&scratch.file(), &[&device], WriterOptions::default()).unwrap();
    assert_eq!(scratch.names(), ["state"]);
    // Somebody takes the file away while it is written: the old one stays.
    let old = std::fs::read(scratch.file()).unwrap();
    let mut writer = Writer::create(&scratch.file(), WriterOptions::default()).unwrap();
    writer.add("a", &device, SaveOptions::default()).unwrap();
    writer.read().unwrap();
    std::fs::remove_file(scratch.0.join(".state.vfiomig-tmp")).unwrap();
    std::fs::write(scratch.0.join(".state.vfiomig-tmp"), b"of somebody else").unwrap();
    writer.stop().unwrap();
    writer.read().unwrap();
    writer.resume(Guest::GoesOn).unwrap();
    assert_eq!(writer.commit().unwrap_err().code(), Code::Io);
    drop(writer);
    assert_eq!(std::fs::read(scratch.file()).unwrap(), old);
}

/// Limits the length of files of this process, as a full disk would.
fn limited<T>(bytes: u64, run: impl FnOnce() -> T) -> T {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structures are there for the calls.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut before);
        let now = libc::rlimit { rlim_cur: bytes, rlim_max: before.rlim_max };
        libc::setrlimit(libc::RLIMIT_FSIZE, &raw const now);
        let result = run();
        libc::setrlimit(libc::RLIMIT_FSIZE, &raw const before);
        result
    }
}

/// Runs in a process of its own, because the limit is the process's.
#[test]
fn a_full_disk_leaves_the_guest_running_and_the_old_file_whole() {
    if !is_child("full") {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_full_disk_leaves_the_guest_running_and_the_old_file_whole"])
            .env("VFIOMIG_CHECKPOINT_CHILD", "full")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        return;
    }
    let scratch = Scratch::new("full");
    let (sim, device) = rig(1);
    take(&scratch.file(), &[&device], WriterOptions::default()).unwrap();
    let old = std::fs::read(scratch.file()).unwrap();
    let digest = sim.digest();
    for spool in [0, 1 << 30] {
        for limit in (0..old.len() as u64).step_by(3001).chain([old.len() as u64 - 1]) {
            let options = WriterOptions { spool, ..WriterOptions::default() };
            let result = limited(limit, || {
                let mut writer = Writer::create(&scratch.file(), options)?;
                writer.add("dev0", &device, SaveOptions::default())?;
                let mut failed = false;
                failed |= writer.read().is_err();
                failed |= writer.stop().is_err();
                failed |= writer.read().is_err();
                // Whatever happened to the file, the device comes back.
                writer.resume(Guest::GoesOn).unwrap();
                let result = writer.commit();
                assert!(!failed || result.is_err());
                result
            });
            let error = result.unwrap_err();
            assert_eq!(error.code(), Code::NoSpace, "{error}");
            assert_eq!(device.state().unwrap(), State::Running);
            assert_eq!(std::fs::read(scratch.file()).unwrap(), old);
            assert_eq!(scratch.names(), ["state"]);
        }
    }
    assert_eq!(sim.digest(), digest);
}

#[test]
fn a_cancelled_checkpoint_leaves_the_guest_running_and_the_old_file_whole() {
    let scratch = Scratch::new("cancel");
    let (_sim, device) = rig(1);
    take(&scratch.file(), &[&device], WriterOptions::default()).unwrap();
    let old = std::fs::read(scratch.file()).unwrap();
    for step in 0..5 {
        let mut writer = Writer::create(&scratch.file(), WriterOptions::default()).unwrap();
        writer.add("dev0", &device, SaveOptions::default()).unwrap();
        let watcher = writer.watcher();
        let cancel = |at| {
            if at == step {
                watcher.cancel();
            }
        };
        let mut results = Vec::new();
        cancel(0);
        results.push(writer.read());
        cancel(1);
        results.push(writer.stop());
        cancel(2);
        results.push(writer.read());
        cancel(3);
        writer.resume(Guest::GoesOn).unwrap();
        cancel(4);
        assert_eq!(writer.commit().unwrap_err().code(), Code::Cancelled, "{step}");
        drop(writer);
        assert_eq!(device.state().unwrap(), State::Running);
        assert_eq!(std::fs::read(scratch.file()).unwrap(), old);
        assert_eq!(scratch.names(), ["state"]);
    }
}

#[test]
fn a_writer_that_is_dropped_gives_the_devices_back() {
    let scratch = Scratch::new("drop");
    let (one, two) = (rig(1), rig(2));
    for step in 0..4 {
        let mut writer = Writer::create(&scratch.file(), WriterOptions::default()).unwrap();
        writer.add("a", &one.1, numbered(0)).unwrap();
        writer.add("b", &two.1, numbered(1)).unwrap();
        assert_eq!(writer.add("b", &two.1, numbered(2)).unwrap_err().code(), Code::Inval);
        if step >= 1 {
            writer.read().unwrap();
        }
        if step >= 2 {
            writer.stop().unwrap();
            assert_eq!(writer.stop().unwrap_err().code(), Code::Inval);
            assert_eq!(writer.commit().unwrap_err().code(), Code::Inval);
        }
        if step >= 3 {
            writer.read().unwrap();
        }
        drop(writer);
        assert_eq!(one.1.state().unwrap(), State::Running);
        assert_eq!(two.1.state().unwrap(), State::Running);
        assert!(scratch.names().is_empty());
    }
}

#[test]
fn a_callback_for_keys_may_use_the_checkpoint_and_others_wait_for_it() {
    let scratch = Scratch::new("callback");
    let device = rig(1).1;
    let auth = Some(keys());
    take(&scratch.file(), &[&device], WriterOptions { auth, ..WriterOptions::default() }).unwrap();
    let file: Arc<Mutex<Option<Arc<checkpoint::File>>>> = Arc::default();
    let inside = Arc::clone(&file);
    let auth = Auth::with_keys(7, move |_, key| {
        let file = inside.lock().unwrap().clone();
        if let Some(file) = file {
            // Busy, or done before: it does not wait for this very call.
            let _ = file.verify_all();
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        key.fill(0x5a);
        Ok(())
    });
    let options = OpenOptions { auth: Some(auth), ..OpenOptions::default() };
    let opened = Arc::new(checkpoint::open(&scratch.file(), options).unwrap());
    *file.lock().unwrap() = Some(Arc::clone(&opened));
    std::thread::scope(|scope| {
        for seed in 2..8 {
            let opened = &opened;
            scope.spawn(move || {
                opened.restore("dev0", &rig(seed).1, LoadOptions::default()).unwrap()
            });
        }
    });
    *file.lock().unwrap() = None;
}

#[test]
fn limits_of_the_reader_hold() {
    let scratch = Scratch::new("limits");
    let (_sim, device) = rig(1);
    take(&scratch.file(), &[&device], WriterOptions::default()).unwrap();
    let limits = DecodeLimits { max_total: 1000, ..DecodeLimits::default() };
    let options = OpenOptions { limits, ..OpenOptions::default() };
    let file = checkpoint::open(&scratch.file(), options).unwrap();
    assert_eq!(file.verify_all().unwrap_err().code(), Code::MsgSize);
}

/// Does something to what a restore reads from when the driver is about to get the first bytes.
struct Meddler<F: FnMut() + Send>(F);

impl<F: FnMut() + Send> Guard for Meddler<F> {
    fn data(&mut self, _bytes: &[u8], offset: u64) -> vfiomig::Result<()> {
        if offset == 0 {
            (self.0)();
        }
        Ok(())
    }

    fn restart(&mut self) -> vfiomig::Result<()> {
        Ok(())
    }

    fn end(&mut self, _len: u64) -> vfiomig::Result<()> {
        Ok(())
    }
}

/// A device with more than a restore reads at once.
fn large_rig(seed: u64) -> (Sim, Device) {
    let options = SimOptions { seed, state_size: 3 << 20, ..SimOptions::default() };
    let sim = Sim::new(options).unwrap();
    let device = Device::new(sim.transport(), DeviceOptions::default()).unwrap();
    (sim, device)
}

#[test]
fn a_restore_that_ends_early_says_what_has_become_of_the_device() {
    let scratch = Scratch::new("early");
    let (_sim, device) = large_rig(1);
    take(&scratch.file(), &[&device], WriterOptions::default()).unwrap();
    let whole = std::fs::read(scratch.file()).unwrap();
    for (cut, staged, lost) in [
        (false, 0, false),
        (false, 0, true),
        (false, 1 << 30, false),
        (false, 1 << 30, true),
        (true, 0, false),
        (true, 0, true),
    ] {
        std::fs::write(scratch.file(), &whole).unwrap();
        let (sim, target) = large_rig(2);
        if lost {
            sim.inject(Op::Reset, 1, libc::EIO, Effect::Sticky);
        }
        let options = OpenOptions { staged, ..OpenOptions::default() };
        let file = checkpoint::open(&scratch.file(), options).unwrap();
        let (watcher, path) = (file.watcher(), scratch.file());
        let meddler = Meddler(move || match cut {
            true => {
                let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                file.set_len(1 << 20).unwrap();
            }
            false => watcher.cancel(),
        });
        let load = LoadOptions { guard: Some(Box::new(meddler)), ..LoadOptions::default() };
        let error = file.restore("dev0", &target, load).unwrap_err();
        let (code, outcome) = (
            if cut { Code::NoData } else { Code::Cancelled },
            if lost { Outcome::Lost } else { Outcome::Reset },
        );
        assert_eq!(error.code(), code, "{error}");
        let text = if lost { "could not be reset" } else { "the device was reset" };
        assert!(error.to_string().contains(text), "{error}");
        let failure = target.failure().unwrap().unwrap();
        assert_eq!((failure.code, failure.outcome), (Some(code), outcome), "{error}");
        assert_eq!(target.state().is_ok_and(|state| state == State::Running), !lost);
    }
}

/// The device is as it was, and nobody has reset it.
fn is_untouched(rig: &(Sim, Device), digest: u64) {
    assert_eq!((rig.0.digest(), rig.1.state().unwrap()), (digest, State::Running));
    assert_eq!(rig.0.count(Op::Reset), 0);
}

#[test]
fn what_the_load_would_refuse_is_refused_before_the_device_loses_anything() {
    let scratch = Scratch::new("stricter");
    let (_sim, device) = large_rig(1);
    take(&scratch.file(), &[&device], WriterOptions::default()).unwrap();
    let target = large_rig(2);
    let digest = target.0.digest();
    let wide = DecodeLimits::default();
    for limits in [
        DecodeLimits { max_total: 2 << 20, ..wide },
        DecodeLimits { max_frame: 100, ..wide },
        DecodeLimits { max_other_frames: 1, ..wide },
    ] {
        for staged in [0, 1 << 30] {
            let options = OpenOptions { staged, ..OpenOptions::default() };
            let file = checkpoint::open(&scratch.file(), options).unwrap();
            file.verify("dev0").unwrap();
            let load = LoadOptions { limits, ..LoadOptions::default() };
            let error = file.restore("dev0", &target.1, load).unwrap_err();
            assert_eq!(error.code(), Code::MsgSize, "{limits:?}");
            is_untouched(&target, digest);
        }
    }
    // Others are free to load it.
    let file = checkpoint::open(&scratch.file(), OpenOptions::default()).unwrap();
    file.restore("dev0", &target.1, LoadOptions::default()).unwrap();
}

/// A checkpoint of one stream that has a blob, which a restart makes void if `restart`.
fn put_stream_with_blob(path: &Path, device: &Device, restart: bool) {
    let identity = device.identity().unwrap();
    let mut encoder = Encoder::new([9; 16], 0);
    let (mut stream, mut buf) = (Vec::new(), vec![0; 1 << 16]);
    let len = encoder.preamble(&mut buf).unwrap();
    stream.extend_from_slice(&buf[..len]);
    let mut frames = vec![
        (FrameType::Identity, encode_identity(&identity)),
        (FrameType::Blob, vec![1, 0, 0, 0, 0, 0, 0, 0, 7]),
    ];
    if restart {
        frames.push((FrameType::Restart, vec![1, 0, 0, 0, 0, 0, 0, 0]));
    }
    frames.push((FrameType::Data, vec![5; 100]));
    for (kind, payload) in frames {
        let len = encoder.frame(&mut buf, kind, &[&payload]).unwrap();
        stream.extend_from_slice(&buf[..len]);
    }
    let len = encoder.end(&mut buf).unwrap();
    stream.extend_from_slice(&buf[..len]);
    let end = StreamEnd::from_payload(stream[stream.len() - END_LEN..].try_into().unwrap());
    let end = end.unwrap();
    assert_eq!(end.blobs, u32::from(!restart));
    let mut file = encode_head([3; 16], false).to_vec();
    let (offset, len) = (file.len() as u64, stream.len() as u64);
    file.extend_from_slice(&stream);
    let manifest = Manifest {
        id: [3; 16],
        created_ns: 0,
        generation: 0,
        note: Vec::new(),
        key_id: None,
        devices: vec![Entry {
            name: "dev0".to_owned(),
            device: 0,
            migration_id: [9; 16],
            pieces: vec![Piece { offset, len }],
            end,
            identity: Box::new(identity),
        }],
    };
    file.extend_from_slice(&encode_manifest(&manifest, offset + len, None).unwrap());
    std::fs::write(path, file).unwrap();
}

#[test]
fn blobs_that_nobody_takes_are_refused_before_the_device_loses_anything() {
    let scratch = Scratch::new("blobs");
    for restart in [false, true] {
        let target = rig(1);
        let digest = target.0.digest();
        put_stream_with_blob(&scratch.file(), &target.1, restart);
        for (staged, first) in [(0, false), (0, true), (1 << 30, false)] {
            let options = OpenOptions { staged, ..OpenOptions::default() };
            let file = checkpoint::open(&scratch.file(), options).unwrap();
            if first {
                file.verify_all().unwrap();
            }
            let error = file.restore("dev0", &target.1, LoadOptions::default()).unwrap_err();
            assert_eq!(error.code(), Code::NotSupported, "{error}");
            is_untouched(&target, digest);
        }
        // With a sink, it comes to the blob, and to the driver.
        let came = Arc::new(Mutex::new(0));
        let sink = Arc::clone(&came);
        let blobs: vfiomig::session::BlobSink = Box::new(move |_, _| {
            *sink.lock().unwrap() += 1;
            Ok(())
        });
        let load = LoadOptions { blobs: Some(blobs), ..LoadOptions::default() };
        let file = checkpoint::open(&scratch.file(), OpenOptions::default()).unwrap();
        let _ = file.restore("dev0", &target.1, load);
        assert_eq!(*came.lock().unwrap(), 1);
    }
}

#[test]
fn two_streams_with_the_same_name_and_index_are_refused_at_once() {
    let scratch = Scratch::new("twice");
    let (one, two) = (rig(1), rig(2));
    let named = |index| SaveOptions { migration_id: [7; 16], ..numbered(index) };
    let mut writer = Writer::create(&scratch.file(), WriterOptions::default()).unwrap();
    writer.add("a", &one.1, named(0)).unwrap();
    assert_eq!(writer.add("b", &two.1, named(0)).unwrap_err().code(), Code::Inval);
    assert_eq!(two.1.state().unwrap(), State::Running);
    // That has changed nothing: with another index it goes on.
    writer.add("b", &two.1, named(1)).unwrap();
    writer.read().unwrap();
    writer.stop().unwrap();
    writer.read().unwrap();
    writer.resume(Guest::GoesOn).unwrap();
    writer.commit().unwrap();
}

#[test]
fn a_device_that_does_not_come_back_is_the_error_of_a_checkpoint_in_one_call() {
    let scratch = Scratch::new("not-back");
    let (sim, device) = rig(1);
    // It cannot be read once, and is gone when it is to go on.
    sim.inject(Op::Read, 1, libc::EIO, Effect::Once);
    sim.inject(Op::SetState, 2, libc::ENODEV, Effect::Die);
    let devices = vec![("a".to_owned(), device, SaveOptions::default())];
    let error = checkpoint::write(&scratch.file(), devices, WriterOptions::default()).unwrap_err();
    assert_eq!(error.code(), Code::NoDev, "{error}");
}

fn is_child(what: &str) -> bool {
    std::env::var("VFIOMIG_CHECKPOINT_CHILD").is_ok_and(|found| found == what)
}

/// What the process does that is killed.
fn write_until_killed(path: &Path) {
    let (_sim, device) = rig(2);
    let options = WriterOptions { spool: 1 << 20, generation: 2, ..WriterOptions::default() };
    // The parent counts system calls from here on.
    // SAFETY: touches no memory.
    unsafe { libc::raise(libc::SIGSTOP) };
    take(path, &[&device], options).unwrap();
    std::process::exit(0);
}

/// Runs the writer until it is about to make a system call for the nth time, or has just returned
/// from one, and kills it. Returns whether it was killed.
fn killed_after(path: &Path, calls: usize) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "kill_9_at_every_system_call_leaves_the_old_checkpoint_whole"])
        .env("VFIOMIG_CHECKPOINT_CHILD", path)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    // SAFETY: only system calls.
    unsafe {
        command.pre_exec(|| {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    let pid = child.id() as i32;
    let wait = |pid: i32| {
        let mut status = 0;
        // SAFETY: the number is there for the call.
        let found = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        (found, status)
    };
    // SAFETY: as above; no memory of ours is touched.
    let go = |pid: i32, how: libc::c_uint, signal: i32| unsafe {
        libc::ptrace(how, pid, 0usize, signal as usize)
    };
    assert!(libc::WIFSTOPPED(wait(pid).1));
    let options = libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    // SAFETY: as above.
    unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0usize, options as usize) };
    go(pid, libc::PTRACE_CONT, 0);
    // Tests run on threads of their own: the one that stops is the writer.
    let writer = loop {
        let (found, status) = wait(-1);
        assert!(found > 0 && !libc::WIFEXITED(status), "{status:x}");
        if libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGSTOP {
            // A new thread begins with this signal as well, but not with this call.
            // SAFETY: all zeros is a value of this structure, which is there for the call.
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            // SAFETY: as above.
            unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, found, 0usize, &raw mut info) };
            if info.si_code == libc::SI_TKILL {
                break found;
            }
        }
        go(found, libc::PTRACE_CONT, 0);
    };
    let mut left = calls;
    let killed = loop {
        if left == 0 {
            break true;
        }
        go(writer, libc::PTRACE_SYSCALL, 0);
        let (found, status) = wait(writer);
        if found != writer || libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            break false;
        }
        left -= usize::from(libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80);
    };
    child.kill().unwrap();
    // The process is gone only when each of its threads has been waited for.
    loop {
        let (found, status) = wait(writer);
        if found != writer || libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            break;
        }
    }
    let _ = child.wait();
    killed
}

#[test]
fn kill_9_at_every_system_call_leaves_the_old_checkpoint_whole() {
    if let Ok(path) = std::env::var("VFIOMIG_CHECKPOINT_CHILD") {
        if path != "full" {
            write_until_killed(Path::new(&path));
        }
        return;
    }
    let scratch = Scratch::new("kill");
    let (_sim, device) = rig(1);
    let options = WriterOptions { generation: 1, ..WriterOptions::default() };
    take(&scratch.file(), &[&device], options).unwrap();
    let old = std::fs::read(scratch.file()).unwrap();
    let (mut kept, mut replaced) = (0, 0);
    for calls in 0.. {
        std::fs::write(scratch.file(), &old).unwrap();
        if !killed_after(&scratch.file(), calls) {
            break;
        }
        let file = checkpoint::open(&scratch.file(), OpenOptions::default()).unwrap();
        file.verify_all().unwrap();
        match file.manifest().generation {
            1 => {
                assert_eq!(std::fs::read(scratch.file()).unwrap(), old, "after {calls}");
                kept += 1;
            }
            _ => replaced += 1,
        }
        let others: Vec<_> = scratch.names().into_iter().filter(|name| name != "state").collect();
        assert!(others.iter().all(|name| name == ".state.vfiomig-tmp"), "{others:?}");
    }
    let mut out = std::io::stderr().lock();
    writeln!(out, "{kept} kills kept the old checkpoint, {replaced} came after the new one")
        .unwrap();
    // Two stops for each call, and there are at least these: open, lock, write, fsync, rename.
    assert!(kept > 20 && replaced > 0, "{kept} {replaced}");
    // What dead writers left is gone after the next.
    take(&scratch.file(), &[&device], WriterOptions::default()).unwrap();
    assert_eq!(scratch.names(), ["state"]);
}

#[test]
fn dirty_tracking_goes_on_across_a_checkpoint() {
    let (dir, (sim, device)) = (Scratch::new("dirty"), rig(1));
    let taken = Taken::default();
    let mapping = Mapping { size: 64 * PAGE, ..Mapping::default() };
    let mut tracking = new_tracking(taken.clone(), &[mapping]);
    tracking.add_writer(dirty::Writer::device(&device).unwrap()).unwrap();
    tracking.start().unwrap();
    sim.dma_write(3 * PAGE, 1).unwrap();
    tracking.collect().unwrap();
    assert_eq!(taken.take(), [3]);

    sim.dma_write(5 * PAGE, 1).unwrap();
    take(&dir.file(), &[&device], WriterOptions::default()).unwrap();
    sim.dma_write(9 * PAGE, 1).unwrap();
    assert!(!tracking.collect().unwrap().errors);
    assert_eq!(taken.take(), [5, 9]);
}
