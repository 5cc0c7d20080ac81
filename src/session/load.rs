// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loading a device by push.
//!
//! [`Load::push`] takes any split of the stream. No byte reaches the driver before the frame that
//! it is part of has been verified. Whatever goes wrong, the device is reset at once: a driver that
//! has seen half a state can be abandoned in no other way. [`Load::commit`] makes the driver take
//! the state (RESUMING to STOP) while the source can still go on.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::packets::Packets;
use super::stats::{AtomicLoadStats, LoadNumbers, LoadStats, Shared, add, set};
use crate::cancel::Cancel;
use crate::device::{
    Claim, Device, EventKind, Fixups, Identity, Inner, Locked, Recover, State, describe,
    elapsed_ns, ignore, wrong_state,
};
use crate::error::{Code, Error, Failure, Operation, Outcome, Result, err};
use crate::protocol::v2::{self, Patience};
use crate::stream::qemu::{self, PacketLimits, Quota};
use crate::stream::{DecodeLimits, Decoder, Format, Item, MAX_PAYLOAD, Read};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// Decides whether a stream of this source may be loaded into this target.
pub type Policy = Box<dyn FnMut(&Identity, &Identity) -> std::result::Result<(), i32> + Send>;

/// Takes the VMM's own pieces: their number and contents. An errno refuses the stream.
pub type BlobSink = Box<dyn FnMut(u32, &[u8]) -> std::result::Result<(), i32> + Send>;

/// How a device is loaded.
pub struct LoadOptions {
    /// How the stream is laid out.
    pub format: Format,
    /// What the stream may ask for. In QEMU's formats `max_frame` is for the data of one packet, and
    /// there are no restarts.
    pub limits: DecodeLimits,
    /// How far ahead of the next one in order a packet may come.
    pub max_ahead: u32,
    /// Bytes of packets that may wait for their turn.
    pub max_queued: u64,
    /// Fields of the identity that need not match: bits of [`ignore`].
    pub ignore: u32,
    /// Decides in addition to the comparison.
    pub policy: Option<Policy>,
    /// Where blobs go; without it a stream with blobs is refused.
    pub blobs: Option<BlobSink>,
    /// How long a driver may take no data before the load is given up.
    pub write_timeout: Duration,
    /// Refuses a stream that is not of the device with this number within its VM.
    pub device_index: Option<u32>,
    /// Refuses a stream of another name.
    pub migration_id: Option<[u8; 16]>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let packets = PacketLimits::default();
        LoadOptions {
            format: Format::Native,
            limits: DecodeLimits::default(),
            max_ahead: packets.max_ahead,
            max_queued: packets.max_queued,
            ignore: 0,
            policy: None,
            blobs: None,
            write_timeout: Duration::from_secs(60),
            device_index: None,
            migration_id: None,
        }
    }
}

/// What [`Load::push`] says; with nothing set: go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LoadStatus {
    /// The source started again: what was loaded before is void, and so is an acknowledgement of
    /// initial data.
    pub restarted: bool,
    /// All initial data was taken by the driver, after the last restart if there was one: tell the
    /// source.
    pub initial_loaded: bool,
    /// The stream is complete, and its totals were right where its format has any: commit.
    pub ended: bool,
    /// A section of QEMU's has ended: what comes next in the VMM's stream may be of others.
    pub section_ended: bool,
    /// The VMM's own part comes next in its stream: read it, then go on.
    pub config: bool,
    /// The configuration that came in a packet may be loaded now.
    pub config_ready: bool,
}

/// Where a load is; the order is that of `src/capi/api.toml`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Phase {
    Receiving,
    Complete,
    Committed,
    Failed,
}

impl Phase {
    fn from_raw(raw: u32) -> Phase {
        [Phase::Receiving, Phase::Complete, Phase::Committed]
            .into_iter()
            .find(|phase| *phase as u32 == raw)
            .unwrap_or(Phase::Failed)
    }
}

/// The part of a load that threads share where packets come over several channels. All of it but
/// the numbers changes under the device's lock only.
pub(super) struct Core {
    pub device: Device,
    pub cancel: Cancel,
    pub stats: Arc<AtomicLoadStats>,
    write_timeout: Duration,
    phase: AtomicU32,
    epoch: AtomicU64,
    failure: Mutex<Option<Failure>>,
}

/// One device being loaded.
pub struct Load {
    core: Arc<Core>,
    options: LoadOptions,
    reader: Box<dyn Read>,
    packets: Option<Packets>,
    source: Option<Box<Identity>>,
}

impl Core {
    pub fn phase(&self) -> Phase {
        Phase::from_raw(self.phase.load(Ordering::Acquire))
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u32, Ordering::Release);
    }

    pub fn write_timeout(&self) -> Duration {
        self.write_timeout
    }

    /// Gives data to the driver.
    pub fn write(&self, inner: &mut Inner, data: &[u8]) -> Result<()> {
        let patience = Patience {
            timeout: self.write_timeout,
            cancelled: self.cancel.flag(),
            taken: &self.stats.data_bytes,
        };
        let start = Instant::now();
        let before = inner.state_now();
        let written = v2::write_all(inner, data, &patience);
        add(&self.stats.write_ns, elapsed_ns(start));
        written.map_err(|failed| {
            failed.error.with_failure(Failure {
                operation: Operation::DataWrite,
                errno: failed.errno,
                state_before: before,
                ..Failure::default()
            })
        })
    }

    pub fn check_alive(&self, inner: &Inner) -> Result<()> {
        self.check_cancelled()?;
        if inner.epoch() != self.epoch.load(Ordering::Relaxed) {
            return Err(err!(NoDev, "the device was reset while it was being loaded"));
        }
        Ok(())
    }

    fn check_cancelled(&self) -> Result<()> {
        match self.cancel.is_cancelled() {
            true => Err(err!(Cancelled, "the load was cancelled")),
            false => Ok(()),
        }
    }

    /// After an error: the device is reset, and the error says so. Only the first error counts:
    /// after it the device is not this session's any more.
    pub fn settle(&self, inner: &mut Locked<'_>, error: Error) -> Error {
        if !matches!(self.phase(), Phase::Receiving | Phase::Complete) {
            return error;
        }
        self.set_phase(Phase::Failed);
        let before = inner.state_now();
        // A failed change has climbed down the ladder already.
        let tried = error.failure().is_some_and(|f| {
            matches!(f.operation, Operation::SetState | Operation::Reset)
                && f.outcome != Outcome::Kept
        });
        let outcome = match error.failure() {
            Some(failure) if tried => failure.outcome,
            _ => match inner.reset() {
                Ok(()) => Outcome::Reset,
                Err(_) => Outcome::Lost,
            },
        };
        inner.claimed = Claim::None;
        // The load never had anything of a guest that could be lost.
        inner.note_load(false);
        let state = inner.state_now();
        let fixups = inner.fixups();
        let sofar = self.stats.load();
        let offset = match error.failure().map(|f| f.operation) {
            Some(Operation::DataWrite) => sofar.data_bytes,
            _ => sofar.stream_bytes,
        };
        let error = match tried {
            true => error,
            false => error.note_args(format_args!("; {}", describe(outcome, state))),
        };
        let error = error.amend(|failure| {
            if failure.operation == Operation::None {
                failure.operation = Operation::Stream;
            }
            failure.state_before = failure.state_before.or(before);
            failure.state_after = state;
            failure.outcome = outcome;
            failure.fixups = fixups;
            failure.offset = offset;
        });
        *self.failure() = error.failure().copied();
        match inner.remember(Err::<(), _>(error)) {
            Ok(()) => err!(NotRecoverable, "an error was lost"),
            Err(error) => error,
        }
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    pub(crate) fn begin(device: Device, options: LoadOptions) -> Result<Load> {
        let mut options = options;
        if options.limits.max_frame == 0 || options.limits.max_frame > MAX_PAYLOAD {
            return Err(err!(Inval, "max_frame must be from 1 to {MAX_PAYLOAD} bytes"));
        }
        if options.limits.max_blob > MAX_PAYLOAD - 8 {
            return Err(err!(Inval, "max_blob must be at most {} bytes", MAX_PAYLOAD - 8));
        }
        if options.ignore & !ignore::KNOWN != 0 {
            return Err(err!(Inval, "unknown bits among the fields to ignore"));
        }
        let checks = options.policy.is_some()
            || options.device_index.is_some()
            || options.migration_id.is_some();
        if options.format != Format::Native && checks {
            return Err(err!(
                Inval,
                "QEMU's format does not say what it was saved from: no policy and no check of its \
                 device or session can be had"
            ));
        }
        let stats = Arc::new(AtomicLoadStats::default());
        let epoch;
        {
            let mut inner = device.lock()?;
            inner.check_can_migrate()?;
            inner.claim(Claim::Loading)?;
            let entered = enter_resuming(&mut inner);
            match inner.remember(entered) {
                Ok(ns) => {
                    set(&stats.begin_ns, ns);
                    inner.note_load(false);
                }
                Err(error) => {
                    inner.claimed = Claim::None;
                    return Err(error);
                }
            }
            epoch = inner.epoch();
        }
        let core = Arc::new(Core {
            device,
            cancel: Cancel::default(),
            stats,
            write_timeout: options.write_timeout,
            phase: AtomicU32::new(Phase::Receiving as u32),
            epoch: AtomicU64::new(epoch),
            failure: Mutex::new(None),
        });
        let quota = Arc::new(Quota::new(options.limits.max_total));
        let (reader, packets): (Box<dyn Read>, _) = match options.format {
            Format::Native => (Box::new(Decoder::new(options.limits)), None),
            Format::Qemu => (Box::new(qemu::Reader::new(false, quota)), None),
            Format::QemuPackets => {
                let limits = PacketLimits {
                    max_data: options.limits.max_frame,
                    max_config: options.limits.max_blob,
                    max_ahead: options.max_ahead,
                    max_queued: options.max_queued,
                };
                let sink = options.blobs.take();
                let packets = Packets::new(Arc::clone(&core), limits, Arc::clone(&quota), sink);
                (Box::new(qemu::Reader::new(true, quota)), Some(packets))
            }
        };
        Ok(Load { core, options, reader, packets, source: None })
    }

    /// Takes the next bytes of the stream, all of them. After an error the device has been reset
    /// and the load is over.
    pub fn push(&mut self, bytes: &[u8]) -> Result<LoadStatus> {
        self.must_take("loading more of the stream")?;
        self.take(|_| Ok(()), bytes)
    }

    /// Memory to receive the next bytes of the stream into, at least one. Then say how many came
    /// with [`Load::received`]. Saves the copy that [`Load::push`] makes of frames that straddle
    /// its inputs.
    pub fn space(&mut self) -> Result<&mut [u8]> {
        self.must_take("receiving more of the stream")?;
        if self.phase() != Phase::Committed && self.core.cancel.is_cancelled() {
            let core = Arc::clone(&self.core);
            let mut inner = core.device.lock()?;
            self.settle(&mut inner, core.check_cancelled())?;
        }
        if self.phase() == Phase::Complete && self.packets.is_none() {
            return Err(err!(Inval, "the stream has ended: nothing more of it is to come; commit"));
        }
        self.reader.space()
    }

    /// Takes the bytes that were received into [`Load::space`]; otherwise as [`Load::push`].
    pub fn received(&mut self, len: usize) -> Result<LoadStatus> {
        self.must_take("receiving more of the stream")?;
        self.take(|reader| reader.received(len), &[])
    }

    fn take(
        &mut self,
        begin: impl FnOnce(&mut dyn Read) -> Result<()>,
        bytes: &[u8],
    ) -> Result<LoadStatus> {
        let core = Arc::clone(&self.core);
        let mut inner = core.device.lock()?;
        // A length that cannot be is the caller's mistake and costs nothing.
        begin(self.reader.as_mut())?;
        let result = self.push_locked(&mut inner, bytes);
        set(&core.stats.stream_bytes, self.reader.offset());
        set(&core.stats.frames, self.reader.frames());
        if let Some(packets) = &self.packets {
            packets.main_channel(self.reader.at_rest());
        }
        self.settle(&mut inner, result)
    }

    fn push_locked(&mut self, inner: &mut Inner, bytes: &[u8]) -> Result<LoadStatus> {
        let core = &self.core;
        // After the commit the device is not this session's any more: its resets do not matter.
        if core.phase() != Phase::Committed {
            core.check_alive(inner)?;
        }
        let mut status = LoadStatus::default();
        let mut rest = bytes;
        while let Some(item) = self.reader.next(&mut rest)? {
            match item {
                Item::Identity(source) => {
                    expect_stream(&self.options, self.reader.migration_id(), self.reader.device())?;
                    inner.identity().accepts(&source, self.options.ignore)?;
                    if let Some(policy) = &mut self.options.policy {
                        policy(&source, inner.identity()).map_err(|errno| {
                            callback_refused("the VMM's policy refuses this source", errno)
                        })?;
                    }
                    self.source = Some(source);
                }
                Item::Data(data) => {
                    if self.packets.as_ref().is_some_and(Packets::has_begun) {
                        return Err(err!(
                            Proto,
                            "data came on the main channel while packets are being loaded"
                        ));
                    }
                    core.write(inner, data)?;
                }
                Item::InitialComplete(number) => {
                    status.initial_loaded = true;
                    set(&core.stats.initial_generation, u64::from(number));
                }
                Item::Blob { kind, bytes } => {
                    let Some(sink) = &mut self.options.blobs else {
                        return Err(err!(
                            NotSupported,
                            "the stream carries a blob of the VMM's (kind {kind}) and nobody takes \
                             it; set a blob callback"
                        ));
                    };
                    sink(kind, bytes).map_err(|errno| {
                        callback_refused("the VMM refuses a blob of the stream", errno)
                    })?;
                    add(&core.stats.blobs, 1);
                }
                Item::Restart(_) => {
                    add(&core.stats.restarts, 1);
                    // Only a reset makes a driver forget what it was given.
                    inner.reset()?;
                    enter_resuming(inner)?;
                    core.epoch.store(inner.epoch(), Ordering::Relaxed);
                    inner.emit(EventKind::LoadRestarted, None, Outcome::Reset, 0);
                    status = LoadStatus { restarted: true, ..LoadStatus::default() };
                }
                Item::End => {
                    core.set_phase(Phase::Complete);
                    status.ended = true;
                }
                Item::SectionEnd => status.section_ended = true,
                Item::Config => status.config = true,
                Item::ConfigReady => status.config_ready = true,
            }
        }
        Ok(status)
    }

    /// Makes the driver check and take the state: RESUMING to STOP. Needs the complete stream.
    /// Afterwards the source may be released; the VMM makes the fix-ups and calls
    /// [`Device::run`].
    pub fn commit(&mut self) -> Result<()> {
        self.must_be_open("committing")?;
        let core = Arc::clone(&self.core);
        let mut inner = core.device.lock()?;
        let result = self.commit_locked(&mut inner);
        self.settle(&mut inner, result)
    }

    fn commit_locked(&mut self, inner: &mut Inner) -> Result<()> {
        let core = &self.core;
        core.check_alive(inner)?;
        let loaded = core.stats.load().data_bytes;
        if core.phase() != Phase::Complete {
            return Err(err!(
                NoData,
                "the stream is not complete: {} bytes came, {loaded} bytes of data are in the \
                 device, and no end came",
                self.reader.offset()
            ));
        }
        if !self.reader.at_rest() {
            return Err(err!(NoData, "the main channel ends within a section"));
        }
        if self.reader.data_bytes() == 0 && (self.packets.is_none() || loaded == 0) {
            // Some drivers would commit nothing, and pass off a reset device as a migrated one.
            return Err(err!(NoData, "the stream carries no state of the device"));
        }
        // A device that was reset behind the library's back would go from RUNNING to STOP without
        // complaint, with nothing loaded.
        let state = inner.query_state();
        core.check_alive(inner)?;
        if state != Ok(State::Resuming) {
            return Err(err!(NoDev, "the device is not in RESUMING any more"));
        }
        let ns = inner.transition(State::Stop, Recover::Reset)?;
        set(&core.stats.commit_ns, ns);
        core.set_phase(Phase::Committed);
        inner.claimed = Claim::None;
        inner.note_load(true);
        inner.add_fixups(Fixups::AFTER_RESET_OR_LOAD);
        Ok(())
    }

    /// An error ends the load, for the threads that bring packets as well.
    fn settle<T>(&self, inner: &mut Locked<'_>, result: Result<T>) -> Result<T> {
        result.map_err(|error| match &self.packets {
            None => self.core.settle(inner, error),
            Some(packets) => {
                let first = packets.stop(error);
                self.core.settle(inner, first)
            }
        })
    }

    /// Where packets carry the state, the main channel's last sections, which are empty, may come
    /// after the commit.
    fn must_take(&self, what: &str) -> Result<()> {
        match self.phase() {
            Phase::Committed if self.packets.is_some() => Ok(()),
            _ => self.must_be_open(what),
        }
    }

    fn must_be_open(&self, what: &str) -> Result<()> {
        match self.phase() {
            Phase::Receiving | Phase::Complete => Ok(()),
            Phase::Committed | Phase::Failed => Err(self.not_now(what)),
        }
    }

    /// What every call gets after a cancellation, and where packets came, after any error: but those
    /// that end the load or ask what happened.
    pub(crate) fn ended_by(&self) -> Option<Error> {
        match &self.packets {
            _ if self.phase() != Phase::Failed => None,
            Some(packets) => packets.failed(),
            None => self.core.check_cancelled().err(),
        }
    }

    fn not_now(&self, what: &str) -> Error {
        if let Some(error) = self.ended_by() {
            return error;
        }
        wrong_state(
            what,
            match self.phase() {
                Phase::Receiving => "while the stream is incomplete",
                Phase::Complete => "after the end of the stream",
                Phase::Committed => "after the commit",
                Phase::Failed => "after a failure: the device was reset",
            },
        )
    }

    /// What the stream says that it was saved from, once that has come.
    pub fn source_identity(&self) -> Result<&Identity> {
        self.source.as_deref().ok_or_else(|| err!(NoData, "the stream's identity has not come yet"))
    }

    pub(crate) fn phase(&self) -> Phase {
        self.core.phase()
    }

    /// Where packets go in, of a load in [`Format::QemuPackets`].
    pub fn packets(&self) -> Option<Packets> {
        self.packets.clone()
    }

    /// Numbers so far.
    pub fn stats(&self) -> LoadStats {
        self.core.stats.load()
    }

    /// What went wrong, if anything did.
    pub fn failure(&self) -> Option<Failure> {
        *self.core.failure()
    }

    /// The part that other threads may use.
    pub fn shared(&self) -> Shared {
        let numbers = LoadNumbers(Arc::clone(&self.core.stats));
        Shared::Load(self.core.cancel.clone(), numbers, self.packets())
    }
}

/// Refuses a stream of another device of the VM, or of another migration.
fn expect_stream(
    options: &LoadOptions,
    migration_id: Option<[u8; 16]>,
    device: Option<u32>,
) -> Result<()> {
    if let (Some(wanted), Some(found)) = (options.device_index, device) {
        if wanted != found {
            return Err(err!(
                OtherDevice,
                "the stream is of device {found} of its VM, not {wanted}"
            ));
        }
    }
    match options.migration_id {
        Some(wanted) if Some(wanted) != migration_id => {
            Err(err!(OtherDevice, "the stream belongs to another migration"))
        }
        _ => Ok(()),
    }
}

/// To RESUMING, from wherever the device is: what it held is lost in any case.
fn enter_resuming(inner: &mut Inner) -> Result<u64> {
    if inner.state_now().is_none_or(|state| inner.fsm().path(state, State::Resuming).is_none())
        || inner.state_now().is_some_and(State::has_data_stream)
    {
        // Left behind by an earlier owner: the way out that works on every driver.
        inner.reset()?;
    }
    inner.transition(State::Resuming, Recover::Reset)
}

pub(super) fn callback_refused(what: &'static str, errno: i32) -> Error {
    let code = Code::from_errno(errno).unwrap_or(Code::Io);
    Error::new(code, what).with_failure(Failure {
        operation: Operation::Callback,
        errno,
        ..Failure::default()
    })
}

impl Load {
    /// Gives a load up that was not committed: the device is reset. Fails only where the device
    /// cannot be had, in a callback.
    pub(crate) fn end(&mut self) -> Result<()> {
        let core = Arc::clone(&self.core);
        let mut inner = core.device.lock()?;
        if !matches!(core.phase(), Phase::Receiving | Phase::Complete) {
            return Ok(());
        }
        core.set_phase(Phase::Failed);
        inner.claimed = Claim::None;
        inner.note_load(false);
        if let Err(error) = inner.reset() {
            log::error!(target: "vfiomig::load", "ending a load that was dropped: {error}");
        }
        Ok(())
    }
}

impl Drop for Load {
    /// A device is never left in RESUMING.
    fn drop(&mut self) {
        if self.core.device.is_of_parent() {
            return;
        }
        if let Some(packets) = &self.packets {
            packets.close();
        }
        if let Err(error) = self.end() {
            log::error!(target: "vfiomig::load", "ending a load that was dropped: {error}");
        }
    }
}
