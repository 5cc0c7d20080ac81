//! What a device is: learned from its fd and sysfs, carried in the stream, compared on the target.
//!
//! The identity guards against accidents (a stream for another kind of device), not against
//! somebody who writes a stream by hand: what the stream claims is not proof.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::alloc;
use crate::error::{Result, err};
use crate::transport::{Transport, fixed_text};
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
    /// Every bit that has a meaning.
    pub const KNOWN: u32 = (1 << 6) - 1;
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
    read_line(Path::new("/proc/sys/kernel/osrelease"))
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
        identity.driver = link_name(&path.join("driver"));
        identity.mdev_type = link_name(&path.join("mdev_type"));
    }
    let mut config = [0u8; 64];
    // The guest may have written to these registers; the IDs among them are read-only.
    if transport.region_read(uapi::PCI_CONFIG_REGION, 0, &mut config) == Ok(config.len()) {
        let word = |at: usize| match config.get(at..at + 2) {
            Some(&[lo, hi]) => u16::from_le_bytes([lo, hi]),
            _ => 0,
        };
        identity.pci = [word(0), word(2), word(0x2c), word(0x2e)];
        identity.pci_revision = config[8];
    }
    if let Some(told) = transport.identity() {
        let fields = [
            (&mut identity.bus, fixed_text(&told.bus)),
            (&mut identity.driver, fixed_text(&told.driver)),
            (&mut identity.mdev_type, fixed_text(&told.mdev_type)),
            (&mut identity.kernel_release, fixed_text(&told.kernel_release)),
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
    if !vendor_data.is_empty() {
        identity.vendor_data = vendor_data.to_vec();
    }
    tidy(&mut identity.bus, max_text::BUS);
    tidy(&mut identity.driver, max_text::DRIVER);
    tidy(&mut identity.mdev_type, max_text::MDEV_TYPE);
    tidy(&mut identity.kernel_release, max_text::KERNEL_RELEASE);
    identity
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

fn read_line(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
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
        let one = Identity { mdev_type: "mtty-1".into(), ..Identity::default() };
        let two = Identity { mdev_type: "mtty-2".into(), ..Identity::default() };
        assert!(one.accepts(&two, 0).is_err());
        one.accepts(&two, ignore::MDEV_TYPE).unwrap();
    }
}
