//! Migration protocol v2: what reads and writes of the data fd mean.
//!
//! Drivers differ in what they return (docs/kernel-interface.md); this is the one place that
//! knows. It moves bytes between a device and a buffer and knows nothing of frames.

use std::fmt;
use std::time::{Duration, Instant};

use crate::device::{Inner, Named, State};
use crate::error::{Code, Errno, Error, Failure, Operation, Outcome, Result, err};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::transport::{DataFd, Direction, PrecopyInfo};
use crate::uapi;

/// What one read brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadStep {
    /// This many bytes.
    Data(usize),
    /// Pre-copy: nothing now, more may come.
    Drained,
    /// Stop-copy: the permanent end.
    End,
    /// Nothing now, poll.
    WouldBlock,
    /// A signal came; read again.
    Interrupted,
    /// The stream is dead: the device was reset or failed.
    Dead(Errno),
}

fn data_of(device: &Inner) -> Result<DataFd> {
    device.data().ok_or_else(|| err!(NoDev, "the device has no open data stream"))
}

/// Reads device state into `buf`, which is not empty. `end_seen` is there in stop-copy, and says
/// whether the read before gave nothing.
pub(crate) fn read(
    device: &mut Inner,
    mut end_seen: Option<&mut bool>,
    buf: &mut [u8],
) -> Result<ReadStep> {
    let data = data_of(device)?;
    loop {
        return match (device.transport.data_read(data, buf), &mut end_seen) {
            (Ok(0), None) => Ok(ReadStep::Drained),
            // mlx5 can answer 0 once while its save is being set up: the end is the end twice.
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

/// The error for a failed read. The session is over: part of the data may be lost.
pub(crate) fn read_failed(device: &mut Inner, errno: Errno) -> Error {
    let before = device.state_now();
    device.drop_data();
    let after = device.query_state().ok();
    let outcome = if device.contents_are_lost() { Outcome::Reset } else { Outcome::Kept };
    Error::from_args(
        errno.code(),
        format_args!(
            "reading the device's state failed: {errno}; the device is in {}",
            Named(after)
        ),
    )
    .with_failure(Failure {
        operation: Operation::DataRead,
        errno: errno.0,
        state_before: before,
        state_after: after,
        outcome,
        fixups: device.fixups(),
        ..Failure::default()
    })
}

/// How long a load waits for a device that takes no data, and who may end the waiting.
pub(crate) struct Patience<'a> {
    pub timeout: Duration,
    pub cancelled: &'a AtomicBool,
    /// Grows with each byte that the device takes.
    pub taken: &'a AtomicU64,
}

/// Why a write ended early.
pub(crate) struct WriteFailed {
    pub code: Code,
    /// The driver's errno; 0 where it gave none.
    pub errno: i32,
    /// What was wrong, where the errno does not say it.
    why: &'static str,
}

impl fmt::Display for WriteFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.why.is_empty() { Errno(self.errno).fmt(f) } else { f.write_str(self.why) }
    }
}

/// Writes all of `buf` to the device. After an error the kernel may have consumed any of the rest:
/// nothing more may be written.
pub(crate) fn write_all(
    device: &mut Inner,
    buf: &[u8],
    patience: &Patience<'_>,
) -> std::result::Result<(), WriteFailed> {
    let mut taken = 0usize;
    let fail = |code: Code, errno: i32, why: &'static str| Err(WriteFailed { code, errno, why });
    let Some(data) = device.data() else {
        return fail(Code::NoDev, libc::ENODEV, "");
    };
    let mut stuck_since: Option<Instant> = None;
    while let Some(rest) = buf.get(taken..).filter(|rest| !rest.is_empty()) {
        match device.transport.data_write(data, rest) {
            Ok(0) => return fail(Code::Io, 0, "it took no data and gave no error"),
            Ok(n) if n <= rest.len() => {
                taken += n;
                patience.taken.fetch_add(n as u64, Ordering::Relaxed);
                stuck_since = None;
            }
            Ok(_) => return fail(Code::Io, 0, "it claims to have taken more than it got"),
            Err(Errno(libc::EAGAIN)) => {
                let since = *stuck_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= patience.timeout {
                    return fail(Code::TimedOut, libc::EAGAIN, "it takes no data");
                }
                device.transport.data_wait(data, Direction::Write, Duration::from_millis(50));
            }
            // A signal, perhaps sent to end this: the cancellation is looked at below.
            Err(Errno(libc::EINTR)) => {}
            // mtty and hisi_acc say EFAULT to a header that they do not like.
            Err(Errno(libc::EFAULT)) => return fail(Code::Inval, libc::EFAULT, ""),
            Err(errno) => return fail(errno.code(), errno.0, ""),
        }
        if patience.cancelled.load(Ordering::Relaxed) {
            return fail(Code::Cancelled, 0, "the load was cancelled");
        }
    }
    Ok(())
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
        // hisi_acc refuses in PRE_COPY_P2P; elsewhere too the estimates are dispensable.
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

/// Sizes that a driver can only have got wrong count as "very much", never as a small number.
fn credible(bytes: u64) -> u64 {
    bytes.min(i64::MAX as u64)
}

/// Whether a dead stream means that the device was reset and can start again.
pub(crate) fn can_start_again(device: &mut Inner) -> bool {
    matches!(device.query_state(), Ok(State::Running | State::RunningP2p))
}

/// The error for a stream that died and cannot start again.
pub(crate) fn died(device: &mut Inner, errno: Errno) -> Error {
    let mut error = read_failed(device, errno);
    if error.code() == Code::NoDev {
        error = error.note("; its data stream ended behind the library's back");
    }
    error
}
