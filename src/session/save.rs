// SPDX-License-Identifier: MIT OR Apache-2.0
//! Saving a device by pull.
//!
//! [`Save::next`] reads the driver straight into the caller's buffer, behind room for the frame's
//! header, and seals the header: no copy, no allocation, no thread. The device is given up only by
//! [`Save::finish`]; dropping a save that was not finished takes the device back to where it was.

mod initial;
mod native;
mod qemu;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::stats::{AtomicSaveStats, SaveNumbers, SaveStats, Shared, add, set};
use super::{DEFAULT_FRAME, MIN_BUFFER};
use crate::alloc;
use crate::cancel::Cancel;
use crate::device::{Claim, Device, EventKind, Inner, Locked, State, wrong_state};
use crate::device::{Recover, elapsed_ns};
use crate::error::{Errno, Error, Failure, Outcome, Result, err};
use crate::protocol::v2::{self, ReadStep};
use crate::stream::{DecodeLimits, Format, MAX_PAYLOAD};
use crate::transport::{Stuck, random_bytes};
use initial::Initial;
use native::Frames;
use qemu::Sections;

/// How a device is saved.
#[derive(Clone, Copy, Debug)]
pub struct SaveOptions {
    /// How the stream is laid out.
    pub format: Format,
    /// QEMU's format: says in the stream when all initial data has been sent; for a VMM that has
    /// negotiated switchover-ack.
    pub switchover_ack: bool,
    /// QEMU's format: says it once at the most, also where the device begins its initial data again;
    /// for targets that fail on a second mark.
    pub ack_once: bool,
    /// Number of the device within its VM; stands in every frame.
    pub device_index: u32,
    /// Largest payload of a data frame, or of what QEMU's format has in its place, in bytes.
    pub max_frame: u32,
    /// Reads return [`crate::Code::Again`] instead of blocking, where the driver can do that.
    pub nonblocking: bool,
    /// Leaves out pre-copy even where the device has it.
    pub no_pre_copy: bool,
    /// Name of the stream; all zeros: a random one.
    pub migration_id: [u8; 16],
    /// How often the save may start again because the device was reset.
    pub max_restarts: u32,
    /// How long a driver may give neither data nor an end before the save is given up.
    pub read_timeout: Duration,
}

impl Default for SaveOptions {
    fn default() -> Self {
        SaveOptions {
            format: Format::Native,
            switchover_ack: false,
            ack_once: false,
            device_index: 0,
            max_frame: DEFAULT_FRAME,
            nonblocking: false,
            no_pre_copy: false,
            migration_id: [0; 16],
            max_restarts: 16,
            read_timeout: Duration::from_secs(60),
        }
    }
}

/// What [`Save::next`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SaveStatus {
    /// Send what there is and call again.
    More,
    /// The device runs and has nothing to send now. In QEMU's format also: the stopped device's
    /// data is complete, and the configuration is wanted.
    Drained,
    /// The stream is complete.
    End,
}

/// A piece of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Next {
    /// What to do now.
    pub status: SaveStatus,
    /// Bytes of the buffer that are to be sent.
    pub len: usize,
}

/// Estimates of what is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pending {
    /// Initial data that the driver has not given yet, in bytes.
    pub initial_bytes: u64,
    /// Data that became dirty since it was read, in bytes.
    pub dirty_bytes: u64,
    /// What stop-copy will send, in bytes.
    pub stop_copy_bytes: u64,
    /// Whether the pre-copy estimates are there.
    pub precopy_known: bool,
    /// Whether the stop-copy estimate is there.
    pub stop_copy_known: bool,
    /// Whether the mark that all initial data of this generation was sent is on its way.
    pub initial_sent: bool,
    /// How often initial data started again.
    pub initial_generation: u32,
}

/// How a save ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The target has committed: the device stays in STOP.
    Release,
    /// The guest goes on here: the device goes back to where it was.
    Keep,
    /// As [`Ending::Keep`], but without peer-to-peer DMA where the device has such a state: for
    /// several devices, of which none may run before all have left the stopped states. Then
    /// [`Device::run`] each.
    KeepQuiesced,
    /// The guest stays here and does not run: the device goes to STOP.
    KeepStopped,
}

impl Ending {
    /// What the device holds is needed.
    fn keeps(self) -> bool {
        self != Ending::Release
    }
}

/// Where a save is; the order is that of `src/capi/api.toml`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Phase {
    /// The guest runs; where the device has pre-copy, there is a stream.
    PreCopy,
    /// As before, without peer-to-peer DMA.
    Quiesced,
    StopCopy,
    Ended,
    /// Something failed; [`Ending::Keep`] brings the device back.
    Failed,
    Finished,
}

/// A frame other than data that is to be sent.
enum Control {
    Restart(u32),
    Blob(u32, Vec<u8>),
}

/// One device being saved.
pub struct Save {
    device: Device,
    options: SaveOptions,
    frames: Frames,
    sections: Sections,
    phase: Phase,
    /// Where the device was before: where it goes when it is kept.
    origin: State,
    epoch: u64,
    queue: VecDeque<Control>,
    /// An error met after part of a frame had been read; told with the next call.
    deferred: Option<Error>,
    /// Whether a data fd has come.
    streaming: bool,
    /// Whether the last read in stop-copy gave nothing.
    end_seen: bool,
    initial: Initial,
    restarts: u32,
    /// Blobs since the last restart.
    blobs: u32,
    stats: Arc<AtomicSaveStats>,
    cancel: Cancel,
    failure: Option<Failure>,
}

impl Save {
    pub(crate) fn begin(device: Device, options: SaveOptions) -> Result<Save> {
        if options.max_frame == 0 || options.max_frame > MAX_PAYLOAD {
            return Err(err!(Inval, "max_frame must be from 1 to {MAX_PAYLOAD} bytes"));
        }
        let mut options = options;
        if options.format != Format::Native {
            qemu::check_options(&options)?;
            // The format has no way to say that what was sent is void.
            options.max_restarts = 0;
        } else if options.migration_id == [0; 16] {
            random_bytes(&mut options.migration_id)
                .map_err(|e| err!(Io, "no random bytes for the stream's name: {e}"))?;
        }
        let frames = Frames::new(options.migration_id, options.device_index);
        let stats = Arc::new(AtomicSaveStats::default());
        let (origin, epoch);
        {
            let mut inner = device.lock()?;
            inner.check_can_migrate()?;
            let whole = inner.check_contents();
            inner.remember(whole)?;
            origin = match inner.state_now() {
                Some(state @ (State::Running | State::Stop | State::RunningP2p)) => state,
                Some(state) if state.has_data_stream() && inner.claimed == Claim::None => {
                    return Err(err!(
                        Inval,
                        "the device was left in {state} by an earlier owner; reset it first"
                    ));
                }
                Some(state) if inner.claimed == Claim::None => {
                    return Err(err!(Io, "the device is in {state}; reset it first"));
                }
                Some(_) => State::Running,
                None => return Err(err!(Io, "the device is lost; reset it first")),
            };
            inner.claim(Claim::Saving)?;
            epoch = inner.epoch();
        }
        let mut save = Save {
            device,
            options,
            frames,
            sections: Sections::default(),
            phase: Phase::PreCopy,
            origin,
            epoch,
            queue: VecDeque::new(),
            deferred: None,
            streaming: false,
            end_seen: false,
            initial: Initial::new(),
            restarts: 0,
            blobs: 0,
            stats,
            cancel: Cancel::default(),
            failure: None,
        };
        let device = save.device.clone();
        let mut inner = device.lock()?;
        if let Err(error) = save.enter_pre_copy(&mut inner) {
            // What the error says was recovered may have been undone by a later step: walk back.
            if let Err(worse) = save.finish_locked(&mut inner, Ending::Keep) {
                return inner.remember(Err(worse));
            }
            return inner.remember(Err(error));
        }
        drop(inner);
        Ok(save)
    }

    /// To PRE_COPY, where the device has it and the guest runs.
    fn enter_pre_copy(&mut self, inner: &mut Inner) -> Result<()> {
        let wanted = inner.caps().has_pre_copy() && !self.options.no_pre_copy;
        if !wanted || self.origin == State::Stop {
            return Ok(());
        }
        // A save that starts again after quiescing must not let peer-to-peer DMA run meanwhile.
        let quiesced = self.phase == Phase::Quiesced || self.origin == State::RunningP2p;
        let quiesced = quiesced && inner.caps().has_p2p();
        let to = if quiesced { State::PreCopyP2p } else { State::PreCopy };
        let ns = inner.transition(to, Recover::To(self.origin))?;
        add(&self.stats.begin_ns, ns);
        self.opened(inner)?;
        if let Ok(Some(info)) = v2::precopy_info(inner) {
            self.initial.begins(&info);
        }
        Ok(())
    }

    /// A data fd has come.
    fn opened(&mut self, inner: &mut Inner) -> Result<()> {
        self.streaming = true;
        self.end_seen = false;
        if let (true, Some(data)) = (self.options.nonblocking, inner.data()) {
            inner.transport.data_set_nonblocking(data).map_err(|errno| {
                err!(NotSupported, "the data stream cannot be made non-blocking: {errno}")
            })?;
        }
        Ok(())
    }

    /// Takes the next piece of the stream: as many frames as the buffer holds; in QEMU's formats
    /// one section's contents, one piece of data or one packet.
    pub fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        self.must_be_open("reading the stream")?;
        if buf.len() < MIN_BUFFER {
            return Err(err!(
                NoSpace,
                "the buffer has {} bytes; a save needs {MIN_BUFFER} at least",
                buf.len()
            ));
        }
        let device = self.device.clone();
        let mut inner = device.lock()?;
        let result = self.next_locked(&mut inner, buf);
        if let Ok(next) = &result {
            add(&self.stats.stream_bytes, next.len as u64);
            set(&self.stats.frames, self.frames.sent() + self.sections.sent());
        }
        self.note(&mut inner, result)
    }

    fn next_locked(&mut self, inner: &mut Inner, buf: &mut [u8]) -> Result<Next> {
        self.tell_deferred()?;
        self.initial.goes_on();
        match self.options.format {
            Format::Native => self.next_frames(inner, buf),
            Format::Qemu => self.next_section(inner, buf),
            Format::QemuPackets => self.next_section_or_packet(inner, buf),
        }
    }

    /// An error that was met after a part of the buffer had been filled.
    fn tell_deferred(&mut self) -> Result<()> {
        match self.deferred.take() {
            Some(error) => {
                self.phase = Phase::Failed;
                Err(error)
            }
            None => Ok(()),
        }
    }

    fn check_cancelled(&mut self) -> Result<()> {
        match self.cancelled() {
            Some(error) => {
                self.phase = Phase::Failed;
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// What every call gets after a cancellation, but those that end the save or ask what happened.
    pub(crate) fn cancelled(&self) -> Option<Error> {
        let cancelled = self.cancel.is_cancelled() && self.phase != Phase::Finished;
        cancelled.then(|| err!(Cancelled, "the save was cancelled; finish by keeping the device"))
    }

    /// Reads until the payload is full or the device has nothing more to give at once. `each` sees
    /// every piece that comes, while it is still in the cache.
    fn read(
        &mut self,
        inner: &mut Inner,
        payload: &mut [u8],
        each: impl FnMut(&[u8]),
    ) -> Result<Filled> {
        let stop_copy = self.phase == Phase::StopCopy;
        let start = Instant::now();
        let mut filled = self.fill(inner, payload, each);
        if stop_copy {
            add(&self.stats.stop_read_ns, elapsed_ns(start));
        }
        if filled.step == Some(ReadStep::End) {
            // Behind callbacks a stream that died may look like one that has ended.
            let _ = inner.query_state();
            self.check_contents(inner)?;
        }
        if filled.len == 0 {
            if let Some(error) = filled.failed {
                self.phase = Phase::Failed;
                return Err(error);
            }
            self.check_cancelled()?;
            filled.step = filled.step.or(Some(ReadStep::Drained));
            return Ok(filled);
        }
        let bytes = filled.len as u64;
        add(&self.stats.data_bytes, bytes);
        if !stop_copy {
            add(&self.stats.precopy_bytes, bytes);
            self.initial.read(bytes);
        }
        Ok(filled)
    }

    fn fill(
        &mut self,
        inner: &mut Inner,
        payload: &mut [u8],
        mut each: impl FnMut(&[u8]),
    ) -> Filled {
        let stop_copy = self.phase == Phase::StopCopy;
        let mut stuck = Stuck::default();
        let mut filled = Filled { len: 0, step: None, failed: None };
        while let Some(rest) = payload.get_mut(filled.len..).filter(|rest| !rest.is_empty()) {
            let end_seen = stop_copy.then_some(&mut self.end_seen);
            match v2::read(inner, end_seen, rest) {
                Ok(ReadStep::Data(n)) => {
                    each(rest.get(..n).unwrap_or_default());
                    filled.len += n;
                    stuck.moved();
                }
                Ok(step @ (ReadStep::Interrupted | ReadStep::WouldBlock)) => {
                    // Who did not ask for EAGAIN does not get it, whatever a driver or a callback says.
                    let may_return = self.options.nonblocking || filled.len > 0;
                    if step == ReadStep::WouldBlock && may_return {
                        filled.step = Some(step);
                        break;
                    }
                    if !self.cancel.is_cancelled() {
                        let patience = self.options.read_timeout;
                        let waited = v2::wait_for_data(inner, step, &mut stuck, patience);
                        filled.failed = waited.err();
                    }
                }
                Ok(step) => {
                    filled.step = Some(step);
                    break;
                }
                Err(error) => filled.failed = Some(error),
            }
            // A slow driver, or a signal that was sent for this, must not hold up a cancellation: it
            // is looked at next.
            if filled.failed.is_some() || self.cancel.is_cancelled() {
                break;
            }
        }
        filled
    }

    fn queue_up(&mut self, frame: Control) -> Result<()> {
        alloc::push_back(&mut self.queue, frame, "no memory for a frame to be sent")
    }

    /// The data stream died: begin again if the device was merely reset while its guest ran.
    fn dead(&mut self, inner: &mut Inner, errno: Errno) -> Result<Next> {
        if self.phase != Phase::StopCopy && v2::can_start_again(inner) {
            inner.drop_data();
            // Counted in any case: a driver may give nothing but dead streams.
            self.restarts += 1;
            self.restart(inner)?;
            return Ok(Next { status: SaveStatus::More, len: 0 });
        }
        self.phase = Phase::Failed;
        Err(v2::died(inner, errno))
    }

    /// Begins again where the VMM has said that the device was reset.
    fn restart_after_reset(&mut self, inner: &mut Inner) -> Result<()> {
        if inner.epoch() == self.epoch {
            return Ok(());
        }
        // What was not sent need not be taken back, for which the format may have no way.
        let begun = self.frames.begun() || self.sections.begun() || self.initial.ever_marked();
        if begun || self.phase == Phase::StopCopy {
            self.restarts += 1;
        }
        self.restart(inner)
    }

    /// Begins again also where the device was reset and nobody has said so: before a change of
    /// state, which would otherwise start from a state that the device is not in.
    fn restart_if_reset(&mut self, inner: &mut Inner) -> Result<()> {
        if inner.contents_are_live() || inner.data().is_some() {
            // The answer does not matter: a reset shows in the epoch, or in the data fd that the change
            // brings; anything else in the change.
            let _ = inner.query_state();
        } else {
            inner.look_after_contents()?;
        }
        self.restart_after_reset(inner)
    }

    /// What a stopped guest had in its device is not to be had again after a reset, and what is there
    /// now is not its.
    fn check_contents(&mut self, inner: &Inner) -> Result<()> {
        if inner.contents_are_lost() {
            self.phase = Phase::Failed;
            return Err(inner.contents_lost(inner.state_now()));
        }
        Ok(())
    }

    fn restart(&mut self, inner: &mut Inner) -> Result<()> {
        self.check_contents(inner)?;
        self.epoch = inner.epoch();
        if self.restarts > self.options.max_restarts {
            self.phase = Phase::Failed;
            return Err(err!(
                NoDev,
                "the device was reset during the save, which can start again {} times",
                self.options.max_restarts
            ));
        }
        add(&self.stats.restarts, 1);
        log::info!(target: "vfiomig::save", "the device was reset: the save starts again");
        // Blobs that were not sent yet describe the device before the reset, as those sent do.
        self.queue.clear();
        if self.frames.begun() {
            self.queue.push_back(Control::Restart(self.restarts));
        }
        self.initial.void();
        self.blobs = 0;
        let entered = match self.phase {
            Phase::StopCopy => inner
                .transition(State::StopCopy, Recover::To(self.origin))
                .and_then(|_| self.opened(inner)),
            Phase::Quiesced => self.enter_pre_copy(inner).and_then(|()| self.quiesce_device(inner)),
            _ => self.enter_pre_copy(inner),
        };
        if let Err(error) = entered {
            self.phase = Phase::Failed;
            return Err(error);
        }
        inner.emit(EventKind::SaveRestarted, None, Outcome::Reset, 0);
        Ok(())
    }

    /// Queues an opaque piece of the VMM's: it travels behind everything returned so far.
    pub fn blob(&mut self, kind: u32, bytes: &[u8]) -> Result<()> {
        self.must_be_open("adding a blob")?;
        if self.options.format != Format::Native {
            self.check_config(kind)?;
        }
        let limits = DecodeLimits::default();
        if self.blobs >= limits.max_blobs {
            return Err(err!(MsgSize, "readers take {} blobs by default", limits.max_blobs));
        }
        let limit = limits.max_blob as usize;
        if bytes.len() > limit {
            return Err(err!(
                MsgSize,
                "the blob has {} bytes; the most that a reader takes by default is {limit}",
                bytes.len()
            ));
        }
        let owned = alloc::copy(bytes, "no memory for a blob")?;
        self.queue_up(Control::Blob(kind, owned))?;
        self.blobs += 1;
        Ok(())
    }

    /// Asks the driver how much is left.
    pub fn pending(&mut self) -> Result<Pending> {
        self.must_be_open("asking what is pending")?;
        let device = self.device.clone();
        let mut inner = device.lock()?;
        let mut pending = Pending::default();
        if self.phase != Phase::StopCopy && inner.data().is_some() {
            if let Ok(Some(info)) = v2::precopy_info(&mut inner) {
                pending.precopy_known = true;
                pending.initial_bytes = info.initial_bytes;
                pending.dirty_bytes = info.dirty_bytes;
                self.initial.learned(&info);
            }
        }
        pending.initial_generation = self.initial.generation();
        pending.initial_sent = self.initial.is_marked();
        if let Some(size) = inner.query_state_size() {
            pending.stop_copy_bytes = size;
            pending.stop_copy_known = true;
        }
        Ok(pending)
    }

    /// A file descriptor to poll for reading while [`Save::next`] says [`crate::Code::Again`] or
    /// [`SaveStatus::Drained`]. It changes when the save starts again or stops, and belongs to
    /// the library. Most drivers are always ready: also come back on a timer.
    pub fn poll_fd(&self) -> Result<i32> {
        if let Some(error) = self.cancelled() {
            return Err(error);
        }
        let inner = self.device.lock()?;
        inner
            .data()
            .and_then(|data| inner.transport.data_poll_fd(data))
            .ok_or_else(|| err!(NotSupported, "there is nothing to poll now; use a timer"))
    }

    /// Stops peer-to-peer DMA of the device: to PRE_COPY_P2P or RUNNING_P2P, before any device of
    /// the VM is stopped. Devices without these states stay as they are.
    pub fn quiesce(&mut self) -> Result<()> {
        if self.phase != Phase::PreCopy {
            return Err(self.not_now("quiescing"));
        }
        let device = self.device.clone();
        let mut inner = device.lock()?;
        let result = self.change(&mut inner, |save, inner| {
            // The vCPUs are stopped: a reset from here on is not the guest's.
            inner.hold_contents();
            save.quiesce_device(inner)?;
            save.phase = Phase::Quiesced;
            Ok(())
        });
        self.note(&mut inner, result)
    }

    fn quiesce_device(&mut self, inner: &mut Inner) -> Result<()> {
        if !inner.caps().has_p2p() || self.origin == State::Stop {
            return Ok(());
        }
        let to = match inner.state_now() {
            Some(State::PreCopy) => State::PreCopyP2p,
            Some(State::Running) => State::RunningP2p,
            _ => return Ok(()),
        };
        let ns = inner.transition(to, Recover::To(self.origin))?;
        add(&self.stats.quiesce_ns, ns);
        Ok(())
    }

    /// Stops the device: to STOP_COPY. The vCPUs must have been stopped before.
    pub fn stop(&mut self) -> Result<()> {
        if !matches!(self.phase, Phase::PreCopy | Phase::Quiesced) {
            return Err(self.not_now("stopping"));
        }
        let device = self.device.clone();
        let mut inner = device.lock()?;
        let result = self.change(&mut inner, Save::stop_device);
        self.note(&mut inner, result)
    }

    /// A change of the device's state. Where it fails, only keeping the device is left; where it is
    /// refused beforehand, the save can go on.
    fn change(
        &mut self,
        inner: &mut Inner,
        walk: impl FnOnce(&mut Save, &mut Inner) -> Result<()>,
    ) -> Result<()> {
        self.tell_deferred()?;
        self.check_cancelled()?;
        self.last_look(inner)?;
        let walked = walk(self, inner);
        if walked.is_err() {
            self.phase = Phase::Failed;
        }
        walked
    }

    fn stop_device(&mut self, inner: &mut Inner) -> Result<()> {
        // The vCPUs are stopped: a reset from here on is not the guest's.
        inner.hold_contents();
        if self.phase == Phase::PreCopy {
            self.quiesce_device(inner)?;
        }
        let had_data = inner.data().is_some();
        let before = inner.state_now();
        let ns = inner.transition(State::StopCopy, Recover::To(self.origin))?;
        add(&self.stats.stop_ns, ns);
        if !had_data || before.is_some_and(|state| !state.is_saving()) {
            self.opened(inner)?;
        }
        self.phase = Phase::StopCopy;
        Ok(())
    }

    /// Ends the save. [`Ending::Release`] needs the complete stream, and the caller's word that
    /// the target has committed; [`Ending::Keep`] is allowed at any time.
    pub fn finish(&mut self, ending: Ending) -> Result<()> {
        match (self.phase, ending) {
            (Phase::Finished, _) => return Err(self.not_now("finishing")),
            (Phase::Ended, _) => {}
            (_, ending) if ending.keeps() => {}
            _ => {
                if let Some(error) = self.cancelled() {
                    return Err(error);
                }
                return Err(err!(
                    Inval,
                    "the stream is not complete {}: the source cannot be released; keep it",
                    self.phase_text()
                ));
            }
        }
        let device = self.device.clone();
        let mut inner = device.lock()?;
        let result = self.finish_locked(&mut inner, ending);
        self.note(&mut inner, result)
    }

    fn finish_locked(&mut self, inner: &mut Inner, ending: Ending) -> Result<()> {
        let to = match ending {
            Ending::Release | Ending::KeepStopped => State::Stop,
            Ending::KeepQuiesced if self.origin == State::Running && inner.caps().has_p2p() => {
                State::RunningP2p
            }
            Ending::Keep | Ending::KeepQuiesced => self.origin,
        };
        self.phase = Phase::Finished;
        self.queue.clear();
        inner.claimed = Claim::None;
        let before = inner.state_now();
        // After an error nothing is certain: ask. Where there is no answer, what is believed will
        // do: the kernel knows where the device is, and a wrong path only fails.
        if inner.contents_are_live() {
            let _ = inner.query_state();
        } else {
            let _ = inner.look_after_contents();
        }
        let on_the_way = inner.state_now().is_some_and(|at| inner.fsm().path(at, to).is_some());
        let walk = match on_the_way {
            true => inner.transition(to, Recover::Stay).map(|ns| set(&self.stats.finish_ns, ns)),
            false => inner.reset().and_then(|()| match ending.keeps() {
                false => Ok(()),
                true => Err(inner.contents_lost(before)),
            }),
        };
        inner.drop_data();
        let ended = match (ending, inner.state_now()) {
            // Nothing of the guest is needed here any more, wherever the ladder ended; the device
            // must only not run beside its twin.
            (Ending::Release, Some(State::Running | State::RunningP2p)) => {
                inner.transition(State::Stop, Recover::Reset).map(drop)
            }
            // Nor may it run while its guest is stopped, whatever became of its contents.
            (_, Some(State::Running)) if to == State::Stop && walk.is_err() => {
                let _ = inner.transition(State::Stop, Recover::Stay);
                walk
            }
            _ => walk,
        };
        // However the reset was found, and wherever the device is now.
        match ended {
            Ok(()) if ending.keeps() && inner.contents_are_lost() => {
                Err(inner.contents_lost(before))
            }

            ended => ended,
        }
    }

    fn note<T>(&mut self, inner: &mut Locked<'_>, result: Result<T>) -> Result<T> {
        let result = result.map_err(|error| {
            let sent = self.stats.load().data_bytes;
            match error.failure() {
                Some(_) => error.amend(|failure| failure.offset = sent),
                None => error,
            }
        });
        if let Err(error) = &result {
            if let Some(failure) = error.failure() {
                self.failure = Some(*failure);
            }
        }
        inner.remember(result)
    }

    fn phase_text(&self) -> &'static str {
        match self.phase {
            Phase::PreCopy => "before the device is stopped",
            Phase::Quiesced => "after quiescing",
            Phase::StopCopy => "while the stopped device is being read",
            Phase::Ended => "after the end of the stream",
            Phase::Failed => "after a failure; finish by keeping the device",
            Phase::Finished => "after the save was finished",
        }
    }

    fn must_be_open(&mut self, what: &str) -> Result<()> {
        match self.phase {
            Phase::PreCopy | Phase::Quiesced | Phase::StopCopy => self.check_cancelled(),
            Phase::Ended | Phase::Failed | Phase::Finished => Err(self.not_now(what)),
        }
    }

    fn not_now(&self, what: &str) -> Error {
        self.cancelled().unwrap_or_else(|| wrong_state(what, self.phase_text()))
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Numbers so far.
    pub fn stats(&self) -> SaveStats {
        self.stats.load()
    }

    /// What went wrong last, if anything did.
    pub fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// The part that other threads may use.
    pub fn shared(&self) -> Shared {
        Shared::Save(self.cancel.clone(), SaveNumbers(Arc::clone(&self.stats)))
    }
}

/// What reading brought.
struct Filled {
    /// Bytes; less than there was room for where something ended the reading.
    len: usize,
    /// What ended it, if the driver did.
    step: Option<ReadStep>,
    /// An error after some bytes had come.
    failed: Option<Error>,
}

impl Save {
    /// Ends a save that was not finished, as with [`Ending::Keep`]. Fails only where the device
    /// cannot be had, in a callback.
    pub(crate) fn end(&mut self) -> Result<()> {
        if self.phase == Phase::Finished {
            return Ok(());
        }
        match self.finish(Ending::Keep) {
            Err(error) if self.phase != Phase::Finished => Err(error),
            Err(error) => {
                log::error!(target: "vfiomig::save", "ending a save that was dropped: {error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

impl Drop for Save {
    fn drop(&mut self) {
        if self.device.is_of_parent() {
            return;
        }
        if let Err(error) = self.end() {
            // In a callback: the device's own drop is the last guard.
            log::error!(target: "vfiomig::save", "ending a save that was dropped: {error}");
        }
    }
}
