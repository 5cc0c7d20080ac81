// SPDX-License-Identifier: MIT OR Apache-2.0
//! One event, and what is said of it.

use std::fmt::{self, Write};

use crate::error::{Code, Error, Operation, Outcome};
use crate::fixups::Fixups;
use crate::fsm::State;

/// The longest text of an event, in bytes.
const TEXT: usize = 200;

macro_rules! whats {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What happened.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        #[non_exhaustive]
        pub enum What {
            $($(#[doc = $doc])* $name = $number,)*
        }

        impl What {
            /// Everything that is recorded.
            pub const ALL: &'static [What] = &[$(What::$name,)*];

            /// Its name, as in histories.
            pub fn name(self) -> &'static str {
                match self { $(What::$name => $text,)* }
            }
        }
    };
}

whats! {
    /// The device was opened; `to` is the state that it was in.
    Opened = 7, "opened";
    /// The driver was asked to take the device from one state to another.
    StateAsked = 8, "state_asked";
    /// The device went from one state to another.
    StateChanged = 1, "state_changed";
    /// The driver failed at an operation.
    DriverFailed = 9, "driver_failed";
    /// Recovery from a failed change has ended.
    Recovered = 2, "recovered";
    /// The device was reset, or a reset failed (`outcome`).
    Reset = 3, "reset";
    /// The VMM must redo something before the device runs.
    FixupsNeeded = 5, "fixups_needed";
    /// A save began.
    SaveBegan = 10, "save_began";
    /// The first data came from the device in this part of the save; `from` is its state.
    FirstData = 11, "first_data";
    /// The running device had nothing more, for the `count`th time.
    Round = 12, "round";
    /// All initial data of generation `count` was read.
    InitialSent = 13, "initial_sent";
    /// The device has started its initial data again: generation `count`.
    InitialRestarted = 14, "initial_restarted";
    /// The last data came from the device.
    LastData = 15, "last_data";
    /// A save started again because the device was reset: everything sent before is void.
    SaveRestarted = 4, "save_restarted";
    /// A save was released or kept.
    SaveEnded = 16, "save_ended";
    /// A load began.
    LoadBegan = 17, "load_began";
    /// The device has taken all initial data of generation `count`.
    InitialLoaded = 18, "initial_loaded";
    /// The source of a load started again: everything loaded before is void.
    LoadRestarted = 6, "load_restarted";
    /// The whole stream has come.
    LoadComplete = 19, "load_complete";
    /// The device has accepted its state.
    Committed = 20, "committed";
    /// A load was given up.
    LoadAbandoned = 21, "load_abandoned";
    /// A load has failed, and lets go of its device.
    LoadFailed = 22, "load_failed";
    /// The session was cancelled.
    Cancelled = 23, "cancelled";
    /// A call returned an error.
    Error = 24, "error";
    /// The group has gone on to another phase.
    Phase = 25, "phase";
    /// An estimate was asked, and says something else than before.
    Verdict = 26, "verdict";
}

/// Why a device was reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
#[non_exhaustive]
pub enum Cause {
    /// The VMM asked for it.
    Asked = 1,
    /// The VMM said that something else has done it.
    Told = 2,
    /// The device was found in RUNNING without having been asked.
    Found = 3,
    /// Nothing else brought it back after a failed change.
    Recovery = 4,
    /// An earlier owner, or an earlier failure, has left it where only a reset helps.
    LeftBehind = 5,
    /// The source of a load started again.
    SourceRestarted = 6,
    /// The load has failed.
    LoadFailed = 7,
    /// The load was given up.
    LoadAbandoned = 8,
    /// There was no other way to where the save's end was to take it.
    Ending = 9,
    /// Its last handle was freed, and a session had been left open or a reset had failed.
    LetGo = 10,
}

impl Cause {
    /// Its name, as in histories.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Asked => "asked",
            Cause::Told => "told",
            Cause::Found => "found",
            Cause::Recovery => "recovery",
            Cause::LeftBehind => "left_behind",
            Cause::SourceRestarted => "source_restarted",
            Cause::LoadFailed => "load_failed",
            Cause::LoadAbandoned => "load_abandoned",
            Cause::Ending => "ending",
            Cause::LetGo => "let_go",
        }
    }
}

/// What the group has to say; the numbers are its own, and the estimate's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OfGroup {
    /// Nothing.
    #[default]
    Nothing,
    /// It has gone on to this phase.
    Phase(u32),
    /// What is to be done about the switchover.
    Verdict {
        /// What.
        verdict: u32,
        /// Why.
        because: u32,
        /// The device that is the reason; `None`: all of them.
        device: Option<u32>,
    },
}

impl OfGroup {
    /// Whether it is the same verdict for the same reason, whichever device that is.
    fn says_what(self, earlier: OfGroup) -> bool {
        let anyhow = |it| match it {
            OfGroup::Verdict { verdict, because, .. } => {
                OfGroup::Verdict { verdict, because, device: None }
            }
            other => other,
        };
        anyhow(self) == anyhow(earlier)
    }
}

/// What is said of an event; what does not apply is `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note {
    /// What happened.
    pub what: What,
    /// State before.
    pub from: Option<State>,
    /// State after, or the one that was wanted.
    pub to: Option<State>,
    /// Why the device was reset.
    pub cause: Option<Cause>,
    /// What recovery or a reset left behind.
    pub outcome: Option<Outcome>,
    /// The code of an error.
    pub code: Option<Code>,
    /// Which operation failed.
    pub operation: Operation,
    /// The raw errno; 0: none.
    pub errno: i32,
    /// How long it took, in nanoseconds.
    pub duration_ns: Option<u64>,
    /// Bytes of the device's data so far; in errors of a stream, bytes of the stream.
    pub bytes: Option<u64>,
    /// A round, a generation of initial data, a restart.
    pub count: Option<u64>,
    /// What the VMM must redo before the device runs.
    pub fixups: Fixups,
    /// What the group has to say.
    pub of_group: OfGroup,
    /// For people.
    pub text: Short,
}

impl Default for Note {
    fn default() -> Note {
        Note::of(What::Error)
    }
}

impl Note {
    /// That it happened.
    pub fn of(what: What) -> Note {
        Note {
            what,
            from: None,
            to: None,
            cause: None,
            outcome: None,
            code: None,
            operation: Operation::None,
            errno: 0,
            duration_ns: None,
            bytes: None,
            count: None,
            fixups: Fixups::default(),
            of_group: OfGroup::Nothing,
            text: Short::default(),
        }
    }

    /// That a call returned this error.
    pub fn error(error: &Error) -> Note {
        let failure = error.failure().copied().unwrap_or_default();
        let offset = Some(failure.offset).filter(|offset| *offset > 0);
        let of_device = failure.operation != Operation::None;
        Note {
            code: Some(error.code()),
            operation: failure.operation,
            errno: failure.errno,
            from: failure.state_before,
            to: failure.state_wanted,
            outcome: of_device.then_some(failure.outcome),
            bytes: offset,
            text: Short::of(error.message()),
            ..Note::of(What::Error)
        }
    }

    /// The same error, when so many bytes had passed.
    pub fn after(self, bytes: u64) -> Note {
        Note { bytes: Some(bytes), ..self }
    }

    /// The same error, before it is known what it leaves behind: that is told by what follows.
    pub fn undecided(self) -> Note {
        Note { outcome: None, ..self }
    }

    /// Whether it is an error or leads to one: such a note ends what may be told as one.
    pub(super) fn is_error(&self) -> bool {
        matches!(self.what, What::Error | What::DriverFailed)
    }

    /// Whether the same has happened, whatever time it took.
    fn is_like(&self, earlier: &Note) -> bool {
        Note { duration_ns: earlier.duration_ns, ..*self } == *earlier
    }

    /// Whether this says no more than that `earlier` has happened again, or gone on.
    fn repeats(&self, earlier: &Note) -> bool {
        match self.what {
            What::Round => earlier.what == self.what,
            What::Verdict => earlier.what == self.what && self.of_group.says_what(earlier.of_group),
            What::Error | What::DriverFailed => self == earlier,
            _ => false,
        }
    }
}

/// An event, as it was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// How many were recorded before it.
    pub number: u64,
    /// When it happened, on CLOCK_MONOTONIC, in nanoseconds; the last time, if it was repeated.
    pub at_ns: u64,
    /// How often it happened in a row.
    pub times: u64,
    /// What is said of it.
    pub note: Note,
}

impl Record {
    /// Takes in the same event, if it is the same.
    pub(super) fn absorb(&mut self, at_ns: u64, note: &Note) -> bool {
        let repeated = note.repeats(&self.note);
        if repeated {
            (self.at_ns, self.note) = (at_ns, *note);
            self.times = self.times.saturating_add(1);
        }
        repeated
    }

    /// Whether the same was recorded before.
    pub(super) fn is_like(&self, earlier: &Record) -> bool {
        self.note.is_like(&earlier.note)
    }

    /// Takes in the same event of a later repetition.
    pub(super) fn repeat(&mut self, later: &Record) {
        (self.at_ns, self.note) = (later.at_ns, later.note);
        self.times = self.times.saturating_add(later.times);
    }
}

/// A text of limited length, cut where it is too long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Short {
    bytes: [u8; TEXT],
    len: u8,
    cut: bool,
}

impl Default for Short {
    fn default() -> Short {
        Short { bytes: [0; TEXT], len: 0, cut: false }
    }
}

impl Short {
    /// This text.
    pub fn of(text: &str) -> Short {
        let mut short = Short::default();
        let _ = short.write_str(text);
        short
    }

    /// What there is of it.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Whether it was longer.
    pub fn is_cut(&self) -> bool {
        self.cut
    }
}

impl Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let at = usize::from(self.len);
        let mut fits = if self.cut { 0 } else { text.len().min(TEXT - at) };
        while !text.is_char_boundary(fits) {
            fits -= 1;
        }
        self.cut |= fits < text.len();
        let (from, to) = (text.as_bytes().get(..fits), self.bytes.get_mut(at..at + fits));
        if let (Some(from), Some(to)) = (from, to) {
            to.copy_from_slice(from);
            self.len += fits as u8;
        }
        Ok(())
    }
}

impl fmt::Debug for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// Whose history it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct About {
    /// The device's number in its group; `None` for one by itself, and for the group.
    pub device: Option<u32>,
    /// The driver's name, as far as it is known.
    pub driver: Short,
    /// What the device is called in sysfs, if that is known.
    pub name: Short,
    /// How many events there were.
    pub recorded: u64,
}

/// An event of a device, or of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The device's number in its group; `None` for one by itself, and for the group.
    pub device: Option<u32>,
    /// The event.
    pub record: Record,
}

/// The last events of a device, or of a group and its devices, the oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// Whose it is.
    pub about: Vec<About>,
    /// What happened.
    pub entries: Vec<Entry>,
}
