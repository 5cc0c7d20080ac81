// SPDX-License-Identifier: MIT OR Apache-2.0
//! The constants of `vfiomig_device_*`.

use crate::capi::numbers::{same_flags, same_numbers};
use crate::device::{Fixups, ReasonCode, Severity};
use crate::error::{Result, err};
use crate::history::{self, Cause, Format, What};

/// The administrator's switch: the device is probed, but not migrated.
pub const VFIOMIG_DEVICE_DISABLED: u32 = 1 << 0;

/// The device can be saved and loaded.
pub const VFIOMIG_CAP_MIGRATE: u32 = 1 << 0;
/// It can be saved while the guest runs.
pub const VFIOMIG_CAP_PRE_COPY: u32 = 1 << 1;
/// It has peer-to-peer states.
pub const VFIOMIG_CAP_P2P: u32 = 1 << 2;
/// It logs the pages that it writes, and the kernel can report them.
pub const VFIOMIG_CAP_DMA_LOGGING: u32 = 1 << 3;
/// It says when initial data starts again during pre-copy.
pub const VFIOMIG_CAP_PRECOPY_INFO_V2: u32 = 1 << 4;
/// state_size is credible.
pub const VFIOMIG_CAP_STATE_SIZE: u32 = 1 << 5;

/// A history as text: a line for each event.
pub const VFIOMIG_HISTORY_TEXT: u32 = 1;
/// A history as JSON: an object in each line.
pub const VFIOMIG_HISTORY_JSON: u32 = 2;
/// Enough for the history of any device, in bytes; for one of a group, that much for each device and
/// once more.
pub const VFIOMIG_HISTORY_BYTES: usize = 131072;
/// Enough for the first line of a device's history, in bytes.
pub const VFIOMIG_HISTORY_LEAST: usize = 4096;

/// The device cannot be migrated.
pub const VFIOMIG_SEVERITY_BLOCKS: u32 = 0;
/// It can be migrated, but with a longer downtime, more pages sent again, or not together with
/// other devices.
pub const VFIOMIG_SEVERITY_LIMITS: u32 = 1;
/// Good to know.
pub const VFIOMIG_SEVERITY_INFO: u32 = 2;

/// The VMM switched migration off.
pub const VFIOMIG_REASON_DISABLED: u32 = 1;
/// The kernel has no VFIO migration.
pub const VFIOMIG_REASON_KERNEL_TOO_OLD: u32 = 2;
/// The driver bound to the device does not support migration.
pub const VFIOMIG_REASON_DRIVER_NO_MIGRATION: u32 = 3;
/// The driver's migration flags do not include STOP_COPY.
pub const VFIOMIG_REASON_NO_STOP_COPY: u32 = 4;
/// The device's state cannot be read.
pub const VFIOMIG_REASON_STATE_UNREADABLE: u32 = 5;
/// The device is in ERROR; reset it.
pub const VFIOMIG_REASON_DEVICE_IN_ERROR: u32 = 6;
/// An earlier owner left the device in a state other than RUNNING.
pub const VFIOMIG_REASON_STALE_STATE: u32 = 7;
/// There is no pre-copy: the whole state is sent while the guest is stopped.
pub const VFIOMIG_REASON_NO_PRE_COPY: u32 = 8;
/// There are no peer-to-peer states: several devices cannot be stopped together safely.
pub const VFIOMIG_REASON_NO_P2P: u32 = 9;
/// The size of the state is not known in advance.
pub const VFIOMIG_REASON_NO_DATA_SIZE: u32 = 10;
/// The device does not log the pages it writes.
pub const VFIOMIG_REASON_NO_DMA_LOGGING: u32 = 11;
/// The device logs the pages it writes, but the kernel cannot report them.
pub const VFIOMIG_REASON_DMA_LOGGING_UNUSABLE: u32 = 12;
/// The kernel does not say when initial data starts again.
pub const VFIOMIG_REASON_NO_PRECOPY_INFO_V2: u32 = 13;
/// Migration is switched off by VFIOMIG_DISABLE in the process's environment.
pub const VFIOMIG_REASON_DISABLED_BY_ENVIRONMENT: u32 = 14;
/// Migration is switched off in this process: see vfiomig_process_set_allowed().
pub const VFIOMIG_REASON_DISABLED_BY_PROCESS: u32 = 15;
/// Migration is switched off by a policy file: see vfiomig-policy(5).
pub const VFIOMIG_REASON_DISABLED_BY_POLICY: u32 = 16;
/// Saving is switched off, by one of these three. Loading is not.
pub const VFIOMIG_REASON_SAVE_DISABLED: u32 = 17;
/// Loading is switched off, by one of these three. Saving is not.
pub const VFIOMIG_REASON_LOAD_DISABLED: u32 = 18;
/// The device has the migration region of patches of 2018 and 2019 that no kernel has.
pub const VFIOMIG_REASON_MID_PROTOCOL: u32 = 19;
/// The device has migration regions of older kernels, and they cannot be used.
pub const VFIOMIG_REASON_REGIONS_UNUSABLE: u32 = 20;

/// Write PCI_COMMAND again: memory, I/O and bus-master enables are not part of the state.
pub const VFIOMIG_FIXUP_PCI_COMMAND: u32 = 1 << 0;
/// Set up INTx, MSI and MSI-X eventfds again (VFIO_DEVICE_SET_IRQS).
pub const VFIOMIG_FIXUP_INTERRUPTS: u32 = 1 << 1;

/// The device went from one state to another.
pub const VFIOMIG_EVENT_STATE_CHANGED: u32 = 1;
/// Recovery from a failed change has ended; the outcome says how.
pub const VFIOMIG_EVENT_RECOVERED: u32 = 2;
/// The device was reset, by the library or behind its back, or could not be reset (VFIOMIG_OUTCOME_LOST).
pub const VFIOMIG_EVENT_RESET: u32 = 3;
/// A save started again because the device was reset: everything sent before is void.
pub const VFIOMIG_EVENT_SAVE_RESTARTED: u32 = 4;
/// The VMM must redo something before the device runs.
pub const VFIOMIG_EVENT_FIXUPS_NEEDED: u32 = 5;
/// The source of a load started again: earlier blobs and acknowledgements are void. A callback gets it
/// at its place among the blobs.
pub const VFIOMIG_EVENT_LOAD_RESTARTED: u32 = 6;
/// The library was given the device. This and what follows is not told to callbacks, but queued:
/// vfiomig_group_next_event(), vfiomig_device_next_event().
pub const VFIOMIG_EVENT_OPENED: u32 = 7;
/// The driver is asked to take the device from one state to another.
pub const VFIOMIG_EVENT_STATE_ASKED: u32 = 8;
/// The driver failed at an operation.
pub const VFIOMIG_EVENT_DRIVER_FAILED: u32 = 9;
/// A save began.
pub const VFIOMIG_EVENT_SAVE_BEGAN: u32 = 10;
/// The first data of pre-copy or of the stopped device was read, or is about to be written.
pub const VFIOMIG_EVENT_FIRST_DATA: u32 = 11;
/// The running device has nothing more for now, for the count-th time.
pub const VFIOMIG_EVENT_ROUND: u32 = 12;
/// All initial data of generation count was read.
pub const VFIOMIG_EVENT_INITIAL_SENT: u32 = 13;
/// The device has started its initial data again: generation count.
pub const VFIOMIG_EVENT_INITIAL_RESTARTED: u32 = 14;
/// The device's stream was read to its end.
pub const VFIOMIG_EVENT_LAST_DATA: u32 = 15;
/// A save was released or kept; text says which.
pub const VFIOMIG_EVENT_SAVE_ENDED: u32 = 16;
/// A load began.
pub const VFIOMIG_EVENT_LOAD_BEGAN: u32 = 17;
/// The device has taken all initial data of generation count.
pub const VFIOMIG_EVENT_INITIAL_LOADED: u32 = 18;
/// The device's stream has come to its end.
pub const VFIOMIG_EVENT_LOAD_COMPLETE: u32 = 19;
/// The driver has accepted the device's state.
pub const VFIOMIG_EVENT_COMMITTED: u32 = 20;
/// A load was given up.
pub const VFIOMIG_EVENT_LOAD_ABANDONED: u32 = 21;
/// A load has failed, and lets go of its device.
pub const VFIOMIG_EVENT_LOAD_FAILED: u32 = 22;
/// The session was cancelled.
pub const VFIOMIG_EVENT_CANCELLED: u32 = 23;
/// A call failed.
pub const VFIOMIG_EVENT_ERROR: u32 = 24;
/// The group has gone on to another phase.
pub const VFIOMIG_EVENT_PHASE: u32 = 25;
/// What the group's estimate says of the switchover is another thing than before.
pub const VFIOMIG_EVENT_VERDICT: u32 = 26;

/// vfiomig_device_reset() was called, or a group has abandoned the device.
pub const VFIOMIG_CAUSE_ASKED: u32 = 1;
/// The VMM said so: vfiomig_device_notify_reset().
pub const VFIOMIG_CAUSE_TOLD: u32 = 2;
/// It was in RUNNING without having been asked: somebody else has reset it.
pub const VFIOMIG_CAUSE_FOUND: u32 = 3;
/// After a change of state that failed, nothing else helped.
pub const VFIOMIG_CAUSE_RECOVERY: u32 = 4;
/// An earlier owner, or an earlier failure, left it where only a reset helps.
pub const VFIOMIG_CAUSE_LEFT_BEHIND: u32 = 5;
/// The source of a load started again.
pub const VFIOMIG_CAUSE_SOURCE_RESTARTED: u32 = 6;
/// The load has failed.
pub const VFIOMIG_CAUSE_LOAD_FAILED: u32 = 7;
/// The load was given up.
pub const VFIOMIG_CAUSE_LOAD_ABANDONED: u32 = 8;
/// A save's end found no other way back.
pub const VFIOMIG_CAUSE_ENDING: u32 = 9;
/// The last handle was freed, with a session left open or after a reset that failed.
pub const VFIOMIG_CAUSE_LET_GO: u32 = 10;

/// The event is of the group, or of a device by itself.
pub const VFIOMIG_EVENT_NO_DEVICE: u32 = u32::MAX;

same_numbers!(Severity:
    VFIOMIG_SEVERITY_BLOCKS = Blocks,
    VFIOMIG_SEVERITY_LIMITS = Limits,
    VFIOMIG_SEVERITY_INFO = Info,
);
same_numbers!(ReasonCode:
    VFIOMIG_REASON_DISABLED = Disabled,
    VFIOMIG_REASON_KERNEL_TOO_OLD = KernelTooOld,
    VFIOMIG_REASON_DRIVER_NO_MIGRATION = DriverNoMigration,
    VFIOMIG_REASON_NO_STOP_COPY = NoStopCopy,
    VFIOMIG_REASON_STATE_UNREADABLE = StateUnreadable,
    VFIOMIG_REASON_DEVICE_IN_ERROR = DeviceInError,
    VFIOMIG_REASON_STALE_STATE = StaleState,
    VFIOMIG_REASON_NO_PRE_COPY = NoPreCopy,
    VFIOMIG_REASON_NO_P2P = NoP2p,
    VFIOMIG_REASON_NO_DATA_SIZE = NoDataSize,
    VFIOMIG_REASON_NO_DMA_LOGGING = NoDmaLogging,
    VFIOMIG_REASON_DMA_LOGGING_UNUSABLE = DmaLoggingUnusable,
    VFIOMIG_REASON_NO_PRECOPY_INFO_V2 = NoPrecopyInfoV2,
    VFIOMIG_REASON_DISABLED_BY_ENVIRONMENT = DisabledByEnvironment,
    VFIOMIG_REASON_DISABLED_BY_PROCESS = DisabledByProcess,
    VFIOMIG_REASON_DISABLED_BY_POLICY = DisabledByPolicy,
    VFIOMIG_REASON_SAVE_DISABLED = SaveDisabled,
    VFIOMIG_REASON_LOAD_DISABLED = LoadDisabled,
    VFIOMIG_REASON_MID_PROTOCOL = MidProtocol,
    VFIOMIG_REASON_REGIONS_UNUSABLE = RegionsUnusable,
);
same_flags!(Fixups:
    VFIOMIG_FIXUP_PCI_COMMAND = PCI_COMMAND,
    VFIOMIG_FIXUP_INTERRUPTS = INTERRUPTS,
);
same_numbers!(What:
    VFIOMIG_EVENT_STATE_CHANGED = StateChanged,
    VFIOMIG_EVENT_RECOVERED = Recovered,
    VFIOMIG_EVENT_RESET = Reset,
    VFIOMIG_EVENT_SAVE_RESTARTED = SaveRestarted,
    VFIOMIG_EVENT_FIXUPS_NEEDED = FixupsNeeded,
    VFIOMIG_EVENT_LOAD_RESTARTED = LoadRestarted,
    VFIOMIG_EVENT_OPENED = Opened,
    VFIOMIG_EVENT_STATE_ASKED = StateAsked,
    VFIOMIG_EVENT_DRIVER_FAILED = DriverFailed,
    VFIOMIG_EVENT_SAVE_BEGAN = SaveBegan,
    VFIOMIG_EVENT_FIRST_DATA = FirstData,
    VFIOMIG_EVENT_ROUND = Round,
    VFIOMIG_EVENT_INITIAL_SENT = InitialSent,
    VFIOMIG_EVENT_INITIAL_RESTARTED = InitialRestarted,
    VFIOMIG_EVENT_LAST_DATA = LastData,
    VFIOMIG_EVENT_SAVE_ENDED = SaveEnded,
    VFIOMIG_EVENT_LOAD_BEGAN = LoadBegan,
    VFIOMIG_EVENT_INITIAL_LOADED = InitialLoaded,
    VFIOMIG_EVENT_LOAD_COMPLETE = LoadComplete,
    VFIOMIG_EVENT_COMMITTED = Committed,
    VFIOMIG_EVENT_LOAD_ABANDONED = LoadAbandoned,
    VFIOMIG_EVENT_LOAD_FAILED = LoadFailed,
    VFIOMIG_EVENT_CANCELLED = Cancelled,
    VFIOMIG_EVENT_ERROR = Error,
    VFIOMIG_EVENT_PHASE = Phase,
    VFIOMIG_EVENT_VERDICT = Verdict,
);
same_numbers!(Cause:
    VFIOMIG_CAUSE_ASKED = Asked,
    VFIOMIG_CAUSE_TOLD = Told,
    VFIOMIG_CAUSE_FOUND = Found,
    VFIOMIG_CAUSE_RECOVERY = Recovery,
    VFIOMIG_CAUSE_LEFT_BEHIND = LeftBehind,
    VFIOMIG_CAUSE_SOURCE_RESTARTED = SourceRestarted,
    VFIOMIG_CAUSE_LOAD_FAILED = LoadFailed,
    VFIOMIG_CAUSE_LOAD_ABANDONED = LoadAbandoned,
    VFIOMIG_CAUSE_ENDING = Ending,
    VFIOMIG_CAUSE_LET_GO = LetGo,
);

same_numbers!(Format: VFIOMIG_HISTORY_TEXT = Text, VFIOMIG_HISTORY_JSON = Json);
same_numbers!(
    VFIOMIG_HISTORY_BYTES = history::MAX_BYTES,
    VFIOMIG_HISTORY_LEAST = history::LEAST_BYTES,
);

/// How a history is written.
pub(in crate::capi) fn to_format(format: u32) -> Result<Format> {
    match format {
        VFIOMIG_HISTORY_TEXT => Ok(Format::Text),
        VFIOMIG_HISTORY_JSON => Ok(Format::Json),
        other => Err(err!(Inval, "there is no VFIOMIG_HISTORY_* format with the number {other}")),
    }
}
