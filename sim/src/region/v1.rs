// SPDX-License-Identifier: MIT OR Apache-2.0
//! The region of a device that speaks v1: its fields, and its chunks.
//!
//! As strict as a driver can be: each field has its width, its access and its time, and a chunk is
//! taken only if it is the one that comes next, whole.

use super::typed::{FIRST, PAGE, Typed, is_word, put_register};
use crate::device::Core;
use crate::fsm::State;
use crate::options::{Op, SimOptions, quirk};

const DEVICE_STATE: u64 = 0;
const RESERVED: u64 = 4;
const PENDING_BYTES: u64 = 8;
const DATA_OFFSET: u64 = 16;
const DATA_SIZE: u64 = 24;

/// The state's reserved bits are kept.
const KEPT: u32 = 0x5a5a_0000;
/// Each chunk of the device begins with its length and its number.
pub(super) const CHUNK_HEADER: usize = 8;

/// A region, and what is under way in it.
pub(super) struct V1 {
    quirks: u64,
    window: u64,
    /// The part with data.
    memory: Vec<u8>,
    /// The session that this is about.
    session: Option<i32>,
    /// The length of a chunk that is there and has not been taken.
    chunk: Option<u64>,
    /// Where it is was asked since the last time that `PENDING_BYTES` was.
    asked: bool,
    counted: bool,
    /// The number of the next chunk.
    number: u32,
    /// A chunk was refused: nothing more is taken.
    refused: bool,
}

fn raw(state: State) -> u32 {
    match state {
        State::STOP => 0,
        State::RUNNING => 1,
        State::STOP_COPY => 2,
        State::PRE_COPY => 3,
        State::RESUMING => 4,
        _ => 6,
    }
}

fn state_of(raw: u32) -> Option<State> {
    let states = [State::STOP, State::RUNNING, State::STOP_COPY, State::PRE_COPY, State::RESUMING];
    states.get(raw as usize).copied()
}

/// The ways that there are.
const ARCS: [(u32, u32); 14] = [
    (1, 0),
    (1, 2),
    (1, 3),
    (1, 4),
    (3, 2),
    (3, 1),
    (3, 0),
    (2, 0),
    (2, 1),
    (0, 1),
    (0, 2),
    (0, 4),
    (4, 1),
    (4, 0),
];

impl V1 {
    pub fn new(options: &SimOptions, window: u64) -> V1 {
        V1 {
            quirks: options.quirks,
            window,
            memory: vec![0; 2 * window as usize],
            session: None,
            chunk: None,
            asked: false,
            counted: false,
            number: 0,
            refused: false,
        }
    }

    fn has(&self, quirk: u64) -> bool {
        self.quirks & quirk != 0
    }

    /// What a region is: its type and subtype, and its length.
    pub fn describe(&self, region: u32) -> Option<Typed> {
        let twice = self.has(quirk::TWO_REGIONS) && region == FIRST + 1;
        let kind = if self.has(quirk::MID_REGION) { 2 } else { 3 };
        (region == FIRST || twice).then(|| Typed { kind, subtype: 1, size: self.size() })
    }

    fn size(&self) -> u64 {
        let places = if self.has(quirk::ALTERNATING_OFFSET) { 2 } else { 1 };
        PAGE + places * self.window
    }

    /// Where the next chunk is, or goes.
    fn place(&self) -> u64 {
        if self.has(quirk::OFFSET_OUTSIDE) {
            return self.size();
        }
        let second = self.has(quirk::ALTERNATING_OFFSET) && self.number % 2 == 1;
        PAGE + if second { self.window } else { 0 }
    }

    /// Forgets what belongs to a session that is over.
    fn follow(&mut self, core: &mut Core) {
        let now = core.session();
        if self.session == now {
            return;
        }
        self.session = now;
        self.chunk = None;
        (self.asked, self.counted, self.refused) = (false, false, false);
        self.number = 0;
    }

    pub fn read(
        &mut self,
        core: &mut Core,
        region: u32,
        at: u64,
        buf: &mut [u8],
    ) -> Result<usize, i32> {
        if region != FIRST {
            return Err(libc::EINVAL);
        }
        self.follow(core);
        if at >= PAGE {
            core.begin_plain(Op::Read)?;
            self.check_width(at, buf.len())?;
            let from = self.data(at, buf.len())?;
            buf.copy_from_slice(self.memory.get(from..from + buf.len()).ok_or(libc::EINVAL)?);
            return Ok(buf.len());
        }
        let value = match (at, buf.len()) {
            (DEVICE_STATE, 4) => {
                core.begin_plain(Op::GetState)?;
                if self.has(quirk::STATE_UNREADABLE) {
                    return Err(libc::EIO);
                }
                core.looked_at();
                u64::from(raw(core.state()) | KEPT)
            }
            (RESERVED, 4) => 0,
            (PENDING_BYTES, 8) => self.pending(core)?,
            (DATA_OFFSET, 8) => self.offset(core)?,
            (DATA_SIZE, 8) => self.length(core)?,
            _ => return Err(libc::EINVAL),
        };
        put_register(buf, value)
    }

    /// A driver that takes words only.
    fn check_width(&self, at: u64, len: usize) -> Result<(), i32> {
        if self.has(quirk::STRICT_WIDTHS) && !is_word(at, len) { Err(libc::EINVAL) } else { Ok(()) }
    }

    fn data(&self, at: u64, len: usize) -> Result<usize, i32> {
        let end = at.checked_add(len as u64).filter(|end| *end <= self.size());
        end.map(|_| (at - PAGE) as usize).ok_or(libc::EINVAL)
    }

    fn must_be_saving(core: &mut Core) -> Result<(), i32> {
        if core.state().is_saving() {
            return Ok(());
        }
        core.misused(c"a field of a region that means nothing in this state");
        Err(libc::EINVAL)
    }

    /// Has the next chunk ready, if there is one; returns whether there is.
    fn prepare(&mut self, core: &mut Core) -> bool {
        if self.chunk.is_some() {
            return true;
        }
        let from = (self.place().saturating_sub(PAGE) as usize) % self.memory.len();
        let end = from + self.window as usize;
        let Some(memory) = self.memory.get_mut(from..end) else { return false };
        let (header, data) = memory.split_at_mut(CHUNK_HEADER);
        let len = core.pull(data);
        let forever = self.quirks & quirk::PENDING_FOREVER != 0 && core.state() == State::STOP_COPY;
        if len == 0 && !forever {
            return false;
        }
        let len = len + CHUNK_HEADER;
        let word = len as u64 | u64::from(self.number) << 32;
        header.copy_from_slice(&word.to_le_bytes());
        self.chunk = Some(len as u64);
        true
    }

    fn pending(&mut self, core: &mut Core) -> Result<u64, i32> {
        core.begin_plain(Op::PrecopyInfo)?;
        Self::must_be_saving(core)?;
        if std::mem::take(&mut self.asked) {
            self.chunk = None;
            self.number += 1;
        }
        self.counted = true;
        if !self.prepare(core) {
            return Ok(0);
        }
        Ok(core.left().saturating_add(self.chunk.unwrap_or(0)))
    }

    fn offset(&mut self, core: &mut Core) -> Result<u64, i32> {
        core.begin_plain(Op::Chunk)?;
        if core.state() == State::RESUMING {
            return Ok(self.place());
        }
        Self::must_be_saving(core)?;
        if !self.counted || !self.prepare(core) {
            core.misused(c"a chunk was asked for without asking whether there is one");
            return Err(libc::EINVAL);
        }
        self.asked = true;
        Ok(self.place())
    }

    fn length(&mut self, core: &mut Core) -> Result<u64, i32> {
        core.begin_plain(Op::Chunk)?;
        Self::must_be_saving(core)?;
        if !self.asked {
            core.misused(c"the length of a chunk was asked for before its place");
            return Err(libc::EINVAL);
        }
        Ok(if self.has(quirk::DATA_SIZE_ZERO) { 0 } else { self.chunk.unwrap_or(0) })
    }

    pub fn write(
        &mut self,
        core: &mut Core,
        region: u32,
        at: u64,
        bytes: &[u8],
    ) -> Result<usize, i32> {
        if region != FIRST {
            return Err(libc::EINVAL);
        }
        self.follow(core);
        if at >= PAGE {
            core.begin_plain(Op::Write)?;
            if core.state() != State::RESUMING {
                core.misused(c"data was written to a region whose device is not being loaded");
                return Err(libc::EINVAL);
            }
            self.check_width(at, bytes.len())?;
            let to = self.data(at, bytes.len())?;
            let memory = self.memory.get_mut(to..to + bytes.len()).ok_or(libc::EINVAL)?;
            memory.copy_from_slice(bytes);
            return Ok(bytes.len());
        }
        match (at, bytes.len()) {
            (DEVICE_STATE, 4) => {
                let wanted = bytes.first_chunk().map_or(0, |raw| u32::from_ne_bytes(*raw));
                self.set_state(core, wanted)?;
            }
            (RESERVED, 4) => {}
            (PENDING_BYTES | DATA_OFFSET, 8) => return Err(libc::EFAULT),
            (DATA_SIZE, 8) => {
                let len = bytes.first_chunk().map_or(0, |raw| u64::from_ne_bytes(*raw));
                self.take(core, len)?;
            }
            _ => return Err(libc::EINVAL),
        }
        Ok(bytes.len())
    }

    fn set_state(&mut self, core: &mut Core, wanted: u32) -> Result<(), i32> {
        if wanted & !7 != KEPT {
            core.misused(c"reserved bits of a region's state were changed");
        }
        let (from, to) = (raw(core.state()), wanted & 7);
        let state = state_of(to).filter(|_| from == to || ARCS.contains(&(from, to)));
        let Some(state) = state else {
            core.misused(c"an illegal change of a region's state");
            return Err(libc::EINVAL);
        };
        if from == raw(State::RESUMING) && to != from && self.refused {
            core.misused(c"a change out of RESUMING after a chunk was refused");
        }
        // A chunk that was not taken is offered again.
        (self.asked, self.counted) = (false, false);
        let stream = core.set_state(state)?;
        if stream >= 0 {
            // There are no data fds to hand out.
            core.close(stream)?;
        }
        self.follow(core);
        Ok(())
    }

    /// The device takes a chunk.
    fn take(&mut self, core: &mut Core, len: u64) -> Result<(), i32> {
        if core.state() != State::RESUMING {
            core.misused(c"the length of a chunk was written to a device that is not being loaded");
            return Err(libc::EINVAL);
        }
        let taken = match (self.refused, core.begin_plain(Op::TakeChunk)) {
            (true, _) => Err(libc::EINVAL),
            (false, Err(errno)) => Err(errno),
            (false, Ok(())) => self.take_whole(core, len),
        };
        self.refused |= taken.is_err();
        taken
    }

    fn take_whole(&mut self, core: &mut Core, len: u64) -> Result<(), i32> {
        let from = self.data(self.place(), len as usize)?;
        let chunk = self.memory.get(from..from + len as usize).ok_or(libc::EINVAL)?;
        let (header, data) = chunk.split_first_chunk().ok_or(libc::EINVAL)?;
        let word = |number: u32| len | u64::from(number) << 32;
        let came = u64::from_le_bytes(*header);
        // One that nobody said was taken is offered again, and comes twice.
        if self.number > 0 && came == word(self.number - 1) {
            return Ok(());
        }
        if came != word(self.number) {
            return Err(libc::EINVAL);
        }
        core.push(data)?;
        self.number += 1;
        Ok(())
    }
}
