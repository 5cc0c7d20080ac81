// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device is: learned from its fd and sysfs (`device/learn.rs`), carried in the stream, and
//! compared on the target.
//!
//! The identity guards against accidents (a stream for another kind of device), not against someone
//! who writes a stream by hand: what the stream claims is not proof.

use std::fmt::Write as _;

use crate::alloc;
use crate::error::{Result, err};
use crate::flags::flags;
use crate::fsm::MigrationFlags;

/// What a device is, as far as it is known. Empty texts and zeros mean "not known".
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// The bus that the device behaves as, even if it is an mdev: `pci`, `platform`, `ccw` or `ap`.
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
    /// Migration flags. Never compared: the source's pre-copy requires nothing of the target.
    pub migration_flags: MigrationFlags,
    /// Estimated size of the state, in bytes. Never compared.
    pub state_size: u64,
    /// The caller's opaque string; compared byte by byte.
    pub vendor_data: Vec<u8>,
    /// The type of a virtual function that its vendor's driver has made, if that is not an mdev
    /// type: for example `nvidia-1155`.
    pub vendor_type: String,
    /// The version of the driver's module, if it has one. Most in-tree drivers have none.
    pub driver_version: String,
}

/// The longest vendor string, in bytes.
pub const MAX_VENDOR_DATA: usize = 256;

/// The longest texts, in bytes.
pub mod max_text {
    /// For the bus.
    pub const BUS: usize = 15;
    /// For the driver's name.
    pub const DRIVER: usize = 63;
    /// For the mdev type.
    pub const MDEV_TYPE: usize = 63;
    /// For the kernel's release.
    pub const KERNEL_RELEASE: usize = 71;
    /// For the vendor's type.
    pub const VENDOR_TYPE: usize = 63;
    /// For the driver's version.
    pub const DRIVER_VERSION: usize = 63;
}

flags! {
    /// Fields that a comparison is told to ignore.
    Ignore: u32 {
        /// The driver's name.
        DRIVER = 1 << 0;
        /// PCI subsystem vendor and device.
        PCI_SUBSYSTEM = 1 << 1;
        /// PCI revision.
        PCI_REVISION = 1 << 2;
        /// The mdev type.
        MDEV_TYPE = 1 << 3;
        /// The vendor string.
        VENDOR_DATA = 1 << 4;
        /// Everything, also the fields that have no flag here: the bus and the PCI device.
        EVERYTHING = 1 << 5;
        /// The vendor's type.
        VENDOR_TYPE = 1 << 6;
        /// The driver's version.
        DRIVER_VERSION = 1 << 7;
    }
}

impl Identity {
    /// Refuses a stream whose device is of another kind. A field is compared only if both sides
    /// know it.
    pub fn accepts(&self, source: &Identity, ignored: Ignore) -> Result<()> {
        if ignored.contains(Ignore::EVERYTHING) {
            return Ok(());
        }
        let mut wrong = alloc::Text(String::new());
        let mut text = |flag: Ignore, name: &str, theirs: &str, ours: &str| {
            if !ignored.contains(flag) && !theirs.is_empty() && !ours.is_empty() && theirs != ours {
                let _ = write!(wrong, ", {name} {theirs} (here {ours})");
            }
        };
        text(Ignore::EVERYTHING, "bus", &source.bus, &self.bus);
        text(Ignore::DRIVER, "driver", &source.driver, &self.driver);
        text(Ignore::MDEV_TYPE, "mdev type", &source.mdev_type, &self.mdev_type);
        text(Ignore::VENDOR_TYPE, "vendor's type", &source.vendor_type, &self.vendor_type);
        let (theirs, ours) = (&source.driver_version, &self.driver_version);
        text(Ignore::DRIVER_VERSION, "driver version", theirs, ours);
        let hex = |id: &[u16; 2]| match id {
            [0, 0] => String::new(),
            [a, b] => format!("{a:04x}:{b:04x}"),
        };
        let parts = |id: &Identity| {
            let [vendor, device, sub_vendor, sub_device] = id.pci;
            (hex(&[vendor, device]), hex(&[sub_vendor, sub_device]))
        };
        let ((their_id, their_sub), (our_id, our_sub)) = (parts(source), parts(self));
        text(Ignore::EVERYTHING, "PCI device", &their_id, &our_id);
        text(Ignore::PCI_SUBSYSTEM, "PCI subsystem", &their_sub, &our_sub);
        let both_pci = !their_id.is_empty() && !our_id.is_empty();
        if both_pci
            && !ignored.contains(Ignore::PCI_REVISION)
            && source.pci_revision != self.pci_revision
        {
            let (theirs, ours) = (source.pci_revision, self.pci_revision);
            let _ = write!(wrong, ", PCI revision {theirs:#x} (here {ours:#x})");
        }
        let (theirs, ours) = (&source.vendor_data, &self.vendor_data);
        let vendor_known = !theirs.is_empty() && !ours.is_empty();
        if vendor_known && !ignored.contains(Ignore::VENDOR_DATA) && theirs != ours {
            let (theirs, ours) = (theirs.escape_ascii(), ours.escape_ascii());
            let _ = write!(wrong, ", vendor string \"{theirs}\" (here \"{ours}\")");
        }
        match wrong.0.strip_prefix(", ") {
            None => Ok(()),
            Some(wrong) => Err(err!(OtherDevice, "the stream is of another device: {wrong}")),
        }
    }
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
        vf().accepts(&vf(), Ignore::empty()).unwrap();
        vf().accepts(&Identity::default(), Ignore::empty()).unwrap();
        Identity::default().accepts(&vf(), Ignore::empty()).unwrap();
        let older = Identity { kernel_release: "6.1".into(), state_size: 1, ..vf() };
        vf().accepts(&older, Ignore::empty()).unwrap();
    }

    #[test]
    fn each_field_is_compared_and_can_be_passed_over() {
        let cases: [(Identity, Ignore, &str); 6] = [
            (Identity { driver: "vfio-pci".into(), ..vf() }, Ignore::DRIVER, "driver"),
            (
                Identity { pci: [0x15b3, 0x101e, 0x15b3, 0x24], ..vf() },
                Ignore::PCI_SUBSYSTEM,
                "subsystem",
            ),
            (Identity { pci_revision: 1, ..vf() }, Ignore::PCI_REVISION, "revision"),
            (Identity { vendor_data: b"fw 1".to_vec(), ..vf() }, Ignore::VENDOR_DATA, "fw 1"),
            (
                Identity { pci: [0x15b3, 0x1018, 0x15b3, 0x23], ..vf() },
                Ignore::EVERYTHING,
                "15b3:1018 (here 15b3:101e)",
            ),
            (Identity { bus: "platform".into(), ..vf() }, Ignore::EVERYTHING, "bus platform"),
        ];
        for (other, flag, text) in cases {
            let error = vf().accepts(&other, Ignore::empty()).unwrap_err();
            assert_eq!(error.code(), Code::OtherDevice);
            assert!(error.message().contains(text), "{}", error.message());
            vf().accepts(&other, flag).unwrap();
        }
        let old = Identity { vendor_type: "nvidia-1155".into(), ..vf() };
        let new = Identity { vendor_type: "nvidia-1159".into(), ..vf() };
        assert!(new.accepts(&old, Ignore::empty()).unwrap_err().message().contains("nvidia-1155"));
        new.accepts(&old, Ignore::VENDOR_TYPE).unwrap();
        let old = Identity { driver_version: "550.90".into(), ..vf() };
        let new = Identity { driver_version: "570.133".into(), ..vf() };
        assert!(new.accepts(&old, Ignore::empty()).unwrap_err().message().contains("570.133"));
        new.accepts(&old, Ignore::DRIVER_VERSION).unwrap();
        // The source is older, or its driver has no version.
        new.accepts(&vf(), Ignore::empty()).unwrap();
        let one = Identity { mdev_type: "mtty-1".into(), ..Identity::default() };
        let two = Identity { mdev_type: "mtty-2".into(), ..Identity::default() };
        assert!(one.accepts(&two, Ignore::empty()).is_err());
        one.accepts(&two, Ignore::MDEV_TYPE).unwrap();
    }
}
