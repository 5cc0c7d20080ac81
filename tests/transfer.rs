// SPDX-License-Identifier: MIT OR Apache-2.0
//! Streams through descriptors: sockets, pipes and files, blocking or not, and what goes wrong there.

#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vfiomig::Device;
use vfiomig::device::{DeviceOptions, State};
use vfiomig::error::{Code, Operation};
use vfiomig::session::{Ending, Load, LoadOptions, Save, SaveOptions, SaveStatus, Transfer};
use vfiomig_sim::{Sim, SimOptions};

fn rig(seed: u64) -> (Sim, Device) {
    let sim = Sim::new(SimOptions { seed, ..SimOptions::default() }).unwrap();
    let device = Device::new(sim.transport(), DeviceOptions::default()).unwrap();
    (sim, device)
}

fn pipe(flags: i32) -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: two numbers fit.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | flags) }, 0);
    // SAFETY: the kernel has just opened them.
    unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) }
}

fn socket(nonblocking: bool) -> (OwnedFd, OwnedFd) {
    let (one, two) = UnixStream::pair().unwrap();
    one.set_nonblocking(nonblocking).unwrap();
    two.set_nonblocking(nonblocking).unwrap();
    (one.into(), two.into())
}

fn send(save: &mut Save, fd: &OwnedFd, how: Transfer) {
    let mut status = SaveStatus::More;
    while status != SaveStatus::End {
        status = save.write_fd(fd.as_fd(), how).unwrap();
        if status == SaveStatus::Drained {
            save.stop().unwrap();
        }
    }
}

fn receive(load: &mut Load, fd: &OwnedFd, how: Transfer) {
    while !load.read_fd(fd.as_fd(), how).unwrap().ended {}
    load.commit().unwrap();
}

#[test]
fn a_state_arrives_through_whatever_there_is_in_pieces_of_any_size() {
    let pairs: [fn() -> (OwnedFd, OwnedFd); 4] =
        [|| pipe(0), || pipe(libc::O_NONBLOCK), || socket(false), || socket(true)];
    for pair in pairs {
        for max_bytes in [0, 1000, 300_000] {
            let (source, target) = (rig(1), rig(2));
            let (reader, writer) = pair();
            let how = Transfer { max_bytes, ..Transfer::default() };
            let mut save = source.1.save(SaveOptions::default()).unwrap();
            let mut load = target.1.load(LoadOptions::default()).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    send(&mut save, &writer, how);
                    File::from(writer.try_clone().unwrap()).write_all(b"more").unwrap();
                });
                receive(&mut load, &reader, how);
            });
            // What follows is still there.
            let mut more = [0; 4];
            File::from(reader).read_exact(&mut more).unwrap();
            assert_eq!(more, *b"more");
            save.finish(Ending::Release).unwrap();
            assert_eq!(source.0.digest(), target.0.digest());
        }
    }
}

#[test]
fn a_file_takes_a_stream_and_gives_it_back() {
    let (source, target) = (rig(1), rig(2));
    let name = std::env::temp_dir().join(format!("vfiomig-transfer-{}", std::process::id()));
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(true).open(&name).unwrap();
    std::fs::remove_file(&name).unwrap();
    let mut save = source.1.save(SaveOptions::default()).unwrap();
    let fd = OwnedFd::from(file.try_clone().unwrap());
    send(&mut save, &fd, Transfer::default());
    // All of it was written: there is nothing to repeat.
    assert_eq!(save.write_fd(fd.as_fd(), Transfer::default()).unwrap(), SaveStatus::End);
    save.finish(Ending::Keep).unwrap();
    // Cut off: nothing is lost, and the rest may come from elsewhere.
    let len = file.stream_position().unwrap();
    file.rewind().unwrap();
    let mut load = target.1.load(LoadOptions::default()).unwrap();
    let mut all = Vec::new();
    file.read_to_end(&mut all).unwrap();
    assert_eq!(all.len() as u64, len);
    let (reader, writer) = socket(false);
    let mut writer = File::from(writer);
    let half = all.len() / 2;
    std::thread::scope(|scope| {
        let first = &all[..half];
        scope.spawn(move || writer.write_all(first).unwrap());
        let ended = loop {
            match load.read_fd(reader.as_fd(), Transfer::default()) {
                Ok(status) => assert!(!status.ended),
                Err(error) => break error,
            }
        };
        assert_eq!(ended.code(), Code::NoData);
    });
    file.seek(std::io::SeekFrom::Start(half as u64)).unwrap();
    receive(&mut load, &fd, Transfer::default());
    assert_eq!(source.0.digest(), target.0.digest());
}

#[test]
fn what_is_stuck_times_out_or_is_cancelled_and_loses_nothing() {
    for pair in [pipe(0), socket(false)] {
        let (reader, writer) = pair;
        let (source, target) = (rig(1), rig(2));
        let mut save = source.1.save(SaveOptions::default()).unwrap();
        let short = Transfer { timeout: Some(Duration::from_millis(60)), ..Transfer::default() };
        let begun = Instant::now();
        let error = save.write_fd(writer.as_fd(), short).unwrap_err();
        assert_eq!(error.code(), Code::TimedOut);
        assert!(begun.elapsed() >= Duration::from_millis(60));
        let no_wait = Transfer { no_wait: true, ..Transfer::default() };
        assert_eq!(save.write_fd(writer.as_fd(), no_wait).unwrap_err().code(), Code::Again);
        // Bytes wait: nobody may take the next ones, nor forget them.
        let mut buf = vec![0; 1 << 20];
        assert_eq!(save.next(&mut buf).unwrap_err().code(), Code::Inval);
        let mut load = target.1.load(LoadOptions::default()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| send(&mut save, &writer, Transfer::default()));
            receive(&mut load, &reader, Transfer::default());
        });
        assert_eq!(source.0.digest(), target.0.digest());

        let (idle, _other) = socket(false);
        let mut load = rig(3).1.load(LoadOptions::default()).unwrap();
        assert_eq!(load.read_fd(idle.as_fd(), short).unwrap_err().code(), Code::TimedOut);
        assert_eq!(load.read_fd(idle.as_fd(), no_wait).unwrap_err().code(), Code::Again);
        let shared = load.shared();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(50));
                shared.cancel();
            });
            let forever = Transfer { timeout: None, ..Transfer::default() };
            let error = load.read_fd(idle.as_fd(), forever).unwrap_err();
            assert_eq!(error.code(), Code::Cancelled);
        });
    }
    let (_reader, writer) = pipe(0);
    let source = rig(1);
    let mut save = source.1.save(SaveOptions::default()).unwrap();
    let shared = save.shared();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            shared.cancel();
        });
        let forever = Transfer { timeout: None, ..Transfer::default() };
        let error = save.write_fd(writer.as_fd(), forever).unwrap_err();
        assert_eq!(error.code(), Code::Cancelled);
    });
    save.finish(Ending::Keep).unwrap();
    assert_eq!(source.1.state().unwrap(), State::Running);
}

#[test]
fn who_has_gone_and_a_full_disk_are_told_without_a_signal() {
    // SAFETY: the default action ends the process, which is what would be seen.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    for pair in [pipe(0), pipe(libc::O_NONBLOCK), socket(false)] {
        let (reader, writer) = pair;
        drop(reader);
        let source = rig(1);
        let mut save = source.1.save(SaveOptions::default()).unwrap();
        let error = save.write_fd(writer.as_fd(), Transfer::default()).unwrap_err();
        let failure = *error.failure().unwrap();
        assert_eq!((error.code(), failure.errno), (Code::Io, libc::EPIPE));
        assert_eq!(failure.operation, Operation::File);
        assert_eq!(save.failure().unwrap().errno, libc::EPIPE);
        save.finish(Ending::Keep).unwrap();
        assert_eq!(source.1.state().unwrap(), State::Running);
    }
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let source = rig(1);
    let mut save = source.1.save(SaveOptions::default()).unwrap();
    let error = save.write_fd(full.as_fd(), Transfer::default()).unwrap_err();
    assert_eq!((error.code(), error.failure().unwrap().errno), (Code::NoSpace, libc::ENOSPC));
    // Made room elsewhere: nothing is lost.
    let null = OpenOptions::new().write(true).open("/dev/null").unwrap();
    send(&mut save, &OwnedFd::from(null), Transfer::default());
    let unreadable = OpenOptions::new().write(true).open("/dev/null").unwrap();
    let mut load = rig(2).1.load(LoadOptions::default()).unwrap();
    let error = load.read_fd(unreadable.as_fd(), Transfer::default()).unwrap_err();
    assert_eq!(error.code(), Code::Inval);
}
