//! Loading a device by push.
//!
//! [`Load::push`] takes any split of the stream. No byte reaches the driver before the frame that
//! it is part of has been verified. Whatever goes wrong, the device is reset at once: a driver that
//! has seen half a state can be abandoned in no other way. [`Load::commit`] makes the driver take
//! the state (RESUMING to STOP) while the source can still go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::stats::{AtomicLoadStats, LoadNumbers, LoadStats, Shared, add, set};
use crate::cancel::Cancel;
use crate::device::{
    Device, EventKind, Fixups, Identity, Inner, Locked, Recover, Session, State, describe,
    elapsed_ns, ignore, wrong_state,
};
use crate::error::{Code, Error, Failure, Operation, Outcome, Result, err};
use crate::protocol::v2::{self, Patience};
use crate::stream::{DecodeLimits, Decoder, Item, MAX_PAYLOAD};

/// Decides whether a stream of this source may be loaded into this target.
pub type Policy = Box<dyn FnMut(&Identity, &Identity) -> std::result::Result<(), i32> + Send>;

/// Takes the VMM's own pieces: their number and contents. An errno refuses the stream.
pub type BlobSink = Box<dyn FnMut(u32, &[u8]) -> std::result::Result<(), i32> + Send>;

/// How a device is loaded.
pub struct LoadOptions {
    /// What the stream may ask for.
    pub limits: DecodeLimits,
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
    pub session: Option<[u8; 16]>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            limits: DecodeLimits::default(),
            ignore: 0,
            policy: None,
            blobs: None,
            write_timeout: Duration::from_secs(60),
            device_index: None,
            session: None,
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
    /// The stream is complete and its totals were right: commit.
    pub ended: bool,
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

/// One device being loaded.
pub struct Load {
    device: Device,
    options: LoadOptions,
    decoder: Decoder,
    phase: Phase,
    epoch: u64,
    source: Option<Box<Identity>>,
    stats: Arc<AtomicLoadStats>,
    cancel: Cancel,
    failure: Option<Failure>,
}

impl Load {
    pub(crate) fn begin(device: Device, options: LoadOptions) -> Result<Load> {
        if options.limits.max_frame == 0 || options.limits.max_frame > MAX_PAYLOAD {
            return Err(err!(Inval, "max_frame must be from 1 to {MAX_PAYLOAD} bytes"));
        }
        if options.limits.max_blob > MAX_PAYLOAD - 8 {
            return Err(err!(Inval, "max_blob must be at most {} bytes", MAX_PAYLOAD - 8));
        }
        if options.ignore & !ignore::KNOWN != 0 {
            return Err(err!(Inval, "unknown bits among the fields to ignore"));
        }
        let stats = Arc::new(AtomicLoadStats::default());
        let epoch;
        {
            let mut inner = device.lock()?;
            inner.check_can_migrate()?;
            inner.claim(Session::Loading)?;
            let entered = enter_resuming(&mut inner);
            match inner.remember(entered) {
                Ok(ns) => set(&stats.begin_ns, ns),
                Err(error) => {
                    inner.session = Session::None;
                    return Err(error);
                }
            }
            epoch = inner.epoch();
        }
        let decoder = Decoder::new(options.limits);
        Ok(Load {
            device,
            options,
            decoder,
            phase: Phase::Receiving,
            epoch,
            source: None,
            stats,
            cancel: Cancel::default(),
            failure: None,
        })
    }

    /// Takes the next bytes of the stream, all of them. After an error the device has been reset
    /// and the load is over.
    pub fn push(&mut self, bytes: &[u8]) -> Result<LoadStatus> {
        self.must_be_open("loading more of the stream")?;
        self.take(|_| Ok(()), bytes)
    }

    /// Memory to receive the next bytes of the stream into, at least one. Then say how many came
    /// with [`Load::received`]. Saves the copy that [`Load::push`] makes of frames that straddle
    /// its inputs.
    pub fn space(&mut self) -> Result<&mut [u8]> {
        self.must_be_open("receiving more of the stream")?;
        self.decoder.space()
    }

    /// Takes the bytes that were received into [`Load::space`]; otherwise as [`Load::push`].
    pub fn received(&mut self, len: usize) -> Result<LoadStatus> {
        self.must_be_open("receiving more of the stream")?;
        self.take(|decoder| decoder.received(len), &[])
    }

    fn take(
        &mut self,
        begin: impl FnOnce(&mut Decoder) -> Result<()>,
        bytes: &[u8],
    ) -> Result<LoadStatus> {
        let device = self.device.clone();
        let mut inner = device.lock()?;
        // A length that cannot be is the caller's mistake and costs nothing.
        begin(&mut self.decoder)?;
        let result = self.push_locked(&mut inner, bytes);
        set(&self.stats.frames, self.decoder.frames());
        set(&self.stats.stream_bytes, self.decoder.offset());
        self.settle(&mut inner, result)
    }

    fn push_locked(&mut self, inner: &mut Inner, bytes: &[u8]) -> Result<LoadStatus> {
        self.check_alive(inner)?;
        let mut status = LoadStatus::default();
        let mut rest = bytes;
        while let Some(item) = self.decoder.next(&mut rest)? {
            match item {
                Item::Identity(source) => {
                    expect_stream(&self.options, self.decoder.session(), self.decoder.device())?;
                    inner.identity().accepts(&source, self.options.ignore)?;
                    if let Some(policy) = &mut self.options.policy {
                        policy(&source, inner.identity()).map_err(|errno| {
                            callback_refused("the VMM's policy refuses this source", errno)
                        })?;
                    }
                    self.source = Some(source);
                }
                Item::Data(data) => {
                    let patience = Patience {
                        timeout: self.options.write_timeout,
                        cancelled: self.cancel.flag(),
                    };
                    let start = Instant::now();
                    let before = inner.state_now();
                    let written = v2::write_all(inner, data, &patience);
                    add(&self.stats.write_ns, elapsed_ns(start));
                    if let Err(failed) = written {
                        add(&self.stats.data_bytes, failed.taken);
                        let text = format!("the driver refuses the state: {}", failed.why);
                        return Err(Error::new(failed.code, text).with_failure(Failure {
                            operation: Operation::DataWrite,
                            errno: failed.errno,
                            state_before: before,
                            ..Failure::default()
                        }));
                    }
                    add(&self.stats.data_bytes, data.len() as u64);
                }
                Item::InitialComplete(number) => {
                    status.initial_loaded = true;
                    set(&self.stats.initial_generation, u64::from(number));
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
                    add(&self.stats.blobs, 1);
                }
                Item::Restart(_) => {
                    add(&self.stats.restarts, 1);
                    // Only a reset makes a driver forget what it was given.
                    inner.reset()?;
                    enter_resuming(inner)?;
                    self.epoch = inner.epoch();
                    inner.emit(EventKind::LoadRestarted, None, Outcome::Reset, 0);
                    status = LoadStatus { restarted: true, ..LoadStatus::default() };
                }
                Item::End => {
                    self.phase = Phase::Complete;
                    status.ended = true;
                }
            }
        }
        Ok(status)
    }

    /// Makes the driver check and take the state: RESUMING to STOP. Needs the complete stream.
    /// Afterwards the source may be released; the VMM makes the fix-ups and calls
    /// [`Device::run`].
    pub fn commit(&mut self) -> Result<()> {
        self.must_be_open("committing")?;
        let device = self.device.clone();
        let mut inner = device.lock()?;
        let result = self.commit_locked(&mut inner);
        self.settle(&mut inner, result)
    }

    fn commit_locked(&mut self, inner: &mut Inner) -> Result<()> {
        self.check_alive(inner)?;
        if self.phase != Phase::Complete {
            return Err(err!(
                NoData,
                "the stream is not complete: {} bytes with {} bytes of data came, and no end",
                self.decoder.offset(),
                self.decoder.data_bytes()
            ));
        }
        if self.decoder.data_bytes() == 0 {
            // Some drivers would commit nothing, and pass off a reset device as a migrated one.
            return Err(err!(NoData, "the stream carries no state of the device"));
        }
        // A device that was reset behind the library's back would go from RUNNING to STOP without
        // complaint, with nothing loaded.
        let state = inner.query_state();
        self.check_alive(inner)?;
        if state != Ok(State::Resuming) {
            return Err(err!(NoDev, "the device is not in RESUMING any more"));
        }
        let ns = inner.transition(State::Stop, Recover::Reset)?;
        set(&self.stats.commit_ns, ns);
        self.phase = Phase::Committed;
        inner.session = Session::None;
        inner.add_fixups(Fixups::AFTER_RESET_OR_LOAD);
        Ok(())
    }

    fn check_alive(&self, inner: &Inner) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(err!(Cancelled, "the load was cancelled"));
        }
        if inner.epoch() != self.epoch {
            return Err(err!(NoDev, "the device was reset while it was being loaded"));
        }
        Ok(())
    }

    /// After an error: the device is reset, and the error says so.
    fn settle<T>(&mut self, inner: &mut Locked<'_>, result: Result<T>) -> Result<T> {
        let Err(error) = result else { return result };
        self.phase = Phase::Failed;
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
        inner.session = Session::None;
        let state = inner.state_now();
        let fixups = inner.fixups();
        let offset = match error.failure().map(|f| f.operation) {
            Some(Operation::DataWrite) => self.stats.load().data_bytes,
            _ => self.decoder.offset(),
        };
        let note = if tried { String::new() } else { format!("; {}", describe(outcome, state)) };
        let error = error.note(&note).amend(|failure| {
            if failure.operation == Operation::None {
                failure.operation = Operation::Stream;
            }
            failure.state_before = failure.state_before.or(before);
            failure.state_after = state;
            failure.outcome = outcome;
            failure.fixups = fixups;
            failure.offset = offset;
        });
        self.failure = error.failure().copied();
        inner.remember(Err(error))
    }

    fn must_be_open(&self, what: &str) -> Result<()> {
        match self.phase {
            Phase::Receiving | Phase::Complete => Ok(()),
            Phase::Committed | Phase::Failed => Err(self.not_now(what)),
        }
    }

    fn not_now(&self, what: &str) -> Error {
        wrong_state(
            what,
            match self.phase {
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
        self.phase
    }

    /// Numbers so far.
    pub fn stats(&self) -> LoadStats {
        self.stats.load()
    }

    /// What went wrong, if anything did.
    pub fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// The part that other threads may use.
    pub fn shared(&self) -> Shared {
        Shared::Load(self.cancel.clone(), LoadNumbers(Arc::clone(&self.stats)))
    }
}

/// Refuses a stream of another device of the VM, or of another migration.
fn expect_stream(options: &LoadOptions, session: [u8; 16], device: Option<u32>) -> Result<()> {
    if let (Some(wanted), Some(found)) = (options.device_index, device) {
        if wanted != found {
            return Err(err!(
                OtherDevice,
                "the stream is of device {found} of its VM, not {wanted}"
            ));
        }
    }
    match options.session {
        Some(wanted) if wanted != session => {
            Err(err!(OtherDevice, "the stream belongs to another migration"))
        }
        _ => Ok(()),
    }
}

/// To RESUMING, from wherever the device is: what it held is lost in any case.
fn enter_resuming(inner: &mut Inner) -> Result<u64> {
    if inner.state_now().is_none_or(|state| inner.fsm().path(state, State::Resuming).is_none())
        || inner.state_now().is_some_and(State::has_session)
    {
        // Left behind by an earlier owner: the way out that works on every driver.
        inner.reset()?;
    }
    inner.transition(State::Resuming, Recover::Reset)
}

fn callback_refused(what: &str, errno: i32) -> Error {
    let code = Code::from_errno(errno).unwrap_or(Code::Io);
    Error::new(code, what).with_failure(Failure {
        operation: Operation::Callback,
        errno,
        ..Failure::default()
    })
}

impl Drop for Load {
    /// A device is never left in RESUMING.
    fn drop(&mut self) {
        if !matches!(self.phase, Phase::Receiving | Phase::Complete) {
            return;
        }
        let device = self.device.clone();
        if let Ok(mut inner) = device.lock() {
            inner.session = Session::None;
            if let Err(error) = inner.reset() {
                log::error!(target: "vfiomig::load", "ending a load that was dropped: {error}");
            }
        }
    }
}
