// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a device is reached: the kernel's file descriptor, or a table of C callbacks.
//!
//! A transport moves requests and bytes and interprets nothing: errnos come back raw, and every
//! number is checked by the layers above. With `capi` and `sys` it is one of the rooms with
//! `unsafe` in it.

#![allow(unsafe_code)]

mod dirty;
mod kernel;
mod ops;
mod payload;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use dirty::FeatureLog;
pub use dirty::{DmaLog, Hwpt, IovaRange, KernelHwpt, KernelType1, Type1, Type1Info};
pub use kernel::KernelTransport;
pub(crate) use ops::put_fixed_text;
pub use ops::{OpsTransport, vfiomig_device_ops, vfiomig_identity, vfiomig_precopy_info};

use crate::error::Errno;
use crate::identity::Identity;

/// A data stream of a device, as the driver or a callback named it. For the kernel transport it
/// is a file descriptor that the library owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataFd(pub i32);

/// Which way a data stream is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Until it can be read.
    Read,
    /// Until it can be written.
    Write,
}

/// `struct vfio_precopy_info`, without its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PrecopyInfo {
    /// `VFIO_PRECOPY_INFO_*`; meaningful only after the opt-in to version 2.
    pub flags: u32,
    /// Bytes of initial data still to be read; an estimate.
    pub initial_bytes: u64,
    /// Bytes that became dirty since then; an estimate.
    pub dirty_bytes: u64,
}

/// The part of `struct vfio_device_info` that matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceInfo {
    /// `VFIO_DEVICE_FLAGS_*`.
    pub flags: u32,
    /// Number of regions.
    pub num_regions: u32,
}

/// A way to reach one device. One thread at a time makes calls.
pub trait Transport: Send {
    /// `VFIO_DEVICE_FEATURE`: `flags` is a feature index with GET, SET or PROBE; `payload` is the
    /// feature's own structure, both input and output.
    fn feature(&mut self, flags: u32, payload: &mut [u8]) -> Result<(), Errno>;

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

    /// Waits until the stream can go on, or the time is over. May return early.
    fn data_wait(&mut self, data: DataFd, direction: Direction, timeout: Duration);

    /// Reads from a region of the device, for its identity.
    fn region_read(&mut self, region: u32, offset: u64, buf: &mut [u8]) -> Result<usize, Errno>;

    /// The device's directory in sysfs, if the transport can tell.
    fn sysfs(&self) -> Option<PathBuf> {
        None
    }

    /// The device's DMA logging, if it can be used in parallel with everything else. None: it goes
    /// through [`Transport::feature`], in turn with the rest.
    fn dma_log(&self) -> Option<Box<dyn DmaLog>> {
        None
    }

    /// What the transport itself knows of the device's identity.
    fn identity(&mut self) -> Option<Identity> {
        None
    }
}
