// SPDX-License-Identifier: MIT OR Apache-2.0
//! A simulated device, with code of a test's own between it and the library.

use std::time::Duration;

use vfiomig::Device;
use vfiomig::device::DeviceOptions;
use vfiomig::error::Errno;
use vfiomig::transport::{
    DataFd, DeviceInfo, Direction, FeatureRequest, OpsTransport, PrecopyInfo, Transport,
};
use vfiomig_sim::{Sim, SimOptions};

use super::Side;

/// What is different about a device. Calls that a test does not override go to the device as they
/// are.
pub trait Twist: Send + 'static {
    fn feature(
        &mut self,
        device: &mut OpsTransport,
        request: FeatureRequest,
        payload: &mut [u8],
    ) -> Result<(), Errno> {
        device.feature(request, payload)
    }

    fn reset(&mut self, device: &mut OpsTransport) -> Result<(), Errno> {
        device.reset()
    }

    fn data_read(
        &mut self,
        device: &mut OpsTransport,
        data: DataFd,
        buf: &mut [u8],
    ) -> Result<usize, Errno> {
        device.data_read(data, buf)
    }

    fn data_write(
        &mut self,
        device: &mut OpsTransport,
        data: DataFd,
        buf: &[u8],
    ) -> Result<usize, Errno> {
        device.data_write(data, buf)
    }

    fn data_precopy_info(
        &mut self,
        device: &mut OpsTransport,
        data: DataFd,
    ) -> Result<PrecopyInfo, Errno> {
        device.data_precopy_info(data)
    }
}

struct Twisted<T>(OpsTransport, T);

impl<T: Twist> Transport for Twisted<T> {
    fn feature(&mut self, request: FeatureRequest, payload: &mut [u8]) -> Result<(), Errno> {
        self.1.feature(&mut self.0, request, payload)
    }

    fn device_info(&mut self) -> Result<DeviceInfo, Errno> {
        self.0.device_info()
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.1.reset(&mut self.0)
    }

    fn data_read(&mut self, data: DataFd, buf: &mut [u8]) -> Result<usize, Errno> {
        self.1.data_read(&mut self.0, data, buf)
    }

    fn data_write(&mut self, data: DataFd, buf: &[u8]) -> Result<usize, Errno> {
        self.1.data_write(&mut self.0, data, buf)
    }

    fn data_precopy_info(&mut self, data: DataFd) -> Result<PrecopyInfo, Errno> {
        self.1.data_precopy_info(&mut self.0, data)
    }

    fn data_close(&mut self, data: DataFd) {
        self.0.data_close(data);
    }

    fn data_poll_fd(&self, data: DataFd) -> Option<i32> {
        self.0.data_poll_fd(data)
    }

    fn data_set_nonblocking(&mut self, data: DataFd) -> Result<(), Errno> {
        self.0.data_set_nonblocking(data)
    }

    fn data_wait(&mut self, data: DataFd, direction: Direction, timeout: Duration) {
        self.0.data_wait(data, direction, timeout);
    }

    fn region_read(&mut self, region: u32, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        self.0.region_read(region, offset, buf)
    }
}

/// A simulated device that is different in this way.
pub fn twisted_side(options: SimOptions, twist: impl Twist) -> Side {
    let sim = Sim::new(options).unwrap();
    let device = Device::new(Twisted(sim.transport(), twist), DeviceOptions::default()).unwrap();
    Side { sim, device }
}
