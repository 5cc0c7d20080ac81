// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the threads in a group share: where it is, whose turn it is, and the step that all its
//! members are taking.
//!
//! The lock is held for bookkeeping only, never while a member takes a step.

use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::channel::{ChannelOptions, ChannelStats, Lines};
use super::flow::{Credit, Window};
use super::measuring::{Measuring, Moment};
use super::member::{Member, Step};
use super::options::{GroupOptions, GroupStatus, MAX_DEVICES, Phase, Role, of_device};
use crate::alloc;
use crate::device::Device;
use crate::error::{Error, Result, err, of_another_process};
use crate::history::{self, Event, History, Note, OfGroup, Queue, Recorder, Short, What};
use crate::private::Private;
use crate::session::{MIN_BUFFER, SaveStatus};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::sys::Process;
use crate::waiting::may_wait_for_member;

/// A group, for all of its threads.
pub(super) struct Shared {
    pub options: GroupOptions,
    pub tag: u32,
    pub measuring: Measuring,
    process: Process,
    /// What happens to the group; each device has its own.
    recorder: Arc<Recorder>,
    state: Mutex<State>,
    /// Somebody who waits may go on.
    changed: Condvar,
    /// There may be something to do for a thread that helps.
    work: Condvar,
}

/// How soon a running device that had nothing is asked again.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(10);

pub(super) struct State {
    /// Changes in [`State::go_to`] only.
    pub phase: Phase,
    recorder: Arc<Recorder>,
    pub members: Vec<Place>,
    /// Where the search for a member with something to read begins.
    pub turn: usize,
    /// Rises when the devices stop: what a member said before no longer counts.
    pub round: u32,
    /// Whether the devices may have lost their peer-to-peer DMA.
    pub quiesced: bool,
    /// Whether the caller has been told that initial data has started again.
    pub refused: bool,
    /// The error that has ended the migration.
    pub failed: Option<Error>,
    cancelled: bool,
    pub dismissed: bool,
    pub lines: Lines,
    /// Threads that help, and have nothing to do.
    pub idle: usize,
    /// Somebody has the members take steps.
    stepping: bool,
    job: Option<Job>,
    /// Threads that help until they are sent away.
    pub helpers: u32,
    /// Calls in progress.
    inside: usize,
    pub closing: bool,
}

/// A member's place in the group.
pub(super) struct Place {
    pub member: Arc<Member>,
    /// A thread reads it.
    pub busy: bool,
    /// What it said last.
    pub said: SaveStatus,
    /// When it is asked again, if it had nothing.
    pub again: Option<Instant>,
    /// It had nothing, since that was last asked for.
    pub drained: bool,
    /// What a thread reads of it was asked for before that.
    pub stale: bool,
    /// Bytes of its stream so far: read, or written.
    pub offset: u64,
    pub flow: Flow,
    /// Its stream is complete.
    pub complete: bool,
    /// What the step under way has come to.
    error: Option<Error>,
    failed: bool,
}

/// How much of a member's stream may be on its way.
pub(super) enum Flow {
    /// Whatever comes in order.
    InOrder,
    /// On the source: what the target has room for, and the least room that is of use.
    Source(Credit, usize),
    /// On the target.
    Target(Window<Private>),
}

/// A step that all members are taking.
struct Job {
    step: Step,
    /// The next member to take it.
    next: usize,
    /// How many have not taken it yet.
    left: usize,
}

/// A call in progress.
pub(super) struct Inside<'a>(&'a Shared);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.inside -= 1;
        if state.closing {
            self.0.changed.notify_all();
        }
    }
}

/// The call that has the members take steps.
pub(super) struct Stepping<'a> {
    shared: &'a Shared,
    _inside: Inside<'a>,
}

impl Drop for Stepping<'_> {
    fn drop(&mut self) {
        self.shared.lock().stepping = false;
    }
}

/// A member's part in a step. If it is not reported, it has failed.
struct Task<'a> {
    shared: &'a Shared,
    index: usize,
    result: Result<()>,
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        let result = std::mem::replace(&mut self.result, Ok(()));
        let mut state = self.shared.lock();
        if let (Some(place), Err(error)) = (state.members.get_mut(self.index), result) {
            place.member.note(&error);
            place.error = Some(error);
        }
        let job = state.job.as_mut();
        if job.is_some_and(|job| {
            job.left -= 1;
            job.left == 0
        }) {
            self.shared.changed.notify_all();
        }
    }
}

impl Place {
    /// Whether it may be read into a frame now, and how long that may be.
    pub fn room(&self) -> Option<usize> {
        match &self.flow {
            Flow::Source(credit, least) => Some(credit.room()).filter(|room| room >= least),
            Flow::InOrder | Flow::Target(_) => Some(usize::MAX),
        }
    }

    /// What it keeps of frames.
    fn held(&self) -> u64 {
        match &self.flow {
            Flow::Target(window) => window.held(),
            Flow::InOrder | Flow::Source(..) => 0,
        }
    }

    /// Whether its next piece is here, and nobody writes to it.
    pub fn can_be_written(&self) -> bool {
        !self.busy && matches!(&self.flow, Flow::Target(window) if window.is_ready())
    }

    pub fn is_source(&self) -> bool {
        !matches!(self.flow, Flow::Target(_))
    }

    /// Notes what it has said.
    pub fn say(&mut self, status: SaveStatus) {
        self.said = status;
        let drained = status == SaveStatus::Drained;
        self.again = drained.then(|| Instant::now() + ASK_AGAIN);
        let stale = std::mem::take(&mut self.stale);
        self.drained |= drained && !stale;
    }

    /// Whether nobody reads it, and it has more to say, or may have by now.
    pub fn can_be_asked(&self, now: Instant) -> bool {
        let due = self.again.is_none_or(|at| now >= at);
        !self.busy && due && matches!(self.said, SaveStatus::More | SaveStatus::Drained)
    }

    /// Whether it has more to say than there is room for.
    pub fn waits_for_room(&self) -> bool {
        self.said == SaveStatus::More && self.room().is_none()
    }

    /// Whether there is a frame of it to be sent.
    fn has_frame(&self) -> bool {
        match &self.flow {
            Flow::Target(window) => window.is_due() && !self.complete,
            _ => !self.busy && self.said == SaveStatus::More && self.room().is_some(),
        }
    }
}

impl Flow {
    fn new(options: &GroupOptions) -> Flow {
        match (options.window, options.role) {
            (0, _) => Flow::InOrder,
            (_, Role::Source) => Flow::Source(Credit::default(), MIN_BUFFER),
            (size, Role::Target) => Flow::Target(Window::new(size)),
        }
    }
}

impl State {
    pub fn place(&self, device: u32) -> Result<&Place> {
        let found = self.members.get(device as usize);
        found.ok_or_else(|| err!(Inval, "the group has {} devices", self.members.len()))
    }

    pub fn place_mut(&mut self, index: usize) -> Result<&mut Place> {
        self.members.get_mut(index).ok_or_else(|| err!(Inval, "there is no such device"))
    }

    /// What has ended the migration, if something has.
    pub fn check(&self) -> Result<()> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.cancelled => Err(err!(Cancelled, "the group was cancelled")),
            None => Ok(()),
        }
    }

    /// Fails unless the group is in one of these phases.
    pub fn check_phase(&self, what: &str, allowed: &[Phase]) -> Result<()> {
        match allowed.contains(&self.phase) {
            true => Ok(()),
            false => Err(err!(Inval, "{what} is not allowed {}", self.phase.text())),
        }
    }

    /// Fails if the frames go over channels, and not through the caller's hands.
    pub fn check_by_hand(&self) -> Result<()> {
        match self.lines.slots.is_empty() {
            true => Ok(()),
            false => Err(err!(Inval, "the group's frames go over its channels")),
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    pub fn all_complete(&self) -> bool {
        self.members.iter().all(|place| place.complete)
    }

    /// A member has been written to.
    pub fn wrote(&mut self, index: usize, len: usize, ended: bool) {
        if let Some(place) = self.members.get_mut(index) {
            place.offset = place.offset.saturating_add(len as u64);
            place.complete |= ended;
            if let Flow::Target(window) = &mut place.flow {
                window.written(len);
            }
        }
        if self.phase == Phase::Open && self.all_complete() {
            self.go_to(Phase::Complete);
        }
    }

    /// What the source has to know of a device's credit goes out over every channel.
    pub fn tell(&mut self, index: usize) {
        let Some(place) = self.members.get_mut(index) else { return };
        if place.complete || self.lines.slots.is_empty() {
            return;
        }
        if let Flow::Target(window) = &mut place.flow {
            if window.is_due() {
                window.tell();
                self.lines.news += 1;
            }
        }
    }

    /// What was kept will not be written.
    pub fn drop_frames(&mut self) {
        for place in &mut self.members {
            if let Flow::Target(window) = &mut place.flow {
                window.clear();
            }
        }
        self.lines.drop_frames();
    }

    /// A member has failed, and with it the migration. Returns what is to be told.
    pub fn fail(&mut self, index: usize, error: &Error) -> Error {
        if let Some(place) = self.members.get_mut(index) {
            place.member.note(error);
            place.failed = true;
        }
        let named = of_device(u32::try_from(index).unwrap_or(u32::MAX), error);
        if matches!(self.phase, Phase::Open | Phase::Stopped | Phase::Complete) {
            self.go_to(Phase::Failed);
            self.failed = Some(named.clone());
        }
        named
    }

    /// A member whose next piece can be written now.
    pub fn writable(&self) -> Option<usize> {
        let open = self.phase == Phase::Open && self.check().is_ok();
        self.members.iter().position(Place::can_be_written).filter(|_| open)
    }

    /// Whether there is something to say: a frame, that there is none for now, or that there will
    /// never be one.
    pub fn has_frame(&self) -> bool {
        let open = self.phase == Phase::Open;
        if !open && self.phase != Phase::Stopped {
            return true;
        }
        let mut members = self.members.iter();
        let drained = || {
            let mut source = self.members.iter().filter(|place| !place.busy && place.is_source());
            open && source.clone().next().is_some() && !source.any(Place::waits_for_room)
        };
        members.any(Place::has_frame) || drained() || self.asks_again()
    }

    /// Whether a device is to be asked again, though others have not had their say: they wait for room.
    pub fn asks_again(&self) -> bool {
        let now = Instant::now();
        self.phase == Phase::Open
            && self.members.iter().any(Place::waits_for_room)
            && self.members.iter().any(|p| p.said == SaveStatus::Drained && p.can_be_asked(now))
    }

    /// Whether channels are served.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Stopped) && self.check().is_ok()
    }

    /// The group goes on to another phase.
    pub fn go_to(&mut self, phase: Phase) {
        if std::mem::replace(&mut self.phase, phase) != phase {
            let (text, of_group) = (Short::of(phase.name()), OfGroup::Phase(phase as u32));
            self.recorder.record(&Note { text, of_group, ..Note::of(What::Phase) });
        }
    }

    /// Something that no device is to blame for has ended the migration.
    pub fn break_off(&mut self, error: Error) {
        if matches!(self.phase, Phase::Open | Phase::Stopped | Phase::Complete) {
            self.recorder.record(&Note::error(&error));
            self.go_to(Phase::Failed);
            self.failed = Some(error);
        }
    }

    /// The devices no longer tell this queue.
    fn leave(&self, queue: &Arc<Queue>) {
        for place in &self.members {
            place.member.device.recorder().leave(queue);
        }
    }

    /// Whether a step is being taken that others can help with.
    pub fn has_step(&self) -> bool {
        self.job.as_ref().is_some_and(|job| job.next < self.members.len())
    }

    fn take_task(&mut self) -> Option<(Step, usize)> {
        let job = self.job.as_mut()?;
        let index = job.next;
        if index >= self.members.len() {
            return None;
        }
        job.next += 1;
        Some((job.step, index))
    }
}

impl Shared {
    pub fn new(options: GroupOptions, tag: u32) -> Shared {
        let recorder = Arc::new(Recorder::new("", ""));
        let state = State {
            phase: Phase::Setup,
            recorder: Arc::clone(&recorder),
            members: Vec::new(),
            turn: 0,
            round: 0,
            quiesced: false,
            refused: false,
            failed: None,
            cancelled: false,
            dismissed: false,
            lines: Lines::default(),
            idle: 0,
            stepping: false,
            job: None,
            helpers: 0,
            inside: 0,
            closing: false,
        };
        let (state, changed, work) = (Mutex::new(state), Condvar::new(), Condvar::new());
        let measuring = Measuring::new(options.role, Arc::clone(&recorder));
        let process = Process::this();
        Shared { options, tag, measuring, process, recorder, state, changed, work }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread that helps waits until there is something to do, or for so long.
    pub fn wait_for_work<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        time: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        state.idle += 1;
        let mut state = match time {
            None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(time) => {
                self.work.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.idle -= 1;
        state
    }

    /// Those who wait look again.
    pub fn wake(&self) {
        let bell = self.lock().lines.bell();
        self.changed.notify_all();
        self.work.notify_all();
        if let Some(watch) = bell {
            watch.ring();
        }
    }

    /// One who waits for work looks again.
    pub fn rouse(&self, mut state: MutexGuard<'_, State>) {
        if state.idle > 0 {
            drop(state);
            self.work.notify_one();
        } else if let Some(watch) = state.lines.bell() {
            drop(state);
            watch.ring();
        }
    }

    /// Whether this is a child after fork(), where another thread may have held a lock.
    pub fn is_of_parent(&self) -> bool {
        !self.process.is_this()
    }

    /// Counts a call that does not wait for others.
    pub fn enter(&self) -> Result<Inside<'_>> {
        if self.is_of_parent() {
            return Err(of_another_process("group"));
        }
        let mut state = self.lock();
        if state.closing {
            return Err(err!(BadHandle, "the group is being freed"));
        }
        state.inside += 1;
        Ok(Inside(self))
    }

    /// Counts a call that may wait for others, which none does in a callback.
    pub fn enter_to_wait(&self) -> Result<Inside<'_>> {
        if !may_wait_for_member() {
            return Err(err!(
                Busy,
                "this call may have to wait for other devices, which is not possible in a callback"
            ));
        }
        self.enter()
    }

    /// The same for the one call at a time that has the members take steps.
    pub fn step(&self, on: Role, what: &str, allowed: &[Phase]) -> Result<Stepping<'_>> {
        self.check_role(on, what)?;
        let inside = self.enter_to_wait()?;
        let mut state = self.lock();
        if state.stepping {
            return Err(err!(Busy, "another call has the devices take a step"));
        }
        state.check_phase(what, allowed)?;
        state.stepping = true;
        drop(state);
        Ok(Stepping { shared: self, _inside: inside })
    }

    pub fn check_role(&self, on: Role, what: &str) -> Result<()> {
        match (on == self.options.role, on) {
            (true, _) => Ok(()),
            (false, Role::Source) => Err(err!(Inval, "{what} is for the source")),
            (false, Role::Target) => Err(err!(Inval, "{what} is for the target")),
        }
    }

    pub fn member(&self, device: u32) -> Result<Arc<Member>> {
        Ok(Arc::clone(&self.lock().place(device)?.member))
    }

    /// Adds a member; `make` is given its number.
    pub fn add(&self, device: &Device, make: impl FnOnce(u32) -> Result<Member>) -> Result<u32> {
        let mut state = self.lock();
        state.check_phase("adding a device", &[Phase::Setup])?;
        let number = u32::try_from(state.members.len()).unwrap_or(MAX_DEVICES);
        if number >= MAX_DEVICES {
            return Err(err!(Inval, "a group has {MAX_DEVICES} devices at most"));
        }
        if state.members.iter().any(|place| place.member.device.key() == device.key()) {
            return Err(err!(Inval, "the device is in the group already"));
        }
        self.measuring.add(number)?;
        let queue = self.recorder.queue();
        if let Some(queue) = &queue {
            queue.make_room(state.members.len() + 1)?;
        }
        let place = Place {
            member: Arc::new(make(number)?),
            busy: false,
            said: SaveStatus::More,
            again: None,
            drained: false,
            stale: false,
            offset: 0,
            flow: Flow::new(&self.options),
            complete: false,
            error: None,
            failed: false,
        };
        alloc::grow(&mut state.members, 1, "no memory for another device of the group")?;
        if let Some(queue) = queue {
            device.recorder().join(number, queue)?;
        }
        state.members.push(place);
        Ok(number)
    }

    /// Adds a channel; returns its number.
    pub fn add_channel(&self, fd: OwnedFd, options: ChannelOptions) -> Result<u32> {
        let mut state = self.lock();
        state.check_phase("adding a channel", &[Phase::Setup, Phase::Open])?;
        if self.options.window == 0 {
            return Err(err!(
                Inval,
                "channels need a window, as frames overtake each other on them"
            ));
        }
        let number = state.lines.add(fd, options)?;
        self.measuring.channels(number);
        if state.phase == Phase::Open {
            (0..state.members.len()).for_each(|index| state.tell(index));
        }
        drop(state);
        self.wake();
        Ok(number)
    }

    /// What a channel has done so far.
    pub fn channel_stats(&self, channel: u32) -> Result<ChannelStats> {
        let state = self.lock();
        let slot = state.lines.slots.get(channel as usize);
        let none = || err!(Inval, "the group has {} channels", state.lines.slots.len());
        slot.map(|slot| slot.stats).ok_or_else(none)
    }

    /// What to poll until there is something to do for a thread that helps.
    pub fn work_fd(&self) -> Result<i32> {
        let mut state = self.lock();
        let watch = state.lines.watch()?;
        state.lines.polled = true;
        // Whatever there was before.
        state.lines.rung = true;
        drop(state);
        watch.ring();
        Ok(watch.number())
    }

    pub fn status(&self) -> GroupStatus {
        let state = self.lock();
        let count = |those: fn(&Place) -> bool| {
            let number = state.members.iter().filter(|place| those(place)).count();
            u32::try_from(number).unwrap_or(u32::MAX)
        };
        GroupStatus {
            phase: state.phase,
            devices: count(|_| true),
            failed: count(|place| place.failed),
            complete: count(|place| place.complete),
            drained: count(|place| place.said == SaveStatus::Drained),
            channels: u32::try_from(state.lines.slots.len()).unwrap_or(u32::MAX),
            held_bytes: state.members.iter().map(Place::held).sum(),
            migration_id: self.options.migration_id,
        }
    }

    /// What happened to the group and to its devices last.
    pub fn history(&self) -> Result<History> {
        let state = self.lock();
        let mut devices = Vec::new();
        alloc::reserve(&mut devices, state.members.len(), "no memory for a history")?;
        devices
            .extend(state.members.iter().map(|place| Arc::clone(place.member.device.recorder())));
        drop(state);
        let devices = (0..).map(Some).zip(devices.iter().map(Arc::as_ref));
        history::merge(std::iter::once((None, self.recorder.as_ref())).chain(devices))
    }

    /// What is readable while there are events to be fetched, which are queued from now on.
    pub fn event_fd(&self) -> Result<i32> {
        if let Some(queue) = self.recorder.queue() {
            return Ok(queue.fd());
        }
        let devices = self.lock().members.len();
        // Without the lock: this takes system calls.
        let queue = Arc::new(Queue::new(devices)?);
        // Under the lock, so that no device is added meanwhile.
        let state = self.lock();
        if let Some(queue) = self.recorder.queue() {
            return Ok(queue.fd());
        }
        queue.make_room(state.members.len())?;
        for (number, place) in (0..).zip(&state.members) {
            if let Err(error) = place.member.device.recorder().join(number, Arc::clone(&queue)) {
                state.leave(&queue);
                return Err(error);
            }
        }
        Ok(self.recorder.set_queue(queue).fd())
    }

    /// The oldest event that waits to be fetched. Takes no lock of the group's.
    pub fn next_event(&self) -> Result<Event> {
        self.recorder.next_event()
    }

    /// What happens from now on is told to nobody: an estimate that outlives the group does not keep
    /// its queue.
    pub fn unsubscribe(&self) {
        if let Some(queue) = self.recorder.take_queue() {
            self.lock().leave(&queue);
        }
    }

    // --- steps of all members ----------------------------------------------------------------------

    /// Has all members take a step, with the help of the threads that were lent. Returns when all
    /// have; the error is the first one by number.
    pub fn all(&self, step: Step) -> Result<()> {
        let mut state = self.lock();
        let left = state.members.len();
        state.job = Some(Job { step, next: 0, left });
        let helpers = state.helpers;
        drop(state);
        self.measuring.helpers(helpers);
        self.wake();
        self.take_tasks();
        let mut state = self.lock();
        while state.job.as_ref().is_some_and(|job| job.left > 0) {
            state = self.wait(state);
        }
        state.job = None;
        let mut first = None;
        let mut others = 0_u32;
        for (number, place) in (0..).zip(&mut state.members) {
            let Some(error) = place.error.take() else { continue };
            place.failed = true;
            match first {
                None => first = Some(of_device(number, &error)),
                Some(_) => {
                    others += 1;
                    log::error!(target: "vfiomig::group", "device {number}, too: {error}");
                }
            }
        }
        match (first, others) {
            (None, _) => Ok(()),
            (Some(error), 0) => Err(error),
            (Some(error), _) => {
                Err(error.note_args(format_args!("; {others} more of the devices failed, too")))
            }
        }
    }

    /// Takes the step with one member after the other, until others have the rest.
    pub fn take_tasks(&self) {
        loop {
            let mut state = self.lock();
            let Some((step, index)) = state.take_task() else { return };
            let Some(place) = state.members.get(index) else { return };
            let member = Arc::clone(&place.member);
            let cancelled = state.cancelled;
            drop(state);
            let died = err!(NotRecoverable, "internal error: the step panicked");
            let mut task = Task { shared: self, index, result: Err(died) };
            task.result = member.hold().and_then(|mut held| {
                let began = Moment::now();
                let result = held.take(step);
                if result.is_ok() {
                    self.measuring.took(index, step, began);
                }
                // It may have been cancelled before there was anything to cancel.
                if step == Step::Begin && (cancelled || self.lock().cancelled) {
                    member.cancel();
                }
                result
            });
        }
    }

    // --- from other threads ------------------------------------------------------------------------

    pub fn dismiss(&self) {
        if self.is_of_parent() {
            return;
        }
        self.lock().dismissed = true;
        self.wake();
    }

    pub fn cancel(&self) {
        if self.is_of_parent() {
            return;
        }
        let mut state = self.lock();
        state.cancelled = true;
        for place in &state.members {
            place.member.cancel();
        }
        drop(state);
        self.wake();
    }

    /// Whether a call is in progress.
    pub fn in_use(&self) -> bool {
        !self.is_of_parent() && self.lock().inside > 0
    }

    /// Nobody comes in from here on. Waits until all are out, if this thread may.
    pub fn close(&self) {
        self.lock().closing = true;
        self.wake();
        let mut state = self.lock();
        while state.inside > 0 && may_wait_for_member() {
            state = self.wait(state);
        }
    }
}
