// SPDX-License-Identifier: MIT OR Apache-2.0
//! One VFIO device and its migration state machine.
//!
//! A [`Device`] knows the state that the device is in, changes it only along legal paths, and
//! brings the device to a known state if a change fails. It owns the data fd of the open session,
//! if any; what flows through it is up to the layers above.

mod contents;
mod data;
mod dma_log;
mod events;
mod health;
mod learn;
mod probe;
mod recovery;
mod reset;

use std::path::PathBuf;
use std::sync::{Arc, TryLockError};

pub use events::{Event, EventKind, EventSink};
pub use health::Health;
pub use probe::{Caps, Reason, ReasonCode, Severity};

pub use crate::fixups::Fixups;
pub use crate::fsm::{Fsm, MigrationFlags, Path, State, Steps};
pub use crate::identity::{Identity, Ignore, MAX_VENDOR_DATA, max_text};

use crate::error::{Error, Failure, Operation, Outcome, Result, err, of_another_process};
use crate::fixups::AtomicFixups;
use crate::protocol::{self, Protocol};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::{self, Process};
use crate::transport::Transport;
use crate::waiting::{self, HoldsDevice};
use contents::Contents;
use probe::Probed;

/// How a device is set up.
#[derive(Default)]
pub struct DeviceOptions {
    /// The administrator's switch: the device is probed, but not migrated.
    pub disabled: bool,
    /// The device's directory in sysfs, if the VMM knows it; needed for the driver's name and the
    /// mdev type of an fd that came from a group.
    pub sysfs: Option<PathBuf>,
    /// Opaque string that the target compares: firmware version, profile…; at most
    /// [`MAX_VENDOR_DATA`] bytes.
    pub vendor_data: Vec<u8>,
    /// Where events go.
    pub events: Option<EventSink>,
}

/// Which session has the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    None,
    Saving,
    Loading,
}

/// A VFIO device that can be saved and loaded.
///
/// Clones share the device. Calls on one device are serialised. Nothing waits in a callback: there,
/// its own device is [`Code::Busy`], and so is another one that a call is using.
///
/// [`Code::Busy`]: crate::error::Code::Busy
#[derive(Clone)]
pub struct Device {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    inner: Mutex<Inner>,
    /// What the VMM must redo; outside the lock, so that it can be read while a session is busy.
    fixups: Arc<AtomicFixups>,
    /// How often the device was reset; likewise outside the lock.
    resets: Arc<AtomicU64>,
    /// Whose it is: a child after fork() has a copy, and leaves the device alone.
    process: Process,
}

/// What must be known of a device before its log can be relied on.
#[derive(Clone, Default)]
struct Log {
    /// How often it may have been lost.
    resets: Arc<AtomicU64>,
    /// How often the device may have begun to write.
    changes: u64,
}

/// The device, locked.
pub(crate) struct Locked<'a> {
    inner: MutexGuard<'a, Inner>,
    _holds: HoldsDevice,
}

pub(crate) struct Inner {
    transport: Box<dyn Transport>,
    /// How the device migrates; owns its data stream.
    protocol: Box<dyn Protocol>,
    fsm: Fsm,
    caps: Caps,
    reasons: Vec<Reason>,
    identity: Identity,
    /// The state that the device is believed to be in; `None` after it was lost.
    state: Option<State>,
    pub(crate) claimed: Claim,
    contents: Contents,
    /// The last reset failed: it is tried once more when the device is let go.
    owes_reset: bool,
    /// Increases with every reset: a session of an earlier epoch is dead.
    epoch: u64,
    log: Log,
    fixups: Arc<AtomicFixups>,
    failure: Option<Failure>,
    events: Option<EventSink>,
    process: Process,
}

impl Device {
    /// Probes a device. Fails only if the transport does not lead to a usable VFIO device;
    /// [`Device::reasons`] reports one that cannot migrate.
    pub fn new(transport: impl Transport + 'static, options: DeviceOptions) -> Result<Device> {
        let mut transport: Box<dyn Transport> = Box::new(transport);
        if options.vendor_data.len() > MAX_VENDOR_DATA {
            return Err(err!(Inval, "the vendor string is longer than {MAX_VENDOR_DATA} bytes"));
        }
        let mut protocol: Box<dyn Protocol> = Box::new(protocol::V2::default());
        let release = sys::kernel_release();
        let Probed { caps, mut reasons } =
            probe::probe(transport.as_mut(), protocol.as_mut(), options.disabled, &release)?;
        reasons.sort_by_key(|reason| reason.code.severity());
        let mut identity = learn::learn(transport.as_mut(), options.sysfs, &options.vendor_data);
        identity.migration_flags = caps.migration_flags;
        identity.state_size = caps.state_size.unwrap_or(0);
        let fixups = Arc::<AtomicFixups>::default();
        let log = Log::default();
        let resets = Arc::clone(&log.resets);
        let inner = Inner {
            transport,
            protocol,
            fsm: Fsm::new(caps.migration_flags),
            state: caps.initial_state,
            caps,
            reasons,
            identity,
            claimed: Claim::None,
            contents: match caps.initial_state {
                Some(State::Stop) => Contents::Held,
                _ => Contents::Live,
            },
            owes_reset: false,
            epoch: 0,
            log,
            fixups: Arc::clone(&fixups),
            failure: None,
            events: options.events,
            process: Process::this(),
        };
        let shared = Shared { inner: Mutex::new(inner), fixups, resets, process: Process::this() };
        Ok(Device { shared: Arc::new(shared) })
    }

    pub(crate) fn lock(&self) -> Result<Locked<'_>> {
        self.shared.lock()
    }

    /// Whether this process is a child of the one that the device belongs to.
    pub(crate) fn is_of_parent(&self) -> bool {
        !self.shared.process.is_this()
    }

    /// What the device can do.
    pub fn caps(&self) -> Result<Caps> {
        Ok(self.lock()?.caps)
    }

    /// Why the device cannot migrate, or not well; the worst comes first.
    pub fn reasons(&self) -> Result<Vec<Reason>> {
        Ok(self.lock()?.reasons.clone())
    }

    /// What the device is.
    pub fn identity(&self) -> Result<Identity> {
        Ok(self.lock()?.identity.clone())
    }

    /// Reasons and identity, without copies.
    pub(crate) fn with_details<R>(
        &self,
        look: impl FnOnce(&[Reason], &Identity) -> Result<R>,
    ) -> Result<R> {
        let inner = self.lock()?;
        look(&inner.reasons, &inner.identity)
    }

    /// Asks the device for its state.
    pub fn state(&self) -> Result<State> {
        let mut inner = self.lock()?;
        let result = inner.ask_state();
        inner.remember(result)
    }

    /// Takes the device to STOP, RUNNING or RUNNING_P2P. A session must not be open; the states
    /// with a data stream belong to [`Device::save`] and [`Device::load`].
    pub fn set_state(&self, to: State) -> Result<()> {
        let mut inner = self.lock()?;
        let result = inner.set_plain_state(to);
        inner.remember(result)
    }

    /// Takes the device to RUNNING, from wherever it is: the last step after a load, or the way
    /// back. Clears the fix-ups, which the VMM must have made. After an error whose outcome is
    /// [`Outcome::Kept`] or [`Outcome::Recovered`] the device is intact: try again. A device that
    /// was reset while its guest was stopped, or between a load and its first run, is not run: the
    /// result is [`Code::Io`] with [`Outcome::Reset`], until another state is loaded, or
    /// [`Device::reset`] or [`Device::accept_reset`] says that an empty device is wanted.
    ///
    /// [`Code::Io`]: crate::error::Code::Io
    pub fn run(&self) -> Result<()> {
        let mut inner = self.lock()?;
        let epoch = inner.epoch();
        let result = inner.set_plain_state(State::Running);
        inner.remember(result)?;
        // A reset on the way has undone whatever the VMM did before.
        if inner.epoch() == epoch {
            inner.fixups.clear();
        }
        Ok(())
    }

    /// Resets the device with `VFIO_DEVICE_RESET`, drops an open session's data, and takes it that
    /// the device is wanted in its power-on state.
    pub fn reset(&self) -> Result<()> {
        let mut inner = self.lock()?;
        let result = inner.reset();
        if result.is_ok() {
            inner.accept_loss();
        }
        inner.remember(result)
    }

    /// Tells the library that something else reset the device: the guest (a function-level reset),
    /// a bus reset, or error recovery on the host. If the guest runs, a save starts again by
    /// itself, and a load fails. If the guest was stopped, its state in the device is lost: see
    /// [`Device::run`].
    pub fn was_reset(&self) -> Result<()> {
        let mut inner = self.lock()?;
        let result = inner.note_told_reset();
        inner.remember(result)
    }

    /// Says that a device is wanted as it is now, in its power-on state, although a reset took what
    /// it held: for a VMM that has reset the device itself, on purpose and by means other than
    /// [`Device::reset`].
    pub fn accept_reset(&self) -> Result<()> {
        let mut inner = self.lock()?;
        if inner.contents_are_lost() {
            inner.accept_loss();
        }
        Ok(())
    }

    /// What the VMM must redo before the device runs. Never waits.
    pub fn fixups(&self) -> Fixups {
        self.shared.fixups.get()
    }

    /// What went wrong last, if anything did.
    pub fn failure(&self) -> Result<Option<Failure>> {
        Ok(self.lock()?.failure)
    }

    /// A number that no other live device has.
    pub(crate) fn key(&self) -> u64 {
        Arc::as_ptr(&self.shared).addr() as u64
    }

    /// What dirty tracking must know of the device, apart from its log.
    pub(crate) fn health(&self) -> Health {
        let device = self.clone();
        let quiet = move || {
            // If the device is busy, for example with a read of its state, it is not worth waiting
            // for.
            let inner = device.shared.inner.try_lock().ok()?;
            let quiet =
                matches!(inner.state, Some(State::Stop | State::StopCopy | State::Resuming));
            quiet.then_some(inner.log.changes)
        };
        Health::new(Arc::clone(&self.shared.resets), quiet)
    }
}

impl Shared {
    fn lock(&self) -> Result<Locked<'_>> {
        if !self.process.is_this() {
            return Err(of_another_process("device"));
        }
        let locked = match waiting::may_wait() {
            true => self.inner.lock().map_err(TryLockError::Poisoned),
            false => self.inner.try_lock(),
        };
        match locked {
            Ok(inner) => Ok(Locked { inner, _holds: HoldsDevice::new() }),
            Err(TryLockError::WouldBlock) => {
                Err(err!(Busy, "a call is using this device, and a callback does not wait for it"))
            }
            Err(TryLockError::Poisoned(_)) => {
                Err(err!(NotRecoverable, "an earlier internal error has left this device unusable"))
            }
        }
    }
}

impl std::ops::Deref for Locked<'_> {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

impl Inner {
    pub(crate) fn caps(&self) -> Caps {
        self.caps
    }

    pub(crate) fn fsm(&self) -> Fsm {
        self.fsm
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn state_now(&self) -> Option<State> {
        self.state
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The device was reset, out of `before`.
    fn next_epoch(&mut self, before: Option<State>) {
        self.epoch += 1;
        self.lose_contents(before);
        self.log_is_lost();
    }

    /// A reset may have lost what the device had logged.
    fn log_is_lost(&mut self) {
        self.log.resets.fetch_add(1, Ordering::Release);
        self.may_write();
    }

    /// The device may write from here on.
    fn may_write(&mut self) {
        self.log.changes += 1;
    }

    pub(crate) fn fixups(&self) -> Fixups {
        self.fixups.get()
    }

    fn note_fixups(&self, fixups: Fixups) {
        self.fixups.add(fixups);
    }

    /// Keeps a failure on the device, so that it outlives the call that returned it.
    pub(crate) fn remember<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            if let Some(failure) = error.failure() {
                self.failure = Some(*failure);
            }
        }
        result
    }

    /// Refuses a device that cannot migrate, with the first blocking reason.
    pub(crate) fn check_can_migrate(&self) -> Result<()> {
        Probed::why_not(&self.caps, &self.reasons)
    }

    /// Gives the device to a session.
    pub(crate) fn claim(&mut self, by: Claim) -> Result<()> {
        match self.claimed {
            Claim::None => {
                self.claimed = by;
                Ok(())
            }
            Claim::Saving => Err(err!(Busy, "the device is being saved; finish that first")),
            Claim::Loading => Err(err!(Busy, "the device is being loaded; finish that first")),
        }
    }

    fn ask_state(&mut self) -> Result<State> {
        self.query_state().map_err(|errno| {
            Error::from_args(
                errno.code(),
                format_args!("the device's state cannot be read: {errno}"),
            )
            .with_failure(Failure {
                operation: Operation::GetState,
                ioctl: crate::uapi::VFIO_DEVICE_FEATURE,
                errno: errno.0,
                state_before: self.state,
                fixups: self.fixups(),
                ..Failure::default()
            })
        })
    }

    fn set_plain_state(&mut self, to: State) -> Result<()> {
        if to.has_data_stream() || !matches!(to, State::Stop | State::Running | State::RunningP2p) {
            return Err(err!(Inval, "only saving and loading enter {to}"));
        }
        if self.claimed != Claim::None {
            return Err(err!(Busy, "the device has an open session; finish that first"));
        }
        if !self.caps.can_migrate() {
            return Err(err!(NotSupported, "the device has no migration states"));
        }
        if self.state.is_none() {
            // A failed reset lost it; perhaps a reset works now.
            self.reset()?;
            return Err(self.contents_lost(None));
        }
        // A device that has lost its contents may be stopped, but not run.
        self.check_contents().or_else(|lost| if to == State::Stop { Ok(()) } else { Err(lost) })?;
        let before = self.state;
        let usable = before.is_some_and(|state| self.fsm.supports(state));
        if !usable || before.is_some_and(State::has_data_stream) {
            // Walking a device out of RESUMING without its data fd has crashed kernels
            // (docs/kernel-interface.md). A reset is safe.
            let left_by_an_earlier_owner = self.epoch() == 0 && before == self.caps.initial_state;
            self.reset()?;
            if !left_by_an_earlier_owner {
                return Err(self.contents_lost(before));
            }
        }
        self.transition(to, Recover::Stay).map(drop)
    }

    /// Tells the VMM.
    pub(crate) fn emit(&mut self, kind: EventKind, from: Option<State>, outcome: Outcome, ns: u64) {
        let event =
            Event { kind, from, to: self.state, outcome, fixups: self.fixups(), duration_ns: ns };
        log::debug!(target: "vfiomig::device", "{event}");
        if let Some(sink) = &mut self.events {
            sink.call(&event);
        }
    }

    /// Records what must be redone before the device runs.
    pub(crate) fn add_fixups(&mut self, fixups: Fixups) {
        self.note_fixups(fixups);
        self.emit(EventKind::FixupsNeeded, self.state, Outcome::Kept, 0);
    }

    /// Drops the reasons that a reset has removed.
    fn forget_bad_state(&mut self) {
        let cured =
            [ReasonCode::DeviceInError, ReasonCode::StateUnreadable, ReasonCode::StaleState];
        self.reasons.retain(|reason| !cured.contains(&reason.code));
    }
}

impl Drop for Inner {
    /// The last handle of the device is gone. Sessions have ended before, because they hold the
    /// device. So a session's state without a session can only be left after a panic, for example,
    /// or after a failed reset. Some drivers keep such a state across a close and fail the next
    /// owner.
    fn drop(&mut self) {
        if !self.process.is_this() {
            return;
        }
        self.drop_data();
        if self.claimed == Claim::None && !self.owes_reset {
            return;
        }
        if let Err(error) = self.reset() {
            log::error!(target: "vfiomig::device", "resetting a device that is let go: {error}");
        }
    }
}

/// What is not allowed in the state that a session is in.
pub(crate) fn wrong_state(what: &str, state: &str) -> Error {
    err!(Inval, "{what} is not allowed {state}")
}

pub(crate) use recovery::{Recover, describe, elapsed_ns};
