// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writers of dirty pages: a device, or whatever else writes to the guest's memory, and the trackers
//! that could watch it.

use super::bitmap::PageSize;
use super::tracker::custom::CustomTracker;
use crate::device::{Device, Health};
use crate::error::Result;
use crate::transport::{DmaLog, Hwpt, Type1};

/// Something that writes to the guest's memory, and what could track it. The best that works is
/// taken when tracking starts: the device's own log, the IOMMU's page table, the VMM's tracker, the
/// type1 container. With none, every page is dirty at every time.
#[derive(Default)]
pub struct Writer {
    /// For people; in errors and statistics.
    pub name: String,
    /// Refuse to start rather than count everything as dirty.
    pub required: bool,
    /// The device's own log. [`Writer::device`] sets it.
    pub device_log: Option<Box<dyn DmaLog>>,
    /// The page table of the iommufd that the device is attached to.
    pub hwpt: Option<Box<dyn Hwpt>>,
    /// Smallest page of that page table, up to 1 GiB; none: that of the tracking.
    pub hwpt_page_size: Option<PageSize>,
    /// The VMM's own tracker.
    pub custom: Option<Box<dyn CustomTracker>>,
    /// The type1 container that the device's group is in.
    pub type1: Option<Box<dyn Type1>>,
    /// How often the device was reset, and whether it stands still.
    pub health: Option<Health>,
    /// The same number for the same device: its log is then started once.
    pub log_key: Option<u64>,
    /// What the device said against its log, for [`super::WriterStats::note`].
    pub note: String,
}

impl Writer {
    /// A device, with its own log where it has one.
    pub fn device(device: &Device) -> Result<Writer> {
        let mut writer = Writer { name: device.identity()?.driver, ..Writer::default() };
        writer.use_log_of(device)?;
        Ok(writer)
    }

    /// Takes the log of a device.
    pub fn use_log_of(&mut self, device: &Device) -> Result<()> {
        match device.dma_log()? {
            Ok(log) => self.device_log = Some(log),
            Err(reason) => self.note = reason,
        }
        self.log_key = Some(device.key());
        self.watch(device);
        Ok(())
    }

    /// Watches for resets of a device.
    pub fn watch(&mut self, device: &Device) {
        self.health = Some(device.health());
    }
}
