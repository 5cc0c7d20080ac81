// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a device is reached: the kernel's file descriptor, a table of C callbacks, or a vfio-user server.
//!
//! A transport moves requests and bytes and interprets nothing: errnos are returned as they are,
//! and the layers above check every number. Of the files here only `ops` has `unsafe` in it: it
//! calls C's callbacks.

mod dirty;
mod dma;
mod iommufd;
mod kernel;
mod ops;
mod region;
mod streams;
mod table;
mod type1;
mod vfio_user;

use std::path::PathBuf;
use std::time::Duration;

pub use dirty::{DmaLog, Hwpt, PageSizes, Type1, Type1Info};
pub use dma::{Dma, DmaAccess, DmaRange, GuestMemory};
pub use iommufd::KernelHwpt;
pub use kernel::KernelTransport;
pub use ops::OpsTransport;
pub(crate) use region::INFO as REGION_INFO;
pub use region::{Area, Region, RegionFlags};
pub(crate) use table::put_fixed_text;
pub use table::{vfiomig_device_ops, vfiomig_identity, vfiomig_precopy_info, vfiomig_release_fn};

pub use type1::KernelType1;
pub use vfio_user::{Requests, VfioUserOptions, VfioUserTransport, command};

use crate::error::Errno;
use crate::flags::flags;
use crate::identity::Identity;
pub use crate::sys::{
    Bitmap, BitmapBuffer, Direction, FeatureRequest, IovaRange, PageSize, RegionMapping, Span,
};
use crate::sys::{device, uapi};

/// A data stream of a device, as the driver or a callback has named it. For the kernel it is a file
/// descriptor, which the transport owns.
///
/// This is only a name. The transport that handed it out ([`Transport::set_state`]) is the only one
/// that reads, writes or closes anything with it.
///
/// ```compile_fail
/// let standard_error = vfiomig::transport::DataFd(2);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataFd(i32);

impl DataFd {
    /// Its number.
    pub fn number(self) -> i32 {
        self.0
    }
}

/// `struct vfio_precopy_info`, without its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PrecopyInfo {
    /// `VFIO_PRECOPY_INFO_REINIT`: there is new initial data. Meaningful only after the opt-in to
    /// version 2.
    pub reinit: bool,
    /// Bytes of initial data still to be read; an estimate.
    pub initial_bytes: u64,
    /// Bytes that became dirty since then; an estimate.
    pub dirty_bytes: u64,
}

flags! {
    /// What kind of device it is: `VFIO_DEVICE_FLAGS_*`. Those without a name here are kept.
    open DeviceFlags: u32 {
        /// The fd behaves as a PCI device.
        PCI = uapi::DEVICE_FLAGS_PCI;
        /// As a platform device.
        PLATFORM = uapi::DEVICE_FLAGS_PLATFORM;
        /// As a CCW device.
        CCW = uapi::DEVICE_FLAGS_CCW;
        /// As an AP device.
        AP = uapi::DEVICE_FLAGS_AP;
    }
}

/// The part of `struct vfio_device_info` that matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceInfo {
    /// What kind of device it is.
    pub flags: DeviceFlags,
    /// Number of regions.
    pub num_regions: u32,
}

/// A way to reach one device. One thread at a time makes calls.
pub trait Transport: Send {
    /// `VFIO_DEVICE_FEATURE`: `payload` is the feature's own structure, both input and output.
    ///
    /// It holds numbers only. The library's own transports refuse features whose payload has
    /// addresses in it, or may have, with `EINVAL`, and PROBE with any payload. The log has
    /// [`DmaLog`].
    fn feature(&mut self, request: FeatureRequest, payload: &mut [u8]) -> Result<(), Errno>;

    /// `VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE`: asks for a state, and returns the data stream that
    /// the device has named.
    fn set_state(&mut self, state: u32) -> Result<Option<DataFd>, Errno> {
        let mut payload = device::join_state(state, -1);
        self.feature(FeatureRequest::set(uapi::FEATURE_MIG_DEVICE_STATE), &mut payload)?;
        let (_, data_fd) = device::split_state(payload);
        Ok((data_fd >= 0).then_some(DataFd(data_fd)))
    }

    /// `VFIO_DEVICE_GET_INFO`.
    fn device_info(&mut self) -> Result<DeviceInfo, Errno>;

    /// `VFIO_DEVICE_RESET`.
    fn reset(&mut self) -> Result<(), Errno>;

    /// Whether a reset may succeed and leave the device in its migration state, or be refused
    /// because of that state. Servers of virtual devices do both; the kernel does neither.
    fn keeps_state_over_reset(&self) -> bool {
        false
    }

    /// Reads device state, like `read(2)`.
    fn data_read(&mut self, data: DataFd, buf: &mut [u8]) -> Result<usize, Errno>;

    /// Writes device state, like `write(2)`.
    fn data_write(&mut self, data: DataFd, buf: &[u8]) -> Result<usize, Errno>;

    /// `VFIO_MIG_GET_PRECOPY_INFO`.
    fn data_precopy_info(&mut self, data: DataFd) -> Result<PrecopyInfo, Errno>;

    /// Closes a data stream.
    fn data_close(&mut self, data: DataFd);

    /// A file descriptor on which `poll(2)` waits for this stream.
    fn data_poll_fd(&self, data: DataFd) -> Option<i32>;

    /// Makes reads and writes of the stream return `EAGAIN` instead of blocking.
    fn data_set_nonblocking(&mut self, data: DataFd) -> Result<(), Errno>;

    /// Waits until the stream can go on, or the time is up. May return early.
    fn data_wait(&mut self, data: DataFd, direction: Direction, timeout: Duration);

    /// `VFIO_DEVICE_GET_REGION_INFO`: fills `reply` with `struct vfio_region_info` and as many of its
    /// capabilities as there is room for.
    fn region_info(&mut self, region: u32, reply: &mut [u64]) -> Result<(), Errno> {
        let _ = (region, reply);
        Err(Errno(libc::ENOTTY))
    }

    /// Reads from a region of the device. A field of a protocol is read with one call that has its
    /// length.
    fn region_read(&mut self, region: u32, offset: u64, buf: &mut [u8]) -> Result<usize, Errno>;

    /// Writes to a region of the device, likewise.
    fn region_write(&mut self, region: u32, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        let _ = (region, offset, bytes);
        Err(Errno(libc::ENOTTY))
    }

    /// Maps a part of a region. An error means that it is read and written instead.
    fn region_map(&mut self, region: u32, area: Area) -> Result<RegionMapping, Errno> {
        let _ = (region, area);
        Err(Errno(libc::ENOTTY))
    }

    /// The device's directory in sysfs, if the transport can tell.
    fn sysfs(&self) -> Option<PathBuf> {
        None
    }

    /// The device's DMA logging, if it can be used in parallel with everything else.
    fn dma_log(&self) -> Option<Box<dyn DmaLog>> {
        None
    }

    /// The device's DMA logging, if it is used in turn with everything else.
    fn dma_log_in_turn(&mut self) -> Option<&mut dyn DmaLog> {
        None
    }

    /// The guest's memory as the device has it, if it must be told of it.
    fn dma(&mut self) -> Option<&mut dyn Dma> {
        None
    }

    /// What the transport itself knows of the device's identity.
    fn identity(&mut self) -> Option<Identity> {
        None
    }
}
