// SPDX-License-Identifier: MIT OR Apache-2.0
//! A simulated VFIO device for tests: of libvfiomig, and of any VMM that uses it.
//!
//! [`Sim`] is a device model and nothing but a client of libvfiomig's public ops table. It follows
//! the kernel's state machine strictly: what no VMM may do is counted as a violation and answered
//! as the strictest driver would. Its contents are deterministic; quirks of real drivers are
//! switched on one by one; any operation can be made to fail. The same in C:
//! `include/vfiomig-sim.h`.
//!
//! ```
//! use vfiomig::device::DeviceOptions;
//! use vfiomig_sim::{Sim, SimOptions};
//!
//! let sim = Sim::new(SimOptions { seed: 1, ..SimOptions::default() }).unwrap();
//! let device = vfiomig::Device::new(sim.transport(), DeviceOptions::default()).unwrap();
//! assert!(device.caps().unwrap().can_migrate());
//! assert_eq!(sim.violations(), (0, None));
//! ```

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod capi;
mod contents;
mod device;
pub mod fsm;
mod logging;
mod stream;
// Whichever locks the library has been compiled with.
#[allow(unused_imports)]
#[path = "../../src/sync.rs"]
mod sync;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

pub use fsm::State;

use device::{Core, UserMemory};
#[cfg(not(pthread_locks))]
use std::sync::OnceLock;
use sync::{Mutex, MutexGuard};
use vfiomig::transport::OpsTransport;
#[cfg(pthread_locks)]
use vfiomig_pthread_locks::OnceLock;

/// Quirks of real drivers: bits of [`SimOptions::quirks`].
pub mod quirk {
    macro_rules! quirks {
        ($($(#[doc = $doc:literal])* $name:ident = $bit:literal;)*) => {
            $($(#[doc = $doc])* pub const $name: u64 = 1 << $bit;)*
            /// All of them, with their names.
            pub const ALL: &[(u64, &str)] = &[$(($name, stringify!($name)),)*];
        };
    }
    quirks! {
        /// mtty, hisi_acc, qat: a drained pre-copy read gives 0, not ENOMSG.
        DRAINED_ZERO = 0;
        /// mlx5, virtio: RESUMING to STOP succeeds after a broken or short write.
        STOP_ACCEPTS_ALL = 1;
        /// mtty, hisi_acc, qat: a failing write consumes the bytes all the same.
        CONSUMES_ON_ERROR = 2;
        /// virtio: estimates half of the real size.
        SIZE_UNDER = 3;
        /// hisi_acc: estimates three times the real size.
        SIZE_OVER = 4;
        /// xe: a negative errno in the unsigned size.
        SIZE_NEGATIVE = 5;
        /// Linux before 6.2: no size.
        SIZE_ENOTTY = 6;
        /// A change succeeds without the data fd that it owes.
        NO_DATA_FD = 7;
        /// A change returns a data fd that it does not owe.
        EXTRA_DATA_FD = 8;
        /// mlx5: the first stop-copy read gives 0 once.
        FALSE_END = 9;
        /// mlx5: honours nonblocking reads, with EAGAIN for every second one.
        NONBLOCKING = 10;
        /// hisi_acc: no pre-copy estimates in PRE_COPY_P2P.
        P2P_INFO_EINVAL = 11;
        /// mlx5, virtio: new dirty data appears only when the estimates are asked for.
        INFO_MAKES_DATA = 12;
        /// Kernels with version 1 of the estimates: their flags come back as garbage.
        FLAGS_ECHO = 13;
        /// xe: an illegal change puts the device into ERROR.
        ILLEGAL_IS_FATAL = 14;
        /// VFIO_DEVICE_RESET gives ENOTTY.
        NO_RESET = 15;
        /// Writes take nothing and give no error.
        WRITE_ZERO = 16;
        /// Reads and writes claim more than they were given.
        WRITE_TOO_MUCH = 17;
        /// Every second write gives EAGAIN.
        WRITE_EAGAIN = 18;
        /// No DMA logging.
        NO_LOGGING = 19;
        /// Kernels without CONFIG_IOMMUFD: PROBE of the logging report succeeds, REPORT does not.
        REPORT_EOPNOTSUPP = 20;
        /// Newer kernels: opt-in to meaningful flags, REINIT.
        PRECOPY_INFO_V2 = 21;
        /// Reading the state fails with EIO.
        STATE_UNREADABLE = 22;
        /// Reports unknown migration flags besides its own.
        FUTURE = 23;
        /// virtio: pre-copy sends the full state again each round.
        PRECOPY_ALL = 24;
        /// vfio-user servers: a reset empties the device and leaves it in its migration state; it is
        /// refused with EINVAL while the device is stopped.
        RESET_KEEPS_STATE = 25;
    }
}

/// In place of migration flags: the driver has no migration.
pub const NO_MIGRATION: u32 = 0x8000_0000;

/// How a device is made. Where the C structure has a zero that means nothing, its default is
/// taken; here [`Default`] has it.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// VFIO_MIGRATION_* or [`NO_MIGRATION`].
    pub migration_flags: u32,
    /// Bytes of device state.
    pub state_size: u64,
    /// Bytes of it, from the front, that pre-copy sends as initial data; 0: a quarter. The rest
    /// is sent when the device has stopped.
    pub initial_size: u64,
    /// Contents.
    pub seed: u64,
    /// Bits of [`quirk`].
    pub quirks: u64,
    /// Bytes per second that become dirty while the device runs; 0: none.
    pub dirty_rate: u64,
    /// Bytes per second that reads give at the most; 0: unlimited.
    pub read_rate: u64,
    /// Bytes per second that writes take at the most; 0: unlimited.
    pub write_rate: u64,
    /// Bytes that one read gives at the most; 0: unlimited.
    pub max_read: u32,
    /// Bytes that one write takes at the most; 0: unlimited.
    pub max_write: u32,
    /// Microseconds that entering a state takes, by its number.
    pub transition_us: [u32; 8],
    /// Every so-maniest read and write gives EINTR; 0: none.
    pub eintr_every: u32,
    /// Devices of another model refuse the state.
    pub model: u32,
    /// State in which the device is found.
    pub initial_state: State,
    /// PCI vendor, device, subsystem vendor and subsystem device ID; zeros: no PCI device.
    pub pci: [u16; 4],
    /// mdev type; empty: none.
    pub mdev_type: String,
    /// Driver's name.
    pub driver: String,
    /// Bytes of the smallest pages in which it logs its DMA: a power of two; 0: 4096.
    pub log_page_size: u64,
    /// Ranges that its log has room for, ENOSPC otherwise; 0: as many as the kernel takes, 256.
    pub log_max_ranges: u32,
}

impl Default for SimOptions {
    fn default() -> Self {
        SimOptions {
            migration_flags: 7,
            state_size: 1 << 20,
            initial_size: 0,
            seed: 0,
            quirks: 0,
            dirty_rate: 0,
            read_rate: 0,
            write_rate: 0,
            max_read: 0,
            max_write: 0,
            transition_us: [0; 8],
            eintr_every: 0,
            model: 1,
            initial_state: State::RUNNING,
            pci: [0; 4],
            mdev_type: String::new(),
            driver: "vfiomig-sim".to_owned(),
            log_page_size: 0,
            log_max_ranges: 0,
        }
    }
}

/// Operations that are counted and can fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Op {
    /// Each of them.
    Any = 0,
    /// Asking for the migration flags.
    GetFlags = 1,
    /// Reading the state.
    GetState = 2,
    /// Changing the state.
    SetState = 3,
    /// Reading a data stream.
    Read = 4,
    /// Writing a data stream.
    Write = 5,
    /// Asking for the pre-copy estimates.
    PrecopyInfo = 6,
    /// Asking for the size.
    DataSize = 7,
    /// Resetting the device.
    Reset = 8,
    /// Starting the log of DMA.
    LogStart = 9,
    /// Stopping it.
    LogStop = 10,
    /// Reading it.
    LogReport = 11,
}

impl Op {
    /// In the order of their numbers.
    pub const ALL: [Op; 12] = [
        Op::Any,
        Op::GetFlags,
        Op::GetState,
        Op::SetState,
        Op::Read,
        Op::Write,
        Op::PrecopyInfo,
        Op::DataSize,
        Op::Reset,
        Op::LogStart,
        Op::LogStop,
        Op::LogReport,
    ];
}

/// What happens with a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Effect {
    /// The operation fails, nothing else changes.
    Once = 0,
    /// So does every later one of its kind.
    Sticky = 1,
    /// The device enters ERROR.
    Error = 2,
    /// The device is gone: everything gives ENODEV from now on, reset too.
    Die = 3,
    /// A change of state stops half-way along its path, then fails; a report of the log forgets
    /// what it should have reported, then fails. Others: as `Once`.
    Half = 4,
    /// The guest resets the device just before; the operation itself is not made to fail.
    Reset = 5,
    /// A change of state answers that it is done, and does nothing. Others: nothing.
    Ignored = 6,
}

impl Effect {
    /// In the order of their numbers.
    pub const ALL: [Effect; 7] = [
        Effect::Once,
        Effect::Sticky,
        Effect::Error,
        Effect::Die,
        Effect::Half,
        Effect::Reset,
        Effect::Ignored,
    ];
}

/// Reads and writes with a rate sleep at most this long at once.
const LONGEST_SLEEP: Duration = Duration::from_millis(20);

/// A simulated device. Cloning shares it.
#[derive(Clone)]
pub struct Sim {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    core: Mutex<Core>,
    /// Always readable and writable, as the data fds of most drivers are.
    poll: OnceLock<Option<OwnedFd>>,
    /// Callbacks under way: the library promises one at a time.
    inside: AtomicUsize,
    releases: AtomicU32,
}

impl Sim {
    /// A device, powered on. Fails with EINVAL where the options make no sense.
    pub fn new(options: SimOptions) -> Result<Sim, i32> {
        let shared = Shared {
            core: Mutex::new(Core::new(options)?),
            poll: OnceLock::new(),
            inside: AtomicUsize::new(0),
            releases: AtomicU32::new(0),
        };
        Ok(Sim { shared: Arc::new(shared) })
    }

    /// The device for [`vfiomig::Device::new`], by way of the public ops table.
    pub fn transport(&self) -> OpsTransport {
        capi::transport(Arc::clone(&self.shared))
    }

    /// Makes the `nth` (from 1, counted from now) operation of a kind fail. Several faults may be
    /// pending.
    pub fn inject(&self, op: Op, nth: u64, errno: i32, effect: Effect) {
        self.shared.lock().inject(op, nth, errno, effect);
    }

    /// Forgets pending and sticky faults, and revives a device that has died: RUNNING, with its
    /// contents kept.
    pub fn clear_faults(&self) {
        self.shared.lock().clear_faults();
    }

    /// The guest resets the device (FLR), behind the library's back: RUNNING, streams dead,
    /// contents as after power-on.
    pub fn guest_reset(&self) {
        self.shared.lock().guest_reset();
    }

    /// The guest changes a part of the device's state: bytes of a new seed, marked dirty. EINVAL
    /// where the part does not lie within the state.
    pub fn guest_write(&self, offset: u64, len: u64, seed: u64) -> Result<(), i32> {
        self.shared.lock().guest_write(offset, len, seed)
    }

    /// The device writes to memory. Whether that is seen depends on its log. EPERM while it is
    /// stopped, ENODEV when it is gone.
    pub fn dma_write(&self, iova: u64, len: u64) -> Result<(), i32> {
        self.shared.lock().dma_write(iova, len)
    }

    /// Pre-copy starts its initial data again.
    pub fn reinit(&self) {
        self.shared.lock().reinit();
    }

    /// A digest of the whole contents: equal contents have equal digests.
    pub fn digest(&self) -> u64 {
        self.shared.lock().digest()
    }

    /// Present state.
    pub fn state(&self) -> State {
        self.shared.lock().state()
    }

    /// Whether a fault has made the device vanish.
    pub fn is_dead(&self) -> bool {
        self.shared.lock().is_dead()
    }

    /// Operations of a kind so far.
    pub fn count(&self, op: Op) -> u64 {
        self.shared.lock().count(op)
    }

    /// Bytes read from data streams so far.
    pub fn bytes_read(&self) -> u64 {
        self.shared.lock().bytes_read
    }

    /// Bytes written to data streams so far.
    pub fn bytes_written(&self) -> u64 {
        self.shared.lock().bytes_written
    }

    /// Data streams handed out and not closed yet.
    pub fn open_streams(&self) -> u32 {
        self.shared.lock().open_streams()
    }

    /// How often the library did what no VMM may do, and what it did first. 0 in every correct
    /// run.
    pub fn violations(&self) -> (u64, Option<&'static str>) {
        let (count, first) = self.shared.lock().violations;
        (count, first.and_then(|text| text.to_str().ok()))
    }

    /// How often the table's `release` was called.
    pub fn releases(&self) -> u32 {
        self.shared.releases.load(Ordering::Relaxed)
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        core.pass_time(Instant::now());
        core
    }

    /// Runs a callback of the table.
    pub(crate) fn callback<T>(&self, call: impl FnOnce(&Shared) -> T) -> T {
        if self.inside.fetch_add(1, Ordering::AcqRel) != 0 {
            self.lock().violation(c"two callbacks of one device at a time");
        }
        let result = call(self);
        self.inside.fetch_sub(1, Ordering::AcqRel);
        result
    }

    pub(crate) fn feature(
        &self,
        flags: u32,
        payload: &mut [u8],
        user: &mut dyn UserMemory,
    ) -> Result<(), i32> {
        // Changes of state take their time without the lock: the guest may reset the device
        // meanwhile.
        let pause = self.lock().time_of_change(flags, payload);
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        self.lock().feature(flags, payload, user)
    }

    pub(crate) fn reset(&self) -> Result<(), i32> {
        self.lock().reset()
    }

    pub(crate) fn read(&self, token: i32, buf: &mut [u8]) -> Result<usize, i32> {
        let mut core = self.lock();
        let limit = core.read_limit(buf.len());
        let result = core.read(token, buf.get_mut(..limit).unwrap_or_default());
        let pause = core.read_pause(&result);
        drop(core);
        sleep(pause);
        result
    }

    pub(crate) fn write(&self, token: i32, buf: &[u8]) -> Result<usize, i32> {
        let mut core = self.lock();
        let limit = core.write_limit(buf.len());
        let result = core.write(token, buf.get(..limit).unwrap_or_default());
        let pause = core.write_pause(&result);
        drop(core);
        sleep(pause);
        result
    }

    pub(crate) fn poll_fd(&self, token: i32) -> Result<i32, i32> {
        self.lock().check_token(token)?;
        let fd = self.poll.get_or_init(|| {
            // SAFETY: eventfd takes no pointers.
            #[allow(unsafe_code)]
            let fd = unsafe { libc::eventfd(1, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
            // SAFETY: a fresh fd, owned by nobody else.
            #[allow(unsafe_code)]
            (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
        });
        fd.as_ref().map(OwnedFd::as_raw_fd).ok_or(libc::EMFILE)
    }

    pub(crate) fn released(&self) {
        self.releases.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn releases(&self) -> u32 {
        self.releases.load(Ordering::Relaxed)
    }
}

fn sleep(pause: Duration) {
    if !pause.is_zero() {
        std::thread::sleep(pause);
    }
}
