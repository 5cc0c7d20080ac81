// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening a VFIO device: by its own node and iommufd, by its IOMMU group and a container, or by the
//! socket of a vfio-user server.
//!
//! It asks for nothing beyond an open device: it
//! maps no memory, attaches nothing to an iommufd's address space, and resets nothing.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_GROUP_FLAGS_VIABLE, VFIO_NOIOMMU_IOMMU, VFIO_TYPE1_IOMMU,
    VFIO_TYPE1v2_IOMMU, vfio_device_bind_iommufd, vfio_group_status,
};

use vfiomig::Device;
use vfiomig::device::DeviceOptions;
use vfiomig::transport::{KernelTransport, VfioUserOptions, VfioUserTransport};

use crate::sysfs::Root;

/// `_IO(';', 100 + n)`: the macro does not survive translation into vfio-bindings.
const fn vfio(n: u32) -> u32 {
    0x3b00 | (100 + n)
}
const VFIO_GET_API_VERSION: u32 = vfio(0);
const VFIO_SET_IOMMU: u32 = vfio(2);
const VFIO_GROUP_GET_STATUS: u32 = vfio(3);
const VFIO_GROUP_SET_CONTAINER: u32 = vfio(4);
const VFIO_GROUP_GET_DEVICE_FD: u32 = vfio(6);
const VFIO_DEVICE_BIND_IOMMUFD: u32 = vfio(18);

/// `argsz` of `VFIO_DEVICE_BIND_IOMMUFD` up to `out_devid`: every kernel that has the request knows
/// that much.
const BIND_IOMMUFD_SIZE: u32 = 16;

/// Where containers come from.
pub const CONTAINER: &str = "/dev/vfio/vfio";
/// Where iommufds come from.
pub const IOMMUFD: &str = "/dev/iommu";

/// A way to a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Way {
    /// By the device's own node.
    Cdev {
        /// The node.
        node: PathBuf,
    },
    /// By the group's node.
    Group {
        /// The node.
        node: PathBuf,
        /// What the group calls the device.
        device: String,
        /// A group without an IOMMU.
        noiommu: bool,
    },
    /// By the socket of a vfio-user server.
    Server {
        /// The socket.
        node: PathBuf,
    },
}

impl Way {
    /// The node that is the device's or its group's.
    pub fn node(&self) -> &Path {
        match self {
            Way::Cdev { node } | Way::Group { node, .. } | Way::Server { node } => node,
        }
    }

    /// A stable word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Way::Cdev { .. } => "cdev",
            Way::Group { .. } => "group",
            Way::Server { .. } => "vfio-user",
        }
    }
}

/// How far opening got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Opening a node.
    Node,
    /// `VFIO_DEVICE_BIND_IOMMUFD`.
    Bind,
    /// `VFIO_GROUP_GET_STATUS`.
    GroupStatus,
    /// The group's status says that it cannot be used.
    NotViable,
    /// `VFIO_GET_API_VERSION`.
    ApiVersion,
    /// `VFIO_GROUP_SET_CONTAINER`.
    SetContainer,
    /// `VFIO_SET_IOMMU`.
    SetIommu,
    /// `VFIO_GROUP_GET_DEVICE_FD`.
    GetDevice,
}

impl Step {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Node => "open",
            Step::Bind => "VFIO_DEVICE_BIND_IOMMUFD",
            Step::GroupStatus | Step::NotViable => "VFIO_GROUP_GET_STATUS",
            Step::ApiVersion => "VFIO_GET_API_VERSION",
            Step::SetContainer => "VFIO_GROUP_SET_CONTAINER",
            Step::SetIommu => "VFIO_SET_IOMMU",
            Step::GetDevice => "VFIO_GROUP_GET_DEVICE_FD",
        }
    }
}

/// Opening failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenError {
    /// Where.
    pub step: Step,
    /// The node that was opened or asked.
    pub node: PathBuf,
    /// Why.
    pub errno: i32,
}

impl OpenError {
    fn now(step: Step, node: &Path, error: &io::Error) -> OpenError {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        OpenError { step, node: node.to_owned(), errno }
    }
}

/// Makes the library's device of what was opened.
pub type MakeDevice = Box<dyn FnOnce(DeviceOptions) -> vfiomig::Result<Device>>;

/// An open device, and what must stay open with it.
pub struct Opened {
    /// The device.
    pub device: MakeDevice,
    /// The iommufd, or the group and the container. To be dropped after the device.
    pub keep: Vec<File>,
}

/// Opens a device.
pub fn open(root: &Root, way: &Way) -> Result<Opened, OpenError> {
    match way {
        Way::Cdev { node } => open_cdev(root, node),
        Way::Group { node, device, noiommu } => open_group(root, node, device, *noiommu),
        Way::Server { node } => open_server(root, node),
    }
}

/// How long a server may take for one command of the tool's: a person waits.
const SERVER: Duration = Duration::from_secs(10);

fn open_server(root: &Root, node: &Path) -> Result<Opened, OpenError> {
    let path = if node.is_absolute() { root.at(root.name_of(node)) } else { node.to_owned() };
    std::fs::metadata(&path).map_err(|error| OpenError::now(Step::Node, node, &error))?;
    let device: MakeDevice = Box::new(move |options| {
        let server = VfioUserOptions { timeout: SERVER, ..VfioUserOptions::default() };
        Device::new(VfioUserTransport::connect(&path, server)?, options)
    });
    Ok(Opened { device, keep: Vec::new() })
}

fn open_node(root: &Root, node: &Path) -> Result<File, OpenError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(root.at(root.name_of(node)))
        .map_err(|error| OpenError::now(Step::Node, node, &error))
}

fn open_cdev(root: &Root, node: &Path) -> Result<Opened, OpenError> {
    let device = open_node(root, node)?;
    let iommufd = open_node(root, Path::new(IOMMUFD))?;
    let mut bind = vfio_device_bind_iommufd {
        argsz: BIND_IOMMUFD_SIZE,
        iommufd: iommufd.as_raw_fd(),
        ..Default::default()
    };
    // SAFETY: `bind` is what the request takes, is longer than its `argsz`, and outlives the call.
    let ret =
        unsafe { libc::ioctl(device.as_raw_fd(), VFIO_DEVICE_BIND_IOMMUFD as _, &raw mut bind) };
    check(ret, Step::Bind, node)?;
    Ok(Opened { device: of_kernel(device.into()), keep: vec![iommufd] })
}

fn open_group(root: &Root, node: &Path, name: &str, noiommu: bool) -> Result<Opened, OpenError> {
    let group = open_node(root, node)?;
    let mut status =
        vfio_group_status { argsz: size_of::<vfio_group_status>() as u32, ..Default::default() };
    // SAFETY: `status` is what the request takes, its `argsz` is its size, and it outlives the call.
    let ret =
        unsafe { libc::ioctl(group.as_raw_fd(), VFIO_GROUP_GET_STATUS as _, &raw mut status) };
    check(ret, Step::GroupStatus, node)?;
    if status.flags & VFIO_GROUP_FLAGS_VIABLE == 0 {
        return Err(OpenError { step: Step::NotViable, node: node.to_owned(), errno: libc::EPERM });
    }

    let container_node = Path::new(CONTAINER);
    let container = open_node(root, container_node)?;
    let version =
        check(by_value(&container, VFIO_GET_API_VERSION, 0), Step::ApiVersion, container_node)?;
    if version != VFIO_API_VERSION as RawFd {
        let node = container_node.to_owned();
        return Err(OpenError { step: Step::ApiVersion, node, errno: libc::EPROTO });
    }
    let container_fd = container.as_raw_fd();
    // SAFETY: the request reads one `int`, which outlives the call.
    let ret = unsafe {
        libc::ioctl(group.as_raw_fd(), VFIO_GROUP_SET_CONTAINER as _, &raw const container_fd)
    };
    check(ret, Step::SetContainer, node)?;
    let mut set =
        Err(OpenError { step: Step::SetIommu, node: node.to_owned(), errno: libc::EINVAL });
    let kinds: &[u32] =
        if noiommu { &[VFIO_NOIOMMU_IOMMU] } else { &[VFIO_TYPE1v2_IOMMU, VFIO_TYPE1_IOMMU] };
    for kind in kinds {
        set = check(by_value(&container, VFIO_SET_IOMMU, *kind), Step::SetIommu, node);
        if !matches!(&set, Err(OpenError { errno: libc::EINVAL, .. })) {
            break;
        }
    }
    set?;

    let invalid = OpenError { step: Step::GetDevice, node: node.to_owned(), errno: libc::EINVAL };
    let name = CString::new(name).map_err(|_| invalid)?;
    // SAFETY: the request reads a NUL-terminated text, which outlives the call.
    let ret =
        unsafe { libc::ioctl(group.as_raw_fd(), VFIO_GROUP_GET_DEVICE_FD as _, name.as_ptr()) };
    let fd = check(ret, Step::GetDevice, node)?;
    // SAFETY: the kernel has just made this file descriptor for us; nothing else knows it.
    let device = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: F_SETFD touches no memory of ours.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    Ok(Opened { device: of_kernel(device), keep: vec![group, container] })
}

fn of_kernel(device: OwnedFd) -> MakeDevice {
    Box::new(|options| Device::new(KernelTransport::new(device), options))
}

/// A request whose argument is a number.
fn by_value(file: &File, request: u32, value: u32) -> i32 {
    // SAFETY: VFIO takes the argument of these requests as a number. A driver that took it for a
    // pointer would find nothing mapped at so low an address.
    unsafe { libc::ioctl(file.as_raw_fd(), request as _, libc::c_ulong::from(value)) }
}

fn check(ret: i32, step: Step, node: &Path) -> Result<i32, OpenError> {
    if ret >= 0 {
        return Ok(ret);
    }
    Err(OpenError::now(step, node, &io::Error::last_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_with(nodes: &[&str]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for node in nodes {
            let path = root.at(node);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        (dir, root)
    }

    fn cdev() -> Way {
        Way::Cdev { node: "/dev/vfio/devices/vfio0".into() }
    }

    fn group() -> Way {
        Way::Group { node: "/dev/vfio/12".into(), device: "0000:3b:00.2".into(), noiommu: false }
    }

    fn error(root: &Root, way: &Way) -> (Step, String, i32) {
        let error = open(root, way).err().unwrap();
        (error.step, error.node.display().to_string(), error.errno)
    }

    #[test]
    fn the_numbers_are_those_of_the_kernel() {
        assert_eq!(VFIO_DEVICE_BIND_IOMMUFD, 0x3b76);
        assert_eq!(VFIO_GROUP_GET_DEVICE_FD, 0x3b6a);
        assert_eq!(
            BIND_IOMMUFD_SIZE as usize,
            std::mem::offset_of!(vfio_device_bind_iommufd, out_devid) + 4
        );
    }

    #[test]
    fn what_fails_is_named() {
        let (_dir, root) = root_with(&[]);
        assert_eq!(
            error(&root, &cdev()),
            (Step::Node, "/dev/vfio/devices/vfio0".into(), libc::ENOENT)
        );
        assert_eq!(error(&root, &group()), (Step::Node, "/dev/vfio/12".into(), libc::ENOENT));

        let (_dir, root) = root_with(&["/dev/vfio/devices/vfio0"]);
        assert_eq!(error(&root, &cdev()), (Step::Node, "/dev/iommu".into(), libc::ENOENT));

        let (_dir, root) = root_with(&["/dev/vfio/devices/vfio0", "/dev/iommu", "/dev/vfio/12"]);
        assert_eq!(
            error(&root, &cdev()),
            (Step::Bind, "/dev/vfio/devices/vfio0".into(), libc::ENOTTY)
        );
        assert_eq!(
            error(&root, &group()),
            (Step::GroupStatus, "/dev/vfio/12".into(), libc::ENOTTY)
        );
    }
}
