// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device of the RFC that is being loaded: it takes the chunks of each snapshot of its memory as they
//! were cut, and its configuration last.

use super::regions::Regions;
use super::registers::Action;
use super::snapshot::{LEN, Snapshot};
use crate::error::Code;
use crate::protocol::pump::pour;
use crate::protocol::units::{Kind, Part, Reader};
use crate::protocol::{Patience, WriteFailed, refused};
use crate::transport::Transport;

#[derive(Default)]
pub(super) struct Loading {
    reader: Reader,
    /// The beginning of a snapshot, as far as it has come.
    beginning: [u8; LEN],
    /// The snapshot under way, and how much of it the device has taken.
    snapshot: Option<(Snapshot, u64)>,
    /// The device has taken some memory.
    given: bool,
    /// It has taken its configuration, which is the last.
    configured: bool,
}

impl Loading {
    /// Whether the device has taken all that belongs to a state.
    pub fn is_complete(&self) -> bool {
        self.configured && self.reader.at_rest()
    }

    pub fn write(
        &mut self,
        io: &mut dyn Transport,
        regions: &mut Regions,
        buf: &[u8],
        patience: &Patience<'_>,
    ) -> Result<(), WriteFailed> {
        pour(buf, patience, |rest| match self.reader.next(rest).map_err(wrong)? {
            Some(part) => self.take(io, regions, part).map(|()| true),
            None => Ok(false),
        })
    }

    fn take(
        &mut self,
        io: &mut dyn Transport,
        regions: &mut Regions,
        part: Part<'_>,
    ) -> Result<(), WriteFailed> {
        match part {
            Part::Begin(kind, len) => self.begin(io, regions, kind, len),
            Part::Bytes(bytes, at) => self.bytes(io, regions, bytes, at),
            Part::End(Kind::Snapshot, _) => self.announce(io, regions),
            Part::End(Kind::Memory, len) => {
                let (snapshot, done) = self.snapshot.as_mut().ok_or_else(|| wrong(NO_SNAPSHOT))?;
                regions.registers().chunk(io, *done, Action::Set).map_err(refused)?;
                *done += len;
                self.given = true;
                if *done == snapshot.size {
                    self.snapshot = None;
                }
                Ok(())
            }
            Part::End(..) => {
                regions.registers().config(io, Action::Set).map_err(refused)?;
                self.configured = true;
                Ok(())
            }
        }
    }

    fn begin(
        &mut self,
        io: &mut dyn Transport,
        regions: &mut Regions,
        kind: Kind,
        len: u64,
    ) -> Result<(), WriteFailed> {
        if self.configured {
            return Err(wrong("something follows the configuration"));
        }
        match kind {
            Kind::Snapshot if len == LEN as u64 => Ok(()),
            Kind::Snapshot => Err(wrong("the beginning of a snapshot has a wrong length")),
            Kind::Memory => match &self.snapshot {
                Some((snapshot, done)) if snapshot.chunk_at(*done) == len => Ok(()),
                Some(_) => Err(wrong("a chunk of a snapshot has a wrong length")),
                None => Err(wrong(NO_SNAPSHOT)),
            },
            Kind::Config if self.snapshot.is_some() => {
                Err(wrong("a snapshot of the device's memory is not complete"))
            }
            Kind::Config if regions.memory.is_some() && !self.given => {
                Err(wrong("the device has memory, and the state has none"))
            }
            Kind::Config => {
                let room = regions.config.size();
                if len > room {
                    return Err(too_long("the configuration", len, room));
                }
                regions.registers().set_config_size(io, len).map_err(refused)
            }
            Kind::Chunk => Err(wrong("it is of v1")),
        }
    }

    fn bytes(
        &mut self,
        io: &mut dyn Transport,
        regions: &mut Regions,
        bytes: &[u8],
        at: u64,
    ) -> Result<(), WriteFailed> {
        let window = match (self.reader.kind(), &mut regions.memory) {
            (Some(Kind::Snapshot), _) => {
                let places = self.beginning.iter_mut().skip(at as usize);
                places.zip(bytes).for_each(|(to, from)| *to = *from);
                return Ok(());
            }
            (Some(Kind::Memory), Some(memory)) => memory,
            _ => &mut regions.config,
        };
        window.write(io, at, bytes).map_err(refused)
    }

    /// A snapshot begins. One that was not complete is void, and in this one again.
    fn announce(&mut self, io: &mut dyn Transport, regions: &Regions) -> Result<(), WriteFailed> {
        let snapshot = Snapshot::decode(&self.beginning).ok_or_else(|| wrong("no snapshot"))?;
        let Some(memory) = &regions.memory else {
            return Err(wrong("the state has device memory, and the device has none"));
        };
        if !snapshot.is_cut_as_by(memory.size()) {
            return Err(WriteFailed::new(
                Code::MsgSize,
                0,
                format_args!(
                    "the source's memory went through a region of {} bytes, and this device's has {}: \
                     drivers need them equal",
                    snapshot.window,
                    memory.size()
                ),
            ));
        }
        regions.registers().announce(io, snapshot.size).map_err(refused)?;
        self.snapshot = Some((snapshot, 0));
        Ok(())
    }
}

const NO_SNAPSHOT: &str = "a chunk belongs to no snapshot";

fn wrong(why: &'static str) -> WriteFailed {
    WriteFailed::new(
        Code::Proto,
        0,
        format_args!("the data is not what the RFC's protocol needs: {why}"),
    )
}

fn too_long(what: &str, len: u64, room: u64) -> WriteFailed {
    WriteFailed::new(
        Code::MsgSize,
        0,
        format_args!("{what} has {len} bytes, and the device's region room for {room}"),
    )
}
