// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices' streams, as frames: whoever asks gets a piece of a device that nobody else is
//! reading, and whoever brings one writes it.

use std::time::Instant;

use super::frame::{HEADER_LEN, Header, Kind, MAX_PIECE};
use super::measuring::Moment;
use super::options::{Phase, Role, of_device};
use super::shared::{Flow, Place, Shared, State};
use crate::error::{Code, Result, err};
use crate::private::Private;
use crate::session::{MIN_BUFFER, Next, SaveStatus};

/// What a thread that wants to read is to do.
enum Turn {
    /// Read this member; this many stops have been.
    Member(usize, u32),
    /// There is nothing to read.
    Nothing(SaveStatus),
}

/// What reading a member has come to.
pub(super) struct Read {
    pub result: Result<Next>,
    failed: bool,
}

impl Shared {
    /// Returns a frame, of any device that has something to send.
    pub fn next(&self, buf: &mut [u8]) -> Result<Next> {
        let _inside = self.enter_to_wait()?;
        if self.options.role == Role::Target && self.options.window != 0 {
            return self.credit(buf);
        }
        self.check_role(Role::Source, "reading the streams")?;
        self.lock().check_by_hand()?;
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
            let (asks_again, now) = (state.asks_again(), Instant::now());
            let (count, turn, round) = (state.members.len(), state.turn, state.round);
            let order = (turn..count).chain(0..turn.min(count));
            let mut waits = false;
            for index in order {
                let place = state.place_mut(index)?;
                let has_more = match place.said {
                    SaveStatus::More => !place.busy,
                    SaveStatus::Drained => asks_again && place.can_be_asked(now),
                    SaveStatus::End => false,
                };
                if has_more {
                    if place.room().is_none() {
                        waits = true;
                        continue;
                    }
                    place.busy = true;
                    state.turn = (index + 1) % count.max(1);
                    return Ok(Turn::Member(index, round));
                }
            }
            if waits {
                return Err(err!(Again, "the target has no room for more: wait for what it says"));
            }
            let idle = state.members.iter().any(|place| !place.busy);
            if state.phase == Phase::Open && idle {
                // The next call asks them again.
                let asked = |place: &&mut Place| !place.busy && !place.complete;
                for place in state.members.iter_mut().filter(asked) {
                    place.said = SaveStatus::More;
                }
                return Ok(Turn::Nothing(SaveStatus::Drained));
            }
            // Each has said its last, or is being read by another thread.
            state = self.wait(state);
        }
    }

    /// Reads a member into a frame.
    pub fn read(&self, index: usize, buf: &mut [u8]) -> Read {
        let failed = |error| Read { result: Err(error), failed: false };
        let (member, room) = match self.lock().place_mut(index) {
            Ok(place) => (std::sync::Arc::clone(&place.member), place.room().unwrap_or(0)),
            Err(error) => return failed(error),
        };
        let mut held = match member.hold() {
            Ok(held) => held,
            Err(error) => return failed(error),
        };
        let whole = buf.len().saturating_sub(HEADER_LEN).min(MAX_PIECE);
        let len = whole.min(room);
        let began = Moment::now();
        let result = match buf.get_mut(HEADER_LEN..HEADER_LEN + len) {
            Some(piece) => held.read(piece),
            None => Err(err!(NoSpace, "the buffer is too small for a frame")),
        };
        self.measuring.read(index, result.as_ref().map_or(0, |next| next.len), began);
        let failed = held.has_failed();
        let result = match result {
            Ok(next) => Ok(self.frame(index, next, buf)),
            // It has more to say at once than there is room for at the target now.
            Err(error) if error.code() == Code::NoSpace && len < whole => {
                self.wait_for_room(index, len);
                Ok(Next { status: SaveStatus::More, len: 0 })
            }
            Err(error) => Err(error),
        };
        Read { result, failed }
    }

    /// Puts a header before what was read, whose place is taken while nobody else reads this member.
    fn frame(&self, index: usize, next: Next, buf: &mut [u8]) -> Next {
        if next.len == 0 {
            return next;
        }
        let device = u32::try_from(index).unwrap_or(u32::MAX);
        let len = u32::try_from(next.len).unwrap_or(u32::MAX);
        let mut state = self.lock();
        if let Ok(place) = state.place_mut(index) {
            let (kind, offset) = (Kind::Data, place.offset);
            let header = Header { kind, device, offset, len, tag: self.tag };
            place.offset = place.offset.saturating_add(u64::from(len));
            if let Flow::Source(credit, least) = &mut place.flow {
                credit.sent(next.len);
                *least = MIN_BUFFER;
            }
            if let Some(head) = buf.get_mut(..HEADER_LEN) {
                head.copy_from_slice(&header.encode());
            }
        }
        Next { len: next.len + HEADER_LEN, ..next }
    }

    fn wait_for_room(&self, index: usize, had: usize) {
        if let Ok(place) = self.lock().place_mut(index) {
            if let Flow::Source(_, least) = &mut place.flow {
                *least = had + 1;
            }
        }
    }

    /// Notes what a member has said. None: nothing is to be sent, so try another one.
    pub fn came(&self, index: usize, round: u32, read: Read) -> Result<Option<Next>> {
        let mut state = self.lock();
        let (phase, current) = (state.phase, state.round == round);
        let place = state.place_mut(index)?;
        place.busy = false;
        let told = match read.result {
            Ok(next) => {
                // One that was asked before the stop, and reads after it, may come to the end as well.
                if current || next.status == SaveStatus::End {
                    place.say(next.status);
                }
                place.complete |= next.status == SaveStatus::End;
                if next.status == SaveStatus::End {
                    self.measuring.ended(index);
                }
                Ok(next.len)
            }
            // Not before it is ready; meanwhile others have their turn.
            Err(error) if error.code() == Code::Again && phase == Phase::Open => {
                if current {
                    place.say(SaveStatus::Drained);
                }
                Ok(0)
            }
            Err(error) if read.failed => Err(state.fail(index, &error)),
            Err(error) => Err(of_device(index as u32, &error)),
        };
        let by_hand = state.lines.slots.is_empty();
        if by_hand {
            self.settle_now(&mut state);
        }
        let over = state.phase == Phase::Complete;
        drop(state);
        // With channels, whoever has read goes on looking.
        if by_hand || told.is_err() {
            self.wake();
        }
        let status = if over { SaveStatus::End } else { SaveStatus::More };
        Ok(Some(told?).filter(|len| *len > 0 || over).map(|len| Next { status, len }))
    }

    /// Takes a frame.
    pub fn put(&self, frame: &[u8]) -> Result<()> {
        let _inside = self.enter_to_wait()?;
        let (header, piece) = Header::split(frame)?;
        {
            let state = self.lock();
            state.check_by_hand()?;
            self.admit(&state, &header)?;
        }
        match (self.options.role, self.options.window) {
            (Role::Source, _) => self.take_credit(&header),
            (Role::Target, 0) => self.write_at_once(&header, piece),
            (Role::Target, _) => self.keep(&header, piece),
        }
    }

    /// Fails unless a frame with this header is to be taken now.
    pub fn admit(&self, state: &State, header: &Header) -> Result<()> {
        let wanted = match self.options.role {
            Role::Source => Kind::Credit,
            Role::Target => Kind::Data,
        };
        if header.kind != wanted {
            return Err(err!(Proto, "a frame of a kind that the other side sends"));
        }
        state.check()?;
        state.check_phase("taking a frame", &[Phase::Open, Phase::Stopped, Phase::Complete])?;
        if self.options.migration_id != [0; 16] && header.tag != self.tag {
            return Err(err!(OtherDevice, "the frame belongs to another migration"));
        }
        let unknown = |_| err!(Proto, "a frame of device {}", header.device);
        state.place(header.device).map(drop).map_err(unknown)
    }

    /// The target has said how much it has room for.
    pub fn take_credit(&self, header: &Header) -> Result<()> {
        let mut state = self.lock();
        match &mut state.place_mut(header.device as usize)?.flow {
            Flow::Source(credit, _) => credit.raise(header.offset),
            _ => return Err(err!(Proto, "a credit, and this group has no window")),
        }
        let by_hand = state.lines.slots.is_empty();
        drop(state);
        // With channels, whoever has brought it goes on looking.
        if by_hand {
            self.wake();
        }
        Ok(())
    }

    /// Keeps a piece until it can be written.
    fn keep(&self, header: &Header, piece: &[u8]) -> Result<()> {
        // Without the lock, so that other channels can go on.
        let copy = Private::copy(piece, "no memory for a frame")?;
        let mut state = self.lock();
        state.check()?;
        let place = state.place_mut(header.device as usize)?;
        let Flow::Target(window) = &mut place.flow else { return Ok(()) };
        let kept = window.put(header.offset, piece.len(), || Ok(copy));
        kept.map_err(|error| of_device(header.device, &error))?;
        drop(state);
        self.wake();
        Ok(())
    }

    /// Returns a frame that says how much there is room for.
    fn credit(&self, buf: &mut [u8]) -> Result<Next> {
        let Some(buf) = buf.get_mut(..HEADER_LEN) else {
            return Err(err!(NoSpace, "a credit has {HEADER_LEN} bytes"));
        };
        let mut state = self.lock();
        state.check()?;
        state.check_phase("asking for credits", &[Phase::Open, Phase::Complete])?;
        for (device, place) in (0..).zip(&mut state.members) {
            let Flow::Target(window) = &mut place.flow else { continue };
            if window.is_due() && !place.complete {
                let (kind, offset) = (Kind::Credit, window.tell());
                let header = Header { kind, device, offset, len: 0, tag: self.tag };
                buf.copy_from_slice(&header.encode());
                return Ok(Next { status: SaveStatus::More, len: HEADER_LEN });
            }
        }
        let over = state.phase == Phase::Complete;
        let status = if over { SaveStatus::End } else { SaveStatus::Drained };
        Ok(Next { status, len: 0 })
    }

    /// Writes a piece on this thread.
    fn write_at_once(&self, header: &Header, piece: &[u8]) -> Result<()> {
        let index = header.device as usize;
        let member = self.member(header.device)?;
        let mut held = member.hold()?;
        let offset = self.lock().place_mut(index)?.offset;
        if header.offset != offset {
            return Err(err!(
                Proto,
                "a frame of device {index} belongs at byte {} of its stream, and {offset} is next",
                header.offset
            ));
        }
        let began = Moment::now();
        let written = held.write(piece);
        self.measuring.written(index, piece.len(), began);
        let failed = held.has_failed();
        let mut state = self.lock();
        match written {
            Ok(status) => {
                state.wrote(index, piece.len(), status.ended);
                Ok(())
            }
            Err(error) if failed => {
                let told = state.fail(index, &error);
                drop(state);
                self.wake();
                Err(told)
            }
            Err(error) => Err(of_device(header.device, &error)),
        }
    }
}
