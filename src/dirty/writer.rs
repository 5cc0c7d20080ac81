// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writers: devices, or whatever else writes to the guest's memory, and the trackers that could
//! watch them.

use super::bitmap::PageSize;
use super::tracker::custom::CustomTracker;
use crate::device::{Device, Health};
use crate::error::Result;
use crate::transport::{DmaLog, Hwpt, Type1};

/// Something that writes to the guest's memory, and what could track it. When tracking starts, it
/// gets the first of these that works: the device's own log, the IOMMU's page table, the VMM's
/// tracker, the type1 container. With none, every page is always dirty.
#[derive(Default)]
pub struct Writer {
    /// A name for people, used in messages.
    pub name: String,
    /// Refuse to start tracking rather than count everything as dirty.
    pub required: bool,
    /// The device's own log. [`Writer::device`] sets it.
    pub device_log: Option<Box<dyn DmaLog>>,
    /// The page table of the iommufd that the device is attached to.
    pub hwpt: Option<Box<dyn Hwpt>>,
    /// Smallest page of that page table, up to 1 GiB; none: the page size of the tracking.
    pub hwpt_page_size: Option<PageSize>,
    /// The VMM's own tracker.
    pub custom: Option<Box<dyn CustomTracker>>,
    /// The type1 container that the device's group is in.
    pub type1: Option<Box<dyn Type1>>,
    /// How often the device was reset, and whether it stands still.
    pub health: Option<Health>,
    /// Writers with the same number are the same device, whose log is then started only once.
    pub log_key: Option<u64>,
    /// Why the device's log cannot be used, for [`super::WriterStats::note`].
    pub note: String,
}

impl Writer {
    /// A device as a writer, with its own log if it has one.
    pub fn device(device: &Device) -> Result<Writer> {
        let mut writer = Writer { name: device.identity()?.driver, ..Writer::default() };
        writer.use_log_of(device)?;
        Ok(writer)
    }

    /// Uses the log of a device, if it has one.
    pub fn use_log_of(&mut self, device: &Device) -> Result<()> {
        match device.dma_log()? {
            Ok(log) => self.device_log = Some(log),
            Err(reason) => self.note = reason,
        }
        self.log_key = Some(device.key());
        self.watch(device);
        Ok(())
    }

    /// Lets tracking notice when a device is reset.
    pub fn watch(&mut self, device: &Device) {
        self.health = Some(device.health());
    }
}
