// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's device fd, and the data fds that it returns.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::dirty::FeatureLog;
use super::payload::{bytes_to_words, words_to_bytes};
use super::{DataFd, DeviceInfo, Direction, DmaLog, PrecopyInfo, Transport};
use crate::error::Errno;
use crate::sys::{once, retry};
use crate::uapi;
use vfio_bindings::bindings::vfio;

/// Room for the largest feature payload that the library sends, header included, in `u64`s.
const FEATURE_WORDS: usize = 8;

/// Reads and writes of device state go straight to the fd in steps of at most this size, so that a
/// length never exceeds what the kernel takes at once (`MAX_RW_COUNT`, about 2 GiB).
const MAX_TRANSFER: usize = 1 << 30;

/// A device behind a VFIO device fd, from a group or from a cdev.
///
/// The fd is borrowed for as long as the transport lives, and never closed; data fds are owned.
pub struct KernelTransport {
    fd: Arc<dyn AsFd + Send + Sync>,
}

impl KernelTransport {
    /// Wraps a device fd. An `Arc<OwnedFd>` or `File` will do.
    pub fn new(fd: impl AsFd + Send + Sync + 'static) -> KernelTransport {
        KernelTransport { fd: Arc::new(fd) }
    }

    fn raw(&self) -> i32 {
        self.fd.as_fd().as_raw_fd()
    }

    fn device_ioctl<T>(&self, request: u32, arg: &mut T) -> Result<(), Errno> {
        ioctl(self.raw(), request, std::ptr::from_mut(arg).cast())
    }
}

/// `VFIO_DEVICE_FEATURE` with a payload after its header.
fn feature(fd: i32, flags: u32, payload: &mut [u8]) -> Result<(), Errno> {
    let mut words = [0u64; FEATURE_WORDS];
    let mut bytes = [0u8; FEATURE_WORDS * 8];
    let size = 8 + payload.len();
    bytes.get_mut(8..size).ok_or(Errno(libc::EINVAL))?.copy_from_slice(payload);
    bytes[..4].copy_from_slice(&(size as u32).to_ne_bytes());
    bytes[4..8].copy_from_slice(&flags.to_ne_bytes());
    bytes_to_words(&bytes, &mut words);
    ioctl(fd, uapi::VFIO_DEVICE_FEATURE, words.as_mut_ptr().cast())?;
    words_to_bytes(&words, &mut bytes);
    payload.copy_from_slice(bytes.get(8..size).ok_or(Errno(libc::EINVAL))?);
    Ok(())
}

pub(super) fn ioctl(fd: i32, request: u32, arg: *mut libc::c_void) -> Result<(), Errno> {
    // SAFETY: callers pass a structure of the layout that the request asks for, whose first
    // member is its size and which they own exclusively; a bad fd only yields EBADF.
    retry(|| unsafe { libc::ioctl(fd, request as _, arg) as isize }).map(drop)
}

fn borrowed<'a>(data: DataFd) -> Option<BorrowedFd<'a>> {
    // SAFETY: a data fd lives from the transition that made it until `data_close`; the device
    // layer asks for nothing after that, and the borrow does not leave this module.
    (data.0 >= 0).then(|| unsafe { BorrowedFd::borrow_raw(data.0) })
}

pub(super) fn fd_read(data: DataFd, buf: &mut [u8]) -> Result<usize, Errno> {
    let fd = borrowed(data).ok_or(Errno(libc::EBADF))?.as_raw_fd();
    let len = buf.len().min(MAX_TRANSFER);
    // SAFETY: `buf` is valid for writes of `len` bytes.
    once(unsafe { libc::read(fd, buf.as_mut_ptr().cast(), len) })
}

pub(super) fn fd_write(data: DataFd, buf: &[u8]) -> Result<usize, Errno> {
    let fd = borrowed(data).ok_or(Errno(libc::EBADF))?.as_raw_fd();
    let len = buf.len().min(MAX_TRANSFER);
    // SAFETY: `buf` is valid for reads of `len` bytes.
    once(unsafe { libc::write(fd, buf.as_ptr().cast(), len) })
}

pub(super) fn fd_precopy_info(data: DataFd) -> Result<PrecopyInfo, Errno> {
    let fd = borrowed(data).ok_or(Errno(libc::EBADF))?.as_raw_fd();
    // Pass 0 as the flags: kernels before version 2 echo them back (docs/kernel-interface.md).
    let mut info = vfio::vfio_precopy_info {
        argsz: size_of::<vfio::vfio_precopy_info>() as u32,
        flags: 0,
        initial_bytes: 0,
        dirty_bytes: 0,
    };
    ioctl(fd, uapi::VFIO_MIG_GET_PRECOPY_INFO, std::ptr::from_mut(&mut info).cast())?;
    Ok(PrecopyInfo {
        flags: info.flags,
        initial_bytes: info.initial_bytes,
        dirty_bytes: info.dirty_bytes,
    })
}

pub(super) fn fd_close(data: DataFd) {
    if data.0 >= 0 {
        // SAFETY: the device layer owns the data fd and forgets it with this call.
        unsafe { libc::close(data.0) };
    }
}

pub(super) fn fd_set_nonblocking(data: DataFd) -> Result<(), Errno> {
    let fd = borrowed(data).ok_or(Errno(libc::EBADF))?.as_raw_fd();
    // SAFETY: F_GETFL and F_SETFL touch no memory of ours.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags < 0 {
        return Err(Errno::last());
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(Errno::last());
    }
    Ok(())
}

pub(super) fn poll_fd_wait(fd: i32, direction: Direction, timeout: Duration) {
    let events = match direction {
        Direction::Read => libc::POLLIN,
        Direction::Write => libc::POLLOUT,
    };
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    let ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one valid entry. The result does not matter: the caller tries again either way.
    unsafe { libc::poll(&raw mut entry, 1, ms) };
    if entry.revents != 0 {
        // Most drivers have no poll and are "ready" at once: do not spin on them.
        std::thread::sleep(Duration::from_micros(200).min(timeout));
    }
}

impl Transport for KernelTransport {
    fn feature(&mut self, flags: u32, payload: &mut [u8]) -> Result<(), Errno> {
        feature(self.raw(), flags, payload)
    }

    /// The kernel does its own locking, so logging need not wait for a read of the device's state.
    fn dma_log(&self) -> Option<Box<dyn DmaLog>> {
        let fd = Arc::clone(&self.fd);
        Some(Box::new(FeatureLog(move |flags: u32, payload: &mut [u8]| {
            feature(fd.as_fd().as_raw_fd(), flags, payload)
        })))
    }

    fn device_info(&mut self) -> Result<DeviceInfo, Errno> {
        // The first version of the structure: argsz, flags, num_regions, num_irqs.
        let mut info = [16u32, 0, 0, 0];
        self.device_ioctl(uapi::VFIO_DEVICE_GET_INFO, &mut info)?;
        Ok(DeviceInfo { flags: info[1], num_regions: info[2] })
    }

    fn reset(&mut self) -> Result<(), Errno> {
        ioctl(self.raw(), uapi::VFIO_DEVICE_RESET, std::ptr::null_mut())
    }

    fn data_read(&mut self, data: DataFd, buf: &mut [u8]) -> Result<usize, Errno> {
        fd_read(data, buf)
    }

    fn data_write(&mut self, data: DataFd, buf: &[u8]) -> Result<usize, Errno> {
        fd_write(data, buf)
    }

    fn data_precopy_info(&mut self, data: DataFd) -> Result<PrecopyInfo, Errno> {
        fd_precopy_info(data)
    }

    fn data_close(&mut self, data: DataFd) {
        fd_close(data);
    }

    fn data_poll_fd(&self, data: DataFd) -> Option<i32> {
        (data.0 >= 0).then_some(data.0)
    }

    fn data_set_nonblocking(&mut self, data: DataFd) -> Result<(), Errno> {
        fd_set_nonblocking(data)
    }

    fn data_wait(&mut self, data: DataFd, direction: Direction, timeout: Duration) {
        poll_fd_wait(data.0, direction, timeout);
    }

    fn region_read(&mut self, region: u32, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let mut info = vfio::vfio_region_info {
            argsz: size_of::<vfio::vfio_region_info>() as u32,
            flags: 0,
            index: region,
            cap_offset: 0,
            size: 0,
            offset: 0,
        };
        self.device_ioctl(uapi::VFIO_DEVICE_GET_REGION_INFO, &mut info)?;
        let (size, base) = (info.size, info.offset);
        let room = size.checked_sub(offset).ok_or(Errno(libc::EINVAL))?;
        let len = usize::try_from(room).unwrap_or(usize::MAX).min(buf.len());
        let at = base.checked_add(offset).and_then(|at| i64::try_from(at).ok());
        let at = at.ok_or(Errno(libc::EINVAL))?;
        let fd = self.raw();
        // SAFETY: `len` is at most `buf.len()`, and `buf` is valid for writes.
        retry(|| unsafe { libc::pread64(fd, buf.as_mut_ptr().cast(), len, at) })
    }

    /// A cdev names its device by its number. An fd from a group says nothing, except with kernels
    /// that put the path into fdinfo.
    fn sysfs(&self) -> Option<PathBuf> {
        let fd = self.raw();
        let proc = PathBuf::from(format!("/proc/self/fd/{fd}"));
        if let Ok(meta) = std::fs::metadata(&proc) {
            if meta.file_type().is_char_device() {
                let (major, minor) = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
                // …/DEVICE/vfio-dev/vfioN/device is the device itself.
                let node = PathBuf::from(format!("/sys/dev/char/{major}:{minor}/device"));
                if let Ok(path) = node.canonicalize() {
                    return Some(path);
                }
            }
        }
        let fdinfo = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        let path = fdinfo.lines().find_map(|line| line.strip_prefix("vfio-device-syspath:"))?;
        Some(PathBuf::from(path.trim()))
    }
}
