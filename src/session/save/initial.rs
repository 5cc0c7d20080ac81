// SPDX-License-Identifier: MIT OR Apache-2.0
//! Initial data: when the mark that all of it was sent is due, and who must hear that an
//! acknowledgement of it does not count any more.

use crate::device::{Inner, State};
use crate::error::{Code, Error, Result, err};
use crate::protocol::v2;
use crate::transport::PrecopyInfo;
use crate::uapi;

use super::Save;

/// How far the initial data of the present generation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// Some of it has not been read, or nobody knows.
    #[default]
    Outstanding,
    /// All of it has been read, and the mark is due.
    Complete,
    /// The mark has been returned to the caller.
    Marked,
}

/// The initial data of a save.
#[derive(Debug)]
pub(super) struct Initial {
    stage: Stage,
    /// Bytes of it that are known to be unread.
    left: u64,
    /// Rises when it begins again, over restarts too: what was acknowledged before does not count.
    generation: u32,
    /// A mark was sent, of whichever generation.
    ever_marked: bool,
    /// Stopping was refused, and nothing was read since: who asks again insists.
    refused: bool,
}

impl Initial {
    pub(super) fn new() -> Initial {
        Initial {
            stage: Stage::Outstanding,
            left: 0,
            generation: 1,
            ever_marked: false,
            refused: false,
        }
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether the mark of this generation is on its way.
    pub(super) fn is_marked(&self) -> bool {
        self.stage == Stage::Marked
    }

    pub(super) fn ever_marked(&self) -> bool {
        self.ever_marked
    }

    /// Whether the mark is to be sent now.
    pub(super) fn is_due(&self) -> bool {
        self.stage == Stage::Complete
    }

    /// The mark goes out.
    pub(super) fn mark(&mut self) {
        self.stage = Stage::Marked;
        self.ever_marked = true;
    }

    /// Whether it is time to ask if all of it has been read.
    pub(super) fn is_worth_a_look(&self) -> bool {
        self.stage == Stage::Outstanding && self.left == 0
    }

    /// Some data has been read.
    pub(super) fn read(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// The save goes on: a refusal to stop is over.
    pub(super) fn goes_on(&mut self) {
        self.refused = false;
    }

    /// The first estimate.
    pub(super) fn begins(&mut self, info: &PrecopyInfo) {
        self.left = info.initial_bytes;
    }

    /// It begins again.
    pub(super) fn void(&mut self) {
        if std::mem::take(&mut self.stage) != Stage::Outstanding {
            self.generation = self.generation.saturating_add(1);
        }
        self.left = 0;
    }

    /// The driver has told how much is left.
    pub(super) fn learned(&mut self, info: &PrecopyInfo) {
        if info.flags & uapi::PRECOPY_INFO_REINIT != 0 {
            self.void();
        }
        self.left = info.initial_bytes;
        if self.is_worth_a_look() {
            self.stage = Stage::Complete;
        }
    }

    /// The driver has nothing to read, and does not tell how much is left.
    fn drained(&mut self) {
        if self.stage == Stage::Outstanding {
            self.stage = Stage::Complete;
        }
    }
}

impl Save {
    /// Asks how much initial data is left. Where the driver has given all that it has now and gives
    /// no estimates, that was all: a target that waits for the mark must not wait for ever.
    pub(super) fn look_for_initial(&mut self, inner: &mut Inner, drained: bool) {
        match v2::precopy_info(inner) {
            Ok(Some(info)) => self.initial.learned(&info),
            // The next read says what has become of the stream.
            Err(error) if error.code() == Code::NoDev => {}
            Ok(None) | Err(_) if drained => self.initial.drained(),
            Ok(None) | Err(_) => {}
        }
    }

    /// The last look before the device is taken out of pre-copy, with the guest's CPUs stopped: an
    /// acknowledgement that the caller counts on must still hold, or else all of the initial data
    /// would be sent, and loaded, in the downtime. Refused once; who asks again insists.
    pub(super) fn last_look(&mut self, inner: &mut Inner) -> Result<()> {
        let told = self.initial.generation();
        self.restart_if_reset(inner)?;
        if self.initial.refused {
            return Ok(());
        }
        // Other devices cannot say that initial data began again.
        let pre_copy = matches!(inner.state_now(), Some(State::PreCopy | State::PreCopyP2p));
        let can_say = inner.caps().precopy_info_v2 && inner.data().is_some();
        if can_say && pre_copy && self.initial.stage != Stage::Outstanding {
            self.look_for_initial(inner, false);
        }
        if self.initial.generation() == told {
            return Ok(());
        }
        self.initial.refused = true;
        Err(began_again())
    }
}

fn began_again() -> Error {
    err!(
        Again,
        "the device has begun its initial data again: it was not stopped, and the save can go on; \
         call again to stop it all the same"
    )
}
