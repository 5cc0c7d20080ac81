// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's device fd, and the data fds that it returns.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::streams::Streams;
use super::{
    Area, DataFd, DeviceFlags, DeviceInfo, Direction, DmaLog, FeatureRequest, IovaRange, PageSize,
    PrecopyInfo, RegionMapping, Transport,
};
use crate::error::Errno;
use crate::sys::{Bitmap, device, fd, uapi};

/// A device behind a VFIO device fd, from a group or from a cdev.
///
/// The fd is borrowed for as long as the transport lives, and never closed; data fds are owned.
pub struct KernelTransport {
    fd: Arc<dyn AsFd + Send + Sync>,
    streams: Streams,
    /// Where regions are, which does not change: at their number modulo the length.
    places: [Option<Place>; 16],
}

/// Where a region is.
#[derive(Clone, Copy)]
struct Place {
    region: u32,
    /// Where it begins, as an offset of the fd.
    start: u64,
    /// Its length in bytes.
    size: u64,
}

impl KernelTransport {
    /// Wraps a device fd. An `Arc<OwnedFd>` or `File` will do.
    pub fn new(fd: impl AsFd + Send + Sync + 'static) -> KernelTransport {
        KernelTransport { fd: Arc::new(fd), streams: Streams::new(), places: [None; 16] }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where the fd has `offset` of a region, and how much of `len` is there.
    fn place(&mut self, region: u32, offset: u64, len: usize) -> Result<(u64, usize), Errno> {
        let slot = region as usize % self.places.len();
        let known = self.places.get(slot).copied().flatten();
        let place = match known.filter(|place| place.region == region) {
            Some(place) => place,
            None => {
                let mut info = [0; 4];
                device::region_info(self.fd(), region, &mut info)?;
                let [_, _, size, start] = info;
                let place = Place { region, start, size };
                if let Some(slot) = self.places.get_mut(slot) {
                    *slot = Some(place);
                }
                place
            }
        };
        let room = place.size.checked_sub(offset).ok_or(Errno(libc::EINVAL))?;
        let len = usize::try_from(room).unwrap_or(usize::MAX).min(len);
        let at = place.start.checked_add(offset).ok_or(Errno(libc::EINVAL))?;
        Ok((at, len))
    }
}

/// The log of a device. The kernel does its own locking, so logging does not have to wait for a
/// read of the device's state.
struct KernelLog(Arc<dyn AsFd + Send + Sync>);

impl DmaLog for KernelLog {
    fn start(&mut self, page: PageSize, ranges: &[IovaRange]) -> Result<u64, Errno> {
        device::log_start(self.0.as_fd(), page, ranges)
    }

    fn stop(&mut self) -> Result<(), Errno> {
        device::log_stop(self.0.as_fd())
    }

    fn report(&mut self, bitmap: &mut Bitmap<'_>) -> Result<(), Errno> {
        device::log_report(self.0.as_fd(), bitmap)
    }
}

impl Transport for KernelTransport {
    fn feature(&mut self, request: FeatureRequest, payload: &mut [u8]) -> Result<(), Errno> {
        if !device::sets_state(request) {
            return device::feature(self.fd(), request, payload);
        }
        let fields = payload.first_chunk_mut().ok_or(Errno(libc::EINVAL))?;
        let (state, _) = device::split_state(*fields);
        let (state, data) = device::set_state(self.fd(), state)?;
        *fields = device::join_state(state, data.as_ref().map_or(-1, AsRawFd::as_raw_fd));
        if let Some(data) = data {
            self.streams.add_fd(data);
        }
        Ok(())
    }

    fn dma_log(&self) -> Option<Box<dyn DmaLog>> {
        Some(Box::new(KernelLog(Arc::clone(&self.fd))))
    }

    fn device_info(&mut self) -> Result<DeviceInfo, Errno> {
        let (flags, num_regions) = device::info(self.fd())?;
        Ok(DeviceInfo { flags: DeviceFlags::from_bits_retain(flags), num_regions })
    }

    fn reset(&mut self) -> Result<(), Errno> {
        device::reset(self.fd())
    }

    fn data_read(&mut self, data: DataFd, buf: &mut [u8]) -> Result<usize, Errno> {
        fd::read(self.streams.fd(data)?, buf)
    }

    fn data_write(&mut self, data: DataFd, buf: &[u8]) -> Result<usize, Errno> {
        fd::write(self.streams.fd(data)?, buf)
    }

    fn data_precopy_info(&mut self, data: DataFd) -> Result<PrecopyInfo, Errno> {
        Streams::precopy_info(self.streams.fd(data)?)
    }

    fn data_close(&mut self, data: DataFd) {
        self.streams.close(data);
    }

    fn data_poll_fd(&self, data: DataFd) -> Option<i32> {
        self.streams.fd(data).ok().map(|fd| fd.as_raw_fd())
    }

    fn data_set_nonblocking(&mut self, data: DataFd) -> Result<(), Errno> {
        fd::set_nonblocking(self.streams.fd(data)?)
    }

    fn data_wait(&mut self, data: DataFd, direction: Direction, timeout: Duration) {
        if let Ok(fd) = self.streams.fd(data) {
            fd::wait(fd, direction, timeout);
        }
    }

    fn region_read(&mut self, region: u32, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let (at, len) = self.place(region, offset, buf.len())?;
        fd::pread(self.fd(), buf.get_mut(..len).unwrap_or_default(), at)
    }

    fn region_info(&mut self, region: u32, reply: &mut [u64]) -> Result<(), Errno> {
        device::region_info(self.fd(), region, reply)
    }

    fn region_write(&mut self, region: u32, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        let (at, len) = self.place(region, offset, bytes.len())?;
        fd::pwrite(self.fd(), bytes.get(..len).unwrap_or_default(), at)
    }

    fn region_map(&mut self, region: u32, area: Area) -> Result<RegionMapping, Errno> {
        let wanted = usize::try_from(area.len).map_err(|_| Errno(libc::EINVAL))?;
        match self.place(region, area.offset, wanted)? {
            (at, len) if len == wanted => RegionMapping::new(self.fd(), at, area.len),
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    /// A cdev names its device by its number. An fd from a group says nothing, except with kernels
    /// that put the path into fdinfo.
    fn sysfs(&self) -> Option<PathBuf> {
        let fd = self.fd().as_raw_fd();
        let proc = PathBuf::from(format!("/proc/self/fd/{fd}"));
        if let Ok(meta) = std::fs::metadata(&proc) {
            if meta.file_type().is_char_device() {
                let (major, minor) = uapi::device_number(meta.rdev());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::uapi;
    use std::fs::File;

    #[test]
    #[cfg_attr(miri, ignore)]
    fn what_is_no_stream_of_the_device_is_neither_read_nor_closed() {
        let (device, file) = (File::open("/dev/null").unwrap(), File::open("/dev/zero").unwrap());
        let mut transport = KernelTransport::new(device);
        let foreign = DataFd(file.as_raw_fd());
        assert_eq!(transport.data_read(foreign, &mut [0]), Err(Errno(libc::EBADF)));
        assert_eq!(transport.data_write(foreign, &[0]), Err(Errno(libc::EBADF)));
        assert_eq!(transport.data_precopy_info(foreign), Err(Errno(libc::EBADF)));
        assert_eq!(transport.data_set_nonblocking(foreign), Err(Errno(libc::EBADF)));
        assert_eq!(transport.data_poll_fd(foreign), None);
        transport.data_close(foreign);
        assert!(file.metadata().is_ok());
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn features_that_carry_addresses_never_reach_the_kernel() {
        let mut transport = KernelTransport::new(File::open("/dev/null").unwrap());
        let get = transport.feature(FeatureRequest::get(uapi::FEATURE_MIGRATION), &mut [0; 8]);
        assert_eq!(get, Err(Errno(libc::ENOTTY)), "the kernel's answer");
        for request in [
            FeatureRequest::set(uapi::FEATURE_DMA_LOGGING_START),
            FeatureRequest::get(uapi::FEATURE_DMA_LOGGING_REPORT),
        ] {
            let refused = transport.feature(request, &mut [0xff; 32]);
            assert_eq!(refused, Err(Errno(libc::EINVAL)), "{request:?}");
        }
    }
}
