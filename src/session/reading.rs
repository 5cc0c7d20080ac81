// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device's side of a save: takes the device to where it delivers data, reads that, and starts
//! again if the device was reset.
//!
//! What becomes of the data is up to the writer, and what an error means for the save is up to the
//! save. Here, every error means that all that is left is to keep the device.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ending::waiting_place;
use super::initial::Initial;
use super::options::SaveOptions;
use super::stats::{AtomicSaveStats, add};
use crate::cancel::Cancel;
use crate::device::{Claim, Inner, Recover};
use crate::error::{Code, Error, Failure, Operation, Outcome, Result, err};
use crate::fsm::State;
use crate::history::What;
use crate::nanoseconds::elapsed_ns;
use crate::protocol::NoMore;
use crate::stream::Room;
use crate::sync::atomic::Ordering;
use crate::sys::Stuck;

/// Estimates of what is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pending {
    /// Initial data that the driver has not returned yet, in bytes.
    pub initial_bytes: u64,
    /// Data that became dirty since it was read, in bytes.
    pub dirty_bytes: u64,
    /// What stop-copy will send, in bytes.
    pub stop_copy_bytes: u64,
    /// Whether the pre-copy estimates are known.
    pub precopy_known: bool,
    /// Whether the stop-copy estimate is known.
    pub stop_copy_known: bool,
    /// Whether the mark that all initial data of this generation was sent is on its way.
    pub initial_sent: bool,
    /// How often initial data started again.
    pub initial_generation: u32,
}

/// How far the device has been taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The guest runs. If the device has pre-copy, there is a stream.
    PreCopy,
    /// As above, but without peer-to-peer DMA.
    Quiesced,
    StopCopy,
}

/// What one reading returned, besides the bytes in the room that it was given.
pub(super) struct Came {
    /// Why no more came, if the driver said so.
    pub no_more: Option<NoMore>,
    /// An error, perhaps after some bytes had come.
    pub failed: Option<Error>,
}

/// A device that is being read.
pub(super) struct Reading {
    stage: Stage,
    /// Whether the guest is being switched over: from here on the VM's other devices may stand
    /// still, so this one must not run.
    switching: bool,
    /// Where the device was before, and where it goes if it is kept.
    origin: State,
    epoch: u64,
    pub initial: Initial,
    restarts: u32,
    max_restarts: u32,
    /// Device data in all, restarts included, in bytes.
    max_total: u64,
    /// Whether there has been a data fd.
    streaming: bool,
    no_pre_copy: bool,
    full_before_logging: bool,
    nonblocking: bool,
    patience: Duration,
    stats: Arc<AtomicSaveStats>,
    cancel: Cancel,
}

impl Reading {
    pub fn new(
        options: &SaveOptions,
        origin: State,
        epoch: u64,
        stats: Arc<AtomicSaveStats>,
        cancel: Cancel,
    ) -> Reading {
        Reading {
            stage: Stage::PreCopy,
            switching: false,
            origin,
            epoch,
            initial: Initial::new(),
            restarts: 0,
            max_restarts: options.max_restarts,
            max_total: options.limits.max_total,
            streaming: false,
            no_pre_copy: options.no_pre_copy,
            full_before_logging: options.full_before_logging,
            nonblocking: options.nonblocking,
            patience: options.read_timeout,
            stats,
            cancel,
        }
    }

    pub fn stage(&self) -> Stage {
        self.stage
    }

    pub fn has_stopped(&self) -> bool {
        self.stage == Stage::StopCopy
    }

    pub fn origin(&self) -> State {
        self.origin
    }

    /// Where the device waits for the save's ending if the switchover fails.
    fn waiting_place(&self, inner: &Inner) -> State {
        waiting_place(self.origin, inner)
    }

    /// The guest is being switched over, if what is tried now is not refused.
    pub fn switch_over(&mut self) {
        self.switching = true;
    }

    /// Nothing has happened.
    pub fn refused(&mut self) {
        self.switching = self.stage != Stage::PreCopy;
    }

    /// The save has failed, which may have left the device in RUNNING: by a reset, or because it
    /// could not be quiesced. Whether it must not stay there, because this is a switchover.
    pub fn must_move(&self, inner: &Inner, error: &Error) -> bool {
        let to = self.waiting_place(inner);
        let runs = inner.state_now() == Some(State::Running) && to != State::Running;
        self.switching && runs && !error.failure().is_some_and(refuses_p2p)
    }

    /// Takes such a device to where it waits.
    pub fn wait_for_ending(&self, inner: &mut Inner, error: Error) -> Error {
        inner.move_on(self.waiting_place(inner), error)
    }

    /// Whether there has been a data fd.
    pub fn is_streaming(&self) -> bool {
        self.streaming
    }

    /// To PRE_COPY, if the device has it and the guest runs.
    pub fn enter_pre_copy(&mut self, inner: &mut Inner) -> Result<()> {
        inner.read_full_before_logging(self.full_before_logging);
        let wanted = inner.caps().has_pre_copy() && !self.no_pre_copy;
        if !wanted || self.origin == State::Stop {
            return Ok(());
        }
        // A save that starts again after quiescing must not let peer-to-peer DMA run in between.
        let quiesced = self.stage == Stage::Quiesced || self.origin == State::RunningP2p;
        let quiesced = quiesced && inner.caps().has_p2p();
        let (to, back) = match quiesced {
            true => (State::PreCopyP2p, self.waiting_place(inner)),
            false => (State::PreCopy, self.origin),
        };
        let ns = inner.transition(to, Recover::To(back))?;
        add(&self.stats.begin_ns, ns);
        self.opened(inner)?;
        if let Ok(Some(info)) = inner.precopy_info() {
            self.initial.begins(&info);
        }
        Ok(())
    }

    /// There is a new data fd.
    fn opened(&mut self, inner: &mut Inner) -> Result<()> {
        self.streaming = true;
        match self.nonblocking {
            true => inner.set_data_nonblocking(),
            false => Ok(()),
        }
    }

    /// The vCPUs have stopped: no more peer-to-peer DMA.
    pub fn quiesce(&mut self, inner: &mut Inner) -> Result<()> {
        // A reset from here on is not the guest's.
        inner.hold_contents();
        self.quiesce_device(inner)?;
        self.stage = Stage::Quiesced;
        Ok(())
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
        let ns = inner.transition(to, Recover::To(self.waiting_place(inner)))?;
        add(&self.stats.quiesce_ns, ns);
        Ok(())
    }

    /// The vCPUs have stopped: to STOP_COPY.
    pub fn stop(&mut self, inner: &mut Inner) -> Result<()> {
        inner.hold_contents();
        if self.stage == Stage::PreCopy {
            self.quiesce_device(inner)?;
        }
        let had_data = inner.has_data();
        let before = inner.state_now();
        let ns = inner.transition(State::StopCopy, Recover::To(self.waiting_place(inner)))?;
        add(&self.stats.stop_ns, ns);
        if !had_data || before.is_some_and(|state| !state.is_saving()) {
            self.opened(inner)?;
        }
        self.stage = Stage::StopCopy;
        Ok(())
    }

    /// A driver that has no end must not go on for ever, and no reader would take it.
    fn check_total(&self) -> Result<()> {
        match self.stats.data_bytes.load(Ordering::Relaxed) > self.max_total {
            true => {
                let error =
                    err!(MsgSize, "the device has more than {} bytes of data", self.max_total);
                let operation = Operation::DataRead;
                Err(error.with_failure(Failure { operation, ..Failure::default() }))
            }
            false => Ok(()),
        }
    }

    /// Reads until the room is full or the device has nothing more at the moment.
    pub fn read(&mut self, inner: &mut Inner, room: &mut Room<'_>) -> Result<Came> {
        let start = Instant::now();
        let came = self.fill(inner, room);
        if self.has_stopped() {
            add(&self.stats.stop_read_ns, elapsed_ns(start));
        }
        if came.no_more == Some(NoMore::End) {
            // Behind callbacks, a stream that died may look like one that has ended.
            inner.look_after_contents()?;
            refuse_lost(inner)?;
        }
        let bytes = room.len() as u64;
        add(&self.stats.data_bytes, bytes);
        self.check_total()?;
        if !self.has_stopped() {
            add(&self.stats.precopy_bytes, bytes);
            self.initial.read(bytes);
        }
        Ok(came)
    }

    fn fill(&mut self, inner: &mut Inner, room: &mut Room<'_>) -> Came {
        let stopped = self.has_stopped();
        let mut stuck = Stuck::default();
        let failed = |error| Came { no_more: None, failed: Some(error) };
        loop {
            let rest = room.rest();
            // Neither a slow driver nor a signal that was sent for this may hold up a cancellation.
            if rest.is_empty() || self.cancel.is_cancelled() {
                return Came { no_more: None, failed: None };
            }
            let got = inner.read_data(rest, stopped, &self.cancel);
            room.came(got.len);
            if got.len > 0 {
                stuck.moved();
            }
            match got.no_more {
                None => {}
                Some(NoMore::Failed(errno)) => return failed(inner.read_failed(errno)),
                Some(why @ (NoMore::Interrupted | NoMore::WouldBlock)) => {
                    // A caller that did not ask for EAGAIN does not get it, whatever a driver or a
                    // callback says.
                    let may_return = self.nonblocking || room.len() > 0;
                    if why == NoMore::WouldBlock && may_return {
                        return Came { no_more: Some(why), failed: None };
                    }
                    if self.cancel.is_cancelled() {
                        continue;
                    }
                    if let Err(error) = inner.wait_for_data(why, &mut stuck, self.patience) {
                        return failed(error);
                    }
                }
                no_more => return Came { no_more, failed: None },
            }
        }
    }

    /// Whether the device was reset, as far as anyone knows.
    pub fn was_reset(&self, inner: &Inner) -> bool {
        inner.epoch() != self.epoch
    }

    /// Starts again, if that is allowed; returns how often that has happened. If it `counts`, it
    /// uses up one of the times that the caller allows.
    pub fn restart(&mut self, inner: &mut Inner, counts: bool) -> Result<u32> {
        self.restarts += u32::from(counts);
        refuse_lost(inner)?;
        self.epoch = inner.epoch();
        if self.restarts > self.max_restarts {
            return Err(err!(
                NoDev,
                "the device was reset during the save, which can start again {} times",
                self.max_restarts
            ));
        }
        add(&self.stats.restarts, 1);
        log::info!(target: "vfiomig::save", "the device was reset: the save starts again");
        self.initial.void();
        match self.stage {
            Stage::PreCopy => self.enter_pre_copy(inner)?,
            Stage::Quiesced => {
                self.enter_pre_copy(inner)?;
                self.quiesce_device(inner)?;
            }
            Stage::StopCopy => {
                inner.transition(State::StopCopy, Recover::To(self.waiting_place(inner)))?;
                self.opened(inner)?;
            }
        }
        inner.emit(What::SaveRestarted, None, Outcome::Reset, 0);
        Ok(self.restarts)
    }

    /// After some data, or after none: checks how much initial data is left, if that can matter. If
    /// nothing came, asking is also what makes mlx5 and virtio produce the next piece.
    pub fn look_around(&mut self, inner: &mut Inner, drained: bool) {
        if !self.has_stopped() && (drained || self.initial.is_worth_a_look()) {
            self.look_for_initial(inner, drained);
        }
    }

    /// Asks how much initial data is left. If the driver gives no estimates and has returned
    /// everything it has now, that was all of it: a target that waits for the mark must not wait
    /// forever.
    fn look_for_initial(&mut self, inner: &mut Inner, drained: bool) {
        match inner.precopy_info() {
            Ok(Some(info)) => self.initial.learned(&info),
            // The next read says what has become of the stream.
            Err(error) if error.code() == Code::NoDev => {}
            Ok(None) | Err(_) if drained => self.initial.drained(),
            Ok(None) | Err(_) => {}
        }
    }

    /// The last check before the device is taken out of pre-copy, with the guest's CPUs stopped. An
    /// acknowledgement that the caller counts on, of the generation `told`, must still hold;
    /// otherwise all of the initial data would be sent and loaded during the downtime. Refuses
    /// once; a caller that asks again insists.
    pub fn last_look(&mut self, inner: &mut Inner, told: u32) -> Result<()> {
        if self.initial.has_refused() {
            return Ok(());
        }
        // Other devices cannot say that initial data started again.
        let pre_copy = matches!(inner.state_now(), Some(State::PreCopy | State::PreCopyP2p));
        let can_say = inner.caps().precopy_info_v2 && inner.has_data();
        if can_say && pre_copy && self.initial.is_read() {
            self.look_for_initial(inner, false);
        }
        match self.initial.generation() == told {
            true => Ok(()),
            false => Err(self.initial.refuse()),
        }
    }

    /// The mark that a target may be waiting for although the device delivers no data until it is
    /// stopped. None if its guest is stopped anyway.
    pub fn awaited_mark(&self, inner: &Inner) -> Option<u32> {
        let awaited = inner.caps().has_pre_copy() && self.origin != State::Stop;
        (awaited && !self.initial.is_marked()).then_some(self.initial.generation())
    }

    /// Asks the driver how much is left.
    pub fn pending(&mut self, inner: &mut Inner) -> Pending {
        let mut pending = Pending::default();
        if !self.has_stopped() && inner.has_data() {
            if let Ok(Some(info)) = inner.precopy_info() {
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
        pending
    }
}

/// Where a device is that is to be saved, if it can be saved from there.
pub(super) fn origin_of(inner: &Inner) -> Result<State> {
    match inner.state_now() {
        Some(state @ (State::Running | State::Stop | State::RunningP2p)) => Ok(state),
        Some(state) if state.has_data_stream() && inner.claimed() == Claim::None => {
            Err(err!(Inval, "the device was left in {state} by an earlier owner; reset it first"))
        }
        Some(state) if inner.claimed() == Claim::None => {
            Err(err!(Io, "the device is in {state}; reset it first"))
        }
        Some(_) => Ok(State::Running),
        None => Err(err!(Io, "the device is lost; reset it first")),
    }
}

/// Whether it was the step from RUNNING to RUNNING_P2P that failed, which is not tried twice.
fn refuses_p2p(failure: &Failure) -> bool {
    failure.operation == Operation::SetState
        && failure.outcome == Outcome::Kept
        && failure.state_before == Some(State::Running)
        && failure.state_wanted != Some(State::PreCopy)
}

/// After a reset, a stopped guest's state in its device is gone for good, and what is there now
/// does not belong to the guest.
fn refuse_lost(inner: &Inner) -> Result<()> {
    match inner.contents_are_lost() {
        true => Err(inner.contents_lost(inner.state_now())),
        false => Ok(()),
    }
}
