// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device's data stream as sessions use it: errors say what happened to the device.

use std::fmt;
use std::time::Duration;

use super::inner::Inner;
use crate::cancel::Cancel;
use crate::error::{Code, Errno, Error, Failure, Operation, Outcome, Result, err};
use crate::fsm::{Named, State};
use crate::protocol::{Estimates, Got, LOOK_UP, NoMore, Patience};
use crate::sys::Stuck;
use crate::transport::Direction;
use crate::uapi;

impl Inner {
    /// Whether a data stream is open.
    pub(crate) fn has_data(&self) -> bool {
        self.link.has_data()
    }

    /// Says in which order the device is read from now on, if its protocol has two.
    pub(crate) fn read_full_before_logging(&mut self, on: bool) {
        self.link.full_before_logging(on);
    }

    /// Closes the data stream.
    pub(crate) fn drop_data(&mut self) {
        self.link.close();
    }

    /// A file descriptor to poll for the data stream.
    pub(crate) fn data_poll_fd(&self) -> Option<i32> {
        self.link.poll_fd()
    }

    /// Makes reads of the data stream return instead of blocking.
    pub(crate) fn set_data_nonblocking(&mut self) -> Result<()> {
        self.link.set_nonblocking().map_err(|errno| {
            err!(NotSupported, "the data stream cannot be made non-blocking: {errno}")
        })
    }

    /// Reads what the device gives at once into `buf`, which is not empty. `stopped`: in STOP_COPY.
    pub(crate) fn read_data(&mut self, buf: &mut [u8], stopped: bool, cancel: &Cancel) -> Got {
        self.link.read(buf, stopped, cancel)
    }

    /// After a read that returned nothing: waits until it is worth trying again. Fails if that has
    /// gone on for too long.
    pub(crate) fn wait_for_data(
        &mut self,
        why: NoMore,
        stuck: &mut Stuck,
        patience: Duration,
    ) -> Result<()> {
        let (errno, in_time) = match why {
            NoMore::Interrupted => (Errno(libc::EINTR), stuck.interrupted(patience)),
            _ => (Errno(libc::EAGAIN), stuck.waits(patience)),
        };
        if !in_time {
            let ms = patience.as_millis();
            let what = "the driver delivered nothing for";
            let code = Code::TimedOut;
            return Err(self.read_ended(code, errno, format_args!("{what} {ms} ms: {errno}")));
        }
        if why == NoMore::WouldBlock {
            let timeout = LOOK_UP.min(patience);
            self.link.wait(Direction::Read, timeout);
        }
        Ok(())
    }

    /// The error for a failed read. The session is over: part of the data may be lost.
    pub(crate) fn read_failed(&mut self, errno: Errno) -> Error {
        let what = "reading the device's state failed";
        self.read_ended(errno.code(), errno, format_args!("{what}: {errno}"))
    }

    fn read_ended(&mut self, code: Code, errno: Errno, why: fmt::Arguments<'_>) -> Error {
        let (before, epoch) = (self.state_now(), self.epoch());
        self.note_failed(Operation::DataRead, errno.0, why);
        self.drop_data();
        let after = self.query_state().ok();
        let outcome = if self.epoch() == epoch { Outcome::Kept } else { Outcome::Reset };
        Error::from_args(code, format_args!("{why}; the device is in {}", Named(after)))
            .with_failure(Failure {
                operation: Operation::DataRead,
                errno: errno.0,
                state_before: before,
                state_after: after,
                outcome,
                fixups: self.fixups(),
                ..Failure::default()
            })
    }

    /// Whether a dead stream means that the device was reset, so that the save can start again.
    pub(crate) fn can_start_again(&mut self) -> bool {
        matches!(self.query_state(), Ok(State::Running | State::RunningP2p))
    }

    /// The error for a stream that died when the save cannot start again.
    pub(crate) fn stream_died(&mut self, errno: Errno) -> Error {
        let error = self.read_failed(errno);
        match error.code() {
            Code::NoDev => error.note("; its data stream ended behind the library's back"),
            _ => error,
        }
    }

    /// Writes all of `data` to the device.
    pub(crate) fn write_data(&mut self, data: &[u8], patience: &Patience<'_>) -> Result<()> {
        let written = self.link.write(data, patience);
        written.map_err(|failed| {
            // The rest is the stream's fault, or a cancellation.
            if failed.errno != 0 || matches!(failed.error.code(), Code::Io | Code::TimedOut) {
                self.note_failed(
                    Operation::DataWrite,
                    failed.errno,
                    format_args!("{}", failed.error),
                );
            }
            failed.error.with_failure(Failure {
                operation: Operation::DataWrite,
                errno: failed.errno,
                state_before: self.state_now(),
                ..Failure::default()
            })
        })
    }

    /// Estimates of a device in pre-copy, if the driver gives any.
    pub(crate) fn precopy_info(&mut self) -> Result<Option<Estimates>> {
        if !self.has_data() {
            return Err(err!(NoDev, "the device has no open data stream"));
        }
        self.link.pending().map_err(|errno| {
            let text = format!("the pre-copy estimates cannot be read: {errno}");
            Error::new(errno.code(), text).with_failure(Failure {
                operation: Operation::PrecopyInfo,
                ioctl: self.link.ioctl(uapi::VFIO_MIG_GET_PRECOPY_INFO),
                errno: errno.0,
                state_before: self.state_now(),
                state_after: self.state_now(),
                fixups: self.fixups(),
                ..Failure::default()
            })
        })
    }

    /// The driver's present estimate of the stop-copy stream, in bytes.
    pub(crate) fn query_state_size(&mut self) -> Option<u64> {
        self.caps().state_size?;
        self.link.size()
    }
}
