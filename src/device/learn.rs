// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds out what a device is: from its fd, from sysfs and from its transport.

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
        learn_from_sysfs(&mut identity, &path);
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
    ] {
        tidy(text, longest);
    }
    identity
}

/// Where vendors' drivers keep the type of a virtual function that has no mdev type, and which
/// vendor it is. NVIDIA's vGPUs since Linux 6.8 are an example.
const VENDOR_TYPES: [(&str, &str); 1] = [("nvidia/current_vgpu_type", "nvidia")];

/// What the device's directory says.
fn learn_from_sysfs(identity: &mut Identity, path: &Path) {
    identity.driver = link_name(&path.join("driver"));
    identity.mdev_type = link_name(&path.join("mdev_type"));
    for (file, vendor) in VENDOR_TYPES {
        let kind = attribute(&path.join(file));
        if !kind.is_empty() {
            identity.vendor_type = format!("{vendor}-{kind}");
        }
    }
    identity.driver_version = attribute(&path.join("driver/module/version"));
    let is_name = !identity.driver.is_empty() && !identity.driver.starts_with('.');
    if identity.driver_version.is_empty() && is_name {
        // A built-in driver has no link to its module.
        let module = identity.driver.replace('-', "_");
        identity.driver_version = attribute(&Path::new("/sys/module").join(module).join("version"));
    }
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

/// The first line of a small file, or nothing.
fn attribute(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
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
}
