// SPDX-License-Identifier: MIT OR Apache-2.0
//! A source and a target on simulated devices, and a VMM's two sides in one thread.

#![allow(dead_code)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

pub mod regions;
mod twisted;

use std::time::Duration;

use vfiomig::device::DeviceOptions;
use vfiomig::error::{Code, Error};
use vfiomig::session::{Ending, Load, LoadOptions, LoadStatus, Save, SaveOptions, SaveStatus};
use vfiomig::{Device, Result};
use vfiomig_sim::{Sim, SimOptions, State};

#[allow(unused_imports)] // Not every test has one.
pub use twisted::{Twist, twisted_side};

/// A device and what is behind it.
pub struct Side {
    pub sim: Sim,
    pub device: Device,
}

pub fn side(options: SimOptions) -> Side {
    let sim = Sim::new(options).unwrap();
    let transport = sim.transport().with_patience(Duration::from_millis(20));
    let device = Device::new(transport, DeviceOptions::default()).unwrap();
    Side { sim, device }
}

/// With so little state that a test can look at every byte.
pub fn small(seed: u64) -> SimOptions {
    SimOptions { seed, state_size: 3000, ..SimOptions::default() }
}

/// Which call the VMM makes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Begin,
    Next,
    Quiesce,
    Stop,
    /// The stopped device is read.
    NextStopped,
    Commit,
    Finish,
}

/// A push that brought nothing special.
const NOTHING: LoadStatus = LoadStatus {
    restarted: false,
    initial_loaded: false,
    ended: false,
    section_ended: false,
    config: false,
    config_ready: false,
};
/// A push that ended the stream.
pub const ENDED: LoadStatus = LoadStatus { ended: true, ..NOTHING };
/// A push that brought the mark of complete initial data.
pub const LOADED: LoadStatus = LoadStatus { initial_loaded: true, ..NOTHING };

/// Which side failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    Source,
    Target,
}

/// How one migration is driven.
pub struct Drive<'a> {
    pub save: SaveOptions,
    pub load: LoadOptions,
    /// Sizes of the buffer for each `next`, over and over.
    pub buffers: Vec<usize>,
    /// Lengths of the pieces that are pushed, over and over.
    pub pieces: Vec<usize>,
    /// How often the source may be drained before it is stopped.
    pub rounds: usize,
    pub quiesce: bool,
    /// Called before every call to the source; the number counts calls from 0.
    pub before: Box<dyn FnMut(usize, Call) + 'a>,
    /// Called when the source has drained.
    pub drained: Box<dyn FnMut(&mut Save) + 'a>,
}

impl Default for Drive<'_> {
    fn default() -> Self {
        Drive {
            save: SaveOptions {
                read_timeout: Duration::from_millis(300),
                ..SaveOptions::default()
            },
            load: LoadOptions {
                write_timeout: Duration::from_millis(300),
                blobs: Some(Box::new(|_, _| Ok(()))),
                ..LoadOptions::default()
            },
            buffers: vec![16 << 10],
            pieces: vec![usize::MAX],
            rounds: 2,
            quiesce: false,
            before: Box::new(|_, _| {}),
            drained: Box::new(|_| {}),
        }
    }
}

/// The result of a migration. The sessions still exist.
pub struct Done {
    pub result: std::result::Result<(), (At, Error)>,
    pub save: Option<Save>,
    pub load: Option<Load>,
    pub statuses: Vec<LoadStatus>,
    /// The stream was complete.
    pub ended: bool,
    /// Calls made to the source.
    pub calls: usize,
}

/// How often a device may have nothing to read, or nothing to say, before a VMM gives up.
const PATIENCE: usize = 10_000;

impl Drive<'_> {
    /// Migrates up to the commit and the release.
    pub fn run(mut self, source: &Device, target: &Device) -> Done {
        let mut done = Done {
            result: Ok(()),
            save: None,
            load: None,
            statuses: vec![],
            ended: false,
            calls: 0,
        };
        done.result = self.steps(source, target, &mut done);
        done
    }

    fn announce(&mut self, done: &mut Done, call: Call) {
        (self.before)(done.calls, call);
        done.calls += 1;
    }

    fn steps(
        &mut self,
        source: &Device,
        target: &Device,
        done: &mut Done,
    ) -> std::result::Result<(), (At, Error)> {
        let at_source = |error| (At::Source, error);
        let at_target = |error| (At::Target, error);
        self.announce(done, Call::Begin);
        let options = std::mem::take(&mut self.save);
        done.save = Some(source.save(options).map_err(at_source)?);
        done.load = Some(target.load(std::mem::take(&mut self.load)).map_err(at_target)?);
        let mut buf = vec![0; self.buffers.iter().copied().max().unwrap()];
        let (mut drained, mut stopped, mut waited, mut reads, mut pushes) = (0, false, 0, 0, 0);
        loop {
            self.announce(done, if stopped { Call::NextStopped } else { Call::Next });
            let size = self.buffers[reads % self.buffers.len()];
            reads += 1;
            let save = done.save.as_mut().unwrap();
            let next = match save.next(&mut buf[..size]) {
                Ok(next) => next,
                Err(error) if error.code() == Code::Again && waited < PATIENCE => {
                    waited += 1;
                    continue;
                }
                Err(error) => return Err(at_source(error)),
            };
            let mut rest = &buf[..next.len];
            while !rest.is_empty() {
                let piece = self.pieces[pushes % self.pieces.len()].clamp(1, rest.len());
                pushes += 1;
                let (now, later) = rest.split_at(piece);
                let status = done.load.as_mut().unwrap().push(now).map_err(at_target)?;
                if status != LoadStatus::default() {
                    done.statuses.push(status);
                }
                rest = later;
            }
            match next.status {
                SaveStatus::More => {}
                SaveStatus::End => break,
                SaveStatus::Drained if stopped => panic!("drained after the stop"),
                SaveStatus::Drained => {
                    drained += 1;
                    (self.drained)(save);
                    if drained < self.rounds {
                        continue;
                    }
                    if self.quiesce {
                        self.announce(done, Call::Quiesce);
                        insist(|| done.save.as_mut().unwrap().quiesce()).map_err(at_source)?;
                    }
                    self.announce(done, Call::Stop);
                    insist(|| done.save.as_mut().unwrap().stop()).map_err(at_source)?;
                    stopped = true;
                }
            }
        }
        done.ended = true;
        self.announce(done, Call::Commit);
        done.load.as_mut().unwrap().commit().map_err(at_target)?;
        self.announce(done, Call::Finish);
        done.save.as_mut().unwrap().finish(Ending::Release).map_err(at_source)
    }
}

/// Stops or quiesces a device, even one that starts its initial data again at the last moment.
pub fn insist(mut call: impl FnMut() -> Result<()>) -> Result<()> {
    match call() {
        Err(error) if error.code() == Code::Again => call(),
        other => other,
    }
}

/// Migrates, and expects success: contents equal, states right, nothing left over.
#[track_caller]
pub fn migrate(source: &Side, target: &Side, drive: Drive<'_>) -> Done {
    let mut done = drive.run(&source.device, &target.device);
    if let Err((at, error)) = &done.result {
        panic!("{at:?}: {error} {:?}", error.failure());
    }
    assert_eq!(source.sim.digest(), target.sim.digest(), "the contents differ");
    assert_eq!(source.sim.state(), State::STOP);
    assert_eq!(target.sim.state(), State::STOP);
    target.device.run().unwrap();
    assert_eq!(target.sim.state(), State::RUNNING);
    assert_eq!(done.statuses.last(), Some(&ENDED));
    check_clean(source);
    check_clean(target);
    // The end of the sessions changes nothing.
    let stats = (done.save.as_ref().unwrap().stats(), done.load.as_ref().unwrap().stats());
    assert_eq!(stats.0.data_bytes, stats.1.data_bytes);
    assert_eq!(stats.0.stream_bytes, stats.1.stream_bytes);
    assert_eq!(stats.0.frames, stats.1.frames);
    done.save = None;
    done.load = None;
    assert_eq!(source.sim.state(), State::STOP);
    assert_eq!(target.sim.state(), State::RUNNING);
    done
}

/// No violation, and no stream left open.
#[track_caller]
pub fn check_clean(side: &Side) {
    assert_eq!(side.sim.violations(), (0, None));
    assert_eq!(side.sim.open_streams(), 0);
}

/// The whole stream of a device that does not change.
pub fn stream_of(device: &Device, save: SaveOptions) -> Result<Vec<u8>> {
    let mut save = device.save(save)?;
    let mut buf = vec![0; 64 << 10];
    let mut stream = vec![];
    loop {
        let next = save.next(&mut buf)?;
        stream.extend_from_slice(&buf[..next.len]);
        match next.status {
            SaveStatus::More => {}
            SaveStatus::Drained => save.stop()?,
            SaveStatus::End => break,
        }
    }
    save.finish(Ending::Keep)?;
    Ok(stream)
}
