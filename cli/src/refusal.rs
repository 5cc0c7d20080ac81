// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a device could not be opened, and what to do about it: what is missing, who has it, who may
//! open it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::finding::{Code, Finding};
use crate::open::{CONTAINER, IOMMUFD, OpenError, Step, Way};
use crate::sysfs::{IommuGroup, Root, SysDevice, names};

/// Why a device could not be opened. The same errno means different things at different steps.
pub fn about_open(
    root: &Root,
    way: &Way,
    error: &OpenError,
    device: Option<&SysDevice>,
) -> Finding {
    let OpenError { step, node, errno } = error;
    let called = node.display();
    match (step, *errno) {
        (Step::Node, libc::ENOENT) => missing(way, node, device),
        (Step::Node, libc::EACCES | libc::EPERM) => forbidden(root, node, *errno),
        (Step::Node | Step::SetContainer | Step::GetDevice, libc::EBUSY)
        | (Step::Bind, libc::EBUSY | libc::EINVAL) => in_use(root, way, device),
        (Step::NotViable, _) => blocked(node),
        // If nothing of the host is in the group, it is another process with another device.
        (Step::Bind | Step::SetContainer, libc::EPERM) => match device {
            Some(device) if has_blocked_group(device) => blocked(node),
            _ => in_use(root, way, device),
        },
        (Step::SetIommu, libc::EPERM) => Finding::new(
            Code::UnsafeInterrupts,
            "the IOMMU cannot remap interrupts, and VFIO refuses devices without that",
        )
        .todo("switch interrupt remapping on in the firmware; allow unsafe interrupts only if you trust the guests")
        .commands(vec![
            "echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts".into(),
        ]),
        (Step::SetIommu, libc::EINVAL | libc::ENODEV) => {
            Finding::new(Code::NoType1, format!("{CONTAINER} offers no type1 IOMMU"))
                .commands(vec!["modprobe vfio_iommu_type1".into()])
        }
        (Step::GetDevice | Step::Bind, libc::EACCES) => Finding::new(
            Code::VfToken,
            "the VF's physical function is bound to a VFIO driver, and needs the token that its \
             owner set",
        )
        .todo("probe it through the VMM that has the token, or let the host drive the PF"),
        (Step::GetDevice, libc::ENODEV) => {
            Finding::new(Code::NotVfio, format!("{called}: the group has no such VFIO device"))
        }
        (_, libc::ENOTTY) => {
            Finding::new(Code::NotVfio, format!("{called} does not belong to a VFIO device"))
        }
        _ => {
            let text = std::io::Error::from_raw_os_error(*errno);
            Finding::new(Code::OpenFailed, format!("{called}: {}: {text}", step.as_str()))
        }
    }
}

fn missing(way: &Way, node: &Path, device: Option<&SysDevice>) -> Finding {
    let finding = Finding::new(Code::NodeMissing, format!("{} does not exist", node.display()));
    if node == Path::new(IOMMUFD) {
        finding.commands(vec!["modprobe iommufd".into()])
    } else if node == Path::new(CONTAINER) {
        finding
            .todo("load VFIO's container, or use a kernel with CONFIG_VFIO_CONTAINER")
            .commands(vec!["modprobe vfio".into()])
    } else if matches!(way, Way::Server { .. }) {
        finding.todo("start the device's server, or look where it has its socket")
    } else if let Some(device) = device.filter(|device| is_without_cdev(way, device)) {
        let name = &device.name;
        finding.todo(format!("this kernel gives devices no such node: probe {name}"))
    } else {
        finding.todo("in a container, pass the node in; otherwise check whether udev is running")
    }
}

fn forbidden(root: &Root, node: &Path, errno: i32) -> Finding {
    let text = std::io::Error::from_raw_os_error(errno);
    let finding = Finding::new(
        Code::Permission,
        format!("you may not open {}: {text}{}", node.display(), owner(root, node)),
    );
    let of_all = node == Path::new(CONTAINER) || node == Path::new(IOMMUFD);
    finding.todo(match errno {
        // An ordinary mode gives EACCES; EPERM comes from a device cgroup or the driver.
        libc::EPERM => format!(
            "allow the node in the device cgroup of the container or service; a group without an \
             IOMMU wants CAP_SYS_RAWIO{}",
            if of_all { "" } else { " as well" }
        ),
        _ => "run as root, or give the user the node (udev rule, chown)".to_owned(),
    })
}

fn blocked(node: &Path) -> Finding {
    let text = format!("{}: the kernel refuses the group", node.display());
    Finding::new(Code::GroupBlocked, text)
        .todo("unbind the group's other devices from the host's drivers")
}

fn has_blocked_group(device: &SysDevice) -> bool {
    let mut members = device.group.iter().flat_map(|group| &group.others);
    members.any(|member| member.blocks)
}

fn is_without_cdev(way: &Way, device: &SysDevice) -> bool {
    let has_cdev = device.vfio_dev.as_ref().is_some_and(|vfio_dev| vfio_dev.has_cdev);
    matches!(way, Way::Cdev { .. }) && !has_cdev
}

fn in_use(root: &Root, way: &Way, device: Option<&SysDevice>) -> Finding {
    let mut nodes = vec![way.node().to_owned()];
    if let Some(device) = device {
        nodes.extend(device.group.as_ref().map(IommuGroup::node));
        nodes.extend(device.vfio_dev.as_ref().map(|vfio_dev| vfio_dev.node()));
    }
    let users = users(root, &nodes);
    let by = match users.as_slice() {
        [] => String::new(),
        users => format!(": {}", users.join(", ")),
    };
    Finding::new(Code::InUse, format!("another process has the device or its group{by}"))
        .todo("ask the VMM that has it, or probe again when it has ended")
}

/// Processes that have one of the nodes open, as far as they can be seen.
fn users(root: &Root, nodes: &[PathBuf]) -> Vec<String> {
    let proc = root.at("/proc");
    let own = std::process::id().to_string();
    names(&proc)
        .into_iter()
        .filter(|pid| *pid != own && pid.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|pid| {
            let fds = proc.join(pid).join("fd");
            let mut files = names(&fds).into_iter().flat_map(|fd| fs::read_link(fds.join(fd)));
            files.any(|file| nodes.contains(&file))
        })
        .map(|pid| match crate::sysfs::attribute(&proc.join(&pid).join("comm")) {
            Some(comm) => format!("{comm} (process {pid})"),
            None => format!("process {pid}"),
        })
        .collect()
}

/// Who may open a node, by name if the names are known.
fn owner(root: &Root, node: &Path) -> String {
    let Ok(meta) = fs::metadata(root.at(node)) else { return String::new() };
    let user = name_of_id(&root.at("/etc/passwd"), meta.uid());
    let group = name_of_id(&root.at("/etc/group"), meta.gid());
    format!(" (user {user}, group {group}, mode {:04o})", meta.mode() & 0o7777)
}

/// Both files have the name first and the number third.
fn name_of_id(file: &Path, id: u32) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| id.to_string())
}

/// The library could not talk to the open device.
pub fn about_answer(way: &Way, error: &vfiomig::Error) -> Finding {
    let node = way.node().display();
    let code = if error.code() == vfiomig::Code::NotTty { Code::NotVfio } else { Code::OpenFailed };
    Finding::new(code, format!("{node}: {error}"))
}
