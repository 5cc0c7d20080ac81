// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device behind the table: its state, its streams, its faults and its quirks.
//!
//! Everything here happens under one lock and takes no time; rates and latencies are slept off
//! outside it.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::time::{Duration, Instant};

use crate::contents::{Contents, mix};
use crate::fsm::{self, State};
use crate::logging;
use crate::logging::{Log, Report, Start};
use crate::options::{Effect, Kind, NO_MIGRATION, Op, SimOptions, quirk};
use crate::stream::{LoadStream, SaveStream, full_length, last_record};

/// Reads and writes with a rate sleep at most this long at once.
const LONGEST_SLEEP: Duration = Duration::from_millis(20);

pub(crate) const FEATURE_MASK: u32 = 0xffff;
pub(crate) const FEATURE_GET: u32 = 1 << 16;
pub(crate) const FEATURE_SET: u32 = 1 << 17;
pub(crate) const FEATURE_PROBE: u32 = 1 << 18;
pub(crate) const FEATURE_MIGRATION: u32 = 1;
pub(crate) const FEATURE_MIG_DEVICE_STATE: u32 = 2;
pub(crate) const FEATURE_DMA_LOGGING_START: u32 = 6;
pub(crate) const FEATURE_DMA_LOGGING_STOP: u32 = 7;
pub(crate) const FEATURE_DMA_LOGGING_REPORT: u32 = 8;
const FEATURE_MIG_DATA_SIZE: u32 = 9;
const FEATURE_MIG_PRECOPY_INFO_V2: u32 = 12;

const STOP_COPY_FLAG: u32 = 1;
const PRE_COPY_FLAG: u32 = 4;
/// What [`quirk::FUTURE`] adds to the migration flags.
const FUTURE_FLAGS: u64 = 1 << 12;
/// What [`quirk::FLAGS_ECHO`] puts into the estimates' flags.
const GARBAGE: u32 = 0xdead_beef;
const PRECOPY_INFO_REINIT: u32 = 1;
/// virtio asks its device at most once per second.
const ROUND: Duration = Duration::from_secs(1);
/// Data fds count from here and are never used twice, so that nobody takes a real fd for one by
/// accident.
const FIRST_TOKEN: i32 = 1 << 20;

enum Stream {
    Save(Box<SaveStream>),
    Load(Box<LoadStream>),
    /// Its session has ended.
    Dead {
        resuming: bool,
    },
}

/// A stream that was handed out. Closing it does not end its session, because the kernel holds its
/// own reference.
struct Handed {
    stream: Stream,
    open: bool,
}

/// The streams, and which of them is the session that the device is in.
#[derive(Default)]
struct Streams {
    handed: BTreeMap<i32, Handed>,
    current: Option<i32>,
    last_token: i32,
}

impl Streams {
    fn hand_out(&mut self, stream: Stream, current: bool) -> i32 {
        self.last_token = self.last_token.max(FIRST_TOKEN).saturating_add(1);
        self.handed.insert(self.last_token, Handed { stream, open: true });
        if current {
            self.current = Some(self.last_token);
        }
        self.last_token
    }

    fn is_open(&self, token: i32) -> bool {
        self.handed.get(&token).is_some_and(|handed| handed.open)
    }

    fn get(&mut self, token: i32) -> Option<&mut Stream> {
        self.handed.get_mut(&token).map(|handed| &mut handed.stream)
    }

    fn close(&mut self, token: i32) {
        match self.handed.get_mut(&token) {
            Some(handed) if self.current == Some(token) => handed.open = false,
            _ => drop(self.handed.remove(&token)),
        }
    }

    fn end_session(&mut self) {
        let Some(token) = self.current.take() else { return };
        if !self.is_open(token) {
            self.handed.remove(&token);
        } else if let Some(stream) = self.get(token) {
            *stream = Stream::Dead { resuming: matches!(stream, Stream::Load(_)) };
        }
    }

    fn saving(&mut self) -> Option<&mut SaveStream> {
        match self.get(self.current?) {
            Some(Stream::Save(save)) => Some(save),
            _ => None,
        }
    }

    fn loading(&mut self) -> Option<&mut LoadStream> {
        match self.get(self.current?) {
            Some(Stream::Load(load)) => Some(load),
            _ => None,
        }
    }
}

/// Memory that a payload points to, as the kernel reaches a caller's.
pub(crate) trait UserMemory {
    /// EFAULT if there is none.
    fn read(&mut self, address: u64, words: &mut [u64]) -> Result<(), i32>;

    /// Sets the bits that are set here.
    fn or(&mut self, address: u64, words: &[u64]) -> Result<(), i32>;
}

struct Fault {
    op: Op,
    left: u64,
    errno: i32,
    effect: Effect,
}

/// What an injected fault does to the operation in progress.
enum Struck {
    No,
    Fails(i32),
    Half(i32),
    /// It is not done, and says that it is.
    Ignored,
}

/// What the estimates say.
pub(crate) struct Estimates {
    pub flags: u32,
    pub initial_bytes: u64,
    pub dirty_bytes: u64,
}

pub(crate) struct Core {
    pub(crate) options: SimOptions,
    state: State,
    /// The VMM cannot know the state: it was changed behind its back, or a change failed.
    moved: bool,
    /// Found in RESUMING or a saving state without a stream of this owner.
    stale: bool,
    /// Reset in RESUMING, which it did not leave, and given nothing since.
    emptied: bool,
    dead: bool,
    contents: Contents,
    streams: Streams,
    info_v2: bool,
    log: Option<Log>,
    faults: Vec<Fault>,
    sticky: Vec<(Op, i32)>,
    counts: [u64; Op::ALL.len()],
    reads: u64,
    writes: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) violations: (u64, Option<&'static CStr>),
    now: Instant,
    last_round: Option<Instant>,
    /// Bytes that time has made dirty and that no block has paid for yet, times one second in
    /// nanoseconds.
    dirty_credit: u128,
    dirty_count: u64,
    read_busy: Instant,
    write_busy: Instant,
}

impl Core {
    pub fn new(options: SimOptions) -> Result<Core, i32> {
        let mut options = options;
        let flags = options.migration_flags;
        let known_flags = flags == NO_MIGRATION || flags <= 7;
        if options.kind != Kind::V2 {
            // The older protocols have these states.
            options.migration_flags = STOP_COPY_FLAG | PRE_COPY_FLAG;
        }
        let log_page = options.log_page_size;
        if !known_flags
            || options.initial_state.0 > 7
            || options.state_size == 0
            || (log_page != 0 && !log_page.is_power_of_two())
        {
            return Err(libc::EINVAL);
        }
        if options.initial_size == 0 {
            // The RFC's first snapshot has everything.
            let part = if options.kind == Kind::Rfc { 1 } else { 4 };
            options.initial_size = options.state_size.div_ceil(part);
        }
        let now = Instant::now();
        Ok(Core {
            state: options.initial_state,
            moved: false,
            stale: options.initial_state.is_saving() || options.initial_state == State::RESUMING,
            emptied: false,
            dead: false,
            contents: Contents::new(options.state_size, options.seed),
            streams: Streams::default(),
            info_v2: false,
            log: None,
            faults: Vec::new(),
            sticky: Vec::new(),
            counts: [0; Op::ALL.len()],
            reads: 0,
            writes: 0,
            bytes_read: 0,
            bytes_written: 0,
            violations: (0, None),
            now,
            last_round: None,
            dirty_credit: 0,
            dirty_count: 0,
            read_busy: now,
            write_busy: now,
            options,
        })
    }

    pub fn has(&self, quirk: u64) -> bool {
        self.options.quirks & quirk != 0
    }

    pub fn violation(&mut self, what: &'static CStr) {
        self.violations.0 += 1;
        self.violations.1.get_or_insert(what);
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn is_dead(&self) -> bool {
        self.dead
    }

    pub fn digest(&self) -> u64 {
        self.contents.digest(self.options.model)
    }

    pub fn count(&self, op: Op) -> u64 {
        self.counts.get(op as usize).copied().unwrap_or(0)
    }

    pub fn open_streams(&self) -> u32 {
        self.streams.handed.values().filter(|handed| handed.open).count() as u32
    }

    // The guest.

    /// The running guest makes its device dirty.
    pub fn pass_time(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.now);
        self.now = now.max(self.now);
        let rate = self.options.dirty_rate;
        if rate == 0 || self.dead || !self.state.is_running() {
            return;
        }
        let second = Duration::from_secs(1).as_nanos();
        let block = u128::from(self.contents.block_size()) * second;
        // More than everything cannot be dirty.
        let most = block * u128::from(self.contents.blocks());
        self.dirty_credit = (self.dirty_credit + passed.as_nanos() * u128::from(rate)).min(most);
        while self.dirty_credit >= block {
            self.dirty_credit -= block;
            self.dirty_count += 1;
            let count = self.dirty_count;
            let index = mix(self.options.seed ^ count) % self.contents.blocks();
            self.contents.write(index, 0, 1, mix(count));
            self.dirtied(index);
        }
    }

    fn dirtied(&mut self, index: u64) {
        let all = self.has(quirk::PRECOPY_ALL);
        let blocks = self.contents.blocks();
        match self.streams.saving() {
            Some(save) if all => save.all_dirtied(blocks),
            Some(save) => save.dirtied(index),
            None => {}
        }
    }

    pub fn guest_write(&mut self, offset: u64, len: u64, seed: u64) -> Result<(), i32> {
        let end = offset.checked_add(len).filter(|end| *end <= self.contents.size());
        let Some(end) = end else { return Err(libc::EINVAL) };
        let block = self.contents.block_size();
        let mut at = offset;
        while at < end {
            let index = at / block;
            let upto = end.min((index + 1) * block);
            self.contents.write(index, at - index * block, upto - at, seed);
            self.dirtied(index);
            at = upto;
        }
        Ok(())
    }

    pub fn reinit(&mut self) {
        if let Some(save) = self.streams.saving().filter(|save| !save.is_stopped()) {
            save.start_again(&self.contents);
        }
    }

    pub fn guest_reset(&mut self) {
        if !self.dead {
            self.power_on();
            self.moved |= !self.has(quirk::RESET_KEEPS_STATE);
        }
    }

    /// The same, and it runs, whatever a reset leaves.
    pub fn reset_to_running(&mut self) {
        if !self.dead {
            self.power_on();
            self.run_afresh();
            self.moved = true;
        }
    }

    fn run_afresh(&mut self) {
        self.streams.end_session();
        self.state = State::RUNNING;
        self.stale = false;
    }

    /// As after power-on.
    fn power_on(&mut self) {
        self.log = None;
        self.contents = Contents::new(self.options.state_size, self.options.seed);
        if self.has(quirk::RESET_KEEPS_STATE) && self.state != State::ERROR {
            let (model, initial) = (self.options.model, self.options.initial_size);
            let mut fresh = SaveStream::new(&self.contents, model, initial, false);
            if self.options.kind == Kind::Rfc {
                self.session_anew(fresh);
                return;
            }
            if self.state == State::STOP_COPY {
                fresh.stop();
            }
            if let Some(save) = self.streams.saving() {
                *save = fresh;
            }
            if let Some(load) = self.streams.loading() {
                *load = LoadStream::new(self.options.state_size, model);
            }
            self.emptied = self.state == State::RESUMING;
            return;
        }
        self.run_afresh();
    }

    /// The session of a device of the RFC that was reset in it: another one, so that what was prepared is
    /// forgotten. One that was being loaded is stopped.
    fn session_anew(&mut self, mut fresh: SaveStream) {
        self.streams.end_session();
        if self.state == State::RESUMING {
            self.state = State::STOP;
        }
        if !self.state.is_saving() {
            return;
        }
        fresh.leave_end_open();
        if self.state == State::STOP_COPY {
            fresh.stop();
        }
        let token = self.streams.hand_out(Stream::Save(Box::new(fresh)), true);
        self.streams.close(token);
    }

    // Faults.

    pub fn inject(&mut self, op: Op, nth: u64, errno: i32, effect: Effect) {
        self.faults.push(Fault { op, left: nth.max(1), errno, effect });
    }

    pub fn clear_faults(&mut self) {
        self.faults.clear();
        self.sticky.clear();
        if self.dead {
            self.dead = false;
            self.state = State::RUNNING;
            self.moved = true;
        }
    }

    /// Counts an operation and lets a due fault strike.
    fn begin(&mut self, op: Op) -> Struck {
        for kind in [Op::Any, op] {
            if let Some(count) = self.counts.get_mut(kind as usize) {
                *count += 1;
            }
        }
        let mut due = None;
        for fault in self.faults.iter_mut().filter(|f| f.op == Op::Any || f.op == op) {
            fault.left = fault.left.saturating_sub(1);
            if fault.left == 0 {
                due.get_or_insert((fault.op, fault.errno, fault.effect));
            }
        }
        self.faults.retain(|fault| fault.left > 0);
        if self.dead {
            return Struck::Fails(libc::ENODEV);
        }
        if let Some((op, errno, effect)) = due {
            match effect {
                Effect::Once => {}
                Effect::Half => return Struck::Half(errno),
                Effect::Ignored => return Struck::Ignored,
                Effect::Sticky => self.sticky.push((op, errno)),
                Effect::Error => self.fail(),
                Effect::Die => {
                    self.streams.end_session();
                    self.dead = true;
                    self.moved = true;
                }
                Effect::Reset => {
                    self.guest_reset();
                    return Struck::No;
                }
            }
            return Struck::Fails(errno);
        }
        let sticky = self.sticky.iter().find(|(kind, _)| *kind == Op::Any || *kind == op);
        match sticky {
            Some((_, errno)) => Struck::Fails(*errno),
            None => Struck::No,
        }
    }

    pub fn begin_plain(&mut self, op: Op) -> Result<(), i32> {
        match self.begin(op) {
            Struck::No | Struck::Ignored => Ok(()),
            Struck::Fails(errno) | Struck::Half(errno) => Err(errno),
        }
    }

    /// A report of the log. On failure: whether it forgets what it should have reported.
    pub fn begin_report(&mut self) -> Result<(), (i32, bool)> {
        match self.begin(Op::LogReport) {
            Struck::No | Struck::Ignored => Ok(()),
            Struck::Fails(errno) => Err((errno, false)),
            Struck::Half(errno) => Err((errno, true)),
        }
    }

    /// To ERROR, by itself.
    fn fail(&mut self) {
        self.streams.end_session();
        self.state = State::ERROR;
        self.moved = true;
    }

    // VFIO_DEVICE_FEATURE.

    /// How long the change of state that is asked for takes.
    pub fn time_of_change(&self, flags: u32, payload: &[u8]) -> Duration {
        if flags != FEATURE_SET | FEATURE_MIG_DEVICE_STATE {
            return Duration::ZERO;
        }
        let to = payload.first_chunk().map_or(State::ERROR, |raw| State(u32::from_ne_bytes(*raw)));
        let path = fsm::path(self.options.migration_flags, self.state, to).unwrap_or_default();
        let us: u64 = path
            .iter()
            .filter_map(|state| self.options.transition_us.get(state.0 as usize))
            .map(|us| u64::from(*us))
            .sum();
        Duration::from_micros(us)
    }

    /// `user` reaches the caller's memory that a payload points to.
    pub fn feature(
        &mut self,
        flags: u32,
        payload: &mut [u8],
        user: &mut dyn UserMemory,
    ) -> Result<(), i32> {
        let (get, set) = (flags & FEATURE_GET != 0, flags & FEATURE_SET != 0);
        let probe = flags & FEATURE_PROBE != 0;
        if flags & !(FEATURE_MASK | FEATURE_GET | FEATURE_SET | FEATURE_PROBE) != 0
            || (get && set && !probe)
            || !(get || set || probe)
        {
            return Err(libc::EINVAL);
        }
        let feature = flags & FEATURE_MASK;
        let newest = self.options.kind == Kind::V2;
        let migrates = newest && self.options.migration_flags != NO_MIGRATION;
        let logs = newest && !self.has(quirk::NO_LOGGING);
        // Which methods exist, and how long the payload is.
        let (exists, can_get, can_set, len) = match feature {
            FEATURE_MIGRATION => (migrates, true, false, 8),
            FEATURE_MIG_DEVICE_STATE => (migrates, true, true, 8),
            FEATURE_MIG_DATA_SIZE => (migrates && !self.has(quirk::SIZE_ENOTTY), true, false, 8),
            FEATURE_DMA_LOGGING_START => (logs, false, true, 24),
            FEATURE_DMA_LOGGING_STOP => (logs, false, true, 0),
            FEATURE_DMA_LOGGING_REPORT => (logs, true, false, 32),
            FEATURE_MIG_PRECOPY_INFO_V2 => {
                (migrates && self.has(quirk::PRECOPY_INFO_V2), false, true, 0)
            }
            _ => (false, false, false, 0),
        };
        if !probe && feature == FEATURE_MIG_DATA_SIZE {
            // Counted even if it does not exist, because it was asked for.
            self.begin_plain(Op::DataSize)?;
        } else if self.dead && feature != FEATURE_MIGRATION && feature != FEATURE_MIG_DEVICE_STATE {
            return Err(libc::ENODEV);
        }
        if !exists {
            return Err(libc::ENOTTY);
        }
        if (get && !can_get) || (set && !can_set) || (!probe && payload.len() < len) {
            return Err(libc::EINVAL);
        }
        if probe {
            return Ok(());
        }
        self.call(feature, get, payload, user)
    }

    /// A call that the device has a method for.
    fn call(
        &mut self,
        feature: u32,
        get: bool,
        payload: &mut [u8],
        user: &mut dyn UserMemory,
    ) -> Result<(), i32> {
        match feature {
            FEATURE_MIGRATION => {
                self.begin_plain(Op::GetFlags)?;
                let future = if self.has(quirk::FUTURE) { FUTURE_FLAGS } else { 0 };
                put_u64(payload, u64::from(self.options.migration_flags) | future);
                Ok(())
            }
            FEATURE_MIG_DEVICE_STATE if get => {
                self.begin_plain(Op::GetState)?;
                if self.has(quirk::STATE_UNREADABLE) {
                    return Err(libc::EIO);
                }
                self.moved = false;
                put_state(payload, self.state, -1);
                Ok(())
            }
            FEATURE_MIG_DEVICE_STATE => {
                let to = payload.first_chunk().map_or(0, |raw| u32::from_ne_bytes(*raw));
                let result = self.set_state(State(to));
                // On failure the kernel leaves the requested state there, and no fd.
                put_state(payload, State(to), *result.as_ref().unwrap_or(&-1));
                result.map(drop)
            }
            FEATURE_MIG_DATA_SIZE => {
                put_u64(payload, self.estimated_size());
                Ok(())
            }
            FEATURE_DMA_LOGGING_START => self.start_logging(payload, user),
            FEATURE_DMA_LOGGING_STOP => {
                self.begin_plain(Op::LogStop)?;
                self.log = None;
                Ok(())
            }
            FEATURE_DMA_LOGGING_REPORT => self.report_logged(payload, user),
            _ => {
                if self.options.migration_flags & PRE_COPY_FLAG == 0 {
                    return Err(libc::EINVAL);
                }
                self.info_v2 = true;
                Ok(())
            }
        }
    }

    fn start_logging(&mut self, payload: &mut [u8], user: &mut dyn UserMemory) -> Result<(), i32> {
        self.begin_plain(Op::LogStart)?;
        // Real drivers refuse or ignore it; a VMM may not rely on anything here.
        if self.log.is_some() {
            return Err(libc::EINVAL);
        }
        let at = |offset: usize| payload.get(offset..).map_or(0, get_u64);
        let [a, b, c, d, e, f, g, h] = at(8).to_ne_bytes();
        let num_ranges = u32::from_ne_bytes([a, b, c, d]);
        let mut words = vec![0; 2 * num_ranges.min(logging::MAX_RANGES) as usize];
        user.read(at(16), &mut words)?;
        let start = Start {
            page_size: at(0),
            num_ranges,
            reserved: u32::from_ne_bytes([e, f, g, h]),
            ranges: words
                .chunks_exact(2)
                .filter_map(|pair| Some((*pair.first()?, *pair.last()?)))
                .collect(),
        };
        let (page, most) = (self.options.log_page_size, self.options.log_max_ranges);
        match Log::start(&start, page, most) {
            Ok(log) => {
                put_u64(payload, log.page());
                self.log = Some(log);
                Ok(())
            }
            Err((errno, rule)) => {
                if let Some(rule) = rule {
                    self.violation(rule);
                }
                Err(errno)
            }
        }
    }

    /// Whether all that the device writes to is logged from now on.
    pub fn log_everything(&mut self, on: bool) {
        match on {
            true => _ = self.log.get_or_insert_with(Log::everything),
            false => self.log = None,
        }
    }

    /// The bitmap of what was logged, for a protocol that has a log of its own.
    pub fn report_plain(&mut self, report: &Report) -> Result<Vec<u64>, i32> {
        let struck = self.begin(Op::LogReport);
        let mut found = vec![0; report.words()?];
        if let (Some(log), Struck::No | Struck::Ignored | Struck::Half(_)) =
            (&mut self.log, &struck)
        {
            log.report(report, &mut found);
        }
        match struck {
            Struck::No | Struck::Ignored => Ok(found),
            Struck::Fails(errno) | Struck::Half(errno) => Err(errno),
        }
    }

    fn report_logged(&mut self, payload: &[u8], user: &mut dyn UserMemory) -> Result<(), i32> {
        let fields: Vec<u64> = payload.chunks_exact(8).map(get_u64).collect();
        let [iova, length, page_size, bitmap, ..] = *fields.as_slice() else {
            return Err(libc::EINVAL);
        };
        let report = Report { iova, length, page_size };
        if let Err((errno, forgets)) = self.begin_report() {
            if let Some(log) = self.log.as_mut().filter(|_| forgets) {
                log.lose(&report);
            }
            return Err(errno);
        }
        if self.has(quirk::REPORT_EOPNOTSUPP) {
            return Err(libc::EOPNOTSUPP);
        }
        let words = report.words()?;
        let log = self.log.as_mut().ok_or(libc::EINVAL)?;
        let mut found = vec![0; words];
        log.report(&report, &mut found);
        user.or(bitmap, &found)
    }

    /// Whether the device does DMA. One that is stopped does not: EPERM.
    pub fn may_dma(&self) -> Result<(), i32> {
        match self.state.is_running() {
            _ if self.dead => Err(libc::ENODEV),
            true => Ok(()),
            false => Err(libc::EPERM),
        }
    }

    /// The device writes to memory.
    pub fn dma_write(&mut self, iova: u64, len: u64) -> Result<(), i32> {
        self.may_dma()?;
        match &mut self.log {
            Some(log) => log.write(iova, len),
            None => Ok(()),
        }
    }

    fn estimated_size(&mut self) -> u64 {
        let real = match self.streams.saving() {
            Some(save) => save.stop_copy_bytes(&self.contents),
            None => full_length(&self.contents),
        };
        if self.has(quirk::SIZE_NEGATIVE) {
            u64::MAX - libc::EIO as u64 + 1
        } else if self.has(quirk::SIZE_UNDER) {
            real / 2
        } else if self.has(quirk::SIZE_OVER) {
            real * 3
        } else {
            real
        }
    }

    // The state machine.

    pub fn set_state(&mut self, to: State) -> Result<i32, i32> {
        let struck = self.begin(Op::SetState);
        let known = !self.moved;
        match struck {
            Struck::Fails(errno) => {
                self.moved = true;
                return Err(errno);
            }
            Struck::Ignored => {
                self.moved = true;
                return Ok(-1);
            }
            Struck::No | Struck::Half(_) => {}
        }
        let result = self.change(to, known, matches!(struck, Struck::Half(_)));
        // A VMM whose request failed must ask where the device is now.
        self.moved = result.is_err() || matches!(struck, Struck::Half(_));
        match struck {
            Struck::Half(errno) => Err(errno),
            _ => result,
        }
    }

    fn change(&mut self, to: State, known: bool, half: bool) -> Result<i32, i32> {
        if to == self.state && self.state != State::ERROR {
            return Ok(-1);
        }
        let Some(path) = fsm::path(self.options.migration_flags, self.state, to) else {
            if known {
                self.violation(c"an illegal change of state");
            }
            if self.has(quirk::ILLEGAL_IS_FATAL) {
                self.fail();
            }
            return Err(libc::EINVAL);
        };
        if self.state == State::RESUMING && self.stale && known {
            // mtty oopses here.
            self.violation(c"a change out of RESUMING that an earlier owner left");
        }
        let owed = owes_data_fd(self.state, to);
        let steps = if half { path.len() / 2 } else { path.len() };
        let mut fd = -1;
        for step in path.into_iter().take(steps) {
            if let Some(token) = self.enter(step)? {
                fd = token;
            }
        }
        if !owed && self.has(quirk::EXTRA_DATA_FD) && !half {
            fd = self.streams.hand_out(Stream::Dead { resuming: false }, false);
        }
        Ok(fd)
    }

    /// One step of the path.
    fn enter(&mut self, to: State) -> Result<Option<i32>, i32> {
        let from = self.state;
        if from == State::RESUMING {
            self.take_state()?;
        }
        if from == State::RESUMING || (from.is_saving() && !to.is_saving()) {
            self.streams.end_session();
        }
        self.state = to;
        self.stale = false;
        if let (State::STOP_COPY, Some(save)) = (to, self.streams.saving()) {
            save.stop();
        }
        let owes = owes_data_fd(from, to);
        if owes && to == State::RESUMING {
            // What the device held is lost from here on.
            self.contents = Contents::new(self.options.state_size, self.options.seed);
        }
        if !owes || self.has(quirk::NO_DATA_FD) {
            return Ok(None);
        }
        let model = self.options.model;
        let stream = if to == State::RESUMING {
            Stream::Load(Box::new(LoadStream::new(self.options.state_size, model)))
        } else {
            let hides = self.has(quirk::INFO_MAKES_DATA);
            let mut save = SaveStream::new(&self.contents, model, self.options.initial_size, hides);
            if self.options.kind == Kind::Rfc {
                save.leave_end_open();
                if self.has(quirk::FULL_BEFORE_LOGGING) {
                    save.skip_all();
                }
            }
            if to == State::STOP_COPY {
                save.stop();
            }
            Stream::Save(Box::new(save))
        };
        Ok(Some(self.streams.hand_out(stream, true)))
    }

    /// Out of RESUMING: the driver accepts what it was given, or refuses.
    fn take_state(&mut self) -> Result<(), i32> {
        if std::mem::take(&mut self.emptied) {
            return Ok(());
        }
        let accepts_all = self.has(quirk::STOP_ACCEPTS_ALL);
        let consumes = self.has(quirk::CONSUMES_ON_ERROR);
        let load = match self.streams.loading() {
            Some(load) => load,
            None if accepts_all => return Ok(()),
            None => return Err(libc::EINVAL),
        };
        let poisoned = load.poisoned;
        let taken = match load.complete() {
            Some(contents) if !poisoned => Some(contents.clone()),
            _ if accepts_all => {
                // Whatever that is, it is not what was saved.
                let mut contents = load.whatever().clone();
                contents.set_seed(0, !contents.seed(0));
                Some(contents)
            }
            // mtty accepts what came after a failed write as if the write had not failed.
            Some(contents) if consumes => Some(contents.clone()),
            _ => None,
        };
        if poisoned {
            self.violation(c"a change out of RESUMING after a failed write; only reset is allowed");
        }
        self.contents = taken.ok_or(libc::EINVAL)?;
        Ok(())
    }

    pub fn reset(&mut self) -> Result<(), i32> {
        self.begin_plain(Op::Reset)?;
        if self.has(quirk::NO_RESET) {
            return Err(libc::ENOTTY);
        }
        let stopped = matches!(self.state, State::STOP | State::STOP_COPY)
            || (self.state == State::RESUMING && self.options.kind == Kind::Rfc);
        if stopped && self.has(quirk::RESET_KEEPS_STATE) {
            return Err(libc::EINVAL);
        }
        self.power_on();
        self.moved = false;
        Ok(())
    }

    // Data streams.

    pub fn check_token(&mut self, token: i32) -> Result<(), i32> {
        if self.streams.is_open(token) {
            return Ok(());
        }
        self.violation(c"use of a data stream that is closed or was never handed out");
        Err(libc::EBADF)
    }

    pub fn close(&mut self, token: i32) -> Result<(), i32> {
        self.check_token(token)?;
        self.streams.close(token);
        Ok(())
    }

    pub fn set_nonblocking(&mut self, token: i32) -> Result<(), i32> {
        self.check_token(token)?;
        if let Some(Stream::Save(save)) = self.streams.get(token) {
            save.nonblocking = true;
        }
        Ok(())
    }

    fn interrupted(&self, operations: u64) -> bool {
        let every = u64::from(self.options.eintr_every);
        every != 0 && operations % every == 0
    }

    pub fn read_limit(&self, wanted: usize) -> usize {
        limit(wanted, self.options.max_read, self.options.read_rate)
    }

    pub fn write_limit(&self, wanted: usize) -> usize {
        limit(wanted, self.options.max_write, self.options.write_rate)
    }

    pub fn read_pause(&mut self, result: &Result<usize, i32>) -> Duration {
        pause(self.now, &mut self.read_busy, self.options.read_rate, result)
    }

    pub fn write_pause(&mut self, result: &Result<usize, i32>) -> Duration {
        pause(self.now, &mut self.write_busy, self.options.write_rate, result)
    }

    pub fn read(&mut self, token: i32, buf: &mut [u8]) -> Result<usize, i32> {
        self.begin_plain(Op::Read)?;
        self.check_token(token)?;
        self.reads += 1;
        if self.interrupted(self.reads) {
            return Err(libc::EINTR);
        }
        let (honours, lies) = (self.has(quirk::NONBLOCKING), self.has(quirk::FALSE_END));
        let (too_much, zero) = (self.has(quirk::WRITE_TOO_MUCH), self.has(quirk::DRAINED_ZERO));
        let model = self.options.model;
        let save = match self.streams.get(token) {
            Some(Stream::Save(save)) => save,
            Some(Stream::Dead { resuming: false }) => return Err(libc::ENODEV),
            _ => {
                self.violation(c"a read of a resuming stream");
                return Err(libc::EBADF);
            }
        };
        save.reads += 1;
        if save.nonblocking && honours && save.reads % 2 == 0 {
            return Err(libc::EAGAIN);
        }
        if save.is_stopped() && lies && !std::mem::replace(&mut save.lied, true) {
            return Ok(0);
        }
        let n = save.read(&self.contents, model, buf);
        if n == 0 && !buf.is_empty() && !save.is_stopped() && !zero {
            return Err(libc::ENOMSG);
        }
        self.bytes_read += n as u64;
        Ok(if too_much && n > 0 { buf.len() + 1 } else { n })
    }

    pub fn write(&mut self, token: i32, buf: &[u8]) -> Result<usize, i32> {
        let struck = self.begin_plain(Op::Write);
        let lenient = self.has(quirk::CONSUMES_ON_ERROR);
        if let Err(errno) = struck {
            let harmless = matches!(errno, libc::EAGAIN | libc::EINTR);
            if let (Some(Stream::Load(load)), false) = (self.streams.get(token), harmless) {
                load.poisoned = true;
                if lenient {
                    // Consumed anyway; the VMM is only told that the write failed.
                    let _ = load.write(buf, true);
                }
            }
            return Err(errno);
        }
        self.check_token(token)?;
        self.emptied = false;
        self.writes += 1;
        if self.interrupted(self.writes) {
            return Err(libc::EINTR);
        }
        let (again, nothing) = (self.has(quirk::WRITE_EAGAIN), self.has(quirk::WRITE_ZERO));
        let too_much = self.has(quirk::WRITE_TOO_MUCH);
        let load = match self.streams.get(token) {
            Some(Stream::Load(load)) => load,
            Some(Stream::Dead { resuming: true }) => return Err(libc::ENODEV),
            _ => {
                self.violation(c"a write to a saving stream");
                return Err(libc::EBADF);
            }
        };
        let poisoned = load.poisoned;
        load.writes += 1;
        let result = if again && load.writes % 2 == 0 {
            Err(libc::EAGAIN)
        } else if nothing {
            Ok(0)
        } else if poisoned && !lenient {
            Err(libc::EINVAL)
        } else {
            let result = load.write(buf, lenient);
            load.poisoned |= result.is_err();
            result.map(|()| buf.len())
        };
        if poisoned {
            self.violation(c"a write after a failed write");
        }
        let n = result?;
        self.bytes_written += n as u64;
        Ok(if too_much && n > 0 { n + 1 } else { n })
    }

    // For protocols that have no data fds: the session's own stream.

    /// The stream of the session that the device is in, if there is one.
    pub fn session(&self) -> Option<i32> {
        self.streams.current
    }

    /// A violation, if the VMM can know in which state the device is.
    pub fn misused(&mut self, what: &'static CStr) {
        if !self.moved {
            self.violation(what);
        }
    }

    /// The device was asked for its state.
    pub fn looked_at(&mut self) {
        self.moved = false;
    }

    /// Data of the device being saved.
    pub fn pull(&mut self, buf: &mut [u8]) -> usize {
        let model = self.options.model;
        let len = match self.streams.saving() {
            Some(save) => save.read(&self.contents, model, buf),
            None => 0,
        };
        self.bytes_read += len as u64;
        len
    }

    /// All data that the session has now.
    pub fn pull_all(&mut self) -> Vec<u8> {
        let (contents, model) = (&self.contents, self.options.model);
        let all = self.streams.saving().map(|save| read_all(save, contents, model));
        let all = all.unwrap_or_default();
        self.bytes_read += all.len() as u64;
        all
    }

    /// All contents, without the last record, whatever the session is at.
    pub fn whole(&self) -> Vec<u8> {
        let (contents, model) = (&self.contents, self.options.model);
        let mut save = SaveStream::new(contents, model, contents.size(), false);
        save.leave_end_open();
        read_all(&mut save, contents, model)
    }

    /// The last record.
    pub fn last_record(&self) -> Vec<u8> {
        last_record(&self.contents, self.options.model).to_vec()
    }

    /// A stopped device that is being read sends everything again.
    pub fn start_over(&mut self) {
        let (model, initial) = (self.options.model, self.options.initial_size);
        let mut fresh = SaveStream::new(&self.contents, model, initial, false);
        fresh.stop();
        if let Some(save) = self.streams.saving() {
            *save = fresh;
        }
    }

    /// A stopped device that is being read runs again, and is read on.
    pub fn run_again(&mut self) {
        self.state = State::PRE_COPY;
        if let Some(save) = self.streams.saving() {
            save.go_on();
        }
    }

    /// What is given to the device from now on is a state for it.
    pub fn begin_load(&mut self) -> Result<(), i32> {
        match self.enter(State::RESUMING)? {
            Some(token) => self.close(token),
            None => Ok(()),
        }
    }

    /// What it was given so far is void.
    pub fn load_anew(&mut self) {
        let (size, model) = (self.options.state_size, self.options.model);
        if let Some(load) = self.streams.loading() {
            *load = LoadStream::new(size, model);
        }
    }

    /// A device that was given a part of a state runs with whatever it has.
    pub fn run_unloaded(&mut self) {
        self.streams.end_session();
        self.state = State::RUNNING;
    }

    /// The device accepts what it was given, or refuses.
    pub fn end_load(&mut self, then: State) -> Result<(), i32> {
        self.enter(then).map(drop)
    }

    /// What is left of it, in bytes.
    pub fn left(&mut self) -> u64 {
        match self.streams.saving() {
            Some(save) if save.is_stopped() => save.stop_copy_bytes(&self.contents),
            Some(save) => save.initial_bytes() + save.dirty_bytes(&self.contents),
            None => 0,
        }
    }

    /// Data for the device being loaded.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), i32> {
        let load = self.streams.loading().ok_or(libc::EINVAL)?;
        self.emptied = false;
        let result = load.write(bytes, false);
        load.poisoned |= result.is_err();
        result?;
        self.bytes_written += bytes.len() as u64;
        Ok(())
    }

    pub fn precopy_info(&mut self, token: i32) -> Result<Estimates, i32> {
        self.begin_plain(Op::PrecopyInfo)?;
        self.check_token(token)?;
        match self.streams.get(token) {
            Some(Stream::Dead { resuming: false }) => return Err(libc::ENODEV),
            Some(Stream::Save(_)) => {}
            _ => {
                self.violation(c"pre-copy estimates of a resuming stream");
                return Err(libc::ENOTTY);
            }
        }
        if !self.state.is_pre_copy() {
            self.violation(c"pre-copy estimates outside of pre-copy");
            return Err(libc::EINVAL);
        }
        if self.state == State::PRE_COPY_P2P && self.has(quirk::P2P_INFO_EINVAL) {
            return Err(libc::EINVAL);
        }
        let new_round = self.has(quirk::PRECOPY_ALL)
            && self.last_round.is_none_or(|last| self.now.duration_since(last) >= ROUND);
        if new_round {
            self.last_round = Some(self.now);
        }
        let flags = match (self.info_v2, self.has(quirk::FLAGS_ECHO)) {
            (false, true) => GARBAGE,
            _ => 0,
        };
        let Some(Stream::Save(save)) = self.streams.get(token) else {
            return Err(libc::ENODEV);
        };
        if new_round && save.initial_bytes() == 0 {
            save.all_dirtied(self.contents.blocks());
        }
        save.look();
        let reinit = self.info_v2 && std::mem::take(&mut save.reinit);
        Ok(Estimates {
            flags: flags | if reinit { PRECOPY_INFO_REINIT } else { 0 },
            initial_bytes: save.initial_bytes(),
            dirty_bytes: save.dirty_bytes(&self.contents),
        })
    }
}

fn read_all(save: &mut SaveStream, contents: &Contents, model: u32) -> Vec<u8> {
    let mut all = vec![0; full_length(contents) as usize];
    let mut done = 0;
    loop {
        let n = save.read(contents, model, all.get_mut(done..).unwrap_or_default());
        done += n;
        if n == 0 || done < all.len() {
            all.truncate(done);
            return all;
        }
        // A block that changed while it was sent comes twice.
        all.resize(2 * all.len(), 0);
    }
}

/// Whether a change returns a data fd. (No path leads through a state with a stream, and a change
/// to the state that a device is in already does nothing.)
fn owes_data_fd(from: State, to: State) -> bool {
    to == State::RESUMING || (to.is_saving() && !from.is_saving())
}

fn limit(wanted: usize, most: u32, rate: u64) -> usize {
    let most = if most == 0 { u64::MAX } else { u64::from(most) };
    let per_sleep = match rate {
        0 => u64::MAX,
        rate => (rate.saturating_mul(LONGEST_SLEEP.as_millis() as u64) / 1000).max(1),
    };
    (wanted as u64).min(most).min(per_sleep) as usize
}

/// How long an operation at a limited rate takes, minus what earlier ones have left over.
fn pause(now: Instant, busy: &mut Instant, rate: u64, result: &Result<usize, i32>) -> Duration {
    let (Ok(n), 1..) = (result, rate) else { return Duration::ZERO };
    let takes = Duration::from_nanos((*n as u64).saturating_mul(1_000_000_000) / rate);
    *busy = (*busy).max(now) + takes;
    busy.duration_since(now)
}

fn put_u64(payload: &mut [u8], value: u64) {
    if let Some(slot) = payload.first_chunk_mut() {
        *slot = value.to_ne_bytes();
    }
}

fn get_u64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |raw| u64::from_ne_bytes(*raw))
}

fn put_state(payload: &mut [u8], state: State, fd: i32) {
    let [a, b, c, d] = state.0.to_ne_bytes();
    let [e, f, g, h] = fd.to_ne_bytes();
    if let Some(slot) = payload.first_chunk_mut() {
        *slot = [a, b, c, d, e, f, g, h];
    }
}
