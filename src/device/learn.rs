// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds out what a device is: from its fd, from sysfs and from its transport.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::identity::{Identity, max_text};
use crate::sys;
use crate::transport::{DeviceFlags, Transport};
use crate::uapi;

/// Finds out what the device is.
pub(super) fn learn(
    transport: &mut dyn Transport,
    sysfs: Option<PathBuf>,
    vendor_data: &[u8],
) -> Identity {
    let mut identity = Identity { kernel_release: sys::kernel_release(), ..Identity::default() };
    let flags = transport.device_info().map_or(DeviceFlags::empty(), |info| info.flags);
    let buses = [
        (DeviceFlags::PCI, "pci"),
        (DeviceFlags::PLATFORM, "platform"),
        (DeviceFlags::CCW, "ccw"),
        (DeviceFlags::AP, "ap"),
    ];
    if let Some((_, bus)) = buses.iter().find(|(flag, _)| flags.contains(*flag)) {
        identity.bus = (*bus).to_owned();
    }
    if let Some(path) = sysfs.or_else(|| transport.sysfs()) {
        learn_from_sysfs(&mut identity, &path, Path::new(MODULES));
    }
    let told = transport.identity();
    // For other devices, the region with this number can be anything.
    let told_pci = told.as_ref().is_some_and(|told| told.bus == "pci");
    if flags.contains(DeviceFlags::PCI) || told_pci {
        learn_from_pci_config(&mut identity, transport);
    }
    if let Some(told) = told {
        take_over(&mut identity, told);
    }
    if !vendor_data.is_empty() {
        identity.vendor_data = vendor_data.to_vec();
    }
    for (text, longest) in [
        (&mut identity.bus, max_text::BUS),
        (&mut identity.driver, max_text::DRIVER),
        (&mut identity.mdev_type, max_text::MDEV_TYPE),
        (&mut identity.kernel_release, max_text::KERNEL_RELEASE),
        (&mut identity.vendor_type, max_text::VENDOR_TYPE),
        (&mut identity.driver_version, max_text::DRIVER_VERSION),
        (&mut identity.driver_srcversion, max_text::DRIVER_SRCVERSION),
        (&mut identity.firmware, max_text::FIRMWARE),
    ] {
        tidy(text, longest);
    }
    identity
}

/// What the device is called in sysfs. Several paths lead to its directory, and not all of them end
/// with its name: `/sys/class/vfio-dev/vfio0/device` does not.
pub(super) fn name_of(path: &Path) -> Option<String> {
    let whole = path.canonicalize();
    let name = whole.as_deref().unwrap_or(path).file_name()?;
    Some(name.to_string_lossy().into_owned())
}

/// Where vendors' drivers keep the type of a virtual function that has no mdev type, and which
/// vendor it is, which is also the name of the module that makes the state. NVIDIA's vGPUs since
/// Linux 6.8 are an example.
const VENDOR_TYPES: [(&str, &str); 1] = [("nvidia/current_vgpu_type", "nvidia")];

/// Where every module has a directory, also one that is built in, if it has anything to say.
const MODULES: &str = "/sys/module";

/// Attributes with the version of a device's firmware: in which folder of the device, or of the
/// physical function that it belongs to, each interface that the driver registers has what. The
/// others tell it through devlink and ethtool only, which take sockets.
const FIRMWARE: [(&str, &str); 2] = [("infiniband", "fw_ver"), ("nvme", "firmware_rev")];

/// What the device's directory says.
fn learn_from_sysfs(identity: &mut Identity, path: &Path, modules: &Path) {
    identity.driver = link_name(&path.join("driver"));
    identity.mdev_type = link_name(&path.join("mdev_type"));
    let module = module_of(path, &identity.driver, modules);
    identity.driver_version = attribute(&module.join("version"));
    for (file, vendor) in VENDOR_TYPES {
        let kind = attribute(&path.join(file));
        if kind.is_empty() {
            continue;
        }
        identity.vendor_type = format!("{vendor}-{kind}");
        if identity.driver_version.is_empty() {
            identity.driver_version = attribute(&modules.join(vendor).join("version"));
        }
    }
    identity.driver_srcversion = attribute(&module.join("srcversion"));
    let versions = [path.to_path_buf(), path.join("physfn")]
        .into_iter()
        .flat_map(|function| FIRMWARE.map(|(folder, file)| (function.join(folder), file)))
        .map(|(folder, file)| match first_entry(&folder) {
            Some(interface) => attribute(&interface.join(file)),
            None => String::new(),
        });
    identity.firmware = versions.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
}

/// The directory of the module that the driver is in.
fn module_of(path: &Path, driver: &str, modules: &Path) -> PathBuf {
    let linked = path.join("driver/module");
    // A built-in driver has no link to its module.
    if linked.exists() || driver.is_empty() || driver.starts_with('.') {
        return linked;
    }
    modules.join(driver.replace('-', "_"))
}

/// The most interfaces of a function that are looked at.
const MAX_INTERFACES: usize = 64;

/// The entry of a directory whose name comes first, so that every look finds the same one.
fn first_entry(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.take(MAX_INTERFACES);
    entries.filter_map(|entry| Some(entry.ok()?.path())).min()
}

/// The guest may have written to these registers; the IDs among them are read-only.
fn learn_from_pci_config(identity: &mut Identity, transport: &mut dyn Transport) {
    let mut config = [0u8; 64];
    if transport.region_read(uapi::PCI_CONFIG_REGION, 0, &mut config) != Ok(config.len()) {
        return;
    }
    let word = |at: usize| match config.get(at..at + 2) {
        Some(&[lo, hi]) => u16::from_le_bytes([lo, hi]),
        _ => 0,
    };
    identity.pci = [word(0), word(2), word(0x2c), word(0x2e)];
    identity.pci_revision = config[8];
}

/// What the transport knows takes precedence over what was found out.
fn take_over(identity: &mut Identity, told: Identity) {
    let fields = [
        (&mut identity.bus, told.bus),
        (&mut identity.driver, told.driver),
        (&mut identity.mdev_type, told.mdev_type),
        (&mut identity.kernel_release, told.kernel_release),
        (&mut identity.vendor_type, told.vendor_type),
        (&mut identity.driver_version, told.driver_version),
        (&mut identity.driver_srcversion, told.driver_srcversion),
        (&mut identity.firmware, told.firmware),
    ];
    for (field, text) in fields {
        if !text.is_empty() {
            *field = text;
        }
    }
    let [vendor, ..] = told.pci;
    if vendor != 0 {
        identity.pci = told.pci;
        identity.pci_revision = told.pci_revision;
    }
    identity.vendor_data = told.vendor_data;
}

/// The last part of a link's target, or nothing.
fn link_name(path: &Path) -> String {
    let target = std::fs::read_link(path).ok();
    target
        .as_deref()
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Turns a text into one that every reader of the stream accepts.
fn tidy(text: &mut String, longest: usize) {
    let mut end = 0;
    let mut out = String::new();
    for c in text.chars().map(|c| if c.is_control() { '?' } else { c }) {
        end += c.len_utf8();
        if end > longest {
            break;
        }
        out.push(c);
    }
    *text = out;
}

/// The longest attribute that is read, in bytes: no kernel has longer pages of 4 KiB.
const MAX_ATTRIBUTE: u64 = 4096;

/// The first line of a small file, or nothing.
fn attribute(path: &Path) -> String {
    let mut bytes = Vec::new();
    // What was read before an error is not the attribute.
    let read =
        std::fs::File::open(path).and_then(|file| file.take(MAX_ATTRIBUTE).read_to_end(&mut bytes));
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters_and_hold_no_control_characters() {
        for (text, expected) in [("abc", "abc"), ("a\nb", "a?b"), ("abcdé", "abcd"), ("", "")] {
            let mut text = text.to_owned();
            tidy(&mut text, 5);
            assert_eq!(text, expected);
        }
    }

    /// A directory like sysfs', which goes when this does.
    struct Sysfs(PathBuf);

    impl Sysfs {
        fn new(name: &str) -> Sysfs {
            let path =
                std::env::temp_dir().join(format!("vfiomig-learn-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(path.join("device")).unwrap();
            Sysfs(path)
        }

        fn put(&self, file: &str, text: &str) -> &Sysfs {
            let path = self.0.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
            self
        }

        fn link(&self, from: &str, to: &str) -> &Sysfs {
            std::os::unix::fs::symlink(self.0.join(to), self.0.join(from)).unwrap();
            self
        }

        fn learn(&self) -> Identity {
            let mut identity = Identity::default();
            learn_from_sysfs(&mut identity, &self.0.join("device"), &self.0.join("module"));
            identity
        }
    }

    impl Drop for Sysfs {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn a_device_has_one_name_whichever_path_leads_to_it() {
        let sysfs = Sysfs::new("name");
        sysfs.link("vfio0", "device");
        for path in ["device", "device/", "vfio0", "vfio0/.", "device/../vfio0"] {
            assert_eq!(name_of(&sysfs.0.join(path)).as_deref(), Some("device"), "{path}");
        }
        let hidden = Path::new("/nowhere/0000:3b:00.2");
        assert_eq!(name_of(hidden).as_deref(), Some("0000:3b:00.2"));
        assert_eq!(name_of(Path::new("/nowhere/..")), None);
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn a_vf_of_mlx5_has_the_firmware_of_its_physical_function() {
        let sysfs = Sysfs::new("mlx5");
        sysfs
            .put("drivers/mlx5_vfio_pci/bind", "")
            .put("modules/mlx5_vfio_pci/srcversion", "533BB7E5866E52F63B9ACCB\n")
            .put("pf/infiniband/mlx5_1/fw_ver", "28.0.0\n")
            .put("pf/infiniband/mlx5_0/fw_ver", "28.39.1002\n")
            .link("device/driver", "drivers/mlx5_vfio_pci")
            .link("drivers/mlx5_vfio_pci/module", "modules/mlx5_vfio_pci")
            .link("device/physfn", "pf");
        let expected = Identity {
            driver: "mlx5_vfio_pci".into(),
            driver_srcversion: "533BB7E5866E52F63B9ACCB".into(),
            firmware: "28.39.1002".into(),
            ..Identity::default()
        };
        assert_eq!(sysfs.learn(), expected);
        // What the function itself says comes first.
        sysfs.put("device/nvme/nvme3/firmware_rev", "3B2QGXA7\n");
        assert_eq!(sysfs.learn().firmware, "3B2QGXA7");
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn a_vf_of_nvidia_has_a_type_and_the_version_of_a_driver_that_may_be_built_in() {
        let sysfs = Sysfs::new("nvidia");
        sysfs
            .put("device/nvidia/current_vgpu_type", "1155\n")
            .put("drivers/nvidia-vgpu-vfio/bind", "")
            .put("module/nvidia_vgpu_vfio/version", "570.133.10\n")
            .put("module/nvidia_vgpu_vfio/srcversion", "0123456789ABCDEF0123456\n")
            .link("device/driver", "drivers/nvidia-vgpu-vfio");
        let expected = Identity {
            driver: "nvidia-vgpu-vfio".into(),
            vendor_type: "nvidia-1155".into(),
            driver_version: "570.133.10".into(),
            driver_srcversion: "0123456789ABCDEF0123456".into(),
            ..Identity::default()
        };
        assert_eq!(sysfs.learn(), expected);
        // A driver without a version stands before the vendor's own module.
        std::fs::remove_file(sysfs.0.join("module/nvidia_vgpu_vfio/version")).unwrap();
        assert_eq!(sysfs.learn().driver_version, "");
        sysfs.put("module/nvidia/version", "570.86.16\n");
        assert_eq!(sysfs.learn().driver_version, "570.86.16");
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn a_file_that_is_too_long_is_read_no_further_and_a_directory_is_no_attribute() {
        let sysfs = Sysfs::new("long");
        sysfs.put("long", &"x".repeat(100_000)).put("lines", "  one \ntwo\n").put("empty", "");
        let read = |name: &str| attribute(&sysfs.0.join(name));
        assert_eq!(read("long").len() as u64, MAX_ATTRIBUTE);
        assert_eq!(read("lines"), "one");
        for none in ["empty", "device", "missing"] {
            assert_eq!(read(none), "", "{none}");
        }
    }
}
