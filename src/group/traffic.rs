// SPDX-License-Identifier: MIT OR Apache-2.0
//! A group's channels, between devices and connections: frames that were read go out over any channel
//! that takes them, what comes is kept until its device is written, and every channel carries every
//! credit, so that a slow one holds up none.
//!
//! Nothing here waits for a connection or for a device, but for what a device does while it is read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::channel::{Came, Filled, Moved, Slot, Wire};
use super::frame::{HEADER_LEN, Header, Kind, MAX_PIECE};
use super::options::{Role, of_channel};
use super::shared::{Flow, Place, Shared, State};
use crate::alloc;
use crate::error::{Code, Result, err};
use crate::private::Private;
use crate::session::SaveStatus;
use crate::sys::Watch;

/// What a device is read into, at first.
const FRAME: usize = HEADER_LEN + (128 << 10);
/// What a frame takes to be sent, about: a device that is slower is read on, while others send.
const SLOW: Duration = Duration::from_micros(100);
/// How soon a stopped device that could not be read without blocking is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(1);

/// A channel that a thread serves. If it is not reported, it has failed.
struct Serving<'a> {
    shared: &'a Shared,
    index: usize,
    wire: Option<Box<Wire>>,
    received: Moved,
    sent: Moved,
    /// What the slot said when it was taken.
    told: u32,
    was_sending: bool,
    frames: (u64, u64),
    closed: bool,
    result: Result<()>,
}

impl State {
    /// A channel that has something to do, and that no thread serves.
    pub fn servable(&self) -> Option<usize> {
        if !self.is_open() {
            return None;
        }
        let (count, turn) = (self.lines.slots.len(), self.lines.turn);
        let mut order = (turn..count).chain(0..turn.min(count));
        order.find(|index| self.lines.slots.get(*index).is_some_and(|slot| self.has_use_of(slot)))
    }

    fn has_use_of(&self, slot: &Slot) -> bool {
        let to_send =
            slot.sending || !self.lines.outgoing.is_empty() || slot.news != self.lines.news;
        let receives = slot.readable && !slot.stats.closed;
        slot.wire.is_some() && (receives || slot.writable && !slot.mute && to_send)
    }

    /// A device that can be read into a frame for the channels, and how many stops have been.
    pub fn readable(&self, now: Instant) -> Option<usize> {
        if self.lines.slots.is_empty() || self.lines.is_full() || !self.is_open() {
            return None;
        }
        let (count, turn) = (self.members.len(), self.turn);
        let mut order = (turn..count).chain(0..turn.min(count));
        let ready =
            |place: &Place| place.is_source() && place.can_be_asked(now) && place.room().is_some();
        order.find(|index| self.members.get(*index).is_some_and(ready))
    }

    /// When a device is to be asked again, or a channel is to be looked at, for one who has looked for
    /// something to do at that time.
    pub fn next_look(&self, now: Instant) -> Duration {
        let places = self.members.iter().filter(|place| !place.busy && place.is_source());
        // One that is due already waits for something else.
        let again = places.filter_map(|place| place.again).filter(|at| *at > now).min();
        let left = again.map(|at| at.saturating_duration_since(now));
        // What a lost wakeup would cost at most.
        left.unwrap_or(Duration::from_secs(1)).min(Duration::from_secs(1))
    }

    /// The bell of whoever waits for channels, if this device is to be asked again before that ends.
    fn bell_for(&mut self, index: usize) -> Option<Arc<Watch>> {
        let again = self.members.get(index)?.again?;
        let look = self.lines.look_at?;
        if again < look { self.lines.bell() } else { None }
    }

    /// All devices are asked once more what they have.
    pub fn begin_pass(&mut self) {
        (self.lines.passed, self.refused) = (false, false);
        for place in &mut self.members {
            place.drained = false;
            // What a read that is under way brings is no answer to this.
            place.stale = place.busy;
            if place.said == SaveStatus::Drained {
                place.said = SaveStatus::More;
                place.again = None;
            }
        }
    }

    /// A credit that this channel has not carried yet.
    fn credit_for(&mut self, index: usize, tag: u32) -> Option<[u8; HEADER_LEN]> {
        let news = self.lines.news;
        let slot = self.lines.slots.get_mut(index)?;
        for (device, (place, said)) in (0..).zip(self.members.iter().zip(&mut slot.credits)) {
            let Flow::Target(window) = &place.flow else { continue };
            if window.told() > *said && !place.complete {
                *said = window.told();
                let (kind, offset) = (Kind::Credit, window.told());
                return Some(Header { kind, device, offset, len: 0, tag }.encode());
            }
        }
        slot.news = news;
        None
    }

    /// What has become possible on a channel.
    pub fn ready(&mut self, number: u32, readable: bool, writable: bool) {
        if let Some(slot) = self.lines.slots.get_mut(number as usize) {
            slot.readable |= readable;
            slot.writable |= writable;
            slot.told = slot.told.wrapping_add(1);
        }
    }

    /// Whether nothing has come for a while, and nothing that has come is still to be written.
    fn is_still(&self) -> bool {
        let rest = self.members.iter().any(|place| place.busy || place.can_be_written());
        !rest && self.lines.slots.iter().all(Slot::is_late)
    }

    /// A channel that makes no progress ends the migration.
    pub fn check_channels(&mut self) -> bool {
        let still = self.is_still();
        let stuck = |slot: &Slot| slot.is_stuck() || still && slot.stats.closed && slot.is_late();
        let stuck = self.lines.slots.iter().position(stuck).filter(|_| self.is_open());
        if let Some(index) = stuck {
            self.break_off(err!(TimedOut, "channel {index}: it has made no progress for too long"));
        }
        stuck.is_some()
    }
}

/// A device that is being read. If that does not come to its end, it has failed.
struct Fetching<'a> {
    shared: &'a Shared,
    index: usize,
    over: bool,
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut state = self.shared.lock();
        state.lines.in_hand -= 1;
        if let Ok(place) = state.place_mut(self.index) {
            place.busy = false;
        }
        state.fail(self.index, &err!(NotRecoverable, "internal error: reading it panicked"));
        drop(state);
        self.shared.wake();
    }
}

impl Shared {
    /// Takes what has come on a channel, up to a frame, and sends a frame, as far as that goes.
    pub fn serve(&self, index: usize) {
        let mut state = self.lock();
        let Some(slot) = state.lines.slots.get_mut(index) else { return };
        let Some(wire) = slot.wire.take() else { return };
        let (readable, writable) =
            (slot.readable && !slot.stats.closed, slot.writable && !slot.mute);
        let (told, was_sending) = (slot.told, slot.sending);
        state.lines.turn = index + 1;
        drop(state);
        let mut serving = Serving {
            shared: self,
            index,
            wire: Some(wire),
            received: Moved::default(),
            sent: Moved::default(),
            told,
            was_sending,
            frames: (0, 0),
            closed: false,
            result: Err(err!(NotRecoverable, "internal error: serving it panicked")),
        };
        let received = if readable { serving.receive() } else { Ok(()) };
        let sends = writable && received.is_ok();
        serving.result = if sends { received.and_then(|()| serving.send()) } else { received };
    }

    /// Reads a device into a frame for the channels. It was claimed.
    pub fn fetch(&self, index: usize, round: u32) {
        let mut fetching = Fetching { shared: self, index, over: false };
        let memory = self.lock().lines.take_spare(FRAME);
        let begun = Instant::now();
        let fetched = self.fetch_into(index, round, memory);
        let mut state = self.lock();
        state.lines.slow = begun.elapsed() > SLOW;
        state.lines.in_hand -= 1;
        fetching.over = true;
        match fetched {
            Ok(Some(frame)) => {
                let queued = alloc::push_back(&mut state.lines.outgoing, frame, "no memory");
                if let Err(error) = queued {
                    state.fail(index, &error);
                }
            }
            Ok(None) => {}
            Err(error) if error.code() == Code::Again => {
                if let Ok(place) = state.place_mut(index) {
                    place.again = Some(Instant::now() + TRY_AGAIN);
                }
            }
            // Whatever it was: nobody would see it and try again.
            Err(error) => {
                state.break_off(error);
            }
        }
        let failed = !state.is_open();
        let bell = state.bell_for(index);
        drop(state);
        if failed {
            self.wake();
        }
        if let Some(bell) = bell {
            bell.ring();
        }
        self.settle();
    }

    fn fetch_into(&self, index: usize, round: u32, memory: Private) -> Result<Option<Filled>> {
        let mut memory = memory;
        let mut size = FRAME;
        let read = loop {
            let sized = memory.set_len(size, "no memory for a frame");
            let read = match sized {
                Ok(()) => self.read(index, &mut memory),
                Err(error) => break Err(error),
            };
            // A long blob of the VMM's.
            let short = matches!(&read.result, Err(error) if error.code() == Code::NoSpace);
            if !short || size > MAX_PIECE {
                break Ok(read);
            }
            size = (2 * size).min(HEADER_LEN + MAX_PIECE + 1);
        };
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                let mut state = self.lock();
                state.place_mut(index)?.busy = false;
                return Err(state.fail(index, &error));
            }
        };
        match self.came(index, round, read)? {
            Some(next) if next.len > 0 => Ok(Some(Filled { memory, len: next.len })),
            _ => {
                self.lock().lines.give_back(memory);
                Ok(None)
            }
        }
    }

    /// A frame with this header comes: memory for what is in it, which has its room from now on.
    fn accept(&self, header: &Header) -> Result<Private> {
        let mut state = self.lock();
        self.admit(&state, header)?;
        if let Flow::Target(window) = &mut state.place_mut(header.device as usize)?.flow {
            window.expect(header.offset, header.len as usize)?;
        }
        let mut memory = state.lines.take_spare(header.len as usize);
        drop(state);
        memory.set_len(header.len as usize, "no memory for a frame")?;
        Ok(memory)
    }

    fn arrived(&self, header: &Header, piece: Private) -> Result<()> {
        if header.kind == Kind::Credit {
            return self.take_credit(header);
        }
        if let Flow::Target(window) = &mut self.lock().place_mut(header.device as usize)?.flow {
            window.fill(header.offset, piece);
        }
        Ok(())
    }
}

impl Serving<'_> {
    fn receive(&mut self) -> Result<()> {
        let Some(wire) = &mut self.wire else { return Ok(()) };
        match wire.receive(&mut self.received, |header| self.shared.accept(header))? {
            Came::Nothing => Ok(()),
            Came::Frame(header, piece) => {
                self.frames.1 += 1;
                self.shared.arrived(&header, piece)
            }
            Came::End if self.shared.options.role == Role::Source => {
                Err(err!(Io, "the other side has closed it"))
            }
            Came::End => {
                self.closed = true;
                Ok(())
            }
        }
    }

    fn send(&mut self) -> Result<()> {
        let Some(wire) = &mut self.wire else { return Ok(()) };
        if !wire.is_sending() {
            let mut state = self.shared.lock();
            let next = match state.lines.outgoing.pop_front() {
                Some(frame) => Some(frame),
                None => match state.credit_for(self.index, self.shared.tag) {
                    Some(credit) => {
                        let memory = Private::copy(&credit, "no memory for a credit")?;
                        Some(Filled { memory, len: HEADER_LEN })
                    }
                    None => None,
                },
            };
            let Some(next) = next else { return Ok(()) };
            // Counted as being sent before anybody looks whether all was.
            if let Some(slot) = state.lines.slots.get_mut(self.index) {
                slot.sending = true;
            }
            drop(state);
            wire.load(next);
        }
        match wire.send(&mut self.sent) {
            Ok(Some(memory)) => {
                self.frames.0 += 1;
                self.shared.measuring.sent(wire.sent(), wire.began());
                self.shared.lock().lines.give_back(memory);
                Ok(())
            }
            Ok(None) => Ok(()),
            // What the source has sent before it closed this may still have to be received.
            Err(_) if self.shared.options.role == Role::Target => {
                if let Some(slot) = self.shared.lock().lines.slots.get_mut(self.index) {
                    slot.mute = true;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let failed = std::mem::replace(&mut self.result, Ok(())).err();
        if let Some(slot) = state.lines.slots.get_mut(self.index) {
            let same = slot.told == self.told;
            slot.readable &= !(self.received.blocked && same);
            slot.writable &= !(self.sent.blocked && same);
            let (sending, coming) = match &self.wire {
                Some(wire) => (wire.is_sending(), wire.is_coming()),
                None => (false, false),
            };
            if self.received.bytes + self.sent.bytes > 0
                || sending && !self.was_sending
                || self.closed
            {
                slot.moved = Instant::now();
            }
            (slot.sending, slot.coming) = (sending, coming);
            slot.wire = self.wire.take();
            slot.stats.sent_bytes += self.sent.bytes;
            slot.stats.received_bytes += self.received.bytes;
            slot.stats.sent_frames += self.frames.0;
            slot.stats.received_frames += self.frames.1;
            slot.stats.blocked += u64::from(self.sent.blocked);
            slot.stats.closed |= self.closed;
        }
        if let Some(error) = failed {
            state.break_off(of_channel(self.index, &error));
            drop(state);
            self.shared.wake();
            return;
        }
        drop(state);
        self.shared.settle();
    }
}
