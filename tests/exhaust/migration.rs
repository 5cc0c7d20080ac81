// SPDX-License-Identifier: MIT OR Apache-2.0
//! A whole migration as a VMM makes it, in every shape that matters, and whatever its calls say.

use std::time::Duration;

use vfiomig::compat::{Policy, Rule};
use vfiomig::error::{Code, Failure};
use vfiomig::session::{Ending, Load, LoadOptions, Save, SaveOptions, SaveStatus};
use vfiomig::stream::{Auth, Format};
use vfiomig::{Device, Result};
use vfiomig_sim::{Sim, SimOptions, quirk};

use super::tap::At;

/// What happens to the source's device during pre-copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meddle {
    Nothing,
    /// It starts its initial data again.
    Reinit,
    /// Its guest resets it.
    Reset,
}

/// A shape of a migration.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub flags: u32,
    pub quirks: u64,
    pub format: Format,
    pub ending: Ending,
    pub quiesce: bool,
    pub nonblocking: bool,
    pub no_pre_copy: bool,
    pub authenticated: bool,
    pub meddle: Meddle,
}

const PLAIN: Shape = Shape {
    name: "native, pre-copy, peer-to-peer",
    flags: 7,
    quirks: 0,
    format: Format::Native,
    ending: Ending::Release,
    quiesce: true,
    nonblocking: false,
    no_pre_copy: false,
    authenticated: false,
    meddle: Meddle::Nothing,
};

/// What drivers of the kernel do to hide that something failed.
const HIDES: u64 = quirk::STOP_ACCEPTS_ALL | quirk::CONSUMES_ON_ERROR | quirk::DRAINED_ZERO;

pub const SHAPES: &[Shape] = &[
    PLAIN,
    Shape { name: "native, stop-copy alone", flags: 1, quiesce: false, ..PLAIN },
    Shape { name: "native, pre-copy", flags: 5, quiesce: false, ..PLAIN },
    Shape { name: "native, peer-to-peer", flags: 3, ..PLAIN },
    Shape { name: "native, authenticated", authenticated: true, flags: 5, ..PLAIN },
    Shape { name: "native, pre-copy left out", no_pre_copy: true, ..PLAIN },
    Shape {
        name: "native, without blocking",
        nonblocking: true,
        quirks: quirk::NONBLOCKING | quirk::FALSE_END,
        ..PLAIN
    },
    Shape { name: "native, kept", ending: Ending::Keep, ..PLAIN },
    Shape { name: "native, kept quiesced", ending: Ending::KeepQuiesced, ..PLAIN },
    Shape { name: "native, kept stopped", ending: Ending::KeepStopped, quiesce: false, ..PLAIN },
    Shape {
        name: "native, initial data again",
        quirks: quirk::PRECOPY_INFO_V2,
        meddle: Meddle::Reinit,
        ..PLAIN
    },
    Shape { name: "native, reset by its guest", meddle: Meddle::Reset, ..PLAIN },
    Shape { name: "native, a driver that hides failures", quirks: HIDES, flags: 5, ..PLAIN },
    Shape {
        name: "native, a server whose resets keep the state",
        quirks: quirk::RESET_KEEPS_STATE,
        ..PLAIN
    },
    Shape { name: "QEMU's", format: Format::Qemu, ..PLAIN },
    Shape { name: "QEMU's, stop-copy alone", format: Format::Qemu, flags: 1, ..PLAIN },
    Shape { name: "QEMU's, packets", format: Format::QemuPackets, ..PLAIN },
    Shape {
        name: "QEMU's, packets, kept",
        format: Format::QemuPackets,
        ending: Ending::Keep,
        quiesce: false,
        ..PLAIN
    },
];

/// The simplest one, which must work once nothing fails.
pub const AGAIN: &Shape = &PLAIN;

impl Shape {
    /// A device of this shape, with contents that no reset gives it.
    pub fn sim(&self, at: At) -> Sim {
        let options = SimOptions {
            migration_flags: self.flags,
            quirks: self.quirks,
            seed: 1 + at as u64,
            state_size: 700,
            pci: [0x1111, 0x1111, 0x1111, 0x1111],
            ..SimOptions::default()
        };
        let sim = Sim::new(options).unwrap();
        if at == At::Source {
            sim.guest_write(50, 400, 5).unwrap();
        }
        sim
    }

    /// What a reset makes of it.
    pub fn fresh(&self, at: At) -> u64 {
        let sim = self.sim(at);
        sim.guest_reset();
        sim.digest()
    }

    fn auth(&self) -> Option<Auth> {
        let key = |_, key: &mut [u8; 32]| {
            *key = [7; 32];
            Ok(())
        };
        self.authenticated.then(|| Auth::with_keys(1, key))
    }

    pub fn save_options(&self) -> SaveOptions {
        SaveOptions {
            format: self.format,
            switchover_ack: self.format != Format::Native,
            nonblocking: self.nonblocking,
            no_pre_copy: self.no_pre_copy,
            max_frame: 500,
            max_restarts: 4,
            read_timeout: Duration::from_millis(5),
            auth: self.auth(),
            ..SaveOptions::default()
        }
    }

    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            format: self.format,
            blobs: Some(Box::new(|_, _| Ok(()))),
            write_timeout: Duration::from_millis(5),
            // A device that fails to say what it is has a stream that does not say it either.
            policy: Policy::default().with_others(Rule::IfKnown).unwrap(),
            auth: self.auth(),
            ..LoadOptions::default()
        }
    }
}

/// What the guest changes during pre-copy.
pub fn work(sim: &Sim) {
    sim.guest_write(100, 300, 77).unwrap();
}

/// An error that a call returned, and where its device was then.
pub struct Word {
    pub at: At,
    pub function: &'static str,
    pub code: Code,
    pub text: String,
    pub failure: Option<Failure>,
    pub state: u32,
    pub digest: u64,
}

/// One migration: the handles, and what they said.
pub struct Migration<'a> {
    pub shape: &'a Shape,
    pub sims: [&'a Sim; 2],
    pub save: Option<Save>,
    pub load: Option<Load>,
    pub words: Vec<Word>,
    /// What the source's guest relies on.
    pub contents: u64,
    pub committed: bool,
    pub released: bool,
}

/// The VMM's own part in QEMU's format.
pub const CONFIG: &[u8] = b"config";

/// How often something may come again.
const PATIENCE: usize = 200;

impl<'a> Migration<'a> {
    pub fn new(shape: &'a Shape, sims: [&'a Sim; 2]) -> Migration<'a> {
        let contents = sims[0].digest();
        Migration {
            shape,
            sims,
            save: None,
            load: None,
            words: Vec::new(),
            contents,
            committed: false,
            released: false,
        }
    }

    /// Notes what a call says, if it is an error.
    pub fn hear<T>(&mut self, at: At, function: &'static str, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.words.push(Word {
                at,
                function,
                code: error.code(),
                text: error.message().to_owned(),
                failure: error.failure().copied(),
                state: self.sims[at as usize].state().0,
                digest: self.sims[at as usize].digest(),
            });
        }
        result
    }

    /// All of it, up to the guest's first step on the target, or on the source.
    pub fn run(&mut self, source: &Device, target: &Device) -> Result<()> {
        let packets = self.save_and_push(source, target)?;
        if self.shape.ending != Ending::Release {
            self.load = None;
            return self.finish(self.shape.ending);
        }
        self.load_packets(&packets)?;
        let committed = self.load.as_mut().unwrap().commit();
        self.hear(At::Target, "vfiomig_load_commit", committed)?;
        self.committed = true;
        // From here on the guest is the target's, whatever the source says.
        self.released = true;
        let released = self.finish(Ending::Release);
        let run = target.run();
        self.hear(At::Target, "vfiomig_device_run", run)?;
        released
    }

    /// Ends the save, if there is one.
    pub fn finish(&mut self, ending: Ending) -> Result<()> {
        match self.save.as_mut().map(|save| save.finish(ending)) {
            Some(result) => self.hear(At::Source, "vfiomig_save_finish", result),
            None => Ok(()),
        }
    }

    fn save_and_push(&mut self, source: &Device, target: &Device) -> Result<Vec<Vec<u8>>> {
        let save = source.save(self.shape.save_options());
        self.save = Some(self.hear(At::Source, "vfiomig_save_begin", save)?);
        let load = target.load(self.shape.load_options());
        self.load = Some(self.hear(At::Target, "vfiomig_load_begin", load)?);
        let mut buf = vec![0; 4096];
        let (mut packets, mut stopped, mut drained, mut again) = (vec![], false, 0, 0);
        loop {
            let next = self.save.as_mut().unwrap().next(&mut buf);
            let next = match self.hear(At::Source, "vfiomig_save_next", next) {
                Err(error) if error.code() == Code::Again && again < PATIENCE => {
                    again += 1;
                    continue;
                }
                next => next?,
            };
            let piece = &buf[..next.len];
            if stopped && self.shape.format == Format::QemuPackets {
                packets.extend((!piece.is_empty()).then(|| piece.to_vec()));
            } else {
                self.push(piece)?;
            }
            match next.status {
                SaveStatus::More => {}
                SaveStatus::End => return Ok(packets),
                SaveStatus::Drained if stopped => {
                    let added = self.save.as_mut().unwrap().blob(0, CONFIG);
                    self.hear(At::Source, "vfiomig_save_add_blob", added)?;
                }
                SaveStatus::Drained if drained == 0 => {
                    drained += 1;
                    self.between_rounds(source)?;
                }
                SaveStatus::Drained => {
                    self.stop()?;
                    stopped = true;
                }
            }
        }
    }

    /// What a VMM does between rounds, and the guest.
    fn between_rounds(&mut self, source: &Device) -> Result<()> {
        let sim = self.sims[0];
        match self.shape.meddle {
            Meddle::Nothing => {}
            Meddle::Reinit => sim.reinit(),
            Meddle::Reset => {
                sim.guest_reset();
                self.contents = sim.digest();
                let told = source.was_reset();
                self.hear(At::Source, "vfiomig_device_notify_reset", told)?;
            }
        }
        work(sim);
        self.contents = sim.digest();
        let save = self.save.as_mut().unwrap();
        let (pending, poll) = (save.pending(), save.poll_fd());
        self.hear(At::Source, "vfiomig_save_get_pending", pending)?;
        // Nothing to poll is no failure: a VMM then uses a timer.
        let _ = self.hear(At::Source, "vfiomig_save_get_poll_fd", poll);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        if self.shape.quiesce {
            let quiesced = insist(|| self.save.as_mut().unwrap().quiesce());
            self.hear(At::Source, "vfiomig_save_quiesce", quiesced)?;
        }
        let stopped = insist(|| self.save.as_mut().unwrap().stop());
        self.hear(At::Source, "vfiomig_save_stop", stopped)
    }

    /// Into the library's own memory: a VMM's part of QEMU's stream is the VMM's to read.
    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let load = self.load.as_mut().unwrap();
            let len = match load.space() {
                Ok(room) => {
                    let len = room.len().min(rest.len());
                    room[..len].copy_from_slice(&rest[..len]);
                    Ok(len)
                }
                Err(error) => Err(error),
            };
            let len = self.hear(At::Target, "vfiomig_load_get_space", len)?;
            rest = &rest[len..];
            let status = self.load.as_mut().unwrap().received(len);
            let status = self.hear(At::Target, "vfiomig_load_push_received", status)?;
            if status.config {
                rest = &rest[CONFIG.len()..];
            }
        }
        Ok(())
    }

    /// All packets are there before any is loaded, so that one thread is enough.
    fn load_packets(&mut self, packets: &[Vec<u8>]) -> Result<()> {
        let Some(incoming) = self.load.as_ref().unwrap().packets() else { return Ok(()) };
        let submitted = packets.iter().rev().try_for_each(|packet| incoming.submit(packet));
        self.hear(At::Target, "vfiomig_load_push_packet", submitted)?;
        self.hear(At::Target, "vfiomig_load_write_packets", incoming.run())
    }
}

/// Again, where the initial data has started again.
fn insist(mut call: impl FnMut() -> Result<()>) -> Result<()> {
    match call() {
        Err(error) if error.code() == Code::Again => call(),
        other => other,
    }
}
