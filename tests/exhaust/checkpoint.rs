// SPDX-License-Identifier: MIT OR Apache-2.0
//! A checkpoint of two devices, and a restore from it, in which each call to a device fails in each way,
//! and so does each call that reads or writes the file. The devices go on, whatever one of them does; the
//! file is the old one or a whole new one; and once nothing fails, everything works.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use vfiomig::Device;
use vfiomig::Result;
use vfiomig::checkpoint::{self, Guest, OpenOptions, Writer, WriterOptions};
use vfiomig::error::{Code, Failure, Outcome};
use vfiomig::session::{LoadOptions, SaveOptions};
use vfiomig_sim::{Sim, State};

use super::counting::left;
use super::files;
use super::migration::{AGAIN, work};
use super::table::{self, Asked, Listed};
use super::tap::{At, Call, Fault, Strike, Tap};

const BOTH: [At; 2] = [At::Source, At::Target];
const NAMES: [&str; 2] = ["one", "two"];
/// Nothing is spooled; everything is.
const SPOOLS: [u64; 2] = [0, 1 << 20];
/// What a file system may say.
const ERRNOS: [i32; 6] =
    [libc::EIO, libc::ENOMEM, libc::EINTR, libc::EACCES, libc::EINVAL, libc::ENOSPC];
/// How it says nothing of room: when a file is read.
const WITHOUT_ROOM: usize = 5;

/// Two devices and the tap on both.
struct Rig {
    tap: Tap,
    sims: [Sim; 2],
    devices: [Device; 2],
}

impl Rig {
    fn new(strikes: &[Strike]) -> Rig {
        let (tap, sims) = (Tap::new(strikes), BOTH.map(|at| AGAIN.sim(at)));
        let devices = BOTH.map(|at| tap.device(at, &sims[at as usize]));
        Rig { tap, sims, devices }
    }

    /// Nothing fails from now on, and both run.
    fn calm(&mut self) {
        let broken = !self.tap.struck().is_empty();
        self.tap.calm();
        for at in BOTH {
            let (sim, device) = (&self.sims[at as usize], &mut self.devices[at as usize]);
            sim.clear_faults();
            if broken {
                sim.guest_reset();
                device.was_reset().unwrap();
                if sim.state() != State::RUNNING {
                    device.reset().unwrap();
                }
                device.accept_reset().unwrap();
            }
            // One that failed while it was probed is opened again.
            if device.caps().unwrap().migration_flags.bits() != u64::from(AGAIN.flags) {
                *device = self.tap.device(at, sim);
            }
            assert_eq!(sim.state(), State::RUNNING);
        }
    }
}

/// What a call said.
struct Word {
    function: &'static str,
    code: Code,
    text: String,
    failure: Option<Failure>,
}

#[derive(Default)]
struct Words {
    all: Vec<Word>,
    /// Where the devices were as soon as they were given back.
    given_back: Option<[State; 2]>,
}

impl Words {
    fn hear<T>(&mut self, function: &'static str, result: Result<T>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let (code, text) = (error.code(), error.message().to_owned());
        self.all.push(Word { function, code, text, failure: error.failure().copied() });
        None
    }

    /// Whether a VMM was told that a device has lost its contents, or is lost.
    fn told(&self) -> bool {
        let outcomes = self.all.iter().filter_map(|word| word.failure).map(|it| it.outcome);
        outcomes.into_iter().any(|outcome| matches!(outcome, Outcome::Reset | Outcome::Lost))
    }

    fn of(&self, function: &str) -> Option<&Word> {
        self.all.iter().find(|word| word.function == function)
    }

    fn check(&self, listed: &Listed) {
        for Word { function, code, text, .. } in &self.all {
            assert!(
                listed.has(function, code.name()),
                "{function}: {code:?} is not listed: {text}"
            );
            assert!(text.len() > 10 && !text.contains('\n'), "{function}: {text}");
        }
    }
}

/// A directory for files, in memory where there is one: what is written there costs nothing.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = base.join(format!("vfiomig-exhaust-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Place(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("state")
    }

    /// What a writer left that died.
    fn leave(&self) {
        std::fs::write(self.0.join(".state.vfiomig-tmp"), "begun").unwrap();
    }

    fn others(&self) -> usize {
        std::fs::read_dir(&self.0).unwrap().count() - 1
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A checkpoint as a VMM takes it, which gives the devices back whatever has failed. Also what the
/// guest relied on when its devices stopped.
fn take(rig: &Rig, path: &Path, spool: u64, generation: u64) -> (Words, [u64; 2]) {
    let mut words = Words::default();
    let digests = || [rig.sims[0].digest(), rig.sims[1].digest()];
    let options = WriterOptions { spool, generation, ..WriterOptions::default() };
    let created = Writer::create(path, options);
    let Some(mut writer) = words.hear("vfiomig_checkpoint_begin", created) else {
        return (words, digests());
    };
    let mut added = true;
    for (at, device) in rig.devices.iter().enumerate() {
        let options = SaveOptions { device_index: at as u32, ..AGAIN.save_options() };
        let result = writer.add(NAMES[at], device, options);
        added &= words.hear("vfiomig_checkpoint_add", result).is_some();
    }
    let mut contents = digests();
    if added {
        words.hear("vfiomig_checkpoint_read", writer.read());
        work(&rig.sims[0]);
        contents = digests();
        words.hear("vfiomig_checkpoint_stop", writer.stop());
        words.hear("vfiomig_checkpoint_read", writer.read());
    }
    words.hear("vfiomig_checkpoint_resume", writer.resume(Guest::GoesOn));
    words.given_back = Some([rig.sims[0].state(), rig.sims[1].state()]);
    words.hear("vfiomig_checkpoint_commit", writer.commit());
    (words, contents)
}

/// Loads a device, and lets it run.
fn restore(rig: &Rig, at: At, path: &Path, staged: u64) -> Words {
    let mut words = Words::default();
    let opened = checkpoint::open(path, OpenOptions { staged, ..OpenOptions::default() });
    let Some(file) = words.hear("vfiomig_restore_open", opened) else { return words };
    if words.hear("vfiomig_restore_verify", file.verify_all()).is_none() {
        return words;
    }
    let (name, device) = (NAMES[at as usize], &rig.devices[at as usize]);
    let options = LoadOptions { policy: AGAIN.load_options().policy, ..LoadOptions::default() };
    if words.hear("vfiomig_restore_load", file.restore(name, device, options)).is_some() {
        words.hear("vfiomig_device_run", device.run());
    }
    words
}

/// The file holds that.
fn check_file(path: &Path, generation: u64, contents: [u64; 2]) {
    let file = checkpoint::open(path, OpenOptions::default()).unwrap();
    assert_eq!(file.manifest().generation, generation);
    drop(file);
    let rig = Rig::new(&[]);
    for at in BOTH {
        let words = restore(&rig, at, path, 0);
        assert!(words.all.is_empty(), "{}", words.all[0].text);
        assert_eq!(rig.sims[at as usize].digest(), contents[at as usize], "{at:?}");
    }
}

/// Whether a device went to ERROR by itself when it was looked at: for the last time, so that nobody
/// has seen it, or before anything was asked of it.
fn failed_unseen(rig: &Rig, at: At) -> bool {
    let looked = |(call, fault): &(Call, Fault)| {
        call.at == at && call.asked == Asked::GetState && *fault == Fault::Error
    };
    rig.sims[at as usize].state() == State::ERROR && rig.tap.struck().iter().any(looked)
}

/// After a checkpoint: the devices.
fn check_devices(rig: &Rig, words: &Words, contents: [u64; 2]) {
    let struck = rig.tap.struck();
    for at in BOTH {
        let mut here = struck.iter().filter(|(call, _)| call.at == at).peekable();
        let (state, digest) = (rig.sims[at as usize].state(), rig.sims[at as usize].digest());
        if here.peek().is_none() {
            // What the other one does is nothing to this one.
            assert_eq!((state, digest), (State::RUNNING, contents[at as usize]), "{at:?}");
            let given_back = words.given_back.map(|states| states[at as usize]);
            assert!(given_back.is_none_or(|state| state == State::RUNNING), "not given back");
            continue;
        }
        if here.any(|(_, fault)| *fault == Fault::Dies) {
            continue;
        }
        let intact = digest == contents[at as usize];
        assert!(intact || words.told(), "contents were lost without a word");
        let resumed = words.of("vfiomig_checkpoint_resume").is_none();
        let given = words.of("vfiomig_checkpoint_add").is_none();
        let excused = !resumed || !given || failed_unseen(rig, at);
        assert!(state == State::RUNNING || excused, "resumed, and in {state:?}");
    }
}

/// After a checkpoint: the file.
fn check_name(words: &Words, place: &Place, old: &[u8], contents: [u64; 2], tidy: bool) {
    let began = words.of("vfiomig_checkpoint_begin").is_none();
    let failed = words.of("vfiomig_checkpoint_commit");
    // The name is there, and the disk could not be told so.
    let in_place = failed.is_some_and(|word| word.text.contains("is in its place"));
    if (began && failed.is_none()) || in_place {
        check_file(&place.file(), 2, contents);
    } else {
        assert!(std::fs::read(place.file()).unwrap() == old, "the old file has changed");
    }
    assert!(!tidy || place.others() == 0, "something was left behind");
}

/// The next one works, and what a broken one left is gone.
fn check_again(rig: &mut Rig, place: &Place) {
    rig.calm();
    let (words, contents) = take(rig, &place.file(), 0, 3);
    assert!(words.all.is_empty(), "the next one: {}", words.all[0].text);
    assert_eq!(place.others(), 0);
    check_file(&place.file(), 3, contents);
    for sim in &rig.sims {
        assert_eq!((sim.violations(), sim.open_streams()), ((0, None), 0));
    }
    assert_eq!(rig.tap.wrong(), None);
}

/// What is tried, and what has failed.
pub struct Trial {
    listed: Listed,
    place: Place,
    old: Vec<u8>,
    /// What the devices held when the file was written that is there.
    contents: [u64; 2],
    pub points: usize,
    pub failed: usize,
}

impl Trial {
    pub fn new() -> Trial {
        let place = Place::new();
        let (words, contents) = take(&Rig::new(&[]), &place.file(), 0, 1);
        assert!(words.all.is_empty(), "{}", words.all[0].text);
        let old = std::fs::read(place.file()).unwrap();
        Trial { listed: Listed::read(), place, old, contents, points: 0, failed: 0 }
    }

    /// One point: `check` finds what is wrong, and nothing is left over.
    fn point(&mut self, name: &str, check: impl Fn(&Trial)) {
        self.points += 1;
        std::fs::write(self.place.file(), &self.old).unwrap();
        let before = left();
        let checked = catch_unwind(AssertUnwindSafe(|| {
            check(self);
            assert_eq!(left(), before, "left over");
        }));
        if let Err(why) = checked {
            let text = why.downcast_ref::<&str>().copied();
            let why = why.downcast_ref::<String>().map(String::as_str).or(text).unwrap_or_default();
            self.failed += 1;
            super::say(&format!("exhaust: FAILED: {name}: {why}"));
        }
    }

    /// A checkpoint in which calls to devices fail.
    fn take_struck(&self, spool: u64, strikes: &[Strike]) {
        let mut rig = Rig::new(strikes);
        let (words, contents) = take(&rig, &self.place.file(), spool, 2);
        assert!(!rig.tap.struck().is_empty(), "nothing struck");
        words.check(&self.listed);
        check_devices(&rig, &words, contents);
        check_name(&words, &self.place, &self.old, contents, true);
        check_again(&mut rig, &self.place);
    }

    /// A checkpoint in which a call to the system fails.
    fn take_on_broken_files(&self, spool: u64, nth: usize, fault: files::Fault) {
        let mut rig = Rig::new(&[]);
        let path = self.place.file();
        self.place.leave();
        let ((words, contents), calls) = files::strike(nth, fault, || take(&rig, &path, spool, 2));
        words.check(&self.listed);
        check_devices(&rig, &words, contents);
        // What cannot be looked at or removed stays, for the next writer to remove.
        let tidy = words.of("vfiomig_checkpoint_begin").is_none()
            && !["fstat64", "fstatat64"].contains(&calls[nth - 1]);
        check_name(&words, &self.place, &self.old, contents, tidy);
        drop((words, calls));
        check_again(&mut rig, &self.place);
    }

    /// After a restore: it holds what was saved, or what it had, or the VMM was told.
    fn check_restored(&self, rig: &Rig, words: &Words, before: u64) {
        words.check(&self.listed);
        let (state, digest) = (rig.sims[0].state(), rig.sims[0].digest());
        let died = rig.tap.struck().iter().any(|(_, fault)| *fault == Fault::Dies);
        if died || failed_unseen(rig, At::Source) {
            return;
        }
        let loaded = digest == self.contents[0];
        let kept = digest == before && state == State::RUNNING;
        match words.all.last() {
            None => assert_eq!((loaded, state), (true, State::RUNNING)),
            Some(word) if word.function == "vfiomig_device_run" => {
                assert!(loaded || words.told(), "{}", word.text);
            }
            Some(word) => assert!(kept || words.told(), "{}: {state:?}", word.text),
        }
    }

    fn restore_struck(&self, staged: u64, strikes: &[Strike]) {
        let mut rig = Rig::new(strikes);
        let before = rig.sims[0].digest();
        let words = restore(&rig, At::Source, &self.place.file(), staged);
        assert!(!rig.tap.struck().is_empty(), "nothing struck");
        self.check_restored(&rig, &words, before);
        check_again(&mut rig, &self.place);
    }

    fn restore_from_broken_files(&self, staged: u64, nth: usize, fault: files::Fault) {
        let mut rig = Rig::new(&[]);
        // So that what was loaded is not what was there.
        rig.sims[0].guest_write(7, 200, 99).unwrap();
        let before = rig.sims[0].digest();
        let run = || restore(&rig, At::Source, &self.place.file(), staged);
        let (words, calls) = files::strike(nth, fault, run);
        self.check_restored(&rig, &words, before);
        drop((words, calls));
        check_again(&mut rig, &self.place);
    }

    /// Each call to a device, in each way.
    pub fn devices(&mut self) {
        let errnos = table::errnos();
        for bytes in SPOOLS {
            for restores in [false, true] {
                let rig = Rig::new(&[]);
                let words = match restores {
                    false => take(&rig, &self.place.file(), bytes, 2).0,
                    true => restore(&rig, At::Source, &self.place.file(), bytes),
                };
                assert!(words.all.is_empty(), "{}", words.all[0].text);
                for (nth, call) in (1..).zip(rig.tap.calls()) {
                    for fault in super::faults(call.asked, &errnos[&call.asked]) {
                        let strikes = [Strike { nth, fault, lasts: false }];
                        let name = format!("restores {restores}, {bytes}: {call:?} {strikes:?}");
                        self.point(&name, |trial| match restores {
                            false => trial.take_struck(bytes, &strikes),
                            true => trial.restore_struck(bytes, &strikes),
                        });
                    }
                }
            }
        }
    }

    /// Each call to the system, in each way; returns which functions these were.
    pub fn files(&mut self) -> std::collections::BTreeSet<&'static str> {
        let mut seen = std::collections::BTreeSet::new();
        for bytes in SPOOLS {
            for restores in [false, true] {
                let rig = Rig::new(&[]);
                std::fs::write(self.place.file(), &self.old).unwrap();
                if !restores {
                    self.place.leave();
                }
                let (path, never) = (self.place.file(), files::Fault::Half);
                let (_, calls) = files::strike(0, never, || match restores {
                    false => drop(take(&rig, &path, bytes, 2)),
                    true => drop(restore(&rig, At::Source, &path, bytes)),
                });
                for (nth, call) in (1..).zip(&calls) {
                    seen.insert(*call);
                    let half = call.starts_with('p').then_some(files::Fault::Half);
                    let errnos = if restores { &ERRNOS[..WITHOUT_ROOM] } else { &ERRNOS };
                    let errnos = errnos.iter().map(|errno| files::Fault::Errno(*errno));
                    for fault in errnos.chain(half) {
                        let name = format!("restores {restores}, {bytes}: {call} {nth} {fault:?}");
                        self.point(&name, |trial| match restores {
                            false => trial.take_on_broken_files(bytes, nth, fault),
                            true => trial.restore_from_broken_files(bytes, nth, fault),
                        });
                    }
                }
            }
        }
        seen
    }
}
