// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structures and callbacks of `vfiomig_device_*`.

use std::ffi::{c_char, c_void};

pub use crate::transport::{vfiomig_device_ops, vfiomig_identity, vfiomig_precopy_info};

use super::constants::*;
use crate::alloc;
use crate::capi::args::{bytes, path};
use crate::capi::callbacks::{Opaque, vfiomig_release_fn};
use crate::capi::error::{VFIOMIG_OP_NONE, VFIOMIG_OUTCOME_KEPT};
use crate::capi::fsm::raw;
use crate::capi::numbers::flag;
use crate::capi::sized::sized32;
use crate::device::{Caps, DeviceOptions, Event, EventSink, Identity, MAX_VENDOR_DATA, Reason};
use crate::error::{Code, Result, err};
use crate::history::{self, OfGroup, Short, What};
use crate::transport::put_fixed_text;

/// One VFIO device. A handle, not memory: only the library's functions can use it.
pub enum vfiomig_device {}

/// Reports what happens to a device, on the thread that is inside the library.
pub type vfiomig_event_fn =
    Option<unsafe extern "C" fn(opaque: *mut c_void, event: *const vfiomig_event)>;

/// How a device is set up; NULL for the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_device_options {
    /// VFIOMIG_DEVICE_OPTIONS_INIT sets it.
    pub struct_size: u32,
    /// VFIOMIG_DEVICE_DISABLED or 0.
    pub flags: u32,
    /// The device's directory in sysfs, for example /sys/bus/pci/devices/0000:3b:00.2 or
    /// /sys/bus/mdev/devices/UUID. For an fd from a group, it is needed to find the driver's name
    /// and version and the device's type; a cdev finds its own. A load compares what is known of
    /// its target, and chooses the guard by it. At most 2000 bytes. NULL: the library tries to find
    /// it.
    pub sysfs_path: *const c_char,
    /// An opaque string that the target compares with its own; NULL: none.
    pub vendor_data: *const c_void,
    /// Its length in bytes, at most 256.
    pub vendor_data_len: u32,
    /// Zero.
    pub reserved: u32,
    /// Reports what happens to the device; NULL: no reports.
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
    /// VFIOMIG_EVENT_INIT sets it. In a callback: the size of this structure in the library.
    pub struct_size: u32,
    /// VFIOMIG_EVENT_*. More may come.
    pub kind: u32,
    /// The state before, or VFIOMIG_STATE_UNKNOWN.
    pub from: u32,
    /// The state after, or VFIOMIG_STATE_UNKNOWN. Another change may follow in the same call:
    /// after a reset, for example, from RUNNING to RUNNING_P2P.
    pub to: u32,
    /// VFIOMIG_OUTCOME_*: what recovery, a reset or what led to a restart left behind, and of an error
    /// what it left behind. In other events it is VFIOMIG_OUTCOME_KEPT, which says nothing.
    pub outcome: u32,
    /// Bitwise OR of VFIOMIG_FIXUP_*: what the VMM must redo before the device runs. Only in events of
    /// which callbacks hear; ask vfiomig_device_get_fixups() otherwise.
    pub fixups: u32,
    /// How long the change took, in nanoseconds; of VFIOMIG_EVENT_VERDICT, the downtime that is expected,
    /// without what was never measured.
    pub duration_ns: u64,
    /// When it happened, on CLOCK_MONOTONIC, in nanoseconds; if it was repeated, the last time. 0 in
    /// callbacks, as are all members that follow.
    pub at_ns: u64,
    /// How many events were dropped since the one that was returned before this.
    pub lost: u64,
    /// How often it happened in a row.
    pub times: u64,
    /// The device's data so far, in bytes; in errors of a load's stream, bytes of the stream.
    pub bytes: u64,
    /// A round, a generation of initial data, a restart.
    pub count: u64,
    /// The device's number in the group, or VFIOMIG_EVENT_NO_DEVICE. Of VFIOMIG_EVENT_VERDICT, the device
    /// that is the reason; VFIOMIG_EVENT_NO_DEVICE: all.
    pub device: u32,
    /// Of an error: what the call returned, -errno.
    pub code: i32,
    /// VFIOMIG_OP_*: what failed.
    pub operation: u32,
    /// The errno that the kernel or a callback gave.
    pub os_errno: i32,
    /// VFIOMIG_CAUSE_*: why the device was reset.
    pub cause: u32,
    /// VFIOMIG_GROUP_PHASE_*: of VFIOMIG_EVENT_PHASE, the phase that begins.
    pub phase: u32,
    /// VFIOMIG_VERDICT_*: of VFIOMIG_EVENT_VERDICT, what to do.
    pub verdict: u32,
    /// VFIOMIG_BECAUSE_*: why.
    pub because: u32,
    /// For people, in printable ASCII; a long one is cut and ends in "...".
    pub text: [c_char; 208],
}

/// What a device can do.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_caps {
    /// VFIOMIG_CAPS_INIT sets it.
    pub struct_size: u32,
    /// Bitwise OR of VFIOMIG_CAP_*.
    pub flags: u32,
    /// Bitwise OR of VFIO_MIGRATION_*, as the driver reports them.
    pub migration_flags: u64,
    /// The estimated length of the stop-copy data, in bytes; see VFIOMIG_CAP_STATE_SIZE.
    pub state_size: u64,
    /// The state in which the device was found, or VFIOMIG_STATE_UNKNOWN.
    pub initial_state: u32,
    /// How many reasons vfiomig_device_get_reason() can return.
    pub num_reasons: u32,
}

/// Why a device cannot migrate, or not well.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_reason {
    /// VFIOMIG_REASON_INIT sets it.
    pub struct_size: u32,
    /// VFIOMIG_REASON_*; its meaning never changes.
    pub code: u32,
    /// VFIOMIG_SEVERITY_*.
    pub severity: u32,
    /// Zero.
    pub reserved: u32,
    /// The code as a word, for scripts.
    pub label: [c_char; 32],
    /// What it means here and what to do about it, for people to read.
    pub text: [c_char; 464],
}

sized32!(
    vfiomig_device_ops since device_info,
    vfiomig_identity since driver_srcversion,
    vfiomig_device_options,
    vfiomig_event since at_ns,
    vfiomig_caps,
    vfiomig_reason,
);

impl vfiomig_device_options {
    /// Where events go. The library owns the callback from here on.
    ///
    /// # Safety
    /// Promises 2 and 3 of C, for the callback and its release function.
    pub(super) unsafe fn events(&self) -> Option<EventSink> {
        // SAFETY: promise 2: `event_release` can be called with `event_opaque`.
        let opaque = unsafe { Opaque::new(self.event_opaque, self.event_release) };
        // Without a function nobody will use the opaque, so it is released at once.
        let call = self.event?;
        Some(EventSink::new(move |event: &Event| {
            let event = vfiomig_event::from(event);
            // SAFETY: promises 2 and 3; the event lives during the call.
            unsafe { call(opaque.get(), &raw const event) };
        }))
    }

    /// # Safety
    /// Promise 1 of C, for the text and the bytes that it points to.
    pub(super) unsafe fn to_options(self, events: Option<EventSink>) -> Result<DeviceOptions> {
        if self.flags & !VFIOMIG_DEVICE_DISABLED != 0 || self.reserved != 0 {
            return Err(err!(Inval, "unknown flags in the device options"));
        }
        let len = self.vendor_data_len as usize;
        if len > MAX_VENDOR_DATA {
            return Err(err!(Inval, "vendor_data_len is {len}; the most is {MAX_VENDOR_DATA}"));
        }
        let vendor_data = match len {
            0 => &[],
            // SAFETY: promise 1: `len` readable bytes.
            len => unsafe { bytes(self.vendor_data, len, "vendor_data") }?,
        };
        Ok(DeviceOptions {
            disabled: self.flags & VFIOMIG_DEVICE_DISABLED != 0,
            // SAFETY: promise 1: NULL or a NUL-terminated string.
            sysfs: unsafe { path(self.sysfs_path) }?,
            vendor_data: alloc::copy(vendor_data, "no memory for vendor_data")?,
            events,
        })
    }
}

impl vfiomig_event {
    /// One of which no more is known than what it was.
    fn of(kind: What) -> Self {
        vfiomig_event {
            struct_size: size_of::<Self>() as u32,
            kind: kind as u32,
            from: raw(None),
            to: raw(None),
            outcome: VFIOMIG_OUTCOME_KEPT,
            fixups: 0,
            duration_ns: 0,
            at_ns: 0,
            lost: 0,
            times: 0,
            bytes: 0,
            count: 0,
            device: 0,
            code: 0,
            operation: VFIOMIG_OP_NONE,
            os_errno: 0,
            cause: 0,
            phase: 0,
            verdict: 0,
            because: 0,
            text: [0; 208],
        }
    }
}

impl From<&Event> for vfiomig_event {
    fn from(event: &Event) -> Self {
        vfiomig_event {
            from: raw(event.from),
            to: raw(event.to),
            outcome: event.outcome as u32,
            fixups: event.fixups.bits(),
            duration_ns: event.duration_ns,
            ..Self::of(event.kind)
        }
    }
}

impl From<&history::Event> for vfiomig_event {
    fn from(event: &history::Event) -> Self {
        let record = &event.entry.record;
        let note = &record.note;
        let mut out = vfiomig_event {
            from: raw(note.from),
            to: raw(note.to),
            outcome: note.outcome.map_or(VFIOMIG_OUTCOME_KEPT, |outcome| outcome as u32),
            fixups: note.fixups.bits(),
            duration_ns: note.duration_ns.unwrap_or(0),
            at_ns: record.at_ns,
            lost: event.lost,
            times: record.times,
            bytes: note.bytes.unwrap_or(0),
            count: note.count.unwrap_or(0),
            device: event.entry.device.unwrap_or(VFIOMIG_EVENT_NO_DEVICE),
            code: note.code.map_or(0, Code::to_ret),
            operation: note.operation as u32,
            os_errno: note.errno,
            cause: note.cause.map_or(0, |cause| cause as u32),
            ..Self::of(note.what)
        };
        match note.of_group {
            OfGroup::Nothing => {}
            OfGroup::Phase(phase) => out.phase = phase,
            OfGroup::Verdict { verdict, because, device } => {
                (out.verdict, out.because) = (verdict, because);
                out.device = device.unwrap_or(VFIOMIG_EVENT_NO_DEVICE);
            }
        }
        put_plain_text(&mut out.text, &note.text);
        out
    }
}

/// What may have come from outside, so that it can be shown anywhere. There is room for any.
fn put_plain_text(field: &mut [c_char], text: &Short) {
    let plain = text.as_str().chars().map(|c| match c {
        ' '..='~' => c as u8,
        _ => b'?',
    });
    let end = if text.is_cut() { "..." } else { "" };
    for (to, from) in field.iter_mut().zip(plain.chain(end.bytes())) {
        *to = from as c_char;
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
            migration_flags: caps.migration_flags.bits(),
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

impl From<&Identity> for vfiomig_identity {
    fn from(identity: &Identity) -> Self {
        let [vendor, device, sub_vendor, sub_device] = identity.pci;
        let mut out = vfiomig_identity {
            migration_flags: identity.migration_flags.bits(),
            pci_vendor: vendor,
            pci_device: device,
            pci_subsystem_vendor: sub_vendor,
            pci_subsystem_device: sub_device,
            pci_revision: identity.pci_revision,
            vendor_data_len: identity.vendor_data.len().min(MAX_VENDOR_DATA) as u32,
            state_size: identity.state_size,
            protocol: identity.protocol,
            ..vfiomig_identity::default()
        };
        put_fixed_text(&mut out.bus, &identity.bus);
        put_fixed_text(&mut out.driver, &identity.driver);
        put_fixed_text(&mut out.mdev_type, &identity.mdev_type);
        put_fixed_text(&mut out.kernel_release, &identity.kernel_release);
        put_fixed_text(&mut out.vendor_type, &identity.vendor_type);
        put_fixed_text(&mut out.driver_version, &identity.driver_version);
        put_fixed_text(&mut out.driver_srcversion, &identity.driver_srcversion);
        put_fixed_text(&mut out.firmware, &identity.firmware);
        for (slot, byte) in out.vendor_data.iter_mut().zip(&identity.vendor_data) {
            *slot = *byte;
        }
        out
    }
}
