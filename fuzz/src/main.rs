// SPDX-License-Identifier: MIT OR Apache-2.0
//! Feeds the fuzz targets with their corpora and random changes of them, with any compiler.
//!
//! ```text
//! fuzz-smoke [--seconds N] [--seed N] [TARGET...]     all targets, as many at a time as there are CPUs
//! fuzz-smoke --input FILE TARGET                      one input, as it is
//! ```
//! Each target has a process of its own, because what it finds may be a crash. The failing input is
//! left in a file, and the command that repeats it is printed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use vfiomig_fuzz::{TARGETS, Target, target};

/// What takes longer hangs.
const LONGEST: Duration = Duration::from_secs(20);

struct Options {
    seconds: u64,
    seed: u64,
    input: Option<PathBuf>,
    /// This process runs one target.
    child: bool,
    targets: Vec<&'static Target>,
}

fn options() -> Options {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mut out = Options {
        seconds: 10,
        seed: clock.map_or(1, |since| since.as_nanos() as u64),
        input: None,
        child: false,
        targets: Vec::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| usage(&arg));
        match arg.as_str() {
            "--seconds" => out.seconds = value().parse().unwrap_or_else(|_| usage(&arg)),
            "--seed" => out.seed = value().parse().unwrap_or_else(|_| usage(&arg)),
            "--input" => out.input = Some(PathBuf::from(value())),
            "--child" => out.child = true,
            name => out.targets.push(target(name).unwrap_or_else(|| usage(name))),
        }
    }
    if out.targets.is_empty() {
        out.targets = TARGETS.iter().collect();
    }
    out
}

fn usage(what: &str) -> ! {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    eprintln!("fuzz-smoke: {what}: not understood. Targets: {}", names.join(", "));
    std::process::exit(2);
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn corpus_of(target: &Target) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// A change of one of the inputs, or a new one.
fn mutated(random: &mut Random, corpus: &[Vec<u8>], max_len: usize) -> Vec<u8> {
    let mut bytes = match random.below(8) {
        0 => (0..random.below(max_len)).map(|_| random.next() as u8).collect(),
        _ => corpus[random.below(corpus.len())].clone(),
    };
    for _ in 0..1 + random.below(6) {
        let at = random.below(bytes.len() + 1);
        match random.below(7) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 | 3 if at < bytes.len() => bytes[at] = random.next() as u8,
            4 => bytes.insert(at, random.next() as u8),
            5 if at < bytes.len() => drop(bytes.remove(at)),
            _ => {
                // The tail of another one.
                let other = &corpus[random.below(corpus.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len())..]);
            }
        }
    }
    bytes.truncate(max_len);
    bytes
}

/// Where the input is that a target runs on.
fn input_of(name: &str) -> PathBuf {
    let out = std::env::var("VFIOMIG_FUZZ_OUT").unwrap_or_else(|_| ".".to_owned());
    Path::new(&out).join(format!("fuzz-{name}.input"))
}

/// Runs one target in this process until the time is over.
fn run(target: &'static Target, seconds: u64, seed: u64) -> bool {
    let file = input_of(target.name);
    watch(target.name, file.clone());
    let record = std::fs::File::create(&file).unwrap();
    let corpus = corpus_of(target);
    let mut random = Random(seed);
    let begun = Instant::now();
    let (mut tried, mut held) = (0usize, 0);
    while tried < corpus.len() || begun.elapsed() < Duration::from_secs(seconds) {
        let bytes = match corpus.get(tried) {
            Some(bytes) => bytes.clone(),
            None => mutated(&mut random, &corpus, target.max_len),
        };
        // Before it is run: it may be the last thing that this process does.
        record.write_all_at(&bytes, 0).unwrap();
        record.set_len(bytes.len() as u64).unwrap();
        TRIED.fetch_add(1, Ordering::Relaxed);
        let Some(most) = once(target, &bytes) else {
            let file = file.display();
            println!("{}: FAILED; again: fuzz-smoke --input {file} {}", target.name, target.name);
            return false;
        };
        held = held.max(most);
        tried += 1;
    }
    std::fs::remove_file(&file).unwrap();
    println!(
        "{}: {tried} inputs, {} of them from its corpus, seed {seed}; {held} of {} bytes held at most",
        target.name,
        corpus.len(),
        target.max_memory
    );
    true
}

/// How much memory it took, in bytes; nothing if it failed.
fn once(target: &Target, bytes: &[u8]) -> Option<usize> {
    catch_unwind(AssertUnwindSafe(|| target.check(bytes))).ok()
}

static TRIED: AtomicU64 = AtomicU64::new(0);

/// Ends the process if one input takes too long. The checks are counted, not the clock, which goes
/// on while the machine is paused.
fn watch(name: &'static str, file: PathBuf) {
    const LOOK: Duration = Duration::from_millis(100);
    std::thread::spawn(move || {
        let (mut before, mut looks) = (0, 0);
        loop {
            std::thread::sleep(LOOK);
            let now = TRIED.load(Ordering::Relaxed);
            looks = if now == before { looks + 1 } else { 0 };
            before = now;
            if looks * LOOK.as_millis() > LONGEST.as_millis() {
                println!("{name}: HANGS; again: fuzz-smoke --input {} {name}", file.display());
                std::process::abort();
            }
        }
    });
}

/// A process for each target, a few at a time.
fn run_all(options: &Options) -> ExitCode {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let me = std::env::current_exe().unwrap();
    let mut waiting = options.targets.iter();
    let mut running: Vec<(&str, Child)> = Vec::new();
    let (mut passed, mut failed) = (0, 0);
    loop {
        while running.len() < jobs {
            let Some(target) = waiting.next() else { break };
            let child = Command::new(&me)
                .args(["--child", "--seconds", &options.seconds.to_string()])
                .args(["--seed", &options.seed.to_string(), target.name])
                .spawn()
                .unwrap();
            running.push((target.name, child));
        }
        if running.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        running.retain_mut(|(name, child)| match child.try_wait().unwrap() {
            None => true,
            Some(status) => {
                if status.success() {
                    passed += 1;
                } else {
                    failed += 1;
                    let (seed, file) = (options.seed, input_of(name));
                    println!("{name}: {status}; seed {seed}, input {}", file.display());
                }
                false
            }
        });
    }
    println!("fuzz-smoke: {passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

fn main() -> ExitCode {
    let options = options();
    let good = match (&options.input, &options.targets[..]) {
        (Some(file), [target]) => once(target, &std::fs::read(file).unwrap()).is_some(),
        (Some(_), _) => usage("--input without one target"),
        (None, [target]) if options.child => run(target, options.seconds, options.seed),
        (None, _) => return run_all(&options),
    };
    ExitCode::from(u8::from(!good))
}
