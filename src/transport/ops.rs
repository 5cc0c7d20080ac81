// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device behind a table of C callbacks: vfio-user, a mock, or whatever a VMM brings.
//!
//! The structures here are part of the C ABI and have their final layout.

#![allow(non_camel_case_types)]

use std::ffi::{c_char, c_int, c_void};
use std::time::Duration;

use super::kernel::{
    fd_close, fd_precopy_info, fd_read, fd_set_nonblocking, fd_write, poll_fd_wait,
};
use super::payload::{bytes_to_words, words_to_bytes};
use super::{DataFd, DeviceInfo, Direction, PrecopyInfo, Transport};
use crate::error::Errno;
use crate::identity::Identity;
use crate::sys::{INTERRUPTED, Process, uninterrupted};

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
    /// What the device behaves as: "pci", "platform", "ccw", "ap"; an mdev too.
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
    /// for PCI configuration space of devices whose identity has the bus "pci".
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
    /// Called exactly once, when the library will call nothing of this table any more, also when
    /// creating the device fails. NULL: nothing to do.
    pub release: Option<unsafe extern "C" fn(opaque: *mut c_void)>,
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

/// A device behind a [`vfiomig_device_ops`] table.
pub struct OpsTransport {
    ops: vfiomig_device_ops,
    opaque: *mut c_void,
    owner: Process,
    /// How long a callback that says EINTR is called again.
    patience: Duration,
}

// SAFETY: the table's contract is that its callbacks may be called from any thread, one at a time.
unsafe impl Send for OpsTransport {}

impl OpsTransport {
    /// Wraps a table. `release` is called when the transport is dropped.
    ///
    /// # Safety
    /// The callbacks must honour the contract of [`vfiomig_device_ops`] for `opaque`, from any
    /// thread, until `release` has been called.
    pub unsafe fn new(ops: vfiomig_device_ops, opaque: *mut c_void) -> OpsTransport {
        OpsTransport { ops, opaque, owner: Process::this(), patience: INTERRUPTED }
    }

    /// For how long a callback is called again that says that a signal interrupted it; 2 seconds
    /// unless told otherwise. Reads and writes of device state have the time limits of their sessions
    /// instead.
    pub fn with_patience(mut self, patience: Duration) -> OpsTransport {
        self.patience = patience;
        self
    }
}

impl Drop for OpsTransport {
    fn drop(&mut self) {
        // What a child releases may be more than its own: a connection that both have, for example.
        if let Some(release) = self.ops.release.filter(|_| self.owner.is_this()) {
            // SAFETY: the constructor's contract; this is the only call of it.
            unsafe { release(self.opaque) };
        }
    }
}

fn status(ret: c_int) -> Result<(), Errno> {
    if ret < 0 { Err(Errno(ret.saturating_neg())) } else { Ok(()) }
}

/// A callback's count, which must not exceed what was asked for.
fn count(ret: i64, len: usize) -> Result<usize, Errno> {
    match usize::try_from(ret) {
        Ok(n) if n <= len => Ok(n),
        Ok(_) => Err(Errno(libc::EIO)),
        Err(_) => Err(Errno(i32::try_from(ret.saturating_neg()).unwrap_or(libc::EIO))),
    }
}

impl Transport for OpsTransport {
    fn feature(&mut self, flags: u32, payload: &mut [u8]) -> Result<(), Errno> {
        let feature = self.ops.feature.ok_or(Errno(libc::ENOTTY))?;
        let mut words = [0u64; 8];
        let mut bytes = [0u8; 64];
        let len = payload.len();
        bytes.get_mut(..len).ok_or(Errno(libc::EINVAL))?.copy_from_slice(payload);
        bytes_to_words(&bytes, &mut words);
        uninterrupted(self.patience, || {
            // SAFETY: the table's contract; `words` holds at least `len` bytes.
            status(unsafe { feature(self.opaque, flags, words.as_mut_ptr().cast(), len) })
        })?;
        words_to_bytes(&words, &mut bytes);
        payload.copy_from_slice(bytes.get(..len).ok_or(Errno(libc::EINVAL))?);
        Ok(())
    }

    fn device_info(&mut self) -> Result<DeviceInfo, Errno> {
        Ok(DeviceInfo::default())
    }

    fn reset(&mut self) -> Result<(), Errno> {
        let reset = self.ops.reset.ok_or(Errno(libc::ENOTTY))?;
        // SAFETY: the table's contract.
        uninterrupted(self.patience, || status(unsafe { reset(self.opaque) }))
    }

    fn keeps_state_over_reset(&self) -> bool {
        true
    }

    fn data_read(&mut self, data: DataFd, buf: &mut [u8]) -> Result<usize, Errno> {
        let Some(read) = self.ops.data_read else { return fd_read(data, buf) };
        let len = buf.len();
        // SAFETY: the table's contract; `buf` is valid for writes of `len` bytes.
        count(unsafe { read(self.opaque, data.0, buf.as_mut_ptr().cast(), len) }, len)
    }

    fn data_write(&mut self, data: DataFd, buf: &[u8]) -> Result<usize, Errno> {
        let Some(write) = self.ops.data_write else { return fd_write(data, buf) };
        let len = buf.len();
        // SAFETY: the table's contract; `buf` is valid for reads of `len` bytes.
        count(unsafe { write(self.opaque, data.0, buf.as_ptr().cast(), len) }, len)
    }

    fn data_precopy_info(&mut self, data: DataFd) -> Result<PrecopyInfo, Errno> {
        let Some(precopy_info) = self.ops.data_precopy_info else { return fd_precopy_info(data) };
        let mut info = vfiomig_precopy_info {
            argsz: size_of::<vfiomig_precopy_info>() as u32,
            flags: 0,
            initial_bytes: 0,
            dirty_bytes: 0,
        };
        uninterrupted(self.patience, || {
            // SAFETY: the table's contract; `info` is valid for reads and writes.
            status(unsafe { precopy_info(self.opaque, data.0, &raw mut info) })
        })?;
        Ok(PrecopyInfo {
            flags: info.flags,
            initial_bytes: info.initial_bytes,
            dirty_bytes: info.dirty_bytes,
        })
    }

    fn data_close(&mut self, data: DataFd) {
        match self.ops.data_close {
            // SAFETY: the table's contract; the device layer forgets the stream with this call.
            Some(close) => drop(unsafe { close(self.opaque, data.0) }),
            None => fd_close(data),
        }
    }

    fn data_poll_fd(&self, data: DataFd) -> Option<i32> {
        match (self.ops.data_poll_fd, self.ops.data_read) {
            // SAFETY: the table's contract.
            (Some(poll_fd), _) => Some(unsafe { poll_fd(self.opaque, data.0) }),
            (None, None) => Some(data.0),
            (None, Some(_)) => None,
        }
        .filter(|fd| *fd >= 0)
    }

    fn data_set_nonblocking(&mut self, data: DataFd) -> Result<(), Errno> {
        match (self.ops.data_set_nonblocking, self.ops.data_read) {
            // SAFETY: the table's contract.
            (Some(set), _) => status(unsafe { set(self.opaque, data.0) }),
            (None, None) => fd_set_nonblocking(data),
            (None, Some(_)) => Err(Errno(libc::EOPNOTSUPP)),
        }
    }

    fn data_wait(&mut self, data: DataFd, direction: Direction, timeout: Duration) {
        match self.data_poll_fd(data) {
            Some(fd) => poll_fd_wait(fd, direction, timeout),
            None => std::thread::sleep(Duration::from_millis(1).min(timeout)),
        }
    }

    fn region_read(&mut self, region: u32, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let read = self.ops.region_read.ok_or(Errno(libc::ENOTTY))?;
        let len = buf.len();
        uninterrupted(self.patience, || {
            // SAFETY: the table's contract; `buf` is valid for writes of `len` bytes.
            count(unsafe { read(self.opaque, region, offset, buf.as_mut_ptr().cast(), len) }, len)
        })
    }

    fn identity(&mut self) -> Option<Identity> {
        let identity = self.ops.identity?;
        let mut out = Box::new(vfiomig_identity::default());
        // SAFETY: the table's contract; `out` is valid for writes.
        let ret = unsafe { identity(self.opaque, &raw mut *out) };
        (ret >= 0).then(|| Identity::from(&*out))
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
            migration_flags: told.migration_flags,
            state_size: told.state_size,
            vendor_data: told.vendor_data.get(..len).unwrap_or_default().to_vec(),
            vendor_type: fixed_text(&told.vendor_type),
            driver_version: fixed_text(&told.driver_version),
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
