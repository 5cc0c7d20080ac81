// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices' streams, as frames: whoever asks gets a piece of a device that nobody else is
//! reading, and whoever brings one writes it.

use super::frame::{HEADER_LEN, Header, MAX_PIECE};
use super::options::{Phase, Role};
use super::shared::Shared;
use crate::error::{Code, Error, Result, err};
use crate::session::{MIN_BUFFER, Next, SaveStatus};

/// What a thread that wants to read is to do.
enum Turn {
    /// Read this member; this many stops have been.
    Member(usize, u32),
    /// There is nothing to read.
    Nothing(SaveStatus),
}

/// What reading a member has come to.
struct Read {
    result: Result<Next>,
    failed: bool,
}

impl Shared {
    /// Returns a frame, of any device that has something to send.
    pub fn next(&self, buf: &mut [u8]) -> Result<Next> {
        self.check_role(Role::Source, "reading the streams")?;
        let _inside = self.enter_to_wait()?;
        if buf.len() < HEADER_LEN + MIN_BUFFER {
            return Err(err!(
                NoSpace,
                "the buffer has {} bytes; a frame needs {} at least",
                buf.len(),
                HEADER_LEN + MIN_BUFFER
            ));
        }
        loop {
            let (index, round) = match self.turn()? {
                Turn::Member(index, round) => (index, round),
                Turn::Nothing(status) => return Ok(Next { status, len: 0 }),
            };
            let read = self.read(index, buf);
            if let Some(next) = self.came(index, round, read)? {
                return Ok(next);
            }
        }
    }

    /// Chooses a member, and waits for others if there may be something to read later.
    fn turn(&self) -> Result<Turn> {
        let mut state = self.lock();
        loop {
            state.check()?;
            let phases = [Phase::Open, Phase::Stopped, Phase::Complete];
            state.check_phase("reading the streams", &phases)?;
            if state.phase == Phase::Complete {
                return Ok(Turn::Nothing(SaveStatus::End));
            }
            state.refused = false;
            let (count, turn, round) = (state.members.len(), state.turn, state.round);
            let order = (turn..count).chain(0..turn.min(count));
            for index in order {
                let place = state.place_mut(index)?;
                if !place.busy && place.said == SaveStatus::More {
                    place.busy = true;
                    state.turn = (index + 1) % count.max(1);
                    return Ok(Turn::Member(index, round));
                }
            }
            let idle = state.members.iter().any(|place| !place.busy);
            if state.phase == Phase::Open && idle {
                // The next call asks them again.
                for place in state.members.iter_mut().filter(|place| !place.busy) {
                    place.said = SaveStatus::More;
                }
                return Ok(Turn::Nothing(SaveStatus::Drained));
            }
            // Each has said its last, or is being read by another thread.
            state = self.wait(state);
        }
    }

    /// Reads a member into a frame.
    fn read(&self, index: usize, buf: &mut [u8]) -> Read {
        let failed = |error| Read { result: Err(error), failed: false };
        let member = match self.lock().place_mut(index) {
            Ok(place) => std::sync::Arc::clone(&place.member),
            Err(error) => return failed(error),
        };
        let mut held = match member.hold() {
            Ok(held) => held,
            Err(error) => return failed(error),
        };
        let len = buf.len().min(HEADER_LEN + MAX_PIECE);
        let room = buf.get_mut(HEADER_LEN..len).unwrap_or_default();
        let mut result = held.read(room);
        if let Ok(next) = &mut result {
            if next.len > 0 {
                // Its place is taken while nobody else reads this member.
                let device = u32::try_from(index).unwrap_or(u32::MAX);
                let len = u32::try_from(next.len).unwrap_or(u32::MAX);
                let mut state = self.lock();
                if let Ok(place) = state.place_mut(index) {
                    let header = Header { device, offset: place.offset, len, tag: self.tag };
                    place.offset = place.offset.saturating_add(u64::from(len));
                    if let Some(head) = buf.get_mut(..HEADER_LEN) {
                        head.copy_from_slice(&header.encode());
                    }
                }
                next.len += HEADER_LEN;
            }
        }
        Read { result, failed: held.has_failed() }
    }

    /// Notes what a member has said. None: nothing is to be sent, so try another one.
    fn came(&self, index: usize, round: u32, read: Read) -> Result<Option<Next>> {
        let mut state = self.lock();
        let (phase, current) = (state.phase, state.round == round);
        let place = state.place_mut(index)?;
        place.busy = false;
        let told = match read.result {
            Ok(next) => {
                if current {
                    place.said = next.status;
                }
                place.complete |= next.status == SaveStatus::End;
                Ok(next.len)
            }
            // Not before it is ready; meanwhile others have their turn.
            Err(error) if error.code() == Code::Again && phase == Phase::Open => {
                if current {
                    place.said = SaveStatus::Drained;
                }
                Ok(0)
            }
            Err(error) if read.failed => Err(state.fail(index, &error)),
            Err(error) => Err(super::options::of_device(index as u32, &error)),
        };
        if phase == Phase::Stopped && state.all_complete() {
            state.phase = Phase::Complete;
        }
        let over = state.phase == Phase::Complete;
        drop(state);
        self.wake();
        let status = if over { SaveStatus::End } else { SaveStatus::More };
        Ok(Some(told?).filter(|len| *len > 0 || over).map(|len| Next { status, len }))
    }

    /// Takes a frame, and writes what is in it.
    pub fn put(&self, frame: &[u8]) -> Result<()> {
        self.check_role(Role::Target, "loading a frame")?;
        let _inside = self.enter_to_wait()?;
        let (header, piece) = Header::split(frame)?;
        let state = self.lock();
        state.check()?;
        state.check_phase("loading a frame", &[Phase::Open, Phase::Complete])?;
        if self.options.migration_id != [0; 16] && header.tag != self.tag {
            return Err(err!(OtherDevice, "the frame belongs to another migration"));
        }
        let known = state.place(header.device);
        let member = std::sync::Arc::clone(
            &known.map_err(|_| err!(Proto, "a frame of device {}", header.device))?.member,
        );
        drop(state);
        let index = header.device as usize;
        let mut held = member.hold()?;
        let offset = self.lock().place_mut(index)?.offset;
        if header.offset != offset {
            return Err(err!(
                Proto,
                "a frame of device {index} belongs at byte {} of its stream, and {offset} is next",
                header.offset
            ));
        }
        let written = held.write(piece);
        let failed = held.has_failed();
        let mut state = self.lock();
        match written {
            Ok(status) => {
                let place = state.place_mut(index)?;
                place.offset += piece.len() as u64;
                place.complete |= status.ended;
                if state.phase == Phase::Open && state.all_complete() {
                    state.phase = Phase::Complete;
                }
                Ok(())
            }
            Err(error) if failed => Err(self.report(&mut state, index, &error)),
            Err(error) => Err(super::options::of_device(header.device, &error)),
        }
    }

    fn report(&self, state: &mut super::shared::State, index: usize, error: &Error) -> Error {
        let told = state.fail(index, error);
        self.wake();
        told
    }
}
