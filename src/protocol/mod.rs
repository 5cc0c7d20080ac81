// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's migration protocols: how a device is asked for its state, taken to another one, and
//! how its data flows.
//!
//! A [`Protocol`] owns the device's data stream and knows when that has ended. It speaks through a
//! transport and moves bytes between a device and a buffer. It knows nothing of frames, and leaves to
//! the device what becomes of one whose change or stream has failed.

mod describe;
mod find;
mod pump;
mod rfc;
mod units;
mod v1;
mod v2;
mod window;

use std::fmt;
use std::time::Duration;

pub(crate) use find::{Found, find};
pub(crate) use rfc::Rfc;
pub(crate) use v1::V1;
pub(crate) use v2::V2;

use crate::cancel::Cancel;
use crate::error::{Code, Error};
use crate::fsm::{MigrationFlags, State};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sys::Errno;
use crate::transport::{Bitmap, Direction, Transport};

/// How often a wait for a data stream checks whether it was cancelled.
pub(crate) const LOOK_UP: Duration = Duration::from_millis(50);

/// What one call of [`Protocol::read`] returns if the driver delivers its data in small pieces, in
/// bytes: as much as is still in the cache when it is checksummed.
const GOOD_PART: usize = 128 << 10;

/// One way in which a driver migrates its device.
pub(crate) trait Protocol: Send {
    /// Which protocol it is: a number of [`crate::identity::protocol`].
    fn generation(&self) -> u32;

    /// Asks what the driver supports.
    fn probe(&mut self, io: &mut dyn Transport) -> Result<MigrationFlags, Errno>;

    /// Asks the driver to say from now on when initial data starts again. Returns whether it will.
    fn watch_initial(&mut self, _: &mut dyn Transport) -> bool {
        false
    }

    /// Asks for the device's state.
    fn state(&mut self, io: &mut dyn Transport) -> Result<State, Errno>;

    /// Requests a change of state; `opens_data` says whether the way there opens a data stream.
    fn set_state(&mut self, io: &mut dyn Transport, to: State, opens_data: bool) -> Changed;

    /// The device has been reset, by whomever. Takes one that cannot be asked where it is now to RUNNING,
    /// where a reset need not have taken it.
    fn was_reset(&mut self, _: &mut dyn Transport) {}

    /// Whether nobody has taken the device to the state that it is believed to be in, and it cannot be
    /// asked.
    fn assumes(&self) -> bool {
        false
    }

    /// Has all of the device's memory read before its changes are logged, from the next save on: for
    /// drivers that rely on it. For protocols that say nothing of that, nothing changes.
    fn full_before_logging(&mut self, _: bool) {}

    /// The device's log of the pages that it has written to, if the protocol has one.
    fn log(&mut self) -> Option<&mut dyn PageLog> {
        None
    }

    /// Takes a device of which nobody knows where it is to RUNNING, if it can be taken anywhere. Returns
    /// whether it is there.
    fn leave_unknown(&mut self, _: &mut dyn Transport) -> bool {
        false
    }

    /// Asks for an estimate of what a stopped device will give, in bytes. None: one that is not
    /// credible.
    fn size(&mut self, _: &mut dyn Transport) -> Result<Option<u64>, Errno> {
        Err(Errno(libc::EOPNOTSUPP))
    }

    /// Asks for estimates of what a device in pre-copy has left. Asking also makes some drivers produce
    /// the next data. None: the driver does not tell.
    fn pending(&mut self, io: &mut dyn Transport) -> Result<Option<Estimates>, Errno>;

    /// Whether a data stream is open.
    fn has_data(&self) -> bool;

    /// Closes the data stream, if one is open.
    fn close(&mut self, io: &mut dyn Transport);

    /// Reads into `buf`, which is not empty, what a device gives without waiting for more of it: until
    /// the buffer is full or a good part of it, or there is no more. `stopped` says whether the device
    /// is in STOP_COPY.
    fn read(
        &mut self,
        io: &mut dyn Transport,
        buf: &mut [u8],
        stopped: bool,
        cancel: &Cancel,
    ) -> Got;

    /// Writes all of `buf`. After an error the driver may have consumed any part of the rest, so nothing
    /// more may be written.
    fn write(
        &mut self,
        io: &mut dyn Transport,
        buf: &[u8],
        patience: &Patience<'_>,
    ) -> Result<(), WriteFailed>;

    /// Waits until the data stream can go on, or the time is up. Spurious returns are allowed.
    fn wait(&mut self, _: &mut dyn Transport, _: Direction, timeout: Duration) {
        // There is nothing to poll.
        std::thread::sleep(Duration::from_millis(1).min(timeout));
    }

    /// A file descriptor to poll for the data stream.
    fn poll_fd(&self, _: &dyn Transport) -> Option<i32> {
        None
    }

    /// Makes reads and writes of the data stream return instead of blocking.
    fn set_nonblocking(&mut self, _: &mut dyn Transport) -> Result<(), Errno> {
        Err(Errno(libc::EOPNOTSUPP))
    }
}

/// A log of the pages that a device has written to, of all addresses.
pub(crate) trait PageLog: Send {
    /// Starts it. What was written to before is not in it.
    fn start(&mut self, io: &mut dyn Transport) -> Result<(), Errno>;

    /// Stops it.
    fn stop(&mut self, io: &mut dyn Transport) -> Result<(), Errno>;

    /// Sets the bits of pages that were written to since the last report, and forgets them. After an
    /// error, any may be lost.
    fn report(&mut self, io: &mut dyn Transport, bitmap: &mut Bitmap<'_>) -> Result<(), Errno>;
}

/// The result of a request for a change.
#[derive(Clone, Copy)]
pub(crate) enum Changed {
    Done,
    /// The kernel's errno.
    Refused(Errno),
    /// The driver broke the interface's rules.
    Broken(&'static str),
    /// The device was reset behind the library's back: it was not where we believed it to be, or
    /// did not stay where it went.
    Reset,
}

impl Changed {
    /// The errno that stands for it; 0: none.
    pub fn errno(&self) -> i32 {
        match self {
            Changed::Refused(errno) => errno.0,
            Changed::Broken(_) => libc::EIO,
            Changed::Reset | Changed::Done => 0,
        }
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Changed::Done => f.write_str("done"),
            Changed::Refused(errno) => errno.fmt(f),
            Changed::Broken(why) => f.write_str(why),
            Changed::Reset => f.write_str("the device was reset in the meantime"),
        }
    }
}

/// What a device in pre-copy has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Estimates {
    /// Initial data that has not been read, in bytes.
    pub initial_bytes: u64,
    /// Data that became dirty since it was read, in bytes.
    pub dirty_bytes: u64,
    /// Initial data has started again.
    pub began_again: bool,
}

/// What one read returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Got {
    /// Bytes that came.
    pub len: usize,
    /// Why no more came, if that is known.
    pub no_more: Option<NoMore>,
}

/// Why a device gives no more data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoMore {
    /// Pre-copy: nothing now; more may come.
    Drained,
    /// Stop-copy: the permanent end.
    End,
    /// Nothing now; poll.
    WouldBlock,
    /// A signal came; read again.
    Interrupted,
    /// The stream is dead: the device was reset or failed.
    Dead(Errno),
    /// Reading failed, and part of the data may be lost.
    Failed(Errno),
}

/// How long a load waits for a device that takes no data, and what can end the wait.
pub(crate) struct Patience<'a> {
    pub timeout: Duration,
    pub cancel: &'a Cancel,
    /// Increases with each byte that the device takes.
    pub taken: &'a AtomicU64,
}

impl Patience<'_> {
    /// The device has taken so many bytes.
    fn took(&self, len: usize) {
        self.taken.fetch_add(len as u64, Ordering::Relaxed);
    }

    /// Fails if the load was cancelled.
    fn check(&self) -> Result<(), WriteFailed> {
        if self.cancel.is_cancelled() {
            return Err(WriteFailed::new(
                Code::Cancelled,
                0,
                format_args!("the load was cancelled"),
            ));
        }
        Ok(())
    }
}

/// Why a write ended early.
pub(crate) struct WriteFailed {
    pub error: Error,
    /// The driver's errno; 0 if it gave none.
    pub errno: i32,
}

impl WriteFailed {
    fn new(code: Code, errno: i32, text: fmt::Arguments<'_>) -> WriteFailed {
        WriteFailed { error: Error::from_args(code, text), errno }
    }
}

/// The error for a driver that refuses data, or an access.
fn refused(errno: Errno) -> WriteFailed {
    let code = match errno.0 {
        // mtty and hisi_acc return it for a header that they do not accept.
        libc::EFAULT => Code::Inval,
        _ => errno.code(),
    };
    WriteFailed::new(code, errno.0, format_args!("the driver refuses the state: {errno}"))
}

fn not_loaded() -> WriteFailed {
    WriteFailed::new(Code::NoDev, libc::ENODEV, format_args!("the device is not being loaded"))
}

fn ended(errno: Errno) -> WriteFailed {
    let text = "the device's data stream ended behind the library's back";
    WriteFailed::new(Code::NoDev, errno.0, format_args!("{text}: {errno}"))
}
