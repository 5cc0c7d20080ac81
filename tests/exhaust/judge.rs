// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must hold after every migration in which something failed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use vfiomig::Device;
use vfiomig::error::{Code, Operation, Outcome};
use vfiomig::session::Ending;
use vfiomig_sim::{Sim, State};

use super::counting::left;
use super::migration::{AGAIN, Migration, Shape, Word};
use super::table::{Asked, Listed};
use super::tap::{At, Call, Fault, Strike, Tap};

/// A call that fails must not hold up the VMM for longer. A reset that is refused for a moment takes
/// a second of patience.
const LONGEST: Duration = Duration::from_secs(10);

pub struct Judge {
    listed: Listed,
    points: usize,
    failures: Vec<String>,
}

/// Two devices and the tap on both.
struct Pair {
    shape: &'static Shape,
    tap: Tap,
    sims: [Sim; 2],
    fresh: [u64; 2],
    devices: Option<[Device; 2]>,
}

impl Pair {
    fn new(shape: &'static Shape, strikes: &[Strike]) -> Pair {
        let tap = Tap::new(strikes);
        let sims = [At::Source, At::Target].map(|at| shape.sim(at));
        let fresh = [At::Source, At::Target].map(|at| shape.fresh(at));
        let devices = [At::Source, At::Target].map(|at| tap.device(at, &sims[at as usize]));
        Pair { shape, tap, sims, fresh, devices: Some(devices) }
    }

    fn device(&self, at: At) -> &Device {
        &self.devices.as_ref().unwrap()[at as usize]
    }

    fn sim(&self, at: At) -> &Sim {
        &self.sims[at as usize]
    }
}

impl Judge {
    pub fn new(listed: Listed) -> Judge {
        Judge { listed, points: 0, failures: Vec::new() }
    }

    pub fn points(&self) -> usize {
        self.points
    }

    /// The calls of a migration in which nothing fails.
    pub fn undisturbed(&mut self, shape: &'static Shape) -> Vec<Call> {
        // Twice: what is made once and kept is not what is left over.
        let _ = self.migrate_and_again(shape, &[]);
        self.check(shape, &[])
    }

    /// One migration with failures.
    pub fn point(&mut self, shape: &'static Shape, strikes: &[Strike]) {
        self.points += 1;
        let checked = catch_unwind(AssertUnwindSafe(|| self.check(shape, strikes)));
        if let Err(why) = checked {
            let text = why.downcast_ref::<&str>().copied();
            let why = why.downcast_ref::<String>().map(String::as_str).or(text).unwrap_or_default();
            self.failures.push(format!("{}: {strikes:?}: {why}", shape.name));
        }
    }

    /// Says what failed; returns how much that was.
    pub fn report(&self) -> usize {
        for failure in self.failures.iter().take(50) {
            super::say(&format!("exhaust: FAILED: {failure}"));
        }
        self.failures.len()
    }

    fn check(&self, shape: &'static Shape, strikes: &[Strike]) -> Vec<Call> {
        let begun = Instant::now();
        let before = left();
        let calls = self.migrate_and_again(shape, strikes);
        assert!(begun.elapsed() < LONGEST, "took {:?}", begun.elapsed());
        let (count, after) = (calls.len(), left());
        // What is returned is not left over.
        let returned = calls.capacity() * size_of::<Call>();
        assert_eq!(after.without(returned), before, "left over after {count} calls");
        calls
    }

    fn migrate_and_again(&self, shape: &'static Shape, strikes: &[Strike]) -> Vec<Call> {
        let pair = Pair::new(shape, strikes);
        let calls = self.migrate(&pair, strikes);
        self.check_again(pair, strikes);
        calls
    }

    fn migrate(&self, pair: &Pair, strikes: &[Strike]) -> Vec<Call> {
        let mut run = Migration::new(pair.shape, [&pair.sims[0], &pair.sims[1]]);
        let result = run.run(pair.device(At::Source), pair.device(At::Target));
        let mut calls = pair.tap.calls();
        calls.shrink_to_fit();
        if result.is_err() && !run.released {
            let _ = run.finish(Ending::Keep);
        }
        run.save = None;
        run.load = None;
        let struck = pair.tap.struck();
        if strikes.is_empty() {
            let harmless =
                |word: &&Word| word.code != Code::Again && !word.function.ends_with("poll_fd");
            let words: Vec<&String> = run.words.iter().filter(harmless).map(|w| &w.text).collect();
            assert!(words.is_empty(), "{words:?}");
            result.as_ref().unwrap();
        } else {
            assert!(!struck.is_empty(), "nothing struck");
        }
        self.check_words(pair, &run.words, &struck);
        if !nobody_can_know(&struck) {
            check_source(pair, &run, result.is_ok(), &struck);
            check_target(pair, &run, &struck);
        }
        check_nothing_wrong(pair);
        calls
    }

    /// What each error says.
    fn check_words(&self, pair: &Pair, words: &[Word], struck: &[(Call, Fault)]) {
        for word in words {
            let Word { function, code, text, .. } = word;
            assert!(self.listed.has(function, code.name()), "{function}: {code:?} is not listed");
            assert!(text.len() > 10 && !text.contains('\n'), "{function}: {text}");
            check_failure(pair, word, struck);
        }
    }

    /// Once nothing fails, everything works.
    fn check_again(&self, pair: Pair, strikes: &[Strike]) {
        let Pair { tap, sims, devices, .. } = pair;
        let was_dead = tap.struck().iter().any(|(_, fault)| *fault == Fault::Dies);
        tap.calm();
        let [mut source, mut target] = devices.unwrap();
        for (device, sim) in [(&source, &sims[0]), (&target, &sims[1])] {
            sim.clear_faults();
            if sim.state() != State::RUNNING || was_dead || !strikes.is_empty() {
                // By harder means.
                sim.guest_reset();
                device.was_reset().unwrap();
                if sim.state() != State::RUNNING {
                    device.reset().unwrap();
                }
            }
            device.accept_reset().unwrap();
            assert_eq!(sim.state(), State::RUNNING);
        }
        // One that failed while it was probed is opened again.
        for (at, device, sim) in
            [(At::Source, &mut source, &sims[0]), (At::Target, &mut target, &sims[1])]
        {
            if device.caps().unwrap().migration_flags.bits() != u64::from(pair.shape.flags) {
                *device = tap.device(at, sim);
            }
        }
        sims[0].guest_write(7, 200, 99).unwrap();
        let shape = Shape { flags: pair.shape.flags, quirks: pair.shape.quirks, ..*AGAIN };
        let mut run = Migration::new(&shape, [&sims[0], &sims[1]]);
        run.run(&source, &target).unwrap_or_else(|error| panic!("the next one: {error}"));
        assert_eq!(sims[0].state(), State::STOP);
        assert_eq!(sims[1].state(), State::RUNNING);
        assert_eq!(sims[1].digest(), run.contents);
        drop(run);
        drop((source, target));
        assert_eq!([sims[0].open_streams(), sims[1].open_streams()], [0, 0]);
        assert!(tap.released().iter().all(|times| *times >= 1), "a table was not released");
    }
}

/// Several failures that hide each other: a change that is not made, and no answer to where the device is;
/// an end of data that is claimed again and again; a device that fails at each look.
fn nobody_can_know(struck: &[(Call, Fault)]) -> bool {
    let hides = |(call, fault): &(Call, Fault)| match fault {
        Fault::Ignored => true,
        Fault::Nothing => call.asked == Asked::Read,
        Fault::Error => call.asked == Asked::GetState,
        _ => false,
    };
    struck.len() > 1 && struck.iter().any(hides)
}

/// Whether a device can be beyond the library's help: it is gone, or the reset itself failed.
fn may_be_lost(at: At, struck: &[(Call, Fault)]) -> bool {
    struck.iter().any(|(call, fault)| {
        let gone = *fault == Fault::Dies;
        let last_resort = matches!(call.asked, Asked::Reset | Asked::GetState);
        call.at == at && (gone || last_resort || struck.len() > 1)
    })
}

/// What a text says of an operation that failed.
fn how_it_is_called(operation: Operation) -> &'static [&'static str] {
    match operation {
        Operation::Probe => &["asking the driver"],
        Operation::GetState => &["the device's state cannot be read"],
        Operation::SetState => &["taking the device from", "cannot go from", "was reset"],
        Operation::DataRead => &["reading the device's state failed", "delivered nothing"],
        Operation::DataWrite => {
            &["the driver refuses the state", "the driver took", "data stream ended"]
        }
        Operation::Reset => &["resetting the device failed"],
        Operation::Stream => &["the stream"],
        _ => &[],
    }
}

/// What a failure says of its device must be so.
fn check_failure(pair: &Pair, word: &Word, struck: &[(Call, Fault)]) {
    let Some(failure) = word.failure.filter(|_| !nobody_can_know(struck)) else { return };
    let (at, text) = (word.at, &word.text);
    assert_eq!(failure.code, Some(word.code), "{text}");
    let names = how_it_is_called(failure.operation);
    assert!(names.iter().any(|name| text.contains(name)), "{:?}: {text}", failure.operation);
    let dead = struck.iter().any(|(call, fault)| call.at == at && *fault == Fault::Dies);
    if let Some(after) = failure.state_after.filter(|_| !dead) {
        assert_eq!(after.raw(), word.state, "{failure:?}: {text}");
    }
    match failure.outcome {
        Outcome::Lost => {
            assert!(may_be_lost(at, struck), "{failure:?}: {text}");
            assert_eq!(failure.state_after, None, "{failure:?}: {text}");
        }
        Outcome::Reset => {
            assert_eq!(word.digest, pair.fresh[at as usize], "{failure:?}: {text}");
            assert!(!failure.fixups.is_empty(), "{failure:?}: {text}");
        }
        Outcome::Kept if failure.operation == Operation::SetState => {
            assert_eq!(failure.state_after, failure.state_before, "{failure:?}: {text}");
        }
        Outcome::Kept | Outcome::Recovered => {}
    }
}

/// Whether a VMM was told that a device has lost its contents, or is lost.
fn was_told(words: &[Word], at: At) -> bool {
    let bad = |word: &Word| {
        word.failure.is_some_and(|f| matches!(f.outcome, Outcome::Reset | Outcome::Lost))
    };
    words.iter().any(|word| word.at == at && bad(word))
}

/// Whether a device went to ERROR by itself when it was looked at for the last time, or before it was
/// given to a session. It then did nothing that the library can see.
fn failed_last(run: &Migration<'_>, at: At, struck: &[(Call, Fault)]) -> bool {
    let looked = |(call, fault): &(Call, Fault)| {
        call.at == at && call.asked == Asked::GetState && *fault == Fault::Error
    };
    let said = run.words.iter().any(|word| {
        word.at == at && word.failure.is_some() && word.function != "vfiomig_save_begin"
    });
    struck.iter().any(looked) && !said
}

/// Whether a call has said that the device is there, or that nobody knows where.
fn says_where(run: &Migration<'_>, at: At, function: &str, state: State) -> bool {
    let here = |word: &&Word| word.at == at && word.function == function;
    let said = run.words.iter().filter(here).filter_map(|word| word.failure);
    said.map(|failure| failure.state_after).any(|after| after.is_none_or(|s| s.raw() == state.0))
}

/// The source: kept with its contents, or given up because its target has them.
fn check_source(pair: &Pair, run: &Migration<'_>, worked: bool, struck: &[(Call, Fault)]) {
    let sim = pair.sim(At::Source);
    let told = was_told(&run.words, At::Source);
    let intact = sim.digest() == run.contents;
    assert!(intact || told || run.released, "the source's contents were lost without a word");
    if may_be_lost(At::Source, struck) && told {
        return;
    }
    let dead = struck.iter().any(|(call, fault)| call.at == At::Source && *fault == Fault::Dies);
    if dead {
        return;
    }
    let state = sim.state();
    if state == State::ERROR && failed_last(run, At::Source, struck) {
        return;
    }
    if run.released {
        // Beside its twin it may be elsewhere only if the VMM knows.
        let known =
            state == State::STOP || says_where(run, At::Source, "vfiomig_save_finish", state);
        assert!(known, "released, and in {state:?}");
        return;
    }
    let ending = if worked { run.shape.ending } else { Ending::Keep };
    let kept_well = run.words.iter().all(|word| word.function != "vfiomig_save_finish");
    if !kept_well {
        // It says where the device is, which was checked; it must not be in a session.
        let rests = [State::STOP, State::RUNNING, State::RUNNING_P2P];
        assert!(rests.contains(&state), "kept in {state:?}");
        return;
    }
    let wanted = match ending {
        Ending::Keep => State::RUNNING,
        Ending::KeepQuiesced => State::RUNNING_P2P,
        Ending::KeepStopped | Ending::Release => State::STOP,
    };
    assert_eq!(state, wanted, "after {ending:?}");
}

/// The target: it has what was saved, or is empty and running.
fn check_target(pair: &Pair, run: &Migration<'_>, struck: &[(Call, Fault)]) {
    let sim = pair.sim(At::Target);
    let dead = struck.iter().any(|(call, fault)| call.at == At::Target && *fault == Fault::Dies);
    if dead {
        return;
    }
    let told = was_told(&run.words, At::Target);
    if run.committed {
        let intact = sim.digest() == run.contents;
        assert!(intact || told, "the target's contents were lost without a word");
        let rests = [State::STOP, State::RUNNING, State::RUNNING_P2P];
        let state = sim.state();
        let failed = state == State::ERROR
            && (failed_last(run, At::Target, struck)
                || says_where(run, At::Target, "vfiomig_device_run", state));
        assert!(failed || rests.contains(&state), "committed, and in {state:?}");
        return;
    }
    assert!(run.words.iter().all(|word| word.code != Code::NotRecoverable));
    if may_be_lost(At::Target, struck) {
        return;
    }
    assert_eq!(sim.state(), State::RUNNING, "not committed");
    assert_eq!(sim.digest(), pair.fresh[1], "not committed, and not empty");
}

fn check_nothing_wrong(pair: &Pair) {
    assert_eq!(pair.tap.wrong(), None);
    for sim in &pair.sims {
        assert_eq!(sim.violations(), (0, None));
        assert_eq!(sim.open_streams(), 0);
    }
}
