// SPDX-License-Identifier: MIT OR Apache-2.0
//! One VFIO device and its migration state machine.
//!
//! A [`Device`] knows the state that the device is in, changes it only along legal paths, and
//! brings the device to a known state if a change fails. It owns the data fd of the open session,
//! if any; what flows through it is up to the layers above.

mod belief;
mod contents;
mod data;
mod dma;
mod dma_log;
mod events;
mod health;
mod inner;
mod learn;
mod link;
mod lock;
mod permission;
mod probe;
mod recovery;
mod reset;
mod transition;

use std::path::PathBuf;
use std::sync::Arc;

pub(crate) use belief::Claim;
pub use events::{Event, EventSink};
pub use health::Health;
pub(crate) use inner::Inner;
pub(crate) use lock::Locked;
pub use probe::{Caps, Reason, ReasonCode, Severity};
pub(crate) use recovery::{Recover, describe};

pub use crate::fixups::Fixups;
pub use crate::fsm::{Fsm, MigrationFlags, Path, State, Steps};
pub use crate::identity::{Identity, MAX_VENDOR_DATA, max_text};

use crate::error::{Error, Failure, Result, err, of_another_process};
use crate::history::{self, Cause, History, Recorder};
use crate::policy;
use crate::protocol::{self, Protocol};
use crate::sys;
use crate::transport::Transport;
use link::Link;
use lock::Shared;

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
        let mut probed =
            probe::probe(transport.as_mut(), &mut protocol, options.disabled, &release)?;
        let sysfs = options.sysfs.or_else(|| transport.sysfs());
        let name = sysfs.as_deref().and_then(learn::name_of);
        let mut identity = learn::learn(transport.as_mut(), sysfs, &options.vendor_data);
        identity.migration_flags = probed.caps.migration_flags;
        identity.state_size = probed.caps.state_size.unwrap_or(0);
        if !identity.migration_flags.is_empty() {
            identity.protocol = protocol.generation();
        }
        let facts = policy::Facts { name: name.as_deref(), identity: &identity };
        probed.replace_permission_reasons(permission::reasons(&policy::judge(&facts).denials));
        let link = Link::new(transport, protocol);
        let recorder = Recorder::new(&identity.driver, name.as_deref().unwrap_or_default());
        let inner = Inner::new(link, probed, name, identity, Arc::new(recorder), options.events);
        Ok(Device { shared: Arc::new(Shared::new(inner)) })
    }

    pub(crate) fn lock(&self) -> Result<Locked<'_>> {
        self.shared.lock()
    }

    /// Whether this process is a child of the one that the device belongs to.
    pub(crate) fn is_of_parent(&self) -> bool {
        self.shared.is_of_parent()
    }

    /// What the device can do.
    pub fn caps(&self) -> Result<Caps> {
        Ok(self.lock()?.caps())
    }

    /// Why the device cannot migrate, or not well; the worst comes first. Who has switched migration
    /// off is what was found when the device was opened, or when a session last began.
    pub fn reasons(&self) -> Result<Vec<Reason>> {
        Ok(self.lock()?.reasons().to_vec())
    }

    /// What the device is.
    pub fn identity(&self) -> Result<Identity> {
        Ok(self.lock()?.identity().clone())
    }

    /// Reasons and identity, without copies.
    pub(crate) fn with_details<R>(
        &self,
        look: impl FnOnce(&[Reason], &Identity) -> Result<R>,
    ) -> Result<R> {
        let inner = self.lock()?;
        look(inner.reasons(), inner.identity())
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
    /// [`Outcome::Kept`]: crate::error::Outcome::Kept
    /// [`Outcome::Recovered`]: crate::error::Outcome::Recovered
    /// [`Outcome::Reset`]: crate::error::Outcome::Reset
    pub fn run(&self) -> Result<()> {
        let mut inner = self.lock()?;
        let epoch = inner.epoch();
        let result = inner.set_plain_state(State::Running);
        inner.remember(result)?;
        // A reset on the way has undone whatever the VMM did before.
        if inner.epoch() == epoch {
            inner.belief.clear_fixups();
        }
        Ok(())
    }

    /// Resets the device with `VFIO_DEVICE_RESET`, and drops an open session's data. It counts as
    /// wanted in its power-on state from then on.
    pub fn reset(&self) -> Result<()> {
        let mut inner = self.lock()?;
        let result = inner.reset(Cause::Asked);
        if result.is_ok() {
            inner.belief.accept_loss();
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
            inner.belief.accept_loss();
        }
        Ok(())
    }

    /// What the VMM must redo before the device runs. Never waits.
    pub fn fixups(&self) -> Fixups {
        self.shared.fixups()
    }

    /// What went wrong last, if anything did.
    pub fn failure(&self) -> Result<Option<Failure>> {
        Ok(self.lock()?.failure())
    }

    /// What happened to the device last, whoever has it, and whatever it is doing: see docs/events.md.
    /// Never waits for a call on the device.
    pub fn history(&self) -> Result<History> {
        if self.is_of_parent() {
            return Err(of_another_process("device"));
        }
        self.shared.recorder().history()
    }

    /// A descriptor that is readable while [`Device::next_event`] has something to return: see
    /// [`crate::Group::event_fd`]. It is the device's.
    pub fn event_fd(&self) -> Result<i32> {
        if self.is_of_parent() {
            return Err(of_another_process("device"));
        }
        self.recorder().event_fd()
    }

    /// The oldest event that was not fetched yet: see [`crate::Group::next_event`].
    pub fn next_event(&self) -> Result<history::Event> {
        if self.is_of_parent() {
            return Err(of_another_process("device"));
        }
        self.recorder().next_event()
    }

    /// Where what happens to the device is recorded.
    pub(crate) fn recorder(&self) -> &Arc<Recorder> {
        self.shared.recorder()
    }

    /// A number that no other live device has.
    pub(crate) fn key(&self) -> u64 {
        Arc::as_ptr(&self.shared).addr() as u64
    }

    /// What dirty tracking must know of the device, apart from its log.
    pub(crate) fn health(&self) -> Health {
        let device = self.clone();
        Health::new(self.shared.resets(), move || device.shared.quiet())
    }
}

/// What is not allowed in the state that a session is in.
pub(crate) fn wrong_state(what: &str, state: &str) -> Error {
    err!(Inval, "{what} is not allowed {state}")
}
