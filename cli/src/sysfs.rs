// SPDX-License-Identifier: MIT OR Apache-2.0
//! What sysfs says about a device, without opening it.
//!
//! Every path is looked up below a [`Root`], so that tests can provide a tree of their own. Nothing
//! is judged here: this module collects facts, and `probe` draws conclusions.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use vfiomig::uapi;

/// Where `/sys`, `/proc`, `/dev`, `/lib` and `/boot` are: `/`, or a tree made for a test.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// A root at this directory.
    pub fn new(path: impl Into<PathBuf>) -> Root {
        let path: PathBuf = path.into();
        Root(path.canonicalize().unwrap_or(path))
    }

    /// An absolute path below the root.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The path as it would be called if the root were `/`.
    pub fn name_of(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.0) {
            Ok(rest) => Path::new("/").join(rest),
            Err(_) => path.to_owned(),
        }
    }
}

/// A driver or a device that is named by a link.
pub fn link_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    target.file_name().map(|name| name.to_string_lossy().into_owned())
}

/// First line of an attribute, trimmed.
pub fn attribute(path: &Path) -> Option<String> {
    let text = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next().unwrap_or_default().trim();
    (!line.is_empty()).then(|| line.to_owned())
}

fn number<T: TryFrom<u64>>(path: &Path) -> Option<T> {
    let text = attribute(path)?;
    let value = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => text.parse().ok()?,
    };
    T::try_from(value).ok()
}

/// Names in a directory, sorted; empty if it cannot be read.
pub fn names(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// PCI IDs, as in configuration space.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PciIds {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Subsystem vendor.
    pub subsystem_vendor: u16,
    /// Subsystem device.
    pub subsystem_device: u16,
    /// Revision.
    pub revision: u8,
    /// Class: base class, subclass, programming interface.
    pub class: u32,
}

/// Which part of SR-IOV a device is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sriov {
    /// A virtual function.
    Vf {
        /// Address of its physical function.
        physfn: String,
        /// Driver bound to the physical function.
        physfn_driver: Option<String>,
    },
    /// A physical function.
    Pf {
        /// How many virtual functions it can have.
        total: u32,
        /// How many it has.
        enabled: u32,
    },
}

/// A mediated device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mdev {
    /// Type, for example `mtty-2`.
    pub kind: Option<String>,
    /// Device that mediates.
    pub parent: Option<String>,
}

/// Another device in the same IOMMU group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Name.
    pub name: String,
    /// Driver bound to it.
    pub driver: Option<String>,
    /// It keeps the group from being used: it does DMA for the host.
    pub blocks: bool,
}

/// An IOMMU group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IommuGroup {
    /// Number, as in `/dev/vfio/NUMBER`.
    pub id: u32,
    /// A group without an IOMMU behind it.
    pub noiommu: bool,
    /// The devices in it, except the one that was asked about.
    pub others: Vec<Member>,
}

impl IommuGroup {
    /// The group's node.
    pub fn node(&self) -> PathBuf {
        let prefix = if self.noiommu { "noiommu-" } else { "" };
        PathBuf::from(format!("/dev/vfio/{prefix}{}", self.id))
    }
}

/// The character device that newer kernels give to each VFIO device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VfioDev {
    /// Name, for example `vfio0`.
    pub name: String,
    /// The kernel gives it a node in `/dev/vfio/devices`.
    pub has_cdev: bool,
}

impl VfioDev {
    /// The node.
    pub fn node(&self) -> PathBuf {
        Path::new("/dev/vfio/devices").join(&self.name)
    }
}

/// One device, as sysfs describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SysDevice {
    /// The last part of its path: PCI address, UUID.
    pub name: String,
    /// Directory, below the root.
    pub path: PathBuf,
    /// Bus: `pci`, `mdev`, `platform`…
    pub bus: String,
    /// Driver bound to it.
    pub driver: Option<String>,
    /// The driver that is to be bound, whatever the IDs say.
    pub driver_override: Option<String>,
    /// What drivers' aliases are matched against.
    pub modalias: Option<String>,
    /// PCI IDs.
    pub pci: Option<PciIds>,
    /// SR-IOV.
    pub sriov: Option<Sriov>,
    /// Mediated device.
    pub mdev: Option<Mdev>,
    /// IOMMU group.
    pub group: Option<IommuGroup>,
    /// The VFIO device, if the kernel shows it (6.1 and newer).
    pub vfio_dev: Option<VfioDev>,
    /// Types of mediated devices that can be made here, with how many are left.
    pub mdev_types: Vec<(String, Option<u32>)>,
}

impl SysDevice {
    /// Reads everything that the device's directory says.
    pub fn read(path: &Path) -> io::Result<SysDevice> {
        let path = path.canonicalize()?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bus = link_name(&path.join("subsystem")).unwrap_or_default();
        let driver = link_name(&path.join("driver"));
        let driver_override =
            attribute(&path.join("driver_override")).filter(|text| text != "(null)");
        let modalias = attribute(&path.join("modalias"));
        let pci = (bus == "pci").then(|| PciIds {
            vendor: number(&path.join("vendor")).unwrap_or_default(),
            device: number(&path.join("device")).unwrap_or_default(),
            subsystem_vendor: number(&path.join("subsystem_vendor")).unwrap_or_default(),
            subsystem_device: number(&path.join("subsystem_device")).unwrap_or_default(),
            revision: number(&path.join("revision")).unwrap_or_default(),
            class: number(&path.join("class")).unwrap_or_default(),
        });
        let mdev = (bus == "mdev").then(|| Mdev {
            kind: link_name(&path.join("mdev_type")),
            parent: path
                .parent()
                .and_then(Path::file_name)
                .map(|name| name.to_string_lossy().into_owned()),
        });
        let types = path.join("mdev_supported_types");
        let mdev_types = names(&types)
            .into_iter()
            .map(|name| {
                let left = number(&types.join(&name).join("available_instances"));
                (name, left)
            })
            .collect();
        Ok(SysDevice {
            group: read_group(&path, &name, &bus),
            sriov: read_sriov(&path),
            vfio_dev: read_vfio_dev(&path),
            name,
            path,
            bus,
            driver,
            driver_override,
            modalias,
            pci,
            mdev,
            mdev_types,
        })
    }

    /// Whether a VFIO driver has the device.
    pub fn is_vfio(&self) -> bool {
        // Kernels before 6.1 do not show VFIO devices in sysfs; a mediated device has no drivers
        // but VFIO's.
        self.vfio_dev.is_some()
            || self.driver.as_deref().is_some_and(|driver| {
                is_vfio_driver(driver) || (self.bus == "mdev" && !driver.is_empty())
            })
    }
}

/// Whether a driver's name is that of a VFIO driver.
pub fn is_vfio_driver(driver: &str) -> bool {
    driver.contains("vfio")
}

fn read_sriov(path: &Path) -> Option<Sriov> {
    if let Some(physfn) = link_name(&path.join("physfn")) {
        let physfn_driver = link_name(&path.join("physfn").join("driver"));
        return Some(Sriov::Vf { physfn, physfn_driver });
    }
    let total: u32 = number(&path.join("sriov_totalvfs"))?;
    let enabled = number(&path.join("sriov_numvfs")).unwrap_or(0);
    (total > 0).then_some(Sriov::Pf { total, enabled })
}

fn read_vfio_dev(path: &Path) -> Option<VfioDev> {
    let directory = path.join("vfio-dev");
    let name = names(&directory).into_iter().next()?;
    // Without CONFIG_VFIO_DEVICE_CDEV the directory exists, but not its number.
    let has_cdev = directory.join(&name).join("dev").exists();
    Some(VfioDev { name, has_cdev })
}

fn read_group(path: &Path, name: &str, bus: &str) -> Option<IommuGroup> {
    let link = path.join("iommu_group");
    let id = link_name(&link)?.parse().ok()?;
    // Mediated devices have groups of that name too, but need no IOMMU: their parent does the DMA.
    let noiommu = bus != "mdev" && attribute(&link.join("name")).as_deref() == Some("vfio-noiommu");
    let devices = link.join("devices");
    let others = names(&devices)
        .into_iter()
        .filter(|other| other != name)
        .map(|other| {
            let driver = link_name(&devices.join(&other).join("driver"));
            let blocks = driver.as_deref().is_some_and(|driver| !shares_group(driver));
            Member { name: other, driver, blocks }
        })
        .collect();
    Some(IommuGroup { id, noiommu, others })
}

/// Drivers that leave their device's DMA to others: a group with one of them can still be used.
fn shares_group(driver: &str) -> bool {
    is_vfio_driver(driver) || matches!(driver, "pci-stub" | "pcieport" | "shpchp")
}

/// Why a name on the command line leads nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotFound(pub String);

/// A device to probe: what sysfs says, and the node that was named if one was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// As given.
    pub given: String,
    /// The device; `None` for a node that sysfs does not know.
    pub device: Option<SysDevice>,
    /// The node in `/dev/vfio/devices`, if that was given.
    pub node: Option<PathBuf>,
}

/// The socket in the name of a device behind a vfio-user server, `vfio-user:PATH`.
pub fn server_of(given: &str) -> Option<&str> {
    given.strip_prefix("vfio-user:").filter(|path| !path.is_empty())
}

/// Finds the device that a person means.
pub fn find(root: &Root, given: &str) -> Result<Target, NotFound> {
    let target = |device, node| Target { given: given.to_owned(), device, node };
    if server_of(given).is_some() {
        return Ok(target(None, None));
    }
    if given.contains('/') {
        // A relative path is the caller's own, never the tree's.
        let path = Path::new(given);
        let path = if path.is_absolute() { root.at(path) } else { PathBuf::from(given) };
        if root.name_of(&path).starts_with("/dev") || is_char_device(&path) {
            return find_node(root, given, &path).map(|(device, node)| target(device, Some(node)));
        }
        return from_directory(root, given, &path).map(|device| target(Some(device), None));
    }
    let candidates = if let Some(address) = pci_address(given) {
        vec![root.at("/sys/bus/pci/devices").join(address)]
    } else if is_uuid(given) {
        vec![root.at("/sys/bus/mdev/devices").join(given.to_ascii_lowercase())]
    } else if is_one_name(given) {
        names(&root.at("/sys/bus"))
            .iter()
            .map(|bus| root.at("/sys/bus").join(bus).join("devices").join(given))
            .collect()
    } else {
        Vec::new()
    };
    match candidates.iter().find(|path| path.exists()) {
        Some(path) => from_directory(root, given, path).map(|device| target(Some(device), None)),
        None => Err(NotFound(match (pci_address(given), is_uuid(given)) {
            (Some(address), _) => format!("no PCI device {address}"),
            (_, true) => format!(
                "no mediated device {given}; one is made by writing its UUID to \
                 /sys/class/mdev_bus/PARENT/mdev_supported_types/TYPE/create"
            ),
            _ => format!(
                "no device {given}; a device is a PCI address, the UUID of a mediated device, a \
                 node in /dev/vfio/devices, or a directory in /sys"
            ),
        })),
    }
}

fn is_char_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.file_type().is_char_device())
}

fn is_one_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

fn from_directory(root: &Root, given: &str, path: &Path) -> Result<SysDevice, NotFound> {
    let fail = |why: &str| NotFound(format!("{given}: {why}"));
    let real = path.canonicalize().map_err(|error| fail(&error.to_string()))?;
    if !real.is_dir() {
        return Err(fail("not a directory of a device, and not a VFIO device node"));
    }
    // …/DEVICE/vfio-dev/vfio0 means DEVICE.
    let real = match link_name(&real.join("subsystem")).as_deref() {
        Some("vfio-dev") => real.join("device"),
        _ => real,
    };
    // Every device has a subsystem; the classes and buses themselves do not.
    if !root.name_of(&real).starts_with("/sys") || !real.join("subsystem").exists() {
        return Err(fail("not the directory of a device in /sys"));
    }
    SysDevice::read(&real).map_err(|error| fail(&error.to_string()))
}

fn find_node(
    root: &Root,
    given: &str,
    path: &Path,
) -> Result<(Option<SysDevice>, PathBuf), NotFound> {
    let fail = |why: String| NotFound(format!("{given}: {why}"));
    let called = root.name_of(path);
    let name = called.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if called == Path::new("/dev/vfio/vfio") || called == Path::new("/dev/iommu") {
        return Err(fail("this leads to all devices, and is not a device itself".into()));
    }
    if called.parent() == Some(Path::new("/dev/vfio")) {
        let id = name.trim_start_matches("noiommu-");
        let members = names(&root.at("/sys/kernel/iommu_groups").join(id).join("devices"));
        return Err(fail(match members.as_slice() {
            [] => "this is the node of an IOMMU group; name one of its devices".into(),
            _ => format!(
                "this is the node of an IOMMU group; name one of its devices: {}",
                members.join(", ")
            ),
        }));
    }
    let meta = fs::metadata(path);
    let class = root.at("/sys/class/vfio-dev").join(&name).join("device");
    let by_number = meta.as_ref().ok().filter(|meta| meta.file_type().is_char_device()).map(|m| {
        let (major, minor) = uapi::device_number(m.rdev());
        root.at(format!("/sys/dev/char/{major}:{minor}/device"))
    });
    let is_vfio = |directory: &PathBuf| directory.join("vfio-dev").exists();
    let device = by_number
        .into_iter()
        .chain([class])
        .find(is_vfio)
        .and_then(|directory| SysDevice::read(&directory).ok());
    match (device, meta) {
        (None, Err(error)) => Err(fail(error.to_string())),
        // Opening and asking what does not belong to VFIO could have effects.
        (None, Ok(_)) if !called.starts_with("/dev/vfio") => {
            Err(fail("not the node of a VFIO device".into()))
        }
        (device, _) => Ok((device, called)),
    }
}

/// The full form of a PCI address, if the text is one.
pub fn pci_address(text: &str) -> Option<String> {
    let hex = |part: &str, len: usize| {
        (part.len() == len && part.bytes().all(|b| b.is_ascii_hexdigit()))
            .then(|| part.to_ascii_lowercase())
    };
    let (rest, function) = text.rsplit_once('.')?;
    if !matches!(function.as_bytes(), [b'0'..=b'7']) {
        return None;
    }
    let mut parts = rest.rsplit(':');
    let slot = hex(parts.next()?, 2)?;
    let bus = hex(parts.next()?, 2)?;
    // Domains of virtual root complexes (VMD) have more than four digits.
    let domain = match parts.next() {
        None => "0000".to_owned(),
        Some(domain) => hex(domain, domain.len().clamp(4, 8))?,
    };
    parts.next().is_none().then(|| format!("{domain}:{bus}:{slot}.{function}"))
}

/// Whether the text is a UUID in its usual form.
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Everything that has to do with migration: devices bound to a VFIO driver, mediated devices and
/// their parents, virtual functions, and physical functions.
pub fn candidates(root: &Root) -> Vec<Target> {
    let mut paths = Vec::new();
    for class in ["/sys/class/mdev_bus", "/sys/bus/mdev/devices", "/sys/bus/pci/devices"] {
        let directory = root.at(class);
        paths.extend(names(&directory).iter().map(|name| directory.join(name)));
    }
    // What is neither PCI nor mediated shows up only as a VFIO device.
    let vfio_devs = root.at("/sys/class/vfio-dev");
    paths.extend(names(&vfio_devs).iter().map(|name| vfio_devs.join(name).join("device")));

    let mut found: Vec<Target> = Vec::new();
    for device in paths.iter().filter_map(|path| SysDevice::read(path).ok()) {
        let is_candidate = device.is_vfio()
            || device.sriov.is_some()
            || device.mdev.is_some()
            || !device.mdev_types.is_empty();
        let is_new = !found.iter().filter_map(|t| t.device.as_ref()).any(|d| d.path == device.path);
        if is_candidate && is_new {
            found.push(Target { given: device.name.clone(), device: Some(device), node: None });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_recognised_and_completed() {
        for (text, full) in [
            ("3b:00.2", "0000:3b:00.2"),
            ("0000:3B:00.2", "0000:3b:00.2"),
            ("10000:01:00.0", "10000:01:00.0"),
        ] {
            assert_eq!(pci_address(text).as_deref(), Some(full));
        }
        for text in ["", ".", "3b:00", "3b:00.8", "3b:00.22", "b:00.2", "3b:0g.2", "1:3b:00.2"] {
            assert_eq!(pci_address(text), None, "{text}");
        }
        assert_eq!(pci_address("0:0000:3b:00.2"), None);
    }

    #[test]
    fn uuids_are_recognised() {
        assert!(is_uuid("6d747479-0000-4000-8000-00000000c0de"));
        assert!(is_uuid("6D747479-0000-4000-8000-00000000C0DE"));
        assert!(!is_uuid("6d747479-0000-4000-8000-00000000c0d"));
        assert!(!is_uuid("6d747479x0000-4000-8000-00000000c0de"));
        assert!(!is_uuid("gd747479-0000-4000-8000-00000000c0de"));
    }

    #[test]
    fn bridges_and_vfio_drivers_do_not_block_a_group() {
        for driver in ["vfio-pci", "mlx5_vfio_pci", "pcieport", "pci-stub"] {
            assert!(shares_group(driver), "{driver}");
        }
        assert!(!shares_group("e1000e"));
    }

    #[test]
    fn a_root_maps_names_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(root.name_of(&root.at("/sys/bus")), Path::new("/sys/bus"));
        assert_eq!(Root::new("/").at("/sys"), Path::new("/sys"));
    }
}
