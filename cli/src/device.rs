// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that a command works on: found by name and opened, or one line that says why not.

use std::fs::File;

use vfiomig::Device;
use vfiomig::device::DeviceOptions;

use crate::context::Context;
use crate::exit::{Result, Status, Trouble};
use crate::finding::{Code, Finding};
use crate::history::{self, Histories};
use crate::open::Way;
use crate::refusal::{about_answer, about_open};
use crate::sysfs::{Target, find, server_of};

/// An open device.
pub struct Live {
    /// The device. Sessions hold it as well, and must end before this does.
    pub device: Device,
    /// As it was named.
    pub name: String,
    histories: Histories,
    /// The group and the container, or the iommufd, which outlive the device.
    _keep: Vec<File>,
}

impl Drop for Live {
    fn drop(&mut self) {
        history::take(&self.device, &self.histories);
    }
}

impl Live {
    /// What the device could not do.
    pub fn trouble(&self, error: &vfiomig::Error) -> Trouble {
        Trouble::of_device(&self.name, error)
    }
}

/// The ways to a device, best first.
pub fn ways(target: &Target) -> Vec<Way> {
    if let Some(node) = server_of(&target.given) {
        return vec![Way::Server { node: node.into() }];
    }
    if let Some(node) = &target.node {
        return vec![Way::Cdev { node: node.clone() }];
    }
    let Some(device) = target.device.as_ref().filter(|device| device.is_vfio()) else {
        return Vec::new();
    };
    let mut ways = Vec::new();
    if let Some(vfio_dev) = device.vfio_dev.as_ref().filter(|vfio_dev| vfio_dev.has_cdev) {
        ways.push(Way::Cdev { node: vfio_dev.node() });
    }
    if let Some(group) = &device.group {
        let (node, noiommu) = (group.node(), group.noiommu);
        ways.push(Way::Group { node, device: device.name.clone(), noiommu });
    }
    ways
}

/// Opens the device of this name.
pub fn open(context: &Context<'_>, name: &str) -> Result<Live> {
    let target = find(&context.root, name).map_err(|error| Trouble::new(Status::Usage, error.0))?;
    let mut first = None;
    for way in ways(&target) {
        match (context.open)(&context.root, &way) {
            Ok(opened) => {
                let sysfs = target.device.as_ref().map(|device| device.path.clone());
                let options = DeviceOptions { sysfs, ..DeviceOptions::default() };
                let device = (opened.device)(options)
                    .map_err(|error| refused(name, &about_answer(&way, &error)))?;
                let histories = context.histories.clone();
                return Ok(Live { device, name: name.to_owned(), histories, _keep: opened.keep });
            }
            Err(error) => {
                let finding = about_open(&context.root, &way, &error, target.device.as_ref());
                first.get_or_insert(finding);
            }
        }
    }
    Err(match first {
        Some(finding) => refused(name, &finding),
        None => Trouble::new(
            Status::Device,
            format!("{name}: no VFIO driver has it: see vfiomig probe {name}"),
        ),
    })
}

fn refused(name: &str, finding: &Finding) -> Trouble {
    let has = |code: Code| finding.code == code.word();
    let status = if has(Code::Permission) || has(Code::VfToken) {
        Status::Permission
    } else if has(Code::InUse) {
        Status::Busy
    } else {
        Status::Device
    };
    let todo = finding.todo.as_deref().map(|todo| format!(": {todo}")).unwrap_or_default();
    Trouble::new(status, format!("{name}: {}{todo}", finding.text))
}
