// SPDX-License-Identifier: MIT OR Apache-2.0
//! Structures that cross the ABI, and how they cross.
//!
//! Each begins with its own size. A structure of an older caller is extended with zeros; one of a
//! newer caller is accepted where everything this version does not know is zero. On the way out
//! the caller's size is honoured and the part beyond this version is zeroed. Layouts are frozen:
//! c-tests/layout.c.

use std::ffi::{c_char, c_int, c_void};
use std::mem::MaybeUninit;

pub use crate::transport::{vfiomig_device_ops, vfiomig_identity, vfiomig_precopy_info};

use crate::alloc;
use crate::device::{Caps, Event, Identity, MAX_VENDOR_DATA, Path, Reason, State};
use crate::error::{Failure, Result, err};
use crate::session::{LoadStats, Pending, SaveStats};
use crate::stream::Format;
use crate::transport::put_fixed_text;

use super::constants::*;

/// One VFIO device. A handle, not memory: only the library's functions can do anything with it.
pub enum vfiomig_device {}
/// One device being saved.
pub enum vfiomig_save {}
/// One device being loaded.
pub enum vfiomig_load {}

/// Told what happens to a device, on the thread that is inside the library.
pub type vfiomig_event_fn =
    Option<unsafe extern "C" fn(opaque: *mut c_void, event: *const vfiomig_event)>;
/// Takes a piece of the VMM's own that came with a stream: 0, or -errno to refuse the stream.
pub type vfiomig_blob_fn = Option<
    unsafe extern "C" fn(opaque: *mut c_void, kind: u32, data: *const c_void, len: usize) -> c_int,
>;
/// Decides whether a stream of `source` may be loaded into `target`: 0, or -errno to refuse it.
pub type vfiomig_policy_fn = Option<
    unsafe extern "C" fn(
        opaque: *mut c_void,
        source: *const vfiomig_identity,
        target: *const vfiomig_identity,
    ) -> c_int,
>;
/// Called exactly once when the library will not use `opaque` any more, also when the call that
/// brought it fails. May be NULL.
pub type vfiomig_release_fn = Option<unsafe extern "C" fn(opaque: *mut c_void)>;

/// How a device is set up; NULL for the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_device_options {
    /// VFIOMIG_DEVICE_OPTIONS_INIT sets it.
    pub struct_size: u32,
    /// VFIOMIG_DEVICE_DISABLED or 0.
    pub flags: u32,
    /// The device's directory in sysfs, for example /sys/bus/pci/devices/0000:3b:00.2 or
    /// /sys/bus/mdev/devices/UUID. Needed for the driver's name and version and the type of an fd that
    /// came from a group; a cdev tells by itself. At most 2000 bytes. NULL: find out.
    pub sysfs_path: *const c_char,
    /// Opaque string that the target compares with its own; NULL: none.
    pub vendor_data: *const c_void,
    /// Its length in bytes, at most 256.
    pub vendor_data_len: u32,
    /// Zero.
    pub reserved: u32,
    /// Told what happens to the device; NULL: nobody.
    pub event: vfiomig_event_fn,
    /// Passed to event.
    pub event_opaque: *mut c_void,
    /// Releases event_opaque.
    pub event_release: vfiomig_release_fn,
}

/// Something that happened to a device.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_event {
    /// Size of this structure in the library.
    pub struct_size: u32,
    /// VFIOMIG_EVENT_*.
    pub kind: u32,
    /// State before, or VFIOMIG_STATE_UNKNOWN.
    pub from: u32,
    /// State after, or VFIOMIG_STATE_UNKNOWN.
    pub to: u32,
    /// VFIOMIG_OUTCOME_*.
    pub outcome: u32,
    /// VFIOMIG_FIXUP_*: what the VMM must redo before the device runs.
    pub fixups: u32,
    /// How long the change took, in nanoseconds.
    pub duration_ns: u64,
}

/// What a device can do.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_caps {
    /// VFIOMIG_CAPS_INIT sets it.
    pub struct_size: u32,
    /// VFIOMIG_CAP_*.
    pub flags: u32,
    /// VFIO_MIGRATION_* as the driver reports them.
    pub migration_flags: u64,
    /// Estimated length of the stop-copy data in bytes; see VFIOMIG_CAP_STATE_SIZE.
    pub state_size: u64,
    /// State in which the device was found, or VFIOMIG_STATE_UNKNOWN.
    pub initial_state: u32,
    /// How many reasons vfiomig_device_get_reason() has.
    pub num_reasons: u32,
}

/// Why a device cannot migrate, or not well.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_reason {
    /// VFIOMIG_REASON_INIT sets it.
    pub struct_size: u32,
    /// VFIOMIG_REASON_*; never changes its meaning.
    pub code: u32,
    /// VFIOMIG_SEVERITY_*.
    pub severity: u32,
    /// Zero.
    pub reserved: u32,
    /// The code as a word, for scripts.
    pub label: [c_char; 32],
    /// What it means here and what to do about it, for people.
    pub text: [c_char; 464],
}

/// What was going on when something failed; zeros where nothing has.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_failure {
    /// VFIOMIG_FAILURE_INIT sets it.
    pub struct_size: u32,
    /// What the function returned: -errno of the library's closed set.
    pub code: i32,
    /// VFIOMIG_OP_*.
    pub operation: u32,
    /// Request number of the ioctl; 0 for read, write and the stream.
    pub ioctl_request: u32,
    /// errno as the kernel or a callback gave it; 0 for the stream.
    pub os_errno: i32,
    /// State before, or VFIOMIG_STATE_UNKNOWN.
    pub state_before: u32,
    /// State that was wanted, or VFIOMIG_STATE_UNKNOWN.
    pub state_wanted: u32,
    /// State afterwards, recovery included, or VFIOMIG_STATE_UNKNOWN.
    pub state_after: u32,
    /// VFIOMIG_OUTCOME_*: what recovery left behind.
    pub outcome: u32,
    /// VFIOMIG_FIXUP_*: what the VMM must redo before the device runs.
    pub fixups: u32,
    /// Bytes of device data (reads and writes) or of the stream before the failure.
    pub offset: u64,
}

/// The way from one state to another.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_path {
    /// VFIOMIG_PATH_INIT sets it.
    pub struct_size: u32,
    /// States that are entered, the last one being the target; 0: there already.
    pub num_steps: u32,
    /// Those states: VFIOMIG_STATE_*.
    pub steps: [u32; 8],
    /// 1: the kernel hands out a new data fd on the way.
    pub opens_data: u32,
    /// Zero.
    pub reserved: u32,
}

/// How a device is saved; NULL for the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_save_options {
    /// VFIOMIG_SAVE_OPTIONS_INIT sets it.
    pub struct_size: u32,
    /// The sum of those of VFIOMIG_SAVE_* that apply, or 0.
    pub flags: u32,
    /// Number of the device within its VM; stands in every frame. QEMU's format has no place for
    /// it: 0.
    pub device_index: u32,
    /// Largest payload of a data frame in bytes; 0: 131040, with its header 128 KiB. In QEMU's
    /// format: longest piece of data; 0: 1 MiB.
    pub max_frame: u32,
    /// How often the save may start again because the device was reset; 0: 16. QEMU's format
    /// cannot start again.
    pub max_restarts: u32,
    /// How the stream is laid out: VFIOMIG_FORMAT_*.
    pub format: u32,
    /// Name of the stream; all zeros: a random one. QEMU's format has no place for it: zeros.
    pub migration_id: [u8; 16],
    /// How long the driver may give neither data nor an end, in milliseconds; 0: 60000.
    pub read_timeout_ms: u32,
    /// Zero.
    pub reserved: u32,
}

/// Estimates of what is left to save.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_pending {
    /// VFIOMIG_PENDING_INIT sets it.
    pub struct_size: u32,
    /// VFIOMIG_PENDING_*.
    pub flags: u32,
    /// Initial data not read yet, in bytes.
    pub initial_bytes: u64,
    /// Data that became dirty since it was read, in bytes.
    pub dirty_bytes: u64,
    /// What stop-copy will send, in bytes.
    pub stop_copy_bytes: u64,
    /// Rises when the device starts its initial data again: an acknowledgement of an earlier
    /// generation does not count any more.
    pub initial_generation: u32,
    /// Zero.
    pub reserved: u32,
}

/// What a save has done so far.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_save_stats {
    /// VFIOMIG_SAVE_STATS_INIT sets it.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// Device data returned, in bytes, restarts included.
    pub data_bytes: u64,
    /// Part of it that was read before the device stopped, in bytes.
    pub precopy_bytes: u64,
    /// The whole stream returned, in bytes.
    pub stream_bytes: u64,
    /// Frames returned.
    pub frames: u64,
    /// How often the save started again because the device was reset.
    pub restarts: u64,
    /// Time inside the driver's reads after the device stopped, in nanoseconds.
    pub stop_read_ns: u64,
    /// Time of the change to PRE_COPY, in nanoseconds.
    pub begin_ns: u64,
    /// Time of the change to PRE_COPY_P2P or RUNNING_P2P, in nanoseconds.
    pub quiesce_ns: u64,
    /// Time of the change to STOP_COPY, in nanoseconds.
    pub stop_ns: u64,
    /// Time of the change that ended the save, in nanoseconds.
    pub finish_ns: u64,
}

/// How a device is loaded; NULL for the defaults. Limits of 0 mean the default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_load_options {
    /// VFIOMIG_LOAD_OPTIONS_INIT sets it.
    pub struct_size: u32,
    /// Fields of the identity that need not match: VFIOMIG_IGNORE_*.
    pub ignore: u32,
    /// Largest payload of a data frame, or data of a packet, in bytes; default 4 MiB.
    pub max_frame: u32,
    /// Largest blob, or configuration in a packet, in bytes; default 1 MiB.
    pub max_blob: u32,
    /// Number of blobs; default 256.
    pub max_blobs: u32,
    /// How often the source may start again; default 64.
    pub max_restarts: u32,
    /// Device data and frames that are skipped in all, in bytes; default 1 TiB.
    pub max_total: u64,
    /// Packets that wait for their turn, in bytes; default 1 GiB. Beyond it
    /// vfiomig_load_push_packet() waits.
    pub max_queued: u64,
    /// How far ahead of the next one in order a packet may come; default 1048576.
    pub max_ahead: u32,
    /// How long the driver may take no data, in milliseconds; default 60000.
    pub write_timeout_ms: u32,
    /// The sum of those of VFIOMIG_LOAD_* that apply, or 0.
    pub flags: u32,
    /// Number of the device within its VM that the stream must have; see flags.
    pub device_index: u32,
    /// How the stream is laid out: VFIOMIG_FORMAT_*.
    pub format: u32,
    /// Zero.
    pub reserved: u32,
    /// Name that the stream must have; see flags.
    pub migration_id: [u8; 16],
    /// Takes the VMM's own pieces; NULL: a stream that has any is refused.
    pub blob: vfiomig_blob_fn,
    /// Passed to blob.
    pub blob_opaque: *mut c_void,
    /// Releases blob_opaque.
    pub blob_release: vfiomig_release_fn,
    /// Decides in addition to the comparison of identities; NULL: only that.
    pub policy: vfiomig_policy_fn,
    /// Passed to policy.
    pub policy_opaque: *mut c_void,
    /// Releases policy_opaque.
    pub policy_release: vfiomig_release_fn,
}

/// What a load has done so far.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_load_stats {
    /// VFIOMIG_LOAD_STATS_INIT sets it.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// Device data written to the driver, in bytes, restarts included.
    pub data_bytes: u64,
    /// The whole stream taken, in bytes, without packets.
    pub stream_bytes: u64,
    /// Frames taken; in QEMU's format pieces of data on the main channel.
    pub frames: u64,
    /// Packets taken.
    pub packets: u64,
    /// Bytes of packets that wait for their turn or are being written, now; with 128 bytes for
    /// each.
    pub queued_bytes: u64,
    /// How often the source started again.
    pub restarts: u64,
    /// Blobs handed to the callback.
    pub blobs: u64,
    /// Time inside the driver's writes, in nanoseconds.
    pub write_ns: u64,
    /// Time of the change to RESUMING, in nanoseconds.
    pub begin_ns: u64,
    /// Time of the change that made the driver check and take the state, in nanoseconds.
    pub commit_ns: u64,
    /// Generation of the initial data that came last, as in struct vfiomig_pending; 0: none yet.
    pub initial_generation: u64,
}

/// A structure that begins with its own size and is valid when all its bytes are zero.
///
/// # Safety
/// `repr(C)`, `u32` size first, no padding that matters, valid as zeros.
pub(in crate::capi) unsafe trait Sized32: Copy {}

macro_rules! sized32 {
    ($($name:ident),*) => {
        // SAFETY: all are repr(C), begin with struct_size and consist of integers, arrays of
        // integers, raw pointers and optional function pointers.
        $(unsafe impl Sized32 for $name {})*
    };
}
sized32!(
    vfiomig_device_ops,
    vfiomig_identity,
    vfiomig_device_options,
    vfiomig_event,
    vfiomig_caps,
    vfiomig_reason,
    vfiomig_failure,
    vfiomig_path,
    vfiomig_save_options,
    vfiomig_pending,
    vfiomig_save_stats,
    vfiomig_load_options,
    vfiomig_load_stats
);

/// No structure of any version is larger: a size beyond this is not one.
const MAX_STRUCT: usize = 64 << 10;

/// The size that a caller claims, checked.
unsafe fn claimed_size<T>(from: *const T, what: &str) -> Result<usize> {
    if from.is_null() {
        return Err(err!(Fault, "{what} is NULL"));
    }
    // SAFETY: the caller's contract: a structure, which begins with its size.
    let size = unsafe { from.cast::<u32>().read_unaligned() } as usize;
    // All structures are of the first version so far: none may be shorter.
    if size < size_of::<T>() || size > MAX_STRUCT {
        return Err(err!(
            Inval,
            "struct_size of {what} is {size}, not {}; initialise it with its _INIT macro",
            size_of::<T>()
        ));
    }
    Ok(size)
}

/// What is wrong with the part of a structure that this version does not know.
pub(in crate::capi) struct Tail(Result<()>);

impl Tail {
    pub(in crate::capi) fn check(self) -> Result<()> {
        self.0
    }
}

/// Copies a structure in. The tail is judged separately, so that callbacks in the known part can
/// be released even where the structure is refused.
///
/// # Safety
/// `from` is NULL or points to a structure as long as its first member says.
pub(in crate::capi) unsafe fn read_in<T: Sized32>(from: *const T, what: &str) -> Result<(T, Tail)> {
    // SAFETY: the caller's contract.
    let size = unsafe { claimed_size(from, what)? };
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `from` has at least `size_of::<T>()` bytes, and `T` is valid for any of them.
    let value = unsafe {
        std::ptr::copy_nonoverlapping(from.cast::<u8>(), value.as_mut_ptr().cast(), size_of::<T>());
        value.assume_init()
    };
    // SAFETY: the caller's contract: `size` bytes are there.
    let tail = unsafe {
        std::slice::from_raw_parts(from.cast::<u8>().add(size_of::<T>()), size - size_of::<T>())
    };
    let tail = match tail.iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => Err(err!(
            TooBig,
            "{what} has members that this version of the library does not know, and they are set"
        )),
    };
    Ok((value, Tail(tail)))
}

/// Checks a structure that is to be filled before anything is done for it.
///
/// # Safety
/// As [`read_in`].
pub(in crate::capi) unsafe fn check_out<T: Sized32>(to: *const T, what: &str) -> Result<()> {
    // SAFETY: the caller's contract.
    unsafe { claimed_size(to, what) }.map(drop)
}

/// Copies a structure out.
///
/// # Safety
/// `to` is NULL or points to a writable structure as long as its first member says.
pub(in crate::capi) unsafe fn write_out<T: Sized32>(
    to: *mut T,
    value: &T,
    what: &str,
) -> Result<()> {
    // SAFETY: the caller's contract.
    let size = unsafe { claimed_size(to, what)? };
    // SAFETY: `size` bytes are writable, and `T` is no longer than that; the size member, which
    // lies first, stays as the caller set it.
    unsafe {
        let bytes = to.cast::<u8>();
        let known = size_of::<T>();
        std::ptr::copy_nonoverlapping(
            std::ptr::from_ref(value).cast::<u8>().add(4),
            bytes.add(4),
            known - 4,
        );
        bytes.add(known).write_bytes(0, size - known);
    }
    Ok(())
}

fn raw(state: Option<State>) -> u32 {
    state.map_or(VFIOMIG_STATE_UNKNOWN, State::raw)
}

pub(super) fn flag(set: bool, bit: u32) -> u32 {
    if set { bit } else { 0 }
}

impl From<&Event> for vfiomig_event {
    fn from(event: &Event) -> Self {
        vfiomig_event {
            struct_size: size_of::<Self>() as u32,
            kind: event.kind as u32,
            from: raw(event.from),
            to: raw(event.to),
            outcome: event.outcome as u32,
            fixups: event.fixups,
            duration_ns: event.duration_ns,
        }
    }
}

impl vfiomig_caps {
    pub(super) fn new(caps: &Caps, num_reasons: usize) -> Self {
        vfiomig_caps {
            struct_size: 0,
            flags: flag(caps.can_migrate(), VFIOMIG_CAP_MIGRATE)
                | flag(caps.has_pre_copy(), VFIOMIG_CAP_PRE_COPY)
                | flag(caps.has_p2p(), VFIOMIG_CAP_P2P)
                | flag(caps.dma_logging, VFIOMIG_CAP_DMA_LOGGING)
                | flag(caps.precopy_info_v2, VFIOMIG_CAP_PRECOPY_INFO_V2)
                | flag(caps.state_size.is_some(), VFIOMIG_CAP_STATE_SIZE),
            migration_flags: caps.migration_flags,
            state_size: caps.state_size.unwrap_or(0),
            initial_state: raw(caps.initial_state),
            num_reasons: u32::try_from(num_reasons).unwrap_or(u32::MAX),
        }
    }
}

impl From<&Reason> for vfiomig_reason {
    fn from(reason: &Reason) -> Self {
        let mut out = vfiomig_reason {
            struct_size: 0,
            code: reason.code as u32,
            severity: reason.code.severity() as u32,
            reserved: 0,
            label: [0; 32],
            text: [0; 464],
        };
        put_fixed_text(&mut out.label, reason.code.label());
        put_fixed_text(&mut out.text, &reason.text);
        out
    }
}

impl From<Option<Failure>> for vfiomig_failure {
    fn from(failure: Option<Failure>) -> Self {
        let known = failure.is_some();
        let failure = failure.unwrap_or_default();
        vfiomig_failure {
            struct_size: 0,
            code: failure.code,
            operation: failure.operation as u32,
            ioctl_request: failure.ioctl,
            os_errno: failure.errno,
            state_before: if known { raw(failure.state_before) } else { 0 },
            state_wanted: if known { raw(failure.state_wanted) } else { 0 },
            state_after: if known { raw(failure.state_after) } else { 0 },
            outcome: failure.outcome as u32,
            fixups: failure.fixups,
            offset: failure.offset,
        }
    }
}

impl From<&Path> for vfiomig_path {
    fn from(path: &Path) -> Self {
        let mut out = vfiomig_path {
            struct_size: 0,
            num_steps: path.steps.len() as u32,
            steps: [0; 8],
            opens_data: u32::from(path.opens_data),
            reserved: 0,
        };
        for (slot, step) in out.steps.iter_mut().zip(path.steps.iter()) {
            *slot = step.raw();
        }
        out
    }
}

impl From<&Pending> for vfiomig_pending {
    fn from(pending: &Pending) -> Self {
        vfiomig_pending {
            struct_size: 0,
            flags: flag(pending.precopy_known, VFIOMIG_PENDING_PRE_COPY_KNOWN)
                | flag(pending.stop_copy_known, VFIOMIG_PENDING_STOP_COPY_KNOWN)
                | flag(pending.initial_sent, VFIOMIG_PENDING_INITIAL_SENT),
            initial_bytes: pending.initial_bytes,
            dirty_bytes: pending.dirty_bytes,
            stop_copy_bytes: pending.stop_copy_bytes,
            initial_generation: pending.initial_generation,
            reserved: 0,
        }
    }
}

impl From<SaveStats> for vfiomig_save_stats {
    fn from(stats: SaveStats) -> Self {
        let SaveStats {
            data_bytes,
            precopy_bytes,
            stream_bytes,
            frames,
            restarts,
            stop_read_ns,
            begin_ns,
            quiesce_ns,
            stop_ns,
            finish_ns,
        } = stats;
        vfiomig_save_stats {
            struct_size: 0,
            reserved: 0,
            data_bytes,
            precopy_bytes,
            stream_bytes,
            frames,
            restarts,
            stop_read_ns,
            begin_ns,
            quiesce_ns,
            stop_ns,
            finish_ns,
        }
    }
}

impl From<LoadStats> for vfiomig_load_stats {
    fn from(stats: LoadStats) -> Self {
        let LoadStats {
            data_bytes,
            stream_bytes,
            frames,
            packets,
            queued_bytes,
            restarts,
            blobs,
            write_ns,
            begin_ns,
            commit_ns,
            initial_generation,
        } = stats;
        vfiomig_load_stats {
            struct_size: 0,
            reserved: 0,
            data_bytes,
            stream_bytes,
            frames,
            packets,
            queued_bytes,
            restarts,
            blobs,
            write_ns,
            begin_ns,
            commit_ns,
            initial_generation,
        }
    }
}

impl From<&Identity> for vfiomig_identity {
    fn from(identity: &Identity) -> Self {
        let [vendor, device, sub_vendor, sub_device] = identity.pci;
        let mut out = vfiomig_identity {
            migration_flags: identity.migration_flags,
            pci_vendor: vendor,
            pci_device: device,
            pci_subsystem_vendor: sub_vendor,
            pci_subsystem_device: sub_device,
            pci_revision: identity.pci_revision,
            vendor_data_len: identity.vendor_data.len().min(MAX_VENDOR_DATA) as u32,
            state_size: identity.state_size,
            ..vfiomig_identity::default()
        };
        put_fixed_text(&mut out.bus, &identity.bus);
        put_fixed_text(&mut out.driver, &identity.driver);
        put_fixed_text(&mut out.mdev_type, &identity.mdev_type);
        put_fixed_text(&mut out.kernel_release, &identity.kernel_release);
        put_fixed_text(&mut out.vendor_type, &identity.vendor_type);
        put_fixed_text(&mut out.driver_version, &identity.driver_version);
        for (slot, byte) in out.vendor_data.iter_mut().zip(&identity.vendor_data) {
            *slot = *byte;
        }
        out
    }
}

/// The format that the options name.
pub(super) fn format(format: u32, packets: bool) -> Result<Format> {
    match (format, packets) {
        (VFIOMIG_FORMAT_NATIVE, _) => Ok(Format::Native),
        (VFIOMIG_FORMAT_QEMU, false) => Ok(Format::Qemu),
        (VFIOMIG_FORMAT_QEMU, true) => Ok(Format::QemuPackets),
        _ => Err(err!(Inval, "there is no format {format}")),
    }
}

/// A path, or nothing for NULL.
///
/// # Safety
/// NULL or a NUL-terminated string.
pub(super) unsafe fn optional_path(from: *const c_char) -> Result<Option<std::path::PathBuf>> {
    use std::os::unix::ffi::OsStringExt;
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's contract.
    let bytes = unsafe { std::ffi::CStr::from_ptr(from) }.to_bytes();
    // Names are joined to it, which must not need more than the reserve has.
    if bytes.len() > MAX_PATH {
        return Err(err!(Inval, "the path has {} bytes; the most is {MAX_PATH}", bytes.len()));
    }
    let bytes = alloc::copy(bytes, "no memory for a path")?;
    Ok(Some(std::ffi::OsString::from_vec(bytes).into()))
}

/// The longest path of a device, in bytes.
const MAX_PATH: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[repr(C)]
    struct Newer {
        caps: vfiomig_caps,
        future: u64,
    }

    fn newer(future: u64) -> Newer {
        let mut caps = vfiomig_caps::new(&no_caps(), 0);
        caps.struct_size = size_of::<Newer>() as u32;
        Newer { caps, future }
    }

    fn no_caps() -> Caps {
        Caps {
            migration_flags: 0,
            initial_state: None,
            state_size: None,
            dma_logging: false,
            precopy_info_v2: false,
        }
    }

    #[test]
    fn a_newer_callers_structure_is_accepted_while_its_tail_is_zero() {
        for (future, expected) in [(0, None), (1, Some(Code::TooBig))] {
            let theirs = newer(future);
            // SAFETY: a structure with its size.
            let (_, tail) = unsafe { read_in(&raw const theirs.caps, "caps") }.unwrap();
            assert_eq!(tail.check().err().map(|e| e.code()), expected);
        }
    }

    #[test]
    fn a_newer_callers_structure_is_filled_and_its_tail_zeroed() {
        let mut theirs = newer(77);
        let ours = vfiomig_caps::new(&no_caps(), 3);
        // SAFETY: a structure with its size.
        unsafe { write_out((&raw mut theirs).cast::<vfiomig_caps>(), &ours, "caps") }.unwrap();
        assert_eq!(theirs.caps.struct_size as usize, size_of::<Newer>());
        assert_eq!((theirs.caps.num_reasons, theirs.future), (3, 0));
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_and_nothing_is_written() {
        for size in [0, 3, size_of::<vfiomig_caps>() as u32 - 1, 1 << 20, u32::MAX] {
            let mut theirs = newer(5);
            theirs.caps.struct_size = size;
            theirs.caps.num_reasons = 9;
            let ours = vfiomig_caps::new(&no_caps(), 3);
            // SAFETY: the size is refused before it is believed.
            let error = unsafe { write_out(&raw mut theirs.caps, &ours, "caps") }.unwrap_err();
            assert_eq!(error.code(), Code::Inval);
            assert_eq!((theirs.caps.num_reasons, theirs.future), (9, 5));
        }
    }
}
