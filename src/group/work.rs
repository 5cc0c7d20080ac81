// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the threads that are lent to a group do: steps of devices, what channels carry, and what is to
//! be read from devices or written to them.
//!
//! One thread at a time waits for channels, in the kernel; the others wait for it. Whoever takes
//! something on sees to it that somebody looks at the rest.

use std::time::{Duration, Instant};

use super::measuring::Moment;
use super::member::Held;
use super::options::{Phase, Role, Until};
use super::shared::{Flow, Shared, State};
use crate::error::{Error, Result, err};
use crate::sync::{MutexGuard, give_way, may_block};
use crate::sys::Watch;

/// Something to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Task {
    Step,
    Serve(usize),
    Write(usize),
    Read(usize),
}

/// How much a thread does that came to do what there is now.
const SOME: usize = 64;

/// A member that is being written to.
struct Writing<'a> {
    shared: &'a Shared,
    index: usize,
}

impl Writing<'_> {
    /// Writes the next piece. False: there is none, or it went wrong.
    fn piece(&mut self, held: &mut Held<'_>) -> bool {
        let mut state = self.shared.lock();
        // Who wants a step of the devices waits for those that are being written to.
        if state.check().is_err() || state.has_step() {
            return false;
        }
        let Ok(place) = state.place_mut(self.index) else { return false };
        let Flow::Target(window) = &mut place.flow else { return false };
        let Some((len, piece)) = window.take() else { return false };
        drop(state);
        let began = Moment::now();
        let written = held.write(&piece);
        self.shared.measuring.written(self.index, len, began);
        let mut state = self.shared.lock();
        let by_hand = state.lines.slots.is_empty();
        match by_hand {
            true => drop(piece),
            false => state.lines.give_back(piece),
        }
        let goes_on = match written {
            Ok(status) => {
                state.wrote(self.index, len, status.ended);
                state.tell(self.index);
                true
            }
            Err(error) => {
                state.fail(self.index, &error);
                false
            }
        };
        match by_hand || !state.is_open() {
            true => {
                drop(state);
                self.shared.wake();
            }
            // There may be a credit to send.
            false if state.servable().is_some() => self.shared.rouse(state),
            false => {}
        }
        goes_on
    }

    fn failed(&mut self, error: &Error) {
        self.shared.lock().fail(self.index, error);
        self.shared.wake();
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Ok(place) = state.place_mut(self.index) {
            place.busy = false;
        }
        let by_hand = state.lines.slots.is_empty();
        drop(state);
        match by_hand {
            true => self.shared.wake(),
            false => self.shared.settle(),
        }
    }
}

impl State {
    /// What is to be done next, if anything is. What has come is written while the processor still has
    /// it, and what was read is sent, unless devices take their time: then others can send it.
    fn task(&self, now: Instant) -> Option<Task> {
        if self.has_step() {
            return Some(Task::Step);
        }
        let serve = || self.servable().map(Task::Serve);
        let device = || {
            let write = self.writable().map(Task::Write);
            write.or_else(|| self.readable(now).map(Task::Read))
        };
        let others = self.idle > 0 || self.lines.watching;
        match self.lines.slow && others || self.lines.outgoing.is_empty() {
            true => device().or_else(serve),
            false => serve().or_else(device),
        }
    }

    /// Nobody else does it. Returns how many stops have been.
    fn claim(&mut self, task: Task) -> u32 {
        if let Task::Write(index) | Task::Read(index) = task {
            if let Some(place) = self.members.get_mut(index) {
                place.busy = true;
            }
        }
        if let Task::Read(index) = task {
            self.lines.in_hand += 1;
            self.turn = index + 1;
        }
        self.round
    }

    /// Whether threads wait for somebody who waits for channels, and nobody does.
    fn is_unwatched(&self) -> bool {
        let channels = self.is_open() && !self.lines.slots.is_empty();
        channels && !self.lines.watching && self.idle > 0
    }

    /// Whether that is what a thread was lent for.
    fn is_enough(&self, until: Until) -> bool {
        match until {
            Until::Dismissed => false,
            Until::Idle => true,
            Until::Frame => self.has_frame(),
            Until::Drained => self.phase != Phase::Open || self.lines.passed,
            Until::Complete => !matches!(self.phase, Phase::Open | Phase::Stopped),
        }
    }
}

impl Shared {
    /// Helps until that is enough: with steps, with what channels carry, and with what is to be read
    /// or written.
    pub fn help(&self, until: Until) -> Result<()> {
        let _inside = self.enter_to_wait()?;
        self.check_until(until)?;
        let mut state = self.lock();
        if until == Until::Drained {
            state.begin_pass();
        }
        let helps = u32::from(until == Until::Dismissed);
        state.helpers += helps;
        let (mut looked, mut done) = (false, 0);
        while !state.dismissed && !state.closing {
            let enough = until == Until::Idle && done >= SOME && !state.lines.slots.is_empty();
            let now = Instant::now();
            if let Some(task) = state.task(now).filter(|_| !enough) {
                self.take_on(state, task);
                done += 1;
                state = self.lock();
                continue;
            }
            if until != Until::Dismissed {
                state.check()?;
                if until == Until::Idle && !looked && !enough && !state.lines.watching {
                    (looked, state) = (true, self.look_at_channels(state, Duration::ZERO));
                    continue;
                }
                if state.is_enough(until) {
                    break;
                }
            }
            state = self.wait_for_task(state, until, now);
        }
        state.helpers -= helps;
        // What is left is somebody else's, or the next call's; and one of the others is to watch.
        if state.task(Instant::now()).is_some() || state.is_unwatched() {
            self.rouse(state);
        }
        Ok(())
    }

    fn check_until(&self, until: Until) -> Result<()> {
        let state = self.lock();
        let setup = state.phase == Phase::Setup;
        match (until, state.lines.slots.is_empty()) {
            (Until::Frame, false) => state.check_by_hand(),
            (Until::Drained, true) => Err(err!(Inval, "the group has no channels")),
            (Until::Drained, _) if self.options.role == Role::Target => {
                self.check_role(Role::Source, "waiting until devices have nothing more")
            }
            (Until::Drained | Until::Complete, _) if setup => {
                Err(err!(Inval, "waiting for streams is not allowed {}", Phase::Setup.text()))
            }
            _ => Ok(()),
        }
    }

    fn take_on(&self, mut state: MutexGuard<'_, State>, task: Task) {
        let round = state.claim(task);
        // Serving a channel takes no time, and then this thread looks itself.
        let stays = matches!(task, Task::Serve(_));
        let unwatched = !stays && !state.lines.watching && state.idle > 0;
        let unseen = state.task(Instant::now()).is_some() || unwatched;
        match unseen && task != Task::Step {
            true => self.rouse(state),
            false => drop(state),
        }
        match task {
            Task::Step => self.take_tasks(),
            Task::Serve(index) => self.serve(index),
            Task::Write(index) => self.write(index),
            Task::Read(index) => self.fetch(index, round),
        }
    }

    /// Waits for channels, if nobody does, or for those who do.
    fn wait_for_task<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        until: Until,
        now: Instant,
    ) -> MutexGuard<'a, State> {
        let open = state.is_open() && !state.lines.slots.is_empty();
        if open && !state.lines.watching {
            let time = state.next_look(now);
            return self.look_at_channels(state, time);
        }
        // A device that had nothing is asked again, while others wait for room.
        let again = until == Until::Frame && state.members.iter().any(|p| p.again.is_some());
        let time = again.then(|| state.next_look(now));
        self.wait_for_work(state, time)
    }

    /// Learns what has become possible on channels; waits for it at most so long.
    fn look_at_channels<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        time: Duration,
    ) -> MutexGuard<'a, State> {
        let Some(watch) = state.lines.watch.clone() else { return state };
        state.lines.watching = true;
        state.lines.look_at = Some(Instant::now() + time);
        drop(state);
        self.harvest(&watch, if may_block() { time } else { Duration::ZERO });
        give_way();
        let mut state = self.lock();
        (state.lines.watching, state.lines.rung) = (false, false);
        state.lines.look_at = None;
        if state.check_channels() {
            drop(state);
            self.wake();
            state = self.lock();
        }
        state
    }

    fn harvest(&self, watch: &Watch, time: Duration) {
        watch.wait(time, |ready| {
            self.lock().ready(ready.number, ready.readable, ready.writable);
        });
    }

    /// Writes what has come of a member, in order, until something is missing. It was claimed.
    fn write(&self, index: usize) {
        let mut writing = Writing { shared: self, index };
        let member = match self.member(index as u32) {
            Ok(member) => member,
            Err(error) => return writing.failed(&error),
        };
        let held = member.hold();
        match held {
            Ok(mut held) => while writing.piece(&mut held) {},
            Err(error) => writing.failed(&error),
        }
    }
}
