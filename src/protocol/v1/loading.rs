// SPDX-License-Identifier: MIT OR Apache-2.0
//! A v1 device that is being loaded: each chunk goes where the device wants it, and is taken when its
//! length is written.

use super::registers::{END, Registers};
use crate::error::Code;
use crate::fsm::State;
use crate::protocol::units::{Kind, Part, Reader};
use crate::protocol::window::Window;
use crate::protocol::{Patience, WriteFailed, ended, refused};
use crate::sync::atomic::Ordering;
use crate::sys::Errno;
use crate::transport::Transport;

#[derive(Default)]
pub(super) struct Loading {
    reader: Reader,
    /// Where the chunk under way goes.
    at: u64,
}

impl Loading {
    /// Whether no chunk is under way.
    pub fn at_rest(&self) -> bool {
        self.reader.at_rest()
    }

    pub fn write(
        &mut self,
        io: &mut dyn Transport,
        window: &mut Window,
        buf: &[u8],
        patience: &Patience<'_>,
    ) -> Result<(), WriteFailed> {
        let mut rest = buf;
        loop {
            let before = rest.len();
            let part = self.reader.next(&mut rest).map_err(not_v1)?;
            let taken = before.saturating_sub(rest.len());
            let Some(part) = part else {
                patience.taken.fetch_add(taken as u64, Ordering::Relaxed);
                return Ok(());
            };
            self.take(io, window, part)?;
            patience.taken.fetch_add(taken as u64, Ordering::Relaxed);
            if patience.cancel.is_cancelled() {
                let text = format_args!("the load was cancelled");
                return Err(WriteFailed::new(Code::Cancelled, 0, text));
            }
        }
    }

    fn take(
        &mut self,
        io: &mut dyn Transport,
        window: &mut Window,
        part: Part<'_>,
    ) -> Result<(), WriteFailed> {
        match part {
            Part::Begin(Kind::Chunk, len) => {
                // There is nothing else that shows a reset.
                if Registers(window).state(io).map_err(failed)? != State::Resuming {
                    return Err(ended(Errno(libc::ENODEV)));
                }
                let at = Registers(window).data_offset(io).map_err(failed)?;
                if at < END || at >= window.size() {
                    return Err(WriteFailed::new(
                        Code::Io,
                        0,
                        format_args!("the driver wants a chunk at {at} of its region"),
                    ));
                }
                if !window.has(at, len) {
                    let room = window.size().saturating_sub(at);
                    return Err(WriteFailed::new(
                        Code::MsgSize,
                        0,
                        format_args!(
                            "a chunk has {len} bytes, and the device's region room for {room}: it \
                             was saved from a device with a larger region"
                        ),
                    ));
                }
                self.at = at;
                Ok(())
            }
            Part::Begin(..) => Err(not_v1("it has units of another protocol")),
            Part::Bytes(bytes, at) => {
                window.write(io, self.at.saturating_add(at), bytes).map_err(failed)
            }
            Part::End(_, len) => Registers(window).set_data_size(io, len).map_err(failed),
        }
    }
}

fn not_v1(why: &'static str) -> WriteFailed {
    WriteFailed::new(Code::Proto, 0, format_args!("the data is not of v1: {why}"))
}

/// The error for a driver that refuses an access.
fn failed(errno: Errno) -> WriteFailed {
    let code = match errno.0 {
        libc::EFAULT => Code::Inval,
        _ => errno.code(),
    };
    refused(code, errno)
}
