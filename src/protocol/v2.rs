// SPDX-License-Identifier: MIT OR Apache-2.0
//! Migration protocol v2: what reads and writes of the data fd mean.
//!
//! Drivers differ in what they return (docs/kernel-interface.md), and this is the only place that
//! knows. It moves bytes between a device and a buffer, and knows nothing of frames.

use std::fmt;
use std::time::Duration;

use crate::device::Inner;
use crate::error::{Code, Errno, Error, Failure, Operation, Outcome, Result, err};
use crate::fsm::{Named, State};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sys::Stuck;
use crate::transport::{DataFd, Direction, PrecopyInfo};
use crate::uapi;

/// What one read returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadStep {
    /// This many bytes.
    Data(usize),
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
}

fn data_of(device: &Inner) -> Result<DataFd> {
    device.data().ok_or_else(|| err!(NoDev, "the device has no open data stream"))
}

/// Reads device state into `buf`, which is not empty. `end_seen` is given in stop-copy, and says
/// whether the previous read returned nothing.
pub(crate) fn read(
    device: &mut Inner,
    mut end_seen: Option<&mut bool>,
    buf: &mut [u8],
) -> Result<ReadStep> {
    let data = data_of(device)?;
    loop {
        return match (device.transport.data_read(data, buf), &mut end_seen) {
            (Ok(0), None) => Ok(ReadStep::Drained),
            // mlx5 can return 0 once while its save is being set up, so the end must come twice.
            (Ok(0), Some(seen)) if !**seen => {
                **seen = true;
                continue;
            }
            (Ok(0), Some(_)) => Ok(ReadStep::End),
            (Ok(n), seen) if n <= buf.len() => {
                if let Some(seen) = seen {
                    **seen = false;
                }
                Ok(ReadStep::Data(n))
            }
            (Ok(_), _) => Err(read_failed(device, Errno(libc::EIO))),
            (Err(Errno(libc::ENOMSG)), None) => Ok(ReadStep::Drained),
            (Err(Errno(libc::EAGAIN)), _) => Ok(ReadStep::WouldBlock),
            (Err(Errno(libc::EINTR)), _) => Ok(ReadStep::Interrupted),
            (Err(errno @ Errno(libc::ENODEV)), _) => Ok(ReadStep::Dead(errno)),
            (Err(errno), _) => Err(read_failed(device, errno)),
        };
    }
}

/// After a read that returned nothing: waits until it is worth trying again. Fails if that has gone
/// on for too long.
pub(crate) fn wait_for_data(
    device: &mut Inner,
    step: ReadStep,
    stuck: &mut Stuck,
    patience: Duration,
) -> Result<()> {
    let (errno, in_time) = match step {
        ReadStep::Interrupted => (Errno(libc::EINTR), stuck.interrupted(patience)),
        _ => (Errno(libc::EAGAIN), stuck.waits(patience)),
    };
    if !in_time {
        let ms = patience.as_millis();
        let what = "the driver delivered nothing for";
        let code = Code::TimedOut;
        return Err(read_ended(device, code, errno, format_args!("{what} {ms} ms: {errno}")));
    }
    if step == ReadStep::WouldBlock {
        let data = data_of(device)?;
        device.transport.data_wait(data, Direction::Read, LOOK_UP.min(patience));
    }
    Ok(())
}

/// The error for a failed read. The session is over: part of the data may be lost.
pub(crate) fn read_failed(device: &mut Inner, errno: Errno) -> Error {
    let what = "reading the device's state failed";
    read_ended(device, errno.code(), errno, format_args!("{what}: {errno}"))
}

fn read_ended(device: &mut Inner, code: Code, errno: Errno, why: fmt::Arguments<'_>) -> Error {
    let (before, epoch) = (device.state_now(), device.epoch());
    device.drop_data();
    let after = device.query_state().ok();
    let outcome = if device.epoch() == epoch { Outcome::Kept } else { Outcome::Reset };
    Error::from_args(code, format_args!("{why}; the device is in {}", Named(after))).with_failure(
        Failure {
            operation: Operation::DataRead,
            errno: errno.0,
            state_before: before,
            state_after: after,
            outcome,
            fixups: device.fixups(),
            ..Failure::default()
        },
    )
}

/// How often a wait for a data fd checks whether it was cancelled.
const LOOK_UP: Duration = Duration::from_millis(50);

/// How long a load waits for a device that takes no data, and what can end the wait.
pub(crate) struct Patience<'a> {
    pub timeout: Duration,
    pub cancelled: &'a AtomicBool,
    /// Increases with each byte that the device takes.
    pub taken: &'a AtomicU64,
}

/// Why a write ended early.
pub(crate) struct WriteFailed {
    pub error: Error,
    /// The driver's errno; 0 if it gave none.
    pub errno: i32,
}

/// Writes all of `buf` to the device. After an error the kernel may have consumed any part of the
/// rest, so nothing more may be written.
pub(crate) fn write_all(
    device: &mut Inner,
    buf: &[u8],
    patience: &Patience<'_>,
) -> std::result::Result<(), WriteFailed> {
    let mut taken = 0usize;
    let fail = |code: Code, errno: i32, text: fmt::Arguments<'_>| {
        Err(WriteFailed { error: Error::from_args(code, text), errno })
    };
    let refused = |code: Code, errno: Errno| {
        fail(code, errno.0, format_args!("the driver refuses the state: {errno}"))
    };
    let ended = |errno: Errno| {
        let text = "the device's data stream ended behind the library's back";
        fail(Code::NoDev, errno.0, format_args!("{text}: {errno}"))
    };
    let Some(data) = device.data() else {
        return ended(Errno(libc::ENODEV));
    };
    let mut stuck = Stuck::default();
    while let Some(rest) = buf.get(taken..).filter(|rest| !rest.is_empty()) {
        match device.transport.data_write(data, rest) {
            Ok(0) => {
                let text = "the driver took no data and gave no error";
                return fail(Code::Io, 0, format_args!("{text}"));
            }
            Ok(n) if n <= rest.len() => {
                taken += n;
                patience.taken.fetch_add(n as u64, Ordering::Relaxed);
                stuck.moved();
            }
            Ok(_) => {
                let text = "the driver claims to have taken more than it got";
                return fail(Code::Io, 0, format_args!("{text}"));
            }
            // EINTR is a signal, perhaps sent to end this; the cancellation is checked below.
            Err(errno @ Errno(libc::EAGAIN | libc::EINTR)) => {
                if !wait_for_room(device, data, errno, &mut stuck, patience.timeout) {
                    let ms = patience.timeout.as_millis();
                    let what = "the driver took nothing for";
                    return fail(Code::TimedOut, errno.0, format_args!("{what} {ms} ms: {errno}"));
                }
            }
            // mtty and hisi_acc return EFAULT for a header that they do not accept.
            Err(errno @ Errno(libc::EFAULT)) => return refused(Code::Inval, errno),
            Err(errno @ Errno(libc::ENODEV)) => return ended(errno),
            Err(errno) => return refused(errno.code(), errno),
        }
        if patience.cancelled.load(Ordering::Relaxed) {
            return fail(Code::Cancelled, 0, format_args!("the load was cancelled"));
        }
    }
    Ok(())
}

/// After a write that was not taken: waits until it is worth trying again. False if that has gone
/// on for too long.
fn wait_for_room(
    device: &mut Inner,
    data: DataFd,
    errno: Errno,
    stuck: &mut Stuck,
    patience: Duration,
) -> bool {
    if errno.0 == libc::EINTR {
        return stuck.interrupted(patience);
    }
    let in_time = stuck.waits(patience);
    if in_time {
        device.transport.data_wait(data, Direction::Write, LOOK_UP.min(patience));
    }
    in_time
}

/// Estimates of a device in pre-copy. Asking also makes some drivers produce the next data.
pub(crate) fn precopy_info(device: &mut Inner) -> Result<Option<PrecopyInfo>> {
    let data = data_of(device)?;
    let v2 = device.caps().precopy_info_v2;
    match device.transport.data_precopy_info(data) {
        Ok(info) => Ok(Some(PrecopyInfo {
            // Version 1 echoes whatever was passed in; only version 2 means something.
            flags: if v2 { info.flags & uapi::PRECOPY_INFO_REINIT } else { 0 },
            initial_bytes: credible(info.initial_bytes),
            dirty_bytes: credible(info.dirty_bytes),
        })),
        // hisi_acc refuses in PRE_COPY_P2P; elsewhere too, the library can do without the
        // estimates.
        Err(Errno(libc::EINVAL | libc::ENOTTY | libc::EOPNOTSUPP)) => Ok(None),
        Err(errno) => {
            let text = format!("the pre-copy estimates cannot be read: {errno}");
            Err(Error::new(errno.code(), text).with_failure(Failure {
                operation: Operation::PrecopyInfo,
                ioctl: uapi::VFIO_MIG_GET_PRECOPY_INFO,
                errno: errno.0,
                state_before: device.state_now(),
                state_after: device.state_now(),
                fixups: device.fixups(),
                ..Failure::default()
            }))
        }
    }
}

/// A size that can only be a driver's mistake counts as very large, never as a small number.
fn credible(bytes: u64) -> u64 {
    bytes.min(i64::MAX as u64)
}

/// Whether a dead stream means that the device was reset, so that the save can start again.
pub(crate) fn can_start_again(device: &mut Inner) -> bool {
    matches!(device.query_state(), Ok(State::Running | State::RunningP2p))
}

/// The error for a stream that died when the save cannot start again.
pub(crate) fn died(device: &mut Inner, errno: Errno) -> Error {
    let mut error = read_failed(device, errno);
    if error.code() == Code::NoDev {
        error = error.note("; its data stream ended behind the library's back");
    }
    error
}
