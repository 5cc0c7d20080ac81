// SPDX-License-Identifier: MIT OR Apache-2.0
//! A v1 device that is being loaded: each chunk goes where the device wants it, and is taken when its
//! length is written.

use super::registers::{END, Registers};
use crate::error::Code;
use crate::fsm::State;
use crate::protocol::pump::pour;
use crate::protocol::units::{Kind, Part, Reader};
use crate::protocol::window::Window;
use crate::protocol::{Patience, WriteFailed, ended, refused};
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
        pour(buf, patience, |rest| match self.reader.next(rest).map_err(not_v1)? {
            Some(part) => self.take(io, window, part).map(|()| true),
            None => Ok(false),
        })
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
                if Registers(window).state(io).map_err(refused)? != State::Resuming {
                    return Err(ended(Errno(libc::ENODEV)));
                }
                let at = Registers(window).data_offset(io).map_err(refused)?;
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
                window.write(io, self.at.saturating_add(at), bytes).map_err(refused)
            }
            Part::End(_, len) => Registers(window).set_data_size(io, len).map_err(refused),
        }
    }
}

fn not_v1(why: &'static str) -> WriteFailed {
    WriteFailed::new(Code::Proto, 0, format_args!("the data is not of v1: {why}"))
}
