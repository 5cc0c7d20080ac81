// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far a save has come, what ended it, and what its calls return then.
//!
//! It knows neither the device nor the stream: the save tells it what happens to them.

use super::reading::Stage;
use crate::cancel::{Cancel, Why};
use crate::device::wrong_state;
use crate::error::{Error, Failure, err};
use crate::policy::{Direction, cut_off_by_process};

/// Where a save is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// The guest runs. If the device has pre-copy, there is a stream.
    PreCopy,
    /// As above, but without peer-to-peer DMA.
    Quiesced,
    StopCopy,
    Ended,
    /// Something failed; [`super::Ending::Keep`] brings the device back.
    Failed,
    Finished,
}

impl Phase {
    pub fn text(self) -> &'static str {
        match self {
            Phase::PreCopy => "before the device is stopped",
            Phase::Quiesced => "after quiescing",
            Phase::StopCopy => "while the stopped device is being read",
            Phase::Ended => "after the end of the stream",
            Phase::Failed => "after a failure; finish by keeping the device",
            Phase::Finished => "after the save was finished",
        }
    }
}

/// What an error means for the save.
pub(super) enum Trouble {
    /// Nothing has happened: the save can go on.
    Refused(Error),
    /// All that is left is to keep the device.
    Failed(Error),
}

use Trouble::{Failed, Refused};

pub(super) type Step<T> = std::result::Result<T, Trouble>;

/// The way out of a save that was cut off.
const KEEP: &str = "; finish by keeping the device";

/// Why the device is no longer read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Over {
    /// The stream is complete.
    Ended,
    Failed,
    Finished,
}

/// The progress of a save, and what ended it.
#[derive(Default)]
pub(super) struct Saving {
    over: Option<Over>,
    /// An error that occurred after part of the buffer had been filled; the next call returns it.
    deferred: Option<Error>,
    failure: Option<Failure>,
    /// The policy has cut it off, with this error.
    cut_off: Option<Error>,
    pub cancel: Cancel,
}

impl Saving {
    /// Where the save is, if the device has been taken as far as `stage`.
    pub fn phase(&self, stage: Stage) -> Phase {
        match (self.over, stage) {
            (Some(Over::Ended), _) => Phase::Ended,
            (Some(Over::Failed), _) => Phase::Failed,
            (Some(Over::Finished), _) => Phase::Finished,
            (None, Stage::PreCopy) => Phase::PreCopy,
            (None, Stage::Quiesced) => Phase::Quiesced,
            (None, Stage::StopCopy) => Phase::StopCopy,
        }
    }

    /// The stream is complete.
    pub fn end(&mut self) {
        self.over = Some(Over::Ended);
    }

    /// The save gives the device up.
    pub fn finish(&mut self) {
        self.over = Some(Over::Finished);
    }

    pub fn is_finished(&self) -> bool {
        self.over == Some(Over::Finished)
    }

    // --- errors ------------------------------------------------------------------------------------

    /// Keeps an error for the next call: what came before it must be sent first.
    pub fn defer(&mut self, error: Error) {
        self.deferred = Some(error);
    }

    pub fn has_deferred(&self) -> bool {
        self.deferred.is_some()
    }

    /// Returns an error that was kept.
    pub fn tell_deferred(&mut self) -> Step<()> {
        self.deferred.take().map_or(Ok(()), |error| Err(Failed(error)))
    }

    /// The only place where a save fails.
    pub fn judge(&mut self, trouble: Trouble) -> Error {
        match trouble {
            Refused(error) => error,
            Failed(error) => {
                self.over = Some(Over::Failed);
                error
            }
        }
    }

    pub fn has_failed(&self) -> bool {
        self.over == Some(Over::Failed)
    }

    /// Keeps what an error says of the device, with how much was `sent`.
    pub fn note(&mut self, error: Error, sent: u64) -> Error {
        if error.failure().is_none() {
            return error;
        }
        let error = error.amend(|failure| failure.offset = sent);
        self.failure = error.failure().copied();
        error
    }

    /// What went wrong last, if anything did.
    pub fn failure(&self) -> Option<Failure> {
        self.failure
    }

    // --- what is refused ---------------------------------------------------------------------------

    /// What every call returns after a cancellation or a cut-off, except those that end the save or
    /// ask what happened. A stream that is complete is not cut off, because its target may have
    /// committed.
    pub fn cancelled(&self) -> Option<Error> {
        if self.is_finished() {
            return None;
        }
        match self.cancel.why() {
            Some(Why::Asked) => {
                Some(err!(Cancelled, "the save was cancelled; finish by keeping the device"))
            }
            _ if self.over == Some(Over::Ended) => None,
            Some(Why::CutOff) => Some(cut_off_by_process(Direction::Save).note(KEEP)),
            None => self.cut_off.clone(),
        }
    }

    /// The policy cuts the save off.
    pub fn cut_off(&mut self, error: Error) -> Error {
        self.cut_off.insert(error.note(KEEP)).clone()
    }

    pub fn check_cancelled(&self) -> Step<()> {
        self.cancelled().map_or(Ok(()), |error| Err(Failed(error)))
    }

    /// Refuses what makes no sense once the device is no longer read. A cancellation is noticed here,
    /// too.
    pub fn check_open(&self, what: &str, stage: Stage) -> Step<()> {
        match self.over {
            None => self.check_cancelled(),
            Some(_) => Err(Refused(self.not_now(what, stage))),
        }
    }

    /// The error for a call that is not allowed in this phase.
    pub fn not_now(&self, what: &str, stage: Stage) -> Error {
        self.cancelled().unwrap_or_else(|| wrong_state(what, self.phase(stage).text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Operation};

    const STAGE: Stage = Stage::StopCopy;

    fn io() -> Error {
        let failure = Failure { operation: Operation::DataRead, ..Failure::default() };
        Error::new(Code::Io, "it failed").with_failure(failure)
    }

    /// A call that needs an open save.
    fn read(saving: &mut Saving) -> Option<Code> {
        let open = saving.check_open("reading", STAGE);
        open.err().map(|trouble| saving.judge(trouble).code())
    }

    #[test]
    fn what_is_refused_leaves_a_save_open_and_what_fails_ends_it() {
        let mut saving = Saving::default();
        let refused = saving.judge(Refused(err!(Again, "nothing now")));
        assert_eq!(saving.note(refused, 7).code(), Code::Again);
        assert_eq!((saving.phase(STAGE), saving.failure()), (Phase::StopCopy, None));
        assert_eq!(read(&mut saving), None);
        let failed = saving.judge(Failed(io()));
        assert_eq!(saving.note(failed, 7).failure().unwrap().offset, 7);
        assert_eq!(saving.failure().unwrap().offset, 7);
        assert!(saving.has_failed() && saving.phase(STAGE) == Phase::Failed);
        assert_eq!(read(&mut saving), Some(Code::Inval));
    }

    #[test]
    fn an_error_behind_what_was_sealed_is_told_once() {
        let mut saving = Saving::default();
        saving.defer(io());
        assert!(saving.has_deferred() && saving.phase(STAGE) == Phase::StopCopy);
        assert!(matches!(saving.tell_deferred(), Err(Failed(_))));
        assert!(!saving.has_deferred() && saving.tell_deferred().is_ok());
    }

    #[test]
    fn a_cancelled_save_fails_in_the_next_call_and_can_be_finished() {
        let mut saving = Saving::default();
        saving.cancel.cancel();
        assert_eq!(saving.phase(STAGE), Phase::StopCopy);
        assert_eq!(read(&mut saving), Some(Code::Cancelled));
        assert_eq!(saving.phase(STAGE), Phase::Failed);
        assert_eq!(saving.not_now("stopping", STAGE).code(), Code::Cancelled);
        saving.finish();
        assert!(saving.is_finished() && saving.cancelled().is_none());
        assert_eq!(saving.not_now("stopping", STAGE).code(), Code::Inval);
    }
}
