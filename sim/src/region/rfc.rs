// SPDX-License-Identifier: MIT OR Apache-2.0
//! The regions of a device that speaks the protocol of the RFC of 2019: its fields, its configuration,
//! and the window to its memory.
//!
//! Its memory is its stream without the last record, which is in the configuration. There is no state
//! for loading: what is announced to a device without LOGGING is a state for it.

use super::typed::{FIRST, Typed, is_word, put_register};
use crate::device::Core;
use crate::fsm::State;
use crate::logging::Report;
use crate::options::{Op, SimOptions, quirk};
use crate::stream::{HEADER, RECORD, begins_anew};

const CONTROL: u32 = FIRST;

const VERSION: u64 = 0;
const DEVICE_STATE: u64 = 4;
const CAPS: u64 = 8;
const CONFIG_ACTION: u64 = 16;
const CONFIG_SIZE: u64 = 24;
const MEMORY_ACTION: u64 = 32;
const MEMORY_SIZE: u64 = 40;
const MEMORY_POS: u64 = 48;
const START_ADDR: u64 = 56;
const PAGE_NR: u64 = 64;
const CONTROL_SIZE: u64 = 72;
const PADDING: [u64; 3] = [12, 20, 36];

const GET: u32 = 1;
const SET: u32 = 2;

/// What follows the last record in the configuration: a driver's configuration is more than a digest.
const REGISTERS: [u8; 68] = [0xc5; 68];
const CONFIG_ROOM: u64 = 4096;

/// The bitmap of dirty pages: room for 16 MiB of them at a time.
const BITMAP_LEN: usize = 512;
const PAGE: u64 = 4096;

/// A snapshot of the device's memory, or one that comes.
struct Snapshot {
    bytes: Vec<u8>,
    /// Which chunks were fetched, or have come.
    chunks: Vec<bool>,
}

impl Snapshot {
    fn new(bytes: Vec<u8>, window: usize) -> Snapshot {
        let chunks = vec![false; bytes.len().div_ceil(window)];
        Snapshot { bytes, chunks }
    }

    fn is_whole(&self) -> bool {
        self.chunks.iter().all(|chunk| *chunk)
    }
}

pub(super) struct Rfc {
    quirks: u64,
    /// The memory region, and the configuration's.
    window: Vec<u8>,
    config: Vec<u8>,
    bitmap: Vec<u8>,
    /// `START_ADDR`.
    start: u64,
    snapshot: Option<Snapshot>,
    /// `MEMORY_POS`.
    pos: u64,
    /// The length of a configuration that comes.
    config_len: Option<u64>,
    /// The session that this is about.
    session: Option<i32>,
    /// Where the device was before it was loaded.
    before: State,
    /// Something was refused: nothing more is taken.
    refused: bool,
}

fn state_of(raw: u32) -> Option<State> {
    let states = [State::RUNNING, State::STOP, State::PRE_COPY, State::STOP_COPY];
    states.get(raw as usize).copied()
}

fn u32_of(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |raw| u32::from_ne_bytes(*raw))
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |raw| u64::from_ne_bytes(*raw))
}

impl Rfc {
    pub fn new(options: &SimOptions, window: u64) -> Rfc {
        let no_memory = options.quirks & quirk::NO_DEVICE_MEMORY != 0;
        // All of the state, and a record for each of its blocks.
        let whole = options.state_size + (options.state_size / 128 + 4) * RECORD as u64;
        let room = if no_memory { whole + HEADER as u64 } else { CONFIG_ROOM };
        Rfc {
            quirks: options.quirks,
            window: vec![0; window as usize],
            config: vec![0; room as usize],
            bitmap: vec![0; BITMAP_LEN],
            start: 0,
            snapshot: None,
            pos: 0,
            config_len: None,
            session: None,
            before: State::STOP,
            refused: false,
        }
    }

    fn has(&self, quirk: u64) -> bool {
        self.quirks & quirk != 0
    }

    fn has_memory(&self) -> bool {
        !self.has(quirk::NO_DEVICE_MEMORY)
    }

    pub fn describe(&self, region: u32) -> Option<Typed> {
        let subtype = *self.subtypes().get(region.checked_sub(CONTROL)? as usize)?;
        let size = match subtype {
            2 => self.config.len() as u64,
            3 => self.window.len() as u64,
            4 => self.bitmap.len() as u64,
            _ => CONTROL_SIZE,
        };
        Some(Typed { kind: 2, subtype, size })
    }

    /// Those of the regions, in their order.
    fn subtypes(&self) -> Vec<u32> {
        let mut all = vec![1, 2];
        all.extend(self.has_memory().then_some(3));
        all.extend(self.has_bitmap().then_some(4));
        if self.has(quirk::MISSING_REGION) {
            all.pop();
        }
        all.extend(self.has(quirk::TWO_REGIONS).then_some(1));
        all
    }

    fn has_bitmap(&self) -> bool {
        !self.has(quirk::NO_LOGGING)
    }

    /// Forgets what belongs to a session that is over.
    fn follow(&mut self, core: &mut Core) {
        let now = core.session();
        if self.session != now {
            self.session = now;
            (self.snapshot, self.config_len, self.refused) = (None, None, false);
        }
        core.log_everything(core.state().is_saving());
    }

    fn begin(&mut self, core: &mut Core, op: Op) -> Result<(), i32> {
        core.begin_plain(op)?;
        // A fault may have reset it.
        self.follow(core);
        if core.state() == State::ERROR { Err(libc::EIO) } else { Ok(()) }
    }

    pub fn read(
        &mut self,
        core: &mut Core,
        region: u32,
        at: u64,
        buf: &mut [u8],
    ) -> Result<usize, i32> {
        self.follow(core);
        if region != CONTROL {
            self.begin(core, Op::Read)?;
            let (data, from) = self.data(region, at, buf.len())?;
            let data = data.get(from..from + buf.len()).ok_or(libc::EINVAL)?;
            buf.copy_from_slice(data);
            return Ok(buf.len());
        }
        let value = match (at, buf.len()) {
            (VERSION, 4) => {
                self.begin(core, Op::GetFlags)?;
                1 + u64::from(self.has(quirk::OTHER_VERSION))
            }
            (CAPS, 4) => {
                self.begin(core, Op::GetFlags)?;
                u64::from(self.has_memory())
                    | u64::from(self.has_bitmap()) << 1
                    | u64::from(self.has(quirk::UNKNOWN_CAPS)) << 5
            }
            (CONFIG_SIZE, 8) => {
                self.begin(core, Op::Chunk)?;
                let longer = if self.has(quirk::CONFIG_TOO_LONG) { self.config.len() } else { 0 };
                (self.configuration(core).len() + longer) as u64
            }
            (MEMORY_SIZE, 8) => self.take_snapshot(core)?,
            (_, 4) if PADDING.contains(&at) => 0,
            _ => return Err(libc::EINVAL),
        };
        put_register(buf, value)
    }

    /// Where data lies.
    fn data(&mut self, region: u32, at: u64, len: usize) -> Result<(&mut Vec<u8>, usize), i32> {
        if self.has(quirk::STRICT_WIDTHS) && !is_word(at, len) {
            return Err(libc::EINVAL);
        }
        let data = match self.describe(region).map(|region| region.subtype) {
            Some(2) => &mut self.config,
            Some(3) => &mut self.window,
            Some(4) => &mut self.bitmap,
            _ => return Err(libc::EINVAL),
        };
        let end = at.checked_add(len as u64).filter(|end| *end <= data.len() as u64);
        end.map(|_| (data, at as usize)).ok_or(libc::EINVAL)
    }

    fn configuration(&self, core: &Core) -> Vec<u8> {
        let mut all = if self.has_memory() { vec![] } else { core.whole() };
        all.extend(core.last_record());
        all.extend(REGISTERS);
        all
    }

    fn take_snapshot(&mut self, core: &mut Core) -> Result<u64, i32> {
        self.begin(core, Op::PrecopyInfo)?;
        if !self.has_memory() || core.state() == State::RESUMING {
            core.misused(c"a snapshot of memory that there is not, or of a device being loaded");
            return Err(libc::EINVAL);
        }
        let mut bytes = match core.state().is_saving() {
            true => {
                // A snapshot counts as given when every chunk of it was fetched.
                let half = self.snapshot.take_if(|snapshot| !snapshot.is_whole());
                let half = half.filter(|_| !self.has(quirk::FORGETS_HALF));
                let mut bytes = half.map(|snapshot| snapshot.bytes).unwrap_or_default();
                bytes.extend(core.pull_all());
                bytes
            }
            false => core.whole(),
        };
        let forever = self.has(quirk::PENDING_FOREVER) && core.state() == State::STOP_COPY;
        if bytes.is_empty() && forever {
            bytes.push(0);
        }
        let len = bytes.len() as u64;
        self.snapshot = Some(Snapshot::new(bytes, self.window.len()));
        Ok(len)
    }

    pub fn write(
        &mut self,
        core: &mut Core,
        region: u32,
        at: u64,
        bytes: &[u8],
    ) -> Result<usize, i32> {
        self.follow(core);
        if region != CONTROL {
            self.begin(core, Op::Write)?;
            if core.state() != State::RESUMING {
                core.misused(c"data was written to a region whose device is not being loaded");
                return Err(libc::EINVAL);
            }
            let (data, to) = self.data(region, at, bytes.len())?;
            data.get_mut(to..to + bytes.len()).ok_or(libc::EINVAL)?.copy_from_slice(bytes);
            return Ok(bytes.len());
        }
        match (at, bytes.len()) {
            (DEVICE_STATE, 4) => self.set_state(core, u32_of(bytes))?,
            (CONFIG_ACTION, 4) if u32_of(bytes) == GET => self.get_config(core)?,
            (CONFIG_ACTION, 4) if u32_of(bytes) == SET => {
                self.taking(core, Rfc::set_config)?;
            }
            (CONFIG_SIZE, 8) => {
                let len = u64_of(bytes);
                self.taking(core, |rfc, _| rfc.announce_config(len))?;
            }
            (MEMORY_ACTION, 4) if u32_of(bytes) == GET => self.get_chunk(core)?,
            (MEMORY_ACTION, 4) if u32_of(bytes) == SET => self.taking(core, Rfc::set_chunk)?,
            (MEMORY_SIZE, 8) => {
                let len = u64_of(bytes);
                self.taking(core, |rfc, _| rfc.announce(len))?;
            }
            (MEMORY_POS, 8) => self.pos = u64_of(bytes),
            (START_ADDR, 8) => self.start = u64_of(bytes),
            (START_ADDR, 16) => {
                self.start = u64_of(bytes);
                self.query(core, u64_of(bytes.get(8..).unwrap_or_default()))?;
            }
            (PAGE_NR, 8) => self.query(core, u64_of(bytes))?,
            (_, 4) if PADDING.contains(&at) => {}
            (VERSION | CAPS, 4) => return Err(libc::EFAULT),
            _ => return Err(libc::EINVAL),
        }
        Ok(bytes.len())
    }

    fn set_state(&mut self, core: &mut Core, wanted: u32) -> Result<(), i32> {
        let from = core.state();
        if from == State::RESUMING && wanted == 0 && self.has(quirk::RESET_KEEPS_STATE) {
            core.begin_plain(Op::SetState)?;
            core.run_unloaded();
            self.follow(core);
            return Ok(());
        }
        let state = state_of(wanted).filter(|_| from != State::RESUMING);
        let Some(state) = state else {
            core.misused(c"an unknown state, or one for a device that is loaded in part");
            return Err(libc::EINVAL);
        };
        if (from, state) == (State::STOP_COPY, State::PRE_COPY) {
            core.begin_plain(Op::SetState)?;
            core.run_again();
            self.follow(core);
            return Ok(());
        }
        let stream = core.set_state(state)?;
        if stream >= 0 {
            // There are no data fds to hand out.
            core.close(stream)?;
        }
        self.follow(core);
        Ok(())
    }

    /// Which pages were written to.
    fn query(&mut self, core: &mut Core, pages: u64) -> Result<(), i32> {
        let most = self.bitmap.len() as u64 * 8;
        let end = pages.checked_mul(PAGE).and_then(|length| self.start.checked_add(length));
        if pages == 0 {
            return Ok(());
        }
        if !self.has_bitmap() || pages > most || self.start % PAGE != 0 || end.is_none() {
            core.misused(c"a query of dirty pages that cannot be answered");
            return Err(libc::EINVAL);
        }
        let report = Report { iova: self.start, length: pages * PAGE, page_size: PAGE };
        let mut words = core.report_plain(&report)?;
        self.follow(core);
        // What is behind the last page is nobody's business.
        if let Some(last) = words.last_mut().filter(|_| pages % 64 != 0) {
            *last |= u64::MAX << (pages % 64);
        }
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
        self.bitmap.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        Ok(())
    }

    fn get_config(&mut self, core: &mut Core) -> Result<(), i32> {
        self.begin(core, Op::Chunk)?;
        let all = self.configuration(core);
        self.config.get_mut(..all.len()).ok_or(libc::EINVAL)?.copy_from_slice(&all);
        Ok(())
    }

    fn get_chunk(&mut self, core: &mut Core) -> Result<(), i32> {
        self.begin(core, Op::Chunk)?;
        let pos = self.pos as usize;
        let chunk = pos / self.window.len();
        let snapshot = self.snapshot.as_mut().filter(|_| core.state() != State::RESUMING);
        let there = snapshot.filter(|_| pos % self.window.len() == 0);
        let there = there.filter(|snapshot| pos < snapshot.bytes.len());
        let Some(snapshot) = there else {
            core.misused(c"a chunk of no snapshot, or where none begins");
            return Err(libc::EINVAL);
        };
        // After the last chunk, something of others is left over.
        let rest = snapshot.bytes.get(pos..).unwrap_or_default();
        self.window.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        if let Some(fetched) = snapshot.chunks.get_mut(chunk) {
            *fetched = true;
        }
        Ok(())
    }

    // --- loading -----------------------------------------------------------------------------------

    /// Something that a device which is being loaded takes.
    fn taking(
        &mut self,
        core: &mut Core,
        take: impl FnOnce(&mut Rfc, &mut Core) -> Result<(), i32>,
    ) -> Result<(), i32> {
        self.begin(core, Op::TakeChunk).inspect_err(|_| self.refused = true)?;
        if matches!(core.state(), State::STOP | State::RUNNING) {
            self.before = core.state();
            core.begin_load()?;
            self.follow(core);
        }
        if core.state() != State::RESUMING || self.refused {
            core.misused(c"a state for a device that is being read, or that has refused it");
            return Err(libc::EINVAL);
        }
        let taken = take(self, core);
        self.refused |= taken.is_err();
        taken
    }

    /// A snapshot of this length comes. One that is not complete is void.
    fn announce(&mut self, len: u64) -> Result<(), i32> {
        if len == 0 || len > 1 << 30 || !self.has_memory() {
            return Err(libc::EINVAL);
        }
        self.snapshot = Some(Snapshot::new(vec![0; len as usize], self.window.len()));
        Ok(())
    }

    fn set_chunk(&mut self, core: &mut Core) -> Result<(), i32> {
        let pos = self.pos as usize;
        let chunk = pos / self.window.len();
        let snapshot = self.snapshot.as_mut().filter(|_| pos % self.window.len() == 0);
        let snapshot = snapshot.ok_or(libc::EINVAL)?;
        let place = snapshot.bytes.get_mut(pos..).filter(|place| !place.is_empty());
        let place = place.ok_or(libc::EINVAL)?;
        place.iter_mut().zip(&self.window).for_each(|(to, from)| *to = *from);
        match snapshot.chunks.get_mut(chunk) {
            Some(came) if !*came => *came = true,
            _ => return Err(libc::EINVAL),
        }
        match self.snapshot.take_if(|snapshot| snapshot.is_whole()) {
            Some(snapshot) => {
                // One with everything makes void what came before.
                if begins_anew(&snapshot.bytes) {
                    core.load_anew();
                }
                core.push(&snapshot.bytes)
            }
            None => Ok(()),
        }
    }

    fn announce_config(&mut self, len: u64) -> Result<(), i32> {
        let fits = len as usize >= RECORD + REGISTERS.len() && len <= self.config.len() as u64;
        self.config_len = fits.then_some(len);
        self.config_len.map(drop).ok_or(libc::EINVAL)
    }

    /// The last of it.
    fn set_config(&mut self, core: &mut Core) -> Result<(), i32> {
        let len = self.config_len.take().ok_or(libc::EINVAL)? as usize;
        let config = self.config.get(..len).unwrap_or_default();
        let (state, registers) = config.split_at(len - REGISTERS.len());
        if registers != REGISTERS || self.snapshot.is_some() {
            return Err(libc::EINVAL);
        }
        core.push(state)?;
        core.end_load(self.before)?;
        self.follow(core);
        Ok(())
    }
}
