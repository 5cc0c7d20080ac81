// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the two roles have in common: the devices, the connection, and what there is to do.

use super::message::{Generations, Identities, MAX_MESSAGE, Output, Parting, kind};
use super::types::{HandoverOptions, Outcome, Reason, Report};
use crate::alloc;
use crate::error::{Result, err};

/// What is known of one device.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Device {
    /// What the source says that it is.
    pub identity: Vec<u8>,
    /// Which generation of its initial data the target has loaded.
    pub loaded: u64,
    /// Which one it must have loaded before the switchover; 0: none.
    pub needed: u64,
    /// Whether its stream is complete.
    pub ended: bool,
}

/// An action on devices or the guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Work {
    Judge,
    Begin,
    Stop,
    Commit,
    Release,
    Keep,
    Run,
    Reset,
}

impl Work {
    /// Whether an event says how it went, before which nothing else is asked for.
    fn has_result(self) -> bool {
        !matches!(self, Work::Begin | Work::Stop)
    }
}

/// What a side has to say until it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    Hello,
    Switchover(u32),
    End,
    Go,
    Keep { heard: bool },
    Done,
    Welcome,
    Agreed(u32),
    Committed,
    Running,
    Refused { heard: bool },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Shared {
    pub options: HandoverOptions,
    pub devices: Vec<Device>,
    pub linked: bool,
    /// There is something to say, or to say again.
    pub send: bool,
    /// The VMM has to be asked for a tick.
    pub wait: bool,
    /// The VMM has to be told of the outcome.
    pub tell: bool,
    /// ... and to be asked for the other side or a fence.
    pub fence: bool,
    /// What is to be done next.
    pub work: Option<Work>,
    /// What the VMM is doing, and has not reported yet.
    pub under_way: Option<Work>,
    /// The outcome, and what will be its reason.
    pub report: Report,
}

impl Shared {
    pub fn new(options: HandoverOptions) -> Result<Shared> {
        options.check()?;
        let mut devices = Vec::new();
        for _ in 0..options.num_devices {
            alloc::push(&mut devices, Device::default(), "no memory for the devices")?;
        }
        Ok(Shared {
            options,
            devices,
            linked: false,
            send: false,
            wait: false,
            tell: false,
            fence: false,
            work: None,
            under_way: None,
            report: Report::default(),
        })
    }

    pub fn device(&mut self, number: u32) -> Result<&mut Device> {
        let count = self.devices.len();
        self.devices
            .get_mut(number as usize)
            .ok_or_else(|| err!(Inval, "there is no device {number}: there are {count}"))
    }

    /// One more stream is complete: whether all are.
    pub fn ended(&mut self, number: u32) -> Result<bool> {
        let device = self.device(number)?;
        if device.ended {
            return Err(err!(Inval, "the stream of device {number} has ended before"));
        }
        device.ended = true;
        Ok(self.all_ended())
    }

    pub fn all_ended(&self) -> bool {
        self.devices.iter().all(|device| device.ended)
    }

    /// Hands out what is to be done.
    pub fn take_work(&mut self) -> Option<Work> {
        if self.under_way.is_some() {
            return None;
        }
        let work = self.work.take()?;
        self.under_way = work.has_result().then_some(work);
        Some(work)
    }

    /// The VMM reports how an action went.
    pub fn finish(&mut self, work: Work) -> Result<()> {
        if self.under_way != Some(work) {
            return Err(err!(Inval, "this is the result of an action that was not asked for"));
        }
        self.under_way = None;
        Ok(())
    }

    /// Remembers why the guest does not arrive: the first reason is the one that counts.
    pub fn because(&mut self, reason: Reason, code: i32, by_peer: bool) {
        if self.report.reason == Reason::None && !self.is_over() {
            self.report = Report { reason, code, by_peer, ..self.report };
        }
    }

    /// The other side has given up. If that was because of something here, this is known already.
    pub fn because_of(&mut self, parting: &Parting) {
        self.because(parting.reason, parting.code, true);
    }

    /// The guest cannot go on here, which counts more than why it did not arrive.
    pub fn stuck(&mut self, code: i32) {
        let report = self.report;
        self.report = Report { reason: Reason::Stuck, code, by_peer: false, ..report };
    }

    /// The outcome is final.
    pub fn end(&mut self, outcome: Outcome) {
        self.report.outcome = outcome;
        self.tell = true;
        self.fence = false;
    }

    pub fn is_over(&self) -> bool {
        self.report.outcome != Outcome::Pending
    }

    /// The other side's devices must be as many as ours.
    pub fn same_number(&self, count: u32) -> Result<()> {
        if count as usize == self.devices.len() {
            return Ok(());
        }
        Err(err!(Proto, "a message about {count} devices: there are {}", self.devices.len()))
    }

    pub fn take_loaded(&mut self, loaded: Generations<'_>) {
        for (device, generation) in self.devices.iter_mut().zip(loaded.iter()) {
            // Messages may be old.
            device.loaded = device.loaded.max(generation);
        }
    }

    pub fn take_identities(&mut self, identities: Identities<'_>) -> Result<()> {
        for (device, identity) in self.devices.iter_mut().zip(identities.iter()) {
            device.identity = alloc::copy(identity, "no memory for the description of a device")?;
        }
        Ok(())
    }

    /// The longest first message that these devices make.
    fn hello_len(&self) -> usize {
        let sizes = self.devices.iter().map(|device| device.identity.len().saturating_add(4));
        sizes.fold(20, usize::saturating_add)
    }

    pub fn set_identity(&mut self, number: u32, identity: &[u8]) -> Result<()> {
        let copy = alloc::copy(identity, "no memory for the description of a device")?;
        let before = std::mem::replace(&mut self.device(number)?.identity, copy);
        if self.hello_len() > MAX_MESSAGE - super::message::HEADER_LEN {
            self.device(number)?.identity = before;
            return Err(err!(
                MsgSize,
                "the descriptions of all devices do not fit into a message of {MAX_MESSAGE} bytes"
            ));
        }
        Ok(())
    }

    /// Makes a message.
    pub fn encode(&self, standing: Standing, to: &mut Vec<u8>) -> Result<()> {
        let per_device = self.devices.len().saturating_mul(8).saturating_add(8);
        let (number, payload) = match standing {
            Standing::Hello => (kind::HELLO, self.hello_len()),
            Standing::Switchover(_) => (kind::SWITCHOVER, per_device),
            Standing::End => (kind::END, 0),
            Standing::Go => (kind::GO, 0),
            Standing::Keep { .. } => (kind::KEEP, 12),
            Standing::Done => (kind::DONE, 0),
            Standing::Welcome => (kind::WELCOME, per_device),
            Standing::Agreed(_) => (kind::AGREED, per_device),
            Standing::Committed => (kind::COMMITTED, 0),
            Standing::Running => (kind::RUNNING, 0),
            Standing::Refused { .. } => (kind::REFUSED, 12),
        };
        let mut out = Output::new(to, number, payload)?;
        out.begin(self.options.attempt, &self.options.migration_id);
        self.encode_payload(standing, &mut out);
        out.seal();
        Ok(())
    }

    fn encode_payload(&self, standing: Standing, out: &mut Output<'_>) {
        match standing {
            Standing::Hello => {
                out.put(&self.options.key_id);
                out.u32(self.options.num_devices);
                for device in &self.devices {
                    out.u32(device.identity.len() as u32);
                    out.put(&device.identity);
                }
            }
            Standing::Switchover(round) => {
                out.u32(round);
                self.encode_generations(out, |device| device.needed);
            }
            Standing::Welcome => self.encode_generations(out, |device| device.loaded),
            Standing::Agreed(round) => {
                out.u32(round);
                self.encode_generations(out, |device| device.loaded);
            }
            Standing::Keep { heard } | Standing::Refused { heard } => {
                out.u32(self.report.reason as u32);
                out.u32(self.report.code as u32);
                out.u32(u32::from(heard));
            }
            Standing::End
            | Standing::Go
            | Standing::Done
            | Standing::Committed
            | Standing::Running => {}
        }
    }

    fn encode_generations(&self, out: &mut Output<'_>, of: impl Fn(&Device) -> u64) {
        out.u32(self.options.num_devices);
        for device in &self.devices {
            out.u64(of(device));
        }
    }
}
