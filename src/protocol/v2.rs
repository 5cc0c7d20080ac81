// SPDX-License-Identifier: MIT OR Apache-2.0
//! Migration protocol v2, of Linux 5.18 and newer: states are set with a feature, and data flows
//! through a data fd.
//!
//! Drivers differ in what they return (docs/kernel-interface.md), and this is the only place that
//! knows.

use std::time::Duration;

use super::{
    Changed, Estimates, GOOD_PART, Got, LOOK_UP, NoMore, Patience, Protocol, WriteFailed, ended,
    refused,
};
use crate::cancel::Cancel;
use crate::error::Code;
use crate::fsm::{MigrationFlags, State};
use crate::identity;
use crate::sys::{Errno, Stuck, device, uapi};
use crate::transport::{DataFd, Direction, FeatureRequest, Transport};

/// From here on, a 64-bit size from a driver is not credible: xe stores a negative errno there.
const CREDIBLE_SIZE: u64 = 1 << 62;

/// Protocol v2 of one device.
#[derive(Default)]
pub(crate) struct V2 {
    /// The open data stream.
    data: Option<DataFd>,
    /// Whether the last read of a stopped device returned 0.
    end_seen: bool,
    /// Whether the flags of estimates mean something.
    info_v2: bool,
    /// Asking for estimates of this stream was interrupted without end, which cost a while; it is
    /// not asked again.
    mute: bool,
}

impl Protocol for V2 {
    fn generation(&self) -> u32 {
        identity::protocol::V2
    }

    fn probe(&mut self, io: &mut dyn Transport) -> Result<MigrationFlags, Errno> {
        get_u64(io, uapi::FEATURE_MIGRATION).map(MigrationFlags::from_bits_retain)
    }

    fn watch_initial(&mut self, io: &mut dyn Transport) -> bool {
        let opt_in = FeatureRequest::set(uapi::FEATURE_MIG_PRECOPY_INFO_V2);
        self.info_v2 = io.feature(opt_in, &mut []).is_ok();
        self.info_v2
    }

    fn state(&mut self, io: &mut dyn Transport) -> Result<State, Errno> {
        let mut payload = [0; 8];
        io.feature(FeatureRequest::get(uapi::FEATURE_MIG_DEVICE_STATE), &mut payload)?;
        let (state, _data_fd) = device::split_state(payload);
        Ok(State::from_raw(state))
    }

    fn set_state(&mut self, io: &mut dyn Transport, to: State, opens_data: bool) -> Changed {
        let data = match io.set_state(to.raw()) {
            Err(errno) => return Changed::Refused(errno),
            // A device behind callbacks may name its stream again: it is the same one, not another.
            Ok(data) => data.filter(|data| self.data != Some(*data)),
        };
        // The old stream ends when a new one is opened, and in states without a stream.
        if opens_data || !to.has_data_stream() {
            self.close(io);
        }
        match (opens_data, data) {
            (true, Some(data)) => {
                self.data = Some(data);
                (self.end_seen, self.mute) = (false, false);
                Changed::Done
            }
            (true, None) => Changed::Broken("the driver returned no data fd"),
            // Unexpected, but harmless if no stream goes on.
            (false, Some(data)) if !to.has_data_stream() => {
                log::warn!(target: "vfiomig::device", "a data fd came with {to}; closed");
                io.data_close(data);
                Changed::Done
            }
            // The stream should have gone on, but the kernel opened a new one. So the device had
            // left its session, and only a reset does that unasked.
            (false, Some(data)) => {
                log::warn!(target: "vfiomig::device", "a data fd came where one was open; closed");
                io.data_close(data);
                Changed::Reset
            }
            (false, None) => Changed::Done,
        }
    }

    fn size(&mut self, io: &mut dyn Transport) -> Result<Option<u64>, Errno> {
        let size = get_u64(io, uapi::FEATURE_MIG_DATA_SIZE)?;
        Ok(Some(size).filter(|size| *size < CREDIBLE_SIZE))
    }

    fn pending(&mut self, io: &mut dyn Transport) -> Result<Option<Estimates>, Errno> {
        let data = self.data.ok_or(Errno(libc::ENODEV))?;
        if self.mute {
            return Ok(None);
        }
        match io.data_precopy_info(data) {
            Ok(info) => Ok(Some(Estimates {
                initial_bytes: credible(info.initial_bytes),
                dirty_bytes: credible(info.dirty_bytes),
                // Version 1 echoes whatever was passed in; only version 2 means something.
                began_again: self.info_v2 && info.reinit,
            })),
            // hisi_acc refuses in PRE_COPY_P2P. The library can do without the estimates anyway.
            Err(Errno(libc::EINVAL | libc::ENOTTY | libc::EOPNOTSUPP)) => Ok(None),
            // The transport has tried for as long as signals can last.
            Err(Errno(libc::EINTR)) => {
                self.mute = true;
                Ok(None)
            }
            Err(errno) => Err(errno),
        }
    }

    fn has_data(&self) -> bool {
        self.data.is_some()
    }

    fn close(&mut self, io: &mut dyn Transport) {
        if let Some(data) = self.data.take() {
            io.data_close(data);
        }
    }

    fn read(
        &mut self,
        io: &mut dyn Transport,
        buf: &mut [u8],
        stopped: bool,
        cancel: &Cancel,
    ) -> Got {
        let Some(data) = self.data else {
            return Got { len: 0, no_more: Some(NoMore::Dead(Errno(libc::ENODEV))) };
        };
        let mut len = 0;
        let no_more = loop {
            let rest = buf.get_mut(len..).unwrap_or_default();
            let room = rest.len();
            match io.data_read(data, rest) {
                Ok(0) if !stopped => break Some(NoMore::Drained),
                // mlx5 can return 0 once while its save is being set up, so the end must come twice.
                Ok(0) if !self.end_seen => {
                    self.end_seen = true;
                    continue;
                }
                Ok(0) => break Some(NoMore::End),
                Ok(n) if n <= room => {
                    len += n;
                    self.end_seen = false;
                }
                Ok(_) => break Some(NoMore::Failed(Errno(libc::EIO))),
                Err(Errno(libc::ENOMSG)) if !stopped => break Some(NoMore::Drained),
                Err(Errno(libc::EAGAIN)) => break Some(NoMore::WouldBlock),
                Err(Errno(libc::EINTR)) => break Some(NoMore::Interrupted),
                Err(errno @ Errno(libc::ENODEV)) => break Some(NoMore::Dead(errno)),
                Err(errno) => break Some(NoMore::Failed(errno)),
            }
            if len == buf.len() || len >= GOOD_PART || cancel.is_cancelled() {
                break None;
            }
        };
        Got { len, no_more }
    }

    fn write(
        &mut self,
        io: &mut dyn Transport,
        buf: &[u8],
        patience: &Patience<'_>,
    ) -> Result<(), WriteFailed> {
        let Some(data) = self.data else {
            return Err(ended(Errno(libc::ENODEV)));
        };
        let mut taken = 0usize;
        let mut stuck = Stuck::default();
        while let Some(rest) = buf.get(taken..).filter(|rest| !rest.is_empty()) {
            match io.data_write(data, rest) {
                Ok(0) => {
                    let text = format_args!("the driver took no data and gave no error");
                    return Err(WriteFailed::new(Code::Io, 0, text));
                }
                Ok(n) if n <= rest.len() => {
                    taken += n;
                    patience.took(n);
                    stuck.moved();
                }
                Ok(_) => {
                    let text = format_args!("the driver claims to have taken more than it got");
                    return Err(WriteFailed::new(Code::Io, 0, text));
                }
                // EINTR is a signal, perhaps sent to end this; the cancellation is checked below.
                Err(errno @ Errno(libc::EAGAIN | libc::EINTR)) => {
                    self.wait_for_room(io, errno, &mut stuck, patience.timeout)?;
                }
                Err(errno @ Errno(libc::ENODEV)) => return Err(ended(errno)),
                Err(errno) => return Err(refused(errno)),
            }
            patience.check()?;
        }
        Ok(())
    }

    fn wait(&mut self, io: &mut dyn Transport, direction: Direction, timeout: Duration) {
        if let Some(data) = self.data {
            io.data_wait(data, direction, timeout);
        }
    }

    fn poll_fd(&self, io: &dyn Transport) -> Option<i32> {
        self.data.and_then(|data| io.data_poll_fd(data))
    }

    fn set_nonblocking(&mut self, io: &mut dyn Transport) -> Result<(), Errno> {
        self.data.map_or(Ok(()), |data| io.data_set_nonblocking(data))
    }
}

impl V2 {
    /// After a write that was not taken: waits until it is worth trying again. Fails if that has gone
    /// on for too long.
    fn wait_for_room(
        &mut self,
        io: &mut dyn Transport,
        errno: Errno,
        stuck: &mut Stuck,
        patience: Duration,
    ) -> Result<(), WriteFailed> {
        let interrupted = errno.0 == libc::EINTR;
        let in_time = match interrupted {
            true => stuck.interrupted(patience),
            false => stuck.waits(patience),
        };
        if !in_time {
            let ms = patience.as_millis();
            return Err(WriteFailed::new(
                Code::TimedOut,
                errno.0,
                format_args!("the driver took nothing for {ms} ms: {errno}"),
            ));
        }
        if !interrupted {
            self.wait(io, Direction::Write, LOOK_UP.min(patience));
        }
        Ok(())
    }
}

fn get_u64(io: &mut dyn Transport, feature: u32) -> Result<u64, Errno> {
    let mut payload = [0; 8];
    io.feature(FeatureRequest::get(feature), &mut payload)?;
    Ok(u64::from_ne_bytes(payload))
}

/// A size that can only be a driver's mistake counts as very large, never as a small number.
fn credible(bytes: u64) -> u64 {
    bytes.min(i64::MAX as u64)
}
