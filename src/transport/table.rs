// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of C callbacks and its structures: part of the C ABI, in their final layout.

#![allow(non_camel_case_types)]

use std::ffi::{c_char, c_int, c_void};

use crate::fsm::MigrationFlags;
use crate::identity::Identity;

/// Called exactly once with a callback's opaque, when the library will no longer use it, even if
/// the call that brought it fails. NULL: nothing to do.
///
/// All callbacks follow one rule. A single callback is followed by its opaque and its release, such as
/// event, event_opaque, event_release. A table of callbacks has a member release, and its opaque
/// stands beside the pointer to the table. Each callback gets its opaque as its first argument. If a
/// structure cannot be read at all (NULL, or a wrong struct_size), nothing in it is released. A
/// callback that is only called during the call that it is given to has no release.
pub type vfiomig_release_fn = Option<unsafe extern "C" fn(opaque: *mut c_void)>;

/// What a device is, as far as it can be learned from its fd and sysfs. Texts are NUL-terminated;
/// an empty text and a zero number mean "not known".
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_identity {
    /// Size of this structure, set by the caller: VFIOMIG_IDENTITY_INIT.
    pub struct_size: u32,
    /// Length of vendor_data that is used, in bytes.
    pub vendor_data_len: u32,
    /// VFIO_MIGRATION_* flags of the device.
    pub migration_flags: u64,
    /// Stop-copy size that the device estimated, in bytes; 0 when not known.
    pub state_size: u64,
    /// PCI vendor ID.
    pub pci_vendor: u16,
    /// PCI device ID.
    pub pci_device: u16,
    /// PCI subsystem vendor ID.
    pub pci_subsystem_vendor: u16,
    /// PCI subsystem device ID.
    pub pci_subsystem_device: u16,
    /// PCI revision ID.
    pub pci_revision: u8,
    /// Zero.
    pub reserved: [u8; 7],
    /// The bus that the device behaves as, even if it is an mdev: "pci", "platform", "ccw" or "ap".
    pub bus: [c_char; 16],
    /// Kernel driver that is bound to the device.
    pub driver: [c_char; 64],
    /// mdev type, for example "mtty-2".
    pub mdev_type: [c_char; 64],
    /// Kernel release, as in uname.
    pub kernel_release: [c_char; 72],
    /// Opaque string of the VMM's or vendor's choice: firmware version, licence, profile…
    pub vendor_data: [u8; 256],
    /// The vendor's type of a virtual function that has no mdev type, for example "nvidia-1155".
    pub vendor_type: [c_char; 64],
    /// Version of the driver's module, where it has one.
    pub driver_version: [c_char; 64],
    /// The hash that the kernel's build makes of the source of the driver's module (srcversion).
    pub driver_srcversion: [c_char; 64],
    /// Version of the device's firmware.
    pub firmware: [c_char; 64],
    /// The migration protocol that the state is of: VFIOMIG_PROTOCOL_*; 0 when not known.
    pub protocol: u32,
    /// Zero.
    pub reserved2: u32,
}

/// Estimates of a device in pre-copy: the kernel's structure of the same name, and its layout.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_precopy_info {
    /// 24.
    pub argsz: u32,
    /// VFIO_PRECOPY_INFO_*; 0 on entry.
    pub flags: u32,
    /// Bytes of initial data not read yet.
    pub initial_bytes: u64,
    /// Bytes that became dirty since.
    pub dirty_bytes: u64,
}

/// A device behind callbacks. Each returns 0 or a count on success and -errno on failure, exactly
/// as the kernel would answer the call that it stands for. One that returns -EINTR is called again:
/// data_read and data_write for as long as the session's options allow, the others for 2 seconds.
///
/// The callbacks are called on the thread that called the library, one at a time per device. Calls of
/// the library with a handle of the same device get -EBUSY there, and so do calls with others that a
/// call on another thread is inside of: nothing waits in a callback.
///
/// Where data_read, data_write, data_precopy_info, data_close or data_poll_fd is NULL, the data_fd
/// that `feature` returned is a file descriptor, the library uses the system call on it and owns
/// it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfiomig_device_ops {
    /// Size of this structure, set by the caller: VFIOMIG_DEVICE_OPS_INIT.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// VFIO_DEVICE_FEATURE: flags is a feature index with VFIO_DEVICE_FEATURE_GET, _SET or _PROBE,
    /// data the feature's payload of len bytes, in and out. Required.
    pub feature: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            flags: u32,
            data: *mut c_void,
            len: usize,
        ) -> c_int,
    >,
    /// VFIO_DEVICE_RESET. NULL: the device has no reset, which leaves failed loads LOST.
    pub reset: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// read(2) on the data_fd: a count, 0 at the end, -ENOMSG when drained in pre-copy.
    pub data_read: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            data_fd: c_int,
            buf: *mut c_void,
            len: usize,
        ) -> i64,
    >,
    /// write(2) on the data_fd.
    pub data_write: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            data_fd: c_int,
            buf: *const c_void,
            len: usize,
        ) -> i64,
    >,
    /// VFIO_MIG_GET_PRECOPY_INFO on the data_fd.
    pub data_precopy_info: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            data_fd: c_int,
            info: *mut vfiomig_precopy_info,
        ) -> c_int,
    >,
    /// close(2) of the data_fd.
    pub data_close: Option<unsafe extern "C" fn(opaque: *mut c_void, data_fd: c_int) -> c_int>,
    /// A file descriptor that poll(2) accepts for the data_fd, or -errno. Callbacks that set
    /// data_read and leave this NULL are asked again on a timer.
    pub data_poll_fd: Option<unsafe extern "C" fn(opaque: *mut c_void, data_fd: c_int) -> c_int>,
    /// Asks for reads and writes that return -EAGAIN instead of blocking. NULL: not offered.
    pub data_set_nonblocking:
        Option<unsafe extern "C" fn(opaque: *mut c_void, data_fd: c_int) -> c_int>,
    /// Reads len bytes of a region (PCI: VFIO_PCI_*_REGION_INDEX) at offset. NULL: no regions. Asked
    /// for PCI configuration space of devices whose identity has the bus "pci", and for migration
    /// regions: a field of those with one call of its length.
    pub region_read: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            region: u32,
            offset: u64,
            buf: *mut c_void,
            len: usize,
        ) -> i64,
    >,
    /// Fills in what the device is; struct_size is set on entry. NULL: not known.
    pub identity:
        Option<unsafe extern "C" fn(opaque: *mut c_void, identity: *mut vfiomig_identity) -> c_int>,
    /// Called exactly once, when the library will no longer call anything in this table, even if
    /// creating the device fails. NULL: nothing to do.
    pub release: vfiomig_release_fn,
    /// VFIO_DEVICE_GET_INFO: sets *flags to VFIO_DEVICE_FLAGS_* and *num_regions to the number of
    /// regions. Both are 0 on entry. NULL: they stay 0, and the device has no migration regions.
    pub device_info: Option<
        unsafe extern "C" fn(opaque: *mut c_void, flags: *mut u32, num_regions: *mut u32) -> c_int,
    >,
    /// VFIO_DEVICE_GET_REGION_INFO: fills info, a struct vfio_region_info with room for len bytes in
    /// all, aligned to 8, with the region and its capabilities. argsz and index are set on entry. As in
    /// the kernel, argsz says how many bytes are needed if len is too little, and cap_offset is 0 then.
    /// NULL: the device has no migration regions.
    pub region_info: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            region: u32,
            info: *mut c_void,
            len: usize,
        ) -> c_int,
    >,
    /// Writes len bytes of a region at offset. NULL: the device has no migration regions.
    pub region_write: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            region: u32,
            offset: u64,
            buf: *const c_void,
            len: usize,
        ) -> i64,
    >,
}

/// The text in a fixed field, up to its NUL or its end.
pub(crate) fn fixed_text(field: &[c_char]) -> String {
    let bytes: Vec<u8> = field.iter().map(|c| *c as u8).take_while(|b| *b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Puts a text into a fixed field, cut to leave room for the NUL.
pub(crate) fn put_fixed_text(field: &mut [c_char], text: &str) {
    field.fill(0);
    let room = field.len().saturating_sub(1);
    let mut end = text.len().min(room);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (to, from) in field.iter_mut().zip(text.bytes().take(end)) {
        *to = from as c_char;
    }
}

impl Default for vfiomig_identity {
    fn default() -> Self {
        vfiomig_identity {
            struct_size: size_of::<vfiomig_identity>() as u32,
            migration_flags: 0,
            pci_vendor: 0,
            pci_device: 0,
            pci_subsystem_vendor: 0,
            pci_subsystem_device: 0,
            pci_revision: 0,
            reserved: [0; 7],
            vendor_data_len: 0,
            state_size: 0,
            bus: [0; 16],
            driver: [0; 64],
            mdev_type: [0; 64],
            kernel_release: [0; 72],
            vendor_data: [0; 256],
            vendor_type: [0; 64],
            driver_version: [0; 64],
            driver_srcversion: [0; 64],
            firmware: [0; 64],
            protocol: 0,
            reserved2: 0,
        }
    }
}

impl From<&vfiomig_identity> for Identity {
    fn from(told: &vfiomig_identity) -> Identity {
        let len = told.vendor_data_len as usize;
        Identity {
            bus: fixed_text(&told.bus),
            driver: fixed_text(&told.driver),
            pci: [
                told.pci_vendor,
                told.pci_device,
                told.pci_subsystem_vendor,
                told.pci_subsystem_device,
            ],
            pci_revision: told.pci_revision,
            mdev_type: fixed_text(&told.mdev_type),
            kernel_release: fixed_text(&told.kernel_release),
            migration_flags: MigrationFlags::from_bits_retain(told.migration_flags),
            state_size: told.state_size,
            vendor_data: told.vendor_data.get(..len).unwrap_or_default().to_vec(),
            vendor_type: fixed_text(&told.vendor_type),
            driver_version: fixed_text(&told.driver_version),
            driver_srcversion: fixed_text(&told.driver_srcversion),
            firmware: fixed_text(&told.firmware),
            protocol: told.protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_character_and_terminated() {
        let mut field = [1 as c_char; 8];
        put_fixed_text(&mut field, "abcdefé");
        assert_eq!(fixed_text(&field), "abcdef");
        assert_eq!(field[7], 0);
    }
}
