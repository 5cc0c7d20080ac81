// SPDX-License-Identifier: MIT OR Apache-2.0
//! A simulated device as vfio-user shows it: what each command does, and what it returns. How a
//! message came, and how it is answered, is the connection's business.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::desk::Work;
use super::memory::{Memory, Peer, Refusal};
use super::options::{MOST_DATA, ServerOptions, quirk as server};
use super::regions::Regions;
use super::registers::{Command, pattern, sum};
use super::socket::Message;
use super::wire::{
    DMA_MAP, DMA_UNMAP, FEATURE, GET_INFO, GET_IRQ_INFO, GET_REGION_INFO, MIG_DATA_READ,
    MIG_DATA_WRITE, REGION_READ, REGION_WRITE, RESET, SET_IRQS, u32_at, words,
};
use crate::device::{
    FEATURE_DMA_LOGGING_REPORT, FEATURE_DMA_LOGGING_START, FEATURE_DMA_LOGGING_STOP, FEATURE_GET,
    FEATURE_MASK, FEATURE_MIG_DEVICE_STATE, FEATURE_MIGRATION, FEATURE_PROBE, FEATURE_SET,
    UserMemory,
};
use crate::fsm::State;
use crate::options::{Op, quirk};
use crate::shared::Shared;

/// There are no others in vfio-user, whatever the device has.
const FEATURES: [u32; 5] = [
    FEATURE_MIGRATION,
    FEATURE_MIG_DEVICE_STATE,
    FEATURE_DMA_LOGGING_START,
    FEATURE_DMA_LOGGING_STOP,
    FEATURE_DMA_LOGGING_REPORT,
];

/// What features and data begin with: two numbers.
const PREFIX: usize = 8;
/// Of features of migration: the flags, a state.
const FEATURE_DATA: usize = 8;
/// The most bytes of memory that a command of the registers is about.
const MOST_DMA: u64 = 1 << 20;

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
    memory: Memory,
    /// The data stream of the session that it is in.
    stream: Option<i32>,
    options: ServerOptions,
    /// The most bytes in a message about a region.
    most: usize,
    /// And in one about migration data.
    most_data: usize,
    /// Whether the client takes descriptors.
    gives_fds: bool,
}

impl Device {
    pub fn new(sim: Arc<Shared>, options: ServerOptions) -> Result<Device, i32> {
        let (regions, memory) = (Regions::new()?, Memory::default());
        Ok(Device {
            sim,
            regions,
            memory,
            stream: None,
            options,
            most: 0,
            most_data: 0,
            gives_fds: false,
        })
    }

    /// A client has introduced itself, and takes this much at once, and descriptors or not.
    pub fn client_came(&mut self, takes: usize, fds: bool) {
        self.gives_fds = fds;
        self.most = takes.min(self.options.max_data_xfer as usize);
        self.most_data = match self.options.has(server::CLIENT_LIMIT_ONLY) {
            true => takes.min(MOST_DATA as usize),
            false => self.most,
        };
    }

    /// It has gone, and its memory with it.
    pub fn client_went(&mut self) {
        self.regions.forget_client();
        self.memory = Memory::default();
        if self.options.has(server::LEAVING_RESETS) {
            self.sim.lock().reset_to_running();
            self.settle();
        }
    }

    /// The payload of an error reply to a message.
    pub fn refusal(&self, message: &Message) -> Vec<u8> {
        let set = |payload| u32_at(payload, 4).is_ok_and(|flags| flags & FEATURE_SET != 0);
        let echoes = message.header.command == FEATURE
            && self.options.has(server::SET_PAYLOAD)
            && set(&message.payload);
        if echoes { message.payload.clone() } else { Vec::new() }
    }

    /// Whether a command is refused whatever it says.
    fn refuses(&self, command: u16) -> bool {
        let taken = matches!(command, REGION_READ | REGION_WRITE | FEATURE | MIG_DATA_READ);
        let stopped = matches!(self.sim.lock().state(), State::STOP | State::STOP_COPY);
        stopped && !taken && self.options.has(server::STOPPED_REFUSES)
    }

    /// A command of the client's.
    pub fn execute(&mut self, message: Message, peer: &mut dyn Peer) -> Result<Answer, i32> {
        let Message { header, payload, fds } = message;
        let payload = payload.as_slice();
        if !fds.is_empty() && !matches!(header.command, DMA_MAP | SET_IRQS) {
            self.sim.lock().violation(c"descriptors with a command that takes none");
        }
        if self.refuses(header.command) {
            return Err(libc::EINVAL);
        }
        match header.command {
            DMA_MAP => {
                let (most, again) =
                    (self.options.max_dma_maps as usize, self.options.has(server::MAP_AGAIN));
                self.memory.map(payload, fds, most, again).map(|()| Answer::default())
            }
            DMA_UNMAP => self.memory.unmap(payload).map(Answer::from),
            GET_INFO => Regions::device_info(payload).map(Answer::from),
            GET_REGION_INFO => {
                let (payload, fds) = self.regions.region_info(payload, self.gives_fds)?;
                Ok(Answer { payload, fds })
            }
            GET_IRQ_INFO => Regions::irq_info(payload).map(Answer::from),
            SET_IRQS => self.regions.set_irqs(payload, fds).map(|()| Answer::default()),
            REGION_READ => self.regions.read(&self.sim, payload, self.most).map(Answer::from),
            REGION_WRITE => {
                let (payload, command) = self.regions.write(payload)?;
                if let Some(command) = command {
                    let result = self.carry_out(command, peer);
                    self.regions.registers.result = result.err().unwrap_or(0) as u64;
                }
                Ok(Answer::from(payload))
            }
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

    /// What another thread wants done.
    pub fn work(&mut self, work: Work, peer: &mut dyn Peer) -> Result<Vec<u8>, i32> {
        match work {
            Work::Write(iova, bytes) => self.dma_write(iova, &bytes, peer).map(|()| Vec::new()),
            Work::Read(iova, len) => self.dma_read(iova, len, peer),
        }
    }

    /// What the guest wants done.
    fn carry_out(&mut self, command: Command, peer: &mut dyn Peer) -> Result<(), i32> {
        let Command { number, address, length, seed } = command;
        if matches!(number, 1 | 2) && length > MOST_DMA {
            return Err(libc::E2BIG);
        }
        match number {
            1 => self.dma_write(address, &pattern(seed, length as usize), peer),
            2 => {
                self.regions.registers.sum = sum(&self.dma_read(address, length as usize, peer)?);
                Ok(())
            }
            3 => self.sim.lock().guest_write(address, length, seed),
            4 => {
                let [index, n] = [address, length].map(|number| u32::try_from(number).ok());
                let (index, n) = (index.ok_or(libc::EINVAL)?, n.ok_or(libc::EINVAL)?);
                self.regions.interrupt(index, n);
                Ok(())
            }
            _ => Err(libc::EINVAL),
        }
    }

    fn dma_write(&mut self, iova: u64, bytes: &[u8], peer: &mut dyn Peer) -> Result<(), i32> {
        self.sim.lock().may_dma()?;
        self.memory.write(iova, bytes, peer)
    }

    fn dma_read(&mut self, iova: u64, len: usize, peer: &mut dyn Peer) -> Result<Vec<u8>, i32> {
        self.sim.lock().may_dma()?;
        let mut buf = vec![0; len];
        self.memory.read(iova, &mut buf, peer)?;
        Ok(buf)
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
        if argsz < payload.len() {
            return Err(libc::EINVAL);
        }
        self.known_feature(payload, flags).map_err(|errno| match errno {
            libc::ENOTTY if self.options.has(server::UNKNOWN_EINVAL) => libc::EINVAL,
            errno => errno,
        })
    }

    fn known_feature(&mut self, payload: &[u8], flags: u32) -> Result<Vec<u8>, i32> {
        let argsz = u32_at(payload, 0)? as usize;
        let data = payload.get(PREFIX..).unwrap_or_default();
        if !FEATURES.contains(&(flags & FEATURE_MASK)) {
            return Err(libc::ENOTTY);
        }
        if flags & FEATURE_PROBE != 0 {
            self.sim.feature(flags, &mut [], &mut NoMemory)?;
            return Ok(payload.to_vec());
        }
        let mut room = [0; FEATURE_DATA];
        match flags & FEATURE_MASK {
            feature @ FEATURE_DMA_LOGGING_START..=FEATURE_DMA_LOGGING_REPORT => {
                // Whether there is a log, and what may be done with it.
                self.sim.feature(flags | FEATURE_PROBE, &mut [], &mut NoMemory)?;
                if flags & (FEATURE_GET | FEATURE_SET) == 0 {
                    return Err(libc::EINVAL);
                }
                return self.log(feature, payload);
            }
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

    /// `DMA_LOGGING_START`, `_STOP`, `_REPORT`: the reply.
    fn log(&mut self, feature: u32, payload: &[u8]) -> Result<Vec<u8>, i32> {
        let mut core = self.sim.lock();
        let result = match feature {
            FEATURE_DMA_LOGGING_START => {
                core.begin_plain(Op::LogStart)?;
                self.memory.start_log(payload, core.options.log_page_size)
            }
            FEATURE_DMA_LOGGING_STOP => {
                core.begin_plain(Op::LogStop)?;
                self.memory.stop_log();
                Ok(payload.to_vec())
            }
            _ => match core.begin_report() {
                Ok(()) if core.has(quirk::REPORT_EOPNOTSUPP) => Err((libc::EOPNOTSUPP, None)),
                Ok(()) => self.memory.report(payload),
                Err((errno, forgets)) => {
                    if forgets {
                        let _ = self.memory.report(payload);
                    }
                    Err((errno, None))
                }
            },
        };
        result.map_err(|(errno, rule): Refusal| {
            if let Some(rule) = rule {
                core.violation(rule);
            }
            errno
        })
    }

    fn set_state(&mut self, flags: u32, room: &mut [u8; FEATURE_DATA]) -> Result<(), i32> {
        let before = self.sim.lock().state();
        let result = self.sim.feature(flags, room, &mut NoMemory);
        let mut core = self.sim.lock();
        let now = core.state();
        let stops = before == State::PRE_COPY && now == State::STOP_COPY;
        let continues = before.is_saving() && now.is_saving();
        if stops && self.options.has(server::STARTS_OVER) {
            core.start_over();
        }
        drop(core);
        if let (Ok(()), Ok(stream @ 0..)) = (result, u32_at(room, 4).map(|fd| fd as i32)) {
            match self.stream {
                // The session goes on with its own, and the other one can be read by nobody.
                Some(_) if continues => {
                    let _ = self.sim.lock().close(stream);
                }
                _ => {
                    self.close();
                    self.stream = Some(stream);
                }
            }
        }
        let [_, _, _, _, fd @ ..] = room;
        *fd = (-1i32).to_ne_bytes();
        self.settle();
        result
    }

    /// The lengths that a message about data names: what there is room for, and what is asked for.
    fn lengths(&self, payload: &[u8]) -> Result<(usize, usize), i32> {
        let (argsz, size) = (u32_at(payload, 0)? as usize, u32_at(payload, 4)? as usize);
        if size > self.most_data || argsz < PREFIX {
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
        if !self.options.has(server::UNTRIMMED) {
            data.truncate(got);
        }
        let mut out = words(&[(PREFIX + data.len()) as u32, got as u32]);
        out.extend(data);
        Ok(out)
    }

    /// `VFIO_USER_MIG_DATA_WRITE`. What a device takes in part only is refused: a client could not know
    /// how much that was.
    fn write(&mut self, payload: &[u8]) -> Result<(), i32> {
        let (argsz, size) = self.lengths(payload)?;
        if argsz != PREFIX + size {
            return Err(libc::EINVAL);
        }
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
    let mut last = call();
    for _ in 1..PATIENCE {
        if !again(&last) {
            break;
        }
        last = call();
    }
    last
}
