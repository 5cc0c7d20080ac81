// SPDX-License-Identifier: MIT OR Apache-2.0
//! A migration between two processes, one of which is killed: before and after each call that it makes
//! to its device. The other one goes on: it keeps what it has, or is empty and ready, and waits for
//! nobody.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vfiomig::Device;
use vfiomig::session::{Ending, SaveStatus};
use vfiomig_sim::{Sim, State};

use super::migration::{AGAIN, CONFIG, Migration, SHAPES, Shape, work};
use super::processes;
use super::tap::{At, Fault, Strike, Tap};

/// What the two say to each other besides the stream.
const COMMITTED: u8 = b'c';
const GO: u8 = b'g';

/// Nobody may wait for longer.
const LONGEST: Duration = Duration::from_secs(20);

/// How a side's part has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    /// The source goes on.
    Kept,
    /// The source has given its guest away.
    Released,
    /// The target never had the whole state.
    Abandoned,
    /// The target has it, and was not told that it may run.
    Waits,
    /// The target runs.
    Runs,
}

fn say(mut socket: &UnixStream, what: u8) -> bool {
    socket.write_all(&[what]).is_ok()
}

/// Whether that comes, and not the end of the connection.
fn hear(socket: &UnixStream, what: u8) -> bool {
    let mut heard = [0];
    receive(socket, &mut heard) == 1 && heard == [what]
}

/// 0 at the end of the connection.
fn receive(mut socket: &UnixStream, buf: &mut [u8]) -> usize {
    loop {
        match socket.read(buf) {
            Ok(len) => return len,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return 0,
            Err(error) => panic!("waiting for the other side: {error}"),
        }
    }
}

/// The source's side.
fn source(shape: &Shape, device: &Device, sim: &Sim, socket: &UnixStream) -> Ended {
    let mut save = device.save(shape.save_options()).unwrap();
    let mut buf = vec![0; 4096];
    let (mut drained, mut sent) = (0, true);
    while sent {
        let next = save.next(&mut buf).unwrap();
        sent = (&*socket).write_all(&buf[..next.len]).is_ok();
        match next.status {
            SaveStatus::More => {}
            SaveStatus::End => break,
            SaveStatus::Drained => {
                drained += 1;
                match drained {
                    1 => work(sim),
                    2 => save.stop().unwrap(),
                    _ => save.blob(0, CONFIG).unwrap(),
                }
            }
        }
    }
    if !sent || !hear(socket, COMMITTED) {
        save.finish(Ending::Keep).unwrap();
        return Ended::Kept;
    }
    save.finish(Ending::Release).unwrap();
    say(socket, GO);
    Ended::Released
}

/// The target's side.
fn target(shape: &Shape, device: &Device, socket: &UnixStream) -> Ended {
    let mut load = device.load(shape.load_options()).unwrap();
    loop {
        let len = receive(socket, load.space().unwrap());
        if len == 0 {
            return Ended::Abandoned;
        }
        let status = load.received(len).unwrap();
        if status.config {
            let mut config = [0; CONFIG.len()];
            let mut filled = 0;
            while filled < config.len() {
                match receive(socket, &mut config[filled..]) {
                    0 => return Ended::Abandoned,
                    len => filled += len,
                }
            }
        }
        if status.ended {
            break;
        }
    }
    load.commit().unwrap();
    if !say(socket, COMMITTED) || !hear(socket, GO) {
        return Ended::Waits;
    }
    device.run().unwrap();
    Ended::Runs
}

/// The shapes in which all goes through one connection, with other calls in each.
fn shapes() -> impl Iterator<Item = (usize, &'static Shape)> {
    let names = ["native, pre-copy, peer-to-peer", "native, stop-copy alone", "QEMU's"];
    SHAPES.iter().enumerate().filter(move |(_, shape)| names.contains(&shape.name))
}

/// The process that is killed.
pub fn child(role: &str) {
    let words: Vec<usize> = role.split(' ').map(|word| word.parse().unwrap()).collect();
    let [shape, side, nth, after] = words[..] else { panic!("{role}") };
    let shape = &SHAPES[shape];
    let fault = if after == 1 { Fault::KilledAfter } else { Fault::KilledBefore };
    let tap = Tap::new(&[Strike { nth, fault, lasts: false }]);
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let at = if side == 0 { At::Source } else { At::Target };
    let sim = shape.sim(at);
    let device = tap.device(at, &sim);
    match at {
        At::Source => source(shape, &device, &sim, &socket),
        At::Target => target(shape, &device, &socket),
    };
}

/// Kills each side at each of its calls; returns how many that were.
pub fn all() -> usize {
    let mut points = 0;
    for (number, shape) in shapes() {
        for killed in [At::Source, At::Target] {
            for after in [0, 1] {
                let mut seen = vec![];
                for nth in 1.. {
                    let role = format!("{number} {} {nth} {after}", killed as usize);
                    let (died, ended) = one(shape, killed, &role);
                    seen.push(ended);
                    if !died {
                        break;
                    }
                    points += 1;
                }
                check_endings(killed, &seen);
            }
        }
    }
    points
}

/// A process that is killed early leaves its guest where it was, a later one does not.
fn check_endings(killed: At, seen: &[Ended]) {
    let order = match killed {
        At::Source => [Ended::Abandoned, Ended::Waits, Ended::Runs],
        At::Target => [Ended::Kept, Ended::Released, Ended::Released],
    };
    let places = seen.iter().map(|ended| order.iter().position(|other| other == ended).unwrap());
    assert!(places.clone().is_sorted(), "{seen:?}");
    assert_eq!((places.clone().min(), *seen.last().unwrap()), (Some(0), order[2]), "{seen:?}");
}

/// One migration; returns whether the other process was killed, and what became of this side.
fn one(shape: &'static Shape, killed: At, role: &str) -> (bool, Ended) {
    let (here, there) = UnixStream::pair().unwrap();
    here.set_read_timeout(Some(LONGEST)).unwrap();
    here.set_write_timeout(Some(LONGEST)).unwrap();
    let mut child = processes::start(role, there);
    let at = if killed == At::Source { At::Target } else { At::Source };
    let sim = shape.sim(at);
    let before = sim.digest();
    let tap = Tap::new(&[]);
    let device = tap.device(at, &sim);
    let ended = match at {
        At::Source => source(shape, &device, &sim, &here),
        At::Target => target(shape, &device, &here),
    };
    drop(here);
    let status = child.wait().unwrap();
    let died = std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGKILL);
    assert!(died || status.success(), "{role}: {status}");
    let state = match ended {
        Ended::Kept | Ended::Abandoned | Ended::Runs => State::RUNNING,
        Ended::Waits | Ended::Released => State::STOP,
    };
    assert_eq!(sim.state(), state, "{role}: {ended:?}");
    let source = shape.sim(At::Source);
    let early = source.digest();
    work(&source);
    let whole = source.digest();
    match ended {
        Ended::Abandoned => assert_eq!(sim.digest(), before, "{role}"),
        // Its guest's, whether it had come to work or not.
        Ended::Kept => assert!([early, whole].contains(&sim.digest()), "{role}"),
        _ => assert_eq!(sim.digest(), whole, "{role}: {ended:?}"),
    }
    assert_eq!((sim.violations(), sim.open_streams(), tap.wrong()), ((0, None), 0, None), "{role}");
    goes_on(shape, at, &sim, &device);
    (died, ended)
}

/// The side that lives takes part in the next migration.
fn goes_on(shape: &'static Shape, at: At, sim: &Sim, device: &Device) {
    let shape = Shape { flags: shape.flags, ..*AGAIN };
    let other = if at == At::Source { At::Target } else { At::Source };
    let other_sim = shape.sim(other);
    let tap = Tap::new(&[]);
    let other_device = tap.device(other, &other_sim);
    let (sims, devices) = match at {
        At::Source => ([sim, &other_sim], [device, &other_device]),
        At::Target => ([&other_sim, sim], [&other_device, device]),
    };
    if at == At::Target && sim.state() == State::STOP {
        device.reset().unwrap();
    }
    let mut run = Migration::new(&shape, sims);
    run.run(devices[0], devices[1]).unwrap();
    assert_eq!(sims[1].digest(), run.contents);
}
