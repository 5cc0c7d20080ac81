// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a device is made, and what can be made to fail.

use crate::fsm::State;

/// Quirks of real drivers: bits of [`SimOptions::quirks`].
pub mod quirk {
    use crate::quirks::quirks;

    quirks! {
        /// mtty, hisi_acc, qat: a drained pre-copy read returns 0, not ENOMSG.
        DRAINED_ZERO = 0;
        /// mlx5, virtio: RESUMING to STOP succeeds after a broken or short write.
        STOP_ACCEPTS_ALL = 1;
        /// mtty, hisi_acc, qat: a failing write consumes the bytes anyway.
        CONSUMES_ON_ERROR = 2;
        /// virtio: the estimate is half of the real size.
        SIZE_UNDER = 3;
        /// hisi_acc: the estimate is three times the real size.
        SIZE_OVER = 4;
        /// xe: a negative errno in the unsigned size.
        SIZE_NEGATIVE = 5;
        /// Linux before 6.2: no size.
        SIZE_ENOTTY = 6;
        /// A change succeeds without the data fd that it owes.
        NO_DATA_FD = 7;
        /// A change returns a data fd that it does not owe.
        EXTRA_DATA_FD = 8;
        /// mlx5: the first stop-copy read returns 0 once.
        FALSE_END = 9;
        /// mlx5: honours nonblocking reads, with EAGAIN for every second one.
        NONBLOCKING = 10;
        /// hisi_acc: no pre-copy estimates in PRE_COPY_P2P.
        P2P_INFO_EINVAL = 11;
        /// mlx5, virtio: new dirty data appears only when the estimates are asked for.
        INFO_MAKES_DATA = 12;
        /// Kernels with version 1 of the estimates: the flags come back as garbage.
        FLAGS_ECHO = 13;
        /// xe: an illegal change puts the device into ERROR.
        ILLEGAL_IS_FATAL = 14;
        /// VFIO_DEVICE_RESET returns ENOTTY.
        NO_RESET = 15;
        /// Writes take nothing and return no error.
        WRITE_ZERO = 16;
        /// Reads and writes claim more than they were given.
        WRITE_TOO_MUCH = 17;
        /// Every second write returns EAGAIN.
        WRITE_EAGAIN = 18;
        /// No DMA logging. RFC: no bitmap of dirty pages.
        NO_LOGGING = 19;
        /// Kernels without CONFIG_IOMMUFD: PROBE of the logging report succeeds, REPORT does not.
        REPORT_EOPNOTSUPP = 20;
        /// Newer kernels: opt-in to meaningful flags, REINIT.
        PRECOPY_INFO_V2 = 21;
        /// Reading the state fails with EIO.
        STATE_UNREADABLE = 22;
        /// Reports unknown migration flags in addition to its own.
        FUTURE = 23;
        /// virtio: pre-copy sends the full state again each round.
        PRECOPY_ALL = 24;
        /// vfio-user servers: a reset empties the device and leaves it in its migration state; it is
        /// refused with EINVAL while the device is stopped.
        RESET_KEEPS_STATE = 25;
        /// v1: chunks lie in two places in turn.
        ALTERNATING_OFFSET = 26;
        /// v1, NVIDIA vGPU: the length of a chunk reads 0.
        DATA_SIZE_ZERO = 27;
        /// v1: there is always something pending.
        PENDING_FOREVER = 28;
        /// v1: data is accessed in aligned words only.
        STRICT_WIDTHS = 29;
        /// v1: chunks lie outside of the region.
        OFFSET_OUTSIDE = 30;
        /// v1: the chain of the region's capabilities goes in circles.
        LOOPING_CHAIN = 31;
        /// v1: the region is that of the patches before it, which are told by their type.
        MID_REGION = 32;
        /// v1, RFC: there are two such regions.
        TWO_REGIONS = 33;
        /// RFC: no memory of its own; all of its state is its configuration.
        NO_DEVICE_MEMORY = 34;
        /// RFC: the fields have a layout of another version.
        OTHER_VERSION = 35;
        /// RFC: a capability that nobody knows.
        UNKNOWN_CAPS = 36;
        /// RFC: the last of the regions that its capabilities need is missing.
        MISSING_REGION = 37;
        /// RFC: its configuration is longer than the region for it.
        CONFIG_TOO_LONG = 38;
        /// RFC: as in its letter, what was not read before LOGGING is not in what is read after.
        FULL_BEFORE_LOGGING = 39;
        /// RFC: a snapshot that was read in part is not in the next one.
        FORGETS_HALF = 40;
    }
}

/// Instead of migration flags: the driver has no migration.
pub const NO_MIGRATION: u32 = 0x8000_0000;

/// Which protocol a device is migrated with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kind {
    /// The newest, of Linux 5.18.
    #[default]
    V2,
    /// That of Linux 5.8 to 5.17: a region.
    V1,
    /// That of the RFC of 2019: regions for fields, for the configuration, and for its memory.
    Rfc,
}

/// How a device is made. Where a zero in the C structure means nothing, it stands for the default;
/// here [`Default`] provides it.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// VFIO_MIGRATION_* or [`NO_MIGRATION`].
    pub migration_flags: u32,
    /// Bytes of device state.
    pub state_size: u64,
    /// Bytes of it, from the front, that pre-copy sends as initial data; 0: a quarter. The rest is
    /// sent when the device has stopped.
    pub initial_size: u64,
    /// The seed of the contents.
    pub seed: u64,
    /// Bits of [`quirk`].
    pub quirks: u64,
    /// Bytes per second that become dirty while the device runs; 0: none.
    pub dirty_rate: u64,
    /// The most bytes per second that reads return; 0: unlimited.
    pub read_rate: u64,
    /// The most bytes per second that writes take; 0: unlimited.
    pub write_rate: u64,
    /// The most bytes that one read returns; 0: unlimited.
    pub max_read: u32,
    /// The most bytes that one write takes; 0: unlimited.
    pub max_write: u32,
    /// Microseconds that entering a state takes, by its number.
    pub transition_us: [u32; 8],
    /// One read or write in every N returns EINTR; 0: none.
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
    /// The smallest pages in which it logs its DMA, in bytes: a power of two; 0: 4096.
    pub log_page_size: u64,
    /// Ranges that its log has room for; with more it returns ENOSPC. 0: as many as the kernel
    /// takes, 256.
    pub log_max_ranges: u32,
    /// How it is migrated.
    pub kind: Kind,
    /// v1: the most bytes of a chunk. RFC: the region through which its memory goes. 0: 64 KiB.
    pub window: u64,
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
            kind: Kind::V2,
            window: 0,
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
    /// Asking where the next chunk is in a region, and how long; RFC: having it, or the configuration, put
    /// there.
    Chunk = 12,
    /// Saying that a chunk, or RFC: the configuration, has been written or will be.
    TakeChunk = 13,
}

impl Op {
    /// In the order of their numbers.
    pub const ALL: [Op; 14] = [
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
        Op::Chunk,
        Op::TakeChunk,
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
    /// The device is gone: from now on everything returns ENODEV, including reset.
    Die = 3,
    /// A change of state stops halfway along its path, then fails; a report of the log forgets what
    /// it should have reported, then fails. For others: like `Once`.
    Half = 4,
    /// The guest resets the device just before; the operation itself is not made to fail.
    Reset = 5,
    /// A change of state claims to be done, and does nothing. For others: no effect.
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
