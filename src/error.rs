// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors: a closed set of codes, a text for people, and what was going on at the time.
//!
//! A caller acts on a code, whose meaning never changes; the text may change in any release. An
//! errno from a driver that is outside the set is reported as [`Code::Io`], with the raw number in
//! [`Failure::errno`].

use std::borrow::Cow;
use std::fmt;

use crate::fixups::Fixups;
use crate::fsm::State;
pub use crate::sys::Errno;
use crate::text;

/// The result of the library's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($name:ident = $errno:ident, $what:literal;)*) => {
        /// What went wrong, as a caller can act on it. In C the same number, negative.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(i32)]
        pub enum Code {
            $(#[doc = $what] $name = libc::$errno,)*
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The errno's name, for example `"EBUSY"`.
            pub fn name(self) -> &'static str {
                match self { $(Code::$name => stringify!($errno),)* }
            }

            /// One line for people.
            pub fn what(self) -> &'static str {
                match self { $(Code::$name => $what,)* }
            }

            /// The same with a NUL at its end, for C.
            pub(crate) fn what_nul(self) -> &'static str {
                match self { $(Code::$name => concat!($what, "\0"),)* }
            }

            /// The code for an errno, if it is in the set.
            pub fn from_errno(errno: i32) -> Option<Code> {
                match errno { $(libc::$errno => Some(Code::$name),)* _ => None }
            }
        }
    };
}

codes! {
    Perm = EPERM, "migration of this device is switched off";
    Io = EIO, "the device or its driver failed";
    BadHandle = EBADF, "not a live handle of this kind";
    Again = EAGAIN, "not now; nothing has happened, call again";
    NoMem = ENOMEM, "out of memory";
    Fault = EFAULT, "a required pointer is NULL";
    Busy = EBUSY, "another call is using this handle or device";
    NoDev = ENODEV, "the device's data stream ended behind the library's back";
    Inval = EINVAL, "an argument is wrong, or the call is not allowed in this state";
    NotTty = ENOTTY, "not a VFIO device, or a kernel without this feature";
    NoSpace = ENOSPC, "the buffer is too small for the next frame";
    TooBig = E2BIG, "a structure has non-zero members this version does not know";
    NoData = ENODATA, "what was asked for is not there, or not yet";
    Proto = EPROTO, "the stream's format is wrong";
    BadMsg = EBADMSG, "a checksum or a tag is wrong";
    MsgSize = EMSGSIZE, "the stream exceeds a limit of the options";
    OtherDevice = EXDEV, "the stream belongs to another kind of device";
    NotSupported = EOPNOTSUPP, "the device or this build cannot do this";
    TimedOut = ETIMEDOUT, "the device made no progress in time";
    Cancelled = ECANCELED, "cancelled";
    NotRecoverable = ENOTRECOVERABLE, "an internal error has poisoned this handle";
}

impl Code {
    /// The C ABI's return value: `-errno`.
    pub fn to_ret(self) -> i32 {
        -(self as i32)
    }
}

impl Errno {
    /// The code for what a driver, or a callback in its place, returned. There, most errnos of the
    /// closed set mean something else (a driver's EFAULT is not a NULL pointer of the caller's).
    /// Those are [`Code::Io`], with the raw number in [`Failure::errno`].
    pub fn code(self) -> Code {
        match Code::from_errno(self.0) {
            Some(
                code
                @ (Code::Inval | Code::NoDev | Code::NoMem | Code::NotTty | Code::NotSupported),
            ) => code,
            // It has been retried for long enough.
            _ if self.0 == libc::EINTR => Code::TimedOut,
            _ => Code::Io,
        }
    }

    /// The same for a callback of the VMM's that does not stand for a device, and is called only
    /// once.
    pub(crate) fn callback_code(self) -> Code {
        if self.0 == libc::EINTR { Code::Io } else { self.code() }
    }

    /// The same for a callback that refuses a stream: what there is to say of a stream passes, too.
    /// Codes that say something of the call do not: after `EAGAIN`, a caller would push again.
    pub(crate) fn refusal_code(self) -> Code {
        match Code::from_errno(self.0) {
            Some(
                code @ (Code::Perm
                | Code::Proto
                | Code::BadMsg
                | Code::MsgSize
                | Code::OtherDevice
                | Code::Cancelled),
            ) => code,
            _ => self.callback_code(),
        }
    }
}

/// What the recovery ladder left behind after a failed operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum Outcome {
    /// Nothing had to be recovered: the device is in the state it was in before.
    #[default]
    Kept = 0,
    /// The device was brought back without a reset; its data stream, if there was one, is gone.
    Recovered = 1,
    /// The device was reset, and its contents are lost: in RUNNING, or where the library has taken it
    /// from there.
    Reset = 2,
    /// The device could not be reset, and its state is unknown. Only a harder reset by the VMM may
    /// help.
    Lost = 3,
}

/// Which operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
#[non_exhaustive]
pub enum Operation {
    /// None: the caller's arguments or the stream were at fault.
    #[default]
    None = 0,
    /// Asking for a feature.
    Probe = 1,
    /// Reading the device's state.
    GetState = 2,
    /// Changing the device's state.
    SetState = 3,
    /// Reading from the data fd.
    DataRead = 4,
    /// Writing to the data fd.
    DataWrite = 5,
    /// Asking for the pre-copy estimates.
    PrecopyInfo = 6,
    /// Resetting the device.
    Reset = 7,
    /// Checking the stream.
    Stream = 8,
    /// Passing something to a callback of the VMM.
    Callback = 9,
    /// Reading, writing or naming a file, or what else is behind a descriptor of the caller's.
    File = 10,
}

/// What was going on when an operation failed; the handle keeps it as long as it lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Failure {
    /// The code that the call returned.
    pub code: Option<Code>,
    /// The operation.
    pub operation: Operation,
    /// The ioctl's request number; 0 for read, write and the stream.
    pub ioctl: u32,
    /// The raw errno, as the kernel or a callback gave it; 0 for the stream.
    pub errno: i32,
    /// State before the operation.
    pub state_before: Option<State>,
    /// State that was wanted.
    pub state_wanted: Option<State>,
    /// State found afterwards, including recovery.
    pub state_after: Option<State>,
    /// What recovery did.
    pub outcome: Outcome,
    /// What the VMM must redo before the device runs.
    pub fixups: Fixups,
    /// Bytes of device data (for DataRead and DataWrite) or of the stream before the failure.
    pub offset: u64,
}

/// An error of the library. Making one does not depend on memory: if there is none for its text,
/// the text says what its code means in general.
#[derive(Debug)]
pub struct Error {
    code: Code,
    message: Cow<'static, str>,
    failure: Option<Failure>,
}

impl Error {
    /// An error with a code and a text.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Error {
        Error { code, message: message.into(), failure: None }
    }

    /// The same, formatted here.
    pub fn from_args(code: Code, message: fmt::Arguments<'_>) -> Error {
        let text = match message.as_str() {
            Some(text) => Cow::Borrowed(text),
            None => text::format(message).map_or(Cow::Borrowed(code.what()), Cow::Owned),
        };
        Error { code, message: text, failure: None }
    }

    /// Adds what was going on.
    #[must_use]
    pub fn with_failure(mut self, mut failure: Failure) -> Error {
        failure.code = Some(self.code);
        self.failure = Some(failure);
        self
    }

    /// Changes the recorded failure; creates an empty one first if there is none.
    #[must_use]
    pub(crate) fn amend(mut self, change: impl FnOnce(&mut Failure)) -> Error {
        let mut failure = self.failure.unwrap_or_default();
        failure.code = Some(self.code);
        change(&mut failure);
        self.failure = Some(failure);
        self
    }

    /// Appends to the text.
    #[must_use]
    pub(crate) fn note(self, text: &str) -> Error {
        self.note_args(format_args!("{text}"))
    }

    /// Appends to the text; if there is no memory for that, the text stays as it is.
    #[must_use]
    pub(crate) fn note_args(mut self, text: fmt::Arguments<'_>) -> Error {
        if let Some(longer) = text::format(format_args!("{}{text}", self.message)) {
            self.message = Cow::Owned(longer);
        }
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The text, one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What was going on, if a device or a stream was involved.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }
}

impl Clone for Error {
    fn clone(&self) -> Error {
        let message = match &self.message {
            Cow::Borrowed(text) => Cow::Borrowed(*text),
            Cow::Owned(text) => text::format(format_args!("{text}"))
                .map_or(Cow::Borrowed(self.code.what()), Cow::Owned),
        };
        Error { code: self.code, message, failure: self.failure }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

macro_rules! err {
    ($code:ident, $($text:tt)*) => {
        $crate::error::Error::from_args($crate::error::Code::$code, format_args!($($text)*))
    };
}
pub(crate) use err;

/// What a child gets for its parent's objects.
#[cold]
pub(crate) fn of_another_process(what: impl fmt::Display) -> Error {
    err!(
        BadHandle,
        "this {what} belongs to the process that this one was forked from: fork() makes no second one"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drivers_errno_never_reads_as_a_mistake_of_the_caller() {
        for errno in [libc::ENOTCONN, libc::EFAULT, libc::EBADF, libc::EBUSY, libc::ENODATA] {
            assert_eq!(Errno(errno).code(), Code::Io);
        }
        for code in [Code::Inval, Code::NoDev, Code::NoMem, Code::NotTty, Code::NotSupported] {
            assert_eq!(Errno(code as i32).code(), code);
        }
    }

    #[test]
    fn a_callback_that_refuses_a_stream_says_something_of_the_stream_or_nothing() {
        let passed = [libc::EPERM, libc::EPROTO, libc::EXDEV, libc::ECANCELED, libc::ENOMEM];
        for errno in passed {
            assert_eq!(Errno(errno).refusal_code() as i32, errno);
        }
        for errno in [libc::EAGAIN, libc::EBUSY, libc::EBADF, libc::ENOSPC, libc::EINTR, libc::EDOM]
        {
            assert_eq!(Errno(errno).refusal_code(), Code::Io);
        }
    }

    #[test]
    fn codes_are_negative_errnos_in_c() {
        for code in Code::ALL {
            assert_eq!(Code::from_errno(-code.to_ret()), Some(*code));
        }
        assert_eq!(Code::from_errno(libc::ENOTCONN), None);
    }
}
