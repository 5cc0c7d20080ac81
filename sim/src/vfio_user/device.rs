// SPDX-License-Identifier: MIT OR Apache-2.0
//! A simulated device as vfio-user shows it: what each command does, and what it returns. How a
//! message came, and how it is answered, is the connection's business.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::options::ServerOptions;
use super::regions::Regions;
use super::socket::Message;
use super::wire::{u32_at, words};
use crate::device::UserMemory;
use crate::fsm::State;
use crate::shared::Shared;

pub(crate) const VERSION: u16 = 1;
const GET_INFO: u16 = 4;
const GET_REGION_INFO: u16 = 5;
const GET_IRQ_INFO: u16 = 7;
const SET_IRQS: u16 = 8;
const REGION_READ: u16 = 9;
const REGION_WRITE: u16 = 10;
const RESET: u16 = 13;
const FEATURE: u16 = 16;
const MIG_DATA_READ: u16 = 17;
const MIG_DATA_WRITE: u16 = 18;

const FEATURE_MASK: u32 = 0xffff;
const FEATURE_GET: u32 = 1 << 16;
const FEATURE_SET: u32 = 1 << 17;
const FEATURE_PROBE: u32 = 1 << 18;
const FEATURE_MIGRATION: u32 = 1;
const FEATURE_MIG_DEVICE_STATE: u32 = 2;
/// There are no others in vfio-user, whatever the device has.
const FEATURES: [u32; 2] = [FEATURE_MIGRATION, FEATURE_MIG_DEVICE_STATE];

/// What features and data begin with: two numbers.
const PREFIX: usize = 8;
/// Of both features that have any: the flags, a state.
const FEATURE_DATA: usize = 8;

/// How often a driver is asked again that was interrupted or busy.
const PATIENCE: usize = 10;

/// What a command returns.
#[derive(Default)]
pub(crate) struct Answer {
    pub payload: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl From<Vec<u8>> for Answer {
    fn from(payload: Vec<u8>) -> Answer {
        Answer { payload, fds: Vec::new() }
    }
}

/// vfio-user's features have no pointers.
struct NoMemory;

impl UserMemory for NoMemory {
    fn read(&mut self, _: u64, _: &mut [u64]) -> Result<(), i32> {
        Err(libc::EFAULT)
    }

    fn or(&mut self, _: u64, _: &[u64]) -> Result<(), i32> {
        Err(libc::EFAULT)
    }
}

pub(crate) struct Device {
    sim: Arc<Shared>,
    regions: Regions,
    /// The data stream of the session that it is in.
    stream: Option<i32>,
    /// The most bytes of data in a message.
    most: usize,
}

impl Device {
    pub fn new(sim: Arc<Shared>) -> Result<Device, i32> {
        Ok(Device { sim, regions: Regions::new()?, stream: None, most: 0 })
    }

    /// A client has introduced itself: it takes this much data at once.
    pub fn client_came(&mut self, options: &ServerOptions, takes: usize) {
        self.most = takes.min(options.max_data_xfer as usize);
    }

    /// It has gone.
    pub fn client_went(&mut self) {
        self.regions.forget_client();
    }

    pub fn execute(&mut self, message: Message) -> Result<Answer, i32> {
        let Message { header, payload, fds } = message;
        let payload = payload.as_slice();
        match header.command {
            GET_INFO => Regions::device_info(payload).map(Answer::from),
            GET_REGION_INFO => {
                let (payload, fds) = self.regions.region_info(payload)?;
                Ok(Answer { payload, fds })
            }
            GET_IRQ_INFO => Regions::irq_info(payload).map(Answer::from),
            SET_IRQS => self.regions.set_irqs(payload, fds).map(|()| Answer::default()),
            REGION_READ => self.regions.read(&self.sim, payload, self.most).map(Answer::from),
            REGION_WRITE => self.regions.write(payload).map(Answer::from),
            RESET => {
                self.sim.reset()?;
                self.settle();
                Ok(Answer::default())
            }
            FEATURE => self.feature(payload).map(Answer::from),
            MIG_DATA_READ => self.read(payload).map(Answer::from),
            MIG_DATA_WRITE => self.write(payload).map(|()| Answer::default()),
            _ => Err(libc::EINVAL),
        }
    }

    /// A stream ends with its session.
    fn settle(&mut self) {
        let state = self.sim.lock().state();
        if !state.is_saving() && state != State::RESUMING {
            self.close();
        }
    }

    fn close(&mut self) {
        if let Some(stream) = self.stream.take() {
            // What was handed out is open until here.
            let _ = self.sim.lock().close(stream);
        }
    }

    /// `VFIO_USER_DEVICE_FEATURE`.
    fn feature(&mut self, payload: &[u8]) -> Result<Vec<u8>, i32> {
        let (argsz, flags) = (u32_at(payload, 0)? as usize, u32_at(payload, 4)?);
        let data = payload.get(PREFIX..).unwrap_or_default();
        if argsz < payload.len() {
            return Err(libc::EINVAL);
        }
        if !FEATURES.contains(&(flags & FEATURE_MASK)) {
            return Err(libc::ENOTTY);
        }
        if flags & FEATURE_PROBE != 0 {
            self.sim.feature(flags, &mut [], &mut NoMemory)?;
            return Ok(payload.to_vec());
        }
        let mut room = [0; FEATURE_DATA];
        match flags & FEATURE_MASK {
            FEATURE_MIGRATION | FEATURE_MIG_DEVICE_STATE if flags & FEATURE_GET != 0 => {
                if argsz < PREFIX + FEATURE_DATA {
                    return Err(libc::EINVAL);
                }
                self.sim.feature(flags, &mut room, &mut NoMemory)?;
            }
            FEATURE_MIG_DEVICE_STATE if flags & FEATURE_SET != 0 => {
                room = *data.first_chunk().ok_or(libc::EINVAL)?;
                self.set_state(flags, &mut room)?;
            }
            _ => return Err(libc::EINVAL),
        }
        let mut out = words(&[argsz as u32, flags]);
        out.extend(room);
        Ok(out)
    }

    fn set_state(&mut self, flags: u32, room: &mut [u8; FEATURE_DATA]) -> Result<(), i32> {
        let result = self.sim.feature(flags, room, &mut NoMemory);
        if let (Ok(()), Ok(stream @ 0..)) = (result, u32_at(room, 4).map(|fd| fd as i32)) {
            self.close();
            self.stream = Some(stream);
        }
        let [_, _, _, _, fd @ ..] = room;
        *fd = (-1i32).to_ne_bytes();
        self.settle();
        result
    }

    /// The lengths that a message about data names: what there is room for, and what is asked for.
    fn lengths(&self, payload: &[u8]) -> Result<(usize, usize), i32> {
        let (argsz, size) = (u32_at(payload, 0)? as usize, u32_at(payload, 4)? as usize);
        if size > self.most || argsz < PREFIX {
            return Err(libc::EINVAL);
        }
        Ok((argsz, size))
    }

    /// The stream, if that is what the device is there for.
    fn stream(&self, fits: fn(State) -> bool) -> Result<i32, i32> {
        self.stream.filter(|_| fits(self.sim.lock().state())).ok_or(libc::EINVAL)
    }

    /// `VFIO_USER_MIG_DATA_READ`.
    fn read(&mut self, payload: &[u8]) -> Result<Vec<u8>, i32> {
        let (argsz, size) = self.lengths(payload)?;
        let stream = self.stream(State::is_saving)?;
        if argsz < PREFIX + size {
            return Err(libc::EINVAL);
        }
        let mut data = vec![0; size];
        let got = match patiently(|| self.sim.read(stream, &mut data)) {
            // A driver's end of pre-copy for now.
            Err(libc::ENOMSG) => 0,
            result => result?,
        };
        data.truncate(got);
        let mut out = words(&[(PREFIX + data.len()) as u32, got as u32]);
        out.extend(data);
        Ok(out)
    }

    /// `VFIO_USER_MIG_DATA_WRITE`. What a device takes in part only is refused: a client could not know
    /// how much that was.
    fn write(&mut self, payload: &[u8]) -> Result<(), i32> {
        let (_, size) = self.lengths(payload)?;
        let stream = self.stream(|state| state == State::RESUMING)?;
        let data = payload.get(PREFIX..).filter(|data| data.len() == size).ok_or(libc::EINVAL)?;
        if data.is_empty() {
            return Ok(());
        }
        let taken = patiently(|| self.sim.write(stream, data))?;
        if taken == size { Ok(()) } else { Err(libc::EINVAL) }
    }
}

/// Again, if a driver would like to be asked again.
fn patiently(mut call: impl FnMut() -> Result<usize, i32>) -> Result<usize, i32> {
    let again = |result: &_| matches!(result, Err(libc::EINTR | libc::EAGAIN));
    (0..PATIENCE).map(|_| call()).find(|result| !again(result)).unwrap_or(Err(libc::EINTR))
}
