// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structures and callbacks of `vfiomig_device_*`.

use std::ffi::{c_char, c_void};

pub use crate::transport::{vfiomig_device_ops, vfiomig_identity, vfiomig_precopy_info};

use super::constants::*;
use crate::alloc;
use crate::capi::args::{bytes, path};
use crate::capi::callbacks::{Opaque, vfiomig_release_fn};
use crate::capi::fsm::raw;
use crate::capi::numbers::flag;
use crate::capi::sized::sized32;
use crate::device::{Caps, DeviceOptions, Event, EventSink, Identity, MAX_VENDOR_DATA, Reason};
use crate::error::{Result, err};
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
    /// The size of this structure in the library.
    pub struct_size: u32,
    /// VFIOMIG_EVENT_*.
    pub kind: u32,
    /// The state before, or VFIOMIG_STATE_UNKNOWN.
    pub from: u32,
    /// The state after, or VFIOMIG_STATE_UNKNOWN. Another change may follow in the same call:
    /// after a reset, for example, from RUNNING to RUNNING_P2P.
    pub to: u32,
    /// VFIOMIG_OUTCOME_*.
    pub outcome: u32,
    /// Bitwise OR of VFIOMIG_FIXUP_*: what the VMM must redo before the device runs.
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
    vfiomig_event,
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

impl From<&Event> for vfiomig_event {
    fn from(event: &Event) -> Self {
        vfiomig_event {
            struct_size: size_of::<Self>() as u32,
            kind: event.kind as u32,
            from: raw(event.from),
            to: raw(event.to),
            outcome: event.outcome as u32,
            fixups: event.fixups.bits(),
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
