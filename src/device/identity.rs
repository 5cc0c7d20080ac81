// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device is: learned from its fd and sysfs, carried in the stream, compared on the target.
//!
//! The identity guards against accidents (a stream for another kind of device), not against
//! somebody who writes a stream by hand: what the stream claims is not proof.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::alloc;
use crate::error::{Result, err};
use crate::transport::{Transport, fixed_text, vfiomig_identity};
use crate::uapi;

/// What a device is, as far as it is known. Empty texts and zeros mean "not known".
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// What kind of device the fd behaves as: `pci`, `platform`, `ccw`, `ap`.
    pub bus: String,
    /// Kernel driver bound to the device.
    pub driver: String,
    /// PCI vendor, device, subsystem vendor and subsystem device ID.
    pub pci: [u16; 4],
    /// PCI revision.
    pub pci_revision: u8,
    /// mdev type, for example `mtty-2`.
    pub mdev_type: String,
    /// Kernel release. Never compared.
    pub kernel_release: String,
    /// Migration flags. Never compared: pre-copy of the source asks nothing of the target.
    pub migration_flags: u64,
    /// Estimated size of the state in bytes. Never compared.
    pub state_size: u64,
    /// Opaque string of the caller; compared byte by byte.
    pub vendor_data: Vec<u8>,
    /// Type of a virtual function that its vendor's driver has cut out, where that is no mdev type: for
    /// example `nvidia-1155`.
    pub vendor_type: String,
    /// Version of the driver's module, where it has one. Drivers in the kernel's tree mostly have none.
    pub driver_version: String,
}

/// The longest vendor string, in bytes.
pub const MAX_VENDOR_DATA: usize = 256;

/// The longest texts, in bytes.
pub mod max_text {
    /// Of the bus.
    pub const BUS: usize = 15;
    /// Of the driver's name.
    pub const DRIVER: usize = 63;
    /// Of the mdev type.
    pub const MDEV_TYPE: usize = 63;
    /// Of the kernel's release.
    pub const KERNEL_RELEASE: usize = 71;
    /// Of the vendor's type.
    pub const VENDOR_TYPE: usize = 63;
    /// Of the driver's version.
    pub const DRIVER_VERSION: usize = 63;
}

/// Fields that a comparison may be told to pass over.
pub mod ignore {
    /// The driver's name.
    pub const DRIVER: u32 = 1 << 0;
    /// PCI subsystem vendor and device.
    pub const PCI_SUBSYSTEM: u32 = 1 << 1;
    /// PCI revision.
    pub const PCI_REVISION: u32 = 1 << 2;
    /// The mdev type.
    pub const MDEV_TYPE: u32 = 1 << 3;
    /// The vendor string.
    pub const VENDOR_DATA: u32 = 1 << 4;
    /// Everything.
    pub const ALL: u32 = 1 << 5;
    /// The vendor's type.
    pub const VENDOR_TYPE: u32 = 1 << 6;
    /// The driver's version.
    pub const DRIVER_VERSION: u32 = 1 << 7;
    /// Every bit that has a meaning.
    pub const KNOWN: u32 = (1 << 8) - 1;
}

impl Identity {
    /// Refuses a stream whose device is of another kind. A field counts where both sides know it.
    pub fn accepts(&self, source: &Identity, ignored: u32) -> Result<()> {
        if ignored & ignore::ALL != 0 {
            return Ok(());
        }
        let mut wrong = alloc::Text(String::new());
        let mut text = |bit: u32, name: &str, theirs: &str, ours: &str| {
            if ignored & bit == 0 && !theirs.is_empty() && !ours.is_empty() && theirs != ours {
                let _ = write!(wrong, ", {name} {theirs} (here {ours})");
            }
        };
        text(0, "bus", &source.bus, &self.bus);
        text(ignore::DRIVER, "driver", &source.driver, &self.driver);
        text(ignore::MDEV_TYPE, "mdev type", &source.mdev_type, &self.mdev_type);
        text(ignore::VENDOR_TYPE, "vendor's type", &source.vendor_type, &self.vendor_type);
        let (theirs, ours) = (&source.driver_version, &self.driver_version);
        text(ignore::DRIVER_VERSION, "driver version", theirs, ours);
        let hex = |id: &[u16; 2]| match id {
            [0, 0] => String::new(),
            [a, b] => format!("{a:04x}:{b:04x}"),
        };
        let parts = |id: &Identity| {
            let [vendor, device, sub_vendor, sub_device] = id.pci;
            (hex(&[vendor, device]), hex(&[sub_vendor, sub_device]))
        };
        let ((their_id, their_sub), (our_id, our_sub)) = (parts(source), parts(self));
        text(0, "PCI device", &their_id, &our_id);
        text(ignore::PCI_SUBSYSTEM, "PCI subsystem", &their_sub, &our_sub);
        let both_pci = !their_id.is_empty() && !our_id.is_empty();
        if both_pci
            && ignored & ignore::PCI_REVISION == 0
            && source.pci_revision != self.pci_revision
        {
            let (theirs, ours) = (source.pci_revision, self.pci_revision);
            let _ = write!(wrong, ", PCI revision {theirs:#x} (here {ours:#x})");
        }
        let (theirs, ours) = (&source.vendor_data, &self.vendor_data);
        let vendor_known = !theirs.is_empty() && !ours.is_empty();
        if vendor_known && ignored & ignore::VENDOR_DATA == 0 && theirs != ours {
            let (theirs, ours) = (theirs.escape_ascii(), ours.escape_ascii());
            let _ = write!(wrong, ", vendor string \"{theirs}\" (here \"{ours}\")");
        }
        match wrong.0.strip_prefix(", ") {
            None => Ok(()),
            Some(wrong) => Err(err!(OtherDevice, "the stream is of another device: {wrong}")),
        }
    }
}

/// The running kernel's release.
pub(super) fn kernel_release() -> String {
    attribute(Path::new("/proc/sys/kernel/osrelease"))
}

/// Learns what can be learned.
pub(super) fn learn(
    transport: &mut dyn Transport,
    sysfs: Option<PathBuf>,
    vendor_data: &[u8],
) -> Identity {
    let mut identity = Identity { kernel_release: kernel_release(), ..Identity::default() };
    let flags = transport.device_info().map_or(0, |info| info.flags);
    let buses = [
        (uapi::DEVICE_FLAGS_PCI, "pci"),
        (uapi::DEVICE_FLAGS_PLATFORM, "platform"),
        (uapi::DEVICE_FLAGS_CCW, "ccw"),
        (uapi::DEVICE_FLAGS_AP, "ap"),
    ];
    if let Some((_, bus)) = buses.iter().find(|(flag, _)| flags & flag != 0) {
        identity.bus = (*bus).to_owned();
    }
    if let Some(path) = sysfs.or_else(|| transport.sysfs()) {
        learn_from_sysfs(&mut identity, &path);
    }
    let told = transport.identity();
    // What other devices have as their region of this number is anything.
    let told_bus = told.as_deref().map(|told| fixed_text(&told.bus)).unwrap_or_default();
    if flags & uapi::DEVICE_FLAGS_PCI != 0 || told_bus == "pci" {
        learn_from_pci_config(&mut identity, transport);
    }
    if let Some(told) = told {
        take_over(&mut identity, &told);
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

/// Where vendors' drivers keep the type of a virtual function that has no mdev type, and whose it is.
/// NVIDIA's vGPUs since Linux 6.8 are such.
const VENDOR_TYPES: [(&str, &str); 1] = [("nvidia/current_vgpu_type", "nvidia")];

/// What the device's directory tells.
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
        // A driver that is built in has no link to its module.
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

/// What the transport knows by itself comes before what was found out.
fn take_over(identity: &mut Identity, told: &vfiomig_identity) {
    let fields = [
        (&mut identity.bus, fixed_text(&told.bus)),
        (&mut identity.driver, fixed_text(&told.driver)),
        (&mut identity.mdev_type, fixed_text(&told.mdev_type)),
        (&mut identity.kernel_release, fixed_text(&told.kernel_release)),
        (&mut identity.vendor_type, fixed_text(&told.vendor_type)),
        (&mut identity.driver_version, fixed_text(&told.driver_version)),
    ];
    for (field, text) in fields {
        if !text.is_empty() {
            *field = text;
        }
    }
    if told.pci_vendor != 0 {
        identity.pci = [
            told.pci_vendor,
            told.pci_device,
            told.pci_subsystem_vendor,
            told.pci_subsystem_device,
        ];
        identity.pci_revision = told.pci_revision;
    }
    let len = told.vendor_data_len as usize;
    identity.vendor_data = told.vendor_data.get(..len).unwrap_or_default().to_vec();
}

/// The last part of where a link points to, or nothing.
fn link_name(path: &Path) -> String {
    let target = std::fs::read_link(path).ok();
    target
        .as_deref()
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Makes a text one that every reader of the stream accepts.
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
    use crate::error::Code;

    fn vf() -> Identity {
        Identity {
            bus: "pci".into(),
            driver: "mlx5_vfio_pci".into(),
            pci: [0x15b3, 0x101e, 0x15b3, 0x0023],
            pci_revision: 0,
            vendor_data: b"fw 28.39".to_vec(),
            ..Identity::default()
        }
    }

    #[test]
    fn the_same_device_and_an_unknown_one_are_accepted() {
        vf().accepts(&vf(), 0).unwrap();
        vf().accepts(&Identity::default(), 0).unwrap();
        Identity::default().accepts(&vf(), 0).unwrap();
        let older = Identity { kernel_release: "6.1".into(), state_size: 1, ..vf() };
        vf().accepts(&older, 0).unwrap();
    }

    #[test]
    fn texts_are_cut_between_characters_and_hold_no_control_characters() {
        for (text, expected) in [("abc", "abc"), ("a\nb", "a?b"), ("abcdé", "abcd"), ("", "")] {
            let mut text = text.to_owned();
            tidy(&mut text, 5);
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn each_field_is_compared_and_can_be_passed_over() {
        let cases: [(Identity, u32, &str); 6] = [
            (Identity { driver: "vfio-pci".into(), ..vf() }, ignore::DRIVER, "driver"),
            (
                Identity { pci: [0x15b3, 0x101e, 0x15b3, 0x24], ..vf() },
                ignore::PCI_SUBSYSTEM,
                "subsystem",
            ),
            (Identity { pci_revision: 1, ..vf() }, ignore::PCI_REVISION, "revision"),
            (Identity { vendor_data: b"fw 1".to_vec(), ..vf() }, ignore::VENDOR_DATA, "fw 1"),
            (
                Identity { pci: [0x15b3, 0x1018, 0x15b3, 0x23], ..vf() },
                ignore::ALL,
                "15b3:1018 (here 15b3:101e)",
            ),
            (Identity { bus: "platform".into(), ..vf() }, ignore::ALL, "bus platform"),
        ];
        for (other, bit, text) in cases {
            let error = vf().accepts(&other, 0).unwrap_err();
            assert_eq!(error.code(), Code::OtherDevice);
            assert!(error.message().contains(text), "{}", error.message());
            vf().accepts(&other, bit).unwrap();
        }
        let old = Identity { vendor_type: "nvidia-1155".into(), ..vf() };
        let new = Identity { vendor_type: "nvidia-1159".into(), ..vf() };
        assert!(new.accepts(&old, 0).unwrap_err().message().contains("nvidia-1155"));
        new.accepts(&old, ignore::VENDOR_TYPE).unwrap();
        let old = Identity { driver_version: "550.90".into(), ..vf() };
        let new = Identity { driver_version: "570.133".into(), ..vf() };
        assert!(new.accepts(&old, 0).unwrap_err().message().contains("570.133"));
        new.accepts(&old, ignore::DRIVER_VERSION).unwrap();
        // A source of before, or of a driver that has no version.
        new.accepts(&vf(), 0).unwrap();
        let one = Identity { mdev_type: "mtty-1".into(), ..Identity::default() };
        let two = Identity { mdev_type: "mtty-2".into(), ..Identity::default() };
        assert!(one.accepts(&two, 0).is_err());
        one.accepts(&two, ignore::MDEV_TYPE).unwrap();
    }
}
