// SPDX-License-Identifier: MIT OR Apache-2.0
//! Saving a device by pull.
//!
//! [`Save::next`] reads from the driver straight into the caller's buffer, into the room that the
//! format's writer has made, and has the writer seal that: no copy, no allocation, no thread. Only
//! [`Save::finish`] gives the device up; dropping an unfinished save takes the device back to where
//! it was.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::ending::Ending;
use super::options::{MIN_BUFFER, SaveOptions, check_format};
use super::queue::Queue;
use super::reading::{Pending, Reading, origin_of};
use super::saving::Trouble::{self, Failed, Refused};
use super::saving::{Phase, Saving, Step};
use super::shared::SharedSave;
use super::stats::{AtomicSaveStats, SaveNumbers, SaveStats, add, set};
use super::story::Story;
use super::transfer::{Outgoing, Transfer, Waiter};
use crate::device::{Claim, Device, Inner, Locked};
use crate::error::{Code, Errno, Error, Failure, Operation, Result, err};
use crate::history::{Note, Short, What};
use crate::policy::Direction;
use crate::protocol::NoMore;
use crate::stream::{Before, Piece, Round, SaveStatus, Took, Write};

/// A piece of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Next {
    /// What to do now.
    pub status: SaveStatus,
    /// Bytes of the buffer that are to be sent.
    pub len: usize,
}

/// One device being saved.
pub struct Save {
    device: Device,
    writer: Box<dyn Write>,
    reading: Reading,
    saving: Saving,
    queue: Queue,
    stats: Arc<AtomicSaveStats>,
    story: Story,
    /// What waits to be written to the caller's descriptor.
    outgoing: Outgoing,
}

impl Save {
    pub(crate) fn begin(device: Device, options: SaveOptions) -> Result<Save> {
        let mut options = options;
        // Once before the VMM is asked for a key: a host that does not migrate needs none.
        {
            let mut inner = device.lock()?;
            inner.permit(Direction::Save)?;
            check_format(options.format, inner.identity())?;
        }
        let writer = options.writer()?;
        let stats = Arc::new(AtomicSaveStats::default());
        let mut saving = Saving::default();
        let (reading, session);
        {
            let mut inner = device.lock()?;
            let (permit, cancel) = inner.permit(Direction::Save)?;
            let whole = inner.check_contents();
            inner.remember(whole)?;
            let origin = origin_of(&inner)?;
            inner.claim(Claim::Saving, permit)?;
            session = inner.note_begin(&Note { from: Some(origin), ..Note::of(What::SaveBegan) });
            saving.cancel = cancel.clone();
            let stats = Arc::clone(&stats);
            reading = Reading::new(&options, origin, inner.epoch(), stats, cancel);
        }
        let queue = Queue::new(options.limits);
        let outgoing = Outgoing::default();
        let story = Story::new(Arc::clone(device.recorder()), session);
        let mut save = Save { device, writer, reading, saving, queue, stats, story, outgoing };
        let device = save.device.clone();
        let mut inner = device.lock()?;
        if let Err(error) = save.reading.enter_pre_copy(&mut inner) {
            // A later step may have undone what the error says was recovered: go back.
            if let Err(worse) = save.finish_locked(&mut inner, Ending::Keep) {
                return inner.remember(Err(worse));
            }
            return inner.remember(Err(error));
        }
        drop(inner);
        Ok(save)
    }

    /// Returns the next piece of the stream: as many frames as the buffer holds; in QEMU's formats
    /// the contents of one section, one piece of data, or one packet.
    pub fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        if !self.outgoing.is_empty() {
            return Err(err!(Inval, "bytes of the stream wait to be written to a descriptor"));
        }
        self.pull(buf)
    }

    fn pull(&mut self, buf: &mut [u8]) -> Result<Next> {
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
            set(&self.stats.frames, self.writer.frames());
            self.tell(next.status);
        }
        self.settle(&mut inner, result)
    }

    /// Writes the stream to a descriptor, until the running device has nothing more for now
    /// ([`SaveStatus::Drained`]), the stream is complete ([`SaveStatus::End`]), or as much as `how`
    /// allows has been written ([`SaveStatus::More`]).
    ///
    /// An error of the descriptor changes nothing about the save: what could not be written is
    /// kept, and goes first in the next call.
    pub fn write_fd(&mut self, fd: BorrowedFd<'_>, how: Transfer) -> Result<SaveStatus> {
        if !self.writer.gives_several() {
            return Err(err!(
                Inval,
                "QEMU's format needs the VMM's own sections around its pieces"
            ));
        }
        if self.phase() == Phase::Ended {
            if let Some(error) = self.cancelled() {
                return Err(error);
            }
        } else {
            self.must_be_open("writing the stream")?;
        }
        let mut waiter = Waiter::new(fd, how)?;
        // Taken out meanwhile, so that it can be filled.
        let mut outgoing = std::mem::take(&mut self.outgoing);
        let result = self.write_all(&mut outgoing, &mut waiter);
        self.outgoing = outgoing;
        if self.phase() == Phase::Ended && self.outgoing.is_empty() {
            self.outgoing = Outgoing::default();
        }
        result.map_err(|error| {
            let error = self.saving.note(error, self.bytes());
            // Others have been recorded.
            if error.failure().is_some_and(|failure| failure.operation == Operation::File) {
                self.device.recorder().record(&Note::error(&error));
            }
            error
        })
    }

    fn write_all(&mut self, out: &mut Outgoing, waiter: &mut Waiter<'_>) -> Result<SaveStatus> {
        let mut status = match self.phase() {
            Phase::Ended => SaveStatus::End,
            _ => SaveStatus::More,
        };
        loop {
            while !out.is_empty() {
                if let Some(error) = self.cancelled() {
                    return Err(error);
                }
                let part = out.rest().get(..waiter.part(out.rest().len())).unwrap_or_default();
                if part.is_empty() {
                    return Ok(SaveStatus::More);
                }
                let written = waiter.write(part)?;
                out.taken(written.unwrap_or(0));
            }
            if status != SaveStatus::More || waiter.is_enough() {
                return Ok(status);
            }
            out.widen(false)?;
            match self.pull(&mut out.memory) {
                Ok(next) => {
                    out.filled(next.len);
                    status = next.status;
                }
                Err(error) if error.code() == Code::NoSpace => out.widen(true)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Piece after piece, if the format allows several.
    fn next_locked(&mut self, inner: &mut Inner, buf: &mut [u8]) -> Step<Next> {
        self.saving.tell_deferred()?;
        self.reading.initial.goes_on();
        let mut filled = 0;
        loop {
            let rest = buf.get_mut(filled..).unwrap_or_default();
            let full = filled > 0 && rest.len() < MIN_BUFFER.max(self.writer.least_room());
            if full || self.saving.has_deferred() {
                break;
            }
            match self.piece(inner, rest) {
                Ok(piece) => {
                    filled += piece.len;
                    self.wrote(&piece);
                    if piece.status != SaveStatus::More || !self.writer.gives_several() {
                        return Ok(Next { status: piece.status, len: filled });
                    }
                }
                Err(trouble) if filled == 0 => return Err(trouble),
                // What has been sealed must be sent before the error is returned.
                Err(Failed(error)) => self.saving.defer(error),
                // The next call returns it again, if it is still so.
                Err(Refused(_)) => break,
            }
        }
        Ok(Next { status: SaveStatus::More, len: filled })
    }

    /// One piece: what is to be said before data, or data and what surrounds it.
    fn piece(&mut self, inner: &mut Inner, buf: &mut [u8]) -> Step<Piece> {
        self.check_permitted(inner)?;
        self.restart_after_reset(inner)?;
        let first = self.queue.first();
        let before = Before { identity: inner.identity(), first, mark: self.reading.initial.due() };
        if let Some(piece) = self.writer.before_data(&before, buf).map_err(Refused)? {
            return Ok(piece);
        }
        if !inner.has_data() {
            if self.reading.is_streaming() {
                return self.dead(inner, Errno(libc::ENODEV));
            }
            let mark = self.reading.awaited_mark(inner);
            return self.writer.without_data(mark, buf).map_err(Refused);
        }
        let stopped = self.reading.has_stopped();
        let (no_more, len) = self.read(inner, buf, stopped)?;
        let drained = len == 0;
        match no_more {
            NoMore::WouldBlock if drained => {
                return Err(Refused(err!(Again, "the device has no data now; poll its data fd")));
            }
            NoMore::Dead(errno) if drained => return self.dead(inner, errno),
            _ => self.reading.look_around(inner, drained),
        }
        let ended = no_more == NoMore::End;
        let round = Round { stopped, ended, mark: self.reading.initial.due() };
        self.writer.seal(buf, len, &round).map_err(Failed)
    }

    /// Reads what the device has now; says why no more came, and how much did.
    fn read(&mut self, inner: &mut Inner, buf: &mut [u8], stopped: bool) -> Step<(NoMore, usize)> {
        let mut room = self.writer.room(buf, stopped).map_err(Failed)?;
        let came = self.reading.read(inner, &mut room).map_err(Failed)?;
        let len = room.len();
        if len > 0 {
            self.story.came(inner.state_now(), self.bytes());
        }
        match came.failed {
            // What came before the error is complete, and is sent if the format allows that.
            Some(error) if len > 0 && self.writer.gives_several() => self.saving.defer(error),
            Some(error) => return Err(Failed(error)),
            None if len == 0 => self.saving.check_cancelled()?,
            None => {}
        }
        Ok((came.no_more.unwrap_or(NoMore::Drained), len))
    }

    /// A piece has been written.
    fn wrote(&mut self, piece: &Piece) {
        match piece.took {
            Took::Nothing => {}
            Took::First => self.queue.took_first(),
            Took::Mark => {
                self.reading.initial.mark();
                self.story.marked(self.reading.initial.generation(), self.bytes());
            }
        }
        if piece.status == SaveStatus::End {
            self.saving.end();
        }
    }

    /// Bytes of the device's data so far.
    fn bytes(&self) -> u64 {
        self.stats.load().data_bytes
    }

    /// What a call has come to goes into the history.
    fn tell(&mut self, status: SaveStatus) {
        let bytes = self.bytes();
        match status {
            SaveStatus::More => {}
            SaveStatus::Drained => self.story.drained(bytes),
            SaveStatus::End => self.story.ended(bytes),
        }
    }

    /// Whether it was cancelled, or somebody has switched saving off.
    fn check_permitted(&mut self, inner: &mut Inner) -> Step<()> {
        self.saving.check_cancelled()?;
        inner.check_permitted().map_err(|error| Failed(self.saving.cut_off(error)))
    }

    /// What every call returns after a cancellation or a cut-off, except those that end the save or
    /// ask what happened.
    pub(crate) fn cancelled(&self) -> Option<Error> {
        self.saving.cancelled()
    }

    /// The data stream died: start again if the device was merely reset while its guest ran.
    fn dead(&mut self, inner: &mut Inner, errno: Errno) -> Step<Piece> {
        if !self.reading.has_stopped() && inner.can_start_again() {
            inner.drop_data();
            // Counted in any case: a driver may return nothing but dead streams.
            self.restart(inner, true)?;
            return Ok(Piece::more(0));
        }
        Err(Failed(inner.stream_died(errno)))
    }

    /// Starts again if the VMM has said that the device was reset.
    fn restart_after_reset(&mut self, inner: &mut Inner) -> Step<()> {
        if !self.reading.was_reset(inner) {
            return Ok(());
        }
        // What was not sent need not be taken back, for which the format may have no way.
        self.restart(inner, self.writer.begun() || self.reading.has_stopped())
    }

    /// Starts again even if the device was reset and nobody said so: called before a change of
    /// state, which would otherwise start from a state that the device is not in.
    fn restart_if_reset(&mut self, inner: &mut Inner) -> Step<()> {
        let looked = inner.look_after_contents();
        // If there is a stream, the data fd that the change returns shows a reset.
        if !inner.has_data() {
            looked.map_err(Refused)?;
        }
        self.restart_after_reset(inner)
    }

    fn restart(&mut self, inner: &mut Inner, counts: bool) -> Step<()> {
        let number = self.reading.restart(inner, counts);
        self.story.restarted(self.reading.initial.generation(), self.bytes());
        let number = number.map_err(Failed)?;
        self.queue.restart(self.writer.begun().then_some(number));
        Ok(())
    }

    /// Queues opaque data of the VMM's: it travels after everything returned so far.
    pub fn blob(&mut self, kind: u32, bytes: &[u8]) -> Result<()> {
        self.must_be_open("adding a blob")?;
        self.writer.check_blob(kind, self.reading.has_stopped(), self.queue.blobs())?;
        self.queue.add_blob(kind, bytes)
    }

    /// Asks the driver how much is left.
    pub fn pending(&mut self) -> Result<Pending> {
        self.must_be_open("asking what is pending")?;
        let device = self.device.clone();
        let mut inner = device.lock()?;
        let pending = self.reading.pending(&mut inner);
        self.story.initial(pending.initial_generation, self.bytes());
        Ok(pending)
    }

    /// A file descriptor to poll for reading while [`Save::next`] returns [`crate::Code::Again`] or
    /// [`SaveStatus::Drained`]. It changes when the save starts again or stops, and belongs to the
    /// library. Most drivers are always ready, so come back on a timer as well.
    pub fn poll_fd(&self) -> Result<i32> {
        if let Some(error) = self.cancelled() {
            return Err(error);
        }
        let inner = self.device.lock()?;
        inner
            .data_poll_fd()
            .ok_or_else(|| err!(NotSupported, "there is nothing to poll now; use a timer"))
    }

    /// Stops the device's peer-to-peer DMA: to PRE_COPY_P2P or RUNNING_P2P, before any device of
    /// the VM is stopped. Devices without these states stay as they are. The vCPUs must have been
    /// stopped before, and must not run again before the save has ended: it does not go back to
    /// pre-copy. May refuse like [`Save::stop`], before anything has happened.
    pub fn quiesce(&mut self) -> Result<()> {
        if self.phase() != Phase::PreCopy {
            return Err(self.not_now("quiescing"));
        }
        self.change(Reading::quiesce)
    }

    /// Stops the device: to STOP_COPY. The vCPUs must have been stopped before.
    ///
    /// Refuses once, with [`crate::Code::Again`], if the device has started its initial data again:
    /// an acknowledgement by the target no longer counts. The device stays where it is. In
    /// pre-copy, the vCPUs may run again and the save may go on. A quiesced device must be stopped
    /// by a second call, or kept.
    ///
    /// After any other error, keep the device before the vCPUs run. Until then it waits in
    /// RUNNING_P2P, if it has that state, because other devices may stand still.
    pub fn stop(&mut self) -> Result<()> {
        if !matches!(self.phase(), Phase::PreCopy | Phase::Quiesced) {
            return Err(self.not_now("stopping"));
        }
        self.change(Reading::stop)
    }

    /// The check that [`Save::quiesce`] makes first, by itself: whether the device has started its
    /// initial data again. A group asks all of its devices before it quiesces the first one. Refuses
    /// like that one, and the next quiescing then does not refuse for the same reason.
    pub(crate) fn look(&mut self) -> Result<()> {
        if self.phase() != Phase::PreCopy {
            return Err(self.not_now("switching over"));
        }
        self.change(|reading, _| {
            // The guest may still go on.
            reading.refused();
            Ok(())
        })
    }

    /// A change of the device's state. If it fails, all that is left is to keep the device; if it
    /// is refused beforehand, the save can go on.
    fn change(&mut self, walk: fn(&mut Reading, &mut Inner) -> Result<()>) -> Result<()> {
        let device = self.device.clone();
        let mut inner = device.lock()?;
        self.reading.switch_over();
        let result = self.look_first(&mut inner);
        let result = result.and_then(|()| walk(&mut self.reading, &mut inner).map_err(Failed));
        self.settle(&mut inner, result)
    }

    /// What could prevent a change of state.
    fn look_first(&mut self, inner: &mut Inner) -> Step<()> {
        self.saving.tell_deferred()?;
        self.check_permitted(inner)?;
        let told = self.reading.initial.generation();
        self.restart_if_reset(inner)?;
        self.reading.last_look(inner, told).map_err(Refused)
    }

    /// Ends the save. [`Ending::Release`] needs the complete stream, and the caller's word that the
    /// target has committed; [`Ending::Keep`] is allowed at any time.
    pub fn finish(&mut self, ending: Ending) -> Result<()> {
        match (self.phase(), ending) {
            (Phase::Finished, _) => return Err(self.not_now("finishing")),
            (Phase::Ended, Ending::Release) if !self.outgoing.is_empty() => {
                return Err(err!(
                    Inval,
                    "the end of the stream has not been written; keep the device"
                ));
            }
            (Phase::Ended, _) => {}
            (_, ending) if ending.keeps() => {}
            _ => {
                if let Some(error) = self.cancelled() {
                    return Err(error);
                }
                return Err(err!(
                    Inval,
                    "the stream is not complete {}: the source cannot be released; keep it",
                    self.phase().text()
                ));
            }
        }
        let device = self.device.clone();
        let mut inner = device.lock()?;
        let result = self.finish_locked(&mut inner, ending);
        self.settle(&mut inner, result.map_err(Refused))
    }

    fn finish_locked(&mut self, inner: &mut Inner, ending: Ending) -> Result<()> {
        self.saving.finish();
        self.queue.clear();
        self.outgoing = Outgoing::default();
        let ended = ending.end(inner, self.reading.origin(), &self.stats);
        inner.note(&Note {
            to: inner.state_now(),
            bytes: Some(self.bytes()),
            text: Short::of(ending.name()),
            ..Note::of(What::SaveEnded)
        });
        ended
    }

    /// Every error under the device's lock goes through here.
    fn settle<T>(&mut self, inner: &mut Locked<'_>, result: Step<T>) -> Result<T> {
        let sent = self.bytes();
        self.story.initial(self.reading.initial.generation(), sent);
        let result = result.map_err(|trouble| {
            let failed = matches!(trouble, Failed(_));
            let mut error = self.judge(trouble);
            // Before what it leads to.
            let moves = self.saving.has_failed() && self.reading.must_move(inner, &error);
            if failed || error.failure().is_some() {
                let note = Note::error(&error).after(sent);
                inner.note(&if moves { note.undecided() } else { note });
            }
            if moves {
                error = self.reading.wait_for_ending(inner, error);
            }
            self.saving.note(error, sent)
        });
        inner.keep(result)
    }

    /// What an error means for the device and for the save.
    fn judge(&mut self, trouble: Trouble) -> Error {
        if matches!(trouble, Refused(_)) {
            self.reading.refused();
        }
        self.saving.judge(trouble)
    }

    fn must_be_open(&mut self, what: &str) -> Result<()> {
        let open = self.saving.check_open(what, self.reading.stage());
        open.map_err(|trouble| {
            let failed = matches!(trouble, Failed(_));
            let error = self.judge(trouble);
            if failed {
                self.device.recorder().record(&Note::error(&error));
            }
            error
        })
    }

    fn not_now(&self, what: &str) -> Error {
        self.saving.not_now(what, self.reading.stage())
    }

    pub(crate) fn phase(&self) -> Phase {
        self.saving.phase(self.reading.stage())
    }

    /// Numbers so far.
    pub fn stats(&self) -> SaveStats {
        self.stats.load()
    }

    /// What went wrong last, if anything did.
    pub fn failure(&self) -> Option<Failure> {
        self.saving.failure()
    }

    /// The part that other threads may use.
    pub fn shared(&self) -> SharedSave {
        let numbers = SaveNumbers(Arc::clone(&self.stats));
        let recorder = Arc::clone(self.device.recorder());
        let (cancel, session) = (self.saving.cancel.clone(), self.story.session());
        SharedSave { cancel, numbers, recorder, session }
    }

    /// Ends an unfinished save, as with [`Ending::Keep`]. Fails only if the device is not
    /// available, in a callback.
    pub(crate) fn end(&mut self) -> Result<()> {
        if self.saving.is_finished() {
            return Ok(());
        }
        match self.finish(Ending::Keep) {
            Err(error) if !self.saving.is_finished() => Err(error),
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
