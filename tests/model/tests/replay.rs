// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the model says is what two real processes do: lists of steps are played against both. A kill is
//! a SIGKILL, a cut a closed socket, and each process has simulated devices, which it saves, loads,
//! commits, releases, runs and resets. After each step, the machines are equal to the model's, the
//! outcomes have been told as often, and the guest runs where the model says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use stateright::Model as _;
use vfiomig::handover::{Fence, HEADER_LEN, Outcome, message_len};
use vfiomig_model::{Bounds, Model, Node, Side, Step, Work, World, lists};

/// A VMM.
struct Process {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    link: Option<UnixStream>,
    /// The last answer, word by word.
    last: BTreeMap<String, String>,
    devices: Vec<String>,
}

impl Process {
    fn start(side: Side, attempt: u32, devices: u32, folder: &Path) -> Process {
        let (path, listener) = listen(folder);
        let mut child = Command::new(env!("CARGO_BIN_EXE_vfiomig-model-vmm"))
            .arg(if side == Side::Source { "source" } else { "target" })
            .args([attempt.to_string(), devices.to_string()])
            .args([folder, &path])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let link = Some(listener.accept().unwrap().0);
        let (last, devices) = (BTreeMap::new(), Vec::new());
        Process { child, commands, answers, link, last, devices }
    }

    /// Gives a command, and returns the messages that were sent.
    fn command(&mut self, command: &str) -> Vec<Vec<u8>> {
        writeln!(self.commands, "{command}").unwrap();
        self.answered(command)
    }

    fn answered(&mut self, command: &str) -> Vec<Vec<u8>> {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "a VMM has ended at {command}");
        let (words, devices) = line.split_once(" devices ").unwrap();
        let words: Vec<&str> = words.split_whitespace().collect();
        self.last = words.chunks(2).map(|pair| (pair[0].into(), pair[1].into())).collect();
        self.devices = devices.split_whitespace().map(str::to_owned).collect();
        let count: u32 = self.last["said"].parse().unwrap();
        (0..count).map(|_| read_message(self.link.as_mut().unwrap())).collect()
    }

    /// Gives a command that makes the VMM connect again.
    fn connect(&mut self, command: &str, folder: &Path) -> Vec<Vec<u8>> {
        let (path, listener) = listen(folder);
        writeln!(self.commands, "{command} {}", path.display()).unwrap();
        self.link = Some(listener.accept().unwrap().0);
        self.answered(command)
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.link = None;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(folder: &Path) -> (PathBuf, UnixListener) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let path = folder.join(format!("link-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    let listener = UnixListener::bind(&path).unwrap();
    (path, listener)
}

fn read_message(link: &mut UnixStream) -> Vec<u8> {
    let mut header = [0; HEADER_LEN];
    link.read_exact(&mut header).unwrap();
    let mut message = header.to_vec();
    message.resize(message_len(&header).unwrap(), 0);
    link.read_exact(&mut message[HEADER_LEN..]).unwrap();
    message
}

/// The model's world and the real one.
struct Replay {
    model: Model,
    world: World,
    real: BTreeMap<Side, Process>,
    folder: PathBuf,
    /// What the guest's devices held when it was stopped.
    stopped_with: Vec<String>,
}

impl Drop for Replay {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Replay {
    fn new(bounds: Bounds) -> Replay {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("vfiomig-replay-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let model = Model { bounds, fault: None };
        let world = model.init_states().remove(0);
        let mut real = BTreeMap::new();
        for side in Side::BOTH {
            let mut process = Process::start(side, 1, bounds.devices, &folder);
            process.command("start");
            real.insert(side, process);
        }
        let replay = Replay { model, world, real, folder, stopped_with: Vec::new() };
        replay.compare(None);
        replay
    }

    fn play(&mut self, step: &Step) {
        let Some(next) = Model::step(&self.world, step) else { panic!("{step:?} does nothing") };
        let doing = |side: Side| self.world.node(side).doing;
        let stops = *step == Step::Done(Side::Source) && doing(Side::Source) == Some(Work::Stop);
        let runs = *step == Step::Done(Side::Target) && doing(Side::Target) == Some(Work::Run);
        self.play_for_real(step, &next);
        self.world = next;
        self.compare(Some(step));
        // The devices hold what they held.
        let digests = |side: Side| -> Vec<String> {
            let of = |device: &String| device.split_once(':').unwrap().1.to_owned();
            self.real[&side].devices.iter().map(of).collect()
        };
        if stops {
            self.stopped_with = digests(Side::Source);
        }
        if runs {
            assert_eq!(digests(Side::Target), self.stopped_with, "the guest has other devices");
        }
    }

    fn play_for_real(&mut self, step: &Step, next: &World) {
        let (side, command) = match step {
            Step::Take(side) => (*side, "take".to_owned()),
            Step::Done(side) => (*side, "done".to_owned()),
            Step::Failed(side) => (*side, "fail".to_owned()),
            Step::Deliver(side, message) => {
                let hex: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
                match &mut self.real.get_mut(side).unwrap().link {
                    // What is sent now arrives with the command.
                    Some(link) => {
                        link.write_all(message).unwrap();
                        (*side, "receive".to_owned())
                    }
                    None => (*side, format!("late {hex}")),
                }
            }
            Step::Switchover => (Side::Source, "switchover".to_owned()),
            Step::Resume => (Side::Source, "resume".to_owned()),
            Step::ReceiveAll => (Side::Target, "all".to_owned()),
            Step::Cancel(side) => (*side, "cancel".to_owned()),
            Step::Cut(side) => {
                self.real.get_mut(side).unwrap().link = None;
                (*side, "cut".to_owned())
            }
            Step::Kill(side) => return self.real.get_mut(side).unwrap().kill(),
            Step::Fence(side, fence) => {
                self.real.get_mut(&side.other()).unwrap().kill();
                let known = if *fence == Fence::DidNotRun { "did-not-run" } else { "may-have-run" };
                (*side, format!("fenced {known}"))
            }
            Step::Connect(side) => {
                self.real.get_mut(side).unwrap().connect("connect", &self.folder);
                return;
            }
            Step::Retry(side) => return self.retry(*side, next.node(*side)),
        };
        self.real.get_mut(&side).unwrap().command(&command);
    }

    fn retry(&mut self, side: Side, node: &Node) {
        let devices = self.model.bounds.devices;
        if self.world.node(side).alive {
            let command = format!("retry {}", node.attempt);
            self.real.get_mut(&side).unwrap().connect(&command, &self.folder);
        } else {
            let mut process = Process::start(side, node.attempt, devices, &self.folder);
            process.command("start");
            self.real.insert(side, process);
        }
    }

    fn compare(&self, step: Option<&Step>) {
        for side in Side::BOTH {
            let (node, real) = (self.world.node(side), &self.real[&side]);
            if !node.alive {
                continue;
            }
            let mut hasher = DefaultHasher::new();
            node.machine.hash(&mut hasher);
            let wanted = [
                ("machine", format!("{:016x}", hasher.finish())),
                ("told", node.told.to_string()),
                ("begun", u8::from(node.begun).to_string()),
                ("doing", format!("{:?}", node.doing)),
            ];
            for (what, value) in wanted {
                assert_eq!(
                    real.last[what], value,
                    "{what} of the {side:?} after {step:?}: {node:#?}"
                );
            }
            // While something is under way, the model expects the worst.
            let starts =
                matches!(node.doing, Some(Work::Run | Work::Keep | Work::Reset | Work::Stop));
            if !starts && node.runs != (real.last["vcpus"] == "1") {
                let undone = side == Side::Target && node.runs && !node.is_over();
                assert!(undone, "the guest on the {side:?} after {step:?}: {:?}", real.last);
            }
        }
        let both = Side::BOTH
            .iter()
            .all(|side| self.world.node(*side).alive && self.real[side].last["vcpus"] == "1");
        assert!(!both, "the guest runs on both sides after {step:?}");
    }

    /// Whether a step can be played: what fails for real is a commit or a start on the target.
    fn is_playable(&self, step: &Step) -> bool {
        match step {
            Step::Failed(Side::Source) => false,
            Step::Failed(Side::Target) => {
                matches!(self.world.target.doing, Some(Work::Commit | Work::Run))
            }
            _ => true,
        }
    }

    /// One of the steps that are possible, by a number.
    fn any_step(&self, onwards: bool, number: usize) -> Option<Step> {
        let mut steps = Vec::new();
        self.model.actions(&self.world, &mut steps);
        steps.retain(|step| {
            let leads_on = matches!(
                step,
                Step::Take(_)
                    | Step::Done(_)
                    | Step::Switchover
                    | Step::ReceiveAll
                    | Step::Deliver(..)
                    | Step::Connect(_)
                    | Step::Retry(_)
            );
            leads_on == onwards
                && self.is_playable(step)
                && Model::step(&self.world, step).is_some()
        });
        if steps.is_empty() { None } else { Some(steps.swap_remove(number % steps.len())) }
    }
}

const BOUNDS: Bounds =
    Bounds { attempts: 2, cuts: 1, failures: 1, resumes: 0, deaths: 2, devices: 2 };

/// The next step of a handover in which nothing happens to anybody.
fn next_useful(model: &Model, world: &World) -> Option<Step> {
    let mut steps = Vec::new();
    model.actions(world, &mut steps);
    steps.into_iter().find(|step| {
        let useful = matches!(
            step,
            Step::Take(_) | Step::Done(_) | Step::Switchover | Step::ReceiveAll | Step::Deliver(..)
        );
        useful && Model::step(world, step).is_some()
    })
}

/// All of it.
fn straight() -> Vec<Step> {
    let model = Model { bounds: BOUNDS, fault: None };
    let mut world = model.init_states().remove(0);
    let mut list = Vec::new();
    while let Some(step) = next_useful(&model, &world) {
        world = Model::step(&world, &step).unwrap();
        list.push(step);
    }
    list
}

#[test]
fn a_handover_arrives_for_real() {
    let list = straight();
    let mut replay = Replay::new(BOUNDS);
    list.iter().for_each(|step| replay.play(step));
    for side in Side::BOTH {
        assert_eq!(replay.world.node(side).report().outcome, Outcome::OnTarget);
    }
    assert_eq!(replay.real[&Side::Target].last["vcpus"], "1");
    println!("replay: a whole handover in {} steps", list.len());
}

/// Each side is killed at each step, and the other one is told so by a fencer.
#[test]
fn a_kill_at_each_step_ends_as_the_model_says() {
    let list = straight();
    let (mut replays, mut ends) = (0, BTreeMap::new());
    for at in 0..=list.len() {
        for killed in Side::BOTH {
            for fence in [Fence::DidNotRun, Fence::MayHaveRun] {
                let mut replay = Replay::new(BOUNDS);
                list[..at].iter().for_each(|step| replay.play(step));
                let survivor = killed.other();
                if !replay.world.may_say_of(killed, fence) {
                    continue;
                }
                let over = replay.world.node(survivor).is_over();
                replay.play(&if over { Step::Kill(killed) } else { Step::Fence(survivor, fence) });
                for step in [Step::Take(survivor), Step::Done(survivor)].iter().cycle().take(8) {
                    if Model::step(&replay.world, step).is_some() {
                        replay.play(step);
                    }
                }
                let outcome = replay.world.node(survivor).report().outcome;
                assert!(!matches!(outcome, Outcome::Pending | Outcome::Undecided));
                *ends.entry(format!("{survivor:?} {outcome:?}")).or_insert(0) += 1;
                replays += 1;
            }
        }
    }
    println!("replay: {replays} kills in {} steps: {ends:?}", list.len());
    assert!(ends.len() >= 5, "{ends:?}");
}

/// Both sides lose their connection at each step, with all that is on its way, and connect again.
#[test]
fn a_cut_at_each_step_is_survived() {
    let list = straight();
    for at in 0..=list.len() {
        let mut replay = Replay::new(BOUNDS);
        list[..at].iter().for_each(|step| replay.play(step));
        replay.world.network.clear();
        Side::BOTH.iter().for_each(|side| replay.play(&Step::Cut(*side)));
        Side::BOTH.iter().for_each(|side| replay.play(&Step::Connect(*side)));
        while let Some(step) = next_useful(&replay.model, &replay.world) {
            replay.play(&step);
        }
        for side in Side::BOTH {
            assert_eq!(replay.world.node(side).report().outcome, Outcome::OnTarget, "cut at {at}");
        }
        assert_eq!(replay.real[&Side::Target].last["vcpus"], "1", "cut at {at}");
    }
    println!("replay: {} cuts", list.len() + 1);
}

/// A commit that fails, or a start on the target that does: the guest goes on at the source.
#[test]
fn what_fails_on_the_target_leaves_the_guest_at_the_source() {
    let list = straight();
    let (mut replays, failing) = (0, [Work::Commit, Work::Run]);
    for at in 0..list.len() {
        let mut replay = Replay::new(BOUNDS);
        list[..at].iter().for_each(|step| replay.play(step));
        let Some(work) = replay.world.target.doing else { continue };
        if !failing.contains(&work) {
            continue;
        }
        replay.play(&Step::Failed(Side::Target));
        while let Some(step) = next_useful(&replay.model, &replay.world) {
            replay.play(&step);
        }
        for side in Side::BOTH {
            assert_eq!(replay.world.node(side).report().outcome, Outcome::OnSource, "{work:?}");
        }
        assert_eq!(replay.real[&Side::Source].last["vcpus"], "1", "{work:?}");
        replays += 1;
    }
    println!("replay: {replays} failures on the target");
    assert!(replays >= 2);
}

/// How many lists of each kind are played.
fn how_many() -> usize {
    std::env::var("VFIOMIG_REPLAYS").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

/// Those of the checker: the ways to all endings, and to states all over.
#[test]
fn lists_of_the_checker_end_in_the_same_states() {
    let bounds = Bounds { attempts: 1, cuts: 0, failures: 0, resumes: 0, deaths: 2, devices: 2 };
    let lists = lists(bounds, 24_000 / how_many());
    let (mut played, mut steps) = (0, 0);
    for list in &lists {
        let mut replay = Replay::new(bounds);
        list.iter().for_each(|step| replay.play(step));
        played += 1;
        steps += list.len();
    }
    println!("replay: {played} lists of the checker, {steps} steps");
    assert!(played >= how_many() / 2);
}

/// Steps at random, as the model allows them: two attempts, cuts, and failures.
#[test]
fn long_lists_at_random_end_in_the_same_states() {
    let (mut steps, mut kinds, mut ends) = (0, BTreeMap::new(), BTreeMap::new());
    let mut chance = 1u64;
    let mut random = || {
        chance =
            chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 40) as usize
    };
    for _ in 0..how_many() {
        let mut replay = Replay::new(BOUNDS);
        for _ in 0..80 {
            // Mostly what leads somewhere, or there would be no handover to disturb.
            let onwards = random() % 8 != 0;
            let Some(step) = replay.any_step(onwards, random()) else { continue };
            let name = format!("{step:?}");
            *kinds.entry(name.split('(').next().unwrap().to_owned()).or_insert(0) += 1;
            replay.play(&step);
            steps += 1;
        }
        for side in Side::BOTH {
            *ends.entry(format!("{:?}", replay.world.node(side).report().outcome)).or_insert(0) +=
                1;
        }
    }
    println!("replay: {} lists at random, {steps} steps: {kinds:?}: {ends:?}", how_many());
    assert!(kinds.len() >= 11 && ends.len() >= 4, "{kinds:?}: {ends:?}");
}
