// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device of a checkpoint that is being written, and where its stream is.

use std::os::fd::BorrowedFd;

use super::spool::{Spool, Spooled};
use super::store::Store;
use crate::alloc;
use crate::device::Device;
use crate::error::{Code, Result, err};
use crate::fsm::State;
use crate::identity::Identity;
use crate::session::{Ending, Save, SaveOptions, SavePhase, SaveStatus};
use crate::stream::END_LEN;
use crate::stream::checkpoint::{Entry, MAX_PIECES, Piece, StreamEnd};

const NO_MEMORY: &str = "no memory for another piece of the checkpoint";

/// What a stream begins with, up to the end of its name, in bytes; and where that begins.
const BEGINNING: usize = 36;
const MIGRATION_ID: usize = 20;

/// A part of a stream.
enum Part {
    InFile(Piece),
    InMemory(Spooled),
}

/// What a reading brought.
pub(super) enum Came {
    Bytes(SaveStatus, usize),
    /// The next frame needs more room.
    TooSmall,
}

/// One device.
pub(super) struct Member {
    pub name: String,
    pub device: Device,
    pub save: Save,
    /// Where the device was before.
    origin: State,
    index: u32,
    /// The stream's name, if the caller has chosen it.
    id: Option<[u8; 16]>,
    identity: Box<Identity>,
    parts: Vec<Part>,
    first: [u8; BEGINNING],
    last: [u8; END_LEN],
    len: u64,
    pub ended: bool,
}

impl Member {
    pub fn new(name: String, device: Device, mut options: SaveOptions) -> Result<Member> {
        let (origin, index) = (device.state()?, options.device_index);
        let id = chosen_id(&options);
        options.nonblocking = false;
        let save = device.save(options)?;
        Ok(Member {
            name,
            identity: Box::new(device.identity()?),
            device,
            save,
            origin,
            index,
            id,
            parts: Vec::new(),
            first: [0; BEGINNING],
            last: [0; END_LEN],
            len: 0,
            ended: false,
        })
    }

    /// Whether a stream with these options would have the name and the index of this one.
    pub fn is_taken(&self, options: &SaveOptions) -> bool {
        self.id.is_some() && (self.id, self.index) == (chosen_id(options), options.device_index)
    }

    /// Whether its stream may begin another piece.
    pub fn may_go_on(&self) -> bool {
        // The stopped device takes a few more.
        self.parts.len() + 8 < MAX_PIECES
    }

    /// Reads the next piece of the stream into a buffer and writes it to the file.
    pub fn read_to_file(
        &mut self,
        buf: &mut [u8],
        store: &mut Store,
        file: BorrowedFd<'_>,
    ) -> Result<Came> {
        let Some((status, len)) = self.next(buf)? else { return Ok(Came::TooSmall) };
        let bytes = buf.get(..len).unwrap_or_default();
        if !bytes.is_empty() {
            let last = match self.parts.last_mut() {
                Some(Part::InFile(piece)) => Some(piece),
                _ => None,
            };
            if let Some(piece) = store.append(file, last, bytes)? {
                alloc::push(&mut self.parts, Part::InFile(piece), NO_MEMORY)?;
            }
        }
        Ok(Came::Bytes(status, len))
    }

    /// Reads the next piece of the stream into memory, if there is room.
    pub fn read_to_memory(&mut self, spool: &mut Spool, least: usize) -> Result<Option<Came>> {
        let Some(room) = spool.room(least) else { return Ok(None) };
        let Some((status, len)) = self.next(room)? else { return Ok(Some(Came::TooSmall)) };
        if let Some(new) = spool.filled(len).filter(|new| new.len > 0) {
            let joined = match self.parts.last_mut() {
                Some(Part::InMemory(last)) => last.join(new),
                _ => false,
            };
            if !joined {
                alloc::push(&mut self.parts, Part::InMemory(new), NO_MEMORY)?;
            }
        }
        Ok(Some(Came::Bytes(status, len)))
    }

    /// The next piece of the stream; nothing if the buffer is too small for it.
    fn next(&mut self, buf: &mut [u8]) -> Result<Option<(SaveStatus, usize)>> {
        let next = match self.save.next(buf) {
            Err(error) if error.code() == Code::NoSpace => return Ok(None),
            other => other?,
        };
        self.note(buf.get(..next.len).unwrap_or_default());
        self.ended = next.status == SaveStatus::End;
        Ok(Some((next.status, next.len)))
    }

    /// Remembers how the stream begins and ends.
    fn note(&mut self, bytes: &[u8]) {
        let at = usize::try_from(self.len).unwrap_or(usize::MAX);
        let open = self.first.get_mut(at..).unwrap_or_default();
        for (to, byte) in open.iter_mut().zip(bytes) {
            *to = *byte;
        }
        let (kept, new) = (END_LEN.saturating_sub(bytes.len()), bytes.len().min(END_LEN));
        self.last.rotate_right(kept);
        let from = bytes.len() - new;
        for (to, byte) in self.last.iter_mut().skip(kept).zip(bytes.iter().skip(from)) {
            *to = *byte;
        }
        self.len += bytes.len() as u64;
    }

    /// Writes what is in memory to the file.
    pub fn unspool(
        &mut self,
        spool: &Spool,
        store: &mut Store,
        file: BorrowedFd<'_>,
    ) -> Result<()> {
        let mut written = Vec::new();
        alloc::reserve(&mut written, self.parts.len(), NO_MEMORY)?;
        for part in self.parts.drain(..) {
            let place = match part {
                Part::InFile(piece) => {
                    written.push(Part::InFile(piece));
                    continue;
                }
                Part::InMemory(place) => place,
            };
            let last = match written.last_mut() {
                Some(Part::InFile(piece)) => Some(piece),
                _ => None,
            };
            let new = store.append(file, last, spool.get(place))?;
            written.extend(new.map(Part::InFile));
        }
        self.parts = written;
        Ok(())
    }

    /// Its record in the manifest.
    pub fn entry(&self) -> Result<Entry> {
        let mut pieces = Vec::new();
        for part in &self.parts {
            match part {
                Part::InFile(piece) => alloc::push(&mut pieces, *piece, NO_MEMORY)?,
                Part::InMemory(_) => return Err(err!(Io, "a stream was not written to the file")),
            }
        }
        let mut migration_id = [0; 16];
        for (to, byte) in migration_id.iter_mut().zip(self.first.iter().skip(MIGRATION_ID)) {
            *to = *byte;
        }
        Ok(Entry {
            name: alloc::text(&self.name, NO_MEMORY)?,
            device: self.index,
            migration_id,
            pieces,
            end: StreamEnd::from_payload(&self.last)?,
            identity: self.identity.clone(),
        })
    }

    /// Whether the device was given back.
    pub fn is_finished(&self) -> bool {
        self.save.phase() == SavePhase::Finished
    }

    /// Gives the device back.
    pub fn finish(&mut self, ending: Ending) -> Result<()> {
        self.save.finish(ending)
    }

    /// From where it waits for the others to where it was.
    pub fn run_again(&self) -> Result<()> {
        match (self.origin, self.device.state()?) {
            (State::Running, State::RunningP2p) => self.device.run(),
            _ => Ok(()),
        }
    }
}

fn chosen_id(options: &SaveOptions) -> Option<[u8; 16]> {
    Some(options.migration_id).filter(|id| *id != [0; 16])
}
